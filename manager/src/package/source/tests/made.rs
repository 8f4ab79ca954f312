//! Archives and packages made byte by byte, so that they can be such as no tool would write.

use flate2::{Compression, write::GzEncoder};
use std::io::Write;

/// A member of a tar archive: type, name, target, mode, content.
pub(super) struct Entry<'a> {
    pub(super) flag: u8,
    pub(super) name: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) mode: u32,
    pub(super) content: &'a [u8],
}

pub(super) fn file<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry { flag: b'0', name: name.as_bytes(), target: b"", mode: 0o644, content }
}

pub(super) fn folder(name: &str) -> Entry<'_> {
    Entry { flag: b'5', name: name.as_bytes(), target: b"", mode: 0o755, content: b"" }
}

pub(super) fn other<'a>(flag: u8, name: &'a str, target: &'a str) -> Entry<'a> {
    Entry { flag, name: name.as_bytes(), target: target.as_bytes(), mode: 0o644, content: b"" }
}

pub(super) fn header(entry: &Entry<'_>, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..entry.name.len()].copy_from_slice(entry.name);
    block[100..107].copy_from_slice(format!("{:07o}", entry.mode).as_bytes());
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[148..156].fill(b' ');
    block[156] = entry.flag;
    block[157..157 + entry.target.len()].copy_from_slice(entry.target);
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

pub(super) fn padded(mut bytes: Vec<u8>, to: usize) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
    bytes
}

pub(super) fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(header(entry, entry.content.len() as u64));
        bytes.extend(padded(entry.content.to_vec(), 512));
    }
    bytes.extend([0; 1024]);
    bytes
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) const CONTROL: &str =
    "Package: hello\nVersion: 1.0-1\nArchitecture: amd64\nInstalled-Size: 12\nDescription: Says hello.\n It does.\n";

pub(super) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", content.len()).as_bytes());
        bytes.extend(padded(content.to_vec(), 2));
    }
    bytes
}

/// A Debian package with this `control` and these entries in its payload.
pub(super) fn deb(control: &str, entries: &[Entry<'_>]) -> Vec<u8> {
    let control = gzip(&tar(&[folder("./"), file("./control", control.as_bytes())]));
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.gz", &gzip(&tar(entries)))])
}

/// A value of rpm's header.
pub(super) enum Value {
    Text(&'static str),
    Texts(Vec<&'static str>),
    Numbers(Vec<u32>),
}

fn rpm_header(tags: &[(u32, Value)]) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, value) in tags {
        if let Value::Numbers(_) = value {
            store = padded(store, 4);
        }
        let offset = store.len() as u32;
        let (kind, count) = match value {
            Value::Text(text) => {
                store.extend(text.as_bytes());
                store.push(0);
                (6u32, 1)
            }
            Value::Texts(texts) => {
                texts.iter().for_each(|text| store.extend([text.as_bytes(), b"\0"].concat()));
                (8, texts.len())
            }
            Value::Numbers(numbers) => {
                numbers.iter().for_each(|n| store.extend(n.to_be_bytes()));
                (4, numbers.len())
            }
        };
        for n in [*tag, kind, offset, count as u32] {
            index.extend(n.to_be_bytes());
        }
    }
    let intro = [&[0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0][..], &(tags.len() as u32).to_be_bytes(), &(store.len() as u32).to_be_bytes()].concat();
    [intro, index, store].concat()
}

pub(super) fn cpio(members: &[(u32, &str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (mode, name, content) in members.iter().chain([&(0, "TRAILER!!!", &b""[..])]) {
        let numbers = [0, *mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        bytes.extend(b"070701");
        numbers.iter().for_each(|n| bytes.extend(format!("{n:08x}").as_bytes()));
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes = padded(bytes, 4);
        bytes.extend(*content);
        bytes = padded(bytes, 4);
    }
    bytes
}

/// A package of rpm with this name, these paths in its header and this payload; `more` tags beside.
pub(super) fn rpm(name: &'static str, listed: &[&'static str], payload: &[u8], more: Vec<(u32, Value)>) -> Vec<u8> {
    let mut lead = vec![0xed, 0xab, 0xee, 0xdb, 3, 0, 0, 0];
    lead.resize(96, 0);
    let mut tags = vec![
        (1000, Value::Text(name)),
        (1001, Value::Text("1.2")),
        (1002, Value::Text("3")),
        (1004, Value::Text("Says hello")),
        (1021, Value::Text("linux")),
        (1022, Value::Text("x86_64")),
        (1124, Value::Text("cpio")),
        (1116, Value::Numbers(vec![0; listed.len()])),
        (1117, Value::Texts(listed.to_vec())),
        (1118, Value::Texts(vec!["/"])),
    ];
    tags.extend(more);
    [lead, padded(rpm_header(&[(1000, Value::Numbers(vec![0]))]), 8), rpm_header(&tags), gzip(payload)].concat()
}

/// A program of 64 bits: its kind, its processor and the parts of it, each a type, an offset and a length.
pub(super) fn elf(kind: u16, machine: u16, parts: &[(u32, u64, u64)], tail: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(machine.to_le_bytes());
    bytes.resize(32, 0);
    bytes.extend(64u64.to_le_bytes());
    bytes.resize(54, 0);
    bytes.extend(56u16.to_le_bytes());
    bytes.extend((parts.len() as u16).to_le_bytes());
    bytes.resize(64, 0);
    for (kind, offset, length) in parts {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        for n in [*offset, 0, 0, *length, 0, 0] {
            bytes.extend(n.to_le_bytes());
        }
    }
    bytes.extend(tail);
    bytes
}
