//! The seam to an operating system: what only Linux, or only one kind of Linux, can tell about the machine.
//!
//! Everything here blocks for as long as it is said to: call it on a blocking thread. Whoever calls names a root, `/` on a real
//! machine, and what is asked about is what is below it. Nothing here changes anything.
//!
//! Another operating system gets a module beside [`linux`] with the same functions, and nothing outside of this folder names one.

mod linux;

pub use linux::{
    PackageStamp, User, addresses, boot_time, cpu, drives, environment_below, firmware_id, interfaces, memory, mounts, package_stamp,
    packages, packages_of, release, service_running, services, time_zone, user, users, virtualisation,
};
pub(crate) use linux::{ask, first_line};

use std::{fmt, io, path::PathBuf};

/// What keeps the list of a machine's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Manager {
    /// Debian's, and that of what came from it.
    Dpkg,
    /// That of Red Hat, SUSE and what came from them.
    Rpm,
}

impl Manager {
    /// All of them.
    pub const ALL: [Manager; 2] = [Manager::Dpkg, Manager::Rpm];

    /// As people and facts name it: `dpkg`, `rpm`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Manager::Dpkg => "dpkg",
            Manager::Rpm => "rpm",
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstalledPackage {
    /// Who says so.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its version in the manager's own order: `[epoch:]upstream[-revision]` of dpkg, `[epoch:]version-release` of rpm.
    pub version: String,
    /// `amd64`, `all`; `x86_64`, `noarch`. Empty where the manager doesn't say.
    pub architecture: String,
    /// What it also counts as; its own name only where its maker lists that.
    pub provides: Vec<Provided>,
}

/// A name that a package also counts as.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Provided {
    /// The name.
    pub name: String,
    /// In which version; none if the package doesn't say.
    pub version: Option<String>,
}

/// What the managers of a machine have installed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packages {
    /// The managers that are on the machine, whether they have installed anything or not.
    pub managers: Vec<Manager>,
    /// What they have installed, by manager and name.
    pub installed: Vec<InstalledPackage>,
}

impl Packages {
    /// Whether this manager is on the machine at all.
    pub fn has(&self, manager: Manager) -> bool {
        self.managers.contains(&manager)
    }
}

/// Why the machine could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// A file can't be used.
    #[error("can't {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or an answer is no list of packages, or longer than one can be.
    #[error("the list of {manager}'s packages in {} can't be used: {why}", path.display())]
    List {
        /// Whose.
        manager: Manager,
        /// The file or folder that it is in.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A manager has a list here and its program isn't there to read it.
    #[error("{} is a database of {manager}, and there is no program to read it: {program} is not in {places}; install it", path.display())]
    NoProgram {
        /// Whose.
        manager: Manager,
        /// The database.
        path: PathBuf,
        /// What was looked for.
        program: &'static str,
        /// Where.
        places: String,
    },
    /// A program did not say what it was asked.
    #[error("{program} did not answer: {why}")]
    Program {
        /// The program with its arguments.
        program: String,
        /// What came of it.
        why: String,
    },
    /// Not a service's name.
    #[error("{name} is no name of a service: give 1 to 128 of a–z, A–Z, 0–9 and . _ @ : -, beginning with a letter or digit")]
    ServiceName {
        /// What was given, quoted.
        name: String,
    },
    /// Others than root and the agent's own user may change what would be run.
    #[error("not run: {0}")]
    Exposed(#[from] crate::guard::Exposed),
}
