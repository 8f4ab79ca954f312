//! What becomes of what a job installed on a client that leaves its reach: `on_leave`.
//!
//! It is uninstalled as an order to uninstall would do it, once: as another attempt of the same execution, with another purpose. Only
//! what the job itself installed there is, in the opposite order, and nothing that another job which stands installs there as well. A
//! job that has ended takes nothing back, and of a client that was removed or archived nothing is taken.

use super::{Env, Result, destinations, executions, keeping, rollouts};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use sutler_base::{
    ClientId, Digest, JobId, PackageName, Timestamp, Uid, limits,
    outcome::{ItemResult, Outcome},
    state::{CancelReason, ExecutionState, Intent, OnLeave, Purpose},
};
use sutler_core::{
    execution,
    model::{Attempt, Client, Execution, JobPackage, PackageVersion},
};
use sutler_store::{ExecutionChange, Tx};

/// Of the attempts of an execution, the newest first, those whose results a new one skips: nothing from before the machine was
/// `replaced`, before something of it may have been uninstalled, or before something was found missing.
pub fn that_count(attempts: Vec<Attempt>, replaced: Option<&Timestamp>) -> Vec<Attempt> {
    let mut counting = Vec::new();
    for attempt in attempts.into_iter().filter(|a| replaced.is_none_or(|at| a.created >= *at)) {
        let purpose = attempt.purpose;
        match purpose {
            // It was called off before anything of it was done.
            Purpose::Leave if attempt.state == ExecutionState::Canceled && results(&attempt).is_empty() => continue,
            Purpose::Leave => break,
            Purpose::Order | Purpose::Drift => counting.push(attempt),
        }
        if purpose == Purpose::Drift {
            break;
        }
    }
    counting
}

/// Of the attempts of an execution, the newest first, those that may have installed what is there: nothing from before the machine was
/// `replaced`, or before all of it was uninstalled.
pub fn since_left(attempts: Vec<Attempt>, replaced: Option<&Timestamp>) -> Vec<Attempt> {
    let all = attempts.into_iter().filter(|a| replaced.is_none_or(|at| a.created >= *at));
    all.take_while(|a| a.purpose != Purpose::Leave || !a.state.is_good()).filter(|a| a.purpose != Purpose::Leave).collect()
}

/// What came of the packages of an attempt.
pub fn results(attempt: &Attempt) -> Vec<ItemResult> {
    Outcome::parse(&attempt.outcome).map(|outcome| outcome.items).unwrap_or_default()
}

/// A package that an attempt of a job installed.
#[derive(Debug, Clone)]
pub struct Installed {
    /// As the job ordered it.
    pub package: JobPackage,
    /// Its version.
    pub version: PackageVersion,
}

/// How many clients are looked at in one statement.
const BATCH: usize = 500;
/// Of how many clients the attempts are held at a time: an outcome may be half a megabyte.
const TOGETHER: usize = 50;

/// What a job has installed on a client and no other job that stands installs there, in the opposite order; as much as an offer has
/// room for.
pub async fn to_uninstall(tx: &mut dyn Tx, job: &JobId, client: &ClientId) -> Result<Vec<Installed>> {
    let Some(client) = tx.client(client).await? else { return Ok(vec![]) };
    Ok(to_uninstall_from(tx, job, std::slice::from_ref(&client)).await?.remove(&client.id).unwrap_or_default())
}

