//! Events, which of them were told already, and how far the hooks are.

use super::unit::{Columns, Result, Unit};
use crate::{Events, bind};
use async_trait::async_trait;
use std::collections::BTreeMap;
use sutler_base::{Timestamp, state::EventKind};
use sutler_core::{
    event::{Event, EventFilter},
    hook::Hook,
};

macro_rules! event_columns {
    () => {
        "e.sequence, e.time_ms, e.kind, e.object, e.job, e.severity, e.sentence, e.attributes"
    };
}

/// A page of events: down or up from a number, of kinds, and of an object or a job if one is given.
macro_rules! event_page {
    ($what:literal, $order:literal) => {
        concat!(
            "SELECT ",
            event_columns!(),
            " FROM event e WHERE e.sequence > $1 AND e.sequence < $2 AND e.kind",
            any!(3),
            $what,
            " ORDER BY e.sequence ",
            $order,
            " LIMIT $4"
        )
    };
}

macro_rules! hook_columns {
    () => {
        "name, cursor, attempts, began_ms, next_ms, error, holder, until_ms, delivered, given_up"
    };
}

fn event(row: &mut Columns<'_>) -> Result<Event> {
    Ok(Event {
        cursor: row.int()?,
        time: row.time()?,
        kind: row.parse()?,
        object: row.text()?,
        job: row.opt_parse()?,
        severity: row.parse()?,
        sentence: row.text()?,
        attributes: row.json()?,
    })
}

fn hook(row: &mut Columns<'_>) -> Result<Hook> {
    Ok(Hook {
        name: row.text()?,
        cursor: row.int()?,
        attempts: row.number()?,
        began: row.opt_time()?,
        next: row.opt_time()?,
        error: row.text()?,
        holder: row.text()?,
        until: row.opt_time()?,
        delivered: row.number()?,
        given_up: row.number()?,
    })
}

/// From which end a page of events is read.
#[derive(Clone, Copy)]
enum From {
    Oldest,
    Newest,
}

impl Unit<'_> {
    async fn events(&mut self, between: (i64, i64), filter: &EventFilter, limit: u32, from: From) -> Result<Vec<Event>> {
        let kinds = if filter.kinds.is_empty() { EventKind::ALL } else { &filter.kinds };
        let kinds = bind::json(kinds);
        let job = filter.object.strip_prefix("jobs/").filter(|id| !id.contains('/'));
        let (after, before) = between;
        let limit = i64::from(limit);
        let query = match (job, filter.object.is_empty(), from) {
            (_, true, From::Newest) => query!(event_page!("", "DESC"), after, before, kinds, limit),
            (_, true, From::Oldest) => query!(event_page!("", ""), after, before, kinds, limit),
            (Some(job), _, From::Newest) => query!(event_page!(" AND e.job = $5", "DESC"), after, before, kinds, limit, bind::text(job)),
            (Some(job), _, From::Oldest) => query!(event_page!(" AND e.job = $5", ""), after, before, kinds, limit, bind::text(job)),
            (None, _, From::Newest) => {
                query!(event_page!(" AND e.object = $5", "DESC"), after, before, kinds, limit, bind::text(&filter.object))
            }
            (None, _, From::Oldest) => {
                query!(event_page!(" AND e.object = $5", ""), after, before, kinds, limit, bind::text(&filter.object))
            }
        };
        self.list("event", query, event).await
    }
}

