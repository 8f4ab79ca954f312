//! Hostile texts in every text of every request of the operators' API, found from its description: what is new is tried by itself.

use super::{World, changed, faults, said, word};
use bytes::Bytes;
use prost_reflect::prost::Message as _;
use prost_reflect::prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use sutler_tests::harness::descriptors;

/// Who answers only on the other port, or needs more than a message.
const ELSEWHERE: [&str; 2] = ["AgentService", "EnrollmentService"];
/// Texts that were made to do harm somewhere: paths, terminals, databases, pages, spreadsheets, shells.
fn hostile() -> Vec<(&'static str, String)> {
    [
        ("a path that leaves", "../../../../etc/passwd"),
        ("an absolute path", "/etc/passwd"),
        ("a path in a name", "groups/../machines"),
        ("NUL", "a\0b"),
        ("an escape", "\u{1b}[2J\u{1b}]0;x\u{7}"),
        ("C1 controls", "\u{9b}31m\u{85}"),
        ("bidirectional", "\u{202e}gpj.exe\u{2066}\u{61c}"),
        ("invisible", "a\u{200b}\u{feff}\u{e0041}\u{2028}b"),
        ("quotes", "'; DROP TABLE client; --\"`$(id)"),
        ("markup", "<script>alert(1)</script>&amp;"),
        ("a formula", "=cmd|' /C calc'!A0"),
        ("line ends", "a\r\nb: c\n"),
        ("a format", "%s%n{}{0}${x}"),
        ("not a character", "\u{fffe}\u{10ffff}"),
    ]
    .map(|(what, text)| (what, text.to_owned()))
    .into_iter()
    .chain([("a MiB", "x".repeat(1 << 20)), ("a MiB of two-byte controls", "\u{9b}".repeat(1 << 19))])
    .collect()
}

/// The way to one text: fields from the request down. A list has one element, a map one entry.
type Place = Vec<FieldDescriptor>;

fn places(message: &MessageDescriptor, above: &Place, found: &mut Vec<Place>) {
    for field in message.fields() {
        let mut place = above.clone();
        place.push(field.clone());
        match field.kind() {
            Kind::String => found.push(place),
            Kind::Message(inner) if inner.full_name().starts_with("google.protobuf.") || above.len() > 3 => {}
            Kind::Message(inner) => places(&inner, &place, found),
            _ => {}
        }
    }
}

/// The bytes of a message with `text` at `place`, and something good everywhere else that `good` knows.
fn with(message: &MessageDescriptor, place: &[FieldDescriptor], text: &[u8]) -> Bytes {
    let (field, rest) = place.split_first().expect("a place has a field");
    let inner: Bytes = match (rest, field.kind()) {
        ([], _) => text.to_vec().into(),
        (_, Kind::Message(inner)) => with(&inner, rest, text),
        _ => unreachable!("only messages have fields"),
    };
    let mut bytes = Vec::new();
    for other in message.fields().filter(|f| f.number() != field.number() && !message.is_map_entry()) {
        if let Some(value) = good(&other) {
            let mut dynamic = DynamicMessage::new(message.clone());
            if other.containing_oneof().is_none() {
                dynamic.set_field(&other, value);
            }
            bytes.extend(dynamic.encode_to_vec());
        }
    }
    encode_key(field.number(), WireType::LengthDelimited, &mut bytes);
    encode_varint(inner.len() as u64, &mut bytes);
    bytes.extend(inner);
    bytes.into()
}

/// What makes the rest of a request good, so that the hostile text is looked at and not only what is missing beside it.
fn good(field: &FieldDescriptor) -> Option<Value> {
    let text = |text: &str| Value::String(text.into());
    let listed = |value: Value| if field.is_list() { Value::List(vec![value]) } else { value };
    match (field.name(), field.kind()) {
        ("group_id" | "policy_id" | "question_id", Kind::String) => Some(text("good")),
        ("group", Kind::String) => Some(text("groups/machines")),
        ("name", Kind::String) => {
            let owner = field.parent_message().name().to_owned();
            let collection = [
                ("Group", "groups/machines"),
                ("Member", "groups/machines"),
                ("Polic", "policies/everybody"),
                ("Question", "questions/room"),
                ("Package", "packages/hello"),
            ];
            collection.iter().find(|(part, _)| owner.contains(part)).map(|(_, name)| text(name))
        }
        ("parent", Kind::String) => Some(text("packages/hello")),
        ("package", Kind::String) => Some(text("packages/hello")),
        ("destinations", Kind::String) => Some(listed(text("groups/secure"))),
        ("packages", Kind::Message(package)) => {
            let mut one = DynamicMessage::new(package);
            one.set_field_by_name("package", text("packages/hello"));
            Some(listed(Value::Message(one)))
        }
        _ => None,
    }
}

#[test]
fn a_hostile_text_in_any_field_of_any_call_is_refused_by_name_or_taken_as_a_text() {
    let world = World::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    let mut before = world.reader.rows();
    let services = descriptors().services().filter(|s| s.full_name().starts_with("sutler.") && !ELSEWHERE.contains(&s.name()));
    for method in services.flat_map(|s| s.methods().collect::<Vec<_>>()) {
        let name = format!("{}/{}", method.parent_service().name(), method.name());
        let mut found = Vec::new();
        places(&method.input(), &Vec::new(), &mut found);
        for place in found {
            let path: Vec<_> = place.iter().map(|f| f.name().to_owned()).collect();
            let texts = hostile().into_iter().map(|(what, text)| (what, text.into_bytes()));
            for (what, text) in texts.chain([("no UTF-8", b"a\xff\xfe\xc0\x80b".to_vec())]) {
                count += 1;
                let mut say = |what_is: String| wrong.push(format!("{name} {} = {what}: {what_is}", path.join(".")));
                match world.api.send(&name, vec![with(&method.input(), &place, &text)]) {
                    // A text for people may hold anything that is no control character; it is shown escaped.
                    Ok(_) => {
                        before = world.reader.rows();
                        if what == "no UTF-8" {
                            say("it was taken".into());
                        }
                        // What is ignored may be as long as a message; what is kept may not.
                        if before.longest() > 64 << 10 {
                            say(format!("a row of {} bytes was made", before.longest()));
                        }
                    }
                    Err(status) => {
                        faults(&status).into_iter().for_each(&mut say);
                        let after = world.reader.rows();
                        changed(&before, &after).into_iter().for_each(|c| say(format!("{}, and yet {c}", word(status.code()))));
                        if what == "no UTF-8" && !path.iter().any(|field| said(&status).contains(field.as_str())) {
                            say(format!("the field is not named in {}", said(&status)));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} calls:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 1000, "only {count} calls were made");
    // What was taken is shown without doing anything to a terminal or a spreadsheet.
    for list in ["group list", "policy list", "question list", "token list", "client list", "package list", "job list", "audit list"] {
        for format in ["table", "csv", "json"] {
            let text = world.cli.ok(&format!("{list} -o {format}"));
            super::harmless(&format!("{list} -o {format}"), &text);
        }
    }
}
