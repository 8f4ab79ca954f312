//! What is connected now: sessions of agents, whoever watches a job, and the work that goes on by itself for them.
//!
//! Nothing here is remembered. What is to be done stands in the database; a wake-up only says that it is worth looking.

mod arrivals;
pub mod asked;
mod brakes;
mod elsewhere;
pub mod gather;
mod hooks;
mod keeping;
mod leases;
pub mod orders;
mod scrub;
mod shelf;
mod times;
pub mod transfers;
pub mod workers;

use crate::app::{
    App, AppError, Wakes, enrolment, inventory, outcomes,
    sessions::{self, Progress},
    trust,
};
pub use arrivals::Fresh;
use gather::Gather;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use sutler_base::{
    AttemptId, ClientId, JobId, Timestamp, limits,
    state::{ClientState, Presence},
};
use sutler_core::presence::{self, Known};
use sutler_proto::v1;
use tokio::sync::{Notify, broadcast, mpsc, watch};

/// How many messages wait for a client at the most: one that does not read is cut off.
pub const OUTBOX: usize = 256;

/// How many attempts are remembered that wait for damaged bytes.
const LACKING_MAX: usize = 100_000;
/// How many attempts of one client wait to have their progress written.
const REPORTS_PER_CLIENT: usize = 4 * limits::OPEN_ATTEMPTS_MAX;

/// For how long nobody is looked for of whom too few were there: who connects elsewhere, or is held again, is found after that.
const TOO_FEW: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// How far ahead the common clock may get before nobody's silence is told by it: more than what the two clocks may be read apart.
const SET_AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);

/// For how long it may not have been read from the database who may be connected, before others may not have been able to note there whom
/// they hear of, either: several of the looks that are made every other second.
const UNREAD: Duration = Duration::from_secs(10);

/// For how long it is remembered that a client was connected here.
const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

/// So many that have left are remembered without looking who left long ago.
const LEFT_MIN: usize = 1024;

/// What a session's stream is told.
#[derive(Debug)]
pub enum ToAgent {
    /// Send this.
    Message(Box<v1::connect_response::Message>),
    /// End the stream with this status.
    Close(tonic::Status),
}

struct Session {
    number: u64,
    serial: String,
    counter: u64,
    state: ClientState,
    outbox: mpsc::Sender<ToAgent>,
    cut: Arc<Notify>,
    /// What its agent was told of when attempts may be begun; none: it does not know of that.
    timed: Option<times::Told>,
    /// It holds a lease that is longer than usual: that has to be renewed.
    far: bool,
    /// The digest of the shelf that it was told.
    shelf: Vec<u8>,
    can: Can,
    unsettled: BTreeSet<AttemptId>,
}

/// What an agent said that it can do, as far as work is offered by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Can {
    /// It begins nothing outside of the times that it is told.
    pub times: bool,
    /// It fetches and keeps what is installed another time.
    pub prefetch: bool,
    /// It measures and reports its facts when it is asked to.
    pub inventory: bool,
    /// What it does for the user of its machine.
    pub user: sutler_core::user::Abilities,
}

/// What is known of a client that has just connected.
#[derive(Debug)]
pub struct Arrival {
    /// The serial number of its certificate.
    pub serial: String,
    /// What the agent counted.
    pub counter: u64,
    /// What the client may do.
    pub state: ClientState,
    /// What its agent says that it can do.
    pub can: Can,
    /// The digest of the shelf that it was told last.
    pub shelf: Vec<u8>,
    /// The attempts that it has: what became of them is still to be heard.
    pub unsettled: BTreeSet<AttemptId>,
}

#[derive(Default)]
struct Due {
    clients: BTreeSet<ClientId>,
    run_now: BTreeSet<ClientId>,
    access: BTreeSet<ClientId>,
    jobs: BTreeSet<JobId>,
    rollouts: BTreeSet<JobId>,
    rollouts_later: BTreeMap<JobId, Timestamp>,
}

/// The number that the next session gets; how many rows a job has, and the number of its open stage.
type Affairs = (u64, (u64, u32));

