//! Reads durations and moments as people write them, and writes moments in one way.

use prost_types::Timestamp as WireTime;
use std::time::Duration;
use sutler_base::{Timestamp, quoted};

/// The units, largest first, in seconds.
const UNITS: [(char, u64); 5] = [('w', 7 * 86_400), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// A duration such as `30s`, `10m`, `1h30m`, `30d`, `2w`: whole numbers, each with its unit, the largest first.
///
/// A number alone is refused: what is seconds to one is minutes to another.
pub fn duration(text: &str) -> Result<Duration, String> {
    let rule = || format!("a duration is a number with a unit (s, m, h, d or w), such as 90s, 10m, 1h30m or 30d, not {}", quoted(text));
    let (mut rest, mut seconds, mut units) = (text, 0u64, &UNITS[..]);
    if text.is_empty() {
        return Err(rule());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| rule())?;
        let unit = rest[digits..].chars().next().ok_or_else(rule)?;
        let at = units.iter().position(|(c, _)| *c == unit).ok_or_else(rule)?;
        seconds = number.checked_mul(units[at].1).and_then(|s| s.checked_add(seconds)).ok_or_else(rule)?;
        units = &units[at + 1..];
        rest = &rest[digits + 1..];
    }
    // A hundred years: more is a slip of the finger, and would not fit a moment.
    if seconds > 100 * 366 * 86_400 {
        return Err(format!("{} is more than a hundred years", quoted(text)));
    }
    Ok(Duration::from_secs(seconds))
}

/// A duration that is not zero.
pub fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a duration of zero makes no sense here".to_owned()),
        duration => Ok(duration),
    }
}

/// How many in an hour: `500/h`.
pub fn per_hour(text: &str) -> Result<i32, String> {
    let number = text.strip_suffix("/h").and_then(|number| number.parse::<i32>().ok()).filter(|n| *n >= 0);
    number.ok_or_else(|| format!("a budget is how many clients go within an hour, such as 500/h, not {}", quoted(text)))
}

/// A moment as it was given: from now on, or on the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So long from now.
    In(Duration),
    /// Then.
    At(Timestamp),
}

/// A moment: a duration from now (`30d`) or a time (`2027-01-31T12:00:00Z`, RFC 3339).
pub fn until(text: &str) -> Result<Until, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Until::At(time));
    }
    some_duration(text).map(Until::In).map_err(|_| {
        format!("a moment is a time from now (30d, 12h) or a time of RFC 3339 with its zone (2027-01-31T12:00:00Z), not {}", quoted(text))
    })
}

impl Until {
    /// The moment.
    pub fn moment(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Until::At(time) => Some(time),
            Until::In(duration) => now.checked_add(duration).ok(),
        }
    }

    /// The moment on the wire.
    pub fn wire(self, now: Timestamp) -> WireTime {
        let time = match self {
            Until::At(time) => time,
            Until::In(duration) => {
                now.checked_add(jiff::SignedDuration::from_secs(duration.as_secs().min(i64::MAX as u64) as i64)).unwrap_or(Timestamp::MAX)
            }
        };
        sutler_proto::convert::wire_time(time)
    }
}

/// A moment in UTC to the second, such as `2027-01-31T12:00:00Z`; empty if there is none.
pub fn moment(time: &Option<WireTime>) -> String {
    let parsed = time.as_ref().and_then(|t| sutler_proto::convert::time(t).ok());
    parsed.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

/// A span of time in its largest unit and the one below, such as `2d 3h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(units.len() - 1);
    let (unit, size) = units[first];
    let whole = format!("{}{unit}", seconds / size);
    match units.get(first + 1).map(|(unit, size)| (unit, seconds % (size * if *unit == "h" { 24 } else { 60 }) / size)) {
        Some((unit, rest)) if rest > 0 => format!("{whole} {rest}{unit}"),
        _ => whole,
    }
}

/// A number of bytes with a unit, such as `3.1 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_units() {
        let secs = |text| duration(text).map(|d| d.as_secs());
        assert_eq!(secs("90s"), Ok(90));
        assert_eq!(secs("10m"), Ok(600));
        assert_eq!(secs("1h30m"), Ok(5400));
        assert_eq!(secs("30d"), Ok(30 * 86_400));
        assert_eq!(secs("2w1d"), Ok(15 * 86_400));
        assert_eq!(secs("0s"), Ok(0));
        for bad in ["", "10", "m", "1.5h", "-1h", "1h1h", "30m1h", "1 h", "99999999999999999999s", "99999999999w", "1é"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(some_duration("0s").is_err());
    }

    #[test]
    fn a_moment_is_given_from_now_or_on_the_clock() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(moment(&Some(until("30d").unwrap().wire(now))), "2026-01-31T00:00:00Z");
        assert_eq!(moment(&Some(until("2026-01-31T12:00:00+02:00").unwrap().wire(now))), "2026-01-31T10:00:00Z");
        assert!(until("tomorrow").is_err());
        assert!(until("2026-01-31").is_err());
        assert_eq!(moment(&None), "");
    }

    #[test]
    fn bytes_have_one_digit_after_the_point() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3_250_586), "3.1 MiB");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
    }
}
