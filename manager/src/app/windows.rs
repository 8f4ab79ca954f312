//! Maintenance windows of groups, and what those of its groups mean for a client.

use super::{AppError, Env, Result, groups, groups::check_etag};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{ClientId, GroupName, Uid, WindowName};
use sutler_core::{
    model::{Client, Group},
    window::{Day, Hours, OF_A_GROUP_MAX, Placed, WINDOWS_MAX, Window, Windows, Zone},
};
use sutler_store::{Page, StoreError, Tx};

/// A window, and the name of its group.
pub type Named = (Window, GroupName);

async fn load(tx: &mut dyn Tx, name: &WindowName) -> Result<Window> {
    tx.window(name).await?.ok_or_else(|| AppError::not_found("window", name))
}

async fn named(tx: &mut dyn Tx, window: Window) -> Result<Named> {
    let group = tx.groups_by_uid(std::slice::from_ref(&window.group)).await?.pop();
    let group = group.ok_or_else(|| AppError::Bug(format!("windows/{} is of a group that is not there", window.name)))?;
    Ok((window, group.name))
}

/// What makes a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// Its name.
    pub name: WindowName,
    /// Whose machines it is for.
    pub group: GroupName,
    /// When it is open.
    pub hours: Hours,
    /// For people.
    pub description: String,
}

/// Makes a window.
pub async fn create(tx: &mut dyn Tx, env: &Env, input: &Create) -> Result<Named> {
    let group = groups::load(tx, &input.group).await?;
    let (object, refused) =
        (format!("windows/{}", input.name), |why: String| AppError::state(format!("windows/{}", input.name), "TOO_MANY_WINDOWS", why));
    if tx.windows_of(std::slice::from_ref(&group.uid)).await?.len() >= OF_A_GROUP_MAX {
        return Err(refused(format!(
            "groups/{} has {OF_A_GROUP_MAX} windows already, and no group has more; delete one first",
            group.name
        )));
    }
    if tx.list_windows(&Page { after: None, limit: WINDOWS_MAX as u32 }).await?.len() >= WINDOWS_MAX {
        return Err(refused(format!("there are {WINDOWS_MAX} windows already, and there are never more; delete one first")));
    }
    let window = Window {
        uid: env.world.uid(),
        name: input.name.clone(),
        group: group.uid,
        hours: input.hours.clone(),
        description: input.description.clone(),
        created: env.now,
        change: 0,
    };
    tx.insert_window(&window).await.map_err(|e| match e {
        StoreError::Exists(_) => AppError::Exists {
            what: "window",
            name: input.name.to_string(),
            hint: "change that one with `window update`, or choose another name".into(),
        },
        other => other.into(),
    })?;
    env.audit(tx, "create_window", object, format!("groups/{}: {}", group.name, window.hours)).await?;
    let window = load(tx, &input.name).await?;
    Ok((window, group.name))
}

/// A window.
pub async fn get(tx: &mut dyn Tx, name: &WindowName) -> Result<Named> {
    let window = load(tx, name).await?;
    named(tx, window).await
}

/// A page of windows and the key of the next one.
pub async fn list(tx: &mut dyn Tx, page: &Page) -> Result<(Vec<Named>, Option<String>)> {
    let rows = tx.list_windows(page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|w| w.name.to_string())).flatten();
    let groups: BTreeSet<Uid> = rows.iter().map(|w| w.group.clone()).collect();
    let groups: BTreeMap<Uid, GroupName> =
        tx.groups_by_uid(&groups.into_iter().collect::<Vec<_>>()).await?.into_iter().map(|g| (g.uid, g.name)).collect();
    let named = |window: Window| groups.get(&window.group).cloned().map(|group| (window, group));
    Ok((rows.into_iter().filter_map(named).collect(), next))
}

/// What changes a window; `None` leaves a field as it is.
#[derive(Debug, Clone)]
pub struct Update {
    /// Which.
    pub name: WindowName,
    /// On which days it opens.
    pub days: Option<Vec<Day>>,
    /// When it opens.
    pub from: Option<u16>,
    /// When it closes.
    pub to: Option<u16>,
    /// By which clock.
    pub zone: Option<Zone>,
    /// For people.
    pub description: Option<String>,
    /// What it was when the caller read it; empty for whatever it is.
    pub etag: String,
}

