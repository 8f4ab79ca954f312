//! The machine's own rules, which no manager can change: `policy.toml` in the configuration's folder, root's alone.
//!
//! The file is read again before each decision, so that a change needs no restart. While it can't be read, can't be
//! understood, or others may write it, the machine installs nothing and says why.

use crate::guard;
use serde::Deserialize;
use std::{
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};
use sutler_base::PackageName;
use sutler_certs::{KeyId, TrustDocument};

/// The longest policy file (bytes).
const FILE_MAX: u64 = 64 << 10;

/// The machine's own rules.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalPolicy {
    /// Take packages that nobody signed. Signed ones are verified all the same.
    pub allow_unsigned: bool,
    /// Start no installation; what is offered is fetched and waits.
    pub hold: bool,
    /// Let jobs uninstall packages; without it only the machine's own administrator can.
    pub allow_uninstall: bool,
    /// Let jobs restart the machine, by the command in agent.toml; without it they only say that it must be.
    pub allow_reboot: bool,
    /// Refuse packages with more bytes than this.
    pub max_bytes: Option<u64>,
    /// Take only packages that one of these publishers' keys signed, besides what the trust document wants.
    pub publishers: Option<Vec<KeyId>>,
    /// Take only packages whose names start with one of these.
    pub packages: Option<Vec<String>>,
}

impl Default for LocalPolicy {
    fn default() -> Self {
        LocalPolicy {
            allow_unsigned: false,
            hold: false,
            allow_uninstall: true,
            allow_reboot: true,
            max_bytes: None,
            publishers: None,
            packages: None,
        }
    }
}

impl LocalPolicy {
    /// Whether a package of this name may be uninstalled by a job; else the sentence that says why not.
    pub fn allows_uninstalling(&self, package: &PackageName) -> Result<(), String> {
        match self.allow_uninstall {
            true => Ok(()),
            false => Err(format!("this machine lets no job uninstall {package} (allow_uninstall in policy.toml)")),
        }
    }

    /// Whether a package of this name and size may be installed here; else the sentence that says why not.
    pub fn allows(&self, package: &PackageName, bytes: u64) -> Result<(), String> {
        if let Some(prefixes) = self.packages.as_ref().filter(|p| !p.iter().any(|p| package.as_str().starts_with(p.as_str()))) {
            return Err(format!("this machine takes no package named {package} (packages in policy.toml has {})", prefixes.join(", ")));
        }
        match self.max_bytes.filter(|most| bytes > *most) {
            Some(most) => Err(format!("it has {bytes} bytes, this machine takes at most {most} (max_bytes in policy.toml)")),
            None => Ok(()),
        }
    }

    /// Whether the keys that signed are ones that this machine wants; `signed` tells of a key whether it did.
    pub fn allows_signers(&self, trust: &TrustDocument, package: &PackageName, signed: impl Fn(&KeyId) -> bool) -> Result<(), String> {
        let Some(wanted) = &self.publishers else { return Ok(()) };
        if wanted.iter().any(|key| trust.names(key, package) && signed(key)) {
            return Ok(());
        }
        Err("none of the publishers' keys signed it that this machine wants (publishers in policy.toml)".into())
    }
}

/// Where the rules are.
#[derive(Debug, Clone)]
pub enum Policy {
    /// In this file; without it every rule is as it is by default.
    File(PathBuf),
    /// Given with the program: for tests.
    Fixed(LocalPolicy),
}

impl From<LocalPolicy> for Policy {
    fn from(policy: LocalPolicy) -> Policy {
        Policy::Fixed(policy)
    }
}

impl Policy {
    /// Where the file is, whether it is there or not.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Policy::File(path) => Some(path),
            Policy::Fixed(_) => None,
        }
    }

    /// The rules as they are now; else why nothing may be installed.
    pub fn read(&self) -> Result<LocalPolicy, String> {
        match self {
            Policy::Fixed(policy) => Ok(policy.clone()),
            Policy::File(path) => read(path).map_err(|why| format!("{}: {why}; nothing is installed before it is mended", path.display())),
        }
    }
}

fn read(path: &Path) -> Result<LocalPolicy, String> {
    guard::refuse_changeable(path).map_err(|e| e.to_string())?;
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(LocalPolicy::default()),
        Err(e) => return Err(format!("it can't be read: {e}")),
    };
    let mut text = String::new();
    let read = (&mut file).take(FILE_MAX + 1).read_to_string(&mut text).map_err(|e| format!("it can't be read: {e}"))?;
    if read as u64 > FILE_MAX {
        return Err(format!("it has more than {FILE_MAX} bytes"));
    }
    toml::from_str(&text).map_err(|e| e.to_string().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_file_is_the_default_and_a_broken_or_open_one_allows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let policy = Policy::File(path.clone());
        assert_eq!(policy.read().unwrap(), LocalPolicy::default());
        std::fs::write(&path, "hold = true\nmax_bytes = 5\npackages = [\"clam\"]\n").unwrap();
        let read = policy.read().unwrap();
        assert!(read.hold && !read.allow_unsigned);
        assert!(read.allows(&"clamav".parse().unwrap(), 5).is_ok());
        assert!(read.allows(&"clamav".parse().unwrap(), 6).unwrap_err().contains("max_bytes"));
        assert!(read.allows(&"other".parse().unwrap(), 1).unwrap_err().contains("packages"));
        for broken in ["hold = maybe", "allow_everything = true", "publishers = [\"x\"]"] {
            std::fs::write(&path, broken).unwrap();
            let why = policy.read().unwrap_err();
            assert!(why.contains("policy.toml") && why.contains("nothing is installed"), "{why}");
        }
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        assert!(policy.read().unwrap_err().contains("can be written by others"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let why = policy.read().unwrap_err();
        assert!(why.contains(&format!("chmod go-w {}", folder.path().display())), "{why}");
    }
}
