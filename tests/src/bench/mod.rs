//! The benchmark: what the real programs take, each figure beside a peer or a limit of the same run.
//!
//! Managers and agents are processes with their default settings: the manager as it is released, and the one agent that is
//! shipped. Peers are installed where they lack, listen on the loopback, live in folders of their own, and are ended by their
//! process ids. Rounds of ours and of the peer's alternate, so that whatever else the machine does hits both. Each scenario
//! makes sure that what it measured is what it means (digests, counts), and panics where it isn't. A small run does that
//! alone: its figures mean nothing.
//!
//! [`measure`] reads what processes take, [`line`] says what came of it, [`peers`] are the others, [`scenarios`] what is
//! measured. Everything that is made lies below `target/bench`.

mod agents;
mod bare;
mod build;
mod filled;
mod fleet;
mod install;
mod line;
mod measure;
mod options;
mod ours;
mod pairs;
mod peers;
mod pki;
mod plot;
mod readme;
mod replay;
mod run;
mod scenarios;

use crate::harness::programs;
use options::{Options, USAGE};
use run::Run;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The program `bench`.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // What the benchmark itself starts as processes of their own.
    match words.split_first() {
        Some((word, rest)) if word == agents::WORD => return agents::main(rest),
        Some((word, rest)) if word == bare::SERVER => return bare::server(rest),
        Some((word, rest)) if word == bare::CLIENTS => return bare::clients(rest),
        Some((word, _)) if word == "list" => {
            scenarios::ALL.iter().for_each(|scenario| println!("{:<14} {}", scenario.name, scenario.what));
            return ExitCode::SUCCESS;
        }
        Some((word, _)) if word == "--help" || word == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let options = match Options::read(&words) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("error: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let folder = folder();
    let temporary = folder.join("tmp");
    fs_err::create_dir_all(&temporary).unwrap_or_else(|e| panic!("{e}"));
    // Whoever asked first has it already: then this is what was wanted, too.
    let _ = tempfile::env::override_temp_dir(&temporary);
    if std::env::var_os(programs::BINARIES).is_none_or(|folder| folder.is_empty()) {
        programs::take(build::programs(&folder));
    }
    let mut run = Run::new(folder, &options);
    let mut failed = Vec::new();
    for scenario in options.scenarios.iter().copied() {
        run.begin(scenario);
        if catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut run))).is_err() {
            failed.push(scenario.name);
        }
    }
    run.end();
    if options.write && failed.is_empty() {
        readme::write(run.lines());
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: what was measured is not what was meant, or could not be: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// `target/bench`, of the target folder in which this program lies.
fn folder() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows where it is");
    own.parent().and_then(Path::parent).expect("target/PROFILE/bench").join("bench")
}

/// The repository.
fn root() -> PathBuf {
    fs_err::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("the repository is there")
}
