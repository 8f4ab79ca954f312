//! Whoever has no certificate, with bytes of all kinds: on the port where machines enrol.

use super::{World, changed, faults, word};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use sutler_certs::RootPin;
use sutler_certs::tls::{self, Clock, ServerTrust};
use sutler_proto::v1;
use sutler_tests::api_call;
use sutler_tests::harness::{Api, PATIENCE};
use tonic::Status;
use tonic::client::GrpcService as _;

const ENROLL: &str = "/sutler.v1.EnrollmentService/Enroll";

/// What comes back for one HTTP request: its HTTP status, and what gRPC says in headers or trailers.
fn answer(api: &Api, method: &str, path: &str, kind: Option<&str>, body: Vec<u8>) -> (u16, Option<Status>) {
    let mut connection = api.raw();
    let uri = format!("{}{path}", connection.origin().to_string().trim_end_matches('/'));
    let mut request = http::Request::builder().method(method).uri(uri).header("te", "trailers");
    if let Some(kind) = kind {
        request = request.header("content-type", kind);
    }
    let request = request.body(tonic::body::Body::new(Full::new(Bytes::from(body)))).expect("it is a request");
    api.block_on(async {
        let call = async {
            let response = connection.call(request).await.expect("an answer");
            let (parts, body) = response.into_parts();
            let trailers = body.collect().await.ok().and_then(|body| body.trailers().cloned()).unwrap_or_default();
            let status = Status::from_header_map(&parts.headers).or_else(|| Status::from_header_map(&trailers));
            (parts.status.as_u16(), status)
        };
        tokio::time::timeout(PATIENCE, call).await.expect("an answer in time")
    })
}

/// A gRPC message in its frame.
fn framed(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flag];
    bytes.extend(length.to_be_bytes());
    bytes.extend(message);
    bytes
}

/// What it is, method, path, content type, body, and the status that comes back.
type Case<'a> = (&'a str, &'a str, &'a str, Option<&'a str>, Vec<u8>, &'a str);

