//! Jobs that start by themselves.

use super::*;
use sutler_tests::{
    harness::{Line, Proxy, Setup, programs},
    tools,
};

fn manager_with_group() -> (Manager, Cli) {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create machines");
    (manager, cli)
}

#[test]
fn a_job_starts_at_its_time_with_what_was_the_newest_when_it_was_ordered() {
    let (mut manager, cli) = manager_with_group();
    push(&cli, "hello", "");
    let agent = member(&manager, "machines");
    let done = cli.ok("job run --package hello --group machines --at 12s");
    assert!(done.contains("scheduled for"), "{done}");
    let job = done.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    let view = JobView::of(&cli, &job);
    assert_eq!((view.state.as_str(), view.rows.len()), ("SCHEDULED", 0));
    let explained = cli.ok(&format!("client explain {}", agent.id()));
    assert!(explained.contains("scheduled for"), "{explained}");
    // What comes afterwards is not what was ordered. And the manager's end changes nothing.
    let newer = PackageFolder::counting("hello", "2.0");
    cli.ok(&format!("package push {}", newer.path().display()));
    manager.kill_and_serve();
    installed(&manager.cli(), &job, &agent, "hello");
    began_in_time(&manager.cli(), &job, &agent);
    let shown = manager.cli().ok(&format!("job show {job}"));
    assert!(shown.contains("hello@1.0"), "{shown}");
}

#[test]
fn its_bytes_travel_before_and_it_never_starts_early_whatever_the_clock_of_the_machine_shows() {
    let (manager, cli) = manager_with_group();
    push(&cli, "hello", "");
    let mut agents = vec![member(&manager, "machines")];
    if !tools::skip_without("faketime") {
        for offset in ["+3d", "-3d"] {
            let mut agent = Agent::new("skewed");
            agent.enroll(cli.ok("token create --group machines").trim());
            agent.within(&programs::by_clock(offset));
            agent.start();
            connected(&agent);
            agents.push(agent);
        }
    }
    let job = cli.id("job run --package hello --group machines --at 25s --prefetch 1h");
    for agent in &agents {
        let sentence = waits(&cli, &job, agent);
        assert!(sentence.starts_with("scheduled for"), "{sentence}");
    }
    // Killed while it waits, it goes on waiting.
    agents[0].kill_and_start();
    for agent in &agents {
        assert!(jiff::Timestamp::now() >= start_of(&cli, &job) || runs(agent, "hello") == 0);
        installed(&cli, &job, agent, "hello");
        began_in_time(&cli, &job, agent);
    }
}

#[test]
fn a_scheduled_job_is_changed_and_canceled_and_what_cannot_start_is_said() {
    let (_manager, cli) = manager_with_group();
    push(&cli, "hello", "");
    let job = cli.id("job run --package hello --group machines --at 1h");
    let before = start_of(&cli, &job);
    cli.ok(&format!("job update {job} --at 2h --deadline 3h"));
    assert!(start_of(&cli, &job) > before);
    cli.fails(1, &format!("job update {job} --deadline 30m")).says(&["before the start time"]);
    cli.fails(1, &format!("job update {job} --expires 10m")).says(&["before the start time"]);
    cli.ok(&format!("job cancel {job} --yes"));
    assert_eq!(JobView::of(&cli, &job).state, "CANCELED");
    // Nothing is there to install any more when its time has come.
    let job = cli.id("job run --package hello --group machines --at 5s");
    cli.ok("package withdraw hello@1.0 --reason broken");
    JobView::wait(&cli, &job, "the job to have failed", PATIENCE, |view| view.state == "CANCELED");
    let json = cli.json(&format!("job show {job}"));
    assert!(json["terms"]["schedule"]["startFailure"].as_str().unwrap().contains("withdrawn"), "{json:#}");
    let audit = cli.ok("audit list");
    assert!(audit.contains("start_failed") && audit.contains("schedule_job"), "{audit}");
    let events = cli.json(&format!("events --object jobs/{job} --kind job-ended"));
    let event = events[0].to_string();
    assert!(event.contains("WARNING") && event.contains("could not be started") && event.contains("withdrawn"), "{events:#}");
    push(&cli, "other", "");
    for (bad, word) in [
        ("--at 1h --deadline 30m", "before the start time"),
        ("--prefetch 2h", "start time"),
        ("--at 2001-01-01T00:00:00Z", "past"),
        ("--deadline 3h --expires 1h", "expire time"),
    ] {
        cli.fails(1, &format!("job run --package other --group machines {bad}")).says(&[word]);
    }
}

