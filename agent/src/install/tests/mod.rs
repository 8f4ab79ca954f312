//! Trees and exchanges on real files.

mod detection;

use super::*;
use fs_err as fs;
use std::{
    collections::HashMap,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
    sync::Arc,
};
use sutler_base::{
    AttemptId, Digest, Timestamp,
    chunks::{Chunk, ChunkList},
    manifest::{Entry, EntryKind, Manifest},
    path::InstallPath,
    state::ErrorKind,
};

const CHUNK: usize = 64 << 10;

/// A package with the bytes of its chunks.
struct Package {
    manifest: Arc<Manifest>,
    lists: ChunkLists,
    chunks: HashMap<Digest, Vec<u8>>,
}

enum Item {
    File(u32, Vec<u8>),
    Link(&'static str),
    Folder(u32),
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn package(name: &str, version: &str, items: Vec<(&str, Item)>) -> Package {
    let (mut lists, mut chunks, mut files) = (ChunkLists::new(), HashMap::new(), Vec::new());
    for (path, item) in items {
        let kind = match item {
            Item::Link(target) => EntryKind::Link { target: target.into() },
            Item::Folder(mode) => EntryKind::Directory { mode },
            Item::File(mode, content) => {
                let list = ChunkList(content.chunks(CHUNK).map(|c| Chunk { digest: Digest::of(c), length: c.len() as u32 }).collect());
                chunks.extend(content.chunks(CHUNK).map(|c| (Digest::of(c), c.to_vec())));
                let blake3 = Digest::of(&content);
                let named = (list.0.len() > 1).then(|| Digest::of(&list.encode()));
                if let Some(named) = named {
                    lists.insert(named, list);
                }
                EntryKind::File { mode, size: content.len() as u64, blake3, sha256: blake3, chunks: named }
            }
        };
        files.push(Entry { path: path.parse().unwrap(), kind });
    }
    let manifest = Manifest {
        directory: Some("/opt/tool".parse().unwrap()),
        files,
        ..Manifest::new(name.parse().unwrap(), version.parse().unwrap(), 1)
    };
    manifest.check().unwrap();
    Package { manifest: manifest.into(), lists, chunks }
}

/// Two chunks and a half, a small file, an empty one, a link, an empty folder.
fn tool(version: &str) -> Package {
    let seed = version.as_bytes()[0];
    package(
        "tool",
        version,
        vec![
            ("bin/tool", Item::File(0o755, bytes(seed, CHUNK * 5 / 2))),
            ("empty", Item::File(0o600, vec![])),
            ("lib/same", Item::File(0o444, bytes(seed, CHUNK))),
            ("link", Item::Link("bin/tool")),
            ("spool", Item::Folder(0o750)),
            ("version", Item::File(0o644, version.as_bytes().to_vec())),
        ],
    )
}

struct Machine {
    _folder: tempfile::TempDir,
    layout: Layout,
}

fn machine() -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path().join("root"), folder.path().join("state")).unwrap();
    Machine { layout, _folder: folder }
}

fn attempt(n: u8) -> AttemptId {
    AttemptId::new(Timestamp::from_millisecond(1_000).unwrap(), [n; 16])
}

const NO_RESERVE: Reserve = Reserve { bytes: 0, percent: 5 };

impl Machine {
    fn open(&self, package: &Package, n: u8) -> Result<Staging, Error> {
        let source = Source { manifest: package.manifest.clone(), digest: Digest::of(&package.manifest.to_bytes()) };
        Staging::open(&self.layout, source, &package.lists, &attempt(n), 0, NO_RESERVE)
    }

    fn stage(&self, package: &Package, n: u8) -> Staged {
        let mut staging = self.open(package, n).unwrap();
        fill(&mut staging, package);
        staging.finish().unwrap()
    }

