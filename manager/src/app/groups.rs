//! Groups: made, changed, deleted; members added and taken out by operators, and by the clients themselves.

use super::{AppError, Env, Result, Violations, clients, conditions::Asked, destinations, executions, membership, policies, rollouts};
use std::collections::BTreeSet;
use sutler_base::{
    ClientId, GroupName, PolicyName, limits, quoted,
    state::{CancelReason, ClientState, JobState, JoinMode, Source},
};
use sutler_core::{
    condition::Variable,
    model::{Client, Group, Membership, Target},
};
use sutler_store::{Page, StoreError, Tx};

/// The group, or that there is none.
pub async fn load(tx: &mut dyn Tx, name: &GroupName) -> Result<Group> {
    tx.group(name).await?.ok_or_else(|| AppError::not_found("group", name))
}

/// An error if the caller read another state of the object than it has now.
pub fn check_etag(etag: &str, change: i64, name: impl FnOnce() -> String) -> Result<()> {
    if etag.is_empty() || etag == change.to_string() { Ok(()) } else { Err(AppError::Stale(name())) }
}

/// What makes a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// Its name.
    pub name: GroupName,
    /// For people.
    pub description: String,
    /// What a client says of itself can't place it there.
    pub restricted: bool,
    /// Who may join from a client.
    pub join_mode: JoinMode,
    /// The hash of the password, for `PASSWORD`.
    pub join_hash: Option<String>,
}

fn consistent(restricted: bool, mode: JoinMode, hash: Option<&String>) -> Result<()> {
    if mode == JoinMode::Password && hash.is_none() {
        return Err(AppError::invalid("join_password", "is needed for the join mode PASSWORD"));
    }
    if restricted && mode != JoinMode::Closed {
        return Err(AppError::invalid("join_mode", "is CLOSED on a restricted group: what a client does by itself can't place it there"));
    }
    Ok(())
}

/// Makes a group.
pub async fn create(tx: &mut dyn Tx, env: &Env, input: &Create) -> Result<Group> {
    consistent(input.restricted, input.join_mode, input.join_hash.as_ref())?;
    let group = Group {
        uid: env.world.uid(),
        name: input.name.clone(),
        description: input.description.clone(),
        restricted: input.restricted,
        join_mode: input.join_mode,
        join_hash: input.join_hash.clone(),
        members: 0,
        created: env.now,
        change: 0,
    };
    tx.insert_group(&group).await.map_err(|e| match e {
        StoreError::Exists(_) => AppError::Exists {
            what: "group",
            name: input.name.to_string(),
            hint: "choose another name, or use the group that is there".into(),
        },
        other => other.into(),
    })?;
    env.audit(tx, "create_group", format!("groups/{}", input.name), "").await?;
    load(tx, &input.name).await
}

/// What changes a group; `None` leaves a field as it is.
#[derive(Debug, Clone)]
pub struct Update {
    /// Which.
    pub name: GroupName,
    /// For people.
    pub description: Option<String>,
    /// What a client says of itself can't place it there.
    pub restricted: Option<bool>,
    /// Who may join from a client.
    pub join_mode: Option<JoinMode>,
    /// The hash of the password.
    pub join_hash: Option<String>,
    /// What it was when the caller read it; empty for whatever it is.
    pub etag: String,
}

