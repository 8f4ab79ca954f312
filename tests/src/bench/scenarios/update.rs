//! `update`: from one version of real software to the next: every byte on the wire after the order, beside the least that zstd makes
//! of the same; and the agent's memory.

use super::Scenario;
use crate::{
    bench::{
        line::Reach,
        measure::{self, MIB},
        ours,
        pairs::{self, Pair},
        run::Run,
    },
    harness::{Agent, Api, Manager, PackageFolder, cleanup::Place},
};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

pub(super) const SCENARIO: Scenario =
    Scenario { name: "update", what: "from one version of real software to the next: bytes on the wire, and the agent's memory", run };

fn run(run: &mut Run) {
    let folder = run.folder.join("pairs");
    fs_err::create_dir_all(&folder).unwrap_or_else(|e| panic!("{e}"));
    let pairs = pairs::all(&folder, run.small);
    assert!(!pairs.is_empty(), "no pair of versions can be had");
    for pair in &pairs {
        update(run, pair);
    }
}

/// A package that puts a tree in its place.
fn package(name: &str, version: &str, tree: &Path) -> PackageFolder {
    let package = PackageFolder::with(name, version, "");
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(format!("{}/.", tree.display())).arg(package.files());
    measure::run(copy);
    package
}

fn install(manager: &Manager, api: &Api, agent: &Agent, package: &str, tree: &Path) {
    let job = ours::run_job(api, package, &[format!("clients/{}", agent.id())]);
    ours::finished(api, &job, 1);
    let mut compare = Command::new("diff");
    // Beside the files the agent keeps a folder of its own.
    compare.args(["-r", "--no-dereference", "-x", ".sutler"]).arg(tree).arg(agent.root().join("opt").join(package));
    measure::run(compare);
    assert!(manager.metric("sutler_sessions") == Some(1.0), "the agent is connected");
}

fn update(run: &mut Run, pair: &Pair) {
    let manager = ours::manager();
    let (cli, api) = (manager.cli(), Api::operator(&manager));
    let agent = Agent::enrolled("lab-1", &manager);
    ours::connected(&agent);
    let name = &pair.name;
    ours::push(&cli, &package(name, "1", &pair.old));
    install(&manager, &api, &agent, name, &pair.old);
    ours::push(&cli, &package(name, "2", &pair.new));
    // It makes its delta in the background: clients that come before have chunks, which is not what is measured.
    let made = measure::at_rest(manager.pid(), Duration::from_secs(2), ours::LONG).as_secs_f64();
    // And the agent is to have given back what it needed for the first version.
    measure::pass(run.pick(Duration::from_millis(500), Duration::from_secs(60)));

    let port = manager.addresses().agents.port();
    let idle = measure::memory(&[agent.pid()]).rss;
    measure::forget_peak(agent.pid());
    let before = measure::wire(port);
    let begin = Instant::now();
    install(&manager, &api, &agent, name, &pair.new);
    let seconds = begin.elapsed().as_secs_f64();
    let after = measure::wire(port);
    let bytes = (after.0 - before.0) + (after.1 - before.1);
    let peak = measure::peak(agent.pid());
    measure::pass(run.pick(Duration::from_millis(500), Duration::from_secs(60)));
    let rest = measure::memory(&[agent.pid()]).rss - idle;
    drop((agent, api, manager));

    let place = Place::new("zstd");
    let least = pairs::zstd(pair, place.path()) as f64 / 1024.0;
    let peer = ("zstd -19, whole or --patch-from", least.into());
    run.against(&format!("{name}: bytes"), "KiB", (bytes as f64 / 1024.0).into(), peer, Reach::TimesAnd(1.1, 16.0));
    run.alone(&format!("{name}: peak memory of the agent"), "MiB", (peak / MIB).into(), Reach::AtMost(64.0));
    run.alone(&format!("{name}: memory kept afterwards"), "MiB", (rest / MIB).into(), Reach::AtMost(1.0));
    run.alone(&format!("{name}: the order until it is recorded"), "s", seconds.into(), Reach::Nothing);
    run.alone(&format!("{name}: pushed until its delta is made"), "s", made.into(), Reach::Nothing);
}
