//! The running agent: one loop that takes what happens, asks the machine what follows, and does that in order.
//!
//! Everything that it needs of the world is passed in ([`Deps`]), so that a test runs a hundred of them in one process.

mod asked;
mod handle;
mod heard;
mod questions;
mod report;
mod requests;
mod restarts;
mod run;
mod shelf;
mod user;
mod wire;

pub use handle::{Answer, AttemptStatus, Gone, Handle, InstalledStatus, Status};

pub(crate) use questions::FILE as QUESTIONS;
pub use questions::Question;
pub(crate) use requests::FILE as REQUESTS;
pub use requests::{Asked, REQUESTS_MAX, Request};
pub use shelf::Available;
pub(crate) use shelf::FILE as SHELF;
pub(crate) use user::span;
pub use user::{Announcement, Programs};

use crate::{
    clock::Clock,
    identity::{Identity, IdentityError},
    installer::{Installer, Trouble},
    journal::{Journal, JournalError},
    limits::Limits,
    link::{self, LinkCommand, ManagerTime},
    machine::{Allowed, Offer, Record, Stage, State},
    policy::Policy,
    vault::{Vault, VaultError},
    work::{Parts, Worker, as_facts},
};
use heard::Heard;
use questions::Questions;
use report::Report;
use requests::Requests;
use restarts::Restarts;
use run::Loop;
use shelf::Shelf;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};
use sutler_base::{
    AttemptId,
    outcome::Outcome,
    state::{ExecutionState, Timing},
};
use tokio::sync::{mpsc, watch};

/// What an agent needs of the world.
pub struct Deps {
    /// Where it keeps its identity and other small files. Enrolled already.
    pub vault: Arc<dyn Vault>,
    /// Where it keeps what it took on.
    pub journal: Box<dyn Journal>,
    /// What it installs with.
    pub installer: Arc<dyn Installer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness: for jitter and the ids of requests; nothing secret comes from it.
    pub random: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What the machine's own administrator allows.
    pub policy: Policy,
    /// How long the connection waits for what.
    pub limits: Limits,
    /// What it calls on this machine.
    pub programs: Programs,
    /// How it stands with a new agent that was to be tried.
    pub trial: Trial,
}

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no identity to work with.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Nobody can say any more what is on the disk, or nothing can be signed.
    #[error("{0}")]
    Fatal(String),
}

/// How an agent ended without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The machine has left its manager.
    Unenrolled,
    /// A new agent is staged at this path: it is to be tried, and this folder is to be left to it as long as that takes.
    Handover(PathBuf),
    /// The installation of a new agent has ended: what lies in this one's place by now may be another, and is to run then.
    Replaced,
}

/// What is known of the trial of a new agent that stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// Nothing: whoever began it was killed, or the machine went away.
    Unknown,
    /// It failed: why, and what the new agent said at last.
    Failed(String, String),
    /// This agent is the new one. It has passed when the manager has welcomed it.
    Running,
}

/// An agent that is ready to run.
pub struct Agent {
    inner: Loop,
}

