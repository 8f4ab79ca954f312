//! The terms of a job, from the wire and back: a file for each of them.

mod rollout;
mod schedule;

pub(super) use rollout::status;
pub(super) use schedule::change as schedule;

use crate::app::Violations;
use sutler_core::terms::JobTerms;
use sutler_proto::v1;

/// The terms that a request gives; each that can't be as it is given is a violation of `terms.…`.
pub(super) fn read(v: &mut Violations, wire: Option<&v1::JobTerms>) -> JobTerms {
    let Some(wire) = wire else { return JobTerms::default() };
    JobTerms {
        rollout: wire.rollout.as_ref().map(|wire| rollout::read(v, wire)).unwrap_or_default(),
        schedule: wire.schedule.as_ref().map(|wire| schedule::read(v, wire)).unwrap_or_default(),
        through_suspended: wire.through_suspended,
    }
}

/// The terms of a job, as they are shown.
pub(super) fn shown(terms: &JobTerms) -> v1::JobTerms {
    v1::JobTerms {
        rollout: Some(rollout::shown(&terms.rollout)),
        schedule: schedule::shown(&terms.schedule),
        through_suspended: terms.through_suspended,
    }
}
