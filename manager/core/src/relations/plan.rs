//! What will come of a job on one machine, as far as it can be said of what is known of it.

use super::{Entry, KnownMachine, Need};
use sutler_base::{
    PackageName, Version,
    manifest::{
        Present, Requirement,
        requirement::{Manager, Verdict, ask},
    },
};

/// What is done with a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is not there, and is installed.
    Install,
    /// An older version is there.
    Upgrade,
    /// A newer version is there.
    Downgrade,
    /// It is left alone: it, or what will do instead, is there.
    Keep,
    /// It goes, since another package takes its place.
    Uninstall,
    /// Another package is installed over it and takes its place.
    Supersede,
    /// The machine refuses it: what it requires does not hold.
    Reject,
    /// One before it is refused, which ends the attempt.
    Skip,
}

/// A line of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The package.
    pub package: PackageName,
    /// The version that is there in the end; of what goes, the one that is there now.
    pub version: Version,
    /// What is done with it.
    pub action: Action,
    /// The version that is there now, where another one comes.
    pub from: Option<Version>,
    /// Of what is left alone or goes: the package that was ordered and for which that is so, if it is another one.
    pub ordered: Option<PackageName>,
    /// For whom it is there; none if it was asked for.
    pub needed: Vec<Need>,
    /// Bytes that are fetched at the most.
    pub bytes: u64,
    /// Why it is refused, or what nobody knows until the machine is asked.
    pub note: String,
}

/// What installing these in their order comes to on a machine of which `machine` is known. Each line is about the machine as those
/// before it leave it.
pub fn plan(entries: &[Entry], mut machine: KnownMachine) -> Vec<Planned> {
    let mut lines = Vec::new();
    let mut refused = false;
    for Entry { version, needed } in entries {
        let wanted = version.present();
        let line = |action, there: &Present| Planned {
            package: there.package.clone(),
            version: there.version.clone(),
            action,
            from: None,
            ordered: Some(version.name.clone()).filter(|name| *name != there.package),
            needed: needed.clone(),
            bytes: 0,
            note: String::new(),
        };
        if refused {
            lines.push(line(Action::Skip, &wanted));
            continue;
        }
        if let Some(there) = does_instead(&machine.own, &wanted, needed) {
            lines.push(line(Action::Keep, there));
            continue;
        }
        let verdict = conditions(version, &machine);
        if let Verdict::NotMet { wanted: rule, found } = verdict {
            refused = true;
            lines.push(Planned { note: format!("it requires {rule}; found: {found}"), ..line(Action::Reject, &wanted) });
            continue;
        }
        let (displaced, staying): (Vec<Present>, Vec<Present>) =
            std::mem::take(&mut machine.own).into_iter().partition(|there| wanted.displaces(there).is_some());
        for there in &displaced {
            let uninstalls = wanted.displaces(there).is_some_and(|how| how.uninstall);
            lines.push(line(if uninstalls { Action::Uninstall } else { Action::Supersede }, there));
        }
        let from = staying.iter().find(|there| there.package == wanted.package).map(|there| there.version.clone());
        let action = match &from {
            None => Action::Install,
            Some(from) if wanted.ordering.compare(from.as_str(), wanted.version.as_str()).is_gt() => Action::Downgrade,
            Some(_) => Action::Upgrade,
        };
        let note = if let Verdict::Unknown(why) = verdict { format!("unknown until the machine is asked: {why}") } else { String::new() };
        lines.push(Planned { from, bytes: version.total_bytes, note, ..line(action, &wanted) });
        machine.own = staying;
        machine.own.retain(|there| there.package != wanted.package);
        machine.own.push(wanted);
    }
    lines
}

/// What is there and will do: it itself, something that takes its place, or whatever those are content with that need it.
fn does_instead<'a>(there: &'a [Present], wanted: &Present, needed: &[Need]) -> Option<&'a Present> {
    if let Some(instead) = there.iter().find(|one| one.displaces(wanted).is_some()) {
        return Some(instead);
    }
    if let Some(same) = there.iter().find(|one| one.package == wanted.package && one.version == wanted.version) {
        return Some(same);
    }
    let enough: Option<Vec<_>> = needed.iter().map(|need| there.iter().find(|one| one.meets(&need.on))).collect();
    let enough = enough?;
    enough.iter().find(|one| one.package == wanted.package).or(enough.first()).copied()
}

/// Whether what a version is made for and requires holds. Of several rules the first that does not counts, else the first that
/// nobody can tell of.
fn conditions(version: &crate::model::PackageVersion, machine: &KnownMachine) -> Verdict {
    let terms = &version.terms;
    if let Some((os, arch)) = machine.platform()
        && !terms.platform.fits(&os, &arch)
    {
        return Verdict::NotMet { wanted: format!("{}/{}", terms.platform.os, terms.platform.arch), found: format!("{os}/{arch}") };
    }
    let dependencies = terms.depends_on.iter().map(|d| Requirement::Software {
        manager: Manager::Sutler,
        name: d.package.to_string(),
        versions: d.versions.clone(),
        absent: false,
    });
    let verdicts = terms.requirements.iter().cloned().chain(dependencies).map(|rule| ask(&[rule], machine));
    let (mut unknown, mut verdict) = (None, None);
    for one in verdicts {
        match one {
            Verdict::Met => {}
            Verdict::NotMet { .. } if verdict.is_none() => verdict = Some(one),
            Verdict::Unknown(_) if unknown.is_none() => unknown = Some(one),
            _ => {}
        }
    }
    verdict.or(unknown).unwrap_or(Verdict::Met)
}
