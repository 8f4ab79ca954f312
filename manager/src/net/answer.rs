//! What goes around every call: who may still call, the deadline, panics, the status, the figures.

use super::{
    Peer,
    methods::{self, Method},
    routes::Surface,
    status,
};
use crate::{
    telemetry::{Metrics, metrics},
    world::World,
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use std::{
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status, body::Body};

#[cfg(all(panic = "abort", not(test)))]
compile_error!("the manager catches panics of its handlers: build it with a profile that unwinds (release does)");

/// What all calls of one connection share.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) surface: Surface,
    pub(crate) peer: Peer,
    pub(crate) port: &'static str,
    /// How long a call that is no stream may last.
    pub(crate) unary_call: Duration,
    /// How much one call may send (bytes), where that is limited.
    pub(crate) request_bytes: Option<usize>,
    /// Every call is answered with this.
    pub(crate) refused: Option<Status>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) world: World,
}

impl Connection {
    /// Whether the certificate has ended since the connection was made.
    pub(crate) fn has_ended(&self) -> bool {
        let now = self.world.now();
        !self.peer.expired && self.peer.certificate.as_ref().is_some_and(|c| c.is_expired(now))
    }

    /// How long it still takes until [`has_ended`](Self::has_ended), if nobody sets the clock; zero when it has.
    pub(crate) fn ends_in(&self) -> Duration {
        match &self.peer.certificate {
            Some(certificate) if !self.peer.expired => certificate.expires_in(self.world.now()),
            _ => Duration::MAX,
        }
    }

    /// Answers one call.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let method = methods::method(request.uri().path());
        let call = Call { connection: self.clone(), method, started: Instant::now(), counted: false };
        if !is_grpc(&request) {
            // A browser sends such a request to any address without asking; one with gRPC's content type it does not.
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Ok(call.answer(response, None));
        }
        if let Some(status) = &self.refused {
            return Ok(call.refuse(status.clone()));
        }
        if self.has_ended() {
            return Ok(call.refuse(status::certificate_ended()));
        }
        let asked = timeout_of(request.headers());
        let limit = match (asked, method.streams) {
            (asked, false) => Some(asked.map_or(self.unary_call, |a| a.min(self.unary_call))),
            (asked, true) => asked,
        };
        // Half a century, for those who ask for more.
        let until = limit.map(|l| Instant::now() + l.min(Duration::from_secs(1 << 30)));
        let mut request = request.map(|body| match self.request_bytes {
            Some(most) => Body::new(Limited::new(body, most).map_err(move |e| too_long(e, most))),
            None => Body::new(body),
        });
        request.extensions_mut().insert(self.peer.clone());
        let handler = AssertUnwindSafe(async { self.surface.call(request).await }).catch_unwind();
        let handled = match until {
            Some(until) => tokio::time::timeout_at(until, handler).await,
            None => Ok(handler.await),
        };
        Ok(match handled {
            Ok(Ok(response)) => {
                // What a unary handler has answered is whole; a stream goes on, and so does its deadline.
                let until = until.filter(|_| method.streams);
                call.answer(response, until.map(|u| (Box::pin(tokio::time::sleep_until(u)), limit.unwrap_or_default())))
            }
            Ok(Err(_)) => {
                call.connection.metrics.panics.inc();
                call.refuse(Status::internal("the handler panicked; the line before this one says where"))
            }
            Err(_) => call.refuse(status::deadline_exceeded(limit.unwrap_or_default())),
        })
    }
}

/// What a handler reads when its caller sent too much.
fn too_long(error: Box<dyn std::error::Error + Send + Sync>, most: usize) -> Status {
    match error.downcast::<LengthLimitError>() {
        Ok(_) => status::message_too_large(format!("a call without a certificate sends at most {most} bytes")),
        Err(error) => Status::from_error(error),
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|v| v.as_bytes());
    request.method() == http::Method::POST && kind.is_some_and(|k| k.starts_with(b"application/grpc"))
}

/// The deadline that the caller asked for (`grpc-timeout`: up to eight digits and a unit); what is no such text is no deadline.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// One call; counted once, at the latest when it is dropped.
struct Call {
    connection: Arc<Connection>,
    method: Method,
    started: Instant,
    counted: bool,
}

impl Call {
    fn refuse(self, status: Status) -> Response<Answer> {
        self.answer(status.into_http(), None)
    }

    fn answer(mut self, response: Response<Body>, deadline: Option<(Pin<Box<Sleep>>, Duration)>) -> Response<Answer> {
        let (mut parts, body) = response.into_parts();
        let left = status::leave(&mut parts.headers, self.method.label, &self.connection.world);
        if let Some(code) = left {
            self.count(code);
        }
        let sent = self.connection.metrics.bytes_sent.get_or_create_owned(&metrics::Port { port: self.connection.port });
        Response::from_parts(parts, Answer { body, call: self, deadline, ended: false, sent })
    }

    fn count(&mut self, code: Code) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        let (metrics, method) = (&self.connection.metrics, self.method.label);
        let labels = metrics::Call { caller: self.connection.surface.caller, method, code: status::word(code) };
        metrics.calls.get_or_create(&labels).inc();
        if !self.method.streams {
            metrics.call_seconds.get_or_create(&metrics::Method { method }).observe(self.started.elapsed().as_secs_f64());
        }
        tracing::debug!(
            caller = self.connection.surface.caller,
            peer = self.connection.peer.identity.as_ref().map(tracing::field::display),
            method,
            code = status::word(code),
            ms = self.started.elapsed().as_millis() as u64,
            "call"
        );
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // The caller went away, or the connection ended, before there was a status.
        self.count(Code::Cancelled);
    }
}

/// The body of an answer on its way out.
pub(crate) struct Answer {
    body: Body,
    call: Call,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
    ended: bool,
    sent: prometheus_client::metrics::counter::Counter,
}

impl Answer {
    /// Ends the answer with this status.
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (trailers, code) = status::trailers(status, self.call.method.label, &self.call.connection.world);
        self.ended = true;
        self.body = Body::default();
        self.call.count(code);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some((sleep, limit)) = &mut this.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            let limit = *limit;
            return this.end(&status::deadline_exceeded(limit));
        }
        // A stream's handler runs while its body is polled.
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.body).poll_frame(cx)));
        let polled = polled.unwrap_or_else(|_| {
            this.call.connection.metrics.panics.inc();
            Poll::Ready(Some(Err(Status::internal("the handler panicked; the line before this one says where"))))
        });
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(status))) => this.end(&status),
            Poll::Ready(Some(Ok(frame))) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    this.ended = true;
                    let code = status::leave(&mut trailers, this.call.method.label, &this.call.connection.world);
                    this.call.count(code.unwrap_or(Code::Unknown));
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                Err(frame) => {
                    if let Some(data) = frame.data_ref() {
                        this.sent.inc_by(data.len() as u64);
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline_is_read_as_grpc_writes_it() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_bytes(text.as_bytes()).unwrap());
            timeout_of(&headers)
        };
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("150m"), Some(Duration::from_millis(150)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "2", "2s", "-2S", "999999999S", "é", "1.5S", "+1S"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(timeout_of(&HeaderMap::new()), None);
    }
}
