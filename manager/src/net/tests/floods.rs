//! Floods of HTTP/2, from somebody without a certificate and from an agent: the connection ends, and nothing else.

use super::*;
use tokio::io::{AsyncRead, AsyncWrite};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call of `Enroll`, in HPACK without Huffman's code.
fn call() -> Vec<u8> {
    let mut block = vec![0x83, 0x87, 0x04, ENROLL.len() as u8];
    block.extend(ENROLL.bytes());
    block.extend([0x01, 1, b'm']);
    block.extend([0x0f, 0x10, 16]);
    block.extend(b"application/grpc");
    block
}

/// One header after the other, as many as fit.
fn small_headers(bytes: usize) -> Vec<u8> {
    [0x00, 1, b'a', 1, b'b'].repeat(bytes / 5)
}

/// What is sent at first, and then again and again with a number that grows.
type Flood = (&'static str, fn() -> Vec<u8>, fn(u32) -> Vec<u8>);

const FLOODS: [Flood; 11] = [
    ("rapid reset", Vec::new, |n| {
        let stream = 2 * n + 1;
        [frame(HEADERS, END_HEADERS, stream, &call()), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    }),
    ("headers that don't end", || frame(HEADERS, 0, 1, &call()), |_| frame(CONTINUATION, 0, 1, &small_headers(16_000))),
    ("headers in parts without content", || frame(HEADERS, 0, 1, &call()), |_| frame(CONTINUATION, 0, 1, &[])),
    ("settings", Vec::new, |_| frame(SETTINGS, 0, 0, &[])),
    ("pings", Vec::new, |n| frame(PING, 0, 0, &u64::from(n).to_be_bytes())),
    ("priorities", Vec::new, |n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1])),
    ("frames of no known kind", Vec::new, |_| frame(0xbb, 0, 0, b"what?")),
    ("data without bytes", || frame(HEADERS, END_HEADERS, 1, &call()), |_| frame(DATA, 0, 1, &[])),
    ("windows that overflow", Vec::new, |_| frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
    ("windows that grow by one", || frame(HEADERS, END_HEADERS, 1, &call()), |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
    ("goodbyes", Vec::new, |_| frame(GOAWAY, 0, 0, &[0; 8])),
];

/// Sends the flood, taking in what is answered, until the manager ends the connection. How many bytes that took.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(stream: S, (_, first, more): Flood) -> usize {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        let mut sent = 0;
        let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[]), first()].concat();
        for n in 0.. {
            bytes.extend(more(n));
            if bytes.len() > 16 << 10 {
                if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                    break;
                }
                sent += bytes.len();
                bytes.clear();
            }
        }
        sent
    };
    let taking = async {
        let mut buffer = vec![0; 64 << 10];
        while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    };
    let mut sending = std::pin::pin!(sending);
    tokio::select! {
        sent = &mut sending => sent,
        () = taking => timeout(PATIENCE, sending).await.expect("the other direction ends, too"),
    }
}

async fn flooded(bed: &Bed, flood: Flood, config: Arc<ClientConfig>) {
    let socket = TcpStream::connect(bed.agents.address()).await.unwrap();
    let stream = TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
    let sent = timeout(PATIENCE, send(stream, flood)).await.unwrap_or_else(|_| panic!("{}: the connection does not end", flood.0));
    // A ping of 17 bytes, ten thousand times, and what lay in buffers on the way.
    assert!(sent < 32 << 20, "{}: {sent} bytes were taken", flood.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_http2_ends_its_connection_and_nothing_else() {
    // Only what is counted ends these: nobody's connection would end by itself within the test.
    let limits = Limits { anonymous_lifetime: 10 * PATIENCE, anonymous_call: 10 * PATIENCE, ..Limits::default() };
    let bed = bed(limits);
    let bystander = bed.agent().await;
    let mut open = bystander.agent().connect(stream::pending()).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    for flood in FLOODS {
        flooded(&bed, flood, bed.nobody_config()).await;
        flooded(&bed, flood, bed.agent_config("aaaaaaaaaaaaaaaa")).await;
        let newcomer = bed.nobody().await;
        newcomer.newcomer().enroll(EnrollRequest::default()).await.unwrap_or_else(|e| panic!("after {}: {e}", flood.0));
        assert!(!bystander.0.is_closed(), "{}", flood.0);
    }
    bystander.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    assert!(timeout(Duration::from_millis(50), open.message()).await.is_err(), "the stream of who sent nothing wrong is still open");
    assert_eq!(bed.metrics.panics.get(), 0);
    let page = bed.metrics.text();
    assert!(page.contains("sutler_limits_reached_total{limit=\"control_frames\"}"), "{page}");
}

#[tokio::test]
async fn more_headers_than_may_be_are_refused() {
    let bed = bed(Limits::default());
    let agent = bed.agent().await;
    let mut request = tonic::Request::new(RenewCertificateRequest::default());
    for n in 0..40 {
        let name = tonic::metadata::MetadataKey::from_bytes(format!("x-{n}").as_bytes()).unwrap();
        request.metadata_mut().insert(name, "v".repeat(1000).parse().unwrap());
    }
    agent.agent().renew_certificate(request).await.unwrap_err();
    bed.agent().await.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
}
