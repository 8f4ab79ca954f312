//! What goes on by itself: each worker looks at what is due, when it is woken and now and then, and does it.

use super::{
    arrivals, asked, brakes, elsewhere, hooks, keeping,
    leases::{self, Even},
    orders, scrub, times, transfers,
};
use crate::{
    app::{App, AppError, Wakes, archive, audit, deltas, disk_failed, dispatch, events, occurrences, reconcile, rollouts, sessions},
    hooks::Receiver,
    telemetry::Metrics,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use sutler_base::{ClientId, JobId};
use sutler_core::execution;
use sutler_proto::v1::{self, connect_response::Message};
use sutler_store::{Kind, StoreError};
use tokio::{sync::Notify, task::JoinSet};

/// How many clients are told what to do in one unit of work.
const CLIENTS: usize = 256;
/// How many changes of clients are looked at in one go.
const FOLLOWED: u32 = 1000;
/// How many clients are archived in one unit of work.
const ARCHIVED: usize = 100;
/// Into how many parts the silence is divided after which a client is archived: it is looked for once in each, and once in
/// [`ARCHIVE_LOOK`] at least.
const ARCHIVE_PARTS: u32 = 100;
/// See [`ARCHIVE_PARTS`].
const ARCHIVE_LOOK: Duration = Duration::from_secs(3600);
/// How many reports of progress are written in one unit of work.
const REPORTS: usize = 500;

/// How often the workers look without being woken.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Jobs that expire, cancellations whose lease is over, clients that changed elsewhere.
    pub often: Duration,
    /// When connected clients are noted as seen, and queued work is looked for.
    pub seldom: Duration,
    /// How long progress is gathered before it is written.
    pub gather: Duration,
    /// When garbage is collected.
    pub garbage: Duration,
    /// How old content must be that nothing refers to.
    pub grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            often: Duration::from_secs(1),
            seldom: Duration::from_secs(15),
            gather: Duration::from_millis(200),
            garbage: Duration::from_secs(3600),
            grace: Duration::from_secs(24 * 3600),
        }
    }
}

