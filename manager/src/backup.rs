//! A copy of the whole manager while it runs, and a manager made from such a copy.
//!
//! A backup is a folder like the manager's own, and `backup.json` with it, which is written last: without it a backup is not
//! whole and is not taken. The database is one committed state of SQLite; the bytes of every version that it names are read
//! and checked on the way, so that a backup never spreads damage. A database in PostgreSQL has its own tools: it is dumped
//! *before* the rest is backed up, for the rest may hold more than the dump needs, and never less.

use crate::{
    app::restored::{self, BACKUP, Restored},
    config::{Config, Overrides},
    folder::{Folder, FolderError},
    world::World,
};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};
use sutler_base::{Digest, Timestamp};
use sutler_certs::durable::{self, FileError};
use sutler_content::{Content, Kind};
use sutler_store::{Store, StoreError, unit};

/// The file that says that a backup is whole.
const NOTE: &str = "backup.json";
/// The format that this version writes and reads.
const FORMAT: u32 = 1;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The manager's folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its configuration can't be read.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The database can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was to be noted in it could not be.
    #[error(transparent)]
    App(#[from] crate::app::AppError),
    /// The bytes of packages can't be read or written.
    #[error(transparent)]
    Content(#[from] sutler_content::Error),
    /// A folder can't be made for its owner alone.
    #[error("cannot use the folder {}: {source}", path.display())]
    Closed {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// A file can't be copied.
    #[error("cannot copy {}: {source}", path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is something already.
    #[error("{} is not empty; name a folder that is not there yet", .0.display())]
    NotEmpty(PathBuf),
    /// It is no backup, or not a whole one.
    #[error("{} is no whole backup: {why}", path.display())]
    NotWhole {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    format: u32,
    /// When the database's state was taken (milliseconds); for PostgreSQL, when the rest was.
    pub time_ms: i64,
    /// Whether the database is in it.
    pub database: bool,
    /// How many objects it has.
    pub objects: u64,
}

/// What a backup came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it says of itself.
    pub note: Note,
    /// Objects that are damaged or missing in the manager's own folder, and so not in the backup.
    pub damaged: Vec<Digest>,
}

fn empty(path: &Path) -> Result<(), BackupError> {
    let copy = |source| BackupError::Copy { path: path.into(), source };
    match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(BackupError::NotEmpty(path.into())),
        Ok(false) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(copy(e)),
    }
    durable::private_folder(path).map_err(|source| BackupError::Closed { path: path.into(), source })
}

/// Copies the files of a folder, each for its owner alone and on the disk, and its folders likewise.
fn copy_tree(from: &Path, to: &Path) -> Result<(), BackupError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| BackupError::Copy { path, source }
    };
    durable::private_folder(to).map_err(|source| BackupError::Closed { path: to.into(), source })?;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let kind = entry.file_type().map_err(failed(&entry.path()))?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &target)?;
        }
    }
    fs::File::open(to).and_then(|f| f.sync_all()).map_err(failed(to))
}

fn copy_file(from: &Path, to: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Copy { path: from.into(), source };
    fs::copy(from, to).map_err(failed)?;
    fs::File::open(to).and_then(|f| f.sync_all()).map_err(failed)
}

