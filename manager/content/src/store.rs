//! The store of objects: puts what was checked, hands out what was checked.

use crate::{
    Closure, Encoding, Error,
    encoding::{DecodeError, decode, encode},
    recent::Recent,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem, path::Path as Key};
use std::{
    collections::HashSet,
    fmt,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use sutler_base::{Digest, limits};
use tokio::sync::RwLock;

/// What an object is, and so how long it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A chunk of a file: at most [`limits::CHUNK_MAX`] bytes.
    Chunk,
    /// A manifest or a chunk list: at most [`limits::MANIFEST_MAX`] bytes.
    Document,
}

impl Kind {
    /// The most bytes that an object of this kind has, uncompressed.
    pub const fn limit(self) -> usize {
        match self {
            Kind::Chunk => limits::CHUNK_MAX,
            Kind::Document => limits::MANIFEST_MAX as usize,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Chunk => "chunk",
            Kind::Document => "manifest or chunk list",
        })
    }
}

/// Objects up to this size (bytes) are decoded and hashed where they are asked for; longer ones on a blocking thread.
const INLINE: usize = 512 << 10;
/// The objects that are looked at or written at the same time for one caller.
const AT_ONCE: usize = 32;
/// The objects that are read from a folder in one go, and so at least in memory for whoever takes them one by one.
const READ_TOGETHER: usize = 8;
/// No further one is read in the same go after so many bytes: most objects are chunks, but a manifest may be long.
const READ_BYTES: usize = 4 << 20;
/// The bytes of checked objects that are kept for the next reader.
const RECENT_BYTES: usize = 64 << 20;
/// The bytes of closures that are kept.
const CLOSURE_BYTES: usize = 64 << 20;
/// The same for deltas, which are a fraction of that.
const DELTA_BYTES: usize = 4 << 20;
/// How many damaged objects are remembered, so that they count as missing until they are sent again.
pub(crate) const DAMAGED_MAX: usize = 100_000;
/// An object whose upload is asked about is made young again if it is older than this (milliseconds): 6 hours.
const YOUNG_MS: i64 = 6 * 3600 * 1000;

/// Objects by digest, in a folder or any other object store.
///
/// Methods take `&self` and may run side by side; two puts of one object leave it whole.
pub struct Content {
    pub(crate) store: Arc<dyn ObjectStore>,
    prefix: String,
    /// The folder, where the store is one: some things are cheaper or only possible on files.
    pub(crate) folder: Option<PathBuf>,
    reserve: u64,
    recent: Mutex<Recent<Digest, (Encoding, Bytes)>>,
    pub(crate) closures: Mutex<Recent<Digest, Arc<Closure>>>,
    /// The objects of deltas that were asked for recently.
    pub(crate) deltas: Mutex<Recent<Digest, Arc<Closure>>>,
    /// Objects that were found damaged, and those whose writing failed: they count as lacking.
    pub(crate) damaged: Mutex<HashSet<Digest>>,
    /// Held shared while objects are stored or made young, alone while garbage is removed.
    pub(crate) removing: RwLock<()>,
    failed: AtomicBool,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} {})", self.store, self.prefix)
    }
}

