//! Puts parts together to objects, in the order in which they were asked for, each within its bound.

use super::FetchError;
use crate::installer::failure;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sutler_base::state::ErrorKind;
use sutler_proto::v1::{Encoding, ObjectPart};

fn wrong(why: impl Into<String>) -> FetchError {
    FetchError::Never(failure(ErrorKind::ContentMismatch, why))
}

/// How many buffers wait to be used again: one for whoever receives, and as many as come back while it is at it.
const SPARE: usize = 4;

/// Buffers that are used again: as large as objects are, an allocator has each of them from the kernel, page by page, and gives it back.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer.
    fn take(&self) -> Vec<u8> {
        self.spare().pop().unwrap_or_default()
    }

    /// Takes the buffer of an object that is not needed any more.
    pub(super) fn give_back(&self, object: Object) {
        let mut data = object.data;
        data.clear();
        let mut spare = self.spare();
        if spare.len() < SPARE {
            spare.push(data);
        }
    }
}

/// One object as it came.
pub(super) struct Object {
    encoding: Encoding,
    data: Vec<u8>,
    most: u64,
}

impl Object {
    /// The object's bytes. Never more than its bound, however small what came is. What has to be decompressed goes into the buffer.
    pub(super) fn decode<'a>(&'a self, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], FetchError> {
        let most = usize::try_from(self.most).map_err(|_| wrong("an object is larger than this machine can address"))?;
        let bytes = match self.encoding {
            Encoding::Identity => &self.data,
            Encoding::Zstd => {
                buffer.clear();
                // The frame may say how much it holds; what it really holds is bounded all the same.
                let said = zstd::zstd_safe::get_frame_content_size(&self.data).ok().flatten();
                if said.is_some_and(|s| s > self.most) {
                    return Err(wrong(format!("an object claims more than the {most} bytes that it may have")));
                }
                buffer.reserve_exact(said.map_or(most, |s| s as usize));
                let mut decoder = zstd::stream::read::Decoder::new(&self.data[..])
                    .map_err(|e| wrong(format!("an object can't be decompressed: {e}")))?
                    .single_frame();
                let bounded = &mut std::io::Read::take(&mut decoder, self.most.saturating_add(1));
                std::io::Read::read_to_end(bounded, buffer).map_err(|e| wrong(format!("an object can't be decompressed: {e}")))?;
                &*buffer
            }
            Encoding::Unspecified => return Err(wrong("an object's encoding is not known here; a newer agent is needed")),
        };
        if bytes.len() > most {
            return Err(wrong(format!("an object has more than the {most} bytes that it may have")));
        }
        Ok(bytes)
    }

    /// The same for whoever keeps them.
    pub(super) fn into_bytes(self) -> Result<Vec<u8>, FetchError> {
        let mut buffer = Vec::new();
        self.decode(&mut buffer)?;
        Ok(if self.encoding == Encoding::Identity { self.data } else { buffer })
    }
}

/// The objects of one question.
pub(super) struct Assembler {
    buffers: Arc<Buffers>,
    most: Vec<u64>,
    next: usize,
    open: Option<Object>,
    held: u64,
}

impl Assembler {
    /// Objects with these bounds are expected, in this order.
    pub(super) fn new(buffers: Arc<Buffers>, most: Vec<u64>) -> Assembler {
        Assembler { buffers, most, next: 0, open: None, held: 0 }
    }

