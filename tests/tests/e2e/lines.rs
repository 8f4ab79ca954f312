//! A line that is slow, silent, cut, deaf on one side, and that doubles or swaps what passes: without root, over a proxy.

use rustix::fs::{CWD, FileType, Mode};
use std::time::Duration;
use sutler_tests::harness::{Agent, Cli, JobView, Line, Manager, PATIENCE, PackageFolder, Proxy, Setup, wait_until};

pub(crate) const WAITS: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nread -r line <../../etc/go\n";

/// What takes a minute otherwise is noticed within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

/// A manager that machines reach over the line alone, and a machine; both notice within seconds what takes a minute otherwise.
fn over(line: &Proxy) -> (Manager, Agent) {
    over_with(line, "")
}

/// The same with more of the manager's configuration.
pub(crate) fn over_with(line: &Proxy, more: &str) -> (Manager, Agent) {
    let config = format!("[net]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\n{more}");
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], config, ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let mut agent = Agent::new("one");
    agent.configure(
        "[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\nhandshake = \"4s\"\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n",
    );
    agent.enroll(manager.cli().ok("token create").trim());
    agent.start();
    connected(&agent);
    (manager, agent)
}

fn connected(agent: &Agent) {
    wait_until("the machine to be connected", PATIENCE, || agent.status()["connected"].is_string());
}

pub(crate) fn push(cli: &Cli, name: &str, script: &str, bytes: usize) {
    let package = PackageFolder::counting(name, "1.0");
    package.file("bin/install", script);
    if bytes > 0 {
        package.noise("noise", bytes, 5);
    }
    cli.ok(&format!("package push {}", package.path().display()));
}

fn once(cli: &Cli, job: &str, agent: &Agent, name: &str) {
    let row = JobView::wait_for_row(cli, job, &agent.id(), "SUCCEEDED");
    assert_eq!((row.attempts, agent.read(&format!("opt/{name}.runs")).as_deref()), (1, Some("run\n")), "{row:#?}");
    assert_eq!(JobView::of(cli, job).counters(), "total=1 finished=1");
}

#[test]
fn over_every_bad_line_a_package_comes_once_and_its_outcome_is_told_once() {
    let line = Proxy::new();
    let (manager, agent) = over(&line);
    let cli = manager.cli();
    let bad = [Line::Slow(Duration::from_millis(60)), Line::Doubles, Line::Swaps, Line::StopsAfter(700_000), Line::Silent, Line::Cut];
    for (n, bad) in bad.into_iter().enumerate() {
        let name = format!("large-{n}");
        push(&cli, &name, sutler_tests::harness::COUNTING, 2 << 20);
        let before = line.connections();
        line.now(bad);
        let job = cli.id(&format!("job run --package {name} --client {}", agent.id()));
        if !matches!(bad, Line::Slow(_)) {
            wait_until(&format!("the line to be given up: {bad:?}"), NOTICED_WITHIN, || {
                bad == Line::Cut && !agent.status()["connected"].is_string() || line.connections() > before
            });
        }
        line.now(Line::Open);
        once(&cli, &job, &agent, &name);
    }
    // Whatever was doubled or swapped, nobody took it for the other side's word.
    assert_eq!(cli.json(&format!("client show {}", agent.id()))["state"], "CLIENT_STATE_ACTIVE");
}

