//! What connected clients are to be told: attempts are made and committed here, before anybody hears of them.

use super::{
    AppError, Env, Result,
    brakes::{Gate, budgets::Purses},
    conditions, executions, inventory, leaving,
    schedule::{self, Clock, Times},
    shelf, transfers, trust,
};
use crate::live::Can;
use jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use sutler_base::{
    AttemptId, ClientId, Digest, JobId, Timestamp, Uid, limits,
    manifest::{Dependency, Requirement, relations::Values},
    quoted,
    state::{CancelReason, CancelStage, ClientState, ErrorKind, ExecutionState, HoldReason, Intent, Purpose, Timing, WaitReason},
};
use sutler_core::{
    model::{Attempt, Client, ClientBrief, Execution, Job, JobPackage, PackageVersion},
    relations::VERSIONS_MAX,
    user::{UserTerms, lacks},
    window::Opening,
};
use sutler_store::{ExecutionChange, QueuedAfter, StoreError, Tx};

/// How many rows are looked at together, and how many attempts are made in one unit.
const BATCH: u32 = 1000;

/// One package of an offer.
#[derive(Debug, Clone)]
pub struct Item {
    /// The signed envelope.
    pub envelope: Vec<u8>,
    /// The manifest that the agent is going to read; none where it has it, or needs none.
    pub manifest: Option<Digest>,
    /// What is done with it.
    pub intent: Intent,
    /// The values of its parameters that the job gives.
    pub values: Values,
    /// Install also where it is there already.
    pub replace_always: bool,
    /// What the job requires of the machine besides what the package does.
    pub requirements: Vec<Requirement>,
    /// An earlier attempt of this execution installed it.
    pub succeeded: bool,
    /// It is only there because others depend on it, in these versions: a client that has what will do skips it.
    pub needed: Vec<Dependency>,
}

/// An attempt that a client is offered.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The attempt; committed.
    pub attempt: AttemptId,
    /// The job.
    pub job: JobId,
    /// The job's revision.
    pub revision: i64,
    /// The packages in their order; none of an inventory.
    pub items: Vec<Item>,
    /// In place of packages: the facts are measured, and reported where they changed.
    pub inventory: bool,
    /// After this nothing may be started.
    pub expires: Option<Timestamp>,
    /// Go on with the next package although one failed.
    pub continue_on_failure: bool,
    /// 1 (first) to 9.
    pub priority: u8,
    /// When its packages may be begun; none: at any time.
    pub times: Option<Times>,
    /// What it means for the user of the machine.
    pub user: UserTerms,
    /// From this on the user can't put it off.
    pub deadline: Option<Timestamp>,
    /// At which moment of the machine's life it begins.
    pub timing: Timing,
    /// What it is for.
    pub purpose: Purpose,
}

/// When an attempt is to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// When its packages may be begun; none: at any time.
    pub times: Option<Times>,
    /// From this on the user can't put it off.
    pub deadline: Option<Timestamp>,
}

/// What one client is to be told.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// What the client may do; none if there is no such client.
    pub state: Option<ClientState>,
    /// Work.
    pub offers: Vec<Offer>,
    /// Attempts that are to start nothing more.
    pub cancels: Vec<(AttemptId, CancelReason)>,
    /// Attempts whose permission to start steps is renewed.
    pub leases: Vec<AttemptId>,
    /// What is said anew of attempts that wait.
    pub times: Vec<(AttemptId, Due)>,
    /// Attempts whose permission is to last so long (seconds), for their window opens while the usual one may be over.
    pub long_leases: Vec<(AttemptId, u32)>,
    /// Attempts that begin with a start or the stop of the machine, whenever that is.
    pub at_boots: Vec<AttemptId>,
    /// What its user may choose; none where its agent can't show it.
    pub shelf: Option<Vec<shelf::Offered>>,
    /// How far the clock by which these times are is ahead of that of this manager.
    pub ahead: SignedDuration,
}

