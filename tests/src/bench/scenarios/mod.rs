//! What is measured, each in a room of its own.

mod fan_out;
mod fetch;
mod footprint;
mod idle;
mod new_client;
mod policies;
mod run_job;
mod scale_out;
mod store;
mod storm;
mod update;

use super::run::Run;

/// One of them.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// In a sentence.
    pub(super) what: &'static str,
    pub(super) run: fn(&mut Run),
}

/// All of them, in the order in which `all` runs them.
pub(super) static ALL: &[Scenario] = &[
    footprint::SCENARIO,
    new_client::ONE,
    new_client::MANY,
    run_job::SCENARIO,
    fetch::ONE,
    fetch::SIXTEEN,
    idle::SCENARIO,
    storm::SCENARIO,
    fan_out::SCENARIO,
    policies::SCENARIO,
    store::SCENARIO,
    update::SCENARIO,
    scale_out::SCENARIO,
];
