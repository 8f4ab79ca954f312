//! The clocks of the machine, as something that is passed in.

use crate::machine::Now;
use std::time::Duration;
use sutler_base::Timestamp;

/// Says what time it is.
pub trait Clock: Send + Sync + 'static {
    /// This moment.
    fn now(&self) -> Now;
}

/// The clocks of this machine.
#[derive(Debug, Clone)]
pub struct SystemClock {
    boot_id: String,
}

impl SystemClock {
    /// Reads once which start of the machine this is.
    pub fn new() -> SystemClock {
        // Where the kernel does not tell, every start of the agent counts as one of the machine: leases end, nothing else.
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned());
        SystemClock { boot_id: boot_id.unwrap_or_else(|_| format!("unknown-{}-{}", std::process::id(), Timestamp::now())) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let boot = Duration::new(boot.tv_sec.max(0) as u64, boot.tv_nsec.clamp(0, 999_999_999) as u32);
        Now { wall: Timestamp::now(), boot, boot_id: self.boot_id.clone() }
    }
}
