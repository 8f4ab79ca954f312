//! What is written reads back as the same, and what is wrong is named with its line.

use super::*;
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind as Type, MapKey, Value as Wire};
use std::collections::HashMap;
use sutler_proto::v1;

/// A message with every field that files carry.
fn filled(message: &MessageDescriptor, text: &str, number: i32) -> DynamicMessage {
    let mut out = DynamicMessage::new(message.clone());
    // A message that has no fields yet says nothing.
    let says = |f: &FieldDescriptor| f.kind().as_message().is_none_or(|of| of.fields().len() > 0);
    for field in message.fields().filter(|f| is_carried(f) && says(f)) {
        if field.is_map() {
            let of = field.kind();
            let value = single(&of.as_message().unwrap().map_entry_value_field(), text, number);
            out.set_field(
                &field,
                Wire::Map(HashMap::from([(MapKey::String("key".into()), value.clone()), (MapKey::String(text.into()), value)])),
            );
        } else if field.is_list() {
            out.set_field(&field, Wire::List(vec![single(&field, text, number), single(&field, "other", number)]));
        } else {
            out.set_field(&field, single(&field, text, number));
        }
    }
    out
}

fn single(field: &FieldDescriptor, text: &str, number: i32) -> Wire {
    match field.kind() {
        Type::String => Wire::String(match naming(field) {
            Naming::Whole => text.into(),
            Naming::Within(collection) => format!("{collection}/a-name"),
            Naming::Package => "packages/hello/versions/1.10".into(),
        }),
        Type::Bool => Wire::Bool(true),
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => Wire::I32(number),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => Wire::I64(number.into()),
        Type::Uint32 | Type::Fixed32 => Wire::U32(number.unsigned_abs()),
        Type::Uint64 | Type::Fixed64 => Wire::U64(number.unsigned_abs().into()),
        Type::Float => Wire::F32(1.5),
        Type::Double => Wire::F64(1.5),
        Type::Bytes => panic!("{}: files have no bytes", field.full_name()),
        Type::Enum(of) => Wire::EnumNumber(of.values().last().unwrap().number()),
        Type::Message(of) if of.full_name().starts_with("google.protobuf.") => {
            let mut message = DynamicMessage::new(of);
            message.set_field_by_name("seconds", Wire::I64(number.unsigned_abs().into()));
            Wire::Message(message)
        }
        Type::Message(of) => Wire::Message(filled(&of, text, number)),
    }
}

/// An object of each kind with every field.
fn objects(text: &str, number: i32) -> Vec<v1::ConfigurationObject> {
    let one = |kind: Kind| {
        let mut whole = DynamicMessage::new(object());
        let mut inner = filled(&kind.message, text, number);
        inner.set_field(&kind.name, Wire::String("a-name".into()));
        whole.set_field(&kind.field, Wire::Message(inner));
        whole.set_field_by_name("state", Wire::EnumNumber(v1::JobState::Draft.into()));
        v1::ConfigurationObject::decode(whole.encode_to_vec().as_slice()).unwrap()
    };
    kinds().map(one).collect()
}

