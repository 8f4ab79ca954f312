//! Files of a new version made from those of an old one by a delta: in a folder of the agent's own, each of them believed only once it
//! has the digest that the signed manifest names.
//!
//! A delta says what it likes: what it refers to is read from the old tree as it is, links refused; what it makes has no name but its
//! number and is never longer than the manifest says. A unit that can't be applied costs its files, which then come as chunks.

use super::{
    error::Error,
    exchange::TreeRecord,
    layout::{DIRECTORY, Layout, room},
    tree::{Opening, Reserve, open_at},
};
use rustix::fs::Mode;
use std::{
    collections::HashSet,
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use sutler_base::{
    AttemptId, Digest, chunker,
    chunks::ChunkList,
    delta::{Piece, REFERENCE_MAX, Unit, WINDOW_LOG},
    manifest::{Entry, EntryKind, Manifest},
};

/// The folder in the agent's own that holds what deltas make.
const FOLDER: &str = "made";

/// Why nothing more is made of a delta.
#[derive(Debug, thiserror::Error)]
pub enum Unmade {
    /// This frame is not what the unit says.
    #[error("a frame can't be applied: {0}")]
    Frame(String),
    /// What it refers to is not there as it was.
    #[error("the old version is not there as it was installed: {0}")]
    Old(String),
    /// It can't be written.
    #[error("{0}")]
    Disk(#[from] std::io::Error),
}

/// The file that is being made.
#[derive(Debug)]
struct Making {
    number: u32,
    file: File,
    hasher: blake3::Hasher,
    written: u64,
}

/// Where a delta is applied. All its methods block. The folder goes with it.
#[derive(Debug)]
pub struct Workshop {
    folder: PathBuf,
    top: OwnedFd,
    old: Arc<Manifest>,
    signed: Vec<u8>,
    last: Option<(String, OwnedFd)>,
    making: Option<Making>,
    done: HashSet<u32>,
    bad: HashSet<u32>,
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What stays is removed when the agent starts.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Removes whatever an earlier run has left: nothing of it is used again.
pub fn remove_made(layout: &Layout) {
    let _ = std::fs::remove_dir_all(layout.state().join(FOLDER));
}

fn file_of(manifest: &Manifest, number: u32) -> Option<(&Entry, u64, Digest)> {
    let entry = manifest.files.get((number as usize).checked_sub(1)?)?;
    match entry.kind {
        EntryKind::File { size, blake3, .. } => Some((entry, size, blake3)),
        _ => None,
    }
}

impl Workshop {
    /// A workshop over the tree of the old version, whose manifest has these bytes; none if that tree is not there.
    pub fn open(
        layout: &Layout,
        old: Arc<Manifest>,
        digest: Digest,
        signed: Vec<u8>,
        attempt: &AttemptId,
        item: usize,
    ) -> Result<Option<Workshop>, Error> {
        let Some(directory) = &old.directory else { return Ok(None) };
        let there = TreeRecord::read(layout, directory)?.is_some_and(|record| record.package == old.name && record.manifest == digest);
        let Some(path) = layout.installed(directory)?.filter(|_| there) else { return Ok(None) };
        let Ok(top) = rustix::fs::open(&path, DIRECTORY, Mode::empty()) else { return Ok(None) };
        let name = format!("{attempt}-{item}");
        let folder = layout.state().join(FOLDER).join(&name);
        let _ = std::fs::remove_dir_all(&folder);
        super::durable::private_folders(layout.state(), &[FOLDER, &name])?;
        let (making, last) = (None, None);
        Ok(Some(Workshop { folder, top, old, signed, last, making, done: HashSet::new(), bad: HashSet::new() }))
    }

    /// Where what is made lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many files were made whole.
    pub fn files(&self) -> usize {
        self.done.len()
    }

    /// Whether the disk has room for so many bytes beside what is kept in reserve.
    pub fn has_room(&self, bytes: u64, reserve: Reserve) -> Result<bool, Error> {
        Ok(room(&self.folder)? >= bytes.saturating_add(bytes.saturating_mul(reserve.percent) / 100).saturating_add(reserve.bytes))
    }

    /// Whether something of the unit is still to be made.
    pub fn is_wanted(&self, unit: &Unit) -> bool {
        unit.new.iter().any(|piece| piece.file > 0 && !self.done.contains(&piece.file) && !self.bad.contains(&piece.file))
    }

    /// What the unit's frame refers to.
    pub fn reference(&mut self, unit: &Unit) -> Result<Vec<u8>, Unmade> {
        let mut out = Vec::new();
        for piece in &unit.old {
            let start = out.len();
            if start + piece.length as usize > REFERENCE_MAX {
                return Err(Unmade::Frame("it refers to too much".into()));
            }
            let absent = |what: &str| Unmade::Old(format!("file {}: {what}", piece.file));
            if piece.file == 0 {
                let from = usize::try_from(piece.offset).ok();
                let part = from.and_then(|from| self.signed.get(from..from.checked_add(piece.length as usize)?));
                out.extend_from_slice(part.ok_or_else(|| absent("its manifest is shorter"))?);
                continue;
            }
            let (entry, ..) = file_of(&self.old, piece.file).ok_or_else(|| absent("there is none"))?;
            let opened = open_at(&self.top, &mut self.last, entry.path.as_str(), Opening::Read);
            let file = opened.map_err(|e| Unmade::Old(format!("{}: {e}", entry.path)))?.ok_or_else(|| absent("it is gone"))?;
            out.resize(start + piece.length as usize, 0);
            file.read_exact_at(&mut out[start..], piece.offset).map_err(|e| Unmade::Old(format!("{}: {e}", entry.path)))?;
        }
        Ok(out)
    }

    /// Adds what the unit has of the new manifest, which has so many bytes in the end.
    pub fn add_to_manifest(unit: &Unit, reference: &[u8], frame: &[u8], manifest: &mut Vec<u8>, length: u64) -> Result<(), Unmade> {
        decode(reference, frame, &unit.new, |piece, at, bytes| {
            if piece.file > 0 {
                return Ok(());
            }
            if at != manifest.len() as u64 || at + bytes.len() as u64 > length {
                return Err(Unmade::Frame("its pieces of the manifest don't follow each other, or are too long".into()));
            }
            manifest.extend_from_slice(bytes);
            Ok(())
        })
    }

    /// Makes what the unit has of the files of this manifest, which was verified. Only an error of the disk is one.
    pub fn apply(&mut self, unit: &Unit, reference: &[u8], frame: &[u8], new: &Manifest) -> Result<(), Unmade> {
        match decode(reference, frame, &unit.new, |piece, at, bytes| self.write(piece.file, at, bytes, new)) {
            Err(Unmade::Disk(error)) => Err(Unmade::Disk(error)),
            Err(why) => {
                tracing::info!("what a unit of a delta makes comes as chunks: {why}");
                self.give_up(unit);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What the unit makes comes as chunks, unless it is whole already.
    pub fn give_up(&mut self, unit: &Unit) {
        for piece in &unit.new {
            if piece.file > 0 && !self.done.contains(&piece.file) {
                self.refuse(piece.file);
            }
        }
    }

    fn refuse(&mut self, number: u32) {
        self.bad.insert(number);
        if self.making.as_ref().is_some_and(|making| making.number == number) {
            self.making = None;
        }
        let _ = std::fs::remove_file(self.folder.join(number.to_string()));
    }

    fn write(&mut self, number: u32, at: u64, bytes: &[u8], new: &Manifest) -> Result<(), Unmade> {
        if number == 0 || self.done.contains(&number) || self.bad.contains(&number) {
            return Ok(());
        }
        let Some((_, size, blake3)) = file_of(new, number) else {
            self.bad.insert(number);
            return Ok(());
        };
        if at == 0 {
            // Another one that is not whole is given up: its pieces don't follow each other.
            if let Some(before) = self.making.take() {
                self.refuse(before.number);
            }
            let mut options = std::fs::OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options.write(true).create_new(true).open(self.folder.join(number.to_string()))?;
            self.making = Some(Making { number, file, hasher: blake3::Hasher::new(), written: 0 });
        }
        let follows = |making: &&mut Making| making.number == number && making.written == at && at + bytes.len() as u64 <= size;
        let Some(making) = self.making.as_mut().filter(follows) else {
            self.refuse(number);
            return Ok(());
        };
        making.file.write_all(bytes)?;
        making.hasher.update(bytes);
        making.written += bytes.len() as u64;
        if making.written == size {
            let whole = Digest::from(making.hasher.finalize()) == blake3;
            self.making = None;
            if whole {
                self.done.insert(number);
            } else {
                tracing::info!(number, "a file that a delta made is not the signed one; it comes as chunks");
                self.refuse(number);
            }
        }
        Ok(())
    }

    /// The chunk lists of the new version's files that are there whole, made or unchanged: those of them that the manifest names.
    pub fn lists(&mut self, new: &Manifest, wanted: &HashSet<Digest>) -> Vec<(Digest, Vec<u8>, ChunkList)> {
        let mut found = Vec::new();
        let mut left = wanted.clone();
        for (n, entry) in new.files.iter().enumerate() {
            let EntryKind::File { chunks: Some(list), blake3, .. } = entry.kind else { continue };
            if !left.contains(&list) {
                continue;
            }
            let number = n as u32 + 1;
            let file = if self.done.contains(&number) {
                File::open(self.folder.join(number.to_string())).ok()
            } else {
                let same = self.old.files.iter().find(|old| matches!(old.kind, EntryKind::File { blake3: there, .. } if there == blake3));
                same.and_then(|old| open_at(&self.top, &mut self.last, old.path.as_str(), Opening::Read).ok().flatten())
            };
            let Some(file) = file else { continue };
            let Ok(chunks) = chunker::list(file) else { continue };
            let bytes = chunks.encode();
            if Digest::of(&bytes) == list {
                left.remove(&list);
                found.push((list, bytes, chunks));
            }
        }
        found
    }

    /// The files that were made, as a tree: each with its number as its path.
    pub fn tree(&self, new: &Manifest) -> Result<Manifest, Error> {
        let mut files = Vec::new();
        for number in &self.done {
            let Some((entry, ..)) = file_of(new, *number) else { continue };
            let path = number.to_string().parse().map_err(|e: sutler_base::Invalid| Error::Manifest(e.0))?;
            files.push(Entry { path, kind: entry.kind.clone() });
        }
        Ok(Manifest { files, ..Manifest::new(new.name.clone(), new.version.clone(), new.release) })
    }
}

/// Gives `sink` what the frame decodes to, by pieces.
fn decode(
    reference: &[u8],
    frame: &[u8],
    pieces: &[Piece],
    mut sink: impl FnMut(&Piece, u64, &[u8]) -> Result<(), Unmade>,
) -> Result<(), Unmade> {
    let broken = |e: std::io::Error| Unmade::Frame(e.to_string());
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(frame, reference).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG).map_err(broken)?;
    let mut buffer = vec![0; 128 << 10];
    for piece in pieces {
        let (mut at, mut left) = (piece.offset, piece.length as usize);
        while left > 0 {
            let most = left.min(buffer.len());
            let n = decoder.read(&mut buffer[..most]).map_err(broken)?;
            if n == 0 {
                return Err(Unmade::Frame("it ends too early".into()));
            }
            sink(piece, at, &buffer[..n])?;
            at = at.saturating_add(n as u64);
            left -= n;
        }
    }
    Ok(())
}
