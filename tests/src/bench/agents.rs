//! `bench agents`: a process with many simulated agents, for [`Fleet`](super::fleet::Fleet).

use futures_util::StreamExt as _;
use serde_json::json;
use std::{
    io::{BufRead as _, Write as _},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
};
use sutler_agent::{
    Handle,
    identity::EnrollError,
    simulation::{self, Simulated},
};
use sutler_base::token::TokenString;

/// The word for it.
pub(super) const WORD: &str = "agents";

/// How many enrol at the same time.
const AT_ONCE: usize = 32;

/// From how many addresses they connect: a caller without a certificate shares the limit of its address with others.
pub(super) const ADDRESSES: u16 = 500;

/// Its command line.
pub(super) fn words(first: usize, count: usize, token: &Path) -> Vec<String> {
    vec![WORD.into(), first.to_string(), count.to_string(), token.to_string_lossy().into_owned()]
}

pub(super) fn main(words: &[String]) -> ExitCode {
    let [first, count, file] = words else { return ExitCode::from(2) };
    let (Ok(first), Ok(count)) = (first.parse::<u64>(), count.parse::<u64>()) else { return ExitCode::from(2) };
    let token = fs_err::read_to_string(file).expect("the token can be read");
    let token = TokenString::parse(token.trim()).expect("it is a token");
    sutler::net::raise_descriptor_limit();
    simulation::connect_from(ADDRESSES);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made");
    let agents: Arc<Mutex<Vec<(Simulated, Handle)>>> = Arc::default();
    runtime.block_on(futures_util::stream::iter(first..first + count).for_each_concurrent(AT_ONCE, |n| {
        let (agents, token) = (agents.clone(), &token);
        async move {
            let machine = Simulated::new(&format!("machine-{n}"), 1_000_000 + n);
            // The same key and token are the same client: a machine that got no answer in time asks again.
            while let Err(error) = machine.enroll(token).await {
                assert!(matches!(error, EnrollError::Unreachable(_)), "{error}");
            }
            let (agent, handle) = machine.agent().await.expect("the agent can be made");
            tokio::spawn(agent.run());
            agents.lock().expect("nobody panicked").push((machine, handle));
        }
    }));
    let agents = Arc::into_inner(agents).expect("all have enrolled").into_inner().expect("nobody panicked");
    say(&json!({"enrolled": agents.len()}));
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        assert_eq!(line, "census");
        let connected = runtime.block_on(async {
            let mut connected = 0;
            for (_, handle) in &agents {
                connected += usize::from(handle.status().await.is_ok_and(|status| status.connected.is_some()));
            }
            connected
        });
        let runs: usize = agents.iter().map(|(machine, _)| machine.machine.runs().len()).sum();
        let twice: usize = agents.iter().map(|(machine, _)| machine.machine.twice().len()).sum();
        say(&json!({"connected": connected, "runs": runs, "twice": twice}));
    }
    ExitCode::SUCCESS
}

fn say(answer: &serde_json::Value) {
    println!("{answer}");
    let _ = std::io::stdout().flush();
}
