//! Limits of the listeners, each gone over. Which test goes over which limit stands in the list of all limits, beside the tests of
//! the whole product (`e2e/limits.rs`).

use super::*;
use tonic_types::StatusExt;

/// Whether the limit was counted.
fn counted(bed: &Bed, limit: &str) -> bool {
    let line = format!("sutler_limits_reached_total{{limit=\"{limit}\"}}");
    bed.metrics.text().lines().any(|l| l.starts_with(&line))
}

pub(super) async fn until_counted(bed: &Bed, limit: &str) {
    let counted = async {
        while !counted(bed, limit) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{limit} was not counted"));
}

#[tokio::test]
async fn a_handshake_that_dawdles_is_given_up() {
    let bed = bed(Limits { handshake: Duration::from_millis(300), ..Limits::default() });
    let mut socket = TcpStream::connect(bed.agents.address()).await.unwrap();
    // The start of a ClientHello of 500 bytes, and then one byte at a time.
    socket.write_all(&[22, 3, 1, 1, 244, 1, 0, 1, 240, 3, 3]).await.unwrap();
    let dawdling = async {
        while socket.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, dawdling).await.expect("it is closed");
    until_counted(&bed, "handshake").await;
}

#[tokio::test]
async fn a_port_that_has_all_its_connections_closes_one_more() {
    let bed = bed(Limits { connections: 2, ..Limits::default() });
    let first = bed.agent().await;
    let second = bed.agent().await;
    let mut third = TcpStream::connect(bed.agents.address()).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, third.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(counted(&bed, "connections"));
    for agent in [first, second] {
        agent.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_with_the_limits_name() {
    let bed = bed(Limits { unary_call: Duration::from_millis(100), connections_per_operator: 1, ..Limits::default() });
    let reason = |status: &Status| status.get_details_error_info().map(|info| (info.reason, info.domain)).unwrap_or_default();
    let operator = bed.operator().await;
    let late = operator.operator().get_self(asking("hang")).await.unwrap_err();
    assert_eq!((late.code(), reason(&late)), (Code::DeadlineExceeded, ("CALL_TOO_LONG".into(), "sutler".into())));
    let request = RenewOperatorCertificateRequest { csr: vec![0; 65 << 10].into() };
    let large = operator.operator().renew_operator_certificate(request).await.unwrap_err();
    assert_eq!((large.code(), reason(&large)), (Code::ResourceExhausted, ("MESSAGE_TOO_LARGE".into(), "sutler".into())));
    let second = bed.operator().await.operator().get_self(GetSelfRequest {}).await.unwrap_err();
    assert_eq!((second.code(), reason(&second)), (Code::ResourceExhausted, ("TOO_MANY_CONNECTIONS".into(), "sutler".into())));
    assert!(second.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
    assert!(counted(&bed, "connections_per_operator"));
}

#[tokio::test]
async fn a_newcomer_that_sends_a_byte_at_a_time_is_told_that_it_takes_too_long() {
    let bed = bed(Limits { anonymous_call: Duration::from_millis(300), ..Limits::default() });
    let nobody = bed.nobody().await;
    let slowly = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, Status>(http_body::Frame::data(bytes::Bytes::from_static(&[0]))), ()))
    });
    let request = Request::post(format!("https://manager{ENROLL}")).header("content-type", "application/grpc").header("te", "trailers");
    let body = Body::new(http_body_util::StreamBody::new(slowly));
    let response = timeout(PATIENCE, nobody.0.clone().send_request(request.body(body).unwrap())).await.unwrap().unwrap();
    assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::DeadlineExceeded);
}

/// A connection whose frames the test makes itself; the preface and empty settings are sent.
async fn raw(bed: &Bed) -> tokio_rustls::client::TlsStream<TcpStream> {
    let socket = TcpStream::connect(bed.agents.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(bed.agent_config("0123456789abcdef")).connect(name, socket).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    stream
}

/// The frame that begins the call of a method.
fn headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x87, 0x04, path.len() as u8];
    block.extend(path.bytes());
    block.extend([0x01, 1, b'm', 0x0f, 0x10, 16]);
    block.extend(b"application/grpc");
    let mut frame = vec![0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1];
    frame.extend(block);
    frame
}

