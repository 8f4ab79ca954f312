//! The cases of TUF's conformance suite that apply here, by name: what is signed too little, by others, twice, out of order,
//! too late, or as something else.

use crate::{
    Envelope, PublisherKey, RevocationList, SignedRevocations, SignedTrustDocument, TrustDocument,
    envelope::{MANIFEST_TYPE, pae, sign_with},
    publisher::PublisherPublicKey,
    revocations::{Minimum, REVOCATIONS_TYPE, Revoked, Target},
    trust::{Change, PublisherSet, TRUST_TYPE},
    verify_manifest,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::collections::HashSet;
use sutler_base::{Digest, Timestamp};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-06-01T00:00:00Z")
}

fn ends() -> Timestamp {
    at("2027-01-01T00:00:00Z")
}

fn over() -> Timestamp {
    at("2026-01-01T00:00:00Z")
}

/// Keys by number: 0 to 2 sign the first document (two of three), 3 to 5 the next one, 8 and 9 are strangers.
struct World {
    keys: Vec<PublisherKey>,
    first: TrustDocument,
}

impl World {
    fn new() -> World {
        let keys: Vec<PublisherKey> = (0..10).map(|_| PublisherKey::generate().unwrap()).collect();
        let first = TrustDocument::new(1, 1, &public(&keys[..3]), 2, &[""], ends()).unwrap();
        World { keys, first }
    }

    fn of(&self, numbers: &[usize]) -> Vec<&PublisherKey> {
        numbers.iter().map(|n| &self.keys[*n]).collect()
    }

    fn change(&self) -> Change {
        Change {
            keys: public(&self.keys[3..6]),
            threshold: 2,
            prefixes: vec![String::new()],
            publishers: vec![],
            expires: ends(),
            new_epoch: false,
        }
    }

    fn next(&self) -> TrustDocument {
        self.first.follow(self.change()).unwrap()
    }

    /// What the first document makes of another one.
    fn takes(&self, signed: &SignedTrustDocument) -> Result<(), String> {
        self.first.next(&through_json(signed)?).map(|_| ()).map_err(|e| e.to_string())
    }

    /// A trust document of any content, signed for real by these keys.
    fn forged(&self, change: impl Fn(&mut Value), signers: &[usize]) -> Result<(), String> {
        let good: Value = serde_json::from_slice(&self.next().sign(&[]).to_json()).unwrap();
        let mut inner: Value = serde_json::from_slice(&STANDARD.decode(good["payload"].as_str().unwrap()).unwrap()).unwrap();
        change(&mut inner);
        let bytes = serde_json::to_vec(&inner).unwrap();
        let signatures = sign_with(&self.of(signers), &pae(TRUST_TYPE, &bytes));
        let json = json!({ "payload_type": TRUST_TYPE, "payload": STANDARD.encode(bytes), "signatures": signatures });
        let signed = SignedTrustDocument::from_json(json.to_string().as_bytes()).map_err(|e| e.to_string())?;
        self.takes(&signed)
    }

    fn list(&self, epoch: u64, version: u64, expires: Timestamp) -> RevocationList {
        RevocationList::new(epoch, version, vec![], vec![], expires).unwrap()
    }

    fn lists(&self, signed: &SignedRevocations, held: Option<&RevocationList>) -> Result<(), String> {
        let signed = SignedRevocations::from_json(&signed.to_json()).map_err(|e| e.to_string())?;
        signed.open(&self.first, held).map(|_| ()).map_err(|e| e.to_string())
    }

    fn package(&self, manifest: &[u8], signers: &[usize], change: impl Fn(&mut Envelope)) -> Result<(), String> {
        let mut envelope = Envelope::sign(manifest, &self.of(signers));
        change(&mut envelope);
        let envelope = Envelope::from_json(&envelope.to_json()).map_err(|e| e.to_string())?;
        verify_manifest(&self.first, &envelope, manifest, now()).map_err(|e| e.to_string())
    }
}

fn public(keys: &[PublisherKey]) -> Vec<PublisherPublicKey> {
    keys.iter().map(PublisherKey::public_key).collect()
}

fn through_json(signed: &SignedTrustDocument) -> Result<SignedTrustDocument, String> {
    SignedTrustDocument::from_json(&signed.to_json()).map_err(|e| e.to_string())
}

