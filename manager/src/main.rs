//! The program `sutler`: the manager, and the commands of its administrators.

/// Of the whole program, SQLite's C too. What a crowd of agents leaves behind when it has come in lies between what stays for as long as
/// they are connected: glibc keeps it, which is 20 kB for each agent (with 15,000), and 2 kB where SQLite alone has it. How it is set up
/// stands in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    sutler::cli::run(std::env::args_os())
}
