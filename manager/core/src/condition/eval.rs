//! Deciding a checked condition for one client, in a bounded number of steps.

use super::check::{Binary, ClientField, Each, Function, Member, Node, TextTest};
use super::schema::Type;
use super::{Input, Outcome, Variable, limits};
use serde_json::{Map, Value as Json};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The value of an expression.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    String(Cow<'a, str>),
    Timestamp(jiff::Timestamp),
    Object(&'a Map<String, Json>),
    Map(&'a BTreeMap<String, String>),
    /// A list among the facts, with the type of its items.
    Facts(&'a [Json], &'a Type),
    List(Rc<Vec<Value<'a>>>),
}

/// Why there is no value.
#[derive(Debug, Clone)]
pub(super) enum Stop {
    /// Something is not known; a sentence. `&&` and `||` may do without it.
    Unknown(String),
    /// The steps are used up. Nothing does without.
    Spent,
}

impl Stop {
    pub(super) fn reason(self) -> String {
        match self {
            Stop::Unknown(reason) => reason,
            Stop::Spent => format!("it takes more than {} steps", limits::STEPS_MAX),
        }
    }
}

fn unknown<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Unknown(reason.into()))
}

/// Decides the expression `root`, which was checked to be a bool.
pub(super) fn decide<'a>(root: &'a Node, input: &'a Input<'a>) -> Outcome {
    match value(root, input) {
        Ok(Value::Bool(true)) => Outcome::Matched,
        Ok(Value::Bool(false)) => Outcome::NotMatched,
        Ok(_) => Outcome::Unknown("the condition is neither true nor false".to_owned()),
        Err(stop) => Outcome::Unknown(stop.reason()),
    }
}

/// The value of the expression `node`.
pub(super) fn value<'a>(node: &'a Node, input: &'a Input<'a>) -> Result<Value<'a>, Stop> {
    Run { input, left: limits::STEPS_MAX, item: None }.value(node)
}

struct Run<'a> {
    input: &'a Input<'a>,
    /// The steps that are left.
    left: u32,
    item: Option<Value<'a>>,
}

impl<'a> Run<'a> {
    fn spend(&mut self, steps: usize) -> Result<(), Stop> {
        self.left = u32::try_from(steps).ok().and_then(|steps| self.left.checked_sub(steps)).ok_or(Stop::Spent)?;
        Ok(())
    }

    /// Pays for looking at a text.
    fn read(&mut self, text: &str) -> Result<(), Stop> {
        self.spend(text.len() / 64)
    }

    /// Pays for a text of `len` bytes that is made.
    fn make(&mut self, len: usize) -> Result<(), Stop> {
        self.spend(len / 8)?;
        if len > limits::STRING_MAX {
            return unknown(format!("it makes a text of more than {} bytes", limits::STRING_MAX));
        }
        Ok(())
    }

