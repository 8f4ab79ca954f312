//! Room on the manager's disk that is kept for what must go on when it is full: revocations, renewals, and their entries in
//! the audit log.
//!
//! The room is a file of that size, so that nobody else can take it. When the disk has almost none left, the file is given
//! back to the system, and from then on only units of work that [`is_essential`] names are taken; everything else is refused.
//! When there is room again for the file and more, it is made again and all goes on as before; nothing has to be started anew.

use fs_err as fs;
use std::{
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The disk is looked at by whoever is about to write at most this often; a worker looks, too.
const LOOK: Duration = Duration::from_millis(250);

/// What goes on from the reserve: what takes rights away, what keeps clients and operators from being locked out, what ends
/// work that is under way, and what makes room. None of it lets anybody write as much as he likes.
pub fn is_essential(unit: &str) -> bool {
    const NAMES: [&str; 26] = [
        "remove",
        "unenroll",
        "quarantine",
        "revoke_token",
        "revoke_operator",
        "update_operator",
        "issue_operator",
        "cancel_job",
        "abort_job",
        "pause_job",
        "halt_job",
        "stop_work",
        "renew_client",
        "renew_operator",
        "first_use",
        "open_session",
        "session_ended",
        "presence",
        "refused",
        "note_left_out",
        "cancel_acknowledged",
        "finish_cancels",
        "expire",
        "complete",
        "caught_up",
        "forget_requests",
    ];
    NAMES.contains(&unit)
}

/// The reserve of one folder's disk.
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    full: AtomicBool,
    free: AtomicU64,
    looked: Mutex<Option<Instant>>,
}

impl Reserve {
    /// A reserve of so many bytes on the disk of `folder`, whose file is made as soon as there is room. 0: none.
    pub fn new(folder: &Path, bytes: u64) -> Reserve {
        let reserve = Reserve {
            path: folder.join("reserve"),
            bytes,
            full: AtomicBool::new(false),
            free: AtomicU64::new(0),
            looked: Mutex::new(None),
        };
        reserve.look();
        reserve
    }

    /// So little must be left (bytes) that the disk counts as full.
    pub fn margin(&self) -> u64 {
        self.bytes / 4
    }

    /// Whether the disk is full: then how many bytes are left. Looks at the disk unless somebody just did.
    pub fn is_full(&self) -> Option<u64> {
        let due = {
            let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            looked.is_none_or(|at| at.elapsed() >= LOOK)
        };
        if due {
            self.look();
        }
        self.full.load(Ordering::Acquire).then(|| self.free.load(Ordering::Acquire))
    }

    /// Looks at the disk now: gives the file back if the disk is full, makes it again if there is room.
    pub fn look(&self) {
        if self.bytes == 0 {
            return;
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.settle() {
            tracing::warn!(path = %self.path.display(), %error, "the disk's reserve could not be looked after; it is tried again");
        }
        *looked = Some(Instant::now());
    }

    fn settle(&self) -> io::Result<()> {
        let mut free = self.free_bytes()?;
        let held = fs::metadata(&self.path).map_or(0, |m| m.len());
        let was_full = self.full.load(Ordering::Acquire);
        if held >= self.bytes {
            if free < self.margin() {
                fs::remove_file(&self.path)?;
                free = self.free_bytes()?;
                self.full.store(true, Ordering::Release);
            } else {
                self.full.store(false, Ordering::Release);
            }
        } else if free >= self.bytes + 2 * self.margin() {
            // Twice: it must not be full again at once.
            let options = { std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone() };
            let file = options.open(&self.path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes)?;
            free = self.free_bytes()?;
            self.full.store(false, Ordering::Release);
        } else {
            self.full.store(true, Ordering::Release);
        }
        self.free.store(free, Ordering::Release);
        let is_full = self.full.load(Ordering::Acquire);
        if is_full && !was_full {
            tracing::error!(free, "the disk is full: only revocations, renewals and what makes room are written, from the reserve");
        } else if was_full && !is_full {
            tracing::info!(free, "the disk has room again: everything is written");
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_fits_is_made_and_one_that_does_not_counts_as_full() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(folder.path(), 1 << 20);
        assert_eq!(reserve.is_full(), None);
        let file = fs::metadata(folder.path().join("reserve")).unwrap();
        assert_eq!(file.len(), 1 << 20);
        // More than any disk has.
        let other = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(other.path(), 1 << 60);
        assert!(reserve.is_full().is_some_and(|free| free > 0));
        assert!(!other.path().join("reserve").exists());
        assert_eq!(Reserve::new(other.path(), 0).is_full(), None, "without a reserve nothing is refused before the disk is full");
    }

    #[test]
    fn what_takes_rights_away_is_essential_and_what_gives_them_is_not() {
        for unit in
            ["remove", "quarantine", "revoke_token", "renew_client", "renew_operator", "cancel_job", "abort_job", "pause_job", "halt_job"]
        {
            assert!(is_essential(unit), "{unit}");
        }
        for unit in
            ["create_group", "enroll", "push_package", "run_job", "facts", "orders", "approve", "resume_job", "promote_job", "rollout"]
        {
            assert!(!is_essential(unit), "{unit}");
        }
    }
}