/// The same of several clients, looked up together.
async fn to_uninstall_from(tx: &mut dyn Tx, job: &JobId, clients: &[Client]) -> Result<BTreeMap<ClientId, Vec<Installed>>> {
    let mut out = BTreeMap::new();
    let mut known: BTreeMap<i64, (Vec<JobPackage>, Vec<PackageVersion>)> = BTreeMap::new();
    for clients in clients.chunks(TOGETHER) {
        let ids: Vec<ClientId> = clients.iter().map(|client| client.id.clone()).collect();
        let mut attempts: BTreeMap<ClientId, Vec<Attempt>> = BTreeMap::new();
        for attempt in tx.attempts_of_all(job, &ids).await? {
            attempts.entry(attempt.client.clone()).or_default().push(attempt);
        }
        let mut kept: Option<BTreeMap<ClientId, BTreeSet<PackageName>>> = None;
        for client in clients {
            let mut found: Vec<Installed> = Vec::new();
            for attempt in since_left(attempts.remove(&client.id).unwrap_or_default(), client.replaced.as_ref()) {
                if let Entry::Vacant(new) = known.entry(attempt.revision) {
                    let packages = tx.job_packages(job, attempt.revision).await?;
                    let uids: Vec<Uid> = packages.iter().filter_map(|p| p.version.clone()).collect();
                    new.insert((packages, tx.versions_by_uid(&uids).await?));
                }
                let (packages, versions) = &known[&attempt.revision];
                for item in results(&attempt).into_iter().rev().filter(|item| item.state == ExecutionState::Succeeded) {
                    let Some(version) = versions.iter().find(|v| v.manifest == item.manifest) else { continue };
                    let is_it = |p: &&JobPackage| p.version.as_ref() == Some(&version.uid) && p.intent == Intent::Install;
                    let Some(package) = packages.iter().find(is_it) else { continue };
                    if found.len() == limits::JOB_PACKAGES_MAX || found.iter().any(|other| other.version.name == version.name) {
                        continue;
                    }
                    if kept.is_none() {
                        kept = Some(kept_by_others(tx, job, &ids).await?);
                    }
                    let is_kept = kept.as_ref().and_then(|kept| kept.get(&client.id)).is_some_and(|names| names.contains(&version.name));
                    if !is_kept {
                        found.push(Installed { package: package.clone(), version: version.clone() });
                    }
                }
            }
            out.insert(client.id.clone(), found);
        }
    }
    Ok(out)
}

/// The packages that other jobs which stand install on these clients: a look at each of those jobs, not at each of the clients.
async fn kept_by_others(tx: &mut dyn Tx, job: &JobId, clients: &[ClientId]) -> Result<BTreeMap<ClientId, BTreeSet<PackageName>>> {
    let mut holds: BTreeMap<JobId, Vec<ClientId>> = BTreeMap::new();
    for (other, client) in tx.jobs_holding(clients, &destinations::STANDING).await? {
        if other != *job {
            holds.entry(other).or_default().push(client);
        }
    }
    let mut kept: BTreeMap<ClientId, BTreeSet<PackageName>> = BTreeMap::new();
    for (other, clients) in holds {
        let names = installs(tx, &other).await?;
        if names.is_empty() {
            continue;
        }
        for client in destinations::reached(tx, &other, &clients).await? {
            kept.entry(client).or_default().extend(names.iter().cloned());
        }
    }
    Ok(kept)
}

/// The packages that a job installs, in its newest revision.
async fn installs(tx: &mut dyn Tx, job: &JobId) -> Result<Vec<PackageName>> {
    // Locked, the jobs of a client would be so in whatever order it has them.
    let Some(job) = tx.terms_of(std::slice::from_ref(job)).await?.pop() else { return Ok(vec![]) };
    let packages = tx.job_packages(&job.id, job.revision).await?;
    Ok(packages.into_iter().filter(|p| p.intent == Intent::Install).map(|p| p.package).collect())
}

/// The change of a row whose uninstallation has become needless: another job installs it, or nothing of it is there any more.
pub fn nothing_left(row: &Execution, env: &Env) -> ExecutionChange {
    let detail = "left the job's reach; what the job had installed another job installs, or nothing of it is left";
    let mut change = executions::moved(row, ExecutionState::Canceled, CancelReason::LeftGroup.as_str(), detail, env);
    change.purpose = Some(Purpose::Order);
    change.cancel = Some(None);
    change
}

