//! Rollouts: what stages let go and gates halt, and what operators do about it. `core` decides (`sutler_core::rollout` says how a
//! rollout works); here is loaded what it decides by, and done what it decided.

use super::{
    AppError, Env, Result,
    brakes::{
        Gate,
        offline::{self, Looked},
    },
    events, executions, groups, jobs,
};
use std::collections::BTreeMap;
use sutler_base::{
    ClientId, JobId, Timestamp, Uid,
    state::{Awaited, CancelReason, ClientState, EventKind, ExecutionState, HoldReason, JobState, Presence},
};
use sutler_core::{
    event::Event,
    model::{Execution, Job},
    rollout::{self, Decision, GATE, Halt, Offered, Position, Seen, Share},
    terms::JobTerms,
    user,
};
use sutler_store::{Page, Reached, Tx};

/// How many rows are let go or called back in one statement.
const BATCH: u32 = 500;

/// How far the rollout of a job is, as it is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// How far.
    pub position: Position,
    /// What the database says of it: nothing once the job has ended. Not there where many jobs are shown: it is not looked at then.
    pub seen: Option<Seen>,
}

/// Finds the groups that the stages of a job name.
pub async fn resolve(tx: &mut dyn Tx, terms: &mut JobTerms) -> Result<()> {
    for stage in &mut terms.rollout.stages {
        if let Share::Members(pilots) = &mut stage.share {
            for pilot in pilots {
                pilot.uid = Some(groups::load(tx, &pilot.name).await?.uid);
            }
        }
    }
    Ok(())
}

/// A row had been called back and waits for its stage, and now it is heard that its machine had begun it before: it has its place all the
/// same.
pub async fn happened(tx: &mut dyn Tx, env: &Env, row: &Execution) -> Result<()> {
    if row.state == ExecutionState::Queued
        && row.hold == Some(HoldReason::Stage)
        && let Some(position) = tx.rollout(&row.job).await?
    {
        tx.release_to_stage(&row.job, std::slice::from_ref(&row.client), position.number(), env.now).await?;
    }
    Ok(())
}

/// Rows of a job that are about to be queued again: those that have no place in a stage wait for one, as if they were new.
pub async fn queued_again(tx: &mut dyn Tx, job: &JobId, rows: &[&Execution]) -> Result<()> {
    let Some(position) = tx.rollout(job).await? else { return Ok(()) };
    let mut held: BTreeMap<ExecutionState, Vec<ClientId>> = BTreeMap::new();
    for row in rows.iter().filter(|row| position.waits_anew(row.state, row.purpose, row.stage)) {
        held.entry(row.state).or_default().push(row.client.clone());
    }
    for (state, clients) in held {
        tx.hold_by_stage(job, &clients, state).await?;
    }
    Ok(())
}

/// A revision of a job has other packages: whoever has not begun gets them stage by stage. Gives back whether there are any stages.
pub async fn other_packages(tx: &mut dyn Tx, job: &Job) -> Result<bool> {
    let stages = job.terms.rollout.stages().len();
    let Some(before) = tx.rollout(&job.id).await?.filter(|_| stages > 0) else { return Ok(false) };
    let counted_after = tx.change_number().await?;
    let position = Position { counted_after, ..before.afresh(stages) };
    put(tx, job, &position).await?;
    tx.hold_queued(&job.id).await?;
    Ok(true)
}

/// A job that has not ended and has a stage of this group that has not passed.
pub async fn job_that_waits_for(tx: &mut dyn Tx, group: &Uid) -> Result<Option<Job>> {
    for state in [JobState::Scheduled, JobState::Active, JobState::Paused] {
        let mut page = Page { after: None, limit: BATCH };
        loop {
            let jobs = tx.jobs_in(&page, state).await?;
            let full = jobs.len() as u32 == BATCH;
            page.after = jobs.last().map(|job| job.id.to_string());
            for job in jobs {
                let names_it = |stage: &rollout::Stage| stage.share.groups().iter().any(|pilot| pilot.uid.as_ref() == Some(group));
                let Some(last) = job.terms.rollout.stages().iter().rposition(names_it) else { continue };
                if tx.rollout(&job.id).await?.is_none_or(|position| position.stage as usize <= last) {
                    return Ok(Some(job));
                }
            }
            if !full {
                break;
            }
        }
    }
    Ok(None)
}

