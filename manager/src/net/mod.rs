//! The two gRPC ports: who gets in, which services a caller can reach, and how much of the machine anybody may use.
//!
//! An accept loop of our own around TLS, so that the peer's certificate is at hand, a client certificate can be optional,
//! certificates can be exchanged live, and every stage is bounded:
//!
//! ```text
//! accept ─ silent ──────────── handshake ───────── identity ─────── calls
//!          bounded list,       256 places, 5 s;    picks the        deadline, panic, status:
//!          oldest dropped      a place only with   router for the   one place each
//!          first               the first bytes     whole connection
//! ```
//!
//! Invariants:
//! - One router per kind of caller, picked once per connection by [`Route`], and in it only the methods that the API's own
//!   description gives to such callers: nobody reaches enrolment and nothing else, an agent never an operator's method.
//!   What a caller may not reach looks like what does not exist.
//! - A caller is who its certificate says. Nothing in a call can say otherwise. Handlers find it as [`Peer`] among the
//!   extensions of the request. Whether a certificate was revoked is *not* known here: handlers ask on every call.
//! - Every status that leaves goes through the module `status`.
//! - Operators are served by threads of their own, which a fleet that comes back does not keep busy: see [`Threads`].
//! - No call and no connection can take the listener down; a panic in a handler is `INTERNAL` for its caller alone.

mod answer;
mod census;
mod certificate;
mod descriptors;
mod frames;
mod gate;
mod limits;
mod lines;
mod listener;
mod methods;
mod proxy;
mod routes;
mod status;
#[cfg(test)]
mod tests;
mod threads;

pub use certificate::{CertificateKeeper, KeepError, keep_certificate};
pub use descriptors::{Budget, raise_descriptor_limit};
pub use limits::Limits;
pub use listener::{Listener, NetError, Serving, Shared};
pub(crate) use methods::{Method, method};
pub use routes::{AgentsPort, Handler, OperatorsPort, Route, Routes, Surface};
pub(crate) use status::cut;
pub use threads::Threads;

use std::{net::SocketAddr, sync::Arc};
use sutler_certs::{Identity, PeerCertificate};

/// Who is at the other end of a connection. Handlers find it among the extensions of a request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who calls; nobody, if no certificate was shown.
    pub identity: Option<Identity>,
    /// The certificate that was shown.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// The certificate had ended when the connection was made: renewing it is all that is offered.
    pub expired: bool,
    /// Where the connection comes from.
    pub address: SocketAddr,
}