#[async_trait]
impl Events for Unit<'_> {
    async fn insert_event(&mut self, event: &Event) -> Result<()> {
        let sequence = self.event_number().await?;
        self.run(query!(
            "INSERT INTO event (sequence, time_ms, kind, object, job, severity, sentence, attributes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            sequence,
            bind::ms(event.time),
            event.kind.as_str(),
            bind::text(&event.object),
            event.job.as_ref().map(|job| job.to_string()),
            event.severity.as_str(),
            bind::text(&event.sentence),
            // JSON has no bare NUL, and PostgreSQL keeps this as text.
            bind::json(&event.attributes)
        ))
        .await?;
        Ok(())
    }

    async fn list_events(&mut self, after: i64, before: i64, filter: &EventFilter, limit: u32) -> Result<Vec<Event>> {
        self.events((after, before), filter, limit, From::Newest).await
    }

    async fn events_after(&mut self, after: i64, filter: &EventFilter, limit: u32) -> Result<Vec<Event>> {
        self.events((after, i64::MAX), filter, limit, From::Oldest).await
    }

    async fn first_event_since(&mut self, time: Timestamp) -> Result<Option<i64>> {
        // The clock may have been stepped: the first by number is not always the oldest.
        let sql = "SELECT MIN(sequence) FROM event WHERE time_ms >= $1";
        Ok(self.one("event", query!(sql, bind::ms(time)), |row| row.opt_int()).await?.flatten())
    }

    async fn oldest_events(&mut self, limit: u32) -> Result<Vec<(i64, Timestamp)>> {
        let sql = "SELECT sequence, time_ms FROM event WHERE sequence > $1 ORDER BY sequence LIMIT $2";
        self.list("event", query!(sql, 0, i64::from(limit)), |row| Ok((row.int()?, row.time()?))).await
    }

    async fn event_before_newest(&mut self, keep: u32) -> Result<Option<i64>> {
        let sql = "SELECT sequence FROM event WHERE sequence > $1 ORDER BY sequence DESC LIMIT 1 OFFSET $2";
        self.one("event", query!(sql, 0, i64::from(keep)), |row| row.int()).await
    }

    async fn drop_events(&mut self, up_to: i64) -> Result<u64> {
        self.run(query!("UPDATE event_dropped SET up_to = $1 WHERE self = 1 AND up_to < $1", up_to)).await?;
        self.run(query!("DELETE FROM event WHERE sequence <= $1", up_to)).await
    }

    async fn events_dropped(&mut self) -> Result<i64> {
        Ok(self.one("event_dropped", query!("SELECT up_to FROM event_dropped WHERE self = 1"), |row| row.int()).await?.unwrap_or(0))
    }

    async fn event_marks(&mut self, keys: &[String]) -> Result<BTreeMap<String, String>> {
        let sql = concat!("SELECT key, occurrence FROM event_mark WHERE key", any!(1));
        let rows = self.list("event_mark", query!(sql, bind::list(keys)), |row| Ok((row.text()?, row.text()?))).await?;
        Ok(rows.into_iter().collect())
    }

    async fn mark_event(&mut self, key: &str, occurrence: &str) -> Result<bool> {
        let sql = "INSERT INTO event_mark (key, occurrence) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE \
                   SET occurrence = excluded.occurrence WHERE event_mark.occurrence <> excluded.occurrence";
        Ok(self.run(query!(sql, bind::text(key), bind::text(occurrence))).await? > 0)
    }

    async fn unmark_event(&mut self, key: &str) -> Result<()> {
        self.run(query!("DELETE FROM event_mark WHERE key = $1", bind::text(key))).await?;
        Ok(())
    }

    async fn hook(&mut self, name: &str) -> Result<Option<Hook>> {
        let sql = self.lock(concat!("SELECT ", hook_columns!(), " FROM hook WHERE name = $1"));
        self.one("hook", query!(sql, bind::text(name)), hook).await
    }

    async fn insert_hook(&mut self, hook: &Hook) -> Result<()> {
        let sql =
            concat!("INSERT INTO hook (", hook_columns!(), ") VALUES ($1, $2, 0, NULL, NULL, '', '', NULL, 0, 0) ON CONFLICT DO NOTHING");
        self.insert("hook", query!(sql, bind::text(&hook.name), hook.cursor)).await
    }

    async fn save_hook(&mut self, hook: &Hook) -> Result<()> {
        let query = query!(
            "UPDATE hook SET cursor = $2, attempts = $3, began_ms = $4, next_ms = $5, error = $6, holder = $7, until_ms = $8, \
             delivered = $9, given_up = $10 WHERE name = $1",
            bind::text(&hook.name),
            hook.cursor,
            i64::from(hook.attempts),
            bind::opt_ms(hook.began),
            bind::opt_ms(hook.next),
            bind::text(&hook.error),
            bind::text(&hook.holder),
            bind::opt_ms(hook.until),
            bind::int(hook.delivered)?,
            bind::int(hook.given_up)?
        );
        self.save("hook", &hook.name, query).await
    }
}
