//! How packages stand to each other, as the catalogue is now: loads what hangs together, and lets `core` decide.
//!
//! Versions may be pushed in any order: one whose dependencies are not there yet is taken, and a job that needs them is refused. What
//! a cycle would make of a job is refused with the push, after the version was written and before it is committed: two that close a
//! ring come one after the other, and the second sees the first, also on another manager.

use super::{AppError, Env, Result, clients, inventory::SUTLER, jobs, packages, trust};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    ClientId, PackageName, Timestamp, Version,
    facts::{Facts, Package},
    limits,
    manifest::{
        Present,
        relations::{Values, fill},
    },
    state::{ClientState, Intent},
};
use sutler_core::{
    model::{JobPackage, PackageVersion},
    relations::{self, Catalogue, Entry, KnownMachine, Planned, RELATED_MAX, Unresolved, VERSIONS_MAX},
};
use sutler_store::{Page, Related, Tx};

/// The word for why a job can't have what it needs.
pub const DEPENDENCIES: &str = "DEPENDENCIES";

/// Which versions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those that a client can be given now.
    Deliverable,
    /// All that are not deleted.
    Existing,
}

/// What can be reached from these packages through dependencies, with what takes the place of any of it.
async fn catalogue(
    tx: &mut dyn Tx,
    env: &Env,
    roots: BTreeSet<PackageName>,
    which: Which,
) -> Result<std::result::Result<Catalogue, Unresolved>> {
    let word = trust::word(tx).await?;
    let (mut catalogue, mut looked) = (Catalogue::default(), BTreeSet::new());
    loop {
        let names: Vec<PackageName> = roots.iter().cloned().chain(catalogue.depended_on()).filter(|n| !looked.contains(n)).collect();
        if names.is_empty() {
            return Ok(Ok(catalogue));
        }
        let instead = tx.packages_related(Related::Supersedes, &names, RELATED_MAX as u32 + 1).await?;
        for name in names.iter().chain(&instead) {
            if catalogue.knows(name) {
                continue;
            }
            if catalogue.len() == RELATED_MAX {
                return Ok(Err(Unresolved::TooRelated { package: name.clone() }));
            }
            let mut versions = tx.versions_of(name, VERSIONS_MAX).await?;
            versions.retain(|v| which == Which::Existing || trust::deliverable(v, &word, env.now).is_ok());
            catalogue.add(name.clone(), versions);
        }
        looked.extend(names);
    }
}

fn refused(subject: impl ToString, why: Unresolved) -> AppError {
    AppError::state(subject, DEPENDENCIES, why.to_string())
}

/// What an order of these versions installs, and why.
async fn resolve(tx: &mut dyn Tx, env: &Env, subject: &str, asked: &[PackageVersion]) -> Result<Vec<Entry>> {
    let roots = asked.iter().flat_map(|v| &v.terms.depends_on).map(|d| d.package.clone()).collect();
    let catalogue = catalogue(tx, env, roots, Which::Deliverable).await?.map_err(|why| refused(subject, why))?;
    relations::resolve(&catalogue, asked).map_err(|why| refused(subject, why))
}

