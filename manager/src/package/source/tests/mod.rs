//! What the reading of sources promises, with files that no tool would write. Those of real tools are in the end-to-end tests.

mod changed;
mod made;

use super::*;
use made::{CONTROL, Entry, Value, ar, cpio, deb, elf, file, folder, gzip, header, other, padded, rpm, tar};
use sutler_base::manifest::{Detection, EntryKind, Phase};

const BOUNDS: SourceLimits = SourceLimits { entries: 50, unpacked: 1 << 20, ratio: 20, ratio_from: 64 << 10, depth: 8 };

/// What comes of a file with this name and these bytes.
fn open(name: &str, bytes: &[u8], wanted: &Wanted) -> Result<Source, SourceError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    Source::open_within(&dir.path().join(name), wanted, &BOUNDS)
}

fn tool() -> Wanted {
    Wanted { name: Some("tool".parse().unwrap()), version: Some("1.0".parse().unwrap()), ..Wanted::default() }
}

/// The sentence with which it is refused, after the file's name.
#[track_caller]
fn refused(name: &str, bytes: &[u8]) -> String {
    match open(name, bytes, &tool()) {
        Err(SourceError::Refused { entry, why, path }) => {
            assert!(path.ends_with(name), "{path:?}");
            assert!(!why.chars().any(sutler_base::is_harmful), "{why:?}");
            format!("{}{why}", entry.map(|entry| format!("{entry} ")).unwrap_or_default())
        }
        other => panic!("{name}: {other:?}"),
    }
}

/// Entries that no package may have, each with the words that name what is wrong.
fn hostile<'a>() -> Vec<(Vec<Entry<'a>>, &'static str)> {
    vec![
        (vec![file("/etc/cron.d/x", b"x")], "\"/etc/cron.d/x\" has an absolute path"),
        (vec![file("../../etc/passwd", b"x")], "\"../../etc/passwd\" climbs with \"..\""),
        (vec![file("a/../../x", b"x")], "\"a/../../x\" climbs with"),
        (vec![file("././x", b"x")], "a path in a package is relative"),
        (vec![file("a//b", b"x")], "\"a//b\" a path in a package is relative"),
        (vec![file("a\x1b[2Jb", b"x")], "\"a\\u{1b}[2Jb\" a path in a package"),
        (vec![Entry { name: b"caf\xe9", ..file("", b"x") }], "has a name that is not UTF-8"),
        (vec![other(b'2', "link", "/etc"), file("link/passwd", b"x")], "link"),
        (vec![other(b'2', "a/link", "../../.."), file("x", b"")], "\"a/link\" is a link to \"../../..\", which leaves the package"),
        (vec![other(b'2', "d", "e"), file("d/x", b"x")], "\"d/x\" lies below the link \"d\""),
        (vec![file("d", b"x"), file("d/x", b"x")], "\"d/x\" lies below \"d\", which is a file"),
        (vec![file("d/x", b"x"), other(b'2', "d", "e")], "\"d\" comes twice"),
        (vec![file("x", b"1"), file("./x", b"2")], "\"./x\" comes twice"),
        (vec![other(b'1', "x", "/etc/shadow")], "\"x\" is a hard link to \"/etc/shadow\""),
        (vec![other(b'1', "x", "later"), file("later", b"x")], "\"x\" is a hard link to \"later\", which is no file that came before it"),
        (vec![other(b'3', "dev/mem", "")], "\"dev/mem\" is a character device"),
        (vec![other(b'4', "sda", "")], "\"sda\" is a block device"),
        (vec![other(b'6', "pipe", "")], "\"pipe\" is a named pipe"),
        (vec![other(b'S', "holes", "")], "\"holes\" is a sparse file"),
        (vec![other(b'Z', "what", "")], "\"what\" is of a type that is not known"),
        (vec![file("1/2/3/4/5/6/7/8/9", b"x")], "lies more than 8 folders deep"),
        (vec![Entry { content: b"hidden", ..other(b'2', "l", "x") }], "\"l\" is no file, but says that it has content"),
    ]
}