/// A poisoned cache is still a cache: nothing in it is left half-done.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Content {
    /// Objects in `folder`, which is made if it isn't there, readable by its owner alone.
    ///
    /// Each object is written beside its place, flushed to the disk and renamed, and its folder is flushed, before `put`
    /// returns. The folders in which objects lie are made and flushed here: none of them can be lost later, and an object
    /// that a killed process had renamed but not acknowledged is as durable as any other from here on.
    pub fn open_folder(folder: &Path) -> Result<Content, Error> {
        let failed = |source| Error::Folder { path: folder.into(), source };
        let objects = folder.join("objects");
        make_folder(folder).map_err(failed)?;
        make_folder(&objects).map_err(failed)?;
        let flush = |folder: &Path| {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            fs_err::File::open(folder).and_then(|f| f.sync_all()).map_err(failed)
        };
        for n in 0..=255u8 {
            let fan = objects.join(format!("{n:02x}"));
            make_folder(&fan).map_err(failed)?;
            flush(&fan)?;
        }
        for made in [Some(&*objects), Some(folder), folder.parent()].into_iter().flatten() {
            flush(made)?;
        }
        let store = LocalFileSystem::new_with_prefix(folder)
            .map_err(|source| Error::Store { what: format!("open the folder {}", folder.display()), source })?
            .with_fsync(true)
            .with_automatic_cleanup(false);
        let mut content = Content::new(Arc::new(store), "");
        content.folder = Some(folder.into());
        Ok(content)
    }

    /// Objects in any store, under `prefix` (no slash at its ends; may be empty). The store must make an object durable
    /// before it says that it has it, and show it only as a whole, as S3 does.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Content {
        Content {
            store,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            folder: None,
            reserve: 0,
            recent: Mutex::new(Recent::new(RECENT_BYTES)),
            closures: Mutex::new(Recent::new(CLOSURE_BYTES)),
            deltas: Mutex::new(Recent::new(DELTA_BYTES)),
            damaged: Mutex::default(),
            removing: RwLock::new(()),
            failed: AtomicBool::new(false),
        }
    }

    /// The same store, which refuses objects with [`Error::NoSpace`] once fewer than `bytes` are free on a folder's disk.
    pub fn with_reserve(self, bytes: u64) -> Content {
        Content { reserve: bytes, ..self }
    }

    /// Whether the store answers, and lets this manager read and write.
    pub async fn reach(&self) -> Result<(), Error> {
        match &self.folder {
            Some(_) => Ok(()),
            None => self.store_now().await.map(drop),
        }
    }

    /// Below what key the objects lie.
    pub(crate) fn root(&self) -> Key {
        Key::from(format!("{}objects", self.prefix))
    }

    /// Where the object `digest` lies.
    pub(crate) fn key(&self, digest: &Digest) -> Key {
        let name = digest.to_string();
        Key::from(format!("{}objects/{}/{}", self.prefix, &name[..2], &name[2..]))
    }

    /// The digest of the object that lies at `key`; none if no object can lie there.
    pub(crate) fn digest_at(&self, key: &Key) -> Option<Digest> {
        self.digest_below("objects/", key)
    }

    /// The digest of the object that lies at `key` in this part of the store.
    pub(crate) fn digest_below(&self, part: &str, key: &Key) -> Option<Digest> {
        let (fan, rest) = key.as_ref().strip_prefix(&self.prefix)?.strip_prefix(part)?.split_once('/')?;
        (fan.len() == 2).then(|| format!("{fan}{rest}").parse().ok())?
    }

    /// Below what key that lies which was removed from a store that several managers share.
    pub(crate) fn trash_root(&self) -> Key {
        Key::from(format!("{}trash", self.prefix))
    }

    /// Where the object `digest` lies after it was removed from such a store.
    pub(crate) fn trash_key(&self, digest: &Digest) -> Key {
        let name = digest.to_string();
        Key::from(format!("{}trash/{}/{}", self.prefix, &name[..2], &name[2..]))
    }

    /// Puts an object back that a manager removed which did not know that another one counts on it; whether there was one.
    pub(crate) async fn put_back(&self, digest: &Digest) -> Result<bool, Error> {
        if self.folder.is_some() {
            return Ok(false);
        }
        match self.store.copy(&self.trash_key(digest), &self.key(digest)).await {
            Ok(()) => {
                tracing::info!(%digest, "an object that had been removed is needed, and was put back");
                Ok(true)
            }
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(Error::Store { what: format!("put the object {digest} back"), source }),
        }
    }

    /// Stores `raw` under `digest`, compressed where that makes it smaller; durable once this returns.
    ///
    /// Refuses bytes that have another digest ([`Error::Mismatch`]) or are too long ([`Error::TooLong`]). Storing what is
    /// there already is fine and mends it if it is damaged.
    pub async fn put(&self, digest: Digest, kind: Kind, raw: Bytes) -> Result<(), Error> {
        let checked = raw.clone();
        worked(raw.len(), move || check(digest, kind, &checked)).await??;
        let size = raw.len();
        let (encoding, payload) = worked(size, move || encode(raw)).await?;
        self.store_checked(digest, kind, encoding, payload).await
    }

    /// Stores what `payload` encodes under `digest`, as it came; durable once this returns.
    ///
    /// It is decoded at most as far as `kind` allows and checked first: the errors are those of [`Content::put`] and
    /// [`Error::Undecodable`]. A payload that is longer than what it encodes is stored decoded.
    pub async fn put_encoded(&self, digest: Digest, kind: Kind, encoding: Encoding, payload: Bytes) -> Result<(), Error> {
        if payload.len() > kind.limit() {
            return Err(Error::TooLong { digest, kind });
        }
        let packed = payload.clone();
        // What it decodes to isn't known yet: a few bytes can be many.
        let work = if encoding == Encoding::Zstd { kind.limit() } else { payload.len() };
        let raw = worked(work, move || {
            let raw = decode(encoding, &packed, kind.limit()).map_err(|e| match e {
                DecodeError::TooLong(_) => Error::TooLong { digest, kind },
                DecodeError::Malformed(why) => Error::Undecodable { digest, why: why.to_string() },
            })?;
            check(digest, kind, &raw)?;
            Ok::<_, Error>(raw)
        })
        .await??;
        let (encoding, payload) = if payload.len() < raw.len() { (encoding, payload) } else { (Encoding::Identity, raw) };
        self.store_checked(digest, kind, encoding, payload).await
    }

    async fn store_checked(&self, digest: Digest, kind: Kind, encoding: Encoding, payload: Bytes) -> Result<(), Error> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::NotDurable { digest, why: "an earlier object could not be made durable".into() });
        }
        let _shared = self.removing.read().await;
        let key = self.key(&digest);
        // An object that is there is read, not believed: an upload is how a damaged one is mended.
        // One whose writing failed is written again, since it may be there without being durable.
        let unsure = locked(&self.damaged).contains(&digest);
        match self.read(digest, kind).await {
            Ok(_) if !unsure => return self.make_young(&key, digest).await,
            Ok(_) => {}
            Err(Error::Missing(_) | Error::Damaged { .. }) => {}
            Err(other) => return Err(other),
        }
        self.check_reserve(digest, payload.len())?;
        let mut stored = BytesMut::with_capacity(payload.len() + 1);
        stored.put_u8(encoding.tag());
        stored.put(payload);
        if let Err(source) = self.store.put(&key, PutPayload::from_bytes(stored.freeze())).await {
            let error = Error::of_put(digest, source);
            locked(&self.damaged).insert(digest);
            if error.is_fatal() {
                self.failed.store(true, Ordering::Release);
            }
            return Err(error);
        }
        locked(&self.damaged).remove(&digest);
        Ok(())
    }

    fn check_reserve(&self, digest: Digest, more: usize) -> Result<(), Error> {
        let Some(folder) = self.folder.as_ref().filter(|_| self.reserve > 0) else { return Ok(()) };
        let disk = rustix::fs::statvfs(folder).map_err(|e| Error::Folder { path: folder.clone(), source: e.into() })?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < self.reserve.saturating_add(more as u64) {
            return Err(Error::NoSpace { digest, why: format!("{free} bytes are free and {} are kept in reserve", self.reserve) });
        }
        Ok(())
    }

    /// The bytes of `digest`, uncompressed and checked.
    pub async fn get(&self, digest: Digest, kind: Kind) -> Result<Bytes, Error> {
        let recent = locked(&self.recent).get(&digest);
        if let Some((encoding, payload)) = recent {
            // It was checked when it came in, and memory is believed.
            return worked(kind.limit(), move || decode(encoding, &payload, kind.limit()))
                .await?
                .map_err(|e| Error::Damaged { digest, why: e.to_string() });
        }
        let (encoding, payload, raw) = self.read(digest, kind).await?;
        self.remember(digest, encoding, payload);
        Ok(raw)
    }

    /// The bytes of `digest` as they are stored, to be sent as they are; checked.
    ///
    /// Objects that were read recently come from memory (at most 64 MiB), so that a fan-out of the same objects to many
    /// clients costs neither reading nor hashing.
    pub async fn get_encoded(&self, digest: Digest, kind: Kind) -> Result<(Encoding, Bytes), Error> {
        if let Some(found) = locked(&self.recent).get(&digest) {
            return Ok(found);
        }
        let (encoding, payload, _) = self.read(digest, kind).await?;
        self.remember(digest, encoding, payload.clone());
        Ok((encoding, payload))
    }

    fn remember(&self, digest: Digest, encoding: Encoding, payload: Bytes) {
        if payload.len() <= RECENT_BYTES / 8 {
            let weight = payload.len() + 128;
            locked(&self.recent).insert(digest, (encoding, payload), weight);
        }
    }

    /// Objects in this order, each like [`Content::get_encoded`]; they are read ahead of whoever takes them, a few at a time.
    pub fn get_all_encoded<'a>(&'a self, digests: &'a [Digest], kind: Kind) -> impl Stream<Item = Result<(Encoding, Bytes), Error>> + Send {
        let together = if self.folder.is_some() { READ_TOGETHER } else { 1 };
        let read = digests.chunks(together).map(move |digests| self.get_together(digests, kind));
        let one = move |(digest, found)| async move {
            match found {
                Some(found) => found,
                None => self.get_encoded(digest, kind).await,
            }
        };
        // One part of them is being taken, the next one read.
        stream::iter(read).buffered(2).flat_map(move |found| stream::iter(found).then(one))
    }

    /// As many of them, from the first on, as can be had in one go.
    async fn get_together(&self, digests: &[Digest], kind: Kind) -> Vec<(Digest, Option<Result<(Encoding, Bytes), Error>>)> {
        let recent: Vec<Option<(Encoding, Bytes)>> = {
            let mut recent = locked(&self.recent);
            digests.iter().map(|digest| recent.get(digest)).collect()
        };
        let lacking: Vec<Digest> = digests.iter().zip(&recent).filter(|(_, found)| found.is_none()).map(|(digest, _)| *digest).collect();
        let mut read = self.read_together(&lacking, kind).await.into_iter();
        let one = |(digest, recent): (&Digest, Option<(Encoding, Bytes)>)| {
            let remembered = |(encoding, payload, _): (Encoding, Bytes, Bytes)| {
                self.remember(*digest, encoding, payload.clone());
                (encoding, payload)
            };
            (*digest, recent.map(Ok).or_else(|| read.next().map(|read| read.map(remembered))))
        };
        digests.iter().zip(recent).map(one).collect()
    }

    /// Reads and checks `digest`: its encoding, its bytes as they are stored, and uncompressed.
    pub(crate) async fn read(&self, digest: Digest, kind: Kind) -> Result<(Encoding, Bytes, Bytes), Error> {
        self.read_together(&[digest], kind).await.pop().unwrap_or(Err(Error::Missing(digest)))
    }

    /// The same of several, in their order: of the first one at least, and of no more after [`READ_BYTES`]. From a folder they are read on
    /// one thread in one go: to go there and back for each of them costs more than to read it.
    async fn read_together(&self, digests: &[Digest], kind: Kind) -> Vec<Result<(Encoding, Bytes, Bytes), Error>> {
        let read = match &self.folder {
            _ if digests.is_empty() => vec![],
            Some(folder) => {
                let files: Vec<(Digest, PathBuf)> = digests.iter().map(|d| (*d, folder.join(self.key(d).as_ref()))).collect();
                match tokio::task::spawn_blocking(move || read_files(kind, &files)).await {
                    Ok(read) => read,
                    Err(e) => {
                        let why = e.to_string();
                        digests.iter().map(|digest| Err(Error::of_read(*digest, std::io::Error::other(why.clone())))).collect()
                    }
                }
            }
            None => stream::iter(digests).then(|digest| self.read_stored(*digest, kind)).collect().await,
        };
        for (digest, read) in digests.iter().zip(&read) {
            if let Err(Error::Damaged { why, .. }) = read {
                let mut damaged = locked(&self.damaged);
                if damaged.len() < DAMAGED_MAX && damaged.insert(*digest) {
                    tracing::error!(%digest, %why, "a stored object is damaged");
                }
            }
        }
        read
    }

    /// Reads and checks an object of a store that is no folder.
    async fn read_stored(&self, digest: Digest, kind: Kind) -> Result<(Encoding, Bytes, Bytes), Error> {
        let mut found = self.store.get(&self.key(&digest)).await.map_err(|e| Error::of_get(digest, e));
        if matches!(found, Err(Error::Missing(_))) && self.put_back(&digest).await? {
            found = self.store.get(&self.key(&digest)).await.map_err(|e| Error::of_get(digest, e));
        }
        let found = found?;
        fits(digest, kind, found.meta.size)?;
        let stored = found.bytes().await.map_err(|e| Error::of_get(digest, e))?;
        worked(kind.limit(), move || open(digest, kind, stored)).await?
    }

    /// Whether an object was found damaged, and has not been stored again since.
    pub fn is_damaged(&self, digest: &Digest) -> bool {
        locked(&self.damaged).contains(digest)
    }

    /// Those of `digests` that the store lacks, each once, in their order. One that was found damaged counts as lacking.
    ///
    /// What is there is made young again: garbage collection leaves it alone for the grace period, in which the upload
    /// that asks has to end.
    pub async fn missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let mut seen = HashSet::with_capacity(digests.len());
        let asked: Vec<Digest> = digests.iter().copied().filter(|d| seen.insert(*d)).collect();
        let _shared = self.removing.read().await;
        let now = if self.folder.is_some() { None } else { Some(self.store_now().await?) };
        let lacking = stream::iter(asked).map(|digest| async move {
            if locked(&self.damaged).contains(&digest) {
                return Ok(Some(digest));
            }
            let key = self.key(&digest);
            match self.store.head(&key).await.map_err(|e| Error::of_get(digest, e)) {
                // Not even the byte that names the encoding.
                Ok(meta) if meta.size == 0 => Ok(Some(digest)),
                Ok(meta) if now.is_none_or(|now| now - modified_ms(&meta) > YOUNG_MS) => self.make_young(&key, digest).await.map(|()| None),
                Ok(_) => Ok(None),
                Err(Error::Missing(_)) => Ok((!self.put_back(&digest).await?).then_some(digest)),
                Err(e) => Err(e),
            }
        });
        lacking.buffered(AT_ONCE).try_filter_map(|found| async move { Ok(found) }).try_collect().await
    }

    /// Makes the object at `key` look as if it had been stored just now.
    async fn make_young(&self, key: &Key, digest: Digest) -> Result<(), Error> {
        let failed = |source| Error::Store { what: format!("keep the object {digest}"), source };
        match &self.folder {
            Some(folder) => {
                let path = folder.join(key.as_ref());
                let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
                let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
                rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty())
                    .map_err(|e| Error::Folder { path, source: e.into() })
            }
            None => {
                let stored = self.store.get(key).await.map_err(failed)?.bytes().await.map_err(failed)?;
                self.store.put(key, PutPayload::from_bytes(stored)).await.map(drop).map_err(failed)
            }
        }
    }

    /// The store's own time (Unix milliseconds), by which the ages of objects are told, whatever this machine's clock says.
    pub(crate) async fn store_now(&self) -> Result<i64, Error> {
        let failed = |source| Error::Store { what: "ask the store for its time".into(), source };
        let marker = Key::from(format!("{}clock", self.prefix));
        let question = Bytes::from_static(b"what time is it?");
        let asked = self.store.put(&marker, PutPayload::from_bytes(question.clone())).await;
        asked.map_err(|source| match Error::of_put(Digest::of(&question), source) {
            // Nobody needs these bytes, but a disk that fails to keep them fails.
            error if error.is_fatal() => {
                self.failed.store(true, Ordering::Release);
                error
            }
            Error::Store { source, .. } => failed(source),
            error => error,
        })?;
        Ok(modified_ms(&self.store.head(&marker).await.map_err(failed)?))
    }

    /// Forgets what memory holds of `digest`.
    pub(crate) fn forget(&self, digest: &Digest) {
        locked(&self.recent).remove(digest);
        locked(&self.closures).remove(digest);
        locked(&self.deltas).remove(digest);
        locked(&self.damaged).remove(digest);
    }
}

