//! The package's tree while it is being made: beside its final place, of chunks that are verified, each or as a whole file.
//!
//! Resume is not a mode. [`Staging::open`] makes the tree or finds one that an interrupted download left, reads what is
//! there, and [`Staging::missing`] says what is not. What an earlier run left counts as there only after its bytes were read
//! and had their digest, so it does not matter which writes a crash or a power cut swallowed.
//!
//! Nothing is written through a link: every directory and file is opened relative to the one above it, links refused, and
//! the package's own links are made last. The tree is its owner's alone (mode 0700) until it is exchanged.

use super::{
    error::{Error, io, sync},
    exchange::{self, Exchange, ExchangeState, RECORD, TreeRecord},
    layout::{DIRECTORY, Layout, Missing, Spot},
    plan::{ChunkLists, Plan},
};
use rustix::{
    fs::{AtFlags, FallocateFlags, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{ErrorKind, IoSlice, Read},
    num::NonZeroU64,
    ops::Range,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use sutler_base::{
    AttemptId, Digest,
    chunks::Chunk,
    limits,
    manifest::{EntryKind, Manifest},
};

/// Up to so many files are made durable one by one; more than that with one `syncfs`, which is a hundred times faster
/// for a tree of small files and waits for what others wrote, too.
const SYNC_ONE_BY_ONE: usize = 64;

/// Of a large file the system is asked to begin with so many bytes at a time, while more of them come: what is left to wait for at the
/// end is short, and the disk has no sudden pile of work.
const WRITE_BACK: u64 = 2 << 20;

/// A larger file has its room on the disk before its bytes: to find it for each write takes a quarter of what the write of a chunk costs.
const ROOM_AHEAD: u64 = 1 << 20;

/// How much of the disk a package may not take.
#[derive(Debug, Clone, Copy)]
pub struct Reserve {
    /// Bytes that stay free, so that the journal and the report of a failure still have room.
    pub bytes: u64,
    /// Besides them, so much of what is missing of the package (per cent): file systems take more than the bytes of a file.
    pub percent: u64,
}

impl Default for Reserve {
    /// 16 MiB and 5 %.
    fn default() -> Self {
        Reserve { bytes: 16 << 20, percent: 5 }
    }
}

/// What is to be staged.
#[derive(Debug, Clone)]
pub struct Source {
    /// The manifest, parsed after its signature was found good.
    pub manifest: Arc<Manifest>,
    /// The digest of the manifest's bytes.
    pub digest: Digest,
}

/// A tree that was installed before and may have chunks that the new one needs.
#[derive(Debug)]
pub struct OldTree<'a> {
    /// Where it lies.
    pub path: &'a Path,
    /// Its manifest. Nothing of it is believed: every chunk that is taken is verified.
    pub manifest: &'a Manifest,
    /// Its chunk lists, as far as they are still known. Without them, files that did not change are found all the same.
    pub lists: &'a ChunkLists,
}

/// A tree in the making. It is for one thread at a time and all its methods block.
#[derive(Debug)]
pub struct Staging {
    source: Source,
    spot: Spot,
    top: OwnedFd,
    plan: Plan,
    record: TreeRecord,
    /// The directory that the last file was opened in: files come sorted, so it is nearly always the next one's.
    last: Option<(String, OwnedFd)>,
    /// The piece that comes next where chunks come in their order.
    next: usize,
    /// The file that is being written, with the digest of what was written to it in order from its start.
    open: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    index: usize,
    file: File,
    hasher: blake3::Hasher,
    hashed: u64,
    /// How much of it the system was asked to bring to the disk.
    begun: u64,
}

/// A tree that is complete, verified and durable, still in its staging place.
#[derive(Debug, Clone)]
pub struct Staged {
    /// Where it lies: the working directory of the steps that run before the exchange.
    pub path: PathBuf,
}

impl Staging {
    /// Makes the staging tree of an item, or opens the one that an earlier run left and verifies what is in it.
    ///
    /// Refuses before anything is fetched: a disk that has not room for what is missing and the reserve; an
    /// installation directory that holds what this package did not bring; a way there that others could change.
    pub fn open(
        layout: &Layout,
        source: Source,
        lists: &ChunkLists,
        attempt: &AttemptId,
        item: usize,
        reserve: Reserve,
    ) -> Result<Staging, Error> {
        let manifest = &source.manifest;
        let mut plan = Plan::new(manifest, lists)?;
        if let Some(taken) = manifest.files.iter().find(|e| e.path.as_str().split('/').next() == Some(RECORD)) {
            return Err(Error::Manifest(format!("{} has the name of the record that the agent keeps in the tree", taken.path)));
        }
        if let Some(directory) = &manifest.directory {
            let exchange = Exchange::new(layout, directory, &manifest.name, attempt, item)
                .superseding(&manifest.supersedes)
                .over_agent(manifest.agent.as_ref());
            let state = exchange.state()?;
            if state != ExchangeState::Before {
                // The staging place holds the old tree now, or nothing: it must not be written to.
                return Err(Error::Phase { path: layout.root().join(directory.below_root()), asked: "staged", state });
            }
            exchange.refuse_foreign()?;
        }
        let spot = layout
            .staging(manifest.directory.as_ref(), attempt, item, Missing::Create)?
            .ok_or_else(|| Error::NotADirectory { path: layout.root().into() })?;
        let path = spot.path();
        let fresh = match rustix::fs::mkdirat(&spot.parent, spot.name.as_str(), Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(io("make the folder", path)(e)),
        };
        let top = rustix::fs::openat(&spot.parent, spot.name.as_str(), DIRECTORY, Mode::empty()).map_err(io("open", &path))?;
        let found = rustix::fs::fstat(&top).map_err(io("look at", &path))?;
        if found.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Error::Untrusted { path, why: format!("belongs to user {}", found.st_uid) });
        }
        rustix::fs::fchmod(&top, Mode::RWXU).map_err(io("set the mode of", &path))?;
        let record = TreeRecord {
            attempt: attempt.clone(),
            item,
            package: manifest.name.clone(),
            version: manifest.version.clone(),
            release: manifest.release,
            manifest: source.digest,
        };
        for file in &mut plan.files {
            file.verified = file.size == 0;
        }
        let mut staging = Staging { source, spot, top, plan, record, last: None, next: 0, open: None };
        if !fresh {
            staging.verify()?;
        }
        staging.refuse_full_disk(reserve)?;
        staging.make_directories()?;
        Ok(staging)
    }

    /// Where the tree lies.
    pub fn path(&self) -> PathBuf {
        self.spot.path()
    }

    /// The chunks that are not there yet, each once, in the order of the files: fetched in this order, every file is
    /// written from its start to its end and need not be read again to be verified.
    pub fn missing(&self) -> Vec<Chunk> {
        self.plan.missing()
    }

    /// How many bytes of the tree are not there yet. A chunk that occurs at several places counts at each.
    pub fn missing_bytes(&self) -> u64 {
        self.plan.missing_bytes()
    }

    /// Writes chunks, in this order, each to every place that waits for it; those that follow each other in a file go with one call.
    /// Returns how many a place waited for: the others were not asked for, or are there already.
    ///
    /// The bytes are verified, the caller need not do it: at once ([`Error::Content`] if they are not those of the digest), or, where
    /// a file is written from its start to its end, with the whole of it by [`Staging::finish`].
    pub fn write(&mut self, chunks: &[(Digest, &[u8])]) -> Result<usize, Error> {
        let mut wanted = 0;
        let mut left = chunks;
        while let [(digest, bytes), others @ ..] = left {
            match self.next_of_a_file(left) {
                Some(pieces) => {
                    let (together, after) = left.split_at(pieces.len());
                    let bytes: Vec<&[u8]> = together.iter().map(|(_, bytes)| *bytes).collect();
                    self.put(pieces.start, &bytes)?;
                    wanted += together.len();
                    left = after;
                }
                None => {
                    wanted += usize::from(self.place(*digest, bytes)?);
                    left = others;
                }
            }
        }
        Ok(wanted)
    }

    /// The pieces that the first of these chunks are, if they are nothing else and the next ones of a file that was hashed so far.
    fn next_of_a_file(&self, chunks: &[(Digest, &[u8])]) -> Option<Range<usize>> {
        let (first, others) = chunks.split_first()?;
        let start = self.plan.only(&first.0, self.next)?;
        let piece = self.plan.pieces[start];
        let index = piece.file as usize;
        let file = &self.plan.files[index];
        let hashed = self.open.as_ref().filter(|open| open.index == index).map_or(0, |open| open.hashed);
        if file.pieces.len() == 1 || hashed != piece.offset {
            return None;
        }
        let following = &self.plan.pieces[start + 1..file.pieces.end];
        let follow = others.iter().zip(following).take_while(|((digest, _), piece)| piece.is_only(digest));
        Some(start..start + 1 + follow.count())
    }

    /// Verifies a chunk and writes it to every place that waits for it. False if none does.
    fn place(&mut self, digest: Digest, bytes: &[u8]) -> Result<bool, Error> {
        let places = self.plan.with(&digest);
        if !places.clone().any(|at| !self.plan.pieces[self.plan.nth(at)].here) {
            return Ok(false);
        }
        if Digest::of(bytes) != digest {
            return Err(Error::Content { what: format!("a chunk of {} bytes", bytes.len()), expected: digest });
        }
        for at in places {
            let n = self.plan.nth(at);
            if !self.plan.pieces[n].here {
                self.put(n, &[bytes])?;
            }
        }
        Ok(true)
    }

    /// Takes from a tree that was installed before whatever chunks it has that are missing here; returns how many bytes
    /// of this tree that made. What can't be read or has changed since is passed over.
    pub fn reuse(&mut self, old: &OldTree<'_>) -> Result<u64, Error> {
        let before = self.plan.missing_bytes();
        if before == 0 {
            return Ok(0);
        }
        let Ok(top) = rustix::fs::open(old.path, DIRECTORY, Mode::empty()) else { return Ok(0) };
        // A file that did not change has the same chunks, and those are known from the new lists.
        let mut unchanged: HashMap<Digest, usize> = HashMap::new();
        for (n, file) in self.plan.files.iter().enumerate() {
            unchanged.entry(file.blake3).or_insert(n);
        }
        let mut last = None;
        let mut buffer = vec![0; limits::CHUNK_MAX];
        for entry in &old.manifest.files {
            let EntryKind::File { blake3, chunks, size, .. } = entry.kind else { continue };
            let wanted: Vec<(u64, Chunk)> = match unchanged.get(&blake3) {
                Some(n) => {
                    let pieces = &self.plan.pieces[self.plan.files[*n].pieces.clone()];
                    pieces.iter().map(|p| (p.offset, Chunk { digest: p.digest, length: p.length })).collect()
                }
                None => match chunks.map(|list| old.lists.get(&list)) {
                    Some(Some(list)) => list
                        .0
                        .iter()
                        .scan(0, |offset, chunk| {
                            let at = *offset;
                            *offset += u64::from(chunk.length);
                            Some((at, *chunk))
                        })
                        .collect(),
                    Some(None) => continue,
                    None if size > limits::CHUNK_MAX as u64 => continue,
                    None => vec![(0, Chunk { digest: blake3, length: size as u32 })],
                },
            };
            if !wanted.iter().any(|(_, chunk)| self.plan.lacks(&chunk.digest)) {
                continue;
            }
            let Ok(Some(file)) = open_at(&top, &mut last, entry.path.as_str(), Opening::Read) else { continue };
            for (offset, chunk) in wanted {
                if !self.plan.lacks(&chunk.digest) {
                    continue;
                }
                let Some(space) = buffer.get_mut(..chunk.length as usize) else { continue };
                if file.read_exact_at(space, offset).is_err() {
                    break;
                }
                match self.place(chunk.digest, &buffer[..chunk.length as usize]) {
                    Ok(_) | Err(Error::Content { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(before - self.plan.missing_bytes())
    }

    /// Verifies every file whole against its signed digest, makes links, sets modes, and makes all of it durable.
    pub fn finish(mut self) -> Result<Staged, Error> {
        let lacking = self.plan.pieces.iter().filter(|p| !p.here).count();
        if lacking > 0 {
            return Err(Error::Incomplete { path: self.path(), chunks: lacking });
        }
        self.open = None;
        let one_by_one = self.plan.files.len() <= SYNC_ONE_BY_ONE;
        for n in 0..self.plan.files.len() {
            let path = self.entry_path(n).to_owned();
            let full = self.path().join(&path);
            let planned = &self.plan.files[n];
            let opening = if planned.size == 0 { Opening::Create } else { Opening::Read };
            let file = open_at(&self.top, &mut self.last, &path, opening)
                .map_err(io("open", &full))?
                .ok_or_else(|| io("find", &full)(Errno::NOENT))?;
            if !planned.verified && digest_of(&file).map_err(io("read", &full))? != planned.blake3 {
                return Err(Error::Content { what: format!("the file {path}"), expected: planned.blake3 });
            }
            let size = file.metadata().map_err(io("look at", &full))?.len();
            if size != planned.size {
                // Longer, then: every place was verified. Something before this attempt's tree left it.
                let shorter = open_at(&self.top, &mut self.last, &path, Opening::Write).map_err(io("open", &full))?;
                shorter.map_or(Ok(()), |f| f.set_len(planned.size)).map_err(io("cut", &full))?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(planned.mode)).map_err(io("set the mode of", &full))?;
            if one_by_one {
                file.sync_all().map_err(sync(&full))?;
            }
        }
        self.make_links()?;
        self.write_record()?;
        let mut directories: Vec<(String, u32)> = self.directories().into_iter().collect();
        directories.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        for (path, mode) in directories {
            let full = self.path().join(&path);
            let directory = directory_at(&self.top, &mut self.last, &path).map_err(io("open", &full))?;
            rustix::fs::fchmod(directory, Mode::from_raw_mode(mode)).map_err(io("set the mode of", &full))?;
            if one_by_one {
                rustix::fs::fsync(directory).map_err(sync(&full))?;
            }
            self.last = None;
        }
        let path = self.path();
        let durable = if one_by_one { rustix::fs::fsync(&self.top) } else { rustix::fs::syncfs(&self.top) };
        durable.map_err(sync(&path))?;
        self.spot.sync()?;
        Ok(Staged { path })
    }

    fn entry_path(&self, file: usize) -> &str {
        self.source.manifest.files[self.plan.files[file].entry].path.as_str()
    }

    /// Writes pieces of one file, the first of them and those that follow it, as these bytes.
    fn put(&mut self, first: usize, bytes: &[&[u8]]) -> Result<(), Error> {
        let piece = self.plan.pieces[first];
        let index = piece.file as usize;
        let full = self.spot.path().join(self.entry_path(index));
        let pieces = first..first + bytes.len();
        if let Some((bytes, piece)) = bytes.iter().zip(&self.plan.pieces[pieces.clone()]).find(|(b, p)| b.len() != p.length as usize) {
            return Err(Error::Manifest(format!(
                "a chunk of {} has {} bytes, its list says {}",
                full.display(),
                bytes.len(),
                piece.length
            )));
        }
        if self.open.as_ref().is_none_or(|open| open.index != index) {
            let path = self.source.manifest.files[self.plan.files[index].entry].path.as_str();
            let file = open_at(&self.top, &mut self.last, path, Opening::Write)
                .map_err(io("open", &full))?
                .ok_or_else(|| io("find", &full)(Errno::NOENT))?;
            make_room(&file, self.plan.files[index].size);
            self.open = Some(OpenFile { index, file, hasher: blake3::Hasher::new(), hashed: 0, begun: 0 });
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        write_together(&open.file, bytes, piece.offset).map_err(io("write", &full))?;
        let planned = &mut self.plan.files[index];
        if planned.pieces.len() == 1 {
            planned.verified = piece.digest == planned.blake3;
        } else if open.hashed == piece.offset {
            for bytes in bytes {
                open.hasher.update(bytes);
                open.hashed += bytes.len() as u64;
            }
            if open.hashed == planned.size {
                planned.verified = Digest::from(open.hasher.finalize()) == planned.blake3;
            } else if open.hashed - open.begun >= WRITE_BACK {
                // Only a wish, whoever fails to grant it.
                let length = NonZeroU64::new(open.hashed - open.begun);
                let _ = rustix::fs::fadvise(&open.file, open.begun, length, rustix::fs::Advice::DontNeed);
                open.begun = open.hashed;
            }
        }
        self.next = pieces.end;
        self.plan.pieces[pieces].iter_mut().for_each(|piece| piece.here = true);
        Ok(())
    }

    /// Reads what an earlier run left and finds which pieces of it are good.
    fn verify(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; limits::CHUNK_MAX];
        for n in 0..self.plan.files.len() {
            let path = self.entry_path(n).to_owned();
            let Ok(Some(file)) = open_at(&self.top, &mut self.last, &path, Opening::Read) else { continue };
            let mut whole = blake3::Hasher::new();
            let mut good = true;
            for at in self.plan.files[n].pieces.clone() {
                let piece = &mut self.plan.pieces[at];
                let space = &mut buffer[..piece.length as usize];
                match file.read_exact_at(space, piece.offset) {
                    Ok(()) => piece.here = Digest::of(space) == piece.digest,
                    // The file ends here, or its blocks can't be read: what follows is fetched.
                    Err(_) => break,
                }
                good &= piece.here;
                whole.update(space);
            }
            let planned = &mut self.plan.files[n];
            planned.verified = planned.size == 0 || good && Digest::from(whole.finalize()) == planned.blake3;
            if planned.size > ROOM_AHEAD && !planned.verified {
                // Room that it had ahead is free again: what is missing is asked for as a whole.
                let full = self.spot.path().join(&path);
                let cut = open_at(&self.top, &mut self.last, &path, Opening::Write).map_err(io("open", &full))?;
                let length = file.metadata().map_err(io("look at", &full))?.len();
                cut.map_or(Ok(()), |file| file.set_len(length)).map_err(io("cut", &full))?;
            }
        }
        Ok(())
    }

    fn refuse_full_disk(&self, reserve: Reserve) -> Result<(), Error> {
        let path = &self.spot.parent_path;
        let stat = rustix::fs::fstatvfs(&self.top).map_err(io("ask for the free space of", path))?;
        let missing = self.plan.missing_bytes();
        let needed = missing.saturating_add(missing.saturating_mul(reserve.percent) / 100).saturating_add(reserve.bytes);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if missing > 0 && free < needed {
            return Err(Error::NoSpace { path: path.clone(), what: "bytes", needed, free });
        }
        // File systems that make inodes as they go report none at all.
        let entries = self.source.manifest.files.len() as u64;
        if missing > 0 && stat.f_files > 0 && stat.f_favail < entries {
            return Err(Error::NoSpace { path: path.clone(), what: "files", needed: entries, free: stat.f_favail });
        }
        Ok(())
    }

    /// Every directory of the tree with its mode: the package's own, and those that are only implied by a path (0755).
    fn directories(&self) -> BTreeMap<String, u32> {
        let mut out = BTreeMap::new();
        for entry in &self.source.manifest.files {
            for parent in entry.path.parents() {
                if !out.contains_key(parent) {
                    out.insert(parent.to_owned(), 0o755);
                }
            }
            if let EntryKind::Directory { mode } = entry.kind {
                out.insert(entry.path.as_str().to_owned(), mode);
            }
        }
        out
    }

    fn make_directories(&mut self) -> Result<(), Error> {
        for path in self.directories().into_keys() {
            let full = self.path().join(&path);
            let (above, name) = split(&path);
            let parent = directory_at(&self.top, &mut self.last, above).map_err(io("open", &full))?;
            match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(io("make the folder", full)(e)),
            }
        }
        Ok(())
    }

    fn make_links(&mut self) -> Result<(), Error> {
        for entry in &self.source.manifest.files {
            let EntryKind::Link { target } = &entry.kind else { continue };
            let full = self.spot.path().join(entry.path.as_str());
            let (above, name) = split(entry.path.as_str());
            let parent = directory_at(&self.top, &mut self.last, above).map_err(io("open", &full))?;
            match rustix::fs::symlinkat(target.as_str(), parent, name) {
                Err(Errno::EXIST) => {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(io("remove", &full))?;
                    rustix::fs::symlinkat(target.as_str(), parent, name).map_err(io("make the link", &full))?;
                }
                made => made.map_err(io("make the link", &full))?,
            }
        }
        Ok(())
    }

    fn write_record(&mut self) -> Result<(), Error> {
        let full = self.path().join(RECORD);
        let file = open_at(&self.top, &mut self.last, RECORD, Opening::Write)
            .map_err(io("open", &full))?
            .ok_or_else(|| io("find", &full)(Errno::NOENT))?;
        let bytes = exchange::to_json(&self.record);
        file.set_len(0).and_then(|()| file.write_all_at(&bytes, 0)).map_err(io("write", &full))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).map_err(io("set the mode of", &full))?;
        file.sync_all().map_err(sync(&full))
    }
}

/// Room on the disk for all of a large file, which keeps its length. Only a wish: without it, or on a file system that can't, a write
/// finds room or says that there is none.
fn make_room(file: &File, size: u64) {
    if size > ROOM_AHEAD && file.metadata().is_ok_and(|there| there.blocks() * 512 < size) {
        let _ = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size);
    }
}

/// Writes all of these bytes, one after the other, from this offset on.
fn write_together(file: &File, bytes: &[&[u8]], mut offset: u64) -> std::io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut slices = slices.as_mut_slice();
    // Without those that are empty: nothing written then means that nothing can be.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match rustix::io::pwritev(file, slices, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The directory part of a path and its last component.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// For reading; none if it is not there or is not a regular file.
    Read,
    /// For writing, made if it is missing.
    Write,
    /// For reading, made if it is missing.
    Create,
}

