//! `new-client`: a machine that was never seen before, until it has its software; and fifty of them at once.

use super::Scenario;
use crate::{
    bench::{
        line::{Reach, Samples},
        measure, ours,
        peers::{cfengine::Cfengine, salt::Salt},
        run::Run,
    },
    harness::{Agent, Manager, PATIENCE, noise, wait_for},
};

pub(super) const ONE: Scenario =
    Scenario { name: "new-client", what: "an agent starts on a machine never seen: until the installer of its 10 MiB ran", run: one };
pub(super) const MANY: Scenario = Scenario { name: "new-clients-50", what: "the same, fifty at once", run: many };

/// A manager with a group, a policy that puts every client into it, and a job for whoever comes.
fn manager(payload: &[u8]) -> Manager {
    let manager = ours::manager();
    let cli = manager.cli();
    cli.ok("group create new-clients");
    ours::push(&cli, &ours::payload_package("deploy", "1.0", payload));
    cli.ok("job run --package deploy --group new-clients --rollout all-at-once");
    cli.ok("policy create all-linux --group new-clients --trigger new-client --when 'facts.os.family == \"linux\"'");
    manager
}

/// Enrols with this token, runs, and has the package: when the installer ran.
fn appear(agent: &mut Agent, token: &str) -> f64 {
    agent.enroll(token);
    agent.start();
    let destination = ours::destination(agent, "deploy");
    wait_for("the installer to have run", PATIENCE, || ours::ran(&destination))
}

/// What it copied is what was deployed. Asked for when no other is on its way: to read it takes the processors from them.
fn verify(agent: &Agent, payload: &[u8]) {
    assert!(ours::installed(&ours::destination(agent, "deploy"), payload).is_some(), "the installer ran");
}

fn one(run: &mut Run) {
    let payload = noise(run.pick(1 << 20, 10 << 20), 1);
    let manager = manager(&payload);
    let cli = manager.cli();
    let mut cfengine = Cfengine::start(&payload);
    let mut salt = Salt::start(run, &payload);
    let (mut ours, mut manager_cpu, mut agent_cpu) = (Samples::default(), Samples::default(), Samples::default());
    let (mut cf, mut cf_cpu, mut minions) = (Samples::default(), Samples::default(), Samples::default());
    // The first round warms whatever caches there are, everybody's, and does not count.
    for round in 0..=run.rounds() {
        let token = cli.ok("token create");
        let before = measure::cpu(&[manager.pid()]);
        let mut agent = Agent::new(&format!("lab-{round}"));
        let begin = measure::now();
        let end = appear(&mut agent, token.trim());
        verify(&agent, &payload);
        let theirs = cfengine.as_mut().map(|cfengine| cfengine.new_host().1);
        let minion = salt.as_mut().map(|salt| salt.new_minion().1);
        if round > 0 {
            ours.push(end - begin);
            manager_cpu.push(measure::cpu(&[manager.pid()]) - before);
            agent_cpu.push(measure::cpu(&[agent.pid()]));
            theirs.iter().for_each(|host| {
                cf.push(host.seconds);
                cf_cpu.push(host.cpu);
            });
            minion.into_iter().for_each(|seconds| minions.push(seconds));
        }
    }
    let mut peers = Vec::new();
    if cfengine.is_some() {
        peers.push((Cfengine::name(), cf));
    }
    peers.extend(salt.as_ref().map(|salt| (salt.name(), minions)));
    run.among("agent's start until the installer ran", "s", &ours, &peers, Reach::Times(0.25));
    // Enrolment ran in a process of its own, whose time is not in it.
    let cf_cpu: Vec<_> = cfengine.iter().map(|_| (Cfengine::name(), cf_cpu.clone())).collect();
    run.among("CPU of the client (the agent after its enrolment)", "s", &agent_cpu, &cf_cpu, Reach::Nothing);
    run.alone("CPU of the manager", "s", manager_cpu, Reach::Nothing);
}

fn many(run: &mut Run) {
    let payload = noise(run.pick(1 << 20, 10 << 20), 50);
    let count = run.pick(4, 50);
    let manager = manager(&payload);
    let cli = manager.cli();
    let mut cfengine = Cfengine::start(&payload);
    let (mut ours, mut cf, mut manager_cpu) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..run.rounds_or(3) {
        let tokens = cli.ok(&format!("token create --count {count}"));
        let tokens: Vec<&str> = tokens.lines().collect();
        assert_eq!(tokens.len(), count, "a token for each");
        let mut agents: Vec<Agent> = (0..count).map(|n| Agent::new(&format!("lab-{round}-{n}"))).collect();
        let (before, begin) = (measure::cpu(&[manager.pid()]), measure::now());
        let ends: Vec<f64> = std::thread::scope(|scope| {
            let all: Vec<_> = agents.iter_mut().zip(&tokens).map(|(agent, token)| scope.spawn(move || appear(agent, token))).collect();
            all.into_iter().map(|agent| agent.join().expect("it has its software")).collect()
        });
        ours.push(ends.into_iter().fold(begin, f64::max) - begin);
        manager_cpu.push(measure::cpu(&[manager.pid()]) - before);
        agents.iter().for_each(|agent| verify(agent, &payload));
        drop(agents);
        if let Some(cfengine) = &mut cfengine {
            cf.push(cfengine.new_hosts(count));
        }
    }
    let peers: Vec<_> = cfengine.iter().map(|_| (Cfengine::name(), cf.clone())).collect();
    run.among("start of the first until the installer of the last ran", "s", &ours, &peers, Reach::Times(0.2));
    run.alone("CPU of the manager", "s", manager_cpu, Reach::Nothing);
}
