//! A port: its socket, the accept loop, and the life of each connection from the first byte to the last.

use super::{
    Limits, Peer, Route,
    answer::Connection,
    census::{Census, Holder, TooMany},
    frames::{FLOOD, Frames},
    gate::{Gate, Watched},
    proxy,
    routes::Surface,
    status,
};
use crate::{
    telemetry::{Metrics, metrics},
    world::World,
};
use arc_swap::ArcSwap;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use sutler_certs::{Identity, PeerCertificate, TrustDomain};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

/// How many connections wait in the kernel until they are taken.
const BACKLOG: u32 = 4096;
/// What every HTTP/2 client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long after an error the accept loop waits, unless a connection ends before.
const PAUSE: Duration = Duration::from_millis(100);
/// How often at least it is asked whether the certificate of an idle connection has ended, should the clock have been set; calls
/// ask by themselves. Every look wakes a connection that else does nothing.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(600);
/// How long a connection that has to go may still finish its calls.
const FAREWELL: Duration = Duration::from_secs(2);
/// How many connections without a certificate wait for their turn, for each one from the same address that is served.
const WAITING: usize = 8;
/// How long a connection lasts on which every call is refused.
const REFUSED_LIFETIME: Duration = Duration::from_secs(5);

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address could not be bound.
    #[error("cannot listen on {address}: {source}; is another manager running there? Choose another address or port (0 for any)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A port that is bound, and not served yet: nobody is answered, and nobody who connects is lost.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    /// Who runs it.
    runtime: Handle,
}

impl Listener {
    /// Binds `address`; port 0 is any free port. Whoever calls here runs what is served: see [`Threads`](super::Threads).
    pub fn bind(address: SocketAddr) -> Result<Listener, NetError> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A manager that starts again takes its address while old connections linger.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let socket = socket.listen(BACKLOG)?;
            Ok(Listener { address: socket.local_addr()?, socket, runtime: Handle::current() })
        };
        bind().map_err(|source| NetError::Bind { address, source })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the port until the value that is given back is stopped or dropped. `connections` is this port's share of
    /// descriptors; see [`Budget`](super::Budget).
    pub fn serve(self, tls: Arc<ArcSwap<ServerConfig>>, route: impl Route, connections: usize, shared: Shared) -> Serving {
        let (phase, watched) = watch::channel(Phase::Serving);
        let (alive, ended) = mpsc::channel(1);
        let connections = if shared.limits.connections > 0 { shared.limits.connections.min(connections) } else { connections };
        let port = Arc::new(Port {
            name: route.port(),
            route: Box::new(route),
            tls,
            gate: Gate::new(&shared.limits),
            census: Arc::default(),
            waiting: Arc::default(),
            connections: Arc::new(Semaphore::new(connections.max(1))),
            phase: watched,
            shared,
        });
        let task = self.runtime.spawn(port.accept(self.socket, alive));
        Serving { address: self.address, phase, task, ended }
    }
}

/// What both ports share.
#[derive(Clone)]
pub struct Shared {
    /// The bounds.
    pub limits: Arc<Limits>,
    /// The trust domain that callers must be in.
    pub trust_domain: TrustDomain,
    /// The figures.
    pub metrics: Arc<Metrics>,
    /// Time and randomness.
    pub world: World,
}

/// A port that is served. When this is dropped, the port ends at once.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    task: JoinHandle<()>,
    ended: mpsc::Receiver<()>,
}

impl Serving {
    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, asks everybody to finish, and ends what is left after `drain`.
    pub async fn stop(mut self, drain: Duration) {
        self.phase.send_replace(Phase::Draining);
        // Nobody sends; there is an end when the last connection has dropped its side.
        if timeout(drain, self.ended.recv()).await.is_err() {
            self.phase.send_replace(Phase::Ended);
            self.ended.recv().await;
        }
        let _ = self.task.await;
    }
}

/// Where a port is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Ended,
}

/// Becomes true at this phase or a later one, or when nobody holds the port any more.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    let _ = phase.wait_for(|p| *p == Phase::Ended || *p == wanted).await;
}

struct Port {
    name: &'static str,
    route: Box<dyn Route>,
    /// Exchanged while connections live on.
    tls: Arc<ArcSwap<ServerConfig>>,
    gate: Arc<Gate>,
    census: Arc<Census>,
    /// Those without a certificate who wait for their turn.
    waiting: Arc<Census>,
    connections: Arc<Semaphore>,
    phase: watch::Receiver<Phase>,
    shared: Shared,
}

