//! Between the wire and the machine's types.

use crate::install::LogEnd;
use crate::machine::{Announcement, Now, OPENINGS_MAX, Offer, OfferedItem, Opening, Progress, Record, Replace, Stage, Times};
use std::time::Duration;
use sutler_base::{
    AttemptId, Invalid, is_harmful, limits,
    manifest::{Dependency, requirement},
    outcome::Outcome,
    state::{ExecutionState, Intent, Timing},
};
use sutler_proto::{
    convert::{Word, time},
    v1::{self, connect_request::Message},
};

/// How much of a log file is in one message (bytes): the smallest that a manager may allow has room for it.
const LOG_PART: usize = 256 << 10;

/// The end of a log file, in parts.
pub(super) fn log<'a>(attempt: &AttemptId, log: &'a LogEnd) -> impl Iterator<Item = Message> + 'a {
    let attempt = attempt.to_string();
    log.bytes.chunks(LOG_PART).zip(0..).map(move |(data, part)| {
        Message::Log(v1::AttemptLog {
            attempt: attempt.clone(),
            item: log.item as u32,
            path: log.path.clone(),
            part,
            data: data.to_vec().into(),
            cut_bytes: log.cut,
        })
    })
}

/// An offer, checked; and how long its lease is (seconds).
pub(super) fn offer(wire: &v1::Offer, now: &Now) -> Result<(Offer, u32), Invalid> {
    if wire.items.is_empty() != wire.inventory || wire.items.len() > limits::JOB_PACKAGES_MAX {
        return Err(Invalid::new(format!("an offer has 1 to {} packages, not {}", limits::JOB_PACKAGES_MAX, wire.items.len())));
    }
    let offer = Offer {
        attempt: wire.attempt.parse()?,
        job: wire.job.chars().filter(|c| !c.is_control()).take(64).collect(),
        revision: wire.revision,
        items: wire.items.iter().map(item).collect::<Result<_, _>>()?,
        inventory: wire.inventory,
        expire: wire.expire_time.as_ref().map(time).transpose()?,
        continue_on_failure: wire.continue_on_failure,
        priority: match wire.priority {
            0 => 5,
            given => given.min(9) as u8,
        },
        times: wire.times.as_ref().map(|wire| times(wire, now)).transpose()?,
        announcement: wire.announcement.as_ref().map(|told| announcement(told, wire.deadline_time.as_ref())).transpose()?,
        timing: Timing::from_wire(wire.timing)?.unwrap_or_default(),
        restart: wire.restart,
        purpose: wire.purpose.chars().filter(char::is_ascii_uppercase).take(16).collect(),
    };
    Ok((offer, wire.lease_seconds))
}

/// What the user is told. Nothing that they read can move the cursor of a terminal.
fn announcement(wire: &v1::Announcement, deadline: Option<&prost_types::Timestamp>) -> Result<Announcement, Invalid> {
    if wire.text.len() > limits::ANNOUNCEMENT_MAX || wire.text.chars().any(is_harmful) {
        return Err(Invalid::new("an announcement is too long or has control characters"));
    }
    let span = |d: Option<&prost_types::Duration>, default: Duration| match d {
        None => Ok(default),
        Some(d) => Duration::try_from(*d).map_err(|_| Invalid::new("a span of an announcement is negative")),
    };
    Ok(Announcement {
        text: wire.text.clone(),
        countdown: span(wire.countdown.as_ref(), limits::COUNTDOWN_DEFAULT)?,
        deferrals: wire.deferrals.max(0) as u32,
        defer_for: span(wire.defer_for.as_ref(), limits::DEFER_FOR_DEFAULT)?,
        may_refuse: wire.may_refuse,
        deadline: deadline.map(time).transpose()?,
    })
}

/// When an attempt may be begun, as told at this moment: on the clock of the machine that never jumps.
pub(super) fn times(wire: &v1::Times, now: &Now) -> Result<Times, Invalid> {
    if wire.openings.len() > OPENINGS_MAX || wire.durations.len() > limits::JOB_PACKAGES_MAX {
        return Err(Invalid::new(format!(
            "an attempt has at most {OPENINGS_MAX} openings and {} durations, not {} and {}",
            limits::JOB_PACKAGES_MAX,
            wire.openings.len(),
            wire.durations.len()
        )));
    }
    let there =
        wire.now_time.as_ref().map(time).transpose()?.ok_or_else(|| Invalid::new("times come with the time at which they are told"))?;
    // What has begun before the machine was started has begun.
    let here = |at: &prost_types::Timestamp| {
        let ahead = i128::from(time(at)?.as_millisecond()) - i128::from(there.as_millisecond());
        let boot = (now.boot.as_millis() as i128).saturating_add(ahead).clamp(0, i128::from(u64::MAX));
        Ok::<_, Invalid>(Duration::from_millis(boot as u64))
    };
    let opening = |o: &v1::Opening| {
        let start = o.start_time.as_ref().ok_or_else(|| Invalid::new("an opening has a start time"))?;
        Ok(Opening { start: here(start)?, end: o.end_time.as_ref().map(here).transpose()? })
    };
    Ok(Times {
        boot_id: now.boot_id.clone(),
        openings: wire.openings.iter().map(opening).collect::<Result<_, Invalid>>()?,
        durations: wire.durations.iter().map(|seconds| Duration::from_secs((*seconds).into())).collect(),
    })
}

