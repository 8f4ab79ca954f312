//! Maintenance windows: when the machines of a group may be disturbed, as absolute moments.
//!
//! A window is some days of the week, from one local time to another, in the zone of the client or in a fixed one. The rules where
//! a zone's clock jumps: a local time that doesn't exist stands for the first moment after the gap, and one that exists twice for
//! the first of the two. So a window from 01:00 to 05:00 lasts three hours in the night in which an hour is left out and five in
//! the one that has an hour twice, and one that lies in the gap as a whole doesn't open in that night.
//!
//! A client that is in several groups with windows has the union of them: each says when its machines may be disturbed, and what
//! was allowed by whoever knows one of its uses is not taken back by another group that it joins; where two groups' windows never
//! meet, an intersection would keep it from being installed on for ever. A group without windows restricts nothing.

#[cfg(test)]
mod tests;

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Time, Weekday},
    tz::{AmbiguousOffset, TimeZone},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use sutler_base::{GroupName, Invalid, Uid, WindowName, quoted};

/// How many openings are looked ahead, and how far at the most (days).
pub const AHEAD: usize = 16;
/// See [`AHEAD`].
pub const AHEAD_DAYS: i64 = 28;
/// How many windows a group has at the most.
pub const OF_A_GROUP_MAX: usize = 16;
/// How many windows there are at the most.
pub const WINDOWS_MAX: usize = 1000;

/// In which zone the times of a window are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zone {
    /// In that of the machine, as its facts say.
    Client,
    /// In this one.
    Named(String),
}

impl Zone {
    /// The word for the zone of the machine.
    pub const CLIENT: &str = "client";
}

impl FromStr for Zone {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Zone, Invalid> {
        if text == Zone::CLIENT || text.is_empty() {
            return Ok(Zone::Client);
        }
        let refused =
            || Invalid::new(format!("a zone is \"client\" or a name of the IANA's database, such as Europe/Berlin, not {}", quoted(text)));
        zone(text).map(|_| Zone::Named(text.to_owned())).ok_or_else(refused)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Zone::Client => f.write_str(Zone::CLIENT),
            Zone::Named(name) => f.write_str(name),
        }
    }
}

/// The zone of this name in the IANA's database; none if there is none.
pub fn zone(name: &str) -> Option<TimeZone> {
    let proper = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b));
    TimeZone::get(name).ok().filter(|_| proper)
}

/// When a window is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// On which days it opens: by the English words of three letters, Monday first, each once, never empty.
    pub days: Vec<Day>,
    /// When it opens (minutes after midnight on the local clock).
    pub from: u16,
    /// When it closes; on the next day if that is not later.
    pub to: u16,
    /// By which clock.
    pub zone: Zone,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Day {
    /// All of them, Monday first.
    pub const ALL: [Day; 7] = [Day::Monday, Day::Tuesday, Day::Wednesday, Day::Thursday, Day::Friday, Day::Saturday, Day::Sunday];

    fn of(day: Weekday) -> Day {
        Day::ALL[day.to_monday_zero_offset().clamp(0, 6) as usize]
    }

    /// The word of three letters for it.
    pub fn short(self) -> &'static str {
        ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][self as usize]
    }
}

/// Minutes after midnight, as people write them.
pub fn clock(minutes: u16) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

/// Minutes after midnight of `HH:MM`.
pub fn minutes(text: &str) -> Result<u16, Invalid> {
    let refused = || Invalid::new(format!("a time of day is HH:MM, from 00:00 to 23:59, not {}", quoted(text)));
    let (hours, minutes) = text.split_once(':').filter(|(h, m)| (1..=2).contains(&h.len()) && m.len() == 2).ok_or_else(refused)?;
    let number = |text: &str, end: u16| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten().filter(|n| *n < end).ok_or_else(refused)
    };
    Ok(number(hours, 24)? * 60 + number(minutes, 60)?)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<_> = self.days.iter().map(|d| d.short()).collect();
        let days = if days.len() == 7 { "every day".to_owned() } else { days.join(",") };
        let next = if self.to <= self.from { " of the next day" } else { "" };
        let zone = match &self.zone {
            Zone::Client => "in the client's zone".to_owned(),
            Zone::Named(name) => name.clone(),
        };
        write!(f, "{days} {} to {}{next}, {zone}", clock(self.from), clock(self.to))
    }
}

/// A window of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// For ever; the name can be used again.
    pub uid: Uid,
    /// Unique among those that exist.
    pub name: WindowName,
    /// Whose machines it is for.
    pub group: Uid,
    /// When it is open.
    pub hours: Hours,
    /// For people.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// Grows with every change of the row.
    pub change: i64,
}

/// A stretch of time in which something may be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opening {
    /// From this moment on.
    pub start: Timestamp,
    /// Before this one; none: for ever.
    pub end: Option<Timestamp>,
}

