//! What the manager does: each function here is a unit of work. It loads, asks `core` to decide, saves, and appends to the
//! audit log; all of it is committed, or none. No SQL and no wire format here.
//!
//! A unit says whom to wake in its [`Env`]; they are woken after the commit. A wake-up that is lost costs time and nothing
//! else: what is to be done stands in the database.

pub mod approvals;
pub mod archive;
pub mod audit;
pub mod brakes;
pub mod clients;
mod conditions;
pub mod configuration;
pub mod content;
pub mod deltas;
pub mod destinations;
pub mod dispatch;
pub mod enrolment;
mod error;
pub mod events;
pub mod executions;
pub mod explain;
pub mod groups;
pub mod hooks;
pub mod inventory;
pub mod jobs;
pub mod keeping;
pub mod leaving;
pub mod logs;
pub mod membership;
pub mod occurrences;
pub mod operators;
pub mod outcomes;
pub mod packages;
pub mod planned;
pub mod policies;
pub mod questions;
pub mod reached;
pub mod reconcile;
pub mod relations;
pub mod restored;
pub mod revise;
pub mod rollback;
pub mod rollouts;
pub mod schedule;
pub mod sessions;
pub mod shelf;
pub mod tokens;
pub mod transfers;
pub mod trust;
pub mod windows;

pub use conditions::Conditions;
pub use error::{AppError, Violation, Violations, disk_failed};
pub use operators::Standing;

use crate::{
    config::Limits,
    live::Live,
    reserve::{Reserve, is_essential},
    telemetry::Metrics,
    world::World,
};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use sutler_base::{ClientId, Digest, JobId, Timestamp, Uid, state::Presence};
use sutler_certs::ca::CaBundle;
use sutler_content::Content;
use sutler_core::{
    model::{AuditEntry, Client},
    rights::Reach,
};
use sutler_store::{Answer, Store, StoreError, Tx, Work, unit};
use tokio::sync::Semaphore;

/// What a unit of work gives.
pub type Result<T> = std::result::Result<T, AppError>;

/// What does not change while the manager runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The trust domain that certificates name.
    pub trust_domain: String,
    /// The site that this installation is.
    pub site: Uid,
    /// Where agents connect, `host:port`, in the order to try; goes into tokens and to agents.
    pub addresses: Vec<String>,
    /// The bounds that can be configured.
    pub limits: Limits,
    /// A client that comes back after its certificate ended is `PENDING` until an operator approves.
    pub expired_agents_need_approval: bool,
    /// The database was restored from a backup: of what happened since, agents know more than it.
    pub restored: Option<restored::Restored>,
}

impl Settings {
    /// How long a lease lasts that nobody renews (seconds).
    pub fn lease_seconds(&self) -> u32 {
        u32::try_from(self.limits.lease.as_secs()).unwrap_or(u32::MAX)
    }
}

/// Places for clients that ask the database something: fewer than it has connections, so that operators, and the manager itself,
/// don't stand in one line with a fleet that comes back.
#[derive(Debug)]
pub struct Crowd(Semaphore);

impl Default for Crowd {
    fn default() -> Self {
        Crowd(Semaphore::new(sutler_store::CONNECTIONS as usize - 2))
    }
}

/// The manager: everything that units of work need.
pub struct App {
    /// The database.
    pub store: Store,
    /// The bytes of packages.
    pub content: Content,
    /// Time and randomness.
    pub world: World,
    /// What does not change.
    pub settings: Settings,
    /// Who issues certificates.
    pub ca: Arc<ArcSwap<CaBundle>>,
    /// The manager's figures.
    pub metrics: Arc<Metrics>,
    /// Sessions of agents, and whoever watches.
    pub live: Arc<Live>,
    /// Conditions that were compiled before.
    pub conditions: Arc<Conditions>,
    /// How many questions of clients are answered from the database at the same time.
    pub crowd: Crowd,
    /// Which refusals get an entry in the audit log.
    pub refusals: Arc<audit::Refusals>,
    /// Room on the disk for what must go on when it is full.
    pub reserve: Arc<Reserve>,
    /// How far the scrub of stored bytes is.
    pub scrub: content::Scrub,
    /// Where the manager's own certificate lies.
    pub server: PathBuf,
}

