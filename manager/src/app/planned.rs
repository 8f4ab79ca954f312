//! Plans: what a job would come to, and that it comes to that when it is run.
//!
//! A job is planned by running it, and looking at whom it reached after it was undone: so a plan can't be about anything else than the
//! job. The plan keeps the id that the job would have had, by which its stages order clients, and whom it reached.

use super::{
    AppError, Env, Result, approvals, conditions, destinations,
    inventory::{self, TOGETHER},
    jobs,
    schedule::Clock,
};
use jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    ClientId, Digest, JobId, PackageName, Timestamp, Uid, Version,
    facts::Facts,
    manifest::{
        Present, Requirement,
        requirement::{Verdict, ask},
    },
    quoted,
    state::{Intent, JobState, PlanVerdict, Presence},
};
use sutler_core::{
    model::{Client, Job, JobPackage, Membership, PackageVersion},
    planned::{self, JobPlan, Pinned, PlannedClient, Seat, Summary},
    relations::{Action, Entry, KnownMachine, Planned, plan},
    rights::Reach,
    rollout,
};
use sutler_store::{Page, Tx};

/// How long a plan can be run.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// How many plans are kept, and how many clients they have together.
const PLANS_MAX: usize = 100;
const CLIENTS_MAX: u64 = 1_000_000;
/// How many rows are looked at together.
const BATCH: u32 = 500;
/// How many times at which windows open are told.
const OPENINGS: usize = 100;
/// How long the sentence about a client is (characters).
const SAID: usize = 500;

/// What came of looking, before it is known how many bytes upgrades take.
#[derive(Debug, Clone)]
pub struct Looked {
    /// In numbers.
    pub summary: Summary,
    /// Each client, and what it would fetch.
    pub clients: Vec<(PlannedClient, Vec<Fetch>)>,
}

/// A version that a client would fetch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fetch {
    /// Its manifest.
    pub manifest: Digest,
    /// The manifest of the version that is there now.
    pub there: Option<Digest>,
    /// Bytes of all its files.
    pub total: u64,
}

/// What came of a job that was run and undone.
#[derive(Debug, Clone)]
pub struct Ordered {
    job: Job,
    packages: Vec<JobPackage>,
    rules: BTreeMap<String, i64>,
    needs: &'static str,
    fleet: u64,
    clients: Vec<ClientId>,
}

/// Runs a job, and notes whom it reached and with what. The unit of work is to be undone.
///
/// On SQLite everybody else's writes wait meanwhile, for an order can be tried in no other way than by writing: so nothing is looked at
/// here that can be looked at without, in [`look`]. Measured for 10,000 clients, on two cores that had much else to do: 0.3 to 1.2 s
/// here, 1.3 to 2.2 s there.
pub async fn order(tx: &mut dyn Tx, env: &Env, input: &jobs::Create) -> Result<Ordered> {
    env.reached().forget();
    let id = jobs::run(tx, env, input).await?.job.id;
    let needs = match approvals::needed(tx, env).await? {
        None => "",
        Some(_) if approvals::exist(tx, env).await? => "APPROVAL",
        Some(_) => "CONFIRM",
    };
    if let Some(job) = tx.job(&id).await?.filter(|job| job.state == JobState::Scheduled) {
        // Its rows are what its start would make of it now.
        jobs::activate(tx, env, job).await?;
    }
    let job = tx.job(&id).await?.ok_or_else(|| AppError::Bug("a job that was run is not there".into()))?;
    let (packages, rules) = terms(tx, &job).await?;
    let fleet = tx.count_fleet().await?;
    let (mut clients, mut page) = (Vec::new(), Page { after: None, limit: BATCH });
    loop {
        let rows = tx.list_executions(&id, &page, &[]).await?;
        let full = rows.len() as u32 == BATCH;
        page.after = rows.last().map(|row| row.client.to_string());
        clients.extend(rows.into_iter().map(|row| row.client));
        if !full {
            return Ok(Ordered { job, packages, rules, needs, fleet, clients });
        }
    }
}

