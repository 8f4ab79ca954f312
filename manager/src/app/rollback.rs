//! Jobs that put back what clients had before another job changed it.
//!
//! What was there is what the agents wrote into their outcomes. A client of which that is not known, that has something else by now, or
//! that can't be given what it had is left alone as a whole, and named with the reason. What each client gets is decided when the job is
//! made, and kept: numbers of the job's packages.

use super::{
    AppError, Env, Result, events, jobs,
    jobs::Shown,
    leaving::{results, since_left},
    packages, rollouts, trust,
};
use std::collections::{BTreeMap, btree_map::Entry};
use sutler_base::{
    ClientId, Digest, JobId, PackageName, Version,
    facts::Facts,
    limits,
    manifest::relations::{self, Values},
    outcome::{ItemResult, Was},
    state::{ClientState, ExecutionState, Intent, JobState, Purpose},
};
use sutler_core::{
    model::{Attempt, Client, Execution, Job, JobPackage, PackageVersion},
    relations::VERSIONS_MAX,
    terms::JobTerms,
};
use sutler_store::{Page, Tx};

/// How many rows are handled at a time.
const BATCH: u32 = 500;
/// Of how many clients the outcomes are held at a time.
const TOGETHER: usize = 50;
/// How many clients are named that are left alone.
const NAMED: usize = 1000;

/// What is to be put back.
#[derive(Debug, Clone)]
pub struct Rollback {
    /// The job.
    pub id: JobId,
    /// Only say what would be done.
    pub dry_run: bool,
    /// For people.
    pub description: String,
}

/// One thing that is put back, and on how many clients.
#[derive(Debug, Clone)]
pub struct Step {
    /// What, and whether it is installed or taken off.
    pub package: JobPackage,
    /// On how many.
    pub clients: i64,
}

/// What comes of it.
#[derive(Debug, Clone)]
pub struct Rolled {
    /// The job that puts back; none where only a plan was wanted.
    pub job: Option<Shown>,
    /// What it puts back.
    pub steps: Vec<Step>,
    /// Clients that are left alone, and why.
    pub left: Vec<String>,
    /// Clients on which something is taken off since nothing of it was there before, and what.
    pub had_none: Vec<String>,
}

/// Makes a job that puts back what this one changed, and starts it; ends this one.
pub async fn rollback(tx: &mut dyn Tx, env: &Env, input: &Rollback) -> Result<Rolled> {
    let job = jobs::load(tx, env, &input.id).await?;
    let name = format!("jobs/{}", job.id);
    if matches!(job.state, JobState::Draft | JobState::Scheduled) {
        return Err(AppError::state(name, "NOT_STARTED", format!("jobs/{} was not started yet; there is nothing to put back", job.id)));
    }
    let plan = plan(tx, env, &job).await?;
    if input.dry_run {
        return Ok(Rolled { job: None, steps: plan.steps, left: plan.left, had_none: plan.had_none });
    }
    if plan.picks.is_empty() {
        let why = plan.left.first().map(|why| format!(" ({why})")).unwrap_or_default();
        return Err(AppError::state(name.clone(), "NOTHING_TO_ROLL_BACK", format!("{name} changed nothing that can be put back{why}")));
    }
    jobs::replace(tx, env, &job.id).await?;
    let back = Job {
        id: env.world.job_id(),
        state: JobState::Active,
        description: input.description.clone(),
        priority: job.priority,
        continue_on_failure: false,
        expires: None,
        creator: env.actor_name().to_owned(),
        created: env.now,
        started: Some(env.now),
        ended: None,
        revision: 1,
        archived: false,
        replaces: Some(job.id.clone()),
        condition: String::new(),
        requirements: vec![],
        terms: JobTerms::default(),
        clients_where: String::new(),
        rolls_back: Some(job.id.clone()),
        change: 0,
    };
    let wanted: Vec<JobPackage> = plan.steps.iter().map(|step| step.package.clone()).collect();
    tx.insert_job(&back, &wanted, &[]).await?;
    tx.add_picks(&back.id, &plan.picks).await?;
    let clients: Vec<ClientId> = plan.picks.into_iter().map(|(client, _)| client).collect();
    rollouts::begin(tx, env, &back).await?;
    tx.insert_executions(&back.id, &clients, env.now).await?;
    env.reached().note(&back.id, &clients);
    events::job_started(tx, env, &back, &jobs::describe(&wanted), false).await?;
    let detail = format!("jobs/{} on {} clients: {}", back.id, clients.len(), jobs::describe(&wanted));
    env.audit(tx, "rollback_job", &name, detail).await?;
    jobs::wake_queued(tx, env, &back.id).await?;
    Ok(Rolled { job: Some(jobs::get(tx, env, &back.id).await?), steps: plan.steps, left: plan.left, had_none: plan.had_none })
}

