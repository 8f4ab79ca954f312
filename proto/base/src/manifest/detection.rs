//! Detection: how to see on the machine that a package is there.

use super::{check_command, requirement::Manager};
use crate::{
    Digest, Invalid, limits,
    path::RelPath,
    pattern::Pattern,
    quoted,
    version::{Ordering, Range},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A question whose answer tells whether the package is installed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Detection {
    /// A file is there, and is what the rest of the rule says. A relative path is below the package's directory.
    File {
        /// Absolute on the client's root, or relative to the package's directory.
        path: String,
        /// The BLAKE3 digest that it must have.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blake3: Option<Digest>,
        /// The SHA-256 digest that it must have, as the software's maker published it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<Digest>,
        /// The version that its text must name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<VersionRule>,
    },
    /// A command ends with one of these exit codes and says this.
    Command {
        /// The program and its arguments; a relative program is below the package's directory. No shell is involved.
        argv: Vec<String>,
        /// Variables in addition to the few that every step gets.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        environment: BTreeMap<String, String>,
        /// The exit codes that mean *installed*; 0 unless given.
        #[serde(default = "zero")]
        exit_codes: Vec<i32>,
        /// What its output must contain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<String>,
        /// The version that its output must name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<VersionRule>,
        /// How long it may take (seconds).
        #[serde(default = "detection_seconds")]
        time_limit: u32,
    },
    /// The database of the machine's own package manager has it.
    Package {
        /// Whose database.
        manager: Manager,
        /// What the package is called there.
        name: String,
        /// In which versions.
        #[serde(default, skip_serializing_if = "Range::is_any")]
        versions: Range,
    },
    /// A service of the machine runs.
    Service {
        /// What it is called there, without a suffix.
        name: String,
    },
}

impl Detection {
    /// The rule that a file is there.
    pub fn file(path: impl Into<String>) -> Detection {
        Detection::File { path: path.into(), blake3: None, sha256: None, version: None }
    }

    /// The rule that a command ends with exit code 0.
    pub fn command(argv: Vec<String>) -> Detection {
        Detection::Command {
            argv,
            environment: BTreeMap::new(),
            exit_codes: zero(),
            output: None,
            version: None,
            time_limit: detection_seconds(),
        }
    }
}

/// A version that stands in a text, and which ones count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRule {
    /// Where it stands: the first group of this expression, or the whole match, at its first place.
    pub pattern: Pattern,
    /// Which ones count.
    pub versions: Range,
    /// By whose rules they compare.
    #[serde(default)]
    pub ordering: Ordering,
}

impl VersionRule {
    /// Whether `text` names a version that counts; else what it names.
    pub fn check(&self, text: &str) -> Result<(), String> {
        match self.pattern.find(text) {
            Some(version) if self.versions.holds(version, self.ordering) => Ok(()),
            Some(version) => Err(format!("has version {}, not {}", quoted(version), self.versions)),
            None => Err(format!("names no version where {} finds one", quoted(self.pattern.as_str()))),
        }
    }
}

fn zero() -> Vec<i32> {
    vec![0]
}

fn detection_seconds() -> u32 {
    limits::DETECTION_SECONDS_DEFAULT
}

/// Every rule for the detection rules of a package, which has a directory or not.
pub(super) fn check(rules: &[Detection], has_directory: bool) -> Result<(), Invalid> {
    let fail = |sentence: String| Err(Invalid(sentence));
    if rules.len() > limits::DETECTION_MAX {
        return fail(format!("a package has at most {} detection rules, not {}", limits::DETECTION_MAX, rules.len()));
    }
    for rule in rules {
        match rule {
            Detection::File { path, .. } => {
                if path.strip_prefix('/').unwrap_or(path).parse::<RelPath>().is_err() {
                    return fail(format!("the detection rule's path {} is not a normal path", quoted(path)));
                }
                if !path.starts_with('/') && !has_directory {
                    return fail(format!("the detection rule's path {} is relative, but the package has no directory", quoted(path)));
                }
            }
            Detection::Command { argv, environment, time_limit, .. } => {
                check_command("the detection rule", argv, environment, *time_limit)?;
                if !has_directory && !argv[0].starts_with('/') {
                    return fail(format!(
                        "the detection rule's program {} is relative, but the package has no directory",
                        quoted(&argv[0])
                    ));
                }
            }
            Detection::Package { manager: Manager::Sutler, name, .. } => {
                return fail(format!("{} can't be detected by Sutler's own record; name dpkg or rpm, or another rule", quoted(name)));
            }
            Detection::Package { name, .. } => check_software(name)?,
            Detection::Service { name } => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"@._:-".contains(&b);
                if name.is_empty() || name.len() > 128 || name.starts_with(['-', '.']) || !name.bytes().all(plain) {
                    return fail(format!("a service's name has 1 to 128 of a-z 0-9 @ . _ : and -, {} does not", quoted(name)));
                }
            }
        }
    }
    Ok(())
}

/// The name of a package of the machine's own package manager.
pub(super) fn check_software(name: &str) -> Result<(), Invalid> {
    // rpm's dependencies name files and capabilities such as `libc.so.6(GLIBC_2.34)(64bit)`, too.
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '`' | '$' | ';' | '&' | '|' | '<' | '>');
    if name.is_empty() || name.len() > 255 || name.starts_with('-') || !name.chars().all(plain) {
        return Err(Invalid(format!("the name of software has 1 to 255 plain characters and no leading dash, {} does not", quoted(name))));
    }
    Ok(())
}
