//! The new tree takes the place of the old one in one rename, and can go back in one.
//!
//! Readers of the old tree keep what they have open; who opens a path gets one tree or the other, never a mix. The old
//! tree waits in the staging place until [`Exchange::commit`] removes it or [`Exchange::restore`] puts it back.
//!
//! How a restart knows where it was: every finished tree carries a record of what it is and of which attempt
//! ([`TreeRecord`], in the file `.sutler`). A rename moves the record with the tree, so what is on the disk can't
//! disagree with what happened. What the trees can't tell (was there an old one? is the exchange being taken back?) is in
//! `state/steps/<attempt>/<item>/exchange`, durable before the rename that it is about. Every move may be asked for again.

use super::{
    durable,
    error::{Error, io},
    layout::{DIRECTORY, Layout, Missing, Spot, staging_name},
};
use rustix::{
    fs::{FileType, Mode, OFlags, RenameFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use sutler_base::{
    AttemptId, Digest, PackageName, Version,
    manifest::Supersedes,
    path::{InstallPath, RelPath},
};

/// The file at the top of an installed tree that says what it is. A package can't have an entry of this name.
pub(crate) const RECORD: &str = ".sutler";

/// The longest record (bytes): names and digests, far below this.
const RECORD_MAX: u64 = 16 << 10;

/// The file with what the trees can't tell.
const PHASE: &str = "exchange";

/// What an installed tree says about itself. It goes when the tree goes, so it never claims what was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRecord {
    /// The attempt that installed it.
    pub attempt: AttemptId,
    /// Which package of the attempt.
    pub item: usize,
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: Version,
    /// Its release.
    pub release: u64,
    /// The digest of its manifest.
    pub manifest: Digest,
}

impl TreeRecord {
    /// The record of the tree that is installed at `directory`; none if nothing is, or nothing that Sutler installed.
    pub fn read(layout: &Layout, directory: &InstallPath) -> Result<Option<TreeRecord>, Error> {
        match layout.spot(directory, Missing::Leave)? {
            Some(spot) => record_of(&spot, &spot.name),
            None => Ok(None),
        }
    }
}

pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a record is plain data")
}

/// Where the exchange of one item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeState {
    /// What was there before is in its place, and nothing has to be taken back.
    Before,
    /// The new tree is in its place; the old one, if there was one, waits.
    Exchanged,
    /// The new tree is in its place for good.
    Committed,
    /// What was there before is being put back, or has been: [`Exchange::restore`] brings it to its end.
    Restored,
}

impl fmt::Display for ExchangeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExchangeState::Before => "not made yet",
            ExchangeState::Exchanged => "made",
            ExchangeState::Committed => "made for good",
            ExchangeState::Restored => "taken back",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Exchanging,
    Committed,
    Restoring,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct PhaseFile {
    phase: Phase,
    /// Whether there was a tree before.
    old: bool,
}

/// Which tree lies at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Absent,
    New,
    Other,
}

/// The exchange of the tree of one item of an attempt.
#[derive(Debug, Clone)]
pub struct Exchange<'a> {
    layout: &'a Layout,
    directory: &'a InstallPath,
    package: &'a PackageName,
    supersedes: &'a [Supersedes],
    attempt: &'a AttemptId,
    item: usize,
    /// The program of the agent that runs, if this is the exchange of a new one for it.
    agent: Option<&'a RelPath>,
}

impl<'a> Exchange<'a> {
    /// The exchange of `package`'s tree at `directory`. Nothing is touched yet.
    pub fn new(layout: &'a Layout, directory: &'a InstallPath, package: &'a PackageName, attempt: &'a AttemptId, item: usize) -> Self {
        Exchange { layout, directory, package, supersedes: &[], attempt, item, agent: None }
    }

    /// The same, of an agent whose program this is. Somebody has put the first one there by hand: the tree of that is taken
    /// over, if there is nothing else in it.
    pub fn over_agent(self, program: Option<&'a RelPath>) -> Self {
        Exchange { agent: program, ..self }
    }

    /// Where the new tree waits.
    pub fn staged(&self) -> Result<PathBuf, Error> {
        Ok(self.spot()?.parent_path.join(staging_name(self.attempt, self.item)))
    }

    /// The same of a package that takes the place of these: what they brought is not foreign to it.
    pub fn superseding(self, supersedes: &'a [Supersedes]) -> Self {
        Exchange { supersedes, ..self }
    }

    /// Where it is, as the disk tells.
    pub fn state(&self) -> Result<ExchangeState, Error> {
        Ok(match self.phase()?.map(|p| p.phase) {
            None => ExchangeState::Before,
            Some(Phase::Committed) => ExchangeState::Committed,
            Some(Phase::Restoring) => ExchangeState::Restored,
            Some(Phase::Exchanging) => match self.layout.spot(self.directory, Missing::Leave)? {
                Some(spot) if self.tree(&spot, &spot.name)? == Tree::New => ExchangeState::Exchanged,
                _ => ExchangeState::Before,
            },
        })
    }

    /// Whether there was a tree before the exchange; false if there was no exchange.
    pub fn had_old(&self) -> Result<bool, Error> {
        Ok(self.phase()?.is_some_and(|phase| phase.old))
    }

