//! One unit of work on a connection that is inside a transaction: runs statements, reads rows, numbers changes.

use super::{Connection, Db, Row, classify};
use crate::{StoreError, Tx, chain::Chain, failure::Failure};
use serde::de::DeserializeOwned;
use sqlx::{Row as _, SqlSafeStr, SqlStr};
use std::str::FromStr;
use sutler_base::{Digest, Timestamp};
use sutler_core::audit::ChainEnd;

pub(super) type Result<T> = std::result::Result<T, StoreError>;
pub(super) type Query = sqlx::query::Query<'static, Db, <Db as sqlx::Database>::Arguments>;

/// How many rows may share one number of the change sequence: a reader of changes gets all rows of a number at once.
const ROWS_PER_CHANGE: usize = 1000;

/// What a unit may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Look at one state of the database.
    Read,
    /// Change it.
    Write,
}

/// A number of the change sequence that this unit has taken.
struct Change {
    number: i64,
    rows: usize,
    audited: bool,
    told: bool,
}

/// One unit of work.
///
/// After a statement failed nothing else is tried and the unit can't be committed, whatever its closure makes of the
/// error: so it is on PostgreSQL, and so it is here for both.
pub(crate) struct Unit<'c> {
    connection: &'c mut Connection,
    access: Access,
    change: Option<Change>,
    chain: Chain,
    failure: Option<Failure>,
}

impl Tx for Unit<'_> {}

impl<'c> Unit<'c> {
    pub(crate) fn new(connection: &'c mut Connection, access: Access, chain: Chain) -> Self {
        Unit { connection, access, change: None, chain, failure: None }
    }

    /// The end of this process' chain of the audit log after this unit, and what went wrong, if anything did.
    pub(crate) fn into_parts(self) -> (Chain, Option<Failure>) {
        (self.chain, self.failure)
    }

    /// What went wrong, if anything did.
    pub(crate) fn into_failure(self) -> Option<Failure> {
        self.failure
    }

    /// What the next entry of the audit log follows; asked for when the unit has its number of the change sequence.
    pub(super) async fn chain_end(&mut self) -> Option<ChainEnd> {
        self.chain.end().await
    }

    /// What the entry after the one that was written follows, if this unit is kept.
    pub(super) fn set_chain_end(&mut self, end: ChainEnd) {
        self.chain.set(end);
    }

    fn fail(&mut self, error: sqlx::Error) -> StoreError {
        let failure = classify(error);
        let error = failure.error.clone();
        self.failure = Some(failure);
        error
    }

    /// Makes the unit one that can't be committed, and says why.
    pub(super) fn refuse(&mut self, why: String) -> StoreError {
        let error = StoreError::Statement(why);
        self.failure = Some(Failure::of(error.clone()));
        error
    }

    /// The same, because a row is not what the unit had read it as: where others write at the same time, the unit runs again.
    pub(super) fn outrun(&mut self, why: String) -> StoreError {
        let error = StoreError::Statement(why);
        self.failure = Some(Failure { error: error.clone(), remedy: super::OUTRUN });
        error
    }

    /// The statement with the word that locks its rows, where the database has one and the unit may change rows.
    pub(super) fn lock(&self, sql: &'static str) -> SqlStr {
        match self.access {
            Access::Write => super::lock(sql),
            Access::Read => sql.into_sql_str(),
        }
    }

    pub(super) async fn rows(&mut self, query: Query) -> Result<Vec<Row>> {
        if let Some(failure) = &self.failure {
            return Err(failure.error.clone());
        }
        super::answered(query.fetch_all(&mut *self.connection)).await.map_err(|e| self.fail(e))
    }

    pub(super) async fn row(&mut self, query: Query) -> Result<Option<Row>> {
        Ok(self.rows(query).await?.into_iter().next())
    }

    /// Runs a statement; gives back how many rows it changed.
    pub(super) async fn run(&mut self, query: Query) -> Result<u64> {
        if let Some(failure) = &self.failure {
            return Err(failure.error.clone());
        }
        super::answered(query.execute(&mut *self.connection)).await.map(|done| done.rows_affected()).map_err(|e| self.fail(e))
    }

    /// Runs an `INSERT … ON CONFLICT DO NOTHING` of one row.
    pub(super) async fn insert(&mut self, what: &'static str, query: Query) -> Result<()> {
        if self.run(query).await? == 0 { Err(StoreError::Exists(what)) } else { Ok(()) }
    }

    /// Runs an `UPDATE` of one row that the unit has read.
    pub(super) async fn save(&mut self, what: &str, id: &str, query: Query) -> Result<()> {
        if self.run(query).await? == 0 { Err(self.refuse(format!("there is no {what} {id} to write"))) } else { Ok(()) }
    }

