//! Whatever a byte of a good file is changed to, it is read or refused, and never more than that.

use super::{BOUNDS, made, tool};
use crate::package::source::{Source, SourceError};
use sutler_base::Timestamp;

#[test]
fn a_file_with_a_byte_changed_is_read_or_refused_in_words_that_do_no_harm() {
    let entries = || [made::folder("a/"), made::file("a/b", b"content"), made::other(b'2', "a/c", "b"), made::other(b'1', "d", "a/b")];
    // Nothing is packed, so that a change meets more than a checksum.
    let (control, data) = (made::tar(&[made::file("./control", made::CONTROL.as_bytes())]), made::tar(&entries()));
    let deb = made::ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar", &data)]);
    let payload = made::cpio(&[(0o100_755, "./hello", b"#!/bin/sh\n"), (0o120_777, "./hi", b"hello")]);
    let rpm = made::rpm("hello", &["hello", "hi"], &payload, vec![]);
    let elf = made::elf(3, 62, &[(3, 232, 12), (2, 244, 48), (1, 0, 400)], &[b"/lib/ld.so\0\0", &[1; 60][..]].concat());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let (mut read, mut refused) = (0, 0);
    for good in [deb, rpm, elf, data] {
        // Most of a long file is padding; both steps meet every place of a field sooner or later.
        for at in (0..good.len()).step_by(if good.len() > 2000 { 17 } else { 3 }) {
            for to in [0, 0xff, good[at] ^ 1, b'/'] {
                let mut changed = good.clone();
                changed[at] = to;
                std::fs::write(&path, &changed).unwrap();
                let built =
                    Source::open_within(&path, &tool(), &BOUNDS).and_then(|source| source.build(Timestamp::UNIX_EPOCH, &mut |_| {}));
                match built {
                    Ok(built) => {
                        read += 1;
                        built.manifest.check().unwrap();
                    }
                    Err(SourceError::Refused { entry, why, .. }) => {
                        refused += 1;
                        let text = format!("{entry:?} {why}");
                        assert!(text.len() < 2000 && !why.chars().any(sutler_base::is_harmful), "{text}");
                    }
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} are read, {refused} refused");
}
