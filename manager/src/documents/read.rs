//! Nodes as objects.

use super::{DEPTH_MAX, Format, Kind, Naming, Node, Problem, Style, Value, is_carried, kinds, naming, object, toml, write::word, yaml};
use crate::cli::{names, when};
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as Type, MapKey, MessageDescriptor, Value as Wire};
use std::collections::{BTreeMap, HashMap};
use sutler_base::{Timestamp, quoted};
use sutler_proto::v1;

/// An object, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The object.
    pub object: v1::ConfigurationObject,
    /// Its kind and name, such as `policy all-linux`.
    pub title: String,
    /// The line on which it begins.
    pub line: usize,
    /// The lines of its fields, by their path in the API.
    lines: BTreeMap<String, usize>,
}

impl Placed {
    /// The line of a field, or of what it is part of.
    pub fn line_of(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = &path[..at],
                None => return self.line,
            }
        }
    }
}

/// The objects of a file, or all that is wrong with it.
pub fn read(text: &str, format: Format) -> Result<Vec<Placed>, Vec<Problem>> {
    let documents = match format {
        Format::Toml => toml::parse(text).map(|document| vec![document]),
        Format::Yaml => yaml::parse(text),
    };
    let mut reader = Reader { problems: Vec::new(), lines: BTreeMap::new(), objects: Vec::new() };
    for document in documents.map_err(|problem| vec![problem])? {
        reader.document(&document);
    }
    // Tables come in the order of their names.
    reader.objects.sort_by_key(|placed| placed.line);
    reader.problems.sort_by_key(|problem| problem.line);
    if reader.problems.is_empty() { Ok(reader.objects) } else { Err(reader.problems) }
}

struct Reader {
    problems: Vec<Problem>,
    /// Of the object that is being read.
    lines: BTreeMap<String, usize>,
    objects: Vec<Placed>,
}

impl Reader {
    fn wrong(&mut self, line: usize, sentence: impl Into<String>) {
        self.problems.push(Problem::new(line, sentence));
    }

    /// Lists of objects by their kind; or one object that says its kind.
    fn document(&mut self, document: &Node) {
        let words = kinds().map(|k| k.to_string()).collect::<Vec<_>>().join(", ");
        let Value::Map(entries) = &document.value else {
            return self
                .wrong(document.line, format!("a document has lists of objects by their kind ({words}), or one object with its kind"));
        };
        if let Some((_, kind)) = entries.iter().find(|(key, _)| key == "kind") {
            let found = match &kind.value {
                Value::Scalar(text, _) => kinds().find(|k| k.field.name() == text),
                _ => None,
            };
            return match found {
                Some(kind) => self.object(&kind, document),
                None => self.wrong(kind.line, format!("kind is one of {words}")),
            };
        }
        for (key, list) in entries {
            match (kinds().find(|k| k.field.name() == key), &list.value) {
                (Some(kind), Value::List(items)) => items.iter().for_each(|item| self.object(&kind, item)),
                (Some(kind), Value::Map(_)) => {
                    self.wrong(
                        list.line,
                        format!("{kind} is a list of objects: [[{kind}]] in TOML, `{kind}:` and an entry with `- ` in YAML"),
                    );
                }
                (Some(kind), Value::Scalar(..)) => self.wrong(list.line, format!("{kind} is a list of objects")),
                (None, _) => self.wrong(list.line, format!("{} is no kind of object; there are {words}", quoted(key))),
            }
        }
    }

