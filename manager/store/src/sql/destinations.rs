//! What changes whom a job reaches after it was made: destinations that come and go, exclusions, and who its condition reached.

use super::{
    jobs::{job, job_columns, read_target, target, words},
    unit::{Result, Unit},
};
use crate::{Destinations, bind};
use async_trait::async_trait;
use std::collections::BTreeSet;
use sutler_base::{ClientId, JobId, state::JobState};
use sutler_core::model::{Job, Target};

#[async_trait]
impl Destinations for Unit<'_> {
    async fn add_targets(&mut self, job: &JobId, targets: &[Target]) -> Result<()> {
        let rows: BTreeSet<_> = targets.iter().map(target).collect();
        let sql = concat!(
            "INSERT INTO job_target (job, kind, target) SELECT $2, v.value->>0, v.value->>1 FROM",
            each!(1),
            "WHERE TRUE ON CONFLICT DO NOTHING"
        );
        self.run(query!(sql, bind::json(&rows), job.to_string())).await?;
        Ok(())
    }

    async fn remove_target(&mut self, job: &JobId, target_: &Target) -> Result<bool> {
        let (kind, name) = target(target_);
        let sql = "DELETE FROM job_target WHERE job = $1 AND kind = $2 AND target = $3";
        Ok(self.run(query!(sql, job.to_string(), kind, name.to_owned())).await? > 0)
    }

    async fn exclusions(&mut self, job: &JobId) -> Result<Vec<Target>> {
        let sql = "SELECT kind, target FROM job_exclusion WHERE job = $1 ORDER BY kind, target";
        self.list("job_exclusion", query!(sql, job.to_string()), read_target).await
    }

    async fn add_exclusions(&mut self, job: &JobId, targets: &[Target]) -> Result<()> {
        let rows: BTreeSet<_> = targets.iter().map(target).collect();
        let sql = concat!(
            "INSERT INTO job_exclusion (job, kind, target) SELECT $2, v.value->>0, v.value->>1 FROM",
            each!(1),
            "WHERE TRUE ON CONFLICT DO NOTHING"
        );
        self.run(query!(sql, bind::json(&rows), job.to_string())).await?;
        Ok(())
    }

    async fn remove_exclusion(&mut self, job: &JobId, target_: &Target) -> Result<bool> {
        let (kind, name) = target(target_);
        let sql = "DELETE FROM job_exclusion WHERE job = $1 AND kind = $2 AND target = $3";
        Ok(self.run(query!(sql, job.to_string(), kind, name.to_owned())).await? > 0)
    }

    async fn jobs_excluding(&mut self, target_: &Target, states: &[JobState]) -> Result<Vec<Job>> {
        let (kind, name) = target(target_);
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM job_exclusion x JOIN job j ON j.id = x.job WHERE x.kind = $1 AND x.target = $2 AND j.state",
            any!(3),
            " ORDER BY j.id"
        );
        self.list("job", query!(sql, kind, name.to_owned(), words(states)), job).await
    }

    async fn jobs_by_condition(&mut self) -> Result<Vec<Job>> {
        let sql =
            concat!("SELECT ", job_columns!(), " FROM job j WHERE j.clients_where <> '' AND j.state IN ('ACTIVE', 'PAUSED') ORDER BY j.id");
        self.list("job", query!(sql), job).await
    }

    async fn add_listed(&mut self, job: &JobId, clients: &[ClientId]) -> Result<()> {
        let sql =
            concat!("INSERT INTO job_matched (job, client) SELECT $2, v.value->>0 FROM", each!(1), "WHERE TRUE ON CONFLICT DO NOTHING");
        let rows: Vec<_> = clients.iter().map(|client| [client.as_str()]).collect();
        self.run(query!(sql, bind::json(&rows), job.to_string())).await?;
        Ok(())
    }

    async fn add_picks(&mut self, job: &JobId, picks: &[(ClientId, Vec<usize>)]) -> Result<()> {
        let sql = concat!(
            "INSERT INTO job_matched (job, client, picks) SELECT $2, v.value->>0, v.value->>1 FROM",
            each!(1),
            "WHERE TRUE ON CONFLICT DO NOTHING"
        );
        let rows: Vec<_> = picks.iter().map(|(client, picks)| (client.as_str(), bind::json(picks))).collect();
        self.run(query!(sql, bind::json(&rows), job.to_string())).await?;
        Ok(())
    }

    async fn picks(&mut self, job: &JobId, client: &ClientId) -> Result<Option<Vec<usize>>> {
        let sql = "SELECT picks FROM job_matched WHERE job = $1 AND client = $2";
        let picks: Option<Vec<usize>> = self.one("job_matched", query!(sql, job.to_string(), client.to_string()), |row| row.json()).await?;
        Ok(picks.filter(|picks| !picks.is_empty()))
    }

    async fn listed(&mut self, job: &JobId, clients: &[ClientId]) -> Result<Vec<ClientId>> {
        let sql = concat!("SELECT l.client FROM job_matched l WHERE l.job = $2 AND l.client", any!(1));
        self.list("job_matched", query!(sql, bind::list(clients), job.to_string()), |row| row.parse()).await
    }

    async fn jobs_holding(&mut self, clients: &[ClientId], states: &[JobState]) -> Result<Vec<(JobId, ClientId)>> {
        let sql = concat!(
            "SELECT t.job, t.target FROM job_target t JOIN job j ON j.id = t.job WHERE t.kind = 'CLIENT' AND t.target",
            any!(1),
            " AND j.state",
            any!(2),
            " UNION SELECT t.job, m.client FROM membership m JOIN job_target t ON t.kind = 'GROUP' AND t.target = m.group_uid \
             JOIN job j ON j.id = t.job WHERE m.client",
            any!(1),
            " AND j.state",
            any!(2),
            " UNION SELECT l.job, l.client FROM job_matched l JOIN job j ON j.id = l.job WHERE l.client",
            any!(1),
            " AND j.state",
            any!(2),
            " ORDER BY 1, 2"
        );
        self.list("job", query!(sql, bind::list(clients), words(states)), |row| Ok((row.parse()?, row.parse()?))).await
    }

    async fn jobs_listing(&mut self, client: &ClientId, states: &[JobState]) -> Result<Vec<Job>> {
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM job_matched l JOIN job j ON j.id = l.job WHERE l.client = $1 AND j.state",
            any!(2),
            " ORDER BY j.id"
        );
        self.list("job", query!(sql, client.to_string(), words(states)), job).await
    }
}
