//! Who is who, and who signed what: certificate authorities, identities, TLS configurations, publishers' signatures.
//!
//! - [`ca`]: a root that can go offline and, under it, one issuing CA each for agents, operators and servers.
//! - [`csr`] and [`issue`]: from a request the public key and nothing else; everything in a certificate is the manager's word.
//! - [`identity`]: what a certificate says about the other side, read once.
//! - [`tls`]: configurations of rustls for both ports and both kinds of client. TLS 1.3 only, no resumption, each port
//!   trusts exactly its own CA.
//! - [`keys`]: the key pairs of agents, operators and managers, and signatures with them.
//! - [`server`]: the manager's own certificate, made and renewed in its folder.
//! - [`publisher`], [`trust`], [`revocations`] and [`envelope`]: publishers' keys, the document that says whom to trust, what
//!   they took back, the signature of a manifest.
//! - `passphrase`: people's keys, encrypted (with the feature of that name).
//! - [`secret`]: how the secret of a token is kept.
//! - [`durable`] and [`pem`]: files that are there whole or not at all, and their armour.
//!
//! What is never here: a decision about what a caller may do. This crate says who calls, and whether the certificate has
//! ended; the router above decides.

pub mod ca;
#[cfg(test)]
mod conformance_tests;
pub mod csr;
pub mod durable;
pub mod envelope;
pub mod identity;
pub mod issue;
pub mod keys;
#[cfg(feature = "passphrase")]
pub mod passphrase;
pub mod pem;
pub mod publisher;
pub mod revocations;
pub mod secret;
pub mod server;
mod signed;
pub mod tls;
pub mod trust;

pub use ca::CaBundle;
pub use csr::{CsrError, public_key_of_csr};
pub use envelope::{Envelope, verify_manifest};
pub use identity::{Identity, PeerCertificate, RootPin, Serial, TrustDomain};
pub use issue::{Host, Issued};
pub use keys::{Credential, PrivateKey, PublicKey};
#[cfg(feature = "passphrase")]
pub use passphrase::Passphrase;
pub use publisher::{KeyId, PublisherKey, PublisherPublicKey};
pub use revocations::{RevocationList, SignedRevocations};
pub use trust::{SignedTrustDocument, TrustDocument};

/// `bytes` as lower-case hex digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// The SHA-256 digest of `bytes`.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}
