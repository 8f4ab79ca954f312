//! Groups of a configuration.

use super::{super::groups, AppError, Env, Found, Object, Result, Step};
use sutler_base::{GroupName, limits};
use sutler_core::model::Group;
use sutler_store::{Page, Tx};

/// All groups.
pub(super) async fn all(tx: &mut dyn Tx) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    let mut page = Page { after: None, limit: limits::PAGE_MAX };
    loop {
        let rows = tx.list_groups(&page).await?;
        let full = rows.len() as u32 == page.limit;
        page.after = rows.last().map(|g| g.name.to_string());
        all.extend(rows.into_iter().map(found));
        if !full {
            return Ok(all);
        }
    }
}

fn found(group: Group) -> Found {
    let Group { uid, name, description, restricted, join_mode, join_hash: _, members: _, created: _, change } = group;
    let object = Object::Group(groups::Create { name, description, restricted, join_mode, join_hash: None });
    Found { object, id: uid.to_string(), etag: change.to_string(), ended: None }
}

/// Whether a group is changed after the policies: those that keep it from being restricted may be about to change, too.
pub(super) fn is_late(object: &Object, step: &Step) -> bool {
    matches!((object, step), (Object::Group(g), Step::Change(_)) if g.restricted)
}

/// Makes a group as it is wanted.
pub(super) async fn change(tx: &mut dyn Tx, env: &Env, found: &Found, is: &groups::Create, wanted: &groups::Create) -> Result<()> {
    let groups::Create { name, description, restricted, join_mode, join_hash: _ } = wanted.clone();
    let update = groups::Update {
        name,
        description: (description != is.description).then_some(description),
        restricted: (restricted != is.restricted).then_some(restricted),
        join_mode: (join_mode != is.join_mode).then_some(join_mode),
        join_hash: None,
        etag: found.etag.clone(),
    };
    groups::update(tx, env, &update).await.map(drop)
}

/// Deletes a group, but none whose policies or windows would go with it: those that are left were not put there by files.
pub(super) async fn delete(tx: &mut dyn Tx, env: &Env, name: &GroupName) -> Result<()> {
    let group = groups::load(tx, name).await?;
    if let Some(policy) = tx.list_policies(&Page { after: None, limit: 1 }, Some(&group.uid)).await?.first() {
        let message = format!(
            "policies/{} registers clients into groups/{name} and would go with it, and is not deleted by files; delete it first, or keep the group",
            policy.name
        );
        return Err(AppError::state(format!("groups/{name}"), "HAS_POLICIES", message));
    }
    if let Some(window) = tx.windows_of(std::slice::from_ref(&group.uid)).await?.first() {
        let message = format!(
            "windows/{} is of groups/{name} and would go with it, and is not deleted by files; delete it first, or keep the group",
            window.name
        );
        return Err(AppError::state(format!("groups/{name}"), "HAS_WINDOWS", message));
    }
    groups::delete(tx, env, name, false).await.map(drop)
}
