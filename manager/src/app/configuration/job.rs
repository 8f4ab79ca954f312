//! Jobs of a configuration: those that have an alias.

use super::{
    super::{Violations, jobs, relations, revise, schedule},
    AppError, Env, Found, NamedJob, Object, Result,
};
use std::collections::BTreeSet;
use sutler_base::{JobAlias, JobId, limits, state::JobState};
use sutler_core::{
    model::{Job, JobPackage, Target},
    rollout::Share,
    terms::JobTerms,
};
use sutler_proto::convert::VersionChoice;
use sutler_store::{Page, Tx};

/// The jobs with an alias that are reached and not archived.
pub(super) async fn all(tx: &mut dyn Tx, env: &Env) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for (alias, id) in tx.aliases().await? {
        let Some(job) = tx.job(&id).await?.filter(|job| !job.archived) else { continue };
        if jobs::reaches_job(tx, env, &job).await? {
            all.push(found(tx, alias, job).await?);
        }
    }
    Ok(all)
}

/// The jobs that are reached, have not ended and have no alias.
pub(super) async fn unnamed(tx: &mut dyn Tx, env: &Env) -> Result<Vec<JobId>> {
    let named: BTreeSet<JobId> = tx.aliases().await?.into_iter().map(|(_, id)| id).collect();
    let mut all = Vec::new();
    let mut page = Page { after: None, limit: limits::PAGE_MAX };
    loop {
        let (rows, next) = jobs::page(tx, env, &page, false).await?;
        all.extend(rows.into_iter().filter(|job| !jobs::has_ended(job.state) && !named.contains(&job.id)).map(|job| job.id));
        if next.is_none() {
            all.sort();
            return Ok(all);
        }
        page.after = next;
    }
}

async fn found(tx: &mut dyn Tx, alias: JobAlias, job: Job) -> Result<Found> {
    let packages = tx.job_packages(&job.id, job.revision).await?;
    let (targets, excluded) = (tx.job_targets(&job.id).await?, tx.exclusions(&job.id).await?);
    let order = jobs::Create {
        packages: packages.into_iter().filter(|p| p.needed.is_empty()).map(wanted).collect::<Result<_>>()?,
        destinations: destinations(tx, targets).await?,
        description: job.description,
        priority: job.priority,
        continue_on_failure: job.continue_on_failure,
        expires: job.expires,
        replaces: None,
        condition: job.condition,
        requirements: job.requirements,
        terms: asked(job.terms),
        alias: Some(alias),
        exclusions: destinations(tx, excluded).await?,
        clients_where: job.clients_where,
    };
    let ended = jobs::has_ended(job.state).then(|| job.state.to_string());
    let object = Object::Job(Box::new(NamedJob { order, draft: job.state == JobState::Draft }));
    Ok(Found { object, id: job.id.to_string(), etag: job.change.to_string(), ended })
}

/// These as they would be asked for, in their order.
async fn destinations(tx: &mut dyn Tx, targets: Vec<Target>) -> Result<Vec<jobs::Destination>> {
    let uids: Vec<_> = targets.iter().filter_map(|t| if let Target::Group(uid) = t { Some(uid.clone()) } else { None }).collect();
    let groups = tx.groups_by_uid(&uids).await?;
    let named = |target: Target| match target {
        Target::Client(id) => Some(jobs::Destination::Client(id)),
        Target::Group(uid) => groups.iter().find(|g| g.uid == uid).map(|g| jobs::Destination::Group(g.name.clone())),
    };
    let mut all: Vec<_> = targets.into_iter().filter_map(named).collect();
    all.sort();
    Ok(all)
}

/// The terms of a job as they would be asked for: what is meant by default is said, and nothing is in them that came later.
fn asked(mut terms: JobTerms) -> JobTerms {
    terms.rollout.stages = terms.rollout.stages();
    for stage in &mut terms.rollout.stages {
        if let Share::Members(pilots) = &mut stage.share {
            pilots.iter_mut().for_each(|pilot| pilot.uid = None);
        }
    }
    terms.schedule.failure.clear();
    terms
}

/// A package of a job as it would be ordered.
fn wanted(package: JobPackage) -> Result<jobs::Wanted> {
    let version = match (package.follow, package.version_text.as_str()) {
        (true, _) => VersionChoice::Latest,
        (false, "") => VersionChoice::Newest,
        (false, text) => VersionChoice::Exact(text.parse().map_err(|e: sutler_base::Invalid| AppError::Bug(e.0))?),
    };
    let JobPackage { package, replace_always, intent, values, version: _, version_text: _, follow: _, needed: _ } = package;
    Ok(jobs::Wanted { package, version, replace_always, intent, values })
}

/// The job as it is wanted, read beside the one that is there: a package without a version is whichever that has, and the order of
/// destinations says nothing. One that has ended was started, or never will be.
pub(super) fn beside(wanted: &NamedJob, is: &NamedJob, ended: bool) -> NamedJob {
    let mut wanted = wanted.clone();
    for package in wanted.order.packages.iter_mut().filter(|p| p.version == VersionChoice::Newest) {
        if let Some(has) = is.order.packages.iter().find(|p| p.package == package.package && p.version != VersionChoice::Latest) {
            package.version = has.version.clone();
        }
    }
    wanted.order.terms = asked(wanted.order.terms);
    for list in [&mut wanted.order.destinations, &mut wanted.order.exclusions] {
        list.sort();
        list.dedup();
    }
    if ended {
        wanted.draft = is.draft;
    }
    wanted
}

