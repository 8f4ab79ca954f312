//! Rollouts: the positions of jobs in their stages, and what stages hold.

use super::{
    executions::{execution, execution_columns, may_wait},
    unit::{Columns, Result, Unit},
};
use crate::{Held, Reached, Rollouts, bind};
use async_trait::async_trait;
use std::sync::LazyLock;
use sutler_base::{
    ClientId, JobId, Timestamp, Uid,
    state::{ExecutionState, HoldReason},
};
use sutler_core::{model::Execution, rollout::Position};

/// What makes a [`Reached`], from `execution e` and `client c`.
macro_rules! reached_columns {
    () => {
        concat!(
            execution_columns!(),
            ", c.state, COALESCE((SELECT s.seen_ms FROM client_seen s WHERE s.client = c.id), c.enrolled_ms), e.quiet_ms"
        )
    };
}

/// The states of rows whose clients were offered the job and are not at an end.
const OFFERED: [ExecutionState; 6] = {
    use ExecutionState::*;
    [Offered, Downloading, Waiting, Installing, Verifying, Restoring]
};

/// One walk for each state, with every column of the index: else SQLite goes over all stages. One statement for all of them: these counts
/// are asked for whenever a stage is looked at.
static STAGE_COUNTS: LazyLock<String> = LazyLock::new(|| {
    let count = |state: &ExecutionState| {
        format!(
            "SELECT '{state}', COUNT(*) FROM execution WHERE job = $1 AND stage = $2 AND stage > 0 AND state = '{state}' \
             AND purpose <> 'LEAVE' AND client > ''"
        )
    };
    ExecutionState::ALL.iter().map(count).collect::<Vec<_>>().join(" UNION ALL ")
});

fn reached(row: &mut Columns<'_>) -> Result<Reached> {
    Ok(Reached { execution: execution(row)?, client_state: row.parse()?, last_seen: row.time()?, quiet: row.time()? })
}

