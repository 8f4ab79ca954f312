//! A chunk list: of which chunks, in order, a file consists. It travels as content, under its own digest.

use crate::{Digest, Invalid, limits};

/// One chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The digest of the chunk's bytes, uncompressed.
    pub digest: Digest,
    /// How many bytes it has, uncompressed: 1 to [`limits::CHUNK_MAX`].
    pub length: u32,
}

/// The chunks of one file in their order. A file of one chunk needs no list: the chunk's digest is the file's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkList(pub Vec<Chunk>);

/// How many bytes one entry takes in the encoded list.
const ENTRY: usize = 36;

impl ChunkList {
    /// The list as bytes: each entry's digest (32 bytes) and length (4 bytes, little-endian), nothing else.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * ENTRY);
        for chunk in &self.0 {
            out.extend_from_slice(chunk.digest.as_bytes());
            out.extend_from_slice(&chunk.length.to_le_bytes());
        }
        out
    }

    /// The list that `bytes` encode, for a file of `size` bytes.
    ///
    /// Refuses a list that is cut off, has a chunk of no or too many bytes, or does not add up to `size`.
    pub fn decode(bytes: &[u8], size: u64) -> Result<ChunkList, Invalid> {
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        if !rest.is_empty() || bytes.len() as u64 > limits::MANIFEST_MAX {
            return Err(Invalid::new(format!("a chunk list of {} bytes is cut off or too long", bytes.len())));
        }
        let mut chunks = Vec::with_capacity(entries.len());
        let mut total = 0u64;
        for entry in entries {
            let digest = Digest(entry[..32].try_into().expect("32 of 36 bytes"));
            let length = u32::from_le_bytes(entry[32..].try_into().expect("4 of 36 bytes"));
            if length == 0 || length as usize > limits::CHUNK_MAX {
                return Err(Invalid::new(format!("a chunk list names a chunk of {length} bytes; 1 to {} are allowed", limits::CHUNK_MAX)));
            }
            total += u64::from(length);
            chunks.push(Chunk { digest, length });
        }
        if total != size {
            return Err(Invalid::new(format!("a chunk list adds up to {total} bytes for a file of {size}")));
        }
        Ok(ChunkList(chunks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_lies_about_its_file_is_refused() {
        let list = ChunkList(vec![Chunk { digest: Digest::of(b"a"), length: 1 }, Chunk { digest: Digest::of(b"bc"), length: 2 }]);
        let bytes = list.encode();
        assert_eq!(ChunkList::decode(&bytes, 3).unwrap(), list);
        assert!(ChunkList::decode(&bytes, 4).is_err());
        assert!(ChunkList::decode(&bytes[..71], 3).is_err());
        assert!(ChunkList::decode(&ChunkList(vec![Chunk { digest: Digest::of(b""), length: 0 }]).encode(), 0).is_err());
    }
}
