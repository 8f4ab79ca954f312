//! Starts and stops of the machine: what begins only then, and restarts that steps have asked for.
//!
//! What a job orders for the next start of the machine begins when the machine was started since all of it was there, and then before
//! anything else. What it orders for the machine's stop begins when the agent is told that the machine goes down, and nothing else
//! begins then.
//!
//! A step may say that the machine must be restarted. Where the job says so and the machine lets it, the agent has it restarted, in
//! the attempt's times and while nothing runs; the attempt comes to its end when that has happened. Everywhere else a soft request
//! is reported, and a hard one holds up what follows until somebody restarts the machine.

use super::{Activity, Attempt, Lease, Now, Record, Stage, State};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};
use sutler_base::{PackageName, Timestamp, state::Timing};

/// A restart that did not happen in this time is ordered once more.
const RESTART_PATIENCE: Duration = Duration::from_secs(600);
/// How often it is ordered: nothing else begins meanwhile, and what was not restarted by then is for somebody to look at.
const RESTARTS_MAX: u32 = 3;

/// A restart of the machine that a step has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The start of the machine in which it was asked for: in another one it has happened.
    pub boot_id: String,
    /// Nothing of the attempt goes on before it has happened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hard: bool,
    /// The packages whose steps have asked for it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub by: BTreeSet<PackageName>,
    /// When it was last ordered, on `CLOCK_BOOTTIME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<Duration>,
    /// How often it was ordered.
    #[serde(default, skip_serializing_if = "is_none")]
    pub orders: u32,
}

fn is_none(orders: &u32) -> bool {
    *orders == 0
}

/// What a lease is by the time of day, for what begins at the next start of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByWall {
    /// When it was given.
    pub given: Timestamp,
    /// No step is started at or after it.
    pub until: Timestamp,
}

impl Lease {
    /// A lease of so many seconds from now on.
    pub fn of(seconds: u32, now: &Now) -> Lease {
        let length = Duration::from_secs(seconds.into());
        let wall = ByWall { given: now.wall, until: now.wall.saturating_add(length).unwrap_or(Timestamp::MAX) };
        Lease { until: now.boot.saturating_add(length), boot_id: now.boot_id.clone(), wall: Some(wall) }
    }

    /// What is left of it after the machine was started again, for an attempt that begins then: the time of day alone can tell. One
    /// that lies before the moment at which the lease was given is not believed.
    fn over_a_start(&self, now: &Now) -> Option<Lease> {
        let wall = self.wall.as_ref().filter(|wall| wall.given <= now.wall && now.wall < wall.until)?;
        let left = wall.until.as_millisecond().saturating_sub(now.wall.as_millisecond()).max(0) as u64;
        Some(Lease { until: now.boot.saturating_add(Duration::from_millis(left)), boot_id: now.boot_id.clone(), wall: Some(wall.clone()) })
    }
}

impl Record {
    /// Takes it into this start of the machine, if it was written in another: its lease is over, unless it begins at a start.
    pub(super) fn carry_over(&mut self, now: &Now) {
        if let Some(lease) = self.lease.take_if(|lease| lease.boot_id != now.boot_id)
            && self.offer.timing == Timing::AtBoot
            && !self.started
        {
            self.lease = lease.over_a_start(now);
        }
        if let Some(asked) = &mut self.asked {
            asked.carry_over(now);
        }
    }

    /// Whether the moment has come at which the job wants it begun.
    pub(super) fn is_due(&self, going_down: bool, now: &Now) -> bool {
        self.started || self.may_be_first(going_down, now)
    }

    /// The same of one of which nothing was begun.
    pub(super) fn may_be_first(&self, going_down: bool, now: &Now) -> bool {
        match self.offer.timing {
            Timing::Now => !going_down,
            Timing::AtBoot => self.is_boot_due(now) && !going_down,
            Timing::AtShutdown => going_down,
        }
    }

    /// The package after the next one whose bytes are to be fetched first: what begins with a start or the stop of the machine may
    /// be without contact then.
    pub(super) fn next_ahead(&self) -> Option<usize> {
        let next = self.ahead.max(self.results.len() + 1);
        (self.offer.timing != Timing::Now && !self.started && next < self.offer.items.len()).then_some(next)
    }

    /// Whether it waited for a start of the machine that has happened.
    pub(super) fn is_boot_due(&self, now: &Now) -> bool {
        self.offer.timing == Timing::AtBoot && self.staged_in.as_ref().is_some_and(|boot| *boot != now.boot_id)
    }

    /// Notes that a step of this package has asked for a restart.
    pub(super) fn restart_wanted(&mut self, by: PackageName, hard: bool, now: &Now) {
        let restart = self.restart_of(now);
        restart.hard |= hard;
        restart.by.insert(by);
    }

    /// Notes that the restart that was asked for is ordered now.
    pub(super) fn restart_ordered(&mut self, now: &Now) {
        let restart = self.restart_of(now);
        restart.ordered = Some(now.boot);
        restart.orders = restart.orders.saturating_add(1);
    }

    /// The restart of this start of the machine: whatever was asked for in another one has happened.
    fn restart_of(&mut self, now: &Now) -> &mut Restart {
        let before = self.restart.take().filter(|restart| restart.boot_id == now.boot_id);
        self.restart.insert(before.unwrap_or_else(|| Restart {
            boot_id: now.boot_id.clone(),
            hard: false,
            by: BTreeSet::new(),
            ordered: None,
            orders: 0,
        }))
    }

