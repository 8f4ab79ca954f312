//! Second persons: a change that reaches a large share of the fleet is confirmed by its number, or waits until another operator agrees.
//!
//! Whom a change reaches is counted in its own unit of work, after it was done and before it is committed: so no way of reaching clients
//! is forgotten, and nothing happens between the count and the commit. A change that has to wait is kept as it was sent, and is done anew,
//! in the unit of work of whoever agrees.

mod change;

pub use change::Change;

use super::{AppError, Env, Result, events, jobs, operators, planned, reached, reached::Count};
use jiff::SignedDuration;
use std::{collections::BTreeSet, sync::Arc};
use sutler_base::{
    Digest, JobId, OperatorName, Timestamp, Uid, limits,
    state::{ApprovalState, EventKind, Role},
};
use sutler_core::{
    approval::Approval,
    event::Event,
    model::Grant,
    planned::Pinned,
    rights::{self, Reach},
    share,
};
use sutler_store::{Answer, Page, Tx};

/// How long somebody can agree.
const PATIENCE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long it is known what became of a change.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How many jobs are named in a refusal.
const NAMED: usize = 3;
/// How many are handled in one unit.
const BATCH: u32 = 100;

/// A change as it is kept until somebody has agreed.
#[derive(Debug, Clone)]
pub struct Order {
    /// `Service/Method`, as it was called.
    pub method: String,
    /// What was sent, without what makes it idempotent and what was confirmed.
    pub request: Vec<u8>,
    /// The same, read.
    pub change: Change,
    /// The plan by which the job is run.
    pub plan: Option<Uid>,
}

/// What goes for a change that may reach a large share of the fleet.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// How many clients whoever ordered it says that it reaches; 0 if that was not said.
    pub confirm: u64,
    /// How it waits for somebody to agree; none if the caller sees to that.
    pub order: Option<Arc<Order>>,
}

/// What a change needs before it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Whom it reaches.
    pub reached: Count,
    /// How many clients jobs can reach.
    pub fleet: u64,
    /// The versions that those jobs have.
    pub packages: Vec<Pinned>,
}

impl Needed {
    /// `120 of 500 clients, by jobs/a, jobs/b and 2 others`
    fn words(&self) -> String {
        let named: Vec<String> = self.reached.jobs.keys().take(NAMED).map(|id| format!("jobs/{id}")).collect();
        let more = match self.reached.jobs.len() - named.len() {
            0 => String::new(),
            n => format!(" and {n} others"),
        };
        format!("{} of {} clients, by {}{more}", self.reached.clients, self.fleet, named.join(", "))
    }
}

/// What the unit of work that `env` is of needs before it is committed; nothing if it reaches few.
pub async fn needed(tx: &mut dyn Tx, env: &Env) -> Result<Option<Needed>> {
    let bounds = env.settings.limits.second_person();
    let reached = reached::count(tx, env, bounds.clients.into()).await?;
    if reached.clients < u64::from(bounds.clients) || reached.jobs.is_empty() {
        return Ok(None);
    }
    let fleet = tx.count_fleet().await?;
    if !bounds.are_reached(reached.clients, fleet) {
        return Ok(None);
    }
    let packages = packages(tx, &reached).await?;
    Ok(Some(Needed { reached, fleet, packages }))
}

/// The versions of the jobs that reach clients, each once. Not by job: a job that is run has another id when it is run again.
async fn packages(tx: &mut dyn Tx, reached: &Count) -> Result<Vec<Pinned>> {
    let (mut all, ids) = (BTreeSet::new(), reached.jobs.keys().cloned().collect::<Vec<_>>());
    // Without a lock: others may have some of these jobs in another order.
    for job in tx.terms_of(&ids).await? {
        all.extend(planned::pinned(&tx.job_packages(&job.id, job.revision).await?));
    }
    Ok(all.into_iter().collect())
}

