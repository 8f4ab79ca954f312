//! The database of a manager that exists, moved from SQLite into a PostgreSQL: the same installation lives on there.
//!
//! The manager is stopped meanwhile: the folder's lock sees to it. Everything is copied and every row compared in one transaction
//! of the new database; then `manager.toml` is exchanged, whole, for one that names the new database and refuses the old one, which stays
//! as it is. **That exchange is the moment of the move**: whatever ends this before leaves the old installation as it was, and
//! after it the new one is whole. A run that was ended between the commit and the exchange is finished by the next one, which
//! finds every row there already.

use crate::{
    config::{self, Config, ConfigError, Overrides},
    folder::{Folder, FolderError},
    world::World,
};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use sutler_certs::durable::{self, FileError, Readers};
use sutler_core::model::AuditEntry;
use sutler_store::{Kind, Migrated, OnProgress, Store, StoreError, unit};

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The manager's folder can't be used; while the manager serves, others can't.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// `manager.toml` can't be used, or not changed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The manager's database is none that can be moved.
    #[error("{} names a PostgreSQL as the database already: there is nothing to move", .0.display())]
    NotSqlite(PathBuf),
    /// The new database is none.
    #[error("the new database's address is not that of a PostgreSQL: it looks like postgres://USER@HOST/DATABASE")]
    NotPostgres,
    /// What this wrote would be somebody else's.
    #[error(
        "{} belongs to the user {owner}, and this is the user {user}, whose files the manager could not read: run it as the user whose the \
         folder is, with `sudo -u '#{owner}'`",
        folder.display()
    )]
    OtherUser {
        /// The manager's folder.
        folder: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs this.
        user: u32,
    },
    /// The rows could not be moved.
    #[error(transparent)]
    Rows(#[from] sutler_store::MigrateError),
    /// A manager could not use what was moved.
    #[error("everything was moved, and can't be opened as a manager does it ({0}); the manager is still that of the old database")]
    Opened(StoreError),
    /// `manager.toml` could not be written.
    #[error("everything was moved, and manager.toml could not be exchanged ({0}): mend that and try again, which goes on there")]
    Exchange(FileError),
}

/// What was moved.
#[derive(Debug, Clone)]
pub struct Report {
    /// The rows.
    pub rows: Migrated,
    /// The old database, which stays.
    pub old: PathBuf,
    /// Why the audit log does not say it, if it does not.
    pub untold: Option<String>,
}

/// Moves the database of the manager in `folder` to the PostgreSQL at `database`.
pub async fn migrate(folder: &Path, database: &str, world: &World, tell: OnProgress<'_>) -> Result<Report, MigrateError> {
    let folder = Folder::open(folder)?;
    let found = |source| ConfigError::Read { path: folder.path().into(), source };
    let (owner, user) = (fs_err::metadata(folder.path()).map_err(found)?.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(MigrateError::OtherUser { folder: folder.path().into(), owner, user });
    }
    let _lock = folder.lock()?;
    let config = Config::load(folder.clone(), &Overrides::default())?;
    let Some(old) = config::sqlite_path(&config.database) else { return Err(MigrateError::NotSqlite(folder.config())) };
    let database = match config::database_url(&folder, database) {
        Ok(url) if config::sqlite_path(&url).is_none() => url,
        _ => return Err(MigrateError::NotPostgres),
    };
    // Before anything is moved: what can't be exchanged in the end isn't begun.
    let moved = config.moved_to(&database, world.now())?;
    let rows = sutler_store::migrate(old, &database, tell).await?;
    let store = Store::open(&database).await.map_err(MigrateError::Opened)?;
    debug_assert_eq!(store.kind(), Kind::Postgres);
    let exchanged = durable::write(&folder.config(), moved.as_bytes(), Readers::Owner).map_err(MigrateError::Exchange);
    let untold = match &exchanged {
        Ok(()) => note(&store, &rows, world).await.err().map(|e| e.to_string()),
        Err(_) => None,
    };
    store.close().await;
    exchanged?;
    Ok(Report { old: old.into(), rows, untold })
}

/// Notes it in the audit log of the new database.
async fn note(store: &Store, rows: &Migrated, world: &World) -> Result<(), StoreError> {
    let total: u64 = rows.tables.iter().map(|(_, rows)| rows).sum();
    let entry = AuditEntry {
        sequence: 0,
        time: world.now(),
        actor: "manager".into(),
        action: "migrate".into(),
        object: "manager".into(),
        detail: format!("from SQLite to PostgreSQL: {total} rows of {} tables, each read back and the same", rows.tables.len()),
    };
    store.write("note_migration", unit!([entry] | tx | { tx.audit(&entry).await })).await
}
