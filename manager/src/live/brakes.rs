//! Brakes that were put on or taken off, by whichever manager: what they cover and has not begun is called back, and what none of them
//! covers any more goes on.

use super::workers;
use crate::app::{
    App, AppError,
    brakes::{self, Brakes, Place, budgets, offline, retries},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use sutler_base::{JobId, state::HoldReason};

/// How often all rows are looked at although no brake changed: clients may have come into a group that is stopped, or left it.
const ANYWAY: Duration = Duration::from_secs(60);

/// The brakes as they were when all rows were looked at, and when that was.
pub(super) type Looked = Option<(Brakes, Instant)>;

/// Looks at what has its time, and at all rows if brakes have changed since, or it was long ago.
pub(super) async fn look(app: Arc<App>, looked: Arc<Mutex<Looked>>) -> Result<(), AppError> {
    retry(&app).await?;
    spend(&app).await?;
    let now = app.view("manager", "brakes", (), |tx, _env, ()| Box::pin(Brakes::now(tx))).await?;
    let begun = Instant::now();
    {
        let looked = looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.as_ref().is_some_and(|(brakes, at)| *brakes == now && at.elapsed() < ANYWAY) {
            return Ok(());
        }
    }
    // Asked first: a unit that writes has everybody else's writes behind it.
    if app.view("manager", "to_call_back", (), |tx, _env, ()| Box::pin(brakes::is_to_be_called_back(tx))).await? {
        app.change("manager", "call_back", (), |tx, env, ()| Box::pin(brakes::call_back(tx, env))).await?;
    }
    for by in [HoldReason::Stopped, HoldReason::Breaker] {
        release(&app, by).await?;
    }
    // Whoever is stopped takes no place of a stage, and may again.
    app.live.forget_too_few();
    workers::find_rollouts(app).await?;
    *looked.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, begun));
    Ok(())
}

/// Lets go what this brake holds and none covers any more.
async fn release(app: &App, by: HoldReason) -> Result<(), AppError> {
    let mut place: Place = None;
    loop {
        let (free, next) =
            app.view("manager", "releasable", (by, place), |tx, _env, (by, place)| Box::pin(brakes::releasable(tx, *by, place))).await?;
        if !free.is_empty() {
            app.change("manager", "release", (by, free), |tx, env, (by, rows)| Box::pin(brakes::release(tx, env, rows, *by))).await?;
        }
        if next.is_none() {
            return Ok(());
        }
        place = next;
    }
}

/// Lets go what waited for its retry, when its time has come.
async fn retry(app: &App) -> Result<(), AppError> {
    loop {
        let due = app.view("manager", "retries_due", (), |tx, env, ()| Box::pin(retries::due(tx, env))).await?;
        if due.is_empty() {
            return Ok(());
        }
        app.change("manager", "retry", due, |tx, env, rows| Box::pin(retries::go_on(tx, env, rows))).await?;
    }
}

/// Lets go what waited for a budget that has room again.
async fn spend(app: &App) -> Result<(), AppError> {
    let mut after: Option<JobId> = None;
    loop {
        let (due, next) = app.view("manager", "budgets_due", after, |tx, env, after| Box::pin(budgets::due(tx, env, after))).await?;
        if !due.is_empty() {
            app.change("manager", "budget", due, |tx, env, rows| Box::pin(budgets::go(tx, env, rows))).await?;
        }
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}

/// Ends what clients are not waited for any more that were out of contact when their turn came.
pub(super) async fn pass_over(app: Arc<App>) -> Result<(), AppError> {
    let mut after: Option<String> = None;
    loop {
        let (due, next) = app.view("manager", "offline_due", after, |tx, env, after| Box::pin(offline::due(tx, env, after))).await?;
        for due in due {
            app.change("manager", "pass_over", due, |tx, env, (job, looked)| Box::pin(offline::step(tx, env, job, looked))).await?;
        }
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}
