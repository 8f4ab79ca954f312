//! Both ports with real TLS on the loopback, and small services behind them.

use super::*;
use crate::{telemetry::Metrics, world::World};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    io,
    sync::atomic::{AtomicI64, Ordering},
    task::{Context, Poll},
    time::Duration,
};
use sutler_base::Timestamp;
use sutler_certs::{
    CaBundle, Credential, Host, PrivateKey,
    tls::{self, Clock, ServerTrust},
};
use sutler_proto::v1::{
    agent_service_client::AgentServiceClient,
    agent_service_server::{AgentService, AgentServiceServer},
    enrollment_service_client::EnrollmentServiceClient,
    enrollment_service_server::{EnrollmentService, EnrollmentServiceServer},
    operator_service_client::OperatorServiceClient,
    operator_service_server::{OperatorService, OperatorServiceServer},
    *,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig, rustls::pki_types::ServerName};
use tonic::{Code, Status, body::Body};
use tower::Service;

const DAY: i64 = 86_400_000;
/// Long enough for a busy machine; what takes it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers everybody; what it does is said by the call.
#[derive(Clone)]
struct Everything;

#[tonic::async_trait]
impl EnrollmentService for Everything {
    async fn enroll(&self, request: tonic::Request<EnrollRequest>) -> Result<tonic::Response<EnrollResponse>, Status> {
        assert!(request.extensions().get::<Peer>().unwrap().identity.is_none());
        Ok(tonic::Response::new(EnrollResponse { client_id: "enrolled".into(), ..Default::default() }))
    }
}

#[tonic::async_trait]
impl AgentService for Everything {
    type ConnectStream = BoxStream<'static, Result<ConnectResponse, Status>>;
    type ReadChunksStream = BoxStream<'static, Result<ReadChunksResponse, Status>>;

    async fn connect(
        &self,
        request: tonic::Request<tonic::Streaming<ConnectRequest>>,
    ) -> Result<tonic::Response<Self::ConnectStream>, Status> {
        assert!(matches!(request.extensions().get::<Peer>().unwrap().identity, Some(Identity::Agent(_))));
        let first = stream::iter([Ok(ConnectResponse::default())]);
        Ok(tonic::Response::new(first.chain(stream::pending()).boxed()))
    }

