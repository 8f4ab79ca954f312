//! The one place where tests wait: a condition is asked again and again until it holds, and its time-out is the promise.
//!
//! What is asked is always the real thing (a file, a process, an answer of the manager), never a guess of how long
//! something takes. Between two questions the thread rests for a moment that grows, so that fifty waiting tests don't keep
//! what they wait for from running.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long anything may take that has no bound of its own: long enough for a machine that does much else at the same time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The longest rest between two questions.
const REST_MAX: Duration = Duration::from_millis(150);

/// Asks until the answer is something, and returns that.
///
/// # Panics
///
/// When it is still nothing after `timeout`: says `what` was waited for.
pub fn wait_for<T>(what: &str, timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    match poll(timeout, &mut ask) {
        Some(answer) => answer,
        None => panic!("waited {timeout:?} for {what}"),
    }
}

/// Asks until the condition holds.
///
/// # Panics
///
/// When it still doesn't after `timeout`: says `what` was waited for.
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, timeout, || condition().then_some(()));
}

/// Asks for a value until it is as wanted, and returns it.
///
/// # Panics
///
/// When it still isn't after `timeout`: says `what` was waited for, and what was there last.
pub fn wait_for_value<T: Debug>(what: &str, timeout: Duration, mut value: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let mut last = None;
    let found = poll(timeout, &mut || {
        let now = value();
        if wanted(&now) {
            return Some(now);
        }
        last = Some(now);
        None
    });
    match found {
        Some(value) => value,
        None => panic!("waited {timeout:?} for {what}; the last was {last:#?}"),
    }
}

fn poll<T>(timeout: Duration, ask: &mut dyn FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    let mut rest = Duration::from_millis(5);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::park_timeout(rest);
        rest = (rest * 3 / 2).min(REST_MAX);
    }
}
