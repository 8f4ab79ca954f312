//! Rows as PostgreSQL's binary `COPY` has them: written, read back, and compared.
//!
//! A row is the number of its fields, and for each its length (−1 for NULL) and its bytes. Before the rows come a signature, flags
//! and an extension; after them −1.

use super::{Holds, MigrateError, Result, Table, source::Source, target::Work};
use crate::{StoreError, sqlite};
use futures_util::{Stream, StreamExt as _};
use sqlx::{Row as _, sqlite::SqliteRow};
use std::cmp::Ordering;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// How many bytes of rows are sent at once.
const BATCH: usize = 256 << 10;
/// The longest key in a sentence (bytes of each column).
const SHOWN: usize = 80;

/// Writes every row of a table; gives back how many.
pub(super) async fn copy(source: &mut Source, work: &mut Work<'_>, table: &Table, row: &mut dyn FnMut(&str)) -> Result<u64> {
    let mut rows = source.rows(table, false);
    let mut copy = work.copy_in(table).await?;
    let mut batch = Vec::with_capacity(BATCH + BATCH / 4);
    batch.extend_from_slice(SIGNATURE);
    batch.extend_from_slice(&[0; 8]);
    let mut written = 0;
    while let Some(next) = rows.next().await {
        let next = next.map_err(|e| MigrateError::Source(sqlite::classify(e).error))?;
        encode(table, &next, &mut batch)?;
        written += 1;
        row(&table.name);
        if batch.len() >= BATCH {
            copy.send(&batch).await?;
            batch.clear();
        }
    }
    batch.extend_from_slice(&(-1_i16).to_be_bytes());
    copy.send(&batch).await?;
    copy.finish().await?;
    Ok(written)
}

/// Compares every row of a table in the order of its primary key; the first difference in words.
pub(super) async fn compare(source: &mut Source, work: &mut Work<'_>, table: &Table, row: &mut dyn FnMut(&str)) -> Result<Option<String>> {
    let mut rows = source.rows(table, true);
    let mut tuples = Tuples::new(work.copy_out(table).await?);
    let mut expected = Vec::new();
    loop {
        let next = rows.next().await.transpose().map_err(|e| MigrateError::Source(sqlite::classify(e).error))?;
        let has_expected = next.is_some();
        if let Some(next) = next {
            expected.clear();
            encode(table, &next, &mut expected)?;
            row(&table.name);
        }
        let found = tuples.next().await?;
        match (has_expected, found) {
            (false, None) => return Ok(None),
            (true, Some(found)) if found == expected.as_slice() => {}
            (true, Some(found)) => {
                return match order(table, &expected, found) {
                    Ordering::Less => Ok(Some(format!("the row {} is missing", key(table, &expected)))),
                    Ordering::Greater => Ok(Some(format!("there is a row {} too much", key(table, found)))),
                    Ordering::Equal => {
                        let columns: Vec<&str> = table
                            .columns
                            .iter()
                            .zip(fields(&expected).zip(fields(found)))
                            .filter_map(|(column, (expected, found))| (expected != found).then_some(column.name.as_str()))
                            .collect();
                        Ok(Some(format!("the row {} is another in {}", key(table, found), columns.join(", "))))
                    }
                };
            }
            (true, None) => return Ok(Some(format!("the row {} is missing", key(table, &expected)))),
            (false, Some(found)) => return Ok(Some(format!("there is a row {} too much", key(table, found)))),
        }
    }
}

