//! Brakes: what holds work back whatever the rollout of its job says, over all jobs.
//!
//! A queued row is let go at one place, where attempts are made. There it passes its job's stage first, and then the brakes: what an
//! operator stopped comes before everything else, then an open breaker, then a budget that is used up. What is held back there waits in
//! the queue with the brake as its reason. What is stopped, and what a breaker covers, takes no place of the stage that is open: another
//! client gets it, and the row waits for its stage as if it were new. What its budget or its retry holds back keeps its place: a stage
//! is not over before that has ended.
//!
//! Everything here is a pure function of what the database says: two managers, or one before and after a restart, have one opinion.

pub mod breaker;
pub mod budget;
pub mod offline;
pub mod retry;
mod stop;

pub use stop::{REASON_MAX, STOPS_MAX, Stop, Stopped, first};

use std::collections::BTreeSet;
use sutler_base::{PackageName, Uid, state::Intent};

/// A package that work is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// Which.
    pub package: PackageName,
    /// The version itself; none before it is pinned.
    pub uid: Option<Uid>,
    /// Its version, as its publisher writes it.
    pub version: String,
    /// What is done with it.
    pub intent: Intent,
}

/// Work on one client, as far as brakes go by it.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// The groups that the client is in.
    pub groups: &'a BTreeSet<Uid>,
    /// What is installed and uninstalled.
    pub packages: &'a [Touched],
}
