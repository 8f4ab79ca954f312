//! Facts: what an agent measured about its machine. Untrusted: the client says so.

use crate::{Invalid, limits, told};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The facts of one client.
///
/// As JSON each member is a *section*: what changed is sent as a patch of sections ([`crate::patch`]). Numbers that change all the
/// time are rounded where they are measured, so that a busy machine has nothing new to say every minute.
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
    /// Disks, by name.
    pub disks: Vec<Drive>,
    /// File systems that are on a disk or come over the network, by path.
    pub mounts: Vec<Mount>,
    /// Network interfaces, loopback left out, by name.
    pub interfaces: Vec<Interface>,
    /// Addresses of its network interfaces, loopback left out.
    pub addresses: Vec<String>,
    /// What the machine runs in: `none`, `kvm`, `vmware`, `docker`, `lxc` … as `systemd-detect-virt` names it.
    pub virtualisation: String,
    /// Tells machines apart, also those that were cloned from one image and then started.
    pub machine_id: String,
    /// What the machine's firmware says that it is (the product's UUID), where it says so and the agent may read it.
    pub firmware_id: String,
    /// Changes with every start of the machine.
    pub boot_id: String,
    /// When the machine was started (RFC 3339).
    pub boot_time: String,
    /// The time zone's name: `Europe/Berlin`.
    pub time_zone: String,
    /// Whether the machine must be restarted.
    pub reboot: Reboot,
    /// The agent itself.
    pub agent: AgentFacts,
    /// Software that the agent installed.
    pub software: Vec<Software>,
    /// Packages that the machine's own managers have installed.
    #[serde(with = "packages", skip_serializing_if = "BTreeSet::is_empty")]
    pub packages: BTreeSet<Package>,
    /// Services that are to run or do run, by name.
    pub services: Vec<Service>,
    /// Who is logged in, by name.
    pub users: Vec<String>,
    /// What the administrator of the machine lets it say of itself: texts by name.
    pub own: BTreeMap<String, String>,
    /// The sections of which something had to be left out.
    pub truncated: Vec<String>,
}

/// Plain data with names for its members, each with a default.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$member_doc:meta])* $member:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$member_doc])* pub $member: $ty,)*
        }
    };
}

section! {
    /// The operating system.
    Os {
        /// `linux`, `windows`, `macos` …
        family: String,
        /// The distribution's id: `debian`, `rhel` …
        id: String,
        /// The distribution's name.
        name: String,
        /// The distribution's version.
        version: String,
        /// The kernel's release.
        kernel: String,
        /// Name and version as the distribution shows them to people.
        pretty_name: String,
        /// The version's name: `bookworm`.
        codename: String,
    }
}

section! {
    /// Memory.
    Memory {
        /// All of it (bytes).
        total_bytes: u64,
        /// Swap (bytes).
        swap_bytes: u64,
    }
}

section! {
    /// The disk that software is installed on.
    Disk {
        /// Its size (bytes).
        total_bytes: u64,
        /// What is free (bytes), rounded down to a GiB so that a busy disk is no new fact every minute.
        free_bytes: u64,
    }
}

section! {
    /// Whether the machine must be restarted: something that was installed in this start of it said so.
    Reboot {
        /// It must.
        needed: bool,
        /// What said so: packages that the agent installed, and the system itself.
        by: Vec<String>,
    }
}

section! {
    /// Processors.
    Cpu {
        /// How many the system shows.
        count: u32,
        /// What its maker calls it.
        model: String,
        /// Its maker, as it says: `GenuineIntel`.
        vendor: String,
    }
}

section! {
    /// A disk.
    Drive {
        /// The kernel's name: `sda`, `nvme0n1`.
        name: String,
        /// What its maker calls it.
        model: String,
        /// Its size (bytes).
        size_bytes: u64,
    }
}

