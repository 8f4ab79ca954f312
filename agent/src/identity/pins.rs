//! How far back a package may go on this machine, and whose signatures count.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use sutler_base::{Digest, PackageName};

/// What a machine has had of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The highest release that was ever installed.
    pub highest: u64,
    /// The release that was installed last.
    pub current: u64,
    /// The lowest release that may be installed: the one that the highest had replaced.
    pub lowest: u64,
}

/// The pins of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pins {
    /// The digest of the publishers' trust document; none where packages aren't signed.
    pub trust: Option<Digest>,
    /// That document, signed (JSON), where it took the place of the one of the enrolment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// The newest revocation list, signed (JSON).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocations: Option<String>,
    /// Per package, what was installed.
    #[serde(default)]
    pub marks: BTreeMap<PackageName, Mark>,
}

impl Pins {
    /// A release was installed. The mark only ever rises: one step back from the highest, no more. Where the highest had
    /// replaced nothing there is no step to go back, and the mark is the release itself.
    pub fn installed(&mut self, package: &PackageName, release: u64) {
        let mark = self.marks.entry(package.clone()).or_insert(Mark { highest: release, current: release, lowest: release });
        if release > mark.highest {
            mark.lowest = mark.lowest.max(mark.current);
            mark.highest = release;
        }
        mark.current = release;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_goes_one_step_back_and_no_more() {
        let name: PackageName = "clamav".parse().unwrap();
        let mut pins = Pins::default();
        let lowest = |pins: &Pins| pins.marks[&name].lowest;
        pins.installed(&name, 5);
        assert_eq!(lowest(&pins), 5, "what replaced nothing can't be gone back from");
        pins.installed(&name, 6);
        assert_eq!(lowest(&pins), 5);
        pins.installed(&name, 7);
        assert_eq!(lowest(&pins), 6);
        // Back, and the same again: nothing changes.
        pins.installed(&name, 6);
        pins.installed(&name, 6);
        assert_eq!(lowest(&pins), 6);
        // From 6 to 8: 6 was replaced, 7 is above it.
        pins.installed(&name, 8);
        assert_eq!(lowest(&pins), 6);
        pins.installed(&name, 9);
        assert_eq!(lowest(&pins), 8);
    }
}
