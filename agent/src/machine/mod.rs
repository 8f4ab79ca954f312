//! The agent as a value: what it does next follows from what it holds and from what happens to it. No I/O, no clock.
//!
//! [`State::handle`] takes an event and the time and gives back effects. The loop performs them in their order and says
//! what came of them, as events again. The promises that are kept here, and tested here:
//!
//! - Nothing of an attempt is started before the journal has acknowledged a record that says that it is.
//! - A step is started at most once per (attempt, package, step, run), also by an agent that was killed in between: what
//!   a record says was begun is picked up, never started.
//! - No step is started without a lease; nothing at all after a cancel was acknowledged as *not started*.
//! - What a job announces to the user, or orders for a start or the stop of the machine, is not begun before that.
//! - Between two packages it can be called off, and can expire, as before the first: the outcome then says what was done until there.
//!   One that is called off while a package is under way goes on to the end of that one, and begins none after it.
//! - No package is begun outside of the times that the manager gave, or where it does not fit into them. What has begun goes on.
//! - Installations run one at a time. One that has begun keeps its turn until its end, whatever it waits for: half
//!   installed software is in nobody's way but for a bounded time. Who waits before that, or downloads, holds up no other.

mod boot;
mod displaced;
mod event;
mod record;
mod times;
mod user;
mod view;

#[cfg(test)]
mod tests;

pub use boot::{ByWall, Restart};
pub use displaced::{Displaced, Leaving};
pub use event::{Effect, Event, Now, OpReport, Prepared, Restored, StepReport};
pub use record::{Course, Installing, Lease, Offer, OfferedItem, Op, Plan, PlannedStep, Record, Replace, Stage};
pub use times::{OPENINGS_MAX, Opening, Times};
pub use user::{Announced, Announcement, Asked, Due, Talk, UserAnswer};
pub use view::{Progress, Waited};

use std::{collections::BTreeMap, time::Duration};
use sutler_base::{
    AttemptId, ClientId, PackageName, Timestamp, limits,
    manifest::Phase,
    outcome::{Failure, ItemResult, Outcome},
    state::{ErrorKind, ExecutionState},
};
use user::{Consent, consent};

/// How many attempts fetch at the same time.
pub const FETCHES_MAX: usize = 2;
/// How many times a step is run whose exit code means *later*.
pub const RUNS_MAX: u32 = 4;
/// The wait before such a run: this, times the number of runs so far.
const RUN_PAUSE: Duration = Duration::from_secs(10);
/// The shortest and the longest wait before a transfer is tried again.
const FETCH_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What an attempt is doing at this moment; lost with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Nothing: whatever is next can be decided.
    Idle,
    /// Waits for the journal.
    Journaling,
    /// Fetches; or measures, for an inventory.
    Fetching,
    /// An op runs.
    Performing,
    /// Waits until this moment (on `CLOCK_BOOTTIME`) for another try.
    Backoff(Duration),
    /// The outcome is being signed.
    Signing,
}

#[derive(Debug, Clone)]
struct Attempt {
    record: Record,
    activity: Activity,
    /// Transfers that failed since the last one that went on.
    tries: u32,
    bytes: (u64, u64),
    /// The manager asked to call it off: acknowledged when the journal has it; between two packages its outcome is the answer.
    canceling: bool,
    /// The offer was not yet acknowledged.
    accepting: bool,
    /// The number of the write that is waited for: an earlier one says nothing about what the record is now.
    write: u64,
    /// Until when the next run of a step waits, once the end of the last one is journaled.
    again: Option<Duration>,
    /// Packages that something else was installing while this fetched, or waited for its turn: whether they are there has to
    /// be seen again after that.
    doubted: Vec<PackageName>,
    /// The manager said that it does not want it any more: no lease will come.
    unwanted: bool,
    /// The next package is about to be begun, and nothing of it was done; whether anything of the attempt was before.
    beginning: Option<bool>,
    /// The package that it fetches although it is not its turn.
    ahead: Option<usize>,
    /// That its next package is fetched is not written down: it is with the beginning of that one, or when that has to wait.
    fetched: bool,
    /// It waits because the manager gives this machine no bytes.
    suspended: bool,
    /// That it has the machine restarted is about to be written down.
    restarting: bool,
    /// The number of the write by which it is on disk that nothing follows what is under way, until the manager was told.
    ending: Option<u64>,
}