#[test]
fn frames_and_paths_that_are_none_get_the_code_of_the_table_and_reach_nothing() {
    let world = World::new();
    let before = world.reader.rows();
    let grpc = Some("application/grpc");
    let whole = |message: &[u8]| framed(0, message.len() as u32, message);
    let long = format!("/{}", "x".repeat(4000));
    let cases: Vec<Case> = vec![
        ("no message", "POST", ENROLL, grpc, vec![], "INVALID_ARGUMENT"),
        ("half a head", "POST", ENROLL, grpc, vec![0, 0, 0], "INVALID_ARGUMENT"),
        ("a head and nothing", "POST", ENROLL, grpc, framed(0, 100, b""), "INVALID_ARGUMENT"),
        ("half a message", "POST", ENROLL, grpc, framed(0, 100, b"\x0a\x03abc"), "INVALID_ARGUMENT"),
        ("4 GiB announced", "POST", ENROLL, grpc, framed(0, u32::MAX, b"x"), "RESOURCE_EXHAUSTED"),
        ("17 KiB", "POST", ENROLL, grpc, whole(&vec![0; 17 << 10]), "RESOURCE_EXHAUSTED"),
        ("17 KiB announced", "POST", ENROLL, grpc, framed(0, 17 << 10, b""), "RESOURCE_EXHAUSTED"),
        ("1 MiB", "POST", ENROLL, grpc, whole(&vec![0; 1 << 20]), "RESOURCE_EXHAUSTED"),
        ("compressed without saying how", "POST", ENROLL, grpc, framed(1, 3, b"abc"), "INVALID_ARGUMENT"),
        ("a flag that there isn't", "POST", ENROLL, grpc, framed(7, 3, b"abc"), "INVALID_ARGUMENT"),
        ("no Protobuf", "POST", ENROLL, grpc, whole(b"\xff\xff\xff\xff\xff\xff"), "INVALID_ARGUMENT"),
        ("no UTF-8", "POST", ENROLL, grpc, whole(b"\x0a\x02\xff\xfe"), "INVALID_ARGUMENT"),
        ("a field that ends nowhere", "POST", ENROLL, grpc, whole(b"\x0a\xff\xff\xff\xff\x0f"), "INVALID_ARGUMENT"),
        ("two messages", "POST", ENROLL, grpc, [whole(b""), whole(b"")].concat(), "INVALID_ARGUMENT"),
        ("nothing at all in it", "POST", ENROLL, grpc, whole(b""), "INVALID_ARGUMENT"),
        ("JSON", "POST", ENROLL, Some("application/json"), b"{}".to_vec(), "415"),
        ("a form", "POST", ENROLL, Some("application/x-www-form-urlencoded"), b"a=b".to_vec(), "415"),
        ("no content type", "POST", ENROLL, None, vec![], "415"),
        ("GET", "GET", ENROLL, grpc, vec![], "415"),
        ("another case", "POST", "/sutler.v1.EnrollmentService/enroll", grpc, whole(b""), "UNIMPLEMENTED"),
        ("an unknown method", "POST", "/sutler.v1.EnrollmentService/Nothing", grpc, whole(b""), "UNIMPLEMENTED"),
        ("an agent's method", "POST", "/sutler.v1.AgentService/RenewCertificate", grpc, whole(b""), "UNIMPLEMENTED"),
        ("an agent's stream", "POST", "/sutler.v1.AgentService/Connect", grpc, whole(b""), "UNIMPLEMENTED"),
        ("an operator's method", "POST", "/sutler.v1.GroupService/ListGroups", grpc, whole(b""), "UNIMPLEMENTED"),
        ("reflection", "POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", grpc, whole(b""), "UNIMPLEMENTED"),
        ("health", "POST", "/grpc.health.v1.Health/Check", grpc, whole(b""), "UNIMPLEMENTED"),
        ("an unknown service", "POST", "/x.Y/Z", grpc, whole(b""), "UNIMPLEMENTED"),
        ("the root", "POST", "/", grpc, whole(b""), "UNIMPLEMENTED"),
        ("a path that leaves", "POST", "/../../etc/passwd", grpc, whole(b""), "UNIMPLEMENTED"),
        ("a query", "POST", "/sutler.v1.EnrollmentService/Enroll/x?y", grpc, whole(b""), "UNIMPLEMENTED"),
        ("a long path", "POST", &long, grpc, whole(b""), "UNIMPLEMENTED"),
    ];
    let mut wrong = Vec::new();
    let mut hidden = Vec::new();
    for (what, method, path, kind, body, wanted) in cases {
        let (http, status) = answer(&Api::newcomer(&world.token), method, path, kind, body);
        let got = status.as_ref().map_or(http.to_string(), |s| word(s.code()));
        if got != wanted {
            wrong.push(format!("{what}: {got} instead of {wanted}: {status:?}"));
        }
        if let Some(status) = status {
            wrong.extend(faults(&status).into_iter().map(|fault| format!("{what}: {fault}: {status:?}")));
            if wanted == "UNIMPLEMENTED" {
                hidden.push((status.message().to_owned(), status.details().to_vec()));
            }
        }
        wrong.extend(changed(&before, &world.reader.rows()).map(|c| format!("{what}: {c}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(hidden.windows(2).all(|pair| pair[0] == pair[1]), "what exists is told from what doesn't: {hidden:?}");
}

/// A TLS connection of somebody without a certificate, with nothing above it.
fn bare(world: &World) -> StreamOwned<ClientConnection, TcpStream> {
    let trust_domain = world.token.trust_domain.parse().expect("it is a trust domain");
    let trust = ServerTrust::Pin { root: RootPin(world.token.root_pin), trust_domain };
    let config = tls::agent_client(None, &trust, Clock::system()).expect("it can be used");
    let tcp = TcpStream::connect(&world.token.addresses[0]).expect("somebody listens");
    tcp.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    let name = ServerName::try_from("127.0.0.1").expect("it is a name");
    StreamOwned::new(ClientConnection::new(Arc::clone(&config), name).expect("it can be used"), tcp)
}

#[test]
fn bytes_that_are_no_tls_no_http_and_no_grpc_end_the_connection_and_nothing_else() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let world = World::new();
    let before = world.reader.rows();
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    // Inside of TLS.
    let inside: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("noise", (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("a preface and noise", [PREFACE, &[0xff; 64]].concat()),
        ("a frame of 16 MiB", [PREFACE, SETTINGS, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        ("headers that are none", [PREFACE, SETTINGS, &frame(1, 4, 1, &[0xff; 32])].concat()),
        ("data for nobody", [PREFACE, SETTINGS, &frame(0, 1, 7, b"x")].concat()),
        ("a reset for nobody", [PREFACE, SETTINGS, &frame(3, 0, 9, &[0, 0, 0, 8])].concat()),
        ("a window of nothing", [PREFACE, SETTINGS, &frame(8, 0, 0, &[0, 0, 0, 0])].concat()),
        ("settings of the wrong length", [PREFACE, SETTINGS, &frame(4, 0, 0, &[1])].concat()),
        ("a continuation of nothing", [PREFACE, SETTINGS, &frame(9, 4, 1, b"")].concat()),
    ];
    for (what, bytes) in inside {
        let mut stream = bare(&world);
        let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
        // Whatever it says: it closes, long before the connection's time is over.
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        let slow = end.as_ref().is_err_and(|e| matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        assert!(!slow, "{what}: the connection stays open");
        assert!(rest.len() < 1024, "{what}: {} bytes came back", rest.len());
    }
    // Instead of TLS.
    for (what, bytes) in [
        ("HTTP in the clear", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("noise", vec![0xff; 512]),
        ("a record of 64 KiB", vec![22, 3, 1, 0xff, 0xff, 1, 0, 0, 0]),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("the PROXY protocol", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".to_vec()),
    ] {
        let mut tcp = TcpStream::connect(&world.token.addresses[0]).expect("somebody listens");
        tcp.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        let _ = tcp.write_all(&bytes);
        let mut rest = Vec::new();
        let end = tcp.read_to_end(&mut rest);
        let slow = end.as_ref().is_err_and(|e| matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        assert!(!slow && rest.len() < 256, "{what}: {end:?}, {} bytes", rest.len());
    }
    assert_eq!(changed(&before, &world.reader.rows()), None);
    // A newcomer comes in as before.
    let (api, client) = Api::client(&world.token, "after-all");
    let answer = api_call!(api, agent_service_client::AgentServiceClient, renew_certificate(v1::RenewCertificateRequest::default()));
    assert_eq!(word(answer.expect_err("it asks for nothing").code()), "INVALID_ARGUMENT");
    world.cli.ok(&format!("client show {client}"));
    assert_eq!(world.manager.metric("sutler_panics_total").unwrap_or_default(), 0.0);
}
