//! What happens by itself: jobs that expire or are complete, cancellations that become final. Each of these has no input: it
//! reads what is and does what is due, so that running it twice, or late, does no harm.

use super::{Env, Result, executions};
use sutler_base::{
    JobId,
    state::{ExecutionState, JobState},
};
use sutler_core::{execution, model::Target};
use sutler_store::{Page, Tx};

/// How many rows are handled in one unit.
const BATCH: u32 = 500;

/// Ends jobs whose time is over: what was not offered expires; what was, its agent ends. Gives back whether more is due.
pub async fn expire(tx: &mut dyn Tx, env: &Env) -> Result<bool> {
    let due = tx.jobs_expired(env.now, &[JobState::Scheduled, JobState::Active, JobState::Paused], 20).await?;
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
        env.wakes().jobs.insert(job.id);
    }
    Ok(more)
}

/// Makes cancellations final whose last lease has run out without an answer. Gives back whether more is due.
pub async fn finish_cancels(tx: &mut dyn Tx, env: &Env) -> Result<bool> {
    let due = tx.cancels_overdue(env.now, BATCH).await?;
    let more = due.len() as u32 == BATCH;
    for row in due {
        let Some(cancel) = row.cancel.clone() else { continue };
        let change = executions::canceled(tx, env, &row, cancel.reason).await?;
        tx.change_executions(&[change]).await?;
    }
    Ok(more)
}

/// Completes these jobs if every execution is at an end and no group can bring more.
pub async fn complete(tx: &mut dyn Tx, env: &Env, jobs: &[JobId]) -> Result<()> {
    for id in jobs {
        let Some(mut job) = tx.job(id).await?.filter(|j| j.state == JobState::Active) else { continue };
        let counts = tx.counts(id).await?;
        if counts.0.is_empty() || !execution::all_ended(&counts) {
            continue;
        }
        let targets = tx.job_targets(id).await?;
        // A client that waits for approval has no row yet and will get one.
        let clients = targets.iter().filter(|t| matches!(t, Target::Client(_))).count() as i64;
        if targets.iter().any(|t| matches!(t, Target::Group(_))) || counts.0.values().sum::<i64>() < clients {
            continue;
        }
        job.state = JobState::Completed;
        job.ended = Some(env.now);
        tx.save_job(&job).await?;
        env.audit(tx, "complete_job", format!("jobs/{id}"), "").await?;
        env.wakes().jobs.insert(id.clone());
    }
    Ok(())
}

/// Forgets answers that are kept for repeated requests, after their time.
pub async fn forget_requests(tx: &mut dyn Tx, env: &Env) -> Result<()> {
    let before = env.now.checked_sub(env.settings.limits.request_memory).unwrap_or(env.now);
    tx.drop_requests(before).await?;
    Ok(())
}