#[test]
fn an_outcome_whose_answer_is_lost_is_told_again_and_counted_once() {
    let line = Proxy::new();
    let (manager, agent) = over(&line);
    let cli = manager.cli();
    let pipe = agent.root().join("etc/go");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for (n, deaf) in [Line::DeafToManager, Line::DeafToMachines].into_iter().enumerate() {
        let name = format!("waits-{n}");
        push(&cli, &name, WAITS, 0);
        let job = cli.id(&format!("job run --package {name} --client {}", agent.id()));
        JobView::wait_for_row(&cli, &job, &agent.id(), "INSTALLING");
        let before = line.connections();
        line.now(deaf);
        fs_err::write(&pipe, "go\n").unwrap();
        if deaf == Line::DeafToManager {
            // The outcome is committed; that it is, the machine does not hear.
            JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
            assert!(fs_err::read_dir(agent.state().join("attempts")).unwrap().count() > 1, "it keeps what was not acknowledged");
        }
        wait_until("the line to be given up", NOTICED_WITHIN, || line.connections() > before);
        line.now(Line::Open);
        once(&cli, &job, &agent, &name);
        wait_until("the outcome to be acknowledged", PATIENCE, || {
            fs_err::read_dir(agent.state().join("attempts"))
                .unwrap()
                .filter(|e| !e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
                .count()
                == 0
        });
    }
}

#[test]
fn what_was_canceled_at_a_machine_that_is_cut_off_never_starts_there_once_that_is_final() {
    let line = Proxy::new();
    let (manager, agent) = over_with(&line, "[limits]\nlease = \"5s\"\n");
    let cli = manager.cli();
    let pipe = agent.root().join("etc/go");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // The second is offered, and waits for the first, whose step waits for the pipe.
    push(&cli, "waits", WAITS, 0);
    push(&cli, "next", sutler_tests::harness::COUNTING, 0);
    let first = cli.id(&format!("job run --package waits --client {}", agent.id()));
    JobView::wait_for_row(&cli, &first, &agent.id(), "INSTALLING");
    let second = cli.id(&format!("job run --package next --client {}", agent.id()));
    JobView::wait_for_row(&cli, &second, &agent.id(), "WAITING");

    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !agent.status()["connected"].is_string());
    cli.ok(&format!("job cancel {second} --yes"));
    let row = JobView::of(&cli, &second).row(&agent.id()).cloned().unwrap();
    assert_ne!(row.state, "CANCELED", "the machine has not answered and holds a lease");
    JobView::wait_for_row(&cli, &second, &agent.id(), "CANCELED");

    // It is the second one's turn, and it is still cut off.
    fs_err::write(&pipe, "go\n").unwrap();
    wait_until("the first step's end to be recorded", PATIENCE, || agent.log().matches("ended attempt=").count() == 1);
    line.now(Line::Open);
    once(&cli, &first, &agent, "waits");
    wait_until("the machine to have let go of both", PATIENCE, || {
        let attempts = fs_err::read_dir(agent.state().join("attempts")).unwrap();
        attempts.filter(|e| !e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count() == 0
    });
    assert_eq!(agent.read("opt/next.runs"), None, "it was shown as canceled, and ran");
    assert_eq!(JobView::of(&cli, &second).row(&agent.id()).unwrap().state, "CANCELED");
}

#[test]
fn what_was_paused_at_a_machine_that_is_cut_off_never_starts_there_until_it_is_resumed() {
    let line = Proxy::new();
    let (manager, agent) = over_with(&line, "[limits]\nlease = \"5s\"\n");
    let cli = manager.cli();
    let pipe = agent.root().join("etc/go");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    push(&cli, "waits", WAITS, 0);
    push(&cli, "next", sutler_tests::harness::COUNTING, 0);
    let first = cli.id(&format!("job run --package waits --client {}", agent.id()));
    JobView::wait_for_row(&cli, &first, &agent.id(), "INSTALLING");
    let second = cli.id(&format!("job run --package next --client {}", agent.id()));
    JobView::wait_for_row(&cli, &second, &agent.id(), "WAITING");

    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !agent.status()["connected"].is_string());
    let said = cli.ok(&format!("job pause {second}"));
    assert!(said.contains("1 clients that had not begun did not say yet that they stopped"), "{said}");
    // What has begun goes to its end.
    cli.ok(&format!("job pause {first}"));
    assert_eq!(JobView::of(&cli, &second).row(&agent.id()).unwrap().state, "WAITING", "the machine has not answered and holds a lease");
    JobView::wait_for_row(&cli, &second, &agent.id(), "QUEUED");
    assert!(!cli.ok(&format!("job show {second}")).contains("did not say yet"));

    // It is the second one's turn, and it is still cut off.
    fs_err::write(&pipe, "go\n").unwrap();
    wait_until("the first step's end to be recorded", PATIENCE, || agent.log().matches("ended attempt=").count() == 1);
    line.now(Line::Open);
    once(&cli, &first, &agent, "waits");
    wait_until("the machine to have let go of both", PATIENCE, || {
        let attempts = fs_err::read_dir(agent.state().join("attempts")).unwrap();
        attempts.filter(|e| !e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count() == 0
    });
    let row = JobView::of(&cli, &second).row(&agent.id()).cloned().unwrap();
    assert_eq!((row.state.as_str(), agent.read("opt/next.runs")), ("QUEUED", None), "it was shown as stopped, and ran");
    cli.ok(&format!("job resume {second}"));
    let row = JobView::wait_for_row(&cli, &second, &agent.id(), "SUCCEEDED");
    assert_eq!((row.attempts, agent.read("opt/next.runs").as_deref()), (2, Some("run\n")));
}

#[test]
fn what_a_machine_has_said_is_worth_nothing_when_somebody_says_it_again() {
    let line = Proxy::new();
    let (manager, agent) = over(&line);
    let cli = manager.cli();
    push(&cli, "hello", sutler_tests::harness::COUNTING, 0);
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    once(&cli, &job, &agent, "hello");
    // Not a byte of it can be read by the manager: the keys of that connection are gone.
    let answered = line.say_again();
    assert!(answered < 8 << 10, "{answered} bytes came back");
    once(&cli, &job, &agent, "hello");
    let client = cli.json(&format!("client show {}", agent.id()));
    assert_eq!((client["state"].as_str(), client["online"].as_bool()), (Some("CLIENT_STATE_ACTIVE"), Some(true)), "{client:#}");
}

#[test]
fn a_transfer_that_stands_still_is_given_up_and_goes_on_where_it_was() {
    let line = Proxy::new();
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let cli = manager.cli();
    let mut agent = Agent::new("one");
    // Whether the other side is there is not asked for so long that only the transfer can be at its end.
    agent.configure("[limits]\nstall = \"1s\"\nkeep_alive = \"1h\"\n");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    connected(&agent);
    push(&cli, "large", sutler_tests::harness::COUNTING, 4 << 20);
    line.now(Line::StopsAfter(2 << 20));
    let job = cli.id(&format!("job run --package large --client {}", agent.id()));
    wait_until("the transfer to be given up", PATIENCE, || agent.log().contains("no bytes came for 1s (limits.stall)"));
    line.now(Line::Open);
    once(&cli, &job, &agent, "large");
    let item = JobView::of(&cli, &job).row(&agent.id()).unwrap().json["items"][0].clone();
    let bytes = |member: &str| item[member].as_str().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
    assert!(bytes("fetchedBytes") < bytes("totalBytes") - (1 << 20), "what had come was fetched once more: {item:#}");
}
