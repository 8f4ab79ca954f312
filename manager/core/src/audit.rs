//! The audit log as a chain of hashes: what an entry's hash is made of, and what is wrong with a log that somebody edited.
//!
//! **Chains.** Every manager process has a chain of its own: it is named by the sequence of its first entry, and its
//! entries are numbered from 1. Each carries the hash of the one before it; the first one carries the hash of whatever
//! entry stood before it in the log, so that the end of a chain can't be cut off once another one has begun. A process
//! that can't know whether its last entry was kept begins a new chain.
//!
//! **Segments.** Entries are sealed in the order of the log: a segment's hash goes over those of its entries and over the
//! segment before it. Sealed segments may be dropped from the oldest on, by whoever holds them in an export; their records
//! stay, with the ends of the chains, so that what comes after them can still be checked.
//!
//! Whoever can write to the database can make a whole log anew with good hashes. What such a log does not have is the end
//! that the running manager holds in its memory, and that of any export: a check compares with both.

use crate::model::AuditEntry;
use std::collections::BTreeMap;
use sutler_base::{Digest, Timestamp};

/// The most faults that a check names.
pub const FAULTS_MAX: usize = 100;

/// An entry of the log with its place in a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    /// What was done.
    pub entry: AuditEntry,
    /// The chain: the sequence of its first entry. 0 for an entry from before there were chains.
    pub chain: i64,
    /// The entry's number in its chain, from 1.
    pub number: i64,
    /// The hash of the entry before it.
    pub previous: Digest,
    /// The hash of this entry.
    pub hash: Digest,
}

/// The end of a chain: what the next entry follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainEnd {
    /// The chain.
    pub chain: i64,
    /// The last entry's number.
    pub number: i64,
    /// Its hash.
    pub hash: Digest,
}

/// Entries that were sealed together.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditSegment {
    /// From 1, without a gap.
    pub number: i64,
    /// The sequence of its first entry.
    pub first: i64,
    /// The sequence of its last entry.
    pub last: i64,
    /// How many entries it has.
    pub entries: i64,
    /// Its hash: see [`Seal`].
    pub hash: Digest,
    /// The ends that the chains had after it: of those with an entry in it.
    pub ends: Vec<ChainEnd>,
    /// When it was sealed.
    pub sealed: Timestamp,
    /// When its entries were dropped.
    pub dropped: Option<Timestamp>,
}

/// What a chain of hashes starts with where there is nothing before it.
pub const NOTHING: Digest = Digest([0; 32]);

