//! The terms of a job, from the wire and back.

use crate::app::Violations;
use sutler_core::terms::JobTerms;
use sutler_proto::v1;

/// The terms that a request gives; each that can't be as it is given is a violation of `terms.…`.
pub(super) fn read(_v: &mut Violations, wire: Option<&v1::JobTerms>) -> JobTerms {
    let Some(wire) = wire else { return JobTerms::default() };
    JobTerms { through_suspended: wire.through_suspended }
}

/// The terms of a job, as they are shown.
pub(super) fn shown(terms: &JobTerms) -> v1::JobTerms {
    v1::JobTerms { through_suspended: terms.through_suspended }
}