/// The signed JSON, changed from the outside.
fn outside(json: Vec<u8>, change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(&json).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

fn manifest(name: &str) -> Vec<u8> {
    json!({ "format": 1, "name": name, "version": "1", "release": 1, "files": [] }).to_string().into_bytes()
}

type Case = (&'static str, Result<(), String>, Option<&'static str>);

/// Each case has its expected end: taken, or refused with these words.
fn all_as_expected(cases: Vec<Case>) {
    let names: HashSet<&str> = cases.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let mut wrong = vec![];
    for (name, result, expected) in cases {
        match (&result, expected) {
            (Ok(()), None) => {}
            (Err(why), Some(words)) if why.contains(words) => {}
            _ => wrong.push(format!("{name}: {result:?}, not {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_trust_document_follows_the_one_before_it_or_is_refused() {
    let w = World::new();
    let next = w.next();
    let sign = |numbers: &[usize]| next.sign(&w.of(numbers));
    let invalid = |good: &[usize], bad: usize| {
        let mut json = sign(good).to_json();
        json = outside(json, |v| {
            let mut signature = v["signatures"][0].clone();
            signature["key_id"] = json!(w.keys[bad].key_id().as_str());
            v["signatures"].as_array_mut().unwrap().insert(0, signature);
        });
        SignedTrustDocument::from_json(&json).map_err(|e| e.to_string()).and_then(|s| w.takes(&s))
    };
    let same_key_twice = |value: &mut Value| {
        let key = value["keys"][0].clone();
        value["keys"] = json!([key.clone(), key]);
    };
    let another = |change: Change| w.first.follow(change).map_err(|e| e.to_string()).and_then(|d| w.takes(&d.sign(&w.of(&[0, 1, 3, 4]))));
    all_as_expected(vec![
        ("enough of both", w.takes(&sign(&[0, 1, 3, 4])), None),
        ("more than enough", w.takes(&sign(&[0, 1, 2, 3, 4, 5])), None),
        ("a stranger's signature beside enough good ones", w.takes(&sign(&[8, 0, 1, 3, 4])), None),
        ("nobody", w.takes(&sign(&[])), Some("0 of the keys before it")),
        ("too few of the old keys", w.takes(&sign(&[0, 3, 4, 5])), Some("1 of the keys before it")),
        ("too few of the new keys", w.takes(&sign(&[0, 1, 2, 3])), Some("1 of its own keys")),
        ("only the new keys", w.takes(&sign(&[3, 4, 5])), Some("0 of the keys before it")),
        ("only strangers", w.takes(&sign(&[8, 9])), Some("0 of the keys before it")),
        ("one signature twice", w.takes(&sign(&[0, 0, 3, 4])), Some("1 of the keys before it")),
        ("one signature under two key ids", invalid(&[0, 3, 4], 1), Some("1 of the keys before it")),
        ("an invalid one among enough valid ones", invalid(&[0, 1, 3, 4], 2), None),
        ("an invalid one in place of a needed one", invalid(&[0, 3, 4], 2), Some("1 of the keys before it")),
        ("a key twice in the document", w.forged(same_key_twice, &[0, 1, 3, 4]), Some("is there twice")),
        ("a key under another key id", w.forged(|v| v["keys"][0]["key_id"] = json!("0".repeat(32)), &[0, 1, 3, 4]), Some("is named")),
        ("the version before", w.forged(|v| v["version"] = json!(1), &[0, 1, 3, 4]), Some("has version 1 where 2 follows")),
        ("a version is skipped", w.forged(|v| v["version"] = json!(3), &[0, 1, 3, 4]), Some("has version 3 where 2 follows")),
        ("fast-forward", w.forged(|v| v["version"] = json!(u64::MAX), &[0, 1, 3, 4]), Some("where 2 follows")),
        ("version 0", w.forged(|v| v["version"] = json!(0), &[0, 1, 3, 4]), Some("versions count from 1")),
        ("an epoch back", w.forged(|v| v["epoch"] = json!(0), &[0, 1, 3, 4]), Some("epoch 0 after 1")),
        ("an epoch is skipped", w.forged(|v| v["epoch"] = json!(3), &[0, 1, 3, 4]), Some("epoch 3 after 1")),
        ("the next epoch", another(Change { new_epoch: true, ..w.change() }), None),
        ("threshold 0", w.forged(|v| v["threshold"] = json!(0), &[0, 1, 3, 4]), Some("threshold is 0")),
        ("a threshold above the keys", w.forged(|v| v["threshold"] = json!(4), &[0, 1, 3, 4]), Some("threshold is 4 of 3")),
        ("no keys", w.forged(|v| v["keys"] = json!([]), &[0, 1, 3, 4]), Some("0 keys")),
        ("another format", w.forged(|v| v["format"] = json!(2), &[0, 1, 3, 4]), Some("has format 2")),
        ("a critical member that is not known", w.forged(|v| v["critical"] = json!(["quorum"]), &[0, 1, 3, 4]), Some("needs \"quorum\"")),
        ("a text for a number", w.forged(|v| v["version"] = json!("2"), &[0, 1, 3, 4]), Some("can't be read")),
        ("odd prefixes", w.forged(|v| v["prefixes"] = json!(["../"]), &[0, 1, 3, 4]), Some("no package's name starts with")),
        (
            "a wrong type outside",
            SignedTrustDocument::from_json(&outside(sign(&[0, 1, 3, 4]).to_json(), |v| v["payload_type"] = json!(MANIFEST_TYPE)))
                .map(|_| ())
                .map_err(|e| e.to_string()),
            Some("not application/vnd.sutler.trust"),
        ),
        (
            "a changed byte",
            SignedTrustDocument::from_json(&outside(sign(&[0, 1, 3, 4]).to_json(), |v| {
                let mut bytes = STANDARD.decode(v["payload"].as_str().unwrap()).unwrap();
                bytes[40] ^= 1;
                v["payload"] = json!(STANDARD.encode(bytes));
            }))
            .map_err(|e| e.to_string())
            .and_then(|s| w.takes(&s)),
            Some("0 of the keys before it"),
        ),
        (
            "too many signatures",
            SignedTrustDocument::from_json(&outside(sign(&[0]).to_json(), |v| {
                let one = v["signatures"][0].clone();
                v["signatures"] = json!(vec![one; 65]);
            }))
            .map(|_| ())
            .map_err(|e| e.to_string()),
            Some("more than 64 signatures"),
        ),
        (
            "too long",
            SignedTrustDocument::from_json(&vec![b' '; crate::trust::SIGNED_MAX + 1]).map(|_| ()).map_err(|e| e.to_string()),
            Some("too long"),
        ),
        ("garbage", SignedTrustDocument::from_json(b"[]").map(|_| ()).map_err(|e| e.to_string()), Some("can't be read")),
        (
            "a list of revocations that enough owners signed",
            {
                let list = w.list(1, 2, ends()).sign(&w.of(&[0, 1, 3, 4]));
                let json = outside(list.to_json(), |v| v["payload_type"] = json!(TRUST_TYPE));
                SignedTrustDocument::from_json(&json).map_err(|e| e.to_string()).and_then(|s| w.takes(&s))
            },
            Some("0 of the keys before it"),
        ),
    ]);
}

#[test]
fn an_ended_trust_document_can_be_followed_and_verifies_nothing() {
    let w = World::new();
    let ended = w.first.follow(Change { expires: over(), ..w.change() }).unwrap();
    let taken = w.first.next(&ended.sign(&w.of(&[0, 1, 3, 4]))).unwrap();
    assert!(taken.is_expired(now()));
    let bytes = manifest("clamav");
    let refused = verify_manifest(&taken, &Envelope::sign(&bytes, &w.of(&[3, 4])), &bytes, now());
    assert!(matches!(refused, Err(crate::envelope::ManifestRefused::TrustExpired(_))), "{refused:?}");
    let mended = taken.follow(Change { keys: public(&w.keys[3..6]), ..w.change() }).unwrap();
    let mended = taken.next(&mended.sign(&w.of(&[3, 4]))).unwrap();
    verify_manifest(&mended, &Envelope::sign(&bytes, &w.of(&[3, 4])), &bytes, now()).unwrap();
}

#[test]
fn a_revocation_list_takes_the_place_of_an_older_one_or_is_refused() {
    let w = World::new();
    let list = |version: u64| w.list(1, version, ends());
    let held = list(5);
    let of = |list: &RevocationList, signers: &[usize]| list.sign(&w.of(signers));
    let foreign_type = |payload_type: &str| {
        let document = TrustDocument::new(1, 1, &public(&w.keys[..3]), 2, &[""], ends()).unwrap();
        let json = outside(document.sign(&w.of(&[0, 1])).to_json(), |v| v["payload_type"] = json!(payload_type));
        SignedRevocations::from_json(&json).map_err(|e| e.to_string()).and_then(|s| w.lists(&s, None))
    };
    let minimum = Minimum { package: "a".parse().unwrap(), release: 1 };
    let rule = |result: Result<RevocationList, crate::revocations::RevocationsError>| result.map(|_| ()).map_err(|e| e.to_string());
    let revoked = Revoked { target: Target::Manifest { manifest: Digest::of(b"x") }, reason: "x".repeat(257) };
    let turned = Revoked { reason: "a \u{202e}hole".into(), ..revoked.clone() };
    all_as_expected(vec![
        ("the first", w.lists(&of(&list(1), &[0, 1]), None), None),
        ("a newer one", w.lists(&of(&list(6), &[0, 1]), Some(&held)), None),
        ("a version is skipped", w.lists(&of(&list(60), &[0, 1]), Some(&held)), None),
        ("too few signatures", w.lists(&of(&list(6), &[0]), Some(&held)), Some("1 of the owners' keys")),
        ("one signature twice", w.lists(&of(&list(6), &[0, 0]), Some(&held)), Some("1 of the owners' keys")),
        ("strangers", w.lists(&of(&list(6), &[8, 9]), Some(&held)), Some("0 of the owners' keys")),
        ("rollback", w.lists(&of(&list(4), &[0, 1]), Some(&held)), Some("version 5 is held")),
        ("the same version with other entries", w.lists(&of(&list(5), &[0, 1]), Some(&held)), Some("version 5 is held")),
        ("after a fast-forward", w.lists(&of(&list(6), &[0, 1]), Some(&list(u64::MAX))), Some("is held already")),
        (
            "an epoch that has not begun",
            w.lists(&of(&w.list(2, 1, ends()), &[0, 1]), Some(&held)),
            Some("of epoch 2, the trust document of 1"),
        ),
        ("an epoch that is over", w.lists(&of(&w.list(0, 9, ends()), &[0, 1]), None), Some("of epoch 0")),
        ("a trust document under a list's type", foreign_type(REVOCATIONS_TYPE), Some("0 of the owners' keys")),
        ("a trust document under its own type", foreign_type(TRUST_TYPE), Some("not application/vnd.sutler.revocations")),
        ("version 0", rule(RevocationList::new(1, 0, vec![], vec![], ends())), Some("versions count from 1")),
        ("a minimum twice", rule(RevocationList::new(1, 1, vec![], vec![minimum.clone(), minimum], ends())), Some("there twice")),
        (
            "a reason that turns round what is beside it",
            rule(RevocationList::new(1, 1, vec![turned], vec![], ends())),
            Some("bidirectional"),
        ),
        ("a reason that is too long", rule(RevocationList::new(1, 1, vec![revoked], vec![], ends())), Some("more than 256 bytes")),
    ]);
}

#[test]
fn after_a_fast_forward_the_owners_recover_with_the_next_epoch() {
    let w = World::new();
    // A thief had two keys for a while, and signed the highest list that there is.
    let thiefs = w.list(1, u64::MAX, ends());
    let held = thiefs.sign(&w.of(&[0, 1])).open(&w.first, None).unwrap();
    // The owners exchange their keys, in a document that a third key and one of the old ones sign.
    let next = w.first.follow(Change { new_epoch: true, ..w.change() }).unwrap();
    let next = w.first.next(&next.sign(&w.of(&[1, 2, 3, 4]))).unwrap();
    let first_of_epoch = w.list(2, 1, ends()).sign(&w.of(&[3, 4]));
    let list = first_of_epoch.open(&next, Some(&held)).unwrap();
    assert_eq!((list.epoch(), list.version()), (2, 1));
    // The thief's keys are worth nothing any more, in either epoch.
    for epoch in [1, 2] {
        assert!(w.list(epoch, u64::MAX, ends()).sign(&w.of(&[0, 1])).open(&next, Some(&list)).is_err());
    }
}

#[test]
fn a_package_is_what_enough_publishers_signed_or_is_refused() {
    let w = World::new();
    let good = manifest("clamav");
    let plain = |_: &mut Envelope| {};
    let named = |name: &str| w.package(&manifest(name), &[0, 1], plain);
    all_as_expected(vec![
        ("two of three", w.package(&good, &[0, 1], plain), None),
        ("a stranger beside them", w.package(&good, &[9, 0, 2], plain), None),
        ("one of three", w.package(&good, &[0], plain), Some("1 trusted")),
        ("none", w.package(&good, &[], plain), Some("0 trusted")),
        ("strangers", w.package(&good, &[8, 9], plain), Some("0 trusted")),
        ("one signature twice", w.package(&good, &[0, 0], plain), Some("1 trusted")),
        ("a wrong key id", w.package(&good, &[0, 9], |e| e.signatures[1].key_id = w.keys[1].key_id()), Some("1 trusted")),
        ("an invalid one among valid ones", w.package(&good, &[0, 1, 2], |e| e.signatures[2].signature = e.signatures[0].signature), None),
        (
            "a wrong type",
            w.package(&good, &[0, 1], |e| e.payload_type = TRUST_TYPE.into()),
            Some("not for application/vnd.sutler.manifest"),
        ),
        ("a length that is too small", w.package(&good, &[0, 1], |e| e.length -= 1), Some("bytes where the envelope names")),
        ("a length that is too large", w.package(&good, &[0, 1], |e| e.length += 1), Some("bytes where the envelope names")),
        ("a wrong hash", w.package(&good, &[0, 1], |e| e.digest = Digest::of(b"x")), Some("digest is")),
        ("a name with a path", named("../clamav"), Some("name can't be read")),
        ("a name that is absolute", named("/clamav"), Some("name can't be read")),
        ("an empty name", named(""), Some("name can't be read")),
        ("a name with a NUL", named("clam\0av"), Some("name can't be read")),
        ("a name that turns round", named("clam\u{202e}av"), Some("name can't be read")),
        ("a name in capitals", named("ClamAV"), Some("name can't be read")),
        ("a name that is too long", named(&"a".repeat(500)), Some("name can't be read")),
        ("no manifest at all", w.package(b"", &[0, 1], plain), Some("name can't be read")),
        ("a name that is there twice", w.package(br#"{"name":"a","name":"b"}"#, &[0, 1], plain), Some("name can't be read")),
    ]);
}

#[test]
fn a_set_of_publishers_signs_the_names_of_its_prefixes_and_nothing_else() {
    let w = World::new();
    let set = |prefixes: &[&str], threshold| PublisherSet {
        name: "drivers".into(),
        keys: public(&w.keys[6..8]).into_iter().map(Into::into).collect(),
        threshold,
        prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(),
    };
    let with = |set: PublisherSet| w.first.follow(Change { publishers: vec![set], ..w.change() });
    let document = with(set(&["driver-"], 2)).unwrap();
    let document = w.first.next(&document.sign(&w.of(&[0, 1, 3, 4]))).unwrap();
    let verify = |name: &str, signers: &[usize]| {
        let bytes = manifest(name);
        verify_manifest(&document, &Envelope::sign(&bytes, &w.of(signers)), &bytes, now()).map_err(|e| e.to_string())
    };
    let signs_documents = {
        let next = document.follow(Change { keys: public(&w.keys[6..8]), ..w.change() }).unwrap();
        document.next(&next.sign(&w.of(&[6, 7]))).map(|_| ()).map_err(|e| e.to_string())
    };
    let signs_lists = w.list(1, 1, ends()).sign(&w.of(&[6, 7])).open(&document, None).map(|_| ()).map_err(|e| e.to_string());
    let rule = |result: Result<TrustDocument, crate::trust::TrustError>| result.map(|_| ()).map_err(|e| e.to_string());
    all_as_expected(vec![
        ("its own name", verify("driver-x", &[6, 7]), None),
        ("another name", verify("clamav", &[6, 7]), Some("may not sign a package named")),
        ("below its threshold", verify("driver-x", &[6]), Some("0 trusted")),
        ("half of the set and half of the owners", verify("driver-x", &[6, 3]), Some("1 trusted")),
        ("the owners", verify("driver-x", &[3, 4]), None),
        ("a trust document", signs_documents, Some("0 of the keys before it")),
        ("a revocation list", signs_lists, Some("0 of the owners' keys")),
        ("any name", rule(with(set(&[""], 1))), Some("only the owners may sign packages of any name")),
        ("no prefix", rule(with(set(&[], 1))), Some("0 prefixes")),
        ("a threshold that can't be reached", rule(with(set(&["d"], 3))), Some("threshold is 3 of 2")),
        ("an odd name", rule(with(PublisherSet { name: "a/b".into(), ..set(&["d"], 1) })), Some("named with 1 to 63")),
    ]);
}

#[test]
fn several_people_sign_one_document_after_the_other() {
    let w = World::new();
    let mut signed = w.next().sign(&w.of(&[0]));
    for n in [1, 3, 4, 4] {
        assert!(w.first.next(&signed).is_err() || n == 4);
        signed = through_json(&signed).unwrap();
        signed.add_signature(&w.keys[n]);
    }
    assert_eq!(signed.signed_by().count(), 4, "the same key again takes its own place");
    w.first.next(&signed).unwrap();
    let bytes = manifest("clamav");
    let mut envelope = Envelope::sign(&bytes, &w.of(&[0]));
    envelope.add_signature(&bytes, &w.keys[1]);
    verify_manifest(&w.first, &envelope, &bytes, now()).unwrap();
}
