//! The program `sutler`: the manager, and the commands of its administrators.

fn main() -> std::process::ExitCode {
    sutler::cli::run(std::env::args_os())
}
