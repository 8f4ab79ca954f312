//! What can go wrong with stored content, by what the caller has to do about it.

use crate::Kind;
use std::path::PathBuf;
use sutler_base::{Digest, Invalid};

/// Why an object could not be stored, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is not in the store.
    #[error("the object {0} is not in the store; push the package again")]
    Missing(Digest),
    /// What is stored is not what its digest says. Nothing of it was handed out.
    #[error("the stored object {digest} is damaged ({why}); push the package again, or restore the object from a backup")]
    Damaged {
        /// The object's address.
        digest: Digest,
        /// What was found.
        why: String,
    },
    /// The bytes that came are not those that the digest names. Nothing was stored.
    #[error("the bytes that came for the object {expected} have the digest {actual}; send it again")]
    Mismatch {
        /// The digest under which they came.
        expected: Digest,
        /// The digest that they have.
        actual: Digest,
    },
    /// The bytes that came are longer than an object of this kind can be, perhaps only once decompressed. Nothing was stored.
    #[error("the bytes that came for the object {digest} have, uncompressed, more than {} bytes: too many for a {kind}", kind.limit())]
    TooLong {
        /// The digest under which they came.
        digest: Digest,
        /// What it should be.
        kind: Kind,
    },
    /// The bytes that came can't be decompressed. Nothing was stored.
    #[error("the bytes that came for the object {digest} are not zstd: {why}; send it again")]
    Undecodable {
        /// The digest under which they came.
        digest: Digest,
        /// What the decompressor says.
        why: String,
    },
    /// The disk is full, or would use up what is kept in reserve. Nothing was stored; reading goes on.
    #[error("there is no space for the object {digest}: {why}; make room and push again")]
    NoSpace {
        /// The object that was to be stored.
        digest: Digest,
        /// How much is free, or what the system said.
        why: String,
    },
    /// The disk did not take what was to be durable. From now on this store takes nothing; the process has to end.
    #[error("the object {digest} could not be made durable: {why}; check the disk, then start the manager again")]
    NotDurable {
        /// The object that was to be stored.
        digest: Digest,
        /// What the system said.
        why: String,
    },
    /// The object is whole, but not a manifest.
    #[error("the object {digest} is not a manifest: {why}")]
    NotAManifest {
        /// The object's address.
        digest: Digest,
        /// Which rule it breaks.
        why: Invalid,
    },
    /// The object is whole, but not the chunk list of that file.
    #[error("the object {digest} is not the chunk list of {path}: {why}")]
    NotAChunkList {
        /// The object's address.
        digest: Digest,
        /// The file in the package.
        path: String,
        /// Which rule it breaks.
        why: Invalid,
    },
    /// The object is whole, but not a delta.
    #[error("the object {digest} is not a delta: {why}")]
    NotADelta {
        /// The object's address.
        digest: Digest,
        /// Which rule it breaks.
        why: Invalid,
    },
    /// The folder of the store can't be used.
    #[error("the folder {} can't hold objects: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file with the CAs for the store's server can't be used.
    #[error("{} holds no certificates for the store's server: {source}; name a PEM file (s3.ca)", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The file with the key for the store can't be used.
    #[error("{} holds no key for the store: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without anything of what is in it.
        source: std::io::Error,
    },
    /// Anything else that the store said.
    #[error("the store failed to {what}: {source}")]
    Store {
        /// What was tried, on what.
        what: String,
        /// What it said.
        source: object_store::Error,
    },
}

impl Error {
    /// Whether the process may not acknowledge anything any more and has to end.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::NotDurable { .. })
    }

    /// `source` as the error of an attempt to store `digest`.
    pub(crate) fn of_put(digest: Digest, source: object_store::Error) -> Error {
        let said = source.to_string();
        match system_error(&source) {
            Some((std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge, _)) => {
                Error::NoSpace { digest, why: said }
            }
            // An I/O error while writing says nothing about what is on the disk now: it can't be tried again.
            Some((_, Some(EIO))) => Error::NotDurable { digest, why: said },
            _ if said.contains("sync data to disk") => Error::NotDurable { digest, why: said },
            _ => Error::Store { what: format!("store the object {digest}"), source },
        }
    }

    /// `source` as the error of an attempt to read `digest`.
    pub(crate) fn of_get(digest: Digest, source: object_store::Error) -> Error {
        match source {
            object_store::Error::NotFound { .. } => Error::Missing(digest),
            // The disk can't read it: for whoever needs it that is the same as bytes that are wrong.
            source if matches!(system_error(&source), Some((_, Some(EIO)))) => Error::Damaged { digest, why: source.to_string() },
            source => Error::Store { what: format!("read the object {digest}"), source },
        }
    }

    /// The same of what the system said of a file.
    pub(crate) fn of_read(digest: Digest, source: std::io::Error) -> Error {
        match source.kind() {
            std::io::ErrorKind::NotFound => Error::Missing(digest),
            _ => Error::of_get(digest, object_store::Error::Generic { store: "folder", source: source.into() }),
        }
    }
}

/// The number that Unix gives to an input/output error of a device.
const EIO: i32 = 5;

/// The system's error below `error`, if one is there.
fn system_error(error: &object_store::Error) -> Option<(std::io::ErrorKind, Option<i32>)> {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(here) = at {
        if let Some(io) = here.downcast_ref::<std::io::Error>() {
            return Some((io.kind(), io.raw_os_error()));
        }
        at = here.source();
    }
    None
}
