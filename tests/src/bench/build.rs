//! Builds what is measured: the manager as it is released, and the one agent that is shipped.

use super::{install, root};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the agent is built for: one static program for every Linux.
pub(super) const AGENT_TARGET: &str = "x86_64-unknown-linux-musl";

/// A folder with both programs, up to date.
///
/// # Panics
///
/// When they can't be built.
pub(super) fn programs(folder: &Path) -> PathBuf {
    let target = folder.parent().expect("target/bench");
    // C compilers for musl: ring and zstd are in C.
    assert!(install::debian("musl-gcc", "musl-tools"), "the agent can't be built without musl-tools");
    if !has_target() {
        eprintln!("bench: adding {AGENT_TARGET} with rustup");
        let added = Command::new("rustup").args(["target", "add", AGENT_TARGET]).stdin(Stdio::null()).status();
        assert!(added.is_ok_and(|status| status.success()), "the agent can't be built without rustc's target {AGENT_TARGET}");
    }
    cargo(target, &["--release", "-p", "sutler", "--bin", "sutler"]);
    cargo(target, &["--profile", "agent", "--target", AGENT_TARGET, "-p", "sutler-agent", "--bin", "sutler-agent"]);
    let programs = folder.join("programs");
    fs_err::create_dir_all(&programs).unwrap_or_else(|e| panic!("{e}"));
    for built in [target.join("release/sutler"), target.join(AGENT_TARGET).join("agent/sutler-agent")] {
        let copy = programs.join(built.file_name().expect("it is a program"));
        // Another file, so that a copy that still runs somewhere is no obstacle.
        let _ = std::fs::remove_file(&copy);
        fs_err::copy(&built, &copy).unwrap_or_else(|e| panic!("{e}"));
    }
    programs
}

fn has_target() -> bool {
    let root = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()).output().expect("rustc is there");
    let root = String::from_utf8_lossy(&root.stdout).trim().to_owned();
    Path::new(&root).join("lib/rustlib").join(AGENT_TARGET).is_dir()
}

fn cargo(target: &Path, arguments: &[&str]) {
    eprintln!("bench: cargo build {}", arguments.join(" "));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked"]).args(arguments).arg("--target-dir").arg(target);
    // What cargo told this program about its crate is not meant for the next cargo.
    let of_this_crate = |name: &OsStr| name.to_str().is_some_and(|n| n.starts_with("CARGO_MANIFEST_") || n.starts_with("CARGO_PKG_"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_this_crate(name)) {
        cargo.env_remove(name);
    }
    let status = cargo.current_dir(root()).stdin(Stdio::null()).status().expect("cargo is there: it has built this program");
    assert!(status.success(), "`cargo build {}` failed", arguments.join(" "));
}
