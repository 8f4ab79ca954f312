//! Linux: dpkg and rpm, systemd and the scripts from before it.

mod dpkg;
mod hardware;
mod question;
mod rpm;
mod service;
mod system;
mod user;

pub use hardware::{boot_time, cpu, drives, firmware_id, memory, mounts, virtualisation};
pub(crate) use question::ask;
pub use service::service_running;
pub use system::{addresses, interfaces, release, services, time_zone, users};
pub use user::{User, user};

use super::{InstalledPackage, Manager, Packages, PlatformError};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The most packages that a machine is taken to have, of one manager.
const PACKAGES_MAX: usize = 100_000;
/// The most names that all packages of one manager together may provide: a kernel's rpm has thousands of symbols.
const PROVIDES_MAX: usize = 400_000;
/// The longest list of packages that is read, as a file or from a program (bytes).
const LIST_MAX: usize = 64 << 20;

/// What every manager below `root` has installed. If one of them can't be asked there is no answer, since it would be half of one.
///
/// Takes milliseconds for dpkg, and up to the time limit of [`packages_of`] for rpm.
pub fn packages(root: &Path) -> Result<Packages, PlatformError> {
    let mut all = Packages::default();
    for manager in Manager::ALL {
        if let Some(installed) = packages_of(root, manager)? {
            all.managers.push(manager);
            all.installed.extend(installed);
        }
    }
    Ok(all)
}

/// What one manager below `root` has installed, by name; none if it is not on the machine.
///
/// dpkg's list is read from its file. For rpm's the program `rpm` is asked, for at most a minute: its database has several
/// formats, and the program is on every machine that has one.
pub fn packages_of(root: &Path, manager: Manager) -> Result<Option<Vec<InstalledPackage>>, PlatformError> {
    let mut installed = match manager {
        Manager::Dpkg => dpkg::packages(root)?,
        Manager::Rpm => rpm::packages(root)?,
    };
    if let Some(installed) = &mut installed {
        installed.sort_unstable();
    }
    Ok(installed)
}

/// What programs are told so that they work below `root` and not on the machine that they run on: nothing where that is `/`.
///
/// dpkg goes by these since its version 1.21 (dpkg(1), *ENVIRONMENT*); rpm knows no such variable.
pub fn environment_below(root: &Path) -> Vec<(&'static str, String)> {
    if root == Path::new("/") {
        return Vec::new();
    }
    let admin = dpkg::folder(root);
    vec![("DPKG_ROOT", root.display().to_string()), ("DPKG_ADMINDIR", admin.display().to_string())]
}

/// Tells whether a manager's list may have changed, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageStamp(Vec<(PathBuf, u64, i64, i64, u64)>);

/// The stamp of a manager's list below `root`: equal stamps, the same list; none if it is not on the machine.
pub fn package_stamp(root: &Path, manager: Manager) -> Option<PackageStamp> {
    let files = match manager {
        Manager::Dpkg => vec![dpkg::status_file(root)],
        Manager::Rpm => rpm::database_files(root),
    };
    let stamp: Vec<_> = files
        .into_iter()
        .filter_map(|path| {
            let metadata = std::fs::metadata(&path).ok()?;
            Some((path, metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
        })
        .collect();
    (!stamp.is_empty()).then_some(PackageStamp(stamp))
}

/// The most entries of a folder that are looked at.
const NAMES_MAX: usize = 4096;

/// The names in a folder, in order; those that are no text are left out.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().take(NAMES_MAX);
    let mut all: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    all.sort_unstable();
    all
}

/// The first line of a small file; none if it can't be read or is empty.
pub(crate) fn first_line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_machine_without_a_manager_has_none_and_a_list_that_changes_has_another_stamp() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(packages(root.path()).unwrap(), Packages::default());
        assert_eq!(Manager::ALL.map(|manager| package_stamp(root.path(), manager)), [None, None]);
        let folder = root.path().join("var/lib/dpkg");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("status"), "").unwrap();
        let all = packages(root.path()).unwrap();
        assert!(all.has(Manager::Dpkg) && !all.has(Manager::Rpm) && all.installed.is_empty());
        let stamp = package_stamp(root.path(), Manager::Dpkg);
        assert_eq!(stamp, package_stamp(root.path(), Manager::Dpkg));
        // As dpkg does it: a new file in the place of the old one.
        fs::write(folder.join("status-new"), "Package: a\nStatus: install ok installed\nVersion: 1\n").unwrap();
        fs::rename(folder.join("status-new"), folder.join("status")).unwrap();
        assert_ne!(stamp, package_stamp(root.path(), Manager::Dpkg));
        assert_eq!(packages(root.path()).unwrap().installed.len(), 1);
    }
}