    /// Puts the finished tree in its place, durably. Asked again after it was done, it does nothing.
    ///
    /// [`Error::Occupied`] if the place holds what another package or somebody else put there.
    pub fn exchange(&self) -> Result<(), Error> {
        match self.state()? {
            ExchangeState::Before => {}
            ExchangeState::Exchanged => return self.spot()?.sync(),
            state => return Err(self.wrong("exchanged", state)),
        }
        let spot = self.spot()?;
        let (new, target) = (staging_name(self.attempt, self.item), spot.name.as_str());
        if self.tree(&spot, &new)? != Tree::New {
            return Err(io("find a finished tree at", spot.parent_path.join(new))(Errno::NOENT));
        }
        self.refuse_foreign()?;
        let old = spot.look(target)?.is_some();
        self.set_phase(PhaseFile { phase: Phase::Exchanging, old })?;
        let top =
            rustix::fs::openat(&spot.parent, new.as_str(), DIRECTORY, Mode::empty()).map_err(io("open", spot.parent_path.join(&new)))?;
        rustix::fs::fchmod(&top, Mode::from_raw_mode(0o755)).map_err(io("set the mode of", spot.parent_path.join(&new)))?;
        self.rename(&spot, &new, target, if old { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE })
    }

    /// Makes it final: the old tree is removed. May be asked for again, and must be after a crash while it ran.
    pub fn commit(&self) -> Result<(), Error> {
        match (self.state()?, self.phase()?) {
            (ExchangeState::Committed, _) => {}
            (ExchangeState::Exchanged, Some(PhaseFile { old, .. })) => self.set_phase(PhaseFile { phase: Phase::Committed, old })?,
            (state, _) => return Err(self.wrong("committed", state)),
        }
        self.clear()
    }

    /// Puts back what was there before and removes the new tree. May be asked for again; does nothing if nothing was
    /// exchanged. Refused after a commit: then the old tree is gone.
    pub fn restore(&self) -> Result<(), Error> {
        let phase = match self.phase()? {
            // Nothing was exchanged, and so there is nothing to be put back.
            None => return Ok(()),
            Some(PhaseFile { phase: Phase::Committed, .. }) => return Err(self.wrong("restored", ExchangeState::Committed)),
            Some(phase) => phase,
        };
        self.set_phase(PhaseFile { phase: Phase::Restoring, ..phase })?;
        let spot = self.spot()?;
        let (staged, target) = (staging_name(self.attempt, self.item), spot.name.as_str());
        match (self.tree(&spot, target)?, self.tree(&spot, &staged)?) {
            (Tree::New, Tree::Other) => self.rename(&spot, &staged, target, RenameFlags::EXCHANGE)?,
            // A step removed the new tree; the old one still waits.
            (Tree::Absent, Tree::Other) => self.rename(&spot, &staged, target, RenameFlags::NOREPLACE)?,
            (Tree::New, _) if !phase.old => self.rename(&spot, target, &staged, RenameFlags::NOREPLACE)?,
            (Tree::New, _) => return Err(io("find the old tree at", spot.parent_path.join(staged))(Errno::NOENT)),
            // A step took the record away, or somebody put another tree there: neither is ours to remove.
            (Tree::Other, staged) if staged != Tree::New && phase.old == (staged == Tree::Other) => {
                return Err(Error::Occupied { path: spot.path(), by: "something else than the new tree".into() });
            }
            _ => {}
        }
        self.clear()
    }

    /// Removes what is staged for this item and not in its place: for an attempt that ended before its exchange, or to
    /// clean up after one that was committed or taken back. Refused while the old tree waits there.
    pub fn discard(&self) -> Result<(), Error> {
        match (self.state()?, self.phase()?.map(|p| p.phase)) {
            (_, Some(Phase::Restoring)) => self.restore(),
            (ExchangeState::Exchanged, _) => Err(self.wrong("discarded", ExchangeState::Exchanged)),
            _ => self.clear(),
        }
    }

