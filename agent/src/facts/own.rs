//! The administrator's own facts: what files and programs in `facts.d` of the agent's folder say.
//!
//! `NAME.json` is a file with a JSON object; anything else that may be run is a program that writes one to its standard
//! output. The members of all of them are `facts.own`: texts as they are, numbers and flags as they are written, members of
//! objects below each other under names with a dot (`raid.state`), lists as JSON. Of two of the same name the later file's counts.
//!
//! A program runs as the agent does, often as root: so a file that others may change, itself or on the way to it, is refused.

use crate::{guard, platform};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};
use sutler_base::{facts::entries, told};

/// The folder in the agent's folder.
pub const FOLDER: &str = "facts.d";
/// The most files.
pub const FILES_MAX: usize = 32;
/// The longest file, and the most that a program may say (bytes).
pub const SIZE_MAX: usize = 64 << 10;
/// How long one program may take.
pub const LIMIT: Duration = Duration::from_secs(5);
/// How long all of them together may take.
pub const LIMIT_ALL: Duration = Duration::from_secs(15);

/// What the files and programs said.
#[derive(Debug, Default, PartialEq)]
pub struct Own {
    /// Texts by name.
    pub facts: BTreeMap<String, String>,
    /// Files that could not be used, and why.
    pub troubles: Vec<(String, String)>,
    /// Whether something was left out.
    pub is_cut: bool,
}

/// What the files and programs in this folder say, in the order of their names. None if it is not there.
pub fn collect(folder: &Path) -> Own {
    let mut own = Own::default();
    let Ok(entries) = std::fs::read_dir(folder) else { return own };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    // What editors and package managers leave beside a file is none.
    names.retain(|name| name.to_str().is_some_and(|n| !n.starts_with('.') && !n.ends_with('~') && !n.contains(".dpkg-")));
    names.sort();
    own.is_cut = names.len() > FILES_MAX;
    let begun = Instant::now();
    for name in names.into_iter().take(FILES_MAX) {
        let path = folder.join(name);
        match said(&path, LIMIT.min(LIMIT_ALL.saturating_sub(begun.elapsed()))) {
            Ok(Value::Object(members)) => members.into_iter().for_each(|(name, value)| flatten(&mut own, name, value)),
            Ok(_) => own.troubles.push((path.display().to_string(), "it is no JSON object".into())),
            Err(why) => own.troubles.push((path.display().to_string(), why)),
        }
    }
    own.is_cut |= !own.troubles.is_empty();
    own
}

fn said(path: &Path, limit: Duration) -> Result<Value, String> {
    guard::refuse_changeable(path).map_err(|e| e.to_string())?;
    let metadata = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("it is no file".into());
    }
    let bytes = if path.extension().is_some_and(|e| e == "json") {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
        file.take(SIZE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() > SIZE_MAX {
            return Err(format!("it has more than {SIZE_MAX} bytes"));
        }
        bytes
    } else if metadata.permissions().mode() & 0o111 != 0 {
        if limit.is_zero() {
            return Err(format!("it was not run: the others took {LIMIT_ALL:?} already"));
        }
        let said = platform::ask(path, &[], limit, SIZE_MAX).map_err(|e| e.to_string())?;
        if said.code != 0 {
            return Err(format!("it ended with exit code {}: {}", said.code, told(&said.errors)));
        }
        said.output
    } else {
        return Err("it can't be run and its name does not end in .json".into());
    };
    serde_json::from_slice(&bytes).map_err(|e| format!("it is no JSON: {}", told(&e)))
}

fn flatten(own: &mut Own, name: String, value: Value) {
    let text = match value {
        // Nothing is known.
        Value::Null => return,
        Value::Object(members) => {
            return members.into_iter().for_each(|(below, value)| flatten(own, format!("{name}.{below}"), value));
        }
        Value::String(text) => text,
        other => other.to_string(),
    };
    let fits = text.len() <= entries::OWN_TEXT && name.len() <= 128 && !name.is_empty();
    if fits && (own.facts.len() < entries::OWN || own.facts.contains_key(&name)) {
        own.facts.insert(name, text);
    } else {
        own.is_cut = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put(folder: &Path, name: &str, text: &str, mode: u32) {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_and_programs_say_texts_by_name_and_a_later_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(collect(&folder.path().join("none")), Own::default());
        put(folder.path(), "10-site.json", r#"{"rack": "B7", "slots": 4, "raid": {"state": "ok", "disks": [1, 2]}, "none": null}"#, 0o644);
        put(folder.path(), "20-program", "#!/bin/sh\necho '{\"rack\": \"B8\", \"leased\": true}'; echo noise >&2\n", 0o755);
        let own = collect(folder.path());
        let expected = [("leased", "true"), ("rack", "B8"), ("raid.disks", "[1,2]"), ("raid.state", "ok"), ("slots", "4")];
        assert_eq!(own.facts, expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
        assert_eq!((own.troubles, own.is_cut), (vec![], false));
    }

    #[test]
    fn what_can_t_be_used_is_named_with_the_reason_and_the_rest_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "good.json", "{\"a\": 1}", 0o644);
        put(folder.path(), "open.json", "{\"b\": 1}", 0o666);
        put(folder.path(), "open-program", "#!/bin/sh\necho '{\"c\": 1}'\n", 0o757);
        put(folder.path(), "fails", "#!/bin/sh\necho broken >&2\nexit 3\n", 0o755);
        put(folder.path(), "talks", "#!/bin/sh\nyes\n", 0o755);
        put(folder.path(), "list.json", "[1]", 0o644);
        put(folder.path(), "text.json", "no json", 0o644);
        put(folder.path(), "long.json", &"x".repeat(SIZE_MAX + 1), 0o644);
        put(folder.path(), "plain.txt", "x", 0o644);
        put(folder.path(), "old.json~", "x", 0o644);
        let own = collect(folder.path());
        assert_eq!(own.facts, BTreeMap::from([("a".to_owned(), "1".to_owned())]));
        assert!(own.is_cut);
        for (file, why) in [
            ("open.json", "can be written by others"),
            ("open-program", "can be written by others"),
            ("fails", "exit code 3: broken"),
            ("talks", "more than 65536 bytes"),
            ("list.json", "no JSON object"),
            ("text.json", "no JSON"),
            ("long.json", "more than 65536 bytes"),
            ("plain.txt", "can't be run"),
        ] {
            let said = own.troubles.iter().find(|(path, _)| path.ends_with(file)).unwrap_or_else(|| panic!("{file} is to be named"));
            assert!(said.1.contains(why), "{file}: {}", said.1);
        }
        assert_eq!(own.troubles.len(), 8);
        let slow = tempfile::tempdir().unwrap();
        put(slow.path(), "slow", "#!/bin/sh\nsleep 1000\n", 0o755);
        assert!(said(&slow.path().join("slow"), Duration::from_millis(50)).unwrap_err().contains("did not end within"));
    }
}
