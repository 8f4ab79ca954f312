//! `run-job`: an order for a client that is connected, until its installer ran.

use super::Scenario;
use crate::{
    bench::{
        line::{Reach, Samples},
        measure, ours,
        peers::{cfengine::Cfengine, salt::Salt},
        run::Run,
    },
    harness::{Agent, PATIENCE, noise, wait_for},
};

pub(super) const SCENARIO: Scenario =
    Scenario { name: "run-job", what: "`job run` starts for a connected client: until the installer of its 10 MiB ran", run };

fn run(run: &mut Run) {
    let len = run.pick(1 << 20, 10 << 20);
    let payload = noise(len, 1);
    let manager = ours::manager();
    let cli = manager.cli();
    let agent = Agent::enrolled("lab-1", &manager);
    ours::connected(&agent);
    let mut cfengine = Cfengine::start(&payload);
    // A host that bootstrapped once has its hub's key and policies.
    let host = cfengine.as_mut().map(|cfengine| cfengine.new_host().0);
    let mut salt = Salt::start(run, &payload);
    let minion = salt.as_mut().map(|salt| salt.new_minion().0);
    let (mut ours, mut agent_cpu, mut manager_cpu) = (Samples::default(), Samples::default(), Samples::default());
    let (mut cf, mut cf_cpu, mut pushed) = (Samples::default(), Samples::default(), Samples::default());
    // The first round warms whatever caches there are, everybody's, and does not count.
    for round in 0..=run.rounds() {
        // Of a package that the machine has already nothing would be fetched: each is another one.
        let (name, payload) = (format!("deploy{round}"), noise(len, 100 + round as u64));
        ours::push(&cli, &ours::payload_package(&name, "1.0", &payload));
        let before = (measure::cpu(&[agent.pid()]), measure::cpu(&[manager.pid()]));
        let begin = measure::now();
        let job = cli.id(&format!("job run --package {name} --client {}", agent.id()));
        let destination = ours::destination(&agent, &name);
        let end = wait_for("the installer to have run", PATIENCE, || ours::installed(&destination, &payload));
        let row = crate::harness::JobView::wait_for_end(&cli, &job, &agent.id());
        assert_eq!(row.state, "SUCCEEDED", "{row:?}");
        let after = (measure::cpu(&[agent.pid()]), measure::cpu(&[manager.pid()]));
        let theirs = cfengine.as_ref().zip(host.as_ref()).map(|(cfengine, host)| cfengine.local_run(host));
        let push = salt.as_ref().zip(minion.as_ref()).map(|(salt, minion)| salt.push(minion));
        if round > 0 {
            ours.push(end - begin);
            agent_cpu.push(after.0 - before.0);
            manager_cpu.push(after.1 - before.1);
            theirs.iter().for_each(|host| {
                cf.push(host.seconds);
                cf_cpu.push(host.cpu);
            });
            push.into_iter().for_each(|seconds| pushed.push(seconds));
        }
    }
    let mut peers = Vec::new();
    if cfengine.is_some() {
        peers.push((format!("{}, local run", Cfengine::name()), cf));
    }
    peers.extend(salt.as_ref().map(|salt| (format!("{}, push", salt.name()), pushed)));
    run.among("the command's start until the installer ran", "s", &ours, &peers, Reach::Times(0.5));
    let cf_cpu: Vec<_> = cfengine.iter().map(|_| (format!("{}, local run", Cfengine::name()), cf_cpu.clone())).collect();
    run.among("CPU of the client", "s", &agent_cpu, &cf_cpu, Reach::Nothing);
    run.alone("CPU of the manager, the command's left out", "s", manager_cpu, Reach::Nothing);
}
