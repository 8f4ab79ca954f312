//! Events: told in the unit of work that does what they tell of, read by cursor, dropped when they are old.

use super::{AppError, Env, Result, jobs};
use std::collections::BTreeMap;
use sutler_base::{
    JobId, Timestamp,
    state::{Counter, EventKind, ExecutionState, JobState, Severity},
};
use sutler_core::{
    event::{Event, EventFilter, droppable},
    model::{Attempt, Client, Execution, Job},
    rights::Reach,
};
use sutler_store::{Page, Tx};

/// How many events are read at a time.
pub const BATCH: u32 = 500;
/// How many batches are looked at for a page, where only some of the events are reached.
const BATCHES: usize = 20;
/// How many events are dropped in one unit of work.
const DROPPED: u32 = 1000;

/// Tells of something that this unit of work does: the event is there once the unit is committed, and whoever waits for it is
/// woken then.
///
/// `events::emit(tx, env, Event::new(EventKind::JobHalted, format!("jobs/{id}"), why).with("stage", stage)).await?`
pub async fn emit(tx: &mut dyn Tx, env: &Env, event: Event) -> Result<()> {
    tx.insert_event(&Event { time: env.now, ..event }).await?;
    env.wakes().events = true;
    Ok(())
}

/// Tells that a job was started; `again` if it stands again after it had ended.
pub async fn job_started(tx: &mut dyn Tx, env: &Env, job: &Job, packages: &str, again: bool) -> Result<()> {
    let sentence = format!("jobs/{} ({packages}) {}", job.id, if again { "stands again" } else { "was started" });
    let event = Event::new(EventKind::JobStarted, format!("jobs/{}", job.id), sentence).with("packages", packages);
    emit(tx, env, event.with("by", &env.actor).with("again", if again { "yes" } else { "" })).await
}

