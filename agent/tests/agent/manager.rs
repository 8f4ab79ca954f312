//! A manager that does what a test says: real certificates, real TLS, real HTTP/2, no decisions of its own.

use bytes::Bytes;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use sutler_base::{
    AttemptId, ClientId, Digest, ParameterName, Timestamp, TokenId,
    chunks::{Chunk, ChunkList},
    limits,
    manifest::{Dependency, Detection, Entry, EntryKind, Manifest, Parameter, Phase, Platform, Requirement, Step, Supersedes},
    outcome::Outcome,
    state::ExecutionState,
    token::TokenString,
};
use sutler_certs::{
    CaBundle, Credential, Envelope, Identity, PeerCertificate, PrivateKey, PublisherKey, TrustDocument, TrustDomain, public_key_of_csr,
    tls::{Clock, ServerCertificate, agents_port_server},
};
use sutler_proto::{
    convert::Word,
    v1::{
        self, ConnectRequest, ConnectResponse, agent_service_server, connect_request::Message as Up, connect_response::Message as Down,
        enrollment_service_server,
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// How long a condition may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

type Answers = mpsc::Sender<Result<ConnectResponse, Status>>;

struct Shared {
    ca: CaBundle,
    domain: TrustDomain,
    publisher: PublisherKey,
    trust: TrustDocument,
    signed_trust: Mutex<Vec<u8>>,
    trust_pin: Digest,
    secret: [u8; 32],
    token: TokenId,
    addresses: Mutex<Vec<String>>,
    clients: Mutex<HashMap<[u8; 32], ClientId>>,
    objects: Mutex<HashMap<Digest, Bytes>>,
    asked: Mutex<Vec<Digest>>,
    agent_validity: Mutex<Duration>,
    refuse: Mutex<Option<Status>>,
    fail_chunks: Mutex<Option<Status>>,
    serials: Mutex<Vec<String>>,
    session: Mutex<Option<Answers>>,
    heard: watch::Sender<Vec<Up>>,
    sessions: watch::Sender<Vec<v1::Hello>>,
    /// How often somebody asked whether it is there.
    pings: watch::Sender<u64>,
    /// Whether that is answered.
    answers_pings: AtomicBool,
    send_facts: bool,
}

/// The manager.
#[derive(Clone)]
pub(crate) struct Manager(Arc<Shared>);

impl Manager {
    pub(crate) async fn start() -> Manager {
        let now = Timestamp::now();
        let domain: TrustDomain = "acme.example".parse().unwrap();
        let ca = CaBundle::create(&domain, now).unwrap();
        let publisher = PublisherKey::generate().unwrap();
        let expires = now.checked_add(jiff::SignedDuration::from_hours(1000)).unwrap();
        let trust = TrustDocument::new(1, 1, &[publisher.public_key()], 1, &[""], expires).unwrap();
        let document = trust.sign(&[&publisher]);
        let manager = Manager(Arc::new(Shared {
            ca,
            domain,
            publisher,
            trust_pin: document.digest(),
            signed_trust: Mutex::new(document.to_json()),
            trust,
            secret: [7; 32],
            token: TokenId::from_random([9; 16]),
            addresses: Mutex::default(),
            clients: Mutex::default(),
            objects: Mutex::default(),
            asked: Mutex::default(),
            agent_validity: Mutex::new(Duration::from_secs(30 * 86_400)),
            refuse: Mutex::default(),
            fail_chunks: Mutex::default(),
            serials: Mutex::default(),
            session: Mutex::default(),
            heard: watch::Sender::new(vec![]),
            sessions: watch::Sender::new(vec![]),
            pings: watch::Sender::new(0),
            answers_pings: AtomicBool::new(true),
            send_facts: true,
        }));
        let address = manager.listen().await;
        manager.0.addresses.lock().unwrap().push(address);
        manager
    }

    /// Waits until it was asked so often whether it is there.
    pub(crate) async fn pinged(&self, times: u64) {
        let mut pings = self.0.pings.subscribe();
        let asked = tokio::time::timeout(PATIENCE, pings.wait_for(|count| *count >= times)).await;
        asked.expect("it is asked").expect("it is there");
    }

    /// Hears whether it is there, and says nothing any more.
    pub(crate) fn falls_silent(&self) {
        self.0.answers_pings.store(false, Ordering::Relaxed);
    }

    /// Opens another port; the same manager answers there.
    pub(crate) async fn listen(&self) -> String {
        let shared = &self.0;
        let key = PrivateKey::generate().unwrap();
        let hosts = ["127.0.0.1".parse().unwrap()];
        let issued = shared.ca.issue_server(&hosts, key.public_key(), Timestamp::now(), Duration::from_secs(86_400)).unwrap();
        let certificate = ServerCertificate::new(&Credential { chain: issued.chain, key }).unwrap();
        let config = agents_port_server(&shared.ca, certificate, Duration::from_secs(86_400), Clock::system()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let manager = self.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (manager, acceptor) = (manager.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let peer = PeerCertificate::of_connection(tls.get_ref().1.peer_certificates(), &manager.0.domain).unwrap();
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let io = TokioIo::new(tls);
                    let _ = match peer {
                        None => {
                            let service = enrollment_service_server::EnrollmentServiceServer::new(manager);
                            server.serve_connection(io, TowerToHyperService::new(service)).await
                        }
                        Some(peer) => {
                            manager.0.serials.lock().unwrap().push(peer.serial.as_str().to_owned());
                            let service = agent_service_server::AgentServiceServer::new(Caller { manager, peer });
                            server.serve_connection(io, TowerToHyperService::new(service)).await
                        }
                    };
                });
            }
        });
        address
    }

    pub(crate) fn token(&self) -> TokenString {
        TokenString {
            trust_domain: self.0.domain.to_string(),
            addresses: self.0.addresses.lock().unwrap().clone(),
            root_pin: self.0.ca.root_pin().0,
            trust_pin: Some(self.0.trust_pin),
            id: self.0.token.clone(),
            secret: self.0.secret,
        }
    }

    /// From now on certificates of agents live so long.
    pub(crate) fn set_validity(&self, validity: Duration) {
        *self.0.agent_validity.lock().unwrap() = validity;
    }

    /// From now on every stream is refused with this; with none, welcomed.
    pub(crate) fn refuse(&self, status: Option<Status>) {
        *self.0.refuse.lock().unwrap() = status;
    }

    /// From now on every question for chunks fails with this.
    pub(crate) fn fail_chunks(&self, status: Option<Status>) {
        *self.0.fail_chunks.lock().unwrap() = status;
    }

    pub(crate) fn send(&self, message: Down) {
        let session = self.0.session.lock().unwrap().clone().expect("an agent is connected");
        session.try_send(Ok(ConnectResponse { message: Some(message) })).expect("the agent reads");
    }

    /// Ends the stream, as a manager that is stopped does.
    pub(crate) fn hang_up(&self) {
        *self.0.session.lock().unwrap() = None;
    }

    pub(crate) fn clients(&self) -> Vec<ClientId> {
        self.0.clients.lock().unwrap().values().cloned().collect()
    }

    pub(crate) fn sessions(&self) -> Vec<v1::Hello> {
        self.0.sessions.borrow().clone()
    }

    pub(crate) fn serials(&self) -> Vec<String> {
        self.0.serials.lock().unwrap().clone()
    }

    /// Digests of content that were asked for, manifests and lists included.
    pub(crate) fn asked(&self) -> Vec<Digest> {
        self.0.asked.lock().unwrap().clone()
    }

    pub(crate) fn heard(&self) -> Vec<Up> {
        self.0.heard.borrow().clone()
    }

    /// Waits until so many sessions were opened.
    pub(crate) async fn connected(&self, sessions: usize) {
        let mut seen = self.0.sessions.subscribe();
        let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|all| all.len() >= sessions)).await;
        waited.unwrap_or_else(|_| panic!("{sessions} sessions are not opened; heard {:#?}", self.heard())).unwrap();
    }

    /// Waits until the agents said something of which `find` makes something.
    pub(crate) async fn hears<T>(&self, what: &str, find: impl Fn(&[Up]) -> Option<T>) -> T {
        let mut heard = self.0.heard.subscribe();
        let waited = async {
            loop {
                if let Some(found) = find(&heard.borrow_and_update()) {
                    return found;
                }
                heard.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, waited).await {
            Ok(found) => found,
            Err(_) => panic!("{what} was never heard, but {:#?}", self.heard()),
        }
    }

    pub(crate) async fn outcome(&self, attempt: &AttemptId) -> Outcome {
        let bytes = self
            .hears(&format!("the outcome of {attempt}"), |all| {
                all.iter().find_map(|m| match m {
                    Up::Outcome(o) if o.attempt == attempt.as_str() => Some(o.outcome.clone()),
                    _ => None,
                })
            })
            .await;
        Outcome::parse(&bytes).unwrap()
    }

    pub(crate) async fn state(&self, attempt: &AttemptId, state: ExecutionState) -> v1::AttemptProgress {
        self.hears(&format!("{state} of {attempt}"), |all| {
            all.iter().find_map(|m| match m {
                Up::Progress(p) if p.attempt == attempt.as_str() && p.state == state.to_wire() => Some(p.clone()),
                _ => None,
            })
        })
        .await
    }

    pub(crate) fn outcomes(&self, attempt: &AttemptId) -> usize {
        self.heard().iter().filter(|m| matches!(m, Up::Outcome(o) if o.attempt == attempt.as_str())).count()
    }

    /// The publisher's key: a real manager has none.
    pub(crate) fn publisher(&self) -> &PublisherKey {
        &self.0.publisher
    }

    /// The trust document that the token pins.
    pub(crate) fn trust(&self) -> &TrustDocument {
        &self.0.trust
    }

    /// From now on newcomers get this instead of the pinned trust document.
    pub(crate) fn hand_out_trust(&self, json: Vec<u8>) {
        *self.0.signed_trust.lock().unwrap() = json;
    }

    /// Puts other bytes at the place of an object.
    pub(crate) fn exchange_object(&self, digest: Digest, bytes: Vec<u8>) {
        self.0.objects.lock().unwrap().insert(digest, bytes.into());
    }

    /// Signs a manifest, stores its content, and gives what an offer has of it.
    pub(crate) fn publish(&self, package: &Package) -> v1::OfferItem {
        self.publish_as(package, &[&self.0.publisher])
    }

    /// The same, signed by these keys.
    pub(crate) fn publish_as(&self, package: &Package, keys: &[&PublisherKey]) -> v1::OfferItem {
        let (bytes, objects) = package.build();
        let envelope = Envelope::sign(&bytes, keys);
        let mut store = self.0.objects.lock().unwrap();
        store.extend(objects.into_iter().map(|o| (Digest::of(&o), Bytes::from(o))));
        store.insert(envelope.digest, bytes.into());
        v1::OfferItem { envelope: envelope.to_json().into(), replace: v1::Replace::IfMissing as i32, ..Default::default() }
    }

    pub(crate) fn offer(&self, attempt: &AttemptId, items: Vec<v1::OfferItem>, lease_seconds: u32) {
        self.send(Down::Offer(offer(attempt, items, lease_seconds)));
    }

    pub(crate) fn recorded(&self, attempt: &AttemptId) {
        self.send(Down::OutcomeRecorded(v1::OutcomeRecorded { attempt: attempt.to_string(), refused: String::new() }));
    }
}

