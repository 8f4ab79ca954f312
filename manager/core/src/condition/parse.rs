//! From the text to its tree, within bounds of time, memory and stack.

use super::error::{ConditionError, ConditionErrorKind as Kind};
use super::{limits, scan};
use cel::common::ast::SourceInfo;
use cel::parser::ParseErrors;
use cel::{Env, IdedExpr};
use sutler_base::quoted;

/// The stack that the parser gets (bytes). It takes up to 300 KiB for each level of nesting in a build without optimization,
/// more than an ordinary thread has for all the levels that are allowed; only what is touched is ever allocated.
const STACK: usize = 32 * 1024 * 1024;

/// A text and its tree.
pub(super) struct Parsed<'t> {
    pub(super) text: &'t str,
    pub(super) tree: IdedExpr,
    pub(super) places: SourceInfo,
}

impl Parsed<'_> {
    /// Where the node `id` stands in the text (bytes); for an operator or a call that is the operator or the bracket.
    pub(super) fn offset(&self, id: u64) -> usize {
        self.places.offset_for(id).map_or(0, |(start, _)| start as usize)
    }

    /// An error about the node `id`.
    pub(super) fn error(&self, kind: Kind, id: u64, message: impl Into<String>) -> ConditionError {
        ConditionError::new(kind, self.text, self.offset(id), message)
    }
}

/// The tree of `text`, or nothing if there is no expression in it.
pub(super) fn parse(text: &str) -> Result<Option<Parsed<'_>>, ConditionError> {
    if scan::scan(text)?.is_empty() {
        return Ok(None);
    }
    let owned = text.to_owned();
    let thread = std::thread::Builder::new().name("condition".to_owned()).stack_size(STACK).spawn(move || {
        // The environment has no macros: `exists` and `has` stay calls, and are given their meaning by `check`.
        Env::default()
            .parser()
            .enable_optional_syntax(false)
            .max_recursion_depth(4 * limits::DEPTH_MAX as u16)
            .parse_with_source_info(&owned)
            .map_err(|errors| first(&owned, &errors))
    });
    let thread = thread.map_err(|error| {
        ConditionError::new(Kind::Resources, text, 0, format!("no thread could be started to read the condition ({error}); try again"))
    })?;
    match thread.join() {
        Ok(result) => result.map(|(tree, places)| Some(Parsed { text, tree, places })),
        Err(_) => Err(ConditionError::new(Kind::Syntax, text, 0, "this can't be read as an expression; write it in another way")),
    }
}

/// The first of the parser's errors, in our words.
fn first(text: &str, errors: &ParseErrors) -> ConditionError {
    let Some(error) = errors.errors.first() else {
        return ConditionError::new(Kind::Syntax, text, 0, "this can't be read as an expression");
    };
    let (line, column) = (usize::try_from(error.pos.0).unwrap_or(1).max(1), usize::try_from(error.pos.1).unwrap_or(1).max(1));
    let line_start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let offset = (line_start + column - 1).min(text.len());
    let message = match error.msg.split_once("input '").and_then(|(_, rest)| rest.split("' expecting").next()) {
        Some(word) if word.contains("<EOF>") => "the expression ends here, where more is expected".to_owned(),
        Some(word) => format!("{} is not expected here", quoted(word.trim_end_matches('\'').split_whitespace().last().unwrap_or(word))),
        None if error.msg.contains("Recursion limit") => return too_deep(text, offset),
        None => format!("this can't be read as an expression: {}", error.msg.chars().take(160).collect::<String>()),
    };
    ConditionError::new(Kind::Syntax, text, offset, message)
}

fn too_deep(text: &str, offset: usize) -> ConditionError {
    ConditionError::new(Kind::TooDeep, text, offset, format!("an expression may be nested {} deep", limits::DEPTH_MAX))
}
