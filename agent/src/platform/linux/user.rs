//! The users of the machine, as its own list of them has it.

use super::super::PlatformError;
use std::path::{Path, PathBuf};

/// A user as whom a program can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// The number of its own group.
    pub gid: u32,
    /// Its home.
    pub home: PathBuf,
}

/// The user of this name in `etc/passwd` below `root`; none if it isn't there. Users that only a directory service knows are not
/// found: what runs as root must not hang on a service that does not answer.
pub fn user(root: &Path, name: &str) -> Result<Option<User>, PlatformError> {
    let path = root.join("etc/passwd");
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PlatformError::File { doing: "read", path, source }),
    };
    Ok(text.lines().find_map(|line| {
        // name:password:uid:gid:comment:home:shell
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1)?.into();
        found.then_some(User { uid, gid, home })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name_and_nobody_else_is() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(user(root.path(), "www").unwrap(), None);
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\nwww:x:x:33::/:\nwww-data:x:33:34:www:/var/www:/usr/sbin/nologin\n";
        std::fs::write(root.path().join("etc/passwd"), text).unwrap();
        assert_eq!(user(root.path(), "www-data").unwrap(), Some(User { uid: 33, gid: 34, home: "/var/www".into() }));
        assert_eq!(user(root.path(), "www").unwrap(), None);
        assert_eq!(user(root.path(), "").unwrap(), None);
    }
}
