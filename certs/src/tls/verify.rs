//! What each side of a handshake checks about the other.
//!
//! The manager, about a caller: that the certificate is signed directly by the port's own issuing CA (certificates that the
//! caller sends beside its own are not looked at), for TLS clients, now valid or ended within the grace, and that it names
//! an identity of the port's kind in this trust domain. The agent or operator, about the manager: see [`ServerTrust`].
//!
//! Signatures of the handshake are verified by the provider's algorithms.

use crate::{
    ca::{Authority, CaBundle},
    identity::{self, CertificateError, Identity, PeerCertificate, RootPin, TrustDomain},
    tls::{Clock, TlsError, provider},
};
use rustls::time_provider::TimeProvider as _;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::{sync::Arc, time::Duration};

/// Why a certificate with a good chain was refused all the same. It is inside the error of the handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// None of the certificates that the manager showed is the root that the pin names.
    #[error("it does not show the root {pin} that the token names: another manager, or somebody in between")]
    NotPinned {
        /// The pin.
        pin: RootPin,
    },
    /// The certificate that the pin names is not one of a root.
    #[error("the certificate {pin} that the token names is not that of a root CA")]
    NotARoot {
        /// The pin.
        pin: RootPin,
    },
    /// The certificate names nobody of this trust domain.
    #[error(transparent)]
    Identity(#[from] CertificateError),
    /// The certificate names somebody else than who must be there.
    #[error("the certificate is that of {found}, where {wanted} is needed")]
    WrongIdentity {
        /// Who it is.
        found: Identity,
        /// Who must be there.
        wanted: &'static str,
    },
}

impl From<PeerRefused> for Error {
    fn from(refused: PeerRefused) -> Error {
        Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

impl PeerRefused {
    /// The refusal inside the error of a handshake, or of a connection whose handshake failed, if that is why: rustls itself
    /// shows it in a form that is not for people.
    pub fn inside<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a PeerRefused> {
        if let Some(Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(inner)))) = error.downcast_ref::<Error>() {
            return inner.downcast_ref();
        }
        // An I/O error does not count what it holds as its source.
        let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let next: Option<&(dyn std::error::Error + 'static)> = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
        PeerRefused::inside(next?)
    }
}

/// Who calls at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallerKind {
    /// Agents, and newcomers without a certificate.
    Agent,
    /// Operators.
    Operator,
}

/// Is told of a caller who is refused because its certificate ended longer ago than the grace, and nothing else is wrong with
/// it: its key is there, so it is known who that is.
#[derive(Clone)]
pub struct OnEnded(Arc<dyn Fn(&PeerCertificate) + Send + Sync>);

impl OnEnded {
    /// Tells `told`, which must not block.
    pub fn new(told: impl Fn(&PeerCertificate) + Send + Sync + 'static) -> OnEnded {
        OnEnded(Arc::new(told))
    }
}

impl std::fmt::Debug for OnEnded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnEnded")
    }
}

/// Checks the certificate of a caller.
#[derive(Debug)]
pub(super) struct CallerVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    kind: CallerKind,
    grace: Duration,
    clock: Clock,
    on_ended: Option<OnEnded>,
    trust_domain: TrustDomain,
    algorithms: WebPkiSupportedAlgorithms,
}