    fn value(&mut self, node: &'a Node) -> Result<Value<'a>, Stop> {
        self.spend(1)?;
        Ok(match node {
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::Double(value) => Value::Double(*value),
            Node::String(value) => Value::String(Cow::Borrowed(value)),
            Node::Timestamp(value) => Value::Timestamp(*value),
            Node::List(nodes) => Value::List(Rc::new(nodes.iter().map(|node| self.value(node)).collect::<Result<_, _>>()?)),
            Node::Variable(variable) => self.variable(*variable)?,
            Node::Client(field) => self.client(*field)?,
            Node::Item => match &self.item {
                Some(item) => item.clone(),
                None => return unknown("there is no item"),
            },
            Node::Member(member) => self.member(member)?,
            Node::Has(member) => match self.member(member) {
                Ok(_) => Value::Bool(true),
                Err(Stop::Unknown(_)) => Value::Bool(false),
                Err(Stop::Spent) => return Err(Stop::Spent),
            },
            Node::Key(of, key) => {
                let (of, key) = (self.value(of)?, self.string(key)?);
                match of {
                    Value::Map(map) => match map.get(key.as_ref()) {
                        Some(value) => Value::String(Cow::Borrowed(value)),
                        None => return unknown(format!("{} is not set", sutler_base::quoted(&key))),
                    },
                    Value::Object(members) => match members.get(key.as_ref()) {
                        Some(Json::String(value)) => Value::String(Cow::Borrowed(value)),
                        _ => return unknown(format!("{} is not set", sutler_base::quoted(&key))),
                    },
                    _ => return unknown("this is no map"),
                }
            }
            Node::At(of, index) => self.at(of, index)?,
            Node::Not(of) => Value::Bool(!self.bool(of)?),
            Node::Negate(of) => match self.value(of)? {
                Value::Int(value) => Value::Int(value.checked_neg().ok_or_else(overflow)?),
                Value::Double(value) => Value::Double(-value),
                _ => return unknown("this is no number"),
            },
            Node::And(left, right) => Value::Bool(self.both(left, right, false)?),
            Node::Or(left, right) => Value::Bool(self.both(left, right, true)?),
            Node::If(parts) => match self.bool(&parts.0)? {
                true => self.value(&parts.1)?,
                false => self.value(&parts.2)?,
            },
            Node::Binary(operation, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                self.binary(*operation, left, right)?
            }
            Node::Call(function, of) => {
                let of = self.value(of)?;
                self.call(*function, of)?
            }
            Node::Text(test, of, what) => {
                let (of, what) = (self.string(of)?, self.string(what)?);
                self.read(&of)?;
                self.read(&what)?;
                Value::Bool(match test {
                    TextTest::Contains => of.contains(what.as_ref()),
                    TextTest::StartsWith => of.starts_with(what.as_ref()),
                    TextTest::EndsWith => of.ends_with(what.as_ref()),
                })
            }
            Node::Matches(of, pattern) => {
                let of = self.string(of)?;
                self.spend(of.len().saturating_mul(pattern.steps_per_byte as usize))?;
                Value::Bool(pattern.regex.is_match(&of))
            }
            Node::Each(each, range, body) => self.each(*each, range, body)?,
        })
    }

    fn bool(&mut self, node: &'a Node) -> Result<bool, Stop> {
        match self.value(node)? {
            Value::Bool(value) => Ok(value),
            _ => unknown("this is neither true nor false"),
        }
    }

    fn string(&mut self, node: &'a Node) -> Result<Cow<'a, str>, Stop> {
        match self.value(node)? {
            Value::String(value) => Ok(value),
            _ => unknown("this is no text"),
        }
    }

    /// `||` (`decisive` true) and `&&` (`decisive` false): one side that is decisive decides, whatever the other is.
    fn both(&mut self, left: &'a Node, right: &'a Node, decisive: bool) -> Result<bool, Stop> {
        let missing = match self.bool(left) {
            Ok(value) if value == decisive => return Ok(decisive),
            Ok(_) => None,
            Err(Stop::Spent) => return Err(Stop::Spent),
            Err(stop) => Some(stop),
        };
        match (self.bool(right)?, missing) {
            (value, _) if value == decisive => Ok(decisive),
            (_, Some(stop)) => Err(stop),
            (_, None) => Ok(!decisive),
        }
    }

    fn variable(&self, variable: Variable) -> Result<Value<'a>, Stop> {
        match variable {
            Variable::Facts => match self.input.facts {
                Json::Object(facts) => Ok(Value::Object(facts)),
                _ => unknown("the client has not reported its facts"),
            },
            Variable::Labels => Ok(Value::Map(self.input.labels)),
            Variable::Answers => Ok(Value::Map(self.input.answers)),
            Variable::Client => unknown("client is used by its members"),
        }
    }

    fn client(&self, field: ClientField) -> Result<Value<'a>, Stop> {
        let client = &self.input.client;
        let not_known = || Stop::Unknown(format!("client.{} is not known here", field.name()));
        Ok(match field {
            ClientField::Id => Value::String(Cow::Borrowed(client.id)),
            ClientField::Name => Value::String(Cow::Borrowed(client.name)),
            ClientField::Kind => Value::String(Cow::Borrowed(client.kind)),
            ClientField::State => Value::String(Cow::Borrowed(client.state)),
            ClientField::Created => Value::Timestamp(client.created),
            ClientField::Presence => {
                let (presence, _) = client.contact.ok_or_else(not_known)?;
                Value::String(Cow::Borrowed(presence.as_str()))
            }
            ClientField::LastSeen => Value::Timestamp(client.contact.ok_or_else(not_known)?.1),
            ClientField::Duplicate => Value::Bool(client.duplicate.ok_or_else(not_known)?),
        })
    }

