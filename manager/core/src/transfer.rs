//! How fast bytes may flow: limits by the time of day, and the buckets that keep them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};
use sutler_base::{Invalid, Timestamp, Uid, quoted};

/// The lowest rate of a limit (bytes per second). Less would not bring a chunk through before somebody takes it for one that stands
/// still.
pub const RATE_MIN: u64 = 4 << 10;
/// The highest one: more than any network has.
pub const RATE_MAX: u64 = 1 << 40;
/// The most limits that there are.
pub const LIMITS_MAX: usize = 256;
/// How long a piece may wait for its turn. Whoever would wait longer comes again later: what waits is so short that an agent does not
/// take it for a connection that stands still (`limits.stall`), and that a limit that has ended is felt within five seconds.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// The smallest and the largest piece that is sent at once (bytes).
const PIECE: (u64, u64) = (4 << 10, 256 << 10);
/// What was not used is kept for so long: a timer that is late takes nothing away.
const SLACK: Duration = Duration::from_millis(100);

/// Whose bytes a limit counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Those of all clients together.
    Manager,
    /// Those of all members of this group together.
    Group(Uid),
    /// Those of each client by itself.
    EachClient,
}

/// A limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// What it is, for ever.
    pub uid: Uid,
    /// Whose bytes it counts.
    pub scope: Scope,
    /// Bytes per second.
    pub rate: u64,
    /// When it holds.
    pub hours: Hours,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created: Timestamp,
}

/// The transfers of a group's members stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// The group.
    pub group: Uid,
    /// Who suspended them.
    pub creator: String,
    /// Since when.
    pub since: Timestamp,
}

/// By whose clock hours are.
#[derive(Debug, Clone, PartialEq)]
pub enum Zone {
    /// That of the client's machine, as its facts say; UTC where they don't.
    Client,
    /// The same for all.
    Fixed(jiff::tz::TimeZone),
}

impl FromStr for Zone {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Zone, Invalid> {
        match text {
            "client" => Ok(Zone::Client),
            // Others are files of this machine, or text without end.
            _ if text.is_empty() || text.len() > 64 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b)) => {
                Err(Invalid::new(format!("a zone is `client` or a name like Europe/Berlin, not {}", quoted(text))))
            }
            _ => match jiff::tz::TimeZone::get(text) {
                Ok(zone) => Ok(Zone::Fixed(zone)),
                Err(_) => Err(Invalid::new(format!("there is no time zone {}; give `client` or a name like Europe/Berlin", quoted(text)))),
            },
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Zone::Client => f.write_str("client"),
            Zone::Fixed(zone) => f.write_str(zone.iana_name().unwrap_or("UTC")),
        }
    }
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// When a limit holds: on some days of the week between two times of day. Where the second is not after the first, to that time of the
/// next day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Hours {
    /// One bit a day, Monday the lowest.
    days: u8,
    /// Minutes after midnight.
    from: u16,
    /// See above.
    to: u16,
    zone: Zone,
}

/// [`Hours`], as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Like `mon-fri` or `sat,sun`; empty for every day.
    pub days: String,
    /// Like `08:00`; both empty for the whole day.
    pub from: String,
    /// Like `18:00`, at most `24:00`.
    pub to: String,
    /// `client`, or a name of the IANA.
    pub zone: String,
}

impl TryFrom<Written> for Hours {
    type Error = Invalid;

    fn try_from(written: Written) -> Result<Hours, Invalid> {
        let (from, to) = match (written.from.as_str(), written.to.as_str()) {
            ("", "") => (0, 24 * 60),
            (from, to) => (time_of_day(from)?, time_of_day(to)?),
        };
        if from == 24 * 60 {
            return Err(Invalid::new("a limit begins at 23:59 at the latest, not at 24:00"));
        }
        Ok(Hours { days: days(&written.days)?, from, to, zone: written.zone.parse()? })
    }
}

impl From<Hours> for Written {
    fn from(hours: Hours) -> Written {
        let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        let named = |(n, name): (usize, &&str)| (hours.days & 1 << n != 0).then(|| (*name).to_owned());
        let days: Vec<String> = DAYS.iter().enumerate().filter_map(named).collect();
        let whole = (hours.from, hours.to) == (0, 24 * 60);
        Written {
            days: if days.len() == 7 { String::new() } else { days.join(",") },
            from: if whole { String::new() } else { clock(hours.from) },
            to: if whole { String::new() } else { clock(hours.to) },
            zone: hours.zone.to_string(),
        }
    }
}

