//! What a job means for whoever sits at a machine: what they are told before it begins and may answer, whether they choose it
//! themselves, and whether the machine is restarted for it.
//!
//! The agent carries it out; here it is said, checked, and put into sentences.

use crate::{model::JobPackage, terms::JobTerms};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use sutler_base::{
    Timestamp,
    limits::{COUNTDOWN_DEFAULT, DEFER_FOR_DEFAULT},
    state::{Intent, Timing},
};

/// What a job means for the user of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserTerms {
    /// What they are told before it begins; none: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announcement: Option<Announcement>,
    /// They choose whether it is installed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub available: bool,
    /// The machine is restarted where a step says that it must be, in the job's times.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

/// What is announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Announcement {
    /// What the user reads.
    pub text: String,
    /// How long they have to answer.
    pub countdown: Duration,
    /// How often they may put it off.
    pub deferrals: u32,
    /// For how long, each time.
    pub defer_for: Duration,
    /// They may refuse it.
    pub may_refuse: bool,
}

impl Default for Announcement {
    fn default() -> Announcement {
        Announcement { text: String::new(), countdown: COUNTDOWN_DEFAULT, deferrals: 0, defer_for: DEFER_FOR_DEFAULT, may_refuse: false }
    }
}

/// What an agent has to know of this to carry a job out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    /// It announces, and takes in answers.
    pub announcements: bool,
    /// It begins at a start or the stop of the machine, and has it restarted.
    pub boots: bool,
    /// It shows what its user may choose.
    pub shelf: bool,
}

/// What an agent with these abilities lacks to carry out what is offered with these terms, in a sentence that says what to do. What a
/// user has chosen needs no more of it than anything else.
pub fn lacks(user: &UserTerms, timing: Timing, agent: Abilities) -> Option<&'static str> {
    let needs = [
        (user.announcement.is_some() && !agent.announcements, "its agent can't announce anything to the user; update it"),
        (timing != Timing::Now && !agent.boots, "its agent knows nothing of starts and stops of the machine; update it"),
        (user.restart && !agent.boots, "its agent can't restart the machine; update it"),
    ];
    needs.into_iter().find(|(lacks, _)| *lacks).map(|(_, why)| why)
}

/// What of these terms contradicts something, by the field.
pub fn check(terms: &JobTerms) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    if terms.user.announcement.is_some() && terms.schedule.timing != Timing::Now {
        let why = "goes with the timing NOW: at a start or the stop of a machine nobody is there to answer";
        wrong.push(("terms.user.announcement", why.to_owned()));
    }
    if terms.user.announcement.is_some() && terms.user.available {
        let why = "has nothing to announce: the user begins what is offered to them; give one of both";
        wrong.push(("terms.user.announcement", why.to_owned()));
    }
    wrong
}

/// What of a job's packages can't be offered to a user to choose.
pub fn check_offered(terms: &JobTerms, packages: &[JobPackage]) -> Option<String> {
    let gone = packages.iter().find(|package| package.intent != Intent::Install)?;
    terms.user.available.then(|| format!("offers what is to be installed; {} of {} is something else", gone.intent, gone.package))
}

/// What a row says that waits for its user to choose it.
pub const OFFERED: &str = "offered to the user of the machine, who has not chosen it (`sutler-agent install`)";

/// The same where the agent can't show it.
pub const NOT_OFFERED: &str = "its agent can't offer anything to the user; update it";

/// How it stands with the user of a machine where a row waits for them: `seconds` at the most, put off so often, or announced.
pub fn waits(seconds: u32, deferred: u32, put_off: bool, now: Timestamp) -> String {
    let until = now.saturating_add(SignedDuration::from_secs(seconds.into())).unwrap_or(now);
    let until = until.strftime("%Y-%m-%d %H:%M:%S UTC");
    match (put_off, deferred) {
        (true, 1) => format!("the user put it off until {until}"),
        (true, _) => format!("the user put it off until {until}, for the {deferred}. time"),
        (false, 0) => format!("announced to the user; begins at {until}"),
        (false, 1) => format!("announced to the user, who put it off once; begins at {until}"),
        (false, _) => format!("announced to the user, who put it off {deferred} times; begins at {until}"),
    }
}

/// What a row waits for that waits for a start of its machine.
pub fn waits_for_restart(timing: Timing) -> &'static str {
    match timing {
        Timing::Now => "waits for a restart of the machine",
        Timing::AtBoot => "waits for the next start of the machine, or goes on after it",
        Timing::AtShutdown => "waits until the machine goes down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;

    #[test]
    fn terms_that_contradict_each_other_are_refused_and_what_an_agent_lacks_is_said() {
        let announced = |timing, available| {
            let user = UserTerms { announcement: Some(Announcement::default()), available, restart: false };
            JobTerms { user, schedule: Schedule { timing, ..Schedule::default() }, ..JobTerms::default() }
        };
        assert!(check(&announced(Timing::Now, false)).is_empty());
        assert_eq!(check(&announced(Timing::AtBoot, false)).len(), 1);
        assert_eq!(check(&announced(Timing::AtShutdown, true)).len(), 2);
        let knows = Abilities { announcements: true, boots: true, shelf: true };
        let lacking = |terms: &JobTerms, agent| lacks(&terms.user, terms.schedule.timing, agent);
        assert_eq!(lacking(&announced(Timing::AtBoot, true), knows), None);
        let mute = Abilities { announcements: false, ..knows };
        assert!(lacking(&announced(Timing::Now, false), mute).unwrap().contains("announce"));
        assert!(lacking(&announced(Timing::AtBoot, false), Abilities { boots: false, ..knows }).unwrap().contains("starts"));
        assert_eq!(lacking(&JobTerms::default(), Abilities::default()), None);
    }
}
