//! The keys with which publishers sign packages: Ed25519, in the publisher's own profile and never in a manager's folder.
//!
//! A key is a PKCS#8 file (PEM, 0600), encrypted with a passphrase unless its owner refused one.

use crate::{
    durable::{self, FileError, Readers},
    pem::{self, PemError},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};
use sutler_base::{Invalid, quoted};
use zeroize::Zeroizing;

/// The longest file of a key (bytes).
const KEY_FILE_MAX: u64 = 16 << 10;

/// What went wrong with a publisher's key.
#[derive(Debug, thiserror::Error)]
pub enum PublisherKeyError {
    /// The system gave no randomness.
    #[error("cannot make a publisher's key: the system's source of randomness failed")]
    Generate,
    /// There is a key already.
    #[error("{path} exists already; a publisher's key is never overwritten. Choose another file")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("the publisher's key: {0}")]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("{path} holds no publisher's key: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
    /// The encrypted key could not be made or opened.
    #[cfg(feature = "passphrase")]
    #[error("the publisher's key {path}: {source}")]
    Passphrase {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: crate::passphrase::PassphraseError,
    },
    /// The key isn't Ed25519.
    #[error("{path} holds no publisher's key: it is not Ed25519 in PKCS#8")]
    WrongKind {
        /// The file.
        path: PathBuf,
    },
    /// The folder could not be searched for keys.
    #[error("cannot look for publishers' keys in the manager's folder: {0}")]
    Search(io::Error),
}

impl PublisherKeyError {
    /// Whether the key is encrypted, and was to be read without a passphrase.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, PublisherKeyError::Content { source: PemError::Encrypted, .. })
    }
}

/// The name of a publisher's key: the first 32 hex digits of the SHA-256 digest of the raw public key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(KeyId(text.into()))
        } else {
            Err(Invalid::new(format!("the id of a publisher's key is 32 lower-case hex digits, not {}", quoted(text))))
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Serialises a type as the text that its `Display` and `FromStr` agree on.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

serde_as_text!(KeyId);

/// A publisher's public key: 32 bytes, in text as base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublisherPublicKey(pub [u8; 32]);

impl PublisherPublicKey {
    /// The key's name.
    pub fn key_id(&self) -> KeyId {
        KeyId(crate::hex(&crate::sha256(&self.0)[..16]).into())
    }

    /// Whether `signature` is this key's over exactly these bytes.
    pub(crate) fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).is_ok()
    }
}

impl fmt::Display for PublisherPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublisherPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublisherPublicKey {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = STANDARD.decode(text).ok().and_then(|b| b.try_into().ok());
        bytes.map(PublisherPublicKey).ok_or_else(|| Invalid::new(format!("a publisher's key is 32 bytes in base64, not {}", quoted(text))))
    }
}

serde_as_text!(PublisherPublicKey);

/// An Ed25519 signature: 64 bytes, in text as base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Signature {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = STANDARD.decode(text).ok().and_then(|b| b.try_into().ok());
        bytes.map(Signature).ok_or_else(|| Invalid::new(format!("a signature is 64 bytes in base64, not {}", quoted(text))))
    }
}

serde_as_text!(Signature);

/// PKCS#8 without the public key (RFC 8410): SEQUENCE { 0, SEQUENCE { Ed25519 }, OCTET STRING { OCTET STRING (32 bytes) } }
const PKCS8_PREFIX: &[u8] = &[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A publisher's key pair. Its bytes are wiped when it is dropped, and it never shows them.
pub struct PublisherKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Ed25519KeyPair,
}

impl PublisherKey {
    /// A new key from the system's randomness.
    pub fn generate() -> Result<PublisherKey, PublisherKeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|_| PublisherKeyError::Generate)?;
        // Written here, since ring's own document has the public key in a form that OpenSSL can't read.
        let pkcs8 = Zeroizing::new([PKCS8_PREFIX, &*seed].concat());
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(|_| PublisherKeyError::Generate)?;
        Ok(PublisherKey { pkcs8, pair })
    }

    /// Writes the key to `path` (PEM, 0600, not encrypted), durably; a file that is there is left alone.
    pub fn save(&self, path: &Path) -> Result<(), PublisherKeyError> {
        write_new(path, &pem::encode("PRIVATE KEY", &self.pkcs8))
    }

    /// As [`PublisherKey::save`], encrypted with a passphrase.
    #[cfg(feature = "passphrase")]
    pub fn save_with(&self, path: &Path, passphrase: &crate::Passphrase) -> Result<(), PublisherKeyError> {
        let text = crate::passphrase::seal(&self.pkcs8, passphrase);
        write_new(path, &text.map_err(|source| PublisherKeyError::Passphrase { path: path.into(), source })?)
    }

    /// Writes the key in place of the file at `path`, whole and durably: for another passphrase, or none.
    #[cfg(feature = "passphrase")]
    pub fn rewrite(&self, path: &Path, passphrase: Option<&crate::Passphrase>) -> Result<(), PublisherKeyError> {
        let text = match passphrase {
            Some(passphrase) => crate::passphrase::seal(&self.pkcs8, passphrase),
            None => Ok(pem::encode("PRIVATE KEY", &self.pkcs8)),
        };
        let text = text.map_err(|source| PublisherKeyError::Passphrase { path: path.into(), source })?;
        Ok(durable::write(path, text.as_bytes(), Readers::Owner)?)
    }

    /// The key in the file at `path`, which must not be encrypted; refused if others may read it.
    pub fn load(path: &Path) -> Result<PublisherKey, PublisherKeyError> {
        let text = durable::read_private(path, KEY_FILE_MAX)?;
        let der = pem::parse_key(&text).map_err(|source| PublisherKeyError::Content { path: path.into(), source })?;
        PublisherKey::from_pkcs8(Zeroizing::new(der.secret_pkcs8_der().to_vec()), path)
    }

    /// The encrypted key in the file at `path`; refused if others may read it.
    #[cfg(feature = "passphrase")]
    pub fn load_with(path: &Path, passphrase: &crate::Passphrase) -> Result<PublisherKey, PublisherKeyError> {
        let text = durable::read_private(path, KEY_FILE_MAX)?;
        let pkcs8 = crate::passphrase::open(&text, passphrase);
        PublisherKey::from_pkcs8(pkcs8.map_err(|source| PublisherKeyError::Passphrase { path: path.into(), source })?, path)
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>, path: &Path) -> Result<PublisherKey, PublisherKeyError> {
        // With or without the public key in it: tools differ.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(|_| PublisherKeyError::WrongKind { path: path.into() })?;
        Ok(PublisherKey { pkcs8, pair })
    }

    /// The public half.
    pub fn public_key(&self) -> PublisherPublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublisherPublicKey(bytes)
    }

    /// The key's name.
    pub fn key_id(&self) -> KeyId {
        self.public_key().key_id()
    }

    /// Signs exactly these bytes; callers sign a pre-authentication encoding and nothing else.
    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        Signature(bytes)
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), PublisherKeyError> {
    if path.symlink_metadata().is_ok() {
        return Err(PublisherKeyError::Exists { path: path.into() });
    }
    Ok(durable::write(path, text.as_bytes(), Readers::Owner)?)
}