    fn object(&mut self, kind: &Kind, node: &Node) {
        let Value::Map(entries) = &node.value else { return self.wrong(node.line, format!("a {kind} has members, and this has none")) };
        self.lines.clear();
        let (outer, mut inner) = (object(), DynamicMessage::new(kind.message.clone()));
        let mut whole = DynamicMessage::new(outer.clone());
        let mut name = None;
        for (key, value) in entries.iter().filter(|(key, _)| key != "kind") {
            let beside = outer.get_field_by_name(key).filter(|f| f.containing_oneof().is_none());
            if key == "name" && is_nothing(value) {
                self.nothing(value, key);
            } else if key == "name" {
                self.lines.insert(kind.name.name().to_owned(), value.line);
                name = self.text(&kind.name, value);
            } else if let Some(field) = beside {
                self.lines.insert(key.clone(), value.line);
                self.set(&mut whole, &field, value, key, 0);
            } else {
                match field_of(&kind.message, key).filter(|f| *f != kind.name) {
                    Some(field) => {
                        self.lines.insert(key.clone(), value.line);
                        self.set(&mut inner, &field, value, key, 0);
                    }
                    None => self.unknown(value.line, key, &format!("a {kind}"), &kind.message, Some(kind)),
                }
            }
        }
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return self.wrong(node.line, format!("a {kind} has a name"));
        };
        let title = format!("{kind} {}", quoted(&name).trim_matches('"'));
        inner.set_field(&kind.name, Wire::String(name));
        whole.set_field(&kind.field, Wire::Message(inner));
        match v1::ConfigurationObject::decode(whole.encode_to_vec().as_slice()) {
            Ok(object) => self.objects.push(Placed { object, title, line: node.line, lines: std::mem::take(&mut self.lines) }),
            Err(e) => self.wrong(node.line, format!("can't be sent: {e}")),
        }
    }

    fn unknown(&mut self, line: usize, key: &str, of: &str, message: &MessageDescriptor, kind: Option<&Kind>) {
        let mut words: Vec<String> = kind.iter().map(|_| "name".to_owned()).collect();
        let named = |f: &FieldDescriptor| kind.is_some_and(|k| *f == k.name);
        words.extend(message.fields().filter(|f| is_carried(f) && !named(f)).map(|f| f.name().to_owned()));
        let why = match message.get_field_by_name(key) {
            Some(_) => "can't stand in a file",
            None => "is no member",
        };
        self.wrong(line, format!("{} {why} of {of}; there are {}", quoted(key), words.join(", ")));
    }

    fn set(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor, node: &Node, path: &str, depth: usize) {
        // What is written as nothing is as if it weren't there.
        if is_nothing(node) {
            return;
        }
        if depth > DEPTH_MAX {
            return self.wrong(node.line, format!("lies more than {DEPTH_MAX} deep"));
        }
        let value = match &node.value {
            Value::Map(entries) if field.is_map() => {
                let of = field.kind();
                let Some(values) = of.as_message().map(MessageDescriptor::map_entry_value_field) else { return };
                let mut map = HashMap::new();
                for (key, node) in entries {
                    if let Some(value) = self.single(&values, node, &format!("{path}.{key}"), depth) {
                        map.insert(MapKey::String(key.clone()), value);
                    }
                }
                Some(Wire::Map(map))
            }
            _ if field.is_map() => {
                self.wrong(node.line, format!("{path} has members of its own"));
                None
            }
            Value::List(items) if field.is_list() => {
                let mut list = Vec::new();
                for (n, item) in items.iter().enumerate() {
                    let path = format!("{path}[{n}]");
                    self.lines.insert(path.clone(), item.line);
                    list.extend(self.single(field, item, &path, depth));
                }
                Some(Wire::List(list))
            }
            _ if field.is_list() => {
                self.wrong(node.line, format!("{path} is a list"));
                None
            }
            _ => self.single(field, node, path, depth),
        };
        if let Some(value) = value {
            message.set_field(field, value);
        }
    }

    fn nothing(&mut self, node: &Node, path: &str) {
        self.wrong(node.line, format!("{path} is nothing; give it a value, and stand in quotes what only looks like nothing"));
    }

    fn single(&mut self, field: &FieldDescriptor, node: &Node, path: &str, depth: usize) -> Option<Wire> {
        if is_nothing(node) {
            self.nothing(node, path);
            return None;
        }
        if let Type::Message(of) = field.kind()
            && !of.full_name().starts_with("google.protobuf.")
        {
            let Value::Map(entries) = &node.value else {
                self.wrong(node.line, format!("{path} has members of its own"));
                return None;
            };
            let mut message = DynamicMessage::new(of.clone());
            for (key, value) in entries {
                let path = format!("{path}.{key}");
                self.lines.insert(path.clone(), value.line);
                match field_of(&of, key) {
                    Some(field) => self.set(&mut message, &field, value, &path, depth + 1),
                    None => self.unknown(value.line, key, path.trim_end_matches(&format!(".{key}")), &of, None),
                }
            }
            return Some(Wire::Message(message));
        }
        let Value::Scalar(text, style) = &node.value else {
            self.wrong(node.line, format!("{path} is a single value"));
            return None;
        };
        let parsed = match field.kind() {
            Type::String => return self.text(field, node).map(Wire::String),
            Type::Bool => text.parse().ok().map(Wire::Bool).ok_or("is true or false".to_owned()),
            Type::Int32 | Type::Sint32 | Type::Sfixed32 => text.parse().ok().map(Wire::I32).ok_or(whole(32)),
            Type::Int64 | Type::Sint64 | Type::Sfixed64 => text.parse().ok().map(Wire::I64).ok_or(whole(64)),
            Type::Uint32 | Type::Fixed32 => text.parse().ok().map(Wire::U32).ok_or(format!("{} that is not negative", whole(32))),
            Type::Uint64 | Type::Fixed64 => text.parse().ok().map(Wire::U64).ok_or(format!("{} that is not negative", whole(64))),
            Type::Float => text.parse().ok().map(Wire::F32).ok_or("is a number".to_owned()),
            Type::Double => text.parse().ok().map(Wire::F64).ok_or("is a number".to_owned()),
            Type::Enum(of) => {
                let number =
                    of.values().find(|v| v.number() != 0 && word(field, v.number()) == text.to_ascii_lowercase().replace('_', "-"));
                let words = || of.values().filter(|v| v.number() != 0).map(|v| word(field, v.number())).collect::<Vec<_>>().join(", ");
                number.map(|v| Wire::EnumNumber(v.number())).ok_or_else(|| format!("is one of {}", words()))
            }
            Type::Message(of) => match of.full_name() {
                "google.protobuf.Timestamp" => {
                    let time = text.parse::<Timestamp>().ok().map(|t| (t.as_second(), t.subsec_nanosecond()));
                    time.map(|parts| pair(&of, parts)).ok_or("is a time such as 2027-01-31T12:00:00Z".to_owned())
                }
                "google.protobuf.Duration" => {
                    span(text).map(|parts| pair(&of, parts)).ok_or("is a span of time such as 90s, 15m, 1h30m, 7d".to_owned())
                }
                other => Err(format!("is a {other}, which files don't have")),
            },
            Type::Bytes => Err("is bytes, which files don't have".to_owned()),
        };
        // In TOML a text is in quotes and everything else isn't; times and words may be either.
        let mixed = *style == Style::Text && !matches!(field.kind(), Type::Enum(_) | Type::Message(_));
        match parsed {
            Ok(value) if !mixed => Some(value),
            Ok(_) => {
                self.wrong(node.line, format!("{path} stands without quotes"));
                None
            }
            Err(why) => {
                self.wrong(node.line, format!("{path} {why}, not {}", quoted(text)));
                None
            }
        }
    }

    /// A text; a name of something else gets its collection.
    fn text(&mut self, field: &FieldDescriptor, node: &Node) -> Option<String> {
        let text = match &node.value {
            Value::Scalar(text, Style::Text | Style::Bare) => text,
            Value::Scalar(..) => {
                self.wrong(node.line, format!("{} is a text, and stands in quotes", field.name()));
                return None;
            }
            _ => {
                self.wrong(node.line, format!("{} is a text", field.name()));
                return None;
            }
        };
        let named = match naming(field) {
            Naming::Whole => Ok(text.clone()),
            Naming::Within(collection) => Ok(format!("{collection}/{}", text.strip_prefix(&format!("{collection}/")).unwrap_or(text))),
            Naming::Package => names::package(text),
        };
        match named {
            Ok(name) => Some(name),
            Err(why) => {
                self.wrong(node.line, why);
                None
            }
        }
    }
}

/// Whether nothing is written there, as YAML has it.
fn is_nothing(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(text, Style::Bare) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
}

fn whole(bits: u32) -> String {
    format!("is a whole number of {bits} bits")
}

/// The field of this name that files have.
fn field_of(message: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(key).filter(is_carried)
}

/// A time or a span of time.
fn pair(of: &MessageDescriptor, (seconds, nanos): (i64, i32)) -> Wire {
    let mut message = DynamicMessage::new(of.clone());
    message.set_field_by_name("seconds", Wire::I64(seconds));
    message.set_field_by_name("nanos", Wire::I32(nanos));
    Wire::Message(message)
}

fn span(text: &str) -> Option<(i64, i32)> {
    if let Some((seconds, fraction)) = text.strip_suffix('s').and_then(|t| t.split_once('.')) {
        let nanos = format!("{fraction:0<9}");
        return if nanos.len() == 9 { Some((seconds.parse().ok()?, nanos.parse().ok()?)) } else { None };
    }
    Some((i64::try_from(when::duration(text).ok()?.as_secs()).ok()?, 0))
}
