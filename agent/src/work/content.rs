//! Manifests and chunk lists that are needed again: in the vault, under their digest.

use super::record::Installed;
use crate::{
    install::ChunkLists,
    machine::{Record, Stage},
    vault::{Vault, VaultError},
};
use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};
use sutler_base::{Digest, chunks::ChunkList, limits, manifest::Manifest};

const FOLDER: &str = "content";

/// Content by its digest.
pub(crate) struct Content {
    vault: Arc<dyn Vault>,
    /// The manifest that was used last: an installation asks for it at every op.
    last: Mutex<Option<(Digest, Arc<Manifest>)>>,
    /// Manifests that came with offers, as they came: nobody has checked a signature. The newest last.
    offered: Mutex<VecDeque<(Digest, Vec<u8>)>>,
}

/// How many manifests are kept that came with offers and were not looked at yet.
const OFFERED: usize = 2 * limits::JOB_PACKAGES_MAX;

fn name(digest: &Digest) -> String {
    format!("{FOLDER}/{digest}")
}

impl Content {
    pub(crate) fn new(vault: Arc<dyn Vault>) -> Content {
        Content { vault, last: Mutex::new(None), offered: Mutex::default() }
    }

    /// The bytes of this digest, verified; none if they aren't there or are damaged. An error says nothing about them.
    pub(crate) fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, VaultError> {
        Ok(self.vault.read(&name(digest))?.filter(|bytes| Digest::of(bytes) == *digest))
    }

    /// The same for whoever can do without them, or has them sent again.
    pub(crate) fn if_readable(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.get(digest).ok().flatten()
    }

    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), VaultError> {
        self.vault.write(&name(digest), bytes)
    }

    /// The same for a chunk list: one that a power cut takes is fetched again.
    pub(crate) fn put_list(&self, digest: &Digest, bytes: &[u8]) -> Result<(), VaultError> {
        self.vault.cache(&name(digest), bytes)
    }

    /// Keeps a manifest that came with an offer until it is looked at; in memory alone: without it, it is fetched.
    pub(crate) fn hand(&self, bytes: &[u8]) {
        if bytes.is_empty() || bytes.len() > limits::OFFERED_MANIFEST_MAX {
            return;
        }
        let digest = Digest::of(bytes);
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        offered.retain(|(known, _)| *known != digest);
        if offered.len() >= OFFERED {
            offered.pop_front();
        }
        offered.push_back((digest, bytes.to_vec()));
    }

    /// The manifest of this digest, if it came with an offer; once.
    pub(crate) fn handed(&self, digest: &Digest) -> Option<Vec<u8>> {
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let place = offered.iter().position(|(known, _)| known == digest)?;
        offered.remove(place).map(|(_, bytes)| bytes)
    }

    /// A manifest whose signature was found good when it was put here.
    pub(crate) fn manifest(&self, digest: &Digest) -> Result<Option<Arc<Manifest>>, VaultError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, manifest)) = &*last
            && known == digest
        {
            return Ok(Some(manifest.clone()));
        }
        let Some(manifest) = self.get(digest)?.and_then(|bytes| Manifest::parse(&bytes).ok()).map(Arc::new) else { return Ok(None) };
        *last = Some((*digest, manifest.clone()));
        Ok(Some(manifest))
    }

    /// The chunk lists of a manifest, as far as they are here.
    pub(crate) fn lists(&self, manifest: &Manifest) -> ChunkLists {
        let known = manifest.chunk_lists().filter_map(|(_, size, digest)| {
            let list = ChunkList::decode(&self.if_readable(&digest)?, size).ok()?;
            Some((digest, list))
        });
        known.collect()
    }

    /// Removes what belongs to none of these. Best effort: what stays costs room and nothing else.
    pub(crate) fn keep_only<'a>(&self, records: impl Iterator<Item = &'a Record>, installed: &[Installed], kept: Vec<Digest>) {
        let mut manifests: HashSet<Digest> = installed.iter().map(|i| i.manifest).chain(kept).collect();
        for record in records {
            for item in &record.offer.items {
                manifests.extend(sutler_certs::Envelope::from_json(&item.envelope).map(|e| e.digest));
            }
            let plan = match &record.stage {
                Stage::Fetched(plan) => plan,
                Stage::Installing(installing) => &installing.plan,
                _ => continue,
            };
            manifests.insert(plan.manifest);
            manifests.extend(plan.displaced.iter().map(|old| old.manifest));
        }
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).retain(|(digest, _)| manifests.contains(digest));
        let mut keep = manifests.clone();
        for digest in &manifests {
            if let Some(manifest) = self.if_readable(digest).and_then(|bytes| Manifest::parse(&bytes).ok()) {
                keep.extend(manifest.chunk_lists().map(|(_, _, list)| list));
            }
        }
        for file in self.vault.list(FOLDER).unwrap_or_default() {
            if file.parse::<Digest>().is_ok_and(|digest| !keep.contains(&digest)) {
                let _ = self.vault.remove(&format!("{FOLDER}/{file}"));
            }
        }
    }
}
