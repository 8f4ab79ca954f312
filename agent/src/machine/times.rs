//! When the packages of an attempt may be begun, counted on the clock of the machine that never jumps.
//!
//! The manager says it as moments of its own clock, and what time it was there. What counts from then on is `CLOCK_BOOTTIME`: a wrong
//! clock of the machine, or one that is set, changes nothing. A message that was long on its way moves all of it, the ends too, by as much: an opening is never longer than it is
//! here, and a package may be begun so long after its end there as the message took.

use super::Now;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most openings that are kept.
pub const OPENINGS_MAX: usize = 32;

/// A stretch of time on `CLOCK_BOOTTIME`: from the first moment on, and before the second if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// From this moment on.
    pub start: Duration,
    /// Before this one; none: for ever.
    pub end: Option<Duration>,
}

/// When the packages of an attempt may be begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The start of the machine that the moments count from. In another one they say nothing, and nothing may be begun.
    pub boot_id: String,
    /// Only in one of these.
    pub openings: Vec<Opening>,
    /// How long each package of the job takes, in their order; what is missing takes no time.
    pub durations: Vec<Duration>,
}

impl Times {
    /// How long the package with this number and those after it take.
    fn takes(&self, item: usize) -> Duration {
        self.durations.iter().skip(item).fold(Duration::ZERO, |all, one| all.saturating_add(*one))
    }

    /// Whether the package with this number may be begun at this moment: one of the openings has begun, and what is left to do fits
    /// into it.
    pub fn allow(&self, item: usize, now: &Now) -> bool {
        let ends = now.boot.saturating_add(self.takes(item));
        let fits = |o: &Opening| o.start <= now.boot && o.end.is_none_or(|end| now.boot < end && ends <= end);
        self.boot_id == now.boot_id && self.openings.iter().any(fits)
    }

    /// When the next opening begins; none if none is known that does.
    pub fn next(&self, now: &Now) -> Option<Duration> {
        let later = self.openings.iter().map(|o| o.start).filter(|start| *start > now.boot);
        later.min().filter(|_| self.boot_id == now.boot_id)
    }
}
