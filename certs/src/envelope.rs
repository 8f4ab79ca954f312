//! The signature of a package's manifest: an envelope that names the manifest by digest and length, and does not hold it.
//!
//! What is signed is the DSSE pre-authentication encoding of the manifest's exact bytes. So nothing has to be parsed
//! before a signature is known to be good, and the same signature can't be passed off as one over another kind of document.

use crate::{
    publisher::{KeyId, PublisherKey, Signature},
    trust::{self, TrustDocument},
};
use serde::{Deserialize, Serialize};
use sutler_base::{Digest, Timestamp, limits, quoted, told};

/// The type of what a manifest's signature covers.
pub const MANIFEST_TYPE: &str = "application/vnd.sutler.manifest.v1+json";
/// The most signatures on one thing: as many as there can be keys.
pub const SIGNATURES_MAX: usize = trust::KEYS_MAX;

/// DSSE's pre-authentication encoding: `DSSEv1 SP LEN(type) SP type SP LEN(body) SP body`, lengths in decimal bytes.
///
/// Two different pairs of type and body never have the same encoding.
pub fn pae(payload_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), body.len());
    let mut out = Vec::with_capacity(head.len() + body.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
    out
}

/// A signature and the name of the key that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySignature {
    /// The key's name. A hint: the signature is checked with the trusted key of that name.
    pub key_id: KeyId,
    /// The signature.
    pub signature: Signature,
}

/// The signed name of a manifest. In JSON at most [`limits::ENVELOPE_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// What was signed: [`MANIFEST_TYPE`].
    pub payload_type: String,
    /// The BLAKE3 digest of the manifest's bytes.
    pub digest: Digest,
    /// How many bytes the manifest has.
    pub length: u64,
    /// Signatures over the pre-authentication encoding of the manifest's bytes.
    pub signatures: Vec<KeySignature>,
}

/// An envelope can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Longer than [`limits::ENVELOPE_MAX`].
    #[error("the envelope has {0} bytes; {max} are allowed", max = limits::ENVELOPE_MAX)]
    TooLong(usize),
    /// Not the JSON of an envelope.
    #[error("the envelope can't be read: {0}")]
    Malformed(String),
    /// For something else than a manifest.
    #[error("the envelope is for {0}, not for {MANIFEST_TYPE}")]
    PayloadType(String),
    /// The manifest that it names is longer than one may be.
    #[error("the envelope names a manifest of {0} bytes; {max} are allowed", max = limits::MANIFEST_MAX)]
    ManifestTooLong(u64),
    /// More than [`SIGNATURES_MAX`] signatures.
    #[error("the envelope has {0} signatures; {SIGNATURES_MAX} are allowed")]
    TooManySignatures(usize),
}

impl Envelope {
    /// Signs the exact bytes of a manifest with each of these keys.
    pub fn sign(manifest: &[u8], keys: &[&PublisherKey]) -> Envelope {
        let signatures = sign_with(keys, &pae(MANIFEST_TYPE, manifest));
        Envelope { payload_type: MANIFEST_TYPE.into(), digest: Digest::of(manifest), length: manifest.len() as u64, signatures }
    }

    /// The envelope in this JSON; whether its signatures are good, [`verify_manifest`] says.
    pub fn from_json(json: &[u8]) -> Result<Envelope, EnvelopeError> {
        if json.len() > limits::ENVELOPE_MAX {
            return Err(EnvelopeError::TooLong(json.len()));
        }
        let envelope: Envelope = serde_json::from_slice(json).map_err(|e| EnvelopeError::Malformed(told(&e)))?;
        if envelope.payload_type != MANIFEST_TYPE {
            return Err(EnvelopeError::PayloadType(quoted(&envelope.payload_type)));
        }
        if envelope.length > limits::MANIFEST_MAX {
            return Err(EnvelopeError::ManifestTooLong(envelope.length));
        }
        if envelope.signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::TooManySignatures(envelope.signatures.len()));
        }
        Ok(envelope)
    }

    /// Adds a signature over the exact bytes of the manifest, in place of one that names the same key.
    pub fn add_signature(&mut self, manifest: &[u8], key: &PublisherKey) {
        let mut new = sign_with(&[key], &pae(MANIFEST_TYPE, manifest));
        self.signatures.retain(|s| s.key_id != key.key_id());
        self.signatures.append(&mut new);
    }

    /// Whether this key, which `document` knows, signed these bytes.
    pub fn is_signed_by(&self, document: &TrustDocument, key: &KeyId, manifest: &[u8]) -> bool {
        let signature = self.signatures.iter().find(|s| s.key_id == *key);
        let message = pae(MANIFEST_TYPE, manifest);
        signature.is_some_and(|s| document.key(key).is_some_and(|key| key.verifies(&message, &s.signature)))
    }

    /// The envelope as JSON, one line.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are always JSON")
    }
}

