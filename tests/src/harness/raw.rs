//! Calls by the name of the method with any bytes as the message, for what no generated client would send.

use super::api::Api;
use super::wait::PATIENCE;
use bytes::{Buf, BufMut, Bytes};
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use std::sync::LazyLock;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(sutler_proto::DESCRIPTORS).expect("the descriptors were made by the build"));

/// Everything that the API's description has.
pub fn descriptors() -> &'static DescriptorPool {
    &POOL
}

/// The method that `GroupService/CreateGroup` names.
///
/// # Panics
///
/// When there is none.
pub fn method(name: &str) -> MethodDescriptor {
    let (service, method) = name.split_once('/').unwrap_or_else(|| panic!("{name} is not written Service/Method"));
    let service = POOL.get_service_by_name(&format!("sutler.v1.{service}")).unwrap_or_else(|| panic!("there is no service {service}"));
    service.methods().find(|m| m.name() == method).unwrap_or_else(|| panic!("there is no method {name}"))
}

/// Sends bytes as they are, and hands out bytes as they came.
struct AsItIs;

impl Codec for AsItIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = AsItIs;
    type Decoder = AsItIs;

    fn encoder(&mut self) -> AsItIs {
        AsItIs
    }

    fn decoder(&mut self) -> AsItIs {
        AsItIs
    }
}

impl Encoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

impl Api {
    /// Calls `Service/Method` with these messages, and gives back the first answer; none, if the call ended well without one.
    ///
    /// # Panics
    ///
    /// When there is no answer in time.
    pub fn send(&self, method: &str, messages: Vec<Bytes>) -> Result<Option<Bytes>, Status> {
        let path = format!("/sutler.v1.{method}").parse().expect("it is a path");
        let connection = self.raw();
        self.block_on(async move {
            let call = async {
                let origin = connection.origin();
                let mut grpc = tonic::client::Grpc::with_origin(connection, origin).max_decoding_message_size(64 << 20);
                grpc.ready().await.map_err(|e| Status::unavailable(format!("the connection is gone: {e}")))?;
                let answer = grpc.streaming(Request::new(tokio_stream::iter(messages)), path, AsItIs).await?;
                answer.into_inner().message().await
            };
            tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("{method} did not answer"))
        })
    }

    /// Calls `Service/Method` with a message written as JSON, as with grpcurl.
    ///
    /// # Panics
    ///
    /// When the JSON is none of the method's request.
    pub fn send_json(&self, name: &str, json: &str) -> Result<DynamicMessage, Status> {
        let method = method(name);
        let mut from = serde_json::Deserializer::from_str(json);
        let request = DynamicMessage::deserialize(method.input(), &mut from).unwrap_or_else(|e| panic!("{name}: {json}: {e}"));
        let answer = self.send(name, vec![request.encode_to_vec().into()])?.unwrap_or_default();
        Ok(DynamicMessage::decode(method.output(), answer).expect("the answer is of the method's type"))
    }
}
