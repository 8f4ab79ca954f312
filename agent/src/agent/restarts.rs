//! Which packages said in this start of the machine that it must be restarted: kept beyond their attempts, and told as a fact.

use crate::vault::{Vault, VaultError};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};
use sutler_base::facts::Facts;

/// The file of the vault.
const FILE: &str = "restarts.json";
/// The most that are named.
const NAMES_MAX: usize = 32;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    boot_id: String,
    by: BTreeSet<String>,
}

/// What is kept of them.
pub(super) struct Restarts {
    vault: Arc<dyn Vault>,
    kept: Kept,
}

impl Restarts {
    /// As the last run left it; a file that can't be read is none.
    pub(super) fn load(vault: Arc<dyn Vault>) -> Result<Restarts, VaultError> {
        let kept = vault.read(FILE)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Restarts { vault, kept })
    }

    /// A package has said so in this start of the machine. Gives back whether that is new.
    pub(super) fn note(&mut self, boot_id: &str, package: String) -> Result<bool, VaultError> {
        let mut kept = if self.kept.boot_id == boot_id { self.kept.clone() } else { Kept::default() };
        kept.boot_id = boot_id.to_owned();
        if kept.by.len() < NAMES_MAX {
            kept.by.insert(package);
        }
        if kept == self.kept {
            return Ok(false);
        }
        self.vault.write(FILE, &serde_json::to_vec(&kept).expect("plain data"))?;
        self.kept = kept;
        Ok(true)
    }

    /// Adds it to the facts of this start of the machine.
    pub(super) fn add_to(&self, facts: &mut Facts) {
        if self.kept.boot_id == facts.boot_id && !self.kept.by.is_empty() {
            facts.reboot.needed = true;
            facts.reboot.by.extend(self.kept.by.iter().cloned());
        }
    }
}
