//! The circuit breaker: ends what only fails.
//!
//! Attempts to install a version are counted over all jobs, apart for each group that is a destination of the job and holds the client; for
//! a client that no group of the job holds, apart for the job itself. The breaker opens when
//!
//! - more than [`Rules::failures`] of the newest [`WINDOW`] attempts failed. By default that is half of them: a job's own gate stops much
//!   earlier, so that this is about what goes on over many jobs, or again and again in one.
//! - or within an hour more than [`Rules::attempts`] attempts failed and none succeeded. By default that is 20: as many as a job's first
//!   stage lets go, so that one mistake that its own gate stops at once needs no person to close a breaker, and anything on top of it does.
//! - or within an hour attempts that failed fetched more than [`Rules::bytes`] and none succeeded. By default that is 10 GiB, which is a
//!   quarter of an hour of a line of 100 Mbit/s.
//!
//! What failed is an attempt that ended as `FAILED` or `INTERRUPTED`; one where a rule said no, or that had nothing to do, says nothing
//! about the version. An open breaker holds back whatever would install the version there, until a person closes it; then it counts anew.

use crate::model::Target;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};
use sutler_base::{JobId, Timestamp, Uid};

/// Of how many of the newest attempts the failures count.
pub const WINDOW: usize = 50;
/// How long failures count that nothing follows that succeeded (minutes).
const HOUR: i64 = 60;

/// When a breaker opens. 0 takes a rule away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// So many of the newest [`WINDOW`] attempts may fail.
    pub failures: u32,
    /// So many attempts may fail within an hour in which none succeeds.
    pub attempts: u32,
    /// Attempts that fail may fetch so many bytes within an hour in which none succeeds.
    pub bytes: u64,
}

/// Of what attempts are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Those on the members of a group, of jobs that have it as a destination.
    Group(Uid),
    /// Those of one job on clients that no group of it holds.
    Job(JobId),
}

/// Under what the attempts of a job on a client count, if it is in these groups.
pub fn scopes(job: &JobId, targets: &[Target], groups: &BTreeSet<Uid>) -> Vec<Scope> {
    let held = targets.iter().filter_map(|target| match target {
        Target::Group(uid) if groups.contains(uid) => Some(Scope::Group(uid.clone())),
        _ => None,
    });
    let held: Vec<Scope> = held.collect();
    if held.is_empty() { vec![Scope::Job(job.clone())] } else { held }
}

/// How an attempt ended for a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// It failed, or nobody knows how it ended.
    pub failed: bool,
    /// What it fetched (bytes).
    pub bytes: u64,
}

/// What was counted. It is kept with the breaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// The newest attempts, the oldest first: `F` for one that failed, `S` for one that succeeded.
    pub newest: String,
    /// What failed since the last one that succeeded, by minute since 1970, for an hour: the minute, attempts, bytes.
    pub failing: Vec<(i64, u32, u64)>,
}

impl Counted {
    /// Counts how an attempt ended.
    pub fn count(&mut self, tried: Tried, now: Timestamp) {
        self.newest.push(if tried.failed { 'F' } else { 'S' });
        let surplus = self.newest.len().saturating_sub(WINDOW);
        self.newest.drain(..surplus);
        if !tried.failed {
            self.failing.clear();
            return;
        }
        let minute = now.as_second().div_euclid(60);
        self.failing.retain(|(at, ..)| *at > minute - HOUR);
        match self.failing.iter_mut().find(|(at, ..)| *at == minute) {
            Some((_, attempts, bytes)) => {
                *attempts = attempts.saturating_add(1);
                *bytes = bytes.saturating_add(tried.bytes);
            }
            None => self.failing.push((minute, 1, tried.bytes)),
        }
    }

    /// How many of the newest attempts failed.
    pub fn failures(&self) -> u32 {
        self.newest.bytes().filter(|b| *b == b'F').count() as u32
    }

    /// Why the breaker is to open, if it is.
    pub fn opens(&self, rules: &Rules) -> Option<String> {
        let (failures, of) = (self.failures(), self.newest.len());
        if rules.failures > 0 && failures > rules.failures {
            return Some(format!("{failures} of the newest {of} attempts failed, and {} may", rules.failures));
        }
        let attempts = self.failing.iter().fold(0u32, |sum, (_, n, _)| sum.saturating_add(*n));
        if rules.attempts > 0 && attempts > rules.attempts {
            return Some(format!("{attempts} attempts failed within an hour and none succeeded, and {} may", rules.attempts));
        }
        let bytes = self.failing.iter().fold(0u64, |sum, (.., n)| sum.saturating_add(*n));
        if rules.bytes > 0 && bytes > rules.bytes {
            let may = rules.bytes;
            return Some(format!("{bytes} bytes were fetched within an hour by attempts that failed and none succeeded, and {may} may be"));
        }
        None
    }
}

