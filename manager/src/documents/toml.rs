//! TOML as nodes.

use super::{DEPTH_MAX, Node, Problem, Style, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The one document of a TOML file.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let table = DeTable::parse(text).map_err(|e| Problem::new(line(text, e.span().map_or(0, |s| s.start)), e.message().to_owned()))?;
    Ok(Node { line: 1, value: map(text, table.get_ref(), 0)? })
}

fn line(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

fn map(text: &str, table: &DeTable<'_>, depth: usize) -> Result<Value, Problem> {
    let mut entries = Vec::new();
    for (key, value) in table {
        entries.push((key.get_ref().to_string(), node(text, value, depth + 1)?));
    }
    Ok(Value::Map(entries))
}

fn node(text: &str, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Problem> {
    let line = line(text, value.span().start);
    if depth > DEPTH_MAX {
        return Err(Problem::new(line, format!("lists and tables lie at most {DEPTH_MAX} deep in each other")));
    }
    let typed = |text: String| Value::Scalar(text, Style::Typed);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Scalar(text.to_string(), Style::Text),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => typed(number.to_string()),
            Err(_) => return Err(Problem::new(line, format!("{} is no number of 64 bits", number.as_str()))),
        },
        DeValue::Float(number) => typed(number.as_str().to_owned()),
        DeValue::Boolean(is) => typed(is.to_string()),
        DeValue::Datetime(time) => typed(time.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(|item| node(text, item, depth + 1)).collect::<Result<_, _>>()?),
        DeValue::Table(table) => map(text, table, depth)?,
    };
    Ok(Node { line, value })
}