/// What these clients are to be told now. Attempts are made for what is queued. Where `known` names the attempts that a
/// client has which has just connected, those that it was offered and does not have are offered again.
///
/// This runs after the client's session was entered, so that whatever is offered to it meanwhile goes into that session:
/// an offer may come twice, which the agent sees by its id, but none is lost. `sessions` says what each client counted when its
/// session here was opened: who has connected to another manager since is offered work by that one alone.
pub async fn orders(
    tx: &mut dyn Tx,
    env: &Env,
    sessions: &BTreeMap<ClientId, u64>,
    known: &BTreeMap<ClientId, BTreeSet<AttemptId>>,
) -> Result<BTreeMap<ClientId, Orders>> {
    let is_newest = |client: &Client| sessions.get(&client.id).is_some_and(|counter| *counter >= client.session_counter);
    let mut here = Vec::with_capacity(sessions.len());
    let mut out: BTreeMap<ClientId, Orders> = BTreeMap::new();
    let mut lost = Vec::new();
    let mut open: BTreeMap<ClientId, usize> = BTreeMap::new();
    let mut replaced: BTreeMap<ClientId, Timestamp> = BTreeMap::new();
    let clients: Vec<ClientId> = sessions.keys().cloned().collect();
    let mut seen: BTreeMap<ClientId, Client> = BTreeMap::new();
    let mut waiting = Vec::new();
    let mut shelves = shelf::Shelves::default();
    let mut rows_of: BTreeMap<ClientId, Vec<Execution>> = BTreeMap::new();
    for row in tx.open_executions_of_all(&clients).await? {
        rows_of.entry(row.client.clone()).or_default().push(row);
    }
    for client in tx.clients(&clients).await? {
        let known = known.get(&client.id);
        if is_newest(&client) {
            here.push(client.id.clone());
        }
        replaced.extend(client.replaced.map(|at| (client.id.clone(), at)));
        let orders = out.entry(client.id.clone()).or_default();
        orders.state = Some(client.state);
        let rows = rows_of.remove(&client.id).unwrap_or_default();
        if env.live.can(&client.id).user.shelf {
            let active = client.state == ClientState::Active;
            orders.shelf = Some(if active { shelves.of(tx, &rows).await? } else { vec![] });
        }
        for row in rows {
            if row.hold.is_some() && known.is_some() {
                // It is in contact from now on: its turn may have come.
                env.wakes().jobs.insert(row.job.clone());
            }
            let Some(attempt) = row.attempt.filter(|_| row.state != ExecutionState::Queued) else { continue };
            *open.entry(client.id.clone()).or_default() += 1;
            if row.state == ExecutionState::Offered && row.cancel.is_none() && known.is_some_and(|k| !k.contains(&attempt)) {
                lost.push(attempt.clone());
            }
            if let Some(cancel) = &row.cancel {
                orders.cancels.push((attempt.clone(), cancel.reason));
            }
            match row.cancel.filter(|cancel| cancel.stage != CancelStage::Acknowledged) {
                Some(_) => {}
                None if client.state == ClientState::Active => {
                    orders.leases.push(attempt.clone());
                    if env.live.is_timed(&client.id) {
                        waiting.push((
                            attempt,
                            Timed { job: row.job, client: client.id.clone(), revision: row.revision, purpose: row.purpose, picked: false },
                        ));
                    }
                }
                None => {}
            }
        }
        seen.insert(client.id.clone(), client);
    }
    let mut catalogue = Catalogue::default();
    let mut clock = Clock::of(tx, env, &seen.values().collect::<Vec<_>>()).await?;
    time_waiting(tx, &mut clock, &mut catalogue, waiting, &mut out).await?;
    let mut gate = Gate::now(tx).await?;
    let mut held: BTreeMap<HoldReason, Vec<(JobId, ClientId)>> = BTreeMap::new();
    let mut purses = Purses::default();
    gate.meet(tx, &here).await?;
    let (mut attempts, mut changes) = (Vec::new(), Vec::new());
    let mut offered_of: BTreeSet<(JobId, ClientId)> = BTreeSet::new();
    let most = env.settings.limits.open_attempts as usize;
    let mut queue = Queue { clients: here, ..Queue::default() };
    while let Some((row, job)) = queue.next(tx, attempts.len()).await? {
        let slots = open.entry(row.client.clone()).or_default();
        if *slots >= most {
            queue.pass(&row.client);
            continue;
        }
        if job.expires.is_some_and(|e| e <= env.now) {
            continue;
        }
        // It was called back while the machine was cut off, which may have begun it: its agent is asked, and what it did counts.
        if let Some(former) = row.attempt.as_ref().filter(|former| env.live.is_unsettled(&row.client, former)) {
            out.entry(row.client).or_default().cancels.push((former.clone(), CancelReason::Revised));
            continue;
        }
        if !job.terms.offline.waits_for_ever() {
            // It is here: nobody waits for it any more.
            tx.forget_awaited(&[(job.id.clone(), row.client.clone())]).await?;
        }
        if let Some(brake) = gate.covers(tx, &job, &row, job.revision).await? {
            env.wakes().jobs.insert(job.id.clone());
            held.entry(brake.hold()).or_default().push((job.id, row.client));
            continue;
        }
        let attempt = Attempt {
            id: env.world.attempt_id(),
            job: job.id.clone(),
            client: row.client.clone(),
            number: row.attempts + 1,
            revision: job.revision,
            purpose: row.purpose,
            state: ExecutionState::Offered,
            created: env.now,
            ended: None,
            outcome: vec![],
            signature: vec![],
        };
        if let Some(client) = seen.get(&row.client).filter(|_| !job.condition.is_empty() && row.purpose != Purpose::Leave) {
            // Before that nothing can be told; the facts wake it.
            if client.facts_time.is_none() {
                continue;
            }
            if let Err(why) = is_meant(tx, env, &job, client).await? {
                changes.push(executions::moved(&row, ExecutionState::Rejected, ErrorKind::RequirementNotMet.as_str(), &why, env));
                env.wakes().jobs.insert(job.id.clone());
                continue;
            }
        }
        let openings = clock.openings(&row.client, &job.terms.schedule);
        if openings.is_some() && !env.live.is_timed(&row.client) {
            // It would begin at once.
            let why = "its agent knows no maintenance windows and no start times; update it, or run the job with --ignore-windows";
            changes.extend(still_queued(&row, WaitReason::Window, why, env));
            continue;
        }
        let Some(mut offer) = catalogue.offer(tx, env, &attempt, &job, replaced.get(&row.client)).await? else {
            // The row says why it waits; it goes on once the version can be delivered again.
            if row.reason != ErrorKind::PackageUnavailable.as_str() {
                let why = "a version of the job can't be delivered any more; `job show` says which";
                let mut change = executions::moved(&row, ExecutionState::Queued, ErrorKind::PackageUnavailable.as_str(), why, env);
                change.entered = row.entered;
                changes.push(change);
            }
            continue;
        };
        if offer.items.is_empty() && row.purpose == Purpose::Leave {
            changes.push(leaving::nothing_left(&row, env));
            env.wakes().jobs.insert(job.id);
            continue;
        }
        if let Some(why) = beyond(&offer, env.live.can(&row.client)) {
            changes.extend(still_queued(&row, WaitReason::Agent, why, env));
            continue;
        }
        if !purses.take(tx, env, &job).await? {
            env.wakes().jobs.insert(job.id.clone());
            held.entry(HoldReason::Budget).or_default().push((job.id, row.client));
            continue;
        }
        offer.times = catalogue.times(tx, openings, &Timed::of(&attempt, &job)).await?;
        *slots += 1;
        changes.push(ExecutionChange {
            attempt: Some((attempt.id.clone(), attempt.number, attempt.revision)),
            progress: Some((0, 0, 0, String::new())),
            ..match row.purpose {
                // Why it is uninstalled, or installed again, stays to be seen.
                Purpose::Leave | Purpose::Drift => executions::moved(&row, ExecutionState::Offered, &row.reason, &row.detail, env),
                _ => executions::moved(&row, ExecutionState::Offered, "", "", env),
            }
        });
        env.wakes().jobs.insert(job.id.clone());
        offered_of.insert((job.id, row.client.clone()));
        let orders = out.entry(row.client).or_default();
        orders.at_boots.extend((offer.timing != Timing::Now).then(|| offer.attempt.clone()));
        orders.offers.push(offer);
        attempts.push(attempt);
    }
    tx.insert_attempts(&attempts).await?;
    tx.change_executions(&changes).await?;
    for (by, rows) in held {
        tx.hold(&rows, by).await?;
    }
    purses.spend(tx, env).await?;
    if !attempts.is_empty() {
        // Again, since the unit has its number in the change sequence now: a session that was opened elsewhere before that is seen
        // here, and one that comes after it is offered what it does not have.
        let offered: Vec<ClientId> = attempts.iter().map(|a| a.client.clone()).collect();
        if let Some(elsewhere) = tx.clients(&offered).await?.into_iter().find(|c| !is_newest(c)) {
            let why = format!("clients/{} has just connected to another manager", elsewhere.id);
            return Err(StoreError::Unavailable(why).into());
        }
        // In the same way what was stopped elsewhere is seen here.
        if !gate.still_stands(tx).await? {
            return Err(StoreError::Unavailable("a brake has just been put on by another manager".into()).into());
        }
        // And a job that was paused elsewhere is seen here, and a row that a stage took back.
        let jobs: BTreeSet<&JobId> = offered_of.iter().map(|(job, _)| job).collect();
        let jobs: Vec<JobId> = jobs.into_iter().cloned().collect();
        if let Some(id) = tx.stopped_among(&jobs).await?.first() {
            return Err(StoreError::Unavailable(format!("jobs/{id} has just been stopped by another manager")).into());
        }
        // And one that has a new revision: what was offered by the old one would not be called back.
        for job in tx.terms_of(&jobs).await? {
            if attempts.iter().any(|attempt| attempt.job == job.id && attempt.revision != job.revision) {
                return Err(StoreError::Unavailable(format!("jobs/{} has just been changed by another manager", job.id)).into());
            }
        }
        let rows = tx.executions(&offered_of.into_iter().collect::<Vec<_>>()).await?;
        if let Some(row) = rows.into_iter().find(|row| row.hold.is_some()) {
            let why = format!("jobs/{} has just given the place of clients/{} to another", row.job, row.client);
            return Err(StoreError::Unavailable(why).into());
        }
    }
    for attempt in tx.attempts(&lost).await? {
        let Some(orders) = out.get_mut(&attempt.client).filter(|o| o.state == Some(ClientState::Active)) else { continue };
        let Some(job) = tx.job(&attempt.job).await? else { continue };
        // What a brake covers is called back; until then nobody hears of it again.
        if !gate.is_open()
            && let Some(row) = tx.execution(&attempt.job, &attempt.client).await?
            && gate.covers(tx, &job, &row, attempt.revision).await?.is_some()
        {
            continue;
        }
        if let Some(mut offer) = catalogue.offer(tx, env, &attempt, &job, replaced.get(&attempt.client)).await? {
            if offer.items.is_empty() && attempt.purpose == Purpose::Leave {
                // Since it was made another job has come that installs it.
                if let Some(row) =
                    tx.execution(&attempt.job, &attempt.client).await?.filter(|row| row.attempt.as_ref() == Some(&attempt.id))
                {
                    tx.change_executions(&[leaving::nothing_left(&row, env)]).await?;
                    tx.set_attempt_states(&[(attempt.id, ExecutionState::Canceled)]).await?;
                    env.wakes().jobs.insert(job.id);
                }
                continue;
            }
            offer.times = catalogue.times(tx, clock.openings(&attempt.client, &job.terms.schedule), &Timed::of(&attempt, &job)).await?;
            let can = beyond(&offer, env.live.can(&attempt.client)).is_none();
            if can && (offer.times.is_none() || env.live.is_timed(&attempt.client)) {
                orders.offers.push(offer);
            }
        }
    }
    lengthen(tx, &clock, &mut out).await?;
    Ok(out)
}

