//! The user at the machine: what they are told and decide, and the starts and stops of the machine.

mod boots;
mod shelf;
mod user;

use serde_json::Value;
use std::time::Duration;
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, Row, wait_until};

/// Longer than the longest countdown of these tests.
const LONG: Duration = Duration::from_secs(120);

/// A manager with these packages, which count their runs, and a machine that is connected.
fn machine(packages: &[&str]) -> (Manager, Cli, Agent) {
    let manager = Manager::start();
    let cli = manager.cli();
    packages.iter().for_each(|name| push(&cli, name));
    let agent = Agent::enrolled("one", &manager);
    (manager, cli, agent)
}

fn push(cli: &Cli, name: &str) {
    let package = PackageFolder::counting(name, "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
}

/// How often the package's step has run.
fn runs(agent: &Agent, name: &str) -> usize {
    agent.read(&format!("opt/{name}.runs")).unwrap_or_default().lines().count()
}

/// Waits until the row of a job waits for this; the row.
fn waits(cli: &Cli, job: &str, agent: &Agent, reason: &str) -> Row {
    let view = JobView::wait(cli, job, &format!("the row to wait for {reason}"), PATIENCE, |view| {
        view.row(&agent.id()).is_some_and(|row| row.reason == reason && !row.detail.is_empty())
    });
    view.row(&agent.id()).unwrap().clone()
}

/// What is announced on the machine.
fn announced(agent: &Agent) -> Vec<Value> {
    serde_json::from_str(&agent.ok("announcements -o json")).unwrap()
}

/// Waits until one thing is announced on the machine.
fn announcement(agent: &Agent) -> Value {
    wait_until("something to be announced", PATIENCE, || announced(agent).len() == 1);
    announced(agent).remove(0)
}
