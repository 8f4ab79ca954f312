//! Clients that are out of contact when their turn comes.
//!
//! **Their turn has come** when nothing but their absence holds their row back: their stage let it go, or has a place that is free and
//! they are the next in its order; in a job without stages, from the start on, and after the last stage at once. What brakes hold back
//! is nobody's turn. **Out of contact** is a client that was not heard of for [`CONTACT_SECONDS`], so that a manager that has just
//! started takes nobody for absent.

use crate::rollout::CONTACT_SECONDS;
use serde::{Deserialize, Serialize};
use sutler_base::Timestamp;

/// The longest time to live (seconds): 366 days.
pub const TTL_MAX: u32 = 366 * 86_400;

/// What becomes of a client that is out of contact when its turn comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offline {
    /// It waits for its next contact.
    #[default]
    Queue,
    /// It waits for so many seconds, and its row expires.
    QueueFor(u32),
    /// It is passed over: its row is rejected.
    Skip,
    /// Its row fails.
    Fail,
}

/// What is due for one client whose turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// From now on it is awaited.
    Note,
    /// Its row comes to its end.
    End,
}

impl Offline {
    /// Whether nothing ever becomes of a client that is out of contact.
    pub fn waits_for_ever(self) -> bool {
        self == Offline::Queue
    }

    /// What is due for a client that was heard of last at `heard` and is awaited since then, if it is.
    pub fn due(self, heard: Timestamp, awaited: Option<Timestamp>, now: Timestamp) -> Due {
        if now.as_second().saturating_sub(heard.as_second()) < CONTACT_SECONDS {
            return Due::Nothing;
        }
        match (self, awaited) {
            (Offline::Queue, _) => Due::Nothing,
            (Offline::Skip | Offline::Fail, _) => Due::End,
            (Offline::QueueFor(_), None) => Due::Note,
            (Offline::QueueFor(ttl), Some(since)) if now.as_second().saturating_sub(since.as_second()) >= i64::from(ttl) => Due::End,
            (Offline::QueueFor(_), Some(_)) => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Nobody who was heard of within a minute comes to an end, nor before its time to live, nor where it may wait for ever; and
        /// everybody else does.
        #[test]
        fn an_end_comes_to_those_who_are_away_and_in_their_time(
            silent in 0..200i64, awaited in prop::option::of(0..2000i64), ttl in 1..1000u32, which in 0..4usize,
        ) {
            let now = Timestamp::from_second(100_000).unwrap();
            let ago = |s: i64| now.saturating_sub(jiff::SignedDuration::from_secs(s)).unwrap();
            let offline = [Offline::Queue, Offline::QueueFor(ttl), Offline::Skip, Offline::Fail][which];
            let due = offline.due(ago(silent), awaited.map(ago), now);
            let over = match offline {
                Offline::Queue => false,
                Offline::QueueFor(ttl) => awaited.is_some_and(|s| s >= i64::from(ttl)),
                Offline::Skip | Offline::Fail => true,
            };
            prop_assert_eq!(due == Due::End, over && silent >= CONTACT_SECONDS);
            prop_assert!(due != Due::Note || matches!(offline, Offline::QueueFor(_)) && awaited.is_none());
        }
    }
}
