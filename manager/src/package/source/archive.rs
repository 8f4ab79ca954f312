//! A tar archive, packed or not: it is unpacked into a folder of its own, by the rules of [`super::tree`], and is then a
//! package's folder like any other.
//!
//! A `package.toml` in it counts, at the top or in the single folder that is there. Without one, what lies there is installed as
//! it is, and the name and the version must be given. Nothing of an archive is written that was not found good before: each
//! entry is checked before it is written, and the folder is new, ours alone, and removed at the end.

use super::{
    Refused, SourceError, SourceLimits, Wanted,
    packed::{Bounded, MAGIC, Packing, fill},
    tar::Tar,
    tree::{Kind, Root, Tree, shown},
};
use crate::package::definition::{self, Definition};
use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Seek},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use sutler_base::told;
use tempfile::TempDir;

/// Folders that belong to what is installed even if there is nothing beside them.
const USUAL: [&str; 12] = ["bin", "sbin", "lib", "lib64", "libexec", "etc", "usr", "opt", "var", "share", "include", "files"];

/// An archive that was unpacked.
pub(super) struct Unpacked {
    pub(super) definition: Definition,
    /// The folder that is the package's.
    pub(super) folder: PathBuf,
    /// What it lies in.
    pub(super) work: Arc<TempDir>,
    pub(super) notes: Vec<String>,
}

/// How a file is packed, if there is a tar archive in it; nothing is unpacked but its beginning.
pub(super) fn recognise(file: &mut File) -> Result<Option<Packing>, Refused> {
    let failed = |e: io::Error| Refused::whole(told(&e));
    let mut head = [0; MAGIC];
    let n = fill(file, &mut head).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let packing = Packing::of(&head[..n])?;
    let mut beginning = [0; 512];
    let length = fill(&mut packing.undo(&*file)?, &mut beginning);
    file.rewind().map_err(failed)?;
    match (packing, length) {
        // Older archives than ustar have no mark; those of today do.
        (_, Ok(512)) if &beginning[257..262] == b"ustar" => Ok(Some(packing)),
        (Packing::Plain, _) => Ok(None),
        (_, Err(e)) => Err(failed(e)),
        _ => Err(Refused::whole("what is packed in it is no tar archive")),
    }
}

/// Unpacks an archive of so many bytes below a new folder; its `path` is named in errors.
pub(super) fn read(
    path: &Path,
    file: &File,
    packing: Packing,
    length: u64,
    wanted: &Wanted,
    bounds: &SourceLimits,
) -> Result<Unpacked, SourceError> {
    let work = tempfile::Builder::new().prefix("sutler-").permissions(Permissions::from_mode(0o700)).tempdir();
    let work = work.map_err(|e| Refused::whole(format!("a folder to unpack it can't be made: {}", told(&e))))?;
    let root = work.path().join("content");
    fs::create_dir(&root).map_err(|e| failed("", &e))?;
    let (tree, mut notes) = unpack(Bounded::new(packing.undo(file)?, length, bounds), &root, bounds)?;
    let mut folder = root.clone();
    if !root.join(definition::FILE).exists()
        && let Some(top) = tree.single_top()
        && (!USUAL.contains(&top) || root.join(top).join(definition::FILE).exists())
    {
        folder.push(top);
        notes.push(format!("its single folder {} is left out of the paths", shown(top.as_bytes())));
    }
    let definition = if folder.join(definition::FILE).exists() {
        let text = definition::read_text(&folder.join(definition::FILE))?;
        // Whoever reads an error knows the archive, not our folder.
        Definition::parse(&path.join(definition::FILE), &text)?
    } else {
        described(wanted)?
    };
    Ok(Unpacked { definition, folder, work: Arc::new(work), notes })
}

/// The package of an archive that does not describe itself.
fn described(wanted: &Wanted) -> Result<Definition, Refused> {
    let (Some(name), Some(version)) = (&wanted.name, &wanted.version) else {
        let lacks = if wanted.name.is_none() { "--name" } else { "--version" };
        return Err(Refused::whole(format!(
            "there is no {} in it, so it does not say what it is: give {lacks}, for example --name tool --version 1.2.3",
            definition::FILE
        )));
    };
    let mut definition = Definition::new(name.clone(), version.clone());
    definition.directory = Some(format!("/opt/{name}").parse().map_err(|e: sutler_base::Invalid| Refused::whole(e.0))?);
    Ok(definition)
}

fn failed(entry: &str, error: &io::Error) -> Refused {
    Refused { entry: (!entry.is_empty()).then(|| shown(entry.as_bytes())), why: format!("can't be unpacked: {}", told(error)) }
}

/// Writes everything below `root`, which is empty.
fn unpack(packed: impl Read, root: &Path, bounds: &SourceLimits) -> Result<(Tree, Vec<String>), Refused> {
    let (mut tar, mut tree) = (Tar::new(packed), Tree::new(Root::Package, bounds));
    while let Some(member) = tar.next()? {
        let Some(path) = tree.add(&member)? else { continue };
        let at = root.join(path.as_str());
        let failed = |e: io::Error| failed(path.as_str(), &e);
        for parent in path.parents().map(|parent| root.join(parent)) {
            match fs::create_dir(&parent) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.and_then(|()| fs::set_permissions(&parent, Permissions::from_mode(0o755))).map_err(failed)?,
            }
        }
        match &member.kind {
            Kind::Folder => {
                fs::create_dir_all(&at).map_err(failed)?;
                // Without these bits nothing could be written below it.
                fs::set_permissions(&at, Permissions::from_mode(member.mode & 0o777 | 0o700)).map_err(failed)?;
            }
            Kind::File => {
                let mut file = File::options().write(true).create_new(true).mode(0o600).open(&at).map_err(failed)?;
                if io::copy(&mut (&mut tar).take(member.size), &mut file).map_err(failed)? < member.size {
                    return Err(Refused { entry: Some(shown(&member.name)), why: "is cut off".into() });
                }
                file.set_permissions(Permissions::from_mode(member.mode & 0o777 | 0o400)).map_err(failed)?;
            }
            Kind::Link(target) => {
                let target = std::str::from_utf8(target).unwrap_or_default();
                std::os::unix::fs::symlink(target, &at).map_err(failed)?;
            }
            Kind::HardLink(target) => {
                let target = String::from_utf8_lossy(target);
                let target = root.join(target.strip_prefix("./").unwrap_or(&target));
                fs::hard_link(target, &at).map_err(failed)?;
            }
            Kind::Other(_) => {}
        }
    }
    let notes = super::software::privileged(&tree).map(|note| format!("{note}; these bits are not kept"));
    Ok((tree, notes.into_iter().collect()))
}
