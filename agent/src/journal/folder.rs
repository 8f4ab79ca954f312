//! The journal as a folder of files: `attempts/ID` and, for those that are over, `answers/ID`.

use super::{ANSWERS_MAX, Answered, Journal, JournalError, Loaded};
use crate::{limits::Limits, machine::Record};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use sutler_base::{AttemptId, Digest};
use sutler_certs::durable::{self, FileError, Readers};

const RECORD_MAX: u64 = 64 << 20;
/// With so many bytes free beside the reserve a disk counts as full no more: any of the agent's own small files can be written.
const SPARE: u64 = 1 << 20;
/// Names the ledger; `GENERATION` in the state folder says which ledger there has to be.
const MARKER: &str = ".generation";
const GENERATION: &str = "generation";

/// What a journal holds, for whoever only looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// How many attempts it has.
    pub records: usize,
    /// Those whose file can't be read.
    pub damaged: Vec<AttemptId>,
    /// The ledger as a whole was lost.
    pub lost: bool,
}

/// A journal in the agent's state folder.
#[derive(Debug)]
pub struct FolderJournal {
    state: PathBuf,
    fresh: [u8; 16],
    /// Room that is given free when the disk is full, so that a failure can still be recorded and reported (bytes).
    reserve: u64,
}

impl FolderJournal {
    /// The journal below `state`, which is there already and private. `fresh` names the ledger if a new one is begun.
    pub fn new(state: &Path, fresh: [u8; 16]) -> FolderJournal {
        FolderJournal { state: state.into(), fresh, reserve: Limits::default().journal_reserve }
    }

    /// The same, keeping so many bytes for a full disk.
    pub fn with_reserve(mut self, bytes: u64) -> FolderJournal {
        self.reserve = bytes;
        self
    }

    /// What a journal below `state` holds, for whoever only looks: nothing is mended or made.
    pub fn inspect(state: &Path) -> Inspected {
        let journal = FolderJournal::new(state, [0; 16]);
        let is_folder = |path: PathBuf| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        let (expected, found) = (read(&journal.state.join(GENERATION)), read(&journal.attempts().join(MARKER)));
        let never_begun = expected.is_none() && found.is_none() && std::fs::symlink_metadata(journal.attempts()).is_err();
        let cut_off = expected.is_none() && found.is_some();
        let whole = expected.is_some() && expected == found && is_folder(journal.answers());
        let ids = names(&journal.attempts()).unwrap_or_default();
        let is_damaged = |id: &&AttemptId| {
            let record = read(&journal.attempts().join(id.as_str())).and_then(|bytes| decode(&bytes));
            record.is_none_or(|record| record.id() != *id) && journal.answer(id) == Answered::No
        };
        let damaged = ids.iter().filter(is_damaged).cloned().collect();
        Inspected { records: ids.len(), damaged, lost: !(never_begun || cut_off || whole) }
    }

    fn attempts(&self) -> PathBuf {
        self.state.join("attempts")
    }

    fn answers(&self) -> PathBuf {
        self.state.join("answers")
    }

    fn reserve(&self) -> PathBuf {
        self.state.join("reserve")
    }

    /// Takes the reserve's room, if there is room to spare; whether it is kept. Without it a full disk is found earlier.
    fn keep_reserve(&self) -> bool {
        let path = self.reserve();
        if std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() >= self.reserve) {
            return true;
        }
        let taken = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let allocated = taken.map(|file| rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.reserve));
        let kept = matches!(allocated, Ok(Ok(())));
        if !kept {
            let _ = std::fs::remove_file(&path);
        }
        kept
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), JournalError> {
        match durable::write(path, bytes, Readers::Owner) {
            Ok(()) => Ok(()),
            Err(e) if is_full(&e) => {
                // What has begun must be brought to its end, and its failure must reach the manager.
                let _ = std::fs::remove_file(self.reserve());
                match durable::write(path, bytes, Readers::Owner) {
                    Ok(()) => Ok(()),
                    Err(e) if is_full(&e) => Err(JournalError::Full { path: path.into() }),
                    Err(e) => Err(broken("write", path)(e)),
                }
            }
            Err(e) => Err(broken("write", path)(e)),
        }
    }

    fn make_folder(&self, path: &Path) -> Result<(), JournalError> {
        durable::private_folder(path).map_err(broken("make the folder", path))
    }

    fn write_marker(&self) -> Result<(), JournalError> {
        let name = Digest::of(&self.fresh).to_string();
        self.make_folder(&self.attempts())?;
        self.put(&self.attempts().join(MARKER), name.as_bytes())?;
        self.put(&self.state.join(GENERATION), name.as_bytes())
    }
}

