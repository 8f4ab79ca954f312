//! Why a client is in its groups, and what each of its jobs waits for, in sentences.

use super::{Env, Result, brakes, clients, conditions::Asked, destinations, executions, inventory, jobs, rollouts, schedule, shelf};
use std::collections::BTreeMap;
use sutler_base::{
    ClientId, JobId, Timestamp, Uid,
    state::{
        AppliesTo, Awaited, CancelReason, ClientState, ErrorKind, ExecutionState, HoldReason, JobState, Purpose, Source, Trigger,
        WaitReason,
    },
};
use sutler_core::{
    condition::Outcome,
    execution,
    model::{CancelRequest, Client, Execution, Job, JobPackage, Membership, Target},
    user,
};
use sutler_store::Tx;

/// Everything that explains a client.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The client.
    pub shown: clients::Shown,
    /// Its memberships, with the name of what made each.
    pub memberships: Vec<(Membership, String)>,
    /// What each policy says.
    pub policies: Vec<PolicyVerdict>,
    /// What each job does.
    pub jobs: Vec<JobVerdict>,
}

/// What a policy says of the client now.
#[derive(Debug, Clone)]
pub struct PolicyVerdict {
    /// The policy's name.
    pub policy: String,
    /// The group's name.
    pub group: String,
    /// Whether the condition holds.
    pub matches: bool,
    /// What holds or doesn't, and what follows.
    pub sentence: String,
}

/// What a job does with the client.
#[derive(Debug, Clone)]
pub struct JobVerdict {
    /// The job.
    pub job: Job,
    /// What it installs.
    pub packages: Vec<String>,
    /// Through which destination it reaches the client; empty if through none any more.
    pub destination: String,
    /// Where it is.
    pub state: ExecutionState,
    /// What it waits for; none of what is at an end or goes on within a moment.
    pub awaits: Option<Awaited>,
    /// The cancellation that it waits for.
    pub cancel: Option<CancelRequest>,
    /// Why it is there, and what it waits for.
    pub sentence: String,
    /// Since when.
    pub entered: Timestamp,
}

/// What is waited for, and why, in a sentence.
type Why = (Option<Awaited>, String);

