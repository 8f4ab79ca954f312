//! Jobs: made, started, canceled, archived, run again. How they are changed is in [`revise`](super::revise).

use super::{
    AppError, Env, Result, approvals, brakes, conditions, destinations,
    destinations::{Ahead, Effect},
    events, executions, groups, packages, policies, rollouts, schedule, shelf, trust,
};
use jiff::SignedDuration;
use std::collections::BTreeSet;
use sutler_base::{
    ClientId, GroupName, JobAlias, JobId, PackageName, Timestamp, Version,
    manifest::{
        Requirement,
        relations::{self, Values},
    },
    state::{CancelReason, ClientState, ErrorKind, ExecutionState, HoldReason, Intent, JobState, OnLeave, Purpose, RetryKind},
};
use sutler_core::{
    approval::Approval,
    execution::{self, Again},
    model::{Counts, Execution, Job, JobPackage, PackageVersion, Target},
    rights::Reach,
    terms::JobTerms,
};
use sutler_proto::convert::VersionChoice;
use sutler_store::{Page, StoreError, Tx};

/// How many rows are handled at a time.
const BATCH: u32 = 500;

/// A package of a job, as it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The package.
    pub package: PackageName,
    /// Which version.
    pub version: VersionChoice,
    /// Install also where it is there already.
    pub replace_always: bool,
    /// What is done with it.
    pub intent: Intent,
    /// The values of its parameters.
    pub values: Values,
}

/// A destination, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// The members of a group, now and later.
    Group(GroupName),
    /// One client.
    Client(ClientId),
}

/// What makes a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// What it installs, in this order.
    pub packages: Vec<Wanted>,
    /// Where.
    pub destinations: Vec<Destination>,
    /// For people.
    pub description: String,
    /// 1 (first) to 9.
    pub priority: u8,
    /// Go on with the next package although one failed.
    pub continue_on_failure: bool,
    /// After this nothing is started.
    pub expires: Option<Timestamp>,
    /// A job that is canceled when this one starts.
    pub replaces: Option<JobId>,
    /// Only for clients for which this holds; empty for all.
    pub condition: String,
    /// What a machine must be and have besides what the packages require.
    pub requirements: Vec<Requirement>,
    /// How it is carried out.
    pub terms: JobTerms,
    /// What people call it.
    pub alias: Option<JobAlias>,
    /// Whom it never reaches.
    pub exclusions: Vec<Destination>,
    /// A condition as a destination; empty for none.
    pub clients_where: String,
}

/// A job with everything that is shown of it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The job.
    pub job: Job,
    /// What people call it.
    pub alias: Option<JobAlias>,
    /// What it installs, in the newest revision.
    pub packages: Vec<JobPackage>,
    /// `groups/NAME` and `clients/ID`
    pub destinations: Vec<String>,
    /// `groups/NAME` and `clients/ID` that it never reaches.
    pub exclusions: Vec<String>,
    /// How many executions are where.
    pub counts: Counts,
    /// How many wait for a cancellation to be acknowledged.
    pub canceling: i64,
    /// How often what it installed was found missing.
    pub drifts: i64,
    /// Why no client can start; empty if they can.
    pub unavailable: String,
    /// Why no client will be able to start in a while, as far as is known now; empty if they will.
    pub unavailable_soon: String,
    /// How far its rollout is; none before the start.
    pub rollout: Option<rollouts::Shown>,
    /// What holds clients of it back whatever its rollout says, a sentence each.
    pub held_back: Vec<String>,
    /// What about it waits for a second person.
    pub approval: Option<Approval>,
}

