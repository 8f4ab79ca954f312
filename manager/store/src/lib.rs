//! The manager's memory: SQL, and nothing else.
//!
//! A unit of work is a closure that gets a [`Tx`] and either commits whole or leaves no trace. The same text of SQL serves
//! SQLite and PostgreSQL: the files under `sql/` are compiled once inside `sqlite` and once inside `postgres`.
//!
//! **OK means committed.** On SQLite one task writes: it groups the units that wait into one commit, gives each a savepoint
//! of its own, and answers all of them after the commit. On PostgreSQL each unit is a transaction; the rows that it decides
//! about are locked, and a unit that met a deadlock is run again. Load what a unit needs before it saves anything: the first
//! save takes the lock of the change sequence, and two units that then wait for each other's rows are a deadlock. One that has that lock
//! waits for no row longer than a moment, and is run again.
//!
//! **The change sequence** numbers what was changed, in the order of commits: whoever has read all changes up to a number
//! gets the rest by asking for what is greater. Rows that one unit changed may share a number; a list of changes never
//! ends inside of one, so it may be somewhat longer than its limit.
//!
//! **A unit** waits for nothing but its `Tx`: on SQLite everybody else's writes wait behind it. After a statement failed it
//! can't be committed. Only [`StoreError::Exists`] of an `insert_…` is no failure in that sense: the unit may go on.

#![allow(clippy::duplicate_mod, reason = "one text of SQL, compiled once for each database")]

/// A statement with its parameters.
macro_rules! query {
    ($sql:expr $(, $bind:expr)* $(,)?) => {{
        let sql = sqlx::SqlSafeStr::into_sql_str($sql);
        #[cfg(test)]
        crate::plans::note(sql.as_str());
        sqlx::query::<super::Db>(sql)$(.bind($bind))*
    }};
}

mod bind;
mod brakes;
mod chain;
mod failure;
mod inspect;
mod migrate;
mod planned;
#[cfg(test)]
mod plans;
mod postgres;
mod rollouts;
mod sqlite;
mod tx;

pub use brakes::*;
pub use inspect::{FailingHook, Inspection, inspect};
pub use migrate::{MigrateError, Migrated, OnProgress, Phase, Progress, migrate};
pub use planned::*;
pub use rollouts::*;
pub use tx::*;

use std::{future::Future, path::Path, pin::Pin, sync::Arc};
use sutler_core::audit::ChainEnd;

/// What a unit of work is while it runs.
pub type Work<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// A unit of work that may be run again (after a deadlock, or behind another one): it gets its captures as clones, made
/// anew for each run. A reference is captured as what it refers to: `&str` as `String`, `&[T]` as `Vec<T>`, `&T` as `T`.
///
/// `store.write("rename_group", unit!([name, now] |tx| { tx.group(&name).await … })).await`
#[macro_export]
macro_rules! unit {
    ([$($capture:ident),* $(,)?] |$tx:ident| $body:block) => {{
        $(let $capture = $capture.to_owned();)*
        $crate::as_unit(move |$tx: &mut dyn $crate::Tx| -> $crate::Work<'_, _, _> {
            $(let $capture = ::std::clone::Clone::clone(&$capture);)*
            ::std::boxed::Box::pin(async move $body)
        })
    }};
}

/// Tells the compiler what the closure of [`unit!`] is, also where it isn't passed on at once.
#[doc(hidden)]
pub fn as_unit<T, E, F>(unit: F) -> F
where
    F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, E> + Send + Sync + 'static,
{
    unit
}

/// What the store could not do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A unique name or key is taken; the word says which kind of object.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// The database can't be reached, is locked, or is shutting down; nothing was changed, or it can't be known.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The disk is full, or the reserve was reached; nothing was changed.
    #[error("the database's disk is full: {0}")]
    Full(String),
    /// What is stored can't be read back: a damaged database, or one of another version.
    #[error("the database holds what this version can't read: {0}")]
    Corrupt(String),
    /// A page was asked for that starts after no row that there can be.
    #[error("no page starts there")]
    NoPage,
    /// Anything else: a bug.
    #[error("the database refused a statement: {0}")]
    Statement(String),
}

/// Called with what happened when the disk under an SQLite database failed.
pub type DiskErrorHook = Arc<dyn Fn(&str) + Send + Sync>;

