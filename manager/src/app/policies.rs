//! Policies: made, changed, previewed, applied; and what they do when a client is new or its inventory changes.

use super::{
    App, AppError, Env, Result, Who, conditions,
    conditions::Asked,
    destinations,
    destinations::{Ahead, Move},
    groups, inventory, membership,
};
use std::{collections::BTreeSet, sync::Arc};
use sutler_base::{
    ClientId, GroupName, PolicyName, Uid, limits,
    state::{AppliesTo, ClientState, JoinMode, OnMismatch, Source, Trigger},
};
use sutler_core::{
    condition::{Condition, Outcome, Variable},
    model::{Client, Group, Membership, Policy},
    policy::{Event, Subject, Verdict, decide},
};
use sutler_store::{Besides, Page, StoreError, Tx};

/// A policy and the name of its group.
pub type Named = (Policy, GroupName);

/// What makes a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// Its name.
    pub name: PolicyName,
    /// The group.
    pub group: GroupName,
    /// What makes it look at a client.
    pub trigger: Trigger,
    /// The condition.
    pub condition: String,
    /// Which clients it means.
    pub applies_to: AppliesTo,
    /// What happens to a member that no longer matches.
    pub on_mismatch: OnMismatch,
    /// For people.
    pub description: String,
}

/// The policy, or that there is none.
pub async fn load(tx: &mut dyn Tx, name: &PolicyName) -> Result<Policy> {
    tx.policy(name).await?.ok_or_else(|| AppError::not_found("policy", name))
}

async fn named(tx: &mut dyn Tx, policies: Vec<Policy>) -> Result<Vec<Named>> {
    let uids: Vec<_> = policies.iter().map(|p| p.group.clone()).collect();
    let groups = tx.groups_by_uid(&uids).await?;
    Ok(policies.into_iter().filter_map(|p| groups.iter().find(|g| g.uid == p.group).map(|g| (p, g.name.clone()))).collect())
}

async fn one(tx: &mut dyn Tx, policy: Policy) -> Result<Named> {
    named(tx, vec![policy]).await?.pop().ok_or_else(|| AppError::Bug("a policy without its group".into()))
}

async fn group_of(tx: &mut dyn Tx, policy: &Policy) -> Result<Group> {
    let group = tx.groups_by_uid(std::slice::from_ref(&policy.group)).await?.pop();
    group.ok_or_else(|| AppError::Bug("a policy without its group".into()))
}

/// How many clients are in memory at a time: fewer where their packages are, too.
fn together(packages: bool) -> u32 {
    if packages { inventory::TOGETHER } else { 500 }
}

/// A condition that may place clients in this group: what a client says of itself never grants a restricted one.
async fn compile(tx: &mut dyn Tx, env: &Env, group: &Group, text: &str) -> Result<Arc<Condition>> {
    let condition = conditions::compile(tx, env, "condition", text).await?;
    if condition.uses_contact() || condition.uses_duplicate() {
        let why = "client.presence, client.last_seen and client.duplicate change without anything happening at the client, so that a \
                   policy would not notice; only a filter can ask for them";
        return Err(AppError::invalid("condition", why));
    }
    for variable in [Variable::Facts, Variable::Answers] {
        if group.restricted && condition.uses(variable) {
            let why = format!(
                "groups/{} is restricted: what a client says of itself ({}) can't place it there; use labels",
                group.name,
                variable.name()
            );
            return Err(AppError::invalid("condition", why));
        }
    }
    Ok(condition)
}

/// Makes a policy. Clients that exist already stay where they are; `apply` is for them.
pub async fn create(tx: &mut dyn Tx, env: &Env, input: &Create) -> Result<Named> {
    let group = groups::load(tx, &input.group).await?;
    compile(tx, env, &group, &input.condition).await?;
    let policy = Policy {
        uid: env.world.uid(),
        name: input.name.clone(),
        group: group.uid,
        trigger: input.trigger,
        condition: input.condition.clone(),
        applies_to: input.applies_to,
        on_mismatch: input.on_mismatch,
        description: input.description.clone(),
        created: env.now,
        change: 0,
    };
    tx.insert_policy(&policy).await.map_err(|e| exists(e, &input.name))?;
    env.audit(
        tx,
        "create_policy",
        format!("policies/{}", input.name),
        format!("{} on groups/{}: {}", input.trigger, input.group, input.condition),
    )
    .await?;
    let policy = load(tx, &input.name).await?;
    note_ahead(tx, env, &policy, None).await?;
    one(tx, policy).await
}

