//! SQLite, embedded: one task writes and groups commits, a few connections read.

mod writer;

use crate::{
    Inspection, Kind, Options, StoreError, Tx, Work,
    chain::{Chain, Ends},
    failure::{Failure, Remedy},
};
use sqlx::{
    ConnectOptions, Connection as _, SqlSafeStr, SqlStr,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};
use sutler_core::audit::ChainEnd;
use writer::{Entry, Writer};

pub(crate) type Db = sqlx::Sqlite;
pub(crate) type Connection = sqlx::SqliteConnection;
pub(crate) type Row = sqlx::sqlite::SqliteRow;

/// Equal to one of the JSON list in parameter `$n`.
macro_rules! any {
    ($n:literal) => {
        concat!(" IN (SELECT value FROM json_each($", $n, "))")
    };
}
/// The JSON rows of parameter `$n` as a table `v` with one column `value`.
macro_rules! each {
    ($n:literal) => {
        concat!(" json_each($", $n, ") AS v ")
    };
}
/// The bytes that a hex text means.
macro_rules! unhex {
    ($text:literal) => {
        concat!("unhex(", $text, ")")
    };
}

#[path = "../sql/admin.rs"]
mod admin;
#[path = "../sql/approvals.rs"]
mod approvals;
#[path = "../sql/audit.rs"]
mod audit;
#[path = "../sql/brakes.rs"]
mod brakes;
#[path = "../sql/clients.rs"]
mod clients;
#[path = "../sql/configuration.rs"]
mod configuration;
#[path = "../sql/deltas.rs"]
mod deltas;
#[path = "../sql/destinations.rs"]
mod destinations;
#[path = "../sql/events.rs"]
mod events;
#[path = "../sql/executions.rs"]
mod executions;
#[path = "../sql/groups.rs"]
mod groups;
#[path = "../sql/inventory.rs"]
mod inventory;
#[path = "../sql/jobs.rs"]
mod jobs;
#[path = "../sql/logs.rs"]
mod logs;
#[path = "../sql/operators.rs"]
mod operators;
#[path = "../sql/packages.rs"]
mod packages;
#[path = "../sql/planned.rs"]
mod planned;
#[path = "../sql/policies.rs"]
mod policies;
#[path = "../sql/questions.rs"]
mod questions;
#[path = "../sql/rollouts.rs"]
mod rollouts;
#[path = "../sql/tokens.rs"]
mod tokens;
#[path = "../sql/transfers.rs"]
mod transfers;
#[path = "../sql/trust.rs"]
mod trust;
#[path = "../sql/unit.rs"]
mod unit;
#[path = "../sql/windows.rs"]
mod windows;

use unit::{Access, Unit};

/// What to do where a row is not what the unit had read it as: units run one after another here, so it is a mistake of ours.
const OUTRUN: Remedy = Remedy::None;

/// The statement that takes a number of the change sequence.
const NEXT_CHANGE: &str = "UPDATE sequence SET value = value + 1 WHERE name = 'change' RETURNING value";

/// Waits for the end of a statement: the file answers, or fails.
async fn answered<T>(statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    statement.await
}

