//! Undoes compression, with a bound on everything: what comes out, how much more than went in, and the memory for it.

use super::{Refused, SourceLimits};
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use std::io::{self, BufReader, Read};

/// How something is packed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Xz,
    Zstd,
}

/// How many bytes at the beginning tell.
pub(super) const MAGIC: usize = 6;

/// The memory that unpacking may take: what `xz -9` and `zstd --ultra` need, and no more. In KiB, and as the logarithm of bytes.
const XZ_KIB_MAX: u32 = 192 << 10;
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

impl Packing {
    /// What the first bytes say. An error names what nothing here undoes.
    pub(super) fn of(head: &[u8]) -> Result<Packing, Refused> {
        Ok(match head {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            // A frame that is to be skipped; decoders skip it.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
            [b'B', b'Z', b'h', ..] => return Err(Refused::whole("it is packed with bzip2; pack it with gzip, xz or zstd instead")),
            [0x5d, 0, 0, ..] => return Err(Refused::whole("it is packed with the old lzma; pack it with gzip, xz or zstd instead")),
            _ => Packing::Plain,
        })
    }

    /// What `packed` becomes. Decoders pass over trailing rubbish differently; whoever reads this must read to its end.
    pub(super) fn undo<'a>(self, packed: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Refused> {
        let packed = BufReader::with_capacity(64 << 10, packed);
        Ok(match self {
            Packing::Plain => Box::new(packed),
            Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Packing::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_KIB_MAX)),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed).map_err(|e| Refused::whole(sutler_base::told(&e)))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|e| Refused::whole(sutler_base::told(&e)))?;
                Box::new(decoder)
            }
        })
    }
}

/// A reader that ends with an error where more comes out than may.
pub(super) struct Bounded<R> {
    inner: R,
    read: u64,
    limit: u64,
    why: &'static str,
}

impl<R: Read> Bounded<R> {
    /// At most what `limits` allow for something that has `packed` bytes as it is packed.
    pub(super) fn new(inner: R, packed: u64, limits: &SourceLimits) -> Self {
        let ratio = packed.saturating_mul(limits.ratio).max(limits.ratio_from);
        if ratio < limits.unpacked {
            Bounded { inner, read: 0, limit: ratio, why: "it becomes far longer than anything that was packed in good faith" }
        } else {
            Bounded { inner, read: 0, limit: limits.unpacked, why: "it becomes longer than what is unpacked of one package" }
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = loop {
            match self.inner.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                n => break n?,
            }
        };
        self.read += n as u64;
        if self.read > self.limit {
            let sentence = format!("{}: at most {} bytes here", self.why, self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, sentence));
        }
        Ok(n)
    }
}

/// Reads until `buffer` is full or there is no more; how many bytes came.
pub(super) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Reads to the end, where nothing but zeros may be: what else comes there, one program would see and another would not.
pub(super) fn only_zeros(reader: &mut impl Read) -> Result<(), Refused> {
    let mut buffer = [0; 8 << 10];
    loop {
        match fill(reader, &mut buffer).map_err(|e| Refused::whole(sutler_base::told(&e)))? {
            0 => return Ok(()),
            n if buffer[..n].iter().all(|b| *b == 0) => {}
            _ => return Err(Refused::whole("more follows after its end")),
        }
    }
}
