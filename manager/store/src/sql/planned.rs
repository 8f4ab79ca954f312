//! Plans of jobs, and what they say of clients.

use super::unit::{Columns, Result, Unit};
use crate::{JobPlans, Page, bind};
use async_trait::async_trait;
use sutler_base::{ClientId, Timestamp, Uid};
use sutler_core::planned::{JobPlan, PlannedClient};

/// How many clients are written in one statement.
const ROWS: usize = 500;

fn plan(row: &mut Columns<'_>) -> Result<JobPlan> {
    Ok(JobPlan {
        id: row.parse()?,
        creator: row.text()?,
        order: row.bytes()?,
        summary: row.json()?,
        created: row.time()?,
        expires: row.time()?,
    })
}

fn client(row: &mut Columns<'_>) -> Result<PlannedClient> {
    Ok(PlannedClient {
        client: row.parse()?,
        verdict: row.parse()?,
        presence: row.parse()?,
        stage: row.number()?,
        bytes: row.number()?,
        opens: row.opt_time()?,
        why: row.text()?,
    })
}

#[async_trait]
impl JobPlans for Unit<'_> {
    async fn insert_plan(&mut self, plan: &JobPlan, clients: &[PlannedClient]) -> Result<()> {
        let sql = "INSERT INTO job_plan (id, creator, job_order, summary, clients, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                   ON CONFLICT DO NOTHING";
        let query = query!(
            sql,
            plan.id.to_string(),
            bind::text(&plan.creator),
            plan.order.clone(),
            bind::text(&bind::json(&plan.summary)),
            bind::int(clients.len() as u64)?,
            bind::ms(plan.created),
            bind::ms(plan.expires)
        );
        self.insert("plan", query).await?;
        let sql = concat!(
            "INSERT INTO job_plan_client (plan, client, verdict, presence, stage, bytes, opens_ms, why) SELECT $2, v.value->>0, v.value->>1, \
             v.value->>2, CAST(v.value->>3 AS BIGINT), CAST(v.value->>4 AS BIGINT), CAST(v.value->>5 AS BIGINT), v.value->>6 FROM",
            each!(1)
        );
        for rows in clients.chunks(ROWS) {
            let rows: Vec<_> = rows
                .iter()
                .map(|c| (&c.client, c.verdict, c.presence, c.stage, c.bytes, bind::opt_ms(c.opens), bind::text(&c.why)))
                .collect();
            self.run(query!(sql, bind::json(&rows), plan.id.to_string())).await?;
        }
        Ok(())
    }

    async fn plan(&mut self, id: &Uid) -> Result<Option<JobPlan>> {
        let sql = "SELECT id, creator, job_order, summary, created_ms, expires_ms FROM job_plan WHERE id = $1";
        self.one("job_plan", query!(sql, id.to_string()), plan).await
    }

    async fn plan_clients(&mut self, id: &Uid, page: &Page) -> Result<Vec<PlannedClient>> {
        let sql = "SELECT client, verdict, presence, stage, bytes, opens_ms, why FROM job_plan_client WHERE plan = $1 AND client > $2 \
                   ORDER BY client LIMIT $3";
        self.list("job_plan_client", query!(sql, id.to_string(), bind::after(page), i64::from(page.limit)), client).await
    }

    async fn planned_among(&mut self, id: &Uid, clients: &[ClientId]) -> Result<Vec<ClientId>> {
        let sql = concat!("SELECT client FROM job_plan_client WHERE plan = $2 AND client", any!(1));
        self.list("job_plan_client", query!(sql, bind::list(clients), id.to_string()), |row| row.parse()).await
    }

    async fn plans_kept(&mut self) -> Result<Vec<(Uid, Timestamp, u64)>> {
        let sql = "SELECT id, expires_ms, clients FROM job_plan \
                   WHERE NOT EXISTS (SELECT 1 FROM approval a WHERE a.plan = job_plan.id AND a.state = 'PENDING') ORDER BY id";
        self.list("job_plan", query!(sql), |row| Ok((row.parse()?, row.time()?, row.number()?))).await
    }

    async fn delete_plan(&mut self, id: &Uid) -> Result<()> {
        self.run(query!("DELETE FROM job_plan_client WHERE plan = $1", id.to_string())).await?;
        self.run(query!("DELETE FROM job_plan WHERE id = $1", id.to_string())).await?;
        Ok(())
    }
}
