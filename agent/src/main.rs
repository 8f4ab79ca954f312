//! The agent's program.

use std::{path::Path, process::ExitCode};

#[global_allocator]
static ALLOCATOR: sutler_agent::memory::Keeping = sutler_agent::memory::Keeping;

fn main() -> ExitCode {
    // Before anything else: the supervisor of a step is this program with one thread and nothing initialised.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == "supervise") {
        return match arguments.next() {
            Some(dir) => sutler_agent::install::supervise(Path::new(&dir)),
            None => ExitCode::from(2),
        };
    }
    sutler_agent::cli::main()
}
