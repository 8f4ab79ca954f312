//! Reads names on the command line: `new-clients` or `groups/new-clients`, as people type or paste them.

use sutler_base::{
    ClientId, GroupName, Invalid, JobAlias, JobId, LabelKey, OperatorName, PackageName, ParameterName, PolicyName, QuestionName, TokenId,
    Uid, Version, WindowName, limits, quoted,
};

/// The resource name for a text with or without its collection.
fn resource<T: std::str::FromStr<Err = Invalid>>(collection: &str, text: &str) -> Result<String, String> {
    let id = text.strip_prefix(collection).and_then(|rest| rest.strip_prefix('/')).unwrap_or(text);
    id.parse::<T>().map_err(|e| e.0)?;
    Ok(format!("{collection}/{id}"))
}

/// `groups/NAME`
pub fn group(text: &str) -> Result<String, String> {
    resource::<GroupName>("groups", text)
}

/// `policies/NAME`
pub fn policy(text: &str) -> Result<String, String> {
    resource::<PolicyName>("policies", text)
}

/// `operators/NAME`
pub fn operator(text: &str) -> Result<String, String> {
    resource::<OperatorName>("operators", text)
}

/// `questions/NAME`
pub fn question(text: &str) -> Result<String, String> {
    resource::<QuestionName>("questions", text)
}

/// `windows/NAME`
pub fn window(text: &str) -> Result<String, String> {
    resource::<WindowName>("windows", text)
}

/// `transferLimits/ID`
pub fn transfer_limit(text: &str) -> Result<String, String> {
    resource::<Uid>("transferLimits", text).map_err(|e| format!("{e}; `sutler transfer limit list` shows the ids"))
}

/// `breakers/ID`
pub fn breaker(text: &str) -> Result<String, String> {
    resource::<Uid>("breakers", text).map_err(|e| format!("{e}; `sutler breaker list` shows the ids"))
}

/// `clients/ID`
pub fn client(text: &str) -> Result<String, String> {
    resource::<ClientId>("clients", text).map_err(|e| format!("{e}; `sutler client list` shows the ids"))
}

/// `jobs/ID` or `jobs/ALIAS`
pub fn job(text: &str) -> Result<String, String> {
    resource::<JobId>("jobs", text).or_else(|_| resource::<JobAlias>("jobs", text)).map_err(|_| {
        format!(
            "a job is named by its id, 10 characters of 0-9 a-z without i l o u, or by its alias, 1 to 63 of a-z 0-9 and -, not {}",
            quoted(text)
        )
    })
}

/// An alias of a job, as it is.
pub fn alias(text: &str) -> Result<String, String> {
    text.parse::<JobAlias>().map(|alias| alias.to_string()).map_err(|e| e.0)
}

/// `tokens/ID`
pub fn token(text: &str) -> Result<String, String> {
    resource::<TokenId>("tokens", text)
}

/// `approvals/ID`
pub fn approval(text: &str) -> Result<String, String> {
    resource::<Uid>("approvals", text).map_err(|e| format!("{e}; `sutler approval list` shows the ids"))
}

/// `plans/ID`
pub fn plan(text: &str) -> Result<String, String> {
    resource::<Uid>("plans", text).map_err(|e| format!("{e}; `sutler job plan` prints the id"))
}

/// `packages/NAME`, or `packages/NAME/versions/VERSION` for `NAME@VERSION`; `latest` is a version here.
pub fn package(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("packages/").unwrap_or(text);
    let (name, version) = match rest.split_once('@').or_else(|| rest.split_once("/versions/")) {
        Some((name, version)) => (name, Some(version)),
        None => (rest, None),
    };
    name.parse::<PackageName>().map_err(|e| e.0)?;
    match version {
        None => Ok(format!("packages/{name}")),
        Some(version) => {
            if version != "latest" {
                version.parse::<Version>().map_err(|e| e.0)?;
            }
            Ok(format!("packages/{name}/versions/{version}"))
        }
    }
}

