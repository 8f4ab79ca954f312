//! The fields of a Debian package's `control`, and the relations in them.
//!
//! Sources: deb-control(5); Debian Policy 5.1 (syntax of control files) and 7.1 (syntax of relationship fields).

use super::Refused;
use std::collections::BTreeMap;
use sutler_base::{
    Version,
    manifest::{Manager, Requirement},
    quoted,
    version::{Range, Relation},
};

/// The fields by their names in lower case; the lines of a value that goes on are joined by line feeds.
#[derive(Debug, Default)]
pub(super) struct Control(BTreeMap<String, String>);

impl Control {
    pub(super) fn parse(bytes: &[u8]) -> Result<Control, Refused> {
        let refuse = |why: String| Refused { entry: Some("control".into()), why };
        let text = std::str::from_utf8(bytes).map_err(|_| refuse("is not UTF-8".into()))?;
        if let Some(bad) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            return Err(refuse(format!("has the character {}, which no field may have", bad.escape_default())));
        }
        let (mut fields, mut last) = (BTreeMap::new(), None::<String>);
        for (n, line) in text.trim_end_matches('\n').lines().enumerate() {
            if line.starts_with([' ', '\t']) {
                let value: &mut String = last
                    .as_ref()
                    .and_then(|name| fields.get_mut(name))
                    .ok_or_else(|| refuse(format!("line {} goes on with a field, but there is none", n + 1)))?;
                value.push('\n');
                value.push_str(line.trim());
                continue;
            }
            let field = line
                .split_once(':')
                .filter(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()) && !name.starts_with(['#', '-']));
            let Some((name, value)) = field else { return Err(refuse(format!("line {} is no field", n + 1))) };
            let name = name.to_ascii_lowercase();
            if fields.insert(name.clone(), value.trim().to_owned()).is_some() {
                return Err(refuse(format!("has the field {} twice", quoted(&name))));
            }
            last = Some(name);
        }
        Ok(Control(fields))
    }

    /// A field's value; none if it isn't there or is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A field that every package has, on one line.
    pub(super) fn need(&self, name: &'static str) -> Result<&str, Refused> {
        let refuse = |why: &str| Refused { entry: Some("control".into()), why: format!("{why} {name}") };
        let value = self.get(&name.to_ascii_lowercase()).ok_or_else(|| refuse("has no field"))?;
        if value.contains('\n') { Err(refuse("has more than one line in the field")) } else { Ok(value) }
    }

    /// The relations of a field, each with its alternatives.
    pub(super) fn relations(&self, name: &'static str) -> Result<Vec<Vec<Related>>, Refused> {
        let groups = self.get(name).unwrap_or_default().split(',').map(str::trim).filter(|group| !group.is_empty());
        groups.map(|group| group.split('|').map(|text| Related::parse(name, text.trim())).collect()).collect()
    }
}

/// One package that another one names, in some versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Related {
    pub(super) name: String,
    pub(super) versions: Range,
}

impl Related {
    fn parse(field: &str, text: &str) -> Result<Related, Refused> {
        let refuse = |why: &str| {
            let why = format!("the field {field} names {}, {why}", quoted(text));
            Refused { entry: Some("control".into()), why }
        };
        let (name, rest) = match text.split_once('(') {
            Some((name, rest)) => (name.trim(), Some(rest.strip_suffix(')').ok_or_else(|| refuse("which lacks a parenthesis"))?)),
            None => (text, None),
        };
        // Which architecture's package it is, dpkg asks when it installs; the list of the machine is asked by the name.
        let name = name.split_once(':').map_or(name, |(name, _)| name);
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
        if name.is_empty() || !name.as_bytes()[0].is_ascii_alphanumeric() || !name.bytes().all(plain) {
            return Err(refuse("which is no package's name"));
        }
        let versions = match rest {
            None => Range::any(),
            Some(bound) => {
                let signs = [
                    ("<<", Relation::Before),
                    ("<=", Relation::AtMost),
                    (">=", Relation::AtLeast),
                    (">>", Relation::After),
                    ("=", Relation::Exactly),
                    // As dpkg understands these old ones.
                    ("<", Relation::AtMost),
                    (">", Relation::AtLeast),
                ];
                let found = signs.iter().find_map(|(sign, relation)| Some((*relation, bound.trim().strip_prefix(sign)?)));
                let (relation, version) = found.ok_or_else(|| refuse("which has no relation to a version"))?;
                let version: Version = version.trim().parse().map_err(|_| refuse("which has no version that is one"))?;
                Range::of(relation, version)
            }
        };
        Ok(Related { name: name.to_owned(), versions })
    }

    /// The rule that it is there, or that it is not.
    pub(super) fn rule(self, absent: bool) -> Requirement {
        Requirement::Software { manager: Manager::Dpkg, name: self.name, versions: self.versions, absent }
    }
}
