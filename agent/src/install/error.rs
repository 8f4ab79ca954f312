//! What can go wrong while a package is put on the machine, and the word it is reported under.

use crate::install::ExchangeState;
use std::{io, path::PathBuf};
use sutler_base::state::ErrorKind;

/// Why something on the machine could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's folder can't be trusted or used.
    #[error("the agent's folder {path} {why}; it must be a directory of mode 0700 that belongs to the user the agent runs as")]
    State {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A link on the way to an installation directory leads out of the root that the agent installs into.
    #[error("{path} leaves the root {root}: a link on the way leads out of it; remove the link or install elsewhere")]
    LeavesRoot {
        /// The path that was being resolved.
        path: PathBuf,
        /// The root that it must stay in.
        root: PathBuf,
    },
    /// Somebody else than root could change a directory on the way while we write below it.
    #[error("{path} {why}, so that others than root could change what is installed below it; give it to root, or install elsewhere")]
    Untrusted {
        /// The directory or link.
        path: PathBuf,
        /// Who could.
        why: String,
    },
    /// Something that is no directory lies where one must be.
    #[error("{path} is not a directory; move it away, or install elsewhere")]
    NotADirectory {
        /// What lies there.
        path: PathBuf,
    },
    /// The installation directory holds something that this package did not bring.
    #[error("{path} holds {by}, which this package would destroy; move it away, or install elsewhere")]
    Occupied {
        /// The installation directory.
        path: PathBuf,
        /// What is in it.
        by: String,
    },
    /// Not enough room on the disk.
    #[error("{path} has room for {free} {what}, {needed} are needed; make room and try again")]
    NoSpace {
        /// The directory whose file system it is.
        path: PathBuf,
        /// `bytes` or `files`.
        what: &'static str,
        /// How many are needed, the reserve included.
        needed: u64,
        /// How many there are.
        free: u64,
    },
    /// Bytes are not what the publisher signed.
    #[error("{what} is not what the publisher signed: its digest should be {expected}")]
    Content {
        /// Which bytes.
        what: String,
        /// The digest that they should have.
        expected: sutler_base::Digest,
    },
    /// The manifest can't be installed.
    #[error("the manifest can't be installed: {0}")]
    Manifest(String),
    /// The tree was to be finished, but lacks chunks.
    #[error("the tree in {path} still lacks {chunks} chunks; fetch them first")]
    Incomplete {
        /// The staging place.
        path: PathBuf,
        /// How many are missing.
        chunks: usize,
    },
    /// The exchange is not at the point that was assumed.
    #[error("{path} can't be {asked}: the exchange of this attempt is {state}")]
    Phase {
        /// The installation directory.
        path: PathBuf,
        /// What was asked for.
        asked: &'static str,
        /// Where it is.
        state: ExchangeState,
    },
    /// The step has been started before; it is never started again.
    #[error("step {step} has been started before ({path} exists); pick it up instead")]
    AlreadyStarted {
        /// Which step.
        step: String,
        /// The step's folder.
        path: PathBuf,
    },
    /// The step still runs.
    #[error("the step in {path} still runs; wait for its end first")]
    StillRunning {
        /// The step's folder.
        path: PathBuf,
    },
    /// The program of a step can't be run: it is not there, or not inside the package.
    #[error("the program {program:?} of the step can't be run: {why}")]
    Program {
        /// As the manifest names it.
        program: String,
        /// What is wrong.
        why: String,
    },
    /// The supervisor could not be started.
    #[error("the supervisor {program} can't be started: {source}")]
    Spawn {
        /// The supervisor's program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The machine can't be asked what it has.
    #[error(transparent)]
    Platform(#[from] crate::platform::PlatformError),
    /// An operation on a file failed.
    #[error("can't {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `fsync` failed: what was written may be lost, and asking again would not tell. **The process must end.**
    #[error("can't make {path} durable: {source}; the agent ends, since nobody can say what is on the disk")]
    Sync {
        /// What was to be durable.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The word that the manager and people see.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NoSpace { .. } => ErrorKind::NoSpace,
            Error::Io { source, .. } | Error::Sync { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                ErrorKind::NoSpace
            }
            Error::Content { .. } => ErrorKind::ContentMismatch,
            Error::Manifest(_) => ErrorKind::ManifestInvalid,
            Error::Program { .. } | Error::Spawn { .. } => ErrorKind::StepNotStarted,
            _ => ErrorKind::ClientIo,
        }
    }

    /// Whether the process must end, because it can't know any more what is on the disk.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::Sync { .. })
    }
}

/// Turns what the system said into an error that says what was tried, and on what.
pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Error {
    let path = path.into();
    move |source| Error::Io { doing, path, source: source.into() }
}

/// The same for `fsync`.
pub(crate) fn sync<E: Into<io::Error>>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Error {
    let path = path.into();
    move |source| Error::Sync { path, source: source.into() }
}
