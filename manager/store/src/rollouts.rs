//! What a unit of work can ask about rollouts: how far a job is in its stages, and which rows a stage lets go or holds.

use crate::StoreError;
use async_trait::async_trait;
use sutler_base::{
    ClientId, JobId, Timestamp, Uid,
    state::{ClientState, ExecutionState, HoldReason},
};
use sutler_core::{model::Execution, rollout::Position};

type Result<T> = std::result::Result<T, StoreError>;

/// A row with what has to be known of its client.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// The row.
    pub execution: Execution,
    /// What the client may do.
    pub client_state: ClientState,
    /// When it was heard of last.
    pub last_seen: Timestamp,
    /// Since when it may have been silent: since its stage let it go, it was offered, or it last left a wait that may last.
    pub quiet: Timestamp,
}

/// A client whose row a stage holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Its place in the order of the job.
    pub turn: i64,
    /// The client.
    pub client: ClientId,
    /// What it may do.
    pub client_state: ClientState,
    /// When it was heard of last.
    pub last_seen: Timestamp,
}

/// Rollouts.
#[async_trait]
pub trait Rollouts {
    /// How far a job is in its stages; none for a job that has none.
    async fn rollout(&mut self, job: &JobId) -> Result<Option<Position>>;
    /// Writes how far a job is, and by what its new rows are held.
    async fn put_rollout(&mut self, job: &JobId, position: &Position, hold: Option<HoldReason>) -> Result<()>;
    /// ACTIVE jobs with stages, by id, after `after`; at most `limit`.
    async fn rollouts_active(&mut self, after: Option<&JobId>, limit: u32) -> Result<Vec<JobId>>;
    /// Those of these jobs that are not ACTIVE. Not for update: who asks holds the change sequence, and who stops a job waits for it.
    async fn stopped_among(&mut self, jobs: &[JobId]) -> Result<Vec<JobId>>;
    /// The number that this unit has in the change sequence: everything that was committed before has a smaller one.
    async fn change_number(&mut self) -> Result<i64>;
    /// How many rows of a stage (from 1) are in each state. Here and below nothing counts that is uninstalled because its client left.
    async fn stage_counts(&mut self, job: &JobId, stage: u32) -> Result<Vec<(ExecutionState, i64)>>;
    /// QUEUED and OFFERED rows that a stage let go and nothing else holds, by client, after `after`; at most `limit`.
    async fn stage_waiting(&mut self, job: &JobId, stage: u32, after: Option<&ClientId>, limit: u32) -> Result<Vec<Reached>>;
    /// OFFERED rows of a job, whichever stage let them go, by client, after `after`; at most `limit`.
    async fn offered(&mut self, job: &JobId, after: Option<&ClientId>, limit: u32) -> Result<Vec<Reached>>;
    /// In which stages (0 for none) and states how many rows are whose clients were offered the job, are not at an end and are silent
    /// since before that; but for those that wait for what may last.
    async fn silent(&mut self, job: &JobId, before: Timestamp) -> Result<Vec<(u32, ExecutionState, i64)>>;
    /// Since when those of these are silent that no stage let go or one after `stage`: the last ones; at most `limit`.
    async fn silent_last(&mut self, job: &JobId, stage: u32, before: Timestamp, limit: u32) -> Result<Vec<Timestamp>>;
    /// WAITING rows that wait since before that for what may last, and whose clients were not heard of since, by client, after `after`; at
    /// most `limit`.
    async fn silent_waiting(&mut self, job: &JobId, before: Timestamp, after: Option<&ClientId>, limit: u32) -> Result<Vec<Reached>>;
    /// How many rows of each stage (0 for none) FAILED or were INTERRUPTED after this change, those that wait for a retry
    /// among them, and without those whose client was offline when its turn came.
    async fn failed_after(&mut self, job: &JobId, change: i64) -> Result<Vec<(u32, i64)>>;
    /// The newest rows that SUCCEEDED, FAILED or were INTERRUPTED after this change, the same among them, the newest first; at
    /// most `limit`.
    async fn newest_outcomes(&mut self, job: &JobId, change: i64, limit: u32) -> Result<Vec<Execution>>;
    /// QUEUED rows that a stage holds, in the order of the job, after this place in it; only members of these groups, if any are
    /// named; at most `limit`.
    async fn held_by_stage(&mut self, job: &JobId, groups: &[Uid], after: Option<(i64, &ClientId)>, limit: u32) -> Result<Vec<Held>>;
    /// Lets rows go that a stage holds; gives back how many.
    async fn release_to_stage(&mut self, job: &JobId, clients: &[ClientId], stage: u32, now: Timestamp) -> Result<u64>;
    /// Clients whose QUEUED row of a job this holds, by client, after `after`; at most `limit`.
    async fn clients_held(&mut self, job: &JobId, by: HoldReason, after: Option<&ClientId>, limit: u32) -> Result<Vec<ClientId>>;
    /// The user of a machine has chosen a job that was held for that: from now on its stage holds it, if the job has any. Gives back
    /// whether it was held.
    async fn choose(&mut self, job: &JobId, client: &ClientId) -> Result<bool>;
    /// Lets a stage hold rows again that one let go, or any while stages are open, and that are in this state; gives back how many. What is
    /// not QUEUED has to become so in the same unit.
    async fn hold_by_stage(&mut self, job: &JobId, clients: &[ClientId], state: ExecutionState) -> Result<u64>;
    /// Puts rows that a stage holds at the end of the order of their job.
    async fn put_last(&mut self, job: &JobId, clients: &[ClientId]) -> Result<()>;
    /// Lets a stage hold whatever of a job is QUEUED; gives back how many.
    async fn hold_queued(&mut self, job: &JobId) -> Result<u64>;
}
