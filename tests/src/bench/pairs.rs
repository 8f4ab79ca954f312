//! Neighbouring versions of real software, unpacked: what an update changes in life.

use super::{install, measure};
use crate::tools;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// From where a pair comes.
#[derive(Debug, Clone, Copy)]
enum From {
    Npm(&'static str, [&'static str; 2]),
    PyPi(&'static str, [&'static str; 2]),
    /// Two versions of what a Debian package depends on.
    Debian(&'static str),
}

const PAIRS: [(&str, From); 6] = [
    ("typescript", From::Npm("typescript", ["5.9.2", "5.9.3"])),
    ("esbuild", From::Npm("@esbuild/linux-x64", ["0.25.9", "0.25.10"])),
    ("numpy", From::PyPi("numpy", ["2.3.2", "2.3.3"])),
    ("ruff", From::PyPi("ruff", ["0.12.10", "0.12.11"])),
    ("pyarrow", From::PyPi("pyarrow", ["19.0.0", "19.0.1"])),
    ("linux", From::Debian("linux-image-cloud-amd64")),
];

/// Two trees.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) old: PathBuf,
    pub(super) new: PathBuf,
}

/// All pairs that can be had, below `folder`; in a small run a small one that is there already, or the first.
pub(super) fn all(folder: &Path, small: bool) -> Vec<Pair> {
    if small && let Some([old, new]) = tools::two_versions() {
        let trees = [old, new].map(|package| {
            let tree = folder.join(package.file_stem().expect("it is a file"));
            unpack(&package, &tree);
            tree
        });
        let [old, new] = trees;
        return vec![Pair { name: "library".into(), old, new }];
    }
    let pairs = PAIRS.iter().filter_map(|(name, from)| get(&folder.join(name), name, *from));
    if small { pairs.take(1).collect() } else { pairs.collect() }
}

fn get(folder: &Path, name: &str, from: From) -> Option<Pair> {
    let (old, new) = (folder.join("old"), folder.join("new"));
    if !folder.join("complete").exists() {
        eprintln!("bench: getting two versions of {name}");
        let _ = std::fs::remove_dir_all(folder);
        fs_err::create_dir_all(folder).unwrap_or_else(|e| panic!("{e}"));
        for (n, tree) in [&old, &new].into_iter().enumerate() {
            let packages = folder.join(format!("package-{n}"));
            fs_err::create_dir_all(&packages).unwrap_or_else(|e| panic!("{e}"));
            if !download(&packages, from, n) {
                eprintln!("bench: {name} can't be had, so its update is not measured");
                return None;
            }
            let file = fs_err::read_dir(&packages).expect("it is there").next().expect("something was downloaded").expect("a file").path();
            unpack(&file, tree);
        }
        fs_err::write(folder.join("complete"), "").unwrap_or_else(|e| panic!("{e}"));
    }
    Some(Pair { name: name.into(), old, new })
}

fn download(into: &Path, from: From, n: usize) -> bool {
    let mut command = match from {
        From::Npm(name, versions) => {
            let mut command = Command::new("npm");
            command.args(["pack", "--silent", "--ignore-scripts", &format!("{name}@{}", versions[n])]);
            command
        }
        From::PyPi(name, versions) => {
            let mut command = Command::new("python3");
            command.args(["-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]);
            command.args(["--python-version", "3.11", "--implementation", "cp", "--platform", "manylinux_2_28_x86_64"]);
            command.args(["--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64"]);
            command.arg(format!("{name}=={}", versions[n]));
            command
        }
        From::Debian(name) => {
            let Some(package) = dependencies(name).and_then(|all| all.into_iter().nth(n)) else { return false };
            let mut command = Command::new("apt-get");
            command.args(["download", "-q", "-o", "APT::Sandbox::User=root", &package]);
            command
        }
    };
    command.current_dir(into).stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What the two newest versions of a package in the archive depend on first, the older one first.
fn dependencies(name: &str) -> Option<Vec<String>> {
    let output = Command::new("apt-cache").args(["show", name]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = text.lines().filter_map(|line| line.strip_prefix("Depends: ")?.split([' ', ',']).next().map(str::to_owned));
    // The newest stands first.
    let mut two: Vec<String> = all.take(2).collect();
    two.reverse();
    (two.len() == 2 && two[0] != two[1]).then_some(two)
}

fn unpack(package: &Path, tree: &Path) {
    let _ = std::fs::remove_dir_all(tree);
    fs_err::create_dir_all(tree).unwrap_or_else(|e| panic!("{e}"));
    let mut command = match package.extension().and_then(|extension| extension.to_str()) {
        Some("deb") => {
            let mut command = Command::new("dpkg-deb");
            command.arg("-x").arg(package).arg(tree);
            command
        }
        Some("whl") => {
            let mut command = Command::new("python3");
            command.args(["-m", "zipfile", "-e"]).arg(package).arg(tree);
            command
        }
        _ => {
            let mut command = Command::new("tar");
            command.args(["--strip-components=1", "-xzf"]).arg(package).arg("-C").arg(tree);
            command
        }
    };
    command.stdout(Stdio::null());
    measure::run(command);
}

/// The least that zstd alone makes of the update: all of the new tree, or a patch from the old one, whichever is smaller (bytes).
pub(super) fn zstd(pair: &Pair, scratch: &Path) -> u64 {
    assert!(install::debian("zstd", "zstd"), "updates are measured against zstd");
    let tar = |tree: &Path, name: &str| {
        let file = scratch.join(name);
        let mut command = Command::new("tar");
        command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf"]).arg(&file).arg("-C").arg(tree).arg(".");
        measure::run(command);
        file
    };
    let (old, new) = (tar(&pair.old, "old.tar"), tar(&pair.new, "new.tar"));
    let compressed = |from: Option<&Path>| {
        let file = scratch.join("compressed");
        let mut command = Command::new("zstd");
        command.args(["-q", "-f", "-19", "--long=31"]);
        if let Some(old) = from {
            command.arg(format!("--patch-from={}", old.display()));
        }
        command.arg(&new).arg("-o").arg(&file);
        measure::run(command);
        fs_err::metadata(&file).expect("it was written").len()
    };
    compressed(None).min(compressed(Some(&old)))
}
