//! What publishers take back: a signed list of revoked manifests and versions, and of the lowest release of packages.
//!
//! The owners of the trust document sign it. It holds until it expires: then an agent installs nothing, since a manager
//! that keeps a newer one from it can't be told from one that has none. Versions only go up; an agent never goes back.
//!
//! A thief of enough keys could sign a list with the highest version there is, and no later one would ever be taken. So a
//! list belongs to an *epoch*, which must be the trust document's: the owners sign a document with new keys and the next
//! epoch, and versions count anew from 1. Until the first list of the new epoch is there the old one stays in force: by
//! keeping it back a manager gets nothing installed that was revoked.

use crate::{
    envelope::pae,
    publisher::{KeyId, PublisherKey},
    signed::{Signed, SignedError},
    trust::TrustDocument,
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use sutler_base::{Digest, PackageName, Timestamp, Version, is_harmful, limits, quoted, told};

/// The type of what a revocation list's signature covers.
pub const REVOCATIONS_TYPE: &str = "application/vnd.sutler.revocations.v1+json";
/// The most entries of a list: revocations and minimum releases together. A minimum release does for many revocations.
pub const ENTRIES_MAX: usize = 1000;
/// The longest list (bytes).
pub const LIST_MAX: usize = 4 * limits::ENVELOPE_MAX;
/// The longest signed list (bytes of JSON): the list in base64, and its signatures.
pub const SIGNED_MAX: usize = 2 * LIST_MAX;

/// Why a revocation list was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationsError {
    /// Longer than [`LIST_MAX`], or [`SIGNED_MAX`] with its signatures.
    #[error("the revocation list has {0} bytes, which is too long")]
    TooLong(usize),
    /// Not the JSON of a revocation list.
    #[error("the revocation list can't be read: {0}")]
    Malformed(String),
    /// Another format than 1.
    #[error("the revocation list has format {0}; this version reads format 1. Update this program")]
    Format(u32),
    /// It has a member that a reader must know, and this one does not.
    #[error("the revocation list needs {0}, which this version does not know. Update this program")]
    Critical(String),
    /// It breaks a rule of its own.
    #[error("the revocation list makes no sense: {0}")]
    Rule(String),
    /// Not signed by enough owners of the trust document.
    #[error("{good} of the owners' keys signed the revocation list, {needed} are needed")]
    Signatures {
        /// How many did.
        good: usize,
        /// How many must.
        needed: usize,
    },
    /// Of another epoch than the trust document.
    #[error("the revocation list is of epoch {actual}, the trust document of {expected}")]
    Epoch {
        /// The trust document's.
        expected: u64,
        /// The list's.
        actual: u64,
    },
    /// Not newer than the one that is held.
    #[error("the revocation list has version {actual}, and version {held} is held already; a list never goes back")]
    NotNewer {
        /// The version that is held.
        held: u64,
        /// The list's.
        actual: u64,
    },
}

impl From<SignedError> for RevocationsError {
    fn from(error: SignedError) -> RevocationsError {
        match error {
            SignedError::TooLong(bytes) => RevocationsError::TooLong(bytes),
            SignedError::Malformed(why) => RevocationsError::Malformed(why),
        }
    }
}

/// What was taken back: one manifest, or every release of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// The manifest with this digest.
    Manifest {
        /// Its digest.
        manifest: Digest,
    },
    /// Whatever is signed as this version of the package.
    Version {
        /// The package.
        package: PackageName,
        /// Its version.
        version: Version,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Manifest { manifest } => write!(f, "{manifest}"),
            Target::Version { package, version } => write!(f, "{package}@{version}"),
        }
    }
}

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// What.
    #[serde(flatten)]
    pub target: Target,
    /// Why, for people: at most 256 bytes.
    #[serde(default)]
    pub reason: String,
}

/// The lowest release of a package that may be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minimum {
    /// The package.
    pub package: PackageName,
    /// The release.
    pub release: u64,
}

/// What publishers take back. Whoever holds one holds one that obeys all rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList(Wire);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wire {
    format: u32,
    critical: Vec<String>,
    epoch: u64,
    version: u64,
    revoked: Vec<Revoked>,
    minimums: Vec<Minimum>,
    expires: Timestamp,
}

/// Members that `critical` may name, since this version obeys them.
const KNOWN: &[&str] = &["epoch", "version", "revoked", "minimums", "expires"];

/// Why a package must not be installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakenBack {
    /// Its publishers revoked it.
    #[error("its publishers revoked {target}{}", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    Revoked {
        /// The entry.
        target: Target,
        /// What they said.
        reason: String,
    },
    /// Older than its publishers allow.
    #[error("its release {release} is below {minimum}, the lowest that its publishers allow; sign it again to get a newer release")]
    BelowMinimum {
        /// The package's.
        release: u64,
        /// The lowest.
        minimum: u64,
    },
}

impl RevocationList {
    /// A list of this epoch and version (from 1) with these entries, in force until `expires`.
    pub fn new(
        epoch: u64,
        version: u64,
        revoked: Vec<Revoked>,
        minimums: Vec<Minimum>,
        expires: Timestamp,
    ) -> Result<RevocationList, RevocationsError> {
        Wire { format: 1, critical: vec![], epoch, version, revoked, minimums, expires }.checked()
    }

