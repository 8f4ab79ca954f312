//! Clients that nobody expects to be heard of: out of the lists and out of the reach of jobs, until they come back.

use serde_json::Value;
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, Setup, wait_until};

/// The ids in the list.
fn listed(cli: &Cli, options: &str) -> Vec<String> {
    let rows = cli.json(&format!("client list --columns id {options}"));
    rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// Who did this to the client, by the audit log.
fn who(cli: &Cli, action: &str, id: &str) -> Vec<String> {
    let entries = cli.json("audit list");
    let of = |e: &&Value| e["action"] == action && e["object"] == format!("clients/{id}");
    entries.as_array().unwrap().iter().filter(of).map(|e| e["actor"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_client_that_was_silent_for_too_long_is_archived_and_comes_back_with_its_groups() {
    let manager = Manager::start_with(Setup { config: "[limits]\narchive_after = \"3s\"\n".into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create machines");
    let mut silent = Agent::enrolled("silent", &manager);
    let there = Agent::enrolled("there", &manager);
    let (id, other) = (silent.id(), there.id());
    cli.ok(&format!("group add machines {id} {other}"));
    cli.ok(&format!("client label set {id} site=berlin"));
    silent.stop();
    let before = cli.id("job run --package hello --group machines");
    wait_until("it to be archived", PATIENCE, || listed(&cli, "") == [other.clone()]);
    assert_eq!(listed(&cli, "--group machines"), std::slice::from_ref(&other));
    assert_eq!(listed(&cli, "--archived --filter 'labels.site == \"berlin\"'"), std::slice::from_ref(&id));
    assert_eq!(who(&cli, "archive", &id), ["manager"]);
    // No job waits for it: neither one from before nor one that comes now.
    assert_eq!(JobView::wait_for_row(&cli, &before, &id, "CANCELED").reason, "CLIENT_ARCHIVED");
    let now = cli.id(&format!("job run --package hello --client {other}"));
    JobView::wait(&cli, &now, "the job to be over", PATIENCE, |view| view.state == "COMPLETED");
    cli.ok("group create more");
    cli.ok(&format!("group add more {id}"));
    let after = cli.id("job run --package hello --group more");
    // Nor when it is taken out of a group and put back meanwhile.
    cli.ok(&format!("group remove machines {id}"));
    cli.ok(&format!("group add machines {id}"));
    assert_eq!(JobView::of(&cli, &before).row(&id).unwrap().state, "CANCELED");
    assert!(JobView::of(&cli, &after).row(&id).is_none(), "an archived client is in the reach of no job");
    cli.fails(1, &format!("job run --package hello --client {id}")).says(&["archived", "client unarchive"]);
    assert_eq!(listed(&cli, ""), [other], "who is connected is not archived, however long");

    silent.start();
    for job in [&before, &after] {
        JobView::wait_for_end(&cli, job, &id);
    }
    let back = cli.json(&format!("client show {id}"));
    assert_eq!((&back["archiveTime"], &back["groups"]), (&Value::Null, &serde_json::json!(["groups/machines", "groups/more"])));
    assert_eq!(back["labels"]["site"], "berlin");
    assert_eq!(who(&cli, "unarchive", &id), [format!("clients/{id}")]);
    assert_eq!(listed(&cli, "").len(), 2);
}

#[test]
fn an_operator_archives_a_client_that_is_not_connected_and_takes_it_back() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    wait_until("it to be connected", PATIENCE, || cli.json(&format!("client show {id}"))["online"] == true);
    cli.fails(1, &format!("client archive {id}")).says(&["is connected"]);
    agent.stop();
    wait_until("it to be gone", PATIENCE, || cli.json(&format!("client show {id}"))["online"] == false);
    let job = cli.id(&format!("job run --package hello --client {id}"));
    cli.ok(&format!("client archive {id}"));
    assert!(listed(&cli, "").is_empty());
    // The job has nobody left to wait for.
    JobView::wait(&cli, &job, "the job to be over", PATIENCE, |view| view.state == "COMPLETED");
    assert_eq!(cli.json(&format!("job status {job}"))["executions"][0]["mark"], "ARCHIVED");
    assert!(cli.ok(&format!("client explain {id}")).contains("archived: "));
    cli.ok(&format!("client unarchive {id}"));
    assert_eq!(listed(&cli, ""), std::slice::from_ref(&id));
    let operator = who(&cli, "unarchive", &id);
    assert!(operator[0].starts_with("operators/"), "{operator:?}");
    assert!(cli.json("client list --archived")[0]["archiveTime"].is_null());
    cli.ok(&format!("client archive {id}"));
    cli.ok(&format!("client remove {id} --yes"));
    assert_eq!(listed(&cli, "--all"), std::slice::from_ref(&id), "one that was removed is among those, archived before or not");
    assert!(cli.json(&format!("client show {id}"))["archiveTime"].is_null(), "it does not come back");
    cli.fails(1, &format!("client archive {id}")).says(&["removed"]);
}

#[test]
fn an_archived_client_is_back_once_a_machine_is_enrolled_in_its_place() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::enrolled("old", &manager);
    let id = agent.id();
    cli.ok("group create machines");
    cli.ok(&format!("group add machines {id}"));
    agent.stop();
    wait_until("it to be gone", PATIENCE, || cli.json(&format!("client show {id}"))["online"] == false);
    let job = cli.id("job run --package hello --group machines");
    cli.ok(&format!("client archive {id}"));
    assert_eq!(JobView::of(&cli, &job).row(&id).unwrap().state, "CANCELED");
    // Its agent is not started: nothing waits in the queue of a client that is in no list.
    let new = Agent::new("new");
    new.enroll(cli.ok(&format!("token create --replaces {id}")).trim());
    assert_eq!(listed(&cli, ""), std::slice::from_ref(&id));
    assert_eq!(JobView::of(&cli, &job).row(&id).unwrap().state, "QUEUED");
}

#[test]
fn a_client_that_an_operator_took_back_is_not_archived_before_it_was_silent_for_as_long_again() {
    let silence = jiff::SignedDuration::from_secs(8);
    let manager = Manager::start_with(Setup { config: "[limits]\narchive_after = \"8s\"\n".into(), ..Setup::default() });
    let cli = manager.cli();
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    agent.stop();
    let times = |action: &str| -> Vec<jiff::Timestamp> {
        let entries = cli.json("audit list");
        let of = |e: &&Value| e["action"] == action && e["object"] == format!("clients/{id}");
        let mut times: Vec<_> =
            entries.as_array().unwrap().iter().filter(of).map(|e| e["time"].as_str().unwrap().parse().unwrap()).collect();
        times.sort();
        times
    };
    wait_until("it to be archived", PATIENCE, || times("archive").len() == 1);
    cli.ok(&format!("client unarchive {id}"));
    wait_until("it to be archived again", PATIENCE, || times("archive").len() == 2);
    let (back, again) = (times("unarchive")[0], times("archive")[1]);
    assert!(again.duration_since(back) >= silence, "taken back at {back}, archived again at {again}");
}
