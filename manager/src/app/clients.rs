//! Clients: let in, quarantined, released, removed; their labels, and what follows for groups and jobs.

use super::{AppError, Env, Result, conditions, events, executions, inventory, membership, policies};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    ClientId, LabelKey, Timestamp, Uid, limits, quoted,
    state::{CancelReason, ClientState, ExecutionState, Presence, Source},
};
use sutler_core::{
    condition::Condition,
    model::{self, CertificateState, Client, Machine, Membership},
    policy::{Event, Subject},
    session,
};
use sutler_store::{Besides, Page, SoftwareChange, Tx};

/// How many rows a filtered page looks at, at the most: a page has bounded work, however rare a match is.
pub const SCAN: u32 = 2000;

/// A client with the names of its groups.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The client.
    pub client: Client,
    /// Its memberships.
    pub memberships: Vec<Membership>,
    /// The names of those groups.
    pub groups: BTreeMap<Uid, String>,
    /// The machines that have its key, where that are several.
    pub machines: Vec<Machine>,
    /// Others that are probably the same machine.
    pub duplicates: Vec<ClientId>,
}

/// The client, or that there is none.
pub async fn load(tx: &mut dyn Tx, id: &ClientId) -> Result<Client> {
    tx.client(id).await?.ok_or_else(|| AppError::not_found("client", id))
}

/// Clients with what people want to see of them.
pub async fn show(tx: &mut dyn Tx, clients: Vec<Client>) -> Result<Vec<Shown>> {
    let ids: Vec<ClientId> = clients.iter().map(|c| c.id.clone()).collect();
    let mut memberships: BTreeMap<ClientId, Vec<Membership>> = BTreeMap::new();
    for membership in tx.memberships_of_all(&ids).await? {
        memberships.entry(membership.client.clone()).or_default().push(membership);
    }
    let mut machines: BTreeMap<ClientId, Vec<Machine>> = BTreeMap::new();
    for machine in tx.machines_of(&ids).await? {
        machines.entry(machine.client.clone()).or_default().push(machine);
    }
    let mut duplicates: BTreeMap<ClientId, Vec<ClientId>> = BTreeMap::new();
    for (client, other) in tx.alike(&ids).await? {
        duplicates.entry(client).or_default().push(other);
    }
    let mut uids: Vec<Uid> = memberships.values().flatten().map(|m| m.group.clone()).collect();
    uids.sort();
    uids.dedup();
    let names: BTreeMap<Uid, String> = tx.groups_by_uid(&uids).await?.into_iter().map(|g| (g.uid, g.name.to_string())).collect();
    Ok(clients
        .into_iter()
        .map(|client| {
            let memberships = memberships.remove(&client.id).unwrap_or_default();
            let groups = memberships.iter().filter_map(|m| Some((m.group.clone(), names.get(&m.group)?.clone()))).collect();
            let machines = machines.remove(&client.id).unwrap_or_default();
            let duplicates = duplicates.remove(&client.id).unwrap_or_default();
            Shown { client, memberships, groups, machines, duplicates }
        })
        .collect())
}

/// One client.
pub async fn get(tx: &mut dyn Tx, id: &ClientId) -> Result<Shown> {
    let client = load(tx, id).await?;
    show(tx, vec![client]).await?.pop().ok_or_else(|| AppError::not_found("client", id))
}

/// Which clients a list has.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// From here on.
    pub page: Page,
    /// Only those for which this condition holds.
    pub filter: String,
    /// Only members of this group.
    pub group: Option<sutler_base::GroupName>,
    /// Removed or archived ones, too.
    pub besides: Besides,
}

/// A page of clients and the key of the next page.
pub async fn list(tx: &mut dyn Tx, env: &Env, list: &List) -> Result<(Vec<Shown>, Option<String>)> {
    let group = match &list.group {
        Some(name) => Some(super::groups::load(tx, name).await?.uid),
        None => None,
    };
    let condition = if list.filter.is_empty() { None } else { Some(conditions::compile(tx, env, "filter", &list.filter).await?) };
    let mut page = list.page.clone();
    let (mut found, mut scanned) = (Vec::new(), 0);
    let next = loop {
        let want = match &condition {
            Some(condition) if condition.uses_packages() => inventory::TOGETHER,
            Some(_) => 500,
            None => list.page.limit,
        };
        page.limit = want;
        let rows = tx.list_clients(&page, list.besides, group.as_ref()).await?;
        let (full, last) = (rows.len() as u32 == want, rows.last().map(|c| c.id.to_string()));
        scanned += rows.len() as u32;
        let mut cut = None;
        let subjects = match &condition {
            Some(condition) => as_filters_see(tx, env, &rows, condition).await?,
            None => vec![],
        };
        for (n, client) in rows.into_iter().enumerate() {
            if condition.as_ref().is_none_or(|c| c.evaluate(&subjects[n].input(&client)).matched()) {
                if found.len() as u32 == list.page.limit {
                    // The page is full: the next one begins behind the last client that is on it.
                    cut = found.last().map(|c: &Client| c.id.to_string());
                    break;
                }
                found.push(client);
            }
        }
        if cut.is_some() {
            break cut;
        }
        if !full {
            break None;
        }
        page.after = last.clone();
        // Each of them costs as much as some dozen others.
        let most = if want == inventory::TOGETHER { SCAN / 10 } else { SCAN };
        if condition.is_none() || scanned >= most {
            break last;
        }
    };
    Ok((show(tx, found).await?, next))
}

