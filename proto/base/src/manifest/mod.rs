//! The manifest of a package version: everything that is signed. Files by content address, steps by their exact arguments.
//!
//! JSON with `format: 1`. A reader ignores members that it does not know, unless `critical` names them: then it refuses
//! the whole. It is parsed only after the publisher's signature over its exact bytes was found good.

mod detection;
pub mod relations;
pub mod requirement;
mod steps;

pub use detection::{Detection, VersionRule};
pub use relations::{Dependency, Parameter, Present, Supersedes};
pub use requirement::{Manager, Requirement};
pub use steps::{ExitMeaning, Phase, Step};

use crate::{
    Digest, Invalid, PackageName, ParameterName, Timestamp, Version, limits,
    path::{InstallPath, RelPath, link_stays_inside},
    quoted, told,
    version::Ordering,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A package version as its publisher describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of this document: 1.
    pub format: u32,
    /// Names of members that a reader must know, or refuse the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critical: Vec<String>,
    /// The package's name.
    pub name: PackageName,
    /// The version, as its publisher writes it.
    pub version: Version,
    /// Grows with every release of the package: the time of signing in seconds unless the publisher gave one. Agents
    /// refuse to go back behind their mark.
    pub release: u64,
    /// By whose rules versions of this package compare.
    #[serde(default)]
    pub ordering: Ordering,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// On which machines it runs.
    #[serde(default)]
    pub platform: Platform,
    /// What a machine must be and have besides: all of it, asked before the download and again before the installation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<Requirement>,
    /// Packages that have to be installed before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    /// Packages whose place it takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<Supersedes>,
    /// What whoever orders it may set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<ParameterName, Parameter>,
    /// Where the files go on the client; without one they are there only while the steps run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<InstallPath>,
    /// Files, links and directories, sorted by path, each path once.
    pub files: Vec<Entry>,
    /// All must hold for the package to count as installed. Asked before (to skip) and after (to verify).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detection: Vec<Detection>,
    /// What is run, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Log files whose ends are fetched when it fails: absolute on the client's root, or relative to the package's directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
    /// How long its installation takes (seconds), so that it is begun in a maintenance window only where it fits; one that states
    /// none fits as long as the window is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<u32>,
    /// It is a new agent: its program, below the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<RelPath>,
    /// From when on it may no longer be installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Before when it may not yet be installed. Named in `critical`, so that an agent that does not know it refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
}

/// On which machines a package runs. `any` matches every one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system's family, as in `facts.os.family`.
    pub os: String,
    /// The processor's architecture, as in `facts.arch`.
    pub arch: String,
}

impl Default for Platform {
    fn default() -> Self {
        Platform { os: "linux".into(), arch: "any".into() }
    }
}

impl Platform {
    /// Whether a machine of this family and architecture is meant.
    pub fn fits(&self, os: &str, arch: &str) -> bool {
        (self.os == "any" || self.os == os) && (self.arch == "any" || self.arch == arch)
    }
}

/// One path of a package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it lies below the package's directory.
    pub path: RelPath,
    /// What it is.
    #[serde(flatten)]
    pub kind: EntryKind,
}

/// What lies at a path of a package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Permission bits, at most 0o777.
        mode: u32,
        /// How many bytes it has.
        size: u64,
        /// Its BLAKE3 digest.
        blake3: Digest,
        /// Its SHA-256 in hex, for people to compare with what the software's maker published.
        sha256: Digest,
        /// The digest of its encoded chunk list; none for a file of at most one chunk, whose address is `blake3`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chunks: Option<Digest>,
    },
    /// A symbolic link that stays inside the package.
    Link {
        /// What it points to, relative to where it lies.
        target: String,
    },
    /// A directory that is there even if it is empty.
    Directory {
        /// Permission bits, at most 0o777.
        mode: u32,
    },
}

/// Members that this program goes by; `critical` may name only these.
/// whoever says it is critical is told that a newer program is needed.
const KNOWN: [&str; 21] = [
    "format",
    "critical",
    "name",
    "version",
    "release",
    "ordering",
    "description",
    "platform",
    "requirements",
    "depends_on",
    "supersedes",
    "parameters",
    "directory",
    "files",
    "detection",
    "steps",
    "logs",
    "duration",
    "agent",
    "expires",
    "not_before",
];

