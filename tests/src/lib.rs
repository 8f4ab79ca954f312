//! What the tests of the whole product share: the harness that runs the real programs, and the tools that they need.

pub mod harness;
pub mod postgres;
pub mod tools;
