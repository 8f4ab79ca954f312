//! Why a text is no condition, and where in the text.

use sutler_base::told;

/// What is wrong with a text that should be a condition, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionErrorKind {
    /// Longer than [`TEXT_MAX`](super::limits::TEXT_MAX).
    TooLong,
    /// More nodes than [`NODES_MAX`](super::limits::NODES_MAX).
    TooManyNodes,
    /// Nested deeper than [`DEPTH_MAX`](super::limits::DEPTH_MAX).
    TooDeep,
    /// `all`, `exists`, `exists_one`, `filter` or `map` inside another.
    NestedComprehension,
    /// It can't be read as CEL.
    Syntax,
    /// A name that doesn't exist: a variable, a fact, a member, a function.
    UnknownName,
    /// Values that don't go together, or a condition that is no `bool`.
    Type,
    /// Valid CEL that conditions don't have.
    Unsupported,
    /// A pattern of `matches` that is no regular expression, or too large a one.
    Pattern,
    /// The manager could not start the thread that reads the expression; the same text may be accepted later.
    Resources,
}

/// Why a text is no condition: what is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ConditionError {
    /// What is wrong, in one word.
    pub kind: ConditionErrorKind,
    /// What is wrong and what to do, in a sentence.
    pub message: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in that line, from 1, in characters.
    pub column: usize,
    /// The same place as an offset into the text (bytes).
    pub offset: usize,
}

impl ConditionError {
    /// An error at the byte `offset` of `text`.
    pub(super) fn new(kind: ConditionErrorKind, text: &str, offset: usize, message: impl Into<String>) -> Self {
        let offset = text.floor_char_boundary(offset);
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ConditionError {
            kind,
            // The parser repeats what it read, and names are whatever was written.
            message: told(&message.into()),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            offset,
        }
    }
}
