//! Retries by themselves: an execution that failed is run again as its job says, so often, so far apart, and for these kinds of
//! errors.
//!
//! A retry is a new attempt. While it is waited for, the row is queued, keeps its place in the stage, and counts as a failure for its
//! job's gate: the gate counts executions, and each of them once. Each attempt counts for the breaker.

use serde::{Deserialize, Serialize};
use sutler_base::{ClientId, Digest, JobId, Timestamp, state::ErrorKind};

/// How many retries a job can have at most.
pub const RETRIES_MAX: u32 = 20;
/// The shortest and the longest time before the first one (seconds).
pub const AFTER: std::ops::RangeInclusive<u32> = 1..=86_400;
/// How long before the first one unless a job says so (seconds).
pub const AFTER_DEFAULT: u32 = 600;
/// The longest time before any (seconds), before its jitter.
const LONGEST: u64 = 86_400;
/// By how much a time is longer at most than it would be: a fifth, so that machines that failed together do not come together.
const JITTER: u64 = 5;

/// The retries of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// How many there are of an execution.
    pub count: u32,
    /// How long after the failure the first one comes (seconds); the next ones each after twice as long as the one before, a day at
    /// the most.
    pub after_seconds: u32,
    /// For which errors; none: for all that [`by_default`] names.
    pub kinds: Vec<ErrorKind>,
}

/// Whether an error may be over by the next time: not where a rule said no, what came is not what was signed, or nobody knows how it
/// ended.
pub fn by_default(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(
        kind,
        Transfer
            | DataLoss
            | NoSpace
            | ClientIo
            | StepNotStarted
            | StepFailed
            | StepTimeout
            | NotDetected
            | StillDetected
            | AgentNotConnected
    )
}

impl Retries {
    /// Whether errors of this kind are tried again.
    pub fn mean(&self, kind: ErrorKind) -> bool {
        if self.kinds.is_empty() { by_default(kind) } else { self.kinds.contains(&kind) }
    }

    /// When an execution that failed now is to be run again, after so many retries; none if it is not.
    pub fn next(&self, kind: ErrorKind, used: u32, job: &JobId, client: &ClientId, now: Timestamp) -> Option<Timestamp> {
        if used >= self.count.min(RETRIES_MAX) || !self.mean(kind) {
            return None;
        }
        let after = u64::from(self.after_seconds).saturating_mul(1 << used.min(20)).min(LONGEST);
        let digest = Digest::of(format!("{job}/{client}/{used}").as_bytes());
        let random = u64::from(u16::from_be_bytes([digest.as_bytes()[0], digest.as_bytes()[1]]));
        let jitter = after.saturating_mul(1000) * random / u64::from(u16::MAX) / JITTER;
        now.checked_add(jiff::SignedDuration::from_millis((after * 1000 + jitter) as i64)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_may_be_over_is_tried_again_unless_it_is_named() {
        let (job, client) = (JobId::from_random([1; 16]), ClientId::from_random([2; 16]));
        let of = |kinds: Vec<ErrorKind>| Retries { count: 1, after_seconds: 60, kinds };
        let next = |retries: &Retries, kind, used| retries.next(kind, used, &job, &client, Timestamp::UNIX_EPOCH).is_some();
        let any = of(vec![]);
        assert!(next(&any, ErrorKind::StepFailed, 0) && !next(&any, ErrorKind::StepFailed, 1));
        assert!(!next(&any, ErrorKind::SignatureInvalid, 0) && !next(&any, ErrorKind::Interrupted, 0));
        let named = of(vec![ErrorKind::Interrupted]);
        assert!(next(&named, ErrorKind::Interrupted, 0) && !next(&named, ErrorKind::StepFailed, 0));
        assert!(ErrorKind::ALL.iter().all(|kind| !(kind.is_rejection() && by_default(*kind))));
    }

    proptest! {
        /// There are never more than were asked for, each comes later than the one before but for the longest, and none too late.
        #[test]
        fn retries_are_bounded_and_back_off(count in 0..40u32, after in 1..=86_400u32, seed in any::<[u8; 16]>()) {
            let (job, client) = (JobId::from_random(seed), ClientId::from_random(seed));
            let retries = Retries { count, after_seconds: after, kinds: vec![] };
            let waits: Vec<u64> = (0..60)
                .map_while(|used| retries.next(ErrorKind::Transfer, used, &job, &client, Timestamp::UNIX_EPOCH))
                .map(|at| at.as_millisecond() as u64)
                .collect();
            prop_assert_eq!(waits.len() as u32, count.min(RETRIES_MAX));
            for (n, wait) in waits.iter().enumerate() {
                let least = (u64::from(after) << n.min(20)).min(LONGEST) * 1000;
                prop_assert!((least..=least + least / JITTER).contains(wait), "{wait} after {n}");
            }
            // The same for every manager, and at every time.
            prop_assert_eq!(retries.next(ErrorKind::Transfer, 0, &job, &client, Timestamp::UNIX_EPOCH).map(|at| at.as_millisecond() as u64), waits.first().copied());
        }
    }
}
