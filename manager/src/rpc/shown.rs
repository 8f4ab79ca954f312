//! Types → wire: how the manager's objects are shown.

use crate::app::{clients, jobs, operators, packages, policies, rollback, tokens};
use std::collections::BTreeMap;
use sutler_base::{
    ClientId, PackageName, Uid,
    outcome::{ItemResult, Outcome},
    state::{ClientState, Counter, ExecutionState, HoldReason, JobState, Presence, Purpose},
};
use sutler_core::{
    execution,
    model::{Attempt, Counts, Group, Machine, Membership, Question},
    relations::{Action, Need, Planned},
};
use sutler_proto::{
    convert::{Word, wire_rule, wire_struct, wire_time},
    v1,
};

/// Who is connected, and what time it is.
pub(super) struct Contact<'a> {
    pub(super) live: &'a crate::live::Live,
    pub(super) now: jiff::Timestamp,
    /// How long a client may be silent.
    pub(super) overdue: std::time::Duration,
}

impl Contact<'_> {
    /// Whether the client is in contact.
    fn presence(&self, client: &ClientId, last_seen: jiff::Timestamp) -> Presence {
        self.live.presence(client, last_seen, self.now, self.overdue)
    }
}

pub(super) fn client(shown: clients::Shown, contact: &Contact<'_>) -> v1::Client {
    let presence = contact.presence(&shown.client.id, shown.client.last_seen);
    let online = presence == Presence::Online;
    let c = shown.client;
    let mut groups: Vec<String> = shown.groups.values().map(|name| format!("groups/{name}")).collect();
    groups.sort();
    v1::Client {
        name: format!("clients/{}", c.id),
        state: c.state.to_wire(),
        kind: c.kind.to_wire(),
        hostname: c.hostname,
        address: c.address,
        online,
        last_seen_time: Some(wire_time(if online { contact.now } else { c.last_seen })),
        enroll_time: Some(wire_time(c.enrolled)),
        active_time: c.activated.map(wire_time),
        token: c.token.map(|t| format!("tokens/{t}")).unwrap_or_default(),
        agent_version: c.agent_version,
        facts: serde_json::from_str(&c.facts).ok().map(|facts: serde_json::Value| wire_struct(&facts)),
        facts_time: c.facts_time.map(wire_time),
        labels: c.labels.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        answers: c.answers.into_iter().collect(),
        groups,
        duplicate_of: c.duplicate_of.map(|d| format!("clients/{d}")).unwrap_or_default(),
        notice: c.notice,
        site: c.site.to_string(),
        machine_id: c.machine_id,
        machines: shown.machines.into_iter().map(machine).collect(),
        clock_skew: c.skew.map(wire_millis),
        replace_time: c.replaced.map(wire_time),
        presence: presence.to_wire(),
        archive_time: c.archived.map(wire_time),
        duplicates: shown.duplicates.iter().map(|d| format!("clients/{d}")).collect(),
    }
}

fn machine(m: Machine) -> v1::ClientMachine {
    let Machine { machine_id, boot_id, address, seen, kept, .. } = m;
    v1::ClientMachine { machine_id, boot_id, address, see_time: Some(wire_time(seen)), kept }
}

fn wire_millis(ms: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 }
}

pub(super) fn group(g: Group) -> v1::Group {
    v1::Group {
        name: format!("groups/{}", g.name),
        uid: g.uid.to_string(),
        description: g.description,
        restricted: g.restricted,
        join_mode: g.join_mode.to_wire(),
        member_count: g.members,
        create_time: Some(wire_time(g.created)),
        etag: g.change.to_string(),
    }
}

pub(super) fn membership(m: &Membership, group: String, source_name: String) -> v1::Membership {
    v1::Membership {
        group,
        client: format!("clients/{}", m.client),
        source: m.source.to_wire(),
        source_name,
        join_time: Some(wire_time(m.since)),
    }
}

pub(super) fn applied_policy(applied: policies::Applied) -> v1::AppliedPolicy {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    v1::AppliedPolicy { policy: format!("policies/{}", applied.policy), matched: count(applied.matched), added: count(applied.added) }
}

