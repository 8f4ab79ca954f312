//! Tries a mutation: a copy of the source, the patch, the test.

use super::{Mutation, root};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What became of the tests of a mutation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// A test that it names failed: it keeps the promise.
    Failed,
    /// The tests passed without the protection: nothing keeps the promise.
    Passed,
    /// The patch does not apply.
    DoesNotApply(String),
    /// The source does not compile with it, or the test could not be run.
    Broken(String),
}

/// A copy of the source to try mutations in, with a target folder of its own.
#[derive(Debug)]
pub struct Workshop {
    tree: PathBuf,
    target: PathBuf,
}

impl Workshop {
    /// Below `target/mutations`. The dependencies that were built for the tests are taken over, so that only this source is
    /// built again.
    pub fn open() -> io::Result<Workshop> {
        let folder = root().join("target/mutations");
        let workshop = Workshop { tree: folder.join("tree"), target: folder.join("target") };
        fs_err::create_dir_all(&workshop.tree)?;
        let built = root().join("target/debug");
        if !workshop.target.exists() && built.exists() {
            let half = folder.join("target.new");
            let _ = fs_err::remove_dir_all(&half);
            fs_err::create_dir_all(half.join("debug"))?;
            for part in [".fingerprint", "build", "deps"] {
                let status = Command::new("cp").arg("-a").arg(built.join(part)).arg(half.join("debug")).status()?;
                if !status.success() {
                    return Err(io::Error::other(format!("cannot copy {part} of what is built")));
                }
            }
            fs_err::rename(half, &workshop.target)?;
        }
        Ok(workshop)
    }

    /// Tries a mutation. What the test prints goes to the standard error.
    pub fn try_out(&self, mutation: &Mutation) -> io::Result<Tried> {
        self.refresh()?;
        let applied = git(&self.tree, &["apply", "--recount"], Some(&mutation.path))?;
        if !applied.status.success() {
            return Ok(Tried::DoesNotApply(String::from_utf8_lossy(&applied.stderr).trim().to_owned()));
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(mutation.arguments()).current_dir(&self.tree).stdin(Stdio::null());
        cargo.env("CARGO_TARGET_DIR", &self.target).env("SUTLER_TOOLS", crate::tools::folder());
        // Said by `cargo run` for this program, and wrong for the copy.
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_")) {
                cargo.env_remove(key);
            }
        }
        let output = cargo.output()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let is_failed =
            |line: &str| mutation.tests().iter().any(|t| line.starts_with("test ") && line.ends_with(&format!("{t} ... FAILED")));
        if out.lines().any(is_failed) {
            return Ok(Tried::Failed);
        }
        let ran: usize = out.lines().filter_map(|line| line.strip_prefix("running ")?.split(' ').next()?.parse::<usize>().ok()).sum();
        if output.status.success() && ran > 0 {
            return Ok(Tried::Passed);
        }
        let end = |text: &str| text.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        Ok(Tried::Broken(format!("{} tests ran\n{}\n{}", ran, end(&out), end(&err))))
    }

    /// Makes the copy the same as the source again. Files that are the same already are left alone, so that Cargo builds
    /// only what has changed.
    fn refresh(&self) -> io::Result<()> {
        let listed = git(&root(), &["ls-files", "-z", "--cached", "--others", "--exclude-standard"], None)?;
        let listed = String::from_utf8(listed.stdout).map_err(|_| io::Error::other("a file's name is not UTF-8"))?;
        let wanted: BTreeSet<&str> = listed.split('\0').filter(|name| !name.is_empty() && root().join(name).is_file()).collect();
        for name in &wanted {
            let (from, to) = (root().join(name), self.tree.join(name));
            let bytes = fs_err::read(&from)?;
            if fs_err::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            fs_err::create_dir_all(to.parent().unwrap_or(&self.tree))?;
            fs_err::write(&to, bytes)?;
            fs_err::set_permissions(&to, fs_err::metadata(&from)?.permissions())?;
        }
        let mut folders = vec![self.tree.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder)? {
                let path = entry?.path();
                let name = path.strip_prefix(&self.tree).unwrap_or(&path).to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if !wanted.contains(name.as_str()) {
                    fs_err::remove_file(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether the patch applies to the source as it is; else why not.
pub(super) fn applies(mutation: &Mutation) -> io::Result<Result<(), String>> {
    let output = git(&root(), &["apply", "--recount", "--check"], Some(&mutation.path))?;
    Ok(if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) })
}

impl Mutation {
    /// Whether the patch applies to the source as it is; else why not.
    pub fn applies(&self) -> io::Result<Result<(), String>> {
        applies(self)
    }
}

/// Runs git in a folder which it takes for a plain folder where it is the copy.
fn git(folder: &Path, arguments: &[&str], file: Option<&Path>) -> io::Result<Output> {
    let mut command = Command::new("git");
    command.args(arguments).args(file).current_dir(folder).stdin(Stdio::null());
    if folder != root() {
        command.env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(folder));
    }
    command.output()
}
