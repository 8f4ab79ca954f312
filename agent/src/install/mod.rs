//! Puts a package on the machine: nothing of it twice, nothing of it half.
//!
//! - [`Layout`]: where things lie, and that nothing on the way to them belongs to somebody else.
//! - [`Staging`]: the package's tree beside its final place, made of chunks that are each verified before they are written.
//! - [`keep`], [`take`]: a tree that is kept for a later attempt, since it was only to be fetched.
//! - [`Workshop`]: files of the new version, made from those of the old one by a delta.
//! - [`Exchange`]: the new tree takes the place of the old one in one rename, and can go back in one.
//! - [`Supervisor`], [`start`], [`pick_up`]: a step of the package, run at most once by a process that outlives the agent.
//! - [`supervise`]: that process.
//! - [`detect`]: whether the package is there, asked of the machine and not of a record.
//! - [`logs`]: the ends of log files of what failed.
//! - [`Host`]: what the machine has and is, for a package's requirements.
//!
//! Everything here blocks, except [`Running::wait`]: call it on a blocking thread. Nothing here decides *whether* to do
//! something; the journal above does, and is on disk before it calls.
//!
//! Why a supervisor of our own and not transient systemd units: it is the one way that works the same under systemd (with
//! `KillMode=process`), in a container, on a machine without systemd and for a user who is not root, so it is the one that
//! every test runs. It keeps the time limit over a suspend, keeps the end of the output, and makes the exit durable
//! itself; a transient unit forgets its result once it is collected or the machine's systemd is re-executed at the wrong moment.

mod child;
mod detect;
mod durable;
mod error;
mod exchange;
mod host;
mod kept;
mod layout;
pub(crate) mod logs;
mod made;
mod plan;
mod steps;
mod supervise;
mod tree;

#[cfg(test)]
mod tests;

pub use detect::{Detected, detect};
pub use error::Error;
pub use exchange::{Exchange, ExchangeState, TreeRecord, remove_installed};
pub use host::Host;
pub use kept::{drop_kept, keep, take};
pub use layout::{Layout, room};
pub use logs::LogEnd;
pub use made::{Unmade, Workshop, remove_made};
pub use plan::ChunkLists;
pub use steps::{Ended, Place, Running, StepEnd, StepId, StepSpec, Supervisor, forget, pick_up, start};
pub use supervise::supervise;
pub use tree::{OldTree, Reserve, Source, Staged, Staging};
