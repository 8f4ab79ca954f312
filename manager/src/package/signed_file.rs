//! A bundle that was signed before, read back: to add a signature to it, or to see whether it is whole and who signed it.

use super::bundle::PART_MAX;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
};
use sutler_base::{Digest, limits, manifest::Manifest};
use sutler_certs::{Envelope, PublisherKey};
use sutler_content::{Encoding, encoding::decode};

/// The longest line of a bundle: a part in base64, and the little around it.
const LINE_MAX: u64 = (PART_MAX as u64 * 4 / 3) + 4096;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    envelope: Option<String>,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    digest: Digest,
    encoding: String,
    data: String,
    #[serde(default)]
    more: bool,
}

/// A bundle's envelope and manifest.
pub struct SignedFile {
    /// The signed name of the manifest.
    pub envelope: Envelope,
    /// The manifest's exact bytes, which are those that the envelope names.
    pub manifest: Vec<u8>,
    /// Every object that is in the bundle and is what its digest says.
    pub objects: HashSet<Digest>,
}

/// Reads a bundle whole. What is in it is what the digests say; whether the signatures are good, the trust document says.
pub fn read(path: &Path) -> Result<SignedFile, String> {
    let mut lines = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    let mut line = |number: usize| -> Result<Option<Line>, String> {
        let mut text = Vec::new();
        let read = std::io::Read::take(&mut lines, LINE_MAX).read_until(b'\n', &mut text).map_err(|e| e.to_string())?;
        if read as u64 == LINE_MAX {
            return Err(format!("line {number} is too long for a message of a package"));
        }
        if text.is_empty() { Ok(None) } else { serde_json::from_slice(&text).map(Some).map_err(|e| format!("line {number}: {e}")) }
    };
    let first = line(1)?.and_then(|l| l.envelope).ok_or("its first line is no envelope")?;
    let envelope = Envelope::from_json(&STANDARD.decode(first).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let (mut manifest, mut objects, mut payload, mut number) = (None, HashSet::new(), Vec::new(), 1);
    loop {
        number += 1;
        let Some(next) = line(number)? else { break };
        let Some(content) = next.content else { return Err(format!("line {number} has no content")) };
        payload.extend(STANDARD.decode(content.data).map_err(|e| format!("line {number}: {e}"))?);
        if payload.len() as u64 > limits::MANIFEST_MAX {
            return Err(format!("line {number}: the object is longer than any may be"));
        }
        if content.more {
            continue;
        }
        let encoding = match content.encoding.as_str() {
            "ENCODING_ZSTD" => Encoding::Zstd,
            "ENCODING_IDENTITY" => Encoding::Identity,
            other => return Err(format!("line {number}: the encoding {} is not known", sutler_base::quoted(other))),
        };
        let raw = decode(encoding, &Bytes::from(std::mem::take(&mut payload)), limits::MANIFEST_MAX as usize)
            .map_err(|e| format!("line {number}: {e:?}"))?;
        if Digest::of(&raw) != content.digest {
            return Err(format!("line {number}: the content is not what its digest says; it was changed after it was signed"));
        }
        if content.digest == envelope.digest {
            manifest = Some(raw.to_vec());
        }
        objects.insert(content.digest);
    }
    let manifest = manifest.ok_or("the manifest that its envelope names is not in it")?;
    Ok(SignedFile { envelope, manifest, objects })
}

impl SignedFile {
    /// The manifest, parsed.
    pub fn parse(&self) -> Result<Manifest, String> {
        Manifest::parse(&self.manifest).map_err(|e| e.0)
    }
}

/// Writes the bundle at `from` to `to` (they may be the same) with a signature by this key added. Gives back how many there
/// are. The content is checked whole before.
pub fn add_signature(from: &Path, to: &Path, key: &PublisherKey) -> Result<usize, String> {
    let mut file = read(from)?;
    file.envelope.add_signature(&file.manifest, key);
    let mut beside = to.as_os_str().to_owned();
    beside.push(".new");
    let beside = std::path::PathBuf::from(beside);
    let written = (|| -> std::io::Result<()> {
        let mut source = BufReader::new(File::open(from)?);
        let mut first = Vec::new();
        source.read_until(b'\n', &mut first)?;
        let mut out = BufWriter::new(File::create(&beside)?);
        let envelope = serde_json::json!({ "envelope": STANDARD.encode(file.envelope.to_json()) });
        writeln!(out, "{envelope}")?;
        std::io::copy(&mut source, &mut out)?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(&beside, to)
    })();
    written.map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        format!("cannot write {}: {e}", to.display())
    })?;
    Ok(file.envelope.signatures.len())
}
