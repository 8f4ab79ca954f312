//! Executions and attempts.

use super::{
    jobs::{job, job_columns},
    unit::{Columns, Result, Unit},
};
use crate::{ExecutionChange, Executions, Page, QueuedAfter, StoreError, bind};
use async_trait::async_trait;
use serde::{Serialize, Serializer, ser::SerializeSeq as _};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    AttemptId, ClientId, JobId, Timestamp, Uid,
    state::{ExecutionState, Purpose},
};
use sutler_core::{
    model::{Attempt, CancelRequest, Execution, Job},
    rollout,
};

/// Rows in one statement: so many that a statement's own cost is nothing, so few that its text of parameters stays small.
const ROWS: usize = 500;
/// Outcomes of more bytes are bound as they are, each by a statement of its own.
const SHORT: usize = 4 << 10;

/// What makes an [`Execution`], from `execution e`.
macro_rules! execution_columns {
    () => {
        "e.job, e.client, e.state, e.reason, e.detail, e.entered_ms, e.attempt, e.attempts, e.revision, e.item, e.bytes_done, e.bytes_total, \
         e.step, e.cancel_reason, e.cancel_deadline_ms, e.cancel_stage, e.hold, e.stage, e.purpose, e.drifts, e.change"
    };
}
pub(super) use execution_columns;
/// Reasons of waits that may last: [`rollout::may_wait`].
macro_rules! may_wait {
    () => {
        "('WINDOW', 'USER', 'LOCAL_HOLD', 'REBOOT', 'TRANSFER_SUSPENDED')"
    };
}
pub(super) use may_wait;
/// What makes an [`Attempt`], from `attempt a`.
macro_rules! attempt_columns {
    () => {
        "a.id, a.job, a.client, a.number, a.revision, a.state, a.purpose, a.created_ms, a.ended_ms, a.outcome, a.signature"
    };
}
/// The site that this installation is.
macro_rules! own_site {
    () => {
        "COALESCE((SELECT id FROM site WHERE self), '')"
    };
}
/// Rows of `execution e` that may be offered. Jobs and clients are looked up for each: with a join a planner would begin
/// with all jobs that are active.
macro_rules! offerable {
    () => {
        " e.state = 'QUEUED' AND e.hold = '' AND e.cancel_reason IS NULL AND (SELECT j.state FROM job j WHERE j.id = e.job) = 'ACTIVE' \
         AND (SELECT c.state FROM client c WHERE c.id = e.client) = 'ACTIVE' "
    };
}

pub(super) fn execution(row: &mut Columns<'_>) -> Result<Execution> {
    Ok(Execution {
        job: row.parse()?,
        client: row.parse()?,
        state: row.parse()?,
        reason: row.text()?,
        detail: row.text()?,
        entered: row.time()?,
        attempt: row.opt_parse()?,
        attempts: row.number()?,
        revision: row.int()?,
        item: row.number()?,
        bytes_done: row.number()?,
        bytes_total: row.number()?,
        step: row.text()?,
        cancel: match (row.opt_parse()?, row.opt_time()?, row.parse()?) {
            (Some(reason), Some(deadline), stage) => Some(CancelRequest { reason, deadline, stage }),
            _ => None,
        },
        hold: row.word()?,
        stage: row.number()?,
        purpose: row.parse()?,
        drifts: row.number()?,
        change: row.int()?,
    })
}

fn attempt(row: &mut Columns<'_>) -> Result<Attempt> {
    Ok(Attempt {
        id: row.parse()?,
        job: row.parse()?,
        client: row.parse()?,
        number: row.number()?,
        revision: row.int()?,
        state: row.parse()?,
        purpose: row.parse()?,
        created: row.time()?,
        ended: row.opt_time()?,
        outcome: row.bytes()?,
        signature: row.bytes()?,
    })
}

