//! The outcome of an attempt, as the agent journals, signs and reports it.

use crate::{
    AttemptId, ClientId, Digest, Invalid, PackageName, Timestamp, Version, limits,
    state::{ErrorKind, ExecutionState},
    told,
};
use serde::{Deserialize, Serialize};

/// What an agent's signature over an outcome is made for: no other signature of its key can stand for one.
pub const SIGNING_CONTEXT: &str = "sutler outcome v1";

/// How one attempt ended. There is at most one per attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which attempt.
    pub attempt: AttemptId,
    /// On which client; must be the one that reports it.
    pub client: ClientId,
    /// An end of an execution.
    pub state: ExecutionState,
    /// One result per package that was reached, in the job's order.
    pub items: Vec<ItemResult>,
    /// When it ended, by the client's clock.
    pub finished: Timestamp,
}

/// What became of one package of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemResult {
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: Version,
    /// The digest of its manifest: what exactly it was.
    pub manifest: Digest,
    /// An end of an execution.
    pub state: ExecutionState,
    /// What went wrong, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The machine must be restarted some time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reboot: bool,
    /// Bytes that came over the network for it.
    #[serde(default)]
    pub fetched_bytes: u64,
    /// Bytes that its files have together.
    #[serde(default)]
    pub total_bytes: u64,
    /// How long the package took (milliseconds).
    #[serde(default)]
    pub duration_ms: u64,
    /// What of the package, and of those whose place it takes, was there before it was installed, as far as the agent had installed
    /// it; none where an older agent does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Vec<Was>>,
}

/// A package that was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Was {
    /// Which.
    pub package: PackageName,
    /// Its version.
    pub version: Version,
    /// The digest of its manifest.
    pub manifest: Digest,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind: a stable word.
    pub kind: ErrorKind,
    /// A sentence for people.
    pub message: String,
    /// The step's name, if it was in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The step's exit code, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the step, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The end of the step's output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// How many bytes of output came before that and were not kept.
    #[serde(default, skip_serializing_if = "nothing")]
    pub output_cut: u64,
    /// Whether what was there before was put back; none where nothing had to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<bool>,
}

fn nothing(bytes: &u64) -> bool {
    *bytes == 0
}

impl Failure {
    /// Keeps at most so many bytes of the output: its end, whole characters, and how much was before it.
    pub fn cut_output(&mut self, most: usize) {
        let surplus = self.output.len().saturating_sub(most);
        let from = (surplus..=self.output.len()).find(|n| self.output.is_char_boundary(*n)).unwrap_or(self.output.len());
        self.output.drain(..from);
        self.output_cut += from as u64;
    }
}

impl Outcome {
    /// The outcome in the bytes that an agent signed: at most [`limits::OUTCOME_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Outcome, Invalid> {
        if bytes.len() > limits::OUTCOME_MAX {
            return Err(Invalid::new(format!("an outcome has at most {} bytes, not {}", limits::OUTCOME_MAX, bytes.len())));
        }
        let outcome: Outcome =
            serde_json::from_slice(bytes).map_err(|e| Invalid::new(format!("the outcome can't be read: {}", told(&e))))?;
        if !outcome.state.is_end() || outcome.items.iter().any(|i| !i.state.is_end()) {
            return Err(Invalid::new(format!("an outcome names an end, {} is none", outcome.state)));
        }
        if outcome.items.len() > limits::JOB_PACKAGES_MAX {
            return Err(Invalid::new(format!("an outcome has at most {} results, not {}", limits::JOB_PACKAGES_MAX, outcome.items.len())));
        }
        if outcome.items.iter().flat_map(|i| &i.before).any(|was| was.len() > limits::RELATIONS_MAX + 1) {
            return Err(Invalid::new(format!("a result names at most {} packages that were there before", limits::RELATIONS_MAX + 1)));
        }
        Ok(outcome)
    }

    /// The exact bytes that are signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an outcome is plain data")
    }

    /// The failure that decided the outcome: that of the last package reached that has one.
    pub fn failure(&self) -> Option<&Failure> {
        self.items.iter().rev().find_map(|i| i.failure.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_cut_between_characters_and_says_how_much_was_before() {
        let mut failure: Failure = serde_json::from_str(r#"{"kind": "STEP_FAILED", "message": "no", "output": "aäöü"}"#).unwrap();
        failure.cut_output(7);
        assert_eq!((failure.output.as_str(), failure.output_cut), ("aäöü", 0));
        failure.cut_output(5);
        assert_eq!((failure.output.as_str(), failure.output_cut), ("öü", 3));
        failure.cut_output(0);
        assert_eq!((failure.output.as_str(), failure.output_cut), ("", 7));
    }
}