/// Lets a unit of work be committed that reaches few, or that was confirmed; refuses any other.
pub async fn gate(tx: &mut dyn Tx, env: &Env, watched: &Watched) -> Result<()> {
    let Some(needed) = needed(tx, env).await? else { return Ok(()) };
    if exist(tx, env).await? {
        return Err(AppError::ApprovalNeeded(Box::new(needed)));
    }
    let n = needed.reached.clients;
    if share::is_confirmed(watched.confirm, n) {
        return env.audit(tx, "confirm_number", "fleet", needed.words()).await;
    }
    let given = if watched.confirm == 0 { String::new() } else { format!(", and {} were confirmed", watched.confirm) };
    let message = format!(
        "this reaches {}{given}; so large a share of the fleet has to be confirmed: repeat it with the number (--confirm {n}), or have two \
         operators with the role APPROVER, and one of them agrees",
        needed.words()
    );
    Err(AppError::state("fleet", "CONFIRM_NUMBER", message))
}

/// Whether there are two operators who can agree to anything: then one of them is not the one who orders. Who was put there just now
/// is none yet, and who could until just now still is: whoever takes over an administrator changes nothing of this in a hurry.
pub async fn exist(tx: &mut dyn Tx, env: &Env) -> Result<bool> {
    let (mut page, mut found) = (Page { after: None, limit: limits::PAGE_MAX }, 0);
    loop {
        let rows = tx.list_operators(&page).await?;
        found += rows.iter().filter(|o| o.voice.counts(env.now, env.settings.limits.second_person_rest)).count();
        if found >= 2 || (rows.len() as u32) < page.limit {
            return Ok(found >= 2);
        }
        page.after = rows.last().map(|o| o.name.to_string());
    }
}

/// Whether somebody with these roles can agree to anything.
pub fn may_agree_to_all(grants: &[Grant]) -> bool {
    rights::reach(grants, &approvers()) == Some(Reach::Everywhere)
}

/// Refuses to let somebody agree who was put there just now, or after the change was ordered.
async fn is_second_person(tx: &mut dyn Tx, env: &Env, approval: &Approval) -> Result<()> {
    let Some(name) = name(&env.actor) else { return Ok(()) };
    let voice = operators::load(tx, &name).await?.voice;
    let why = match (voice.rests_until(env.now, env.settings.limits.second_person_rest), voice.given) {
        (Some(end), _) => format!("and agrees to nothing until {end} (limits.second_person_rest)"),
        (None, Some(given)) if given > approval.created => format!("after approvals/{} was ordered; have that ordered again", approval.id),
        _ => return Ok(()),
    };
    let message = format!(
        "{} was made, or given its roles or its certificate, by another operator at {}, {why}: nobody makes a second person of himself",
        env.actor,
        voice.given.unwrap_or_default()
    );
    Err(AppError::state(&env.actor, "TOO_NEW", message))
}

/// Refuses what was ordered by somebody who was put there just now: whoever agrees may have made the one who orders.
async fn is_first_person(tx: &mut dyn Tx, env: &Env, approval: &Approval) -> Result<()> {
    let Some(name) = name(&approval.requester) else { return Ok(()) };
    let voice = operators::load(tx, &name).await?.voice;
    let Some(end) = voice.rests_until(env.now, env.settings.limits.second_person_rest) else { return Ok(()) };
    let message = format!(
        "{} ordered it, and was made, or given its roles or its certificate, by another operator at {}: nobody agrees to what it orders \
         until {end} (limits.second_person_rest)",
        approval.requester,
        voice.given.unwrap_or_default()
    );
    Err(AppError::state(&approval.requester, "TOO_NEW", message))
}

fn approvers() -> BTreeSet<Role> {
    BTreeSet::from([Role::Approver])
}

/// The roles of those who may order jobs.
pub(super) fn orderers() -> BTreeSet<Role> {
    BTreeSet::from([Role::Deployer, Role::Admin])
}

/// What an approval is about, as events and the audit log name it.
fn object(approval: &Approval) -> String {
    approval.job.as_ref().map_or_else(|| format!("approvals/{}", approval.id), |id| format!("jobs/{id}"))
}

