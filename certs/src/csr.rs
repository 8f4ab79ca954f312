//! Reads a certificate request (PKCS#10) and takes the public key out of it: nothing else in it reaches a certificate.
//!
//! A request may ask for anything: to be a CA, another's name, another use. Its subject, its attributes and its
//! extensions are not looked at. Its own signature shows that who sends it holds the private key.

use crate::keys::{KeyKind, PublicKey};
use x509_parser::{certification_request::X509CertificationRequest, oid_registry, prelude::FromDer};

/// The longest request that is looked at (bytes). One with a P-256 key has about 200.
pub const CSR_MAX: usize = 8 << 10;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_MAX`].
    #[error("the certificate request has {0} bytes; {CSR_MAX} are allowed")]
    TooLong(usize),
    /// Not a request, or with something after it.
    #[error("this is not a certificate request (PKCS#10, DER)")]
    Malformed,
    /// RSA, another curve, or another form of a key.
    #[error("the certificate request has a key that is neither P-256 (uncompressed) nor Ed25519; make a new key of one of these kinds")]
    UnsupportedKey,
    /// Signed with another algorithm than the key's one.
    #[error("the certificate request is signed with an algorithm other than ECDSA with SHA-256 or Ed25519")]
    UnsupportedSignature,
    /// The sender does not hold the private key.
    #[error("the certificate request is not signed by its own key")]
    NotItsOwn,
}

/// The public key of a request (DER), whose sender was shown to hold the private key.
pub fn public_key_of_csr(der: &[u8]) -> Result<PublicKey, CsrError> {
    if der.len() > CSR_MAX {
        return Err(CsrError::TooLong(der.len()));
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &csr.certification_request_info;
    let key = PublicKey::from_spki(info.subject_pki.raw).map_err(|_| CsrError::UnsupportedKey)?;
    let expected = match key.kind() {
        KeyKind::P256 => &oid_registry::OID_SIG_ECDSA_WITH_SHA256,
        KeyKind::Ed25519 => &oid_registry::OID_SIG_ED25519,
    };
    if csr.signature_algorithm.algorithm != *expected || csr.signature_value.unused_bits != 0 {
        return Err(CsrError::UnsupportedSignature);
    }
    key.verify_raw(info.raw, &csr.signature_value.data).map_err(|_| CsrError::NotItsOwn)?;
    Ok(key)
}
