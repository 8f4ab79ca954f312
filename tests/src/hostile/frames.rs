//! The port where machines enrol: any bytes as the content of a TLS connection without a certificate, and instead of TLS.
//!
//! The manager is a real one in this process, on the loopback, so that a fuzzer sees what its code does.

use crate::fleet::{Database, Manager};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use sutler_certs::PrivateKey;
use sutler_certs::tls::{self, Clock, ServerTrust};
use sutler_proto::v1;

/// How long the manager may take to answer and to close: more is a finding.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that may come back (bytes).
const ANSWER_MAX: usize = 64 << 10;

struct Port {
    manager: Mutex<Manager>,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

static PORT: LazyLock<Port> = LazyLock::new(|| {
    let manager = Manager::start(Database::Sqlite, None);
    let trust = ServerTrust::from_root(&manager.profile().root).expect("it is a root");
    let tls = tls::agent_client(None, &trust, Clock::system()).expect("it can be used");
    let address = manager.agents().parse().expect("it is an address");
    Port { manager: Mutex::new(manager), address, tls }
});

impl Port {
    fn connect(&self) -> TcpStream {
        let tcp = TcpStream::connect(self.address).expect("the manager listens");
        tcp.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        tcp
    }

    fn is_well(&self) {
        let panics = self.manager.lock().unwrap_or_else(PoisonError::into_inner).panics();
        assert_eq!(panics, 0, "a handler of the manager panicked");
    }
}

/// Everything until the other side closes. That it resets the connection is an end, too; that it never ends is none.
fn rest(from: &mut impl std::io::Read) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match from.read(&mut part) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&part[..n]),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("the manager keeps the connection open");
            }
            Err(_) => return answer,
        }
        assert!(answer.len() <= ANSWER_MAX, "more than {ANSWER_MAX} bytes came back");
    }
}

/// What every HTTP/2 client begins with: its preface and settings.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Bytes as the frames that follow the beginning of an HTTP/2 connection. Refused is what ends it with an error.
pub fn frames(bytes: &[u8]) -> bool {
    let name = ServerName::try_from("127.0.0.1").expect("it is a name");
    let connection = ClientConnection::new(PORT.tls.clone(), name).expect("it can be used");
    let mut stream = StreamOwned::new(connection, PORT.connect());
    // It may close before it has read everything.
    let _ = stream.write_all(BEGIN).and_then(|()| stream.write_all(bytes)).and_then(|()| stream.flush());
    // Its own settings say that it is there; what was asked is begun before the end is seen.
    let mut first = [0; 256];
    let count = stream.read(&mut first).unwrap_or_default();
    let mut answer = first[..count].to_vec();
    stream.conn.send_close_notify();
    let _ = stream.flush();
    answer.extend(rest(&mut stream));
    PORT.is_well();
    !says_error(&answer)
}

/// Whether there is a frame that says which error ends the connection.
fn says_error(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, ..] = *frames {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if kind == 7 && frames.get(13..17) != Some(&[0; 4]) {
            return true;
        }
        frames = frames.get(9 + length..).unwrap_or_default();
    }
    false
}

/// Bytes instead of TLS. Accepted is what got an answer that is no alert.
pub fn tls(bytes: &[u8]) -> bool {
    let mut tcp = PORT.connect();
    let _ = tcp.write_all(bytes);
    let _ = tcp.shutdown(Shutdown::Write);
    let answer = rest(&mut tcp);
    PORT.is_well();
    answer.first() == Some(&22)
}

/// A whole connection that asks for a certificate, with a token that does not exist; and the first message of TLS.
pub fn good() -> [(&'static str, &'static str, Vec<u8>); 2] {
    use prost::Message as _;
    let request = v1::EnrollRequest {
        token_id: "ffffffffff".into(),
        secret: vec![7; 32].into(),
        csr: PrivateKey::generate().and_then(|k| k.csr()).expect("the system has randomness").into(),
        hostname: "pc-1".into(),
        machine_id: "0123456789abcdef".into(),
        agent_version: "1".into(),
        trust_pin: vec![7; 32].into(),
    }
    .encode_to_vec();
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/sutler.v1.EnrollmentService/Enroll"),
        (":authority", "manager"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that is not indexed.
        headers.extend([0, name.len() as u8]);
        headers.extend(name.as_bytes());
        headers.push(value.len() as u8);
        headers.extend(value.as_bytes());
    }
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    let mut message = vec![0];
    message.extend((request.len() as u32).to_be_bytes());
    message.extend(request);
    let connection = [frame(1, 4, 1, &headers), frame(0, 1, 1, &message)].concat();
    let name = ServerName::try_from("127.0.0.1").expect("it is a name");
    let mut client = ClientConnection::new(PORT.tls.clone(), name).expect("it can be used");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes everything");
    [("frames", "enroll", connection), ("tls", "hello", hello)]
}
