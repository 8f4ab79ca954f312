//! Objects as they stand in files: TOML and YAML, in the words of the API and the command line.
//!
//! What a file may say of an object is what the request that makes it has, by the API's own description: a field that is added there
//! has a place here without more ado. [`read`] makes objects of files, [`write`] files of objects.

mod emit;
mod read;
#[cfg(test)]
mod tests;
mod toml;
mod write;
mod yaml;

pub use emit::{Format, inline};
pub use read::{Placed, read};
pub use write::{fields, names, write};

use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};
use std::{fmt, sync::LazyLock};

/// The longest file (bytes).
pub const FILE_MAX: u64 = 1 << 20;
/// How deep lists and maps may lie in each other.
const DEPTH_MAX: usize = 16;

/// What is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// One sentence.
    pub sentence: String,
}

impl Problem {
    fn new(line: usize, sentence: impl Into<String>) -> Problem {
        Problem { line, sentence: sentence.into() }
    }
}

/// A value of a file, and the line that it begins on.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    line: usize,
    value: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Scalar(String, Style),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// What a scalar may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// A text.
    Text,
    /// A number, a time, true or false.
    Typed,
    /// Whatever is wanted where it stands: YAML without quotes.
    Bare,
}

impl Node {
    fn text(text: impl Into<String>) -> Node {
        Node { line: 0, value: Value::Scalar(text.into(), Style::Text) }
    }

    fn typed(value: impl ToString) -> Node {
        Node { line: 0, value: Value::Scalar(value.to_string(), Style::Typed) }
    }

    fn list(items: Vec<Node>) -> Node {
        Node { line: 0, value: Value::List(items) }
    }

    fn map(entries: Vec<(String, Node)>) -> Node {
        Node { line: 0, value: Value::Map(entries) }
    }
}

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(sutler_proto::DESCRIPTORS).expect("the descriptors were checked by the build"));

/// The message of an object.
fn object() -> MessageDescriptor {
    POOL.get_message_by_name("sutler.v1.ConfigurationObject").expect("it is in the API")
}

/// A kind of object: its member of [`object`], and the field by which one is told from the others.
struct Kind {
    field: FieldDescriptor,
    message: MessageDescriptor,
    name: FieldDescriptor,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field.name())
    }
}

/// The kinds, in the order in which a file has them.
fn kinds() -> impl Iterator<Item = Kind> {
    let member = |field: FieldDescriptor| {
        let message = field.kind().as_message()?.clone();
        let name = message.get_field_by_name(&format!("{}_id", field.name())).or_else(|| message.get_field_by_name("alias"))?;
        Some(Kind { field, message, name })
    };
    object().fields().filter(|field| field.containing_oneof().is_some()).filter_map(member).collect::<Vec<_>>().into_iter()
}

/// Fields that no file has: they belong to one call, are secrets, or only say how something is.
const NOT_CARRIED: &[&str] = &[
    "sutler.v1.CreateGroupRequest.join_password",
    "sutler.v1.CreatePolicyRequest.confirm",
    "sutler.v1.CreateJobRequest.replaces",
    "sutler.v1.JobPackage.version",
    "sutler.v1.JobPackage.needed",
    "sutler.v1.Schedule.start_failure",
];

/// Whether files have this field.
pub fn is_carried(field: &FieldDescriptor) -> bool {
    field.name() != "request_id" && !NOT_CARRIED.contains(&field.full_name())
}

/// How a resource is named in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// As in the API.
    Whole,
    /// Without its collection.
    Within(&'static str),
    /// `NAME`, `NAME@VERSION` or `NAME@latest`.
    Package,
}

fn naming(field: &FieldDescriptor) -> Naming {
    match field.full_name() {
        "sutler.v1.CreatePolicyRequest.group" | "sutler.v1.CreateWindowRequest.group" => Naming::Within("groups"),
        "sutler.v1.JobPackage.package" => Naming::Package,
        _ => Naming::Whole,
    }
}