    /// The packages that have asked for a restart which did not happen yet.
    pub fn restart_by<'a>(&'a self, now: &'a Now) -> impl Iterator<Item = &'a PackageName> {
        self.restart.iter().filter(move |restart| restart.boot_id == now.boot_id).flat_map(|restart| &restart.by)
    }

    /// Whether nothing of it goes on before the machine was restarted.
    pub(super) fn stops(&self, now: &Now) -> bool {
        self.restart.as_ref().is_some_and(|restart| restart.hard && restart.boot_id == now.boot_id)
    }

    /// Whether a step has asked for a restart that did not happen yet.
    pub fn needs_restart(&self, now: &Now) -> bool {
        self.restart.as_ref().is_some_and(|restart| restart.boot_id == now.boot_id)
    }

    /// Whether nothing of it goes on before the machine is restarted: a step asked for that at once, or all is done but that, and
    /// the agent is to see to it.
    pub(super) fn awaits_restart(&self, may_restart: bool, now: &Now) -> bool {
        match &self.stage {
            Stage::Installing(installing) => !installing.begun && installing.waits_for_reboot(now),
            Stage::Offered => {
                self.offer.restart && may_restart && self.needs_restart(now) && self.verdict().is_some_and(|end| end.is_good())
            }
            Stage::Fetched(_) => self.stops(now),
            _ => false,
        }
    }

    /// Whether a restart was ordered that may still come.
    fn restarts(&self, now: &Now) -> bool {
        let ordered = self.restart.as_ref().filter(|restart| restart.boot_id == now.boot_id).and_then(|restart| restart.ordered);
        ordered.is_some_and(|at| now.boot < at.saturating_add(RESTART_PATIENCE))
    }
}

impl Attempt {
    /// Whether nothing of it goes on before the machine is restarted.
    pub(super) fn awaits_restart(&self, may_restart: bool, now: &Now) -> bool {
        let gives_up = self.record.stage == Stage::Offered && self.is_restarted_no_more(now);
        self.record.awaits_restart(may_restart, now) && !gives_up
    }

    /// Whether the agent has the machine restarted for it no more: it was called off, its time is over, or it did not help.
    fn is_restarted_no_more(&self, now: &Now) -> bool {
        let ordered = self.record.restart.as_ref().filter(|restart| restart.boot_id == now.boot_id);
        let in_vain = ordered.is_some_and(|restart| restart.orders >= RESTARTS_MAX) && !self.record.restarts(now);
        in_vain || self.canceling || self.unwanted || self.record.is_expired(now)
    }
}

impl State {
    /// Whether the machine goes down.
    pub(super) fn goes_down(&self, now: &Now) -> bool {
        self.going_down.is_some_and(|until| now.boot < until)
    }

    /// Whether the machine is about to be restarted by the agent.
    pub(super) fn restarts(&self, now: &Now) -> bool {
        self.attempts.values().any(|a| a.record.restarts(now))
    }

    /// Whether something waits that is to begin at this start of the machine, and can: nothing else begins before it.
    pub(super) fn boots(&self, now: &Now) -> bool {
        let waits = |a: &&Attempt| {
            let record = &a.record;
            let open = matches!(record.stage, Stage::Fetched(_)) || record.stage == Stage::Offered && record.verdict().is_none();
            // Once it has begun, what is fetched of it only now holds up nobody.
            let far = matches!(a.activity, Activity::Backoff(_)) || record.started && a.activity == Activity::Fetching;
            open && record.is_boot_due(now) && !far && record.leased(now) && record.timely(now)
        };
        !self.held && !self.goes_down(now) && self.attempts.values().any(|a| waits(&a))
    }

    /// Whether the machine may go down: no step runs, and nothing that is ordered for its stop can begin at this moment.
    pub fn may_go_down(&self, now: &Now) -> bool {
        !self.attempts.values().any(|a| {
            let record = &a.record;
            if record.offer.timing != Timing::AtShutdown {
                return a.activity == Activity::Performing;
            }
            match (&record.stage, a.activity) {
                (Stage::Finished { .. } | Stage::Canceled, _) | (_, Activity::Backoff(_)) => false,
                (_, Activity::Performing | Activity::Journaling | Activity::Signing) => true,
                (Stage::Offered, Activity::Fetching) => self.connected && (record.started || record.staged_in.is_some()),
                (Stage::Installing(installing), _) => record.leased(now) && !installing.waits_for_reboot(now),
                (Stage::Fetched(_), _) => !self.held && record.leased(now) && record.timely(now) && record.is_due(true, now),
                (Stage::Offered, _) => false,
            }
        })
    }

    /// Whether this attempt may have the machine restarted now: the job says so, the machine lets it, it is time, and nothing else is
    /// under way.
    pub(super) fn may_order_restart(&self, attempt: &Attempt, now: &Now) -> bool {
        let record = &attempt.record;
        let others = self.attempts.values().filter(|a| a.record.id() != record.id());
        record.offer.restart
            && self.may_restart
            && !self.held
            && record.awaits_restart(self.may_restart, now)
            && !attempt.is_restarted_no_more(now)
            && record.leased(now)
            && record.timely(now)
            && !self.restarts(now)
            && others.into_iter().all(|a| !matches!(a.record.stage, Stage::Installing(_)) && a.activity != Activity::Journaling)
    }

    /// When a restart that was ordered is ordered again, unless it happened.
    pub(super) fn restart_again(record: &Record, now: &Now) -> Option<Duration> {
        let restart = record.restart.as_ref().filter(|restart| restart.boot_id == now.boot_id)?;
        restart.ordered.map(|at| at.saturating_add(RESTART_PATIENCE)).filter(|at| *at > now.boot)
    }
}
