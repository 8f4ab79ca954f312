//! The loop: what happens, what follows from it, what is done about it.

use super::{
    AgentError, Answer, Asked, Ended, Trial,
    handle::Ask,
    heard::Heard,
    questions::Questions,
    report::Report,
    requests::Requests,
    restarts::Restarts,
    shelf::Shelf,
    user::{Programs, Shutdown},
    wire,
};
use crate::{
    clock::Clock,
    identity::{Identity, TrustRefused},
    installer::{Installer, Trouble, failure},
    journal::{Answered, Journal, JournalError},
    limits::Limits,
    link::{self, Connection, LinkCommand, LinkError, LinkEvent, ManagerTime},
    machine::{Effect, Event, OpReport, Progress, Record, Stage, State, StepReport},
    policy::{LocalPolicy, Policy},
    vault::{Vault, VaultError},
    work::{Told, Worker, as_facts},
};
use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use sutler_base::{
    AttemptId, Digest, Timestamp,
    facts::Facts,
    outcome::Failure,
    state::{ClientState, ErrorKind},
};
use sutler_proto::{
    ANNOUNCEMENTS, BOOTS, CHECKS, INVENTORY, PREFETCH, PROTOCOL_VERSION, QUESTIONS, REPORT_AGAIN, SHELF, TIMES,
    convert::{Word, time, wire_time},
    v1::{self, connect_request::Message as Up, connect_response::Message as Down},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
};
use tracing::{debug, info, warn};

/// How often the loop looks around while there is something to be done: a wall clock may have jumped.
const LOOK_AROUND: Duration = Duration::from_secs(30);
/// How often it does at rest: whatever happens then has it look first, and each look wakes the machine.
const LOOK_AT_REST: Duration = Duration::from_secs(240);
/// How often it is looked whether a full disk has room again, and what could not be written is tried again.
const FULL_LOOK: Duration = Duration::from_secs(5);
/// How often the machine's own rules are looked at while they hold something.
const HELD_LOOK: Duration = Duration::from_secs(2);
/// How often bytes of a download are told to the manager.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How many times log files are sent before an outcome: over a line that does not last they would keep it from arriving for ever.
const LOG_TRIES: u32 = 3;
/// How many messages may wait to be sent for another part of a log file to join them.
const LOG_PARTS: usize = 4;
/// How often that is looked at.
const LOG_PAUSE: Duration = Duration::from_millis(20);

/// The manager's word for a client that was removed.
const REMOVED: &str = "CLIENT_REMOVED";

/// A connection that stands.
pub(super) struct Link {
    outbox: mpsc::Sender<v1::ConnectRequest>,
    connection: Connection,
    pub(super) address: String,
}

/// Everything that the loop has in its hands.
pub(super) struct Loop {
    pub(super) state: State,
    /// The effects of the recovery.
    pub(super) first: Vec<Effect>,
    pub(super) journal: Arc<Mutex<Box<dyn Journal>>>,
    pub(super) journal_lost: bool,
    /// Writes that a full disk refused: tried again, and nothing goes on before.
    pub(super) unwritten: Vec<(AttemptId, u64)>,
    /// What was said when the disk was found full; none while it isn't. Said once, however often something is refused by it.
    pub(super) full: Option<String>,
    pub(super) requests: Requests,
    pub(super) questions: Questions,
    pub(super) shelf: Shelf,
    pub(super) restarts: Restarts,
    pub(super) vault: Arc<dyn Vault>,
    pub(super) identity: Arc<Identity>,
    pub(super) installer: Arc<dyn Installer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub(super) worker: Worker,
    pub(super) policy: Policy,
    /// What it calls on this machine.
    pub(super) programs: Programs,
    /// Whether the machine may be restarted for a job.
    pub(super) may_restart: bool,
    /// Who waits for the machine to be ready to go down.
    pub(super) shutdown: Vec<Shutdown>,
    /// Why the machine's own rules hold installations; empty where they just say so, none where they don't.
    pub(super) held: Option<String>,
    pub(super) heard: Heard,
    /// Why the last trust document or revocation list was not taken.
    pub(super) trust_problem: Option<String>,
    pub(super) told: mpsc::UnboundedReceiver<Told>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) events: mpsc::Receiver<LinkEvent>,
    pub(super) link: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub(super) commands: watch::Sender<LinkCommand>,
    pub(super) connection: watch::Sender<Option<Connection>>,
    pub(super) up: Option<Link>,
    /// What the manager was told of each attempt, and when (on `CLOCK_BOOTTIME`).
    pub(super) sent: HashMap<AttemptId, (Progress, Duration)>,
    /// How many times the log files of an attempt were sent before its outcome.
    pub(super) logs_sent: HashMap<AttemptId, u32>,
    /// Those of one attempt are sent at a time.
    pub(super) logs_turn: Arc<tokio::sync::Mutex<()>>,
    /// The facts, and what the manager was told of them.
    pub(super) report: Report,
    /// Machine id and boot id, as the facts say.
    pub(super) facts_of: (String, String),
    /// When they are measured next without a reason (on `CLOCK_BOOTTIME`).
    pub(super) facts_due: Duration,
    /// They are measured just now, beside the loop: programs may be asked.
    pub(super) measuring: Option<JoinHandle<Result<Facts, Trouble>>>,
    /// Something happened since that began.
    pub(super) measure_again: bool,
    /// The attempts for which they are measured just now, and those that asked since that began.
    pub(super) inventories: (Vec<AttemptId>, Vec<AttemptId>),
    pub(super) limits: Limits,
    /// When it last looked around (on `CLOCK_BOOTTIME`).
    pub(super) looked_at: Duration,
    /// Who waits for the manager's answer to a request.
    pub(super) waiters: HashMap<String, oneshot::Sender<Answer>>,
    /// The groups, as the manager last said.
    pub(super) groups: Option<Vec<String>>,
    pub(super) client_state: Option<ClientState>,
    pub(super) problem: Option<String>,
    pub(super) skew: Option<i64>,
    pub(super) manager_time: Arc<ManagerTime>,
    /// When the certificate is to be renewed, on `CLOCK_BOOTTIME`: no wall clock can put it off.
    pub(super) renew_at: Option<Duration>,
    pub(super) renewing: Option<JoinHandle<Result<(), String>>>,
    /// Whether content may lie around that nobody needs.
    pub(super) garbage: bool,
    /// How it stands with the trial that was begun before this agent was.
    pub(super) trial: Trial,
    /// The attempt for which this agent is on trial.
    pub(super) on_trial: Option<AttemptId>,
}

