//! How packages of the catalogue stand to each other: what a job installs besides what was asked for, in which order, and why.
//!
//! Four questions, each a pure function of the versions that were loaded. [`resolve`]: which versions does a job need? [`cycle`]: does
//! a version depend on itself through others? [`Catalogue::candidates`]: what would do for one dependency? [`plan()`]: what will
//! come of a job on one machine? Agents ask the same of what they have, by the same functions of
//! [`sutler_base::manifest::relations`]: what is not there in the end is refused by them, whatever a manager said.
//!
//! The rules:
//! - What was asked for is taken as it is, in its version; only what others need is chosen. The newest release in the range comes
//!   first; where the newest version of a package takes the place of another, it comes before that one.
//! - What others may still bring a range for is chosen after those; a choice that leads nowhere is taken back and the next one tried,
//!   up to a bound: the answer is the first that fits, the same for everybody who asks. An error tells of the first dead end, which
//!   is the one about the newest versions.
//! - A job has one list for all its clients, so nothing goes by a machine's platform; what is chosen must be able to run where the
//!   package runs that needs it. A client that has something else in the range keeps that: its agent skips what it doesn't need.
//! - Uninstalling asks for nothing else, and a package whose place was taken is not exchanged in jobs that order it.

mod machine;
mod plan;
mod search;

#[cfg(test)]
mod tests;

pub use machine::KnownMachine;
pub use plan::{Action, Planned, plan};
pub use search::{cycle, resolve};

use crate::model::PackageVersion;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    PackageName, limits,
    manifest::{Dependency, Platform, Present},
};

/// How many packages are looked at to find what others need: far more than a job may have.
pub const RELATED_MAX: usize = 256;
/// How many versions of each package are looked at: the newest.
pub const VERSIONS_MAX: u32 = 100;
/// How many choices are tried, and how many ways from one version to another.
const TRIES_MAX: usize = 1000;
const WAYS_MAX: usize = 20_000;

/// That a package of a job is there for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The package that depends on it.
    pub by: PackageName,
    /// What that one depends on: it, or what it takes the place of.
    #[serde(flatten)]
    pub on: Dependency,
}

/// A version that may be chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The version.
    pub version: PackageVersion,
    /// How it would stand to others on a machine.
    pub present: Present,
}

impl Candidate {
    /// `NAME@VERSION`
    pub fn name(&self) -> String {
        format!("{}@{}", self.version.name, self.version.version)
    }
}

impl From<PackageVersion> for Candidate {
    fn from(version: PackageVersion) -> Candidate {
        let present = version.present();
        Candidate { version, present }
    }
}

/// The versions that are known, by package, the newest release first.
#[derive(Debug, Clone, Default)]
pub struct Catalogue(BTreeMap<PackageName, Vec<Candidate>>);

impl Catalogue {
    /// Adds the versions of a package, the newest release first; none if there is none that counts. Their signed envelopes are not
    /// kept: nothing here asks for them, and a catalogue has so many versions that they would be more than all else.
    pub fn add(&mut self, package: PackageName, mut versions: Vec<PackageVersion>) {
        versions.iter_mut().for_each(|version| version.envelope = Vec::new());
        self.0.insert(package, versions.into_iter().map(Candidate::from).collect());
    }

    /// Takes versions out, as if they had never been there.
    pub fn without(mut self, gone: &[PackageVersion]) -> Catalogue {
        for versions in self.0.values_mut() {
            versions.retain(|c| gone.iter().all(|g| g.uid != c.version.uid));
        }
        self
    }

    /// How many packages are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the versions of this package are known.
    pub fn knows(&self, package: &PackageName) -> bool {
        self.0.contains_key(package)
    }

    /// The packages that known versions depend on.
    pub fn depended_on(&self) -> BTreeSet<PackageName> {
        let all = self.0.values().flatten().flat_map(|c| &c.version.terms.depends_on);
        all.map(|dependency| dependency.package.clone()).collect()
    }

