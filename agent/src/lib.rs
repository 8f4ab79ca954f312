//! The agent of Sutler: lets a machine enrol, keeps one connection to its manager, and installs what it is offered.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod facts;
pub mod fetch;
pub mod guard;
pub mod identity;
pub mod install;
pub mod installer;
pub mod journal;
pub mod limits;
pub mod link;
pub mod machine;
pub mod memory;
pub mod platform;
pub mod policy;
pub mod service;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod vault;
pub mod work;

pub use agent::{Agent, AgentError, Deps, Ended, Handle, Trial};
