//! What the agent measures about its machine.
//!
//! Takes a few milliseconds and asks nobody: no name is looked up, since a resolver that can't answer holds a machine up
//! for seconds, in a burst of new ones of all times.

use crate::install::{Error, Layout, room};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use std::{
    io::{ErrorKind, Write},
    net::IpAddr,
    path::Path,
};
use sutler_base::facts::{AgentFacts, Cpu, Disk, Facts, Memory, Os, Software};
use sysinfo::{MemoryRefreshKind, Networks, RefreshKind, System};

const GIB: u64 = 1 << 30;

/// The facts of this machine now. `software` is what the agent installed; `random` becomes the machine's id if nothing
/// else tells it apart, and is then kept in the agent's folder.
///
/// What can't be measured is left empty: a machine without a readable `/etc/os-release` still gets its software. But for the
/// machine's id: with another one than before it would be taken for a copy.
pub fn collect(layout: &Layout, software: Vec<Software>, random: [u8; 16]) -> Result<Facts, Error> {
    let mut facts = Facts {
        os: Os {
            family: std::env::consts::OS.into(),
            id: System::distribution_id(),
            name: text(System::name()),
            version: text(System::os_version()),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        },
        arch: std::env::consts::ARCH.into(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        memory: Memory { total_bytes: memory() },
        disk: disk(layout.root()),
        cpu: Cpu { count: std::thread::available_parallelism().map_or(0, |n| n.get() as u32) },
        addresses: addresses(),
        machine_id: machine_id(layout, random)?,
        boot_id: boot_id(),
        agent: AgentFacts { version: env!("CARGO_PKG_VERSION").into() },
        software,
    };
    // Equal facts have equal bytes, so that a report is only sent when something changed.
    facts.software.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(facts)
}

/// Changes with every start of the machine; empty where the kernel doesn't say.
pub fn boot_id() -> String {
    first_line(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default()
}

/// What tells this machine apart, also from others that were made from the same image and then started.
///
/// `etc/machine-id` below the root; on a real root the id that the firmware gives (root alone may read it); else `random`,
/// kept in the agent's folder from then on. An agent with a root of its own is a machine of its own: the firmware's id
/// would make all of them one.
///
/// An id that is there and can't be read at this moment is an error, and not a reason to take another.
pub fn machine_id(layout: &Layout, random: [u8; 16]) -> Result<String, Error> {
    let named = kept_line(&layout.root().join("etc/machine-id"))?;
    let named = named.filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let firmware = || {
        let id = first_line(Path::new("/sys/class/dmi/id/product_uuid")).filter(|_| layout.root() == Path::new("/"))?;
        // Boards whose maker did not care all have one of these.
        let digits: Vec<u8> = id.bytes().filter(u8::is_ascii_hexdigit).collect();
        (digits.len() == 32 && !digits.iter().all(|b| *b == digits[0])).then(|| id.to_ascii_lowercase())
    };
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

fn first_line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn memory() -> u64 {
    let only = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(only).map_or(0, |system| system.total_memory())
}

fn disk(path: &Path) -> Disk {
    let total_bytes = rustix::fs::statvfs(path).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    Disk { total_bytes, free_bytes: room(path).unwrap_or(0) / GIB * GIB }
}

fn addresses() -> Vec<String> {
    let Ok(networks) = Networks::new_with_refreshed_list() else { return vec![] };
    let all = networks.values().flat_map(|interface| interface.ip_networks().iter().map(|network| network.addr));
    // A link-local IPv6 address means nothing elsewhere.
    let local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut found: Vec<IpAddr> = all.filter(|ip| !ip.is_loopback() && !local(ip)).collect();
    found.sort_unstable();
    found.dedup();
    found.iter().map(IpAddr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_say_what_this_machine_is_and_two_measurements_are_equal() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("root"), folder.path().join("state")).unwrap();
        let software = |name: &str| Software { name: name.into(), version: "1".into() };
        let facts = collect(&layout, vec![software("b"), software("a")], [7; 16]).unwrap();
        assert_eq!(facts.os.family, "linux");
        assert_eq!(facts.arch, std::env::consts::ARCH);
        assert!(!facts.os.kernel.is_empty() && !facts.hostname.is_empty() && !facts.boot_id.is_empty());
        assert!(facts.memory.total_bytes > 1 << 20 && facts.cpu.count > 0 && facts.disk.total_bytes > 0);
        assert_eq!(facts.disk.free_bytes % GIB, 0);
        assert!(facts.addresses.iter().all(|a| a.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback())));
        assert_eq!(facts.software[0].name, "a");
        assert_eq!(Facts::parse(&facts.to_json()).unwrap(), facts);
        let mut again = collect(&layout, vec![software("a"), software("b")], [8; 16]).unwrap();
        // Other tests write to this disk meanwhile.
        again.disk.free_bytes = facts.disk.free_bytes;
        assert_eq!(again, facts);
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