/// Who asks, and how far that reaches.
#[derive(Debug, Clone)]
pub struct Who {
    /// `operators/NAME`, `clients/ID`, `tokens/ID` or `manager`.
    pub actor: String,
    /// The jobs that are reached; what lies outside does not exist for the one who asks.
    pub reach: Reach,
    /// As what an operator was let in: whatever is changed for it is changed only while that holds.
    pub standing: Option<Standing>,
}

/// The manager itself, a client or a token: none of them has a scope.
impl From<&str> for Who {
    fn from(actor: &str) -> Who {
        Who { actor: actor.to_owned(), reach: Reach::Everywhere, standing: None }
    }
}

impl From<&String> for Who {
    fn from(actor: &String) -> Who {
        actor.as_str().into()
    }
}

/// Who asks for a change.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub who: Who,
    /// The id that makes the call idempotent; empty if it has none.
    pub request_id: String,
    /// What goes for it if it may reach a large share of the fleet; none where it can't.
    pub watched: Option<approvals::Watched>,
}

/// Who is to be woken after the commit.
#[derive(Debug, Default)]
pub struct Wakes {
    /// Clients for whom something may be to do.
    pub clients: BTreeSet<ClientId>,
    /// Clients whose waiting attempts may go at once.
    pub run_now: BTreeSet<ClientId>,
    /// Clients whose right to be connected may have changed.
    pub access: BTreeSet<ClientId>,
    /// Jobs whose rows or counters changed.
    pub jobs: BTreeSet<JobId>,
    /// Whether there are events that nobody was told of.
    pub events: bool,
    /// Whether brakes were put on or taken off.
    pub brakes: bool,
    /// Whether deltas were asked for.
    pub deltas: bool,
}

impl Wakes {
    /// Whether nobody is to be woken.
    pub fn is_empty(&self) -> bool {
        let Wakes { clients, run_now, access, jobs, events, brakes, deltas } = self;
        let nobody = clients.is_empty() && run_now.is_empty() && access.is_empty() && jobs.is_empty();
        nobody && !events && !brakes && !deltas
    }
}

/// What a unit of work is told: who, when, with which ids; and what it asks to be done after the commit.
#[derive(Clone)]
pub struct Env {
    /// Who asked.
    pub actor: String,
    /// The jobs that the one who asked reaches.
    pub reach: Reach,
    /// As what the operator who asked was let in.
    pub standing: Option<Standing>,
    /// When the unit was begun. The same if it has to be run again.
    pub now: Timestamp,
    /// The same on a clock that nobody sets.
    pub steady: Duration,
    /// Ids and secrets.
    pub world: World,
    /// What does not change.
    pub settings: Settings,
    /// Conditions that were compiled before.
    pub conditions: Arc<Conditions>,
    /// Which refusals get an entry in the audit log.
    pub refusals: Arc<audit::Refusals>,
    /// Who is connected.
    pub live: Arc<Live>,
    wakes: Arc<Mutex<Wakes>>,
    reached: Arc<Mutex<reached::Reached>>,
}

impl Env {
    /// Whom this unit of work has brought within reach of jobs.
    pub fn reached(&self) -> MutexGuard<'_, reached::Reached> {
        self.reached.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The same unit of work, as if this operator had asked for it who reaches so far.
    pub fn on_behalf_of(&self, actor: &str, reach: Reach) -> Env {
        Env { actor: actor.to_owned(), reach, standing: None, reached: Arc::default(), ..self.clone() }
    }

    /// Whom to wake.
    pub fn wakes(&self) -> MutexGuard<'_, Wakes> {
        self.wakes.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Appends to the audit log: who did `action` on `object`.
    pub async fn audit(&self, tx: &mut dyn Tx, action: &str, object: impl ToString, detail: impl ToString) -> Result<()> {
        let entry = AuditEntry {
            sequence: 0,
            time: self.now,
            actor: self.actor.clone(),
            action: action.to_owned(),
            object: object.to_string(),
            detail: detail.to_string(),
        };
        Ok(tx.audit(&entry).await?)
    }

    /// What time it is for all managers of this installation: the database's, where that is apart from them. For what one of
    /// them decides and another one acts on.
    pub async fn common_clock(&self, tx: &mut dyn Tx) -> Result<Timestamp> {
        Ok(tx.clock().await?.unwrap_or(self.now))
    }

