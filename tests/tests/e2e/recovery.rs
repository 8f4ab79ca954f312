//! What goes wrong on the way: failing steps, machines that are away, processes that are killed, managers that move.

use rustix::fs::{CWD, FileType, Mode};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sutler_tests::harness::{Agent, JobView, Manager, PATIENCE, PackageFolder, Port, Setup, Terminal, cleanup, wait_until};
use sutler_tests::postgres::Postgres;

/// A manager that was killed serves again within this time.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Needs a file of the machine, then counts its run.
const NEEDS_READY: &str = r#"
[[step]]
name = "is the machine ready"
phase = "before"
argv = ["/bin/sh", "-c", "test -e ../../etc/ready || { echo 'etc/ready is missing' >&2; exit 7; }"]

[[step]]
name = "install"
argv = ["bin/install"]
"#;

/// Counts its run, then waits for whoever opens a pipe of the machine.
const WAITS: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nread -r line <../../etc/go\necho \"$line\" >>\"$(pwd -P).runs\"\n";

fn counting_when_ready(name: &str) -> PackageFolder {
    let package = PackageFolder::with(name, "1.0", NEEDS_READY);
    package.file("bin/install", sutler_tests::harness::COUNTING);
    package
}

fn waiting(name: &str) -> PackageFolder {
    let package = PackageFolder::counting(name, "1.0");
    package.file("bin/install", WAITS);
    package
}

fn pipe(agent: &Agent) -> PathBuf {
    let path = agent.root().join("etc/go");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

/// Lets the step go on that reads the pipe. Returns when the step has opened it.
fn go(pipe: &Path) {
    fs_err::write(pipe, "went on\n").unwrap();
}

fn group_of(manager: &Manager, name: &str, agents: &[Agent]) {
    let cli = manager.cli();
    cli.ok(&format!("group create {name}"));
    let ids: Vec<_> = agents.iter().map(Agent::id).collect();
    cli.ok(&format!("group add {name} {}", ids.join(" ")));
}

#[test]
fn a_retry_touches_only_the_client_that_failed() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agents: Vec<Agent> = ["one", "two", "three"].iter().map(|name| Agent::enrolled(name, &manager)).collect();
    for agent in &agents[..2] {
        fs_err::write(agent.root().join("etc/ready"), "").unwrap();
    }
    group_of(&manager, "machines", &agents);
    let package = counting_when_ready("hello");
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id("job run --package hello --group machines");
    cli.run(&format!("job status {job} --wait --timeout 120s")).ends_with(30);

    let view = JobView::of(&cli, &job);
    assert_eq!(view.counters(), "total=3 finished=2 error=1");
    let row = view.row(&agents[2].id()).unwrap();
    assert_eq!((row.state.as_str(), row.attempts), ("FAILED", 1), "{row:#?}");
    let item = &row.json["items"][0];
    assert_eq!((item["step"].as_str(), item["exitCode"].as_i64()), (Some("is the machine ready"), Some(7)), "{item:#}");
    assert!(item["output"].as_str().unwrap().contains("etc/ready is missing"), "{item:#}");
    let table = cli.run(&format!("job status {job}")).ends_with(30).stdout;
    assert!(table.contains("FAILED") && table.contains("is the machine ready"), "{table}");
    assert!(!agents[2].root().join("opt/hello").exists(), "what failed before the exchange leaves nothing");

    // Retried without a reason it fails again; mended it works.
    assert!(cli.ok(&format!("job retry {job}")).contains("1 get a new attempt"));
    JobView::wait(&cli, &job, "the second failure", PATIENCE, |view| {
        view.row(&agents[2].id()).is_some_and(|row| row.attempts == 2 && row.state == "FAILED")
    });
    fs_err::write(agents[2].root().join("etc/ready"), "").unwrap();
    cli.ok(&format!("job retry {job} --kind error"));
    cli.run(&format!("job status {job} --wait --timeout 120s")).ends_with(0);
    let view = JobView::of(&cli, &job);
    assert_eq!(view.counters(), "total=3 finished=3");
    let attempts: Vec<_> = agents.iter().map(|agent| view.row(&agent.id()).unwrap().attempts).collect();
    assert_eq!(attempts, [1, 1, 3]);
    for agent in &agents {
        assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"), "{}", agent.name());
    }
    // Nothing is in error any more: nothing is run again.
    assert!(cli.ok(&format!("job retry {job}")).contains("0 get a new attempt"));
}