impl Opening {
    /// Whether it has not closed by `now`.
    pub fn lasts(&self, now: Timestamp) -> bool {
        self.end.is_none_or(|end| now < end)
    }

    /// Whether what takes so long (seconds) may be begun at `at`: the opening has begun, and does not close before the end.
    pub fn fits(&self, at: Timestamp, seconds: u64) -> bool {
        self.start <= at && self.end.is_none_or(|end| at < end && seconds <= (end.as_second() - at.as_second()).max(0) as u64)
    }

    /// From when on it fits, not before `now`; none if it does not any more.
    pub fn first_fit(&self, now: Timestamp, seconds: u64) -> Option<Timestamp> {
        let at = self.start.max(now);
        self.fits(at, seconds).then_some(at)
    }
}

/// The moment for a local time: see the module for those that don't exist, or exist twice.
fn moment(zone: &TimeZone, date: Date, minutes: u16) -> Option<Timestamp> {
    let time = Time::new((minutes / 60) as i8, (minutes % 60) as i8, 0, 0).ok()?;
    let ambiguous = zone.to_ambiguous_timestamp(date.to_datetime(time));
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
        // The clock jumped over it: when it did.
        AmbiguousOffset::Gap { .. } => {
            let before = ambiguous.earlier().ok()?;
            zone.following(before).next().map(|transition| transition.timestamp())
        }
    }
}

/// When a window with these hours is open by the clock of `zone`: what has not closed by `now`, in order, as far as it is looked
/// ahead.
pub fn openings(hours: &Hours, zone: &TimeZone, now: Timestamp) -> Vec<Opening> {
    let today = zone.to_datetime(now).date();
    let mut all = Vec::new();
    // Yesterday's may reach into today.
    for n in -1..=AHEAD_DAYS {
        let Ok(date) = today.checked_add(n.days()) else { break };
        if !hours.days.contains(&Day::of(date.weekday())) {
            continue;
        }
        let last = if hours.to <= hours.from { date.tomorrow() } else { Ok(date) };
        let Some((start, end)) = moment(zone, date, hours.from).zip(last.ok().and_then(|last| moment(zone, last, hours.to))) else {
            continue;
        };
        if start < end && now < end {
            all.push(Opening { start, end: Some(end) });
        }
    }
    union(all)
}

/// The same time as stretches that neither meet nor overlap, in order, at most [`AHEAD`] of them and the one without an end.
pub fn union(mut all: Vec<Opening>) -> Vec<Opening> {
    all.sort();
    let mut out: Vec<Opening> = Vec::new();
    for one in all {
        match out.last_mut() {
            Some(last) if last.end.is_none_or(|end| one.start <= end) => {
                last.end = last.end.zip(one.end).map(|(a, b)| a.max(b));
            }
            _ => out.push(one),
        }
    }
    let endless = out.pop_if(|last| last.end.is_none());
    out.truncate(AHEAD);
    out.extend(endless);
    out
}

/// A window with what it is of, for one client.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The window.
    pub window: Window,
    /// The group that it is of.
    pub group: GroupName,
}

/// The windows of one client.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    /// Those of all its groups; none: nothing is restricted.
    pub all: Vec<Placed>,
    /// The name of its own zone, as its facts say; empty if they don't.
    pub zone: String,
}

impl Windows {
    /// Whether the client has any.
    pub fn restrict(&self) -> bool {
        !self.all.is_empty()
    }

    /// When one of them is open, in order; what has closed by `now` is left out. One by the client's own clock never is while the
    /// client's zone is not known: it would be open at the wrong time.
    pub fn openings(&self, now: Timestamp) -> Vec<Opening> {
        union(self.all.iter().flat_map(|placed| self.openings_of(placed, now)).collect())
    }

    fn openings_of(&self, placed: &Placed, now: Timestamp) -> Vec<Opening> {
        let hours = &placed.window.hours;
        let name = if let Zone::Named(name) = &hours.zone { name } else { &self.zone };
        zone(name).map(|zone| openings(hours, &zone, now)).unwrap_or_default()
    }

    /// Which of them is the reason that it is open at this moment.
    pub fn opened_by(&self, at: Timestamp) -> Option<&Placed> {
        self.all.iter().find(|placed| self.openings_of(placed, at).iter().any(|o| o.start <= at))
    }

    /// A moment as the client's clock shows it, or in UTC where its zone is not known.
    pub fn local(&self, at: Timestamp) -> String {
        match zone(&self.zone) {
            Some(known) => format!("{} {}", at.to_zoned(known).strftime("%a %Y-%m-%d %H:%M"), self.zone),
            None => at.strftime("%a %Y-%m-%d %H:%M UTC").to_string(),
        }
    }
}