/// What would come of it on each client. The job is not there any more: this unit of work changes nothing, and sees the fleet as it is a
/// moment later.
pub async fn look(tx: &mut dyn Tx, env: &Env, ordered: &Ordered) -> Result<Looked> {
    let Ordered { job, packages, rules, needs, fleet, clients: reached } = ordered;
    let catalogue = Catalogue::of(tx, job, packages).await?;
    let condition = conditions::compile(tx, env, "condition", &job.condition).await?;
    let limit = if condition.uses_packages() || catalogue.asks_machines { TOGETHER } else { BATCH };
    let (mut clients, mut seats) = (Vec::new(), Vec::new());
    for ids in reached.chunks(limit as usize) {
        let found = tx.clients(ids).await?;
        let memberships = tx.memberships_of_all(ids).await?;
        let mut clock = Clock::of(tx, env, &found.iter().collect::<Vec<_>>()).await?;
        let subjects = inventory::subjects(tx, &found, condition.uses_packages()).await?;
        let software = if catalogue.asks_machines { tx.software_of(ids).await? } else { vec![] };
        for (client, subject) in found.iter().zip(subjects) {
            let packages = software.iter().filter(|(id, p)| *id == client.id && p.manager != inventory::SUTLER).map(|(_, p)| p.clone());
            let machine = catalogue.machine(client, packages.collect());
            let (verdict, why, fetch) = match condition.evaluate(&subject.input(client)).matched() {
                true => catalogue.verdict(job, machine),
                false => (PlanVerdict::Rejected, format!("the job is for clients with {}; this is none", quoted(&job.condition)), vec![]),
            };
            let opens =
                clock.openings(&client.id, &job.terms.schedule).and_then(|all| all.first().map(|o| o.start)).filter(|at| *at > env.now);
            let presence = env.presence(client);
            let runs = matches!(verdict, PlanVerdict::Runs | PlanVerdict::Unknown);
            seats.push(Seat {
                turn: rollout::turn(&job.id, client.id.as_str()),
                takes_place: runs && presence == Presence::Online,
                groups: groups_of(&memberships, &client.id),
            });
            let why = why.chars().take(SAID).collect();
            let opens = opens.filter(|_| runs);
            clients.push((PlannedClient { client: client.id.clone(), verdict, presence, stage: 0, bytes: 0, opens, why }, fetch));
        }
    }
    let total = clients.len() as u64;
    for ((client, _), stage) in clients.iter_mut().zip(planned::stages(&job.terms.rollout, total, &seats)) {
        client.stage = stage;
    }
    let mut summary = summary(job, &clients);
    (summary.fleet, summary.needs, summary.rules) = (*fleet, (*needs).into(), rules.clone());
    summary.packages = pinned(packages);
    Ok(Looked { summary, clients })
}

fn groups_of(memberships: &[Membership], client: &ClientId) -> BTreeSet<Uid> {
    memberships.iter().filter(|m| m.client == *client).map(|m| m.group.clone()).collect()
}

/// What a plan counts of its clients.
fn summary(job: &Job, clients: &[(PlannedClient, Vec<Fetch>)]) -> Summary {
    let stages = job.terms.rollout.stages();
    let name = |n: usize| if stages.is_empty() { "all at once".into() } else { rollout::stage_name(&stages, n) };
    let mut out = Summary { clients: clients.len() as u64, job: Some(job.id.clone()), ..Summary::default() };
    out.stages = (0..=stages.len()).map(|n| (name(n), 0)).collect();
    let mut openings: BTreeMap<i64, u64> = BTreeMap::new();
    for (client, _) in clients {
        *out.verdicts.entry(client.verdict.to_string()).or_default() += 1;
        *out.presences.entry(client.presence.to_string()).or_default() += 1;
        if let Some((_, n)) = (client.stage as usize).checked_sub(1).and_then(|n| out.stages.get_mut(n)) {
            *n += 1;
        }
        if let Some(at) = client.opens {
            *openings.entry(at.as_millisecond()).or_default() += 1;
        }
    }
    out.openings = openings.into_iter().take(OPENINGS).collect();
    out
}

/// The versions of a job.
pub fn pinned(packages: &[JobPackage]) -> Vec<Pinned> {
    packages.iter().map(|p| Pinned { version: p.version.clone(), name: format!("{}@{}", p.package, p.version_text) }).collect()
}

