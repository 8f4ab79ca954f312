//! Brakes: what holds work back over all jobs. `core` decides (`sutler_core::brake`); here is loaded what it decides by, once for
//! all rows that are looked at together.
//!
//! Rows are let go where attempts are made (`dispatch`): what a brake covers there gets it as its hold, and is looked at again only
//! when brakes change.

pub mod breakers;
pub mod budgets;
pub mod offline;
pub mod retries;
pub mod stops;

use super::{Env, Result, executions, groups, jobs};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    ClientId, JobId, PackageName, Uid,
    state::{CancelReason, ExecutionState, HoldReason, Intent, JobState, Purpose},
};
use sutler_core::{
    brake::{
        self, Stop, Stopped, Touched, Work,
        breaker::{self, Breaker, Scope},
    },
    model::{Execution, Job, JobPackage, Target},
};
use sutler_store::{Page, Tx};

/// How many rows are handled at a time.
const BATCH: u32 = 500;

/// The brakes that are on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brakes {
    stops: Vec<Stop>,
    breakers: Vec<Breaker>,
}

impl Brakes {
    /// The brakes that are on now.
    pub async fn now(tx: &mut dyn Tx) -> Result<Brakes> {
        Ok(Brakes { stops: tx.stops().await?, breakers: tx.open_breakers().await? })
    }

    /// Whether none is on.
    pub fn are_off(&self) -> bool {
        self.stops.is_empty() && self.breakers.is_empty()
    }

    fn go_by_groups(&self) -> bool {
        !self.breakers.is_empty() || self.stops.iter().any(|stop| matches!(stop.what, Stopped::Group(_)))
    }
}

/// The brake that covers a row.
#[derive(Debug, Clone)]
pub enum Brake {
    /// Something is stopped.
    Stop(Stop),
    /// A breaker is open.
    Breaker(Breaker),
}

impl Brake {
    /// By what a row that it covers is held.
    pub fn hold(&self) -> HoldReason {
        match self {
            Brake::Stop(_) => HoldReason::Stopped,
            Brake::Breaker(_) => HoldReason::Breaker,
        }
    }
}

/// Why a row is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// By what.
    pub by: HoldReason,
    /// A sentence.
    pub why: String,
}

/// Looks rows up against the brakes that are on. What has to be known of clients and jobs is looked up once.
#[derive(Default)]
pub struct Gate {
    brakes: Brakes,
    groups: BTreeMap<ClientId, BTreeSet<Uid>>,
    packages: BTreeMap<(JobId, i64), Vec<JobPackage>>,
    displaced: BTreeMap<(JobId, i64), Displaced>,
    targets: BTreeMap<JobId, Vec<Target>>,
    /// What was said of each brake.
    told: BTreeMap<String, String>,
}

impl Gate {
    /// The brakes as they are on now.
    pub async fn now(tx: &mut dyn Tx) -> Result<Gate> {
        Ok(Gate { brakes: Brakes::now(tx).await?, ..Gate::default() })
    }

    /// Whether no brake is on.
    pub fn is_open(&self) -> bool {
        self.brakes.are_off()
    }

    /// Whether brakes are still what they were when this began to look.
    pub async fn still_stands(&self, tx: &mut dyn Tx) -> Result<bool> {
        Ok(Brakes::now(tx).await? == self.brakes)
    }

    /// Looks up together what has to be known of these clients.
    pub async fn meet(&mut self, tx: &mut dyn Tx, clients: &[ClientId]) -> Result<()> {
        if !self.brakes.go_by_groups() {
            return Ok(());
        }
        let new: Vec<ClientId> = clients.iter().filter(|client| !self.groups.contains_key(*client)).cloned().collect();
        self.groups.extend(new.iter().map(|client| (client.clone(), BTreeSet::new())));
        for some in new.chunks(BATCH as usize) {
            for membership in tx.memberships_of_all(some).await? {
                self.groups.entry(membership.client).or_default().insert(membership.group);
            }
        }
        Ok(())
    }

