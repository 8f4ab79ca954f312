//! The kill switch: stops and resumes everything, a group, a package.

use super::{Env, Result, call_back, groups};
use crate::app::{AppError, events, packages};
use sutler_base::{GroupName, PackageName, Version, state::EventKind};
use sutler_core::{
    brake::{STOPS_MAX, Stop, Stopped},
    event::Event,
    model::Target,
    rights::Reach,
};
use sutler_store::Tx;

/// What is to be stopped or to go on, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Everything.
    Everything,
    /// The members of a group.
    Group(GroupName),
    /// A package.
    Package(PackageName),
    /// A version of it.
    Version(PackageName, Version),
}

/// Something that is stopped, as it is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The stop.
    pub stop: Stop,
    /// Of a group: its name.
    pub group: Option<GroupName>,
}

/// What stops something.
#[derive(Debug, Clone)]
pub struct Order {
    /// What.
    pub asked: Asked,
    /// Why.
    pub reason: String,
}

/// What is meant, which has to be there and within the scope of whoever asks.
async fn resolve(tx: &mut dyn Tx, env: &Env, asked: &Asked) -> Result<Shown> {
    let (what, group) = match asked {
        Asked::Everything => (Stopped::Everything, None),
        Asked::Group(name) => {
            let uid = groups::load(tx, name).await?.uid;
            if !env.reach.covers(&[Target::Group(uid.clone())], &[]) {
                return Err(AppError::not_found("group", name));
            }
            (Stopped::Group(uid), Some(name.clone()))
        }
        Asked::Package(name) => (Stopped::Package(name.clone()), None),
        Asked::Version(name, version) => (Stopped::Version(name.clone(), version.clone()), None),
    };
    if group.is_none() && env.reach != Reach::Everywhere {
        let message =
            "everything, and packages, are stopped and resumed by a role without a scope; yours is for some groups, which you can stop";
        return Err(AppError::Denied(message.into()));
    }
    let stop = Stop { what, reason: String::new(), creator: env.actor.clone(), since: env.now };
    Ok(Shown { stop, group })
}

/// What is stopped, in words: as it is named in the audit log and events.
fn name(shown: &Shown) -> String {
    match (&shown.stop.what, &shown.group) {
        (Stopped::Everything, _) => "everything".into(),
        (Stopped::Group(_), Some(name)) => format!("groups/{name}"),
        (Stopped::Group(uid), None) => format!("groups/{uid}"),
        (Stopped::Package(name), _) => format!("packages/{name}"),
        (Stopped::Version(name, version), _) => format!("packages/{name}/versions/{version}"),
    }
}

/// How it is resumed.
fn remedy(shown: &Shown) -> String {
    match (&shown.stop.what, &shown.group) {
        (Stopped::Everything, _) => "sutler resume everything".into(),
        (Stopped::Group(uid), None) => format!("sutler resume --group {uid}"),
        (Stopped::Group(_), Some(name)) => format!("sutler resume --group {name}"),
        (Stopped::Package(name), _) => format!("sutler resume --package {name}"),
        (Stopped::Version(name, version), _) => format!("sutler resume --package {name}@{version}"),
    }
}

async fn show(tx: &mut dyn Tx, stop: &Stop) -> Result<Shown> {
    let group = match &stop.what {
        Stopped::Group(uid) => tx.groups_by_uid(std::slice::from_ref(uid)).await?.pop().map(|group| group.name),
        _ => None,
    };
    Ok(Shown { stop: stop.clone(), group })
}

/// What is stopped, by whom, why, and what lets it go on.
pub async fn sentence(tx: &mut dyn Tx, stop: &Stop) -> Result<String> {
    let shown = show(tx, stop).await?;
    Ok(format!("{} is stopped ({stop}); `{}` lets it go on", name(&shown), remedy(&shown)))
}

/// Stops something from this commit on: what was offered and has not begun is called back. Gives back how many rows that is.
pub async fn stop(tx: &mut dyn Tx, env: &Env, order: &Order) -> Result<(Shown, u64)> {
    let mut shown = resolve(tx, env, &order.asked).await?;
    match &order.asked {
        Asked::Package(package) => drop(packages::load(tx, package).await?),
        Asked::Version(package, version) => drop(packages::version(tx, package, Some(version)).await?),
        _ => {}
    }
    let there = tx.stops().await?;
    if let Some(earlier) = there.iter().find(|stop| stop.what == shown.stop.what) {
        shown.stop = earlier.clone();
        return Ok((shown, 0));
    }
    if there.len() >= STOPS_MAX {
        let message =
            format!("{} things are stopped already, and at most {STOPS_MAX} are; stop everything, or resume something", there.len());
        return Err(AppError::state("stops", "TOO_MANY_STOPS", message));
    }
    shown.stop.reason.clone_from(&order.reason);
    // First, so that what is offered at the same time is seen below or sees this.
    tx.insert_stop(&shown.stop).await?;
    let called_back = call_back(tx, env).await?;
    let name = name(&shown);
    env.audit(tx, "stop_work", &name, format!("{called_back} called back: {}", order.reason)).await?;
    let event = Event::new(EventKind::Stopped, &name, format!("{} stopped {name}: {}", env.actor, order.reason));
    events::emit(tx, env, event.with("by", &env.actor).with("reason", &order.reason).with("called_back", called_back)).await?;
    env.wakes().brakes = true;
    Ok((shown, called_back))
}

/// Lets something go on. Gives back whether it was stopped.
pub async fn resume(tx: &mut dyn Tx, env: &Env, asked: &Asked) -> Result<bool> {
    let shown = resolve(tx, env, asked).await?;
    if !tx.delete_stop(&shown.stop.what).await? {
        return Ok(false);
    }
    let name = name(&shown);
    env.audit(tx, "resume_work", &name, "").await?;
    let event = Event::new(EventKind::Resumed, &name, format!("{} lets {name} go on", env.actor));
    events::emit(tx, env, event.with("by", &env.actor)).await?;
    env.wakes().brakes = true;
    Ok(true)
}

/// What is stopped, as far as whoever asks reaches it: what is stopped for all is, for everybody.
pub async fn list(tx: &mut dyn Tx, env: &Env) -> Result<Vec<Shown>> {
    let mut all = Vec::new();
    for stop in tx.stops().await? {
        let reached = match &stop.what {
            Stopped::Group(uid) => env.reach.covers(&[Target::Group(uid.clone())], &[]),
            _ => true,
        };
        if reached {
            all.push(show(tx, &stop).await?);
        }
    }
    Ok(all)
}

/// A group that is stopped is not deleted: its members would start again without anybody having said so.
pub async fn refuse_if_stopped(tx: &mut dyn Tx, group: &sutler_core::model::Group) -> Result<()> {
    if tx.stops().await?.iter().any(|stop| stop.what == Stopped::Group(group.uid.clone())) {
        let message =
            format!("groups/{0} is stopped, and its members would start again; `sutler resume --group {0}` comes first", group.name);
        return Err(AppError::state(format!("groups/{}", group.name), "STOPPED", message));
    }
    Ok(())
}
