//! Circuit breakers: count how attempts ended, open by themselves, and are closed by people.

use super::{Env, Result};
use crate::app::{AppError, events, jobs, packages};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use sutler_base::{
    ClientId, Digest, JobId, Uid,
    outcome::Outcome,
    state::{EventKind, ExecutionState, Purpose},
};
use sutler_core::{
    brake::breaker::{self, Breaker, Counted, Rules, Scope, Tried},
    event::Event,
    model::{Attempt, Target},
};
use sutler_store::{Installs, Tx};

/// How many breakers are shown at the most.
const SHOWN_MAX: usize = 1000;

/// A breaker with the names of what it is about.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The breaker.
    pub breaker: Breaker,
    /// `packages/NAME/versions/VERSION`
    pub package: String,
    /// `groups/NAME` or `jobs/ID`
    pub of: String,
}

/// How an attempt ended for its packages, each by the digest of its manifest.
type AllTried = Vec<(Digest, Tried)>;

/// When breakers open at this manager.
fn rules(env: &Env) -> Rules {
    let limits = &env.settings.limits;
    Rules { failures: limits.breaker_failures, attempts: limits.breaker_attempts, bytes: limits.breaker_bytes }
}

/// How an attempt ended for one package: the digest of its manifest. What was fetched is what this manager gave; where it gave the
/// attempt nothing, since it was started again or another one did, what the agent says.
fn tried(env: &Env, outcome: &Outcome) -> AllTried {
    let served = env.live.transfers.served(&outcome.attempt);
    let one = |item: &sutler_base::outcome::ItemResult| {
        let failed = match item.state {
            ExecutionState::Succeeded => false,
            ExecutionState::Failed | ExecutionState::Interrupted => true,
            _ => return None,
        };
        let bytes = match &served {
            Some(served) => served.get(&item.manifest).copied().unwrap_or(0),
            None => item.fetched_bytes,
        };
        Some((item.manifest, Tried { failed, bytes }))
    };
    outcome.items.iter().filter_map(one).collect()
}

/// Counts how attempts ended.
pub async fn count(tx: &mut dyn Tx, env: &Env, ended: &[(&Attempt, &Outcome)]) -> Result<()> {
    let ended: Vec<_> = ended.iter().map(|(attempt, outcome)| (*attempt, Some(tried(env, outcome)))).collect();
    note(tx, env, ended).await
}

/// Counts an attempt that was lost: nobody knows how it ended.
pub async fn count_lost(tx: &mut dyn Tx, env: &Env, attempt: &Attempt) -> Result<()> {
    note(tx, env, vec![(attempt, None)]).await
}

async fn note(tx: &mut dyn Tx, env: &Env, mut ended: Vec<(&Attempt, Option<AllTried>)>) -> Result<()> {
    ended.retain(|(attempt, tried)| attempt.purpose != Purpose::Leave && tried.as_ref().is_none_or(|tried| !tried.is_empty()));
    let mut installed: BTreeMap<(&JobId, i64), Vec<Installs>> = BTreeMap::new();
    let mut targeted: BTreeMap<&JobId, Vec<Target>> = BTreeMap::new();
    for (attempt, _) in &ended {
        if let Entry::Vacant(new) = installed.entry((&attempt.job, attempt.revision)) {
            new.insert(tx.installs(&attempt.job, attempt.revision).await?);
        }
        if let Entry::Vacant(new) = targeted.entry(&attempt.job) {
            new.insert(tx.job_targets(&attempt.job).await?);
        }
    }
    let by_group = |attempt: &Attempt| targeted[&attempt.job].iter().any(|target| matches!(target, Target::Group(_)));
    let members: BTreeSet<ClientId> =
        ended.iter().filter(|(attempt, _)| by_group(attempt)).map(|(attempt, _)| attempt.client.clone()).collect();
    let mut groups: BTreeMap<ClientId, BTreeSet<Uid>> = BTreeMap::new();
    if !members.is_empty() {
        for membership in tx.memberships_of_all(&members.into_iter().collect::<Vec<_>>()).await? {
            groups.entry(membership.client).or_default().insert(membership.group);
        }
    }
    // In one order for all units, so that none waits for another one crosswise.
    let mut counts: BTreeMap<(Uid, Scope), Vec<Tried>> = BTreeMap::new();
    let none = BTreeSet::new();
    for (attempt, tried) in ended {
        let installs = &installed[&(&attempt.job, attempt.revision)];
        let mut versions: Vec<(Uid, Tried)> = match tried {
            Some(tried) => {
                let counted = |(manifest, tried): (Digest, Tried)| {
                    let installs = installs.iter().find(|installs| installs.manifest == manifest)?;
                    // Whatever its agent says or asks for again and again: one attempt needs it once.
                    Some((installs.version.clone(), Tried { bytes: tried.bytes.min(installs.bytes), ..tried }))
                };
                tried.into_iter().filter_map(counted).collect()
            }
            None => installs.iter().map(|installs| (installs.version.clone(), Tried { failed: true, bytes: 0 })).collect(),
        };
        versions.sort_by(|a, b| (&a.0, !a.1.failed).cmp(&(&b.0, !b.1.failed)));
        // An attempt counts once, whatever its agent says; if any of it failed, as failed.
        versions.dedup_by(|later, first| later.0 == first.0);
        let scopes = breaker::scopes(&attempt.job, &targeted[&attempt.job], groups.get(&attempt.client).unwrap_or(&none));
        for (version, tried) in versions {
            for scope in &scopes {
                counts.entry((version.clone(), scope.clone())).or_default().push(tried);
            }
        }
    }
    for ((version, scope), tried) in counts {
        let mut breaker = tx.breaker_of(&version, &scope, &env.world.uid()).await?;
        // What was under way when it opened says nothing new.
        if breaker.opened.is_some() {
            continue;
        }
        let before = breaker.counted.clone();
        let opens = tried.into_iter().find_map(|tried| {
            breaker.counted.count(tried, env.now);
            breaker.counted.opens(&rules(env))
        });
        if let Some(why) = opens {
            open(tx, env, breaker, why).await?;
        } else if breaker.counted != before {
            tx.save_breaker(&breaker).await?;
        }
    }
    Ok(())
}

