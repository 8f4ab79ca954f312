//! What a database alone takes for rows that a manager wrote: the limit for what the manager does to get them there.

use crate::harness::cleanup::Place;
use sqlx::{
    AssertSqlSafe, Connection as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

/// Rows of a statement.
const ROWS: usize = 100;

/// How many rows each table of a database has.
pub(super) type Counts = BTreeMap<String, usize>;

/// Rows that a database gained, to be written once more elsewhere.
pub(super) struct Gained {
    /// How many each table gained.
    pub(super) counts: Counts,
    schema: Vec<String>,
    statements: Vec<String>,
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made").block_on(future)
}

async fn open(database: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    SqliteConnection::connect_with(&options).await.expect("the database can be opened")
}

async fn texts(connection: &mut SqliteConnection, sql: String) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.expect("the database can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn counts(connection: &mut SqliteConnection) -> Counts {
    let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '_sqlx%'";
    let mut counts = Counts::new();
    for name in texts(connection, names.into()).await {
        let count = texts(connection, format!("SELECT CAST(count(*) AS TEXT) FROM \"{name}\"")).await;
        counts.insert(name, count[0].parse().expect("it is a number"));
    }
    counts
}

/// How many rows each table has now.
pub(super) fn rows(database: &Path) -> Counts {
    block_on(async { counts(&mut open(database).await).await })
}

/// What a database gained since it had so many rows: as many of its rows as each table has more, the newest where they have an order.
pub(super) fn gained(database: &Path, before: &Counts) -> Gained {
    block_on(async {
        let mut connection = open(database).await;
        let now = counts(&mut connection).await;
        let more = now.into_iter().map(|(name, count)| (name.clone(), count.saturating_sub(before.get(&name).copied().unwrap_or(0))));
        let counts: Counts = more.filter(|(_, count)| *count > 0).collect();
        let mut statements = Vec::new();
        for (name, count) in &counts {
            let columns = texts(&mut connection, format!("SELECT name FROM pragma_table_info('{name}')")).await;
            let values: Vec<String> = columns.iter().map(|column| format!("quote(\"{column}\")")).collect();
            let sql = texts(&mut connection, format!("SELECT sql FROM sqlite_master WHERE name = '{name}'")).await;
            let order = if sql[0].contains("WITHOUT ROWID") { "" } else { "ORDER BY rowid DESC" };
            let rows = format!("SELECT '(' || {} || ')' FROM \"{name}\" {order} LIMIT {count}", values.join(" || ',' || "));
            let rows = texts(&mut connection, rows).await;
            statements.extend(rows.chunks(ROWS).map(|some| format!("INSERT INTO \"{name}\" VALUES {}", some.join(","))));
        }
        // No triggers: they are rules, and what is written here was allowed already.
        let schema = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND type IN ('table', 'index') AND name NOT LIKE 'sqlite_%'
            ORDER BY type DESC";
        let schema = texts(&mut connection, schema.into()).await;
        Gained { counts, schema, statements }
    })
}

impl Gained {
    /// Writes the rows into an empty database with the same tables and indexes, a hundred a statement, each statement durable
    /// before the next one as the manager's commits are: how long that takes.
    pub(super) fn insert(&self) -> Duration {
        let place = Place::new("replay");
        block_on(async {
            let options = SqliteConnectOptions::new()
                .filename(place.path().join("database"))
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(false);
            let mut connection = SqliteConnection::connect_with(&options).await.expect("a database can be made");
            for sql in &self.schema {
                sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut connection).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
            // Apart from each other, so that no statement waits for its text.
            let statements = self.statements.clone();
            let begin = Instant::now();
            let mut written = 0;
            for sql in statements {
                let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("the rows are new there");
                written += done.rows_affected() as usize;
            }
            let took = begin.elapsed();
            assert_eq!(written, self.counts.values().sum::<usize>(), "every row was written");
            took
        })
    }
}
