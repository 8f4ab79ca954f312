//! From a signed envelope to a staged package, or to the reason why not: every rule is asked before a byte of it is fetched.

mod delta;

use super::{
    Installed, Shared,
    content::Content,
    relations::{self as others, Leaves},
};
use crate::{
    fetch::{self, FetchError, Wanted},
    install::{ChunkLists, Detected},
    installer::{Item, OldPackage, Tree, Trouble, failure},
    link::Connection,
    machine::{Event, OfferedItem, Plan, PlannedStep, Prepared, Replace},
    policy::LocalPolicy,
    vault::VaultError,
};
use delta::Finder;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use sutler_base::{
    AttemptId, Digest, PackageName, Version,
    chunks::ChunkList,
    limits,
    manifest::{
        Manifest, Phase, Requirement, Step,
        relations::{self, Values},
        requirement::Verdict,
    },
    outcome::{Failure, ItemResult, Was},
    state::{ErrorKind, ExecutionState, Intent},
};
use sutler_certs::{
    Envelope, KeyId,
    envelope::{ManifestRefused, verify_manifest},
    revocations::TakenBack,
};

/// When a package is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// It is next, and is installed if all that is asked before allows it.
    Now,
    /// Others of its job come before it, without contact perhaps. What they change is not known yet: whether it may be installed,
    /// and whether it is there already, is asked when it is next.
    Ahead,
}

/// Why a package is not staged.
enum Stop {
    /// It is not to be, or it can't be.
    End(ExecutionState, Option<Failure>),
    /// Not now.
    Later(String),
    /// Not before its transfers are resumed.
    Suspended(String),
    /// The process must end.
    Fatal(String),
}

impl From<FetchError> for Stop {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Later(why) => Stop::Later(why),
            FetchError::Suspended(why) => Stop::Suspended(why),
            FetchError::Never(failure) => failed(failure),
            FetchError::Fatal(why) => Stop::Fatal(why),
        }
    }
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Failed(failure) => failed(failure),
            Trouble::Fatal(why) => Stop::Fatal(why),
        }
    }
}

fn failed(failure: Failure) -> Stop {
    let state = if failure.kind.is_rejection() { ExecutionState::Rejected } else { ExecutionState::Failed };
    Stop::End(state, Some(failure))
}

fn stop(kind: ErrorKind, message: impl Into<String>) -> Stop {
    failed(failure(kind, message))
}

/// What is known of the package so far: for the result, should it end here.
struct Known {
    package: PackageName,
    version: Version,
    manifest: Digest,
    total_bytes: u64,
    fetched_bytes: u64,
}

/// Prepares a package. An error means that the process must end.
pub(super) async fn prepare(
    shared: &Shared,
    attempt: &AttemptId,
    index: usize,
    offered: &OfferedItem,
    when: When,
) -> Result<Prepared, String> {
    let since = shared.clock.now();
    // Before the manifest can be trusted, the package has no name.
    let mut known = Known {
        package: "unknown".parse().map_err(|e: sutler_base::Invalid| e.0)?,
        version: "0".parse().map_err(|e: sutler_base::Invalid| e.0)?,
        manifest: Digest::of(&offered.envelope),
        total_bytes: 0,
        fetched_bytes: 0,
    };
    let result = stage(shared, attempt, index, offered, &mut known, when).await;
    let took = shared.clock.now().boot.saturating_sub(since.boot).as_millis() as u64;
    match result {
        Ok(mut plan) => {
            plan.prepared_ms = took;
            plan.fetched_bytes = known.fetched_bytes;
            Ok(Prepared::Ready(plan))
        }
        Err(Stop::End(state, failure)) => Ok(Prepared::Ended(ItemResult {
            package: known.package,
            version: known.version,
            manifest: known.manifest,
            state,
            failure,
            reboot: false,
            fetched_bytes: known.fetched_bytes,
            total_bytes: known.total_bytes,
            duration_ms: took,
            before: None,
        })),
        Err(Stop::Later(why)) => {
            tracing::info!(%attempt, "transfer put off: {why}");
            Ok(Prepared::Later(why))
        }
        Err(Stop::Suspended(why)) => {
            tracing::info!(%attempt, "transfer put off: {why}");
            Ok(Prepared::Suspended)
        }
        Err(Stop::Fatal(why)) => Err(why),
    }
}

