//! What flows to clients from here: each piece asks whether it may go, and when.
//!
//! What is asked is decided by what every manager reads anew each `limits.recheck`: the limits, the groups that are suspended, and in
//! which groups those are who read just now. A change wakes whoever waits, so that it is felt at once. Each manager keeps the limits
//! for what flows through itself: an agent is connected to one, so that a limit of each client holds exactly; one of a group or of all
//! is that of each manager.

use crate::app::{App, AppError, Wakes, transfers};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use sutler_base::{AttemptId, ClientId, Timestamp, Uid};
use sutler_core::transfer::{Bucket, Limit, PATIENCE, Scope, piece};
use tokio::sync::watch;

/// How many clients are looked at together.
const CLIENTS: usize = 500;
/// How many attempts are remembered that were refused because their client is suspended.
const REFUSED_MAX: usize = 100_000;

/// Why a piece does not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// The client is in a group whose transfers are suspended.
    Suspended,
    /// So many share a limit that its turn is too far away.
    Busy,
}

impl From<(Halt, &ClientId)> for AppError {
    fn from((halt, client): (Halt, &ClientId)) -> AppError {
        match halt {
            Halt::Suspended => {
                let message = "the transfers of a group that this client is in are suspended; it goes on when they are resumed";
                AppError::state(format!("clients/{client}"), sutler_proto::TRANSFER_SUSPENDED, message)
            }
            Halt::Busy => AppError::Exhausted {
                message: "others use up what a limit of transfers lets through (`transfer limit list`); it goes on in its turn".into(),
                retry_seconds: PATIENCE.as_secs() as u32,
            },
        }
    }
}

/// What holds now.
#[derive(Default)]
struct Rules {
    limits: Vec<Limit>,
    suspended: BTreeSet<Uid>,
}

/// A client that reads.
struct Reader {
    streams: usize,
    groups: BTreeSet<Uid>,
    zone: jiff::tz::TimeZone,
    /// One piece at a time, so that clients share a limit however many streams each has.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct State {
    /// None until they were first read: nothing flows before.
    rules: Option<Rules>,
    readers: BTreeMap<ClientId, Reader>,
    buckets: HashMap<(Uid, Option<ClientId>), Bucket>,
    refused: BTreeSet<AttemptId>,
}

/// What flows from this manager.
pub struct Transfers {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    began: Instant,
}

impl Default for Transfers {
    fn default() -> Transfers {
        let state = State { rules: None, readers: BTreeMap::new(), buckets: HashMap::new(), refused: BTreeSet::new() };
        Transfers { state: Mutex::new(state), changed: watch::channel(0).0, began: Instant::now() }
    }
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is known what holds.
    pub fn is_known(&self) -> bool {
        self.lock().rules.is_some()
    }

    /// How many clients read.
    pub fn reading(&self) -> usize {
        self.lock().readers.len()
    }

    /// Whether the attempt was refused because its client is suspended, which an older agent can't tell.
    pub fn is_refused(&self, attempt: &AttemptId) -> bool {
        self.lock().refused.contains(attempt)
    }

    /// Takes what holds from now on; gives back the groups that are suspended no longer.
    fn set_rules(&self, limits: Vec<Limit>, suspended: BTreeSet<Uid>) -> BTreeSet<Uid> {
        let mut state = self.lock();
        let now = self.began.elapsed();
        state.buckets.retain(|_, bucket| !bucket.is_idle(now));
        let before = state.rules.take().unwrap_or_default();
        let resumed: BTreeSet<Uid> = before.suspended.difference(&suspended).cloned().collect();
        if !resumed.is_empty() {
            state.refused.clear();
        }
        let changed = before.limits != limits || before.suspended != suspended;
        if before.limits != limits {
            state.buckets.retain(|(uid, _), _| limits.iter().any(|limit| limit.uid == *uid));
        }
        state.rules = Some(Rules { limits, suspended });
        drop(state);
        if changed {
            self.changed.send_modify(|n| *n += 1);
        }
        resumed
    }

    /// In which groups those are who read. A change wakes those who wait.
    fn set_groups(&self, all: Vec<(ClientId, BTreeSet<Uid>)>) {
        let mut state = self.lock();
        let mut changed = false;
        for (client, groups) in all {
            if let Some(reader) = state.readers.get_mut(&client) {
                changed |= reader.groups != groups;
                reader.groups = groups;
            }
        }
        drop(state);
        if changed {
            self.changed.send_modify(|n| *n += 1);
        }
    }

    /// Those who read, if it matters in which groups they are.
    fn to_look_at(&self) -> Vec<ClientId> {
        let state = self.lock();
        let matters =
            state.rules.as_ref().is_some_and(|r| !r.suspended.is_empty() || r.limits.iter().any(|l| matches!(l.scope, Scope::Group(_))));
        if matters { state.readers.keys().cloned().collect() } else { vec![] }
    }
}

/// One stream of bytes to a client.
pub struct Flow {
    app: Arc<App>,
    client: ClientId,
    attempt: AttemptId,
    through: bool,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut state = self.app.live.transfers.lock();
        if let Some(reader) = state.readers.get_mut(&self.client) {
            reader.streams -= 1;
            if reader.streams == 0 {
                state.readers.remove(&self.client);
            }
        }
    }
}

