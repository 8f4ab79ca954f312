//! When a job is carried out.

use crate::cli::{
    output::word,
    session::Session,
    when::{self, Until, moment, span},
};
use clap::{Args, ValueEnum};
use std::time::Duration;
use sutler_proto::v1;

/// When it is carried out.
#[derive(Debug, Args)]
pub(super) struct ScheduleArgs {
    /// Start it by itself then, and not before: from now (8h) or a time (2027-01-31T22:00:00+01:00)
    #[arg(long = "at", value_name = "WHEN", value_parser = when::until)]
    start: Option<Until>,
    /// So long before the start time clients fetch what it needs, such as 2h
    #[arg(long, value_name = "DURATION", value_parser = when::some_duration)]
    prefetch: Option<Duration>,
    /// From then on maintenance windows do not hold it up: from now (7d) or a time (2027-02-01T06:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = when::until)]
    deadline: Option<Until>,
    /// Begin outside of maintenance windows, too
    #[arg(long)]
    ignore_windows: bool,
    /// When of the machine's life it begins: at once, at its next start, or when it goes down [default: now]
    #[arg(long, value_enum)]
    timing: Option<Timing>,
}

/// A moment of a machine's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Timing {
    /// As soon as it may
    Now,
    /// At the machine's next start, before anything else
    AtBoot,
    /// When the machine goes down
    AtShutdown,
}

impl ScheduleArgs {
    /// The times that the options give; none if none is given.
    pub(super) fn wire(self, session: &Session) -> Option<v1::Schedule> {
        let schedule = v1::Schedule {
            start_time: self.start.map(|at| at.wire(session.now())),
            prefetch: self.prefetch.map(|early| prost_types::Duration { seconds: early.as_secs() as i64, nanos: 0 }),
            deadline_time: self.deadline.map(|at| at.wire(session.now())),
            ignore_windows: self.ignore_windows,
            timing: match self.timing {
                None => v1::Timing::Unspecified,
                Some(Timing::Now) => v1::Timing::Now,
                Some(Timing::AtBoot) => v1::Timing::AtBoot,
                Some(Timing::AtShutdown) => v1::Timing::AtShutdown,
            }
            .into(),
            start_failure: String::new(),
        };
        (schedule != v1::Schedule::default()).then_some(schedule)
    }
}

/// Forgets times that have passed, and what the manager says of them.
pub(super) fn forget_past(schedule: &mut v1::Schedule, session: &Session) {
    let now = session.now().as_second();
    let ahead = |at: &prost_types::Timestamp| at.seconds > now;
    schedule.start_time = schedule.start_time.take().filter(ahead);
    schedule.deadline_time = schedule.deadline_time.take().filter(ahead);
    if schedule.start_time.is_none() {
        schedule.prefetch = None;
    }
    schedule.start_failure.clear();
}

/// What of it is not as it is by default: a line each.
pub(super) fn lines(s: &v1::Schedule) -> Vec<String> {
    let mut lines = Vec::new();
    if s.start_time.is_some() {
        let early = s.prefetch.as_ref().map(|d| Duration::from_secs(d.seconds.max(0) as u64));
        let early = early.map(|early| format!(", fetched from {} before", span(early))).unwrap_or_default();
        lines.push(format!("scheduled for {}{early}", moment(&s.start_time)));
    }
    if s.deadline_time.is_some() {
        lines.push(format!("maintenance windows hold it up until {}", moment(&s.deadline_time)));
    }
    if s.ignore_windows {
        lines.push("ignores maintenance windows".to_owned());
    }
    match s.timing() {
        v1::Timing::AtBoot => lines.push("begins at the next start of each machine".to_owned()),
        v1::Timing::AtShutdown => lines.push("begins when a machine goes down".to_owned()),
        _ => {}
    }
    if !s.start_failure.is_empty() {
        lines.push(format!("could not be started when its time had come: {}", s.start_failure));
    }
    lines
}

/// What a job that has just been started says of when that is.
pub(in crate::cli::job) fn begins(job: &v1::Job) -> String {
    let start = job.terms.as_ref().and_then(|t| t.schedule.as_ref()).map(|s| moment(&s.start_time)).unwrap_or_default();
    match word!(JobState, "JOB_STATE", job.state).as_str() {
        "SCHEDULED" => format!("scheduled for {start}"),
        _ if job.terms.as_ref().is_some_and(|t| t.schedule.as_ref().is_some_and(|s| s.prefetch.is_some())) => {
            format!("fetched from now on, and scheduled for {start}")
        }
        _ => "started".to_owned(),
    }
}
