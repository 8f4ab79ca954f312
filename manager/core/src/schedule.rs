//! When a job's packages may be begun on a client, in absolute moments, and what is said of that.
//!
//! Four times bound it, and this is who wins: nothing is begun before the start time. From then on it is begun in the client's
//! maintenance windows, if it has any and the job does not ignore them. From the deadline on it is begun at the next contact,
//! whatever the windows say. The expire time ends all: after it nothing is begun.
//!
//! Windows bound the *beginning* of a package: what has begun goes on to its end, for software that is half installed is worse
//! than a minute too many. A package is begun only if it, and what follows it in the job, fits by the durations that they state;
//! what states none fits as long as the window is open. When a deadline has passed, whether it fits is no question any more.

use crate::window::{AHEAD_DAYS, Opening, Windows, union};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use sutler_base::{Timestamp, state::Timing};

/// The longest lease: as long as an agent that is cut off may begin what it was offered, a cancellation can't be final.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How far a lease that reaches into a window may fall short of what could be given before it is written down anew.
const LEASE_SLACK: SignedDuration = SignedDuration::from_hours(1);
/// How long before its start time a job is offered at the most, so that its bytes travel (seconds).
pub const PREFETCH_MAX: u64 = 30 * 24 * 3600;

/// When a job is carried out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// Before this nothing is begun; none: from the moment on at which the job is started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// So long before the start time it is offered (seconds), so that its bytes are there by then; none: at the start time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<u64>,
    /// From this on maintenance windows don't hold it up any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Maintenance windows don't hold it up at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_windows: bool,
    /// At which moment of the machine's life it begins.
    pub timing: Timing,
    /// Why it could not be started when its time had come; empty if it could, or has not come.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure: String,
}

impl Schedule {
    /// When the job is to reach its clients; none: when somebody starts it.
    pub fn due(&self) -> Option<Timestamp> {
        let early = SignedDuration::from_secs(self.prefetch.unwrap_or(0).min(PREFETCH_MAX) as i64);
        self.start.map(|start| start.checked_sub(early).unwrap_or(start))
    }

    /// Whether it waits at `now` for its time to reach its clients.
    pub fn waits(&self, now: Timestamp) -> bool {
        self.due().is_some_and(|due| now < due)
    }

    /// What of these times contradicts something, by the field: of a job that ends at `expires`, if it does.
    pub fn check(&self, expires: Option<Timestamp>) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if let Some((start, deadline)) = self.start.zip(self.deadline)
            && deadline <= start
        {
            wrong.push(("terms.schedule.deadline_time", "lies before the start time; nothing is begun before that".to_owned()));
        }
        if let Some((start, expires)) = self.start.zip(expires)
            && expires <= start
        {
            wrong.push(("expire_time", "lies before the start time; the job would reach nobody".to_owned()));
        }
        if let Some((deadline, expires)) = self.deadline.zip(expires)
            && expires <= deadline
        {
            wrong.push(("terms.schedule.deadline_time", "is not before the expire time, which ends all".to_owned()));
        }
        if self.prefetch.is_some_and(|early| early > PREFETCH_MAX) {
            wrong.push(("terms.schedule.prefetch", format!("is at most {} days", PREFETCH_MAX / 86_400)));
        }
        if self.prefetch.is_some() && self.start.is_none() {
            wrong.push(("terms.schedule.prefetch", "goes with a start time; without one the bytes travel at once".to_owned()));
        }
        wrong
    }

    /// Whether windows hold it up.
    pub fn minds(&self, windows: &Windows) -> bool {
        windows.restrict() && !self.ignore_windows
    }

    /// When a package may be begun on a client with these windows, in order, what has closed by `now` left out; none: at any time.
    pub fn openings(&self, windows: &Windows, now: Timestamp) -> Option<Vec<Opening>> {
        let start = self.start.filter(|start| now < *start);
        if !self.minds(windows) {
            return start.map(|start| vec![Opening { start, end: None }]);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) && start.is_none() {
            return None;
        }
        // Windows that opened before the start time open then.
        let from = start.unwrap_or(now);
        let mut all: Vec<Opening> =
            windows.openings(from).into_iter().map(|o| Opening { start: start.map_or(o.start, |start| o.start.max(start)), ..o }).collect();
        all.extend(self.deadline.map(|deadline| Opening { start: deadline, end: None }));
        Some(union(all))
    }
}