/// A policy that looks at clients whenever something of them changes, with its condition.
type Looking = (Policy, Arc<Condition>);

/// Notes whom a policy would bring within reach of jobs, or out of it, by what they are now: those that it looks at by their facts,
/// though nothing happened to them yet.
async fn note_ahead(tx: &mut dyn Tx, env: &Env, policy: &Policy, moves: Option<Move>) -> Result<()> {
    if policy.trigger != Trigger::Inventory {
        return Ok(());
    }
    let group = group_of(tx, policy).await?;
    let condition = compile(tx, env, &group, &policy.condition).await?;
    let looking = [(group.uid, vec![(policy.clone(), condition)])];
    note_looking(tx, env, &looking, &Ahead { moves, ..Ahead::default() }).await
}

/// Notes whom the policies of these groups would bring within reach of a job that has come to them, or out of it, as [`note_ahead`] does
/// of a policy that has come to a group with jobs: which of them is there first is all the same.
pub async fn note_ahead_of(tx: &mut dyn Tx, env: &Env, groups: &[Uid], ahead: &Ahead<'_>) -> Result<()> {
    let mut all = Vec::new();
    for group in groups {
        let policies = looking(tx, env, group).await?;
        if !policies.is_empty() {
            all.push((group.clone(), policies));
        }
    }
    note_looking(tx, env, &all, ahead).await
}

/// The policies of a group that look at clients whenever something of them changes. One that names a question that is no more looks at
/// nobody.
async fn looking(tx: &mut dyn Tx, env: &Env, group: &Uid) -> Result<Vec<Looking>> {
    let (mut page, mut all) = (Page { after: None, limit: limits::PAGE_MAX }, Vec::new());
    loop {
        let rows = tx.list_policies(&page, Some(group)).await?;
        let full = rows.len() as u32 == page.limit;
        page.after = rows.last().map(|p| p.name.to_string());
        all.extend(rows.into_iter().filter(|p| p.trigger == Trigger::Inventory));
        if !full {
            break;
        }
    }
    let asked = Asked::by(tx, env, all.iter().map(|policy| policy.condition.as_str())).await?;
    Ok(all.into_iter().filter_map(|policy| asked.of(env, &policy).map(|condition| (policy, condition))).collect())
}

/// Shows every client to these policies of groups, and notes what would follow for jobs.
async fn note_looking(tx: &mut dyn Tx, env: &Env, groups: &[(Uid, Vec<Looking>)], ahead: &Ahead<'_>) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let packages = groups.iter().flat_map(|(_, policies)| policies).any(|(_, condition)| condition.uses_packages());
    let limit = together(packages);
    let mut page = Page { after: None, limit };
    loop {
        let rows = tx.list_clients_in(&page, ClientState::Active).await?;
        let full = rows.len() as u32 == limit;
        page.after = rows.last().map(|c| c.id.to_string());
        let subjects = inventory::subjects(tx, &rows, packages).await?;
        let ids: Vec<ClientId> = rows.iter().map(|c| c.id.clone()).collect();
        let members = tx.memberships_of_all(&ids).await?;
        for (group, policies) in groups {
            let joins = |client: &Client, subject: &Subject| {
                policies.iter().any(|(policy, condition)| decide(policy, condition, client, subject, Event::Inventory) == Verdict::Join)
            };
            let is_in = |id: &ClientId| members.iter().any(|m| m.group == *group && m.client == *id);
            let meant = rows.iter().zip(&subjects).filter(|(client, subject)| !is_in(&client.id) && joins(client, subject));
            let meant: Vec<ClientId> = meant.map(|(client, _)| client.id.clone()).collect();
            let held = tx.held_out(group, &meant).await?;
            let come: Vec<ClientId> = meant.into_iter().filter(|id| !held.contains(id)).collect();
            destinations::note_if_moved(tx, env, group, (Move::Join, &come), ahead).await?;
            let goes = |client: &Client, subject: &Subject| {
                policies.iter().any(|(policy, condition)| {
                    let is_its = |m: &Membership| m.group == *group && m.client == client.id && is_of(m, policy);
                    members.iter().any(is_its) && decide(policy, condition, client, subject, Event::Inventory) == Verdict::Leave
                })
            };
            let go = rows.iter().zip(&subjects).filter(|(client, subject)| goes(client, subject));
            let go: Vec<ClientId> = go.map(|(client, _)| client.id.clone()).collect();
            destinations::note_if_moved(tx, env, group, (Move::Leave, &go), ahead).await?;
        }
        if !full {
            return Ok(());
        }
    }
}

