//! Who reaches what.

use super::*;

/// Paths that exist somewhere, and some that don't.
const ELSEWHERE: [&str; 7] = [
    "/sutler.v1.AgentService/Connect",
    "/sutler.v1.OperatorService/GetSelf",
    "/sutler.v1.EnrollmentService/Nothing",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/no.such.Service/Method",
    "/",
    "/x",
];

#[tokio::test]
async fn nobody_reaches_enrolment_and_learns_of_nothing_else() {
    let bed = bed(Limits::default());
    let nobody = bed.nobody().await;
    let enrolled = nobody.newcomer().enroll(EnrollRequest::default()).await.unwrap();
    assert_eq!(enrolled.into_inner().client_id, "enrolled");
    let mut answers = std::collections::BTreeSet::new();
    for path in ELSEWHERE {
        answers.insert(nobody.raw(path, "application/grpc").await);
    }
    assert_eq!(answers.len(), 1, "one answer for all: {answers:#?}");
    let answer = answers.first().unwrap();
    assert!(answer.starts_with("200") && answer.contains("\"grpc-status\": \"12\"") && !answer.contains("grpc-message"), "{answer}");
}

#[tokio::test]
async fn an_agent_can_neither_enrol_nor_do_what_operators_do() {
    let bed = bed(Limits::default());
    // The agent's own router, as it is in the manager.
    let route = AgentsPort::new(
        Routes::new(EnrollmentServiceServer::new(Everything)),
        Routes::new(AgentServiceServer::new(Everything)),
        Routes::new(AgentServiceServer::new(Everything)),
    );
    let tls = tls::agents_port_server(&bed.ca, bed.shown.clone(), tls::AGENT_GRACE, bed.client_clock()).unwrap();
    let shared = Shared {
        limits: Arc::default(),
        trust_domain: bed.ca.trust_domain().clone(),
        metrics: bed.metrics.clone(),
        world: bed.world.clone(),
    };
    let port = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap().serve(Arc::new(tls.into()), route, 10, shared);
    let agent = Channel::open(port.address(), bed.agent_config("0123456789abcdef")).await.unwrap();
    let mut parts = agent.agent().read_chunks(ReadChunksRequest::default()).await.unwrap().into_inner();
    assert_eq!(parts.message().await.unwrap().unwrap().parts[0].data.len(), 1 << 18);
    assert_eq!(agent.newcomer().enroll(EnrollRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(agent.operator().get_self(GetSelfRequest {}).await.unwrap_err().code(), Code::Unimplemented);
    let mut answers = std::collections::BTreeSet::new();
    for path in &ELSEWHERE[1..] {
        answers.insert(agent.raw(path, "application/grpc").await);
    }
    assert_eq!(answers.len(), 1, "one answer for all: {answers:#?}");
}

#[tokio::test]
async fn an_operator_is_answered_while_all_that_serve_agents_are_busy() {
    let bed = bed(Limits::default());
    let (address, config) = (bed.operators.address(), bed.operator_config());
    let (answer, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = async { Channel::open(address, config).await.unwrap().operator().get_self(GetSelfRequest {}).await.is_ok() };
        answer.send(runtime.block_on(asked))
    });
    // Of this test's runtime, which serves the agents' port, the only thread does nothing but wait here.
    assert_eq!(answered.recv_timeout(PATIENCE), Ok(true));
}

#[tokio::test]
async fn an_open_stream_ends_with_the_certificate_of_whoever_opened_it() {
    let bed = bed(Limits::default());
    let config = bed.agent_config("0123456789abcdef");
    let validity = i64::try_from(sutler_certs::issue::AGENT_VALIDITY.as_millis()).unwrap();
    bed.clock.fetch_add(validity - 200, Ordering::SeqCst);
    let agent = Channel::open(bed.agents.address(), config).await.unwrap();
    let mut open = agent.agent().connect(stream::pending()).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    bed.clock.fetch_add(2000, Ordering::SeqCst);
    let ended = async { while let Ok(Some(_)) = open.message().await {} };
    timeout(PATIENCE, ended).await.expect("it does not outlive the certificate");
}

#[tokio::test]
async fn an_agent_whose_certificate_ended_can_renew_it_and_nothing_else_until_the_grace_is_over() {
    let bed = bed(Limits::default());
    let config = bed.agent_config("0123456789abcdef");
    bed.later(31);
    let late = Channel::open(bed.agents.address(), config.clone()).await.unwrap();
    late.agent().renew_certificate(RenewCertificateRequest::default()).await.unwrap();
    assert_eq!(late.agent().read_chunks(ReadChunksRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(late.newcomer().enroll(EnrollRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
    bed.later(90);
    let too_late = Channel::open(bed.agents.address(), config).await;
    let refused = match too_late {
        // With TLS 1.3 the client may be done before the manager has looked at its certificate.
        Ok(channel) => channel.agent().renew_certificate(RenewCertificateRequest::default()).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_certificate() {
    let bed = bed(Limits::default());
    let operator = bed.operator().await;
    operator.operator().get_self(GetSelfRequest {}).await.unwrap();
    bed.later(1);
    let refused = operator.operator().get_self(GetSelfRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("renew"), "{refused}");
}

#[tokio::test]
async fn the_operators_port_takes_operators_alone_and_an_ended_certificate_can_be_renewed() {
    let bed = bed(Limits::default());
    for config in [bed.nobody_config(), bed.agent_config("0123456789abcdef")] {
        let refused = match Channel::open(bed.operators.address(), config).await {
            Ok(channel) => channel.operator().get_self(GetSelfRequest {}).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
    }
    let config = bed.operator_config();
    let operator = Channel::open(bed.operators.address(), config.clone()).await.unwrap();
    assert_eq!(operator.operator().get_self(GetSelfRequest {}).await.unwrap().into_inner().name, "operator/ann");
    bed.later(20);
    let late = Channel::open(bed.operators.address(), config).await.unwrap();
    late.operator().renew_operator_certificate(RenewOperatorCertificateRequest::default()).await.unwrap();
    assert_eq!(late.operator().get_self(GetSelfRequest {}).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_managers_certificate_is_exchanged_while_connections_live_on() {
    let bed = bed(Limits::default());
    let leaf = async || {
        let socket = TcpStream::connect(bed.agents.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(bed.nobody_config()).connect(name, socket).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = leaf().await;
    bed.keeper.look(&bed.shown, &bed.world).unwrap();
    assert_eq!(leaf().await, first, "not due yet");
    let agent = bed.agent().await;
    bed.later(61);
    let late = bed.agent_config("aaaaaaaaaaaaaaaa");
    bed.keeper.look(&bed.shown, &bed.world).unwrap();
    assert_ne!(leaf().await, first);
    assert!(!agent.0.is_closed());
    Channel::open(bed.agents.address(), late).await.unwrap();
}