impl Flow {
    /// A stream to this client, for this attempt; `through` goes on although transfers are suspended.
    pub fn open(app: Arc<App>, client: &ClientId, attempt: &AttemptId, standing: transfers::Standing, through: bool) -> Flow {
        let zone = match standing.zone.parse() {
            Ok(sutler_core::transfer::Zone::Fixed(zone)) => zone,
            _ => jiff::tz::TimeZone::UTC,
        };
        let mut state = app.live.transfers.lock();
        let new = || Reader { streams: 0, groups: BTreeSet::new(), zone: jiff::tz::TimeZone::UTC, turn: Arc::default() };
        let reader = state.readers.entry(client.clone()).or_insert_with(new);
        reader.streams += 1;
        reader.groups = standing.groups;
        reader.zone = zone;
        let turn = reader.turn.clone();
        drop(state);
        Flow { app, client: client.clone(), attempt: attempt.clone(), through, turn }
    }

    /// Waits until a piece of at most `wanted` bytes may go; says of how many, and whether a limit holds: then it goes at once, for
    /// nobody knows how long the next one waits.
    pub async fn pass(&self, wanted: usize) -> Result<(usize, bool), Halt> {
        let transfers = &self.app.live.transfers;
        let mut changed = transfers.changed.subscribe();
        // Without a limit nobody waits for anybody.
        let first = transfers.ask(self, wanted, self.app.world.now(), false)?;
        if first.1.is_none() {
            return Ok((first.0, false));
        }
        let _turn = self.turn.lock().await;
        loop {
            changed.mark_unchanged();
            let (bytes, wait) = transfers.ask(self, wanted, self.app.world.now(), true)?;
            match wait {
                None => return Ok((bytes, false)),
                Some(Duration::ZERO) => return Ok((bytes, true)),
                Some(wait) => tokio::select! {
                    () = tokio::time::sleep(wait) => return Ok((bytes, true)),
                    _ = changed.changed() => {}
                },
            }
        }
    }

    /// Whether the client is suspended.
    pub fn is_suspended(&self) -> bool {
        self.app.live.transfers.lock().is_suspended(self)
    }

    /// Waits until the client is suspended.
    pub async fn suspended(&self) {
        let mut changed = self.app.live.transfers.changed.subscribe();
        while !self.is_suspended() {
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// What a stream that was halted ends with.
    pub fn halted(&self, halt: Halt) -> AppError {
        if halt == Halt::Suspended {
            let mut state = self.app.live.transfers.lock();
            if state.refused.len() < REFUSED_MAX {
                state.refused.insert(self.attempt.clone());
            }
        }
        (halt, &self.client).into()
    }
}

impl State {
    fn is_suspended(&self, flow: &Flow) -> bool {
        let suspended = self.rules.as_ref().map(|r| &r.suspended);
        let groups = self.readers.get(&flow.client).map(|r| &r.groups);
        !flow.through && suspended.zip(groups).is_some_and(|(suspended, groups)| !suspended.is_disjoint(groups))
    }
}

impl Transfers {
    /// How many bytes may go, and after how long; without a wait where nothing is limited. With `take` the place is taken.
    fn ask(&self, flow: &Flow, wanted: usize, wall: Timestamp, take: bool) -> Result<(usize, Option<Duration>), Halt> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.is_suspended(flow) {
            return Err(Halt::Suspended);
        }
        let sharing = state.readers.len();
        let (Some(rules), Some(reader)) = (&state.rules, state.readers.get(&flow.client)) else { return Ok((wanted, None)) };
        let holds = |limit: &&Limit| {
            let of_client = match &limit.scope {
                Scope::Group(uid) => reader.groups.contains(uid),
                Scope::Manager | Scope::EachClient => true,
            };
            of_client && limit.hours.hold(wall, &reader.zone)
        };
        let limits: Vec<&Limit> = rules.limits.iter().filter(holds).collect();
        let Some(lowest) = limits.iter().map(|limit| limit.rate).min() else { return Ok((wanted, None)) };
        let bytes = wanted.min(usize::try_from(piece(lowest, sharing)).unwrap_or(usize::MAX));
        let now = self.began.elapsed();
        let key = |limit: &Limit| (limit.uid.clone(), (limit.scope == Scope::EachClient).then(|| flow.client.clone()));
        let waits = limits.iter().map(|limit| state.buckets.get(&key(limit)).map_or(Duration::ZERO, |bucket| bucket.wait(now)));
        let wait = waits.max().unwrap_or_default();
        if wait > PATIENCE {
            return Err(Halt::Busy);
        }
        if take {
            for limit in limits {
                state.buckets.entry(key(limit)).or_insert_with(|| Bucket::new(limit.rate, now)).take(bytes as u64, now);
            }
        }
        Ok((bytes, Some(wait)))
    }
}

/// Reads what holds now. What it changes is felt at once, and whoever was suspended goes on.
pub async fn look(app: &App) -> Result<(), AppError> {
    let (limits, suspended) = app.view("manager", "transfer_rules", (), |tx, _env, ()| Box::pin(transfers::rules(tx))).await?;
    let resumed = app.live.transfers.set_rules(limits, suspended);
    for some in app.live.transfers.to_look_at().chunks(CLIENTS) {
        let all =
            app.view("manager", "transfer_groups", some.to_vec(), |tx, _env, clients| Box::pin(transfers::standing(tx, clients))).await?;
        app.live.transfers.set_groups(all);
    }
    if resumed.is_empty() {
        return Ok(());
    }
    let mut go_on = BTreeSet::new();
    for some in app.live.connected().chunks(CLIENTS) {
        let all =
            app.view("manager", "transfer_groups", some.to_vec(), |tx, _env, clients| Box::pin(transfers::standing(tx, clients))).await?;
        go_on.extend(all.into_iter().filter(|(_, groups)| !groups.is_disjoint(&resumed)).map(|(client, _)| client));
    }
    app.live.wake(Wakes { run_now: go_on, ..Default::default() });
    Ok(())
}
