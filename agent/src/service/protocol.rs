//! What can be asked on the local socket, and what is answered.

use crate::{
    agent::{Announcement, Answer, Available, Gone, Handle, Question, Status},
    machine::UserAnswer,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use sutler_base::{GroupName, QuestionName};

/// One line of a caller.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Call {
    /// Where the agent is.
    Status,
    /// The facts.
    Facts,
    /// The groups that the client is in.
    Groups,
    /// Join a group.
    Join {
        /// Which.
        group: GroupName,
        /// Its password, if it has one.
        #[serde(default)]
        password: String,
    },
    /// Leave a group.
    Leave {
        /// Which.
        group: GroupName,
    },
    /// What operators ask.
    Questions,
    /// Answer a question.
    Answer {
        /// Which.
        question: QuestionName,
        /// The answer.
        answer: String,
    },
    /// Whatever waits for a retry goes at once.
    RunNow,
    /// What the user may have installed.
    Available,
    /// Install it.
    Install {
        /// A package, or a job.
        name: String,
    },
    /// What waits for the user.
    Announcements,
    /// What the user says about a job that is announced.
    User {
        /// Which job.
        job: String,
        /// What.
        answer: UserAnswer,
    },
    /// The machine goes down.
    Shutdown {
        /// For how long it is waited at the most (seconds).
        seconds: u64,
    },
    /// Leave the manager.
    Unenroll,
}

impl Call {
    /// Whether not every local user may ask for it.
    pub fn needs_root(&self) -> bool {
        match self {
            Call::Status | Call::Facts | Call::Groups | Call::Join { .. } | Call::Leave { .. } => false,
            // It is the user who is asked.
            Call::Questions | Call::Answer { .. } | Call::Announcements | Call::User { .. } => false,
            // It is offered to them.
            Call::Available | Call::Install { .. } => false,
            Call::RunNow | Call::Shutdown { .. } | Call::Unenroll => true,
        }
    }
}

/// The line that answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Where the agent is.
    Status {
        /// All of it.
        status: Box<Status>,
    },
    /// The facts.
    Facts {
        /// As JSON.
        facts: serde_json::Value,
    },
    /// What operators ask.
    Questions {
        /// By name.
        questions: Vec<Question>,
    },
    /// What came of a request to the manager.
    Answer {
        /// It.
        answer: Answer,
    },
    /// What the user may have installed.
    Available {
        /// By package.
        available: Vec<Available>,
    },
    /// What waits for the user.
    Announcements {
        /// All of it.
        announcements: Vec<Announcement>,
    },
    /// It is done; what follows, in a sentence.
    Said {
        /// The sentence.
        sentence: String,
    },
    /// It is done.
    Done,
    /// It was not done.
    Error {
        /// Why not, in a sentence.
        error: String,
    },
}

impl Reply {
    pub(super) fn error(sentence: impl Into<String>) -> Reply {
        Reply::Error { error: sentence.into() }
    }
}

pub(super) async fn perform(call: Call, handle: &Handle) -> Reply {
    let asked = async {
        Ok(match call {
            Call::Status => Reply::Status { status: Box::new(handle.status().await?) },
            Call::Facts => {
                let facts = handle.facts().await?;
                Reply::Facts { facts: serde_json::from_str(&facts).unwrap_or_default() }
            }
            Call::Groups => Reply::Answer { answer: handle.groups().await? },
            Call::Join { group, password } => Reply::Answer { answer: handle.join(group, password).await? },
            Call::Leave { group } => Reply::Answer { answer: handle.leave(group).await? },
            Call::Questions => Reply::Questions { questions: handle.questions().await? },
            Call::Answer { question, answer } => Reply::Answer { answer: handle.answer(question, answer).await? },
            Call::RunNow => {
                handle.run_now().await?;
                Reply::Done
            }
            Call::Available => Reply::Available { available: handle.available().await? },
            Call::Install { name } => Reply::Answer { answer: handle.install(name).await? },
            Call::Announcements => Reply::Announcements { announcements: handle.announcements().await? },
            Call::User { job, answer } => match handle.user_answers(job, answer).await? {
                Ok(sentence) => Reply::Said { sentence },
                Err(error) => Reply::Error { error },
            },
            Call::Shutdown { seconds } => match handle.goes_down(Duration::from_secs(seconds)).await? {
                true => Reply::Done,
                false => Reply::error("the time is over, and what is ordered for the machine's stop has not ended"),
            },
            Call::Unenroll => Reply::Answer { answer: handle.unenroll().await? },
        })
    };
    asked.await.unwrap_or_else(|e: Gone| Reply::error(e.to_string()))
}
