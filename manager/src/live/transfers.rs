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
use sutler_base::{AttemptId, ClientId, Digest, Timestamp, Uid};
use sutler_core::transfer::{Bucket, Limit, PATIENCE, Scope, piece};
use tokio::sync::watch;

/// How many clients are looked at together.
const CLIENTS: usize = 500;
/// How many attempts are remembered that were refused.
const REFUSED_MAX: usize = 100_000;
/// Of how many attempts it is remembered what they were given: of the newest.
const SERVED_MAX: usize = 100_000;

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

impl Rules {
    /// Whether a client in these groups is suspended.
    fn suspend(&self, groups: &BTreeSet<Uid>, through: bool) -> bool {
        !through && !self.suspended.is_disjoint(groups)
    }

    /// The limits that hold for a client in these groups.
    fn holding<'a>(&'a self, groups: &'a BTreeSet<Uid>, zone: &'a jiff::tz::TimeZone, wall: Timestamp) -> impl Iterator<Item = &'a Limit> {
        let of_client = |limit: &Limit| match &limit.scope {
            Scope::Group(uid) => groups.contains(uid),
            Scope::Manager | Scope::EachClient => true,
        };
        self.limits.iter().filter(move |limit| of_client(limit) && limit.hours.hold(wall, zone))
    }
}

/// A client that reads.
struct Reader {
    streams: usize,
    groups: BTreeSet<Uid>,
    zone: jiff::tz::TimeZone,
    /// One piece at a time, so that clients share a limit however many streams each has.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// An attempt that got no bytes, and tries again when its agent thinks fit, or is told to.
struct Refused {
    client: ClientId,
    through: bool,
    zone: jiff::tz::TimeZone,
    /// The limits that many share; none: its client was suspended.
    busy: BTreeSet<Uid>,
}

type Buckets = HashMap<(Uid, Option<ClientId>), Bucket>;

struct State {
    /// None until they were first read: nothing flows before.
    rules: Option<Rules>,
    readers: BTreeMap<ClientId, Reader>,
    buckets: Buckets,
    refused: BTreeMap<AttemptId, Refused>,
    /// What attempts without an outcome were given, by the manifest that it belongs to.
    served: BTreeMap<AttemptId, BTreeMap<Digest, u64>>,
}

/// What flows from this manager.
pub struct Transfers {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    began: Instant,
}

impl Default for Transfers {
    fn default() -> Transfers {
        let state =
            State { rules: None, readers: BTreeMap::new(), buckets: HashMap::new(), refused: BTreeMap::new(), served: BTreeMap::new() };
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
        self.lock().refused.get(attempt).is_some_and(|refused| refused.busy.is_empty())
    }

    /// Notes that an attempt was given so many bytes of what belongs to this manifest.
    pub fn note_served(&self, attempt: &AttemptId, manifest: &Digest, bytes: u64) {
        let mut state = self.lock();
        let served = &mut state.served;
        let of_manifest = served.entry(attempt.clone()).or_default().entry(*manifest).or_default();
        *of_manifest = of_manifest.saturating_add(bytes);
        if served.len() > SERVED_MAX {
            served.pop_first();
        }
    }

    /// What an attempt was given, by manifest; none if that is nothing, as far as this manager knows.
    pub fn served(&self, attempt: &AttemptId) -> Option<BTreeMap<Digest, u64>> {
        self.lock().served.get(attempt).cloned()
    }

    /// Forgets what an attempt was given: it is over.
    pub fn forget_served(&self, attempt: &AttemptId) {
        self.lock().served.remove(attempt);
    }