/// Copies what these manifests reach, checked; gives back how many objects there are, and those that could not be copied.
async fn copy_content(from: &Content, to: &Content, live: Vec<Digest>) -> Result<(u64, Vec<Digest>), BackupError> {
    use sutler_content::Error::{Damaged, Missing};
    let (mut objects, mut damaged) = (0, Vec::new());
    for manifest in live {
        let closure = match from.load_closure(manifest).await {
            Ok(closure) => closure,
            Err(Damaged { digest, .. } | Missing(digest)) => {
                damaged.push(digest);
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        // What an earlier version brought is not written again.
        for digest in to.missing(closure.digests()).await? {
            match from.get_encoded(digest, Kind::Document).await {
                Ok((encoding, payload)) => to.put_encoded(digest, Kind::Document, encoding, payload).await?,
                Err(Damaged { digest, .. } | Missing(digest)) => {
                    damaged.push(digest);
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            objects += 1;
        }
    }
    damaged.sort_unstable();
    damaged.dedup();
    Ok((objects, damaged))
}

async fn live_manifests(store: &Store) -> Result<Vec<Digest>, StoreError> {
    store.read("live_manifests", unit!([] | tx | { tx.live_manifests().await })).await
}

/// Copies the manager in `folder` into the new folder `target`. It may run meanwhile.
pub async fn back_up(folder: &Path, database: Option<String>, target: &Path, world: &World) -> Result<Report, BackupError> {
    let folder = Folder::open(folder)?;
    let config = Config::load(folder.clone(), &Overrides { database, ..Overrides::default() })?;
    empty(target)?;
    let copy = Folder::open(target)?;
    let now = world.now();
    let in_file = config.database.strip_prefix("sqlite://").map(PathBuf::from);
    let live = match &in_file {
        // First: whatever it names was stored before it was named.
        Some(file) => {
            Store::snapshot(file, &copy.database()).await?;
            let store = Store::open(&copy.database().to_string_lossy()).await?;
            let time = now.as_millisecond().to_string();
            let noted: Result<(), StoreError> =
                store.write("note_backup", unit!([time] | tx | { tx.put_setting(BACKUP, time.as_bytes()).await })).await;
            noted?;
            let live = live_manifests(&store).await?;
            store.close().await;
            live
        }
        None => {
            let store = Store::open(&config.database).await?;
            let live = live_manifests(&store).await?;
            store.close().await;
            live
        }
    };
    let (from, to) = (config.content.open()?, Content::open_folder(&copy.content())?);
    let (objects, damaged) = copy_content(&from, &to, live).await?;
    {
        let _lock = folder.lock_ca()?;
        copy_tree(&folder.ca(), &copy.ca())?;
    }
    copy_tree(&folder.server(), &copy.server())?;
    copy_file(&folder.config(), &copy.config())?;
    // What is in the file belongs to what was copied.
    if Config::load(folder, &Overrides::default())?.moved_from != config.moved_from {
        let why = "the manager's database was moved by `sutler migrate` meanwhile: remove this folder and make another backup".into();
        return Err(BackupError::NotWhole { path: target.into(), why });
    }
    let note = Note { format: FORMAT, time_ms: now.as_millisecond(), database: in_file.is_some(), objects };
    let text = serde_json::to_vec(&note).unwrap_or_default();
    let path = target.join(NOTE);
    durable::write(&path, &text, durable::Readers::Owner).map_err(|source| BackupError::Closed { path, source })?;
    Ok(Report { note, damaged })
}

/// Makes a manager's folder of a backup. `dumped`: when the PostgreSQL database was dumped that `database` holds again; only,
/// and always, for a backup without a database of its own.
pub async fn restore(
    backup: &Path,
    target: &Path,
    database: Option<String>,
    dumped: Option<Timestamp>,
    world: &World,
) -> Result<Report, BackupError> {
    let not_whole = |why: String| BackupError::NotWhole { path: backup.into(), why };
    let note = match durable::read(&backup.join(NOTE), 1 << 20) {
        Ok(text) => serde_json::from_slice::<Note>(&text).map_err(|e| not_whole(format!("{NOTE}: {e}")))?,
        Err(e) if e.is_not_found() => return Err(not_whole(format!("there is no {NOTE}: it was not finished"))),
        Err(e) => return Err(not_whole(format!("{NOTE}: {e}"))),
    };
    if note.format != FORMAT {
        return Err(not_whole(format!("it has the format {}, and this version reads {FORMAT}", note.format)));
    }
    let since_ms = match (note.database, dumped) {
        (true, None) => note.time_ms,
        (false, Some(time)) => time.as_millisecond(),
        (true, Some(_)) => return Err(not_whole("it holds its database; --dumped is for PostgreSQL".into())),
        (false, None) => {
            return Err(not_whole(
                "its database is a PostgreSQL: restore that first with its own tools, and say with --dumped when it was dumped".into(),
            ));
        }
    };
    empty(target)?;
    let (from, to) = (Folder::new(backup), Folder::open(target)?);
    for (from, to) in [(from.ca(), to.ca()), (from.server(), to.server())] {
        copy_tree(&from, &to)?;
    }
    copy_file(&from.config(), &to.config())?;
    if note.database {
        copy_file(&from.database(), &to.database())?;
    }
    let config = Config::load(to.clone(), &Overrides { database, ..Overrides::default() })?;
    let store = match note.database {
        true => Store::open(&to.database().to_string_lossy()).await?,
        false => Store::open(&config.database).await?,
    };
    let now = world.now();
    let restored = Restored { since_ms, until_ms: now.as_millisecond() };
    let live = live_manifests(&store).await?;
    let (stored, new) = (Content::open_folder(&from.content())?, config.content.open()?);
    let (objects, damaged) = copy_content(&stored, &new, live).await?;
    let marked: crate::app::Result<()> =
        store.write("restore", unit!([restored, now] | tx | { restored::mark(tx, &restored, now).await })).await;
    store.close().await;
    marked?;
    Ok(Report { note: Note { objects, ..note }, damaged })
}
