//! Who may call which method, as the API's own description says it.

use crate::{DESCRIPTORS, convert::Word, v1};
use prost::Message;
use std::{collections::BTreeSet, sync::LazyLock};
use sutler_base::{Invalid, state::Role};

/// What a method of the API is, and who may call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// `/package.Service/Method`, as it is called.
    pub path: String,
    /// `Service/Method`, for people.
    pub label: String,
    /// Either side sends a stream.
    pub streams: bool,
    /// Who may call it.
    pub access: Access,
}

/// Who may call a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who.
    pub caller: Caller,
    /// Of operators, those with one of these roles; `ADMIN` is always among them. None for other callers.
    pub roles: BTreeSet<Role>,
    /// What the scope of an operator's role means; [`Scope::Any`] for other callers.
    pub scope: Scope,
    /// Also callers whose certificate has ended a while ago.
    pub ended_certificate: bool,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    /// Without a certificate.
    Nobody,
    /// An agent.
    Agent,
    /// An operator.
    Operator,
}

/// What the scope of a role means for a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Nothing.
    Any,
    /// It reaches jobs within the scope.
    Within,
    /// A role without a scope is needed where the request places clients in groups.
    Placing,
    /// A role without a scope is needed.
    Unscoped,
}

/// Every method, in the order of the files. The build has checked that each says who may call it.
pub fn methods() -> &'static [Method] {
    static METHODS: LazyLock<Vec<Method>> = LazyLock::new(|| read(DESCRIPTORS).expect("the descriptors were checked by the build"));
    &METHODS
}

/// The methods in a `google.protobuf.FileDescriptorSet`. One that does not say who may call it is an error.
pub fn read(descriptors: &[u8]) -> Result<Vec<Method>, Invalid> {
    let set = Set::decode(descriptors).map_err(|e| Invalid::new(format!("the description of the API can't be read: {e}")))?;
    let mut methods = Vec::new();
    for file in set.file {
        for service in file.service {
            for method in service.method {
                let label = format!("{}/{}", service.name, method.name);
                let access = method.options.and_then(|o| o.access).and_then(|a| access(&a));
                methods.push(Method {
                    path: format!("/{}.{label}", file.package),
                    streams: method.client_streaming || method.server_streaming,
                    access: access.ok_or_else(|| Invalid::new(format!("{label} does not say who may call it")))?,
                    label,
                });
            }
        }
    }
    Ok(methods)
}

fn access(wire: &v1::Access) -> Option<Access> {
    let caller = match v1::Caller::try_from(wire.caller).ok()? {
        v1::Caller::Unspecified => return None,
        v1::Caller::Nobody => Caller::Nobody,
        v1::Caller::Agent => Caller::Agent,
        v1::Caller::Operator => Caller::Operator,
    };
    let scope = match (caller, v1::Scope::try_from(wire.scope).ok()?) {
        (Caller::Operator, v1::Scope::Unspecified) => return None,
        (_, v1::Scope::Unspecified | v1::Scope::Any) => Scope::Any,
        (_, v1::Scope::Within) => Scope::Within,
        (_, v1::Scope::Placing) => Scope::Placing,
        (_, v1::Scope::Unscoped) => Scope::Unscoped,
    };
    let mut roles = wire.roles.iter().map(|r| Role::from_wire(*r).ok().flatten()).collect::<Option<BTreeSet<_>>>()?;
    if caller == Caller::Operator {
        roles.insert(Role::Admin);
    }
    Some(Access { caller, roles, scope, ended_certificate: wire.ended_certificate })
}

// So much of `google.protobuf.FileDescriptorSet` as is needed: the types of prost know no extensions.

#[derive(Clone, PartialEq, prost::Message)]
struct Set {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    service: Vec<Service>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<WireMethod>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMethod {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    options: Option<Options>,
    #[prost(bool, tag = "5")]
    client_streaming: bool,
    #[prost(bool, tag = "6")]
    server_streaming: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Options {
    /// `sutler.v1.access`
    #[prost(message, optional, tag = "73001")]
    access: Option<v1::Access>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_says_who_may_call_it() {
        let methods = read(DESCRIPTORS).unwrap();
        let named = |label: &str| methods.iter().find(|m| m.label == label).unwrap_or_else(|| panic!("{label}")).clone();
        assert!(methods.len() > 50, "{}", methods.len());
        assert_eq!(named("EnrollmentService/Enroll").access.caller, Caller::Nobody);
        assert!(named("AgentService/RenewCertificate").access.ended_certificate);
        let watch = named("JobService/WatchJob");
        assert!(watch.streams && watch.path == "/sutler.v1.JobService/WatchJob");
        assert_eq!(watch.access.roles, BTreeSet::from([Role::Viewer, Role::Deployer, Role::Approver, Role::Admin]));
        assert_eq!(watch.access.scope, Scope::Within);
    }

    #[test]
    fn what_callers_without_a_certificate_or_with_an_ended_one_reach_is_one_method_each() {
        let reached = |wanted: fn(&Access) -> bool| -> Vec<&str> {
            methods().iter().filter(|m| wanted(&m.access)).map(|m| m.label.as_str()).collect()
        };
        assert_eq!(reached(|a| a.caller == Caller::Nobody), ["EnrollmentService/Enroll"]);
        let renewals = ["AgentService/RenewCertificate", "OperatorService/RenewOperatorCertificate"];
        assert_eq!(reached(|a| a.ended_certificate), renewals);
    }

    #[test]
    fn a_method_that_does_not_say_who_may_call_it_is_an_error() {
        let silent = |access: Option<v1::Access>| {
            let method = WireMethod { name: "Do".into(), options: Some(Options { access }), ..Default::default() };
            let service = Service { name: "S".into(), method: vec![method] };
            read(&Set { file: vec![File { package: "p".into(), service: vec![service] }] }.encode_to_vec())
        };
        let operator = v1::Access { caller: v1::Caller::Operator.into(), ..Default::default() };
        for wrong in [None, Some(v1::Access::default()), Some(operator.clone()), Some(v1::Access { caller: 77, ..Default::default() })] {
            assert!(silent(wrong.clone()).is_err(), "{wrong:?}");
        }
        let right = silent(Some(v1::Access { scope: v1::Scope::Any.into(), ..operator })).unwrap();
        assert_eq!(right[0].access.roles, BTreeSet::from([Role::Admin]));
    }
}