/// Appends a row of the source.
fn encode(table: &Table, row: &SqliteRow, out: &mut Vec<u8>) -> Result<()> {
    let refused = |at: usize, why: String| MigrateError::Value {
        table: table.name.clone(),
        key: key_of(table, row),
        why: format!("{} {why}", table.columns[at].name),
    };
    // No table has that many columns.
    let count = i16::try_from(table.columns.len()).unwrap_or(i16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    for (at, column) in table.columns.iter().enumerate() {
        let unreadable = |e: sqlx::Error| refused(at, format!("can't be read ({e})"));
        match column.holds {
            Holds::Number => field(out, row.try_get::<Option<i64>, _>(at).map_err(unreadable)?.map(i64::to_be_bytes).as_ref()),
            Holds::Flag => match row.try_get::<Option<i64>, _>(at).map_err(unreadable)? {
                None => field(out, None::<&[u8]>),
                Some(flag @ (0 | 1)) => field(out, Some(&[flag as u8])),
                Some(other) => return Err(refused(at, format!("is {other}, which is neither 0 nor 1"))),
            },
            Holds::Text => match row.try_get::<Option<&str>, _>(at).map_err(unreadable)? {
                Some(text) if text.contains('\0') => {
                    return Err(refused(at, "has a NUL character in it, for which PostgreSQL has no place".into()));
                }
                text => field(out, text),
            },
            Holds::Bytes => field(out, row.try_get::<Option<&[u8]>, _>(at).map_err(unreadable)?),
        }
    }
    Ok(())
}

/// Appends a field. Databases hold none that is longer than 2^31.
fn field<B: AsRef<[u8]> + ?Sized>(out: &mut Vec<u8>, value: Option<&B>) {
    match value.map(AsRef::as_ref) {
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&i32::try_from(bytes.len()).unwrap_or(i32::MAX).to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

/// The fields of an encoded row.
fn fields(row: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = row.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                rest = after;
                Some(None)
            }
            Ok(length) => {
                let (field, after) = after.split_at_checked(length)?;
                rest = after;
                Some(Some(field))
            }
        }
    })
}

