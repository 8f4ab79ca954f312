//! YAML as nodes: maps, lists and scalars. What stands without quotes is whatever is wanted in its place, so that `1.10` stays a
//! version and `no` a word. Anchors, aliases and tags are refused: nothing here needs them, and a few lines of them can mean gigabytes.

use super::{DEPTH_MAX, Node, Problem, Style, Value};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// The documents of a YAML file; empty ones are left out.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, Problem> {
    let mut documents = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| Problem::new(e.marker().line(), e.info().to_owned()))?;
        let line = span.start.line();
        let done = match event {
            Event::Alias(_) => return Err(Problem::new(line, "aliases aren't taken here; write the value itself")),
            Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag)
                if anchor != 0 || tag.is_some() =>
            {
                return Err(Problem::new(line, "anchors and tags aren't taken here"));
            }
            Event::Scalar(text, style, ..) => {
                let style = if style == ScalarStyle::Plain { Style::Bare } else { Style::Text };
                Some(Node { line, value: Value::Scalar(text.into_owned(), style) })
            }
            Event::SequenceStart(..) => {
                push(&mut open, Value::List(vec![]), line)?;
                None
            }
            Event::MappingStart(..) => {
                push(&mut open, Value::Map(vec![]), line)?;
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|o| Node { line: o.line, value: o.value }),
            _ => None,
        };
        let Some(node) = done else { continue };
        match open.last_mut() {
            Some(around) => around.take(node, span)?,
            // A document without anything in it.
            None if matches!(&node.value, Value::Scalar(text, Style::Bare) if text.is_empty() || text == "~") => {}
            None => documents.push(node),
        }
    }
    Ok(documents)
}

/// A list or a map that has not ended.
struct Open {
    line: usize,
    value: Value,
    key: Option<String>,
}

fn push(open: &mut Vec<Open>, value: Value, line: usize) -> Result<(), Problem> {
    if open.len() >= DEPTH_MAX {
        return Err(Problem::new(line, format!("lists and maps lie at most {DEPTH_MAX} deep in each other")));
    }
    open.push(Open { line, value, key: None });
    Ok(())
}

impl Open {
    fn take(&mut self, node: Node, span: Span) -> Result<(), Problem> {
        match (&mut self.value, self.key.take(), node.value) {
            (Value::Map(entries), Some(key), value) => entries.push((key, Node { line: node.line, value })),
            (Value::Map(entries), None, Value::Scalar(key, _)) => {
                if entries.iter().any(|(other, _)| *other == key) {
                    return Err(Problem::new(node.line, format!("{} stands here twice", sutler_base::quoted(&key))));
                }
                self.key = Some(key);
            }
            (Value::List(items), _, value) => items.push(Node { line: node.line, value }),
            _ => return Err(Problem::new(span.start.line(), "a key is a word")),
        }
        Ok(())
    }
}
