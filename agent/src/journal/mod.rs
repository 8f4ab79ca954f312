//! What the agent has taken on, on disk before it acts on it: one small file per attempt.
//!
//! The machine says when a record is written ([`Effect::Journal`](crate::machine::Effect::Journal)); nothing of an
//! attempt goes on before the write is durable. A file whose checksum is wrong is a damaged attempt, which ends as
//! interrupted. If the whole ledger is gone the manager is told so, since what had been accepted can't be known.

mod folder;

pub use folder::{FolderJournal, Inspected, decode, encode};

use crate::machine::Record;
use std::path::PathBuf;
use sutler_base::AttemptId;

/// How many ended attempts are kept, to answer the same offer with what became of it.
pub const ANSWERS_MAX: usize = 256;

/// What a journal holds when the agent starts.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every attempt that is not recorded above.
    pub records: Vec<Record>,
    /// Those that are retired, but what they left on the machine may still be there.
    pub retired: Vec<Record>,
    /// Attempts that were accepted and whose file can't be read any more.
    pub damaged: Vec<AttemptId>,
    /// The ledger as a whole was lost since the last session; stays so until [`Journal::settle`].
    pub lost: bool,
}

/// What is kept of an attempt that is over.
#[derive(Debug, Clone, PartialEq)]
pub enum Answered {
    /// It was never retired, or so long ago that it is forgotten.
    No,
    /// It was retired, and what became of it can't be read any more. It is over all the same.
    Damaged,
    /// What became of it.
    Yes(Box<Record>),
}

/// The journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk is full, the reserve used up. Nothing of what was to be written may go on; it may pass.
    #[error("the disk is full, {path} can't be written; make room: nothing is started before")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// What is on the disk can't be known any more. The process must end.
    #[error("the journal can't be used: {doing} {path}: {source}; the agent ends, since nobody can say what is on the disk")]
    Broken {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Keeps the records of attempts. Its methods may block.
pub trait Journal: Send + 'static {
    /// What is in it. Called once, at the start.
    fn load(&mut self) -> Result<Loaded, JournalError>;
    /// The manager knows that the ledger was lost, if it was: from now on it counts as whole.
    fn settle(&mut self) -> Result<(), JournalError>;
    /// Makes a record durable, in place of the one before.
    fn write(&mut self, record: &Record) -> Result<(), JournalError>;
    /// An attempt is over: its record becomes the answer to the same offer, should it come again.
    fn retire(&mut self, record: &Record) -> Result<(), JournalError>;
    /// What a retired attempt left on the machine is gone: it is taken out.
    fn discard(&mut self, attempt: &AttemptId) -> Result<(), JournalError>;
    /// Gives free what is kept for a full disk, so that something small can be written.
    fn make_room(&mut self);
    /// Keeps that again; whether it is kept and there is room beside it, as there is unless the disk is full.
    fn keep_room(&mut self) -> bool;
    /// What is kept of an attempt that was retired.
    fn answer(&self, attempt: &AttemptId) -> Answered;
    /// Those from this id on that can still be read, in order of their ids: the order in which they were offered.
    fn answers_from(&self, first: &AttemptId) -> Vec<Record>;
}
