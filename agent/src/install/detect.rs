//! Asks the machine whether a package is there, by the rules of its manifest.

use super::{
    child::{self, End, Program},
    error::{Error, io},
    host,
    layout::{DIRECTORY, Layout},
    steps,
    tree::digest_of,
};
use crate::platform;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};
use sutler_base::{
    Digest, limits,
    manifest::{Detection, Manager, Manifest, VersionRule},
    quoted,
    version::Range,
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
            Detection::File { path, blake3, sha256, version } => {
                file(layout, tree.as_deref(), &Wanted { path, blake3: *blake3, sha256: *sha256, version: version.as_ref() })?
            }
            Detection::Command { argv, environment, exit_codes, output, version, time_limit } => {
                let asked =
                    Asked { argv, environment, exit_codes, output: output.as_deref(), version: version.as_ref(), time_limit: *time_limit };
                command(layout, manifest, tree.as_deref(), &asked)
            }
            Detection::Package { manager, name, versions } => package(layout, *manager, name, versions)?,
            Detection::Service { name } => match platform::service_running(layout.root(), name)? {
                true => Ok(()),
                false => Err(format!("the service {name} does not run")),
            },
        };
        if let Err(why) = held {
            return Ok(Detected::No(why));
        }
    }
    Ok(Detected::Yes)
}

/// Whether a rule holds, and if not, why.
type Held = Result<(), String>;

/// What a file must be.
struct Wanted<'a> {
    path: &'a str,
    blake3: Option<Digest>,
    sha256: Option<Digest>,
    version: Option<&'a VersionRule>,
}

fn file(layout: &Layout, tree: Option<&Path>, wanted: &Wanted<'_>) -> Result<Held, Error> {
    let root = layout.root();
    let full = match (wanted.path.strip_prefix('/'), tree) {
        (Some(below), _) => root.join(below),
        (None, Some(tree)) => tree.join(wanted.path),
        (None, None) => return Ok(Err(format!("{} is not there", quoted(wanted.path)))),
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
    if wanted.blake3.is_none() && wanted.sha256.is_none() && wanted.version.is_none() {
        return Ok(Ok(()));
    }
    if !File::from(found).metadata().map_err(io("look at", &full))?.is_file() {
        return Ok(Err(format!("{} is not a regular file", full.display())));
    }
    let mut file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(io("open", &full))?);
    let other = || Ok(Err(format!("{} has other content", full.display())));
    if let Some(expected) = wanted.blake3
        && digest_of(&file).map_err(io("read", &full))? != expected
    {
        return other();
    }
    if let Some(expected) = wanted.sha256
        && sha256_of(&mut file).map_err(io("read", &full))? != expected
    {
        return other();
    }
    if let Some(rule) = wanted.version {
        let mut text = Vec::new();
        file.rewind().map_err(io("read", &full))?;
        file.take(limits::VERSION_TEXT_MAX as u64).read_to_end(&mut text).map_err(io("read", &full))?;
        if let Err(why) = rule.check(&String::from_utf8_lossy(&text)) {
            return Ok(Err(format!("{} {why}", full.display())));
        }
    }
    Ok(Ok(()))
}

fn sha256_of(file: &mut File) -> std::io::Result<Digest> {
    file.rewind()?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => context.update(&buffer[..n]),
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(Digest(digest))
}

fn package(layout: &Layout, manager: Manager, name: &str, versions: &Range) -> Result<Held, Error> {
    let Some((manager, ordering)) = host::on_platform(manager) else {
        return Err(Error::Manifest("Sutler's own record is no way to detect a package".into()));
    };
    let Some(installed) = platform::packages_of(layout.root(), manager)? else {
        return Ok(Err(format!("{manager} is not on this machine")));
    };
    let found: Vec<&str> = installed.iter().filter(|p| p.name == name).map(|p| p.version.as_str()).collect();
    Ok(if found.iter().any(|version| versions.holds(version, ordering)) {
        Ok(())
    } else if found.is_empty() {
        Err(format!("{manager} has not installed {}", quoted(name)))
    } else {
        Err(format!("{manager} has installed {} {}, not {versions}", quoted(name), found.join(", ")))
    })
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

/// What is asked of a command.
struct Asked<'a> {
    argv: &'a [String],
    environment: &'a BTreeMap<String, String>,
    exit_codes: &'a [i32],
    output: Option<&'a str>,
    version: Option<&'a VersionRule>,
    time_limit: u32,
}

fn command(layout: &Layout, manifest: &Manifest, tree: Option<&Path>, asked: &Asked<'_>) -> Held {
    let Asked { argv, environment, exit_codes, output, version, time_limit } = *asked;
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
            user: None,
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
    let said = String::from_utf8_lossy(&finished.output);
    if let Some(text) = output.filter(|text| !said.contains(*text)) {
        return Err(format!("{shown} did not say {} but {}", quoted(text), quoted(said.trim())));
    }
    match version.map(|rule| rule.check(&said)) {
        Some(Err(why)) => Err(format!("what {shown} says {why}")),
        _ => Ok(()),
    }
}
