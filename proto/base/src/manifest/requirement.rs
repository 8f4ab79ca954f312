//! Requirements: what a machine must be and have before a package is fetched, and again before it is installed.
//!
//! The rules are signed with the manifest. Whoever answers for a machine implements [`Machine`]: the agent measures, the
//! manager looks at the last facts. One function decides for both, so that a plan says what will happen.

use super::detection::check_software;
use crate::{
    Invalid, limits,
    path::InstallPath,
    pattern::Pattern,
    quoted,
    version::{Ordering, Range},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Who keeps a list of what is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// Debian's dpkg.
    Dpkg,
    /// rpm.
    Rpm,
    /// Sutler's agent.
    Sutler,
}

impl Manager {
    /// Every manager with its word.
    pub const ALL: [(&'static str, Manager); 3] = [("dpkg", Manager::Dpkg), ("rpm", Manager::Rpm), ("sutler", Manager::Sutler)];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Manager::Dpkg => "dpkg",
            Manager::Rpm => "rpm",
            Manager::Sutler => "sutler",
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that must hold on a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Requirement {
    /// All of these.
    All {
        /// At least one.
        of: Vec<Requirement>,
    },
    /// One of these.
    Any {
        /// At least one.
        of: Vec<Requirement>,
    },
    /// The operating system.
    Os {
        /// Its id, as in `facts.os.id`, is one of these.
        ids: Vec<String>,
        /// Its version, as in `facts.os.version`, compared as dpkg does.
        #[serde(default, skip_serializing_if = "Range::is_any")]
        versions: Range,
    },
    /// The processor's architecture, as in `facts.arch`.
    Arch {
        /// One of these.
        any_of: Vec<String>,
    },
    /// Memory.
    Memory {
        /// So much of it in all (bytes).
        at_least: u64,
    },
    /// Free room.
    FreeDisk {
        /// So much of it (bytes), beside the reserve that the agent keeps.
        at_least: u64,
        /// On the disk that this folder is on, or will be; the package's directory unless given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<InstallPath>,
    },
    /// A package manager that works on the machine.
    PackageManager {
        /// Which.
        manager: Manager,
    },
    /// Installed software.
    Software {
        /// Who lists it.
        manager: Manager,
        /// What it is called there, or what it says that it provides.
        name: String,
        /// In which versions, compared as its manager does.
        #[serde(default, skip_serializing_if = "Range::is_any")]
        versions: Range,
        /// It must *not* be there, in these versions.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        absent: bool,
    },
    /// A fact, with everything that is said here about it.
    Fact {
        /// Its path below `facts`, such as `cpu.count` or `own.site`.
        fact: String,
        /// Its value is one of these.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        one_of: Vec<Scalar>,
        /// Its value is a number and at least this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_least: Option<i64>,
        /// Its value is a number and at most this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_most: Option<i64>,
        /// Its value is a text and matches as a whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        matches: Option<Pattern>,
    },
}

/// A plain value of a fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// True or false.
    Truth(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
}

impl Scalar {
    /// Whether a fact has this value, as itself or written as a text.
    fn is(&self, value: &serde_json::Value) -> bool {
        match self {
            Scalar::Truth(truth) => value.as_bool() == Some(*truth) || value.as_str() == Some(if *truth { "true" } else { "false" }),
            Scalar::Number(number) => value.as_i64() == Some(*number) || value.as_str() == Some(&number.to_string()),
            Scalar::Text(text) => value.as_str() == Some(text),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Truth(truth) => write!(f, "{truth}"),
            Scalar::Number(number) => write!(f, "{number}"),
            Scalar::Text(text) => f.write_str(&quoted(text)),
        }
    }
}

/// Something installed, as a [`Machine`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its version; none of what is only provided, without one.
    pub version: Option<String>,
    /// By whose rules it compares.
    pub ordering: Ordering,
    /// It is not that itself, but something that takes its place: what that is called, and in which versions it does.
    pub instead: Option<(String, Range)>,
}

impl Found {
    /// Something that is found under its own name, or says that it provides what is looked for.
    pub fn itself(version: Option<String>, ordering: Ordering) -> Found {
        Found { version, ordering, instead: None }
    }

    /// Whether it will do where these versions are wanted.
    pub fn is_in(&self, versions: &Range) -> bool {
        match (&self.instead, &self.version) {
            (Some((_, of)), _) => of.overlaps(versions, self.ordering),
            (None, Some(version)) => versions.holds(version, self.ordering),
            (None, None) => versions.is_any(),
        }
    }

    fn said(&self) -> String {
        let version = self.version.as_deref().map_or_else(|| "without a version".into(), shown);
        match &self.instead {
            Some((name, _)) => format!("replaced by {} {version}", shown(name)),
            None => version,
        }
    }
}

/// What is asked of a machine. An error says in one sentence why nobody can tell.
pub trait Machine {
    /// The operating system's id and version.
    fn os(&self) -> Result<(String, String), String>;
    /// The processor's architecture.
    fn arch(&self) -> Result<String, String>;
    /// All memory (bytes).
    fn memory(&self) -> Result<u64, String>;
    /// What is free (bytes) where this folder is or will be; of the package's own directory if none is named.
    fn free_disk(&self, path: Option<&InstallPath>) -> Result<u64, String>;
    /// Whether this manager works here.
    fn has(&self, manager: Manager) -> Result<bool, String>;
    /// Everything that is installed or provided under this name.
    fn installed(&self, manager: Manager, name: &str) -> Result<Vec<Found>, String>;
    /// The fact at this path; none if there is no such fact.
    fn fact(&self, path: &str) -> Result<Option<serde_json::Value>, String>;
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Met,
    /// It does not.
    NotMet {
        /// What was wanted.
        wanted: String,
        /// What was found.
        found: String,
    },
    /// Nobody can tell: why.
    Unknown(String),
}

/// Whether all requirements hold; else the first one that does not, or that nobody can tell of.
pub fn ask(requirements: &[Requirement], machine: &dyn Machine) -> Verdict {
    requirements.iter().map(|r| r.ask(machine)).find(|v| *v != Verdict::Met).unwrap_or(Verdict::Met)
}

impl Requirement {
    /// Whether it holds on this machine.
    pub fn ask(&self, machine: &dyn Machine) -> Verdict {
        let decided = match self {
            Requirement::All { of } => return ask(of, machine),
            Requirement::Any { of } => return self.any(of, machine),
            Requirement::Os { ids, versions } => machine.os().map(|(id, version)| {
                let holds = ids.contains(&id) && versions.holds(&version, Ordering::Dpkg);
                (holds, format!("{} {}", shown(&id), shown(&version)))
            }),
            Requirement::Arch { any_of } => machine.arch().map(|arch| (any_of.contains(&arch), shown(&arch))),
            Requirement::Memory { at_least } => machine.memory().map(|bytes| (bytes >= *at_least, size(bytes))),
            Requirement::FreeDisk { at_least, path } => {
                machine.free_disk(path.as_ref()).map(|bytes| (bytes >= *at_least, format!("{} free", size(bytes))))
            }
            Requirement::PackageManager { manager } => machine.has(*manager).map(|has| (has, format!("no {manager} on this machine"))),
            Requirement::Software { manager, name, versions, absent } => machine.installed(*manager, name).map(|all| {
                // What takes the place of something is not in the way where that has to be absent.
                let counts = |found: &&Found| !*absent || found.instead.is_none();
                let there: Vec<_> = all.iter().filter(counts).map(Found::said).collect();
                let found = if there.is_empty() { "not installed".to_owned() } else { format!("{name} {}", there.join(", ")) };
                (all.iter().filter(counts).any(|found| found.is_in(versions)) != *absent, found)
            }),
            Requirement::Fact { fact, one_of, at_least, at_most, matches } => machine.fact(fact).map(|value| {
                let Some(value) = value else { return (false, "no such fact".to_owned()) };
                // A machine's own facts are texts, also those that are numbers or flags.
                let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
                let one = one_of.is_empty() || one_of.iter().any(|scalar| scalar.is(&value));
                let least = at_least.is_none_or(|least| number.is_some_and(|n| n >= least));
                let most = at_most.is_none_or(|most| number.is_some_and(|n| n <= most));
                let text = matches.as_ref().is_none_or(|pattern| value.as_str().is_some_and(|text| pattern.fits(text)));
                (one && least && most && text, quoted(value.as_str().map_or_else(|| value.to_string(), String::from).as_str()))
            }),
        };
        match decided {
            Ok((true, _)) => Verdict::Met,
            Ok((false, found)) => Verdict::NotMet { wanted: self.to_string(), found },
            Err(why) => Verdict::Unknown(format!("{self}: {why}")),
        }
    }

    fn any(&self, of: &[Requirement], machine: &dyn Machine) -> Verdict {
        let (mut all_found, mut unknown) = (Vec::new(), None);
        for one in of {
            match one.ask(machine) {
                Verdict::Met => return Verdict::Met,
                Verdict::NotMet { found, .. } if !all_found.contains(&found) => all_found.push(found),
                Verdict::NotMet { .. } => {}
                Verdict::Unknown(why) => unknown = Some(why),
            }
        }
        match unknown {
            Some(why) => Verdict::Unknown(why),
            None => Verdict::NotMet { wanted: self.to_string(), found: all_found.join("; ") },
        }
    }

    /// How many rules it is, itself included, and how deep they are nested.
    fn extent(&self) -> (usize, usize) {
        match self {
            Requirement::All { of } | Requirement::Any { of } => {
                of.iter().map(Requirement::extent).fold((1, 1), |(n, deep), (m, below)| (n + m, deep.max(below + 1)))
            }
            _ => (1, 1),
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        let fail = |sentence: String| Err(Invalid(sentence));
        let word = |what: &str, text: &str| match text {
            "" => fail(format!("a requirement names an empty {what}")),
            text if text.len() > 64 || text.chars().any(crate::is_harmful) => {
                fail(format!("a requirement's {what} has at most 64 printable characters, {} does not", quoted(text)))
            }
            _ => Ok(()),
        };
        match self {
            Requirement::All { of } | Requirement::Any { of } => {
                if of.is_empty() {
                    return fail("a requirement of \"all\" or \"any\" names at least one other".into());
                }
                of.iter().try_for_each(Requirement::check)
            }
            Requirement::Os { ids: words, .. } | Requirement::Arch { any_of: words } => {
                if words.is_empty() || words.len() > 64 {
                    return fail("a requirement of an operating system or an architecture names 1 to 64 of them".into());
                }
                words.iter().try_for_each(|w| word("system or architecture", w))
            }
            Requirement::Memory { .. } | Requirement::FreeDisk { .. } => Ok(()),
            Requirement::PackageManager { manager: Manager::Sutler } => fail("Sutler is on every machine that has an agent".into()),
            Requirement::PackageManager { .. } => Ok(()),
            Requirement::Software { name, .. } => check_software(name),
            Requirement::Fact { fact, one_of, at_least, at_most, matches } => {
                word("fact", fact)?;
                if one_of.len() > 64 || one_of.iter().any(|s| matches!(s, Scalar::Text(t) if t.len() > 255)) {
                    return fail(format!("the requirement of the fact {} names at most 64 values of at most 255 bytes", quoted(fact)));
                }
                if one_of.is_empty() && at_least.is_none() && at_most.is_none() && matches.is_none() {
                    return fail(format!("the requirement of the fact {} says nothing about it", quoted(fact)));
                }
                Ok(())
            }
        }
    }
}

/// Every rule for the requirements of a package, or of a job; the sentence of the first one that is broken.
pub fn check(requirements: &[Requirement]) -> Result<(), Invalid> {
    let (rules, depth) = requirements.iter().map(Requirement::extent).fold((0, 0), |(n, deep), (m, below)| (n + m, deep.max(below)));
    if rules > limits::REQUIREMENTS_MAX || depth > limits::REQUIREMENTS_DEPTH_MAX {
        return Err(Invalid(format!(
            "there are at most {} requirements, nested at most {} deep, not {rules} and {depth}",
            limits::REQUIREMENTS_MAX,
            limits::REQUIREMENTS_DEPTH_MAX
        )));
    }
    requirements.iter().try_for_each(Requirement::check)
}

/// Requirements from JSON, as a manifest has them, with every rule for them; at most [`limits::TERMS_MAX`] bytes.
pub fn from_json(json: &[u8]) -> Result<Vec<Requirement>, Invalid> {
    if json.len() > limits::TERMS_MAX {
        return Err(Invalid(format!("requirements have at most {} bytes, not {}", limits::TERMS_MAX, json.len())));
    }
    let requirements: Vec<Requirement> =
        serde_json::from_slice(json).map_err(|e| Invalid(format!("not a JSON array of requirements, as a manifest has them: {e}")))?;
    check(&requirements)?;
    Ok(requirements)
}

/// A text of a machine, as it may be shown.
fn shown(text: &str) -> String {
    if !text.is_empty() && text.len() <= 80 && text.bytes().all(|b| b.is_ascii_graphic()) { text.into() } else { quoted(text) }
}

/// A size for people.
fn size(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor {
            return format!("{:.1} {unit}", bytes as f64 / factor as f64);
        }
    }
    format!("{bytes} B")
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranged = |range: &Range| if range.is_any() { String::new() } else { format!(" {range}") };
        let joined = |of: &[Requirement], word: &str| {
            let of: Vec<_> =
                of.iter().map(|r| if matches!(r, Requirement::All { .. }) { format!("({r})") } else { r.to_string() }).collect();
            of.join(word)
        };
        match self {
            Requirement::All { of } => f.write_str(&joined(of, " and ")),
            Requirement::Any { of } => f.write_str(&joined(of, " or ")),
            Requirement::Os { ids, versions } => write!(f, "{}{}", ids.join(" or "), ranged(versions)),
            Requirement::Arch { any_of } => f.write_str(&any_of.join(" or ")),
            Requirement::Memory { at_least } => write!(f, "{} of memory", size(*at_least)),
            Requirement::FreeDisk { at_least, path: Some(path) } => write!(f, "{} free for {path}", size(*at_least)),
            Requirement::FreeDisk { at_least, path: None } => write!(f, "{} free", size(*at_least)),
            Requirement::PackageManager { manager } => write!(f, "{manager}"),
            Requirement::Software { manager, name, versions, absent: false } => write!(f, "{name}{} of {manager}", ranged(versions)),
            Requirement::Software { manager, name, versions, absent: true } => write!(f, "no {name}{} of {manager}", ranged(versions)),
            Requirement::Fact { fact, one_of, at_least, at_most, matches } => {
                let mut parts = Vec::new();
                if !one_of.is_empty() {
                    parts.push(one_of.iter().map(Scalar::to_string).collect::<Vec<_>>().join(" or "));
                }
                parts.extend(at_least.map(|n| format!("at least {n}")));
                parts.extend(at_most.map(|n| format!("at most {n}")));
                parts.extend(matches.iter().map(|p| format!("like {}", quoted(p.as_str()))));
                write!(f, "{fact} {}", parts.join(" and "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A Debian machine with a few things on it.
    struct Debian;

    impl Machine for Debian {
        fn os(&self) -> Result<(String, String), String> {
            Ok(("debian".into(), "12".into()))
        }
        fn arch(&self) -> Result<String, String> {
            Ok("x86_64".into())
        }
        fn memory(&self) -> Result<u64, String> {
            Ok(4 << 30)
        }
        fn free_disk(&self, _: Option<&InstallPath>) -> Result<u64, String> {
            Err("the disk does not answer".into())
        }
        fn has(&self, manager: Manager) -> Result<bool, String> {
            Ok(manager == Manager::Dpkg)
        }
        fn installed(&self, _: Manager, name: &str) -> Result<Vec<Found>, String> {
            let found = |version: Option<&str>| Found::itself(version.map(String::from), Ordering::Dpkg);
            Ok(match name {
                "libc6" => vec![found(Some("2.36-9+deb12u10"))],
                "mail-transport-agent" => vec![found(None)],
                _ => vec![],
            })
        }
        fn fact(&self, path: &str) -> Result<Option<serde_json::Value>, String> {
            Ok(json!({"cpu.count": 4, "own.site": "berlin", "own.slots": "4", "own.leased": "true"}).get(path).cloned())
        }
    }

    fn ask_json(json: serde_json::Value) -> Verdict {
        let requirement: Requirement = serde_json::from_value(json).unwrap();
        check(std::slice::from_ref(&requirement)).unwrap();
        requirement.ask(&Debian)
    }

    #[test]
    fn a_requirement_that_fails_says_what_was_wanted_and_what_was_found() {
        for (json, wanted, found) in [
            (json!({"type": "os", "ids": ["debian", "ubuntu"], "versions": ">=13"}), "debian or ubuntu >=13", "debian 12"),
            (json!({"type": "arch", "any_of": ["aarch64"]}), "aarch64", "x86_64"),
            (json!({"type": "memory", "at_least": 8u64 << 30}), "8.0 GiB of memory", "4.0 GiB"),
            (json!({"type": "package_manager", "manager": "rpm"}), "rpm", "no rpm on this machine"),
            (
                json!({"type": "software", "manager": "dpkg", "name": "libc6", "versions": ">=2.40"}),
                "libc6 >=2.40 of dpkg",
                "libc6 2.36-9+deb12u10",
            ),
            (json!({"type": "software", "manager": "dpkg", "name": "x"}), "x of dpkg", "not installed"),
            (json!({"type": "software", "manager": "dpkg", "name": "libc6", "absent": true}), "no libc6 of dpkg", "libc6 2.36-9+deb12u10"),
            (
                json!({"type": "software", "manager": "dpkg", "name": "mail-transport-agent", "versions": ">=1"}),
                "mail-transport-agent >=1 of dpkg",
                "mail-transport-agent without a version",
            ),
            (json!({"type": "fact", "fact": "cpu.count", "at_least": 8}), "cpu.count at least 8", "\"4\""),
            (json!({"type": "fact", "fact": "own.site", "one_of": ["paris"]}), "own.site \"paris\"", "\"berlin\""),
            (json!({"type": "fact", "fact": "own.x", "matches": "a"}), "own.x like \"a\"", "no such fact"),
            (
                json!({"type": "any", "of": [{"type": "arch", "any_of": ["mips"]}, {"type": "package_manager", "manager": "rpm"}]}),
                "mips or rpm",
                "x86_64; no rpm on this machine",
            ),
        ] {
            assert_eq!(ask_json(json), Verdict::NotMet { wanted: wanted.into(), found: found.into() });
        }
    }

    #[test]
    fn a_requirement_that_holds_is_met_and_one_that_nobody_can_answer_is_neither() {
        for json in [
            json!({"type": "os", "ids": ["debian"], "versions": ">=11, <13"}),
            json!({"type": "software", "manager": "dpkg", "name": "libc6", "versions": ">=2.36"}),
            json!({"type": "software", "manager": "dpkg", "name": "mail-transport-agent"}),
            json!({"type": "software", "manager": "dpkg", "name": "libc6", "versions": ">=3", "absent": true}),
            json!({"type": "fact", "fact": "cpu.count", "one_of": [4, 8], "at_most": 4}),
            json!({"type": "fact", "fact": "own.site", "matches": "ber.*"}),
            json!({"type": "fact", "fact": "own.slots", "at_least": 3, "at_most": 4, "one_of": [4]}),
            json!({"type": "fact", "fact": "own.leased", "one_of": [true]}),
            json!({"type": "any", "of": [{"type": "free_disk", "at_least": 1}, {"type": "package_manager", "manager": "dpkg"}]}),
        ] {
            assert_eq!(ask_json(json), Verdict::Met);
        }
        assert!(matches!(ask_json(json!({"type": "free_disk", "at_least": 1})), Verdict::Unknown(why) if why.contains("does not answer")));
        let any = json!({"type": "any", "of": [{"type": "arch", "any_of": ["mips"]}, {"type": "free_disk", "at_least": 1}]});
        assert!(matches!(ask_json(any), Verdict::Unknown(_)));
    }

    #[test]
    fn too_many_too_deep_and_empty_ones_are_refused() {
        let leaf = Requirement::Memory { at_least: 1 };
        let mut deep = leaf.clone();
        for _ in 0..limits::REQUIREMENTS_DEPTH_MAX {
            deep = Requirement::All { of: vec![deep] };
        }
        assert!(check(&[deep]).is_err());
        assert!(check(&vec![leaf; limits::REQUIREMENTS_MAX + 1]).is_err());
        for bad in [
            json!({"type": "any", "of": []}),
            json!({"type": "os", "ids": []}),
            json!({"type": "fact", "fact": "x"}),
            json!({"type": "software", "manager": "dpkg", "name": "-x"}),
            json!({"type": "package_manager", "manager": "sutler"}),
        ] {
            assert!(check(&[serde_json::from_value(bad.clone()).unwrap()]).is_err(), "{bad}");
        }
    }
}
