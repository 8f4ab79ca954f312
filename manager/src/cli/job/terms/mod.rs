//! How a job is carried out: the options for it, and how they look. A file for each part.

mod rollout;
mod schedule;

pub(super) use rollout::{status, word};
pub(super) use schedule::{ScheduleArgs, begins};

use super::super::{error::CliError, session::Session};
use clap::Args;
use sutler_proto::v1;

/// How the job is carried out.
#[derive(Debug, Args)]
pub(super) struct TermsArgs {
    #[command(flatten)]
    rollout: rollout::RolloutArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Get its bytes through although transfers are suspended (`transfer suspend`)
    #[arg(long)]
    through_suspended: bool,
}

impl TermsArgs {
    /// The terms that the options give; none if all of them are left to their defaults.
    pub(super) fn terms(self, session: &Session) -> Result<Option<v1::JobTerms>, CliError> {
        let terms =
            v1::JobTerms { rollout: self.rollout.wire(), schedule: self.schedule.wire(session), through_suspended: self.through_suspended };
        Ok((terms != v1::JobTerms::default()).then_some(terms))
    }
}

/// What of a job's terms is not as it is by default: a line each.
pub(super) fn lines(terms: &v1::JobTerms) -> Vec<String> {
    let stages = terms.rollout.iter().flat_map(rollout::lines);
    let through = terms.through_suspended.then(|| "its bytes flow although transfers are suspended".to_owned());
    stages.chain(terms.schedule.iter().flat_map(schedule::lines)).chain(through).collect()
}
