//! How messages become bytes: as tonic does it, with buffers that are no larger than what is in them.
//!
//! A stream keeps its buffers as long as it is open, and a manager has a stream of each agent that is idle nearly all of its life: of
//! the 16 KiB that tonic gives to each nothing would ever be used. A large message gets its room at once, instead of growing into it.

use prost::Message;
use std::marker::PhantomData;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

/// How large a stream's buffers are at first, and by how much they grow at least (bytes).
const BUFFER: usize = 512;
/// Small messages that are there at the same time are sent together, until they are as large as this (bytes).
const TOGETHER: usize = 32 << 10;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER, TOGETHER)
}

/// The codec of all methods.
#[derive(Debug, Clone, Default)]
pub struct SizedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Codec for SizedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SizedEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> SizedEncoder<T> {
        SizedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(buffers())
    }
}

/// Writes messages.
#[derive(Debug, Clone, Default)]
pub struct SizedEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for SizedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(format!("a message does not fit: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
