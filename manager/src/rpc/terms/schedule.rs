//! The times of a job, from the wire and back.

use crate::app::{Violations, schedule::Change};
use sutler_base::{Timestamp, state::Timing};
use sutler_core::schedule::{PREFETCH_MAX, Schedule};
use sutler_proto::{
    convert::{Word, time, wire_time},
    v1,
};

/// The times that a new job is given.
pub(super) fn read(v: &mut Violations, wire: &v1::Schedule) -> Schedule {
    let given = change(v, "terms.schedule", wire);
    Schedule {
        start: given.start,
        prefetch: given.prefetch,
        deadline: given.deadline,
        ignore_windows: given.ignore_windows,
        timing: given.timing.unwrap_or_default(),
        ..Schedule::default()
    }
}

/// The times that a request gives.
pub(in crate::rpc) fn change(v: &mut Violations, path: &str, wire: &v1::Schedule) -> Change {
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
    let timing = v.take(&format!("{path}.timing"), Timing::from_wire(wire.timing)).flatten();
    Change { start, prefetch, deadline, ignore_windows: wire.ignore_windows, timing }
}

/// The times of a job, as they are shown; none if it has none.
pub(super) fn shown(s: &Schedule) -> Option<v1::Schedule> {
    let schedule = v1::Schedule {
        start_time: s.start.map(wire_time),
        prefetch: s.prefetch.map(|seconds| prost_types::Duration { seconds: seconds as i64, nanos: 0 }),
        deadline_time: s.deadline.map(wire_time),
        ignore_windows: s.ignore_windows,
        timing: s.timing.to_wire(),
        start_failure: s.failure.clone(),
    };
    (*s != Schedule::default()).then_some(schedule)
}