/// Starts the workers, and those that tell `receivers` of events; they end when the set is dropped.
pub fn start(app: Arc<App>, pace: Pace, receivers: Vec<Receiver>) -> JoinSet<()> {
    let (mut set, metrics) = (JoinSet::new(), app.metrics.clone());
    let a = app.clone();
    let greet = move || arrivals::greet(a.clone());
    set.spawn(repeat("arrivals", metrics.clone(), Some(app.clone()), |live| &live.arrivals_due, pace.often, greet));
    let (a, pause) = (app.clone(), Duration::from_secs(u64::from(app.settings.lease_seconds().max(3) / 3)));
    set.spawn(repeat("leases", metrics.clone(), None, |live| &live.jobs_due, pause, move || renew_leases(a.clone())));
    let a = app.clone();
    set.spawn(repeat("orders", metrics.clone(), Some(app.clone()), |live| &live.clients_due, pace.seldom, move || give_orders(a.clone())));
    let a = app.clone();
    let (begin, even) = (Instant::now(), Arc::new(Mutex::new(Even::new(leases::SLACK, app.world.now(), Duration::ZERO))));
    set.spawn(repeat(
        "jobs",
        metrics.clone(),
        Some(app.clone()),
        |live| &live.jobs_due,
        pace.often,
        move || end_jobs(a.clone(), even.clone(), begin),
    ));
    let (a, gather) = (app.clone(), pace.gather);
    set.spawn(repeat(
        "progress",
        metrics.clone(),
        Some(app.clone()),
        |live| &live.progress_due,
        pace.seldom,
        move || write_progress(a.clone(), gather),
    ));
    let (a, gather) = (app.clone(), pace.gather);
    set.spawn(repeat(
        "rollouts",
        metrics.clone(),
        Some(app.clone()),
        |live| &live.rollouts_due,
        pace.often,
        move || roll_out(a.clone(), gather),
    ));
    let (a, looked) = (app.clone(), Arc::<Mutex<_>>::default());
    let look_at_brakes = move || brakes::look(a.clone(), looked.clone());
    set.spawn(repeat("brakes", metrics.clone(), Some(app.clone()), |live| &live.brakes_due, pace.often, look_at_brakes));
    let a = app.clone();
    set.spawn(repeat("offline", metrics.clone(), None, |live| &live.jobs_due, pace.seldom, move || brakes::pass_over(a.clone())));
    let a = app.clone();
    set.spawn(repeat("staged", metrics.clone(), None, |live| &live.jobs_due, pace.seldom, move || find_rollouts(a.clone())));
    // Other managers take a client for connected for three rounds. Where there are none it is for a restart alone.
    let (a, pause) = (app.clone(), if app.store.kind() == Kind::Postgres { pace.seldom } else { 4 * pace.seldom });
    set.spawn(repeat("presence", metrics.clone(), None, |live| &live.jobs_due, pause, move || note_presence(a.clone())));
    let a = app.clone();
    set.spawn(repeat("queued", metrics.clone(), None, |live| &live.jobs_due, pace.seldom, move || find_queued(a.clone())));
    let a = app.clone();
    set.spawn(repeat("keep", metrics.clone(), None, |live| &live.jobs_due, pace.seldom, move || keeping::ask(a.clone())));
    let a = app.clone();
    set.spawn(repeat("complete", metrics.clone(), None, |live| &live.jobs_due, pace.seldom, move || find_complete(a.clone())));
    let a = app.clone();
    set.spawn(repeat("audit", metrics.clone(), None, |live| &live.jobs_due, pace.seldom, move || keep_audit(a.clone())));
    let (a, grace) = (app.clone(), pace.grace);
    set.spawn(repeat("garbage", metrics.clone(), None, |live| &live.jobs_due, pace.garbage, move || collect(a.clone(), grace)));
    let a = app.clone();
    set.spawn(follow_clients(a, metrics.clone(), app.settings.limits.recheck));
    let a = app.clone();
    set.spawn(repeat("deltas", metrics.clone(), Some(app.clone()), |live| &live.deltas_due, pace.seldom, move || make_deltas(a.clone())));
    set.spawn(scrub::run(app.clone()));
    let a = app.clone();
    set.spawn(repeat("reserve", metrics.clone(), None, |live| &live.jobs_due, pace.often, move || look_at_disk(a.clone())));
    let a = app.clone();
    set.spawn(asked::follow(a, metrics.clone(), app.settings.limits.recheck));
    let (a, pause) = (app.clone(), (app.settings.limits.overdue / ARCHIVE_PARTS).clamp(pace.often, ARCHIVE_LOOK));
    set.spawn(repeat("occurrences", metrics.clone(), None, |live| &live.jobs_due, pause, move || tell_occurrences(a.clone())));
    let (a, pause) = (app.clone(), (app.settings.limits.events / ARCHIVE_PARTS).clamp(pace.often, pace.seldom));
    set.spawn(repeat("events", metrics.clone(), None, |live| &live.jobs_due, pause, move || drop_events(a.clone())));
    hooks::start(&mut set, &app, receivers);
    let silence = app.settings.limits.archive_after;
    if !silence.is_zero() {
        let (a, pause) = (app.clone(), (silence / ARCHIVE_PARTS).clamp(pace.often, ARCHIVE_LOOK));
        set.spawn(repeat("archive", metrics.clone(), None, |live| &live.jobs_due, pause, move || put_away_silent(a.clone(), silence)));
    }
    let a = app.clone();
    set.spawn(repeat("schedule", metrics.clone(), None, |live| &live.jobs_due, pace.often, move || times::start_due(a.clone())));
    let a = app.clone();
    set.spawn(times::follow(a, metrics.clone(), app.settings.limits.recheck));
    let (a, recheck) = (app.clone(), app.settings.limits.recheck);
    set.spawn(repeat("transfers", metrics.clone(), None, |live| &live.jobs_due, recheck, move || look_at_transfers(a.clone())));
    let a = app.clone();
    set.spawn(follow_trust(a, metrics.clone(), app.settings.limits.recheck));
    if app.store.kind() == Kind::Postgres {
        let me: String = app.world.bits().iter().map(|b| format!("{b:02x}")).collect();
        set.spawn(elsewhere::tell(app.clone(), me.clone(), metrics.clone()));
        set.spawn(elsewhere::hear(app.clone(), me, metrics));
    }
    set
}

