//! The journal as a folder of files: `attempts/ID` and, for those that are over, `answers/ID`.

use super::{ANSWERS_MAX, Journal, JournalError, Loaded};
use crate::machine::Record;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use sutler_base::{AttemptId, Digest};
use sutler_certs::durable::{self, FileError, Readers};

/// Room that is given free when the disk is full, so that a failure can still be recorded and reported (bytes).
const RESERVE: u64 = 4 << 20;
const RECORD_MAX: u64 = 64 << 20;
/// Names the ledger; `GENERATION` in the state folder says which ledger there has to be.
const MARKER: &str = ".generation";
const GENERATION: &str = "generation";

/// A journal in the agent's state folder.
#[derive(Debug)]
pub struct FolderJournal {
    state: PathBuf,
    fresh: [u8; 16],
}

impl FolderJournal {
    /// The journal below `state`, which is there already and private. `fresh` names the ledger if a new one is begun.
    pub fn new(state: &Path, fresh: [u8; 16]) -> FolderJournal {
        FolderJournal { state: state.into(), fresh }
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

    /// Takes the reserve's room, if there is room to spare. Best effort: without it a full disk is found earlier.
    fn keep_reserve(&self) {
        let path = self.reserve();
        if path.exists() {
            return;
        }
        let taken = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let allocated = taken.map(|file| rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE));
        if !matches!(allocated, Ok(Ok(()))) {
            let _ = std::fs::remove_file(&path);
        }
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

fn encode(record: &Record) -> Vec<u8> {
    let json = serde_json::to_vec(record).expect("a record is plain data");
    let mut bytes = Digest::of(&json).to_string().into_bytes();
    bytes.push(b'\n');
    bytes.extend(json);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let (check, json) = bytes.split_at_checked(65)?;
    let check: Digest = std::str::from_utf8(&check[..64]).ok()?.parse().ok()?;
    (Digest::of(json) == check).then(|| serde_json::from_slice(json).ok()).flatten()
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

fn remove(path: &Path) -> Result<(), JournalError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(JournalError::Broken { doing: "remove", path: path.into(), source }),
        _ => Ok(()),
    }
}

impl Journal for FolderJournal {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        self.keep_reserve();
        let expected = read(&self.state.join(GENERATION));
        let found = read(&self.attempts().join(MARKER));
        let mut loaded = Loaded::default();
        match (expected, found) {
            (None, None) if !self.attempts().exists() => self.write_marker()?,
            // The first start was cut off between the two.
            (None, Some(name)) => self.put(&self.state.join(GENERATION), &name)?,
            (Some(expected), Some(found)) if expected == found => {}
            _ => loaded.lost = true,
        }
        self.make_folder(&self.attempts())?;
        self.make_folder(&self.answers())?;
        for id in names(&self.attempts())? {
            match read(&self.attempts().join(id.as_str())).and_then(|bytes| decode(&bytes)) {
                Some(record) if *record.id() == id => loaded.records.push(record),
                _ => loaded.damaged.push(id),
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
        match self.put(&self.answers().join(record.id().as_str()), &encode(record)) {
            // The manager has the outcome, and only a manager that moved would offer it again: not worth stopping for.
            Err(JournalError::Full { .. }) => {}
            put => put?,
        }
        remove(&self.attempts().join(record.id().as_str()))?;
        let answers = names(&self.answers())?;
        for old in answers.iter().take(answers.len().saturating_sub(ANSWERS_MAX)) {
            remove(&self.answers().join(old.as_str()))?;
        }
        // The name must not come back after a power cut.
        let folder = self.attempts();
        let synced = File::open(&folder).and_then(|f| f.sync_all());
        synced.map_err(|source| JournalError::Broken { doing: "make durable", path: folder, source })?;
        self.keep_reserve();
        Ok(())
    }

    fn answer(&self, attempt: &AttemptId) -> Option<Record> {
        read(&self.answers().join(attempt.as_str())).and_then(|bytes| decode(&bytes)).filter(|r| r.id() == attempt)
    }
}
