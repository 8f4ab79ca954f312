//! The third listener: metrics and health over plain HTTP, for the machine itself and its monitoring.
//!
//! `GET /metrics`, `/livez` and `/readyz`, and nothing else. It is bounded in every way, since it asks for no credential:
//! one request per connection, 64 at a time, 5 s for all of it, small headers, no body.

use super::Metrics;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
};

/// How much the listener takes upon itself.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// How many connections there are at a time; one more is closed.
    connections: usize,
    /// How long a connection lasts.
    time: Duration,
}

const BOUNDS: Bounds = Bounds { connections: 64, time: Duration::from_secs(5) };

/// Says whether the manager can do its work now (the database answers), or why not, in words without secrets.
pub type ReadyCheck = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The listener while it serves. It ends when this is dropped.
#[derive(Debug)]
pub struct TelemetryServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl TelemetryServer {
    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections; those that are open end within 5 s.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

/// Binds `address` and serves metrics and health on it.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>, ready: ReadyCheck) -> io::Result<TelemetryServer> {
    serve_within(address, metrics, ready, BOUNDS).await
}

async fn serve_within(address: SocketAddr, metrics: Arc<Metrics>, ready: ReadyCheck, bounds: Bounds) -> io::Result<TelemetryServer> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(listener, metrics, ready, stopped, bounds));
    Ok(TelemetryServer { address, stop, task })
}

async fn accept(listener: TcpListener, metrics: Arc<Metrics>, ready: ReadyCheck, mut stopped: watch::Receiver<bool>, bounds: Bounds) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    loop {
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            _ = stopped.changed() => return,
        };
        match taken {
            Ok((socket, _)) => {
                // Without a place the socket is dropped here, which closes it.
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let (metrics, ready) = (metrics.clone(), ready.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let _ = tokio::time::timeout(bounds.time, one_request(socket, metrics, ready)).await;
                });
            }
            Err(e) => {
                tracing::warn!("the telemetry listener could not take a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one_request(socket: TcpStream, metrics: Arc<Metrics>, ready: ReadyCheck) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (metrics, ready) = (metrics.clone(), ready.clone());
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &metrics, &ready).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(BOUNDS.time)
        .max_headers(64)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(e) = served {
        tracing::debug!("a request for metrics or health failed: {e}");
    }
}

async fn answer(method: &Method, path: &str, metrics: &Metrics, ready: &ReadyCheck) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    if *method != Method::GET && *method != Method::HEAD {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered\n".into());
    }
    match path {
        "/metrics" => response(StatusCode::OK, OPEN_METRICS, metrics.text()),
        "/livez" => response(StatusCode::OK, TEXT, "ok\n".into()),
        "/readyz" => match ready().await {
            Ok(()) => response(StatusCode::OK, TEXT, "ok\n".into()),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n")),
        },
        _ => response(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /livez and /readyz\n".into()),
    }
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let _ = socket.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn metrics_and_health_are_there_and_nothing_else() {
        let well = Arc::new(AtomicBool::new(true));
        let check: ReadyCheck = {
            let well = well.clone();
            Arc::new(move || {
                let well = well.load(Ordering::SeqCst);
                Box::pin(async move { if well { Ok(()) } else { Err("the database does not answer".into()) } })
            })
        };
        let server = serve("127.0.0.1:0".parse().unwrap(), Metrics::new(), check).await.unwrap();
        let get = |path: &'static str| ask(server.address(), path);
        let page = get("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("sutler_build_info") && page.ends_with("# EOF\n"), "{page}");
        assert!(get("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        assert!(get("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        well.store(false, Ordering::SeqCst);
        let page = get("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 503") && page.contains("the database does not answer"), "{page}");
        assert!(get("GET /debug HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(get("POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20 << 10));
        assert!(!ask(server.address(), &long).await.starts_with("HTTP/1.1 200"));
        let address = server.address();
        server.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn silent_connections_keep_nobody_from_the_metrics_for_long() {
        let bounds = Bounds { connections: 4, time: Duration::from_millis(200) };
        let ready: ReadyCheck = Arc::new(|| Box::pin(async { Ok(()) }));
        let server = serve_within("127.0.0.1:0".parse().unwrap(), Metrics::new(), ready, bounds).await.unwrap();
        let mut silent = Vec::new();
        for _ in 0..bounds.connections {
            silent.push(TcpStream::connect(server.address()).await.unwrap());
        }
        let answered =
            async { while !ask(server.address(), "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200") {} };
        tokio::time::timeout(Duration::from_secs(20), answered).await.unwrap();
    }
}
