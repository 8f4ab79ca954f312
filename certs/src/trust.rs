//! The publishers' trust document: which keys may sign packages, how many of them must, for which names, and until when.
//!
//! Its digest is pinned by the enrolment token, so the first one that an agent takes is the one its administrator meant.
//! A later document takes the place of the one before it when its version is greater by one and enough keys of *both*
//! signed it; the format is ready for that (`epoch`, `version`, any number of signatures), the exchange comes later.

use crate::{
    envelope::{KeySignature, SIGNATURES_MAX, pae, sign_with},
    publisher::{KeyId, PublisherKey, PublisherPublicKey},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use sutler_base::{Digest, PackageName, Timestamp, limits, quoted};

/// The type of what a trust document's signature covers.
pub const TRUST_TYPE: &str = "application/vnd.sutler.trust.v1+json";
/// The most keys in a trust document.
pub const KEYS_MAX: usize = 64;
/// The most prefixes in a trust document.
pub const PREFIXES_MAX: usize = 256;
/// The longest signed trust document (bytes of JSON): the document in base64, and its signatures.
pub const SIGNED_MAX: usize = 2 * limits::ENVELOPE_MAX;

/// Why a trust document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Longer than [`limits::ENVELOPE_MAX`], or [`SIGNED_MAX`] with its signatures.
    #[error("the trust document has {0} bytes, which is too long")]
    TooLong(usize),
    /// Not the JSON of a trust document.
    #[error("the trust document can't be read: {0}")]
    Malformed(String),
    /// Another format than 1.
    #[error("the trust document has format {0}; this version reads format 1. Update this program")]
    Format(u32),
    /// It has a member that a reader must know, and this one does not.
    #[error("the trust document needs {0}, which this version does not know. Update this program")]
    Critical(String),
    /// It breaks a rule of its own.
    #[error("the trust document makes no sense: {0}")]
    Rule(String),
    /// Another document than the one that was pinned.
    #[error("the trust document's digest is {actual} where {pin} is pinned: it is another one than the administrator meant")]
    NotPinned {
        /// The pinned digest.
        pin: Digest,
        /// The document's.
        actual: Digest,
    },
    /// Not signed by enough of its own keys.
    #[error("{good} of its own keys signed the trust document, {needed} are needed")]
    Signatures {
        /// How many did.
        good: usize,
        /// How many must.
        needed: usize,
    },
}

/// A key that may sign packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedKey {
    /// Its name, which follows from it.
    pub key_id: KeyId,
    /// The key.
    pub public_key: PublisherPublicKey,
}

impl From<PublisherPublicKey> for TrustedKey {
    fn from(public_key: PublisherPublicKey) -> TrustedKey {
        TrustedKey { key_id: public_key.key_id(), public_key }
    }
}

/// Whom to trust. Whoever holds one holds one that obeys all rules: see [`TrustDocument::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDocument(Wire);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wire {
    format: u32,
    critical: Vec<String>,
    epoch: u64,
    version: u64,
    keys: Vec<TrustedKey>,
    threshold: usize,
    prefixes: Vec<String>,
    expires: Timestamp,
}

/// Members that `critical` may name, since this version obeys them.
const KNOWN: &[&str] = &["epoch", "version", "keys", "threshold", "prefixes", "expires"];

impl TrustDocument {
    /// A document with these keys (1 to [`KEYS_MAX`], all different), of which `threshold` must sign each package whose name
    /// starts with one of `prefixes` (1 to [`PREFIXES_MAX`]; the empty one fits all names), until `expires`.
    ///
    /// `epoch` counts new beginnings (a document that does not follow from the one before), `version` the documents from 1.
    pub fn new(
        epoch: u64,
        version: u64,
        keys: &[PublisherPublicKey],
        threshold: usize,
        prefixes: &[&str],
        expires: Timestamp,
    ) -> Result<TrustDocument, TrustError> {
        Wire {
            format: 1,
            critical: vec![],
            epoch,
            version,
            keys: keys.iter().map(|k| (*k).into()).collect(),
            threshold,
            prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(),
            expires,
        }
        .checked()
    }

    /// The document in these bytes. Whether anybody meant it, [`SignedTrustDocument::open_pinned`] says.
    fn from_json(json: &[u8]) -> Result<TrustDocument, TrustError> {
        if json.len() > limits::ENVELOPE_MAX {
            return Err(TrustError::TooLong(json.len()));
        }
        // What this version can't read may be a later format: say that first.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            #[serde(default)]
            critical: Vec<String>,
        }
        let head: Head = serde_json::from_slice(json).map_err(|e| TrustError::Malformed(e.to_string()))?;
        if head.format != 1 {
            return Err(TrustError::Format(head.format));
        }
        if let Some(unknown) = head.critical.iter().find(|c| !KNOWN.contains(&c.as_str())) {
            return Err(TrustError::Critical(quoted(unknown)));
        }
        serde_json::from_slice::<Wire>(json).map_err(|e| TrustError::Malformed(e.to_string()))?.checked()
    }

    /// The document as JSON, indented: what is signed.
    fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(&self.0).expect("texts and numbers are always JSON");
        json.push(b'\n');
        json
    }

    /// Signs the document with each of these keys; enough of its own must be among them for it to be taken.
    pub fn sign(&self, keys: &[&PublisherKey]) -> SignedTrustDocument {
        let document = self.to_json();
        let signatures = sign_with(keys, &pae(TRUST_TYPE, &document));
        SignedTrustDocument { document, signatures }
    }

    /// How many of this document's keys made one of `signatures` over `message`. Each key counts once, and only its first
    /// signature is looked at, so that a list of bad ones costs no more than one each.
    pub(crate) fn signers(&self, signatures: &[KeySignature], message: &[u8]) -> usize {
        let signed = |key: &&TrustedKey| {
            let first = signatures.iter().find(|s| s.key_id == key.key_id);
            first.is_some_and(|s| key.public_key.verifies(message, &s.signature))
        };
        self.0.keys.iter().filter(signed).count()
    }

    /// How many new beginnings there were.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// The number of this document, from 1.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The keys that may sign.
    pub fn keys(&self) -> &[TrustedKey] {
        &self.0.keys
    }

    /// How many of them must.
    pub fn threshold(&self) -> usize {
        self.0.threshold
    }

    /// With what the names of packages must start.
    pub fn prefixes(&self) -> &[String] {
        &self.0.prefixes
    }

    /// Until when the document holds.
    pub fn expires(&self) -> Timestamp {
        self.0.expires
    }

    /// Whether the document has expired.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now > self.0.expires
    }

    /// Whether the keys may sign a package of this name.
    pub fn may_sign(&self, name: &PackageName) -> bool {
        self.0.prefixes.iter().any(|p| name.as_str().starts_with(p.as_str()))
    }
}

