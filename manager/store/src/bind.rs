//! How values go into statements: the same for every database.

use crate::{Page, StoreError};
use serde::Serialize;
use sutler_base::Timestamp;

/// A time as it is stored.
pub(crate) fn ms(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A time that may be missing.
pub(crate) fn opt_ms(time: Option<Timestamp>) -> Option<i64> {
    time.map(ms)
}

/// A text that people or clients wrote. PostgreSQL has no place for a NUL, so that no database gets one.
pub(crate) fn text(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text.to_owned() }
}

/// A number of bytes or a counter: databases count to 2^63 − 1.
pub(crate) fn int(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Statement(format!("the number {value} is larger than a database can hold")))
}

/// Rows or a list as one JSON parameter: any number of rows in one statement with one text.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("rows are plain data")
}

/// A list of ids or names as one parameter.
pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    json(&items)
}

/// Bytes inside JSON.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// Where a page in ascending order of one text starts: what comes after the empty text is everything.
pub(crate) fn after(page: &Page) -> String {
    text(page.after.as_deref().unwrap_or_default())
}

/// Where a page starts that goes down in order of a number and an id; `after` is "number/id".
pub(crate) fn before(page: &Page) -> Result<(i64, String), StoreError> {
    let Some(after) = &page.after else { return Ok((i64::MAX, String::new())) };
    after.split_once('/').and_then(|(number, id)| Some((number.parse().ok()?, text(id)))).ok_or(StoreError::NoPage)
}
