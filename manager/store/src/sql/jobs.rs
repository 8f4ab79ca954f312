//! Jobs, their packages by revision, their destinations and their counters.

use super::unit::{Columns, Result, Unit};
use crate::{Destinations as _, Jobs, Page, bind};
use async_trait::async_trait;
use sutler_base::{JobId, PackageName, Timestamp, Uid, state::JobState};
use sutler_core::{
    model::{Counts, Job, JobPackage, Target},
    terms::JobTerms,
};

/// What makes a [`Job`], from `job j`.
macro_rules! job_columns {
    () => {
        "j.id, j.state, j.description, j.priority, j.continue_on_failure, j.expires_ms, j.creator, j.created_ms, j.started_ms, j.ended_ms, \
         j.revision, j.archived, j.replaces, j.condition, j.requirements, j.terms, j.clients_where, j.rolls_back, j.change"
    };
}
pub(super) use job_columns;

pub(super) fn job(row: &mut Columns<'_>) -> Result<Job> {
    Ok(Job {
        id: row.parse()?,
        state: row.parse()?,
        description: row.text()?,
        priority: row.number()?,
        continue_on_failure: row.flag()?,
        expires: row.opt_time()?,
        creator: row.text()?,
        created: row.time()?,
        started: row.opt_time()?,
        ended: row.opt_time()?,
        revision: row.int()?,
        archived: row.flag()?,
        replaces: row.opt_parse()?,
        condition: row.text()?,
        requirements: row.json()?,
        terms: row.json()?,
        clients_where: row.text()?,
        rolls_back: row.opt_parse()?,
        change: row.int()?,
    })
}

pub(super) fn target(target: &Target) -> (&'static str, &str) {
    match target {
        Target::Group(uid) => ("GROUP", uid.as_str()),
        Target::Client(id) => ("CLIENT", id.as_str()),
    }
}

pub(super) fn read_target(row: &mut Columns<'_>) -> Result<Target> {
    Ok(match row.text()?.as_str() {
        "GROUP" => Target::Group(row.parse()?),
        "CLIENT" => Target::Client(row.parse()?),
        other => return Err(row.unknown(other)),
    })
}

pub(super) fn words(states: &[JobState]) -> String {
    let words: Vec<&str> = states.iter().map(|s| s.as_str()).collect();
    bind::json(&words)
}

