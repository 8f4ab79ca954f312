//! What happens by itself: jobs that expire or are complete, cancellations that become final. Each of these has no input: it
//! reads what is and does what is due, so that running it twice, or late, does no harm.

use super::{Env, Result, approvals, destinations, events, executions, planned, schedule};
use std::{collections::BTreeSet, time::Duration};
use sutler_base::{
    ClientId, JobId, Timestamp,
    state::{CancelStage, ClientState, ExecutionState, JobState},
};
use sutler_core::{
    execution,
    model::{CancelRequest, LongLease, Target},
};
use sutler_store::{Page, Tx};

/// How many rows are handled in one unit.
const BATCH: u32 = 500;

/// The jobs that end with their time.
const TIMED: [JobState; 3] = [JobState::Scheduled, JobState::Active, JobState::Paused];

/// What is due by the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The common clock when this was read.
    pub clock: Timestamp,
    /// There are jobs for [`expire`].
    pub jobs: bool,
    /// There may be cancellations for [`finish_cancels`].
    pub cancels: bool,
}

/// Looks whether something is due.
pub async fn due(tx: &mut dyn Tx, env: &Env) -> Result<Due> {
    let clock = env.common_clock(tx).await?;
    let jobs = !tx.jobs_expired(env.now, &TIMED, 1).await?.is_empty();
    let cancels = !tx.cancels_overdue(clock, 1).await?.is_empty();
    Ok(Due { clock, jobs, cancels })
}

/// Ends jobs whose time is over: what was not offered expires; what was, its agent ends. Gives back whether more is due.
pub async fn expire(tx: &mut dyn Tx, env: &Env) -> Result<bool> {
    let due = tx.jobs_expired(env.now, &TIMED, 20).await?;
    let more = due.len() == 20;
    for mut job in due {
        let mut page = Page { after: None, limit: BATCH };
        loop {
            let rows = tx.list_executions(&job.id, &page, &[ExecutionState::Queued]).await?;
            let full = rows.len() as u32 == BATCH;
            page.after = rows.last().map(|r| r.client.to_string());
            let why = "the job's time was over before it started here";
            let changes: Vec<_> = rows.iter().map(|r| executions::moved(r, ExecutionState::Expired, "", why, env)).collect();
            tx.change_executions(&changes).await?;
            if !full {
                break;
            }
        }
        job.state = JobState::Expired;
        job.ended = Some(env.now);
        tx.save_job(&job).await?;
        env.audit(tx, "expire_job", format!("jobs/{}", job.id), "").await?;
        events::job_ended(tx, env, &job).await?;
        env.wakes().jobs.insert(job.id);
    }
    Ok(more)
}

/// Makes cancellations final whose last lease has run out without an answer. Gives back whether more is due.
///
/// `even` is for how long the common clock is known not to have been set ahead: a lease that was longer has that much time more.
pub async fn finish_cancels(tx: &mut dyn Tx, env: &Env, even: Duration) -> Result<bool> {
    let now = env.common_clock(tx).await?;
    let due = tx.cancels_overdue(now, BATCH).await?;
    let more = due.len() as u32 == BATCH;
    let longer = schedule::leased_until(tx, &due.iter().filter_map(|row| row.attempt.clone()).collect::<Vec<_>>()).await?;
    for row in due {
        let Some(cancel) = row.cancel.clone() else { continue };
        let lease = row.attempt.as_ref().and_then(|id| longer.get(id));
        // The longest lease may have been given by another manager, or have been written down after the deadline was set.
        let left =
            |lease: &LongLease| Duration::try_from(execution::cancel_deadline(lease.until, 0).duration_since(now)).unwrap_or_default();
        let missing = lease.map_or(Duration::ZERO, |lease| execution::cancel_patience(lease.seconds).saturating_sub(even).max(left(lease)));
        if !missing.is_zero() {
            let mut change = executions::moved(&row, row.state, &row.reason, &row.detail, env);
            change.entered = row.entered;
            let deadline = now.saturating_add(missing).unwrap_or(Timestamp::MAX);
            change.cancel = Some(Some(CancelRequest { deadline, ..cancel }));
            tx.change_executions(&[change]).await?;
            continue;
        }
        if execution::has_begun(row.state) {
            // What has begun may go on to its end; without a lease nothing follows it.
            let mut change = executions::moved(&row, row.state, &row.reason, &row.detail, env);
            change.entered = row.entered;
            change.cancel = Some(Some(CancelRequest { stage: CancelStage::LeaseOver, ..cancel }));
            tx.change_executions(&[change]).await?;
            env.wakes().jobs.insert(row.job);
            continue;
        }
        executions::finish_cancel(tx, env, &row, cancel.reason).await?;
    }
    Ok(more)
}