    /// Refuses an installation directory with what this package did not bring: exchanging it would take it away.
    pub(crate) fn refuse_foreign(&self) -> Result<(), Error> {
        let Some(spot) = self.layout.spot(self.directory, Missing::Leave)? else { return Ok(()) };
        let Some(stat) = spot.look(&spot.name)? else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::NotADirectory { path: spot.path() });
        }
        let path = spot.path();
        match record_of(&spot, &spot.name)? {
            Some(record) if record.package == *self.package || self.supersedes.iter().any(|s| s.package == record.package) => Ok(()),
            Some(record) => Err(Error::Occupied { path, by: format!("the package {}", record.package) }),
            None if std::fs::read_dir(&path).map_err(io("read the folder", &path))?.next().is_none() => Ok(()),
            None if self.agent.map_or(Ok(false), |program| holds_nothing_but(&path, program))? => Ok(()),
            None => Err(Error::Occupied { path, by: "files that Sutler did not install".into() }),
        }
    }

    fn wrong(&self, asked: &'static str, state: ExchangeState) -> Error {
        Error::Phase { path: self.layout.root().join(self.directory.below_root()), asked, state }
    }

    fn spot(&self) -> Result<Spot, Error> {
        let spot = self.layout.spot(self.directory, Missing::Leave)?;
        spot.ok_or_else(|| io("find the folder above", self.layout.root().join(self.directory.below_root()))(Errno::NOENT))
    }

    fn tree(&self, spot: &Spot, name: &str) -> Result<Tree, Error> {
        if spot.look(name)?.is_none() {
            return Ok(Tree::Absent);
        }
        let ours = record_of(spot, name)?.is_some_and(|r| r.attempt == *self.attempt && r.item == self.item);
        Ok(if ours { Tree::New } else { Tree::Other })
    }

    fn rename(&self, spot: &Spot, from: &str, to: &str, flags: RenameFlags) -> Result<(), Error> {
        rustix::fs::renameat_with(&spot.parent, from, &spot.parent, to, flags)
            .map_err(io("exchange the trees at", spot.parent_path.join(to)))?;
        spot.sync()
    }

    /// Removes what lies in the staging place. It is renamed first: what has its name is whole.
    fn clear(&self) -> Result<(), Error> {
        let Some(spot) = self.layout.spot(self.directory, Missing::Leave)? else { return Ok(()) };
        remove(&spot, &staging_name(self.attempt, self.item))
    }

    fn phase(&self) -> Result<Option<PhaseFile>, Error> {
        let path = self.layout.item_folder(self.attempt, self.item).join(PHASE);
        let Some(bytes) = durable::read(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| io("understand", path)(std::io::Error::from(e)))
    }

    fn set_phase(&self, phase: PhaseFile) -> Result<(), Error> {
        durable::write(&self.layout.make_item_folder(self.attempt, self.item)?, PHASE, &to_json(&phase))
    }
}

/// Removes the tree that `package` has at `directory`. Asked again it finishes what was cut off; what somebody else has put
/// there stays.
pub fn remove_installed(layout: &Layout, directory: &InstallPath, package: &PackageName) -> Result<(), Error> {
    let Some(spot) = layout.spot(directory, Missing::Leave)? else { return Ok(()) };
    if record_of(&spot, &spot.name)?.is_some_and(|record| record.package == *package) {
        remove(&spot, &spot.name)?;
    } else if record_of(&spot, &gone(&spot.name))?.is_some_and(|record| record.package == *package) {
        remove_tree(&spot.parent_path.join(gone(&spot.name)))?;
    }
    spot.sync()
}

/// Whether there is nothing in a folder but this file and the folders on the way to it.
fn holds_nothing_but(folder: &Path, file: &RelPath) -> Result<bool, Error> {
    let mut at = folder.to_path_buf();
    for name in file.as_str().split('/') {
        let entries: Vec<_> = std::fs::read_dir(&at).and_then(|all| all.take(2).collect()).map_err(io("read the folder", &at))?;
        let [only] = &entries[..] else { return Ok(false) };
        if only.file_name() != *name {
            return Ok(false);
        }
        at.push(name);
    }
    Ok(at.symlink_metadata().is_ok_and(|found| found.is_file()))
}

/// What a directory is called while it is being removed.
fn gone(name: &str) -> String {
    format!("{name}.gone")
}

/// Removes the staged tree of an item without a directory, once its steps have ended.
pub(crate) fn discard_staging(layout: &Layout, attempt: &AttemptId, item: usize) -> Result<(), Error> {
    match layout.staging(None, attempt, item, Missing::Leave)? {
        Some(spot) => remove(&spot, &spot.name),
        None => Ok(()),
    }
}

/// Removes a directory beside a spot, however an earlier removal was cut off.
pub(super) fn remove(spot: &Spot, name: &str) -> Result<(), Error> {
    let going = gone(name);
    for _ in 0..2 {
        if spot.look(&going)?.is_some() {
            remove_tree(&spot.parent_path.join(&going))?;
        }
        match rustix::fs::renameat_with(&spot.parent, name, &spot.parent, going.as_str(), RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(io("rename", spot.parent_path.join(name))(e)),
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            // A package may have directories that their owner can't write to; only root could remove those as they are.
            unlock(path).and_then(|()| std::fs::remove_dir_all(path)).map_err(io("remove", path))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(io("remove", path)),
    }
}

fn unlock(directory: &Path) -> std::io::Result<()> {
    let mut todo = vec![directory.to_path_buf()];
    while let Some(directory) = todo.pop() {
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(())
}

/// The record of the tree that lies at `name`; none if it has none, or one that can't be understood.
fn record_of(spot: &Spot, name: &str) -> Result<Option<TreeRecord>, Error> {
    let path = spot.parent_path.join(name);
    let top = match rustix::fs::openat(&spot.parent, name, DIRECTORY, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(e) => return Err(io("open", path)(e)),
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(&top, RECORD, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(e) => return Err(io("open", path.join(RECORD))(e)),
    };
    let mut bytes = Vec::new();
    match file.take(RECORD_MAX).read_to_end(&mut bytes) {
        Ok(_) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => Ok(None),
        Err(e) => Err(io("read", path.join(RECORD))(e)),
    }
}