/// How long before nobody can start a job any more that is said.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The job, or that there is none: also where whoever asks does not reach it.
pub async fn load(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<Job> {
    match tx.job(id).await? {
        Some(job) if reaches_job(tx, env, &job).await? => Ok(job),
        _ => Err(AppError::not_found("job", id)),
    }
}

/// Whether whoever asks reaches this job. One with a condition as destination may reach anybody.
pub async fn reaches_job(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<bool> {
    if env.reach == Reach::Everywhere {
        return Ok(true);
    }
    let targets = tx.job_targets(&job.id).await?;
    Ok(job.clients_where.is_empty() && reaches(tx, env, &targets).await?)
}

/// Whether whoever asks reaches a job with these destinations. It goes by where clients are now: a client that leaves a
/// group takes the jobs that name it out of that group's scope.
pub async fn reaches(tx: &mut dyn Tx, env: &Env, targets: &[Target]) -> Result<bool> {
    if env.reach == Reach::Everywhere {
        return Ok(true);
    }
    let clients: Vec<ClientId> = targets.iter().filter_map(|t| if let Target::Client(id) = t { Some(id.clone()) } else { None }).collect();
    let memberships = tx.memberships_of_all(&clients).await?;
    Ok(env.reach.covers(targets, &memberships))
}

/// One job with everything that is shown of it.
pub async fn get(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<Shown> {
    let job = load(tx, env, id).await?;
    show(tx, env, job).await
}

/// A job with everything that is shown of it.
pub async fn show(tx: &mut dyn Tx, env: &Env, job: Job) -> Result<Shown> {
    let rollout = rollouts::show(tx, env, &job).await?;
    with_rollout(tx, env, job, rollout).await
}

async fn with_rollout(tx: &mut dyn Tx, env: &Env, job: Job, rollout: Option<rollouts::Shown>) -> Result<Shown> {
    let alias = tx.alias(&job.id).await?;
    let packages = tx.job_packages(&job.id, job.revision).await?;
    let targets = tx.job_targets(&job.id).await?;
    let destinations = destinations::names(tx, &targets).await?;
    let exclusions = tx.exclusions(&job.id).await?;
    let exclusions = destinations::names(tx, &exclusions).await?;
    let counts = tx.counts(&job.id).await?;
    let canceling = tx.canceling(&job.id).await?;
    let drifts = tx.drift_count(&job.id).await?;
    let (now, soon) = unavailable_now_and_soon(tx, env, &job, &packages).await?;
    let held_back = brakes::of_job(tx, env, &job, &packages, &targets).await?;
    let approval = tx.approval_of(&job.id).await?;
    Ok(Shown {
        job,
        alias,
        packages,
        destinations,
        exclusions,
        counts,
        canceling,
        drifts,
        unavailable: now,
        unavailable_soon: soon,
        rollout,
        held_back,
        approval,
    })
}

/// Why no client can start a job that stands; and if they can, why they will not be able to in a while. Empty if they can, and will.
pub async fn unavailable_now_and_soon(tx: &mut dyn Tx, env: &Env, job: &Job, packages: &[JobPackage]) -> Result<(String, String)> {
    if job.state != JobState::Active {
        return Ok((String::new(), String::new()));
    }
    let word = trust::word(tx).await?;
    let now = unavailable(tx, packages, &word, env.now).await?;
    if !now.is_empty() {
        return Ok((now, String::new()));
    }
    let soon = unavailable(tx, packages, &word, env.now.saturating_add(SOON).unwrap_or(Timestamp::MAX)).await?;
    Ok((now, soon))
}

/// Why a version of these can't be delivered any more at this moment; empty if all can.
async fn unavailable(tx: &mut dyn Tx, wanted: &[JobPackage], word: &trust::Word, at: Timestamp) -> Result<String> {
    let uids: Vec<_> = wanted.iter().filter_map(|p| p.version.clone()).collect();
    let versions = tx.versions_by_uid(&uids).await?;
    for package in wanted.iter().filter(|p| p.intent != Intent::Uninstall) {
        let Some(uid) = &package.version else { continue };
        match versions.iter().find(|v| v.uid == *uid) {
            None => return Ok(format!("{}@{} was deleted", package.package, package.version_text)),
            Some(v) => {
                if let Err(why) = trust::deliverable(v, word, at) {
                    return Ok(format!("{}@{}: {why}", v.name, v.version));
                }
            }
        }
    }
    Ok(String::new())
}

/// The packages of an order, which must exist; a version that is named is pinned.
pub async fn wanted(tx: &mut dyn Tx, asked: &[Wanted]) -> Result<Vec<JobPackage>> {
    let mut wanted = Vec::new();
    for (n, package) in asked.iter().enumerate() {
        let exact = if let VersionChoice::Exact(version) = &package.version { Some(version) } else { None };
        let found = packages::version(tx, &package.package, exact).await?;
        check_values(n, package.intent, &package.values, &found)?;
        refuse_withdrawn(package.intent, &found)?;
        wanted.push(JobPackage {
            package: package.package.clone(),
            version: exact.map(|_| found.uid.clone()),
            version_text: exact.map(Version::to_string).unwrap_or_default(),
            follow: package.version == VersionChoice::Latest,
            replace_always: package.replace_always,
            intent: package.intent,
            values: package.values.clone(),
            needed: Vec::new(),
        });
    }
    Ok(wanted)
}

/// Pins the versions of an order as they are now.
pub async fn pin(tx: &mut dyn Tx, wanted: &mut [JobPackage]) -> Result<()> {
    for (n, package) in wanted.iter_mut().enumerate() {
        let exact = if package.follow { None } else { package.version_text.parse().ok() };
        let version = packages::version(tx, &package.package, exact.as_ref()).await?;
        check_values(n, package.intent, &package.values, &version)?;
        refuse_withdrawn(package.intent, &version)?;
        package.version_text = version.version.to_string();
        package.version = Some(version.uid);
    }
    Ok(())
}

/// Refuses terms that say one thing where the packages say another.
pub fn check_what(terms: &JobTerms, packages: usize) -> Result<()> {
    let why = match (terms.inventory, packages) {
        (true, 1..) => "is in place of packages; run a job of its own for it",
        (true, 0) if terms.keep.is_some() || terms.on_leave != OnLeave::default() => {
            "installs nothing, that could be kept, or taken off where a client leaves; leave out terms.keep and terms.on_leave"
        }
        (false, 0) => return Err(AppError::invalid("packages", "is empty, and a job without packages is an inventory")),
        _ => return Ok(()),
    };
    Err(AppError::invalid("terms.inventory", why))
}

/// Makes a draft. Packages, versions, groups and clients must exist.
pub async fn create(tx: &mut dyn Tx, env: &Env, input: &Create) -> Result<Shown> {
    create_as(tx, env, input, env.world.job_id()).await
}

/// The same, under this id, which no job has.
pub async fn create_as(tx: &mut dyn Tx, env: &Env, input: &Create, id: JobId) -> Result<Shown> {
    check_what(&input.terms, input.packages.len())?;
    let wanted = wanted(tx, &input.packages).await?;
    destinations::needs_all(env, &input.clients_where)?;
    let (mut targets, mut exclusions) = (BTreeSet::new(), BTreeSet::new());
    for destination in &input.destinations {
        targets.insert(destinations::resolve(tx, env, destination).await?);
    }
    for destination in &input.exclusions {
        exclusions.insert(destinations::resolve_exclusion(tx, env, destination).await?);
    }
    if let Some(expires) = input.expires
        && expires <= env.now
    {
        return Err(AppError::invalid("expire_time", "lies in the past; the job would reach nobody"));
    }
    let times = &input.terms.schedule;
    for (field, what, at) in [
        ("start_time", "without one it starts at once", times.start),
        ("deadline_time", "--ignore-windows is what that would come to", times.deadline),
    ] {
        if at.is_some_and(|at| at <= env.now) {
            return Err(AppError::invalid(format!("terms.schedule.{field}"), format!("lies in the past; {what}")));
        }
    }
    schedule::check(times, input.expires)?;
    schedule::check_terms(&input.terms)?;
    if let Some(why) = sutler_core::user::check_offered(&input.terms, &wanted) {
        return Err(AppError::invalid("terms.user.available", why));
    }
    if let Some(other) = &input.replaces {
        load(tx, env, other).await?;
    }
    for (field, condition) in [("condition", &input.condition), ("clients_where", &input.clients_where)] {
        if !condition.is_empty() {
            conditions::compile(tx, env, field, condition).await?;
        }
    }
    let before = match &input.alias {
        Some(alias) => free_alias(tx, env, alias).await?,
        None => None,
    };
    let mut terms = input.terms.clone();
    rollouts::resolve(tx, &mut terms).await?;
    let job = Job {
        id,
        state: JobState::Draft,
        description: input.description.clone(),
        priority: input.priority,
        continue_on_failure: input.continue_on_failure,
        expires: input.expires,
        creator: env.actor_name().to_owned(),
        created: env.now,
        started: None,
        ended: None,
        revision: 1,
        archived: false,
        replaces: input.replaces.clone(),
        condition: input.condition.clone(),
        requirements: input.requirements.clone(),
        terms,
        clients_where: input.clients_where.clone(),
        rolls_back: None,
        change: 0,
    };
    tx.insert_job(&job, &wanted, &targets.into_iter().collect::<Vec<_>>()).await?;
    if let Some(alias) = &input.alias {
        put_alias(tx, alias, &job.id, before.as_ref()).await?;
    }
    tx.add_exclusions(&job.id, &exclusions.into_iter().collect::<Vec<_>>()).await?;
    let under = match (&input.alias, &before) {
        (Some(alias), Some(before)) => format!(", under the alias {alias}, which jobs/{before} had"),
        (Some(alias), None) => format!(", under the alias {alias}"),
        (None, _) => String::new(),
    };
    env.audit(tx, "create_job", format!("jobs/{}", job.id), format!("{}{under}", describe(&wanted))).await?;
    get(tx, env, &job.id).await
}

/// The job that has ended whose alias may be given to another one, if any has it. One that is not reached keeps its alias: whoever
/// goes by that means the job that had it, and would change another one.
async fn free_alias(tx: &mut dyn Tx, env: &Env, alias: &JobAlias) -> Result<Option<JobId>> {
    let Some(id) = tx.job_by_alias(alias).await? else { return Ok(None) };
    match tx.job(&id).await? {
        Some(job) if !has_ended(job.state) || !reaches_job(tx, env, &job).await? => Err(alias_taken(alias)),
        _ => Ok(Some(id)),
    }
}

async fn put_alias(tx: &mut dyn Tx, alias: &JobAlias, job: &JobId, before: Option<&JobId>) -> Result<()> {
    tx.put_alias(alias, job, before).await.map_err(|e| match e {
        StoreError::Exists(_) => alias_taken(alias),
        other => other.into(),
    })
}

/// Gives a job that is there another alias, or none. Gives back what that changes, in a sentence; nothing if it has it already.
pub async fn call(tx: &mut dyn Tx, env: &Env, id: &JobId, alias: Option<&JobAlias>) -> Result<Option<String>> {
    let had = tx.alias(id).await?;
    if had.as_ref() == alias {
        return Ok(None);
    }
    let said = |alias: Option<&JobAlias>| alias.map_or("none".to_owned(), ToString::to_string);
    let mut change = format!("alias: {} in place of {}", said(alias), said(had.as_ref()));
    let before = match alias {
        Some(alias) => free_alias(tx, env, alias).await?,
        None => None,
    };
    change.extend(before.iter().map(|before| format!(", which jobs/{before} had")));
    tx.drop_alias(id).await?;
    if let Some(alias) = alias {
        put_alias(tx, alias, id, before.as_ref()).await?;
    }
    Ok(Some(change))
}

fn alias_taken(alias: &JobAlias) -> AppError {
    AppError::Exists { what: "job", name: alias.to_string(), hint: "end that one with `job cancel`, or choose another alias".into() }
}

/// As [`get`], by what people call the job.
pub async fn get_by_alias(tx: &mut dyn Tx, env: &Env, alias: &JobAlias) -> Result<Shown> {
    let job = match tx.job_by_alias(alias).await? {
        Some(id) => tx.job(&id).await?,
        None => None,
    };
    match job {
        Some(job) if reaches_job(tx, env, &job).await? => show(tx, env, job).await,
        _ => Err(AppError::not_found("job", alias)),
    }
}

/// Whether a job in this state is over.
pub fn has_ended(state: JobState) -> bool {
    matches!(state, JobState::Completed | JobState::Canceled | JobState::Expired)
}

/// A version that was withdrawn reaches nobody: an order for it would only wait.
pub fn refuse_withdrawn(intent: Intent, version: &PackageVersion) -> Result<()> {
    match &version.withdrawn {
        Some((_, reason)) if intent != Intent::Uninstall => {
            let name = packages::name_of(version);
            let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            let message = format!("{name} was withdrawn{why}; order another version, or reinstate it with `package reinstate`");
            Err(AppError::state(name, "WITHDRAWN", message))
        }
        _ => Ok(()),
    }
}

/// Whether these values can be given to the parameters of this version. The agent asks the same of what is signed.
fn check_values(n: usize, intent: Intent, values: &Values, version: &PackageVersion) -> Result<()> {
    match relations::fill(&version.terms.parameters, values) {
        Ok(_) => Ok(()),
        // To uninstall it goes by the version that is there, which may have had other parameters; what is only fetched runs nothing.
        Err(_) if intent != Intent::Install && values.is_empty() => Ok(()),
        Err(why) => Err(AppError::invalid(format!("packages[{n}].values"), format!("{}@{}: {why}", version.name, version.version))),
    }
}

/// The packages of a job, in words.
pub fn describe(wanted: &[JobPackage]) -> String {
    let one = |p: &JobPackage| {
        let word = match p.intent {
            Intent::Install => "",
            Intent::Uninstall => "uninstall ",
            Intent::Prefetch => "fetch ",
        };
        format!("{word}{}@{}", p.package, if p.follow { "latest" } else { &p.version_text })
    };
    if wanted.is_empty() { "report facts".into() } else { wanted.iter().map(one).collect::<Vec<_>>().join(", ") }
}

/// Makes a job and starts it, in one commit.
pub async fn run(tx: &mut dyn Tx, env: &Env, input: &Create) -> Result<Shown> {
    let made = create(tx, env, input).await?;
    start(tx, env, &made.job.id).await
}

/// Starts a draft: pins the versions, adds what they depend on, and reaches the destinations from this commit on; or from its start
/// time on, if that lies ahead. What is pinned is pinned now in any case: it is what the operator was shown.
pub async fn start(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<Shown> {
    let mut job = load(tx, env, id).await?;
    match job.state {
        JobState::Draft => {}
        JobState::Active | JobState::Scheduled => return show(tx, env, job).await,
        state => {
            return Err(AppError::state(format!("jobs/{id}"), "NOT_A_DRAFT", format!("jobs/{id} is {state}; only a draft can be started")));
        }
    }
    if job.expires.is_some_and(|e| e <= env.now) {
        return Err(AppError::state(
            format!("jobs/{id}"),
            "EXPIRED",
            format!("the expire time of jobs/{id} is over; give it another with `job update`"),
        ));
    }
    if !job.terms.schedule.waits(env.common_clock(tx).await?) {
        activate(tx, env, job).await?;
        // Not where a job starts by itself: that was counted when it was ordered, and nobody would ask for the number.
        note_coming(tx, env, id, Some(Effect::Reached)).await?;
        return get(tx, env, id).await;
    }
    let (wanted, targets) = pinned(tx, env, &job).await?;
    for target in &targets {
        refuse_second(tx, env, &job, &wanted, target).await?;
    }
    tx.put_job_packages(id, job.revision, &wanted).await?;
    job.state = JobState::Scheduled;
    tx.save_job(&job).await?;
    destinations::note_ahead(tx, env, &job, &targets).await?;
    note_coming(tx, env, id, Some(Effect::Reached)).await?;
    let when = job.terms.schedule.start.map(|at| at.to_string()).unwrap_or_default();
    env.audit(tx, "schedule_job", format!("jobs/{id}"), format!("{}, for {when}", describe(&wanted))).await?;
    env.wakes().jobs.insert(id.clone());
    get(tx, env, id).await
}

/// The versions of a job with what they depend on, and its destinations, as it is about to start.
async fn pinned(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<(Vec<JobPackage>, Vec<Target>)> {
    let id = &job.id;
    let mut wanted = tx.job_packages(id, job.revision).await?;
    // What others need is chosen anew.
    wanted.retain(|package| package.needed.is_empty());
    pin(tx, &mut wanted).await?;
    let wanted = super::relations::expand(tx, env, &format!("jobs/{id}"), wanted).await?;
    let targets = tx.job_targets(id).await?;
    if targets.is_empty() && job.clients_where.is_empty() {
        return Err(AppError::state(
            format!("jobs/{id}"),
            "NO_DESTINATION",
            format!("jobs/{id} has no destination any more; make a new job"),
        ));
    }
    Ok((wanted, targets))
}

/// Pins what a draft would install if it were started now: while it waits it is what it was when it was ordered.
pub async fn pin_draft(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<()> {
    let job = load(tx, env, id).await?;
    let had = tx.job_packages(id, job.revision).await?;
    let (wanted, _) = pinned(tx, env, &job).await?;
    if wanted != had {
        tx.put_job_packages(id, job.revision, &wanted).await?;
        // Whoever looked at the draft before saw another one.
        tx.save_job(&job).await?;
    }
    Ok(())
}

/// Makes a job reach its destinations, from this commit on.
pub async fn activate(tx: &mut dyn Tx, env: &Env, mut job: Job) -> Result<()> {
    let id = &job.id.clone();
    let (wanted, targets) = pinned(tx, env, &job).await?;
    if let Some(other) = job.replaces.clone() {
        replace(tx, env, &other).await?;
    }
    for target in &targets {
        refuse_second(tx, env, &job, &wanted, target).await?;
    }
    tx.put_job_packages(id, job.revision, &wanted).await?;
    job.state = JobState::Active;
    job.started = Some(env.now);
    tx.save_job(&job).await?;
    rollouts::begin(tx, env, &job).await?;
    for target in &targets {
        match target {
            Target::Group(uid) => {
                tx.insert_executions_for_group(id, uid, env.now).await?;
            }
            Target::Client(client) => {
                if tx.client(client).await?.is_some_and(|c| matches!(c.state, ClientState::Active | ClientState::Quarantined)) {
                    tx.insert_executions(id, std::slice::from_ref(client), env.now).await?;
                }
            }
        }
    }
    destinations::reach_matching(tx, env, &job).await?;
    env.reached().note_rows(id, &[]);
    let ignores = if job.terms.schedule.ignore_windows { ", ignoring maintenance windows" } else { "" };
    env.audit(tx, "start_job", format!("jobs/{id}"), format!("{}{ignores}", describe(&wanted))).await?;
    events::job_started(tx, env, &job, &describe(&wanted), false).await?;
    shelf::wake(tx, env, &job).await?;
    rollouts::let_first_go(tx, env, &job).await?;
    wake_queued(tx, env, id).await
}

/// Notes whom policies will bring to a job, or take from it: those of the groups that are its destinations, or that it excludes.
pub async fn note_coming(tx: &mut dyn Tx, env: &Env, id: &JobId, effect: Option<Effect>) -> Result<()> {
    let mut targets = tx.job_targets(id).await?;
    targets.extend(tx.exclusions(id).await?);
    policies::note_ahead_of(tx, env, &destinations::groups_of(&targets), &Ahead { job: Some(id), effect, ..Ahead::default() }).await
}

/// Wakes every client that has a queued row of this job.
pub async fn wake_queued(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<()> {
    let mut after: Option<ClientId> = None;
    loop {
        let queued = tx.queued_clients_of(id, after.as_ref(), BATCH).await?;
        let full = queued.len() as u32 == BATCH;
        after = queued.last().cloned();
        env.wakes().clients.extend(queued);
        if !full {
            break;
        }
    }
    env.wakes().jobs.insert(id.clone());
    Ok(())
}

/// Wakes every client that has an open row of this job: agents are told anew when it may be begun.
pub async fn wake_open(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<()> {
    use ExecutionState::*;
    let mut page = Page { after: None, limit: BATCH };
    loop {
        let rows = tx.list_executions(id, &page, &[Queued, Offered, Downloading, Waiting]).await?;
        let full = rows.len() as u32 == BATCH;
        page.after = rows.last().map(|r| r.client.to_string());
        env.wakes().clients.extend(rows.into_iter().map(|r| r.client));
        if !full {
            return Ok(());
        }
    }
}

/// Two active jobs for the same package on the same destination would undo each other. What others need is asked for by nobody, and
/// left alone where it will do.
pub async fn refuse_second(tx: &mut dyn Tx, env: &Env, job: &Job, wanted: &[JobPackage], target: &Target) -> Result<()> {
    if matches!(target, Target::Client(_)) {
        return Ok(());
    }
    for other in tx.jobs_with_target(target, &[JobState::Active, JobState::Paused]).await? {
        if other.id == job.id || job.replaces.as_ref() == Some(&other.id) {
            continue;
        }
        for package in tx.job_packages(&other.id, other.revision).await? {
            // What is only fetched undoes nothing.
            let asked = |p: &JobPackage| p.needed.is_empty() && p.intent != Intent::Prefetch;
            if asked(&package) && wanted.iter().any(|w| asked(w) && w.package == package.package) {
                let shown = show(tx, env, other.clone()).await?;
                if !reaches_job(tx, env, &other).await? {
                    let message = format!("another job, outside the scope of your role, installs {} there", package.package);
                    return Err(AppError::state(format!("jobs/{}", job.id), "SECOND_JOB", message));
                }
                let message = format!(
                    "jobs/{} is active and installs {} on {}; end it with `job cancel`, or run this one with --replaces {}",
                    other.id,
                    package.package,
                    shown.destinations.join(", "),
                    other.id
                );
                return Err(AppError::state(format!("jobs/{}", job.id), "SECOND_JOB", message));
            }
        }
    }
    Ok(())
}

/// Ends a job because another takes its place.
pub async fn replace(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<()> {
    let mut job = load(tx, env, id).await?;
    if matches!(job.state, JobState::Active | JobState::Paused | JobState::Scheduled) {
        end(tx, env, &mut job, JobState::Canceled).await?;
        cancel_open(tx, env, id, CancelReason::Replaced).await?;
        events::job_ended(tx, env, &job).await?;
        env.audit(tx, "cancel_job", format!("jobs/{id}"), "replaced by another job").await?;
    }
    Ok(())
}

async fn end(tx: &mut dyn Tx, env: &Env, job: &mut Job, state: JobState) -> Result<()> {
    job.state = state;
    job.ended = Some(env.now);
    env.wakes().jobs.insert(job.id.clone());
    Ok(tx.save_job(job).await?)
}

/// Cancels every row that has not started, and of the others the packages that follow the one that has.
pub async fn cancel_open(tx: &mut dyn Tx, env: &Env, id: &JobId, reason: CancelReason) -> Result<()> {
    use ExecutionState::*;
    let mut page = Page { after: None, limit: BATCH };
    loop {
        let rows = tx.list_executions(id, &page, &[Queued, Offered, Downloading, Waiting, Installing, Verifying, Restoring]).await?;
        let full = rows.len() as u32 == BATCH;
        page.after = rows.last().map(|r| r.client.to_string());
        executions::cancel(tx, env, &rows, reason).await?;
        if !full {
            return Ok(());
        }
    }
}

/// A page of the jobs that are reached, and the key of the next one.
pub async fn list(tx: &mut dyn Tx, env: &Env, page: &Page, archived: bool) -> Result<(Vec<Shown>, Option<String>)> {
    let (jobs, next) = self::page(tx, env, page, archived).await?;
    let mut out = Vec::new();
    for job in jobs {
        // Not by a look at all rows of all jobs.
        let rollout = rollouts::glance(tx, &job).await?;
        out.push(with_rollout(tx, env, job, rollout).await?);
    }
    Ok((out, next))
}

/// The same, of each the job alone.
pub async fn page(tx: &mut dyn Tx, env: &Env, page: &Page, archived: bool) -> Result<(Vec<Job>, Option<String>)> {
    let (mut page, mut out) = (page.clone(), Vec::new());
    loop {
        let rows = tx.list_jobs(&page, archived).await?;
        let more = rows.len() as u32 == page.limit;
        page.after = rows.last().map(key).or(page.after);
        for job in rows {
            if reaches_job(tx, env, &job).await? {
                // The key of a job that is not reached would tell of it.
                let next = key(&job);
                out.push(job);
                if out.len() as u32 == page.limit {
                    return Ok((out, Some(next)));
                }
            }
        }
        if !more {
            return Ok((out, None));
        }
    }
}

fn key(job: &Job) -> String {
    format!("{}/{}", job.created.as_millisecond(), job.id)
}

/// Ends a job: what has not started never will; what has goes to its end.
pub async fn cancel(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<Shown> {
    call_off(tx, env, id, "cancel_job", CancelReason::JobCanceled).await
}

/// The same; rows say that its rollout was aborted.
pub async fn abort(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<Shown> {
    call_off(tx, env, id, "abort_job", CancelReason::JobAborted).await
}

async fn call_off(tx: &mut dyn Tx, env: &Env, id: &JobId, action: &str, reason: CancelReason) -> Result<Shown> {
    let mut job = load(tx, env, id).await?;
    match job.state {
        JobState::Canceled => return show(tx, env, job).await,
        JobState::Completed | JobState::Expired => {
            let message = format!("jobs/{id} is {} already; there is nothing to cancel", job.state);
            return Err(AppError::state(format!("jobs/{id}"), "ENDED", message));
        }
        _ => {}
    }
    end(tx, env, &mut job, JobState::Canceled).await?;
    cancel_open(tx, env, id, reason).await?;
    approvals::job_is_over(tx, env, id).await?;
    events::job_ended(tx, env, &job).await?;
    env.audit(tx, action, format!("jobs/{id}"), "").await?;
    get(tx, env, id).await
}

/// Takes a job that has ended, or a draft, out of the lists.
pub async fn archive(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<Shown> {
    let mut job = load(tx, env, id).await?;
    if matches!(job.state, JobState::Scheduled | JobState::Active | JobState::Paused) {
        let message = format!("jobs/{id} is {}; cancel it before it is archived", job.state);
        return Err(AppError::state(format!("jobs/{id}"), "NOT_ENDED", message));
    }
    if !job.archived {
        job.archived = true;
        tx.save_job(&job).await?;
        approvals::job_is_over(tx, env, id).await?;
        env.audit(tx, "archive_job", format!("jobs/{id}"), "").await?;
    }
    get(tx, env, id).await
}

/// What is to be run again.
#[derive(Debug, Clone)]
pub struct Retry {
    /// The job.
    pub id: JobId,
    /// Which executions.
    pub kinds: Vec<RetryKind>,
    /// Only these clients, if any are named.
    pub clients: Vec<ClientId>,
    /// Only members of these groups, if any are named.
    pub groups: Vec<GroupName>,
    /// Only rows with this kind of error.
    pub error_kind: Option<ErrorKind>,
    /// Until when a job that was canceled or has expired is to stand again.
    pub expires: Option<Timestamp>,
}

/// What a re-execution came to.
#[derive(Debug, Clone)]
pub struct Retried {
    /// The job.
    pub job: Shown,
    /// How many get a new attempt.
    pub retried: i32,
    /// How many that wait are offered again.
    pub offered_again: i32,
}

/// Runs a job again where it ended in error, and only there; offers again at once what waits.
pub async fn retry(tx: &mut dyn Tx, env: &Env, input: &Retry) -> Result<Retried> {
    let mut job = load(tx, env, &input.id).await?;
    let name = format!("jobs/{}", job.id);
    match job.state {
        JobState::Draft | JobState::Scheduled => {
            return Err(AppError::state(name, "NOT_STARTED", format!("jobs/{} was not started yet", job.id)));
        }
        JobState::Canceled | JobState::Expired if input.expires.is_none() => {
            let message = format!("jobs/{} is {}; say until when it is to stand again with --expires", job.id, job.state);
            return Err(AppError::state(name, "ENDED", message));
        }
        _ => {}
    }
    if input.expires.is_some_and(|e| e <= env.now) {
        return Err(AppError::invalid("expire_time", "lies in the past"));
    }
    if has_ended(job.state) {
        excludes_what_is_there(tx, &job).await?;
    }
    let mut members: Option<BTreeSet<ClientId>> = (!input.clients.is_empty()).then(|| input.clients.iter().cloned().collect());
    for group in &input.groups {
        let group = groups::load(tx, group).await?;
        members.get_or_insert_default().extend(destinations::members(tx, &group.uid).await?);
    }
    for client in &input.clients {
        if tx.execution(&job.id, client).await?.is_none() {
            return Err(AppError::not_found("execution", format!("jobs/{}/executions/{client}", job.id)));
        }
    }
    let stands_again = matches!(job.state, JobState::Canceled | JobState::Expired);
    if stands_again {
        let wanted = tx.job_packages(&job.id, job.revision).await?;
        for target in tx.job_targets(&job.id).await? {
            refuse_second(tx, env, &job, &wanted, &target).await?;
        }
    }
    let goes_on = stands_again || job.state == JobState::Completed;
    if goes_on {
        job.state = JobState::Active;
        job.ended = None;
        job.terms.schedule.failure.clear();
        let wanted = tx.job_packages(&job.id, job.revision).await?;
        events::job_started(tx, env, &job, &describe(&wanted), true).await?;
    }
    job.expires = input.expires.or(job.expires);
    tx.save_job(&job).await?;
    if stands_again {
        rollouts::stands_again(tx, env, &job).await?;
        reach_all(tx, env, &job).await?;
    }
    if goes_on {
        note_coming(tx, env, &job.id, None).await?;
    }
    let (mut retried, mut offered_again) = (0, 0);
    let mut page = Page { after: None, limit: BATCH };
    loop {
        let rows = tx.list_executions(&job.id, &page, &[]).await?;
        let full = rows.len() as u32 == BATCH;
        page.after = rows.last().map(|r| r.client.to_string());
        let (mut changes, mut again) = (Vec::new(), Vec::new());
        for row in rows.iter().filter(|r| members.as_ref().is_none_or(|m| m.contains(&r.client))) {
            match execution::again(row, &input.kinds, input.error_kind) {
                Again::Leave => {}
                Again::OfferAgain => {
                    offered_again += 1;
                    if row.hold == Some(HoldReason::Retry) {
                        brakes::retries::go(tx, env, &[(row.job.clone(), row.client.clone())]).await?;
                    }
                    let mut wakes = env.wakes();
                    wakes.clients.insert(row.client.clone());
                    wakes.run_now.insert(row.client.clone());
                }
                // A row of a client that left stays as it is: the job does not reach it any more.
                Again::NewAttempt if row.purpose == Purpose::Leave || executions::is_reached(tx, &job.id, &row.client).await? => {
                    retried += 1;
                    again.extend((row.purpose != Purpose::Leave).then_some(row));
                    env.reached().note(&job.id, [&row.client]);
                    changes.push(executions::moved(row, ExecutionState::Queued, "", "", env));
                    env.wakes().clients.insert(row.client.clone());
                }
                Again::NewAttempt => {}
            }
        }
        rollouts::queued_again(tx, &job.id, &again).await?;
        tx.change_executions(&changes).await?;
        // Whoever asks for a new attempt wants what the job says of retries for it, too.
        tx.forget_retries(&changes.into_iter().map(|change| (change.job, change.client)).collect::<Vec<_>>()).await?;
        if !full {
            break;
        }
    }
    env.audit(tx, "retry_job", &name, format!("{:?}: {retried} again, {offered_again} offered again", input.kinds)).await?;
    env.wakes().jobs.insert(job.id.clone());
    Ok(Retried { job: get(tx, env, &input.id).await?, retried, offered_again })
}

/// Refuses to run a job again that never reached the members of a group which is no more: nobody can tell any more whom it is not to
/// reach.
async fn excludes_what_is_there(tx: &mut dyn Tx, job: &Job) -> Result<()> {
    let exclusions = tx.exclusions(&job.id).await?;
    let groups: Vec<_> = exclusions.iter().filter_map(|t| if let Target::Group(uid) = t { Some(uid.clone()) } else { None }).collect();
    if tx.groups_by_uid(&groups).await?.len() == groups.len() {
        return Ok(());
    }
    let message = format!(
        "jobs/{} never reached the members of a group that was deleted after the job had ended, and nobody knows any more who they were; \
         `job clone` makes another job, for which you say whom it never reaches",
        job.id
    );
    Err(AppError::state(format!("jobs/{}", job.id), "EXCLUSION_GONE", message))
}

/// Reaches everybody whom a job that stands again did not reach while it did not: members that came, or came back.
async fn reach_all(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    for target in tx.job_targets(&job.id).await? {
        let clients = destinations::held_by(tx, &target).await?;
        for batch in clients.chunks(BATCH as usize) {
            reach_admitted(tx, env, &job.id, batch).await?;
        }
    }
    destinations::reach_matching(tx, env, job).await
}

/// Reaches those of these clients that were let in and are not archived.
pub async fn reach_admitted(tx: &mut dyn Tx, env: &Env, id: &JobId, clients: &[ClientId]) -> Result<()> {
    let found = tx.clients(clients).await?;
    let admitted = found.into_iter().filter(destinations::is_admitted);
    executions::reach(tx, env, id, &admitted.map(|c| c.id).collect::<Vec<_>>()).await
}

/// Gives jobs that follow the newest version of a package a new revision, where that has changed: clients that have not started get
/// it. What those versions depend on is chosen anew. A job for which that fails stays as it is, until something that it needs is
/// there.
///
/// `package` is one of which a version came or went. That concerns those who follow it, and those who follow one that depends on it.
pub async fn follow(tx: &mut dyn Tx, env: &Env, package: &PackageName) -> Result<()> {
    let mut looked = BTreeSet::new();
    for name in super::relations::reaching(tx, package).await? {
        for job in tx.jobs_following(&name).await? {
            if looked.insert(job.id.clone()) {
                catch_up(tx, env, job).await?;
            }
        }
    }
    Ok(())
}

/// Gives a job the newest versions of what it follows, if it has others.
async fn catch_up(tx: &mut dyn Tx, env: &Env, mut job: Job) -> Result<()> {
    let before = tx.job_packages(&job.id, job.revision).await?;
    let mut asked: Vec<JobPackage> = before.iter().filter(|p| p.needed.is_empty()).cloned().collect();
    let mut news = Vec::new();
    for package in asked.iter_mut().filter(|p| p.follow) {
        let Some(newest) = tx.newest_version(&package.package).await? else { continue };
        if package.version.as_ref() != Some(&newest.uid) {
            news.push(packages::name_of(&newest));
            package.version_text = newest.version.to_string();
            package.version = Some(newest.uid);
        }
    }
    if news.is_empty() && super::relations::stands(tx, env, &before).await? {
        return Ok(());
    }
    let name = format!("jobs/{}", job.id);
    let wanted = match super::relations::expand(tx, env, &name, asked).await {
        Ok(wanted) => wanted,
        Err(AppError::State { message, .. }) => {
            return env.audit(tx, "follow", &name, format!("it stays at revision {}: {message}", job.revision)).await;
        }
        Err(other) => return Err(other),
    };
    job.revision += 1;
    tx.put_job_packages(&job.id, job.revision, &wanted).await?;
    tx.save_job(&job).await?;
    rollouts::other_packages(tx, &job).await?;
    let with = if news.is_empty() { "others of what its packages depend on".into() } else { news.join(", ") };
    env.audit(tx, "follow", &name, format!("revision {} with {with}", job.revision)).await?;
    env.wakes().jobs.insert(job.id.clone());
    shelf::wake(tx, env, &job).await?;
    wake_queued(tx, env, &job.id).await
}

/// A page of a job's rows and the key of the next one.
pub async fn rows(tx: &mut dyn Tx, env: &Env, id: &JobId, page: &Page, states: &[ExecutionState]) -> Result<(Vec<Row>, Option<String>)> {
    load(tx, env, id).await?;
    let rows = tx.list_executions(id, page, states).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|r| r.client.to_string())).flatten();
    Ok((with_clients(tx, env, rows).await?, next))
}

/// A row with what is shown beside it.
#[derive(Debug, Clone)]
pub struct Row {
    /// The execution.
    pub execution: Execution,
    /// Its client.
    pub client: sutler_core::model::ClientBrief,
    /// Its newest attempt.
    pub attempt: Option<sutler_core::model::Attempt>,
    /// Whether the job still reaches the client.
    pub reached: bool,
    /// Where the job is.
    pub job: JobState,
    /// What holds it back whatever the job's rollout says.
    pub held: Option<brakes::Held>,
}

/// Rows with what is shown beside them.
pub async fn with_clients(tx: &mut dyn Tx, env: &Env, rows: Vec<Execution>) -> Result<Vec<Row>> {
    let Some(job) = rows.first().map(|r| r.job.clone()) else { return Ok(vec![]) };
    let ids: Vec<ClientId> = rows.iter().map(|r| r.client.clone()).collect();
    let found = tx.clients_in_brief(&ids).await?;
    let attempts: Vec<_> = rows.iter().filter_map(|r| r.attempt.clone()).collect();
    let attempts = tx.attempts(&attempts).await?;
    let reached = destinations::reached(tx, &job, &ids).await?;
    let Some(job) = tx.job(&job).await? else { return Ok(vec![]) };
    let mut shown: Vec<Row> = rows
        .into_iter()
        .filter_map(|execution| {
            let client = found.iter().find(|c| c.id == execution.client)?.clone();
            let attempt = attempts.iter().find(|a| Some(&a.id) == execution.attempt.as_ref()).cloned();
            let reached = reached.contains(&client.id);
            Some(Row { execution, client, attempt, reached, job: job.state, held: None })
        })
        .collect();
    schedule::tell(tx, env, &job, &mut shown).await?;
    brakes::tell(tx, env, &job, &mut shown).await?;
    Ok(shown)
}
