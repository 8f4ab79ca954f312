//! Whether every lease that was given before a deadline was set has run out by now, although clocks step.
//!
//! A cancellation of a machine that is cut off is final at a time that stands in the database, by the clock that all managers
//! have in common: PostgreSQL's, or the system's where there is one manager with a database of its own. The lease itself runs
//! on the machine's own clock, which never steps. So a common clock that was set ahead, or was wrong when the cancellation was
//! asked for, would make it final while the machine may still begin. Therefore no lease counts as over before this process has
//! seen a whole lease pass on a clock that does not step, since it started and since the common clock was last set ahead.

use std::time::Duration;
use sutler_base::Timestamp;

/// How far ahead the common clock may get before it counts as set: less than the margin of a cancellation's deadline.
pub(super) const SLACK: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);

/// Since when the common clock has gone evenly.
#[derive(Debug)]
pub(super) struct Even {
    since: Duration,
    /// How far ahead it may get before it counts as set.
    slack: jiff::SignedDuration,
    /// A moment on both clocks.
    at: (Timestamp, Duration),
}

impl Even {
    /// Nothing is known of what was before `wall` and `steady`, which are now.
    pub(super) fn new(slack: jiff::SignedDuration, wall: Timestamp, steady: Duration) -> Even {
        Even { since: steady, slack, at: (wall, steady) }
    }

    /// Looks at both clocks. For how long the common one was not set ahead.
    pub(super) fn look(&mut self, wall: Timestamp, steady: Duration) -> Duration {
        let passed = steady.saturating_sub(self.at.1);
        let ahead = wall.duration_since(self.at.0) - jiff::SignedDuration::try_from(passed).unwrap_or(jiff::SignedDuration::MAX);
        if ahead > self.slack {
            *self = Even::new(self.slack, wall, steady);
        } else if ahead.is_negative() {
            // Set back: deadlines come later, and setting it right again is one more step ahead.
            self.at = (wall, steady);
        }
        steady.saturating_sub(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known after each of these moments, as seconds of the common clock and of the steady one.
    fn known(moments: &[(i64, u64)]) -> Vec<u64> {
        let (wall, steady) = (Timestamp::from_second(1_000_000).unwrap(), Duration::from_secs(77));
        let at = |(w, s): (i64, u64)| (wall + jiff::SignedDuration::from_secs(w), steady + Duration::from_secs(s));
        let mut even = Even::new(SLACK, wall, steady);
        moments.iter().map(|moment| at(*moment)).map(|(w, s)| even.look(w, s).as_secs()).collect()
    }

    #[test]
    fn time_counts_from_the_start_while_the_clock_goes_evenly() {
        assert_eq!(known(&[(0, 0), (1, 1), (60, 60), (601, 600)]), [0, 1, 60, 600]);
    }

    #[test]
    fn time_counts_anew_from_every_step_ahead() {
        assert_eq!(known(&[(100, 100), (3_701, 101), (3_702, 102), (90_000, 103), (90_010, 113)]), [100, 0, 1, 0, 10]);
    }

    #[test]
    fn a_clock_that_was_set_back_and_right_again_counts_as_set_ahead() {
        assert_eq!(known(&[(100, 100), (-3_499, 101), (-3_498, 102), (103, 103)]), [100, 101, 102, 0]);
    }
}
