//! The whole product in one process: a manager with its real ports, an operator who calls it, and machines whose agents
//! are the real ones over a simulated machine.
//!
//! Calls wait until they are done, so a test reads like what a person does. The manager has a runtime of its own: a crash
//! takes the runtime away from under it, and nothing of it goes on, as with a process that was killed.

mod machine;
mod manager;
mod network;
mod operator;

pub use machine::Machine;
pub use manager::{Database, Manager, Packages};
pub use network::{Network, Weather};
pub use operator::{Operator, Refused, push};