#[test]
fn a_hostile_archive_is_refused_with_its_entry_named_and_leaves_nothing_behind() {
    for (entries, wanted) in hostile() {
        let refused = refused("x.tar.gz", &gzip(&tar(&entries)));
        assert!(refused.contains(wanted), "{wanted:?} is not in {refused:?}");
    }
    let many: Vec<String> = (0..60).map(|n| format!("f{n}")).collect();
    let many: Vec<Entry<'_>> = many.iter().map(|name| file(name, b"")).collect();
    assert!(refused("x.tar", &tar(&many)).contains("\"f50\" is one entry too many; at most 50 are read"));
    // Folders that are only implied count, too.
    let deep: Vec<String> = (0..20).map(|n| format!("d{n}/e/f")).collect();
    let deep: Vec<Entry<'_>> = deep.iter().map(|name| file(name, b"")).collect();
    assert!(refused("x.tar", &tar(&deep)).contains("\"d17/e/f\" is one entry too many"));
}

#[test]
fn a_hostile_deb_is_refused_with_its_entry_named() {
    for (entries, wanted) in hostile() {
        let bytes = deb(CONTROL, &entries);
        // On the machine's own root a link may be absolute; nothing may lie below it all the same.
        let wanted = if wanted == "link" { "\"link/passwd\" lies below the link \"link\"" } else { wanted };
        assert!(refused("hello.deb", &bytes).contains(wanted), "{wanted:?}: {}", refused("hello.deb", &bytes));
    }
    let control = gzip(&tar(&[file("./control", CONTROL.as_bytes())]));
    let data = gzip(&tar(&[]));
    let version = ("debian-binary", &b"2.0\n"[..]);
    for (bytes, wanted) in [
        (ar(&[version, ("control.tar.gz", &gzip(&tar(&[file("../postinst", b"x")])))]), "\"../postinst\" climbs"),
        (ar(&[version, ("control.tar.gz", &gzip(&tar(&[other(b'2', "control", "/etc/passwd")])))]), "\"control\" is a link"),
        (ar(&[version, ("control.tar.gz", &gzip(&tar(&[])))]), "there is no control"),
        (ar(&[version, ("data.tar.gz", &data), ("control.tar.gz", &control)]), "\"data.tar.gz\" has no place there"),
        (ar(&[version, ("control.tar.gz", &control), ("control.tar.xz", &control)]), "\"control.tar.xz\" has no place there"),
        (
            ar(&[version, ("control.tar.gz", &control), ("data.tar.gz", &data), ("data.tar.gz", &data)]),
            "\"data.tar.gz\" has no place there",
        ),
        (ar(&[version, ("control.tar.gz", &control), ("data.tar.bz2", b"BZh91AY")]), "packed with bzip2"),
        (ar(&[version, ("control.tar.gz", &control)]), "lacks its control.tar or its data.tar"),
        (ar(&[("debian-binary", b"1.0\n")]), "is not of version 2"),
        (deb(CONTROL, &[])[..200].to_vec(), "longer than the file"),
        ([deb(CONTROL, &[]), b"more".to_vec()].concat(), "what should be a member of its archive is none"),
    ] {
        let said = refused("hello.deb", &bytes);
        assert!(said.contains(wanted), "{wanted:?} is not in {said:?}");
    }
}

#[test]
fn names_that_lie_are_refused() {
    for (from, to, wanted) in [
        ("hello", "../x", "field Package a package's name has"),
        ("hello", "-x", "field Package a package's name has"),
        ("Package: hello\n", "", "\"control\" has no field Package"),
        ("1.0-1", "1.0 --force-all", "field Version a version has"),
        ("amd64", "m68k", "\"m68k\" is no architecture that an agent runs on"),
        ("Package: hello", "Package: hello\n world", "has more than one line in the field Package"),
        ("Version", "Package: other\nVersion", "has the field \"package\" twice"),
        ("hello.", "hello.\x1b[2J", "has the character \\u{1b}"),
        ("Version: 1.0-1\n", "Version: 1.0-1\n\nPackage: other\n", "line 3 is no field"),
        ("Installed", "Depends: libc6 (>= 2) evil\nInstalled", "which lacks a parenthesis"),
        ("Installed", "Depends: --force\nInstalled", "which is no package's name"),
        ("Installed", "Depends: libc6 (~ 2)\nInstalled", "no relation to a version"),
    ] {
        let control = CONTROL.replacen(from, to, 1);
        let said = refused("hello.deb", &deb(&control, &[])).replacen("control has", "\"control\" has", 1);
        assert!(said.contains(wanted), "{wanted:?} is not in {said:?}");
    }
    let good = deb(CONTROL, &[]);
    assert!(refused("clamav_1.0-1_amd64.deb", &good).contains("it is \"hello\", but the file is named for \"clamav\""));
    let other_version = open("hello_2.0-1_amd64.deb", &good, &Wanted::default()).unwrap();
    assert!(other_version.notes[0].contains("named for version \"2.0-1\", but it holds 1.0-1"), "{:?}", other_version.notes);
    for fine in ["hello_1.0-1_amd64.deb", "hello_current_amd64.deb", "download", "hello.deb"] {
        assert_eq!(open(fine, &good, &Wanted::default()).unwrap().notes, Vec::<String>::new(), "{fine}");
    }
}

