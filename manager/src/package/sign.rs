//! Signs a package with its publisher's key, on the publisher's machine.

use super::build::Built;
use sutler_certs::{Envelope, PublisherKey};

/// A package as it can be sent: what was read from the folder, and the signature over its manifest.
#[derive(Debug)]
pub struct SignedPackage {
    /// The manifest and where its content is.
    pub built: Built,
    /// The signed name of the manifest.
    pub envelope: Envelope,
    /// The envelope's exact bytes (JSON), as they are sent.
    pub envelope_bytes: Vec<u8>,
}

/// Signs the exact bytes of the manifest, command lines and all.
pub fn sign(built: Built, key: &PublisherKey) -> SignedPackage {
    let envelope = Envelope::sign(&built.manifest_bytes, &[key]);
    let envelope_bytes = envelope.to_json();
    SignedPackage { built, envelope, envelope_bytes }
}