/// Changes a window.
pub async fn update(tx: &mut dyn Tx, env: &Env, input: &Update) -> Result<Named> {
    let mut window = load(tx, &input.name).await?;
    check_etag(&input.etag, window.change, || format!("windows/{}", input.name))?;
    let before = window.hours.to_string();
    window.hours = Hours {
        days: input.days.clone().unwrap_or(window.hours.days),
        from: input.from.unwrap_or(window.hours.from),
        to: input.to.unwrap_or(window.hours.to),
        zone: input.zone.clone().unwrap_or(window.hours.zone),
    };
    window.description = input.description.clone().unwrap_or(window.description);
    tx.save_window(&window).await?;
    env.audit(tx, "update_window", format!("windows/{}", input.name), format!("{}; before: {before}", window.hours)).await?;
    get(tx, &input.name).await
}

/// Deletes a window.
pub async fn delete(tx: &mut dyn Tx, env: &Env, name: &WindowName) -> Result<()> {
    let window = load(tx, name).await?;
    tx.delete_window(&window.uid, env.now).await?;
    env.audit(tx, "delete_window", format!("windows/{name}"), window.hours).await
}

/// Deletes the windows of a group that goes; gives back their names.
pub async fn delete_of(tx: &mut dyn Tx, env: &Env, group: &Group) -> Result<Vec<WindowName>> {
    let windows = tx.windows_of(std::slice::from_ref(&group.uid)).await?;
    for window in &windows {
        tx.delete_window(&window.uid, env.now).await?;
    }
    Ok(windows.into_iter().map(|w| w.name).collect())
}

/// The windows of these clients, by client: whoever has none is left out.
pub async fn of_clients(tx: &mut dyn Tx, clients: &[&Client]) -> Result<BTreeMap<ClientId, Windows>> {
    // Where there are none at all, nobody's groups are looked up.
    if clients.is_empty() || tx.windows_revision().await? == 0 {
        return Ok(BTreeMap::new());
    }
    let ids: Vec<ClientId> = clients.iter().map(|c| c.id.clone()).collect();
    let memberships = tx.memberships_of_all(&ids).await?;
    let groups: BTreeSet<Uid> = memberships.iter().map(|m| m.group.clone()).collect();
    let windows = tx.windows_of(&groups.into_iter().collect::<Vec<_>>()).await?;
    let groups: BTreeSet<Uid> = windows.iter().map(|w| w.group.clone()).collect();
    let names: BTreeMap<Uid, GroupName> =
        tx.groups_by_uid(&groups.into_iter().collect::<Vec<_>>()).await?.into_iter().map(|g| (g.uid, g.name)).collect();
    let mut out: BTreeMap<ClientId, Windows> = BTreeMap::new();
    for membership in memberships {
        let Some(group) = names.get(&membership.group) else { continue };
        let of_group = windows.iter().filter(|w| w.group == membership.group);
        let placed = of_group.map(|window| Placed { window: window.clone(), group: group.clone() });
        out.entry(membership.client).or_default().all.extend(placed);
    }
    for client in clients {
        if let Some(windows) = out.get_mut(&client.id) {
            windows.zone = zone_of(client);
        }
    }
    Ok(out)
}

/// The name of a client's zone, as its facts say; empty if they don't.
fn zone_of(client: &Client) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Facts {
        time_zone: String,
    }
    serde_json::from_str::<Facts>(&client.facts).unwrap_or_default().time_zone
}

/// The days of the week, as they are given: each once, in their order.
pub fn days(given: &[Day]) -> std::result::Result<Vec<Day>, String> {
    let all: BTreeSet<Day> = given.iter().copied().collect();
    if all.is_empty() {
        return Err("has at least one day; without one it would never open".to_owned());
    }
    if all.len() < given.len() {
        return Err("has each day once".to_owned());
    }
    Ok(all.into_iter().collect())
}
