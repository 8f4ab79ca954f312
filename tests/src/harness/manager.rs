//! A manager as a process of its own, with its folder, its first operator and the addresses that it is bound to.

use super::cleanup::{self, Place};
use super::cli::{self, Cli};
use super::disk::SmallDisk;
use super::port::Port;
use super::programs;
use super::wait::{PATIENCE, wait_for};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The addresses that a manager printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where agents connect.
    pub agents: SocketAddr,
    /// Where operators connect.
    pub operators: SocketAddr,
    /// Metrics and health.
    pub telemetry: SocketAddr,
}

/// How a manager is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where agents connect, with port 0.
    pub agents: String,
    /// Names and addresses of the manager, the first one for agents to connect to.
    pub hosts: Vec<String>,
    /// The addresses that agents are told, in the order to try; from the hosts unless given.
    pub advertise: Vec<String>,
    /// Networks of balancers, as `serve` is told.
    pub balancers: Vec<String>,
    /// The database; embedded SQLite unless given.
    pub database: Option<String>,
    /// Where packages' bytes lie, and the table `[s3]`; in the manager's folder unless given.
    pub content: Option<(String, String)>,
    /// What happens to agents whose certificate ended; as the manager has it unless given.
    pub expired_agents: Option<String>,
    /// What is put into `manager.toml`, below the headers of its tables.
    pub config: String,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            agents: "127.0.0.1:0".into(),
            hosts: vec!["127.0.0.1".into()],
            advertise: Vec::new(),
            balancers: Vec::new(),
            database: None,
            content: None,
            expired_agents: None,
            config: String::new(),
        }
    }
}

/// A manager. Stopped, and its folder removed, when it is dropped or the test process ends in any way.
#[derive(Debug)]
pub struct Manager {
    // Before the place: what is killed first is waited for.
    running: Option<Child>,
    disk: Option<SmallDisk>,
    place: Place,
    setup: Setup,
    addresses: Option<Addresses>,
    // Held while it is down, too: it comes back where it was.
    ports: Vec<Port>,
    wrapper: Vec<String>,
    starts: u32,
}

impl Manager {
    /// A new manager that serves: `sutler init` and `sutler serve` with every port 0.
    ///
    /// # Panics
    ///
    /// When it can't be made or doesn't come up.
    pub fn start() -> Manager {
        Manager::start_with(Setup::default())
    }

    /// The same with a setup of its own.
    pub fn start_with(setup: Setup) -> Manager {
        let mut manager = Manager::init(setup);
        manager.serve();
        manager
    }

    /// A manager's folder in which nobody serves yet.
    pub fn init(setup: Setup) -> Manager {
        let place = Place::new("manager");
        let manager =
            Manager { running: None, disk: None, place, setup, addresses: None, ports: Vec::new(), wrapper: Vec::new(), starts: 0 };
        let folder = manager.folder().to_string_lossy().into_owned();
        let mut arguments = vec!["init", "--dir", &folder, "--trust-domain", "acme.example"];
        manager.setup.hosts.iter().for_each(|host| arguments.extend(["--host", host]));
        manager.setup.database.iter().for_each(|database| arguments.extend(["--database", database]));
        // A passphrase would be asked for at a terminal, which tests don't have.
        cli::run(Cli::new(&manager.config()).command(&arguments), b"").ok();
        manager.configure();
        manager
    }

    /// Writes what the setup says into `manager.toml`: single settings before its tables.
    fn configure(&self) {
        let file = self.folder().join("manager.toml");
        let mut text = fs_err::read_to_string(&file).expect("init has written it");
        if let Some((content, s3)) = &self.setup.content {
            let others: Vec<&str> = text.lines().filter(|line| !line.starts_with("content = ")).collect();
            text = others.join("\n");
            text = format!("content = \"{content}\"\n{text}\n[s3]\n{s3}");
        }
        if let Some(policy) = &self.setup.expired_agents {
            text = format!("expired_agents = \"{policy}\"\n{text}");
        }
        let config = &self.setup.config;
        // The file has every table already.
        for block in config.split_inclusive("\n[").map(|block| block.trim_end_matches('[')).filter(|block| !block.is_empty()) {
            let block = block.trim().trim_start_matches('[');
            let (table, keys) = block.split_once("]\n").expect("each block has a table's header");
            let header = format!("\n[{table}]\n");
            assert!(text.contains(&header), "there is no table {table}");
            text = text.replacen(&header, &format!("{header}{keys}\n"), 1);
        }
        fs_err::write(&file, text).expect("it can be written");
    }

