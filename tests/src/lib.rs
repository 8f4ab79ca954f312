//! What the tests of the whole product share: the harness that runs the real programs, the fleet that lives in the test's own
//! process, and the tools that they need; and the benchmark.

pub mod bench;
pub mod fleet;
pub mod harness;
pub mod hostile;
pub mod mutations;
pub mod postgres;
pub mod tools;
