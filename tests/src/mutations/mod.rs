//! Shows of every promise that a test keeps it: for each there is a patch that takes the protection away, and the test that
//! fails then.
//!
//! `tests/promises.toml` has the promises, `tests/mutations/` the patches. A mutation is tried in a copy of this source below
//! `target/mutations`, so that nothing that is killed half-way leaves a program without its protections behind.
//!
//! Patches in `tests/mutations/untried/` were written, but nobody has seen their test fail yet. They count for nothing: one
//! moves up when `run` has shown it.

mod list;
mod table;
mod trial;

pub use list::{Against, Mutation, Promise, Promises, mutations, promises, sources};
pub use table::{in_readme, table};
pub use trial::{Tried, Workshop};

use std::path::{Path, PathBuf};

/// The root of the source.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the source is where it was built")
}
