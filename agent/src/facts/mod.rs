//! What the agent measures about its machine.
//!
//! Takes a few milliseconds and asks nobody: no name is looked up, since a resolver that can't answer holds a machine up
//! for seconds, in a burst of new ones of all times. Only the program `rpm`, where its database has changed, and the
//! administrator's own programs ([`own`]) take longer, within limits.

pub mod own;

use crate::{
    install::{Error, Layout, room},
    platform::{self, Manager, PackageStamp},
};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write},
    net::IpAddr,
    path::Path,
};
use sutler_base::{
    facts::{AgentFacts, Disk, Facts, Os, Package, Reboot, Software},
    limits,
};
use sysinfo::System;
use tracing::warn;

const GIB: u64 = 1 << 30;
/// The start of the machine is counted back from now, and so differs a little each time.
const SAME_START: i64 = 60;
/// Into how many steps the free room of a file system is rounded.
const STEPS: u64 = 20;

/// Measures a machine again and again: what is read only if it changed, and what has to differ by more than a little to be new.
#[derive(Debug, Default)]
pub struct Collector {
    /// Each manager's packages, with the stamp of the list that they were read from.
    packages: BTreeMap<Manager, (PackageStamp, Vec<Package>)>,
    /// Free room of file systems by path, as it was said last.
    free: BTreeMap<String, u64>,
    /// The start of the machine as it was said last (seconds).
    started: Option<i64>,
    /// What was warned of last, by what it is about: said once, not with every measurement.
    troubles: BTreeMap<String, String>,
}

impl Collector {
    /// The facts of this machine now. `software` is what the agent installed; `random` becomes the machine's id if nothing
    /// else tells it apart, and is then kept in the agent's folder.
    ///
    /// What can't be measured is left empty: a machine without a readable `/etc/os-release` still gets its software. But for the
    /// machine's id: with another one than before it would be taken for a copy. Blocks for as long as programs take that are asked.
    pub fn collect(&mut self, layout: &Layout, software: Vec<Software>, random: [u8; 16]) -> Result<Facts, Error> {
        let root = layout.root();
        let (pretty_name, codename) = platform::release();
        let by_interface = platform::addresses();
        let own = own::collect(&layout.state().join(own::FOLDER));
        let mut troubles: BTreeMap<String, String> = own.troubles.into_iter().collect();
        let mut facts = Facts {
            os: Os {
                family: std::env::consts::OS.into(),
                id: System::distribution_id(),
                name: text(System::name()),
                version: text(System::os_version()),
                kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
                pretty_name,
                codename,
            },
            arch: std::env::consts::ARCH.into(),
            hostname: hostname(),
            memory: platform::memory(),
            disk: disk(root),
            cpu: platform::cpu(),
            disks: platform::drives(),
            mounts: platform::mounts(),
            interfaces: platform::interfaces(root, &by_interface),
            addresses: addresses(&by_interface),
            virtualisation: platform::virtualisation(),
            machine_id: machine_id(layout, random)?,
            firmware_id: platform::firmware_id(root).unwrap_or_default(),
            boot_id: boot_id(),
            boot_time: self.boot_time(),
            time_zone: platform::time_zone(root),
            reboot: reboot(root),
            agent: AgentFacts { version: env!("CARGO_PKG_VERSION").into() },
            software,
            packages: Default::default(),
            services: platform::services(root),
            users: platform::users(root),
            own: own.facts,
            truncated: if own.is_cut { vec!["own".into()] } else { vec![] },
        };
        for mount in &mut facts.mounts {
            mount.free_bytes = self.free_room(&mount.path, mount.total_bytes, mount.free_bytes);
        }
        for manager in Manager::ALL {
            match self.packages(root, manager) {
                Ok(packages) => facts.packages.extend(packages.iter().cloned()),
                Err(why) => {
                    facts.truncated.push("packages".into());
                    troubles.insert(format!("the packages of {manager}"), why);
                }
            }
        }
        for (what, why) in &troubles {
            if self.troubles.get(what) != Some(why) {
                warn!("{what} can't be told: {why}");
            }
        }
        self.troubles = troubles;
        // Equal facts have equal bytes, so that a report is only sent when something changed.
        facts.software.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Ok(facts.within(limits::FACTS_MAX))
    }