pub(super) fn policy((p, group): policies::Named) -> v1::Policy {
    v1::Policy {
        name: format!("policies/{}", p.name),
        uid: p.uid.to_string(),
        group: format!("groups/{group}"),
        trigger: p.trigger.to_wire(),
        condition: p.condition,
        applies_to: p.applies_to.to_wire(),
        on_mismatch: p.on_mismatch.to_wire(),
        description: p.description,
        create_time: Some(wire_time(p.created)),
        etag: p.change.to_string(),
    }
}

pub(super) fn question(q: Question) -> v1::Question {
    v1::Question {
        name: format!("questions/{}", q.name),
        uid: q.uid.to_string(),
        prompt: q.prompt,
        rule: Some(wire_rule(&q.rule)),
        create_time: Some(wire_time(q.created)),
        etag: q.change.to_string(),
    }
}

pub(super) fn package(p: packages::Shown) -> v1::Package {
    v1::Package {
        name: format!("packages/{}", p.package.name),
        uid: p.package.uid.to_string(),
        newest_version: p.newest,
        version_count: p.versions as i32,
        create_time: Some(wire_time(p.package.created)),
    }
}

pub(super) fn version(v: sutler_core::model::PackageVersion) -> v1::PackageVersion {
    v1::PackageVersion {
        name: packages::name_of(&v),
        uid: v.uid.to_string(),
        release: v.release as i64,
        description: v.description,
        manifest_digest: v.manifest.to_string(),
        total_bytes: v.total_bytes as i64,
        file_count: v.files as i32,
        create_time: Some(wire_time(v.created)),
        creator: format!("operators/{}", v.creator),
        expire_time: v.expires.map(wire_time),
        manifest: None,
        damaged_objects: 0,
        withdraw_time: v.withdrawn.as_ref().map(|(at, _)| wire_time(*at)),
        withdraw_reason: v.withdrawn.map(|(_, reason)| reason).unwrap_or_default(),
    }
}

fn need(n: Need) -> v1::Need {
    let package = |name: PackageName| format!("packages/{name}");
    v1::Need { by: package(n.by), package: package(n.on.package), versions: n.on.versions.to_string() }
}

pub(super) fn planned(p: Planned) -> v1::PlannedPackage {
    let action = match p.action {
        Action::Install => v1::PlanAction::Install,
        Action::Upgrade => v1::PlanAction::Upgrade,
        Action::Downgrade => v1::PlanAction::Downgrade,
        Action::Keep => v1::PlanAction::Keep,
        Action::Uninstall => v1::PlanAction::Uninstall,
        Action::Supersede => v1::PlanAction::Supersede,
        Action::Reject => v1::PlanAction::Reject,
        Action::Skip => v1::PlanAction::Skip,
    };
    v1::PlannedPackage {
        package: format!("packages/{}/versions/{}", p.package, p.version),
        action: action.into(),
        from_version: p.from.map(|from| from.to_string()).unwrap_or_default(),
        ordered: p.ordered.map(|name| format!("packages/{name}")).unwrap_or_default(),
        needed: p.needed.into_iter().map(need).collect(),
        max_fetch_bytes: p.bytes as i64,
        note: p.note,
    }
}

pub(super) fn operator(o: operators::Shown) -> v1::Operator {
    let roles = o.operator.grants.iter().map(|g| v1::RoleGrant {
        role: g.role.to_wire(),
        groups: g.groups.iter().flatten().filter_map(|uid| o.groups.get(uid)).map(|name| format!("groups/{name}")).collect(),
        scoped: g.groups.is_some(),
    });
    v1::Operator {
        roles: roles.collect(),
        name: format!("operators/{}", o.operator.name),
        create_time: Some(wire_time(o.operator.created)),
        creator: o.operator.creator,
        revoke_time: o.operator.revoked.map(wire_time),
        etag: o.operator.change.to_string(),
        budget: o.budget.and_then(|budget| budget.try_into().ok()),
    }
}

pub(super) fn token(t: tokens::Shown) -> v1::EnrollmentToken {
    let groups = t.groups.iter().map(|g| format!("groups/{g}")).collect();
    let t = t.token;
    v1::EnrollmentToken {
        name: format!("tokens/{}", t.id),
        description: t.description,
        uses: t.uses as i32,
        used: t.used as i32,
        expire_time: Some(wire_time(t.expires)),
        networks: t.networks,
        expected_machines: t.expected,
        groups,
        labels: t.labels.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        create_time: Some(wire_time(t.created)),
        creator: format!("operators/{}", t.creator),
        revoke_time: t.revoked.map(wire_time),
        replaces: t.replaces.map(|c| format!("clients/{c}")).unwrap_or_default(),
    }
}

