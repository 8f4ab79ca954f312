//! Windows of a configuration.

use super::{
    super::{Violations, windows},
    Env, Found, Object, Result,
};
use sutler_base::limits;
use sutler_core::window::{Hours, Window};
use sutler_store::{Page, Tx};

/// All windows.
pub(super) async fn all(tx: &mut dyn Tx) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    let mut page = Page { after: None, limit: limits::PAGE_MAX };
    loop {
        let (rows, next) = windows::list(tx, &page).await?;
        all.extend(rows.into_iter().map(found));
        if next.is_none() {
            return Ok(all);
        }
        page.after = next;
    }
}

fn found((window, group): windows::Named) -> Found {
    let Window { uid, name, group: _, hours, description, created: _, change } = window;
    let object = Object::Window(windows::Create { name, group, hours, description });
    Found { object, id: uid.to_string(), etag: change.to_string(), ended: None }
}

/// Makes a window as it is wanted.
pub(super) async fn change(tx: &mut dyn Tx, env: &Env, found: &Found, is: &windows::Create, wanted: &windows::Create) -> Result<()> {
    let windows::Create { name, group, hours: Hours { days, from, to, zone }, description } = wanted.clone();
    let mut v = Violations::default();
    if group != is.group {
        v.add(
            "group",
            format!("of windows/{name} can't be changed; give the window another name, and with prune the one that is there goes"),
        );
    }
    v.done()?;
    let update = windows::Update {
        name,
        days: Some(days),
        from: Some(from),
        to: Some(to),
        zone: Some(zone),
        description: Some(description),
        etag: found.etag.clone(),
    };
    windows::update(tx, env, &update).await.map(drop)
}
