//! Executions: how clients come into reach of a job and leave it, and how cancellations are carried out.

use super::{Env, Result, destinations, events, leaving, rollouts, schedule};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    ClientId, JobId,
    state::{CancelReason, ClientState, ErrorKind, ExecutionState, JobState, Purpose},
};
use sutler_core::{
    execution::{self, Cancellation},
    model::{CancelRequest, Client, Execution},
};
use sutler_store::{ExecutionChange, Tx};

/// How many rows are handled at a time.
const BATCH: usize = 500;

/// A change that moves `execution` to `to` and leaves everything else as it is.
pub fn moved(execution: &Execution, to: ExecutionState, reason: &str, detail: &str, env: &Env) -> ExecutionChange {
    ExecutionChange {
        job: execution.job.clone(),
        client: execution.client.clone(),
        from: execution.state,
        to,
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        entered: env.now,
        attempt: None,
        progress: None,
        cancel: None,
        purpose: None,
    }
}

/// Brings clients into reach of a job: a row for each that has none, and back into the queue those that had left before
/// their newest attempt started. What finished stays finished.
pub async fn reach(tx: &mut dyn Tx, env: &Env, job: &JobId, clients: &[ClientId]) -> Result<()> {
    for batch in clients.chunks(BATCH) {
        let added: BTreeSet<ClientId> = tx.insert_executions(job, batch, env.now).await?.into_iter().collect();
        let reached = destinations::reached(tx, job, batch).await?;
        let keys: Vec<_> = reached.iter().filter(|c| !added.contains(c)).map(|c| (job.clone(), c.clone())).collect();
        let mut changes = Vec::new();
        let mut called_back = Vec::new();
        for row in tx.executions(&keys).await? {
            if execution::comes_back(&row) {
                rollouts::queued_again(tx, job, &[&row]).await?;
                let mut change = moved(&row, ExecutionState::Queued, "", "", env);
                change.cancel = Some(None);
                // What was found missing is missing still.
                change.purpose = (row.purpose == Purpose::Leave).then_some(Purpose::Order);
                changes.push(change);
            } else if row.purpose == Purpose::Leave {
                match execution::cancellation(&row, false) {
                    Cancellation::AtOnce => changes.push(leaving::take_back(tx, env, &row).await?),
                    _ => called_back.push(row),
                }
            }
        }
        tx.change_executions(&changes).await?;
        cancel(tx, env, &called_back, CancelReason::CameBack).await?;
        let queued = changes.iter().filter(|change| change.to == ExecutionState::Queued).map(|change| &change.client);
        env.reached().note(job, added.iter().chain(queued));
        let mut wakes = env.wakes();
        wakes.clients.extend(added);
        wakes.clients.extend(changes.into_iter().map(|c| c.client));
        wakes.jobs.insert(job.clone());
    }
    Ok(())
}

/// The client's machine was replaced, and what was installed is gone: every job that stands and reaches it makes a new attempt.
/// What the old machine had begun is over, for nobody can report it any more.
pub async fn start_over(tx: &mut dyn Tx, env: &Env, client: &Client) -> Result<()> {
    let mut standing = BTreeSet::new();
    for job in destinations::jobs_holding(tx, &client.id, &destinations::STANDING).await? {
        if is_reached(tx, &job, &client.id).await? {
            standing.insert(job);
        }
    }
    let keys: Vec<_> = standing.iter().map(|job| (job.clone(), client.id.clone())).collect();
    let mut rows = Vec::new();
    for batch in keys.chunks(BATCH) {
        rows.extend(tx.executions(batch).await?);
    }
    rows.extend(tx.open_executions_of(&client.id).await?.into_iter().filter(|row| !standing.contains(&row.job)));
    let mut changes = Vec::new();
    for row in rows.iter().filter(|row| row.state != ExecutionState::Queued) {
        if standing.contains(&row.job) {
            rollouts::queued_again(tx, &row.job, &[row]).await?;
        }
        if let Some(attempt) = row.attempt.clone().filter(|_| !row.state.is_end()) {
            if let Some(attempt) = tx.attempt(&attempt).await?.filter(|_| row.cancel.is_none()) {
                let why = (ErrorKind::JournalLost.as_str(), "the machine was replaced");
                events::execution_failed(tx, env, row, &attempt, ExecutionState::Interrupted, why).await?;
            }
            tx.set_attempt_states(&[(attempt, ExecutionState::Interrupted)]).await?;
        }
        let mut change = match &row.cancel {
            _ if standing.contains(&row.job) => moved(row, ExecutionState::Queued, "", "the machine was replaced", env),
            Some(cancel) => moved(row, ExecutionState::Canceled, cancel.reason.as_str(), "", env),
            None => moved(row, ExecutionState::Interrupted, ErrorKind::JournalLost.as_str(), "the machine was replaced", env),
        };
        change.cancel = Some(None);
        change.purpose = Some(Purpose::Order);
        changes.push(change);
    }
    for batch in changes.chunks(BATCH) {
        tx.change_executions(batch).await?;
    }
    env.wakes().jobs.extend(rows.into_iter().map(|row| row.job));
    if client.state != ClientState::Pending {
        for job in standing {
            reach(tx, env, &job, std::slice::from_ref(&client.id)).await?;
        }
    }
    Ok(())
}

