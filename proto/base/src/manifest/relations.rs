//! How a package stands to others, and what whoever orders it may set: dependencies, what it supersedes, parameters.

use super::{Step, requirement::Found};
use crate::{
    Invalid, PackageName, ParameterName, Version, limits,
    pattern::Pattern,
    quoted,
    version::{Ordering, Range},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A package that has to be installed before this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Which.
    pub package: PackageName,
    /// In which versions, compared as that package's own are.
    #[serde(default, skip_serializing_if = "Range::is_any")]
    pub versions: Range,
}

/// A package whose place this one takes. Wherever the old one is depended on, this one will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supersedes {
    /// Which.
    pub package: PackageName,
    /// In which versions, compared as that package's own are.
    #[serde(default, skip_serializing_if = "Range::is_any")]
    pub versions: Range,
    /// Whether the old one is uninstalled first; else this one is installed over it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uninstall: bool,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.versions.is_any() {
            true => write!(f, "{}", self.package),
            false => write!(f, "{} {}", self.package, self.versions),
        }
    }
}

/// A package that is on a machine, or would be, by what decides how it stands to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Which.
    pub package: PackageName,
    /// In which version.
    pub version: Version,
    /// By whose rules its versions compare.
    pub ordering: Ordering,
    /// Whose place it takes.
    pub supersedes: Vec<Supersedes>,
}

impl Present {
    /// What somebody finds who looks for `name`: the package itself, or that it takes the place of what is called so.
    ///
    /// The versions of what it supersedes compare as its own do: nobody may have that package any more. It is not handed on: what
    /// takes the place of both of two packages names both.
    pub fn found_as(&self, name: &str) -> Option<Found> {
        let found = |instead| Found { version: Some(self.version.to_string()), ordering: self.ordering, instead };
        if self.package.as_str() == name {
            return Some(found(None));
        }
        let other = self.supersedes.iter().find(|other| other.package.as_str() == name)?;
        Some(found(Some((self.package.to_string(), other.versions.clone()))))
    }

    /// Whether nothing else is needed where this is depended on.
    pub fn meets(&self, dependency: &Dependency) -> bool {
        self.found_as(dependency.package.as_str()).is_some_and(|found| found.is_in(&dependency.versions))
    }

    /// How it takes the place of `other`; none if it does not.
    pub fn displaces(&self, other: &Present) -> Option<&Supersedes> {
        let is_meant = |s: &&Supersedes| s.package == other.package && s.versions.holds(other.version.as_str(), other.ordering);
        self.supersedes.iter().find(is_meant)
    }
}

/// A value that whoever orders the package may set, within what the publisher allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// What each value must match as a whole. A value begins with a dash only if the pattern does.
    pub pattern: Pattern,
    /// The value unless one is given; without it one must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl Parameter {
    /// Whether this value may be given; else why not.
    pub fn check(&self, name: &ParameterName, value: &str) -> Result<(), Invalid> {
        let fail = |why: String| Err(Invalid(format!("the value {} of the parameter {name} {why}", quoted(value))));
        if value.len() > limits::PARAMETER_VALUE_MAX {
            return fail(format!("has more than {} bytes", limits::PARAMETER_VALUE_MAX));
        }
        if value.chars().any(char::is_control) {
            return fail("has a control character".into());
        }
        if value.starts_with('-') && !self.pattern.allows_leading_dash() {
            return fail("begins with a dash, as options do, and the publisher's pattern does not".into());
        }
        if !self.pattern.fits(value) {
            return fail(format!("does not match the publisher's pattern {}", quoted(self.pattern.as_str())));
        }
        Ok(())
    }
}

/// The values of a package's parameters.
pub type Values = BTreeMap<ParameterName, String>;

