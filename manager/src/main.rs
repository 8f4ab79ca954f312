//! The program `sutler`: the manager, and the commands of its administrators.

/// What a crowd of agents leaves behind when it has come in lies between what stays for as long as they are connected: glibc keeps it,
/// which is 20 kB for each agent (with 15,000). How it is set up stands in `.cargo/config.toml`. It serves Rust's code alone: SQLite's too
/// would save 2 kB more, and the program would not start under `faketime`, by which the tests set clocks.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    sutler::cli::run(std::env::args_os())
}