/// Has what other jobs installed on a client that has left this one uninstalled, where they do not reach it either and it stayed for
/// this one's sake alone.
pub async fn leave_others(tx: &mut dyn Tx, env: &Env, job: &JobId, clients: &[ClientId]) -> Result<()> {
    if !takes_back(tx, job).await? {
        return Ok(());
    }
    let mut left: BTreeMap<JobId, Vec<ClientId>> = BTreeMap::new();
    for some in clients.chunks(BATCH) {
        for (other, client) in tx.ended_elsewhere(job, some).await? {
            left.entry(other).or_default().push(client);
        }
    }
    for (other, clients) in left {
        if !takes_back(tx, &other).await? {
            continue;
        }
        let reached = destinations::reached(tx, &other, &clients).await?;
        let gone: Vec<ClientId> = clients.into_iter().filter(|client| !reached.contains(client)).collect();
        leave(tx, env, &other, &gone).await?;
    }
    Ok(())
}

/// What was uninstalled for one job and is wanted by another that stands, and found it there, is installed again for that one.
async fn restore_for_others(tx: &mut dyn Tx, env: &Env, row: &Execution, gone: &[PackageName]) -> Result<()> {
    for other in destinations::jobs_holding(tx, &row.client, &destinations::STANDING).await? {
        if other == row.job || !executions::is_reached(tx, &other, &row.client).await? {
            continue;
        }
        let names: Vec<_> = installs(tx, &other).await?.into_iter().filter(|name| gone.contains(name)).collect();
        let has = tx.execution(&other, &row.client).await?.filter(|r| r.state.is_good() && r.purpose != Purpose::Leave);
        let (Some(has), Some(name)) = (has, names.first()) else { continue };
        let why = format!("{name} was uninstalled for jobs/{}, whose reach the client had left", row.job);
        keeping::again(tx, env, &has, &why).await?;
    }
    Ok(())
}

/// Whether a job takes back what it installed.
pub async fn takes_back(tx: &mut dyn Tx, job: &JobId) -> Result<bool> {
    Ok(tx.job_terms(job).await?.is_some_and(|terms| terms.on_leave == OnLeave::Uninstall))
}

/// Whether something that a job installed there would be uninstalled, now or once what is under way is over, if the client left its reach.
pub async fn is_owed(tx: &mut dyn Tx, row: &Execution) -> Result<bool> {
    if row.attempts == 0 || row.purpose == Purpose::Leave {
        return Ok(false);
    }
    // What has begun goes on to its end, and is taken back after that.
    Ok(execution::has_begun(row.state) || !to_uninstall(tx, &row.job, &row.client).await?.is_empty())
}

/// Has what the job installed uninstalled where it does not reach the client any more and nothing is under way.
pub async fn leave(tx: &mut dyn Tx, env: &Env, job: &JobId, clients: &[ClientId]) -> Result<()> {
    if clients.is_empty() || !takes_back(tx, job).await? {
        return Ok(());
    }
    let Some(job) = tx.job(job).await?.filter(|j| j.terms.on_leave == OnLeave::Uninstall && destinations::STANDING.contains(&j.state))
    else {
        return Ok(());
    };
    let keys: Vec<_> = clients.iter().map(|client| (job.id.clone(), client.clone())).collect();
    let mut rows = tx.executions(&keys).await?;
    rows.retain(|row| row.attempts > 0 && row.purpose != Purpose::Leave);
    for row in rows.iter().filter(|row| !row.state.is_end()) {
        if is_owed(tx, row).await? {
            env.reached().note(&job.id, [&row.client]);
        }
    }
    rows.retain(|row| row.state.is_end());
    let ids: Vec<ClientId> = rows.iter().map(|row| row.client.clone()).collect();
    let mut admitted = tx.clients(&ids).await?;
    admitted.retain(destinations::is_admitted);
    let installed = to_uninstall_from(tx, &job.id, &admitted).await?;
    let mut changes = Vec::new();
    for row in &rows {
        let Some(installed) = installed.get(&row.client).filter(|installed| !installed.is_empty()) else { continue };
        let which: Vec<_> = installed.iter().map(|i| format!("{} {}", i.version.name, i.version.version)).collect();
        let detail = format!("the client left the job's reach; what the job installed is uninstalled: {}", which.join(", "));
        let mut change = executions::moved(row, ExecutionState::Queued, CancelReason::LeftGroup.as_str(), &detail, env);
        change.purpose = Some(Purpose::Leave);
        changes.push(change);
    }
    tx.change_executions(&changes).await?;
    env.reached().note(&job.id, changes.iter().map(|change| &change.client));
    let mut wakes = env.wakes();
    wakes.jobs.insert(job.id);
    wakes.clients.extend(changes.into_iter().map(|c| c.client));
    Ok(())
}