section! {
    /// A file system.
    Mount {
        /// Where it is.
        path: String,
        /// What is mounted there.
        device: String,
        /// `ext4`, `nfs4` …
        fs_type: String,
        /// Its size (bytes).
        total_bytes: u64,
        /// What is free (bytes), in steps of a twentieth of its size, at least.
        free_bytes: u64,
    }
}

section! {
    /// A network interface.
    Interface {
        /// The kernel's name: `eth0`.
        name: String,
        /// Its hardware address, in lower case with colons.
        mac: String,
        /// Its addresses, those of the link alone left out.
        addresses: Vec<String>,
        /// Whether it works.
        up: bool,
    }
}

section! {
    /// A service.
    Service {
        /// Its name, without a suffix.
        name: String,
        /// Whether it runs.
        running: bool,
    }
}

section! {
    /// The agent itself.
    AgentFacts {
        /// Its version.
        version: String,
    }
}

section! {
    /// One piece of software that the agent installed.
    Software {
        /// Its package's name.
        name: String,
        /// Its version.
        version: String,
    }
}

/// A package that one of the machine's managers has installed.
///
/// Its [key](Package::key) is how it stands in a report: a machine's packages are a set, and what changes in it is one key that
/// goes and one that comes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Package {
    /// `dpkg`, `rpm`; `sutler` for what the agent installed.
    pub manager: String,
    /// Its name.
    pub name: String,
    /// Its version, as the manager writes it.
    pub version: String,
    /// `amd64`, `noarch`; empty where the manager doesn't say.
    pub architecture: String,
}

impl Package {
    /// `dpkg bash 5.2.15-2 amd64`
    pub fn key(&self) -> String {
        let Package { manager, name, version, architecture } = self;
        format!("{manager} {name} {version} {architecture}")
    }

    /// The package of this key; none if it is none, or longer than one can be.
    pub fn parse(key: &str) -> Option<Package> {
        let parts: Vec<&str> = key.split(' ').collect();
        let [manager, name, version, architecture] = parts[..] else { return None };
        let proper = |text: &str, most: usize| text.len() <= most && !text.chars().any(crate::is_harmful);
        let ok = matches!(manager, "dpkg" | "rpm") && !name.is_empty() && proper(name, 255) && proper(version, 255);
        let owned = || (manager.to_owned(), name.to_owned(), version.to_owned(), architecture.to_owned());
        (ok && proper(architecture, 63)).then(owned).map(|(manager, name, version, architecture)| Package {
            manager,
            name,
            version,
            architecture,
        })
    }

    /// As conditions see it.
    pub fn to_value(&self) -> serde_json::Value {
        let Package { manager, name, version, architecture } = self;
        serde_json::json!({ "manager": manager, "name": name, "version": version, "architecture": architecture })
    }
}

/// A set of packages as an object with a member for each.
mod packages {
    use super::Package;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::{BTreeMap, BTreeSet};

    pub(super) fn serialize<S: Serializer>(all: &BTreeSet<Package>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(all.iter().map(|package| (package.key(), true)))
    }

    /// What is no package is left out.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Package>, D::Error> {
        let all = BTreeMap::<String, serde::de::IgnoredAny>::deserialize(deserializer)?;
        Ok(all.keys().filter_map(|key| Package::parse(key)).collect())
    }
}

/// What kind of value a fact is, for whoever checks a condition before there is a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactKind {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// True or false.
    Flag,
    /// A list of texts.
    Texts,
    /// Texts by names that nobody knows beforehand.
    Named,
    /// A list of objects with these members.
    Objects(&'static [(&'static str, FactKind)]),
}

