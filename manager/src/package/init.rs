//! Writes the folder that a package is made of: of nothing, of files that are there, or of what else is one.

use super::{
    build::{self, BuildError},
    definition::{Definition, FILE, FILES},
    found::{self, What},
    source::Source,
    write_example,
};
use fs_err as fs;
use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use sutler_base::manifest::{Phase, Step};

/// Programs that install what lies beside them, as people call them.
const INSTALLERS: [&str; 6] = ["install.sh", "install", "setup.sh", "setup", "installer.sh", "installer"];

/// Why no folder was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one.
    #[error("{} has a {FILE} already; it is left as it is", .0.display())]
    There(PathBuf),
    /// The folder is to be a new one.
    #[error("{} is there already and is not empty; name another folder, or empty it", .0.display())]
    NotEmpty(PathBuf),
    /// It can't be written.
    #[error(transparent)]
    Write(#[from] io::Error),
    /// What it is made of can't be read.
    #[error(transparent)]
    Build(#[from] BuildError),
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

/// Makes `folder` one that a package is made of: with the example if it is not there or is empty; else with a `package.toml` that
/// fits what lies there, to be looked at and completed.
pub fn init(folder: &Path) -> Result<(), InitError> {
    if folder.join(FILE).exists() {
        return Err(InitError::There(folder.into()));
    }
    if is_empty(folder)? {
        return Ok(write_example(folder)?);
    }
    let called = folder.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String = called.chars().map(|c| if c.is_ascii_alphanumeric() || "+.-".contains(c) { c } else { '-' }).collect();
    let name = name.trim_matches(['-', '.', '+']);
    let name = name.parse().unwrap_or_else(|_| "package".parse().expect("it is a name"));
    let mut definition = Definition::new(name, "1.0".parse().expect("it is a version"));
    definition.directory = format!("/opt/{}", definition.name).parse().ok();
    let files = if folder.join(FILES).is_dir() { folder.join(FILES) } else { folder.to_owned() };
    if let Some(installer) = INSTALLERS.iter().find(|name| files.join(name).is_file()) {
        definition.steps.push(Step::new("install", Phase::Install, vec![(*installer).to_owned()]));
    }
    let text = definition.to_toml() + MORE;
    Ok(fs::write(folder.join(FILE), text)?)
}

/// What is likely missing where only files were there.
const MORE: &str = "
# How to see that it is installed; without a rule it is installed again whenever it is ordered, and nothing is verified after:
# [[detection]]
# file = \"/usr/bin/hello\"
# Also: command = [\"/usr/bin/hello\", \"--version\"], output = \"1.0\"; service = \"hello\"; package = \"hello\", manager = \"dpkg\".

# How to take it off a machine:
# [[step]]
# name = \"uninstall\"
# phase = \"uninstall\"
# argv = [\"uninstall.sh\"]
";

/// Makes `folder`, which must not be there or be empty, one that says and holds what `source` does. Pushed, it is the same
/// package but for its release.
pub fn init_of(source: &Source, folder: &Path) -> Result<(), InitError> {
    if !is_empty(folder)? {
        return Err(InitError::NotEmpty(folder.into()));
    }
    let files = folder.join(FILES);
    fs::create_dir_all(&files)?;
    for entry in found::find(&source.definition, &source.files)? {
        let at = files.join(entry.at.as_str());
        match entry.what {
            What::Directory(mode) => {
                fs::create_dir(&at)?;
                fs::set_permissions(&at, Permissions::from_mode(mode))?;
            }
            What::Link(target) => std::os::unix::fs::symlink(target, &at)?,
            What::File { mode, .. } => {
                let mut from = build::open(&entry.path)?;
                let mut to = fs::File::create_new(&at)?;
                io::copy(&mut from, &mut to)?;
                fs::set_permissions(&at, Permissions::from_mode(mode))?;
            }
        }
    }
    let definition = Definition { files: FILES.parse().ok(), ..source.definition.clone() };
    Ok(fs::write(folder.join(FILE), definition.to_toml())?)
}
