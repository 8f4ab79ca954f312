//! What Debian's packages and rpm's have in common: architectures, room on the disk, where the file is kept on the machine.

use super::tree::Tree;
use sutler_base::{
    Invalid, PackageName, limits,
    manifest::{Platform, Requirement},
    path::InstallPath,
    quoted,
};

/// Where the machine's own packages are kept, each in a folder of its own, as long as they are installed.
pub(super) const CACHE: &str = "/var/cache/sutler/packages";

/// The folder of a package in [`CACHE`].
pub(super) fn directory(name: &PackageName) -> Result<InstallPath, Invalid> {
    format!("{CACHE}/{name}").parse()
}

/// A processor's architecture, as an agent names its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Every one.
    Any,
    /// This one.
    One(&'static str),
    /// Programs of 32 bits, which machines of both kinds run.
    X86,
}

impl Architecture {
    /// As Debian calls them.
    pub(super) fn of_debian(word: &str) -> Option<Architecture> {
        Some(match word {
            "all" => Architecture::Any,
            "amd64" => Architecture::One("x86_64"),
            "arm64" => Architecture::One("aarch64"),
            "i386" => Architecture::X86,
            "armhf" | "armel" => Architecture::One("arm"),
            "ppc64el" => Architecture::One("powerpc64"),
            "s390x" => Architecture::One("s390x"),
            "riscv64" => Architecture::One("riscv64"),
            "loong64" => Architecture::One("loongarch64"),
            _ => return None,
        })
    }

    /// As rpm calls them.
    pub(super) fn of_rpm(word: &str) -> Option<Architecture> {
        Some(match word {
            "noarch" => Architecture::Any,
            "x86_64" | "x86_64_v2" | "x86_64_v3" | "x86_64_v4" => Architecture::One("x86_64"),
            "aarch64" => Architecture::One("aarch64"),
            "i386" | "i486" | "i586" | "i686" => Architecture::X86,
            "armv7hl" | "armv7hnl" | "armv6hl" | "armv5tel" => Architecture::One("arm"),
            "ppc64le" => Architecture::One("powerpc64"),
            "s390x" => Architecture::One("s390x"),
            "riscv64" => Architecture::One("riscv64"),
            "loongarch64" => Architecture::One("loongarch64"),
            _ => return None,
        })
    }

    /// As the header of a program numbers them.
    pub(super) fn of_elf(machine: u16) -> Option<Architecture> {
        Some(match machine {
            3 => Architecture::X86,
            21 => Architecture::One("powerpc64"),
            22 => Architecture::One("s390x"),
            40 => Architecture::One("arm"),
            62 => Architecture::One("x86_64"),
            183 => Architecture::One("aarch64"),
            243 => Architecture::One("riscv64"),
            258 => Architecture::One("loongarch64"),
            _ => return None,
        })
    }

    pub(super) fn platform(self) -> Platform {
        let arch = if let Architecture::One(arch) = self { arch } else { "any" };
        Platform { os: "linux".into(), arch: arch.into() }
    }

    /// What the platform alone can't say.
    pub(super) fn requirement(self) -> Option<Requirement> {
        (self == Architecture::X86).then(|| Requirement::Arch { any_of: vec!["x86".into(), "x86_64".into()] })
    }
}

/// So much room where most of it goes; none where nothing goes.
pub(super) fn installed_size(bytes: u64, payload: &Tree) -> Option<Requirement> {
    let most = payload.bytes.iter().max_by_key(|(_, bytes)| **bytes).map_or("usr", |(top, _)| top.as_str());
    // A folder of the system itself can't be named, but any below it is on the same disk or will be.
    let path: Option<InstallPath> = format!("/{most}/share").parse().ok();
    (bytes > 0).then_some(Requirement::FreeDisk { at_least: bytes, path })
}

/// The requirements, each once, and no more than there can be; what was left out is said.
pub(super) fn bounded(requirements: Vec<Requirement>, notes: &mut Vec<String>) -> Vec<Requirement> {
    let (mut all, mut nodes, mut left_out): (Vec<Requirement>, usize, usize) = (Vec::new(), 0, 0);
    for requirement in requirements {
        let own = if let Requirement::Any { of } = &requirement { of.len() + 1 } else { 1 };
        if all.contains(&requirement) {
            continue;
        }
        // A few are left for who adds some.
        if nodes + own > limits::REQUIREMENTS_MAX - 32 {
            left_out += 1;
        } else {
            nodes += own;
            all.push(requirement);
        }
    }
    if left_out > 0 {
        notes.push(format!(
            "{left_out} of its dependencies are too many for a package and are asked on the machine alone, when it is installed"
        ));
    }
    all
}

/// Tells of programs that run as their owner, whoever starts them.
pub(super) fn privileged(payload: &Tree) -> Option<String> {
    let shown: Vec<_> = payload.privileged.iter().take(5).map(|path| quoted(path)).collect();
    let more = payload.privileged.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!shown.is_empty()).then(|| format!("runs with its owner's rights, whoever starts it (setuid or setgid): {}{more}", shown.join(", ")))
}
