//! What the store promises, in real folders and in buckets of a real server of S3's.

use super::*;
use crate::{
    Collected,
    s3::{Access, Bucket},
    samples::package,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use std::{io::Write, time::Duration};

/// Where objects are to lie.
struct Place {
    dir: tempfile::TempDir,
    bucket: Option<Bucket>,
}

impl Place {
    fn folder() -> Place {
        Place { dir: tempfile::tempdir().unwrap(), bucket: None }
    }

    /// A bucket on a server of its own, which ends with the test's runtime.
    async fn bucket() -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("packages")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("AKIATEST", "a secret"));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        let access = Access::Key { id: "AKIATEST".into(), secret: "a secret".into() };
        let bucket =
            Bucket { name: "packages".into(), prefix: "some/where".into(), endpoint: Some(endpoint), region: None, access, ca: None };
        Place { dir, bucket: Some(bucket) }
    }

    /// The store, as a process opens it.
    fn open(&self) -> Content {
        match &self.bucket {
            None => Content::open_folder(&self.dir.path().join("content")).unwrap(),
            Some(bucket) => Content::open_bucket(bucket).unwrap(),
        }
    }

    fn path_of(&self, content: &Content, digest: &Digest) -> PathBuf {
        let root = self.dir.path().join(if self.bucket.is_some() { "packages" } else { "content" });
        root.join(content.key(digest).as_ref())
    }

    /// Makes the object look as if nobody had touched it for a day.
    fn age(&self, content: &Content, digest: &Digest) {
        made_old(&self.path_of(content, digest));
    }
}

fn made_old(path: &Path) {
    let day_ago = std::time::SystemTime::now() - Duration::from_secs(86400);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(day_ago).unwrap();
}

/// Every store must do the same.
macro_rules! in_a_folder_and_in_a_bucket {
    ($($name:ident),+ $(,)?) => {
        mod in_a_folder {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::Place::folder()).await;
            })+
        }
        mod in_a_bucket {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::Place::bucket().await).await;
            })+
        }
    };
}

in_a_folder_and_in_a_bucket!(
    what_was_put_is_read_back_also_by_another_process_and_compressed_where_that_helps,
    what_is_read_ahead_comes_in_the_order_asked_however_large_and_whatever_is_wrong_with_one_of_them,
    bytes_of_another_digest_are_refused_and_leave_nothing,
    a_bomb_is_refused_and_leaves_nothing,
    a_damaged_object_is_never_handed_out_and_is_mended_by_the_next_push,
    a_scrub_finds_what_nobody_read,
    puts_of_the_same_object_at_once_leave_it_whole,
    a_closure_has_what_belongs_to_the_version_and_nothing_else,
    an_upload_is_complete_only_when_nothing_is_lacking,
    a_collection_keeps_shared_chunks_and_what_is_young,
    nothing_is_collected_while_a_live_manifest_cannot_be_read,
);

fn folder() -> (tempfile::TempDir, Content) {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::open_folder(&dir.path().join("content")).unwrap();
    (dir, content)
}

