//! The parsers of sutler-tests without the manager, which they don't need.

#[path = "../src/hostile/parsers.rs"]
pub mod parsers;