#[test]
fn bombs_end_where_they_become_too_long() {
    let zeros = vec![0; 200 << 10];
    let long = tar(&[file("a", b"x"), file("zeros", &zeros)]);
    for (name, bytes) in [
        ("x.tar.gz", gzip(&long)),
        ("x.tar.zst", zstd::encode_all(&long[..], 19).unwrap()),
        ("hello.deb", { deb(CONTROL, &[file("a", b"x"), file("zeros", &zeros)]) }),
    ] {
        let said = refused(name, &bytes);
        assert!(said.starts_with("\"zeros\" "), "{said}");
        assert!(said.contains("it becomes far longer than anything that was packed in good faith: at most 65536 bytes"), "{said}");
    }
    let noise: Vec<u8> = (0..2u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    assert!(refused("x.tar", &tar(&[file("noise", &noise)])).contains("\"noise\" "));
    // A member that says it is as long as nothing is.
    let mut lying = header(&file("long", b""), 0o7_777_777_777);
    lying.extend(vec![0; 1024]);
    assert!(refused("x.tar", &lying).contains("\"long\" "), "{}", refused("x.tar", &lying));
    // A long name of many bytes, and records of pax.
    for flag in [b'L', b'K', b'x'] {
        let mut lying = header(&other(flag, "announces", ""), 0o7_777_777_777);
        lying.extend(vec![b'a'; 2048]);
        assert!(refused("x.tar", &lying).contains("\"announces\" has 1073741823 bytes; at most"));
    }
    // A window that would take 2 GiB of memory.
    let mut window = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8];
    window.extend([0; 64]);
    let said = match open("x.tar.zst", &window, &tool()) {
        Err(SourceError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert!(said.to_lowercase().contains("memory"), "{said}");
}

#[test]
fn what_one_program_would_see_and_another_would_not_is_refused() {
    let good = tar(&[file("a", b"x")]);
    assert!(refused("x.tar", &[&good[..], &good].concat()).contains("more follows after its end"));
    assert!(refused("x.tar.gz", &[gzip(&good), gzip(&good)].concat()).contains("more follows after its end"));
    let mut wrong_sum = good.clone();
    wrong_sum[0] = b'b';
    assert!(refused("x.tar", &wrong_sum).contains("checksum is wrong"));
    assert!(refused("x.tar", &good[..700]).contains("\"a\" is cut off"));
    fn pax(records: &[u8]) -> Entry<'_> {
        Entry { flag: b'x', content: records, ..file("pax", b"") }
    }
    fn long(content: &[u8]) -> Entry<'_> {
        Entry { flag: b'L', content, ..file("././@LongLink", b"") }
    }
    let twice = tar(&[pax(b"13 path=evil\n"), long(b"good\0"), file("a", b"x")]);
    assert!(refused("x.tar", &twice).contains("is a second name of one member"));
    assert!(refused("x.tar", &tar(&[pax(b"99 path=evil\n"), file("a", b"x")])).contains("has records that can't be read"));
    assert!(refused("x.tar", &tar(&[pax(b"14 path=../up\n"), file("a", b"x")])).contains("\"../up\" climbs"));
    assert!(refused("x.tar", &tar(&[pax(b"22 GNU.sparse.major=1\n"), file("a", b"x")])).contains("is a sparse file"));
    let all = Entry { flag: b'g', content: b"13 path=evil\n", ..file("pax", b"") };
    assert!(refused("x.tar", &tar(&[all, file("a", b"x")])).contains("gives all members that follow the same name"));
    assert!(refused("x.tar", &tar(&[long(b"name\0")])).contains("ends where a member was announced"));
}