/// Makes the job one whose rows wait for their stage, if it has any. Before it has rows.
pub async fn begin(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    if job.terms.rollout.stages().is_empty() {
        if job.terms.user.available {
            put(tx, job, &Position::default()).await?;
        }
        return env.audit(tx, "rollout", format!("jobs/{}", job.id), "all at once: no stages, and nothing stops it").await;
    }
    put(tx, job, &Position::default()).await
}

/// Lets the first of a job of few rows go in the unit that gives it its rows: they need not wait until its rollout is looked at. What
/// else is due, a job of more rows, and one that passes over who is out of contact, are left to that look: here everybody's writes wait.
pub async fn let_first_go(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    if job.terms.rollout.all_at_once || !job.terms.offline.waits_for_ever() {
        return Ok(());
    }
    let rows: i64 = tx.counts(&job.id).await?.0.values().sum();
    if !(1..=i64::from(BATCH)).contains(&rows) {
        return Ok(());
    }
    let due = due(tx, env, job, true).await?;
    let Some((decision, old)) = due.decision else { return Ok(()) };
    if decision.halt.is_empty() && decision.position.stage == old.stage && !due.release.is_empty() {
        tx.release_to_stage(&job.id, &due.release, old.number(), env.now).await?;
    }
    Ok(())
}

/// A job that had ended stands again: whatever halted it before does so no longer, and failures count anew.
pub async fn stands_again(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    let Some(mut position) = tx.rollout(&job.id).await? else { return Ok(()) };
    count_anew(tx, env, &mut position).await?;
    put(tx, job, &position).await
}

async fn count_anew(tx: &mut dyn Tx, env: &Env, position: &mut Position) -> Result<()> {
    position.counted_after = tx.change_number().await?;
    position.silence_from_ms = env.common_clock(tx).await?.as_millisecond();
    position.settled_ms = None;
    position.halt = None;
    Ok(())
}

/// How far a job is that was started. One from before there were stages has reached everybody.
async fn position(tx: &mut dyn Tx, job: &Job) -> Result<Position> {
    Ok(tx.rollout(&job.id).await?.unwrap_or_else(|| Position::of_the_rest(job.terms.rollout.stages().len())))
}

/// Writes how far a job is. Rows that it gets later wait for a stage until the rest is open.
async fn put(tx: &mut dyn Tx, job: &Job, position: &Position) -> Result<()> {
    let staged = (position.stage as usize) < job.terms.rollout.stages().len();
    let hold = if job.terms.user.available { Some(HoldReason::User) } else { staged.then_some(HoldReason::Stage) };
    Ok(tx.put_rollout(&job.id, position, hold).await?)
}

/// Until when a client was in contact: now, if it is.
fn heard(env: &Env, client: &ClientId, last_seen: Timestamp) -> Timestamp {
    match env.live.presence(client, last_seen, env.now, env.settings.limits.overdue) {
        Presence::Online => env.now,
        _ => last_seen,
    }
}