pub(crate) fn offer(attempt: &AttemptId, items: Vec<v1::OfferItem>, lease_seconds: u32) -> v1::Offer {
    v1::Offer {
        inventory: false,
        attempt: attempt.to_string(),
        job: "jobs/0123456789".into(),
        revision: 1,
        items,
        lease_seconds,
        expire_time: None,
        continue_on_failure: false,
        priority: 5,
        ..Default::default()
    }
}

pub(crate) fn attempt(n: u8) -> AttemptId {
    AttemptId::new(Timestamp::from_second(1_000 + i64::from(n)).unwrap(), [n; 16])
}

/// A package to be published.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) release: u64,
    pub(crate) directory: Option<&'static str>,
    pub(crate) files: BTreeMap<&'static str, Vec<u8>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) detection: Vec<Detection>,
    pub(crate) platform: Platform,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) parameters: BTreeMap<ParameterName, Parameter>,
    pub(crate) requirements: Vec<Requirement>,
    pub(crate) depends_on: Vec<Dependency>,
    pub(crate) supersedes: Vec<Supersedes>,
}

impl Package {
    pub(crate) fn new(name: &'static str, version: &'static str, release: u64) -> Package {
        Package {
            name,
            version,
            release,
            directory: Some("/opt/tool"),
            files: BTreeMap::new(),
            steps: vec![],
            detection: vec![],
            platform: Platform { os: "any".into(), arch: "any".into() },
            not_before: None,
            expires: None,
            parameters: BTreeMap::new(),
            requirements: vec![],
            depends_on: vec![],
            supersedes: vec![],
        }
    }

