//! Wire ⇄ types: words of enums, times, resource names, JSON documents.
//!
//! What comes from outside is parsed here, once. The functions answer with the sentence that says what is wrong; which
//! field it was is said by the caller, who knows its path.

use crate::v1;
use prost_types::{ListValue, Struct, Timestamp as WireTime, Value, value::Kind};
use std::str::FromStr;
use sutler_base::{
    ClientId, GroupName, Invalid, JobId, OperatorName, PackageName, PolicyName, QuestionName, Timestamp, TokenId, Uid, Version, WindowName,
    question::AnswerRule, quoted, state,
};

/// An enum that has the same words on both sides: `QUEUED` here, `EXECUTION_STATE_QUEUED` on the wire.
pub trait Word: Sized {
    /// The value on the wire.
    fn to_wire(self) -> i32;
    /// The value that the wire says; `None` for the zero value, an error for a number that no enum value has.
    fn from_wire(value: i32) -> Result<Option<Self>, Invalid>;
}

macro_rules! word {
    ($type:ty, $wire:ty, $prefix:literal) => {
        impl Word for $type {
            fn to_wire(self) -> i32 {
                // A test goes over every word of both sides, so the name is always found.
                <$wire>::from_str_name(&format!(concat!($prefix, "_{}"), self.as_str())).map_or(0, |w| w as i32)
            }
            fn from_wire(value: i32) -> Result<Option<Self>, Invalid> {
                let wire =
                    <$wire>::try_from(value).map_err(|_| Invalid::new(format!(concat!("{} is no value of ", stringify!($wire)), value)))?;
                let word = wire.as_str_name().strip_prefix(concat!($prefix, "_")).unwrap_or_default();
                if word == "UNSPECIFIED" { Ok(None) } else { word.parse().map(Some) }
            }
        }
    };
}
word!(state::ClientState, v1::ClientState, "CLIENT_STATE");
word!(state::Presence, v1::Presence, "PRESENCE");
word!(state::ClientKind, v1::ClientKind, "CLIENT_KIND");
word!(state::Source, v1::Source, "SOURCE");
word!(state::JoinMode, v1::JoinMode, "JOIN_MODE");
word!(state::Trigger, v1::Trigger, "TRIGGER");
word!(state::AppliesTo, v1::AppliesTo, "APPLIES_TO");
word!(state::OnMismatch, v1::OnMismatch, "ON_MISMATCH");
word!(state::OnLeave, v1::OnLeave, "ON_LEAVE");
word!(state::Timing, v1::Timing, "TIMING");
word!(state::JobState, v1::JobState, "JOB_STATE");
word!(state::ExecutionState, v1::ExecutionState, "EXECUTION_STATE");
word!(state::Awaited, v1::Awaited, "AWAITED");
word!(state::CancelAwaits, v1::CancelAwaits, "CANCEL_AWAITS");
word!(state::Intent, v1::Intent, "INTENT");
word!(state::RetryKind, v1::RetryKind, "RETRY_KIND");
word!(state::Role, v1::Role, "ROLE");
word!(state::EventKind, v1::EventKind, "EVENT_KIND");
word!(state::Severity, v1::Severity, "SEVERITY");
word!(state::ApprovalState, v1::ApprovalState, "APPROVAL_STATE");
word!(state::PlanVerdict, v1::PlanVerdict, "PLAN_VERDICT");

