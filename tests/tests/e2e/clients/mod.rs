//! Clients that are known: what they say of themselves, and what an administrator finds out of it.

mod archive;
mod duplicates;
pub(crate) mod facts;
mod list;
mod questions;
mod software;
