//! How a job is carried out: the options for it, and how they look.

use super::super::{error::CliError, session::Session};
use clap::Args;
use sutler_proto::v1;

/// How the job is carried out.
#[derive(Debug, Args)]
pub(super) struct TermsArgs {}

impl TermsArgs {
    /// The terms that the options give; none if all of them are left to their defaults.
    pub(super) fn terms(self, _session: &Session) -> Result<Option<v1::JobTerms>, CliError> {
        Ok(None)
    }
}

/// What of a job's terms is not as it is by default: a line each.
pub(super) fn lines(_terms: &v1::JobTerms) -> Vec<String> {
    vec![]
}