/// Whether any destination of the job holds the client, and no exclusion takes it out again.
pub async fn is_reached(tx: &mut dyn Tx, job: &JobId, client: &ClientId) -> Result<bool> {
    Ok(!destinations::reached(tx, job, std::slice::from_ref(client)).await?.is_empty())
}

/// Takes clients out of reach of a job: what has not started is canceled, unless another destination holds the client.
pub async fn no_longer_reached(tx: &mut dyn Tx, env: &Env, job: &JobId, clients: &[ClientId], reason: CancelReason) -> Result<()> {
    for batch in clients.chunks(BATCH) {
        let reached = destinations::reached(tx, job, batch).await?;
        let gone: Vec<_> = batch.iter().filter(|c| !reached.contains(c)).map(|c| (job.clone(), c.clone())).collect();
        let mut rows = tx.executions(&gone).await?;
        // What it takes back is taken back.
        rows.retain(|row| row.purpose != Purpose::Leave || row.cancel.is_some());
        cancel(tx, env, &rows, reason).await?;
        let gone: Vec<ClientId> = gone.into_iter().map(|(_, client)| client).collect();
        leaving::leave(tx, env, job, &gone).await?;
        leaving::leave_others(tx, env, job, &gone).await?;
    }
    Ok(())
}

/// Those of these rows that have begun one of several packages, whose agents are to begin none after it.
async fn with_what_follows(tx: &mut dyn Tx, rows: &[Execution], reason: CancelReason) -> Result<BTreeSet<(JobId, ClientId)>> {
    let mut several: BTreeMap<(JobId, i64), bool> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for row in rows.iter().filter(|row| execution::is_for_what_follows(reason) && execution::has_begun(row.state)) {
        let key = (row.job.clone(), row.revision);
        if !several.contains_key(&key) {
            let packages = tx.job_packages(&row.job, row.revision).await?;
            several.insert(key.clone(), packages.len() > 1);
        }
        // With which of them the agent is it knows best.
        if several[&key] {
            found.insert((row.job.clone(), row.client.clone()));
        }
    }
    Ok(found)
}

/// Cancels rows: at once what was not offered, by asking the agent what was. What has started goes on to its end; of several packages
/// the one that has.
pub async fn cancel(tx: &mut dyn Tx, env: &Env, rows: &[Execution], reason: CancelReason) -> Result<()> {
    let mut changes = Vec::new();
    let usual = execution::cancel_deadline(env.common_clock(tx).await?, env.settings.lease_seconds());
    let followed = with_what_follows(tx, rows, reason).await?;
    let cancellation = |row: &Execution| execution::cancellation(row, followed.contains(&(row.job.clone(), row.client.clone())));
    let asked = rows.iter().filter(|row| cancellation(row) == Cancellation::Ask);
    let asked: Vec<_> = asked.filter_map(|row| row.attempt.clone()).collect();
    let longer = schedule::leased_until(tx, &asked).await?;
    for row in rows {
        match cancellation(row) {
            Cancellation::Nothing | Cancellation::TooLate => {}
            Cancellation::AtOnce => {
                let mut change = moved(row, ExecutionState::Canceled, reason.as_str(), "", env);
                change.cancel = Some(None);
                changes.push(change);
            }
            // What was only put off may be called off meanwhile.
            Cancellation::Ask if row.cancel.as_ref().is_some_and(|c| !execution::by_rollout(c.reason) || execution::by_rollout(reason)) => {
            }
            Cancellation::Ask => {
                // It may hold a lease that reaches into its window.
                let lease = row.attempt.as_ref().and_then(|id| longer.get(id));
                let deadline = lease.map_or(usual, |lease| usual.max(execution::cancel_deadline(lease.until, 0)));
                let mut change = moved(row, row.state, &row.reason, &row.detail, env);
                change.entered = row.entered;
                change.cancel = Some(Some(CancelRequest::asked(reason, deadline)));
                changes.push(change);
            }
        }
    }
    tx.change_executions(&changes).await?;
    let mut wakes = env.wakes();
    wakes.jobs.extend(changes.iter().map(|c| c.job.clone()));
    wakes.clients.extend(changes.into_iter().map(|c| c.client));
    Ok(())
}

