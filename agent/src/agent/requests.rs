//! What people asked for at this machine and the manager has to answer: kept durably until it did.

use crate::vault::{Vault, VaultError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use sutler_base::{GroupName, QuestionName};
use sutler_proto::v1::{
    AnswerRequest, Choice, ConnectRequest, GroupRequest, JoinGroup, Unenroll, connect_request::Message, group_request::Action,
};

/// The file of the vault that they are in.
pub(crate) const FILE: &str = "requests.json";
/// The most requests that wait.
pub const REQUESTS_MAX: usize = 64;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen here; the manager does the same id once.
    pub id: String,
    /// What is asked for.
    pub action: Asked,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// To join a group.
    Join {
        /// Which.
        group: GroupName,
        /// Its password, if it has one.
        password: String,
    },
    /// To leave a group.
    Leave {
        /// Which.
        group: GroupName,
    },
    /// To keep what the user answered.
    Answer {
        /// The question.
        question: QuestionName,
        /// The answer, which was checked.
        answer: String,
    },
    /// To install what is offered to the user.
    Install {
        /// Which job.
        job: String,
        /// How it is called.
        package: String,
    },
    /// To leave altogether.
    Unenroll,
}

/// Without the password.
impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence())
    }
}

impl Asked {
    /// For people: `join new-clients`.
    pub fn sentence(&self) -> String {
        match self {
            Asked::Join { group, .. } => format!("join {group}"),
            Asked::Leave { group } => format!("leave {group}"),
            Asked::Answer { question, answer } => format!("answer {question} {answer}"),
            Asked::Install { package, .. } => format!("install {package}"),
            Asked::Unenroll => "unenroll".into(),
        }
    }
}

impl Request {
    /// As it is sent.
    pub fn to_wire(&self) -> ConnectRequest {
        let group = |action| Message::Group(GroupRequest { request_id: self.id.clone(), action: Some(action) });
        let message = match &self.action {
            Asked::Join { group: name, password } => group(Action::Join(JoinGroup { group: name.to_string(), password: password.clone() })),
            Asked::Leave { group: name } => group(Action::Leave(name.to_string())),
            Asked::Answer { question, answer } => {
                Message::Answer(AnswerRequest { request_id: self.id.clone(), question: question.to_string(), answer: answer.clone() })
            }
            Asked::Install { job, .. } => Message::Choice(Choice { request_id: self.id.clone(), job: job.clone() }),
            Asked::Unenroll => Message::Unenroll(Unenroll {}),
        };
        ConnectRequest { message: Some(message) }
    }
}

/// The requests that wait.
pub(super) struct Requests {
    vault: Arc<dyn Vault>,
    waiting: Vec<Request>,
}

impl Requests {
    /// Those in the vault; a file that can't be read is empty: people can ask again.
    pub(super) fn load(vault: Arc<dyn Vault>) -> Result<Requests, VaultError> {
        let waiting = vault.read(FILE)?.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        Ok(Requests { vault, waiting })
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> &[Request] {
        &self.waiting
    }

    /// Adds one, durably; an answer takes the place of one to the same question. False if too many wait.
    pub(super) fn add(&mut self, request: Request) -> Result<bool, VaultError> {
        let mut waiting = self.waiting.clone();
        if let Asked::Answer { question: new, .. } = &request.action {
            waiting.retain(|before| !matches!(&before.action, Asked::Answer { question, .. } if question == new));
        }
        if let Asked::Install { job: new, .. } = &request.action {
            waiting.retain(|before| !matches!(&before.action, Asked::Install { job, .. } if job == new));
        }
        if waiting.len() >= REQUESTS_MAX {
            return Ok(false);
        }
        waiting.push(request);
        self.save(waiting)?;
        Ok(true)
    }

    /// The manager answered: it waits no longer.
    pub(super) fn remove(&mut self, id: &str) -> Result<Option<Request>, VaultError> {
        let Some(at) = self.waiting.iter().position(|r| r.id == id) else { return Ok(None) };
        let mut waiting = self.waiting.clone();
        let removed = waiting.remove(at);
        self.save(waiting)?;
        Ok(Some(removed))
    }

    fn save(&mut self, waiting: Vec<Request>) -> Result<(), VaultError> {
        self.vault.write(FILE, &serde_json::to_vec(&waiting).expect("plain data"))?;
        self.waiting = waiting;
        Ok(())
    }
}
