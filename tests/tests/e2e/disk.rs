//! The disk of a client machine full: before a download, in the middle of one, and while an attempt is recorded.

use rustix::fs::{CWD, FileType, Mode};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use sutler_tests::harness::{Agent, Cli, JobView, Line, Manager, PATIENCE, PackageFolder, Proxy, Setup, wait_until};

/// How often an agent looks whether a full disk has room again.
const LOOKS_EVERY: Duration = Duration::from_secs(5);

fn push(cli: &Cli, name: &str, bytes: usize) -> PackageFolder {
    let package = PackageFolder::counting(name, "1.0");
    if bytes > 0 {
        package.noise("noise", bytes, 1);
    }
    cli.ok(&format!("package push {}", package.path().display()));
    package
}

fn fetched(json: &serde_json::Value) -> u64 {
    let fetched = &json["items"][0]["fetchedBytes"];
    fetched.as_u64().or_else(|| fetched.as_str()?.parse().ok()).unwrap_or_default()
}

#[test]
fn a_full_disk_at_the_client_is_found_before_the_download_and_reported() {
    let manager = Manager::start();
    let cli = manager.cli();
    let _packages = [push(&cli, "large", 24 << 20), push(&cli, "small", 0)];
    let mut agent = Agent::new("full");
    agent.enroll(cli.ok("token create").trim());
    // Installing takes room for the package and a reserve.
    if !agent.on_a_small_disk(40) {
        return;
    }
    agent.start();
    let job = cli.id(&format!("job run --package large --client {}", agent.id()));
    let row = JobView::wait_for_end(&cli, &job, &agent.id());
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("FAILED", "NO_SPACE"), "{row:#?}");
    assert!(fetched(&row.json) < 1 << 20, "{} bytes were fetched in vain", fetched(&row.json));
    // What fits is installed all the same.
    let job = cli.id(&format!("job run --package small --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    // How much is kept free is the machine's own to say.
    let mut other = Agent::new("less is kept");
    other.configure("[limits]\ndisk_reserve = \"1MiB\"\ndisk_reserve_percent = 0\n");
    other.enroll(cli.ok("token create").trim());
    assert!(other.on_a_small_disk(40));
    other.start();
    let job = cli.id(&format!("job run --package large --client {}", other.id()));
    JobView::wait_for_row(&cli, &job, &other.id(), "SUCCEEDED");
}

#[test]
fn what_was_only_fetched_makes_room_for_what_is_installed_now() {
    let manager = Manager::start();
    let cli = manager.cli();
    let _packages = [push(&cli, "later", 10 << 20), push(&cli, "now", 18 << 20)];
    let mut agent = Agent::new("full");
    agent.enroll(cli.ok("token create").trim());
    if !agent.on_a_small_disk(40) {
        return;
    }
    agent.start();
    let run = |what: &str| {
        let job = cli.id(&format!("job run {what} --client {}", agent.id()));
        JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED").json
    };
    run("--fetch later");
    run("--package now");
    // It is not there any more, and comes again.
    run("--uninstall now");
    assert!(fetched(&run("--fetch later")) >= 10 << 20);
}

#[test]
fn a_disk_that_fills_up_during_a_download_fails_the_attempt_and_the_failure_is_reported() {
    let line = Proxy::new();
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let cli = manager.cli();
    // Larger files have their room before their bytes.
    let package = PackageFolder::counting("large", "1.0");
    (0..16).for_each(|n| package.noise(&format!("noise{n}"), 1 << 20, n));
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::new("full");
    agent.enroll(cli.ok("token create").trim());
    if !agent.on_a_small_disk(60) {
        return;
    }
    agent.start();
    // In the middle of the download the line stands still, and the disk fills up.
    line.now(Line::StopsAfter(4 << 20));
    let job = cli.id(&format!("job run --package large --client {}", agent.id()));
    wait_until("the line to stand still", PATIENCE, || line.stands_still());
    agent.disk().fill(64 << 10);
    line.now(Line::Open);
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    assert_eq!(row.reason, "NO_SPACE", "{row:#?}");
    assert!(agent.is_running());
    // Room again, and a person says so: it goes on.
    agent.disk().make_room();
    cli.ok(&format!("job retry {job}"));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
}

/// Counts its run, waits for whoever opens a pipe of the machine, and ends with this code.
fn waits(code: u8) -> String {
    format!("#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nread -r line <../../etc/go\nexit {code}\n")
}

/// A machine on a small disk that runs a package's step, which waits at the pipe. None where nobody may mount.
fn waiting(cli: &Cli, package: &PackageFolder) -> Option<(Agent, String, PathBuf)> {
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::new("full");
    agent.enroll(cli.ok("token create").trim());
    if !agent.on_a_small_disk(60) {
        return None;
    }
    agent.start();
    let pipe = agent.root().join("etc/go");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let job = cli.id(&format!("job run --package {} --client {}", package.name(), agent.id()));
    wait_until("the step to run", PATIENCE, || runs(&agent, package.name()) == 1);
    Some((agent, job, pipe))
}

fn runs(agent: &Agent, package: &str) -> usize {
    agent.read(&format!("opt/{package}.runs")).map_or(0, |runs| runs.lines().count())
}

#[test]
fn a_disk_that_is_full_when_a_step_ends_keeps_no_outcome_from_being_recorded_and_reported() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("waits", "1.0");
    package.file("bin/install", waits(7));
    let Some((mut agent, job, pipe)) = waiting(&cli, &package) else { return };
    // Not a byte is left; what is left to do is written from the agent's own reserve.
    agent.disk().fill(0);
    assert!(agent.state().join("reserve").exists(), "it keeps a reserve");
    fs_err::write(&pipe, "go\n").unwrap();
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    assert_eq!((row.attempts, row.json["items"][0]["exitCode"].as_i64()), (1, Some(7)), "{row:#?}");
    assert!(agent.is_running(), "{}", agent.log());
    // A new session is counted, and refused work is refused, on a disk that is still full.
    let next = cli.id(&format!("job run --package waits --client {}", agent.id()));
    let row = JobView::wait_for_row(&cli, &next, &agent.id(), "FAILED");
    assert_eq!(row.reason, "NO_SPACE", "{row:#?}");
    agent.disk().make_room();
}

