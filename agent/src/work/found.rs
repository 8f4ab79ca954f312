//! The manifests of packages that were found on the machine, and so were not installed by the agent: whether they are still there
//! can be told by what they say of themselves, and by nothing else.

use crate::vault::{Vault, VaultError};
use std::sync::{Arc, Mutex, PoisonError};
use sutler_base::Digest;

const FILE: &str = "found.json";
/// How many are remembered; the oldest goes for another one. Of what is forgotten a manager that asks hears that it is missing, and
/// has it looked for.
const MOST: usize = 64;

/// All of them, the oldest first; durable.
pub(crate) struct FoundRecord {
    vault: Arc<dyn Vault>,
    all: Mutex<Vec<Digest>>,
}

impl FoundRecord {
    /// The record in the vault. One that can't be read is begun anew.
    pub(crate) fn load(vault: Arc<dyn Vault>) -> Result<FoundRecord, VaultError> {
        let all: Vec<String> = vault.read(FILE)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(FoundRecord { vault, all: Mutex::new(all.iter().filter_map(|digest| digest.parse().ok()).collect()) })
    }

    /// Remembers one.
    pub(crate) fn add(&self, manifest: Digest) -> Result<(), VaultError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains(&manifest) {
            return Ok(());
        }
        let mut new = all.clone();
        new.push(manifest);
        new.drain(..new.len().saturating_sub(MOST));
        let json = serde_json::to_vec(&new.iter().map(Digest::to_string).collect::<Vec<_>>()).expect("plain data");
        self.vault.write(FILE, &json)?;
        *all = new;
        Ok(())
    }

    /// The manifests.
    pub(crate) fn all(&self) -> Vec<Digest> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
