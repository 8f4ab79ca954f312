//! Cuts a file into content-defined chunks and describes it, reading it once.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read};
pub use sutler_base::chunker::{FileChunk, chunks};
use sutler_base::{
    Digest,
    chunks::{Chunk, ChunkList},
    limits::MANIFEST_MAX,
};

/// What a manifest says about a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// How many bytes it has.
    pub size: u64,
    /// The BLAKE3 digest of all of them.
    pub blake3: Digest,
    /// The SHA-256 of all of them, for people.
    pub sha256: Digest,
    /// Its chunks; none for an empty file.
    pub chunks: ChunkList,
}

impl FileContent {
    /// The encoded chunk list and its digest; none for a file of at most one chunk, whose address is the file's digest.
    pub fn list(&self) -> Option<(Digest, Vec<u8>)> {
        (self.chunks.0.len() > 1).then(|| {
            let bytes = self.chunks.encode();
            (Digest::of(&bytes), bytes)
        })
    }
}

/// Reads all that `reader` gives, once, and describes it; `each` sees every chunk and may end the reading with an error.
///
/// A file whose chunk list would be longer than [`MANIFEST_MAX`] (some 120 GiB) is an [`io::ErrorKind::FileTooLarge`].
pub fn describe(reader: impl Read, mut each: impl FnMut(&FileChunk) -> io::Result<()>) -> io::Result<FileContent> {
    let (mut blake3, mut sha256) = (blake3::Hasher::new(), Sha256::new());
    let (mut size, mut list) = (0u64, Vec::new());
    for chunk in chunks(reader) {
        let chunk = chunk?;
        blake3.update(&chunk.bytes);
        sha256.update(&chunk.bytes);
        size += chunk.bytes.len() as u64;
        list.push(Chunk { digest: chunk.digest, length: chunk.bytes.len() as u32 });
        if list.len() as u64 * 36 > MANIFEST_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "its chunk list would be longer than a chunk list can be"));
        }
        each(&chunk)?;
    }
    Ok(FileContent { size, blake3: blake3.finalize().into(), sha256: Digest(sha256.finalize().into()), chunks: ChunkList(list) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::limits::{CHUNK_MAX, CHUNK_MIN};

    /// `length` bytes that look like noise and are the same for ever: BLAKE3's output for `name`.
    fn generated(name: &str, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn the_cuts_are_part_of_the_format_and_never_change() {
        let content = describe(&generated("sutler chunker vector 1", 1 << 20)[..], |_| Ok(())).unwrap();
        let lengths: Vec<u32> = content.chunks.0.iter().map(|c| c.length).collect();
        assert_eq!(lengths, [116245, 72242, 89537, 101197, 106098, 22661, 101971, 82543, 32931, 105183, 97941, 84377, 35650]);
        let vector = [
            (content.blake3, "090f9e20b854454c123e8fef5bb0a73603bbb7cf479d67216cc6074fa20b9054"),
            (content.sha256, "7917316c56021f84a18fc3d4605e5508caeed93ff49624804689d27a04203c93"),
            (content.chunks.0[0].digest, "dfc730be8f9344c02bd2c7af391ee6f54298bfbd0d8fe957dfb674b0ae13dc25"),
            (content.list().unwrap().0, "eb5360492b7047ef7c7a57631111c5db65cb7c1f8fe6b08ea7f51ac950c048cd"),
        ];
        for (digest, pinned) in vector {
            assert_eq!(digest.to_string(), pinned);
        }
    }

    #[test]
    fn every_byte_is_in_exactly_one_chunk_and_a_small_change_moves_few() {
        let before = generated("a", 3 << 20);
        let mut after = before.clone();
        after.splice(1_500_000..1_500_000, *b"an insertion");
        let mut joined = Vec::new();
        let one = describe(&before[..], |chunk| {
            assert_eq!(chunk.offset as usize, joined.len());
            joined.extend_from_slice(&chunk.bytes);
            Ok(())
        })
        .unwrap();
        assert_eq!(joined, before);
        assert_eq!((one.size, one.blake3), (before.len() as u64, Digest::of(&before)));
        let two = describe(&after[..], |_| Ok(())).unwrap();
        let known: std::collections::HashSet<_> = one.chunks.0.iter().map(|c| c.digest).collect();
        let new = two.chunks.0.iter().filter(|c| !known.contains(&c.digest)).count();
        assert!((1..=4).contains(&new), "{new} of {} chunks are new", two.chunks.0.len());
        assert_eq!(ChunkList::decode(&two.list().unwrap().1, two.size).unwrap(), two.chunks);
    }

    #[test]
    fn a_file_of_one_chunk_has_no_list_and_its_digest_is_the_chunks() {
        for size in [0, 1, CHUNK_MIN] {
            let bytes = generated("b", size);
            let content = describe(&bytes[..], |_| Ok(())).unwrap();
            assert_eq!((content.list(), content.chunks.0.len()), (None, usize::from(size > 0)));
            assert!(content.chunks.0.iter().all(|c| c.digest == content.blake3));
        }
        // Zeros have no cut of their own: chunks of the largest size.
        let zeros = describe(io::repeat(0).take(5 * CHUNK_MAX as u64), |_| Ok(())).unwrap();
        assert!(zeros.chunks.0.iter().all(|c| c.length as usize == CHUNK_MAX && c.digest == zeros.chunks.0[0].digest));
    }

    #[test]
    fn reading_in_small_pieces_makes_the_same_cuts() {
        struct Slow<'a>(&'a [u8], usize);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1 = self.1 % 9973 + 1;
                if self.1.is_multiple_of(7) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let n = self.1.min(buffer.len()).min(self.0.len());
                buffer[..n].copy_from_slice(&self.0[..n]);
                self.0 = &self.0[n..];
                Ok(n)
            }
        }
        let bytes = generated("c", 2 << 20);
        assert_eq!(describe(Slow(&bytes, 0), |_| Ok(())).unwrap(), describe(&bytes[..], |_| Ok(())).unwrap());
    }
}