    pub(crate) fn file(mut self, path: &'static str, content: impl Into<Vec<u8>>) -> Package {
        self.files.insert(path, content.into());
        self
    }

    pub(crate) fn step(mut self, name: &str, phase: Phase, script: &str) -> Package {
        let argv = vec!["/bin/sh".into(), "-c".into(), script.into()];
        self.steps.push(Step { time_limit: 120, ..Step::new(name, phase, argv) });
        self
    }

    pub(crate) fn detected_by(mut self, path: &str) -> Package {
        self.detection.push(Detection::file(path));
        self
    }

    /// The manifest, and all objects.
    pub(crate) fn build(&self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut objects = Vec::new();
        let entry = |(path, content): (&&'static str, &Vec<u8>)| {
            let mut chunks = None;
            if content.len() > limits::CHUNK_MAX {
                let list: Vec<Chunk> = content.chunks(100_000).map(|c| Chunk { digest: Digest::of(c), length: c.len() as u32 }).collect();
                objects.extend(content.chunks(100_000).map(<[u8]>::to_vec));
                let list = ChunkList(list).encode();
                chunks = Some(Digest::of(&list));
                objects.push(list);
            } else {
                objects.push(content.clone());
            }
            let kind =
                EntryKind::File { mode: 0o755, size: content.len() as u64, blake3: Digest::of(content), sha256: Digest([0; 32]), chunks };
            Entry { path: path.parse().unwrap(), kind }
        };
        let files = self.files.iter().map(entry).collect();
        let manifest = Manifest {
            critical: self.not_before.iter().map(|_| "not_before".into()).collect(),
            platform: self.platform.clone(),
            directory: self.directory.map(|d| d.parse().unwrap()),
            files,
            detection: self.detection.clone(),
            steps: self.steps.clone(),
            expires: self.expires,
            not_before: self.not_before,
            parameters: self.parameters.clone(),
            requirements: self.requirements.clone(),
            depends_on: self.depends_on.clone(),
            supersedes: self.supersedes.clone(),
            ..Manifest::new(self.name.parse().unwrap(), self.version.parse().unwrap(), self.release)
        };
        manifest.check().unwrap();
        (manifest.to_bytes(), objects)
    }
}

