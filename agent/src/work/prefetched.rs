//! What was only to be fetched, as the agent remembers it: kept until it is installed, for a bounded time and number.

use crate::{
    installer::Item,
    vault::{Vault, VaultError},
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use sutler_base::{Digest, PackageName, Timestamp, path::InstallPath};

const FILE: &str = "prefetched.json";
/// How many are kept; the oldest goes for another one.
const MOST: usize = 16;
/// For how long.
const AGE: jiff::SignedDuration = jiff::SignedDuration::from_hours(30 * 24);

/// A package that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prefetched {
    /// The package.
    pub(crate) package: PackageName,
    /// The digest of its manifest.
    pub(crate) manifest: Digest,
    /// Its release.
    pub(crate) release: u64,
    /// Where its files will be.
    pub(crate) directory: Option<InstallPath>,
    /// When it was fetched last.
    pub(crate) since: Timestamp,
}

/// All of them, the oldest first; durable.
pub(crate) struct PrefetchedRecord {
    vault: Arc<dyn Vault>,
    all: Mutex<Vec<Prefetched>>,
}

impl PrefetchedRecord {
    /// The record in the vault. One that can't be read is begun anew.
    pub(crate) fn load(vault: Arc<dyn Vault>) -> Result<PrefetchedRecord, VaultError> {
        let all = vault.read(FILE)?.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        Ok(PrefetchedRecord { vault, all: Mutex::new(all) })
    }

    /// The manifests of what is kept.
    pub(crate) fn manifests(&self) -> Vec<Digest> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|kept| kept.manifest).collect()
    }

    /// Whether this one is kept.
    pub(crate) fn has(&self, manifest: &Digest) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|kept| kept.manifest == *manifest)
    }

    /// Remembers one. Gives back those that go for it: of each package the one stays that was fetched last, and of all so many.
    pub(crate) fn add(&self, item: &Item, now: Timestamp) -> Result<Vec<Prefetched>, VaultError> {
        let new = Prefetched {
            package: item.manifest.name.clone(),
            manifest: item.digest,
            release: item.manifest.release,
            directory: item.manifest.directory.clone(),
            since: now,
        };
        let mut gone = self.remove(|kept| kept.package == new.package)?;
        gone.retain(|kept| kept.manifest != new.manifest);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = all.clone();
        left.push(new);
        gone.extend(left.drain(..left.len().saturating_sub(MOST)));
        self.replace(&mut all, left)?;
        Ok(gone)
    }

    /// Forgets those of a package that were fetched for this release or an older one: it is installed. Gives them back.
    pub(crate) fn installed(&self, package: &PackageName, release: u64) -> Result<Vec<Prefetched>, VaultError> {
        self.remove(|kept| kept.package == *package && kept.release <= release)
    }

    /// Forgets those whose time is over. Gives them back.
    pub(crate) fn over(&self, now: Timestamp) -> Result<Vec<Prefetched>, VaultError> {
        self.remove(|kept| now.duration_since(kept.since) > AGE)
    }

    /// Forgets the oldest but for this one, to make room. Gives it back.
    pub(crate) fn oldest_but(&self, manifest: &Digest) -> Result<Vec<Prefetched>, VaultError> {
        let mut first = true;
        self.remove(|kept| kept.manifest != *manifest && std::mem::take(&mut first))
    }

    fn remove(&self, mut goes: impl FnMut(&Prefetched) -> bool) -> Result<Vec<Prefetched>, VaultError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, left): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|kept| goes(kept));
        if !gone.is_empty() {
            self.replace(&mut all, left)?;
        }
        Ok(gone)
    }

    fn replace(&self, all: &mut Vec<Prefetched>, new: Vec<Prefetched>) -> Result<(), VaultError> {
        self.vault.write(FILE, &serde_json::to_vec(&new).expect("plain data"))?;
        *all = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::FolderVault;
    use sutler_base::{AttemptId, manifest::Manifest};

    fn item(package: &str, release: u64) -> Item {
        let json = serde_json::json!({
            "format": 1, "name": package, "version": "1", "release": release,
            "platform": { "os": "linux", "arch": "any" }, "files": [], "directory": "/opt/tool",
        });
        let bytes = serde_json::to_vec(&json).unwrap();
        Item {
            attempt: AttemptId::new(Timestamp::UNIX_EPOCH, [0; 16]),
            index: 0,
            manifest: Arc::new(Manifest::parse(&bytes).unwrap()),
            digest: Digest::of(&bytes),
            values: Default::default(),
        }
    }

    #[test]
    fn of_each_package_the_newest_is_kept_and_of_all_so_many_for_so_long() {
        let folder = tempfile::tempdir().unwrap();
        let vault: Arc<dyn Vault> = Arc::new(FolderVault::open(&folder.path().join("vault")).unwrap());
        let record = PrefetchedRecord::load(vault.clone()).unwrap();
        let at = |hours: i64| Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(hours);
        assert!(record.add(&item("tool", 1), at(0)).unwrap().is_empty());
        let gone = record.add(&item("tool", 2), at(1)).unwrap();
        assert_eq!(gone.iter().map(|kept| kept.release).collect::<Vec<_>>(), [1], "another version of it");
        assert!(record.add(&item("tool", 2), at(2)).unwrap().is_empty(), "the same again goes for nothing");
        for n in 1..MOST {
            assert!(record.add(&item(&format!("p{n}"), 1), at(3)).unwrap().is_empty());
        }
        let gone = record.add(&item("one-more", 1), at(4)).unwrap();
        assert_eq!(gone.iter().map(|kept| kept.package.as_str()).collect::<Vec<_>>(), ["tool"], "the oldest");
        assert!(record.over(at(30 * 24 + 3)).unwrap().is_empty());
        assert_eq!(record.over(at(30 * 24 + 4)).unwrap().len(), MOST - 1);
        let again = PrefetchedRecord::load(vault).unwrap();
        assert_eq!(again.manifests(), [item("one-more", 1).digest], "it is durable");
        assert!(again.installed(&"one-more".parse().unwrap(), 0).unwrap().is_empty(), "an older release was installed");
        assert_eq!(again.installed(&"one-more".parse().unwrap(), 1).unwrap().len(), 1);
    }
}