/// Runs `round` whenever the bell rings, and after `pause` anyway. A round that fails is logged and comes again.
async fn repeat<F, R>(
    name: &'static str,
    metrics: Arc<Metrics>,
    bell: Option<Arc<App>>,
    which: fn(&super::Live) -> &Notify,
    pause: Duration,
    round: F,
) where
    F: Fn() -> R + Send + 'static,
    R: Future<Output = Result<(), AppError>> + Send,
{
    loop {
        let result = round().await;
        metrics.round(name, result.is_ok());
        if let Err(error) = result {
            if let AppError::Content(error) = &error
                && error.is_fatal()
            {
                disk_failed(error);
            }
            tracing::warn!(worker = name, %error, "a round failed; it comes again");
            // A database that is away is not asked without pause, however often the bell rings.
            tokio::time::sleep(Duration::from_secs(1).min(pause)).await;
        }
        match &bell {
            Some(app) => drop(tokio::time::timeout(pause, which(&app.live).notified()).await),
            None => tokio::time::sleep(pause).await,
        }
    }
}

async fn give_orders(app: Arc<App>) -> Result<(), AppError> {
    let (run_now, access) = app.live.take_nudges();
    // Whoever can't be told now is told in the next round, which does not wait until somebody finds it anyway.
    if !access.is_empty()
        && let Err(error) = orders::check_access(&app, access.iter().cloned().collect()).await
    {
        app.live.wake(Wakes { run_now, access, ..Default::default() });
        return Err(error);
    }
    loop {
        let clients = app.live.take_clients(CLIENTS);
        if clients.is_empty() {
            break;
        }
        let Err(error) = orders::give(&app, clients.clone(), BTreeMap::new()).await else { continue };
        let mut again: BTreeSet<ClientId> = clients.into_iter().collect();
        if !matches!(error, AppError::Store(StoreError::Unavailable(_))) {
            // What is wrong with one is to hold up no other.
            for client in std::mem::take(&mut again) {
                if let Err(error) = orders::give(&app, vec![client.clone()], BTreeMap::new()).await {
                    tracing::warn!(%client, %error, "a client could not be told what there is to do; it is tried again");
                    again.insert(client);
                }
            }
        }
        app.live.wake(Wakes { clients: again, run_now, ..Default::default() });
        return Err(error);
    }
    for client in run_now {
        app.live.send(&client, Message::RunNow(v1::RunNow { attempts: vec![] }));
    }
    Ok(())
}

/// Renews the permission to start steps, for what the database says is still wanted. No lease without the database: what it says may
/// have changed.
async fn renew_leases(app: Arc<App>) -> Result<(), AppError> {
    for clients in app.live.connected().chunks(CLIENTS) {
        let leases = app.view("manager", "leases", clients.to_vec(), |tx, _env, clients| Box::pin(dispatch::leases(tx, clients))).await?;
        for (client, attempts) in &leases {
            app.live.send(client, orders::lease(&app, attempts));
        }
        // More windows have come into sight, and leases that reach into them last longer.
        let timed = leases.into_keys().filter(|client| app.live.has_times(client)).collect();
        app.live.wake(Wakes { clients: timed, ..Default::default() });
    }
    Ok(())
}

