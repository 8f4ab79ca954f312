//! Hooks: how far each is with the events that it wants, who delivers the next one, and when it is tried again.
//!
//! A hook has one event at a time, in order, at least once: what can't be delivered keeps those behind it waiting, until it is
//! given up. Of several managers one delivers: it holds a lease that lasts longer than a delivery may.

use std::time::Duration;
use sutler_base::Timestamp;

/// The longest pause between two tries.
pub const PAUSE_MAX: Duration = Duration::from_secs(600);
/// How much longer than a delivery a lease lasts.
const MARGIN: Duration = Duration::from_secs(30);
/// How often an event is tried before it is given up, however much later it is by then: the clock may have been stepped.
const TRIES_MIN: u32 = 5;
/// How many bytes of an error are kept.
const ERROR_MAX: usize = 500;

/// How far a hook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its name in the configuration.
    pub name: String,
    /// Up to here it needs nothing any more: delivered, given up, or not wanted.
    pub cursor: i64,
    /// How often the next event was tried.
    pub attempts: u32,
    /// When the next event was first tried.
    pub began: Option<Timestamp>,
    /// When it is to be tried again.
    pub next: Option<Timestamp>,
    /// What went wrong with the last try; empty if nothing did.
    pub error: String,
    /// Who delivers now; empty: nobody.
    pub holder: String,
    /// Until when nobody else does.
    pub until: Option<Timestamp>,
    /// How many events were delivered.
    pub delivered: u64,
    /// How many were given up.
    pub given_up: u64,
}

/// What a delivery came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It arrived.
    Delivered,
    /// It is tried again.
    Again,
    /// It was tried for as long as it may be.
    GivenUp,
}

impl Hook {
    /// A hook that begins after this cursor: what was before it was there is not for it.
    pub fn new(name: &str, cursor: i64) -> Hook {
        Hook {
            name: name.to_owned(),
            cursor,
            attempts: 0,
            began: None,
            next: None,
            error: String::new(),
            holder: String::new(),
            until: None,
            delivered: 0,
            given_up: 0,
        }
    }

    /// Until when `who` has to wait before it may deliver, which takes `limit` at the most; none: not at all. What lies further ahead
    /// than it was ever written down comes of a clock that was stepped back since, and nobody waits for that.
    pub fn wait(&self, who: &str, now: Timestamp, limit: Duration) -> Option<Timestamp> {
        let ahead =
            |at: &Timestamp, most: Duration| *at > now && Duration::try_from(at.duration_since(now)).is_ok_and(|ahead| ahead <= most);
        let held = self.until.filter(|until| self.holder != who && ahead(until, limit + MARGIN));
        held.max(self.next.filter(|next| ahead(next, PAUSE_MAX)))
    }

    /// `who` delivers now, which takes `limit` at the most.
    pub fn take(&mut self, who: &str, now: Timestamp, limit: Duration) {
        self.holder = who.to_owned();
        self.until = Some(now.saturating_add(limit + MARGIN).unwrap_or(Timestamp::MAX));
        self.began = Some(self.began.map_or(now, |began| began.min(now)));
    }

    /// What `who` delivered came to this, with the event at `cursor`: it is given up when it was tried for as long as `retry_for`, and
    /// some times at least unless it is not to be tried again at all. None if it took so long that somebody else delivers: then
    /// that one's word counts.
    pub fn ended(&mut self, who: &str, cursor: i64, result: Result<(), &str>, now: Timestamp, retry_for: Duration) -> Option<Ended> {
        if self.holder != who || cursor <= self.cursor {
            return None;
        }
        self.holder = String::new();
        self.until = None;
        let error = match result {
            Ok(()) => {
                *self = Hook { error: String::new(), delivered: self.delivered + 1, ..self.clone().moved_on(cursor) };
                return Some(Ended::Delivered);
            }
            Err(error) => error,
        };
        self.attempts = self.attempts.saturating_add(1);
        self.error = error.chars().take(ERROR_MAX).collect();
        let tried = now.duration_since(self.began.unwrap_or(now));
        let often = self.attempts >= TRIES_MIN || retry_for.is_zero();
        if often && Duration::try_from(tried).is_ok_and(|tried| tried >= retry_for) {
            *self = Hook { given_up: self.given_up + 1, ..self.clone().moved_on(cursor) };
            return Some(Ended::GivenUp);
        }
        self.next = Some(now.saturating_add(pause(self.attempts)).unwrap_or(Timestamp::MAX));
        Some(Ended::Again)
    }

    /// The same after a cursor up to which it needs nothing any more; what was tried before is forgotten.
    pub fn moved_on(self, cursor: i64) -> Hook {
        Hook { cursor: self.cursor.max(cursor), attempts: 0, began: None, next: None, holder: String::new(), until: None, ..self }
    }
}

