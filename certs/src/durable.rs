//! Writes files that are there whole or not at all, also after a power cut, and refuses private ones that others can read.
//!
//! A file is written under another name in the same folder, synced, renamed, and the folder is synced: a reader sees the
//! old content or the new one. An error of a sync is returned and never tried again: the caller must stop.

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use std::{
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use zeroize::Zeroizing;

/// What went wrong with a file or folder.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file could not be written so that it stays.
    #[error("cannot write {path}: {source}; check that the folder exists, is yours and has space")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder could not be made.
    #[error("cannot make the folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A private file or folder that other users may read or change.
    #[error(
        "{path} is open to other users (mode {mode:04o}) and must not be used: run chmod go= on it, and replace its keys if others use this machine"
    )]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Longer than such a file can be.
    #[error("{path} is longer than {limit} bytes, so it is not what it should be")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

impl FileError {
    /// Whether the file is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, FileError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone (mode 0600).
    Owner,
    /// Everybody whom the folder lets in (mode 0644).
    Everybody,
}

/// Replaces the file at `path` by `bytes`, whole and durably.
pub fn write(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), FileError> {
    replace(path, bytes, readers, true)
}

/// The same, but that after a power cut the file may be gone or hold anything: for what can be had again, and is checked by
/// whoever reads it.
pub fn cache(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), FileError> {
    replace(path, bytes, readers, false)
}

fn replace(path: &Path, bytes: &[u8], readers: Readers, durable: bool) -> Result<(), FileError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let failed = |source| FileError::Write { path: path.into(), source };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    // Two processes (two commands of one operator) may write the same file at once: each has a name of its own.
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let temporary = path.with_file_name(temporary);
    let result = write_then_rename(&temporary, path, bytes, readers, durable);
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(failed)
}

fn write_then_rename(temporary: &Path, path: &Path, bytes: &[u8], readers: Readers, durable: bool) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // A new file, so that neither its owner nor its mode is somebody else's idea.
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    if readers == Readers::Everybody {
        file.set_permissions(PermissionsExt::from_mode(0o644))?;
    }
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(temporary, path)?;
    if durable { sync_folder(parent(path)) } else { Ok(()) }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder as durable as the files' content.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Makes the folder at `path` (mode 0700) unless it is there already; one that others may enter is refused.
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Folder { path: path.into(), source };
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_folder(parent(path)).map_err(failed)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(failed(e)),
    }
    refuse_exposed(path, &fs::metadata(path).map_err(failed)?)
}

fn refuse_exposed(path: &Path, metadata: &std::fs::Metadata) -> Result<(), FileError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 { Err(FileError::Exposed { path: path.into(), mode }) } else { Ok(()) }
}

/// Refuses a folder that others may enter.
pub fn check_private_folder(path: &Path) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(|source| FileError::Read { path: path.into(), source })?;
    refuse_exposed(path, &metadata)
}

/// The content of a private file; refused if others may read or write it, or if it is longer than `limit` bytes.
///
/// The mode is that of the file which is then read, not of what the name stood for a moment before. Whose file it is
/// isn't checked here: who holds private folders (the agent's state, the manager's folder) checks them at start.
pub fn read_private(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let failed = |source| FileError::Read { path: path.into(), source };
    let file = fs::File::open(path).map_err(failed)?;
    refuse_exposed(path, &file.metadata().map_err(failed)?)?;
    read_bounded(file, path, limit).map(Zeroizing::new)
}

/// The content of a file that anybody may read; refused if it is longer than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = fs::File::open(path).map_err(|source| FileError::Read { path: path.into(), source })?;
    read_bounded(file, path, limit)
}

fn read_bounded(file: fs::File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|source| FileError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > limit { Err(FileError::TooLong { path: path.into(), limit }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_the_owners_alone_and_one_that_is_not_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write(&path, b"one", Readers::Owner).unwrap();
        write(&path, b"two", Readers::Owner).unwrap();
        assert_eq!(*read_private(&path, 10).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert!(matches!(read_private(&path, 10), Err(FileError::Exposed { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_is_too_long_or_not_there_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(read_private(&path, 10).unwrap_err().is_not_found());
        write(&path, &[0; 11], Readers::Owner).unwrap();
        assert!(matches!(read_private(&path, 10), Err(FileError::TooLong { limit: 10, .. })));
        assert!(write(&folder.path().join("no/such"), b"", Readers::Owner).unwrap_err().to_string().contains("no/such"));
    }

    #[test]
    fn a_private_folder_that_others_may_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca");
        private_folder(&path).unwrap();
        private_folder(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o750)).unwrap();
        assert!(matches!(private_folder(&path), Err(FileError::Exposed { mode: 0o750, .. })));
    }
}
