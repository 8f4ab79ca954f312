//! Who a certificate says that its holder is: one URI name, `spiffe://<trust domain>/agent/<client id>`,
//! `…/operator/<name>` or `…/manager`.
//!
//! Host names are facts about a machine and never its identity. A certificate is read here once, after TLS has verified
//! it; what holds a [`PeerCertificate`] compares ids, not texts.

use crate::keys::PublicKey;
use rustls::pki_types::CertificateDer;
use std::{fmt, str::FromStr, sync::Arc, time::Duration};
use sutler_base::{ClientId, Invalid, OperatorName, Timestamp, quoted};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// The name of an installation of Sutler, like `acme.example`: 1 to 255 characters, lower-case DNS labels.
///
/// It needs no entry in DNS. Identities of another trust domain are strangers.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() <= 255 && text.split('.').all(dns_label) {
            Ok(TrustDomain(text.into()))
        } else {
            Err(Invalid::new(format!(
                "a trust domain has 1 to 255 characters, a-z 0-9 and - in labels of at most 63 between dots, like acme.example, not {}",
                quoted(text)
            )))
        }
    }
}

/// Whether `label` is one label of a lower-case DNS name.
pub(crate) fn dns_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&bytes.len()) && alnum(&bytes[0]) && alnum(&bytes[bytes.len() - 1]) && bytes.iter().all(|b| alnum(b) || *b == b'-')
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a caller is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The agent on this client.
    Agent(ClientId),
    /// This operator.
    Operator(OperatorName),
    /// The manager.
    Manager,
}

impl Identity {
    /// The identity as the URI in a certificate.
    pub fn uri(&self, domain: &TrustDomain) -> String {
        match self {
            Identity::Agent(id) => format!("spiffe://{domain}/agent/{id}"),
            Identity::Operator(name) => format!("spiffe://{domain}/operator/{name}"),
            Identity::Manager => format!("spiffe://{domain}/manager"),
        }
    }

    fn parse(uri: &str, domain: &TrustDomain) -> Option<Identity> {
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(domain.as_str())?.strip_prefix('/')?;
        if path == "manager" {
            return Some(Identity::Manager);
        }
        match path.split_once('/')? {
            ("agent", id) => id.parse().ok().map(Identity::Agent),
            ("operator", name) => name.parse().ok().map(Identity::Operator),
            _ => None,
        }
    }
}

/// Without the trust domain: `agent/0123456789abcdef`, `operator/ann`, `manager`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Agent(id) => write!(f, "agent/{id}"),
            Identity::Operator(name) => write!(f, "operator/{name}"),
            Identity::Manager => f.write_str("manager"),
        }
    }
}

/// The serial number of a certificate: lower-case hex, two digits a byte, 1 to 20 bytes, no leading zero byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Arc<str>);

impl Serial {
    /// The serial number in these big-endian bytes.
    pub(crate) fn of(bytes: &[u8]) -> Serial {
        let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len().saturating_sub(1));
        Serial(crate::hex(&bytes[start..]).into())
    }

    /// The serial number as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Serial {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let canonical = text == "00" || !text.starts_with("00");
        if digits && canonical && text.len().is_multiple_of(2) && (2..=40).contains(&text.len()) {
            Ok(Serial(text.into()))
        } else {
            Err(Invalid::new(format!("a serial number is 2 to 40 lower-case hex digits, not {}", quoted(text))))
        }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 digest of the root CA's certificate (DER): what an enrolment token carries to know the manager by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootPin(pub [u8; 32]);

impl RootPin {
    /// The pin of this root certificate.
    pub fn of(root: &CertificateDer<'_>) -> RootPin {
        RootPin(crate::sha256(root))
    }
}

impl fmt::Display for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex(&self.0))
    }
}

impl fmt::Debug for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a certificate names nobody here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate.
    #[error("the certificate can't be read (X.509, DER)")]
    Malformed,
    /// None, or several URIs among its names.
    #[error("the certificate has {0} URI names; exactly one is required")]
    UriNames(usize),
    /// A URI that is no identity of this trust domain.
    #[error("the certificate's name {uri} is no identity of the trust domain {domain}")]
    Stranger {
        /// The URI, fit to be shown.
        uri: String,
        /// The trust domain here.
        domain: TrustDomain,
    },
    /// A CA whose name holds no trust domain.
    #[error("the CA's name {uri} is no trust domain (spiffe://acme.example)")]
    NoTrustDomain {
        /// The URI, fit to be shown.
        uri: String,
    },
    /// A key of a kind that is never certified.
    #[error("the certificate has a key that is neither P-256 nor Ed25519")]
    UnsupportedKey,
    /// A moment that can't be represented.
    #[error("the certificate's validity is out of range")]
    Validity,
}

/// What a certificate says. Whether it is to be believed, the TLS handshake has found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Whose certificate it is.
    pub identity: Identity,
    /// The trust domain that the identity is in.
    pub trust_domain: TrustDomain,
    /// Its serial number, by which it is revoked.
    pub serial: Serial,
    /// Its public key.
    pub public_key: PublicKey,
    /// The SHA-256 digest of the public key's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// The first moment at which it is valid.
    pub not_before: Timestamp,
    /// The last second at which it is valid.
    pub not_after: Timestamp,
}