/// Changes a group.
pub async fn update(tx: &mut dyn Tx, env: &Env, input: &Update) -> Result<Group> {
    let mut group = load(tx, &input.name).await?;
    check_etag(&input.etag, group.change, || format!("groups/{}", input.name))?;
    group.description = input.description.clone().unwrap_or(group.description);
    group.restricted = input.restricted.unwrap_or(group.restricted);
    group.join_mode = input.join_mode.unwrap_or(group.join_mode);
    group.join_hash = input.join_hash.clone().or(group.join_hash).filter(|_| group.join_mode == JoinMode::Password);
    consistent(group.restricted, group.join_mode, group.join_hash.as_ref())?;
    if group.restricted {
        let mut page = Page { after: None, limit: limits::PAGE_MAX };
        loop {
            let rows = tx.list_policies(&page, Some(&group.uid)).await?;
            let asked = Asked::by(tx, env, rows.iter().map(|policy| policy.condition.as_str())).await?;
            for policy in &rows {
                // One that can't be read names a question that is no more.
                if asked.of(env, policy).is_none_or(|c| c.uses(Variable::Facts) || c.uses(Variable::Answers)) {
                    let message = format!(
                        "groups/{} can't be restricted: policies/{} goes by what clients say of themselves; delete or change it first",
                        group.name, policy.name
                    );
                    return Err(AppError::state(format!("groups/{}", group.name), "POLICY_BY_FACTS", message));
                }
            }
            if (rows.len() as u32) < page.limit {
                break;
            }
            page.after = rows.last().map(|p| p.name.to_string());
        }
    }
    tx.save_group(&group).await?;
    env.audit(tx, "update_group", format!("groups/{}", input.name), "").await?;
    load(tx, &input.name).await
}

/// A page of groups and the key of the next one.
pub async fn list(tx: &mut dyn Tx, page: &Page) -> Result<(Vec<Group>, Option<String>)> {
    let rows = tx.list_groups(page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|g| g.name.to_string())).flatten();
    Ok((rows, next))
}

/// Deletes a group with its policies; jobs lose it as a destination. Gives back the policies that went with it.
pub async fn delete(tx: &mut dyn Tx, env: &Env, name: &GroupName, force: bool) -> Result<Vec<PolicyName>> {
    let group = load(tx, name).await?;
    super::brakes::stops::refuse_if_stopped(tx, &group).await?;
    let target = Target::Group(group.uid.clone());
    let jobs = tx.jobs_with_target(&target, &[JobState::Scheduled, JobState::Active, JobState::Paused]).await?;
    if let Some(job) = jobs.first().filter(|_| !force) {
        let message = format!(
            "groups/{name} is a destination of jobs/{}, which is {}; cancel that job, or delete with --force and the job loses this destination",
            job.id, job.state
        );
        return Err(AppError::state(format!("groups/{name}"), "JOB_ACTIVE", message));
    }
    // A draft that lost it would reach them once it is started.
    let excluding = tx.jobs_excluding(&target, &[JobState::Draft, JobState::Scheduled, JobState::Active, JobState::Paused]).await?;
    if let Some(job) = excluding.first().filter(|_| !force) {
        let message = format!(
            "jobs/{}, which is {}, never reaches the members of groups/{name}; cancel that job, or delete with --force and it reaches them \
             where a destination holds them",
            job.id, job.state
        );
        return Err(AppError::state(format!("groups/{name}"), "JOB_ACTIVE", message));
    }
    if let Some(job) = rollouts::job_that_waits_for(tx, &group.uid).await?.filter(|_| !force) {
        let message = format!(
            "members of groups/{name} go first in a stage of jobs/{}, which is {}; cancel that job, or delete with --force and nobody goes \
             first",
            job.id, job.state
        );
        return Err(AppError::state(format!("groups/{name}"), "JOB_ACTIVE", message));
    }
    let members = destinations::members(tx, &group.uid).await?;
    let mut deleted = Vec::new();
    loop {
        let rows = tx.list_policies(&Page { after: None, limit: limits::PAGE_MAX }, Some(&group.uid)).await?;
        if rows.is_empty() {
            break;
        }
        for policy in rows {
            tx.delete_policy(&policy.uid, env.now).await?;
            deleted.push(policy.name);
        }
    }
    let windows = super::windows::delete_of(tx, env, &group).await?;
    tx.drop_target(&target).await?;
    tx.delete_group(&group.uid, env.now).await?;
    for job in jobs {
        executions::no_longer_reached(tx, env, &job.id, &members, CancelReason::DestinationDeleted).await?;
        env.wakes().jobs.insert(job.id);
    }
    let standing: Vec<_> = excluding.into_iter().filter(|job| destinations::STANDING.contains(&job.state)).collect();
    destinations::not_excluded(tx, env, &standing, &members).await?;
    env.audit(
        tx,
        "delete_group",
        format!("groups/{name}"),
        format!("with {} members, the policies {deleted:?} and the windows {windows:?}", members.len()),
    )
    .await?;
    Ok(deleted)
}

