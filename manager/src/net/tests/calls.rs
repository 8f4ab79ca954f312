//! What becomes of calls: deadlines, panics, sizes, the end of the port.

use super::*;

#[tokio::test]
async fn a_panic_is_internal_for_its_caller_and_the_connection_lives_on() {
    let bed = bed(Limits::default());
    let operator = bed.operator().await;
    for what in ["panic", "secret"] {
        let status = operator.operator().get_self(asking(what)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains("incident") && !status.message().contains("1234"), "{status}");
    }
    operator.operator().get_self(GetSelfRequest {}).await.unwrap();
    let agent = bed.agent().await;
    let request = ReadChunksRequest { attempt: "panic".into(), ..Default::default() };
    let mut parts = agent.agent().read_chunks(request).await.unwrap().into_inner();
    parts.message().await.unwrap().unwrap();
    assert_eq!(parts.message().await.unwrap_err().code(), Code::Internal);
    agent.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    assert_eq!(bed.metrics.panics.get(), 2);
}

#[tokio::test]
async fn a_message_that_is_too_large_exhausts_a_resource_and_an_unreadable_one_is_invalid() {
    let bed = bed(Limits::default());
    let operator = bed.operator().await;
    let request = RenewOperatorCertificateRequest { csr: vec![0; 65 << 10].into() };
    let status = operator.operator().renew_operator_certificate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let empty = operator.raw("/sutler.v1.OperatorService/GetSelf", "application/grpc").await;
    assert!(empty.contains("\"grpc-status\": \"3\""), "{empty}");
    let from_a_browser = operator.raw("/sutler.v1.OperatorService/GetSelf", "text/plain").await;
    assert!(from_a_browser.starts_with("415"), "{from_a_browser}");
}

#[tokio::test]
async fn a_unary_call_has_a_deadline_and_a_stream_has_its_callers() {
    let bed = bed(Limits { unary_call: Duration::from_millis(100), ..Limits::default() });
    let operator = bed.operator().await;
    let status = timeout(PATIENCE, operator.operator().get_self(asking("hang"))).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let agent = bed.agent().await;
    let mut open = agent.agent().connect(stream::pending()).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    assert!(timeout(Duration::from_millis(300), open.message()).await.is_err(), "the stream stays open");
    let mut request = tonic::Request::new(stream::pending());
    // Long enough for the first message on a busy machine.
    request.set_timeout(Duration::from_secs(2));
    let mut timed = agent.agent().connect(request).await.unwrap().into_inner();
    timed.message().await.unwrap().unwrap();
    let status = timeout(PATIENCE, timed.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn a_port_that_is_stopped_lets_calls_end_and_then_closes() {
    let bed = bed(Limits::default());
    let agent = bed.agent().await;
    let mut open = agent.agent().connect(stream::pending()).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    let idle = bed.nobody().await;
    let _silent = TcpStream::connect(bed.agents.address()).await.unwrap();
    let address = bed.agents.address();
    timeout(PATIENCE, bed.agents.stop(Duration::from_millis(200))).await.unwrap();
    idle.closed().await;
    agent.closed().await;
    assert!(open.message().await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn nobody_can_send_more_than_an_enrolment() {
    let bed = bed(Limits::default());
    let nobody = bed.nobody().await;
    let endless = stream::repeat_with(|| Ok::<_, Status>(http_body::Frame::data(bytes::Bytes::from_static(&[0; 5000]))));
    let request = Request::post("https://manager/sutler.v1.EnrollmentService/Enroll")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let body = Body::new(http_body_util::StreamBody::new(endless));
    let response = timeout(PATIENCE, nobody.0.clone().send_request(request.body(body).unwrap())).await.unwrap().unwrap();
    assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::ResourceExhausted);
}
