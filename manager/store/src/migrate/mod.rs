//! Moves what an SQLite database holds into an empty PostgreSQL database, and compares every row of both before it counts.
//!
//! The tables and columns are those that the databases themselves say they have, so that a new one can't be forgotten: if the
//! two differ, nothing is moved. **One transaction** of PostgreSQL makes the tables, takes every row and reads all of them
//! back; it is committed when nothing differs. Whatever ends it before leaves the database as it was, and as its tables are
//! locked meanwhile, nobody writes between the copy and the check. The source is one committed state, and is not written.
//!
//! Rows travel as PostgreSQL's binary `COPY` has them, one buffer of them at a time: the same bytes that the source's rows
//! come to are expected back, in the order of the primary key. Indexes and foreign keys are made of the whole, which is
//! faster than row by row, needs no order of tables, and checks each of them.

mod rows;
mod source;
mod target;

use crate::StoreError;
use std::path::Path;

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The source can't be read.
    #[error("the SQLite database: {0}")]
    Source(#[source] StoreError),
    /// The target can't be reached, or refused a statement.
    #[error("the PostgreSQL database: {0}; nothing was kept in it")]
    Target(#[source] StoreError),
    /// The target did not say whether it has committed.
    #[error(
        "the PostgreSQL database did not say whether it kept what was moved ({0}): try the same again, which finds out and changes nothing twice"
    )]
    Unsure(#[source] StoreError),
    /// The source is damaged.
    #[error("the SQLite database is damaged ({0}): restore it from a backup, then move that")]
    Damaged(String),
    /// The source's tables are not those of this program.
    #[error(
        "the tables of the SQLite database are of version {found}, and this program's of version {expected}: let this program serve it once \
         (`sutler serve`), then move it"
    )]
    SourceVersion {
        /// Its version; 0 if it has no tables.
        found: i64,
        /// The program's.
        expected: i64,
    },
    /// The target holds something.
    #[error("the PostgreSQL database is not empty: {0}. Name an empty one, made with CREATE DATABASE; nothing of this one was changed")]
    NotEmpty(String),
    /// Somebody else uses the target.
    #[error("somebody else uses the PostgreSQL database ({0}): end that, or name another one")]
    Busy(String),
    /// The target can't hold every text.
    #[error(
        "the PostgreSQL database has the encoding {0}, which can't hold every text: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding(String),
    /// The two have other tables, or other columns: a bug.
    #[error(
        "the two databases do not have the same tables, so that something would be lost: {0}. This is a mistake of this program; nothing was changed"
    )]
    Tables(String),
    /// A value that PostgreSQL has no place for.
    #[error(
        "the row {key} of the table {table} can't be moved: {why}. Change it while the manager serves from SQLite, then try again; nothing was changed"
    )]
    Value {
        /// The table.
        table: String,
        /// The row's primary key.
        key: String,
        /// Which column holds what.
        why: String,
    },
    /// What was read back is not what was written.
    #[error("the new database is not the same as the old one: in the table {table} {difference}. Nothing of it was kept")]
    Differs {
        /// The table.
        table: String,
        /// The first difference.
        difference: String,
    },
}

type Result<T> = std::result::Result<T, MigrateError>;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The source is looked at for damage, which reads all of it.
    Examine,
    /// Rows are written.
    Copy,
    /// Indexes and foreign keys are made of them.
    Index,
    /// They are read back.
    Check,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub phase: Phase,
    /// With which table.
    pub table: &'a str,
    /// How many rows of all tables this was done with.
    pub done: u64,
    /// How many there are.
    pub total: u64,
}

/// Called every now and then.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress<'_>);

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Each table with how many rows were compared and are equal.
    pub tables: Vec<(String, u64)>,
    /// Whether the target held all of it already: an earlier run was ended after it had committed.
    pub was_there: bool,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// BOOLEAN; in SQLite an INTEGER that is 0 or 1.
    Flag,
    /// BIGINT.
    Number,
    /// TEXT.
    Text,
    /// BYTEA; in SQLite a BLOB.
    Bytes,
}

/// A column as both databases have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    holds: Holds,
}

/// A table as both databases have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    name: String,
    columns: Vec<Column>,
    /// The columns of the primary key, in its order.
    key: Vec<usize>,
    /// How many rows the source has.
    rows: u64,
}

impl Table {
    /// The columns, for a statement.
    fn columns(&self) -> String {
        self.columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
    }
}

