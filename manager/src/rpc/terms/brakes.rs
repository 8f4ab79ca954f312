//! What a job says of retries, of clients that are offline, and of its budget, from the wire and back.

use crate::app::Violations;
use sutler_base::state::ErrorKind;
use sutler_core::brake::{
    budget::BUDGET_MAX,
    offline::{Offline, TTL_MAX},
    retry::{AFTER, AFTER_DEFAULT, RETRIES_MAX, Retries},
};
use sutler_proto::v1;

/// The retries that a request gives.
pub(super) fn retries(v: &mut Violations, wire: &v1::Retries) -> Option<Retries> {
    let count = u32::try_from(wire.count).ok().filter(|n| (1..=RETRIES_MAX).contains(n));
    if count.is_none() {
        v.add("terms.retries.count", format!("is 1 to {RETRIES_MAX}, not {}", wire.count));
    }
    let after = match &wire.after {
        None => Some(AFTER_DEFAULT),
        Some(after) => u32::try_from(after.seconds).ok().filter(|s| AFTER.contains(s) && after.nanos == 0),
    };
    if after.is_none() {
        v.add("terms.retries.after", format!("is {} to {} whole seconds", AFTER.start(), AFTER.end()));
    }
    if wire.error_kinds.len() > ErrorKind::ALL.len() {
        v.add("terms.retries.error_kinds", format!("has at most {} entries, not {}", ErrorKind::ALL.len(), wire.error_kinds.len()));
        return None;
    }
    let mut kinds = Vec::new();
    for (n, kind) in wire.error_kinds.iter().enumerate() {
        let field = format!("terms.retries.error_kinds[{n}]");
        let Some(kind) = v.take(&field, kind.parse::<ErrorKind>()) else { continue };
        if kind.is_rejection() || kind == ErrorKind::Offline {
            v.add(&field, format!("{kind} is a rule that says no, and nothing that fails"));
        } else if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Some(Retries { count: count?, after_seconds: after?, kinds })
}

/// The retries of a job, as they are shown.
pub(super) fn shown_retries(retries: &Retries) -> v1::Retries {
    v1::Retries {
        count: retries.count as i32,
        after: Some(seconds(retries.after_seconds)),
        error_kinds: retries.kinds.iter().map(ToString::to_string).collect(),
    }
}

fn seconds(seconds: u32) -> prost_types::Duration {
    prost_types::Duration { seconds: seconds.into(), nanos: 0 }
}

/// What a request says of clients that are offline.
pub(super) fn offline(v: &mut Violations, wire: &v1::OfflineClients) -> Offline {
    let ttl = wire.ttl.as_ref().map(|ttl| match u32::try_from(ttl.seconds) {
        Ok(seconds @ 1..=TTL_MAX) if ttl.nanos == 0 => seconds,
        _ => {
            v.add("terms.offline.ttl", format!("is 1 to {TTL_MAX} whole seconds"));
            1
        }
    });
    let action = match (v1::OfflineAction::try_from(wire.action), ttl) {
        (Ok(v1::OfflineAction::Queue), Some(ttl)) => return Offline::QueueFor(ttl),
        (Ok(v1::OfflineAction::Queue), None) => Offline::Queue,
        (Ok(v1::OfflineAction::Skip), _) => Offline::Skip,
        (Ok(v1::OfflineAction::Fail), _) => Offline::Fail,
        (Ok(v1::OfflineAction::Unspecified) | Err(_), _) => {
            v.add("terms.offline.action", format!("is QUEUE, SKIP or FAIL, not {}", wire.action));
            return Offline::Queue;
        }
    };
    if ttl.is_some() {
        v.add("terms.offline.ttl", "is given with QUEUE alone");
    }
    action
}

/// What a job says of clients that are offline, as it is shown; none where it waits for them.
pub(super) fn shown_offline(offline: Offline) -> Option<v1::OfflineClients> {
    let (action, ttl) = match offline {
        Offline::Queue => return None,
        Offline::QueueFor(ttl) => (v1::OfflineAction::Queue, Some(seconds(ttl))),
        Offline::Skip => (v1::OfflineAction::Skip, None),
        Offline::Fail => (v1::OfflineAction::Fail, None),
    };
    Some(v1::OfflineClients { action: action.into(), ttl })
}

/// A budget that a request gives, of a job or an operator.
pub(in crate::rpc) fn budget(v: &mut Violations, field: &str, wire: i32) -> Option<u32> {
    let budget = u32::try_from(wire).ok().filter(|n| *n <= BUDGET_MAX);
    if budget.is_none() {
        v.add(field, format!("is 0 to {BUDGET_MAX} clients an hour, not {wire}"));
    }
    budget
}