impl fmt::Debug for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublisherKey({})", self.key_id())
    }
}

/// Whether a file's content is a publisher's key, or an encrypted key of any kind.
fn is_publisher_key(text: &[u8]) -> bool {
    match pem::parse_key(text) {
        Ok(der) => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).is_ok(),
        Err(e) => e == PemError::Encrypted,
    }
}

/// The first publisher's key in `folder` or up to three folders below it, if there is one. `skip` names what is passed
/// over, relative to `folder`: the packages' content, which is big and may hold anybody's keys.
///
/// A manager must not hold such a key: whoever takes it over could then sign what it likes.
pub fn find_publisher_key(folder: &Path, skip: &[&str]) -> Result<Option<PathBuf>, PublisherKeyError> {
    let skip: Vec<PathBuf> = skip.iter().map(|s| folder.join(s)).collect();
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs_err::read_dir(&folder).map_err(PublisherKeyError::Search)? {
            let entry = entry.map_err(PublisherKeyError::Search)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(PublisherKeyError::Search)?);
            if skip.contains(&path) {
                continue;
            }
            if kind.is_dir() && depth < 3 {
                folders.push((path, depth + 1));
            } else if kind.is_file() {
                match durable::read(&path, KEY_FILE_MAX).map(Zeroizing::new) {
                    Ok(text) if is_publisher_key(&text) => return Ok(Some(path)),
                    // Too long for a key, or gone since it was listed.
                    Ok(_) | Err(FileError::TooLong { .. }) => {}
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publishers_key_reads_back_as_itself_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("publisher.key");
        let key = PublisherKey::generate().unwrap();
        key.save(&path).unwrap();
        let loaded = PublisherKey::load(&path).unwrap();
        assert_eq!(loaded.public_key(), key.public_key());
        assert!(key.public_key().verifies(b"x", &loaded.sign(b"x")));
        assert!(!key.public_key().verifies(b"y", &loaded.sign(b"x")));
        assert!(matches!(PublisherKey::generate().unwrap().save(&path), Err(PublisherKeyError::Exists { .. })));
        assert_eq!(key.key_id().as_str(), &crate::hex(&crate::sha256(&key.public_key().0))[..32]);
        assert_eq!(key.public_key().to_string().parse::<PublisherPublicKey>().unwrap(), key.public_key());
    }

    #[test]
    fn a_publishers_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("publisher.key");
        PublisherKey::generate().unwrap().save(&path).unwrap();
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(PublisherKey::load(&path), Err(PublisherKeyError::File(FileError::Exposed { .. }))));
    }

    #[test]
    fn another_kind_of_key_is_no_publishers_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        crate::PrivateKey::generate().unwrap().save(&path).unwrap();
        assert!(matches!(PublisherKey::load(&path), Err(PublisherKeyError::WrongKind { .. })));
        durable::write(&path, pem::encode("ENCRYPTED PRIVATE KEY", &[1; 60]).as_bytes(), Readers::Owner).unwrap();
        assert!(matches!(PublisherKey::load(&path), Err(PublisherKeyError::Content { source: PemError::Encrypted, .. })));
    }

    #[test]
    fn a_publishers_key_in_the_managers_folder_is_found_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        crate::CaBundle::create(&"a.example".parse().unwrap(), now).unwrap().save(&folder.path().join("ca")).unwrap();
        fs_err::create_dir_all(folder.path().join("content/x")).unwrap();
        PublisherKey::generate().unwrap().save(&folder.path().join("content/x/key")).unwrap();
        assert_eq!(find_publisher_key(folder.path(), &["content"]).unwrap(), None);
        let hidden = folder.path().join("ca/notes.txt");
        PublisherKey::generate().unwrap().save(&hidden).unwrap();
        assert_eq!(find_publisher_key(folder.path(), &["content"]).unwrap(), Some(hidden));
    }
}