    /// Takes what holds from now on; gives back the groups that are suspended no longer.
    fn set_rules(&self, limits: Vec<Limit>, suspended: BTreeSet<Uid>) -> BTreeSet<Uid> {
        let mut state = self.lock();
        let now = self.began.elapsed();
        state.buckets.retain(|_, bucket| !bucket.is_idle(now));
        let before = state.rules.take().unwrap_or_default();
        let resumed: BTreeSet<Uid> = before.suspended.difference(&suspended).cloned().collect();
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

    /// Who was refused.
    fn refused(&self) -> Vec<ClientId> {
        self.lock().refused.values().map(|refused| refused.client.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Of these clients, with their groups, those that were refused for something that does not hold any more.
    fn let_go(&self, all: Vec<(ClientId, BTreeSet<Uid>)>, wall: Timestamp) -> BTreeSet<ClientId> {
        let (all, mut go_on) = (BTreeMap::from_iter(all), BTreeSet::new());
        let state = &mut *self.lock();
        let Some(rules) = &state.rules else { return go_on };
        state.refused.retain(|_, refused| {
            let Some(groups) = all.get(&refused.client) else { return true };
            let holds = match refused.busy.is_empty() {
                true => rules.suspend(groups, refused.through),
                false => refused.busy.is_subset(&rules.holding(groups, &refused.zone, wall).map(|limit| limit.uid.clone()).collect()),
            };
            if !holds {
                go_on.insert(refused.client.clone());
            }
            holds
        });
        go_on
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
        state.refused.remove(attempt);
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
        if !transfers.is_limited(&self.client, self.through, self.app.world.now())? {
            return Ok((wanted, false));
        }
        let _turn = self.turn.lock().await;
        loop {
            changed.mark_unchanged();
            let Some(place) = transfers.take(&self.client, self.through, wanted, self.app.world.now())? else { return Ok((wanted, false)) };
            if place.wait.is_zero() {
                return Ok((place.used(), true));
            }
            tokio::select! {
                () = tokio::time::sleep(place.wait) => return Ok((place.used(), true)),
                _ = changed.changed() => {}
            }
        }
    }

    /// Whether the client is suspended.
    pub fn is_suspended(&self) -> bool {
        self.app.live.transfers.lock().is_suspended(&self.client, self.through)
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
        let state = &mut *self.app.live.transfers.lock();
        if let (Some(rules), Some(reader)) = (&state.rules, state.readers.get(&self.client))
            && state.refused.len() < REFUSED_MAX
        {
            let holding = rules.holding(&reader.groups, &reader.zone, self.app.world.now());
            let busy = if halt == Halt::Busy { holding.map(|limit| limit.uid.clone()).collect() } else { BTreeSet::new() };
            let refused = Refused { client: self.client.clone(), through: self.through, zone: reader.zone.clone(), busy };
            state.refused.insert(self.attempt.clone(), refused);
        }
        (halt, &self.client).into()
    }
}

impl State {
    fn is_suspended(&self, client: &ClientId, through: bool) -> bool {
        let rules = self.rules.as_ref().zip(self.readers.get(client));
        rules.is_some_and(|(rules, reader)| rules.suspend(&reader.groups, through))
    }
}

/// A piece's place in its limits; one that is not used is given back.
struct Place<'a> {
    transfers: &'a Transfers,
    keys: Vec<(Uid, Option<ClientId>)>,
    bytes: usize,
    /// When its turn is.
    wait: Duration,
}

impl Place<'_> {
    /// Its piece goes: how many bytes that are.
    fn used(mut self) -> usize {
        self.keys.clear();
        self.bytes
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.transfers.lock();
        for key in &self.keys {
            if let Some(bucket) = state.buckets.get_mut(key) {
                bucket.give_back(self.bytes as u64);
            }
        }
    }
}

/// A place that a piece could take: in these limits, at these rates.
struct Turn {
    limits: Vec<((Uid, Option<ClientId>), u64)>,
    bytes: usize,
    wait: Duration,
}

impl State {
    /// What place a piece of at most `wanted` bytes would take; none where nothing is limited.
    fn turn(&self, client: &ClientId, through: bool, wanted: usize, wall: Timestamp, now: Duration) -> Result<Option<Turn>, Halt> {
        if self.is_suspended(client, through) {
            return Err(Halt::Suspended);
        }
        let (Some(rules), Some(reader)) = (&self.rules, self.readers.get(client)) else { return Ok(None) };
        let key = |limit: &Limit| (limit.uid.clone(), (limit.scope == Scope::EachClient).then(|| client.clone()));
        let limits: Vec<_> = rules.holding(&reader.groups, &reader.zone, wall).map(|limit| (key(limit), limit.rate)).collect();
        let Some(lowest) = limits.iter().map(|(_, rate)| *rate).min() else { return Ok(None) };
        let bytes = wanted.min(usize::try_from(piece(lowest, self.readers.len())).unwrap_or(usize::MAX));
        let waits = limits.iter().map(|(key, _)| self.buckets.get(key).map_or(Duration::ZERO, |bucket| bucket.wait(now)));
        let wait = waits.max().unwrap_or_default();
        if wait > PATIENCE { Err(Halt::Busy) } else { Ok(Some(Turn { limits, bytes, wait })) }
    }
}

impl Transfers {
    /// Whether anything limits what flows to this client; then each piece takes its place.
    fn is_limited(&self, client: &ClientId, through: bool, wall: Timestamp) -> Result<bool, Halt> {
        Ok(self.lock().turn(client, through, 1, wall, self.began.elapsed())?.is_some())
    }