    fn with_exchange<T>(&self, package: &Package, n: u8, f: impl FnOnce(Exchange<'_>) -> T) -> T {
        let attempt = attempt(n);
        let directory = package.manifest.directory.as_ref().unwrap();
        f(Exchange::new(&self.layout, directory, &package.manifest.name, &attempt, 0))
    }

    fn install(&self, package: &Package, n: u8) {
        self.stage(package, n);
        self.with_exchange(package, n, |e| e.exchange().and_then(|()| e.commit())).unwrap();
    }

    fn target(&self) -> PathBuf {
        self.layout.root().join("opt/tool")
    }

    fn installed_version(&self) -> Option<String> {
        fs::read_to_string(self.target().join("version")).ok()
    }

    /// What lies beside the target.
    fn beside(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.layout.root().join("opt")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn fill(staging: &mut Staging, package: &Package) {
    for chunk in staging.missing() {
        assert_eq!(staging.write(&[(chunk.digest, &package.chunks[&chunk.digest])]).unwrap(), 1);
    }
}

fn directory() -> InstallPath {
    "/opt/tool".parse().unwrap()
}

#[test]
fn a_tree_is_exactly_what_the_manifest_says() {
    let machine = machine();
    let package = tool("1");
    let mut staging = machine.open(&package, 1).unwrap();
    // The first chunk of bin/tool is all of lib/same: fetched once, written twice.
    assert_eq!(staging.missing().len(), 4);
    assert_eq!(staging.missing_bytes(), package.manifest.total_bytes());
    let fetched = staging.missing();
    fill(&mut staging, &package);
    assert_eq!(staging.write(&[(Digest::of(b"1"), b"1")]).unwrap(), 0, "what is not asked for is not written");
    let there = &package.chunks[&fetched[0].digest];
    assert_eq!(staging.write(&[(fetched[0].digest, there)]).unwrap(), 0, "what is there is not written again");
    let staged = staging.finish().unwrap();
    assert_eq!(fs::metadata(&staged.path).unwrap().mode() & 0o777, 0o700);
    let at = |path: &str| staged.path.join(path);
    assert_eq!(fs::read(at("bin/tool")).unwrap(), bytes(b'1', CHUNK * 5 / 2));
    assert_eq!(fs::read(at("lib/same")).unwrap(), bytes(b'1', CHUNK));
    assert_eq!(fs::read(at("empty")).unwrap(), b"");
    assert_eq!(fs::read_link(at("link")).unwrap(), PathBuf::from("bin/tool"));
    for (path, mode) in [("bin/tool", 0o755), ("empty", 0o600), ("lib/same", 0o444), ("spool", 0o750), ("lib", 0o755)] {
        assert_eq!(fs::metadata(at(path)).unwrap().mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn an_interrupted_download_goes_on_with_only_what_is_missing() {
    let machine = machine();
    let package = tool("1");
    let mut staging = machine.open(&package, 1).unwrap();
    let all = staging.missing();
    staging.write(&[(all[1].digest, &package.chunks[&all[1].digest])]).unwrap();
    staging.write(&[(all[0].digest, &package.chunks[&all[0].digest])]).unwrap();
    drop(staging);
    let mut staging = machine.open(&package, 1).unwrap();
    assert_eq!(staging.missing(), all[2..]);
    assert!(matches!(machine.open(&package, 1).unwrap().finish(), Err(Error::Incomplete { chunks: 2, .. })));
    fill(&mut staging, &package);
    staging.finish().unwrap();
    // Cut off after everything was made, before the exchange: nothing is fetched, the tree is made again.
    let staging = machine.open(&package, 1).unwrap();
    assert_eq!(staging.missing(), []);
    staging.finish().unwrap();
}

#[test]
fn what_comes_in_order_is_verified_as_the_file_that_it_makes_and_only_what_was_wrong_is_fetched_again() {
    let machine = machine();
    let content: Vec<u8> = (0..CHUNK * 5).map(|n| (n / CHUNK) as u8).collect();
    let package = package("tool", "1", vec![("data", Item::File(0o644, content.clone()))]);
    let mut staging = machine.open(&package, 1).unwrap();
    let all = staging.missing();
    for (n, chunk) in all.iter().enumerate() {
        let mut bytes = package.chunks[&chunk.digest].clone();
        bytes[7] ^= u8::from(n == 2);
        staging.write(&[(chunk.digest, &bytes)]).unwrap();
    }
    let wrong = staging.finish().unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::ContentMismatch);
    let mut staging = machine.open(&package, 1).unwrap();
    assert_eq!(staging.missing(), all[2..3]);
    fill(&mut staging, &package);
    assert_eq!(fs::read(staging.finish().unwrap().path.join("data")).unwrap(), content);
}

#[test]
fn chunks_that_come_together_each_go_to_their_places_in_whatever_order_they_come() {
    let machine = machine();
    // The first file has a chunk twice, and one that the second has, too.
    let long: Vec<u8> = (10..40).flat_map(|n| bytes(n, CHUNK)).collect();
    let mixed = [&long[CHUNK..2 * CHUNK], &bytes(1, CHUNK), &bytes(2, CHUNK), &bytes(1, CHUNK), &b"end"[..]].concat();
    let files = vec![("a", Item::File(0o644, mixed.clone())), ("long", Item::File(0o644, long.clone()))];
    let package = package("tool", "1", files);
    let made = |n, order: &dyn Fn(&mut Vec<Chunk>)| {
        let mut staging = machine.open(&package, n).unwrap();
        let mut missing = staging.missing();
        order(&mut missing);
        let chunks: Vec<(Digest, &[u8])> = missing.iter().map(|c| (c.digest, &package.chunks[&c.digest][..])).collect();
        assert_eq!(staging.write(&chunks).unwrap(), 33);
        assert_eq!(staging.write(&chunks[..20]).unwrap(), 0, "they are there");
        let at = staging.finish().unwrap().path;
        assert!(fs::read(at.join("a")).unwrap() == mixed && fs::read(at.join("long")).unwrap() == long);
    };
    made(1, &|_| ());
    made(2, &|chunks| chunks.reverse());
    made(3, &|chunks| chunks.swap(10, 20));
}

#[test]
fn a_large_file_has_its_room_before_its_bytes_and_what_was_cut_off_gives_it_back() {
    let machine = machine();
    let package = package("tool", "1", vec![("data", Item::File(0o644, bytes(1, 32 * CHUNK)))]);
    let mut staging = machine.open(&package, 1).unwrap();
    let chunk = staging.missing()[0];
    staging.write(&[(chunk.digest, &package.chunks[&chunk.digest])]).unwrap();
    let path = staging.path();
    let there = || fs::metadata(path.join("data")).unwrap();
    assert_eq!(there().len(), CHUNK as u64);
    assert!(there().blocks() * 512 >= 32 * CHUNK as u64);
    drop(staging);
    let mut staging = machine.open(&package, 1).unwrap();
    assert_eq!(there().len(), CHUNK as u64);
    assert!(there().blocks() * 512 < 2 * CHUNK as u64, "all that is missing must find room once more");
    assert_eq!(staging.missing().len(), 31);
    fill(&mut staging, &package);
    assert_eq!(fs::read(staging.finish().unwrap().path.join("data")).unwrap(), bytes(1, 32 * CHUNK));
}

#[test]
fn a_damaged_chunk_is_fetched_again_and_never_installed() {
    let machine = machine();
    let package = tool("1");
    let staged = machine.stage(&package, 1);
    let mut file = fs::OpenOptions::new().write(true).open(staged.path.join("bin/tool")).unwrap();
    file.seek(SeekFrom::Start(CHUNK as u64 + 17)).unwrap();
    file.write_all(b"rot").unwrap();
    let mut staging = machine.open(&package, 1).unwrap();
    let missing = staging.missing();
    assert_eq!(missing.len(), 1);
    let wrong = staging.write(&[(missing[0].digest, &[0; CHUNK])]).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::ContentMismatch);
    assert_eq!(staging.missing(), missing);
    fill(&mut staging, &package);
    let staged = staging.finish().unwrap();
    assert_eq!(fs::read(staged.path.join("bin/tool")).unwrap(), bytes(b'1', CHUNK * 5 / 2));
}

#[test]
fn a_file_whose_chunks_are_good_but_whose_whole_is_not_what_was_signed_is_refused() {
    let machine = machine();
    let mut package = tool("1");
    let mut manifest = Manifest::clone(&package.manifest);
    if let EntryKind::File { blake3, .. } = &mut manifest.files[0].kind {
        *blake3 = Digest::of(b"another file");
    }
    package.manifest = manifest.into();
    let mut staging = machine.open(&package, 1).unwrap();
    fill(&mut staging, &package);
    assert_eq!(staging.finish().unwrap_err().kind(), ErrorKind::ContentMismatch);
    // Nor if it is found like that.
    assert_eq!(machine.open(&package, 1).unwrap().finish().unwrap_err().kind(), ErrorKind::ContentMismatch);
}

#[test]
fn what_a_longer_file_had_left_is_cut_off() {
    let machine = machine();
    let package = tool("1");
    let staged = machine.stage(&package, 1);
    for path in ["version", "empty"] {
        fs::OpenOptions::new().append(true).open(staged.path.join(path)).unwrap().write_all(b"tail").unwrap();
    }
    machine.open(&package, 1).unwrap().finish().unwrap();
    assert_eq!(fs::read(staged.path.join("version")).unwrap(), b"1");
    assert_eq!(fs::read(staged.path.join("empty")).unwrap(), b"");
}

#[test]
fn a_tree_of_many_small_files_is_made() {
    let machine = machine();
    let paths: Vec<String> = (0..3000).map(|n| format!("{:02}/{n:06}", n / 100)).collect();
    let items = paths.iter().enumerate().map(|(n, path)| (path.as_str(), Item::File(0o644, n.to_string().into_bytes()))).collect();
    let package = package("tool", "1", items);
    let staged = machine.stage(&package, 1);
    assert_eq!(fs::read(staged.path.join("29/002999")).unwrap(), b"2999");
    assert_eq!(machine.open(&package, 1).unwrap().missing(), []);
}

#[test]
fn the_old_tree_gives_what_did_not_change_and_nothing_that_did() {
    let machine = machine();
    let with = |version: &str, tail: u8| {
        let mut large = bytes(1, CHUNK * 4);
        large.extend(bytes(tail, 100));
        let items = vec![("large", Item::File(0o644, large)), ("moved-to", Item::File(0o644, bytes(9, CHUNK * 3)))];
        package("tool", version, items)
    };
    let (old, new) = (with("1", 2), with("2", 3));
    machine.install(&old, 1);
    let target = machine.target();
    // One chunk of the old tree has rotted since.
    let mut file = fs::OpenOptions::new().write(true).open(target.join("large")).unwrap();
    file.seek(SeekFrom::Start(CHUNK as u64)).unwrap();
    file.write_all(b"rot").unwrap();

    let mut staging = machine.open(&new, 2).unwrap();
    let reused = staging.reuse(&OldTree { path: &target, manifest: &old.manifest, lists: &ChunkLists::new() }).unwrap();
    assert_eq!(reused, CHUNK as u64 * 3, "without old chunk lists: the file that did not change");
    let reused = staging.reuse(&OldTree { path: &target, manifest: &old.manifest, lists: &old.lists }).unwrap();
    assert_eq!(reused, CHUNK as u64 * 3, "with them: the chunks that did not change and have not rotted");
    assert_eq!(staging.missing().len(), 2);
    fill(&mut staging, &new);
    staging.finish().unwrap();
    assert_eq!(staging_reuse_of_nothing(&machine, &new), 0);
}

fn staging_reuse_of_nothing(machine: &Machine, package: &Package) -> u64 {
    let mut staging = machine.open(package, 3).unwrap();
    let nowhere = machine.layout.root().join("nowhere");
    staging.reuse(&OldTree { path: &nowhere, manifest: &package.manifest, lists: &package.lists }).unwrap()
}

#[test]
fn a_full_disk_is_refused_before_anything_is_fetched() {
    let machine = machine();
    let package = tool("1");
    let source = Source { manifest: package.manifest.clone(), digest: Digest::of(b"") };
    let reserve = Reserve { bytes: u64::MAX / 2, percent: 5 };
    let refused = Staging::open(&machine.layout, source, &package.lists, &attempt(1), 0, reserve).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(refused.to_string().contains("bytes"), "{refused}");
}

#[test]
fn no_link_on_the_way_leads_a_write_outside() {
    let machine = machine();
    let package = tool("1");
    let outside = tempfile::tempdir().unwrap();
    let root = machine.layout.root().to_path_buf();
    for target in [outside.path().to_path_buf(), PathBuf::from("../..")] {
        symlink(&target, root.join("opt")).unwrap();
        assert!(matches!(machine.open(&package, 1), Err(Error::LeavesRoot { .. })), "{target:?}");
        fs::remove_file(root.join("opt")).unwrap();
    }
    // Inside of the root a link may lie on the way, and the staging place is where it leads.
    fs::create_dir(root.join("data")).unwrap();
    symlink("data", root.join("opt")).unwrap();
    assert_eq!(machine.stage(&package, 1).path.parent().unwrap(), root.join("data"));
    machine.with_exchange(&package, 1, |e| e.discard()).unwrap();
    // The installation directory itself may not be one: it would be exchanged, and what it points to left behind.
    symlink(outside.path(), root.join("data/tool")).unwrap();
    assert!(matches!(machine.open(&package, 1), Err(Error::NotADirectory { .. })));
    fs::remove_file(root.join("data/tool")).unwrap();
    // Nor may the staging place be one.
    let staging = root.join("data").join(format!(".sutler-{}-0", attempt(1)));
    symlink(outside.path(), &staging).unwrap();
    assert!(machine.open(&package, 1).is_err());
    fs::remove_file(&staging).unwrap();
    // Nor any place in it.
    fs::create_dir(&staging).unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "as it was").unwrap();
    symlink(&victim, staging.join("version")).unwrap();
    symlink(outside.path(), staging.join("bin")).unwrap();
    assert!(machine.open(&package, 1).and_then(|mut s| s.write(&[(Digest::of(b"1"), b"1")])).is_ok());
    assert_eq!(fs::symlink_metadata(staging.join("version")).unwrap().len(), 1);
    let first = &package.chunks[&Digest::of(&bytes(b'1', CHUNK))];
    assert!(machine.open(&package, 1).and_then(|mut s| s.write(&[(Digest::of(first), first)])).is_err());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_that_everybody_may_change_is_not_installed_below() {
    let machine = machine();
    let opt = machine.layout.root().join("opt");
    fs::create_dir(&opt).unwrap();
    fs::set_permissions(&opt, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(matches!(machine.open(&tool("1"), 1), Err(Error::Untrusted { .. })));
    fs::set_permissions(&opt, PermissionsExt::from_mode(0o1777)).unwrap();
    machine.open(&tool("1"), 1).unwrap();
}

#[test]
fn a_state_folder_that_lets_others_in_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    Layout::new(folder.path(), &state).unwrap();
    fs::set_permissions(&state, PermissionsExt::from_mode(0o750)).unwrap();
    assert!(matches!(Layout::new(folder.path(), &state), Err(Error::State { .. })));
    fs::remove_dir(&state).unwrap();
    symlink(folder.path(), &state).unwrap();
    assert!(matches!(Layout::new(folder.path(), &state), Err(Error::State { .. })));
}

#[test]
fn what_this_package_did_not_bring_is_never_exchanged_away() {
    let machine = machine();
    fs::create_dir_all(machine.target()).unwrap();
    machine.open(&tool("1"), 1).unwrap();
    fs::write(machine.target().join("precious"), "").unwrap();
    assert!(matches!(machine.open(&tool("1"), 1), Err(Error::Occupied { .. })));
    fs::remove_file(machine.target().join("precious")).unwrap();
    machine.install(&tool("1"), 1);
    let other = package("other", "1", vec![("x", Item::File(0o644, b"x".to_vec()))]);
    let refused = machine.open(&other, 2).unwrap_err();
    assert!(refused.to_string().contains("the package \"tool\"") || refused.to_string().contains("the package tool"), "{refused}");
    // Files that came while the new tree was staged.
    let machine = self::machine();
    machine.stage(&tool("1"), 1);
    fs::create_dir_all(machine.target()).unwrap();
    fs::write(machine.target().join("precious"), "").unwrap();
    assert!(matches!(machine.with_exchange(&tool("1"), 1, |e| e.exchange()), Err(Error::Occupied { .. })));
}

#[test]
fn a_tree_takes_its_place_and_stays_after_a_commit() {
    let machine = machine();
    machine.install(&tool("1"), 1);
    assert_eq!(machine.installed_version().as_deref(), Some("1"));
    assert_eq!(fs::metadata(machine.target()).unwrap().mode() & 0o777, 0o755);
    let two = tool("2");
    machine.stage(&two, 2);
    assert_eq!(machine.installed_version().as_deref(), Some("1"));
    let mut reader = fs::File::open(machine.target().join("bin/tool")).unwrap();
    machine.with_exchange(&two, 2, |e| {
        assert_eq!(e.state().unwrap(), ExchangeState::Before);
        e.exchange().unwrap();
        assert_eq!(e.state().unwrap(), ExchangeState::Exchanged);
        e.exchange().unwrap();
        assert!(matches!(machine.open(&two, 2), Err(Error::Phase { .. })), "the old tree is not written to");
        assert!(matches!(e.discard(), Err(Error::Phase { .. })));
        assert_eq!(machine.installed_version().as_deref(), Some("2"));
        e.commit().unwrap();
        e.commit().unwrap();
        assert_eq!(e.state().unwrap(), ExchangeState::Committed);
        assert!(matches!(e.restore(), Err(Error::Phase { .. })));
        assert!(matches!(e.exchange(), Err(Error::Phase { .. })));
        e.discard().unwrap();
    });
    let mut old = Vec::new();
    reader.read_to_end(&mut old).unwrap();
    assert_eq!(old, bytes(b'1', CHUNK * 5 / 2), "who had the old tree open still reads it");
    assert_eq!(machine.beside(), ["tool"]);
    let record = TreeRecord::read(&machine.layout, &directory()).unwrap().unwrap();
    assert_eq!((record.version.as_str(), record.manifest), ("2", Digest::of(&two.manifest.to_bytes())));
}

#[test]
fn a_failed_upgrade_is_taken_back_in_one_rename_and_a_failed_first_installation_leaves_nothing() {
    let machine = machine();
    let (one, two) = (tool("1"), tool("2"));
    machine.stage(&one, 1);
    machine.with_exchange(&one, 1, |e| {
        e.exchange().unwrap();
        e.restore().unwrap();
        e.restore().unwrap();
        assert_eq!(e.state().unwrap(), ExchangeState::Restored);
        assert!(matches!(e.commit(), Err(Error::Phase { .. })));
    });
    assert_eq!(machine.beside(), [""; 0]);
    machine.install(&one, 2);
    machine.stage(&two, 3);
    machine.with_exchange(&two, 3, |e| {
        e.exchange().unwrap();
        e.restore().unwrap();
        e.restore().unwrap();
    });
    assert_eq!(machine.installed_version().as_deref(), Some("1"));
    assert_eq!(machine.beside(), ["tool"]);
    // Nothing was exchanged: nothing is put back, and the staged tree can be removed.
    machine.stage(&two, 4);
    machine.with_exchange(&two, 4, |e| {
        e.restore().unwrap();
        assert_eq!(e.state().unwrap(), ExchangeState::Before);
        e.discard().unwrap();
    });
    assert_eq!(machine.beside(), ["tool"]);
    // An installer that removed the new tree does not keep the old one from coming back.
    machine.stage(&two, 5);
    machine.with_exchange(&two, 5, |e| {
        e.exchange().unwrap();
        fs::remove_dir_all(machine.target()).unwrap();
        e.restore().unwrap();
    });
    assert_eq!(machine.installed_version().as_deref(), Some("1"));
}

/// The machine after a crash at a point of the exchange of `two` over `one`.
fn crashed(at: &str) -> (Machine, Package) {
    let machine = machine();
    let two = tool("2");
    machine.install(&tool("1"), 1);
    let staged = machine.stage(&two, 2).path;
    let phase = |text: &str| {
        let item = machine.layout.make_item_folder(&attempt(2), 0).unwrap();
        fs::write(item.join("exchange"), format!("{{\"phase\":\"{text}\",\"old\":true}}")).unwrap();
    };
    let swap = || rustix::fs::renameat_with(rustix::fs::CWD, &staged, rustix::fs::CWD, machine.target(), rustix::fs::RenameFlags::EXCHANGE);
    let gone = staged.with_file_name(format!("{}.gone", staged.file_name().unwrap().to_str().unwrap()));
    let half_removed = || {
        fs::rename(&staged, &gone).unwrap();
        fs::remove_file(gone.join(".sutler")).unwrap();
    };
    match at {
        "announced" => phase("exchanging"),
        "exchanged" => {
            phase("exchanging");
            swap().unwrap();
        }
        "committing" => {
            swap().unwrap();
            phase("committed");
            half_removed();
        }
        "restoring" => {
            swap().unwrap();
            phase("restoring");
        }
        "restored" => {
            phase("restoring");
            half_removed();
        }
        _ => unreachable!(),
    }
    (machine, two)
}

#[test]
fn a_crash_anywhere_in_an_exchange_leaves_one_tree_whole_and_can_go_either_way() {
    for (at, state, version) in [
        ("announced", ExchangeState::Before, "1"),
        ("exchanged", ExchangeState::Exchanged, "2"),
        ("committing", ExchangeState::Committed, "2"),
        ("restoring", ExchangeState::Restored, "2"),
        ("restored", ExchangeState::Restored, "1"),
    ] {
        let (machine, two) = crashed(at);
        assert_eq!(machine.with_exchange(&two, 2, |e| e.state()).unwrap(), state, "{at}");
        assert_eq!(machine.installed_version().as_deref(), Some(version), "{at}");
        // Forwards …
        if matches!(state, ExchangeState::Before | ExchangeState::Exchanged) {
            machine.with_exchange(&two, 2, |e| e.exchange().and_then(|()| e.commit())).unwrap();
            assert_eq!(machine.installed_version().as_deref(), Some("2"), "{at}");
            assert_eq!(machine.beside(), ["tool"], "{at}");
        }
        // … and back.
        let (machine, two) = crashed(at);
        let expected = if state == ExchangeState::Committed {
            machine.with_exchange(&two, 2, |e| e.discard()).unwrap();
            "2"
        } else {
            machine.with_exchange(&two, 2, |e| e.restore()).unwrap();
            "1"
        };
        assert_eq!(machine.installed_version().as_deref(), Some(expected), "{at}");
        assert_eq!(machine.beside(), ["tool"], "{at}");
    }
}

#[test]
fn a_manifest_that_does_not_add_up_is_refused() {
    let machine = machine();
    let mut package = tool("1");
    let lists = std::mem::take(&mut package.lists);
    assert_eq!(machine.open(&package, 1).unwrap_err().kind(), ErrorKind::ManifestInvalid);
    package.lists = lists;
    package.lists.values_mut().for_each(|list| list.0[0].length -= 1);
    assert_eq!(machine.open(&package, 1).unwrap_err().kind(), ErrorKind::ManifestInvalid);
    let record = self::package("tool", "1", vec![(".sutler", Item::File(0o644, b"{}".to_vec()))]);
    assert_eq!(machine.open(&record, 1).unwrap_err().kind(), ErrorKind::ManifestInvalid);
}

#[test]
fn the_room_on_a_disk_is_known() {
    let machine = machine();
    assert!(room(machine.layout.state()).unwrap() > 0);
    assert!(room(&machine.layout.root().join("nowhere")).is_err());
}
