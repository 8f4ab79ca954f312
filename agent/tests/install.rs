//! Steps run by real supervisors: at most once, to their end, whatever happens to the agent.

use fs_err as fs;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use sutler_agent::install::{Error, Layout, Place, Reserve, Running, Source, Staging, StepEnd, StepId, StepSpec, Supervisor};
use sutler_agent::install::{forget, pick_up, start};
use sutler_base::{
    AttemptId, Digest, Timestamp, limits,
    manifest::{Manifest, Phase, Step},
    state::ErrorKind,
};

/// Names the folder of a machine to the process that plays the agent in this test program.
const AGENT: &str = "SUTLER_TEST_AGENT";

struct Machine {
    _folder: Option<tempfile::TempDir>,
    layout: Layout,
    manifest: Manifest,
}

fn attempt() -> AttemptId {
    AttemptId::new(Timestamp::from_millisecond(1_000).unwrap(), [1; 16])
}

fn id() -> StepId {
    StepId { attempt: attempt(), item: 0, step: 0 }
}

fn supervisor() -> Supervisor {
    Supervisor { program: env!("CARGO_BIN_EXE_sutler-agent").into(), leading_args: vec!["supervise".into()] }
}

fn step(argv: &[&str]) -> Step {
    let argv = argv.iter().map(|a| (*a).to_owned()).collect();
    Step { time_limit: 600, ..Step::new("install", Phase::Install, argv) }
}

fn shell(script: &str) -> Step {
    step(&["/bin/sh", "-c", script])
}

impl Machine {
    fn at(folder: &Path) -> Machine {
        let layout = Layout::new(folder.join("root"), folder.join("state")).unwrap();
        let manifest = Manifest { steps: vec![shell("true")], ..Manifest::new("tool".parse().unwrap(), "1.2".parse().unwrap(), 1) };
        let source = Source { manifest: manifest.clone().into(), digest: Digest::of(b"") };
        Staging::open(&layout, source, &Default::default(), &attempt(), 0, Reserve::default()).unwrap().finish().unwrap();
        Machine { _folder: None, layout, manifest }
    }

    fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Machine::at(folder.path());
        machine._folder = Some(folder);
        machine
    }

    fn tree(&self) -> PathBuf {
        self.layout.state().join("staging").join(format!("{}-0", attempt()))
    }

    fn spec(&self, step: &Step) -> Result<StepSpec, Error> {
        StepSpec::new(&self.layout, id(), &self.manifest, step, Place::Staged)
    }

    fn start(&self, step: &Step) -> Result<Running, Error> {
        start(&self.layout, &supervisor(), &self.spec(step)?)
    }

    fn run(&self, step: &Step) -> (StepEnd, String) {
        let ended = self.start(step).unwrap().wait_blocking().unwrap();
        (ended.end, ended.output)
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.tree().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        path
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.tree().join(name), text).unwrap();
        fs::set_permissions(self.tree().join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.tree().join(name)).unwrap()
    }
}

fn exited(code: i32) -> StepEnd {
    StepEnd::Exited { code }
}

#[test]
fn an_installer_runs_once_although_it_is_started_again() {
    let machine = Machine::new();
    let appends = shell("echo line >> log; echo said; echo so >&2; exit 3");
    assert!(pick_up(&machine.layout, &id()).unwrap().is_none());
    let running = machine.start(&appends).unwrap();
    assert!(matches!(machine.start(&appends), Err(Error::AlreadyStarted { .. })));
    let ended = running.wait_blocking().unwrap();
    assert_eq!((ended.end, ended.output.as_str()), (exited(3), "said\nso\n"));
    assert!(ended.finished.is_some());
    assert!(matches!(machine.start(&appends), Err(Error::AlreadyStarted { .. })));
    let again = pick_up(&machine.layout, &id()).unwrap().unwrap().wait_blocking().unwrap();
    assert_eq!((again.end, again.output.as_str()), (exited(3), "said\nso\n"));
    assert_eq!(machine.read("log"), "line\n");
}