/// What the database says of a job's rows.
async fn look(tx: &mut dyn Tx, env: &Env, job: &Job, position: &Position) -> Result<Seen> {
    let stages = job.terms.rollout.stages().len();
    let open = position.stage as usize;
    let total: i64 = tx.counts(&job.id).await?.0.values().sum();
    let mut seen = Seen { total: count(total), failed: vec![0; stages + 1], silence: vec![0; stages + 1], ..Seen::default() };
    if open < stages {
        for (state, n) in tx.stage_counts(&job.id, position.number()).await? {
            seen.let_go += count(n);
            if rollout::takes_place(state) {
                seen.taken += count(n);
                seen.ended += if state.is_end() { count(n) } else { 0 };
                seen.waiting += if state == ExecutionState::Waiting { count(n) } else { 0 };
            }
        }
        if let Some(groups) = members(job, open) {
            // Those too that are stopped: nobody else goes before them.
            seen.members_left = !in_contact(tx, env, job, &groups, 1, &mut Gate::default()).await?.found.is_empty();
            seen.members_held = !tx.held_by_stage(&job.id, &groups, None, 1).await?.is_empty();
        }
    }
    let fell_silent = look_for_silence(tx, env, job, position, &mut seen).await?;
    for (number, n) in tx.failed_after(&job.id, position.counted_after).await? {
        if let Some(stage) = position.stage_of(number, stages) {
            seen.failed[stage] += count(n);
        }
    }
    if open >= stages || seen.failed.iter().any(|n| *n > 0) {
        let newest = tx.newest_outcomes(&job.id, position.counted_after, rollout::WINDOW).await?;
        if open >= stages {
            let outcomes: Vec<_> = newest.iter().map(|row| (row.entered, rollout::counts_as_failure(row))).collect();
            (seen.failed[stages], seen.silence[stages]) = rollout::of_window(&outcomes, &fell_silent);
        }
        if let Some(row) = newest.iter().find(|row| rollout::counts_as_failure(row)) {
            seen.example = format!("clients/{}: {} ({})", row.client, row.detail, row.reason);
        }
    }
    Ok(seen)
}