    fn member(&mut self, member: &'a Member) -> Result<Value<'a>, Stop> {
        match self.value(&member.of)? {
            Value::Map(map) => match map.get(&member.name) {
                Some(text) => match read(text, &member.ty) {
                    Some(value) => Ok(value),
                    None => unknown(format!("{} is not {} here", member.path, member.ty)),
                },
                None => unknown(format!("{} is not set", member.path)),
            },
            Value::Object(object) => match object.get(&member.name) {
                None | Some(Json::Null) => unknown(format!("{} is not known", member.path)),
                Some(Json::String(text)) if text.is_empty() && member.measured => unknown(format!("{} is not known", member.path)),
                Some(json) => match typed(json, &member.ty) {
                    Some(value) => Ok(value),
                    None => unknown(format!("{} is not {} here", member.path, member.ty)),
                },
            },
            _ => unknown(format!("{} is not known", member.path)),
        }
    }

    fn at(&mut self, of: &'a Node, index: &'a Node) -> Result<Value<'a>, Stop> {
        let (list, index) = (self.value(of)?, self.value(index)?);
        let Value::Int(index) = index else { return unknown("this is no position") };
        let outside = || Stop::Unknown(format!("the list has no item {index}"));
        let place = usize::try_from(index).map_err(|_| outside())?;
        match list {
            Value::List(items) => items.get(place).cloned().ok_or_else(outside),
            Value::Facts(items, ty) => {
                let item = items.get(place).ok_or_else(outside)?;
                typed(item, ty).ok_or_else(|| Stop::Unknown(format!("item {index} is not {ty} here")))
            }
            _ => unknown("this is no list"),
        }
    }