/// Why an agent that can do this can't do what it would be offered; none if it can.
fn beyond(offer: &Offer, can: Can) -> Option<&'static str> {
    if offer.inventory && !can.inventory {
        return Some("its agent can't measure its facts when it is asked to; update it");
    }
    let fetches = offer.items.iter().any(|item| item.intent == Intent::Prefetch);
    if fetches && !can.prefetch {
        return Some("its agent can't fetch what is installed another time; update it");
    }
    lacks(&offer.user, offer.timing, can.user)
}

/// The change by which a row that stays queued says why, if it does not say so already.
fn still_queued(row: &Execution, reason: WaitReason, why: &str, env: &Env) -> Option<ExecutionChange> {
    let news = row.detail != why;
    news.then(|| ExecutionChange { entered: row.entered, ..executions::moved(row, ExecutionState::Queued, reason.as_str(), why, env) })
}

/// What is queued for some clients, page by page: rows that nothing is offered of yet keep nothing from those that follow.
#[derive(Default)]
struct Queue {
    clients: Vec<ClientId>,
    page: VecDeque<(Execution, Job)>,
    after: Option<QueuedAfter>,
    is_last: bool,
}

impl Queue {
    /// The next row; none where no more is queued, or where so many attempts were `made` that the rest is for another unit.
    async fn next(&mut self, tx: &mut dyn Tx, made: usize) -> Result<Option<(Execution, Job)>> {
        if made >= BATCH as usize {
            return Ok(None);
        }
        if self.page.is_empty() && !self.is_last {
            self.page = tx.queued_for(&self.clients, self.after.as_ref(), BATCH).await?.into();
            self.is_last = self.page.len() < BATCH as usize;
            self.after = self.page.back().map(|(row, job)| QueuedAfter::of(row, job));
        }
        Ok(self.page.pop_front())
    }

