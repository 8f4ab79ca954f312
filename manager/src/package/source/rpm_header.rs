//! The header of an `.rpm`: what rpm knows of a package, by the numbers of its tags.
//!
//! Source: rpm's documentation, "Package file format": a lead of 96 bytes, a header of signatures, the header itself, the
//! payload. A header is an index of tags, each with a type, an offset into the store that follows, and a count.

use super::{Refused, packed::fill};
use std::{collections::BTreeMap, io::Read};
use sutler_base::{limits::FILES_MAX, told};

pub(super) const MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
const LEAD: usize = 96;
/// The most tags and the longest store that are read: of the largest packages, kernels, some 5000 files and 2 MiB.
const TAGS_MAX: u32 = 4096;
const STORE_MAX: u32 = 64 << 20;

/// A tag's type, the bytes that begin where its values do, and how many they are.
type Place<'a> = (u32, &'a [u8], usize);

/// A header that was read.
pub(super) struct Header {
    tags: BTreeMap<u32, (u32, u32, u32)>,
    store: Vec<u8>,
    /// How many bytes it has in the file.
    pub(super) length: u64,
}

fn broken(why: &str) -> Refused {
    Refused::whole(format!("it is no package of rpm: {why}"))
}

fn exactly(reader: &mut impl Read, length: usize) -> Result<Vec<u8>, Refused> {
    let mut bytes = vec![0; length];
    match fill(reader, &mut bytes).map_err(|e| Refused::whole(told(&e)))? {
        n if n == length => Ok(bytes),
        _ => Err(broken("it is cut off")),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |n, b| n << 8 | u32::from(*b))
}

/// The header of a package; what follows in the reader is the payload.
pub(super) fn read(reader: &mut impl Read) -> Result<Header, Refused> {
    let lead = exactly(reader, LEAD)?;
    if lead[..4] != MAGIC || !(3..=4).contains(&lead[4]) {
        return Err(broken("its beginning is of another format"));
    }
    if lead[6..8] == [0, 1] {
        return Err(Refused::whole("it is a source package; build it, and push what comes of it"));
    }
    let signatures = header(reader)?;
    let padding = (8 - signatures.length % 8) % 8;
    exactly(reader, padding as usize)?;
    let mut main = header(reader)?;
    main.length += LEAD as u64 + signatures.length + padding;
    Ok(main)
}

fn header(reader: &mut impl Read) -> Result<Header, Refused> {
    let intro = exactly(reader, 16)?;
    if intro[..4] != [0x8e, 0xad, 0xe8, 1] {
        return Err(broken("a header of it has another beginning"));
    }
    let (count, size) = (number(&intro[8..]), number(&intro[12..]));
    if count == 0 || count > TAGS_MAX || size > STORE_MAX {
        return Err(broken("a header of it says that it is longer than one can be"));
    }
    let index = exactly(reader, count as usize * 16)?;
    let store = exactly(reader, size as usize)?;
    let entry = |entry: &[u8]| (number(entry), (number(&entry[4..]), number(&entry[8..]), number(&entry[12..])));
    let mut tags = BTreeMap::new();
    for (tag, place) in index.chunks_exact(16).map(entry) {
        if tags.insert(tag, place).is_some() {
            return Err(broken(&format!("its header has the tag {tag} twice")));
        }
    }
    Ok(Header { tags, store, length: 16 + u64::from(count) * 16 + u64::from(size) })
}

impl Header {
    /// Where a tag's values are; it must have one of these types.
    fn place(&self, tag: u32, types: &[u32]) -> Result<Option<Place<'_>>, Refused> {
        let Some((kind, offset, count)) = self.tags.get(&tag).copied() else { return Ok(None) };
        let store = self.store.get(offset as usize..).filter(|_| types.contains(&kind));
        match store {
            // As many as a package has files, of which each has one.
            Some(store) if count as usize <= store.len().min(FILES_MAX) => Ok(Some((kind, store, count as usize))),
            _ => Err(broken(&format!("the tag {tag} of its header is not what it says"))),
        }
    }

    /// Texts: of one, of a list, of one in several languages.
    pub(super) fn texts(&self, tag: u32) -> Result<Vec<String>, Refused> {
        let Some((_, mut store, count)) = self.place(tag, &[6, 8, 9])? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for _ in 0..count {
            let end = store.iter().position(|b| *b == 0).ok_or_else(|| broken(&format!("a text of the tag {tag} has no end")))?;
            let text = std::str::from_utf8(&store[..end]).map_err(|_| broken(&format!("a text of the tag {tag} is not UTF-8")))?;
            all.push(text.to_owned());
            store = &store[end + 1..];
        }
        Ok(all)
    }

    /// The first text.
    pub(super) fn text(&self, tag: u32) -> Result<Option<String>, Refused> {
        Ok(self.texts(tag)?.into_iter().next())
    }

    /// Whole numbers of 2, 4 or 8 bytes.
    pub(super) fn numbers(&self, tag: u32) -> Result<Vec<u64>, Refused> {
        let Some((kind, store, count)) = self.place(tag, &[3, 4, 5])? else { return Ok(Vec::new()) };
        let width = 1 << (kind - 2);
        let bytes = store.get(..count * width).ok_or_else(|| broken(&format!("the numbers of the tag {tag} have no end")))?;
        Ok(bytes.chunks_exact(width).map(|bytes| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))).collect())
    }
}