/// What a job has pinned, and the rules of its groups: their policies and windows.
async fn terms(tx: &mut dyn Tx, job: &Job) -> Result<(Vec<JobPackage>, BTreeMap<String, i64>)> {
    let packages = tx.job_packages(&job.id, job.revision).await?;
    let mut rules = BTreeMap::new();
    let groups = destinations::groups_of(&tx.job_targets(&job.id).await?);
    for group in &groups {
        let mut page = Page { after: None, limit: BATCH };
        loop {
            let rows = tx.list_policies(&page, Some(group)).await?;
            let full = rows.len() as u32 == BATCH;
            page.after = rows.last().map(|p| p.name.to_string());
            rules.extend(rows.into_iter().map(|p| (format!("policies/{}", p.name), p.change)));
            if !full {
                break;
            }
        }
    }
    rules.extend(tx.windows_of(&groups).await?.into_iter().map(|w| (format!("windows/{}", w.name), w.change)));
    Ok((packages, rules))
}

/// What is known of the packages of a job.
struct Catalogue {
    /// What is installed, in order.
    entries: Vec<Entry>,
    /// What is taken off.
    gone: Vec<PackageName>,
    always: bool,
    /// The versions that may be there now.
    there: BTreeMap<(PackageName, String), (Present, Digest)>,
    /// Whether a requirement names what a machine's own package managers list.
    asks_machines: bool,
}

impl Catalogue {
    async fn of(tx: &mut dyn Tx, job: &Job, packages: &[JobPackage]) -> Result<Catalogue> {
        let uids: Vec<Uid> = packages.iter().filter_map(|p| p.version.clone()).collect();
        let versions = tx.versions_by_uid(&uids).await?;
        let version = |p: &JobPackage| versions.iter().find(|v| p.version.as_ref() == Some(&v.uid)).cloned();
        let installed = packages.iter().filter(|p| p.intent == Intent::Install);
        let entries: Vec<Entry> = installed.filter_map(|p| Some(Entry { version: version(p)?, needed: p.needed.clone() })).collect();
        let mut names: BTreeSet<PackageName> = packages.iter().map(|p| p.package.clone()).collect();
        for entry in &entries {
            names.extend(entry.version.terms.supersedes.iter().map(|other| other.package.clone()));
            names.extend(entry.version.terms.depends_on.iter().map(|other| other.package.clone()));
        }
        let mut there = BTreeMap::new();
        for name in names {
            for v in tx.versions_of(&name, sutler_core::relations::VERSIONS_MAX).await? {
                there.insert((name.clone(), v.version.to_string()), (v.present(), v.manifest));
            }
        }
        let all = entries.iter().flat_map(|e| &e.version.terms.requirements).chain(&job.requirements);
        Ok(Catalogue {
            gone: packages.iter().filter(|p| p.intent == Intent::Uninstall).map(|p| p.package.clone()).collect(),
            always: packages.iter().any(|p| p.replace_always),
            asks_machines: all.into_iter().any(names_packages),
            entries,
            there,
        })
    }

    fn machine(&self, client: &Client, packages: Vec<sutler_base::facts::Package>) -> KnownMachine {
        let facts = Facts::parse(&client.facts).ok().filter(|_| client.facts_time.is_some());
        let software = facts.iter().flat_map(|facts| &facts.software);
        let own = software.filter_map(|s| {
            let (package, version) = (s.name.parse::<PackageName>().ok()?, s.version.parse::<Version>().ok()?);
            let known = self.there.get(&(package.clone(), s.version.clone())).map(|(present, _)| present.clone());
            Some(known.unwrap_or(Present { package, version, ordering: Default::default(), supersedes: vec![] }))
        });
        KnownMachine { own: own.collect(), facts: facts.clone(), packages }
    }

