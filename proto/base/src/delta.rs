//! A delta: how the files of one version of a package are made from those of another.
//!
//! A delta is a list of units. Each takes pieces of the old version's files, one after the other, as what a zstd frame may refer
//! to, and the frame decodes to pieces of the new version's files. A unit is small, so that making and applying one needs
//! little memory whatever the files are; frames are objects like chunks, fetched and verified by their digests.
//!
//! Nothing of a delta needs a signature: what comes out of it counts only where it has the digest that the signed manifest names.
//! Files that both versions have are in no delta.

use crate::{Digest, Invalid, limits::FILES_MAX};

/// The most bytes of old files that a unit refers to.
pub const REFERENCE_MAX: usize = 12 << 20;
/// The most bytes of new files that a unit makes.
pub const OUTPUT_MAX: usize = 4 << 20;
/// The longest frame of a unit: what can't be made smaller, and what zstd adds to it.
pub const FRAME_MAX: usize = OUTPUT_MAX + (64 << 10);
/// The window that a frame's decoder needs, as a power of two: all that a unit refers to and makes.
pub const WINDOW_LOG: u32 = 24;
/// The longest encoded delta (bytes).
pub const DELTA_MAX: usize = 16 << 20;
/// The most pieces of old files, and of new files, of one unit.
const PIECES_MAX: usize = 65_536;
/// What an encoded delta begins with.
const MAGIC: &[u8; 8] = b"sutler\xde\x01";

const _: () = assert!(1 << WINDOW_LOG >= REFERENCE_MAX + OUTPUT_MAX);

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which file: 0 is the manifest itself, N the one at place N - 1 of the manifest's files.
    pub file: u32,
    /// Where the piece begins.
    pub offset: u64,
    /// How many bytes it has; never 0.
    pub length: u32,
}

/// One step of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Pieces of the old version, in the order in which the frame refers to them; together at most [`REFERENCE_MAX`].
    pub old: Vec<Piece>,
    /// Pieces of the new version, in the order in which the frame has them; together at most [`OUTPUT_MAX`].
    pub new: Vec<Piece>,
    /// The digest of the frame.
    pub frame: Digest,
    /// How many bytes the frame has; at most [`FRAME_MAX`].
    pub length: u32,
}

/// How one version is made from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// The steps. Each stands by itself; the manifest's come first.
    pub units: Vec<Unit>,
}

impl Delta {
    /// The delta as bytes: each number as LEB128, the file of a piece as what it is more than the one before, zigzagged.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for unit in &self.units {
            for pieces in [&unit.old, &unit.new] {
                put(&mut out, pieces.len() as u64);
                let mut before = 0i64;
                for piece in pieces {
                    let more = i64::from(piece.file) - before;
                    before = i64::from(piece.file);
                    put(&mut out, ((more << 1) ^ (more >> 63)) as u64);
                    put(&mut out, piece.offset);
                    put(&mut out, u64::from(piece.length));
                }
            }
            out.extend_from_slice(unit.frame.as_bytes());
            put(&mut out, u64::from(unit.length));
        }
        out
    }

    /// The delta that `bytes` encode. Refuses one that is cut off, has an empty unit, or goes over a bound.
    pub fn decode(bytes: &[u8]) -> Result<Delta, Invalid> {
        if bytes.len() > DELTA_MAX {
            return Err(Invalid::new(format!("a delta of {} bytes is too long; at most {DELTA_MAX} are read", bytes.len())));
        }
        let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| Invalid::new("this is no delta, or one of a newer format"))?;
        let mut units = Vec::new();
        while !rest.is_empty() {
            let old = take_pieces(&mut rest, REFERENCE_MAX)?;
            let new = take_pieces(&mut rest, OUTPUT_MAX)?;
            if new.is_empty() {
                return Err(Invalid::new("a unit of a delta makes nothing"));
            }
            let (digest, after) = rest.split_first_chunk::<32>().ok_or_else(cut_off)?;
            rest = after;
            let length = take(&mut rest)?;
            if length == 0 || length > FRAME_MAX as u64 {
                return Err(Invalid::new(format!("a frame of a delta has {length} bytes; 1 to {FRAME_MAX} are allowed")));
            }
            units.push(Unit { old, new, frame: Digest(*digest), length: length as u32 });
        }
        Ok(Delta { units })
    }

    /// The bytes of all frames.
    pub fn frames(&self) -> u64 {
        self.units.iter().map(|unit| u64::from(unit.length)).sum()
    }
}

