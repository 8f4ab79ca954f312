//! When what waits may be begun: agents are told anew when that changes, and jobs start when their time has come.

use super::{Live, Session, lock};
use crate::{
    app::{App, AppError, Wakes, dispatch::Due, schedule, schedule::Times},
    telemetry::Metrics,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use sutler_base::{AttemptId, ClientId, Timestamp};
use sutler_core::window::Opening;
use sutler_proto::{
    convert::wire_time,
    v1::{self, connect_response::Message},
};

/// What an agent was told of its attempts, in this session.
pub(super) type Told = BTreeMap<AttemptId, Due>;

impl Live {
    /// Whether the client's agent begins nothing outside of the times that it is told.
    pub fn is_timed(&self, client: &ClientId) -> bool {
        lock(&self.sessions).get(client).is_some_and(|s| s.timed.is_some())
    }

    /// Notes what a client is told of an attempt; whether it was told anything else before, or nothing in this session.
    fn is_news(&self, client: &ClientId, attempt: &AttemptId, due: &Due) -> bool {
        let mut sessions = lock(&self.sessions);
        let Some(told) = sessions.get_mut(client).and_then(|s| s.timed.as_mut()) else { return false };
        told.insert(attempt.clone(), due.clone()).as_ref() != Some(due)
    }

    /// Forgets what the client was told of other attempts than these: they have begun, or are over.
    fn keep_told(&self, client: &ClientId, open: &[&AttemptId]) {
        if let Some(told) = lock(&self.sessions).get_mut(client).and_then(|s| s.timed.as_mut()) {
            told.retain(|id, _| open.contains(&id));
        }
    }

    fn is_far(&self, client: &ClientId, far: bool) {
        if let Some(session) = lock(&self.sessions).get_mut(client) {
            session.far = far;
        }
    }

    /// Whether the client was told times of any attempt, or holds a long lease: then they are looked at again now and then.
    pub fn has_times(&self, client: &ClientId) -> bool {
        let sessions = lock(&self.sessions);
        let told = |s: &Session| s.timed.as_ref().is_some_and(|told| told.values().any(|due| due.times.is_some()));
        sessions.get(client).is_some_and(|s| s.far || told(s))
    }
}

/// Tells a client when its attempts are to go on, as far as that is news, and gives it the leases that reach there. `offered` are
/// those that it was just told of with their offers; `now` is what time it is by the clock that the times are by.
pub(super) fn tell(
    app: &App,
    client: &ClientId,
    waiting: Vec<(AttemptId, Due)>,
    offered: Vec<(AttemptId, Due)>,
    leases: Vec<(AttemptId, u32)>,
    now: Timestamp,
) {
    let open: Vec<&AttemptId> = waiting.iter().chain(&offered).map(|(id, _)| id).collect();
    app.live.keep_told(client, &open);
    for (attempt, due) in &offered {
        app.live.is_news(client, attempt, due);
    }
    for (attempt, due) in waiting {
        if app.live.is_news(client, &attempt, &due) {
            let times = due.times.map(|times| wire_times(&times, now));
            let deadline = Some(v1::AttemptDeadline { time: due.deadline.map(wire_time) });
            app.live.send(client, Message::Times(v1::AttemptTimes { attempt: attempt.to_string(), times, deadline }));
        }
    }
    app.live.is_far(client, !leases.is_empty());
    for (attempt, seconds) in leases {
        app.live.send(client, Message::Lease(v1::Lease { attempts: vec![attempt.to_string()], seconds }));
    }
}

/// As it is sent, with the time that it is now.
pub(super) fn wire_times(times: &Times, now: Timestamp) -> v1::Times {
    let opening = |o: &Opening| v1::Opening { start_time: Some(wire_time(o.start)), end_time: o.end.map(wire_time) };
    v1::Times { now_time: Some(wire_time(now)), openings: times.openings.iter().map(opening).collect(), durations: times.durations.clone() }
}

/// Has agents that are connected here told anew once windows have changed, on whichever manager.
pub(super) async fn follow(app: Arc<App>, metrics: Arc<Metrics>, pause: Duration) {
    let mut seen: Option<i64> = None;
    loop {
        let revision =
            app.view("manager", "windows_revision", (), |tx, _env, ()| Box::pin(async move { Ok(tx.windows_revision().await?) })).await;
        metrics.round("follow_windows", revision.is_ok());
        match revision {
            Ok(revision) => {
                if seen.is_some_and(|seen| seen != revision) {
                    app.live.wake(Wakes { clients: app.live.connected().into_iter().collect(), ..Default::default() });
                }
                seen = Some(revision);
            }
            Err(error) => tracing::warn!(%error, "cannot read the maintenance windows; it is tried again"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Starts jobs whose time has come. Each in a unit of its own: one that can't be started is ended, and holds up no other.
pub(super) async fn start_due(app: Arc<App>) -> Result<(), AppError> {
    let mut after: Option<String> = None;
    loop {
        let (due, next) =
            app.view("manager", "schedule_due", after, |tx, env, after| Box::pin(schedule::due(tx, env, after.clone()))).await?;
        for id in due {
            match app.change("manager", "start_scheduled", id.clone(), |tx, env, id| Box::pin(schedule::start(tx, env, id))).await {
                Ok(()) => {}
                Err(error) if is_final(&error) => {
                    tracing::warn!(job = %id, %error, "a job could not be started when its time had come");
                    let input = (id, error.to_string());
                    app.change("manager", "start_failed", input, |tx, env, (id, why)| Box::pin(schedule::failed(tx, env, id, why))).await?;
                }
                Err(error) => return Err(error),
            }
        }
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}

/// Whether an operator would have got this answer, whenever asked again.
fn is_final(error: &AppError) -> bool {
    matches!(error, AppError::State { .. } | AppError::Invalid(_) | AppError::NotFound { .. } | AppError::Exists { .. })
}
