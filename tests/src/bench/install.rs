//! What the benchmark installs for itself: Debian's packages with apt, and Salt with pip below its own folder.

use std::{
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Whether `program` is there, or was installed with the Debian package `package`; says what it does.
pub(super) fn debian(program: &str, package: &str) -> bool {
    if crate::tools::tool(program).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() || crate::tools::tool("apt-get").is_none() {
        eprintln!("bench: {program} is not here, and only root installs it: apt-get install {package}");
        return false;
    }
    static UPDATED: OnceLock<bool> = OnceLock::new();
    eprintln!("bench: installing {package} with apt-get");
    let started = NoServices::begin();
    UPDATED.get_or_init(|| apt(&["update", "-qq"]));
    apt(&["install", "-qq", "-y", "--no-install-recommends", package]);
    drop(started);
    let there = crate::tools::tool(program).is_some();
    if !there {
        eprintln!("bench: {package} could not be installed, so {program} is not measured");
    }
    there
}

fn apt(arguments: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// As long as it lives, packages that are installed start no services: the benchmark starts what it measures by itself.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn begin() -> NoServices {
        let path = Path::new("/usr/sbin/policy-rc.d");
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path);
        // Somebody's own rule stays as it is.
        let made = made.and_then(|mut file| std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n"));
        NoServices(made.is_ok().then(|| path.to_owned()))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The programs of Salt, installed below `folder`; none where they can't be, or a small run would have to wait for minutes.
///
/// The newest releases first: which of them can be installed depends on what the index has of what they pin.
pub(super) fn salt(folder: &Path, small: bool) -> Option<PathBuf> {
    const VERSIONS: [&str; 4] = ["3008.5", "3008.4", "3008.3", "3007.17"];
    let programs = folder.join("salt/bin");
    if programs.join("salt-master").exists() {
        return Some(programs);
    }
    if small {
        eprintln!("bench: Salt is not here, and is installed by a whole run alone");
        return None;
    }
    let done = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    eprintln!("bench: installing Salt with pip below {}", folder.display());
    if !done(Command::new("python3").args(["-m", "venv"]).arg(folder.join("salt"))) {
        eprintln!("bench: python3 makes no virtual environment, so Salt is not measured");
        return None;
    }
    let installed = VERSIONS.iter().any(|version| {
        done(Command::new(programs.join("pip")).args(["install", "-q", "--disable-pip-version-check", &format!("salt=={version}")]))
    });
    if !installed || !programs.join("salt-master").exists() {
        eprintln!("bench: none of {VERSIONS:?} can be installed, so Salt is not measured");
        return None;
    }
    Some(programs)
}
