//! Real handshakes over an in-memory connection: who gets in at which port, and whom a client takes for the manager.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, HandshakeKind, ServerConfig,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use std::{io, sync::Arc, time::Duration};
use sutler_base::{ClientId, Timestamp};
use sutler_certs::{
    CaBundle, Credential, Identity, PeerCertificate, PrivateKey, RootPin, TrustDomain,
    ca::Authority,
    issue::{AGENT_VALIDITY, Issued, OPERATOR_VALIDITY, SERVER_VALIDITY},
    tls::{
        AGENT_GRACE, Clock, OPERATOR_GRACE, PeerRefused, ServerCertificate, ServerTrust, agent_client, agents_port_server, operator_client,
        operators_port_server,
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream as ClientStream, server::TlsStream as ServerStream};

const DAY: u64 = 86_400;

/// The trust domain, the day it begins, and everything that is made on that day.
struct World {
    ca: CaBundle,
    keys: std::path::PathBuf,
    certificate: Arc<ServerCertificate>,
    _folder: tempfile::TempDir,
}

fn begin() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn day(days: u64) -> Clock {
    let then = begin() + Duration::from_secs(days * DAY);
    Clock::new(move || then)
}

fn domain() -> TrustDomain {
    "acme.example".parse().unwrap()
}

fn client_id() -> ClientId {
    ClientId::from_random([5; 16])
}

fn credential(issue: impl FnOnce(&PrivateKey) -> Issued) -> Credential {
    let key = PrivateKey::generate().unwrap();
    Credential { chain: issue(&key).chain, key }
}

impl World {
    fn new() -> World {
        let ca = CaBundle::create(&domain(), begin()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("ca");
        ca.save(&keys).unwrap();
        let certificate = ServerCertificate::new(&server_credential(&ca)).unwrap();
        World { ca, keys, certificate, _folder: folder }
    }

    fn agent(&self) -> Credential {
        credential(|k| self.ca.issue_agent(&client_id(), k.public_key(), begin(), AGENT_VALIDITY).unwrap())
    }

    fn operator(&self) -> Credential {
        let name = "ann".parse().unwrap();
        credential(|k| self.ca.issue_operator(&name, k.public_key(), begin(), OPERATOR_VALIDITY).unwrap())
    }

    fn agents_port(&self, days: u64, grace: Duration) -> Arc<ServerConfig> {
        agents_port_server(&self.ca, self.certificate.clone(), grace, day(days)).unwrap()
    }

    fn operators_port(&self, days: u64, grace: Duration) -> Arc<ServerConfig> {
        operators_port_server(&self.ca, self.certificate.clone(), grace, day(days)).unwrap()
    }

    fn trust(&self) -> ServerTrust {
        ServerTrust::of_bundle(&self.ca)
    }

    fn client(&self, credential: Option<&Credential>) -> Arc<ClientConfig> {
        agent_client(credential, &self.trust(), day(0)).unwrap()
    }

    /// A certificate that this product never issues: signed with the key of any of its CAs, made to measure.
    fn forge(&self, authority: &str, change: impl FnOnce(&mut CertificateParams)) -> Credential {
        let pem = |e: &str| std::fs::read_to_string(self.keys.join(format!("{authority}.{e}"))).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pem("pem"), KeyPair::from_pem(&pem("key")).unwrap()).unwrap();
        let key = PrivateKey::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = Identity::Agent(client_id()).uri(&domain());
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.not_before = time::OffsetDateTime::from_unix_timestamp(begin().as_second() - 300).unwrap();
        params.not_after = params.not_before + Duration::from_secs(30 * DAY);
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let leaf = params.signed_by(key.public_key(), &issuer).unwrap().der().clone();
        let ca = CertificateDer::from(rcgen_der(&pem("pem")));
        Credential { chain: vec![leaf, ca], key }
    }
}

fn rcgen_der(pem: &str) -> Vec<u8> {
    sutler_certs::pem::parse_chain(pem.as_bytes()).unwrap()[0].to_vec()
}

fn server_credential(ca: &CaBundle) -> Credential {
    let hosts = ["manager.acme.example".parse().unwrap()];
    credential(|k| ca.issue_server(&hosts, k.public_key(), begin(), SERVER_VALIDITY).unwrap())
}

type Ends = (io::Result<ServerStream<tokio::io::DuplexStream>>, io::Result<ClientStream<tokio::io::DuplexStream>>);

/// Both ends of a handshake. With TLS 1.3 the client learns from its first read that its certificate was refused, so each
/// side that got through says one byte and the client reads the manager's.
async fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Ends {
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("another.name.example").unwrap();
    let server = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    let client = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok(stream)
    };
    tokio::join!(server, client)
}