impl Attempt {
    fn new(record: Record, activity: Activity, accepting: bool) -> Attempt {
        Attempt {
            record,
            activity,
            tries: 0,
            bytes: (0, 0),
            canceling: false,
            accepting,
            write: 0,
            again: None,
            doubted: vec![],
            unwanted: false,
            beginning: None,
            ahead: None,
            fetched: false,
            suspended: false,
            restarting: false,
            ending: None,
        }
    }

    /// Whether the package that is staged is to be installed only where it is not there, and may be there by now; or one whose
    /// place it takes may be.
    fn asks_again(&self, plan: &Plan) -> bool {
        let item = self.record.offer.items.get(self.record.results.len());
        let there = self.doubted.contains(&plan.package) && item.is_some_and(|item| item.replace == Replace::IfMissing);
        there || self.doubted.iter().any(|package| plan.supersedes.contains(package))
    }

    /// Whether its next package is to be fetched or begun, and nothing of that is done or being written down.
    fn is_between(&self) -> bool {
        let waits = matches!(self.activity, Activity::Idle | Activity::Fetching | Activity::Backoff(_));
        waits && matches!(self.record.stage, Stage::Offered | Stage::Fetched(_)) && self.record.verdict().is_none()
    }

    /// Has the record written as it is now; nothing goes on before that is acknowledged.
    fn journal(&mut self, effects: &mut Vec<Effect>) {
        self.activity = Activity::Journaling;
        self.fetched = false;
        self.write += 1;
        effects.push(Effect::Journal(self.record.id().clone(), self.write));
    }
}

/// What the machine's own rules allow at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Installations are held.
    pub held: bool,
    /// The machine may be restarted for a job.
    pub may_restart: bool,
}

/// Everything that the agent works on.
#[derive(Debug, Clone)]
pub struct State {
    client: ClientId,
    attempts: BTreeMap<AttemptId, Attempt>,
    connected: bool,
    held: bool,
    /// The machine may be restarted for a job.
    may_restart: bool,
    /// The machine goes down; until when that is believed, on `CLOCK_BOOTTIME`.
    going_down: Option<Duration>,
    /// For the jitter of retries.
    random: u64,
}

impl State {
    /// An agent for this client that has these records in its journal, and the effects with which it goes on.
    ///
    /// What had been begun is picked up; a lease of another start of the machine is over.
    pub fn recover(client: ClientId, records: Vec<Record>, allowed: Allowed, random: u64, now: &Now) -> (State, Vec<Effect>) {
        let mut state = State {
            client,
            attempts: BTreeMap::new(),
            connected: false,
            held: allowed.held,
            may_restart: allowed.may_restart,
            going_down: None,
            random: random | 1,
        };
        let mut effects = Vec::new();
        for mut record in records {
            let asked = record.asked.clone();
            record.carry_over(now);
            let carried = record.asked != asked;
            let id = record.id().clone();
            let item = record.results.len();
            let mut activity = Activity::Idle;
            match &record.stage {
                Stage::Installing(Installing { begun: true, run, .. }) => {
                    let run = *run;
                    if let Stage::Installing(installing) = &record.stage
                        && let Some(op) = installing.op()
                    {
                        activity = Activity::Performing;
                        effects.push(match op {
                            Op::Step(n) => Effect::PickUp(id.clone(), item, n, run),
                            Op::Trial => Effect::Tried(id.clone()),
                            op => Effect::Perform(id.clone(), item, op, run),
                        });
                    }
                }
                Stage::Canceled => {
                    effects.push(Effect::Abandon(id.clone()));
                    effects.push(Effect::Retire(Box::new(record)));
                    continue;
                }
                _ => {}
            }
            // What was installed while this one waited for its turn is not known any more.
            let doubted = if let Stage::Fetched(plan) = &record.stage { plan.touches().cloned().collect() } else { vec![] };
            let mut attempt = Attempt { doubted, ..Attempt::new(record, activity, false) };
            if carried && activity == Activity::Idle {
                // So that the next start counts from what is left now.
                attempt.journal(&mut effects);
            }
            state.attempts.insert(id, attempt);
        }
        state.advance(now, &mut effects);
        (state, effects)
    }

