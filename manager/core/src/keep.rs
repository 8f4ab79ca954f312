//! When what a job installed is looked at again.

use std::time::Duration;
use sutler_base::{ClientId, Digest, JobId, Timestamp};

/// When a client is looked at next, after `now`: once in each interval, at a place of it that job and client alone decide, so that the
/// clients of a job are spread over it and every manager comes to the same moment.
pub fn next(job: &JobId, client: &ClientId, every: Duration, now: Timestamp) -> Timestamp {
    let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
    let digest = Digest::of(format!("{job}/{client}").as_bytes());
    let hash = digest.as_bytes().iter().take(7).fold(0i64, |hash, byte| hash << 8 | i64::from(*byte));
    let now = now.as_millisecond();
    let wait = every - (now - hash % every).rem_euclid(every);
    Timestamp::from_millisecond(now.saturating_add(wait)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_client_is_looked_at_once_in_each_interval(job: [u8; 16], client: [u8; 16], hours in 1u64..9000, now in 0i64..4_000_000_000_000) {
            let (job, client, every) = (JobId::from_random(job), ClientId::from_random(client), Duration::from_secs(hours * 3600));
            let now = Timestamp::from_millisecond(now).unwrap();
            let first = next(&job, &client, every, now);
            prop_assert!(first > now && first.duration_since(now).unsigned_abs() <= every);
            // Asked again before that, it is the same; asked then, it is an interval later.
            let before = first.checked_sub(jiff::SignedDuration::from_millis(1)).unwrap();
            prop_assert_eq!(next(&job, &client, every, before.max(now)), first);
            prop_assert_eq!(next(&job, &client, every, first).duration_since(first).unsigned_abs(), every);
        }
    }

    #[test]
    fn clients_are_spread_over_the_interval() {
        let (every, now) = (Duration::from_secs(3600), Timestamp::UNIX_EPOCH);
        let minute = |n: u8| next(&JobId::from_random([1; 16]), &ClientId::from_random([n; 16]), every, now).as_second() / 60;
        let minutes: std::collections::BTreeSet<i64> = (0..=255).map(minute).collect();
        assert!(minutes.len() > 45, "256 clients come in {} of 60 minutes", minutes.len());
    }
}