/// A row with more columns than a tuple may have to be written.
struct Flat<'a>(
    #[allow(clippy::type_complexity)]
    (
        &'a str,
        &'a str,
        &'a str,
        &'a str,
        String,
        String,
        i64,
        Option<&'a str>,
        Option<u32>,
        Option<i64>,
        Option<u32>,
        Option<i64>,
        Option<i64>,
        Option<String>,
        Option<&'a str>,
    ),
    (Option<i64>, Option<&'a str>, Option<&'a str>),
);

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Flat(a, b) = self;
        let mut row = serializer.serialize_seq(Some(18))?;
        for text in [a.0, a.1, a.2, a.3, a.4.as_str(), a.5.as_str()] {
            row.serialize_element(text)?;
        }
        row.serialize_element(&a.6)?;
        row.serialize_element(&a.7)?;
        row.serialize_element(&a.8)?;
        row.serialize_element(&a.9)?;
        row.serialize_element(&a.10)?;
        row.serialize_element(&a.11)?;
        row.serialize_element(&a.12)?;
        row.serialize_element(&a.13)?;
        row.serialize_element(&a.14)?;
        row.serialize_element(&b.0)?;
        row.serialize_element(&b.1)?;
        row.serialize_element(&b.2)?;
        row.end()
    }
}

