//! `client list --columns`: the columns that somebody wants of clients, their facts, labels and answers among them.

use super::output::{self, Format, Record};
use serde_json::{Map, Value};
use sutler_base::{
    LabelKey,
    facts::{FactKind, SCHEMA},
    quoted,
};
use sutler_proto::{convert::json_struct, v1};

/// What a column is called in conditions, and the column that it is.
const AS_IN_CONDITIONS: (&str, &str) = ("name", "hostname");

/// A column that has a name of its own, and the fact that it is: whether the machine must be restarted.
const REBOOT: (&str, &str) = ("reboot", "reboot.needed");

/// A column that was asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// As it was written.
    name: String,
    of: Of,
}

#[derive(Debug, Clone)]
enum Of {
    /// One of the columns that every client has.
    Client(fn(&v1::Client) -> String),
    /// The fact at the end of this path.
    Fact(Vec<String>),
    /// The label of this key.
    Label(String),
    /// The answer to this question.
    Answer(String),
}

/// Reads the name of a column.
///
/// # Errors
///
/// A sentence with the names that there are.
pub fn wanted(text: &str) -> Result<Wanted, String> {
    let of = match text.split_once('.') {
        Some(("facts", path)) => Of::Fact(fact(path)?),
        Some(("labels", key)) => Of::Label(key.parse::<LabelKey>().map_err(|e| e.0)?.to_string()),
        Some(("answers", name)) if !name.is_empty() => Of::Answer(name.to_owned()),
        _ if text == REBOOT.0 => Of::Fact(fact(REBOOT.1)?),
        _ => {
            let name = if text == AS_IN_CONDITIONS.0 { AS_IN_CONDITIONS.1 } else { text };
            match v1::Client::COLUMNS.iter().find(|column| column.name() == name) {
                Some(column) => Of::Client(column.value()),
                None => return Err(format!("there is no column {}; there are {}", quoted(text), known())),
            }
        }
    };
    Ok(Wanted { name: text.to_owned(), of })
}

fn known() -> String {
    let names: Vec<_> = v1::Client::COLUMNS.iter().map(|column| column.name()).collect();
    format!("{}, {}, {}, facts.PATH, labels.KEY and answers.NAME", AS_IN_CONDITIONS.0, names.join(", "), REBOOT.0)
}

/// The path of a fact: one that the schema has, what stands above several, or what stands in each item of a list.
fn fact(path: &str) -> Result<Vec<String>, String> {
    let below = |name: &str| path.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
    let is_known = SCHEMA.iter().any(|(name, kind)| match kind {
        _ if path == *name || name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')) => true,
        FactKind::Named => below(name).is_some_and(|key| !key.is_empty()),
        FactKind::Objects(members) => below(name).is_some_and(|member| members.iter().any(|(known, _)| *known == member)),
        _ => false,
    });
    match path.split('.').next() {
        Some("packages") => Err("packages are many and kept apart from the other facts; `sutler software list` has them".into()),
        // What a machine says of itself has names of its own, with dots or without.
        Some("own") if is_known => Ok(path.splitn(2, '.').map(str::to_owned).collect()),
        _ if is_known => Ok(path.split('.').map(str::to_owned).collect()),
        _ => {
            let names: Vec<_> = SCHEMA.iter().map(|(name, _)| *name).filter(|name| *name != "packages").collect();
            Err(format!("there is no fact {}; there are {}", quoted(path), names.join(", ")))
        }
    }
}

/// What is at the end of the path; in a list, what is there in each item.
fn at(value: &Value, path: &[String]) -> Value {
    match (value, path.split_first()) {
        (value, None) => value.clone(),
        (Value::Array(items), Some(_)) => items.iter().map(|item| at(item, path)).collect(),
        (value, Some((name, rest))) => value.get(name).map_or(Value::Null, |value| at(value, rest)),
    }
}

impl Wanted {
    fn value(&self, client: &v1::Client, facts: &Value) -> Value {
        let text = |text: Option<&String>| text.map_or(Value::Null, |text| text.as_str().into());
        match &self.of {
            Of::Client(value) => value(client).into(),
            Of::Fact(path) => at(facts, path),
            Of::Label(key) => text(client.labels.get(key)),
            Of::Answer(name) => text(client.answers.get(name)),
        }
    }
}

/// A value as it stands in a cell: a text as it is, a list as its items with spaces between them.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if !items.iter().any(Value::is_object) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Clients with these columns: a table, CSV, or an array of JSON objects whose members are named as the columns and keep the types
/// of facts.
pub fn list_text(clients: &[v1::Client], wanted: &[Wanted], format: Format) -> String {
    let rows = clients.iter().map(|client| {
        let facts = client.facts.as_ref().map(json_struct).unwrap_or_default();
        wanted.iter().map(|wanted| wanted.value(client, &facts)).collect::<Vec<_>>()
    });
    if format == Format::Json {
        let object = |row: Vec<Value>| wanted.iter().map(|w| w.name.clone()).zip(row).collect::<Map<_, _>>();
        return output::json_text(&rows.map(|row| Value::Object(object(row))).collect());
    }
    let header: Vec<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
    let rows: Vec<Vec<String>> = rows.map(|row| row.iter().map(cell).collect()).collect();
    match format {
        Format::Csv => {
            let lines = rows.iter().map(|row| output::csv_row(row.iter().map(String::as_str)));
            std::iter::once(output::csv_row(header)).chain(lines).collect()
        }
        _ => output::table_text(&header, &rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_proto::convert::wire_struct;

    #[test]
    fn a_column_is_one_that_exists_or_the_names_that_do_are_told() {
        for good in ["id", "name", "facts.os.name", "facts.os", "facts.interfaces.mac", "facts.own.a.b", "labels.a/b.c", "answers.room"] {
            assert!(wanted(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("ids", "hostname"),
            ("", "facts.PATH"),
            ("facts.os.nam", "os.name"),
            ("facts.o", "os.name"),
            ("facts.interfaces.x", "interfaces"),
            ("facts.packages", "software list"),
            ("labels.A B", "a label's key"),
        ] {
            let error = wanted(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn facts_keep_their_types_in_json_and_are_one_cell_elsewhere() {
        let facts = serde_json::json!({
            "memory": {"total_bytes": 1024}, "addresses": ["a", "b"], "interfaces": [{"mac": "1"}, {"mac": "2"}], "own": {"a.b": "=x"}
        });
        let client = v1::Client { name: "clients/c".into(), facts: Some(wire_struct(&facts)), ..Default::default() };
        let columns = ["id", "facts.memory.total_bytes", "facts.addresses", "facts.interfaces.mac", "facts.own.a.b", "facts.arch"];
        let columns: Vec<Wanted> = columns.iter().map(|c| wanted(c).unwrap()).collect();
        let json: Value = serde_json::from_str(&list_text(std::slice::from_ref(&client), &columns, Format::Json)).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "id": "c", "facts.memory.total_bytes": 1024, "facts.addresses": ["a", "b"], "facts.interfaces.mac": ["1", "2"],
                "facts.own.a.b": "=x", "facts.arch": null
            }])
        );
        let csv = list_text(&[client], &columns, Format::Csv);
        assert_eq!(csv.lines().nth(1), Some("c,1024,a b,1 2,'=x,"));
    }
}
