//! Which facts and answers exist and what kind of value each has.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use sutler_base::facts::{self, FactKind};
use sutler_base::question::AnswerRule;

/// What kind of value an expression has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `true` or `false`.
    Bool,
    /// A whole number (64 bits).
    Int,
    /// A number with a fraction.
    Double,
    /// A text.
    String,
    /// A moment.
    Timestamp,
    /// A list whose items are all of one type.
    List(Arc<Type>),
    /// Texts by name, where any name is allowed.
    Map,
    /// Named members, each of its own type.
    Object(Arc<BTreeMap<String, Type>>),
}

impl Type {
    /// A list of `item`.
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    /// An object with these members.
    pub fn object<'n>(members: impl IntoIterator<Item = (&'n str, Type)>) -> Type {
        Type::Object(Arc::new(members.into_iter().map(|(name, ty)| (name.to_owned(), ty)).collect()))
    }

    /// Whether values of it can be added, compared with each other in size, and so on.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Double)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Bool => f.write_str("a bool"),
            Type::Int => f.write_str("an int"),
            Type::Double => f.write_str("a double"),
            Type::String => f.write_str("a string"),
            Type::Timestamp => f.write_str("a timestamp"),
            Type::List(_) => f.write_str("a list"),
            Type::Map => f.write_str("a map"),
            Type::Object(_) => f.write_str("an object"),
        }
    }
}

/// Which facts and answers exist and what kind of value each has. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    facts: Type,
    answers: Type,
}

impl Schema {
    /// The facts that agents of this version measure.
    pub fn standard() -> Schema {
        Schema::new(facts::SCHEMA.iter().map(|(path, kind)| (*path, of(kind))))
    }

    /// The facts at these paths below `facts`, with a `.` between the parts: `("os.family", Type::String)`. Of two that
    /// contradict each other the later one holds.
    pub fn new<'p>(facts: impl IntoIterator<Item = (&'p str, Type)>) -> Schema {
        let mut root = BTreeMap::new();
        for (path, ty) in facts {
            insert(&mut root, path, ty);
        }
        Schema { facts: Type::Object(Arc::new(root)), answers: Type::Map }
    }

    /// The same with these questions: an answer has the type of its question, and there is none to any other. Until then an
    /// answer has any name and is a text.
    pub fn with_questions<'q>(self, questions: impl IntoIterator<Item = (&'q str, &'q AnswerRule)>) -> Schema {
        let of = |rule: &AnswerRule| match rule {
            AnswerRule::String { .. } | AnswerRule::Choice { .. } => Type::String,
            AnswerRule::Integer => Type::Int,
            AnswerRule::Boolean => Type::Bool,
        };
        Schema { answers: Type::object(questions.into_iter().map(|(name, rule)| (name, of(rule)))), ..self }
    }

    /// The type of `facts` itself.
    pub(super) fn facts(&self) -> &Type {
        &self.facts
    }

    /// The type of `answers` itself.
    pub(super) fn answers(&self) -> &Type {
        &self.answers
    }
}

fn of(kind: &FactKind) -> Type {
    match kind {
        FactKind::Text => Type::String,
        FactKind::Number => Type::Int,
        FactKind::Flag => Type::Bool,
        FactKind::Texts => Type::list(Type::String),
        FactKind::Named => Type::Map,
        FactKind::Objects(members) => Type::list(Type::object(members.iter().map(|(name, kind)| (*name, of(kind))))),
    }
}

fn insert(members: &mut BTreeMap<String, Type>, path: &str, ty: Type) {
    match path.split_once('.') {
        None => {
            members.insert(path.to_owned(), ty);
        }
        Some((first, rest)) => {
            let mut below = match members.remove(first) {
                Some(Type::Object(below)) => Arc::unwrap_or_clone(below),
                _ => BTreeMap::new(),
            };
            insert(&mut below, rest, ty);
            members.insert(first.to_owned(), Type::Object(Arc::new(below)));
        }
    }
}
