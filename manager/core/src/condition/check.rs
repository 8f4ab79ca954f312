//! From the parser's tree to one that can be evaluated: every name exists, every type fits, every limit is kept.

use super::error::{ConditionError, ConditionErrorKind as Kind};
use super::parse::Parsed;
use super::schema::{Schema, Type};
use super::{Variable, limits, scan};
use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, SelectExpr, operators};
use std::collections::BTreeSet;
use std::sync::Arc;
use sutler_base::quoted;

/// The fact that is kept apart from the others.
const PACKAGES: &str = "facts.packages";

/// A checked expression.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Bool(bool),
    Int(i64),
    Double(f64),
    String(Arc<str>),
    Timestamp(jiff::Timestamp),
    List(Vec<Node>),
    /// One of the variables, whole.
    Variable(Variable),
    /// A member of `client`.
    Client(ClientField),
    /// What a comprehension is looking at. There is one at most, since none stands inside another.
    Item,
    /// A member of an object, or the value of a name in a map.
    Member(Box<Member>),
    /// `has(…)` of that member.
    Has(Box<Member>),
    /// A value of a map by a computed name.
    Key(Box<Node>, Box<Node>),
    /// An item of a list by its position.
    At(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<(Node, Node, Node)>),
    Binary(Binary, Box<Node>, Box<Node>),
    Call(Function, Box<Node>),
    Text(TextTest, Box<Node>, Box<Node>),
    Matches(Box<Node>, Pattern),
    Each(Each, Box<Node>, Box<Node>),
}

/// `of.name`, where `of` is an object or a map.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) of: Node,
    pub(super) name: String,
    pub(super) ty: Type,
    /// As a person would write it: `facts.os.family`.
    pub(super) path: String,
    /// Whether an empty text stands for one that could not be measured.
    pub(super) measured: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientField {
    Id,
    Name,
    Kind,
    State,
    Created,
    Presence,
    LastSeen,
    Duplicate,
}

impl ClientField {
    const ALL: [(&str, ClientField); 8] = [
        ("id", ClientField::Id),
        ("name", ClientField::Name),
        ("kind", ClientField::Kind),
        ("state", ClientField::State),
        ("created", ClientField::Created),
        ("presence", ClientField::Presence),
        ("last_seen", ClientField::LastSeen),
        ("duplicate", ClientField::Duplicate),
    ];

    fn ty(self) -> Type {
        match self {
            ClientField::Created | ClientField::LastSeen => Type::Timestamp,
            ClientField::Duplicate => Type::Bool,
            ClientField::Id | ClientField::Name | ClientField::Kind | ClientField::State | ClientField::Presence => Type::String,
        }
    }

    pub(super) fn name(self) -> &'static str {
        ClientField::ALL.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Int,
    Double,
    String,
    Timestamp,
    LowerAscii,
    UpperAscii,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Each {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

/// A compiled pattern and what matching costs.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    pub(super) regex: regex::Regex,
    /// Steps for each byte that is looked at.
    pub(super) steps_per_byte: u32,
}

/// What an expression uses.
#[derive(Debug, Clone, Default)]
pub(super) struct Uses {
    variables: BTreeSet<Variable>,
    /// The machine's packages, which are kept apart from other facts.
    pub(super) packages: bool,
    /// When the client was last heard of.
    pub(super) contact: bool,
    /// Whether there is another client that is probably the same machine.
    pub(super) duplicate: bool,
    /// The questions whose answers it names.
    pub(super) questions: BTreeSet<String>,
}

impl Uses {
    pub(super) fn contains(&self, variable: Variable) -> bool {
        self.variables.contains(&variable)
    }
}

/// Checks the tree: it comes out as a `bool`.
pub(super) fn check(parsed: &Parsed<'_>, schema: &Schema) -> Result<(Node, Uses), ConditionError> {
    let mut nodes = 0;
    count(parsed, &parsed.tree, &mut nodes)?;
    let mut checker = Checker { parsed, schema, uses: Uses::default(), item: None };
    let (node, ty) = checker.expression(&parsed.tree)?;
    if ty != Type::Bool {
        let message = format!("a condition is true or false, but this is {ty}; compare it with something");
        return Err(parsed.error(Kind::Type, parsed.tree.id, message));
    }
    Ok((node, checker.uses))
}

/// Counts the nodes before anything else goes down the tree, and so bounds how deep that can get.
fn count(parsed: &Parsed<'_>, root: &IdedExpr, nodes: &mut usize) -> Result<(), ConditionError> {
    let mut waiting = vec![root];
    while let Some(at) = waiting.pop() {
        *nodes += 1;
        if *nodes > limits::NODES_MAX {
            return Err(scan::too_many_nodes(parsed.text, parsed.offset(at.id)));
        }
        match &at.expr {
            Expr::Call(call) => {
                waiting.extend(call.args.iter().rev());
                waiting.extend(call.target.as_deref());
            }
            Expr::Select(select) => waiting.push(&select.operand),
            Expr::List(list) => waiting.extend(list.elements.iter().rev()),
            // Refused by the check without being looked into.
            _ => {}
        }
    }
    Ok(())
}

type Checked = Result<(Node, Type), ConditionError>;

struct Checker<'p> {
    parsed: &'p Parsed<'p>,
    schema: &'p Schema,
    uses: Uses,
    /// Inside a comprehension: the name and the type of its item.
    item: Option<(String, Type)>,
}

