//! The first look at a condition's text: cut into words, so that what would cost the parser too much never reaches it.
//!
//! The parser goes down one level of its stack for every bracket, and recovers from characters that it doesn't know by
//! guessing. Both are refused here, at the price of one pass over the text.

use super::error::{ConditionError, ConditionErrorKind as Kind};
use super::limits;
use sutler_base::quoted;

/// A word of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'t> {
    /// What it is.
    pub(super) kind: TokenKind,
    /// As it is written.
    pub(super) text: &'t str,
    /// Where it begins (bytes).
    pub(super) offset: usize,
}

impl Token<'_> {
    /// Where it ends (bytes).
    pub(super) fn end(&self) -> usize {
        self.offset + self.text.len()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A name or a word of the language.
    Name,
    /// A number or a string.
    Literal,
    /// Anything else.
    Sign,
}

/// The words of `text`, its comments left out.
pub(super) fn scan(text: &str) -> Result<Vec<Token<'_>>, ConditionError> {
    if text.len() > limits::TEXT_MAX {
        let message = format!("a condition has at most {} bytes, this one has {}", limits::TEXT_MAX, text.len());
        return Err(ConditionError::new(Kind::TooLong, text, limits::TEXT_MAX, message));
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (kind, len) = match c {
            ' ' | '\t' | '\n' | '\r' | '\x0c' => {
                at += 1;
                continue;
            }
            '/' if rest.starts_with("//") => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            '"' | '\'' => (TokenKind::Literal, string_len(text, at, 0)?),
            'r' | 'R' if rest[1..].starts_with(['"', '\'']) => (TokenKind::Literal, string_len(text, at, 1)?),
            'a'..='z' | 'A'..='Z' | '_' => (TokenKind::Name, span(rest, |c| c.is_ascii_alphanumeric() || c == '_')),
            '0'..='9' => (TokenKind::Literal, number_len(rest)),
            _ => (TokenKind::Sign, sign_len(text, at)?),
        };
        tokens.push(Token { kind, text: &rest[..len], offset: at });
        at += len;
    }
    bounds(text, &tokens)?;
    Ok(tokens)
}

/// How many bytes at the start of `rest` are characters that `wanted` accepts.
fn span(rest: &str, wanted: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !wanted(c)).unwrap_or(rest.len())
}

fn number_len(rest: &str) -> usize {
    if let Some(digits) = rest.strip_prefix("0x") {
        return 2 + span(digits, |c| c.is_ascii_alphanumeric());
    }
    let mut len = span(rest, |c| c.is_ascii_digit());
    if rest[len..].starts_with('.') && rest[len + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        len += 1 + span(&rest[len + 1..], |c| c.is_ascii_digit());
    }
    if rest[len..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[len + 1..].starts_with(['+', '-']));
        let digits = span(&rest[len + 1 + sign..], |c| c.is_ascii_digit());
        if digits > 0 {
            len += 1 + sign + digits;
        }
    }
    len + usize::from(rest[len..].starts_with(['u', 'U']))
}

fn sign_len(text: &str, at: usize) -> Result<usize, ConditionError> {
    let rest = &text[at..];
    if ["==", "!=", "<=", ">=", "&&", "||"].iter().any(|sign| rest.starts_with(sign)) {
        return Ok(2);
    }
    if rest.starts_with(['(', ')', '[', ']', '{', '}', '.', ',', '+', '-', '*', '/', '%', '?', ':', '!', '<', '>']) {
        return Ok(1);
    }
    let shown: String = rest.chars().take(1).collect();
    let message = match shown.as_str() {
        "=" => "to compare write == and not =".to_owned(),
        "&" => "write && and not &".to_owned(),
        "|" => "write || and not |".to_owned(),
        _ => format!("{} doesn't belong into an expression; texts stand in quotes", quoted(&shown)),
    };
    Err(ConditionError::new(Kind::Syntax, text, at, message))
}

/// The length of the string that begins at `at`, its quotes and a `prefix` of that many bytes included.
fn string_len(text: &str, at: usize, prefix: usize) -> Result<usize, ConditionError> {
    let raw = prefix > 0;
    let body = &text[at + prefix..];
    let quote = &body[..1];
    let triple = quote.repeat(3);
    let (quotes, multiline) = if body.starts_with(&triple) { (triple.as_str(), true) } else { (quote, false) };
    let mut inside = quotes.len();
    while let Some(c) = body[inside..].chars().next() {
        if body[inside..].starts_with(quotes) {
            return Ok(prefix + inside + quotes.len());
        }
        if c == '\n' && !multiline {
            break;
        }
        inside += c.len_utf8();
        if c == '\\' && !raw {
            inside += body[inside..].chars().next().map_or(0, char::len_utf8);
        }
    }
    Err(ConditionError::new(Kind::Syntax, text, at, format!("this string has no end: {quotes} is missing")))
}

/// Refuses brackets that don't belong together, nesting, and more values than a tree may have nodes.
fn bounds(text: &str, tokens: &[Token<'_>]) -> Result<(), ConditionError> {
    let mut open: Vec<Token<'_>> = Vec::new();
    let mut conditionals = 0;
    let mut values = 0;
    for token in tokens {
        match (token.kind, token.text) {
            (TokenKind::Sign, "(" | "[" | "{") => open.push(*token),
            (TokenKind::Sign, ")" | "]" | "}") => {
                let expected = open.pop().map(|o| match o.text {
                    "(" => ")",
                    "[" => "]",
                    _ => "}",
                });
                if expected != Some(token.text) {
                    let message = match expected {
                        Some(expected) => format!("{expected} is expected here, not {}", token.text),
                        None => format!("this {} closes nothing", token.text),
                    };
                    return Err(ConditionError::new(Kind::Syntax, text, token.offset, message));
                }
            }
            (TokenKind::Sign, "?") => conditionals += 1,
            (TokenKind::Sign, _) => {}
            (TokenKind::Name | TokenKind::Literal, _) => values += 1,
        }
        if open.len() + conditionals > limits::DEPTH_MAX {
            let message = format!("brackets and ? : may be nested {} deep", limits::DEPTH_MAX);
            return Err(ConditionError::new(Kind::TooDeep, text, token.offset, message));
        }
        // `in`, `true` and names are nodes too, or words between nodes: never more words than nodes and operators.
        if values > 2 * limits::NODES_MAX {
            return Err(too_many_nodes(text, token.offset));
        }
    }
    match open.pop() {
        Some(token) => Err(ConditionError::new(Kind::Syntax, text, token.offset, format!("this {} is never closed", token.text))),
        None => Ok(()),
    }
}

/// The error for a tree with too many nodes, noticed at `offset`.
pub(super) fn too_many_nodes(text: &str, offset: usize) -> ConditionError {
    let message = format!("a condition has at most {} names, values and operators", limits::NODES_MAX);
    ConditionError::new(Kind::TooManyNodes, text, offset, message)
}
