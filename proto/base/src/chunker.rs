//! Cuts a file into content-defined chunks, reading it once.
//!
//! FastCDC (the 2020 variant, normalization 1, seed 0) with the sizes of [`crate::limits`]. The cuts are part of the package format: a
//! change of any parameter changes every address, and nothing that is stored would be found again.

use crate::{
    Digest,
    chunks::{Chunk, ChunkList},
    limits::{CHUNK_AVERAGE, CHUNK_MAX, CHUNK_MIN, MANIFEST_MAX},
};
use fastcdc::v2020::{Normalization, StreamCDC};
use std::io::{self, Read};

/// A chunk that was just read.
#[derive(Debug, Clone)]
pub struct FileChunk {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Where it starts in the file.
    pub offset: u64,
    /// Its bytes, 1 to [`CHUNK_MAX`].
    pub bytes: Vec<u8>,
}

/// The chunks of what `reader` gives, in order. Holds at most two chunks in memory.
pub fn chunks(reader: impl Read) -> impl Iterator<Item = io::Result<FileChunk>> {
    StreamCDC::with_level_and_seed(Unbroken(reader), CHUNK_MIN, CHUNK_AVERAGE, CHUNK_MAX, Normalization::Level1, 0).map(|chunk| {
        let chunk = chunk.map_err(io::Error::from)?;
        Ok(FileChunk { digest: Digest::of(&chunk.data), offset: chunk.offset, bytes: chunk.data })
    })
}

/// The chunk list of what `reader` gives. One that is longer than a chunk list can be is an [`io::ErrorKind::FileTooLarge`].
pub fn list(reader: impl Read) -> io::Result<ChunkList> {
    let mut list = Vec::new();
    for chunk in chunks(reader) {
        let chunk = chunk?;
        list.push(Chunk { digest: chunk.digest, length: chunk.bytes.len() as u32 });
        if list.len() as u64 * 36 > MANIFEST_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "its chunk list would be longer than a chunk list can be"));
        }
    }
    Ok(ChunkList(list))
}

/// A reader that tries again after a signal.
struct Unbroken<R>(R);

impl<R: Read> Read for Unbroken<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}