fn cut_off() -> Invalid {
    Invalid::new("a delta is cut off")
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(rest: &mut &[u8]) -> Result<u64, Invalid> {
    let mut number = 0u64;
    for shift in (0..63).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(cut_off)?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Invalid::new("a number of a delta is too large"))
}

fn take_pieces(rest: &mut &[u8], most: usize) -> Result<Vec<Piece>, Invalid> {
    let count = take(rest)?;
    if count > PIECES_MAX as u64 {
        return Err(Invalid::new(format!("a unit of a delta has {count} pieces; at most {PIECES_MAX} are allowed")));
    }
    // Not what the count says: each piece takes three bytes and more.
    let mut pieces = Vec::with_capacity((count as usize).min(rest.len() / 3));
    let (mut file, mut together) = (0i64, 0u64);
    for _ in 0..count {
        let more = take(rest)?;
        file = file.saturating_add((more >> 1) as i64 ^ -((more & 1) as i64));
        let (offset, length) = (take(rest)?, take(rest)?);
        if !(0..=FILES_MAX as i64).contains(&file) {
            return Err(Invalid::new(format!("a piece of a delta is of file {file}; there are at most {FILES_MAX}")));
        }
        together = together.saturating_add(length);
        if length == 0 || together > most as u64 || offset.checked_add(length).is_none() {
            return Err(Invalid::new(format!(
                "the pieces of a unit of a delta have {together} bytes and more; at most {most} are allowed"
            )));
        }
        pieces.push(Piece { file: file as u32, offset, length: length as u32 });
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(most: u32) -> impl Strategy<Value = Vec<Piece>> {
        let piece =
            (0..FILES_MAX as u32, 0..u64::from(u32::MAX), 1..most).prop_map(|(file, offset, length)| Piece { file, offset, length });
        proptest::collection::vec(piece, 0..8)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(units in proptest::collection::vec((pieces(1000), pieces(1000), any::<[u8; 32]>(), 1..FRAME_MAX as u32), 0..8)) {
            let units = units.into_iter().filter(|(_, new, ..)| !new.is_empty());
            let units = units.map(|(old, new, frame, length)| Unit { old, new, frame: Digest(frame), length }).collect();
            let delta = Delta { units };
            let bytes = delta.encode();
            prop_assert_eq!(Delta::decode(&bytes).unwrap(), delta.clone());
            // Cut anywhere it is refused, or has whole units and no others.
            for at in 0..bytes.len() {
                if let Ok(less) = Delta::decode(&bytes[..at]) {
                    prop_assert!(less.units.len() < delta.units.len() && delta.units.starts_with(&less.units));
                }
            }
        }

        #[test]
        fn anything_else_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(&bytes);
            let _ = Delta::decode(&bytes);
            let _ = Delta::decode(&with_magic);
        }
    }

    #[test]
    fn a_unit_over_a_bound_is_refused() {
        let unit = |old: u32, new: u32, length: u32| {
            let piece = |length| Piece { file: 1, offset: 0, length };
            let half = |length: u32| vec![piece(length / 2), piece(length - length / 2)];
            Delta { units: vec![Unit { old: half(old), new: half(new), frame: Digest::of(b""), length }] }.encode()
        };
        let (reference, output, frame) = (REFERENCE_MAX as u32, OUTPUT_MAX as u32, FRAME_MAX as u32);
        assert!(Delta::decode(&unit(reference, output, frame)).is_ok());
        for bad in [unit(reference + 1, 2, 1), unit(2, output + 1, 1), unit(2, 2, frame + 1), unit(2, 2, 0)] {
            assert!(Delta::decode(&bad).is_err());
        }
        let empty = Delta { units: vec![Unit { old: vec![], new: vec![], frame: Digest::of(b""), length: 1 }] };
        assert!(Delta::decode(&empty.encode()).is_err());
        let far = Delta {
            units: vec![Unit {
                old: vec![],
                new: vec![Piece { file: FILES_MAX as u32 + 1, offset: 0, length: 1 }],
                frame: Digest::of(b""),
                length: 1,
            }],
        };
        assert!(Delta::decode(&far.encode()).is_err());
    }
}
