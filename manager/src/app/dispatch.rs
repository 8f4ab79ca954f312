//! What connected clients are to be told: attempts are made and committed here, before anybody hears of them.

use super::{AppError, Env, Result, conditions, executions, inventory, leaving, trust};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    AttemptId, ClientId, JobId, Timestamp, Uid, limits,
    manifest::{Dependency, Requirement, relations::Values},
    quoted,
    state::{CancelReason, ClientState, ErrorKind, ExecutionState, Intent, Purpose},
};
use sutler_core::{
    model::{Attempt, Client, Job, JobPackage, PackageVersion},
    relations::VERSIONS_MAX,
};
use sutler_store::{ExecutionChange, StoreError, Tx};

/// One package of an offer.
#[derive(Debug, Clone)]
pub struct Item {
    /// The signed envelope.
    pub envelope: Vec<u8>,
    /// What is done with it.
    pub intent: Intent,
    /// The values of its parameters that the job gives.
    pub values: Values,
    /// Install also where it is there already.
    pub replace_always: bool,
    /// What the job requires of the machine besides what the package does.
    pub requirements: Vec<Requirement>,
    /// An earlier attempt of this execution installed it.
    pub succeeded: bool,
    /// It is only there because others depend on it, in these versions: a client that has what will do skips it.
    pub needed: Vec<Dependency>,
}

/// An attempt that a client is offered.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The attempt; committed.
    pub attempt: AttemptId,
    /// The job.
    pub job: JobId,
    /// The job's revision.
    pub revision: i64,
    /// The packages in their order.
    pub items: Vec<Item>,
    /// After this nothing may be started.
    pub expires: Option<Timestamp>,
    /// Go on with the next package although one failed.
    pub continue_on_failure: bool,
    /// 1 (first) to 9.
    pub priority: u8,
}

/// What one client is to be told.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// What the client may do; none if there is no such client.
    pub state: Option<ClientState>,
    /// Work.
    pub offers: Vec<Offer>,
    /// Attempts that are to start nothing more.
    pub cancels: Vec<(AttemptId, CancelReason)>,
    /// Attempts whose permission to start steps is renewed.
    pub leases: Vec<AttemptId>,
}