/// How a database is opened.
#[derive(Clone)]
pub struct Options {
    /// What to do when a write or an `fsync` failed: from then on it can't be known what is on the disk, and a second try
    /// may succeed although bytes are lost. Ends the process unless set; if it returns, every later write is
    /// [`StoreError::Unavailable`].
    pub on_disk_error: DiskErrorHook,
    /// The largest size of an SQLite file (bytes): what would need more is [`StoreError::Full`]. None: as large as the disk.
    pub max_bytes: Option<u64>,
    /// How many connections read at the same time; on PostgreSQL as many others write.
    pub connections: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            on_disk_error: Arc::new(|what| {
                tracing::error!("the disk failed: {what}");
                eprintln!("sutler: the disk under the database failed ({what}); it can't be known what is on it, so the process ends");
                std::process::abort();
            }),
            max_bytes: None,
            connections: CONNECTIONS,
        }
    }
}

/// How many connections read at the same time, unless an option says otherwise.
pub const CONNECTIONS: u32 = 8;

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Embedded; one manager.
    Sqlite,
    /// A server; any number of managers.
    Postgres,
}

/// How long a word may be that managers tell each other (bytes): a server takes 8000.
pub const WORD_MAX: usize = 7000;

/// Hears what managers on the same database say.
pub struct Listener(postgres::Listener);

impl Listener {
    /// The next word. After an error something may have been missed: whoever wants to hear more listens anew.
    pub async fn next(&mut self) -> Result<String, StoreError> {
        self.0.next().await
    }
}

/// A handle to the database; cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Database,
}

#[derive(Clone)]
enum Database {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Store {
    /// Opens the database at `sqlite://PATH` (or a plain path; the file is made if it isn't there) or `postgres://…`, and
    /// brings its tables up to date.
    ///
    /// A database that a newer version made is [`StoreError::Corrupt`].
    pub async fn open(url: &str) -> Result<Store, StoreError> {
        Self::open_with(url, &Options::default()).await
    }

    /// The same with options.
    pub async fn open_with(url: &str, options: &Options) -> Result<Store, StoreError> {
        let database = match url.split_once("://") {
            None => Database::Sqlite(sqlite::Sqlite::open(Path::new(url), options).await?),
            Some(("sqlite", path)) => Database::Sqlite(sqlite::Sqlite::open(Path::new(path), options).await?),
            Some(("postgres" | "postgresql", _)) => Database::Postgres(postgres::Postgres::open(url, options).await?),
            // The address may hold a password: only its first word is repeated.
            Some((scheme, _)) => {
                return Err(StoreError::Unavailable(format!("a database is at sqlite://PATH or postgres://…, not at {scheme}://…")));
            }
        };
        Ok(Store { database })
    }

    /// Writes one committed state of the SQLite database in `file` into the new file `copy`, while others read and write it.
    /// The copy is on the disk once this returns.
    pub async fn snapshot(file: &Path, copy: &Path) -> Result<(), StoreError> {
        sqlite::snapshot(file, copy).await
    }

    /// Which database it is.
    pub fn kind(&self) -> Kind {
        match &self.database {
            Database::Sqlite(_) => Kind::Sqlite,
            Database::Postgres(_) => Kind::Postgres,
        }
    }

    /// Runs a unit of work that may change things; `name` is for the log. `Ok` means that it is committed and on the disk.
    ///
    /// An `Err` of the unit leaves no trace. The unit may be run several times; see [`unit!`]. On SQLite at most 4096
    /// units wait; one more is [`StoreError::Unavailable`] at once.
    pub async fn write<T, E, F>(&self, name: &'static str, unit: F) -> Result<T, E>
    where
        F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        match &self.database {
            Database::Sqlite(database) => database.write(name, unit).await,
            Database::Postgres(database) => database.write(name, unit).await,
        }
    }

    /// Runs a unit of work that sees one committed state of the database and changes nothing: a write in it is
    /// [`StoreError::Statement`].
    pub async fn read<T, E, F>(&self, name: &'static str, unit: F) -> Result<T, E>
    where
        F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        tracing::trace!(name, "read");
        match &self.database {
            Database::Sqlite(database) => database.read(unit).await,
            Database::Postgres(database) => database.read(unit).await,
        }
    }