/// What stands for the openings of an attempt that begins with a start or the stop of its machine: that may come at any moment, and
/// the agent may be out of contact then.
pub fn at_any_moment(now: Timestamp) -> Opening {
    Opening { start: now, end: Some(now.saturating_add(2 * LEASE_MAX).unwrap_or(Timestamp::MAX)) }
}

/// Until when an agent that may begin in these openings gets a lease that lasts longer than the usual one of `usual`: until the end
/// of the opening that is or comes next, and no longer than [`LEASE_MAX`] from `now`. `given` is what it was given before, and is
/// given again while it does: what is given has to be written down first. None where the usual one will do.
pub fn lease_until(openings: &[Opening], usual: Duration, given: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let usual = SignedDuration::try_from(usual).unwrap_or(SignedDuration::ZERO);
    let longest = now.saturating_add(LEASE_MAX).unwrap_or(now);
    let next = openings.iter().find(|opening| opening.lasts(now))?;
    if next.start <= now && next.end.is_none() || longest <= next.start {
        return None;
    }
    let wanted = next.end.unwrap_or_else(|| next.start.saturating_add(usual).unwrap_or(next.start)).min(longest);
    if wanted <= now.saturating_add(usual).unwrap_or(now) {
        return None;
    }
    let enough = wanted.saturating_sub(LEASE_SLACK).unwrap_or(wanted);
    Some(given.filter(|given| wanted == *given || (longest == wanted && *given >= enough)).unwrap_or(wanted))
}