    /// Takes a part; gives the object that it completed.
    pub(super) fn add(&mut self, part: ObjectPart) -> Result<Option<(usize, Object)>, FetchError> {
        let Some(most) = self.most.get(self.next).copied().filter(|_| part.index as usize == self.next) else {
            return Err(wrong(format!("a part of object {} came where one of object {} was due", part.index, self.next)));
        };
        let encoding = Encoding::try_from(part.encoding).unwrap_or(Encoding::Unspecified);
        let object = self.open.get_or_insert_with(|| Object { encoding, data: self.buffers.take(), most });
        if object.encoding != encoding {
            return Err(wrong("the parts of an object have different encodings"));
        }
        // Compressed bytes that are more than the object are a lie or a waste: frames have a few bytes of their own.
        self.held += part.data.len() as u64;
        if self.held > most + most / 64 + 1024 || (part.data.is_empty() && !part.last) {
            return Err(wrong(format!("more came for an object than the {most} bytes that it may have")));
        }
        // Copied at once: the buffer in which the message came is used for the next one as soon as nobody refers to it.
        object.data.extend_from_slice(&part.data);
        if !part.last {
            return Ok(None);
        }
        let index = self.next;
        self.next += 1;
        self.held = 0;
        Ok(self.open.take().map(|object| (index, object)))
    }

    /// Everything that was asked for must have come.
    pub(super) fn finish(self) -> Result<(), FetchError> {
        match self.next == self.most.len() {
            true => Ok(()),
            // The stream may have been cut at a clean place: asking again is right.
            false => Err(FetchError::Later(format!("{} of {} objects came", self.next, self.most.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn part(index: u32, encoding: Encoding, data: &[u8], last: bool) -> ObjectPart {
        ObjectPart { index, encoding: encoding as i32, data: Bytes::copy_from_slice(data), last }
    }

    fn expecting(most: Vec<u64>) -> Assembler {
        Assembler::new(Arc::default(), most)
    }

    #[test]
    fn parts_become_the_objects_that_were_asked_for() {
        let text = vec![7u8; 1000];
        let packed = zstd::bulk::compress(&text, 3).unwrap();
        let mut assembler = expecting(vec![3, 1000]);
        assert!(assembler.add(part(0, Encoding::Identity, b"a", false)).unwrap().is_none());
        let (index, object) = assembler.add(part(0, Encoding::Identity, b"bc", true)).unwrap().unwrap();
        assert_eq!((index, object.into_bytes().unwrap()), (0, b"abc".to_vec()));
        let (index, object) = assembler.add(part(1, Encoding::Zstd, &packed, true)).unwrap().unwrap();
        assert_eq!((index, object.into_bytes().unwrap()), (1, text));
        assembler.finish().unwrap();
    }

    #[test]
    fn a_buffer_is_used_again_and_has_nothing_of_what_was_in_it() {
        let buffers = Arc::<Buffers>::default();
        let mut assembler = Assembler::new(buffers.clone(), vec![1000, 1000]);
        let (_, first) = assembler.add(part(0, Encoding::Identity, &[1; 1000], true)).unwrap().unwrap();
        let place = first.data.as_ptr();
        buffers.give_back(first);
        let (_, second) = assembler.add(part(1, Encoding::Identity, &[2; 10], true)).unwrap().unwrap();
        assert_eq!((second.data.as_ptr(), second.into_bytes().unwrap()), (place, vec![2; 10]));
    }

    #[test]
    fn a_bomb_a_flood_and_a_wrong_order_are_refused() {
        let bomb = zstd::bulk::compress(&vec![0u8; 10 << 20], 3).unwrap();
        let mut assembler = expecting(vec![1000]);
        let (_, object) = assembler.add(part(0, Encoding::Zstd, &bomb, true)).unwrap().unwrap();
        assert!(matches!(object.into_bytes(), Err(FetchError::Never(f)) if f.kind == ErrorKind::ContentMismatch));
        assert!(expecting(vec![10]).add(part(0, Encoding::Identity, &[0; 4096], false)).is_err());
        assert!(expecting(vec![10, 10]).add(part(1, Encoding::Identity, b"x", true)).is_err());
        assert!(expecting(vec![10]).add(part(0, Encoding::Identity, b"", false)).is_err());
        assert!(matches!(expecting(vec![10]).finish(), Err(FetchError::Later(_))));
    }
}