    /// One more manager of the same installation, which serves: with a bundle of the first one, on the same database and with the
    /// same packages' bytes. Its own command line has no profile: take the first one's, [at](Cli::at) its address.
    pub fn joining(first: &Manager, setup: Setup) -> Manager {
        let place = Place::new("manager");
        let mut manager =
            Manager { running: None, disk: None, place, setup, addresses: None, ports: Vec::new(), wrapper: Vec::new(), starts: 0 };
        let word = |path: PathBuf| path.to_string_lossy().into_owned();
        let (bundle, own, others) = (word(manager.place.path().join("bundle")), word(manager.folder()), word(first.folder()));
        // It may have a way of its own to the same database.
        let database = manager.setup.database.clone().or(first.setup.database.clone()).expect("several managers share one");
        let content = match &manager.setup.content {
            Some((content, _)) => content.clone(),
            None => word(first.folder().join("content")),
        };
        let run = |arguments: &[&str]| cli::run(Cli::new(&manager.config()).command(arguments), b"").ok();
        run(&["ca", "export", "--dir", &others, "--output", &bundle]);
        run(&["init", "--dir", &own, "--join", &bundle, "--host", "127.0.0.1", "--database", &database, "--content", &content]);
        manager.configure();
        manager.serve();
        manager
    }

    /// Another one with a copy of this one's folder and profile, which nobody serves.
    ///
    /// # Panics
    ///
    /// When this one serves, or can't be copied.
    pub fn copy(&self) -> Manager {
        assert!(self.running.is_none(), "it runs");
        let place = Place::new("manager");
        for folder in [self.folder(), self.config()] {
            let mut command = Command::new("cp");
            command.arg("-a").arg(folder).arg(place.path());
            cli::run(command, b"").ok();
        }
        Manager {
            running: None,
            disk: None,
            place,
            setup: self.setup.clone(),
            addresses: None,
            ports: Vec::new(),
            wrapper: Vec::new(),
            starts: 0,
        }
    }

    /// From the next start on, runs the manager through this command, which has to run what is appended to it. None runs it
    /// as it is.
    pub fn within(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Whether its process is there.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The manager's folder.
    pub fn folder(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// The first operator's configuration folder.
    pub fn config(&self) -> PathBuf {
        self.place.path().join("config")
    }

    /// Where it is bound.
    ///
    /// # Panics
    ///
    /// When it has never served.
    pub fn addresses(&self) -> Addresses {
        self.addresses.expect("it has served")
    }

    /// The first operator's command line.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.config()).at(self.addresses().operators.to_string())
    }

    /// Serves, on the ports of the last time if there was one, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it runs already, or doesn't come up.
    pub fn serve(&mut self) {
        self.try_serve().unwrap_or_else(|why| panic!("{why}"));
    }

    /// The same where it may end before it answers: the error says how.
    ///
    /// # Panics
    ///
    /// When it runs already, or neither comes up nor ends.
    pub fn try_serve(&mut self) -> Result<(), String> {
        assert!(!self.is_running(), "it runs already");
        self.starts += 1;
        let log_path = self.log_path();
        let log = File::create(&log_path).expect("a log can be written");
        let mut command = Command::new(programs::sutler());
        let [agents, operators, telemetry] = match self.addresses {
            Some(bound) => [bound.agents, bound.operators, bound.telemetry].map(|address| address.to_string()),
            None => [self.setup.agents.clone(), "127.0.0.1:0".into(), "127.0.0.1:0".into()].map(|address| self.hold(address)),
        };
        command.args(["serve", "--dir"]).arg(self.folder());
        command.args(["--agents", &agents, "--operators", &operators, "--telemetry", &telemetry]);
        self.setup.advertise.iter().for_each(|address| {
            command.args(["--advertise", address]);
        });
        self.setup.balancers.iter().for_each(|network| {
            command.args(["--proxy-protocol-from", network]);
        });
        let mut command = programs::within(&self.wrapper, command);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file has a second handle")).stderr(log);
        let mut child = command.spawn().expect("the manager can be started");
        let started = wait_for("the manager to be ready", PATIENCE, || {
            let text = fs_err::read_to_string(&log_path).unwrap_or_default();
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(format!("the manager ended with {status}:\n{text}")));
            }
            let bound = Addresses {
                agents: address(&text, "agents")?,
                operators: address(&text, "operators")?,
                telemetry: address(&text, "telemetry").or_else(|| address(&text, "metrics"))?,
            };
            get(bound.telemetry, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")).then_some(Ok(bound))
        });
        self.addresses = Some(started?);
        self.running = Some(child);
        Ok(())
    }

