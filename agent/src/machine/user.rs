//! What the user at the machine is told before an installation begins, and what they may answer.
//!
//! Once all is there and may begin, it is announced, and a countdown runs. When it has run down, the installation begins as soon as
//! it may. Until then the user may have it begin at once, put it off for a while, as often as the job allows it, or refuse it, where
//! it does. What was put off is announced anew when that time is over, with a whole countdown. From the job's deadline on nothing is
//! put off any more, and what was put off goes on then.
//!
//! A countdown runs on the clock of the machine that never jumps, and what is left of it is written down while it runs. Over a restart
//! of the machine the time of day tells how much of it is left, and never more than was written down last: it does not start anew,
//! also where the clock comes up in the past at each start.

use super::{Activity, Effect, Now, Plan, Record, Stage, State};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use sutler_base::{
    AttemptId, Timestamp,
    outcome::{Failure, ItemResult},
    state::{ErrorKind, ExecutionState},
};

/// What a job says to the user before it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The text.
    pub text: String,
    /// How long the user has to answer.
    pub countdown: Duration,
    /// How often it may be put off.
    pub deferrals: u32,
    /// For how long, each time.
    pub defer_for: Duration,
    /// Whether it may be refused.
    pub may_refuse: bool,
    /// From this on it is not put off, by this machine's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

/// A moment that lies a known time ahead, also after a restart of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// The start of the machine that `at` counts from.
    boot_id: String,
    /// On `CLOCK_BOOTTIME`.
    at: Duration,
    /// By the time of day.
    wall: Timestamp,
    /// How far ahead it was when it was last counted.
    left: Duration,
}

/// How often it is counted at the most, and into how many parts a long time is divided: each time is a write to the disk.
const COUNT_EVERY: Duration = Duration::from_secs(10);
const COUNT_PARTS: u32 = 64;

impl Due {
    /// So long after this moment.
    pub fn after(length: Duration, now: &Now) -> Due {
        Due {
            boot_id: now.boot_id.clone(),
            at: now.boot.saturating_add(length),
            wall: now.wall.saturating_add(length).unwrap_or(Timestamp::MAX),
            left: length,
        }
    }

    /// How far ahead it is; nothing once it has come.
    pub fn left(&self, now: &Now) -> Duration {
        if self.boot_id == now.boot_id {
            return self.at.saturating_sub(now.boot);
        }
        let by_wall = self.wall.as_millisecond().saturating_sub(now.wall.as_millisecond()).max(0) as u64;
        Duration::from_millis(by_wall).min(self.left)
    }

    /// When it is to be counted next, on `CLOCK_BOOTTIME`; once it has come it is not counted any more.
    pub(super) fn count_at(&self) -> Duration {
        let step = COUNT_EVERY.max(self.left / COUNT_PARTS);
        self.at.saturating_sub(self.left.saturating_sub(step))
    }

    /// Counts how far ahead it is, if it is time for that. Gives back whether that is to be written down.
    fn count(&mut self, now: &Now) -> bool {
        let left = self.left(now);
        if self.boot_id != now.boot_id || left.is_zero() || now.boot < self.count_at() {
            return false;
        }
        self.left = left;
        true
    }

    /// Counts from this start of the machine on, if it did from another.
    pub(super) fn carry_over(&mut self, now: &Now) {
        if self.boot_id != now.boot_id {
            let left = self.left(now);
            *self = Due { boot_id: now.boot_id.clone(), at: now.boot.saturating_add(left), wall: self.wall, left };
        }
    }
}

/// Where it stands between the agent and the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Talk {
    /// It is announced and begins then.
    Countdown(Due),
    /// It was put off until then.
    PutOff(Due),
    /// It may begin: the user said so, or let the countdown run down.
    Agreed,
}

/// What was told to the user and answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// How often it was put off.
    pub deferred: u32,
    /// Where it stands.
    pub talk: Talk,
}

impl Asked {
    /// What is waited for, if it is time.
    pub fn due(&self) -> Option<&Due> {
        match &self.talk {
            Talk::Countdown(due) | Talk::PutOff(due) => Some(due),
            Talk::Agreed => None,
        }
    }

    pub(super) fn carry_over(&mut self, now: &Now) {
        if let Talk::Countdown(due) | Talk::PutOff(due) = &mut self.talk {
            due.carry_over(now);
        }
    }

    /// Counts how long the user is still waited for. Gives back whether that is to be written down.
    pub(super) fn count(&mut self, now: &Now) -> bool {
        match &mut self.talk {
            Talk::Countdown(due) | Talk::PutOff(due) => due.count(now),
            Talk::Agreed => false,
        }
    }
}

/// What the user answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserAnswer {
    /// It may begin at once.
    Now,
    /// Later.
    Defer,
    /// Not at all.
    Refuse,
}

/// What the user is told of an attempt that waits for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced<'a> {
    /// The attempt.
    pub attempt: &'a AttemptId,
    /// The job.
    pub job: &'a str,
    /// What it says.
    pub announcement: &'a Announcement,
    /// How it stands.
    pub asked: &'a Asked,
    /// Whether it could be put off now.
    pub may_defer: bool,
}

/// What the talk with the user comes to at a moment at which the installation may begin otherwise.
pub(super) enum Consent {
    /// It may begin.
    Given,
    /// What is to be journaled, and whether it has to be announced.
    Changed(Asked, bool),
    /// Nothing has changed: it is waited for the user.
    Awaited,
}

