//! Maintenance windows, and leases that reach into them.

use super::unit::{Columns, Result, Unit};
use crate::{Ordered, Page, Windows, bind};
use async_trait::async_trait;
use sutler_base::{AttemptId, JobId, Timestamp, Uid, WindowName};
use sutler_core::{model::LongLease, window::Window};

macro_rules! window_columns {
    () => {
        "uid, name, group_uid, hours, description, created_ms, change"
    };
}

fn window(row: &mut Columns<'_>) -> Result<Window> {
    Ok(Window {
        uid: row.parse()?,
        name: row.parse()?,
        group: row.parse()?,
        hours: row.json()?,
        description: row.text()?,
        created: row.time()?,
        change: row.int()?,
    })
}

#[async_trait]
impl Windows for Unit<'_> {
    async fn insert_window(&mut self, window: &Window) -> Result<()> {
        let change = self.change(1).await?;
        self.insert(
            "maintenance_window",
            query!(
                concat!(
                    "INSERT INTO maintenance_window (",
                    window_columns!(),
                    ") VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
                ),
                window.uid.to_string(),
                window.name.to_string(),
                window.group.to_string(),
                bind::json(&window.hours),
                bind::text(&window.description),
                bind::ms(window.created),
                change
            ),
        )
        .await
    }

    async fn window(&mut self, name: &WindowName) -> Result<Option<Window>> {
        let sql = self.lock(concat!("SELECT ", window_columns!(), " FROM maintenance_window WHERE name = $1 AND deleted_ms IS NULL"));
        self.one("maintenance_window", query!(sql, name.to_string()), window).await
    }

    async fn list_windows(&mut self, page: &Page) -> Result<Vec<Window>> {
        let sql =
            concat!("SELECT ", window_columns!(), " FROM maintenance_window WHERE name > $1 AND deleted_ms IS NULL ORDER BY name LIMIT $2");
        self.list("maintenance_window", query!(sql, bind::after(page), i64::from(page.limit)), window).await
    }

    async fn windows_of(&mut self, groups: &[Uid]) -> Result<Vec<Window>> {
        let sql = concat!(
            "SELECT ",
            window_columns!(),
            " FROM maintenance_window WHERE group_uid",
            any!(1),
            " AND deleted_ms IS NULL ORDER BY name"
        );
        self.list("maintenance_window", query!(sql, bind::list(groups)), window).await
    }

    async fn windows_revision(&mut self) -> Result<i64> {
        let sql = "SELECT change FROM maintenance_window ORDER BY change DESC LIMIT 1";
        Ok(self.one("maintenance_window", query!(sql), |row| row.int()).await?.unwrap_or_default())
    }

    async fn save_window(&mut self, window: &Window) -> Result<()> {
        let change = self.change(1).await?;
        self.save(
            "maintenance_window",
            window.uid.as_str(),
            query!(
                "UPDATE maintenance_window SET name = $2, group_uid = $3, hours = $4, description = $5, created_ms = $6, change = $7 \
                 WHERE uid = $1 AND deleted_ms IS NULL",
                window.uid.to_string(),
                window.name.to_string(),
                window.group.to_string(),
                bind::json(&window.hours),
                bind::text(&window.description),
                bind::ms(window.created),
                change
            ),
        )
        .await
    }

    async fn delete_window(&mut self, uid: &Uid, now: Timestamp) -> Result<()> {
        let change = self.change(1).await?;
        let sql = "UPDATE maintenance_window SET deleted_ms = $2, change = $3 WHERE uid = $1 AND deleted_ms IS NULL";
        self.save("maintenance_window", uid.as_str(), query!(sql, uid.to_string(), bind::ms(now), change)).await
    }

    async fn terms_of(&mut self, jobs: &[JobId]) -> Result<Vec<Ordered>> {
        let sql = concat!("SELECT id, revision, terms, rolls_back IS NOT NULL FROM job WHERE id", any!(1), " ORDER BY id");
        self.list("job", query!(sql, bind::list(jobs)), |row| {
            Ok(Ordered { id: row.parse()?, revision: row.number()?, terms: row.json()?, rolls_back: row.flag()? })
        })
        .await
    }

    async fn long_leases(&mut self, attempts: &[AttemptId]) -> Result<Vec<LongLease>> {
        let sql = concat!("SELECT attempt, until_ms, seconds FROM long_lease WHERE attempt", any!(1), " ORDER BY attempt");
        self.list("long_lease", query!(sql, bind::list(attempts)), |row| {
            Ok(LongLease { attempt: row.parse()?, until: row.time()?, seconds: row.number()? })
        })
        .await
    }

    async fn put_long_leases(&mut self, leases: &[LongLease]) -> Result<()> {
        let rows: Vec<_> = leases.iter().map(|lease| (lease.attempt.as_str(), bind::ms(lease.until), lease.seconds)).collect();
        let sql = concat!(
            "INSERT INTO long_lease (attempt, until_ms, seconds) SELECT v.value->>0, CAST(v.value->>1 AS BIGINT), \
             CAST(v.value->>2 AS BIGINT) FROM",
            each!(1),
            "WHERE TRUE ON CONFLICT (attempt) DO UPDATE SET \
             until_ms = CASE WHEN excluded.until_ms > long_lease.until_ms THEN excluded.until_ms ELSE long_lease.until_ms END, \
             seconds = CASE WHEN excluded.seconds > long_lease.seconds THEN excluded.seconds ELSE long_lease.seconds END"
        );
        self.run(query!(sql, bind::json(&rows))).await?;
        Ok(())
    }

    async fn drop_long_leases(&mut self, before: Timestamp) -> Result<u64> {
        self.run(query!("DELETE FROM long_lease WHERE until_ms < $1", bind::ms(before))).await
    }
}
