//! Who is a client: renewed, copied, restored, replaced, revoked.

use rustls::pki_types::CertificateDer;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sutler_certs::CaBundle;
use sutler_certs::ca::Authority;
use sutler_certs::tls::{self, ServerTrust};
use sutler_proto::v1;
use sutler_tests::harness::{
    Agent, Api, Cli, JobView, Line, Manager, PATIENCE, PackageFolder, Proxy, Row, Setup, wait_for_value, wait_until,
};
use sutler_tests::postgres::Postgres;
use sutler_tests::tools;
use tonic::Status;

/// A revocation takes effect within this time on every manager.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// The table of limits in `manager.toml`.
fn table(limits: &str) -> String {
    if limits.is_empty() { String::new() } else { format!("[limits]\n{limits}") }
}

fn with_limits(limits: &str) -> Manager {
    Manager::start_with(Setup { config: table(limits), ..Setup::default() })
}

fn state(cli: &Cli, client: &str) -> String {
    cli.json(&format!("client show {client}"))["state"].as_str().unwrap_or_default().to_owned()
}

fn wait_for_state(cli: &Cli, client: &str, wanted: &str) {
    wait_for_value("the client's state", PATIENCE, || state(cli, client), |state| state == wanted);
}

/// Copies a machine's state to another one, as an image of its disk would.
fn copy(from: &Path, to: &Path) {
    let _ = fs_err::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

fn is_connected(agent: &Agent) -> bool {
    !agent.status()["connected"].is_null()
}

/// The key and certificates that the machine shows.
fn credential(agent: &Agent) -> Vec<u8> {
    fs_err::read(agent.state().join("credential.pem")).unwrap_or_default()
}

fn standing_job(cli: &Cli, group: &str) -> (PackageFolder, String) {
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok(&format!("group create {group}"));
    let job = cli.id(&format!("job run --package hello --group {group}"));
    (package, job)
}

#[test]
fn a_copied_machine_is_noticed_both_are_shown_and_one_command_sorts_them() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut original = Agent::enrolled("original", &manager);
    let client = original.id();
    original.kill();
    let mut copied = Agent::new("copied");
    copy(&original.state(), &copied.state());
    original.start();
    wait_until("the original to be back", PATIENCE, || is_connected(&original));
    assert_eq!(state(&cli, &client), "CLIENT_STATE_ACTIVE", "a machine that was killed and started again is no copy");

    copied.start();
    wait_for_state(&cli, &client, "CLIENT_STATE_QUARANTINED");
    let shown = cli.json(&format!("client show {client}"));
    let machines: Vec<_> = shown["machines"].as_array().unwrap().iter().map(|m| m["machineId"].as_str().unwrap()).collect();
    assert!(machines.contains(&original.machine_id()) && machines.contains(&copied.machine_id()), "{shown:#}");
    let explained = cli.ok(&format!("client explain {client}"));
    assert!(explained.contains(&format!("sutler client approve {client} --machine {}", original.machine_id())), "{explained}");
    let (_package, job) = standing_job(&cli, "machines");
    cli.ok(&format!("group add machines {client}"));

    // A machine that nobody saw is none of the two.
    cli.fails(1, &format!("client approve {client} --machine nobody"));
    cli.ok(&format!("client approve {client} --machine {}", original.machine_id()));
    original.ok("run-now");
    let row = JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    assert_eq!(row.attempts, 1);
    assert_eq!(original.read("opt/hello.runs").as_deref(), Some("run\n"));
    // The original has a key of its own; what the copy has is refused, and doesn't bring the client down again.
    wait_for_value(
        "the machines to be sorted",
        PATIENCE,
        || cli.json(&format!("client show {client}")),
        |c| c["machines"].as_array().is_some_and(Vec::is_empty),
    );
    let refused = |agent: &Agent| {
        agent.run("run-now");
        agent.log().contains("refuses this machine (CERTIFICATE_REVOKED)")
    };
    wait_until("the copy to be refused", PATIENCE, || refused(&copied));
    assert_eq!(state(&cli, &client), "CLIENT_STATE_ACTIVE");
    assert!(copied.read("opt/hello.runs").is_none());

    // It enrols anew, as another client.
    copied.kill();
    let token = copied.scratch().join("token");
    fs_err::write(&token, cli.ok("token create")).unwrap();
    fs_err::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    copied.ok(&format!("enroll --force --token-file {}", token.display()));
    copied.start();
    assert_ne!(copied.id(), client);
    wait_until("the copy to be a client of its own", PATIENCE, || is_connected(&copied));
    assert!(is_connected(&original));
    assert_eq!(state(&cli, &client), "CLIENT_STATE_ACTIVE");
}

