//! Policies of a configuration.

use super::{super::policies, Env, Found, Object, Result};
use sutler_base::limits;
use sutler_core::model::Policy;
use sutler_store::{Page, Tx};

/// All policies.
pub(super) async fn all(tx: &mut dyn Tx) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    let mut page = Page { after: None, limit: limits::PAGE_MAX };
    loop {
        let (rows, next) = policies::list(tx, &page, None).await?;
        all.extend(rows.into_iter().map(found));
        if next.is_none() {
            return Ok(all);
        }
        page.after = next;
    }
}

fn found((policy, group): policies::Named) -> Found {
    let Policy { uid, name, group: _, trigger, condition, applies_to, on_mismatch, description, created: _, change } = policy;
    let object = Object::Policy(policies::Create { name, group, trigger, condition, applies_to, on_mismatch, description });
    Found { object, id: uid.to_string(), etag: change.to_string(), ended: None }
}

/// Whether it is made anew in place of being changed: what it did in its group was done by another policy then, and stays.
pub(super) fn is_made_anew(is: &policies::Create, wanted: &policies::Create) -> bool {
    is.group != wanted.group || is.trigger != wanted.trigger
}

/// Makes a policy as it is wanted.
pub(super) async fn change(tx: &mut dyn Tx, env: &Env, found: &Found, is: &policies::Create, wanted: &policies::Create) -> Result<()> {
    if is_made_anew(is, wanted) {
        policies::delete(tx, env, &is.name).await?;
        return policies::create(tx, env, wanted).await.map(drop);
    }
    let policies::Create { name, group: _, trigger: _, condition, applies_to, on_mismatch, description } = wanted.clone();
    let update = policies::Update {
        name,
        condition: (condition != is.condition).then_some(condition),
        applies_to: (applies_to != is.applies_to).then_some(applies_to),
        on_mismatch: (on_mismatch != is.on_mismatch).then_some(on_mismatch),
        description: (description != is.description).then_some(description),
        etag: found.etag.clone(),
    };
    policies::update(tx, env, &update).await.map(drop)
}
