//! Deltas between versions: which are wanted, and who makes them.
//!
//! They are asked for when a version is pushed, from the versions that clients report, and by agents that found none. A delta is made
//! in the background, one at a time; until then, and where it is of no use, chunks are fetched.

use super::{App, AppError, Env, Result, dispatch, inventory::SUTLER};
use jiff::SignedDuration;
use std::collections::BTreeMap;
use sutler_base::{AttemptId, ClientId, Digest, Timestamp};
use sutler_content::Error as ContentError;
use sutler_core::model::{Delta, MadeDelta, PackageVersion};
use sutler_store::{Page, Titles, Tx};

/// The most deltas to the versions of one package, those included that are of no use.
pub const DELTAS_MAX: u32 = 128;
/// A push leaves so many at the most: what clients ask for has room beside them.
const KEPT_MAX: u32 = 96;
/// From how many versions a push asks for deltas: those that most clients report.
const REPORTED: usize = 3;
/// How many titles are looked at for that, and of how many it is looked whether they are versions.
const TITLES_MAX: u32 = 10_000;
/// How many manifests an agent may name of which it has one.
pub const OLD_MAX: usize = 64;
/// See [`TITLES_MAX`].
const LOOKED_MAX: usize = 50;
/// How many versions are looked at where no client reports one.
const OLDER_MAX: u32 = 100;
/// For how long nobody else takes what a manager took, unless it says again that it is making it.
pub const CLAIM: SignedDuration = SignedDuration::from_mins(5);
/// How often it says so.
pub const CLAIM_KEPT: std::time::Duration = std::time::Duration::from_secs(60);
/// How often one is taken, before it is of no use: whoever took it was killed, or its store or its disk failed.
const TRIES_MAX: u32 = 3;

/// Asks for the deltas to a version that was pushed: from those that most clients report, or else from the one before it.
pub async fn ask_for_pushed(tx: &mut dyn Tx, env: &Env, new: &PackageVersion) -> Result<()> {
    let mut from = Vec::new();
    for version in reported(tx, new).await? {
        if from.len() == REPORTED {
            break;
        }
        from.extend(tx.version(&new.name, &version).await?.filter(|old| is_of_use(old, new)).map(|old| old.manifest));
    }
    if from.is_empty() {
        // Of the same release, too: releases are seconds unless a definition says otherwise.
        let older = tx.versions_of(&new.name, OLDER_MAX).await?;
        let before = older.into_iter().find(|old| old.release <= new.release && old.withdrawn.is_none() && is_of_use(old, new));
        from.extend(before.map(|old| old.manifest));
    }
    for old in from {
        let more = (tx.count_deltas(&new.package).await? + 1).saturating_sub(KEPT_MAX);
        if more > 0 {
            tx.drop_oldest_deltas(&new.package, more).await?;
        }
        tx.ask_delta(&Delta::asked(old, new.manifest, new.package.clone(), env.now)).await?;
        env.wakes().deltas = true;
    }
    Ok(())
}

/// Whether a machine may have the one and get the other.
fn is_of_use(old: &PackageVersion, new: &PackageVersion) -> bool {
    old.manifest != new.manifest && old.terms.platform == new.terms.platform
}

/// The versions of the package that clients report, those first that most have.
async fn reported(tx: &mut dyn Tx, new: &PackageVersion) -> Result<Vec<sutler_base::Version>> {
    let titles = Titles { name: new.name.to_string(), is_prefix: false, manager: SUTLER.into() };
    let (mut clients, mut looked) = (BTreeMap::<String, u64>::new(), 0);
    let mut page = Page { after: None, limit: 1000 };
    while looked < TITLES_MAX {
        let some = tx.list_titles(&page, &titles).await?;
        looked += page.limit;
        page.after = some.last().map(|title| title.id.to_string());
        let full = some.len() as u32 == page.limit;
        for title in some {
            *clients.entry(title.package.version).or_default() += title.clients;
        }
        if !full {
            break;
        }
    }
    let mut all: Vec<_> = clients.into_iter().collect();
    all.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
    Ok(all.into_iter().take(LOOKED_MAX).filter_map(|(version, _)| version.parse().ok()).collect())
}

/// The delta that is to be made next.
async fn due(tx: &mut dyn Tx, env: &Env) -> Result<Option<Delta>> {
    let now = env.common_clock(tx).await?;
    Ok(tx.delta_due(now.saturating_sub(CLAIM).unwrap_or(Timestamp::MIN)).await?)
}

/// Takes what is due, if it still is. What was taken too often is of no use.
async fn take(tx: &mut dyn Tx, env: &Env) -> Result<Option<Delta>> {
    let now = env.common_clock(tx).await?;
    let Some(delta) = due(tx, env).await? else { return Ok(None) };
    if !tx.take_delta(&delta, now).await? {
        return Ok(None);
    }
    Ok(Some(Delta { taken: Some(now), tries: delta.tries + 1, ..delta }))
}

/// Says that what was taken is being made; since when that is said, unless it is another's by now.
async fn keep(tx: &mut dyn Tx, env: &Env, delta: &Delta) -> Result<Option<Timestamp>> {
    let now = env.common_clock(tx).await?;
    let taken = delta.taken.unwrap_or(now);
    // Twice within a millisecond says nothing new.
    Ok((taken == now || tx.keep_delta(delta, taken, now).await?).then_some(now))
}

/// What an agent looks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Who asks.
    pub client: ClientId,
    /// For which attempt.
    pub attempt: AttemptId,
    /// The manifests of what it says that it has.
    pub old: Vec<Digest>,
    /// The manifest of what it will have.
    pub new: Digest,
}

