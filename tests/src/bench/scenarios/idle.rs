//! `idle`: what connected agents that have nothing to do cost the manager, beside what tonic alone costs.

use super::Scenario;
use crate::{
    bench::{
        bare::{BareClients, BareServer},
        fleet::{Census, Fleet},
        line::Reach,
        measure, ours,
        run::Run,
    },
    harness::{Api, PackageFolder, cleanup::Place},
};
use std::time::Duration;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "idle", what: "15,000 connected agents with nothing to do: the manager's memory and processor", run };

/// What a connection with one open stream costs a bare server, as it was measured before (bytes): this server has to show it again.
const BARE: f64 = 39_900.0;

fn run(run: &mut Run) {
    let count = run.pick(500, 15_000);
    let (settle, watch) = (run.pick(Duration::from_secs(2), Duration::from_secs(30)), run.pick(4.0, 60.0));
    let each = |memory: measure::Memory| (memory.rss / count as f64 / 1e3, memory.pss / count as f64 / 1e3);

    let manager = ours::manager();
    let cli = manager.cli();
    cli.ok("group create fleet");
    cli.ok("policy create everybody --group fleet --trigger new-client");
    ours::push(&cli, &PackageFolder::empty("nothing"));
    let api = Api::operator(&manager);
    let job = ours::run_job(&api, "nothing", &["groups/fleet".into()]);
    measure::pass(settle);
    let fresh = measure::memory(&[manager.pid()]);
    let mut fleet = Fleet::start(&cli, manager.scratch(), 0, count);
    ours::sessions(&manager, count);
    ours::finished(&api, &job, count);
    assert_eq!(fleet.census(), Census { connected: count as u64, runs: count as u64, twice: 0 }, "each ran the job's step once");
    measure::pass(settle);
    let (full, peak) = (measure::memory(&[manager.pid()]), measure::peak(manager.pid()));
    let (before, agents_before) = (measure::cpu(&[manager.pid()]), measure::cpu(&fleet.pids()));
    measure::pass(Duration::from_secs_f64(watch));
    let percent = |seconds: f64| seconds / watch * 100.0;
    let cpu = percent(measure::cpu(&[manager.pid()]) - before);
    let agent_cpu = percent(measure::cpu(&fleet.pids()) - agents_before) / count as f64;
    assert_eq!(manager.metric("sutler_sessions"), Some(count as f64), "all are connected still");
    drop((fleet, api, manager));

    let place = Place::new("bare");
    let server = BareServer::start(place.path());
    let empty = measure::memory(&[server.pid()]);
    let mut clients = BareClients::start(&server, count);
    measure::pass(settle);
    let bare = measure::memory(&[server.pid()]);
    assert_eq!(clients.connected(), count as u64, "all are connected still");
    drop((clients, server));

    let (own, theirs) = (each(full - fresh), each(bare - empty));
    run.against("manager: RSS for each agent", "kB", own.0.into(), ("bare tonic server", theirs.0.into()), Reach::Times(0.95));
    run.against("manager: PSS for each agent", "kB", own.1.into(), ("bare tonic server", theirs.1.into()), Reach::Nothing);
    // What the baseline is worth. A few clients show more: what the server's first ones need is shared among them.
    let as_before = Reach::Times(1.15);
    run.against("bare server: RSS for each client", "kB", theirs.0.into(), ("as it was before", (BARE / 1e3).into()), as_before);
    run.alone("manager: RSS with all of them", "MiB", (full.rss / measure::MIB).into(), Reach::Nothing);
    run.alone("manager: peak on the way", "MiB", (peak / measure::MIB).into(), Reach::Nothing);
    run.alone("manager: CPU", "% of a core", cpu.into(), Reach::AtMost(3.0));
    run.alone("agent, simulated: CPU", "% of a core", agent_cpu.into(), Reach::AtMost(0.05));
}
