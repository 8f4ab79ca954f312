//! What the agent has installed, as it remembers it: the source of `facts.software`.

use crate::{
    installer::Item,
    vault::{Vault, VaultError},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use sutler_base::{
    Digest, PackageName, Version,
    facts::Software,
    manifest::{Dependency, Present, Supersedes},
    path::InstallPath,
    version::Ordering,
};

const FILE: &str = "installed.json";

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: Version,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Where its files are.
    pub directory: Option<InstallPath>,
    /// Its release.
    pub release: u64,
    /// By whose rules its versions compare.
    #[serde(default)]
    pub ordering: Ordering,
    /// What has to be there for it.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    /// Whose place it takes.
    #[serde(default)]
    pub supersedes: Vec<Supersedes>,
}

impl Installed {
    /// What is remembered of this package once it is installed.
    pub fn of(item: &Item) -> Installed {
        let manifest = &item.manifest;
        Installed {
            package: manifest.name.clone(),
            version: manifest.version.clone(),
            manifest: item.digest,
            directory: manifest.directory.clone(),
            release: manifest.release,
            ordering: manifest.ordering,
            depends_on: manifest.depends_on.clone(),
            supersedes: manifest.supersedes.clone(),
        }
    }

    /// By what it stands to others.
    pub fn present(&self) -> Present {
        Present {
            package: self.package.clone(),
            version: self.version.clone(),
            ordering: self.ordering,
            supersedes: self.supersedes.clone(),
        }
    }
}

/// All of them, durable.
pub struct InstalledRecord {
    vault: Arc<dyn Vault>,
    all: Mutex<BTreeMap<PackageName, Installed>>,
}

impl InstalledRecord {
    /// The record in the vault. One that can't be read is begun anew: detection says what is really there.
    pub fn load(vault: Arc<dyn Vault>) -> Result<InstalledRecord, VaultError> {
        let all: Vec<Installed> = vault.read(FILE)?.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        let all = all.into_iter().map(|i| (i.package.clone(), i)).collect();
        Ok(InstalledRecord { vault, all: Mutex::new(all) })
    }

    /// Everything that is installed.
    pub fn all(&self) -> Vec<Installed> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What is installed of a package.
    pub fn of(&self, package: &PackageName) -> Option<Installed> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).get(package).cloned()
    }

    /// Remembers that a package was installed, in place of what was remembered of it and of what it supersedes.
    pub fn add(&self, installed: Installed) -> Result<(), VaultError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = all.clone();
        let present = installed.present();
        new.retain(|_, other| present.displaces(&other.present()).is_none());
        new.insert(installed.package.clone(), installed);
        self.replace(&mut all, new)
    }

    /// Forgets a package that was uninstalled.
    pub fn remove(&self, package: &PackageName) -> Result<(), VaultError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = all.clone();
        match new.remove(package) {
            Some(_) => self.replace(&mut all, new),
            None => Ok(()),
        }
    }

    fn replace(&self, all: &mut BTreeMap<PackageName, Installed>, new: BTreeMap<PackageName, Installed>) -> Result<(), VaultError> {
        let json = serde_json::to_vec(&new.values().collect::<Vec<_>>()).expect("plain data");
        self.vault.write(FILE, &json)?;
        *all = new;
        Ok(())
    }
}

/// Installed packages as facts.
pub(crate) fn as_facts(all: &[Installed]) -> Vec<Software> {
    all.iter().map(|i| Software { name: i.package.to_string(), version: i.version.to_string() }).collect()
}
