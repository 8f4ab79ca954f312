//! Machines with the same key: copies, restored snapshots, one that comes in place of another.

use super::*;

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
        let machine = one.machine_id().to_owned();
        cli.ok(&format!("client approve {client} --machine {machine}"));
        // What the other one of the two had accepted before, nobody can say how far it was: never a second time.
        let ends = ["SUCCEEDED", "INTERRUPTED"];
        let is_over = |view: &JobView| view.row(&client).is_some_and(|row| ends.contains(&row.state.as_str()));
        // Nothing tells them apart, and the second one may have counted further than the first: then the client is taken for copied
        // again, until there is one alone.
        let told_apart = wait_for("the work to be at an end, or both to be held again", PATIENCE, || {
            if is_over(&JobView::of(&cli, &job)) {
                return Some(true);
            }
            (state(&cli, &client) == "CLIENT_STATE_QUARANTINED").then_some(false)
        });
        if !told_apart {
            two.kill();
            one.kill_and_start();
            wait_until("the one that is left to be connected", PATIENCE, || is_connected(&one));
            cli.ok(&format!("client approve {client} --machine {machine}"));
        }
        let view = JobView::wait(&cli, &job, "the work to be at an end", PATIENCE, is_over);
        let row = view.row(&client).unwrap();
        let runs = || [&one, &two].iter().filter_map(|agent| agent.read("opt/hello.runs")).collect::<String>();
        // What was held before anybody was heard to have accepted it is offered again.
        let shown = cli.json(&format!("job executions {job} --client {client}"));
        let held = shown["attempts"].as_array().unwrap().iter().skip(1).all(|attempt| attempt["state"] == "EXECUTION_STATE_CANCELED");
        assert!(held || !told_apart, "round {round}: {shown:#}");
        assert!(runs().len() <= "run\n".len() && (row.state != "SUCCEEDED" || runs() == "run\n"), "round {round}: {:?} {row:#?}", runs());
        let clients = cli.json("client list");
        assert_eq!(clients.as_array().unwrap().len(), round + 1, "{clients:#}");
    }
}
