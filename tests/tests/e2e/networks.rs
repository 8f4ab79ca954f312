//! Two hosts with a cable between them: it is cut, only one way works, it is slow, connections are half open. Everything converges,
//! and no outcome is lost or doubled.

use rustix::fs::{CWD, FileType, Mode};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use sutler_tests::harness::{Agent, Chain, Cli, JobView, Manager, Namespaces, PATIENCE, PackageFolder, Setup, wait_until};

/// Counts its run, then waits for whoever opens a pipe of the machine.
const WAITS: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nread -r line <../../etc/go\n";

/// What is promised for the time in which a dead connection is noticed, at the limits as they come.
const NOTICED: Duration = Duration::from_secs(45);

/// A manager in the first host that notices within seconds what takes it a minute otherwise.
fn manager() -> Manager {
    Manager::start_with(Setup {
        agents: format!("{}:0", Namespaces::MANAGER),
        hosts: vec![Namespaces::MANAGER.into()],
        config: "[net]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\n[limits]\nlease = \"5m\"\n".into(),
        ..Setup::default()
    })
}

/// A machine in the second host, which is as impatient.
fn machine(hosts: &Namespaces, cli: &Cli) -> Agent {
    let mut agent = Agent::new("one");
    agent.inside(&hosts.machine());
    agent.configure(
        "[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\nconnect = \"2s\"\nhandshake = \"4s\"\nreconnect = \"200ms\"\nreconnect_most = \"2s\"\n",
    );
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    wait_until("the machine to be connected", PATIENCE, || online(cli, &agent) && connected(&agent));
    agent
}

fn online(cli: &Cli, agent: &Agent) -> bool {
    cli.json(&format!("client show {}", agent.id()))["online"] == true
}

fn connected(agent: &Agent) -> bool {
    agent.status()["connected"].is_string()
}

fn pipe(agent: &Agent) -> PathBuf {
    let path = agent.root().join("etc/go");
    let _ = std::fs::remove_file(&path);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

/// A job whose step waits for the pipe; the step runs when this returns.
fn waiting_job(cli: &Cli, agent: &Agent, name: &str) -> String {
    let package = PackageFolder::counting(name, "1.0");
    package.file("bin/install", WAITS);
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id(&format!("job run --package {name} --client {}", agent.id()));
    wait_until("the step to run", PATIENCE, || agent.read(&format!("opt/{name}.runs")).is_some());
    JobView::wait_for_row(cli, &job, &agent.id(), "INSTALLING");
    job
}

/// One attempt, one run, one outcome.
fn once(cli: &Cli, job: &str, agent: &Agent, name: &str) {
    let row = JobView::wait_for_row(cli, job, &agent.id(), "SUCCEEDED");
    assert_eq!((row.attempts, agent.read(&format!("opt/{name}.runs")).as_deref()), (1, Some("run\n")), "{row:#?}");
    assert_eq!(JobView::of(cli, job).counters(), "total=1 finished=1");
}

#[test]
fn a_line_that_goes_dead_is_noticed_on_both_sides_and_what_happened_meanwhile_is_told_once() {
    Namespaces::run("networks::a_line_that_goes_dead_is_noticed_on_both_sides_and_what_happened_meanwhile_is_told_once", |hosts| {
        let manager = manager();
        let cli = manager.cli();
        let agent = machine(hosts, &cli);
        let both = [Chain::ToManager, Chain::FromManager];
        let ways: [(&str, &dyn Fn()); 4] = [
            ("nothing passes", &|| hosts.drop(&both)),
            ("nothing reaches the manager", &|| hosts.drop(&both[..1])),
            ("nothing leaves the manager", &|| hosts.drop(&both[1..])),
            ("the cable is out", &|| hosts.cable(false)),
        ];
        for (n, (what, cut)) in ways.into_iter().enumerate() {
            let (pipe, name) = (pipe(&agent), format!("waits-{n}"));
            let job = waiting_job(&cli, &agent, &name);
            cut();
            let begin = Instant::now();
            wait_until(&format!("the manager to notice that {what}"), NOTICED, || !online(&cli, &agent));
            wait_until(&format!("the machine to notice that {what}"), NOTICED, || !connected(&agent));
            eprintln!("{what}: noticed on both sides after {:?}", begin.elapsed());
            // The step ends while nobody can be told.
            fs_err::write(&pipe, "go\n").unwrap();
            wait_until("the step's end to be recorded", PATIENCE, || agent.log().matches("ended attempt=").count() > n);
            assert_ne!(JobView::of(&cli, &job).row(&agent.id()).unwrap().state, "SUCCEEDED", "{what}: how does it know?");
            hosts.mend();
            hosts.cable(true);
            once(&cli, &job, &agent, &name);
        }
    });
}

#[test]
fn connections_that_are_destroyed_at_one_end_are_made_again_and_nothing_runs_twice() {
    Namespaces::run("networks::connections_that_are_destroyed_at_one_end_are_made_again_and_nothing_runs_twice", |hosts| {
        let manager = manager();
        let cli = manager.cli();
        let agent = machine(hosts, &cli);
        let pipe = pipe(&agent);
        let job = waiting_job(&cli, &agent, "waits");
        for _ in 0..3 {
            let before = agent.log().matches("connected").count();
            // The other end does not hear of it: it is half open there.
            hosts.drop(&[Chain::FromManager]);
            hosts.destroy_connections();
            hosts.mend();
            wait_until("the machine to be connected anew", NOTICED, || {
                agent.log().matches("connected").count() > before && connected(&agent)
            });
        }
        fs_err::write(&pipe, "go\n").unwrap();
        once(&cli, &job, &agent, "waits");
        assert_eq!(
            cli.json(&format!("client show {}", agent.id()))["state"],
            "CLIENT_STATE_ACTIVE",
            "a half-open session is no copy of the machine"
        );
    });
}

#[test]
fn a_line_that_comes_and_goes_and_is_slow_brings_a_package_in_the_end() {
    Namespaces::run("networks::a_line_that_comes_and_goes_and_is_slow_brings_a_package_in_the_end", |hosts| {
        let manager = manager();
        let cli = manager.cli();
        let agent = machine(hosts, &cli);
        let package = PackageFolder::counting("large", "1.0");
        package.noise("noise", 6 << 20, 1);
        cli.ok(&format!("package push {}", package.path().display()));
        hosts.slow(8_000);
        let job = cli.id(&format!("job run --package large --client {}", agent.id()));
        let there = || {
            let row = JobView::of(&cli, &job).row(&agent.id()).map(|row| row.json.clone()).unwrap_or_default();
            let bytes = |member: &str| row[member].as_u64().or_else(|| row[member].as_str()?.parse().ok()).unwrap_or(0);
            bytes("bytesDone").max(bytes("fetchedBytes"))
        };
        for _ in 0..3 {
            let (before, begin) = (there(), Instant::now());
            // Some of it has come, or it is over already, or the display of bytes lags.
            wait_until("some of it to come", PATIENCE, || there() > before || begin.elapsed() > Duration::from_secs(3));
            hosts.drop(&[Chain::ToManager, Chain::FromManager]);
            wait_until("the machine to notice", NOTICED, || !connected(&agent));
            hosts.mend();
            wait_until("the machine to be back", NOTICED, || connected(&agent));
        }
        once(&cli, &job, &agent, "large");
    });
}
