//! The proto3 JSON of messages: the same member names and values as grpcurl shows, with members at their default too.

use super::Record;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;
use std::{fmt::Write, sync::LazyLock};
use sutler_base::is_harmful;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(sutler_proto::DESCRIPTORS).expect("the descriptors were made by the build"));

/// A record as JSON. Members that have their default are there as well, so that a script need not know which those are.
pub fn json_of<R: Record>(record: &R) -> Value {
    let descriptor = POOL.get_message_by_name(R::TYPE).expect("a test goes over every record");
    let message = DynamicMessage::decode(descriptor, record.encode_to_vec().as_slice()).expect("a message reads back as itself");
    let options = SerializeOptions::new().skip_default_fields(false);
    whole(message.serialize_with_options(serde_json::value::Serializer, &options).unwrap_or(Value::Null))
}

/// Numbers without a fraction are written without one: the facts' numbers travel as floating point.
fn whole(value: Value) -> Value {
    match value {
        Value::Number(n) => match n.as_f64() {
            Some(f) if !n.is_i64() && !n.is_u64() && f.fract() == 0.0 && f.abs() < 9e15 => Value::from(f as i64),
            _ => Value::Number(n),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(whole).collect()),
        Value::Object(members) => Value::Object(members.into_iter().map(|(k, v)| (k, whole(v))).collect()),
        other => other,
    }
}

/// JSON as text with a line end. Characters that could harm a terminal are escaped, which JSON allows for any.
pub fn json_text(value: &Value) -> String {
    escape(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// JSON as one line.
pub fn json_line(value: &Value) -> String {
    escape(&value.to_string())
}

fn escape(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        // Line ends stand between members; inside texts they are escaped already.
        if c != '\n' && is_harmful(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmful_characters_are_escaped_and_the_text_reads_back_as_the_same() {
        let value = serde_json::json!({"a": "x\u{9b}31m\u{202e}\u{e0001}\n"});
        let text = json_text(&value);
        assert!(text.is_ascii());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn whole_numbers_of_facts_are_whole() {
        assert_eq!(whole(serde_json::json!({"a": [8.0, 1.5, "x"]})).to_string(), r#"{"a":[8,1.5,"x"]}"#);
    }
}
