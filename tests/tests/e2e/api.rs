//! The API as it stands, so that nobody changes it without seeing it.

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::fmt::Write as _;
use std::path::Path;

#[test]
fn the_api_is_the_one_in_the_snapshot() {
    let now = api();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("api.snapshot");
    if std::env::var_os("UPDATE_SNAPSHOT").is_some() {
        fs_err::write(&file, &now).unwrap();
    }
    let then = fs_err::read_to_string(&file).unwrap();
    let (gone, new): (Vec<_>, Vec<_>) = (
        then.lines().filter(|line| !now.lines().any(|l| l == *line)).collect(),
        now.lines().filter(|line| !then.lines().any(|l| l == *line)).collect(),
    );
    assert!(
        now == then,
        "the API has changed. If that is meant: UPDATE_SNAPSHOT=1 cargo test -p sutler-tests --test e2e api\ngone: {gone:#?}\nnew: {new:#?}"
    );
}

/// Every service, message and enum, a line for each part, numbers and types included.
fn api() -> String {
    let set = FileDescriptorSet::decode(sutler_proto::DESCRIPTORS).unwrap();
    let mut text = String::new();
    let mut files: Vec<_> = set.file.iter().filter(|file| file.package().starts_with("sutler.")).collect();
    files.sort_by_key(|file| file.name());
    for file in files {
        for service in &file.service {
            for method in &service.method {
                let stream = |is: bool| if is { "stream " } else { "" };
                let _ = writeln!(
                    text,
                    "{}.{}/{}({}{}) -> {}{}",
                    file.package(),
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    short(method.input_type()),
                    stream(method.server_streaming()),
                    short(method.output_type()),
                );
            }
        }
        file.message_type.iter().for_each(|message| write_message(&mut text, file.package(), message));
        file.enum_type.iter().for_each(|e| write_enum(&mut text, file.package(), e));
    }
    text
}

fn short(name: &str) -> &str {
    name.trim_start_matches('.')
}

fn write_message(text: &mut String, above: &str, message: &DescriptorProto) {
    let name = format!("{above}.{}", message.name());
    let _ = writeln!(text, "{name}");
    for field in &message.field {
        let oneof = match field.oneof_index {
            Some(index) if !field.proto3_optional() => format!(" in {}", message.oneof_decl[index as usize].name()),
            _ => String::new(),
        };
        let _ = writeln!(text, "{name} {} {}: {}{oneof}", field.number(), field.name(), kind(field));
    }
    // A map is a list of messages that the compiler makes up.
    message.nested_type.iter().for_each(|nested| write_message(text, &name, nested));
    message.enum_type.iter().for_each(|e| write_enum(text, &name, e));
}

fn kind(field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => format!("repeated {kind}"),
        (_, true) => format!("optional {kind}"),
        _ => kind,
    }
}

fn write_enum(text: &mut String, above: &str, e: &EnumDescriptorProto) {
    for value in &e.value {
        let _ = writeln!(text, "{above}.{} {} {}", e.name(), value.number(), value.name());
    }
}
