//! Changes that wait for a second person.

use super::unit::{Columns, Result, Unit};
use crate::{Approvals, Page, bind};
use async_trait::async_trait;
use std::collections::BTreeMap;
use sutler_base::{JobId, Timestamp, Uid};
use sutler_core::approval::Approval;

macro_rules! approval_columns {
    () => {
        "id, state, requester, method, what, job, fingerprint, clients, fleet, jobs, created_ms, expires_ms, decided_ms, decider, reason, plan, packages"
    };
}

fn read(row: &mut Columns<'_>) -> Result<Approval> {
    Ok(Approval {
        id: row.parse()?,
        state: row.parse()?,
        requester: row.text()?,
        method: row.text()?,
        what: row.text()?,
        job: row.opt_parse()?,
        fingerprint: row.digest()?,
        clients: row.number()?,
        fleet: row.number()?,
        jobs: row.json::<Vec<(JobId, u64)>>()?.into_iter().collect::<BTreeMap<_, _>>(),
        created: row.time()?,
        expires: row.time()?,
        decided: row.opt_time()?,
        decider: row.text()?,
        reason: row.text()?,
        plan: row.opt_parse()?,
        packages: row.json()?,
    })
}

fn jobs(approval: &Approval) -> String {
    bind::json(&approval.jobs.iter().collect::<Vec<_>>())
}

/// Where a page starts that goes down in order of id: before the last one of the page before.
fn before(page: &Page) -> String {
    page.after.as_deref().map_or("~".into(), bind::text)
}

#[async_trait]
impl Approvals for Unit<'_> {
    async fn count_fleet(&mut self) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM client WHERE state IN ('ACTIVE', 'QUARANTINED') AND archived_ms IS NULL";
        Ok(self.one("client", query!(sql), |row| row.number()).await?.unwrap_or_default())
    }

    async fn put_approval(&mut self, approval: &Approval) -> Result<()> {
        let sql = concat!(
            "INSERT INTO approval (",
            approval_columns!(),
            ", request) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) ON CONFLICT (id) DO UPDATE SET \
             state = excluded.state, fingerprint = excluded.fingerprint, clients = excluded.clients, fleet = excluded.fleet, \
             jobs = excluded.jobs, created_ms = excluded.created_ms, expires_ms = excluded.expires_ms, \
             decided_ms = excluded.decided_ms, decider = excluded.decider, reason = excluded.reason, plan = excluded.plan, \
             packages = excluded.packages"
        );
        let query = query!(
            sql,
            approval.id.to_string(),
            approval.state.as_str(),
            bind::text(&approval.requester),
            bind::text(&approval.method),
            bind::text(&approval.what),
            approval.job.as_ref().map(|id| id.to_string()),
            approval.fingerprint.as_bytes().to_vec(),
            bind::int(approval.clients)?,
            bind::int(approval.fleet)?,
            jobs(approval),
            bind::ms(approval.created),
            bind::ms(approval.expires),
            bind::opt_ms(approval.decided),
            bind::text(&approval.decider),
            bind::text(&approval.reason),
            approval.plan.as_ref().map(|id| id.to_string()),
            bind::json(&approval.packages),
            Vec::<u8>::new()
        );
        self.run(query).await?;
        Ok(())
    }

    async fn approval(&mut self, id: &Uid) -> Result<Option<Approval>> {
        let sql = self.lock(concat!("SELECT ", approval_columns!(), " FROM approval WHERE id = $1"));
        self.one("approval", query!(sql, id.to_string()), read).await
    }

    async fn list_approvals(&mut self, page: &Page, all: bool) -> Result<Vec<Approval>> {
        let sql = if all {
            concat!("SELECT ", approval_columns!(), " FROM approval WHERE id < $1 ORDER BY id DESC LIMIT $2")
        } else {
            concat!("SELECT ", approval_columns!(), " FROM approval WHERE state = 'PENDING' AND id < $1 ORDER BY id DESC LIMIT $2")
        };
        self.list("approval", query!(sql, before(page), i64::from(page.limit)), read).await
    }

    async fn approval_of(&mut self, job: &JobId) -> Result<Option<Approval>> {
        let sql = concat!("SELECT ", approval_columns!(), " FROM approval WHERE job = $1 AND state = 'PENDING' ORDER BY id DESC LIMIT 1");
        self.one("approval", query!(sql, job.to_string()), read).await
    }

    async fn approval_like(&mut self, requester: &str, method: &str, request: &[u8], job: Option<&JobId>) -> Result<Option<Approval>> {
        let sql = self.lock(concat!(
            "SELECT ",
            approval_columns!(),
            " FROM approval WHERE requester = $1 AND state = 'PENDING' AND method = $2 AND request = $3 AND COALESCE(job, '') = $4 \
             ORDER BY id DESC LIMIT 1"
        ));
        let job = job.map(|id| id.to_string()).unwrap_or_default();
        self.one("approval", query!(sql, bind::text(requester), bind::text(method), request.to_vec(), job), read).await
    }

    async fn approvals_pending(&mut self, requester: &str) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM approval WHERE requester = $1 AND state = 'PENDING'";
        Ok(self.one("approval", query!(sql, bind::text(requester)), |row| row.number()).await?.unwrap_or_default())
    }

    async fn approval_request(&mut self, id: &Uid) -> Result<Vec<u8>> {
        let query = query!("SELECT request FROM approval WHERE id = $1", id.to_string());
        Ok(self.one("approval", query, |row| row.bytes()).await?.unwrap_or_default())
    }

    async fn set_approval_request(&mut self, id: &Uid, request: &[u8]) -> Result<()> {
        let query = query!("UPDATE approval SET request = $2 WHERE id = $1", id.to_string(), request.to_vec());
        self.save("approval", id.as_str(), query).await
    }

    async fn approvals_overdue(&mut self, now: Timestamp, limit: u32) -> Result<Vec<Approval>> {
        let sql = concat!(
            "SELECT ",
            approval_columns!(),
            " FROM approval WHERE state = 'PENDING' AND expires_ms <= $1 ORDER BY expires_ms, id LIMIT $2"
        );
        // Another manager may carry one out at this moment: what it made of it is read again.
        let sql = self.lock(sql);
        self.list("approval", query!(sql, bind::ms(now), i64::from(limit)), read).await
    }

    async fn drop_approvals(&mut self, before: Timestamp) -> Result<u64> {
        self.run(query!("DELETE FROM approval WHERE decided_ms IS NOT NULL AND decided_ms < $1", bind::ms(before))).await
    }
}
