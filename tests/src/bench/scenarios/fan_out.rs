//! `fan-out`: one job for every connected agent, with nothing to fetch: until all are offered it, and until all outcomes are durable
//! and counted; beside a database that takes in as many rows, and nothing else.

use super::Scenario;
use crate::{
    bench::{
        fleet::{Census, Fleet},
        line::{Reach, Samples},
        measure, ours, replay,
        run::Run,
    },
    harness::{Api, PackageFolder},
};
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "fan-out",
    what: "a job for 15,000 connected agents, nothing to fetch: until all outcomes are durable and counted",
    run,
};

fn run(run: &mut Run) {
    let count = run.pick(300, 15_000);
    let seconds = |duration: Duration| duration.as_secs_f64();
    let manager = ours::manager();
    let cli = manager.cli();
    cli.ok("group create fleet");
    cli.ok("policy create everybody --group fleet --trigger new-client");
    ours::push(&cli, &PackageFolder::empty("nothing"));
    let api = Api::operator(&manager);
    let mut fleet = Fleet::start(&cli, manager.scratch(), 0, count);
    ours::sessions(&manager, count);
    let members = || cli.json("group list")[0]["memberCount"].to_string().trim_matches('"').parse::<usize>().unwrap_or_default();
    measure::until("the policy to have looked at all of them", ours::LONG, || members() == count);
    let offers = || manager.metric("sutler_offers_total").unwrap_or_default();
    let database = manager.folder().join("manager.db");
    let before = replay::rows(&database);
    let (offered_before, cpu) = (offers(), measure::cpu(&[manager.pid()]));

    let begin = Instant::now();
    let job = ours::run_job(&api, "nothing", &["groups/fleet".into()]);
    let ordered = begin.elapsed();
    let (offered, ended) = std::thread::scope(|scope| {
        let offered = scope.spawn(|| {
            measure::until_every(ours::ASKED, "all to be offered it", ours::LONG, || offers() - offered_before >= count as f64) - begin
        });
        let ended = ours::finished(&api, &job, count) - begin;
        (offered.join().expect("all are offered it"), ended)
    });
    let cpu = measure::cpu(&[manager.pid()]) - cpu;
    assert_eq!(fleet.census(), Census { connected: count as u64, runs: count as u64, twice: 0 }, "each ran the job's step once");
    drop((fleet, api));
    let gained = replay::gained(&database, &before);
    drop(manager);
    let (rows, of) = (gained.counts.values().sum::<usize>(), |table: &str| gained.counts.get(table) == Some(&count));
    assert!(of("execution") && of("attempt"), "a row for each: {:?}", gained.counts);
    run.say(&format!("  {rows} rows: {:?}", gained.counts));
    let alone: Samples = (0..run.rounds()).map(|_| seconds(gained.insert())).collect();

    let peer = format!("{rows} such rows into SQLite alone, 100 a statement");
    let ended = seconds(ended).into();
    run.against("all outcomes are durable and counted", "s", ended, (&peer, alone), Reach::Times(4.0));
    run.alone("all are offered it", "s", seconds(offered).into(), Reach::Nothing);
    run.alone("the order is answered", "s", seconds(ordered).into(), Reach::Nothing);
    run.alone("CPU of the manager", "s", cpu.into(), Reach::Nothing);
}
