//! Folders with a package in them, as a publisher writes one.

use super::cleanup::Place;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder with a `package.toml`; removed when it is dropped.
#[derive(Debug)]
pub struct PackageFolder {
    place: Place,
    name: String,
}

impl PackageFolder {
    /// A package whose files go to `/opt/NAME`, which counts how often its step has run: each run adds a line to
    /// `/opt/NAME.runs` beside it on the machine, so that a second run can't be missed.
    pub fn counting(name: &str, version: &str) -> PackageFolder {
        let package = PackageFolder::with(name, version, "");
        package.file("bin/install", COUNTING);
        package.append("[[step]]\nname = \"install\"\nargv = [\"bin/install\"]\n\n[[detection]]\nfile = \"bin/install\"\n");
        package
    }

    /// A package whose files go to `/opt/NAME`, with this text in its `package.toml` after the head.
    pub fn with(name: &str, version: &str, text: &str) -> PackageFolder {
        let place = Place::new("package");
        let package = PackageFolder { place, name: name.to_owned() };
        fs_err::create_dir_all(package.files()).expect("a folder can be made");
        let mut toml = format!("name = \"{name}\"\nversion = \"{version}\"\ndirectory = \"/opt/{name}\"\nfiles = \"files\"\n\n");
        let _ = write!(toml, "{text}");
        fs_err::write(package.toml(), toml).expect("a file can be written");
        package
    }

    /// A package with a step and no bytes to fetch.
    pub fn empty(name: &str) -> PackageFolder {
        let package = PackageFolder::with(name, "1.0", "");
        let text = format!("name = \"{name}\"\nversion = \"1.0\"\n\n[[step]]\nname = \"nothing\"\nargv = [\"/bin/true\"]\n");
        fs_err::write(package.toml(), text).expect("a file can be written");
        package
    }

    /// The package's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// The folder with the files that are installed.
    pub fn files(&self) -> PathBuf {
        self.path().join("files")
    }

    /// Its `package.toml`.
    pub fn toml(&self) -> PathBuf {
        self.path().join("package.toml")
    }

    /// Adds text to the `package.toml`.
    pub fn append(&self, text: &str) {
        let old = fs_err::read_to_string(self.toml()).expect("it is there");
        fs_err::write(self.toml(), format!("{old}\n{text}")).expect("a file can be written");
    }

    /// Replaces text of the `package.toml`.
    ///
    /// # Panics
    ///
    /// When it isn't there.
    pub fn replace(&self, old: &str, new: &str) {
        let text = fs_err::read_to_string(self.toml()).expect("it is there");
        assert!(text.contains(old), "{old:?} is not in\n{text}");
        fs_err::write(self.toml(), text.replace(old, new)).expect("a file can be written");
    }

    /// Adds a program or another file that is installed.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let file = self.files().join(path);
        fs_err::create_dir_all(file.parent().expect("a file lies in a folder")).expect("a folder can be made");
        fs_err::write(&file, content).expect("a file can be written");
        fs_err::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("its mode can be set");
    }

    /// Adds a file of `len` bytes that don't compress, the same for the same seed.
    pub fn noise(&self, path: &str, len: usize, seed: u64) {
        self.file(path, noise(len, seed));
    }
}

/// Counts its runs beside the package's folder, whose own path is the working directory: `/opt/NAME.runs`.
pub const COUNTING: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\n";

/// Bytes that don't compress, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*: enough to look random to a compressor.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
