//! The bounds on what is said to a manager, each gone over, at a real manager and with a real identity.

use sutler_base::limits;
use sutler_proto::v1::{self, connect_request::Message};
use sutler_tests::api_call;
use sutler_tests::harness::{Agent, Api, JobView, Manager, PATIENCE, PackageFolder, Proxy, Setup, wait_until};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) {
    let status = answer.expect_err("it is over the limit");
    let found = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    assert_eq!((status.code(), found.as_str()), (code, reason), "{status}");
}

#[test]
fn a_message_over_the_limit_is_refused_by_name_and_the_connection_lives_on() {
    let manager = Manager::start();
    let agent = Agent::enrolled("one", &manager);
    let operators = Api::operator(&manager);
    let group = |bytes| v1::CreateGroupRequest { group_id: "g".into(), description: "d".repeat(bytes), ..Default::default() };
    let created = api_call!(operators, group_service_client::GroupServiceClient, create_group(group(limits::OPERATOR_MESSAGE_MAX + 1)));
    refused(created, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    api_call!(operators, group_service_client::GroupServiceClient, create_group(group(10))).unwrap();

    let agents = Api::agent(&agent, &manager);
    let renewal = |bytes| v1::RenewCertificateRequest { csr: vec![0x30; bytes].into() };
    let renewed = api_call!(agents, agent_service_client::AgentServiceClient, renew_certificate(renewal(limits::AGENT_MESSAGE_MAX + 1)));
    refused(renewed, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let renewed = api_call!(agents, agent_service_client::AgentServiceClient, renew_certificate(renewal(100)));
    assert_eq!(renewed.expect_err("it is no request").code(), Code::InvalidArgument);
}

#[test]
fn facts_over_the_limit_end_the_session_that_brings_them_and_change_nothing() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::enrolled("one", &manager);
    wait_until("the facts to be known", PATIENCE, || cli.ok(&format!("client show {} -o json", agent.id())).contains("linux"));
    let before = cli.json(&format!("client show {}", agent.id()))["facts"].clone();
    agent.stop();
    let api = Api::agent(&agent, &manager);
    let hello = v1::Hello {
        protocol_version: sutler_proto::PROTOCOL_VERSION,
        machine_id: agent.machine_id().into(),
        session_counter: 1_000,
        ..Default::default()
    };
    let facts = v1::FactsReport { json: format!("{{\"hostname\": \"{}\"}}", "h".repeat(limits::FACTS_MAX)) };
    let messages = [Message::Hello(hello), Message::Facts(facts)].map(|message| v1::ConnectRequest { message: Some(message) });
    let ended: Result<(), Status> = api.call(|connection, origin| async move {
        let said = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
        let mut client = v1::agent_service_client::AgentServiceClient::with_origin(connection, origin);
        let mut stream = client.connect(said).await?.into_inner();
        while stream.message().await?.is_some() {}
        Ok(tonic::Response::new(()))
    });
    let status = ended.expect_err("the session ends");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("facts.json") && status.message().contains(&limits::FACTS_MAX.to_string()), "{status}");
    assert_eq!(cli.json(&format!("client show {}", agent.id()))["facts"], before);
}

#[test]
fn of_an_output_its_end_is_kept_and_how_much_is_missing_is_said() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::new("one");
    agent.configure("[limits]\noutput_tail = \"1KiB\"\n");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let package = PackageFolder::counting("talks", "1.0");
    package.file("bin/install", "#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' x\nprintf 'the end'\nexit 3\n");
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id(&format!("job run --package talks --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    let line = format!("job executions {job} --client {}", agent.id());
    let result = cli.json(&line)["attempts"][0]["items"][0].clone();
    let output = result["output"].as_str().unwrap();
    assert_eq!((output.len(), output.ends_with("xxthe end")), (1024, true), "{output}");
    assert_eq!(result["outputCutBytes"], (100_007 - 1024).to_string());
    assert!(cli.ok(&line).contains("output (its end; 98983 bytes before it were not kept):\n"), "{}", cli.ok(&line));
}

#[test]
fn balancers_that_the_command_line_names_say_who_calls_and_nobody_else_gets_in() {
    let line = Proxy::new();
    let manager = Manager::start_with(Setup { balancers: vec!["127.0.0.1".into()], advertise: vec![line.address()], ..Setup::default() });
    line.says_it_comes_from([192, 0, 2, 7].into());
    line.leads_to(manager.addresses().operators);
    manager.cli().fails(1, "client list --retry-for 0s");
    let cli = manager.cli().at(line.address());
    let token = cli.ok("token create --network 192.0.2.0/24");
    line.leads_to(manager.addresses().agents);
    let agent = Agent::new("one");
    agent.enroll(token.trim());
    line.leads_to(manager.addresses().operators);
    let log = cli.json(&format!("audit list --object clients/{}", agent.id()));
    let enrolled = log.as_array().unwrap().iter().find(|e| e["action"] == "enroll").unwrap();
    assert!(enrolled["detail"].as_str().unwrap().contains("from 192.0.2.7"), "{enrolled:#}");
    // The doctor, who comes from the balancer's address, is let in as well.
    let addresses = manager.addresses();
    let doctor = format!(
        "doctor --dir {} --agents {} --operators {} --telemetry {} --proxy-protocol-from 127.0.0.1",
        manager.folder().display(),
        addresses.agents,
        addresses.operators,
        addresses.telemetry
    );
    cli.ok(&doctor);
}
