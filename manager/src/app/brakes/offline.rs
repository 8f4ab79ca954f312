//! Clients that are out of contact when their turn comes, in jobs that say what becomes of them. While brakes hold back what would
//! be offered it is nobody's turn, and that time does not count.

use super::{Env, Gate, Result, budgets};
use crate::app::executions;
use std::collections::BTreeSet;
use sutler_base::{
    ClientId, JobId, Timestamp,
    state::{ClientState, ErrorKind, ExecutionState, JobState, Presence, Purpose},
};
use sutler_core::{
    brake::offline::{Due, Offline},
    model::{Execution, Job},
    rollout::RECONNECT_SECONDS,
};
use sutler_store::{Page, Tx};

/// How many rows are looked at in one unit.
const BATCH: u32 = 500;

/// What is due.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    note: Vec<ClientId>,
    end: Vec<ClientId>,
    /// Their time does not count from now on.
    hold: Vec<ClientId>,
    /// It counts again.
    resume: Vec<ClientId>,
}

impl Looked {
    /// Whether nothing is due.
    pub fn is_nothing(&self) -> bool {
        [&self.note, &self.end, &self.hold, &self.resume].iter().all(|clients| clients.is_empty())
    }
}

/// Those of these clients to whom nothing of a job would be offered, were they here: by the gate through which attempts go, or because
/// the job's budget is used up.
async fn held_back(tx: &mut dyn Tx, env: &Env, job: &Job, clients: &[ClientId]) -> Result<BTreeSet<ClientId>> {
    if !budgets::has_room(tx, env, job).await? {
        return Ok(clients.iter().cloned().collect());
    }
    Gate::now(tx).await?.covered_of(tx, job, clients).await
}

/// What is due for these clients of a job, whose turn has come. With each stands when it was heard of last.
pub async fn look(tx: &mut dyn Tx, env: &Env, job: &Job, clients: &[(ClientId, Timestamp)]) -> Result<Looked> {
    let mut looked = Looked::default();
    let offline = job.terms.offline;
    // Whoever tries to has reached a manager that has just started, or can just read again what others hear, by then.
    let starts = env.now.duration_since(env.live.hears_others_since()).as_secs() < RECONNECT_SECONDS;
    if offline.waits_for_ever() || clients.is_empty() || starts {
        return Ok(looked);
    }
    let ids: Vec<ClientId> = clients.iter().map(|(client, _)| client.clone()).collect();
    let awaited = if matches!(offline, Offline::QueueFor(_)) { tx.awaited(&job.id, &ids).await? } else { vec![] };
    let held_back = held_back(tx, env, job, &ids).await?;
    for (client, heard) in clients {
        // Who was heard of since is waited for anew.
        let noted = awaited.iter().find(|noted| noted.client == *client).filter(|noted| noted.since >= *heard);
        let held = noted.is_some_and(|noted| noted.held.is_some());
        if held_back.contains(client) {
            looked.hold.extend((noted.is_some() && !held).then(|| client.clone()));
            continue;
        }
        if held {
            looked.resume.push(client.clone());
            continue;
        }
        let since = noted.map(|noted| noted.since);
        match offline.due(*heard, since, env.now) {
            Due::Nothing => {}
            Due::Note => looked.note.push(client.clone()),
            Due::End => looked.end.push(client.clone()),
        }
    }
    Ok(looked)
}

/// Does what is due.
pub async fn act(tx: &mut dyn Tx, env: &Env, job: &Job, looked: &Looked) -> Result<()> {
    tx.put_awaited(&job.id, &looked.note, env.now).await?;
    tx.hold_awaited(&job.id, &looked.hold, env.now).await?;
    tx.resume_awaited(&job.id, &looked.resume, env.now).await?;
    let keys: Vec<_> = looked.end.iter().map(|client| (job.id.clone(), client.clone())).collect();
    let rows = tx.executions(&keys).await?;
    let end = |row: &Execution| match job.terms.offline {
        Offline::Fail => (ExecutionState::Failed, "the client was offline when its turn came, and the job does not wait for it"),
        Offline::QueueFor(_) => (ExecutionState::Expired, "the client was offline when its turn came, and was not back in time"),
        _ if row.attempts > 0 => (ExecutionState::Rejected, "the client was offline when its turn came again, and was passed over"),
        _ => (ExecutionState::Rejected, "the client was offline when its turn came, and was passed over"),
    };
    // What is owed to a machine that had its turn waits for it.
    let is_due = |row: &&Execution| row.state == ExecutionState::Queued && row.purpose == Purpose::Order;
    let ended = rows.iter().filter(is_due).map(|row| {
        let (to, why) = end(row);
        executions::moved(row, to, ErrorKind::Offline.as_str(), why, env)
    });
    let changes: Vec<_> = ended.collect();
    tx.change_executions(&changes).await?;
    tx.forget_awaited(&keys).await?;
    env.wakes().jobs.insert(job.id.clone());
    Ok(())
}

/// Those of these clients that may work and are out of contact, and when each was heard of last.
async fn away(tx: &mut dyn Tx, env: &Env, clients: &[ClientId]) -> Result<Vec<(ClientId, Timestamp)>> {
    let found = tx.clients(clients).await?;
    let away = found.into_iter().filter(|client| client.state == ClientState::Active && env.presence(client) != Presence::Online);
    Ok(away.map(|client| (client.id, client.last_seen)).collect())
}

/// The next page of the active jobs, and of each what is due for clients whose row nothing holds. Those that a stage passes over are
/// looked at by the rollout.
pub async fn due(tx: &mut dyn Tx, env: &Env, after: &Option<String>) -> Result<(Vec<(JobId, Looked)>, Option<String>)> {
    let jobs = tx.jobs_in(&Page { after: after.clone(), limit: BATCH }, JobState::Active).await?;
    let next = if jobs.len() as u32 == BATCH { jobs.last().map(|job| job.id.to_string()) } else { None };
    let mut all = Vec::new();
    for job in jobs.into_iter().filter(|job| !job.terms.offline.waits_for_ever()) {
        let mut page = Page { after: None, limit: BATCH };
        loop {
            let rows = tx.list_executions(&job.id, &page, &[ExecutionState::Queued]).await?;
            let full = rows.len() as u32 == BATCH;
            page.after = rows.last().map(|row| row.client.to_string());
            let free: Vec<ClientId> =
                rows.into_iter().filter(|row| row.hold.is_none() && row.purpose == Purpose::Order).map(|row| row.client).collect();
            let away = away(tx, env, &free).await?;
            let looked = look(tx, env, &job, &away).await?;
            if !looked.is_nothing() {
                all.push((job.id.clone(), looked));
            }
            if !full {
                break;
            }
        }
    }
    Ok((all, next))
}

/// Does what is due in a job, as long as it is active.
pub async fn step(tx: &mut dyn Tx, env: &Env, id: &JobId, looked: &Looked) -> Result<()> {
    let Some(job) = tx.job(id).await?.filter(|job| job.state == JobState::Active) else { return Ok(()) };
    // Who has come meanwhile is not passed over.
    let all = [&looked.note, &looked.end, &looked.hold, &looked.resume];
    let ids: Vec<ClientId> = all.into_iter().flatten().cloned().collect();
    let away = away(tx, env, &ids).await?;
    let looked = look(tx, env, &job, &away).await?;
    act(tx, env, &job, &looked).await
}
