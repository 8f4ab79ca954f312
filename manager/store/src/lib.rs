//! The manager's memory: SQL, and nothing else.
//!
//! A unit of work is a closure that gets a [`Tx`] and either commits whole or leaves no trace. The same text of SQL serves
//! SQLite and PostgreSQL: the files under `sql/` are compiled once inside `sqlite` and once inside `postgres`.

mod tx;

pub use tx::*;

use std::{future::Future, pin::Pin};

/// What a unit of work is while it runs.
pub type Work<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// A unit of work that may be run again (after a deadlock, or behind another one): captures are cloned for each run.
///
/// `unit!([name, now] |tx| { tx.group(&name).await … })`
#[macro_export]
macro_rules! unit {
    ([$($capture:ident),* $(,)?] |$tx:ident| $body:block) => {
        move |$tx: &mut dyn $crate::Tx| -> $crate::Work<'_, _, _> {
            $(let $capture = $capture.clone();)*
            Box::pin(async move $body)
        }
    };
}

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique name or key is taken; the word says which kind of object.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// The database can't be reached, is locked, or is shutting down; nothing was changed, or it can't be known.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The disk is full, or the reserve was reached; nothing was changed.
    #[error("the database's disk is full: {0}")]
    Full(String),
    /// What is stored can't be read back: a damaged database, or one of another version.
    #[error("the database holds what this version can't read: {0}")]
    Corrupt(String),
    /// Anything else: a bug.
    #[error("the database refused a statement: {0}")]
    Statement(String),
}

/// A handle to the database; cheap to clone.
///
/// Opened with [`Store::open`] (`sqlite://PATH` or `postgres://…`).
#[derive(Clone)]
pub struct Store {}