fn exists(error: StoreError, name: &PolicyName) -> AppError {
    match error {
        StoreError::Exists(_) => AppError::Exists {
            what: "policy",
            name: name.to_string(),
            hint: "or the same group, trigger and condition under another name; change that one with `policy update`".into(),
        },
        other => other.into(),
    }
}

/// One policy.
pub async fn get(tx: &mut dyn Tx, name: &PolicyName) -> Result<Named> {
    let policy = load(tx, name).await?;
    one(tx, policy).await
}

/// A page of policies and the key of the next one.
pub async fn list(tx: &mut dyn Tx, page: &Page, group: Option<&GroupName>) -> Result<(Vec<Named>, Option<String>)> {
    let group = match group {
        Some(name) => Some(groups::load(tx, name).await?.uid),
        None => None,
    };
    let rows = tx.list_policies(page, group.as_ref()).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|p| p.name.to_string())).flatten();
    Ok((named(tx, rows).await?, next))
}

/// What changes a policy; `None` leaves a field as it is.
#[derive(Debug, Clone)]
pub struct Update {
    /// Which.
    pub name: PolicyName,
    /// The condition.
    pub condition: Option<String>,
    /// Which clients it means.
    pub applies_to: Option<AppliesTo>,
    /// What happens to a member that no longer matches.
    pub on_mismatch: Option<OnMismatch>,
    /// For people.
    pub description: Option<String>,
    /// What it was when the caller read it; empty for whatever it is.
    pub etag: String,
}

/// Changes a policy. Members stay; the new condition counts from the next event on.
pub async fn update(tx: &mut dyn Tx, env: &Env, input: &Update) -> Result<Named> {
    let mut policy = load(tx, &input.name).await?;
    super::groups::check_etag(&input.etag, policy.change, || format!("policies/{}", input.name))?;
    if let Some(condition) = &input.condition {
        let group = group_of(tx, &policy).await?;
        compile(tx, env, &group, condition).await?;
        policy.condition = condition.clone();
    }
    policy.applies_to = input.applies_to.unwrap_or(policy.applies_to);
    policy.on_mismatch = input.on_mismatch.unwrap_or(policy.on_mismatch);
    policy.description = input.description.clone().unwrap_or(policy.description);
    tx.save_policy(&policy).await.map_err(|e| exists(e, &input.name))?;
    if input.condition.is_some() || input.applies_to.is_some() {
        note_ahead(tx, env, &policy, None).await?;
    } else if input.on_mismatch.is_some() {
        note_ahead(tx, env, &policy, Some(Move::Leave)).await?;
    }
    env.audit(tx, "update_policy", format!("policies/{}", input.name), &policy.condition).await?;
    get(tx, &input.name).await
}

/// Deletes a policy. The members that it registered stay.
pub async fn delete(tx: &mut dyn Tx, env: &Env, name: &PolicyName) -> Result<()> {
    let policy = load(tx, name).await?;
    tx.delete_policy(&policy.uid, env.now).await?;
    env.audit(tx, "delete_policy", format!("policies/{name}"), "").await
}

/// What the preview says of one client.
#[derive(Debug, Clone)]
pub struct Match {
    /// The client.
    pub client: ClientId,
    /// What it calls itself.
    pub hostname: String,
    /// Whether the condition holds.
    pub matches: bool,
    /// Whether applying the policy would add it.
    pub would_join: bool,
    /// Why, part by part.
    pub why: Vec<String>,
}

/// Which policy, or which condition on which group, is to be tried.
#[derive(Debug, Clone)]
pub enum Preview {
    /// A policy that exists.
    Policy(PolicyName),
    /// A condition for a group.
    Condition(String, GroupName),
}