/// Every fact with its path below `facts` and its kind.
pub const SCHEMA: &[(&str, FactKind)] = &[
    ("os.family", FactKind::Text),
    ("os.id", FactKind::Text),
    ("os.name", FactKind::Text),
    ("os.version", FactKind::Text),
    ("os.kernel", FactKind::Text),
    ("os.pretty_name", FactKind::Text),
    ("os.codename", FactKind::Text),
    ("arch", FactKind::Text),
    ("hostname", FactKind::Text),
    ("memory.total_bytes", FactKind::Number),
    ("memory.swap_bytes", FactKind::Number),
    ("disk.total_bytes", FactKind::Number),
    ("disk.free_bytes", FactKind::Number),
    ("cpu.count", FactKind::Number),
    ("cpu.model", FactKind::Text),
    ("cpu.vendor", FactKind::Text),
    ("disks", FactKind::Objects(&[("name", FactKind::Text), ("model", FactKind::Text), ("size_bytes", FactKind::Number)])),
    (
        "mounts",
        FactKind::Objects(&[
            ("path", FactKind::Text),
            ("device", FactKind::Text),
            ("fs_type", FactKind::Text),
            ("total_bytes", FactKind::Number),
            ("free_bytes", FactKind::Number),
        ]),
    ),
    (
        "interfaces",
        FactKind::Objects(&[("name", FactKind::Text), ("mac", FactKind::Text), ("addresses", FactKind::Texts), ("up", FactKind::Flag)]),
    ),
    ("addresses", FactKind::Texts),
    ("virtualisation", FactKind::Text),
    ("machine_id", FactKind::Text),
    ("firmware_id", FactKind::Text),
    ("boot_id", FactKind::Text),
    ("boot_time", FactKind::Text),
    ("time_zone", FactKind::Text),
    ("reboot.needed", FactKind::Flag),
    ("reboot.by", FactKind::Texts),
    ("agent.version", FactKind::Text),
    ("software", FactKind::Objects(&[("name", FactKind::Text), ("version", FactKind::Text)])),
    (
        "packages",
        FactKind::Objects(&[
            ("manager", FactKind::Text),
            ("name", FactKind::Text),
            ("version", FactKind::Text),
            ("architecture", FactKind::Text),
        ]),
    ),
    ("services", FactKind::Objects(&[("name", FactKind::Text), ("running", FactKind::Flag)])),
    ("users", FactKind::Texts),
    ("own", FactKind::Named),
    ("truncated", FactKind::Texts),
];

/// The most entries of each section that has many, by its name.
pub mod entries {
    /// What said that the machine must be restarted.
    pub const REBOOT_BY: usize = 64;
    /// Addresses, of the machine and of one interface.
    pub const ADDRESSES: usize = 64;
    /// What the agent installed.
    pub const SOFTWARE: usize = 4096;
    /// Disks.
    pub const DISKS: usize = 64;
    /// File systems.
    pub const MOUNTS: usize = 128;
    /// Network interfaces.
    pub const INTERFACES: usize = 64;
    /// Services.
    pub const SERVICES: usize = 512;
    /// Users.
    pub const USERS: usize = 64;
    /// Packages of one machine.
    pub const PACKAGES: u64 = 20_000;
    /// Own facts.
    pub const OWN: usize = 256;
    /// The longest text of an own fact (bytes).
    pub const OWN_TEXT: usize = 1024;
}

impl Facts {
    /// The facts in a report of an agent: at most [`limits::FACTS_MAX`] bytes of JSON; members that are not known are left out.
    pub fn parse(json: &str) -> Result<Facts, Invalid> {
        if json.len() > limits::FACTS_MAX {
            return Err(Invalid::new(format!("facts have at most {} bytes, not {}", limits::FACTS_MAX, json.len())));
        }
        serde_json::from_str::<Facts>(json).map(Facts::cut).map_err(|e| Invalid::new(format!("the facts can't be read: {}", told(&e))))
    }

    /// The same from JSON that was taken apart already, of a length that was looked at.
    pub fn from_value(value: serde_json::Value) -> Result<Facts, Invalid> {
        let facts = serde_json::from_value::<Facts>(value);
        facts.map(Facts::cut).map_err(|e| Invalid::new(format!("the facts can't be read: {}", told(&e))))
    }