    fn binary(&mut self, operation: Binary, left: Value<'a>, right: Value<'a>) -> Result<Value<'a>, Stop> {
        match operation {
            Binary::Add => match (left, right) {
                (Value::Int(l), Value::Int(r)) => l.checked_add(r).map(Value::Int).ok_or_else(overflow),
                (Value::Double(l), Value::Double(r)) => Ok(Value::Double(l + r)),
                (Value::String(l), Value::String(r)) => {
                    self.make(l.len() + r.len())?;
                    Ok(Value::String(Cow::Owned([l, r].concat())))
                }
                _ => unknown("these can't be added"),
            },
            Binary::Subtract => calculate(left, right, i64::checked_sub, |l, r| l - r),
            Binary::Multiply => calculate(left, right, i64::checked_mul, |l, r| l * r),
            Binary::Divide => calculate(left, right, i64::checked_div, |l, r| l / r),
            Binary::Remainder => calculate(left, right, i64::checked_rem, |l, r| l % r),
            Binary::In => self.within(&left, &right).map(Value::Bool),
            Binary::Equal | Binary::NotEqual | Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
                if let (Value::String(left), Value::String(_)) = (&left, &right) {
                    self.read(left)?;
                }
                // Without an order (a NaN) every comparison but != is false.
                let order = compare(&left, &right);
                Ok(Value::Bool(match operation {
                    Binary::Equal => order == Some(Ordering::Equal),
                    Binary::NotEqual => order != Some(Ordering::Equal),
                    Binary::Less => order == Some(Ordering::Less),
                    Binary::LessEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                    Binary::Greater => order == Some(Ordering::Greater),
                    _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                }))
            }
        }
    }

    fn within(&mut self, item: &Value<'a>, of: &Value<'a>) -> Result<bool, Stop> {
        match of {
            Value::Map(map) => match item {
                Value::String(name) => Ok(map.contains_key(name.as_ref())),
                _ => unknown("this is no name"),
            },
            Value::Object(members) => match item {
                Value::String(name) => Ok(members.contains_key(name.as_ref())),
                _ => unknown("this is no name"),
            },
            list => {
                let mut missing = None;
                for place in 0..len(list) {
                    self.spend(1)?;
                    match nth(list, place) {
                        Some(candidate) if compare(&candidate, item) == Some(Ordering::Equal) => return Ok(true),
                        Some(_) => {}
                        None => missing = Some(place),
                    }
                }
                match missing {
                    None => Ok(false),
                    Some(place) => unknown(format!("item {place} of the list is not of the expected type")),
                }
            }
        }
    }

    fn call(&mut self, function: Function, of: Value<'a>) -> Result<Value<'a>, Stop> {
        if let Value::String(text) = &of {
            self.read(text)?;
        }
        Ok(match (function, of) {
            (Function::Size, Value::String(text)) => Value::Int(text.chars().count() as i64),
            (Function::Size, Value::Map(map)) => Value::Int(map.len() as i64),
            (Function::Size, Value::Object(members)) => Value::Int(members.len() as i64),
            (Function::Size, list) => Value::Int(len(&list) as i64),
            (Function::Int, Value::Int(value)) => Value::Int(value),
            (Function::Int, Value::Double(value)) if value.abs() < 9.0e18 => Value::Int(value as i64),
            (Function::Int, Value::String(text)) => match text.parse() {
                Ok(value) => Value::Int(value),
                Err(_) => return unknown(format!("{} is no whole number", sutler_base::quoted(&text))),
            },
            (Function::Double, Value::Int(value)) => Value::Double(value as f64),
            (Function::Double, Value::Double(value)) => Value::Double(value),
            (Function::Double, Value::String(text)) => match text.parse() {
                Ok(value) => Value::Double(value),
                Err(_) => return unknown(format!("{} is no number", sutler_base::quoted(&text))),
            },
            (Function::String, value) => Value::String(Cow::Owned(shown(&value))),
            (Function::Timestamp, Value::String(text)) => match text.parse() {
                Ok(value) => Value::Timestamp(value),
                Err(_) => return unknown(format!("{} is no moment", sutler_base::quoted(&text))),
            },
            (Function::LowerAscii, Value::String(text)) => {
                self.make(text.len())?;
                Value::String(Cow::Owned(text.to_ascii_lowercase()))
            }
            (Function::UpperAscii, Value::String(text)) => {
                self.make(text.len())?;
                Value::String(Cow::Owned(text.to_ascii_uppercase()))
            }
            _ => return unknown("this has no such value"),
        })
    }

    fn each(&mut self, each: Each, range: &'a Node, body: &'a Node) -> Result<Value<'a>, Stop> {
        let range = match self.value(range)? {
            Value::Map(map) => Value::List(Rc::new(map.keys().map(|key| Value::String(Cow::Borrowed(key.as_str()))).collect())),
            Value::Object(members) => Value::List(Rc::new(members.keys().map(|key| Value::String(Cow::Borrowed(key.as_str()))).collect())),
            list => list,
        };
        let mut kept = Vec::new();
        let mut missing = None;
        for place in 0..len(&range) {
            self.spend(1)?;
            let result = match nth(&range, place) {
                Some(item) => {
                    self.item = Some(item.clone());
                    self.value(body).map(|value| (item, value))
                }
                None => unknown(format!("item {place} of the list is not of the expected type")),
            };
            self.item = None;
            match (each, result) {
                (_, Err(Stop::Spent)) => return Err(Stop::Spent),
                // As with && and ||: an item that decides decides, whatever is not known of others.
                (Each::All, Ok((_, Value::Bool(false)))) => return Ok(Value::Bool(false)),
                (Each::Exists, Ok((_, Value::Bool(true)))) => return Ok(Value::Bool(true)),
                (Each::All | Each::Exists, Ok(_)) => {}
                (Each::All | Each::Exists, Err(stop)) => missing = missing.or(Some(stop)),
                (Each::ExistsOne | Each::Filter | Each::Map, Err(stop)) => return Err(stop),
                (Each::ExistsOne | Each::Filter, Ok((item, Value::Bool(true)))) => kept.push(item),
                (Each::ExistsOne | Each::Filter, Ok(_)) => {}
                (Each::Map, Ok((_, value))) => kept.push(value),
            }
        }
        match (each, missing) {
            (_, Some(stop)) => Err(stop),
            (Each::All, None) => Ok(Value::Bool(true)),
            (Each::Exists, None) => Ok(Value::Bool(false)),
            (Each::ExistsOne, None) => Ok(Value::Bool(kept.len() == 1)),
            (Each::Filter | Each::Map, None) => Ok(Value::List(Rc::new(kept))),
        }
    }
}