/// Counts the silent clients of each stage. Gives back the moments at which the last ones of the rest fell silent.
async fn look_for_silence(tx: &mut dyn Tx, env: &Env, job: &Job, position: &Position, seen: &mut Seen) -> Result<Vec<Timestamp>> {
    let (stages, open) = (job.terms.rollout.stages().len(), position.stage as usize);
    let silence = job.terms.rollout.gate.silence_seconds;
    // What a clock that was set ahead shows is no silence: it counts as far as this manager has seen the time pass.
    let (now, even) = env.even_clock(tx).await?;
    // Nor what nobody could write down because the database was away, or this manager stopped.
    let seen_from = now.saturating_sub(even).unwrap_or(Timestamp::MIN).max(env.live.hears_others_since());
    let from = Timestamp::from_millisecond(position.silence_from_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let Some(before) = rollout::silent_before(from.max(seen_from), silence, now) else { return Ok(vec![]) };
    // Whoever tries to has reached this manager by then.
    if now.duration_since(seen_from).as_secs() < rollout::RECONNECT_SECONDS {
        return Ok(vec![]);
    }
    let mut add = |number: u32, state: ExecutionState, n: u64| {
        let stage = position.stage_of(number, stages);
        if let Some(stage) = stage {
            seen.silence[stage] += n;
        }
        if stage == Some(open) && open < stages {
            seen.silent += n;
            if state == ExecutionState::Waiting {
                seen.waiting = seen.waiting.saturating_sub(n);
            }
        }
        stage == Some(stages)
    };
    let mut since = Vec::new();
    for (number, state, n) in tx.silent(&job.id, before).await? {
        add(number, state, count(n));
    }
    let mut after: Option<ClientId> = None;
    loop {
        let page = tx.silent_waiting(&job.id, before, after.as_ref(), BATCH).await?;
        let full = page.len() as u32 == BATCH;
        after = page.last().map(|row| row.execution.client.clone());
        for Reached { execution, last_seen, quiet, .. } in page {
            let heard = heard(env, &execution.client, last_seen);
            let client = Offered { state: execution.state, entered: execution.entered, quiet, may_wait: true, heard };
            if rollout::is_silent(&client, before) && add(execution.stage, execution.state, 1) {
                since.push(execution.entered.max(heard));
            }
        }
        if !full {
            break;
        }
    }
    if open >= stages {
        let last = position.base.saturating_add(stages as u32);
        since.extend(tx.silent_last(&job.id, last, before, rollout::WINDOW).await?);
    }
    let silence = jiff::SignedDuration::from_secs(silence.into());
    Ok(since.into_iter().map(|at| at.saturating_add(silence).unwrap_or(Timestamp::MAX)).collect())
}

fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

/// The groups whose members the stage of this number lets go; none where it lets go anybody.
fn members(job: &Job, stage: usize) -> Option<Vec<Uid>> {
    match job.terms.rollout.stages().get(stage)?.share.groups() {
        [] => None,
        groups => Some(groups.iter().filter_map(|group| group.uid.clone()).collect()),
    }
}

/// The next clients in the order of a job.
#[derive(Default)]
struct Next {
    /// Those that are in contact.
    found: Vec<ClientId>,
    /// Those before them, or all others, that are not, and when each was heard of last: their turn has come as well.
    passed: Vec<(ClientId, Timestamp)>,
}

/// The first clients in the order of the job whose row a stage holds, that are in contact, and that the gate lets through: whoever can't
/// be offered anything takes no place.
async fn in_contact(tx: &mut dyn Tx, env: &Env, job: &Job, groups: &[Uid], wanted: u64, gate: &mut Gate) -> Result<Next> {
    let mut next = Next::default();
    let mut after: Option<(i64, ClientId)> = None;
    loop {
        let page = tx.held_by_stage(&job.id, groups, after.as_ref().map(|(turn, client)| (*turn, client)), BATCH).await?;
        let full = page.len() as u32 == BATCH;
        after = page.last().map(|held| (held.turn, held.client.clone()));
        let page: Vec<_> = page.into_iter().filter(|held| held.client_state == ClientState::Active).collect();
        let covered = gate.covered_of(tx, job, &page.iter().map(|held| held.client.clone()).collect::<Vec<_>>()).await?;
        for held in page {
            if heard(env, &held.client, held.last_seen) == env.now {
                if covered.contains(&held.client) {
                    continue;
                }
                next.found.push(held.client);
                if next.found.len() as u64 == wanted.min(BATCH.into()) {
                    return Ok(next);
                }
            } else if !job.terms.offline.waits_for_ever() {
                next.passed.push((held.client, held.last_seen));
            }
        }
        if !full {
            return Ok(next);
        }
    }
}

/// What is due in a rollout.
#[derive(Debug, Default)]
struct Due {
    decision: Option<(Decision, Position)>,
    /// Who is let go.
    release: Vec<ClientId>,
    /// Whose place is given to others.
    back: Back,
    /// What becomes of those who are passed over.
    passed: Looked,
}

/// Rows whose place is given to others.
#[derive(Debug, Default)]
struct Back {
    /// Not offered yet.
    queued: Vec<ClientId>,
    /// Those of these that could not be offered although they are in contact.
    last: Vec<ClientId>,
    /// Offered, and not accepted.
    offered: Vec<Execution>,
}

impl Due {
    fn is_something(&self) -> bool {
        let moves = self.decision.as_ref().is_some_and(|(new, old)| !new.halt.is_empty() || new.position != *old);
        let back = !self.back.queued.is_empty() || !self.back.offered.is_empty();
        moves || back || !self.release.is_empty() || !self.passed.is_nothing()
    }
}

/// What is due in a job; `again` where that was seen a moment ago.
async fn due(tx: &mut dyn Tx, env: &Env, job: &Job, again: bool) -> Result<Due> {
    let mut due = Due::default();
    let Some(position) = tx.rollout(&job.id).await? else { return Ok(due) };
    let seen = match job.terms.rollout.all_at_once {
        // Nothing stops it; what its users choose is let go.
        true => Seen::default(),
        false => look(tx, env, job, &position).await?,
    };
    let decision = rollout::decide(&job.terms.rollout, &position, &seen, env.now);
    let stages = job.terms.rollout.stages().len();
    let mut gate = Gate::now(tx).await?;
    if decision.halt.is_empty() {
        let open = decision.position.stage as usize;
        if open >= stages {
            let held = tx.held_by_stage(&job.id, &[], None, BATCH).await?;
            due.release = held.into_iter().map(|held| held.client).collect();
        } else if decision.release > 0 {
            let groups = members(job, open).unwrap_or_default();
            // A group that was deleted has no members.
            let anybody = !groups.is_empty() || members(job, open).is_none();
            // While nobody comes, all that are held are not gone through again and again; but for those who are waited for so long.
            let few = !again && job.terms.offline.waits_for_ever();
            if anybody && !(few && env.live.are_too_few(&job.id, (seen.total, decision.position.number()), env.now)) {
                let next = in_contact(tx, env, job, &groups, decision.release, &mut gate).await?;
                due.release = next.found;
                due.passed = offline::look(tx, env, job, &next.passed).await?;
                let too_few = (due.release.len() as u64) < decision.release.min(BATCH.into());
                env.live.note_too_few(&job.id, (seen.total, decision.position.number()), env.now, too_few);
            }
        }
        let stage = ((position.stage as usize) < stages).then_some(position.number());
        due.back = give_back(tx, env, job, stage, &mut gate).await?;
    }
    due.decision = Some((decision, position));
    Ok(due)
}

/// Rows of a stage whose client went out of contact before it accepted, or could not be offered the job, or that a brake covers; in the
/// rest, where there is room for everybody, those that were offered it.
async fn give_back(tx: &mut dyn Tx, env: &Env, job: &Job, stage: Option<u32>, gate: &mut Gate) -> Result<Back> {
    let mut back = Back::default();
    let mut after: Option<ClientId> = None;
    loop {
        let page = match stage {
            Some(stage) => tx.stage_waiting(&job.id, stage, after.as_ref(), BATCH).await?,
            None => tx.offered(&job.id, after.as_ref(), BATCH).await?,
        };
        let full = page.len() as u32 == BATCH;
        after = page.last().map(|row| row.execution.client.clone());
        for Reached { execution, client_state, last_seen, quiet } in page {
            let heard = if client_state == ClientState::Active { heard(env, &execution.client, last_seen) } else { Timestamp::UNIX_EPOCH };
            let away = rollout::gives_place_back(execution.state, heard, env.now);
            // What was offered is called back by the brake itself.
            let queued = execution.state == ExecutionState::Queued;
            let covered = queued && gate.covers(tx, job, &execution, job.revision).await?.is_some();
            // What no brake covers any more is about to be let go.
            let is_freed = execution.hold.is_some() && !covered;
            let gives_back = away || covered || rollout::cannot_be_offered(execution.state, quiet, env.now);
            if execution.cancel.is_some() || is_freed || !gives_back {
                continue;
            }
            if execution.state != ExecutionState::Queued {
                back.offered.push(execution);
                continue;
            }
            if !away && !covered {
                back.last.push(execution.client.clone());
            }
            back.queued.push(execution.client);
        }
        if !full {
            return Ok(back);
        }
    }
}

/// What is known of a rollout after a look at it.
#[derive(Debug, Clone, Copy)]
pub struct Outlook {
    /// There is something to do.
    pub now: bool,
    /// And that is to halt it.
    pub halt: bool,
    /// When there may be, although nothing happens.
    pub later: Option<Timestamp>,
}

/// Whether something is due in the rollout of a job.
pub async fn outlook(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<Outlook> {
    let Some(job) = tx.job(id).await?.filter(|job| job.state == JobState::Active) else {
        return Ok(Outlook { now: false, halt: false, later: None });
    };
    let due = due(tx, env, &job, false).await?;
    let later = due.decision.as_ref().and_then(|(decision, _)| decision.due_ms);
    let halt = due.decision.as_ref().is_some_and(|(decision, _)| !decision.halt.is_empty());
    Ok(Outlook { now: due.is_something(), halt, later: later.and_then(|ms| Timestamp::from_millisecond(ms).ok()) })
}

/// Does what is due in the rollout of a job. Gives back whether it did anything: then more may be due, which is asked for first.
///
/// The job's row is locked first, so that of several managers one decides at a time.
pub async fn step(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<bool> {
    let Some(mut job) = tx.job(id).await?.filter(|job| job.state == JobState::Active) else { return Ok(false) };
    let due = due(tx, env, &job, true).await?;
    let something = due.is_something();
    let Some((decision, old)) = due.decision.filter(|_| something) else { return Ok(false) };
    if !decision.halt.is_empty() {
        let halt = Halt { why: decision.halt.clone(), by: GATE.into(), at_ms: env.now.as_millisecond() };
        stop(tx, env, &mut job, old, halt).await?;
        halted(tx, env, &job, &decision.halt).await?;
        return Ok(true);
    }
    if decision.position != old {
        put(tx, &job, &decision.position).await?;
        if decision.position.stage != old.stage {
            let name = rollout::stage_name(&job.terms.rollout.stages(), decision.position.stage as usize);
            env.audit(tx, "open_stage", format!("jobs/{id}"), name).await?;
        }
    }
    for clients in due.back.queued.chunks(BATCH as usize) {
        tx.hold_by_stage(id, clients, ExecutionState::Queued).await?;
    }
    for clients in due.back.last.chunks(BATCH as usize) {
        tx.put_last(id, clients).await?;
    }
    for rows in due.back.offered.chunks(BATCH as usize) {
        executions::cancel(tx, env, rows, CancelReason::PlaceGiven).await?;
    }
    if !due.passed.is_nothing() {
        offline::act(tx, env, &job, &due.passed).await?;
    }
    if !due.release.is_empty() {
        tx.release_to_stage(id, &due.release, decision.position.number(), env.now).await?;
    }
    let mut wakes = env.wakes();
    wakes.clients.extend(due.release);
    wakes.jobs.insert(id.clone());
    Ok(true)
}

/// A gate halted a job: who has to know of it is told here.
async fn halted(tx: &mut dyn Tx, env: &Env, job: &Job, why: &str) -> Result<()> {
    let name = format!("jobs/{}", job.id);
    events::emit(tx, env, Event::new(EventKind::JobHalted, &name, why)).await?;
    env.audit(tx, "halt_job", name, why).await
}

/// Lets nothing of a job start any more, and calls back what was offered and has not begun.
async fn stop(tx: &mut dyn Tx, env: &Env, job: &mut Job, mut position: Position, halt: Halt) -> Result<()> {
    position.halt = Some(halt);
    job.state = JobState::Paused;
    // First, so that what is offered at the same time is seen below or sees this.
    tx.save_job(job).await?;
    put(tx, job, &position).await?;
    // While it stands still it is nobody's turn.
    tx.hold_all_awaited(&job.id, env.now).await?;
    use ExecutionState::*;
    let mut page = Page { after: None, limit: BATCH };
    loop {
        let rows = tx.list_executions(&job.id, &page, &[Offered, Downloading, Waiting]).await?;
        let full = rows.len() as u32 == BATCH;
        page.after = rows.last().map(|row| row.client.to_string());
        executions::cancel(tx, env, &rows, CancelReason::JobPaused).await?;
        if !full {
            break;
        }
    }
    env.wakes().jobs.insert(job.id.clone());
    Ok(())
}

fn refused(job: &Job, reason: &'static str, message: String) -> AppError {
    AppError::state(format!("jobs/{}", job.id), reason, message)
}

/// Lets nothing of an active job start until it is resumed.
pub async fn pause(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<jobs::Shown> {
    let mut job = jobs::load(tx, env, id).await?;
    match job.state {
        JobState::Active => {}
        JobState::Paused => return jobs::show(tx, env, job).await,
        state => return Err(refused(&job, "NOT_ACTIVE", format!("jobs/{id} is {state}; only an active job can be paused"))),
    }
    let position = position(tx, &job).await?;
    let halt = Halt { why: format!("{} paused it", env.actor), by: env.actor.clone(), at_ms: env.now.as_millisecond() };
    stop(tx, env, &mut job, position, halt).await?;
    env.audit(tx, "pause_job", format!("jobs/{id}"), "").await?;
    jobs::get(tx, env, id).await
}

/// Goes on with a paused job. If its gate had halted it, failures count anew from now on.
pub async fn resume(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<jobs::Shown> {
    let mut job = jobs::load(tx, env, id).await?;
    match job.state {
        JobState::Paused => {}
        JobState::Active => return jobs::show(tx, env, job).await,
        state => return Err(refused(&job, "NOT_PAUSED", format!("jobs/{id} is {state}; only a paused job can be resumed"))),
    }
    let mut position = position(tx, &job).await?;
    let anew = position.halt.take().is_some_and(|halt| halt.by == GATE);
    if anew {
        count_anew(tx, env, &mut position).await?;
    }
    job.state = JobState::Active;
    tx.save_job(&job).await?;
    put(tx, &job, &position).await?;
    env.audit(tx, "resume_job", format!("jobs/{id}"), if anew { "failures count anew" } else { "" }).await?;
    jobs::wake_queued(tx, env, id).await?;
    jobs::get(tx, env, id).await
}

/// What is to be opened.
#[derive(Debug, Clone)]
pub struct Promote {
    /// The job.
    pub id: JobId,
    /// Not only the next stage: everybody.
    pub all: bool,
}

/// Opens the next stage of an active job now.
pub async fn promote(tx: &mut dyn Tx, env: &Env, input: &Promote) -> Result<jobs::Shown> {
    let id = &input.id;
    let job = jobs::load(tx, env, id).await?;
    match job.state {
        JobState::Active => {}
        JobState::Paused => {
            let message = format!("jobs/{id} is PAUSED and starts nothing; `job resume` goes on with it");
            return Err(refused(&job, "PAUSED", message));
        }
        state => return Err(refused(&job, "NOT_ACTIVE", format!("jobs/{id} is {state}; only an active job has an open stage"))),
    }
    let next = match tx.rollout(id).await? {
        Some(position) => {
            let seen = look(tx, env, &job, &position).await?;
            rollout::promote(&job.terms.rollout, &position, &seen, input.all)
        }
        None => None,
    };
    let Some(next) = next else {
        return Err(refused(&job, "NO_STAGE_LEFT", format!("jobs/{id} has no further stage: everybody may start it")));
    };
    put(tx, &job, &next).await?;
    let name = rollout::stage_name(&job.terms.rollout.stages(), next.stage as usize);
    env.audit(tx, "promote_job", format!("jobs/{id}"), name).await?;
    env.wakes().jobs.insert(id.clone());
    jobs::get(tx, env, id).await
}

/// How far the rollout of a job is; none before it was started.
pub async fn show(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<Option<Shown>> {
    let Some(position) = tx.rollout(&job.id).await? else {
        let started = job.terms.rollout.all_at_once && job.started.is_some();
        return Ok(started.then(|| Shown { position: Position::default(), seen: Some(Seen::default()) }));
    };
    let seen = match job.state {
        JobState::Active | JobState::Paused => look(tx, env, job, &position).await?,
        _ => Seen::default(),
    };
    Ok(Some(Shown { position, seen: Some(seen) }))
}

/// The same without a look at the rows of the job: which stage is open, until when it soaks, and whether it is halted.
pub async fn glance(tx: &mut dyn Tx, job: &Job) -> Result<Option<Shown>> {
    let started = job.terms.rollout.all_at_once && job.started.is_some();
    let position = tx.rollout(&job.id).await?.or(started.then(Position::default));
    Ok(position.map(|position| Shown { position, seen: None }))
}

/// Has it looked at soon what of a job may be let go.
pub fn wake(env: &Env, job: &JobId) {
    env.wakes().jobs.insert(job.clone());
}

/// What a row waits for that waits for its stage, and one of a job that starts nothing.
pub fn sentence(job: &Job, shown: Option<&Shown>, row: &Execution) -> Option<(Awaited, String)> {
    if job.state == JobState::Paused {
        let halt = shown.and_then(|shown| shown.position.halt.as_ref());
        let why = halt.map_or("", |halt| halt.why.as_str());
        return Some((Awaited::Paused, format!("the job is paused ({why}); nothing starts until `job resume`")));
    }
    if row.hold == Some(HoldReason::User) {
        return Some((Awaited::User, user::OFFERED.to_owned()));
    }
    let shown = shown.filter(|_| row.hold == Some(HoldReason::Stage))?;
    let status = rollout::status(&job.terms.rollout, &shown.position, shown.seen.as_ref());
    Some((Awaited::Stage, format!("waits for its stage of the rollout; open is {status}")))
}

#[cfg(test)]
#[path = "rollouts_tests.rs"]
mod tests;
