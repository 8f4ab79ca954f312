//! What a bundle promises: any client of the API can send it, and what arrives is the package.

use super::*;
use crate::package::{build, sign};
use serde_json::Value;
use std::collections::BTreeMap;
use sutler_base::{Timestamp, manifest::Manifest};
use sutler_certs::{Envelope, PublisherKey, TrustDocument, verify_manifest};
use sutler_content::encoding::decode;

fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut out);
    out
}

fn signed(dir: &Path) -> SignedPackage {
    fs_err::write(dir.join("package.toml"), "name = \"p\"\nversion = \"1\"\ndirectory = \"/opt/p\"\nfiles = \"f\"\n").unwrap();
    sign(build(dir, Timestamp::UNIX_EPOCH, &mut |_| {}).unwrap(), &PublisherKey::generate().unwrap())
}

fn package() -> (tempfile::TempDir, SignedPackage) {
    let dir = tempfile::tempdir().unwrap();
    fs_err::create_dir(dir.path().join("f")).unwrap();
    fs_err::write(dir.path().join("f/dense"), noise("dense", 500_000)).unwrap();
    fs_err::write(dir.path().join("f/sparse"), vec![b' '; 300_000]).unwrap();
    fs_err::write(dir.path().join("f/empty"), b"").unwrap();
    let signed = signed(dir.path());
    (dir, signed)
}

#[test]
fn every_line_is_a_message_and_together_they_are_the_package() {
    let (dir, package) = package();
    let path = dir.path().join("x.json");
    let mut seen = Vec::new();
    let summary = write_bundle(&package, &path, &mut |p| seen.push(p)).unwrap();
    let text = fs_err::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bytes = |value: &Value| Bytes::from(STANDARD.decode(value.as_str().unwrap()).unwrap());

    let envelope = bytes(&lines[0]["envelope"]);
    assert_eq!(Envelope::from_json(&envelope).unwrap(), package.envelope);
    assert_eq!(package.envelope.digest, package.built.manifest_digest);
    let mut objects = BTreeMap::new();
    let mut order = Vec::new();
    for line in &lines[1..] {
        let content = &line["content"];
        let digest: Digest = content["digest"].as_str().unwrap().parse().unwrap();
        let encoding = match content["encoding"].as_str().unwrap() {
            "ENCODING_ZSTD" => Encoding::Zstd,
            "ENCODING_IDENTITY" => Encoding::Identity,
            other => panic!("{other}"),
        };
        assert!(content.get("offset").is_none() && content.get("more").is_none());
        let raw = decode(encoding, &bytes(&content["data"]), 1 << 20).unwrap();
        assert_eq!(Digest::of(&raw), digest);
        order.push(digest);
        assert!(objects.insert(digest, raw).is_none());
    }
    assert_eq!(order, package.built.digests().collect::<Vec<_>>());
    assert_eq!(Manifest::parse(&objects[&order[0]]).unwrap(), package.built.manifest);
    // The spaces shrank: the file is not much longer than the noise in base64.
    assert!(text.len() < 720_000, "{}", text.len());
    assert_eq!((summary.messages, summary.file_bytes), (lines.len() as u64, text.len() as u64));
    assert_eq!((summary.objects, summary.bytes), (order.len() as u64, total_length(&package, None)));
    assert_eq!(*seen.last().unwrap(), Progress { done: summary.bytes, total: summary.bytes });
}

#[test]
fn an_object_that_is_too_long_for_a_message_comes_in_parts() {
    let raw = Bytes::from(noise("long", 2 * PART_MAX + 5));
    let object = Object::new(Digest::of(&raw), Kind::Document, raw.clone());
    let parts: Vec<Part> = object.parts().collect();
    assert_eq!(
        parts.iter().map(|p| (p.offset, p.data.len(), p.more)).collect::<Vec<_>>(),
        [(0, PART_MAX, true), (PART_MAX as u64, PART_MAX, true), (2 * PART_MAX as u64, 5, false)]
    );
    assert_eq!(parts.iter().flat_map(|p| p.data.to_vec()).collect::<Vec<_>>(), raw);
    let exact = Object::new(Digest::of(&raw[..PART_MAX]), Kind::Document, raw.slice(..PART_MAX));
    assert_eq!(exact.parts().map(|p| p.more).collect::<Vec<_>>(), [false]);
    let message =
        Content { digest: object.digest, encoding: "ENCODING_IDENTITY", data: Base64(b"x"), offset: Some("1048576".into()), more: true };
    let json: Value = serde_json::from_str(&serde_json::to_string(&Message::Content(message)).unwrap()).unwrap();
    assert_eq!((json["content"]["offset"].as_str(), json["content"]["more"].as_bool()), (Some("1048576"), Some(true)));
}