async fn open(tx: &mut dyn Tx, env: &Env, mut breaker: Breaker, why: String) -> Result<()> {
    breaker.opened = Some((env.now, why.clone()));
    tx.save_breaker(&breaker).await?;
    let shown = show(tx, breaker).await?;
    let object = format!("breakers/{}", shown.breaker.uid);
    let event = Event::new(EventKind::BreakerOpened, &object, sentence(&shown));
    let event = match &shown.breaker.scope {
        Scope::Job(job) => event.of_job(job),
        Scope::Group(_) => event,
    };
    events::emit(tx, env, event.with("package", &shown.package).with("of", &shown.of).with("why", &why)).await?;
    env.audit(tx, "open_breaker", object, format!("{} on {}: {why}", shown.package, shown.of)).await?;
    env.wakes().brakes = true;
    Ok(())
}

async fn show(tx: &mut dyn Tx, breaker: Breaker) -> Result<Shown> {
    let version = tx.versions_by_uid(std::slice::from_ref(&breaker.version)).await?.pop();
    let package = version.map_or_else(|| format!("packages/{}", breaker.version), |version| packages::name_of(&version));
    let of = match &breaker.scope {
        Scope::Job(job) => format!("jobs/{job}"),
        Scope::Group(uid) => {
            let group = tx.groups_by_uid(std::slice::from_ref(uid)).await?.pop();
            group.map_or_else(|| format!("groups/{uid}"), |group| format!("groups/{}", group.name))
        }
    };
    Ok(Shown { breaker, package, of })
}

fn sentence(shown: &Shown) -> String {
    let Shown { breaker, package, of } = shown;
    format!("the breaker of {package} on {of} {breaker}; `sutler breaker close {}` lets it go on", breaker.uid)
}

/// Why a breaker holds back what it covers, and what lets it go on.
pub async fn tell(tx: &mut dyn Tx, breaker: Breaker) -> Result<String> {
    Ok(sentence(&show(tx, breaker).await?))
}

/// Whether whoever asks reaches what a breaker is about.
async fn is_reached(tx: &mut dyn Tx, env: &Env, scope: &Scope) -> Result<bool> {
    match scope {
        Scope::Group(uid) => Ok(env.reach.covers(&[Target::Group(uid.clone())], &[])),
        Scope::Job(id) => match tx.job(id).await? {
            Some(job) => jobs::reaches_job(tx, env, &job).await,
            None => Ok(false),
        },
    }
}

/// The breakers that are open and that whoever asks reaches, the first that opened first; a thousand at the most.
pub async fn list(tx: &mut dyn Tx, env: &Env) -> Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for breaker in tx.open_breakers().await? {
        if shown.len() < SHOWN_MAX && is_reached(tx, env, &breaker.scope).await? {
            shown.push(show(tx, breaker).await?);
        }
    }
    Ok(shown)
}

/// Closes a breaker: it counts anew from now on. One that is closed stays so.
pub async fn close(tx: &mut dyn Tx, env: &Env, uid: &Uid) -> Result<Shown> {
    let mut breaker = match tx.breaker(uid).await? {
        Some(breaker) if is_reached(tx, env, &breaker.scope).await? => breaker,
        _ => return Err(AppError::not_found("breaker", uid)),
    };
    if breaker.opened.is_none() {
        return show(tx, breaker).await;
    }
    let before = show(tx, breaker.clone()).await?;
    breaker.opened = None;
    breaker.counted = Counted::default();
    tx.save_breaker(&breaker).await?;
    env.audit(tx, "close_breaker", format!("breakers/{uid}"), sentence(&before)).await?;
    env.wakes().brakes = true;
    show(tx, breaker).await
}

#[cfg(test)]
#[path = "breakers_tests.rs"]
mod tests;