#[test]
fn a_deb_becomes_a_package_that_dpkg_installs_removes_and_puts_back() {
    let more = "Pre-Depends: libc6 (>= 2.34)\nDepends: mta | default-mta:any (<< 2), python3:any, libc6 (>= 2.34)\nProvides: greeter\n\
                Replaces: old-hello\nConflicts: greeter, old-hello, howdy\nBreaks: hello-data (<< 2)\nInstalled-Size";
    let bytes = deb(&CONTROL.replace("Installed-Size", more), &[folder("./"), folder("./opt/"), file("./opt/hello", b"x")]);
    let source = open("hello_1.0-1_amd64.deb", &bytes, &Wanted::default()).unwrap();
    let d = &source.definition;
    assert_eq!(
        (source.kind, d.name.as_str(), d.version.as_str(), d.description.as_str()),
        (SourceKind::Deb, "hello", "1.0-1", "Says hello.")
    );
    assert_eq!((d.platform.arch.as_str(), d.directory.as_ref().unwrap().as_str()), ("x86_64", "/var/cache/sutler/packages/hello"));
    let rules: Vec<String> = d.requirements.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "dpkg",
            "libc6 >=2.34 of dpkg",
            "mta of dpkg or default-mta <2 of dpkg",
            "python3 of dpkg",
            "no howdy of dpkg",
            "no hello-data <2 of dpkg",
            "12.0 KiB free for /opt/share",
        ]
    );
    let steps: Vec<_> = d.steps.iter().map(|s| (s.phase, s.argv.join(" "), s.meaning(2))).collect();
    let retry = sutler_base::manifest::ExitMeaning::Retry;
    assert_eq!(
        steps,
        [
            (Phase::Install, "/usr/bin/dpkg --force-confdef --force-confold --install package.deb".into(), retry),
            (Phase::Uninstall, "/usr/bin/dpkg --remove hello".into(), retry),
            (Phase::Restore, "/usr/bin/dpkg --force-confdef --force-confold --force-downgrade --install package.deb".into(), retry),
        ]
    );
    let Detection::Package { name, versions, .. } = &d.detection[0] else { panic!("{:?}", d.detection) };
    assert_eq!((name.as_str(), versions.to_string().as_str(), d.restore), ("hello", "=1.0-1", true));
    assert!(open("x", &deb(&CONTROL.replace("amd64", "all"), &[]), &tool()).is_ok_and(|s| s.definition.platform.arch == "any"
        && s.definition.steps[1].argv[2] == "hello"
        && s.definition.name.as_str() == "tool"));
}

#[test]
fn an_rpm_becomes_a_package_that_rpm_installs_and_its_header_may_not_lie() {
    let payload = cpio(&[(0o104_755, "./hello", b"#!/bin/sh\n"), (0o120_777, "./hi", b"hello")]);
    let more = || {
        vec![
            (1003, Value::Numbers(vec![2])),
            (1047, Value::Texts(vec!["Hello_World", "libown.so"])),
            (1049, Value::Texts(vec!["/bin/sh", "rpmlib(X)", "libown.so", "libc.so.6(GLIBC_2.34)(64bit)", "(a if b)", "glibc", "/hello"])),
            (1048, Value::Numbers(vec![0, 1 << 24, 0, 0, 0, 12, 0])),
            (1050, Value::Texts(vec!["", "4", "", "", "", "2.34", ""])),
        ]
    };
    let source = open("Hello_World-1.2-3.x86_64.rpm", &rpm("Hello_World", &["hello", "hi"], &payload, more()), &Wanted::default()).unwrap();
    let d = &source.definition;
    assert_eq!((d.name.as_str(), d.version.as_str(), d.ordering), ("hello-world", "2:1.2-3", sutler_base::version::Ordering::Rpm));
    let rules: Vec<String> = d.requirements.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        ["rpm", "/bin/sh of rpm", "libc.so.6(GLIBC_2.34)(64bit) of rpm", "glibc >=2.34 of rpm", "10 B free for /hello/share"],
    );
    assert_eq!(d.steps[1].argv, ["/usr/bin/rpm", "--erase", "Hello_World"]);
    assert_eq!(d.steps[2].argv, ["/usr/bin/rpm", "--upgrade", "--oldpackage", "--replacepkgs", "package.rpm"]);
    assert_eq!(source.notes.len(), 3, "{:?}", source.notes);
    let with = |payload: &[(u32, &str, &[u8])]| refused("x.rpm", &rpm("hello", &["hello"], &cpio(payload), vec![]));
    for (said, wanted) in [
        (with(&[]), "\"hello\" is listed in the header, but is not in the payload"),
        (with(&[(0o100_644, "./hello", b""), (0o100_644, "./more", b"")]), "\"./more\" is in the payload, but the header does not list it"),
        (with(&[(0o100_644, "../hello", b"")]), "\"../hello\" climbs"),
        (with(&[(0o100_644, "/hello", b"")]), "\"/hello\" has an absolute path"),
        (with(&[(0o020_644, "./hello", b"")]), "\"./hello\" is a character device"),
        (with(&[(0o120_777, "./hello", b"../x")]), "\"./hello\" is a link to \"../x\", which leaves"),
        (with(&[(0o100_644, "./hello", &[0; 100 << 10])]), "\"./hello\" it becomes far longer"),
        (refused("other-1.2-3.x86_64.rpm", &rpm("hello", &[], &cpio(&[]), vec![])), "the file is named for \"other\""),
        (refused("x.rpm", &rpm("--eval", &[], &cpio(&[]), vec![])), "header, name"),
        (refused("x.rpm", &rpm("hello", &[], &cpio(&[]), vec![(1021, Value::Text("aix"))])), "has the tag 1021 twice"),
        (refused("x.rpm", &rpm("hello", &[], &cpio(&[]), vec![])[..300]), "it is cut off"),
    ] {
        assert!(said.contains(wanted), "{wanted:?} is not in {said:?}");
    }
    let mut source_package = rpm("hello", &[], &cpio(&[]), vec![]);
    source_package[7] = 1;
    assert!(refused("x.src.rpm", &source_package).contains("it is a source package"));
}

