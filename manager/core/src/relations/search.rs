//! Looks for versions that go together, and for ways from a version to itself.

use super::{Candidate, Catalogue, Entry, Need, TRIES_MAX, Unresolved, WAYS_MAX};
use crate::model::PackageVersion;
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{PackageName, Uid, limits, manifest::Dependency};

/// What a job that asks for these versions installs, in its order: what is depended on before what depends on it, else as asked.
///
/// `catalogue` knows every package that can be reached from these through dependencies, and those that take a place of one.
pub fn resolve(catalogue: &Catalogue, asked: &[PackageVersion]) -> Result<Vec<Entry>, Unresolved> {
    let asked: Vec<Candidate> = asked.iter().cloned().map(Candidate::from).collect();
    for one in &asked {
        if let Some(other) = asked.iter().find(|other| one.present.displaces(&other.present).is_some()) {
            return Err(Unresolved::Displaced { one: one.name(), other: other.name() });
        }
    }
    let chosen = asked.iter().map(|candidate| Chosen { candidate, for_: None }).collect();
    let mut search = Search { catalogue, reach: catalogue.reach(), chosen, tries: 0, dead_end: None };
    let found = search.complete();
    match search.dead_end.take() {
        Some(why) if !found => Err(why),
        _ => search.in_order(asked.len()),
    }
}

/// A version that is in the job, as it stands so far.
#[derive(Clone, Copy)]
struct Chosen<'a> {
    candidate: &'a Candidate,
    /// The number of the one that it was chosen for; none if it was asked for.
    for_: Option<usize>,
}

struct Search<'a> {
    catalogue: &'a Catalogue,
    /// Which packages may come after a package, whichever of its versions is taken.
    reach: BTreeMap<&'a PackageName, BTreeSet<&'a PackageName>>,
    chosen: Vec<Chosen<'a>>,
    tries: usize,
    /// The first one: it is about the newest versions.
    dead_end: Option<Unresolved>,
}

impl<'a> Search<'a> {
    /// Chooses what is missing, one after the other. False, with everything as it was, if there is no way, or none within the bound.
    fn complete(&mut self) -> bool {
        let unmet = self.unmet();
        let Some((by, dependency)) = self.next(&unmet) else { return true };
        let all: Vec<&Dependency> = unmet.iter().map(|(_, d)| *d).filter(|d| d.package == dependency.package).collect();
        let platform = &self.chosen[by].candidate.version.terms.platform;
        let mut candidates: Vec<&Candidate> = self.catalogue.candidates(platform, dependency).collect();
        // One that will do for all who wait for it comes before one that will do for this one.
        candidates.sort_by_key(|c| !all.iter().all(|d| c.present.meets(d)));
        if candidates.is_empty() {
            let there = self.catalogue.there(&dependency.package);
            self.note(|s| Unresolved::Missing { chain: s.chain(by), dependency: dependency.clone(), there });
        }
        for next in candidates {
            self.tries += 1;
            if let Some(other) = self.chosen.iter().position(|chosen| excludes(chosen.candidate, next)) {
                self.note(|s| Unresolved::Conflict {
                    chain: s.chain(by),
                    dependency: dependency.clone(),
                    other: s.chosen[other].candidate.name(),
                    why: s.why(other),
                });
                continue;
            }
            if self.chosen.len() == limits::JOB_PACKAGES_MAX {
                self.note(|s| Unresolved::TooMany { chain: s.chain(by) });
                continue;
            }
            self.chosen.push(Chosen { candidate: next, for_: Some(by) });
            if self.complete() {
                return true;
            }
            self.chosen.pop();
            if self.tries > TRIES_MAX {
                return false;
            }
        }
        false
    }

    /// The dependencies that nothing chosen will do for, with the number of the one that has it.
    fn unmet(&self) -> Vec<(usize, &'a Dependency)> {
        let all = self.chosen.iter().enumerate().flat_map(|(n, one)| one.candidate.version.terms.depends_on.iter().map(move |d| (n, d)));
        all.filter(|(_, dependency)| self.met_by(dependency).is_none()).collect()
    }