/// Explains a client. `online` says whether it is connected.
pub async fn explain(tx: &mut dyn Tx, env: &Env, id: &ClientId, online: bool) -> Result<Explained> {
    let shown = clients::get(tx, id).await?;
    let client = &shown.client;
    let all = tx.policies_with_trigger(None).await?;
    let mut memberships = Vec::new();
    for membership in &shown.memberships {
        let name = match membership.source {
            Source::Policy => all
                .iter()
                .find(|p| p.uid.as_str() == membership.source_name)
                .map_or_else(|| "a policy that was deleted".to_owned(), |p| format!("policies/{}", p.name)),
            Source::Token => format!("tokens/{}", membership.source_name),
            Source::Operator => format!("operators/{}", membership.source_name),
            Source::Client => format!("clients/{id}"),
        };
        memberships.push((membership.clone(), name));
    }
    let groups = tx.groups_by_uid(&all.iter().map(|p| p.group.clone()).collect::<Vec<_>>()).await?;
    let asked = Asked::by(tx, env, all.iter().map(|p| p.condition.as_str())).await?;
    let packages = all.iter().filter_map(|policy| asked.of(env, policy)).any(|condition| condition.uses_packages());
    let subject = inventory::subjects(tx, std::slice::from_ref(client), packages).await?.remove(0);
    let mut policies = Vec::new();
    for policy in all {
        let Some(group) = groups.iter().find(|g| g.uid == policy.group) else { continue };
        let condition = match asked.compile(env, "condition", &policy.condition) {
            Ok(condition) => condition,
            Err(error) => {
                let sentence = format!("it looks at nobody, for its condition can't be read ({error}); change it with `policy update`");
                policies.push(PolicyVerdict { policy: policy.name.to_string(), group: group.name.to_string(), matches: false, sentence });
                continue;
            }
        };
        let explanation = condition.explain(&subject.input(client));
        let matches = explanation.outcome == Outcome::Matched;
        let is_in = shown.groups.contains_key(&group.uid);
        let held = !tx.held_out(&group.uid, std::slice::from_ref(id)).await?.is_empty();
        let follows = if client.state == ClientState::Pending {
            "it waits for approval, and policies don't look at it before"
        } else if is_in {
            "it is in the group"
        } else if held {
            "an operator took it out of the group; `group release` lets policies put it back"
        } else if !matches {
            "so it is not registered"
        } else if client.facts.is_empty() {
            "its facts have not come yet"
        } else if policy.trigger == Trigger::NewClient {
            "it was there before the policy, which is for new clients; `policy apply` registers it"
        } else if policy.applies_to == AppliesTo::NewOnly && client.activated.is_none_or(|a| a < policy.created) {
            "it is older than the policy, which applies to new clients only; `policy apply` registers it"
        } else {
            "it will be registered when its facts or labels change next; `policy apply` registers it now"
        };
        let parts = explanation.to_string().replace('\n', "; ");
        policies.push(PolicyVerdict {
            policy: policy.name.to_string(),
            group: group.name.to_string(),
            matches,
            sentence: format!("{parts}: {follows}"),
        });
    }
    let mut verdicts = Vec::new();
    let open = tx.open_executions_of(id).await?;
    let under_way = open.iter().filter(|row| row.state != ExecutionState::Queued).count();
    let seen = Seen { client, online, is_full: under_way >= env.settings.limits.open_attempts as usize };
    for row in tx.executions_of(id, 200).await? {
        let Some(job) = tx.job(&row.job).await? else { continue };
        let packages = tx.job_packages(&job.id, job.revision).await?;
        let targets = tx.job_targets(&job.id).await?;
        if !jobs::reaches_job(tx, env, &job).await? {
            continue;
        }
        let destination = targets.iter().find_map(|t| match t {
            Target::Client(c) if c == id => Some(format!("clients/{c}")),
            Target::Group(uid) => shown.groups.get(uid).map(|name| format!("groups/{name}")),
            Target::Client(_) => None,
        });
        let destination = match destination {
            None if !tx.listed(&job.id, std::slice::from_ref(id)).await?.is_empty() => Some(format!("where {}", job.clients_where)),
            found => found,
        };
        let reached = executions::is_reached(tx, &job.id, id).await?;
        let (awaits, sentence) = seen.why(tx, env, &job, &row, reached).await?;
        verdicts.push(JobVerdict {
            packages: named(&packages),
            destination: destination.filter(|_| reached).unwrap_or_default(),
            state: row.state,
            awaits,
            cancel: row.cancel,
            sentence,
            entered: row.entered,
            job,
        });
    }
    for (job, target) in ahead(tx, client).await? {
        if !jobs::reaches_job(tx, env, &job).await? {
            continue;
        }
        let Some((awaits, sentence)) = seen.not_yet(tx, env, &job).await? else { continue };
        let packages = tx.job_packages(&job.id, job.revision).await?;
        verdicts.push(JobVerdict {
            packages: named(&packages),
            destination: match &target {
                Target::Client(client) => format!("clients/{client}"),
                Target::Group(uid) => group_name(&shown, uid),
            },
            state: ExecutionState::Queued,
            awaits,
            cancel: None,
            sentence,
            entered: job.created,
            job,
        });
    }
    Ok(Explained { memberships, policies, jobs: verdicts, shown })
}

fn named(packages: &[JobPackage]) -> Vec<String> {
    packages.iter().map(|p| format!("packages/{}/versions/{}", p.package, p.version_text)).collect()
}

/// Jobs that have not ended, hold this client by a destination, and have no row for it.
async fn ahead(tx: &mut dyn Tx, client: &Client) -> Result<Vec<(Job, Target)>> {
    let mut targets = vec![Target::Client(client.id.clone())];
    targets.extend(tx.memberships_of(&client.id).await?.into_iter().map(|m| Target::Group(m.group)));
    let mut found: BTreeMap<JobId, (Job, Target)> = BTreeMap::new();
    for target in targets {
        for job in tx.jobs_with_target(&target, &[JobState::Draft, JobState::Scheduled, JobState::Active, JobState::Paused]).await? {
            found.entry(job.id.clone()).or_insert((job, target.clone()));
        }
    }
    let keys: Vec<_> = found.keys().map(|job| (job.clone(), client.id.clone())).collect();
    for row in tx.executions(&keys).await? {
        found.remove(&row.job);
    }
    let mut out = Vec::new();
    for (job, target) in found.into_values().filter(|(job, _)| !job.archived) {
        if !destinations::reached(tx, &job.id, std::slice::from_ref(&client.id)).await?.is_empty() {
            out.push((job, target));
        }
    }
    Ok(out)
}

/// A client as it is looked at.
struct Seen<'c> {
    client: &'c Client,
    /// It is connected.
    online: bool,
    /// So much is under way there that it is offered nothing more.
    is_full: bool,
}

