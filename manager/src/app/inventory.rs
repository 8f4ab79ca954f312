//! What clients say of themselves: facts come whole or as what changed, and what is installed is kept apart from them, so that a
//! change costs what it changes.

use super::{AppError, Env, Result, clients, groups, policies};
use serde_json::Value;
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use sutler_base::{
    ClientId, Digest, GroupName,
    facts::{Facts, Package, entries},
    patch, told,
};
use sutler_core::{
    likeness,
    model::{Client, Title},
    policy::{Event, Subject},
};
use sutler_store::{FactsChange, Page, SoftwareChange, Titles, Tx};

/// The name under which stands what agents installed, beside the machines' own managers.
pub const SUTLER: &str = "sutler";

/// How many reports are taken in together, and how many clients are looked at together by a condition that names packages, which are
/// loaded for it.
pub const TOGETHER: u32 = 50;

/// The facts as an agent reported them.
#[derive(Debug, Clone)]
pub struct Report {
    /// The client, from its certificate.
    pub client: ClientId,
    /// The facts as JSON, or what changed in them.
    pub json: String,
    /// Of what changed: the digest of the facts that it changes.
    pub base: Option<Digest>,
    /// Of what changed: the digest of what comes out.
    pub digest: Option<Digest>,
}

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is noted.
    Noted,
    /// It changes facts that are not here: all of them are wanted.
    AllWanted,
}

/// What is said to a report: what came of it, or why nothing did.
pub type Said = std::result::Result<Taken, AppError>;

/// What a report comes to.
struct Change {
    client: Client,
    /// The facts without packages, and their digest.
    facts: Facts,
    digest: Digest,
    software: SoftwareChange,
}

/// Takes in the facts of clients, lets the policies look at those of which something changed, and says of each report what came of it,
/// in their order.
///
/// Those that come while others are being taken in are taken in together, as [outcomes](super::outcomes) are.
pub async fn facts(tx: &mut dyn Tx, env: &Env, reports: &[Arc<Report>]) -> Result<Vec<Said>> {
    let ids: BTreeSet<ClientId> = reports.iter().map(|report| report.client.clone()).collect();
    let ids: Vec<ClientId> = ids.into_iter().collect();
    let mut clients: BTreeMap<ClientId, Client> = tx.lock_clients(&ids).await?.into_iter().map(|c| (c.id.clone(), c)).collect();
    let known: BTreeSet<ClientId> = clients.keys().cloned().collect();
    let counts: BTreeMap<ClientId, u64> = tx.count_software(&ids).await?.into_iter().collect();
    let (mut said, mut changes) = (Vec::with_capacity(reports.len()), Vec::new());
    for report in reports {
        said.push(match clients.remove(&report.client) {
            None if !known.contains(&report.client) => Err(AppError::not_found("client", &report.client)),
            // One of this client has just changed what this one goes by.
            None => Ok(Taken::AllWanted),
            Some(client) => {
                let count = counts.get(&client.id).copied().unwrap_or_default();
                match read(tx, env, client, count, report).await {
                    Ok(Read::Change(change)) => {
                        changes.push(*change);
                        Ok(Taken::Noted)
                    }
                    Ok(Read::Said(taken)) => Ok(taken),
                    Err(error @ AppError::Invalid(_)) => Err(error),
                    Err(error) => return Err(error),
                }
            }
        });
    }
    note(tx, env, changes).await?;
    Ok(said)
}

/// What is read in a report.
enum Read {
    Change(Box<Change>),
    /// Nothing is to be changed.
    Said(Taken),
}

/// Reads a report of a client, which has `count` titles. Changes nothing.
async fn read(tx: &mut dyn Tx, env: &Env, client: Client, count: u64, report: &Report) -> Result<Read> {
    let most = env.settings.limits.facts;
    if report.json.len() > most {
        return Err(AppError::invalid("facts.json", format!("has at most {most} bytes, not {}", report.json.len())));
    }
    // The digest is of what the agent has, so that both sides compare the same thing.
    let digest = match report.base {
        None => Digest::of(report.json.as_bytes()),
        Some(_) => report.digest.ok_or_else(|| AppError::invalid("facts.digest", "goes with facts.base"))?,
    };
    if report.base.is_some() && client.facts_digest != report.base {
        return Ok(Read::Said(Taken::AllWanted));
    }
    if client.facts_digest == Some(digest) {
        return Ok(Read::Said(Taken::Noted));
    }
    let unreadable =
        |e: &dyn std::fmt::Display| AppError::invalid("facts.json", format!("the facts can't be read: {}", told(&e.to_string())));
    let value: Value = serde_json::from_str(&report.json).map_err(|e| unreadable(&e))?;
    let (facts, software) = match report.base {
        None => whole(tx, &client.id, value).await?,
        Some(_) => changed(tx, &client, value).await?,
    };
    let too_many = || AppError::invalid("facts.packages", format!("has at most {} entries", entries::PACKAGES));
    if count + software.come.len() as u64 > entries::PACKAGES {
        // What a report says is gone may never have been there, and what has come may be there already.
        let mut titles = have(tx, &client.id).await?;
        titles.retain(|title| !software.gone.contains(title));
        titles.extend(software.come.iter().cloned());
        if titles.len() as u64 > entries::PACKAGES {
            return Err(too_many());
        }
    }
    Ok(Read::Change(Box::new(Change { client, facts, digest, software })))
}

