//! Where the agent keeps what it must not forget: small private files that are there whole or not at all.

use std::{
    io,
    path::{Path, PathBuf},
};
use sutler_certs::durable::{self, FileError, Readers};

/// The longest file that is read back (bytes): a manifest.
const FILE_MAX: u64 = sutler_base::limits::MANIFEST_MAX;

/// A file of the vault could not be used.
#[derive(Debug, thiserror::Error)]
#[error("the agent's folder: {0}")]
pub struct VaultError(#[from] pub FileError);

impl VaultError {
    /// Whether the disk is full: then others things may still work, and it may pass.
    pub fn is_full(&self) -> bool {
        let source = match &self.0 {
            FileError::Write { source, .. } | FileError::Read { source, .. } | FileError::Folder { source, .. } => source,
            FileError::Exposed { .. } | FileError::TooLong { .. } => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Names are given by the agent's code, never by what it was sent; `/` parts a folder from a file.
pub trait Vault: Send + Sync + 'static {
    /// The content of a file; none if there is none.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VaultError>;
    /// Replaces a file, whole and durably. After an error that is not [`VaultError::is_full`] the process must end.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError>;
    /// Replaces a file, whole as long as the machine runs; after a power cut it may be gone or hold anything. For what can be had
    /// again, and is checked by whoever reads it.
    fn cache(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError>;
    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> Result<(), VaultError>;
    /// The names of the files in a folder, without the folder's; none if it is not there. Temporary ones are left out.
    fn list(&self, folder: &str) -> Result<Vec<String>, VaultError>;
}

/// A vault in a folder of mode 0700.
#[derive(Debug, Clone)]
pub struct FolderVault {
    folder: PathBuf,
}

impl FolderVault {
    /// The vault in `folder`, which is made if it is missing; refused if others may enter it.
    pub fn open(folder: &Path) -> Result<FolderVault, VaultError> {
        if let Some(above) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(above).map_err(|source| FileError::Folder { path: above.into(), source })?;
        }
        durable::private_folder(folder)?;
        Ok(FolderVault { folder: folder.into() })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a file is to be, in a folder that is there.
    fn place(&self, name: &str) -> Result<PathBuf, VaultError> {
        if let Some((folder, _)) = name.rsplit_once('/') {
            durable::private_folder(&self.folder.join(folder))?;
        }
        Ok(self.folder.join(name))
    }
}

impl Vault for FolderVault {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
        match durable::read_private(&self.folder.join(name), FILE_MAX) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError> {
        Ok(durable::write(&self.place(name)?, bytes, Readers::Owner)?)
    }

    fn cache(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError> {
        Ok(durable::cache(&self.place(name)?, bytes, Readers::Owner)?)
    }

    fn remove(&self, name: &str) -> Result<(), VaultError> {
        let path = self.folder.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FileError::Write { path, source }.into()),
            _ => Ok(()),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, VaultError> {
        let path = self.folder.join(folder);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(source) => return Err(FileError::Read { path, source }.into()),
        };
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        Ok(names.filter(|name| !name.starts_with('.')).collect())
    }
}