async fn stage(
    shared: &Shared,
    attempt: &AttemptId,
    index: usize,
    offered: &OfferedItem,
    known: &mut Known,
    when: When,
) -> Result<Plan, Stop> {
    let envelope = Envelope::from_json(&offered.envelope).map_err(|e| stop(ErrorKind::SignatureInvalid, e.to_string()))?;
    known.manifest = envelope.digest;
    let may = !offered.succeeded && matches!(offered.intent, Intent::Install | Intent::Prefetch);
    let mut delta = may.then(|| Finder::new(attempt, index, envelope.digest));
    let (manifest, signed) = verified_manifest(shared, attempt, &envelope, delta.as_mut(), known).await?;
    (known.package, known.version) = (manifest.name.clone(), manifest.version.clone());
    known.total_bytes = manifest.total_bytes();
    if offered.succeeded {
        return Err(Stop::End(ExecutionState::Succeeded, None));
    }
    let values = match offered.intent {
        // Nothing is run with them.
        Intent::Prefetch => Values::new(),
        _ => relations::fill(&manifest.parameters, &offered.values).map_err(|e| stop(ErrorKind::ParameterInvalid, e.0))?,
    };
    let item = Item { attempt: attempt.clone(), index, manifest, digest: envelope.digest, values };
    if when == When::Ahead {
        if offered.intent != Intent::Uninstall {
            check_rules(shared, &policy(shared)?, &envelope, &item.manifest, &signed).map_err(failed)?;
        }
        let fetched = fetch_ahead(shared, &item, offered, delta.as_mut(), known).await;
        return Err(fetched.err().unwrap_or(Stop::End(ExecutionState::Succeeded, None)));
    }
    match offered.intent {
        Intent::Install | Intent::Prefetch => {
            if offered.replace == Replace::IfMissing
                && let Some(there) = others::does_instead(shared, &item, &offered.needed).await?
            {
                (known.package, known.version, known.manifest) = (there.package, there.version, there.manifest);
                shared.found.add(item.digest).map_err(|e| Shared::vault_trouble(&e))?;
                return Err(Stop::End(ExecutionState::AlreadyInstalled, None));
            }
            check_rules(shared, &policy(shared)?, &envelope, &item.manifest, &signed).map_err(failed)?;
            let detected_before = match already_there(shared, &item).await? {
                (true, _) if offered.replace == Replace::IfMissing => {
                    shared.found.add(item.digest).map_err(|e| Shared::vault_trouble(&e))?;
                    return Err(Stop::End(ExecutionState::AlreadyInstalled, None));
                }
                (_, detected) => detected,
            };
            if offered.intent == Intent::Prefetch {
                // What it depends on has to be there when it is installed.
                let alone = Arc::new(Manifest { depends_on: Vec::new(), ..Manifest::clone(&item.manifest) });
                check_requirements(shared, &Item { manifest: alone, ..item.clone() }, &offered.requirements).await?;
                prefetch(shared, &item, delta.as_mut(), known).await?;
                return Err(Stop::End(ExecutionState::Succeeded, None));
            }
            check_requirements(shared, &item, &offered.requirements).await?;
            let leaves = others::leaves(shared, &item).await?;
            for old in &leaves {
                fill_without_a_tree(shared, &old.item, known).await?;
            }
            let lists = chunk_lists(shared, attempt, &item.manifest, delta.as_mut(), known).await?;
            fill(shared, &item, &lists, delta.as_mut(), known).await?;
            let before = Some(was_there(shared, &item));
            Ok(Plan { before, ..plan(&item, Intent::Install, detected_before, &leaves, known) })
        }
        Intent::Uninstall => uninstall(shared, item, known).await,
    }
}

/// Fetches what an installation will need, and keeps it beside its place.
async fn prefetch(shared: &Shared, item: &Item, mut delta: Option<&mut Finder>, known: &mut Known) -> Result<(), Stop> {
    let lists = chunk_lists(shared, &item.attempt, &item.manifest, delta.as_deref_mut(), known).await?;
    fill(shared, item, &lists, delta, known).await?;
    // Remembered first: what is kept and not remembered would stay for ever.
    let gone = shared.prefetched.add(item, shared.clock.now().wall).map_err(|e| Shared::vault_trouble(&e))?;
    shared.drop_kept(gone).await;
    Ok(shared.installer.keep(item).await?)
}