    /// Which packages may be needed where a package is, through whichever of its versions, and through what takes its place.
    fn reach(&self) -> BTreeMap<&PackageName, BTreeSet<&PackageName>> {
        let mut next: BTreeMap<&PackageName, BTreeSet<&PackageName>> = BTreeMap::new();
        for (package, versions) in &self.0 {
            for terms in versions.iter().map(|c| &c.version.terms) {
                next.entry(package).or_default().extend(terms.depends_on.iter().map(|d| &d.package));
                for other in &terms.supersedes {
                    next.entry(&other.package).or_default().insert(package);
                }
            }
        }
        let mut reach = BTreeMap::new();
        for package in self.0.keys() {
            let (mut all, mut open) = (BTreeSet::new(), vec![package]);
            while let Some(at) = open.pop() {
                open.extend(next.get(at).into_iter().flatten().copied().filter(|to| all.insert(*to)));
            }
            reach.insert(package, all);
        }
        reach
    }

    /// What will do for a dependency of a package of this platform, the best first.
    pub fn candidates<'a, 'b>(&'a self, platform: &'b Platform, dependency: &'b Dependency) -> impl Iterator<Item = &'a Candidate> {
        let runs = move |c: &&Candidate| fits(platform, &c.version.terms.platform);
        let names_it = move |c: &&Candidate| c.present.supersedes.iter().any(|other| other.package == dependency.package);
        let instead = self.0.values().filter_map(move |versions| versions.iter().find(runs)).filter(names_it);
        let own = self.0.get(&dependency.package).into_iter().flatten().filter(runs);
        instead.chain(own).filter(|c| c.present.meets(dependency))
    }

    /// The versions of a package, for people.
    fn there(&self, package: &PackageName) -> String {
        match self.0.get(package).map(Vec::as_slice) {
            None | Some([]) => format!("no version of {package} can be installed"),
            Some(versions) => {
                let mut names: Vec<_> = versions.iter().take(5).map(|c| c.version.version.to_string()).collect();
                names.extend((versions.len() > 5).then(|| "…".to_owned()));
                format!("of {package} there is {}", names.join(", "))
            }
        }
    }
}

/// Whether one package may run where the other does, as far as that can be said of all machines.
fn fits(one: &Platform, other: &Platform) -> bool {
    let same = |a: &str, b: &str| a == b || a == "any" || b == "any";
    same(&one.os, &other.os) && same(&one.arch, &other.arch)
}

/// A package of a job, and why it is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The version.
    pub version: PackageVersion,
    /// For whom it is there; none if it was asked for.
    pub needed: Vec<Need>,
}

/// Why a job can't have what it needs, or a version can't be in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Nothing will do for a dependency.
    #[error(
        "{chain} depends on {dependency}, and nothing is there that will do: {there}; push a version in that range, or order another version"
    )]
    Missing {
        /// From what was asked for to the one that depends on it.
        chain: String,
        /// On what.
        dependency: Dependency,
        /// What there is.
        there: String,
    },
    /// What one needs and what is in the job already exclude each other.
    #[error("{chain} depends on {dependency}, but the job has {other}{why}; order versions that go together, or run two jobs")]
    Conflict {
        /// From what was asked for to the one that depends on it.
        chain: String,
        /// On what.
        dependency: Dependency,
        /// What is in the way.
        other: String,
        /// Why that is there.
        why: String,
    },
    /// Two packages were asked for, and one takes the place of the other.
    #[error("{one} takes the place of {other}: one job can't install both")]
    Displaced {
        /// The one.
        one: String,
        /// The other.
        other: String,
    },
    /// A version depends on itself through others.
    #[error(
        "{0} would be a cycle: none of them can be installed before the others; narrow a range of versions, or leave one dependency out"
    )]
    Cycle(String),
    /// The job would have too many packages.
    #[error(
        "with all that they depend on the job would have more than {} packages, the last one for {chain}; run several jobs",
        limits::JOB_PACKAGES_MAX
    )]
    TooMany {
        /// From what was asked for to the one that needs one more.
        chain: String,
    },
    /// More packages hang together than are looked at.
    #[error(
        "{package} is one of more than {RELATED_MAX} packages that depend on each other, and no more are looked at: a job has at most {}",
        limits::JOB_PACKAGES_MAX
    )]
    TooRelated {
        /// One of them.
        package: PackageName,
    },
}
