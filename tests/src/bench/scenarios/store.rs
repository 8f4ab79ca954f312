//! `store`: pages of a hundred at random positions of large tables, the call included, beside as many look-ups by key.

use super::Scenario;
use crate::{
    api_call,
    bench::{
        filled::{self, Filling},
        line::{Reach, Samples},
        measure, ours,
        run::Run,
    },
    harness::{Api, Manager},
};
use std::time::Instant;
use sutler_proto::v1;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "store", what: "pages of 100 at random positions with 1,000,000 clients, 10,000,000 executions", run };

/// Rows of a page, and look-ups beside it.
const PAGE: u64 = 100;

fn run(run: &mut Run) {
    let (clients, jobs) = run.pick((1_000, 10), (1_000_000, 10));
    let mut manager = Manager::init(ours::setup());
    let filling = Filling::open(&manager);
    filling.clients(0..clients);
    let group = filling.group("everybody", 0..clients);
    let ids: Vec<_> = (0..jobs).map(|n| filling.job(n, &group)).collect();
    assert!(ids.iter().all(|(_, rows)| *rows == clients), "a row for each client in each job");
    filling.close();
    let size = fs_err::metadata(manager.folder().join("manager.db")).map(|file| file.len()).unwrap_or_default();
    run.say(&format!("  {clients} clients, {} executions: {} MiB", clients * jobs, size >> 20));
    manager.serve();
    let api = Api::operator(&manager);
    let reading = Filling::open(&manager);

    // The same numbers in every run, without a pattern.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % clients
    };
    let (mut listed, mut status, mut explained, mut baseline) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let timed = |work: &mut dyn FnMut()| {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64() * 1e3
    };
    for round in 0..run.pick(5, 200) {
        let from = random();
        // Positions near the end would have a page that is not full.
        let token = filled::client_id(from).to_string();
        let page = |len: usize| assert!(len as u64 <= PAGE, "a page has at most so many rows");
        listed.push(timed(&mut || {
            let request = v1::ListClientsRequest { page_size: PAGE as i32, page_token: token.clone(), ..Default::default() };
            let answer = api_call!(api, client_service_client::ClientServiceClient, list_clients(request)).expect("a page");
            page(answer.clients.len());
            assert!(answer.clients.iter().all(|client| client.name.trim_start_matches("clients/") > token.as_str()), "it begins there");
        }));
        let job = &ids[round as usize % ids.len()].0;
        status.push(timed(&mut || {
            let parent = format!("jobs/{job}");
            let request = v1::ListExecutionsRequest { parent, page_size: PAGE as i32, page_token: token.clone(), ..Default::default() };
            let answer = api_call!(api, job_service_client::JobServiceClient, list_executions(request)).expect("a page");
            page(answer.executions.len());
            assert!(answer.executions.iter().all(|row| row.client.trim_start_matches("clients/") > token.as_str()), "it begins there");
        }));
        explained.push(timed(&mut || {
            let request = v1::ExplainClientRequest { name: format!("clients/{token}") };
            let answer = api_call!(api, client_service_client::ClientServiceClient, explain_client(request)).expect("it is there");
            assert_eq!((answer.memberships.len(), answer.jobs.len() as u64), (1, jobs), "its group and all its jobs");
        }));
        let numbers: Vec<u64> = (0..PAGE).map(|_| random()).collect();
        baseline.push(timed(&mut || reading.look_up(&numbers)));
    }
    reading.close();
    let memory = measure::memory(&[manager.pid()]).rss / measure::MIB;
    let peer = "100 look-ups by key, same pool";
    for (metric, samples) in [("client list", listed), ("job status", status), ("client explain", explained)] {
        run.against(metric, "ms", samples, (peer, baseline.clone()), Reach::Times(5.0));
    }
    run.alone("RSS of the manager afterwards", "MiB", memory.into(), Reach::Nothing);
}
