//! The limit that the manager's connections are measured against: tonic, hyper and rustls as they come, mutual TLS 1.3, one open
//! stream of each client, and nothing behind it. Server and clients are processes of their own.

use super::{agents, fleet::Worker, pki};
use futures_util::StreamExt as _;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde_json::json;
use std::{
    io::{self, BufRead as _, Write as _},
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use sutler_agent::{limits::Limits, link, simulation};
use sutler_proto::v1::{self, agent_service_client::AgentServiceClient, agent_service_server as server_side};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// The words for them.
pub(super) const SERVER: &str = "bare-server";
pub(super) const CLIENTS: &str = "bare-clients";

/// How many clients connect at the same time, at first.
const AT_ONCE: usize = 64;
/// How soon a client that lost its connection tries again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a client waits for a connection that is being made.
const PATIENT: Duration = Duration::from_secs(600);
/// How many clients one process has at most: none may have more than 20,000 descriptors.
const CLIENTS_MAX: usize = 7_500;

/// A bare server.
pub(super) struct BareServer {
    worker: Worker,
    address: String,
    keys: PathBuf,
}

impl BareServer {
    /// On a free port; `keys` is a folder for its certificates.
    pub(super) fn start(keys: &Path) -> BareServer {
        pki::make(keys);
        BareServer::at(keys, "127.0.0.1:0")
    }

    fn at(keys: &Path, address: &str) -> BareServer {
        let mut worker = Worker::start(&[SERVER.into(), keys.to_string_lossy().into_owned(), address.into()]);
        let address = worker.heard()["address"].as_str().expect("it says where it is").to_owned();
        BareServer { worker, address, keys: keys.to_owned() }
    }

    /// SIGKILL, and up again on the same port.
    pub(super) fn kill_and_start(self) -> BareServer {
        let (keys, address) = (self.keys.clone(), self.address.clone());
        drop(self);
        BareServer::at(&keys, &address)
    }

    pub(super) fn pid(&self) -> u32 {
        self.worker.pid()
    }
}

/// Clients of a bare server.
pub(super) struct BareClients(Vec<Worker>);

impl BareClients {
    /// So many, all of which have opened a stream.
    pub(super) fn start(server: &BareServer, count: usize) -> BareClients {
        let processes = count.div_ceil(CLIENTS_MAX);
        let share = count.div_ceil(processes);
        let mut workers = Vec::new();
        let mut left = count;
        while left > 0 {
            let some = share.min(left);
            let words = [CLIENTS.into(), server.keys.to_string_lossy().into_owned(), server.address.clone(), some.to_string()];
            workers.push(Worker::start(&words));
            left -= some;
        }
        let mut clients = BareClients(workers);
        let connected: u64 = clients.0.iter_mut().filter_map(|worker| worker.heard()["connected"].as_u64()).sum();
        assert_eq!(connected, count as u64, "so many bare clients are connected");
        clients
    }

    /// How many have an open stream now.
    pub(super) fn connected(&mut self) -> u64 {
        self.census("connected")
    }

    /// How many streams were opened since their start.
    pub(super) fn opened(&mut self) -> u64 {
        self.census("opened")
    }

    fn census(&mut self, name: &str) -> u64 {
        self.0.iter_mut().filter_map(|worker| worker.ask("census")[name].as_u64()).sum()
    }
}

/// Answers every stream with one message, and keeps it open.
struct Bare;

#[tonic::async_trait]
impl server_side::AgentService for Bare {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ConnectResponse, Status>> + Send>>;
    type ReadChunksStream = Pin<Box<dyn Stream<Item = Result<v1::ReadChunksResponse, Status>> + Send>>;

    async fn connect(&self, request: Request<Streaming<v1::ConnectRequest>>) -> Result<Response<Self::ConnectStream>, Status> {
        let mut from = request.into_inner();
        from.message().await?.ok_or_else(|| Status::invalid_argument("the first message did not come"))?;
        let (sender, receiver) = mpsc::channel(16);
        let welcome = v1::ConnectResponse { message: Some(v1::connect_response::Message::Welcome(v1::Welcome::default())) };
        let _ = sender.send(Ok(welcome)).await;
        tokio::spawn(async move {
            // As long as the client has something to say, or nothing and is there.
            while let Ok(Some(_)) = from.message().await {}
            drop(sender);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn read_chunks(&self, _: Request<v1::ReadChunksRequest>) -> Result<Response<Self::ReadChunksStream>, Status> {
        Err(Status::unimplemented("this server is bare"))
    }

    async fn find_delta(&self, _: Request<v1::FindDeltaRequest>) -> Result<Response<v1::FindDeltaResponse>, Status> {
        Err(Status::unimplemented("this server is bare"))
    }

    async fn ping(&self, _: Request<v1::PingRequest>) -> Result<Response<v1::PingResponse>, Status> {
        Err(Status::unimplemented("this server is bare"))
    }

    async fn renew_certificate(&self, _: Request<v1::RenewCertificateRequest>) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        Err(Status::unimplemented("this server is bare"))
    }
}

/// Serves everybody who comes, each on a task of its own, as tonic's own transport does: hyper's HTTP/2 with its defaults.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor) -> io::Result<()> {
    let service = server_side::AgentServiceServer::new(Bare);
    loop {
        let (tcp, _) = listener.accept().await?;
        let _ = tcp.set_nodelay(true);
        let (acceptor, service) = (acceptor.clone(), service.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = TowerToHyperService::new(service);
            let mut server = http2::Builder::new(TokioExecutor::new());
            let _ = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

/// `bench bare-server KEYS ADDRESS`.
pub(super) fn server(words: &[String]) -> ExitCode {
    let [keys, address] = words else { return ExitCode::from(2) };
    sutler::net::raise_descriptor_limit();
    let acceptor = TlsAcceptor::from(server_config(Path::new(keys)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    let served = runtime.block_on(async {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        say(&json!({"address": listener.local_addr().expect("it is bound").to_string()}));
        // It ends with whoever started it.
        std::thread::spawn(|| {
            std::io::stdin().lock().lines().map_while(Result::ok).for_each(drop);
            std::process::exit(0);
        });
        serve(listener, acceptor).await
    });
    served.expect("it serves");
    ExitCode::SUCCESS
}

/// `bench bare-clients KEYS ADDRESS COUNT`.
pub(super) fn clients(words: &[String]) -> ExitCode {
    let [keys, address, count] = words else { return ExitCode::from(2) };
    let Ok(count) = count.parse::<usize>() else { return ExitCode::from(2) };
    sutler::net::raise_descriptor_limit();
    simulation::connect_from(agents::ADDRESSES);
    let tls = client_config(Path::new(keys));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made");
    let streams = Arc::new(Streams::default());
    runtime.block_on(futures_util::stream::iter(0..count).for_each_concurrent(AT_ONCE, |_| {
        let (tls, address, streams) = (tls.clone(), address.clone(), streams.clone());
        async move {
            let (up, is_up) = tokio::sync::oneshot::channel();
            tokio::spawn(stay(tls, address, streams, up));
            let _ = is_up.await;
        }
    }));
    let say_census = || {
        let [connected, opened] = [&streams.connected, &streams.opened].map(|count| count.load(Ordering::Relaxed));
        say(&json!({"connected": connected, "opened": opened}));
    };
    say_census();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        assert_eq!(line, "census");
        say_census();
    }
    ExitCode::SUCCESS
}

/// The streams of all clients of this process.
#[derive(Debug, Default)]
struct Streams {
    connected: AtomicUsize,
    opened: AtomicUsize,
}

/// One client: connects, opens a stream, waits for its end, and comes back.
async fn stay(tls: Arc<ClientConfig>, address: String, streams: Arc<Streams>, up: tokio::sync::oneshot::Sender<()>) {
    let mut up = Some(up);
    // Who gives up a handshake that takes long begins another one: the herd would hold up itself.
    let patient = Limits { connect: PATIENT, handshake: PATIENT, ..Limits::default() };
    loop {
        if let Ok(connection) = link::connect_within(&address, tls.clone(), &patient).await {
            let (sender, receiver) = mpsc::channel(1);
            let _ = sender.send(v1::ConnectRequest::default()).await;
            let mut client = AgentServiceClient::with_origin(connection.clone(), connection.origin());
            if let Ok(stream) = client.connect(ReceiverStream::new(receiver)).await {
                let mut stream = stream.into_inner();
                if let Ok(Some(_)) = stream.message().await {
                    streams.opened.fetch_add(1, Ordering::Relaxed);
                    streams.connected.fetch_add(1, Ordering::Relaxed);
                    if let Some(up) = up.take() {
                        let _ = up.send(());
                    }
                    while let Ok(Some(_)) = stream.message().await {}
                    streams.connected.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn certificate(keys: &Path, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(keys.join(name)).expect("it is a certificate")
}

fn key(keys: &Path, name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(keys.join(name)).expect("it is a key")
}

fn roots(keys: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(keys, "ca.pem")).expect("it is a CA's");
    Arc::new(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config(keys: &Path) -> Arc<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(keys), provider()).build().expect("the CA is good");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate(keys, "server.pem")], key(keys, "server.key"))
        .expect("the key is good");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn client_config(keys: &Path) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_root_certificates(roots(keys))
        .with_client_auth_cert(vec![certificate(keys, "client.pem")], key(keys, "client.key"))
        .expect("the key is good");
    config.alpn_protocols = vec![b"h2".to_vec()];
    // As our agents: each connection is a whole handshake.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn say(answer: &serde_json::Value) {
    println!("{answer}");
    let _ = std::io::stdout().flush();
}
