//! How an execution moves: what cancels it, what runs it again, and what its row says.

use crate::model::{CancelRequest, Counts, Execution};
use std::time::Duration;
use sutler_base::{
    Timestamp,
    outcome::{Failure, Outcome},
    state::{CancelAwaits, CancelReason, CancelStage, Counter, ErrorKind, ExecutionState, Purpose, RetryKind},
};

/// What a request to cancel comes to for one execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// It is at an end already.
    Nothing,
    /// It was not offered: canceled at once.
    AtOnce,
    /// Its agent has to acknowledge, or its lease has to run out.
    Ask,
    /// A step has started: it runs to its end.
    TooLate,
}

/// Whether the agent has reported that a package is under way, so that a step may have started.
pub fn has_begun(state: ExecutionState) -> bool {
    use ExecutionState::*;
    matches!(state, Installing | Verifying | Restoring)
}

/// Whether a cancellation for this reason is also for the packages that follow one that has begun.
pub fn is_for_what_follows(reason: CancelReason) -> bool {
    use CancelReason::*;
    matches!(reason, JobCanceled | JobAborted | Replaced | Withdrawn)
}

/// What a request to cancel comes to; `follows`: something may follow the package with which it is, and is to be called off.
///
/// An agent that is asked decides for itself: what it started goes on.
pub fn cancellation(execution: &Execution, follows: bool) -> Cancellation {
    use ExecutionState::*;
    match execution.state {
        state if follows && has_begun(state) => Cancellation::Ask,
        Queued => Cancellation::AtOnce,
        Offered | Downloading | Waiting => Cancellation::Ask,
        Installing | Verifying | Restoring => Cancellation::TooLate,
        _ => Cancellation::Nothing,
    }
}

/// Whether a new member, or a client that is archived no longer, gets a row that is there back into the queue: it had left before
/// the newest attempt started. Earlier ones may have: then it left between a retry and its start. So does one whose uninstallation after
/// it had left came to an end.
pub fn comes_back(execution: &Execution) -> bool {
    if execution.purpose == Purpose::Leave {
        return execution.state.is_end();
    }
    execution.state == ExecutionState::Canceled && execution.reason.parse().is_ok_and(by_leaving)
}

/// Whether what was canceled for this reason is queued again once the job reaches the client anew, or still reaches it.
pub fn by_leaving(reason: CancelReason) -> bool {
    matches!(reason, CancelReason::LeftGroup | CancelReason::DestinationDeleted | CancelReason::ClientArchived | CancelReason::Revised)
}

/// Whether what was called off for this reason, by its rollout or a brake, waits for its turn again once that is final.
pub fn by_rollout(reason: CancelReason) -> bool {
    matches!(reason, CancelReason::JobPaused | CancelReason::PlaceGiven | CancelReason::Stopped)
}

/// What a cancellation waits for, of a client that is in contact or not.
pub fn cancel_awaits(cancel: &CancelRequest, online: bool) -> CancelAwaits {
    match cancel.stage {
        CancelStage::Asked if online => CancelAwaits::Acknowledgement,
        CancelStage::Asked => CancelAwaits::LeaseEnd,
        CancelStage::Acknowledged | CancelStage::LeaseOver => CancelAwaits::PackageEnd,
    }
}

/// Until when it is awaited at the latest; none where what has begun goes on to its end.
pub fn cancel_until(cancel: &CancelRequest) -> Option<Timestamp> {
    (cancel.stage == CancelStage::Asked).then_some(cancel.deadline)
}

/// The same in a sentence.
pub fn cancel_sentence(cancel: &CancelRequest, online: bool) -> String {
    let what = if by_rollout(cancel.reason) || matches!(cancel.reason, CancelReason::Revised | CancelReason::CameBack) {
        "called back"
    } else {
        "canceled"
    };
    let at = cancel.deadline.strftime("%Y-%m-%dT%H:%M:%SZ");
    let awaits = match cancel_awaits(cancel, online) {
        CancelAwaits::Acknowledgement => format!("awaits the agent's acknowledgement, or the end of its lease at {at}"),
        CancelAwaits::LeaseEnd => format!("awaits the end of its lease at {at}, for the client is out of contact"),
        CancelAwaits::PackageEnd => "the package that has begun goes on to its end, and nothing follows it".to_owned(),
    };
    format!("{what} ({}): {awaits}", cancel.reason)
}

