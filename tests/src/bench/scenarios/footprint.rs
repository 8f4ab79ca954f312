//! `footprint`: what a machine pays for an agent that has nothing to do, and a host for a manager that has nobody.

use super::Scenario;
use crate::{
    bench::{
        line::{Reach, Samples},
        measure::{self, MIB},
        ours,
        peers::{cfengine::Cfengine, salt::Salt},
        run::Run,
    },
    harness::{Agent, noise, programs},
};
use std::time::Duration;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "footprint", what: "the agent and the manager with nothing to do: size, memory, wake-ups", run };

/// What a process in its rest takes.
struct Idle {
    memory: measure::Memory,
    /// Of a core.
    percent: f64,
    wake_ups_a_minute: f64,
}

/// Watches processes for a while, after they had time to come to rest.
fn idle(run: &Run, pids: impl Fn() -> Vec<u32>) -> Idle {
    // Half a minute after a job an agent clears up behind it.
    measure::pass(run.pick(Duration::from_secs(2), Duration::from_secs(60)));
    let before = pids();
    let span = run.pick(Duration::from_secs(4), Duration::from_secs(60));
    let (cpu, wake_ups) = (measure::cpu_of_threads(&before), measure::wake_ups(&before));
    measure::pass(span);
    let after = pids();
    assert!(!after.is_empty() && before.iter().all(|pid| after.contains(pid)), "a process ended that was to be at rest");
    Idle {
        memory: measure::memory(&after),
        percent: (measure::cpu_of_threads(&after) - cpu).max(0.0) / span.as_secs_f64() * 100.0,
        wake_ups_a_minute: measure::wake_ups(&after).saturating_sub(wake_ups) as f64 / span.as_secs_f64() * 60.0,
    }
}

fn run(run: &mut Run) {
    let payload = noise(run.pick(1 << 20, 10 << 20), 60);
    let size = fs_err::metadata(programs::sutler_agent()).expect("it is built").len() as f64 / MIB;
    run.alone("agent: size of the program", "MiB", size.into(), Reach::AtMost(6.0));
    let manager = ours::manager();
    let fresh = idle(run, || measure::tree(manager.pid()));
    let cli = manager.cli();
    ours::push(&cli, &ours::payload_package("deploy", "1.0", &payload));
    let agent = Agent::enrolled("lab-1", &manager);
    // One that has done something: nobody keeps one that never does.
    let job = cli.id(&format!("job run --package deploy --client {}", agent.id()));
    let row = crate::harness::JobView::wait_for_end(&cli, &job, &agent.id());
    assert_eq!(row.state, "SUCCEEDED", "{row:?}");
    assert!(ours::installed(&ours::destination(&agent, "deploy"), &payload).is_some(), "the installer ran");
    ours::connected(&agent);
    let own = idle(run, || measure::tree(agent.pid()));
    assert_eq!(measure::tree(agent.pid()), [agent.pid()], "nothing but the agent is left of the job");
    ours::connected(&agent);
    drop(agent);
    drop(manager);

    let mut clients: Vec<(String, Idle)> = Vec::new();
    let mut servers: Vec<(String, Idle)> = Vec::new();
    if let Some(mut cfengine) = Cfengine::start(&payload) {
        servers.push((format!("{}, cf-serverd", Cfengine::name()), idle(run, || measure::tree(cfengine.server()))));
        let (host, _) = cfengine.new_host();
        let daemons = cfengine.daemons(&host);
        clients.push((format!("{}, cf-execd and cf-monitord", Cfengine::name()), idle(run, || measure::trees(&daemons.pids()))));
    }
    if let Some(mut salt) = Salt::start(run, &payload) {
        servers.push((salt.name(), idle(run, || measure::tree(salt.master()))));
        let (minion, _) = salt.new_minion();
        clients.push((salt.name(), idle(run, || measure::tree(minion.pid()))));
    }
    type Of = fn(&Idle) -> f64;
    let rss: Of = |idle| idle.memory.rss / MIB;
    let pss: Of = |idle| idle.memory.pss / MIB;
    let mut line = |metric: &str, unit, ours: &Idle, peers: &[(String, Idle)], of: Of, reach| {
        let peers: Vec<(String, Samples)> = peers.iter().map(|(name, idle)| (name.clone(), of(idle).into())).collect();
        run.among(metric, unit, &of(ours).into(), &peers, reach);
    };
    line("agent: idle RSS", "MiB", &own, &clients, rss, Reach::AtMost(6.0));
    line("agent: idle PSS", "MiB", &own, &clients, pss, Reach::AtMost(5.0));
    line("agent: wake-ups", "/min", &own, &clients, |idle| idle.wake_ups_a_minute, Reach::AtMost(4.0));
    line("agent: idle CPU", "% of a core", &own, &clients, |idle| idle.percent, Reach::AtMost(0.05));
    line("manager: fresh, idle RSS", "MiB", &fresh, &servers, rss, Reach::AtMost(25.0));
    line("manager: fresh, idle PSS", "MiB", &fresh, &servers, pss, Reach::Nothing);
    line("manager: fresh, wake-ups", "/min", &fresh, &servers, |idle| idle.wake_ups_a_minute, Reach::Nothing);
}
