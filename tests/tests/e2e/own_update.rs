//! The agent is a package, too: a new one takes the place of the old one when it has reached the manager, and not before.

use std::fs;
use std::path::{Path, PathBuf};
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, Row, programs, wait_for, wait_until};

/// A machine whose agent lies where the package `sutler-agent` puts it; somebody copied it there.
struct Machine {
    agent: Agent,
    program: PathBuf,
}

impl Machine {
    fn start(manager: &Manager, trial: &str) -> Machine {
        let mut agent = Agent::new("one");
        let program = agent.root().join("opt/sutler-agent/bin/sutler-agent");
        fs_err::create_dir_all(program.parent().unwrap()).unwrap();
        fs_err::copy(programs::sutler_agent(), &program).unwrap();
        // The harness names the program that was built: this machine's own takes its place.
        let own = format!("shift; exec {} \"$@\"", program.display());
        agent.within(&["sh", "-c", &own, "sh"]);
        agent.configure(&format!("[limits]\nagent_trial = \"{trial}\"\n"));
        agent.enroll(manager.cli().ok("token create").trim());
        agent.start();
        Machine { agent, program }
    }

    /// The file that the agent's process runs.
    fn running(&self) -> PathBuf {
        fs_err::read_link(format!("/proc/{}/exe", self.agent.pid())).unwrap()
    }

    /// Pushes an agent with this program and waits for what becomes of it here.
    fn update(&self, cli: &Cli, version: &str, program: impl AsRef<[u8]>) -> Row {
        let job = self.order(cli, version, program);
        JobView::wait_for_end(cli, &job, &self.agent.id())
    }

    fn order(&self, cli: &Cli, version: &str, program: impl AsRef<[u8]>) -> String {
        let package = new_agent(version, program);
        cli.ok(&format!("package push {}", package.path().display()));
        cli.id(&format!("job run --package sutler-agent --client {}", self.agent.id()))
    }

    /// Whether it installs what it is told to, with the agent that it has.
    fn works(&self, cli: &Cli, name: &str) {
        let package = PackageFolder::counting(name, "1.0");
        cli.ok(&format!("package push {}", package.path().display()));
        let job = cli.id(&format!("job run --package {name} --client {}", self.agent.id()));
        JobView::wait_for_row(cli, &job, &self.agent.id(), "SUCCEEDED");
        assert_eq!(self.agent.read(&format!("opt/{name}.runs")).as_deref(), Some("run\n"));
    }

    /// What lies beside the agent's folder.
    fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(self.agent.root().join("opt")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.contains("sutler")).collect();
        names.sort();
        names
    }
}

/// The package of an agent.
fn new_agent(version: &str, program: impl AsRef<[u8]>) -> PackageFolder {
    let package = PackageFolder::with("sutler-agent", version, "");
    package.replace("directory =", "agent = \"bin/sutler-agent\"\ndirectory =");
    package.file("bin/sutler-agent", program);
    package
}

/// The agent, but for what is put behind its end: another file that does the same.
fn as_good(mark: &str) -> Vec<u8> {
    let mut bytes = fs_err::read(programs::sutler_agent()).unwrap();
    bytes.extend_from_slice(mark.as_bytes());
    bytes
}

#[test]
fn a_new_agent_takes_the_place_of_the_old_one_in_the_same_process_and_goes_on() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut machine = Machine::start(&manager, "2m");
    machine.works(&cli, "before");
    let pid = machine.agent.pid();
    // The first was copied there by hand, the second is a package that takes the place of a package.
    for (version, mark) in [("2.0", "two"), ("3.0", "three")] {
        let row = machine.update(&cli, version, as_good(mark));
        assert_eq!(row.state, "SUCCEEDED", "{}\n{}", row.detail, machine.agent.log());
        wait_until("the old agent to become the new one", PATIENCE, || machine.running() == machine.program);
        assert_eq!(fs_err::read(&machine.program).unwrap(), as_good(mark));
        assert_eq!(machine.beside(), ["sutler-agent"], "nothing of the old one is left");
        machine.works(&cli, mark);
        let installed = &machine.agent.status()["installed"];
        assert!(installed.to_string().contains(version), "{installed:#}");
    }
    assert_eq!(machine.agent.pid(), pid, "whoever started the service sees one process throughout");
    assert!(machine.agent.is_running());
    // The same once more is there already.
    let again = cli.id(&format!("job run --package sutler-agent --client {}", machine.agent.id()));
    assert_eq!(JobView::wait_for_end(&cli, &again, &machine.agent.id()).state, "ALREADY_INSTALLED");
    let off = cli.id(&format!("job run --uninstall sutler-agent --client {}", machine.agent.id()));
    let row = JobView::wait_for_row(&cli, &off, &machine.agent.id(), "REJECTED");
    assert!(row.detail.contains("sutler-agent unenroll"), "{}", row.detail);
    machine.agent.kill_and_start();
    machine.works(&cli, "after");
}

