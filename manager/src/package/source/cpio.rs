//! Reads the `cpio` archive in an `.rpm`: the "new ASCII" format, which is the only one that rpm writes.
//!
//! Source: cpio(5). A header has 110 characters: a magic of six and thirteen numbers of eight hexadecimal digits.

use super::{
    Refused,
    packed::{fill, only_zeros},
    tree::{Kind, Member, shown},
};
use std::io::{self, Read};
use sutler_base::{limits::PATH_MAX, told};

const TRAILER: &[u8] = b"TRAILER!!!";

/// An archive that is being read.
pub(super) struct Cpio<R> {
    reader: R,
    left: u64,
    current: Option<String>,
}

impl<R: Read> Cpio<R> {
    pub(super) fn new(reader: R) -> Self {
        Cpio { reader, left: 0, current: None }
    }

    /// The next member; what was not read of the last one is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Refused> {
        let left = std::mem::take(&mut self.left);
        if io::copy(&mut (&mut self.reader).take(left), &mut io::sink()).map_err(|e| self.wrong(told(&e)))? < left {
            return Err(self.wrong("is cut off"));
        }
        let mut header = [0; 110];
        if fill(&mut self.reader, &mut header).map_err(|e| self.wrong(told(&e)))? < header.len() {
            return Err(self.wrong("the payload is cut off after it"));
        }
        match &header[..6] {
            b"070701" | b"070702" => {}
            b"07070X" => return Err(Refused::whole("its payload is written for files of more than 4 GiB, which is not read here")),
            _ => return Err(self.wrong("what follows it is no member of a cpio archive")),
        }
        let mut numbers = [0u32; 13];
        for (number, digits) in numbers.iter_mut().zip(header[6..].chunks_exact(8)) {
            let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
            *number = text
                .and_then(|text| u32::from_str_radix(text, 16).ok())
                .ok_or_else(|| self.wrong("what follows it has a broken header"))?;
        }
        let [_, mode, _, _, _, _, size, _, _, _, _, name_size, _] = numbers;
        if name_size < 2 || name_size as usize > PATH_MAX + 3 {
            return Err(self.wrong("what follows it has a name that is longer than one can be"));
        }
        // The name and its NUL, padded to a multiple of four together with the header.
        let name = self.bytes(name_size as usize + (4 - (header.len() + name_size as usize) % 4) % 4)?;
        let name = name[..name_size as usize - 1].to_vec();
        if name == TRAILER {
            only_zeros(&mut self.reader)?;
            return Ok(None);
        }
        self.current = Some(shown(&name));
        let padding = (4 - size % 4) % 4;
        let kind = match mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Folder,
            0o120_000 => {
                if size as usize > PATH_MAX {
                    return Err(self.wrong("is a link to a name that is longer than one can be"));
                }
                let mut target = self.bytes((size + padding) as usize)?;
                target.truncate(size as usize);
                Kind::Link(target)
            }
            0o020_000 => Kind::Other("a character device"),
            0o060_000 => Kind::Other("a block device"),
            0o010_000 => Kind::Other("a named pipe"),
            0o140_000 => Kind::Other("a socket"),
            _ => Kind::Other("of a type that is not known"),
        };
        if kind == Kind::File {
            self.left = u64::from(size) + u64::from(padding);
        } else if !matches!(kind, Kind::Link(_)) && size != 0 {
            return Err(self.wrong("is no file, but says that it has content"));
        }
        Ok(Some(Member { name, kind, mode: mode & 0o7777, size: u64::from(size) }))
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, Refused> {
        let mut bytes = vec![0; length];
        match fill(&mut self.reader, &mut bytes).map_err(|e| self.wrong(told(&e)))? {
            n if n == length => Ok(bytes),
            _ => Err(self.wrong("the payload is cut off after it")),
        }
    }

    fn wrong(&self, why: impl Into<String>) -> Refused {
        Refused { entry: self.current.clone(), why: why.into() }
    }
}
