//! The machine becomes a client once, stays the same client, and finds its manager wherever that goes.

use crate::{
    machine::{Machine, until},
    manager::{Manager, PATIENCE, Package, attempt},
};
use std::time::Duration;
use sutler_agent::{AgentError, identity::IdentityError, limits::Limits, link};
use sutler_base::{Timestamp, manifest::Phase, state::ExecutionState};
use sutler_certs::{
    CaBundle,
    tls::{self, ServerTrust},
};
use sutler_proto::v1::{self, connect_request::Message as Up, connect_response::Message as Down};

#[tokio::test]
async fn an_enrolment_whose_answer_was_lost_gives_the_same_client_again() {
    let manager = Manager::start().await;
    let machine = Machine::new();
    machine.enroll(&manager).await.unwrap();
    // As if the agent had been killed before it could store the answer: its key is there, its identity is not.
    let state = machine.state();
    let key = std::fs::read_to_string(state.join("credential.pem")).unwrap();
    let key = &key[..key.find("-----BEGIN CERTIFICATE").unwrap()];
    let begun = serde_json::json!({"token": manager.token().id, "key": key});
    std::fs::write(state.join("enrollment.json"), begun.to_string()).unwrap();
    std::fs::set_permissions(state.join("enrollment.json"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::remove_file(state.join("identity.json")).unwrap();
    machine.enroll(&manager).await.unwrap();
    assert_eq!(manager.clients().len(), 1);
}

#[tokio::test]
async fn a_second_enrolment_a_wrong_secret_and_a_manager_without_the_pinned_root_are_refused() {
    let manager = Manager::start().await;
    let machine = Machine::new();
    let mut wrong = manager.token();
    wrong.secret[0] ^= 1;
    let refused = machine.enroll_with(&wrong, false).await.unwrap_err();
    assert!(refused.to_string().contains("the token is not valid"), "{refused}");
    let impostor = Manager::start().await;
    let mut lured = manager.token();
    lured.addresses = impostor.token().addresses;
    assert!(machine.enroll_with(&lured, false).await.unwrap_err().to_string().contains("no trusted connection"));
    assert!(impostor.clients().is_empty(), "the secret was never shown to it");
    machine.enroll(&manager).await.unwrap();
    assert!(machine.enroll(&manager).await.unwrap_err().to_string().contains("enrolled already"));
    machine.enroll_with(&manager.token(), true).await.unwrap();
    assert_eq!(manager.clients().len(), 2, "--force makes it a new client");
}

#[tokio::test]
async fn without_its_pins_a_machine_must_enrol_again() {
    let manager = Manager::start().await;
    let machine = Machine::new();
    assert!(matches!(machine.try_agent().await, Err(AgentError::Identity(IdentityError::NotEnrolled))));
    machine.enroll(&manager).await.unwrap();
    std::fs::remove_file(machine.state().join("pins.json")).unwrap();
    assert!(matches!(machine.try_agent().await, Err(AgentError::Identity(IdentityError::PinsLost))));
    machine.enroll_with(&manager.token(), true).await.unwrap();
    assert!(machine.try_agent().await.is_ok());
}

#[tokio::test]
async fn the_agent_follows_its_manager_to_another_address_and_runs_nothing_twice() {
    let manager = Manager::start().await;
    let (mut machine, _handle) = Machine::connected(&manager).await;
    let log = machine.scratch().join("log");
    let package = Package::new("tool", "1.0", 1).file("x", "x").step("install", Phase::Install, &format!("echo run >> {}", log.display()));
    let item = manager.publish(&package);
    manager.offer(&attempt(1), vec![item.clone()], 600);
    manager.outcome(&attempt(1)).await;
    let elsewhere = manager.listen().await;
    manager.send(Down::Redirect(v1::Redirect { addresses: vec![elsewhere.clone()] }));
    manager.connected(2).await;
    assert_eq!(manager.sessions()[1].open_attempts.len(), 1, "the outcome was not recorded yet");
    manager.hears("the outcome again", |_| (manager.outcomes(&attempt(1)) >= 2).then_some(())).await;
    manager.offer(&attempt(1), vec![item], 600);
    manager.recorded(&attempt(1));
    // The new address outlives a restart, and the old one is not asked.
    machine.kill().await;
    assert!(std::fs::read_to_string(machine.state().join("addresses.json")).unwrap().contains(&elsewhere));
    machine.start().await;
    manager.connected(3).await;
    assert_eq!(machine.lines("log"), 1);
}

#[tokio::test]
async fn a_manager_that_says_nothing_is_asked_whether_it_is_there_and_left_when_it_does_not_answer() {
    let manager = Manager::start().await;
    let mut machine = Machine::new();
    machine.enroll(&manager).await.unwrap();
    machine.limits.keep_alive = Duration::from_millis(100);
    machine.limits.keep_alive_timeout = PATIENCE;
    machine.start().await;
    manager.connected(1).await;
    manager.pinged(5).await;
    assert_eq!(manager.sessions().len(), 1, "who answers is not left");
    machine.kill().await;
    machine.limits.keep_alive_timeout = Duration::from_millis(100);
    manager.falls_silent();
    let handle = machine.start().await;
    manager.connected(4).await;
    assert!(handle.status().await.is_ok());
}

#[tokio::test]
async fn a_handshake_may_take_as_long_as_its_own_limit_says_however_soon_silence_is_noticed() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ca = CaBundle::create(&"acme.example".parse().unwrap(), Timestamp::now()).unwrap();
    let config = tls::agent_client(None, &ServerTrust::of_bundle(&ca), tls::Clock::system()).unwrap();
    let short = Duration::from_millis(20);
    let limits = Limits { handshake: Duration::from_secs(1), keep_alive: short, keep_alive_timeout: short, ..Limits::default() };
    let begin = std::time::Instant::now();
    let error = link::connect_within(&silent.local_addr().unwrap().to_string(), config, &limits).await.unwrap_err();
    assert!(begin.elapsed() >= limits.handshake, "{error}");
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_and_the_old_one_kept_until_the_new_one_worked() {
    let manager = Manager::start().await;
    manager.set_validity(Duration::from_secs(4));
    let (machine, handle) = Machine::connected(&manager).await;
    manager.connected(2).await;
    let serials = manager.serials();
    assert_ne!(serials[0], serials[serials.len() - 1], "the second session is with the new certificate");
    until("the new certificate to be the one", || !machine.state().join("credential.next.pem").exists()).await;
    assert_eq!(manager.clients().len(), 1);
    assert!(handle.status().await.unwrap().connected.is_some());
}

#[tokio::test]
async fn a_client_that_was_removed_says_so_and_goes_on_asking() {
    let manager = Manager::start().await;
    let mut machine = Machine::new();
    machine.enroll(&manager).await.unwrap();
    manager.refuse(Some(tonic::Status::unauthenticated("the client was removed")));
    let handle = machine.start().await;
    let problem = async || handle.status().await.unwrap().problem;
    let waited = tokio::time::timeout(crate::manager::PATIENCE, async {
        while !problem().await.is_some_and(|p| p.contains("the client was removed")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("status says it");
    manager.refuse(None);
    // Whoever mended it need not wait for the next try.
    handle.run_now().await.unwrap();
    manager.connected(1).await;
}

#[tokio::test]
async fn a_request_that_was_made_offline_reaches_the_manager_and_leaving_ends_the_agent() {
    use sutler_agent::agent::Answer;
    let manager = Manager::start().await;
    let mut machine = Machine::new();
    machine.enroll(&manager).await.unwrap();
    manager.refuse(Some(tonic::Status::unavailable("not yet")));
    let handle = machine.start().await;
    assert_eq!(handle.join("lab".parse().unwrap(), "secret".into()).await.unwrap(), Answer::Queued);
    machine.kill().await;
    manager.refuse(None);
    let handle = machine.start().await;
    let join = |all: &[Up]| {
        all.iter().find_map(|m| match m {
            Up::Group(v1::GroupRequest { request_id, action: Some(v1::group_request::Action::Join(join)) }) => {
                Some((request_id.clone(), join.clone()))
            }
            _ => None,
        })
    };
    let (request_id, join) = manager.hears("the request", join).await;
    assert_eq!((join.group.as_str(), join.password.as_str()), ("lab", "secret"));
    manager.send(Down::Group(v1::GroupResult { request_id, error: String::new(), groups: vec!["lab".into()] }));
    let waited = tokio::time::timeout(crate::manager::PATIENCE, async {
        while !handle.status().await.unwrap().requests.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("the request is done");
    let leaving = tokio::spawn({
        let handle = handle.clone();
        async move { handle.unenroll().await }
    });
    manager.hears("the goodbye", |all| all.iter().any(|m| matches!(m, Up::Unenroll(_))).then_some(())).await;
    manager.send(Down::Unenrolled(v1::Unenrolled {}));
    assert_eq!(leaving.await.unwrap().unwrap(), Answer::Done { groups: vec![] });
    assert_eq!(machine.ended().await.unwrap(), sutler_agent::Ended::Unenrolled);
    assert!(matches!(machine.try_agent().await, Err(AgentError::Identity(IdentityError::NotEnrolled))));
}

#[tokio::test]
async fn an_outcome_that_nobody_confirmed_is_reported_on_the_next_connection() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let item = manager.publish(&Package::new("tool", "1.0", 1).file("x", "x"));
    manager.offer(&attempt(1), vec![item], 600);
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    manager.hang_up();
    manager.connected(2).await;
    manager.hears("the outcome again", |_| (manager.outcomes(&attempt(1)) >= 2).then_some(())).await;
    manager.recorded(&attempt(1));
    let journal = machine.state().join("attempts").join(attempt(1).as_str());
    until("the attempt to be forgotten", || !journal.exists()).await;
}
