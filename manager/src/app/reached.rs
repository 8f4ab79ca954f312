//! Whom a unit of work brings within reach of jobs: noted where it happens, and counted before the commit, whatever the way was.
//!
//! It counts who gets something to do by it: a row that is new, that is queued again, or whose order changes before it has begun. Of what
//! has its effect only later it counts whom that would concern now: the members of a job's groups that starts at a time, the clients
//! that a policy looks at by their facts, whichever of the job and the policy is there first. What comes in later goes through the
//! stages, gates and budgets of those jobs.

use super::{Env, Result};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{ClientId, JobId, state::ExecutionState};
use sutler_store::{Page, Tx};

/// How many rows are read at a time.
const BATCH: u32 = 500;
/// The states in which a row has begun nothing.
pub const NOT_BEGUN: &[ExecutionState] =
    &[ExecutionState::Queued, ExecutionState::Offered, ExecutionState::Downloading, ExecutionState::Waiting];

/// What was noted so far.
#[derive(Debug, Default)]
pub struct Reached {
    clients: BTreeMap<JobId, BTreeSet<ClientId>>,
    coming: BTreeMap<JobId, BTreeSet<ClientId>>,
    rows: BTreeMap<JobId, &'static [ExecutionState]>,
}

impl Reached {
    /// A job reaches these clients.
    pub fn note<'c>(&mut self, job: &JobId, clients: impl IntoIterator<Item = &'c ClientId>) {
        note(&mut self.clients, job, clients);
    }

    /// A job will reach these clients once policies have looked at them: it has no rows of them yet.
    pub fn note_coming<'c>(&mut self, job: &JobId, clients: impl IntoIterator<Item = &'c ClientId>) {
        note(&mut self.coming, job, clients);
    }

    /// A job reaches all of its rows that are in these states; in any, if there are none.
    pub fn note_rows(&mut self, job: &JobId, states: &'static [ExecutionState]) {
        self.rows.insert(job.clone(), states);
    }

    /// The clients that a job was noted to reach, without those that policies will bring.
    pub fn of(&self, job: &JobId) -> Vec<ClientId> {
        self.clients.get(job).into_iter().flatten().cloned().collect()
    }

    /// The unit of work begins anew.
    pub fn forget(&mut self) {
        *self = Reached::default();
    }
}

fn note<'c>(all: &mut BTreeMap<JobId, BTreeSet<ClientId>>, job: &JobId, clients: impl IntoIterator<Item = &'c ClientId>) {
    let mut clients = clients.into_iter().peekable();
    if clients.peek().is_some() {
        all.entry(job.clone()).or_default().extend(clients.cloned());
    }
}

/// How many clients are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// How many, each once.
    pub clients: u64,
    /// How many by each job.
    pub jobs: BTreeMap<JobId, u64>,
}

/// Counts what was noted in this unit of work. If that is fewer than `bound` clients, no more is sure than that.
pub async fn count(tx: &mut dyn Tx, env: &Env, bound: u64) -> Result<Count> {
    let Reached { mut clients, coming, rows } = std::mem::take(&mut *env.reached());
    for (job, coming) in coming {
        clients.entry(job).or_default().extend(coming);
    }
    let mut jobs: BTreeMap<JobId, u64> = clients.iter().map(|(job, clients)| (job.clone(), clients.len() as u64)).collect();
    for (job, states) in &rows {
        let counts = tx.counts(job).await?;
        let of: i64 = counts.0.iter().filter(|(state, _)| is_among(states, **state)).map(|(_, n)| n).sum();
        // Who was noted besides may have a row by now, and is one of these then.
        let more = match clients.get(job) {
            Some(noted) => without_row(tx, job, noted, states).await?,
            None => 0,
        };
        jobs.insert(job.clone(), u64::try_from(of).unwrap_or_default() + more);
    }
    jobs.retain(|_, n| *n > 0);
    let at_most: u64 = jobs.values().sum();
    if at_most < bound || jobs.len() < 2 {
        return Ok(Count { clients: at_most, jobs });
    }
    // A client may be among those of several jobs.
    let mut all: BTreeSet<ClientId> = clients.into_values().flatten().collect();
    for (job, states) in rows {
        let mut page = Page { after: None, limit: BATCH };
        loop {
            let found = tx.list_executions(&job, &page, states).await?;
            let full = found.len() as u32 == BATCH;
            page.after = found.last().map(|row| row.client.to_string());
            all.extend(found.into_iter().map(|row| row.client));
            if !full {
                break;
            }
        }
    }
    Ok(Count { clients: all.len() as u64, jobs })
}

fn is_among(states: &[ExecutionState], state: ExecutionState) -> bool {
    states.is_empty() || states.contains(&state)
}

/// How many of these clients have no row of the job in these states.
async fn without_row(tx: &mut dyn Tx, job: &JobId, clients: &BTreeSet<ClientId>, states: &[ExecutionState]) -> Result<u64> {
    let keys: Vec<_> = clients.iter().map(|client| (job.clone(), client.clone())).collect();
    let mut with = 0;
    for batch in keys.chunks(BATCH as usize) {
        with += tx.executions(batch).await?.iter().filter(|row| is_among(states, row.state)).count();
    }
    Ok((keys.len() - with) as u64)
}
