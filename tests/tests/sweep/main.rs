//! Kill sweeps: the real programs, hurt at one system call after another, and the promises afterwards.
//!
//! A whole life (enrol, fetch, install, report) is run under `inject` (see `src/bin/inject.rs`), which kills the program at its
//! N-th `fsync`, `fdatasync`, `rename`, `openat`, `write` or `execve`, or lets that call fail with `EIO` or `ENOSPC`. Then it is
//! started again, as a service manager would, and everything has to come to rest: one outcome per attempt, no run of a step
//! twice, nothing lost that was acknowledged. What ends badly is retried once and has to end well then.
//!
//! And the whole life is lived on a real disk of 64 MiB that is filled up to so many KiB, until somebody was told: then there is
//! room again, and everything comes to the same end.
//!
//! N counts over all threads of the program. `strace -f -e inject=…:when=N` counts for each thread by itself (*tried*: with
//! three threads that make three calls each, `when=4` hits none), so it can't reach every call of a program with a pool of
//! threads; nor does it need to be installed here. Only calls on files below the program's own folders count, and `execve`:
//! no other call changes what is found afterwards.
//!
//! By default a few points are tried for each kind of call and fault, spread evenly and the same in every run.
//! `SUTLER_SWEEP=full` tries every N, `SUTLER_SWEEP=20` twenty points for each, `SUTLER_SWEEP='agent write kill'` every N of
//! that row, `SUTLER_SWEEP='agent write'` of those rows; all of them write each row into `tests/sweep.md` when it is done, so
//! that a long sweep may be cut into parts. `SUTLER_SWEEP='agent write kill 17'` tries one N and writes nothing. A machine that
//! lets nobody trace skips all of it.

mod life;
mod report;

use life::{AgentLife, Hit, Life, ManagerLife};
use report::Row;
use std::panic::AssertUnwindSafe;
use sutler_tests::tools;

/// The kinds of calls.
const CALLS: [&str; 6] = ["fsync", "fdatasync", "rename", "openat", "write", "execve"];
/// The faults. An `execve` that fails starts nothing, and there is no more to it.
const FAULTS: [&str; 3] = ["kill", "EIO", "ENOSPC"];
/// With how many KiB left the disk is tried: the first and the last few writes, and what is between them.
const DISKS: [u64; 20] = [0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192, 16384];
/// How many points of each are tried by default.
const FEW: u64 = 2;

/// What `SUTLER_SWEEP` asks for.
enum Wanted {
    Few(u64),
    Full,
    Only(Vec<String>),
}

impl Wanted {
    fn read() -> Wanted {
        match std::env::var("SUTLER_SWEEP") {
            Ok(word) if word == "full" => Wanted::Full,
            Ok(word) if word.contains(' ') => Wanted::Only(word.split(' ').map(str::to_owned).collect()),
            Ok(word) if !word.is_empty() => Wanted::Few(word.parse().expect("SUTLER_SWEEP is full, a number, or PROGRAM CALL [FAULT [N]]")),
            _ => Wanted::Few(FEW),
        }
    }

    /// Whether anything is asked of the row that begins so.
    fn has(&self, row: &[&str]) -> bool {
        match self {
            Wanted::Only(words) => row.iter().zip(words).all(|(has, wanted)| has == wanted),
            Wanted::Few(_) | Wanted::Full => true,
        }
    }

    /// Whether what comes of it is written down.
    fn is_kept(&self) -> bool {
        match self {
            Wanted::Only(words) => words.len() < 4,
            Wanted::Few(_) | Wanted::Full => std::env::var_os("SUTLER_SWEEP").is_some(),
        }
    }

    /// The points that are tried of `calls`.
    fn points(&self, calls: u64) -> Vec<u64> {
        match self {
            Wanted::Few(few) if *few < calls => (0..*few).map(|n| 1 + (2 * n + 1) * calls / (2 * few)).collect(),
            Wanted::Only(words) if words.len() == 4 => vec![words[3].parse().expect("the point is a number")],
            Wanted::Few(_) | Wanted::Full | Wanted::Only(_) => (1..=calls).collect(),
        }
    }
}

/// Tries all that is wanted with one program.
fn sweep(program: &str, life: impl FnOnce() -> Box<dyn Life>) {
    let wanted = Wanted::read();
    if !wanted.has(&[program]) {
        return;
    }
    let mut life = life();
    let mut failures = Vec::new();
    let mut done = |row: Row| {
        eprintln!("{row}");
        if wanted.is_kept() {
            report::write(&row);
        }
        failures.extend(row.failures());
    };
    for call in CALLS.into_iter().filter(|call| wanted.has(&[program, call])) {
        let clean = life.run(call, "kill", 0);
        assert_eq!(clean.end, "SUCCEEDED", "without a fault");
        for fault in FAULTS.into_iter().filter(|fault| wanted.has(&[program, call, fault])) {
            if call == "execve" && fault != "kill" {
                continue;
            }
            let mut row = Row::new(program, call, fault, clean.calls);
            for nth in wanted.points(clean.calls) {
                try_point(&mut row, nth, || Some(life.run(call, fault, nth)));
            }
            done(row);
        }
    }
    if wanted.has(&[program, "disk", "full"]) {
        let mut row = Row::new(program, "disk", "full", DISKS.len() as u64);
        for point in wanted.points(DISKS.len() as u64) {
            let kib = DISKS[point as usize - 1];
            try_point(&mut row, point, || life.run_on_a_full_disk(kib));
        }
        done(row);
    }
    assert!(failures.is_empty(), "{} points broke a promise:\n{}", failures.len(), failures.join("\n"));
}

/// Lives once, and writes down what came of it; nothing where such a life can't be lived.
fn try_point(row: &mut Row, nth: u64, live: impl FnOnce() -> Option<Hit>) {
    match std::panic::catch_unwind(AssertUnwindSafe(live)) {
        Ok(Some(Hit { hit, end, .. })) => row.tried(hit, &end),
        Ok(None) => {}
        Err(why) => {
            let why = why.downcast_ref::<String>().cloned().or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            row.failed(nth, &why.unwrap_or_default());
        }
    }
}

/// Whether this machine lets a process trace its children.
fn may_trace() -> bool {
    let mut command = std::process::Command::new(life::INJECT);
    command.args(["--call", "fsync", "--log", "/dev/null", "--", "/bin/true"]);
    let done = sutler_tests::harness::run(command, b"");
    done.code == 0 || !tools::skip(&format!("no process may be traced here ({}): run it where ptrace is allowed", done.stderr.trim()))
}

#[test]
fn an_enrolment_that_is_hurt_at_any_call_makes_one_client_and_its_job_runs_once() {
    if may_trace() {
        sweep("enroll", || Box::new(AgentLife::of_enrolment()));
    }
}

#[test]
fn an_agent_that_is_hurt_at_any_call_runs_nothing_twice_and_reports_once() {
    if may_trace() {
        sweep("agent", || Box::new(AgentLife::of_agent()));
    }
}

#[test]
fn a_manager_that_is_hurt_at_any_call_loses_nothing_that_it_acknowledged() {
    if may_trace() {
        sweep("manager", || Box::new(ManagerLife::new()));
    }
}