/// Completes these jobs if every execution is at an end and no group can bring more.
pub async fn complete(tx: &mut dyn Tx, env: &Env, jobs: &[JobId]) -> Result<()> {
    for id in jobs {
        let Some(mut job) = tx.job(id).await?.filter(|j| j.state == JobState::Active) else { continue };
        if !is_complete(tx, id).await? {
            continue;
        }
        job.state = JobState::Completed;
        job.ended = Some(env.now);
        tx.save_job(&job).await?;
        env.audit(tx, "complete_job", format!("jobs/{id}"), "").await?;
        events::job_ended(tx, env, &job).await?;
        env.wakes().jobs.insert(id.clone());
    }
    Ok(())
}

/// Whether every execution that a job will ever have is at an end.
async fn is_complete(tx: &mut dyn Tx, id: &JobId) -> Result<bool> {
    if !execution::all_ended(&tx.counts(id).await?) {
        return Ok(false);
    }
    // Who is reached by a condition may come later, and what is to stay is looked at again.
    if tx.job(id).await?.is_some_and(|job| !job.clients_where.is_empty() || job.terms.keep.is_some()) {
        return Ok(false);
    }
    let mut clients = Vec::new();
    for target in tx.job_targets(id).await? {
        match target {
            Target::Group(_) => return Ok(false),
            Target::Client(client) => clients.push(client),
        }
    }
    // A client that waits for approval has no row yet and will get one, unless it was removed or archived.
    for batch in clients.chunks(BATCH as usize) {
        let keys: Vec<_> = batch.iter().map(|client| (id.clone(), client.clone())).collect();
        let rows: BTreeSet<ClientId> = tx.executions(&keys).await?.into_iter().map(|row| row.client).collect();
        let mut without = destinations::reached(tx, id, batch).await?;
        without.retain(|client| !rows.contains(client));
        let without: Vec<ClientId> = without.into_iter().collect();
        if tx.clients(&without).await?.iter().any(|client| client.state != ClientState::Removed && client.archived.is_none()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Jobs of this page that stand although they are complete: the manager ended between the last outcome and the look at its
/// job. Gives them back with the key of the next page.
pub async fn completable(tx: &mut dyn Tx, after: Option<String>) -> Result<(Vec<JobId>, Option<String>)> {
    let jobs = tx.jobs_in(&Page { after, limit: BATCH }, JobState::Active).await?;
    let next = if jobs.len() as u32 == BATCH { jobs.last().map(|j| j.id.to_string()) } else { None };
    let mut complete = Vec::new();
    for job in jobs {
        if is_complete(tx, &job.id).await? {
            complete.push(job.id);
        }
    }
    Ok((complete, next))
}

/// Forgets answers that are kept for repeated requests, after their time, software that no client has any more, what waited for a second
/// person too long, and plans that are over.
pub async fn forget_requests(tx: &mut dyn Tx, env: &Env) -> Result<()> {
    let before = env.now.checked_sub(env.settings.limits.request_memory).unwrap_or(env.now);
    tx.drop_requests(before).await?;
    tx.drop_titles().await?;
    approvals::expire(tx, env).await?;
    planned::forget(tx, env).await?;
    schedule::forget_leases(tx, env).await
}