/// Who the manager says is calling; asserts that both sides agree on whether there is a connection.
async fn caller(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<Option<PeerCertificate>, String> {
    let (server, client) = connect(server, client).await;
    match (server, client) {
        (Ok(server), Ok(client)) => {
            assert_eq!(server.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            Ok(PeerCertificate::of_connection(server.get_ref().1.peer_certificates(), &domain()).unwrap())
        }
        (Err(server), Err(_)) => Err(said(&server)),
        (server, client) => panic!("the sides disagree: {:?}, {:?}", server.err(), client.err()),
    }
}

/// The error of the client, which refused the manager.
async fn refusal(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> String {
    let (server, client) = connect(server, client).await;
    assert!(server.is_err());
    said(&client.unwrap_err())
}

/// An error as a person should see it.
fn said(error: &io::Error) -> String {
    PeerRefused::inside(error).map_or_else(|| error.to_string(), PeerRefused::to_string)
}

#[tokio::test]
async fn at_the_agents_port_an_agent_is_known_and_a_newcomer_is_nobody() {
    let w = World::new();
    let agent = caller(w.agents_port(0, AGENT_GRACE), w.client(Some(&w.agent()))).await.unwrap().unwrap();
    assert_eq!(agent.identity, Identity::Agent(client_id()));
    assert_eq!(caller(w.agents_port(0, AGENT_GRACE), w.client(None)).await, Ok(None));
}

#[tokio::test]
async fn at_the_operators_port_an_operator_is_known_and_nobody_else_gets_in() {
    let w = World::new();
    let client = operator_client(&w.operator(), &w.trust(), day(0)).unwrap();
    let operator = caller(w.operators_port(0, OPERATOR_GRACE), client).await.unwrap().unwrap();
    assert_eq!(operator.identity, Identity::Operator("ann".parse().unwrap()));
    let error = caller(w.operators_port(0, OPERATOR_GRACE), w.client(None)).await.unwrap_err();
    assert!(error.contains("no certificates"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_one_port_is_refused_at_the_other() {
    let w = World::new();
    caller(w.operators_port(0, OPERATOR_GRACE), w.client(Some(&w.agent()))).await.unwrap_err();
    caller(w.agents_port(0, AGENT_GRACE), w.client(Some(&w.operator()))).await.unwrap_err();
    // Nor does the right name from the wrong CA help, nor the wrong name from the right one.
    let operator = |p: &mut CertificateParams| {
        p.subject_alt_names = vec![SanType::URI("spiffe://acme.example/operator/ann".try_into().unwrap())];
    };
    caller(w.operators_port(0, OPERATOR_GRACE), w.client(Some(&w.forge("agents", operator)))).await.unwrap_err();
    let error = caller(w.agents_port(0, AGENT_GRACE), w.client(Some(&w.forge("agents", operator)))).await.unwrap_err();
    assert!(error.contains("operator/ann"), "{error}");
    caller(w.agents_port(0, AGENT_GRACE), w.client(Some(&w.forge("operators", |_| ())))).await.unwrap_err();
    // What `forge` makes is taken where nothing is wrong with it.
    caller(w.agents_port(0, AGENT_GRACE), w.client(Some(&w.forge("agents", |_| ())))).await.unwrap();
    caller(w.operators_port(0, OPERATOR_GRACE), w.client(Some(&w.forge("operators", operator)))).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_the_root_or_of_the_servers_ca_is_refused_at_both_ports() {
    let w = World::new();
    for authority in ["root", "servers"] {
        for uri in [Identity::Agent(client_id()), Identity::Operator("ann".parse().unwrap())] {
            let uri = uri.uri(&domain());
            let forged = w.forge(authority, |p| p.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())]);
            caller(w.agents_port(0, AGENT_GRACE), w.client(Some(&forged))).await.unwrap_err();
            caller(w.operators_port(0, OPERATOR_GRACE), w.client(Some(&forged))).await.unwrap_err();
        }
    }
    let server = server_credential(&w.ca);
    caller(w.agents_port(0, AGENT_GRACE), w.client(Some(&server))).await.unwrap_err();
    caller(w.operators_port(0, OPERATOR_GRACE), w.client(Some(&server))).await.unwrap_err();
}

#[tokio::test]
async fn a_certificate_for_another_use_below_another_ca_or_with_other_names_is_refused() {
    let w = World::new();
    let refused = async |credential: &Credential| caller(w.agents_port(0, AGENT_GRACE), w.client(Some(credential))).await.unwrap_err();
    refused(&w.forge("agents", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])).await;
    refused(&w.forge("agents", |p| p.subject_alt_names.clear())).await;
    refused(&w.forge("agents", |p| {
        let other = p.subject_alt_names[0].clone();
        p.subject_alt_names.push(other);
    }))
    .await;
    refused(&w.forge("agents", |p| {
        p.subject_alt_names = vec![SanType::URI("spiffe://other.example/agent/0123456789abcdef".try_into().unwrap())];
    }))
    .await;
    // A leaf that says that it is a CA, and a leaf below it.
    let ca = w.forge("agents", |p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    refused(&ca).await;
    let pem = sutler_certs::pem::encode_chain(&ca.chain[..1]);
    let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&ca.key.to_pem()).unwrap()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(Identity::Agent(client_id()).uri(&domain()).try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(key.public_key(), &issuer).unwrap().der().clone();
    refused(&Credential { chain: [vec![leaf], ca.chain].concat(), key }).await;
    // Another installation with the same trust domain.
    let other = World::new();
    refused(&other.agent()).await;
}

#[tokio::test]
async fn an_ended_certificate_is_refused_without_grace_and_let_in_and_marked_within_it() {
    let w = World::new();
    let agent = w.agent();
    let error = caller(w.agents_port(31, Duration::ZERO), w.client(Some(&agent))).await.unwrap_err();
    assert!(error.contains("expired"), "{error}");
    let peer = caller(w.agents_port(31, AGENT_GRACE), w.client(Some(&agent))).await.unwrap().unwrap();
    assert!(peer.is_expired(begin() + Duration::from_secs(31 * DAY)) && !peer.is_expired(begin()));
    caller(w.agents_port(30 + 90, AGENT_GRACE), w.client(Some(&agent))).await.unwrap();
    caller(w.agents_port(30 + 91, AGENT_GRACE), w.client(Some(&agent))).await.unwrap_err();

    let operator = operator_client(&w.operator(), &w.trust(), day(0)).unwrap();
    caller(w.operators_port(1, Duration::ZERO), operator.clone()).await.unwrap_err();
    assert!(caller(w.operators_port(1, OPERATOR_GRACE), operator.clone()).await.unwrap().is_some());
    caller(w.operators_port(31, OPERATOR_GRACE), operator).await.unwrap_err();
}

#[tokio::test]
async fn an_ended_certificate_with_any_other_fault_is_refused_within_the_grace_too() {
    let w = World::new();
    let refused = async |credential: &Credential| caller(w.agents_port(31, AGENT_GRACE), w.client(Some(credential))).await.unwrap_err();
    refused(&w.forge("operators", |_| ())).await;
    refused(&w.forge("root", |_| ())).await;
    refused(&World::new().agent()).await;
    refused(&w.operator()).await;
    refused(&w.forge("agents", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])).await;
    refused(&w.forge("agents", |p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained))).await;
    // One that never was valid.
    refused(&w.forge("agents", |p| std::mem::swap(&mut p.not_before, &mut p.not_after))).await;
    // One that is not valid yet has no grace.
    refused(&w.forge("agents", |p| {
        p.not_before += Duration::from_secs(40 * DAY);
        p.not_after += Duration::from_secs(40 * DAY);
    }))
    .await;
    caller(w.agents_port(31, AGENT_GRACE), w.client(Some(&w.forge("agents", |_| ())))).await.unwrap();
}

#[tokio::test]
async fn whoever_does_not_hold_the_private_key_is_refused() {
    let w = World::new();
    let stolen = Credential { chain: w.agent().chain, key: PrivateKey::generate().unwrap() };
    // The configuration would notice; a thief's would not.
    let key = rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(
        sutler_certs::pem::parse_key(stolen.key.to_pem().as_bytes()).unwrap(),
    ))
    .unwrap();
    let certified = rustls::sign::CertifiedKey::new(stolen.chain, key);
    let mut config = (*w.client(None)).clone();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    caller(w.agents_port(0, AGENT_GRACE), Arc::new(config)).await.unwrap_err();
}

#[tokio::test]
async fn tls_1_2_is_refused_at_both_ports() {
    let w = World::new();
    for config in [w.agents_port(0, AGENT_GRACE), w.operators_port(0, OPERATOR_GRACE)] {
        let (mut near, far) = tokio::io::duplex(64 << 10);
        let (result, answer) = tokio::join!(TlsAcceptor::from(config).accept(far), async {
            near.write_all(&client_hello_1_2()).await.unwrap();
            let mut answer = [0; 7];
            near.read_exact(&mut answer).await.unwrap();
            answer
        });
        assert!(result.is_err());
        // An alert, fatal, protocol_version.
        assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]));
    }
}

