//! The bounds on what is said to a manager and to an agent, each gone over, at real programs and with real identities.

use crate::access::callers::Bed;
use prost::Message as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sutler_agent::link::{self, LinkError};
use sutler_base::token::TokenString;
use sutler_certs::tls::{self, Clock, ServerTrust};
use sutler_certs::{Credential, PrivateKey};
use sutler_proto::v1::{self, connect_request::Message};
use sutler_tests::fleet::{self, Database};
use sutler_tests::harness::{Agent, Api, JobView, Manager, PATIENCE, PackageFolder, Proxy, Setup, wait_until};
use sutler_tests::{api_call, mutations};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Each limit of `[net]` in `manager.toml`, and the test that goes over it.
const NET: [(&str, &str); 27] = [
    ("handshake", "a_handshake_that_dawdles_is_given_up"),
    ("handshakes", "silent_and_slow_sockets_keep_no_newcomer_out"),
    ("handshake_patience", "a_handshake_that_keeps_the_manager_waiting_loses_its_place_to_one_who_waits"),
    ("silent_sockets", "of_too_many_silent_sockets_the_oldest_goes"),
    ("waiting_sockets", "of_too_many_the_last_of_the_longest_line_goes_or_the_newest"),
    ("silence", "a_connection_that_says_nothing_after_its_handshake_is_closed"),
    ("connections", "a_port_that_has_all_its_connections_closes_one_more"),
    ("connections_per_agent", "one_connection_too_many_closes_an_agents_oldest_and_tells_an_operator"),
    ("connections_per_operator", "one_connection_too_many_closes_an_agents_oldest_and_tells_an_operator"),
    ("anonymous_per_address", "callers_without_a_certificate_are_limited_by_address_and_agents_are_not"),
    ("anonymous_lifetime", "a_connection_without_a_certificate_does_not_last"),
    ("anonymous_bytes", "nobody_can_send_more_than_an_enrolment"),
    ("anonymous_call", "a_newcomer_that_sends_a_byte_at_a_time_is_told_that_it_takes_too_long"),
    ("unary_call", "a_unary_call_has_a_deadline_and_a_stream_has_its_callers"),
    ("keep_alive", "whoever_answers_no_more_is_noticed_and_its_connection_ends"),
    ("keep_alive_timeout", "whoever_answers_no_more_is_noticed_and_its_connection_ends"),
    ("streams", "more_calls_at_once_than_may_be_wait_at_the_caller"),
    ("headers", "more_headers_than_may_be_are_refused"),
    ("reset_streams", "a_flood_of_http2_ends_its_connection_and_nothing_else"),
    ("error_resets", "a_caller_whose_calls_break_the_protocol_loses_its_connection"),
    ("control_frames", "a_flood_of_http2_ends_its_connection_and_nothing_else"),
    ("frame", "a_frame_that_is_too_large_ends_its_connection"),
    ("stream_window", "more_than_a_window_ahead_of_being_read_ends_a_connection"),
    ("connection_window", "more_than_a_window_ahead_of_being_read_ends_a_connection"),
    ("send_buffer", "who_does_not_read_holds_no_more_than_a_buffer"),
    ("proxy_protocol_from", "behind_a_balancer_the_caller_is_who_the_balancer_says_and_nobody_else_can_say_so"),
    ("drain", "a_port_that_is_stopped_lets_calls_end_and_then_closes"),
];

