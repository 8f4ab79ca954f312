//! Configurations of TLS for both ports of the manager and for both kinds of client.
//!
//! On every one of them: TLS 1.3 only; the cryptography is ring, passed explicitly and never a process-wide default; no
//! session resumption and no early data, since a resumed session is accepted after its certificate has ended; ALPN `h2`.
//!
//! The agents' port asks for a client certificate and takes none as an answer; the operators' port requires one. Each
//! trusts exactly its own issuing CA. See [`verify`] for what is checked.

use crate::{
    ca::{Authority, CaBundle},
    identity::{CertificateError, RootPin, TrustDomain},
    keys::Credential,
};
use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};
use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};
use sutler_base::Timestamp;

pub mod verify;

use verify::{CallerKind, CallerVerifier, ManagerVerifier};
pub use verify::{OnEnded, PeerRefused, ServerTrust};

/// How long after its end an agent's certificate still gets to the renewal, unless configured otherwise: 90 days.
pub const AGENT_GRACE: Duration = Duration::from_secs(90 * 86_400);
/// How long after its end an operator's certificate still gets to the renewal: 30 days.
pub const OPERATOR_GRACE: Duration = Duration::from_secs(30 * 86_400);

/// Why a configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key or the chain can't be used.
    #[error("cannot use this key with this certificate for TLS: {0}; make a new certificate")]
    Credential(rustls::Error),
    /// What should be trusted is no certificate of a CA.
    #[error("cannot trust this certificate as a CA: {0}; take it from the manager again")]
    Anchor(String),
    /// A CA's certificate names no trust domain.
    #[error("cannot trust this certificate as a root: {0}; take it from the manager again")]
    Root(CertificateError),
    /// What was presented does not hold the root.
    #[error("cannot trust this manager: {0}")]
    Refused(#[from] PeerRefused),
    /// The library refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Library(rustls::Error),
}

/// Tells TLS what time it is.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that asks `now` whenever a certificate is looked at.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// The system's clock.
    pub fn system() -> Clock {
        Clock::new(Timestamp::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        u64::try_from((self.0)().as_second()).ok().map(|s| UnixTime::since_unix_epoch(Duration::from_secs(s)))
    }
}

/// The cryptography of every configuration here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

/// What a manager shows to those who connect; can be exchanged while connections live on.
pub struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ServerCertificate {
    /// Shows this chain, the root included, so that a newcomer can check its pin.
    pub fn new(credential: &Credential) -> Result<Arc<ServerCertificate>, TlsError> {
        Ok(Arc::new(ServerCertificate(ArcSwap::from_pointee(certified(credential)?))))
    }

    /// Shows this chain from now on, to whoever connects next.
    pub fn replace(&self, credential: &Credential) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(credential)?));
        Ok(())
    }
}

fn certified(credential: &Credential) -> Result<CertifiedKey, TlsError> {
    CertifiedKey::from_der(credential.chain.clone(), credential.key.to_rustls(), &provider()).map_err(TlsError::Credential)
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate")
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The agents' port: a client certificate is optional; one that is shown must be an agent's, issued by the agents CA.
///
/// A certificate whose only fault is that it ended less than `grace` ago passes the handshake (zero: none does). Ask
/// [`PeerCertificate::is_expired`](crate::PeerCertificate::is_expired), on every call, before anything but a renewal.
pub fn agents_port_server(
    ca: &CaBundle,
    certificate: Arc<ServerCertificate>,
    grace: Duration,
    clock: Clock,
) -> Result<Arc<ServerConfig>, TlsError> {
    port_server(ca, &[], Authority::Agents, certificate, grace, clock, None)
}

/// The port for whom this CA issues, agents or operators, where `also` are other issuing CAs of theirs: those of before a
/// roll-over, or of another manager that has rolled over already. Whoever gives them has [reviewed](CaBundle::review) them.
/// `on_ended` is told of callers who come after the grace.
pub fn port_server(
    ca: &CaBundle,
    also: &[CertificateDer<'static>],
    authority: Authority,
    certificate: Arc<ServerCertificate>,
    grace: Duration,
    clock: Clock,
    on_ended: Option<OnEnded>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let kind = if authority == Authority::Operators { CallerKind::Operator } else { CallerKind::Agent };
    server(CallerVerifier::new(ca, also, kind, grace, clock.clone(), on_ended)?, certificate, clock)
}

/// The operators' port: a client certificate is required, and must be an operator's, issued by the operators CA.
///
/// As for `grace`, see [`agents_port_server`].
pub fn operators_port_server(
    ca: &CaBundle,
    certificate: Arc<ServerCertificate>,
    grace: Duration,
    clock: Clock,
) -> Result<Arc<ServerConfig>, TlsError> {
    port_server(ca, &[], Authority::Operators, certificate, grace, clock, None)
}

fn server(verifier: CallerVerifier, certificate: Arc<ServerCertificate>, clock: Clock) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Library)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// An agent's side. Without a credential it is a newcomer, who can enrol and nothing else.
///
/// A connection needs a server name; it is sent as SNI and *not* checked: see [`ServerTrust`].
pub fn agent_client(credential: Option<&Credential>, trust: &ServerTrust, clock: Clock) -> Result<Arc<ClientConfig>, TlsError> {
    client(credential, trust, clock)
}

/// An operator's side. As [`agent_client`], but never without a credential.
pub fn operator_client(credential: &Credential, trust: &ServerTrust, clock: Clock) -> Result<Arc<ClientConfig>, TlsError> {
    client(Some(credential), trust, clock)
}

fn client(credential: Option<&Credential>, trust: &ServerTrust, clock: Clock) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Library)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ManagerVerifier::new(trust)?));
    let mut config = match credential {
        Some(credential) => {
            builder.with_client_auth_cert(credential.chain.clone(), credential.key.to_rustls()).map_err(TlsError::Credential)?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

impl ServerTrust {
    /// Trust in everything below this root (DER), in the trust domain that the root names: for operators and enrolled agents.
    pub fn from_root(root: &CertificateDer<'_>) -> Result<ServerTrust, TlsError> {
        let trust_domain = crate::ca::trust_domain_of_ca(root).map_err(TlsError::Root)?;
        Ok(ServerTrust::Anchors { anchors: vec![root.clone().into_owned()], trust_domain })
    }

    /// The root that a manager showed in a handshake that was made with this pin: keep it, and trust it from now on.
    pub fn root_in(chain: &[CertificateDer<'_>], pin: RootPin) -> Result<CertificateDer<'static>, TlsError> {
        Ok(verify::pinned_root(chain.get(1..).unwrap_or_default(), pin)?.clone().into_owned())
    }

    /// The manager's own CAs, as its local commands know them.
    pub fn of_bundle(ca: &CaBundle) -> ServerTrust {
        let anchors = vec![ca.certificate(Authority::Root).clone()];
        ServerTrust::Anchors { anchors, trust_domain: ca.trust_domain().clone() }
    }

    /// The trust domain that the manager must be in.
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            ServerTrust::Pin { trust_domain, .. } | ServerTrust::Anchors { trust_domain, .. } => trust_domain,
        }
    }
}