    /// Leaves out what else this client has: it gets nothing more now.
    fn pass(&mut self, client: &ClientId) {
        self.clients.retain(|other| other != client);
        self.page.retain(|(row, _)| row.client != *client);
    }
}

/// An attempt, as far as it says how long its packages take.
struct Timed {
    job: JobId,
    client: ClientId,
    revision: i64,
    purpose: Purpose,
    /// Each client has packages of its own.
    picked: bool,
}

impl Timed {
    fn of(attempt: &Attempt, job: &Job) -> Timed {
        let picked = job.rolls_back.is_some();
        Timed { job: job.id.clone(), client: attempt.client.clone(), revision: attempt.revision, purpose: attempt.purpose, picked }
    }
}

/// When attempts that wait may be begun now: it may be another time than when they were offered.
async fn time_waiting(
    tx: &mut dyn Tx,
    clock: &mut Clock,
    catalogue: &mut Catalogue,
    waiting: Vec<(AttemptId, Timed)>,
    out: &mut BTreeMap<ClientId, Orders>,
) -> Result<()> {
    if waiting.is_empty() {
        return Ok(());
    }
    let jobs: BTreeSet<JobId> = waiting.iter().map(|(_, timed)| timed.job.clone()).collect();
    let terms = tx.terms_of(&jobs.into_iter().collect::<Vec<_>>()).await?;
    for (attempt, mut timed) in waiting {
        let Some(job) = terms.iter().find(|job| job.id == timed.job) else { continue };
        timed.picked = job.rolls_back;
        let openings = clock.openings(&timed.client, &job.terms.schedule);
        let times = catalogue.times(tx, openings, &timed).await?;
        if let Some(orders) = out.get_mut(&timed.client) {
            let boots = job.terms.schedule.timing != Timing::Now && timed.purpose != Purpose::Leave;
            orders.at_boots.extend(boots.then(|| attempt.clone()));
            orders.times.push((attempt, Due { times, deadline: job.terms.schedule.deadline }));
        }
    }
    Ok(())
}

