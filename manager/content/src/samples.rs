//! Packages for tests.

use crate::{Content, Kind, chunker};
use bytes::Bytes;
use sutler_base::{
    Digest,
    manifest::{Entry, EntryKind, Manifest},
};

/// Stores this version of a package with these files, all of it, and gives its manifest's digest.
pub(crate) async fn package(content: &Content, version: &str, files: &[(&str, impl AsRef<[u8]>)]) -> Digest {
    let mut entries = Vec::new();
    for (path, bytes) in files {
        let mut pieces = Vec::new();
        let found = chunker::describe(bytes.as_ref(), |chunk| {
            pieces.push(Bytes::from(chunk.bytes.clone()));
            Ok(())
        })
        .unwrap();
        for piece in pieces {
            content.put(Digest::of(&piece), Kind::Chunk, piece).await.unwrap();
        }
        let chunks = match found.list() {
            Some((digest, list)) => {
                content.put(digest, Kind::Document, list.into()).await.unwrap();
                Some(digest)
            }
            None => None,
        };
        let kind = EntryKind::File { mode: 0o644, size: found.size, blake3: found.blake3, sha256: found.sha256, chunks };
        entries.push(Entry { path: path.parse().unwrap(), kind });
    }
    entries.sort_by(|a, b| a.path.as_str().cmp(b.path.as_str()));
    let manifest = Manifest {
        directory: Some("/opt/p".parse().unwrap()),
        files: entries,
        ..Manifest::new("p".parse().unwrap(), version.parse().unwrap(), 1)
    };
    let bytes = Bytes::from(manifest.to_bytes());
    let digest = Digest::of(&bytes);
    content.put(digest, Kind::Document, bytes).await.unwrap();
    digest
}
