//! What runs on the machine and who uses it: network interfaces, services, users, its time zone.

use super::{first_line, names};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};
use sutler_base::facts::{Interface, Service};
use sysinfo::Networks;

/// The longest file that is looked at (bytes).
const FILE_MAX: usize = 1 << 20;

/// Addresses by the interface that has them; not those of the machine itself and of the link alone, which mean nothing elsewhere.
pub fn addresses() -> BTreeMap<String, Vec<IpAddr>> {
    let Ok(networks) = Networks::new_with_refreshed_list() else { return BTreeMap::new() };
    let local = |ip: &IpAddr| ip.is_loopback() || matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let of = |interface: &sysinfo::NetworkData| {
        let mut all: Vec<IpAddr> = interface.ip_networks().iter().map(|network| network.addr).filter(|ip| !local(ip)).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    networks.iter().map(|(name, interface)| (name.to_string_lossy().into_owned(), of(interface))).collect()
}

/// The interfaces of the machine with this root. Left out are loopback and the near ends of containers' interfaces, which come
/// and go with them.
pub fn interfaces(root: &Path, addresses: &BTreeMap<String, Vec<IpAddr>>) -> Vec<Interface> {
    let folder = root.join("sys/class/net");
    let interface = |name: String| {
        let at = folder.join(&name);
        let mac = first_line(&at.join("address")).unwrap_or_default().to_ascii_lowercase();
        let flags = first_line(&at.join("flags")).and_then(|f| u32::from_str_radix(f.trim_start_matches("0x"), 16).ok());
        let state = first_line(&at.join("operstate")).unwrap_or_default();
        let up = flags.is_some_and(|f| f & 1 != 0) && matches!(state.as_str(), "up" | "unknown");
        let addresses = addresses.get(&name).into_iter().flatten().map(IpAddr::to_string).collect();
        Interface { name, mac, addresses, up }
    };
    names(&folder).into_iter().filter(|name| name != "lo" && !name.starts_with("veth")).map(interface).collect()
}

/// Services that are to run (systemd's `wants`, else the scripts of `etc/init.d`) or do run, by name.
///
/// No program is asked, since that takes a process for each of them: under systemd one runs if its control group has a process, else
/// if the process that its file `run/NAME.pid` names is there.
pub fn services(root: &Path) -> Vec<Service> {
    let service = |name: &str| name.strip_suffix(".service").map(str::to_owned);
    if !root.join("run/systemd/system").is_dir() {
        let scripts = names(&root.join("etc/init.d")).into_iter().filter(|name| !name.contains(['.', '~']) && name != "README");
        return scripts.map(|name| Service { running: pid_file(root, &name), name }).collect();
    }
    let groups = ["sys/fs/cgroup/system.slice", "sys/fs/cgroup/systemd/system.slice"].map(|path| root.join(path));
    let mut all: BTreeMap<String, bool> = BTreeMap::new();
    for wanted in names(&root.join("etc/systemd/system")).into_iter().filter(|name| name.ends_with(".wants")) {
        all.extend(names(&root.join("etc/systemd/system").join(wanted)).iter().filter_map(|n| service(n)).map(|name| (name, false)));
    }
    for group in groups.iter().filter(|group| group.is_dir()) {
        for unit in names(group) {
            let events = group.join(&unit).join("cgroup.events");
            let populated = |text: String| text.lines().any(|line| line == "populated 1");
            let processes = || first_line(&group.join(&unit).join("cgroup.procs")).is_some();
            if let Some(name) = service(&unit)
                && std::fs::read_to_string(events).map_or_else(|_| processes(), populated)
            {
                all.insert(name, true);
            }
        }
    }
    all.into_iter().map(|(name, running)| Service { name, running }).collect()
}

fn pid_file(root: &Path, name: &str) -> bool {
    let files = [format!("run/{name}.pid"), format!("run/{name}/{name}.pid")];
    let pid = files.iter().find_map(|file| first_line(&root.join(file))?.parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).is_dir())
}

/// The size of a record of `utmp`, where its type is, and where the user's name is and how long; the same on every 64-bit Linux.
const UTMP: (usize, usize, usize, usize) = (384, 0, 44, 32);
/// The type of the record of somebody who is logged in.
const USER_PROCESS: [u8; 2] = [7, 0];