/// Writes down what changed, and has policies look at it.
async fn note(tx: &mut dyn Tx, env: &Env, changes: Vec<Change>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let software: Vec<SoftwareChange> = changes.iter().map(|change| change.software.clone()).collect();
    tx.change_software(&software).await?;
    let (mut clients, mut new, mut renamed, mut likeness) = (Vec::new(), BTreeSet::new(), BTreeSet::new(), Vec::new());
    for Change { mut client, facts, digest, .. } in changes {
        if client.facts_time.is_none() {
            // What waited for them to be decided by.
            env.wakes().clients.insert(client.id.clone());
        }
        let json = facts.to_json();
        if json != client.facts {
            new.insert(client.id.clone());
            let (before, after) = (Facts::parse(&client.facts).unwrap_or_default(), likeness::keys(&facts));
            if after != likeness::keys(&before) && client.archived.is_none() {
                likeness.push((client.id.clone(), after));
            }
        }
        if client.hostname != facts.hostname {
            renamed.insert(client.id.clone());
            client.hostname = facts.hostname;
        }
        (client.facts, client.facts_digest, client.facts_time) = (json, Some(digest), Some(env.now));
        clients.push(client);
    }
    if !likeness.is_empty() {
        tx.save_likeness(&likeness).await?;
    }
    let facts = clients.iter().map(|client| FactsChange {
        client: client.id.clone(),
        json: new.contains(&client.id).then_some(client.facts.as_str()),
        digest: client.facts_digest,
        time: client.facts_time,
    });
    tx.save_facts(&facts.collect::<Vec<_>>()).await?;
    let mut greeted = BTreeSet::new();
    for client in &mut clients {
        if clients::is_new(client) {
            client.greeted = true;
            greeted.insert(client.id.clone());
        }
    }
    let event = |client: &Client| if greeted.contains(&client.id) { Event::New } else { Event::Inventory };
    let looks: Vec<_> = clients.iter().filter(|client| client.greeted).map(|client| (client, event(client))).collect();
    policies::look(tx, env, &looks).await?;
    // Saved last: policies lock their groups before anything is saved.
    for client in clients.iter().filter(|client| greeted.contains(&client.id) || renamed.contains(&client.id)) {
        tx.save_client(client).await?;
    }
    Ok(())
}

/// What is installed on a client.
async fn have(tx: &mut dyn Tx, client: &ClientId) -> Result<BTreeSet<Package>> {
    Ok(tx.software_of(std::slice::from_ref(client)).await?.into_iter().map(|(_, package)| package).collect())
}

/// Everything, in place of whatever was known.
async fn whole(tx: &mut dyn Tx, client: &ClientId, value: Value) -> Result<(Facts, SoftwareChange)> {
    let mut facts = Facts::from_value(value).map_err(|e| AppError::invalid("facts.json", e))?;
    let have = have(tx, client).await?;
    let mut want = std::mem::take(&mut facts.packages);
    want.extend(installed(&facts));
    let (gone, come) = (have.difference(&want).cloned().collect(), want.difference(&have).cloned().collect());
    Ok((facts, SoftwareChange { client: client.clone(), gone, come }))
}

/// What changed in what is known.
async fn changed(tx: &mut dyn Tx, client: &Client, value: Value) -> Result<(Facts, SoftwareChange)> {
    let Value::Object(mut members) = value else { return Err(AppError::invalid("facts.json", "is a JSON object")) };
    let packages = members.remove("packages");
    let before = Facts::parse(&client.facts).unwrap_or_default();
    let facts = if members.is_empty() {
        before.clone()
    } else {
        let mut facts = before.to_value();
        patch::apply(&mut facts, Value::Object(members));
        let mut facts = Facts::from_value(facts).map_err(|e| AppError::invalid("facts.json", e))?;
        facts.packages.clear();
        facts
    };
    let (old, new) = (installed(&before), installed(&facts));
    let mut gone: Vec<Package> = old.difference(&new).cloned().collect();
    let mut come: Vec<Package> = new.difference(&old).cloned().collect();
    match packages {
        None => {}
        Some(Value::Object(packages)) => {
            for (key, value) in packages {
                let Some(package) = Package::parse(&key) else { continue };
                if value.is_null() { &mut gone } else { &mut come }.push(package);
            }
        }
        // The machine has none any more.
        Some(Value::Null) => gone.extend(have(tx, &client.id).await?.into_iter().filter(|p| p.manager != SUTLER)),
        Some(_) => return Err(AppError::invalid("facts.json", "packages is an object")),
    }
    Ok((facts, SoftwareChange { client: client.id.clone(), gone, come }))
}