/// What is connected now.
pub struct Live {
    sessions: Mutex<HashMap<ClientId, Session>>,
    next: AtomicU64,
    due: Mutex<Due>,
    /// Of each client the attempts that it reports: what one says of an attempt never touches what another says.
    progress: Mutex<BTreeMap<(ClientId, AttemptId), Progress>>,
    /// Who has connected and was told nothing yet.
    fresh: Mutex<BTreeMap<ClientId, Fresh>>,
    /// Rung when somebody has connected.
    pub arrivals_due: Notify,
    /// Rung when clients are due.
    pub clients_due: Notify,
    /// Rung when jobs are due.
    pub jobs_due: Notify,
    /// Rung when there may be something due in rollouts.
    pub rollouts_due: Notify,
    /// Rung when brakes were put on or taken off.
    pub brakes_due: Notify,
    /// Rung when progress was reported.
    pub progress_due: Notify,
    /// Rung when deltas were asked for.
    pub deltas_due: Notify,
    /// What publishers published and the connected agents were told.
    pub told: tokio::sync::Mutex<Option<trust::Held>>,
    changed: broadcast::Sender<JobId>,
    /// Who waits for events sees this change with each.
    told_events: watch::Sender<()>,
    started: Timestamp,
    /// Since when the common clock was not set ahead, as whoever looks for silent clients sees it.
    even: Mutex<Option<leases::Even>>,
    /// When it was last read who may still be connected.
    access_read: Mutex<Option<Instant>>,
    /// When it could be read again after it could not for longer than [`UNREAD`].
    read_again: Mutex<Option<Timestamp>>,
    left: Mutex<HashMap<ClientId, Timestamp>>,
    /// How many of them stayed when those that left long ago were forgotten.
    left_kept: AtomicUsize,
    lacking: Mutex<BTreeMap<AttemptId, ClientId>>,
    behind: Mutex<BTreeSet<ClientId>>,
    /// Of each job in which state of affairs too few of its clients were in contact, and when that was seen.
    too_few: Mutex<BTreeMap<JobId, (Affairs, Timestamp)>>,
    /// What flows to clients.
    pub transfers: transfers::Transfers,
    /// Certificates that clients show wait here to be looked up.
    pub certificates: Arc<Gather<(ClientId, String), Result<(), AppError>>>,
    /// Hellos that wait for their welcome.
    pub hellos: Arc<Gather<Arc<sessions::Hello>, Result<sessions::Welcome, AppError>>>,
    /// Outcomes that wait to be recorded.
    pub outcomes: Arc<Gather<outcomes::Report, outcomes::Recorded>>,
    /// Facts that wait to be taken in, together with whatever else came.
    pub facts: Arc<Gather<Arc<inventory::Report>, inventory::Said>>,
    checks: Mutex<BTreeMap<ClientId, BTreeSet<JobId>>>,
    /// Whether there may be other managers.
    tells: AtomicBool,
    /// What other managers are to be told.
    to_tell: Mutex<Wakes>,
    /// Rung when there is something to tell them.
    told_due: Notify,
}

impl Live {
    /// Nobody is connected; `now` is when this manager started.
    pub fn new(now: Timestamp) -> Live {
        Live {
            started: now,
            even: Mutex::default(),
            told: tokio::sync::Mutex::default(),
            access_read: Mutex::default(),
            read_again: Mutex::default(),
            left: Mutex::default(),
            left_kept: AtomicUsize::new(0),
            lacking: Mutex::default(),
            behind: Mutex::default(),
            too_few: Mutex::default(),
            transfers: transfers::Transfers::default(),
            certificates: Gather::new(enrolment::TOGETHER, |app: Arc<App>, shown| {
                Box::pin(async move {
                    app.view("manager", "check_certificate", shown, |tx, _, shown| Box::pin(enrolment::check_certificates(tx, shown))).await
                })
            }),
            hellos: Gather::new(sessions::TOGETHER, |app: Arc<App>, hellos| {
                Box::pin(async move {
                    app.change("manager", "open_session", hellos, |tx, env, all| Box::pin(sessions::open(tx, env, all))).await
                })
            }),
            outcomes: Gather::new(outcomes::TOGETHER, |app: Arc<App>, reports| {
                Box::pin(
                    async move { app.change("manager", "outcome", reports, |tx, env, all| Box::pin(outcomes::record(tx, env, all))).await },
                )
            }),
            facts: Gather::new(inventory::TOGETHER as usize, |app: Arc<App>, reports| {
                Box::pin(
                    async move { app.change("manager", "facts", reports, |tx, env, all| Box::pin(inventory::facts(tx, env, all))).await },
                )
            }),
            checks: Mutex::default(),
            tells: AtomicBool::new(false),
            to_tell: Mutex::default(),
            told_due: Notify::new(),
            sessions: Mutex::default(),
            next: AtomicU64::new(1),
            due: Mutex::default(),
            progress: Mutex::default(),
            fresh: Mutex::default(),
            arrivals_due: Notify::new(),
            clients_due: Notify::new(),
            brakes_due: Notify::new(),
            jobs_due: Notify::new(),
            rollouts_due: Notify::new(),
            progress_due: Notify::new(),
            deltas_due: Notify::new(),
            changed: broadcast::channel(1024).0,
            told_events: watch::Sender::new(()),
        }
    }
}

