//! The terms of a job, from the wire and back: a file for each of them.

mod brakes;
mod rollout;
mod schedule;
mod user;

pub(in crate::rpc) use brakes::budget;
pub(super) use rollout::status;
pub(super) use schedule::change as schedule;
pub(crate) use user::announced;

use crate::app::Violations;
use std::{ops::RangeInclusive, time::Duration};
use sutler_base::state::OnLeave;
use sutler_core::{rollout::Rollout, terms::JobTerms};
use sutler_proto::{convert::Word, v1};

/// How often what was installed may be detected again: it costs every client of the job a look at its disk.
const KEEP: RangeInclusive<Duration> = Duration::from_secs(3600)..=Duration::from_secs(366 * 86_400);

/// The terms that a request gives; each that can't be as it is given is a violation of `terms.…`.
pub(super) fn read(v: &mut Violations, wire: Option<&v1::JobTerms>) -> JobTerms {
    let Some(wire) = wire else { return JobTerms::default() };
    let keep = wire.keep.as_ref().and_then(|d| match Duration::try_from(*d) {
        Ok(keep) if KEEP.contains(&keep) => Some(keep),
        _ => {
            v.add("terms.keep", "is from one hour to 366 days");
            None
        }
    });
    let on_leave = v.take("terms.on_leave", OnLeave::from_wire(wire.on_leave)).flatten().unwrap_or_default();
    let stages = match &wire.rollout {
        Some(wire) => rollout::read(v, wire),
        // It changes nothing on a machine.
        None => Rollout { all_at_once: wire.inventory, ..Rollout::default() },
    };
    JobTerms {
        rollout: stages,
        inventory: wire.inventory,
        schedule: wire.schedule.as_ref().map(|wire| schedule::read(v, wire)).unwrap_or_default(),
        user: wire.user.as_ref().map(|wire| user::read(v, wire)).unwrap_or_default(),
        through_suspended: wire.through_suspended,
        keep,
        on_leave,
        retries: wire.retries.as_ref().and_then(|wire| brakes::retries(v, wire)),
        offline: wire.offline.as_ref().map(|wire| brakes::offline(v, wire)).unwrap_or_default(),
        budget: budget(v, "terms.budget", wire.budget).unwrap_or_default(),
    }
}

/// The terms of a job, as they are shown.
pub(super) fn shown(terms: &JobTerms) -> v1::JobTerms {
    v1::JobTerms {
        rollout: Some(rollout::shown(&terms.rollout)),
        schedule: schedule::shown(&terms.schedule),
        user: user::shown(&terms.user),
        through_suspended: terms.through_suspended,
        keep: terms.keep.and_then(|keep| keep.try_into().ok()),
        on_leave: terms.on_leave.to_wire(),
        inventory: terms.inventory,
        retries: terms.retries.as_ref().map(brakes::shown_retries),
        offline: brakes::shown_offline(terms.offline),
        budget: terms.budget.try_into().unwrap_or(i32::MAX),
    }
}
