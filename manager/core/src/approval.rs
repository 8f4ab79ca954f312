//! Changes that wait for a second person.

use crate::planned::Pinned;
use std::collections::BTreeMap;
use sutler_base::{Digest, JobId, Timestamp, Uid, state::ApprovalState};

/// A change that somebody ordered and that waits, or waited, for somebody else to agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// For ever.
    pub id: Uid,
    /// Where it is.
    pub state: ApprovalState,
    /// Who ordered it: `operators/NAME`.
    pub requester: String,
    /// The method that was called.
    pub method: String,
    /// What was sent; empty for a job that waits as a draft.
    pub request: Vec<u8>,
    /// One sentence: what it does.
    pub what: String,
    /// The job that it is about, if it is about one.
    pub job: Option<JobId>,
    /// Stands for what it does, what that was done to, and what the requester might do.
    pub fingerprint: Digest,
    /// How many clients it reached when it was ordered.
    pub clients: u64,
    /// Of how many.
    pub fleet: u64,
    /// By which jobs, and how many clients each reached.
    pub jobs: BTreeMap<JobId, u64>,
    /// When it was ordered.
    pub created: Timestamp,
    /// Until when somebody can agree.
    pub expires: Timestamp,
    /// When it was decided.
    pub decided: Option<Timestamp>,
    /// By whom.
    pub decider: String,
    /// Why it was rejected.
    pub reason: String,
    /// The plan by which the job was run that waits.
    pub plan: Option<Uid>,
    /// The versions of the jobs that it reaches clients by, each once and in order: what is agreed to is what is done.
    pub packages: Vec<Pinned>,
}