/// Fetches what a package will need in its place among those of its attempt. That is all: what it says is about nothing but bytes.
async fn fetch_ahead(
    shared: &Shared,
    item: &Item,
    offered: &OfferedItem,
    mut delta: Option<&mut Finder>,
    known: &mut Known,
) -> Result<(), Stop> {
    if offered.intent == Intent::Uninstall {
        return fill_without_a_tree(shared, item, known).await;
    }
    if offered.replace == Replace::IfMissing && already_there(shared, item).await?.0 {
        return Ok(());
    }
    // What can't go now may be able to by then; that is asked again.
    let leaves = match others::leaves(shared, item).await {
        Err(Trouble::Failed(_)) => Vec::new(),
        leaves => leaves?,
    };
    for old in &leaves {
        fill_without_a_tree(shared, &old.item, known).await?;
    }
    let lists = chunk_lists(shared, &item.attempt, &item.manifest, delta.as_deref_mut(), known).await?;
    fill(shared, item, &lists, delta, known).await
}

/// What is recorded as installed of this package, and of those whose place it takes.
fn was_there(shared: &Shared, item: &Item) -> Vec<Was> {
    let present = item.manifest.present();
    let all = shared.installed.all().into_iter();
    let gone = all.filter(|there| there.package == item.manifest.name || present.displaces(&there.present()).is_some());
    let gone = gone.map(|there| Was { package: there.package, version: there.version, manifest: there.manifest });
    gone.take(limits::RELATIONS_MAX + 1).collect()
}

/// What has to be done to uninstall a package: by the steps of the version that is there, where that is known.
async fn uninstall(shared: &Shared, offered: Item, known: &mut Known) -> Result<Plan, Stop> {
    check_uninstall(shared, &offered.manifest.name).map_err(failed)?;
    others::check_unneeded(shared, &offered.manifest.name).map_err(failed)?;
    let recorded = shared.installed.of(&offered.manifest.name);
    let detected = shared.installer.detect(&offered).await? == Detected::Yes;
    if recorded.is_none() && !detected {
        return Err(Stop::End(ExecutionState::AlreadyAbsent, None));
    }
    let there = match &recorded {
        Some(there) if there.manifest != offered.digest => shared.content.manifest(&there.manifest).ok().flatten(),
        _ => None,
    };
    // Its files can't be had for this attempt: they are where it put them, or it needs none.
    let there = match there {
        Some(manifest) if !manifest.files.is_empty() && shared.installer.installed(&offered).await?.is_none() => {
            tracing::info!(version = %manifest.version, "nothing of it is left to uninstall it with: it goes by the version that is named");
            None
        }
        there => there,
    };
    let item = match (there, recorded) {
        (Some(manifest), Some(there)) => {
            (known.version, known.manifest, known.total_bytes) = (manifest.version.clone(), there.manifest, manifest.total_bytes());
            // What the job says is about the version that it names; this one may have other parameters.
            let own = offered.values.into_iter().filter(|(name, _)| manifest.parameters.contains_key(name)).collect();
            let values = relations::fill(&manifest.parameters, &own).map_err(|e| stop(ErrorKind::ParameterInvalid, e.0))?;
            Item { manifest, digest: there.manifest, values, ..offered }
        }
        _ => {
            check_taken_back(shared, &offered.manifest, &offered.digest).map_err(failed)?;
            offered
        }
    };
    check_is_no_agent(&item.manifest).map_err(failed)?;
    fill_without_a_tree(shared, &item, known).await?;
    Ok(plan(&item, Intent::Uninstall, detected, &[], known))
}

/// Nobody could report that the agent is gone, nor bring it back.
pub(super) fn check_is_no_agent(manifest: &Manifest) -> Result<(), Failure> {
    if manifest.agent.is_none() {
        return Ok(());
    }
    let message = "it requires an agent that uninstalls it; found: that agent is what it installed. Take the machine off with \
                   `sutler-agent unenroll`, then stop the service and remove it by hand";
    Err(failure(ErrorKind::RequirementNotMet, message))
}

