//! `package.toml`: what a publisher writes about a package.
//!
//! Everything that is wrong with the file is said at once, each problem with its line, its key and what is allowed. The
//! example that [`super::EXAMPLE`] holds has every key:
//!
//! ```
//! let definition = sutler::package::Definition::parse("package.toml".as_ref(), sutler::package::EXAMPLE).unwrap();
//! assert_eq!(definition.name.as_str(), "hello");
//! assert_eq!(definition.steps.len(), 3);
//! assert_eq!(definition.detection.len(), 2);
//! ```

mod relations;
mod rules;
mod steps;
mod write;

pub use super::document::Problem;
use super::{
    document::{Reader, Table},
    pattern::Pattern,
};
use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};
use sutler_base::{
    PackageName, ParameterName, Timestamp, Version, limits,
    manifest::{Dependency, Detection, Manifest, Parameter, Phase, Platform, Requirement, Step, Supersedes},
    path::{InstallPath, RelPath},
    version::Ordering,
};
use toml::{Spanned, de::DeTable};

/// The name of the file in a package's folder.
pub const FILE: &str = "package.toml";
/// The folder whose files are installed, unless the definition names another.
pub const FILES: &str = "files";
/// The longest `package.toml` (bytes).
const LENGTH_MAX: u64 = 1 << 20;
/// How many of the things to mend an error lists.
const PROBLEMS_SHOWN: usize = 50;

/// The least that a `package.toml` needs.
pub const MINIMAL: &str = r#"name = "hello"
version = "1.0"
directory = "/opt/hello"        # where the files of this folder go on each client

[[step]]                        # optional: what is run to install it
name = "configure"
argv = ["bin/hello", "--configure"]

[[detection]]                   # optional: how to see that it is installed
file = "bin/hello"
"#;

/// What a `package.toml` says; the files beside it are not looked at yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The package's name.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// Its release, if the publisher counts them.
    pub release: Option<u64>,
    /// By whose rules its versions compare.
    pub ordering: Ordering,
    /// One sentence for people.
    pub description: String,
    /// On which clients it runs.
    pub platform: Platform,
    /// What a client must be and have besides.
    pub requirements: Vec<Requirement>,
    /// What has to be installed before it.
    pub depends_on: Vec<Dependency>,
    /// Whose place it takes.
    pub supersedes: Vec<Supersedes>,
    /// What whoever orders it may set.
    pub parameters: BTreeMap<ParameterName, Parameter>,
    /// Where the files go on the client.
    pub directory: Option<InstallPath>,
    /// The folder that holds what is installed, if it is named.
    pub files: Option<RelPath>,
    /// What of it is left out.
    pub exclude: Vec<Pattern>,
    /// What is run.
    pub steps: Vec<Step>,
    /// How to see that it is installed.
    pub detection: Vec<Detection>,
    /// What is fetched when it fails.
    pub logs: Vec<String>,
    /// How long its installation takes (seconds).
    pub duration: Option<u32>,
    /// Its program, if it is a new agent.
    pub agent: Option<RelPath>,
    /// Whether the publisher relies on the old version being put back when an upgrade fails.
    pub restore: bool,
    /// From when on it may no longer be installed.
    pub expires: Option<Timestamp>,
    /// Before when it may not yet be installed.
    pub not_before: Option<Timestamp>,
}

/// Everything that is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// What is wrong, by line; what is missing at the top comes first. Never empty.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.list[..] {
            [one] => write!(f, "{}: {one}", self.file.display()),
            many => {
                write!(f, "{}: {} things to mend:", self.file.display(), many.len())?;
                many.iter().take(PROBLEMS_SHOWN).try_for_each(|problem| write!(f, "\n  {problem}"))?;
                match many.len().saturating_sub(PROBLEMS_SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "\n  and {more} more"),
                }
            }
        }
    }
}