/// What a re-execution does with one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It is not meant.
    Leave,
    /// A new attempt.
    NewAttempt,
    /// It waits: offered again at once.
    OfferAgain,
}

/// What a re-execution of these kinds does with `execution`; only rows with `error_kind`, if one is given.
pub fn again(execution: &Execution, kinds: &[RetryKind], error_kind: Option<ErrorKind>) -> Again {
    use ExecutionState::*;
    let kind = execution.reason.parse::<ErrorKind>().ok();
    if error_kind.is_some() && kind != error_kind {
        return Again::Leave;
    }
    let communication = execution.state == Failed && kind.is_some_and(ErrorKind::is_communication);
    let meant = match execution.state {
        Failed | Interrupted | Expired if communication => kinds.contains(&RetryKind::Communication),
        Failed | Interrupted | Expired => kinds.contains(&RetryKind::Error),
        Rejected => kinds.contains(&RetryKind::Rejected),
        Queued | Offered | Waiting if kinds.contains(&RetryKind::Waiting) => return Again::OfferAgain,
        _ => false,
    };
    if meant { Again::NewAttempt } else { Again::Leave }
}

/// What the row of an execution says after this outcome: the word and the sentence.
pub fn says(outcome: &Outcome) -> (String, String) {
    if matches!(outcome.state, ExecutionState::Canceled | ExecutionState::Expired) && !outcome.items.is_empty() {
        let done: Vec<_> = outcome.items.iter().map(|item| format!("{} {} {}", item.package, item.version, item.state)).collect();
        let what = if outcome.state == ExecutionState::Expired { "the job's time was over" } else { "it was called off" };
        return (String::new(), format!("{what} between two packages; until then: {}", done.join(", ")));
    }
    let Some(failure) = outcome.failure() else { return (String::new(), String::new()) };
    let word = if outcome.state == ExecutionState::Interrupted { ErrorKind::Interrupted } else { failure.kind };
    (word.as_str().to_owned(), sentence(failure))
}

/// One sentence about a failure: the step, how it ended, and the last line of its output.
pub fn sentence(failure: &Failure) -> String {
    let mut text = String::new();
    if let Some(step) = failure.step.as_ref().filter(|step| !failure.message.contains(step.as_str())) {
        text.push_str(&format!("step {}: ", sutler_base::quoted(step)));
    }
    text.extend(failure.message.chars().take(500));
    match (failure.exit_code, failure.signal) {
        (Some(code), _) if !text.contains(&code.to_string()) => text.push_str(&format!(" (exit code {code})")),
        (None, Some(signal)) if !text.contains(&signal.to_string()) => text.push_str(&format!(" (signal {signal})")),
        _ => {}
    }
    if let Some(line) = failure.output.lines().rev().find(|l| !l.trim().is_empty()) {
        let line: String = line.trim().chars().take(200).collect();
        text.push_str(&format!("; output ends with {}", sutler_base::quoted(&line)));
    }
    text
}

/// How far an execution is, in percent: of the bytes while it downloads, then a fixed share for what follows.
pub fn progress(execution: &Execution) -> i32 {
    use ExecutionState::*;
    match execution.state {
        Succeeded | AlreadyInstalled | AlreadyAbsent => 100,
        Downloading if execution.bytes_total > 0 => {
            (execution.bytes_done.min(execution.bytes_total) as u128 * 80 / execution.bytes_total as u128) as i32
        }
        Waiting if execution.bytes_total > 0 && execution.bytes_done >= execution.bytes_total => 80,
        Installing => 85,
        Verifying => 95,
        _ => 0,
    }
}

