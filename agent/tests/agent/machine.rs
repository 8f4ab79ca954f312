//! A machine with an agent in this process; its steps run under real supervisors.

use crate::manager::{Manager, PATIENCE};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use sutler_agent::{
    Agent, Deps, Ended, Handle,
    clock::{Clock, SystemClock},
    identity,
    install::{Layout, Supervisor},
    installer::Machine as Installer,
    journal::{FolderJournal, Journal},
    limits::Limits,
    link,
    policy::Policy,
    vault::FolderVault,
};
use tokio::task::JoinHandle;

pub(crate) struct Machine {
    folder: tempfile::TempDir,
    running: Option<JoinHandle<Result<Ended, String>>>,
    /// For the agents that are made from now on.
    pub(crate) limits: Limits,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("root/etc")).unwrap();
        std::fs::write(folder.path().join("root/etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        Machine { folder, running: None, limits: Limits::default() }
    }

    /// A machine that is enrolled and whose agent runs and is connected.
    pub(crate) async fn connected(manager: &Manager) -> (Machine, Handle) {
        let mut machine = Machine::new();
        machine.enroll(manager).await.unwrap();
        let sessions = manager.sessions().len();
        let handle = machine.start().await;
        manager.connected(sessions + 1).await;
        // The manager has said welcome; the agent has to have heard it, too.
        let welcomed = tokio::time::timeout(PATIENCE, async {
            while handle.status().await.expect("it runs").connected.is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        welcomed.await.expect("the agent hears the welcome");
        (machine, handle)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn policy_file(&self) -> PathBuf {
        self.folder.path().join("policy.toml")
    }

    /// Writes the machine's own rules.
    pub(crate) fn set_policy(&self, text: &str) {
        std::fs::write(self.policy_file(), text).unwrap();
    }

    /// A place that steps write to: beside the root, so that no exchange takes it away.
    pub(crate) fn scratch(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn enroll(&self, manager: &Manager) -> Result<identity::Enrolled, identity::EnrollError> {
        self.enroll_with(&manager.token(), false).await
    }

    pub(crate) async fn enroll_with(
        &self,
        token: &sutler_base::token::TokenString,
        force: bool,
    ) -> Result<identity::Enrolled, identity::EnrollError> {
        let vault = FolderVault::open(&self.state()).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        identity::enroll(&vault, token, "host", "0123456789abcdef0123456789abcdef", force, link::tls_clock(&link::ManagerTime::new(clock)))
            .await
    }

    pub(crate) async fn try_agent(&self) -> Result<(Agent, Handle), sutler_agent::AgentError> {
        self.try_agent_with(Box::new(FolderJournal::new(&self.state(), [3; 16]))).await
    }

    /// The same with a journal of the test's own.
    pub(crate) async fn try_agent_with(&self, journal: Box<dyn Journal>) -> Result<(Agent, Handle), sutler_agent::AgentError> {
        let layout = Layout::new(self.root(), self.state()).unwrap();
        let supervisor = Supervisor { program: env!("CARGO_BIN_EXE_sutler-agent").into(), leading_args: vec!["supervise".into()] };
        let numbers = AtomicU64::new(0x1234_5678_9abc_def1);
        Agent::new(Deps {
            vault: Arc::new(FolderVault::open(&self.state()).unwrap()),
            journal,
            installer: Arc::new(Installer::new(layout, supervisor, [4; 16])),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(move || numbers.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)),
            policy: Policy::File(self.policy_file()),
            programs: Default::default(),
            limits: self.limits.clone(),
            trial: sutler_agent::Trial::Unknown,
        })
        .await
    }

    pub(crate) async fn start(&mut self) -> Handle {
        let (agent, handle) = self.try_agent().await.unwrap();
        self.run(agent);
        handle
    }

    /// Runs an agent that was made for this machine.
    pub(crate) fn run(&mut self, agent: Agent) {
        self.running = Some(tokio::spawn(async move { agent.run().await.map_err(|e| e.to_string()) }));
    }

    /// As SIGKILL would, as far as that can be done in one process: nothing that the agent does goes on.
    pub(crate) async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }

    /// Waits for the agent's own end.
    pub(crate) async fn ended(&mut self) -> Result<Ended, String> {
        let running = self.running.take().expect("it runs");
        tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap()
    }

    /// How many lines a file has that steps append to; 0 if it is not there.
    pub(crate) fn lines(&self, name: &str) -> usize {
        std::fs::read_to_string(self.scratch().join(name)).map_or(0, |text| text.lines().count())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

/// Waits until a condition about the world holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} does not come"));
}
