//! Nodes as text.

use super::{Node, Style, Value};
use clap::ValueEnum;
use std::fmt::Write as _;
use sutler_base::is_harmful;

/// How files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Format {
    /// TOML
    #[default]
    Toml,
    /// YAML
    Yaml,
}

impl Format {
    /// How the name of such a file ends.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Toml => "toml",
            Format::Yaml => "yaml",
        }
    }

    /// Objects of one kind.
    pub(super) fn objects(self, kind: &str, objects: &[Node]) -> String {
        let mut out = String::new();
        match self {
            Format::Toml => {
                for object in objects {
                    let _ = writeln!(out, "{}[[{kind}]]", if out.is_empty() { "" } else { "\n" });
                    if let Value::Map(entries) = &object.value {
                        for (key, node) in entries {
                            let _ = writeln!(out, "{} = {}", toml_key(key), toml_value(node));
                        }
                    }
                }
            }
            Format::Yaml => {
                let _ = writeln!(out, "{kind}:");
                for object in objects {
                    yaml_item(&mut out, object, 1);
                }
            }
        }
        out
    }
}

/// A text in quotes, as TOML and YAML both read it; nothing in it does anything to a terminal.
fn quote(text: &str) -> String {
    let literal = text.contains(['"', '\\']) && !text.contains('\'') && !text.chars().any(|c| c == '\n' || c == '\t' || is_harmful(c));
    if literal {
        return format!("'{text}'");
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_harmful(c) && (c as u32) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if is_harmful(c) => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out + "\""
}

/// A value on one line, as TOML has it.
pub fn inline(node: &Node) -> String {
    match &node.value {
        Value::Scalar(text, Style::Text) => quote(text),
        Value::Scalar(text, _) => text.clone(),
        Value::List(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entries: Vec<_> = entries.iter().map(|(key, node)| format!("{} = {}", toml_key(key), inline(node))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// The same; a list of several has a line for each, so that what changes is a line of its own.
fn toml_value(node: &Node) -> String {
    match &node.value {
        Value::List(items) if items.len() > 1 => {
            let lines: String = items.iter().map(|item| format!("  {},\n", inline(item))).collect();
            format!("[\n{lines}]")
        }
        _ => inline(node),
    }
}

fn toml_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { quote(key) }
}

fn yaml_scalar(text: &str, style: Style) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./@".contains(&b))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if style != Style::Text || plain { text.to_owned() } else { quote(text) }
}

fn yaml_item(out: &mut String, node: &Node, depth: usize) {
    let indent = "  ".repeat(depth);
    match &node.value {
        Value::Scalar(text, style) => {
            let _ = writeln!(out, "{indent}- {}", yaml_scalar(text, *style));
        }
        Value::List(_) => {
            let _ = writeln!(out, "{indent}- {}", inline_yaml(node));
        }
        Value::Map(entries) => {
            for (n, (key, node)) in entries.iter().enumerate() {
                let _ = write!(out, "{indent}{}", if n == 0 { "- " } else { "  " });
                yaml_entry(out, key, node, depth + 1);
            }
        }
    }
}

fn yaml_entry(out: &mut String, key: &str, node: &Node, depth: usize) {
    let key = yaml_scalar(key, Style::Text);
    match &node.value {
        Value::Scalar(text, style) => {
            let _ = writeln!(out, "{key}: {}", yaml_scalar(text, *style));
        }
        Value::List(items) => {
            let _ = writeln!(out, "{key}:");
            items.iter().for_each(|item| yaml_item(out, item, depth + 1));
        }
        Value::Map(entries) => {
            let _ = writeln!(out, "{key}:");
            for (key, node) in entries {
                out.push_str(&"  ".repeat(depth + 1));
                yaml_entry(out, key, node, depth + 1);
            }
        }
    }
}

fn inline_yaml(node: &Node) -> String {
    match &node.value {
        Value::Scalar(text, style) => yaml_scalar(text, *style),
        Value::List(items) => format!("[{}]", items.iter().map(inline_yaml).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|(key, node)| format!("{}: {}", yaml_scalar(key, Style::Text), inline_yaml(node))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}