#[test]
fn what_its_maker_may_not_order_any_more_when_its_time_has_come_does_not_start_and_says_why() {
    let (manager, cli) = manager_with_group();
    cli.ok("group create others");
    push(&cli, "hello", "");
    let operator = |name: &str, role: &str| {
        let scratch = manager.scratch();
        let other = Cli::new(&scratch.join(name)).at(manager.addresses().operators.to_string());
        let (request, bundle) = (scratch.join(format!("{name}.request")), scratch.join(format!("{name}.bundle")));
        other.ok(&format!("profile request acme -o {}", request.display()));
        cli.ok(&format!("operator create {name} --role {role} --request {} -o {}", request.display(), bundle.display()));
        other.ok(&format!("profile import {}", bundle.display()));
        other
    };
    let operators = ["revoked", "narrowed", "demoted", "stays"].map(|name| operator(name, "deployer:machines"));
    let [revoked, narrowed, demoted, stays] = operators.map(|other| other.id("job run --fetch hello --group machines --at 25s"));
    cli.ok("operator revoke revoked --yes");
    cli.ok("operator update narrowed --role deployer:others");
    cli.ok("operator update demoted --role viewer");
    for job in [&revoked, &narrowed, &demoted, &stays] {
        assert_eq!(JobView::of(&cli, job).state, "SCHEDULED", "nothing ends before its time has come");
    }
    for (job, why) in [
        (&revoked, "was revoked meanwhile"),
        (&narrowed, "does not reach its destinations any more"),
        (&demoted, "may not order jobs any more"),
    ] {
        JobView::wait(&cli, job, "the job to have ended", PATIENCE, |view| view.state == "CANCELED");
        let json = cli.json(&format!("job show {job}"));
        let said = json["terms"]["schedule"]["startFailure"].as_str().unwrap_or_default();
        assert!(said.contains("who made jobs/") && said.contains(why) && said.contains("job clone"), "{json:#}");
    }
    JobView::wait(&cli, &stays, "the other one to start", PATIENCE, |view| view.state == "ACTIVE");
}

