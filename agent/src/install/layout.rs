//! Where things lie on the machine, and whether the way there can be trusted.
//!
//! The agent writes as root where a package says. Whoever could change a directory or a link on the way would choose
//! where that is. So the way is walked one component at a time, each opened relative to the one before without following
//! links; links are followed by hand, when they are root's and stay inside the root; and what was walked is kept open,
//! so that what was checked is what is used.

use super::{
    durable,
    error::{Error, io, sync},
};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::OsString,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStringExt,
            fs::{MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};
use sutler_base::{AttemptId, path::InstallPath};

/// How many links may lie on the way to one directory; the kernel's own limit.
const LINKS_MAX: u32 = 40;

/// Opens a directory and nothing else, never through a link.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Where the agent installs and where it keeps its own things.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    state: PathBuf,
}

/// Whether directories that are missing on the way are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Create,
    Leave,
}

/// A name in a directory that was walked to and is kept open.
#[derive(Debug)]
pub(crate) struct Spot {
    pub(crate) parent: OwnedFd,
    pub(crate) parent_path: PathBuf,
    pub(crate) name: String,
}

impl Spot {
    pub(crate) fn path(&self) -> PathBuf {
        self.parent_path.join(&self.name)
    }

    /// What lies at `name` beside this spot, links not followed; none if nothing does.
    pub(crate) fn look(&self, name: &str) -> Result<Option<Stat>, Error> {
        look(self.parent.as_fd(), name).map_err(io("look at", self.parent_path.join(name)))
    }

    /// Makes what was renamed in the directory durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        rustix::fs::fsync(&self.parent).map_err(sync(&self.parent_path))
    }
}