fn counters(counts: &Counts) -> v1::Counters {
    let of = |which| execution::counter(counts, which);
    v1::Counters {
        total: counts.0.values().sum(),
        finished: of(Counter::Finished),
        error: of(Counter::Error),
        rejected: of(Counter::Rejected),
        canceled: of(Counter::Canceled),
        waiting: of(Counter::Waiting),
        running: of(Counter::Running),
        already_installed: counts.0.get(&ExecutionState::AlreadyInstalled).copied().unwrap_or_default(),
        already_absent: counts.0.get(&ExecutionState::AlreadyAbsent).copied().unwrap_or_default(),
    }
}

pub(super) fn job(j: jobs::Shown) -> v1::Job {
    let packages = j
        .packages
        .into_iter()
        .map(|p| v1::JobPackage {
            package: match (&p.follow, p.version_text.as_str()) {
                (true, _) => format!("packages/{}/versions/latest", p.package),
                (false, "") => format!("packages/{}", p.package),
                (false, version) => format!("packages/{}/versions/{version}", p.package),
            },
            replace: if p.replace_always { v1::Replace::Always } else { v1::Replace::IfMissing }.into(),
            version: p.version_text,
            intent: p.intent.to_wire(),
            values: p.values.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
            needed: p.needed.into_iter().map(need).collect(),
        })
        .collect();
    let rollout = j.rollout.as_ref().map(|rollout| super::terms::status(&j.job, rollout));
    let requirements = if j.job.requirements.is_empty() { None } else { serde_json::to_string(&j.job.requirements).ok() };
    v1::Job {
        name: format!("jobs/{}", j.job.id),
        state: j.job.state.to_wire(),
        packages,
        destinations: j.destinations,
        counters: Some(counters(&j.counts)),
        description: j.job.description,
        priority: i32::from(j.job.priority),
        continue_on_failure: j.job.continue_on_failure,
        expire_time: j.job.expires.map(wire_time),
        creator: format!("operators/{}", j.job.creator),
        create_time: Some(wire_time(j.job.created)),
        start_time: j.job.started.map(wire_time),
        end_time: j.job.ended.map(wire_time),
        revision: j.job.revision,
        archived: j.job.archived,
        unavailable: j.unavailable,
        unavailable_soon: j.unavailable_soon,
        damaged_versions: vec![],
        canceling: j.canceling,
        condition: j.job.condition,
        requirements: requirements.unwrap_or_default(),
        terms: Some(super::terms::shown(&j.job.terms)),
        rollout,
        exclusions: j.exclusions,
        clients_where: j.job.clients_where,
        rolls_back: j.job.rolls_back.map(|id| format!("jobs/{id}")).unwrap_or_default(),
        drift_count: j.drifts,
        etag: j.job.change.to_string(),
        alias: j.alias.map(|alias| alias.to_string()).unwrap_or_default(),
        held_back: j.held_back,
        approval: j.approval.map(super::approvals::shown),
    }
}

pub(super) fn rollback_step(step: rollback::Step) -> v1::RollbackStep {
    v1::RollbackStep {
        package: format!("packages/{}/versions/{}", step.package.package, step.package.version_text),
        intent: step.package.intent.to_wire(),
        clients: step.clients,
    }
}

fn item(i: ItemResult) -> v1::ItemResult {
    let failure = i.failure.unwrap_or(sutler_base::outcome::Failure {
        kind: sutler_base::state::ErrorKind::Interrupted,
        message: String::new(),
        step: None,
        exit_code: None,
        signal: None,
        output: String::new(),
        output_cut: 0,
        restored: None,
    });
    let failed = !i.state.is_good();
    v1::ItemResult {
        package: format!("packages/{}/versions/{}", i.package, i.version),
        state: i.state.to_wire(),
        error_kind: if failed { failure.kind.as_str().into() } else { String::new() },
        message: failure.message,
        step: failure.step.unwrap_or_default(),
        exit_code: failure.exit_code,
        output: failure.output,
        output_cut_bytes: failure.output_cut.min(i64::MAX as u64) as i64,
        restored: failure.restored,
        fetched_bytes: i.fetched_bytes as i64,
        total_bytes: i.total_bytes as i64,
        duration_ms: i.duration_ms as i64,
        reboot: i.reboot,
    }
}

