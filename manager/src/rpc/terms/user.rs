//! What a job means for the user of a machine, from the wire and back.

use crate::app::Violations;
use std::{ops::RangeInclusive, time::Duration};
use sutler_base::{is_harmful, limits};
use sutler_core::user::{Announcement, UserTerms};
use sutler_proto::v1;

/// What a request gives.
pub(super) fn read(v: &mut Violations, wire: &v1::UserTerms) -> UserTerms {
    UserTerms {
        announcement: wire.announcement.as_ref().map(|wire| announcement(v, wire)),
        available: wire.available,
        restart: wire.restart,
    }
}

fn announcement(v: &mut Violations, wire: &v1::Announcement) -> Announcement {
    const PATH: &str = "terms.user.announcement";
    v.text(&format!("{PATH}.text"), &wire.text, limits::ANNOUNCEMENT_MAX);
    if wire.text.trim().is_empty() {
        v.add(&format!("{PATH}.text"), "is what the user reads; give it");
    } else if wire.text.chars().any(is_harmful) {
        v.add(&format!("{PATH}.text"), "is one line, without control characters");
    }
    let deferrals = match u32::try_from(wire.deferrals) {
        Ok(n) if n <= limits::DEFERRALS_MAX => n,
        _ => {
            v.add(&format!("{PATH}.deferrals"), format!("is 0 to {}, not {}", limits::DEFERRALS_MAX, wire.deferrals));
            0
        }
    };
    if wire.defer_for.is_some() && deferrals == 0 {
        v.add(&format!("{PATH}.defer_for"), "goes with deferrals; give how many");
    }
    let default = Announcement::default();
    Announcement {
        text: wire.text.clone(),
        countdown: span(v, "countdown", wire.countdown.as_ref(), limits::COUNTDOWN).unwrap_or(default.countdown),
        deferrals,
        defer_for: span(v, "defer_for", wire.defer_for.as_ref(), limits::DEFER_FOR).unwrap_or(default.defer_for),
        may_refuse: wire.may_refuse,
    }
}

/// Whole seconds.
fn span(v: &mut Violations, name: &str, wire: Option<&prost_types::Duration>, range: RangeInclusive<Duration>) -> Option<Duration> {
    let span = wire.filter(|d| d.nanos == 0).and_then(|d| Duration::try_from(*d).ok()).filter(|d| range.contains(d));
    if wire.is_some() && span.is_none() {
        let (least, most) = (range.start().as_secs(), range.end().as_secs());
        v.add(&format!("terms.user.announcement.{name}"), format!("is {least} to {most} whole seconds"));
    }
    span
}

/// As it is shown; none if nothing is said.
pub(super) fn shown(terms: &UserTerms) -> Option<v1::UserTerms> {
    let wire =
        v1::UserTerms { announcement: terms.announcement.as_ref().map(announced), available: terms.available, restart: terms.restart };
    (*terms != UserTerms::default()).then_some(wire)
}

/// An announcement as it is shown, and told to agents.
pub(crate) fn announced(a: &Announcement) -> v1::Announcement {
    let seconds = |d: Duration| Some(prost_types::Duration { seconds: d.as_secs() as i64, nanos: 0 });
    v1::Announcement {
        text: a.text.clone(),
        countdown: seconds(a.countdown),
        deferrals: a.deferrals as i32,
        defer_for: seconds(a.defer_for).filter(|_| a.deferrals > 0),
        may_refuse: a.may_refuse,
    }
}
