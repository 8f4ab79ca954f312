//! How a job is carried out: the options for it, and how they look. A file for each part that is more than an option.

mod brakes;
mod rollout;
mod schedule;
mod user;

pub(super) use rollout::{status, word};
pub(super) use schedule::begins;

use super::super::{error::CliError, session::Session, when};
use clap::{Args, ValueEnum};
use std::time::Duration;
use sutler_proto::v1;

/// What becomes of what a job installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnLeave {
    /// It stays
    Keep,
    /// It is uninstalled
    Uninstall,
}

/// How the job is carried out.
#[derive(Debug, Args)]
pub(super) struct TermsArgs {
    #[command(flatten)]
    rollout: rollout::RolloutArgs,
    #[command(flatten)]
    schedule: schedule::ScheduleArgs,
    #[command(flatten)]
    user: user::UserArgs,
    /// Get its bytes through although transfers are suspended (`transfer suspend`)
    #[arg(long)]
    through_suspended: bool,
    /// Detect what it installed again this often (1h to 366d) while it stands, and install again what is gone [default: never]
    #[arg(long, value_name = "TIME", value_parser = when::some_duration)]
    keep: Option<Duration>,
    /// What becomes of what it installed on a client that leaves its groups while it stands [default: keep]
    #[arg(long, value_enum)]
    on_leave: Option<OnLeave>,
    #[command(flatten)]
    brakes: brakes::BrakeArgs,
}

impl TermsArgs {
    /// The terms that the options give; none if all of them are left to their defaults.
    pub(super) fn terms(self, session: &Session) -> Result<Option<v1::JobTerms>, CliError> {
        let on_leave = match self.on_leave {
            None => v1::OnLeave::Unspecified,
            Some(OnLeave::Keep) => v1::OnLeave::Keep,
            Some(OnLeave::Uninstall) => v1::OnLeave::Uninstall,
        };
        let terms = v1::JobTerms {
            rollout: self.rollout.wire(),
            schedule: self.schedule.wire(session),
            user: self.user.wire(),
            through_suspended: self.through_suspended,
            keep: self.keep.and_then(|keep| keep.try_into().ok()),
            on_leave: on_leave.into(),
            inventory: false,
            retries: self.brakes.retries(),
            offline: self.brakes.offline(),
            budget: self.brakes.budget(),
        };
        Ok((terms != v1::JobTerms::default()).then_some(terms))
    }
}

/// Terms for a job that has clients measure their facts, if it is one.
pub(super) fn with_inventory(terms: Option<v1::JobTerms>, inventory: bool) -> Option<v1::JobTerms> {
    if inventory { Some(v1::JobTerms { inventory, ..terms.unwrap_or_default() }) } else { terms }
}

/// The terms of a job for one that is made after it: without times that have passed, and without what the manager says of it.
pub(super) fn again(mut terms: v1::JobTerms, session: &Session) -> v1::JobTerms {
    if let Some(schedule) = &mut terms.schedule {
        schedule::forget_past(schedule, session);
    }
    terms
}

/// What of a job's terms is not as it is by default: a line each.
pub(super) fn lines(terms: &v1::JobTerms) -> Vec<String> {
    let mut lines: Vec<String> = terms.rollout.iter().flat_map(rollout::lines).collect();
    lines.extend(terms.schedule.iter().flat_map(schedule::lines));
    lines.extend(terms.user.iter().flat_map(user::lines));
    if terms.through_suspended {
        lines.push("its bytes flow although transfers are suspended".to_owned());
    }
    if let Some(keep) = terms.keep.and_then(|keep| Duration::try_from(keep).ok()) {
        lines.push(format!("what it installed is looked at every {}, and installed again where it is gone", when::span(keep)));
    }
    if terms.on_leave() == v1::OnLeave::Uninstall {
        lines.push("what it installed is uninstalled where a client leaves its reach".to_owned());
    }
    lines.extend(brakes::lines(terms));
    lines
}
