//! Paths of a package: where its files lie on the client. None of them can leave the directory it is written below.

use crate::{Invalid, digest::serde_as_text, limits::PATH_MAX, quoted};
use std::{fmt, str::FromStr};

fn component(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && part.len() <= 255 && !part.chars().any(|c| c == '\0' || c.is_control())
}

/// A path below a package's directory: components joined by `/`, none of them empty, `.` or `..`, no control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(String);

impl RelPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every directory above this path, the outermost first; the path itself is not among them.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl FromStr for RelPath {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() <= PATH_MAX && text.split('/').all(component) {
            Ok(RelPath(text.into()))
        } else {
            Err(Invalid::new(format!(
                "a path in a package is relative, has at most {PATH_MAX} bytes, and no component of it is empty, \".\", \"..\" or has a control character; {} is not one",
                quoted(text)
            )))
        }
    }
}

/// An absolute, normal path on the client, never `/` itself nor a directory that the system lives in.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstallPath(String);

impl InstallPath {
    /// The path as text; it starts with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path without its leading `/`: to be joined to a root.
    pub fn below_root(&self) -> &str {
        &self.0[1..]
    }
}

/// What a package can't be installed *as*, because exchanging it would take the system with it. Below them is fine.
const SYSTEM: [&str; 22] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/var",
];

impl FromStr for InstallPath {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let normal = text.len() <= PATH_MAX && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(component));
        if !normal {
            return Err(Invalid::new(format!(
                "an installation directory is an absolute path without \"..\", \".\" and \"//\", not {}",
                quoted(text)
            )));
        }
        if SYSTEM.contains(&text) {
            return Err(Invalid::new(format!("{text} belongs to the system; install below it, for example in {text}/NAME")));
        }
        Ok(InstallPath(text.into()))
    }
}

macro_rules! shown_as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        serde_as_text!($name);
    };
}
shown_as_text!(RelPath);
shown_as_text!(InstallPath);

/// Whether a link at `at` that points to `target` stays inside the package's directory.
///
/// Absolute targets leave it by definition. The check is on the text: what a link points through may itself be a link,
/// which is checked by the same rule, so that following any number of them stays inside.
pub fn link_stays_inside(at: &RelPath, target: &str) -> bool {
    if target.is_empty() || target.len() > PATH_MAX || target.starts_with('/') || target.chars().any(|c| c == '\0' || c.is_control()) {
        return false;
    }
    let mut depth = at.parents().count() as i64;
    let mut named = false;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            // ".." after a name could climb out of what the name links to: only leading ones are accepted.
            ".." if named => return false,
            ".." => depth -= 1,
            _ => {
                named = true;
                depth += 1;
            }
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_its_directory() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b", "a\nb"] {
            assert!(bad.parse::<RelPath>().is_err(), "{bad:?}");
        }
        assert_eq!("a/b/c".parse::<RelPath>().unwrap().parents().collect::<Vec<_>>(), ["a", "a/b"]);
        for bad in ["/", "/usr", "opt/x", "/opt/../etc", "/opt/", "//opt/x", "/opt"] {
            assert!(bad.parse::<InstallPath>().is_err(), "{bad:?}");
        }
        assert_eq!("/opt/clamav".parse::<InstallPath>().unwrap().below_root(), "opt/clamav");
    }

    #[test]
    fn a_link_that_leaves_is_seen() {
        let at = |p: &str| p.parse::<RelPath>().unwrap();
        assert!(link_stays_inside(&at("usr/lib/a.so"), "a.so.1"));
        assert!(link_stays_inside(&at("usr/bin/tool"), "../lib/tool"));
        assert!(!link_stays_inside(&at("tool"), "../x"));
        assert!(!link_stays_inside(&at("a/tool"), "../../x"));
        assert!(!link_stays_inside(&at("a/tool"), "/etc/shadow"));
        assert!(!link_stays_inside(&at("a/tool"), "b/../../../x"));
        assert!(!link_stays_inside(&at("a/b/tool"), "c/.."));
    }
}