/// `packages/NAME/versions/VERSION`: one version, and not whichever is the newest.
pub fn package_version(text: &str) -> Result<String, String> {
    let name = package(text)?;
    match name.rsplit_once("/versions/") {
        Some((_, version)) if version != "latest" => Ok(name),
        _ => Err("name one version: NAME@VERSION".to_owned()),
    }
}

/// `packages/NAME` and nothing more.
pub fn package_alone(text: &str) -> Result<String, String> {
    let name = package(text)?;
    if name.contains("/versions/") { Err("name the package without a version".to_owned()) } else { Ok(name) }
}

/// A label to set: `KEY=VALUE`.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("a label is KEY=VALUE, not {}", quoted(text)))?;
    label_key(key)?;
    if value.len() > limits::LABEL_VALUE_MAX {
        return Err(format!("a label's value has at most {} bytes", limits::LABEL_VALUE_MAX));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A label's key.
pub fn label_key(text: &str) -> Result<String, String> {
    text.parse::<LabelKey>().map(|key| key.as_str().to_owned()).map_err(|e| e.0)
}

/// A value for a parameter of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which package's; the only one of the order unless named.
    pub package: Option<String>,
    /// The parameter.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A parameter to set: `NAME=VALUE` or `PACKAGE:NAME=VALUE`.
pub fn setting(text: &str) -> Result<Setting, String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("a value is given as NAME=VALUE, not {}", quoted(text)))?;
    let (package, name) = key.rsplit_once(':').map_or((None, key), |(package, name)| (Some(package), name));
    if let Some(package) = package {
        package.parse::<PackageName>().map_err(|e| e.0)?;
    }
    name.parse::<ParameterName>().map_err(|e| e.0)?;
    Ok(Setting { package: package.map(String::from), name: name.into(), value: value.into() })
}

/// What people call it: the name without its collection.
pub fn short(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, id)| id)
}

/// A package as it is written on the command line: `clamav` or `clamav@1.0.7`.
pub fn package_word(name: &str) -> String {
    short(name).replace("/versions/", "@")
}

/// What an operator, token or policy is called where its collection is obvious.
pub fn words(names: &[String]) -> String {
    names.iter().map(|n| short(n)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_with_or_without_its_collection() {
        assert_eq!(group("new-clients").unwrap(), "groups/new-clients");
        assert_eq!(group("groups/new-clients").unwrap(), "groups/new-clients");
        assert!(group("policies/new-clients").is_err());
        assert!(group("../x").is_err());
        assert_eq!(package("clamav").unwrap(), "packages/clamav");
        assert_eq!(package("clamav@1:1.0.7~x").unwrap(), "packages/clamav/versions/1:1.0.7~x");
        assert_eq!(package("clamav@latest").unwrap(), "packages/clamav/versions/latest");
        assert_eq!(package("packages/clamav/versions/1").unwrap(), "packages/clamav/versions/1");
        assert_eq!(package_word("packages/clamav/versions/1"), "clamav@1");
        assert!(package_alone("clamav@1").is_err());
        assert_eq!(package_version("clamav@1").unwrap(), "packages/clamav/versions/1");
        assert!(package_version("clamav").is_err() && package_version("clamav@latest").is_err());
        assert!(package("clamav@../..").is_err());
    }

    #[test]
    fn a_setting_names_its_package_where_it_must() {
        let read = |text: &str| setting(text).map(|s| (s.package, s.name, s.value));
        assert_eq!(read("port=80=x").unwrap(), (None, "port".into(), "80=x".into()));
        assert_eq!(read("web.server:port=").unwrap(), (Some("web.server".into()), "port".into(), String::new()));
        for bad in ["port", "Port=1", ":port=1", "a b:port=1", "-x=1"] {
            assert!(setting(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_has_a_key_and_a_value() {
        assert_eq!(label("site=a=b").unwrap(), ("site".to_owned(), "a=b".to_owned()));
        assert!(label("site").is_err());
        assert!(label("=x").is_err());
    }
}
