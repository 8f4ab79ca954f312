//! What a unit of work can ask about changes that are not made yet: those that wait for a second person, and plans of jobs.

use crate::{Page, StoreError};
use async_trait::async_trait;
use sutler_base::{ClientId, JobId, Timestamp, Uid};
use sutler_core::{
    approval::Approval,
    planned::{JobPlan, PlannedClient},
};

type Result<T> = std::result::Result<T, StoreError>;

/// Changes that wait for a second person.
#[async_trait]
pub trait Approvals {
    /// How many clients can be reached by jobs: let in or quarantined, and not archived.
    async fn count_fleet(&mut self) -> Result<u64>;
    /// Adds an approval, or writes how one that is there was decided, or what it stands for now.
    async fn put_approval(&mut self, approval: &Approval) -> Result<()>;
    /// The approval of this id. For update on databases with row locks.
    async fn approval(&mut self, id: &Uid) -> Result<Option<Approval>>;
    /// Approvals, the newest first (`after` = id); `all`: also those that were decided.
    async fn list_approvals(&mut self, page: &Page, all: bool) -> Result<Vec<Approval>>;
    /// The newest pending approval that is about this job.
    async fn approval_of(&mut self, job: &JobId) -> Result<Option<Approval>>;
    /// The newest pending approval of what this operator ordered by the same call, about the same job if about one. For update on
    /// databases with row locks.
    async fn approval_like(&mut self, requester: &str, method: &str, request: &[u8], job: Option<&JobId>) -> Result<Option<Approval>>;
    /// How many changes that this operator ordered are pending.
    async fn approvals_pending(&mut self, requester: &str) -> Result<u64>;
    /// What was sent; empty for a job that waits as a draft, and for what was not agreed to.
    async fn approval_request(&mut self, id: &Uid) -> Result<Vec<u8>>;
    /// Writes what was sent.
    async fn set_approval_request(&mut self, id: &Uid, request: &[u8]) -> Result<()>;
    /// Pending approvals whose time is over; at most `limit`.
    async fn approvals_overdue(&mut self, now: Timestamp, limit: u32) -> Result<Vec<Approval>>;
    /// Forgets approvals that were decided before; gives back how many.
    async fn drop_approvals(&mut self, before: Timestamp) -> Result<u64>;
}

/// Plans of jobs.
#[async_trait]
pub trait JobPlans {
    /// Adds a plan with what it says of its clients.
    async fn insert_plan(&mut self, plan: &JobPlan, clients: &[PlannedClient]) -> Result<()>;
    /// The plan of this id.
    async fn plan(&mut self, id: &Uid) -> Result<Option<JobPlan>>;
    /// What a plan says of clients, in order of id (`after` = id).
    async fn plan_clients(&mut self, id: &Uid, page: &Page) -> Result<Vec<PlannedClient>>;
    /// Of these clients those that a plan names.
    async fn planned_among(&mut self, id: &Uid, clients: &[ClientId]) -> Result<Vec<ClientId>>;
    /// The plans that are kept, the oldest first, with when they end and how many clients each has.
    async fn plans_kept(&mut self) -> Result<Vec<(Uid, Timestamp, u64)>>;
    /// Deletes a plan.
    async fn delete_plan(&mut self, id: &Uid) -> Result<()>;
}