/// Ends when the manager has ended the connection; gives back the kinds of the frames that came (7: GOAWAY).
async fn ended(mut stream: tokio_rustls::client::TlsStream<TcpStream>) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the connection ends");
    let mut kinds = Vec::new();
    let mut rest = &all[..];
    while rest.len() >= 9 {
        kinds.push(rest[3]);
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    kinds
}

#[tokio::test]
async fn whoever_answers_no_more_is_noticed_and_its_connection_ends() {
    let short = Duration::from_millis(300);
    let bed = bed(Limits { keep_alive: short, keep_alive_timeout: short, ..Limits::default() });
    let lively = bed.agent().await;
    let mut open = lively.agent().connect(stream::pending()).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    // It reads what comes, and answers no ping: as seen from here, like a machine whose cable was pulled. It has a call open.
    let mut silent = raw(&bed).await;
    silent.write_all(&headers("/sutler.v1.AgentService/Connect")).await.unwrap();
    assert!(ended(silent).await.contains(&6), "it was asked whether it is there");
    until_counted(&bed, "keep_alive_timeout").await;
    assert!(!lively.0.is_closed(), "whoever answers stays");
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_its_connection() {
    let bed = bed(Limits { frame: 16 << 10, ..Limits::default() });
    let mut stream = raw(&bed).await;
    let mut frame = (20_000_u32).to_be_bytes()[1..].to_vec();
    frame.extend([0xbb, 0, 0, 0, 0, 0]);
    frame.extend(vec![0; 20_000]);
    let _ = stream.write_all(&frame).await;
    assert!(ended(stream).await.contains(&7), "it is told so");
}

#[tokio::test]
async fn more_than_a_window_ahead_of_being_read_ends_a_connection() {
    let bed = bed(Limits { stream_window: 64 << 10, connection_window: 64 << 10, ..Limits::default() });
    let mut stream = raw(&bed).await;
    let mut bytes = headers("/sutler.v1.AgentService/Connect");
    for _ in 0..8 {
        bytes.extend([0, 0x3e, 0x80, 0, 0, 0, 0, 0, 1]);
        bytes.extend(vec![0; 16_000]);
    }
    let _ = stream.write_all(&bytes).await;
    let kinds = ended(stream).await;
    assert!(kinds.contains(&7), "{kinds:?}");
}

#[tokio::test]
async fn a_caller_whose_calls_break_the_protocol_loses_its_connection() {
    let bed = bed(Limits { error_resets: 10, ..Limits::default() });
    let mut stream = raw(&bed).await;
    let mut bytes = Vec::new();
    for n in 0..50_u32 {
        // A call whose headers have no path and an upper-case name, which HTTP/2 forbids.
        let block = [0x83, 0x00, 1, b'A', 1, b'b'];
        bytes.extend([0, 0, block.len() as u8, 1, 5]);
        bytes.extend((2 * n + 1).to_be_bytes());
        bytes.extend(block);
    }
    let _ = stream.write_all(&bytes).await;
    let kinds = ended(stream).await;
    assert!(kinds.contains(&7), "{kinds:?}");
}

#[tokio::test]
async fn more_calls_at_once_than_may_be_wait_at_the_caller() {
    let bed = bed(Limits { streams: 2, ..Limits::default() });
    let agent = bed.agent().await;
    // The manager's settings are known after the first answer.
    agent.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut one = agent.agent().connect(stream::pending()).await.unwrap().into_inner();
        one.message().await.unwrap().unwrap();
        open.push(one);
    }
    let mut third = agent.agent();
    let mut third = std::pin::pin!(third.renew_certificate(RenewCertificateRequest::default()));
    assert!(timeout(Duration::from_millis(200), &mut third).await.is_err(), "two calls are open");
}

#[tokio::test]
async fn who_does_not_read_holds_no_more_than_a_buffer() {
    let bed = bed(Limits { send_buffer: 16 << 10, ..Limits::default() });
    let mut stream = raw(&bed).await;
    // A call with an empty message, which is answered with eight of 256 KiB. The caller's window is 64 KiB, and nothing is read.
    stream.write_all(&headers("/sutler.v1.AgentService/ReadChunks")).await.unwrap();
    stream.write_all(&[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]).await.unwrap();
    let sent = || bed.metrics.bytes_sent.get_or_create(&crate::telemetry::metrics::Port { port: "agents" }).get();
    let first = async {
        while sent() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, first).await.expect("the first message is taken from the handler");
    bed.agent().await.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    assert!(sent() < 1 << 20, "{} bytes were taken from the handler although nobody reads", sent());
}