/// What an older session of a client is told.
fn connected_again() -> tonic::Status {
    tonic::Status::aborted("the same client has connected again; this session is over")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Live {
    /// Makes this the session of the client, in place of an older one, which is closed. Gives back the session's number, and the bell
    /// that rings when the session is cut off.
    pub fn enter(&self, client: &ClientId, arrival: Arrival, outbox: mpsc::Sender<ToAgent>) -> (u64, Arc<Notify>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let cut = Arc::new(Notify::new());
        let Arrival { serial, counter, state, can, shelf, unsettled } = arrival;
        let timed = can.times.then(Default::default);
        let session = Session { number, serial, counter, state, outbox, cut: cut.clone(), timed, far: false, shelf, can, unsettled };
        if let Some(old) = lock(&self.sessions).insert(client.clone(), session) {
            let _ = old.outbox.try_send(ToAgent::Close(connected_again()));
            old.cut.notify_one();
        }
        (number, cut)
    }

    /// What the client's agent can do; nothing that is asked here if it is not connected.
    pub fn can(&self, client: &ClientId) -> Can {
        lock(&self.sessions).get(client).map(|s| s.can).unwrap_or_default()
    }

    /// Ends this session, if it is still the client's. Gives back whether it was.
    pub fn leave(&self, client: &ClientId, number: u64, now: Timestamp) -> bool {
        let mut left = lock(&self.left);
        left.insert(client.clone(), now);
        // Not with each: where a whole fleet leaves in one moment, each would look at all of it.
        if left.len() >= 2 * self.left_kept.load(Ordering::Relaxed).max(LEFT_MIN) {
            let old = now.saturating_sub(KEPT).unwrap_or(self.started);
            left.retain(|_, at| *at > old);
            self.left_kept.store(left.len(), Ordering::Relaxed);
        }
        drop(left);
        let mut sessions = lock(&self.sessions);
        let mine = sessions.get(client).is_some_and(|s| s.number == number);
        if mine {
            sessions.remove(client);
        }
        mine
    }

    /// Since when this manager can have heard of anybody.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// For how long the common clock, which is `clock` now, was not set ahead, as far as this manager has seen: `steady` is on one that
    /// nobody sets.
    pub fn even_for(&self, clock: Timestamp, steady: Duration) -> Duration {
        lock(&self.even).get_or_insert_with(|| leases::Even::new(SET_AHEAD, clock, steady)).look(clock, steady)
    }

    /// Until when this manager knows by itself whether the client was connected: what was heard of it later, another manager heard.
    fn known_until(&self, client: &ClientId) -> Timestamp {
        lock(&self.left).get(client).copied().unwrap_or(self.started)
    }

    /// Whether a client that was last heard of at `last_seen` is in contact, with this manager or lately with another one; overdue
    /// once it has been silent for longer than `overdue`.
    pub fn presence(&self, client: &ClientId, last_seen: Timestamp, now: Timestamp, overdue: Duration) -> Presence {
        presence::presence(Known { connected: self.is_connected(client), until: self.known_until(client) }, last_seen, now, overdue)
    }

    /// Whether this is still the client's session.
    pub fn is_current(&self, client: &ClientId, number: u64) -> bool {
        lock(&self.sessions).get(client).is_some_and(|s| s.number == number)
    }

    /// Whether the client is connected to this manager.
    pub fn is_connected(&self, client: &ClientId) -> bool {
        lock(&self.sessions).contains_key(client)
    }

    /// How many clients are connected to this manager.
    pub fn count(&self) -> usize {
        lock(&self.sessions).len()
    }

    /// Everybody who is connected to this manager.
    pub fn connected(&self) -> Vec<ClientId> {
        lock(&self.sessions).keys().cloned().collect()
    }

    /// What the session of the client believes that the client may do; none if there is no session.
    pub fn state(&self, client: &ClientId) -> Option<ClientState> {
        lock(&self.sessions).get(client).map(|s| s.state)
    }

    /// The serial number of the certificate with which the client's session was opened; none if there is no session.
    pub fn serial(&self, client: &ClientId) -> Option<String> {
        lock(&self.sessions).get(client).map(|s| s.serial.clone())
    }

    /// What the agent counted when the client's session was opened; none if there is no session.
    pub fn counter(&self, client: &ClientId) -> Option<u64> {
        lock(&self.sessions).get(client).map(|s| s.counter)
    }

    /// Notes that at the moment `at`, `now` by the clock, it was read from the database who may be connected.
    pub fn note_access(&self, at: Instant, now: Timestamp) {
        let before = lock(&self.access_read).replace(at);
        if before.is_some_and(|before| at.saturating_duration_since(before) > UNREAD) {
            *lock(&self.read_again) = Some(now);
        }
    }

    /// Since when this manager can have read what others heard: it has been there since, and so has the database.
    pub fn hears_others_since(&self) -> Timestamp {
        lock(&self.read_again).map_or(self.started, |again| again.max(self.started))
    }

    /// Whether it was read less than `limit` ago who may be connected: without that, nothing may be offered or sent.
    pub fn knows_access(&self, limit: Duration) -> bool {
        lock(&self.access_read).is_some_and(|at| at.elapsed() < limit)
    }

    /// Notes what the client may do now.
    pub fn set_state(&self, client: &ClientId, state: ClientState) {
        if let Some(session) = lock(&self.sessions).get_mut(client) {
            session.state = state;
        }
    }

    /// Sends to a client. One whose outbox is full is cut off: it will ask again when it comes back.
    pub fn send(&self, client: &ClientId, message: v1::connect_response::Message) {
        let mut sessions = lock(&self.sessions);
        let Some(session) = sessions.get(client) else { return };
        if session.outbox.try_send(ToAgent::Message(Box::new(message))).is_err()
            && let Some(session) = sessions.remove(client)
        {
            session.cut.notify_one();
        }
    }

    /// Ends the session of a client.
    pub fn close(&self, client: &ClientId, status: tonic::Status) {
        if let Some(session) = lock(&self.sessions).remove(client) {
            let _ = session.outbox.try_send(ToAgent::Close(status));
            session.cut.notify_one();
        }
    }

    /// Notes whom a unit of work wants woken.
    pub fn wake(&self, wakes: Wakes) {
        if wakes.events {
            self.told_events.send_replace(());
        }
        if wakes.brakes {
            self.brakes_due.notify_one();
        }
        if wakes.deltas {
            self.deltas_due.notify_one();
        }
        if wakes.clients.is_empty() && wakes.run_now.is_empty() && wakes.access.is_empty() && wakes.jobs.is_empty() {
            return;
        }
        for job in &wakes.jobs {
            // Nobody watching is fine.
            let _ = self.changed.send(job.clone());
        }
        let mut due = lock(&self.due);
        due.clients.extend(wakes.clients);
        due.run_now.extend(wakes.run_now);
        due.access.extend(wakes.access);
        due.rollouts.extend(wakes.jobs.iter().cloned());
        due.jobs.extend(wakes.jobs);
        drop(due);
        self.clients_due.notify_one();
        self.jobs_due.notify_one();
        self.rollouts_due.notify_one();
    }

    /// What changes with each event that this manager writes, from now on.
    pub fn watch_events(&self) -> watch::Receiver<()> {
        self.told_events.subscribe()
    }

    /// Whether too few of the clients of a job with so many rows and this open stage were in contact when they were looked for not long
    /// before `now`, and nobody has connected here since.
    pub fn are_too_few(&self, job: &JobId, at: (u64, u32), now: Timestamp) -> bool {
        let affairs = (self.next.load(Ordering::Relaxed), at);
        let seen = lock(&self.too_few).get(job).copied();
        seen.is_some_and(|(seen, then)| seen == affairs && (then..then.saturating_add(TOO_FEW).unwrap_or(then)).contains(&now))
    }

    /// Notes that too few were, or that there were enough.
    pub fn note_too_few(&self, job: &JobId, at: (u64, u32), now: Timestamp, too_few: bool) {
        let mut all = lock(&self.too_few);
        if too_few {
            let affairs = (self.next.load(Ordering::Relaxed), at);
            all.insert(job.clone(), (affairs, now));
        } else {
            all.remove(job);
        }
    }

    /// Other clients may be let go than before: whoever was looked for of whom too few were there is looked for again.
    pub fn forget_too_few(&self) {
        lock(&self.too_few).clear();
    }

    /// Whether the client came with this attempt and has not said since what became of it.
    pub fn is_unsettled(&self, client: &ClientId, attempt: &AttemptId) -> bool {
        lock(&self.sessions).get(client).is_some_and(|s| s.unsettled.contains(attempt))
    }

    /// Notes that the client said what became of an attempt. If it had come with it, something else may wait for that.
    pub fn settle(&self, client: &ClientId, attempt: &AttemptId) {
        if lock(&self.sessions).get_mut(client).is_some_and(|s| s.unsettled.remove(attempt)) {
            self.wake(Wakes { clients: [client.clone()].into(), ..Default::default() });
        }
    }

    /// Up to `limit` connected clients that are due; those who are not connected are asked when they come.
    pub fn take_clients(&self, limit: usize) -> Vec<ClientId> {
        let (sessions, mut due) = (lock(&self.sessions), lock(&self.due));
        let mut out = Vec::new();
        while out.len() < limit
            && let Some(client) = due.clients.pop_first()
        {
            // Who is behind is asked again when it has caught up, and who has just come is told everything.
            if sessions.contains_key(&client) && !lock(&self.behind).contains(&client) && !lock(&self.fresh).contains_key(&client) {
                out.push(client);
            }
        }
        if !due.clients.is_empty() {
            self.clients_due.notify_one();
        }
        out
    }

    /// Clients whose waiting attempts may go at once, and clients whose right to be connected may have changed.
    pub fn take_nudges(&self) -> (BTreeSet<ClientId>, BTreeSet<ClientId>) {
        let mut due = lock(&self.due);
        (std::mem::take(&mut due.run_now), std::mem::take(&mut due.access))
    }

    /// Jobs whose rows changed.
    pub fn take_jobs(&self) -> Vec<JobId> {
        std::mem::take(&mut lock(&self.due).jobs).into_iter().collect()
    }

    /// Notes that it is still to be looked whether these jobs are complete.
    pub fn look_at_jobs(&self, jobs: Vec<JobId>) {
        lock(&self.due).jobs.extend(jobs);
        self.jobs_due.notify_one();
    }

    /// Notes that there may be something due in the rollouts of these jobs.
    pub fn look_at_rollouts(&self, jobs: Vec<JobId>) {
        lock(&self.due).rollouts.extend(jobs);
        self.rollouts_due.notify_one();
    }

    /// Notes when there will be something due in a rollout although nothing happens; never, if it says none.
    pub fn look_at_rollout_later(&self, job: &JobId, at: Option<Timestamp>) {
        let later = &mut lock(&self.due).rollouts_later;
        match at {
            Some(at) => later.insert(job.clone(), at),
            None => later.remove(job),
        };
    }

    /// Jobs in whose rollout something may be due now.
    pub fn take_rollouts(&self, now: Timestamp) -> BTreeSet<JobId> {
        let mut due = lock(&self.due);
        let mut jobs = std::mem::take(&mut due.rollouts);
        jobs.extend(due.rollouts_later.iter().filter(|(_, at)| **at <= now).map(|(job, _)| job.clone()));
        jobs
    }

    /// Notes where an attempt is; the newest report of each is written in batches. A client that reports more attempts than it
    /// can have is not listened to until some are written.
    pub fn report(&self, report: Progress) {
        let mut progress = lock(&self.progress);
        let key = (report.client.clone(), report.attempt.clone());
        if !progress.contains_key(&key) {
            let first = (report.client.clone(), AttemptId::new(Timestamp::UNIX_EPOCH, [0; 16]));
            let waiting = progress.range(first..).take(REPORTS_PER_CLIENT).take_while(|((client, _), _)| *client == report.client).count();
            if waiting >= REPORTS_PER_CLIENT {
                return;
            }
        }
        progress.insert(key, report);
        self.progress_due.notify_one();
    }

    /// Takes back reports that could not be written; what came meanwhile is newer.
    pub fn report_later(&self, reports: Vec<Progress>) {
        let mut progress = lock(&self.progress);
        for report in reports {
            progress.entry((report.client.clone(), report.attempt.clone())).or_insert(report);
        }
        self.progress_due.notify_one();
    }

    /// Forgets what a client reported of an attempt that has ended.
    pub fn drop_report(&self, client: &ClientId, attempt: &AttemptId) {
        lock(&self.progress).remove(&(client.clone(), attempt.clone()));
    }

    /// Up to `limit` reports.
    pub fn take_reports(&self, limit: usize) -> Vec<Progress> {
        let mut progress = lock(&self.progress);
        let mut out = Vec::new();
        while out.len() < limit
            && let Some((_, report)) = progress.pop_first()
        {
            out.push(report);
        }
        if !progress.is_empty() {
            self.progress_due.notify_one();
        }
        out
    }

    /// Notes whether the client still has to tell what a restored manager does not know: it is offered nothing before.
    pub fn set_behind(&self, client: &ClientId, behind: bool) {
        let mut all = lock(&self.behind);
        if behind {
            all.insert(client.clone());
        } else {
            all.remove(client);
        }
    }

    /// Notes whether the client's agent can say if what it installed is still there.
    pub fn set_checks(&self, client: &ClientId, checks: bool) {
        let mut all = lock(&self.checks);
        if checks {
            all.insert(client.clone(), BTreeSet::new());
        } else {
            all.remove(client);
        }
    }

    /// The connected clients whose agents can say if what they installed is still there.
    pub fn that_check(&self) -> Vec<ClientId> {
        let mut all = lock(&self.checks);
        let sessions = lock(&self.sessions);
        all.retain(|client, _| sessions.contains_key(client));
        all.keys().cloned().collect()
    }

    /// Notes that the client is asked whether what this job installed is still there.
    pub fn asks(&self, client: &ClientId, job: &JobId) {
        if let Some(asked) = lock(&self.checks).get_mut(client) {
            asked.insert(job.clone());
        }
    }

    /// Whether the client was asked that, and has not answered before: nobody makes attempts by saying it again and again.
    pub fn was_asked(&self, client: &ClientId, job: &JobId) -> bool {
        lock(&self.checks).get_mut(client).is_some_and(|asked| asked.remove(job))
    }

    /// Notes that what an attempt needs is damaged here.
    pub fn lacks(&self, attempt: AttemptId, client: ClientId) {
        let mut lacking = lock(&self.lacking);
        if lacking.len() < LACKING_MAX {
            lacking.insert(attempt, client);
        }
    }

    /// Whether the attempt waits because of that.
    pub fn is_lacking(&self, attempt: &AttemptId) -> bool {
        lock(&self.lacking).contains_key(attempt)
    }

    /// What was damaged may be there again: whoever waits because of it may try at once.
    pub fn mended(&self) {
        let clients: BTreeSet<ClientId> = std::mem::take(&mut *lock(&self.lacking)).into_values().collect();
        self.wake(Wakes { run_now: clients, ..Default::default() });
    }

    /// Tells of every job whose rows or counters change.
    pub fn watch_jobs(&self) -> broadcast::Receiver<JobId> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::state::ExecutionState;

    fn report(client: &ClientId, n: u16) -> Progress {
        let mut random = [0; 16];
        random[..2].copy_from_slice(&n.to_le_bytes());
        Progress {
            attempt: AttemptId::new(Timestamp::UNIX_EPOCH, random),
            client: client.clone(),
            state: ExecutionState::Installing,
            reason: None,
            detail: String::new(),
            item: 0,
            bytes_done: 0,
            bytes_total: 0,
            step: String::new(),
        }
    }

    #[test]
    fn nobody_counts_as_silent_for_the_time_in_which_the_database_could_not_be_read() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let live = Live::new(at(1000));
        let begin = Instant::now();
        let note = |second: u64| live.note_access(begin + Duration::from_secs(second), at(1000 + second as i64));
        [0, 2, 4, 14].into_iter().for_each(note);
        assert_eq!(live.hears_others_since(), at(1000), "looks that come late are no reason");
        note(25);
        note(27);
        assert_eq!(live.hears_others_since(), at(1025));
    }

    #[test]
    fn what_one_client_reports_takes_nothing_from_another_and_is_bounded() {
        let live = Live::new(Timestamp::UNIX_EPOCH);
        let [first, second] = [1, 2].map(|n| ClientId::from_random([n; 16]));
        live.report(report(&first, 7));
        live.report(report(&second, 7));
        live.drop_report(&second, &report(&second, 7).attempt);
        assert_eq!(live.take_reports(10).iter().map(|r| &r.client).collect::<Vec<_>>(), [&first]);
        (0..5000).for_each(|n| live.report(report(&first, n)));
        live.report(report(&second, 1));
        let taken = live.take_reports(10_000);
        assert_eq!(taken.iter().filter(|r| r.client == first).count(), REPORTS_PER_CLIENT);
        assert!(taken.iter().any(|r| r.client == second));
    }
}
