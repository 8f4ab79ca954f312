//! Many simulated agents, in processes of their own: the real state machine and the real connection over TLS, with journal and
//! installer in memory.

use super::agents;
use crate::harness::Cli;
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// How many agents one process runs at most: none may have more than 20,000 descriptors.
const AGENTS_MAX: usize = 7_500;

/// A process that answers a line with a line of JSON, and ends when nobody asks any more.
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// This very program with other words.
    pub(super) fn start(words: &[String]) -> Worker {
        let own = std::env::current_exe().expect("a program knows where it is");
        let mut command = Command::new(own);
        let mut child = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be started");
        let (input, output) = (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        Worker { child, input, output: BufReader::new(output) }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    pub(super) fn heard(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it can be read");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("a process of the benchmark ended; see what it said above"))
    }

    /// Its answer.
    pub(super) fn ask(&mut self, question: &str) -> Value {
        writeln!(self.input, "{question}").expect("it reads");
        self.heard()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a fleet is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Agents that a manager has welcomed.
    pub(super) connected: u64,
    /// Steps that were run.
    pub(super) runs: u64,
    /// Steps that somebody tried to run a second time.
    pub(super) twice: u64,
}

/// A fleet of enrolled agents that run.
pub(super) struct Fleet {
    workers: Vec<Worker>,
}

impl Fleet {
    /// Enrols so many agents with a token of this manager and runs them; `first` tells them apart from those of other fleets.
    pub(super) fn start(cli: &Cli, scratch: &Path, first: usize, count: usize) -> Fleet {
        let token = cli.ok(&format!("token create --uses {count} --ttl 1d --network 127.0.0.0/8"));
        let file = scratch.join(format!("token-{first}"));
        fs_err::write(&file, token).unwrap_or_else(|e| panic!("{e}"));
        let processes = count.div_ceil(AGENTS_MAX);
        let share = count.div_ceil(processes.max(1));
        let mut workers = Vec::new();
        let mut from = 0;
        while from < count {
            let some = share.min(count - from);
            workers.push(Worker::start(&agents::words(first + from, some, &file)));
            from += some;
        }
        let enrolled: u64 = workers.iter_mut().filter_map(|worker| worker.heard()["enrolled"].as_u64()).sum();
        assert_eq!(enrolled, count as u64, "so many agents enrolled");
        Fleet { workers }
    }

    /// How they are now.
    pub(super) fn census(&mut self) -> Census {
        self.workers.iter_mut().fold(Census::default(), |sum, worker| {
            let answer = worker.ask("census");
            let of = |name: &str| answer[name].as_u64().unwrap_or_else(|| panic!("it says {answer}"));
            Census { connected: sum.connected + of("connected"), runs: sum.runs + of("runs"), twice: sum.twice + of("twice") }
        })
    }

    /// The processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(Worker::pid).collect()
    }
}
