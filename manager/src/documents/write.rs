//! Objects as nodes.

use super::{Format, Kind, Naming, Node, Value, emit::inline, is_carried, kinds, naming, object};
use crate::cli::names::package_word;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as Type, MapKey, ReflectMessage as _, Value as Wire};
use sutler_proto::{convert::time, v1};

/// A file's name without its ending, and its text: one for each kind of which there are objects.
pub fn write(objects: &[v1::ConfigurationObject], format: Format) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for kind in kinds() {
        let nodes: Vec<Node> = objects.iter().filter_map(|o| node_of(o, &kind)).collect();
        if !nodes.is_empty() {
            files.push((kind.to_string(), format.objects(kind.field.name(), &nodes)));
        }
    }
    files
}

/// The names that [`write`] gives to files.
pub fn names() -> impl Iterator<Item = String> {
    kinds().map(|kind| kind.to_string())
}

/// The fields of an object that have a value, but for its name, each on one line.
pub fn fields(object: &v1::ConfigurationObject) -> Vec<(String, String)> {
    let Some(Node { value: Value::Map(entries), .. }) = kinds().find_map(|kind| node_of(object, &kind)) else { return vec![] };
    entries.into_iter().filter(|(name, _)| name != "name").map(|(name, node)| (name, inline(&node))).collect()
}

/// The object, if it is of this kind.
fn node_of(wire: &v1::ConfigurationObject, kind: &Kind) -> Option<Node> {
    let message = DynamicMessage::decode(object(), wire.encode_to_vec().as_slice()).ok()?;
    if !message.has_field(&kind.field) {
        return None;
    }
    let Wire::Message(inner) = message.get_field(&kind.field).into_owned() else { return None };
    let name = inner.get_field(&kind.name).as_str().unwrap_or_default().to_owned();
    let mut entries = vec![("name".to_owned(), Node::text(name))];
    let outer = object().fields().filter(|f| f.containing_oneof().is_none() && message.has_field(f)).collect::<Vec<_>>();
    entries.extend(outer.iter().map(|f| (f.name().to_owned(), value(f, &message.get_field(f)))));
    entries.extend(members(&inner, |f| *f != kind.name));
    Some(Node::map(entries))
}

/// The fields that have a value, in the order of the API.
fn members(message: &DynamicMessage, wanted: impl Fn(&FieldDescriptor) -> bool) -> Vec<(String, Node)> {
    let fields = message.descriptor().fields().filter(|f| is_carried(f) && wanted(f) && message.has_field(f)).collect::<Vec<_>>();
    let all = fields.iter().map(|f| (f.name().to_owned(), value(f, &message.get_field(f))));
    // A message without anything in it says nothing.
    all.filter(|(_, node)| !matches!(&node.value, Value::Map(entries) if entries.is_empty())).collect()
}

fn value(field: &FieldDescriptor, wire: &Wire) -> Node {
    match wire {
        Wire::List(items) => Node::list(items.iter().map(|item| single(field, item)).collect()),
        Wire::Map(entries) => {
            let of = field.kind();
            let values = of.as_message().map(|entry| entry.map_entry_value_field());
            let key = |key: &MapKey| match key {
                MapKey::String(text) => text.clone(),
                other => format!("{other:?}"),
            };
            let mut entries: Vec<_> = entries.iter().map(|(k, v)| (key(k), single(values.as_ref().unwrap_or(field), v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Node::map(entries)
        }
        one => single(field, one),
    }
}

fn single(field: &FieldDescriptor, wire: &Wire) -> Node {
    match wire {
        Wire::String(text) => Node::text(match naming(field) {
            Naming::Whole => text.clone(),
            Naming::Within(collection) => text.strip_prefix(&format!("{collection}/")).unwrap_or(text).to_owned(),
            Naming::Package => package_word(text),
        }),
        Wire::EnumNumber(number) => Node::text(word(field, *number)),
        Wire::Message(message) => match message.descriptor().full_name() {
            "google.protobuf.Timestamp" => Node::text(moment(message)),
            "google.protobuf.Duration" => Node::text(span(message)),
            _ => Node::map(members(message, |_| true)),
        },
        Wire::Bool(value) => Node::typed(value),
        Wire::I32(value) => Node::typed(value),
        Wire::I64(value) => Node::typed(value),
        Wire::U32(value) => Node::typed(value),
        Wire::U64(value) => Node::typed(value),
        Wire::F32(value) => Node::typed(format!("{value:?}")),
        Wire::F64(value) => Node::typed(format!("{value:?}")),
        Wire::Bytes(bytes) => Node::text(String::from_utf8_lossy(bytes)),
        Wire::List(_) | Wire::Map(_) => Node::list(vec![]),
    }
}

/// The word of an enum's value, as people write it: `new-client` for `TRIGGER_NEW_CLIENT`.
pub(super) fn word(field: &FieldDescriptor, number: i32) -> String {
    let Type::Enum(of) = field.kind() else { return number.to_string() };
    let prefix = of.default_value().name().trim_end_matches("UNSPECIFIED").to_owned();
    let Some(value) = of.get_value(number) else { return number.to_string() };
    value.name().strip_prefix(&prefix).unwrap_or(value.name()).to_ascii_lowercase().replace('_', "-")
}

fn parts(message: &DynamicMessage) -> (i64, i32) {
    let number = |name: &str| message.get_field_by_name(name).map(|v| v.into_owned());
    (number("seconds").and_then(|v| v.as_i64()).unwrap_or_default(), number("nanos").and_then(|v| v.as_i32()).unwrap_or_default())
}

fn moment(message: &DynamicMessage) -> String {
    let (seconds, nanos) = parts(message);
    time(&prost_types::Timestamp { seconds, nanos }).map(|t| t.to_string()).unwrap_or_default()
}

/// In whole seconds where it is whole, else with a fraction.
fn span(message: &DynamicMessage) -> String {
    match parts(message) {
        (seconds, 0) => format!("{seconds}s"),
        (seconds, nanos) => format!("{seconds}.{nanos:09}s"),
    }
}