/// Has the leases last until the end of the windows that come next, as far as they may.
async fn lengthen(tx: &mut dyn Tx, clock: &Clock, out: &mut BTreeMap<ClientId, Orders>) -> Result<()> {
    let mut all: Vec<(AttemptId, &[Opening])> = Vec::new();
    let any = [clock.at_any_moment()];
    for orders in out.values() {
        all.extend(orders.at_boots.iter().map(|id| (id.clone(), &any[..])));
        let told = orders.times.iter().map(|(id, due)| (id, due.times.as_ref()));
        for (id, times) in told.chain(orders.offers.iter().map(|offer| (&offer.attempt, offer.times.as_ref()))) {
            let times = times.filter(|_| !orders.at_boots.contains(id));
            all.extend(times.map(|times| (id.clone(), &times.openings[..])));
        }
    }
    let leases = clock.leases(tx, &all).await?;
    drop(all);
    for orders in out.values_mut() {
        orders.ahead = clock.ahead();
        let ids = orders.times.iter().map(|(id, _)| id).chain(orders.offers.iter().map(|offer| &offer.attempt));
        orders.long_leases = ids.filter_map(|id| Some((id.clone(), *leases.get(id)?))).collect();
    }
    Ok(())
}

/// Whether a job is for this client at this moment, by its condition; else why not.
async fn is_meant(tx: &mut dyn Tx, env: &Env, job: &Job, client: &Client) -> Result<std::result::Result<(), String>> {
    let condition = match conditions::compile(tx, env, "condition", &job.condition).await {
        Ok(condition) => condition,
        // A question that it names has been changed or deleted.
        Err(e @ AppError::Invalid(_)) => return Ok(Err(format!("the job's condition can't be decided any more: {e}"))),
        Err(e) => return Err(e),
    };
    let subject = inventory::subjects(tx, std::slice::from_ref(client), condition.uses_packages()).await?.pop();
    let matched = subject.is_some_and(|subject| condition.evaluate(&subject.input(client)).matched());
    Ok(if matched { Ok(()) } else { Err(format!("the job is for clients with {}; this is none", quoted(&job.condition))) })
}