#[async_trait]
impl Rollouts for Unit<'_> {
    async fn rollout(&mut self, job: &JobId) -> Result<Option<Position>> {
        let sql = self.lock("SELECT position FROM rollout WHERE job = $1");
        self.one("rollout", query!(sql, job.to_string()), |row| row.json()).await
    }

    async fn put_rollout(&mut self, job: &JobId, position: &Position, hold: Option<HoldReason>) -> Result<()> {
        // Who offers what is queued has taken its number before, or sees this.
        self.change(1).await?;
        let sql = "INSERT INTO rollout (job, hold, position) VALUES ($1, $2, $3) \
                   ON CONFLICT (job) DO UPDATE SET hold = excluded.hold, position = excluded.position";
        let hold = hold.map_or("", HoldReason::as_str);
        self.run(query!(sql, job.to_string(), hold, bind::text(&bind::json(position)))).await?;
        Ok(())
    }

    async fn rollouts_active(&mut self, after: Option<&JobId>, limit: u32) -> Result<Vec<JobId>> {
        let sql = "SELECT j.id FROM job j WHERE j.state = 'ACTIVE' AND j.id > $1 \
                   AND (SELECT r.job FROM rollout r WHERE r.job = j.id) IS NOT NULL ORDER BY j.id LIMIT $2";
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        self.list("job", query!(sql, after, i64::from(limit)), |row| row.parse()).await
    }

    async fn stopped_among(&mut self, jobs: &[JobId]) -> Result<Vec<JobId>> {
        let sql = concat!("SELECT j.id FROM job j WHERE j.state <> 'ACTIVE' AND j.id", any!(1), " ORDER BY j.id");
        self.list("job", query!(sql, bind::list(jobs)), |row| row.parse()).await
    }

    async fn change_number(&mut self) -> Result<i64> {
        self.change(1).await
    }

    async fn stage_counts(&mut self, job: &JobId, stage: u32) -> Result<Vec<(ExecutionState, i64)>> {
        let query = query!(STAGE_COUNTS.as_str(), job.to_string(), i64::from(stage));
        let mut counts = self.list("execution", query, |row| Ok((row.parse()?, row.int()?))).await?;
        counts.retain(|(_, n)| *n > 0);
        counts.sort_by_key(|(state, _)| *state);
        Ok(counts)
    }

    async fn stage_waiting(&mut self, job: &JobId, stage: u32, after: Option<&ClientId>, limit: u32) -> Result<Vec<Reached>> {
        let sql = concat!(
            "SELECT ",
            reached_columns!(),
            " FROM execution e CROSS JOIN client c WHERE e.job = $1 AND e.stage = $2 AND e.stage > 0 \
             AND e.state = $3 AND e.purpose <> 'LEAVE' AND e.client > $4 AND e.hold IN ('', 'STOPPED', 'BREAKER') AND c.id = e.client ORDER BY e.client LIMIT $5"
        );
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        let mut rows = Vec::new();
        for state in [ExecutionState::Queued, ExecutionState::Offered] {
            let query = query!(sql, job.to_string(), i64::from(stage), state.as_str(), after.clone(), i64::from(limit));
            rows.extend(self.list("execution", query, reached).await?);
        }
        rows.sort_by(|a, b| a.execution.client.cmp(&b.execution.client));
        rows.truncate(limit as usize);
        Ok(rows)
    }

    async fn offered(&mut self, job: &JobId, after: Option<&ClientId>, limit: u32) -> Result<Vec<Reached>> {
        let sql = concat!(
            "SELECT ",
            reached_columns!(),
            " FROM execution e CROSS JOIN client c WHERE e.job = $1 AND e.state = 'OFFERED' AND e.client > $2 AND e.purpose <> 'LEAVE' \
             AND c.id = e.client ORDER BY e.client LIMIT $3"
        );
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        self.list("execution", query!(sql, job.to_string(), after, i64::from(limit)), reached).await
    }

    async fn silent(&mut self, job: &JobId, before: Timestamp) -> Result<Vec<(u32, ExecutionState, i64)>> {
        // Here and below along the rows in one state: else SQLite goes over all of the job.
        let sql = concat!(
            "SELECT s.stage, COUNT(*) FROM (SELECT stage FROM execution WHERE job = $1 AND state = $2 AND client > '' AND quiet_ms <= $3 \
             AND purpose <> 'LEAVE' AND reason NOT IN ",
            may_wait!(),
            " ORDER BY client LIMIT 9223372036854775807) s GROUP BY s.stage ORDER BY s.stage"
        );
        let mut silent = Vec::new();
        for state in OFFERED {
            let query = query!(sql, job.to_string(), state.as_str(), bind::ms(before));
            silent.extend(self.list("execution", query, |row| Ok((row.number::<u32>()?, state, row.int()?))).await?);
        }
        Ok(silent)
    }

    async fn silent_last(&mut self, job: &JobId, stage: u32, before: Timestamp, limit: u32) -> Result<Vec<Timestamp>> {
        let sql = concat!(
            "SELECT s.quiet_ms FROM (SELECT quiet_ms FROM execution WHERE job = $1 AND state = $2 AND client > '' AND quiet_ms <= $3 \
             AND purpose <> 'LEAVE' AND reason NOT IN ",
            may_wait!(),
            " AND (stage = 0 OR stage > $4) ORDER BY client LIMIT 9223372036854775807) s ORDER BY s.quiet_ms DESC LIMIT $5"
        );
        let mut since = Vec::new();
        for state in OFFERED {
            let query = query!(sql, job.to_string(), state.as_str(), bind::ms(before), i64::from(stage), i64::from(limit));
            since.extend(self.list("execution", query, |row| row.time()).await?);
        }
        since.sort_by(|a: &Timestamp, b| b.cmp(a));
        since.truncate(limit as usize);
        Ok(since)
    }

    async fn silent_waiting(&mut self, job: &JobId, before: Timestamp, after: Option<&ClientId>, limit: u32) -> Result<Vec<Reached>> {
        let sql = concat!(
            "SELECT ",
            reached_columns!(),
            " FROM execution e CROSS JOIN client c WHERE e.job = $1 AND e.state = 'WAITING' AND e.client > $2 AND e.entered_ms <= $3 \
             AND e.purpose <> 'LEAVE' AND e.reason IN ",
            may_wait!(),
            " AND c.id = e.client AND COALESCE((SELECT s.seen_ms FROM client_seen s WHERE s.client = c.id), c.enrolled_ms) <= $3 \
             ORDER BY e.client LIMIT $4"
        );
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        self.list("execution", query!(sql, job.to_string(), after, bind::ms(before), i64::from(limit)), reached).await
    }

    async fn failed_after(&mut self, job: &JobId, change: i64) -> Result<Vec<(u32, i64)>> {
        // Who was offline when its turn came says nothing of the package; what waits for its retry has failed.
        let sql = "SELECT s.stage, COUNT(*) FROM (SELECT stage FROM execution WHERE job = $1 AND state = $2 AND client > '' AND change > $3 \
                   AND reason || '' <> 'OFFLINE' AND purpose <> 'LEAVE' ORDER BY client LIMIT 9223372036854775807) s GROUP BY s.stage ORDER BY s.stage";
        let mut failed = Vec::new();
        for state in [ExecutionState::Failed, ExecutionState::Interrupted] {
            let query = query!(sql, job.to_string(), state.as_str(), change);
            failed.extend(self.list("execution", query, |row| Ok((row.number::<u32>()?, row.int()?))).await?);
        }
        let sql = "SELECT s.stage, COUNT(*) FROM (SELECT stage FROM execution WHERE state = 'QUEUED' \
                   AND hold IN ('STOPPED', 'BREAKER', 'BUDGET', 'RETRY') AND hold = 'RETRY' AND job = $1 AND change + 0 > $2 AND purpose <> 'LEAVE' \
                   ORDER BY client LIMIT 9223372036854775807) s GROUP BY s.stage ORDER BY s.stage";
        failed.extend(self.list("execution", query!(sql, job.to_string(), change), |row| Ok((row.number::<u32>()?, row.int()?))).await?);
        Ok(failed)
    }

    async fn newest_outcomes(&mut self, job: &JobId, change: i64, limit: u32) -> Result<Vec<Execution>> {
        // In the words of the index that has them in this order.
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e WHERE e.job = $1 AND e.state IN ('SUCCEEDED', 'FAILED', 'INTERRUPTED') AND e.purpose <> 'LEAVE' \
             AND e.reason <> 'OFFLINE' AND e.change > $2 ORDER BY e.change DESC LIMIT $3"
        );
        let mut newest: Vec<Execution> = self.list("execution", query!(sql, job.to_string(), change, i64::from(limit)), execution).await?;
        let sql = concat!(
            "SELECT ",
            execution_columns!(),
            " FROM execution e WHERE e.state = 'QUEUED' AND e.hold IN ('STOPPED', 'BREAKER', 'BUDGET', 'RETRY') AND e.hold = 'RETRY' \
             AND e.job = $1 AND e.change + 0 > $2 AND e.purpose <> 'LEAVE' ORDER BY e.change + 0 DESC LIMIT $3"
        );
        newest.extend(self.list("execution", query!(sql, job.to_string(), change, i64::from(limit)), execution).await?);
        newest.sort_by_key(|row| std::cmp::Reverse(row.change));
        newest.truncate(limit as usize);
        Ok(newest)
    }

    async fn held_by_stage(&mut self, job: &JobId, groups: &[Uid], after: Option<(i64, &ClientId)>, limit: u32) -> Result<Vec<Held>> {
        let (turn, client) = after.map_or((-1, String::new()), |(turn, client)| (turn, client.to_string()));
        let read =
            |row: &mut Columns<'_>| Ok(Held { turn: row.int()?, client: row.parse()?, client_state: row.parse()?, last_seen: row.time()? });
        if groups.is_empty() {
            let sql = "SELECT e.turn, e.client, c.state, COALESCE((SELECT s.seen_ms FROM client_seen s WHERE s.client = c.id), c.enrolled_ms) FROM execution e CROSS JOIN client c WHERE e.job = $1 \
                       AND e.state = 'QUEUED' AND e.hold = 'STAGE' AND (e.turn, e.client) > ($2, $3) AND c.id = e.client \
                       ORDER BY e.turn, e.client LIMIT $4";
            return self.list("execution", query!(sql, job.to_string(), turn, client, i64::from(limit)), read).await;
        }
        let sql = concat!(
            "SELECT e.turn, e.client, c.state, COALESCE((SELECT s.seen_ms FROM client_seen s WHERE s.client = c.id), c.enrolled_ms) FROM execution e CROSS JOIN client c WHERE e.job = $1 \
             AND e.state = 'QUEUED' AND e.hold = 'STAGE' AND (e.turn, e.client) > ($2, $3) AND c.id = e.client \
             AND EXISTS (SELECT 1 FROM membership m WHERE m.client = e.client AND m.group_uid",
            any!(5),
            ") ORDER BY e.turn, e.client LIMIT $4"
        );
        let query = query!(sql, job.to_string(), turn, client, i64::from(limit), bind::list(groups));
        self.list("execution", query, read).await
    }

    async fn release_to_stage(&mut self, job: &JobId, clients: &[ClientId], stage: u32, now: Timestamp) -> Result<u64> {
        let change = self.change(clients.len()).await?;
        let sql = concat!(
            "UPDATE execution SET hold = '', stage = $2, change = $3, quiet_ms = $5 WHERE job = $1 AND state = 'QUEUED' AND hold = 'STAGE' \
             AND client",
            any!(4)
        );
        self.run(query!(sql, job.to_string(), i64::from(stage), change, bind::list(clients), bind::ms(now))).await
    }

    async fn clients_held(&mut self, job: &JobId, by: HoldReason, after: Option<&ClientId>, limit: u32) -> Result<Vec<ClientId>> {
        let sql = "SELECT client FROM execution WHERE job = $1 AND state = 'QUEUED' AND hold = $2 AND client > $3 ORDER BY client LIMIT $4";
        let after = after.map(|a| a.to_string()).unwrap_or_default();
        self.list("execution", query!(sql, job.to_string(), by.as_str(), after, i64::from(limit)), |row| row.parse()).await
    }

    async fn choose(&mut self, job: &JobId, client: &ClientId) -> Result<bool> {
        let change = self.change(1).await?;
        let sql = "UPDATE execution SET hold = 'STAGE', stage = 0, change = $3 WHERE job = $1 AND client = $2 AND state = 'QUEUED' AND hold = 'USER'";
        Ok(self.run(query!(sql, job.to_string(), client.to_string(), change)).await? > 0)
    }

    async fn hold_by_stage(&mut self, job: &JobId, clients: &[ClientId], state: ExecutionState) -> Result<u64> {
        let change = self.change(clients.len()).await?;
        let sql = concat!(
            "UPDATE execution SET hold = CASE WHEN stage + 0 > 0 THEN 'STAGE' ELSE (SELECT r.hold FROM rollout r WHERE r.job = $1) END, \
             stage = 0, change = $2 WHERE job = $1 AND state = $4 AND hold <> 'STAGE' \
             AND (stage + 0 > 0 OR (SELECT r.hold FROM rollout r WHERE r.job = $1) IN ('STAGE', 'USER')) AND client",
            any!(3)
        );
        self.run(query!(sql, job.to_string(), change, bind::list(clients), state.as_str())).await
    }

    async fn put_last(&mut self, job: &JobId, clients: &[ClientId]) -> Result<()> {
        let sql = concat!(
            "UPDATE execution SET turn = 9223372036854775807 WHERE job = $1 AND state = 'QUEUED' AND hold = 'STAGE' AND client",
            any!(2)
        );
        self.run(query!(sql, job.to_string(), bind::list(clients))).await?;
        Ok(())
    }

    async fn hold_queued(&mut self, job: &JobId) -> Result<u64> {
        let change = self.change(1).await?;
        let sql = "UPDATE execution SET hold = 'STAGE', stage = 0, change = $2 WHERE job = $1 AND state = 'QUEUED' \
                   AND hold NOT IN ('STAGE', 'USER') AND purpose <> 'LEAVE'";
        self.run(query!(sql, job.to_string(), change)).await
    }
}
