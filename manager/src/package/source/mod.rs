//! What people have, as a package: a folder with `package.toml`, a `.deb`, a `.rpm`, a single program, a tar archive.
//!
//! What it is, its content says, not its name. Each kind gives a [`Definition`], filled in from its own metadata, and what becomes
//! the package's files; what the administrator says besides is put over that ([`Wanted`]). Nothing is ever run. Of a `.deb`, a
//! `.rpm` and a program nothing is unpacked: their content is read as a stream and checked by the rules for paths. An archive is
//! unpacked into a new folder of ours, which is removed when the [`Source`] and what was [`build`](Source::build)t of it are gone.
//!
//! No program of the machine is asked (`dpkg-deb`, `rpm`, `tar`): an administrator's machine need not have them, and they do what
//! a hostile file says before anybody could look at it. The formats are read here, by their descriptions, each with a bound on
//! everything that it could make long.

mod ar;
mod archive;
mod control;
mod cpio;
mod deb;
mod packed;
mod program;
mod rpm;
mod rpm_header;
mod software;
mod tar;
#[cfg(test)]
mod tests;
mod tree;

use super::{
    build::{self, BuildError, Built, Progress},
    definition::{self, Definition, DefinitionError},
    found::Files,
};
use std::{
    fs::File,
    io::{self, BufReader, Seek},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use sutler_base::{
    PackageName, Timestamp, Version, limits,
    path::{InstallPath, RelPath},
};
use tempfile::TempDir;

/// The bounds on what is read of a file that somebody else has made.
#[derive(Debug, Clone, Copy)]
pub struct SourceLimits {
    /// The most entries of an archive.
    pub entries: usize,
    /// The most bytes that are unpacked of one file.
    pub unpacked: u64,
    /// How many times as long as it was packed something may become, once it has more than [`Self::ratio_from`] bytes.
    pub ratio: u64,
    /// Below so many bytes nothing is a bomb.
    pub ratio_from: u64,
    /// How many folders deep an entry may lie.
    pub depth: usize,
}

impl Default for SourceLimits {
    fn default() -> Self {
        SourceLimits { entries: limits::FILES_MAX, unpacked: 64 << 30, ratio: 200, ratio_from: 256 << 20, depth: 64 }
    }
}

/// What the administrator says beside what the file says. It goes before that.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The package's name.
    pub name: Option<PackageName>,
    /// Its version.
    pub version: Option<Version>,
    /// Where its files go on each client.
    pub directory: Option<InstallPath>,
    /// A file with keys of `package.toml`: each takes the place of what is there.
    pub with: Option<PathBuf>,
}

/// Why something is no package.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is nothing that a package can be made of.
    #[error(
        "{} is none of what a package is made of: a folder with {}, a .deb, a .rpm, a program for Linux, a tar archive (plain, .gz, .xz, .zst)",
        .0.display(), definition::FILE
    )]
    Unknown(PathBuf),
    /// It is refused.
    #[error("{}: {}{why}", path.display(), entry.as_ref().map(|entry| format!("{entry} ")).unwrap_or_default())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The entry in it, if it is one that is wrong.
        entry: Option<String>,
        /// What is wrong with it.
        why: String,
    },
    /// Its `package.toml`, or what was given with it, is missing or wrong.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// Its files can't be made a package of.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Why a file is refused, before it is known which.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    entry: Option<String>,
    why: String,
}

impl Refused {
    /// The file as a whole is wrong.
    fn whole(why: impl Into<String>) -> Refused {
        Refused { entry: None, why: why.into() }
    }
}

impl From<Refused> for SourceError {
    fn from(refused: Refused) -> Self {
        SourceError::Refused { path: PathBuf::new(), entry: refused.entry, why: refused.why }
    }
}

/// What a file becomes that is a package's only one.
#[derive(Debug)]
struct Draft {
    definition: Definition,
    at: String,
    mode: u32,
    notes: Vec<String>,
}

/// What a source was recognised as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A folder.
    Folder,
    /// A Debian package.
    Deb,
    /// A package of rpm.
    Rpm,
    /// A program.
    Program,
    /// A tar archive.
    Archive,
}

/// Something that a package can be made of.
#[derive(Debug)]
pub struct Source {
    /// What it is.
    pub kind: SourceKind,
    /// Where it is.
    pub path: PathBuf,
    /// What the package will say.
    pub definition: Definition,
    /// What becomes its files.
    pub files: Files,
    /// What people should know about it, a sentence each whose subject is the file.
    pub notes: Vec<String>,
    work: Option<Arc<TempDir>>,
}

