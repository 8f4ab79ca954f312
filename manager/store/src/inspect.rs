//! Looks at a database and changes nothing in it: for the doctor, also while managers use it.

use crate::{Kind, StoreError, postgres, sqlite};
use std::path::Path;
use sutler_base::Timestamp;

/// What was seen of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Which database it is.
    pub kind: Kind,
    /// The version of its tables; none before the first.
    pub version: Option<i64>,
    /// The version that this program makes of them.
    pub expected: i64,
    /// What is damaged, in the database's own words; a few lines at most.
    pub damage: Vec<String>,
    /// What the database's server says that the time is; none where there is no server.
    pub clock: Option<Timestamp>,
    /// The hooks whose last delivery failed: name, since when that event is tried, and why.
    pub failing_hooks: Vec<FailingHook>,
}

/// A hook whose last delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingHook {
    /// The hook.
    pub name: String,
    /// Since when the event is tried that is its next; none if the one before it was given up.
    pub since: Option<Timestamp>,
    /// Why.
    pub error: String,
}

/// Asks for [`FailingHook`]s. Of a database whose tables have no hooks yet it is an error.
pub(crate) const FAILING_HOOKS: &str = "SELECT name, began_ms, error FROM hook WHERE error <> '' ORDER BY name LIMIT 100";

impl FailingHook {
    pub(crate) fn new((name, since, error): (String, Option<i64>, String)) -> FailingHook {
        FailingHook { name, since: since.and_then(|ms| Timestamp::from_millisecond(ms).ok()), error }
    }
}

/// Looks at the database at `url`, as [`Store::open`](crate::Store::open) takes it. SQLite's check reads all of it.
pub async fn inspect(url: &str) -> Result<Inspection, StoreError> {
    match url.split_once("://") {
        None => sqlite::inspect(Path::new(url)).await,
        Some(("sqlite", path)) => sqlite::inspect(Path::new(path)).await,
        Some(("postgres" | "postgresql", _)) => postgres::inspect(url).await,
        Some((scheme, _)) => Err(StoreError::Unavailable(format!("a database is at sqlite://PATH or postgres://…, not at {scheme}://…"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use std::os::unix::fs::FileExt;

    #[tokio::test]
    async fn a_database_is_looked_at_while_it_is_used_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let url = format!("sqlite://{}", path.display());
        assert!(matches!(inspect(&url).await, Err(StoreError::Unavailable(_))), "one that is not there is not made");
        assert!(!path.exists());
        let store = Store::open(&url).await.unwrap();
        let seen = inspect(&url).await.unwrap();
        assert_eq!((seen.version, seen.damage.as_slice()), (Some(seen.expected), &[][..]));
        store.close().await;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let pages = file.metadata().unwrap().len() / 4096;
        for page in 2..pages {
            file.write_all_at(&[0x5a; 64], page * 4096).unwrap();
        }
        let damaged = match inspect(&url).await {
            Ok(seen) => !seen.damage.is_empty(),
            Err(e) => matches!(e, StoreError::Corrupt(_)),
        };
        assert!(damaged);
        std::fs::write(&path, "no database at all, but a text that is long enough").unwrap();
        assert!(matches!(inspect(&url).await, Err(StoreError::Corrupt(_))));
    }
}
