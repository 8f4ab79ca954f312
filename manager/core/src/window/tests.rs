//! Windows over whole years, against an oracle that looks at every minute.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn hours(days: &[Day], from: u16, to: u16) -> Hours {
    Hours { days: days.to_vec(), from, to, zone: Zone::Client }
}

/// Every minute from one moment to another, with the date and the minute of the day that the clock of the zone shows then.
fn minute_by_minute(zone: &TimeZone, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, Date, u16)> {
    let mut out = Vec::new();
    let mut at = from;
    while at < to {
        let local = zone.to_datetime(at);
        out.push((at, local.date(), local.hour() as u16 * 60 + local.minute() as u16));
        at += 1.minute();
    }
    out
}

/// What is open, by looking at every minute: a window of a date opens with the first minute whose clock shows the time at which
/// it opens, or a later one, and closes with the first that shows the time at which it closes, or a later one.
fn oracle(hours: &Hours, minutes: &[(Timestamp, Date, u16)]) -> Vec<bool> {
    let mut first: BTreeMap<(Date, u16), usize> = BTreeMap::new();
    let mut latest = (Date::MIN, 0);
    for (n, (_, date, minute)) in minutes.iter().enumerate() {
        // Only when the clock shows something that it has not shown before, all that it jumped over is shown with it.
        if n == 0 || (*date, *minute) > latest {
            latest = (*date, *minute);
            first.insert(latest, n);
        }
    }
    let shown = |date: Date, minute: u16| first.range((date, minute)..).next().map_or(minutes.len(), |(_, n)| *n);
    let mut open = vec![false; minutes.len()];
    let (begin, end) = (minutes[0].1, minutes[minutes.len() - 1].1);
    let mut date = begin.yesterday().unwrap();
    while date <= end {
        if hours.days.contains(&Day::of(date.weekday())) {
            let last = if hours.to <= hours.from { date.tomorrow().unwrap() } else { date };
            let (from, to) = (shown(date, hours.from), shown(last, hours.to));
            open.iter_mut().take(to).skip(from).for_each(|minute| *minute = true);
        }
        date = date.tomorrow().unwrap();
    }
    open
}

/// Walks over the time as a manager does, which looks ahead only so far, and compares every minute.
fn compare(name: &str, hours: &Hours, minutes: &[(Timestamp, Date, u16)]) {
    let zone = zone(name).unwrap();
    let expected = oracle(hours, minutes);
    let mut ahead: Vec<Opening> = Vec::new();
    let mut looked = None;
    for ((moment, ..), open) in minutes.iter().zip(&expected).skip(2 * 1440) {
        // A look every five days, with another minute of the day each time.
        if looked.is_none_or(|at: Timestamp| moment.as_second() - at.as_second() >= 7_201 * 60) {
            ahead = openings(hours, &zone, *moment);
            looked = Some(*moment);
        }
        let is = ahead.iter().any(|o| o.fits(*moment, 0));
        assert_eq!(is, *open, "{name}, {hours}: at {moment} ({})", zone.to_datetime(*moment));
    }
}

/// Zones whose clocks jump on other days, by other spans, in the other half of the year, or not at all.
const ZONES: [&str; 6] = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu", "UTC"];

#[test]
fn windows_are_right_over_whole_years_in_zones_whose_clocks_jump() {
    let weekend = hours(&[Day::Saturday, Day::Sunday], 60, 150);
    let night = hours(&Day::ALL, 23 * 60 + 30, 2 * 60 + 30);
    let gap = hours(&[Day::Sunday], 2 * 60 + 15, 2 * 60 + 45);
    for name in ZONES {
        let minutes = minute_by_minute(&zone(name).unwrap(), at("2026-01-01T00:00:00Z"), at("2027-01-03T00:00:00Z"));
        for hours in [&weekend, &night, &gap] {
            compare(name, hours, &minutes);
        }
    }
}

#[test]
fn a_date_that_a_zone_left_out_opens_no_window() {
    // Samoa went from Thursday, 2011-12-29, to Saturday.
    let all = hours(&Day::ALL, 10 * 60, 12 * 60);
    let minutes = minute_by_minute(&zone("Pacific/Apia").unwrap(), at("2011-12-20T00:00:00Z"), at("2012-01-20T00:00:00Z"));
    compare("Pacific/Apia", &all, &minutes);
    let friday = openings(&hours(&[Day::Friday], 600, 720), &zone("Pacific/Apia").unwrap(), at("2011-12-29T00:00:00Z"));
    assert_eq!(friday[0].start, at("2012-01-05T20:00:00Z"));
}

