//! `bench`: what Sutler takes, measured beside a peer or a limit in the same run. See `tests/src/bench`.

fn main() -> std::process::ExitCode {
    sutler_tests::bench::main()
}
