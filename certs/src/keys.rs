//! The key pairs of agents, operators, managers and CAs (ECDSA P-256), and signatures with them.
//!
//! A key is made where it is used and never leaves that machine; what travels is a request (CSR) with the public key.

use crate::{
    durable::{self, FileError, Readers},
    envelope::pae,
    pem::{self, PemError},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    fmt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The longest file with a key and its chain (bytes).
const CREDENTIAL_MAX: u64 = 64 << 10;

/// What went wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gave no randomness, or the key could not be made from it.
    #[error("cannot make a key: the system's source of randomness failed")]
    Generate,
    /// The bytes aren't a P-256 key in PKCS#8.
    #[error("this is not a P-256 private key in PKCS#8")]
    Malformed,
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("{path}: {source}; restore the file from a backup, or enrol or renew again")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
    /// The encrypted key could not be made or opened.
    #[cfg(feature = "passphrase")]
    #[error("the key {path}: {source}")]
    Passphrase {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: crate::passphrase::PassphraseError,
    },
    /// The key in the file isn't one that can be used.
    #[error("{path} holds a key that is not P-256 in PKCS#8; restore the file from a backup, or enrol or renew again")]
    WrongKind {
        /// The file.
        path: PathBuf,
    },
    /// The file's key and certificate don't belong together.
    #[error("{path}: the private key does not belong to the certificate; restore the file from a backup, or enrol or renew again")]
    Mismatch {
        /// The file.
        path: PathBuf,
    },
    /// Signing failed.
    #[error("cannot sign: the system's source of randomness failed")]
    Sign,
    /// The request could not be made.
    #[error("cannot make a certificate request: {0}")]
    Request(rcgen::Error),
}

impl KeyError {
    /// Whether the key is encrypted, and was to be read without a passphrase.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, KeyError::Content { source: PemError::Encrypted, .. })
    }
}

/// What a public key's bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// ECDSA on P-256 with SHA-256.
    P256,
    /// Ed25519.
    Ed25519,
}

/// The public key of an agent, an operator or a manager: P-256 or Ed25519, nothing else.
///
/// Kept as the DER of its SubjectPublicKeyInfo, of which there is exactly one per key: the fixed prefix and the raw
/// key. Everything else (compressed points, other parameters, trailing bytes) is refused, so that equal keys are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    kind: KeyKind,
    spki: Vec<u8>,
}

/// SEQUENCE { SEQUENCE { ecPublicKey, prime256v1 }, BIT STRING (uncompressed point: 65 bytes) }
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];
/// SEQUENCE { SEQUENCE { Ed25519 }, BIT STRING (32 bytes) }
const ED25519_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key is of another kind than P-256 or Ed25519, or written in another form than the canonical one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the public key is neither P-256 (uncompressed) nor Ed25519; make a new key of one of these kinds")]
pub struct UnsupportedKey;

/// The signature does not belong to these bytes, this context and this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit the signed bytes and the key")]
pub struct BadSignature;

impl PublicKey {
    /// The key in this SubjectPublicKeyInfo (DER).
    pub fn from_spki(der: &[u8]) -> Result<PublicKey, UnsupportedKey> {
        let kind = match der.len() {
            91 if der.starts_with(P256_PREFIX) && der[26] == 4 => KeyKind::P256,
            44 if der.starts_with(ED25519_PREFIX) => KeyKind::Ed25519,
            _ => return Err(UnsupportedKey),
        };
        Ok(PublicKey { kind, spki: der.to_vec() })
    }