#[test]
fn a_new_agent_that_crashes_at_its_start_is_reported_with_its_last_words_and_the_old_one_goes_on() {
    let manager = Manager::start();
    let cli = manager.cli();
    let machine = Machine::start(&manager, "2m");
    let program = fs_err::read(&machine.program).unwrap();
    let job = machine.order(&cli, "2.0", "#!/bin/sh\necho the disk fell out >&2\nexit 3\n");
    let row = JobView::wait_for_end(&cli, &job, &machine.agent.id());
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("FAILED", "AGENT_NOT_CONNECTED"), "{}", row.detail);
    assert!(row.detail.contains("the new agent ended with exit code 3 before it had reached the manager"), "{}", row.detail);
    let line = format!("job executions {} --client {}", job, machine.agent.id());
    assert!(cli.ok(&line).contains("the disk fell out"), "{}", cli.ok(&line));
    // What is no program at all.
    let row = machine.update(&cli, "3.0", &as_good("")[..4000]);
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("FAILED", "AGENT_NOT_CONNECTED"), "{}", row.detail);
    assert_eq!((machine.running(), fs_err::read(&machine.program).unwrap()), (machine.program.clone(), program));
    wait_until("what was staged to go", PATIENCE, || machine.beside() == ["sutler-agent"]);
    machine.works(&cli, "after");
    // And the next one may be good.
    assert_eq!(machine.update(&cli, "4.0", as_good("four")).state, "SUCCEEDED");
}

#[test]
fn a_new_agent_that_cannot_connect_is_given_up_after_its_time_and_the_old_one_goes_on() {
    let manager = Manager::start();
    let cli = manager.cli();
    let machine = Machine::start(&manager, "3s");
    let package = new_agent("2.0", "#!/bin/sh\nunshare -rn true && exec unshare -rn \"${0%/*}/real\" \"$@\"\nexec sleep 600\n");
    // The agent as it is, on a machine without a network; where nobody may make such a one, something that does nothing.
    package.file("bin/real", as_good(""));
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id(&format!("job run --package sutler-agent --client {}", machine.agent.id()));
    let row = JobView::wait_for_end(&cli, &job, &machine.agent.id());
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("FAILED", "AGENT_NOT_CONNECTED"), "{}", row.detail);
    assert!(row.detail.contains("did not reach the manager within 3 s"), "{}", row.detail);
    assert_eq!(machine.running(), machine.program);
    wait_until("what was staged to go", PATIENCE, || machine.beside() == ["sutler-agent"]);
    machine.works(&cli, "after");
}

#[test]
fn a_machine_that_goes_down_while_it_tries_a_new_agent_comes_back_with_the_old_one() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut machine = Machine::start(&manager, "1h");
    let note = machine.agent.scratch().join("tried");
    let script = format!("#!/bin/sh\necho $$ >{0}.new && mv {0}.new {0}\nexec sleep 3600\n", note.display());
    let job = machine.order(&cli, "2.0", script);
    let tried = wait_for("the new agent to be tried", PATIENCE, || fs::read_to_string(&note).ok());
    machine.agent.kill();
    let gone = || !Path::new(&format!("/proc/{}/exe", tried.trim())).exists();
    wait_until("the new agent to go with the old one", PATIENCE, gone);
    machine.agent.start();
    let row = JobView::wait_for_row(&cli, &job, &machine.agent.id(), "INTERRUPTED");
    assert_eq!(machine.running(), machine.program, "{}", row.detail);
    machine.works(&cli, "after");
    // Who stops the service stops both.
    fs_err::remove_file(&note).unwrap();
    cli.ok(&format!("job retry {job} --kind error"));
    let tried = wait_for("the new agent to be tried again", PATIENCE, || fs::read_to_string(&note).ok());
    machine.agent.stop();
    assert!(!Path::new(&format!("/proc/{}/exe", tried.trim())).exists());
    machine.agent.start();
    JobView::wait_for_row(&cli, &job, &machine.agent.id(), "INTERRUPTED");
}

