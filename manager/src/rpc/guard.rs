//! Stands before every service of the operators' port: whether the caller's certificate is still accepted, and whether its
//! roles have the method, as the API's own description says. This is the one place where that is decided.
//!
//! Roles are read from the database for every call, and every two seconds while a stream is open: what one manager commits
//! is so on all of them. Handlers find who was let in as [`Operator`] among the extensions of the request; one that was
//! not guarded has none, and answers nobody.

use super::{Operator, Services, status};
use crate::{
    app::{AppError, Standing, operators},
    net::{Method, Peer, method},
};
use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use sutler_base::{OperatorName, state::Role};
use sutler_certs::Identity;
use sutler_core::{
    model::{Grant, Subject},
    rights::{self, Reach},
};
use sutler_proto::access::{Access, Scope};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service, ServiceExt};

/// How often it is asked whether the caller of an open stream may still call: twice within the 5 s that are promised.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Puts a [`Guard`] before a service.
#[derive(Clone)]
pub(super) struct Guards(pub(super) Services);

impl<S> Layer<S> for Guards {
    type Service = Guard<S>;
    fn layer(&self, inner: S) -> Guard<S> {
        Guard { services: self.0.clone(), inner }
    }
}

/// A service that only those reach who may.
#[derive(Clone)]
pub(super) struct Guard<S> {
    services: Services,
    inner: S,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (services, inner) = (self.services.clone(), self.inner.clone());
        async move { Ok(services.guarded(inner, request).await) }.boxed()
    }
}

impl Services {
    async fn guarded<S>(self, inner: S, mut request: Request<Body>) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
    {
        let method = method(request.uri().path());
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return status::bug("a call without a peer".into()).into_http();
        };
        let operator = match self.admit(&peer, method).await {
            Ok(operator) => operator,
            Err(refused) => {
                self.note_denial(&peer, method, &refused).await;
                return refused.into_http();
            }
        };
        request.extensions_mut().insert(operator.clone());
        let answer = async {
            let response = inner.oneshot(request).await.unwrap_or_else(|never| match never {});
            // What a method can refuse only after it has read the request.
            if let Some(refused) = Status::from_header_map(response.headers()) {
                self.note_denial(&peer, method, &refused).await;
                self.note_cut_off(&peer, method, &refused).await;
            }
            response
        };
        if !method.streams {
            return answer.await;
        }
        let mut no_more = self.clone().no_more(peer.clone(), method, operator).boxed();
        let response = tokio::select! {
            response = answer => response,
            refused = &mut no_more => return refused.into_http(),
        };
        response.map(|body| Body::new(Open { body, no_more, ended: false }))
    }

    /// The operator that calls, if its certificate is accepted and one of its roles has the method.
    async fn admit(&self, peer: &Peer, method: Method) -> Result<Operator, Status> {
        let (Some(Identity::Operator(name)), Some(certificate)) = (&peer.identity, &peer.certificate) else {
            return Err(Status::unauthenticated("an operator's certificate is needed"));
        };
        // The port lets nothing else through.
        let access = method.access.ok_or_else(|| status::bug(format!("{} says nothing of its callers", method.label)))?;
        self.accept(Subject::Operator(name.clone()), certificate, peer.address).await.map_err(status)?;
        let read = self
            .app
            .view("manager", "rights", name.clone(), |tx, _env, name| Box::pin(async move { Ok(operators::load(tx, name).await?.grants) }));
        let grants = read.await.map_err(status)?;
        let reach = allowed(name, &grants, method.label, access).map_err(status)?;
        let standing = Standing { operator: name.clone(), serial: certificate.serial.to_string(), grants };
        Ok(Operator { name: name.clone(), reach, standing })
    }

    /// Ends when the caller of an open stream may no longer have it, or reaches further or less far than when it began.
    async fn no_more(self, peer: Peer, method: Method, was: Operator) -> Status {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if peer.certificate.as_ref().is_some_and(|c| c.is_expired(self.app.world.now())) {
                return Status::unauthenticated("your certificate has ended; renew it and call again");
            }
            match self.admit(&peer, method).await {
                Ok(operator) if operator.reach == was.reach => {}
                Ok(_) => return status::unavailable("your roles have changed; call again".into()),
                // A database that is away says nothing of who may call.
                Err(away) if away.code() == Code::Unavailable => {}
                Err(refused) => {
                    self.note_denial(&peer, method, &refused).await;
                    return refused;
                }
            }
        }
    }

    /// Notes in the audit log that an operator was cut off between being let in and the change that it asked for.
    async fn note_cut_off(&self, peer: &Peer, method: Method, refused: &Status) {
        let Some(Identity::Operator(name)) = &peer.identity else { return };
        if refused.code() != Code::Unauthenticated {
            return;
        }
        let actor = format!("operators/{name}");
        let detail = format!("{}: {}", method.label, refused.message());
        self.app.refused(&actor, "certificate_refused", actor.clone(), detail).await;
    }

    /// Notes in the audit log that an operator was denied a method.
    async fn note_denial(&self, peer: &Peer, method: Method, refused: &Status) {
        let Some(Identity::Operator(name)) = &peer.identity else { return };
        if refused.code() != Code::PermissionDenied {
            return;
        }
        let actor = format!("operators/{name}");
        self.app.refused(&actor, "permission_denied", method.label.to_owned(), refused.message().to_owned()).await;
    }
}

/// How far the operator with these grants reaches with a method, or why it may not call it.
fn allowed(name: &OperatorName, grants: &[Grant], method: &str, access: &Access) -> Result<Reach, AppError> {
    let list = |roles: &mut dyn Iterator<Item = Role>| roles.map(Role::as_str).collect::<Vec<_>>().join(", ");
    let Some(reach) = rights::reach(grants, &access.roles) else {
        let (needed, has) = (list(&mut access.roles.iter().copied()), list(&mut grants.iter().map(|g| g.role)));
        return Err(AppError::Denied(format!("{method} needs a role of {needed}; operators/{name} has {has}")));
    };
    if access.scope == Scope::Unscoped && reach != Reach::Everywhere {
        return Err(AppError::Denied(format!("{method} needs a role without a scope, and operators/{name} has it for some groups only")));
    }
    Ok(reach)
}

/// The body of an open stream, which ends with a status when its caller may no longer have it.
struct Open {
    body: Body,
    no_more: BoxFuture<'static, Status>,
    ended: bool,
}

impl http_body::Body for Open {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(refused) = this.no_more.poll_unpin(cx) {
            this.ended = true;
            this.body = Body::default();
            return Poll::Ready(Some(Err(refused)));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