/// The versions of jobs, looked up once for all clients of a batch.
#[derive(Default)]
struct Catalogue {
    packages: BTreeMap<(JobId, i64), Vec<JobPackage>>,
    versions: BTreeMap<Uid, Option<PackageVersion>>,
    word: Option<trust::Word>,
}

impl Catalogue {
    /// The offer of an attempt; none if a version can't be delivered any more. What was installed before the client's machine
    /// was `replaced` is gone.
    async fn offer(
        &mut self,
        tx: &mut dyn Tx,
        env: &Env,
        attempt: &Attempt,
        job: &Job,
        replaced: Option<&Timestamp>,
    ) -> Result<Option<Offer>> {
        let key = (job.id.clone(), attempt.revision);
        let word = match self.word.take() {
            Some(word) => word,
            None => trust::word(tx).await?,
        };
        self.word = Some(word);
        if attempt.purpose == Purpose::Leave {
            let installed = leaving::to_uninstall(tx, &job.id, &attempt.client).await?;
            let items = installed.into_iter().map(|i| Item {
                envelope: i.version.envelope,
                manifest: None,
                intent: Intent::Uninstall,
                values: i.package.values,
                requirements: vec![],
                replace_always: false,
                succeeded: false,
                needed: vec![],
            });
            return Ok(Some(of(attempt, job, items.collect())));
        }
        self.load(tx, &job.id, attempt.revision).await?;
        let Some(word) = &self.word else { return Ok(None) };
        // A retry skips the packages that an earlier attempt installed.
        let mut done = Vec::new();
        let earlier = match (attempt.number, attempt.purpose) {
            (1, _) | (_, Purpose::Drift) => vec![],
            _ => leaving::that_count(tx.attempts_of(&job.id, &attempt.client).await?, replaced),
        };
        for earlier in &earlier {
            done.extend(leaving::results(earlier).into_iter().filter(|i| i.state.is_good()).map(|i| (i.package, i.manifest)));
        }
        let mut items = Vec::new();
        let all = &self.packages[&key];
        let picks = if job.rolls_back.is_some() { tx.picks(&job.id, &attempt.client).await? } else { None };
        for package in picked(all, picks) {
            let version = package.version.as_ref().and_then(|uid| self.versions.get(uid)?.as_ref());
            // What is taken back may well be taken off.
            let offered = |v: &&PackageVersion| package.intent == Intent::Uninstall || trust::deliverable(v, word, env.now).is_ok();
            let Some(version) = version.filter(offered) else { return Ok(None) };
            // What was uninstalled is named by the version that was there.
            let succeeded = done.iter().any(|(name, manifest)| match package.intent {
                Intent::Install | Intent::Prefetch => *manifest == version.manifest,
                Intent::Uninstall => *name == version.name,
            });
            items.push(Item {
                envelope: version.envelope.clone(),
                manifest: (package.intent != Intent::Uninstall && !succeeded).then_some(version.manifest),
                intent: package.intent,
                values: package.values.clone(),
                requirements: if package.intent == Intent::Uninstall { vec![] } else { job.requirements.clone() },
                replace_always: package.replace_always,
                succeeded,
                needed: needed(package),
            });
        }
        Ok(Some(of(attempt, job, items)))
    }

