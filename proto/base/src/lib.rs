//! What the manager, the agents and the administrator's command line must agree on, byte for byte and word for word.
//!
//! Plain types without I/O and without the wire format: ids and names, digests and chunk lists, the manifest of a
//! package, the facts of a client, the states of an execution and the reasons they carry, the enrolment token's string,
//! and every limit with the name it is reported under. Each type is parsed once, at the edge; what holds one holds a
//! valid value.

pub mod checkup;
pub mod chunker;
pub mod chunks;
pub mod delta;
pub mod digest;
pub mod facts;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod name;
pub mod outcome;
pub mod patch;
pub mod path;
pub mod pattern;
pub mod quantity;
pub mod question;
pub mod state;
pub mod token;
pub mod version;

pub use digest::Digest;
pub use id::{AttemptId, ClientId, JobId, TokenId, Uid};
pub use jiff::Timestamp;
pub use name::{GroupName, JobAlias, LabelKey, OperatorName, PackageName, ParameterName, PolicyName, QuestionName, Version, WindowName};

/// Why a text is not a value of the type that it was read as: one sentence that names the rule and the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// An error that says `sentence`.
    pub fn new(sentence: impl Into<String>) -> Self {
        Invalid(sentence.into())
    }
}

/// Whether a character could move a cursor, ring, colour, hide or turn round what stands beside it.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` as it may be shown in an error: at most 80 characters, control, bidirectional and invisible characters escaped.
///
/// An error quotes what was sent; what was sent may try to forge a line of a log or to colour a terminal.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    write_cut(&mut out, text, 80, |c| is_harmful(c) || c == '"' || c == '\\');
    out.push('"');
    out
}

/// What a parser of somebody else's says about a text, as it may be shown: at most 300 characters, escaped like [`quoted`].
///
/// Such a sentence repeats what it read, as long and as hostile as it was.
pub fn told(error: &(impl std::fmt::Display + ?Sized)) -> String {
    let mut out = String::new();
    write_cut(&mut out, &error.to_string(), 300, is_harmful);
    out
}

fn write_cut(out: &mut String, text: &str, most: usize, escaped: impl Fn(char) -> bool) {
    for (n, c) in text.chars().enumerate() {
        if n == most {
            out.push('…');
            break;
        }
        if escaped(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_shown_cut_and_escaped() {
        assert_eq!(quoted("a\u{202e}\u{61c}\u{2028}\u{1b}[0m\"\\"), r#""a\u{202e}\u{61c}\u{2028}\u{1b}[0m\"\\""#);
        assert_eq!(quoted(&"x".repeat(81)), format!("\"{}…\"", "x".repeat(80)));
        let error = serde_json::from_str::<Named>(&format!("{{\"\u{9b}{}\":1}}", "y".repeat(1000))).unwrap_err();
        let text = told(&error);
        assert!(text.chars().count() < 320 && !text.chars().any(is_harmful), "{text}");
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {}
}