/// The same of `[limits]` there.
const MANAGER: [(&str, &str); 32] = [
    ("enroll_message", "a_message_over_the_limit_is_refused_by_name_and_the_connection_lives_on"),
    ("agent_message", "a_message_over_the_limit_is_refused_by_name_and_the_connection_lives_on"),
    ("operator_message", "a_message_over_the_limit_is_refused_by_name_and_the_connection_lives_on"),
    ("facts", "facts_over_the_limit_end_the_session_that_brings_them_and_change_nothing"),
    ("lease", "what_was_canceled_at_a_machine_that_is_cut_off_never_starts_there_once_that_is_final"),
    ("open_attempts", "a_client_is_offered_no_more_work_at_a_time_than_it_may_have"),
    ("recheck", "a_revocation_on_one_manager_ends_the_open_stream_on_another"),
    ("revocations", "a_manager_that_cant_read_who_was_revoked_serves_nothing_and_keeps_its_streams"),
    ("agent_certificate", "certificates_are_renewed_again_and_again_and_nobody_is_locked_out"),
    ("agent_grace", "a_machine_that_slept_past_its_certificate_comes_back_as_its_manager_says"),
    ("operator_certificate", "an_operators_certificate_renews_itself_up_to_thirty_days_after_it_ended"),
    ("operator_grace", "an_operators_certificate_renews_itself_up_to_thirty_days_after_it_ended"),
    ("renewals", "a_stolen_key_gets_a_bounded_number_of_certificates_and_the_next_machine_is_not_held_up"),
    ("token", "a_token_lets_nobody_in_after_its_time"),
    ("request_memory", "an_answer_is_kept_for_whoever_asks_again_as_long_as_is_said_and_not_longer"),
    ("overdue", "a_client_that_is_silent_for_too_long_is_overdue_and_its_manager_says_how_long_that_is"),
    ("archive_after", "a_client_that_was_silent_for_too_long_is_archived_and_comes_back_with_its_groups"),
    ("audit_seal", "entries_leave_the_log_only_when_they_are_sealed_and_somebody_holds_them"),
    ("events", "events_go_when_they_are_too_old_and_a_cursor_before_them_is_refused"),
    ("events_max", "events_go_when_they_are_too_many_and_a_follower_never_takes_the_gap_for_silence"),
    ("logs", "of_the_logs_of_what_failed_the_oldest_go_first"),
    ("breaker_failures", "what_mostly_fails_over_many_jobs_is_ended_by_its_breaker"),
    ("breaker_attempts", "a_package_that_only_fails_opens_its_breaker_and_a_person_closes_it"),
    ("breaker_bytes", "what_is_fetched_in_vain_opens_a_breaker"),
    ("budget", "no_more_clients_go_within_an_hour_than_the_budget_has"),
    ("scrub_rate", "the_scrub_reads_no_faster_than_it_may"),
    ("scrub_every", "a_scrub_begins_when_the_last_one_is_long_enough_ago_and_not_before"),
    ("second_person_clients", "a_second_person_is_needed_from_both_bounds_of_the_configuration_on"),
    ("second_person_percent", "a_second_person_is_needed_from_both_bounds_of_the_configuration_on"),
    ("second_person_rest", "nobody_makes_a_second_person_of_himself_or_takes_those_away_who_are"),
    ("pending_approvals", "whoever_has_too_much_waiting_has_it_decided_first_and_what_was_not_agreed_to_is_not_kept"),
    ("disk_reserve", "a_full_disk_refuses_what_is_new_and_goes_on_with_revocations_and_renewals_until_there_is_room_again"),
];

/// The same of `[limits]` in `agent.toml`.
const AGENT: [(&str, &str); 14] = [
    ("reconnect", "pauses_are_of_any_length_up_to_a_bound_that_doubles_until_the_longest"),
    ("reconnect_most", "pauses_are_of_any_length_up_to_a_bound_that_doubles_until_the_longest"),
    ("connect", "an_agent_waits_for_no_manager_longer_than_it_may"),
    ("handshake", "an_agent_waits_for_no_manager_longer_than_it_may"),
    ("unary_call", "an_agent_waits_for_no_manager_longer_than_it_may"),
    ("keep_alive", "an_outcome_whose_answer_is_lost_is_told_again_and_counted_once"),
    ("keep_alive_timeout", "an_outcome_whose_answer_is_lost_is_told_again_and_counted_once"),
    ("stall", "a_transfer_that_stands_still_is_given_up_and_goes_on_where_it_was"),
    ("facts_interval", "a_steady_machine_says_nothing_a_changed_package_little_and_a_manager_that_lost_the_facts_gets_all"),
    ("agent_trial", "a_new_agent_that_cannot_connect_is_given_up_after_its_time_and_the_old_one_goes_on"),
    ("disk_reserve", "a_full_disk_at_the_client_is_found_before_the_download_and_reported"),
    ("disk_reserve_percent", "a_full_disk_at_the_client_is_found_before_the_download_and_reported"),
    ("journal_reserve", "a_disk_that_is_full_when_a_step_ends_keeps_no_outcome_from_being_recorded_and_reported"),
    ("output_tail", "of_an_output_its_end_is_kept_and_how_much_is_missing_is_said"),
];