    fn from_json(json: &[u8]) -> Result<RevocationList, RevocationsError> {
        if json.len() > LIST_MAX {
            return Err(RevocationsError::TooLong(json.len()));
        }
        // What this version can't read may be a later format: say that first.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            #[serde(default)]
            critical: Vec<String>,
        }
        let head: Head = serde_json::from_slice(json).map_err(|e| RevocationsError::Malformed(told(&e)))?;
        if head.format != 1 {
            return Err(RevocationsError::Format(head.format));
        }
        if let Some(unknown) = head.critical.iter().find(|c| !KNOWN.contains(&c.as_str())) {
            return Err(RevocationsError::Critical(quoted(unknown)));
        }
        serde_json::from_slice::<Wire>(json).map_err(|e| RevocationsError::Malformed(told(&e)))?.checked()
    }

    fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(&self.0).expect("texts and numbers are always JSON");
        json.push(b'\n');
        json
    }

    /// Signs the list with each of these keys; enough owners of the trust document must be among them.
    pub fn sign(&self, keys: &[&PublisherKey]) -> SignedRevocations {
        SignedRevocations(Signed::new(REVOCATIONS_TYPE, self.to_json(), keys))
    }

    /// The epoch of the trust document that it belongs to.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// The number of this list in its epoch, from 1.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// What is revoked.
    pub fn revoked(&self) -> &[Revoked] {
        &self.0.revoked
    }

    /// The lowest releases.
    pub fn minimums(&self) -> &[Minimum] {
        &self.0.minimums
    }

    /// Until when it is in force.
    pub fn expires(&self) -> Timestamp {
        self.0.expires
    }

    /// Whether it has expired: then a newer one must be had before anything is installed.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now > self.0.expires
    }

    /// Whether this release of a package may be installed.
    pub fn allows(&self, package: &PackageName, version: &Version, release: u64, manifest: &Digest) -> Result<(), TakenBack> {
        let hit = |r: &&Revoked| match &r.target {
            Target::Manifest { manifest: revoked } => revoked == manifest,
            Target::Version { package: p, version: v } => p == package && v == version,
        };
        if let Some(Revoked { target, reason }) = self.0.revoked.iter().find(hit) {
            return Err(TakenBack::Revoked { target: target.clone(), reason: reason.clone() });
        }
        match self.0.minimums.iter().find(|m| m.package == *package && release < m.release) {
            Some(m) => Err(TakenBack::BelowMinimum { release, minimum: m.release }),
            None => Ok(()),
        }
    }
}

impl Wire {
    fn checked(self) -> Result<RevocationList, RevocationsError> {
        let rule = |text: String| Err(RevocationsError::Rule(text));
        if self.version == 0 {
            return rule("its version is 0; versions count from 1".into());
        }
        let entries = self.revoked.len() + self.minimums.len();
        if entries > ENTRIES_MAX {
            return rule(format!("it has {entries} entries; {ENTRIES_MAX} are allowed. A minimum release does for many revocations"));
        }
        if let Some(long) = self.revoked.iter().find(|r| r.reason.len() > 256 || r.reason.chars().any(is_harmful)) {
            return rule(format!("the reason for {} has more than 256 bytes, or control or bidirectional characters", long.target));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.minimums.iter().find(|m| !seen.insert(m.package.as_str())) {
            return rule(format!("the lowest release of {} is there twice", twice.package));
        }
        let list = RevocationList(self);
        match list.to_json().len() {
            length if length > LIST_MAX => Err(RevocationsError::TooLong(length)),
            _ => Ok(list),
        }
    }
}

/// A revocation list's exact bytes and their signatures: what is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRevocations(Signed);

impl SignedRevocations {
    /// The BLAKE3 digest of the list's bytes, without the signatures.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0.bytes)
    }

    /// As JSON: `{payload_type, payload (base64), signatures: [{key_id, signature}]}`.
    pub fn to_json(&self) -> Vec<u8> {
        self.0.to_json(REVOCATIONS_TYPE)
    }

    /// The signed list in this JSON, not yet checked: open it.
    pub fn from_json(json: &[u8]) -> Result<SignedRevocations, RevocationsError> {
        Ok(SignedRevocations(Signed::from_json(json, REVOCATIONS_TYPE, SIGNED_MAX)?))
    }

    /// Adds a signature; one by the same key is replaced.
    pub fn add_signature(&mut self, key: &PublisherKey) {
        self.0.add_signature(REVOCATIONS_TYPE, key);
    }

    /// The names of the keys of which there are signatures, good or not.
    pub fn signed_by(&self) -> impl Iterator<Item = &KeyId> {
        self.0.signatures.iter().map(|s| &s.key_id)
    }

    /// The list, if enough owners of the trust document signed it, it is of the same epoch, and newer than what is `held`.
    /// Nothing of it is parsed before the signatures are known to hold. Its expiry is asked when something is installed.
    pub fn open(&self, trust: &TrustDocument, held: Option<&RevocationList>) -> Result<RevocationList, RevocationsError> {
        let (good, needed) = (trust.signers(&self.0.signatures, &pae(REVOCATIONS_TYPE, &self.0.bytes)), trust.threshold());
        if good < needed {
            return Err(RevocationsError::Signatures { good, needed });
        }
        let list = self.read()?;
        if list.epoch() != trust.epoch() {
            return Err(RevocationsError::Epoch { expected: trust.epoch(), actual: list.epoch() });
        }
        match held {
            Some(held) if (held.epoch(), held.version()) >= (list.epoch(), list.version()) => {
                Err(RevocationsError::NotNewer { held: held.version(), actual: list.version() })
            }
            _ => Ok(list),
        }
    }

    /// What the list says, whoever signed it: for the people who are to sign it, and for what was checked when it was taken.
    pub fn read(&self) -> Result<RevocationList, RevocationsError> {
        RevocationList::from_json(&self.0.bytes)
    }
}
