//! The connection to the higher system: made, kept, made again. It decides nothing about work.
//!
//! It tries the addresses in their order, shows the newest certificate, opens the stream, and hands over what comes. When
//! the connection ends it waits with full jitter ([`Limits::pause`]), the first time hardly at all; a
//! manager that says that the client was removed is asked again at the longest pause, in case that was a mistake.

mod transport;

pub(crate) use transport::said;
pub use transport::{Connection, connect, connect_within};

use crate::{
    clock::Clock,
    identity::{self, Identity, Shown},
    limits::Limits,
};
use prost::Message;
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use sutler_base::Timestamp;
use sutler_certs::{Credential, PrivateKey, tls::Clock as TlsClock};
use sutler_proto::v1::{
    self, ConnectRequest, ConnectResponse, agent_service_client::AgentServiceClient, connect_request::Message as Up,
    connect_response::Message as Down,
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

/// How long a call with one answer may take.
pub const UNARY_TIMEOUT: Duration = Duration::from_secs(30);
/// How many messages may wait to be sent; more means that the connection stands still.
const OUTBOX: usize = 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not `host:port`.
    #[error("{address} is no address of a manager (host:port)")]
    Address {
        /// What was given.
        address: String,
    },
    /// Nobody answered there.
    #[error("cannot connect to {address}: {source}")]
    Tcp {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The handshake failed: not the manager, or the manager does not take this machine's certificate.
    #[error("no trusted connection to {address}: {source}")]
    Tls {
        /// Where.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address} did not answer in time")]
    Slow {
        /// Where.
        address: String,
    },
    /// The manager refused this machine.
    #[error("the manager at {address} refuses this machine ({reason}): {message}")]
    Refused {
        /// Where.
        address: String,
        /// The stable word for it; may be empty.
        reason: String,
        /// The manager's sentence.
        message: String,
    },
    /// The connection ended.
    #[error("the connection to {address} ended: {why}")]
    Ended {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// The manager offers this machine nothing but a new certificate: by its clock the one that it has is over.
    #[error("{address} takes the certificate of this machine for ended")]
    Over {
        /// Where.
        address: String,
    },
    /// Somebody else has connected as this client.
    #[error("{address} has ended this session, for the same client has connected again")]
    Replaced {
        /// Where.
        address: String,
    },
    /// A TLS configuration could not be made.
    #[error("no connection can be made: {0}; enrol again")]
    Config(String),
}

impl LinkError {
    /// Whether asking again soon is pointless.
    fn is_refusal(&self) -> bool {
        matches!(self, LinkError::Refused { .. })
    }
}

/// What the link tells.
#[derive(Debug)]
pub enum LinkEvent {
    /// A stream is about to be opened: what to say first. Not answered means: stop.
    HelloWanted(oneshot::Sender<v1::Hello>),
    /// The manager welcomed the agent.
    Up {
        /// What it said.
        welcome: v1::Welcome,
        /// Where messages go.
        outbox: mpsc::Sender<ConnectRequest>,
        /// Through what bytes are read.
        connection: Connection,
        /// Which address answered.
        address: String,
    },
    /// The manager said something.
    Message(Down),
    /// There is no connection any more, or none could be made.
    Down(LinkError),
}

/// What the loop tells the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkCommand {
    /// Nothing in particular.
    Stay,
    /// Give the connection up and make another (the addresses changed, or messages can't be sent): the number only has
    /// to be another one than before.
    Reconnect(u64),
}

/// Keeps the connection until `events` is closed.
pub async fn keep(
    identity: Arc<Identity>,
    time: Arc<ManagerTime>,
    limits: Limits,
    mut random: impl FnMut() -> u64 + Send,
    events: mpsc::Sender<LinkEvent>,
    mut commands: watch::Receiver<LinkCommand>,
) {
    let mut failures: u32 = 0;
    let (mut old_once, mut over) = (false, false);
    let tls_clock = tls_clock(&time);
    while !events.is_closed() {
        commands.mark_unchanged();
        if over || identity.certificate().is_ok_and(|c| c.is_expired(time.now())) {
            match renew_ended(&identity, &tls_clock).await {
                Ok(()) => info!("the certificate had ended and was renewed"),
                Err(e) => warn!(error = e, "the certificate has ended and could not be renewed"),
            }
        }
        let credential = if old_once { (identity.current(), Shown::Current) } else { identity.credential() };
        let (error, was_up) = session(&identity, &credential, &tls_clock, &limits, &events, &mut commands).await;
        // A renewed certificate whose handshake fails may be at fault, or the manager's: both are tried in turns.
        old_once = credential.1 == Shown::Renewed && matches!(error, LinkError::Tls { .. });
        over = matches!(error, LinkError::Over { .. });
        // Two machines with the same key, each of which ends the other's session, must not do that without pause.
        if matches!(error, LinkError::Replaced { .. }) {
            failures = failures.clamp(1, 4);
        } else if was_up {
            failures = 0;
        }
        let pause = if error.is_refusal() && failures > 0 { limits.reconnect_most } else { limits.pause(failures, random()) };
        failures = failures.saturating_add(1);
        if events.send(LinkEvent::Down(error)).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = commands.changed() => {}
            () = events.closed() => return,
        }
    }
}

/// What time it is at the manager, as far as this process knows: what the manager last said, and what has passed since then
/// on a clock that nobody sets. Before the manager said anything, the machine's own time.
#[derive(Clone)]
pub struct ManagerTime {
    clock: Arc<dyn Clock>,
    last: Arc<Mutex<Option<(Timestamp, Duration)>>>,
}

impl ManagerTime {
    /// Nothing was said yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<ManagerTime> {
        Arc::new(ManagerTime { clock, last: Arc::default() })
    }

    /// What the manager said at the moment `boot` on `CLOCK_BOOTTIME`, if it said anything.
    pub fn learned(&self, said: Option<Timestamp>, boot: Duration) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = said.map(|time| (time, boot));
    }

    /// The time there.
    pub fn now(&self) -> Timestamp {
        let now = self.clock.now();
        match *self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((said, at)) => said.checked_add(now.boot.saturating_sub(at)).unwrap_or(said),
            None => now.wall,
        }
    }
}