impl Unit<'_> {
    /// Adds QUEUED executions for clients that exist, are not archived and that the job does not exclude; gives back those that were added.
    async fn insert_queued(&mut self, job: &JobId, clients: &[&str], now: Timestamp) -> Result<Vec<ClientId>> {
        let change = self.change(clients.len()).await?;
        let sql = concat!(
            "INSERT INTO execution (job, client, owner_site, epoch, state, reason, detail, entered_ms, attempts, revision, item, bytes_done, \
             bytes_total, step, change, hold, turn, quiet_ms) SELECT j.id, c.id, ",
            own_site!(),
            ", 1, 'QUEUED', '', '', $3, 0, 0, 0, 0, 0, '', $4, COALESCE((SELECT r.hold FROM rollout r WHERE r.job = j.id), ''), \
             CAST(v.value->>1 AS BIGINT), $3 FROM",
            each!(1),
            "CROSS JOIN client c CROSS JOIN job j WHERE j.id = $2 AND c.archived_ms IS NULL AND c.id = v.value->>0 \
             AND NOT EXISTS (SELECT 1 FROM job_exclusion x WHERE x.job = $2 AND x.kind = 'CLIENT' AND x.target = c.id) \
             AND NOT EXISTS (SELECT 1 FROM job_exclusion x JOIN membership m ON m.group_uid = x.target AND m.client = c.id \
             WHERE x.job = $2 AND x.kind = 'GROUP') \
             ORDER BY c.id ON CONFLICT DO NOTHING RETURNING client"
        );
        let turns: Vec<_> = clients.iter().map(|client| (client, rollout::turn(job, client))).collect();
        let query = query!(sql, bind::json(&turns), job.to_string(), bind::ms(now), change);
        let mut added: Vec<ClientId> = self.list("execution", query, |row| row.parse()).await?;
        added.sort();
        self.count(&BTreeMap::from([((job, ExecutionState::Queued), added.len() as i64)])).await?;
        Ok(added)
    }

    /// Adds to the counters.
    async fn count(&mut self, more: &BTreeMap<(&JobId, ExecutionState), i64>) -> Result<()> {
        let rows: Vec<_> = more.iter().filter(|(_, n)| **n != 0).map(|((job, state), n)| (job.as_str(), state.as_str(), *n)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.run(query!(
            concat!(
                "INSERT INTO job_counter (job, site, state, n) SELECT v.value->>0, ",
                own_site!(),
                ", v.value->>1, CAST(v.value->>2 AS BIGINT) FROM",
                each!(1),
                "WHERE TRUE ON CONFLICT (job, site, state) DO UPDATE SET n = job_counter.n + excluded.n"
            ),
            bind::json(&rows)
        ))
        .await?;
        Ok(())
    }

    /// Writes changes of executions, each of another one.
    async fn change_rows(&mut self, changes: &[&ExecutionChange]) -> Result<()> {
        let number = self.change(changes.len()).await?;
        let mut rows = Vec::with_capacity(changes.len());
        let mut counts: BTreeMap<(&JobId, ExecutionState), i64> = BTreeMap::new();
        for c in changes {
            *counts.entry((&c.job, c.from)).or_default() -= 1;
            *counts.entry((&c.job, c.to)).or_default() += 1;
            let (id, attempts, revision) = match &c.attempt {
                Some((id, attempts, revision)) => (Some(id.as_str()), Some(*attempts), Some(*revision)),
                None => (None, None, None),
            };
            let (item, done, total, step) = match &c.progress {
                Some((item, done, total, step)) => (Some(*item), Some(bind::int(*done)?), Some(bind::int(*total)?), Some(bind::text(step))),
                None => (None, None, None, None),
            };
            // Nothing leaves a cancellation as it is, the empty word ends it.
            let (cancel, deadline, stage) = match &c.cancel {
                None => (None, None, None),
                Some(None) => (Some(""), None, None),
                Some(Some(request)) => (Some(request.reason.as_str()), Some(bind::ms(request.deadline)), Some(request.stage.as_str())),
            };
            let (job, client, from, to) = (c.job.as_str(), c.client.as_str(), c.from.as_str(), c.to.as_str());
            let (reason, detail, entered) = (bind::text(&c.reason), bind::text(&c.detail), bind::ms(c.entered));
            let last = (deadline, c.purpose.map(Purpose::as_str), stage);
            rows.push(Flat(
                (job, client, from, to, reason, detail, entered, id, attempts, revision, item, done, total, step, cancel),
                last,
            ));
        }
        // Flat rows: SQLite reads the JSON of a row once, but that of a list inside it each time.
        let sql = concat!(
            "UPDATE execution SET state = v.value->>3, reason = v.value->>4, detail = v.value->>5, \
             entered_ms = CAST(v.value->>6 AS BIGINT), \
             attempt = COALESCE(v.value->>7, execution.attempt), \
             attempts = COALESCE(CAST(v.value->>8 AS BIGINT), execution.attempts), \
             revision = COALESCE(CAST(v.value->>9 AS BIGINT), execution.revision), \
             item = COALESCE(CAST(v.value->>10 AS BIGINT), execution.item), \
             bytes_done = COALESCE(CAST(v.value->>11 AS BIGINT), execution.bytes_done), \
             bytes_total = COALESCE(CAST(v.value->>12 AS BIGINT), execution.bytes_total), \
             step = COALESCE(v.value->>13, execution.step), \
             cancel_reason = CASE WHEN v.value->>14 IS NULL THEN execution.cancel_reason ELSE NULLIF(v.value->>14, '') END, \
             cancel_deadline_ms = CASE WHEN v.value->>14 IS NULL THEN execution.cancel_deadline_ms ELSE CAST(v.value->>15 AS BIGINT) END, \
             cancel_stage = CASE WHEN v.value->>14 IS NULL THEN execution.cancel_stage ELSE COALESCE(v.value->>17, 'ASKED') END, \
             purpose = COALESCE(v.value->>16, execution.purpose), \
             hold = CASE WHEN v.value->>3 <> 'QUEUED' AND execution.hold <> 'STAGE' THEN '' ELSE execution.hold END, \
             drifts = execution.drifts + CASE WHEN v.value->>16 = 'DRIFT' THEN 1 ELSE 0 END, \
             quiet_ms = CASE WHEN v.value->>7 IS NOT NULL OR (v.value->>3 = 'QUEUED' AND execution.state <> 'QUEUED') \
             OR (execution.state = 'WAITING' AND execution.reason IN ",
            may_wait!(),
            " AND NOT (v.value->>3 = 'WAITING' AND v.value->>4 IN ",
            may_wait!(),
            ")) THEN CAST(v.value->>6 AS BIGINT) ELSE execution.quiet_ms END, \
             change = $2 FROM",
            each!(1),
            "WHERE execution.job = v.value->>0 AND execution.client = v.value->>1 AND execution.state = v.value->>2"
        );
        let changed = self.run(query!(sql, bind::json(&rows), number)).await?;
        // The counters go by what the unit read: where that is no longer true nothing may be kept.
        if changed != rows.len() as u64 {
            return Err(self.outrun(format!(
                "{} of {} executions were not in the state that they were changed from",
                rows.len() as u64 - changed,
                rows.len()
            )));
        }
        self.count(&counts).await
    }
}

