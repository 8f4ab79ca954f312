//! Whether a client is in contact, from what is known of when it was last heard of.

use std::time::Duration;
use sutler_base::{Timestamp, state::Presence};

/// For how long after it was heard of a client counts as connected, where another manager may hold its session.
const FRESH: jiff::SignedDuration = jiff::SignedDuration::from_secs(45);

/// What one manager knows of a client's sessions by itself.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The client is connected to it now.
    pub connected: bool,
    /// Until when it knows whether the client was connected to it: what was heard later, another manager heard.
    pub until: Timestamp,
}

/// Whether a client that was last heard of at `last_seen` is in contact now. It is overdue once it has been silent for longer than
/// `overdue`.
pub fn presence(known: Known, last_seen: Timestamp, now: Timestamp, overdue: Duration) -> Presence {
    let silent = now.duration_since(last_seen);
    if known.connected || (silent < FRESH && last_seen > known.until) {
        Presence::Online
    } else if Duration::try_from(silent).is_ok_and(|silent| silent > overdue) {
        Presence::Overdue
    } else {
        Presence::Offline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_overdue_once_it_was_silent_for_longer_than_it_may_be_and_never_while_it_is_connected() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let known = |connected, until| Known { connected, until: at(until) };
        for (known, last_seen, now, expected) in [
            (known(true, 0), 0, 1_000_000, Presence::Online),
            // Another manager heard of it a moment ago; or this one, which knows that it has gone since.
            (known(false, 900), 1_000, 1_010, Presence::Online),
            (known(false, 1_000), 1_000, 1_010, Presence::Offline),
            (known(false, 900), 1_000, 1_050, Presence::Offline),
            (known(false, 900), 1_000, 1_100, Presence::Offline),
            (known(false, 900), 1_000, 1_101, Presence::Overdue),
            // A clock that was set back.
            (known(false, 2_000), 1_000, 10, Presence::Offline),
        ] {
            assert_eq!(presence(known, at(last_seen), at(now), Duration::from_secs(100)), expected, "{known:?} {last_seen} {now}");
        }
    }
}