/// Clients as the condition of a filter sees them, which may ask for what policies can't: contact, and other clients.
async fn as_filters_see(tx: &mut dyn Tx, env: &Env, clients: &[Client], condition: &Condition) -> Result<Vec<Subject>> {
    let subjects = inventory::subjects(tx, clients, condition.uses_packages()).await?;
    let alike: BTreeSet<ClientId> = if condition.uses_duplicate() {
        let ids: Vec<ClientId> = clients.iter().map(|c| c.id.clone()).collect();
        tx.alike(&ids).await?.into_iter().map(|(client, _)| client).collect()
    } else {
        BTreeSet::new()
    };
    let of = |(client, subject): (&Client, Subject)| {
        let presence = env.presence(client);
        let seen = if presence == Presence::Online { env.now } else { client.last_seen };
        subject.of_the_moment((presence, seen), condition.uses_duplicate().then(|| alike.contains(&client.id)))
    };
    Ok(clients.iter().zip(subjects).map(of).collect())
}

/// Which clients are to be let in.
#[derive(Debug, Clone)]
pub enum Approve {
    /// These.
    Named(Vec<ClientId>),
    /// All that wait and for which a condition holds.
    Filter {
        /// The condition.
        filter: String,
        /// Only those that had enrolled by then; none: all.
        enrolled_by: Option<Timestamp>,
    },
    /// A client whose key several machines have: the one that keeps the identity, by its machine id or the id of its start.
    Machine(ClientId, String),
}

/// Lets clients in. Gives back whom.
pub async fn approve(tx: &mut dyn Tx, env: &Env, approve: &Approve) -> Result<Vec<ClientId>> {
    let mut let_in = Vec::new();
    match approve {
        Approve::Named(ids) => {
            for id in ids {
                let client = load(tx, id).await?;
                match client.state {
                    ClientState::Pending => let_in.push(client),
                    ClientState::Active => {}
                    ClientState::Quarantined => {
                        let message =
                            format!("clients/{id} is quarantined ({}); release it, or name its machine with --machine", client.notice);
                        return Err(AppError::state(format!("clients/{id}"), "QUARANTINED", message));
                    }
                    ClientState::Removed => return Err(removed(id)),
                }
            }
        }
        Approve::Filter { filter, enrolled_by } => {
            let condition = conditions::compile(tx, env, "filter", filter).await?;
            let mut page = Page { after: None, limit: 500 };
            loop {
                let rows = tx.list_clients_in(&page, ClientState::Pending).await?;
                let full = rows.len() == 500;
                page.after = rows.last().map(|c| c.id.to_string());
                let rows: Vec<Client> = rows.into_iter().filter(|c| enrolled_by.is_none_or(|by| c.enrolled <= by)).collect();
                let subjects = as_filters_see(tx, env, &rows, &condition).await?;
                let matching = rows.into_iter().zip(subjects).filter(|(c, subject)| condition.evaluate(&subject.input(c)).matched());
                let_in.extend(matching.map(|(client, _)| client));
                if !full {
                    break;
                }
            }
        }
        Approve::Machine(id, machine) => {
            let mut client = load(tx, id).await?;
            let mut machines = tx.machines_of(std::slice::from_ref(id)).await?;
            if machines.is_empty() {
                let message = format!("clients/{id} is {}, and no two machines were seen to have its key", client.state);
                return Err(AppError::state(format!("clients/{id}"), "NOT_QUARANTINED", message));
            }
            let Some(kept) = session::keep(&mut machines, machine).cloned() else {
                let seen: Vec<_> = machines.iter().map(|m| format!("{} (start {})", m.machine_id, m.boot_id)).collect();
                let message = format!("clients/{id} was not used by a machine {}, but by {}", quoted(machine), seen.join(", "));
                return Err(AppError::state(format!("clients/{id}"), "OTHER_MACHINE", message));
            };
            for machine in &machines {
                tx.save_machine(machine).await?;
            }
            // The certificate of the one that stays is good until it has a new one, even if another machine had replaced it.
            let subject = model::Subject::Client(id.clone());
            match tx.certificate(&kept.serial).await?.filter(|c| c.subject == subject && c.state != CertificateState::Revoked) {
                Some(certificate) => {
                    tx.end_others(&certificate, CertificateState::Revoked).await?;
                    tx.set_certificate_state(&certificate.serial, CertificateState::Active).await?;
                }
                None => tx.revoke_certificates(&subject).await?,
            }
            // It is known from now on by what it says; its next session has a greater counter.
            client.machine_id = kept.machine_id;
            client.boot_id = kept.boot_id;
            client.session_counter = 0;
            client.state = ClientState::Active;
            client.notice = "an operator said which machine is this client; it is about to get a key of its own".into();
            let_in.push(client);
        }
    }
    for client in &mut let_in {
        if client.state == ClientState::Pending {
            client.state = ClientState::Active;
            client.notice = String::new();
        }
        let first = client.activated.is_none();
        client.activated.get_or_insert(env.now);
        tx.save_client(client).await?;
        env.audit(tx, "approve", format!("clients/{}", client.id), "").await?;
        if first {
            admitted(tx, env, client).await?;
        } else {
            // Back after its certificate had ended: what came to its groups and to itself while it waited.
            membership::reach_admitted(tx, env, client).await?;
        }
        wake_access(env, &client.id);
    }
    Ok(let_in.into_iter().map(|c| c.id).collect())
}