/// Why nothing was begun yet on a client with these windows, of a job whose packages take so long (seconds), in a sentence; none
/// where time is not what it waits for.
pub fn waits_for(schedule: &Schedule, windows: &Windows, seconds: u64, now: Timestamp) -> Option<String> {
    let openings = schedule.openings(windows, now)?;
    if openings.iter().any(|opening| opening.fits(now, seconds)) {
        return None;
    }
    if let Some(start) = schedule.start.filter(|start| now < *start)
        && !schedule.minds(windows)
    {
        return Some(format!("scheduled for {}", windows.local(start)));
    }
    let takes = || format!("{} minutes", seconds.div_ceil(60));
    let next = openings.iter().find_map(|opening| Some((opening, opening.first_fit(now, seconds)?)));
    let which = |at: Timestamp| match windows.opened_by(at) {
        Some(placed) => format!("the window {} of groups/{}", placed.window.name, placed.group),
        None => "its window".to_owned(),
    };
    let (opening, at) = match next {
        Some(next) => next,
        None if openings.is_empty() && windows.zone.is_empty() => {
            return Some(
                "its windows go by the client's clock, and its time zone is not known; give them a zone with `window update`".into(),
            );
        }
        None if openings.is_empty() => {
            return Some(format!(
                "no window of its groups opens in the next {AHEAD_DAYS} days; set a deadline with `job update`, or change the windows"
            ));
        }
        None => {
            return Some(format!(
                "it takes {}, and no window of its groups is as long: it never fits; make one longer, set a deadline with `job update`, or \
                 run it with --ignore-windows",
                takes()
            ));
        }
    };
    let is_deadline = opening.end.is_none() && schedule.deadline == Some(opening.start);
    let late = openings.iter().any(|o| o.start <= now && o.lasts(now));
    let first = match schedule.start {
        Some(start) if now < start => format!("scheduled for {}; ", windows.local(start)),
        _ if late => format!("it takes {}, and does not fit any more into the window that is open; ", takes()),
        _ => String::new(),
    };
    let too_short = openings.iter().filter(|o| o.end.is_some()).all(|o| o.first_fit(now, seconds).is_none());
    Some(match is_deadline {
        true if too_short && openings.len() > 1 => {
            format!("{first}it takes {}, and no window of its groups is as long: it starts at its deadline, {}", takes(), windows.local(at))
        }
        true => format!("{first}no window of its groups opens before its deadline, {}", windows.local(at)),
        false => format!("{first}waits for {}, which opens {}", which(at), windows.local(at)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn opening(start: i64, end: i64) -> Opening {
        Opening { start: at(start), end: Some(at(end)) }
    }

    #[test]
    fn a_lease_reaches_to_the_end_of_the_next_opening_and_never_further_than_a_day() {
        let usual = Duration::from_secs(600);
        let until = |openings: &[Opening], given: Option<i64>| {
            lease_until(openings, usual, given.map(at), at(0)).map(|until| until.as_second() - at(0).as_second())
        };
        assert_eq!(until(&[opening(3_600, 7_200)], None), Some(7_200));
        assert_eq!(until(&[opening(-60, 300)], None), None, "the usual one lasts longer");
        assert_eq!(until(&[opening(90_000, 95_000)], None), None, "too far away");
        assert_eq!(until(&[opening(80_000, 95_000)], None), Some(86_400));
        assert_eq!(until(&[opening(80_000, 95_000)], Some(84_000)), Some(84_000), "what was given is nearly as long");
        assert_eq!(until(&[opening(80_000, 95_000)], Some(80_000)), Some(86_400));
        assert_eq!(until(&[opening(3_600, 7_200)], Some(7_100)), Some(7_200));
        assert_eq!(until(&[Opening { start: at(3_600), end: None }], None), Some(4_200));
        assert_eq!(until(&[Opening { start: at(-1), end: None }], None), None);
        assert_eq!(until(&[], None), None);
        assert_eq!(until(&[at_any_moment(at(0))], None), Some(86_400), "a start of the machine may come at any moment");
        assert_eq!(until(&[at_any_moment(at(0))], Some(83_000)), Some(83_000));
    }

    #[test]
    fn nothing_is_begun_before_the_start_time_and_windows_hold_nothing_up_after_the_deadline() {
        let none = Windows::default();
        let schedule = Schedule { start: Some(at(100)), ..Default::default() };
        assert_eq!(schedule.openings(&none, at(0)), Some(vec![Opening { start: at(100), end: None }]));
        assert_eq!(schedule.openings(&none, at(100)), None);
        assert_eq!(Schedule { prefetch: Some(30), ..schedule }.due(), Some(at(70)));
        assert!(
            waits_for(&Schedule { start: Some(at(100)), ..Default::default() }, &none, 0, at(0)).unwrap().starts_with("scheduled for ")
        );
    }

    #[test]
    fn a_deadline_counts_however_many_windows_open_before_it() {
        use crate::window::{AHEAD, Day, Hours, Placed, Window, Zone};
        let days = vec![Day::Monday, Day::Tuesday, Day::Wednesday, Day::Thursday, Day::Friday, Day::Saturday, Day::Sunday];
        let hours = Hours { days, from: 60, to: 90, zone: Zone::Named("UTC".into()) };
        let window = Window {
            uid: sutler_base::Uid::new(at(0), [1; 16]),
            name: "night".parse().unwrap(),
            group: sutler_base::Uid::new(at(0), [2; 16]),
            hours,
            description: String::new(),
            created: at(0),
            change: 0,
        };
        let windows = Windows { all: vec![Placed { window, group: "desks".parse().unwrap() }], zone: "UTC".into() };
        let schedule = Schedule { deadline: Some(at(25 * 86_400)), ..Default::default() };
        let openings = schedule.openings(&windows, at(0)).unwrap();
        assert_eq!((openings.len(), openings.last().unwrap().start), (AHEAD + 1, at(25 * 86_400)));
        // It takes an hour, and each window is half as long.
        let said = waits_for(&schedule, &windows, 3600, at(0)).unwrap();
        assert!(said.contains("it starts at its deadline"), "{said}");
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let fields = |schedule: Schedule, expires: Option<i64>| -> Vec<&str> {
            schedule.check(expires.map(at)).into_iter().map(|(field, _)| field).collect()
        };
        let both = Schedule { start: Some(at(100)), deadline: Some(at(50)), ..Default::default() };
        assert_eq!(fields(both, Some(70)), ["terms.schedule.deadline_time", "expire_time"]);
        assert_eq!(fields(Schedule { prefetch: Some(5), ..Default::default() }, None), ["terms.schedule.prefetch"]);
        let fine = Schedule { start: Some(at(1)), prefetch: Some(5), deadline: Some(at(9)), ..Default::default() };
        assert!(fields(fine, Some(10)).is_empty());
    }
}
