//! What an attempt looks like from outside: its state in the words of the manager, and when time alone changes something.

use super::{Activity, Attempt, Course, Installing, Now, Op, Stage, State, Talk};
use std::time::Duration;
use sutler_base::{
    AttemptId,
    state::{ExecutionState, WaitReason},
};

/// Where an attempt is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its state; no end.
    pub state: ExecutionState,
    /// What it waits for, where it waits.
    pub wait: Option<WaitReason>,
    /// Which package of the job, from 0.
    pub item: usize,
    /// Bytes that are there, of that package, and bytes that there will be.
    pub bytes: (u64, u64),
    /// The step that runs; empty if none does.
    pub step: String,
    /// How it stands with the user; none while nothing is asked of them.
    pub user: Option<Waited>,
}

/// How long the user is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// Until when, on `CLOCK_BOOTTIME`.
    pub until: Duration,
    /// How often they have put it off.
    pub deferred: u32,
    /// Whether it is put off now; else the countdown runs.
    pub put_off: bool,
}

impl State {
    /// Where every attempt is that is not at its end.
    pub fn progress(&self, now: &Now) -> Vec<(AttemptId, Progress)> {
        self.attempts.iter().filter_map(|(id, a)| Some((id.clone(), self.progress_of(a, now)?))).collect()
    }

    /// The moment on `CLOCK_BOOTTIME` at which time alone changes something; none if it does not.
    pub fn wake_at(&self, now: &Now) -> Option<Duration> {
        self.attempts
            .values()
            .flat_map(|a| {
                let backoff = if let Activity::Backoff(until) = a.activity { Some(until) } else { None };
                let expires = a.record.offer.expire.filter(|_| a.is_between()).map(|at| {
                    let left = at.as_millisecond().saturating_sub(now.wall.as_millisecond()).max(0) as u64;
                    now.boot + Duration::from_millis(left)
                });
                // By the times that it was given: what has begun goes on.
                let opens = a.record.offer.times.as_ref().filter(|_| waits_to_begin(a)).and_then(|times| times.next(now));
                let asked = a.record.asked.as_ref().filter(|_| !a.record.started && waits_to_begin(a));
                let user =
                    asked.and_then(|asked| asked.due()).map(|due| now.boot.saturating_add(due.left(now))).filter(|at| *at > now.boot);
                let counted = asked.and_then(|asked| asked.due()).map(|due| due.count_at()).filter(|at| *at > now.boot);
                [backoff, expires, opens, user, counted, State::restart_again(&a.record, now)]
            })
            .flatten()
            .min()
    }

    fn progress_of(&self, attempt: &Attempt, now: &Now) -> Option<Progress> {
        let record = &attempt.record;
        let wait = |reason| (ExecutionState::Waiting, Some(reason), String::new());
        let asked = record.asked.as_ref().filter(|asked| !record.started && asked.due().is_some());
        let (state, wait, step) = match &record.stage {
            Stage::Finished { .. } | Stage::Canceled => return None,
            _ if attempt.activity == Activity::Signing => return None,
            Stage::Offered | Stage::Fetched(_) if record.awaits_restart(self.may_restart, now) => wait(WaitReason::Reboot),
            Stage::Offered if matches!(attempt.activity, Activity::Backoff(_)) && attempt.suspended => wait(WaitReason::TransferSuspended),
            _ if matches!(attempt.activity, Activity::Backoff(_)) => wait(WaitReason::Retry),
            Stage::Offered if record.verdict().is_some() => return None,
            Stage::Offered if attempt.activity == Activity::Fetching && !record.offer.inventory => {
                (ExecutionState::Downloading, None, String::new())
            }
            Stage::Offered if !attempt.doubted.is_empty() => wait(WaitReason::Turn),
            Stage::Offered => (ExecutionState::Offered, None, String::new()),
            Stage::Fetched(_) if self.held => wait(WaitReason::LocalHold),
            Stage::Fetched(_) if !record.timely(now) => wait(WaitReason::Window),
            Stage::Fetched(_) if !record.is_due(self.goes_down(now), now) => wait(WaitReason::Reboot),
            Stage::Fetched(_) if asked.is_some() => wait(WaitReason::User),
            Stage::Fetched(_) if !record.leased(now) => wait(WaitReason::Lease),
            Stage::Fetched(_) => wait(WaitReason::Turn),
            Stage::Installing(installing) if installing.waits_for_reboot(now) => wait(WaitReason::Reboot),
            Stage::Installing(installing) => installing_progress(installing, record.leased(now)),
        };
        let user = asked.filter(|_| wait == Some(WaitReason::User)).and_then(|asked| {
            let until = now.boot.saturating_add(asked.due()?.left(now));
            Some(Waited { until, deferred: asked.deferred, put_off: matches!(asked.talk, Talk::PutOff(_)) })
        });
        let fetched = attempt.ahead.filter(|_| state == ExecutionState::Downloading);
        Some(Progress { state, wait, item: fetched.unwrap_or(record.results.len()), bytes: attempt.bytes, step, user })
    }
}

/// Whether a package of the attempt is still to be begun.
fn waits_to_begin(attempt: &Attempt) -> bool {
    matches!(attempt.record.stage, Stage::Offered | Stage::Fetched(_))
}

fn installing_progress(installing: &Installing, leased: bool) -> (ExecutionState, Option<WaitReason>, String) {
    let back = matches!(installing.course, Course::Back { .. });
    match installing.op() {
        Some(op) if op.runs() && !installing.begun && !leased => (ExecutionState::Waiting, Some(WaitReason::Lease), String::new()),
        Some(Op::Step(n)) => {
            let name = installing.plan.steps.get(n).map(|s| s.name.clone()).unwrap_or_default();
            (if back { ExecutionState::Restoring } else { ExecutionState::Installing }, None, name)
        }
        Some(Op::Verify) => (ExecutionState::Verifying, None, String::new()),
        Some(Op::Logs | Op::Restore) => (ExecutionState::Restoring, None, String::new()),
        Some(Op::Trial) => (ExecutionState::Verifying, None, String::new()),
        Some(Op::Exchange | Op::Remove | Op::Displace(..)) => (ExecutionState::Installing, None, String::new()),
        Some(Op::VerifyGone | Op::Forget) => (ExecutionState::Verifying, None, String::new()),
        Some(Op::Commit) | None => (ExecutionState::Verifying, None, String::new()),
    }
}