    /// Looks up the packages of a job's revision, if that was not done before.
    async fn load(&mut self, tx: &mut dyn Tx, job: &JobId, revision: i64) -> Result<()> {
        let key = (job.clone(), revision);
        if !self.packages.contains_key(&key) {
            let packages = tx.job_packages(job, revision).await?;
            for uid in packages.iter().filter_map(|p| p.version.as_ref()) {
                if !self.versions.contains_key(uid) {
                    let found = tx.versions_by_uid(std::slice::from_ref(uid)).await?.pop();
                    self.versions.insert(uid.clone(), found);
                }
            }
            self.packages.insert(key, packages);
        }
        Ok(())
    }

    /// When the packages of an attempt may be begun, in the order in which it has them; none: at any time.
    async fn times(&mut self, tx: &mut dyn Tx, openings: Option<Vec<Opening>>, timed: &Timed) -> Result<Option<Times>> {
        let Some(openings) = openings else { return Ok(None) };
        // Nobody states how long it takes to take something off.
        if timed.purpose == Purpose::Leave {
            return Ok(Some(Times { openings, durations: vec![] }));
        }
        self.load(tx, &timed.job, timed.revision).await?;
        let picks = if timed.picked { tx.picks(&timed.job, &timed.client).await? } else { None };
        let packages = self.packages.get(&(timed.job.clone(), timed.revision)).map_or(&[][..], Vec::as_slice);
        let version = |p: &JobPackage| p.version.as_ref().and_then(|uid| self.versions.get(uid)?.as_ref());
        Ok(Some(Times { openings, durations: picked(packages, picks).into_iter().map(|p| schedule::takes(p, version(p))).collect() }))
    }
}

/// The offer of an attempt with these packages.
fn of(attempt: &Attempt, job: &Job, items: Vec<Item>) -> Offer {
    let leaves = attempt.purpose == Purpose::Leave;
    Offer {
        attempt: attempt.id.clone(),
        job: job.id.clone(),
        revision: attempt.revision,
        items,
        inventory: job.terms.inventory,
        expires: job.expires,
        continue_on_failure: job.continue_on_failure,
        priority: job.priority,
        times: None,
        // What is taken off since the client left was announced to nobody, and waits for nothing.
        user: if leaves { UserTerms { restart: job.terms.user.restart, ..Default::default() } } else { job.terms.user.clone() },
        deadline: job.terms.schedule.deadline,
        timing: if leaves { Timing::Now } else { job.terms.schedule.timing },
        purpose: attempt.purpose,
    }
}

/// The packages of a job that one client gets: those that were picked for it, else all.
fn picked(all: &[JobPackage], picks: Option<Vec<usize>>) -> Vec<&JobPackage> {
    match picks {
        Some(picks) => picks.into_iter().filter_map(|n| all.get(n)).collect(),
        None => all.iter().collect(),
    }
}

/// For what a package of a job is there; nothing if it was asked for, or if there is more than an agent takes: then it is installed
/// as it is.
fn needed(package: &JobPackage) -> Vec<Dependency> {
    let all: Vec<Dependency> = package.needed.iter().map(|need| need.on.clone()).collect();
    if all.len() > limits::RELATIONS_MAX { Vec::new() } else { all }
}