#[async_trait]
impl Jobs for Unit<'_> {
    async fn insert_job(&mut self, job: &Job, packages: &[JobPackage], targets: &[Target]) -> Result<()> {
        let change = self.change(1).await?;
        self.insert(
            "job",
            query!(
                "INSERT INTO job (id, state, description, priority, continue_on_failure, expires_ms, creator, created_ms, started_ms, ended_ms, \
                 revision, archived, replaces, condition, requirements, terms, clients_where, rolls_back, change) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) \
                 ON CONFLICT DO NOTHING",
                job.id.to_string(),
                job.state.as_str(),
                bind::text(&job.description),
                i64::from(job.priority),
                job.continue_on_failure,
                bind::opt_ms(job.expires),
                bind::text(&job.creator),
                bind::ms(job.created),
                bind::opt_ms(job.started),
                bind::opt_ms(job.ended),
                job.revision,
                job.archived,
                job.replaces.as_ref().map(|j| j.to_string()),
                bind::text(&job.condition),
                bind::json(&job.requirements),
                bind::json(&job.terms),
                bind::text(&job.clients_where),
                job.rolls_back.as_ref().map(|j| j.to_string()),
                change
            ),
        )
        .await?;
        self.put_job_packages(&job.id, job.revision, packages).await?;
        self.add_targets(&job.id, targets).await
    }

    async fn job(&mut self, id: &JobId) -> Result<Option<Job>> {
        let sql = self.lock(concat!("SELECT ", job_columns!(), " FROM job j WHERE j.id = $1"));
        self.one("job", query!(sql, id.to_string()), job).await
    }

    async fn list_jobs(&mut self, page: &Page, archived: bool) -> Result<Vec<Job>> {
        let (created, id) = bind::before(page)?;
        let sql = if archived {
            concat!(
                "SELECT ",
                job_columns!(),
                " FROM job j WHERE (j.created_ms, j.id) < ($1, $2) ORDER BY j.created_ms DESC, j.id DESC LIMIT $3"
            )
        } else {
            concat!(
                "SELECT ",
                job_columns!(),
                " FROM job j WHERE (j.created_ms, j.id) < ($1, $2) AND NOT j.archived ORDER BY j.created_ms DESC, j.id DESC LIMIT $3"
            )
        };
        self.list("job", query!(sql, created, id, i64::from(page.limit)), job).await
    }

    async fn job_terms(&mut self, id: &JobId) -> Result<Option<JobTerms>> {
        self.one("job", query!("SELECT terms FROM job WHERE id = $1", id.to_string()), |row| row.json()).await
    }

    async fn save_job(&mut self, job: &Job) -> Result<()> {
        let change = self.change(1).await?;
        self.save(
            "job",
            job.id.as_str(),
            query!(
                "UPDATE job SET state = $2, description = $3, priority = $4, continue_on_failure = $5, expires_ms = $6, creator = $7, \
                 created_ms = $8, started_ms = $9, ended_ms = $10, revision = $11, archived = $12, replaces = $13, terms = $14, condition = $15, \
                 requirements = $16, change = $17 WHERE id = $1",
                job.id.to_string(),
                job.state.as_str(),
                bind::text(&job.description),
                i64::from(job.priority),
                job.continue_on_failure,
                bind::opt_ms(job.expires),
                bind::text(&job.creator),
                bind::ms(job.created),
                bind::opt_ms(job.started),
                bind::opt_ms(job.ended),
                job.revision,
                job.archived,
                job.replaces.as_ref().map(|j| j.to_string()),
                bind::json(&job.terms),
                bind::text(&job.condition),
                bind::json(&job.requirements),
                change
            ),
        )
        .await
    }

    async fn job_packages(&mut self, job: &JobId, revision: i64) -> Result<Vec<JobPackage>> {
        let sql = "SELECT package, version, version_text, follow, replace_always, intent, given, needed FROM job_package \
                   WHERE job = $1 AND revision = $2 ORDER BY n";
        self.list("job_package", query!(sql, job.to_string(), revision), |row| {
            Ok(JobPackage {
                package: row.parse()?,
                version: row.opt_parse()?,
                version_text: row.text()?,
                follow: row.flag()?,
                replace_always: row.flag()?,
                intent: row.parse()?,
                values: row.json()?,
                needed: row.json()?,
            })
        })
        .await
    }

    async fn put_job_packages(&mut self, job: &JobId, revision: i64, packages: &[JobPackage]) -> Result<()> {
        self.run(query!("DELETE FROM job_package WHERE job = $1 AND revision = $2", job.to_string(), revision)).await?;
        let rows: Vec<_> = packages
            .iter()
            .enumerate()
            .map(|(n, p)| {
                let (follow, always) = (u8::from(p.follow), u8::from(p.replace_always));
                let (values, needed) = (bind::json(&p.values), bind::json(&p.needed));
                (n, &p.package, &p.version, bind::text(&p.version_text), follow, always, p.intent, values, needed)
            })
            .collect();
        self.run(query!(
            concat!(
                "INSERT INTO job_package (job, revision, n, package, version, version_text, follow, replace_always, intent, given, needed) SELECT $2, $3, \
                 CAST(v.value->>0 AS BIGINT), v.value->>1, v.value->>2, v.value->>3, CAST(v.value->>4 AS BIGINT) <> 0, \
                 CAST(v.value->>5 AS BIGINT) <> 0, v.value->>6, v.value->>7, v.value->>8 FROM",
                each!(1)
            ),
            bind::json(&rows),
            job.to_string(),
            revision
        ))
        .await?;
        Ok(())
    }

    async fn job_targets(&mut self, job: &JobId) -> Result<Vec<Target>> {
        let sql = "SELECT kind, target FROM job_target WHERE job = $1 ORDER BY kind, target";
        self.list("job_target", query!(sql, job.to_string()), read_target).await
    }

    async fn drop_target(&mut self, target_: &Target) -> Result<Vec<JobId>> {
        let (kind, name) = target(target_);
        // A job that has ended may be run again, and then it has to be known that something is missing.
        let sql = "DELETE FROM job_exclusion WHERE kind = $1 AND target = $2 \
                   AND (SELECT j.state FROM job j WHERE j.id = job_exclusion.job) NOT IN ('COMPLETED', 'CANCELED', 'EXPIRED')";
        self.run(query!(sql, kind, name.to_owned())).await?;
        let sql = "DELETE FROM job_target WHERE kind = $1 AND target = $2 RETURNING job";
        let mut jobs: Vec<JobId> = self.list("job_target", query!(sql, kind, name.to_owned()), |row| row.parse()).await?;
        jobs.sort();
        Ok(jobs)
    }

    async fn jobs_with_target(&mut self, target_: &Target, states: &[JobState]) -> Result<Vec<Job>> {
        let (kind, name) = target(target_);
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM job_target t JOIN job j ON j.id = t.job WHERE t.kind = $1 AND t.target = $2 AND j.state",
            any!(3),
            " ORDER BY j.id"
        );
        self.list("job", query!(sql, kind, name.to_owned(), words(states)), job).await
    }

    async fn jobs_following(&mut self, package: &PackageName) -> Result<Vec<Job>> {
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM job j WHERE j.state IN ('ACTIVE', 'PAUSED') AND EXISTS (SELECT 1 FROM job_package p WHERE p.job = j.id AND p.revision = j.revision \
             AND p.package = $1 AND p.follow) ORDER BY j.id"
        );
        self.list("job", query!(sql, package.to_string()), job).await
    }

    async fn jobs_with_version(&mut self, version: &Uid) -> Result<Vec<Job>> {
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM job_package p JOIN job j ON j.id = p.job AND j.revision = p.revision WHERE p.version = $1 \
             AND j.state IN ('ACTIVE', 'PAUSED') ORDER BY j.id"
        );
        self.list("job", query!(sql, version.to_string()), job).await
    }

    async fn jobs_expired(&mut self, now: Timestamp, states: &[JobState], limit: u32) -> Result<Vec<Job>> {
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM job j WHERE j.state = $1 AND j.expires_ms <= $2 ORDER BY j.expires_ms, j.id LIMIT $3"
        );
        let mut jobs = Vec::new();
        for state in states {
            jobs.extend(self.list("job", query!(sql, state.as_str(), bind::ms(now), i64::from(limit)), job).await?);
        }
        jobs.sort_by(|a, b| (a.expires, &a.id).cmp(&(b.expires, &b.id)));
        jobs.truncate(limit as usize);
        Ok(jobs)
    }

    async fn jobs_in(&mut self, page: &Page, state: JobState) -> Result<Vec<Job>> {
        let sql = concat!("SELECT ", job_columns!(), " FROM job j WHERE j.state = $1 AND j.id > $2 ORDER BY j.id LIMIT $3");
        self.list("job", query!(sql, state.as_str(), bind::after(page), i64::from(page.limit)), job).await
    }

    async fn counts(&mut self, job: &JobId) -> Result<Counts> {
        let sql = "SELECT state, CAST(SUM(n) AS BIGINT) FROM job_counter WHERE job = $1 GROUP BY state HAVING SUM(n) <> 0";
        let rows = self.list("job_counter", query!(sql, job.to_string()), |row| Ok((row.parse()?, row.int()?))).await?;
        Ok(Counts(rows.into_iter().collect()))
    }

    async fn canceling(&mut self, job: &JobId) -> Result<i64> {
        let sql = "SELECT COUNT(*) FROM execution WHERE job = $1 AND cancel_reason IS NOT NULL";
        Ok(self.one("execution", query!(sql, job.to_string()), |row| row.int()).await?.unwrap_or(0))
    }
}
