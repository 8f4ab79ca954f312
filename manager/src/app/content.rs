//! What is known of the stored bytes: how far the scrub is, what is damaged, and which versions that concerns.

use super::{App, AppError, Env, Result, jobs::Shown};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};
use sutler_base::{
    Digest, Invalid, Timestamp, Uid,
    chunks::{Chunk, ChunkList},
    manifest::{EntryKind, Manifest},
    state::{Intent, JobState},
};
use sutler_content::{Error, Kind};
use sutler_core::model::PackageVersion;
use sutler_store::{Page, Tx};
use tokio::sync::Notify;

/// The setting in which the scrub keeps how far it is.
const SETTING: &str = "scrub";
/// Objects are looked at by the first byte of their digest, and after each of these the scrub notes how far it is.
pub const FANS: u16 = 256;
/// The most chunks of a package in one answer: with their digests some 2 MiB.
pub const CHUNKS_MAX: usize = 32_768;

/// How far the scrub is. Kept in the database, so that a manager that is started again goes on where it was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// The round that goes on or was the last; 0 before the first.
    pub round: u64,
    /// The next first byte; [`FANS`] when the round is over.
    pub next: u16,
    /// Objects that this round has read.
    pub objects: u64,
    /// Bytes that this round has read.
    pub bytes: u64,
    /// When the round began (milliseconds).
    pub began_ms: i64,
    /// When it was over (milliseconds).
    pub ended_ms: Option<i64>,
    /// What is damaged or missing.
    pub damaged: Vec<Digest>,
}

impl Scrubbed {
    /// When the round began.
    pub fn began(&self) -> Option<Timestamp> {
        (self.round > 0).then(|| Timestamp::from_millisecond(self.began_ms).ok())?
    }

    /// When it was over.
    pub fn ended(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.ended_ms?).ok()
    }
}

/// The scrub, as it is now.
#[derive(Debug, Default)]
pub struct Scrub {
    /// Rung when a round is to begin at once.
    pub bell: Notify,
    state: Mutex<Scrubbed>,
}

impl Scrub {
    /// How far it is.
    pub fn state(&self) -> MutexGuard<'_, Scrubbed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far the scrub was when the manager ended.
pub async fn load(tx: &mut dyn Tx) -> Result<Scrubbed> {
    let kept = tx.setting(SETTING).await?;
    Ok(kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

/// Notes how far the scrub is.
pub async fn save(tx: &mut dyn Tx, state: &Scrubbed) -> Result<()> {
    let bytes = serde_json::to_vec(state).map_err(|e| AppError::Bug(format!("the state of the scrub can't be written: {e}")))?;
    Ok(tx.put_setting(SETTING, &bytes).await?)
}

/// An operator wants everything to be looked at, now.
pub async fn ask(tx: &mut dyn Tx, env: &Env) -> Result<()> {
    env.audit(tx, "scrub_content", "content", "").await
}

/// Every version that there is.
async fn versions(tx: &mut dyn Tx) -> Result<Vec<PackageVersion>> {
    let (mut all, mut packages) = (Vec::new(), Page { after: None, limit: 500 });
    loop {
        let some = tx.list_packages(&packages).await?;
        for package in &some {
            let mut page = Page { after: None, limit: 500 };
            loop {
                let versions = tx.list_versions(&package.uid, &page).await?;
                page.after = versions.last().map(|v| format!("{}/{}", v.release, v.uid));
                let full = versions.len() as u32 == page.limit;
                all.extend(versions);
                if !full {
                    break;
                }
            }
        }
        packages.after = some.last().map(|p| p.name.to_string());
        if (some.len() as u32) < packages.limit {
            return Ok(all);
        }
    }
}

impl App {
    /// How many of the version's objects are damaged or missing, as far as is known.
    pub async fn damaged_of(&self, version: &PackageVersion) -> u32 {
        let damaged: BTreeSet<Digest> = self.content.damaged().into_iter().collect();
        if damaged.is_empty() {
            return 0;
        }
        match self.content.load_closure(version.manifest).await {
            Ok(closure) => damaged.iter().filter(|d| closure.contains(d)).count() as u32,
            // Its manifest or one of its lists: which chunks it has can't be known.
            Err(Error::Damaged { .. } | Error::Missing(_)) => 1,
            Err(_) => 0,
        }
    }

    /// The versions that clients begin to install for this job, and that wait until what is damaged is sent again. Nothing is read
    /// while nothing is damaged.
    pub async fn damaged_of_job(&self, job: &Shown) -> Result<Vec<PackageVersion>> {
        if job.job.state != JobState::Active || self.content.damaged().is_empty() {
            return Ok(vec![]);
        }
        let installs = job.packages.iter().filter(|p| p.intent != Intent::Uninstall);
        let uids: Vec<Uid> = installs.filter_map(|p| p.version.clone()).collect();
        let found = self.view("manager", "damaged_of_job", uids, |tx, _env, uids| Box::pin(async { Ok(tx.versions_by_uid(uids).await?) }));
        let mut out = Vec::new();
        for version in found.await? {
            if self.damaged_of(&version).await > 0 {
                out.push(version);
            }
        }
        Ok(out)
    }

    /// Of what the files of a stored package consist, each chunk once; none if they are more than [`CHUNKS_MAX`].
    pub async fn chunks_of(&self, manifest: &[u8]) -> Result<Option<Vec<Chunk>>> {
        let unreadable = |e: Invalid| AppError::DataLoss(format!("a stored package can't be read: {e}"));
        let manifest = Manifest::parse(manifest).map_err(unreadable)?;
        let mut chunks = BTreeMap::new();
        for entry in &manifest.files {
            let EntryKind::File { size, blake3, chunks: list, .. } = &entry.kind else { continue };
            match list {
                Some(list) => {
                    let bytes = self.content.get(*list, Kind::Document).await?;
                    chunks.extend(ChunkList::decode(&bytes, *size).map_err(unreadable)?.0.into_iter().map(|chunk| (chunk.digest, chunk)));
                }
                None if *size > 0 => {
                    chunks.insert(*blake3, Chunk { digest: *blake3, length: *size as u32 });
                }
                None => {}
            }
            if chunks.len() > CHUNKS_MAX {
                return Ok(None);
            }
        }
        Ok(Some(chunks.into_values().collect()))
    }

    /// The versions that can't be delivered as long as what is damaged is not sent again.
    pub async fn damaged_versions(&self) -> Result<Vec<PackageVersion>> {
        if self.content.damaged().is_empty() {
            return Ok(vec![]);
        }
        let mut out = Vec::new();
        for version in self.view("manager", "damaged_versions", (), |tx, _env, ()| Box::pin(versions(tx))).await? {
            if self.damaged_of(&version).await > 0 {
                out.push(version);
            }
        }
        Ok(out)
    }
}
