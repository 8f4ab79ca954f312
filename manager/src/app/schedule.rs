//! Jobs that start by themselves, and when what they order may be begun on a client.
//!
//! The manager decides, by the clock that all managers have in common: what an agent is told are moments, with the time that it is
//! here. How long a lease has to last for an agent that is cut off when its window opens is decided here, too, and written down
//! before it is given.

use super::{AppError, Env, Result, approvals, events, jobs, shelf, windows};
use jiff::SignedDuration;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};
use sutler_base::{
    AttemptId, ClientId, JobId, OperatorName, Timestamp,
    state::{ExecutionState, Intent, JobState, Timing, WaitReason},
};
use sutler_core::{
    model::{Client, Execution, Job, JobPackage, LongLease, PackageVersion},
    rights,
    schedule::{self, Schedule, lease_until},
    terms::JobTerms,
    user,
    window::{Opening, Windows},
};
use sutler_store::{Page, Tx};

/// How many jobs are looked at in one unit.
const BATCH: u32 = 500;
/// Of how many clients the facts are held at a time, which say in which zone one is.
const WITH_FACTS: usize = 50;

/// Jobs whose time to reach their clients has come, and the key of the next page.
pub async fn due(tx: &mut dyn Tx, env: &Env, after: Option<String>) -> Result<(Vec<JobId>, Option<String>)> {
    let now = env.common_clock(tx).await?;
    let page = tx.jobs_in(&Page { after, limit: BATCH }, JobState::Scheduled).await?;
    let next = if page.len() as u32 == BATCH { page.last().map(|j| j.id.to_string()) } else { None };
    Ok((page.into_iter().filter(|job| !job.terms.schedule.waits(now)).map(|job| job.id).collect(), next))
}

/// Starts a job whose time has come.
pub async fn start(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<()> {
    let now = env.common_clock(tx).await?;
    match tx.job(id).await? {
        Some(job) if job.state == JobState::Scheduled && !job.terms.schedule.waits(now) => {
            maker_still_may(tx, env, &job).await?;
            jobs::activate(tx, env, job).await
        }
        _ => Ok(()),
    }
}

/// Refuses to start a job that the one who made it may not order any more: what was allowed when it was ordered may be forbidden by now.
async fn maker_still_may(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    // What no operator made nobody can have been forbidden.
    let Ok(maker) = job.creator.parse::<OperatorName>() else { return Ok(()) };
    let refused = |why: &str| {
        let message = format!("operators/{maker}, who made jobs/{}, {why}; somebody who may makes it anew with `job clone`", job.id);
        Err(AppError::state(format!("jobs/{}", job.id), "MAKER_MAY_NOT", message))
    };
    let Some(operator) = tx.operator(&maker).await? else { return Ok(()) };
    if operator.revoked.is_some() {
        return refused("was revoked meanwhile");
    }
    let Some(reach) = rights::reach(&operator.grants, &approvals::orderers()) else { return refused("may not order jobs any more") };
    let as_maker = env.on_behalf_of(&format!("operators/{maker}"), reach);
    if !jobs::reaches_job(tx, &as_maker, job).await? {
        return refused("does not reach its destinations any more");
    }
    Ok(())
}

/// Ends a job that could not be started when its time had come, and says why: on the job and in the audit log.
pub async fn failed(tx: &mut dyn Tx, env: &Env, id: &JobId, why: &str) -> Result<()> {
    let Some(mut job) = tx.job(id).await?.filter(|job| job.state == JobState::Scheduled) else { return Ok(()) };
    // It was put off meanwhile: what stood in its way may be mended by then.
    if job.terms.schedule.waits(env.common_clock(tx).await?) {
        return Ok(());
    }
    job.state = JobState::Canceled;
    job.ended = Some(env.now);
    job.terms.schedule.failure = why.chars().take(1000).collect();
    tx.save_job(&job).await?;
    events::job_ended(tx, env, &job).await?;
    env.wakes().jobs.insert(id.clone());
    env.audit(tx, "start_failed", format!("jobs/{id}"), why).await
}

/// What changes when a job is carried out; `None` leaves a time as it is.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Before this nothing is begun.
    pub start: Option<Timestamp>,
    /// So long before that it is offered (seconds).
    pub prefetch: Option<u64>,
    /// From this on windows don't hold it up.
    pub deadline: Option<Timestamp>,
    /// Windows don't hold it up at all.
    pub ignore_windows: bool,
    /// At which moment of the machine's life it begins, for those that have not started.
    pub timing: Option<Timing>,
}

