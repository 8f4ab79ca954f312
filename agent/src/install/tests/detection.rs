//! Detection on real files and with real commands.

use super::{CHUNK, bytes, machine, tool};
use crate::install::{Detected, detect};
use fs_err::{self as fs, os::unix::fs::OpenOptionsExt};
use std::{io::Write, os::unix::fs::symlink};
use sutler_base::{
    Digest,
    manifest::{Detection, Manifest, VersionRule},
};

fn detecting(rules: Vec<Detection>) -> Manifest {
    let manifest = Manifest { detection: rules, ..Manifest::clone(&tool("1").manifest) };
    manifest.check().unwrap();
    manifest
}

fn asks(argv: &[&str], exit_codes: &[i32], output: Option<&str>, time_limit: u32) -> Detection {
    Detection::Command {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        environment: [("GIVEN".to_owned(), "yes".to_owned())].into(),
        exit_codes: exit_codes.to_vec(),
        output: output.map(str::to_owned),
        version: None,
        time_limit,
    }
}

#[test]
fn detection_believes_the_machine() {
    let machine = machine();
    let holds = |rule: Detection| detect(&machine.layout, &detecting(vec![rule])).unwrap();
    let no = |found: Detected, why: &str| match found {
        Detected::No(said) => assert!(said.contains(why), "{said}"),
        other => panic!("{other:?}"),
    };
    let file = |path: &str, blake3| Detection::File { path: path.into(), blake3, sha256: None, version: None };
    assert_eq!(detect(&machine.layout, &detecting(vec![])).unwrap(), Detected::NoRules);
    no(holds(file("version", None)), "is not there");
    no(holds(asks(&["bin/tool"], &[0], None, 60)), "is not there");
    machine.install(&tool("1"), 1);
    assert_eq!(holds(file("version", None)), Detected::Yes);
    assert_eq!(holds(file("link", Some(Digest::of(&bytes(b'1', CHUNK * 5 / 2))))), Detected::Yes);
    assert_eq!(holds(file("/opt/tool/version", Some(Digest::of(b"1")))), Detected::Yes);
    no(holds(file("version", Some(Digest::of(b"2")))), "other content");
    no(holds(file("spool", Some(Digest::of(b"2")))), "not a regular file");
    no(holds(file("/etc/passwd", None)), "is not there");
    // A link to another root's file is resolved below this root, as on the machine that it stands for.
    symlink("/opt/tool/version", machine.layout.root().join("alias")).unwrap();
    assert_eq!(holds(file("/alias", Some(Digest::of(b"1")))), Detected::Yes);

    let script = machine.target().join("ask");
    let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&script).unwrap();
    out.write_all(b"#!/bin/sh\necho $GIVEN $SUTLER_PACKAGE $SUTLER_VERSION $PWD $1; exit 3\n").unwrap();
    drop(out);
    let says = format!("yes tool 1 {} a b", machine.target().display());
    assert_eq!(holds(asks(&["./ask", "a b"], &[0, 3], Some(&says), 60)), Detected::Yes);
    no(holds(asks(&["ask"], &[0], None, 60)), "exit code 3");
    no(holds(asks(&["ask"], &[3], Some("something else"), 60)), "did not say");
    no(holds(asks(&["version"], &[0], None, 60)), "can't be");
    no(holds(asks(&["/bin/sh", "-c", "kill -9 $$"], &[0], None, 60)), "signal 9");
    symlink("/bin/true", machine.target().join("away")).unwrap();
    no(holds(asks(&["away"], &[0], None, 60)), "outside");
}

#[test]
fn a_detection_command_that_hangs_ends_at_its_limit_with_all_its_children() {
    let machine = machine();
    machine.install(&tool("1"), 1);
    let fifo = machine.target().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    // Held open by the command and its child: reading ends when neither lives any more.
    let reader = {
        let fifo = fifo.clone();
        std::thread::spawn(move || fs::read(fifo).unwrap())
    };
    let hangs = asks(&["/bin/sh", "-c", "trap '' TERM; exec > fifo; sleep 1000 & sleep 1000"], &[0], None, 1);
    match detect(&machine.layout, &detecting(vec![hangs])).unwrap() {
        Detected::No(why) => assert!(why.contains("did not end within 1 s"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(reader.join().unwrap(), b"");
}

#[test]
fn a_version_in_a_file_or_in_what_a_command_says_decides() {
    let machine = machine();
    std::fs::create_dir_all(machine.layout.root().join("etc")).unwrap();
    std::fs::write(machine.layout.root().join("etc/tool"), "name=tool\nversion=1.10-2\n").unwrap();
    let rule = |versions: &str| VersionRule {
        pattern: r"version[= ](\S+)".parse().unwrap(),
        versions: versions.parse().unwrap(),
        ordering: Default::default(),
    };
    let sha256 = "3af2ab5f1a0c7d2a2ae3fa1d0b0c5c4d6e6f0e0a3d4b0fbbd4ad5b7c4c4e3b5f";
    let file = |version, sha256| Detection::File { path: "/etc/tool".into(), blake3: None, sha256, version };
    let detected = |rule| detect(&machine.layout, &detecting(vec![rule])).unwrap();
    assert_eq!(detected(file(Some(rule(">=1.9, <2")), None)), Detected::Yes);
    let Detected::No(why) = detected(file(Some(rule(">=1.11")), None)) else { panic!("it is older") };
    assert!(why.contains("has version \"1.10-2\", not >=1.11"), "{why}");
    let Detected::No(why) = detected(file(None, Some(sha256.parse().unwrap()))) else { panic!("it is another") };
    assert!(why.contains("has other content"), "{why}");
    let real = ring::digest::digest(&ring::digest::SHA256, b"name=tool\nversion=1.10-2\n");
    assert_eq!(detected(file(Some(rule("any")), Some(Digest(real.as_ref().try_into().unwrap())))), Detected::Yes);

    let says = |text: &str, versions: &str| match asks(&["/bin/echo", text], &[0], None, 10) {
        Detection::Command { argv, environment, exit_codes, output, time_limit, .. } => {
            Detection::Command { argv, environment, exit_codes, output, version: Some(rule(versions)), time_limit }
        }
        other => other,
    };
    assert_eq!(detected(says("tool version 3.0", "=3.0")), Detected::Yes);
    let Detected::No(why) = detected(says("tool version 3.0", "<3")) else { panic!("it is newer") };
    assert!(why.contains("says has version \"3.0\", not <3"), "{why}");
    let Detected::No(why) = detected(says("tool", "<3")) else { panic!("it says none") };
    assert!(why.contains("names no version"), "{why}");
}