impl Seen<'_> {
    /// Why a row is where it is.
    async fn why(&self, tx: &mut dyn Tx, env: &Env, job: &Job, row: &Execution, reached: bool) -> Result<Why> {
        let (client, online) = (self.client, self.online);
        let row = Execution { detail: schedule::told(job, row), ..row.clone() };
        let (awaits, mut sentence) = match self.waits_for_time(tx, env, job, &row).await? {
            Some((awaits, sentence)) => (Some(awaits), format!("{sentence}{}", out_of_contact(client, online))),
            None => match self.held(tx, env, job, &row).await? {
                Some((awaits, sentence)) => (Some(awaits), format!("{sentence}{}", out_of_contact(client, online))),
                None => {
                    let packages = tx.job_packages(&job.id, job.revision).await?;
                    let (unavailable, _) = jobs::unavailable_now_and_soon(tx, env, job, &packages).await?;
                    sentence(client, &row, reached, online, &unavailable)
                }
            },
        };
        sentence.insert_str(0, &which_package(tx, job, &row).await?);
        sentence.insert_str(0, leaving(&row));
        Ok((awaits, sentence))
    }

    /// What a row that is queued waits for, whatever its agent could say; none if it is to be offered.
    async fn held(&self, tx: &mut dyn Tx, env: &Env, job: &Job, row: &Execution) -> Result<Option<(Awaited, String)>> {
        let id = &self.client.id;
        if row.state != ExecutionState::Queued || row.cancel.is_some() || self.client.state != ClientState::Active {
            return Ok(None);
        }
        if let Some(held) = brakes::held(tx, env, job, row).await? {
            return Ok(Some((held.by.into(), held.why)));
        }
        let rollout = rollouts::show(tx, env, job).await?;
        // Who is away holds up nobody, and is let go when it is back: that is what is to happen first.
        let away = |awaits: Awaited| awaits == Awaited::Stage && !self.online;
        if let Some((awaits, why)) = rollouts::sentence(job, rollout.as_ref(), row).filter(|(awaits, _)| !away(*awaits)) {
            let cannot = shelf::is_offered(row) && self.online && !env.live.can(id).user.shelf;
            return Ok(Some(if cannot { (Awaited::Agent, user::NOT_OFFERED.to_owned()) } else { (awaits, why) }));
        }
        if !self.online {
            return Ok(None);
        }
        if row.purpose != Purpose::Leave && !job.condition.is_empty() && self.client.facts_time.is_none() {
            let why =
                format!("the job is for clients with {}, and the client's facts have not come yet", sutler_base::quoted(&job.condition));
            return Ok(Some((Awaited::Facts, why)));
        }
        if self.is_full {
            let most = env.settings.limits.open_attempts;
            let why = format!("{most} others are under way at the client, and no more are at the same time (`open_attempts` in [limits])");
            return Ok(Some((Awaited::Room, why)));
        }
        if row.attempt.as_ref().is_some_and(|former| env.live.is_unsettled(id, former)) {
            let why = "its agent is asked what became of the attempt before, which may have begun while the machine was cut off";
            return Ok(Some((Awaited::Settlement, why.into())));
        }
        Ok(None)
    }

    /// What a row that waits for its time waits for; none for any other.
    async fn waits_for_time(&self, tx: &mut dyn Tx, env: &Env, job: &Job, row: &Execution) -> Result<Option<(Awaited, String)>> {
        let waits = row.state == ExecutionState::Waiting && row.reason == WaitReason::Window.as_str() && row.cancel.is_none();
        if !waits || self.client.state != ClientState::Active {
            return Ok(None);
        }
        let sentence = schedule::sentence(tx, env, self.client, job, Some(row)).await?;
        let now = env.common_clock(tx).await?;
        let early = job.terms.schedule.start.is_some_and(|start| now < start);
        Ok(sentence.map(|sentence| (if early { Awaited::StartTime } else { Awaited::Window }, sentence)))
    }

    /// Why a job that holds the client has no row for it; none where that says nothing: a draft that nobody has started.
    async fn not_yet(&self, tx: &mut dyn Tx, env: &Env, job: &Job) -> Result<Option<Why>> {
        let client = self.client;
        if client.state == ClientState::Removed {
            return Ok(None);
        }
        if job.state == JobState::Draft {
            let Some(approval) = tx.approval_of(&job.id).await? else { return Ok(None) };
            let why = format!(
                "the job is a draft until another operator agrees: to {} reaches {} of {} clients, and {} ordered it (`job approve`)",
                approval.what, approval.clients, approval.fleet, approval.requester
            );
            return Ok(Some((Some(Awaited::Approval), why)));
        }
        if client.archived.is_some() {
            return Ok(Some((Some(Awaited::Contact), "the client is archived, and no job reaches it until it connects again".into())));
        }
        if client.state == ClientState::Pending {
            return Ok(Some((Some(Awaited::ClientApproval), "the client waits for approval; `client approve` lets it in".into())));
        }
        if job.state != JobState::Scheduled {
            return Ok(Some((None, "the job reaches it within a moment".into())));
        }
        Ok(Some(match schedule::sentence(tx, env, client, job, None).await? {
            Some(sentence) => (Some(Awaited::StartTime), sentence),
            None => (None, "starts within a moment".into()),
        }))
    }
}