/// Makes a cancellation final. What earlier attempts installed is taken back, if the job does that and the client has left its reach.
pub async fn finish_cancel(tx: &mut dyn Tx, env: &Env, row: &Execution, reason: CancelReason) -> Result<()> {
    let change = canceled(tx, env, row, reason, false).await?;
    let ended = change.to == ExecutionState::Canceled && row.purpose != Purpose::Leave;
    tx.change_executions(&[change]).await?;
    if ended && leaving::takes_back(tx, &row.job).await? && !is_reached(tx, &row.job, &row.client).await? {
        leaving::leave(tx, env, &row.job, std::slice::from_ref(&row.client)).await?;
    }
    Ok(())
}

/// What a cancellation ends as, once it is final: canceled; or queued again where the client has come back meanwhile, the job has a
/// new revision, or its turn was only put off, if the job still stands. `begun`: some of its packages were installed before.
pub async fn canceled(tx: &mut dyn Tx, env: &Env, row: &Execution, reason: CancelReason, begun: bool) -> Result<ExecutionChange> {
    let is_reached = is_reached(tx, &row.job, &row.client).await?;
    if row.purpose == Purpose::Leave && is_reached {
        if let Some(attempt) = &row.attempt {
            tx.set_attempt_states(&[(attempt.clone(), ExecutionState::Canceled)]).await?;
        }
        env.wakes().clients.insert(row.client.clone());
        return leaving::take_back(tx, env, row).await;
    }
    let by_rollout = execution::by_rollout(reason);
    // What is uninstalled because the client left goes on later, too; also if it had come back and has left once more.
    let goes_on = row.purpose == Purpose::Leave && (by_rollout || reason == CancelReason::CameBack);
    let back = (goes_on || (by_rollout || execution::by_leaving(reason)) && is_reached)
        && tx.client(&row.client).await?.is_some_and(|client| client.archived.is_none());
    let job = if back { tx.job(&row.job).await?.map(|j| j.state) } else { None };
    let mut change = match job {
        Some(JobState::Active | JobState::Paused) if row.purpose == Purpose::Leave => {
            moved(row, ExecutionState::Queued, &row.reason, &row.detail, env)
        }
        Some(JobState::Active | JobState::Paused) => moved(row, ExecutionState::Queued, "", "", env),
        Some(JobState::Expired) => moved(row, ExecutionState::Expired, "", "the job's time was over before it started here", env),
        // Nothing of a job that has ended may wait in the queue for ever.
        Some(_) => moved(row, ExecutionState::Canceled, CancelReason::JobCanceled.as_str(), "", env),
        None if by_rollout => moved(row, ExecutionState::Canceled, CancelReason::LeftGroup.as_str(), "", env),
        // It was called back for another revision, and has left meanwhile.
        None if reason == CancelReason::Revised => moved(row, ExecutionState::Canceled, CancelReason::LeftGroup.as_str(), "", env),
        None => moved(row, ExecutionState::Canceled, reason.as_str(), "", env),
    };
    change.cancel = Some(None);
    if change.to == ExecutionState::Queued && row.purpose != Purpose::Leave {
        if by_rollout && begun {
            // The package has been let loose on this machine: its place in the stage is taken, and it goes on from there.
        } else if by_rollout {
            // Its place in the stage is free again; who comes next in order gets it.
            tx.hold_by_stage(&row.job, std::slice::from_ref(&row.client), row.state).await?;
        } else {
            rollouts::queued_again(tx, &row.job, &[row]).await?;
        }
    }
    if let Some(attempt) = &row.attempt {
        tx.set_attempt_states(&[(attempt.clone(), ExecutionState::Canceled)]).await?;
    }
    let mut wakes = env.wakes();
    wakes.jobs.insert(row.job.clone());
    wakes.clients.insert(row.client.clone());
    Ok(change)
}