pub(crate) fn migrator() -> Migrator {
    let all: Vec<(i64, &str, &'static str)> = vec![
        (1, "first", include_str!("../../migrations/sqlite/0001_first.sql")),
        (2, "operators", include_str!("../../migrations/sqlite/0002_operators.sql")),
        (3, "audit", include_str!("../../migrations/sqlite/0003_audit.sql")),
        (4, "identity", include_str!("../../migrations/sqlite/0004_identity.sql")),
        (5, "trust", include_str!("../../migrations/sqlite/0005_trust.sql")),
        (6, "packages", include_str!("../../migrations/sqlite/0006_packages.sql")),
        (7, "inventory", include_str!("../../migrations/sqlite/0007_inventory.sql")),
        (8, "relations", include_str!("../../migrations/sqlite/0008_relations.sql")),
        (9, "questions", include_str!("../../migrations/sqlite/0009_questions.sql")),
        (10, "clients", include_str!("../../migrations/sqlite/0010_clients.sql")),
        (11, "logs", include_str!("../../migrations/sqlite/0011_logs.sql")),
        (12, "conditions", include_str!("../../migrations/sqlite/0012_conditions.sql")),
        (13, "unarchived", include_str!("../../migrations/sqlite/0013_unarchived.sql")),
        (14, "terms", include_str!("../../migrations/sqlite/0014_terms.sql")),
        (15, "events", include_str!("../../migrations/sqlite/0015_events.sql")),
        (16, "rollouts", include_str!("../../migrations/sqlite/0016_rollouts.sql")),
        (17, "windows", include_str!("../../migrations/sqlite/0017_windows.sql")),
        (18, "lifecycle", include_str!("../../migrations/sqlite/0018_lifecycle.sql")),
        (19, "transfer", include_str!("../../migrations/sqlite/0019_transfer.sql")),
        (20, "configuration", include_str!("../../migrations/sqlite/0020_configuration.sql")),
        (21, "brakes", include_str!("../../migrations/sqlite/0021_brakes.sql")),
        (22, "approvals", include_str!("../../migrations/sqlite/0022_approvals.sql")),
        (26, "silence", include_str!("../../migrations/sqlite/0026_silence.sql")),
        (27, "seconds", include_str!("../../migrations/sqlite/0027_seconds.sql")),
        (28, "awaited", include_str!("../../migrations/sqlite/0028_awaited.sql")),
        (29, "cancel_stage", include_str!("../../migrations/sqlite/0029_cancel_stage.sql")),
        (30, "deltas", include_str!("../../migrations/sqlite/0030_deltas.sql")),
    ];
    let made = |(n, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(n, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(all.into_iter().map(made).collect())
}

/// How to ask what time it is: nobody else goes by this database.
const CLOCK: Option<&str> = None;

/// Makes the file of the log that is written ahead of a database that is there, and its name durable: SQLite does that with the
/// first commit, and says nothing where it fails (unixSync in its os_unix.c), so that a power cut could take the file with all
/// commits in it.
fn keep_log(path: &Path) -> std::io::Result<()> {
    // SQLite removes a log that it finds beside an empty database.
    let Some(database) = std::fs::metadata(path).ok().filter(|found| found.len() > 0) else { return Ok(()) };
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    // As SQLite makes it: open to whom the database is, and its owner's also where root looks at a folder of the service's.
    let log = std::fs::OpenOptions::new().create(true).append(true).mode(database.mode() & 0o777).open(&log)?;
    if log.metadata()?.uid() != database.uid() {
        std::os::unix::fs::fchown(&log, Some(database.uid()), Some(database.gid()))?;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

/// There is one writer: no row needs a lock.
fn lock(sql: &'static str) -> SqlStr {
    sql.into_sql_str()
}

/// What an error of SQLite means.
pub(crate) fn classify(error: sqlx::Error) -> Failure {
    let text = error.to_string();
    let code = match &error {
        sqlx::Error::Database(e) => e.code().and_then(|c| c.parse::<i32>().ok()).unwrap_or(0),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
            return Failure::of(StoreError::Corrupt(text));
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
            return Failure::of(StoreError::Unavailable(text));
        }
        _ => 0,
    };
    // The primary code is the low byte. 4874: the shared memory of the log could not grow, which is a full disk.
    let error = match (code, code & 0xff) {
        (4874, _) | (_, 13) => StoreError::Full(text),
        (_, 10) => return Failure { error: StoreError::Unavailable(text), remedy: Remedy::Stop },
        (_, 5 | 6 | 9 | 14 | 15) => StoreError::Unavailable(text),
        (_, 11 | 26) => StoreError::Corrupt(text),
        (1555 | 2067 | 2579, _) => StoreError::Exists(crate::kind_of_object(&text)),
        (_, 8) => StoreError::Statement(format!("a unit that reads can't write: {text}")),
        _ => StoreError::Statement(text),
    };
    Failure::of(error)
}

/// Looks at the file at `path`.
pub(crate) async fn inspect(path: &Path) -> Result<Inspection, StoreError> {
    let failed = |e: sqlx::Error| classify(e).error;
    let connect = SqliteConnectOptions::new().filename(path).create_if_missing(false).busy_timeout(Duration::from_secs(5));
    let mut connection = connect.pragma("query_only", "ON").disable_statement_logging().connect().await.map_err(failed)?;
    let lines: Vec<(String,)> = sqlx::query_as("PRAGMA integrity_check(5)").fetch_all(&mut connection).await.map_err(failed)?;
    let damage = lines.into_iter().map(|(line,)| line).filter(|line| line != "ok").collect();
    let known = sqlx::query_as("SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'");
    let (known,): (i64,) = known.fetch_one(&mut connection).await.map_err(failed)?;
    let version = match known {
        0 => None,
        _ => {
            let newest = sqlx::query_as("SELECT max(version) FROM _sqlx_migrations WHERE success");
            let (version,): (Option<i64>,) = newest.fetch_one(&mut connection).await.map_err(failed)?;
            version
        }
    };
    // Of older tables nobody asks.
    let failing: Vec<(String, Option<i64>, String)> =
        sqlx::query_as(crate::inspect::FAILING_HOOKS).fetch_all(&mut connection).await.unwrap_or_default();
    let failing_hooks = failing.into_iter().map(crate::FailingHook::new).collect();
    hang_up(connection).await;
    let expected = migrator().iter().map(|m| m.version).max().unwrap_or(0);
    Ok(Inspection { kind: Kind::Sqlite, version, expected, damage, clock: None, failing_hooks })
}

/// An open SQLite database.
#[derive(Clone)]
pub(crate) struct Sqlite {
    writer: Arc<Writer>,
    readers: SqlitePool,
    ends: Ends,
}

impl Sqlite {
    pub(crate) async fn open(path: &Path, options: &Options) -> Result<Sqlite, StoreError> {
        let failed = |e: sqlx::Error| -> StoreError {
            match classify(e).error {
                StoreError::Unavailable(why) => StoreError::Unavailable(format!("the file {} can't be opened: {why}", path.display())),
                other => other,
            }
        };
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .statement_cache_capacity(512)
            .disable_statement_logging();
        keep_log(path).map_err(|e| StoreError::Unavailable(format!("the file {} can't be opened: {e}", path.display())))?;
        // Its cache (KiB) holds the pages of a large unit: what does not fit is written to the log twice.
        // The writer makes checkpoints itself: SQLite's own swallow the error of a failed fsync, and a second fsync may
        // succeed although the pages are lost.
        let mut connection =
            connect.clone().pragma("wal_autocheckpoint", "0").pragma("cache_size", "-65536").connect().await.map_err(failed)?;
        migrator().run_direct(None, &mut connection, false).await.map_err(crate::migration_failed)?;
        if let Some(bytes) = options.max_bytes {
            sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", (bytes / 4096).max(1))))
                .execute(&mut connection)
                .await
                .map_err(failed)?;
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(options.connections.max(1))
            .acquire_timeout(Duration::from_secs(10))
            .test_before_acquire(false)
            .connect_lazy_with(connect.create_if_missing(false).pragma("query_only", "ON"));
        let ends = Ends::default();
        let writer = Writer::start(connection, options.on_disk_error.clone(), ends.clone());
        Ok(Sqlite { writer: Arc::new(writer), readers, ends })
    }

    pub(crate) async fn write<T, E, F>(&self, name: &'static str, unit: F) -> Result<T, E>
    where
        F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (entry, answer) = Entry::new(name, unit);
        self.writer.queue(Box::new(entry))?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable(format!("the unit of work {name} was cut off, and nothing of it was kept")).into()),
        }
    }

    pub(crate) async fn read<T, E, F>(&self, unit: F) -> Result<T, E>
    where
        F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let failed = |e| E::from(classify(e).error);
        let mut transaction = self.readers.begin().await.map_err(failed)?;
        let mut one = Unit::new(&mut transaction, Access::Read, Chain::default());
        let result = unit(&mut one).await;
        let failure = one.into_failure();
        transaction.rollback().await.map_err(failed)?;
        match (result, failure) {
            (Ok(_), Some(failure)) => Err(failure.error.into()),
            (result, _) => result,
        }
    }

    pub(crate) fn audit_end(&self) -> Option<ChainEnd> {
        self.ends.kept()
    }

    pub(crate) async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
    }
}

