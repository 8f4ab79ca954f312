//! A connection to the manager: TCP, TLS, HTTP/2 tuned for bulk, as a service that the generated clients take.
//!
//! The receiving end decides the frame size, so it is set here; windows of more than a MiB, or one round trip per 64 KiB
//! would be the speed. One connection carries everything: the stream of orders and the bytes.

use super::LinkError;
use crate::limits::Limits;
use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, Sleep},
};

const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// With its head (9 bytes, RFC 9113, section 4.1) a frame fills what the manager's TLS takes at once (64 KiB): a byte more, and the last
/// bytes of each go, and come, in a record of their own.
const FRAME_SIZE: u32 = (64 << 10) - 9;

/// After so many bytes whoever waits for them has a turn, while more come. Without it the connection reads as long as there is
/// something to read, until both windows of a small package are full (4 MiB): only then its first byte would be written.
const TURN: u64 = 128 << 10;

type Body = tonic::body::Body;

/// A connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
    origin: http::Uri,
    received: Arc<AtomicU64>,
    stall: Duration,
    silent: Arc<Notify>,
    closed: watch::Receiver<Option<String>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.origin)
    }
}

impl Connection {
    /// What the generated clients put in front of a method's path.
    pub fn origin(&self) -> http::Uri {
        self.origin.clone()
    }

    /// Bytes that came in so far, of everything.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How long a transfer may bring next to nothing: see [`Limits::stall`].
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// Waits until nothing was heard from the manager for so long that it has to be asked whether it is there. Whatever comes within
    /// [`Limits::keep_alive_timeout`] from then on is answer enough; else the connection ends.
    pub async fn silent(&self) {
        self.silent.notified().await;
    }

    /// Why the connection ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.closed.borrow().clone()
    }

    /// Waits for the end of the connection; says why it ended, if that is known.
    pub async fn closed(&self) -> String {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the connection was closed".into(),
        }
    }
}

/// Connects to `host:port` and shakes hands. The name is not checked, the manager's identity is: see
/// [`ServerTrust`](sutler_certs::tls::ServerTrust).
pub async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Connection, LinkError> {
    connect_within(address, config, &Limits::default()).await
}

/// The same, as patient as these limits say.
pub async fn connect_within(address: &str, config: Arc<ClientConfig>, limits: &Limits) -> Result<Connection, LinkError> {
    let bad = || LinkError::Address { address: address.into() };
    let (host, _) = address.rsplit_once(':').ok_or_else(bad)?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| bad())?;
    let origin: http::Uri = format!("https://{address}").parse().map_err(|_| bad())?;
    let tcp = match tokio::time::timeout(limits.connect, dial(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(source)) => return Err(LinkError::Tcp { address: address.into(), source }),
        Err(_) => return Err(LinkError::Tcp { address: address.into(), source: io::ErrorKind::TimedOut.into() }),
    };
    let _ = tcp.set_nodelay(true);
    let heard = Heard::new(tcp, limits);
    let (received, silent) = (heard.received.clone(), heard.silent.clone());
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, heard);
    let tls = match tokio::time::timeout(limits.handshake, tls).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(source)) => return Err(LinkError::Tls { address: address.into(), source }),
        Err(_) => return Err(LinkError::Tls { address: address.into(), source: io::ErrorKind::TimedOut.into() }),
    };
    let handshake = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .handshake(TokioIo::new(tls));
    let (sender, connection) = match tokio::time::timeout(limits.handshake, handshake).await {
        Ok(Ok(made)) => made,
        Ok(Err(e)) => return Err(LinkError::Tls { address: address.into(), source: io::Error::other(e) }),
        Err(_) => return Err(LinkError::Tls { address: address.into(), source: io::ErrorKind::TimedOut.into() }),
    };
    let (ended, closed) = watch::channel(None);
    tokio::spawn(async move {
        let why = match connection.await {
            Ok(()) => "the manager closed the connection".to_owned(),
            Err(e) => said(&e),
        };
        ended.send_replace(Some(why));
    });
    Ok(Connection { sender, origin, received, stall: limits.stall, silent, closed })
}

#[cfg(not(feature = "simulation"))]
async fn dial(address: &str) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

#[cfg(feature = "simulation")]
use crate::simulation::dial;

/// An error with what caused it.
pub(crate) fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl tower::Service<http::Request<Body>> for Connection {
    type Response = http::Response<UnsyncBoxBody<Bytes, hyper::Error>>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.sender.send_request(request);
        Box::pin(async move { Ok(answer.await?.map(|body| body.boxed_unsync())) })
    }
}

/// Hears what comes in: counts it, so that a slow transfer can be told from one that stands still, and notices when nothing comes.
///
/// The manager sends PINGs, by which it finds machines that are gone. As long as they come an agent needs none of its own: each would
/// wake up its machine, and the manager once more for each of its agents, for nothing.
struct Heard {
    inner: TcpStream,
    received: Arc<AtomicU64>,
    /// How many bytes were read since others last had a turn.
    turn: u64,
    wait: Duration,
    answer: Duration,
    /// None before anything came: how long a handshake may take is a limit of its own.
    alarm: Option<Pin<Box<Sleep>>>,
    set: Instant,
    silent: Arc<Notify>,
    /// It was asked whether anybody is there, and nothing has come since.
    asked: bool,
}

impl Heard {
    fn new(inner: TcpStream, limits: &Limits) -> Heard {
        Heard {
            inner,
            received: Arc::default(),
            turn: 0,
            wait: limits.keep_alive,
            answer: limits.keep_alive_timeout,
            alarm: None,
            set: Instant::now(),
            silent: Arc::default(),
            asked: false,
        }
    }

    /// Nothing comes: has the manager asked when that lasts too long, and says when that had no answer.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let Some(alarm) = &mut self.alarm else { return Poll::Pending };
        while alarm.as_mut().poll(context).is_ready() {
            if self.asked {
                let silence = self.wait + self.answer;
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, format!("nothing was heard from the manager for {silence:?}")));
            }
            self.asked = true;
            self.silent.notify_one();
            alarm.set(tokio::time::sleep(self.answer));
        }
        Poll::Pending
    }
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_pending() {
            self.turn = 0;
            return self.poll_silence(cx).map(Err);
        }
        let bytes = (buf.filled().len() - before) as u64;
        self.turn += bytes;
        self.received.fetch_add(bytes, Ordering::Relaxed);
        let now = Instant::now();
        if self.asked || self.alarm.is_none() || now - self.set > self.wait / 16 {
            (self.asked, self.set) = (false, now);
            // A new one: one that is put off wakes the machine at its old time, to be put off.
            self.alarm = Some(Box::pin(tokio::time::sleep(self.wait)));
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
