//! Small files that are there whole or not at all, also after a power cut.

use super::error::{Error, io, sync};
use std::{fs::File, io::Write, os::unix::fs::DirBuilderExt, path::Path};

/// Replaces the file `name` in `folder` by `bytes`: a temporary file, `fsync`, rename, `fsync` of the folder.
pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let temporary = folder.join(format!("{name}.new"));
    let mut file = File::create(&temporary).map_err(io("create", &temporary))?;
    file.write_all(bytes).map_err(io("write", &temporary))?;
    file.sync_all().map_err(sync(&temporary))?;
    let path = folder.join(name);
    std::fs::rename(&temporary, &path).map_err(io("rename a file to", &path))?;
    sync_folder(folder)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).map_err(io("open", folder))?.sync_all().map_err(sync(folder))
}

/// Makes a private folder (mode 0700) durably, with those above it below `base`; `base` is there already.
pub(crate) fn private_folders(base: &Path, names: &[&str]) -> Result<std::path::PathBuf, Error> {
    let mut path = base.to_path_buf();
    for name in names {
        let above = path.clone();
        path.push(name);
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => sync_folder(&above)?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io("make the folder", &path)(e)),
        }
    }
    Ok(path)
}

/// The content of a file, or none if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io("read", path)(e)),
    }
}