/// The keys of a table, as its own error names them, are those of the list.
fn are_listed<T: DeserializeOwned>(table: &str, list: &[(&str, &str)], sources: &str) {
    let error = toml::from_str::<T>("no_such_limit = 1").err().expect("there is no such limit").to_string();
    let (_, keys) = error.split_once("expected one of").expect("the error lists the keys");
    let mut keys: Vec<_> = keys.split('`').skip(1).step_by(2).collect();
    let mut listed: Vec<_> = list.iter().map(|(limit, _)| *limit).collect();
    keys.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, keys, "{table}");
    for (limit, test) in list {
        assert!(sources.contains(&format!("fn {test}()")), "{table}, {limit}: there is no test {test}");
    }
}

#[test]
fn every_limit_has_a_test_that_goes_over_it() {
    let sources = mutations::sources();
    are_listed::<sutler::net::Limits>("[net] of the manager", &NET, &sources);
    are_listed::<sutler::config::Limits>("[limits] of the manager", &MANAGER, &sources);
    are_listed::<sutler_agent::limits::Limits>("[limits] of the agent", &AGENT, &sources);
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) {
    let status = answer.expect_err("it is over the limit");
    let found = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    assert_eq!((status.code(), found.as_str()), (code, reason), "{status}");
}

#[test]
fn a_message_over_the_limit_is_refused_by_name_and_the_connection_lives_on() {
    const SMALL: usize = 8 << 10;
    const LARGE: usize = 512 << 10;
    let config = "[limits]\nenroll_message = \"8KiB\"\nagent_message = \"512KiB\"\noperator_message = \"512KiB\"\n";
    let manager = Manager::start_with(Setup { config: config.into(), ..Setup::default() });
    let agent = Agent::enrolled("one", &manager);
    let operators = Api::operator(&manager);
    let group = |bytes| v1::CreateGroupRequest { group_id: "g".into(), description: "d".repeat(bytes), ..Default::default() };
    let created = api_call!(operators, group_service_client::GroupServiceClient, create_group(group(LARGE)));
    refused(created, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    api_call!(operators, group_service_client::GroupServiceClient, create_group(group(10))).unwrap();

    let agents = Api::agent(&agent, &manager);
    let renewal = |bytes| v1::RenewCertificateRequest { csr: vec![0x30; bytes].into() };
    let renewed = api_call!(agents, agent_service_client::AgentServiceClient, renew_certificate(renewal(LARGE)));
    refused(renewed, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let renewed = api_call!(agents, agent_service_client::AgentServiceClient, renew_certificate(renewal(100)));
    assert_eq!(renewed.expect_err("it is no request").code(), Code::InvalidArgument);

    let token = TokenString::parse(&manager.cli().ok("token create")).unwrap();
    let newcomer = Api::newcomer(&token);
    let enrolled = api_call!(newcomer, enrollment_service_client::EnrollmentServiceClient, enroll(application(&token, vec![0x30; SMALL])));
    refused(enrolled, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let key = PrivateKey::generate().unwrap();
    let good = application(&token, key.csr().unwrap());
    api_call!(newcomer, enrollment_service_client::EnrollmentServiceClient, enroll(good)).expect("the token is as good as it was");
}

/// What a machine with this token and this request for a certificate sends to be let in.
fn application(token: &TokenString, csr: Vec<u8>) -> v1::EnrollRequest {
    v1::EnrollRequest { token_id: token.id.to_string(), secret: token.secret.to_vec().into(), csr: csr.into(), ..Default::default() }
}

#[test]
fn facts_over_the_limit_end_the_session_that_brings_them_and_change_nothing() {
    const MOST: usize = 128 << 10;
    let manager = Manager::start_with(Setup { config: "[limits]\nfacts = \"128KiB\"\n".into(), ..Setup::default() });
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
    let facts = v1::FactsReport { json: format!("{{\"hostname\": \"{}\"}}", "h".repeat(MOST)), ..Default::default() };
    let messages = [Message::Hello(hello), Message::Facts(facts)].map(|message| v1::ConnectRequest { message: Some(message) });
    let ended: Result<(), Status> = api.call(|connection, origin| async move {
        let said = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
        let mut client = v1::agent_service_client::AgentServiceClient::with_origin(connection, origin);
        let mut stream = client.connect(said).await?.into_inner();
        let ended = async {
            while stream.message().await?.is_some() {}
            Ok(tonic::Response::new(()))
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the session ends")
    });
    let status = ended.expect_err("the session ends");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("facts.json") && status.message().contains(&MOST.to_string()), "{status}");
    assert_eq!(cli.json(&format!("client show {}", agent.id()))["facts"], before);
}

/// Counts its run, then waits for whoever opens a pipe of the machine.
const WAITS: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nread -r line <../../etc/go\n";

#[test]
fn a_client_is_offered_no_more_work_at_a_time_than_it_may_have() {
    let manager = Manager::start_with(Setup { config: "[limits]\nopen_attempts = 2\n".into(), ..Setup::default() });
    let cli = manager.cli();
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    agent.stop();
    let pipe = agent.root().join("etc/go");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let packages = ["first", "second", "third"].map(|name| PackageFolder::counting(name, "1.0"));
    let jobs = packages.each_ref().map(|package| {
        package.file("bin/install", WAITS);
        cli.ok(&format!("package push {}", package.path().display()));
        cli.id(&format!("job run --package {} --client {id}", package.name()))
    });
    agent.start();
    let state = |job: &String| JobView::of(&cli, job).row(&id).unwrap().state.clone();
    let open = || jobs.iter().filter(|job| !matches!(state(job).as_str(), "QUEUED" | "SUCCEEDED")).count();
    for done in 0..jobs.len() {
        // What is offered is offered in one go: nobody would be forgotten who had a place.
        wait_until("a step to run", PATIENCE, || jobs.iter().any(|job| state(job) == "INSTALLING"));
        let most = 2.min(jobs.len() - done);
        wait_until("the places to be taken", PATIENCE, || open() == most);
        fs_err::write(&pipe, "go\n").unwrap();
        wait_until("the step to have ended", PATIENCE, || jobs.iter().filter(|job| state(job) == "SUCCEEDED").count() > done);
    }
}

#[test]
fn a_token_lets_nobody_in_after_its_time() {
    let mut bed = Bed::tuned(Database::Sqlite, |config| config.limits.token = Duration::from_secs(60));
    let tokens = [0; 2].map(|_| bed.token(v1::CreateEnrollmentTokensRequest::default()));
    let newcomer = bed.at_agents(None).unwrap();
    let enroll = |token: &TokenString| {
        let application = application(token, PrivateKey::generate().unwrap().csr().unwrap());
        bed.call(&newcomer, "/sutler.v1.EnrollmentService/Enroll", application.encode_to_vec().into())
    };
    bed.manager.step_clock(50_000);
    enroll(&tokens[0]).unwrap();
    bed.manager.step_clock(10_001);
    assert_eq!(enroll(&tokens[1]).unwrap_err().code(), Code::Unauthenticated);
}

#[test]
fn the_scrub_reads_no_faster_than_it_may() {
    let manager = Manager::start_with(Setup { config: "[limits]\nscrub_rate = \"512KiB\"\n".into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("large", "1.0");
    package.noise("noise", 2 << 20, 1);
    cli.ok(&format!("package push {}", package.path().display()));
    let begun = Instant::now();
    cli.ok("content scrub --wait");
    assert!(begun.elapsed() >= Duration::from_secs(4), "two MiB were read in {:?}", begun.elapsed());
}

#[test]
fn a_scrub_begins_when_the_last_one_is_long_enough_ago_and_not_before() {
    let every = Duration::from_secs(3600);
    let mut manager = fleet::Manager::tuned(Database::Sqlite, None, |config| config.limits.scrub_every = every);
    let scrub = |manager: &fleet::Manager| {
        let state = manager.app().scrub.state();
        (state.round, state.ended_ms.is_some())
    };
    wait_until("the first scrub to end", PATIENCE, || scrub(&manager) == (1, true));
    for (later, round) in [(3_500_000, 1), (200_000, 2)] {
        manager.stop();
        manager.step_clock(later);
        manager.start_again();
        wait_until("what is due to have been looked at", PATIENCE, || scrub(&manager) == (round, true));
    }
}

#[test]
fn an_agent_waits_for_no_manager_longer_than_it_may() {
    let manager = Manager::start();
    let mut agent = Agent::new("one");
    agent.configure("[limits]\nunary_call = \"300ms\"\nreconnect = \"100ms\"\n");
    agent.enroll(manager.cli().ok("token create").trim());
    let credential = Credential::load(&manager.folder().join("server/identity.pem")).unwrap();

    // Nobody takes the connection, nobody shakes hands.
    let full = Full::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let trust =
        ServerTrust::from_root(&sutler_certs::pem::parse_chain(&fs_err::read(manager.folder().join("ca/root.pem")).unwrap()).unwrap()[0])
            .unwrap();
    let tls = tls::agent_client(None, &trust, Clock::system()).unwrap();
    let limits =
        sutler_agent::limits::Limits { connect: Duration::from_millis(100), handshake: Duration::from_millis(100), ..Default::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connect = |address: String| {
        let begun = Instant::now();
        let error = runtime.block_on(link::connect_within(&address, tls.clone(), &limits)).expect_err("nobody is there");
        assert!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
        error
    };
    let late = |e: &std::io::Error| e.kind() == std::io::ErrorKind::TimedOut;
    assert!(matches!(connect(full.address()), LinkError::Tcp { source, .. } if late(&source)));
    assert!(matches!(connect(mute.local_addr().unwrap().to_string()), LinkError::Tls { source, .. } if late(&source)));

    // The handshake is done, and nobody says welcome.
    let speechless = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = speechless.local_addr().unwrap().to_string();
    std::thread::spawn(move || take_and_say_nothing(&speechless, &credential));
    let addresses = agent.state().join("addresses.json");
    let own = fs_err::read_to_string(&addresses).unwrap();
    fs_err::write(&addresses, own.replace(&manager.addresses().agents.to_string(), &address)).unwrap();
    agent.start();
    wait_until("the agent to have waited long enough", Duration::from_secs(20), || {
        agent.status()["problem"].as_str().is_some_and(|why| why.contains("in time"))
    });
}

/// A port whose queue of connections is full, so that nobody is connected.
struct Full {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Full {
    fn new() -> Full {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        Full { listener, _queue: std::iter::from_fn(connect).collect() }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }
}

/// Shakes hands with whoever comes, as the manager with this credential, and reads on without an answer.
fn take_and_say_nothing(listener: &TcpListener, credential: &Credential) {
    let key = PrivateKeyDer::try_from(credential.key.to_pkcs8().to_vec()).unwrap();
    let chain: Vec<CertificateDer<'static>> = credential.chain.clone();
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    for socket in listener.incoming().map_while(Result::ok) {
        let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), socket);
        let _ = stream.read_to_end(&mut Vec::new());
    }
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