proptest! {
    #[test]
    fn every_field_that_is_written_reads_back_as_the_same(text in ".{1,40}", number in 1..i32::MAX) {
        let objects = objects(&text, number);
        for format in [Format::Toml, Format::Yaml] {
            let files = write(&objects, format);
            prop_assert_eq!(files.len(), objects.len());
            let whole = files.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n");
            prop_assert!(whole.chars().all(|c| c == '\n' || !sutler_base::is_harmful(c)), "{}", whole);
            let back = read(&whole, format).unwrap_or_else(|e| panic!("{e:?}\n{whole}"));
            prop_assert_eq!(&back.iter().map(|p| p.object.clone()).collect::<Vec<_>>(), &objects, "{}", whole);
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_fall_over(text in "(?s).{0,200}", pieces in prop::collection::vec("[-:a-z0-9\\[\\]{}\"' \n&*!|>#,=]{1,6}", 0..40)) {
        for format in [Format::Toml, Format::Yaml] {
            let _ = read(&text, format);
            let _ = read(&pieces.concat(), format);
        }
    }
}

fn problems(text: &str, format: Format) -> Vec<String> {
    read(text, format).unwrap_err().into_iter().map(|p| format!("{}: {}", p.line, p.sentence)).collect()
}

#[test]
fn all_that_is_wrong_in_a_file_is_said_at_once_with_its_line() {
    let text = "[[group]]\nname = \"a\"\nrestrictd = true\njoin_mode = \"ajar\"\njoin_password = \"x\"\n\n[[polcy]]\nname = \"b\"\n\n[[job]]\nname = \"c\"\npriority = \"high\"\npackages = [\n  { package = \"clamav\" },\n  { package = \"UPPER\", version = \"1\" },\n]\n[[group]]\ndescription = 5\n";
    let said = problems(text, Format::Toml);
    let expect = [
        "3: \"restrictd\" is no member of a group; there are name, description",
        "4: join_mode is one of open, password, closed, not",
        "5: \"join_password\" can't stand in a file",
        "7: \"polcy\" is no kind",
        "12: priority is a whole number of 32 bits, not \"high\"",
        "15: \"version\" can't stand in a file",
        "15: a package's name",
        "18: description is a text",
        "17: a group has a name",
    ];
    for wanted in expect {
        assert!(said.iter().any(|s| s.starts_with(wanted)), "{wanted} is not in {said:#?}");
    }
    assert_eq!(said.len(), expect.len(), "{said:#?}");
    let said = problems("kind: group\nname: a\nnmae: b\n---\ngroup:\n  - name: c\n    name: d\n", Format::Yaml);
    assert!(said[0].starts_with("7: \"name\" stands here twice"), "{said:?}");
    let said = problems("kind: group\nname: a\nnmae: b\n---\npolicy:\n  - name: c\n    trigger: later\n", Format::Yaml);
    assert!(
        said[0].starts_with("3: \"nmae\" is no member") && said[1].starts_with("7: trigger is one of new-client, inventory"),
        "{said:?}"
    );
    for bomb in ["a: &a [x]\nb: [*a, *a]\n", "group: !!python/object []\n"] {
        assert!(problems(bomb, Format::Yaml)[0].contains("aren't taken here"));
    }
    assert!(!problems(&"[".repeat(100_000), Format::Yaml).is_empty());
    assert!(problems(&format!("group: {}{}", "[".repeat(20), "]".repeat(20)), Format::Yaml)[0].contains("deep"));
    assert!(!problems(&format!("group = {}", "[".repeat(100_000)), Format::Toml).is_empty());
}

#[test]
fn nothing_in_yaml_is_no_name_and_no_value_in_a_map_or_a_list() {
    for nothing in ["~", "null", "NULL", ""] {
        let text = format!(
            "job:\n  - name: a\n    description: {nothing}\n    packages:\n      - package: tool\n        values: {{port: {nothing}}}\n    destinations:\n      - {nothing}\n"
        );
        let said = problems(&text, Format::Yaml);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("6: packages[0].values.port is nothing; ") && said[0].contains("in quotes"), "{said:?}");
        assert!(said[1].starts_with("8: destinations[0] is nothing; ") || nothing.is_empty(), "{said:?}");
        let said = problems(&format!("kind: group\nname: {nothing}\n"), Format::Yaml);
        assert!(said.iter().any(|s| s.starts_with("2: name is nothing; ")), "{said:?}");
    }
    // In quotes it is a text like any other.
    let read = read("kind: group\nname: 'null'\ndescription: \"~\"\n", Format::Yaml).unwrap();
    let Some(v1::configuration_object::Object::Group(group)) = &read[0].object.object else { panic!("{read:?}") };
    assert_eq!((group.group_id.as_str(), group.description.as_str()), ("null", "~"));
}

#[test]
fn what_stands_without_quotes_in_yaml_is_what_its_place_wants() {
    let text = "job:\n  - name: no\n    packages:\n      - package: tool@1.10\n        values: {port: 080, on: yes}\n    destinations: [groups/yes]\n    priority: 3\n    continue_on_failure: true\n    description:\n";
    let read = read(text, Format::Yaml).unwrap();
    let Some(v1::configuration_object::Object::Job(job)) = &read[0].object.object else { panic!("{read:?}") };
    assert_eq!((job.alias.as_str(), job.priority, job.continue_on_failure), ("no", 3, true));
    assert_eq!(job.packages[0].package, "packages/tool/versions/1.10");
    assert_eq!((job.packages[0].values["port"].as_str(), job.packages[0].values["on"].as_str()), ("080", "yes"));
    assert_eq!((read[0].title.as_str(), read[0].line_of("packages[0].values"), read[0].line_of("packages[0].intent")), ("job no", 5, 4));
}