#[test]
fn a_member_that_is_offline_when_the_job_starts_gets_it_at_its_next_contact() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut agents = vec![Agent::enrolled("here", &manager), Agent::enrolled("away", &manager)];
    group_of(&manager, "machines", &agents);
    agents[1].stop();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id("job run --package hello --group machines");
    JobView::wait_for_row(&cli, &job, &agents[0].id(), "SUCCEEDED");
    let view = JobView::of(&cli, &job);
    assert_eq!(view.counters(), "total=2 finished=1 waiting=1");
    assert_eq!(view.row(&agents[1].id()).unwrap().state, "QUEUED");
    cli.fails(31, &format!("job status {job}"));
    cli.fails(31, &format!("job status {job} --wait --timeout 1s"));
    agents[1].start();
    JobView::wait_for_row(&cli, &job, &agents[1].id(), "SUCCEEDED");
    cli.fails(0, &format!("job status {job}"));
}

#[test]
fn a_manager_killed_while_agents_download_loses_nothing_and_nothing_runs_twice() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let agents: Vec<Agent> = ["one", "two", "three"].iter().map(|name| Agent::enrolled(name, &manager)).collect();
    group_of(&manager, "machines", &agents);
    let package = PackageFolder::counting("large", "1.0");
    for n in 0..6 {
        package.noise(&format!("noise-{n}"), 16 << 20, n + 1);
    }
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id("job run --package large --group machines");
    // What is fetched lies beside the place where it will be.
    let fetching = |agent: &Agent| {
        let Ok(entries) = fs_err::read_dir(agent.root().join("opt")) else { return false };
        entries
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().starts_with(".sutler-") && size(&entry.path()) > 1 << 20)
    };
    wait_until("an agent to download", PATIENCE, || agents.iter().any(fetching));
    manager.kill();
    assert!(
        agents.iter().any(|agent| !agent.root().join("opt/large.runs").exists()),
        "the download was over before the manager was killed"
    );
    let killed = Instant::now();
    manager.serve();
    assert!(killed.elapsed() < BACK_WITHIN, "it was back after {:?}", killed.elapsed());
    cli.run(&format!("job status {job} --wait --timeout 240s --retry-for 60s")).ends_with(0);
    let view = JobView::of(&cli, &job);
    assert_eq!(view.counters(), "total=3 finished=3");
    for agent in &agents {
        let row = view.row(&agent.id()).unwrap();
        assert_eq!(row.attempts, 1, "a download that is cut off uses up no attempt");
        let fetched = row.json["items"][0]["fetchedBytes"].as_str().and_then(|n| n.parse::<u64>().ok()).unwrap();
        // What had come before is not fetched again; what was on its way when the manager died is.
        assert!(fetched < 120 << 20, "{fetched} bytes were fetched for a package of {}", 96 << 20);
        assert_eq!(agent.read("opt/large.runs").as_deref(), Some("run\n"), "{}", agent.name());
        for n in 0..6 {
            let arrived = fs_err::read(agent.root().join(format!("opt/large/noise-{n}"))).unwrap();
            assert!(arrived == fs_err::read(package.files().join(format!("noise-{n}"))).unwrap(), "noise-{n} of {}", agent.name());
        }
    }
}

fn size(path: &Path) -> u64 {
    let Ok(meta) = fs_err::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    let Ok(entries) = fs_err::read_dir(path) else { return 0 };
    entries.filter_map(Result::ok).map(|entry| size(&entry.path())).sum()
}

