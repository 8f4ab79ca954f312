//! Jobs that are changed: who has not started gets what is new, as another revision; who has keeps the one that it was offered.

use super::{
    AppError, Env, Result, conditions, destinations,
    destinations::{Ahead, Effect},
    executions, groups,
    jobs::{self, Destination, Shown, Wanted},
    keeping, policies, reached, rollouts, schedule, shelf,
};
use serde_json::Value;
use std::collections::BTreeSet;
use sutler_base::{
    ClientId, JobAlias, JobId, Timestamp,
    manifest::Requirement,
    state::{CancelReason, ExecutionState, JobState, Purpose},
};
use sutler_core::{model::Job, schedule::Schedule, terms::JobTerms};
use sutler_store::{Page, Tx};

/// How many rows are handled at a time.
const BATCH: u32 = 500;

/// How much of a value the audit has (characters).
const SAID: usize = 500;

/// What changes a job; `None`, and what has no entries, leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Which; always there.
    pub id: Option<JobId>,
    /// For people.
    pub description: Option<String>,
    /// After this nothing is started; `Some(None)` for no end.
    pub expires: Option<Option<Timestamp>>,
    /// 1 (first) to 9.
    pub priority: Option<u8>,
    /// In place of all its packages.
    pub packages: Vec<Wanted>,
    /// Only for clients for which this holds; empty for all.
    pub condition: Option<String>,
    /// What a machine must be and have besides what the packages require.
    pub requirements: Option<Vec<Requirement>>,
    /// Go on with the next package although one failed.
    pub continue_on_failure: Option<bool>,
    /// Terms: what is not as it is by default takes the place of what it has.
    pub terms: JobTerms,
    /// When it is carried out.
    pub schedule: Option<schedule::Change>,
    /// Terms that get their default back.
    pub reset_terms: Vec<String>,
    /// Destinations that it gets.
    pub add_destinations: Vec<Destination>,
    /// Destinations that it loses.
    pub remove_destinations: Vec<Destination>,
    /// Exclusions that it gets.
    pub add_exclusions: Vec<Destination>,
    /// Exclusions that it loses.
    pub remove_exclusions: Vec<Destination>,
    /// What people call it from now on; `Some(None)` for nothing.
    pub alias: Option<Option<JobAlias>>,
    /// What it was when the caller read it; empty for whatever it is.
    pub etag: String,
}