fn time_of_day(text: &str) -> Result<u16, Invalid> {
    let invalid = || Invalid::new(format!("a time of day is like 08:00, from 00:00 to 24:00, not {}", quoted(text)));
    let (hour, minute) = text.split_once(':').ok_or_else(invalid)?;
    let number = |text: &str, most: u16| {
        let two = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|n| two && *n <= most).ok_or_else(invalid)
    };
    Ok(number(hour, 24)? * 60 + number(minute, 59)?).and_then(|minutes| if minutes <= 24 * 60 { Ok(minutes) } else { Err(invalid()) })
}

fn days(text: &str) -> Result<u8, Invalid> {
    if text.is_empty() {
        return Ok(0x7f);
    }
    let invalid = || Invalid::new(format!("days are like mon-fri or sat,sun, not {}", quoted(text)));
    let day = |name: &str| DAYS.iter().position(|day| *day == name).ok_or_else(invalid);
    let mut all = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // `fri-mon` goes over the end of the week.
        (0..=(last + 7 - first) % 7).for_each(|n| all |= 1 << ((first + n) % 7));
    }
    Ok(all)
}

impl Hours {
    /// Always.
    pub fn always() -> Hours {
        Hours { days: 0x7f, from: 0, to: 24 * 60, zone: Zone::Client }
    }

    /// Whether they go by the clocks of clients.
    pub fn by_client(&self) -> bool {
        self.zone == Zone::Client
    }

    /// Whether they hold at this moment for a client in this zone.
    pub fn hold(&self, now: Timestamp, client: &jiff::tz::TimeZone) -> bool {
        let zone = match &self.zone {
            Zone::Client => client,
            Zone::Fixed(zone) => zone,
        };
        let local = now.to_zoned(zone.clone());
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let today = local.weekday().to_monday_zero_offset() as u32;
        let on = |day: u32| self.days & 1 << (day % 7) != 0;
        if self.from < self.to {
            on(today) && (self.from..self.to).contains(&minute)
        } else {
            // Over midnight: what began yesterday is yesterday's.
            (on(today) && minute >= self.from) || (on(today + 6) && minute < self.to)
        }
    }
}

/// Bytes go through it one piece after the other, each when the ones before it have had their time.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u64,
    /// When the next piece may go, on a clock that never jumps.
    next: Duration,
}

impl Bucket {
    /// Nothing has gone through it.
    pub fn new(rate: u64, now: Duration) -> Bucket {
        Bucket { rate: rate.max(1), next: now }
    }

    /// How long a piece that comes now has to wait.
    pub fn wait(&self, now: Duration) -> Duration {
        self.next.saturating_sub(now)
    }

    /// Takes the next place for a piece of so many bytes.
    pub fn take(&mut self, bytes: u64, now: Duration) {
        let from = self.next.max(now.saturating_sub(SLACK));
        self.next = from.saturating_add(self.lasts(bytes));
    }

    /// Gives back a place that was taken for a piece of so many bytes that did not go.
    pub fn give_back(&mut self, bytes: u64) {
        self.next = self.next.saturating_sub(self.lasts(bytes));
    }