/// Who is logged in, by name: as logind says, and `utmp`.
pub fn users(root: &Path) -> Vec<String> {
    let mut all = BTreeSet::new();
    let folder = root.join("run/systemd/users");
    for user in names(&folder) {
        let Ok(text) = std::fs::read_to_string(folder.join(user)) else { continue };
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        if matches!(field("STATE=").as_deref(), Some("active" | "online")) {
            all.extend(field("NAME="));
        }
    }
    let (size, kind, user, length) = UTMP;
    let utmp = std::fs::read(root.join("run/utmp")).unwrap_or_default();
    for record in utmp[..utmp.len().min(FILE_MAX)].chunks_exact(size).filter(|record| record[kind..kind + 2] == USER_PROCESS) {
        let name = record[user..user + length].split(|b| *b == 0).next().unwrap_or_default();
        all.insert(String::from_utf8_lossy(name).into_owned());
    }
    all.into_iter().filter(|name| !name.is_empty()).collect()
}

/// The name of the time zone: what `etc/localtime` is a link to, else what `etc/timezone` says.
pub fn time_zone(root: &Path) -> String {
    let link = std::fs::read_link(root.join("etc/localtime")).ok().and_then(|target| {
        let target = target.to_string_lossy().into_owned();
        target.split_once("zoneinfo/").map(|(_, name)| name.to_owned())
    });
    link.or_else(|| first_line(&root.join("etc/timezone"))).unwrap_or_default()
}

/// Name and version of the distribution as it shows them to people, and its version's name.
pub fn release() -> (String, String) {
    let text = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
        value.trim().trim_matches(['"', '\'']).to_owned()
    };
    (field("PRETTY_NAME"), field("VERSION_CODENAME"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn plant(root: &Path, path: &str, text: impl AsRef<[u8]>) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn what_is_below_the_root_tells_its_services_users_interfaces_and_time_zone() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!((services(root), users(root), interfaces(root, &BTreeMap::new()), time_zone(root)), (vec![], vec![], vec![], "".into()));
        plant(root, "etc/timezone", "Europe/Berlin\n");
        assert_eq!(time_zone(root), "Europe/Berlin");
        std::os::unix::fs::symlink("../usr/share/zoneinfo/Asia/Tokyo", root.join("etc/localtime")).unwrap();
        assert_eq!(time_zone(root), "Asia/Tokyo");
        plant(root, "etc/init.d/cron", "");
        plant(root, "etc/init.d/ssh", "");
        plant(root, "run/cron.pid", format!("{}\n", std::process::id()));
        plant(root, "run/ssh.pid", "4194305\n");
        let service = |name: &str, running| Service { name: name.into(), running };
        assert_eq!(services(root), [service("cron", true), service("ssh", false)]);
        plant(root, "run/systemd/system/x", "");
        plant(root, "etc/systemd/system/multi-user.target.wants/cron.service", "");
        plant(root, "sys/fs/cgroup/system.slice/dbus.service/cgroup.events", "populated 1\nfrozen 0\n");
        plant(root, "sys/fs/cgroup/system.slice/old.service/cgroup.events", "populated 0\nfrozen 0\n");
        assert_eq!(services(root), [service("cron", false), service("dbus", true)]);
        plant(root, "run/systemd/users/1000", "NAME=ada\nSTATE=active\n");
        plant(root, "run/systemd/users/1001", "NAME=bob\nSTATE=lingering\n");
        let record = |kind: u8, name: &str| {
            let mut record = vec![0; UTMP.0];
            record[0] = kind;
            record[UTMP.2..UTMP.2 + name.len()].copy_from_slice(name.as_bytes());
            record
        };
        plant(root, "run/utmp", [record(7, "eve"), record(8, "gone"), record(7, "ada"), vec![1; 9]].concat());
        assert_eq!(users(root), ["ada", "eve"]);
        plant(root, "sys/class/net/eth0/address", "02:AA:00:00:00:01\n");
        plant(root, "sys/class/net/eth0/flags", "0x1003\n");
        plant(root, "sys/class/net/eth0/operstate", "up\n");
        plant(root, "sys/class/net/lo/address", "00:00:00:00:00:00\n");
        plant(root, "sys/class/net/veth1/address", "02:aa:00:00:00:02\n");
        let addresses = BTreeMap::from([("eth0".to_owned(), vec!["192.0.2.1".parse().unwrap()])]);
        let eth0 = Interface { name: "eth0".into(), mac: "02:aa:00:00:00:01".into(), addresses: vec!["192.0.2.1".into()], up: true };
        assert_eq!(interfaces(root, &addresses), [eth0]);
    }
}