    /// A manager's packages; its list is read only if it changed.
    fn packages(&mut self, root: &Path, manager: Manager) -> Result<&[Package], String> {
        let Some(stamp) = platform::package_stamp(root, manager) else {
            self.packages.remove(&manager);
            return Ok(&[]);
        };
        if self.packages.get(&manager).is_none_or(|(known, _)| *known != stamp) {
            self.packages.remove(&manager);
            let installed = platform::packages_of(root, manager).map_err(|e| e.to_string())?;
            let package = |p: platform::InstalledPackage| Package {
                manager: manager.as_str().into(),
                name: p.name,
                version: p.version,
                architecture: p.architecture,
            };
            // What a report could not hold as it is would be left out at the manager.
            let proper = |p: &Package| Package::parse(&p.key()).as_ref() == Some(p);
            let packages = installed.into_iter().flatten().map(package).filter(proper).collect();
            // A list that changed while it was read has another stamp than this one, and is read again.
            self.packages.insert(manager, (stamp, packages));
        }
        Ok(self.packages.get(&manager).map_or(&[], |(_, packages)| packages))
    }

    /// In steps, and another than before only if it differs by a whole one: a busy disk is no new fact every minute.
    fn free_room(&mut self, path: &str, total: u64, free: u64) -> u64 {
        let step = (total / STEPS).max(1);
        let said = self.free.get(path).copied().filter(|said| said.abs_diff(free) < step);
        let rounded = said.unwrap_or(free / step * step);
        self.free.insert(path.to_owned(), rounded);
        rounded
    }

    fn boot_time(&mut self) -> String {
        let Some(now) = platform::boot_time() else { return String::new() };
        let said = self.started.filter(|said| (said - now.as_second()).abs() < SAME_START).unwrap_or(now.as_second());
        self.started = Some(said);
        sutler_base::Timestamp::from_second(said).map_or_else(|_| String::new(), |t| t.to_string())
    }
}

/// What the machine calls itself.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Changes with every start of the machine; empty where the kernel doesn't say.
pub fn boot_id() -> String {
    platform::first_line(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default()
}

/// What tells this machine apart, also from others that were made from the same image and then started.
///
/// `etc/machine-id` below the root; else the id that the firmware gives (root alone may read it, and an agent with a root of
/// its own is a machine of its own); else `random`, kept in the agent's folder from then on.
///
/// An id that is there and can't be read at this moment is an error, and not a reason to take another.
pub fn machine_id(layout: &Layout, random: [u8; 16]) -> Result<String, Error> {
    let named = kept_line(&layout.root().join("etc/machine-id"))?;
    let named = named.filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let firmware = || platform::firmware_id(layout.root());
    named.or_else(firmware).map_or_else(|| own_id(layout, random), Ok)
}

fn own_id(layout: &Layout, random: [u8; 16]) -> Result<String, Error> {
    let path = layout.state().join("machine-id");
    let kept = || Ok::<_, Error>(kept_line(&path)?.filter(|id| id.len() == 32));
    if let Some(id) = kept()? {
        return Ok(id);
    }
    let id: String = random.iter().map(|b| format!("{b:02x}")).collect();
    let temporary = layout.state().join("machine-id.new");
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).and_then(|mut file| {
        file.write_all(id.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(layout.state())?.sync_all()
    });
    match written {
        Ok(()) => Ok(id),
        // Better none than another one each time.
        Err(_) => Ok(kept()?.unwrap_or_default()),
    }
}

/// The first line of a file; none if there is no such file, or no text in it.
fn kept_line(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(Error::Io { doing: "read", path: path.into(), source }),
    }
}

fn text<E>(of: Result<String, E>) -> String {
    of.unwrap_or_default()
}

fn disk(path: &Path) -> Disk {
    let total_bytes = rustix::fs::statvfs(path).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    Disk { total_bytes, free_bytes: room(path).unwrap_or(0) / GIB * GIB }
}

fn addresses(by_interface: &BTreeMap<String, Vec<IpAddr>>) -> Vec<String> {
    let mut found: Vec<IpAddr> = by_interface.values().flatten().copied().collect();
    found.sort_unstable();
    found.dedup();
    found.iter().map(IpAddr::to_string).collect()
}