/// Why the loop goes round once more.
enum Cause {
    Told(Told),
    Ask(Ask),
    Link(Box<LinkEvent>),
    Renewed(Result<(), String>),
    Measured(Box<Result<Facts, Trouble>>),
    Time,
}

impl Loop {
    pub(super) async fn run(mut self) -> Result<Ended, AgentError> {
        // Ends with this future, as everything else would with the process.
        let mut tasks = JoinSet::new();
        let link = std::mem::replace(&mut self.link, Box::pin(std::future::pending()));
        tasks.spawn(link);
        let first = std::mem::take(&mut self.first);
        self.apply(first).await?;
        loop {
            let now = self.clock.now();
            let every = self.look_every();
            // Counted from the last look: whatever else happens meanwhile, and be it all the time, does not put it off.
            let due = [
                Some(self.looked_at.saturating_add(every)),
                self.state.wake_at(&now),
                self.renew_at.filter(|_| self.renewing.is_none() && self.up.is_some()),
                Some(self.facts_due).filter(|_| self.measuring.is_none()),
                self.shutdown_due(),
            ];
            let wait = due.into_iter().flatten().min().map_or(every, |at| at.saturating_sub(now.boot).min(every));
            let cause = tokio::select! {
                Some(told) = self.told.recv() => Cause::Told(told),
                Some(ask) = self.asks.recv() => Cause::Ask(ask),
                Some(event) = self.events.recv() => Cause::Link(Box::new(event)),
                renewed = async { match &mut self.renewing { Some(task) => task.await, None => std::future::pending().await } } => {
                    Cause::Renewed(renewed.unwrap_or_else(|e| Err(e.to_string())))
                }
                measured = async { match &mut self.measuring { Some(task) => task.await, None => std::future::pending().await } } => {
                    let failed = |e: tokio::task::JoinError| Trouble::Failed(failure(ErrorKind::ClientIo, e.to_string()));
                    Cause::Measured(Box::new(measured.unwrap_or_else(|e| Err(failed(e)))))
                }
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => Cause::Time,
            };
            let ended = match cause {
                Cause::Told(Told::Event(event)) => self.told(*event).await?,
                Cause::Told(Told::Handover(program)) => Some(Ended::Handover(program)),
                Cause::Told(Told::Installed) => {
                    self.measure();
                    None
                }
                Cause::Told(Told::Checked { job, missing }) => {
                    self.send(Up::Checked(v1::CheckResult { job, missing }));
                    None
                }
                Cause::Told(Told::Forgotten(attempt)) => {
                    self.garbage = true;
                    self.with_journal(move |journal| journal.discard(&attempt)).await.map(|()| None)?
                }
                Cause::Told(Told::Fatal(why)) => return Err(AgentError::Fatal(why)),
                Cause::Ask(Ask::Stop) => Some(Ended::Stopped),
                Cause::Ask(ask) => self.asked(ask).await.map(|()| None)?,
                Cause::Link(event) => self.link_event(*event).await?,
                Cause::Renewed(result) => {
                    self.renewed(result);
                    None
                }
                Cause::Measured(facts) => self.measured(*facts).await.map(|()| None)?,
                Cause::Time => self.look_around().await.map(|()| None)?,
            };
            self.look_at_shutdown();
            if let Some(ended) = ended {
                self.let_go().await;
                return Ok(ended);
            }
        }
    }

    /// How long it may be from one look to the next.
    fn look_every(&self) -> Duration {
        let rests = self.state.records().next().is_none() && !self.garbage && self.up.is_some();
        let every = if rests { LOOK_AT_REST } else { LOOK_AROUND };
        let every = if self.full.is_none() { every } else { every.min(FULL_LOOK) };
        if self.held.is_none() { every } else { every.min(HELD_LOOK) }
    }

