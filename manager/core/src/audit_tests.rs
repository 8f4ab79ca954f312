//! A log that nobody touched is found good, and every way to touch it is found.

use super::*;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

/// A log of three processes: one ends, then two run side by side.
fn log() -> Vec<AuditRecord> {
    let mut log: Vec<AuditRecord> = Vec::new();
    let mut ends: BTreeMap<char, ChainEnd> = BTreeMap::new();
    // Sequences have gaps: they are numbers of the change sequence.
    for (n, process) in "aaaabcbbcc".chars().enumerate() {
        let sequence = 5 + 3 * n as i64;
        let entry = AuditEntry {
            sequence,
            time: at(1000 + n as i64),
            actor: "operators/eve".into(),
            action: "create_group".into(),
            object: format!("groups/{n}"),
            detail: "a sentence".into(),
        };
        let (chain, number, previous) = match ends.get(&process) {
            Some(end) => (end.chain, end.number + 1, end.hash),
            None => (sequence, 1, log.last().map_or(NOTHING, |r| r.hash)),
        };
        let hash = entry_hash(&previous, chain, number, &entry);
        let record = AuditRecord { entry, chain, number, previous, hash };
        ends.insert(process, record.end());
        log.push(record);
    }
    log
}

fn sealed(log: &[AuditRecord], sizes: &[usize]) -> Vec<AuditSegment> {
    let (mut segments, mut rest): (Vec<AuditSegment>, _) = (Vec::new(), log);
    for size in sizes {
        let (some, more) = rest.split_at(*size);
        let mut seal = Seal::after(segments.last());
        some.iter().for_each(|record| seal.add(record));
        segments.extend(seal.close(at(1)));
        rest = more;
    }
    segments
}

fn faults(log: &[AuditRecord], segments: &[AuditSegment], wanted: &[ChainEnd]) -> Vec<String> {
    let mut check = Check::new(segments.to_vec(), wanted.to_vec());
    log.iter().for_each(|record| check.add(record));
    check.finish().faults
}

fn assert_found(log: &[AuditRecord], segments: &[AuditSegment], wanted: &[ChainEnd], word: &str) {
    let faults = faults(log, segments, wanted);
    assert!(faults.iter().any(|f| f.contains(word)), "{word}: {faults:?}");
}

#[test]
fn a_log_that_nobody_touched_is_good() {
    let log = log();
    assert_eq!(faults(&log, &[], &[]), [""; 0]);
    assert_eq!(faults(&log, &sealed(&log, &[3, 4]), &[log[9].end(), log[7].end()]), [""; 0]);
}

#[test]
fn whatever_is_edited_in_any_column_of_any_entry_is_found() {
    let good = log();
    let edits: [fn(&mut AuditRecord); 12] = [
        |r| r.entry.actor.push('x'),
        |r| r.entry.action.push('x'),
        |r| r.entry.object.push('x'),
        // As long as before.
        |r| r.entry.actor = r.entry.actor.replace("eve", "bob"),
        |r| r.entry.action = r.entry.action.replace("create", "delete"),
        |r| r.entry.object = r.entry.object.replace("groups", "tokens"),
        |r| r.entry.detail = r.entry.detail.replace("sentence", "question"),
        |r| r.entry.detail = String::new(),
        |r| r.entry.time = at(7),
        |r| r.number += 1,
        |r| r.previous.0[0] ^= 1,
        |r| r.hash.0[31] ^= 1,
    ];
    for edit in edits {
        for n in 0..good.len() {
            let mut log = good.clone();
            edit(&mut log[n]);
            assert_found(&log, &[], &[], "edited");
        }
    }
    // With a hash that fits again, the entry after it tells.
    for n in 0..4 {
        let mut log = good.clone();
        log[n].entry.detail = "nothing".into();
        log[n].hash = entry_hash(&log[n].previous, log[n].chain, log[n].number, &log[n].entry);
        assert!(!faults(&log, &[], &[]).is_empty(), "entry {n}");
        assert!(!faults(&log, &sealed(&good, &[5]), &[]).is_empty(), "entry {n}, sealed");
    }
}

#[test]
fn an_entry_that_is_removed_inserted_or_moved_is_found() {
    let good = log();
    for n in 0..good.len() {
        let mut log = good.clone();
        log.remove(n);
        // The ends of the two chains that still run are what the running managers know.
        assert!(!faults(&log, &[], &[good[9].end(), good[7].end()]).is_empty(), "without entry {n}");
    }
    for n in 0..good.len() - 1 {
        let mut log = good.clone();
        let (a, b) = (log[n].entry.sequence, log[n + 1].entry.sequence);
        log.swap(n, n + 1);
        (log[n].entry.sequence, log[n + 1].entry.sequence) = (a, b);
        assert!(!faults(&log, &[], &[]).is_empty(), "entries {n} and {} exchanged", n + 1);
    }
    let mut log = good.clone();
    let mut again = log[2].clone();
    again.entry.sequence += 1;
    log.insert(3, again.clone());
    assert_found(&log, &[], &[], "edited");
    again.chain = 0;
    log[3] = again;
    assert_found(&log, &[], &[], "was inserted");
}

#[test]
fn an_end_that_is_cut_off_is_found_by_what_remembers_it() {
    let good = log();
    // The first process has ended: the one after it began with the hash of its last entry.
    let mut log = good.clone();
    log.remove(3);
    assert_found(&log, &[], &[], "was removed");
    // The last entry of all: the running manager, an export or a seal knows it.
    let cut = &good[..9];
    assert_eq!(faults(cut, &[], &[]), [""; 0], "by itself it can't be known");
    assert_found(cut, &[], &[good[9].end()], "cut off");
    assert_found(cut, &sealed(&good, &[4, 6]), &[], "cut off");
    // A whole log made anew has good hashes, and another end.
    let mut anew: Vec<AuditRecord> = Vec::new();
    for (n, record) in good[..4].iter().enumerate() {
        let mut record = record.clone();
        record.entry.actor = "operators/mallory".into();
        record.previous = anew.last().map_or(NOTHING, |r| r.hash);
        record.hash = entry_hash(&record.previous, record.chain, n as i64 + 1, &record.entry);
        anew.push(record);
    }
    assert_eq!(faults(&anew, &[], &[]), [""; 0]);
    assert_found(&anew, &[], &[good[3].end()], "changed");
}

#[test]
fn what_is_left_after_segments_were_dropped_is_still_checked() {
    let log = log();
    for sizes in [&[2, 3][..], &[4, 3], &[5, 2], &[4]] {
        let mut segments = sealed(&log, sizes);
        segments[0].dropped = Some(at(2));
        let rest = &log[sizes[0]..];
        assert_eq!(faults(rest, &segments, &[log[9].end(), log[0].end()]), [""; 0], "{sizes:?}");
        assert!(!faults(&rest[1..], &segments, &[]).is_empty(), "{sizes:?}");
        let mut edited = rest.to_vec();
        edited[0].entry.detail = "other".into();
        edited[0].hash = entry_hash(&edited[0].previous, edited[0].chain, edited[0].number, &edited[0].entry);
        assert!(!faults(&edited, &segments, &[]).is_empty(), "{sizes:?}");
    }
}