/// What the steps need that uninstall a package which has no tree on this machine.
async fn fill_without_a_tree(shared: &Shared, item: &Item, known: &mut Known) -> Result<(), Stop> {
    if shared.installer.installed(item).await?.is_none() && item.manifest.steps.iter().any(|s| s.phase == Phase::Uninstall) {
        let lists = chunk_lists(shared, &item.attempt, &item.manifest, None, known).await?;
        fill(shared, item, &lists, None, known).await?;
    }
    Ok(())
}

fn plan(item: &Item, intent: Intent, detected_before: bool, leaves: &[Leaves], known: &Known) -> Plan {
    let manifest = &item.manifest;
    let mut steps: Vec<PlannedStep> = manifest.steps.iter().map(planned).collect();
    let mut displaced = Vec::new();
    for old in leaves {
        displaced.push(old.displaced(steps.len()));
        steps.extend(old.item.manifest.steps.iter().map(planned));
    }
    Plan {
        intent,
        package: manifest.name.clone(),
        version: manifest.version.clone(),
        manifest: item.digest,
        release: manifest.release,
        steps,
        displaced,
        supersedes: manifest.supersedes.iter().map(|other| other.package.clone()).collect(),
        before: None,
        directory: manifest.directory.is_some(),
        agent: intent == Intent::Install && manifest.agent.is_some(),
        logs: !manifest.logs.is_empty(),
        detection: !manifest.detection.is_empty(),
        detected_before,
        total_bytes: known.total_bytes,
        fetched_bytes: known.fetched_bytes,
        prepared_ms: 0,
    }
}

fn planned(step: &Step) -> PlannedStep {
    PlannedStep { name: step.name.clone(), phase: step.phase, continue_on_failure: step.continue_on_failure }
}

async fn connection(shared: &Shared) -> Result<Connection, Stop> {
    shared.connected().await.ok_or_else(|| Stop::Later("the agent stops".into()))
}

fn keep_list(content: &Content, digest: &Digest, bytes: &[u8]) -> Result<(), Stop> {
    Ok(content.put_list(digest, bytes).map_err(|e| Shared::vault_trouble(&e))?)
}

/// The manifest, and its bytes as they were signed.
async fn verified_manifest(
    shared: &Shared,
    attempt: &AttemptId,
    envelope: &Envelope,
    delta: Option<&mut Finder>,
    known: &mut Known,
) -> Result<(Arc<Manifest>, Vec<u8>), Stop> {
    let (kept, handed) = (shared.content.if_readable(&envelope.digest), shared.content.handed(&envelope.digest));
    let is_new = kept.is_none();
    let bytes = match kept.or(handed) {
        Some(bytes) => bytes,
        None => {
            let source = match delta {
                Some(finder) => finder.source(shared, known).await,
                None => None,
            };
            let made = match source {
                Some(source) => source.manifest(envelope.digest, envelope.length, known).await,
                None => None,
            };
            match made {
                Some(bytes) => bytes,
                None => {
                    let wanted = [Wanted { digest: envelope.digest, most: envelope.length }];
                    let (mut all, fetched) = fetch::objects(&connection(shared).await?, attempt, &wanted).await?;
                    known.fetched_bytes += fetched;
                    all.pop().unwrap_or_default()
                }
            }
        }
    };
    check_signature(shared, &policy(shared)?, envelope, &bytes).map_err(failed)?;
    let manifest = Manifest::parse(&bytes).map_err(|e| stop(ErrorKind::ManifestInvalid, e.0))?;
    if is_new {
        shared.content.put(&envelope.digest, &bytes).map_err(|e| Shared::vault_trouble(&e))?;
    }
    Ok((Arc::new(manifest), bytes))
}

/// The machine's own rules. While they can't be read the attempt waits: it is no attempt's fault.
fn policy(shared: &Shared) -> Result<LocalPolicy, Stop> {
    shared.policy.read().map_err(Stop::Later)
}