impl Manifest {
    /// The manifest of this package that says nothing else.
    pub fn new(name: PackageName, version: Version, release: u64) -> Manifest {
        Manifest {
            format: 1,
            critical: Vec::new(),
            name,
            version,
            release,
            ordering: Ordering::default(),
            description: String::new(),
            platform: Platform::default(),
            requirements: Vec::new(),
            depends_on: Vec::new(),
            supersedes: Vec::new(),
            parameters: BTreeMap::new(),
            directory: None,
            files: Vec::new(),
            detection: Vec::new(),
            steps: Vec::new(),
            logs: Vec::new(),
            duration: None,
            agent: None,
            expires: None,
            not_before: None,
        }
    }

    /// The manifest in `bytes`, with every rule of the format checked. Call it only after the signature was found good.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, Invalid> {
        if bytes.len() as u64 > limits::MANIFEST_MAX {
            return Err(Invalid::new(format!("a manifest has at most {} bytes, not {}", limits::MANIFEST_MAX, bytes.len())));
        }
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|e| Invalid::new(format!("the manifest can't be read: {}", told(&e))))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The exact bytes that are signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is plain data")
    }

    /// Every rule of the format; the sentence of the first one that is broken.
    pub fn check(&self) -> Result<(), Invalid> {
        let fail = |sentence: String| Err(Invalid(sentence));
        if self.format != 1 {
            return fail(format!("this program reads manifests of format 1, not {}; a newer one is needed", self.format));
        }
        if let Some(unknown) = self.critical.iter().find(|c| !KNOWN.contains(&c.as_str())) {
            return fail(format!("the manifest needs {} to be understood; a newer program is needed", quoted(unknown)));
        }
        if self.description.len() > limits::DESCRIPTION_MAX {
            return fail(format!("a description has at most {} bytes", limits::DESCRIPTION_MAX));
        }
        for (what, value) in [("os", &self.platform.os), ("arch", &self.platform.arch)] {
            if value.is_empty() || value.len() > 32 || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                return fail(format!("platform.{what} has 1 to 32 of a-z 0-9 _ and -, or is \"any\"; {} is neither", quoted(value)));
            }
        }
        self.check_files()?;
        detection::check(&self.detection, self.directory.is_some())?;
        steps::check(&self.steps, self.directory.is_some())?;
        requirement::check(&self.requirements)?;
        relations::check_parameters(&self.parameters, &self.steps)?;
        relations::check_others(&self.name, &self.depends_on, &self.supersedes)?;
        let terms = serde_json::to_vec(&(&self.requirements, &self.depends_on, &self.supersedes, &self.parameters)).unwrap_or_default();
        if terms.len() > limits::TERMS_MAX {
            return fail(format!(
                "what it requires, depends on, supersedes and lets be set has at most {} bytes together, not {}",
                limits::TERMS_MAX,
                terms.len()
            ));
        }
        self.check_logs()?;
        if self.duration.is_some_and(|seconds| seconds == 0 || seconds > limits::DURATION_MAX) {
            return fail(format!("a package's duration is 1 to {} seconds", limits::DURATION_MAX));
        }
        self.check_agent()?;
        if self.directory.is_none() && self.steps.is_empty() {
            return fail("a package without a directory and without steps would do nothing; give it one of them".into());
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), Invalid> {
        let fail = |sentence: String| Err(Invalid(sentence));
        if self.files.len() > limits::FILES_MAX {
            return fail(format!("a package has at most {} files, not {}", limits::FILES_MAX, self.files.len()));
        }
        if let Some(pair) = self.files.windows(2).find(|pair| pair[0].path >= pair[1].path) {
            return fail(format!(
                "the files must be sorted by path, each path once; {} follows {}",
                quoted(pair[1].path.as_str()),
                quoted(pair[0].path.as_str())
            ));
        }
        let not_directories: BTreeSet<&str> =
            self.files.iter().filter(|e| !matches!(e.kind, EntryKind::Directory { .. })).map(|e| e.path.as_str()).collect();
        for entry in &self.files {
            // A path below a link would be written wherever the link points to.
            if let Some(parent) = entry.path.parents().find(|p| not_directories.contains(p)) {
                return fail(format!("{} lies below {}, which is not a directory", quoted(entry.path.as_str()), quoted(parent)));
            }
            match &entry.kind {
                EntryKind::File { mode, size, blake3, chunks, .. } => {
                    if *mode > 0o777 {
                        return fail(format!("{}: only permission bits are allowed, not mode {mode:o}", quoted(entry.path.as_str())));
                    }
                    if *size > limits::FILE_SIZE_MAX {
                        return fail(format!("{}: a file has at most {} bytes", quoted(entry.path.as_str()), limits::FILE_SIZE_MAX));
                    }
                    if *size > limits::CHUNK_MAX as u64 && chunks.is_none() {
                        return fail(format!(
                            "{}: a file of more than {} bytes needs a chunk list",
                            quoted(entry.path.as_str()),
                            limits::CHUNK_MAX
                        ));
                    }
                    if *size == 0 && *blake3 != Digest::of(b"") {
                        return fail(format!("{}: an empty file has the digest of nothing", quoted(entry.path.as_str())));
                    }
                }
                EntryKind::Link { target } => {
                    if !link_stays_inside(&entry.path, target) {
                        return fail(format!(
                            "the link {} leaves the package: it points to {}",
                            quoted(entry.path.as_str()),
                            quoted(target)
                        ));
                    }
                }
                EntryKind::Directory { mode } => {
                    if *mode > 0o777 {
                        return fail(format!("{}: only permission bits are allowed, not mode {mode:o}", quoted(entry.path.as_str())));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_logs(&self) -> Result<(), Invalid> {
        if self.logs.len() > limits::LOGS_MAX {
            return Err(Invalid(format!("a package names at most {} log files, not {}", limits::LOGS_MAX, self.logs.len())));
        }
        for path in &self.logs {
            if path.strip_prefix('/').unwrap_or(path).parse::<RelPath>().is_err() {
                return Err(Invalid(format!("the log file {} is not a normal path", quoted(path))));
            }
            if !path.starts_with('/') && self.directory.is_none() {
                return Err(Invalid(format!("the log file {} is relative, but the package has no directory", quoted(path))));
            }
        }
        Ok(())
    }

    fn check_agent(&self) -> Result<(), Invalid> {
        let Some(program) = &self.agent else { return Ok(()) };
        if self.directory.is_none() {
            return Err(Invalid("a package that is an agent needs a directory".into()));
        }
        let entry = self.files.iter().find(|e| e.path == *program);
        // While only the definition is known, there are no files yet.
        if !self.files.is_empty() && !entry.is_some_and(|e| matches!(e.kind, EntryKind::File { mode, .. } if mode & 0o100 != 0)) {
            return Err(Invalid(format!("the agent's program {} is not an executable file of the package", quoted(program.as_str()))));
        }
        if let Some(step) = self.steps.iter().find(|s| !matches!(s.phase, Phase::Before | Phase::OnError)) {
            // The old agent runs it and the new one would have to report it.
            let sentence = "a package that is an agent has steps before and on an error only, since the agent itself is what starts them";
            return Err(Invalid(format!("{sentence}; {} is none", quoted(&step.name))));
        }
        Ok(())
    }

    /// Everything that must hold on a machine: what it requires, and that what it depends on is installed there.
    pub fn conditions(&self) -> Vec<Requirement> {
        let dependency = |d: &Dependency| Requirement::Software {
            manager: Manager::Sutler,
            name: d.package.to_string(),
            versions: d.versions.clone(),
            absent: false,
        };
        self.requirements.iter().cloned().chain(self.depends_on.iter().map(dependency)).collect()
    }

    /// How it would stand to others on a machine.
    pub fn present(&self) -> Present {
        Present { package: self.name.clone(), version: self.version.clone(), ordering: self.ordering, supersedes: self.supersedes.clone() }
    }

    /// How many bytes the files have together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|e| if let EntryKind::File { size, .. } = e.kind { size } else { 0 }).fold(0, u64::saturating_add)
    }

    /// The digests of the chunk lists that belong to this manifest.
    pub fn chunk_lists(&self) -> impl Iterator<Item = (&Entry, u64, Digest)> {
        self.files.iter().filter_map(|e| match e.kind {
            EntryKind::File { size, chunks: Some(list), .. } => Some((e, size, list)),
            _ => None,
        })
    }
}

/// Every rule for a command that a package names.
fn check_command(what: &str, argv: &[String], environment: &BTreeMap<String, String>, seconds: u32) -> Result<(), Invalid> {
    let fail = |sentence: String| Err(Invalid(sentence));
    if argv.is_empty() || argv[0].is_empty() {
        return fail(format!("{what} has no program to run"));
    }
    if argv.iter().map(|a| a.len() + 1).sum::<usize>() > limits::ARGV_MAX || argv.iter().any(|a| a.contains('\0')) {
        return fail(format!("the arguments of {what} have more than {} bytes or a NUL", limits::ARGV_MAX));
    }
    if !argv[0].starts_with('/') && argv[0].trim_start_matches("./").parse::<RelPath>().is_err() {
        return fail(format!("the program of {what} is absolute, or below the package's directory; {} is neither", quoted(&argv[0])));
    }
    for (name, value) in environment {
        let named = !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !named || value.contains('\0') || value.len() > 4096 {
            return fail(format!("the environment of {what}: {} is not a variable of at most 4096 bytes", quoted(name)));
        }
    }
    if seconds == 0 || seconds > limits::STEP_SECONDS_MAX {
        return fail(format!("the time limit of {what} is 1 s to {} s, not {seconds} s", limits::STEP_SECONDS_MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        let digest = Digest::of(b"x");
        Entry { path: path.parse().unwrap(), kind: EntryKind::File { mode: 0o644, size: 1, blake3: digest, sha256: digest, chunks: None } }
    }

    fn manifest(files: Vec<Entry>) -> Manifest {
        let directory = Some("/opt/clamav".parse().unwrap());
        Manifest { directory, files, ..Manifest::new("clamav".parse().unwrap(), "1.0".parse().unwrap(), 1) }
    }

    #[test]
    fn a_manifest_reads_back_as_itself() {
        let link = Entry { path: "b".parse().unwrap(), kind: EntryKind::Link { target: "a".into() } };
        let m = manifest(vec![file("a"), link]);
        assert_eq!(Manifest::parse(&m.to_bytes()).unwrap(), m);
    }

    #[test]
    fn what_would_write_outside_is_refused() {
        let link = |at: &str, to: &str| Entry { path: at.parse().unwrap(), kind: EntryKind::Link { target: to.into() } };
        assert!(manifest(vec![link("a", "/etc")]).check().unwrap_err().0.contains("leaves the package"));
        assert!(manifest(vec![link("a", "b"), file("a/x")]).check().unwrap_err().0.contains("not a directory"));
        assert!(manifest(vec![file("b"), file("a")]).check().is_err());
        assert!(manifest(vec![file("a"), file("a")]).check().is_err());
    }

    #[test]
    fn what_the_manager_keeps_beside_each_version_is_bounded() {
        let mut m = manifest(vec![]);
        let words = |n: usize| (0..n).map(|n| format!("{n:064}")).collect();
        m.requirements = vec![Requirement::Arch { any_of: words(64) }; 10];
        m.check().unwrap();
        m.requirements = vec![Requirement::Arch { any_of: words(64) }; 20];
        assert!(m.check().unwrap_err().0.contains("together"));
    }

    #[test]
    fn an_unknown_critical_member_or_format_is_refused_and_an_unknown_other_one_is_not() {
        let mut m = manifest(vec![]);
        m.critical = vec!["teleport".into()];
        assert!(m.check().is_err());
        m.critical.clear();
        m.format = 2;
        assert!(m.check().is_err());
        m.format = 1;
        let mut json: serde_json::Value = serde_json::from_slice(&m.to_bytes()).unwrap();
        json["later"] = 1.into();
        assert!(Manifest::parse(json.to_string().as_bytes()).is_ok());
    }
}
