//! When what is ordered begins: at its start time, in maintenance windows, by its deadline.

mod start;
mod windows;

use std::time::Duration;
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, wait_until};

/// Longer than the longest time to wait for a window or a start time of these tests.
const LONG: Duration = Duration::from_secs(120);

/// A package that counts its runs is pushed, with more in its `package.toml`.
fn push(cli: &Cli, name: &str, more: &str) {
    let package = PackageFolder::counting(name, "1.0");
    package.replace("files = \"files\"\n", &format!("files = \"files\"\n{more}"));
    cli.ok(&format!("package push {}", package.path().display()));
}

/// A machine in this group that runs its agent.
fn member(manager: &Manager, group: &str) -> Agent {
    in_zone(manager, group, "UTC")
}

/// The same with its clock in this zone.
fn in_zone(manager: &Manager, group: &str, zone: &str) -> Agent {
    let mut agent = Agent::new("one");
    fs_err::write(agent.root().join("etc/timezone"), format!("{zone}\n")).unwrap();
    agent.enroll(manager.cli().ok(&format!("token create --group {group}")).trim());
    agent.start();
    agent
}

/// Waits until a row waits for its time, with its bytes there; the sentence that says for what.
fn waits(cli: &Cli, job: &str, agent: &Agent) -> String {
    let view = JobView::wait(cli, job, "the row to wait for its time", PATIENCE, |view| {
        view.row(&agent.id()).is_some_and(|row| row.state == "WAITING" && row.reason == "WINDOW")
    });
    view.row(&agent.id()).unwrap().detail.clone()
}

/// Waits until it is installed, once and in the first attempt.
fn installed(cli: &Cli, job: &str, agent: &Agent, name: &str) {
    let view = JobView::wait(cli, job, "it to be installed", LONG, |view| {
        view.row(&agent.id())
            .is_some_and(|row| !matches!(row.state.as_str(), "QUEUED" | "OFFERED" | "DOWNLOADING" | "WAITING" | "INSTALLING" | "VERIFYING"))
    });
    let row = view.row(&agent.id()).unwrap();
    assert_eq!((row.state.as_str(), row.attempts, runs(agent, name)), ("SUCCEEDED", 1, 1), "{row:#?}");
}

/// How often the package's step has run.
fn runs(agent: &Agent, name: &str) -> usize {
    agent.read(&format!("opt/{name}.runs")).unwrap_or_default().lines().count()
}

/// A moment of the API.
fn moment(value: &serde_json::Value) -> jiff::Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

/// When the job is to start.
fn start_of(cli: &Cli, job: &str) -> jiff::Timestamp {
    moment(&cli.json(&format!("job show {job}"))["terms"]["schedule"]["startTime"])
}

/// It was installed at its start time or after it, by the manager's clock.
fn began_in_time(cli: &Cli, job: &str, agent: &Agent) {
    let ended = moment(&JobView::of(cli, job).row(&agent.id()).unwrap().json["enterTime"]);
    let start = start_of(cli, job);
    assert!(ended >= start, "it ended at {ended}, and was to start at {start}");
}

/// Waits until the agent is connected.
fn connected(agent: &Agent) {
    wait_until("the machine to be connected", PATIENCE, || agent.status()["connected"].is_string());
}

/// Hours of the day around now by the clock of this zone, open for an hour and a half at the least, as options of a window.
fn around_now(zone: &str) -> String {
    let now = jiff::Timestamp::now().to_zoned(sutler_core::window::zone(zone).unwrap());
    let hour = |ahead: i8| format!("{:02}:00", (now.hour() + 24 + ahead) % 24);
    format!("--on daily --from {} --to {}", hour(-1), hour(3))
}

/// Hours that are far from now by the clock of UTC, as options of a window.
fn far_from_now() -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let hour = |ahead: i8| format!("{:02}:00", (now.hour() + ahead) % 24);
    format!("--on daily --from {} --to {}", hour(6), hour(8))
}