    /// Lets the machine decide and does what it says.
    pub(super) async fn happened(&mut self, event: Event) -> Result<(), AgentError> {
        // First: what the event starts may be held from now on.
        self.look_at_policy().await?;
        let effects = self.state.handle(event, &self.clock.now());
        self.apply(effects).await
    }

    /// Reads the machine's own rules again; a hold that begins or ends is the machine's to know.
    pub(super) async fn look_at_policy(&mut self) -> Result<(), AgentError> {
        let rules = self.policy.read();
        let may_restart = may_restart(&rules, &self.programs);
        let held = rules.map_or_else(Some, |p| p.hold.then(String::new));
        if may_restart != self.may_restart {
            self.may_restart = may_restart;
            let effects = self.state.handle(Event::MayRestart(may_restart), &self.clock.now());
            Box::pin(self.apply(effects)).await?;
        }
        if held == self.held {
            return Ok(());
        }
        match &held {
            Some(why) if !why.is_empty() => warn!("{why}"),
            Some(_) => info!("installations are held by this machine's policy.toml"),
            None => info!("installations are not held any more"),
        }
        let change = held.is_some() != self.held.is_some();
        self.held = held;
        if change {
            let effects = self.state.handle(Event::Held(self.held.is_some()), &self.clock.now());
            Box::pin(self.apply(effects)).await?;
        }
        Ok(())
    }