/// Who would match, and why, a page of clients at a time. Changes nothing.
pub async fn preview(tx: &mut dyn Tx, env: &Env, what: &Preview, page: &Page) -> Result<(Vec<Match>, Option<String>)> {
    let (group, text) = match what {
        Preview::Policy(name) => {
            let (policy, group) = get(tx, name).await?;
            (groups::load(tx, &group).await?, policy.condition)
        }
        Preview::Condition(text, group) => (groups::load(tx, group).await?, text.clone()),
    };
    let condition = compile(tx, env, &group, &text).await?;
    let rows = tx.list_clients(page, Besides::default(), None).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|c| c.id.to_string())).flatten();
    let ids: Vec<ClientId> = rows.iter().map(|c| c.id.clone()).collect();
    let held = tx.held_out(&group.uid, &ids).await?;
    let members = tx.memberships_of_all(&ids).await?;
    let mut out = Vec::new();
    let subjects = inventory::subjects(tx, &rows, condition.uses_packages()).await?;
    for (client, subject) in rows.into_iter().zip(subjects) {
        let explanation = condition.explain(&subject.input(&client));
        let matches = explanation.outcome == Outcome::Matched;
        let mut why: Vec<String> = explanation.to_string().lines().map(str::to_owned).collect();
        let in_the_way = if members.iter().any(|m| m.client == client.id && m.group == group.uid) {
            Some("is a member already")
        } else if held.contains(&client.id) {
            Some("an operator took it out of the group; release it with `group release`")
        } else if client.state != ClientState::Active {
            Some("is not ACTIVE")
        } else {
            None
        };
        why.extend(in_the_way.filter(|_| matches).map(str::to_owned));
        out.push(Match { client: client.id, hostname: client.hostname, matches, would_join: matches && in_the_way.is_none(), why });
    }
    Ok((out, next))
}

/// What applying a policy came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The policy.
    pub policy: PolicyName,
    /// How many clients match.
    pub matched: usize,
    /// How many of them were added.
    pub added: usize,
}

/// Who matches policies, as these were when the clients were read.
#[derive(Debug)]
pub struct Found {
    looking: Arc<Vec<Looking>>,
    /// Of each policy, in their order.
    clients: Vec<Vec<ClientId>>,
}

impl Found {
    fn of(looking: Vec<Looking>) -> Found {
        Found { clients: vec![Vec::new(); looking.len()], looking: Arc::new(looking) }
    }

    /// The first page of clients that are shown to them, and whether with their packages.
    fn page(&self) -> (Page, bool) {
        let packages = self.looking.iter().any(|(_, condition)| condition.uses_packages());
        (Page { after: None, limit: together(packages) }, packages)
    }

    /// Shows clients to all of the policies: on a thread for that, since many conditions of many clients take their time.
    async fn show(&self, clients: Vec<(Client, Subject)>) -> Result<Vec<Vec<ClientId>>> {
        let looking = self.looking.clone();
        let shown = tokio::task::spawn_blocking(move || {
            let who = |(policy, condition): &Looking| {
                let joins =
                    |(client, subject): &&(Client, Subject)| decide(policy, condition, client, subject, Event::Apply) == Verdict::Join;
                clients.iter().filter(joins).map(|(client, _)| client.id.clone()).collect()
            };
            looking.iter().map(who).collect()
        });
        shown.await.map_err(|e| AppError::Bug(format!("policies could not be decided: {e}")))
    }

    fn add(&mut self, page: Vec<Vec<ClientId>>) -> Result<()> {
        self.clients.iter_mut().zip(page).for_each(|(all, more)| all.extend(more));
        let matches: usize = self.clients.iter().map(Vec::len).sum();
        match matches > limits::APPLY_MATCHES_MAX {
            true => {
                let most = limits::APPLY_MATCHES_MAX;
                let why = format!(
                    "these {} policies match more than {most} times, too many for one change; apply fewer at once",
                    self.looking.len()
                );
                Err(AppError::state("policies", "TOO_MANY_MATCHES", why))
            }
            false => Ok(()),
        }
    }
}

/// The policies of these names with their conditions.
async fn looking_of(tx: &mut dyn Tx, env: &Env, names: &[PolicyName]) -> Result<Vec<Looking>> {
    let mut looking = Vec::with_capacity(names.len());
    for name in names {
        let policy = load(tx, name).await?;
        let group = group_of(tx, &policy).await?;
        let condition = compile(tx, env, &group, &policy.condition).await?;
        looking.push((policy, condition));
    }
    Ok(looking)
}