#[test]
fn a_step_that_the_disk_has_no_room_for_is_not_started_and_says_so() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("two", "1.0");
    package.file("bin/install", waits(0));
    package.append("[[step]]\nname = \"second\"\nargv = [\"bin/install\"]\n");
    let Some((agent, job, pipe)) = waiting(&cli, &package) else { return };
    // What the first step gives back at its end is less than the second one needs.
    agent.disk().fill(0);
    fs_err::write(&pipe, "go\n").unwrap();
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    assert_eq!((row.reason.as_str(), runs(&agent, "two")), ("NO_SPACE", 1), "{row:#?}");
    assert_eq!(row.json["items"][0]["step"], "second", "{row:#?}");
    agent.disk().make_room();
}

#[test]
fn a_disk_that_is_still_full_is_not_said_to_have_room_again() {
    let manager = Manager::start();
    let cli = manager.cli();
    let _package = push(&cli, "bad", 0);
    let mut agent = Agent::new("full");
    agent.enroll(cli.ok("token create").trim());
    if !agent.on_a_small_disk(60) {
        return;
    }
    agent.start();
    wait_until("the machine to be connected", PATIENCE, || agent.status()["connected"].is_string());
    // What is refused needs more than is left, and none of it is what the reserve is for.
    agent.disk().fill(0);
    let list = manager.scratch().join("revocations.json").display().to_string();
    cli.ok(&format!("publisher revoke --package bad@1.0 --reason 'CVE 1' -o {list}"));
    cli.ok(&format!("publisher publish {list}"));
    wait_until("it to be said that the disk is full", PATIENCE, || agent.log().contains("the disk is full"));
    assert!(agent.state().join("reserve").exists(), "the reserve was not needed");
    let (said, has_room) = (Instant::now(), || agent.log().contains("has room again"));
    wait_until("the disk to be looked at again", PATIENCE, || said.elapsed() > 2 * LOOKS_EVERY || has_room());
    assert!(!has_room(), "{}", agent.log());
    agent.disk().make_room();
    wait_until("it to be said that there is room", PATIENCE, has_room);
}
