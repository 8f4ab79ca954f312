//! The user at the machine, and its restarts, as the loop sees to them: what is announced and answered, what runs when the machine goes
//! down, and what has it restarted.

use super::{AgentError, run::Loop};
use crate::machine::{Event, Stage, Talk, UserAnswer};
use serde::{Deserialize, Serialize};
use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};
use sutler_base::AttemptId;
use tokio::sync::oneshot;
use tracing::{info, warn};

/// How long the machine's going down is believed after nothing is waited for any more.
const GOING_DOWN_FOR: Duration = Duration::from_secs(120);

/// Programs of this machine that the agent calls, each with its arguments; an empty one is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// Shows to whoever is logged in what comes on its standard input.
    pub announce: Vec<String>,
    /// Restarts the machine.
    pub reboot: Vec<String>,
}

/// What is announced to the user of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// `jobs/ID`
    pub job: String,
    /// What would be begun, and in which version.
    pub package: String,
    /// Whether it would be taken off.
    pub uninstall: bool,
    /// What the job says.
    pub text: String,
    /// In so many seconds it begins, or is announced anew if it was put off.
    pub seconds: u64,
    /// Whether it was put off.
    pub put_off: bool,
    /// How often that was done.
    pub deferred: u32,
    /// How often it may be done.
    pub deferrals: u32,
    /// Whether it may be done now.
    pub may_defer: bool,
    /// Whether it may be refused.
    pub may_refuse: bool,
}

/// Who waits for what is ordered for the machine's stop.
pub(super) struct Shutdown {
    reply: oneshot::Sender<bool>,
    /// On `CLOCK_BOOTTIME`: longer it is not waited.
    until: Duration,
}

impl Loop {
    /// What waits for the user.
    pub(super) fn announcements(&self) -> Vec<Announcement> {
        let now = self.clock.now();
        let told = self.state.announced(&now).into_iter().map(|told| {
            let plan = match self.state.record(told.attempt).map(|r| &r.stage) {
                Some(Stage::Fetched(plan)) => Some(plan),
                _ => None,
            };
            Announcement {
                job: told.job.to_owned(),
                package: plan.map(|p| format!("{} {}", p.package, p.version)).unwrap_or_default(),
                uninstall: plan.is_some_and(|p| p.intent == sutler_base::state::Intent::Uninstall),
                text: told.announcement.text.clone(),
                seconds: told.asked.due().map_or(0, |due| due.left(&now).as_secs()),
                put_off: matches!(told.asked.talk, Talk::PutOff(_)),
                deferred: told.asked.deferred,
                deferrals: told.announcement.deferrals,
                may_defer: told.may_defer,
                may_refuse: told.announcement.may_refuse,
            }
        });
        told.collect()
    }

    /// Takes in what the user says about a job; the sentence says what follows, or why not.
    pub(super) async fn user_answers(&mut self, job: &str, answer: UserAnswer) -> Result<Result<String, String>, AgentError> {
        let now = self.clock.now();
        let effects = match self.state.answered(job, answer, &now) {
            Ok(effects) => effects,
            Err(why) => return Ok(Err(why)),
        };
        info!(job, ?answer, "the user answered");
        self.apply(effects).await?;
        if self.full.is_some() {
            return Ok(Err("the disk is full: what you said may not last".into()));
        }
        let left = self.announcements().into_iter().find(|a| a.job == job || a.job.strip_prefix("jobs/") == Some(job));
        let sentence = match (answer, left) {
            (UserAnswer::Now, _) => "it begins as soon as it may".to_owned(),
            (UserAnswer::Refuse, _) => "it is refused".to_owned(),
            (UserAnswer::Defer, Some(left)) => {
                let more = left.deferrals.saturating_sub(left.deferred);
                let times = match more {
                    0 => "after that it goes on".to_owned(),
                    1 => "that can be done once more".to_owned(),
                    more => format!("that can be done {more} more times"),
                };
                format!("it is put off for {}; {times}", span(left.seconds))
            }
            (UserAnswer::Defer, None) => "it is put off".to_owned(),
        };
        self.happened(Event::Tick).await?;
        Ok(Ok(sentence))
    }

    /// Shows to whoever is logged in what is about to begin.
    pub(super) fn announce(&self, id: &AttemptId) {
        let Some(record) = self.state.record(id) else { return };
        let Some(told) = self.announcements().into_iter().find(|a| a.job == record.offer.job) else { return };
        info!(attempt = %id, text = told.text, seconds = told.seconds, "announced to the user");
        if let Some((program, arguments)) = self.programs.announce.split_first() {
            run(program, arguments, text(&told));
        }
    }

    /// Has the machine restarted.
    pub(super) fn restart(&self, id: &AttemptId) {
        let Some((program, arguments)) = self.programs.reboot.split_first() else { return };
        info!(attempt = %id, "the machine is restarted now, as a job wants it");
        run(program, arguments, String::new());
    }

    /// The machine goes down: begins what is ordered for that, and says when it is done, or that the time is over.
    pub(super) async fn goes_down(&mut self, within: Duration, reply: oneshot::Sender<bool>) -> Result<(), AgentError> {
        let now = self.clock.now();
        info!(seconds = within.as_secs(), "the machine goes down: what is ordered for that begins, and nothing else");
        self.shutdown.push(Shutdown { reply, until: now.boot.saturating_add(within) });
        self.happened(Event::GoesDown(within.saturating_add(GOING_DOWN_FOR))).await
    }

    /// Answers those who wait for it. Asked after everything that happens.
    pub(super) fn look_at_shutdown(&mut self) {
        if self.shutdown.is_empty() {
            return;
        }
        let now = self.clock.now();
        let done = self.state.may_go_down(&now);
        for one in std::mem::take(&mut self.shutdown) {
            if done || one.until <= now.boot {
                let _ = one.reply.send(done);
            } else {
                self.shutdown.push(one);
            }
        }
    }

    /// When one of them is answered whatever happens.
    pub(super) fn shutdown_due(&self) -> Option<Duration> {
        self.shutdown.iter().map(|one| one.until).min()
    }
}

/// What is shown of an announcement on a terminal.
fn text(told: &Announcement) -> String {
    let job = told.job.strip_prefix("jobs/").unwrap_or(&told.job);
    let mut out = format!("{}\n", told.text);
    out.push_str(&format!("{} begins in {}.\n", told.package, span(told.seconds)));
    out.push_str(&format!("At once: sutler-agent now {job}\n"));
    if told.may_defer {
        out.push_str(&format!("Later: sutler-agent defer {job}\n"));
    }
    if told.may_refuse {
        out.push_str(&format!("Not at all: sutler-agent refuse {job}\n"));
    }
    out
}

/// A span of time for people, rounded up to what matters.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} seconds"),
        120..=7199 => format!("{} minutes", seconds.div_ceil(60)),
        _ => format!("{} hours", seconds.div_ceil(3600)),
    }
}

/// Starts a program of the machine beside the loop, with this on its standard input. What becomes of it changes nothing.
fn run(program: &str, arguments: &[String], input: String) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let name = program.to_owned();
    std::thread::spawn(move || match command.spawn() {
        Ok(mut child) => {
            if let Some(mut stdin) = child.stdin.take() {
                let _ = stdin.write_all(input.as_bytes());
            }
            match child.wait() {
                Ok(status) if !status.success() => warn!("{name} ended with {status}"),
                Ok(_) => {}
                Err(e) => warn!("{name}: {e}"),
            }
        }
        Err(e) => warn!("{name} can't be started: {e}"),
    });
}