    async fn read_chunks(&self, request: tonic::Request<ReadChunksRequest>) -> Result<tonic::Response<Self::ReadChunksStream>, Status> {
        let part = |data: &'static [u8]| {
            Ok(ReadChunksResponse { parts: vec![ObjectPart { data: bytes::Bytes::from_static(data), ..Default::default() }] })
        };
        let parts = match request.get_ref().attempt.as_str() {
            "panic" => stream::iter([part(b"first")])
                .chain(stream::once(async {
                    // What came before is sent while this waits.
                    tokio::task::yield_now().await;
                    panic!("in the middle")
                }))
                .boxed(),
            _ => stream::iter([part(&[7; 1 << 18]), part(&[7; 1 << 18])]).boxed(),
        };
        Ok(tonic::Response::new(parts))
    }

    async fn renew_certificate(
        &self,
        _: tonic::Request<RenewCertificateRequest>,
    ) -> Result<tonic::Response<RenewCertificateResponse>, Status> {
        Ok(tonic::Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl OperatorService for Everything {
    async fn get_self(&self, request: tonic::Request<GetSelfRequest>) -> Result<tonic::Response<GetSelfResponse>, Status> {
        match request.metadata().get("x-do").map(|v| v.to_str().unwrap()) {
            Some("panic") => panic!("as asked"),
            Some("hang") => std::future::pending().await,
            Some("secret") => Err(Status::internal("the password is 1234")),
            _ => {
                let name = request.extensions().get::<Peer>().unwrap().identity.as_ref().unwrap().to_string();
                Ok(tonic::Response::new(GetSelfResponse { name, ..Default::default() }))
            }
        }
    }

    async fn renew_operator_certificate(
        &self,
        _: tonic::Request<RenewOperatorCertificateRequest>,
    ) -> Result<tonic::Response<RenewOperatorCertificateResponse>, Status> {
        Ok(tonic::Response::new(Default::default()))
    }
}

/// Every service, whoever calls: what keeps callers apart is the port.
fn everything() -> Routes {
    Routes::new(EnrollmentServiceServer::new(Everything))
        .add_service(AgentServiceServer::new(Everything))
        .add_service(OperatorServiceServer::new(Everything).max_decoding_message_size(64 << 10))
}

struct Bed {
    ca: Arc<CaBundle>,
    clock: Arc<AtomicI64>,
    world: World,
    metrics: Arc<Metrics>,
    shown: Arc<tls::ServerCertificate>,
    keeper: CertificateKeeper,
    agents: Serving,
    operators: Serving,
    _folder: tempfile::TempDir,
}

fn bed(limits: Limits) -> Bed {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let clock = Arc::new(AtomicI64::new(start.as_millisecond()));
    let world = World::with_clock(clock.clone());
    let ca = Arc::new(CaBundle::create(&"acme.example".parse().unwrap(), start).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let hosts: Vec<Host> = vec!["localhost".parse().unwrap()];
    let keeper = CertificateKeeper { folder: folder.path().join("server"), ca: ca.clone(), hosts };
    let shown = keeper.open(&world).unwrap();
    let metrics = Metrics::new();
    let shared =
        Shared { limits: Arc::new(limits), trust_domain: ca.trust_domain().clone(), metrics: metrics.clone(), world: world.clone() };
    let tls_clock = || {
        let world = world.clone();
        Clock::new(move || world.now())
    };
    let agents_tls = tls::agents_port_server(&ca, shown.clone(), tls::AGENT_GRACE, tls_clock()).unwrap();
    let operators_tls = tls::operators_port_server(&ca, shown.clone(), tls::OPERATOR_GRACE, tls_clock()).unwrap();
    let listen = || Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let agents = listen().serve(agents_tls, AgentsPort::new(everything(), everything(), everything()), 2000, shared.clone());
    let operators = listen().serve(operators_tls, OperatorsPort::new(everything(), everything()), 100, shared);
    Bed { ca, clock, world, metrics, shown, keeper, agents, operators, _folder: folder }
}

/// An HTTP/2 connection, as the generated clients take it.
#[derive(Clone)]
struct Channel(hyper::client::conn::http2::SendRequest<Body>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

impl Channel {
    async fn open(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Channel> {
        Channel::over(TcpStream::connect(address).await?, config).await
    }

    async fn over(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Channel> {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config).connect(name, socket).await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .max_frame_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Channel(sender))
    }

    /// Ends when the manager has closed the connection.
    async fn closed(&self) {
        let gone = async {
            while !self.0.is_closed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.unwrap();
    }

    /// The whole answer to a call without a message: headers but the date, and the body with its trailers.
    async fn raw(&self, path: &str, kind: &str) -> String {
        let request = Request::post(format!("https://manager{path}")).header("content-type", kind).header("te", "trailers");
        let response = self.0.clone().send_request(request.body(Body::default()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned();
        format!("{} {:?} {:?} {:?}", parts.status, parts.headers, body.to_bytes(), trailers)
    }

    fn agent(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::with_origin(self.clone(), "https://manager".parse().unwrap())
    }

    fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::with_origin(self.clone(), "https://manager".parse().unwrap())
    }

    fn newcomer(&self) -> EnrollmentServiceClient<Channel> {
        EnrollmentServiceClient::with_origin(self.clone(), "https://manager".parse().unwrap())
    }
}

fn asking(what: &'static str) -> tonic::Request<GetSelfRequest> {
    let mut request = tonic::Request::new(GetSelfRequest {});
    request.metadata_mut().insert("x-do", what.parse().unwrap());
    request
}

impl Bed {
    fn now(&self) -> Timestamp {
        self.world.now()
    }

    fn later(&self, days: i64) {
        self.clock.fetch_add(days * DAY, Ordering::SeqCst);
    }

    fn client_clock(&self) -> Clock {
        let world = self.world.clone();
        Clock::new(move || world.now())
    }

    fn agent_config(&self, id: &str) -> Arc<ClientConfig> {
        let key = PrivateKey::generate().unwrap();
        let issued = self.ca.issue_agent(&id.parse().unwrap(), key.public_key(), self.now(), sutler_certs::issue::AGENT_VALIDITY).unwrap();
        let credential = Credential { chain: issued.chain, key };
        tls::agent_client(Some(&credential), &ServerTrust::of_bundle(&self.ca), self.client_clock()).unwrap()
    }

    fn operator_config(&self) -> Arc<ClientConfig> {
        let key = PrivateKey::generate().unwrap();
        let validity = sutler_certs::issue::OPERATOR_VALIDITY;
        let issued = self.ca.issue_operator(&"ann".parse().unwrap(), key.public_key(), self.now(), validity).unwrap();
        let credential = Credential { chain: issued.chain, key };
        tls::operator_client(&credential, &ServerTrust::of_bundle(&self.ca), self.client_clock()).unwrap()
    }

    fn nobody_config(&self) -> Arc<ClientConfig> {
        tls::agent_client(None, &ServerTrust::of_bundle(&self.ca), self.client_clock()).unwrap()
    }

    async fn agent(&self) -> Channel {
        Channel::open(self.agents.address(), self.agent_config("0123456789abcdef")).await.unwrap()
    }

    async fn operator(&self) -> Channel {
        Channel::open(self.operators.address(), self.operator_config()).await.unwrap()
    }

    async fn nobody(&self) -> Channel {
        Channel::open(self.agents.address(), self.nobody_config()).await.unwrap()
    }
}

/// Paths that exist somewhere, and some that don't.
const ELSEWHERE: [&str; 7] = [
    "/sutler.v1.AgentService/Connect",
    "/sutler.v1.OperatorService/GetSelf",
    "/sutler.v1.EnrollmentService/Nothing",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/no.such.Service/Method",
    "/",
    "/x",
];

#[tokio::test]
async fn nobody_reaches_enrolment_and_learns_of_nothing_else() {
    let bed = bed(Limits::default());
    let nobody = bed.nobody().await;
    let enrolled = nobody.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    assert_eq!(enrolled.into_inner().client_id, "enrolled");
    let mut answers = std::collections::BTreeSet::new();
    for path in ELSEWHERE {
        answers.insert(nobody.raw(path, "application/grpc").await);
    }
    assert_eq!(answers.len(), 1, "one answer for all: {answers:#?}");
    let answer = answers.first().unwrap();
    assert!(answer.starts_with("200") && answer.contains("\"grpc-status\": \"12\"") && !answer.contains("grpc-message"), "{answer}");
}

#[tokio::test]
async fn an_agent_can_neither_enrol_nor_do_what_operators_do() {
    let bed = bed(Limits::default());
    // The agent's own router, as it is in the manager.
    let route = AgentsPort::new(
        Routes::new(EnrollmentServiceServer::new(Everything)),
        Routes::new(AgentServiceServer::new(Everything)),
        Routes::new(AgentServiceServer::new(Everything)),
    );
    let tls = tls::agents_port_server(&bed.ca, bed.shown.clone(), tls::AGENT_GRACE, bed.client_clock()).unwrap();
    let shared = Shared {
        limits: Arc::default(),
        trust_domain: bed.ca.trust_domain().clone(),
        metrics: bed.metrics.clone(),
        world: bed.world.clone(),
    };
    let port = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap().serve(tls, route, 10, shared);
    let agent = Channel::open(port.address(), bed.agent_config("0123456789abcdef")).await.unwrap();
    let mut parts = agent.agent().read_chunks(ReadChunksRequest::default()).await.unwrap().into_inner();
    assert_eq!(parts.message().await.unwrap().unwrap().parts[0].data.len(), 1 << 18);
    assert_eq!(agent.newcomer().enroll(EnrollRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(agent.operator().get_self(GetSelfRequest {}).await.unwrap_err().code(), Code::Unimplemented);
    let mut answers = std::collections::BTreeSet::new();
    for path in &ELSEWHERE[1..] {
        answers.insert(agent.raw(path, "application/grpc").await);
    }
    assert_eq!(answers.len(), 1, "one answer for all: {answers:#?}");
}

#[tokio::test]
async fn an_agent_whose_certificate_ended_can_renew_it_and_nothing_else_until_the_grace_is_over() {
    let bed = bed(Limits::default());
    let config = bed.agent_config("0123456789abcdef");
    bed.later(31);
    let late = Channel::open(bed.agents.address(), config.clone()).await.unwrap();
    late.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    assert_eq!(late.agent().read_chunks(ReadChunksRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(late.newcomer().enroll(EnrollRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
    bed.later(90);
    let too_late = Channel::open(bed.agents.address(), config).await;
    let refused = match too_late {
        // With TLS 1.3 the client may be done before the manager has looked at its certificate.
        Ok(channel) => channel.agent().renew_certificate(RenewCertificateRequest::default()).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_certificate() {
    let bed = bed(Limits::default());
    let operator = bed.operator().await;
    operator.operator().get_self(GetSelfRequest {}).await.unwrap();
    bed.later(1);
    let refused = operator.operator().get_self(GetSelfRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("renew"), "{refused}");
}

#[tokio::test]
async fn the_operators_port_takes_operators_alone_and_an_ended_certificate_can_be_renewed() {
    let bed = bed(Limits::default());
    for config in [bed.nobody_config(), bed.agent_config("0123456789abcdef")] {
        let refused = match Channel::open(bed.operators.address(), config).await {
            Ok(channel) => channel.operator().get_self(GetSelfRequest {}).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
    }
    let config = bed.operator_config();
    let operator = Channel::open(bed.operators.address(), config.clone()).await.unwrap();
    assert_eq!(operator.operator().get_self(GetSelfRequest {}).await.unwrap().into_inner().name, "operator/ann");
    bed.later(20);
    let late = Channel::open(bed.operators.address(), config).await.unwrap();
    late.operator().renew_operator_certificate(RenewOperatorCertificateRequest::default()).await.unwrap();
    assert_eq!(late.operator().get_self(GetSelfRequest {}).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_panic_is_internal_for_its_caller_and_the_connection_lives_on() {
    let bed = bed(Limits::default());
    let operator = bed.operator().await;
    for what in ["panic", "secret"] {
        let status = operator.operator().get_self(asking(what)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains("incident") && !status.message().contains("1234"), "{status}");
    }
    operator.operator().get_self(GetSelfRequest {}).await.unwrap();
    let agent = bed.agent().await;
    let request = ReadChunksRequest { attempt: "panic".into(), ..Default::default() };
    let mut parts = agent.agent().read_chunks(request).await.unwrap().into_inner();
    parts.message().await.unwrap().unwrap();
    assert_eq!(parts.message().await.unwrap_err().code(), Code::Internal);
    agent.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    assert_eq!(bed.metrics.panics.get(), 2);
}

#[tokio::test]
async fn a_message_that_is_too_large_exhausts_a_resource_and_an_unreadable_one_is_invalid() {
    let bed = bed(Limits::default());
    let operator = bed.operator().await;
    let request = RenewOperatorCertificateRequest { csr: vec![0; 65 << 10].into() };
    let status = operator.operator().renew_operator_certificate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let empty = operator.raw("/sutler.v1.OperatorService/GetSelf", "application/grpc").await;
    assert!(empty.contains("\"grpc-status\": \"3\""), "{empty}");
    let from_a_browser = operator.raw("/sutler.v1.OperatorService/GetSelf", "text/plain").await;
    assert!(from_a_browser.starts_with("415"), "{from_a_browser}");
}

#[tokio::test]
async fn a_unary_call_has_a_deadline_and_a_stream_has_its_callers() {
    let bed = bed(Limits { unary_call: Duration::from_millis(100), ..Limits::default() });
    let operator = bed.operator().await;
    let status = timeout(PATIENCE, operator.operator().get_self(asking("hang"))).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let agent = bed.agent().await;
    let mut open = agent.agent().connect(stream::pending()).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    assert!(timeout(Duration::from_millis(300), open.message()).await.is_err(), "the stream stays open");
    let mut request = tonic::Request::new(stream::pending());
    // Long enough for the first message on a busy machine.
    request.set_timeout(Duration::from_secs(2));
    let mut timed = agent.agent().connect(request).await.unwrap().into_inner();
    timed.message().await.unwrap().unwrap();
    let status = timeout(PATIENCE, timed.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn silent_and_slow_sockets_keep_no_newcomer_out() {
    let bed = bed(Limits { handshakes: 64, silent_sockets: 100, ..Limits::default() });
    let mut sockets = Vec::new();
    for n in 0..300 {
        let mut socket = TcpStream::connect(bed.agents.address()).await.unwrap();
        if n % 2 == 0 {
            // The first byte of a handshake, and no more.
            let _ = socket.write_all(&[22]).await;
        }
        sockets.push(socket);
    }
    let enrol = async { bed.nobody().await.newcomer().enroll(EnrollRequest::default()).await.unwrap() };
    timeout(Duration::from_secs(5), enrol).await.expect("a newcomer gets through within the time of a handshake");
}

#[tokio::test]
async fn a_connection_that_says_nothing_after_its_handshake_is_closed() {
    let bed = bed(Limits { handshake: Duration::from_millis(200), silence: Duration::from_millis(200), ..Limits::default() });
    let socket = TcpStream::connect(bed.agents.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(bed.nobody_config()).connect(name, socket).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed");
    let mut silent = TcpStream::connect(bed.agents.address()).await.unwrap();
    let _ = timeout(PATIENCE, silent.read_to_end(&mut rest)).await.expect("it is closed");
}

#[tokio::test]
async fn callers_without_a_certificate_are_limited_by_address_and_agents_are_not() {
    let bed = bed(Limits { anonymous_per_address: 2, ..Limits::default() });
    let (one, two) = (bed.nobody().await, bed.nobody().await);
    one.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    two.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    let three = bed.nobody().await;
    three.closed().await;
    bed.agent().await.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    drop((one, two));
    let again = async {
        while bed.nobody().await.newcomer().enroll(EnrollRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn a_connection_without_a_certificate_does_not_last() {
    let bed = bed(Limits { anonymous_lifetime: Duration::from_millis(50), ..Limits::default() });
    bed.nobody().await.closed().await;
}

#[tokio::test]
async fn one_connection_too_many_closes_an_agents_oldest_and_tells_an_operator() {
    let bed = bed(Limits { connections_per_agent: 1, connections_per_operator: 1, ..Limits::default() });
    let first = bed.agent().await;
    first.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    let second = bed.agent().await;
    second.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    first.closed().await;
    let other = Channel::open(bed.agents.address(), bed.agent_config("aaaaaaaaaaaaaaaa")).await.unwrap();
    other.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    second.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();

    let first = bed.operator().await;
    first.operator().get_self(GetSelfRequest {}).await.unwrap();
    let status = bed.operator().await.operator().get_self(GetSelfRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    first.operator().get_self(GetSelfRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_stopped_lets_calls_end_and_then_closes() {
    let bed = bed(Limits::default());
    let agent = bed.agent().await;
    let mut open = agent.agent().connect(stream::pending()).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    let idle = bed.nobody().await;
    let _silent = TcpStream::connect(bed.agents.address()).await.unwrap();
    let address = bed.agents.address();
    timeout(PATIENCE, bed.agents.stop(Duration::from_millis(200))).await.unwrap();
    idle.closed().await;
    agent.closed().await;
    assert!(open.message().await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_managers_certificate_is_exchanged_while_connections_live_on() {
    let bed = bed(Limits::default());
    let leaf = async || {
        let socket = TcpStream::connect(bed.agents.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(bed.nobody_config()).connect(name, socket).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = leaf().await;
    bed.keeper.look(&bed.shown, &bed.world).unwrap();
    assert_eq!(leaf().await, first, "not due yet");
    let agent = bed.agent().await;
    bed.later(61);
    let late = bed.agent_config("aaaaaaaaaaaaaaaa");
    bed.keeper.look(&bed.shown, &bed.world).unwrap();
    assert_ne!(leaf().await, first);
    assert!(!agent.0.is_closed());
    Channel::open(bed.agents.address(), late).await.unwrap();
}

#[tokio::test]
async fn behind_a_balancer_the_caller_is_who_the_balancer_says_and_nobody_else_can_say_so() {
    let local = vec!["127.0.0.0/8".parse().unwrap()];
    let bed = bed(Limits { anonymous_per_address: 1, proxy_protocol_from: local, ..Limits::default() });
    let through = async |header: &str| {
        let mut socket = TcpStream::connect(bed.agents.address()).await?;
        socket.write_all(header.as_bytes()).await?;
        Channel::over(socket, bed.nobody_config()).await
    };
    let first = through("PROXY TCP4 10.0.0.7 10.0.0.1 4711 7443\r\n").await.unwrap();
    first.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    let second = through("PROXY TCP4 10.0.0.8 10.0.0.1 4711 7443\r\n").await.unwrap();
    second.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    through("PROXY TCP4 10.0.0.7 10.0.0.1 4712 7443\r\n").await.unwrap().closed().await;
    assert!(through("").await.is_err(), "the header is required");
    let plain = self::bed(Limits::default());
    let mut socket = TcpStream::connect(plain.agents.address()).await.unwrap();
    socket.write_all(b"PROXY TCP4 10.0.0.7 10.0.0.1 4711 7443\r\n").await.unwrap();
    assert!(Channel::over(socket, plain.nobody_config()).await.is_err(), "and refused from everywhere else");
}

#[tokio::test]
async fn nobody_can_send_more_than_an_enrolment() {
    let bed = bed(Limits::default());
    let nobody = bed.nobody().await;
    let endless = stream::repeat_with(|| Ok::<_, Status>(http_body::Frame::data(bytes::Bytes::from_static(&[0; 5000]))));
    let request = Request::post(format!("https://manager{ENROLL}")).header("content-type", "application/grpc").header("te", "trailers");
    let body = Body::new(http_body_util::StreamBody::new(endless));
    let response = timeout(PATIENCE, nobody.0.clone().send_request(request.body(body).unwrap())).await.unwrap().unwrap();
    assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::ResourceExhausted);
}

/// Is set in the process that the test below starts.
const CHILD: &str = "SUTLER_TEST_FEW_DESCRIPTORS";

/// Serves in a process of its own, with few descriptors, as the next test's other half; by itself it has nothing to do.
#[tokio::test]
async fn the_other_half_of_the_next_test_serves_with_few_descriptors() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let bed = bed(Limits { connections: 1000, ..Limits::default() });
    println!("address {}", bed.agents.address());
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_manager_out_of_descriptors_still_answers_and_does_not_spin() {
    use std::io::{BufRead, Read, Write};
    let mut child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg("net::tests::the_other_half_of_the_next_test_serves_with_few_descriptors")
        .env(CHILD, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let address: SocketAddr = loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child ended early");
        if let Some((_, address)) = line.split_once("address ") {
            break address.trim().parse().unwrap();
        }
    };
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // A handshake is answered: the manager's certificate is of a CA that is not known here, which is all that can be seen.
    let trust = CaBundle::create(&"other.example".parse().unwrap(), World::system().now()).unwrap();
    let config = tls::agent_client(None, &ServerTrust::of_bundle(&trust), Clock::system()).unwrap();
    let answered = async {
        loop {
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let error = TlsConnector::from(config.clone()).connect(name, socket).await.err().unwrap();
            if error.kind() == io::ErrorKind::InvalidData {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), answered).await.expect("a newcomer is answered although all descriptors are taken");
    let ticks =
        |text: String| text.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    let used: u64 = ticks(fs_err::read_to_string(format!("/proc/{}/stat", child.id())).unwrap());
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(used < 300, "it used {used} hundredths of a second");
}