/// What there is for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// From this manifest, this delta.
    Made(Digest, MadeDelta),
    /// Nobody has asked for this one.
    NotAsked(Delta),
    /// There is none, or not yet.
    Nothing,
}

/// Looks for a delta that makes what the attempt may read out of what the client has.
pub async fn find(tx: &mut dyn Tx, env: &Env, wanted: &Wanted) -> Result<Found> {
    let Some(readable) = dispatch::readable(tx, &wanted.client, &wanted.attempt).await? else { return Ok(Found::Nothing) };
    if !readable.manifests.contains(&wanted.new) {
        return Ok(Found::Nothing);
    }
    let Some(new) = tx.version_of_manifest(&wanted.new).await? else { return Ok(Found::Nothing) };
    let mut not_asked: Option<PackageVersion> = None;
    for manifest in &wanted.old {
        let Some(old) = tx.version_of_manifest(manifest).await? else { continue };
        let replaced = old.name == new.name || new.terms.supersedes.iter().any(|other| other.package == old.name);
        if !replaced || !is_of_use(&old, &new) {
            continue;
        }
        match tx.delta(&old.manifest, &new.manifest).await? {
            Some(Delta { found: Some(made), .. }) => return Ok(Found::Made(old.manifest, made)),
            Some(_) => {}
            // Another version of the same package is nearer than one of another.
            None if not_asked.as_ref().is_none_or(|before| before.name != new.name) => not_asked = Some(old),
            None => {}
        }
    }
    Ok(match not_asked {
        Some(old) => Found::NotAsked(Delta::asked(old.manifest, new.manifest, new.package, env.now)),
        None => Found::Nothing,
    })
}

/// Looks again, and asks for what nobody has asked for.
pub async fn find_or_ask(tx: &mut dyn Tx, env: &Env, wanted: &Wanted) -> Result<Found> {
    let delta = match find(tx, env, wanted).await? {
        Found::NotAsked(delta) => delta,
        found => return Ok(found),
    };
    let there = tx.count_deltas(&delta.package).await?;
    if there >= DELTAS_MAX {
        let message =
            format!("there are {there} deltas to versions of this package already, and at most {DELTAS_MAX}; fetch chunks instead");
        return Err(AppError::state("deltas", "TOO_MANY_DELTAS", message));
    }
    tx.ask_delta(&delta).await?;
    env.wakes().deltas = true;
    Ok(Found::Nothing)
}

/// Forgets the deltas from and to versions that were deleted, and these, which are lost: they may be asked for again.
pub async fn forget(tx: &mut dyn Tx, lost: &[Digest]) -> Result<()> {
    for digest in lost {
        tx.forget_delta(digest).await?;
    }
    tx.drop_deltas().await?;
    Ok(())
}

impl App {
    /// Makes the delta that was asked for first, of those that nobody makes; whether there was one.
    pub async fn make_delta(&self) -> Result<bool> {
        // What is written needs room, and somebody else's work may need it more.
        if self.room_for("take_delta").is_err() {
            return Ok(false);
        }
        // Asked first: a unit that writes has everybody else's writes behind it.
        if self.view("manager", "delta_due", (), |tx, env, ()| Box::pin(due(tx, env))).await?.is_none() {
            return Ok(false);
        }
        let Some(delta) = self.change("manager", "take_delta", (), |tx, env, ()| Box::pin(take(tx, env))).await? else { return Ok(true) };
        let made = if delta.tries > TRIES_MAX {
            tracing::warn!(old = %delta.old, new = %delta.new, "a delta was begun too often and never made; chunks are fetched instead");
            Ok(None)
        } else {
            let mut making = std::pin::pin!(self.delta_of_use(&delta));
            let mut kept = delta.clone();
            loop {
                tokio::select! {
                    made = &mut making => break made,
                    () = tokio::time::sleep(CLAIM_KEPT) => {}
                }
                let input = kept.clone();
                match self.change("manager", "keep_delta", input, |tx, env, delta| Box::pin(keep(tx, env, delta))).await {
                    Ok(Some(taken)) => kept.taken = Some(taken),
                    // Forgotten, or another manager makes it.
                    Ok(None) => return Ok(true),
                    Err(error) => tracing::warn!(%error, "that a delta is being made could not be noted; it is tried again"),
                }
            }
        };
        let found = match made {
            Ok(found) => found,
            // A version was damaged, or deleted meanwhile: that is noted, and not tried again.
            Err(
                error @ (ContentError::Missing(_)
                | ContentError::Damaged { .. }
                | ContentError::NotAManifest { .. }
                | ContentError::NotAChunkList { .. }),
            ) => {
                tracing::warn!(old = %delta.old, new = %delta.new, %error, "a delta can't be made; chunks are fetched instead");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let input = (delta, found);
        let noted = self.change("manager", "note_delta", input, |tx, env, (delta, found)| {
            Box::pin(async move { Ok(tx.note_delta(&delta.old, &delta.new, found.as_ref(), env.now).await?) })
        });
        noted.await?;
        Ok(true)
    }

    /// Makes and stores a delta; none if it has no fewer bytes than what it spares.
    async fn delta_of_use(&self, delta: &Delta) -> std::result::Result<Option<MadeDelta>, ContentError> {
        let Some(made) = self.content.make_delta(delta.old, delta.new).await? else { return Ok(None) };
        let chunks = self.content.bytes_beside(delta.new, delta.old).await?;
        tracing::info!(old = %delta.old, new = %delta.new, bytes = made.bytes, chunks, "a delta was made");
        Ok((made.bytes < chunks).then_some(MadeDelta { digest: made.digest, length: made.length, bytes: made.bytes }))
    }
}