#[test]
fn a_copy_that_speaks_only_when_it_was_sorted_out_is_refused_and_changes_nothing() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut original = Agent::enrolled("original", &manager);
    let client = original.id();
    wait_until("the original to be known", PATIENCE, || is_connected(&original));
    original.stop();
    let mut copied = Agent::new("copied");
    copy(&original.state(), &copied.state());
    copied.start();
    wait_for_state(&cli, &client, "CLIENT_STATE_QUARANTINED");
    copied.stop();

    // Its stream is open, with a certificate that is good so far; what it says comes when the original has one of its own.
    let api = Api::agent(&copied, &manager);
    let (others, id) = (manager.cli(), client.clone());
    let ended: Result<(), Status> = api.call(|connection, origin| async move {
        let (say, said) = tokio::sync::mpsc::channel(1);
        let mut agents = v1::agent_service_client::AgentServiceClient::with_origin(connection, origin);
        let stream = tokio::spawn(async move { agents.connect(tokio_stream::wrappers::ReceiverStream::new(said)).await });
        let sorted = tokio::task::spawn_blocking(move || {
            others.ok(&format!("client approve {id} --machine {}", original.machine_id()));
            original.start();
            wait_for_value(
                "the machines to be sorted",
                PATIENCE,
                || others.json(&format!("client show {id}")),
                |c| c["machines"].as_array().is_some_and(Vec::is_empty),
            );
            original.stop();
        });
        sorted.await.unwrap();
        let hello = v1::Hello {
            protocol_version: sutler_proto::PROTOCOL_VERSION,
            machine_id: "another".into(),
            session_counter: 1_000,
            ..Default::default()
        };
        let _ = say.send(v1::ConnectRequest { message: Some(v1::connect_request::Message::Hello(hello)) }).await;
        stream.await.unwrap().map(|_| tonic::Response::new(()))
    });
    let refused = ended.expect_err("what it has was revoked");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused:?}");
    assert_eq!(state(&cli, &client), "CLIENT_STATE_ACTIVE", "{refused:?}");
    assert!(cli.json(&format!("client show {client}"))["machines"].as_array().is_none_or(Vec::is_empty));
}

#[test]
fn a_restored_snapshot_is_noticed_and_let_in_again_with_one_command() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::enrolled("machine", &manager);
    let client = agent.id();
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    agent.kill();
    let snapshot = agent.scratch().join("snapshot");
    copy(&agent.state(), &snapshot);
    agent.start();
    wait_until("the machine to be back", PATIENCE, || is_connected(&agent));
    agent.kill();
    copy(&snapshot, &agent.state());
    agent.start();
    wait_for_state(&cli, &client, "CLIENT_STATE_QUARANTINED");
    let notice = cli.json(&format!("client show {client}"))["notice"].as_str().unwrap().to_owned();
    assert!(notice.contains("restored from a snapshot"), "{notice}");
    cli.ok(&format!("client approve {client} --machine {}", agent.machine_id()));
    let (_package, job) = standing_job(&cli, "machines");
    cli.ok(&format!("group add machines {client}"));
    agent.ok("run-now");
    JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    // With a key of its own: what else was made from the snapshot is refused.
    let mut other = Agent::new("other");
    copy(&snapshot, &other.state());
    other.start();
    wait_until("the other one to be refused", PATIENCE, || other.log().contains("CERTIFICATE_REVOKED"));
    assert_eq!(state(&cli, &client), "CLIENT_STATE_ACTIVE");
}

#[test]
fn a_replaced_machine_is_the_same_client_and_gets_its_software_again() {
    let manager = Manager::start();
    let cli = manager.cli();
    let (_package, job) = standing_job(&cli, "machines");
    let old = Agent::enrolled("old", &manager);
    let client = old.id();
    cli.ok(&format!("group add machines {client}"));
    cli.ok(&format!("client label set {client} room=12"));
    JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");

    let token = cli.ok(&format!("token create --replaces {client}"));
    assert!(is_connected(&old), "the token alone changes nothing");
    let mut new = Agent::new("new");
    new.enroll(token.trim());
    assert_eq!(new.id(), client);
    // Whoever has the old key is cut off, with the stream that it had open.
    wait_until("the old machine to be cut off", REVOKED_WITHIN, || !is_connected(&old));
    wait_until("the old machine to be refused", PATIENCE, || {
        old.run("run-now");
        old.log().contains("CERTIFICATE_REVOKED")
    });
    new.start();
    // Rows and counters are read one after the other.
    JobView::wait(&cli, &job, "the software to be installed again", PATIENCE, |view| {
        let again = |row: &Row| row.state == "SUCCEEDED" && row.attempts == 2;
        view.row(&client).is_some_and(again) && view.counters() == "total=1 finished=1"
    });
    assert_eq!(new.read("opt/hello.runs").as_deref(), Some("run\n"));
    let shown = cli.json(&format!("client show {client}"));
    assert_eq!((&shown["groups"][0], &shown["labels"]["room"]), (&"groups/machines".into(), &"12".into()), "{shown:#}");
    assert!(shown["replaceTime"].is_string() && shown["state"] == "CLIENT_STATE_ACTIVE", "{shown:#}");
    // It was for one use.
    assert_ne!(Agent::new("third").try_enroll(token.trim()).code, 0);
    let audit = cli.ok("audit list");
    assert!(audit.contains("replace_machine"), "{audit}");
    // Nothing but such a token takes a client over.
    let other = Agent::enrolled("other", &manager);
    assert_ne!(other.id(), client);
    cli.ok(&format!("client remove {client} --yes"));
    cli.fails(1, &format!("token create --replaces {client}"));
}

