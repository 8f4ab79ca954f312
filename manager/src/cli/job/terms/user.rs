//! What a job means for whoever sits at a machine.

use crate::cli::when::{self, span};
use clap::Args;
use std::time::Duration;
use sutler_proto::v1;

/// What the user is told and decides, and whether the machine is restarted.
#[derive(Debug, Args)]
pub(super) struct UserArgs {
    /// Tell the machine's user this before it begins, and let a countdown run
    #[arg(long, value_name = "TEXT")]
    announce: Option<String>,
    /// How long the user has to answer (5s to 24h) [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = when::some_duration, requires = "announce")]
    countdown: Option<Duration>,
    /// How often the user may put it off [default: 0]
    #[arg(long, value_name = "N", requires = "announce")]
    deferrals: Option<i32>,
    /// For how long, each time (5s to 7d) [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = when::some_duration, requires = "deferrals")]
    defer_for: Option<Duration>,
    /// Let the user refuse it
    #[arg(long, requires = "announce")]
    may_refuse: bool,
    /// Offer it to the machine's user, who chooses it with `sutler-agent install`
    #[arg(long, conflicts_with = "announce")]
    available: bool,
    /// Restart machines where a step says that they must be, in the times in which the job may begin something
    #[arg(long)]
    reboot_in_window: bool,
}

impl UserArgs {
    /// What the options give; none if none is given.
    pub(super) fn wire(self) -> Option<v1::UserTerms> {
        let seconds = |d: Duration| prost_types::Duration { seconds: d.as_secs() as i64, nanos: 0 };
        let announcement = self.announce.map(|text| v1::Announcement {
            text,
            countdown: self.countdown.map(seconds),
            deferrals: self.deferrals.unwrap_or_default(),
            defer_for: self.defer_for.map(seconds),
            may_refuse: self.may_refuse,
        });
        let terms = v1::UserTerms { announcement, available: self.available, restart: self.reboot_in_window };
        (terms != v1::UserTerms::default()).then_some(terms)
    }
}

/// What of it is not as it is by default: a line each.
pub(super) fn lines(terms: &v1::UserTerms) -> Vec<String> {
    let time = |d: &Option<prost_types::Duration>| span(Duration::from_secs(d.map_or(0, |d| d.seconds.max(0) as u64)));
    let mut lines = Vec::new();
    if let Some(a) = &terms.announcement {
        let often = match a.deferrals {
            0 => String::new(),
            1 => format!(", may be put off once for {}", time(&a.defer_for)),
            n => format!(", may be put off {n} times for {} each", time(&a.defer_for)),
        };
        let refuse = if a.may_refuse { ", may be refused" } else { "" };
        lines.push(format!("announced to the user for {}{often}{refuse}: {}", time(&a.countdown), a.text));
    }
    if terms.available {
        lines.push("offered to the user, who chooses it".to_owned());
    }
    if terms.restart {
        lines.push("restarts machines where a step says that they must be".to_owned());
    }
    lines
}
