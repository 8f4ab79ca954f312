//! Posts an event to an address: HTTP/1.1, over TLS 1.3 unless it is this machine, signed where there is a secret.

use super::{SAID_MAX, said};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use ring::hmac;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{fmt::Write, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// The header with the HMAC-SHA256 of the body: `sha256=` and 64 hex digits.
const SIGNATURE: &str = "sutler-signature";
/// The header with the event's cursor, by which a repeat is known.
const EVENT: &str = "sutler-event";
/// How long what comes after the status is waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The largest file with a secret, and the largest with certificates (bytes).
const SECRET_MAX: u64 = 4096;
const CA_MAX: u64 = 4 << 20;

/// An address that events are posted to.
pub(super) struct Post {
    url: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    secret: Option<hmac::Key>,
}

impl Post {
    pub(super) fn open(url: &Uri, secret: Option<&Path>, ca: Option<&Path>) -> Result<Post, String> {
        let is_tls = url.scheme_str() == Some("https");
        let host = url.host().ok_or("the url has no host")?.trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let secret = secret.map(read_secret).transpose()?;
        let tls = if is_tls { Some(connector(ca)?) } else { None };
        Ok(Post { url: url.clone(), host, port, tls, secret })
    }

    pub(super) async fn send(&self, cursor: i64, body: String) -> Result<String, String> {
        let place = format!("{}:{}", self.host, self.port);
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| format!("cannot connect to {place}: {e}"))?;
        match &self.tls {
            None => self.post(socket, cursor, body).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|e| format!("{} is no name of a server: {e}", self.host))?;
                let stream = tls.connect(name, socket).await.map_err(|e| format!("no TLS connection with {place}: {e}"))?;
                self.post(stream, cursor, body).await
            }
        }
    }

    async fn post(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        cursor: i64,
        body: String,
    ) -> Result<String, String> {
        let failed = |e: hyper::Error| format!("{}:{} broke off: {e}", self.host, self.port);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let exchange = async {
            let response = sender.send_request(self.request(cursor, body)?).await.map_err(failed)?;
            let status = response.status();
            // What goes beyond is not read, and its end is not waited for: the status is the answer.
            let (mut body, mut text) = (Limited::new(response.into_body(), SAID_MAX), Vec::new());
            let read = async {
                while let Some(Ok(frame)) = body.frame().await {
                    text.extend(frame.into_data().unwrap_or_default());
                }
            };
            let _ = tokio::time::timeout(LAST_WORDS, read).await;
            Ok::<_, String>((status, said(&text)))
        };
        // The connection is driven beside the exchange, and dropped with it.
        tokio::pin!(connection, exchange);
        let (status, text) = tokio::select! {
            done = &mut exchange => done?,
            // What came before the end is still to be read.
            ended = &mut connection => {
                ended.map_err(failed)?;
                exchange.await?
            }
        };
        if status.is_success() {
            return Ok(text);
        }
        let text = if text.is_empty() { String::new() } else { format!(": {text}") };
        Err(format!("{}:{} answered {status}{text}", self.host, self.port))
    }

    fn request(&self, cursor: i64, body: String) -> Result<Request<Full<Bytes>>, String> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.url.authority().map(|a| a.as_str()).unwrap_or(&self.host);
        let mut request = Request::post(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("sutler/", env!("CARGO_PKG_VERSION")))
            .header(EVENT, cursor);
        if let Some(key) = &self.secret {
            let mut signature = "sha256=".to_owned();
            for byte in hmac::sign(key, body.as_bytes()).as_ref() {
                let _ = write!(signature, "{byte:02x}");
            }
            request = request.header(SIGNATURE, signature);
        }
        request.body(Full::from(body)).map_err(|e| format!("the request can't be made: {e}"))
    }
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let fail = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let length = std::fs::metadata(path).map_err(fail)?.len();
    if length > max {
        return Err(format!("{} is {length} bytes long; at most {max} are read", path.display()));
    }
    std::fs::read(path).map_err(fail)
}

/// The first line of the file.
fn read_secret(path: &Path) -> Result<hmac::Key, String> {
    use std::os::unix::fs::MetadataExt;
    let bytes = read(path, SECRET_MAX)?;
    let mode = std::fs::metadata(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?.mode();
    if mode & 0o007 != 0 {
        return Err(format!("{} holds a secret and is open to every user of this machine; chmod o= {}", path.display(), path.display()));
    }
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    if line.len() < 16 {
        return Err(format!("the first line of {} is the secret; give it 16 characters or more", path.display()));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, line))
}

/// Trusts the CAs in the file, or those of this machine, which its administrator keeps up to date: a list that is compiled in ages.
fn connector(ca: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let (certificates, from) = match ca {
        Some(path) => {
            let pem = read(path, CA_MAX)?;
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            (read.map_err(|e| format!("{} holds no certificates: {e}", path.display()))?, path.display().to_string())
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            (found.certs, "the CAs of this machine".to_owned())
        }
    };
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(format!("{from}: there is no certificate; name a file with one (ca = \"FILE\")"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A receiver that answers so, and neither goes on nor hangs up.
    async fn answered(answer: &'static str) -> Result<String, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let receiver = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        });
        let post = Post::open(&url, None, None).unwrap();
        let said =
            tokio::time::timeout(Duration::from_secs(60), post.send(1, "{}".into())).await.expect("it waits for the end of the body");
        receiver.abort();
        said
    }

    #[tokio::test]
    async fn an_answer_whose_body_never_ends_counts_by_its_status() {
        let well = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nthere\r\n";
        assert_eq!(answered(well).await, Ok("there".to_owned()));
        let no = "HTTP/1.1 503 Not Now\r\nContent-Length: 10\r\n\r\nlater";
        let why = answered(no).await.unwrap_err();
        assert!(why.contains("answered 503") && why.ends_with(": later"), "{why}");
    }
}