/// What a client says that speaks TLS 1.2 at most, written out, since this build of the library can't.
fn client_hello_1_2() -> Vec<u8> {
    let mut extensions = vec![];
    let mut extension = |kind: u16, body: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend((body.len() as u16).to_be_bytes());
        extensions.extend(body);
    };
    extension(10, &[0, 4, 0, 29, 0, 23]); // groups: x25519, secp256r1
    extension(11, &[1, 0]); // uncompressed points
    extension(13, &[0, 4, 4, 3, 8, 4]); // signatures: ECDSA P-256 SHA-256, RSA-PSS SHA-256
    extension(23, &[]); // extended master secret
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE with AES-128-GCM
    hello.extend([1, 0]);
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((hello.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((hello.len() as u16).to_be_bytes());
    record.extend(hello);
    record
}

#[tokio::test]
async fn the_manager_never_resumes_a_session_for_a_client_that_would() {
    let w = World::new();
    for (server, credential) in [(w.agents_port(0, AGENT_GRACE), w.agent()), (w.operators_port(0, OPERATOR_GRACE), w.operator())] {
        let mut config = (*w.client(Some(&credential))).clone();
        config.resumption = Resumption::in_memory_sessions(16);
        let config = Arc::new(config);
        for _ in 0..2 {
            let (server, client) = connect(server.clone(), config.clone()).await;
            let client = client.unwrap();
            assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
            assert_eq!(server.unwrap().get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn a_client_never_resumes_a_session_with_a_manager_that_would() {
    let w = World::new();
    let mut server = (*w.agents_port(0, AGENT_GRACE)).clone();
    server.send_tls13_tickets = 2;
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    let server = Arc::new(server);
    let mut willing = (*w.client(None)).clone();
    willing.resumption = Resumption::in_memory_sessions(16);
    for (client, second) in [(w.client(None), HandshakeKind::Full), (Arc::new(willing), HandshakeKind::Resumed)] {
        connect(server.clone(), client.clone()).await.1.unwrap();
        let (_, again) = connect(server.clone(), client).await;
        assert_eq!(again.unwrap().get_ref().1.handshake_kind(), Some(second));
    }
}

#[tokio::test]
async fn a_newcomer_knows_the_manager_by_the_pin_alone_and_keeps_its_root() {
    let w = World::new();
    let pin = |root| agent_client(None, &ServerTrust::Pin { root, trust_domain: domain() }, day(0)).unwrap();
    let (_, client) = connect(w.agents_port(0, AGENT_GRACE), pin(w.ca.root_pin())).await;
    let client = client.unwrap();
    let chain = client.get_ref().1.peer_certificates().unwrap();
    let root = ServerTrust::root_in(chain, w.ca.root_pin()).unwrap();
    assert_eq!(root, *w.ca.certificate(Authority::Root));
    assert_eq!(ServerTrust::from_root(&root).unwrap(), w.trust());

    let error = refusal(w.agents_port(0, AGENT_GRACE), pin(RootPin([1; 32]))).await;
    assert!(error.contains("does not show the root"), "{error}");
    // Another installation, with a root of the same name; the pin of the servers CA, which is no root; the leaf's.
    refusal(World::new().agents_port(0, AGENT_GRACE), pin(w.ca.root_pin())).await;
    let error = refusal(w.agents_port(0, AGENT_GRACE), pin(RootPin::of(w.ca.certificate(Authority::Servers)))).await;
    assert!(error.contains("not that of a root"), "{error}");
    refusal(w.agents_port(0, AGENT_GRACE), pin(RootPin::of(&chain[0]))).await;
    let elsewhere = ServerTrust::Pin { root: w.ca.root_pin(), trust_domain: "other.example".parse().unwrap() };
    refusal(w.agents_port(0, AGENT_GRACE), agent_client(None, &elsewhere, day(0)).unwrap()).await;
}

/// A port that shows this chain.
fn showing(w: &World, credential: &Credential) -> Arc<ServerConfig> {
    let certificate = ServerCertificate::new(credential).unwrap();
    agents_port_server(&w.ca, certificate, AGENT_GRACE, day(0)).unwrap()
}

#[tokio::test]
async fn nobody_but_the_manager_passes_for_the_manager() {
    let w = World::new();
    let root = w.ca.certificate(Authority::Root).clone();
    let with_root = |mut credential: Credential| {
        credential.chain.push(root.clone());
        credential
    };
    let manager = |p: &mut CertificateParams| {
        p.subject_alt_names = vec![SanType::URI("spiffe://acme.example/manager".try_into().unwrap())];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let anchors = |anchors| ServerTrust::Anchors { anchors, trust_domain: domain() };
    let trusts = [
        ServerTrust::Pin { root: w.ca.root_pin(), trust_domain: domain() },
        w.trust(),
        anchors(vec![w.ca.certificate(Authority::Servers).clone()]),
    ];
    for trust in trusts {
        let client = agent_client(None, &trust, day(0)).unwrap();
        connect(showing(&w, &with_root(w.forge("servers", manager))), client.clone()).await.1.unwrap();
        for impostor in [
            // An agent; a server certificate that an agents' or an operators' CA would sign; another identity or use from
            // the right CA; another trust domain; another installation.
            w.agent(),
            w.operator(),
            w.forge("agents", manager),
            w.forge("operators", manager),
            w.forge("servers", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            w.forge("servers", |p| {
                manager(p);
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
            w.forge("servers", |p| {
                manager(p);
                p.subject_alt_names = vec![SanType::URI("spiffe://other.example/manager".try_into().unwrap())];
            }),
            server_credential(&World::new().ca),
        ] {
            refusal(showing(&w, &with_root(impostor)), client.clone()).await;
        }
        // The manager's own chain with somebody else's key: the signature of the handshake is checked.
        let key = rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(
            sutler_certs::pem::parse_key(PrivateKey::generate().unwrap().to_pem().as_bytes()).unwrap(),
        ))
        .unwrap();
        let chain = server_credential(&w.ca).chain;
        let mut config = (*w.agents_port(0, AGENT_GRACE)).clone();
        config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)));
        refusal(Arc::new(config), client).await;
        // An ended certificate of the manager, by more than a clock may be off; one that ended just now passes.
        connect(w.agents_port(0, AGENT_GRACE), agent_client(None, &trust, day(96)).unwrap()).await.1.unwrap();
        refusal(w.agents_port(0, AGENT_GRACE), agent_client(None, &trust, day(98)).unwrap()).await;
    }
}

#[tokio::test]
async fn a_certificate_is_exchanged_while_the_port_is_open() {
    let w = World::new();
    let port = w.agents_port(0, AGENT_GRACE);
    let serial = async || {
        let (_, client) = connect(port.clone(), w.client(None)).await;
        PeerCertificate::of_connection(client.unwrap().get_ref().1.peer_certificates(), &domain()).unwrap().unwrap().serial
    };
    let first = serial().await;
    assert_eq!(serial().await, first);
    w.certificate.replace(&server_credential(&w.ca)).unwrap();
    assert_ne!(serial().await, first);
    let mut mismatched = server_credential(&w.ca);
    mismatched.key = PrivateKey::generate().unwrap();
    assert!(w.certificate.replace(&mismatched).is_err());
}

#[tokio::test]
async fn an_agent_keeps_its_credential_in_one_private_file() {
    let w = World::new();
    let path = w.keys.join("agent.pem");
    let agent = w.agent();
    agent.save(&path).unwrap();
    let loaded = Credential::load(&path).unwrap();
    assert_eq!(loaded.chain, agent.chain);
    assert!(caller(w.agents_port(0, AGENT_GRACE), w.client(Some(&loaded))).await.unwrap().is_some());
    Credential { chain: w.agent().chain, key: agent.key }.save(&path).unwrap();
    assert!(Credential::load(&path).unwrap_err().to_string().contains("does not belong"));
}
