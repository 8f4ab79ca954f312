//! Finds what a package's files are made of: in its folder, or a single file.
//!
//! Nothing is followed out of the folder: links are described, not followed, and one that would leave the package is refused, as
//! is whatever isn't a file, a folder or a link.

use super::{
    build::BuildError,
    definition::{Definition, FILE, FILES},
};
use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};
use sutler_base::{
    Invalid, limits,
    path::{RelPath, link_stays_inside},
};

/// What becomes the files of a package.
#[derive(Debug)]
pub enum Files {
    /// What is in a package's folder, as its definition says.
    Folder(PathBuf),
    /// A single file.
    One {
        /// Where it lies in the package.
        at: RelPath,
        /// Where it is.
        path: PathBuf,
        /// Its permission bits in the package.
        mode: u32,
        /// What it was when it was looked at.
        before: Box<Metadata>,
    },
}

/// What lies at a path of the folder.
pub(super) enum What {
    Directory(u32),
    Link(String),
    File { before: Metadata, mode: u32 },
}

pub(super) struct Found {
    pub(super) at: RelPath,
    pub(super) path: PathBuf,
    pub(super) what: What,
}

/// Everything that is installed, sorted by its path in the package.
pub(super) fn find(definition: &Definition, files: &Files) -> Result<Vec<Found>, BuildError> {
    match files {
        Files::Folder(folder) => walk(folder, definition),
        Files::One { at, path, mode, before } => Ok(alone(at, path, *mode, before)),
    }
}

/// A single file and the folders above it.
fn alone(at: &RelPath, path: &Path, mode: u32, before: &Metadata) -> Vec<Found> {
    let above = at.parents().filter_map(|parent| parent.parse().ok());
    let above = above.map(|at| Found { at, path: path.into(), what: What::Directory(0o755) });
    above.chain([Found { at: at.clone(), path: path.into(), what: What::File { before: before.clone(), mode } }]).collect()
}

/// Everything that is installed, sorted by its path in the package.
fn walk(folder: &Path, definition: &Definition) -> Result<Vec<Found>, BuildError> {
    let root = match &definition.files {
        Some(files) => folder.join(files.as_str()),
        None if is_folder(&folder.join(FILES)) => folder.join(FILES),
        None => folder.to_path_buf(),
    };
    // The package's folder itself may be reached through a link; what is below it may not.
    if root != folder && !is_folder(&root) {
        return Err(BuildError::NoFiles(root));
    }
    let mut found: Vec<Found> = Vec::new();
    let mut folders = vec![(root.clone(), String::new())];
    while let Some((here, prefix)) = folders.pop() {
        let failed = |source| BuildError::Read { path: here.clone(), source };
        for entry in fs::read_dir(&here).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default();
            if here == folder && name == FILE {
                continue;
            }
            let at = format!("{prefix}{}", name.to_string_lossy());
            if definition.exclude.iter().any(|pattern| pattern.fits(&at)) {
                continue;
            }
            if name.to_str().is_none() {
                return Err(BuildError::Name { path, why: Invalid::new("its name is not UTF-8") });
            }
            let at: RelPath = match at.parse() {
                Ok(at) => at,
                Err(why) => return Err(BuildError::Name { path, why }),
            };
            let what = look(&root, &at, &path)?;
            if matches!(what, What::Directory(_)) {
                folders.push((path.clone(), format!("{at}/")));
            }
            if found.len() == limits::FILES_MAX {
                return Err(BuildError::TooMany(root));
            }
            found.push(Found { at, path, what });
        }
    }
    found.sort_unstable_by(|a, b| a.at.cmp(&b.at));
    Ok(found)
}

/// Whether this is a folder, and not a link to one.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

/// What lies at `path`, which is `at` in the package.
fn look(root: &Path, at: &RelPath, path: &Path) -> Result<What, BuildError> {
    let failed = |source| BuildError::Read { path: path.into(), source };
    let meta = path.symlink_metadata().map_err(failed)?;
    let kind = meta.file_type();
    if kind.is_dir() {
        // Without these bits nobody could write below it on the client.
        Ok(What::Directory(meta.mode() & 0o777 | 0o700))
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(failed)?;
        let target = target.to_str().ok_or_else(|| BuildError::LinkTarget(path.into()))?.to_owned();
        if link_stays_inside(at, &target) {
            Ok(What::Link(target))
        } else {
            Err(BuildError::LinkLeaves { path: path.into(), target, root: root.into() })
        }
    } else if kind.is_file() {
        if meta.len() > limits::FILE_SIZE_MAX {
            let why = format!("a file has at most {}", limits::FILE_SIZE_MAX);
            return Err(BuildError::TooLong { path: path.into(), size: meta.len(), why });
        }
        Ok(What::File { mode: meta.mode() & 0o777, before: meta })
    } else {
        let what = if kind.is_socket() {
            "a socket"
        } else if kind.is_fifo() {
            "a named pipe"
        } else {
            "a device"
        };
        Err(BuildError::NotAFile { path: path.into(), what })
    }
}