fn noise(name: &str, length: usize) -> Bytes {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

fn path_of(content: &Content, digest: &Digest) -> PathBuf {
    content.folder.clone().unwrap().join(content.key(digest).as_ref())
}

async fn stored(content: &Content, bytes: &Bytes) -> Digest {
    let digest = Digest::of(bytes);
    content.put(digest, Kind::Chunk, bytes.clone()).await.unwrap();
    digest
}

async fn what_was_put_is_read_back_also_by_another_process_and_compressed_where_that_helps(place: &Place) {
    let content = place.open();
    let (dense, sparse) = (noise("dense", 100_000), Bytes::from(vec![b'x'; 100_000]));
    let (one, two) = (stored(&content, &dense).await, stored(&content, &sparse).await);
    let again = place.open();
    for content in [&content, &again, &again] {
        assert_eq!(content.get(one, Kind::Chunk).await.unwrap(), dense);
        assert_eq!(content.get(two, Kind::Chunk).await.unwrap(), sparse);
        assert_eq!(content.get_encoded(one, Kind::Chunk).await.unwrap().0, Encoding::Identity);
        let (encoding, payload) = content.get_encoded(two, Kind::Chunk).await.unwrap();
        assert!(encoding == Encoding::Zstd && payload.len() < 1000);
        assert_eq!(decode(encoding, &payload, 100_000).unwrap(), sparse);
    }
    let absent = Digest::of(b"absent");
    assert!(matches!(content.get(absent, Kind::Chunk).await, Err(Error::Missing(d)) if d == absent));
    assert_eq!(content.missing(&[absent, one, absent, two]).await.unwrap(), [absent]);
}

async fn what_is_read_ahead_comes_in_the_order_asked_however_large_and_whatever_is_wrong_with_one_of_them(place: &Place) {
    let content = place.open();
    let mut asked = Vec::new();
    // Small ones, and some after which nothing more is read in the same go.
    for n in 0..30 {
        let bytes = noise(&n.to_string(), if n % 4 == 3 { 3 << 20 } else { 1000 });
        let digest = Digest::of(&bytes);
        content.put(digest, Kind::Document, bytes.clone()).await.unwrap();
        asked.push((digest, Some(bytes)));
    }
    let (absent, damaged) = (Digest::of(b"absent"), asked[20].0);
    let path = place.path_of(&content, &damaged);
    let mut now = std::fs::read(&path).unwrap();
    now[500] ^= 1;
    std::fs::write(&path, &now).unwrap();
    asked[20].1 = None;
    asked.insert(9, (absent, None));
    asked.push(asked[5].clone());
    // By one that has read nothing yet, and again by the same, which remembers some.
    let content = place.open();
    let digests: Vec<Digest> = asked.iter().map(|(digest, _)| *digest).collect();
    for _ in 0..2 {
        let found: Vec<_> = content.get_all_encoded(&digests, Kind::Document).collect().await;
        assert_eq!(found.len(), asked.len());
        for ((digest, bytes), found) in asked.iter().zip(found) {
            match (bytes, found) {
                (Some(bytes), Ok((encoding, payload))) => assert_eq!(decode(encoding, &payload, 4 << 20).unwrap(), bytes),
                (None, Err(Error::Missing(d))) => assert_eq!((d, *digest), (absent, absent)),
                (None, Err(Error::Damaged { digest: d, .. })) => assert_eq!((d, *digest), (damaged, damaged)),
                (_, found) => panic!("{digest}: {found:?}"),
            }
        }
    }
}

async fn bytes_of_another_digest_are_refused_and_leave_nothing(place: &Place) {
    let content = place.open();
    let digest = Digest::of(b"this");
    let refused = content.put(digest, Kind::Chunk, Bytes::from_static(b"that")).await;
    assert!(matches!(refused, Err(Error::Mismatch { expected, actual }) if expected == digest && actual == Digest::of(b"that")));
    let packed = zstd::bulk::compress(b"that", 3).unwrap().into();
    let refused = content.put_encoded(digest, Kind::Chunk, Encoding::Zstd, packed).await;
    assert!(matches!(refused, Err(Error::Mismatch { .. })));
    let refused = content.put_encoded(digest, Kind::Chunk, Encoding::Zstd, Bytes::from_static(b"this")).await;
    assert!(matches!(refused, Err(Error::Undecodable { .. })));
    assert_eq!(content.missing(&[digest]).await.unwrap(), [digest]);
}

async fn a_bomb_is_refused_and_leaves_nothing(place: &Place) {
    let content = place.open();
    let raw = vec![0; 8 << 20];
    let digest = Digest::of(&raw);
    let bomb: Bytes = zstd::bulk::compress(&raw, 3).unwrap().into();
    assert!(bomb.len() < 4096);
    let refused = content.put_encoded(digest, Kind::Chunk, Encoding::Zstd, bomb.clone()).await;
    assert!(matches!(refused, Err(Error::TooLong { .. })));
    let refused = content.put(digest, Kind::Chunk, raw.clone().into()).await;
    assert!(matches!(refused, Err(Error::TooLong { .. })));
    assert_eq!(content.missing(&[digest]).await.unwrap(), [digest]);
    // As a document it is not too long, and is stored as it came.
    content.put_encoded(digest, Kind::Document, Encoding::Zstd, bomb.clone()).await.unwrap();
    assert_eq!(content.get_encoded(digest, Kind::Document).await.unwrap(), (Encoding::Zstd, bomb));
}

async fn a_damaged_object_is_never_handed_out_and_is_mended_by_the_next_push(place: &Place) {
    let content = place.open();
    let bytes = noise("a", 50_000);
    for damage in ["flipped", "cut off", "emptied", "grown", "other encoding"] {
        let digest = stored(&content, &bytes).await;
        let path = place.path_of(&content, &digest);
        let mut now = std::fs::read(&path).unwrap();
        match damage {
            "flipped" => now[25_000] ^= 1,
            "cut off" => now.truncate(30_000),
            "emptied" => now.clear(),
            "grown" => now.resize(limits::CHUNK_MAX + 2, 0),
            _ => now[0] = 1,
        }
        std::fs::write(&path, &now).unwrap();
        assert!(matches!(content.get(digest, Kind::Chunk).await, Err(Error::Damaged { .. })), "{damage}");
        assert!(matches!(content.get_encoded(digest, Kind::Chunk).await, Err(Error::Damaged { .. })), "{damage}");
        assert_eq!(content.missing(&[digest]).await.unwrap(), [digest], "{damage}");
        stored(&content, &bytes).await;
        assert_eq!(content.missing(&[digest]).await.unwrap(), [], "{damage}");
        assert_eq!(content.read(digest, Kind::Chunk).await.unwrap().2, bytes, "{damage}");
    }
}

async fn a_scrub_finds_what_nobody_read(place: &Place) {
    let content = place.open();
    let mut all = Vec::new();
    for n in 0..20 {
        all.push(stored(&content, &noise(&n.to_string(), 1000)).await);
    }
    let mut file = std::fs::File::options().append(true).open(place.path_of(&content, &all[7])).unwrap();
    file.write_all(b"!").unwrap();
    assert_eq!(scrubbed(&content).await, [all[7]]);
    assert_eq!(content.damaged(), [all[7]]);
    assert_eq!(content.missing(&all).await.unwrap(), [all[7]]);
}

#[tokio::test]
async fn a_write_that_never_ended_never_looks_whole_and_is_swept() {
    let (_dir, content) = folder();
    let bytes = noise("half", 50_000);
    let digest = Digest::of(&bytes);
    // What a killed manager leaves: the file under its temporary name, half written.
    let mut staged = path_of(&content, &digest).into_os_string();
    staged.push("#1");
    std::fs::write(&staged, &bytes[..25_000]).unwrap();
    assert_eq!(content.missing(&[digest]).await.unwrap(), [digest]);
    assert!(matches!(content.get(digest, Kind::Chunk).await, Err(Error::Missing(_))));
    assert_eq!(content.collect([], [], Duration::from_secs(3600)).await.unwrap(), Collected::default());
    assert_eq!(stored(&content, &bytes).await, digest);
    assert_eq!(content.get(digest, Kind::Chunk).await.unwrap(), bytes);
    let swept = content.collect([], [], Duration::ZERO).await.unwrap();
    assert_eq!((swept.unfinished, swept.removed), (1, 1));
    assert!(!Path::new(&staged).exists());
}

async fn puts_of_the_same_object_at_once_leave_it_whole(place: &Place) {
    let content = place.open();
    let content = Arc::new(content);
    let bytes = noise("same", 200_000);
    let digest = Digest::of(&bytes);
    let puts: Vec<_> = (0..32)
        .map(|_| {
            let (content, bytes) = (content.clone(), bytes.clone());
            tokio::spawn(async move { content.put(digest, Kind::Chunk, bytes).await })
        })
        .collect();
    for put in puts {
        put.await.unwrap().unwrap();
    }
    assert_eq!(content.read(digest, Kind::Chunk).await.unwrap().2, bytes);
    let names: Vec<_> =
        std::fs::read_dir(place.path_of(&content, &digest).parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

async fn a_closure_has_what_belongs_to_the_version_and_nothing_else(place: &Place) {
    let content = place.open();
    let (big, small) = (noise("big", 1 << 20), noise("small", 500));
    let one = package(&content, "1", &[("big", big.clone()), ("small", small.clone()), ("empty", Bytes::new())]).await;
    let two = package(&content, "1", &[("other", noise("foreign", 600))]).await;
    let closure = content.load_closure(one).await.unwrap();
    assert!(closure.contains(&one) && closure.contains(&Digest::of(&small)));
    assert!(!closure.contains(&two) && !closure.contains(&Digest::of(&noise("foreign", 600))) && !closure.contains(&Digest::of(b"")));
    // The file as a whole is not an object, its chunks and their list are.
    assert!(!closure.contains(&Digest::of(&big)));
    let content_of = crate::chunker::describe(&big[..], |_| Ok(())).unwrap();
    assert!(content_of.chunks.0.iter().all(|c| closure.contains(&c.digest)) && closure.contains(&content_of.list().unwrap().0));
    assert_eq!(closure.digests().len(), content_of.chunks.0.len() + 3);
    assert!(Arc::ptr_eq(&closure, &content.load_closure(one).await.unwrap()));
    assert!(matches!(content.load_closure(Digest::of(&small)).await, Err(Error::NotAManifest { .. })));
}

async fn an_upload_is_complete_only_when_nothing_is_lacking(place: &Place) {
    let content = place.open();
    let big = noise("big", 1 << 20);
    let manifest = package(&content, "1", &[("big", big.clone()), ("small", noise("small", 500))]).await;
    assert_eq!(content.verify_complete(manifest).await.unwrap(), []);
    let described = crate::chunker::describe(&big[..], |_| Ok(())).unwrap();
    let (list, chunk) = (described.list().unwrap().0, described.chunks.0[3].digest);
    std::fs::remove_file(place.path_of(&content, &chunk)).unwrap();
    assert_eq!(content.verify_complete(manifest).await.unwrap(), [chunk]);
    // Another process, which has nothing in memory.
    let content = place.open();
    let mut cut = std::fs::read(place.path_of(&content, &list)).unwrap();
    cut.pop();
    std::fs::write(place.path_of(&content, &list), cut).unwrap();
    assert_eq!(content.verify_complete(manifest).await.unwrap(), [list]);
    std::fs::remove_file(place.path_of(&content, &manifest)).unwrap();
    let content = place.open();
    assert_eq!(content.verify_complete(manifest).await.unwrap(), [manifest]);
}

async fn a_collection_keeps_shared_chunks_and_what_is_young(place: &Place) {
    let content = place.open();
    let shared = noise("shared", 1 << 20);
    let one = package(&content, "1", &[("a", shared.clone()), ("b", noise("only one", 1 << 20))]).await;
    let two = package(&content, "1", &[("c", shared.clone()), ("d", noise("only two", 300_000))]).await;
    let (kept, gone) = (content.load_closure(two).await.unwrap(), content.load_closure(one).await.unwrap());
    let grace = Duration::from_secs(3600);

    let first = content.collect([two], [], grace).await.unwrap();
    assert_eq!((first.live, first.removed), (kept.digests().len() as u64, 0));
    assert!(first.young > 0);

    for digest in gone.digests().iter().chain(kept.digests()) {
        place.age(&content, digest);
    }
    let only_one: Vec<Digest> = gone.digests().iter().copied().filter(|d| !kept.contains(d)).collect();
    // An upload asks about one of the old objects: from now on it counts on it.
    let wanted = only_one[0];
    assert_eq!(content.missing(&[wanted]).await.unwrap(), []);
    let second = content.collect([two], [], grace).await.unwrap();
    assert_eq!((second.removed, second.young), (only_one.len() as u64 - 1, 1));
    assert!(second.removed_bytes > 700_000);
    assert_eq!(content.verify_complete(two).await.unwrap(), []);
    // From a bucket nothing goes at once: who asks for it gets it back.
    let lacking = if place.bucket.is_some() { &[] } else { &only_one[1..] };
    assert_eq!(content.missing(&only_one).await.unwrap(), lacking);
}

async fn nothing_is_collected_while_a_live_manifest_cannot_be_read(place: &Place) {
    let content = place.open();
    let manifest = package(&content, "1", &[("a", noise("a", 500))]).await;
    place.age(&content, &Digest::of(&noise("a", 500)));
    assert!(matches!(content.collect([manifest, Digest::of(b"lost")], [], Duration::ZERO).await, Err(Error::Missing(_))));
    assert_eq!(content.verify_complete(manifest).await.unwrap(), []);
}

#[tokio::test]
async fn a_disk_at_its_reserve_takes_nothing_and_is_still_read() {
    let (dir, content) = folder();
    let bytes = noise("a", 500);
    let digest = stored(&content, &bytes).await;
    let full = Content::open_folder(&dir.path().join("content")).unwrap().with_reserve(u64::MAX / 2);
    let more = noise("b", 500);
    assert!(matches!(full.put(Digest::of(&more), Kind::Chunk, more).await, Err(Error::NoSpace { .. })));
    assert_eq!(full.get(digest, Kind::Chunk).await.unwrap(), bytes);
    // What is there needs no space.
    full.put(digest, Kind::Chunk, bytes).await.unwrap();
}

#[tokio::test]
async fn the_folder_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, content) = folder();
    let folder = content.folder.clone().unwrap();
    for path in [folder.clone(), folder.join("objects"), folder.join("objects/ff")] {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
    }
}

#[tokio::test]
async fn what_one_manager_removes_while_another_counts_on_it_is_put_back() {
    let place = Place::bucket().await;
    let (one, two) = (place.open(), place.open());
    let (wanted, unwanted) = (noise("wanted", 500), noise("unwanted", 500));
    let manifest = package(&one, "1", &[("a", wanted.clone())]).await;
    let (wanted, unwanted) = (Digest::of(&wanted), stored(&one, &unwanted).await);
    // The first manager does not know of the version, which the second one has just acknowledged.
    for digest in [wanted, unwanted, manifest] {
        place.age(&one, &digest);
    }
    let removed = one.collect([], [], Duration::from_secs(3600)).await.unwrap().removed;
    assert_eq!(removed, 3);
    assert!(!place.path_of(&one, &wanted).exists());
    // Whoever needs it has it.
    assert_eq!(two.verify_complete(manifest).await.unwrap(), []);
    assert_eq!(two.missing(&[wanted]).await.unwrap(), []);
    assert!(place.path_of(&one, &wanted).exists());
    // And so has it the next collection, for who has not asked yet.
    std::fs::remove_file(place.path_of(&one, &wanted)).unwrap();
    assert_eq!(two.collect([manifest], [], Duration::from_secs(3600)).await.unwrap().removed, 0);
    assert!(place.path_of(&one, &wanted).exists());
    // What nobody needs goes for good, and not before the grace is over.
    let trash = |digest: &Digest| place.dir.path().join("packages").join(one.trash_key(digest).as_ref());
    assert!(trash(&unwanted).exists());
    for digest in [wanted, unwanted] {
        made_old(&trash(&digest));
    }
    two.collect([manifest], [], Duration::from_secs(3600)).await.unwrap();
    assert!(!trash(&unwanted).exists() && !trash(&wanted).exists());
    assert_eq!(place.open().missing(&[unwanted]).await.unwrap(), [unwanted]);
    assert_eq!(place.open().verify_complete(manifest).await.unwrap(), []);
}

#[tokio::test]
async fn a_key_that_the_store_does_not_know_is_refused_by_name() {
    let place = Place::bucket().await;
    place.open().reach().await.unwrap();
    let access = Access::Key { id: "AKIATEST".into(), secret: "another secret".into() };
    let bucket = Bucket { access, ..place.bucket.clone().unwrap() };
    let error = Content::open_bucket(&bucket).unwrap().reach().await.unwrap_err().to_string();
    assert!(error.contains("SignatureDoesNotMatch") && !error.contains("another secret"), "{error}");
}

/// What a scrub of everything finds damaged.
async fn scrubbed(content: &Content) -> Vec<Digest> {
    let mut found = Vec::new();
    for fan in 0..=255 {
        let looked: Vec<crate::Looked> = content.scrub(fan).try_collect().await.unwrap();
        assert!(looked.iter().all(|l| l.digest.0[0] == fan));
        found.extend(looked.into_iter().filter(|l| l.damaged).map(|l| l.digest));
    }
    found
}

#[tokio::test]
async fn of_large_objects_few_are_read_in_one_go() {
    let (_dir, content) = folder();
    let mut digests = Vec::new();
    for n in 0..READ_TOGETHER {
        let bytes = noise(&n.to_string(), READ_BYTES / 2);
        digests.push(Digest::of(&bytes));
        content.put(digests[n], Kind::Document, bytes).await.unwrap();
    }
    let read = content.read_together(&digests, Kind::Document).await;
    // Each counts as it is stored and as it is uncompressed.
    assert_eq!(read.len(), 1);
    assert!(read[0].is_ok());
}