/// A row that names no client, or more than one.
#[derive(Debug, Clone)]
pub struct BadRow {
    /// From 1.
    pub row: usize,
    /// What it says.
    pub value: String,
    /// What is wrong.
    pub reason: String,
}

/// Clients to add to a group: an id, a host name, or `label:KEY=VALUE`.
#[derive(Debug, Clone)]
pub struct Add {
    /// The group.
    pub name: GroupName,
    /// Who.
    pub rows: Vec<String>,
    /// Leave bad rows out instead of refusing all.
    pub skip_bad: bool,
}

/// Adds clients to a group. Gives back how many were added and which rows were left out.
pub async fn add(tx: &mut dyn Tx, env: &Env, input: &Add) -> Result<(usize, Vec<BadRow>)> {
    let group = load(tx, &input.name).await?;
    let (mut ids, mut bad) = (BTreeSet::new(), Vec::new());
    for (n, row) in input.rows.iter().enumerate() {
        match resolve(tx, row).await? {
            Ok(found) => ids.extend(found),
            Err(reason) => bad.push(BadRow { row: n + 1, value: row.clone(), reason }),
        }
    }
    if !bad.is_empty() && !input.skip_bad {
        let mut violations = Violations::default();
        for row in &bad {
            violations.add(&format!("clients[{}]", row.row - 1), format!("row {}: {}: {}", row.row, quoted(&row.value), row.reason));
        }
        violations.done()?;
    }
    let ids: Vec<ClientId> = ids.into_iter().collect();
    let mut added = 0;
    for batch in ids.chunks(500) {
        tx.release_hold(&group.uid, batch).await?;
        let clients = tx.clients(batch).await?;
        added += membership::join(tx, env, &group, &clients, Source::Operator, env.actor_name()).await?.len();
    }
    env.audit(tx, "add_members", format!("groups/{}", input.name), format!("{added} added of {}", input.rows.len())).await?;
    Ok((added, bad))
}

/// The clients that a row names, or what is wrong with it.
async fn resolve(tx: &mut dyn Tx, row: &str) -> Result<std::result::Result<Vec<ClientId>, String>> {
    if let Some(label) = row.strip_prefix("label:") {
        let Some((key, value)) = label.split_once('=') else { return Ok(Err("a label is written label:KEY=VALUE".into())) };
        let found = tx.clients_by_label(key, value).await?;
        return Ok(if found.is_empty() { Err("no client has this label".into()) } else { Ok(found) });
    }
    if let Ok(id) = row.strip_prefix("clients/").unwrap_or(row).parse::<ClientId>()
        && let Some(client) = tx.client(&id).await?
    {
        return Ok(if client.state == ClientState::Removed { Err("this client was removed".into()) } else { Ok(vec![id]) });
    }
    let found = tx.clients_by_hostname(row).await?;
    Ok(match found.len() {
        0 => Err("no client has this id or host name".into()),
        1 => Ok(found),
        _ => Err(format!(
            "{} clients call themselves so: {}; name one by its id",
            found.len(),
            found.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(", ")
        )),
    })
}

/// Takes clients out of a group; policies don't put them back until they are released. Gives back how many were in it.
pub async fn remove(tx: &mut dyn Tx, env: &Env, name: &GroupName, ids: &[ClientId]) -> Result<usize> {
    let group = load(tx, name).await?;
    let mut unknown = Violations::default();
    let found = tx.clients(ids).await?;
    for (n, id) in ids.iter().enumerate() {
        if !found.iter().any(|c| c.id == *id) {
            unknown.add(&format!("clients[{n}]"), format!("there is no client {id}"));
        }
    }
    unknown.done()?;
    tx.hold_out(&group.uid, ids, env.actor_name(), env.now).await?;
    let left = membership::leave(tx, env, &group.uid, ids).await?;
    env.audit(tx, "remove_members", format!("groups/{name}"), format!("{left:?}")).await?;
    Ok(left.len())
}