pub(crate) fn sign_with(keys: &[&PublisherKey], message: &[u8]) -> Vec<KeySignature> {
    keys.iter().map(|k| KeySignature { key_id: k.key_id(), signature: k.sign(message) }).collect()
}

/// Why a manifest must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestRefused {
    /// The envelope is for something else.
    #[error("the envelope is for {0}, not for {MANIFEST_TYPE}")]
    PayloadType(String),
    /// Longer or shorter than the envelope says.
    #[error("the manifest has {actual} bytes where the envelope names {named}: it was cut off, or is another one")]
    Length {
        /// What the envelope says.
        named: u64,
        /// How many there are.
        actual: u64,
    },
    /// Other bytes than the envelope names.
    #[error("the manifest's digest is {actual} where the envelope names {named}: it was changed after it was signed")]
    Digest {
        /// What the envelope says.
        named: Digest,
        /// What it is.
        actual: Digest,
    },
    /// Not enough trusted publishers signed it.
    #[error(
        "{good} trusted publishers' keys signed the manifest, {needed} are needed; have it signed by a publisher that the clients trust"
    )]
    Signatures {
        /// How many did.
        good: usize,
        /// How many must.
        needed: usize,
    },
    /// The package's name can't be read.
    #[error("the manifest's package name can't be read: {0}")]
    Name(String),
    /// The publishers may not sign packages of that name.
    #[error("the publishers may not sign a package named {0}; the trust document's prefixes do not allow it")]
    Prefix(String),
    /// The trust document has expired.
    #[error("the publishers' trust document expired at {0}; publish a new one")]
    TrustExpired(Timestamp),
}

/// Whether these bytes are a manifest that enough trusted publishers signed, for a package that they may sign, while the
/// trust document lasts. Checked in the cheapest order: length, digest, signatures, name, expiry.
///
/// The manifest's own rules (its validity, its release against the client's mark, its conditions) are not looked at here.
/// After `Ok` it may be parsed.
pub fn verify_manifest(document: &TrustDocument, envelope: &Envelope, manifest: &[u8], now: Timestamp) -> Result<(), ManifestRefused> {
    if envelope.payload_type != MANIFEST_TYPE {
        return Err(ManifestRefused::PayloadType(quoted(&envelope.payload_type)));
    }
    let actual = manifest.len() as u64;
    if envelope.length != actual || actual > limits::MANIFEST_MAX {
        return Err(ManifestRefused::Length { named: envelope.length, actual });
    }
    let actual = Digest::of(manifest);
    if envelope.digest != actual {
        return Err(ManifestRefused::Digest { named: envelope.digest, actual });
    }
    let sets = document.signing_sets(&envelope.signatures, &pae(MANIFEST_TYPE, manifest));
    let sets = sets.map_err(|good| ManifestRefused::Signatures { good, needed: document.threshold() })?;
    // Signed bytes from here on. A name that is there twice is an error, so that no other reader takes the other one.
    let Named { name } = serde_json::from_slice(manifest).map_err(|e| ManifestRefused::Name(told(&e)))?;
    if !sets.iter().any(|prefixes| trust::fits(prefixes, &name)) {
        return Err(ManifestRefused::Prefix(quoted(name.as_str())));
    }
    if document.is_expired(now) {
        return Err(ManifestRefused::TrustExpired(document.expires()));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Named {
    name: sutler_base::PackageName,
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