/// What these clients are to be told now. Attempts are made for what is queued. Where `known` names the attempts that a
/// client has, which has just connected, those that it was offered and does not have are offered again.
///
/// This runs after the client's session was entered, so that whatever is offered to it meanwhile goes into that session:
/// an offer may come twice, which the agent sees by its id, but none is lost. `sessions` says what each client counted when its
/// session here was opened: who has connected to another manager since is offered work by that one alone.
pub async fn orders(
    tx: &mut dyn Tx,
    env: &Env,
    sessions: &BTreeMap<ClientId, u64>,
    known: Option<&BTreeSet<AttemptId>>,
) -> Result<BTreeMap<ClientId, Orders>> {
    let is_newest = |client: &Client| sessions.get(&client.id).is_some_and(|counter| *counter >= client.session_counter);
    let mut here = Vec::with_capacity(sessions.len());
    let mut out: BTreeMap<ClientId, Orders> = BTreeMap::new();
    let mut lost = Vec::new();
    let mut open: BTreeMap<ClientId, usize> = BTreeMap::new();
    let mut replaced: BTreeMap<ClientId, Timestamp> = BTreeMap::new();
    let clients: Vec<ClientId> = sessions.keys().cloned().collect();
    let mut seen: BTreeMap<ClientId, Client> = BTreeMap::new();
    for client in tx.clients(&clients).await? {
        if is_newest(&client) {
            here.push(client.id.clone());
        }
        replaced.extend(client.replaced.map(|at| (client.id.clone(), at)));
        let orders = out.entry(client.id.clone()).or_default();
        orders.state = Some(client.state);
        for row in tx.open_executions_of(&client.id).await? {
            let Some(attempt) = row.attempt.filter(|_| row.state != ExecutionState::Queued) else { continue };
            *open.entry(client.id.clone()).or_default() += 1;
            if row.state == ExecutionState::Offered && row.cancel.is_none() && known.is_some_and(|k| !k.contains(&attempt)) {
                lost.push(attempt.clone());
            }
            match row.cancel {
                Some(cancel) => orders.cancels.push((attempt, cancel.reason)),
                None if client.state == ClientState::Active => orders.leases.push(attempt),
                None => {}
            }
        }
        seen.insert(client.id.clone(), client);
    }
    let mut catalogue = Catalogue::default();
    let queued = tx.queued_for(&here, 1000).await?;
    let (mut attempts, mut changes) = (Vec::new(), Vec::new());
    for (row, job) in queued {
        let slots = open.entry(row.client.clone()).or_default();
        if *slots >= env.settings.limits.open_attempts as usize || job.expires.is_some_and(|e| e <= env.now) {
            continue;
        }
        let attempt = Attempt {
            id: env.world.attempt_id(),
            job: job.id.clone(),
            client: row.client.clone(),
            number: row.attempts + 1,
            revision: job.revision,
            purpose: row.purpose,
            state: ExecutionState::Offered,
            created: env.now,
            ended: None,
            outcome: vec![],
            signature: vec![],
        };
        if let Some(client) = seen.get(&row.client).filter(|_| !job.condition.is_empty() && row.purpose != Purpose::Leave) {
            // Before that nothing can be told; the facts wake it.
            if client.facts_time.is_none() {
                continue;
            }
            if let Err(why) = is_meant(tx, env, &job, client).await? {
                changes.push(executions::moved(&row, ExecutionState::Rejected, ErrorKind::RequirementNotMet.as_str(), &why, env));
                env.wakes().jobs.insert(job.id.clone());
                continue;
            }
        }
        let Some(offer) = catalogue.offer(tx, env, &attempt, &job, replaced.get(&row.client)).await? else {
            // The row says why it waits; it goes on once the version can be delivered again.
            if row.reason != ErrorKind::PackageUnavailable.as_str() {
                let why = "a version of the job can't be delivered any more; `job show` says which";
                let mut change = executions::moved(&row, ExecutionState::Queued, ErrorKind::PackageUnavailable.as_str(), why, env);
                change.entered = row.entered;
                changes.push(change);
            }
            continue;
        };
        *slots += 1;
        changes.push(ExecutionChange {
            attempt: Some((attempt.id.clone(), attempt.number, attempt.revision)),
            progress: Some((0, 0, 0, String::new())),
            ..match row.purpose {
                // Why it is uninstalled, or installed again, stays to be seen.
                Purpose::Leave | Purpose::Drift => executions::moved(&row, ExecutionState::Offered, &row.reason, &row.detail, env),
                _ => executions::moved(&row, ExecutionState::Offered, "", "", env),
            }
        });
        env.wakes().jobs.insert(job.id.clone());
        out.entry(row.client).or_default().offers.push(offer);
        attempts.push(attempt);
    }
    tx.insert_attempts(&attempts).await?;
    tx.change_executions(&changes).await?;
    if !attempts.is_empty() {
        // Again, since the unit has its number in the change sequence now: a session that was opened elsewhere before that is seen
        // here, and one that comes after it is offered what it does not have.
        let offered: Vec<ClientId> = attempts.iter().map(|a| a.client.clone()).collect();
        if let Some(elsewhere) = tx.clients(&offered).await?.into_iter().find(|c| !is_newest(c)) {
            let why = format!("clients/{} has just connected to another manager", elsewhere.id);
            return Err(StoreError::Unavailable(why).into());
        }
    }
    for attempt in tx.attempts(&lost).await? {
        let Some(orders) = out.get_mut(&attempt.client).filter(|o| o.state == Some(ClientState::Active)) else { continue };
        let Some(job) = tx.job(&attempt.job).await? else { continue };
        if let Some(offer) = catalogue.offer(tx, env, &attempt, &job, replaced.get(&attempt.client)).await? {
            orders.offers.push(offer);
        }
    }
    Ok(out)
}