/// The manager's time, as TLS asks for it: stepping the machine's own clock changes nothing.
pub fn tls_clock(time: &Arc<ManagerTime>) -> TlsClock {
    let time = time.clone();
    TlsClock::new(move || time.now())
}

async fn session(
    identity: &Identity,
    (credential, shown): &(Arc<Credential>, Shown),
    clock: &TlsClock,
    limits: &Limits,
    events: &mpsc::Sender<LinkEvent>,
    commands: &mut watch::Receiver<LinkCommand>,
) -> (LinkError, bool) {
    let shown = *shown;
    let config = match sutler_certs::tls::agent_client(Some(credential), identity.trust(), clock.clone()) {
        Ok(config) => config,
        Err(e) => return (LinkError::Config(e.to_string()), false),
    };
    let mut last = LinkError::Config("no address of the manager is known".into());
    for address in identity.addresses() {
        debug!(address, "connecting");
        let connection = match connect_within(&address, config.clone(), limits).await {
            Ok(connection) => connection,
            Err(e) => {
                debug!(error = %e, "no connection");
                last = e;
                continue;
            }
        };
        match converse(identity, &connection, &address, limits.unary_call, shown, events, commands).await {
            // A renewed certificate that the manager does not know is of no use; the one before still is.
            (e @ LinkError::Refused { .. }, false) if shown == Shown::Renewed => {
                if let Err(e) = identity.drop_next() {
                    warn!(error = %e, "the renewed certificate can't be removed");
                }
                last = e;
                break;
            }
            (e @ LinkError::Refused { .. }, false) => last = e,
            (e, false) => last = e,
            ended => return ended,
        }
    }
    (last, false)
}

async fn converse(
    identity: &Identity,
    connection: &Connection,
    address: &str,
    patience: Duration,
    shown: Shown,
    events: &mpsc::Sender<LinkEvent>,
    commands: &mut watch::Receiver<LinkCommand>,
) -> (LinkError, bool) {
    let ended = |why: &str| LinkError::Ended { address: address.into(), why: why.into() };
    let (answer, hello) = oneshot::channel();
    if events.send(LinkEvent::HelloWanted(answer)).await.is_err() {
        return (ended("the agent stops"), false);
    }
    let Ok(hello) = hello.await else { return (ended("the agent stops, or its disk is full"), false) };
    let (outbox, messages) = mpsc::channel::<ConnectRequest>(OUTBOX);
    let _ = outbox.try_send(ConnectRequest { message: Some(Up::Hello(hello)) });
    let mut client = AgentServiceClient::with_origin(connection.clone(), connection.origin())
        .max_decoding_message_size(sutler_base::limits::AGENT_MESSAGE_MAX)
        .max_encoding_message_size(sutler_base::limits::AGENT_MESSAGE_MAX);
    let first = async {
        let mut stream = client.connect(tokio_stream::wrappers::ReceiverStream::new(messages)).await?.into_inner();
        let first = stream.message().await?;
        Ok::<_, tonic::Status>((stream, first))
    };
    let (mut stream, welcome) = match tokio::time::timeout(patience, first).await {
        Err(_) => return (LinkError::Slow { address: address.into() }, false),
        Ok(Err(status)) => return (refusal(address, &status), false),
        Ok(Ok((stream, Some(ConnectResponse { message: Some(Down::Welcome(welcome)) })))) => (stream, welcome),
        Ok(Ok(_)) => return (ended("it did not begin with a welcome"), false),
    };
    if shown == Shown::Renewed
        && let Err(e) = identity.promote()
    {
        return (ended(&e.to_string()), false);
    }
    info!(address, "connected");
    let up = LinkEvent::Up { welcome, outbox: outbox.clone(), connection: connection.clone(), address: address.into() };
    // From here on the messages' sender is the loop's; ours would keep the stream open.
    drop(outbox);
    if events.send(up).await.is_err() {
        return (ended("the agent stops"), true);
    }
    loop {
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(ConnectResponse { message: Some(message) })) => {
                    if events.send(LinkEvent::Message(message)).await.is_err() {
                        return (ended("the agent stops"), true);
                    }
                }
                // A message that a newer manager has and this agent does not know.
                Ok(Some(ConnectResponse { message: None })) => {}
                Ok(None) => return (ended("the manager closed the stream"), true),
                Err(status) => {
                    let error = refusal(address, &status);
                    // The connection knows better than its streams why it ended.
                    let why = connection.ended().filter(|_| matches!(error, LinkError::Ended { .. }));
                    return (why.map_or(error, |why| ended(&why)), true);
                }
            },
            why = connection.closed() => return (ended(&why), true),
            () = connection.silent() => {
                // What it answers does not matter, nor whether it knows the method.
                let mut client = client.clone();
                tokio::spawn(async move { client.ping(v1::PingRequest {}).await.map(drop) });
            }
            _ = commands.changed() => return (ended("given up, to make another"), true),
            () = events.closed() => return (ended("the agent stops"), true),
        }
    }
}

