//! Whom a job reaches: what its destinations hold, and what its exclusions take out of that again.
//!
//! A condition as a destination works as a policy does that keeps its members: whoever it has matched once is noted, and stays reached.

use super::{AppError, Env, Result, clients, conditions, executions, groups, inventory, jobs, leaving};
use std::collections::BTreeSet;
use sutler_base::{
    ClientId, JobId, Uid,
    state::{CancelReason, ClientState, JobState, OnLeave, Source},
};
use sutler_core::{
    execution,
    model::{Client, Job, Membership, Target},
    rights::Reach,
};
use sutler_store::{Page, Tx};

/// How many clients are looked at together.
const BATCH: u32 = 500;
/// The states in which a job reaches who comes.
pub const STANDING: [JobState; 2] = [JobState::Active, JobState::Paused];

/// A destination or an exclusion, as it is asked for. One that whoever asks does not reach is not there for them.
pub async fn resolve(tx: &mut dyn Tx, env: &Env, destination: &jobs::Destination) -> Result<Target> {
    let mut archived = None;
    let (target, unseen) = match destination {
        jobs::Destination::Group(name) => (Target::Group(groups::load(tx, name).await?.uid), AppError::not_found("group", name)),
        jobs::Destination::Client(id) => {
            let client = clients::load(tx, id).await?;
            if client.state == ClientState::Removed {
                return Err(AppError::not_found("client", id));
            }
            archived = client.archived.map(|_| id);
            (Target::Client(id.clone()), AppError::not_found("client", id))
        }
    };
    if !jobs::reaches(tx, env, std::slice::from_ref(&target)).await? {
        return Err(unseen);
    }
    if let Some(id) = archived {
        let message = format!("clients/{id} is archived, and no job reaches it; `client unarchive` takes it back");
        return Err(AppError::state(format!("clients/{id}"), "ARCHIVED", message));
    }
    Ok(target)
}

/// What a job is not to reach, as it is asked for. Whoever asks need not reach it: it gets nothing by that. An archived client may come
/// back.
pub async fn resolve_exclusion(tx: &mut dyn Tx, env: &Env, destination: &jobs::Destination) -> Result<Target> {
    let target = match destination {
        jobs::Destination::Group(name) => Target::Group(groups::load(tx, name).await?.uid),
        jobs::Destination::Client(id) => Target::Client(clients::load(tx, id).await?.id),
    };
    // What is not there and what is not reached look the same.
    match (jobs::reaches(tx, env, std::slice::from_ref(&target)).await?, destination) {
        (true, _) => Ok(target),
        (false, jobs::Destination::Group(name)) => Err(AppError::not_found("group", name)),
        (false, jobs::Destination::Client(id)) => Err(AppError::not_found("client", id)),
    }
}

/// These as they are shown: `groups/NAME` and `clients/ID`.
pub async fn names(tx: &mut dyn Tx, targets: &[Target]) -> Result<Vec<String>> {
    let named = tx.groups_by_uid(&groups_of(targets)).await?;
    let shown = targets.iter().filter_map(|t| match t {
        Target::Client(id) => Some(format!("clients/{id}")),
        Target::Group(uid) => named.iter().find(|g| g.uid == *uid).map(|g| format!("groups/{}", g.name)),
    });
    Ok(shown.collect())
}

/// Whether one of these is the client or a group that it is in.
pub fn holds<'t>(targets: impl IntoIterator<Item = &'t Target>, client: &ClientId, memberships: &[Membership]) -> bool {
    targets.into_iter().any(|target| match target {
        Target::Client(id) => id == client,
        Target::Group(uid) => memberships.iter().any(|m| m.client == *client && m.group == *uid),
    })
}

/// Those of these clients that a destination of the job holds and no exclusion takes out again.
pub async fn reached(tx: &mut dyn Tx, job: &JobId, clients: &[ClientId]) -> Result<BTreeSet<ClientId>> {
    let memberships = tx.memberships_of_all(clients).await?;
    reached_as(tx, job, clients, &memberships).await
}

/// The same, as if clients were in these groups.
async fn reached_as(tx: &mut dyn Tx, job: &JobId, clients: &[ClientId], memberships: &[Membership]) -> Result<BTreeSet<ClientId>> {
    let targets = tx.job_targets(job).await?;
    let exclusions = tx.exclusions(job).await?;
    let listed: BTreeSet<ClientId> = tx.listed(job, clients).await?.into_iter().collect();
    let is_reached = |id: &&ClientId| (listed.contains(*id) || holds(&targets, id, memberships)) && !holds(&exclusions, id, memberships);
    Ok(clients.iter().filter(is_reached).cloned().collect())
}

/// The jobs in these states that hold a client by any of their destinations. An exclusion may take it out of them again.
pub async fn jobs_holding(tx: &mut dyn Tx, client: &ClientId, states: &[JobState]) -> Result<BTreeSet<JobId>> {
    let mut targets = vec![Target::Client(client.clone())];
    targets.extend(tx.memberships_of(client).await?.into_iter().map(|m| Target::Group(m.group)));
    let mut jobs = BTreeSet::new();
    for target in targets {
        jobs.extend(tx.jobs_with_target(&target, states).await?.into_iter().map(|job| job.id));
    }
    jobs.extend(tx.jobs_listing(client, states).await?.into_iter().map(|job| job.id));
    Ok(jobs)
}

