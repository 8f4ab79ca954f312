//! The agent's journal damaged in every way: it starts, says so, runs nothing a second time, and goes on without a person.

use rustix::fs::{CWD, FileType, Mode};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, wait_until};

/// Counts its run, then waits for whoever opens a pipe of the machine.
const WAITS: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nread -r line <../../etc/go\n";

/// The attempts' files.
fn records(agent: &Agent) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(agent.state().join("attempts")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.')).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    fs_err::write(path, bytes).unwrap();
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs_err::read(path).unwrap();
    change(&mut bytes);
    write(path, &bytes);
}

/// A way to damage the journal, given the only record's file.
type Harm = (&'static str, fn(&Agent, &Path));

const HARMS: [Harm; 11] = [
    ("the record is cut off", |_, record| change(record, |bytes| bytes.truncate(bytes.len() / 2))),
    ("the record is empty", |_, record| write(record, b"")),
    ("a bit of its checksum is flipped", |_, record| change(record, |bytes| bytes[3] ^= 1)),
    ("a bit in the middle is flipped", |_, record| {
        change(record, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10
        })
    }),
    ("the record is garbage", |_, record| write(record, &sutler_tests::harness::noise(5000, 9))),
    ("the record is a folder", |_, record| {
        fs_err::remove_file(record).unwrap();
        fs_err::create_dir(record).unwrap();
        fs_err::set_permissions(record, std::fs::Permissions::from_mode(0o700)).unwrap();
    }),
    ("the record is another's", |_, record| {
        let other = record.with_file_name(record.file_name().unwrap().to_str().unwrap().replace(['0', '1'], "2"));
        fs_err::rename(record, other).unwrap();
    }),
    ("the record is gone", |_, record| fs_err::remove_file(record).unwrap()),
    ("the journal is gone", |agent, _| fs_err::remove_dir_all(agent.state().join("attempts")).unwrap()),
    ("the journal is a file", |agent, _| {
        fs_err::remove_dir_all(agent.state().join("attempts")).unwrap();
        write(&agent.state().join("attempts"), b"?");
    }),
    ("the journal is of another ledger", |agent, _| {
        fs_err::remove_dir_all(agent.state().join("attempts")).unwrap();
        write(&agent.state().join("generation"), b"another");
    }),
];

fn push(cli: &Cli, name: &str, script: &str) {
    let package = PackageFolder::counting(name, "1.0");
    package.file("bin/install", script);
    cli.ok(&format!("package push {}", package.path().display()));
}

/// What is well again goes on by itself: the next job runs.
fn goes_on(cli: &Cli, agent: &Agent, n: usize, what: &str) {
    push(cli, &format!("next-{n}"), sutler_tests::harness::COUNTING);
    let next = cli.id(&format!("job run --package next-{n} --client {}", agent.id()));
    JobView::wait_for_row(cli, &next, &agent.id(), "SUCCEEDED");
    assert_eq!(agent.read(&format!("opt/next-{n}.runs")).as_deref(), Some("run\n"), "{what}");
    assert!(agent.run("doctor").stdout.contains("journal"), "{what}");
}