/// Changes a job that has not ended.
pub async fn update(tx: &mut dyn Tx, env: &Env, input: &Update) -> Result<Shown> {
    let id = input.id.as_ref().ok_or_else(|| AppError::Bug("an update of no job".into()))?;
    let mut job = jobs::load(tx, env, id).await?;
    groups::check_etag(&input.etag, job.change, || format!("jobs/{id}"))?;
    if matches!(job.state, JobState::Canceled | JobState::Expired | JobState::Completed) {
        let message = format!("jobs/{id} is {}; what has ended is not changed, run it again with `job retry` or `job clone`", job.state);
        return Err(AppError::state(format!("jobs/{id}"), "ENDED", message));
    }
    if input.expires.flatten().is_some_and(|e| e <= env.now) {
        return Err(AppError::invalid("expire_time", "lies in the past; end the job with `job cancel`"));
    }
    let elsewhere = [&input.add_destinations, &input.remove_destinations, &input.add_exclusions, &input.remove_exclusions];
    if job.rolls_back.is_some() && (!input.packages.is_empty() || elsewhere.iter().any(|list| !list.is_empty())) {
        let message = format!("jobs/{id} puts back what clients had: neither its packages nor its destinations are changed");
        return Err(AppError::state(format!("jobs/{id}"), "ROLLBACK", message));
    }
    if let Some(condition) = input.condition.as_ref().filter(|text| !text.is_empty()) {
        conditions::compile(tx, env, "condition", condition).await?;
    }
    let before = job.clone();
    job.description = input.description.clone().unwrap_or(job.description);
    job.expires = input.expires.unwrap_or(job.expires);
    job.priority = input.priority.unwrap_or(job.priority);
    job.condition = input.condition.clone().unwrap_or(job.condition);
    job.requirements = input.requirements.clone().unwrap_or(job.requirements);
    job.continue_on_failure = input.continue_on_failure.unwrap_or(job.continue_on_failure);
    job.terms = job.terms.updated(&input.terms, &input.reset_terms).map_err(|why| AppError::invalid("reset_terms", why))?;
    match &input.schedule {
        Some(change) => schedule::change(&mut job, env, &before.terms.schedule, change)?,
        None => schedule::check(&job.terms.schedule, job.expires)?,
    }
    schedule::check_terms(&job.terms)?;
    if job.terms.user.available != before.terms.user.available && job.state != JobState::Draft {
        let message =
            format!("jobs/{id} has started; whether its users choose it can't be changed any more, `job clone` makes another job");
        return Err(AppError::state(format!("jobs/{id}"), "STARTED", message));
    }
    if job.state == JobState::Scheduled && job.terms.schedule.start.is_none() {
        return Err(AppError::invalid("reset_terms", format!("jobs/{id} is scheduled; to start it now, cancel it and run it anew")));
    }
    if job.terms.rollout != before.terms.rollout {
        rollouts::resolve(tx, &mut job.terms).await?;
        if !matches!(job.state, JobState::Draft | JobState::Scheduled) {
            let message =
                format!("jobs/{id} has started, and its stages stay as they are; `job promote` opens them, `job clone` makes another job");
            return Err(AppError::state(format!("jobs/{id}"), "STARTED", message));
        }
    }
    let mut changes = changed(&before, &job);
    if let Some(alias) = &input.alias {
        changes.extend(jobs::call(tx, env, id, alias.as_ref()).await?);
    }
    // A draft has been seen by nobody: its first revision is what it is when it is started.
    let started = job.state != JobState::Draft;
    let had = tx.job_packages(id, job.revision).await?;
    let packages = if input.packages.is_empty() {
        None
    } else {
        let mut wanted = jobs::wanted(tx, &input.packages).await?;
        if started {
            jobs::pin(tx, &mut wanted).await?;
            wanted = super::relations::expand(tx, env, &format!("jobs/{id}"), wanted).await?;
        }
        (wanted != had).then_some(wanted)
    };
    jobs::check_what(&job.terms, packages.as_ref().unwrap_or(&had).len())?;
    if let Some(wanted) = &packages {
        changes.push(format!("packages: {} in place of {}", jobs::describe(wanted), jobs::describe(&had)));
        for target in tx.job_targets(id).await?.iter().filter(|_| started) {
            jobs::refuse_second(tx, env, &job, wanted, target).await?;
        }
    }
    // Of other times agents are told as they are; nothing has to be offered anew for them.
    let mut same = Job { description: before.description.clone(), ..job.clone() };
    same.terms.schedule = Schedule { timing: job.terms.schedule.timing, ..before.terms.schedule.clone() };
    let seen = same != before || packages.is_some();
    if started && seen {
        job.revision += 1;
        changes.push(format!("revision {}", job.revision));
    }
    if job.revision != before.revision || packages.is_some() {
        tx.put_job_packages(id, job.revision, packages.as_deref().unwrap_or(&had)).await?;
    }
    tx.save_job(&job).await?;
    if packages.is_some() && rollouts::other_packages(tx, &job).await? {
        changes.push("other packages: its stages begin again".into());
    }
    // Before it starts its stages and its time are part of what was agreed to, too.
    let otherwise = job.state == JobState::Scheduled && job.terms != before.terms;
    if started && (packages.is_some() || job.condition != before.condition || job.requirements != before.requirements || otherwise) {
        // Whoever has not begun gets what nobody had agreed to.
        env.reached().note_rows(id, reached::NOT_BEGUN);
        if job.state == JobState::Scheduled {
            let targets = tx.job_targets(id).await?;
            destinations::note_ahead(tx, env, &job, &targets).await?;
        }
        jobs::note_coming(tx, env, id, Some(Effect::Reached)).await?;
    }
    if started && job.terms.on_leave != before.terms.on_leave {
        // It takes back now from those whom policies will take out of its groups.
        jobs::note_coming(tx, env, id, Some(Effect::TakenBack)).await?;
    }
    let wanted = packages.unwrap_or(had);
    changes.extend(change_destinations(tx, env, &job, &wanted, input).await?);
    if job.terms.keep != before.terms.keep {
        keeping::begin(tx, env, &job).await?;
    }
    if job.terms.schedule != before.terms.schedule {
        jobs::wake_open(tx, env, id).await?;
    }
    if job.revision != before.revision {
        call_back(tx, env, id).await?;
        jobs::wake_queued(tx, env, id).await?;
    }
    env.audit(tx, "update_job", format!("jobs/{id}"), if changes.is_empty() { "nothing".into() } else { changes.join("; ") }).await?;
    env.wakes().jobs.insert(id.clone());
    if started {
        // What their users are shown of it may be something else.
        shelf::wake(tx, env, &job).await?;
    }
    jobs::get(tx, env, id).await
}

