//! How an object's bytes are stored and sent: as they are, or compressed where that makes them smaller.

use bytes::Bytes;
use std::io::Read;

/// How the bytes of an object are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// As zstd frames.
    Zstd,
}

impl Encoding {
    /// The byte that stands before a stored object.
    pub(crate) fn tag(self) -> u8 {
        match self {
            Encoding::Identity => 0,
            Encoding::Zstd => 1,
        }
    }

    /// The encoding that a stored object's first byte names.
    pub(crate) fn from_tag(tag: u8) -> Option<Encoding> {
        match tag {
            0 => Some(Encoding::Identity),
            1 => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// Why bytes could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They are longer than allowed once they are decoded; decoding stopped there.
    #[error("more than {0} bytes once decoded")]
    TooLong(usize),
    /// They are not what their encoding says.
    #[error("not zstd: {0}")]
    Malformed(std::io::Error),
}

/// Compresses like what is used for software that is written once and read often: fast, and well enough.
const LEVEL: i32 = 3;

/// The largest window of a compressed object that is accepted, as a power of two: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// `raw` in the shorter of its encodings. Bytes that do not shrink by a sixteenth stay as they are: they aren't worth the
/// work at the other end.
pub fn encode(raw: Bytes) -> (Encoding, Bytes) {
    match zstd::bulk::compress(&raw, LEVEL) {
        Ok(packed) if packed.len() + raw.len() / 16 < raw.len() => (Encoding::Zstd, packed.into()),
        _ => (Encoding::Identity, raw),
    }
}

/// What `payload` encodes, at most `limit` bytes; memory is bounded by that, whatever the payload claims.
pub fn decode(encoding: Encoding, payload: &Bytes, limit: usize) -> Result<Bytes, DecodeError> {
    match encoding {
        Encoding::Identity if payload.len() > limit => Err(DecodeError::TooLong(limit)),
        Encoding::Identity => Ok(payload.clone()),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&payload[..]).map_err(DecodeError::Malformed)?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(DecodeError::Malformed)?;
            let mut raw = Vec::with_capacity(payload.len().saturating_mul(3).min(limit).saturating_add(1));
            decoder.take(limit as u64 + 1).read_to_end(&mut raw).map_err(DecodeError::Malformed)?;
            if raw.len() > limit { Err(DecodeError::TooLong(limit)) } else { Ok(raw.into()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let bomb = Bytes::from(zstd::bulk::compress(&vec![0; 32 << 20], LEVEL).unwrap());
        assert!(bomb.len() < 64 << 10);
        assert!(matches!(decode(Encoding::Zstd, &bomb, 256 << 10), Err(DecodeError::TooLong(_))));
        assert_eq!(decode(Encoding::Zstd, &bomb, 32 << 20).unwrap().len(), 32 << 20);
        // Many frames behind each other are one content, and are counted together.
        let frame = zstd::bulk::compress(&[7; 1000], LEVEL).unwrap();
        assert!(matches!(decode(Encoding::Zstd, &frame.repeat(11).into(), 10_000), Err(DecodeError::TooLong(_))));
    }

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        let mut noise = vec![0; 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(encode(noise.into()).0, Encoding::Identity);
        let (encoding, packed) = encode(vec![1; 4096].into());
        assert_eq!((encoding, decode(encoding, &packed, 4096).unwrap()), (Encoding::Zstd, vec![1; 4096].into()));
        assert!(matches!(decode(Encoding::Zstd, &Bytes::from_static(b"plain"), 100), Err(DecodeError::Malformed(_))));
    }
}
