//! Which services a caller reaches.

use super::{Peer, methods};
use http::{Request, Response};
use std::{collections::HashMap, convert::Infallible, fmt, future::Future, sync::Arc};
use sutler_certs::Identity;
use sutler_proto::access::{Access, Caller};
use tonic::{Status, body::Body, server::NamedService};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

/// Any service.
pub type Handler = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// gRPC services by name.
#[derive(Clone, Default)]
pub struct Routes {
    services: HashMap<&'static str, Handler>,
}

impl Routes {
    /// One service.
    pub fn new<S>(service: S) -> Routes
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Routes::default().add_service(service)
    }

    /// These and one more; a service of the same name is replaced.
    pub fn add_service<S>(mut self, service: S) -> Routes
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.services.insert(S::NAME, BoxCloneSyncService::new(service));
        self
    }

    /// The same services, each behind `layer`.
    pub fn behind<L>(self, layer: &L) -> Routes
    where
        L: Layer<Handler>,
        L::Service: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
    {
        let behind = |(name, handler)| (name, BoxCloneSyncService::new(layer.layer(handler)));
        Routes { services: self.services.into_iter().map(behind).collect() }
    }

    /// The service that this path calls.
    fn handler(&self, path: &str) -> Option<Handler> {
        let (service, _) = path.strip_prefix('/')?.split_once('/')?;
        self.services.get(service).cloned()
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.services.keys()).finish()
    }
}

/// What one caller reaches, for the whole connection: of these services the methods that are for callers of its kind.
#[derive(Debug, Clone)]
pub struct Surface {
    /// Who that is, for metrics: one of a fixed set of words.
    pub(crate) caller: &'static str,
    kind: Caller,
    ended: bool,
    routes: Arc<Routes>,
}

impl Surface {
    /// Of `routes` what the API's description gives to callers of this kind.
    pub fn of(caller: &'static str, kind: Caller, routes: Arc<Routes>) -> Surface {
        Surface { caller, kind, ended: false, routes }
    }

    /// Of `routes` what it gives to callers of this kind whose certificate has ended.
    pub fn ended(caller: &'static str, kind: Caller, routes: Arc<Routes>) -> Surface {
        Surface { caller, kind, ended: true, routes }
    }

    /// The same caller, who reaches nothing.
    pub fn nothing(&self) -> Surface {
        Surface { routes: Arc::default(), ..self.clone() }
    }

    fn reaches(&self, access: &Access) -> bool {
        access.caller == self.kind && (access.ended_certificate || !self.ended)
    }

    /// Answers a call. Whatever the caller can't reach gets the same answer, whether it exists or not.
    pub(crate) fn call(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send + 'static {
        let path = request.uri().path();
        let reached = methods::method(path).access.is_some_and(|access| self.reaches(access));
        let handler = if reached { self.routes.handler(path) } else { None };
        async move {
            match handler {
                Some(handler) => handler.oneshot(request).await.unwrap_or_else(|never| match never {}),
                None => Status::unimplemented("").into_http(),
            }
        }
    }
}

/// Picks what a caller reaches, once per connection.
pub trait Route: Send + Sync + 'static {
    /// The name of the port, for metrics and the log.
    fn port(&self) -> &'static str;

    /// What this caller reaches; none: the connection is closed.
    fn route(&self, peer: &Peer) -> Option<Surface>;
}

/// The services of the port for agents and newcomers.
#[derive(Debug, Clone)]
pub struct AgentsPort {
    /// For those without a certificate: enrolment is all that is reached.
    pub nobody: Arc<Routes>,
    /// For agents.
    pub agent: Arc<Routes>,
    /// For agents whose certificate ended within the grace: renewing it is all that is reached.
    pub expired: Arc<Routes>,
}

impl AgentsPort {
    /// The port with these services for each kind of caller.
    pub fn new(nobody: Routes, agent: Routes, expired: Routes) -> AgentsPort {
        AgentsPort { nobody: Arc::new(nobody), agent: Arc::new(agent), expired: Arc::new(expired) }
    }
}

impl Route for AgentsPort {
    fn port(&self) -> &'static str {
        "agents"
    }

    fn route(&self, peer: &Peer) -> Option<Surface> {
        match (&peer.identity, peer.expired) {
            (None, _) => Some(Surface::of("nobody", Caller::Nobody, self.nobody.clone())),
            (Some(Identity::Agent(_)), false) => Some(Surface::of("agent", Caller::Agent, self.agent.clone())),
            (Some(Identity::Agent(_)), true) => Some(Surface::ended("expired-agent", Caller::Agent, self.expired.clone())),
            (Some(_), _) => None,
        }
    }
}

/// The services of the port for operators.
#[derive(Debug, Clone)]
pub struct OperatorsPort {
    /// For operators.
    pub operator: Arc<Routes>,
    /// For operators whose certificate ended within the grace: renewing it is all that is reached.
    pub expired: Arc<Routes>,
}

impl OperatorsPort {
    /// The port with these services for each kind of caller.
    pub fn new(operator: Routes, expired: Routes) -> OperatorsPort {
        OperatorsPort { operator: Arc::new(operator), expired: Arc::new(expired) }
    }
}

impl Route for OperatorsPort {
    fn port(&self) -> &'static str {
        "operators"
    }

    fn route(&self, peer: &Peer) -> Option<Surface> {
        match (&peer.identity, peer.expired) {
            (Some(Identity::Operator(_)), false) => Some(Surface::of("operator", Caller::Operator, self.operator.clone())),
            (Some(Identity::Operator(_)), true) => Some(Surface::ended("expired-operator", Caller::Operator, self.expired.clone())),
            _ => None,
        }
    }
}