/// A breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// For ever.
    pub uid: Uid,
    /// The version whose attempts it counts.
    pub version: Uid,
    /// Which of them.
    pub scope: Scope,
    /// What it counted.
    pub counted: Counted,
    /// Since when it is open, and why; none: it is closed.
    pub opened: Option<(Timestamp, String)>,
}

impl fmt::Display for Breaker {
    /// Since when it is open, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.opened {
            Some((at, why)) => write!(f, "is open since {}: {why}", at.strftime("%Y-%m-%dT%H:%M:%SZ")),
            None => write!(f, "is closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { failures: 25, attempts: 20, bytes: 1000 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn counted(all: impl IntoIterator<Item = (bool, u64, i64)>) -> Counted {
        let mut counted = Counted::default();
        for (failed, bytes, second) in all {
            counted.count(Tried { failed, bytes }, at(second));
        }
        counted
    }

    #[test]
    fn the_first_stage_of_a_job_opens_no_breaker_and_one_more_does() {
        let all = |n: i64| counted((0..n).map(|s| (true, 0, s))).opens(&RULES);
        assert_eq!(all(20), None);
        assert!(all(21).unwrap().contains("21 attempts failed within an hour and none succeeded, and 20 may"));
        // A rule that was taken away says nothing.
        assert_eq!(counted((0..21).map(|s| (true, 0, s))).opens(&Rules { attempts: 0, ..RULES }), None);
        // Over hours they do not add up, and one that succeeded ends it.
        assert_eq!(counted((0..25).map(|n| (true, 0, n * 1800))).opens(&RULES), None);
        assert_eq!(counted((0..24).map(|n| (n != 12, 0, n))).opens(&RULES), None);
        assert!(counted((0..26).map(|n| (true, 0, n * 1800))).opens(&RULES).unwrap().contains("26 of the newest 26"));
        assert!(counted([(true, 600, 0), (true, 500, 9)]).opens(&RULES).unwrap().contains("1100 bytes"));
        assert_eq!(counted([(true, 600, 0), (true, 500, 3600)]).opens(&RULES), None);
    }

    #[test]
    fn attempts_count_for_the_groups_that_hold_the_client_and_else_for_the_job() {
        let uid = |n: u8| Uid::new(Timestamp::UNIX_EPOCH, [n; 16]);
        let job = JobId::from_random([1; 16]);
        let targets = [Target::Group(uid(1)), Target::Group(uid(2))];
        let of = |groups: &[u8]| scopes(&job, &targets, &groups.iter().map(|n| uid(*n)).collect());
        assert_eq!(of(&[2, 3]), [Scope::Group(uid(2))]);
        assert_eq!(of(&[1, 2]), [Scope::Group(uid(1)), Scope::Group(uid(2))]);
        assert_eq!(of(&[3]), [Scope::Job(job.clone())]);
    }

    proptest! {
        /// It opens exactly when what is promised of it holds, whatever came before, and keeps no more than it needs.
        #[test]
        fn a_breaker_opens_by_the_newest_attempts_and_the_last_hour_alone(
            all in prop::collection::vec((any::<bool>(), 0..200u64, 0..600i64), 1..200),
        ) {
            let mut second = 0;
            let all: Vec<_> = all.into_iter().map(|(failed, bytes, after)| {
                second += after;
                (failed, bytes, second)
            }).collect();
            let counted = counted(all.iter().copied());
            let newest = &all[all.len().saturating_sub(WINDOW)..];
            let failed = newest.iter().filter(|(failed, ..)| *failed).count() as u32;
            prop_assert_eq!(counted.failures(), failed);
            prop_assert!(counted.newest.len() <= WINDOW && counted.failing.len() <= HOUR as usize);
            let since = all.iter().rposition(|(failed, ..)| !failed).map_or(0, |n| n + 1);
            let minute = |second: i64| second.div_euclid(60);
            let last = minute(second);
            let dry: Vec<_> = all[since..].iter().filter(|(.., at)| minute(*at) > last - HOUR).collect();
            let (attempts, bytes) = (dry.len() as u32, dry.iter().map(|(_, bytes, _)| bytes).sum::<u64>());
            let opens = failed > RULES.failures || attempts > RULES.attempts || bytes > RULES.bytes;
            prop_assert_eq!(counted.opens(&RULES).is_some(), opens, "{:?}", counted);
        }
    }
}