/// Whether a job is for this client at this moment, by its condition; else why not.
async fn is_meant(tx: &mut dyn Tx, env: &Env, job: &Job, client: &Client) -> Result<std::result::Result<(), String>> {
    let condition = match conditions::compile(tx, env, "condition", &job.condition).await {
        Ok(condition) => condition,
        // A question that it names has been changed or deleted.
        Err(e @ AppError::Invalid(_)) => return Ok(Err(format!("the job's condition can't be decided any more: {e}"))),
        Err(e) => return Err(e),
    };
    let subject = inventory::subjects(tx, std::slice::from_ref(client), condition.uses_packages()).await?.pop();
    let matched = subject.is_some_and(|subject| condition.evaluate(&subject.input(client)).matched());
    Ok(if matched { Ok(()) } else { Err(format!("the job is for clients with {}; this is none", quoted(&job.condition))) })
}

/// The versions of jobs, looked up once for all clients of a batch.
#[derive(Default)]
struct Catalogue {
    packages: BTreeMap<(JobId, i64), Vec<JobPackage>>,
    versions: BTreeMap<Uid, Option<PackageVersion>>,
    word: Option<trust::Word>,
}

impl Catalogue {
    /// The offer of an attempt; none if a version can't be delivered any more. What was installed before the client's machine
    /// was `replaced` is gone.
    async fn offer(
        &mut self,
        tx: &mut dyn Tx,
        env: &Env,
        attempt: &Attempt,
        job: &Job,
        replaced: Option<&Timestamp>,
    ) -> Result<Option<Offer>> {
        let key = (job.id.clone(), attempt.revision);
        let word = match self.word.take() {
            Some(word) => word,
            None => trust::word(tx).await?,
        };
        let word = &*self.word.insert(word);
        if !self.packages.contains_key(&key) {
            let packages = tx.job_packages(&job.id, attempt.revision).await?;
            for uid in packages.iter().filter_map(|p| p.version.as_ref()) {
                if !self.versions.contains_key(uid) {
                    let found = tx.versions_by_uid(std::slice::from_ref(uid)).await?.pop();
                    self.versions.insert(uid.clone(), found);
                }
            }
            self.packages.insert(key.clone(), packages);
        }
        if attempt.purpose == Purpose::Leave {
            let installed = leaving::to_uninstall(tx, &job.id, &attempt.client).await?;
            let items = installed.into_iter().map(|i| Item {
                envelope: i.version.envelope,
                intent: Intent::Uninstall,
                values: i.package.values,
                requirements: vec![],
                replace_always: false,
                succeeded: false,
                needed: vec![],
            });
            return Ok(Some(of(attempt, job, items.collect())));
        }
        // A retry skips the packages that an earlier attempt installed.
        let mut done = Vec::new();
        let earlier = match (attempt.number, attempt.purpose) {
            (1, _) | (_, Purpose::Drift) => vec![],
            _ => leaving::that_count(tx.attempts_of(&job.id, &attempt.client).await?, replaced),
        };
        for earlier in &earlier {
            done.extend(leaving::results(earlier).into_iter().filter(|i| i.state.is_good()).map(|i| (i.package, i.manifest)));
        }
        let mut items = Vec::new();
        let all = &self.packages[&key];
        let picks = if job.rolls_back.is_some() { tx.picks(&job.id, &attempt.client).await? } else { None };
        let picked: Vec<&JobPackage> = match picks {
            Some(picks) => picks.into_iter().filter_map(|n| all.get(n)).collect(),
            None => all.iter().collect(),
        };
        for package in picked {
            let version = package.version.as_ref().and_then(|uid| self.versions.get(uid)?.as_ref());
            // What is taken back may well be taken off.
            let offered = |v: &&PackageVersion| package.intent == Intent::Uninstall || trust::deliverable(v, word, env.now).is_ok();
            let Some(version) = version.filter(offered) else { return Ok(None) };
            items.push(Item {
                envelope: version.envelope.clone(),
                intent: package.intent,
                values: package.values.clone(),
                requirements: if package.intent == Intent::Install { job.requirements.clone() } else { vec![] },
                replace_always: package.replace_always,
                // What was uninstalled is named by the version that was there.
                succeeded: done.iter().any(|(name, manifest)| match package.intent {
                    Intent::Install => *manifest == version.manifest,
                    Intent::Uninstall => *name == version.name,
                }),
                needed: needed(package),
            });
        }
        Ok(Some(of(attempt, job, items)))
    }
}

