//! A connection to the manager: TCP, TLS, HTTP/2 tuned for bulk, as a service that the generated clients take.
//!
//! The receiving end decides the frame size, so it is set here; windows of more than a MiB, or one round trip per 64 KiB
//! would be the speed. One connection carries everything: the stream of orders and the bytes.

use super::LinkError;
use crate::limits::Limits;
use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
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
    sync::watch,
};

const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Below the size from which an allocator asks the kernel for each block by itself (128 KiB where the agent is static).
const FRAME_SIZE: u32 = 64 << 10;

type Body = tonic::body::Body;

/// A connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
    origin: http::Uri,
    received: Arc<AtomicU64>,
    stall: Duration,
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
    let received = Arc::new(AtomicU64::new(0));
    let metered = Metered { inner: tcp, received: received.clone() };
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, metered);
    let tls = match tokio::time::timeout(limits.handshake, tls).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(source)) => return Err(LinkError::Tls { address: address.into(), source }),
        Err(_) => return Err(LinkError::Tls { address: address.into(), source: io::ErrorKind::TimedOut.into() }),
    };
    let handshake = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive_timeout)
        .keep_alive_while_idle(true)
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
    Ok(Connection { sender, origin, received, stall: limits.stall, closed })
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

/// Counts what comes in, so that a slow transfer can be told from one that stands still.
struct Metered {
    inner: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Metered {
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
