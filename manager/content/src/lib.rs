//! The bytes of packages: how files are cut, how objects are stored and checked, and which of them are still needed.
//!
//! An *object* is a chunk of a file, a chunk list or a manifest. It is addressed by the BLAKE3 digest of its
//! uncompressed bytes, stored compressed where that makes it smaller, and checked against its digest whenever it is
//! read. What is stored is immutable, so two uploads of the same object can't harm each other, and nothing here needs
//! to know who uploads. Neither gRPC nor SQL is known here.
//!
//! Invariants:
//! - An object is durable before `put` returns, and it appears under its name only as a whole.
//! - In a store that several managers share, nothing that one of them removes is gone while another may count on it.
//! - Nothing leaves the store that was not checked against its digest.
//! - What an upload asked about or stored is not removed as garbage while it is younger than the grace period.
//! - Nothing is read into memory before its size was found to be within its limit.

pub mod chunker;
pub mod closure;
pub mod delta;
pub mod encoding;
mod error;
pub mod garbage;
mod recent;
pub mod s3;
#[cfg(test)]
mod samples;
mod scrub;
mod store;

pub use closure::Closure;
pub use encoding::Encoding;
pub use error::Error;
pub use garbage::Collected;
pub use scrub::Looked;
pub use store::{Content, Kind};