impl Agent {
    /// Loads what it knows and picks up what it had begun. Nothing is started and nobody is contacted before [`Agent::run`].
    pub async fn new(deps: Deps) -> Result<(Agent, Handle), AgentError> {
        let Deps { vault, mut journal, installer, clock, random, policy, limits, programs, trial } = deps;
        let identity = Arc::new(Identity::load(vault.clone())?);
        let loaded = journal.load()?;
        let mut records = loaded.records;
        for attempt in loaded.damaged {
            tracing::warn!(%attempt, "its file in the journal is damaged: it counts as interrupted");
            let record = interrupted(&identity, &attempt, &clock)?;
            journal.write(&record)?;
            records.push(record);
        }
        if loaded.lost {
            tracing::warn!("the journal was lost: what had been accepted can't be known, and the manager is told so");
        }
        let (told_sender, told) = mpsc::unbounded_channel();
        let (connection_sender, connection) = watch::channel(None);
        let mut worker = Worker::new(Parts {
            identity: identity.clone(),
            installer: installer.clone(),
            clock: clock.clone(),
            policy: policy.clone(),
            platform: (std::env::consts::OS.into(), std::env::consts::ARCH.into()),
            vault: vault.clone(),
            connection,
            told: told_sender,
        })?;
        loaded.retired.iter().for_each(|record| worker.forget(record));
        let restarts = Restarts::load(vault.clone())?;
        let mut facts = match installer.facts(as_facts(&worker.installed())).await {
            Ok(facts) => facts,
            // Without the machine's id it would be taken for a copy of itself.
            Err(Trouble::Failed(failure)) => return Err(AgentError::Fatal(format!("the facts can't be collected: {}", failure.message))),
            Err(Trouble::Fatal(why)) => return Err(AgentError::Fatal(why)),
        };
        restarts.add_to(&mut facts);
        let now = clock.now();
        let rules = policy.read();
        let may_restart = run::may_restart(&rules, &programs);
        let held = rules.map_or_else(Some, |p| p.hold.then(String::new));
        let allowed = Allowed { held: held.is_some(), may_restart };
        let (state, effects) = State::recover(identity.client().clone(), records, allowed, random(), &now);
        let (asks_sender, asks) = mpsc::channel(16);
        let (events_sender, events) = mpsc::channel(64);
        let (commands, commands_receiver) = watch::channel(LinkCommand::Stay);
        let random_for_link = random.clone();
        let manager_time = ManagerTime::new(clock.clone());
        let link =
            link::keep(identity.clone(), manager_time.clone(), limits.clone(), move || random_for_link(), events_sender, commands_receiver);
        let report = Report::new(vault.clone(), &facts)?;
        let facts_due = now.boot + limits.next_facts(random());
        let inner = Loop {
            state,
            first: effects,
            journal: Arc::new(Mutex::new(journal)),
            journal_lost: loaded.lost,
            unwritten: Vec::new(),
            full: None,
            requests: Requests::load(vault.clone())?,
            questions: Questions::load(vault.clone())?,
            shelf: Shelf::load(vault.clone())?,
            restarts,
            trust_problem: None,
            heard: Heard::load(vault.clone()),
            vault,
            identity,
            installer,
            clock,
            random,
            worker,
            policy,
            programs,
            may_restart,
            shutdown: Vec::new(),
            held,
            told,
            asks,
            events,
            link: Box::pin(link),
            commands,
            connection: connection_sender,
            up: None,
            sent: Default::default(),
            logs_sent: Default::default(),
            logs_turn: Default::default(),
            report,
            facts_of: (facts.machine_id, facts.boot_id),
            facts_due,
            limits,
            measuring: None,
            measure_again: false,
            inventories: Default::default(),
            looked_at: now.boot,
            waiters: Default::default(),
            groups: None,
            client_state: None,
            problem: None,
            skew: None,
            manager_time,
            renew_at: None,
            renewing: None,
            garbage: true,
            trial,
            on_trial: None,
        };
        Ok((Agent { inner }, Handle { asks: asks_sender }))
    }

    /// Runs until it is stopped, the machine has left, or nothing can be trusted any more. Dropping the future is like
    /// killing the agent: steps go on under their supervisors, and the next one picks them up.
    pub async fn run(self) -> Result<Ended, AgentError> {
        self.inner.run().await
    }
}

/// A record for an attempt of which nothing but the id is left.
fn interrupted(identity: &Identity, attempt: &AttemptId, clock: &Arc<dyn Clock>) -> Result<Record, AgentError> {
    let now = clock.now().wall;
    let outcome = Outcome {
        attempt: attempt.clone(),
        client: identity.client().clone(),
        state: ExecutionState::Interrupted,
        items: Vec::new(),
        finished: now,
    };
    let outcome = outcome.to_bytes();
    let signature = identity.sign_outcome(&outcome).map_err(|e| AgentError::Fatal(e.to_string()))?;
    let offer = Offer {
        attempt: attempt.clone(),
        job: String::new(),
        revision: 0,
        items: Vec::new(),
        inventory: false,
        expire: None,
        continue_on_failure: false,
        priority: 5,
        times: None,
        announcement: None,
        timing: Timing::Now,
        restart: false,
        purpose: String::new(),
    };
    Ok(Record { started: true, stage: Stage::Finished { outcome, signature }, ..Record::new(offer, now) })
}