    /// The one to choose for next: a package that no other of these may still bring a range for, so that all ranges are known.
    fn next(&self, unmet: &[(usize, &'a Dependency)]) -> Option<(usize, &'a Dependency)> {
        let follows = |one: &PackageName, other: &PackageName| one != other && self.reach.get(other).is_some_and(|all| all.contains(one));
        let last = |(_, d): &&(usize, &'a Dependency)| !unmet.iter().any(|(_, other)| follows(&d.package, &other.package));
        unmet.iter().find(last).or(unmet.first()).copied()
    }

    fn note(&mut self, dead_end: impl FnOnce(&Self) -> Unresolved) {
        if self.dead_end.is_none() {
            self.dead_end = Some(dead_end(self));
        }
    }

    /// The number of what is chosen and will do for a dependency: the package itself before what takes its place.
    fn met_by(&self, dependency: &Dependency) -> Option<usize> {
        let meeting = |itself: bool| {
            let is_it = move |c: &&Candidate| (c.version.name == dependency.package) == itself && c.present.meets(dependency);
            self.chosen.iter().position(|chosen| is_it(&chosen.candidate))
        };
        meeting(true).or_else(|| meeting(false))
    }

    /// From what was asked for to this one.
    fn chain(&self, number: usize) -> String {
        let mut names = vec![self.chosen[number].candidate.name()];
        let mut at = number;
        while let Some(above) = self.chosen[at].for_ {
            names.push(self.chosen[above].candidate.name());
            at = above;
        }
        names.reverse();
        names.join(" → ")
    }

    fn why(&self, number: usize) -> String {
        match self.chosen[number].for_ {
            None => ", which was asked for".into(),
            Some(by) => {
                let by = self.chosen[by].candidate;
                let on = by.version.terms.depends_on.iter().find(|d| self.chosen[number].candidate.present.meets(d));
                on.map(|on| format!(", for {} depends on {on}", by.name())).unwrap_or_default()
            }
        }
    }

    /// What is chosen, what is depended on first. The first `asked` were asked for.
    fn in_order(&self, asked: usize) -> Result<Vec<Entry>, Unresolved> {
        let mut order = Vec::new();
        for number in 0..asked {
            self.visit(number, &mut Vec::new(), &mut order)?;
        }
        let entry = |number: usize| {
            let mut needed = Vec::new();
            for by in self.chosen.iter().filter(|_| number >= asked) {
                let of_it = by.candidate.version.terms.depends_on.iter().filter(|d| self.met_by(d) == Some(number));
                needed.extend(of_it.map(|on| Need { by: by.candidate.version.name.clone(), on: on.clone() }));
            }
            Entry { version: self.chosen[number].candidate.version.clone(), needed }
        };
        Ok(order.into_iter().map(entry).collect())
    }

    fn visit(&self, number: usize, path: &mut Vec<usize>, order: &mut Vec<usize>) -> Result<(), Unresolved> {
        if order.contains(&number) {
            return Ok(());
        }
        path.push(number);
        for dependency in &self.chosen[number].candidate.version.terms.depends_on {
            let Some(next) = self.met_by(dependency) else { continue };
            if let Some(from) = path.iter().position(|at| *at == next) {
                let names = path[from..].iter().chain([&next]).map(|at| self.chosen[*at].candidate.name());
                return Err(Unresolved::Cycle(names.collect::<Vec<_>>().join(" → ")));
            }
            self.visit(next, path, order)?;
        }
        path.pop();
        order.push(number);
        Ok(())
    }
}

/// Whether two versions can't be in one job.
fn excludes(one: &Candidate, other: &Candidate) -> bool {
    one.version.name == other.version.name
        || one.present.displaces(&other.present).is_some()
        || other.present.displaces(&one.present).is_some()
}

/// Whether some choice of versions, all of them in the ranges that are said, would make `version` depend on itself: then the way there.
///
/// A choice that nobody would make counts, too: which version is the newest one changes with every push.
pub fn cycle(catalogue: &Catalogue, version: &PackageVersion) -> Result<(), Unresolved> {
    let start = Candidate::from(version.clone());
    let mut seen: BTreeSet<&Uid> = BTreeSet::new();
    let mut path = vec![(start.name(), ways(catalogue, &start).into_iter())];
    let mut tried = 0;
    while let Some((_, next)) = path.last_mut() {
        let Some(to) = next.next() else {
            path.pop();
            continue;
        };
        if to.version.uid == version.uid {
            let names = path.iter().map(|(name, _)| name.clone()).chain([start.name()]);
            return Err(Unresolved::Cycle(names.collect::<Vec<_>>().join(" → ")));
        }
        if !seen.insert(&to.version.uid) {
            continue;
        }
        tried += 1 + to.version.terms.depends_on.len();
        if tried > WAYS_MAX {
            return Err(Unresolved::TooRelated { package: version.name.clone() });
        }
        path.push((to.name(), ways(catalogue, to).into_iter()));
    }
    Ok(())
}

/// Everything that would do for something that this version depends on.
fn ways<'a>(catalogue: &'a Catalogue, from: &Candidate) -> Vec<&'a Candidate> {
    let terms = &from.version.terms;
    terms.depends_on.iter().flat_map(|dependency| catalogue.candidates(&terms.platform, dependency)).collect()
}