    /// Which brake covers this row of a job, with this revision of it.
    pub async fn covers(&mut self, tx: &mut dyn Tx, job: &Job, row: &Execution, revision: i64) -> Result<Option<Brake>> {
        if self.is_open() {
            return Ok(None);
        }
        self.meet(tx, std::slice::from_ref(&row.client)).await?;
        let packages = self.touched(tx, job, row, revision).await?;
        let none = BTreeSet::new();
        let work = Work { groups: self.groups.get(&row.client).unwrap_or(&none), packages: &packages };
        if let Some(stop) = brake::first(&self.brakes.stops, &work).cloned() {
            return Ok(Some(Brake::Stop(stop)));
        }
        let installs = |breaker: &Breaker| packages.iter().any(|p| p.intent == Intent::Install && p.uid.as_ref() == Some(&breaker.version));
        let open: Vec<Breaker> = self.brakes.breakers.iter().filter(|breaker| installs(breaker)).cloned().collect();
        if open.is_empty() {
            return Ok(None);
        }
        if !self.targets.contains_key(&job.id) {
            self.targets.insert(job.id.clone(), tx.job_targets(&job.id).await?);
        }
        let scopes = breaker::scopes(&job.id, &self.targets[&job.id], self.groups.get(&row.client).unwrap_or(&none));
        Ok(open.into_iter().find(|breaker| scopes.contains(&breaker.scope)).map(Brake::Breaker))
    }

    /// Those of these clients whose row of a job a brake covers.
    pub async fn covered_of(&mut self, tx: &mut dyn Tx, job: &Job, clients: &[ClientId]) -> Result<BTreeSet<ClientId>> {
        let mut covered = BTreeSet::new();
        if self.is_open() {
            return Ok(covered);
        }
        self.meet(tx, clients).await?;
        let keys: Vec<_> = clients.iter().map(|client| (job.id.clone(), client.clone())).collect();
        for row in tx.executions(&keys).await? {
            if self.covers(tx, job, &row, job.revision).await?.is_some() {
                covered.insert(row.client);
            }
        }
        Ok(covered)
    }

    /// What holds a row back that waits, whether it is a brake that is on now or what its hold says.
    async fn why(&mut self, tx: &mut dyn Tx, env: &Env, job: &Job, row: &Execution) -> Result<Option<Held>> {
        let brake = self.covers(tx, job, row, job.revision).await?;
        let (by, key) = match (&brake, row.hold) {
            (Some(Brake::Stop(stop)), _) => (HoldReason::Stopped, format!("{:?}", stop.what)),
            (Some(Brake::Breaker(breaker)), _) => (HoldReason::Breaker, breaker.uid.to_string()),
            (None, Some(HoldReason::Retry)) => {
                return Ok(Some(Held { by: HoldReason::Retry, why: retries::sentence(tx, row).await? }));
            }
            (None, Some(HoldReason::Budget)) => (HoldReason::Budget, format!("budget of {}", job.id)),
            (None, _) => return Ok(None),
        };
        if let Some(told) = self.told.get(&key) {
            return Ok(Some(Held { by, why: told.clone() }));
        }
        let why = match brake {
            Some(Brake::Stop(stop)) => stops::sentence(tx, &stop).await?,
            Some(Brake::Breaker(breaker)) => breakers::tell(tx, breaker).await?,
            None => budgets::sentence(tx, env, job).await?,
        };
        self.told.insert(key, why.clone());
        Ok(Some(Held { by, why }))
    }

    /// What is done with which packages on the client of this row.
    async fn touched(&mut self, tx: &mut dyn Tx, job: &Job, row: &Execution, revision: i64) -> Result<Vec<Touched>> {
        let key = (job.id.clone(), revision);
        if !self.packages.contains_key(&key) {
            let packages = tx.job_packages(&job.id, revision).await?;
            self.displaced.insert(key.clone(), displaced(tx, &self.brakes, &packages).await?);
            self.packages.insert(key.clone(), packages);
        }
        let (all, displaced) = (&self.packages[&key], &self.displaced[&key]);
        let picks = if job.rolls_back.is_some() { tx.picks(&job.id, &row.client).await? } else { None };
        let picked: Vec<&JobPackage> = match picks {
            Some(picks) => picks.into_iter().filter_map(|n| all.get(n)).collect(),
            None => all.iter().collect(),
        };
        Ok(picked.into_iter().flat_map(|package| touched(package, row.purpose, displaced)).collect())
    }
}