    pub(super) async fn apply(&mut self, effects: Vec<Effect>) -> Result<(), AgentError> {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Journal(id, write) => {
                    self.note_restart(&id)?;
                    if self.write(&id).await? {
                        queue.extend(self.state.handle(Event::Journaled(id, write), &self.clock.now()));
                    } else {
                        self.unwritten.retain(|(other, _)| *other != id);
                        self.unwritten.push((id, write));
                    }
                }
                Effect::Accept(id) => self.send(Up::Accepted(v1::AttemptAccepted { attempt: id.to_string() })),
                Effect::AcknowledgeCancel(id, started) => {
                    info!(attempt = %id, started, "canceled by the manager");
                    self.send(Up::CancelAcknowledged(v1::CancelAcknowledged { attempt: id.to_string(), started, nothing_follows: false }));
                }
                Effect::NothingFollows(id) => {
                    info!(attempt = %id, "canceled by the manager after the package that is under way");
                    let (attempt, started, nothing_follows) = (id.to_string(), true, true);
                    self.send(Up::CancelAcknowledged(v1::CancelAcknowledged { attempt, started, nothing_follows }));
                }
                Effect::Measure(id) => {
                    // What is being measured may have been looked at before it was asked.
                    let (now, next) = &mut self.inventories;
                    if self.measuring.is_some() {
                        next.push(id)
                    } else {
                        now.push(id)
                    }
                    self.measure();
                }
                Effect::Prepare(id, item) => {
                    if let Some(record) = self.state.record(&id) {
                        self.worker.prepare(record, item);
                    }
                }
                Effect::FetchAhead(id, item) => {
                    if let Some(record) = self.state.record(&id) {
                        self.worker.fetch_ahead(record, item);
                    }
                }
                Effect::Perform(id, item, op, run) => {
                    debug!(attempt = %id, item, ?op, run, "begins");
                    if let Some(record) = self.state.record(&id) {
                        self.worker.perform(record, item, op, run);
                    }
                }
                Effect::PickUp(id, item, step, run) => {
                    if let Some(record) = self.state.record(&id) {
                        self.worker.pick_up(record, item, step, run);
                    }
                }
                Effect::Tried(id) => {
                    let report = match &self.trial {
                        Trial::Unknown => OpReport::Step(StepReport::Interrupted { detected: false }),
                        Trial::Failed(why, output) => {
                            OpReport::Failed(Failure { output: output.clone(), ..failure(ErrorKind::AgentNotConnected, why) })
                        }
                        Trial::Running => {
                            self.on_trial = Some(id);
                            continue;
                        }
                    };
                    queue.extend(self.state.handle(Event::OpEnded(id, report), &self.clock.now()));
                }
                Effect::Sign(outcome) => {
                    let id = outcome.attempt.clone();
                    info!(attempt = %id, state = %outcome.state, failure = outcome.failure().map(|f| f.message.as_str()), "ended");
                    let bytes = wire::outcome_bytes(outcome);
                    let signature = self.identity.sign_outcome(&bytes).map_err(|e| AgentError::Fatal(e.to_string()))?;
                    queue.extend(self.state.handle(Event::Signed(id, bytes, signature), &self.clock.now()));
                }
                Effect::Report(id) => self.report(&id),
                Effect::Announce(id) => self.announce(&id),
                Effect::Restart(id) => self.restart(&id),
                Effect::Abandon(id) => self.worker.stop(&id),
                Effect::Retire(record) => {
                    self.with_journal({
                        let record = record.clone();
                        move |journal| journal.retire(&record)
                    })
                    .await?;
                    self.unwritten.retain(|(id, _)| id != record.id());
                    self.sent.remove(record.id());
                    self.logs_sent.remove(record.id());
                    self.worker.forget(&record);
                }
            }
        }
        self.tell_progress();
        Ok(())
    }

    /// Tells the manager an outcome; before one with failures, the log files that are kept of them. They help people and nothing
    /// is decided by them: when the outcome did not get through behind them a few times, it goes alone.
    fn report(&mut self, id: &AttemptId) {
        let Some(record) = self.state.record(id) else { return };
        let Some(outcome) = outcome_of(record) else { return };
        let failed = record.results.iter().enumerate().filter(|(_, result)| result.failure.is_some()).map(|(item, _)| item);
        let failed: Vec<usize> = failed.collect();
        let Some(outbox) = self.up.as_ref().map(|up| up.outbox.clone()) else { return };
        let tries = self.logs_sent.entry(id.clone()).or_default();
        if failed.is_empty() || *tries >= LOG_TRIES {
            return self.send(outcome);
        }
        *tries += 1;
        let (installer, one, id) = (self.installer.clone(), self.logs_turn.clone(), id.clone());
        // Beside the loop, and those of one package at a time, so that neither memory nor the outbox is filled with them.
        tokio::spawn(async move {
            let _turn = one.lock().await;
            for item in failed {
                let logs = installer.logs(&id, item).await.unwrap_or_else(|trouble| {
                    warn!(attempt = %id, "its log files are not sent: {trouble:?}");
                    Vec::new()
                });
                for message in logs.iter().flat_map(|log| wire::log(&id, log)) {
                    // What the loop has to say finds room beside them.
                    while outbox.max_capacity() - outbox.capacity() >= LOG_PARTS && !outbox.is_closed() {
                        tokio::time::sleep(LOG_PAUSE).await;
                    }
                    if outbox.send(v1::ConnectRequest { message: Some(message) }).await.is_err() {
                        return;
                    }
                }
            }
            let _ = outbox.send(v1::ConnectRequest { message: Some(outcome) }).await;
        });
    }

    /// What a worker has to say. When the last op of a new agent has ended, be it in its place or not, this process may not be the
    /// one that lies there any more: nothing else is begun before whoever started it has looked, or it would be cut off.
    async fn told(&mut self, event: Event) -> Result<Option<Ended>, AgentError> {
        let of_agent = |state: &State, id: &AttemptId| match state.record(id).map(|record| &record.stage) {
            Some(Stage::Installing(installing)) => installing.plan.agent,
            _ => false,
        };
        let id = match &event {
            Event::OpEnded(id, _) if of_agent(&self.state, id) => id.clone(),
            _ => return self.happened(event).await.map(|()| None),
        };
        self.hold(true).await?;
        self.happened(event).await?;
        if of_agent(&self.state, &id) {
            self.hold(self.held.is_some()).await?;
            return Ok(None);
        }
        Ok(Some(Ended::Replaced))
    }

    async fn hold(&mut self, held: bool) -> Result<(), AgentError> {
        let effects = self.state.handle(Event::Held(held), &self.clock.now());
        self.apply(effects).await
    }

    /// Ends what runs beside the loop: the process may live on, and the folder is another's from now on.
    async fn let_go(&mut self) {
        self.worker.end().await;
        if let Some(renewing) = self.renewing.take() {
            renewing.abort();
            let _ = renewing.await;
        }
        if let Some(measuring) = self.measuring.take() {
            measuring.abort();
            let _ = measuring.await;
        }
    }

    /// Writes the record of an attempt; false if the disk is full.
    async fn write(&mut self, id: &AttemptId) -> Result<bool, AgentError> {
        let Some(record) = self.state.record(id).cloned() else { return Ok(true) };
        match self.with_journal(move |journal| journal.write(&record)).await {
            Ok(()) => Ok(true),
            Err(e @ JournalError::Full { .. }) => {
                self.disk_is_full(e.to_string());
                self.problem = self.full.clone();
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn with_journal<T: Send + 'static, W>(&self, work: W) -> impl Future<Output = Result<T, JournalError>> + Send + use<T, W>
    where
        W: FnOnce(&mut Box<dyn Journal>) -> Result<T, JournalError> + Send + 'static,
    {
        let journal = self.journal.clone();
        async move {
            let done = tokio::task::spawn_blocking(move || work(&mut journal.lock().unwrap_or_else(PoisonError::into_inner))).await;
            done.unwrap_or_else(|e| Err(JournalError::Broken { doing: "use", path: "attempts".into(), source: std::io::Error::other(e) }))
        }
    }

    pub(super) fn send(&mut self, message: Up) {
        let Some(up) = &self.up else { return };
        if up.outbox.try_send(v1::ConnectRequest { message: Some(message) }).is_err() {
            // What was not sent is said again on the next connection.
            self.reconnect();
        }
    }

    pub(super) fn reconnect(&mut self) {
        self.down();
        let number = (self.random)();
        self.commands.send_modify(|command| *command = LinkCommand::Reconnect(number));
    }

    fn down(&mut self) {
        self.up = None;
        self.connection.send_replace(None);
        self.sent.clear();
    }

    /// Tells the manager where every attempt is, when that changed; bytes at most every second.
    fn tell_progress(&mut self) {
        if self.up.is_none() {
            return;
        }
        let now = self.clock.now();
        for (id, progress) in self.state.progress(&now) {
            let due = match self.sent.get(&id) {
                None => progress.state != sutler_base::state::ExecutionState::Offered,
                Some((last, at)) => {
                    let same = (last.state, last.wait, last.item, &last.step, &last.user)
                        == (progress.state, progress.wait, progress.item, &progress.step, &progress.user);
                    !same || (last.bytes != progress.bytes && now.boot.saturating_sub(*at) >= PROGRESS_EVERY)
                }
            };
            if due {
                self.send(wire::progress(&id, &progress, &now));
                self.sent.insert(id, (progress, now.boot));
            }
        }
    }

    async fn link_event(&mut self, event: LinkEvent) -> Result<Option<Ended>, AgentError> {
        match event {
            LinkEvent::HelloWanted(answer) => {
                // Not answered, the link tries again later.
                if let Some(hello) = self.hello().await? {
                    let _ = answer.send(hello);
                }
            }
            LinkEvent::Up { welcome, outbox, connection, address } => self.welcome(welcome, Link { outbox, connection, address }).await?,
            LinkEvent::Message(message) => {
                let noted = self.heard.now(self.clock.now().wall);
                self.unless_full(noted)?;
                return self.message(message).await;
            }
            // Its answer to the goodbye was lost, with the connection or with the agent.
            LinkEvent::Down(LinkError::Refused { reason, .. }) if reason == REMOVED && self.asked_to_leave() => {
                return self.left().map(Some);
            }
            LinkEvent::Down(error) => {
                let quiet = self.problem.as_deref() == Some(error.to_string().as_str());
                match &error {
                    _ if quiet => debug!("{error}"),
                    LinkError::Refused { .. } => warn!("{error}"),
                    _ => info!("{error}"),
                }
                self.problem = Some(error.to_string());
                self.down();
                self.happened(Event::Disconnected).await?;
            }
        }
        Ok(None)
    }

    /// What to say first; none while the disk is so full that the session can't be counted.
    async fn hello(&mut self) -> Result<Option<v1::Hello>, AgentError> {
        let mut session = self.identity.next_session();
        if session.as_ref().is_err_and(VaultError::is_full) {
            // A failure has to reach the manager, and be it that the disk is full.
            self.with_journal(|journal| {
                journal.make_room();
                Ok(())
            })
            .await?;
            session = self.identity.next_session();
        }
        let Some(session_counter) = self.unless_full(session)? else { return Ok(None) };
        let progress: HashMap<AttemptId, Progress> = self.state.progress(&self.clock.now()).into_iter().collect();
        let open = self.state.records().filter(|r| r.stage != Stage::Canceled).map(|r| wire::open_attempt(r, progress.get(r.id())));
        Ok(Some(v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            capabilities: [REPORT_AGAIN, QUESTIONS, TIMES, CHECKS, PREFETCH, INVENTORY, ANNOUNCEMENTS, BOOTS, SHELF]
                .map(str::to_owned)
                .to_vec(),
            questions_digest: self.questions.digest(),
            shelf_digest: self.shelf.digest(),
            trust_version: self.identity.publishers().map_or(0, |t| t.version()),
            revocations_epoch: self.identity.revocations().map_or(0, |r| r.epoch()),
            revocations_version: self.identity.revocations().map_or(0, |r| r.version()),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            site: self.identity.site(),
            machine_id: self.facts_of.0.clone(),
            boot_id: self.facts_of.1.clone(),
            open_attempts: open.collect(),
            session_counter,
            facts_digest: bytes::Bytes::copy_from_slice(self.report.digest().as_bytes()),
            journal_lost: self.journal_lost,
            agent_time: Some(wire_time(self.clock.now().wall)),
        }))
    }

    async fn welcome(&mut self, welcome: v1::Welcome, link: Link) -> Result<(), AgentError> {
        let now = self.clock.now();
        let kept = self.identity.set_addresses(&welcome.addresses, Some(&welcome.site));
        self.unless_full(kept)?;
        let before = self.client_state;
        self.client_state = ClientState::from_wire(welcome.state).ok().flatten();
        let let_in = before.is_some_and(|state| state != ClientState::Active) && self.client_state == Some(ClientState::Active);
        let noted = self.heard.now(now.wall);
        self.unless_full(noted)?;
        self.problem = None;
        let server = welcome.server_time.as_ref().and_then(|t| time(t).ok());
        self.manager_time.learned(server, now.boot);
        self.skew = server.map(|s| now.wall.as_second() - s.as_second());
        if welcome.renew_certificate {
            // Another machine may have the key that it has: the next one is its own.
            self.renew_at = Some(now.boot);
        } else {
            self.plan_renewal(server.unwrap_or(now.wall), now.boot);
        }
        self.connection.send_replace(Some(link.connection.clone()));
        self.up = Some(link);
        self.sent.clear();
        if self.journal_lost {
            match self.with_journal(|journal| journal.settle()).await {
                Ok(()) => self.journal_lost = false,
                // Told once more at the next connection.
                Err(e @ JournalError::Full { .. }) => self.disk_is_full(e.to_string()),
                Err(e) => return Err(e.into()),
            }
        }
        // It may have changed since the hello, which the manager compared.
        let theirs = Digest::try_from(welcome.facts_digest.as_ref()).ok();
        if welcome.send_facts || theirs.is_some() {
            self.tell_facts(theirs)?;
        }
        for request in self.requests.all().to_vec() {
            if let Some(message) = request.to_wire().message {
                self.send(message);
            }
        }
        self.happened(Event::Connected(wire::attempts(&welcome.unknown_attempts))).await?;
        if let Ok(first) = welcome.report_from.parse() {
            self.report_again(first).await?;
        }
        if let Some(id) = self.on_trial.take() {
            info!(attempt = %id, "the new agent has reached the manager: it takes the place of the old one");
            self.happened(Event::OpEnded(id, OpReport::Done)).await?;
        }
        if let_in {
            // What it was not given it may have now.
            self.happened(Event::RunNow(vec![])).await?;
        }
        Ok(())
    }

    /// The manager was restored from a backup: tells it what it had been told before, in the order in which it happened, and
    /// that this is all.
    async fn report_again(&mut self, first: AttemptId) -> Result<(), AgentError> {
        let answers = self.with_journal(move |journal| Ok(journal.answers_from(&first))).await?;
        let Some(outbox) = self.up.as_ref().map(|up| up.outbox.clone()) else { return Ok(()) };
        info!(outcomes = answers.len(), "the manager was restored from a backup and is told again what happened since");
        // Beside the loop: there may be more of them than the outbox takes at once.
        tokio::spawn(async move {
            let outcomes = answers.iter().filter_map(outcome_of);
            for message in outcomes.chain([Up::CaughtUp(v1::CaughtUp {})]) {
                if outbox.send(v1::ConnectRequest { message: Some(message) }).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    async fn message(&mut self, message: Down) -> Result<Option<Ended>, AgentError> {
        match message {
            Down::Offer(offer) => self.offered(&offer).await?,
            Down::Lease(lease) => self.happened(Event::Leased(wire::attempts(&lease.attempts), lease.seconds)).await?,
            Down::Times(told) => self.timed(&told).await?,
            Down::Cancel(cancel) => {
                for id in wire::attempts(&[cancel.attempt]) {
                    self.happened(Event::CancelAsked(id)).await?;
                }
            }
            Down::OutcomeRecorded(recorded) => {
                if !recorded.refused.is_empty() {
                    warn!(attempt = recorded.attempt, "the manager keeps another outcome: {}", recorded.refused);
                }
                for id in wire::attempts(&[recorded.attempt]) {
                    self.happened(Event::Recorded(id)).await?;
                }
            }
            Down::Group(result) => self.group_answered(result)?,
            Down::Questions(questions) => {
                let kept = self.questions.is_told(&questions);
                self.unless_full(kept)?;
            }
            Down::Check(check) => {
                // While something is installed nobody can tell; it is asked again.
                if !self.state.records().any(|r| matches!(r.stage, Stage::Installing(_))) {
                    match wire::checked(&check) {
                        Ok(items) => self.worker.check(check.job, items),
                        Err(e) => warn!("cannot read what the manager asks about: {}", e.0),
                    }
                }
            }
            Down::Shelf(shelf) => {
                let kept = self.shelf.is_told(&shelf);
                self.unless_full(kept)?;
            }
            Down::Chosen(result) => self.answered(&result.request_id, result.error, Vec::new())?,
            Down::Answered(result) => self.answered(&result.request_id, result.error, Vec::new())?,
            Down::StateChanged(changed) => {
                self.client_state = ClientState::from_wire(changed.state).ok().flatten();
                info!(state = self.client_state.map(ClientState::as_str), "the client's state has changed");
                if self.client_state == Some(ClientState::Active) {
                    // What it was not given meanwhile it may have now.
                    self.happened(Event::RunNow(vec![])).await?;
                }
            }
            Down::SendFacts(_) => self.tell_facts(None)?,
            Down::Trust(update) => self.trust_update(update)?,
            Down::RunNow(run) => self.happened(Event::RunNow(wire::attempts(&run.attempts))).await?,
            Down::Redirect(redirect) => {
                info!(addresses = ?redirect.addresses, "the manager is elsewhere from now on");
                let kept = self.identity.set_addresses(&redirect.addresses, None);
                self.unless_full(kept)?;
                self.reconnect();
            }
            Down::Unenrolled(_) => return self.left().map(Some),
            // Only the first message is one.
            Down::Welcome(_) => {}
        }
        Ok(None)
    }

    fn asked_to_leave(&self) -> bool {
        self.requests.all().iter().any(|request| request.action == Asked::Unenroll)
    }

    /// The manager has let this machine go: nothing of the client that it was stays, but the marks.
    fn left(&mut self) -> Result<Ended, AgentError> {
        // The identity first: an agent that is killed in between is enrolled no more, and a new enrolment begins without requests.
        Identity::forget(&*self.vault)?;
        self.vault.remove(super::QUESTIONS)?;
        self.vault.remove(super::SHELF)?;
        for request in self.requests.all().to_vec() {
            self.requests.remove(&request.id)?;
            if request.action == Asked::Unenroll
                && let Some(waiter) = self.waiters.remove(&request.id)
            {
                let _ = waiter.send(Answer::Done { groups: vec![] });
            }
        }
        Ok(Ended::Unenrolled)
    }

    /// Takes what the manager hands on from the publishers, if it is theirs: who hands it on does not matter.
    fn trust_update(&mut self, update: v1::TrustUpdate) -> Result<(), AgentError> {
        use v1::trust_update::Update;
        let (what, taken) = match update.update {
            Some(Update::Document(document)) => ("trust document", self.identity.take_trust(&document)),
            Some(Update::Revocations(list)) => ("revocation list", self.identity.take_revocations(&list)),
            None => return Ok(()),
        };
        match taken {
            Ok(new) => {
                if new {
                    info!("a new {what} of the publishers is in force");
                }
                self.trust_problem = None;
            }
            // Nothing has changed: what is held stays in force, and the manager sends it again at the next connection.
            Err(TrustRefused::Vault(e)) => self.unless_full(Err(e)).map(|_: Option<()>| ())?,
            Err(e) => {
                warn!("a {what} from the manager is refused: {e}");
                self.trust_problem = Some(format!("a {what} from the manager was refused: {e}"));
            }
        }
        Ok(())
    }

    async fn offered(&mut self, wire_offer: &v1::Offer) -> Result<(), AgentError> {
        let (mut offer, lease) = match wire::offer(wire_offer, &self.clock.now()) {
            Ok(offer) => offer,
            Err(e) => {
                warn!("an offer can't be read: {e}");
                return Ok(());
            }
        };
        offer.expire = offer.expire.map(|at| self.here(at));
        if let Some(announcement) = &mut offer.announcement {
            announcement.deadline = announcement.deadline.map(|at| self.here(at));
        }
        let id = offer.attempt.clone();
        let asked = id.clone();
        let over = match self.with_journal(move |journal| Ok(journal.answer(&asked))).await? {
            Answered::No => None,
            Answered::Yes(record) => Some(*record),
            Answered::Damaged => {
                warn!(attempt = %id, "it is over, but its file in the journal is damaged: it counts as interrupted");
                let record = super::interrupted(&self.identity, &id, &self.clock)?;
                let kept = record.clone();
                self.with_journal(move |journal| journal.retire(&kept)).await?;
                Some(record)
            }
        };
        if let Some(over) = over {
            // It is over, whoever offers it: the answer is what became of it, never another run.
            match outcome_of(&over) {
                Some(outcome) => self.send(outcome),
                None => self.send(Up::CancelAcknowledged(v1::CancelAcknowledged {
                    attempt: id.to_string(),
                    started: false,
                    nothing_follows: false,
                })),
            }
            return Ok(());
        }
        debug!(attempt = %id, job = offer.job, "offered");
        wire_offer.items.iter().for_each(|item| self.worker.hand(&item.manifest));
        self.happened(Event::Offered(offer, lease)).await
    }

    /// A moment of the manager's clock, by this machine's: the schedule is the manager's.
    fn here(&self, at: Timestamp) -> Timestamp {
        at.checked_add(jiff::SignedDuration::from_secs(self.skew.unwrap_or(0))).unwrap_or(at)
    }

    /// Takes in when an attempt may be begun, and from when on it is not put off.
    async fn timed(&mut self, told: &v1::AttemptTimes) -> Result<(), AgentError> {
        let times = match told.times.as_ref().map(|times| wire::times(times, &self.clock.now())).transpose() {
            Ok(times) => times,
            Err(e) => {
                warn!(attempt = told.attempt, "when it may be begun can't be read: {e}");
                return Ok(());
            }
        };
        let deadline = match told.deadline.as_ref().map(|told| told.time.as_ref().map(time).transpose()).transpose() {
            Ok(deadline) => deadline.map(|at| at.map(|at| self.here(at))),
            Err(e) => {
                warn!(attempt = told.attempt, "its deadline can't be read: {e}");
                None
            }
        };
        for id in wire::attempts(std::slice::from_ref(&told.attempt)) {
            self.happened(Event::Timed(id.clone(), times.clone())).await?;
            if let Some(deadline) = deadline {
                self.happened(Event::Deadline(id, deadline)).await?;
            }
        }
        Ok(())
    }

    async fn look_around(&mut self) -> Result<(), AgentError> {
        self.look_at_policy().await?;
        let now = self.clock.now();
        self.looked_at = now.boot;
        for (id, write) in std::mem::take(&mut self.unwritten) {
            self.apply(vec![Effect::Journal(id, write)]).await?;
        }
        self.look_at_disk().await?;
        if self.garbage && self.state.records().next().is_none() {
            self.garbage = false;
            self.worker.collect_garbage(self.state.records());
        }
        self.worker.drop_overdue();
        if now.boot >= self.facts_due {
            self.measure();
        }
        if let (Some(at), Some(up), None) = (self.renew_at, &self.up, &self.renewing)
            && at <= now.boot
        {
            let (identity, connection) = (self.identity.clone(), up.connection.clone());
            self.renewing = Some(tokio::spawn(async move { link::renew(&identity, &connection).await }));
        }
        self.happened(Event::Tick).await
    }

    /// A full disk is no reason to end: what was not kept is said or asked again.
    pub(super) fn unless_full<T>(&mut self, result: Result<T, VaultError>) -> Result<Option<T>, AgentError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_full() => {
                self.disk_is_full(format!("the disk is full; make room: {e}"));
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn disk_is_full(&mut self, why: String) {
        if self.full.is_none() {
            warn!("{why}");
            self.full = Some(why);
        }
    }

    /// A disk that was full has room again once all is written that waited for it, and what was given free for that is kept again.
    async fn look_at_disk(&mut self) -> Result<(), AgentError> {
        if self.full.is_none() || !self.unwritten.is_empty() || !self.with_journal(|journal| Ok(journal.keep_room())).await? {
            return Ok(());
        }
        info!("the disk has room again: what was put off goes on");
        if self.problem == self.full {
            self.problem = None;
        }
        self.full = None;
        Ok(())
    }

    /// Keeps which packages want the machine restarted, and has that told.
    fn note_restart(&mut self, id: &AttemptId) -> Result<(), AgentError> {
        let now = self.clock.now();
        let Some(record) = self.state.record(id) else { return Ok(()) };
        let names: Vec<String> = record.restart_by(&now).map(ToString::to_string).collect();
        for name in names {
            let noted = self.restarts.note(&now.boot_id, name);
            if self.unless_full(noted)? == Some(true) {
                self.measure();
            }
        }
        Ok(())
    }

    /// Measures the machine anew, beside the loop.
    fn measure(&mut self) {
        if self.measuring.is_some() {
            self.measure_again = true;
            return;
        }
        let (installer, software) = (self.installer.clone(), as_facts(&self.worker.installed()));
        self.measuring = Some(tokio::spawn(async move { installer.facts(software).await }));
    }

    async fn measured(&mut self, facts: Result<Facts, Trouble>) -> Result<(), AgentError> {
        self.measuring = None;
        self.facts_due = self.clock.now().boot + self.limits.next_facts((self.random)());
        let next = std::mem::take(&mut self.inventories.1);
        let asked = std::mem::replace(&mut self.inventories.0, next);
        if std::mem::take(&mut self.measure_again) {
            self.measure();
        }
        let done = facts.is_ok();
        match facts {
            Ok(mut facts) => {
                self.restarts.add_to(&mut facts);
                if self.report.measured(&facts) && self.up.is_some() {
                    self.tell_facts(self.report.told())?;
                }
            }
            Err(Trouble::Failed(failure)) => warn!("the facts can't be collected: {}", failure.message),
            Err(Trouble::Fatal(why)) => return Err(AgentError::Fatal(why)),
        }
        for attempt in asked {
            self.happened(Event::Measured(attempt, done)).await?;
        }
        Ok(())
    }

    /// Tells a manager that has the facts with this digest what changed since, or everything.
    fn tell_facts(&mut self, theirs: Option<Digest>) -> Result<(), AgentError> {
        if let Some(report) = self.report.to(theirs) {
            debug!(bytes = report.json.len(), all = report.base.is_empty(), "the facts are reported");
            self.send(Up::Facts(report));
        }
        let kept = self.report.is_told();
        self.unless_full(kept).map(|_| ())
    }

    /// When to renew, counted from the manager's time.
    fn plan_renewal(&mut self, server: Timestamp, boot: Duration) {
        let Ok(certificate) = self.identity.certificate() else { return };
        let left = Identity::renew_at(&certificate, (self.random)()).duration_since(server);
        self.renew_at = Some(boot + Duration::try_from(left).unwrap_or_default());
    }

    fn renewed(&mut self, result: Result<(), String>) {
        self.renewing = None;
        match result {
            Ok(()) => {
                info!("the certificate was renewed; connecting with the new one");
                self.renew_at = None;
                self.reconnect();
            }
            Err(e) => {
                let certificate = self.identity.certificate().ok();
                let life = certificate.map_or(3600, |c| (c.not_after.as_second() - c.not_before.as_second()).max(20) as u64);
                let again = Duration::from_secs((life / 50).clamp(1, 3600));
                warn!("the certificate could not be renewed: {e}; tried again in {} s", again.as_secs());
                self.renew_at = Some(self.clock.now().boot + again);
            }
        }
    }
}

/// Whether the machine may be restarted for a job: its rules allow it, and it is said how.
pub(super) fn may_restart(rules: &Result<LocalPolicy, String>, programs: &Programs) -> bool {
    !programs.reboot.is_empty() && rules.as_ref().is_ok_and(|rules| rules.allow_reboot)
}

/// The message that reports an attempt's outcome; none if it has none.
fn outcome_of(record: &Record) -> Option<Up> {
    match &record.stage {
        Stage::Finished { outcome, signature } => Some(Up::Outcome(v1::AttemptOutcome {
            attempt: record.id().to_string(),
            outcome: outcome.clone().into(),
            signature: signature.clone().into(),
            job: record.offer.job.clone(),
            revision: record.offer.revision,
            purpose: record.offer.purpose.clone(),
        })),
        _ => None,
    }
}
