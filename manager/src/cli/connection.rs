//! Speaks with the manager: one HTTP/2 connection over TLS, made when it is first needed and again when it breaks.
//!
//! A call that meets a manager which is not there (starting, restarting, failing over) is tried again for a while, with
//! the same request: mutations carry a request id, so that what was done is not done twice.

use super::error::{CliError, causes};
use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use sutler_certs::{
    Credential,
    tls::{self, Clock, ServerTrust},
};
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tonic::{Code, Response, Status, body::Body};

/// How long a TCP connection and a handshake may take, each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the answer to a call may take that is one message: twice what the manager allows itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The first pause between two tries, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// After how long a person is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Windows and frames of HTTP/2, so that big manifests and long lists come quickly (bytes).
const STREAM_WINDOW: u32 = 1 << 20;
const FRAME: u32 = 256 << 10;

/// What happened to a connection, so far as it matters for what to do next.
#[derive(Debug)]
enum Failed {
    /// Nobody answers, or not any more: may be better soon.
    Away(String),
    /// The other side is not to be trusted, or does not trust us: trying again changes nothing.
    Refused(String),
}

/// One HTTP/2 connection as tonic's generated clients take it.
#[derive(Clone)]
pub struct Channel(SendRequest<Body>);

type Answer = http::Response<UnsyncBoxBody<Bytes, Status>>;

impl tower::Service<http::Request<Body>> for Channel {
    type Response = Answer;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut sender = self.0.clone();
        Box::pin(async move {
            sender.ready().await.map_err(|e| broken(&e))?;
            let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
            Ok(answer.map(|body| body.map_err(|e| broken(&e)).boxed_unsync()))
        })
    }
}

/// What a break of the connection means for the call that was on it.
fn broken(error: &hyper::Error) -> Status {
    // With TLS 1.3 the manager looks at our certificate after our handshake is done: its refusal comes with the first answer,
    // and HTTP/2 hands it on as a text.
    let words = causes(error);
    match words.split_once("received fatal alert: ") {
        Some((_, alert)) => Status::unauthenticated(refused_by(alert)),
        None => Status::unavailable(format!("the connection broke: {words}")),
    }
}

/// The sentence for an alert that says no to our certificate.
fn refused_by(alert: impl std::fmt::Display) -> String {
    let alert = alert.to_string();
    if alert.starts_with("CertificateExpired") {
        return format!("this profile's certificate has ended, too long ago to be renewed (TLS alert {alert})");
    }
    format!("the manager does not accept this profile's certificate (TLS alert {alert})")
}

/// The sentence for a TLS alert, or a refusal of our own, among the causes of an error.
fn alert(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(e) = cause {
        let tls = e.downcast_ref::<rustls::Error>().or_else(|| e.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>());
        if let Some(tls) = tls {
            return Some(match tls {
                rustls::Error::AlertReceived(alert) => refused_by(format!("{alert:?}")),
                other => causes(other),
            });
        }
        cause = e.source();
    }
    None
}

/// The way to one manager.
pub struct Connection {
    address: String,
    tls: Arc<rustls::ClientConfig>,
    retry_for: Duration,
    quiet: bool,
    current: Mutex<Option<Channel>>,
}

impl Connection {
    /// The way to the manager at `address` (`host:port`), not yet gone.
    pub fn new(
        address: &str,
        credential: &Credential,
        trust: &ServerTrust,
        retry_for: Duration,
        quiet: bool,
    ) -> Result<Connection, CliError> {
        host_of(address)?;
        let tls = tls::operator_client(credential, trust, Clock::system()).map_err(|e| CliError::Profile {
            sentence: causes(&e),
            hint: Some("import the profile again, or choose another with --profile".into()),
        })?;
        Ok(Connection { address: address.to_owned(), tls, retry_for, quiet, current: Mutex::new(None) })
    }

    /// The address of the manager.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URI under which the manager's services are called.
    pub fn origin(&self) -> http::Uri {
        // `new` has checked the address, so the URI can always be made.
        format!("https://{}", self.address).parse().unwrap_or_default()
    }