/// Plays the agent for the next test, in a process of its own.
#[test]
fn the_agents_part() {
    let Some(folder) = std::env::var_os(AGENT) else { return };
    let machine = Machine::at(Path::new(&folder));
    let _running = machine.start(&shell("echo begun > begun; read line < go; echo $line >> log; echo out; exit 7")).unwrap();
    // Until it is killed.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

#[test]
fn a_step_survives_the_agents_sigkill_and_its_result_is_picked_up() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::at(folder.path());
    let (begun, go) = (machine.fifo("begun"), machine.fifo("go"));
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_agents_part", "--nocapture"])
        .env(AGENT, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(fs::read_to_string(begun).unwrap(), "begun\n");
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(matches!(machine.start(&shell("echo second >> log")), Err(Error::AlreadyStarted { .. })));
    assert!(matches!(forget(&machine.layout, &attempt()), Err(Error::StillRunning { .. })));
    let running = pick_up(&machine.layout, &id()).unwrap().unwrap();
    fs::OpenOptions::new().write(true).open(go).unwrap().write_all(b"line\n").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ended = runtime.block_on(running.wait()).unwrap();
    assert_eq!((ended.end, ended.output.as_str()), (exited(7), "out\n"));
    assert_eq!(machine.read("log"), "line\n");
    forget(&machine.layout, &attempt()).unwrap();
    assert!(pick_up(&machine.layout, &id()).unwrap().is_none());
    assert!(!machine.tree().exists());
}

/// Reads a fifo to its end in a thread: that comes when nobody holds it open for writing any more.
fn ends(fifo: PathBuf) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || fs::read_to_string(fifo).unwrap())
}

#[test]
fn the_time_limit_ends_the_whole_process_group() {
    let machine = Machine::new();
    let held = ends(machine.fifo("held"));
    // The child ignores SIGTERM, its parent obeys and says so.
    let script = "exec 9> held; (trap '' TERM; exec sleep 1000) & trap 'echo told; exit 0' TERM; echo waiting; wait";
    assert_eq!(machine.run(&Step { time_limit: 1, ..shell(script) }), (StepEnd::TimedOut, "waiting\ntold\n".into()));
    assert_eq!(held.join().unwrap(), "");
}

#[test]
fn a_step_that_ignores_sigterm_is_killed() {
    let machine = Machine::new();
    let held = ends(machine.fifo("held"));
    let script = "trap '' TERM; exec 9> held; echo waiting; sleep 1000 & wait; wait";
    assert_eq!(machine.run(&Step { time_limit: 1, ..shell(script) }), (StepEnd::TimedOut, "waiting\n".into()));
    assert_eq!(held.join().unwrap(), "");
}

#[test]
fn what_a_step_leaves_in_its_group_is_killed_at_its_end() {
    let machine = Machine::new();
    let held = ends(machine.fifo("held"));
    assert_eq!(machine.run(&shell("exec 9> held; sleep 1000 & echo done")).0, exited(0));
    assert_eq!(held.join().unwrap(), "");
}

#[test]
fn only_the_end_of_the_output_is_kept() {
    let machine = Machine::new();
    let ended = machine.start(&shell("yes 0123456789 | head -c 3000000; printf '\\377 the end'")).unwrap().wait_blocking().unwrap();
    let output = ended.output;
    assert_eq!(ended.end, exited(0));
    assert!(output.ends_with("0123456789\n012\u{fffd} the end"), "{}", &output[output.len() - 40..]);
    assert_eq!(output.len(), limits::OUTPUT_TAIL_MAX + 2, "the replacement character has 3 bytes for one");
    assert_eq!(ended.output_cut, 3_000_009 - limits::OUTPUT_TAIL_MAX as u64, "it is known how much is missing");
}

#[test]
fn a_signal_that_ends_a_step_is_named() {
    assert_eq!(Machine::new().run(&shell("kill -SEGV $$")).0, StepEnd::Signaled { signal: 11 });
}

#[test]
fn a_program_that_is_not_there_or_not_in_the_package_is_not_started() {
    let machine = Machine::new();
    let refused = |program: &str| {
        let refused = machine.spec(&step(&[program])).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StepNotStarted);
        refused.to_string()
    };
    assert!(refused("./missing").contains("No such file"));
    symlink("/bin/true", machine.tree().join("away")).unwrap();
    assert!(refused("away").contains("outside"));
    let elsewhere = Step { directory: Some("nowhere".parse().unwrap()), ..shell("true") };
    assert!(matches!(machine.spec(&elsewhere), Err(Error::Program { .. })));
    // No shell takes what the kernel can't run.
    machine.write("text", "echo hello > ran\n");
    let (end, output) = machine.run(&step(&["./text"]));
    assert!(matches!(&end, StepEnd::NotStarted(why) if why.contains("Exec format error")), "{end:?}");
    assert_eq!(output, "");
    assert!(!machine.tree().join("ran").exists());
}