/// See [`Consent`].
pub(super) fn consent(announcement: Option<&Announcement>, asked: Option<&Asked>, now: &Now) -> Consent {
    let Some(announcement) = announcement else { return Consent::Given };
    let countdown = |deferred| Asked { deferred, talk: Talk::Countdown(Due::after(announcement.countdown, now)) };
    match asked {
        None => Consent::Changed(countdown(0), true),
        Some(Asked { talk: Talk::Agreed, .. }) => Consent::Given,
        Some(Asked { talk: Talk::Countdown(due), deferred }) if due.left(now).is_zero() => {
            Consent::Changed(Asked { deferred: *deferred, talk: Talk::Agreed }, false)
        }
        Some(Asked { talk: Talk::PutOff(due), deferred }) if due.left(now).is_zero() => Consent::Changed(countdown(*deferred), true),
        Some(_) => Consent::Awaited,
    }
}

impl Record {
    /// Takes in from when on it is not put off: what is put off for longer goes on then. Gives back whether that is news.
    pub(super) fn take_deadline(&mut self, deadline: Option<Timestamp>, now: &Now) -> bool {
        let Some(announcement) = self.offer.announcement.as_mut().filter(|told| told.deadline != deadline) else { return false };
        announcement.deadline = deadline;
        let left = announcement.until_deadline(now);
        if let (Some(Asked { talk: Talk::PutOff(due), .. }), Some(left)) = (&mut self.asked, left)
            && left < due.left(now)
        {
            *due = Due::after(left, now);
        }
        true
    }
}

impl Announcement {
    /// How far ahead its deadline is; nothing once it has come.
    fn until_deadline(&self, now: &Now) -> Option<Duration> {
        let left = self.deadline?.as_millisecond().saturating_sub(now.wall.as_millisecond()).max(0);
        Some(Duration::from_millis(left as u64))
    }

    /// How long it can be put off now, having been put off so often; else why it can't.
    fn deferral(&self, deferred: u32, now: &Now) -> Result<Duration, String> {
        if self.deferrals == 0 {
            return Err("it can't be put off".into());
        }
        if deferred >= self.deferrals {
            return Err(format!("it can't be put off any more: that was done {deferred} of {} times", self.deferrals));
        }
        match self.until_deadline(now) {
            Some(Duration::ZERO) => Err("it can't be put off any more: its deadline has come".into()),
            Some(left) => Ok(self.defer_for.min(left)),
            None => Ok(self.defer_for),
        }
    }
}

impl State {
    /// What waits for the user, announced or put off.
    pub fn announced(&self, now: &Now) -> Vec<Announced<'_>> {
        self.attempts
            .iter()
            .filter_map(|(id, attempt)| {
                let record = &attempt.record;
                let waits = matches!(record.stage, Stage::Fetched(_)) && !record.started;
                let asked = record.asked.as_ref().filter(|asked| waits && asked.due().is_some())?;
                let announcement = record.offer.announcement.as_ref()?;
                let may_defer = matches!(asked.talk, Talk::Countdown(_)) && announcement.deferral(asked.deferred, now).is_ok();
                Some(Announced { attempt: id, job: &record.offer.job, announcement, asked, may_defer })
            })
            .collect()
    }

    /// Takes in what the user answers about a job, with or without `jobs/`: what is to be done, and when it begins at the latest if
    /// it is put off. The answer is kept once the effects were performed.
    ///
    /// # Errors
    ///
    /// A sentence: nothing of that job waits for the user, or the job does not allow it.
    pub fn answered(&mut self, job: &str, answer: UserAnswer, now: &Now) -> Result<Vec<Effect>, String> {
        let found = self.announced(now).into_iter().find(|a| a.job == job || a.job.strip_prefix("jobs/") == Some(job));
        let Some(id) = found.map(|a| a.attempt.clone()) else {
            return Err(format!("nothing of {} waits for you; see sutler-agent announcements", sutler_base::quoted(job)));
        };
        let Some(attempt) = self.attempts.get_mut(&id).filter(|a| a.activity == Activity::Idle) else {
            return Err("it is just being written down; try again".into());
        };
        let record = &mut attempt.record;
        let (Some(announcement), Some(asked)) = (&record.offer.announcement, &mut record.asked) else {
            return Err("nothing of it waits for you".into());
        };
        match answer {
            UserAnswer::Now => asked.talk = Talk::Agreed,
            UserAnswer::Defer if matches!(asked.talk, Talk::PutOff(_)) => return Err("it is put off already".into()),
            UserAnswer::Defer => {
                let length = announcement.deferral(asked.deferred, now)?;
                *asked = Asked { deferred: asked.deferred + 1, talk: Talk::PutOff(Due::after(length, now)) };
            }
            UserAnswer::Refuse if !announcement.may_refuse => return Err("it can't be refused".into()),
            UserAnswer::Refuse => {
                let Stage::Fetched(plan) = &record.stage else { return Err("nothing of it waits for you".into()) };
                record.results.push(refused(plan));
                // What comes after it in the job is refused with it.
                record.refused = true;
                record.stage = Stage::Offered;
            }
        }
        let mut effects = Vec::new();
        attempt.journal(&mut effects);
        Ok(effects)
    }
}

fn refused(plan: &Plan) -> ItemResult {
    let failure = Failure {
        kind: ErrorKind::User,
        message: "the user at the machine refused it".into(),
        step: None,
        exit_code: None,
        signal: None,
        output: String::new(),
        output_cut: 0,
        restored: None,
    };
    ItemResult {
        package: plan.package.clone(),
        version: plan.version.clone(),
        manifest: plan.manifest,
        state: ExecutionState::Rejected,
        failure: Some(failure),
        reboot: false,
        fetched_bytes: plan.fetched_bytes,
        total_bytes: plan.total_bytes,
        duration_ms: plan.prepared_ms,
        before: plan.before.clone(),
    }
}
