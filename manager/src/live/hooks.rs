//! Delivers events to hooks: a task of its own for each, so that one that is slow holds up nothing else.

use crate::{
    app::{App, AppError, hooks, hooks::Due},
    hooks::Receiver,
};
use std::{sync::Arc, time::Duration};
use sutler_core::hook::Ended;
use tokio::{sync::watch, task::JoinSet};

/// How long after an error of the database it is asked again.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// How long a manager stands back before it looks again whether it is its turn.
const STAND_BACK: Duration = Duration::from_secs(5);

/// Starts a task for each hook; they end when the set is dropped.
pub(super) fn start(set: &mut JoinSet<()>, app: &Arc<App>, receivers: Vec<Receiver>) {
    let me: String = app.world.bits().iter().map(|b| format!("{b:02x}")).collect();
    for receiver in receivers {
        set.spawn(serve(app.clone(), receiver, me.clone()));
    }
}

/// What to wait for before the next look.
enum Next {
    /// Nothing.
    Again,
    /// An event.
    Event,
    /// So long, whatever comes meanwhile.
    Pause(Duration),
    /// Managers that were started with other events for it.
    Others,
}

async fn serve(app: Arc<App>, receiver: Receiver, me: String) {
    let hook = &receiver.hook;
    let asking = hooks::Asking { name: hook.name.clone(), kinds: hook.events.clone(), me, time_limit: hook.time_limit };
    let mut told = app.live.watch_events();
    while let Err(error) = app.change("manager", "begin_hook", asking.clone(), |tx, _env, asking| Box::pin(hooks::begin(tx, asking))).await
    {
        tracing::warn!(hook = %hook.name, %error, "cannot say which events it gets; it is tried again");
        tokio::time::sleep(AFTER_ERROR).await;
    }
    let mut stands_back = false;
    loop {
        told.borrow_and_update();
        let next = round(&app, &receiver, &asking).await;
        let stood_back = std::mem::replace(&mut stands_back, matches!(next, Ok(Next::Others)));
        match next {
            Ok(Next::Again) => {}
            Ok(Next::Others) => {
                if !stood_back {
                    tracing::warn!(
                        hook = %hook.name,
                        "a manager that was started later has other events for this hook (events in manager.toml): it alone delivers, until \
                         all have the same and are started anew"
                    );
                }
                tokio::time::sleep(STAND_BACK).await;
            }
            Ok(Next::Event) => another(&mut told, app.settings.limits.recheck).await,
            // A lease of another manager, or the pause after a failure: the end may come sooner than it says.
            Ok(Next::Pause(pause)) => tokio::time::sleep(pause.clamp(Duration::from_millis(10), Duration::from_secs(5))).await,
            Err(error) => {
                tracing::warn!(hook = %hook.name, %error, "cannot ask which event comes next; it is tried again");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// Waits until this manager has written an event; another one may have, so not for long.
async fn another(told: &mut watch::Receiver<()>, pause: Duration) {
    let _ = tokio::time::timeout(pause, told.changed()).await;
}

async fn round(app: &App, receiver: &Receiver, asking: &hooks::Asking) -> Result<Next, AppError> {
    // Asked first: a unit that writes has everybody else's writes behind it.
    let due = app.view("manager", "look_hook", asking.clone(), |tx, env, asking| Box::pin(hooks::look(tx, env, asking))).await?;
    match due {
        Due::Nothing => return Ok(Next::Event),
        Due::Wait(pause) => return Ok(Next::Pause(pause)),
        Due::StandBack => return Ok(Next::Others),
        Due::MoveOn | Due::Deliver(_) => {}
    }
    let taken = app.change("manager", "take_hook", asking.clone(), |tx, env, asking| Box::pin(hooks::take(tx, env, asking))).await?;
    let Some(event) = taken else { return Ok(Next::Again) };
    let name = &receiver.hook.name;
    let result = receiver.deliver(&event).await;
    match &result {
        Ok(said) if said.is_empty() => tracing::debug!(hook = %name, event = event.cursor, "delivered"),
        Ok(said) => tracing::info!(hook = %name, event = event.cursor, %said, "delivered"),
        Err(why) => tracing::warn!(hook = %name, event = event.cursor, %why, "not delivered"),
    }
    let delivery =
        hooks::Delivery { asking: asking.clone(), cursor: event.cursor, error: result.err(), retry_for: receiver.hook.retry_for };
    let ended = app.change("manager", "end_delivery", delivery, |tx, env, d| Box::pin(hooks::ended(tx, env, d))).await?;
    app.metrics.delivery(match ended {
        Some(Ended::Delivered) => "delivered",
        Some(Ended::Again) => "failed",
        Some(Ended::GivenUp) => {
            tracing::error!(hook = %name, event = event.cursor, "given up: it was tried for as long as it may be (retry_for)");
            "given_up"
        }
        None => "overtaken",
    });
    Ok(Next::Again)
}