    fn lasts(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether it is as if nothing had ever gone through it.
    pub fn is_idle(&self, now: Duration) -> bool {
        self.next <= now
    }
}

/// How much is sent at once at this rate, where so many share it (bytes): little where it is slow, so that nobody waits for long.
pub fn piece(rate: u64, sharing: usize) -> u64 {
    (rate / (8 * sharing.max(1) as u64)).clamp(PIECE.0, PIECE.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    fn hours(days: &str, from: &str, to: &str, zone: &str) -> Result<Hours, Invalid> {
        Written { days: days.into(), from: from.into(), to: to.into(), zone: zone.into() }.try_into()
    }

    #[test]
    fn hours_are_of_the_day_on_which_they_begin_by_the_clock_of_their_zone() {
        let holds = |hours: &Hours, at: &str| hours.hold(at.parse().unwrap(), &TimeZone::get("America/New_York").unwrap());
        let office = hours("mon-fri", "08:00", "18:00", "Europe/Berlin").unwrap();
        // 2026-01-05 is a Monday; Berlin is an hour ahead in winter, two in summer.
        for (at, expected) in [
            ("2026-01-05T06:59:59Z", false),
            ("2026-01-05T07:00:00Z", true),
            ("2026-01-05T16:59:59Z", true),
            ("2026-01-05T17:00:00Z", false),
            ("2026-07-06T06:00:00Z", true),
            ("2026-07-06T16:00:00Z", false),
            ("2026-01-03T12:00:00Z", false),
        ] {
            assert_eq!(holds(&office, at), expected, "{at}");
        }
        let night = hours("fri", "22:00", "06:00", "client").unwrap();
        // In New York, five hours behind.
        for (at, expected) in [
            ("2026-01-03T02:59:00Z", false),
            ("2026-01-03T03:00:00Z", true),
            ("2026-01-03T10:59:00Z", true),
            ("2026-01-03T11:00:00Z", false),
            ("2026-01-04T04:00:00Z", false),
        ] {
            assert_eq!(holds(&night, at), expected, "{at}");
        }
        let whole = hours("", "", "", "client").unwrap();
        assert!(whole == Hours::always() && holds(&whole, "2026-01-03T11:00:00Z"));
        assert_eq!(hours("fri-mon", "00:00", "24:00", "UTC").unwrap().days, 0b111_0001);
    }

    #[test]
    fn what_is_written_reads_back_and_nonsense_is_named() {
        for given in [("mon,wed", "08:00", "18:30", "Europe/Berlin"), ("", "", "", "client"), ("sun", "23:00", "01:00", "UTC")] {
            let read = hours(given.0, given.1, given.2, given.3).unwrap();
            let written = Written::from(read.clone());
            assert_eq!((written.days.as_str(), written.from.as_str(), written.to.as_str(), written.zone.as_str()), given);
            let json = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<Hours>(&json).unwrap(), read);
        }
        for bad in [
            ("mo", "", "", "client"),
            ("mon-", "", "", "client"),
            ("", "8:00", "18:00", "client"),
            ("", "08:00", "", "client"),
            ("", "08:60", "18:00", "client"),
            ("", "00:00", "24:01", "client"),
            ("", "24:00", "12:00", "client"),
            ("", "", "", "Mars/Olympus"),
            ("", "", "", "../../etc/passwd"),
            ("", "", "", ""),
        ] {
            assert!(hours(bad.0, bad.1, bad.2, bad.3).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_no_more_goes_through_a_bucket_than_its_rate(
            rate in RATE_MIN..10_000_000_u64,
            asked in prop::collection::vec((1_u64..300_000, 0_u64..200), 1..200),
        ) {
            let mut bucket = Bucket::new(rate, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut gone: Vec<(Duration, u64)> = Vec::new();
            for (bytes, pause) in asked {
                now += Duration::from_millis(pause);
                let at = now + bucket.wait(now);
                bucket.take(bytes, now);
                gone.push((at, bytes));
            }
            // Between any two pieces: what has gone before the second fits into the time since the first.
            for (n, (from, _)) in gone.iter().enumerate() {
                let mut sum = 0_u128;
                for (at, bytes) in &gone[n..] {
                    let room = u128::from(rate) * ((*at - *from) + SLACK).as_nanos() / 1_000_000_000 + 1 + gone.len() as u128;
                    prop_assert!(sum <= room, "{sum} bytes went where {room} may");
                    sum += u128::from(*bytes);
                }
            }
        }

        #[test]
        fn a_bucket_that_is_never_idle_lets_all_of_its_rate_through(rate in RATE_MIN..10_000_000_u64, bytes in 1_u64..300_000) {
            let mut bucket = Bucket::new(rate, Duration::ZERO);
            let mut now = Duration::ZERO;
            for _ in 0..100 {
                now += bucket.wait(now);
                bucket.take(bytes, now);
            }
            let exact = Duration::from_nanos((u128::from(bytes) * 99 * 1_000_000_000 / u128::from(rate)) as u64);
            prop_assert!(now <= exact + Duration::from_micros(1) && now + SLACK >= exact, "{now:?} instead of {exact:?}");
        }
    }
}