#[tonic::async_trait]
impl enrollment_service_server::EnrollmentService for Manager {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let request = request.into_inner();
        if request.secret != self.0.secret[..] || request.token_id != self.0.token.as_str() {
            return Err(Status::unauthenticated("the token is not valid"));
        }
        let key = public_key_of_csr(&request.csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let client = {
            let mut clients = self.0.clients.lock().unwrap();
            let number = clients.len() as u8;
            clients.entry(key.sha256()).or_insert_with(|| ClientId::from_random([number + 1; 16])).clone()
        };
        let validity = *self.0.agent_validity.lock().unwrap();
        let issued = self.0.ca.issue_agent(&client, &key, Timestamp::now(), validity).unwrap();
        Ok(Response::new(v1::EnrollResponse {
            client_id: client.to_string(),
            state: v1::ClientState::Active as i32,
            certificates: issued.chain_der().into_iter().map(Bytes::from).collect(),
            root_certificate: self.0.ca.certificate(sutler_certs::ca::Authority::Root).to_vec().into(),
            addresses: self.0.addresses.lock().unwrap().clone(),
            trust_document: self.0.signed_trust.lock().unwrap().clone().into(),
            trust_domain: self.0.domain.to_string(),
        }))
    }
}

struct Caller {
    manager: Manager,
    peer: PeerCertificate,
}

