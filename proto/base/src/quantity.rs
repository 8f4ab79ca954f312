//! Spans of time and sizes as people write them in the configuration: `30 s`, `500ms`, `90d`, `256 KiB`.

use crate::{Invalid, quoted};
use serde::{Deserialize, Deserializer, de::Error};
use std::time::Duration;

/// A span of time: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
pub fn parse_span(text: &str) -> Result<Duration, Invalid> {
    let invalid = || Invalid::new(format!("a span of time is a whole number and one of ms s m h d, like 30s, not {}", quoted(text)));
    let (number, unit) = split(text).ok_or_else(invalid)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(invalid()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(invalid)
}

/// A size in bytes: a whole number and nothing, `B`, `KiB`, `MiB` or `GiB`.
pub fn parse_size(text: &str) -> Result<u64, Invalid> {
    let invalid = || Invalid::new(format!("a size is a whole number and one of B KiB MiB GiB, like 256KiB, not {}", quoted(text)));
    let (number, unit) = split(text).ok_or_else(invalid)?;
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(invalid()),
    };
    number.checked_mul(bytes).ok_or_else(invalid)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// Reads a span of time from a configuration: `#[serde(deserialize_with = "span")]`.
pub fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_span(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// Reads a size in bytes from a configuration, written as a number or with its unit.
pub fn size<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }
    let bytes = match Written::deserialize(from)? {
        Written::Number(bytes) => bytes,
        Written::Text(text) => parse_size(&text).map_err(D::Error::custom)?,
    };
    T::try_from(bytes).map_err(|_| D::Error::custom(format!("{bytes} bytes are too many here")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_whole_numbers_with_a_unit() {
        assert_eq!(parse_span("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_span("90 d").unwrap(), Duration::from_secs(90 * 86_400));
        assert_eq!(parse_size("256KiB").unwrap(), 256 << 10);
        assert_eq!(parse_size("12").unwrap(), 12);
        for bad in ["", "s", "1", "1.5s", "-1s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_span(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "KiB", "1KB", "1 kib", "18446744073709551615GiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }
}