/// What is different, a sentence for each field.
fn changed(before: &Job, after: &Job) -> Vec<String> {
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let time = |t: Option<Timestamp>| t.map_or("none".to_owned(), |t| t.to_string());
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let pairs = [
        ("description", or_none(before.description.clone()), or_none(after.description.clone())),
        ("expire_time", time(before.expires), time(after.expires)),
        ("priority", before.priority.to_string(), after.priority.to_string()),
        ("condition", or_none(before.condition.clone()), or_none(after.condition.clone())),
        ("requirements", json(serde_json::to_string(&before.requirements)), json(serde_json::to_string(&after.requirements))),
        ("continue_on_failure", before.continue_on_failure.to_string(), after.continue_on_failure.to_string()),
    ];
    let mut terms = Vec::new();
    let value = |terms: &JobTerms| serde_json::to_value(terms).unwrap_or_default();
    each_change("terms".to_owned(), &value(&before.terms), &value(&after.terms), &mut terms);
    let cut =
        |text: &str| -> String { if text.chars().count() > SAID { text.chars().take(SAID).chain(['…']).collect() } else { text.into() } };
    let pairs = pairs.map(|(name, old, new)| (name.to_owned(), old, new));
    let differ = pairs.iter().chain(&terms).filter(|(_, old, new)| old != new);
    differ.map(|(name, old, new)| format!("{name}: {} in place of {}", cut(new), cut(old))).collect()
}

/// What is different in two values, a member or an element at a time: a value that is long hides nothing.
fn each_change(name: String, old: &Value, new: &Value, out: &mut Vec<(String, String, String)>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(a), Value::Object(b)) => {
            let members: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for member in members {
                let of = |object: &serde_json::Map<String, Value>| object.get(member).cloned().unwrap_or_default();
                each_change(format!("{name}.{member}"), &of(a), &of(b), out);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for n in 0..a.len().max(b.len()) {
                let of = |list: &[Value]| list.get(n).cloned().unwrap_or_default();
                each_change(format!("{name}[{n}]"), &of(a), &of(b), out);
            }
        }
        _ => {
            let text = |value: &Value| if value.is_null() { "none".to_owned() } else { value.to_string() };
            out.push((name, text(old), text(new)));
        }
    }
}

