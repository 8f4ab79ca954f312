//! What the manager, the agents and the administrator's command line must agree on, byte for byte and word for word.
//!
//! Plain types without I/O and without the wire format: ids and names, digests and chunk lists, the manifest of a
//! package, the facts of a client, the states of an execution and the reasons they carry, the enrolment token's string,
//! and every limit with the name it is reported under. Each type is parsed once, at the edge; what holds one holds a
//! valid value.

pub mod checkup;
pub mod chunks;
pub mod digest;
pub mod facts;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod name;
pub mod outcome;
pub mod path;
pub mod quantity;
pub mod state;
pub mod token;

pub use digest::Digest;
pub use id::{AttemptId, ClientId, JobId, TokenId, Uid};
pub use jiff::Timestamp;
pub use name::{GroupName, LabelKey, OperatorName, PackageName, PolicyName, Version};

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

/// `text` as it may be shown in an error: at most 80 characters, control and bidirectional characters escaped.
///
/// An error quotes what was sent; what was sent may try to forge a line of a log or to colour a terminal.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for (n, c) in text.chars().enumerate() {
        if n == 80 {
            out.push('…');
            break;
        }
        let bidi = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || bidi || c == '"' || c == '\\' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('"');
    out
}
