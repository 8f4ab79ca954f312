//! How a package stands to others that are on this machine: what will do in its place, what needs it, and what goes when it comes.
//!
//! All of it is asked of the agent's own record, which has what each installed package depends on and whose place it takes as its
//! publisher signed it. The manager arranges what a package needs in the right order; whether it is there is required here.
//!
//! A package whose place another takes is uninstalled, where that is wanted, in the course of that one's installation: after all
//! that is asked before an installation, since a machine that may not have the new one keeps the old one, and before the first step
//! of the new one, which may undo what the new one brings. Its steps are steps of that attempt, journaled like the others.

use super::{Installed, Shared, prepare};
use crate::{
    installer::{Item, Trouble, failure},
    machine::Displaced,
};
use sutler_base::{
    Digest, PackageName, limits,
    manifest::{
        Dependency, Phase,
        relations::{self, Values},
    },
    outcome::Failure,
    state::ErrorKind,
};

/// What is on this machine and will do where this package is ordered: something that takes its place; or, where it is ordered only
/// for those that depend on it, whatever they are content with.
pub(super) async fn does_instead(shared: &Shared, item: &Item, needed: &[Dependency]) -> Result<Option<Installed>, Trouble> {
    let all = shared.installed.all();
    let wanted = item.manifest.present();
    for there in all.iter().filter(|there| there.present().displaces(&wanted).is_some()) {
        if is_still_there(shared, item, there).await? {
            return Ok(Some(there.clone()));
        }
    }
    let mut enough: Option<&Installed> = None;
    for dependency in needed {
        let mut met = None;
        for there in all.iter().filter(|there| there.present().meets(dependency)) {
            if is_still_there(shared, item, there).await? {
                met = Some(there);
                break;
            }
        }
        let Some(there) = met else { return Ok(None) };
        // The result names the package itself, if that is among what is there.
        enough = enough.filter(|so_far| so_far.package == wanted.package).or(Some(there));
    }
    Ok(enough.cloned())
}

/// Whether the machine still has what the record says; it may know better.
async fn is_still_there(shared: &Shared, item: &Item, there: &Installed) -> Result<bool, Trouble> {
    let Some(manifest) = shared.content.manifest(&there.manifest).map_err(|e| Shared::vault_trouble(&e))? else { return Ok(true) };
    let item = Item { manifest, digest: there.manifest, values: Values::new(), ..item.clone() };
    Ok(prepare::already_there(shared, &item).await?.0)
}

/// Refuses to uninstall what another installed package depends on, unless something else will do for that one.
pub(super) fn check_unneeded(shared: &Shared, package: &PackageName) -> Result<(), Failure> {
    let all = shared.installed.all();
    let (leaving, staying): (Vec<_>, Vec<_>) = all.iter().partition(|there| there.package == *package);
    let met_by = |some: &[&Installed], dependency: &Dependency| some.iter().any(|there| there.present().meets(dependency));
    for other in &staying {
        if let Some(lost) = other.depends_on.iter().find(|d| met_by(&leaving, d) && !met_by(&staying, d)) {
            let message = format!("{} {}, which is installed here, depends on {lost}; uninstall that first", other.package, other.version);
            return Err(failure(ErrorKind::RequirementNotMet, message));
        }
    }
    Ok(())
}

/// A package that is there, and goes before another that takes its place is installed.
pub(super) struct Leaves {
    /// It, under a number that no package of the attempt has.
    pub(super) item: Item,
}

impl Leaves {
    /// The same for the journal; its steps begin at this number.
    pub(super) fn displaced(&self, first_step: usize) -> Displaced {
        let manifest = &self.item.manifest;
        Displaced {
            package: manifest.name.clone(),
            version: manifest.version.clone(),
            manifest: self.item.digest,
            first_step,
            directory: manifest.directory.is_some(),
            detection: !manifest.detection.is_empty(),
        }
    }
}

/// What goes before this package is installed; a failure if that is not allowed, or can't be done.
pub(super) async fn leaves(shared: &Shared, item: &Item) -> Result<Vec<Leaves>, Trouble> {
    let (all, new) = (shared.installed.all(), item.manifest.present());
    let mut leaves = Vec::new();
    for there in &all {
        let Some(how) = new.displaces(&there.present()) else { continue };
        let old = shared.content.manifest(&there.manifest).ok().flatten();
        if how.uninstall || item.manifest.agent.is_none() {
            // Whatever takes the place of the agent is tried first, and so is one.
            old.as_deref().map_or(Ok(()), prepare::check_is_no_agent).map_err(Trouble::Failed)?;
        }
        if !how.uninstall {
            continue;
        }
        prepare::check_uninstall(shared, &there.package).map_err(Trouble::Failed)?;
        let item = displaced_item(shared, item, leaves.len(), &there.manifest)?;
        let manifest = &item.manifest;
        let has_steps = manifest.steps.iter().any(|step| step.phase == Phase::Uninstall);
        if has_steps && manifest.directory.is_some() && shared.installer.installed(&item).await?.is_none() {
            let message = format!(
                "it takes the place of {} {}, whose files are not where they were put: the steps that uninstall it can't be run; uninstall \
                 it with a job of its own, which brings them, or install it again",
                there.package, there.version
            );
            return Err(Trouble::Failed(failure(ErrorKind::ClientIo, message)));
        }
        leaves.push(Leaves { item });
    }
    Ok(leaves)
}

/// What is displaced by `item`, as the package with this number of those; its manifest was verified when it was installed.
pub(super) fn displaced_item(shared: &Shared, item: &Item, number: usize, digest: &Digest) -> Result<Item, Trouble> {
    let kept = shared.content.manifest(digest).map_err(|e| Trouble::Failed(prepare::not_kept(digest, Some(e))))?;
    let manifest = kept.ok_or_else(|| Trouble::Failed(prepare::not_kept(digest, None)))?;
    let values = relations::fill(&manifest.parameters, &Values::new()).map_err(|e| {
        let message =
            format!("it takes the place of {} {}, and to uninstall that {e}; do it with a job of its own", manifest.name, manifest.version);
        Trouble::Failed(failure(ErrorKind::ParameterInvalid, message))
    })?;
    let index = limits::JOB_PACKAGES_MAX * (number + 1) + item.index;
    Ok(Item { attempt: item.attempt.clone(), index, manifest, digest: *digest, values })
}
