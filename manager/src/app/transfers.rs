//! How fast bytes flow to clients, and whose stand still.

use super::{AppError, Env, Result, groups};
use std::collections::BTreeSet;
use sutler_base::{ClientId, GroupName, Uid};
use sutler_core::{
    model::Client,
    transfer::{Hours, LIMITS_MAX, Limit, Scope, Suspension},
};
use sutler_store::Tx;

/// A limit with the name of its group.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The limit.
    pub limit: Limit,
    /// Of a group: its name.
    pub group: Option<GroupName>,
}

/// What makes a limit.
#[derive(Debug, Clone)]
pub struct Create {
    /// Whose bytes it counts.
    pub of: Of,
    /// Bytes per second.
    pub rate: u64,
    /// When it holds.
    pub hours: Hours,
}

/// Whose bytes a limit counts, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// All together.
    Manager,
    /// The members of this group together.
    Group(GroupName),
    /// Each client by itself.
    EachClient,
}

/// Where one client stands.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The groups that it is in.
    pub groups: BTreeSet<Uid>,
    /// Its time zone, if its facts say.
    pub zone: String,
}

/// Limits how fast bytes flow.
pub async fn create(tx: &mut dyn Tx, env: &Env, input: &Create) -> Result<Shown> {
    let there = tx.transfer_limits().await?.len();
    if there >= LIMITS_MAX {
        let message = format!("there are {there} limits already, and at most {LIMITS_MAX}; take one away with `transfer limit clear`");
        return Err(AppError::state("transferLimits", "TOO_MANY_LIMITS", message));
    }
    let (scope, group) = match &input.of {
        Of::Manager => (Scope::Manager, None),
        Of::EachClient => (Scope::EachClient, None),
        Of::Group(name) => (Scope::Group(groups::load(tx, name).await?.uid), Some(name.clone())),
    };
    let creator = env.actor_name().to_owned();
    let limit = Limit { uid: env.world.uid(), scope, rate: input.rate, hours: input.hours.clone(), creator, created: env.now };
    tx.insert_transfer_limit(&limit).await?;
    let shown = Shown { limit, group };
    env.audit(tx, "create_transfer_limit", name(&shown), described(&shown)).await?;
    Ok(shown)
}

fn name(shown: &Shown) -> String {
    format!("transferLimits/{}", shown.limit.uid)
}

/// As it stands in the audit log.
fn described(shown: &Shown) -> String {
    let whose = match (&shown.limit.scope, &shown.group) {
        (Scope::Manager, _) => "all clients together".to_owned(),
        (Scope::EachClient, _) => "each client".to_owned(),
        (Scope::Group(_), Some(name)) => format!("groups/{name} together"),
        (Scope::Group(uid), None) => format!("the group {uid} together"),
    };
    let hours = serde_json::to_string(&shown.limit.hours).unwrap_or_default();
    format!("{whose}: {} bytes/s {hours}", shown.limit.rate)
}

/// All limits.
pub async fn list(tx: &mut dyn Tx) -> Result<Vec<Shown>> {
    let limits = tx.transfer_limits().await?;
    let of = |limit: &Limit| if let Scope::Group(uid) = &limit.scope { Some(uid.clone()) } else { None };
    let named = tx.groups_by_uid(&limits.iter().filter_map(of).collect::<Vec<_>>()).await?;
    let shown = |limit: Limit| {
        let group = of(&limit).and_then(|uid| named.iter().find(|g| g.uid == uid).map(|g| g.name.clone()));
        Shown { limit, group }
    };
    Ok(limits.into_iter().map(shown).collect())
}

/// Takes a limit away.
pub async fn delete(tx: &mut dyn Tx, env: &Env, uid: &Uid) -> Result<()> {
    let Some(shown) = list(tx).await?.into_iter().find(|shown| shown.limit.uid == *uid) else {
        return Err(AppError::not_found("transfer limit", uid));
    };
    tx.delete_transfer_limit(uid).await?;
    env.audit(tx, "delete_transfer_limit", name(&shown), described(&shown)).await
}

/// The members of a group get no bytes any more.
pub async fn suspend(tx: &mut dyn Tx, env: &Env, name: &GroupName) -> Result<(Suspension, GroupName)> {
    let group = groups::load(tx, name).await?;
    let suspension = Suspension { group: group.uid.clone(), creator: env.actor_name().to_owned(), since: env.now };
    if tx.insert_suspension(&suspension).await? {
        env.audit(tx, "suspend_transfers", format!("groups/{name}"), "").await?;
        return Ok((suspension, name.clone()));
    }
    let earlier = tx.suspensions().await?.into_iter().find(|s| s.group == group.uid);
    Ok((earlier.unwrap_or(suspension), name.clone()))
}

/// They get bytes again.
pub async fn resume(tx: &mut dyn Tx, env: &Env, name: &GroupName) -> Result<()> {
    let group = groups::load(tx, name).await?;
    if tx.delete_suspension(&group.uid).await? {
        env.audit(tx, "resume_transfers", format!("groups/{name}"), "").await?;
    }
    Ok(())
}

/// The groups that are suspended, by name.
pub async fn suspended(tx: &mut dyn Tx) -> Result<Vec<(Suspension, GroupName)>> {
    let all = tx.suspensions().await?;
    let named = tx.groups_by_uid(&all.iter().map(|s| s.group.clone()).collect::<Vec<_>>()).await?;
    let name = |s: Suspension| named.iter().find(|g| g.uid == s.group).map(|g| (s, g.name.clone()));
    let mut shown: Vec<_> = all.into_iter().filter_map(name).collect();
    shown.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(shown)
}

/// What holds now: the limits, and the groups that are suspended.
pub async fn rules(tx: &mut dyn Tx) -> Result<(Vec<Limit>, BTreeSet<Uid>)> {
    Ok((tx.transfer_limits().await?, tx.suspensions().await?.into_iter().map(|s| s.group).collect()))
}

/// Where these clients stand.
pub async fn standing(tx: &mut dyn Tx, clients: &[ClientId]) -> Result<Vec<(ClientId, BTreeSet<Uid>)>> {
    let mut all: Vec<(ClientId, BTreeSet<Uid>)> = clients.iter().map(|c| (c.clone(), BTreeSet::new())).collect();
    all.sort();
    for membership in tx.memberships_of_all(clients).await? {
        if let Ok(at) = all.binary_search_by(|(client, _)| client.cmp(&membership.client)) {
            all[at].1.insert(membership.group);
        }
    }
    Ok(all)
}

/// Where one client stands that begins to read.
pub async fn standing_of(tx: &mut dyn Tx, client: &Client) -> Result<Standing> {
    let groups = tx.memberships_of(&client.id).await?.into_iter().map(|m| m.group).collect();
    Ok(Standing { groups, zone: zone_of(client) })
}

/// The time zone of a machine, as its facts say.
fn zone_of(client: &Client) -> String {
    #[derive(serde::Deserialize)]
    struct Facts {
        #[serde(default)]
        time_zone: String,
    }
    serde_json::from_str::<Facts>(&client.facts).map(|facts| facts.time_zone).unwrap_or_default()
}