#[test]
fn a_program_needs_a_name_and_a_version_and_says_what_it_needs() {
    let bytes = elf(2, 62, &[(1, 0, 64)], b"");
    let said = open("tool", &bytes, &Wanted::default()).unwrap_err().to_string();
    assert!(said.contains("give --name, for example --name tool --version 1.2.3"), "{said}");
    let source = open("tool", &bytes, &tool()).unwrap();
    let d = &source.definition;
    assert_eq!(
        (source.kind, d.platform.arch.as_str(), d.directory.as_ref().unwrap().as_str()),
        (SourceKind::Program, "x86_64", "/opt/tool")
    );
    assert!(matches!(&d.detection[0], Detection::File { path, blake3: Some(_), .. } if path == "bin/tool"));
    assert_eq!(source.notes, Vec::<String>::new());
    let dynamic = elf(3, 183, &[(3, 64 + 56, 12)], b"/lib/ld.so\0");
    let source = open("tool", &dynamic, &tool()).unwrap();
    assert_eq!((source.definition.platform.arch.as_str(), source.notes.len()), ("aarch64", 1));
    assert!(source.notes[0].contains("is not static: it runs only where there is /lib/ld.so"), "{:?}", source.notes);
    let mut image = bytes.clone();
    image[8..11].copy_from_slice(b"AI\x02");
    assert!(open("tool", &image, &tool()).unwrap().notes[0].contains("is an AppImage"));
    let mut of_another_system = bytes.clone();
    of_another_system[7] = 9;
    for (bytes, wanted) in [
        (elf(3, 62, &[], b""), "it is a shared library"),
        (elf(1, 62, &[], b""), "it is an object file"),
        (elf(4, 62, &[], b""), "the memory of a program that crashed"),
        (elf(2, 8, &[], b""), "for the processor that ELF numbers 8"),
        (bytes[..40].to_vec(), "cut off"),
        (of_another_system, "another operating system"),
        (elf(2, 62, &[(2, u64::MAX, u64::MAX)], b""), "cut off"),
    ] {
        let said = refused("tool", &bytes);
        assert!(said.contains(wanted), "{wanted:?} is not in {said:?}");
    }
}