/// What is asked about, checked.
pub(super) fn checked(wire: &v1::CheckInstalled) -> Result<Vec<OfferedItem>, Invalid> {
    if wire.items.len() > limits::JOB_PACKAGES_MAX {
        return Err(Invalid::new(format!("at most {} packages are asked about, not {}", limits::JOB_PACKAGES_MAX, wire.items.len())));
    }
    wire.items.iter().map(item).collect()
}

fn item(wire: &v1::OfferItem) -> Result<OfferedItem, Invalid> {
    let value = |(name, value): (&String, &String)| Ok((name.parse()?, value.clone()));
    if wire.values.len() > limits::PARAMETERS_MAX {
        return Err(Invalid::new(format!(
            "an offer has at most {} values for a package, not {}",
            limits::PARAMETERS_MAX,
            wire.values.len()
        )));
    }
    let (envelope, intent) = match (&wire.uninstall[..], &wire.prefetch[..]) {
        ([], []) => (&wire.envelope, Intent::Install),
        ([], _) => (&wire.prefetch, Intent::Prefetch),
        _ => (&wire.uninstall, Intent::Uninstall),
    };
    Ok(OfferedItem {
        envelope: envelope.to_vec(),
        intent,
        replace: if wire.replace == v1::Replace::Always as i32 { Replace::Always } else { Replace::IfMissing },
        values: wire.values.iter().map(value).collect::<Result<_, Invalid>>()?,
        succeeded: wire.succeeded,
        needed: needed(&wire.needed)?,
        requirements: match &wire.requirements[..] {
            [] => Vec::new(),
            json => requirement::from_json(json)?,
        },
    })
}

fn needed(wire: &[v1::Dependency]) -> Result<Vec<Dependency>, Invalid> {
    if wire.len() > limits::RELATIONS_MAX {
        return Err(Invalid::new(format!("a package is offered for at most {} dependencies, not {}", limits::RELATIONS_MAX, wire.len())));
    }
    wire.iter().map(|d| Ok(Dependency { package: d.package.parse()?, versions: d.versions.parse()? })).collect()
}

/// Ids of attempts; what is none is left out.
pub(super) fn attempts(wire: &[String]) -> Vec<AttemptId> {
    wire.iter().filter_map(|id| id.parse().ok()).collect()
}

/// An attempt of the journal, for the hello.
pub(super) fn open_attempt(record: &Record, progress: Option<&Progress>) -> v1::OpenAttempt {
    let state = match (&record.stage, progress) {
        (Stage::Finished { outcome, .. }, _) => Outcome::parse(outcome).map_or(ExecutionState::Interrupted, |o| o.state),
        (_, Some(progress)) => progress.state,
        _ => ExecutionState::Offered,
    };
    v1::OpenAttempt {
        attempt: record.id().to_string(),
        state: state.to_wire(),
        job: record.offer.job.clone(),
        revision: record.offer.revision,
        purpose: record.offer.purpose.clone(),
    }
}

/// Where an attempt is.
pub(super) fn progress(id: &AttemptId, progress: &Progress, now: &Now) -> Message {
    let user = progress.user.as_ref();
    Message::Progress(v1::AttemptProgress {
        attempt: id.to_string(),
        state: progress.state.to_wire(),
        wait_reason: progress.wait.map(|w| w.as_str().to_owned()).unwrap_or_default(),
        item: progress.item as u32,
        bytes_done: progress.bytes.0,
        bytes_total: progress.bytes.1,
        step: progress.step.clone(),
        user_seconds: user.map_or(0, |user| user.until.saturating_sub(now.boot).as_secs().min(u32::MAX.into()) as u32),
        deferred: user.map_or(0, |user| user.deferred),
        put_off: user.is_some_and(|user| user.put_off),
    })
}

/// The exact bytes of an outcome, within what a message may have: where many packages failed, the ends of their outputs
/// are cut.
pub(super) fn outcome_bytes(mut outcome: Outcome) -> Vec<u8> {
    for keep in [limits::OUTPUT_TAIL_MAX, 16 << 10, 4 << 10, 256, 0] {
        for failure in outcome.items.iter_mut().filter_map(|i| i.failure.as_mut()) {
            failure.cut_output(keep);
            failure.message = failure.message.chars().take(2048).collect();
        }
        let bytes = outcome.to_bytes();
        if bytes.len() <= limits::OUTCOME_MAX {
            return bytes;
        }
    }
    outcome.items.clear();
    outcome.to_bytes()
}