/// Of versions the packages whose place each takes, and that it has uninstalled.
type Displaced = BTreeMap<Uid, Vec<PackageName>>;

/// What these packages have uninstalled where it is there, as far as any of these brakes goes by that.
async fn displaced(tx: &mut dyn Tx, brakes: &Brakes, packages: &[JobPackage]) -> Result<Displaced> {
    if !brakes.stops.iter().any(|stop| matches!(stop.what, Stopped::Package(_))) {
        return Ok(Displaced::new());
    }
    let uids: Vec<Uid> = packages.iter().filter(|p| p.intent == Intent::Install).filter_map(|p| p.version.clone()).collect();
    let displaced = tx.versions_by_uid(&uids).await?.into_iter().map(|version| {
        let gone = version.terms.supersedes.into_iter().filter(|other| other.uninstall);
        (version.uid, gone.map(|other| other.package).collect())
    });
    Ok(displaced.collect())
}

/// What is done for a package of a job: with itself, and with those whose place it takes. Whether they are there only the machine
/// knows: who stops a package means every machine.
fn touched(package: &JobPackage, purpose: Purpose, displaced: &Displaced) -> Vec<Touched> {
    let intent = if purpose == Purpose::Leave { Intent::Uninstall } else { package.intent };
    let itself = Touched { package: package.package.clone(), uid: package.version.clone(), version: package.version_text.clone(), intent };
    let gone = package.version.as_ref().filter(|_| intent == Intent::Install).and_then(|uid| displaced.get(uid));
    let gone = gone.into_iter().flatten().map(|other| Touched {
        package: other.clone(),
        uid: None,
        version: String::new(),
        intent: Intent::Uninstall,
    });
    std::iter::once(itself).chain(gone).collect()
}

/// Calls back what was offered, has not begun and is covered by a brake that is on. Gives back how many rows.
pub async fn call_back(tx: &mut dyn Tx, env: &Env) -> Result<u64> {
    let covered = covered(tx, usize::MAX).await?;
    for rows in covered.chunks(BATCH as usize) {
        executions::cancel(tx, env, rows, CancelReason::Stopped).await?;
    }
    Ok(covered.len() as u64)
}

/// Whether anything is to be called back.
pub async fn is_to_be_called_back(tx: &mut dyn Tx) -> Result<bool> {
    Ok(!covered(tx, 1).await?.is_empty())
}

/// Rows that were offered, have not begun, are not called back yet and are covered by a brake that is on; about as many as that at the
/// most.
async fn covered(tx: &mut dyn Tx, most: usize) -> Result<Vec<Execution>> {
    use ExecutionState::*;
    let mut gate = Gate::now(tx).await?;
    let mut covered = Vec::new();
    let mut after: Option<JobId> = None;
    while !gate.is_open() {
        let found = tx.jobs_offered(after.as_ref(), BATCH).await?;
        for id in &found {
            let Some(job) = tx.job(id).await? else { continue };
            let mut page = Page { after: None, limit: BATCH };
            loop {
                let rows = tx.list_executions(id, &page, &[Offered, Downloading, Waiting]).await?;
                let more = rows.len() as u32 == BATCH;
                page.after = rows.last().map(|row| row.client.to_string());
                gate.meet(tx, &rows.iter().map(|row| row.client.clone()).collect::<Vec<_>>()).await?;
                for row in rows.into_iter().filter(|row| row.cancel.is_none()) {
                    if gate.covers(tx, &job, &row, row.revision).await?.is_some() {
                        covered.push(row);
                    }
                }
                if covered.len() >= most {
                    return Ok(covered);
                }
                if !more {
                    break;
                }
            }
        }
        if (found.len() as u32) < BATCH {
            break;
        }
        after = found.last().cloned();
    }
    Ok(covered)
}

/// A place in the list of rows that brakes hold.
pub type Place = Option<(JobId, ClientId)>;

