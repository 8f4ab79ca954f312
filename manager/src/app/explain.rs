//! Why a client is in its groups, and what each of its jobs waits for, in sentences.

use super::{Env, Result, brakes, clients, conditions::Asked, executions, inventory, jobs, rollouts, schedule};
use sutler_base::{
    ClientId, Timestamp, Uid,
    state::{AppliesTo, CancelReason, ClientState, ExecutionState, Purpose, Source, Trigger, WaitReason},
};
use sutler_core::{
    condition::Outcome,
    model::{Client, Execution, Job, Membership, Target},
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
    /// Why it is there, and what it waits for.
    pub sentence: String,
    /// Since when.
    pub entered: Timestamp,
}

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
        let job_shown = jobs::show(tx, env, job.clone()).await?;
        let held = match brakes::held(tx, env, &job, &row).await? {
            Some(held) => Some(held.why),
            None => rollouts::sentence(&job, job_shown.rollout.as_ref(), &row),
        };
        let row = Execution { detail: schedule::told(&job, &row), ..row };
        verdicts.push(JobVerdict {
            packages: packages.iter().map(|p| format!("packages/{}/versions/{}", p.package, p.version_text)).collect(),
            destination: destination.filter(|_| reached).unwrap_or_default(),
            state: row.state,
            sentence: leaving(&row)
                + &match waits_for_time(tx, env, client, &job, &row).await? {
                    Some(time) => format!("{time}{}", out_of_contact(client, online)),
                    None => sentence(client, &row, reached, online, &job_shown.unavailable, held),
                },
            entered: row.entered,
            job,
        });
    }
    for (job, target) in schedule::ahead(tx, id).await? {
        if !jobs::reaches_job(tx, env, &job).await? {
            continue;
        }
        let packages = tx.job_packages(&job.id, job.revision).await?;
        verdicts.push(JobVerdict {
            packages: packages.iter().map(|p| format!("packages/{}/versions/{}", p.package, p.version_text)).collect(),
            destination: match &target {
                Target::Client(client) => format!("clients/{client}"),
                Target::Group(uid) => group_name(&shown, uid),
            },
            state: ExecutionState::Queued,
            sentence: schedule::sentence(tx, env, client, &job, None).await?.unwrap_or_else(|| "starts within a moment".into()),
            entered: job.created,
            job,
        });
    }
    Ok(Explained { memberships, policies, jobs: verdicts, shown })
}

/// What a row that waits for its time waits for; none for any other.
async fn waits_for_time(tx: &mut dyn Tx, env: &Env, client: &Client, job: &Job, row: &Execution) -> Result<Option<String>> {
    let waits = row.state == ExecutionState::Waiting && row.reason == WaitReason::Window.as_str() && row.cancel.is_none();
    if !waits || client.state != ClientState::Active {
        return Ok(None);
    }
    schedule::sentence(tx, env, client, job, Some(row)).await
}

/// What stands behind the sentence about a row that waits where its agent can't be heard.
fn out_of_contact(client: &Client, online: bool) -> String {
    if online { String::new() } else { format!("; the client is out of contact since {}", client.last_seen) }
}

/// What stands before the sentence where it is about the uninstallation of what the job installed.
fn leaving(row: &Execution) -> String {
    if row.purpose != Purpose::Leave {
        return String::new();
    }
    "the client left the job's reach, and what the job installed is uninstalled: ".to_owned()
}

/// Why the execution is where it is, and what it waits for.
pub fn sentence(client: &Client, row: &Execution, reached: bool, online: bool, unavailable: &str, held: Option<String>) -> String {
    use ExecutionState::*;
    let gone = if reached { "" } else { "; the client is no longer in a destination of this job" };
    if let Some(cancel) = &row.cancel {
        return format!(
            "a cancellation ({}) waits for the client's answer, and is final without one at {}",
            cancel.reason, cancel.deadline
        );
    }
    match row.state {
        Queued | Offered | Downloading | Waiting if client.state == ClientState::Quarantined => {
            format!("the client is quarantined ({}); it gets no work and no bytes until `client release`", client.notice)
        }
        Queued if client.state == ClientState::Pending => "the client waits for approval; `client approve` lets it in".into(),
        Queued if let Some(why) = held => why,
        Queued if !unavailable.is_empty() => format!("waits, because {unavailable}"),
        Queued if [WaitReason::Window.as_str(), WaitReason::Agent.as_str()].contains(&row.reason.as_str()) => row.detail.clone(),
        Queued if !online => format!("the client is offline since {}; it is offered the job at its next contact", client.last_seen),
        Queued => "waits to be offered to the connected client".into(),
        Offered if !online => {
            format!("was offered, and the client is out of contact since {}; it goes on at its next contact", client.last_seen)
        }
        Offered => "was offered; the agent has not accepted it yet".into(),
        Downloading if !online => format!("was downloading when contact was lost at {}; it goes on at its next contact", client.last_seen),
        Downloading => format!("downloads: {} of {} bytes", row.bytes_done, row.bytes_total),
        Waiting if !row.detail.is_empty() => format!("{}{}", row.detail, out_of_contact(client, online)),
        Waiting => format!("{}{}", waits_for(&row.reason), out_of_contact(client, online)),
        Installing if !online => format!("step {:?} was running when contact was lost at {}", row.step, client.last_seen),
        Installing => format!("step {:?} runs", row.step),
        Verifying => "the detection rules run".into(),
        Restoring => "what was there before is being put back".into(),
        Succeeded => format!("done by this job{gone}"),
        AlreadyInstalled => format!("was there already{gone}"),
        AlreadyAbsent => format!("was not there, so that nothing had to be uninstalled{gone}"),
        Failed => format!("failed: {}; `job retry` runs it again{gone}", row.detail),
        Rejected => format!("a rule said no: {}{gone}", row.detail),
        // What was done before is said there.
        Canceled if !row.detail.is_empty() => format!("{} ({}){gone}", row.detail, row.reason),
        Expired if !row.detail.is_empty() => format!("{}{gone}", row.detail),
        Canceled => format!("{}{gone}", canceled(&row.reason)),
        Expired => format!("the job's time was over before it started here{gone}"),
        Interrupted => format!("nobody can tell how it ended: {}; `job retry` runs it again{gone}", row.detail),
    }
}

fn waits_for(reason: &str) -> String {
    match reason.parse() {
        Ok(WaitReason::Turn) => "waits for another installation on this machine; they run one at a time".into(),
        Ok(WaitReason::Window) => "waits for its time or maintenance window".into(),
        Ok(WaitReason::Agent) => "its agent can't do what the job asks; update it".into(),
        Ok(WaitReason::User) => "waits for the user at the machine".into(),
        Ok(WaitReason::LocalHold) => "the machine's own administrator holds installations (`hold` in the agent's configuration)".into(),
        Ok(WaitReason::Reboot) => "waits for a restart of the machine".into(),
        Ok(WaitReason::Lease) => "waits for contact: the permission to start has run out".into(),
        Ok(WaitReason::Retry) => "waits for its next try, after one that may be repeated; `job retry --kind waiting` tries now".into(),
        Ok(WaitReason::TransferSuspended) => {
            "the transfers of a group that the client is in are suspended (`transfer status`); `transfer resume` lets it go on".into()
        }
        Err(_) => "waits".into(),
    }
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
