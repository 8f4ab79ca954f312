//! Hooks: which event one gets next, who of several managers delivers it, and what came of it.

use super::{Env, Result};
use std::time::Duration;
use sutler_base::{Timestamp, state::EventKind};
use sutler_core::{
    event::{Event, EventFilter},
    hook::{Ended, Hook},
};
use sutler_store::Tx;

/// A hook, and who would deliver to it.
#[derive(Debug, Clone)]
pub struct Asking {
    /// The hook's name.
    pub name: String,
    /// What it wants.
    pub kinds: Vec<EventKind>,
    /// This process, among all managers.
    pub me: String,
    /// How long a delivery may take.
    pub time_limit: Duration,
}

/// What there is to do for a hook.
#[derive(Debug, Clone)]
pub enum Due {
    /// It was never seen, or events passed that it does not want: note that.
    MoveOn,
    /// This event is to be delivered now.
    Deliver(Box<Event>),
    /// Not before so long from now: somebody else delivers, or it is to be tried again then.
    Wait(Duration),
    /// There is nothing.
    Nothing,
    /// A manager that was started later has other events for it.
    StandBack,
}

/// Where it stands which events a hook gets, and how.
fn stands(asking: &Asking) -> (String, Vec<u8>) {
    let mut words: Vec<_> = asking.kinds.iter().map(|kind| kind.as_str()).collect();
    words.sort_unstable();
    words.dedup();
    (format!("hook/{}/events", asking.name), words.join(",").into_bytes())
}

/// This manager was started, and from now on the events count that it has for this hook. Another one that has others stands back: it
/// would pass over what it does not want, and that would be gone for whoever does.
pub async fn begin(tx: &mut dyn Tx, asking: &Asking) -> Result<()> {
    // Whoever takes the next event at this moment is waited for.
    tx.hook(&asking.name).await?;
    let (key, events) = stands(asking);
    Ok(tx.put_setting(&key, &events).await?)
}

/// Whether the events count that this manager has for this hook.
async fn counts(tx: &mut dyn Tx, asking: &Asking) -> Result<bool> {
    let (key, events) = stands(asking);
    Ok(tx.setting(&key).await?.is_none_or(|those| those == events))
}

async fn next_event(tx: &mut dyn Tx, asking: &Asking, cursor: i64) -> Result<Option<Event>> {
    let filter = EventFilter { kinds: asking.kinds.clone(), object: String::new() };
    Ok(tx.events_after(cursor, &filter, 1).await?.pop())
}

async fn wait(tx: &mut dyn Tx, env: &Env, hook: &Hook, asking: &Asking) -> Result<Option<Duration>> {
    let common = tx.clock().await?;
    let now = common.unwrap_or(env.now);
    // Where there is no other manager, whoever held it is one that was killed.
    let me = if common.is_some() { &asking.me } else { &hook.holder };
    let until = hook.wait(me, now, asking.time_limit);
    Ok(until.map(|until: Timestamp| Duration::try_from(until.duration_since(now)).unwrap_or_default()))
}

/// What there is to do for a hook; changes nothing.
pub async fn look(tx: &mut dyn Tx, env: &Env, asking: &Asking) -> Result<Due> {
    if !counts(tx, asking).await? {
        return Ok(Due::StandBack);
    }
    let Some(hook) = tx.hook(&asking.name).await? else { return Ok(Due::MoveOn) };
    let Some(event) = next_event(tx, asking, hook.cursor).await? else {
        // So that what is not wanted is not gone over again and again.
        let passed = tx.events_after(hook.cursor, &EventFilter::default(), 1).await?;
        return Ok(if passed.is_empty() { Due::Nothing } else { Due::MoveOn });
    };
    Ok(match wait(tx, env, &hook, asking).await? {
        Some(wait) => Due::Wait(wait),
        None => Due::Deliver(Box::new(event)),
    })
}

/// Takes the next event of a hook, so that nobody else delivers it; none if somebody has, or there is none. A hook that was never
/// seen begins with what comes next.
pub async fn take(tx: &mut dyn Tx, env: &Env, asking: &Asking) -> Result<Option<Event>> {
    let last = tx.last_change().await?;
    let Some(mut hook) = tx.hook(&asking.name).await? else {
        match tx.insert_hook(&Hook::new(&asking.name, last)).await {
            Ok(()) | Err(sutler_store::StoreError::Exists(_)) => return Ok(None),
            Err(other) => return Err(other.into()),
        }
    };
    if !counts(tx, asking).await? {
        return Ok(None);
    }
    let event = next_event(tx, asking, hook.cursor).await?;
    if event.is_none() {
        // Whatever is committed up to this number is none that it wants, or was dropped.
        tx.save_hook(&hook.moved_on(last)).await?;
        return Ok(None);
    }
    if wait(tx, env, &hook, asking).await?.is_some() {
        return Ok(None);
    }
    let dropped = tx.events_dropped().await?;
    if hook.cursor < dropped {
        tracing::warn!(hook = %hook.name, "events were dropped before they could be delivered (limits.events, limits.events_max)");
        hook = hook.moved_on(dropped);
    }
    let now = env.common_clock(tx).await?;
    hook.take(&asking.me, now, asking.time_limit);
    tx.save_hook(&hook).await?;
    Ok(event)
}

/// What came of a delivery.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The hook.
    pub asking: Asking,
    /// The event's cursor.
    pub cursor: i64,
    /// Why it did not arrive, if it did not.
    pub error: Option<String>,
    /// For how long it is tried.
    pub retry_for: Duration,
}

/// Notes what came of a delivery; none if it took so long that somebody else delivers.
pub async fn ended(tx: &mut dyn Tx, env: &Env, result: &Delivery) -> Result<Option<Ended>> {
    let Some(mut hook) = tx.hook(&result.asking.name).await? else { return Ok(None) };
    let now = env.common_clock(tx).await?;
    let outcome = result.error.as_deref().map_or(Ok(()), Err);
    let ended = hook.ended(&result.asking.me, result.cursor, outcome, now, result.retry_for);
    if ended.is_some() {
        tx.save_hook(&hook).await?;
    }
    Ok(ended)
}