/// With which package of several a row is, and for what that is there where nobody asked for it; nothing of a job with one.
async fn which_package(tx: &mut dyn Tx, job: &Job, row: &Execution) -> Result<String> {
    use ExecutionState::*;
    let works = matches!(row.state, Downloading | Waiting | Installing | Verifying | Restoring);
    if !works || row.cancel.is_some() || row.purpose == Purpose::Leave {
        return Ok(String::new());
    }
    let all = tx.job_packages(&job.id, row.revision).await?;
    let picks = if job.rolls_back.is_some() { tx.picks(&job.id, &row.client).await? } else { None };
    let packages: Vec<&JobPackage> = match picks {
        Some(picks) => picks.into_iter().filter_map(|n| all.get(n)).collect(),
        None => all.iter().collect(),
    };
    let Some(package) = packages.get(row.item as usize).filter(|_| packages.len() > 1) else { return Ok(String::new()) };
    let mut by: Vec<String> = package.needed.iter().map(|need| need.by.to_string()).collect();
    by.dedup();
    let needed = if by.is_empty() { String::new() } else { format!(", which {} depends on", by.join(", ")) };
    Ok(format!("package {} of {}, {} {}{needed}: ", row.item + 1, packages.len(), package.package, package.version_text))
}

/// What stands behind the sentence about a row that waits where its agent can't be heard.
fn out_of_contact(client: &Client, online: bool) -> String {
    if online { String::new() } else { format!("; the client is out of contact since {}", client.last_seen) }
}

/// What stands before the sentence where it is about the uninstallation of what the job installed.
fn leaving(row: &Execution) -> &'static str {
    if row.purpose != Purpose::Leave {
        return "";
    }
    "the client left the job's reach, and what the job installed is uninstalled: "
}

/// Why the execution is where it is, and what it waits for, by what stands in its row.
fn sentence(client: &Client, row: &Execution, reached: bool, online: bool, unavailable: &str) -> Why {
    use ExecutionState::*;
    let gone = if reached { "" } else { "; the client is no longer in a destination of this job" };
    let away = out_of_contact(client, online);
    let staged = row.hold == Some(HoldReason::Stage);
    let stage = if staged { ", once its stage of the rollout has room for it (`job show`)" } else { "" };
    if let Some(cancel) = &row.cancel {
        return (Some(Awaited::Cancellation), execution::cancel_sentence(cancel, online));
    }
    let waits = |awaited: Awaited, why: String| (Some(awaited), why);
    let ended = |why: String| (None, why);
    match row.state {
        Queued | Offered | Downloading | Waiting if client.state == ClientState::Quarantined => waits(
            Awaited::ClientRelease,
            format!("the client is quarantined ({}); it gets no work and no bytes until `client release`", client.notice),
        ),
        Queued if client.state == ClientState::Pending => {
            waits(Awaited::ClientApproval, "the client waits for approval; `client approve` lets it in".into())
        }
        Queued if !unavailable.is_empty() => waits(Awaited::PackageUnavailable, format!("waits, because {unavailable}{away}")),
        Queued if !online => waits(
            Awaited::Contact,
            format!("the client is offline since {}; it is offered the job at its next contact{stage}", client.last_seen),
        ),
        // It knows neither windows and start times, nor what the job asks for.
        Queued if [WaitReason::Window.as_str(), WaitReason::Agent.as_str()].contains(&row.reason.as_str()) => {
            waits(Awaited::Agent, row.detail.clone())
        }
        Queued => (None, "is offered to the connected client within a moment".into()),
        Offered if !online => waits(
            Awaited::Contact,
            format!("was offered, and the client is out of contact since {}; it goes on at its next contact", client.last_seen),
        ),
        Offered => waits(Awaited::Acceptance, "was offered; the agent has not accepted it yet".into()),
        Downloading if !online => waits(
            Awaited::Contact,
            format!("was downloading when contact was lost at {}; it goes on at its next contact", client.last_seen),
        ),
        Downloading => waits(Awaited::Download, format!("downloads: {} of {} bytes", row.bytes_done, row.bytes_total)),
        Waiting => {
            let (awaits, why) = waits_for(&row.reason);
            let why = if row.detail.is_empty() { why } else { &row.detail };
            (awaits.or((!online).then_some(Awaited::Contact)), format!("{why}{away}"))
        }
        Installing if !online => {
            waits(Awaited::Contact, format!("step {:?} was running when contact was lost at {}", row.step, client.last_seen))
        }
        Installing => waits(Awaited::Step, format!("step {:?} runs", row.step)),
        Verifying => waits(Awaited::Detection, format!("the detection rules run{away}")),
        Restoring => waits(Awaited::Restoration, format!("what was there before is being put back{away}")),
        Succeeded => ended(format!("done by this job{gone}")),
        AlreadyInstalled => ended(format!("was there already{gone}")),
        AlreadyAbsent => ended(format!("was not there, so that nothing had to be uninstalled{gone}")),
        Failed => ended(format!("failed: {}; `job retry` runs it again{gone}", row.detail)),
        Rejected => ended(format!("a rule said no: {}{gone}", row.detail)),
        // What was done before is said there.
        Canceled if !row.detail.is_empty() => ended(format!("{} ({}){gone}", row.detail, row.reason)),
        Expired if !row.detail.is_empty() => ended(format!("{}{gone}", row.detail)),
        Canceled => ended(format!("{}{gone}", canceled(&row.reason))),
        Expired => ended(format!("the job's time was over before it started here{gone}")),
        Interrupted => ended(format!("nobody can tell how it ended: {}; `job retry` runs it again{gone}", row.detail)),
    }
}

