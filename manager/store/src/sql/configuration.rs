//! What people call jobs, and what was put there by files.

use super::unit::{Result, Unit};
use crate::{Configurations, bind};
use async_trait::async_trait;
use sutler_base::{JobAlias, JobId};

#[async_trait]
impl Configurations for Unit<'_> {
    async fn put_alias(&mut self, alias: &JobAlias, job: &JobId, before: Option<&JobId>) -> Result<()> {
        let sql = "INSERT INTO job_alias (alias, job) VALUES ($1, $2) \
                   ON CONFLICT (alias) DO UPDATE SET job = excluded.job WHERE job_alias.job = $3";
        let before = before.map(JobId::to_string).unwrap_or_default();
        self.insert("job", query!(sql, alias.to_string(), job.to_string(), before)).await
    }

    async fn drop_alias(&mut self, job: &JobId) -> Result<()> {
        self.run(query!("DELETE FROM job_alias WHERE job = $1", job.to_string())).await?;
        Ok(())
    }

    async fn job_by_alias(&mut self, alias: &JobAlias) -> Result<Option<JobId>> {
        let sql = self.lock("SELECT job FROM job_alias WHERE alias = $1");
        self.one("job_alias", query!(sql, alias.to_string()), |row| row.parse()).await
    }

    async fn alias(&mut self, job: &JobId) -> Result<Option<JobAlias>> {
        self.one("job_alias", query!("SELECT alias FROM job_alias WHERE job = $1", job.to_string()), |row| row.parse()).await
    }

    async fn aliases(&mut self) -> Result<Vec<(JobAlias, JobId)>> {
        let sql = "SELECT alias, job FROM job_alias ORDER BY alias";
        self.list("job_alias", query!(sql), |row| Ok((row.parse()?, row.parse()?))).await
    }

    async fn configured(&mut self, kind: &str) -> Result<Vec<String>> {
        let sql = "SELECT id FROM configured WHERE kind = $1 ORDER BY id";
        self.list("configured", query!(sql, bind::text(kind)), |row| row.text()).await
    }

    async fn configure(&mut self, kind: &str, id: &str) -> Result<()> {
        let sql = "INSERT INTO configured (kind, id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.run(query!(sql, bind::text(kind), bind::text(id))).await?;
        Ok(())
    }

    async fn forget_configured(&mut self, kind: &str, id: &str) -> Result<()> {
        let sql = "DELETE FROM configured WHERE kind = $1 AND id = $2";
        self.run(query!(sql, bind::text(kind), bind::text(id))).await?;
        Ok(())
    }
}
