//! Reads everything that is stored, slowly and over and over, so that damage is found before a client needs what is damaged.

use crate::app::{
    App, AppError,
    content::{self, FANS, Scrubbed},
};
use futures_util::StreamExt;
use std::{sync::Arc, time::Duration};

/// How long to wait after something did not work.
const AGAIN: Duration = Duration::from_secs(10);
/// How often it is looked whether a round is due, and what was found since.
const LOOK: Duration = Duration::from_secs(15);

/// Goes on for ever. What the last run of the manager had found is known from the start.
pub(super) async fn run(app: Arc<App>) {
    loop {
        match app.view("manager", "scrub_state", (), |tx, _env, ()| Box::pin(content::load(tx))).await {
            Ok(state) => {
                app.content.mark_damaged(state.damaged.iter().copied());
                *app.scrub.state() = state;
                break;
            }
            Err(error) => tracing::warn!(%error, "how far the scrub was can't be read; it is tried again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
    loop {
        if !is_due(&app) {
            let asked = tokio::time::timeout(LOOK, app.scrub.bell.notified()).await.is_ok();
            keep_if_changed(&app).await;
            if asked {
                begin(&app);
            }
            continue;
        }
        let result = round(&app).await;
        app.metrics.round("scrub", result.is_ok());
        if let Err(error) = result {
            tracing::warn!(%error, "the scrub was interrupted; it goes on where it was");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether a round goes on, or the last one was long ago.
fn is_due(app: &App) -> bool {
    let (now, every) = (app.world.now(), app.settings.limits.scrub_every);
    let due = {
        let state = app.scrub.state();
        if state.round > 0 && state.next < FANS {
            return true;
        }
        state.ended().is_none_or(|ended| now.checked_sub(every).is_ok_and(|before| ended <= before))
    };
    if due {
        begin(app);
    }
    due
}

fn begin(app: &App) {
    let mut state = app.scrub.state();
    let round = state.round + 1;
    *state = Scrubbed { round, began_ms: app.world.now().as_millisecond(), damaged: state.damaged.clone(), ..Scrubbed::default() };
}

async fn round(app: &App) -> Result<(), AppError> {
    let rate = app.settings.limits.scrub_rate;
    loop {
        let fan = app.scrub.state().next;
        let Ok(byte) = u8::try_from(fan) else { break };
        let mut looked = std::pin::pin!(app.content.scrub(byte));
        let (mut objects, mut bytes) = (0, 0);
        while let Some(object) = looked.next().await {
            let object = object?;
            objects += 1;
            bytes += object.bytes;
            app.metrics.scrubbed_bytes.inc_by(object.bytes);
            // What is read here nobody else can read meanwhile.
            tokio::time::sleep(Duration::from_micros(object.bytes.saturating_mul(1_000_000) / rate)).await;
        }
        {
            let mut state = app.scrub.state();
            state.next = fan + 1;
            state.objects += objects;
            state.bytes += bytes;
        }
        // A store with little in it is not noted down 256 times.
        if objects > 0 || fan + 1 == FANS {
            keep(app).await;
        }
    }
    // What is gone altogether is in no list of what is there.
    let live = app.view("manager", "live_manifests", (), |tx, _env, ()| Box::pin(async move { Ok(tx.live_manifests().await?) })).await?;
    for manifest in live {
        app.content.mark_damaged(app.content.verify_complete(manifest).await?);
    }
    app.scrub.state().ended_ms = Some(app.world.now().as_millisecond());
    keep(app).await;
    let found = app.content.damaged().len();
    let state = app.scrub.state().clone();
    tracing::info!(round = state.round, objects = state.objects, bytes = state.bytes, damaged = found, "all stored content was read");
    Ok(())
}

/// Notes what was found damaged, or sent again, since it was last noted.
async fn keep_if_changed(app: &App) {
    if app.scrub.state().damaged != app.content.damaged() {
        keep(app).await;
    }
}

/// Notes how far it is. What can't be noted is looked at again by the next run of the manager.
async fn keep(app: &App) {
    let state = {
        let mut state = app.scrub.state();
        state.damaged = app.content.damaged();
        state.clone()
    };
    app.metrics.damaged_objects.set(state.damaged.len() as i64);
    let kept = app.change("manager", "keep_scrub", state, |tx, _env, state| Box::pin(content::save(tx, state))).await;
    if let Err(error) = kept {
        tracing::warn!(%error, "how far the scrub is could not be noted");
    }
}
