//! How others in this process speak to the running agent: the local socket, and tests.

use crate::machine::UserAnswer;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use sutler_base::{
    ClientId, GroupName, QuestionName, Timestamp,
    state::{ClientState, ExecutionState, WaitReason},
};
use tokio::sync::{mpsc, oneshot};

/// How long a request waits for the manager's answer before it counts as queued.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The client's id.
    pub client: ClientId,
    /// The trust domain of its manager.
    pub trust_domain: String,
    /// The agent's version.
    pub version: String,
    /// What the manager said that the client may do; none before it said it.
    pub state: Option<ClientState>,
    /// The address of the manager that it is connected to; none if it is not.
    pub connected: Option<String>,
    /// When it last heard from the manager.
    pub last_contact: Option<Timestamp>,
    /// For how many days it has not heard from the manager, once that is long: somebody may be keeping them apart.
    #[serde(default)]
    pub silent_days: Option<u64>,
    /// Why it is not connected.
    pub problem: Option<String>,
    /// How far this machine's clock is ahead of the manager's (seconds); none before it was compared.
    pub clock_skew_seconds: Option<i64>,
    /// When the certificate ends.
    pub certificate_ends: Option<Timestamp>,
    /// Whether the machine's own administrator holds installations.
    pub hold: bool,
    /// Why, where it is not just said: the rules can't be read.
    #[serde(default)]
    pub hold_reason: String,
    /// Whom this machine trusts, in sentences.
    #[serde(default)]
    pub trust: Vec<String>,
    /// What it works on.
    pub attempts: Vec<AttemptStatus>,
    /// What waits for the manager.
    pub requests: Vec<String>,
    /// What it has installed.
    pub installed: Vec<InstalledStatus>,
    /// What waits for the user.
    #[serde(default)]
    pub announcements: Vec<super::Announcement>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptStatus {
    /// Its id.
    pub attempt: String,
    /// The job.
    pub job: String,
    /// Where it is.
    pub state: ExecutionState,
    /// What it waits for.
    pub wait: Option<WaitReason>,
    /// The step that runs.
    pub step: String,
    /// Which package of how many, from 1.
    pub package: (usize, usize),
    /// Bytes that are there, and all.
    pub bytes: (u64, u64),
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledStatus {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Where its files are.
    pub directory: Option<String>,
}

/// What came of a request that the manager has to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done; the groups that the client is in now, where it was about those.
    Done {
        /// Their names.
        groups: Vec<String>,
    },
    /// The manager said no.
    Refused {
        /// Why.
        why: String,
    },
    /// The manager can't be reached now; it is asked as soon as it can.
    Queued,
    /// It can't be kept: too many wait, or the disk is full.
    NotKept {
        /// Why.
        why: String,
    },
}

/// What is asked of the loop.
pub(crate) enum Ask {
    Status(oneshot::Sender<Status>),
    Facts(oneshot::Sender<String>),
    Groups(oneshot::Sender<Answer>),
    Questions(oneshot::Sender<Vec<super::Question>>),
    Request(super::Asked, oneshot::Sender<Answer>),
    Available(oneshot::Sender<Vec<super::Available>>),
    RunNow(oneshot::Sender<()>),
    Announcements(oneshot::Sender<Vec<super::Announcement>>),
    User(String, UserAnswer, oneshot::Sender<Result<String, String>>),
    GoesDown(Duration, oneshot::Sender<bool>),
    Stop,
}

/// The agent has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent has ended")]
pub struct Gone;

/// Speaks to a running agent. Clones speak to the same one.
#[derive(Clone)]
pub struct Handle {
    pub(crate) asks: mpsc::Sender<Ask>,
}

impl Handle {
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    async fn ask_manager(&self, ask: impl FnOnce(oneshot::Sender<Answer>) -> Ask) -> Result<Answer, Gone> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.ask(ask)).await {
            Ok(answer) => answer,
            Err(_) => Ok(Answer::Queued),
        }
    }

    /// Where the agent is.
    pub async fn status(&self) -> Result<Status, Gone> {
        self.ask(Ask::Status).await
    }

    /// The facts as JSON.
    pub async fn facts(&self) -> Result<String, Gone> {
        self.ask(Ask::Facts).await
    }

    /// The groups that the client is in: asked of the manager, or as it last said.
    pub async fn groups(&self) -> Result<Answer, Gone> {
        self.ask_manager(Ask::Groups).await
    }

    /// Joins a group; queued while there is no connection.
    pub async fn join(&self, group: GroupName, password: String) -> Result<Answer, Gone> {
        self.ask_manager(|reply| Ask::Request(super::Asked::Join { group, password }, reply)).await
    }

    /// Leaves a group; queued while there is no connection.
    pub async fn leave(&self, group: GroupName) -> Result<Answer, Gone> {
        self.ask_manager(|reply| Ask::Request(super::Asked::Leave { group }, reply)).await
    }

    /// What operators ask, as the manager last said, with the answers.
    pub async fn questions(&self) -> Result<Vec<super::Question>, Gone> {
        self.ask(Ask::Questions).await
    }

    /// Answers a question; queued while there is no connection.
    pub async fn answer(&self, question: QuestionName, answer: String) -> Result<Answer, Gone> {
        self.ask_manager(|reply| Ask::Request(super::Asked::Answer { question, answer }, reply)).await
    }

    /// Leaves the manager; queued while there is no connection. The agent ends when it is done.
    pub async fn unenroll(&self) -> Result<Answer, Gone> {
        self.ask_manager(|reply| Ask::Request(super::Asked::Unenroll, reply)).await
    }

    /// Whatever waits for a retry goes at once.
    pub async fn run_now(&self) -> Result<(), Gone> {
        self.ask(Ask::RunNow).await
    }

    /// What the user may have installed, as the manager last said.
    pub async fn available(&self) -> Result<Vec<super::Available>, Gone> {
        self.ask(Ask::Available).await
    }

    /// Has installed what is offered, by the name of its package or the id of its job; queued while there is no connection.
    pub async fn install(&self, name: String) -> Result<Answer, Gone> {
        self.ask_manager(|reply| Ask::Request(super::Asked::Install { job: String::new(), package: name }, reply)).await
    }

    /// What waits for the user.
    pub async fn announcements(&self) -> Result<Vec<super::Announcement>, Gone> {
        self.ask(Ask::Announcements).await
    }

    /// What the user says about a job that is announced: what follows, or why not.
    pub async fn user_answers(&self, job: String, answer: UserAnswer) -> Result<Result<String, String>, Gone> {
        self.ask(|reply| Ask::User(job, answer, reply)).await
    }

    /// The machine goes down: comes back when what is ordered for that has ended, or with false when the time is over.
    pub async fn goes_down(&self, within: Duration) -> Result<bool, Gone> {
        self.ask(|reply| Ask::GoesDown(within, reply)).await
    }

    /// Ends the agent at once. Steps that run go on under their supervisors.
    pub async fn stop(&self) {
        let _ = self.asks.send(Ask::Stop).await;
    }
}