#[test]
fn only_what_is_wanted_is_handed_out() {
    let (_dir, package) = package();
    let wanted: HashSet<Digest> = package.built.digests().skip(2).step_by(2).collect();
    let sent: Vec<Object> = objects(&package, Some(&wanted)).collect::<Result<_, _>>().unwrap();
    assert_eq!(sent.iter().map(|o| o.digest).collect::<HashSet<_>>(), wanted);
    assert_eq!(sent.iter().map(|o| o.length).sum::<u64>(), total_length(&package, Some(&wanted)));
}

#[test]
fn a_bundle_is_there_whole_or_not_at_all() {
    let (dir, package) = package();
    let path = dir.path().join("x.json");
    fs_err::write(&path, "what was there").unwrap();
    fs_err::write(dir.path().join("f/dense"), noise("changed", 500_000)).unwrap();
    let refused = write_bundle(&package, &path, &mut |_| {});
    assert!(matches!(refused, Err(BundleError::Source(BuildError::ChangedAfterwards(_)))), "{refused:?}");
    assert_eq!(fs_err::read_to_string(&path).unwrap(), "what was there");
    let left: Vec<_> = fs_err::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(matches!(write_bundle(&package, &dir.path().join("no/x"), &mut |_| {}), Err(BundleError::Write { .. })));
}

#[test]
fn the_signature_is_over_the_manifests_exact_bytes() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("package.toml"), "name = \"p\"\nversion = \"1\"\ndirectory = \"/opt/p\"\n").unwrap();
    let key = PublisherKey::generate().unwrap();
    let now = Timestamp::UNIX_EPOCH;
    let package = sign(build(dir.path(), now, &mut |_| {}).unwrap(), &key);
    let trust = TrustDocument::new(1, 1, &[key.public_key()], 1, &[""], "2030-01-01T00:00:00Z".parse().unwrap()).unwrap();
    let envelope = Envelope::from_json(&package.envelope_bytes).unwrap();
    verify_manifest(&trust, &envelope, &package.built.manifest_bytes, now).unwrap();
    let mut changed = package.built.manifest_bytes.clone();
    *changed.last_mut().unwrap() = b' ';
    assert!(verify_manifest(&trust, &envelope, &changed, now).is_err());
}

#[tokio::test]
async fn a_store_that_got_what_it_lacked_has_the_whole_version() {
    let (_dir, package) = package();
    let store = tempfile::tempdir().unwrap();
    let content = sutler_content::Content::open_folder(store.path()).unwrap();
    let all: Vec<Digest> = package.built.digests().collect();
    // An earlier version brought some of it.
    for object in objects(&package, Some(&all[3..6].iter().copied().collect())) {
        let object = object.unwrap();
        content.put_encoded(object.digest, object.kind, object.encoding, object.payload).await.unwrap();
    }
    let lacking = content.missing(&all).await.unwrap();
    assert_eq!(lacking.len(), all.len() - 3);
    for object in objects(&package, Some(&lacking.into_iter().collect())) {
        let object = object.unwrap();
        content.put_encoded(object.digest, object.kind, object.encoding, object.payload).await.unwrap();
    }
    assert_eq!(content.verify_complete(package.built.manifest_digest).await.unwrap(), []);
    let mut sorted = all;
    sorted.sort();
    assert_eq!(content.load_closure(package.built.manifest_digest).await.unwrap().digests(), sorted);
}