/// One committed state of the database in `file`, as the new file `copy`.
pub(crate) async fn snapshot(file: &Path, copy: &Path) -> Result<(), StoreError> {
    let failed = |e: sqlx::Error| classify(e).error;
    let disk = |e: std::io::Error| StoreError::Unavailable(format!("the copy {} can't be made durable: {e}", copy.display()));
    let connect = SqliteConnectOptions::new().filename(file).create_if_missing(false).busy_timeout(Duration::from_secs(30));
    let mut connection = connect.connect().await.map_err(failed)?;
    let done = sqlx::query("VACUUM INTO $1").bind(copy.to_string_lossy().into_owned()).execute(&mut connection).await;
    hang_up(connection).await;
    done.map_err(failed)?;
    std::fs::File::open(copy).and_then(|f| f.sync_all()).map_err(disk)
}

/// Closes a connection; what can't be closed is closed with the process.
pub(crate) async fn hang_up(connection: Connection) {
    if let Err(e) = connection.close().await {
        tracing::warn!("the database could not be closed: {e}; it is closed with the process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_log_of_a_database_is_there_before_the_first_commit_and_open_to_whom_that_is() {
        let folder = tempfile::tempdir().unwrap();
        let (path, log) = (folder.path().join("db"), folder.path().join("db-wal"));
        fs::write(&path, "").unwrap();
        keep_log(&path).unwrap();
        assert!(!log.exists(), "an empty database has none");
        fs::write(&path, "pages").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        // Root alone can give a file away.
        let given = std::os::unix::fs::chown(&path, Some(65534), Some(65534)).is_ok();
        keep_log(&path).unwrap();
        let made = fs::metadata(&log).unwrap();
        assert_eq!((made.len(), made.permissions().mode() & 0o777), (0, 0o600));
        assert_eq!((made.uid(), made.gid()) == (65534, 65534), given);
        // One that is there is left as it is.
        fs::write(&log, "frames").unwrap();
        keep_log(&path).unwrap();
        assert_eq!(fs::read(&log).unwrap(), b"frames");
    }
}