#[test]
fn the_installer_of_an_agent_that_is_killed_goes_on_and_its_result_is_picked_up() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = waiting("slow");
    cli.ok(&format!("package push {}", package.path().display()));
    // Killed and started again while the step runs; and killed, with the step at its end before the agent is back.
    for is_back_first in [true, false] {
        let mut agent = Agent::enrolled("machine", &manager);
        let pipe = pipe(&agent);
        let job = cli.id(&format!("job run --package slow --client {}", agent.id()));
        wait_until("the step to run", PATIENCE, || agent.read("opt/slow.runs").is_some());
        JobView::wait_for_row(&cli, &job, &agent.id(), "INSTALLING");
        agent.kill();
        assert!(!cleanup::processes_below(&agent.root()).is_empty(), "the step outlives the agent");
        if is_back_first {
            agent.start();
            let id = agent.id();
            wait_until("the agent to be back", PATIENCE, || cli.json(&format!("client show {id}"))["online"] == true);
            go(&pipe);
        } else {
            go(&pipe);
            wait_until("the step and its supervisor to end", PATIENCE, || cleanup::processes_below(agent.scratch()).is_empty());
            agent.start();
        }
        let row = JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
        assert_eq!(row.attempts, 1);
        assert_eq!(agent.read("opt/slow.runs").as_deref(), Some("run\nwent on\n"));
    }
}

#[test]
fn a_manager_and_its_agents_may_be_stopped_and_started_in_any_order() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create machines");
    let job = cli.id("job run --package hello --group machines");
    let mut agent = Agent::enrolled("one", &manager);
    // The agent alone, with nobody to talk to; then a manager that comes to it.
    agent.stop();
    manager.stop();
    agent.start();
    manager.serve();
    cli.ok(&format!("group add machines {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    // The job stands across restarts for whoever comes later.
    manager.kill_and_serve();
    let other = Agent::enrolled("two", &manager);
    cli.ok(&format!("group add machines {}", other.id()));
    JobView::wait_for_row(&cli, &job, &other.id(), "SUCCEEDED");
    agent.kill_and_start();
    let id = agent.id();
    wait_until("the agent to be back", PATIENCE, || cli.json(&format!("client show {id}"))["online"] == true);
    assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"));
    assert_eq!(JobView::of(&cli, &job).counters(), "total=2 finished=2");
}

#[test]
fn a_manager_that_moves_to_another_address_finds_its_agents_again_and_nothing_runs_twice() {
    let (here, there) = (Port::new(), Port::new());
    let mut manager = Manager::start_with(Setup {
        agents: here.address().to_string(),
        advertise: vec![here.address().to_string(), there.address().to_string()],
        ..Setup::default()
    });
    let cli = manager.cli();
    let (done, slow) = (PackageFolder::counting("done", "1.0"), waiting("slow"));
    cli.ok(&format!("package push {}", done.path().display()));
    cli.ok(&format!("package push {}", slow.path().display()));
    let agent = Agent::enrolled("machine", &manager);
    let pipe = pipe(&agent);
    let first = cli.id(&format!("job run --package done --client {}", agent.id()));
    JobView::wait_for_row(&cli, &first, &agent.id(), "SUCCEEDED");
    let second = cli.id(&format!("job run --package slow --client {}", agent.id()));
    JobView::wait_for_row(&cli, &second, &agent.id(), "INSTALLING");
    wait_until("the step to run", PATIENCE, || agent.read("opt/slow.runs").is_some());

    manager.stop();
    manager.listen_at(there.address().to_string());
    go(&pipe);
    manager.serve();
    let cli = manager.cli();
    let row = JobView::wait_for_row(&cli, &second, &agent.id(), "SUCCEEDED");
    assert_eq!(row.attempts, 1);
    let third = cli.id(&format!("job run --package done --client {}", agent.id()));
    JobView::wait_for_row(&cli, &third, &agent.id(), "ALREADY_INSTALLED");
    assert_eq!(agent.read("opt/done.runs").as_deref(), Some("run\n"));
    assert_eq!(agent.read("opt/slow.runs").as_deref(), Some("run\nwent on\n"));
}

#[test]
fn a_canceled_job_starts_nowhere_any_more() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::enrolled("away", &manager);
    agent.stop();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create machines");
    cli.ok(&format!("group add machines {}", agent.id()));
    let job = cli.id("job run --package hello --group machines");
    let other = cli.id(&format!("job run --package hello --client {} --priority 9", agent.id()));
    cli.ok(&format!("job cancel {job} --yes"));
    agent.start();
    // Whoever comes later does not get it either; another job on the same machine runs.
    let later = Agent::enrolled("later", &manager);
    cli.ok(&format!("group add machines {}", later.id()));
    JobView::wait_for_row(&cli, &other, &agent.id(), "SUCCEEDED");
    let package = PackageFolder::counting("other", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let another = cli.id(&format!("job run --package other --client {}", later.id()));
    JobView::wait_for_row(&cli, &another, &later.id(), "SUCCEEDED");
    let view = JobView::of(&cli, &job);
    assert_eq!((view.state.as_str(), view.counters().as_str()), ("CANCELED", "total=1 canceled=1"));
    assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"), "the other job's run alone");
    assert!(!later.root().join("opt/hello").exists());
    // It stays ended, unless it is given a new end.
    cli.fails(1, &format!("job retry {job}"));
}

/// A monitoring script is no reason to put anything off.
#[test]
fn an_agent_that_is_asked_for_its_state_all_the_time_still_looks_after_its_work() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::new("watched");
    agent.configure("");
    let policy = agent.scratch().join("policy.toml");
    fs_err::write(&policy, "hold = true\n").unwrap();
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "WAITING");
    fs_err::write(&policy, "hold = false\n").unwrap();
    // It looks at its rules every two seconds while they hold something.
    wait_until("the installation to begin while its state is asked for again and again", PATIENCE / 4, || {
        agent.status();
        agent.read("opt/hello.runs").is_some()
    });
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
}