/// Why there is no definition.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The folder is not there, or is none.
    #[error("{} is not a folder; give the folder that holds the package's {FILE} and its files", .0.display())]
    NoFolder(PathBuf),
    /// The folder has no `package.toml`.
    #[error("{} has no {FILE}; write one beside the package's files (`sutler package init` begins one), for example:\n\n{MINIMAL}", .0.display())]
    NoFile(PathBuf),
    /// It can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not TOML.
    #[error("{}, line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// It is TOML, but not a package's definition.
    #[error("{0}")]
    Problems(Problems),
}

impl Definition {
    /// The definition in `folder`.
    pub fn load(folder: &Path) -> Result<Definition, DefinitionError> {
        if !folder.is_dir() {
            return Err(DefinitionError::NoFolder(folder.into()));
        }
        let path = folder.join(FILE);
        match read_text(&path) {
            Ok(text) => Definition::parse(&path, &text),
            Err(DefinitionError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(DefinitionError::NoFile(folder.into()))
            }
            Err(e) => Err(e),
        }
    }

    /// The definition that says nothing but this; it is none yet, since it would do nothing.
    pub(super) fn new(name: PackageName, version: Version) -> Definition {
        Definition {
            name,
            version,
            release: None,
            ordering: Ordering::default(),
            description: String::new(),
            platform: Platform::default(),
            requirements: Vec::new(),
            depends_on: Vec::new(),
            supersedes: Vec::new(),
            parameters: BTreeMap::new(),
            directory: None,
            files: None,
            exclude: Vec::new(),
            steps: Vec::new(),
            detection: Vec::new(),
            logs: Vec::new(),
            duration: None,
            agent: None,
            restore: false,
            expires: None,
            not_before: None,
        }
    }

    /// The definition that `text` is; `path` is only named in errors.
    pub fn parse(path: &Path, text: &str) -> Result<Definition, DefinitionError> {
        let definition = parse_over(path, text, None)?;
        definition.check(path)?;
        Ok(definition)
    }

    /// This definition, with each key of `text` in the place of what it has there. Not checked as a whole.
    pub(super) fn with(self, path: &Path, text: &str) -> Result<Definition, DefinitionError> {
        parse_over(path, text, Some(self))
    }

    /// The rules that no single key can break; `path` is named in the error.
    pub(super) fn check(&self, path: &Path) -> Result<(), DefinitionError> {
        let mut list = Vec::new();
        if let Err(why) = self.manifest(1, Vec::new()).check() {
            list.push(Problem { line: None, key: "the package".into(), sentence: why.0 });
        }
        if !self.can_restore() {
            let sentence = "nothing can be put back: the package has neither a directory, whose tree would be exchanged back, nor a \
                            step with phase = \"restore\""
                .to_owned();
            list.push(Problem { line: None, key: "restore".into(), sentence });
        }
        if list.is_empty() { Ok(()) } else { Err(DefinitionError::Problems(Problems { file: path.into(), list })) }
    }

    /// Whether what it says about putting the old version back can be done.
    fn can_restore(&self) -> bool {
        !self.restore || self.directory.is_some() || self.steps.iter().any(|s| s.phase == Phase::Restore)
    }

    /// The members that an agent must know, or refuse the package: passing over one of them would install what is not to be.
    fn critical(&self) -> Vec<String> {
        let said = [
            ("requirements", !self.requirements.is_empty()),
            ("depends_on", !self.depends_on.is_empty()),
            ("supersedes", !self.supersedes.is_empty()),
            ("parameters", !self.parameters.is_empty()),
            ("agent", self.agent.is_some()),
            ("not_before", self.not_before.is_some()),
        ];
        said.iter().filter(|(_, said)| *said).map(|(name, _)| (*name).to_owned()).collect()
    }

    /// The manifest of this definition with these files.
    pub(super) fn manifest(&self, release: u64, files: Vec<sutler_base::manifest::Entry>) -> Manifest {
        Manifest {
            format: 1,
            critical: self.critical(),
            name: self.name.clone(),
            version: self.version.clone(),
            release: self.release.unwrap_or(release),
            ordering: self.ordering,
            description: self.description.clone(),
            platform: self.platform.clone(),
            requirements: self.requirements.clone(),
            depends_on: self.depends_on.clone(),
            supersedes: self.supersedes.clone(),
            parameters: self.parameters.clone(),
            directory: self.directory.clone(),
            files,
            detection: self.detection.clone(),
            steps: self.steps.clone(),
            logs: self.logs.clone(),
            duration: self.duration,
            agent: self.agent.clone(),
            expires: self.expires,
            not_before: self.not_before,
        }
    }
}

