//! PostgreSQL: several managers on one database. Rows that are decided about are locked; deadlocks are run again.
//!
//! **Nobody keeps the others waiting.** The row of the change sequence is locked by every unit that writes, from its first save to its
//! end, so whoever dies, stops or is cut off in the middle would hold up all managers. The server ends what stands still
//! ([`STANDS_STILL`]), also the unit of a manager that was stopped and goes on later: its commit fails, and what it had decided by is read
//! anew. A unit that has the sequence and then waits for a row does so only for 50 ms: whoever holds that row most likely
//! waits for the sequence, and the server would take a second to notice, in which nobody writes anything.
//!
//! **A line that is dead** says nothing: no statement is waited for longer than [`ANSWER`], and a transaction that does not even begin
//! ([`BEGIN`]) makes all connections be made anew.

mod line;

use crate::{
    Inspection, Kind, Options, StoreError, Tx, Work,
    chain::{Chain, Ends},
    failure::{Failure, Remedy},
};
pub(crate) use line::Listener;
use line::{Line, answered_within};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection as _, SqlSafeStr, SqlStr,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgConnectOptions,
};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};
use sutler_core::audit::ChainEnd;

pub(crate) type Db = sqlx::Postgres;
pub(crate) type Connection = sqlx::PgConnection;
pub(crate) type Row = sqlx::postgres::PgRow;

