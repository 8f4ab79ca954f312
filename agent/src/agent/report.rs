//! What the manager was told of this machine: everything at first, then only what changed.
//!
//! The report that was sent last is kept in a file, so that after a restart, too, what changed is enough. Whether the manager really
//! has it is told by its digest: one that was restored from a backup, or missed something, names another, and gets everything.

use crate::vault::{Vault, VaultError};
use serde_json::Value;
use std::sync::Arc;
use sutler_base::{Digest, facts::Facts, patch};
use sutler_proto::v1::FactsReport;

/// The file of the vault.
const FILE: &str = "reported.json";

/// The facts, and what was said of them.
pub(super) struct Report {
    vault: Arc<dyn Vault>,
    /// The facts as JSON.
    json: String,
    digest: Digest,
    /// What the manager was told last, with its digest.
    told: Option<(Digest, String)>,
}

impl Report {
    /// The facts as they are at the start.
    pub(super) fn new(vault: Arc<dyn Vault>, facts: &Facts) -> Result<Report, VaultError> {
        let told = vault.read(FILE)?.and_then(|bytes| String::from_utf8(bytes).ok());
        let json = facts.to_json();
        let digest = Digest::of(json.as_bytes());
        Ok(Report { vault, digest, json, told: told.map(|told| (Digest::of(told.as_bytes()), told)) })
    }

    /// The facts as JSON.
    pub(super) fn json(&self) -> &str {
        &self.json
    }

    /// Their digest.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Measured anew; true if something is not as it was.
    pub(super) fn measured(&mut self, facts: &Facts) -> bool {
        let json = facts.to_json();
        let new = json != self.json;
        if new {
            self.digest = Digest::of(json.as_bytes());
            self.json = json;
        }
        new
    }

    /// What a manager is to be told that has the facts with this digest: what changed, if that is known, else everything; none if it
    /// has what there is.
    pub(super) fn to(&self, theirs: Option<Digest>) -> Option<FactsReport> {
        if theirs == Some(self.digest) {
            return None;
        }
        let changes = || {
            let (digest, told) = self.told.as_ref().filter(|(digest, _)| Some(*digest) == theirs)?;
            let (from, to) = (serde_json::from_str::<Value>(told).ok()?, serde_json::from_str(&self.json).ok()?);
            let json = patch::difference(&from, &to).to_string();
            let bytes = |digest: &Digest| bytes::Bytes::copy_from_slice(digest.as_bytes());
            // Where nearly all is new, all is shorter.
            (json.len() < self.json.len()).then(|| FactsReport { json, base: bytes(digest), digest: bytes(&self.digest) })
        };
        Some(changes().unwrap_or_else(|| FactsReport { json: self.json.clone(), ..FactsReport::default() }))
    }

    /// The digest of what the manager was told last.
    pub(super) fn told(&self) -> Option<Digest> {
        self.told.as_ref().map(|(digest, _)| *digest)
    }

    /// The manager has what there is, or is about to.
    pub(super) fn is_told(&mut self) -> Result<(), VaultError> {
        if self.told() == Some(self.digest) {
            return Ok(());
        }
        self.told = Some((self.digest, self.json.clone()));
        self.vault.write(FILE, self.json.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::FolderVault;

    #[test]
    fn only_what_changed_is_told_across_restarts_and_everything_to_a_manager_that_has_something_else() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let vault: Arc<dyn Vault> = Arc::new(FolderVault::open(folder.path()).unwrap());
        let package = |n: u32| sutler_base::facts::Package::parse(&format!("dpkg package-{n} 1.0-1 amd64")).unwrap();
        let before = Facts { hostname: "a".into(), packages: (0..1000).map(package).collect(), ..Facts::default() };
        let mut report = Report::new(vault.clone(), &before).unwrap();
        let all = report.to(None).unwrap();
        assert!(all.base.is_empty() && all.json == before.to_json());
        report.is_told().unwrap();
        let first = report.digest();
        assert_eq!((report.to(Some(first)), report.measured(&before)), (None, false));

        let after = Facts { packages: (1..1001).map(package).collect(), ..before };
        // A restart in between.
        let mut report = Report::new(vault.clone(), &after).unwrap();
        let changed = report.to(Some(first)).unwrap();
        assert_eq!(changed.json, r#"{"packages":{"dpkg package-0 1.0-1 amd64":null,"dpkg package-1000 1.0-1 amd64":true}}"#);
        assert_eq!((&changed.base[..], &changed.digest[..]), (&first.as_bytes()[..], &report.digest().as_bytes()[..]));
        for other in [None, Some(Digest::of(b"other"))] {
            assert_eq!(report.to(other).unwrap().json, after.to_json());
        }
        report.is_told().unwrap();
        vault.write(FILE, b"{").unwrap();
        assert!(Report::new(vault, &before_of(&after)).unwrap().to(Some(first)).unwrap().base.is_empty(), "a damaged file is none");
    }

    fn before_of(facts: &Facts) -> Facts {
        Facts { hostname: "b".into(), ..facts.clone() }
    }
}
