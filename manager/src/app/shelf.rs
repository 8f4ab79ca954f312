//! What the users of machines may have installed: rows of jobs that are offered to them, and what they choose.
//!
//! Such a row is QUEUED and held until its user chooses it. From then on it is like any other: it waits for its stage of the rollout,
//! its windows hold, and the machine checks what it is given. Rows that nobody has chosen are in no stage, and neither fail nor are
//! silent; they count among the job's rows, of which stages take their percentage.

use super::{Env, Result, rollouts};
use std::collections::BTreeMap;
use sutler_base::{
    ClientId, JobId, Uid,
    state::{ExecutionState, HoldReason},
};
use sutler_core::model::{Execution, Job};
use sutler_store::Tx;

/// How many rows are handled at a time.
const BATCH: u32 = 500;
/// The most that one machine is offered.
pub const SHELF_MAX: usize = 200;

/// One job that a machine's user may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The job.
    pub job: JobId,
    /// The name of its first package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// What it is.
    pub description: String,
    /// Bytes of the files of all packages.
    pub total_bytes: u64,
}

/// Whether the row waits for its user to choose it.
pub fn is_offered(row: &Execution) -> bool {
    row.hold == Some(HoldReason::User) && row.state == ExecutionState::Queued && row.cancel.is_none()
}

/// What was looked up of jobs, for all machines of a batch.
#[derive(Default)]
pub struct Shelves {
    jobs: BTreeMap<JobId, Option<Offered>>,
}

impl Shelves {
    /// What the user of a machine with these open rows may choose.
    pub async fn of(&mut self, tx: &mut dyn Tx, rows: &[Execution]) -> Result<Vec<Offered>> {
        let mut out = Vec::new();
        for row in rows.iter().filter(|row| is_offered(row)) {
            if !self.jobs.contains_key(&row.job) {
                let found = look_up(tx, &row.job).await?;
                self.jobs.insert(row.job.clone(), found);
            }
            out.extend(self.jobs.get(&row.job).cloned().flatten());
        }
        out.sort_by(|a, b| (&a.package, &a.job).cmp(&(&b.package, &b.job)));
        out.truncate(SHELF_MAX);
        Ok(out)
    }
}

async fn look_up(tx: &mut dyn Tx, id: &JobId) -> Result<Option<Offered>> {
    let Some(job) = tx.job(id).await? else { return Ok(None) };
    let packages = tx.job_packages(id, job.revision).await?;
    let uids: Vec<Uid> = packages.iter().filter_map(|p| p.version.clone()).collect();
    let versions = tx.versions_by_uid(&uids).await?;
    let Some(first) = packages.iter().find(|p| p.needed.is_empty()) else { return Ok(None) };
    let version = versions.iter().find(|v| Some(&v.uid) == first.version.as_ref());
    let said = if job.description.is_empty() { version.map(|v| v.description.clone()).unwrap_or_default() } else { job.description };
    Ok(Some(Offered {
        job: id.clone(),
        package: first.package.to_string(),
        version: first.version_text.clone(),
        // A line for a list.
        description: said.lines().next().unwrap_or_default().chars().filter(|c| !sutler_base::is_harmful(*c)).take(200).collect(),
        total_bytes: versions.iter().map(|v| v.total_bytes).sum(),
    }))
}

/// Wakes every client whose user may choose this job from now on.
pub async fn wake(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    if !job.terms.user.available {
        return Ok(());
    }
    let mut after: Option<ClientId> = None;
    loop {
        let held = tx.clients_held(&job.id, HoldReason::User, after.as_ref(), BATCH).await?;
        let full = held.len() as u32 == BATCH;
        after = held.last().cloned();
        env.wakes().clients.extend(held);
        if !full {
            return Ok(());
        }
    }
}

/// The user of a machine wants this job. The same again changes nothing. Gives back a sentence if nothing of it is offered there.
pub async fn choose(tx: &mut dyn Tx, env: &Env, client: &ClientId, job: &str) -> Result<std::result::Result<(), String>> {
    let refused = || Ok(Err("this is not offered any more; see sutler-agent available".to_owned()));
    let Some(id) = job.strip_prefix("jobs/").and_then(|id| id.parse::<JobId>().ok()) else { return refused() };
    let Some(row) = tx.execution(&id, client).await? else { return refused() };
    if !is_offered(&row) {
        // Chosen before, and its answer was lost; or called off meanwhile.
        return if row.state == ExecutionState::Canceled { refused() } else { Ok(Ok(())) };
    }
    if tx.choose(&id, client).await? {
        env.audit(tx, "choose", format!("jobs/{id}"), format!("the user of clients/{client} wants it installed")).await?;
        rollouts::wake(env, &id);
        env.wakes().clients.insert(client.clone());
    }
    Ok(Ok(()))
}