    /// Says these words (of [`WORD_MAX`] bytes at the most) to all managers on this database that listen, this one too. Nobody hears them
    /// where there can't be another one, or who does not listen just then.
    pub async fn tell(&self, words: &[String]) -> Result<(), StoreError> {
        match &self.database {
            Database::Sqlite(_) => Ok(()),
            Database::Postgres(database) => database.tell(words).await,
        }
    }

    /// Listens to what managers on this database say from now on; nothing where there can't be another one.
    pub async fn listen(&self) -> Result<Option<Listener>, StoreError> {
        match &self.database {
            Database::Sqlite(_) => Ok(None),
            Database::Postgres(database) => Ok(Some(Listener(database.listen().await?))),
        }
    }

    /// The newest entry of the audit log that this process wrote and that is committed: what a check of the log has to find.
    pub fn audit_end(&self) -> Option<ChainEnd> {
        match &self.database {
            Database::Sqlite(database) => database.audit_end(),
            Database::Postgres(database) => database.audit_end(),
        }
    }

    /// Closes the database after what waits is done; whatever comes later is [`StoreError::Unavailable`].
    pub async fn close(&self) {
        match &self.database {
            Database::Sqlite(database) => database.close().await,
            Database::Postgres(database) => database.close().await,
        }
    }
}

/// The kind of object that a broken unique index is about, by the error's text, which names the index or its columns.
fn kind_of_object(text: &str) -> &'static str {
    const KINDS: &[(&str, &str)] = &[
        ("client_group", "group"),
        ("policy_rule", "policy with this group, trigger and condition"),
        ("policy.group_uid", "policy with this group, trigger and condition"),
        ("policy", "policy"),
        ("package_version", "version"),
        ("job_package", "package of the job"),
        ("package", "package"),
        ("certificate", "certificate"),
        ("token_use", "use of the token"),
        ("token", "token"),
        ("operator", "operator"),
        ("attempt", "attempt"),
        ("execution", "execution"),
        ("client", "client"),
        ("job", "job"),
    ];
    KINDS.iter().find(|(word, _)| text.contains(word)).map_or("object", |(_, kind)| kind)
}

fn migration_failed(error: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError;
    match error {
        MigrateError::VersionMissing(version) => StoreError::Corrupt(format!(
            "its tables are of version {version}, which a newer sutler made; use that version or a later one, or restore the backup from before the update"
        )),
        MigrateError::VersionMismatch(version) => {
            StoreError::Corrupt(format!("version {version} of its tables was made by a different build of sutler; use that build"))
        }
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => {
            StoreError::Unavailable(format!("its tables could not be brought up to date: {e}"))
        }
        other => StoreError::Unavailable(format!("its tables could not be brought up to date: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::Timestamp;
    use sutler_core::{audit::AuditRecord, model::AuditEntry};

    #[tokio::test]
    async fn what_was_answered_ok_is_there_when_the_file_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let url = format!("sqlite://{}", path.display());
        let store = Store::open(&url).await.unwrap();
        let (key, entry) = (
            "a".to_owned(),
            AuditEntry {
                sequence: 0,
                time: Timestamp::from_millisecond(1).unwrap(),
                actor: "manager".into(),
                action: "open".into(),
                object: "o".into(),
                detail: "nul \0".into(),
            },
        );
        let written: Result<(), StoreError> = store
            .write(
                "test",
                unit!(
                    [key, entry] | tx | {
                        tx.put_setting(&key, b"b").await?;
                        tx.audit(&entry).await?;
                        tx.audit(&entry).await
                    }
                ),
            )
            .await;
        written.unwrap();
        store.close().await;
        let store = Store::open(path.to_str().unwrap()).await.unwrap();
        let (value, audit): (_, Vec<AuditRecord>) = store
            .read(
                "test",
                unit!(
                    [key] | tx | {
                        Ok::<_, StoreError>((tx.setting(&key).await?, tx.list_audit(&Page { after: None, limit: 9 }, None).await?))
                    }
                ),
            )
            .await
            .unwrap();
        assert_eq!(value.as_deref(), Some(&b"b"[..]));
        assert_eq!(audit.iter().map(|a| a.entry.sequence).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(audit[0].entry.detail, "nul \u{fffd}");
    }
}