/// How long to wait after so many tries failed: a second, and twice as long each time, up to [`PAUSE_MAX`].
pub fn pause(attempts: u32) -> Duration {
    Duration::from_secs(1 << attempts.saturating_sub(1).min(20)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(30);
    const RETRY: Duration = Duration::from_secs(3600);

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(second as i64).unwrap()
    }

    #[test]
    fn pauses_double_up_to_ten_minutes() {
        assert_eq!([1, 2, 3, 10, 11, u32::MAX].map(|n| pause(n).as_secs()), [1, 2, 4, 512, 600, 600]);
    }

    proptest! {
        /// Two managers that each do whatever they like, whenever they like, with deliveries that last no longer than they may.
        #[test]
        fn two_managers_deliver_every_event_in_order_and_never_at_the_same_time(
            steps in prop::collection::vec((0..2usize, 0..20u64, 0..40u64, any::<bool>(), any::<bool>()), 1..200)
        ) {
            let mut hook = Hook::new("h", 0);
            let mut now = 0;
            let mut busy: [Option<(i64, u64, bool, bool)>; 2] = [None, None];
            let mut delivered = 0;
            for (who, after, takes, works, dies) in steps {
                now += after;
                let names = ["a", "b"];
                match busy[who] {
                    Some((event, ends, works, dies)) if ends <= now => {
                        busy[who] = None;
                        if dies {
                            continue;
                        }
                        let result = if works { Ok(()) } else { Err("no") };
                        let before = hook.cursor;
                        match hook.ended(names[who], event, result, at(now), RETRY) {
                            Some(Ended::Delivered | Ended::GivenUp) => {
                                prop_assert_eq!(event, before + 1);
                                delivered = event;
                            }
                            Some(Ended::Again) => prop_assert!(hook.next.is_some_and(|next| next > at(now) && next <= at(now + PAUSE_MAX.as_secs()))),
                            None => {}
                        }
                        prop_assert_eq!(hook.cursor, delivered);
                    }
                    Some(_) => {}
                    None if hook.wait(names[who], at(now), LIMIT).is_none() => {
                        // Whoever else was at it has ended, or died.
                        if let Some((_, ends, _, _)) = busy[1 - who] {
                            prop_assert!(ends < now, "both deliver at {}", now);
                        }
                        hook.take(names[who], at(now), LIMIT);
                        busy[who] = Some((hook.cursor + 1, now + takes.min(LIMIT.as_secs()), works, dies));
                    }
                    None => {}
                }
            }
        }

        #[test]
        fn what_never_arrives_is_given_up_after_its_time_and_not_before(latency in 0..30u64) {
            let mut hook = Hook::new("h", 0);
            let mut now = 0;
            loop {
                now = now.max(hook.wait("a", at(now), LIMIT).map_or(0, |t| t.as_second() as u64));
                hook.take("a", at(now), LIMIT);
                now += latency;
                match hook.ended("a", 1, Err("no"), at(now), RETRY) {
                    Some(Ended::Again) => prop_assert!(now < RETRY.as_secs()),
                    Some(Ended::GivenUp) => break,
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert!(now >= RETRY.as_secs() && now <= RETRY.as_secs() + PAUSE_MAX.as_secs() + 30);
            prop_assert_eq!((hook.cursor, hook.given_up, hook.attempts), (1, 1, 0));
        }

        /// Whatever the clock does between two tries of a receiver that is away, the next one comes soon, and some are made.
        #[test]
        fn however_the_clock_is_stepped_nothing_waits_for_long_and_nothing_is_given_up_at_once(
            steps in prop::collection::vec(-100_000..100_000i64, 1..30)
        ) {
            let mut hook = Hook::new("h", 0);
            let (mut now, mut tries) = (10_000_000u64, 0);
            for (n, step) in steps.into_iter().enumerate() {
                // Every third one dies while it delivers, and another one comes.
                let who = if n % 2 == 0 { "a" } else { "b" };
                let pause = hook.wait(who, at(now), LIMIT).map_or(0, |t| t.as_second() as u64 - now);
                prop_assert!(pause <= PAUSE_MAX.as_secs(), "it waits for {pause} s");
                now += pause;
                hook.take(who, at(now), LIMIT);
                now = now.saturating_add_signed(step);
                if n % 3 == 2 {
                    continue;
                }
                tries += 1;
                match hook.ended(who, 1, Err("no"), at(now), RETRY) {
                    Some(Ended::Again) => {}
                    Some(Ended::GivenUp) => {
                        prop_assert!(tries >= TRIES_MIN);
                        break;
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
