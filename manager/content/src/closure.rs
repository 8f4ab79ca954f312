//! Which objects belong to a package version, and which of them are lacking.

use crate::{Content, Error, Kind, store::locked};
use std::{collections::BTreeMap, sync::Arc};
use sutler_base::{
    Digest,
    chunks::ChunkList,
    manifest::{EntryKind, Manifest},
};

/// Every object that belongs to one package version: its manifest, the chunk lists, the chunks. Or to a delta: itself, its frames.
///
/// It says what an attempt may read. An empty file has no object.
#[derive(Debug, PartialEq, Eq)]
pub struct Closure {
    digests: Box<[Digest]>,
}

impl Closure {
    /// Whether the object belongs to the version.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.digests.binary_search(digest).is_ok()
    }

    /// The digests, sorted, each once.
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }
}

/// The digests that a manifest names by itself: its chunk lists, and the files that are one chunk.
fn named(manifest: &Manifest) -> impl Iterator<Item = Digest> {
    manifest.files.iter().filter_map(|entry| match entry.kind {
        EntryKind::File { chunks: Some(list), .. } => Some(list),
        EntryKind::File { blake3, size, chunks: None, .. } if size > 0 => Some(blake3),
        _ => None,
    })
}

impl Content {
    /// The manifest `digest`, with every rule of its format checked. Its signature is the caller's affair: it must have been
    /// found good before.
    pub async fn manifest(&self, digest: Digest) -> Result<Manifest, Error> {
        let bytes = self.get(digest, Kind::Document).await?;
        let parsed = tokio::task::spawn_blocking(move || Manifest::parse(&bytes)).await;
        parsed
            .map_err(|e| Error::Store {
                what: format!("read the manifest {digest}"),
                source: object_store::Error::JoinError { source: e },
            })?
            .map_err(|why| Error::NotAManifest { digest, why })
    }

    /// The chunk list `digest` of the file `path`, which has `size` bytes.
    async fn chunk_list(&self, digest: Digest, path: &str, size: u64) -> Result<ChunkList, Error> {
        let bytes = self.get(digest, Kind::Document).await?;
        ChunkList::decode(&bytes, size).map_err(|why| Error::NotAChunkList { digest, path: path.into(), why })
    }

    /// The closure of the version whose manifest is `manifest`; from memory if it was asked for recently.
    pub async fn load_closure(&self, manifest: Digest) -> Result<Arc<Closure>, Error> {
        if let Some(found) = locked(&self.closures).get(&manifest) {
            return Ok(found);
        }
        let parsed = self.manifest(manifest).await?;
        let mut digests: Vec<Digest> = named(&parsed).chain([manifest]).collect();
        for (entry, size, list) in parsed.chunk_lists() {
            digests.extend(self.chunk_list(list, entry.path.as_str(), size).await?.0.iter().map(|c| c.digest));
        }
        digests.sort_unstable();
        digests.dedup();
        let closure = Arc::new(Closure { digests: digests.into() });
        locked(&self.closures).insert(manifest, closure.clone(), closure.digests.len() * 32 + 128);
        Ok(closure)
    }

    /// The objects of the delta `digest`: itself and its frames; from memory if it was asked for recently.
    pub async fn load_delta(&self, digest: Digest) -> Result<Arc<Closure>, Error> {
        if let Some(found) = locked(&self.deltas).get(&digest) {
            return Ok(found);
        }
        let delta = self.delta(digest).await?;
        let mut digests: Vec<Digest> = delta.units.iter().map(|unit| unit.frame).chain([digest]).collect();
        digests.sort_unstable();
        digests.dedup();
        let closure = Arc::new(Closure { digests: digests.into() });
        locked(&self.deltas).insert(digest, closure.clone(), closure.digests.len() * 32 + 128);
        Ok(closure)
    }

    /// Bytes of the version whose manifest is `manifest` that whoever has the other one lacks, uncompressed; each chunk once.
    pub async fn bytes_beside(&self, manifest: Digest, other: Digest) -> Result<u64, Error> {
        let there = self.load_closure(other).await?;
        let parsed = self.manifest(manifest).await?;
        let mut lacking: BTreeMap<Digest, u64> = BTreeMap::new();
        for entry in &parsed.files {
            if let EntryKind::File { blake3, size, chunks: None, .. } = entry.kind {
                lacking.insert(blake3, size);
            }
        }
        for (entry, size, list) in parsed.chunk_lists() {
            let chunks = self.chunk_list(list, entry.path.as_str(), size).await?;
            lacking.extend(chunks.0.iter().map(|c| (c.digest, u64::from(c.length))));
        }
        Ok(lacking.into_iter().filter(|(digest, _)| !there.contains(digest)).map(|(_, length)| length).sum())
    }

    /// What the version whose manifest is `manifest` still lacks, each digest once: first the manifest, then chunk lists,
    /// then chunks. Empty: it is whole, and stays so for the grace period of the garbage collection.
    ///
    /// The chunks of a list that is lacking aren't known, so ask again when it has come.
    pub async fn verify_complete(&self, manifest: Digest) -> Result<Vec<Digest>, Error> {
        let lacking = self.missing(&[manifest]).await?;
        if !lacking.is_empty() {
            return Ok(lacking);
        }
        let parsed = match self.manifest(manifest).await {
            Err(Error::Missing(_) | Error::Damaged { .. }) => return Ok(vec![manifest]),
            other => other?,
        };
        let mut lacking = Vec::new();
        let mut wanted = Vec::new();
        for (entry, size, list) in parsed.chunk_lists() {
            match self.chunk_list(list, entry.path.as_str(), size).await {
                Ok(chunks) => wanted.extend(chunks.0.iter().map(|c| c.digest)),
                Err(Error::Missing(_) | Error::Damaged { .. }) => lacking.push(list),
                Err(e) => return Err(e),
            }
        }
        wanted.extend(named(&parsed));
        wanted.sort_unstable();
        wanted.dedup();
        lacking.sort_unstable();
        lacking.dedup();
        wanted.retain(|d| lacking.binary_search(d).is_err());
        lacking.extend(self.missing(&wanted).await?);
        Ok(lacking)
    }
}