fn overflow() -> Stop {
    Stop::Unknown("a number gets too large".to_owned())
}

fn calculate<'a>(
    left: Value<'a>,
    right: Value<'a>,
    ints: fn(i64, i64) -> Option<i64>,
    doubles: fn(f64, f64) -> f64,
) -> Result<Value<'a>, Stop> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            ints(left, right).map(Value::Int).ok_or_else(|| Stop::Unknown(format!("{left} and {right} can't be calculated with")))
        }
        (Value::Double(left), Value::Double(right)) => Ok(Value::Double(doubles(left, right))),
        _ => unknown("these are no numbers"),
    }
}

fn compare(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Bool(l), Value::Bool(r)) => Some(l.cmp(r)),
        (Value::Int(l), Value::Int(r)) => Some(l.cmp(r)),
        (Value::Double(l), Value::Double(r)) => l.partial_cmp(r),
        (Value::Int(l), Value::Double(r)) => (*l as f64).partial_cmp(r),
        (Value::Double(l), Value::Int(r)) => l.partial_cmp(&(*r as f64)),
        (Value::String(l), Value::String(r)) => Some(l.cmp(r)),
        (Value::Timestamp(l), Value::Timestamp(r)) => Some(l.cmp(r)),
        _ => None,
    }
}

fn len(list: &Value<'_>) -> usize {
    match list {
        Value::List(items) => items.len(),
        Value::Facts(items, _) => items.len(),
        _ => 0,
    }
}

fn nth<'a>(list: &Value<'a>, place: usize) -> Option<Value<'a>> {
    match list {
        Value::List(items) => items.get(place).cloned(),
        Value::Facts(items, ty) => items.get(place).and_then(|item| typed(item, ty)),
        _ => None,
    }
}

/// What is kept as a text, as the type that its question gives it; nothing if it is something else.
fn read<'a>(text: &'a str, ty: &Type) -> Option<Value<'a>> {
    match ty {
        Type::String => Some(Value::String(Cow::Borrowed(text))),
        Type::Int => text.parse().ok().map(Value::Int),
        Type::Bool => text.parse().ok().map(Value::Bool),
        _ => None,
    }
}

/// What a client reported, as the type that the schema gives it; nothing if it is something else.
fn typed<'a>(json: &'a Json, ty: &'a Type) -> Option<Value<'a>> {
    Some(match (ty, json) {
        (Type::Bool, Json::Bool(value)) => Value::Bool(*value),
        (Type::Int, Json::Number(value)) => Value::Int(value.as_i64()?),
        (Type::Double, Json::Number(value)) => Value::Double(value.as_f64()?),
        (Type::String, Json::String(value)) => Value::String(Cow::Borrowed(value)),
        (Type::Timestamp, Json::String(value)) => Value::Timestamp(value.parse().ok()?),
        (Type::List(item), Json::Array(values)) => Value::Facts(values, item),
        // Texts by name that a client reported are looked up like the members of an object.
        (Type::Object(_) | Type::Map, Json::Object(value)) => Value::Object(value),
        _ => return None,
    })
}

/// A value as a person would write it; a text as it is.
pub(super) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::String(value) => value.to_string(),
        Value::Timestamp(value) => value.to_string(),
        Value::Object(members) => format!("an object with {} members", members.len()),
        Value::Map(map) => format!("{} entries", map.len()),
        list => format!("a list of {}", len(list)),
    }
}
