//! What the API's methods are called in the metrics, which of them are streams, and who may call them: read from the API's
//! own description.

use std::{collections::HashMap, sync::LazyLock};
use sutler_base::state::Role;
use sutler_proto::access::{self, Access, Caller, Scope};

/// One method of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// `Service/Method`, for metrics and the log; `other` for what is no method of the API.
    pub(crate) label: &'static str,
    /// Either side sends a stream: there is no deadline but the caller's.
    pub(crate) streams: bool,
    /// Who may call it; none for what is no method.
    pub(crate) access: Option<&'static Access>,
}

/// What stands for every path that is no method: callers can't make new labels.
const OTHER: Method = Method { label: "other", streams: false, access: None };

/// Methods of services that are not ours, with their labels and whether they are streams. They are for every operator.
const FOREIGN: [(&str, &str, bool); 4] = [
    ("/grpc.health.v1.Health/Check", "Health/Check", false),
    ("/grpc.health.v1.Health/Watch", "Health/Watch", true),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "ServerReflection/Info", true),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "ServerReflection/Info", true),
];

static OPERATORS: LazyLock<Access> = LazyLock::new(|| Access {
    caller: Caller::Operator,
    roles: Role::ALL.iter().copied().collect(),
    scope: Scope::Any,
    ended_certificate: false,
});

static METHODS: LazyLock<HashMap<&str, Method>> = LazyLock::new(|| {
    let foreign = FOREIGN.iter().map(|(path, label, streams)| (*path, Method { label, streams: *streams, access: Some(&OPERATORS) }));
    let ours = access::methods().iter().map(|m| (m.path.as_str(), Method { label: &m.label, streams: m.streams, access: Some(&m.access) }));
    foreign.chain(ours).collect()
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
        let create = method("/sutler.v1.GroupService/CreateGroup");
        assert!(create.label == "GroupService/CreateGroup" && !create.streams);
        for path in ["AgentService/Connect", "AgentService/ReadChunks", "JobService/WatchJob", "PackageService/PushPackage"] {
            assert!(method(&format!("/sutler.v1.{path}")).streams, "{path}");
        }
        assert_eq!(method("/sutler.v1.GroupService/Nothing"), OTHER);
        assert_eq!(method(""), OTHER);
    }
}
