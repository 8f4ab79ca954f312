//! Fetches a version as a delta from one that is installed. Whatever goes wrong with it, chunks are fetched instead: no attempt fails for
//! a delta, and nothing that comes out of one is believed before it has the digest that the publisher signed.

use super::{Known, Shared, blocking};
use crate::{
    fetch::{self, Wanted},
    install::{ChunkLists, Workshop},
    installer::{Item, OldPackage},
    link::Connection,
};
use std::{collections::HashSet, sync::Arc};
use sutler_base::{
    AttemptId, Digest,
    delta::{DELTA_MAX, Delta},
    manifest::{EntryKind, Manifest, relations::Values},
};

/// In how many units at the most the manifest may come.
const MANIFEST_UNITS: usize = 16;
/// How many manifests are named of which a delta may be made.
const OLD_MAX: usize = 64;

/// A delta to the version with this manifest.
pub(super) struct Source {
    attempt: AttemptId,
    connection: Connection,
    delta: Delta,
    workshop: Option<Box<Workshop>>,
    /// The frame that came with the manifest, and its unit's number.
    early: Option<(usize, Vec<u8>)>,
    applied: bool,
}

/// Looks for a delta once something has to be fetched: what needs no bytes needs no manager either.
pub(super) struct Finder {
    attempt: AttemptId,
    index: usize,
    new: Digest,
    looked: bool,
    source: Option<Source>,
}

impl Finder {
    /// For the version with this manifest. Nothing is asked yet.
    pub(super) fn new(attempt: &AttemptId, index: usize, new: Digest) -> Finder {
        Finder { attempt: attempt.clone(), index, new, looked: false, source: None }
    }

    /// The delta, if there is one.
    pub(super) async fn source(&mut self, shared: &Shared, known: &mut Known) -> Option<&mut Source> {
        if !std::mem::replace(&mut self.looked, true) {
            self.source = find(shared, &self.attempt, self.index, self.new, known).await;
        }
        self.source.as_mut()
    }
}

/// Looks for a delta from what is installed. None where there is none, or it can't be had.
async fn find(shared: &Shared, attempt: &AttemptId, index: usize, new: Digest, known: &mut Known) -> Option<Source> {
    let mut old: Vec<Digest> = shared.installed.all().into_iter().filter(|i| i.directory.is_some()).map(|i| i.manifest).collect();
    if old.contains(&new) {
        return None;
    }
    old.truncate(OLD_MAX);
    if old.is_empty() {
        return None;
    }
    match open(shared, attempt, index, old, new, known).await {
        Ok(source) => source,
        Err(why) => {
            tracing::info!(%attempt, "no delta is used, chunks are fetched: {why}");
            None
        }
    }
}

async fn open(
    shared: &Shared,
    attempt: &AttemptId,
    index: usize,
    old: Vec<Digest>,
    new: Digest,
    known: &mut Known,
) -> Result<Option<Source>, String> {
    let connection = shared.connected().await.ok_or("the agent stops")?;
    let Some(found) = fetch::delta(&connection, attempt, &old, &new).await.map_err(|e| format!("{e:?}"))? else { return Ok(None) };
    if !old.contains(&found.old) || found.length > DELTA_MAX as u64 {
        return Err("the manager named what it was not asked for".into());
    }
    let Some(signed) = shared.content.if_readable(&found.old) else { return Ok(None) };
    let manifest = Arc::new(Manifest::parse(&signed).map_err(|e| e.0)?);
    let there = Item { attempt: attempt.clone(), index, manifest, digest: found.old, values: Values::new() };
    let workshop = shared.installer.workshop(&there, signed).await.map_err(|e| format!("{e:?}"))?;
    let Some(workshop) = workshop else { return Ok(None) };
    let bytes = object(&connection, attempt, found.digest, found.length, known).await?;
    let delta = Delta::decode(&bytes).map_err(|e| e.0)?;
    Ok(Some(Source { attempt: attempt.clone(), connection, delta, workshop: Some(workshop), early: None, applied: false }))
}

async fn object(connection: &Connection, attempt: &AttemptId, digest: Digest, most: u64, known: &mut Known) -> Result<Vec<u8>, String> {
    let (mut all, fetched) = fetch::objects(connection, attempt, &[Wanted { digest, most }]).await.map_err(|e| format!("{e:?}"))?;
    known.fetched_bytes += fetched;
    Ok(all.pop().unwrap_or_default())
}

impl Source {
    /// The bytes of the new manifest, which has this digest and so many bytes.
    pub(super) async fn manifest(&mut self, digest: Digest, length: u64, known: &mut Known) -> Option<Vec<u8>> {
        match self.make_manifest(length, known).await {
            Ok(bytes) if Digest::of(&bytes) == digest => Some(bytes),
            Ok(_) => {
                tracing::info!(attempt = %self.attempt, "the manifest that a delta made is not the one that was offered; it is fetched");
                None
            }
            Err(why) => {
                tracing::info!(attempt = %self.attempt, "a delta makes no manifest, it is fetched: {why}");
                None
            }
        }
    }

