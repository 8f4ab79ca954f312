//! The kill switch: what an operator stopped starts nowhere until it is resumed.

use super::Work;
use std::fmt;
use sutler_base::{PackageName, Timestamp, Uid, Version, state::Intent};

/// How many stops there may be at once: who needs more stops everything.
pub const STOPS_MAX: usize = 100;
/// The longest reason (bytes).
pub const REASON_MAX: usize = 500;

/// What is stopped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stopped {
    /// Everything.
    Everything,
    /// Whatever would be done on members of this group.
    Group(Uid),
    /// Whatever would be done with this package, whichever version: also that it is uninstalled for another one that takes its place.
    Package(PackageName),
    /// That this version is installed. It may be taken off, and another one put in its place: that is how one gets rid of it.
    Version(PackageName, Version),
}

/// That something is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// What.
    pub what: Stopped,
    /// Why, for people.
    pub reason: String,
    /// Who stopped it.
    pub creator: String,
    /// Since when.
    pub since: Timestamp,
}

impl Stop {
    /// Whether this work may not start.
    pub fn covers(&self, work: &Work<'_>) -> bool {
        match &self.what {
            Stopped::Everything => true,
            Stopped::Group(uid) => work.groups.contains(uid),
            Stopped::Package(name) => work.packages.iter().any(|p| p.package == *name),
            Stopped::Version(name, version) => {
                let text = version.to_string();
                work.packages.iter().any(|p| p.intent == Intent::Install && p.package == *name && p.version == text)
            }
        }
    }
}

/// The first of these stops that covers the work, the widest before the others.
pub fn first<'a>(stops: &'a [Stop], work: &Work<'_>) -> Option<&'a Stop> {
    stops.iter().filter(|stop| stop.covers(work)).min_by(|a, b| a.what.cmp(&b.what))
}

impl fmt::Display for Stop {
    /// Who stopped it, since when and why, without what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stopped it at {}: {}", self.creator, self.since.strftime("%Y-%m-%dT%H:%M:%SZ"), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Touched, *};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn uid(n: u8) -> Uid {
        Uid::new(Timestamp::UNIX_EPOCH, [n; 16])
    }

    fn stop(what: Stopped) -> Stop {
        Stop { what, reason: "because".into(), creator: "operators/ann".into(), since: Timestamp::UNIX_EPOCH }
    }

    fn touched(name: &str, version: &str, intent: Intent) -> Touched {
        Touched { package: name.parse().unwrap(), uid: None, version: version.into(), intent }
    }

    fn any_stopped() -> impl Strategy<Value = Stopped> {
        let name = || prop::sample::select(vec!["a", "b"]).prop_map(|n| n.parse::<PackageName>().unwrap());
        prop_oneof![
            Just(Stopped::Everything),
            (0..3u8).prop_map(|n| Stopped::Group(uid(n))),
            name().prop_map(Stopped::Package),
            (name(), 1..3u8).prop_map(|(n, v)| Stopped::Version(n, v.to_string().parse().unwrap())),
        ]
    }

    #[test]
    fn a_version_that_is_stopped_can_be_taken_off_and_replaced_and_a_package_cannot() {
        let groups = BTreeSet::from([uid(1)]);
        let covers = |what: &Stopped, packages: &[Touched]| stop(what.clone()).covers(&Work { groups: &groups, packages });
        let version = Stopped::Version("a".parse().unwrap(), "2".parse().unwrap());
        assert!(covers(&version, &[touched("b", "1", Intent::Install), touched("a", "2", Intent::Install)]));
        assert!(!covers(&version, &[touched("a", "2", Intent::Uninstall)]));
        assert!(!covers(&version, &[touched("a", "1", Intent::Install)]));
        let package = Stopped::Package("a".parse().unwrap());
        assert!(covers(&package, &[touched("a", "2", Intent::Uninstall)]));
        assert!(!covers(&package, &[touched("b", "2", Intent::Install)]));
        assert!(covers(&Stopped::Group(uid(1)), &[]) && !covers(&Stopped::Group(uid(2)), &[]));
    }

    proptest! {
        /// A stop more never lets anything go, and what is named is one that covers it.
        #[test]
        fn more_stops_never_let_go_more(
            stops in prop::collection::vec(any_stopped(), 0..6),
            more in any_stopped(),
            groups in prop::collection::btree_set(0..3u8, 0..3),
            versions in prop::collection::vec((prop::sample::select(vec!["a", "b"]), 1..3u8, any::<bool>()), 0..3),
        ) {
            let groups: BTreeSet<Uid> = groups.into_iter().map(uid).collect();
            let of = |install| if install { Intent::Install } else { Intent::Uninstall };
            let packages: Vec<Touched> = versions.into_iter().map(|(n, v, i)| touched(n, &v.to_string(), of(i))).collect();
            let work = Work { groups: &groups, packages: &packages };
            let mut all: Vec<Stop> = stops.into_iter().map(stop).collect();
            let before = first(&all, &work).cloned();
            prop_assert_eq!(before.is_some(), all.iter().any(|s| s.covers(&work)));
            prop_assert!(before.as_ref().is_none_or(|s| s.covers(&work)));
            all.push(stop(more));
            prop_assert!(before.is_none() || first(&all, &work).is_some());
            all.push(stop(Stopped::Everything));
            prop_assert_eq!(first(&all, &work).map(|s| &s.what), Some(&Stopped::Everything));
        }
    }
}