type Answering<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl agent_service_server::AgentService for Caller {
    type ConnectStream = Answering<ConnectResponse>;
    type ReadChunksStream = Answering<v1::ReadChunksResponse>;

    async fn connect(&self, request: Request<Streaming<ConnectRequest>>) -> Result<Response<Self::ConnectStream>, Status> {
        if let Some(status) = self.manager.0.refuse.lock().unwrap().clone() {
            return Err(status);
        }
        let Identity::Agent(client) = self.peer.identity.clone() else { return Err(Status::internal("not an agent")) };
        let mut stream = request.into_inner();
        let Some(Ok(ConnectRequest { message: Some(Up::Hello(hello)) })) = stream.next().await else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (answers, receiver) = mpsc::channel(64);
        let shared = self.manager.0.clone();
        let welcome = v1::Welcome {
            client_id: client.to_string(),
            state: v1::ClientState::Active as i32,
            addresses: vec![],
            site: "self".into(),
            send_facts: shared.send_facts,
            server_time: Some(sutler_proto::convert::wire_time(Timestamp::now())),
            renew_certificate: false,
            unknown_attempts: vec![],
            ..v1::Welcome::default()
        };
        answers.try_send(Ok(ConnectResponse { message: Some(Down::Welcome(welcome)) })).unwrap();
        *shared.session.lock().unwrap() = Some(answers);
        shared.sessions.send_modify(|all| all.push(hello));
        tokio::spawn(async move {
            while let Some(Ok(ConnectRequest { message: Some(message) })) = stream.next().await {
                shared.heard.send_modify(|all| all.push(message));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn find_delta(&self, _: Request<v1::FindDeltaRequest>) -> Result<Response<v1::FindDeltaResponse>, Status> {
        // As a manager answers that is older than the method.
        Err(Status::unimplemented(""))
    }

    async fn ping(&self, _: Request<v1::PingRequest>) -> Result<Response<v1::PingResponse>, Status> {
        self.manager.0.pings.send_modify(|count| *count += 1);
        if !self.manager.0.answers_pings.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        // As a manager answers that is older than the method.
        Err(Status::unimplemented(""))
    }

    async fn read_chunks(&self, request: Request<v1::ReadChunksRequest>) -> Result<Response<Self::ReadChunksStream>, Status> {
        if let Some(status) = self.manager.0.fail_chunks.lock().unwrap().clone() {
            return Err(status);
        }
        let mut answers = Vec::new();
        for (index, digest) in request.into_inner().digests.iter().enumerate() {
            let digest = Digest::try_from(&digest[..]).map_err(|e| Status::invalid_argument(e.0))?;
            self.manager.0.asked.lock().unwrap().push(digest);
            let object = self.manager.0.objects.lock().unwrap().get(&digest).cloned();
            let object = object.ok_or_else(|| Status::not_found("not in this attempt's content"))?;
            let packed = zstd::bulk::compress(&object, 1).unwrap();
            let (encoding, data) = match packed.len() < object.len() {
                true => (v1::Encoding::Zstd, Bytes::from(packed)),
                false => (v1::Encoding::Identity, object),
            };
            let half = data.len() / 2;
            let part = |data: Bytes, last| v1::ObjectPart { index: index as u32, encoding: encoding as i32, data, last };
            let parts = match half {
                0 => vec![part(data, true)],
                _ => vec![part(data.slice(..half), false), part(data.slice(half..), true)],
            };
            answers.extend(parts.into_iter().map(|p| Ok(v1::ReadChunksResponse { parts: vec![p] })));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let Identity::Agent(client) = self.peer.identity.clone() else { return Err(Status::internal("not an agent")) };
        let key = public_key_of_csr(&request.into_inner().csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let issued = self.manager.0.ca.issue_agent(&client, &key, Timestamp::now(), Duration::from_secs(86_400)).unwrap();
        Ok(Response::new(v1::RenewCertificateResponse { certificates: issued.chain_der().into_iter().map(Bytes::from).collect() }))
    }
}
