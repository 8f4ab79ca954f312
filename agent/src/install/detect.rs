//! Asks the machine whether a package is there, by the rules of its manifest.

use super::{
    child::{self, End, Program},
    error::{Error, io},
    layout::{DIRECTORY, Layout},
    steps,
    tree::digest_of,
};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};
use sutler_base::{
    Digest, limits,
    manifest::{Detection, Manifest},
    quoted,
};

/// Whether a package is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected {
    /// Every rule holds.
    Yes,
    /// A rule does not hold: which, in one sentence.
    No(String),
    /// It has no rules: it is there if the record of the tree at its directory says so ([`super::TreeRecord::read`]).
    NoRules,
}

/// Whether every detection rule of the manifest holds on this machine.
///
/// Commands run one after another, each with its time limit, and are killed with their process group at its end.
pub fn detect(layout: &Layout, manifest: &Manifest) -> Result<Detected, Error> {
    if manifest.detection.is_empty() {
        return Ok(Detected::NoRules);
    }
    let tree = match &manifest.directory {
        Some(directory) => layout.installed(directory)?.filter(|path| path.is_dir()),
        None => None,
    };
    for rule in &manifest.detection {
        let held = match rule {
            Detection::File { path, blake3 } => file(layout, tree.as_deref(), path, *blake3)?,
            Detection::Command { argv, environment, exit_codes, output, time_limit } => {
                command(layout, manifest, tree.as_deref(), argv, environment, exit_codes, output.as_deref(), *time_limit)
            }
        };
        if let Err(why) = held {
            return Ok(Detected::No(why));
        }
    }
    Ok(Detected::Yes)
}

/// Whether a rule holds, and if not, why.
type Held = Result<(), String>;

fn file(layout: &Layout, tree: Option<&Path>, path: &str, blake3: Option<Digest>) -> Result<Held, Error> {
    let root = layout.root();
    let full = match (path.strip_prefix('/'), tree) {
        (Some(below), _) => root.join(below),
        (None, Some(tree)) => tree.join(path),
        (None, None) => return Ok(Err(format!("{} is not there", quoted(path)))),
    };
    let below = full.strip_prefix(root).unwrap_or(&full);
    let open = |flags| open_below(root, below, flags | OFlags::CLOEXEC);
    let absent = |e: Errno| matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV);
    // Only looked at: opening a device may do something.
    let found = match open(OFlags::PATH) {
        Ok(found) => found,
        Err(e) if absent(e) => return Ok(Err(format!("{} is not there", full.display()))),
        Err(e) => return Err(io("look at", full)(e)),
    };
    let Some(expected) = blake3 else { return Ok(Ok(())) };
    if !File::from(found).metadata().map_err(io("look at", &full))?.is_file() {
        return Ok(Err(format!("{} is not a regular file", full.display())));
    }
    let file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(io("open", &full))?);
    let digest = digest_of(&file).map_err(io("read", &full))?;
    Ok(if digest == expected { Ok(()) } else { Err(format!("{} has other content", full.display())) })
}

/// Opens a path below `root`; links are followed as if that were the root of the machine.
fn open_below(root: &Path, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let top = rustix::fs::openat(CWD, root, DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&top, below, flags, Mode::empty(), resolve) {
        // Kernels before 5.6.
        Err(Errno::NOSYS) => rustix::fs::openat(&top, below, flags, Mode::empty()),
        opened => opened,
    }
}

#[expect(clippy::too_many_arguments, reason = "the members of one rule")]
fn command(
    layout: &Layout,
    manifest: &Manifest,
    tree: Option<&Path>,
    argv: &[String],
    environment: &BTreeMap<String, String>,
    exit_codes: &[i32],
    output: Option<&str>,
    time_limit: u32,
) -> Held {
    let shown = quoted(&argv.join(" "));
    let directory: PathBuf = match (tree, &manifest.directory) {
        (Some(tree), _) => tree.into(),
        (None, None) => layout.root().into(),
        (None, Some(directory)) if argv.first().is_some_and(|program| !program.starts_with('/')) => {
            return Err(format!("{shown} can't be asked: {directory} is not there"));
        }
        (None, Some(_)) => layout.root().into(),
    };
    let program = steps::resolve(&directory, &directory, argv).map_err(|why| format!("{shown} can't be asked: {why}"))?;
    let finished = child::run(
        &Program {
            program,
            argv: argv.to_vec(),
            environment: steps::environment(layout, manifest, &directory, environment),
            directory,
            limit_ms: u64::from(time_limit) * 1000,
            grace_ms: 0,
            output_max: limits::OUTPUT_TAIL_MAX,
        },
        None,
    );
    match finished.end {
        End::Exited { code } if exit_codes.contains(&code) => {}
        End::Exited { code } => return Err(format!("{shown} ended with exit code {code}")),
        End::Signaled { signal } => return Err(format!("{shown} was ended by signal {signal}")),
        End::TimedOut => return Err(format!("{shown} did not end within {time_limit} s")),
        End::NotStarted { why } => return Err(format!("{shown} can't be asked: {why}")),
    }
    match output {
        Some(text) if !String::from_utf8_lossy(&finished.output).contains(text) => {
            let said = String::from_utf8_lossy(&finished.output);
            Err(format!("{shown} did not say {} but {}", quoted(text), quoted(said.trim())))
        }
        _ => Ok(()),
    }
}
