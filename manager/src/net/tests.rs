//! Both ports with real TLS on the loopback, and small services behind them.

mod callers;
mod calls;
mod crowds;
mod floods;
mod limits;

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
/// All that somebody without a certificate reaches.
const ENROLL: &str = "/sutler.v1.EnrollmentService/Enroll";
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
            _ => stream::iter((0..8).map(|_| part(&[7; 1 << 18])).collect::<Vec<_>>()).boxed(),
        };
        Ok(tonic::Response::new(parts))
    }

    async fn find_delta(
        &self,
        _: tonic::Request<sutler_proto::v1::FindDeltaRequest>,
    ) -> Result<tonic::Response<sutler_proto::v1::FindDeltaResponse>, Status> {
        Err(Status::not_found("no delta"))
    }

    async fn ping(
        &self,
        _: tonic::Request<sutler_proto::v1::PingRequest>,
    ) -> Result<tonic::Response<sutler_proto::v1::PingResponse>, Status> {
        Ok(tonic::Response::new(Default::default()))
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

    async fn create_operator(&self, _: tonic::Request<CreateOperatorRequest>) -> Result<tonic::Response<CreateOperatorResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_operator(&self, _: tonic::Request<GetOperatorRequest>) -> Result<tonic::Response<GetOperatorResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_operators(&self, _: tonic::Request<ListOperatorsRequest>) -> Result<tonic::Response<ListOperatorsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_operator(&self, _: tonic::Request<UpdateOperatorRequest>) -> Result<tonic::Response<UpdateOperatorResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_operator(&self, _: tonic::Request<RevokeOperatorRequest>) -> Result<tonic::Response<RevokeOperatorResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn issue_operator_certificate(
        &self,
        _: tonic::Request<IssueOperatorCertificateRequest>,
    ) -> Result<tonic::Response<IssueOperatorCertificateResponse>, Status> {
        Err(Status::unimplemented(""))
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
    _threads: Threads,
    _folder: tempfile::TempDir,
}

fn bed(limits: Limits) -> Bed {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let clock = Arc::new(AtomicI64::new(start.as_millisecond()));
    let world = World::with_clock(clock.clone());
    let ca = Arc::new(CaBundle::create(&"acme.example".parse().unwrap(), start).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let hosts: Vec<Host> = vec!["localhost".parse().unwrap()];
    let keeper = CertificateKeeper { folder: folder.path().join("server"), ca: Arc::new(ca.clone().into()), hosts };
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
    let agents =
        listen().serve(Arc::new(agents_tls.into()), AgentsPort::new(everything(), everything(), everything()), 2000, shared.clone());
    let threads = Threads::start("operators").unwrap();
    let operators = threads.run(listen).serve(Arc::new(operators_tls.into()), OperatorsPort::new(everything(), everything()), 100, shared);
    Bed { ca, clock, world, metrics, shown, keeper, agents, operators, _threads: threads, _folder: folder }
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
        let (mut parts, body) = response.into_parts();
        parts.headers.remove("date");
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