/// The counters of the domain from the counts per state: total, finished, error, rejected, canceled, waiting, running.
pub fn counter(counts: &Counts, which: Counter) -> i64 {
    counts.0.iter().filter(|(state, _)| state.counter() == which).map(|(_, n)| n).sum()
}

/// Whether nothing is open any more.
pub fn all_ended(counts: &Counts) -> bool {
    counts.0.iter().all(|(state, n)| state.is_end() || *n == 0)
}

/// How long a cancellation waits for an answer before it is final without one: a lease that was renewed a moment ago, and a
/// margin for the message that renewed it.
pub fn cancel_patience(lease_seconds: u32) -> Duration {
    Duration::from_secs(u64::from(lease_seconds) + 5)
}

/// When a cancellation that is asked for `now` is final without an answer.
pub fn cancel_deadline(now: Timestamp, lease_seconds: u32) -> Timestamp {
    now.saturating_add(cancel_patience(lease_seconds)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: ExecutionState, reason: &str) -> Execution {
        Execution {
            job: sutler_base::JobId::from_random([1; 16]),
            client: sutler_base::ClientId::from_random([1; 16]),
            state,
            reason: reason.into(),
            detail: String::new(),
            entered: Timestamp::UNIX_EPOCH,
            attempt: None,
            attempts: 0,
            revision: 1,
            item: 0,
            bytes_done: 0,
            bytes_total: 0,
            step: String::new(),
            cancel: None,
            hold: None,
            stage: 0,
            purpose: Purpose::Order,
            drifts: 0,
            change: 0,
        }
    }

    #[test]
    fn a_re_execution_touches_only_what_it_was_asked_for() {
        use ExecutionState::*;
        use RetryKind as K;
        let cases = [
            (Failed, "STEP_FAILED", K::Error, Again::NewAttempt),
            (Failed, "STEP_FAILED", K::Communication, Again::Leave),
            (Failed, "TRANSFER", K::Communication, Again::NewAttempt),
            (Failed, "TRANSFER", K::Error, Again::Leave),
            (Interrupted, "INTERRUPTED", K::Error, Again::NewAttempt),
            (Expired, "", K::Error, Again::NewAttempt),
            (Rejected, "PLATFORM_MISMATCH", K::Rejected, Again::NewAttempt),
            (Rejected, "PLATFORM_MISMATCH", K::Error, Again::Leave),
            (Queued, "", K::Waiting, Again::OfferAgain),
            (Waiting, "LOCAL_HOLD", K::Waiting, Again::OfferAgain),
            (Queued, "", K::Error, Again::Leave),
            (Succeeded, "", K::Error, Again::Leave),
            (Canceled, "JOB_CANCELED", K::Error, Again::Leave),
            (Installing, "", K::Waiting, Again::Leave),
        ];
        for (state, reason, kind, expected) in cases {
            assert_eq!(again(&row(state, reason), &[kind], None), expected, "{state} {reason} {kind}");
        }
        assert_eq!(again(&row(Failed, "STEP_FAILED"), &[K::Error], Some(ErrorKind::StepTimeout)), Again::Leave);
    }

    #[test]
    fn only_what_was_called_off_by_leaving_comes_back() {
        assert!(comes_back(&row(ExecutionState::Canceled, "LEFT_GROUP")));
        assert!(comes_back(&row(ExecutionState::Canceled, "DESTINATION_DELETED")));
        assert!(comes_back(&row(ExecutionState::Canceled, "CLIENT_ARCHIVED")));
        assert!(!comes_back(&row(ExecutionState::Canceled, "JOB_CANCELED")));
        assert!(!comes_back(&row(ExecutionState::Succeeded, "")));
        assert!(!comes_back(&row(ExecutionState::Failed, "STEP_FAILED")));
        // What was to be uninstalled may be half gone.
        let leaving = |state| Execution { purpose: Purpose::Leave, ..row(state, "STEP_FAILED") };
        assert!(comes_back(&leaving(ExecutionState::Failed)) && !comes_back(&leaving(ExecutionState::Installing)));
    }
}