/// Lets policies put a client back that an operator had taken out.
pub async fn release(tx: &mut dyn Tx, env: &Env, name: &GroupName, client: &ClientId) -> Result<()> {
    let group = load(tx, name).await?;
    clients::load(tx, client).await?;
    if tx.release_hold(&group.uid, std::slice::from_ref(client)).await? == 0 {
        let message = format!("clients/{client} was not taken out of groups/{name} by an operator");
        return Err(AppError::state(format!("groups/{name}"), "NOT_HELD_OUT", message));
    }
    env.audit(tx, "release_member", format!("groups/{name}"), client).await
}

/// A page of members and the key of the next one.
pub async fn members(tx: &mut dyn Tx, name: &GroupName, page: &Page) -> Result<(Vec<Membership>, Option<String>)> {
    let group = load(tx, name).await?;
    let rows = tx.list_members(&group.uid, page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|m| m.client.to_string())).flatten();
    Ok((rows, next))
}

/// What a client asks for by itself.
#[derive(Debug, Clone)]
pub enum Wish {
    /// To be in this group; with the password, if the group has one.
    Join(String, String),
    /// To be out of this group.
    Leave(String),
    /// To know its groups.
    List,
}

/// Does what a client asks for by itself; gives back its groups, or a sentence that says why not.
///
/// A group that is not there, is restricted, or is closed says the same: a client can't find out what exists.
pub async fn wish(tx: &mut dyn Tx, env: &Env, id: &ClientId, wish: &Wish) -> Result<std::result::Result<Vec<String>, String>> {
    let client = clients::load(tx, id).await?;
    match wish {
        Wish::Join(name, password) => {
            if let Err(why) = may_join(tx, &client, name, password).await? {
                env.audit(tx, "join_refused", format!("clients/{id}"), format!("{}: {why}", quoted(name))).await?;
                return Ok(Err(why));
            }
            if let Some(group) = named(tx, name).await? {
                let joined = membership::join(tx, env, &group, std::slice::from_ref(&client), Source::Client, "").await?;
                if !joined.is_empty() {
                    env.audit(tx, "join", format!("groups/{}", group.name), format!("clients/{id}")).await?;
                }
            }
        }
        Wish::Leave(name) => {
            let group = named(tx, name).await?;
            let is_in = match &group {
                Some(group) => tx.memberships_of(id).await?.into_iter().any(|m| m.group == group.uid),
                None => false,
            };
            let Some(group) = group.filter(|_| is_in) else { return Ok(Err(format!("this client is not in a group {}", quoted(name)))) };
            if !policies::may_join(&group) {
                return Ok(Err(format!("only an operator takes clients out of {}", group.name)));
            }
            membership::leave(tx, env, &group.uid, std::slice::from_ref(id)).await?;
            env.audit(tx, "leave", format!("groups/{}", group.name), format!("clients/{id}")).await?;
        }
        Wish::List => {}
    }
    let shown = clients::get(tx, id).await?;
    Ok(Ok(shown.groups.into_values().collect()))
}

async fn named(tx: &mut dyn Tx, name: &str) -> Result<Option<Group>> {
    match name.parse::<GroupName>() {
        Ok(name) => Ok(tx.group(&name).await?),
        Err(_) => Ok(None),
    }
}

async fn may_join(tx: &mut dyn Tx, client: &Client, name: &str, password: &str) -> Result<std::result::Result<(), String>> {
    if client.state != ClientState::Active {
        return Ok(Err(format!("this client is {}; an operator has to let it in first", client.state)));
    }
    let closed = || Err(format!("there is no group {} that clients can join by themselves", quoted(name)));
    let Some(group) = named(tx, name).await?.filter(policies::may_join) else { return Ok(closed()) };
    if !tx.held_out(&group.uid, std::slice::from_ref(&client.id)).await?.is_empty() {
        return Ok(Err(format!("an operator took this client out of {name}")));
    }
    let right =
        group.join_mode == JoinMode::Open || group.join_hash.as_deref().is_some_and(|hash| crate::password::matches(hash, password));
    Ok(if right { Ok(()) } else { Err(format!("the password of {name} is not right")) })
}