impl Checker<'_> {
    fn error<T>(&self, kind: Kind, at: &IdedExpr, message: impl Into<String>) -> Result<T, ConditionError> {
        Err(self.parsed.error(kind, at.id, message))
    }

    fn expression(&mut self, at: &IdedExpr) -> Checked {
        match &at.expr {
            Expr::Literal(literal) => self.literal(at, literal),
            Expr::Ident(name) => self.name(at, name),
            Expr::Select(select) => self.select(at, select),
            Expr::List(list) => self.list(at, &list.elements),
            Expr::Call(call) => self.call(at, call),
            Expr::Map(_) | Expr::Struct(_) => self.error(Kind::Unsupported, at, "maps and messages can't be made in a condition"),
            Expr::Comprehension(_) | Expr::Unspecified => self.error(Kind::Unsupported, at, "conditions don't have this"),
        }
    }

    fn literal(&self, at: &IdedExpr, literal: &LiteralValue) -> Checked {
        Ok(match literal {
            LiteralValue::Boolean(value) => (Node::Bool(*value.inner()), Type::Bool),
            LiteralValue::Int(value) => (Node::Int(*value.inner()), Type::Int),
            LiteralValue::Double(value) => (Node::Double(*value.inner()), Type::Double),
            LiteralValue::String(value) => (Node::String(value.inner().into()), Type::String),
            LiteralValue::UInt(_) => return self.error(Kind::Unsupported, at, "write the number without the u"),
            LiteralValue::Bytes(_) => return self.error(Kind::Unsupported, at, "write the text without the b"),
            LiteralValue::Null => {
                return self.error(Kind::Unsupported, at, "nothing is null; to ask whether something is known write has(…)");
            }
        })
    }

    fn name(&mut self, at: &IdedExpr, name: &str) -> Checked {
        if let Some((item, ty)) = &self.item
            && item == name
        {
            return Ok((Node::Item, ty.clone()));
        }
        let Some(variable) = Variable::ALL.into_iter().find(|v| v.name() == name) else {
            let is_fact = matches!(self.schema.facts(), Type::Object(facts) if facts.contains_key(name));
            let hint = if is_fact {
                format!("; did you mean facts.{name}?")
            } else if ClientField::ALL.iter().any(|(field, _)| *field == name) {
                format!("; did you mean client.{name}?")
            } else {
                did_you_mean(name, Variable::ALL.map(Variable::name))
            };
            return self.error(Kind::UnknownName, at, format!("there is no variable {}{hint}", quoted(name)));
        };
        self.uses.variables.insert(variable);
        let ty = match variable {
            Variable::Facts => self.schema.facts().clone(),
            Variable::Labels => Type::Map,
            Variable::Answers => self.schema.answers().clone(),
            // Its members are nodes of their own; it is never looked at as a whole.
            Variable::Client => Type::object([]),
        };
        Ok((Node::Variable(variable), ty))
    }

    fn select(&mut self, at: &IdedExpr, select: &SelectExpr) -> Checked {
        let (of, ty) = self.expression(&select.operand)?;
        self.member(self.after_dot(at), of, ty, &select.field)
    }

    /// Where the name of the selection `at` begins; the parser gives the place of its dot.
    fn after_dot(&self, at: &IdedExpr) -> usize {
        let dot = self.parsed.offset(at.id);
        let after = self.parsed.text.get(dot + 1..).unwrap_or("");
        dot + 1 + (after.len() - after.trim_start().len())
    }

    /// The member `name` of `of`, written at `offset`.
    fn member(&mut self, offset: usize, of: Node, ty: Type, name: &str) -> Checked {
        let error = |kind, message: String| Err(ConditionError::new(kind, self.parsed.text, offset, message));
        let path = format!("{}.{name}", path(&of));
        match ty {
            Type::Object(_) if matches!(of, Node::Variable(Variable::Client)) => {
                match ClientField::ALL.iter().find(|(known, _)| *known == name) {
                    Some((_, field)) => {
                        self.uses.contact |= matches!(field, ClientField::Presence | ClientField::LastSeen);
                        self.uses.duplicate |= *field == ClientField::Duplicate;
                        Ok((Node::Client(*field), field.ty()))
                    }
                    None => {
                        let hint = did_you_mean(name, ClientField::ALL.map(|(known, _)| known));
                        error(Kind::UnknownName, format!("a client has no {}{hint}", quoted(name)))
                    }
                }
            }
            Type::Object(members) if matches!(of, Node::Variable(Variable::Answers)) => match members.get(name) {
                Some(ty) => {
                    self.uses.questions.insert(name.to_owned());
                    let member = Member { of, name: name.to_owned(), ty: ty.clone(), path, measured: false };
                    Ok((Node::Member(Box::new(member)), ty.clone()))
                }
                None => {
                    let hint = did_you_mean(name, members.keys().map(String::as_str));
                    let message = format!("there is no question {}{hint}; `question list` shows those that are asked", quoted(name));
                    error(Kind::UnknownName, message)
                }
            },
            Type::Object(members) => match members.get(name) {
                Some(ty) => {
                    self.uses.packages |= path == PACKAGES;
                    let member = Member { of, name: name.to_owned(), ty: ty.clone(), path, measured: true };
                    Ok((Node::Member(Box::new(member)), ty.clone()))
                }
                None => {
                    let hint = did_you_mean(name, members.keys().map(String::as_str));
                    error(Kind::UnknownName, format!("there is no fact {}{hint}", quoted(&path)))
                }
            },
            Type::Map => {
                let member = Member { of, name: name.to_owned(), ty: Type::String, path, measured: false };
                Ok((Node::Member(Box::new(member)), Type::String))
            }
            other => error(Kind::Type, format!("{} is {other} and has no member {}", path_or_this(&of), quoted(name))),
        }
    }

    fn list(&mut self, at: &IdedExpr, elements: &[IdedExpr]) -> Checked {
        let mut nodes = Vec::with_capacity(elements.len());
        let mut of: Option<Type> = None;
        for element in elements {
            let (node, ty) = self.expression(element)?;
            if of.as_ref().is_some_and(|of| *of != ty) {
                return self.error(Kind::Type, element, format!("the items of a list are of one type, and this is {ty}"));
            }
            of = Some(ty);
            nodes.push(node);
        }
        match of {
            Some(ty) => Ok((Node::List(nodes), Type::list(ty))),
            None => self.error(Kind::Unsupported, at, "an empty list has nothing in it to look at"),
        }
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr) -> Checked {
        let name = call.func_name.as_str();
        let args: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        if call.target.is_none()
            && let Some(result) = self.operator(at, name, &args)
        {
            return result;
        }
        match (name, call.target.is_some(), args.as_slice()) {
            ("has", false, [of]) => self.has(of),
            ("size", _, [of]) => self.function(at, Function::Size, of),
            ("int", false, [of]) => self.function(at, Function::Int, of),
            ("double", false, [of]) => self.function(at, Function::Double, of),
            ("string", false, [of]) => self.function(at, Function::String, of),
            ("timestamp", false, [of]) => self.function(at, Function::Timestamp, of),
            ("lowerAscii", true, [of]) => self.function(at, Function::LowerAscii, of),
            ("upperAscii", true, [of]) => self.function(at, Function::UpperAscii, of),
            ("contains", true, [of, what]) => self.text_test(TextTest::Contains, of, what),
            ("startsWith", true, [of, what]) => self.text_test(TextTest::StartsWith, of, what),
            ("endsWith", true, [of, what]) => self.text_test(TextTest::EndsWith, of, what),
            ("matches", _, [of, pattern]) => self.matches(of, pattern),
            ("all", true, [range, item, body]) => self.each(at, Each::All, range, item, body),
            ("exists", true, [range, item, body]) => self.each(at, Each::Exists, range, item, body),
            ("exists_one" | "existsOne", true, [range, item, body]) => self.each(at, Each::ExistsOne, range, item, body),
            ("filter", true, [range, item, body]) => self.each(at, Each::Filter, range, item, body),
            ("map", true, [range, item, body]) => self.each(at, Each::Map, range, item, body),
            _ => self.unknown_function(at, call),
        }
    }

    fn unknown_function<T>(&self, at: &IdedExpr, call: &CallExpr) -> Result<T, ConditionError> {
        const USES: [&str; 17] = [
            "has(facts.os.version)",
            "size(x)",
            "int(x)",
            "double(x)",
            "string(x)",
            "timestamp(\"2026-01-31T00:00:00Z\")",
            "x.lowerAscii()",
            "x.upperAscii()",
            "x.contains(\"part\")",
            "x.startsWith(\"part\")",
            "x.endsWith(\"part\")",
            "x.matches(\"pattern\")",
            "list.all(x, x == 1)",
            "list.exists(x, x == 1)",
            "list.exists_one(x, x == 1)",
            "list.filter(x, x > 1)",
            "list.map(x, x + 1)",
        ];
        let named = |text: &'static str| {
            let text = text.split_once('(').map_or(text, |(name, _)| name);
            text.rsplit('.').next().unwrap_or(text)
        };
        match USES.iter().find(|text| named(text) == call.func_name) {
            Some(text) => self.error(Kind::Type, at, format!("write it as {text}")),
            None => {
                let hint = did_you_mean(&call.func_name, USES.map(named));
                self.error(Kind::UnknownName, at, format!("there is no function {}{hint}", quoted(&call.func_name)))
            }
        }
    }

    /// The operator `name`, if it is one.
    fn operator(&mut self, at: &IdedExpr, name: &str, args: &[&IdedExpr]) -> Option<Checked> {
        let result = match (name, args) {
            (operators::LOGICAL_NOT, [of]) => self.bool(of).map(|of| (Node::Not(Box::new(of)), Type::Bool)),
            (operators::LOGICAL_AND, [left, right]) => self.two_bools(left, right, Node::And),
            (operators::LOGICAL_OR, [left, right]) => self.two_bools(left, right, Node::Or),
            (operators::CONDITIONAL, [test, yes, no]) => self.conditional(test, yes, no),
            (operators::INDEX, [of, index]) => self.index(at, of, index),
            (operators::NEGATE, [of]) => self.expression(of).and_then(|(node, ty)| match ty.is_number() {
                true => Ok((Node::Negate(Box::new(node)), ty)),
                false => self.error(Kind::Type, at, format!("- needs a number, and this is {ty}")),
            }),
            (operators::ADD, [left, right]) => self.arithmetic(at, Binary::Add, left, right),
            (operators::SUBSTRACT, [left, right]) => self.arithmetic(at, Binary::Subtract, left, right),
            (operators::MULTIPLY, [left, right]) => self.arithmetic(at, Binary::Multiply, left, right),
            (operators::DIVIDE, [left, right]) => self.arithmetic(at, Binary::Divide, left, right),
            (operators::MODULO, [left, right]) => self.arithmetic(at, Binary::Remainder, left, right),
            (operators::EQUALS, [left, right]) => self.comparison(at, Binary::Equal, left, right),
            (operators::NOT_EQUALS, [left, right]) => self.comparison(at, Binary::NotEqual, left, right),
            (operators::LESS, [left, right]) => self.comparison(at, Binary::Less, left, right),
            (operators::LESS_EQUALS, [left, right]) => self.comparison(at, Binary::LessEqual, left, right),
            (operators::GREATER, [left, right]) => self.comparison(at, Binary::Greater, left, right),
            (operators::GREATER_EQUALS, [left, right]) => self.comparison(at, Binary::GreaterEqual, left, right),
            (operators::IN, [left, right]) => self.within(at, left, right),
            _ => return None,
        };
        Some(result)
    }

    fn bool(&mut self, at: &IdedExpr) -> Result<Node, ConditionError> {
        match self.expression(at)? {
            (node, Type::Bool) => Ok(node),
            (_, ty) => self.error(Kind::Type, at, format!("this must be true or false, but it is {ty}")),
        }
    }

    fn two_bools(&mut self, left: &IdedExpr, right: &IdedExpr, node: fn(Box<Node>, Box<Node>) -> Node) -> Checked {
        let (left, right) = (self.bool(left)?, self.bool(right)?);
        Ok((node(Box::new(left), Box::new(right)), Type::Bool))
    }

    fn conditional(&mut self, test: &IdedExpr, yes: &IdedExpr, no: &IdedExpr) -> Checked {
        let test = self.bool(test)?;
        let ((yes, yes_type), (no_node, no_type)) = (self.expression(yes)?, self.expression(no)?);
        if yes_type != no_type {
            return self.error(Kind::Type, no, format!("both sides of the : are of one type, but these are {yes_type} and {no_type}"));
        }
        Ok((Node::If(Box::new((test, yes, no_node))), yes_type))
    }

    fn index(&mut self, at: &IdedExpr, of: &IdedExpr, index: &IdedExpr) -> Checked {
        let (of, ty) = self.expression(of)?;
        // A literal name is checked like one behind a dot.
        if let Expr::Literal(LiteralValue::String(name)) = &index.expr
            && matches!(ty, Type::Object(_) | Type::Map)
        {
            return self.member(self.parsed.offset(index.id), of, ty, name.inner());
        }
        let (index_node, index_type) = self.expression(index)?;
        match (ty, index_type) {
            (Type::List(item), Type::Int) => Ok((Node::At(Box::new(of), Box::new(index_node)), Type::clone(&item))),
            (Type::Map, Type::String) => Ok((Node::Key(Box::new(of), Box::new(index_node)), Type::String)),
            (Type::Object(_), _) => self.error(Kind::Unsupported, index, "a member of an object is named by a literal text"),
            (ty, index_type) => self.error(Kind::Type, at, format!("{ty} has no item that {index_type} names")),
        }
    }

    fn arithmetic(&mut self, at: &IdedExpr, operation: Binary, left: &IdedExpr, right: &IdedExpr) -> Checked {
        let ((left, left_type), (right, right_type)) = (self.expression(left)?, self.expression(right)?);
        let ty = match (&left_type, &right_type, operation) {
            (Type::Int, Type::Int, _) => Type::Int,
            (Type::Double, Type::Double, operation) if operation != Binary::Remainder => Type::Double,
            (Type::String, Type::String, Binary::Add) => Type::String,
            (Type::Int, Type::Double, _) | (Type::Double, Type::Int, _) => {
                return self.error(Kind::Type, at, "an int and a double don't go together; write double(…) around the int");
            }
            _ => return self.error(Kind::Type, at, format!("{left_type} and {right_type} can't be calculated with")),
        };
        Ok((Node::Binary(operation, Box::new(left), Box::new(right)), ty))
    }

    fn comparison(&mut self, at: &IdedExpr, operation: Binary, left: &IdedExpr, right: &IdedExpr) -> Checked {
        let ((left, left_type), (right, right_type)) = (self.expression(left)?, self.expression(right)?);
        let ordered = !matches!(operation, Binary::Equal | Binary::NotEqual);
        let fits = match (&left_type, &right_type) {
            (Type::Bool, Type::Bool) => !ordered,
            (Type::String, Type::String) | (Type::Timestamp, Type::Timestamp) => true,
            (left, right) => left.is_number() && right.is_number(),
        };
        if !fits {
            let hint = match (&left_type, &right_type) {
                (Type::List(_), _) | (_, Type::List(_)) => "; lists are looked into with in, all or exists",
                (Type::String, right) | (right, Type::String) if right.is_number() => "; int(…) makes a number of a text",
                (Type::String, Type::Timestamp) | (Type::Timestamp, Type::String) => "; write timestamp(\"2026-01-31T00:00:00Z\")",
                _ => "",
            };
            return self.error(Kind::Type, at, format!("{left_type} can't be compared with {right_type}{hint}"));
        }
        Ok((Node::Binary(operation, Box::new(left), Box::new(right)), Type::Bool))
    }

    fn within(&mut self, at: &IdedExpr, item: &IdedExpr, of: &IdedExpr) -> Checked {
        let ((item, item_type), (of, of_type)) = (self.expression(item)?, self.expression(of)?);
        let scalar = !matches!(item_type, Type::List(_) | Type::Map | Type::Object(_));
        match &of_type {
            Type::List(inner) if scalar && (**inner == item_type || (inner.is_number() && item_type.is_number())) => {}
            Type::Map if item_type == Type::String => {}
            Type::List(inner) => {
                return self.error(Kind::Type, at, format!("this is a list whose items are each {inner}, and it is asked for {item_type}"));
            }
            _ => return self.error(Kind::Type, at, format!("in needs a list or labels on its right, not {of_type}")),
        }
        Ok((Node::Binary(Binary::In, Box::new(item), Box::new(of)), Type::Bool))
    }

    fn has(&mut self, of: &IdedExpr) -> Checked {
        match self.expression(of)? {
            (Node::Member(member), _) => Ok((Node::Has(member), Type::Bool)),
            (Node::Client(_), _) => Ok((Node::Bool(true), Type::Bool)),
            _ => self.error(Kind::Type, of, "has() is asked for a member, as in has(facts.os.version)"),
        }
    }

    fn function(&mut self, at: &IdedExpr, function: Function, of: &IdedExpr) -> Checked {
        let (node, ty) = self.expression(of)?;
        let result = match (function, &ty) {
            (Function::Size, Type::String | Type::List(_) | Type::Map) => Type::Int,
            (Function::Int, Type::String | Type::Int | Type::Double) => Type::Int,
            (Function::Double, Type::String | Type::Int | Type::Double) => Type::Double,
            (Function::String, Type::String | Type::Int | Type::Double | Type::Bool | Type::Timestamp) => Type::String,
            (Function::Timestamp, Type::Timestamp) => return Ok((node, ty)),
            (Function::Timestamp, Type::String) => {
                // A moment that is written down is read once, and a mistake in it seen when the condition is saved.
                if let Node::String(text) = &node {
                    let Ok(time) = text.parse::<jiff::Timestamp>() else {
                        return self.error(Kind::Type, of, "a moment is written as in \"2026-01-31T00:00:00Z\"");
                    };
                    return Ok((Node::Timestamp(time), Type::Timestamp));
                }
                Type::Timestamp
            }
            (Function::LowerAscii | Function::UpperAscii, Type::String) => Type::String,
            _ => return self.error(Kind::Type, at, format!("this function doesn't take {ty}")),
        };
        Ok((Node::Call(function, Box::new(node)), result))
    }

    fn string(&mut self, at: &IdedExpr) -> Result<Node, ConditionError> {
        match self.expression(at)? {
            (node, Type::String) => Ok(node),
            (_, ty) => self.error(Kind::Type, at, format!("this must be a string, but it is {ty}")),
        }
    }

    fn text_test(&mut self, test: TextTest, of: &IdedExpr, what: &IdedExpr) -> Checked {
        let (of, what) = (self.string(of)?, self.string(what)?);
        Ok((Node::Text(test, Box::new(of), Box::new(what)), Type::Bool))
    }

    fn matches(&mut self, of: &IdedExpr, pattern: &IdedExpr) -> Checked {
        let of = self.string(of)?;
        let Expr::Literal(LiteralValue::String(text)) = &pattern.expr else {
            return self.error(Kind::Pattern, pattern, "the pattern of matches is a literal text");
        };
        let text = text.inner();
        if text.len() > limits::PATTERN_MAX {
            let message = format!("a pattern has at most {} bytes, this one has {}", limits::PATTERN_MAX, text.len());
            return self.error(Kind::Pattern, pattern, message);
        }
        let built = regex::RegexBuilder::new(text).size_limit(limits::PATTERN_COMPILED_MAX).nest_limit(limits::DEPTH_MAX as u32).build();
        let regex = match built {
            Ok(regex) => regex,
            Err(regex::Error::CompiledTooBig(_)) => {
                return self.error(Kind::Pattern, pattern, "this pattern repeats too much; use smaller counts");
            }
            Err(error) => {
                let shown = error.to_string();
                let reason = shown.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                return self.error(Kind::Pattern, pattern, format!("this is no pattern: {reason}"));
            }
        };
        // A counted repetition is what makes the machine large, and a large machine is slow on every byte.
        let steps_per_byte = if text.contains('{') { 64 } else { 4 };
        Ok((Node::Matches(Box::new(of), Pattern { regex, steps_per_byte }), Type::Bool))
    }

    fn each(&mut self, at: &IdedExpr, each: Each, range: &IdedExpr, item: &IdedExpr, body: &IdedExpr) -> Checked {
        if self.item.is_some() {
            return self.error(
                Kind::NestedComprehension,
                at,
                "all, exists, exists_one, filter and map can't stand inside one another; filter first, then ask",
            );
        }
        let (range_node, range_type) = self.expression(range)?;
        let item_type = match &range_type {
            Type::List(item) => Type::clone(item),
            Type::Map => Type::String,
            other => return self.error(Kind::Type, at, format!("this needs a list or labels, not {other}")),
        };
        let Expr::Ident(name) = &item.expr else {
            return self.error(Kind::Syntax, item, "a name for the item stands here, as in list.exists(x, x == 1)");
        };
        if Variable::ALL.iter().any(|v| v.name() == name) {
            return self.error(Kind::Syntax, item, format!("{name} is a variable already; give the item another name"));
        }
        self.item = Some((name.clone(), item_type));
        let result = self.expression(body);
        let item_type = self.item.take().map(|(_, ty)| ty);
        let (body_node, body_type) = result?;
        if each != Each::Map && body_type != Type::Bool {
            return self.error(Kind::Type, body, format!("this must be true or false, but it is {body_type}"));
        }
        let ty = match each {
            Each::All | Each::Exists | Each::ExistsOne => Type::Bool,
            Each::Filter => Type::list(item_type.unwrap_or(Type::String)),
            Each::Map => Type::list(body_type),
        };
        Ok((Node::Each(each, Box::new(range_node), Box::new(body_node)), ty))
    }
}