/// A time on the wire.
pub fn wire_time(time: Timestamp) -> WireTime {
    WireTime { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// A time from the wire.
pub fn time(wire: &WireTime) -> Result<Timestamp, Invalid> {
    Timestamp::new(wire.seconds, wire.nanos)
        .map_err(|_| Invalid::new(format!("{} s is no time between the years -9999 and 9999", wire.seconds)))
}

fn named<T: FromStr<Err = Invalid>>(collection: &str, name: &str) -> Result<T, Invalid> {
    match name.strip_prefix(collection).and_then(|rest| rest.strip_prefix('/')) {
        Some(rest) => rest.parse(),
        None => Err(Invalid::new(format!("a name here starts with {collection}/, {} does not", quoted(name)))),
    }
}

/// `groups/NAME`
pub fn group_name(name: &str) -> Result<GroupName, Invalid> {
    named("groups", name)
}

/// `operators/NAME`
pub fn operator_name(name: &str) -> Result<OperatorName, Invalid> {
    named("operators", name)
}

/// `policies/NAME`
pub fn policy_name(name: &str) -> Result<PolicyName, Invalid> {
    named("policies", name)
}

/// `questions/NAME`
pub fn question_name(name: &str) -> Result<QuestionName, Invalid> {
    named("questions", name)
}

/// `windows/NAME`
pub fn window_name(name: &str) -> Result<WindowName, Invalid> {
    named("windows", name)
}

/// What an answer may be, as it is sent.
pub fn wire_rule(rule: &AnswerRule) -> v1::AnswerRule {
    let mut wire = v1::AnswerRule::default();
    let word = match rule {
        AnswerRule::String { pattern } => {
            wire.pattern = pattern.as_ref().map(ToString::to_string).unwrap_or_default();
            v1::AnswerType::String
        }
        AnswerRule::Integer => v1::AnswerType::Integer,
        AnswerRule::Boolean => v1::AnswerType::Boolean,
        AnswerRule::Choice { choices } => {
            wire.choices.clone_from(choices);
            v1::AnswerType::Choice
        }
    };
    wire.r#type = word.into();
    wire
}

/// What an answer may be, as it came; any text, where nothing is said.
pub fn rule(wire: &v1::AnswerRule) -> Result<AnswerRule, Invalid> {
    let kind = v1::AnswerType::try_from(wire.r#type).map_err(|_| Invalid::new(format!("{} is no type of an answer", wire.r#type)))?;
    if !wire.choices.is_empty() && kind != v1::AnswerType::Choice {
        return Err(Invalid::new("choices go with the type CHOICE"));
    }
    if !wire.pattern.is_empty() && !matches!(kind, v1::AnswerType::String | v1::AnswerType::Unspecified) {
        return Err(Invalid::new("a pattern goes with the type STRING"));
    }
    Ok(match kind {
        v1::AnswerType::Unspecified | v1::AnswerType::String => {
            AnswerRule::String { pattern: if wire.pattern.is_empty() { None } else { Some(wire.pattern.parse()?) } }
        }
        v1::AnswerType::Integer => AnswerRule::Integer,
        v1::AnswerType::Boolean => AnswerRule::Boolean,
        v1::AnswerType::Choice => AnswerRule::choice(wire.choices.clone())?,
    })
}

/// `clients/ID`
pub fn client_id(name: &str) -> Result<ClientId, Invalid> {
    named("clients", name)
}

/// `jobs/ID`
pub fn job_id(name: &str) -> Result<JobId, Invalid> {
    named("jobs", name)
}

/// `approvals/ID`
pub fn approval_id(name: &str) -> Result<Uid, Invalid> {
    named("approvals", name)
}

/// `plans/ID`
pub fn plan_id(name: &str) -> Result<Uid, Invalid> {
    named("plans", name)
}

/// `tokens/ID`
pub fn token_id(name: &str) -> Result<TokenId, Invalid> {
    named("tokens", name)
}

/// `transferLimits/ID`
pub fn transfer_limit(name: &str) -> Result<Uid, Invalid> {
    named("transferLimits", name)
}

/// `breakers/ID`
pub fn breaker_uid(name: &str) -> Result<Uid, Invalid> {
    named("breakers", name)
}

/// `packages/NAME`
pub fn package_name(name: &str) -> Result<PackageName, Invalid> {
    named("packages", name)
}

/// `jobs/ID/executions/CLIENT`
pub fn execution_name(name: &str) -> Result<(JobId, ClientId), Invalid> {
    match name.split_once("/executions/") {
        Some((job, client)) => Ok((job_id(job)?, client.parse()?)),
        None => Err(Invalid::new(format!("the name of an execution is jobs/ID/executions/CLIENT, not {}", quoted(name)))),
    }
}

/// Which version of a package is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionChoice {
    /// `packages/NAME`: the newest at the time of asking.
    Newest,
    /// `packages/NAME/versions/latest`: the newest, whenever it is used.
    Latest,
    /// `packages/NAME/versions/VERSION`
    Exact(Version),
}

/// `packages/NAME`, `packages/NAME/versions/VERSION` or `packages/NAME/versions/latest`
pub fn package_choice(name: &str) -> Result<(PackageName, VersionChoice), Invalid> {
    match name.split_once("/versions/") {
        None => Ok((package_name(name)?, VersionChoice::Newest)),
        Some((package, "latest")) => Ok((package_name(package)?, VersionChoice::Latest)),
        Some((package, version)) => Ok((package_name(package)?, VersionChoice::Exact(version.parse()?))),
    }
}

/// A JSON document as a `Struct`: people read it through grpcurl without base64. Anything but an object becomes an empty one.
pub fn wire_struct(json: &serde_json::Value) -> Struct {
    match wire_value(json).kind {
        Some(Kind::StructValue(s)) => s,
        _ => Struct::default(),
    }
}

fn wire_value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(b) => Kind::BoolValue(*b),
        Json::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Json::String(s) => Kind::StringValue(s.clone()),
        Json::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(wire_value).collect() }),
        Json::Object(map) => Kind::StructValue(Struct { fields: map.iter().map(|(k, v)| (k.clone(), wire_value(v))).collect() }),
    };
    Value { kind: Some(kind) }
}