fn look(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Layout {
    /// A layout that installs below `root` (`/` on a real machine) and keeps the agent's own things in `state`.
    ///
    /// Both are made if they are missing. `state` must belong to the user that the agent runs as and have mode 0700:
    /// staged programs lie there before root runs them, and a folder that others may enter is refused, not mended, since
    /// nobody knows what was put there.
    pub fn new(root: impl AsRef<Path>, state: impl AsRef<Path>) -> Result<Layout, Error> {
        let (root, state) = (root.as_ref(), state.as_ref());
        fs_err::create_dir_all(root).map_err(io("make the folder", root))?;
        let root = fs_err::canonicalize(root).map_err(io("resolve", root))?;
        if let Some(above) = state.parent() {
            fs_err::create_dir_all(above).map_err(io("make the folder", above))?;
        }
        match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(state) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(io("make the folder", state)(e)),
            _ => {}
        }
        let refuse = |why: String| Err(Error::State { path: state.into(), why });
        let found = fs_err::symlink_metadata(state).map_err(io("look at", state))?;
        if !found.is_dir() {
            return refuse("is not a directory".into());
        }
        let user = rustix::process::geteuid().as_raw();
        if found.uid() != user {
            return refuse(format!("belongs to user {}, not to {user}", found.uid()));
        }
        if found.permissions().mode() & 0o077 != 0 {
            return refuse(format!("lets others in (mode {:04o})", found.permissions().mode() & 0o7777));
        }
        let state = fs_err::canonicalize(state).map_err(io("resolve", state))?;
        Ok(Layout { root, state })
    }

    /// What the agent installs below, without links in it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The agent's own folder, without links in it.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where an installation directory really is on this machine, links on the way resolved; none if something on the
    /// way is missing. The directory itself need not be there.
    pub fn installed(&self, directory: &InstallPath) -> Result<Option<PathBuf>, Error> {
        Ok(self.spot(directory, Missing::Leave)?.map(|spot| spot.path()))
    }

    /// The folder of an item's steps and of its exchange.
    pub(crate) fn item_folder(&self, attempt: &AttemptId, item: usize) -> PathBuf {
        self.state.join("steps").join(attempt.as_str()).join(item.to_string())
    }

    /// The same, made durably.
    pub(crate) fn make_item_folder(&self, attempt: &AttemptId, item: usize) -> Result<PathBuf, Error> {
        durable::private_folders(&self.state, &["steps", attempt.as_str(), &item.to_string()])
    }

    /// Where an item is staged: beside its directory, so that an exchange is a rename on one file system, or in the
    /// agent's folder if it has none.
    pub(crate) fn staging(
        &self,
        directory: Option<&InstallPath>,
        attempt: &AttemptId,
        item: usize,
        missing: Missing,
    ) -> Result<Option<Spot>, Error> {
        match directory {
            Some(directory) => {
                let spot = self.spot(directory, missing)?;
                Ok(spot.map(|spot| Spot { name: staging_name(attempt, item), ..spot }))
            }
            None => {
                let path = match missing {
                    Missing::Create => durable::private_folders(&self.state, &["staging"])?,
                    Missing::Leave => self.state.join("staging"),
                };
                match rustix::fs::openat(CWD, &path, DIRECTORY, Mode::empty()) {
                    Ok(parent) => Ok(Some(Spot { parent, parent_path: path, name: format!("{attempt}-{item}") })),
                    Err(Errno::NOENT) => Ok(None),
                    Err(e) => Err(io("open", path)(e)),
                }
            }
        }
    }

    /// Walks to the directory above `directory`.
    pub(crate) fn spot(&self, directory: &InstallPath, missing: Missing) -> Result<Option<Spot>, Error> {
        let whole = self.root.join(directory.below_root());
        let mut way: VecDeque<OsString> = directory.below_root().split('/').map(OsString::from).collect();
        let name = way.pop_back().and_then(|n| n.into_string().ok()).unwrap_or_default();
        let root = rustix::fs::openat(CWD, &self.root, DIRECTORY, Mode::empty()).map_err(io("open", &self.root))?;
        trusted(&rustix::fs::fstat(&root).map_err(io("look at", &self.root))?, &self.root)?;
        let leaves = || Error::LeavesRoot { path: whole.clone(), root: self.root.clone() };
        let mut walked: Vec<(OwnedFd, OsString)> = Vec::new();
        let mut links = 0;
        while let Some(part) = way.pop_front() {
            if part.is_empty() || part == "." {
                continue;
            }
            if part == ".." {
                // Above `/` is `/`; above any other root is what the root is there to keep us from.
                if walked.pop().is_none() && self.root != Path::new("/") {
                    return Err(leaves());
                }
                continue;
            }
            let here = walked.last().map_or(root.as_fd(), |(fd, _)| fd.as_fd());
            let path = walked.iter().fold(self.root.clone(), |path, (_, name)| path.join(name)).join(&part);
            let Some(stat) = look(here, &part).map_err(io("look at", &path))? else {
                if missing == Missing::Leave {
                    return Ok(None);
                }
                match rustix::fs::mkdirat(here, &part, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {
                        // The agent's umask may be narrower than what other users need to reach the software.
                        let made = rustix::fs::openat(here, &part, DIRECTORY, Mode::empty()).map_err(io("open", &path))?;
                        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(io("set the mode of", &path))?;
                        rustix::fs::fsync(here).map_err(sync(&path))?;
                    }
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(io("make the folder", &path)(e)),
                }
                way.push_front(part);
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let next = rustix::fs::openat(here, &part, DIRECTORY, Mode::empty()).map_err(io("open", &path))?;
                    trusted(&rustix::fs::fstat(&next).map_err(io("look at", &path))?, &path)?;
                    walked.push((next, part));
                }
                FileType::Symlink => {
                    links += 1;
                    owned(&stat, &path)?;
                    if links > LINKS_MAX {
                        return Err(io("follow the links of", &path)(Errno::LOOP));
                    }
                    let to = rustix::fs::readlinkat(here, &part, Vec::new()).map_err(io("read the link", &path))?.into_bytes();
                    if to.starts_with(b"/") {
                        if self.root != Path::new("/") {
                            return Err(leaves());
                        }
                        walked.clear();
                    }
                    for part in to.split(|b| *b == b'/').rev() {
                        way.push_front(OsString::from_vec(part.to_vec()));
                    }
                }
                _ => return Err(Error::NotADirectory { path }),
            }
        }
        let parent_path = walked.iter().fold(self.root.clone(), |path, (_, name)| path.join(name));
        let parent = walked.pop().map_or(root, |(fd, _)| fd);
        Ok(Some(Spot { parent, parent_path, name }))
    }
}

/// The name of the staged tree beside the installation directory; after an exchange the old tree has it.
pub(crate) fn staging_name(attempt: &AttemptId, item: usize) -> String {
    format!(".sutler-{attempt}-{item}")
}

fn owned(stat: &Stat, path: &Path) -> Result<(), Error> {
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Error::Untrusted { path: path.into(), why: format!("belongs to user {}", stat.st_uid) });
    }
    Ok(())
}

/// A group may be allowed to write (Debian's `staff` in `/usr/local` is); everybody may not, unless the sticky bit keeps
/// them from what is not theirs.
fn trusted(stat: &Stat, path: &Path) -> Result<(), Error> {
    owned(stat, path)?;
    if stat.st_mode & 0o1002 == 0o0002 {
        return Err(Error::Untrusted {
            path: path.into(),
            why: format!("can be written by everybody (mode {:04o})", stat.st_mode & 0o7777),
        });
    }
    Ok(())
}

/// How many bytes the agent can still write to the file system that `path` is on.
pub fn room(path: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(path).map_err(io("ask for the free space of", path))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