/// When an object was last stored or made young (Unix milliseconds).
pub(crate) fn modified_ms(meta: &ObjectMeta) -> i64 {
    meta.last_modified.timestamp_millis()
}

/// Makes `path` for its owner alone, unless it is there.
fn make_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The result of `work`, done on a blocking thread if it is about more than a few bytes.
async fn worked<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    if bytes <= INLINE {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Store { what: "check an object".into(), source: object_store::Error::JoinError { source: e } })
}

/// Whether `raw` may be stored under `digest`.
fn check(digest: Digest, kind: Kind, raw: &[u8]) -> Result<(), Error> {
    if raw.len() > kind.limit() {
        return Err(Error::TooLong { digest, kind });
    }
    let actual = Digest::of(raw);
    if actual == digest { Ok(()) } else { Err(Error::Mismatch { expected: digest, actual }) }
}

/// Reads and checks objects that lie in files, until it has [`READ_BYTES`].
fn read_files(kind: Kind, files: &[(Digest, PathBuf)]) -> Vec<Result<(Encoding, Bytes, Bytes), Error>> {
    let (mut all, mut bytes) = (Vec::with_capacity(files.len()), 0);
    for (digest, path) in files {
        let read = read_file(*digest, kind, path);
        bytes += read.as_ref().map_or(0, |(_, payload, raw)| payload.len() + raw.len());
        all.push(read);
        if bytes >= READ_BYTES {
            break;
        }
    }
    all
}