/// A page of the clients that policies may register, as conditions see them.
async fn active(tx: &mut dyn Tx, page: &Page, packages: bool) -> Result<Vec<(Client, Subject)>> {
    let rows = tx.list_clients_in(page, ClientState::Active).await?;
    let subjects = inventory::subjects(tx, &rows, packages).await?;
    Ok(rows.into_iter().zip(subjects).collect())
}

/// Finds who matches policies that are to be applied, page by page: nobody's change has to wait for it. [`apply`] looks again at whom it
/// registers.
pub async fn find(app: &App, who: &Who, names: &[PolicyName]) -> Result<Found> {
    let looking = app.view(who.clone(), "apply_policies", names.to_vec(), |tx, env, names| Box::pin(looking_of(tx, env, names))).await?;
    let mut found = Found::of(looking);
    let (first, packages) = found.page();
    let read = |page: Page| app.view(who.clone(), "apply_policies", page, move |tx, _, page| Box::pin(active(tx, page, packages)));
    let mut rows = read(first.clone()).await?;
    while let Some((last, _)) = rows.last() {
        let next = Page { after: Some(last.id.to_string()), ..first.clone() };
        let (decided, following) = tokio::try_join!(found.show(rows), read(next))?;
        found.add(decided)?;
        rows = following;
    }
    Ok(found)
}

/// The same within a unit of work.
async fn find_within(tx: &mut dyn Tx, env: &Env, names: &[PolicyName]) -> Result<Found> {
    let mut found = Found::of(looking_of(tx, env, names).await?);
    let (mut page, packages) = found.page();
    loop {
        let rows = active(tx, &page, packages).await?;
        let Some((last, _)) = rows.last() else { return Ok(found) };
        page.after = Some(last.id.to_string());
        found.add(found.show(rows).await?)?;
    }
}

/// Applies policies in a unit of work that nobody has read ahead for.
pub async fn apply_within(tx: &mut dyn Tx, env: &Env, names: &[PolicyName]) -> Result<Vec<Applied>> {
    let found = find_within(tx, env, names).await?;
    apply(tx, env, &found).await
}

/// Registers clients that were found to match, where they still do.
///
/// # Errors
///
/// [`AppError::Stale`] when one of the policies is another one than clients were shown to.
pub async fn apply(tx: &mut dyn Tx, env: &Env, found: &Found) -> Result<Vec<Applied>> {
    let uids: BTreeSet<Uid> = found.looking.iter().map(|(policy, _)| policy.group.clone()).collect();
    let groups = tx.lock_groups(&uids.into_iter().collect::<Vec<_>>()).await?;
    let mut all = Vec::with_capacity(found.looking.len());
    for ((shown, _), ids) in found.looking.iter().zip(&found.clients) {
        let policy = load(tx, &shown.name).await?;
        if (&policy.uid, policy.change) != (&shown.uid, shown.change) {
            return Err(AppError::Stale(format!("policies/{}", policy.name)));
        }
        let group = groups.iter().find(|group| group.uid == policy.group);
        let group = group.ok_or_else(|| AppError::Bug("a policy without its group".into()))?;
        let condition = compile(tx, env, group, &policy.condition).await?;
        let mut applied = Applied { policy: policy.name.clone(), matched: 0, added: 0 };
        for ids in ids.chunks(together(condition.uses_packages()) as usize) {
            let mut rows = tx.clients(ids).await?;
            rows.retain(|client| client.state == ClientState::Active);
            let subjects = inventory::subjects(tx, &rows, condition.uses_packages()).await?;
            let still = |(client, subject): &(Client, Subject)| decide(&policy, &condition, client, subject, Event::Apply) == Verdict::Join;
            let meant: Vec<Client> = rows.into_iter().zip(subjects).filter(still).map(|(client, _)| client).collect();
            applied.matched += meant.len();
            applied.added += register(tx, env, &policy, group, &meant).await?;
        }
        let said = format!("{} match, {} added", applied.matched, applied.added);
        env.audit(tx, "apply_policies", format!("policies/{}", policy.name), said).await?;
        all.push(applied);
    }
    Ok(all)
}