impl Source {
    /// Reads what is at `path`, with what is wanted put over it.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<Source, SourceError> {
        Source::open_within(path, wanted, &SourceLimits::default())
    }

    /// The same within other bounds.
    pub fn open_within(path: &Path, wanted: &Wanted, bounds: &SourceLimits) -> Result<Source, SourceError> {
        let over = wanted.with.as_deref().map(definition::read_text).transpose()?;
        let mut known = wanted.clone();
        if let (Some(text), Some(file)) = (&over, &wanted.with) {
            let (name, version) = definition::identity(file, text)?;
            known.name = known.name.or(name);
            known.version = known.version.or(version);
        }
        let mut source = if path.is_dir() {
            let definition = Definition::load(path)?;
            Source {
                kind: SourceKind::Folder,
                path: path.into(),
                definition,
                files: Files::Folder(path.into()),
                notes: Vec::new(),
                work: None,
            }
        } else {
            Source::of_file(path, &known, bounds).map_err(|e| named(e, path))?
        };
        if let (Some(text), Some(file)) = (&over, &wanted.with) {
            source.definition = source.definition.with(file, text)?;
        }
        let definition = &mut source.definition;
        definition.name = wanted.name.clone().unwrap_or_else(|| definition.name.clone());
        definition.version = wanted.version.clone().unwrap_or_else(|| definition.version.clone());
        definition.directory = wanted.directory.clone().or(definition.directory.take());
        source.definition.check(wanted.with.as_deref().unwrap_or(path))?;
        Ok(source)
    }

    fn of_file(path: &Path, wanted: &Wanted, bounds: &SourceLimits) -> Result<Source, SourceError> {
        let failed = |source| SourceError::Read { path: path.into(), source };
        // What a link leads to, is what is meant; a pipe would be waited for.
        let real = path.canonicalize().map_err(failed)?;
        let mut file = File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(&real).map_err(failed)?;
        let before = file.metadata().map_err(failed)?;
        if !before.is_file() {
            return Err(SourceError::Unknown(path.into()));
        }
        let called = path.file_name().unwrap_or_default().to_string_lossy();
        let length = before.len();
        let mut head = [0; 8];
        let n = packed::fill(&mut file, &mut head).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let reader = BufReader::with_capacity(64 << 10, &file);
        let (kind, draft) = match &head[..n] {
            ar if ar == ar::MAGIC => (SourceKind::Deb, deb::read(reader, length, wanted, &called, bounds)?),
            rpm if rpm.starts_with(&rpm_header::MAGIC) => (SourceKind::Rpm, rpm::read(reader, length, wanted, &called, bounds)?),
            elf if elf.starts_with(&program::MAGIC) => (SourceKind::Program, program::read(&file, wanted)?),
            _ => {
                let packing = archive::recognise(&mut file)?.ok_or_else(|| SourceError::Unknown(path.into()))?;
                let archive::Unpacked { definition, folder, work, notes } = archive::read(path, &file, packing, length, wanted, bounds)?;
                let files = Files::Folder(folder);
                return Ok(Source { kind: SourceKind::Archive, path: path.into(), definition, files, notes, work: Some(work) });
            }
        };
        let at: RelPath = draft.at.parse().map_err(|e: sutler_base::Invalid| Refused::whole(e.0))?;
        let files = Files::One { at, path: real, mode: draft.mode, before: Box::new(before) };
        Ok(Source { kind, path: path.into(), definition: draft.definition, files, notes: draft.notes, work: None })
    }

    /// Makes the package, whose release is `now` in seconds unless its definition gives one; a file that is not any more what was
    /// opened is refused. `progress` is told the bytes that were read, after each chunk.
    pub fn build(&self, now: Timestamp, progress: &mut dyn FnMut(Progress)) -> Result<Built, SourceError> {
        let mut built = build::build_of(&self.definition, &self.files, now, progress)?;
        built.work = self.work.clone();
        Ok(built)
    }
}

/// The error with the file that it is about.
fn named(error: SourceError, file: &Path) -> SourceError {
    match error {
        SourceError::Refused { entry, why, .. } => SourceError::Refused { path: file.into(), entry, why },
        other => other,
    }
}

/// A description as one line that is not too long.
fn sentence(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().trim().chars().filter(|c| !sutler_base::is_harmful(*c)).collect();
    let mut end = line.len().min(limits::DESCRIPTION_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].to_owned()
}