#[test]
fn a_step_gets_its_own_arguments_and_clean_surroundings() {
    let machine = Machine::new();
    fs::create_dir(machine.tree().join("sub")).unwrap();
    machine.write("sub/show", "#!/bin/sh\nprintf '<%s>' \"$@\"; echo; pwd; umask; ls /proc/self/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/self/status; readlink /proc/$$/fd/0; env | sort\n");
    let given = BTreeMap::from([("GIVEN".to_owned(), "a b".to_owned()), ("SUTLER_PACKAGE".to_owned(), "forged".to_owned())]);
    let shows = Step { directory: Some("sub".parse().unwrap()), environment: given, ..step(&["./show", "a b", "$HOME", "*", ""]) };
    let (end, output) = machine.run(&shows);
    assert_eq!(end, exited(0), "{output}");
    let mut lines = output.lines();
    let mut next = || lines.next().unwrap_or_default().to_owned();
    assert_eq!(next(), "<a b><$HOME><*><>");
    assert_eq!(next(), machine.tree().join("sub").display().to_string());
    assert_eq!(next(), "0022");
    // Three streams, and what `ls` opens to list them.
    assert_eq!(next(), "0 1 2 3 SigBlk:\t0000000000000000");
    // 32 and 33 belong to the C library, which lets nobody touch them.
    let ignored = u64::from_str_radix(next().trim_start_matches("SigIgn:\t"), 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0);
    assert_eq!(next(), "/dev/null");
    let environment: Vec<&str> = lines.collect();
    let tree = machine.tree();
    let expected = [
        // The machine's root is one of its own here.
        format!("DPKG_ADMINDIR={}/var/lib/dpkg", machine.layout.root().display()),
        format!("DPKG_ROOT={}", machine.layout.root().display()),
        "GIVEN=a b".to_owned(),
        "LANG=C.UTF-8".to_owned(),
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("SUTLER_ATTEMPT={}", attempt()),
        format!("SUTLER_DIRECTORY={}", tree.display()),
        "SUTLER_PACKAGE=tool".to_owned(),
        format!("SUTLER_ROOT={}", machine.layout.root().display()),
        "SUTLER_VERSION=1.2".to_owned(),
    ];
    for variable in &expected {
        assert!(environment.contains(&variable.as_str()), "{variable} is not in {environment:?}");
    }
    // Those of the shell itself, and the home of whoever runs the agent.
    let others = |v: &&&str| !["PWD=", "OLDPWD=", "_=", "SHLVL=", "HOME="].iter().any(|name| v.starts_with(name));
    assert_eq!(environment.iter().filter(others).count(), expected.len(), "{environment:?}");
}

#[test]
fn a_step_whose_supervisor_was_killed_is_interrupted_and_none_of_it_runs_on() {
    let machine = Machine::new();
    let begun = machine.fifo("begun");
    let held = ends(machine.fifo("held"));
    let running = machine.start(&shell("exec 9> held; (sleep 60; echo line >> log) & echo $PPID > begun; wait; echo line >> log")).unwrap();
    let supervisor: i32 = fs::read_to_string(begun).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(supervisor).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(running.wait_blocking().unwrap().end, StepEnd::Interrupted);
    assert_eq!(held.join().unwrap(), "");
    assert!(!machine.tree().join("log").exists());
    assert!(matches!(machine.start(&shell("true")), Err(Error::AlreadyStarted { .. })));
    assert_eq!(pick_up(&machine.layout, &id()).unwrap().unwrap().wait_blocking().unwrap().end, StepEnd::Interrupted);
}

#[test]
fn an_agent_that_died_before_the_supervisor_began_has_not_started_the_step_and_never_will() {
    let machine = Machine::new();
    let folder = machine.layout.state().join("steps").join(attempt().as_str()).join("0/0");
    // After the gate, then after the lock.
    for file in ["", "lock"] {
        fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        fs::create_dir_all(&folder).unwrap();
        if !file.is_empty() {
            fs::write(folder.join(file), "").unwrap();
        }
        let ended = pick_up(&machine.layout, &id()).unwrap().unwrap().wait_blocking().unwrap();
        assert!(matches!(ended.end, StepEnd::NotStarted(_)), "{ended:?}");
        assert!(matches!(machine.start(&shell("true")), Err(Error::AlreadyStarted { .. })));
    }
}

#[test]
fn a_supervisor_that_can_not_be_run_is_an_error_and_not_a_wait() {
    let machine = Machine::new();
    let missing = Supervisor { program: "/nowhere/sutler-agent".into(), leading_args: vec![] };
    let spec = machine.spec(&shell("true")).unwrap();
    assert!(matches!(start(&machine.layout, &missing, &spec), Err(Error::Spawn { .. })));
    let ended = pick_up(&machine.layout, &id()).unwrap().unwrap().wait_blocking().unwrap();
    assert!(matches!(ended.end, StepEnd::NotStarted(_)), "{ended:?}");
}

#[test]
fn sigterm_at_a_shutdown_ends_the_step_and_is_recorded() {
    let machine = Machine::new();
    let begun = machine.fifo("begun");
    let running = machine.start(&shell("echo $PPID $$ > begun; sleep 1000 & wait")).unwrap();
    let text = fs::read_to_string(begun).unwrap();
    // A shutdown signals everybody, the supervisor first.
    for pid in text.split_whitespace() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
    assert_eq!(running.wait_blocking().unwrap().end, StepEnd::Signaled { signal: 15 });
}
