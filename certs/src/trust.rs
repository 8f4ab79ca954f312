//! The publishers' trust document: which keys may sign packages, how many of them must, for which names, and until when.
//!
//! Its digest is pinned by the enrolment token, so the first one that an agent takes is the one its administrator meant.
//! A later document takes the place of the one before it when its version is greater by one and enough keys of *both*
//! signed it ([`TrustDocument::next`]), so that nobody can jump ahead and nobody can go back.
//!
//! An installation has *one* chain of documents. Its own keys (the owners') sign documents and packages; further
//! [`PublisherSet`]s in it have keys, a threshold and prefixes of their own and sign packages alone. One document for each
//! set would need somebody to say which sets there are, and that must not be the manager: so the owners say it, in the
//! document that they sign anyway, and a token pins one digest.
//!
//! `epoch` counts new beginnings: see [`crate::revocations`].

use crate::{
    envelope::{KeySignature, pae},
    publisher::{KeyId, PublisherKey, PublisherPublicKey},
    signed::{Signed, SignedError},
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use sutler_base::{Digest, PackageName, Timestamp, limits, quoted, told};

/// The type of what a trust document's signature covers.
pub const TRUST_TYPE: &str = "application/vnd.sutler.trust.v1+json";
/// The most keys in a trust document.
pub const KEYS_MAX: usize = 64;
/// The most prefixes in a trust document.
pub const PREFIXES_MAX: usize = 256;
/// The most sets of publishers beside the owners.
pub const SETS_MAX: usize = 32;
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
    /// Not the next document after the one that is held.
    #[error("the trust document has version {actual} where {expected} follows; versions go up one by one")]
    NotNext {
        /// The version that follows.
        expected: u64,
        /// The document's.
        actual: u64,
    },
    /// Its epoch is neither the one before nor the next.
    #[error("the trust document has epoch {actual} after {before}; an epoch stays or goes up by one")]
    Epoch {
        /// The epoch of the document before.
        before: u64,
        /// The document's.
        actual: u64,
    },
    /// Not signed by enough of the keys before it.
    #[error("{good} of the keys before it signed the trust document, {needed} are needed")]
    OldSignatures {
        /// How many did.
        good: usize,
        /// How many must.
        needed: usize,
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

impl From<SignedError> for TrustError {
    fn from(error: SignedError) -> TrustError {
        match error {
            SignedError::TooLong(bytes) => TrustError::TooLong(bytes),
            SignedError::Malformed(why) => TrustError::Malformed(why),
        }
    }
}

/// Publishers beside the owners: they sign packages of some names, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublisherSet {
    /// What people call it: 1 to 63 of `a-z 0-9 -`.
    pub name: String,
    /// Their keys.
    pub keys: Vec<TrustedKey>,
    /// How many of them must sign.
    pub threshold: usize,
    /// With what the names of their packages must start; never empty, and the empty prefix is the owners' alone.
    pub prefixes: Vec<String>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    publishers: Vec<PublisherSet>,
    expires: Timestamp,
}

/// Members that `critical` may name, since this version obeys them.
const KNOWN: &[&str] = &["epoch", "version", "keys", "threshold", "prefixes", "publishers", "expires"];

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
            publishers: vec![],
            expires,
        }
        .checked()
    }

    /// The document that follows this one, to be signed by keys of both.
    pub fn follow(&self, change: Change) -> Result<TrustDocument, TrustError> {
        let (epoch, version) = (self.0.epoch.saturating_add(u64::from(change.new_epoch)), self.0.version.saturating_add(1));
        let Change { keys, threshold, prefixes, publishers, expires, new_epoch: _ } = change;
        let keys = keys.into_iter().map(Into::into).collect();
        Wire { format: 1, critical: vec![], epoch, version, keys, threshold, prefixes, publishers, expires }.checked()
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
        let head: Head = serde_json::from_slice(json).map_err(|e| TrustError::Malformed(told(&e)))?;
        if head.format != 1 {
            return Err(TrustError::Format(head.format));
        }
        if let Some(unknown) = head.critical.iter().find(|c| !KNOWN.contains(&c.as_str())) {
            return Err(TrustError::Critical(quoted(unknown)));
        }
        serde_json::from_slice::<Wire>(json).map_err(|e| TrustError::Malformed(told(&e)))?.checked()
    }

    /// The document as JSON, indented: what is signed.
    fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(&self.0).expect("texts and numbers are always JSON");
        json.push(b'\n');
        json
    }

    /// Signs the document with each of these keys; enough of its own must be among them for it to be taken.
    pub fn sign(&self, keys: &[&PublisherKey]) -> SignedTrustDocument {
        SignedTrustDocument(Signed::new(TRUST_TYPE, self.to_json(), keys))
    }

    /// The document that takes the place of this one: the next version, with enough signatures of this document's keys and
    /// of its own. Nothing of it is parsed before this document's keys are known to have signed it.
    pub fn next(&self, signed: &SignedTrustDocument) -> Result<TrustDocument, TrustError> {
        let (good, needed) = (self.signers(&signed.0.signatures, &signed.message()), self.threshold());
        if good < needed {
            return Err(TrustError::OldSignatures { good, needed });
        }
        let next = signed.open()?;
        let expected = self.version().saturating_add(1);
        if next.version() != expected {
            return Err(TrustError::NotNext { expected, actual: next.version() });
        }
        if next.epoch() != self.epoch() && Some(next.epoch()) != self.epoch().checked_add(1) {
            return Err(TrustError::Epoch { before: self.epoch(), actual: next.epoch() });
        }
        Ok(next)
    }

    /// How many of this document's keys made one of `signatures` over `message`. Each key counts once, and only its first
    /// signature is looked at, so that a list of bad ones costs no more than one each.
    pub(crate) fn signers(&self, signatures: &[KeySignature], message: &[u8]) -> usize {
        signers(&self.0.keys, signatures, message)
    }

    /// The prefixes of every set (the owners' first) of which enough keys signed `message`; else how many of the owners did.
    pub(crate) fn signing_sets(&self, signatures: &[KeySignature], message: &[u8]) -> Result<Vec<&[String]>, usize> {
        let owners = self.signers(signatures, message);
        let mut sets: Vec<&[String]> = vec![];
        if owners >= self.0.threshold {
            sets.push(&self.0.prefixes);
        }
        sets.extend(self.0.publishers.iter().filter(|p| signers(&p.keys, signatures, message) >= p.threshold).map(|p| &p.prefixes[..]));
        if sets.is_empty() { Err(owners) } else { Ok(sets) }
    }

    /// Whether this key is among the owners' or a set's, and the document names it for packages of this name.
    pub fn names(&self, key: &KeyId, package: &PackageName) -> bool {
        let owners = std::iter::once((&self.0.keys, &self.0.prefixes));
        let mut sets = owners.chain(self.0.publishers.iter().map(|p| (&p.keys, &p.prefixes)));
        sets.any(|(keys, prefixes)| keys.iter().any(|k| k.key_id == *key) && fits(prefixes, package))
    }

    /// The key of this name, the owners' or a set's.
    pub fn key(&self, id: &KeyId) -> Option<&PublisherPublicKey> {
        let mut all = self.0.keys.iter().chain(self.0.publishers.iter().flat_map(|p| &p.keys));
        all.find(|k| k.key_id == *id).map(|k| &k.public_key)
    }

    /// The publishers beside the owners.
    pub fn publishers(&self) -> &[PublisherSet] {
        &self.0.publishers
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
}

