//! The end of this process' chain of the audit log, as units see it: only what is committed moves it.
//!
//! A unit takes the end after it took its number of the change sequence, whose row is locked until the unit ends: units
//! that write to the log follow each other by that lock already, and waiting for the end costs them nothing more. It is
//! given back after the commit. A unit whose commit was cut off does not give it back: whether its entries are there can't
//! be known, and the next entry begins a new chain. So does a unit that would have to wait for that.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use sutler_core::audit::ChainEnd;
use tokio::sync::OwnedMutexGuard;

/// How long a unit waits for the end, which it gets at once, unless the answer to a commit is waited for on a connection that is dead:
/// the change sequence is free again, and whoever has it now holds up all managers.
const PATIENCE: Duration = Duration::from_secs(2);

/// The end that every unit of this process follows.
#[derive(Clone, Default)]
pub(crate) struct Ends {
    /// None: the next entry begins a chain.
    end: Arc<tokio::sync::Mutex<Option<ChainEnd>>>,
    /// The newest end that is committed, for whoever asks.
    kept: Arc<Mutex<Option<ChainEnd>>>,
}

impl Ends {
    /// What a unit that may write starts with.
    pub(crate) fn unit(&self) -> Chain {
        Chain { ends: Some(self.clone()), held: None, next: None }
    }

    /// The newest entry of this process that is committed.
    pub(crate) fn kept(&self) -> Option<ChainEnd> {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end as one unit sees it.
#[derive(Default)]
pub(crate) struct Chain {
    ends: Option<Ends>,
    held: Option<OwnedMutexGuard<Option<ChainEnd>>>,
    next: Option<ChainEnd>,
}

impl Chain {
    /// What the next entry follows. From now on other units wait for this one.
    pub(crate) async fn end(&mut self) -> Option<ChainEnd> {
        if self.held.is_none()
            && let Some(ends) = &self.ends
        {
            match tokio::time::timeout(PATIENCE, ends.end.clone().lock_owned()).await {
                Ok(held) => {
                    self.next = *held;
                    self.held = Some(held);
                }
                // It begins a chain of its own, which ends with it.
                Err(_) => self.ends = None,
            }
        }
        self.next
    }

    /// The unit has written an entry.
    pub(crate) fn set(&mut self, end: ChainEnd) {
        self.next = Some(end);
    }

    /// The end so far, to come back to with [`Chain::set_back`] if what follows is not kept.
    pub(crate) async fn mark(&mut self) -> Option<ChainEnd> {
        self.end().await
    }

    /// What was written after the mark is not kept.
    pub(crate) fn set_back(&mut self, mark: Option<ChainEnd>) {
        self.next = mark;
    }

    /// To be called before the commit: until [`Chain::committed`] it can't be known what the log ends with.
    pub(crate) fn committing(&mut self) {
        if let Some(held) = &mut self.held {
            **held = None;
        }
    }

    /// The unit is committed.
    pub(crate) fn committed(mut self) {
        if let (Some(held), Some(ends)) = (&mut self.held, &self.ends) {
            **held = self.next;
            *ends.kept.lock().unwrap_or_else(PoisonError::into_inner) = self.next;
        }
    }
}
