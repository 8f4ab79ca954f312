//! An export of the audit log: a file with a line of JSON for each entry, after a line with the segments, before one with the
//! ends of the chains.

use super::super::error::CliError;
use fs_err as fs;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{BufRead, BufReader, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use sutler_base::{Digest, Timestamp};
use sutler_core::{
    audit::{AuditRecord, AuditSegment, ChainEnd, Check, Verdict},
    model::AuditEntry,
};

/// The format that this version writes and reads.
const FORMAT: u32 = 1;
/// The longest line that is read: the head has a record for each segment (bytes).
const LINE_MAX: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct End {
    chain: i64,
    number: i64,
    hash: Digest,
}

#[derive(Serialize, Deserialize)]
struct Segment {
    number: i64,
    first: i64,
    last: i64,
    entries: i64,
    hash: Digest,
    ends: Vec<End>,
    sealed: String,
    dropped: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    segments: Vec<Segment>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    sequence: i64,
    time: String,
    actor: String,
    action: String,
    object: String,
    detail: String,
    chain: i64,
    number: i64,
    previous: Digest,
    hash: Digest,
}

#[derive(Serialize, Deserialize)]
struct Tail {
    entries: u64,
    ends: Vec<End>,
}

fn wire(end: &ChainEnd) -> End {
    End { chain: end.chain, number: end.number, hash: end.hash }
}

fn of(end: End) -> ChainEnd {
    ChainEnd { chain: end.chain, number: end.number, hash: end.hash }
}

/// A file that is being written.
pub(super) struct Writer<'a> {
    path: &'a Path,
    out: BufWriter<fs::File>,
    entries: u64,
    check: Check,
}

impl<'a> Writer<'a> {
    /// Makes the file, for its owner alone; one that is there is not written over.
    pub(super) fn create(path: &'a Path, segments: Vec<AuditSegment>, wanted: Vec<ChainEnd>) -> Result<Writer<'a>, CliError> {
        let failed = |source| CliError::File { tried: "write", path: path.into(), source };
        let options = { std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).clone() };
        let file = fs::File::from_parts(options.open(path).map_err(failed)?, path);
        let head = Head {
            format: FORMAT,
            segments: segments
                .iter()
                .map(|s| Segment {
                    number: s.number,
                    first: s.first,
                    last: s.last,
                    entries: s.entries,
                    hash: s.hash,
                    ends: s.ends.iter().map(wire).collect(),
                    sealed: s.sealed.to_string(),
                    dropped: s.dropped.map(|t| t.to_string()),
                })
                .collect(),
        };
        let mut writer = Writer { path, out: BufWriter::new(file), entries: 0, check: Check::new(segments, wanted) };
        writer.line(&head)?;
        Ok(writer)
    }

    fn line<T: Serialize>(&mut self, value: &T) -> Result<(), CliError> {
        let failed = |source| CliError::File { tried: "write", path: self.path.into(), source };
        serde_json::to_writer(&mut self.out, value).map_err(|e| failed(e.into()))?;
        self.out.write_all(b"\n").map_err(failed)
    }

    /// Adds the next entry.
    pub(super) fn add(&mut self, record: &AuditRecord) -> Result<(), CliError> {
        self.check.add(record);
        self.entries += 1;
        let e = &record.entry;
        self.line(&Entry {
            sequence: e.sequence,
            time: e.time.to_string(),
            actor: e.actor.clone(),
            action: e.action.clone(),
            object: e.object.clone(),
            detail: e.detail.clone(),
            chain: record.chain,
            number: record.number,
            previous: record.previous,
            hash: record.hash,
        })
    }

    /// The last entry was added: makes the file durable, and says what is wrong with the log.
    pub(super) fn finish(mut self) -> Result<Verdict, CliError> {
        let tail = Tail { entries: self.entries, ends: self.check.ends().iter().map(wire).collect() };
        self.line(&tail)?;
        let failed = |source| CliError::File { tried: "write", path: self.path.into(), source };
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).map_err(failed)?;
        Ok(self.check.finish())
    }
}

/// What an export says.
pub(super) struct Export {
    /// What is wrong with it by itself.
    pub(super) verdict: Verdict,
    /// The sealed segments whose entries it holds: number and hash.
    pub(super) held: Vec<(i64, Digest)>,
    /// Where its chains ended.
    pub(super) ends: Vec<ChainEnd>,
}

/// Reads an export and checks it by itself. One that was cut off is an error.
pub(super) fn read(path: &Path) -> Result<Export, CliError> {
    let failed = |source| CliError::File { tried: "read", path: path.into(), source };
    let broken = |line: u64, why: String| CliError::Local {
        tried: format!("read the export {}", path.display()),
        why: format!("line {line}: {why}"),
        hint: Some("take a whole file that `sutler audit export` wrote".into()),
    };
    let mut lines = Lines { reader: BufReader::new(fs::File::open(path).map_err(failed)?), text: String::new(), number: 0 };
    if !lines.next().map_err(failed)? {
        return Err(broken(1, "the file is empty".into()));
    }
    let head: Head = lines.parse().map_err(|why| broken(1, why))?;
    if head.format != FORMAT {
        return Err(broken(1, format!("it has the format {}, and this version reads {FORMAT}", head.format)));
    }
    let time = |text: &str| text.parse::<Timestamp>().map_err(|e| broken(1, e.to_string()));
    let mut segments = Vec::with_capacity(head.segments.len());
    for s in head.segments {
        segments.push(AuditSegment {
            number: s.number,
            first: s.first,
            last: s.last,
            entries: s.entries,
            hash: s.hash,
            ends: s.ends.into_iter().map(of).collect(),
            sealed: time(&s.sealed)?,
            dropped: s.dropped.as_deref().map(time).transpose()?,
        });
    }
    let held = segments.iter().filter(|s| s.dropped.is_none()).map(|s| (s.number, s.hash)).collect();
    let mut check = Check::new(segments, vec![]);
    let mut entries = 0;
    loop {
        if !lines.next().map_err(failed)? {
            return Err(broken(lines.number + 1, "the file ends before its last line: it was cut off".into()));
        }
        let Ok(entry) = lines.parse::<Entry>() else { break };
        let time = entry.time.parse().map_err(|e: jiff::Error| broken(lines.number, e.to_string()))?;
        entries += 1;
        check.add(&AuditRecord {
            entry: AuditEntry {
                sequence: entry.sequence,
                time,
                actor: entry.actor,
                action: entry.action,
                object: entry.object,
                detail: entry.detail,
            },
            chain: entry.chain,
            number: entry.number,
            previous: entry.previous,
            hash: entry.hash,
        });
    }
    let tail: Tail = lines.parse().map_err(|why| broken(lines.number, why))?;
    let ends = check.ends();
    let mut verdict = check.finish();
    if tail.entries != entries || tail.ends.into_iter().map(of).ne(ends.iter().copied()) {
        verdict.faults.push("the last line is not about the entries above it".into());
    }
    if lines.next().map_err(failed)? {
        return Err(broken(lines.number, "something follows the last line".into()));
    }
    Ok(Export { verdict, held, ends })
}

struct Lines {
    reader: BufReader<fs::File>,
    text: String,
    number: u64,
}

impl Lines {
    fn next(&mut self) -> std::io::Result<bool> {
        self.text.clear();
        self.number += 1;
        std::io::Read::take(&mut self.reader, LINE_MAX).read_line(&mut self.text).map(|n| n > 0)
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_str(&self.text).map_err(|e| e.to_string())
    }
}
