//! What a package takes the place of goes in the course of that package's own installation: how, and what a failure says of it.

use super::record::{Course, Installing, Op, Plan};
use serde::{Deserialize, Serialize};
use sutler_base::{Digest, PackageName, Version, manifest::Phase, outcome::Failure, state::ExecutionState};

/// A package that is uninstalled in the course of another's installation, which takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Displaced {
    /// The package.
    pub package: PackageName,
    /// The version that is there.
    pub version: Version,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Where its steps begin among those of the plan.
    pub first_step: usize,
    /// Whether it has a directory whose tree goes.
    pub directory: bool,
    /// Whether it has detection rules.
    pub detection: bool,
}

impl Displaced {
    fn name(&self) -> String {
        format!("{} {}", self.package, self.version)
    }
}

/// How a package goes, once its steps have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Leaving {
    /// See [`Op::Remove`].
    Remove,
    /// See [`Op::VerifyGone`].
    VerifyGone,
    /// See [`Op::Forget`].
    Forget,
}

impl Plan {
    /// How the displaced package with this number is uninstalled.
    pub(super) fn displace(&self, number: usize) -> Vec<Op> {
        let old = &self.displaced[number];
        let end = self.displaced.get(number + 1).map_or(self.steps.len(), |next| next.first_step);
        let mut ops = self.steps_among(old.first_step..end, Phase::Uninstall);
        let ways = [(Leaving::Remove, old.directory), (Leaving::VerifyGone, old.detection), (Leaving::Forget, true)];
        ops.extend(ways.into_iter().filter(|(_, wanted)| *wanted).map(|(how, _)| Op::Displace(number, how)));
        ops
    }

    /// Whose step this is: the number of a displaced package, and that of the step in its manifest. None for the package itself.
    pub fn displaced_step(&self, step: usize) -> Option<(usize, usize)> {
        let number = self.displaced.iter().rposition(|old| old.first_step <= step)?;
        Some((number, step - self.displaced[number].first_step))
    }
}

impl Installing {
    /// From here on it goes back. What was displaced does not come back by that, which the failure says.
    pub fn turn_back(&mut self, mut failure: Failure, end: ExecutionState) {
        // Refused, or called off, before anything of it had run.
        let untouched = self.quiet && self.at == 0 && self.run == 0;
        if self.course == Course::Forward && !untouched {
            let (gone, going) = self.displacement();
            if let Some(old) = going {
                failure.message = format!("{}, whose place it takes, could not be uninstalled: {}", old.name(), failure.message);
            }
            if !gone.is_empty() {
                let names: Vec<_> = gone.iter().map(|old| old.name()).collect();
                failure.message = format!("{}; {}, whose place it takes, was uninstalled before", failure.message, names.join(" and "));
            }
            self.bereft = !gone.is_empty() || going.is_some();
        }
        self.at = 0;
        self.run = 0;
        self.course = Course::Back { failure, end };
    }

    /// What of the displaced packages is gone by now, and which one is on its way.
    fn displacement(&self) -> (Vec<&Displaced>, Option<&Displaced>) {
        let ops = self.plan.forward();
        let done = |number: usize| ops.iter().take(self.at).any(|op| *op == Op::Displace(number, Leaving::Forget));
        let gone = self.plan.displaced.iter().enumerate().filter(|(n, _)| done(*n)).map(|(_, old)| old).collect();
        let going = match ops.get(self.at) {
            Some(Op::Displace(number, _)) => self.plan.displaced.get(*number),
            Some(Op::Step(step)) => self.plan.displaced_step(*step).map(|(number, _)| &self.plan.displaced[number]),
            _ => None,
        };
        (gone, going)
    }
}