async fn end_jobs(app: Arc<App>, even: Arc<Mutex<Even>>, begin: Instant) -> Result<(), AppError> {
    // Asked first: a unit that writes has everybody else's writes behind it, and mostly nothing is due.
    let due = app.view("manager", "due", (), |tx, env, _| Box::pin(reconcile::due(tx, env))).await?;
    while due.jobs && app.change("manager", "expire", (), |tx, env, _| Box::pin(reconcile::expire(tx, env))).await? {}
    let even = even.lock().unwrap_or_else(PoisonError::into_inner).look(due.clock, begin.elapsed());
    let leases_are_over = even >= execution::cancel_patience(app.settings.lease_seconds());
    while due.cancels
        && leases_are_over
        && app.change("manager", "finish_cancels", even, |tx, env, even| Box::pin(reconcile::finish_cancels(tx, env, *even))).await?
    {}
    let jobs = app.live.take_jobs();
    if !jobs.is_empty() {
        let ended = app.change("manager", "complete", jobs.clone(), |tx, env, jobs| Box::pin(reconcile::complete(tx, env, jobs))).await;
        if ended.is_err() {
            app.live.look_at_jobs(jobs);
        }
        ended?;
    }
    Ok(())
}

/// Finds jobs that are complete, in case nobody looked when their last execution ended.
async fn find_complete(app: Arc<App>) -> Result<(), AppError> {
    let mut after: Option<String> = None;
    loop {
        let (complete, next) =
            app.view("manager", "completable", after, |tx, _env, after| Box::pin(reconcile::completable(tx, after.clone()))).await?;
        if !complete.is_empty() {
            app.change("manager", "complete", complete, |tx, env, jobs| Box::pin(reconcile::complete(tx, env, jobs))).await?;
        }
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}

/// Does what is due in rollouts: those that were heard of, and those whose time has come.
async fn roll_out(app: Arc<App>, gather: Duration) -> Result<(), AppError> {
    let jobs = app.live.take_rollouts(app.world.now());
    if jobs.is_empty() {
        return Ok(());
    }
    let mut result = Ok(());
    for job in jobs {
        // What can't be done for one holds up no other: where the disk is full, halting is all that can.
        let rolled = roll_one_out(&app, &job).await;
        if rolled.is_err() {
            app.live.look_at_rollouts(vec![job]);
        }
        result = result.and(rolled);
    }
    result?;
    // What comes meanwhile is looked at together.
    tokio::time::sleep(gather).await;
    Ok(())
}

async fn roll_one_out(app: &App, job: &JobId) -> Result<(), AppError> {
    loop {
        // Asked first: a unit that writes has everybody else's writes behind it.
        let outlook = app.view("manager", "rollout_outlook", job.clone(), |tx, env, job| Box::pin(rollouts::outlook(tx, env, job))).await?;
        app.live.look_at_rollout_later(job, outlook.later);
        let unit = if outlook.halt { "halt_job" } else { "rollout" };
        if !outlook.now || !app.change("manager", unit, job.clone(), |tx, env, job| Box::pin(rollouts::step(tx, env, job))).await? {
            return Ok(());
        }
    }
}

/// Finds jobs with stages: for what was heard of by nobody, or by another manager, and for silence.
pub(super) async fn find_rollouts(app: Arc<App>) -> Result<(), AppError> {
    let mut after: Option<JobId> = None;
    loop {
        let found = app
            .view("manager", "find_rollouts", after.clone(), |tx, _env, after| {
                Box::pin(async move { Ok(tx.rollouts_active(after.as_ref(), 1000).await?) })
            })
            .await?;
        let full = found.len() == 1000;
        after = found.last().cloned();
        if !found.is_empty() {
            app.live.look_at_rollouts(found);
        }
        if !full {
            return Ok(());
        }
    }
}

async fn write_progress(app: Arc<App>, gather: Duration) -> Result<(), AppError> {
    loop {
        let reports = app.live.take_reports(REPORTS);
        if reports.is_empty() {
            return Ok(());
        }
        let written =
            app.change("manager", "progress", reports.clone(), |tx, env, reports| Box::pin(sessions::progress(tx, env, reports))).await;
        if written.is_err() {
            app.live.report_later(reports);
        }
        written?;
        // What comes meanwhile is written together, the newest of each attempt.
        tokio::time::sleep(gather).await;
    }
}

/// Notes that connected clients were heard of: their connection is alive, for HTTP/2 pings it.
async fn note_presence(app: Arc<App>) -> Result<(), AppError> {
    // Before the list is made: whoever leaves meanwhile was not seen later than it left.
    let now = app.world.now();
    let seen: Vec<_> = app.live.connected().into_iter().map(|client| (client, now)).collect();
    for batch in seen.chunks(1000) {
        app.change("manager", "presence", batch.to_vec(), |tx, _env, seen| Box::pin(async move { Ok(tx.touch_clients(seen).await?) }))
            .await?;
    }
    app.change("manager", "forget_requests", (), |tx, env, _| Box::pin(reconcile::forget_requests(tx, env))).await
}

/// Finds connected clients with queued work, in case a wake-up was lost or came to another manager.
pub(super) async fn find_queued(app: Arc<App>) -> Result<(), AppError> {
    let mut after: Option<ClientId> = None;
    loop {
        let found = app
            .view("manager", "find_queued", after.clone(), |tx, _env, after| {
                Box::pin(async move { Ok(tx.clients_with_queued(after.as_ref(), 1000).await?) })
            })
            .await?;
        let full = found.len() == 1000;
        after = found.last().cloned();
        let connected = found.into_iter().filter(|c| app.live.is_connected(c)).collect();
        app.live.wake(Wakes { clients: connected, ..Default::default() });
        if !full {
            return Ok(());
        }
    }
}

/// The disk may have become full, or have room again.
async fn look_at_disk(app: Arc<App>) -> Result<(), AppError> {
    app.reserve.look();
    Ok(())
}

/// What was changed of transfers, by whichever manager, holds from now on.
async fn look_at_transfers(app: Arc<App>) -> Result<(), AppError> {
    transfers::look(&app).await
}

/// Seals what is full or old, and writes down which refusals have no entry.
async fn keep_audit(app: Arc<App>) -> Result<(), AppError> {
    let left_out = app.refusals.left_out(app.world.now());
    if !left_out.is_empty() {
        app.change("manager", "note_left_out", left_out, |tx, env, callers| Box::pin(audit::note_left_out(tx, env, callers))).await?;
    }
    // Asked first: a unit that writes has everybody else's writes behind it.
    while app.view("manager", "seal_due", (), |tx, env, _| Box::pin(audit::is_due(tx, env))).await?
        && app.change("manager", "seal_audit", (), |tx, env, _| Box::pin(audit::seal(tx, env))).await?
    {}
    Ok(())
}

/// Makes the deltas that were asked for, one at a time.
async fn make_deltas(app: Arc<App>) -> Result<(), AppError> {
    while app.make_delta().await? {}
    Ok(())
}

async fn collect(app: Arc<App>, grace: Duration) -> Result<(), AppError> {
    let live = app.view("manager", "live_content", (), |tx, _env, _| {
        Box::pin(async move { Ok((tx.live_manifests().await?, tx.live_deltas().await?)) })
    });
    let (live, made) = live.await?;
    let collected = app.content.collect(live, made, grace).await?;
    if collected.removed > 0 {
        tracing::info!(removed = collected.removed, bytes = collected.removed_bytes, "content that nothing refers to was removed");
    }
    // While the disk is full that can wait: what is noted of them keeps nothing.
    if app.room_for("forget_deltas").is_ok() {
        app.change("manager", "forget_deltas", collected.lost, |tx, _env, lost| Box::pin(deltas::forget(tx, lost))).await?;
    }
    Ok(())
}

/// Follows clients whose row changed, by whichever manager: a removed one is cut off, the others are told their new state.
async fn follow_clients(app: Arc<App>, metrics: Arc<Metrics>, pause: Duration) {
    let mut seen: Option<i64> = None;
    loop {
        let result = follow_once(&app, &mut seen).await;
        metrics.round("follow_clients", result.is_ok());
        match result {
            Ok(true) => tokio::time::sleep(pause).await,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot read which clients changed; it is tried again");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// One look at what changed; whether that was all.
async fn follow_once(app: &App, seen: &mut Option<i64>) -> Result<bool, AppError> {
    let began = Instant::now();
    let Some(from) = *seen else {
        *seen = Some(app.view("manager", "last_change", (), |tx, _env, _| Box::pin(async move { Ok(tx.last_change().await?) })).await?);
        app.live.note_access(began, app.world.now());
        return Ok(true);
    };
    let rows = app
        .view("manager", "follow_clients", from, |tx, _env, from| {
            Box::pin(async move { Ok(tx.clients_changed_since(*from, FOLLOWED).await?) })
        })
        .await?;
    let full = rows.len() >= FOLLOWED as usize;
    let up_to = rows.last().map_or(from, |(_, _, change)| *change);
    let here: Vec<ClientId> = rows.into_iter().map(|(client, ..)| client).filter(|client| app.live.is_connected(client)).collect();
    let changed = orders::check_access(app, here).await?;
    *seen = Some(up_to.max(from));
    if !full {
        app.live.note_access(began, app.world.now());
    }
    if !changed.is_empty() {
        app.live.wake(Wakes { clients: changed.into_iter().collect(), ..Default::default() });
    }
    Ok(!full)
}

/// Archives clients that have been silent for longer than that.
async fn put_away_silent(app: Arc<App>, silence: Duration) -> Result<(), AppError> {
    let mut after: Option<String> = None;
    loop {
        let input = (after, silence);
        let (due, next) = app
            .view("manager", "archive_due", input, |tx, env, (after, silence)| Box::pin(archive::due(tx, env, after.as_ref(), *silence)))
            .await?;
        for some in due.chunks(ARCHIVED) {
            let input = (some.to_vec(), silence);
            app.change("manager", "archive_silent", input, |tx, env, (ids, silence)| {
                Box::pin(archive::put_away_silent(tx, env, ids, *silence))
            })
            .await?;
        }
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}

/// Tells what has become so by the passing of time.
async fn tell_occurrences(app: Arc<App>) -> Result<(), AppError> {
    let own = app.own_certificates();
    let looked = app.view("manager", "own_certificates", own, |tx, env, own| Box::pin(occurrences::own_certificates(tx, env, own))).await?;
    tell(&app, looked).await?;
    for which in [Which::Overdue, Which::Packages, Which::Operators] {
        let mut after: Option<String> = None;
        loop {
            let looked = app
                .view("manager", "look_at_occurrences", (which, after), |tx, env, (which, after)| {
                    Box::pin(async move {
                        match which {
                            Which::Overdue => occurrences::overdue(tx, env, after.as_ref()).await,
                            Which::Packages => occurrences::packages(tx, env, after.as_ref()).await,
                            Which::Operators => occurrences::operators(tx, env, after.as_ref()).await,
                        }
                    })
                })
                .await?;
            after = looked.next.clone();
            tell(&app, looked).await?;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// What may have become so by the passing of time.
#[derive(Clone, Copy)]
enum Which {
    Overdue,
    Packages,
    Operators,
}

async fn tell(app: &App, looked: occurrences::Looked) -> Result<(), AppError> {
    if looked.news.is_empty() && looked.over.is_empty() {
        return Ok(());
    }
    app.change("manager", "tell_occurrences", looked, |tx, env, looked| Box::pin(occurrences::tell(tx, env, looked))).await
}

/// Drops events that are too old, or too many.
async fn drop_events(app: Arc<App>) -> Result<(), AppError> {
    // Asked first: a unit that writes has everybody else's writes behind it.
    while app.view("manager", "events_due", (), |tx, env, _| Box::pin(events::due(tx, env))).await?.is_some()
        && app.change("manager", "drop_events", (), |tx, env, _| Box::pin(events::drop_old(tx, env))).await?
    {}
    Ok(())
}

/// Hands on what publishers published, on whichever manager, although nothing is offered.
async fn follow_trust(app: Arc<App>, metrics: Arc<Metrics>, pause: Duration) {
    loop {
        let result = orders::hand_on_trust(&app).await;
        metrics.round("follow_trust", result.is_ok());
        if let Err(error) = result {
            tracing::warn!(%error, "cannot read what publishers published; it is tried again");
        }
        tokio::time::sleep(pause).await;
    }
}