#[test]
fn certificates_are_renewed_again_and_again_and_nobody_is_locked_out() {
    let mut manager = with_limits("agent_certificate = \"6s\"");
    let cli = manager.cli();
    let mut agent = Agent::enrolled("machine", &manager);
    let client = agent.id();
    let mut seen = vec![credential(&agent)];
    for round in 0..4 {
        // Killed on the way, either of the two: whatever was on its way is lost.
        match round {
            1 => agent.kill_and_start(),
            2 => manager.kill_and_serve(),
            _ => {}
        }
        wait_until("the next key to be in use", PATIENCE, || !seen.contains(&credential(&agent)));
        seen.push(credential(&agent));
    }
    assert_eq!(state(&cli, &client), "CLIENT_STATE_ACTIVE");
    let (_package, job) = standing_job(&cli, "machines");
    cli.ok(&format!("group add machines {client}"));
    JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
}

#[test]
fn a_snapshot_from_before_a_renewal_is_noticed_too() {
    let manager = with_limits("agent_certificate = \"40s\"");
    let cli = manager.cli();
    let mut agent = Agent::enrolled("machine", &manager);
    let client = agent.id();
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    agent.kill();
    let snapshot = agent.scratch().join("snapshot");
    copy(&agent.state(), &snapshot);
    agent.start();
    let old = fs_err::read(snapshot.join("credential.pem")).unwrap();
    wait_until("the next key to be in use", PATIENCE, || fs_err::read(agent.state().join("credential.pem")).is_ok_and(|c| c != old));
    agent.kill();
    copy(&snapshot, &agent.state());
    agent.start();
    wait_for_state(&cli, &client, "CLIENT_STATE_QUARANTINED");
    let notice = cli.json(&format!("client show {client}"))["notice"].as_str().unwrap().to_owned();
    assert!(notice.contains("showed a certificate that it had replaced"), "{notice}");
    cli.ok(&format!("client approve {client} --machine {}", agent.machine_id()));
    wait_until("the machine to be let in again", PATIENCE, || {
        agent.run("run-now");
        is_connected(&agent)
    });
    assert_eq!(state(&cli, &client), "CLIENT_STATE_ACTIVE");
}