/// Every parameter with its value: what is given, else its default. What is given and not declared, does not match, or lacks
/// is an error.
pub fn fill(parameters: &BTreeMap<ParameterName, Parameter>, given: &Values) -> Result<Values, Invalid> {
    if let Some(unknown) = given.keys().find(|name| !parameters.contains_key(*name)) {
        let known: Vec<_> = parameters.keys().map(ParameterName::as_str).collect();
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        return Err(Invalid(format!("the package has no parameter {unknown}; {known}")));
    }
    let mut values = Values::new();
    for (name, parameter) in parameters {
        match given.get(name).or(parameter.default.as_ref()) {
            Some(value) => {
                parameter.check(name, value)?;
                values.insert(name.clone(), value.clone());
            }
            None => return Err(Invalid(format!("the package's parameter {name} needs a value"))),
        }
    }
    Ok(values)
}

/// `text` with each `${NAME}` replaced by that parameter's value. Without any parameter the text stays as it is.
pub fn substitute(text: &str, values: &Values) -> Result<String, Invalid> {
    if values.is_empty() {
        return Ok(text.into());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let after = &rest[at + 2..];
        let end = after.find('}').ok_or_else(|| Invalid(format!("{} has a ${{ without its }}", quoted(text))))?;
        let name = &after[..end];
        let value = name.parse::<ParameterName>().ok().and_then(|name| values.get(&name));
        out.push_str(&rest[..at]);
        out.push_str(
            value.ok_or_else(|| Invalid(format!("{} names {}, which is no parameter of the package", quoted(text), quoted(name))))?,
        );
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

impl Step {
    /// The same step with the values of parameters in its arguments and its environment.
    pub fn filled(&self, values: &Values) -> Result<Step, Invalid> {
        let argv = self.argv.iter().map(|a| substitute(a, values)).collect::<Result<_, _>>()?;
        let environment =
            self.environment.iter().map(|(name, value)| Ok((name.clone(), substitute(value, values)?))).collect::<Result<_, _>>()?;
        Ok(Step { argv, environment, ..self.clone() })
    }
}

/// Every rule for parameters and for where they stand; the sentence of the first one that is broken.
pub(super) fn check_parameters(parameters: &BTreeMap<ParameterName, Parameter>, steps: &[Step]) -> Result<(), Invalid> {
    if parameters.len() > limits::PARAMETERS_MAX {
        return Err(Invalid(format!("a package has at most {} parameters, not {}", limits::PARAMETERS_MAX, parameters.len())));
    }
    for (name, parameter) in parameters {
        if parameter.description.len() > limits::DESCRIPTION_MAX {
            return Err(Invalid(format!("the description of the parameter {name} has at most {} bytes", limits::DESCRIPTION_MAX)));
        }
        if let Some(default) = &parameter.default {
            parameter.check(name, default).map_err(|e| Invalid(format!("{e}, and it is the default")))?;
        }
    }
    // The values don't matter here: only which names stand where.
    let values: Values = parameters.keys().map(|name| (name.clone(), String::new())).collect();
    for step in steps {
        if !values.is_empty() && step.argv.first().is_some_and(|program| program.contains("${")) {
            return Err(Invalid(format!("the program of step {} must not be a parameter's value", quoted(&step.name))));
        }
        step.filled(&values).map_err(|e| Invalid(format!("step {}: {e}", quoted(&step.name))))?;
    }
    Ok(())
}

/// Every rule for what a package named `name` says about others; the sentence of the first one that is broken.
pub(super) fn check_others(name: &PackageName, depends_on: &[Dependency], supersedes: &[Supersedes]) -> Result<(), Invalid> {
    let lists: [(&str, Vec<&PackageName>); 2] =
        [("depends on", depends_on.iter().map(|d| &d.package).collect()), ("supersedes", supersedes.iter().map(|s| &s.package).collect())];
    for (what, others) in &lists {
        if others.len() > limits::RELATIONS_MAX {
            return Err(Invalid(format!("a package {what} at most {} others, not {}", limits::RELATIONS_MAX, others.len())));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = others.iter().find(|other| !seen.insert(**other)) {
            return Err(Invalid(format!("the package {what} {twice} twice; give all bounds of its versions in one range")));
        }
        if others.contains(&name) {
            return Err(Invalid(format!("the package {what} itself")));
        }
    }
    match depends_on.iter().find(|d| supersedes.iter().any(|s| s.package == d.package)) {
        Some(both) => Err(Invalid(format!("the package depends on {} and supersedes it", both.package))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_the_place_of_another_does_where_that_one_is_depended_on_and_no_further() {
        let present = |package: &str, version: &str, supersedes: Vec<Supersedes>| Present {
            package: package.parse().unwrap(),
            version: version.parse().unwrap(),
            ordering: Ordering::default(),
            supersedes,
        };
        let supersedes =
            |versions: &str| Supersedes { package: "old".parse().unwrap(), versions: versions.parse().unwrap(), uninstall: false };
        let on = |package: &str, versions: &str| Dependency { package: package.parse().unwrap(), versions: versions.parse().unwrap() };
        let (old, new) = (present("old", "1.5", vec![]), present("new", "7.0", vec![supersedes("<3")]));
        assert!(old.meets(&on("old", ">=1, <2")) && !old.meets(&on("old", ">=2")) && !old.meets(&on("new", "any")));
        for (dependency, met) in [
            (on("new", ">=7"), true),
            (on("old", "any"), true),
            (on("old", ">=2"), true),
            // Its own version is not one of the old one's, and those from 3 on are something else.
            (on("old", ">=3"), false),
            (on("other", "any"), false),
        ] {
            assert_eq!(new.meets(&dependency), met, "{dependency}");
        }
        assert!(new.displaces(&old).is_some() && old.displaces(&new).is_none());
        assert!(new.displaces(&present("old", "3.0", vec![])).is_none());
    }

    fn parameter(pattern: &str, default: Option<&str>) -> Parameter {
        Parameter { pattern: pattern.parse().unwrap(), default: default.map(String::from), description: String::new() }
    }

    fn name(text: &str) -> ParameterName {
        text.parse().unwrap()
    }

    #[test]
    fn a_value_must_match_and_looks_like_an_option_only_where_the_publisher_said_so() {
        let port = parameter("[0-9]+", None);
        assert!(port.check(&name("port"), "80").is_ok());
        for bad in ["", "x", "80 ", "-80"] {
            assert!(port.check(&name("port"), bad).is_err(), "{bad:?}");
        }
        let free = parameter(".*", None);
        assert!(free.check(&name("x"), "--config=/tmp/evil").unwrap_err().0.contains("dash"));
        assert!(free.check(&name("x"), "a\nb").is_err());
        assert!(free.check(&name("x"), &"a".repeat(limits::PARAMETER_VALUE_MAX + 1)).is_err());
        assert!(parameter("-?[0-9]+", None).check(&name("x"), "-5").is_ok());
    }

    #[test]
    fn values_are_what_is_given_else_the_default_and_never_anything_undeclared() {
        let parameters = BTreeMap::from([(name("port"), parameter("[0-9]+", Some("80"))), (name("host"), parameter("[a-z]+", None))]);
        let given = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| (name(n), (*v).to_owned())).collect::<Values>();
        assert_eq!(fill(&parameters, &given(&[("host", "a")])).unwrap(), given(&[("host", "a"), ("port", "80")]));
        assert!(fill(&parameters, &given(&[])).unwrap_err().0.contains("host needs a value"));
        assert!(fill(&parameters, &given(&[("host", "a"), ("x", "1")])).unwrap_err().0.contains("has host, port"));
        assert!(fill(&parameters, &given(&[("host", "A")])).is_err());
    }

    #[test]
    fn what_a_value_says_is_not_filled_in_again() {
        let values: Values = [(name("a"), "${b}".to_owned()), (name("b"), "x".to_owned())].into();
        assert_eq!(substitute("--a=${a} ${b}$", &values).unwrap(), "--a=${b} x$");
        assert!(substitute("${c}", &values).is_err());
        assert!(substitute("${a", &values).is_err());
        assert_eq!(substitute("${HOME}", &Values::new()).unwrap(), "${HOME}");
    }
}