/// How a person would write `node`, as far as that is short.
pub(super) fn path(node: &Node) -> String {
    match node {
        Node::Variable(variable) => variable.name().to_owned(),
        Node::Client(field) => format!("client.{}", field.name()),
        Node::Item => "item".to_owned(),
        Node::Member(member) => member.path.clone(),
        Node::At(of, _) => format!("{}[…]", path(of)),
        _ => "(…)".to_owned(),
    }
}

fn path_or_this(node: &Node) -> String {
    match node {
        Node::Variable(_) | Node::Client(_) | Node::Item | Node::Member(_) => path(node),
        _ => "this".to_owned(),
    }
}

/// `; did you mean X?` for the one of `known` that is close to `name`.
fn did_you_mean<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let closest = known.into_iter().map(|known| (distance(name, known), known)).min();
    match closest {
        Some((distance, known)) if distance <= 2.max(known.len() / 4) && distance < known.len() => format!("; did you mean {known}?"),
        _ => String::new(),
    }
}

/// How many letters have to be changed, added or left out to make `right` of `left`.
fn distance(left: &str, right: &str) -> usize {
    // What is much longer than any name isn't close to one.
    if left.len() > 64 {
        return usize::MAX;
    }
    let right: Vec<char> = right.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (n, l) in left.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for (m, r) in right.iter().enumerate() {
            let changed = diagonal + usize::from(l != *r);
            diagonal = row[m + 1];
            row[m + 1] = changed.min(row[m] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