#[test]
fn a_machine_that_slept_past_its_certificate_comes_back_as_its_manager_says() {
    let limits = |policy: &str, grace: &str| Setup {
        config: table(&format!("agent_certificate = \"5s\"\nagent_grace = \"{grace}\"")),
        expired_agents: Some(policy.into()),
        ..Setup::default()
    };
    let policies = [("automatic", "1h"), ("approved", "1h"), ("off", "1h"), ("automatic", "1s")];
    let managers: Vec<Manager> = policies.iter().map(|(policy, grace)| Manager::start_with(limits(policy, grace))).collect();
    let mut agents: Vec<Agent> = managers.iter().map(|manager| Agent::enrolled("sleeper", manager)).collect();
    for agent in &mut agents {
        wait_until("the machine to be connected", PATIENCE, || is_connected(agent));
        agent.stop();
    }
    // One whose client is removed while it sleeps.
    let mut gone = Agent::enrolled("gone", &managers[0]);
    wait_until("the machine to be connected", PATIENCE, || is_connected(&gone));
    gone.stop();
    managers[0].cli().ok(&format!("client remove {} --yes", gone.id()));
    let asleep = Instant::now();
    wait_until("the certificates, and the short grace, to be over", PATIENCE, || asleep.elapsed() > Duration::from_secs(8));
    agents.iter_mut().for_each(Agent::start);
    gone.start();
    let id = |n: usize| agents[n].id();
    wait_until("the machine to be back by itself", PATIENCE, || is_connected(&agents[0]));
    assert_eq!(state(&managers[0].cli(), &id(0)), "CLIENT_STATE_ACTIVE");

    let (renewed, refused) = ("had ended and was renewed", "could not be renewed");
    wait_until("the removed machine to have asked", PATIENCE, || [renewed, refused].iter().any(|said| gone.log().contains(said)));
    assert!(gone.log().contains(refused), "{}", gone.log());

    let asking = || state(&managers[1].cli(), &id(1)) != "CLIENT_STATE_ACTIVE" || is_connected(&agents[1]);
    wait_until("the machine to have asked", PATIENCE, asking);
    assert_eq!(state(&managers[1].cli(), &id(1)), "CLIENT_STATE_PENDING");
    managers[1].cli().ok(&format!("client approve {}", id(1)));
    wait_for_state(&managers[1].cli(), &id(1), "CLIENT_STATE_ACTIVE");
    wait_until("the machine to be back after the approval", PATIENCE, || is_connected(&agents[1]));

    for n in [2, 3] {
        wait_until("the machine to be refused", PATIENCE, || agents[n].log().contains(refused));
        assert!(!is_connected(&agents[n]), "{:?}", policies[n]);
        // Who comes too late has shown its key, so that it is known who it is: that stands in the audit log, and not without end.
        let refusals = || {
            let audit = managers[n].cli().json(&format!("audit list --object clients/{}", id(n)));
            assert!(!audit.to_string().contains("renew_expired_certificate"), "{audit:#}");
            let refused = |e: &&serde_json::Value| e["action"] == "certificate_refused" && e["actor"] == format!("clients/{}", id(n));
            audit.as_array().unwrap().iter().filter(refused).cloned().collect::<Vec<_>>()
        };
        let noted = wait_for_value("the refusal in the audit log", PATIENCE, &refusals, |noted| !noted.is_empty());
        assert!(noted[0]["detail"].as_str().unwrap().contains("ended at"), "{noted:#?}");
    }
}

#[test]
fn issuing_cas_are_rolled_over_while_everything_runs_and_nobody_is_refused() {
    let mut manager = with_limits("agent_certificate = \"8s\"");
    let cli = manager.cli();
    let mut agent = Agent::enrolled("machine", &manager);
    let early = cli.ok("token create");
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    // The root's key is elsewhere.
    let root_key = manager.scratch().join("root.key");
    fs_err::rename(manager.folder().join("ca/root.key"), &root_key).unwrap();
    let old = fs_err::read_to_string(manager.folder().join("ca/agents.pem")).unwrap();
    let folder = manager.folder();
    let other_key = manager.folder().join("ca/agents.key");
    cli.fails(1, &format!("ca rotate --dir {} --root-key {}", folder.display(), other_key.display()));
    cli.ok(&format!("ca rotate --dir {} --root-key {}", folder.display(), root_key.display()));
    let new = fs_err::read_to_string(manager.folder().join("ca/agents.pem")).unwrap();
    assert_ne!(old, new);
    let issued_by_the_new =
        |agent: &Agent| fs_err::read_to_string(agent.state().join("credential.pem")).is_ok_and(|c| c.contains(new.trim()));
    assert!(!issued_by_the_new(&agent));
    wait_until("the next certificate to be one of the new CA", PATIENCE, || issued_by_the_new(&agent));
    // The operator's certificate is one of the CA before; a token of before lets a machine in.
    let late = Agent::new("late");
    late.enroll(early.trim());
    assert!(issued_by_the_new(&late));
    assert_eq!(state(&cli, &agent.id()), "CLIENT_STATE_ACTIVE");
    for log in [agent.log(), late.log()] {
        assert!(!log.contains("refuses") && !log.contains("no trusted connection"), "{log}");
    }
    // The same after a restart, and once more.
    manager.kill_and_serve();
    cli.ok(&format!("ca rotate --dir {} --root-key {}", folder.display(), root_key.display()));
    agent.kill_and_start();
    wait_until("the machine to be back", PATIENCE, || is_connected(&agent));
    cli.ok("client list");
    assert!(!manager.folder().join("ca/root.key").exists());
}