/// The packages of a job: those that are asked for, with their versions, and what they depend on, each before what depends on it.
pub async fn expand(tx: &mut dyn Tx, env: &Env, job: &str, asked: Vec<JobPackage>) -> Result<Vec<JobPackage>> {
    let mut entries = BTreeMap::new();
    // What is only fetched has what it depends on fetched, too.
    for intent in [Intent::Install, Intent::Prefetch] {
        let uids: Vec<_> = asked.iter().filter(|p| p.intent == intent).filter_map(|p| p.version.clone()).collect();
        let found = tx.versions_by_uid(&uids).await?;
        let versions: Vec<_> = uids.iter().filter_map(|uid| found.iter().find(|v| v.uid == *uid).cloned()).collect();
        entries.insert(intent, resolve(tx, env, job, &versions).await?.into_iter());
    }
    let mut all: Vec<JobPackage> = Vec::new();
    for package in &asked {
        let is_it = |p: &JobPackage| p.version.is_some() && p.version == package.version && p.intent == package.intent;
        while let Some(entry) = entries.get_mut(&package.intent).filter(|_| !all.iter().any(is_it)).and_then(Iterator::next) {
            let ordered = asked.iter().find(|p| p.intent == package.intent && p.version.as_ref() == Some(&entry.version.uid));
            match ordered {
                Some(ordered) => all.push(ordered.clone()),
                // What the job installs need not be fetched besides.
                None if package.intent == Intent::Prefetch && asked.iter().chain(&all).any(|p| p.package == entry.version.name) => {}
                None => all.push(needed(entry, package.intent)?),
            }
        }
        if !all.iter().any(is_it) {
            all.push(package.clone());
        }
    }
    if all.len() > limits::JOB_PACKAGES_MAX {
        let message = format!(
            "with all that they depend on the job would have {} packages, and at most {} are possible; run several jobs",
            all.len(),
            limits::JOB_PACKAGES_MAX
        );
        return Err(AppError::state(job, DEPENDENCIES, message));
    }
    Ok(all)
}

/// A package of a job that others of it need.
fn needed(entry: Entry, intent: Intent) -> Result<JobPackage> {
    let Entry { version, needed } = entry;
    if intent == Intent::Install
        && let Err(why) = fill(&version.terms.parameters, &Values::new())
    {
        let by: Vec<_> = needed.iter().map(|need| need.by.to_string()).collect();
        let message = format!(
            "{}@{} is needed by {}, and {why}; order it in the same job, with its values (--set {}:NAME=VALUE)",
            version.name,
            version.version,
            by.join(", "),
            version.name
        );
        return Err(AppError::state(packages::name_of(&version), DEPENDENCIES, message));
    }
    Ok(JobPackage {
        package: version.name,
        version: Some(version.uid),
        version_text: version.version.to_string(),
        follow: false,
        replace_always: false,
        intent,
        values: Values::new(),
        needed,
    })
}

/// Whether all that others of a job need can be delivered, and nothing of it has to be chosen anew.
pub async fn stands(tx: &mut dyn Tx, env: &Env, wanted: &[JobPackage]) -> Result<bool> {
    let uids: Vec<_> = wanted.iter().filter(|p| !p.needed.is_empty()).filter_map(|p| p.version.clone()).collect();
    let word = trust::word(tx).await?;
    let found = tx.versions_by_uid(&uids).await?;
    Ok(found.len() == uids.len() && found.iter().all(|v| trust::deliverable(v, &word, env.now).is_ok()))
}

/// This package, and those that depend on it, or on what it takes the place of, directly and through others; as many as are looked at.
pub async fn reaching(tx: &mut dyn Tx, package: &PackageName) -> Result<BTreeSet<PackageName>> {
    let mut next = vec![package.clone()];
    if let Some(newest) = tx.newest_version(package).await? {
        next.extend(newest.terms.supersedes.into_iter().map(|other| other.package));
    }
    let mut all = BTreeSet::from([package.clone()]);
    while !next.is_empty() && all.len() < RELATED_MAX {
        let found = tx.packages_related(Related::DependsOn, &next, RELATED_MAX as u32).await?;
        next = found.into_iter().filter(|name| all.insert(name.clone())).collect();
    }
    Ok(all)
}

/// Refuses a version that could depend on itself through others. It has been written already.
pub async fn refuse_cycle(tx: &mut dyn Tx, env: &Env, version: &PackageVersion) -> Result<()> {
    if version.terms.depends_on.is_empty() {
        return Ok(());
    }
    let superseded = version.terms.supersedes.iter().map(|other| other.package.clone());
    let roots = superseded.chain([version.name.clone()]).collect();
    let subject = packages::name_of(version);
    let catalogue = catalogue(tx, env, roots, Which::Existing).await?.map_err(|why| refused(&subject, why))?;
    relations::cycle(&catalogue, version).map_err(|why| refused(&subject, why))
}

