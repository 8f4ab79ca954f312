//! Questions that operators ask the users of machines: what an answer to each may be. Both sides check it: the agent for whoever
//! types it, the manager because an agent may say anything.

use crate::{Invalid, is_harmful, limits, pattern::Pattern, quoted};
use serde::{Deserialize, Serialize};

/// What the answer to a question is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AnswerRule {
    /// A text; with a pattern, one that matches it whole.
    String {
        /// Which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<Pattern>,
    },
    /// A whole number of 64 bits.
    Integer,
    /// True or false.
    Boolean,
    /// One of these texts.
    Choice {
        /// All of them, in the order in which they are shown.
        choices: Vec<String>,
    },
}

impl AnswerRule {
    /// One of these texts, if they can be the choices of a question.
    ///
    /// # Errors
    ///
    /// A sentence about their number, a text that is empty, too long or harmful, or one that stands there twice.
    pub fn choice(choices: Vec<String>) -> Result<AnswerRule, Invalid> {
        if choices.is_empty() || choices.len() > limits::CHOICES_MAX {
            return Err(Invalid::new(format!("a question has 1 to {} choices, not {}", limits::CHOICES_MAX, choices.len())));
        }
        for (n, choice) in choices.iter().enumerate() {
            if choice.is_empty() || choice.len() > limits::CHOICE_MAX || choice.chars().any(is_harmful) || choice.trim() != choice {
                let rule = format!("a choice has 1 to {} bytes, no control characters and no spaces around it", limits::CHOICE_MAX);
                return Err(Invalid::new(format!("{rule}, not {}", quoted(choice))));
            }
            if choices[..n].contains(choice) {
                return Err(Invalid::new(format!("{} stands among the choices twice", quoted(choice))));
            }
        }
        Ok(AnswerRule::Choice { choices })
    }

    /// The word for it: `STRING`, `INTEGER`, `BOOLEAN` or `CHOICE`.
    pub fn as_str(&self) -> &'static str {
        match self {
            AnswerRule::String { .. } => "STRING",
            AnswerRule::Integer => "INTEGER",
            AnswerRule::Boolean => "BOOLEAN",
            AnswerRule::Choice { .. } => "CHOICE",
        }
    }

    /// The answer as it is kept: a number without leading zeros, `true` or `false`, a text as it is.
    ///
    /// # Errors
    ///
    /// What an answer has to be, and what came.
    pub fn answer(&self, text: &str) -> Result<String, Invalid> {
        if text.is_empty() || text.len() > limits::ANSWER_MAX || text.chars().any(is_harmful) {
            let rule = format!("an answer has 1 to {} bytes and no control characters", limits::ANSWER_MAX);
            return Err(Invalid::new(format!("{rule}, not {}", quoted(text))));
        }
        let wrong = |rule: String| Err(Invalid::new(format!("the answer is {rule}, not {}", quoted(text))));
        match self {
            AnswerRule::String { pattern: None } => Ok(text.to_owned()),
            AnswerRule::String { pattern: Some(pattern) } if pattern.fits(text) => Ok(text.to_owned()),
            AnswerRule::String { pattern: Some(pattern) } => wrong(format!("a text that matches {pattern}")),
            AnswerRule::Integer => match text.parse::<i64>() {
                Ok(number) => Ok(number.to_string()),
                Err(_) => wrong("a whole number".to_owned()),
            },
            AnswerRule::Boolean if matches!(text, "true" | "false") => Ok(text.to_owned()),
            AnswerRule::Boolean => wrong("true or false".to_owned()),
            AnswerRule::Choice { choices } if choices.iter().any(|choice| choice == text) => Ok(text.to_owned()),
            AnswerRule::Choice { choices } => wrong(format!("one of: {}", choices.join(", "))),
        }
    }

    /// Whether this answer, as it is kept, is still one.
    pub fn fits(&self, kept: &str) -> bool {
        self.answer(kept).is_ok_and(|answer| answer == kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_in_one_form_or_refused_with_what_it_has_to_be() {
        let choice = AnswerRule::choice(vec!["red".into(), "green".into()]).unwrap();
        let room = AnswerRule::String { pattern: Some("[A-Z][0-9]+".parse().unwrap()) };
        for (kind, text, kept) in [
            (&AnswerRule::String { pattern: None }, "any text", "any text"),
            (&room, "B7", "B7"),
            (&AnswerRule::Integer, "+007", "7"),
            (&AnswerRule::Integer, "-9223372036854775808", "-9223372036854775808"),
            (&AnswerRule::Boolean, "true", "true"),
            (&choice, "green", "green"),
        ] {
            assert_eq!(kind.answer(text).as_deref(), Ok(kept));
            assert!(kind.fits(kept));
        }
        let long = "x".repeat(limits::ANSWER_MAX + 1);
        for (kind, text, word) in [
            (&AnswerRule::String { pattern: None }, "", "1 to"),
            (&AnswerRule::String { pattern: None }, "a\u{1b}[2J", "control"),
            (&AnswerRule::String { pattern: None }, long.as_str(), "1 to"),
            (&room, "b7", "[A-Z][0-9]+"),
            (&AnswerRule::Integer, "7.5", "whole number"),
            (&AnswerRule::Integer, "9223372036854775808", "whole number"),
            (&AnswerRule::Boolean, "yes", "true or false"),
            (&choice, "blue", "red, green"),
        ] {
            let error = kind.answer(text).unwrap_err().0;
            assert!(error.contains(word), "{text:?}: {error}");
        }
        assert!(!AnswerRule::Integer.fits("007"), "what was kept is in the one form");
    }

    #[test]
    fn choices_are_few_short_and_different() {
        let many = (0..=limits::CHOICES_MAX).map(|n| n.to_string()).collect();
        for bad in [vec![], many, vec!["a".into(), "a".into()], vec![" a".into()], vec!["a\n".into()], vec!["x".repeat(101)]] {
            assert!(AnswerRule::choice(bad).is_err());
        }
    }
}
