//! Facts: what an agent measured about its machine. Untrusted: the client says so.

use crate::{Invalid, limits, told};
use serde::{Deserialize, Serialize};

/// The facts of one client.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The operating system.
    pub os: Os,
    /// The processor's architecture as Rust names it: `x86_64`, `aarch64`.
    pub arch: String,
    /// What the machine calls itself.
    pub hostname: String,
    /// Memory.
    pub memory: Memory,
    /// The disk that software is installed on.
    pub disk: Disk,
    /// Processors.
    pub cpu: Cpu,
    /// Addresses of its network interfaces, loopback left out.
    pub addresses: Vec<String>,
    /// Tells machines apart, also those that were cloned from one image and then started.
    pub machine_id: String,
    /// Changes with every start of the machine.
    pub boot_id: String,
    /// The agent itself.
    pub agent: AgentFacts,
    /// Software that the agent installed.
    pub software: Vec<Software>,
}

/// The operating system.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Os {
    /// `linux`, `windows`, `macos` …
    pub family: String,
    /// The distribution's id: `debian`, `rhel` …
    pub id: String,
    /// The distribution's name.
    pub name: String,
    /// The distribution's version.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
}

/// Memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// All of it (bytes).
    pub total_bytes: u64,
}

/// The disk that software is installed on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Its size (bytes).
    pub total_bytes: u64,
    /// What is free (bytes), rounded down to a GiB so that a busy disk is no new fact every minute.
    pub free_bytes: u64,
}

/// Processors.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// How many the system shows.
    pub count: u32,
}

/// The agent itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentFacts {
    /// Its version.
    pub version: String,
}

/// One installed piece of software.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Software {
    /// Its package's name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What kind of value a fact is, for whoever checks a condition before there is a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactKind {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// A list of texts.
    Texts,
    /// A list of objects whose members are texts and have these names.
    Objects(&'static [&'static str]),
}

/// Every fact with its path below `facts` and its kind.
pub const SCHEMA: &[(&str, FactKind)] = &[
    ("os.family", FactKind::Text),
    ("os.id", FactKind::Text),
    ("os.name", FactKind::Text),
    ("os.version", FactKind::Text),
    ("os.kernel", FactKind::Text),
    ("arch", FactKind::Text),
    ("hostname", FactKind::Text),
    ("memory.total_bytes", FactKind::Number),
    ("disk.total_bytes", FactKind::Number),
    ("disk.free_bytes", FactKind::Number),
    ("cpu.count", FactKind::Number),
    ("addresses", FactKind::Texts),
    ("machine_id", FactKind::Text),
    ("boot_id", FactKind::Text),
    ("agent.version", FactKind::Text),
    ("software", FactKind::Objects(&["name", "version"])),
];

impl Facts {
    /// The facts in a report of an agent: at most [`limits::FACTS_MAX`] bytes of JSON; members that are not known are left out.
    pub fn parse(json: &str) -> Result<Facts, Invalid> {
        if json.len() > limits::FACTS_MAX {
            return Err(Invalid::new(format!("facts have at most {} bytes, not {}", limits::FACTS_MAX, json.len())));
        }
        let mut facts: Facts = serde_json::from_str(json).map_err(|e| Invalid::new(format!("the facts can't be read: {}", told(&e))))?;
        let texts = [
            &mut facts.os.family,
            &mut facts.os.id,
            &mut facts.os.name,
            &mut facts.os.version,
            &mut facts.os.kernel,
            &mut facts.arch,
            &mut facts.hostname,
            &mut facts.machine_id,
            &mut facts.boot_id,
            &mut facts.agent.version,
        ];
        for text in texts {
            cut(text, 255);
        }
        facts.addresses.truncate(64);
        facts.addresses.iter_mut().for_each(|a| cut(a, 64));
        facts.software.truncate(4096);
        for software in &mut facts.software {
            cut(&mut software.name, 255);
            cut(&mut software.version, 255);
        }
        Ok(facts)
    }

    /// The facts as JSON, members in a fixed order, so that equal facts have equal bytes.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("facts are plain data")
    }
}

/// Cuts a text that a client sent to `max` bytes, and takes control characters out of it: it will be shown to people.
fn cut(text: &mut String, max: usize) {
    if text.chars().any(|c| c.is_control() || c == '\u{202e}') {
        *text = text.chars().filter(|c| !c.is_control() && *c != '\u{202e}').collect();
    }
    if text.len() > max {
        let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_in_the_schema_with_its_kind() {
        let mut facts = Facts::default();
        facts.software.push(Software::default());
        let json: serde_json::Value = serde_json::from_str(&facts.to_json()).unwrap();
        let mut found = 0;
        for (path, kind) in SCHEMA {
            let value = path.split('.').fold(&json, |at, part| &at[part]);
            found += 1;
            assert!(
                match kind {
                    FactKind::Text => value.is_string(),
                    FactKind::Number => value.is_u64(),
                    FactKind::Texts => value.is_array(),
                    FactKind::Objects(members) => members.iter().all(|m| value[0][m].is_string()),
                },
                "{path}"
            );
        }
        let leaves = |v: &serde_json::Value| v.as_object().map_or(1, serde_json::Map::len);
        assert_eq!(found, json.as_object().unwrap().values().map(leaves).sum::<usize>());
    }

    #[test]
    fn what_a_client_says_is_cut_and_cleaned() {
        let facts =
            Facts::parse(&serde_json::json!({"hostname": "a\u{1b}[31mb\n".to_owned() + &"x".repeat(300), "extra": 1}).to_string()).unwrap();
        assert!(facts.hostname.starts_with("a[31mbx") && facts.hostname.len() == 255);
        assert!(Facts::parse(&"x".repeat(limits::FACTS_MAX + 1)).is_err());
    }
}
