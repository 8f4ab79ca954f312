//! The ends of a package's log files, kept from the moment that it failed until the manager has them.
//!
//! Read before anything is undone: the old tree that comes back may have other files of these names. The way to a file is walked
//! as to everything else ([`Layout`]), and the file itself is opened without following a link: nobody but root chooses which file
//! of the machine its manager gets to see.

use super::{
    durable,
    error::{Error, io},
    layout::{Layout, Missing},
};
use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};
use sutler_base::{AttemptId, limits, manifest::Manifest, path::InstallPath};

/// What of which file is kept.
const NAMES: &str = "logs.json";
/// Their bytes, one after the other.
const BYTES: &str = "logs";

/// The end of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// Which package of the attempt, from 0.
    pub item: usize,
    /// The file, as the package names it.
    pub path: String,
    /// Bytes of it that came before.
    pub cut: u64,
    /// Its last bytes; never none.
    pub bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    path: String,
    cut: u64,
    size: usize,
}

/// Keeps the ends of the package's log files, together at most [`limits::LOG_BYTES_MAX`]: of short ones all, of the others equal
/// parts. One that is not there or empty is left out. Asked again it does nothing.
pub(crate) fn keep(layout: &Layout, manifest: &Manifest, attempt: &AttemptId, item: usize) -> Result<(), Error> {
    let folder = layout.make_item_folder(attempt, item)?;
    if durable::read(&folder.join(NAMES))?.is_some() {
        return Ok(());
    }
    let mut found = Vec::new();
    for path in &manifest.logs {
        match open(layout, manifest, path) {
            Ok(Some((file, size))) if size > 0 => found.push((size, path, file)),
            Ok(_) => {}
            Err(e) => tracing::warn!(%attempt, "the log file {path} is not sent: {e}"),
        }
    }
    found.sort_by_key(|(size, ..)| *size);
    let (mut entries, mut bytes) = (Vec::new(), Vec::new());
    let mut left = found.len();
    for (size, path, file) in found {
        let share = (limits::LOG_BYTES_MAX - bytes.len()) / left;
        left -= 1;
        let before = bytes.len();
        let cut = size.saturating_sub(share as u64);
        let read = (&file).seek(SeekFrom::Start(cut)).and_then(|_| file.take(share as u64).read_to_end(&mut bytes));
        match read {
            Ok(read) if read > 0 => entries.push(Entry { path: path.clone(), cut, size: read }),
            Ok(_) => {}
            Err(e) => {
                bytes.truncate(before);
                tracing::warn!(%attempt, "the log file {path} can't be read: {e}");
            }
        }
    }
    durable::write(&folder, BYTES, &bytes)?;
    durable::write(&folder, NAMES, &serde_json::to_vec(&entries).expect("an entry is plain data"))
}

/// What is kept for a package of an attempt.
pub(crate) fn kept(layout: &Layout, attempt: &AttemptId, item: usize) -> Result<Vec<LogEnd>, Error> {
    let folder = layout.item_folder(attempt, item);
    let Some(names) = durable::read(&folder.join(NAMES))? else { return Ok(vec![]) };
    let names: Vec<Entry> = serde_json::from_slice(&names).map_err(|e| io("understand", folder.join(NAMES))(std::io::Error::from(e)))?;
    let bytes = durable::read(&folder.join(BYTES))?.unwrap_or_default();
    let mut rest = &bytes[..];
    let mut ends = Vec::new();
    for Entry { path, cut, size } in names {
        let Some((end, others)) = rest.split_at_checked(size) else { break };
        rest = others;
        ends.push(LogEnd { item, path, cut, bytes: end.to_vec() });
    }
    Ok(ends)
}

fn open(layout: &Layout, manifest: &Manifest, path: &str) -> Result<Option<(File, u64)>, Error> {
    let whole = match (&manifest.directory, path.starts_with('/')) {
        (Some(directory), false) => format!("{directory}/{path}"),
        _ => path.to_owned(),
    };
    let whole: InstallPath = whole.parse().map_err(|e: sutler_base::Invalid| Error::Manifest(e.0))?;
    let Some(spot) = layout.spot(&whole, Missing::Leave)? else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(&spot.parent, spot.name.as_str(), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(io("open", spot.path())(e)),
    };
    let stat = rustix::fs::fstat(&file).map_err(io("look at", spot.path()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io("read as a file", spot.path())(Errno::INVAL));
    }
    Ok(Some((File::from(file), stat.st_size.max(0) as u64)))
}