fn refusal(address: &str, status: &tonic::Status) -> LinkError {
    match status.code() {
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => LinkError::Refused {
            address: address.into(),
            reason: error_reason(status).unwrap_or_default(),
            message: status.message().to_owned(),
        },
        // What it can't reach looks like what isn't there.
        tonic::Code::Unimplemented => LinkError::Over { address: address.into() },
        tonic::Code::Aborted => LinkError::Replaced { address: address.into() },
        _ => LinkError::Ended { address: address.into(), why: transport::said(status) },
    }
}

/// `google.rpc.Status`, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
}

/// The reason in a status's ErrorInfo.
fn error_reason(status: &tonic::Status) -> Option<String> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let info = details.into_iter().find(|d| d.type_url.ends_with("google.rpc.ErrorInfo"))?;
    Some(ErrorInfo::decode(&*info.value).ok()?.reason.chars().filter(|c| c.is_ascii_graphic()).take(64).collect())
}

/// `google.rpc.PreconditionFailure`, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct PreconditionFailure {
    #[prost(message, repeated, tag = "1")]
    violations: Vec<Violation>,
}

/// One of its violations, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct Violation {
    #[prost(string, tag = "1")]
    kind: String,
}

/// The word in a status's PreconditionFailure.
pub(crate) fn precondition(status: &tonic::Status) -> Option<String> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let failure = details.into_iter().find(|d| d.type_url.ends_with("google.rpc.PreconditionFailure"))?;
    let violations = PreconditionFailure::decode(&*failure.value).ok()?.violations;
    violations.into_iter().next().map(|violation| violation.kind)
}

/// Asks for a certificate for a new key, and keeps both beside the ones in use.
pub async fn renew(identity: &Identity, connection: &Connection) -> Result<(), String> {
    let key = PrivateKey::generate().map_err(|e| e.to_string())?;
    let csr = key.csr().map_err(|e| e.to_string())?;
    let mut client = AgentServiceClient::with_origin(connection.clone(), connection.origin());
    let asked = client.renew_certificate(v1::RenewCertificateRequest { csr: csr.into() });
    let answer = tokio::time::timeout(UNARY_TIMEOUT, asked).await.map_err(|_| "no answer in time".to_owned())?;
    let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
    let chain: Vec<Vec<u8>> = answer.certificates.iter().map(|c| c.to_vec()).collect();
    identity.set_next(&chain, key).map_err(|e| e.to_string())
}

/// Renews a certificate that has ended, which is all that the manager lets such a machine do.
pub async fn renew_ended(identity: &identity::Identity, clock: &TlsClock) -> Result<(), String> {
    let mut last = String::from("no address of the manager is known");
    // The newest one first: it may have been used, and then the one before is not taken any more.
    let (newest, shown) = identity.credential();
    let before = (shown == Shown::Renewed).then(|| identity.current());
    for credential in std::iter::once(newest).chain(before) {
        let config = sutler_certs::tls::agent_client(Some(&credential), identity.trust(), clock.clone()).map_err(|e| e.to_string())?;
        for address in identity.addresses() {
            match connect(&address, config.clone()).await {
                Ok(connection) => match renew(identity, &connection).await {
                    Ok(()) => return Ok(()),
                    Err(e) => last = e,
                },
                Err(e) => last = e.to_string(),
            }
        }
    }
    Err(last)
}
