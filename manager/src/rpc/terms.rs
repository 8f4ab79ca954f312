//! The terms of a job, from the wire and back.

use crate::app::{Violations, schedule::Change};
use sutler_base::Timestamp;
use sutler_core::{
    schedule::{PREFETCH_MAX, Schedule},
    terms::JobTerms,
};
use sutler_proto::{
    convert::{time, wire_time},
    v1,
};

/// The terms that a request gives; each that can't be as it is given is a violation of `terms.…`.
pub(super) fn read(v: &mut Violations, wire: Option<&v1::JobTerms>) -> JobTerms {
    let Some(wire) = wire else { return JobTerms::default() };
    let schedule = wire.schedule.as_ref().map(|wire| {
        let given = schedule(v, "terms.schedule", wire);
        Schedule {
            start: given.start,
            prefetch: given.prefetch,
            deadline: given.deadline,
            ignore_windows: given.ignore_windows,
            ..Schedule::default()
        }
    });
    JobTerms { schedule: schedule.unwrap_or_default() }
}

/// The times that a request gives.
pub(super) fn schedule(v: &mut Violations, path: &str, wire: &v1::Schedule) -> Change {
    let mut moment = |field: &str, at: Option<&prost_types::Timestamp>| -> Option<Timestamp> {
        at.and_then(|at| v.take(&format!("{path}.{field}"), time(at)))
    };
    let (start, deadline) = (moment("start_time", wire.start_time.as_ref()), moment("deadline_time", wire.deadline_time.as_ref()));
    let prefetch = wire.prefetch.as_ref().and_then(|d| match u64::try_from(d.seconds) {
        Ok(seconds) if seconds <= PREFETCH_MAX && d.nanos == 0 => Some(seconds),
        _ => {
            v.add(&format!("{path}.prefetch"), format!("is whole seconds, at most {} days", PREFETCH_MAX / 86_400));
            None
        }
    });
    Change { start, prefetch, deadline, ignore_windows: wire.ignore_windows }
}

/// The terms of a job, as they are shown.
pub(super) fn shown(terms: &JobTerms) -> v1::JobTerms {
    let s = &terms.schedule;
    let schedule = v1::Schedule {
        start_time: s.start.map(wire_time),
        prefetch: s.prefetch.map(|seconds| prost_types::Duration { seconds: seconds as i64, nanos: 0 }),
        deadline_time: s.deadline.map(wire_time),
        ignore_windows: s.ignore_windows,
        start_failure: s.failure.clone(),
    };
    v1::JobTerms { schedule: (*s != Schedule::default()).then_some(schedule) }
}
