//! Brakes: what is stopped, which breakers are open, what was spent, and which rows are held back.

use super::{
    executions::{execution, execution_columns},
    unit::{Columns, Result, Unit},
};
use crate::{Awaited, Brakes, Installs, Retried, StoreError, bind};
use async_trait::async_trait;
use sutler_base::{ClientId, JobId, OperatorName, Timestamp, Uid, state::HoldReason};
use sutler_core::{
    brake::{
        Stop, Stopped,
        breaker::{Breaker, Scope},
        budget::Purse,
    },
    model::Execution,
};

/// Rows in one statement.
const ROWS: usize = 500;

fn stopped(what: &Stopped) -> (&'static str, String, String) {
    match what {
        Stopped::Everything => ("EVERYTHING", String::new(), String::new()),
        Stopped::Group(uid) => ("GROUP", uid.to_string(), String::new()),
        Stopped::Package(name) => ("PACKAGE", name.to_string(), String::new()),
        Stopped::Version(name, version) => ("VERSION", name.to_string(), version.to_string()),
    }
}

fn stop(row: &mut Columns<'_>) -> Result<Stop> {
    let scope = row.text()?;
    let what = match scope.as_str() {
        "EVERYTHING" => {
            row.text()?;
            row.text()?;
            Stopped::Everything
        }
        "GROUP" => {
            let group = row.parse()?;
            row.text()?;
            Stopped::Group(group)
        }
        "PACKAGE" => {
            let package = row.parse()?;
            row.text()?;
            Stopped::Package(package)
        }
        "VERSION" => Stopped::Version(row.parse()?, row.parse()?),
        other => return Err(row.unknown(other)),
    };
    Ok(Stop { what, reason: row.text()?, creator: row.text()?, since: row.time()? })
}

fn keys(rows: &[(JobId, ClientId)]) -> String {
    let keys: Vec<(&str, &str)> = rows.iter().map(|(job, client)| (job.as_str(), client.as_str())).collect();
    bind::json(&keys)
}

macro_rules! breaker_columns {
    () => {
        "uid, version, scope, target, counted, opened_ms, why"
    };
}

fn scope(scope: &Scope) -> (&'static str, String) {
    match scope {
        Scope::Group(uid) => ("GROUP", uid.to_string()),
        Scope::Job(id) => ("JOB", id.to_string()),
    }
}

fn breaker(row: &mut Columns<'_>) -> Result<Breaker> {
    let (uid, version, kind) = (row.parse()?, row.parse()?, row.text()?);
    let scope = match kind.as_str() {
        "GROUP" => Scope::Group(row.parse()?),
        "JOB" => Scope::Job(row.parse()?),
        other => return Err(row.unknown(other)),
    };
    let (counted, opened, why) = (row.json()?, row.opt_time()?, row.text()?);
    Ok(Breaker { uid, version, scope, counted, opened: opened.map(|at| (at, why)) })
}