    /// The same, and for how long it was not set ahead as far as this manager has seen.
    pub async fn even_clock(&self, tx: &mut dyn Tx) -> Result<(Timestamp, Duration)> {
        // Both clocks of one moment.
        let (clock, steady) = match tx.clock().await? {
            Some(clock) => (clock, self.world.steady()),
            None => (self.now, self.steady),
        };
        Ok((clock, self.live.even_for(clock, steady)))
    }

    /// Whether the client is in contact: with this manager, or lately with another one.
    pub fn presence(&self, client: &Client) -> Presence {
        self.live.presence(&client.id, client.last_seen, self.now, self.settings.limits.overdue)
    }

    /// The name of the operator, token or client that acts, without its collection.
    pub fn actor_name(&self) -> &str {
        self.actor.split_once('/').map_or(&self.actor, |(_, name)| name)
    }
}

/// What a unit of work came to that is undone in any case.
struct Undone<T>(Result<T>);

impl<T> From<Result<T>> for Undone<T> {
    fn from(out: Result<T>) -> Undone<T> {
        Undone(out)
    }
}

impl<T> From<StoreError> for Undone<T> {
    fn from(error: StoreError) -> Undone<T> {
        Undone(Err(error.into()))
    }
}

impl App {
    /// Who issues certificates now.
    pub fn ca(&self) -> Arc<CaBundle> {
        self.ca.load_full()
    }

    /// Issues with these from now on.
    pub fn replace_ca(&self, new: Arc<CaBundle>) {
        self.ca.store(new);
    }

    /// What a unit of work of this caller is told.
    pub fn env(&self, who: Who) -> Env {
        Env {
            actor: who.actor,
            reach: who.reach,
            standing: who.standing,
            now: self.world.now(),
            steady: self.world.steady(),
            world: self.world.clone(),
            settings: self.settings.clone(),
            conditions: self.conditions.clone(),
            refusals: self.refusals.clone(),
            live: self.live.clone(),
            wakes: Arc::default(),
            reached: Arc::default(),
        }
    }

    /// Runs a change of an operator, once per `request_id`: the same id with the same `body` gives the first answer, with
    /// another body it is refused.
    ///
    /// `to_wire` makes the answer, which is kept with the change in one commit.
    pub async fn mutate<I, T, R, F>(
        &self,
        caller: &Caller,
        name: &'static str,
        body: Digest,
        input: I,
        run: F,
        to_wire: fn(T) -> R,
    ) -> Result<R>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        R: prost::Message + Default + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Env, &'a I) -> Work<'a, T, AppError> + Send + Sync + 'static,
    {
        self.room_for(name)?;
        let env = self.env(caller.who.clone());
        let (input, run, request_id) = (Arc::new(input), Arc::new(run), caller.request_id.clone());
        let watched = caller.watched.clone();
        let wakes = env.clone();
        let began = Instant::now();
        let mut again = true;
        let answer = loop {
            let answer = self
                .store
                .write(
                    name,
                    unit!(
                        [env, input, run, request_id, watched] | tx | {
                            if !request_id.is_empty()
                                && let Some((earlier, answer)) = tx.request(&env.actor, &request_id).await?
                            {
                                if earlier != body {
                                    return Err(AppError::reused_request_id());
                                }
                                operators::still_stands(tx, &env, name).await?;
                                return match answer {
                                    Answer::Done(bytes) => R::decode(bytes.as_slice())
                                        .map_err(|e| AppError::Bug(format!("the kept answer can't be read: {e}"))),
                                    Answer::Waits(id) => Err(approvals::became(tx, &id).await?),
                                };
                            }
                            env.reached().forget();
                            let out = run(tx, &env, &input).await?;
                            if let Some(watched) = &watched {
                                approvals::gate(tx, &env, watched).await?;
                            }
                            let answer = to_wire(out);
                            operators::still_stands(tx, &env, name).await?;
                            if !request_id.is_empty() {
                                let kept = Answer::Done(answer.encode_to_vec());
                                tx.put_request(&env.actor, &request_id, &body, &kept, env.now).await?;
                            }
                            Ok(answer)
                        }
                    ),
                )
                .await;
            if matches!(answer, Err(AppError::Store(StoreError::Full(_)))) && std::mem::take(&mut again) && self.is_freed_for(name) {
                continue;
            }
            break answer;
        };
        self.metrics.unit(name, answer.is_ok(), began.elapsed());
        if let (Err(AppError::ApprovalNeeded(needed)), Some(order)) = (&answer, caller.watched.as_ref().and_then(|w| w.order.clone())) {
            let input = (order, needed.clone(), caller.request_id.clone(), body);
            let asked = self.change(caller.who.clone(), "ask_approval", input, |tx, env, (order, needed, request_id, body)| {
                Box::pin(approvals::ask_once(tx, env, order, needed, (request_id, body)))
            });
            return Err(asked.await?);
        }
        let answer = answer?;
        self.wake(&wakes);
        Ok(answer)
    }