impl PeerCertificate {
    /// What the leaf certificate `der` says, if it is an identity of this trust domain.
    pub fn parse(der: &[u8], domain: &TrustDomain) -> Result<PeerCertificate, CertificateError> {
        let certificate = read(der)?;
        let uri = only_uri(&certificate)?;
        let identity =
            Identity::parse(uri, domain).ok_or_else(|| CertificateError::Stranger { uri: quoted(uri), domain: domain.clone() })?;
        let public_key = PublicKey::from_spki(certificate.public_key().raw).map_err(|_| CertificateError::UnsupportedKey)?;
        let (not_before, not_after) = validity(&certificate)?;
        Ok(PeerCertificate {
            identity,
            trust_domain: domain.clone(),
            serial: Serial::of(certificate.raw_serial()),
            spki_sha256: public_key.sha256(),
            public_key,
            not_before,
            not_after,
        })
    }

    /// Who is at the other end of a connection whose handshake is done; nobody, if no certificate was shown.
    pub fn of_connection(
        certificates: Option<&[CertificateDer<'_>]>,
        domain: &TrustDomain,
    ) -> Result<Option<PeerCertificate>, CertificateError> {
        certificates.and_then(|c| c.first()).map(|leaf| PeerCertificate::parse(leaf, domain)).transpose()
    }

    /// Whether it has ended by `now`: then its holder may renew it and nothing else.
    ///
    /// The handshake lets such a certificate in within the grace period, and a connection may outlive its certificate:
    /// ask on every call.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        // The end is given in whole seconds, the last one included.
        now.as_second() > self.not_after.as_second()
    }

    /// How long it takes from `now` until [`is_expired`](Self::is_expired); zero if it is.
    pub fn expires_in(&self, now: Timestamp) -> Duration {
        let end = self.not_after.as_second().saturating_add(1);
        let whole = u64::try_from(end.saturating_sub(now.as_second())).unwrap_or_default();
        Duration::from_secs(whole).saturating_sub(Duration::from_nanos(now.subsec_nanosecond().unsigned_abs().into()))
    }
}

/// The certificate in `der`, with nothing after it.
pub(crate) fn read(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

/// The only URI among the certificate's names.
pub(crate) fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, CertificateError> {
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
    let names = names.map(|n| n.value.general_names.as_slice()).unwrap_or_default();
    if names.iter().any(|n| matches!(n, GeneralName::Invalid(..))) {
        return Err(CertificateError::Malformed);
    }
    let mut uris = names.iter().filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri),
        (None, _) => Err(CertificateError::UriNames(0)),
        (Some(_), more) => Err(CertificateError::UriNames(more + 1)),
    }
}

/// From when until when the certificate is valid.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> Result<(Timestamp, Timestamp), CertificateError> {
    let moment = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).map_err(|_| CertificateError::Validity);
    Ok((moment(certificate.validity().not_before)?, moment(certificate.validity().not_after)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_as_itself_and_a_lookalike_is_a_stranger() {
        let domain: TrustDomain = "acme.example".parse().unwrap();
        let client = ClientId::from_random([9; 16]);
        for identity in [Identity::Agent(client.clone()), Identity::Operator("ann".parse().unwrap()), Identity::Manager] {
            assert_eq!(Identity::parse(&identity.uri(&domain), &domain), Some(identity));
        }
        for lookalike in [
            format!("spiffe://acme.example.evil/agent/{client}"),
            format!("spiffe://acme.exampl/agent/{client}"),
            format!("spiffe://acme.example/agent/{client}/x"),
            format!("spiffe://acme.example//agent/{client}"),
            format!("spiffe://ACME.example/agent/{client}"),
            format!("https://acme.example/agent/{client}"),
            "spiffe://acme.example/agent/".into(),
            "spiffe://acme.example/operator/../manager".into(),
            "spiffe://acme.example/manager/".into(),
            "spiffe://acme.example/relay/x".into(),
            "spiffe://acme.example".into(),
        ] {
            assert_eq!(Identity::parse(&lookalike, &domain), None, "{lookalike}");
        }
    }

    #[test]
    fn a_trust_domain_is_a_lower_case_dns_name() {
        for good in ["acme.example", "a", "1-2.x", &["a"; 128].join(".")] {
            assert!(good.parse::<TrustDomain>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", "Acme", "a/b", "-a", "a_b", "ä", "a b", &"a".repeat(64), &["a"; 129].join(".")] {
            assert!(bad.parse::<TrustDomain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_serial_number_has_one_spelling() {
        assert_eq!(Serial::of(&[0, 0x8f, 1]).as_str(), "8f01");
        assert_eq!(Serial::of(&[0]).as_str(), "00");
        assert_eq!("8f01".parse::<Serial>().unwrap(), Serial::of(&[0x8f, 1]));
        for bad in ["", "008f", "8F01", "8f0", "xx", &"11".repeat(21)] {
            assert!(bad.parse::<Serial>().is_err(), "{bad}");
        }
    }
}
