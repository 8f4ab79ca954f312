//! What clients say of themselves: facts come whole or as what changed, and what is installed is kept apart from them, so that a
//! change costs what it changes.

use super::{AppError, Env, Result, clients, groups, policies};
use serde_json::Value;
use std::collections::BTreeSet;
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
use sutler_store::{Page, Titles, Tx};

/// The name under which stands what agents installed, beside the machines' own managers.
pub const SUTLER: &str = "sutler";

/// How many clients are looked at together by a condition that names packages, which are loaded for it.
pub const TOGETHER: u32 = 50;

/// The facts as an agent reported them.
#[derive(Debug, Clone)]
pub struct Report {
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

/// Takes in the facts of a client, and lets the policies look at it.
pub async fn facts(tx: &mut dyn Tx, env: &Env, id: &ClientId, report: &Report) -> Result<Taken> {
    let most = env.settings.limits.facts;
    if report.json.len() > most {
        return Err(AppError::invalid("facts.json", format!("has at most {most} bytes, not {}", report.json.len())));
    }
    let mut client = clients::load(tx, id).await?;
    // The digest is of what the agent has, so that both sides compare the same thing.
    let digest = match report.base {
        None => Digest::of(report.json.as_bytes()),
        Some(_) => report.digest.ok_or_else(|| AppError::invalid("facts.digest", "goes with facts.base"))?,
    };
    if report.base.is_some() && client.facts_digest != report.base {
        return Ok(Taken::AllWanted);
    }
    if client.facts_digest == Some(digest) {
        return Ok(Taken::Noted);
    }
    let unreadable =
        |e: &dyn std::fmt::Display| AppError::invalid("facts.json", format!("the facts can't be read: {}", told(&e.to_string())));
    let value: Value = serde_json::from_str(&report.json).map_err(|e| unreadable(&e))?;
    let change = match report.base {
        None => whole(tx, id, value).await?,
        Some(_) => changed(tx, &client, value).await?,
    };
    tx.change_software(id, &change.gone, &change.come).await?;
    // Counted afterwards: what a report says is gone may never have been there.
    if tx.count_software(id).await? > entries::PACKAGES {
        return Err(AppError::invalid("facts.packages", format!("has at most {} entries", entries::PACKAGES)));
    }
    if client.facts_time.is_none() {
        // What waited for them to be decided by.
        env.wakes().clients.insert(id.clone());
    }
    let json = change.facts.to_json();
    let new = json != client.facts;
    if new {
        let (before, after) = (Facts::parse(&client.facts).unwrap_or_default(), likeness::keys(&change.facts));
        if after != likeness::keys(&before) && client.archived.is_none() {
            tx.save_likeness(id, &after).await?;
        }
    }
    let renamed = client.hostname != change.facts.hostname;
    client.hostname = change.facts.hostname.clone();
    (client.facts, client.facts_digest, client.facts_time) = (json, Some(digest), Some(env.now));
    tx.save_facts(id, new.then_some(client.facts.as_str()), client.facts_digest, client.facts_time).await?;
    let saved = if client.greeted {
        policies::look(tx, env, &client, Event::Inventory).await?;
        false
    } else {
        clients::greet(tx, env, &client).await?
    };
    if renamed && !saved {
        tx.save_client(&client).await?;
    }
    Ok(Taken::Noted)
}

/// What a report comes to.
struct Change {
    /// The facts without packages.
    facts: Facts,
    gone: Vec<Package>,
    come: Vec<Package>,
}

/// Everything, in place of whatever was known.
async fn whole(tx: &mut dyn Tx, id: &ClientId, value: Value) -> Result<Change> {
    let mut facts = Facts::from_value(value).map_err(|e| AppError::invalid("facts.json", e))?;
    let have: BTreeSet<Package> = tx.software_of(std::slice::from_ref(id)).await?.into_iter().map(|(_, package)| package).collect();
    let mut want = std::mem::take(&mut facts.packages);
    want.extend(installed(&facts));
    Ok(Change { gone: have.difference(&want).cloned().collect(), come: want.difference(&have).cloned().collect(), facts })
}

/// What changed in what is known.
async fn changed(tx: &mut dyn Tx, client: &Client, value: Value) -> Result<Change> {
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
        Some(Value::Null) => {
            let all = tx.software_of(std::slice::from_ref(&client.id)).await?;
            gone.extend(all.into_iter().map(|(_, package)| package).filter(|p| p.manager != SUTLER));
        }
        Some(_) => return Err(AppError::invalid("facts.json", "packages is an object")),
    }
    Ok(Change { facts, gone, come })
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
pub async fn subjects(tx: &mut dyn Tx, clients: &[Client], packages: bool) -> Result<Vec<Subject>> {
    if !packages {
        return Ok(clients.iter().map(Subject::of).collect());
    }
    let mut subjects = Vec::with_capacity(clients.len());
    for clients in clients.chunks(TOGETHER as usize) {
        let ids: Vec<ClientId> = clients.iter().map(|c| c.id.clone()).collect();
        let mut all = tx.software_of(&ids).await?;
        all.retain(|(_, package)| package.manager != SUTLER);
        for client in clients {
            let packages: Vec<Package> = all.iter().filter(|(id, _)| *id == client.id).map(|(_, package)| package.clone()).collect();
            subjects.push(Subject::of(client).with_packages(&packages));
        }
    }
    Ok(subjects)
}
