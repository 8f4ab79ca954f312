//! Why a condition was decided as it was: its parts, each with its value and with what it looked at.

use super::check::{self, Node};
use super::eval::{self, Value};
use super::scan::{Token, TokenKind};
use super::{Condition, Input, Outcome, parse, scan};
use std::fmt;
use sutler_base::quoted;

/// How the parts of a condition hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// There is one part, or none in the empty condition.
    Alone,
    /// By `&&`: all must be true.
    All,
    /// By `||`: one must be true.
    Any,
}

/// A part of a condition, decided for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// As it is written in the condition.
    pub text: String,
    /// How it was decided.
    pub outcome: Outcome,
    /// What it looked at, as name and value, each at most once; texts are quoted and cut. What is not known is left out.
    pub values: Vec<(String, String)>,
}

/// Why a condition was decided as it was. Displayed as one line for each part:
/// `facts.os.family == "linux" → true (facts.os.family = "linux")`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// How the whole condition was decided.
    pub outcome: Outcome,
    /// How its parts hang together.
    pub joined: Joined,
    /// The parts, in the order in which they are written.
    pub terms: Vec<Term>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("there is no condition, every client matches");
        }
        for (n, term) in self.terms.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{} → {}", term.text, term.outcome)?;
            for (m, (name, value)) in term.values.iter().enumerate() {
                write!(f, "{}{name} = {value}", if m == 0 { " (" } else { ", " })?;
            }
            if !term.values.is_empty() {
                f.write_str(")")?;
            }
        }
        Ok(())
    }
}

/// Explains `condition` for one client.
pub(super) fn explain(condition: &Condition, input: &Input<'_>) -> Explanation {
    let outcome = condition.evaluate(input);
    let Some(root) = &condition.root else {
        return Explanation { outcome, joined: Joined::Alone, terms: Vec::new() };
    };
    let (joined, texts) = parts(&condition.text);
    let compiled: Option<Vec<(&str, Node)>> = match joined {
        Joined::Alone => None,
        Joined::All | Joined::Any => texts.iter().map(|text| Some((*text, compile(condition, text)?))).collect(),
    };
    match compiled {
        Some(parts) => Explanation { outcome, joined, terms: parts.iter().map(|(text, node)| term(text, node, input)).collect() },
        None => Explanation { outcome, joined: Joined::Alone, terms: vec![term(condition.text.trim(), root, input)] },
    }
}

/// A part of a condition that compiled compiles as well.
fn compile(condition: &Condition, text: &str) -> Option<Node> {
    let parsed = parse::parse(text).ok()??;
    check::check(&parsed, &condition.schema).ok().map(|(node, _)| node)
}

fn term(text: &str, node: &Node, input: &Input<'_>) -> Term {
    let mut values = Vec::new();
    looked_at(node, input, &mut values);
    Term { text: text.split_whitespace().collect::<Vec<_>>().join(" "), outcome: eval::decide(node, input), values }
}

/// The parts of `text` between its outermost `||`, or else `&&`, without the brackets around all of it.
fn parts(text: &str) -> (Joined, Vec<&str>) {
    let Ok(tokens) = scan::scan(text) else { return (Joined::Alone, vec![text]) };
    let mut tokens = tokens.as_slice();
    while let Some(inner) = without_brackets(tokens) {
        tokens = inner;
    }
    let outermost = |sign: &str| {
        let mut depth = 0usize;
        tokens.iter().any(|token| at_depth_0(&mut depth, token) && token.text == sign)
    };
    let (joined, separator) = if outermost("?") {
        (Joined::Alone, "")
    } else if outermost("||") {
        (Joined::Any, "||")
    } else if outermost("&&") {
        (Joined::All, "&&")
    } else {
        (Joined::Alone, "")
    };
    let mut depth = 0;
    let pieces = tokens.split(|token| at_depth_0(&mut depth, token) && joined != Joined::Alone && token.text == separator);
    let texts = pieces.filter_map(|piece| Some(&text[piece.first()?.offset..piece.last()?.end()])).collect();
    (joined, texts)
}

/// Whether `token` is a sign outside of brackets; keeps count of those.
fn at_depth_0(depth: &mut usize, token: &Token<'_>) -> bool {
    if token.kind != TokenKind::Sign {
        return false;
    }
    match token.text {
        "(" | "[" | "{" => *depth += 1,
        ")" | "]" | "}" => *depth = depth.saturating_sub(1),
        _ => return *depth == 0,
    }
    false
}

/// What is inside if one pair of brackets is around all of `tokens`.
fn without_brackets<'s, 't>(tokens: &'s [Token<'t>]) -> Option<&'s [Token<'t>]> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    if first.kind != TokenKind::Sign || first.text != "(" || last.text != ")" {
        return None;
    }
    let mut depth = 0;
    let closes = tokens.iter().position(|token| {
        at_depth_0(&mut depth, token);
        depth == 0
    })?;
    (closes + 1 == tokens.len()).then(|| &tokens[1..closes])
}

/// Adds the members that `node` looks at, with their values.
fn looked_at(node: &Node, input: &Input<'_>, values: &mut Vec<(String, String)>) {
    match node {
        Node::Member(member) | Node::Has(member) => match &member.of {
            // A member of an item has as many values as there are items.
            of @ (Node::Variable(_) | Node::Member(_)) if !has_item(of) => add(&member.path, value_of(member, input), values),
            of => looked_at(of, input, values),
        },
        Node::Client(_) => add(&check::path(node), eval::value(node, input).ok().map(|value| readable(&value)), values),
        Node::List(nodes) => nodes.iter().for_each(|node| looked_at(node, input, values)),
        Node::Key(a, b)
        | Node::At(a, b)
        | Node::And(a, b)
        | Node::Or(a, b)
        | Node::Binary(_, a, b)
        | Node::Text(_, a, b)
        | Node::Each(_, a, b) => {
            looked_at(a, input, values);
            looked_at(b, input, values);
        }
        Node::Not(of) | Node::Negate(of) | Node::Call(_, of) | Node::Matches(of, _) => looked_at(of, input, values),
        Node::If(parts) => {
            looked_at(&parts.0, input, values);
            looked_at(&parts.1, input, values);
            looked_at(&parts.2, input, values);
        }
        Node::Bool(_) | Node::Int(_) | Node::Double(_) | Node::String(_) | Node::Timestamp(_) | Node::Variable(_) | Node::Item => {}
    }
}

fn has_item(node: &Node) -> bool {
    match node {
        Node::Member(member) => has_item(&member.of),
        Node::Variable(_) => false,
        _ => true,
    }
}

fn value_of(member: &check::Member, input: &Input<'_>) -> Option<String> {
    let node = Node::Member(Box::new(member.clone()));
    eval::value(&node, input).ok().map(|value| readable(&value))
}

fn add(name: &str, value: Option<String>, values: &mut Vec<(String, String)>) {
    if let Some(value) = value
        && !values.iter().any(|(known, _)| known == name)
    {
        values.push((name.to_owned(), value));
    }
}

fn readable(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => eval::shown(other),
    }
}
