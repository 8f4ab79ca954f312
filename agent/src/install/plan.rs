//! Which chunk belongs where in a package's files, and which of them are there already. No I/O.

use super::error::Error;
use std::{collections::HashMap, ops::Range};
use sutler_base::{
    Digest,
    chunks::{Chunk, ChunkList},
    limits,
    manifest::{EntryKind, Manifest},
};

/// Chunk lists by their own digest, as the manifest names them. Whoever puts one in has verified that digest.
pub type ChunkLists = HashMap<Digest, ChunkList>;

/// One chunk at one place of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) digest: Digest,
    pub(crate) length: u32,
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) here: bool,
    /// No other piece has this digest.
    pub(crate) alone: bool,
}

impl Piece {
    /// This piece and no other is this chunk, and it is not there yet.
    pub(crate) fn is_only(&self, digest: &Digest) -> bool {
        self.alone && !self.here && self.digest == *digest
    }
}

/// One regular file of the package.
#[derive(Debug)]
pub(crate) struct PlannedFile {
    /// Its place in the manifest's list.
    pub(crate) entry: usize,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) blake3: Digest,
    /// Its pieces, in their order.
    pub(crate) pieces: Range<usize>,
    /// The whole file was found to have its digest.
    pub(crate) verified: bool,
}

/// Every file and every piece, in the order of the manifest.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) files: Vec<PlannedFile>,
    pub(crate) pieces: Vec<Piece>,
    /// Indexes of `pieces` sorted by digest: 4 bytes per piece, where a map of lists would take a hundred.
    by_digest: Vec<u32>,
}

impl Plan {
    pub(crate) fn new(manifest: &Manifest, lists: &ChunkLists) -> Result<Plan, Error> {
        let mut files = Vec::new();
        let mut pieces: Vec<Piece> = Vec::new();
        for (entry, at) in manifest.files.iter().enumerate() {
            let EntryKind::File { mode, size, blake3, chunks, .. } = at.kind else { continue };
            let first = pieces.len();
            let file = files.len() as u32;
            let mut offset = 0u64;
            let mut add = |chunk: Chunk| {
                pieces.push(Piece { digest: chunk.digest, length: chunk.length, file, offset, here: false, alone: true });
                offset += u64::from(chunk.length);
            };
            match chunks {
                Some(list) => {
                    let list = lists.get(&list).ok_or_else(|| Error::Manifest(format!("the chunk list of {} is not there", at.path)))?;
                    list.0.iter().copied().for_each(&mut add);
                }
                None if size > limits::CHUNK_MAX as u64 => return Err(Error::Manifest(format!("{} needs a chunk list", at.path))),
                None if size > 0 => add(Chunk { digest: blake3, length: size as u32 }),
                None => {}
            }
            if offset != size {
                return Err(Error::Manifest(format!("the chunks of {} have {offset} bytes together, the file has {size}", at.path)));
            }
            files.push(PlannedFile { entry, size, mode, blake3, pieces: first..pieces.len(), verified: false });
        }
        if pieces.len() > u32::MAX as usize {
            return Err(Error::Manifest(format!("{} chunks are more than this agent can count", pieces.len())));
        }
        let mut by_digest: Vec<u32> = (0..pieces.len() as u32).collect();
        by_digest.sort_unstable_by_key(|n| (pieces[*n as usize].digest, *n));
        for pair in by_digest.windows(2) {
            let (a, b) = (pair[0] as usize, pair[1] as usize);
            if pieces[a].digest == pieces[b].digest {
                (pieces[a].alone, pieces[b].alone) = (false, false);
            }
        }
        Ok(Plan { files, pieces, by_digest })
    }

    /// The pieces that have this digest, as a range to be given to [`Plan::nth`].
    pub(crate) fn with(&self, digest: &Digest) -> Range<usize> {
        let first = self.by_digest.partition_point(|n| self.pieces[*n as usize].digest < *digest);
        let count = self.by_digest[first..].partition_point(|n| self.pieces[*n as usize].digest == *digest);
        first..first + count
    }

    /// The piece at a place of the order by digest.
    pub(crate) fn nth(&self, at: usize) -> usize {
        self.by_digest[at] as usize
    }

    /// The piece that has this digest, if it is the only one and is not there yet. `likely` is looked at first.
    pub(crate) fn only(&self, digest: &Digest, likely: usize) -> Option<usize> {
        if self.pieces.get(likely).is_some_and(|piece| piece.is_only(digest)) {
            return Some(likely);
        }
        let n = self.nth(self.with(digest).next()?);
        self.pieces[n].is_only(digest).then_some(n)
    }

    /// Whether a place still waits for this digest.
    pub(crate) fn lacks(&self, digest: &Digest) -> bool {
        self.with(digest).any(|at| !self.pieces[self.nth(at)].here)
    }

    /// Every chunk that is missing somewhere, once, in the order of the files.
    pub(crate) fn missing(&self) -> Vec<Chunk> {
        let mut seen = std::collections::HashSet::new();
        let lacking = self.pieces.iter().filter(|p| !p.here);
        lacking.filter(|p| seen.insert(p.digest)).map(|p| Chunk { digest: p.digest, length: p.length }).collect()
    }

    /// How many bytes are not there yet, every place counted: what the disk must have room for.
    pub(crate) fn missing_bytes(&self) -> u64 {
        self.pieces.iter().filter(|p| !p.here).map(|p| u64::from(p.length)).sum()
    }
}