/// A `Struct` as JSON; whole numbers stay whole.
pub fn json_struct(wire: &Struct) -> serde_json::Value {
    serde_json::Value::Object(wire.fields.iter().map(|(k, v)| (k.clone(), json_value(v))).collect())
}

fn json_value(wire: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match &wire.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(b)) => Json::Bool(*b),
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => Json::from(*n as i64),
        Some(Kind::NumberValue(n)) => Json::from(*n),
        Some(Kind::StringValue(s)) => Json::from(s.clone()),
        Some(Kind::ListValue(list)) => Json::Array(list.values.iter().map(json_value).collect()),
        Some(Kind::StructValue(s)) => json_struct(s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word of ours has a value on the wire, and every value on the wire but the zero one has our word.
    fn agree<T: Word + Copy + PartialEq + std::fmt::Debug>(ours: &[T]) {
        assert_eq!(T::from_wire(0).unwrap(), None);
        for word in ours {
            assert_ne!((*word).to_wire(), 0, "{word:?}");
            assert_eq!(T::from_wire((*word).to_wire()).unwrap(), Some(*word));
        }
        // Numbers of the wire that nobody has given yet are errors, between the others and after them.
        let values: Vec<i32> = ours.iter().map(|word| (*word).to_wire()).collect();
        let most = values.iter().copied().max().unwrap_or_default();
        for value in (1..=most + 1).filter(|value| !values.contains(value)) {
            assert!(T::from_wire(value).is_err(), "{value}");
        }
    }

    #[test]
    fn both_sides_have_the_same_words() {
        agree(state::ClientState::ALL);
        agree(state::Presence::ALL);
        agree(state::ClientKind::ALL);
        agree(state::Source::ALL);
        agree(state::JoinMode::ALL);
        agree(state::Trigger::ALL);
        agree(state::AppliesTo::ALL);
        agree(state::OnMismatch::ALL);
        agree(state::OnLeave::ALL);
        agree(state::Timing::ALL);
        agree(state::JobState::ALL);
        agree(state::ExecutionState::ALL);
        agree(state::Awaited::ALL);
        agree(state::CancelAwaits::ALL);
        agree(state::Intent::ALL);
        agree(state::RetryKind::ALL);
        agree(state::Role::ALL);
        agree(state::EventKind::ALL);
        agree(state::ApprovalState::ALL);
        agree(state::PlanVerdict::ALL);
        agree(state::Severity::ALL);
    }

    #[test]
    fn a_resource_name_is_of_its_collection() {
        assert!(group_name("groups/new-clients").is_ok());
        assert!(group_name("new-clients").is_err());
        assert!(group_name("groups/../x").is_err());
        assert_eq!(package_choice("packages/clamav/versions/latest").unwrap().1, VersionChoice::Latest);
        assert_eq!(package_choice("packages/clamav").unwrap().1, VersionChoice::Newest);
        assert!(package_choice("packages/clamav/versions/").is_err());
    }

    #[test]
    fn a_rule_for_answers_survives_the_wire_and_what_does_not_belong_together_is_refused() {
        let choice = AnswerRule::choice(vec!["a".into(), "b".into()]).unwrap();
        for ours in [AnswerRule::String { pattern: Some("[a-z]+".parse().unwrap()) }, AnswerRule::Integer, AnswerRule::Boolean, choice] {
            assert_eq!(rule(&wire_rule(&ours)), Ok(ours));
        }
        assert_eq!(rule(&v1::AnswerRule::default()), Ok(AnswerRule::String { pattern: None }));
        let of = |kind: v1::AnswerType| v1::AnswerRule { r#type: kind.into(), ..Default::default() };
        for (bad, word) in [
            (v1::AnswerRule { pattern: "a".into(), ..of(v1::AnswerType::Integer) }, "STRING"),
            (v1::AnswerRule { choices: vec!["a".into()], ..of(v1::AnswerType::String) }, "CHOICE"),
            (v1::AnswerRule { pattern: "(".into(), ..of(v1::AnswerType::String) }, "regular expression"),
            (of(v1::AnswerType::Choice), "1 to"),
            (v1::AnswerRule { r#type: 99, ..Default::default() }, "99"),
        ] {
            assert!(rule(&bad).unwrap_err().0.contains(word), "{bad:?}");
        }
    }

    #[test]
    fn json_survives_the_wire() {
        let json = serde_json::json!({"a": [1, "x", null, true, 1.5], "b": {"c": 9007199254740991i64}});
        let back = json_struct(&wire_struct(&json));
        assert_eq!(back["a"], json["a"]);
    }
}
