//! Conditions: the expressions in CEL that say which clients a policy is for.
//!
//! A condition is written by an administrator and decided against what is known of a client. Four variables can be
//! used: `facts` (what the agent measured), `labels` (what operators and tokens gave), `answers` (what the user said, each with the
//! type of its question) and `client` (the manager's own record).
//!
//! # What is supported
//!
//! Literals (bool, int, double, string, lists), `.` and `[]`, `has()`, `!`, `-`, `+ - * / %`, `== != < <= > >=`, `in`,
//! `&&`, `||`, `? :`; `size`, `contains`, `startsWith`, `endsWith`, `matches` (with a literal pattern), `lowerAscii`,
//! `upperAscii`, `int`, `double`, `string`, `timestamp`; and `all`, `exists`, `exists_one`, `filter`, `map`.
//!
//! # Why the evaluator is ours
//!
//! The crate `cel` reads the text and gives its tree; types are checked and the tree is evaluated here. The crate checks
//! types only when it evaluates, has no budget, and can't tell a fact that is missing from one that differs. Here a
//! condition that compiled has the type `bool` and names only what exists, so that evaluating it ends in one of three
//! ways, after a bounded amount of work.
//!
//! # Unknown
//!
//! A fact, label or answer that a client doesn't have is *unknown*, and so is whatever is computed from it, its negation
//! included: nobody gets into a group because something about him is not known. Only `||` with a side that is true and
//! `&&` with a side that is false are known all the same, whichever side it is, as in CEL. `has(…)` is always known. A text
//! among the facts that is empty is one that could not be measured, and is unknown as well.

mod check;
mod error;
mod eval;
mod explain;
mod parse;
mod scan;
mod schema;
#[cfg(test)]
mod tests;

pub use error::{ConditionError, ConditionErrorKind};
pub use explain::{Explanation, Joined, Term};
pub use schema::{Schema, Type};

use std::collections::BTreeMap;
use sutler_base::state::Presence;

/// How much a condition may ask for. Each limit is named in the error that reports it.
pub mod limits {
    /// The text of a condition (bytes): [`TooLong`](super::ConditionErrorKind::TooLong).
    pub const TEXT_MAX: usize = 2048;
    /// Nodes of the expression's tree: [`TooManyNodes`](super::ConditionErrorKind::TooManyNodes).
    pub const NODES_MAX: usize = 200;
    /// Brackets and `? :` inside each other: [`TooDeep`](super::ConditionErrorKind::TooDeep).
    pub const DEPTH_MAX: usize = 16;
    /// A pattern of `matches` (bytes): [`Pattern`](super::ConditionErrorKind::Pattern).
    pub const PATTERN_MAX: usize = 256;
    /// The machine that a pattern is compiled to (bytes): [`Pattern`](super::ConditionErrorKind::Pattern).
    pub const PATTERN_COMPILED_MAX: usize = 64 * 1024;
    /// Steps of one evaluation; more end it as unknown. A step is a node, an item of a list, or a few bytes of a text that
    /// is read or made; all of them take well below a second.
    pub const STEPS_MAX: u32 = 2_000_000;
    /// A text that is put together while evaluating (bytes); a longer one is unknown.
    pub const STRING_MAX: usize = 64 * 1024;
}

/// One of the variables that a condition can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variable {
    /// `facts`: what the agent measured. Untrusted.
    Facts,
    /// `labels`: what operators and tokens gave.
    Labels,
    /// `answers`: what the user at the client said. Untrusted.
    Answers,
    /// `client`: the manager's own record.
    Client,
}

impl Variable {
    /// All of them.
    pub const ALL: [Variable; 4] = [Variable::Facts, Variable::Labels, Variable::Answers, Variable::Client];

    /// The name that an expression uses.
    pub fn name(self) -> &'static str {
        match self {
            Variable::Facts => "facts",
            Variable::Labels => "labels",
            Variable::Answers => "answers",
            Variable::Client => "client",
        }
    }
}

