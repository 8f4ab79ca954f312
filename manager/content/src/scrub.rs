//! Finds what is damaged before somebody needs it, and keeps in mind what was found.

use crate::{Content, Error, Kind, store::locked};
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use sutler_base::Digest;

/// An object that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Which.
    pub digest: Digest,
    /// The bytes that were read.
    pub bytes: u64,
    /// Whether it is damaged: then it counts as lacking from now on, so a push brings it back.
    pub damaged: bool,
}

impl Content {
    /// Reads the objects whose digest begins with the byte `fan`, one after another: with all 256 of them, everything.
    pub fn scrub(&self, fan: u8) -> impl Stream<Item = Result<Looked, Error>> + '_ {
        let root = Key::from(format!("{}/{fan:02x}", self.root()));
        self.store
            .list(Some(&root))
            .map_err(|source| Error::Store { what: "list the objects".into(), source })
            .try_filter_map(move |meta| async move {
                let Some(digest) = self.digest_at(&meta.location) else { return Ok(None) };
                // What an object is isn't written on it: the larger limit fits both.
                match self.read(digest, Kind::Document).await {
                    Ok(_) => Ok(Some(Looked { digest, bytes: meta.size, damaged: false })),
                    Err(Error::Damaged { .. }) => Ok(Some(Looked { digest, bytes: meta.size, damaged: true })),
                    // Removed while it was looked at.
                    Err(Error::Missing(_)) => Ok(None),
                    Err(e) => Err(e),
                }
            })
            .boxed()
    }

    /// The objects that were found damaged or missing and were not sent again since, in order.
    pub fn damaged(&self) -> Vec<Digest> {
        let mut all: Vec<Digest> = locked(&self.damaged).iter().copied().collect();
        all.sort_unstable();
        all
    }

    /// Objects that are known to be damaged or missing, from an earlier run: they count as lacking until they are sent again.
    pub fn mark_damaged(&self, digests: impl IntoIterator<Item = Digest>) {
        let mut damaged = locked(&self.damaged);
        for digest in digests {
            if damaged.len() < crate::store::DAMAGED_MAX {
                damaged.insert(digest);
            }
        }
    }
}
