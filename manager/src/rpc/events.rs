//! `EventService`.

use super::{Operator, Services, page, status};
use crate::app::{AppError, Violations, events};
use futures_util::Stream;
use std::{
    pin::Pin,
    time::{Duration, Instant},
};
use sutler_base::state::EventKind;
use sutler_core::event::{Event, EventFilter};
use sutler_proto::{
    convert::{Word, time, wire_time},
    v1,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

/// How long a watcher who gets no events hears nothing of how far the cursor is: what it goes on with may not grow too old.
const QUIET: Duration = Duration::from_secs(60);
/// The longest name of an object.
const OBJECT_MAX: usize = 256;

/// An event as it is shown.
pub(crate) fn wire(event: &Event) -> v1::Event {
    v1::Event {
        name: format!("events/{}", event.cursor),
        cursor: event.cursor.to_string(),
        time: Some(wire_time(event.time)),
        kind: event.kind.to_wire(),
        object: event.object.clone(),
        severity: event.severity.to_wire(),
        sentence: event.sentence.clone(),
        attributes: event.attributes.clone().into_iter().collect(),
    }
}

fn filter(v: &mut Violations, kinds: &[i32], object: &str) -> EventFilter {
    if kinds.len() > EventKind::ALL.len() {
        v.add("kinds", format!("has at most {} entries, not {}", EventKind::ALL.len(), kinds.len()));
    }
    v.text("object", object, OBJECT_MAX);
    let kinds = kinds.iter().enumerate().take(EventKind::ALL.len());
    let kinds = kinds.filter_map(|(n, k)| v.take(&format!("kinds[{n}]"), EventKind::from_wire(*k)).flatten());
    EventFilter { kinds: kinds.collect(), object: object.to_owned() }
}

fn cursor(v: &mut Violations, field: &str, text: &str) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse::<i64>().ok().filter(|_| digits);
    if number.is_none() {
        v.add(field, format!("is the cursor of an event, a number, not {}", sutler_base::quoted(text)));
    }
    number
}

#[async_trait]
impl v1::event_service_server::EventService for Services {
    async fn list_events(&self, request: Request<v1::ListEventsRequest>) -> Result<Response<v1::ListEventsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        let filter = filter(&mut v, &r.kinds, &r.object);
        let after = cursor(&mut v, "after_cursor", &r.after_cursor);
        let since = r.start_time.as_ref().and_then(|t| v.take("start_time", time(t)));
        v.done()?;
        let wanted = events::Wanted { filter, after, since };
        let (rows, next) = self
            .app
            .view(&operator, "list_events", (wanted, page), |tx, env, (wanted, page)| Box::pin(events::list(tx, env, wanted, page)))
            .await
            .map_err(status)?;
        Ok(Response::new(v1::ListEventsResponse { events: rows.iter().map(wire).collect(), next_page_token: next.unwrap_or_default() }))
    }

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(&self, request: Request<v1::WatchEventsRequest>) -> Result<Response<Self::WatchEventsStream>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let filter = filter(&mut v, &r.kinds, &r.object);
        let after = cursor(&mut v, "cursor", &r.cursor);
        let since = r.start_time.as_ref().and_then(|t| v.take("start_time", time(t)));
        if after.is_some() && since.is_some() {
            v.add("start_time", "is not given together with a cursor");
        }
        v.done()?;
        let wanted = events::Wanted { filter: filter.clone(), after, since };
        let begin = self.app.view(&operator, "watch_events", wanted, |tx, _env, wanted| {
            Box::pin(async move {
                match events::begin(tx, wanted).await? {
                    Some(cursor) => Ok(cursor),
                    None => Ok(tx.last_change().await?),
                }
            })
        });
        let begin = begin.await.map_err(status)?;
        let (sender, receiver) = mpsc::channel(4);
        let services = self.clone();
        tokio::spawn(async move {
            if let Err(status) = services.send_events(operator, filter, begin, &sender).await {
                // Whoever watched may have gone.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Services {
    /// Sends what comes after a cursor, until nobody listens any more.
    async fn send_events(
        &self,
        operator: Operator,
        filter: EventFilter,
        mut cursor: i64,
        sender: &mpsc::Sender<Result<v1::WatchEventsResponse, Status>>,
    ) -> Result<(), Status> {
        let mut told = self.app.live.watch_events();
        let mut spoke: Option<(Instant, i64)> = None;
        loop {
            // Before the look: what comes after it rings again.
            told.borrow_and_update();
            let came = self
                .app
                .view(&operator, "watch_events", (filter.clone(), cursor), |tx, env, (filter, cursor)| {
                    Box::pin(events::after(tx, env, filter, *cursor))
                })
                .await
                .map_err(|e: AppError| status(e))?;
            cursor = came.cursor;
            let is_due = spoke.is_none_or(|(when, told)| told != cursor && when.elapsed() >= QUIET);
            if !came.events.is_empty() || is_due {
                spoke = Some((Instant::now(), cursor));
                let message = v1::WatchEventsResponse { events: came.events.iter().map(wire).collect(), cursor: cursor.to_string() };
                if sender.send(Ok(message)).await.is_err() {
                    return Ok(());
                }
            }
            if came.more {
                continue;
            }
            tokio::select! {
                () = sender.closed() => return Ok(()),
                // Another manager may have written one.
                () = tokio::time::sleep(self.app.settings.limits.recheck) => {}
                _ = told.changed() => {}
            }
        }
    }
}
