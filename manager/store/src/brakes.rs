//! What a unit of work can ask about brakes: what is stopped, which breakers are open, what was spent, and which rows are held back.

use crate::StoreError;
use async_trait::async_trait;
use sutler_base::{ClientId, Digest, JobId, OperatorName, Timestamp, Uid, state::HoldReason};
use sutler_core::{
    brake::{
        Stop, Stopped,
        breaker::{Breaker, Scope},
        budget::Purse,
    },
    model::Execution,
};

type Result<T> = std::result::Result<T, StoreError>;

/// The retries that an execution has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retried {
    /// The job.
    pub job: JobId,
    /// The client.
    pub client: ClientId,
    /// How many.
    pub used: u32,
    /// When the next one is due, if it waits for it.
    pub due: Option<Timestamp>,
}

/// A version that a job installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installs {
    /// The version.
    pub version: Uid,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Bytes of its manifest and its files.
    pub bytes: u64,
}

/// A client that is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Who.
    pub client: ClientId,
    /// Since when, without the time in which nothing would have been offered to it.
    pub since: Timestamp,
    /// Since when nothing would be offered to it, if that is so.
    pub held: Option<Timestamp>,
}

/// Brakes.
#[async_trait]
pub trait Brakes {
    /// Stops something; gives back whether it was not stopped before. Whoever offers work has taken its number of the change sequence
    /// before, or sees this.
    async fn insert_stop(&mut self, stop: &Stop) -> Result<bool>;
    /// Everything that is stopped, in the order of what it is.
    async fn stops(&mut self) -> Result<Vec<Stop>>;
    /// Lets it go on; gives back whether it was stopped.
    async fn delete_stop(&mut self, what: &Stopped) -> Result<bool>;
    /// Jobs with rows that were offered and have not begun, by id, after `after`; at most `limit`.
    async fn jobs_offered(&mut self, after: Option<&JobId>, limit: u32) -> Result<Vec<JobId>>;
    /// Whether a job has a row that is not at an end on a member of this group.
    async fn is_open_in(&mut self, job: &JobId, group: &Uid) -> Result<bool>;
    /// Holds QUEUED rows that nothing holds; gives back how many.
    async fn hold(&mut self, rows: &[(JobId, ClientId)], by: HoldReason) -> Result<u64>;
    /// QUEUED rows that are held by this, by job and client, after `after`; at most `limit`. Not those that a stage holds.
    async fn held(&mut self, by: HoldReason, after: Option<(&JobId, &ClientId)>, limit: u32) -> Result<Vec<Execution>>;
    /// Lets rows go that are held by this; gives back how many.
    async fn release(&mut self, rows: &[(JobId, ClientId)], by: HoldReason, now: Timestamp) -> Result<u64>;
    /// The first job after `after` that has rows which are held by this.
    async fn next_held_job(&mut self, by: HoldReason, after: Option<&JobId>) -> Result<Option<JobId>>;
    /// QUEUED rows of a job that are held by this, by client; at most `limit`.
    async fn held_of(&mut self, job: &JobId, by: HoldReason, limit: u32) -> Result<Vec<ClientId>>;

    /// The versions that a revision of a job installs.
    async fn installs(&mut self, job: &JobId, revision: i64) -> Result<Vec<Installs>>;
    /// The breaker of this version and scope, for update; made with this uid if there was none.
    async fn breaker_of(&mut self, version: &Uid, scope: &Scope, fresh: &Uid) -> Result<Breaker>;
    /// The breaker of this uid, for update.
    async fn breaker(&mut self, uid: &Uid) -> Result<Option<Breaker>>;
    /// The breakers that are open, the first that opened first.
    async fn open_breakers(&mut self) -> Result<Vec<Breaker>>;
    /// Writes what a breaker counted and whether it is open. One that opens is seen as a stop is.
    async fn save_breaker(&mut self, breaker: &Breaker) -> Result<()>;

    /// The retries that these executions have had; nothing of those that had none.
    async fn retries(&mut self, rows: &[(JobId, ClientId)]) -> Result<Vec<Retried>>;
    /// Writes the retries of an execution.
    async fn put_retries(&mut self, retried: &Retried) -> Result<()>;
    /// Retries that were due by then; at most `limit`.
    async fn retries_due(&mut self, now: Timestamp, limit: u32) -> Result<Vec<(JobId, ClientId)>>;
    /// Those of these executions whose retry is due by then do not wait for it any more; gives them back.
    async fn retries_done(&mut self, rows: &[(JobId, ClientId)], by: Timestamp) -> Result<Vec<(JobId, ClientId)>>;
    /// These executions have had no retries.
    async fn forget_retries(&mut self, rows: &[(JobId, ClientId)]) -> Result<()>;

    /// Since when clients are awaited whose turn of this job has come.
    async fn awaited(&mut self, job: &JobId, clients: &[ClientId]) -> Result<Vec<Awaited>>;
    /// Notes that these clients are awaited since then, in place of what was noted before.
    async fn put_awaited(&mut self, job: &JobId, clients: &[ClientId], since: Timestamp) -> Result<()>;
    /// From now on the time of these clients that are awaited does not count.
    async fn hold_awaited(&mut self, job: &JobId, clients: &[ClientId], now: Timestamp) -> Result<()>;
    /// The same for all clients of a job that are awaited.
    async fn hold_all_awaited(&mut self, job: &JobId, now: Timestamp) -> Result<()>;
    /// It counts again from now on.
    async fn resume_awaited(&mut self, job: &JobId, clients: &[ClientId], now: Timestamp) -> Result<()>;
    /// Forgets that these clients are awaited.
    async fn forget_awaited(&mut self, rows: &[(JobId, ClientId)]) -> Result<()>;

    /// How many clients the jobs of an operator may let go in an hour; none if nobody said.
    async fn operator_budget(&mut self, operator: &OperatorName) -> Result<Option<u32>>;
    /// Writes that.
    async fn set_operator_budget(&mut self, operator: &OperatorName, per_hour: Option<u32>) -> Result<()>;
    /// Waits until nobody else spends from this purse, and keeps others from it until the unit ends.
    async fn lock_purse(&mut self, purse: &Purse) -> Result<()>;
    /// What was spent from a purse after `since_ms`, in the order of time.
    async fn spent(&mut self, purse: &Purse, since_ms: i64) -> Result<Vec<(i64, u32)>>;
    /// Spends from a purse that is locked, and forgets what was spent up to `before_ms`.
    async fn spend(&mut self, purse: &Purse, at_ms: i64, n: u32, before_ms: i64) -> Result<()>;
}