/// Destinations and exclusions that come and go. A draft reaches nobody yet.
async fn change_destinations(
    tx: &mut dyn Tx,
    env: &Env,
    job: &Job,
    wanted: &[sutler_core::model::JobPackage],
    input: &Update,
) -> Result<Vec<String>> {
    let (id, stands) = (&job.id, destinations::STANDING.contains(&job.state));
    let mut changes = Vec::new();
    let mut add = Vec::new();
    for destination in &input.add_destinations {
        let target = destinations::resolve(tx, env, destination).await?;
        if job.state != JobState::Draft {
            jobs::refuse_second(tx, env, job, wanted, &target).await?;
        }
        add.push(target);
    }
    tx.add_targets(id, &add).await?;
    let mut exclude = Vec::new();
    for destination in &input.add_exclusions {
        exclude.push(destinations::resolve_exclusion(tx, env, destination).await?);
    }
    tx.add_exclusions(id, &exclude).await?;
    let mut lost = Vec::new();
    for (n, destination) in input.remove_destinations.iter().enumerate() {
        let target = destinations::resolve_exclusion(tx, env, destination).await?;
        if !tx.remove_target(id, &target).await? {
            return Err(AppError::invalid(format!("remove_destinations[{n}]"), format!("is no destination of jobs/{id}")));
        }
        lost.push(target);
    }
    if !lost.is_empty() && tx.job_targets(id).await?.is_empty() && job.clients_where.is_empty() {
        return Err(AppError::invalid("remove_destinations", "a job has a destination at least; end it with `job cancel`"));
    }
    let mut free = Vec::new();
    for (n, destination) in input.remove_exclusions.iter().enumerate() {
        let target = destinations::resolve_exclusion(tx, env, destination).await?;
        if !tx.remove_exclusion(id, &target).await? {
            return Err(AppError::invalid(format!("remove_exclusions[{n}]"), format!("is no exclusion of jobs/{id}")));
        }
        free.push(target);
    }
    let words =
        [("destinations: with", &add), ("destinations: without", &lost), ("exclusions: with", &exclude), ("exclusions: without", &free)];
    for (word, targets) in words {
        if !targets.is_empty() {
            changes.push(format!("{word} {}", destinations::names(tx, targets).await?.join(", ")));
        }
    }
    if job.state == JobState::Scheduled {
        let come: Vec<_> = add.iter().chain(&free).cloned().collect();
        let within = Job { clients_where: String::new(), ..job.clone() };
        destinations::note_ahead(tx, env, &within, &come).await?;
    }
    if stands {
        for (targets, reason) in [(&lost, CancelReason::DestinationDeleted), (&exclude, CancelReason::LeftGroup)] {
            for target in targets {
                let clients = destinations::held_by(tx, target).await?;
                executions::no_longer_reached(tx, env, id, &clients, reason).await?;
            }
        }
        for target in add.iter().chain(&free) {
            let clients: Vec<ClientId> = destinations::held_by(tx, target).await?;
            destinations::not_excluded(tx, env, std::slice::from_ref(job), &clients).await?;
        }
    }
    if stands || job.state == JobState::Scheduled {
        // Also what policies will come to for it: in groups that it gets or excludes, and for those who are excluded no longer.
        let ahead = Ahead { job: Some(id), ..Ahead::default() };
        policies::note_ahead_of(tx, env, &destinations::groups_of(&add), &ahead).await?;
        let out = Ahead { effect: Some(Effect::TakenBack), ..ahead };
        policies::note_ahead_of(tx, env, &destinations::groups_of(&exclude), &out).await?;
        if !free.is_empty() {
            let groups = destinations::groups_of(&tx.job_targets(id).await?);
            let come = Ahead { among: &free, effect: Some(Effect::Reached), ..ahead };
            policies::note_ahead_of(tx, env, &groups, &come).await?;
        }
    }
    Ok(changes)
}

/// Calls back what was offered and has not begun, so that it is offered anew.
async fn call_back(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<()> {
    use ExecutionState::{Downloading, Offered, Waiting};
    let mut page = Page { after: None, limit: BATCH };
    loop {
        let mut rows = tx.list_executions(id, &page, &[Offered, Downloading, Waiting]).await?;
        let full = rows.len() as u32 == BATCH;
        page.after = rows.last().map(|r| r.client.to_string());
        rows.retain(|row| row.purpose != Purpose::Leave);
        executions::cancel(tx, env, &rows, CancelReason::Revised).await?;
        if !full {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_terms_is_named_however_long_they_are() {
        let stage = |n: u64| serde_json::json!({ "percent": n, "soak": 900, "groups": ["a-group-with-a-rather-long-name"] });
        let mut before = serde_json::json!({ "rollout": (1..=10).map(stage).collect::<Vec<_>>(), "schedule": {} });
        let mut after = before.clone();
        after["schedule"]["ignore_windows"] = true.into();
        after["rollout"][9]["soak"] = 1.into();
        let said = |old: &Value, new: &Value| {
            let mut out = Vec::new();
            each_change("terms".into(), old, new, &mut out);
            out.into_iter().map(|(name, old, new)| format!("{name}: {new} in place of {old}")).collect::<Vec<_>>()
        };
        let expected = ["terms.rollout[9].soak: 1 in place of 900", "terms.schedule.ignore_windows: true in place of none"];
        assert_eq!(said(&before, &after), expected);
        before["rollout"] = Value::Null;
        assert!(said(&before, &after)[0].starts_with("terms.rollout: [{"));
    }
}
