//! What making a package promises, on real folders.

use super::*;
use std::fs;
use std::os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink, net::UnixListener};

const MINIMAL: &str = "name = \"p\"\nversion = \"1\"\ndirectory = \"/opt/p\"\n";

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "package.toml", MINIMAL.as_bytes());
    files.iter().for_each(|(path, bytes)| write(dir.path(), path, bytes));
    dir
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    // Long ago: a change within the same tick of the file system's clock would not be seen in its times.
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
}

fn make(dir: &tempfile::TempDir) -> Result<Built, BuildError> {
    build(dir.path(), "2026-01-01T00:00:00Z".parse().unwrap(), &mut |_| {})
}

fn paths(built: &Built) -> Vec<&str> {
    built.manifest.files.iter().map(|e| e.path.as_str()).collect()
}

fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
fn files_folders_and_links_are_described_as_they_are() {
    let dir = folder(&[("bin/tool", b"#!/bin/sh\n"), ("empty", b""), ("big", &noise("big", 700_000))]);
    fs::create_dir(dir.path().join("spool")).unwrap();
    fs::set_permissions(dir.path().join("bin/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
    symlink("../bin/tool", dir.path().join("spool/link")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    let mut seen = Vec::new();
    let built = build(dir.path(), "2026-01-01T00:00:00Z".parse().unwrap(), &mut |p| seen.push(p)).unwrap();
    assert_eq!(paths(&built), ["big", "bin", "bin/tool", "dangling", "empty", "spool", "spool/link"]);
    assert_eq!(built.manifest.release, 1_767_225_600);
    let kind = |at: usize| &built.manifest.files[at].kind;
    assert!(
        matches!(kind(2), EntryKind::File { mode: 0o755, size: 10, chunks: None, blake3, .. } if *blake3 == Digest::of(b"#!/bin/sh\n"))
    );
    assert!(matches!(kind(6), EntryKind::Link { target } if target == "../bin/tool"));
    assert!(matches!(kind(0), EntryKind::File { chunks: Some(list), .. } if *list == built.chunk_lists[0].0));
    assert_eq!(*seen.last().unwrap(), Progress { done: 700_010, total: 700_010 });
    assert_eq!(Manifest::parse(&built.manifest_bytes).unwrap(), built.manifest);
    // Every chunk reads back, and the big file's are the big file.
    let mut joined = Vec::new();
    for source in built.chunks.iter().filter(|source| source.path.ends_with("big")) {
        joined.extend(source.read().unwrap());
    }
    assert_eq!(joined, noise("big", 700_000));
    assert_eq!(built.digests().count(), 1 + 1 + built.chunks.len());
    assert!(built.chunk(&Digest::of(b"#!/bin/sh\n")).is_some() && built.chunk(&Digest::of(b"")).is_none());
}

#[test]
fn a_link_that_leaves_is_refused_by_name_and_one_that_stays_is_kept() {
    for (at, target, leaves) in [
        ("a", "/etc/shadow", true),
        ("a", "../x", true),
        ("sub/a", "../../x", true),
        ("sub/a", "b/../../..", true),
        ("sub/a", "../x", false),
        ("sub/a", "..", false),
    ] {
        let dir = folder(&[("sub/x", b"x")]);
        symlink(target, dir.path().join(at)).unwrap();
        match make(&dir) {
            Err(BuildError::LinkLeaves { path, target: named, .. }) => {
                assert!(leaves && path.ends_with(at) && named == target, "{at} → {target}");
            }
            Ok(built) => assert!(!leaves && paths(&built).contains(&at), "{at} → {target}"),
            Err(other) => panic!("{other}"),
        }
    }
    // What is beside the files is outside, too.
    let dir = folder(&[("files/x", b"x"), ("secret", b"s")]);
    symlink("../secret", dir.path().join("files/a")).unwrap();
    let said = make(&dir).unwrap_err().to_string();
    assert!(said.contains("files/a points to \"../secret\", which leaves the package"), "{said}");
}

#[test]
fn a_folder_of_files_that_is_a_link_is_refused() {
    let dir = folder(&[("real/x", b"x")]);
    write(dir.path(), "package.toml", format!("{MINIMAL}files = \"linked\"\n").as_bytes());
    symlink("/etc", dir.path().join("linked")).unwrap();
    assert!(matches!(make(&dir), Err(BuildError::NoFiles(_))));
    // Not named, it isn't taken for the folder either, and refused as the link that it is.
    let dir = folder(&[]);
    symlink("/etc", dir.path().join("files")).unwrap();
    assert!(matches!(make(&dir), Err(BuildError::LinkLeaves { .. })));
}

#[test]
fn what_is_neither_file_nor_folder_nor_link_is_refused_by_name() {
    let dir = folder(&[("x", b"x")]);
    let _listener = UnixListener::bind(dir.path().join("s")).unwrap();
    assert!(make(&dir).unwrap_err().to_string().contains("/s is a socket"));
    fs::remove_file(dir.path().join("s")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("f"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(make(&dir).unwrap_err().to_string().contains("/f is a named pipe"));
    write(dir.path(), "package.toml", format!("{MINIMAL}exclude = [\"f\"]\n").as_bytes());
    assert_eq!(paths(&make(&dir).unwrap()), ["x"]);
}

#[test]
fn a_name_that_cannot_be_in_a_package_is_refused() {
    for name in [&b"not-utf8-\xff"[..], b"line\nbreak"] {
        let dir = folder(&[]);
        fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
        assert!(matches!(make(&dir), Err(BuildError::Name { .. })), "{name:?}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    for change in ["grown", "shortened", "rewritten", "replaced", "removed", "linked"] {
        let dir = folder(&[("a", &noise("a", 600_000)), ("b", &noise("b", 600_000))]);
        let b = dir.path().join("b");
        let mut done = false;
        // The first chunk of `a` was read; `b` was looked at, and is next.
        let result = build(dir.path(), Timestamp::UNIX_EPOCH, &mut |_| {
            if std::mem::replace(&mut done, true) {
                return;
            }
            match change {
                "grown" => fs::write(&b, noise("b", 600_001)).unwrap(),
                "shortened" => fs::write(&b, noise("b", 599_999)).unwrap(),
                "rewritten" => fs::write(&b, noise("c", 600_000)).unwrap(),
                "replaced" => {
                    fs::write(dir.path().join("package.toml.new"), noise("b", 600_000)).unwrap();
                    fs::rename(dir.path().join("package.toml.new"), &b).unwrap();
                }
                "removed" => fs::remove_file(&b).unwrap(),
                _ => {
                    fs::remove_file(&b).unwrap();
                    symlink("a", &b).unwrap();
                }
            }
        });
        assert!(matches!(&result, Err(BuildError::ChangedWhileRead(path)) if *path == b), "{change}: {result:?}");
    }
    // And one that is written to in the middle of its own reading.
    let dir = folder(&[("a", &noise("a", 600_000))]);
    let a = dir.path().join("a");
    let result = build(dir.path(), Timestamp::UNIX_EPOCH, &mut |p| {
        if p.done < 300_000 {
            File::options().write(true).open(&a).unwrap().write_all_at(b"!", 599_999).unwrap();
        }
    });
    assert!(matches!(result, Err(BuildError::ChangedWhileRead(_))));
}

#[test]
fn a_file_that_changed_after_it_was_signed_is_not_sent() {
    let dir = folder(&[("a", &noise("a", 300_000))]);
    let built = make(&dir).unwrap();
    let last = built.chunks.last().unwrap();
    let a = dir.path().join("a");
    let mut bytes = fs::read(&a).unwrap();
    bytes[299_999] ^= 1;
    fs::write(&a, &bytes).unwrap();
    assert!(matches!(last.read(), Err(BuildError::ChangedAfterwards(path)) if path == a));
    fs::write(&a, &bytes[..299_000]).unwrap();
    assert!(matches!(last.read(), Err(BuildError::ChangedAfterwards(_))));
    fs::remove_file(&a).unwrap();
    assert!(matches!(last.read(), Err(BuildError::Read { .. })));
}

#[test]
fn the_same_folder_and_release_make_the_same_manifest() {
    let files = [("files/b/x", &noise("x", 400_000)[..]), ("files/a-b", b"1"), ("files/a/b", b"2"), ("files/a.b", b"3")];
    let one = folder(&files);
    let mut reversed = files;
    reversed.reverse();
    let two = folder(&reversed);
    let (one, two) = (make(&one).unwrap(), make(&two).unwrap());
    assert_eq!(paths(&one), ["a", "a-b", "a.b", "a/b", "b", "b/x"]);
    assert_eq!((one.manifest_bytes, one.manifest_digest), (two.manifest_bytes, two.manifest_digest));
}

#[test]
fn a_release_that_the_publisher_gave_is_kept() {
    let dir = folder(&[]);
    write(dir.path(), "package.toml", format!("{MINIMAL}release = 7\n").as_bytes());
    assert_eq!(make(&dir).unwrap().manifest.release, 7);
}

#[test]
fn copies_of_a_file_share_their_chunks() {
    let big = noise("big", 900_000);
    let dir = folder(&[("one", &big), ("two/copy", &big), ("three", &big[..850_000])]);
    let built = make(&dir).unwrap();
    let alone = make(&folder(&[("one", &big)])).unwrap();
    assert_eq!(built.chunk_lists.len(), 2);
    // Of the shortened copy only the end is new.
    assert!((alone.chunks.len()..alone.chunks.len() + 3).contains(&built.chunks.len()));
}

#[test]
fn the_definition_and_what_is_excluded_are_not_installed() {
    let dir = folder(&[("x.swp", b""), (".git/config", b""), ("a/x.swp", b""), ("a/package.toml", b"theirs"), ("b", b"")]);
    write(dir.path(), "package.toml", format!("{MINIMAL}exclude = [\"*.swp\", \".git\"]\n").as_bytes());
    assert_eq!(paths(&make(&dir).unwrap()), ["a", "a/package.toml", "b"]);
}

#[test]
fn the_example_is_a_package_whose_tool_does_what_its_detection_expects() {
    let dir = tempfile::tempdir().unwrap();
    crate::package::write_example(dir.path()).unwrap();
    let built = make(&dir).unwrap();
    assert_eq!(paths(&built), ["bin", "bin/hello"]);
    assert!(matches!(built.manifest.files[1].kind, EntryKind::File { mode: 0o755, .. }));
    let said = std::process::Command::new(dir.path().join("files/bin/hello")).arg("--version").output().unwrap();
    assert_eq!(said.stdout, b"hello 1.0\n");
}

/// This test in a process of its own: there the peak of memory is its alone.
#[test]
fn a_big_file_is_read_with_little_memory() {
    if std::env::var_os("SUTLER_TEST_ALONE").is_none() {
        let name = "package::build::tests::a_big_file_is_read_with_little_memory";
        let ran = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads", "1"])
            .env("SUTLER_TEST_ALONE", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
        return;
    }
    let dir = folder(&[]);
    File::create(dir.path().join("zeros")).unwrap().set_len(64 << 20).unwrap();
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    let before = peak();
    let built = make(&dir).unwrap();
    // Pages of the program count, too.
    assert!(peak() - before < 24 << 20, "{} bytes more", peak() - before);
    // All of its chunks are the same one.
    assert_eq!((built.chunks.len(), built.chunk_lists[0].1.len()), (1, 256 * 36));
}