    /// What follows from `event` at `now`.
    pub fn handle(&mut self, event: Event, now: &Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Offered(offer, lease) => self.offered(offer, lease, now, &mut effects),
            Event::Journaled(id, write) => self.journaled(&id, write, now, &mut effects),
            Event::Timed(id, times) => {
                if let Some(attempt) = self.attempts.get_mut(&id)
                    && !matches!(attempt.record.stage, Stage::Finished { .. } | Stage::Canceled)
                    && attempt.record.offer.times != times
                {
                    attempt.record.offer.times = times;
                    // Not waited for: a connection that ends before it is written is followed by one that says it again.
                    if attempt.activity == Activity::Idle {
                        attempt.journal(&mut effects);
                    }
                }
            }
            Event::Deadline(id, deadline) => {
                if let Some(attempt) = self.attempts.get_mut(&id)
                    && !matches!(attempt.record.stage, Stage::Finished { .. } | Stage::Canceled)
                    && attempt.record.take_deadline(deadline, now)
                    && attempt.activity == Activity::Idle
                {
                    // In the same way.
                    attempt.journal(&mut effects);
                }
            }
            Event::Leased(ids, seconds) => {
                for id in ids {
                    if let Some(attempt) = self.attempts.get_mut(&id)
                        && !matches!(attempt.record.stage, Stage::Finished { .. } | Stage::Canceled)
                    {
                        attempt.record.extend(Lease::of(seconds, now));
                        // Not waited for: a lease that the journal does not know only ends sooner.
                        if attempt.activity == Activity::Idle {
                            attempt.journal(&mut effects);
                        }
                    }
                }
            }
            Event::CancelAsked(id) => self.cancel(&id, true, &mut effects),
            Event::Connected(unwanted) => {
                self.connected = true;
                for (id, attempt) in &mut self.attempts {
                    attempt.unwanted = unwanted.contains(id);
                    // Transfers may have been resumed meanwhile, and nobody could say so.
                    let fetches = matches!(attempt.record.stage, Stage::Offered);
                    if attempt.suspended && fetches && matches!(attempt.activity, Activity::Backoff(_)) {
                        attempt.activity = Activity::Idle;
                        attempt.tries = 0;
                    }
                }
                for id in unwanted {
                    self.drop_unwanted(&id, &mut effects);
                }
                for (id, attempt) in &self.attempts {
                    if matches!(attempt.record.stage, Stage::Finished { .. }) && attempt.activity == Activity::Idle {
                        effects.push(Effect::Report(id.clone()));
                    }
                }
            }
            Event::Disconnected => self.connected = false,
            Event::Fetched(id, done, total) => {
                if let Some(attempt) = self.attempts.get_mut(&id) {
                    if done > attempt.bytes.0 {
                        attempt.tries = 0;
                    }
                    attempt.bytes = (done, total);
                }
            }
            Event::Measured(id, done) => self.measured(&id, done, now, &mut effects),
            Event::Prepared(id, prepared) => self.prepared(&id, prepared, now, &mut effects),
            Event::OpEnded(id, report) => self.op_ended(&id, report, now, &mut effects),
            Event::Signed(id, outcome, signature) => {
                if let Some(attempt) = self.attempts.get_mut(&id)
                    && attempt.activity == Activity::Signing
                {
                    attempt.record.stage = Stage::Finished { outcome, signature };
                    attempt.journal(&mut effects);
                }
            }
            Event::Recorded(id) => {
                let finished = |a: &&Attempt| matches!(a.record.stage, Stage::Finished { .. }) && a.activity == Activity::Idle;
                if self.attempts.get(&id).as_ref().is_some_and(finished)
                    && let Some(attempt) = self.attempts.remove(&id)
                {
                    effects.push(Effect::Retire(Box::new(attempt.record)));
                }
            }
            Event::RunNow(ids) => {
                for (id, attempt) in &mut self.attempts {
                    if matches!(attempt.activity, Activity::Backoff(_)) && (ids.is_empty() || ids.contains(id)) {
                        attempt.activity = Activity::Idle;
                        attempt.tries = 0;
                    }
                }
            }
            Event::Held(held) => self.held = held,
            Event::MayRestart(may) => self.may_restart = may,
            Event::GoesDown(within) => self.going_down = Some(now.boot.saturating_add(within)),
            Event::Tick => {}
        }
        self.advance(now, &mut effects);
        effects
    }

    /// The record of an attempt, as it is to be journaled.
    pub fn record(&self, id: &AttemptId) -> Option<&Record> {
        self.attempts.get(id).map(|a| &a.record)
    }

    /// Every attempt that the manager has not recorded the outcome of.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.attempts.values().map(|a| &a.record)
    }

    fn offered(&mut self, offer: Offer, seconds: u32, now: &Now, effects: &mut Vec<Effect>) {
        let id = offer.attempt.clone();
        if let Some(attempt) = self.attempts.get_mut(&id) {
            // The same offer again: the manager did not hear the answer, or renews it.
            match attempt.record.stage {
                Stage::Finished { .. } if attempt.activity == Activity::Idle => effects.push(Effect::Report(id)),
                Stage::Finished { .. } | Stage::Canceled => {}
                _ => {
                    attempt.record.extend(Lease::of(seconds, now));
                    attempt.record.offer.times = offer.times;
                    attempt.record.take_deadline(offer.announcement.and_then(|told| told.deadline), now);
                    if !attempt.accepting {
                        effects.push(Effect::Accept(id));
                    }
                }
            }
            return;
        }
        if self.attempts.len() >= limits::OPEN_ATTEMPTS_MAX {
            return;
        }
        let record = Record { lease: Some(Lease::of(seconds, now)), ..Record::new(offer, now.wall) };
        let mut attempt = Attempt::new(record, Activity::Idle, true);
        attempt.journal(effects);
        self.attempts.insert(id, attempt);
    }

    fn journaled(&mut self, id: &AttemptId, write: u64, now: &Now, effects: &mut Vec<Effect>) {
        let going_down = self.goes_down(now);
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        if attempt.ending.take_if(|ending| *ending <= write).is_some() {
            effects.push(Effect::NothingFollows(id.clone()));
        }
        if attempt.activity != Activity::Journaling || attempt.write != write {
            return;
        }
        attempt.activity = attempt.again.take().map_or(Activity::Idle, Activity::Backoff);
        if std::mem::take(&mut attempt.restarting) {
            effects.push(Effect::Restart(id.clone()));
        }
        if attempt.accepting {
            attempt.accepting = false;
            effects.push(Effect::Accept(id.clone()));
        }
        let leased = attempt.record.leased(now);
        if let Some(started) = attempt.beginning.take()
            && let Stage::Installing(installing) = &attempt.record.stage
            && (attempt.canceling
                || attempt.record.is_expired(now)
                || !attempt.record.timely(now)
                || !started && !attempt.record.may_be_first(going_down, now)
                || !leased && installing.op().is_some_and(Op::runs))
        {
            // The disk took so long that the window is closed, the lease or the time over, that the machine goes down, or that it was
            // called off meanwhile: as if it had not been begun.
            attempt.record.stage = if attempt.canceling && !started { Stage::Canceled } else { Stage::Fetched(installing.plan.clone()) };
            attempt.record.started = started;
            attempt.journal(effects);
            return;
        }
        match &mut attempt.record.stage {
            Stage::Canceled => {
                if attempt.canceling {
                    effects.push(Effect::AcknowledgeCancel(id.clone(), false));
                }
                effects.push(Effect::Abandon(id.clone()));
                if let Some(attempt) = self.attempts.remove(id) {
                    effects.push(Effect::Retire(Box::new(attempt.record)));
                }
            }
            Stage::Finished { .. } if self.connected => effects.push(Effect::Report(id.clone())),
            Stage::Installing(installing) if installing.begun => match installing.op() {
                // The disk took so long that the lease is over: as if it had not been begun.
                Some(op) if op.runs() && !leased => {
                    installing.begun = false;
                    attempt.journal(effects);
                }
                Some(op) => {
                    attempt.activity = Activity::Performing;
                    effects.push(Effect::Perform(id.clone(), attempt.record.results.len(), op, installing.run));
                }
                None => {}
            },
            _ => {}
        }
    }

    fn cancel(&mut self, id: &AttemptId, acknowledge: bool, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get_mut(id) else {
            // Never heard of, or done with: nothing of it will start.
            if acknowledge {
                effects.push(Effect::AcknowledgeCancel(id.clone(), false));
            }
            return;
        };
        // The outcome is the answer.
        if attempt.activity == Activity::Signing {
            return;
        }
        if matches!(attempt.record.stage, Stage::Finished { .. }) {
            if acknowledge && attempt.activity == Activity::Idle {
                effects.push(Effect::Report(id.clone()));
            }
            return;
        }
        if attempt.record.started {
            match &attempt.record.stage {
                _ if !acknowledge => {}
                Stage::Installing(_) if attempt.beginning.is_none() => {
                    if attempt.record.results.len() + 1 < attempt.record.offer.items.len() {
                        // What is under way goes on: nothing waits for this write but the answer.
                        attempt.record.ends = true;
                        attempt.write += 1;
                        attempt.ending = Some(attempt.write);
                        effects.push(Effect::Journal(id.clone(), attempt.write));
                    } else {
                        effects.push(Effect::AcknowledgeCancel(id.clone(), true));
                    }
                }
                // Nothing of the next package was done yet, and nothing will be: see `journaled` and `advance`.
                _ => attempt.canceling = true,
            }
            return;
        }
        attempt.canceling |= acknowledge;
        if attempt.record.stage != Stage::Canceled {
            attempt.record.stage = Stage::Canceled;
            attempt.journal(effects);
        }
    }

    /// The manager does not know this attempt, or has ended it: dropped, unless something was started.
    fn drop_unwanted(&mut self, id: &AttemptId, effects: &mut Vec<Effect>) {
        let finished = |a: &Attempt| matches!(a.record.stage, Stage::Finished { .. }) && a.activity == Activity::Idle && !a.record.started;
        if self.attempts.get(id).is_some_and(finished) {
            if let Some(attempt) = self.attempts.remove(id) {
                effects.push(Effect::Retire(Box::new(attempt.record)));
            }
        } else if self.attempts.contains_key(id) {
            self.cancel(id, false, effects);
        }
    }

    fn prepared(&mut self, id: &AttemptId, prepared: Prepared, now: &Now, effects: &mut Vec<Effect>) {
        let jitter = self.jitter();
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        // Called off in the meantime: whoever fetched it cleans up.
        if attempt.activity != Activity::Fetching {
            return;
        }
        let ahead = attempt.ahead.take();
        let is_full = |result: &ItemResult| result.failure.as_ref().is_some_and(|failure| failure.kind == ErrorKind::NoSpace);
        let prepared = match prepared {
            // Not as long as nothing was done yet: there may be room before it is begun, and else nothing is.
            Prepared::Ended(result) if ahead.is_some() && is_full(&result) => Prepared::Later("there is no room for it".into()),
            prepared => prepared,
        };
        match prepared {
            Prepared::Ready(_) | Prepared::Ended(_) if ahead.is_some() => {
                // Whether it may be installed, and is there already, is asked when it is its turn.
                attempt.record.ahead = ahead.map_or(0, |item| item + 1);
                attempt.doubted.clear();
                attempt.bytes = (0, 0);
            }
            Prepared::Ready(plan) => {
                attempt.record.staged_in.get_or_insert_with(|| now.boot_id.clone());
                attempt.record.stage = Stage::Fetched(plan);
                (attempt.activity, attempt.tries, attempt.fetched) = (Activity::Idle, 0, true);
                return;
            }
            Prepared::Ended(result) if is_as_it_was(result.state) && attempt.doubted.contains(&result.package) => {
                // Seen in the middle of another installation of it, which may yet be undone: asked again when that has ended.
                attempt.activity = Activity::Idle;
                return;
            }
            Prepared::Ended(result) => {
                attempt.record.results.push(result);
                attempt.bytes = (0, 0);
            }
            Prepared::Later(_) | Prepared::Suspended => {
                attempt.suspended = prepared == Prepared::Suspended;
                attempt.activity = Activity::Backoff(now.boot + pause(attempt.tries, jitter));
                attempt.tries = attempt.tries.saturating_add(1);
                return;
            }
        }
        attempt.tries = 0;
        attempt.journal(effects);
    }

    fn measured(&mut self, id: &AttemptId, done: bool, now: &Now, effects: &mut Vec<Effect>) {
        let jitter = self.jitter();
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        if attempt.activity != Activity::Fetching || !attempt.record.offer.inventory {
            return;
        }
        if done {
            attempt.record.measured = true;
            attempt.journal(effects);
        } else {
            attempt.activity = Activity::Backoff(now.boot + pause(attempt.tries, jitter));
            attempt.tries = attempt.tries.saturating_add(1);
        }
    }

    fn op_ended(&mut self, id: &AttemptId, report: OpReport, now: &Now, effects: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let asks = match report {
            OpReport::Step(StepReport::RebootSoft) => Some(false),
            OpReport::Step(StepReport::RebootHard) => Some(true),
            _ => None,
        };
        let Stage::Installing(installing) = &mut attempt.record.stage else { return };
        let (Activity::Performing, Some(op)) = (attempt.activity, installing.op()) else { return };
        if let Some(hard) = asks {
            let package = installing.plan.package.clone();
            attempt.record.restart_wanted(package, hard, now);
        }
        let Stage::Installing(installing) = &mut attempt.record.stage else { return };
        attempt.activity = Activity::Idle;
        installing.begun = false;
        match step_forward(installing, op, report, now) {
            After::Next => {
                installing.at += 1;
                installing.run = 0;
            }
            After::Over => installing.at = usize::MAX,
            After::Again(until) => {
                installing.run += 1;
                // Its end has to be on disk before the wait: a restart must not take it for one that was interrupted.
                attempt.again = Some(until);
                attempt.journal(effects);
                return;
            }
            After::Back(failure, end) => {
                installing.touched = installing.plan.first_after_exchange().is_some_and(|first| installing.at >= first);
                installing.turn_back(failure, end);
            }
            After::PutBack(failure) => {
                let end = if failure.kind.is_rejection() { ExecutionState::Rejected } else { ExecutionState::Failed };
                installing.put_back(failure, end);
            }
        }
        if installing.op().is_none() {
            let mut result = result_of(installing, now);
            // What was restarted since needs no restart, and what another package of the job asked for is that one's.
            result.reboot = attempt.record.restart_by(now).any(|package| *package == result.package);
            attempt.record.results.push(result);
            attempt.record.stage = Stage::Offered;
            attempt.bytes = (0, 0);
        }
        // Mostly one write with the beginning of what comes next: see `begin`.
        if !self.begin(id, now, effects)
            && let Some(attempt) = self.attempts.get_mut(id)
        {
            attempt.journal(effects);
        }
    }

    /// The package that is being installed, and those whose place it takes.
    fn underway(&self) -> Vec<PackageName> {
        let installing =
            |a: &Attempt| if let Stage::Installing(i) = &a.record.stage { Some(i.plan.touches().cloned().collect()) } else { None };
        self.attempts.values().find_map(installing).unwrap_or_default()
    }

    /// Does what can be done now. Asked after every event.
    fn advance(&mut self, now: &Now, effects: &mut Vec<Effect>) {
        if self.going_down.is_some_and(|until| until <= now.boot) {
            self.going_down = None;
        }
        let mut order: Vec<(bool, u8, Timestamp, AttemptId)> = self
            .attempts
            .iter()
            .map(|(id, a)| (!a.record.is_boot_due(now), a.record.offer.priority, a.record.accepted, id.clone()))
            .collect();
        order.sort();
        self.order_restart(now, effects);
        let mut fetching = self.attempts.values().filter(|a| a.activity == Activity::Fetching && !a.record.offer.inventory).count();
        for (_, _, _, id) in order {
            let underway = self.underway();
            let (going_down, restarts, boots) = (self.goes_down(now), self.restarts(now), self.boots(now));
            let Some(attempt) = self.attempts.get_mut(&id) else { continue };
            if let Activity::Backoff(until) = attempt.activity
                && until <= now.boot
            {
                attempt.activity = Activity::Idle;
            }
            let end = match &attempt.record {
                _ if !attempt.is_between() => None,
                record if attempt.canceling || record.ends => Some(ExecutionState::Canceled),
                record if record.is_expired(now) => Some(ExecutionState::Expired),
                _ => None,
            };
            if let Some(end) = end {
                effects.push(Effect::Abandon(id.clone()));
                attempt.activity = Activity::Signing;
                effects.push(Effect::Sign(self.outcome(&id, end, now)));
                continue;
            }
            if attempt.activity != Activity::Idle {
                continue;
            }
            if !attempt.record.started && attempt.record.asked.as_mut().is_some_and(|asked| asked.count(now)) {
                attempt.journal(effects);
                continue;
            }
            let called_off = attempt.unwanted && attempt.record.started && !attempt.record.leased(now);
            match &attempt.record.stage {
                // Its first packages are done; for the next one no permission will come.
                Stage::Offered | Stage::Fetched(_) if called_off && attempt.record.verdict().is_none() => {
                    effects.push(Effect::Abandon(id.clone()));
                    attempt.activity = Activity::Signing;
                    effects.push(Effect::Sign(self.outcome(&id, ExecutionState::Interrupted, now)));
                }
                Stage::Offered => {
                    if let Some(end) = attempt.record.verdict() {
                        if attempt.awaits_restart(self.may_restart, now) {
                            continue;
                        }
                        attempt.activity = Activity::Signing;
                        effects.push(Effect::Sign(self.outcome(&id, end, now)));
                    } else if attempt.record.offer.inventory {
                        attempt.activity = Activity::Fetching;
                        effects.push(Effect::Measure(id.clone()));
                    } else if underway.iter().any(|package| attempt.doubted.contains(package)) {
                        continue;
                    } else if fetching < FETCHES_MAX {
                        attempt.doubted = underway;
                        fetching += 1;
                        attempt.activity = Activity::Fetching;
                        attempt.ahead = attempt.record.next_ahead();
                        effects.push(match attempt.ahead {
                            Some(item) => Effect::FetchAhead(id.clone(), item),
                            None => Effect::Prepare(id.clone(), attempt.record.results.len()),
                        });
                    }
                }
                Stage::Fetched(plan) => {
                    if self.held || restarts || attempt.record.stops(now) || !attempt.record.leased(now) || !attempt.record.timely(now) {
                        continue;
                    }
                    if !attempt.record.is_due(going_down, now) || boots && !attempt.record.is_boot_due(now) {
                        continue;
                    }
                    if !attempt.record.started {
                        match consent(attempt.record.offer.announcement.as_ref(), attempt.record.asked.as_ref(), now) {
                            Consent::Given => {}
                            Consent::Awaited => continue,
                            Consent::Changed(asked, announce) => {
                                attempt.record.asked = Some(asked);
                                attempt.journal(effects);
                                effects.extend(announce.then(|| Effect::Announce(id.clone())));
                                continue;
                            }
                        }
                    }
                    let plan = plan.clone();
                    if !underway.is_empty() {
                        continue;
                    }
                    if attempt.asks_again(&plan) {
                        // Another job may have put it there meanwhile: fetching asks that, and finds all of it staged.
                        if fetching < FETCHES_MAX {
                            attempt.doubted.clear();
                            fetching += 1;
                            attempt.fetched = false;
                            attempt.record.stage = Stage::Offered;
                            attempt.activity = Activity::Fetching;
                            effects.push(Effect::Prepare(id.clone(), attempt.record.results.len()));
                        }
                        continue;
                    }
                    for other in self.attempts.values_mut() {
                        let staged =
                            matches!(&other.record.stage, Stage::Fetched(p) if p.touches().any(|name| plan.touches().any(|n| n == name)));
                        if staged || other.activity == Activity::Fetching {
                            other.doubted.extend(plan.touches().cloned());
                        }
                    }
                    let Some(attempt) = self.attempts.get_mut(&id) else { continue };
                    attempt.beginning = Some(attempt.record.started);
                    attempt.record.started = true;
                    attempt.record.stage = Stage::Installing(Installing::new(plan, now.wall));
                    self.begin(&id, now, effects);
                }
                Stage::Installing(_) => {
                    self.begin(&id, now, effects);
                }
                Stage::Finished { .. } | Stage::Canceled => {}
            }
        }
        // What is fetched and has to wait is fetched also after a restart.
        self.attempts.values_mut().filter(|a| a.fetched && a.activity == Activity::Idle).for_each(|a| a.journal(effects));
    }

    /// Has the machine restarted for an attempt that waits for that, if it may: journaled first, ordered when the journal has it.
    fn order_restart(&mut self, now: &Now, effects: &mut Vec<Effect>) {
        let ready = |a: &&Attempt| a.activity == Activity::Idle && self.may_order_restart(a, now);
        let Some(id) = self.attempts.values().find(ready).map(|a| a.record.id().clone()) else { return };
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.record.restart_ordered(now);
        attempt.restarting = true;
        attempt.journal(effects);
    }

    /// Begins the op that is next: journaled first, performed when the journal has it. False if it may not begin now.
    fn begin(&mut self, id: &AttemptId, now: &Now, effects: &mut Vec<Effect>) -> bool {
        let Some(attempt) = self.attempts.get_mut(id) else { return false };
        let leased = attempt.record.leased(now);
        let Stage::Installing(installing) = &mut attempt.record.stage else { return false };
        match installing.op() {
            Some(_) if installing.waits_for_reboot(now) => return false,
            Some(op) if op.runs() && !leased && attempt.unwanted => installing.call_off(),
            Some(op) if op.runs() && !leased => return false,
            Some(_) => {}
            None => return false,
        }
        installing.begun = true;
        attempt.journal(effects);
        true
    }

    fn outcome(&self, id: &AttemptId, state: ExecutionState, now: &Now) -> Outcome {
        let items = self.attempts.get(id).map(|a| a.record.results.clone()).unwrap_or_default();
        Outcome { attempt: id.clone(), client: self.client.clone(), state, items, finished: now.wall }
    }

    fn jitter(&mut self) -> u64 {
        // xorshift64: enough to keep clients apart.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// What follows the end of an op.
enum After {
    Next,
    /// Nothing of this way is left to do.
    Over,
    Again(Duration),
    Back(Failure, ExecutionState),
    /// Back without a step.
    PutBack(Failure),
}

fn step_forward(installing: &mut Installing, op: Op, report: OpReport, now: &Now) -> After {
    if let OpReport::Exchanged { detected } = report {
        installing.plan.detected_before |= detected;
    }
    if report == OpReport::Step(StepReport::RebootHard) {
        installing.until_reboot = Some(now.boot_id.clone());
    }
    let step = match op {
        Op::Step(n) => installing.plan.steps.get(n),
        _ => None,
    };
    match &mut installing.course {
        Course::Back { failure, .. } => {
            let phase = step.map(|s| s.phase);
            match report {
                OpReport::Restored(back) => {
                    if installing.plan.directory {
                        failure.restored = Some(back != Restored::Untouched);
                    }
                    if back != Restored::Old {
                        // There is nothing that the steps could work on.
                        return After::Over;
                    }
                }
                OpReport::Failed(why) if op == Op::Restore => {
                    failure.restored = Some(false);
                    failure.message = format!("{}; and what was there before could not be put back: {}", failure.message, why.message);
                    return After::Over;
                }
                OpReport::Step(StepReport::Later(_)) if installing.run + 1 < RUNS_MAX => {
                    return After::Again(now.boot + RUN_PAUSE * (installing.run + 1));
                }
                OpReport::Step(StepReport::Later(why) | StepReport::Failed(why)) if phase == Some(Phase::Restore) => {
                    failure.restored = Some(false);
                    failure.message = format!("{}; and the version before could not be put back: {}", failure.message, why.message);
                }
                OpReport::Step(StepReport::Interrupted { .. }) if phase == Some(Phase::Restore) => failure.restored = Some(false),
                OpReport::Step(_) if phase == Some(Phase::Restore) => {
                    failure.restored.get_or_insert(true);
                }
                _ => {}
            }
            // The way back goes on whatever happens on it.
            After::Next
        }
        Course::Forward => match report {
            OpReport::Done | OpReport::Exchanged { .. } | OpReport::Restored(_) => After::Next,
            OpReport::Step(StepReport::Done | StepReport::RebootSoft | StepReport::RebootHard) => After::Next,
            OpReport::Step(StepReport::Later(_)) if installing.run + 1 < RUNS_MAX => {
                After::Again(now.boot + RUN_PAUSE * (installing.run + 1))
            }
            OpReport::Step(StepReport::Later(failure) | StepReport::Failed(failure)) => match step {
                Some(step) if step.continue_on_failure => After::Next,
                _ => After::Back(failure, ExecutionState::Failed),
            },
            OpReport::Step(StepReport::Interrupted { detected }) => {
                let plan = &installing.plan;
                // What holds now and did not hold before must come from this step: of the first one alone that can be said.
                if detected && plan.detection && !plan.detected_before && plan.first_after_exchange() == Some(installing.at) {
                    return After::Next;
                }
                let failure = Failure {
                    kind: ErrorKind::Interrupted,
                    message: "the step had been started, and nothing can tell how it ended: the machine or the step's supervisor went away"
                        .into(),
                    step: step.map(|s| s.name.clone()),
                    exit_code: None,
                    signal: None,
                    output: String::new(),
                    output_cut: 0,
                    restored: None,
                };
                After::Back(failure, ExecutionState::Interrupted)
            }
            OpReport::Failed(failure) => After::Back(failure, ExecutionState::Failed),
            OpReport::Refused(failure) => After::PutBack(failure),
        },
    }
}

fn result_of(installing: &Installing, now: &Now) -> ItemResult {
    let (state, failure) = match &installing.course {
        Course::Forward => (ExecutionState::Succeeded, None),
        Course::Back { failure, end } => {
            let restored = if installing.bereft { Some(false) } else { failure.restored };
            (*end, Some(Failure { restored, ..failure.clone() }))
        }
    };
    let plan = &installing.plan;
    let took = now.wall.as_millisecond().saturating_sub(installing.since.as_millisecond()).max(0) as u64;
    ItemResult {
        package: plan.package.clone(),
        version: plan.version.clone(),
        manifest: plan.manifest,
        state,
        failure,
        reboot: false,
        fetched_bytes: plan.fetched_bytes,
        total_bytes: plan.total_bytes,
        duration_ms: plan.prepared_ms + took,
        before: plan.before.clone(),
    }
}

/// Whether nothing had to be done, since all was as it should be.
fn is_as_it_was(state: ExecutionState) -> bool {
    matches!(state, ExecutionState::AlreadyInstalled | ExecutionState::AlreadyAbsent)
}

/// Full jitter between the shortest pause and twice as much per try, up to the longest.
fn pause(tries: u32, random: u64) -> Duration {
    let most = FETCH_PAUSE.0.saturating_mul(1 << tries.min(9)).min(FETCH_PAUSE.1);
    let span = (most - FETCH_PAUSE.0).as_millis() as u64;
    FETCH_PAUSE.0 + Duration::from_millis(if span == 0 { 0 } else { random % span })
}