/// Changes the times of a job, which were these before anything of them was taken out. What is given as it was is no change.
pub fn change(job: &mut Job, env: &Env, before: &Schedule, change: &Change) -> Result<()> {
    let name = format!("jobs/{}", job.id);
    let schedule = &mut job.terms.schedule;
    let start = change.start.filter(|_| change.start != before.start);
    if start.is_some() || (change.prefetch.is_some() && change.prefetch != before.prefetch) {
        let started = match job.state {
            JobState::Draft => false,
            // While its bytes travel it is ACTIVE, and still waits.
            _ => before.start.is_none_or(|start| start <= env.now),
        };
        if started {
            let message = format!("{name} has started; its start time can't be changed any more, only its deadline and its end");
            return Err(AppError::state(name, "STARTED", message));
        }
        if start.is_some_and(|start| start <= env.now) {
            return Err(AppError::invalid("schedule.start_time", "lies in the past; to start it now, cancel it and run it anew"));
        }
    }
    schedule.start = change.start.or(schedule.start);
    schedule.prefetch = change.prefetch.or(schedule.prefetch);
    schedule.deadline = change.deadline.or(schedule.deadline);
    schedule.ignore_windows |= change.ignore_windows;
    schedule.timing = change.timing.unwrap_or(schedule.timing);
    check(schedule, job.expires)
}

/// Whether these terms go together with each other.
pub fn check_terms(terms: &JobTerms) -> Result<()> {
    match user::check(terms).into_iter().next() {
        None => Ok(()),
        Some((field, why)) => Err(AppError::invalid(field, why)),
    }
}

/// Whether these times go together.
pub fn check(schedule: &Schedule, expires: Option<Timestamp>) -> Result<()> {
    match schedule.check(expires).into_iter().next() {
        None => Ok(()),
        Some((field, why)) => Err(AppError::invalid(field, why)),
    }
}

/// When an attempt may be begun.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// In one of these; none: not at all until it is told anew.
    pub openings: Vec<Opening>,
    /// How long each package takes (seconds).
    pub durations: Vec<u32>,
}

/// A schedule, and when it lets a job begin on a client.
type Known = (Schedule, Option<Vec<Opening>>);

/// The windows of some clients at a moment.
pub struct Clock {
    now: Timestamp,
    /// How far the clock that all managers have in common is ahead of that of this one.
    ahead: SignedDuration,
    usual: Duration,
    windows: BTreeMap<ClientId, Windows>,
    /// What was worked out: many jobs have the same schedule.
    known: BTreeMap<ClientId, Vec<Known>>,
}

impl Clock {
    /// The windows of these clients now.
    pub async fn of(tx: &mut dyn Tx, env: &Env, clients: &[&Client]) -> Result<Clock> {
        let windows = windows::of_clients(tx, clients).await?;
        let now = env.common_clock(tx).await?;
        let usual = Duration::from_secs(env.settings.lease_seconds().into());
        Ok(Clock { now, ahead: now.duration_since(env.now), usual, windows, known: BTreeMap::new() })
    }

    /// How far the clock that all managers have in common is ahead of that of this one.
    pub fn ahead(&self) -> SignedDuration {
        self.ahead
    }

    /// When a job with this schedule may be begun on a client; none: at any time.
    pub fn openings(&mut self, client: &ClientId, schedule: &Schedule) -> Option<Vec<Opening>> {
        let known = self.known.entry(client.clone()).or_default();
        if let Some((_, openings)) = known.iter().find(|(of, _)| of == schedule) {
            return openings.clone();
        }
        let openings = schedule.openings(self.windows.get(client).unwrap_or(&Windows::default()), self.now);
        known.push((schedule.clone(), openings.clone()));
        openings
    }

    /// The openings of what begins with a start or the stop of a machine.
    pub fn at_any_moment(&self) -> Opening {
        schedule::at_any_moment(self.now)
    }

    /// The sentence about what it waits for there; none where time is not what it waits for.
    pub fn waits_for(&self, client: &ClientId, schedule: &Schedule, seconds: u64) -> Option<String> {
        schedule::waits_for(schedule, self.windows.get(client).unwrap_or(&Windows::default()), seconds, self.now)
    }

    /// How long the leases of these attempts are to last (seconds), where that is longer than usual: written down by this.
    pub async fn leases(&self, tx: &mut dyn Tx, times: &[(AttemptId, &[Opening])]) -> Result<BTreeMap<AttemptId, u32>> {
        let (mut out, mut new) = (BTreeMap::new(), Vec::new());
        if times.is_empty() {
            return Ok(out);
        }
        let ids: Vec<AttemptId> = times.iter().map(|(id, _)| id.clone()).collect();
        let given: BTreeMap<AttemptId, Timestamp> = tx.long_leases(&ids).await?.into_iter().map(|l| (l.attempt, l.until)).collect();
        for (id, openings) in times {
            let before = given.get(id).copied();
            let Some(until) = lease_until(openings, self.usual, before, self.now) else { continue };
            let lasts = until.duration_since(self.now);
            let seconds = u32::try_from(lasts.as_secs()).unwrap_or(0);
            // The agent keeps the longest one.
            if before.is_none_or(|before| before < until) {
                new.push(LongLease { attempt: id.clone(), until, seconds });
            }
            out.insert(id.clone(), seconds);
        }
        if !new.is_empty() {
            tx.put_long_leases(&new).await?;
        }
        Ok(out)
    }
}

