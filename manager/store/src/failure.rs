//! Why a statement failed, and what that means for what runs around it.

use crate::StoreError;

/// What to do about a failed statement, beside telling the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing: the unit leaves no trace.
    None,
    /// Run the whole unit again: a deadlock, or a row that changed meanwhile.
    Again,
    /// Stop: the disk failed, and nothing that was written since the last commit can be trusted.
    Stop,
}

/// Why a statement failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// For the caller.
    pub(crate) error: StoreError,
    /// For the database.
    pub(crate) remedy: Remedy,
}

impl Failure {
    /// A failure that concerns nobody but the caller.
    pub(crate) fn of(error: StoreError) -> Failure {
        Failure { error, remedy: Remedy::None }
    }
}
