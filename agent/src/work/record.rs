//! What the agent has installed, as it remembers it: the source of `facts.software`.

use crate::vault::{Vault, VaultError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use sutler_base::{Digest, PackageName, Version, facts::Software, path::InstallPath};

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

    /// Remembers that a package was installed, in place of what was remembered of it.
    pub fn add(&self, installed: Installed) -> Result<(), VaultError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = all.clone();
        new.insert(installed.package.clone(), installed);
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
