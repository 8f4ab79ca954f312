//! Whether what the agent goes by is its own and root's alone: asked at every start, and by the doctor.
//!
//! Keys, the journal and staged programs lie in the agent's folder, and root runs what lies there; the configuration says where
//! that is, and the machine's own rules what may run at all. Nothing that somebody else could have put there, read (in the
//! folder) or changed is used: it is refused and named, not mended, since nobody knows what was done meanwhile.

use std::{
    fs::Metadata,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The most that is said at once.
const FINDINGS_MAX: usize = 20;
/// The most links that are followed on the way to a file, as in the kernel.
const LINKS_MAX: usize = 40;

/// Something that the agent goes by, or on the way to it, that others may have read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {why}; {remedy}", path.display())]
pub struct Exposed {
    /// What.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// What is inside of a folder of the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// Keys and records: the owner's alone, each of them.
    Private,
    /// What supervisors write: the owner's, behind a folder that is his alone.
    Steps,
    /// Packages' trees, each behind a folder that is the owner's alone: what is in them has the package's modes.
    Trees,
}

/// Refuses a folder in which something is not the owner's alone.
pub fn refuse_exposed(state: &Path) -> Result<(), Exposed> {
    exposed(state).into_iter().next().map_or(Ok(()), Err)
}

/// Everything that others may have read or changed, up to a number that a person still reads.
pub fn exposed(state: &Path) -> Vec<Exposed> {
    let absolute = std::path::absolute(state).unwrap_or_else(|_| state.into());
    let mut found: Vec<_> = absolute.parent().and_then(changeable).into_iter().collect();
    look(state, Inside::Private, &mut found);
    found
}

/// Refuses a file that root goes by, such as the configuration, if others may write it or put another one in its place.
pub fn refuse_changeable(path: &Path) -> Result<(), Exposed> {
    changeable(path).map_or(Ok(()), Err)
}

/// The first thing on the way to a file or folder, itself included, that somebody other than root and the agent's own user may
/// change. One that is not there is nobody's yet: only the folders that are there are asked about.
pub fn changeable(path: &Path) -> Option<Exposed> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    changeable_through(&absolute, LINKS_MAX)
}

fn changeable_through(path: &Path, links: usize) -> Option<Exposed> {
    let mut way: Vec<_> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find_map(|step| {
        let exposed = |why: String, remedy: String| Some(Exposed { path: step.into(), why, remedy });
        // What can't be looked at is refused by whoever uses it.
        let metadata = std::fs::symlink_metadata(step).ok()?;
        if !is_trusted(&metadata) {
            let remedy = format!("see what that user has changed, then run chown root {}", step.display());
            return exposed(format!("belongs to user {}", metadata.uid()), remedy);
        }
        if metadata.is_symlink() {
            let target = step.parent()?.join(std::fs::read_link(step).ok()?);
            return if links == 0 { None } else { changeable_through(&target, links - 1) };
        }
        // A folder with the sticky bit, such as /tmp, lets others add files, not exchange this one.
        let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        if metadata.mode() & 0o022 != 0 && !sticky {
            let remedy = format!("see what they have changed, then run chmod go-w {}", step.display());
            return exposed(format!("can be written by others (mode {:04o})", metadata.mode() & 0o7777), remedy);
        }
        None
    })
}

fn is_trusted(metadata: &Metadata) -> bool {
    metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw()
}

fn look(path: &Path, inside: Inside, found: &mut Vec<Exposed>) {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o7777;
    let kind = metadata.file_type();
    let mut say = |why: String, remedy: &str| found.push(Exposed { path: path.into(), why, remedy: remedy.into() });
    if kind.is_symlink() {
        return say("is a link".into(), "the agent has no links in its folder: see who put it there, and remove it");
    }
    if !is_trusted(&metadata) {
        let why = format!("belongs to user {}", metadata.uid());
        return say(why, "that user may have read or changed it: see how it came there, remove it, and enrol again if it is a key");
    }
    if kind.is_socket() {
        return;
    }
    if !kind.is_dir() && !kind.is_file() {
        return say("is neither a file nor a folder".into(), "see who put it there, and remove it");
    }
    if mode & 0o077 != 0 && (kind.is_dir() || inside == Inside::Private) {
        let why = format!("is open to other users (mode {mode:04o})");
        return say(why, "close it with chmod go=, and enrol again if others use this machine and it is a key");
    }
    if !kind.is_dir() {
        return;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if found.len() >= FINDINGS_MAX {
            return;
        }
        let below = match (inside, entry.file_name().to_str()) {
            // The administrator's own facts may be read by anybody; what may be changed is asked when they are used.
            (Inside::Private, Some(crate::facts::own::FOLDER)) => continue,
            (Inside::Private, Some("steps")) => Inside::Steps,
            (Inside::Private, Some("staging")) => Inside::Trees,
            (Inside::Trees, _) => {
                // The tree's own folder, and not what is in it.
                look_at_tree(&entry.path(), found);
                continue;
            }
            (inside, _) => inside,
        };
        look(&entry.path(), below, found);
    }
}