/// Whether enough of the publishers that this machine trusts signed these bytes, or nobody did and nobody has to.
fn check_signature(shared: &Shared, policy: &LocalPolicy, envelope: &Envelope, signed: &[u8]) -> Result<(), Failure> {
    match shared.identity.publishers() {
        _ if policy.allow_unsigned && envelope.signatures.is_empty() => {
            if signed.len() as u64 != envelope.length || Digest::of(signed) != envelope.digest {
                return Err(failure(ErrorKind::ContentMismatch, "the manifest is not the one that the envelope names"));
            }
            Ok(())
        }
        Some(trust) => verify_manifest(&trust, envelope, signed, shared.clock.now().wall).map_err(|e| {
            let kind = match e {
                ManifestRefused::Length { .. } | ManifestRefused::Digest { .. } => ErrorKind::ContentMismatch,
                ManifestRefused::TrustExpired(_) => ErrorKind::TrustExpired,
                _ => ErrorKind::SignatureInvalid,
            };
            failure(kind, e.to_string())
        }),
        None => Err(failure(
            ErrorKind::SignatureInvalid,
            "this machine trusts no publisher, and unsigned packages are not allowed; set allow_unsigned = true in policy.toml, or enrol with a token of a manager that has publishers",
        )),
    }
}

/// What the publishers took back since they signed it.
fn check_taken_back(shared: &Shared, manifest: &Manifest, digest: &Digest) -> Result<(), Failure> {
    let Some(list) = shared.identity.revocations() else { return Ok(()) };
    list.allows(&manifest.name, &manifest.version, manifest.release, digest).map_err(|e| {
        let kind = match e {
            TakenBack::Revoked { .. } => ErrorKind::PackageRevoked,
            TakenBack::BelowMinimum { .. } => ErrorKind::ReleaseTooOld,
        };
        failure(kind, e.to_string())
    })?;
    if list.is_expired(shared.clock.now().wall) {
        let message = format!(
            "the publishers' revocation list ended at {}: what they took back since then can't be known; publish a new one with \
             `sutler publisher revoke`",
            list.expires()
        );
        return Err(failure(ErrorKind::TrustExpired, message));
    }
    Ok(())
}

/// The failure of whatever needs a manifest that was verified, and that the agent's folder does not give back.
pub(super) fn not_kept(digest: &Digest, error: Option<VaultError>) -> Failure {
    let why = error.map_or_else(|| "it is not in the agent's folder any more, or is damaged there".into(), |e| e.to_string());
    failure(
        ErrorKind::ClientIo,
        format!("the manifest {digest} was fetched, but can't be read again: {why}; look after the disk, then retry"),
    )
}

/// Whether what was found good when it was fetched still is. It may have waited for long: by now it may be taken back, over, or
/// older than what was installed meanwhile, its publishers may be others, and the machine's own rules too.
pub(super) async fn check_again(shared: &Shared, offered: &OfferedItem, item: &Item) -> Result<(), Trouble> {
    if offered.intent == Intent::Uninstall {
        check_uninstall(shared, &item.manifest.name).map_err(Trouble::Failed)?;
        return others::check_unneeded(shared, &item.manifest.name).map_err(Trouble::Failed);
    }
    check_signed_again(shared, &offered.envelope, item).map_err(Trouble::Failed)?;
    others::leaves(shared, item).await?;
    check_requirements(shared, item, &offered.requirements).await
}

fn check_signed_again(shared: &Shared, envelope: &[u8], item: &Item) -> Result<(), Failure> {
    let policy = shared.policy.read().map_err(|why| failure(ErrorKind::ClientIo, why))?;
    let envelope = Envelope::from_json(envelope).map_err(|e| failure(ErrorKind::SignatureInvalid, e.to_string()))?;
    let kept = shared.content.get(&item.digest).map_err(|e| not_kept(&item.digest, Some(e)))?;
    let signed = kept.ok_or_else(|| not_kept(&item.digest, None))?;
    check_signature(shared, &policy, &envelope, &signed)?;
    check_rules(shared, &policy, &envelope, &item.manifest, &signed)
}

/// Whether the machine's own rules let a package go.
pub(super) fn check_uninstall(shared: &Shared, package: &PackageName) -> Result<(), Failure> {
    let policy = shared.policy.read().map_err(|why| failure(ErrorKind::ClientIo, why))?;
    policy.allows_uninstalling(package).map_err(|why| failure(ErrorKind::LocalPolicy, why))
}