/// The answer where something is asked of a client that was removed.
pub fn removed(id: &ClientId) -> AppError {
    AppError::state(format!("clients/{id}"), "REMOVED", format!("clients/{id} was removed, for ever; enrol the machine again"))
}

fn wake_access(env: &Env, id: &ClientId) {
    let mut wakes = env.wakes();
    wakes.access.insert(id.clone());
    wakes.clients.insert(id.clone());
}

/// What follows when a client is let in for the first time: its token's groups, the jobs that reach it, and the policies
/// if its facts are in.
pub async fn admitted(tx: &mut dyn Tx, env: &Env, client: &Client) -> Result<()> {
    if let Some(token) = &client.token
        && let Some(token) = tx.token(token).await?
    {
        for group in tx.groups_by_uid(&token.groups).await? {
            // Whom an operator took out while it waited for approval stays out.
            if !tx.held_out(&group.uid, std::slice::from_ref(&client.id)).await?.is_empty() {
                continue;
            }
            membership::join(tx, env, &group, std::slice::from_ref(client), Source::Token, token.id.as_str()).await?;
        }
    }
    membership::reach_admitted(tx, env, client).await?;
    greet(tx, env, client).await
}

/// Whether a client is to be shown to the policies as a new one, which it is once: when it is active and its first full facts are in.
pub fn is_new(client: &Client) -> bool {
    client.state == ClientState::Active && !client.facts.is_empty() && !client.greeted
}

/// Shows a client to the policies if it is new.
async fn greet(tx: &mut dyn Tx, env: &Env, client: &Client) -> Result<()> {
    if !is_new(client) {
        return Ok(());
    }
    let mut client = client.clone();
    client.greeted = true;
    // Saved last: policies lock their groups before anything is saved.
    policies::look(tx, env, &[(&client, Event::New)]).await?;
    Ok(tx.save_client(&client).await?)
}

/// Gives a client no more work until it is released.
pub async fn quarantine(tx: &mut dyn Tx, env: &Env, id: &ClientId, reason: &str) -> Result<Shown> {
    let mut client = load(tx, id).await?;
    match client.state {
        ClientState::Removed => return Err(removed(id)),
        ClientState::Pending => {
            let message = format!("clients/{id} waits for approval and gets nothing anyway; remove it, or approve it first");
            return Err(AppError::state(format!("clients/{id}"), "PENDING", message));
        }
        ClientState::Active | ClientState::Quarantined => {}
    }
    client.state = ClientState::Quarantined;
    client.notice = if reason.is_empty() { format!("quarantined by {}", env.actor_name()) } else { reason.to_owned() };
    tx.save_client(&client).await?;
    env.audit(tx, "quarantine", format!("clients/{id}"), &client.notice).await?;
    events::client_quarantined(tx, env, &client).await?;
    wake_access(env, id);
    get(tx, id).await
}