/// Reads and checks an object that lies in a file.
fn read_file(digest: Digest, kind: Kind, path: &Path) -> Result<(Encoding, Bytes, Bytes), Error> {
    let failed = |e| Error::of_read(digest, e);
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    fits(digest, kind, size)?;
    let mut stored = Vec::with_capacity(size as usize);
    file.take(size).read_to_end(&mut stored).map_err(failed)?;
    open(digest, kind, stored.into())
}

/// Refuses what is stored with more bytes than an object of this kind can have.
fn fits(digest: Digest, kind: Kind, size: u64) -> Result<(), Error> {
    match size > kind.limit() as u64 + 1 {
        true => Err(Error::Damaged { digest, why: format!("{size} bytes are stored, too many for a {kind}") }),
        false => Ok(()),
    }
}

/// The encoding, the payload and the uncompressed bytes of a stored object, checked.
fn open(digest: Digest, kind: Kind, stored: Bytes) -> Result<(Encoding, Bytes, Bytes), Error> {
    let damaged = |why: String| Error::Damaged { digest, why };
    let tag = *stored.first().ok_or_else(|| damaged("it is empty".into()))?;
    let encoding = Encoding::from_tag(tag).ok_or_else(|| damaged(format!("its encoding is {tag}, which is none")))?;
    let payload = stored.slice(1..);
    let raw = decode(encoding, &payload, kind.limit()).map_err(|e| damaged(e.to_string()))?;
    match Digest::of(&raw) {
        actual if actual == digest => Ok((encoding, payload, raw)),
        actual => Err(damaged(format!("its bytes have the digest {actual}"))),
    }
}

#[cfg(test)]
mod tests;