fn look_at_tree(path: &Path, found: &mut Vec<Exposed>) {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return };
    if !metadata.is_dir() || !is_trusted(&metadata) {
        let remedy = "see who put it there, and remove it".into();
        found.push(Exposed { path: path.into(), why: "is no staged package of the agent's".into(), remedy });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, set_permissions, write};

    fn private(path: &Path, mode: u32) {
        set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_as_the_agent_makes_it_is_its_own_alone_and_everything_else_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let state = temporary.path().join("state");
        for folder in ["", "attempts", "steps", "steps/1", "staging", "staging/1-0", "staging/1-0/bin"] {
            create_dir(state.join(folder)).unwrap();
            private(&state.join(folder), 0o700);
        }
        for (file, mode) in [("credential.pem", 0o600), ("attempts/1", 0o600), ("steps/1/exit", 0o644), ("staging/1-0/bin/run", 0o755)] {
            write(state.join(file), "").unwrap();
            private(&state.join(file), mode);
        }
        std::os::unix::fs::symlink("run", state.join("staging/1-0/bin/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(state.join("agent.sock")).unwrap();
        private(&state.join("agent.sock"), 0o666);
        assert_eq!(exposed(&state), []);

        let named = |path: &str, word: &str| {
            let found = exposed(&state);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].path, state.join(path));
            assert!(found[0].to_string().contains(word), "{}", found[0]);
            assert_eq!(refuse_exposed(&state), Err(found[0].clone()));
        };
        for file in ["credential.pem", "attempts/1"] {
            for mode in [0o640, 0o604, 0o602] {
                private(&state.join(file), mode);
                named(file, "chmod go=");
            }
            private(&state.join(file), 0o600);
        }
        for folder in ["attempts", "steps", "staging", ""] {
            private(&state.join(folder), 0o711);
            named(folder, "open to other users");
            private(&state.join(folder), 0o700);
        }
        std::os::unix::fs::symlink("/etc/hostname", state.join("pins.json")).unwrap();
        named("pins.json", "is a link");
        std::fs::remove_file(state.join("pins.json")).unwrap();
        write(state.join("staging/2-0"), "").unwrap();
        named("staging/2-0", "no staged package");
        std::fs::remove_file(state.join("staging/2-0")).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(state.join("credential.pem"), Some(65534), None).unwrap();
            named("credential.pem", "belongs to user 65534");
            std::os::unix::fs::chown(state.join("credential.pem"), Some(0), None).unwrap();
        }
        assert_eq!(exposed(&state), []);
        for mode in [0o777, 0o770] {
            private(temporary.path(), mode);
            assert!(exposed(&state)[0].to_string().contains(&format!("can be written by others (mode {mode:04o})")));
        }
    }

    #[test]
    fn what_others_may_change_on_any_way_to_a_file_is_named_with_what_to_do() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        for folder in ["etc", "elsewhere"] {
            create_dir(at(folder)).unwrap();
            private(&at(folder), 0o755);
        }
        write(at("elsewhere/agent.toml"), "").unwrap();
        private(&at("elsewhere/agent.toml"), 0o644);
        // A link to a link; both ways are looked at.
        std::os::unix::fs::symlink("../elsewhere/link", at("etc/agent.toml")).unwrap();
        std::os::unix::fs::symlink("agent.toml", at("elsewhere/link")).unwrap();
        let file = at("etc/agent.toml");
        assert_eq!(changeable(&file), None);
        assert_eq!(changeable(&at("etc/missing/agent.toml")), None);
        let named = |path: &str, word: &str| {
            let found = changeable(&file).unwrap_or_else(|| panic!("{path} is to be named"));
            assert_eq!(found.path.canonicalize().unwrap(), at(path).canonicalize().unwrap());
            assert!(found.why.contains(word) && found.remedy.contains("run ch"), "{found}");
            assert_eq!(refuse_changeable(&file), Err(found));
        };
        for (path, good) in [("elsewhere/agent.toml", 0o644), ("elsewhere", 0o755), ("etc", 0o755), ("", 0o700)] {
            for others in [0o020, 0o002] {
                private(&at(path), good | others);
                named(path, &format!("others (mode {:04o})", good | others));
            }
            private(&at(path), good);
        }
        private(&at("etc"), 0o1777);
        assert_eq!(changeable(&file), None, "in a folder with the sticky bit others can't exchange it");
        if rustix::process::geteuid().is_root() {
            for path in ["elsewhere/agent.toml", "elsewhere", "etc", "etc/agent.toml"] {
                std::os::unix::fs::lchown(at(path), Some(65534), None).unwrap();
                let found = changeable(&file).unwrap();
                assert!(found.why == "belongs to user 65534" && found.remedy.contains("run chown root"), "{found}");
                std::os::unix::fs::lchown(at(path), Some(0), None).unwrap();
            }
        }
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        assert_eq!(changeable(&at("loop")), None, "it can't be read either");
    }
}