    /// The key's SubjectPublicKeyInfo (DER).
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Whether `certificate` is about this key.
    pub fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        use x509_parser::prelude::FromDer;
        x509_parser::certificate::X509Certificate::from_der(certificate).is_ok_and(|(_, c)| c.public_key().raw == self.spki)
    }

    /// The SHA-256 digest of the SubjectPublicKeyInfo: the name of the key in databases.
    pub fn sha256(&self) -> [u8; 32] {
        crate::sha256(&self.spki)
    }

    fn raw(&self) -> &[u8] {
        match self.kind {
            KeyKind::P256 => &self.spki[P256_PREFIX.len()..],
            KeyKind::Ed25519 => &self.spki[ED25519_PREFIX.len()..],
        }
    }

    /// Whether `signature` is this key's over exactly `message`. For certificates and requests; see [`PublicKey::verify`].
    pub(crate) fn verify_raw(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        let algorithm: &'static dyn ring::signature::VerificationAlgorithm = match self.kind {
            KeyKind::P256 => &ECDSA_P256_SHA256_ASN1,
            KeyKind::Ed25519 => &ED25519,
        };
        UnparsedPublicKey::new(algorithm, self.raw()).verify(message, signature).map_err(|_| BadSignature)
    }

    /// Whether `signature` was made by [`PrivateKey::sign`] with this key's other half over these bytes in this context.
    pub fn verify(&self, context: &str, bytes: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        self.verify_raw(&pae(context, bytes), signature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?} {})", self.kind, crate::hex(&self.sha256()[..8]))
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.kind {
            KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

/// A P-256 key pair. Its bytes are wiped when it is dropped, and it never shows them.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl PrivateKey {
    /// A new key from the system's randomness.
    pub fn generate() -> Result<PrivateKey, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).map_err(|_| KeyError::Generate)?;
        PrivateKey::from_pkcs8(document.as_ref())
    }

    /// The key in this PKCS#8 document (DER).
    pub fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new()).map_err(|_| KeyError::Malformed)?;
        let spki = [P256_PREFIX, pair.public_key().as_ref()].concat();
        Ok(PrivateKey { pkcs8: Zeroizing::new(der.to_vec()), public: PublicKey { kind: KeyKind::P256, spki }, pair })
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The key as PKCS#8 in PEM: a secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// The key as a PKCS#8 document (DER).
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pkcs8.to_vec())
    }

    /// Writes the key to `path` (PEM, mode 0600), whole and durably.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        Ok(durable::write(path, self.to_pem().as_bytes(), Readers::Owner)?)
    }

    /// The key in the file at `path`; refused if others may read it.
    pub fn load(path: &Path) -> Result<PrivateKey, KeyError> {
        let text = durable::read_private(path, CREDENTIAL_MAX)?;
        key_in(&text, path)
    }

    /// As [`PrivateKey::save`], encrypted with a passphrase.
    #[cfg(feature = "passphrase")]
    pub fn save_with(&self, path: &Path, passphrase: &crate::Passphrase) -> Result<(), KeyError> {
        let text = crate::passphrase::seal(&self.pkcs8, passphrase);
        let text = text.map_err(|source| KeyError::Passphrase { path: path.into(), source })?;
        Ok(durable::write(path, text.as_bytes(), Readers::Owner)?)
    }

    /// The encrypted key in the file at `path`; refused if others may read it.
    #[cfg(feature = "passphrase")]
    pub fn load_with(path: &Path, passphrase: &crate::Passphrase) -> Result<PrivateKey, KeyError> {
        let text = durable::read_private(path, CREDENTIAL_MAX)?;
        let pkcs8 = crate::passphrase::open(&text, passphrase);
        let pkcs8 = pkcs8.map_err(|source| KeyError::Passphrase { path: path.into(), source })?;
        PrivateKey::from_pkcs8(&pkcs8).map_err(|_| KeyError::WrongKind { path: path.into() })
    }

    /// A certificate request (PKCS#10, DER) with this key and nothing else: who it is for, the manager says.
    pub fn csr(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(self).map_err(KeyError::Request)?.der().to_vec())
    }

    /// Signs `bytes` (ECDSA P-256 with SHA-256, ASN.1) in a context, such as `application/vnd.sutler.outcome.v1`.
    ///
    /// What is signed is the DSSE pre-authentication encoding of both, so a signature made in one context is worth
    /// nothing in another, nor in a TLS handshake or a certificate request, which never start like it.
    pub fn sign(&self, context: &str, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.sign_raw(&pae(context, bytes))
    }

    fn sign_raw(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?.as_ref().to_vec())
    }

    /// The key as rustls takes it.
    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }
}