#[async_trait]
impl Executions for Unit<'_> {
    async fn insert_executions(&mut self, job: &JobId, clients: &[ClientId], now: Timestamp) -> Result<Vec<ClientId>> {
        let clients: BTreeSet<&str> = clients.iter().map(ClientId::as_str).collect();
        let clients: Vec<&str> = clients.into_iter().collect();
        let mut added = Vec::new();
        for some in clients.chunks(ROWS) {
            added.extend(self.insert_queued(job, some, now).await?);
        }
        Ok(added)
    }

    async fn insert_executions_for_group(&mut self, job: &JobId, group: &Uid, now: Timestamp) -> Result<u64> {
        // A look-up for each member, whatever the planner knows of the tables: most members have their execution already.
        let sql = "SELECT m.client FROM membership m WHERE m.group_uid = $1 AND m.client > $2 \
                   AND (SELECT c.state FROM client c WHERE c.id = m.client) IN ('ACTIVE', 'QUARANTINED') \
                   AND (SELECT e.epoch FROM execution e WHERE e.job = $3 AND e.client = m.client) IS NULL ORDER BY m.client LIMIT $4";
        let (mut after, mut added) = (String::new(), 0);
        loop {
            let query = query!(sql, group.to_string(), after.clone(), job.to_string(), ROWS as i64);
            let clients = self.list("membership", query, |row| row.text()).await?;
            let Some(last) = clients.last() else { return Ok(added) };
            after.clone_from(last);
            let clients: Vec<&str> = clients.iter().map(String::as_str).collect();
            added += self.insert_queued(job, &clients, now).await?.len() as u64;
        }
    }

    async fn execution(&mut self, job: &JobId, client: &ClientId) -> Result<Option<Execution>> {
        let sql = self.lock(concat!("SELECT ", execution_columns!(), " FROM execution e WHERE e.job = $1 AND e.client = $2"));
        self.one("execution", query!(sql, job.to_string(), client.to_string()), execution).await
    }

    async fn executions(&mut self, keys: &[(JobId, ClientId)]) -> Result<Vec<Execution>> {
        // Each once and in order, so that units that lock the same rows do not meet head-on.
        let keys: BTreeSet<(&str, &str)> = keys.iter().map(|(job, client)| (job.as_str(), client.as_str())).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let sql = self.lock(concat!(
            "SELECT ",
            execution_columns!(),
            " FROM",
            each!(1),
            "CROSS JOIN execution e WHERE e.job = v.value->>0 AND e.client = v.value->>1 ORDER BY e.job, e.client /* OF e */"
        ));
        let mut all = Vec::with_capacity(keys.len());
        for keys in keys.chunks(ROWS) {
            let sql = sql.clone();
            all.extend(self.list("execution", query!(sql, bind::json(keys)), execution).await?);
        }
        Ok(all)
    }

    async fn list_executions(&mut self, job: &JobId, page: &Page, states: &[ExecutionState]) -> Result<Vec<Execution>> {
        let (after, limit) = (bind::after(page), i64::from(page.limit));
        if states.is_empty() {
            let sql =
                concat!("SELECT ", execution_columns!(), " FROM execution e WHERE e.job = $1 AND e.client > $2 ORDER BY e.client LIMIT $3");
            return self.list("execution", query!(sql, job.to_string(), after, limit), execution).await;
        }
        // One walk along the index for each state: a job of a million rows with ten failed ones answers at once.
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e WHERE e.job = $1 AND e.state = $4 AND e.client > $2 ORDER BY e.client LIMIT $3"
        );
        let mut rows = Vec::new();
        for state in states.iter().collect::<BTreeSet<_>>() {
            rows.extend(self.list("execution", query!(sql, job.to_string(), after.clone(), limit, state.as_str()), execution).await?);
        }
        rows.sort_by(|a, b| a.client.cmp(&b.client));
        rows.truncate(page.limit as usize);
        Ok(rows)
    }

    async fn executions_changed_since(&mut self, job: &JobId, change: i64, limit: u32) -> Result<Vec<Execution>> {
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e WHERE e.job = $1 AND e.change > $2 AND e.change <= COALESCE((SELECT o.change FROM execution o \
             WHERE o.job = $1 AND o.change > $2 ORDER BY o.change LIMIT 1 OFFSET $3), 9223372036854775807) ORDER BY e.change, e.client"
        );
        self.list("execution", query!(sql, job.to_string(), change, i64::from(limit.max(1)) - 1), execution).await
    }

    async fn executions_of(&mut self, client: &ClientId, limit: u32) -> Result<Vec<Execution>> {
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e JOIN job j ON j.id = e.job WHERE e.client = $1 ORDER BY j.created_ms DESC, j.id DESC LIMIT $2"
        );
        self.list("execution", query!(sql, client.to_string(), i64::from(limit)), execution).await
    }

    async fn open_executions_of(&mut self, client: &ClientId) -> Result<Vec<Execution>> {
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e WHERE e.client = $1 AND e.state IN \
             ('QUEUED', 'OFFERED', 'DOWNLOADING', 'WAITING', 'INSTALLING', 'VERIFYING', 'RESTORING') ORDER BY e.job"
        );
        self.list("execution", query!(sql, client.to_string()), execution).await
    }

    async fn open_executions_of_all(&mut self, clients: &[ClientId]) -> Result<Vec<Execution>> {
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e WHERE e.state IN \
             ('QUEUED', 'OFFERED', 'DOWNLOADING', 'WAITING', 'INSTALLING', 'VERIFYING', 'RESTORING') AND e.client",
            any!(1),
            " ORDER BY e.client, e.job"
        );
        self.list("execution", query!(sql, bind::list(clients)), execution).await
    }

    async fn queued_for(&mut self, clients: &[ClientId], after: Option<&QueuedAfter>, limit: u32) -> Result<Vec<(Execution, Job)>> {
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            ", ",
            job_columns!(),
            " FROM execution e CROSS JOIN job j WHERE j.id = e.job AND e.client",
            any!(1),
            " AND",
            offerable!(),
            "AND (e.client, j.priority, j.created_ms, j.id) > ($3, $4, $5, $6) ORDER BY e.client, j.priority, j.created_ms, j.id LIMIT $2"
        );
        let (client, priority, created, id) = match after {
            Some(a) => (a.client.to_string(), i64::from(a.priority), bind::ms(a.created), a.job.to_string()),
            None => Default::default(),
        };
        let query = query!(sql, bind::list(clients), i64::from(limit), client, priority, created, id);
        self.list("execution", query, |row| Ok((execution(row)?, job(row)?))).await
    }

    async fn clients_with_queued(&mut self, after: Option<&ClientId>, limit: u32) -> Result<Vec<ClientId>> {
        let sql = concat!("SELECT DISTINCT e.client FROM execution e WHERE e.client > $1 AND", offerable!(), "ORDER BY e.client LIMIT $2");
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        self.list("execution", query!(sql, after, i64::from(limit)), |row| row.parse()).await
    }

    async fn queued_clients_of(&mut self, job: &JobId, after: Option<&ClientId>, limit: u32) -> Result<Vec<ClientId>> {
        let sql = "SELECT client FROM execution WHERE job = $1 AND state = 'QUEUED' AND hold = '' AND client > $2 ORDER BY client LIMIT $3";
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        self.list("execution", query!(sql, job.to_string(), after, i64::from(limit)), |row| row.parse()).await
    }

    async fn change_executions(&mut self, changes: &[ExecutionChange]) -> Result<()> {
        // Changes of one row come one after the other: a statement writes a row once.
        let mut batch: Vec<&ExecutionChange> = Vec::new();
        let mut keys = BTreeSet::new();
        for change in changes {
            let key = (&change.job, &change.client);
            if batch.len() == ROWS || keys.contains(&key) {
                self.change_rows(&batch).await?;
                batch.clear();
                keys.clear();
            }
            keys.insert(key);
            batch.push(change);
        }
        if batch.is_empty() { Ok(()) } else { self.change_rows(&batch).await }
    }

    async fn drift_count(&mut self, job: &JobId) -> Result<i64> {
        let sql = "SELECT CAST(COALESCE(SUM(drifts), 0) AS BIGINT) FROM execution WHERE job = $1 AND drifts > 0";
        Ok(self.one("execution", query!(sql, job.to_string()), |row| row.int()).await?.unwrap_or(0))
    }

    async fn checks_wait(&mut self) -> Result<bool> {
        let sql = "SELECT 1 FROM execution WHERE check_ms IS NOT NULL LIMIT 1";
        Ok(self.one("execution", query!(sql), |row| row.int()).await?.is_some())
    }

    async fn checks_due(&mut self, clients: &[ClientId], now: Timestamp, limit: u32) -> Result<Vec<(Execution, Job)>> {
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            ", ",
            job_columns!(),
            " FROM execution e CROSS JOIN job j WHERE j.id = e.job AND e.check_ms <= $2 AND e.client",
            any!(1),
            " ORDER BY e.client, e.job LIMIT $3"
        );
        let query = query!(sql, bind::list(clients), bind::ms(now), i64::from(limit));
        self.list("execution", query, |row| Ok((execution(row)?, job(row)?))).await
    }

    async fn set_checks(&mut self, checks: &[(JobId, ClientId, Option<Timestamp>)]) -> Result<()> {
        for checks in checks.chunks(ROWS) {
            let rows: Vec<_> = checks.iter().map(|(job, client, at)| (job.as_str(), client.as_str(), bind::opt_ms(*at))).collect();
            let sql = concat!(
                "UPDATE execution SET check_ms = CAST(v.value->>2 AS BIGINT) FROM",
                each!(1),
                "WHERE execution.job = v.value->>0 AND execution.client = v.value->>1"
            );
            self.run(query!(sql, bind::json(&rows))).await?;
        }
        Ok(())
    }

    async fn cancels_overdue(&mut self, now: Timestamp, limit: u32) -> Result<Vec<Execution>> {
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e WHERE e.cancel_reason IS NOT NULL AND e.cancel_deadline_ms <= $1 AND e.cancel_stage = 'ASKED' ORDER BY e.cancel_deadline_ms LIMIT $2"
        );
        self.list("execution", query!(sql, bind::ms(now), i64::from(limit)), execution).await
    }

    async fn insert_attempts(&mut self, attempts: &[Attempt]) -> Result<()> {
        for attempts in attempts.chunks(ROWS) {
            let rows: Vec<_> = attempts
                .iter()
                .map(|a| {
                    (
                        (a.id.as_str(), a.job.as_str(), a.client.as_str(), a.number, a.revision),
                        (a.state.as_str(), bind::ms(a.created), bind::opt_ms(a.ended), a.purpose.as_str()),
                        (bind::hex(&a.outcome), bind::hex(&a.signature)),
                    )
                })
                .collect();
            let sql = concat!(
                "INSERT INTO attempt (id, job, client, number, revision, state, created_ms, ended_ms, purpose, outcome, signature) \
                 SELECT v.value->0->>0, v.value->0->>1, v.value->0->>2, CAST(v.value->0->>3 AS BIGINT), CAST(v.value->0->>4 AS BIGINT), \
                 v.value->1->>0, CAST(v.value->1->>1 AS BIGINT), CAST(v.value->1->>2 AS BIGINT), v.value->1->>3, ",
                unhex!("v.value->2->>0"),
                ", ",
                unhex!("v.value->2->>1"),
                " FROM",
                each!(1),
                "WHERE TRUE ON CONFLICT DO NOTHING"
            );
            if self.run(query!(sql, bind::json(&rows))).await? != attempts.len() as u64 {
                return Err(StoreError::Exists("attempt"));
            }
        }
        Ok(())
    }

    async fn attempt(&mut self, id: &AttemptId) -> Result<Option<Attempt>> {
        let sql = self.lock(concat!("SELECT ", attempt_columns!(), " FROM attempt a WHERE a.id = $1"));
        self.one("attempt", query!(sql, id.to_string()), attempt).await
    }

    async fn attempts(&mut self, ids: &[AttemptId]) -> Result<Vec<Attempt>> {
        let sql = self.lock(concat!("SELECT ", attempt_columns!(), " FROM attempt a WHERE a.id", any!(1), " ORDER BY a.id"));
        self.list("attempt", query!(sql, bind::list(ids)), attempt).await
    }

    async fn attempts_of(&mut self, job: &JobId, client: &ClientId) -> Result<Vec<Attempt>> {
        let sql =
            concat!("SELECT ", attempt_columns!(), " FROM attempt a WHERE a.job = $1 AND a.client = $2 ORDER BY a.number DESC LIMIT 100");
        self.list("attempt", query!(sql, job.to_string(), client.to_string()), attempt).await
    }

    async fn attempts_of_all(&mut self, job: &JobId, clients: &[ClientId]) -> Result<Vec<Attempt>> {
        // The number of an attempt is that of the execution's attempts when it was made: the hundred newest are those above this.
        let sql = concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM attempt a JOIN execution e ON e.job = a.job AND e.client = a.client WHERE a.job = $1 AND a.client",
            any!(2),
            " AND a.number > e.attempts - 100 ORDER BY a.client, a.number DESC"
        );
        self.list("attempt", query!(sql, job.to_string(), bind::list(clients)), attempt).await
    }

    async fn ended_elsewhere(&mut self, job: &JobId, clients: &[ClientId]) -> Result<Vec<(JobId, ClientId)>> {
        let sql = concat!(
            "SELECT e.job, e.client FROM execution e WHERE e.client",
            any!(2),
            " AND e.job <> $1 AND e.attempts > 0 AND e.purpose <> 'LEAVE' AND e.state NOT IN \
             ('QUEUED', 'OFFERED', 'DOWNLOADING', 'WAITING', 'INSTALLING', 'VERIFYING', 'RESTORING') \
             AND (SELECT j.state FROM job j WHERE j.id = e.job) IN ('ACTIVE', 'PAUSED') ORDER BY e.job, e.client"
        );
        self.list("execution", query!(sql, job.to_string(), bind::list(clients)), |row| Ok((row.parse()?, row.parse()?))).await
    }

    async fn set_attempt_states(&mut self, states: &[(AttemptId, ExecutionState)]) -> Result<()> {
        // The last state of each wins.
        let last: BTreeMap<&str, &str> = states.iter().map(|(id, state)| (id.as_str(), state.as_str())).collect();
        let rows: Vec<_> = last.into_iter().collect();
        for rows in rows.chunks(ROWS) {
            let sql = concat!(
                "UPDATE attempt SET state = v.value->>1 FROM",
                each!(1),
                "WHERE attempt.id = v.value->>0 AND length(attempt.outcome) = 0"
            );
            self.run(query!(sql, bind::json(rows))).await?;
        }
        Ok(())
    }

    async fn finish_attempts(&mut self, attempts: &[Attempt]) -> Result<()> {
        // The first of two for one attempt stays. Large ones row by row: up to half a megabyte, bound as they are.
        let (short, long): (Vec<&Attempt>, Vec<&Attempt>) = attempts.iter().partition(|a| a.outcome.len() <= SHORT);
        for attempts in short.chunks(ROWS) {
            // A statement writes a row once.
            let rows: BTreeMap<_, _> = (attempts.iter().rev())
                .map(|a| {
                    let (outcome, signature) = (bind::hex(&a.outcome), bind::hex(&a.signature));
                    (a.id.as_str(), (a.id.as_str(), a.state.as_str(), bind::opt_ms(a.ended), outcome, signature))
                })
                .collect();
            let sql = concat!(
                "UPDATE attempt SET state = v.value->>1, ended_ms = CAST(v.value->>2 AS BIGINT), outcome = ",
                unhex!("v.value->>3"),
                ", signature = ",
                unhex!("v.value->>4"),
                " FROM",
                each!(1),
                "WHERE attempt.id = v.value->>0 AND length(attempt.outcome) = 0"
            );
            self.run(query!(sql, bind::json(&rows.into_values().collect::<Vec<_>>()))).await?;
        }
        let sql = "UPDATE attempt SET state = $2, ended_ms = $3, outcome = $4, signature = $5 WHERE id = $1 AND length(outcome) = 0";
        for a in long {
            let ended = bind::opt_ms(a.ended);
            let (outcome, signature) = (a.outcome.clone(), a.signature.clone());
            self.run(query!(sql, a.id.to_string(), a.state.as_str(), ended, outcome, signature)).await?;
        }
        Ok(())
    }
}