/// Refuses to delete versions without which one that stays could not be installed any more: nothing else would do for what it
/// depends on.
pub async fn refuse_needed(tx: &mut dyn Tx, subject: &str, gone: &[PackageVersion]) -> Result<()> {
    let mut names: BTreeSet<PackageName> = gone.iter().map(|v| v.name.clone()).collect();
    names.extend(gone.iter().flat_map(|v| &v.terms.supersedes).map(|other| other.package.clone()));
    let names: Vec<_> = names.into_iter().collect();
    let going: Vec<Present> = gone.iter().map(PackageVersion::present).collect();
    let mut page = Page { after: None, limit: 500 };
    loop {
        let dependents = tx.versions_related(Related::DependsOn, &names, &page).await?;
        let full = dependents.len() as u32 == page.limit;
        page.after = dependents.last().map(|v| v.uid.to_string());
        for dependent in dependents.iter().filter(|d| gone.iter().all(|g| g.uid != d.uid)) {
            for dependency in dependent.terms.depends_on.iter().filter(|d| going.iter().any(|g| g.meets(d))) {
                let left = direct(tx, &dependency.package).await?.without(gone);
                if left.candidates(&dependent.terms.platform, dependency).next().is_none() {
                    let message = format!(
                        "{subject} can't be deleted: {} depends on {dependency}, and nothing else is there that will do; delete that first",
                        packages::name_of(dependent)
                    );
                    return Err(AppError::state(subject, "IN_USE", message));
                }
            }
        }
        if !full {
            return Ok(());
        }
    }
}

/// All versions of a package, and of those that take its place.
async fn direct(tx: &mut dyn Tx, name: &PackageName) -> Result<Catalogue> {
    let instead = tx.packages_related(Related::Supersedes, std::slice::from_ref(name), RELATED_MAX as u32).await?;
    let mut catalogue = Catalogue::default();
    for name in std::iter::once(name.clone()).chain(instead) {
        let versions = tx.versions_of(&name, VERSIONS_MAX).await?;
        catalogue.add(name, versions);
    }
    Ok(catalogue)
}

/// What is to be planned.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The package.
    pub package: PackageName,
    /// Which version; the newest unless one is named.
    pub version: Option<Version>,
    /// Where.
    pub client: ClientId,
}

/// What would be done on a client that a job installs this package on, as far as its last report tells; and when that came.
pub async fn plan(tx: &mut dyn Tx, env: &Env, input: &Plan) -> Result<(Vec<Planned>, Option<Timestamp>)> {
    let client = clients::load(tx, &input.client).await?;
    if client.state == ClientState::Removed {
        return Err(AppError::not_found("client", &input.client));
    }
    let version = packages::version(tx, &input.package, input.version.as_ref()).await?;
    jobs::refuse_withdrawn(Intent::Install, &version)?;
    let entries = resolve(tx, env, &packages::name_of(&version), &[version]).await?;
    let all = tx.software_of(std::slice::from_ref(&client.id)).await?.into_iter().map(|(_, package)| package);
    let (own, packages): (Vec<Package>, Vec<Package>) = all.partition(|package| package.manager == SUTLER);
    let mut machine =
        KnownMachine { facts: Facts::parse(&client.facts).ok().filter(|_| client.facts_time.is_some()), packages, own: vec![] };
    for there in own {
        let (Ok(package), Ok(version)) = (there.name.parse::<PackageName>(), there.version.parse::<Version>()) else { continue };
        let known = tx.version(&package, &version).await?.map(|v| v.present());
        // Of one that is not in the catalogue any more nobody here knows whose place it takes.
        machine.own.push(known.unwrap_or(Present { package, version, ordering: Default::default(), supersedes: vec![] }));
    }
    Ok((relations::plan(&entries, machine), client.facts_time))
}
