//! How a job is carried out: the options for it, and how they look.

use super::super::{error::CliError, session::Session};
use clap::Args;
use sutler_proto::v1;

/// How the job is carried out.
#[derive(Debug, Args)]
pub(super) struct TermsArgs {
    /// Get its bytes through although transfers are suspended (`transfer suspend`)
    #[arg(long)]
    through_suspended: bool,
}

impl TermsArgs {
    /// The terms that the options give; none if all of them are left to their defaults.
    pub(super) fn terms(self, _session: &Session) -> Result<Option<v1::JobTerms>, CliError> {
        let terms = v1::JobTerms { through_suspended: self.through_suspended };
        Ok((terms != v1::JobTerms::default()).then_some(terms))
    }
}

/// What of a job's terms is not as it is by default: a line each.
pub(super) fn lines(terms: &v1::JobTerms) -> Vec<String> {
    let through = terms.through_suspended.then(|| "its bytes flow although transfers are suspended".to_owned());
    through.into_iter().collect()
}
