//! The PostgreSQL database that everything is moved to, and the one transaction in which that is done.

use super::{Holds, MigrateError, Result, Table, quoted, source::MIGRATIONS};
use crate::{StoreError, postgres};
use futures_util::stream::Stream;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Postgres, Transaction,
    postgres::{PgConnectOptions, PgCopyIn},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long the server may take to answer, and others to let go of the tables.
const PATIENCE: Duration = Duration::from_secs(10);
/// The lock that only one move at a time has: "sutler" in its bytes.
const LOCK: i64 = 0x0073_7574_6c65_7201;

/// A column as PostgreSQL says that it is.
#[derive(Clone)]
pub(super) struct Other {
    pub(super) kind: String,
    pub(super) is_required: bool,
}

/// The columns of each table.
pub(super) type Described = BTreeMap<String, BTreeMap<String, Other>>;

/// What there is before anything is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// No table.
    New,
    /// The tables of this version.
    Tables,
}

/// What is put aside while rows are written: statements that make it again.
pub(super) struct Aside {
    again: Vec<String>,
    /// How it was, to be compared.
    before: BTreeSet<String>,
}

fn failed(error: sqlx::Error) -> MigrateError {
    MigrateError::Target(postgres::classify(error).error)
}

/// A connection.
pub(super) struct Target {
    connection: PgConnection,
}

impl Target {
    pub(super) async fn connect(url: &str) -> Result<Target> {
        let unavailable = |why: String| MigrateError::Target(StoreError::Unavailable(why));
        let connect: PgConnectOptions = url.parse().map_err(|e| unavailable(format!("its address can't be read: {e}")))?;
        let connect = connect.application_name("sutler-migrate").disable_statement_logging();
        let connection = tokio::time::timeout(PATIENCE, connect.connect()).await;
        let connection = connection.map_err(|_| unavailable(format!("it does not answer within {} s", PATIENCE.as_secs())))?;
        Ok(Target { connection: connection.map_err(failed)? })
    }

    /// Begins the transaction. Without [`Work::commit`] the server takes back what was done in it, at the latest when it sees that
    /// the connection is gone.
    pub(super) async fn begin(&mut self) -> Result<Work<'_>> {
        let mut transaction = self.connection.begin().await.map_err(failed)?;
        // It may be long, and stand still while the source is read.
        let settings = "SELECT set_config(name, '0', true) FROM pg_settings \
                        WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout', 'lock_timeout')";
        sqlx::query(settings).execute(&mut *transaction).await.map_err(failed)?;
        let durable = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') IN ('off', 'local')";
        sqlx::query(durable).execute(&mut *transaction).await.map_err(failed)?;
        let (encoding, is_alone): (String, bool) =
            sqlx::query_as("SELECT current_setting('server_encoding'), pg_try_advisory_xact_lock($1)")
                .bind(LOCK)
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed)?;
        if encoding != "UTF8" {
            return Err(MigrateError::Encoding(encoding));
        }
        if !is_alone {
            return Err(MigrateError::Busy("another `sutler migrate` moves something to it".into()));
        }
        Ok(Work { transaction })
    }

    pub(super) async fn close(self) {
        if let Err(e) = self.connection.close().await {
            tracing::debug!("the connection could not be closed: {e}; it is closed with the process");
        }
    }
}

/// The transaction.
pub(super) struct Work<'c> {
    transaction: Transaction<'c, Postgres>,
}