/// A name in a statement of either database.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// How often somebody is told how far it is (rows).
const TELL: u64 = 5000;

/// Counts rows of all tables and tells of them.
struct Counter<'a, 'f> {
    phase: Phase,
    done: u64,
    total: u64,
    tell: &'a mut OnProgress<'f>,
}

impl Counter<'_, '_> {
    fn begin(&mut self, table: &str) {
        (self.tell)(Progress { phase: self.phase, table, done: self.done, total: self.total });
    }

    fn row(&mut self, table: &str) {
        self.done += 1;
        if self.done.is_multiple_of(TELL) {
            self.begin(table);
        }
    }
}

/// Moves what the SQLite database in the file `source` holds, as one committed state, into the PostgreSQL database at `target`,
/// whose address is as [`Store::open`](crate::Store::open) takes it. `Ok` means that everything is committed there and was read
/// back equal; after an `Err` the target is as it was.
///
/// The target has to be empty: without tables, or with those of this version and nothing in them but what a new database has.
/// One that holds exactly what the source holds is what an earlier run left whose end nobody heard of: it is compared, and that is all.
///
/// Nobody may write to the source meanwhile, or that is not in the target: the caller sees to it.
pub async fn migrate(source: &Path, target: &str, mut tell: OnProgress<'_>) -> Result<Migrated> {
    let mut source = source::Source::open(source).await?;
    tell(Progress { phase: Phase::Examine, table: "", done: 0, total: 0 });
    source.examine().await?;
    let mut target = target::Target::connect(target).await?;
    let mut work = target.begin().await?;
    let (tables, was_there) = match work.state().await? {
        target::State::New => {
            work.make_tables().await?;
            let tables = source.tables(&work.columns().await?).await?;
            copy(&mut source, &mut work, &tables, &mut tell).await?;
            (tables, false)
        }
        target::State::Tables => {
            let tables = source.tables(&work.columns().await?).await?;
            work.lock(&tables).await?;
            if work.has_installation().await? {
                (tables, true)
            } else {
                refuse_rows(&mut work, &tables).await?;
                copy(&mut source, &mut work, &tables, &mut tell).await?;
                (tables, false)
            }
        }
    };
    let total = tables.iter().map(|table| table.rows).sum();
    let mut counter = Counter { phase: Phase::Check, done: 0, total, tell: &mut tell };
    for table in &tables {
        counter.begin(&table.name);
        match rows::compare(&mut source, &mut work, table, &mut |name| counter.row(name)).await? {
            None => {}
            Some(difference) if was_there => {
                return Err(MigrateError::NotEmpty(format!(
                    "it holds an installation that is not, or no longer, the one that is to be moved (in the table {} {difference})",
                    table.name
                )));
            }
            Some(difference) => return Err(MigrateError::Differs { table: table.name.clone(), difference }),
        }
    }
    work.commit().await?;
    target.close().await;
    source.close().await;
    Ok(Migrated { tables: tables.into_iter().map(|table| (table.name, table.rows)).collect(), was_there })
}

/// Writes every row, then makes what was put aside.
async fn copy(source: &mut source::Source, work: &mut target::Work<'_>, tables: &[Table], tell: &mut OnProgress<'_>) -> Result<()> {
    let total = tables.iter().map(|table| table.rows).sum();
    let aside = work.put_aside().await?;
    work.clear(tables).await?;
    let mut counter = Counter { phase: Phase::Copy, done: 0, total, tell };
    for table in tables {
        counter.begin(&table.name);
        let written = rows::copy(source, work, table, &mut |name| counter.row(name)).await?;
        if written != table.rows {
            return Err(MigrateError::Damaged(format!("its table {} has {written} rows and says {}", table.name, table.rows)));
        }
    }
    counter.phase = Phase::Index;
    counter.begin("");
    work.put_back(&aside).await?;
    work.settle(tables).await
}

/// Refuses a target whose tables hold more than those of a new database.
async fn refuse_rows(work: &mut target::Work<'_>, tables: &[Table]) -> Result<()> {
    let mut new = source::Source::new_database().await?;
    for table in tables {
        if rows::compare(&mut new, work, table, &mut |_| {}).await?.is_some() {
            return Err(MigrateError::NotEmpty(format!("its table {} has rows", table.name)));
        }
    }
    new.close().await;
    Ok(())
}
