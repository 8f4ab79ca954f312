//! A machine that is simulated, with a real agent.

use crate::harness::PATIENCE;
use std::time::{Duration, Instant};
use sutler_agent::{
    AgentError, Ended, Handle,
    agent::{Answer, Status},
    simulation::Simulated,
};
use sutler_base::{ClientId, GroupName, state::ClientState, token::TokenString};
use tokio::{runtime, task::JoinHandle};

/// How long is waited between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// A machine that is enrolled. Its agent runs or doesn't.
pub struct Machine {
    /// What it is, and what it has run.
    pub simulated: Simulated,
    client: ClientId,
    runtime: runtime::Handle,
    running: Option<(Handle, JoinHandle<Result<Ended, AgentError>>)>,
}

impl Machine {
    /// A machine that was never seen before, enrolled. Its agent doesn't run yet.
    ///
    /// # Panics
    ///
    /// When the manager refuses it.
    pub fn enroll(name: &str, seed: u64, token: &str, runtime: &runtime::Handle) -> Machine {
        let simulated = Simulated::new(name, seed);
        let token = TokenString::parse(token).expect("it is a token");
        let enrolled = runtime.block_on(simulated.enroll(&token)).unwrap_or_else(|e| panic!("{name} can't enrol: {e}"));
        Machine { simulated, client: enrolled.client, runtime: runtime.clone(), running: None }
    }

    /// The client that it is.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// Whether its agent runs.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts the agent, unless it runs; it is connected when this returns, and was told that it is `state`.
    pub fn start(&mut self, state: ClientState) {
        if self.running.is_none() {
            let (agent, handle) = self.runtime.block_on(self.simulated.agent()).expect("the agent can be made");
            self.running = Some((handle, self.runtime.spawn(agent.run())));
        }
        self.until(&format!("to be told that it is {state}"), |status| status.connected.is_some() && status.state == Some(state));
    }

    /// Kills the agent: what it does ends where it waits next.
    pub fn kill(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
            let _ = self.runtime.block_on(task);
        }
    }

    fn status(&self) -> Option<Status> {
        let (handle, _) = self.running.as_ref()?;
        Some(self.runtime.block_on(handle.status()).expect("the agent runs"))
    }

    /// Waits until the manager has welcomed the agent.
    pub fn connected(&self) {
        self.until("to be connected", |status| status.connected.is_some());
    }

    /// Waits until the agent has noticed that there is no manager.
    pub fn disconnected(&self) {
        self.until("to be without a manager", |status| status.connected.is_none());
    }

    /// How many requests to the manager wait for its answer.
    pub fn waiting_requests(&self) -> usize {
        self.status().map_or(0, |status| status.requests.len())
    }

    fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        let (begin, mut nudged) = (Instant::now(), Instant::now());
        loop {
            let status = self.status().expect("the agent runs");
            if holds(&status) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{} waited for {what}; it says {status:?}", self.client);
            if nudged.elapsed() > Duration::from_millis(400) {
                self.hurry();
                nudged = Instant::now();
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// What waits for another try goes at once, as with `sutler-agent run-now`.
    pub fn hurry(&self) {
        if let Some((handle, _)) = &self.running {
            self.runtime.block_on(handle.run_now()).expect("the agent runs");
        }
    }

    /// Joins a group from the machine.
    pub fn join(&self, group: &GroupName) -> Answer {
        let (handle, _) = self.running.as_ref().expect("the agent runs");
        self.runtime.block_on(handle.join(group.clone(), String::new())).expect("the agent runs")
    }

    /// Leaves a group from the machine.
    pub fn leave(&self, group: &GroupName) -> Answer {
        let (handle, _) = self.running.as_ref().expect("the agent runs");
        self.runtime.block_on(handle.leave(group.clone())).expect("the agent runs")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Never waits: it may be dropped while a test fails.
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }
}
