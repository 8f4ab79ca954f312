//! The harness's own promise: nothing that a test has started outlives it, however the test ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use sutler_tests::harness::cleanup::processes_below;
use sutler_tests::harness::{Agent, Manager, PATIENCE, PackageFolder, wait_until};

const CHILD: &str = "SUTLER_TEST_LEFTOVERS_CHILD";

/// Not a test by itself: the process that the next one kills, with a manager, an agent and a step that would run for an hour.
#[test]
fn holds_processes_until_it_is_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("endless", "1.0");
    package.file("bin/install", "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nexec sleep 3600\n");
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("one", &manager);
    cli.ok(&format!("job run --package endless --client {}", agent.id()));
    wait_until("the step to run", PATIENCE, || agent.read("opt/endless.runs").is_some());
    println!("\nbelow {}", manager.scratch().parent().unwrap().display());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    unreachable!("the parent kills this process before it closes the pipe");
}

#[test]
fn nothing_outlives_a_test_process_that_is_killed() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leftovers::holds_processes_until_it_is_killed", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let folder = lines.find_map(|line| line.strip_prefix("below ").map(str::to_owned)).expect("the child starts everything");
    let folder = Path::new(&folder);
    // The manager, the agent, the step's supervisor, the step, and the janitor.
    assert!(processes_below(folder).len() >= 5, "{:?}", processes_below(folder));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("everything to be gone", PATIENCE, || !folder.exists() && processes_below(folder).is_empty());
}
