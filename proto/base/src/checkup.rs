//! What both doctors say: one entry for each thing that was looked at, in words that a person can act on.

use serde::{Deserialize, Serialize};

/// Everything is well.
pub const EXIT_FINE: u8 = 0;
/// Something is wrong, and it was said what.
pub const EXIT_WRONG: u8 = 30;

/// What was found of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// Not as it should be.
    Wrong,
    /// It could not be looked at, because of what is wrong elsewhere.
    NotSeen,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A stable word for the thing.
    pub check: String,
    /// What was found of it.
    pub verdict: Verdict,
    /// Where it was looked for.
    pub looked_at: String,
    /// What was seen, in a sentence.
    pub found: String,
    /// What to do; empty where there is nothing to do.
    pub what_to_do: String,
}

/// A checkup: the entries in the order in which things depend on each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkup(pub Vec<Check>);

impl Checkup {
    /// Something is as it should be.
    pub fn fine(&mut self, check: &str, looked_at: impl ToString, found: impl ToString) {
        self.add(check, Verdict::Fine, looked_at.to_string(), found.to_string(), String::new());
    }

    /// Something is not as it should be.
    pub fn wrong(&mut self, check: &str, looked_at: impl ToString, found: impl ToString, what_to_do: impl ToString) {
        self.add(check, Verdict::Wrong, looked_at.to_string(), found.to_string(), what_to_do.to_string());
    }

    /// Something could not be looked at.
    pub fn not_seen(&mut self, check: &str, looked_at: impl ToString, why: impl ToString) {
        self.add(check, Verdict::NotSeen, looked_at.to_string(), why.to_string(), String::new());
    }

    fn add(&mut self, check: &str, verdict: Verdict, looked_at: String, found: String, what_to_do: String) {
        self.0.push(Check { check: check.into(), verdict, looked_at, found, what_to_do });
    }

    /// With what the doctor's process ends.
    pub fn exit_code(&self) -> u8 {
        if self.0.iter().any(|c| c.verdict == Verdict::Wrong) { EXIT_WRONG } else { EXIT_FINE }
    }

    /// For people: a line for each check, and what to do below those that are wrong. No control characters but line ends.
    pub fn text(&self) -> String {
        let width = self.0.iter().map(|c| c.check.len()).max().unwrap_or(0);
        let mut text = String::new();
        for c in &self.0 {
            let word = match c.verdict {
                Verdict::Fine => "fine",
                Verdict::Wrong => "WRONG",
                Verdict::NotSeen => "not seen",
            };
            text.push_str(&format!("{:width$}  {word:8}  {}: {}\n", c.check, c.looked_at, c.found));
            if !c.what_to_do.is_empty() {
                text.push_str(&format!("{:width$}  {:8}  what to do: {}\n", "", "", c.what_to_do));
            }
        }
        let wrong = self.0.iter().filter(|c| c.verdict == Verdict::Wrong).count();
        match wrong {
            0 => text.push_str("all is well\n"),
            n => text.push_str(&format!("{n} of {} things are wrong\n", self.0.len())),
        }
        text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(&self.0).expect("plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_what_to_do_and_decides_the_exit_code() {
        let mut checkup = Checkup::default();
        checkup.fine("disk", "/var", "12 GiB are free");
        checkup.not_seen("clock", "the manager", "it can't be reached");
        assert_eq!(checkup.exit_code(), EXIT_FINE);
        assert!(checkup.text().ends_with("all is well\n"));
        checkup.wrong("manager", "a:7443", "nobody\u{1b}[31m answers", "start it");
        assert_eq!(checkup.exit_code(), EXIT_WRONG);
        let text = checkup.text();
        assert!(text.contains("WRONG") && text.contains("what to do: start it") && !text.contains('\u{1b}'), "{text}");
        let again: Vec<Check> = serde_json::from_str(&checkup.json()).unwrap();
        assert_eq!(again, checkup.0);
    }
}