    /// Takes a place for a piece of at most `wanted` bytes; none where nothing is limited.
    fn take(&self, client: &ClientId, through: bool, wanted: usize, wall: Timestamp) -> Result<Option<Place<'_>>, Halt> {
        let (mut state, now) = (self.lock(), self.began.elapsed());
        let Some(turn) = state.turn(client, through, wanted, wall, now)? else { return Ok(None) };
        for (key, rate) in &turn.limits {
            state.buckets.entry(key.clone()).or_insert_with(|| Bucket::new(*rate, now)).take(turn.bytes as u64, now);
        }
        let keys = turn.limits.into_iter().map(|(key, _)| key).collect();
        Ok(Some(Place { transfers: self, keys, bytes: turn.bytes, wait: turn.wait }))
    }
}

/// Reads what holds now. What it changes is felt at once, and whoever was suspended, or had its turn too far away, goes on.
pub async fn look(app: &App) -> Result<(), AppError> {
    let transfers = &app.live.transfers;
    let (limits, suspended) = app.view("manager", "transfer_rules", (), |tx, _env, ()| Box::pin(transfers::rules(tx))).await?;
    // Whom a manager before this one refused is not known.
    let first = !transfers.is_known();
    let resumed = transfers.set_rules(limits, suspended.clone());
    for some in transfers.to_look_at().chunks(CLIENTS) {
        transfers.set_groups(groups(app, some).await?);
    }
    let mut go_on = BTreeSet::new();
    for some in transfers.refused().chunks(CLIENTS) {
        go_on.extend(transfers.let_go(groups(app, some).await?, app.world.now()));
    }
    let all = if first || !resumed.is_empty() { app.live.connected() } else { vec![] };
    for some in all.chunks(CLIENTS) {
        let free = |groups: &BTreeSet<Uid>| if first { groups.is_disjoint(&suspended) } else { !groups.is_disjoint(&resumed) };
        go_on.extend(groups(app, some).await?.into_iter().filter(|(_, groups)| free(groups)).map(|(client, _)| client));
    }
    if !go_on.is_empty() {
        app.live.wake(Wakes { run_now: go_on, ..Default::default() });
    }
    Ok(())
}

/// In which groups these clients are.
async fn groups(app: &App, clients: &[ClientId]) -> Result<Vec<(ClientId, BTreeSet<Uid>)>, AppError> {
    app.view("manager", "transfer_groups", clients.to_vec(), |tx, _env, clients| Box::pin(transfers::standing(tx, clients))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_core::transfer::Hours;

    const RATE: u64 = 64 << 10;

    fn client(n: u8) -> ClientId {
        ClientId::from_random([n; 16])
    }

    fn uid(n: u8) -> Uid {
        Uid::new(at(), [n; 16])
    }

    fn at() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn limit(n: u8) -> Limit {
        let (uid, scope, created) = (uid(n), Scope::Manager, at());
        Limit { uid, scope, rate: RATE, hours: Hours::always(), creator: "ann".into(), created }
    }

    /// Two clients read, and share a limit.
    fn shared() -> Transfers {
        let transfers = Transfers::default();
        transfers.set_rules(vec![limit(1)], BTreeSet::new());
        for n in 1..=2 {
            let reader = Reader { streams: 1, groups: BTreeSet::new(), zone: jiff::tz::TimeZone::UTC, turn: Arc::default() };
            transfers.lock().readers.insert(client(n), reader);
        }
        transfers
    }

    #[test]
    fn who_asks_again_because_something_changed_does_not_wait_twice_nor_take_from_others() {
        let transfers = shared();
        let take = |n: u8| transfers.take(&client(n), false, 1 << 20, at()).unwrap().unwrap();
        take(1).used();
        let (mut first, mut second) = (take(1), take(2));
        assert!(second.wait > first.wait);
        // Of two that wait nobody gets further back than the second place, however often they have to ask.
        let furthest = second.wait;
        for _ in 0..200 {
            drop(first);
            first = take(1);
            drop(second);
            second = take(2);
            assert!(first.wait <= furthest && second.wait <= furthest, "{:?} and {:?} of {furthest:?}", first.wait, second.wait);
        }
        // Who goes away while it waits takes nothing with it.
        drop((first, second));
        assert!(take(2).wait < furthest);
    }

    #[test]
    fn who_was_refused_goes_on_when_what_refused_it_holds_no_more() {
        let (transfers, group) = (shared(), uid(9));
        let refused = |n: u8, busy: &[u8]| {
            let busy = busy.iter().map(|n| uid(*n)).collect();
            let refused = Refused { client: client(n), through: false, zone: jiff::tz::TimeZone::UTC, busy };
            transfers.lock().refused.insert(AttemptId::new(at(), [n; 16]), refused);
        };
        let all = |groups: &[Uid]| (1..=2).map(|n| (client(n), groups.iter().cloned().collect())).collect::<Vec<_>>();
        refused(1, &[1]);
        refused(2, &[]);
        transfers.set_rules(vec![limit(1)], [group.clone()].into());
        assert!(transfers.let_go(all(std::slice::from_ref(&group)), at()).is_empty(), "all of it holds");
        assert_eq!(transfers.let_go(all(&[]), at()), [client(2)].into(), "it left the group that is suspended");
        assert_eq!(transfers.refused(), [client(1)]);
        transfers.set_rules(vec![limit(2)], BTreeSet::new());
        assert_eq!(transfers.let_go(all(&[]), at()), [client(1)].into(), "its limit is gone");
        assert!(transfers.refused().is_empty());
    }
}