fn key_in(text: &[u8], path: &Path) -> Result<PrivateKey, KeyError> {
    let der = pem::parse_key(text).map_err(|source| KeyError::Content { path: path.into(), source })?;
    PrivateKey::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| KeyError::WrongKind { path: path.into() })
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {:?})", self.public)
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_raw(message).map_err(|_| rcgen::Error::RingUnspecified)
    }
}

/// A private key and the certificates that say whose it is: the leaf first, then its issuers.
///
/// Kept in one file, so that a renewal exchanges both or neither.
#[derive(Debug)]
pub struct Credential {
    /// The leaf, then its issuers; never empty.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf.
    pub key: PrivateKey,
}

impl Credential {
    /// Writes key and chain to `path` (PEM, mode 0600), whole and durably.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let mut text = self.key.to_pem();
        let chain = pem::encode_chain(&self.chain);
        let both = Zeroizing::new([text.as_bytes(), chain.as_bytes()].concat());
        text.clear();
        Ok(durable::write(path, &both, Readers::Owner)?)
    }

    /// Key and chain in the file at `path`; refused if others may read it, or if the key isn't the leaf's.
    pub fn load(path: &Path) -> Result<Credential, KeyError> {
        let text = durable::read_private(path, CREDENTIAL_MAX)?;
        let chain = pem::parse_chain(&text).map_err(|source| KeyError::Content { path: path.into(), source })?;
        let key = key_in(&text, path)?;
        if !belongs(&key, &chain[0]) {
            return Err(KeyError::Mismatch { path: path.into() });
        }
        Ok(Credential { chain, key })
    }
}

/// Whether `certificate` is about `key`.
pub(crate) fn belongs(key: &PrivateKey, certificate: &CertificateDer<'_>) -> bool {
    key.public.is_of(certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_only_for_its_key_its_context_and_its_bytes() {
        let key = PrivateKey::generate().unwrap();
        let signature = key.sign("outcome", b"done").unwrap();
        key.public_key().verify("outcome", b"done", &signature).unwrap();
        assert_eq!(key.public_key().verify("outcome", b"dome", &signature), Err(BadSignature));
        assert_eq!(key.public_key().verify("outcom", b"edone", &signature), Err(BadSignature));
        assert_eq!(PrivateKey::generate().unwrap().public_key().verify("outcome", b"done", &signature), Err(BadSignature));
        assert_eq!(key.public_key().verify("outcome", b"done", &signature[1..]), Err(BadSignature));
    }

    #[test]
    fn a_key_reads_back_as_itself_and_one_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.key");
        let key = PrivateKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(PrivateKey::load(&path).unwrap().public_key(), key.public_key());
        assert_eq!(PublicKey::from_spki(key.public_key().spki()).unwrap(), *key.public_key());
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(PrivateKey::load(&path), Err(KeyError::File(FileError::Exposed { .. }))));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_public_key_in_another_form_is_refused() {
        let spki = PrivateKey::generate().unwrap().public_key().spki().to_vec();
        assert_eq!(PublicKey::from_spki(&spki[..90]), Err(UnsupportedKey));
        assert_eq!(PublicKey::from_spki(&[&spki[..], &[0]].concat()), Err(UnsupportedKey));
        let mut other_curve = spki.clone();
        other_curve[22] = 0x22;
        assert_eq!(PublicKey::from_spki(&other_curve), Err(UnsupportedKey));
        let mut hybrid = spki;
        hybrid[26] = 6;
        assert_eq!(PublicKey::from_spki(&hybrid), Err(UnsupportedKey));
    }
}
