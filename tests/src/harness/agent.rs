//! An agent as a process of its own, with a folder of its own and a root of its own to install below.

use super::cleanup::{self, Place};
use super::cli::{self, Done};
use super::disk::SmallDisk;
use super::manager::Manager;
use super::programs;
use super::wait::{PATIENCE, wait_for, wait_until};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A machine with an agent. Everything that it started is killed, and its folders are removed, when it is dropped or the test
/// process ends in any way.
#[derive(Debug)]
pub struct Agent {
    running: Option<Child>,
    disk: Option<SmallDisk>,
    place: Place,
    name: String,
    machine_id: String,
    inside: Vec<String>,
    wrapper: Vec<String>,
    configured: bool,
    starts: u32,
}

impl Agent {
    /// A machine that was never seen before. Nothing runs yet.
    pub fn new(name: &str) -> Agent {
        static MACHINES: AtomicU32 = AtomicU32::new(1);
        let machine_id = format!("{:024x}{:08x}", std::process::id(), MACHINES.fetch_add(1, Ordering::Relaxed));
        let place = Place::new("agent");
        let agent = Agent {
            running: None,
            disk: None,
            place,
            name: name.to_owned(),
            machine_id,
            inside: Vec::new(),
            wrapper: Vec::new(),
            configured: false,
            starts: 0,
        };
        fs_err::create_dir_all(agent.root().join("etc")).expect("a folder can be made");
        fs_err::write(agent.root().join("etc/machine-id"), format!("{}\n", agent.machine_id)).expect("a file can be written");
        agent
    }

    /// A machine that enrolled with a token of its own and runs its agent.
    pub fn enrolled(name: &str, manager: &Manager) -> Agent {
        let mut agent = Agent::new(name);
        agent.enroll(manager.cli().ok("token create").trim());
        agent.start();
        agent
    }

    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id by which it tells itself apart.
    pub fn machine_id(&self) -> &str {
        &self.machine_id
    }

    /// Everything that a power cut would leave: what it installs below, and its own folder.
    fn machine(&self) -> PathBuf {
        self.place.path().join("machine")
    }

    /// From now on all of the machine is on a disk of so many MiB, except the agent's log. False where nobody may mount.
    ///
    /// # Panics
    ///
    /// When the agent runs.
    pub fn on_a_small_disk(&mut self, mib: u32) -> bool {
        assert!(self.running.is_none(), "it runs");
        self.disk = SmallDisk::at(&self.machine(), mib);
        self.disk.is_some()
    }

    /// The disk that it was put on.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("it is on a disk of its own")
    }

    /// What it installs below.
    pub fn root(&self) -> PathBuf {
        self.machine().join("root")
    }

    /// Its own folder.
    pub fn state(&self) -> PathBuf {
        self.machine().join("state")
    }

    /// A folder around both, for whatever a test keeps.
    pub fn scratch(&self) -> &Path {
        self.place.path()
    }

    /// `sutler-agent` on this machine, to be run.
    pub fn command<S: AsRef<str>>(&self, arguments: &[S]) -> Command {
        let mut command = programs::within(&self.inside, Command::new(programs::sutler_agent()));
        command.args(arguments.iter().map(AsRef::as_ref));
        command.arg("--dir").arg(self.state()).arg("--root").arg(self.root()).arg("--socket").arg(self.socket());
        if self.configured {
            command.arg("--config").arg(self.config());
        }
        command
    }

    /// Runs `sutler-agent` with the words of `line` to its end.
    pub fn run(&self, line: &str) -> Done {
        cli::run(self.command(&cli::words(line)), b"")
    }

    /// The standard output of a command that ends well.
    pub fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// Where its commands reach it: beside its folder, so that they do whatever is mounted over that.
    pub fn socket(&self) -> PathBuf {
        self.place.path().join("agent.sock")
    }

    fn config(&self) -> PathBuf {
        self.place.path().join("agent.toml")
    }

    /// From now on this is its configuration.
    pub fn configure(&mut self, toml: &str) {
        use std::os::unix::fs::PermissionsExt;
        fs_err::write(self.config(), toml).expect("a file can be written");
        // Whatever this process's umask is: one that others may write is refused.
        fs_err::set_permissions(self.config(), PermissionsExt::from_mode(0o644)).expect("its mode can be set");
        self.configured = true;
    }

    /// From now on runs every command of this machine through this one, which has to `exec` what is appended to it.
    pub fn inside(&mut self, command: &[&str]) {
        self.inside = command.iter().map(|word| (*word).to_owned()).collect();
    }

    /// The process of the agent.
    ///
    /// # Panics
    ///
    /// When it doesn't run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").id()
    }

    /// From now on, enrols and runs the agent through this command, which has to run what is appended to it: namespaces of
    /// its own, for example. None runs it as it is.
    pub fn within(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Enrols from a file, as the README does it.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn enroll(&self, token: &str) {
        self.try_enroll(token).ok();
    }

    /// Enrols from a file.
    pub fn try_enroll(&self, token: &str) -> Done {
        use std::os::unix::fs::PermissionsExt;
        let file = self.place.path().join("token");
        fs_err::write(&file, format!("{token}\n")).expect("a file can be written");
        fs_err::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("its mode can be set");
        let plain = self.command(&["enroll", "--token-file", &file.to_string_lossy()]);
        cli::run(programs::within(&self.wrapper, plain), b"")
    }

    /// Runs the agent, and waits until its commands reach it (or it has ended).
    ///
    /// # Panics
    ///
    /// When it runs already, or can't be started.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        self.starts += 1;
        let log = File::create(self.log_path()).expect("a log can be written");
        let mut command = programs::within(&self.wrapper, self.command(&["run"]));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file has a second handle")).stderr(log);
        let mut child = command.spawn().expect("the agent can be started");
        let socket = self.socket();
        // A socket file may be a dead agent's: what counts is that somebody listens.
        wait_until("the agent to listen on its socket", PATIENCE, || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok() || !matches!(child.try_wait(), Ok(None))
        });
        self.running = Some(child);
    }

    /// Whether its process is there.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills it with SIGKILL; what its steps run goes on, as after a crash.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    ///
    /// # Panics
    ///
    /// When it doesn't, or ends with an error.
    pub fn stop(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process has an id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = wait_for("the agent to stop", PATIENCE, || child.try_wait().expect("it is ours"));
        assert!(status.success(), "the agent stopped with {status}:\n{}", self.log());
    }

    /// SIGKILL, and up again.
    pub fn kill_and_start(&mut self) {
        self.kill();
        self.start();
    }

    /// What `sutler-agent status -o json` says.
    pub fn status(&self) -> Value {
        let text = self.ok("status -o json");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("the status is no JSON: {e}\n{text}"))
    }

    /// The client that it became: its id, without `clients/`.
    ///
    /// # Panics
    ///
    /// When it has not enrolled.
    pub fn id(&self) -> String {
        let text = fs_err::read_to_string(self.state().join("identity.json")).expect("it has enrolled");
        let identity: Value = serde_json::from_str(&text).expect("it is JSON");
        identity["client_id"].as_str().expect("it is a text").to_owned()
    }

    /// A file below its root; nothing if it isn't there.
    pub fn read(&self, path: &str) -> Option<String> {
        fs_err::read_to_string(self.root().join(path.trim_start_matches('/'))).ok()
    }

    /// Everything that it said since it was last started.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.place.path().join(format!("agent-{}.log", self.starts))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        cleanup::kill_below(self.place.path());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the end of the log of the agent {}\n{}", self.name, lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}
