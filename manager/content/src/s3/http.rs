//! The store's requests over hyper and rustls, as everything else here.

use crate::Error;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector as Tcp},
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{io, path::Path, sync::Arc, time::Duration};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the head of an answer may take from when the request is made.
const ANSWER: Duration = Duration::from_secs(30);
/// How long each further piece of an answer may take.
const PIECE: Duration = Duration::from_secs(15);
/// How long a connection that nobody uses is kept, and how many of them.
const IDLE: Duration = Duration::from_secs(60);
const IDLE_MAX: usize = 32;

/// Makes clients whose connections trust the CAs that were named.
#[derive(Debug)]
pub(super) struct Connector(Arc<ClientConfig>);

impl Connector {
    pub(super) fn new(ca: Option<&Path>) -> Result<Connector, Error> {
        let mut roots = RootCertStore::empty();
        let certificates = match ca {
            Some(path) => {
                let failed = |source| Error::Certificates { path: path.into(), source };
                let pem = fs_err::read(path).map_err(failed)?;
                let read: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
                read.map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidData, e.to_string())))?
            }
            // An administrator keeps them up to date; none is fine for a store without TLS.
            None => rustls_native_certs::load_native_certs().certs,
        };
        let (added, _) = roots.add_parsable_certificates(certificates);
        if let (0, Some(path)) = (added, ca) {
            let source = io::Error::new(io::ErrorKind::InvalidData, "there is no certificate in it");
            return Err(Error::Certificates { path: path.into(), source });
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Connector(Arc::new(config)))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(IDLE));
        let https =
            HttpsConnectorBuilder::new().with_tls_config(ClientConfig::clone(&self.0)).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(https);
        Ok(HttpClient::new(Requests(client)))
    }
}

#[derive(Debug)]
struct Requests(Client<HttpsConnector<Tcp>, HttpRequestBody>);

#[async_trait]
impl HttpService for Requests {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answered = tokio::time::timeout(ANSWER, self.0.request(request)).await;
        let (parts, body) = answered.map_err(late)?.map_err(|e| HttpError::new(kind(&e), e))?.into_parts();
        let pieces = stream::unfold(Some(body), |body| async move {
            let mut body = body?;
            match tokio::time::timeout(PIECE, body.frame()).await {
                Ok(None) => None,
                Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
                Ok(Some(Err(e))) => Some((Err(HttpError::new(HttpErrorKind::Interrupted, e)), None)),
                Err(elapsed) => Some((Err(late(elapsed)), None)),
            }
        });
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(StreamBody::new(pieces.fuse()))))
    }
}

fn late(_: tokio::time::error::Elapsed) -> HttpError {
    let error = io::Error::new(io::ErrorKind::TimedOut, "the store does not answer in time");
    HttpError::new(HttpErrorKind::Timeout, error)
}

/// What of it may be tried again.
fn kind(error: &legacy::Error) -> HttpErrorKind {
    if error.is_connect() {
        return HttpErrorKind::Connect;
    }
    let mut at = std::error::Error::source(error);
    while let Some(here) = at {
        if let Some(e) = here.downcast_ref::<hyper::Error>()
            && (e.is_closed() || e.is_incomplete_message() || e.is_body_write_aborted() || e.is_canceled())
        {
            return HttpErrorKind::Interrupted;
        }
        if here.downcast_ref::<io::Error>().is_some() {
            return HttpErrorKind::Interrupted;
        }
        at = here.source();
    }
    HttpErrorKind::Unknown
}