/// Whether the machine is and has what the package requires at this moment, and what the job requires besides.
async fn check_requirements(shared: &Shared, item: &Item, narrower: &[Requirement]) -> Result<(), Trouble> {
    let manifest = &item.manifest;
    if manifest.requirements.is_empty() && manifest.depends_on.is_empty() && manifest.agent.is_none() && narrower.is_empty() {
        return Ok(());
    }
    let own = shared.installed.all().iter().map(Installed::present).collect();
    match shared.installer.requirements(item, narrower, own).await? {
        Verdict::Met => Ok(()),
        Verdict::NotMet { wanted, found } => {
            Err(Trouble::Failed(failure(ErrorKind::RequirementNotMet, format!("it requires {wanted}; found: {found}"))))
        }
        Verdict::Unknown(why) => {
            Err(Trouble::Failed(failure(ErrorKind::ClientIo, format!("whether this machine has what it requires can't be told: {why}"))))
        }
    }
}

fn check_rules(shared: &Shared, policy: &LocalPolicy, envelope: &Envelope, manifest: &Manifest, signed: &[u8]) -> Result<(), Failure> {
    let (os, arch) = &shared.platform;
    if !manifest.platform.fits(os, arch) {
        let message = format!("made for {}/{}, this machine is {os}/{arch}", manifest.platform.os, manifest.platform.arch);
        return Err(failure(ErrorKind::PlatformMismatch, message));
    }
    check_taken_back(shared, manifest, &envelope.digest)?;
    let now = shared.clock.now().wall;
    if let Some(from) = manifest.not_before.filter(|from| now < *from) {
        let message = format!("its publisher allowed its installation from {from} on; run the job again then");
        return Err(failure(ErrorKind::PackageExpired, message));
    }
    if let Some(expires) = manifest.expires.filter(|e| now >= *e) {
        let message = format!("its publisher allowed its installation until {expires}; publish a newer release");
        return Err(failure(ErrorKind::PackageExpired, message));
    }
    if let Some(mark) = shared.identity.mark(&manifest.name)
        && manifest.release < mark.lowest
    {
        let message = format!(
            "its release {} is older than {}, to which this machine may go back; sign it again to get a newer release",
            manifest.release, mark.lowest
        );
        return Err(failure(ErrorKind::ReleaseTooOld, message));
    }
    let refused = |why: String| failure(ErrorKind::LocalPolicy, why);
    policy.allows(&manifest.name, manifest.total_bytes()).map_err(refused)?;
    if let Some(trust) = shared.identity.publishers() {
        // Whoever signed is among the envelope's names, and enough of the trust document's keys really did.
        let did = |key: &KeyId| envelope.is_signed_by(&trust, key, signed);
        policy.allows_signers(&trust, &manifest.name, did).map_err(refused)?;
    }
    Ok(())
}

/// Whether exactly this package is there, and whether its detection rules hold.
///
/// The rules are the package's word for itself. Where the agent knows that it put another version of the package there,
/// that is not this one, however general the rules are.
pub(super) async fn already_there(shared: &Shared, item: &Item) -> Result<(bool, bool), Trouble> {
    let manifest = &item.manifest;
    let recorded = match manifest.directory {
        Some(_) => shared.installer.installed(item).await?,
        None => shared.installed.of(&manifest.name).map(|i| i.manifest),
    };
    let detected = shared.installer.detect(item).await?;
    Ok(match detected {
        Detected::NoRules => (recorded == Some(item.digest), false),
        Detected::Yes => (recorded.is_none_or(|digest| digest == item.digest), true),
        Detected::No(_) => (false, false),
    })
}

async fn chunk_lists(
    shared: &Shared,
    attempt: &AttemptId,
    manifest: &Arc<Manifest>,
    delta: Option<&mut Finder>,
    known: &mut Known,
) -> Result<ChunkLists, Stop> {
    let mut lists = shared.content.lists(manifest);
    if let Some(finder) = delta
        && manifest.chunk_lists().any(|(_, _, digest)| !lists.contains_key(&digest))
        && let Some(source) = finder.source(shared, known).await
    {
        source.apply(shared, manifest, known).await;
        for (digest, bytes, list) in source.lists(manifest, &lists).await {
            keep_list(&shared.content, &digest, &bytes)?;
            lists.insert(digest, list);
        }
    }
    let mut wanted: Vec<(Digest, u64)> =
        manifest.chunk_lists().filter(|(_, _, digest)| !lists.contains_key(digest)).map(|(_, size, digest)| (digest, size)).collect();
    wanted.sort();
    wanted.dedup_by_key(|(digest, _)| *digest);
    // A few at a time: together they may be large.
    for some in wanted.chunks(256) {
        let asked: Vec<Wanted> = some.iter().map(|(digest, size)| Wanted { digest: *digest, most: longest_list(*size) }).collect();
        let (all, fetched) = fetch::objects(&connection(shared).await?, attempt, &asked).await?;
        known.fetched_bytes += fetched;
        for ((digest, size), bytes) in some.iter().zip(all) {
            let list = ChunkList::decode(&bytes, *size).map_err(|e| stop(ErrorKind::ContentMismatch, e.0))?;
            keep_list(&shared.content, digest, &bytes)?;
            lists.insert(*digest, list);
        }
    }
    Ok(lists)
}