/// What follows for jobs that exclude a group from its new members: what has not started is canceled.
pub async fn excluded(tx: &mut dyn Tx, env: &Env, group: &Target, clients: &[ClientId]) -> Result<()> {
    for job in tx.jobs_excluding(group, &STANDING).await? {
        executions::no_longer_reached(tx, env, &job.id, clients, CancelReason::LeftGroup).await?;
    }
    Ok(())
}

/// What follows for jobs that exclude a group from those who left it: they are reached where a destination holds them.
pub async fn not_excluded(tx: &mut dyn Tx, env: &Env, jobs: &[Job], clients: &[ClientId]) -> Result<()> {
    for job in jobs {
        for batch in clients.chunks(BATCH as usize) {
            let held: Vec<ClientId> = reached(tx, &job.id, batch).await?.into_iter().collect();
            jobs::reach_admitted(tx, env, &job.id, &held).await?;
        }
    }
    Ok(())
}

/// A condition can reach anybody: it needs a role without a scope.
pub fn needs_all(env: &Env, condition: &str) -> Result<()> {
    if condition.is_empty() || env.reach == Reach::Everywhere {
        return Ok(());
    }
    let message = "a condition as a destination can reach any client, and your role is for some groups; name those as destinations";
    Err(AppError::invalid("clients_where", message))
}

/// Reaches all clients for which the job's condition holds now.
pub async fn reach_matching(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    if job.clients_where.is_empty() {
        return Ok(());
    }
    for batch in matching(tx, env, &job.clients_where).await?.chunks(BATCH as usize) {
        tx.add_listed(&job.id, batch).await?;
        jobs::reach_admitted(tx, env, &job.id, batch).await?;
    }
    Ok(())
}

/// The clients that were let in, are not archived, and for which a condition holds.
async fn matching(tx: &mut dyn Tx, env: &Env, condition: &str) -> Result<Vec<ClientId>> {
    let condition = conditions::compile(tx, env, "clients_where", condition).await?;
    let limit = if condition.uses_packages() { inventory::TOGETHER } else { BATCH };
    let (mut page, mut all) = (Page { after: None, limit }, Vec::new());
    loop {
        let rows = tx.list_clients_in(&page, ClientState::Active).await?;
        let full = rows.len() as u32 == limit;
        page.after = rows.last().map(|c| c.id.to_string());
        let subjects = inventory::subjects(tx, &rows, condition.uses_packages()).await?;
        let matching = rows.iter().zip(subjects).filter(|(client, subject)| condition.evaluate(&subject.input(client)).matched());
        all.extend(matching.map(|(client, _)| client.id.clone()));
        if !full {
            return Ok(all);
        }
    }
}

/// Notes whom these destinations, and its condition, would have a job reach that has not begun yet, if it did now.
pub async fn note_ahead(tx: &mut dyn Tx, env: &Env, job: &Job, targets: &[Target]) -> Result<()> {
    let mut all = BTreeSet::new();
    for target in targets {
        all.extend(held_by(tx, target).await?);
    }
    if !job.clients_where.is_empty() {
        all.extend(matching(tx, env, &job.clients_where).await?);
    }
    let exclusions = tx.exclusions(&job.id).await?;
    for batch in all.into_iter().collect::<Vec<_>>().chunks(BATCH as usize) {
        let memberships = if exclusions.is_empty() { vec![] } else { tx.memberships_of_all(batch).await? };
        let found = tx.clients(batch).await?;
        let reached = found.iter().filter(|c| is_admitted(c) && !holds(&exclusions, &c.id, &memberships));
        env.reached().note(&job.id, reached.map(|c| &c.id));
    }
    Ok(())
}

/// Whether jobs reach a client: it was let in and is not archived.
pub fn is_admitted(client: &Client) -> bool {
    matches!(client.state, ClientState::Active | ClientState::Quarantined) && client.archived.is_none()
}

/// What a policy does with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It brings it into its group.
    Join,
    /// It takes it out of it.
    Leave,
}

/// What that comes to for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The client comes within its reach.
    Reached,
    /// The client leaves its reach, and what the job installed is taken back.
    TakenBack,
}

/// Of what is counted before it happens, what is meant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ahead<'a> {
    /// Only what this job comes to; that of all jobs otherwise.
    pub job: Option<&'a JobId>,
    /// Only clients that one of these holds, if there are any.
    pub among: &'a [Target],
    /// Only what policies do like this.
    pub moves: Option<Move>,
    /// Only what comes to this for jobs.
    pub effect: Option<Effect>,
}

impl Ahead<'_> {
    fn means(&self, effect: Effect) -> bool {
        self.effect.is_none_or(|only| only == effect)
    }
}

