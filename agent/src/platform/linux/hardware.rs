//! What the machine is made of: processors, memory, disks, file systems, and what it runs in.

use super::{first_line, names};
use rustix::fs::statvfs;
use std::{collections::BTreeSet, path::Path};
use sutler_base::{
    Timestamp,
    facts::{Cpu, Drive, Memory, Mount},
};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// How many bytes of a file of the kernel are looked at.
const FILE_MAX: u64 = 1 << 20;

/// Processors.
pub fn cpu() -> Cpu {
    let text = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = text.lines().take_while(|line| !line.is_empty()).find_map(|line| line.split_once(':').filter(|(n, _)| n.trim() == name));
        line.map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    let count = std::thread::available_parallelism().map_or(0, |n| n.get() as u32);
    Cpu { count, model: field("model name"), vendor: field("vendor_id") }
}

/// Memory.
pub fn memory() -> Memory {
    let only = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    System::new_with_specifics(only)
        .map_or(Memory::default(), |system| Memory { total_bytes: system.total_memory(), swap_bytes: system.total_swap() })
}

/// Disks, by name; not what only looks like one (loop devices, memory) and not one without a medium.
pub fn drives() -> Vec<Drive> {
    let folder = Path::new("/sys/block");
    let drive = |name: String| {
        let at = folder.join(&name);
        let real = at.join("device").exists() && !["loop", "ram", "zram", "sr", "fd"].iter().any(|kind| name.starts_with(kind));
        // In sectors of 512 bytes, whatever the disk's own are.
        let size_bytes = first_line(&at.join("size"))?.parse::<u64>().ok()?.saturating_mul(512);
        let model = first_line(&at.join("device/model")).unwrap_or_default();
        (real && size_bytes > 0).then_some(Drive { name, model, size_bytes })
    };
    names(folder).into_iter().filter_map(drive).collect()
}

/// File systems that are on a disk, or come over the network, or are the root; each device once, where it is mounted first.
///
/// One that comes over the network has no sizes: a server that does not answer would be waited for.
pub fn mounts() -> Vec<Mount> {
    let text = read("/proc/self/mounts");
    let mut seen = BTreeSet::new();
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        let (device, path, fs_type) = (unescaped(fields.next()?), unescaped(fields.next()?), fields.next()?.to_owned());
        let remote = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs", "fuse.sshfs"].contains(&fs_type.as_str());
        let local = (device.starts_with("/dev/") && fs_type != "squashfs" && fs_type != "devtmpfs") || fs_type == "zfs" || path == "/";
        if !(remote || local) || !seen.insert(device.clone()) {
            return None;
        }
        let stat = if remote { None } else { statvfs(&path).ok() };
        let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
        let total_bytes = stat.as_ref().map_or(0, |s| bytes(s.f_blocks, s.f_frsize));
        Some(Mount { path, device, fs_type, total_bytes, free_bytes: stat.map_or(0, |s| bytes(s.f_bavail, s.f_frsize)) })
    };
    let mut all: Vec<Mount> = text.lines().filter_map(mount).collect();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

/// Spaces and the like stand as octal numbers.
fn unescaped(text: &str) -> String {
    ["\\040", "\\011", "\\012"].iter().fold(text.to_owned(), |text, code| text.replace(code, " ")).replace("\\134", "\\")
}

/// When the machine was started: now, less how long it has run.
pub fn boot_time() -> Option<Timestamp> {
    let text = read("/proc/stat");
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

/// What the firmware of the machine with this root says that it is; none where it doesn't, or every board of its maker says the
/// same. Root alone may read it.
pub fn firmware_id(root: &Path) -> Option<String> {
    let id = first_line(&root.join("sys/class/dmi/id/product_uuid"))?;
    let digits: Vec<u8> = id.bytes().filter(u8::is_ascii_hexdigit).collect();
    // Boards whose maker did not care all have one of these.
    (digits.len() == 32 && !digits.iter().all(|b| *b == digits[0])).then(|| id.to_ascii_lowercase())
}

/// What the machine runs in, as `systemd-detect-virt` names it: a container first, else what the processor or the firmware says.
pub fn virtualisation() -> String {
    let container = || {
        if Path::new("/run/.containerenv").exists() {
            return Some("podman".to_owned());
        }
        if Path::new("/.dockerenv").exists() {
            return Some("docker".to_owned());
        }
        let told = first_line(Path::new("/run/systemd/container"));
        let first = || {
            let environment = std::fs::read("/proc/1/environ").ok()?;
            let variable = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(b"container="))?;
            Some(String::from_utf8_lossy(variable).into_owned()).filter(|name| !name.is_empty())
        };
        told.or_else(first)
    };
    let xen = || first_line(Path::new("/sys/hypervisor/type")).filter(|kind| kind == "xen");
    container().or_else(hypervisor).or_else(firmware).or_else(xen).unwrap_or_else(|| "none".to_owned())
}

/// The hypervisor by what the processor says.
#[cfg(target_arch = "x86_64")]
fn hypervisor() -> Option<String> {
    use std::arch::x86_64::__cpuid;
    if __cpuid(1).ecx & (1 << 31) == 0 {
        return None;
    }
    let leaf = __cpuid(0x4000_0000);
    let vendor: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
    let known: [(&[u8], &str); 8] = [
        (b"KVMKVMKVM\0\0\0", "kvm"),
        (b"Linux KVM Hv", "kvm"),
        (b"TCGTCGTCGTCG", "qemu"),
        (b"VMwareVMware", "vmware"),
        (b"Microsoft Hv", "microsoft"),
        (b"XenVMMXenVMM", "xen"),
        (b"bhyve bhyve ", "bhyve"),
        (b"VBoxVBoxVBox", "oracle"),
    ];
    let name = known.iter().find(|(signature, _)| *signature == vendor).map(|(_, name)| *name);
    Some(firmware().filter(|f| f == "amazon" || f == "google" || f == "oracle").unwrap_or_else(|| name.unwrap_or("vm-other").to_owned()))
}

/// Other processors don't say.
#[cfg(not(target_arch = "x86_64"))]
fn hypervisor() -> Option<String> {
    None
}

/// The hypervisor by what the firmware says.
fn firmware() -> Option<String> {
    let known = [
        ("KVM", "kvm"),
        ("OpenStack", "kvm"),
        ("KubeVirt", "kvm"),
        ("Amazon EC2", "amazon"),
        ("Google Compute Engine", "google"),
        ("QEMU", "qemu"),
        ("VMware", "vmware"),
        ("innotek GmbH", "oracle"),
        ("VirtualBox", "oracle"),
        ("Xen", "xen"),
        ("Bochs", "bochs"),
        ("Parallels", "parallels"),
        ("BHYVE", "bhyve"),
    ];
    let fields = ["product_name", "sys_vendor", "board_vendor", "bios_vendor"];
    fields.iter().find_map(|field| {
        let text = first_line(&Path::new("/sys/class/dmi/id").join(field))?;
        known.iter().find(|(begin, _)| text.starts_with(begin)).map(|(_, name)| (*name).to_owned())
    })
}

fn read(path: &str) -> String {
    use std::io::Read;
    let mut text = Vec::new();
    let _ = std::fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}