/// What would be done where.
struct Plan {
    steps: Vec<Step>,
    picks: Vec<(ClientId, Vec<usize>)>,
    left: Vec<String>,
    had_none: Vec<String>,
}

async fn plan(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<Plan> {
    let mut known = Known { word: trust::word(tx).await?, packages: BTreeMap::new(), versions: BTreeMap::new() };
    let mut plan = Plan { steps: vec![], picks: vec![], left: vec![], had_none: vec![] };
    let mut page = Page { after: None, limit: BATCH };
    loop {
        let rows = tx.list_executions(&job.id, &page, &[]).await?;
        let full = rows.len() as u32 == BATCH;
        page.after = rows.last().map(|r| r.client.to_string());
        let ids: Vec<ClientId> = rows.iter().map(|r| r.client.clone()).collect();
        let clients = tx.clients(&ids).await?;
        let changed: Vec<ClientId> =
            rows.iter().filter(|r| r.purpose != Purpose::Leave && r.attempts > 0).map(|r| r.client.clone()).collect();
        // Of some clients at a time, for an outcome may be half a megabyte; what is made of them is small.
        let mut said = BTreeMap::new();
        for some in changed.chunks(TOGETHER) {
            for attempt in tx.attempts_of_all(&job.id, some).await? {
                let items = results(&attempt);
                said.entry(attempt.client.clone()).or_insert_with(Vec::new).push(Said { attempt: without_outcome(attempt), items });
            }
        }
        for row in rows.iter().filter(|row| row.purpose != Purpose::Leave && row.attempts > 0) {
            let Some(client) = clients.iter().find(|c| c.id == row.client) else { continue };
            let found = match under_way(row) {
                Some(why) => Err(why),
                None => match known.of_client(tx, env, row, client, said.get(&row.client).map_or(&[], Vec::as_slice)).await? {
                    Ok(wanted) if wanted.is_empty() => half_done(row, said.get(&row.client)).map_or(Ok(wanted), Err),
                    found => found,
                },
            };
            match found {
                Ok(wanted) if wanted.is_empty() => {}
                Ok(wanted) => {
                    let gone = wanted.iter().filter(|p| p.intent == Intent::Uninstall);
                    let gone: Vec<_> = gone.map(|p| format!("{} {}", p.package, p.version_text)).collect();
                    if !gone.is_empty() && plan.had_none.len() < NAMED {
                        plan.had_none.push(format!("clients/{}: {}", client.id, gone.join(", ")));
                    }
                    let picks = wanted.into_iter().map(|package| number(&mut plan.steps, package)).collect();
                    plan.picks.push((client.id.clone(), picks));
                }
                Err(why) if plan.left.len() < NAMED => plan.left.push(format!("clients/{}: {why}", client.id)),
                Err(_) => {}
            }
        }
        if !full {
            return Ok(plan);
        }
    }
}

/// Why a row is left alone whose attempt may still change something; none if it can't.
fn under_way(row: &Execution) -> Option<String> {
    let open = !row.state.is_end() && row.state != ExecutionState::Queued;
    open.then(|| format!("it is {} now; roll the job back once more when that has ended", row.state))
}

/// What an attempt that went wrong has left half done there; none if all was put back, or nothing was changed.
fn half_done(row: &Execution, said: Option<&Vec<Said>>) -> Option<String> {
    let id = row.attempt.as_ref().filter(|_| row.state != ExecutionState::Succeeded)?;
    let items = said?.iter().find(|said| said.attempt.id == *id).map(|said| said.items.as_slice()).unwrap_or_default();
    let left = items.iter().find(|item| item.failure.as_ref().is_some_and(|failure| failure.restored == Some(false)));
    left.map(|item| format!("{} {} failed there, and what was there before was not put back", item.package, item.version))
}

/// An attempt with what came of its packages, and without the bytes that say so.
#[derive(Clone)]
struct Said {
    attempt: Attempt,
    items: Vec<ItemResult>,
}

fn without_outcome(attempt: Attempt) -> Attempt {
    Attempt { outcome: vec![], signature: vec![], ..attempt }
}

/// The number of this step, which is one client's more.
fn number(steps: &mut Vec<Step>, package: JobPackage) -> usize {
    let is_it = |s: &Step| (&s.package.version, s.package.intent, &s.package.values) == (&package.version, package.intent, &package.values);
    let at = steps.iter().position(is_it).unwrap_or_else(|| {
        steps.push(Step { package, clients: 0 });
        steps.len() - 1
    });
    steps[at].clients += 1;
    at
}

/// What was looked up for all clients.
struct Known {
    word: trust::Word,
    packages: BTreeMap<i64, Vec<(JobPackage, Option<PackageVersion>)>>,
    versions: BTreeMap<PackageName, Vec<PackageVersion>>,
}

/// A package as a job has changed it on a client.
struct Changed {
    package: JobPackage,
    /// What is there now by this job; none if it was uninstalled.
    now: Option<PackageVersion>,
    /// What was there before the first change; none if that is not known.
    before: Option<Vec<Was>>,
}

impl Known {
    /// What puts back what the job changed on a client, in order; or why it is left alone.
    async fn of_client(
        &mut self,
        tx: &mut dyn Tx,
        env: &Env,
        row: &Execution,
        client: &Client,
        said: &[Said],
    ) -> Result<std::result::Result<Vec<JobPackage>, String>> {
        if client.state == ClientState::Removed || client.archived.is_some() {
            return Ok(Err("it was removed or archived".into()));
        }
        let changes = self.changes(tx, row, client, said).await?;
        let software = Facts::parse(&client.facts).map(|facts| facts.software).unwrap_or_default();
        let mut wanted = Vec::new();
        for changed in changes {
            let name = changed.package.package.clone();
            let there = software.iter().find(|s| s.name == name.as_str()).map(|s| s.version.clone());
            let ours = changed.now.as_ref().map(|v| v.version.to_string());
            if there != ours {
                let said = |version: Option<String>| version.map_or(format!("no {name}"), |version| format!("{name} {version}"));
                return Ok(Err(format!("it has {} by now, and the job had left {}", said(there), said(ours))));
            }
            let Some(before) = changed.before else {
                return Ok(Err(format!("its agent did not say what was there before {name}; a newer one does")));
            };
            // An agent says what it likes: only what this package can have taken the place of is put back.
            let replaced = |package: &PackageName| {
                *package == name || changed.now.iter().flat_map(|now| &now.terms.supersedes).any(|other| other.package == *package)
            };
            if let Some(was) = before.iter().find(|was| !replaced(&was.package)) {
                return Ok(Err(format!("its agent names {} as what was there before {name}, which does not take its place", was.package)));
            }
            let own = before.iter().find(|was| was.package == name);
            if own.is_none()
                && let Some(now) = &changed.now
            {
                wanted.push(of(now, Intent::Uninstall, changed.package.values.clone()));
            }
            for was in before.iter().filter(|was| changed.now.as_ref().is_none_or(|now| now.manifest != was.manifest)) {
                match self.version(tx, env, was).await? {
                    Ok(version) => wanted.push(of(&version, Intent::Install, Values::new())),
                    Err(why) => return Ok(Err(why)),
                }
            }
        }
        if wanted.len() > limits::JOB_PACKAGES_MAX {
            return Ok(Err(format!("more than {} packages would have to be put back", limits::JOB_PACKAGES_MAX)));
        }
        Ok(Ok(wanted))
    }

    /// What the job changed on a client, the last first: of each package what is there now, and what was before the first change.
    async fn changes(&mut self, tx: &mut dyn Tx, row: &Execution, client: &Client, said: &[Said]) -> Result<Vec<Changed>> {
        let mut changes: Vec<Changed> = Vec::new();
        let attempts = said.iter().map(|said| said.attempt.clone()).collect();
        for attempt in since_left(attempts, client.replaced.as_ref()) {
            let revision = attempt.revision;
            let items = said.iter().find(|said| said.attempt.id == attempt.id).map(|said| said.items.clone()).unwrap_or_default();
            let packages = match self.packages.entry(revision) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let packages = tx.job_packages(&row.job, revision).await?;
                    let uids: Vec<_> = packages.iter().filter_map(|p| p.version.clone()).collect();
                    let versions = tx.versions_by_uid(&uids).await?;
                    let version = |p: &JobPackage| versions.iter().find(|v| p.version.as_ref() == Some(&v.uid)).cloned();
                    new.insert(packages.into_iter().map(|p| (p.clone(), version(&p))).collect())
                }
            };
            for item in items.into_iter().rev().filter(|item| item.state == ExecutionState::Succeeded) {
                // What was only fetched has changed nothing.
                let is_it = |(p, _): &&(JobPackage, Option<PackageVersion>)| p.package == item.package && p.intent != Intent::Prefetch;
                let Some((package, version)) = packages.iter().find(is_it) else { continue };
                let uninstalled = package.intent == Intent::Uninstall;
                let was = Was { package: item.package.clone(), version: item.version.clone(), manifest: item.manifest };
                let before = if uninstalled { Some(vec![was]) } else { item.before };
                match changes.iter_mut().find(|c| c.package.package == item.package) {
                    // An earlier attempt: what was there before that one.
                    Some(later) => later.before = before,
                    None => {
                        let now = version.clone().filter(|_| !uninstalled);
                        changes.push(Changed { package: package.clone(), now, before });
                    }
                }
            }
        }
        Ok(changes)
    }

    /// The version that was there, if a client can be given it.
    async fn version(&mut self, tx: &mut dyn Tx, env: &Env, was: &Was) -> Result<std::result::Result<PackageVersion, String>> {
        if !self.versions.contains_key(&was.package) {
            let versions = tx.versions_of(&was.package, VERSIONS_MAX).await?;
            self.versions.insert(was.package.clone(), versions);
        }
        let named = format!("{} {}, which was there,", was.package, was.version);
        let is_it = |manifest: &Digest, version: &Version| *manifest == was.manifest && *version == was.version;
        let Some(version) = self.versions[&was.package].iter().find(|v| is_it(&v.manifest, &v.version)) else {
            return Ok(Err(format!("{named} is not stored here any more")));
        };
        if let Err(why) = trust::deliverable(version, &self.word, env.now) {
            return Ok(Err(format!("{named} can't be delivered: {why}")));
        }
        if let Err(why) = relations::fill(&version.terms.parameters, &Values::new()) {
            return Ok(Err(format!("{named} needs values that nobody knows: {why}; install {} with them", packages::name_of(version))));
        }
        Ok(Ok(version.clone()))
    }
}

/// A package of a job that puts back.
fn of(version: &PackageVersion, intent: Intent, values: Values) -> JobPackage {
    JobPackage {
        package: version.name.clone(),
        version: Some(version.uid.clone()),
        version_text: version.version.to_string(),
        follow: false,
        replace_always: false,
        intent,
        values,
        needed: Vec::new(),
    }
}
