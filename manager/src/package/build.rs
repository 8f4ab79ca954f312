//! Turns a package's folder into a manifest and the chunks that it names, reading each file once.
//!
//! A file that changes while it is read, or between then and its sending, is refused: what is signed is what is sent. What is
//! read, and that nothing is followed out of the folder, is the affair of [`super::found`].

use super::{
    definition::{Definition, DefinitionError, FILE},
    found::{self, Files, Found, What},
};
use rustix::fs::OFlags;
use std::{
    collections::{BTreeSet, HashMap, hash_map},
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use sutler_base::{
    Digest, Invalid, Timestamp, limits,
    manifest::{Entry, EntryKind, Manifest},
    quoted,
};
use sutler_content::chunker::describe;
use tempfile::TempDir;

/// How far reading or sending has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Where the bytes of a chunk are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkSource {
    /// The digest of its bytes.
    pub digest: Digest,
    /// The file that holds them.
    pub path: Arc<Path>,
    /// Where in it they start.
    pub offset: u64,
    /// How many they are.
    pub length: u32,
}

/// A package that was read from its folder and is ready to be signed.
#[derive(Debug)]
pub struct Built {
    /// What will be signed.
    pub manifest: Manifest,
    /// Its exact bytes.
    pub manifest_bytes: Vec<u8>,
    /// The digest of these bytes.
    pub manifest_digest: Digest,
    /// The encoded chunk lists, each once, in the order of their files.
    pub chunk_lists: Vec<(Digest, Vec<u8>)>,
    /// Where each chunk is, each once, in the order of the files.
    pub chunks: Vec<ChunkSource>,
    by_digest: HashMap<Digest, usize>,
    /// The folder that an archive was unpacked into: there for as long as its chunks may be asked for.
    pub(super) work: Option<Arc<TempDir>>,
}

/// Why a folder is no package.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its definition is missing or wrong.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// The folder that holds what is installed is not there.
    #[error("{} is not a folder; create it, or set files in {FILE} to the folder that holds what is installed", .0.display())]
    NoFiles(PathBuf),
    /// Something in it can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A link points out of the package.
    #[error(
        "the link {} points to {}, which leaves the package: make it relative and point to something below {}, or replace it by a copy",
        path.display(), quoted(target), root.display()
    )]
    LinkLeaves {
        /// The link.
        path: PathBuf,
        /// What it points to.
        target: String,
        /// The folder that it has to stay in.
        root: PathBuf,
    },
    /// Neither a file nor a folder nor a link.
    #[error("{} is {what}; a package has files, folders and links only. Remove it, or name it under exclude in {FILE}", path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A name that is not UTF-8, has control characters or is too long.
    #[error("{} can't be in a package: {why}; rename it, or name it under exclude in {FILE}", .path.display())]
    Name {
        /// What it is called.
        path: PathBuf,
        /// The rule.
        why: Invalid,
    },
    /// A link's target that is not UTF-8.
    #[error("the link {} points to a name that is not UTF-8; replace it by a copy", .0.display())]
    LinkTarget(PathBuf),
    /// A file changed while it was read.
    #[error("{} changed while it was read; let nothing write to the package's folder and try again", .0.display())]
    ChangedWhileRead(PathBuf),
    /// A file changed after it was read, so that the manifest would lie about it.
    #[error("{} changed after the package was signed; make the package again", .0.display())]
    ChangedAfterwards(PathBuf),
    /// More files than a package can have.
    #[error("{} holds more than {} files, folders and links; leave some out with exclude in {FILE}, or make several packages", .0.display(), limits::FILES_MAX)]
    TooMany(PathBuf),
    /// A file that is longer than one can be.
    #[error("{} has {size} bytes, too many for a package: {why}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// Which limit it breaks.
        why: String,
    },
    /// The manifest would break a rule.
    #[error("the package can't be described: {0}")]
    Manifest(Invalid),
}

/// Makes the package in `folder`, whose release is `now` in seconds unless its definition gives one. `progress` is told
/// the bytes that were read, after each chunk.
///
/// The manifest depends on the folder and the release alone: names, contents, permission bits and links, not on times,
/// owners or the order in which the disk lists them. Memory: two chunks of content, and some 200 bytes per chunk.
pub fn build(folder: &Path, now: Timestamp, progress: &mut dyn FnMut(Progress)) -> Result<Built, BuildError> {
    build_of(&Definition::load(folder)?, &Files::Folder(folder.into()), now, progress)
}

