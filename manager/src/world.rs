//! Time and randomness, as everything in the manager gets them: passed in once, at the start.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use sutler_base::{AttemptId, ClientId, JobId, Timestamp, TokenId, Uid};

type Now = dyn Fn() -> Timestamp + Send + Sync;
type Steady = dyn Fn() -> Duration + Send + Sync;
type Fill = dyn Fn(&mut [u8]) + Send + Sync;

/// What the manager takes from the world around it.
#[derive(Clone)]
pub struct World {
    now: Arc<Now>,
    steady: Arc<Steady>,
    random: Arc<Fill>,
}

impl World {
    /// The system's clock and randomness.
    #[allow(clippy::disallowed_methods)]
    pub fn system() -> World {
        let begin = Instant::now();
        World {
            now: Arc::new(Timestamp::now),
            steady: Arc::new(move || begin.elapsed()),
            random: Arc::new(|bytes| getrandom::fill(bytes).expect("the system has randomness; without it nothing may be issued")),
        }
    }

    /// The system's randomness with a clock that is set by hand, in milliseconds since 1970.
    pub fn with_clock(millis: Arc<AtomicI64>) -> World {
        let now = move || Timestamp::from_millisecond(millis.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH);
        World { now: Arc::new(now), ..World::system() }
    }

    /// The system's randomness with clocks that are so many milliseconds ahead of the system's, which may change: as if that time had
    /// passed. The one that can be set is ahead by what it was `set`, too.
    pub fn ahead(millis: Arc<AtomicI64>, set: Arc<AtomicI64>) -> World {
        let system = World::system();
        let (clock, steady, passed) = (system.now.clone(), system.steady.clone(), millis.clone());
        let now = move || {
            let ahead = millis.load(Ordering::SeqCst).saturating_add(set.load(Ordering::SeqCst));
            clock().saturating_add(jiff::SignedDuration::from_millis(ahead)).unwrap_or(Timestamp::MAX)
        };
        let steady = move || steady().saturating_add(Duration::from_millis(passed.load(Ordering::SeqCst).max(0) as u64));
        World { now: Arc::new(now), steady: Arc::new(steady), ..system }
    }

    /// A clock that nobody sets: how much time has passed since some moment.
    pub fn steady(&self) -> Duration {
        (self.steady)()
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        // The database keeps milliseconds; a time that is compared with a stored one must not be finer.
        let now = (self.now)();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    /// 16 random bytes.
    pub fn bits(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        (self.random)(&mut bytes);
        bytes
    }

    /// 32 random bytes: a secret.
    pub fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        (self.random)(&mut bytes);
        bytes
    }

    /// A new client's id.
    pub fn client_id(&self) -> ClientId {
        ClientId::from_random(self.bits())
    }

    /// A new job's id.
    pub fn job_id(&self) -> JobId {
        JobId::from_random(self.bits())
    }

    /// A new token's id.
    pub fn token_id(&self) -> TokenId {
        TokenId::from_random(self.bits())
    }

    /// A new object's uid.
    pub fn uid(&self) -> Uid {
        Uid::new(self.now(), self.bits())
    }

    /// A new attempt's id.
    pub fn attempt_id(&self) -> AttemptId {
        AttemptId::new(self.now(), self.bits())
    }
}
