//! The text armour of certificates and keys (RFC 7468).

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

/// The most certificates in a chain: a leaf, its issuer, the root, and room for a change of one.
pub const CHAIN_MAX: usize = 8;

/// A text is not the armoured object that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No certificate in it, or one that is cut off or garbled.
    #[error("no readable certificates (PEM, BEGIN CERTIFICATE) in it")]
    Certificates,
    /// More certificates than a chain has.
    #[error("more than {CHAIN_MAX} certificates in it")]
    ChainTooLong,
    /// No certificate request in it.
    #[error("no readable certificate request (PEM, PKCS#10, BEGIN CERTIFICATE REQUEST) in it")]
    Request,
    /// No private key in it, or one in another format.
    #[error("no readable private key (PEM, PKCS#8, BEGIN PRIVATE KEY) in it")]
    Key,
    /// The key is encrypted with a passphrase.
    #[error("the private key is encrypted with a passphrase, and none was given")]
    Encrypted,
}

/// `der` in armour with this label, for instance `CERTIFICATE`.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    // Large enough from the start: a private key must not stay behind in a buffer that was outgrown.
    let mut out = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// The certificates one after the other.
pub fn encode_chain(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|c| encode("CERTIFICATE", c).to_string()).collect()
}

/// All certificates in `text`, in their order: 1 to [`CHAIN_MAX`]. Other objects between them are passed over.
pub fn parse_chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        if chain.len() == CHAIN_MAX {
            return Err(PemError::ChainTooLong);
        }
        chain.push(certificate.map_err(|_| PemError::Certificates)?);
    }
    if chain.is_empty() { Err(PemError::Certificates) } else { Ok(chain) }
}

/// The first certificate request in `text`, PKCS#10 (DER).
pub fn parse_request(text: &[u8]) -> Result<Vec<u8>, PemError> {
    CertificateSigningRequestDer::from_pem_slice(text).map(|der| der.to_vec()).map_err(|_| PemError::Request)
}

/// The first private key in `text`, PKCS#8.
pub fn parse_key(text: &[u8]) -> Result<PrivatePkcs8KeyDer<'static>, PemError> {
    PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| {
        const ENCRYPTED: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";
        if text.windows(ENCRYPTED.len()).any(|w| w == ENCRYPTED) { PemError::Encrypted } else { PemError::Key }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_back_as_itself_and_a_cut_one_is_refused() {
        let chain: Vec<_> = (1..=3u8).map(|n| CertificateDer::from(vec![n; 100 + usize::from(n)])).collect();
        let text = encode_chain(&chain);
        assert_eq!(parse_chain(text.as_bytes()).unwrap(), chain);
        assert!(text.lines().all(|l| l.len() <= 64));
        assert_eq!(parse_chain(&text.as_bytes()[..text.len() - 10]), Err(PemError::Certificates));
        assert_eq!(parse_chain(b""), Err(PemError::Certificates));
        assert_eq!(parse_chain(text.repeat(3).as_bytes()), Err(PemError::ChainTooLong));
        assert_eq!(parse_request(encode("CERTIFICATE REQUEST", &[1; 9]).as_bytes()).unwrap(), [1; 9]);
        assert_eq!(parse_request(text.as_bytes()), Err(PemError::Request));
        assert_eq!(parse_key(text.as_bytes()).unwrap_err(), PemError::Key);
        assert_eq!(parse_key(encode("PRIVATE KEY", &[1; 9]).as_bytes()).unwrap().secret_pkcs8_der(), &[1; 9]);
        assert_eq!(parse_key(encode("ENCRYPTED PRIVATE KEY", &[1; 9]).as_bytes()).unwrap_err(), PemError::Encrypted);
    }
}