#[test]
fn the_managers_own_certificate_is_rolled_over_without_a_restart_and_nobody_is_refused() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let (_package, job) = standing_job(&cli, "machines");
    let early = cli.ok("token create");
    let mut agent = Agent::enrolled("machine", &manager);
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    let (pid, folder) = (manager.pid(), manager.folder());
    let ca = || CaBundle::load(&folder.join("ca")).unwrap();
    let (before, trust_domain) = (ca().certificate(Authority::Servers).clone(), ca().trust_domain().clone());
    // Who trusts one servers CA and nothing else gets through to a manager with a certificate of that one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = manager.addresses().agents.to_string();
    let shows = |anchor: &CertificateDer<'static>| {
        let trust = ServerTrust::Anchors { anchors: vec![anchor.clone()], trust_domain: trust_domain.clone() };
        let tls = tls::agent_client(None, &trust, tls::Clock::system()).unwrap();
        runtime.block_on(sutler_agent::link::connect(&address, tls)).is_ok()
    };
    assert!(shows(&before));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // An operator and newcomers who come all the while.
        let operator = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cli.ok("group list");
            }
        });
        let newcomers = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Agent::new("newcomer").enroll(cli.ok("token create").trim());
            }
        });
        let over = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                cli.ok(&format!("ca rotate --dir {0} --root-key {0}/ca/root.key", folder.display()));
                let after = ca().certificate(Authority::Servers).clone();
                wait_until("the manager to show a certificate of the new CA", PATIENCE, || shows(&after));
                assert!(!shows(&before));
            }
        }));
        done.store(true, Ordering::Relaxed);
        operator.join().unwrap();
        newcomers.join().unwrap();
        over.unwrap();
    });
    assert!(manager.is_running() && manager.pid() == pid);
    // On the connection that it had all the while.
    cli.ok(&format!("group add machines {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!(agent.log().lines().filter(|line| line.contains(" connected ")).count(), 1, "{}", agent.log());
    // And on new ones, with what was given out before.
    Agent::new("late").enroll(early.trim());
    agent.kill_and_start();
    wait_until("the machine to be back", PATIENCE, || is_connected(&agent));
    assert!(!agent.log().contains("no trusted connection"), "{}", agent.log());
}

/// Two managers on one database, which tell agents of both.
fn two_managers(postgres: &Postgres, limits: &str) -> (Manager, Manager) {
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (here, there) = (port(), port());
    let setup = |agents: std::net::SocketAddr, other: std::net::SocketAddr| Setup {
        agents: agents.to_string(),
        advertise: vec![agents.to_string(), other.to_string()],
        config: table(limits),
        ..Setup::default()
    };
    let first = Manager::start_with(Setup { database: Some(postgres.create_database()), ..setup(here, there) });
    let second = Manager::joining(&first, setup(there, here));
    (first, second)
}

#[test]
fn a_revocation_on_one_manager_ends_the_open_stream_on_another() {
    let Some(postgres) = Postgres::shared() else { return };
    let (first, second) = two_managers(postgres, "");
    let (cli, there) = (first.cli(), first.cli().at(second.addresses().operators.to_string()));
    let mut agents: Vec<Agent> = ["one", "two"].iter().map(|name| Agent::new(name)).collect();
    for agent in &mut agents {
        agent.enroll(there.ok("token create").trim());
        agent.start();
        wait_until("the machine to be connected", PATIENCE, || is_connected(agent));
        assert!(agent.status()["connected"].to_string().contains(&second.addresses().agents.to_string()), "{}", agent.status());
    }
    let said = |agent: &Agent, word: &str| agent.status().to_string().contains(word);
    let id = agents[0].id();
    cli.ok(&format!("client quarantine {id} --reason test"));
    wait_until("the quarantine to be known at the other manager", REVOKED_WITHIN, || said(&agents[0], "QUARANTINED"));
    cli.ok(&format!("client release {id}"));
    wait_until("the release to be known at the other manager", REVOKED_WITHIN + REVOKED_WITHIN, || said(&agents[0], "ACTIVE"));
    cli.ok(&format!("client remove {id} --yes"));
    wait_until("the removed machine to be cut off", REVOKED_WITHIN, || !is_connected(&agents[0]));
    // Who waits for approval is let in on the stream that it has at the other manager.
    let mut newcomer = Agent::new("three");
    newcomer.enroll(there.ok("token create --uses 2 --ttl 1h --network 10.99.0.0/16").trim());
    newcomer.start();
    wait_until("the newcomer to wait for approval", PATIENCE, || is_connected(&newcomer) && said(&newcomer, "PENDING"));
    cli.ok(&format!("client approve {}", newcomer.id()));
    wait_until("the approval to be known at the other manager", REVOKED_WITHIN, || said(&newcomer, "ACTIVE"));
    // A certificate alone can be revoked, too: its client goes on with another one.
    let id = agents[1].id();
    let replacement = Agent::new("replacement");
    replacement.enroll(cli.ok(&format!("token create --replaces {id}")).trim());
    wait_until("the replaced machine to be cut off", REVOKED_WITHIN, || !is_connected(&agents[1]));
    assert_eq!(state(&there, &id), "CLIENT_STATE_ACTIVE");
}

#[test]
fn a_manager_that_cant_read_who_was_revoked_serves_nothing_and_keeps_its_streams() {
    let Some(postgres) = Postgres::shared() else { return };
    let (line, to_database) = (Proxy::new(), Proxy::new());
    to_database.leads_to(([127, 0, 0, 1], postgres.port()).into());
    let url = postgres.create_database();
    let over_the_line = url.replace(&format!("127.0.0.1:{}", postgres.port()), &to_database.address());
    let setup = |database: String| Setup { database: Some(database), advertise: vec![line.address()], ..Setup::default() };
    let first = Manager::start_with(setup(url));
    let second = Manager::joining(&first, setup(over_the_line));
    line.leads_to(second.addresses().agents);
    let cli = first.cli();
    let package = PackageFolder::counting("large", "1.0");
    package.noise("noise", 16 << 20, 7);
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("machine", &first);
    let client = agent.id();
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    line.now(Line::Slow(Duration::from_millis(100)));
    let job = cli.id(&format!("job run --package large --client {client}"));
    JobView::wait_for_row(&cli, &job, &client, "DOWNLOADING");
    let bytes = || second.metric("sutler_chunks_bytes_total").unwrap_or_default();
    wait_until("the bytes of the package to flow", PATIENCE, || bytes() > f64::from(1 << 20));

    // Quarantined, where the other manager can't read it: it goes on with nothing, and lets nobody go for that.
    to_database.now(Line::Silent);
    cli.ok(&format!("client quarantine {client} --reason test"));
    wait_until("the transfer to be broken off", PATIENCE, || agent.log().contains("transfer put off"));
    assert!(agent.log().contains("who may still read can't be read"), "{}", agent.log());
    line.now(Line::Open);
    assert!(agent.status().to_string().contains("ACTIVE") && is_connected(&agent), "{:#}", agent.status());
    assert!(agent.read("opt/large.runs").is_none());
    to_database.now(Line::Open);
    wait_until("the quarantine to be known", REVOKED_WITHIN + REVOKED_WITHIN, || agent.status().to_string().contains("QUARANTINED"));
    assert!(agent.read("opt/large.runs").is_none());
    assert_eq!(agent.log().lines().filter(|line| line.contains(" connected ")).count(), 1, "{}", agent.log());
    cli.ok(&format!("client release {client}"));
    let row = JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    assert_eq!((row.attempts, agent.read("opt/large.runs").as_deref()), (1, Some("run\n")));

    // Removed, while every connection to the database breaks: nobody is answered there, and as soon as it can be read, it is.
    to_database.now(Line::Cut);
    cli.ok(&format!("client remove {client} --yes"));
    let there = cli.at(second.addresses().operators.to_string());
    there.fails(1, "client list --retry-for 1s");
    assert!(is_connected(&agent));
    to_database.now(Line::Open);
    wait_until("the removed machine to be cut off", REVOKED_WITHIN + REVOKED_WITHIN, || !is_connected(&agent));
}

#[test]
fn several_managers_make_one_attempt_of_each_execution_and_roll_their_cas_over_together() {
    let Some(postgres) = Postgres::shared() else { return };
    let (mut first, second) = two_managers(postgres, "agent_certificate = \"1h\"");
    let (cli, there) = (first.cli(), first.cli().at(second.addresses().operators.to_string()));
    let mut agents: Vec<Agent> = (0..4).map(|n| Agent::new(&format!("machine-{n}"))).collect();
    let (_package, job) = standing_job(&cli, "machines");
    for (n, agent) in agents.iter_mut().enumerate() {
        let at = if n % 2 == 0 { &cli } else { &there };
        agent.enroll(at.ok("token create --group machines").trim());
        agent.start();
    }
    let all = JobView::wait(&cli, &job, "every machine to be done", PATIENCE, |view| view.counters() == "total=4 finished=4");
    for agent in &agents {
        assert_eq!(all.row(&agent.id()).unwrap().attempts, 1);
        assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"), "{}", agent.name());
    }
    let view = JobView::of(&there, &job);
    assert_eq!(view.counters(), "total=4 finished=4");

    // What the first manager issues with its new CA is accepted by the other at once.
    let folder = first.folder();
    let new = || fs_err::read_to_string(folder.join("ca/agents.pem")).unwrap();
    let before = new();
    cli.ok(&format!("ca rotate --dir {0} --root-key {0}/ca/root.key", folder.display()));
    assert_ne!(before, new());
    let mut late = Agent::new("late");
    wait_until("a certificate of the new CA", PATIENCE, || {
        let machine = Agent::new("late");
        machine.enroll(cli.ok("token create --group machines").trim());
        let of_the_new = fs_err::read_to_string(machine.state().join("credential.pem")).unwrap().contains(new().trim());
        if of_the_new {
            late = machine;
        }
        of_the_new
    });
    first.kill();
    late.start();
    wait_until("the machine to be taken by the other manager", PATIENCE, || is_connected(&late));
    JobView::wait_for_row(&there, &job, &late.id(), "SUCCEEDED");
    assert!(!late.log().contains("no trusted connection"), "{}", late.log());
}

#[test]
fn a_machine_that_is_half_open_at_one_manager_gets_its_work_from_the_other_and_once() {
    let Some(postgres) = Postgres::shared() else { return };
    let line = Proxy::new();
    let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setup = |agents: String| Setup { agents, advertise: vec![line.address(), there.to_string()], ..Setup::default() };
    // They notice within 45 s that a machine is gone: until then the first one takes it for connected.
    let first = Manager::start_with(Setup { database: Some(postgres.create_database()), ..setup("127.0.0.1:0".into()) });
    line.leads_to(first.addresses().agents);
    let second = Manager::joining(&first, setup(there.to_string()));
    let cli = first.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::new("machine");
    agent.configure(
        "[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"1s\"\nhandshake = \"2s\"\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n",
    );
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let at = |agent: &Agent, address: &str| agent.status()["connected"].as_str().is_some_and(|a| a == address);
    wait_until("the machine to be connected over the line", PATIENCE, || at(&agent, &line.address()));
    line.now(Line::Silent);
    wait_until("the machine to be connected to the other manager", PATIENCE, || at(&agent, &there.to_string()));
    // The first manager hears nothing of that, and takes the machine for connected until it has read of the other session.
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!((row.attempts, agent.read("opt/hello.runs").as_deref()), (1, Some("run\n")));
    wait_until("the first manager to let go of the old session", REVOKED_WITHIN, || first.metric("sutler_sessions") == Some(0.0));
    line.now(Line::Open);
    assert_eq!(state(&cli, &agent.id()), "CLIENT_STATE_ACTIVE");
    assert!(second.log().lines().all(|line| !line.contains("copy")), "{}", second.log());
}

#[test]
fn one_key_that_connects_to_two_managers_at_once_is_one_client_and_does_nothing_twice() {
    let Some(postgres) = Postgres::shared() else { return };
    let (first, second) = two_managers(postgres, "");
    let cli = first.cli();
    let (_package, job) = standing_job(&cli, "machines");
    for round in 0..3 {
        let mut one = Agent::new("one");
        one.enroll(cli.ok("token create").trim());
        // The same machine to the last bit, but for where it calls first.
        let mut two = Agent::new("two");
        copy(&one.state(), &two.state());
        fs_err::copy(one.root().join("etc/machine-id"), two.root().join("etc/machine-id")).unwrap();
        let addresses = two.state().join("addresses.json");
        let (here, there) = (first.addresses().agents.to_string(), second.addresses().agents.to_string());
        let swapped = fs_err::read_to_string(&addresses).unwrap().replace(&here, "HERE").replace(&there, &here).replace("HERE", &there);
        fs_err::write(&addresses, swapped).unwrap();
        let client = one.id();
        cli.ok(&format!("group add machines {client}"));
        std::thread::scope(|scope| {
            scope.spawn(|| one.start());
            scope.spawn(|| two.start());
        });
        // One of them came second, with a counter that was there already.
        wait_for_state(&cli, &client, "CLIENT_STATE_QUARANTINED");
        let runs = || [&one, &two].iter().filter_map(|agent| agent.read("opt/hello.runs")).collect::<String>();
        let machine = one.machine_id().to_owned();
        cli.ok(&format!("client approve {client} --machine {machine}"));
        // What the other one of the two had accepted before, nobody can say how far it was: never a second time.
        let ends = ["SUCCEEDED", "INTERRUPTED"];
        let view = JobView::wait(&cli, &job, "the work to be at an end", PATIENCE, |view| {
            view.row(&client).is_some_and(|row| ends.contains(&row.state.as_str()))
        });
        let row = view.row(&client).unwrap();
        assert_eq!(row.attempts, 1, "round {round}: {row:#?}");
        assert!(runs().len() <= "run\n".len() && (row.state != "SUCCEEDED" || runs() == "run\n"), "round {round}: {:?} {row:#?}", runs());
        let clients = cli.json("client list");
        assert_eq!(clients.as_array().unwrap().len(), round + 1, "{clients:#}");
    }
}

#[test]
fn cas_are_exchanged_one_after_the_other_however_many_commands_come_at_once() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("machine", &manager);
    let (dir, scratch) = (manager.folder(), manager.scratch());
    let (shown, root_key) = (dir.display(), dir.join("ca/root.key"));
    let before = scratch.join("before");
    cli.ok(&format!("ca export --dir {shown} --output {}", before.display()));
    for round in 0..4 {
        let line = |n: usize| match n % 4 {
            0 | 1 => format!("ca rotate --dir {shown} --root-key {}", root_key.display()),
            2 => format!("ca export --dir {shown} --output {}", scratch.join(format!("bundle-{round}-{n}")).display()),
            _ => format!("ca import --dir {shown} {}", before.display()),
        };
        std::thread::scope(|scope| {
            (0..8).for_each(|n| {
                drop(scope.spawn({
                    let (cli, line) = (&cli, line(n));
                    move || cli.ok(&line)
                }))
            });
            scope.spawn(|| cli.ok(&format!("backup --dir {shown} {}", scratch.join(format!("backup-{round}")).display())));
        });
        // What lies there, and what was given away, is whole and of one making.
        let of_one_making = |ca: sutler_certs::CaBundle| {
            use sutler_certs::ca::Authority::{Agents, Operators, Servers};
            let began: Vec<_> = [Agents, Operators, Servers].map(|a| ca.review(a, ca.certificate(a)).unwrap()).into();
            assert!(began.iter().all(|at| at.duration_since(began[0]).abs() < jiff::SignedDuration::from_millis(1500)), "{began:?}");
        };
        of_one_making(sutler_certs::CaBundle::load(&dir.join("ca")).unwrap());
        of_one_making(sutler_certs::CaBundle::load(&scratch.join(format!("backup-{round}/ca"))).unwrap());
        for n in [2, 6] {
            let text = fs_err::read_to_string(scratch.join(format!("bundle-{round}-{n}"))).unwrap();
            of_one_making(sutler_certs::CaBundle::from_text(&text).unwrap());
        }
        assert!(root_key.exists() && !dir.join(".ca.new").exists());
    }
    let mut late = Agent::enrolled("late", &manager);
    wait_until("a machine of now to be connected", PATIENCE, || is_connected(&late));
    assert!(is_connected(&agent) && late.is_running());
    // One that never ends is named, and nothing is done beside it.
    let lock = std::fs::File::options().write(true).open(dir.join("ca.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let held = fs_err::read(dir.join("ca/agents.pem")).unwrap();
    let refused = cli.fails(1, &format!("ca rotate --dir {shown} --root-key {}", root_key.display()));
    refused.says(&["another process works with the CAs", "try again"]);
    assert_eq!(fs_err::read(dir.join("ca/agents.pem")).unwrap(), held);
}

#[test]
fn a_machine_whose_clock_is_off_by_days_works_and_its_skew_is_shown() {
    if tools::skip_without("faketime") {
        return;
    }
    let manager = with_limits("agent_certificate = \"15s\"");
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create machines");
    // By the clock of a machine that is days ahead this is over.
    let job = cli.id("job run --package hello --group machines --expires 1d");
    let machines = [("+3d", 3i64), ("-3d", -3)].map(|(offset, days)| {
        let mut agent = Agent::new("skewed");
        agent.enroll(cli.ok("token create --group machines").trim());
        let first = credential(&agent);
        agent.within(&["env", "DONT_FAKE_MONOTONIC=1", "faketime", "-f", offset]);
        agent.start();
        (agent, days, first)
    });
    for (agent, days, _) in &machines {
        let client = agent.id();
        let row = JobView::wait_for_end(&cli, &job, &client);
        assert_eq!(row.state, "SUCCEEDED", "{days} days: the schedule is the manager's");
        let shown = cli.json(&format!("client show {client}"));
        let skew: f64 = shown["clockSkew"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
        assert!((skew - (days * 86_400) as f64).abs() < 60.0, "{shown:#}");
        let (explained, word) = (cli.ok(&format!("client explain {client}")), if *days > 0 { "ahead" } else { "behind" });
        assert!(explained.lines().any(|line| line.starts_with("clock: ") && line.contains(word)), "{days}: {explained}");
        assert!(agent.ok("status").contains(" the manager's"), "{}", agent.ok("status"));
    }
    for (agent, _, first) in &machines {
        wait_until("the certificate to be renewed by the manager's clock", PATIENCE, || credential(agent) != *first);
    }
    // In time: neither had ended before.
    let audit = cli.ok("audit list");
    assert!(!audit.contains("renew_expired_certificate"), "{audit}");
}