impl Work<'_> {
    async fn run(&mut self, sql: impl Into<String>) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut *self.transaction).await.map(drop).map_err(failed)
    }

    /// What there is; an error if it is neither nothing nor the tables of this version.
    pub(super) async fn state(&mut self) -> Result<State> {
        // What an extension brought along is nobody's data.
        let tables: Vec<(String,)> = sqlx::query_as(
            "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'f') \
             AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
             ORDER BY 1",
        )
        .fetch_all(&mut *self.transaction)
        .await
        .map_err(failed)?;
        let names: BTreeSet<&str> = tables.iter().map(|(name,)| name.as_str()).collect();
        let Some(first) = names.first() else { return Ok(State::New) };
        if ![MIGRATIONS, "sequence", "site"].iter().all(|name| names.contains(name)) {
            return Err(MigrateError::NotEmpty(format!("it has a table {first}, which is not of a manager's")));
        }
        let newest = sqlx::query_as("SELECT max(version) FROM _sqlx_migrations WHERE success");
        let (version,): (Option<i64>,) = newest.fetch_one(&mut *self.transaction).await.map_err(failed)?;
        let expected = postgres::migrator().iter().map(|m| m.version).max().unwrap_or(0);
        if version != Some(expected) {
            let version = version.unwrap_or(0);
            return Err(MigrateError::NotEmpty(format!(
                "it has tables of version {version}, and this program's are of version {expected}"
            )));
        }
        Ok(State::Tables)
    }

    /// Makes the tables as a manager does.
    pub(super) async fn make_tables(&mut self) -> Result<()> {
        let made = postgres::migrator().run_direct(None, &mut *self.transaction, false).await;
        made.map_err(|e| MigrateError::Target(crate::migration_failed(e)))
    }

    /// The tables and their columns.
    pub(super) async fn columns(&mut self) -> Result<Described> {
        let rows: Vec<(String, String, String, bool)> = sqlx::query_as(
            "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull \
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'f') AND a.attnum > 0 AND NOT a.attisdropped \
             AND c.relname <> $1 \
             AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')",
        )
        .bind(MIGRATIONS)
        .fetch_all(&mut *self.transaction)
        .await
        .map_err(failed)?;
        let mut described = Described::new();
        for (table, column, kind, is_required) in rows {
            described.entry(table).or_default().insert(column, Other { kind, is_required });
        }
        Ok(described)
    }

    /// Keeps everybody else out of the tables until the end.
    pub(super) async fn lock(&mut self, tables: &[Table]) -> Result<()> {
        self.run(format!("SET LOCAL lock_timeout = '{}s'", PATIENCE.as_secs())).await?;
        let locked = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", names(tables));
        let locked = sqlx::raw_sql(AssertSqlSafe(locked)).execute(&mut *self.transaction).await;
        locked.map_err(|e| match e.as_database_error().and_then(|e| e.code()).as_deref() {
            Some("55P03") => MigrateError::Busy("its tables are in use".into()),
            _ => failed(e),
        })?;
        self.run("SET LOCAL lock_timeout = 0").await
    }

    /// Whether it is the database of any installation.
    pub(super) async fn has_installation(&mut self) -> Result<bool> {
        let asked = sqlx::query_as("SELECT EXISTS (SELECT 1 FROM site)").fetch_one(&mut *self.transaction).await;
        let (has,): (bool,) = asked.map_err(failed)?;
        Ok(has)
    }

    /// Foreign keys and indexes, with the statements that make them. Primary keys and unique constraints are none of them.
    async fn extras(&mut self) -> Result<Vec<(String, String)>> {
        let keys: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT c.relname::text, k.conname::text, pg_get_constraintdef(k.oid) \
             FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = current_schema() AND k.contype = 'f' ORDER BY 1, 2",
        )
        .fetch_all(&mut *self.transaction)
        .await
        .map_err(failed)?;
        let indexes: Vec<(String, String)> = sqlx::query_as(
            "SELECT x.relname::text, pg_get_indexdef(i.indexrelid) \
             FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = current_schema() AND c.relname <> $1 AND c.relkind IN ('r', 'p') \
             AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
             AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')) ORDER BY 1",
        )
        .bind(MIGRATIONS)
        .fetch_all(&mut *self.transaction)
        .await
        .map_err(failed)?;
        let keys = keys.into_iter().map(|(table, name, definition)| {
            let (table, name) = (quoted(&table), quoted(&name));
            (format!("ALTER TABLE {table} DROP CONSTRAINT {name}"), format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"))
        });
        let indexes = indexes.into_iter().map(|(name, definition)| (format!("DROP INDEX {}", quoted(&name)), definition));
        Ok(keys.chain(indexes).collect())
    }

    /// Takes away what is made of whole tables faster than row by row, and what would ask for an order among them.
    pub(super) async fn put_aside(&mut self) -> Result<Aside> {
        let extras = self.extras().await?;
        for (drop, _) in &extras {
            self.run(drop).await?;
        }
        let before = extras.iter().map(|(_, again)| again.clone()).collect();
        // Indexes first: foreign keys are checked by them.
        Ok(Aside { again: extras.into_iter().rev().map(|(_, again)| again).collect(), before })
    }

    /// Makes it again. Every foreign key is checked by that.
    pub(super) async fn put_back(&mut self, aside: &Aside) -> Result<()> {
        for again in &aside.again {
            self.run(again).await?;
        }
        let after: BTreeSet<String> = self.extras().await?.into_iter().map(|(_, again)| again).collect();
        match aside.before.symmetric_difference(&after).next() {
            Some(other) => Err(MigrateError::Tables(format!("after the copy there is not what there was before: {other}"))),
            None => Ok(()),
        }
    }

    /// Takes out the rows that a new database has.
    pub(super) async fn clear(&mut self, tables: &[Table]) -> Result<()> {
        self.run(format!("TRUNCATE {}", names(tables))).await
    }

    /// Lets columns that number rows by themselves go on where they were, and counts what is there for those who plan queries.
    pub(super) async fn settle(&mut self, tables: &[Table]) -> Result<()> {
        let numbered: Vec<(String, String)> = sqlx::query_as(
            "SELECT c.relname::text, a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = current_schema() AND c.relname = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped \
             AND CASE WHEN a.attidentity <> '' OR a.atthasdef \
             THEN pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname) IS NOT NULL ELSE false END",
        )
        .bind(tables.iter().map(|table| table.name.clone()).collect::<Vec<_>>())
        .fetch_all(&mut *self.transaction)
        .await
        .map_err(failed)?;
        for (table, column) in numbered {
            let sql = format!(
                "SELECT setval(pg_get_serial_sequence($1, $2), greatest(coalesce(max({0}), 1), 1), coalesce(max({0}), 0) > 0) FROM {1}",
                quoted(&column),
                quoted(&table)
            );
            let asked = sqlx::query(AssertSqlSafe(sql)).bind(quoted(&table)).bind(&column);
            asked.execute(&mut *self.transaction).await.map_err(failed)?;
        }
        self.run(format!("ANALYZE {}", names(tables))).await
    }

    /// Begins to write rows of a table.
    pub(super) async fn copy_in(&mut self, table: &Table) -> Result<Rows<'_>> {
        let sql = format!("COPY {} ({}) FROM STDIN (FORMAT binary)", quoted(&table.name), table.columns());
        Ok(Rows(self.transaction.copy_in_raw(&sql).await.map_err(failed)?))
    }

    /// Reads the rows of a table in the order of its primary key, in pieces.
    pub(super) async fn copy_out(&mut self, table: &Table) -> Result<impl Stream<Item = sqlx::Result<impl AsRef<[u8]>>> + Unpin> {
        let key = table.key.iter().map(|at| {
            let column = &table.columns[*at];
            // By its bytes, as SQLite does, whatever the database's own order is.
            let by = if column.holds == Holds::Text { " COLLATE \"C\"" } else { "" };
            format!("{}{by}", quoted(&column.name))
        });
        let sql = format!(
            "COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT (FORMAT binary)",
            table.columns(),
            quoted(&table.name),
            key.collect::<Vec<_>>().join(", ")
        );
        self.transaction.copy_out_raw(&sql).await.map_err(failed)
    }

    pub(super) async fn commit(self) -> Result<()> {
        self.transaction.commit().await.map_err(|e| MigrateError::Unsure(postgres::classify(e).error))
    }
}

/// Rows on their way into a table.
pub(super) struct Rows<'c>(PgCopyIn<&'c mut PgConnection>);

impl Rows<'_> {
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.send(bytes).await.map(drop).map_err(failed)
    }

    pub(super) async fn finish(self) -> Result<u64> {
        self.0.finish().await.map_err(failed)
    }
}

fn names(tables: &[Table]) -> String {
    tables.iter().map(|table| quoted(&table.name)).collect::<Vec<_>>().join(", ")
}