/// Stands for a change, for what it is about as that is now, for what the one who ordered it may do now, and for the jobs by which it
/// reaches clients, as far as they are there already: not only their versions could become others.
async fn fingerprint<'a>(
    tx: &mut dyn Tx,
    method: &str,
    request: &[u8],
    change: &Change,
    requester: &str,
    jobs: impl Iterator<Item = &'a JobId>,
) -> Result<Digest> {
    let subject = change.subject(tx).await?;
    // The one that it is about is the subject.
    let ids: Vec<JobId> = jobs.filter(|id| change.job() != Some(*id)).cloned().collect();
    let jobs: Vec<String> = tx.terms_of(&ids).await?.iter().map(|job| format!("{}/{} {:?}", job.id, job.revision, job.terms)).collect();
    let grants = match name(requester) {
        Some(name) => tx.operator(&name).await?.filter(|o| o.revoked.is_none()).map(|o| o.grants),
        None => None,
    };
    let mut text = format!("{method}\n{subject}\n{grants:?}\n{jobs:?}\n").into_bytes();
    text.extend_from_slice(request);
    Ok(Digest::of(&text))
}

fn name(actor: &str) -> Option<OperatorName> {
    actor.strip_prefix("operators/")?.parse().ok()
}

/// Has a change wait until somebody else agrees. The same one that waits already goes on waiting; if it comes to something else by
/// now, under another name: nobody agrees to what became of what he had looked at.
pub async fn ask(tx: &mut dyn Tx, env: &Env, order: &Order, needed: &Needed) -> Result<Approval> {
    let jobs = needed.reached.jobs.keys();
    let fingerprint = fingerprint(tx, &order.method, &order.request, &order.change, &env.actor, jobs).await?;
    let job = order.change.job().cloned();
    let before = tx.approval_like(&env.actor, &order.method, &order.request, job.as_ref()).await?;
    let is_same = |a: &&Approval| {
        a.fingerprint == fingerprint && a.packages == needed.packages && !share::is_beyond(a.clients, needed.reached.clients)
    };
    let same = before.as_ref().filter(is_same);
    if let Some(mut other) = before.clone().filter(|a| !is_same(&a)) {
        other.state = ApprovalState::Expired;
        other.reason = "it was ordered anew, and comes to something else".into();
        decide(tx, env, &mut other, "outdate_change", "it was ordered anew, and comes to something else").await?;
    }
    // A draft that was changed since is not what was planned.
    let plan = order.plan.clone().or_else(|| same.and_then(|a| a.plan.clone()));
    let mut expires = env.now.saturating_add(PATIENCE).unwrap_or(Timestamp::MAX);
    if let Some(id) = &plan {
        expires = expires.min(planned::runnable(tx, env, id).await?.expires);
    }
    let approval = Approval {
        id: same.map_or_else(|| env.world.uid(), |a| a.id.clone()),
        state: ApprovalState::Pending,
        requester: env.actor.clone(),
        method: order.method.clone(),
        what: order.change.sentence(),
        job,
        fingerprint,
        clients: needed.reached.clients,
        fleet: needed.fleet,
        jobs: needed.reached.jobs.clone(),
        created: env.now,
        expires,
        decided: None,
        decider: String::new(),
        reason: String::new(),
        plan,
        packages: needed.packages.clone(),
    };
    let most = env.settings.limits.pending_approvals;
    if same.is_none() && tx.approvals_pending(&env.actor).await? >= u64::from(most) {
        let message = format!(
            "{most} changes of {} wait for somebody to agree already (limits.pending_approvals); have them decided first (`approval list`)",
            env.actor
        );
        return Err(AppError::state(&env.actor, "TOO_MANY_PENDING", message));
    }
    tx.put_approval(&approval).await?;
    if same.is_none() {
        tx.set_approval_request(&approval.id, &order.request).await?;
    }
    let sentence = format!("{} wants to {}, which reaches {}; another operator has to agree", env.actor, approval.what, needed.words());
    env.audit(tx, "ask_approval", object(&approval), &sentence).await?;
    let event = Event::new(EventKind::ApprovalNeeded, object(&approval), sentence).with("approval", format!("approvals/{}", approval.id));
    events::emit(tx, env, event.with("by", &env.actor).with("clients", approval.clients)).await?;
    Ok(approval)
}

