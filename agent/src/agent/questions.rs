//! What operators ask the users of this machine, as the manager said last: kept, so that it can be shown and answered while the
//! manager can't be reached.

use crate::vault::{Vault, VaultError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use sutler_base::{Invalid, QuestionName, is_harmful, limits, question::AnswerRule, quoted};
use sutler_proto::{
    convert::{question_name, rule},
    v1,
};

/// The file of the vault.
pub(crate) const FILE: &str = "questions.json";

/// A question, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its name.
    pub name: QuestionName,
    /// What the user is asked.
    pub prompt: String,
    /// What the answer may be.
    #[serde(flatten)]
    pub rule: AnswerRule,
    /// What the manager has as the answer.
    pub answer: Option<String>,
    /// An answer that waits for the manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<String>,
}

/// What the manager said.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Told {
    digest: Vec<u8>,
    questions: Vec<Question>,
}

/// What is asked.
pub(super) struct Questions {
    vault: Arc<dyn Vault>,
    told: Told,
}

impl Questions {
    /// As the last run left it. A file that can't be read is none: the manager says it again.
    pub(super) fn load(vault: Arc<dyn Vault>) -> Result<Questions, VaultError> {
        let told = vault.read(FILE)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Questions { vault, told })
    }

    /// By what the manager knows whether this is what it would say.
    pub(super) fn digest(&self) -> bytes::Bytes {
        self.told.digest.clone().into()
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> &[Question] {
        &self.told.questions
    }

    /// The manager said what is asked. A question that can't be read is left out: a newer manager may ask for what this agent does
    /// not know. It is told again then with each connection, for the next version of the agent may be able to read it.
    pub(super) fn is_told(&mut self, wire: &v1::Questions) -> Result<(), VaultError> {
        let questions: Vec<_> = wire.questions.iter().take(limits::QUESTIONS_MAX).filter_map(|asked| read(asked).ok()).collect();
        let digest = if questions.len() == wire.questions.len() { wire.digest.to_vec() } else { Vec::new() };
        let told = Told { digest, questions };
        if told != self.told {
            self.vault.write(FILE, &serde_json::to_vec(&told).expect("plain data"))?;
            self.told = told;
        }
        Ok(())
    }

    /// The answer as it is sent.
    ///
    /// # Errors
    ///
    /// A sentence: nobody asks that, or the answer is none.
    pub(super) fn check(&self, name: &QuestionName, answer: &str) -> Result<String, Invalid> {
        match self.all().iter().find(|question| question.name == *name) {
            Some(question) => question.rule.answer(answer),
            None if self.all().is_empty() => Err(Invalid::new("the manager has asked nothing yet")),
            None => {
                let names: Vec<_> = self.all().iter().map(|question| question.name.as_str()).collect();
                Err(Invalid::new(format!("nobody asks {}; asked is: {}", quoted(name.as_str()), names.join(", "))))
            }
        }
    }
}

fn read(asked: &v1::AskedQuestion) -> Result<Question, Invalid> {
    let missing = || Invalid::new("it has no question or no rule");
    let question = asked.question.as_ref().ok_or_else(missing)?;
    if question.prompt.len() > limits::PROMPT_MAX || question.prompt.chars().any(is_harmful) {
        return Err(Invalid::new("its text is too long or has control characters"));
    }
    let rule = rule(question.rule.as_ref().ok_or_else(missing)?)?;
    // An answer of before that does not fit is none.
    let answer = asked.answer.clone().filter(|answer| rule.fits(answer));
    Ok(Question { name: question_name(&question.name)?, prompt: question.prompt.clone(), rule, answer, queued: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::FolderVault;
    use std::os::unix::fs::PermissionsExt;
    use sutler_proto::convert::wire_rule;

    #[test]
    fn what_is_asked_is_kept_across_restarts_and_what_can_not_be_read_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let load = || Questions::load(Arc::new(FolderVault::open(folder.path()).unwrap())).unwrap();
        let asked = |name: &str, prompt: &str, rule: Option<v1::AnswerRule>, answer: Option<&str>| v1::AskedQuestion {
            question: Some(v1::Question { name: name.into(), prompt: prompt.into(), rule, ..Default::default() }),
            answer: answer.map(str::to_owned),
        };
        let integer = || Some(wire_rule(&AnswerRule::Integer));
        let mut questions = load();
        assert!(questions.digest().is_empty());
        assert!(questions.check(&"seats".parse().unwrap(), "1").unwrap_err().0.contains("asked nothing"));
        let told = v1::Questions {
            questions: vec![
                asked("questions/seats", "How many?", integer(), Some("4")),
                asked("questions/desks", "How many?", integer(), Some("many")),
                asked("questions/bad", "\u{1b}[2J", integer(), None),
                asked("questions/new", "?", Some(v1::AnswerRule { r#type: 99, ..Default::default() }), None),
                asked("room", "?", integer(), None),
                v1::AskedQuestion::default(),
            ],
            digest: vec![7; 32].into(),
        };
        questions.is_told(&told).unwrap();
        let questions = load();
        let all: Vec<_> = questions.all().iter().map(|q| (q.name.as_str(), q.answer.as_deref())).collect();
        assert_eq!(all, [("seats", Some("4")), ("desks", None)]);
        assert!(questions.digest().is_empty(), "an agent that can read more has to be told again");
        assert_eq!(questions.check(&"seats".parse().unwrap(), "007"), Ok("7".to_owned()));
        assert!(questions.check(&"seats".parse().unwrap(), "x").unwrap_err().0.contains("whole number"));
        assert!(questions.check(&"room".parse().unwrap(), "x").unwrap_err().0.contains("seats, desks"));
        let told = v1::Questions { questions: told.questions[..2].to_vec(), ..told };
        load().is_told(&told).unwrap();
        assert_eq!(load().digest(), told.digest);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(load().all().is_empty());
    }
}