#[test]
fn a_time_that_does_not_exist_is_the_end_of_the_gap_and_one_that_exists_twice_is_the_first() {
    let open = |name: &str, days: &[Day], from: u16, to: u16, now: &str| {
        let all = openings(&hours(days, from, to), &zone(name).unwrap(), at(now));
        (all[0].start.to_string(), all[0].end.unwrap().to_string())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let sunday = &[Day::Sunday];
    // In Berlin the hour from 02:00 is left out on 2026-03-29, and there twice on 2026-10-25.
    assert_eq!(open("Europe/Berlin", sunday, 150, 240, "2026-03-28T00:00:00Z"), pair("2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"));
    assert_eq!(open("Europe/Berlin", sunday, 60, 150, "2026-03-28T00:00:00Z"), pair("2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z"));
    assert_eq!(open("Europe/Berlin", sunday, 150, 240, "2026-10-24T00:00:00Z"), pair("2026-10-25T00:30:00Z", "2026-10-25T03:00:00Z"));
    assert_eq!(open("Europe/Berlin", sunday, 60, 150, "2026-10-24T00:00:00Z"), pair("2026-10-24T23:00:00Z", "2026-10-25T00:30:00Z"));
    // As a whole in the gap: the next one opens.
    assert_eq!(open("Europe/Berlin", sunday, 130, 170, "2026-03-28T00:00:00Z"), pair("2026-04-05T00:10:00Z", "2026-04-05T00:50:00Z"));
    // In New York 2026-03-08 and 2026-11-01, in Lord Howe half an hour on 2026-10-04 and 2026-04-05.
    assert_eq!(open("America/New_York", sunday, 60, 300, "2026-03-08T00:00:00Z"), pair("2026-03-08T06:00:00Z", "2026-03-08T09:00:00Z"));
    assert_eq!(open("America/New_York", sunday, 60, 300, "2026-11-01T00:00:00Z"), pair("2026-11-01T05:00:00Z", "2026-11-01T10:00:00Z"));
    assert_eq!(open("Australia/Lord_Howe", sunday, 135, 180, "2026-10-03T00:00:00Z"), pair("2026-10-03T15:30:00Z", "2026-10-03T16:00:00Z"));
    assert_eq!(open("Australia/Lord_Howe", sunday, 105, 180, "2026-04-04T00:00:00Z"), pair("2026-04-04T14:45:00Z", "2026-04-04T16:30:00Z"));
}

#[test]
fn days_that_follow_each_other_are_one_opening() {
    let weekend = openings(&hours(&[Day::Saturday, Day::Sunday], 0, 0), &TimeZone::UTC, at("2026-11-25T00:00:00Z"));
    assert_eq!(weekend[0], Opening { start: at("2026-11-28T00:00:00Z"), end: Some(at("2026-11-30T00:00:00Z")) });
    let always = openings(&hours(&Day::ALL, 300, 300), &TimeZone::UTC, at("2026-11-25T00:00:00Z"));
    assert_eq!(always.len(), 1);
}

fn placed(name: &str, hours: Hours) -> Placed {
    let window = Window {
        uid: Uid::new(at("2026-01-01T00:00:00Z"), [1; 16]),
        name: name.parse().unwrap(),
        group: Uid::new(at("2026-01-01T00:00:00Z"), [2; 16]),
        hours,
        description: String::new(),
        created: at("2026-01-01T00:00:00Z"),
        change: 0,
    };
    Placed { window, group: "offices".parse().unwrap() }
}

#[test]
fn a_client_in_several_groups_has_the_union_of_their_windows() {
    let utc = |days: &[Day], from, to| Hours { zone: Zone::Named("UTC".into()), ..hours(days, from, to) };
    let all = vec![placed("a", utc(&[Day::Monday], 60, 120)), placed("b", utc(&[Day::Monday], 90, 180))];
    let windows = Windows { all, zone: String::new() };
    let open = windows.openings(at("2026-11-29T00:00:00Z"));
    assert_eq!(open[0], Opening { start: at("2026-11-30T01:00:00Z"), end: Some(at("2026-11-30T03:00:00Z")) });
    assert_eq!(windows.opened_by(at("2026-11-30T02:30:00Z")).unwrap().window.name.as_str(), "b");
}

#[test]
fn a_window_by_the_clients_clock_stays_closed_while_its_zone_is_not_known() {
    for zone in ["", "Mars/Olympus", "../../etc/passwd"] {
        let windows = Windows { all: vec![placed("a", hours(&Day::ALL, 0, 0))], zone: zone.into() };
        assert!(windows.openings(at("2026-11-29T00:00:00Z")).is_empty());
    }
}

#[test]
fn a_time_of_day_is_read_as_it_is_shown() {
    for text in ["00:00", "09:05", "23:59"] {
        assert_eq!(clock(minutes(text).unwrap()), text);
    }
    for bad in ["24:00", "1:5", "12", "12:60", "-1:00", "aa:bb", "+1:00", ""] {
        assert!(minutes(bad).is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_as_an_oracle_sees_them_that_looks_at_every_minute(
        zone in 0..ZONES.len(),
        days in proptest::collection::btree_set(0usize..7, 1..8),
        from in 0u16..1440,
        to in 0u16..1440,
        start in 0i64..330,
    ) {
        let days: Vec<Day> = days.into_iter().map(|n| Day::ALL[n]).collect();
        let begin = at("2027-01-01T00:00:00Z") + jiff::SignedDuration::from_hours(24 * start);
        let end = begin + jiff::SignedDuration::from_hours(24 * 40);
        let minutes = minute_by_minute(&super::zone(ZONES[zone]).unwrap(), begin, end);
        compare(ZONES[zone], &hours(&days, from, to), &minutes);
    }

    #[test]
    fn the_union_is_open_where_any_is_and_its_parts_never_meet(spans in proptest::collection::vec((0i64..200, 1i64..40), 0..10)) {
        let second = |n: i64| Timestamp::from_second(n).unwrap();
        let all: Vec<Opening> = spans.iter().map(|(s, l)| Opening { start: second(*s), end: Some(second(s + l)) }).collect();
        let one = union(all.clone());
        for n in 0..260 {
            prop_assert_eq!(all.iter().any(|o| o.fits(second(n), 0)), one.iter().any(|o| o.fits(second(n), 0)));
        }
        prop_assert!(one.windows(2).all(|pair| pair[0].end.unwrap() < pair[1].start));
    }
}