/// Has a change wait as [`ask`] does, once per `request_id` as everything that changes something: whoever repeats the call hears what
/// became of it, and it is never done a second time. Gives back what whoever ordered it is told.
pub async fn ask_once(tx: &mut dyn Tx, env: &Env, order: &Order, needed: &Needed, (request_id, body): (&str, &Digest)) -> Result<AppError> {
    if request_id.is_empty() {
        return Ok(waits(&ask(tx, env, order, needed).await?));
    }
    // The same call may have come twice at once.
    match tx.request(&env.actor, request_id).await? {
        Some((earlier, Answer::Waits(id))) if earlier == *body => became(tx, &id).await,
        Some(_) => Err(AppError::reused_request_id()),
        None => {
            let approval = ask(tx, env, order, needed).await?;
            tx.put_request(&env.actor, request_id, body, &Answer::Waits(approval.id.clone()), env.now).await?;
            Ok(waits(&approval))
        }
    }
}

/// What whoever repeats the call is told that ordered this change.
pub async fn became(tx: &mut dyn Tx, id: &Uid) -> Result<AppError> {
    let Some(approval) = tx.approval(id).await? else { return Ok(AppError::reused_request_id()) };
    if approval.state == ApprovalState::Pending {
        return Ok(waits(&approval));
    }
    let done = if approval.state == ApprovalState::Approved { "it was done then, and is not done again" } else { "it was never done" };
    let by = if approval.decider.is_empty() { String::new() } else { format!(" by {}", approval.decider) };
    let message = format!(
        "this call ordered to {}, which waited as approvals/{id} and is {}{by}: {done}; to order it anew use another request_id",
        approval.what, approval.state
    );
    Ok(AppError::state(format!("approvals/{id}"), "DECIDED", message))
}

/// What whoever ordered a change is told that waits.
fn waits(approval: &Approval) -> AppError {
    let message = format!(
        "to {} reaches {} of {} clients, and another operator has to agree: it waits as approvals/{} until {} (`approval approve {}`)",
        approval.what, approval.clients, approval.fleet, approval.id, approval.expires, approval.id
    );
    AppError::state(format!("approvals/{}", approval.id), "APPROVAL_NEEDED", message)
}

/// A job that is to be started and has to wait: it stays a draft, with the versions that it would install now, and held to the plan by
/// which it was run.
pub async fn start_waits(tx: &mut dyn Tx, env: &Env, id: &JobId, plan: Option<&Uid>, needed: &Needed) -> Result<jobs::Shown> {
    jobs::pin_draft(tx, env, id).await?;
    let order = Order { method: START.into(), request: Vec::new(), change: Change::Start(id.clone()), plan: plan.cloned() };
    ask(tx, env, &order, needed).await?;
    jobs::get(tx, env, id).await
}

/// The method of a draft that waits to be started.
pub const START: &str = "JobService/StartJob";

/// The approval, or that there is none: also where whoever asks does not reach what it is about.
pub async fn get(tx: &mut dyn Tx, env: &Env, id: &Uid) -> Result<Approval> {
    match tx.approval(id).await? {
        Some(approval) if is_seen(tx, env, &approval).await? => Ok(approval),
        _ => Err(AppError::not_found("approval", id)),
    }
}

/// The same, with what was sent.
pub async fn get_whole(tx: &mut dyn Tx, env: &Env, id: &Uid) -> Result<(Approval, Vec<u8>)> {
    let approval = get(tx, env, id).await?;
    Ok((approval, tx.approval_request(id).await?))
}

async fn is_seen(tx: &mut dyn Tx, env: &Env, approval: &Approval) -> Result<bool> {
    if env.reach == Reach::Everywhere {
        return Ok(true);
    }
    match &approval.job {
        Some(id) => match tx.job(id).await? {
            Some(job) => jobs::reaches_job(tx, env, &job).await,
            None => Ok(false),
        },
        None => Ok(false),
    }
}

/// A page of approvals that are seen, and the key of the next one.
pub async fn list(tx: &mut dyn Tx, env: &Env, page: &Page, all: bool) -> Result<(Vec<Approval>, Option<String>)> {
    let (mut page, mut out) = (page.clone(), Vec::new());
    loop {
        let rows = tx.list_approvals(&page, all).await?;
        let more = rows.len() as u32 == page.limit;
        page.after = rows.last().map(|a| a.id.to_string()).or(page.after);
        for approval in rows {
            if is_seen(tx, env, &approval).await? {
                let next = approval.id.to_string();
                out.push(approval);
                if out.len() as u32 == page.limit {
                    return Ok((out, Some(next)));
                }
            }
        }
        if !more {
            return Ok((out, None));
        }
    }
}