/// Why a connection ended before there was a caller.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("it sent nothing, or too slowly (net.{0})")]
    Silent(&'static str),
    #[error("it had to go in favour of others (net.{0})")]
    Crowded(&'static str),
    #[error("it closed the connection")]
    Closed,
    #[error("{0}")]
    Proxy(#[from] proxy::ProxyError),
    #[error("handshake: {0}")]
    Handshake(io::Error),
    #[error("it does not speak HTTP/2")]
    NotHttp2,
    #[error("its certificate names nobody: {0}")]
    Certificate(#[from] sutler_certs::identity::CertificateError),
    #[error("{0} has nothing to do on this port")]
    WrongPort(Identity),
    #[error("too many connections from its address (net.{0})")]
    TooMany(&'static str),
}

impl Lost {
    /// The limit that it ran into, if it was one.
    fn limit(&self) -> Option<&'static str> {
        match self {
            Lost::Silent(limit) | Lost::Crowded(limit) | Lost::TooMany(limit) => Some(limit),
            _ => None,
        }
    }
}

impl Port {
    async fn accept(self: Arc<Self>, socket: TcpListener, alive: mpsc::Sender<()>) {
        let mut phase = self.phase.clone();
        let label = metrics::Port { port: self.name };
        loop {
            let taken = tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Draining) => return,
                taken = socket.accept() => taken,
            };
            match taken {
                Ok((stream, address)) => {
                    self.shared.metrics.accepted.get_or_create(&label).inc();
                    let place = tokio::select! {
                        place = self.place() => place,
                        () = reached(&mut phase, Phase::Draining) => return,
                    };
                    let Some(place) = place else {
                        self.shared.metrics.connections_refused.get_or_create(&label).inc();
                        self.shared.metrics.limit("connections");
                        tracing::debug!(port = self.name, %address, "closed: the port has all the connections that it may have (net.connections)");
                        continue;
                    };
                    let (port, alive, label) = (self.clone(), alive.clone(), label.clone());
                    tokio::spawn(async move {
                        let open = port.shared.metrics.connections.get_or_create_owned(&label);
                        open.inc();
                        port.connection(stream, address).await;
                        open.dec();
                        drop(place);
                        port.gate.freed.notify_one();
                        drop(alive);
                    });
                }
                Err(e) => self.pause(e).await,
            }
        }
    }

    /// A place among the connections of the port. Is it full, whoever has said nothing or keeps the manager waiting goes in favour of
    /// who comes; none, if nobody does for a moment.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let full_since = Instant::now();
        loop {
            if let Ok(place) = self.connections.clone().try_acquire_owned() {
                return Some(place);
            }
            let made_room = self.gate.make_room();
            if !made_room && full_since.elapsed() > 2 * self.shared.limits.handshake_patience {
                return None;
            }
            if let Ok(Ok(place)) = timeout(PAUSE, self.connections.clone().acquire_owned()).await {
                return Some(place);
            }
        }
    }

    /// After an error of accept: out of descriptors or memory, most likely. Makes room, and comes back when there may be some.
    async fn pause(&self, error: io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted) {
            return;
        }
        let made_room = self.gate.make_room();
        tracing::warn!(port = self.name, made_room, "cannot take a connection: {error}");
        let _ = timeout(PAUSE, self.gate.freed.notified()).await;
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr) {
        let mut phase = self.phase.clone();
        let arrived = tokio::select! {
            // In a place of its own, which is free again as soon as it has arrived: a connection is open for days.
            arrived = Box::pin(self.arrive(stream, address)) => arrived,
            () = reached(&mut phase, Phase::Draining) => return,
        };
        let count = |lost: &Lost| lost.limit().iter().for_each(|limit| self.shared.metrics.limit(limit));
        match arrived {
            Ok(Arrived { stream, peer, surface }) => {
                if let Err(lost) = self.serve(stream, peer, surface, phase).await {
                    count(&lost);
                    self.shared.metrics.connections_refused.get_or_create(&metrics::Port { port: self.name }).inc();
                    tracing::debug!(port = self.name, %address, "connection refused: {lost}");
                }
            }
            Err(lost) => {
                count(&lost);
                self.shared.metrics.handshakes_failed.get_or_create(&metrics::Port { port: self.name }).inc();
                tracing::debug!(port = self.name, %address, "connection lost: {lost}");
            }
        }
    }

    /// From the first byte to knowing who calls.
    async fn arrive(&self, stream: TcpStream, address: SocketAddr) -> Result<Arrived, Lost> {
        let limits = &self.shared.limits;
        let silent = self.gate.arrive();
        let spoke = async {
            stream.readable().await.map_err(Lost::Handshake)?;
            // Readable is also what has been closed.
            match stream.peek(&mut [0]).await {
                Ok(0) => Err(Lost::Closed),
                Ok(_) => Ok(()),
                Err(e) => Err(Lost::Handshake(e)),
            }
        };
        tokio::select! {
            spoke = timeout(limits.silence, spoke) => spoke.map_err(|_| Lost::Silent("silence"))??,
            // It may have spoken without having been heard yet, where many come at once.
            () = silent.must_go() => if !has_spoken(&stream) { return Err(Lost::Crowded("silent_sockets")) },
        }
        drop(silent);
        let waits = self.gate.is_full();
        let place = self.gate.place(address.ip()).await.ok_or(Lost::Crowded("waiting_sockets"))?;
        // Whoever has given up meanwhile is not answered: that costs as much as one who is there.
        if waits && stream.ready(Interest::READABLE).await.map_err(Lost::Handshake)?.is_read_closed() {
            return Err(Lost::Closed);
        }
        // A gRPC message is written whole; waiting for more costs a round trip.
        stream.set_nodelay(true).map_err(Lost::Handshake)?;
        let handshake = async {
            let mut stream = place.watch(stream);
            let caller = if limits.is_balancer(address.ip()) { proxy::read(&mut stream).await? } else { None };
            let mut stream = TlsAcceptor::from(self.tls.load_full()).accept(stream).await.map_err(Lost::Handshake)?;
            let mut preface = [0; PREFACE.len()];
            stream.read_exact(&mut preface).await.map_err(Lost::Handshake)?;
            if preface == *PREFACE { Ok((stream, caller.unwrap_or(address))) } else { Err(Lost::NotHttp2) }
        };
        let (stream, address) = tokio::select! {
            done = timeout(limits.handshake, handshake) => done.map_err(|_| Lost::Silent("handshake"))??,
            () = place.must_go() => return Err(Lost::Crowded("handshake_patience")),
        };
        drop(place);
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = PeerCertificate::of_connection(certificates, &self.shared.trust_domain)?.map(Arc::new);
        let expired = certificate.as_ref().is_some_and(|c| c.is_expired(self.shared.world.now()));
        let identity = certificate.as_ref().map(|c| c.identity.clone());
        let peer = Peer { identity, certificate, expired, address };
        match (self.route.route(&peer), &peer.identity) {
            (Some(surface), _) => {
                let stream = Begun { preface: 0, frames: Frames::new(limits.control_frames), stream };
                Ok(Arrived { stream: Box::new(stream), peer, surface })
            }
            (None, Some(identity)) => Err(Lost::WrongPort(identity.clone())),
            (None, None) => Err(Lost::Certificate(sutler_certs::identity::CertificateError::UriNames(0))),
        }
    }

    /// Answers calls until the connection ends.
    async fn serve(&self, stream: Box<Begun>, peer: Peer, surface: Surface, mut phase: watch::Receiver<Phase>) -> Result<(), Lost> {
        let limits = &self.shared.limits;
        let holder = Holder::of(peer.identity.as_ref(), peer.address.ip());
        let (most, too_many) = match &peer.identity {
            None => (limits.anonymous_per_address, TooMany::NewestRefused),
            Some(Identity::Operator(_)) => (limits.connections_per_operator, TooMany::NewestRefused),
            Some(_) => (limits.connections_per_agent, TooMany::OldestGoes),
        };
        let anonymous = peer.identity.is_none();
        let seat = if anonymous {
            // An office that installs fifty machines at once shares an address: its machines take turns.
            let turn =
                self.waiting.enter(holder.clone(), WAITING * most, TooMany::NewestRefused).ok_or(Lost::TooMany("anonymous_per_address"))?;
            let seat = tokio::select! {
                seat = self.census.wait(holder, most, limits.anonymous_call) => seat,
                () = reached(&mut phase, Phase::Draining) => return Ok(()),
            };
            drop(turn);
            seat
        } else {
            self.census.enter(holder, most, too_many)
        };
        let (surface, refused) = match &seat {
            Some(_) => (surface, None),
            None if anonymous => return Err(Lost::TooMany("anonymous_per_address")),
            // Who has a certificate gets a reason; nothing else is reached on this connection.
            None => {
                self.shared.metrics.limit("connections_per_operator");
                (surface.nothing(), Some(status::too_many_connections(most)))
            }
        };
        let lifetime = match (&seat, anonymous) {
            (None, _) => Some(REFUSED_LIFETIME),
            (_, true) => Some(limits.anonymous_lifetime),
            (_, false) => None,
        };
        let connection = Arc::new(Connection {
            unary_call: if anonymous { limits.anonymous_call } else { limits.unary_call },
            request_bytes: anonymous.then_some(limits.anonymous_bytes),
            surface,
            port: self.name,
            refused,
            metrics: self.shared.metrics.clone(),
            world: self.shared.world.clone(),
            peer,
        });
        let service = service_fn({
            let connection = connection.clone();
            move |request| connection.clone().answer(request)
        });
        let mut served = pin!(self.http2(anonymous).serve_connection(TokioIo::new(stream), service));
        let mut ends = pin!(tokio::time::sleep_until(lifetime.map_or_else(far, |l| Instant::now() + l)));
        let mut look = pin!(tokio::time::sleep(connection.ends_in().min(LOOK_AT_CERTIFICATE)));
        let mut leaving = false;
        let left = async {
            match &seat {
                Some(seat) => seat.must_leave().await,
                None => std::future::pending().await,
            }
        };
        let mut left = pin!(left);
        let mut ended = phase.clone();
        loop {
            let farewell = tokio::select! {
                result = &mut served => {
                    if let Err(e) = result {
                        if let Some(limit) = limit_behind(&e) {
                            self.shared.metrics.limit(limit);
                        }
                        tracing::debug!(port = self.name, peer = ?connection.peer.identity, "connection ended: {e}");
                    }
                    return Ok(());
                }
                () = reached(&mut ended, Phase::Ended) => return Ok(()),
                () = &mut ends => {
                    if leaving {
                        return Ok(());
                    }
                    if anonymous {
                        self.shared.metrics.limit("anonymous_lifetime");
                    }
                    FAREWELL
                }
                () = reached(&mut phase, Phase::Draining), if !leaving => limits.drain,
                () = &mut left, if !leaving => {
                    self.shared.metrics.limit("connections_per_agent");
                    Duration::ZERO
                }
                () = &mut look, if !leaving => {
                    let left = connection.ends_in();
                    if !left.is_zero() {
                        look.as_mut().reset(Instant::now() + left.min(LOOK_AT_CERTIFICATE));
                        continue;
                    }
                    FAREWELL
                }
            };
            leaving = true;
            served.as_mut().graceful_shutdown();
            ends.as_mut().reset(Instant::now() + farewell);
        }
    }

    fn http2(&self, anonymous: bool) -> http2::Builder<TokioExecutor> {
        let limits = &self.shared.limits;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .adaptive_window(false)
            .keep_alive_interval(limits.keep_alive)
            .keep_alive_timeout(limits.keep_alive_timeout)
            .max_header_list_size(limits.headers)
            .max_pending_accept_reset_streams(limits.reset_streams)
            .max_local_error_reset_streams(limits.error_resets)
            // By it a caller sees how far its clock is from this one; nobody has to know.
            .auto_date_header(!anonymous);
        if anonymous {
            // One short message is all that nobody has to send.
            builder.max_concurrent_streams(4).initial_stream_window_size(65_535).initial_connection_window_size(65_535);
            builder.max_frame_size(16_384).max_send_buf_size(64 << 10);
        } else {
            builder
                .max_concurrent_streams(limits.streams)
                .initial_stream_window_size(limits.stream_window)
                .initial_connection_window_size(limits.connection_window)
                .max_frame_size(limits.frame)
                .max_send_buf_size(limits.send_buffer);
        }
        builder
    }
}