    /// What would come of it on one machine: a sentence, and what would be fetched.
    fn verdict(&self, job: &Job, machine: KnownMachine) -> (PlanVerdict, String, Vec<Fetch>) {
        if machine.facts.is_none() {
            let fetch = self.entries.iter().map(|e| fetch(&e.version, None)).collect();
            return (PlanVerdict::Unknown, "it has not reported yet what it is and has".into(), fetch);
        }
        let asked = ask(&job.requirements, &machine);
        if let Verdict::NotMet { wanted, found } = asked {
            return (PlanVerdict::Rejected, format!("the job requires {wanted}; found: {found}"), vec![]);
        }
        let gone: Vec<_> = machine.own.iter().filter(|p| self.gone.contains(&p.package)).cloned().collect();
        let lines = plan(&self.entries, machine);
        let (mut said, mut unknown, mut fetched) = (Vec::new(), None, Vec::new());
        if let Verdict::Unknown(why) = asked {
            unknown = Some(format!("unknown until the machine is asked: {why}"));
        }
        said.extend(gone.iter().map(|p| format!("uninstall {} {}", p.package, p.version)));
        for line in lines {
            let Planned { package, version, action, from, note, .. } = &line;
            match action {
                Action::Reject => return (PlanVerdict::Rejected, format!("{package} {version}: {note}"), vec![]),
                Action::Keep if self.always && line.ordered.is_none() => said.push(format!("install {package} {version} again")),
                Action::Keep | Action::Skip => {}
                Action::Install => said.push(format!("install {package} {version}")),
                Action::Upgrade | Action::Downgrade => {
                    let from = from.as_ref().map(ToString::to_string).unwrap_or_default();
                    said.push(format!(
                        "{} {package} {from} to {version}",
                        if *action == Action::Upgrade { "upgrade" } else { "downgrade" }
                    ));
                }
                Action::Uninstall | Action::Supersede => said.push(format!("{package} {version} goes")),
            }
            if matches!(action, Action::Install | Action::Upgrade | Action::Downgrade)
                && let Some(entry) = self.entries.iter().find(|e| e.version.name == *package)
            {
                let there = from.as_ref().and_then(|from| self.there.get(&(package.clone(), from.to_string())));
                fetched.push(fetch(&entry.version, there.map(|(_, manifest)| *manifest)));
            }
            unknown = unknown.or(Some(note.clone()).filter(|note| !note.is_empty()));
        }
        match unknown {
            _ if said.is_empty() => (PlanVerdict::AlreadyThere, "nothing to do".into(), vec![]),
            Some(why) => (PlanVerdict::Unknown, format!("{}; {why}", said.join(", ")), fetched),
            None => (PlanVerdict::Runs, said.join(", "), fetched),
        }
    }
}

fn fetch(version: &PackageVersion, there: Option<Digest>) -> Fetch {
    Fetch { manifest: version.manifest, there, total: version.total_bytes }
}

fn names_packages(requirement: &Requirement) -> bool {
    match requirement {
        Requirement::All { of } | Requirement::Any { of } => of.iter().any(names_packages),
        Requirement::Software { .. } | Requirement::PackageManager { .. } => true,
        _ => false,
    }
}

/// What is kept of a plan.
#[derive(Debug, Clone)]
pub struct Keep {
    /// The order, as it was sent.
    pub order: Vec<u8>,
    /// In numbers.
    pub summary: Summary,
    /// Each client.
    pub clients: Vec<PlannedClient>,
}

/// Keeps a plan for a day. The oldest make room.
pub async fn keep(tx: &mut dyn Tx, env: &Env, input: &Keep) -> Result<JobPlan> {
    let plan = JobPlan {
        id: env.world.uid(),
        creator: env.actor.clone(),
        order: input.order.clone(),
        summary: input.summary.clone(),
        created: env.now,
        expires: env.now.saturating_add(KEPT).unwrap_or(Timestamp::MAX),
    };
    drop_oldest(tx, env, PLANS_MAX - 1, CLIENTS_MAX.saturating_sub(input.clients.len() as u64)).await?;
    tx.insert_plan(&plan, &input.clients).await?;
    Ok(plan)
}

/// Deletes plans whose time is over, and the oldest until so many plans with so many clients are left.
async fn drop_oldest(tx: &mut dyn Tx, env: &Env, plans: usize, clients: u64) -> Result<()> {
    let kept = tx.plans_kept().await?;
    let (mut count, mut sum) = (kept.len(), kept.iter().map(|(_, _, n)| n).sum::<u64>());
    for (id, expires, n) in kept {
        if expires > env.now && count <= plans && sum <= clients {
            continue;
        }
        tx.delete_plan(&id).await?;
        (count, sum) = (count - 1, sum - n);
    }
    Ok(())
}

/// Forgets plans whose time is over.
pub async fn forget(tx: &mut dyn Tx, env: &Env) -> Result<()> {
    drop_oldest(tx, env, PLANS_MAX, CLIENTS_MAX).await
}

/// The plan, or that there is none: also where somebody with a scope asks for another one's.
pub async fn get(tx: &mut dyn Tx, env: &Env, id: &Uid) -> Result<JobPlan> {
    match tx.plan(id).await? {
        Some(plan) if env.reach == Reach::Everywhere || plan.creator == env.actor => Ok(plan),
        _ => Err(AppError::not_found("plan", id)),
    }
}

