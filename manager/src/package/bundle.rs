//! Hands out what a manager gets of a signed package: object by object, or as a file of JSON messages.
//!
//! The file holds the messages of `PackageService.PushPackage`, one per line, as any client of the API can send them:
//!
//! ```text
//! {"envelope":"<base64>"}
//! {"content":{"digest":"<64 hex digits>","encoding":"ENCODING_ZSTD","data":"<base64>"}}
//! ```
//!
//! The manifest comes first, then chunk lists, then chunks. An object of more than [`PART_MAX`] encoded bytes comes in
//! parts: all but the last say `"more":true`, all but the first say at which encoded byte they start.

use super::{
    build::{BuildError, ChunkSource, Progress},
    sign::SignedPackage,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Serialize;
use std::{
    collections::HashSet,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use sutler_base::Digest;
use sutler_content::{Encoding, Kind, encoding::encode};

/// The most bytes of an object in one message.
pub const PART_MAX: usize = 1 << 20;

/// One object as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The digest of its bytes before they were encoded.
    pub digest: Digest,
    /// What it is, and so how long it can be.
    pub kind: Kind,
    /// How `payload` is encoded: zstd where that makes it smaller.
    pub encoding: Encoding,
    /// The encoded bytes.
    pub payload: Bytes,
    /// How many bytes it had before: what progress is counted in.
    pub length: u64,
}

/// A part of an object, as one message carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it starts in the encoded bytes.
    pub offset: u64,
    /// At most [`PART_MAX`] of the encoded bytes.
    pub data: Bytes,
    /// Whether more parts follow.
    pub more: bool,
}

impl Object {
    fn new(digest: Digest, kind: Kind, raw: Bytes) -> Object {
        let length = raw.len() as u64;
        let (encoding, payload) = encode(raw);
        Object { digest, kind, encoding, payload, length }
    }

    /// The object in parts that fit into messages; at least one.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        let count = self.payload.len().div_ceil(PART_MAX).max(1);
        (0..count).map(move |n| {
            let (from, to) = (n * PART_MAX, ((n + 1) * PART_MAX).min(self.payload.len()));
            Part { offset: from as u64, data: self.payload.slice(from..to), more: n + 1 < count }
        })
    }
}

/// The objects of a package in the order in which they are sent; only those in `wanted`, if it is given.
///
/// Chunks are read again from their files as they are asked for, and one that is not any more what was signed ends the
/// sending with [`BuildError::ChangedAfterwards`]. Holds one object at a time.
pub fn objects<'a>(
    package: &'a SignedPackage,
    wanted: Option<&'a HashSet<Digest>>,
) -> impl Iterator<Item = Result<Object, BuildError>> + 'a {
    let built = &package.built;
    let is_wanted = move |digest: &Digest| wanted.is_none_or(|wanted| wanted.contains(digest));
    let manifest = std::iter::once((built.manifest_digest, &built.manifest_bytes));
    let lists = built.chunk_lists.iter().map(|(digest, bytes)| (*digest, bytes));
    let documents = manifest
        .chain(lists)
        .filter(move |(digest, _)| is_wanted(digest))
        .map(|(digest, bytes)| Ok(Object::new(digest, Kind::Document, Bytes::copy_from_slice(bytes))));
    let chunk = |source: &ChunkSource| Ok(Object::new(source.digest, Kind::Chunk, source.read()?.into()));
    documents.chain(built.chunks.iter().filter(move |source| is_wanted(&source.digest)).map(chunk))
}

/// How many bytes [`objects`] will hand out, before encoding.
pub fn total_length(package: &SignedPackage, wanted: Option<&HashSet<Digest>>) -> u64 {
    let built = &package.built;
    let is_wanted = |digest: &Digest| wanted.is_none_or(|wanted| wanted.contains(digest));
    let manifest = std::iter::once((built.manifest_digest, built.manifest_bytes.len() as u64));
    let lists = built.chunk_lists.iter().map(|(digest, bytes)| (*digest, bytes.len() as u64));
    let chunks = built.chunks.iter().map(|source| (source.digest, u64::from(source.length)));
    manifest.chain(lists).chain(chunks).filter(|(digest, _)| is_wanted(digest)).map(|(_, length)| length).sum()
}

/// Why a bundle could not be written. What was at its path is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file of the package can't be read, or changed after it was signed.
    #[error(transparent)]
    Source(#[from] BuildError),
    /// The bundle can't be written.
    #[error("can't write {}: {source}; check that its folder exists, is yours and has space", path.display())]
    Write {
        /// The bundle.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a bundle holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Objects, the manifest among them.
    pub objects: u64,
    /// Their bytes before they were encoded.
    pub bytes: u64,
    /// Messages: one line each.
    pub messages: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Message<'a> {
    Envelope(Base64<'a>),
    Content(Content<'a>),
}

#[derive(Serialize)]
struct Content<'a> {
    digest: Digest,
    encoding: &'static str,
    data: Base64<'a>,
    /// 64-bit numbers are texts in protobuf's JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

/// Writes the whole package to `path` as JSON messages, one per line. `progress` is told the bytes before encoding.
///
/// The file is there whole or not at all: it is written beside its place, flushed to the disk and renamed.
pub fn write_bundle(package: &SignedPackage, path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Summary, BundleError> {
    let failed = |source| BundleError::Write { path: path.into(), source };
    let staged = Staged::create(path).map_err(failed)?;
    let mut out = Counted { inner: BufWriter::with_capacity(256 << 10, &staged.file), bytes: 0 };
    let mut summary = Summary::default();
    let mut state = Progress { done: 0, total: total_length(package, None) };
    let mut line = |message: Message<'_>| -> io::Result<()> {
        serde_json::to_writer(&mut out, &message)?;
        summary.messages += 1;
        out.write_all(b"\n")
    };
    line(Message::Envelope(Base64(&package.envelope_bytes))).map_err(failed)?;
    for object in objects(package, None) {
        let object = object?;
        let encoding = match object.encoding {
            Encoding::Zstd => "ENCODING_ZSTD",
            Encoding::Identity => "ENCODING_IDENTITY",
        };
        for Part { offset, data, more } in object.parts() {
            let offset = (offset > 0).then(|| offset.to_string());
            line(Message::Content(Content { digest: object.digest, encoding, data: Base64(&data), offset, more })).map_err(failed)?;
        }
        summary.objects += 1;
        summary.bytes += object.length;
        state.done += object.length;
        progress(state);
    }
    out.flush().map_err(failed)?;
    summary.file_bytes = out.bytes;
    drop(out);
    staged.publish(path).map_err(failed)?;
    Ok(summary)
}

/// A file that is not in its place yet, and goes away if it never gets there.
struct Staged {
    file: fs_err::File,
    path: Option<PathBuf>,
}

impl Staged {
    fn create(place: &Path) -> io::Result<Staged> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = place.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no file name"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let path = place.with_file_name(hidden);
        let file = fs_err::File::options().write(true).create_new(true).open(&path)?;
        Ok(Staged { file, path: Some(path) })
    }

    fn publish(mut self, place: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(path) = &self.path {
            fs_err::rename(path, place)?;
        }
        self.path = None;
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs_err::File::open(folder)?.sync_all()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs_err::remove_file(path);
        }
    }
}

/// Counts what goes through.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