/// Whether the system itself says that the machine must be restarted, as Debian's does.
fn reboot(root: &Path) -> Reboot {
    let needed = ["run/reboot-required", "var/run/reboot-required"].iter().any(|file| root.join(file).exists());
    Reboot { needed, by: if needed { vec!["the system".to_owned()] } else { vec![] } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_say_what_this_machine_is_and_two_measurements_are_equal() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("root"), folder.path().join("state")).unwrap();
        let software = |name: &str| Software { name: name.into(), version: "1".into() };
        let mut collector = Collector::default();
        let facts = collector.collect(&layout, vec![software("b"), software("a")], [7; 16]).unwrap();
        assert_eq!(facts.os.family, "linux");
        assert_eq!(facts.arch, std::env::consts::ARCH);
        assert!(!facts.os.kernel.is_empty() && !facts.hostname.is_empty() && !facts.boot_id.is_empty());
        assert!(facts.memory.total_bytes > 1 << 20 && facts.cpu.count > 0 && facts.disk.total_bytes > 0);
        assert!(!facts.cpu.model.is_empty() && !facts.virtualisation.is_empty() && !facts.mounts.is_empty());
        assert!(facts.boot_time.parse::<sutler_base::Timestamp>().is_ok());
        assert_eq!(facts.disk.free_bytes % GIB, 0);
        assert!(facts.addresses.iter().all(|a| a.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback())));
        assert_eq!(facts.software[0].name, "a");
        assert_eq!(Facts::parse(&facts.to_json()).unwrap(), facts);
        let mut again = collector.collect(&layout, vec![software("a"), software("b")], [8; 16]).unwrap();
        // Other tests write to this disk meanwhile.
        again.disk.free_bytes = facts.disk.free_bytes;
        assert_eq!(again, facts);
    }

    #[test]
    fn packages_are_read_again_only_when_their_list_changed() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("root"), folder.path().join("state")).unwrap();
        let status = layout.root().join("var/lib/dpkg/status");
        fs::create_dir_all(status.parent().unwrap()).unwrap();
        let stanza = |name: &str| format!("Package: {name}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n");
        let mut collector = Collector::default();
        let mut keys = |text: Option<String>| {
            if let Some(text) = text {
                fs::write(status.with_extension("new"), text).unwrap();
                fs::rename(status.with_extension("new"), &status).unwrap();
            }
            let facts = collector.collect(&layout, vec![], [7; 16]).unwrap();
            (facts.packages.iter().map(Package::key).collect::<Vec<_>>(), facts.truncated)
        };
        assert_eq!(keys(None), (vec![], vec![]));
        assert_eq!(keys(Some(stanza("a"))).0, ["dpkg a 1 all"]);
        assert_eq!(keys(None).0, ["dpkg a 1 all"]);
        assert_eq!(keys(Some(stanza("a") + &stanza("b"))).0, ["dpkg a 1 all", "dpkg b 1 all"]);
        assert_eq!(keys(Some("x".repeat(2 << 20))), (vec![], vec!["packages".to_owned()]), "a list that can't be used is told");
    }

    #[test]
    fn free_room_is_new_only_when_it_differs_by_a_step() {
        let mut collector = Collector::default();
        let mut said = |free| collector.free_room("/", 1000, free);
        assert_eq!([said(512), said(499), said(549), said(451), said(449), said(440), said(300)], [500, 500, 500, 500, 400, 400, 300]);
    }

    #[test]
    fn a_machine_keeps_the_id_that_it_made_for_itself_and_prefers_its_own_machine_id() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("root"), folder.path().join("state")).unwrap();
        assert_eq!(machine_id(&layout, [0xab; 16]).unwrap(), "ab".repeat(16));
        assert_eq!(machine_id(&layout, [0xcd; 16]).unwrap(), "ab".repeat(16));
        let etc = layout.root().join("etc");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("machine-id"), "uninitialized\n").unwrap();
        assert_eq!(machine_id(&layout, [0xcd; 16]).unwrap(), "ab".repeat(16));
        fs::write(etc.join("machine-id"), format!("{}\n", "12".repeat(16))).unwrap();
        assert_eq!(machine_id(&layout, [0xcd; 16]).unwrap(), "12".repeat(16));
        // There, and not to be read: nobody may take the machine for another one because of that.
        fs::remove_file(etc.join("machine-id")).unwrap();
        fs::create_dir(etc.join("machine-id")).unwrap();
        assert!(machine_id(&layout, [0xcd; 16]).is_err());
    }
}
