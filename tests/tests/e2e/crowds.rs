//! Crowds at a real manager: silent ones, slow ones, too many, and all at once again after a restart.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use sutler_agent::identity::EnrollError;
use sutler_agent::simulation::Simulated;
use sutler_base::token::TokenString;
use sutler_proto::v1;
use sutler_tests::api_call;
use sutler_tests::harness::{Api, Manager, PATIENCE, Setup, wait_until};
use tonic::Code;

/// The start of a ClientHello, as far as its first extension.
const HELLO: [u8; 48] = {
    let mut hello = [0x5a; 48];
    let start = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let mut n = 0;
    while n < start.len() {
        hello[n] = start[n];
        n += 1;
    }
    hello
};

/// How long a newcomer takes who connects, shakes hands and gets an answer from `Enroll` (a refusal: his token is wrong).
fn newcomer(token: &TokenString) -> Duration {
    let begin = Instant::now();
    let api = Api::newcomer(token);
    let request = v1::EnrollRequest {
        token_id: token.id.to_string(),
        secret: vec![0; 32].into(),
        csr: sutler_certs::PrivateKey::generate().unwrap().csr().unwrap().into(),
        hostname: "newcomer".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        agent_version: "0".into(),
        trust_pin: Default::default(),
    };
    let refused = api_call!(api, enrollment_service_client::EnrollmentServiceClient, enroll(request)).unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    begin.elapsed()
}

/// Half of a ring of newcomers, one after the other, are faster than this.
fn median(token: &TokenString) -> Duration {
    let mut times: Vec<_> = (0..9).map(|_| newcomer(token)).collect();
    times.sort();
    times[times.len() / 2]
}

