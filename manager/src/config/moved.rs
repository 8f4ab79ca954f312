//! `manager.toml` of a manager whose database was moved: names the new one, and says which one nobody may serve any more.

use super::{Config, ConfigError, Overrides, sqlite_path};
use serde::Deserialize;
use std::{os::unix::fs::MetadataExt, path::Path};
use sutler_base::Timestamp;
use toml::Spanned;

/// Where in the file the values stand.
#[derive(Deserialize)]
struct Places {
    database: Option<Spanned<String>>,
    moved_from: Option<Spanned<String>>,
}

/// Refuses a database that was moved elsewhere.
pub(super) fn refuse_moved(database: &str, moved_from: Option<&str>) -> Result<(), String> {
    let (Some(database), Some(moved)) = (sqlite_path(database), moved_from.and_then(sqlite_path)) else { return Ok(()) };
    if database != moved && !is_same(database, moved) {
        return Ok(());
    }
    Err(format!(
        "the database {} was moved elsewhere by `sutler migrate` (moved_from says so), and what happened since then is not in it: use the one \
         that this file names. The way back is a backup from before the move, with `sutler restore`: agents then tell what happened since",
        moved.display()
    ))
}

/// Whether two names are of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

impl Config {
    /// The text that the file is to have once the database was moved to `database` from the one that the file names: nothing else
    /// of it changes. It is read back before anybody counts on it.
    pub(crate) fn moved_to(&self, database: &str, now: Timestamp) -> Result<String, ConfigError> {
        let path = self.folder.config();
        let text = fs_err::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        self.moved(&text, database, now).map_err(|reason| ConfigError::Content { path, reason })
    }

    fn moved(&self, text: &str, database: &str, now: Timestamp) -> Result<String, String> {
        let value = |of: &str| toml::Value::String(of.to_owned()).to_string();
        let places: Places = toml::from_str(text).map_err(|e| e.to_string())?;
        let old = places.database.as_ref().map_or("sqlite:manager.db", |place| place.as_ref().as_str());
        let note = format!("# What it held until {now} was moved by `sutler migrate`; nobody serves it any more.\n");
        let moved_from = format!("{note}moved_from = {}\n", value(old));
        let mut edits = vec![];
        match &places.database {
            Some(place) => {
                edits.push((place.span(), value(database)));
                // A key stands on the line on which its value begins.
                let line = text[..place.span().start].rfind('\n').map_or(0, |at| at + 1);
                if places.moved_from.is_none() {
                    edits.push((line..line, moved_from));
                }
            }
            None => {
                let moved_from = if places.moved_from.is_none() { moved_from } else { String::new() };
                edits.push((0..0, format!("{moved_from}database = {}\n", value(database))));
            }
        }
        // Of an earlier move, after which somebody went back.
        edits.extend(places.moved_from.map(|place| (place.span(), value(old))));
        edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
        let mut new = text.to_owned();
        edits.into_iter().for_each(|(span, words)| new.replace_range(span, &words));
        let read = Config::parse(self.folder.clone(), &new, &Overrides::default())?;
        let wanted = Config { database: database.to_owned(), moved_from: Some(self.database.clone()), ..self.clone() };
        if read == wanted {
            Ok(new)
        } else {
            Err("its line with the database can't be changed by a program; write it as database = \"…\"".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    const URL: &str = "postgres://u:s\"ecret@h/d";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Folder::new("/srv/sutler"), text, &Overrides::default())
    }

    #[test]
    fn the_database_changes_in_the_file_and_nothing_else_and_the_old_one_is_refused_from_then_on() {
        let head = "# a\ntrust_domain = \"acme.example\"\nhosts = [\"m\"]\n";
        for (database, tables) in [
            ("database = \"sqlite:manager.db\" # here\n", "[limits]\nlease = \"20s\"\n"),
            ("database = '''sqlite:manager.db'''\n", ""),
            ("\"database\"='sqlite:manager.db'\n", "[net]\nhandshake = \"2s\""),
            ("", "[limits]\nlease = \"20s\"\n"),
            ("moved_from = \"sqlite:/elsewhere.db\"\ndatabase = \"sqlite:manager.db\"\n", "[limits]\nlease = \"20s\"\n"),
        ] {
            let text = format!("{head}{database}{tables}");
            let before = parse(&text).unwrap();
            let moved = before.moved(&text, URL, Timestamp::UNIX_EPOCH).unwrap();
            let after = parse(&moved).unwrap();
            assert_eq!((after.database.as_str(), after.moved_from.as_deref()), (URL, Some("sqlite:///srv/sutler/manager.db")), "{moved}");
            assert!(moved.contains(head) && moved.ends_with(tables), "{moved}");
            for old in ["sqlite:manager.db", "sqlite:./manager.db", "sqlite:/srv/sutler/manager.db"] {
                let overrides = Overrides { database: Some(old.into()), ..Overrides::default() };
                let refused = Config::parse(Folder::new("/srv/sutler"), &moved, &overrides).unwrap_err();
                assert!(refused.contains("moved_from") && !refused.contains("secret"), "{refused}");
            }
            let other = Overrides { database: Some("sqlite:other.db".into()), ..Overrides::default() };
            Config::parse(Folder::new("/srv/sutler"), &moved, &other).unwrap();
        }
    }

    #[test]
    fn the_old_database_is_known_under_another_name() {
        let at = tempfile::tempdir().unwrap();
        let (file, link) = (at.path().join("manager.db"), at.path().join("link.db"));
        fs_err::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let url = |path: &Path| format!("sqlite://{}", path.display());
        assert!(refuse_moved(&url(&link), Some(&url(&file))).is_err());
        assert!(refuse_moved(&url(&at.path().join("none.db")), Some(&url(&file))).is_ok());
        assert!(refuse_moved(&url(&file), None).is_ok());
    }
}