/// Ends a quarantine.
pub async fn release(tx: &mut dyn Tx, env: &Env, id: &ClientId) -> Result<Shown> {
    let mut client = load(tx, id).await?;
    if client.state == ClientState::Removed {
        return Err(removed(id));
    }
    if client.state == ClientState::Pending {
        return Err(AppError::state(format!("clients/{id}"), "PENDING", format!("clients/{id} waits for approval; approve it")));
    }
    client.state = ClientState::Active;
    client.notice = String::new();
    tx.save_client(&client).await?;
    tx.delete_machines(id).await?;
    env.audit(tx, "release", format!("clients/{id}"), "").await?;
    greet(tx, env, &client).await?;
    wake_access(env, id);
    get(tx, id).await
}

/// Ends a client for ever.
pub async fn remove(tx: &mut dyn Tx, env: &Env, id: &ClientId) -> Result<Shown> {
    let mut client = load(tx, id).await?;
    if client.state == ClientState::Removed {
        return get(tx, id).await;
    }
    for row in tx.open_executions_of(id).await? {
        // Nobody can report any more, so this is final at once.
        let mut change = executions::moved(&row, ExecutionState::Canceled, CancelReason::ClientRemoved.as_str(), "", env);
        change.cancel = Some(None);
        if let Some(attempt) = &row.attempt {
            tx.set_attempt_states(&[(attempt.clone(), ExecutionState::Canceled)]).await?;
        }
        env.wakes().jobs.insert(row.job.clone());
        tx.change_executions(&[change]).await?;
    }
    for membership in tx.memberships_of(id).await? {
        tx.delete_memberships(&membership.group, std::slice::from_ref(id)).await?;
    }
    tx.revoke_certificates(&model::Subject::Client(id.clone())).await?;
    tx.delete_machines(id).await?;
    let software = tx.software_of(std::slice::from_ref(id)).await?;
    let gone = software.into_iter().map(|(_, package)| package).collect();
    tx.change_software(&[SoftwareChange { client: id.clone(), gone, come: vec![] }]).await?;
    tx.save_likeness(&[(id.clone(), vec![])]).await?;
    client.state = ClientState::Removed;
    // It does not come back, and stands among the removed ones.
    client.archived = None;
    client.notice = format!("removed by {}", env.actor);
    tx.save_client(&client).await?;
    env.audit(tx, "remove", format!("clients/{id}"), "").await?;
    wake_access(env, id);
    get(tx, id).await
}

/// A change of one client's labels.
#[derive(Debug, Clone)]
pub struct LabelChange {
    /// The client.
    pub client: ClientId,
    /// Labels to set.
    pub set: BTreeMap<LabelKey, String>,
    /// Labels to remove.
    pub unset: Vec<LabelKey>,
}

/// Changes labels, of all these clients or of none. Gives back how many changes changed something.
pub async fn set_labels(tx: &mut dyn Tx, env: &Env, changes: &[LabelChange]) -> Result<i32> {
    let mut unknown = super::Violations::default();
    let mut changed = 0;
    // So many at a time are in memory, with their facts.
    for (first, some) in (0..).step_by(inventory::TOGETHER as usize).zip(changes.chunks(inventory::TOGETHER as usize)) {
        let ids: BTreeSet<ClientId> = some.iter().map(|change| change.client.clone()).collect();
        let found = tx.lock_clients(&ids.into_iter().collect::<Vec<_>>()).await?;
        let mut clients: BTreeMap<ClientId, Client> = found.into_iter().map(|client| (client.id.clone(), client)).collect();
        let mut details = Vec::new();
        for (n, change) in (first..).zip(some) {
            let field = format!("changes[{n}]");
            let Some(client) = clients.get_mut(&change.client).filter(|c| c.state != ClientState::Removed) else {
                unknown.add(&format!("{field}.client"), format!("there is no client {}", change.client));
                continue;
            };
            let before = client.labels.clone();
            client.labels.extend(change.set.clone());
            change.unset.iter().for_each(|key| drop(client.labels.remove(key)));
            if client.labels.len() > limits::LABELS_MAX {
                unknown.add(&field, format!("a client has at most {} labels", limits::LABELS_MAX));
                continue;
            }
            if client.labels != before {
                details.push((change.client.clone(), format!("{:?}, without {:?}", change.set, change.unset)));
            }
        }
        clients.retain(|id, _| details.iter().any(|(changed, _)| changed == id));
        // Before these are saved: policies lock their groups first.
        let looks: Vec<_> = clients.values().filter(|client| client.greeted).map(|client| (client, Event::Inventory)).collect();
        policies::look(tx, env, &looks).await?;
        for client in clients.values() {
            tx.save_client(client).await?;
        }
        for (client, detail) in &details {
            env.audit(tx, "set_labels", format!("clients/{client}"), detail.clone()).await?;
        }
        changed += details.len() as i32;
    }
    unknown.done()?;
    Ok(changed)
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