fn is_full(error: &FileError) -> bool {
    let kind = match error {
        FileError::Write { source, .. } | FileError::Folder { source, .. } => source.kind(),
        _ => return false,
    };
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn broken(doing: &'static str, path: &Path) -> impl FnOnce(FileError) -> JournalError {
    let path = path.to_path_buf();
    move |e| JournalError::Broken { doing, path, source: io::Error::other(e) }
}

/// A record as the bytes of its file: the digest of what follows, a line end, JSON.
pub fn encode(record: &Record) -> Vec<u8> {
    let json = serde_json::to_vec(record).expect("a record is plain data");
    let mut bytes = Digest::of(&json).to_string().into_bytes();
    bytes.push(b'\n');
    bytes.extend(json);
    bytes
}

/// The record in the bytes of a file; none if they were damaged.
pub fn decode(bytes: &[u8]) -> Option<Record> {
    let (check, json) = bytes.split_at_checked(65)?;
    let check_line_ends = check[64] == b'\n';
    let check: Digest = std::str::from_utf8(&check[..64]).ok()?.parse().ok()?;
    (check_line_ends && Digest::of(json) == check).then(|| serde_json::from_slice(json).ok()).flatten()
}

/// The content of a file; none if it is not there or can't be read.
fn read(path: &Path) -> Option<Vec<u8>> {
    durable::read_private(path, RECORD_MAX).ok().map(|b| b.to_vec())
}

fn names(folder: &Path) -> Result<Vec<AttemptId>, JournalError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(source) => return Err(JournalError::Broken { doing: "read the folder", path: folder.into(), source }),
    };
    let mut names: Vec<AttemptId> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    names.sort();
    Ok(names)
}

/// Removes what lies where a folder of ours has to be and is none; whether there was something.
fn clear_for_folder(path: &Path) -> Result<bool, JournalError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_dir() => remove(path).map(|()| true),
        _ => Ok(false),
    }
}

/// Removes what lies where a file of ours has to be and is none.
fn clear_for_file(path: &Path) -> Result<(), JournalError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            std::fs::remove_dir_all(path).map_err(|source| JournalError::Broken { doing: "remove", path: path.into(), source })
        }
        Ok(found) if !found.is_file() => remove(path),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), JournalError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(JournalError::Broken { doing: "remove", path: path.into(), source }),
        _ => Ok(()),
    }
}

