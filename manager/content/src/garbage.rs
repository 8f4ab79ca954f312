//! Finds what is not needed any more and removes it.

use crate::{Content, Error, store::modified_ms};
use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use std::{collections::HashSet, path::Path, time::Duration};
use sutler_base::Digest;

/// What a collection did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// Objects that a live manifest reaches.
    pub live: u64,
    /// Objects that none reaches, but that are younger than the grace period: perhaps of an upload that goes on.
    pub young: u64,
    /// Objects that were removed.
    pub removed: u64,
    /// The bytes on disk that they had.
    pub removed_bytes: u64,
    /// Files of writes that never ended, which were removed, too.
    pub unfinished: u64,
    /// Of the deltas those that can't be read whole any more; what is left of them goes like whatever nothing reaches.
    pub lost: Vec<Digest>,
}

/// The objects that are removed before uploads get a turn.
const AT_ONCE: usize = 64;

impl Content {
    /// Removes every object that none of the `live` manifests and `deltas` reaches and that was neither stored nor asked about by an
    /// upload for `grace`.
    ///
    /// `live` has to be read *before* this is called, and `grace` has to be longer than an upload may take: what is not
    /// live yet is saved by its age alone. Ages are told by the store's clock. If a live manifest can't be read, nothing is
    /// removed: what it needs isn't known. A delta can be made again: one that can't be read is lost, and that is all. Memory: 32 bytes and a little per live object.
    pub async fn collect(
        &self,
        live: impl IntoIterator<Item = Digest>,
        deltas: impl IntoIterator<Item = Digest>,
        grace: Duration,
    ) -> Result<Collected, Error> {
        let mut needed: HashSet<Digest> = HashSet::new();
        let mut done = Collected::default();
        for manifest in live {
            needed.extend(self.load_closure(manifest).await?.digests());
        }
        for delta in deltas {
            match self.load_delta(delta).await {
                Ok(objects) if objects.digests().iter().any(|digest| self.is_damaged(digest)) => done.lost.push(delta),
                Ok(objects) => needed.extend(objects.digests()),
                Err(Error::Missing(_) | Error::Damaged { .. } | Error::NotADelta { .. }) => done.lost.push(delta),
                Err(error) => return Err(error),
            }
        }
        let before = self.store_now().await?.saturating_sub(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX));
        let mut doomed = Vec::with_capacity(AT_ONCE);
        let root = self.root();
        let mut objects = self.store.list(Some(&root));
        let listed = |source| Error::Store { what: "list the objects".into(), source };
        while let Some(meta) = objects.try_next().await.map_err(listed)? {
            match self.digest_at(&meta.location) {
                None => tracing::warn!(location = %meta.location, "this is no object, and is left where it is"),
                Some(digest) if needed.contains(&digest) => done.live += 1,
                Some(_) if modified_ms(&meta) > before => done.young += 1,
                Some(digest) => doomed.push(digest),
            }
            if doomed.len() == AT_ONCE {
                self.remove(&mut doomed, before, &mut done).await?;
            }
        }
        self.remove(&mut doomed, before, &mut done).await?;
        self.empty_trash(&needed, before).await?;
        if let Some(folder) = self.folder.clone() {
            let swept = tokio::task::spawn_blocking(move || sweep(&folder.join("objects"), before)).await;
            done.unfinished = swept.map_err(|e| listed(e.into()))?.map_err(|e| Error::Store {
                what: "remove what unfinished writes left".into(),
                source: object_store::Error::Generic { store: "folder", source: Box::new(e) },
            })?;
        }
        Ok(done)
    }

    /// Removes those of `doomed` that are still old now that no upload can make them young.
    async fn remove(&self, doomed: &mut Vec<Digest>, before: i64, done: &mut Collected) -> Result<(), Error> {
        let _alone = self.removing.write().await;
        for digest in doomed.drain(..) {
            let key = self.key(&digest);
            let failed = |source| Error::Store { what: format!("remove the object {digest}"), source };
            let meta = match self.store.head(&key).await {
                Err(object_store::Error::NotFound { .. }) => continue,
                meta => meta.map_err(failed)?,
            };
            if modified_ms(&meta) > before {
                done.young += 1;
                continue;
            }
            self.forget(&digest);
            if self.folder.is_none() {
                match self.store.copy(&key, &self.trash_key(&digest)).await {
                    Err(object_store::Error::NotFound { .. }) => continue,
                    copied => copied.map_err(failed)?,
                }
            }
            match self.store.delete(&key).await {
                Err(object_store::Error::NotFound { .. }) => continue,
                deleted => deleted.map_err(failed)?,
            }
            done.removed += 1;
            done.removed_bytes += meta.size;
        }
        Ok(())
    }
}

impl Content {
    /// What was removed from a store that several managers share goes for good once it lay in the trash for the grace period
    /// and nobody needs it.
    ///
    /// The lock that keeps uploads and removals apart is this process's own. Another manager may begin to count on an object
    /// between the look at its age and the removal, which can come late: a request waits, a process is stopped. So an object
    /// is copied into the trash before it is removed. Who misses one that is there puts it back ([`Content::put_back`]), and so
    /// does the next collection for what a live manifest reaches.
    async fn empty_trash(&self, needed: &HashSet<Digest>, before: i64) -> Result<(), Error> {
        if self.folder.is_some() {
            return Ok(());
        }
        let root = self.trash_root();
        let mut removed = self.store.list(Some(&root));
        let listed = |source| Error::Store { what: "list what was removed".into(), source };
        while let Some(meta) = removed.try_next().await.map_err(listed)? {
            let Some(digest) = self.digest_below("trash/", &meta.location) else { continue };
            if needed.contains(&digest) {
                match self.store.head(&self.key(&digest)).await {
                    Err(object_store::Error::NotFound { .. }) => {
                        self.put_back(&digest).await?;
                        continue;
                    }
                    found => drop(found.map_err(|source| Error::Store { what: format!("look for the object {digest}"), source })?),
                }
            }
            if modified_ms(&meta) <= before {
                match self.store.delete(&meta.location).await {
                    Err(object_store::Error::NotFound { .. }) => {}
                    deleted => deleted.map_err(|source| Error::Store { what: format!("forget the object {digest}"), source })?,
                }
            }
        }
        Ok(())
    }
}

/// Removes the files of unfinished writes below `objects` that were last written before `before` (Unix milliseconds), and
/// says how many they were. The store writes an object to `NAME#N` first and doesn't list such files.
fn sweep(objects: &Path, before: i64) -> std::io::Result<u64> {
    let mut removed = 0;
    for fan in fs_err::read_dir(objects)? {
        let fan = fan?;
        if !fan.file_type()?.is_dir() {
            continue;
        }
        for file in fs_err::read_dir(fan.path())? {
            let file = file?;
            let unfinished = file.file_name().to_str().is_some_and(|name| name.len() > 63 && name.as_bytes()[62] == b'#');
            let age = file.metadata().and_then(|m| m.modified());
            let old = age.is_ok_and(|at| at.duration_since(std::time::UNIX_EPOCH).is_ok_and(|t| (t.as_millis() as i64) <= before));
            if unfinished && old {
                fs_err::remove_file(file.path())?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