    async fn channel(&self) -> Result<Channel, Failed> {
        let mut current = self.current.lock().await;
        if let Some(channel) = current.as_ref().filter(|c| !c.0.is_closed()) {
            return Ok(channel.clone());
        }
        let channel = self.connect().await?;
        *current = Some(channel.clone());
        Ok(channel)
    }

    async fn connect(&self) -> Result<Channel, Failed> {
        let name = host_of(&self.address).map_err(|e| Failed::Refused(e.to_string()))?;
        let late = |what: &str| Failed::Away(format!("no {what} within {} s", CONNECT_TIMEOUT.as_secs()));
        let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address))
            .await
            .map_err(|_| late("connection"))?
            .map_err(|e| Failed::Away(e.to_string()))?;
        let _ = tcp.set_nodelay(true);
        let stream = timeout(CONNECT_TIMEOUT, TlsConnector::from(self.tls.clone()).connect(name, tcp))
            .await
            .map_err(|_| late("TLS handshake"))?
            .map_err(|e| match alert(&e) {
                Some(words) => Failed::Refused(words),
                None => Failed::Away(e.to_string()),
            })?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(4 * STREAM_WINDOW)
            .max_frame_size(FRAME)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| match alert(&e) {
                Some(words) => Failed::Refused(words),
                None => Failed::Away(causes(&e)),
            })?;
        tokio::spawn(async move {
            // Calls on it see the error; there is nobody else to tell.
            let _ = connection.await;
        });
        Ok(Channel(sender))
    }

    /// Makes a call whose answer is one message, again and again while the manager is away. `tried` says what it does.
    pub async fn call<T, F, Fut>(&self, tried: &str, call: F) -> Result<T, CliError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.patiently(tried, |channel| {
            let answer = timeout(CALL_TIMEOUT, call(channel));
            async {
                answer.await.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))))
            }
        })
        .await
    }

    /// As [`Connection::call`], without a limit on the time of the answer: for uploads, and to begin a stream of answers.
    pub async fn patiently<T, F, Fut>(&self, tried: &str, call: F) -> Result<T, CliError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let start = Instant::now();
        let (mut pause, mut told) = (PAUSES.0, self.quiet);
        loop {
            let (error, why) = match self.channel().await {
                Ok(channel) => match call(channel).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => {
                        let why = status.message().to_owned();
                        let again = status.code() == Code::Unavailable;
                        let error = CliError::Call { tried: tried.to_owned(), status: Box::new(status) };
                        if !again {
                            return Err(error);
                        }
                        (error, why)
                    }
                },
                Err(Failed::Away(why)) => (self.unreachable(why.clone(), true), why),
                Err(Failed::Refused(why)) => return Err(self.unreachable(why, false)),
            };
            let left = self.retry_for.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(error);
            }
            if !told && start.elapsed() >= PATIENCE {
                told = true;
                eprintln!("waiting for the manager at {}: {}", self.address, super::output::printable(&why));
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn unreachable(&self, why: String, may_come: bool) -> CliError {
        let hint = if may_come {
            "is the manager running, and is this its operators' port? `--address HOST:PORT` tries another, `--retry-for 60s` waits longer"
        } else {
            "this profile belongs to another manager, or the manager does not know it: `sutler profile list` shows your profiles"
        };
        CliError::Connect { address: self.address.clone(), why, hint: hint.to_owned() }
    }
}

/// The host of `host:port`, as TLS names it.
fn host_of(address: &str) -> Result<ServerName<'static>, CliError> {
    let wrong = || {
        CliError::usage_hint(
            format!("{} is no address", sutler_base::quoted(address)),
            "an address is HOST:PORT, such as manager.acme.example:7444 or [::1]:7444",
        )
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    port.parse::<u16>().map_err(|_| wrong())?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    format!("https://{address}").parse::<http::Uri>().map_err(|_| wrong())?;
    ServerName::try_from(host.to_owned()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:7444", "[::1]:7444", "manager.acme.example:7444", "localhost:1"] {
            assert!(host_of(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", "localhost:", "localhost:99999", "a b:1", ":7444", "https://x:1"] {
            assert!(host_of(bad).is_err(), "{bad}");
        }
    }
}
