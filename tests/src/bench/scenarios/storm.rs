//! `storm`: every agent loses the manager in one moment, and all come back.

use super::Scenario;
use crate::{
    api_call,
    bench::{
        bare::{BareClients, BareServer},
        fleet::Fleet,
        line::Reach,
        measure, ours,
        run::Run,
    },
    harness::{Api, Manager, cleanup::Place},
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use sutler_proto::v1;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "storm", what: "15,000 agents lose the manager (SIGKILL): until 99 % are back", run };

fn run(run: &mut Run) {
    let count = run.pick(300, 15_000);
    let most = count * 99 / 100;
    let mut manager = ours::manager();
    let fleet = Fleet::start(&manager.cli(), manager.scratch(), 0, count);
    ours::sessions(&manager, count);
    let agents = manager.addresses().agents;
    manager.kill();
    let (listens, over) = (listening(agents.port()), AtomicBool::new(false));
    manager.serve();
    let listens = listens.join().expect("it listens");
    let (back, all, call) = std::thread::scope(|scope| {
        // However this ends: else the scope would wait for the calls for ever.
        let end = Over(&over);
        let calls = scope.spawn(|| slowest_call(&manager, &over));
        let back = ours::sessions(&manager, most) - listens;
        let all = ours::sessions(&manager, count) - listens;
        drop(end);
        (back, all, calls.join().expect("operators are answered"))
    });
    let cpu = measure::cpu(&[manager.pid()]);
    let peak = measure::peak(manager.pid());
    drop((fleet, manager));

    let place = Place::new("bare");
    let server = BareServer::start(place.path());
    let mut clients = BareClients::start(&server, count);
    let begin = Instant::now();
    let server = server.kill_and_start();
    // It says where it is once it listens.
    let bare_listens = Instant::now();
    // Not who has not noticed yet that it lost its stream: streams that were opened since.
    let all_back = || clients.opened() >= (count + most) as u64;
    let bare = measure::until("the bare clients to be back", ours::LONG, all_back) - bare_listens;
    run.say(&format!("  the bare server was away for {:?}", bare_listens - begin));
    drop((clients, server));

    let seconds = |duration: Duration| duration.as_secs_f64().into();
    let peer = ("bare tonic, bare clients every 100 ms", seconds(bare));
    run.against("99 % are back after it listens again", "s", seconds(back), peer, Reach::Times(2.0));
    run.alone("all are back", "s", seconds(all), Reach::Nothing);
    run.alone("an operator's slowest call meanwhile", "s", seconds(call), Reach::AtMost(2.0));
    run.alone("CPU of the manager since its start", "s", cpu.into(), Reach::Nothing);
    run.alone("peak memory of the manager", "MiB", (peak / measure::MIB).into(), Reach::Nothing);
}

/// Says that it is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The moment at which somebody listens on this port again: read of the kernel, since whoever tries to connect to a port on which
/// nobody listens may meet himself there.
fn listening(port: u16) -> std::thread::JoinHandle<Instant> {
    let listens = move || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let local = format!(":{port:04X}");
        sockets.lines().map(str::split_whitespace).any(|mut words| {
            // Its number, its own address, the other one, and its state: 0A is LISTEN.
            words.nth(1).is_some_and(|own| own.ends_with(&local)) && words.nth(1) == Some("0A")
        })
    };
    std::thread::spawn(move || measure::until("the manager to listen", ours::LONG, listens))
}

/// Calls one after another, each on a connection of its own, until it is told that it is over.
fn slowest_call(manager: &Manager, over: &AtomicBool) -> Duration {
    let mut slowest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let api = Api::operator(manager);
        let request = v1::ListGroupsRequest::default();
        api_call!(api, group_service_client::GroupServiceClient, list_groups(request)).expect("an operator is answered");
        slowest = slowest.max(begin.elapsed());
        measure::pass(Duration::from_millis(50));
    }
    slowest
}
