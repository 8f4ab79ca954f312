//! What can be asked on the local socket, and what is answered.

use crate::agent::{Answer, Gone, Handle, Question, Status};
use serde::{Deserialize, Serialize};
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
    /// Leave the manager.
    Unenroll,
}

impl Call {
    /// Whether not every local user may ask for it.
    pub fn needs_root(&self) -> bool {
        match self {
            Call::Status | Call::Facts | Call::Groups | Call::Join { .. } | Call::Leave { .. } => false,
            // It is the user who is asked.
            Call::Questions | Call::Answer { .. } => false,
            Call::RunNow | Call::Unenroll => true,
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
            Call::Unenroll => Reply::Answer { answer: handle.unenroll().await? },
        })
    };
    asked.await.unwrap_or_else(|e: Gone| Reply::error(e.to_string()))
}