impl Wire {
    fn checked(self) -> Result<TrustDocument, TrustError> {
        let rule = |text: String| Err(TrustError::Rule(text));
        if self.keys.is_empty() || self.keys.len() > KEYS_MAX {
            return rule(format!("it has {} keys; 1 to {KEYS_MAX} are allowed", self.keys.len()));
        }
        let mut seen = HashSet::new();
        for key in &self.keys {
            if key.key_id != key.public_key.key_id() {
                return rule(format!("the key {} is named {}", key.public_key.key_id(), key.key_id));
            }
            if !seen.insert(&key.key_id) {
                return rule(format!("the key {} is there twice", key.key_id));
            }
        }
        if self.threshold == 0 || self.threshold > self.keys.len() {
            return rule(format!("its threshold is {} of {} keys", self.threshold, self.keys.len()));
        }
        if self.version == 0 {
            return rule("its version is 0; versions count from 1".into());
        }
        if self.prefixes.is_empty() || self.prefixes.len() > PREFIXES_MAX {
            return rule(format!("it has {} prefixes; 1 to {PREFIXES_MAX} are allowed, the empty one for all names", self.prefixes.len()));
        }
        if let Some(odd) = self.prefixes.iter().find(|p| p.len() > 100 || !p.bytes().all(is_name_byte)) {
            return rule(format!("no package's name starts with {}", quoted(odd)));
        }
        let document = TrustDocument(self);
        match document.to_json().len() {
            length if length > limits::ENVELOPE_MAX => Err(TrustError::TooLong(length)),
            _ => Ok(document),
        }
    }
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b)
}

/// A trust document's exact bytes and their signatures: what is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTrustDocument {
    document: Vec<u8>,
    signatures: Vec<KeySignature>,
}

#[derive(Serialize, Deserialize)]
struct SignedWire {
    payload_type: String,
    payload: String,
    signatures: Vec<KeySignature>,
}

impl SignedTrustDocument {
    /// What a token pins: the BLAKE3 digest of the document's bytes, without the signatures.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.document)
    }

    /// As JSON: `{payload_type, payload (base64), signatures: [{key_id, signature}]}`.
    pub fn to_json(&self) -> Vec<u8> {
        let wire =
            SignedWire { payload_type: TRUST_TYPE.into(), payload: STANDARD.encode(&self.document), signatures: self.signatures.clone() };
        serde_json::to_vec(&wire).expect("texts are always JSON")
    }

    /// The signed document in this JSON, not yet checked: open it.
    pub fn from_json(json: &[u8]) -> Result<SignedTrustDocument, TrustError> {
        if json.len() > SIGNED_MAX {
            return Err(TrustError::TooLong(json.len()));
        }
        let malformed = |e: &dyn std::fmt::Display| TrustError::Malformed(e.to_string());
        let wire: SignedWire = serde_json::from_slice(json).map_err(|e| malformed(&e))?;
        if wire.payload_type != TRUST_TYPE {
            return Err(TrustError::Malformed(format!("it is {}, not {TRUST_TYPE}", quoted(&wire.payload_type))));
        }
        if wire.signatures.len() > SIGNATURES_MAX {
            return Err(TrustError::Malformed(format!("it has more than {SIGNATURES_MAX} signatures")));
        }
        let document = STANDARD.decode(wire.payload).map_err(|e| malformed(&e))?;
        Ok(SignedTrustDocument { document, signatures: wire.signatures })
    }

    /// The document, if it is the pinned one and enough of its own keys signed it. Nothing of it is parsed before the
    /// pin is known to fit. Its expiry is asked when something is verified with it.
    pub fn open_pinned(&self, pin: &Digest) -> Result<TrustDocument, TrustError> {
        let actual = self.digest();
        if actual != *pin {
            return Err(TrustError::NotPinned { pin: *pin, actual });
        }
        self.open()
    }

    /// The document, if enough of its own keys signed it: for the administrator who made it, who knows it is the one.
    pub fn open(&self) -> Result<TrustDocument, TrustError> {
        let document = TrustDocument::from_json(&self.document)?;
        let (good, needed) = (document.signers(&self.signatures, &pae(TRUST_TYPE, &self.document)), document.threshold());
        if good < needed { Err(TrustError::Signatures { good, needed }) } else { Ok(document) }
    }
}
