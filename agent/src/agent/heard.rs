//! When the agent last heard from its manager, kept across restarts: a manager that is silent for long may be kept away.

use crate::vault::{Vault, VaultError};
use std::{sync::Arc, time::Duration};
use sutler_base::Timestamp;

const FILE: &str = "heard";
/// How much older than the truth the file may be.
const NOTED_EVERY: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
/// After how long without a word from the manager the agent says so.
pub(super) const LONG: Duration = Duration::from_secs(7 * 86_400);

/// When the manager was last heard of.
pub(super) struct Heard {
    vault: Arc<dyn Vault>,
    at: Option<Timestamp>,
    noted: Option<Timestamp>,
}

impl Heard {
    /// As the last run left it. A file that can't be read is none.
    pub(super) fn load(vault: Arc<dyn Vault>) -> Heard {
        let text = vault.read(FILE).ok().flatten().and_then(|b| String::from_utf8(b).ok());
        let at: Option<Timestamp> = text.and_then(|t| t.trim().parse().ok());
        Heard { vault, at, noted: at }
    }

    /// The manager said something. Noted now and then; where the disk is full, with the next word.
    pub(super) fn now(&mut self, now: Timestamp) -> Result<(), VaultError> {
        self.at = Some(now);
        if self.noted.is_none_or(|noted| now.duration_since(noted).abs() >= NOTED_EVERY) {
            self.vault.write(FILE, now.to_string().as_bytes())?;
            self.noted = Some(now);
        }
        Ok(())
    }

    /// When; none if never.
    pub(super) fn at(&self) -> Option<Timestamp> {
        self.at
    }

    /// For how many days nothing was heard, once that is long.
    pub(super) fn silent_days(&self, now: Timestamp) -> Option<u64> {
        let silent = now.duration_since(self.at?).unsigned_abs();
        (silent >= LONG && now > self.at?).then_some(silent.as_secs() / 86_400)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::FolderVault;

    #[test]
    fn a_long_silence_is_noticed_across_restarts() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let vault = || -> Arc<dyn Vault> { Arc::new(FolderVault::open(folder.path()).unwrap()) };
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after = |days: u64| start.checked_add(Duration::from_secs(days * 86_400)).unwrap();
        let mut heard = Heard::load(vault());
        assert_eq!(heard.silent_days(after(99)), None, "it was never heard of");
        heard.now(start).unwrap();
        let again = Heard::load(vault());
        assert_eq!((again.at(), again.silent_days(after(6)), again.silent_days(after(8))), (Some(start), None, Some(8)));
        std::fs::write(folder.path().join("heard"), "garbage").unwrap();
        assert_eq!(Heard::load(vault()).at(), None);
    }
}