/// What a row with this word waits for at the client; none for a word that nobody of ours says.
fn waits_for(reason: &str) -> (Option<Awaited>, &'static str) {
    if reason == ErrorKind::DataLoss.as_str() {
        let why = "waits for stored bytes that are damaged or missing at the manager; push the package again (`job show` says which)";
        return (Some(Awaited::DataLoss), why);
    }
    let Ok(reason) = reason.parse::<WaitReason>() else { return (None, "waits") };
    let why = match reason {
        WaitReason::Turn => "waits for another installation on this machine; they run one at a time",
        WaitReason::Window => "waits for its time or maintenance window",
        WaitReason::Agent => "its agent can't do what the job asks; update it",
        WaitReason::User => "waits for the user at the machine",
        WaitReason::LocalHold => "the machine's own administrator holds installations (`hold` in the agent's configuration)",
        WaitReason::Reboot => "waits for a restart of the machine",
        WaitReason::Lease => "waits for contact: the permission to start has run out",
        WaitReason::Retry => "waits for its next try, after one that may be repeated; `job retry --kind waiting` tries now",
        WaitReason::TransferSuspended => {
            "the transfers of a group that the client is in are suspended (`transfer status`); `transfer resume` lets it go on"
        }
    };
    (Some(reason.into()), why)
}

fn canceled(reason: &str) -> String {
    match reason.parse() {
        Ok(CancelReason::JobCanceled) => "the job was canceled before it started here".into(),
        Ok(CancelReason::LeftGroup) => "the client left the group before it started; it is queued again if the client comes back".into(),
        Ok(CancelReason::ClientRemoved) => "the client was removed".into(),
        Ok(CancelReason::ClientArchived) => {
            "the client was archived before it started; it is queued again if the client comes back while the job stands".into()
        }
        Ok(CancelReason::DestinationDeleted) => "the job lost the destination that held the client before it started here".into(),
        Ok(CancelReason::CameBack) => "the client came back before what the job installed was uninstalled".into(),
        Ok(CancelReason::Revised) => "it was called back for a new revision of the job".into(),
        Ok(CancelReason::Withdrawn) => "the version was withdrawn before it started here".into(),
        Ok(CancelReason::JobAborted) => "the job was aborted before it started here".into(),
        Ok(CancelReason::JobPaused | CancelReason::PlaceGiven | CancelReason::Stopped) => {
            "it was called back before it started here".into()
        }
        Ok(CancelReason::Replaced) => "another job took its place before it started here".into(),
        Err(_) => "was canceled".into(),
    }
}

/// The name of the group of this uid among those shown; for callers that have only memberships.
pub fn group_name(shown: &clients::Shown, uid: &Uid) -> String {
    shown.groups.get(uid).map(|name| format!("groups/{name}")).unwrap_or_default()
}
