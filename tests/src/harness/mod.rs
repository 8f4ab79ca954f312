//! Runs the real programs as processes: managers, agents, an administrator's command line.
//!
//! ```no_run
//! use sutler_tests::harness::{Agent, Manager, PATIENCE, wait_until};
//! let manager = Manager::start();
//! let agent = Agent::enrolled("alpha", &manager);
//! manager.cli().ok("group create new-clients");
//! manager.cli().ok(&format!("group add new-clients {}", agent.id()));
//! ```
//!
//! Every process binds a free [`Port`] of the loopback, lies in a temporary folder, and is gone with the test, however that ends
//! (see [`cleanup`]). Tests wait for conditions alone (see [`wait`]).

mod agent;
mod api;
mod balancer;
mod bucket;
pub mod cleanup;
mod cli;
mod disk;
mod jobs;
mod manager;
mod namespaces;
mod package;
mod port;
pub mod programs;
mod proxy;
mod raw;
mod rows;
mod session;
mod terminal;
pub mod wait;

pub use agent::Agent;
pub use api::Api;
pub use balancer::Balancer;
pub use bucket::Bucket;
pub use cli::{Cli, Done, run, words};
pub use disk::SmallDisk;
pub use jobs::{JobView, Row};
pub use manager::{Addresses, Manager, Setup};
pub use namespaces::{Chain, Namespaces};
pub use package::{COUNTING, PackageFolder, noise};
pub use port::Port;
pub use proxy::{Line, Proxy};
pub use raw::{descriptors, method};
pub use rows::{Reader, Rows};
pub use session::Session;
pub use terminal::Terminal;
pub use wait::{PATIENCE, wait_for, wait_for_value, wait_until};