/// A page of the rows that this brake holds although no brake covers them any more, and where the next page begins, if there is one.
pub async fn releasable(tx: &mut dyn Tx, by: HoldReason, after: &Place) -> Result<(Vec<(JobId, ClientId)>, Place)> {
    let mut gate = Gate::now(tx).await?;
    let rows = tx.held(by, after.as_ref().map(|(job, client)| (job, client)), BATCH).await?;
    let next = rows.last().filter(|_| rows.len() as u32 == BATCH).map(|row| (row.job.clone(), row.client.clone()));
    gate.meet(tx, &rows.iter().map(|row| row.client.clone()).collect::<Vec<_>>()).await?;
    let mut jobs: BTreeMap<JobId, Option<Job>> = BTreeMap::new();
    let mut free = Vec::new();
    for row in rows {
        if !gate.is_open() {
            if !jobs.contains_key(&row.job) {
                jobs.insert(row.job.clone(), tx.job(&row.job).await?);
            }
            let Some(Some(job)) = jobs.get(&row.job) else { continue };
            if gate.covers(tx, job, &row, job.revision).await?.is_some() {
                continue;
            }
        }
        free.push((row.job, row.client));
    }
    Ok((free, next))
}

/// Lets rows go that this brake holds, and wakes their clients. Whether another brake covers them is seen where attempts are made.
pub async fn release(tx: &mut dyn Tx, env: &Env, rows: &[(JobId, ClientId)], by: HoldReason) -> Result<()> {
    tx.release(rows, by, env.now).await?;
    let mut wakes = env.wakes();
    wakes.jobs.extend(rows.iter().map(|(job, _)| job.clone()));
    wakes.clients.extend(rows.iter().map(|(_, client)| client.clone()));
    Ok(())
}

/// What holds clients of a job back now, a sentence each.
pub async fn of_job(tx: &mut dyn Tx, env: &Env, job: &Job, packages: &[JobPackage], targets: &[Target]) -> Result<Vec<String>> {
    if !matches!(job.state, JobState::Active | JobState::Paused | JobState::Scheduled) {
        return Ok(vec![]);
    }
    let brakes = Brakes::now(tx).await?;
    let displaced = displaced(tx, &brakes, packages).await?;
    let packages: Vec<Touched> = packages.iter().flat_map(|package| touched(package, Purpose::Order, &displaced)).collect();
    let mut sentences = Vec::new();
    for stop in brakes.stops {
        let covers = match &stop.what {
            Stopped::Group(uid) => targets.contains(&Target::Group(uid.clone())) || tx.is_open_in(&job.id, uid).await?,
            _ => stop.covers(&Work { groups: &BTreeSet::new(), packages: &packages }),
        };
        if covers {
            sentences.push(stops::sentence(tx, &stop).await?);
        }
    }
    for breaker in brakes.breakers {
        let is_here = match &breaker.scope {
            Scope::Group(uid) => targets.contains(&Target::Group(uid.clone())),
            Scope::Job(id) => *id == job.id,
        };
        if is_here && packages.iter().any(|p| p.intent == Intent::Install && p.uid.as_ref() == Some(&breaker.version)) {
            sentences.push(breakers::tell(tx, breaker).await?);
        }
    }
    if budgets::holds(tx, &job.id).await? {
        sentences.push(budgets::sentence(tx, env, job).await?);
    }
    Ok(sentences)
}

/// Says of rows that wait what holds them back.
pub async fn tell(tx: &mut dyn Tx, env: &Env, job: &Job, rows: &mut [jobs::Row]) -> Result<()> {
    let mut gate = Gate::now(tx).await?;
    let waits = |row: &jobs::Row| row.execution.state == ExecutionState::Queued;
    gate.meet(tx, &rows.iter().filter(|row| waits(row)).map(|row| row.client.id.clone()).collect::<Vec<_>>()).await?;
    for row in rows.iter_mut().filter(|row| waits(row)) {
        row.held = gate.why(tx, env, job, &row.execution).await?;
    }
    Ok(())
}

/// What holds a row back that waits.
pub async fn held(tx: &mut dyn Tx, env: &Env, job: &Job, row: &Execution) -> Result<Option<Held>> {
    if row.state != ExecutionState::Queued {
        return Ok(None);
    }
    Gate::now(tx).await?.why(tx, env, job, row).await
}