    /// The same facts with every section cut to what it may have, whoever made them, and the sections of which something was left
    /// out named.
    pub fn cut(mut self) -> Facts {
        let mut short = std::mem::take(&mut self.truncated);
        let texts = [
            &mut self.os.family,
            &mut self.os.id,
            &mut self.os.name,
            &mut self.os.version,
            &mut self.os.kernel,
            &mut self.os.pretty_name,
            &mut self.os.codename,
            &mut self.arch,
            &mut self.hostname,
            &mut self.cpu.model,
            &mut self.cpu.vendor,
            &mut self.virtualisation,
            &mut self.machine_id,
            &mut self.firmware_id,
            &mut self.boot_id,
            &mut self.boot_time,
            &mut self.time_zone,
            &mut self.agent.version,
        ];
        for text in texts {
            cut(text, 255);
        }
        let mut most = |name: &str, len: usize, max: usize| {
            if len > max {
                short.push(name.to_owned());
            }
            max
        };
        self.addresses.truncate(most("addresses", self.addresses.len(), entries::ADDRESSES));
        self.software.truncate(most("software", self.software.len(), entries::SOFTWARE));
        self.disks.truncate(most("disks", self.disks.len(), entries::DISKS));
        self.mounts.truncate(most("mounts", self.mounts.len(), entries::MOUNTS));
        self.interfaces.truncate(most("interfaces", self.interfaces.len(), entries::INTERFACES));
        self.services.truncate(most("services", self.services.len(), entries::SERVICES));
        self.reboot.by.truncate(most("reboot", self.reboot.by.len(), entries::REBOOT_BY));
        self.reboot.by.iter_mut().for_each(|by| cut(by, 255));
        self.users.truncate(most("users", self.users.len(), entries::USERS));
        for interface in &mut self.interfaces {
            interface.addresses.truncate(most("interfaces", interface.addresses.len(), entries::ADDRESSES));
            interface.addresses.iter_mut().for_each(|a| cut(a, 64));
            cut(&mut interface.name, 64);
            cut(&mut interface.mac, 64);
        }
        let own = std::mem::take(&mut self.own);
        let room = most("own", own.len(), entries::OWN);
        for (mut name, mut text) in own.into_iter().take(room) {
            cut(&mut name, 128);
            cut(&mut text, entries::OWN_TEXT);
            self.own.insert(name, text);
        }
        self.addresses.iter_mut().for_each(|a| cut(a, 64));
        self.users.iter_mut().for_each(|u| cut(u, 64));
        for software in &mut self.software {
            cut(&mut software.name, 255);
            cut(&mut software.version, 255);
        }
        for disk in &mut self.disks {
            cut(&mut disk.name, 64);
            cut(&mut disk.model, 255);
        }
        for mount in &mut self.mounts {
            cut(&mut mount.path, 255);
            cut(&mut mount.device, 255);
            cut(&mut mount.fs_type, 64);
        }
        for service in &mut self.services {
            cut(&mut service.name, 255);
        }
        short.iter_mut().for_each(|name| cut(name, 64));
        short.sort();
        short.dedup();
        short.truncate(SCHEMA.len());
        self.truncated = short;
        self
    }

    /// The facts as JSON, members in a fixed order, so that equal facts have equal bytes.
    pub fn to_json(&self) -> String {
        self.to_value().to_string()
    }

