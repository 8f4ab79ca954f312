//! Changes that wait for a second person.

use crate::planned::Pinned;
use std::{collections::BTreeMap, time::Duration};
use sutler_base::{Digest, JobId, Timestamp, Uid, state::ApprovalState};

/// A change that somebody ordered and that waits, or waited, for somebody else to agree; without what was sent, which may be large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// For ever.
    pub id: Uid,
    /// Where it is.
    pub state: ApprovalState,
    /// Who ordered it: `operators/NAME`.
    pub requester: String,
    /// The method that was called.
    pub method: String,
    /// One sentence: what it does.
    pub what: String,
    /// The job that it is about, if it is about one.
    pub job: Option<JobId>,
    /// Stands for what it does, what that was done to, and what the requester might do.
    pub fingerprint: Digest,
    /// How many clients it reached when it was ordered.
    pub clients: u64,
    /// Of how many.
    pub fleet: u64,
    /// By which jobs, and how many clients each reached.
    pub jobs: BTreeMap<JobId, u64>,
    /// When it was ordered.
    pub created: Timestamp,
    /// Until when somebody can agree.
    pub expires: Timestamp,
    /// When it was decided.
    pub decided: Option<Timestamp>,
    /// By whom.
    pub decider: String,
    /// Why it was rejected.
    pub reason: String,
    /// The plan by which the job was run that waits.
    pub plan: Option<Uid>,
    /// The versions of the jobs that it reaches clients by, each once and in order: what is agreed to is what is done.
    pub packages: Vec<Pinned>,
}

impl Approval {
    /// Stands for what somebody sees who is to agree: what was ordered, what that is done to, and whom it reaches by which jobs.
    pub fn etag(&self) -> String {
        let seen = (&self.id, self.state, &self.fingerprint, &self.what, &self.job, &self.plan, &self.packages);
        let reached = (self.clients, self.fleet, &self.jobs, self.created, self.expires);
        Digest::of(format!("{seen:?}\n{reached:?}").as_bytes()).to_string()
    }
}

/// Since when somebody can be a second person.
///
/// Whoever takes over an administrator could make a second person of himself: an operator, a role, or a certificate in the place of
/// somebody else's. And could take away those because of whom a change has to wait. Neither helps at once: for a while nobody is a second
/// person who was just put there, and everybody counts who was one until just now. Meanwhile others can see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voice {
    /// When somebody else last made it what it is: made it, gave it roles, or a certificate. Not for whom the manager's host made.
    pub given: Option<Timestamp>,
    /// Since when it can agree to anything; none if it never could.
    pub since: Option<Timestamp>,
    /// Until when it could; none if it can.
    pub until: Option<Timestamp>,
}

impl Voice {
    /// What it is after it was given what it may do, at this time.
    pub fn given(mut self, may_agree: bool, now: Timestamp, rest: Duration) -> Voice {
        // Noted by a clock that was ahead: it would neither count nor cease to for as long.
        (self.since, self.until) = (self.since.map(|at| at.min(now)), self.until.map(|at| at.min(now)));
        let was_lately = self.until.is_none_or(|until| ends(until, rest) > now);
        let (since, until) = match (may_agree, self.since) {
            // Who was taken away and is put back was there all the time.
            (true, Some(since)) if was_lately => (Some(since), None),
            (true, _) => (Some(now), None),
            (false, since) => (since, since.map(|_| self.until.unwrap_or(now))),
        };
        Voice { given: Some(now), since, until }
    }

    /// Until when it agrees to nothing yet.
    pub fn rests_until(&self, now: Timestamp, rest: Duration) -> Option<Timestamp> {
        self.given.map(|given| ends(given, rest)).filter(|end| *end > now)
    }

    /// Whether it is one of those because of whom a change waits.
    pub fn counts(&self, now: Timestamp, rest: Duration) -> bool {
        self.since.is_some_and(|since| ends(since, rest) <= now) && self.until.is_none_or(|until| ends(until.min(now), rest) > now)
    }
}

fn ends(from: Timestamp, rest: Duration) -> Timestamp {
    from.checked_add(rest).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_a_second_person_at_once_and_nobody_ceases_to_count_at_once() {
        let (at, rest) = (|second| Timestamp::from_second(second).unwrap(), Duration::from_secs(100));
        let made = Voice::default().given(true, at(1000), rest);
        assert_eq!((made.rests_until(at(1099), rest), made.rests_until(at(1100), rest)), (Some(at(1100)), None));
        assert!(!made.counts(at(1099), rest) && made.counts(at(1100), rest));
        // Taken away it counts for a while, and put back it never was away; but it agrees to nothing.
        let gone = made.clone().given(false, at(2000), rest);
        assert!(gone.counts(at(2099), rest) && !gone.counts(at(2100), rest));
        let still_gone = gone.clone().given(false, at(2090), rest);
        assert!(!still_gone.counts(at(2100), rest), "it is not gone anew");
        let back = gone.clone().given(true, at(2050), rest);
        assert!(back.counts(at(2051), rest) && back.rests_until(at(2051), rest) == Some(at(2150)));
        let late = gone.given(true, at(2200), rest);
        assert!(!late.counts(at(2299), rest) && late.counts(at(2300), rest));
        let never = Voice::default().given(false, at(1000), rest);
        assert!(!never.counts(at(5000), rest) && never.since.is_none());
        let without = Duration::ZERO;
        let made = Voice::default().given(true, at(1000), without);
        assert!(made.counts(at(1000), without) && made.rests_until(at(1000), without).is_none());
        assert!(!made.given(false, at(1000), without).counts(at(1000), without));
    }
}