/// Puts clients into the policy's group, those left out that an operator took out of it.
async fn register(tx: &mut dyn Tx, env: &Env, policy: &Policy, group: &Group, clients: &[Client]) -> Result<usize> {
    let ids: Vec<ClientId> = clients.iter().map(|c| c.id.clone()).collect();
    let held = tx.held_out(&group.uid, &ids).await?;
    let free: Vec<Client> = clients.iter().filter(|c| !held.contains(&c.id)).cloned().collect();
    Ok(membership::join(tx, env, group, &free, Source::Policy, policy.uid.as_str()).await?.len())
}

/// Lets the policies, and the conditions of jobs, look at clients after something happened to them, each client once.
pub async fn look(tx: &mut dyn Tx, env: &Env, looks: &[(&Client, Event)]) -> Result<()> {
    let looks: Vec<(&Client, Event)> = looks.iter().filter(|(client, _)| client.state == ClientState::Active).copied().collect();
    if looks.is_empty() {
        return Ok(());
    }
    let all_inventory = looks.iter().all(|(_, event)| *event == Event::Inventory);
    let policies = tx.policies_with_trigger(all_inventory.then_some(Trigger::Inventory)).await?;
    let decided = if policies.is_empty() { vec![] } else { decided(tx, env, policies, &looks).await? };
    // All of them before anybody is joined or reached: whoever gives a group work has its row and waits for the change sequence, which
    // that takes.
    let uids: BTreeSet<Uid> = decided.iter().map(|(policy, ..)| policy.group.clone()).collect();
    let groups = if uids.is_empty() { vec![] } else { tx.lock_groups(&uids.into_iter().collect::<Vec<_>>()).await? };
    destinations::look(tx, env, &looks.iter().map(|(client, _)| *client).collect::<Vec<_>>()).await?;
    for (policy, join, leave) in decided {
        let members = if leave.is_empty() { vec![] } else { tx.memberships_of_all(&leave).await? };
        let leave: Vec<ClientId> =
            members.into_iter().filter(|m| m.group == policy.group && is_of(m, &policy)).map(|membership| membership.client).collect();
        if !leave.is_empty() {
            membership::leave(tx, env, &policy.group, &leave).await?;
        }
        if let Some(group) = groups.iter().find(|group| group.uid == policy.group && !join.is_empty()) {
            register(tx, env, &policy, group, &join).await?;
        }
    }
    Ok(())
}

/// What policies decide of clients: of each, in their order, whom it takes in and whom out of its group, those left out that do neither.
async fn decided(
    tx: &mut dyn Tx,
    env: &Env,
    policies: Vec<Policy>,
    looks: &[(&Client, Event)],
) -> Result<Vec<(Policy, Vec<Client>, Vec<ClientId>)>> {
    let asked = Asked::by(tx, env, policies.iter().map(|policy| policy.condition.as_str())).await?;
    // One that names a question that is no more looks at nobody, and keeps no other from looking.
    let policies: Vec<_> = policies.into_iter().filter_map(|policy| asked.of(env, &policy).map(|condition| (policy, condition))).collect();
    let packages = policies.iter().any(|(_, condition)| condition.uses_packages());
    let mut verdicts = vec![(Vec::new(), Vec::new()); policies.len()];
    // So many at a time have their packages loaded.
    for looks in looks.chunks(inventory::TOGETHER as usize) {
        let clients: Vec<&Client> = looks.iter().map(|(client, _)| *client).collect();
        for ((client, event), subject) in looks.iter().zip(inventory::subjects(tx, &clients, packages).await?) {
            for ((policy, condition), (join, leave)) in policies.iter().zip(&mut verdicts) {
                match decide(policy, condition, client, &subject, *event) {
                    Verdict::Join => join.push((*client).clone()),
                    Verdict::Leave => leave.push(client.id.clone()),
                    Verdict::NoMatch | Verdict::Silent => {}
                }
            }
        }
    }
    let decided = policies.into_iter().zip(verdicts).map(|((policy, _), (join, leave))| (policy, join, leave));
    Ok(decided.filter(|(_, join, leave)| !(join.is_empty() && leave.is_empty())).collect())
}

/// Whether a membership was made by this policy.
fn is_of(membership: &Membership, policy: &Policy) -> bool {
    membership.source == Source::Policy && membership.source_name == policy.uid.as_str()
}

/// Whether clients can join this group by themselves.
pub fn may_join(group: &Group) -> bool {
    !group.restricted && group.join_mode != JoinMode::Closed
}

#[cfg(test)]
#[path = "policies_tests.rs"]
mod tests;