/// Whether one of these prefixes allows a package of this name.
pub(crate) fn fits(prefixes: &[String], name: &PackageName) -> bool {
    prefixes.iter().any(|p| name.as_str().starts_with(p.as_str()))
}

fn signers(keys: &[TrustedKey], signatures: &[KeySignature], message: &[u8]) -> usize {
    let signed = |key: &&TrustedKey| {
        let first = signatures.iter().find(|s| s.key_id == key.key_id);
        first.is_some_and(|s| key.public_key.verifies(message, &s.signature))
    };
    keys.iter().filter(signed).count()
}

/// What the next document says.
#[derive(Debug, Clone)]
pub struct Change {
    /// The owners' keys.
    pub keys: Vec<PublisherPublicKey>,
    /// How many of them must sign.
    pub threshold: usize,
    /// With what the names of packages must start that they sign.
    pub prefixes: Vec<String>,
    /// The publishers beside them.
    pub publishers: Vec<PublisherSet>,
    /// Until when the document holds.
    pub expires: Timestamp,
    /// Whether a new epoch begins: revocations count anew from version 1.
    pub new_epoch: bool,
}

impl Wire {
    fn checked(self) -> Result<TrustDocument, TrustError> {
        fn rule<T>(text: String) -> Result<T, TrustError> {
            Err(TrustError::Rule(text))
        }
        check_keys(&self.keys, self.threshold).or_else(rule)?;
        if self.version == 0 {
            return rule("its version is 0; versions count from 1".into());
        }
        check_prefixes(&self.prefixes).or_else(rule)?;
        if self.publishers.len() > SETS_MAX {
            return rule(format!("it has {} sets of publishers; {SETS_MAX} are allowed", self.publishers.len()));
        }
        let mut names = HashSet::new();
        for set in &self.publishers {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if set.name.is_empty() || set.name.len() > 63 || !set.name.bytes().all(plain) {
                return rule(format!("a set of publishers is named with 1 to 63 of a-z 0-9 -, not {}", quoted(&set.name)));
            }
            if !names.insert(&set.name) {
                return rule(format!("the set of publishers {} is there twice", set.name));
            }
            let of = |why: String| rule(format!("its publishers {}: {why}", set.name));
            check_keys(&set.keys, set.threshold).or_else(of)?;
            check_prefixes(&set.prefixes).or_else(of)?;
            if set.prefixes.iter().any(String::is_empty) {
                return rule(format!("its publishers {}: only the owners may sign packages of any name", set.name));
            }
        }
        let document = TrustDocument(self);
        match document.to_json().len() {
            length if length > limits::ENVELOPE_MAX => Err(TrustError::TooLong(length)),
            _ => Ok(document),
        }
    }
}

