//! `fetch`: bytes that don't compress, of which the client has none, until they are in a file, every one verified and durable; and
//! sixteen clients at once.

use super::Scenario;
use crate::{
    bench::{
        line::{Reach, Samples},
        measure::{self, GIB},
        ours,
        peers::nginx::Nginx,
        run::Run,
    },
    harness::{Agent, Api, Manager, PackageFolder, noise},
};
use std::{path::PathBuf, time::Instant};

pub(super) const ONE: Scenario =
    Scenario { name: "fetch", what: "256 MiB that don't compress to a file, every byte verified, durable", run: one };
pub(super) const SIXTEEN: Scenario = Scenario { name: "fetch-16", what: "the same, sixteen clients at once", run: sixteen };

/// What a round took.
struct Round {
    seconds: f64,
    client_cpu: f64,
    server_cpu: f64,
}

fn one(run: &mut Run) {
    fetch(run, 1);
}

fn sixteen(run: &mut Run) {
    let clients = run.pick(3, 16);
    fetch(run, clients);
}

fn fetch(run: &mut Run, clients: usize) {
    let payload = noise(run.pick(8 << 20, 256 << 20), 256);
    let digest = ours::sha256(&payload);
    let manager = ours::manager();
    let package = PackageFolder::with("large", "1.0", "");
    package.file("payload", &payload);
    ours::push(&manager.cli(), &package);
    drop(package);
    let nginx = Nginx::start(&payload, &digest);
    let api = Api::operator(&manager);
    let bytes = (clients * payload.len()) as f64;
    drop(payload);
    let speed = |round: &Round| bytes / round.seconds / 1e6;
    let per_gib = |seconds: f64| seconds / (bytes / GIB);
    let (mut ours, mut theirs): (Vec<Round>, Vec<Round>) = Default::default();
    // The first round warms whatever caches there are, everybody's, and does not count.
    for round in 0..=run.rounds() {
        let own = download(&manager, &api, clients, &digest);
        let peer = nginx.as_ref().map(|nginx| {
            let before = measure::cpu(&nginx.pids());
            let (seconds, client_cpu) = nginx.fetch(clients);
            Round { seconds, client_cpu, server_cpu: measure::cpu(&nginx.pids()) - before }
        });
        if round > 0 {
            ours.push(own);
            theirs.extend(peer);
        }
    }
    type Figure<'a> = &'a dyn Fn(&Round) -> f64;
    let lines: [(&str, &'static str, Figure<'_>, Reach); 3] = [
        ("throughput", "MB/s", &speed, Reach::AtLeastTimes(1.3)),
        ("CPU of the clients", "s/GiB", &|round| per_gib(round.client_cpu), Reach::Times(0.6)),
        ("CPU of the server", "s/GiB", &|round| per_gib(round.server_cpu), Reach::Nothing),
    ];
    for (metric, unit, of, reach) in lines {
        let samples = |rounds: &[Round]| rounds.iter().map(of).collect::<Samples>();
        let peers: Vec<_> = nginx.iter().map(|_| (Nginx::name(), samples(&theirs))).collect();
        run.among(metric, unit, &samples(&ours), &peers, reach);
    }
    run.alone("peak memory of the manager", "MiB", (measure::peak(manager.pid()) / measure::MIB).into(), Reach::Nothing);
}

/// Clients that have nothing are ordered to have the package: from the order until it lies in its place at all of them.
fn download(manager: &Manager, api: &Api, clients: usize, digest: &str) -> Round {
    let agents: Vec<Agent> = (0..clients).map(|n| Agent::enrolled(&format!("lab-{n}"), manager)).collect();
    agents.iter().for_each(ours::connected);
    let names: Vec<String> = agents.iter().map(|agent| format!("clients/{}", agent.id())).collect();
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    // What is there is whole, verified and durable: the agent exchanges nothing else.
    let files: Vec<PathBuf> = agents.iter().map(|agent| agent.root().join("opt/large/payload")).collect();
    let (client_cpu, server_cpu) = (measure::cpu(&pids), measure::cpu(&[manager.pid()]));
    let begin = Instant::now();
    let job = ours::run_job(api, "large", &names);
    let end = measure::until("the bytes to be there", ours::LONG, || files.iter().all(|file| file.exists()));
    let seconds = (end - begin).as_secs_f64();
    ours::finished(api, &job, clients);
    let round = Round { seconds, client_cpu: measure::cpu(&pids) - client_cpu, server_cpu: measure::cpu(&[manager.pid()]) - server_cpu };
    files.iter().for_each(|file| assert_eq!(ours::sha256_of(file), digest, "{} is something else", file.display()));
    round
}