/// The text of a `package.toml`, or of a part of one.
pub(super) fn read_text(path: &Path) -> Result<String, DefinitionError> {
    let read = || {
        let length = std::fs::metadata(path)?.len();
        if length > LENGTH_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has {length} bytes; at most {LENGTH_MAX} are read")));
        }
        std::fs::read_to_string(path)
    };
    read().map_err(|source| DefinitionError::Read { path: path.into(), source })
}

fn document<'a>(path: &Path, text: &'a str) -> Result<Spanned<DeTable<'a>>, DefinitionError> {
    DeTable::parse(text).map_err(|e| DefinitionError::Syntax {
        path: path.into(),
        line: Reader::line(text, e.span().map_or(0, |span| span.start)),
        message: sutler_base::told(e.message()),
    })
}

/// The name and the version that a text gives, which may be a part of a definition only.
pub(super) fn identity(path: &Path, text: &str) -> Result<(Option<PackageName>, Option<Version>), DefinitionError> {
    let document = document(path, text)?;
    let said = |key: &str| document.get_ref().get(key).and_then(|value| value.get_ref().as_str());
    // What is wrong with them is said with everything else.
    Ok((said("name").and_then(|name| name.parse().ok()), said("version").and_then(|version| version.parse().ok())))
}

/// The `[[requirement]]` tables of a file that has nothing else: what a job requires besides its packages.
pub fn requirements(path: &Path) -> Result<Vec<Requirement>, DefinitionError> {
    let text = read_text(path)?;
    let document = document(path, &text)?;
    let mut reader = Reader::new(&text);
    let mut root = reader.root(document.get_ref());
    let requirements = rules::read_requirements(&mut reader, &mut root, "requirement").unwrap_or_default();
    reader.finish(root);
    let mut list = reader.problems;
    if list.is_empty()
        && let Err(why) = sutler_base::manifest::requirement::check(&requirements)
    {
        list.push(Problem { line: None, key: "requirement".into(), sentence: why.0 });
    }
    list.sort_by_key(|problem| problem.line);
    if list.is_empty() { Ok(requirements) } else { Err(DefinitionError::Problems(Problems { file: path.into(), list })) }
}

/// What `text` says; where it says nothing, what `base` does.
fn parse_over(path: &Path, text: &str, base: Option<Definition>) -> Result<Definition, DefinitionError> {
    let document = document(path, text)?;
    let mut reader = Reader::new(text);
    let root = reader.root(document.get_ref());
    let definition = read(&mut reader, root, base);
    let mut list = reader.problems;
    list.sort_by_key(|problem| problem.line);
    match definition {
        Some(definition) if list.is_empty() => Ok(definition),
        _ => Err(DefinitionError::Problems(Problems { file: path.into(), list })),
    }
}

