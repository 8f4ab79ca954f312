//! How a job is carried out: when, in which order of clients, and what follows from how it goes.

use crate::{rollout::Rollout, schedule::Schedule};
use serde::{Deserialize, Serialize};

/// The terms of a job, as they are kept: what is missing has its default, so that a newer manager reads what an older one wrote.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobTerms {
    /// The stages in which it reaches its clients, and what stops it.
    pub rollout: Rollout,
    /// When.
    pub schedule: Schedule,
    /// Its bytes flow although the transfers of a group that the client is in are suspended.
    pub through_suspended: bool,
}