/// Whether the other side has sent something, as the kernel knows it.
fn has_spoken(stream: &TcpStream) -> bool {
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    rustix::net::recv(stream, &mut [0; 1], flags).is_ok_and(|(count, _)| count > 0)
}

/// The limit that ended a connection, if the error says so.
fn limit_behind(error: &hyper::Error) -> Option<&'static str> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        // The library below keeps an error's text and not the error.
        if e.to_string().contains(FLOOD) {
            return Some("control_frames");
        }
        if e.to_string().contains("keep-alive timed out") {
            return Some("keep_alive_timeout");
        }
        cause = e.source();
    }
    None
}

/// A moment that does not come.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400 * 365 * 30)
}

struct Arrived {
    /// Passed on from one to the next, each of which would have room for it.
    stream: Box<Begun>,
    peer: Peer,
    surface: Surface,
}

/// A stream whose first bytes, the preface of HTTP/2, were read already and are read once more.
struct Begun {
    /// How much of the preface was read again.
    preface: usize,
    frames: Frames,
    stream: TlsStream<Watched<TcpStream>>,
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.preface < PREFACE.len() && buffer.remaining() > 0 {
            let rest = &PREFACE[self.preface..];
            let part = &rest[..rest.len().min(buffer.remaining())];
            buffer.put_slice(part);
            self.preface += part.len();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = polled {
            self.frames.pass(&buffer.filled()[before..])?;
        }
        polled
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