/// Which of two encoded rows comes first in the order of the primary key.
fn order(table: &Table, one: &[u8], other: &[u8]) -> Ordering {
    let (one, other): (Vec<_>, Vec<_>) = (fields(one).collect(), fields(other).collect());
    for at in &table.key {
        let (one, other) = (one.get(*at).copied().flatten(), other.get(*at).copied().flatten());
        let ordering = match table.columns[*at].holds {
            Holds::Number => number(one).cmp(&number(other)),
            Holds::Flag | Holds::Text | Holds::Bytes => one.cmp(&other),
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    Ordering::Equal
}

fn number(field: Option<&[u8]>) -> Option<i64> {
    field.and_then(|field| field.try_into().ok()).map(i64::from_be_bytes)
}

/// The primary key of an encoded row, for a sentence.
fn key(table: &Table, row: &[u8]) -> String {
    let all: Vec<_> = fields(row).collect();
    let shown = table.key.iter().map(|at| {
        let Some(field) = all.get(*at).copied().flatten() else { return "NULL".into() };
        match table.columns[*at].holds {
            Holds::Number => number(Some(field)).unwrap_or_default().to_string(),
            Holds::Flag => (field != [0]).to_string(),
            Holds::Text => cut(&String::from_utf8_lossy(field)),
            Holds::Bytes => cut(&crate::bind::hex(field)),
        }
    });
    shown.collect::<Vec<_>>().join("/")
}

/// The primary key of a row of the source that may not be encoded.
fn key_of(table: &Table, row: &SqliteRow) -> String {
    let shown = table.key.iter().map(|at| match table.columns[*at].holds {
        Holds::Number | Holds::Flag => row.try_get::<Option<i64>, _>(*at).ok().flatten().map(|number| number.to_string()),
        Holds::Text => row.try_get::<Option<&str>, _>(*at).ok().flatten().map(cut),
        Holds::Bytes => row.try_get::<Option<&[u8]>, _>(*at).ok().flatten().map(|bytes| cut(&crate::bind::hex(bytes))),
    });
    shown.map(|part| part.unwrap_or_else(|| "?".into())).collect::<Vec<_>>().join("/")
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Takes rows apart that come in pieces of any length.
struct Tuples<S> {
    pieces: S,
    buffer: Vec<u8>,
    /// Where in the buffer the next row begins.
    at: usize,
    is_begun: bool,
}

impl<S: Stream<Item = sqlx::Result<B>> + Unpin, B: AsRef<[u8]>> Tuples<S> {
    fn new(pieces: S) -> Self {
        Tuples { pieces, buffer: Vec::with_capacity(BATCH), at: 0, is_begun: false }
    }

    /// The next row; none at the end.
    async fn next(&mut self) -> Result<Option<&[u8]>> {
        // Not with each row: what is left over would be moved each time.
        if self.at >= BATCH {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        if !self.is_begun {
            self.need(19).await?;
            let extension = u32::from_be_bytes(self.four(15));
            if !self.buffer.starts_with(SIGNATURE) {
                return Err(odd("it does not begin with the signature of a binary COPY"));
            }
            let begin = 19 + extension as usize;
            self.need(begin).await?;
            (self.at, self.is_begun) = (begin, true);
        }
        let begin = self.at;
        let mut end = begin + 2;
        self.need(end).await?;
        let count = i16::from_be_bytes([self.buffer[begin], self.buffer[begin + 1]]);
        if count == -1 {
            // To its end, or the connection can't be used for anything else.
            while let Some(piece) = self.pieces.next().await {
                piece.map_err(target)?;
            }
            return Ok(None);
        }
        for _ in 0..count {
            self.need(end + 4).await?;
            let length = i32::from_be_bytes(self.four(end));
            end += 4 + usize::try_from(length).unwrap_or(0);
            self.need(end).await?;
        }
        self.at = end;
        Ok(Some(&self.buffer[begin..end]))
    }

    /// Reads on until there are so many bytes in the buffer.
    async fn need(&mut self, bytes: usize) -> Result<()> {
        while self.buffer.len() < bytes {
            match self.pieces.next().await {
                Some(piece) => self.buffer.extend_from_slice(piece.map_err(target)?.as_ref()),
                None => return Err(odd("its answer ended in the middle of a row")),
            }
        }
        Ok(())
    }

    fn four(&self, at: usize) -> [u8; 4] {
        self.buffer[at..at + 4].try_into().unwrap_or_default()
    }
}

fn target(error: sqlx::Error) -> MigrateError {
    MigrateError::Target(crate::postgres::classify(error).error)
}

fn odd(what: &str) -> MigrateError {
    MigrateError::Target(StoreError::Unavailable(what.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::Column;
    use futures_util::stream;

    fn table(holds: &[Holds]) -> Table {
        let columns = holds.iter().enumerate().map(|(n, holds)| Column { name: format!("c{n}"), holds: *holds }).collect();
        Table { name: "t".into(), columns, key: vec![0], rows: 0 }
    }

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut row = (values.len() as i16).to_be_bytes().to_vec();
        values.iter().for_each(|value| field(&mut row, *value));
        row
    }

    #[tokio::test]
    async fn rows_are_found_however_they_are_cut_into_pieces() {
        let rows = [row(&[Some(b"one"), None]), row(&[Some(b""), Some(&[7; 300])]), row(&[])];
        let mut all = [SIGNATURE.as_slice(), &[0; 4], &3_u32.to_be_bytes(), b"abc"].concat();
        rows.iter().for_each(|row| all.extend_from_slice(row));
        all.extend_from_slice(&(-1_i16).to_be_bytes());
        for size in 1..all.len() {
            let mut tuples = Tuples::new(stream::iter(all.chunks(size).map(Ok::<_, sqlx::Error>)));
            for row in &rows {
                assert_eq!(tuples.next().await.unwrap(), Some(row.as_slice()), "{size}");
            }
            assert_eq!(tuples.next().await.unwrap(), None, "{size}");
        }
        let mut tuples = Tuples::new(stream::iter(all[..all.len() - 1].chunks(9).map(Ok::<_, sqlx::Error>)));
        while let Ok(row) = tuples.next().await {
            assert!(row.is_some(), "what was cut off is no end");
        }
    }

    #[test]
    fn rows_are_in_the_order_of_their_keys() {
        let numbers = table(&[Holds::Number]);
        let number = |n: i64| row(&[Some(&n.to_be_bytes())]);
        assert_eq!(order(&numbers, &number(-1), &number(1)), Ordering::Less);
        assert_eq!(order(&numbers, &number(i64::MAX), &number(i64::MIN)), Ordering::Greater);
        assert_eq!(key(&numbers, &number(-5)), "-5");
        let mut texts = table(&[Holds::Text, Holds::Bytes]);
        texts.key = vec![1, 0];
        let (one, other) = (row(&[Some(b"b"), Some(&[1])]), row(&[Some(b"a"), Some(&[2])]));
        assert_eq!(order(&texts, &one, &other), Ordering::Less, "the key's order counts, not the columns'");
        assert_eq!(order(&texts, &one, &one), Ordering::Equal);
        assert_eq!(key(&texts, &other), "02/a");
    }
}