/// Reads the whole document, over `base` if it is only a part; none if something without which there is no definition is
/// missing or wrong. Problems are in the reader.
fn read<'a>(r: &mut Reader<'a>, mut root: Table<'a>, base: Option<Definition>) -> Option<Definition> {
    let is_part = base.is_some();
    let mut identity = |key, hint| if is_part { r.take(&mut root, key) } else { r.need(&mut root, key, hint) };
    let (name, version) = (identity("name", "for example name = \"hello\""), identity("version", "for example version = \"1.0\""));
    let (name, version) = (name.and_then(|v| r.parsed(&v)), version.and_then(|v| r.parsed(&v)));
    let release = r.take(&mut root, "release").and_then(|v| r.number(&v, "a whole number, 0 or more"));
    let description = r.take(&mut root, "description").and_then(|v| {
        let text = r.text(&v)?;
        if text.len() > limits::DESCRIPTION_MAX {
            r.refuse(&v, format!("has at most {} bytes, not {}", limits::DESCRIPTION_MAX, text.len()));
        }
        Some(text.to_owned())
    });
    let directory = r.take(&mut root, "directory");
    let has_directory = directory.is_some();
    let directory = directory.and_then(|v| r.parsed(&v));
    let files = r.take(&mut root, "files").and_then(|v| r.parsed(&v));
    let exclude = r.take(&mut root, "exclude").and_then(|v| {
        let list = r.list(&v, "a list of patterns, such as [\"*.swp\"]")?;
        Some(list.iter().filter_map(|v| r.parsed(v)).collect())
    });
    let ordering = r.take(&mut root, "ordering").and_then(|v| r.word(&v, &Ordering::ALL));
    let logs = r.take(&mut root, "logs").and_then(|v| r.texts(&v));
    let duration = r.take(&mut root, "duration").and_then(|v| r.seconds(&v));
    let agent = r.take(&mut root, "agent").and_then(|v| r.parsed(&v));
    let restore = r.take(&mut root, "restore").and_then(|v| r.truth(&v));
    let expires = r.take(&mut root, "expires").and_then(|v| r.moment(&v));
    let not_before = r.take(&mut root, "not_before").and_then(|v| r.moment(&v));
    let platform = r.take(&mut root, "platform").and_then(|v| r.table(&v, "a table: [platform]")).map(|table| read_platform(r, table));
    let steps = r.take(&mut root, "step").map(|v| r.tables(&v));
    if !is_part && !has_directory && steps.as_ref().is_none_or(Vec::is_empty) {
        r.problem(None, "directory", "is missing, and there is no [[step]] either; for example directory = \"/opt/hello\"");
    }
    let steps = steps.map(|tables| tables.into_iter().filter_map(|table| steps::read(r, table)).collect());
    let detection = r.take(&mut root, "detection").map(|v| r.tables(&v));
    let detection = detection.map(|tables| tables.into_iter().filter_map(|table| rules::read_detection(r, table)).collect());
    let requirements = rules::read_requirements(r, &mut root, "requirement");
    let depends_on = relations::read_dependencies(r, &mut root);
    let supersedes = relations::read_supersedes(r, &mut root);
    let parameters = relations::read_parameters(r, &mut root);
    r.finish(root);
    let base = match base {
        Some(base) => base,
        None => Definition::new(name.clone()?, version.clone()?),
    };
    Some(Definition {
        name: name.unwrap_or(base.name),
        version: version.unwrap_or(base.version),
        release: release.or(base.release),
        description: description.unwrap_or(base.description),
        ordering: ordering.unwrap_or(base.ordering),
        platform: platform.unwrap_or(base.platform),
        requirements: requirements.unwrap_or(base.requirements),
        depends_on: depends_on.unwrap_or(base.depends_on),
        supersedes: supersedes.unwrap_or(base.supersedes),
        parameters: parameters.unwrap_or(base.parameters),
        directory: directory.or(base.directory),
        files: files.or(base.files),
        exclude: exclude.unwrap_or(base.exclude),
        steps: steps.unwrap_or(base.steps),
        detection: detection.unwrap_or(base.detection),
        logs: logs.unwrap_or(base.logs),
        duration: duration.or(base.duration),
        agent: agent.or(base.agent),
        restore: restore.unwrap_or(base.restore),
        expires: expires.or(base.expires),
        not_before: not_before.or(base.not_before),
    })
}

fn read_platform<'a>(r: &mut Reader<'a>, mut table: Table<'a>) -> Platform {
    let mut platform = Platform::default();
    if let Some(os) = r.take(&mut table, "os").and_then(|v| r.text(&v)) {
        platform.os = os.to_owned();
    }
    if let Some(arch) = r.take(&mut table, "arch").and_then(|v| r.text(&v)) {
        platform.arch = arch.to_owned();
    }
    r.finish(table);
    platform
}

#[cfg(test)]
mod tests;
