//! What the manager's database holds, read beside the running manager: to see that a refused call changed nothing.

use super::manager::Manager;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use std::collections::BTreeMap;

/// What changes although nobody asked for a change: who was seen when, and what is written about refusals.
const RESTLESS: [&str; 3] = ["client_seen", "sequence", "audit"];

/// Every row of every table that only changes when somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows(BTreeMap<String, Vec<String>>);

/// The database of one manager, opened for reading.
#[derive(Debug)]
pub struct Reader {
    runtime: tokio::runtime::Runtime,
    pool: SqlitePool,
}

impl Reader {
    /// Opens the database of a manager that is set up.
    ///
    /// # Panics
    ///
    /// When it can't be read.
    pub fn open(manager: &Manager) -> Reader {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let options = SqliteConnectOptions::new().filename(manager.folder().join("manager.db")).read_only(true);
        let pool = runtime.block_on(SqlitePool::connect_with(options)).expect("the database can be opened");
        Reader { runtime, pool }
    }

    /// What it holds now.
    ///
    /// # Panics
    ///
    /// When it can't be read.
    pub fn rows(&self) -> Rows {
        self.runtime.block_on(async {
            let mut tables = BTreeMap::new();
            let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '_sqlx%'";
            for name in self.texts(names.into()).await {
                if RESTLESS.iter().any(|restless| name.starts_with(restless)) {
                    continue;
                }
                let columns = self.texts(format!("SELECT name FROM pragma_table_info('{name}')")).await;
                let all: Vec<String> = columns.iter().map(|column| format!("quote(\"{column}\")")).collect();
                let rows = self.texts(format!("SELECT {} AS row FROM \"{name}\" ORDER BY row", all.join(" || '|' || "))).await;
                tables.insert(name, rows);
            }
            Rows(tables)
        })
    }

    async fn texts(&self, sql: String) -> Vec<String> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&self.pool).await.expect("the database can be read");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

impl Rows {
    /// The length of the longest row (bytes).
    pub fn longest(&self) -> usize {
        self.0.values().flatten().map(String::len).max().unwrap_or_default()
    }

    /// The tables in which `self` and `other` differ, with the rows that only one of them has; none, if there is none.
    pub fn difference(&self, other: &Rows) -> Option<String> {
        let only = |a: &[String], b: &[String]| a.iter().filter(|row| !b.contains(row)).cloned().collect::<Vec<_>>();
        let tables: Vec<String> = self
            .0
            .iter()
            .filter_map(|(name, rows)| {
                let others = other.0.get(name)?;
                (rows != others).then(|| format!("{name}: gone {:?}, new {:?}", only(rows, others), only(others, rows)))
            })
            .collect();
        (!tables.is_empty()).then(|| tables.join("\n"))
    }
}
