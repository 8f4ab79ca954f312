//! What a machine says is installed on it is bounded, in however many reports it says so.

use super::{World, agents, said};
use bytes::Bytes;
use serde_json::{Map, Value};
use sutler_base::{Digest, facts::entries};
use sutler_proto::v1::{FactsReport, connect_request::Message as Up};
use sutler_tests::harness::{Api, PATIENCE, wait_until};
use tonic::Code;

/// So many packages with names of this kind: there (true), or gone (null).
fn packages(kind: &str, count: u64, there: &Value) -> Map<String, Value> {
    (0..count).map(|n| (format!("dpkg {kind}{n} 1 "), there.clone())).collect()
}

/// A change of the facts that have the digest `base`.
fn change(base: Digest, packages: Map<String, Value>) -> (Up, Digest) {
    let json = serde_json::json!({ "packages": packages }).to_string();
    let digest = Digest::of(json.as_bytes());
    let bytes = |digest: Digest| Bytes::copy_from_slice(digest.as_bytes());
    (Up::Facts(FactsReport { json, base: bytes(base), digest: bytes(digest) }), digest)
}

#[test]
fn packages_that_were_never_there_make_no_room_for_others_when_they_are_said_to_be_gone() {
    let world = World::new();
    let (api, _) = Api::client(&agents::token(&world), "machine-2");
    let known = |name: &str| world.cli.json(&format!("software list {name}")).as_array().is_some_and(|rows| !rows.is_empty());
    let mut stream = agents::welcomed(&api, "machine-2", 1);
    let all = serde_json::json!({ "packages": packages("have", entries::PACKAGES, &true.into()) }).to_string();
    let whole = Digest::of(all.as_bytes());
    stream.send(Up::Facts(FactsReport { json: all, ..Default::default() }));
    wait_until("as many as there may be", PATIENCE, || known("have19999"));

    let mut more = packages("never", 500, &Value::Null);
    more.extend(packages("more", 500, &true.into()));
    stream.send(change(whole, more).0);
    let refused = stream.end();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(said(&refused).contains(&format!("facts.packages: has at most {} entries", entries::PACKAGES)), "{}", said(&refused));
    assert!(!known("more0") && known("have0"), "nothing of it was taken");

    // What is gone makes room.
    let mut exchanged = packages("have", 500, &Value::Null);
    exchanged.extend(packages("more", 500, &true.into()));
    let stream = agents::welcomed(&api, "machine-2", 2);
    stream.send(change(whole, exchanged).0);
    wait_until("the others", PATIENCE, || known("more499") && !known("have0"));
}
