//! Clients that are known: what they say of themselves, and what an administrator finds out of it.

mod facts;
mod software;