#[test]
fn an_agent_that_gives_its_place_back_or_keeps_it_ends_at_once_and_cuts_off_nobody_who_waits() {
    let manager = Manager::start();
    let cli = manager.cli();
    let machine = Machine::start(&manager, "1h");
    machine.works(&cli, "before");
    // It reaches the manager and takes the place; what is asked after that says no, or yes. Others wait for their turn meanwhile.
    for (version, code, end, stays) in [("2.0", 1, "FAILED", ""), ("3.0", 0, "SUCCEEDED", "3.0")] {
        let package = new_agent(version, as_good(version));
        let gate = machine.agent.scratch().join(version);
        let here = format!("tail -c 3 {} | grep -q {version} || exit 9", machine.program.display());
        let script = format!("{here}; while [ ! -e {} ]; do sleep 0.1; done; exit {code}", gate.display());
        package.append(&format!("[[detection]]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n"));
        cli.ok(&format!("package push {}", package.path().display()));
        let job = cli.id(&format!("job run --package sutler-agent --client {}", machine.agent.id()));
        let lies = |mark: &str| fs::read(&machine.program).is_ok_and(|bytes| bytes == as_good(mark));
        wait_until("the new agent to lie in the place", PATIENCE, || lies(version));
        let names = ["a", "b", "c"].map(|name| format!("{name}{code}"));
        let waiting = names.map(|name| {
            let package = PackageFolder::counting(&name, "1.0");
            cli.ok(&format!("package push {}", package.path().display()));
            let job = cli.id(&format!("job run --package {name} --client {}", machine.agent.id()));
            JobView::wait_for_row(&cli, &job, &machine.agent.id(), "WAITING");
            job
        });
        fs_err::write(&gate, "").unwrap();
        JobView::wait_for_row(&cli, &job, &machine.agent.id(), end);
        // Long before the trial's time is over the one that lies there is the one that runs, and alone.
        assert!(lies(stays));
        wait_until("the agent that lies there to run", PATIENCE, || machine.running() == machine.program);
        let children = || {
            let threads = fs::read_dir(format!("/proc/{}/task", machine.agent.pid())).unwrap().flatten();
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()).collect::<String>()
        };
        wait_until("the other one to have ended", PATIENCE, || children().trim().is_empty());
        for job in waiting {
            JobView::wait_for_row(&cli, &job, &machine.agent.id(), "SUCCEEDED");
        }
    }
}

#[test]
fn an_agent_is_replaced_in_its_own_place_and_never_with_what_else_lies_there() {
    let manager = Manager::start();
    let cli = manager.cli();
    let elsewhere = Agent::enrolled("elsewhere", &manager);
    let machine = Machine::start(&manager, "2m");
    fs_err::write(machine.agent.root().join("opt/sutler-agent/notes"), "mine").unwrap();
    let package = new_agent("2.0", as_good("two"));
    cli.ok(&format!("package push {}", package.path().display()));
    let run = |agent: &Agent| {
        let job = cli.id(&format!("job run --package sutler-agent --client {}", agent.id()));
        JobView::wait_for_end(&cli, &job, &agent.id())
    };
    let row = run(&elsewhere);
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("REJECTED", "REQUIREMENT_NOT_MET"), "{}", row.detail);
    let wanted = elsewhere.root().join("opt/sutler-agent/bin/sutler-agent");
    assert!(row.detail.contains(&wanted.display().to_string()) && row.detail.contains("whose place it takes"), "{}", row.detail);
    let row = run(&machine.agent);
    assert_eq!(row.state, "FAILED");
    assert!(row.detail.contains("files that Sutler did not install"), "{}", row.detail);
    assert_eq!(machine.agent.read("opt/sutler-agent/notes").as_deref(), Some("mine"));
    assert_eq!(machine.running(), machine.program);
}