    /// The process of the manager.
    ///
    /// # Panics
    ///
    /// When it doesn't run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").id()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            // What it runs in may end before it does: the manager itself is killed, and what it runs in ends with it.
            let itself = self.running_program().filter(|_| !self.wrapper.is_empty());
            match itself {
                Some(pid) => drop(rustix::process::kill_process(pid, rustix::process::Signal::KILL)),
                None => drop(child.kill()),
            }
            let _ = child.wait();
        }
    }

    /// The manager's own process.
    fn running_program(&self) -> Option<rustix::process::Pid> {
        let is_manager = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("sutler"));
        cleanup::processes_below(&self.folder()).into_iter().find(is_manager).and_then(rustix::process::Pid::from_raw)
    }

    /// Stops it where it is (SIGSTOP): it does nothing and answers nobody until it [goes on](Manager::go_on), and nobody is told.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process has an id");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    ///
    /// # Panics
    ///
    /// When it ends with an error, or not at all.
    pub fn stop(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process has an id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = wait_for("the manager to stop", PATIENCE, || child.try_wait().expect("it is ours"));
        assert!(status.success(), "the manager stopped with {status}:\n{}", self.log());
    }

    /// SIGKILL, and up again with the same folder and ports.
    pub fn kill_and_serve(&mut self) {
        self.kill();
        self.serve();
    }

    /// Moves: from the next start on it listens for agents at this address.
    pub fn listen_at(&mut self, agents: String) {
        self.setup.agents = agents;
        self.addresses = None;
        self.ports.clear();
    }

    /// Holds a port of this address, and tells which; the address as it is where only the manager can be bound to it, in the
    /// network namespace that it runs in.
    fn hold(&mut self, address: String) -> String {
        let Ok(port) = Port::at(address.parse().expect("an address with a port")) else { return address };
        let held = port.address().to_string();
        self.ports.push(port);
        held
    }

    /// Everything that it said since it was last started.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.place.path().join(format!("manager-{}.log", self.starts))
    }

    /// The value of a metric without labels, if there is one.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let answer = get(self.addresses().telemetry, "/metrics")?;
        answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// From now on the manager's folder is on a disk of so many MiB. False where nobody may mount.
    ///
    /// # Panics
    ///
    /// When the manager runs.
    pub fn on_a_small_disk(&mut self, mib: u32) -> bool {
        assert!(self.running.is_none(), "it runs");
        self.disk = SmallDisk::at(&self.folder(), mib);
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

    /// A folder beside the manager's, for whatever a test keeps.
    pub fn scratch(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the end of the manager's log\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// The address that follows `what` on a line.
fn address(text: &str, what: &str) -> Option<SocketAddr> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(what)?;
        rest.split(|c: char| c.is_whitespace() || "\"',=".contains(c)).find_map(|word| word.trim_start_matches("http://").parse().ok())
    })
}

/// The answer to a plain HTTP request.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