    /// Each row as `read` reads it.
    pub(super) async fn list<T>(
        &mut self,
        table: &'static str,
        query: Query,
        read: impl Fn(&mut Columns<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.rows(query).await?.iter().map(|row| read(&mut Columns::new(row, table))).collect()
    }

    /// The one row as `read` reads it.
    pub(super) async fn one<T>(
        &mut self,
        table: &'static str,
        query: Query,
        read: impl Fn(&mut Columns<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.row(query).await?.as_ref().map(|row| read(&mut Columns::new(row, table))).transpose()
    }

    async fn next_change(&mut self) -> Result<&mut Change> {
        let row = self.row(query!(super::NEXT_CHANGE)).await?;
        let row = row.ok_or_else(|| StoreError::Corrupt("the table sequence has no row for change".into()))?;
        let number = Columns::new(&row, "sequence").int()?;
        Ok(self.change.insert(Change { number, rows: 0, audited: false, told: false }))
    }

    /// The number of the change sequence for `rows` rows that are about to be written.
    ///
    /// A unit takes a number when it first writes; the row that holds it stays locked until the unit ends, so that the
    /// order of numbers is the order of commits. Rows of one unit share a number, but not more than
    /// [`ROWS_PER_CHANGE`] unless one statement writes more.
    pub(super) async fn change(&mut self, rows: usize) -> Result<i64> {
        let change = match &mut self.change {
            Some(change) if change.rows + rows <= ROWS_PER_CHANGE => self.change.as_mut(),
            _ => None,
        };
        let change = match change {
            Some(change) => change,
            None => self.next_change().await?,
        };
        change.rows += rows;
        Ok(change.number)
    }

    /// A number of the change sequence that no other entry of the audit log has.
    pub(super) async fn audit_number(&mut self) -> Result<i64> {
        if self.change.as_ref().is_none_or(|change| change.audited) {
            self.next_change().await?;
        }
        let change = self.change.as_mut().expect("a number was taken");
        change.audited = true;
        Ok(change.number)
    }

    /// A number of the change sequence that no other event has.
    pub(super) async fn event_number(&mut self) -> Result<i64> {
        if self.change.as_ref().is_none_or(|change| change.told) {
            self.next_change().await?;
        }
        let change = self.change.as_mut().expect("a number was taken");
        change.told = true;
        Ok(change.number)
    }
}

/// The columns of a row, read one after the other in the order of the `SELECT`.
pub(super) struct Columns<'r> {
    row: &'r Row,
    table: &'static str,
    at: usize,
}

impl<'r> Columns<'r> {
    pub(super) fn new(row: &'r Row, table: &'static str) -> Self {
        Columns { row, table, at: 0 }
    }

    fn corrupt(&self, at: usize, why: impl std::fmt::Display) -> StoreError {
        let column = self.row.try_column(at).map(|c| sqlx::Column::name(c).to_owned()).unwrap_or_else(|_| at.to_string());
        StoreError::Corrupt(format!("table {}, column {column}: {why}", self.table))
    }

    /// The column that was read last holds a word that nobody wrote.
    pub(super) fn unknown(&self, word: &str) -> StoreError {
        self.corrupt(self.at - 1, format!("the word {} is not known", sutler_base::quoted(word)))
    }

    fn next<T: sqlx::Decode<'r, Db> + sqlx::Type<Db>>(&mut self) -> Result<T> {
        let at = self.at;
        self.at += 1;
        self.row.try_get::<T, usize>(at).map_err(|e| self.corrupt(at, e))
    }

    pub(super) fn int(&mut self) -> Result<i64> {
        self.next()
    }

    pub(super) fn opt_int(&mut self) -> Result<Option<i64>> {
        self.next()
    }

    pub(super) fn flag(&mut self) -> Result<bool> {
        self.next()
    }

    pub(super) fn text(&mut self) -> Result<String> {
        self.next()
    }

    pub(super) fn opt_text(&mut self) -> Result<Option<String>> {
        self.next()
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>> {
        self.next()
    }

    /// A whole number of another type.
    pub(super) fn number<T: TryFrom<i64>>(&mut self) -> Result<T> {
        let value = self.int()?;
        T::try_from(value).map_err(|_| self.corrupt(self.at - 1, format!("{value} is out of range")))
    }

    pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T> {
        let text: &str = self.next()?;
        text.parse().map_err(|e| self.corrupt(self.at - 1, e))
    }

    pub(super) fn opt_parse<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<T>> {
        let text: Option<&str> = self.next()?;
        text.map(|text| text.parse().map_err(|e| self.corrupt(self.at - 1, e))).transpose()
    }

    /// A word, or nothing where the text is empty.
    pub(super) fn word<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<T>> {
        let text: &str = self.next()?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|e| self.corrupt(self.at - 1, e)) }
    }

    pub(super) fn time(&mut self) -> Result<Timestamp> {
        let value = self.int()?;
        Timestamp::from_millisecond(value).map_err(|e| self.corrupt(self.at - 1, e))
    }

    pub(super) fn opt_time(&mut self) -> Result<Option<Timestamp>> {
        let value: Option<i64> = self.next()?;
        value.map(|value| Timestamp::from_millisecond(value).map_err(|e| self.corrupt(self.at - 1, e))).transpose()
    }

    pub(super) fn key(&mut self) -> Result<[u8; 32]> {
        let bytes: &[u8] = self.next()?;
        bytes.try_into().map_err(|_| self.corrupt(self.at - 1, format!("{} bytes instead of 32", bytes.len())))
    }

    pub(super) fn digest(&mut self) -> Result<Digest> {
        self.key().map(Digest)
    }

    pub(super) fn opt_digest(&mut self) -> Result<Option<Digest>> {
        let bytes: Option<&[u8]> = self.next()?;
        bytes.map(|bytes| Digest::try_from(bytes).map_err(|e| self.corrupt(self.at - 1, e))).transpose()
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let text: &str = self.next()?;
        serde_json::from_str(text).map_err(|e| self.corrupt(self.at - 1, e))
    }
}