#[test]
fn an_archive_is_built_like_the_folder_that_it_was_and_its_unpacked_files_go_with_it() {
    let entries = [
        folder("tool-1.0/"),
        Entry { mode: 0o755, ..file("tool-1.0/bin/tool", b"#!/bin/sh\n") },
        other(b'2', "tool-1.0/tool", "bin/tool"),
        other(b'1', "tool-1.0/same", "tool-1.0/bin/tool"),
    ];
    let source = open("tool.tar.gz", &gzip(&tar(&entries)), &tool()).unwrap();
    let work = source.work.as_ref().unwrap().path().to_owned();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&work.metadata().unwrap()) & 0o777, 0o700);
    let built = source.build(Timestamp::UNIX_EPOCH, &mut |_| {}).unwrap();
    let paths: Vec<_> = built.manifest.files.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["bin", "bin/tool", "same", "tool"]);
    assert!(matches!(built.manifest.files[1].kind, EntryKind::File { mode: 0o755, .. }));
    assert_eq!(built.manifest.directory.as_ref().unwrap().as_str(), "/opt/tool");
    drop(source);
    assert_eq!(built.chunks[0].read().unwrap(), b"#!/bin/sh\n");
    drop(built);
    assert!(!work.exists());

    let described = "name = \"own\"\nversion = \"3\"\ndirectory = \"/opt/own\"\n";
    let entries = [file("top/package.toml", described.as_bytes()), file("top/files/x", b"x")];
    let source = open("x.tar", &tar(&entries), &Wanted::default()).unwrap();
    assert_eq!((source.definition.name.as_str(), source.definition.version.as_str()), ("own", "3"));
    let built = source.build(Timestamp::UNIX_EPOCH, &mut |_| {}).unwrap();
    assert_eq!(built.manifest.files.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["x"]);
    let said = open("x.tar", &tar(&[file("x", b"")]), &Wanted::default()).unwrap_err().to_string();
    assert!(said.contains("there is no package.toml in it") && said.contains("--name"), "{said}");
}

#[test]
fn what_is_said_besides_takes_the_place_of_what_the_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let (deb_file, with) = (dir.path().join("hello.deb"), dir.path().join("more.toml"));
    std::fs::write(&deb_file, deb(CONTROL, &[])).unwrap();
    let text = "logs = [\"/var/log/hello.log\"]\ndescription = \"Ours.\"\n[[depends_on]]\npackage = \"base\"\n[[requirement]]\nmemory = \"1GiB\"\n";
    std::fs::write(&with, text).unwrap();
    let wanted = Wanted { with: Some(with.clone()), version: Some("9".parse().unwrap()), ..Wanted::default() };
    let d = Source::open(&deb_file, &wanted).unwrap().definition;
    assert_eq!((d.version.as_str(), d.description.as_str(), d.logs.len(), d.depends_on.len()), ("9", "Ours.", 1, 1));
    assert_eq!((d.requirements.len(), d.steps.len(), d.name.as_str()), (1, 3, "hello"));
    std::fs::write(&with, "versio = \"1\"\n[[depends_on]]\npackage = \"hello\"\n").unwrap();
    let said = Source::open(&deb_file, &wanted).unwrap_err().to_string();
    assert!(said.contains("more.toml: line 1: \"versio\": is not a key here"), "{said}");
    std::fs::write(&with, "[[depends_on]]\npackage = \"hello\"\n").unwrap();
    let said = Source::open(&deb_file, &wanted).unwrap_err().to_string();
    assert!(said.contains("the package depends on itself"), "{said}");
    std::fs::write(&with, "name = \"tool\"\nversion = \"7\"\n").unwrap();
    std::fs::write(&deb_file, elf(2, 62, &[], b"")).unwrap();
    let d = Source::open(&deb_file, &Wanted { with: Some(with), ..Wanted::default() }).unwrap().definition;
    assert_eq!((d.name.as_str(), d.version.as_str()), ("tool", "7"));
}

#[test]
fn a_file_that_is_changed_between_the_look_and_the_signature_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hello.deb");
    std::fs::write(&path, deb(CONTROL, &[])).unwrap();
    let source = Source::open(&path, &Wanted::default()).unwrap();
    std::fs::write(&path, padded(deb(CONTROL, &[file("evil", b"x")]), 2)).unwrap();
    assert!(matches!(source.build(Timestamp::UNIX_EPOCH, &mut |_| {}), Err(SourceError::Build(BuildError::ChangedWhileRead(_)))));
}

#[test]
fn what_is_no_package_is_told_what_is_one() {
    for bytes in [&b""[..], b"#!/bin/sh\n", b"MZ\x90\0", b"PK\x03\x04"] {
        assert!(open("x", bytes, &tool()).unwrap_err().to_string().contains("is none of what a package is made of"));
    }
    assert!(matches!(Source::open(Path::new("/nowhere"), &tool()), Err(SourceError::Read { .. })));
    assert!(matches!(Source::open(Path::new("/dev/null"), &tool()), Err(SourceError::Unknown(_))));
    assert!(refused("x.gz", &gzip(b"hello")).contains("what is packed in it is no tar archive"));
}