    /// The same, taken apart: an object with a member for each section.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("facts are plain data")
    }

    /// The facts as they are reported: no longer than a report may be. Packages are left out first, since they are most of it.
    pub fn within(self, bytes: usize) -> Facts {
        let mut facts = self.cut();
        let len = facts.to_json().len();
        if len > bytes {
            facts.truncated.push("packages".into());
            facts.truncated.sort();
            let mut surplus = (len + "packages".len() + 3).saturating_sub(bytes);
            while surplus > 0
                && let Some(package) = facts.packages.pop_last()
            {
                surplus = surplus.saturating_sub(package.key().len() + r#""":true,"#.len());
            }
        }
        facts
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
        facts.disks.push(Drive::default());
        facts.mounts.push(Mount::default());
        facts.interfaces.push(Interface::default());
        facts.services.push(Service::default());
        let mut json = facts.to_value();
        // They stand in a report in another way than in conditions.
        json["packages"] = serde_json::json!([Package::default().to_value()]);
        fn fits(value: &serde_json::Value, kind: &FactKind) -> bool {
            match kind {
                FactKind::Text => value.is_string(),
                FactKind::Number => value.is_u64(),
                FactKind::Flag => value.is_boolean(),
                FactKind::Texts => value.is_array(),
                FactKind::Named => value.is_object(),
                FactKind::Objects(members) => {
                    value[0].as_object().unwrap().len() == members.len() && members.iter().all(|(name, kind)| fits(&value[0][name], kind))
                }
            }
        }
        let mut found = 0;
        for (path, kind) in SCHEMA {
            found += 1;
            assert!(fits(path.split('.').fold(&json, |at, part| &at[part]), kind), "{path}");
        }
        let leaves = |(name, v): (&String, &serde_json::Value)| v.as_object().filter(|_| name != "own").map_or(1, serde_json::Map::len);
        assert_eq!(found, json.as_object().unwrap().iter().map(leaves).sum::<usize>());
    }

    #[test]
    fn packages_are_a_set_of_keys_and_what_is_none_is_left_out() {
        let package = |text| Package::parse(text).unwrap();
        let bash = package("dpkg bash 5.2.15-2+b7 amd64");
        assert_eq!((bash.name.as_str(), bash.architecture.as_str(), bash.key().as_str()), ("bash", "amd64", "dpkg bash 5.2.15-2+b7 amd64"));
        assert_eq!(package("rpm a 1 ").architecture, "");
        for none in
            ["", "dpkg bash 1", "apt bash 1 x", "dpkg  1 x", "dpkg a b c d", "dpkg a\u{1b} 1 x", &format!("rpm {} 1 x", "n".repeat(256))]
        {
            assert_eq!(Package::parse(none), None, "{none:?}");
        }
        let facts = Facts { packages: [bash, package("rpm a 1 ")].into(), ..Facts::default() };
        let json = facts.to_json();
        assert!(json.contains(r#""packages":{"dpkg bash 5.2.15-2+b7 amd64":true,"rpm a 1 ":true}"#), "{json}");
        assert_eq!(Facts::parse(&json).unwrap(), facts);
        assert_eq!(Facts::parse(r#"{"packages": {"x": true, "dpkg a 1 all": null}}"#).unwrap().packages.len(), 1);
        assert!(!Facts::default().to_json().contains("packages"));
    }

    #[test]
    fn what_does_not_fit_into_a_report_is_left_out_and_that_is_a_fact() {
        let package = |n: usize| Package::parse(&format!("dpkg package-{n:05} 1.0-1 amd64")).unwrap();
        let facts = Facts { packages: (0..20_000).map(package).collect(), users: vec!["a".into(); 65], ..Facts::default() };
        let cut = facts.clone().within(limits::FACTS_MAX);
        let len = cut.to_json().len();
        assert!(len <= limits::FACTS_MAX && len > limits::FACTS_MAX - 100, "{len}");
        assert_eq!(cut.truncated, ["packages", "users"]);
        assert_eq!(Facts { packages: [].into(), users: vec![], ..facts }.within(limits::FACTS_MAX).truncated, [""; 0]);
        assert_eq!(cut.clone().cut(), cut);
    }

    #[test]
    fn what_a_client_says_is_cut_and_cleaned() {
        let facts =
            Facts::parse(&serde_json::json!({"hostname": "a\u{1b}[31mb\n".to_owned() + &"x".repeat(300), "extra": 1}).to_string()).unwrap();
        assert!(facts.hostname.starts_with("a[31mbx") && facts.hostname.len() == 255);
        assert!(Facts::parse(&"x".repeat(limits::FACTS_MAX + 1)).is_err());
    }
}