    /// Runs a change that needs no `request_id`: one that is idempotent by itself.
    pub async fn change<I, T, F>(&self, who: impl Into<Who>, name: &'static str, input: I, run: F) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Env, &'a I) -> Work<'a, T, AppError> + Send + Sync + 'static,
    {
        self.room_for(name)?;
        let env = self.env(who.into());
        let (input, run) = (Arc::new(input), Arc::new(run));
        let wakes = env.clone();
        let began = Instant::now();
        let mut again = true;
        let out = loop {
            let out = self
                .store
                .write(
                    name,
                    unit!(
                        [env, input, run] | tx | {
                            let out = run(tx, &env, &input).await?;
                            operators::still_stands(tx, &env, name).await?;
                            Ok(out)
                        }
                    ),
                )
                .await;
            if matches!(out, Err(AppError::Store(StoreError::Full(_)))) && std::mem::take(&mut again) && self.is_freed_for(name) {
                continue;
            }
            break out;
        };
        self.metrics.unit(name, out.is_ok(), began.elapsed());
        let out = out?;
        self.wake(&wakes);
        Ok(out)
    }

    /// Runs a change and undoes it: what it would come to, or why it can't be made.
    pub async fn rehearse<I, T, F>(&self, who: impl Into<Who>, name: &'static str, input: I, run: F) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Env, &'a I) -> Work<'a, T, AppError> + Send + Sync + 'static,
    {
        self.room_for(name)?;
        let env = self.env(who.into());
        let (input, run) = (Arc::new(input), Arc::new(run));
        let began = Instant::now();
        let unit = unit!([env, input, run] | tx | { Err::<std::convert::Infallible, _>(run(tx, &env, &input).await.into()) });
        let out = match self.store.write(name, unit).await {
            Ok(never) => match never {},
            Err(Undone(out)) => out,
        };
        self.metrics.unit(name, out.is_ok(), began.elapsed());
        out
    }

    /// Reads, in one snapshot.
    pub async fn view<I, T, F>(&self, who: impl Into<Who>, name: &'static str, input: I, run: F) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Env, &'a I) -> Work<'a, T, AppError> + Send + Sync + 'static,
    {
        let who = who.into();
        // Nobody closes it.
        let _turn = if who.actor.starts_with("clients/") { self.crowd.0.acquire().await.ok() } else { None };
        let env = self.env(who);
        let (input, run) = (Arc::new(input), Arc::new(run));
        self.store.read(name, unit!([env, input, run] | tx | { run(tx, &env, &input).await })).await
    }

    /// The database found the disk full: whether the reserve was given back for this unit, so that it may be tried again.
    fn is_freed_for(&self, unit: &str) -> bool {
        self.reserve.look();
        is_essential(unit) && self.reserve.is_full().is_some()
    }

    /// Refuses a unit of work that has to wait until the disk has room again.
    pub fn room_for(&self, unit: &str) -> Result<()> {
        match self.reserve.is_full().filter(|_| !is_essential(unit)) {
            None => Ok(()),
            Some(free) => Err(AppError::DiskFull(format!(
                "the manager's disk is full ({} MiB are left for revocations and renewals, and nothing else is written); make room there",
                free >> 20
            ))),
        }
    }

    fn wake(&self, env: &Env) {
        let wakes = std::mem::take(&mut *env.wakes());
        self.live.tell_others(&wakes);
        self.live.wake(wakes);
    }
}

#[cfg(test)]
mod crowd_tests;
