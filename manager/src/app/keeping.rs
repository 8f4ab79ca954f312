//! What a job installed is to stay: it is looked at now and then, and what is gone is installed again, as another attempt.
//!
//! The agent is asked without an attempt: a client where all is well shows nothing of it. One that is offline or can't say is asked when
//! its turn comes the next time.

use super::{Env, Result, destinations, executions, rollouts};
use sutler_base::{
    ClientId, JobId,
    state::{Intent, JobState, Purpose},
};
use sutler_core::{
    keep,
    model::{Execution, Job, JobPackage},
};
use sutler_store::Tx;

/// How many clients are looked for together.
pub const TOGETHER: usize = 500;

/// A client that is to be asked whether it still has what a job installed.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who.
    pub client: ClientId,
    /// The job.
    pub job: JobId,
    /// The packages with their signed envelopes.
    pub items: Vec<(JobPackage, Vec<u8>)>,
}

/// What of a job is to be there on a client: what it installs, in the revision that was installed.
async fn installed(tx: &mut dyn Tx, row: &Execution) -> Result<Vec<(JobPackage, Vec<u8>)>> {
    let packages = tx.job_packages(&row.job, row.revision).await?;
    let uids: Vec<_> = packages.iter().filter_map(|p| p.version.clone()).collect();
    let versions = tx.versions_by_uid(&uids).await?;
    let items = packages.into_iter().filter(|p| p.intent == Intent::Install).filter_map(|p| {
        let envelope = versions.iter().find(|v| p.version.as_ref() == Some(&v.uid))?.envelope.clone();
        Some((p, envelope))
    });
    Ok(items.collect())
}

/// Whether the row is one of which something is to stay.
fn is_kept(row: &Execution, job: &Job) -> bool {
    row.state.is_good() && row.purpose != Purpose::Leave && row.cancel.is_none() && job.terms.keep.is_some()
}

/// Those of these clients that are to be asked by now. Each is asked again in the job's next interval, whatever comes of it.
pub async fn due(tx: &mut dyn Tx, env: &Env, clients: &[ClientId]) -> Result<Vec<Question>> {
    let (mut questions, mut next) = (Vec::new(), Vec::new());
    for (row, job) in tx.checks_due(clients, env.now, TOGETHER as u32).await? {
        let ended = !destinations::STANDING.contains(&job.state);
        let every = job.terms.keep.filter(|_| !ended && is_kept(&row, &job));
        next.push((job.id.clone(), row.client.clone(), every.map(|every| keep::next(&job.id, &row.client, every, env.now))));
        if every.is_some() && job.state == JobState::Active && executions::is_reached(tx, &job.id, &row.client).await? {
            let items = installed(tx, &row).await?;
            if !items.is_empty() {
                questions.push(Question { client: row.client, job: job.id, items });
            }
        }
    }
    tx.set_checks(&next).await?;
    Ok(questions)
}

/// Notes that a job's rows have come to a good end on these clients: if the job is to stay, they are looked at from now on.
pub async fn finished(tx: &mut dyn Tx, env: &Env, job: &JobId, clients: &[ClientId]) -> Result<()> {
    if !clients.is_empty()
        && let Some(every) = tx.job_terms(job).await?.and_then(|terms| terms.keep)
    {
        let next = |client: &ClientId| (job.clone(), client.clone(), Some(keep::next(job, client, every, env.now)));
        tx.set_checks(&clients.iter().map(next).collect::<Vec<_>>()).await?;
    }
    Ok(())
}

/// What an agent says is missing of what a job installed: another attempt puts it there, through the same gates as any other.
pub async fn missing(tx: &mut dyn Tx, env: &Env, client: &ClientId, job: &JobId, what: &str) -> Result<()> {
    let Some(row) = tx.execution(job, client).await? else { return Ok(()) };
    let Some(job) = tx.job(job).await?.filter(|j| j.state == JobState::Active && is_kept(&row, j)) else { return Ok(()) };
    if !executions::is_reached(tx, &job.id, client).await? {
        return Ok(());
    }
    again(tx, env, &row, what).await
}

/// Has what the job installed installed again, for it is gone.
pub async fn again(tx: &mut dyn Tx, env: &Env, row: &Execution, what: &str) -> Result<()> {
    let mut change = executions::moved(row, sutler_base::state::ExecutionState::Queued, Purpose::Drift.as_str(), what, env);
    change.purpose = Some(Purpose::Drift);
    rollouts::queued_again(tx, &row.job, &[row]).await?;
    tx.change_executions(&[change]).await?;
    env.audit(tx, "drift", format!("jobs/{}/executions/{}", row.job, row.client), what).await?;
    let mut wakes = env.wakes();
    wakes.jobs.insert(row.job.clone());
    wakes.clients.insert(row.client.clone());
    Ok(())
}

/// Has everything of a job looked at that was installed before the job was to stay.
pub async fn begin(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    use sutler_base::state::ExecutionState::{AlreadyInstalled, Succeeded};
    let Some(every) = job.terms.keep else { return Ok(()) };
    let mut page = sutler_store::Page { after: None, limit: TOGETHER as u32 };
    loop {
        let rows = tx.list_executions(&job.id, &page, &[Succeeded, AlreadyInstalled]).await?;
        let full = rows.len() == TOGETHER;
        page.after = rows.last().map(|r| r.client.to_string());
        let next = rows.into_iter().map(|r| {
            let at = keep::next(&job.id, &r.client, every, env.now);
            (r.job, r.client, Some(at))
        });
        tx.set_checks(&next.collect::<Vec<_>>()).await?;
        if !full {
            return Ok(());
        }
    }
}
