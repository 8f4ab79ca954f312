//! Reads tar archives member by member: POSIX `ustar` and `pax`, and GNU's long names.
//!
//! Sources: POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format". It is
//! strict where readers differ, since what one program sees and another does not is how an archive lies: checksums count, a
//! member that is no file has no content, sparse files and unknown types are refused, and after the end there are zeros only.
//! No library reads like that: those that are there follow a member's own words about its length and names without a bound.

use super::{
    Refused,
    packed::{fill, only_zeros},
    tree::{Kind, Member, shown},
};
use std::io::{self, Read};
use sutler_base::told;

const BLOCK: usize = 512;
/// The longest name of GNU's, and the longest records of pax (bytes); a path has at most 1024.
const LONG_NAME_MAX: u64 = 16 << 10;
const RECORDS_MAX: u64 = 256 << 10;

/// An archive that is being read.
pub(super) struct Tar<R> {
    reader: R,
    /// What of the last member's content was not read yet, and the padding after it.
    left: u64,
    padding: u64,
    current: Option<String>,
}

/// What came before a member and is said about it.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> Tar<R> {
    pub(super) fn new(reader: R) -> Self {
        Tar { reader, left: 0, padding: 0, current: None }
    }

    /// The next member, whose content can then be read from the archive; what was not read of the last one is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Refused> {
        let mut said = Said::default();
        loop {
            self.skip()?;
            let mut block = [0; BLOCK];
            let length = fill(&mut self.reader, &mut block).map_err(|e| self.failed(&e))?;
            // An archive may end without its two blocks of zeros, but not within a member.
            if length == 0 || block.iter().all(|b| *b == 0) {
                if said.name.is_some() || said.target.is_some() || said.size.is_some() {
                    return Err(self.wrong("the archive ends where a member was announced"));
                }
                return only_zeros(&mut self.reader).map(|()| None);
            }
            if length < BLOCK {
                return Err(self.wrong("the archive is cut off"));
            }
            let header = Header(&block);
            header.check().map_err(|why| self.wrong(why))?;
            let announces = matches!(header.0[156], b'L' | b'K' | b'x' | b'g');
            let name = if announces { header.name() } else { said.name.take().unwrap_or_else(|| header.name()) };
            self.current = Some(shown(&name));
            let size = if announces { None } else { said.size.take() };
            let size = size.map_or_else(|| header.number(124, 12), Ok).map_err(|why| self.wrong(why))?;
            self.left = size;
            self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
            if announces {
                self.announcement(header.0[156], &mut said)?;
                continue;
            }
            let target = said.target.take().unwrap_or_else(|| header.text(157, 100));
            let kind = match header.0[156] {
                b'0' | 0 | b'7' if name.ends_with(b"/") => Kind::Folder,
                b'0' | 0 | b'7' => Kind::File,
                b'1' => Kind::HardLink(target),
                b'2' => Kind::Link(target),
                b'5' => Kind::Folder,
                b'3' => Kind::Other("a character device"),
                b'4' => Kind::Other("a block device"),
                b'6' => Kind::Other("a named pipe"),
                b'S' => Kind::Other("a sparse file of GNU tar"),
                _ => Kind::Other("of a type that is not known"),
            };
            if kind != Kind::File && size != 0 {
                return Err(self.wrong("is no file, but says that it has content"));
            }
            let mode = header.number(100, 8).map_err(|why| self.wrong(why))?;
            return Ok(Some(Member { name, kind, mode: (mode & 0o7777) as u32, size }));
        }
    }

    /// What is said about the member that follows, or, by pax, about all that follow.
    fn announcement(&mut self, flag: u8, said: &mut Said) -> Result<(), Refused> {
        let mut more = Said::default();
        match flag {
            b'L' => more.name = Some(self.text(LONG_NAME_MAX)?),
            b'K' => more.target = Some(self.text(LONG_NAME_MAX)?),
            _ => {
                let records = self.content(RECORDS_MAX)?;
                self.records(&records, &mut more)?;
            }
        }
        if flag == b'g' {
            let about_each = more.name.is_some() || more.target.is_some() || more.size.is_some();
            return if about_each { Err(self.wrong("gives all members that follow the same name or length")) } else { Ok(()) };
        }
        for (old, new) in [(&mut said.name, more.name), (&mut said.target, more.target)] {
            if old.is_some() && new.is_some() {
                return Err(self.wrong("is a second name of one member, and readers choose differently"));
            }
            *old = old.take().or(new);
        }
        said.size = said.size.take().or(more.size);
        Ok(())
    }

    /// The whole content of the member, which may have so many bytes.
    pub(super) fn content(&mut self, max: u64) -> Result<Vec<u8>, Refused> {
        if self.left > max {
            return Err(self.wrong(format!("has {} bytes; at most {max} are read there", self.left)));
        }
        let mut content = vec![0; self.left as usize];
        let length = fill(&mut self.reader, &mut content).map_err(|e| self.failed(&e))?;
        if length < content.len() {
            return Err(self.wrong("is cut off"));
        }
        self.left = 0;
        Ok(content)
    }

    /// A long name: it ends with its first NUL.
    fn text(&mut self, max: u64) -> Result<Vec<u8>, Refused> {
        let content = self.content(max)?;
        Ok(until_nul(&content).to_vec())
    }

    /// The records of pax: `LENGTH KEY=VALUE\n` each.
    fn records(&self, mut bytes: &[u8], said: &mut Said) -> Result<(), Refused> {
        let broken = || self.wrong("has records that can't be read");
        while !bytes.is_empty() {
            let space = bytes.iter().take(10).position(|b| *b == b' ').ok_or_else(broken)?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok().and_then(|n| n.parse().ok()).ok_or_else(broken)?;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(broken());
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => said.name = Some(value.to_vec()),
                b"linkpath" => said.target = Some(value.to_vec()),
                b"size" => said.size = Some(std::str::from_utf8(value).ok().and_then(|n| n.parse().ok()).ok_or_else(broken)?),
                key if key.starts_with(b"GNU.sparse.") => return Err(self.wrong("is a sparse file of GNU tar")),
                _ => {}
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Passes over what of the last member was not read.
    fn skip(&mut self) -> Result<(), Refused> {
        let wanted = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(wanted), &mut io::sink()).map_err(|e| self.failed(&e))?;
        if skipped < wanted {
            return Err(self.wrong("is cut off"));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn wrong(&self, why: impl Into<String>) -> Refused {
        Refused { entry: self.current.clone(), why: why.into() }
    }

    fn failed(&self, error: &io::Error) -> Refused {
        self.wrong(told(error))
    }
}

/// The content of the current member.
impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.reader.read(&mut buffer[..wanted])?;
        if n == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn check(&self) -> Result<(), String> {
        let said = self.number(148, 8)?;
        let counts = |(n, b): (usize, &u8)| if (148..156).contains(&n) { u64::from(b' ') } else { u64::from(*b) };
        if self.0.iter().enumerate().map(counts).sum::<u64>() == said {
            Ok(())
        } else {
            Err("what follows it is no member of a tar archive: its checksum is wrong".into())
        }
    }

    fn text(&self, at: usize, length: usize) -> Vec<u8> {
        until_nul(&self.0[at..at + length]).to_vec()
    }

    fn name(&self) -> Vec<u8> {
        let (name, prefix) = (self.text(0, 100), self.text(345, 155));
        // GNU's own format has other things there.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() { [&prefix[..], b"/", &name].concat() } else { name }
    }

    /// An octal number, or GNU's big one.
    fn number(&self, at: usize, length: usize) -> Result<u64, String> {
        let field = &self.0[at..at + length];
        if field[0] == 0x80 {
            let (high, low) = field[1..].split_at((length - 1).saturating_sub(8));
            if high.iter().all(|b| *b == 0) {
                return Ok(low.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
            }
        }
        let text = std::str::from_utf8(until_nul(field)).unwrap_or("?").trim_matches(' ');
        if text.is_empty() {
            return Ok(0);
        }
        u64::from_str_radix(text, 8).map_err(|_| "has a header with a number that is none".into())
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
}