/// The members of `client`, as the manager has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClientFields<'i> {
    /// `client.id`: the id that the manager chose.
    pub id: &'i str,
    /// `client.name`: what people call it.
    pub name: &'i str,
    /// `client.kind`: `MACHINE` or `RELAY`.
    pub kind: &'i str,
    /// `client.state`: `PENDING`, `ACTIVE` …
    pub state: &'i str,
    /// `client.created`: when it enrolled, as a timestamp: `client.created > timestamp("2026-01-31T00:00:00Z")`.
    pub created: jiff::Timestamp,
    /// `client.presence`: `ONLINE`, `OFFLINE` or `OVERDUE`; and `client.last_seen`: when it was last heard of. In filters only.
    pub contact: Option<(Presence, jiff::Timestamp)>,
    /// `client.duplicate`: whether another client is probably the same machine. In filters only.
    pub duplicate: Option<bool>,
}

/// What is known of one client when a condition is decided.
#[derive(Debug, Clone, Copy)]
pub struct Input<'i> {
    /// The facts as an object; members that the schema doesn't know are not looked at.
    pub facts: &'i serde_json::Value,
    /// Labels that operators and tokens gave.
    pub labels: &'i BTreeMap<String, String>,
    /// Answers that the user gave, each as the text in which it is kept; in a condition it has the type of its question.
    pub answers: &'i BTreeMap<String, String>,
    /// The manager's record.
    pub client: ClientFields<'i>,
}

/// How a condition was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is true: the client is meant.
    Matched,
    /// It is false.
    NotMatched,
    /// It can't be said, so the client is not meant; the sentence says what is missing.
    Unknown(String),
}

impl Outcome {
    /// Whether the client is meant. What is unknown never is.
    pub fn matched(&self) -> bool {
        *self == Outcome::Matched
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Matched => f.write_str("true"),
            Outcome::NotMatched => f.write_str("false"),
            Outcome::Unknown(reason) => write!(f, "unknown: {reason}"),
        }
    }
}

/// A condition that was checked: it names only what exists, is a `bool`, and is within the [`limits`].
#[derive(Debug, Clone)]
pub struct Condition {
    text: String,
    schema: Schema,
    /// `None` for the empty condition, which every client meets.
    root: Option<check::Node>,
    uses: check::Uses,
}

impl Condition {
    /// Reads and checks `text`. A text without an expression (empty, blank, comments) is met by every client.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its place in `text`.
    pub fn compile(text: &str, schema: &Schema) -> Result<Condition, ConditionError> {
        let (root, uses) = match parse::parse(text)? {
            None => (None, check::Uses::default()),
            Some(parsed) => {
                let (root, uses) = check::check(&parsed, schema)?;
                (Some(root), uses)
            }
        };
        Ok(Condition { text: text.to_owned(), schema: schema.clone(), root, uses })
    }

    /// The text that it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is the empty condition, which every client meets.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether `variable` stands anywhere in it. A restricted group refuses one over facts or answers.
    pub fn uses(&self, variable: Variable) -> bool {
        self.uses.contains(variable)
    }

    /// Whether it names `facts.packages`: they are many, kept apart, and loaded only for such a condition.
    pub fn uses_packages(&self) -> bool {
        self.uses.packages
    }

    /// Whether it asks when the client was last heard of.
    pub fn uses_contact(&self) -> bool {
        self.uses.contact
    }

    /// Whether it asks for other clients that are probably the same machine: they are looked up only for such a condition.
    pub fn uses_duplicate(&self) -> bool {
        self.uses.duplicate
    }

    /// Whether it names the answer to this question.
    pub fn uses_question(&self, name: &str) -> bool {
        self.uses.questions.contains(name)
    }

    /// Decides it for one client. The same input always gives the same outcome.
    pub fn evaluate(&self, input: &Input<'_>) -> Outcome {
        match &self.root {
            None => Outcome::Matched,
            Some(root) => eval::decide(root, input),
        }
    }

    /// Decides it for one client and says why, part by part.
    pub fn explain(&self, input: &Input<'_>) -> Explanation {
        explain::explain(self, input)
    }
}