/// A page of the jobs about which something waits.
pub async fn jobs_waiting(tx: &mut dyn Tx, env: &Env, page: &Page) -> Result<(Vec<jobs::Shown>, Option<String>)> {
    let (rows, next) = list(tx, env, page, false).await?;
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for id in rows.into_iter().filter_map(|a| a.job) {
        if seen.insert(id.clone()) {
            out.push(jobs::get(tx, env, &id).await?);
        }
    }
    Ok((out, next))
}

/// An error if it was decided.
pub fn is_pending(approval: &Approval) -> Result<()> {
    if approval.state == ApprovalState::Pending {
        return Ok(());
    }
    let id = &approval.id;
    let by = if approval.decider.is_empty() { String::new() } else { format!(" by {}", approval.decider) };
    let message = format!("approvals/{id} is {}{by}; it is decided once", approval.state);
    Err(AppError::state(format!("approvals/{id}"), "DECIDED", message))
}

/// One that can be decided now.
async fn pending(tx: &mut dyn Tx, env: &Env, id: &Uid) -> Result<Approval> {
    let approval = get(tx, env, id).await?;
    is_pending(&approval)?;
    if approval.expires <= env.now {
        let message = format!("approvals/{id} had to be decided by {}; have it ordered again", approval.expires);
        return Err(AppError::state(format!("approvals/{id}"), "EXPIRED", message));
    }
    Ok(approval)
}

/// An error if the one who decides saw another change than this.
fn is_as_seen(approval: &Approval, etag: &str) -> Result<()> {
    if approval.etag() == etag { Ok(()) } else { Err(AppError::Stale(format!("approvals/{}", approval.id))) }
}

/// What is agreed to.
#[derive(Debug, Clone)]
pub struct Approve {
    /// Which.
    pub id: Uid,
    /// What was sent, read.
    pub change: Change,
    /// What it was when it was seen.
    pub etag: String,
}

/// Agrees to a change, and makes it: with the rights of the one who ordered it, if it still is what was ordered.
pub async fn approve(tx: &mut dyn Tx, env: &Env, Approve { id, change, etag }: &Approve) -> Result<Approval> {
    let mut approval = pending(tx, env, id).await?;
    is_as_seen(&approval, etag)?;
    if approval.requester == env.actor {
        let message = format!("{} ordered what approvals/{id} is about; another operator has to agree to it", env.actor);
        return Err(AppError::Denied(message));
    }
    is_second_person(tx, env, &approval).await?;
    is_first_person(tx, env, &approval).await?;
    let outdated = |why: String| {
        let message = format!("{why} since {} ordered it; have it ordered again", approval.requester);
        AppError::state(format!("approvals/{id}"), "APPROVAL_OUTDATED", message)
    };
    let request = tx.approval_request(id).await?;
    let now = fingerprint(tx, &approval.method, &request, change, &approval.requester, approval.jobs.keys()).await?;
    if now != approval.fingerprint {
        return Err(outdated(format!(
            "what it is about, a job by which it reaches clients, or what {} may do, was changed",
            approval.requester
        )));
    }
    let grants = match name(&approval.requester) {
        Some(name) => operators::load(tx, &name).await?.grants,
        None => vec![],
    };
    let Some(reach) = rights::reach(&grants, &change.orderers()) else {
        return Err(outdated(format!("{} may not order it any more", approval.requester)));
    };
    let ordered = env.on_behalf_of(&approval.requester, reach);
    change.as_of(approval.created).carry_out(tx, &ordered).await?;
    if let (Some(plan), Some(job)) = (&approval.plan, &approval.job) {
        planned::hold_to(tx, &ordered, plan, job).await?;
    }
    let count = reached::count(tx, &ordered, 0).await?;
    // A job that has come since would reach clients that nobody had agreed to. Those that this very change makes are part of it, and of
    // the job that it is about all counts, below: while it was a draft it may have been counted under another id.
    for (id, clients) in count.jobs.iter().filter(|(id, _)| approval.job.as_ref() != Some(*id)) {
        let made_now = tx.job(id).await?.is_some_and(|job| job.created == env.now);
        let had = approval.jobs.get(id).copied();
        if !made_now && had.is_none_or(|had| share::is_beyond(had, *clients)) {
            return Err(outdated(format!("it reaches {clients} clients by jobs/{id}, and reached {}", had.unwrap_or(0))));
        }
    }
    if let Some(other) = packages(tx, &count).await?.iter().find(|p| !approval.packages.contains(p)) {
        return Err(outdated(format!("by now it would come to {}, which it did not", other.name)));
    }
    // It may reach further now than what whoever agrees may see.
    if !is_seen(tx, env, &approval).await? {
        return Err(AppError::not_found("approval", id));
    }
    if share::is_beyond(approval.clients, count.clients) {
        return Err(outdated(format!("it reaches {} clients by now, and reached {}", count.clients, approval.clients)));
    }
    approval.state = ApprovalState::Approved;
    let detail = format!("ordered by {}: {}; it reaches {} clients", approval.requester, approval.what, count.clients);
    decide(tx, env, &mut approval, "approve_change", &detail).await?;
    Ok(approval)
}