/// The hash of `entry` as the entry `number` of `chain` after `previous`. Goes over every column that the store keeps.
pub fn entry_hash(previous: &Digest, chain: i64, number: i64, entry: &AuditEntry) -> Digest {
    let texts = [&entry.actor, &entry.action, &entry.object, &entry.detail];
    let mut bytes = Vec::with_capacity(128 + texts.iter().map(|t| t.len()).sum::<usize>());
    bytes.extend(b"sutler audit entry 1\0");
    bytes.extend(previous.0);
    for number in [chain, number, entry.sequence, entry.time.as_millisecond()] {
        bytes.extend(number.to_be_bytes());
    }
    for text in texts {
        bytes.extend((text.len() as u64).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    Digest::of(&bytes)
}

impl AuditRecord {
    /// Whether the entry's hash is that of what it says.
    pub fn is_whole(&self) -> bool {
        entry_hash(&self.previous, self.chain, self.number, &self.entry) == self.hash
    }

    /// The end of the chain with this entry as the last one.
    pub fn end(&self) -> ChainEnd {
        ChainEnd { chain: self.chain, number: self.number, hash: self.hash }
    }
}

/// Makes the hash of a segment from its entries, one after the other.
#[derive(Debug, Clone)]
pub struct Seal {
    number: i64,
    bytes: Vec<u8>,
    first: Option<i64>,
    last: i64,
    entries: i64,
    ends: BTreeMap<i64, ChainEnd>,
}

impl Seal {
    /// The seal of the segment that follows this one.
    pub fn after(segment: Option<&AuditSegment>) -> Seal {
        let (number, previous) = segment.map_or((1, NOTHING), |s| (s.number + 1, s.hash));
        let mut bytes = b"sutler audit segment 1\0".to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend(previous.0);
        Seal { number, bytes, first: None, last: 0, entries: 0, ends: BTreeMap::new() }
    }

    /// Takes in the next entry of the log.
    pub fn add(&mut self, record: &AuditRecord) {
        self.first.get_or_insert(record.entry.sequence);
        self.last = record.entry.sequence;
        self.entries += 1;
        self.bytes.extend(record.hash.0);
        if record.chain > 0 {
            self.ends.insert(record.chain, record.end());
        }
    }

    /// How many entries it has.
    pub fn entries(&self) -> i64 {
        self.entries
    }

    /// The segment; none without an entry.
    pub fn close(self, now: Timestamp) -> Option<AuditSegment> {
        Some(AuditSegment {
            number: self.number,
            first: self.first?,
            last: self.last,
            entries: self.entries,
            hash: Digest::of(&self.bytes),
            ends: self.ends.into_values().collect(),
            sealed: now,
            dropped: None,
        })
    }
}

/// What is wrong with a log, as sentences; at most [`FAULTS_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many entries were looked at.
    pub entries: u64,
    /// How many of them are from before there were chains, and have no hash.
    pub unchained: u64,
    /// How many segments were looked at whole.
    pub segments: u64,
    /// How many segments are dropped: their entries are in exports alone.
    pub dropped: u64,
    /// What is wrong.
    pub faults: Vec<String>,
}

/// A check of a log that is read from its oldest entry on.
#[derive(Debug)]
pub struct Check {
    verdict: Verdict,
    segments: Vec<AuditSegment>,
    /// The segment that the next entry may belong to.
    at: usize,
    seal: Seal,
    ends: BTreeMap<i64, ChainEnd>,
    before: Digest,
    last: i64,
    wanted: Vec<ChainEnd>,
}

impl Check {
    /// A check of a log with these segments, oldest first, which has to have these entries: ends that a manager remembers,
    /// and those of exports.
    pub fn new(segments: Vec<AuditSegment>, wanted: Vec<ChainEnd>) -> Check {
        let mut check = Check {
            verdict: Verdict::default(),
            seal: Seal::after(None),
            ends: BTreeMap::new(),
            before: NOTHING,
            last: 0,
            at: 0,
            wanted,
            segments,
        };
        check.pass_dropped();
        check
    }

    fn fault(&mut self, what: String) {
        if self.verdict.faults.len() < FAULTS_MAX {
            self.verdict.faults.push(what);
        }
    }

    /// Goes over the segments at the beginning whose entries were dropped.
    fn pass_dropped(&mut self) {
        for n in 0..self.segments.len() {
            let segment = self.segments[n].clone();
            if segment.number != n as i64 + 1 {
                self.fault(format!("the record of segment {} is missing", n + 1));
            }
            if segment.dropped.is_none() || self.at < n {
                continue;
            }
            self.at = n + 1;
            self.verdict.dropped += 1;
            self.seal = Seal::after(Some(&segment));
            self.last = segment.last;
            for end in &segment.ends {
                self.ends.insert(end.chain, *end);
            }
        }
    }

    /// Takes in the next entry.
    pub fn add(&mut self, record: &AuditRecord) {
        self.verdict.entries += 1;
        let sequence = record.entry.sequence;
        if sequence <= self.last {
            self.fault(format!("entry {sequence} comes after entry {}", self.last));
        }
        self.last = sequence;
        if record.chain == 0 {
            // From before there were chains: nothing can be said about it, but nothing with a chain can stand before it.
            self.verdict.unchained += 1;
            if !self.ends.is_empty() {
                self.fault(format!("entry {sequence} was inserted: it belongs to no chain, and entries before it do"));
            }
        } else {
            self.link(record);
        }
        self.wanted.retain(|w| *w != record.end());
        self.before = record.hash;
        self.seal(record);
    }

    fn link(&mut self, record: &AuditRecord) {
        let sequence = record.entry.sequence;
        if !record.is_whole() {
            self.fault(format!("entry {sequence} was edited: its hash is not that of what it says"));
        }
        match self.ends.get(&record.chain).copied() {
            None if record.number == 1 => {
                if record.chain != sequence {
                    self.fault(format!("entry {sequence} begins chain {}, which another entry began", record.chain));
                }
                // Of the entries that were dropped, the ends of their chains are known, and the last entry is one of them.
                let dropped = self.before == NOTHING && self.verdict.dropped > 0;
                let follows = record.previous == self.before || dropped && self.ends.values().any(|e| e.hash == record.previous);
                if !follows {
                    self.fault(format!("the entry before entry {sequence}, with which chain {} begins, was removed", record.chain));
                }
            }
            None => self.fault(format!(
                "the entries 1 to {} of chain {} were removed, before entry {sequence}",
                record.number - 1,
                record.chain
            )),
            Some(end) if record.number <= end.number => {
                self.fault(format!("entry {sequence} is number {} of chain {} a second time", record.number, record.chain));
            }
            Some(end) if record.number > end.number + 1 => self.fault(format!(
                "the entries {} to {} of chain {} were removed, before entry {sequence}",
                end.number + 1,
                record.number - 1,
                record.chain
            )),
            Some(end) if record.previous != end.hash => {
                self.fault(format!("entry {sequence} does not follow the entry before it in chain {}", record.chain));
            }
            Some(_) => {}
        }
        self.ends.insert(record.chain, record.end());
    }

    fn seal(&mut self, record: &AuditRecord) {
        let Some(segment) = self.segments.get(self.at).cloned() else { return };
        self.seal.add(record);
        if record.entry.sequence < segment.last {
            return;
        }
        let made = std::mem::replace(&mut self.seal, Seal::after(Some(&segment))).close(segment.sealed);
        let same =
            made.is_some_and(|m| (m.hash, m.entries, m.first, m.last) == (segment.hash, segment.entries, segment.first, segment.last));
        if !same {
            self.fault(format!("segment {} does not hold what was sealed (entries {} to {})", segment.number, segment.first, segment.last));
        }
        self.verdict.segments += 1;
        self.at += 1;
    }

    /// The last entry was there: says what is wrong.
    pub fn finish(mut self) -> Verdict {
        if let Some(segment) = self.segments.get(self.at).cloned() {
            self.fault(format!("the end was cut off: segment {} was sealed up to entry {}", segment.number, segment.last));
        }
        // What was dropped was sealed and exported before.
        for end in std::mem::take(&mut self.wanted) {
            let dropped = self.segments.iter().filter(|s| s.dropped.is_some());
            if dropped.flat_map(|s| &s.ends).any(|e| e.chain == end.chain && e.number >= end.number) {
                continue;
            }
            self.fault(format!(
                "the end was cut off or changed: chain {} has no entry {} with the hash {}",
                end.chain, end.number, end.hash
            ));
        }
        self.verdict
    }

    /// The ends that the chains have so far: what an export is compared with later.
    pub fn ends(&self) -> Vec<ChainEnd> {
        self.ends.values().copied().collect()
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