#[async_trait]
impl Brakes for Unit<'_> {
    async fn insert_stop(&mut self, stop: &Stop) -> Result<bool> {
        // Who offers what is queued has taken its number before, or sees this.
        self.change(1).await?;
        let (scope, target, version) = stopped(&stop.what);
        let sql =
            "INSERT INTO stop (scope, target, version, reason, creator, since_ms) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
        let (reason, creator) = (bind::text(&stop.reason), bind::text(&stop.creator));
        Ok(self.run(query!(sql, scope, target, version, reason, creator, bind::ms(stop.since))).await? > 0)
    }

    async fn stops(&mut self) -> Result<Vec<Stop>> {
        let sql = "SELECT scope, target, version, reason, creator, since_ms FROM stop ORDER BY scope, target, version";
        let mut stops = self.list("stop", query!(sql), stop).await?;
        stops.sort_by(|a, b| a.what.cmp(&b.what));
        Ok(stops)
    }

    async fn delete_stop(&mut self, what: &Stopped) -> Result<bool> {
        let (scope, target, version) = stopped(what);
        let sql = "DELETE FROM stop WHERE scope = $1 AND target = $2 AND version = $3";
        Ok(self.run(query!(sql, scope, target, version)).await? > 0)
    }

    async fn jobs_offered(&mut self, after: Option<&JobId>, limit: u32) -> Result<Vec<JobId>> {
        let sql = "SELECT DISTINCT job FROM job_counter WHERE n > 0 AND state IN ('OFFERED', 'DOWNLOADING', 'WAITING') AND job > $1 \
                   ORDER BY job LIMIT $2";
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        self.list("job_counter", query!(sql, after, i64::from(limit)), |row| row.parse()).await
    }

    async fn is_open_in(&mut self, job: &JobId, group: &Uid) -> Result<bool> {
        let sql = "SELECT 1 FROM membership m WHERE m.group_uid = $2 AND (SELECT e.state FROM execution e WHERE e.job = $1 \
                   AND e.client = m.client) IN ('QUEUED', 'OFFERED', 'DOWNLOADING', 'WAITING') LIMIT 1";
        Ok(self.one("membership", query!(sql, job.to_string(), group.to_string()), |row| row.int()).await?.is_some())
    }

    async fn hold(&mut self, rows: &[(JobId, ClientId)], by: HoldReason) -> Result<u64> {
        let mut held = 0;
        for rows in rows.chunks(ROWS) {
            let change = self.change(rows.len()).await?;
            let sql = concat!(
                "UPDATE execution SET hold = $2, change = $3 FROM",
                each!(1),
                "WHERE execution.job = v.value->>0 AND execution.client = v.value->>1 AND execution.state = 'QUEUED' \
                 AND execution.hold || '' = ''"
            );
            held += self.run(query!(sql, keys(rows), by.as_str(), change)).await?;
        }
        Ok(held)
    }

    async fn held(&mut self, by: HoldReason, after: Option<(&JobId, &ClientId)>, limit: u32) -> Result<Vec<Execution>> {
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e WHERE e.state = 'QUEUED' AND e.hold IN ('STOPPED', 'BREAKER', 'BUDGET', 'RETRY') AND e.hold = $1 \
             AND (e.job, e.client) > ($2, $3) ORDER BY e.job, e.client LIMIT $4"
        );
        let (job, client) = after.map_or_else(Default::default, |(job, client)| (job.to_string(), client.to_string()));
        self.list("execution", query!(sql, by.as_str(), job, client, i64::from(limit)), execution).await
    }

    async fn release(&mut self, rows: &[(JobId, ClientId)], by: HoldReason, now: Timestamp) -> Result<u64> {
        let mut released = 0;
        for rows in rows.chunks(ROWS) {
            let change = self.change(rows.len()).await?;
            let sql = concat!(
                "UPDATE execution SET hold = '', change = $3, quiet_ms = $4 FROM",
                each!(1),
                "WHERE execution.job = v.value->>0 AND execution.client = v.value->>1 AND execution.state = 'QUEUED' \
                 AND execution.hold || '' = $2"
            );
            released += self.run(query!(sql, keys(rows), by.as_str(), change, bind::ms(now))).await?;
        }
        Ok(released)
    }

    async fn next_held_job(&mut self, by: HoldReason, after: Option<&JobId>) -> Result<Option<JobId>> {
        let sql = "SELECT job FROM execution WHERE state = 'QUEUED' AND hold IN ('STOPPED', 'BREAKER', 'BUDGET', 'RETRY') AND hold = $1 \
                   AND job > $2 ORDER BY job, client LIMIT 1";
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        self.one("execution", query!(sql, by.as_str(), after), |row| row.parse()).await
    }

    async fn held_of(&mut self, job: &JobId, by: HoldReason, limit: u32) -> Result<Vec<ClientId>> {
        let sql = "SELECT client FROM execution WHERE state = 'QUEUED' AND hold IN ('STOPPED', 'BREAKER', 'BUDGET', 'RETRY') AND hold = $1 \
                   AND job = $2 ORDER BY client LIMIT $3";
        self.list("execution", query!(sql, by.as_str(), job.to_string(), i64::from(limit)), |row| row.parse()).await
    }

    async fn installs(&mut self, job: &JobId, revision: i64) -> Result<Vec<Installs>> {
        let sql = "SELECT v.uid, v.manifest, v.total_bytes + v.manifest_length FROM job_package p CROSS JOIN package_version v WHERE p.job = $1 AND p.revision = $2 \
                   AND p.intent = 'INSTALL' AND v.uid = p.version ORDER BY p.n";
        let read = |row: &mut Columns<'_>| Ok(Installs { version: row.parse()?, manifest: row.digest()?, bytes: row.number()? });
        self.list("job_package", query!(sql, job.to_string(), revision), read).await
    }

    async fn breaker_of(&mut self, version: &Uid, of: &Scope, fresh: &Uid) -> Result<Breaker> {
        let (kind, target) = scope(of);
        let sql = self.lock(concat!("SELECT ", breaker_columns!(), " FROM breaker WHERE version = $1 AND scope = $2 AND target = $3"));
        let find = || query!(sql.clone(), version.to_string(), kind, target.clone());
        if let Some(found) = self.one("breaker", find(), breaker).await? {
            return Ok(found);
        }
        let insert = "INSERT INTO breaker (uid, version, scope, target, counted, opened_ms, why) VALUES ($1, $2, $3, $4, '{}', NULL, '') \
                      ON CONFLICT DO NOTHING";
        self.run(query!(insert, fresh.to_string(), version.to_string(), kind, target.clone())).await?;
        let found = self.one("breaker", find(), breaker).await?;
        found.ok_or_else(|| StoreError::Statement(format!("the breaker of {version} is not there")))
    }

    async fn breaker(&mut self, uid: &Uid) -> Result<Option<Breaker>> {
        let sql = self.lock(concat!("SELECT ", breaker_columns!(), " FROM breaker WHERE uid = $1"));
        self.one("breaker", query!(sql, uid.to_string()), breaker).await
    }

    async fn open_breakers(&mut self) -> Result<Vec<Breaker>> {
        let sql = concat!("SELECT ", breaker_columns!(), " FROM breaker WHERE opened_ms IS NOT NULL ORDER BY opened_ms, uid");
        self.list("breaker", query!(sql), breaker).await
    }

    async fn save_breaker(&mut self, breaker: &Breaker) -> Result<()> {
        if breaker.opened.is_some() {
            // Who offers what is queued has taken its number before, or sees this.
            self.change(1).await?;
        }
        let (opened, why) = match &breaker.opened {
            Some((at, why)) => (Some(bind::ms(*at)), bind::text(why)),
            None => (None, String::new()),
        };
        let sql = "UPDATE breaker SET counted = $2, opened_ms = $3, why = $4 WHERE uid = $1";
        let uid = breaker.uid.to_string();
        self.save("breaker", breaker.uid.as_str(), query!(sql, uid, bind::json(&breaker.counted), opened, why)).await
    }

    async fn retries(&mut self, rows: &[(JobId, ClientId)]) -> Result<Vec<Retried>> {
        let mut found = Vec::new();
        for rows in rows.chunks(ROWS) {
            let sql = concat!(
                "SELECT r.job, r.client, r.used, r.due_ms FROM",
                each!(1),
                "CROSS JOIN retry r WHERE r.job = v.value->>0 AND r.client = v.value->>1"
            );
            let read =
                |row: &mut Columns<'_>| Ok(Retried { job: row.parse()?, client: row.parse()?, used: row.number()?, due: row.opt_time()? });
            found.extend(self.list("retry", query!(sql, keys(rows)), read).await?);
        }
        Ok(found)
    }

    async fn put_retries(&mut self, retried: &Retried) -> Result<()> {
        let sql = "INSERT INTO retry (job, client, used, due_ms) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (job, client) DO UPDATE SET used = excluded.used, due_ms = excluded.due_ms";
        let (job, client) = (retried.job.to_string(), retried.client.to_string());
        self.run(query!(sql, job, client, i64::from(retried.used), bind::opt_ms(retried.due))).await?;
        Ok(())
    }

    async fn retries_due(&mut self, now: Timestamp, limit: u32) -> Result<Vec<(JobId, ClientId)>> {
        let sql = "SELECT job, client FROM retry WHERE due_ms IS NOT NULL AND due_ms <= $1 ORDER BY due_ms LIMIT $2";
        self.list("retry", query!(sql, bind::ms(now), i64::from(limit)), |row| Ok((row.parse()?, row.parse()?))).await
    }

    async fn retries_done(&mut self, rows: &[(JobId, ClientId)], by: Timestamp) -> Result<Vec<(JobId, ClientId)>> {
        let mut done = Vec::new();
        for rows in rows.chunks(ROWS) {
            let sql = concat!(
                "UPDATE retry SET due_ms = NULL FROM",
                each!(1),
                "WHERE retry.job = v.value->>0 AND retry.client = v.value->>1 AND retry.due_ms <= $2 RETURNING job, client"
            );
            done.extend(self.list("retry", query!(sql, keys(rows), bind::ms(by)), |row| Ok((row.parse()?, row.parse()?))).await?);
        }
        Ok(done)
    }

    async fn forget_retries(&mut self, rows: &[(JobId, ClientId)]) -> Result<()> {
        for rows in rows.chunks(ROWS) {
            let sql = concat!(
                "UPDATE retry SET used = 0, due_ms = NULL FROM",
                each!(1),
                "WHERE retry.job = v.value->>0 AND retry.client = v.value->>1"
            );
            self.run(query!(sql, keys(rows))).await?;
        }
        Ok(())
    }

    async fn awaited(&mut self, job: &JobId, clients: &[ClientId]) -> Result<Vec<Awaited>> {
        let sql = concat!("SELECT client, since_ms, held_ms FROM awaited WHERE job = $1 AND client", any!(2), " ORDER BY client");
        let read = |row: &mut Columns<'_>| Ok(Awaited { client: row.parse()?, since: row.time()?, held: row.opt_time()? });
        self.list("awaited", query!(sql, job.to_string(), bind::list(clients)), read).await
    }

    async fn put_awaited(&mut self, job: &JobId, clients: &[ClientId], since: Timestamp) -> Result<()> {
        for some in clients.chunks(ROWS) {
            let rows: Vec<(&str, &str)> = some.iter().map(|client| (job.as_str(), client.as_str())).collect();
            let sql = concat!(
                "INSERT INTO awaited (job, client, since_ms) SELECT v.value->>0, v.value->>1, $2 FROM",
                each!(1),
                "WHERE TRUE ON CONFLICT (job, client) DO UPDATE SET since_ms = excluded.since_ms, held_ms = NULL"
            );
            self.run(query!(sql, bind::json(&rows), bind::ms(since))).await?;
        }
        Ok(())
    }

    async fn hold_awaited(&mut self, job: &JobId, clients: &[ClientId], now: Timestamp) -> Result<()> {
        let sql = concat!("UPDATE awaited SET held_ms = $3 WHERE job = $1 AND held_ms IS NULL AND client", any!(2));
        for some in clients.chunks(ROWS) {
            self.run(query!(sql, job.to_string(), bind::list(some), bind::ms(now))).await?;
        }
        Ok(())
    }

    async fn hold_all_awaited(&mut self, job: &JobId, now: Timestamp) -> Result<()> {
        let sql = "UPDATE awaited SET held_ms = $2 WHERE job = $1 AND held_ms IS NULL";
        self.run(query!(sql, job.to_string(), bind::ms(now))).await.map(drop)
    }

    async fn resume_awaited(&mut self, job: &JobId, clients: &[ClientId], now: Timestamp) -> Result<()> {
        let sql = concat!(
            "UPDATE awaited SET since_ms = since_ms + CASE WHEN held_ms < $3 THEN $3 - held_ms ELSE 0 END, held_ms = NULL \
             WHERE job = $1 AND held_ms IS NOT NULL AND client",
            any!(2)
        );
        for some in clients.chunks(ROWS) {
            self.run(query!(sql, job.to_string(), bind::list(some), bind::ms(now))).await?;
        }
        Ok(())
    }

    async fn forget_awaited(&mut self, rows: &[(JobId, ClientId)]) -> Result<()> {
        for (job, client) in rows {
            self.run(query!("DELETE FROM awaited WHERE job = $1 AND client = $2", job.to_string(), client.to_string())).await?;
        }
        Ok(())
    }

    async fn operator_budget(&mut self, operator: &OperatorName) -> Result<Option<u32>> {
        let sql = "SELECT per_hour FROM operator_budget WHERE operator = $1";
        self.one("operator_budget", query!(sql, operator.to_string()), |row| row.number()).await
    }

    async fn set_operator_budget(&mut self, operator: &OperatorName, per_hour: Option<u32>) -> Result<()> {
        match per_hour {
            None => self.run(query!("DELETE FROM operator_budget WHERE operator = $1", operator.to_string())).await?,
            Some(n) => {
                let sql = "INSERT INTO operator_budget (operator, per_hour) VALUES ($1, $2) \
                           ON CONFLICT (operator) DO UPDATE SET per_hour = excluded.per_hour";
                self.run(query!(sql, operator.to_string(), i64::from(n))).await?
            }
        };
        Ok(())
    }

    async fn lock_purse(&mut self, purse: &Purse) -> Result<()> {
        let sql = "INSERT INTO purse (name, used) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET used = purse.used + 1";
        self.run(query!(sql, purse.to_string())).await?;
        Ok(())
    }

    async fn spent(&mut self, purse: &Purse, since_ms: i64) -> Result<Vec<(i64, u32)>> {
        let sql = "SELECT at_ms, n FROM spent WHERE purse = $1 AND at_ms > $2 ORDER BY at_ms";
        self.list("spent", query!(sql, purse.to_string(), since_ms), |row| Ok((row.int()?, row.number()?))).await
    }

    async fn spend(&mut self, purse: &Purse, at_ms: i64, n: u32, before_ms: i64) -> Result<()> {
        self.run(query!("DELETE FROM spent WHERE purse = $1 AND at_ms <= $2", purse.to_string(), before_ms)).await?;
        let sql =
            "INSERT INTO spent (purse, at_ms, n) VALUES ($1, $2, $3) ON CONFLICT (purse, at_ms) DO UPDATE SET n = spent.n + excluded.n";
        self.run(query!(sql, purse.to_string(), at_ms, i64::from(n))).await?;
        Ok(())
    }
}