fn check_keys(keys: &[TrustedKey], threshold: usize) -> Result<(), String> {
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(format!("it has {} keys; 1 to {KEYS_MAX} are allowed", keys.len()));
    }
    let mut seen = HashSet::new();
    for key in keys {
        if key.key_id != key.public_key.key_id() {
            return Err(format!("the key {} is named {}", key.public_key.key_id(), key.key_id));
        }
        if !seen.insert(&key.key_id) {
            return Err(format!("the key {} is there twice", key.key_id));
        }
    }
    if threshold == 0 || threshold > keys.len() {
        return Err(format!("its threshold is {threshold} of {} keys", keys.len()));
    }
    Ok(())
}

fn check_prefixes(prefixes: &[String]) -> Result<(), String> {
    if prefixes.is_empty() || prefixes.len() > PREFIXES_MAX {
        return Err(format!("it has {} prefixes; 1 to {PREFIXES_MAX} are allowed, the empty one for all names", prefixes.len()));
    }
    match prefixes.iter().find(|p| p.len() > 100 || !p.bytes().all(is_name_byte)) {
        Some(odd) => Err(format!("no package's name starts with {}", quoted(odd))),
        None => Ok(()),
    }
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b)
}

/// A trust document's exact bytes and their signatures: what is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTrustDocument(Signed);

impl SignedTrustDocument {
    /// What a token pins: the BLAKE3 digest of the document's bytes, without the signatures.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0.bytes)
    }

    /// As JSON: `{payload_type, payload (base64), signatures: [{key_id, signature}]}`.
    pub fn to_json(&self) -> Vec<u8> {
        self.0.to_json(TRUST_TYPE)
    }

    /// The signed document in this JSON, not yet checked: open it.
    pub fn from_json(json: &[u8]) -> Result<SignedTrustDocument, TrustError> {
        Ok(SignedTrustDocument(Signed::from_json(json, TRUST_TYPE, SIGNED_MAX)?))
    }

    /// Adds a signature; one by the same key is replaced. Several people sign one document, one after the other.
    pub fn add_signature(&mut self, key: &PublisherKey) {
        self.0.add_signature(TRUST_TYPE, key);
    }

    /// The names of the keys of which there are signatures, good or not.
    pub fn signed_by(&self) -> impl Iterator<Item = &KeyId> {
        self.0.signatures.iter().map(|s| &s.key_id)
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
        let document = self.read()?;
        let (good, needed) = (document.signers(&self.0.signatures, &self.message()), document.threshold());
        if good < needed { Err(TrustError::Signatures { good, needed }) } else { Ok(document) }
    }

    /// What the document says, whoever signed it: for the people who are to sign it.
    pub fn read(&self) -> Result<TrustDocument, TrustError> {
        TrustDocument::from_json(&self.0.bytes)
    }

    fn message(&self) -> Vec<u8> {
        pae(TRUST_TYPE, &self.0.bytes)
    }
}