/// A page of what a plan says of clients, and the key of the next one.
pub async fn clients(tx: &mut dyn Tx, env: &Env, id: &Uid, page: &Page) -> Result<(Vec<PlannedClient>, Option<String>)> {
    get(tx, env, id).await?;
    let rows = tx.plan_clients(id, page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|c| c.client.to_string())).flatten();
    Ok((rows, next))
}

/// What is run by a plan.
#[derive(Debug, Clone)]
pub struct Run {
    /// The plan.
    pub plan: Uid,
    /// Its order.
    pub order: jobs::Create,
}

/// The plan, as long as it can be run.
pub async fn runnable(tx: &mut dyn Tx, env: &Env, id: &Uid) -> Result<JobPlan> {
    let name = format!("plans/{id}");
    let why = match tx.plan(id).await? {
        Some(plan) if plan.expires > env.now => return Ok(plan),
        Some(plan) => format!("{name} could be run until {}; plan it again", plan.expires),
        None => format!("{name} is kept no longer; plan it again"),
    };
    Err(AppError::state(name, "PLAN_OUTDATED", why))
}

/// Makes the draft of the job that was planned, under the id that it was planned with.
pub async fn create(tx: &mut dyn Tx, env: &Env, input: &Run) -> Result<(JobPlan, jobs::Shown)> {
    get(tx, env, &input.plan).await?;
    let plan = runnable(tx, env, &input.plan).await?;
    let name = format!("plans/{}", plan.id);
    let Some(id) = plan.summary.job.clone() else { return Err(AppError::Bug(format!("{name} names no job"))) };
    if tx.job(&id).await?.is_some() {
        return Err(AppError::state(&name, "PLAN_DONE", format!("{name} was run already, as jobs/{id}; plan it again to run it again")));
    }
    let made = jobs::create_as(tx, env, &input.order, id).await?;
    Ok((plan, made))
}

/// Runs exactly what was planned, or nothing.
pub async fn run(tx: &mut dyn Tx, env: &Env, input: &Run) -> Result<jobs::Shown> {
    let (plan, made) = create(tx, env, input).await?;
    let shown = jobs::start(tx, env, &made.job.id).await?;
    hold_to(tx, env, &plan.id, &shown.job.id).await?;
    Ok(shown)
}

/// Refuses what this unit of work has started if it is not what was planned.
pub async fn hold_to(tx: &mut dyn Tx, env: &Env, plan: &Uid, id: &JobId) -> Result<()> {
    let plan = runnable(tx, env, plan).await?;
    let job = jobs::load(tx, env, id).await?;
    let (packages, rules) = terms(tx, &job).await?;
    let now = Summary { packages: pinned(&packages), rules, ..Summary::default() };
    let (strangers, example) = strangers(tx, env, &plan.id, &job).await?;
    let changed = planned::outdated(&plan.summary, &now, strangers, example.as_ref());
    if !changed.is_empty() {
        let name = format!("plans/{}", plan.id);
        let message = format!("the fleet is not as it was for {name}: {}; plan it again", changed.join("; "));
        return Err(AppError::state(name, "PLAN_OUTDATED", message));
    }
    env.audit(tx, "run_plan", format!("jobs/{id}"), format!("plans/{}", plan.id)).await
}

/// How many clients a job reaches, or will when its time has come, that a plan does not name; and one of them.
async fn strangers(tx: &mut dyn Tx, env: &Env, plan: &Uid, job: &Job) -> Result<(u64, Option<ClientId>)> {
    let (mut count, mut example) = (0, None);
    let mut look = |batch: &[ClientId], known: Vec<ClientId>| {
        let known: BTreeSet<ClientId> = known.into_iter().collect();
        for client in batch.iter().filter(|id| !known.contains(id)) {
            count += 1;
            example.get_or_insert_with(|| client.clone());
        }
    };
    if job.state == JobState::Scheduled {
        let ahead = env.reached().of(&job.id);
        for batch in ahead.chunks(BATCH as usize) {
            look(batch, tx.planned_among(plan, batch).await?);
        }
        return Ok((count, example));
    }
    let mut page = Page { after: None, limit: BATCH };
    loop {
        let rows = tx.list_executions(&job.id, &page, &[]).await?;
        let full = rows.len() as u32 == BATCH;
        page.after = rows.last().map(|row| row.client.to_string());
        let ids: Vec<ClientId> = rows.into_iter().map(|row| row.client).collect();
        look(&ids, tx.planned_among(plan, &ids).await?);
        if !full {
            return Ok((count, example));
        }
    }
}