/// Walks to a directory below `top`, links refused. `last` remembers where the walk ended.
fn directory_at<'a>(top: &'a OwnedFd, last: &'a mut Option<(String, OwnedFd)>, path: &str) -> Result<rustix::fd::BorrowedFd<'a>, Errno> {
    if path.is_empty() {
        return Ok(top.as_fd());
    }
    if last.as_ref().is_none_or(|(at, _)| at != path) {
        let mut here: Option<OwnedFd> = None;
        for part in path.split('/') {
            here = Some(rustix::fs::openat(here.as_ref().unwrap_or(top), part, DIRECTORY, Mode::empty())?);
        }
        *last = here.map(|fd| (path.to_owned(), fd));
    }
    Ok(last.as_ref().map_or(top.as_fd(), |(_, fd)| fd.as_fd()))
}

/// Opens a regular file below `top`, links refused at every component.
pub(super) fn open_at(top: &OwnedFd, last: &mut Option<(String, OwnedFd)>, path: &str, opening: Opening) -> Result<Option<File>, Errno> {
    let (above, name) = split(path);
    let parent = match directory_at(top, last, above) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if opening == Opening::Read => return Ok(None),
        parent => parent?,
    };
    // NONBLOCK: a fifo in an old tree must not hold us up.
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let private = Mode::RUSR | Mode::WUSR;
    let open = |flags| rustix::fs::openat(parent, name, flags, private);
    let opened = match opening {
        Opening::Read => match open(flags | OFlags::RDONLY) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            opened => opened?,
        },
        Opening::Create => open(flags | OFlags::RDONLY | OFlags::CREATE)?,
        Opening::Write => match open(flags | OFlags::WRONLY | OFlags::CREATE) {
            // It has its final mode from an earlier run that was cut off later.
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(parent, name, private, AtFlags::empty())?;
                open(flags | OFlags::WRONLY)?
            }
            Err(Errno::LOOP | Errno::NXIO) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                open(flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?
            }
            opened => opened?,
        },
    };
    let file = File::from(opened);
    let regular = file.metadata().is_ok_and(|m| m.is_file());
    match (regular, opening) {
        (true, _) => Ok(Some(file)),
        (false, Opening::Read) => Ok(None),
        (false, _) => Err(Errno::INVAL),
    }
}

/// The digest of a whole file, read from its start.
pub(crate) fn digest_of(mut file: &File) -> std::io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; limits::CHUNK_MAX];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_together_is_written_whole_however_many_pieces_it_has() {
        let mut file = tempfile::tempfile().unwrap();
        // More than the system takes with one call (1024).
        let pieces: Vec<Vec<u8>> = (0..3000).map(|n| vec![n as u8; n % 5]).collect();
        let bytes: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        write_together(&file, &bytes, 3).unwrap();
        let mut written = Vec::new();
        file.read_to_end(&mut written).unwrap();
        assert_eq!(written, [&[0; 3][..], &pieces.concat()].concat());
    }
}
