//! What the user of this machine may have installed, as the manager said last: kept, so that it can be shown and chosen while the
//! manager can't be reached.

use crate::vault::{Vault, VaultError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use sutler_base::{Invalid, is_harmful, quoted};
use sutler_proto::v1;

/// The file of the vault.
pub(crate) const FILE: &str = "shelf.json";
/// The most that is kept.
const ITEMS_MAX: usize = 200;
/// The longest text of one (bytes).
const TEXT_MAX: usize = 1024;

/// One thing that the user may have installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Available {
    /// `jobs/ID`
    pub job: String,
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// What it is.
    pub description: String,
    /// Bytes of its files, and of what it brings along.
    pub total_bytes: u64,
    /// The user wants it, and the manager does not know it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queued: bool,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Told {
    digest: Vec<u8>,
    items: Vec<Available>,
}

/// What is offered.
pub(super) struct Shelf {
    vault: Arc<dyn Vault>,
    told: Told,
}

impl Shelf {
    /// As the last run left it. A file that can't be read is none: the manager says it again.
    pub(super) fn load(vault: Arc<dyn Vault>) -> Result<Shelf, VaultError> {
        let told = vault.read(FILE)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Shelf { vault, told })
    }

    /// By what the manager knows whether this is what it would say.
    pub(super) fn digest(&self) -> bytes::Bytes {
        self.told.digest.clone().into()
    }

    /// All of it, by package.
    pub(super) fn all(&self) -> &[Available] {
        &self.told.items
    }

    /// The manager said what is offered; what can't be read is left out.
    pub(super) fn is_told(&mut self, wire: &v1::Shelf) -> Result<(), VaultError> {
        let items = wire.items.iter().take(ITEMS_MAX).filter_map(read).collect();
        let told = Told { digest: wire.digest.to_vec(), items };
        if told != self.told {
            self.vault.write(FILE, &serde_json::to_vec(&told).expect("plain data"))?;
            self.told = told;
        }
        Ok(())
    }

    /// What is meant by the name of a package, or by the id of a job.
    ///
    /// # Errors
    ///
    /// A sentence: nothing of that name is offered, or several jobs do.
    pub(super) fn find(&self, name: &str) -> Result<&Available, Invalid> {
        let by_job = |item: &&Available| item.job == name || item.job.strip_prefix("jobs/") == Some(name);
        if let Some(item) = self.all().iter().find(by_job) {
            return Ok(item);
        }
        let named: Vec<&Available> = self.all().iter().filter(|item| item.package == name).collect();
        match named[..] {
            [item] => Ok(item),
            [] => Err(Invalid::new(format!("nothing named {} is offered; see sutler-agent available", quoted(name)))),
            _ => {
                let jobs: Vec<&str> = named.iter().map(|item| item.job.strip_prefix("jobs/").unwrap_or(&item.job)).collect();
                Err(Invalid::new(format!("{name} is offered by several jobs; give one of: {}", jobs.join(", "))))
            }
        }
    }
}

fn read(item: &v1::ShelfItem) -> Option<Available> {
    let texts = [&item.job, &item.package, &item.version, &item.description];
    let proper = texts.iter().all(|text| text.len() <= TEXT_MAX && !text.chars().any(is_harmful));
    proper.then(|| Available {
        job: item.job.clone(),
        package: item.package.clone(),
        version: item.version.clone(),
        description: item.description.clone(),
        total_bytes: item.total_bytes.max(0) as u64,
        queued: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::FolderVault;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_offered_is_kept_across_restarts_and_found_by_its_name_or_its_job() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let load = || Shelf::load(Arc::new(FolderVault::open(folder.path()).unwrap())).unwrap();
        let item = |job: &str, package: &str, description: &str| v1::ShelfItem {
            job: format!("jobs/{job}"),
            package: package.into(),
            version: "1".into(),
            description: description.into(),
            total_bytes: 5,
        };
        let items = vec![item("a", "editor", "writes"), item("b", "game", "plays"), item("c", "game", ""), item("d", "bad", "\u{1b}[2J")];
        load().is_told(&v1::Shelf { items, digest: vec![7; 32].into() }).unwrap();
        let shelf = load();
        assert_eq!((shelf.all().len(), shelf.digest().len()), (3, 32));
        assert_eq!(shelf.find("editor").unwrap().job, "jobs/a");
        assert_eq!(shelf.find("c").unwrap().package, "game");
        assert!(shelf.find("game").unwrap_err().0.contains("b, c"));
        assert!(shelf.find("bad").unwrap_err().0.contains("nothing named"));
    }
}