/// What is rejected.
#[derive(Debug, Clone)]
pub struct Reject {
    /// Which.
    pub id: Uid,
    /// Why.
    pub reason: String,
    /// What it was when it was seen; empty for whatever it is.
    pub etag: String,
}

/// Does not agree to a change: it is never made.
pub async fn reject(tx: &mut dyn Tx, env: &Env, input: &Reject) -> Result<Approval> {
    let mut approval = pending(tx, env, &input.id).await?;
    if !input.etag.is_empty() {
        is_as_seen(&approval, &input.etag)?;
    }
    approval.state = ApprovalState::Rejected;
    approval.reason = input.reason.clone();
    let why = if input.reason.is_empty() { String::new() } else { format!(" ({})", input.reason) };
    let detail = format!("ordered by {}: {}{why}", approval.requester, approval.what);
    decide(tx, env, &mut approval, "reject_change", &detail).await?;
    Ok(approval)
}

async fn decide(tx: &mut dyn Tx, env: &Env, approval: &mut Approval, action: &str, detail: &str) -> Result<()> {
    approval.decided = Some(env.now);
    approval.decider = env.actor.clone();
    tx.put_approval(approval).await?;
    if approval.state != ApprovalState::Approved {
        // It says what was done; nothing was.
        tx.set_approval_request(&approval.id, &[]).await?;
    }
    env.audit(tx, action, object(approval), format!("approvals/{}, {detail}", approval.id)).await?;
    env.wakes().jobs.extend(approval.job.clone());
    let sentence = format!("approvals/{} is {}: {detail}", approval.id, approval.state);
    let event = Event::new(EventKind::ApprovalDecided, object(approval), sentence).with("approval", format!("approvals/{}", approval.id));
    events::emit(tx, env, event.with("state", approval.state).with("by", &env.actor).with("reason", &approval.reason)).await
}

/// A job is over: what waits to be done with it never will be.
pub async fn job_is_over(tx: &mut dyn Tx, env: &Env, id: &JobId) -> Result<()> {
    while let Some(mut approval) = tx.approval_of(id).await? {
        approval.state = ApprovalState::Rejected;
        approval.reason = "the job was ended".into();
        let detail = format!("ordered by {}: {} (the job was ended)", approval.requester, approval.what);
        decide(tx, env, &mut approval, "reject_change", &detail).await?;
    }
    Ok(())
}

/// Ends what nobody decided in time, and forgets what was decided long ago.
pub async fn expire(tx: &mut dyn Tx, env: &Env) -> Result<()> {
    for mut approval in tx.approvals_overdue(env.now, BATCH).await? {
        approval.state = ApprovalState::Expired;
        let detail = format!("ordered by {}: {}; nobody decided in time", approval.requester, approval.what);
        decide(tx, env, &mut approval, "expire_approval", &detail).await?;
    }
    tx.drop_approvals(env.now.saturating_sub(KEPT).unwrap_or(Timestamp::MIN)).await?;
    Ok(())
}
