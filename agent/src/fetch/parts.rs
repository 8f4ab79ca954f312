//! Puts parts together to objects, in the order in which they were asked for, each within its bound.

use super::FetchError;
use crate::installer::failure;
use bytes::Bytes;
use std::{borrow::Cow, ops::Deref};
use sutler_base::state::ErrorKind;
use sutler_proto::v1::{Encoding, ObjectPart};

fn wrong(why: impl Into<String>) -> FetchError {
    FetchError::Never(failure(ErrorKind::ContentMismatch, why))
}

/// One object as it came.
pub(super) struct Object {
    encoding: Encoding,
    data: Data,
    most: u64,
}

/// An object's bytes as they travelled.
enum Data {
    /// In the message in which they came.
    Whole(Bytes),
    /// Copied together: small parts of many messages would keep all of these.
    Joined(Vec<u8>),
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Data::Whole(bytes) => bytes,
            Data::Joined(bytes) => bytes,
        }
    }
}

impl Data {
    fn join(&mut self, more: &[u8]) {
        match self {
            Data::Whole(bytes) => *self = Data::Joined([bytes, more].concat()),
            Data::Joined(bytes) => bytes.extend_from_slice(more),
        }
    }
}

impl Object {
    /// The most bytes that it can have.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// The object's bytes, never more than its bound, however small what came is. Copied is only what has to be decompressed.
    pub(super) fn decode(&self) -> Result<Cow<'_, [u8]>, FetchError> {
        let most = usize::try_from(self.most).map_err(|_| wrong("an object is larger than this machine can address"))?;
        let bytes = match self.encoding {
            Encoding::Identity => Cow::Borrowed(&*self.data),
            Encoding::Zstd => {
                // The frame may say how much it holds; what it really holds is bounded all the same.
                let said = zstd::zstd_safe::get_frame_content_size(&self.data).ok().flatten();
                if said.is_some_and(|s| s > self.most) {
                    return Err(wrong(format!("an object claims more than the {most} bytes that it may have")));
                }
                let mut bytes = Vec::with_capacity(said.map_or(most, |s| s as usize));
                let mut decoder = zstd::stream::read::Decoder::new(&self.data[..])
                    .map_err(|e| wrong(format!("an object can't be decompressed: {e}")))?
                    .single_frame();
                let bounded = &mut std::io::Read::take(&mut decoder, self.most.saturating_add(1));
                std::io::Read::read_to_end(bounded, &mut bytes).map_err(|e| wrong(format!("an object can't be decompressed: {e}")))?;
                Cow::Owned(bytes)
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
        if let Cow::Owned(bytes) = self.decode()? {
            return Ok(bytes);
        }
        Ok(match self.data {
            Data::Whole(bytes) => bytes.into(),
            Data::Joined(bytes) => bytes,
        })
    }
}

/// The objects of one question.
pub(super) struct Assembler {
    most: Vec<u64>,
    next: usize,
    open: Option<Object>,
    held: u64,
}

impl Assembler {
    /// Objects with these bounds are expected, in this order.
    pub(super) fn new(most: Vec<u64>) -> Assembler {
        Assembler { most, next: 0, open: None, held: 0 }
    }

    /// Takes a part; gives the object that it completed.
    pub(super) fn add(&mut self, part: ObjectPart) -> Result<Option<(usize, Object)>, FetchError> {
        let Some(most) = self.most.get(self.next).copied().filter(|_| part.index as usize == self.next) else {
            return Err(wrong(format!("a part of object {} came where one of object {} was due", part.index, self.next)));
        };
        let encoding = Encoding::try_from(part.encoding).unwrap_or(Encoding::Unspecified);
        if self.open.as_ref().is_some_and(|object| object.encoding != encoding) {
            return Err(wrong("the parts of an object have different encodings"));
        }
        // Compressed bytes that are more than the object are a lie or a waste: frames have a few bytes of their own.
        self.held += part.data.len() as u64;
        if self.held > most + most / 64 + 1024 || (part.data.is_empty() && !part.last) {
            return Err(wrong(format!("more came for an object than the {most} bytes that it may have")));
        }
        let object = match self.open.take() {
            None => Object { encoding, data: Data::Whole(part.data), most },
            Some(mut object) => {
                object.data.join(&part.data);
                object
            }
        };
        if !part.last {
            self.open = Some(object);
            return Ok(None);
        }
        let index = self.next;
        self.next += 1;
        self.held = 0;
        Ok(Some((index, object)))
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

    fn part(index: u32, encoding: Encoding, data: &[u8], last: bool) -> ObjectPart {
        ObjectPart { index, encoding: encoding as i32, data: Bytes::copy_from_slice(data), last }
    }

    #[test]
    fn parts_become_the_objects_that_were_asked_for() {
        let text = vec![7u8; 1000];
        let packed = zstd::bulk::compress(&text, 3).unwrap();
        let mut assembler = Assembler::new(vec![3, 1000]);
        assert!(assembler.add(part(0, Encoding::Identity, b"a", false)).unwrap().is_none());
        let (index, object) = assembler.add(part(0, Encoding::Identity, b"bc", true)).unwrap().unwrap();
        assert_eq!((index, object.into_bytes().unwrap()), (0, b"abc".to_vec()));
        let (index, object) = assembler.add(part(1, Encoding::Zstd, &packed, true)).unwrap().unwrap();
        assert_eq!((index, object.into_bytes().unwrap()), (1, text));
        assembler.finish().unwrap();
    }

    #[test]
    fn what_came_whole_is_not_copied_and_what_came_in_parts_keeps_no_message() {
        let message = Bytes::from(vec![7; 1000]);
        let sent = |data: Bytes, last| ObjectPart { index: 0, encoding: Encoding::Identity as i32, data, last };
        let (_, whole) = Assembler::new(vec![1000]).add(sent(message.slice(10..), true)).unwrap().unwrap();
        assert_eq!(whole.decode().unwrap().as_ptr(), message[10..].as_ptr());
        drop(whole);
        let mut assembler = Assembler::new(vec![1000]);
        for end in [1, 2, 3] {
            assert!(assembler.add(sent(message.slice(..end), false)).unwrap().is_none());
        }
        assert!(message.is_unique());
        let (_, joined) = assembler.add(sent(message.slice(..994), true)).unwrap().unwrap();
        assert!(message.is_unique());
        assert_eq!(joined.into_bytes().unwrap(), vec![7; 1000]);
    }

    #[test]
    fn a_bomb_a_flood_and_a_wrong_order_are_refused() {
        let bomb = zstd::bulk::compress(&vec![0u8; 10 << 20], 3).unwrap();
        let mut assembler = Assembler::new(vec![1000]);
        let (_, object) = assembler.add(part(0, Encoding::Zstd, &bomb, true)).unwrap().unwrap();
        assert!(matches!(object.into_bytes(), Err(FetchError::Never(f)) if f.kind == ErrorKind::ContentMismatch));
        assert!(Assembler::new(vec![10]).add(part(0, Encoding::Identity, &[0; 4096], false)).is_err());
        assert!(Assembler::new(vec![10, 10]).add(part(1, Encoding::Identity, b"x", true)).is_err());
        assert!(Assembler::new(vec![10]).add(part(0, Encoding::Identity, b"", false)).is_err());
        assert!(matches!(Assembler::new(vec![10]).finish(), Err(FetchError::Later(_))));
    }
}