/// How much memory a process has (bytes).
fn memory(pid: u32) -> u64 {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Sockets that are opened again as soon as they are closed, until this is dropped: silent ones, and ones that begin a handshake
/// and then send a byte a second.
struct Crowd {
    over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    opened: Arc<Mutex<usize>>,
}

impl Crowd {
    fn gather(at: SocketAddr, silent: usize, slow: usize) -> Crowd {
        let (over, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let threads = [(silent, false), (slow, true)].map(|(count, speaks)| {
            let (over, opened) = (over.clone(), opened.clone());
            std::thread::spawn(move || {
                let mut sockets: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
                let mut spoke = Instant::now();
                while !over.load(Ordering::Relaxed) {
                    let due = spoke.elapsed() > Duration::from_secs(1);
                    for slot in &mut sockets {
                        let closed = match slot {
                            None => true,
                            Some(socket) => {
                                let failed = speaks && due && socket.write_all(&[0]).is_err();
                                failed || !matches!(socket.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
                            }
                        };
                        if closed {
                            *slot = TcpStream::connect_timeout(&at, Duration::from_secs(1)).ok().filter(|socket| {
                                let spoken = !speaks || {
                                    let mut s = socket;
                                    s.write_all(&HELLO).is_ok()
                                };
                                spoken && socket.set_nonblocking(true).is_ok()
                            });
                            *opened.lock().unwrap() += usize::from(slot.is_some());
                        }
                    }
                    if due {
                        spoke = Instant::now();
                    }
                    std::thread::park_timeout(Duration::from_millis(50));
                }
            })
        });
        let crowd = Crowd { over, opened, threads: threads.into() };
        wait_until("the crowd to have come", PATIENCE, || *crowd.opened.lock().unwrap() >= silent + slow);
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A second, or on a machine that is slow anyway, some times as long as without the crowd.
fn bound(alone: Duration) -> Duration {
    Duration::from_secs(1).max(alone * 5)
}

#[test]
fn five_hundred_silent_and_five_hundred_slow_sockets_slow_nobody_down() {
    let manager = Manager::start();
    let token = TokenString::parse(&manager.cli().ok("token create")).unwrap();
    let alone = median(&token);
    let before = memory(manager.pid());
    let crowd = Crowd::gather(manager.addresses().agents, 500, 500);
    let crowded = median(&token);
    let operators = Instant::now();
    manager.cli().ok("client list");
    let (operators, after) = (operators.elapsed(), memory(manager.pid()));
    eprintln!("a newcomer takes {alone:?} alone, {crowded:?} beside the crowd; {} bytes more for it", after.saturating_sub(before));
    assert!(crowded <= bound(alone), "a newcomer takes {crowded:?} beside 1000 sockets, {alone:?} without them");
    assert!(operators <= bound(alone), "an operator's call takes {operators:?}");
    assert!(after < before + (64 << 20), "{before} bytes grew to {after}");
    drop(crowd);
}

#[test]
fn a_manager_that_is_out_of_descriptors_lets_newcomers_in_within_a_second() {
    let mut manager = Manager::init(Setup::default());
    manager.within(&["sh", "-c", "ulimit -n 200; exec \"$0\" \"$@\""]);
    manager.serve();
    let token = TokenString::parse(&manager.cli().ok("token create")).unwrap();
    let alone = median(&token);
    let crowd = Crowd::gather(manager.addresses().agents, 300, 300);
    // When the port is full a newcomer may be closed at once; who comes again gets in.
    let begin = Instant::now();
    let got_in = (0..20).filter(|_| std::panic::catch_unwind(|| newcomer(&token)).is_ok()).count();
    let each = begin.elapsed() / got_in.max(1) as u32;
    eprintln!("a newcomer takes {alone:?} alone, {each:?} at a manager without descriptors; {got_in} of 20 tries");
    assert!(got_in >= 3, "{got_in} of 20 got in");
    assert!(each <= 2 * bound(alone), "a newcomer takes {each:?}, {alone:?} without the crowd");
    // Operators have a share of their own.
    manager.cli().ok("client list");
    drop(crowd);
    wait_until("a newcomer to get in at once again", PATIENCE, || std::panic::catch_unwind(|| newcomer(&token)).is_ok());
}

#[test]
fn three_hundred_agents_that_come_back_at_once_are_back_soon_and_operators_are_served_meanwhile() {
    const AGENTS: usize = 300;
    let mut manager = Manager::start();
    let token = TokenString::parse(&manager.cli().ok(&format!("token create --uses {AGENTS} --ttl 1h"))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for some in (0..AGENTS).collect::<Vec<_>>().chunks(10) {
        let enrolling: Vec<_> = some
            .iter()
            .map(|n| {
                let (token, n) = (token.clone(), *n);
                runtime.spawn(async move {
                    let machine = Simulated::new(&format!("machine-{n}"), 1000 + n as u64);
                    // The same key and token are the same client: a machine that got no answer in time asks again.
                    while let Err(error) = machine.enroll(&token).await {
                        assert!(matches!(error, EnrollError::Unreachable(_)), "{error}");
                    }
                    let (agent, handle) = machine.agent().await.unwrap();
                    tokio::spawn(agent.run());
                    handle
                })
            })
            .collect();
        // The handles are kept by the tasks of their agents; without one an agent runs all the same.
        enrolling.into_iter().for_each(|task| drop(runtime.block_on(task).unwrap()));
    }
    let back = |manager: &Manager| manager.metric("sutler_sessions") == Some(AGENTS as f64);
    wait_until("all agents to be connected", 2 * PATIENCE, || back(&manager));
    let before = memory(manager.pid());
    manager.kill_and_serve();
    let begin = Instant::now();
    let mut slowest = Duration::ZERO;
    // The promise for ten thousand, on a machine that does nothing else.
    wait_until("all agents to be back", Duration::from_secs(120), || {
        let asked = Instant::now();
        manager.cli().ok("group list");
        slowest = slowest.max(asked.elapsed());
        back(&manager)
    });
    let after = memory(manager.pid());
    eprintln!(
        "{AGENTS} agents are back after {:?}; an operator's command took {slowest:?} at most; {before} and {after} bytes",
        begin.elapsed()
    );
    // A connection with its stream is some 40 kB (see the design); what is more than a few times that grows without bound.
    assert!(after < before + (64 << 20), "{before} bytes grew to {after}");
    assert!(slowest < Duration::from_secs(20), "an operator waited {slowest:?}");
}