/// What an attempt may read, and how that flows.
#[derive(Debug, Clone)]
pub struct Readable {
    /// The manifests whose content it may read.
    pub manifests: Vec<sutler_base::Digest>,
    /// Where its client stands.
    pub standing: transfers::Standing,
    /// It reads although the transfers of a group that the client is in are suspended.
    pub through_suspended: bool,
}

/// The manifests that an attempt of this client may read: those of its job's revision, and of what has to be uninstalled for them.
/// None where there is no such attempt of it.
pub async fn readable(tx: &mut dyn Tx, client: &ClientId, attempt: &AttemptId) -> Result<Option<Readable>> {
    let Some(attempt) = tx.attempt(attempt).await?.filter(|a| a.client == *client) else { return Ok(None) };
    if attempt.state.is_end() {
        // No word about the content: who still holds it is told to let go of it, and has nothing to report.
        let message = "this attempt is over; nothing is fetched for it any more";
        return Err(AppError::state(format!("attempts/{}", attempt.id), "ATTEMPT_OVER", message));
    }
    let reader = tx.client(client).await?;
    let state = reader.as_ref().map(|c| c.state);
    let Some(reader) = reader.filter(|c| c.state == ClientState::Active) else { return Err(not_active(client, state)) };
    let manifests = if attempt.purpose == Purpose::Leave {
        leaving::readable(tx, &attempt.job, client).await?
    } else {
        manifests(tx, client, &attempt).await?
    };
    Ok(Some(Readable {
        manifests,
        standing: transfers::standing_of(tx, &reader).await?,
        through_suspended: tx.job(&attempt.job).await?.is_some_and(|job| job.terms.through_suspended),
    }))
}

/// The manifests of what an attempt installs or uninstalls by its job, and of what has to be uninstalled for that.
async fn manifests(tx: &mut dyn Tx, client: &ClientId, attempt: &Attempt) -> Result<Vec<sutler_base::Digest>> {
    let picks = tx.picks(&attempt.job, client).await?;
    let packages = tx.job_packages(&attempt.job, attempt.revision).await?;
    let uids: Vec<Uid> = picked(&packages, picks).into_iter().filter_map(|p| p.version.clone()).collect();
    let versions = tx.versions_by_uid(&uids).await?;
    let mut manifests: Vec<_> = versions.iter().map(|v| v.manifest).collect();
    for new in versions.iter().filter(|v| v.terms.supersedes.iter().any(|other| other.uninstall)) {
        for other in new.terms.supersedes.iter().filter(|other| other.uninstall) {
            let old = tx.versions_of(&other.package, VERSIONS_MAX).await?;
            manifests.extend(old.iter().filter(|old| new.present().displaces(&old.present()).is_some()).map(|old| old.manifest));
        }
    }
    Ok(manifests)
}

/// A client that is not `ACTIVE` reads nothing. It may again later: that is no word about the content.
pub fn not_active(client: &ClientId, state: Option<ClientState>) -> AppError {
    let state = state.map_or("unknown", ClientState::as_str);
    AppError::state(format!("clients/{client}"), "NOT_ACTIVE", format!("this client is {state}; it gets content when an operator lets it"))
}

/// Whether the permission of a row's attempt is renewed: also for what is to come to its end before nothing follows it.
fn has_lease(row: &Execution) -> bool {
    let called_off = row.cancel.as_ref().is_some_and(|cancel| cancel.stage != CancelStage::Acknowledged);
    row.state != ExecutionState::Queued && !called_off
}

/// The attempts of these clients whose permission to start steps is renewed.
pub async fn leases(tx: &mut dyn Tx, clients: &[ClientId]) -> Result<BTreeMap<ClientId, Vec<AttemptId>>> {
    let active = |client: ClientBrief| (client.state == ClientState::Active).then_some(client.id);
    let active: BTreeSet<ClientId> = tx.clients_in_brief(clients).await?.into_iter().filter_map(active).collect();
    let mut leases: BTreeMap<ClientId, Vec<AttemptId>> = BTreeMap::new();
    for row in tx.open_executions_of_all(clients).await?.into_iter().filter(|row| active.contains(&row.client) && has_lease(row)) {
        leases.entry(row.client).or_default().extend(row.attempt);
    }
    Ok(leases)
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