impl Journal for FolderJournal {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        // What else lies at our names is no journal, and must not keep the agent from starting.
        for folder in [self.attempts(), self.answers()] {
            if clear_for_folder(&folder)? {
                tracing::warn!("{} was no folder, and was removed", folder.display());
            }
        }
        for file in [self.reserve(), self.state.join(GENERATION), self.attempts().join(MARKER)] {
            clear_for_file(&file)?;
        }
        self.keep_reserve();
        let expected = read(&self.state.join(GENERATION));
        let found = read(&self.attempts().join(MARKER));
        let mut loaded = Loaded::default();
        match (expected, found) {
            (None, None) if !self.attempts().exists() => {
                self.make_folder(&self.answers())?;
                self.write_marker()?;
            }
            // The first start was cut off between the two.
            (None, Some(name)) => self.put(&self.state.join(GENERATION), &name)?,
            // Without the answers an attempt that is over could be taken for a new one.
            (Some(expected), Some(found)) if expected == found => loaded.lost = !self.answers().exists(),
            _ => loaded.lost = true,
        }
        self.make_folder(&self.attempts())?;
        self.make_folder(&self.answers())?;
        for id in names(&self.attempts())? {
            match read(&self.attempts().join(id.as_str())).and_then(|bytes| decode(&bytes)) {
                Some(record) if *record.id() == id && self.answer(&id) != Answered::No => loaded.retired.push(record),
                Some(record) if *record.id() == id => loaded.records.push(record),
                _ => {
                    clear_for_file(&self.attempts().join(id.as_str()))?;
                    if self.answer(&id) == Answered::No { loaded.damaged.push(id) } else { self.discard(&id)? }
                }
            }
        }
        Ok(loaded)
    }

    fn settle(&mut self) -> Result<(), JournalError> {
        let path = self.state.join(GENERATION);
        match (read(&path), read(&self.attempts().join(MARKER))) {
            (Some(expected), Some(found)) if expected == found => Ok(()),
            _ => self.write_marker(),
        }
    }

    fn write(&mut self, record: &Record) -> Result<(), JournalError> {
        self.put(&self.attempts().join(record.id().as_str()), &encode(record))
    }

    fn retire(&mut self, record: &Record) -> Result<(), JournalError> {
        let path = self.answers().join(record.id().as_str());
        clear_for_file(&path)?;
        match self.put(&path, &encode(record)) {
            // The manager has the outcome, and only a manager that moved would offer it again: not worth stopping for.
            Err(JournalError::Full { .. }) => {}
            put => put?,
        }
        let answers = names(&self.answers())?;
        for old in answers.iter().take(answers.len().saturating_sub(ANSWERS_MAX)) {
            remove(&self.answers().join(old.as_str()))?;
        }
        Ok(())
    }

    fn discard(&mut self, attempt: &AttemptId) -> Result<(), JournalError> {
        remove(&self.attempts().join(attempt.as_str()))?;
        // The name must not come back after a power cut.
        let folder = self.attempts();
        let synced = File::open(&folder).and_then(|f| f.sync_all());
        synced.map_err(|source| JournalError::Broken { doing: "make durable", path: folder, source })?;
        self.keep_reserve();
        Ok(())
    }

    fn make_room(&mut self) {
        let _ = std::fs::remove_file(self.reserve());
    }

    fn keep_room(&mut self) -> bool {
        // The reserve may never have been needed: what was refused was something else, and what is free says whether it still is.
        self.keep_reserve() && rustix::fs::statvfs(&self.state).is_ok_and(|disk| disk.f_bfree.saturating_mul(disk.f_frsize) >= SPARE)
    }

    fn answer(&self, attempt: &AttemptId) -> Answered {
        let path = self.answers().join(attempt.as_str());
        match read(&path).and_then(|bytes| decode(&bytes)).filter(|r| r.id() == attempt) {
            Some(record) => Answered::Yes(Box::new(record)),
            None if std::fs::symlink_metadata(&path).is_ok() => Answered::Damaged,
            None => Answered::No,
        }
    }

    fn answers_from(&self, first: &AttemptId) -> Vec<Record> {
        let mut ids = names(&self.answers()).unwrap_or_default();
        ids.retain(|id| id >= first);
        ids.sort();
        let readable = |id: &AttemptId| match self.answer(id) {
            Answered::Yes(record) => Some(*record),
            Answered::No | Answered::Damaged => None,
        };
        ids.iter().filter_map(readable).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Offer;
    use std::os::unix::fs::PermissionsExt;
    use sutler_base::{Timestamp, state::Timing};

    fn record(n: u16) -> Record {
        let offer = Offer {
            attempt: AttemptId::new(Timestamp::from_second(n.into()).unwrap(), [1; 16]),
            job: "jobs/1".into(),
            revision: 1,
            items: vec![],
            inventory: false,
            expire: None,
            continue_on_failure: false,
            priority: 5,
            times: None,
            announcement: None,
            timing: Timing::Now,
            restart: false,
            purpose: String::new(),
        };
        let accepted = Timestamp::from_second(1).unwrap();
        Record::new(offer, accepted)
    }

    fn state() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        folder
    }

    #[test]
    fn what_was_written_is_there_and_what_was_retired_only_answers() {
        let folder = state();
        let mut journal = FolderJournal::new(folder.path(), [1; 16]);
        let loaded = journal.load().unwrap();
        assert!(loaded.records.is_empty() && !loaded.lost);
        let records = [record(1), record(2), record(3)];
        records.iter().for_each(|r| journal.write(r).unwrap());
        journal.retire(&records[0]).unwrap();
        journal.retire(&records[1]).unwrap();
        journal.discard(records[1].id()).unwrap();
        let mut journal = FolderJournal::new(folder.path(), [2; 16]);
        let loaded = journal.load().unwrap();
        assert_eq!((loaded.records, loaded.retired), (vec![records[2].clone()], vec![records[0].clone()]));
        assert!(!loaded.lost);
        assert_eq!(journal.answer(records[1].id()), Answered::Yes(Box::new(records[1].clone())));
        assert_eq!(journal.answer(records[2].id()), Answered::No);
        assert_eq!(journal.answers_from(records[0].id()), records[..2]);
        assert_eq!(journal.answers_from(records[1].id()), records[1..2]);
    }

    #[test]
    fn a_damaged_record_is_told_from_a_lost_ledger() {
        let folder = state();
        let mut journal = FolderJournal::new(folder.path(), [1; 16]);
        journal.load().unwrap();
        journal.write(&record(1)).unwrap();
        let path = folder.path().join("attempts").join(record(1).id().as_str());
        let bytes = std::fs::read(&path).unwrap();
        for at in [0, 40, 64, 66, bytes.len() - 1] {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            std::fs::write(&path, &broken).unwrap();
            let loaded = FolderJournal::new(folder.path(), [1; 16]).load().unwrap();
            assert_eq!((loaded.damaged.len(), loaded.records.len(), loaded.lost), (1, 0, false), "byte {at}");
        }
        std::fs::remove_dir_all(folder.path().join("attempts")).unwrap();
        // It stays lost until the manager was told.
        for _ in 0..2 {
            assert!(FolderJournal::new(folder.path(), [2; 16]).load().unwrap().lost);
        }
        let mut journal = FolderJournal::new(folder.path(), [2; 16]);
        journal.load().unwrap();
        journal.settle().unwrap();
        assert!(!FolderJournal::new(folder.path(), [3; 16]).load().unwrap().lost);
    }

    #[test]
    fn whatever_lies_in_the_place_of_a_journal_it_loads_and_says_what_is_gone() {
        type Harm = fn(&Path, &str);
        let harms: [(&str, Harm, usize, bool); 9] = [
            ("the folder is a file", |s, _| replace(&s.join("attempts"), b"?"), 0, true),
            ("the folder is a link", |s, _| link(&s.join("attempts")), 0, true),
            ("the record is a folder", |s, id| folder_at(&s.join("attempts").join(id)), 1, false),
            ("the record is a link", |s, id| link(&s.join("attempts").join(id)), 1, false),
            ("the record is empty", |s, id| replace(&s.join("attempts").join(id), b""), 1, false),
            ("the name of the ledger is gone", |s, _| gone(&s.join("attempts/.generation")), 0, true),
            ("the name of the ledger is another", |s, _| replace(&s.join("generation"), b"another"), 0, true),
            ("the name of the ledger is a folder", |s, _| folder_at(&s.join("generation")), 0, false),
            ("the answers are gone", |s, _| gone(&s.join("answers")), 0, true),
        ];
        for (what, harm, damaged, lost) in harms {
            let folder = state();
            let mut journal = FolderJournal::new(folder.path(), [1; 16]);
            journal.load().unwrap();
            journal.write(&record(1)).unwrap();
            journal.write(&record(2)).unwrap();
            journal.retire(&record(3)).unwrap();
            harm(folder.path(), record(1).id().as_str());
            let mut journal = FolderJournal::new(folder.path(), [2; 16]);
            let loaded = journal.load().unwrap();
            assert_eq!((loaded.damaged.len(), loaded.lost), (damaged, lost), "{what}");
            // It can be written again, and settled it is whole.
            journal.write(&record(1)).unwrap();
            journal.settle().unwrap();
            let loaded = FolderJournal::new(folder.path(), [3; 16]).load().unwrap();
            assert!(loaded.damaged.is_empty() && !loaded.lost && loaded.records.contains(&record(1)), "{what}");
        }
    }

    #[test]
    fn an_answer_that_is_damaged_is_an_answer_all_the_same() {
        let folder = state();
        let mut journal = FolderJournal::new(folder.path(), [1; 16]);
        journal.load().unwrap();
        journal.retire(&record(1)).unwrap();
        replace(&folder.path().join("answers").join(record(1).id().as_str()), b"");
        assert_eq!(journal.answer(record(1).id()), Answered::Damaged);
        journal.retire(&record(1)).unwrap();
        assert!(matches!(journal.answer(record(1).id()), Answered::Yes(_)));
    }

    fn gone(path: &Path) {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        removed.unwrap();
    }

    fn replace(path: &Path, bytes: &[u8]) {
        gone(path);
        durable::write(path, bytes, Readers::Owner).unwrap();
    }

    fn folder_at(path: &Path) {
        gone(path);
        std::fs::create_dir_all(path.join("deep")).unwrap();
    }

    fn link(path: &Path) {
        gone(path);
        std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
    }

    #[test]
    fn answers_are_bounded_and_the_newest_stay() {
        let folder = state();
        let mut journal = FolderJournal::new(folder.path(), [1; 16]);
        journal.load().unwrap();
        for n in 0..ANSWERS_MAX as u16 + 3 {
            journal.retire(&record(n)).unwrap();
        }
        assert_eq!(names(&folder.path().join("answers")).unwrap().len(), ANSWERS_MAX);
        assert_eq!(journal.answer(record(2).id()), Answered::No);
        assert!(matches!(journal.answer(record(3).id()), Answered::Yes(_)));
    }
}