#[test]
fn a_journal_that_is_damaged_while_a_step_runs_ends_the_attempt_and_runs_nothing_twice() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::enrolled("one", &manager);
    for (n, (what, harm)) in HARMS.into_iter().enumerate() {
        let pipe = agent.root().join("etc/go");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        push(&cli, &format!("waits-{n}"), WAITS);
        let job = cli.id(&format!("job run --package waits-{n} --client {}", agent.id()));
        wait_until("the step to run", PATIENCE, || agent.read(&format!("opt/waits-{n}.runs")).is_some());
        wait_until("the manager to know", PATIENCE, || JobView::of(&cli, &job).row(&agent.id()).is_some_and(|r| r.state == "INSTALLING"));
        wait_until("the attempt before to be over", PATIENCE, || records(&agent).len() == 1);
        agent.kill();
        let files = records(&agent);
        let [record] = files.as_slice() else { panic!("{what}: one attempt is open, not {files:?}") };
        harm(&agent, record);
        agent.start();
        assert!(agent.is_running(), "{what}: it has to start\n{}", agent.log());
        let row = JobView::wait_for_row(&cli, &job, &agent.id(), "INTERRUPTED");
        assert_eq!(row.attempts, 1, "{what}: {row:#?}");
        // It is said by the agent, or the manager says that the agent does not know it any more.
        let said = agent.log().contains("damaged") || agent.log().contains("lost") || row.reason == "JOURNAL_LOST";
        assert!(said, "{what}: nobody says so\n{}", agent.log());
        // The step that was cut loose ends, and nothing starts it again.
        fs_err::write(&pipe, "go\n").unwrap();
        fs_err::remove_file(&pipe).unwrap();
        goes_on(&cli, &agent, n, what);
        assert_eq!(agent.read(&format!("opt/waits-{n}.runs")).as_deref(), Some("run\n"), "{what}: it ran twice");
        assert_eq!(JobView::of(&cli, &job).row(&agent.id()).unwrap().state, "INTERRUPTED", "{what}");
    }
}

#[test]
fn a_journal_that_is_damaged_before_a_report_leaves_one_outcome_and_one_run() {
    let mut manager = Manager::start();
    let mut agent = Agent::enrolled("one", &manager);
    // Fewer ways: what an outcome's record has in common with any other is above.
    for (n, (what, harm)) in HARMS.into_iter().enumerate().filter(|(n, _)| [1, 3, 7, 8].contains(n)) {
        let cli = manager.cli();
        let pipe = agent.root().join("etc/go");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        push(&cli, &format!("ends-{n}"), WAITS);
        let job = cli.id(&format!("job run --package ends-{n} --client {}", agent.id()));
        wait_until("the step to run", PATIENCE, || agent.read(&format!("opt/ends-{n}.runs")).is_some());
        manager.kill();
        fs_err::write(&pipe, "go\n").unwrap();
        fs_err::remove_file(&pipe).unwrap();
        wait_until("the attempt to have ended", PATIENCE, || agent.log().contains("ended attempt="));
        agent.kill();
        let files = records(&agent);
        let [record] = files.as_slice() else { panic!("{what}: {files:?}") };
        harm(&agent, record);
        manager.serve();
        agent.start();
        let row = JobView::wait_for_row(&cli, &job, &agent.id(), "INTERRUPTED");
        assert_eq!(row.attempts, 1, "{what}: {row:#?}");
        assert_eq!(agent.read(&format!("opt/ends-{n}.runs")).as_deref(), Some("run\n"), "{what}");
        agent.stop();
        agent.start();
    }
    let cli = manager.cli();
    goes_on(&cli, &agent, 99, "in the end");
}

#[test]
fn without_its_pins_an_agent_installs_nothing_until_it_has_enrolled_again() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::enrolled("one", &manager);
    let before = agent.id();
    let pins = agent.state().join("pins.json");
    let damages: [fn(&Path); 3] =
        [|pins| fs_err::remove_file(pins).unwrap(), |pins| write(pins, b""), |pins| change(pins, |bytes| bytes.truncate(9))];
    for damage in damages {
        agent.stop();
        let own = fs_err::read(&pins).unwrap();
        damage(&pins);
        agent.start();
        wait_until("the agent to have ended", PATIENCE, || !agent.is_running());
        assert!(agent.log().contains("pins.json") && agent.log().contains("enroll --force"), "{}", agent.log());
        agent.kill();
        write(&pins, &own);
        agent.start();
        assert!(agent.is_running(), "{}", agent.log());
    }
    agent.stop();
    fs_err::remove_file(&pins).unwrap();
    let token = agent.scratch().join("again");
    write(&token, cli.ok("token create").as_bytes());
    agent.ok(&format!("enroll --force --token-file {}", token.display()));
    agent.start();
    assert_ne!(agent.id(), before, "it is a new client");
    goes_on(&cli, &agent, 0, "enrolled again");
}