/// The same of a definition and files that are known.
pub(super) fn build_of(
    definition: &Definition,
    files: &Files,
    now: Timestamp,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, BuildError> {
    let found = found::find(definition, files)?;
    let mut state =
        Progress { done: 0, total: found.iter().map(|f| if let What::File { before, .. } = &f.what { before.len() } else { 0 }).sum() };
    let mut entries = Vec::with_capacity(found.len());
    let mut gathered = Gathered::default();
    for Found { at, path, what } in found {
        let kind = match what {
            What::Directory(mode) => EntryKind::Directory { mode },
            What::Link(target) => EntryKind::Link { target },
            What::File { before, mode } => gathered.file(&path, &before, mode, &mut |bytes| {
                state.done += bytes;
                progress(state);
            })?,
        };
        entries.push(Entry { path: at, kind });
    }
    let release = u64::try_from(now.as_second()).unwrap_or(0);
    let manifest = definition.manifest(release, entries);
    manifest.check().map_err(BuildError::Manifest)?;
    let manifest_bytes = manifest.to_bytes();
    if manifest_bytes.len() as u64 > limits::MANIFEST_MAX {
        let sentence =
            format!("its manifest has {} bytes, {} are allowed; make several packages", manifest_bytes.len(), limits::MANIFEST_MAX);
        return Err(BuildError::Manifest(Invalid::new(sentence)));
    }
    let manifest_digest = Digest::of(&manifest_bytes);
    let Gathered { chunk_lists, chunks, by_digest, .. } = gathered;
    Ok(Built { manifest, manifest_bytes, manifest_digest, chunk_lists, chunks, by_digest, work: None })
}

impl Built {
    /// Every object of the package, each once, in the order in which it is sent: the manifest, chunk lists, chunks.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let lists = self.chunk_lists.iter().map(|(digest, _)| *digest);
        std::iter::once(self.manifest_digest).chain(lists).chain(self.chunks.iter().map(|chunk| chunk.digest))
    }

    /// Where the chunk is; none if the package has no such chunk.
    pub fn chunk(&self, digest: &Digest) -> Option<&ChunkSource> {
        self.by_digest.get(digest).map(|n| &self.chunks[*n])
    }
}

impl ChunkSource {
    /// The chunk's bytes, read again and compared with what was signed.
    pub fn read(&self) -> Result<Vec<u8>, BuildError> {
        let failed = |source| BuildError::Read { path: self.path.to_path_buf(), source };
        let file = open(&self.path).map_err(failed)?;
        let mut bytes = vec![0; self.length as usize];
        match file.read_exact_at(&mut bytes, self.offset) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(BuildError::ChangedAfterwards(self.path.to_path_buf())),
            read => read.map_err(failed)?,
        }
        if Digest::of(&bytes) == self.digest { Ok(bytes) } else { Err(BuildError::ChangedAfterwards(self.path.to_path_buf())) }
    }
}

/// Opens a file, but neither follows a link that took its place nor waits for a pipe that did.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    File::options().read(true).custom_flags(flags as i32).open(path)
}

/// What tells that a file is still the one that was looked at.
fn fingerprint(meta: &Metadata) -> (u64, u64, u64, u32, i64, i64, i64, i64) {
    (meta.dev(), meta.ino(), meta.len(), meta.mode(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}

/// The content that the files read so far consist of.
#[derive(Default)]
struct Gathered {
    chunk_lists: Vec<(Digest, Vec<u8>)>,
    lists: BTreeSet<Digest>,
    chunks: Vec<ChunkSource>,
    by_digest: HashMap<Digest, usize>,
}

impl Gathered {
    /// Reads one file; `before` is what it was when it was found, `read` is told how many bytes came.
    fn file(&mut self, path: &Path, before: &Metadata, mode: u32, read: &mut dyn FnMut(u64)) -> Result<EntryKind, BuildError> {
        let failed = |source| BuildError::Read { path: path.into(), source };
        let changed = || BuildError::ChangedWhileRead(path.into());
        let file = match open(path) {
            // A link is there now, or nothing.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) || e.kind() == io::ErrorKind::NotFound => {
                return Err(changed());
            }
            file => file.map_err(failed)?,
        };
        if fingerprint(&file.metadata().map_err(failed)?) != fingerprint(before) {
            return Err(changed());
        }
        let shared: Arc<Path> = path.into();
        // A file that grows for ever ends here: one byte more than it had tells that it grew.
        let content = describe(io::Read::take(&file, before.len() + 1), |chunk| {
            if let hash_map::Entry::Vacant(free) = self.by_digest.entry(chunk.digest) {
                free.insert(self.chunks.len());
                let length = chunk.bytes.len() as u32;
                self.chunks.push(ChunkSource { digest: chunk.digest, path: shared.clone(), offset: chunk.offset, length });
            }
            read(chunk.bytes.len() as u64);
            Ok(())
        });
        let content = content.map_err(|source| match source.kind() {
            io::ErrorKind::FileTooLarge => BuildError::TooLong { path: path.into(), size: before.len(), why: source.to_string() },
            _ => failed(source),
        })?;
        if content.size != before.len() || fingerprint(&file.metadata().map_err(failed)?) != fingerprint(before) {
            return Err(changed());
        }
        let chunks = content.list().map(|(digest, bytes)| {
            if self.lists.insert(digest) {
                self.chunk_lists.push((digest, bytes));
            }
            digest
        });
        Ok(EntryKind::File { mode, size: content.size, blake3: content.blake3, sha256: content.sha256, chunks })
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