/// A row whose uninstallation has not begun, and whose client is back: it is where it was before.
pub async fn take_back(tx: &mut dyn Tx, env: &Env, row: &Execution) -> Result<ExecutionChange> {
    let attempts = tx.attempts_of(&row.job, &row.client).await?;
    let is_it = |a: &&Attempt| a.purpose != Purpose::Leave && a.state.is_end();
    let before = attempts.iter().find(is_it);
    let since = attempts.iter().take_while(|a| !is_it(a));
    // An uninstallation that failed half-way has left something to install.
    let half_gone = since.filter(|a| a.purpose == Purpose::Leave).any(|a| !results(a).is_empty());
    let mut change = match before {
        Some(before) if !half_gone => {
            let outcome = Outcome::parse(&before.outcome).ok();
            let (reason, detail) = outcome.as_ref().map(execution::says).unwrap_or_default();
            executions::moved(row, before.state, &reason, &detail, env)
        }
        _ => executions::moved(row, ExecutionState::Queued, "", "", env),
    };
    // What had been canceled is wanted again.
    if change.to == ExecutionState::Canceled {
        change = executions::moved(row, ExecutionState::Queued, "", "", env);
    }
    change.purpose = Some(Purpose::Order);
    change.cancel = Some(None);
    if change.to == ExecutionState::Queued {
        rollouts::queued_again(tx, &row.job, &[row]).await?;
    }
    Ok(change)
}

/// What becomes of a row whose uninstallation has ended like that.
pub async fn ended(tx: &mut dyn Tx, env: &Env, row: &Execution, outcome: &Outcome, reason: &str, detail: &str) -> Result<ExecutionChange> {
    let state = outcome.state;
    let gone = outcome.items.iter().filter(|item| item.state == ExecutionState::Succeeded).map(|item| item.package.clone());
    restore_for_others(tx, env, row, &gone.collect::<Vec<_>>()).await?;
    let stands = tx.job(&row.job).await?.is_some_and(|job| destinations::STANDING.contains(&job.state));
    let mut change = if stands && executions::is_reached(tx, &row.job, &row.client).await? {
        rollouts::queued_again(tx, &row.job, &[row]).await?;
        executions::moved(row, ExecutionState::Queued, "", "", env)
    } else if state.is_good() {
        let detail = "left the job's reach, and what the job had installed was uninstalled";
        executions::moved(row, ExecutionState::Canceled, CancelReason::LeftGroup.as_str(), detail, env)
    } else {
        let mut failed = executions::moved(row, state, reason, detail, env);
        failed.purpose = Some(Purpose::Leave);
        failed.cancel = Some(None);
        return Ok(failed);
    };
    change.purpose = Some(Purpose::Order);
    change.cancel = Some(None);
    env.wakes().clients.insert(row.client.clone());
    Ok(change)
}

/// The manifests that an attempt may read that uninstalls what was installed by these revisions of the job.
pub async fn readable(tx: &mut dyn Tx, job: &JobId, client: &ClientId) -> Result<Vec<Digest>> {
    Ok(to_uninstall(tx, job, client).await?.into_iter().map(|i| i.version.manifest).collect())
}