/// Equal to one of the JSON list in parameter `$n`.
macro_rules! any {
    ($n:literal) => {
        concat!(" = ANY (ARRAY(SELECT jsonb_array_elements_text($", $n, "::jsonb)))")
    };
}
/// The JSON rows of parameter `$n` as a table `v` with one column `value`.
macro_rules! each {
    ($n:literal) => {
        concat!(" jsonb_array_elements($", $n, "::jsonb) AS v(value) ")
    };
}
/// The bytes that a hex text means.
macro_rules! unhex {
    ($text:literal) => {
        concat!("decode(", $text, ", 'hex')")
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

/// How often a unit is run again after a deadlock.
const RUNS: u32 = 10;

/// How long a statement may take. The server ends it before that ([`STATEMENT`]); after that there is no server at the other end.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the server works on a statement, or has it wait for a lock (milliseconds).
const STATEMENT: &str = "25000";
/// How long a transaction may take to begin, which needs neither a lock nor the disk.
const BEGIN: Duration = Duration::from_secs(5);
/// For how long a unit may do nothing between two statements before the server undoes it (milliseconds): units wait for nothing else, so
/// its manager is stopped, cut off or gone, and everybody waits for what it has locked.
const STANDS_STILL: &str = "10000";
/// How long a unit that has a number of the change sequence waits for a row (milliseconds).
macro_rules! crosswise {
    () => {
        "50"
    };
}
/// The statement that takes a number of the change sequence. From then on the unit does not wait long for anything else.
const NEXT_CHANGE: &str = concat!(
    "UPDATE sequence SET value = value + 1 WHERE name = 'change' RETURNING value, set_config('lock_timeout', '",
    crosswise!(),
    "', true)"
);

/// Waits for the answer to a statement, as long as there can be one.
async fn answered<T>(statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    answered_within(ANSWER, statement).await
}

/// What to do where a row has changed since the unit read it: what it decided was right for what is no longer so.
const OUTRUN: Remedy = Remedy::Again;

pub(crate) fn migrator() -> Migrator {
    let all: Vec<(i64, &str, &'static str)> = vec![
        (1, "first", include_str!("../../migrations/postgres/0001_first.sql")),
        (2, "operators", include_str!("../../migrations/postgres/0002_operators.sql")),
        (3, "audit", include_str!("../../migrations/postgres/0003_audit.sql")),
        (4, "identity", include_str!("../../migrations/postgres/0004_identity.sql")),
        (5, "trust", include_str!("../../migrations/postgres/0005_trust.sql")),
        (6, "packages", include_str!("../../migrations/postgres/0006_packages.sql")),
        (7, "inventory", include_str!("../../migrations/postgres/0007_inventory.sql")),
        (8, "relations", include_str!("../../migrations/postgres/0008_relations.sql")),
        (9, "questions", include_str!("../../migrations/postgres/0009_questions.sql")),
        (10, "clients", include_str!("../../migrations/postgres/0010_clients.sql")),
        (11, "logs", include_str!("../../migrations/postgres/0011_logs.sql")),
        (12, "conditions", include_str!("../../migrations/postgres/0012_conditions.sql")),
        (13, "unarchived", include_str!("../../migrations/postgres/0013_unarchived.sql")),
        (14, "terms", include_str!("../../migrations/postgres/0014_terms.sql")),
        (15, "events", include_str!("../../migrations/postgres/0015_events.sql")),
        (16, "rollouts", include_str!("../../migrations/postgres/0016_rollouts.sql")),
        (17, "windows", include_str!("../../migrations/postgres/0017_windows.sql")),
        (18, "lifecycle", include_str!("../../migrations/postgres/0018_lifecycle.sql")),
        (19, "transfer", include_str!("../../migrations/postgres/0019_transfer.sql")),
        (20, "configuration", include_str!("../../migrations/postgres/0020_configuration.sql")),
        (21, "brakes", include_str!("../../migrations/postgres/0021_brakes.sql")),
        (22, "approvals", include_str!("../../migrations/postgres/0022_approvals.sql")),
        (26, "silence", include_str!("../../migrations/postgres/0026_silence.sql")),
        (27, "seconds", include_str!("../../migrations/postgres/0027_seconds.sql")),
        (28, "awaited", include_str!("../../migrations/postgres/0028_awaited.sql")),
        (29, "cancel_stage", include_str!("../../migrations/postgres/0029_cancel_stage.sql")),
        (30, "deltas", include_str!("../../migrations/postgres/0030_deltas.sql")),
    ];
    let made = |(n, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(n, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(all.into_iter().map(made).collect())
}

/// How to ask what time it is (milliseconds).
const CLOCK: Option<&str> = Some("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint");

/// Locks the rows that the statement gives. Not against foreign keys that look at them: ids never change.
///
/// The statement ends in `/* OF x */` if only the rows of one of its tables are meant.
fn lock(sql: &'static str) -> SqlStr {
    let word = match sql.strip_suffix(" */").and_then(|s| s.rsplit_once("/* ")) {
        Some((_, of)) => format!("{sql} FOR NO KEY UPDATE {of}"),
        None => format!("{sql} FOR NO KEY UPDATE"),
    };
    AssertSqlSafe(word).into_sql_str()
}

/// What an error of PostgreSQL means.
pub(crate) fn classify(error: sqlx::Error) -> Failure {
    let text = error.to_string();
    let code = match &error {
        sqlx::Error::Database(e) => e.code().unwrap_or_default().into_owned(),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
            return Failure::of(StoreError::Corrupt(text));
        }
        sqlx::Error::Encode(_) | sqlx::Error::TypeNotFound { .. } => String::new(),
        _ => return Failure::of(StoreError::Unavailable(text)),
    };
    let error = match code.as_str() {
        // Also where the server has undone a unit that stood still: what it read is not what is there any more.
        "40001" | "40P01" | "55P03" | "25P03" => {
            let error = StoreError::Unavailable(format!("other units of work were in the way {RUNS} times: {text}"));
            return Failure { error, remedy: Remedy::Again };
        }
        "23505" => StoreError::Exists(crate::kind_of_object(&text)),
        "53100" => StoreError::Full(text),
        "25006" => StoreError::Statement(format!("a unit that reads can't write: {text}")),
        "XX001" | "XX002" => StoreError::Corrupt(text),
        "55006" | "58030" => StoreError::Unavailable(text),
        code if ["08", "53", "57", "28", "3D"].iter().any(|class| code.starts_with(class)) => StoreError::Unavailable(text),
        _ => StoreError::Statement(text),
    };
    Failure::of(error)
}

/// Looks at the database at `url`. What it has on its disk is for its own tools to check.
pub(crate) async fn inspect(url: &str) -> Result<Inspection, StoreError> {
    let failed = |e: sqlx::Error| classify(e).error;
    let connect: PgConnectOptions =
        url.parse().map_err(|e| StoreError::Unavailable(format!("the database's address can't be read: {e}")))?;
    let connect = connect.application_name("sutler-doctor").disable_statement_logging();
    let connection = tokio::time::timeout(Duration::from_secs(10), connect.connect()).await;
    let mut connection = connection.map_err(|_| StoreError::Unavailable("it does not answer in time".into()))?.map_err(failed)?;
    let asked =
        sqlx::query_as("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, to_regclass('_sqlx_migrations') IS NOT NULL");
    let (milliseconds, known): (i64, bool) = asked.fetch_one(&mut connection).await.map_err(failed)?;
    let version = if known {
        let newest = sqlx::query_as("SELECT max(version) FROM _sqlx_migrations WHERE success");
        let (version,): (Option<i64>,) = newest.fetch_one(&mut connection).await.map_err(failed)?;
        version
    } else {
        None
    };
    // Of older tables nobody asks.
    let failing: Vec<(String, Option<i64>, String)> =
        sqlx::query_as(crate::inspect::FAILING_HOOKS).fetch_all(&mut connection).await.unwrap_or_default();
    let failing_hooks = failing.into_iter().map(crate::FailingHook::new).collect();
    let _ = connection.close().await;
    let expected = migrator().iter().map(|m| m.version).max().unwrap_or(0);
    let clock = sutler_base::Timestamp::from_millisecond(milliseconds).ok();
    Ok(Inspection { kind: Kind::Postgres, version, expected, damage: Vec::new(), clock, failing_hooks })
}

/// An open PostgreSQL database.
#[derive(Clone)]
pub(crate) struct Postgres {
    line: Line,
    ends: Ends,
}

impl Postgres {
    pub(crate) async fn open(url: &str, options: &Options) -> Result<Postgres, StoreError> {
        let connect: PgConnectOptions =
            url.parse().map_err(|e| StoreError::Unavailable(format!("the database's address can't be read: {e}")))?;
        let connect = connect.application_name("sutler").statement_cache_capacity(512).disable_statement_logging();
        // A connection of its own, whose statements may take their time.
        let mut connection = line::connect(&connect).await.map_err(|e| classify(e).error)?;
        line::prepare(&mut connection).await.map_err(|e| classify(e).error)?;
        sqlx::query("SELECT set_config('statement_timeout', '0', false)").execute(&mut connection).await.map_err(|e| classify(e).error)?;
        migrator().run_direct(None, &mut connection, false).await.map_err(crate::migration_failed)?;
        let _ = connection.close().await;
        Ok(Postgres { line: Line::new(connect, options.connections.max(2)), ends: Ends::default() })
    }

    pub(crate) async fn write<T, E, F>(&self, name: &'static str, unit: F) -> Result<T, E>
    where
        F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let mut run = 0;
        loop {
            run += 1;
            let mut connection = self.line.begin(line::Use::Write).await.map_err(|e| E::from(classify(e).error))?;
            let mut one = Unit::new(&mut connection, Access::Write, self.ends.unit());
            let result = unit(&mut one).await;
            let (mut chain, failure) = one.into_parts();
            let failure = match (result, failure) {
                (Ok(value), None) => {
                    chain.committing();
                    match connection.commit().await {
                        Ok(()) => {
                            chain.committed();
                            return Ok(value);
                        }
                        Err(e) => classify(e),
                    }
                }
                (result, failure) => {
                    drop(chain);
                    // A connection that is gone can't roll back; the server does.
                    connection.roll_back(failure.as_ref()).await;
                    match (result, failure) {
                        (_, Some(failure)) if failure.remedy == Remedy::Again => failure,
                        (Err(error), _) => return Err(error),
                        (Ok(_), Some(failure)) => return Err(failure.error.into()),
                        (Ok(_), None) => unreachable!("committed above"),
                    }
                }
            };
            if failure.remedy != Remedy::Again || run >= RUNS {
                return Err(failure.error.into());
            }
            tracing::debug!("{name} is run again: {}", failure.error);
            tokio::time::sleep(jitter(run)).await;
        }
    }

    pub(crate) async fn read<T, E, F>(&self, unit: F) -> Result<T, E>
    where
        F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let mut connection = self.line.begin(line::Use::Read).await.map_err(|e| E::from(classify(e).error))?;
        let mut one = Unit::new(&mut connection, Access::Read, Chain::default());
        let result = unit(&mut one).await;
        let failure = one.into_failure();
        connection.roll_back(failure.as_ref()).await;
        match (result, failure) {
            (Ok(_), Some(failure)) => Err(failure.error.into()),
            (result, _) => result,
        }
    }

    /// Says something to all managers on this database that listen, this one too.
    pub(crate) async fn tell(&self, words: &[String]) -> Result<(), StoreError> {
        self.line.tell(words).await.map_err(|e| classify(e).error)
    }

    /// Listens to what managers on this database say from now on.
    pub(crate) async fn listen(&self) -> Result<Listener, StoreError> {
        self.line.listen().await.map_err(|e| classify(e).error)
    }

    pub(crate) fn audit_end(&self) -> Option<ChainEnd> {
        self.ends.kept()
    }

    pub(crate) async fn close(&self) {
        self.line.close().await;
    }
}

/// How long to wait before a unit is run for the `run`th time again: somewhere up to 2, 4, 8 … 500 ms, so that two that were in each other's way part.
fn jitter(run: u32) -> Duration {
    let longest = (1000 << run.min(9)).min(500_000);
    Duration::from_micros(RandomState::new().build_hasher().finish() % longest)
}