/// How long a package of a job takes by what it states (seconds).
pub fn takes(package: &JobPackage, version: Option<&PackageVersion>) -> u32 {
    match package.intent {
        Intent::Install => version.and_then(|v| v.terms.duration).unwrap_or(0),
        _ => 0,
    }
}

/// How long each package of a job's revision takes (seconds).
async fn durations(tx: &mut dyn Tx, job: &JobId, revision: i64) -> Result<Vec<u64>> {
    let packages = tx.job_packages(job, revision).await?;
    let uids: Vec<_> = packages.iter().filter_map(|p| p.version.clone()).collect();
    let versions = tx.versions_by_uid(&uids).await?;
    Ok(packages.iter().map(|p| u64::from(takes(p, versions.iter().find(|v| Some(&v.uid) == p.version.as_ref())))).collect())
}

/// What a row says in a sentence: of one that waits for a restart, for which.
pub fn told(job: &Job, row: &Execution) -> String {
    let restart = row.state == ExecutionState::Waiting && row.reason == WaitReason::Reboot.as_str() && row.detail.is_empty();
    if restart { user::waits_for_restart(job.terms.schedule.timing).to_owned() } else { row.detail.clone() }
}

/// Says of the rows that wait for their time what that is.
pub async fn tell(tx: &mut dyn Tx, env: &Env, job: &Job, rows: &mut [jobs::Row]) -> Result<()> {
    for row in rows.iter_mut() {
        row.execution.detail = told(job, &row.execution);
        if shelf::is_offered(&row.execution) {
            row.execution.reason = WaitReason::User.as_str().to_owned();
            let shows = !env.live.is_connected(&row.client.id) || env.live.can(&row.client.id).user.shelf;
            row.execution.detail = if shows { user::OFFERED } else { user::NOT_OFFERED }.to_owned();
        }
    }
    let waits = |row: &jobs::Row| row.execution.state == ExecutionState::Waiting && row.execution.reason == WaitReason::Window.as_str();
    let mut waiting: Vec<&mut jobs::Row> = rows.iter_mut().filter(|row| waits(row)).collect();
    let mut by_revision: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    for rows in waiting.chunks_mut(WITH_FACTS) {
        let ids: Vec<ClientId> = rows.iter().map(|row| row.client.id.clone()).collect();
        let clients = tx.clients(&ids).await?;
        let clock = Clock::of(tx, env, &clients.iter().collect::<Vec<_>>()).await?;
        for row in rows {
            let revision = row.execution.revision;
            let packages = match by_revision.entry(revision) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(durations(tx, &job.id, revision).await?),
            };
            let seconds = packages.iter().skip(row.execution.item as usize).sum();
            if let Some(sentence) = clock.waits_for(&row.client.id, &job.terms.schedule, seconds) {
                row.execution.detail = sentence;
            }
        }
    }
    Ok(())
}

/// What a row of this job waits for on this client, if that is its time; of a job without a row there: what will be.
pub async fn sentence(tx: &mut dyn Tx, env: &Env, client: &Client, job: &Job, row: Option<&Execution>) -> Result<Option<String>> {
    let clock = Clock::of(tx, env, &[client]).await?;
    let packages = durations(tx, &job.id, row.map_or(job.revision, |row| row.revision)).await?;
    // All of it, or from the package on with which its attempt is.
    let seconds = packages.iter().skip(row.map_or(0, |row| row.item as usize)).sum();
    Ok(clock.waits_for(&client.id, &job.terms.schedule, seconds))
}

/// How long a cancellation of these attempts has to wait at the least, by the clock that all managers have in common: until the end
/// of the longest lease that they were given.
pub async fn leased_until(tx: &mut dyn Tx, attempts: &[AttemptId]) -> Result<BTreeMap<AttemptId, LongLease>> {
    if attempts.is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(tx.long_leases(attempts).await?.into_iter().map(|lease| (lease.attempt.clone(), lease)).collect())
}

/// Forgets long leases that ended long ago.
pub async fn forget_leases(tx: &mut dyn Tx, env: &Env) -> Result<()> {
    let before = env.common_clock(tx).await?.saturating_sub(SignedDuration::from_hours(48)).unwrap_or(Timestamp::MIN);
    tx.drop_long_leases(before).await?;
    Ok(())
}