/// The same with its packages in the order of the one that is there, where that is what comes of the order in which they are listed:
/// what another one depends on is installed before it.
pub(super) async fn in_order(tx: &mut dyn Tx, env: &Env, mut wanted: NamedJob, is: &NamedJob) -> Result<NamedJob> {
    let (listed, has) = (&wanted.order.packages, &is.order.packages);
    if listed == has || listed.len() != has.len() || !has.iter().all(|package| listed.contains(package)) {
        return Ok(wanted);
    }
    let expanded = async {
        let mut packages = jobs::wanted(tx, listed).await?;
        jobs::pin(tx, &mut packages).await?;
        relations::expand(tx, env, "configuration", packages).await
    };
    match expanded.await {
        Ok(packages) => {
            let ordered = packages.iter().filter(|p| p.needed.is_empty()).map(|p| (&p.package, p.intent));
            if ordered.eq(has.iter().map(|p| (&p.package, p.intent))) {
                wanted.order.packages = has.clone();
            }
        }
        // What is wrong with them is said when it is carried out.
        Err(AppError::Invalid(_) | AppError::NotFound { .. } | AppError::State { .. }) => {}
        Err(other) => return Err(other),
    }
    Ok(wanted)
}

/// Makes a job as it is wanted, as far as a job can be changed.
pub(super) async fn change(tx: &mut dyn Tx, env: &Env, found: &Found, is: &NamedJob, wanted: &NamedJob) -> Result<()> {
    let id: JobId = found.id.parse().map_err(|e: sutler_base::Invalid| AppError::Bug(e.0))?;
    let mut v = Violations::default();
    for (field, other) in [("clients_where", wanted.order.clients_where != is.order.clients_where), ("state", wanted.draft && !is.draft)] {
        if other {
            v.add(field, format!("of jobs/{id} can't be changed so; give the job another name, and with prune the one that is there goes"));
        }
    }
    v.done()?;
    if wanted.order != is.order {
        revise::update(tx, env, &update(id.clone(), found, &is.order, wanted.order.clone())?).await?;
    }
    if is.draft && !wanted.draft {
        jobs::start(tx, env, &id).await?;
    }
    Ok(())
}

/// What makes one job of the other.
fn update(id: JobId, found: &Found, is: &jobs::Create, wanted: jobs::Create) -> Result<revise::Update> {
    let jobs::Create {
        packages,
        destinations,
        description,
        priority,
        continue_on_failure,
        expires,
        replaces: _,
        condition,
        requirements,
        terms,
        alias: _,
        exclusions,
        clients_where: _,
    } = wanted;
    let besides = |some: &[jobs::Destination], others: &[jobs::Destination]| some.iter().filter(|d| !others.contains(d)).cloned().collect();
    let mut update = revise::Update {
        id: Some(id),
        description: (description != is.description).then_some(description),
        expires: (expires != is.expires).then_some(expires),
        priority: (priority != is.priority).then_some(priority),
        packages: if packages == is.packages { vec![] } else { packages },
        condition: (condition != is.condition).then_some(condition),
        requirements: (requirements != is.requirements).then_some(requirements),
        continue_on_failure: (continue_on_failure != is.continue_on_failure).then_some(continue_on_failure),
        add_destinations: besides(&destinations, &is.destinations),
        remove_destinations: besides(&is.destinations, &destinations),
        add_exclusions: besides(&exclusions, &is.exclusions),
        remove_exclusions: besides(&is.exclusions, &exclusions),
        etag: found.etag.clone(),
        ..Default::default()
    };
    change_terms(&mut update, &is.terms, terms)?;
    Ok(update)
}

/// The terms that differ: those that are as by default get that back. Times are changed by what is given of them, and one that is to
/// be no more takes the others along.
fn change_terms(update: &mut revise::Update, is: &JobTerms, mut wanted: JobTerms) -> Result<()> {
    let (old, new) = (is.schedule.clone(), std::mem::replace(&mut wanted.schedule, is.schedule.clone()));
    if old != new {
        let lost = new.start.is_none() && old.start.is_some()
            || new.prefetch.is_none() && old.prefetch.is_some()
            || new.deadline.is_none() && old.deadline.is_some()
            || !new.ignore_windows && old.ignore_windows;
        update.schedule = Some(schedule::Change {
            start: new.start.filter(|_| lost || new.start != old.start),
            prefetch: new.prefetch.filter(|_| lost || new.prefetch != old.prefetch),
            deadline: new.deadline.filter(|_| lost || new.deadline != old.deadline),
            ignore_windows: new.ignore_windows,
            timing: Some(new.timing),
        });
        update.reset_terms.extend(lost.then(|| "schedule".to_owned()));
    }
    let members = |terms: &JobTerms| match serde_json::to_value(terms) {
        Ok(serde_json::Value::Object(members)) => Ok(members),
        _ => Err(AppError::Bug("the terms of a job are no object".into())),
    };
    let (old, default) = (members(is)?, members(&JobTerms::default())?);
    let mut given = default.clone();
    for (name, value) in members(&wanted)?.into_iter().filter(|(name, value)| old.get(name) != Some(value)) {
        if default.get(&name) == Some(&value) {
            update.reset_terms.push(name);
        } else {
            given.insert(name, value);
        }
    }
    update.terms = serde_json::from_value(given.into()).map_err(|e| AppError::Bug(format!("the terms of a job: {e}")))?;
    Ok(())
}

/// Cancels a job that is in the files no more. Its alias is free again: back in the files it is another job.
pub(super) async fn delete(tx: &mut dyn Tx, env: &Env, found: &Found) -> Result<()> {
    let id: JobId = found.id.parse().map_err(|e: sutler_base::Invalid| AppError::Bug(e.0))?;
    jobs::cancel(tx, env, &id).await?;
    tx.drop_alias(&id).await?;
    Ok(())
}