/// Notes what it would come to for jobs if these clients came into a group, or left it.
pub async fn note_if_moved(
    tx: &mut dyn Tx,
    env: &Env,
    group: &Uid,
    (moves, clients): (Move, &[ClientId]),
    ahead: &Ahead<'_>,
) -> Result<()> {
    if clients.is_empty() || ahead.moves.is_some_and(|only| only != moves) {
        return Ok(());
    }
    let (target, states) = (Target::Group(group.clone()), [JobState::Scheduled, JobState::Active, JobState::Paused]);
    let mut jobs = tx.jobs_with_target(&target, &states).await?;
    jobs.extend(tx.jobs_excluding(&target, &states).await?);
    let mut seen = BTreeSet::new();
    jobs.retain(|job| ahead.job.is_none_or(|id| job.id == *id) && seen.insert(job.id.clone()));
    for batch in clients.chunks(BATCH as usize).filter(|_| !jobs.is_empty()) {
        let now = tx.memberships_of_all(batch).await?;
        let mut then = now.clone();
        match moves {
            Move::Leave => then.retain(|m| m.group != *group),
            Move::Join => then.extend(batch.iter().map(|client| Membership {
                group: group.clone(),
                client: client.clone(),
                source: Source::Policy,
                source_name: String::new(),
                since: env.now,
            })),
        }
        let meant: Vec<ClientId> = batch.iter().filter(|id| ahead.among.is_empty() || holds(ahead.among, id, &now)).cloned().collect();
        for job in &jobs {
            let before = reached_as(tx, &job.id, &meant, &now).await?;
            let after = reached_as(tx, &job.id, &meant, &then).await?;
            let keys = |ids: &mut dyn Iterator<Item = &ClientId>| ids.map(|id| (job.id.clone(), id.clone())).collect::<Vec<_>>();
            if ahead.means(Effect::Reached) {
                let come = keys(&mut after.difference(&before));
                let rows = tx.executions(&come).await?;
                let has_row = |id: &ClientId| rows.iter().any(|row| row.client == *id && !execution::comes_back(row));
                env.reached().note_coming(&job.id, come.iter().map(|(_, id)| id).filter(|id| !has_row(id)));
            }
            if ahead.means(Effect::TakenBack) && job.terms.on_leave == OnLeave::Uninstall && STANDING.contains(&job.state) {
                for row in tx.executions(&keys(&mut before.difference(&after))).await? {
                    if leaving::is_owed(tx, &row).await? {
                        env.reached().note_coming(&job.id, [&row.client]);
                    }
                }
            }
        }
    }
    Ok(())
}

/// The groups among destinations or exclusions.
pub fn groups_of(targets: &[Target]) -> Vec<Uid> {
    targets.iter().filter_map(|target| if let Target::Group(uid) = target { Some(uid.clone()) } else { None }).collect()
}

/// Lets the conditions of jobs look at clients that are let in or of which something changed.
pub async fn look(tx: &mut dyn Tx, env: &Env, clients: &[&Client]) -> Result<()> {
    let jobs = tx.jobs_by_condition().await?;
    if jobs.is_empty() {
        return Ok(());
    }
    let asked = conditions::Asked::by(tx, env, jobs.iter().map(|job| job.clients_where.as_str())).await?;
    // One that names a question that is no more reaches nobody new.
    let jobs: Vec<_> =
        jobs.into_iter().filter_map(|job| asked.compile(env, "clients_where", &job.clients_where).ok().map(|c| (job, c))).collect();
    let packages = jobs.iter().any(|(_, condition)| condition.uses_packages());
    for clients in clients.chunks(inventory::TOGETHER as usize) {
        let subjects = inventory::subjects(tx, clients, packages).await?;
        for (job, condition) in &jobs {
            let matching = clients.iter().zip(&subjects).filter(|(client, subject)| condition.evaluate(&subject.input(client)).matched());
            let mut new: Vec<ClientId> = matching.map(|(client, _)| client.id.clone()).collect();
            if !new.is_empty() {
                let listed: BTreeSet<ClientId> = tx.listed(&job.id, &new).await?.into_iter().collect();
                new.retain(|id| !listed.contains(id));
            }
            if !new.is_empty() {
                tx.add_listed(&job.id, &new).await?;
                jobs::reach_admitted(tx, env, &job.id, &new).await?;
            }
        }
    }
    Ok(())
}

/// All members of a group.
pub async fn members(tx: &mut dyn Tx, group: &Uid) -> Result<Vec<ClientId>> {
    let (mut page, mut all) = (Page { after: None, limit: BATCH }, Vec::new());
    loop {
        let rows = tx.list_members(group, &page).await?;
        let full = rows.len() as u32 == page.limit;
        page.after = rows.last().map(|m| m.client.to_string());
        all.extend(rows.into_iter().map(|m| m.client));
        if !full {
            return Ok(all);
        }
    }
}

/// Whom a destination or an exclusion holds now.
pub async fn held_by(tx: &mut dyn Tx, target: &Target) -> Result<Vec<ClientId>> {
    match target {
        Target::Client(id) => Ok(vec![id.clone()]),
        Target::Group(uid) => members(tx, uid).await,
    }
}