    async fn make_manifest(&mut self, length: u64, known: &mut Known) -> Result<Vec<u8>, String> {
        let mut manifest = Vec::new();
        let units = self.delta.units.iter().enumerate().filter(|(_, unit)| unit.new.iter().any(|piece| piece.file == 0));
        let units: Vec<_> = units.take(MANIFEST_UNITS).map(|(n, unit)| (n, unit.clone())).collect();
        for (n, unit) in units {
            let mut workshop = self.workshop.take().ok_or("it is over")?;
            let (back, reference, unit) = blocking(move || {
                let reference = workshop.reference(&unit);
                (workshop, reference, unit)
            })
            .await
            .map_err(|_| "the agent stops")?;
            self.workshop = Some(back);
            let reference = reference.map_err(|e| e.to_string())?;
            let frame = object(&self.connection, &self.attempt, unit.frame, u64::from(unit.length), known).await?;
            let (added, made, frame) = blocking(move || {
                let added = Workshop::add_to_manifest(&unit, &reference, &frame, &mut manifest, length);
                (added, manifest, frame)
            })
            .await
            .map_err(|_| "the agent stops")?;
            manifest = made;
            added.map_err(|e| e.to_string())?;
            if n == 0 {
                self.early = Some((n, frame));
            }
            if manifest.len() as u64 == length {
                break;
            }
        }
        Ok(manifest)
    }

    /// How many bytes its frames have.
    pub(super) fn frames(&self) -> u64 {
        self.delta.frames()
    }

    /// Whether it was applied already.
    pub(super) fn is_applied(&self) -> bool {
        self.applied
    }

    /// Makes what files it can.
    pub(super) async fn apply(&mut self, shared: &Shared, new: &Arc<Manifest>, known: &mut Known) {
        self.applied = true;
        if let Err(why) = self.make_files(shared, new, known).await {
            tracing::info!(attempt = %self.attempt, "a delta is not used any further, chunks are fetched: {why}");
        }
        let files = self.workshop.as_ref().map_or(0, |workshop| workshop.files());
        tracing::info!(attempt = %self.attempt, package = %new.name, version = %new.version, files, fetched = known.fetched_bytes, "files were made by a delta");
    }

    async fn make_files(&mut self, shared: &Shared, new: &Arc<Manifest>, known: &mut Known) -> Result<(), String> {
        let reserve = shared.installer.reserve();
        for n in 0..self.delta.units.len() {
            let unit = self.delta.units[n].clone();
            let Some(mut workshop) = self.workshop.take() else { return Err("the agent's own work stopped".into()) };
            let both = (n == 0).then(|| made_by(&self.delta, new).saturating_add(new.total_bytes()));
            let (back, unit, read) = blocking(move || {
                let read = match both.map_or(Ok(true), |both| workshop.has_room(both, reserve)) {
                    Err(e) => Err(e.to_string()),
                    Ok(false) => Err("the disk has no room for both".into()),
                    Ok(true) if !workshop.is_wanted(&unit) => Ok(None),
                    Ok(true) => match workshop.reference(&unit) {
                        Ok(reference) => Ok(Some(reference)),
                        Err(why) => {
                            tracing::info!("what a unit of a delta makes comes as chunks: {why}");
                            workshop.give_up(&unit);
                            Ok(None)
                        }
                    },
                };
                (workshop, unit, read)
            })
            .await
            .map_err(|_| "the agent stops")?;
            self.workshop = Some(back);
            let Some(reference) = read? else { continue };
            let frame = match self.early.take_if(|(early, _)| *early == n) {
                Some((_, frame)) => frame,
                None => object(&self.connection, &self.attempt, unit.frame, u64::from(unit.length), known).await?,
            };
            let Some(mut workshop) = self.workshop.take() else { return Err("the agent's own work stopped".into()) };
            let new = new.clone();
            let (back, applied) = blocking(move || {
                let applied = workshop.apply(&unit, &reference, &frame, &new);
                (workshop, applied)
            })
            .await
            .map_err(|_| "the agent stops")?;
            self.workshop = Some(back);
            applied.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// The chunk lists of the files that are there whole, which need not be fetched.
    pub(super) async fn lists(
        &mut self,
        new: &Arc<Manifest>,
        lists: &ChunkLists,
    ) -> Vec<(Digest, Vec<u8>, sutler_base::chunks::ChunkList)> {
        let wanted: HashSet<Digest> = new.chunk_lists().map(|(_, _, digest)| digest).filter(|digest| !lists.contains_key(digest)).collect();
        let Some(mut workshop) = self.workshop.take() else { return Vec::new() };
        let new = new.clone();
        let computed = blocking(move || {
            let found = workshop.lists(&new, &wanted);
            (workshop, found)
        });
        match computed.await {
            Ok((back, found)) => {
                self.workshop = Some(back);
                found
            }
            Err(_) => Vec::new(),
        }
    }

    /// What was made, to be taken into the new tree.
    pub(super) fn made(&self, new: &Manifest) -> Option<OldPackage> {
        let workshop = self.workshop.as_ref().filter(|workshop| workshop.files() > 0)?;
        let manifest = workshop.tree(new).ok()?;
        let at = Some(workshop.folder().to_owned());
        Some(OldPackage { manifest: Arc::new(manifest), lists: Arc::new(ChunkLists::new()), at })
    }
}

/// How many bytes the files have that a delta makes.
fn made_by(delta: &Delta, new: &Manifest) -> u64 {
    let numbers: HashSet<u32> = delta.units.iter().flat_map(|unit| &unit.new).map(|piece| piece.file).filter(|file| *file > 0).collect();
    let size = |number: &u32| match new.files.get(*number as usize - 1)?.kind {
        EntryKind::File { size, .. } => Some(size),
        _ => None,
    };
    numbers.iter().filter_map(size).fold(0, u64::saturating_add)
}