#[test]
fn a_job_is_canceled_only_when_the_question_is_answered_with_yes() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create machines");
    let job = cli.id("job run --package hello --group machines");
    let asked = format!("Cancel jobs/{job} (hello");
    // Where nobody can answer.
    cli.fails(2, &format!("job cancel {job}")).says(&[&asked, "--yes"]);
    assert_eq!(JobView::of(&cli, &job).state, "ACTIVE");
    for (answer, code, state) in [("", 1, "ACTIVE"), ("n", 1, "ACTIVE"), ("yes", 0, "CANCELED")] {
        let Some(mut terminal) = Terminal::run(&cli.command(&["job", "cancel", &job])) else { return };
        terminal.answer(&asked, answer);
        terminal.ended().ends_with(code);
        assert_eq!(JobView::of(&cli, &job).state, state, "{answer:?}");
    }
}

#[test]
fn a_retry_means_the_kinds_that_it_names() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::with("foreign", "1.0", "[platform]\nos = \"linux\"\narch = \"riscv128\"\n");
    package.file("data", "x");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agents = vec![Agent::enrolled("here", &manager), Agent::enrolled("away", &manager)];
    agents[1].stop();
    group_of(&manager, "machines", &agents);
    let job = cli.id("job run --package foreign --group machines");
    JobView::wait_for_row(&cli, &job, &agents[0].id(), "REJECTED");
    // By default what a rule said no to is left alone, and what waits isn't touched.
    assert!(cli.ok(&format!("job retry {job}")).contains("0 get a new attempt"));
    let said = cli.ok(&format!("job retry {job} --kind rejected --kind waiting"));
    assert!(said.contains("1 get a new attempt"), "{said}");
    let row = JobView::wait(&cli, &job, "the second rejection", PATIENCE, |view| {
        view.row(&agents[0].id()).is_some_and(|row| row.state == "REJECTED" && row.attempts == 2)
    });
    assert!(row.row(&agents[1].id()).unwrap().attempts <= 1, "who waits gets no new attempt");
}

#[test]
fn the_main_job_on_postgresql_survives_a_killed_manager() {
    let Some(postgres) = Postgres::shared() else { return };
    let mut manager = Manager::start_with(Setup { database: Some(postgres.create_database()), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create new-clients");
    let job = cli.id("job run --package hello --group new-clients");
    cli.ok("policy create all-linux --group new-clients --when 'facts.os.family == \"linux\"'");
    let first = Agent::enrolled("first", &manager);
    JobView::wait_for_row(&cli, &job, &first.id(), "SUCCEEDED");
    manager.kill_and_serve();
    let second = Agent::enrolled("second", &manager);
    JobView::wait_for_row(&cli, &job, &second.id(), "SUCCEEDED");
    let view = JobView::of(&cli, &job);
    assert_eq!(view.counters(), "total=2 finished=2");
    for agent in [&first, &second] {
        assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"));
    }
}
