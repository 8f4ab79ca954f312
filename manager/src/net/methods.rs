//! What the API's methods are called in the metrics, and which of them are streams: read from the API's own description.

use prost::Message;
use prost_types::FileDescriptorSet;
use std::{collections::HashMap, sync::LazyLock};

/// One method of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// `Service/Method`, for metrics and the log; `other` for what is no method of the API.
    pub(crate) label: &'static str,
    /// Either side sends a stream: there is no deadline but the caller's.
    pub(crate) streams: bool,
}

/// What stands for every path that is no method: callers can't make new labels.
const OTHER: Method = Method { label: "other", streams: false };

/// Methods of services that are not ours.
const FOREIGN: [(&str, Method); 4] = [
    ("/grpc.health.v1.Health/Check", Method { label: "Health/Check", streams: false }),
    ("/grpc.health.v1.Health/Watch", Method { label: "Health/Watch", streams: true }),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Method { label: "ServerReflection/Info", streams: true }),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Method { label: "ServerReflection/Info", streams: true }),
];

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let mut methods: HashMap<String, Method> = FOREIGN.into_iter().map(|(path, method)| (path.to_owned(), method)).collect();
    let files = FileDescriptorSet::decode(sutler_proto::DESCRIPTORS).unwrap_or_default();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                // Made once for the life of the process.
                let label = String::leak(format!("{}/{}", service.name(), method.name()));
                methods.insert(path, Method { label, streams: method.client_streaming() || method.server_streaming() });
            }
        }
    }
    methods
});

/// The method that this path calls.
pub(crate) fn method(path: &str) -> Method {
    METHODS.get(path).copied().unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_known_from_the_apis_description() {
        assert_eq!(method("/sutler.v1.GroupService/CreateGroup"), Method { label: "GroupService/CreateGroup", streams: false });
        for path in ["AgentService/Connect", "AgentService/ReadChunks", "JobService/WatchJob", "PackageService/PushPackage"] {
            assert!(method(&format!("/sutler.v1.{path}")).streams, "{path}");
        }
        assert_eq!(method("/sutler.v1.GroupService/Nothing"), OTHER);
        assert_eq!(method(""), OTHER);
    }
}
