//! The manager's folder: what lies where in it, that one process has it, and what must not be there.
//!
//! ```text
//! D/                  mode 0700
//!   manager.toml      the configuration
//!   lock              held by the process that serves, and by local commands
//!   ca.lock           held by whoever reads or exchanges the CAs, while the manager serves or not
//!   local.sock        where it hears local commands while it serves
//!   ca/               the root and the three issuing CAs, with their keys
//!   server/           the manager's own key and certificate, renewed by itself
//!   manager.db        the database, unless it is a PostgreSQL elsewhere
//!   content/          packages' bytes
//!   reserve           room for what must go on when the disk is full
//! ```

use rustix::fs::FlockOperation;
use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};
use sutler_certs::{
    durable::{self, FileError},
    publisher::{PublisherKeyError, find_publisher_key},
};

/// How long another process may take to let go of the folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How long the CAs are waited for that another process has: nobody needs them for longer than a moment.
const CA_PATIENCE: Duration = Duration::from_secs(10);

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is not there, or others may enter it.
    #[error("cannot use the manager's folder {}: {source}", path.display())]
    Closed {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// Another process serves from it.
    #[error("another process uses the manager's folder {}: stop that `sutler serve` first, or use another folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Another process works with the CAs.
    #[error(
        "another process works with the CAs in {} and did not end within {} s: wait for that command, or end it, and try again",
        path.display(), CA_PATIENCE.as_secs()
    )]
    CaInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The lock could not be taken.
    #[error("cannot lock {}: {source}", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A publisher's key lies there.
    #[error(
        "{} is a publisher's key (or an encrypted key), and the manager's folder must not hold one: whoever takes over the manager could \
         sign packages with it. Move it to the profile of the person who publishes",
        path.display()
    )]
    PublisherKey {
        /// The key's file.
        path: PathBuf,
    },
    /// The folder could not be searched.
    #[error("cannot search the manager's folder for publishers' keys: {0}")]
    Search(#[from] PublisherKeyError),
}

/// Where everything is in the manager's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(PathBuf);

/// The lock of this file; none if nobody gave it back in this time.
fn within(path: &Path, patience: Duration) -> Result<Option<FolderLock>, FolderError> {
    let failed = |source| FolderError::Lock { path: path.into(), source };
    let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    let (tell, told) = mpsc::channel();
    // What waits can't be called off: where nobody takes the lock any more, it is given back at once.
    std::thread::spawn(move || {
        let taken = rustix::fs::flock(file.file(), FlockOperation::LockExclusive);
        let _ = tell.send(taken.map(|()| FolderLock { _file: file }));
    });
    match told.recv_timeout(patience) {
        Ok(taken) => taken.map(Some).map_err(|e| failed(e.into())),
        Err(_) => Ok(None),
    }
}

impl Folder {
    /// The layout below `path`; nothing is looked at.
    pub fn new(path: impl Into<PathBuf>) -> Folder {
        Folder(path.into())
    }

    /// The folder at `path`, which must be there and closed to others.
    pub fn open(path: &Path) -> Result<Folder, FolderError> {
        durable::check_private_folder(path).map_err(|source| FolderError::Closed { path: path.into(), source })?;
        Ok(Folder(path.into()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `manager.toml`.
    pub fn config(&self) -> PathBuf {
        self.0.join("manager.toml")
    }

    /// The CAs' folder.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    /// The folder of the manager's own key and certificate.
    pub fn server(&self) -> PathBuf {
        self.0.join("server")
    }

    /// The folder of packages' bytes.
    pub fn content(&self) -> PathBuf {
        self.0.join("content")
    }

    /// The file of the embedded database.
    pub fn database(&self) -> PathBuf {
        self.0.join("manager.db")
    }

    /// The socket for commands on this host.
    pub fn local_socket(&self) -> PathBuf {
        self.0.join("local.sock")
    }

    /// Takes the folder for this process; refused while another process has it. It is given back when the value is
    /// dropped, also by a process that is killed.
    pub fn lock(&self) -> Result<FolderLock, FolderError> {
        // Whoever held it may have started a program that has not let go of its files yet.
        within(&self.0.join("lock"), LOCK_PATIENCE)?.ok_or_else(|| FolderError::InUse { path: self.0.clone() })
    }

    /// Takes the CAs for this process, so that what is read of them belongs together and nothing of what is put there is lost;
    /// waits for another one that has them. Apart from [`Folder::lock`], which the manager holds as long as it serves.
    pub fn lock_ca(&self) -> Result<FolderLock, FolderError> {
        within(&self.0.join("ca.lock"), CA_PATIENCE)?.ok_or_else(|| FolderError::CaInUse { path: self.0.clone() })
    }

    /// Refuses a folder in which a publisher's key lies. Looks at every small file by its content, whatever its name, but
    /// not into the packages' bytes.
    pub fn refuse_publisher_keys(&self) -> Result<(), FolderError> {
        match find_publisher_key(&self.0, &["content"])? {
            Some(path) => Err(FolderError::PublisherKey { path }),
            None => Ok(()),
        }
    }
}

/// That this process has the manager's folder, or the CAs in it.
#[derive(Debug)]
pub struct FolderLock {
    _file: fs_err::File,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_certs::PublisherKey;

    fn folder(temporary: &tempfile::TempDir) -> Folder {
        let path = temporary.path().join("manager");
        durable::private_folder(&path).unwrap();
        Folder::open(&path).unwrap()
    }

    #[test]
    fn a_folder_serves_one_process_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = folder(&temporary);
        let lock = folder.lock().unwrap();
        assert!(matches!(folder.lock(), Err(FolderError::InUse { .. })));
        drop(lock);
        folder.lock().unwrap();
    }

    #[test]
    fn a_publishers_key_in_the_managers_folder_is_noticed_whatever_its_name() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = folder(&temporary);
        fs_err::create_dir_all(folder.path().join("notes/old")).unwrap();
        fs_err::create_dir_all(folder.content()).unwrap();
        folder.refuse_publisher_keys().unwrap();
        PublisherKey::generate().unwrap().save(&folder.content().join("a")).unwrap();
        folder.refuse_publisher_keys().unwrap();
        PublisherKey::generate().unwrap().save(&folder.path().join("notes/old/letter.txt")).unwrap();
        assert!(
            matches!(folder.refuse_publisher_keys(), Err(FolderError::PublisherKey { path }) if path.ends_with("notes/old/letter.txt"))
        );
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let temporary = tempfile::tempdir().unwrap();
        fs_err::set_permissions(temporary.path(), PermissionsExt::from_mode(0o750)).unwrap();
        assert!(matches!(Folder::open(temporary.path()), Err(FolderError::Closed { .. })));
        assert!(matches!(Folder::open(&temporary.path().join("none")), Err(FolderError::Closed { .. })));
    }
}
