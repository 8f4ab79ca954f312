//! `scale-out`: what a second and a third manager on the same PostgreSQL add, on a machine that all of them share.

use super::Scenario;
use crate::{
    bench::{
        fleet::{Census, Fleet},
        line::{Reach, Samples},
        measure, ours,
        run::Run,
    },
    harness::{Agent, Api, Cli, Manager, PackageFolder, Setup, noise},
    postgres::Postgres,
};
use std::{path::PathBuf, time::Instant};

pub(super) const SCENARIO: Scenario =
    Scenario { name: "scale-out", what: "results and downloads with one, two and three managers on PostgreSQL", run };

fn run(run: &mut Run) {
    let Some(postgres) = Postgres::start() else {
        run.say("PostgreSQL is not here, so several managers are not measured");
        return;
    };
    let mut first = None;
    for managers in 1..=run.pick(2, 3) {
        let (results, speed) = with(run, postgres.create_database(), managers);
        let one: &(f64, f64) = first.get_or_insert((results, speed));
        let peer = |figure: f64| if managers > 1 { ("one manager", figure.into()) } else { ("", Samples::default()) };
        let names = if managers == 1 { "1 manager".to_owned() } else { format!("{managers} managers") };
        run.against(&format!("{names}: results"), "/s", results.into(), peer(one.0), Reach::Nothing);
        run.against(&format!("{names}: downloads"), "MB/s", speed.into(), peer(one.1), Reach::Nothing);
    }
}

/// Results a second, and MB a second, with so many managers.
fn with(run: &Run, database: String, managers: usize) -> (f64, f64) {
    let setup = || Setup { database: Some(database.clone()), ..ours::setup() };
    let first = Manager::start_with(setup());
    let others: Vec<Manager> = (1..managers).map(|_| Manager::joining(&first, setup())).collect();
    let all: Vec<&Manager> = std::iter::once(&first).chain(&others).collect();
    // The first one's profile is good for all of them.
    let clis: Vec<Cli> = all.iter().map(|manager| first.cli().at(manager.addresses().operators.to_string())).collect();
    let api = Api::operator(&first);
    first.cli().ok("group create fleet");
    first.cli().ok("policy create everybody --group fleet --trigger new-client");
    ours::push(&first.cli(), &PackageFolder::empty("nothing"));

    let count = run.pick(120, 6_000);
    let share = count / managers;
    let mut fleets: Vec<Fleet> = clis.iter().enumerate().map(|(n, cli)| Fleet::start(cli, first.scratch(), n * share, share)).collect();
    for manager in &all {
        ours::sessions(manager, share);
    }
    let begin = Instant::now();
    let job = ours::run_job(&api, "nothing", &["groups/fleet".into()]);
    let results = (share * managers) as f64 / (ours::finished(&api, &job, share * managers) - begin).as_secs_f64();
    for fleet in &mut fleets {
        let census = fleet.census();
        assert_eq!(census, Census { connected: share as u64, runs: share as u64, twice: 0 }, "each ran the job's step once");
    }
    drop(fleets);

    let (clients, len) = run.pick((2, 4 << 20), (6, 128 << 20));
    let payload = noise(len, 4);
    let digest = ours::sha256(&payload);
    let package = PackageFolder::with("large", "1.0", "");
    package.file("payload", payload);
    ours::push(&first.cli(), &package);
    let agents: Vec<Agent> = (0..clients)
        .map(|n| {
            let mut agent = Agent::new(&format!("lab-{n}"));
            agent.enroll(clis[n % managers].ok("token create").trim());
            agent.start();
            ours::connected(&agent);
            agent
        })
        .collect();
    let names: Vec<String> = agents.iter().map(|agent| format!("clients/{}", agent.id())).collect();
    let files: Vec<PathBuf> = agents.iter().map(|agent| agent.root().join("opt/large/payload")).collect();
    let begin = Instant::now();
    let job = ours::run_job(&api, "large", &names);
    let end = measure::until("the bytes to be there", ours::LONG, || files.iter().all(|file| file.exists()));
    ours::finished(&api, &job, clients);
    files.iter().for_each(|file| assert_eq!(ours::sha256_of(file), digest, "{} is something else", file.display()));
    (results, (clients * len) as f64 / (end - begin).as_secs_f64() / 1e6)
}
