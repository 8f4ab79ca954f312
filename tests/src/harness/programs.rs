//! Finds the real programs, built from this very source.
//!
//! They are binaries of other packages, for which Cargo tells a test no path. They lie beside the test's own program; the
//! first that asks has Cargo bring them up to date, so that `cargo test` and `cargo demo` work in a fresh clone. The same
//! packages are chosen as for the test itself: with others Cargo would unify features differently and build all anew.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Set to a folder with both programs, nothing is built and those are taken: for packagers who test what they ship.
pub const BINARIES: &str = "SUTLER_BINARIES";

/// The manager and its command line.
pub fn sutler() -> PathBuf {
    folder().join("sutler")
}

/// The agent.
pub fn sutler_agent() -> PathBuf {
    folder().join("sutler-agent")
}

/// The command that runs what is appended to it by a clock that is `offset` away: `+3d`, `-60s`; for [`within`]. Time that
/// is measured goes on as it does.
///
/// faketime names what it shares by its process id, and leaves it when it is killed: without the removal it would fail for
/// whoever gets that id next.
pub fn by_clock(offset: &str) -> [&str; 7] {
    let script = "rm -f /dev/shm/sem.faketime_sem_$$ /dev/shm/faketime_shm_$$; exec faketime -f \"$@\"";
    ["env", "DONT_FAKE_MONOTONIC=1", "sh", "-c", script, "sh", offset]
}

/// A command that is run through another one, to which it is appended; none leaves it as it is.
pub fn within(wrapper: &[impl AsRef<OsStr>], plain: Command) -> Command {
    let Some((program, arguments)) = wrapper.split_first() else { return plain };
    let mut command = Command::new(program);
    command.args(arguments).arg(plain.get_program()).args(plain.get_args());
    plain.get_envs().for_each(|(name, value)| {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    });
    command
}

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// From now on the programs are those of this folder, and nothing is built.
///
/// # Panics
///
/// When others were asked for before.
pub fn take(folder: PathBuf) {
    FOLDER.set(folder).expect("nobody has asked for the programs yet");
}

/// The folder with both, which is up to date.
///
/// # Panics
///
/// When they can't be built.
pub fn folder() -> &'static Path {
    FOLDER.get_or_init(|| match std::env::var_os(BINARIES) {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => build(),
    })
}

fn build() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows where it is");
    // target/PROFILE/demo, target/PROFILE/deps/e2e-0123456789abcdef
    let folder = own.parent().expect("a program lies in a folder");
    let folder = if folder.file_name() == Some(OsStr::new("deps")) { folder.parent().expect("deps lies in a folder") } else { folder };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "-p", "sutler-tests", "-p", "sutler", "-p", "sutler-agent"]);
    cargo.args(["--bin", "sutler", "--bin", "sutler-agent"]);
    // What cargo tells a test about its crate is not meant for the next cargo: build scripts of others ask for it, and half of
    // everything would be built anew here, and once more for the next test.
    let of_this_crate = |name: &OsStr| name.to_str().is_some_and(|n| n.starts_with("CARGO_MANIFEST_") || n.starts_with("CARGO_PKG_"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_this_crate(name)) {
        cargo.env_remove(name);
    }
    match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => {}
        Some(profile) => {
            cargo.args(["--profile", profile]);
        }
    }
    cargo.arg("--target-dir").arg(folder.parent().expect("the profile's folder lies in the target folder"));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).stdin(Stdio::null());
    let status = cargo.status().expect("cargo is there: it has built this program");
    assert!(status.success(), "the programs could not be built; see above, or set {BINARIES} to a folder that has them");
    folder.to_owned()
}
