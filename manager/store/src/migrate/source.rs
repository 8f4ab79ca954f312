//! The SQLite database that is moved: one committed state of it, which is only read.

use super::{Column, Holds, MigrateError, Result, Table, quoted, target::Described};
use crate::{StoreError, sqlite};
use futures_util::stream::BoxStream;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use std::{collections::BTreeSet, path::Path, time::Duration};

/// Where the migrations that were made are written down.
pub(super) const MIGRATIONS: &str = "_sqlx_migrations";

fn failed(error: sqlx::Error) -> MigrateError {
    MigrateError::Source(sqlite::classify(error).error)
}

/// An open database.
pub(super) struct Source {
    connection: SqliteConnection,
}

impl Source {
    /// Opens the file, which has to be there, as it is at this moment.
    pub(super) async fn open(path: &Path) -> Result<Source> {
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .busy_timeout(Duration::from_secs(5))
            .pragma("query_only", "ON")
            .pragma("cache_size", "-65536")
            .disable_statement_logging();
        let mut connection = connect.connect().await.map_err(|e| match sqlite::classify(e).error {
            StoreError::Unavailable(why) => {
                MigrateError::Source(StoreError::Unavailable(format!("the file {} can't be opened: {why}", path.display())))
            }
            other => MigrateError::Source(other),
        })?;
        sqlx::query("BEGIN").execute(&mut connection).await.map_err(failed)?;
        // From the first read on it is one state.
        let (_,): (i64,) = sqlx::query_as("SELECT count(*) FROM sqlite_schema").fetch_one(&mut connection).await.map_err(failed)?;
        Ok(Source { connection })
    }

    /// What a new database holds.
    pub(super) async fn new_database() -> Result<Source> {
        let connect = SqliteConnectOptions::new().in_memory(true).disable_statement_logging();
        let mut connection = connect.connect().await.map_err(failed)?;
        let made = sqlite::migrator().run_direct(None, &mut connection, false).await;
        made.map_err(|e| MigrateError::Source(crate::migration_failed(e)))?;
        Ok(Source { connection })
    }

    /// Refuses a database that is damaged, or not of this program's version.
    pub(super) async fn examine(&mut self) -> Result<()> {
        let expected = sqlite::migrator().iter().map(|m| m.version).max().unwrap_or(0);
        let known = sqlx::query_as("SELECT count(*) FROM sqlite_schema WHERE name = $1").bind(MIGRATIONS);
        let (known,): (i64,) = known.fetch_one(&mut self.connection).await.map_err(failed)?;
        let found = match known {
            0 => None,
            _ => {
                let newest = sqlx::query_as("SELECT max(version) FROM _sqlx_migrations WHERE success");
                let (version,): (Option<i64>,) = newest.fetch_one(&mut self.connection).await.map_err(failed)?;
                version
            }
        };
        if found != Some(expected) {
            return Err(MigrateError::SourceVersion { found: found.unwrap_or(0), expected });
        }
        // What its indexes and its tables say differently would be lost without a word.
        let lines: Vec<(String,)> = sqlx::query_as("PRAGMA integrity_check(1)").fetch_all(&mut self.connection).await.map_err(failed)?;
        match lines.into_iter().map(|(line,)| line).find(|line| line != "ok") {
            Some(line) => Err(MigrateError::Damaged(line)),
            None => Ok(()),
        }
    }

    /// Its tables, as the other database has them, too; an error if that has others, or others of their columns.
    pub(super) async fn tables(&mut self, described: &Described) -> Result<Vec<Table>> {
        let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> $1 \
                     ORDER BY name";
        let names: Vec<(String,)> = sqlx::query_as(names).bind(MIGRATIONS).fetch_all(&mut self.connection).await.map_err(failed)?;
        let ours: BTreeSet<&str> = names.iter().map(|(name,)| name.as_str()).collect();
        let theirs: BTreeSet<&str> = described.keys().map(String::as_str).collect();
        let differ = |what: &str, names: Vec<&str>| MigrateError::Tables(format!("{} {what}", names.join(", ")));
        match (ours.difference(&theirs).copied().collect::<Vec<_>>(), theirs.difference(&ours).copied().collect::<Vec<_>>()) {
            (missing, _) if !missing.is_empty() => return Err(differ("in SQLite alone", missing)),
            (_, other) if !other.is_empty() => return Err(differ("in PostgreSQL alone", other)),
            _ => {}
        }
        let mut tables = Vec::with_capacity(names.len());
        for (name,) in names {
            tables.push(self.table(name, described).await?);
        }
        Ok(tables)
    }

    async fn table(&mut self, name: String, described: &Described) -> Result<Table> {
        let wrong = |what: String| MigrateError::Tables(format!("the table {name}: {what}"));
        let columns: Vec<(String, String, bool, i64)> =
            sqlx::query_as("SELECT name, type, \"notnull\" <> 0, pk FROM pragma_table_xinfo($1) WHERE hidden = 0 ORDER BY cid")
                .bind(&name)
                .fetch_all(&mut self.connection)
                .await
                .map_err(failed)?;
        let mut others = described.get(&name).cloned().unwrap_or_default();
        let mut table = Table { name: name.clone(), columns: Vec::new(), key: Vec::new(), rows: 0 };
        let mut key = Vec::new();
        for (at, (column, kind, is_required, place)) in columns.into_iter().enumerate() {
            let Some(other) = others.remove(&column) else { return Err(wrong(format!("{column} is in SQLite alone"))) };
            let holds = match (kind.as_str(), other.kind.as_str()) {
                ("INTEGER", "bigint") => Holds::Number,
                ("INTEGER", "boolean") => Holds::Flag,
                ("TEXT", "text") => Holds::Text,
                ("BLOB", "bytea") => Holds::Bytes,
                (ours, theirs) => return Err(wrong(format!("{column} is {ours} in SQLite and {theirs} in PostgreSQL"))),
            };
            if is_required != other.is_required {
                return Err(wrong(format!("{column} may be NULL in one of them alone")));
            }
            if place > 0 {
                key.push((place, at));
            }
            table.columns.push(Column { name: column, holds });
        }
        if let Some(column) = others.keys().next() {
            return Err(wrong(format!("{column} is in PostgreSQL alone")));
        }
        key.sort_unstable();
        table.key = key.into_iter().map(|(_, at)| at).collect();
        if table.key.is_empty() {
            return Err(wrong("it has no primary key to compare its rows by".into()));
        }
        let count = sqlx::query_as(AssertSqlSafe(format!("SELECT count(*) FROM {}", quoted(&name))));
        let (rows,): (i64,) = count.fetch_one(&mut self.connection).await.map_err(failed)?;
        table.rows = u64::try_from(rows).unwrap_or(0);
        Ok(table)
    }

    /// The rows of a table; in the order of its primary key if asked.
    pub(super) fn rows(&mut self, table: &Table, is_ordered: bool) -> BoxStream<'_, sqlx::Result<SqliteRow>> {
        let mut sql = format!("SELECT {} FROM {}", table.columns(), quoted(&table.name));
        if is_ordered {
            let key: Vec<String> = table.key.iter().map(|at| quoted(&table.columns[*at].name)).collect();
            sql.push_str(&format!(" ORDER BY {}", key.join(", ")));
        }
        sqlx::query(AssertSqlSafe(sql)).fetch(&mut self.connection)
    }

    /// Closes it. What can't be closed is closed with the process.
    pub(super) async fn close(self) {
        sqlite::hang_up(self.connection).await;
    }
}