/// What the agent installed, as it stands in the inventory.
fn installed(facts: &Facts) -> BTreeSet<Package> {
    let package = |s: &sutler_base::facts::Software| Package {
        manager: SUTLER.into(),
        name: s.name.clone(),
        version: s.version.clone(),
        architecture: String::new(),
    };
    // A space would part what belongs together in the key of a page.
    facts.software.iter().filter(|s| !s.name.contains(' ') && !s.version.contains(' ')).map(package).collect()
}

/// How many titles a page of a group looks at, at the most.
const SCAN: usize = 1000;

/// Which software a list has.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// From here on.
    pub page: Page,
    /// Of which name and manager.
    pub titles: Titles,
    /// Only what members of this group have.
    pub group: Option<GroupName>,
}

/// A page of software, with how many clients have it, and the key of the next page.
///
/// Without a group the count is one that is kept. With one it is the members that are looked at, for each piece of software.
pub async fn list(tx: &mut dyn Tx, list: &List) -> Result<(Vec<Title>, Option<String>)> {
    let Some(group) = &list.group else {
        let titles = tx.list_titles(&list.page, &list.titles).await?;
        let next = if titles.len() as u32 == list.page.limit { titles.last().map(|t| t.id.to_string()) } else { None };
        return Ok((titles, next));
    };
    let group = groups::load(tx, group).await?.uid;
    let mut page = Page { limit: list.page.limit.min(100), ..list.page.clone() };
    let (mut found, mut scanned) = (Vec::new(), 0);
    loop {
        page.limit = page.limit.min(list.page.limit - found.len() as u32);
        let titles = tx.list_titles(&page, &list.titles).await?;
        let (full, last) = (titles.len() as u32 == page.limit, titles.last().map(|t| t.id.to_string()));
        scanned += titles.len();
        found.extend(tx.count_titles_in(&group, &titles.iter().map(|t| t.id).collect::<Vec<_>>()).await?);
        match (full, last) {
            (true, Some(last)) if (found.len() as u32) < list.page.limit && scanned < SCAN => page.after = Some(last),
            (true, last) => return Ok((found, last)),
            (false, _) => return Ok((found, None)),
        }
    }
}

/// A page of the clients that have a piece of software, with their host names, and the key of the next page.
pub async fn installations(
    tx: &mut dyn Tx,
    title: i64,
    page: &Page,
    group: Option<&GroupName>,
) -> Result<(Vec<(ClientId, String)>, Option<String>)> {
    let group = match group {
        Some(name) => Some(groups::load(tx, name).await?.uid),
        None => None,
    };
    if tx.title(title).await?.is_none() {
        return Err(AppError::not_found("software", title));
    }
    let clients = tx.clients_with(title, page, group.as_ref()).await?;
    let next = if clients.len() as u32 == page.limit { clients.last().map(|(id, _)| id.to_string()) } else { None };
    Ok((clients, next))
}

/// Clients as conditions see them; with the packages of their machines, for a condition that names them. Of those at most
/// [`TOGETHER`] clients at a time are asked for.
pub async fn subjects<C: Borrow<Client> + Sync>(tx: &mut dyn Tx, clients: &[C], packages: bool) -> Result<Vec<Subject>> {
    if !packages {
        return Ok(clients.iter().map(|client| Subject::of(client.borrow())).collect());
    }
    let mut subjects = Vec::with_capacity(clients.len());
    for clients in clients.chunks(TOGETHER as usize) {
        let ids: Vec<ClientId> = clients.iter().map(|c| c.borrow().id.clone()).collect();
        let mut all = tx.software_of(&ids).await?;
        all.retain(|(_, package)| package.manager != SUTLER);
        for client in clients.iter().map(Borrow::borrow) {
            let packages: Vec<Package> = all.iter().filter(|(id, _)| *id == client.id).map(|(_, package)| package.clone()).collect();
            subjects.push(Subject::of(client).with_packages(&packages));
        }
    }
    Ok(subjects)
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
