//! Retries by themselves, clients that are offline, and a budget.

use crate::cli::when;
use clap::Args;
use std::time::Duration;
use sutler_base::{quoted, state::ErrorKind};
use sutler_proto::v1;

/// What holds a job back, and what is tried again.
#[derive(Debug, Args)]
pub(in crate::cli::job) struct BrakeArgs {
    /// Run what failed again by itself, so often at most (1 to 20) [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=20))]
    retries: Option<i32>,
    /// How long after the failure the first retry comes; each further one after twice as long [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = when::some_duration, requires = "retries")]
    retry_after: Option<Duration>,
    /// For which kinds of errors, such as TRANSFER,STEP_TIMEOUT [default: those that may be over by then]
    #[arg(long, value_name = "KIND,…", value_parser = kind, value_delimiter = ',', requires = "retries")]
    retry_on: Vec<String>,
    /// What becomes of clients that are offline when their turn comes: queue (they wait), queue:TTL (for so long), skip, or fail
    /// [default: queue]
    #[arg(long, value_name = "queue[:TTL]|skip|fail", value_parser = offline)]
    offline: Option<v1::OfflineClients>,
    /// How many clients are let go within an hour, such as 100/h
    #[arg(long, value_name = "N/h", value_parser = when::per_hour)]
    budget: Option<i32>,
}

fn kind(text: &str) -> Result<String, String> {
    text.trim().to_ascii_uppercase().parse::<ErrorKind>().map(|kind| kind.to_string()).map_err(|e| e.0)
}

fn wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// `queue`, `queue:3d`, `skip`, `fail`
fn offline(text: &str) -> Result<v1::OfflineClients, String> {
    let of = |action: v1::OfflineAction, ttl| v1::OfflineClients { action: action.into(), ttl };
    match text.split_once(':') {
        Some(("queue", ttl)) => Ok(of(v1::OfflineAction::Queue, Some(wire(when::some_duration(ttl)?)))),
        None if text == "queue" => Ok(of(v1::OfflineAction::Queue, None)),
        None if text == "skip" => Ok(of(v1::OfflineAction::Skip, None)),
        None if text == "fail" => Ok(of(v1::OfflineAction::Fail, None)),
        _ => Err(format!("clients that are offline are for queue, queue:3d, skip or fail, not {}", quoted(text))),
    }
}

impl BrakeArgs {
    /// The retries that the options give.
    pub(super) fn retries(&self) -> Option<v1::Retries> {
        let count = self.retries?;
        Some(v1::Retries { count, after: self.retry_after.map(wire), error_kinds: self.retry_on.clone() })
    }

    /// What they say of clients that are offline.
    pub(super) fn offline(&self) -> Option<v1::OfflineClients> {
        self.offline
    }

    /// The budget; 0 if none is given.
    pub(super) fn budget(&self) -> i32 {
        self.budget.unwrap_or_default()
    }
}

fn span(wire: Option<&prost_types::Duration>) -> Option<String> {
    wire.and_then(|d| Duration::try_from(*d).ok()).map(when::span)
}

/// What of it is not as it is by default: a line each.
pub(super) fn lines(terms: &v1::JobTerms) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(retries) = &terms.retries {
        let after = span(retries.after.as_ref()).unwrap_or_default();
        let on = if retries.error_kinds.is_empty() { String::new() } else { format!(", after {}", retries.error_kinds.join(" ")) };
        lines.push(format!("what fails is run again up to {} times{on}; the first time after {after}", retries.count));
    }
    if let Some(offline) = &terms.offline {
        lines.push(match offline.action() {
            v1::OfflineAction::Skip => "clients that are offline when their turn comes are passed over".to_owned(),
            v1::OfflineAction::Fail => "clients that are offline when their turn comes fail".to_owned(),
            _ => format!("clients that are offline when their turn comes expire after {}", span(offline.ttl.as_ref()).unwrap_or_default()),
        });
    }
    if terms.budget > 0 {
        lines.push(format!("at most {} clients are let go within an hour", terms.budget));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_offline_clients_is_one_of_four() {
        for text in ["queue", "queue:3d", "skip", "fail"] {
            assert!(offline(text).is_ok(), "{text}");
        }
        for text in ["", "queue:", "queue:0s", "skip:3d", "QUEUE", "wait"] {
            assert!(offline(text).is_err(), "{text}");
        }
        assert_eq!(kind("step_timeout").unwrap(), "STEP_TIMEOUT");
        assert!(kind("NONSENSE").is_err());
    }
}