#[test]
fn what_waits_between_two_packages_is_called_off_and_status_says_what_was_done() {
    let (_manager, cli) = manager_with_group();
    let slow = PackageFolder::counting("slow", "1.0");
    slow.file("bin/install", "#!/bin/sh\nread -r line <../../etc/go\n");
    cli.ok(&format!("package push {}", slow.path().display()));
    push(&cli, "next", "");
    let mut agent = Agent::new("one");
    agent.configure("");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let (pipe, policy) = (agent.root().join("etc/go"), agent.scratch().join("policy.toml"));
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    let job = cli.id(&format!("job run --package slow --package next --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "INSTALLING");
    // The second one is held, as it would be by a window that is closed.
    fs_err::write(&policy, "hold = true\n").unwrap();
    fs_err::write(&pipe, "go\n").unwrap();
    JobView::wait_for_row(&cli, &job, &agent.id(), "WAITING");
    cli.ok(&format!("job cancel {job} --yes"));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "CANCELED");
    assert_eq!((row.reason.as_str(), &row.json["items"][0]["state"]), ("JOB_CANCELED", &"EXECUTION_STATE_SUCCEEDED".into()), "{row:#?}");
    assert_eq!(row.json["items"].as_array().map(Vec::len), Some(1));
    let explained = cli.ok(&format!("client explain {}", agent.id()));
    assert!(explained.contains("called off between two packages") && explained.contains("slow 1.0 SUCCEEDED"), "{explained}");
    fs_err::write(&policy, "hold = false\n").unwrap();
    let after = cli.id(&format!("job run --package next --replace always --client {}", agent.id()));
    JobView::wait_for_row(&cli, &after, &agent.id(), "SUCCEEDED");
    assert_eq!(runs(&agent, "next"), 1, "what was called off has not run");
}

#[test]
fn a_machine_that_is_cut_off_starts_at_the_time_that_it_was_told_if_its_lease_reaches_there() {
    let line = Proxy::new();
    let config = "[net]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\n[limits]\nlease = \"5s\"\n".into();
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], config, ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let cli = manager.cli();
    push(&cli, "hello", "");
    push(&cli, "other", "");
    let mut agent = Agent::new("one");
    agent.configure("[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    connected(&agent);
    let job = cli.id(&format!("job run --package hello --client {} --at 20s --prefetch 1h", agent.id()));
    // Its lease can't reach there: more than a day lies between.
    let late = cli.id(&format!("job run --package other --client {} --at 26h --prefetch 30h", agent.id()));
    waits(&cli, &job, &agent);
    waits(&cli, &late, &agent);
    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !agent.status()["connected"].is_string());
    let early = jiff::Timestamp::now() < start_of(&cli, &job);
    assert!(!early || runs(&agent, "hello") == 0);
    // A cancellation of what it may still begin waits for the end of its long lease; of what it may not, for that of the usual one.
    cli.ok(&format!("job cancel {late} --yes"));
    JobView::wait_for_row(&cli, &late, &agent.id(), "CANCELED");
    wait_until("it to be installed without contact", LONG, || runs(&agent, "hello") == 1);
    assert!(!agent.status()["connected"].is_string() && jiff::Timestamp::now() >= start_of(&cli, &job));
    line.now(Line::Open);
    installed(&cli, &job, &agent, "hello");
    assert_eq!(runs(&agent, "other"), 0);
}

#[test]
fn a_cancellation_waits_for_the_end_of_a_lease_that_reaches_to_the_start_time() {
    let line = Proxy::new();
    let config = "[net]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\n[limits]\nlease = \"5s\"\n".into();
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], config, ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let cli = manager.cli();
    push(&cli, "hello", "");
    let mut agent = Agent::new("one");
    agent.configure("[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    connected(&agent);
    let job = cli.id(&format!("job run --package hello --client {} --at 3h --prefetch 4h", agent.id()));
    waits(&cli, &job, &agent);
    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !agent.status()["connected"].is_string());
    cli.ok(&format!("job cancel {job} --yes"));
    let deadline = moment(&JobView::of(&cli, &job).row(&agent.id()).unwrap().json["cancelDeadline"]);
    assert!(deadline > start_of(&cli, &job), "{deadline}: it may begin at its start time, and nobody can tell it");
    // Who is back says so at once.
    line.now(Line::Open);
    JobView::wait_for_row(&cli, &job, &agent.id(), "CANCELED");
    assert_eq!(runs(&agent, "hello"), 0);
}

#[test]
fn what_a_machine_did_within_its_lease_while_it_was_cut_off_is_not_done_again_for_a_new_revision() {
    let line = Proxy::new();
    let config = "[net]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\n[limits]\nlease = \"5s\"\n".into();
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], config, ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let cli = manager.cli();
    push(&cli, "hello", "");
    let mut agent = Agent::new("one");
    agent.configure("[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    connected(&agent);
    let job = cli.id(&format!("job run --package hello --client {} --at 15s --prefetch 1h", agent.id()));
    waits(&cli, &job, &agent);
    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !agent.status()["connected"].is_string());
    // It is called back, and can't be told.
    cli.ok(&format!("job update {job} --priority 3"));
    wait_until("it to be installed without contact", LONG, || runs(&agent, "hello") == 1);
    JobView::wait(&cli, &job, "the lease to be over", LONG, |view| view.row(&agent.id()).is_some_and(|row| row.state == "QUEUED"));
    // It is heard what came of that before anything else is offered.
    line.now(Line::Open);
    installed(&cli, &job, &agent, "hello");
}
