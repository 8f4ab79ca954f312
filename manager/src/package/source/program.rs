//! A single program: a static binary or an AppImage. It becomes `bin/NAME` below `/opt/NAME`, and is there if that file has
//! its digest.
//!
//! Source: the ELF specification, "ELF Header" and "Program Header"; of AppImages the specification of type 1 and 2. What a
//! program says of itself does not hold its version, nor a name: both must be given.

use super::{Draft, Refused, Wanted, software::Architecture};
use crate::package::definition::Definition;
use std::{fs::File, io, os::unix::fs::FileExt};
use sutler_base::{Digest, manifest::Detection, quoted, told};

pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";
/// The most parts of a program that are looked at, and the longest table of what it is linked with (bytes).
const PARTS_MAX: u64 = 128;
const DYNAMIC_MAX: u64 = 64 << 10;
const NAME_MAX: usize = 256;

/// Reads a program.
pub(super) fn read(file: &File, wanted: &Wanted) -> Result<Draft, Refused> {
    let elf = Elf::read(file)?;
    let (Some(name), Some(version)) = (&wanted.name, &wanted.version) else {
        let lacks = if wanted.name.is_none() { "--name" } else { "--version" };
        return Err(Refused::whole(format!(
            "it is a program, which does not say what it is called nor which version it is: give {lacks}, for example --name tool --version 1.2.3"
        )));
    };
    let mut notes = Vec::new();
    if elf.app_image {
        notes.push("is an AppImage: it mounts itself where it runs, for which the machine needs FUSE".into());
    } else if let Some(interpreter) = &elf.interpreter {
        let with = if elf.needed.is_empty() { String::new() } else { format!(" and {}", elf.needed.join(", ")) };
        notes.push(format!("is not static: it runs only where there is {interpreter}{with}"));
    }
    let mut definition = Definition::new(name.clone(), version.clone());
    definition.platform = elf.architecture.platform();
    definition.requirements = elf.architecture.requirement().into_iter().collect();
    definition.directory = Some(format!("/opt/{name}").parse().map_err(|e: sutler_base::Invalid| Refused::whole(e.0))?);
    let at = format!("bin/{name}");
    let blake3 = Some(digest(file).map_err(|e| Refused::whole(told(&e)))?);
    definition.detection = vec![Detection::File { path: at.clone(), blake3, sha256: None, version: None }];
    definition.restore = true;
    Ok(Draft { definition, at, mode: 0o755, notes })
}

fn digest(file: &File) -> io::Result<Digest> {
    let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; 256 << 10], 0);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finalize().into()),
            n => {
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
        }
    }
}

/// What the header of a program says.
struct Elf {
    architecture: Architecture,
    app_image: bool,
    /// What starts it, if it is not static.
    interpreter: Option<String>,
    /// What it is linked with.
    needed: Vec<String>,
}

/// How numbers are written in it.
struct Layout<'a> {
    file: &'a File,
    wide: bool,
    little: bool,
}

impl Layout<'_> {
    fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>, Refused> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).map_err(|_| Refused::whole("it is no program: it is cut off"))?;
        Ok(bytes)
    }

    fn number(&self, bytes: &[u8]) -> u64 {
        let add = |n: u64, b: &u8| n << 8 | u64::from(*b);
        if self.little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
    }

    /// An address or a length.
    fn word(&self, bytes: &[u8], at: usize) -> u64 {
        self.number(&bytes[at..at + if self.wide { 8 } else { 4 }])
    }
}

/// A part of the file that is loaded or says how to.
struct Part {
    kind: u64,
    offset: u64,
    address: u64,
    length: u64,
}