/// The offer of an attempt with these packages.
fn of(attempt: &Attempt, job: &Job, items: Vec<Item>) -> Offer {
    Offer {
        attempt: attempt.id.clone(),
        job: job.id.clone(),
        revision: attempt.revision,
        items,
        expires: job.expires,
        continue_on_failure: job.continue_on_failure,
        priority: job.priority,
    }
}

/// For what a package of a job is there; nothing if it was asked for, or if there is more than an agent takes: then it is installed
/// as it is.
fn needed(package: &JobPackage) -> Vec<Dependency> {
    let all: Vec<Dependency> = package.needed.iter().map(|need| need.on.clone()).collect();
    if all.len() > limits::RELATIONS_MAX { Vec::new() } else { all }
}

/// The manifests that an attempt of this client may read: those of its job's revision, and of what has to be uninstalled for them.
/// None where there is no such attempt of it.
pub async fn readable(tx: &mut dyn Tx, client: &ClientId, attempt: &AttemptId) -> Result<Option<Vec<sutler_base::Digest>>> {
    let Some(attempt) = tx.attempt(attempt).await?.filter(|a| a.client == *client) else { return Ok(None) };
    if attempt.state.is_end() {
        // No word about the content: who still holds it is told to let go of it, and has nothing to report.
        let message = "this attempt is over; nothing is fetched for it any more";
        return Err(AppError::state(format!("attempts/{}", attempt.id), "ATTEMPT_OVER", message));
    }
    let state = tx.client(client).await?.map(|c| c.state);
    if state != Some(ClientState::Active) {
        return Err(not_active(client, state));
    }
    if attempt.purpose == Purpose::Leave {
        return Ok(Some(leaving::readable(tx, &attempt.job, client).await?));
    }
    let picks = tx.picks(&attempt.job, client).await?;
    let packages = tx.job_packages(&attempt.job, attempt.revision).await?.into_iter().enumerate();
    let picked = packages.filter(|(n, _)| picks.as_ref().is_none_or(|picks| picks.contains(n)));
    let uids: Vec<Uid> = picked.filter_map(|(_, p)| p.version).collect();
    let versions = tx.versions_by_uid(&uids).await?;
    let mut manifests: Vec<_> = versions.iter().map(|v| v.manifest).collect();
    for new in versions.iter().filter(|v| v.terms.supersedes.iter().any(|other| other.uninstall)) {
        for other in new.terms.supersedes.iter().filter(|other| other.uninstall) {
            let old = tx.versions_of(&other.package, VERSIONS_MAX).await?;
            manifests.extend(old.iter().filter(|old| new.present().displaces(&old.present()).is_some()).map(|old| old.manifest));
        }
    }
    Ok(Some(manifests))
}

/// A client that is not `ACTIVE` reads nothing. It may again later: that is no word about the content.
pub fn not_active(client: &ClientId, state: Option<ClientState>) -> AppError {
    let state = state.map_or("unknown", ClientState::as_str);
    AppError::state(format!("clients/{client}"), "NOT_ACTIVE", format!("this client is {state}; it gets content when an operator lets it"))
}

/// The attempts of a client whose permission to start steps is renewed.
pub async fn leases(tx: &mut dyn Tx, client: &ClientId) -> Result<Vec<AttemptId>> {
    if tx.client(client).await?.is_none_or(|c| c.state != ClientState::Active) {
        return Ok(vec![]);
    }
    let open = tx.open_executions_of(client).await?;
    Ok(open.into_iter().filter(|r| r.state != ExecutionState::Queued && r.cancel.is_none()).filter_map(|r| r.attempt).collect())
}