impl CallerVerifier {
    pub(super) fn new(
        ca: &CaBundle,
        also: &[CertificateDer<'static>],
        kind: CallerKind,
        grace: Duration,
        clock: Clock,
        on_ended: Option<OnEnded>,
    ) -> Result<CallerVerifier, TlsError> {
        let authority = match kind {
            CallerKind::Agent => Authority::Agents,
            CallerKind::Operator => Authority::Operators,
        };
        let anchors = Arc::new(anchors(std::iter::once(ca.certificate(authority)).chain(also))?);
        let webpki =
            WebPkiClientVerifier::builder_with_provider(anchors, provider()).build().map_err(|e| TlsError::Anchor(e.to_string()))?;
        let algorithms = provider().signature_verification_algorithms;
        Ok(CallerVerifier { webpki, kind, grace, clock, on_ended, trust_domain: ca.trust_domain().clone(), algorithms })
    }

    /// The certificate's end lies behind, within the grace: then a moment inside its validity, at which everything else
    /// about it can be checked again. The same for one that ended before that, if somebody is told of it: that one is refused
    /// when its key has been shown.
    fn moment_inside(&self, peer: &PeerCertificate, now: UnixTime) -> Option<UnixTime> {
        let start = u64::try_from(peer.not_before.as_second()).ok()?;
        let end = u64::try_from(peer.not_after.as_second()).ok()?;
        let goes_on = end < now.as_secs() && (self.on_ended.is_some() || !self.is_over(peer, now));
        (goes_on && start <= end).then(|| UnixTime::since_unix_epoch(Duration::from_secs(start + (end - start) / 2)))
    }

    /// Whether the certificate's end, with the grace, lies behind.
    fn is_over(&self, peer: &PeerCertificate, now: UnixTime) -> bool {
        let end = u64::try_from(peer.not_after.as_second()).unwrap_or_default();
        end < now.as_secs() && now.as_secs() - end > self.grace.as_secs()
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.kind == CallerKind::Operator
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(&self, leaf: &CertificateDer<'_>, _: &[CertificateDer<'_>], now: UnixTime) -> Result<ClientCertVerified, Error> {
        // Without what the caller sent beside it: the port's CA signs leaves and nothing else.
        let verified = self.webpki.verify_client_cert(leaf, &[], now);
        let peer = match (PeerCertificate::parse(leaf, &self.trust_domain), &verified) {
            (Ok(peer), _) => peer,
            // A certificate of somebody else's CA: that is the first thing to say.
            (Err(_), Err(e)) => return Err(e.clone()),
            (Err(e), Ok(_)) => return Err(PeerRefused::Identity(e).into()),
        };
        let verified = match verified {
            Ok(verified) => verified,
            Err(e) => match self.moment_inside(&peer, now) {
                Some(moment) => self.webpki.verify_client_cert(leaf, &[], moment)?,
                None => return Err(e),
            },
        };
        match (self.kind, peer.identity) {
            (CallerKind::Agent, Identity::Agent(_)) | (CallerKind::Operator, Identity::Operator(_)) => Ok(verified),
            (CallerKind::Agent, found) => Err(PeerRefused::WrongIdentity { found, wanted: "an agent" }.into()),
            (CallerKind::Operator, found) => Err(PeerRefused::WrongIdentity { found, wanted: "an operator" }.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = verify_tls13_signature(message, leaf, signature, &self.algorithms)?;
        let ended = || Error::InvalidCertificate(rustls::CertificateError::Expired);
        let peer = PeerCertificate::parse(leaf, &self.trust_domain).map_err(PeerRefused::Identity)?;
        let now = self.clock.current_time().ok_or_else(ended)?;
        if self.is_over(&peer, now) {
            if let Some(OnEnded(told)) = &self.on_ended {
                told(&peer);
            }
            return Err(ended());
        }
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// By how much the clock of a machine may be off, so that it still takes the manager's certificate as valid: a machine whose
/// battery is flat, or that was suspended, must reach its manager, and a stolen old certificate is of use that much longer.
pub const CLOCK_SLACK: Duration = Duration::from_secs(7 * 86_400);

/// By what an agent or an operator knows the manager.
///
/// In both cases the certificate must be for TLS servers, now valid, and name `spiffe://<trust domain>/manager`. The
/// *host name is not checked*: a manager may move to another name or address, and whoever holds such a certificate is the
/// manager, wherever it is. Nobody else can hold one, since the servers CA signs for managers alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerTrust {
    /// For enrolment: the manager shows a root whose digest is this, and its certificate is below that root.
    Pin {
        /// The digest of the root, from the token.
        root: RootPin,
        /// The trust domain, from the token.
        trust_domain: TrustDomain,
    },
    /// Afterwards: the manager's certificate is below one of these (the root, or the servers CA).
    Anchors {
        /// Certificates of CAs.
        anchors: Vec<CertificateDer<'static>>,
        /// The trust domain in which the manager is.
        trust_domain: TrustDomain,
    },
}

/// Checks the certificate of the manager.
#[derive(Debug)]
pub(super) struct ManagerVerifier {
    known: Known,
    trust_domain: TrustDomain,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Known {
    Pin(RootPin),
    Anchors(RootCertStore),
}

impl ManagerVerifier {
    pub(super) fn new(trust: &ServerTrust) -> Result<ManagerVerifier, TlsError> {
        let known = match trust {
            ServerTrust::Pin { root, .. } => Known::Pin(*root),
            ServerTrust::Anchors { anchors: certificates, .. } => Known::Anchors(anchors(certificates)?),
        };
        let algorithms = provider().signature_verification_algorithms;
        Ok(ManagerVerifier { known, trust_domain: trust.trust_domain().clone(), algorithms })
    }
}

impl ServerCertVerifier for ManagerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned;
        let roots = match &self.known {
            Known::Anchors(roots) => roots,
            Known::Pin(pin) => {
                let mut store = RootCertStore::empty();
                store.add(pinned_root(intermediates, *pin)?.clone().into_owned())?;
                pinned = store;
                &pinned
            }
        };
        let parsed = ParsedCertificate::try_from(leaf)?;
        let verify = |at| verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, at, self.algorithms.all);
        if let Err(error) = verify(now) {
            // If time is the only fault, and a small one, the machine's clock may be what is wrong.
            verify(nearest_moment(leaf, now).ok_or_else(|| error.clone())?).map_err(|_| error)?;
        }
        match PeerCertificate::parse(leaf, &self.trust_domain).map_err(PeerRefused::Identity)?.identity {
            Identity::Manager => Ok(ServerCertVerified::assertion()),
            found => Err(PeerRefused::WrongIdentity { found, wanted: "the manager" }.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The moment inside the certificate's validity that is nearest to `now`, if it is not further away than the clock may be off.
fn nearest_moment(leaf: &CertificateDer<'_>, now: UnixTime) -> Option<UnixTime> {
    let (start, end) = identity::validity(&identity::read(leaf).ok()?).ok()?;
    let (start, end) = (u64::try_from(start.as_second()).ok()?, u64::try_from(end.as_second()).ok()?);
    let nearest = now.as_secs().clamp(start, end.max(start));
    (now.as_secs().abs_diff(nearest) <= CLOCK_SLACK.as_secs()).then(|| UnixTime::since_unix_epoch(Duration::from_secs(nearest)))
}

fn no_tls12() -> Error {
    Error::General("TLS 1.2 is never spoken here".into())
}

fn anchors<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).map_err(|e| TlsError::Anchor(e.to_string()))?;
    }
    if store.is_empty() { Err(TlsError::Anchor("there is none".into())) } else { Ok(store) }
}

/// The root among `certificates` whose digest is the pin: a self-signed CA.
pub(super) fn pinned_root<'a, 'b>(certificates: &'a [CertificateDer<'b>], pin: RootPin) -> Result<&'a CertificateDer<'b>, PeerRefused> {
    let root = certificates.iter().find(|c| RootPin::of(c) == pin).ok_or(PeerRefused::NotPinned { pin })?;
    let parsed = identity::read(root)?;
    if parsed.is_ca() && parsed.subject().as_raw() == parsed.issuer().as_raw() { Ok(root) } else { Err(PeerRefused::NotARoot { pin }) }
}