pub(super) fn items(attempt: Option<&Attempt>) -> Vec<v1::ItemResult> {
    let outcome = attempt.and_then(|a| Outcome::parse(&a.outcome).ok());
    outcome.map(|o| o.items.into_iter().map(item).collect()).unwrap_or_default()
}

pub(super) fn execution(row: jobs::Row, contact: &Contact<'_>) -> v1::Execution {
    let online = contact.presence(&row.client.id, row.client.last_seen) == Presence::Online;
    let e = row.execution;
    let running = e.state.counter() == Counter::Running || e.state == ExecutionState::Offered || e.state == ExecutionState::Waiting;
    let mark = match row.client.state {
        ClientState::Removed => "REMOVED",
        _ if row.client.archived.is_some() => "ARCHIVED",
        ClientState::Quarantined => "QUARANTINED",
        _ if !row.reached => "LEFT_GROUP",
        _ => "",
    };
    // What holds it back stands before what is known of the last try.
    let (reason, detail) = match e.hold.filter(|_| e.state == ExecutionState::Queued) {
        _ if let Some(held) = row.held.filter(|_| e.state == ExecutionState::Queued) => (held.by.to_string(), held.why),
        _ if e.state == ExecutionState::Queued && row.job == JobState::Paused => {
            ("PAUSED".into(), "the job is paused; `job show` says why".into())
        }
        Some(hold @ HoldReason::Stage) => (hold.to_string(), "waits for its stage of the rollout; `job show` says which is open".into()),
        _ => (e.reason.clone(), e.detail.clone()),
    };
    let detail = match &e.cancel {
        // What is done about it stands before what it waited for.
        Some(cancel) => execution::cancel_sentence(cancel, online),
        None => detail,
    };
    v1::Execution {
        name: format!("jobs/{}/executions/{}", e.job, e.client),
        client: format!("clients/{}", e.client),
        hostname: row.client.hostname,
        state: e.state.to_wire(),
        enter_time: Some(wire_time(e.entered)),
        progress_percent: execution::progress(&e),
        attempt_count: e.attempts as i32,
        items: items(row.attempt.as_ref()),
        no_contact_time: (running && !online).then(|| wire_time(row.client.last_seen)),
        last_seen_time: Some(wire_time(if online { contact.now } else { row.client.last_seen })),
        mark: mark.into(),
        cancel_deadline: e.cancel.as_ref().and_then(execution::cancel_until).map(wire_time),
        cancel_awaits: e.cancel.as_ref().map_or(0, |c| execution::cancel_awaits(c, online).to_wire()),
        cancel_reason: e.cancel.as_ref().map(|c| c.reason.to_string()).unwrap_or_default(),
        purpose: if e.purpose == Purpose::Order { String::new() } else { e.purpose.as_str().to_owned() },
        drift_count: e.drifts as i32,
        reason,
        detail,
    }
}

pub(super) fn attempt(a: Attempt) -> v1::Attempt {
    v1::Attempt {
        items: items(Some(&a)),
        id: a.id.to_string(),
        number: a.number as i32,
        revision: a.revision,
        state: a.state.to_wire(),
        create_time: Some(wire_time(a.created)),
        end_time: a.ended.map(wire_time),
        logs: Vec::new(),
    }
}

/// The names of groups by uid, as resource names.
pub(super) fn group_of(groups: &BTreeMap<Uid, String>, uid: &Uid) -> String {
    groups.get(uid).map(|name| format!("groups/{name}")).unwrap_or_default()
}

/// What put a client into a group, as a resource name; `policy` is the name of the policy, if it still exists.
pub(super) fn source_name(m: &Membership, policy: Option<&str>) -> String {
    use sutler_base::state::Source;
    match m.source {
        Source::Policy => policy.map(|name| format!("policies/{name}")).unwrap_or_default(),
        Source::Token => format!("tokens/{}", m.source_name),
        Source::Operator => format!("operators/{}", m.source_name),
        Source::Client => String::new(),
    }
}
