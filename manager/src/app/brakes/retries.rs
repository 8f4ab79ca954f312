//! Retries by themselves: what failed is run again when its job says so, and not before.

use super::{Env, Result, release};
use crate::app::executions;
use sutler_base::{
    ClientId, JobId, Timestamp,
    outcome::Outcome,
    state::{ErrorKind, ExecutionState, HoldReason, JobState, Purpose},
};
use sutler_core::model::Execution;
use sutler_store::{ExecutionChange, Retried, Tx};

/// How many rows are released in one unit.
const BATCH: u32 = 500;

/// What an attempt that its agent knows nothing of any more is by: it was interrupted, and its journal lost.
pub const LOST: &[ErrorKind] = &[ErrorKind::Interrupted, ErrorKind::JournalLost];

/// What an attempt ended by that did not end well.
pub fn kind(outcome: &Outcome, to: ExecutionState) -> ErrorKind {
    match to {
        ExecutionState::Interrupted => ErrorKind::Interrupted,
        _ => outcome.failure().map_or(ErrorKind::Interrupted, |failure| failure.kind),
    }
}

/// The row of an execution that ended by one of these, if it is to be run again by itself: it waits for its time from now on. `change`
/// is what would become of it otherwise.
pub async fn again(
    tx: &mut dyn Tx,
    env: &Env,
    row: &Execution,
    kinds: &[ErrorKind],
    change: &ExecutionChange,
) -> Result<Option<(ExecutionChange, Retried)>> {
    if !matches!(change.to, ExecutionState::Failed | ExecutionState::Interrupted) || row.purpose == Purpose::Leave {
        return Ok(None);
    }
    // Not for update: the job's row is locked by whoever changes it, and a retry of one that has ended is called off by that.
    let Some(retries) = tx.job_terms(&row.job).await?.and_then(|terms| terms.retries) else { return Ok(None) };
    let Some(kind) = kinds.iter().copied().find(|kind| retries.mean(*kind)) else { return Ok(None) };
    let key = (row.job.clone(), row.client.clone());
    let used = tx.retries(std::slice::from_ref(&key)).await?.pop().map_or(0, |retried| retried.used);
    // By the clock of all managers: whichever sees that it is due lets it go.
    let now = env.common_clock(tx).await?;
    let Some(due) = retries.next(kind, used, &row.job, &row.client, now) else { return Ok(None) };
    let stands = tx
        .job(&row.job)
        .await?
        .is_some_and(|job| matches!(job.state, JobState::Active | JobState::Paused) && job.expires.is_none_or(|expires| expires > due));
    if !stands || !executions::is_reached(tx, &row.job, &row.client).await? {
        return Ok(None);
    }
    let detail = format!("{} ({kind})", change.detail);
    let mut again = executions::moved(row, ExecutionState::Queued, HoldReason::Retry.as_str(), &detail, env);
    again.cancel = Some(None);
    Ok(Some((again, Retried { job: key.0, client: key.1, used: used + 1, due: Some(due) })))
}

/// Writes down what was decided, once the row is queued.
pub async fn wait(tx: &mut dyn Tx, retried: &Retried) -> Result<()> {
    tx.put_retries(retried).await?;
    tx.hold(&[(retried.job.clone(), retried.client.clone())], HoldReason::Retry).await?;
    Ok(())
}

/// The rows whose time has come.
pub async fn due(tx: &mut dyn Tx, env: &Env) -> Result<Vec<(JobId, ClientId)>> {
    let now = env.common_clock(tx).await?;
    Ok(tx.retries_due(now, BATCH).await?)
}

/// Lets those of these rows go whose time has come. It may have when they were found, and be another time by now: another manager let
/// them go, and they failed again.
pub async fn go_on(tx: &mut dyn Tx, env: &Env, rows: &[(JobId, ClientId)]) -> Result<()> {
    let now = env.common_clock(tx).await?;
    let due = tx.retries_done(rows, now).await?;
    release(tx, env, &due, HoldReason::Retry).await
}

/// Lets these rows go, since somebody does not want to wait for their time.
pub async fn go(tx: &mut dyn Tx, env: &Env, rows: &[(JobId, ClientId)]) -> Result<()> {
    tx.retries_done(rows, Timestamp::MAX).await?;
    release(tx, env, rows, HoldReason::Retry).await
}

/// What a row waits for that waits for its retry.
pub async fn sentence(tx: &mut dyn Tx, row: &Execution) -> Result<String> {
    let key = (row.job.clone(), row.client.clone());
    let retried = tx.retries(std::slice::from_ref(&key)).await?.pop();
    let count = tx.job_terms(&row.job).await?.and_then(|terms| terms.retries).map_or(0, |retries| retries.count);
    let (used, due) = retried.map_or((0, None), |retried| (retried.used, retried.due));
    let when = due.map_or_else(|| "now".to_owned(), |due| format!("at {}", due.strftime("%Y-%m-%dT%H:%M:%SZ")));
    Ok(format!("retry {used} of {count} comes {when}; it failed: {}", row.detail))
}