impl Elf {
    fn read(file: &File) -> Result<Elf, Refused> {
        let refuse = |why: &str| Err(Refused::whole(format!("it is no program that an agent's machine runs: {why}")));
        let mut layout = Layout { file, wide: true, little: true };
        let ident = layout.bytes(0, 20)?;
        (layout.wide, layout.little) = match (ident[4], ident[5]) {
            (class @ 1..=2, order @ 1..=2) => (class == 2, order == 1),
            _ => return refuse("its header is none"),
        };
        if !matches!(ident[7], 0 | 3) {
            return refuse("it is for another operating system than Linux");
        }
        let (kind, machine) = (layout.number(&ident[16..18]), layout.number(&ident[18..20]));
        let Some(architecture) = u16::try_from(machine).ok().and_then(Architecture::of_elf) else {
            return refuse(&format!("it is for the processor that ELF numbers {machine}"));
        };
        let app_image = ident[8..10] == *b"AI" && matches!(ident[10], 1 | 2);
        let parts = layout.parts()?;
        let interpreter = match parts.iter().find(|part| part.kind == 3) {
            Some(part) => Some(layout.text(part.offset)?),
            None => None,
        };
        let (needed, position_independent) = layout.linked_with(&parts)?;
        match (kind, &interpreter) {
            (2, _) | (3, Some(_)) => {}
            (3, None) if position_independent => {}
            (3, None) => return refuse("it is a shared library, which other programs load"),
            (1, _) => return refuse("it is an object file, which is still to be linked"),
            (4, _) => return refuse("it is the memory of a program that crashed"),
            _ => return refuse("it is of a kind that is not known"),
        }
        Ok(Elf { architecture, app_image, interpreter, needed })
    }
}

impl Layout<'_> {
    fn parts(&self) -> Result<Vec<Part>, Refused> {
        let header = self.bytes(0, if self.wide { 64 } else { 52 })?;
        let start = self.word(&header, if self.wide { 32 } else { 28 });
        let counts = if self.wide { 54 } else { 42 };
        let (size, count) = (self.number(&header[counts..counts + 2]), self.number(&header[counts + 2..counts + 4]));
        let wanted = if self.wide { 56 } else { 32 };
        if count > PARTS_MAX || (count > 0 && size != wanted) {
            return Err(Refused::whole("it is no program: its table of parts is not one"));
        }
        let part = |n: u64| {
            let at = start.checked_add(n * wanted).ok_or_else(|| Refused::whole("it is no program: it is cut off"))?;
            let bytes = self.bytes(at, wanted as usize)?;
            let kind = self.number(&bytes[..4]);
            let [offset, address, length] = (if self.wide { [8, 16, 32] } else { [4, 8, 16] }).map(|at| self.word(&bytes, at));
            Ok(Part { kind, offset, address, length })
        };
        (0..count).map(part).collect()
    }

    /// What it is linked with by name, and whether it says that it is a program although it could be loaded anywhere.
    fn linked_with(&self, parts: &[Part]) -> Result<(Vec<String>, bool), Refused> {
        let Some(dynamic) = parts.iter().find(|part| part.kind == 2) else { return Ok((Vec::new(), false)) };
        let width = if self.wide { 16 } else { 8 };
        let table = self.bytes(dynamic.offset, dynamic.length.min(DYNAMIC_MAX) as usize / width * width)?;
        let entries: Vec<(u64, u64)> =
            table.chunks_exact(width).map(|e| (self.word(e, 0), self.word(e, width / 2))).take_while(|(tag, _)| *tag != 0).collect();
        let value = |wanted: u64| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
        let is_program = value(0x6fff_fffb).is_some_and(|flags| flags & 0x0800_0000 != 0);
        // Where the texts are, is said as an address in memory.
        let texts = value(5).and_then(|address| {
            let inside = |part: &&Part| part.kind == 1 && (part.address..part.address.saturating_add(part.length)).contains(&address);
            parts.iter().find(inside).and_then(|part| part.offset.checked_add(address - part.address))
        });
        let mut needed = Vec::new();
        for (_, name) in entries.iter().filter(|(tag, _)| *tag == 1).take(64) {
            let Some(at) = texts.and_then(|texts| texts.checked_add(*name)) else { continue };
            needed.push(self.text(at)?);
        }
        Ok((needed, is_program))
    }

    /// The text that ends with a NUL, as it may be shown.
    fn text(&self, at: u64) -> Result<String, Refused> {
        let mut bytes = [0; NAME_MAX];
        let n = self.file.read_at(&mut bytes, at).map_err(|e| Refused::whole(told(&e)))?;
        let end = bytes[..n].iter().position(|b| *b == 0).unwrap_or(n);
        let text = String::from_utf8_lossy(&bytes[..end]);
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        Ok(if plain { text.into_owned() } else { quoted(&text) })
    }
}
