//! Budgets: how many clients are let go within an hour. What is spent is written in the unit that makes the attempts, with the purse
//! locked, so that several managers spend from it one after the other.

use super::{Env, Result, release};
use std::collections::BTreeMap;
use sutler_base::{
    ClientId, JobId, Timestamp,
    state::{HoldReason, JobState},
};
use sutler_core::{
    brake::budget::{self, HOUR_MS, Purse},
    model::{Job, Target},
};
use sutler_store::Tx;

/// How many rows are let go in one unit.
const BATCH: u32 = 500;

/// From which purses the clients of a job are let go, and how much each has in an hour.
async fn purses(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<Vec<(Purse, u32)>> {
    let maker = job.creator.parse().ok();
    let operators = match &maker {
        Some(name) => tx.operator_budget(name).await?,
        None => None,
    };
    let default = env.settings.limits.budget;
    if default == 0 && operators.is_none() && job.terms.budget == 0 {
        return Ok(vec![]);
    }
    let stands = !job.clients_where.is_empty() || tx.job_targets(&job.id).await?.iter().any(|t| matches!(t, Target::Group(_)));
    Ok(budget::purses(&job.id, maker, stands, job.terms.budget, operators, default))
}

/// What there is in the purses of the jobs that are looked at together, and what is taken out of them.
#[derive(Default)]
pub struct Purses {
    of_jobs: BTreeMap<JobId, Vec<Purse>>,
    /// What is left, and what was taken.
    left: BTreeMap<Purse, (u32, u32)>,
    now: Option<Timestamp>,
}

impl Purses {
    /// Takes one client of this job out of its purses; whether there was one left in each.
    pub async fn take(&mut self, tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<bool> {
        if !self.of_jobs.contains_key(&job.id) {
            let purses = self::purses(tx, env, job).await?;
            for (purse, budget) in &purses {
                if !self.left.contains_key(purse) {
                    tx.lock_purse(purse).await?;
                    let now = self.now(tx, env).await?;
                    let spent = tx.spent(purse, now - HOUR_MS).await?;
                    self.left.insert(purse.clone(), (budget::room(&spent, *budget, now), 0));
                }
            }
            self.of_jobs.insert(job.id.clone(), purses.into_iter().map(|(purse, _)| purse).collect());
        }
        let purses = &self.of_jobs[&job.id];
        if purses.iter().any(|purse| self.left.get(purse).is_some_and(|(left, _)| *left == 0)) {
            return Ok(false);
        }
        for purse in purses {
            if let Some((left, taken)) = self.left.get_mut(purse) {
                (*left, *taken) = (*left - 1, *taken + 1);
            }
        }
        Ok(true)
    }

    async fn now(&mut self, tx: &mut dyn Tx, env: &Env) -> Result<i64> {
        if self.now.is_none() {
            self.now = Some(env.common_clock(tx).await?);
        }
        Ok(self.now.map_or(0, |now| now.as_millisecond()))
    }

    /// Writes down what was taken.
    pub async fn spend(&mut self, tx: &mut dyn Tx, env: &Env) -> Result<()> {
        let now = self.now(tx, env).await?;
        for (purse, (_, taken)) in &self.left {
            if *taken > 0 {
                tx.spend(purse, now, *taken, now - HOUR_MS).await?;
            }
        }
        Ok(())
    }
}

/// Which purse of a job is empty and how large it is, and when the next client may be let go.
async fn empty(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<(Option<(Purse, u32, i64)>, u32)> {
    let now = env.common_clock(tx).await?.as_millisecond();
    let (mut latest, mut least): (Option<(Purse, u32, i64)>, u32) = (None, BATCH);
    for (purse, budget) in purses(tx, env, job).await? {
        let spent = tx.spent(&purse, now - HOUR_MS).await?;
        let room = budget::room(&spent, budget, now);
        least = least.min(room);
        if room == 0 {
            let next = budget::next(&spent, budget, now);
            if latest.as_ref().is_none_or(|(.., at)| *at < next) {
                latest = Some((purse, budget, next));
            }
        }
    }
    Ok((latest, least))
}

/// Whether another client of a job may be let go.
pub async fn has_room(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<bool> {
    Ok(empty(tx, env, job).await?.1 > 0)
}

/// What rows of a job wait for that its budget holds back.
pub async fn sentence(tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<String> {
    Ok(match empty(tx, env, job).await?.0 {
        Some((purse, budget, next)) => {
            let at = Timestamp::from_millisecond(next).unwrap_or(Timestamp::MAX);
            let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
            format!("the budget of {purse}, {budget} clients an hour, is used up; the next ones go at {at}")
        }
        None => "its budget has room again; it goes within a moment".into(),
    })
}

/// The next job after `after` with rows that its budget holds and has room for, with those rows.
pub async fn due(tx: &mut dyn Tx, env: &Env, after: &Option<JobId>) -> Result<(Vec<(JobId, ClientId)>, Option<JobId>)> {
    let mut place = after.clone();
    while let Some(id) = tx.next_held_job(HoldReason::Budget, place.as_ref()).await? {
        place = Some(id.clone());
        let Some(job) = tx.job(&id).await?.filter(|job| job.state == JobState::Active) else { continue };
        let room = empty(tx, env, &job).await?.1;
        if room > 0 {
            let clients = tx.held_of(&id, HoldReason::Budget, room).await?;
            return Ok((clients.into_iter().map(|client| (id.clone(), client)).collect(), Some(id)));
        }
    }
    Ok((vec![], None))
}

/// Lets these rows go; whether there is still room for them is seen where attempts are made.
pub async fn go(tx: &mut dyn Tx, env: &Env, rows: &[(JobId, ClientId)]) -> Result<()> {
    release(tx, env, rows, HoldReason::Budget).await
}

/// Whether the budget of a job holds rows of it.
pub async fn holds(tx: &mut dyn Tx, job: &JobId) -> Result<bool> {
    Ok(!tx.held_of(job, HoldReason::Budget, 1).await?.is_empty())
}