/// The longest chunk list that a file of this size can have (bytes): chunks are not shorter than the shortest, but for the last.
fn longest_list(size: u64) -> u64 {
    ((size / limits::CHUNK_MIN as u64 + 1) * 36).min(limits::MANIFEST_MAX)
}

async fn fill(shared: &Shared, item: &Item, lists: &ChunkLists, delta: Option<&mut Finder>, known: &mut Known) -> Result<(), Stop> {
    let mut tree = stage_with_room(shared, item, lists).await?;
    if let Some(old) = old_package(shared, item).await? {
        tree = reuse(tree, old).await?;
    }
    let lacking: u64 = tree.missing().iter().map(|c| u64::from(c.length)).sum();
    if let Some(finder) = delta
        && lacking > 0
        && let Some(source) = finder.source(shared, known).await
    {
        // An earlier run may have left nearly all of it.
        if !source.is_applied() && lacking > source.frames() {
            source.apply(shared, &item.manifest, known).await;
        }
        if let Some(made) = source.made(&item.manifest) {
            tree = reuse(tree, made).await?;
        }
    }
    let missing = tree.missing();
    let total = known.total_bytes;
    let lacking: u64 = missing.iter().map(|c| u64::from(c.length)).sum();
    // A chunk that occurs twice comes once; what is shown must not exceed the whole.
    let there = total.saturating_sub(lacking);
    let tell = |written: u64| shared.tell(Event::Fetched(item.attempt.clone(), (there + written).min(total), total));
    tell(0);
    if !missing.is_empty() {
        let connection = connection(shared).await?;
        let most = AtomicU64::new(0);
        let (filled, fetched) = fetch::into_tree(&connection, &item.attempt, tree, missing, |written| {
            most.fetch_max(written, Ordering::Relaxed);
            tell(written);
        })
        .await?;
        tree = filled;
        known.fetched_bytes += fetched;
        tell(lacking);
    }
    let finished = blocking(move || tree.finish()).await?;
    Ok(finished?)
}

async fn reuse(mut tree: Box<dyn Tree>, old: OldPackage) -> Result<Box<dyn Tree>, Stop> {
    let (tree, reused) = blocking(move || {
        let reused = tree.reuse(&old);
        (tree, reused)
    })
    .await?;
    reused?;
    Ok(tree)
}

/// Stages it. What was only fetched before it is needed gives way to what is needed now.
async fn stage_with_room(shared: &Shared, item: &Item, lists: &ChunkLists) -> Result<Box<dyn Tree>, Stop> {
    loop {
        match shared.installer.stage(item, lists).await {
            Err(Trouble::Failed(failure)) if failure.kind == ErrorKind::NoSpace => {
                let gone = shared.prefetched.oldest_but(&item.digest).map_err(|e| Shared::vault_trouble(&e))?;
                if gone.is_empty() {
                    return Err(failed(failure));
                }
                shared.drop_kept(gone).await;
            }
            staged => return Ok(staged?),
        }
    }
}

async fn old_package(shared: &Shared, item: &Item) -> Result<Option<OldPackage>, Stop> {
    let Some(digest) = shared.installer.installed(item).await? else { return Ok(None) };
    let Some(manifest) = shared.content.if_readable(&digest).and_then(|bytes| Manifest::parse(&bytes).ok()) else { return Ok(None) };
    let lists = shared.content.lists(&manifest);
    Ok(Some(OldPackage { manifest: Arc::new(manifest), lists: Arc::new(lists), at: None }))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Stop> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Stop::Later(format!("the agent's own work stopped: {e}")))
}