/// Tells that a job has ended, as its state says, with its counters.
pub async fn job_ended(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<()> {
    let counts = tx.counts(&job.id).await?;
    let mut by_counter: BTreeMap<Counter, i64> = BTreeMap::new();
    for (state, n) in &counts.0 {
        *by_counter.entry(state.counter()).or_default() += n;
    }
    let of = |counter| by_counter.get(&counter).copied().unwrap_or(0);
    let bad = of(Counter::Error) + of(Counter::Rejected);
    let failure = Some(&job.terms.schedule.failure).filter(|why| job.state == JobState::Canceled && !why.is_empty());
    let (result, severity, words) = match job.state {
        JobState::Canceled if failure.is_some() => ("CANCELED", Severity::Warning, "could not be started when its time had come"),
        JobState::Canceled => ("CANCELED", Severity::Info, "was canceled"),
        JobState::Expired => ("EXPIRED", Severity::Warning, "has expired"),
        _ if bad > 0 => ("WITH_ERRORS", Severity::Warning, "has ended with errors"),
        _ => ("WELL", Severity::Info, "has ended well"),
    };
    let total: i64 = by_counter.values().sum();
    let sentence = format!("jobs/{} {words}: of {total} clients {} finished, {bad} did not", job.id, of(Counter::Finished));
    let mut event = Event::new(EventKind::JobEnded, format!("jobs/{}", job.id), sentence).matters(severity);
    event = event.with("result", result).with("total", total).with("description", &job.description);
    if let Some(why) = failure {
        event = event.with("reason", why);
    }
    for counter in Counter::ALL {
        event = event.with(&counter.as_str().to_ascii_lowercase(), of(*counter));
    }
    emit(tx, env, event).await
}

/// Tells how an attempt ended, if it did not end well: its execution was `row` before and says `reason` and `detail` now.
pub async fn execution_failed(
    tx: &mut dyn Tx,
    env: &Env,
    row: &Execution,
    attempt: &Attempt,
    state: ExecutionState,
    (reason, detail): (&str, &str),
) -> Result<()> {
    use ExecutionState::{Failed, Interrupted, Rejected};
    // What was taken for interrupted was told; the outcome that comes after all is no second failure.
    if !matches!(state, Failed | Interrupted | Rejected) || attempt.state == Interrupted {
        return Ok(());
    }
    // Not for update: whoever has the client's row may wait for the execution's.
    let client = tx.clients(std::slice::from_ref(&row.client)).await?.pop();
    let hostname = client.map(|client| client.hostname).unwrap_or_default();
    let why = [reason, detail].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(", ");
    let who = if hostname.is_empty() { String::new() } else { format!(" ({})", sutler_base::quoted(&hostname)) };
    let sentence = format!("attempt {} of jobs/{} on clients/{}{who} ended as {state}: {why}", attempt.number, row.job, row.client);
    let event = Event::new(EventKind::ExecutionFailed, format!("jobs/{}/executions/{}", row.job, row.client), sentence);
    let event = event.with("client", format!("clients/{}", row.client)).with("hostname", hostname).with("state", state);
    emit(tx, env, event.with("reason", reason).with("detail", detail).with("attempt", &attempt.id).with("number", attempt.number)).await
}

/// Tells that a client waits for approval.
pub async fn client_pending(tx: &mut dyn Tx, env: &Env, client: &Client) -> Result<()> {
    about(tx, env, EventKind::ClientPending, client, "waits for an operator's approval").await
}

/// Tells that a client was quarantined.
pub async fn client_quarantined(tx: &mut dyn Tx, env: &Env, client: &Client) -> Result<()> {
    about(tx, env, EventKind::ClientQuarantined, client, "was quarantined").await
}

/// Tells that a machine enrolled as this client.
pub async fn client_enrolled(tx: &mut dyn Tx, env: &Env, client: &Client) -> Result<()> {
    about(tx, env, EventKind::ClientEnrolled, client, "has enrolled").await
}

async fn about(tx: &mut dyn Tx, env: &Env, kind: EventKind, client: &Client, words: &str) -> Result<()> {
    let why = if client.notice.is_empty() { String::new() } else { format!(": {}", client.notice) };
    let sentence = format!("clients/{} ({}) {words}{why}", client.id, sutler_base::quoted(&client.hostname));
    let event = Event::new(kind, format!("clients/{}", client.id), sentence).with("hostname", &client.hostname);
    emit(tx, env, event.with("address", &client.address).with("state", client.state).with("notice", &client.notice)).await
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which events.
    pub filter: EventFilter,
    /// Only those after this cursor.
    pub after: Option<i64>,
    /// Only those from this time on, as far as they are kept.
    pub since: Option<Timestamp>,
}

/// After which cursor what is wanted begins. One after which events were dropped, or that never was, is refused.
pub async fn begin(tx: &mut dyn Tx, wanted: &Wanted) -> Result<Option<i64>> {
    if let Some(after) = wanted.after {
        refuse_gap(tx, after).await?;
    }
    let since = match wanted.since {
        None => None,
        // Nothing since then: what comes next.
        Some(time) => match tx.first_event_since(time).await? {
            Some(first) => Some(first - 1),
            None => Some(tx.last_change().await?),
        },
    };
    Ok(wanted.after.max(since))
}

/// Whoever goes on at this cursor would miss events without knowing it.
async fn refuse_gap(tx: &mut dyn Tx, cursor: i64) -> Result<()> {
    let dropped = tx.events_dropped().await?;
    if cursor < dropped {
        let message = format!(
            "events after the cursor {cursor} are not kept any more (limits.events and limits.events_max); the oldest that are kept come \
             after {dropped}: go on there, or with a time"
        );
        return Err(AppError::state("events", "EVENTS_DROPPED", message));
    }
    if cursor > tx.last_change().await? {
        let message = format!("no event has come as far as the cursor {cursor}; it is another manager's, or not a cursor");
        return Err(AppError::state("events", "UNKNOWN_CURSOR", message));
    }
    Ok(())
}

/// A page of events, the newest first, and the key of the next one. Where only some of them are reached, so many are looked at and
/// no more: the page may be short, or empty, and not be the last.
pub async fn list(tx: &mut dyn Tx, env: &Env, wanted: &Wanted, page: &Page) -> Result<(Vec<Event>, Option<String>)> {
    let after = begin(tx, wanted).await?.unwrap_or(0);
    let mut before = match &page.after {
        None => i64::MAX,
        Some(key) => key.parse().map_err(|_| sutler_store::StoreError::NoPage)?,
    };
    let (mut out, mut reached) = (Vec::new(), Reached::default());
    let limit = if env.reach == Reach::Everywhere { page.limit } else { page.limit.max(BATCH) };
    for _ in 0..BATCHES {
        let rows = tx.list_events(after, before, &wanted.filter, limit).await?;
        let more = rows.len() as u32 == limit;
        before = rows.last().map_or(before, |event| event.cursor);
        for event in rows {
            if reached.by(tx, env, &event).await? {
                // The key of an event that is not reached would tell of it.
                let next = event.cursor.to_string();
                out.push(event);
                if out.len() as u32 == page.limit {
                    return Ok((out, Some(next)));
                }
            }
        }
        if !more {
            return Ok((out, None));
        }
    }
    // After so many it tells of none: whoever follows events hears as well how far the numbers have come.
    Ok((out, Some(before.to_string())))
}

/// What came after a cursor.
#[derive(Debug, Clone)]
pub struct Came {
    /// The events that are wanted and reached, in order.
    pub events: Vec<Event>,
    /// Up to here everything was looked at.
    pub cursor: i64,
    /// There is more.
    pub more: bool,
}

/// What came after a cursor, up to [`BATCH`] events. A number is committed after all that are less, so that nothing comes up to
/// the cursor that is given back.
pub async fn after(tx: &mut dyn Tx, env: &Env, filter: &EventFilter, cursor: i64) -> Result<Came> {
    refuse_gap(tx, cursor).await?;
    let last = tx.last_change().await?;
    let rows = tx.events_after(cursor, filter, BATCH).await?;
    let more = rows.len() as u32 == BATCH;
    let up_to = if more { rows.last().map_or(last, |event| event.cursor) } else { last };
    let (mut events, mut reached) = (Vec::new(), Reached::default());
    for event in rows {
        if reached.by(tx, env, &event).await? {
            events.push(event);
        }
    }
    Ok(Came { events, cursor: up_to, more })
}

/// Which jobs whoever asks reaches, as far as it was looked at.
#[derive(Default)]
struct Reached(BTreeMap<JobId, bool>);

impl Reached {
    /// Whether whoever asks reaches what this event is about: with a scope, nothing but jobs within it.
    async fn by(&mut self, tx: &mut dyn Tx, env: &Env, event: &Event) -> Result<bool> {
        if env.reach == Reach::Everywhere {
            return Ok(true);
        }
        let Some(job) = &event.job else { return Ok(false) };
        if let Some(known) = self.0.get(job) {
            return Ok(*known);
        }
        let reached = match tx.job(job).await? {
            Some(job) => jobs::reaches_job(tx, env, &job).await?,
            None => false,
        };
        self.0.insert(job.clone(), reached);
        Ok(reached)
    }
}

/// Up to which cursor events are to be dropped now; none if none are.
pub async fn due(tx: &mut dyn Tx, env: &Env) -> Result<Option<i64>> {
    let limits = &env.settings.limits;
    let before = env.now.checked_sub(limits.events).unwrap_or(Timestamp::MIN);
    let old = droppable(&tx.oldest_events(DROPPED).await?, before);
    let too_many = tx.event_before_newest(limits.events_max).await?;
    Ok(old.max(too_many))
}

/// Drops events that are older than they are kept, or too many. Gives back whether there may be more.
pub async fn drop_old(tx: &mut dyn Tx, env: &Env) -> Result<bool> {
    let Some(up_to) = due(tx, env).await? else { return Ok(false) };
    tx.drop_events(up_to).await?;
    Ok(true)
}
