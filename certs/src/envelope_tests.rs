use super::*;
use crate::{
    publisher::PublisherPublicKey,
    trust::{SignedTrustDocument, TrustError},
};

const MANIFEST: &[u8] = br#"{"format":1,"name":"clamav","version":"1.0","release":1,"files":[]}"#;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn expires() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

fn keys<const N: usize>() -> [PublisherKey; N] {
    std::array::from_fn(|_| PublisherKey::generate().unwrap())
}

fn trust(keys: &[PublisherKey], threshold: usize, prefixes: &[&str]) -> TrustDocument {
    let public: Vec<PublisherPublicKey> = keys.iter().map(PublisherKey::public_key).collect();
    TrustDocument::new(1, 1, &public, threshold, prefixes, expires()).unwrap()
}

#[test]
fn the_encoding_of_what_is_signed_is_dsses() {
    assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    assert_ne!(pae("a", b"b 1 c"), pae("a 1 b", b"c"));
}

#[test]
fn a_manifest_that_enough_trusted_publishers_signed_is_taken() {
    let keys = keys::<3>();
    let envelope = Envelope::sign(MANIFEST, &[&keys[0], &keys[2]]);
    assert_eq!(Envelope::from_json(&envelope.to_json()).unwrap(), envelope);
    for (threshold, result) in [(1, Ok(())), (2, Ok(())), (3, Err(ManifestRefused::Signatures { good: 2, needed: 3 }))] {
        assert_eq!(verify_manifest(&trust(&keys, threshold, &[""]), &envelope, MANIFEST, now()), result);
    }
}

#[test]
fn one_changed_byte_in_what_was_signed_is_refused() {
    let keys = keys::<1>();
    let trust = trust(&keys, 1, &[""]);
    let envelope = Envelope::sign(MANIFEST, &[&keys[0]]);
    for n in 0..MANIFEST.len() {
        let mut changed = MANIFEST.to_vec();
        changed[n] ^= 1;
        assert!(matches!(verify_manifest(&trust, &envelope, &changed, now()), Err(ManifestRefused::Digest { .. })));
        // Whoever can change the manifest can change the envelope: then it is the signature that does not fit.
        let forged = Envelope { digest: Digest::of(&changed), ..envelope.clone() };
        assert_eq!(verify_manifest(&trust, &forged, &changed, now()), Err(ManifestRefused::Signatures { good: 0, needed: 1 }));
    }
    let cut = &MANIFEST[..MANIFEST.len() - 1];
    assert_eq!(
        verify_manifest(&trust, &envelope, cut, now()),
        Err(ManifestRefused::Length { named: MANIFEST.len() as u64, actual: cut.len() as u64 })
    );
}

#[test]
fn a_signature_that_is_there_twice_counts_once() {
    let keys = keys::<2>();
    let trust = trust(&keys, 2, &[""]);
    let mut envelope = Envelope::sign(MANIFEST, &[&keys[0], &keys[0]]);
    assert_eq!(envelope.signatures.len(), 2);
    assert_eq!(verify_manifest(&trust, &envelope, MANIFEST, now()), Err(ManifestRefused::Signatures { good: 1, needed: 2 }));
    // Nor does it under the other key's name.
    envelope.signatures[1].key_id = keys[1].key_id();
    assert_eq!(verify_manifest(&trust, &envelope, MANIFEST, now()), Err(ManifestRefused::Signatures { good: 1, needed: 2 }));
}

#[test]
fn strangers_and_signatures_over_something_else_count_nothing() {
    let keys = keys::<1>();
    let [stranger] = self::keys();
    let trust = trust(&keys, 1, &[""]);
    let refused = Err(ManifestRefused::Signatures { good: 0, needed: 1 });
    assert_eq!(verify_manifest(&trust, &Envelope::sign(MANIFEST, &[&stranger]), MANIFEST, now()), refused);
    assert_eq!(verify_manifest(&trust, &Envelope::sign(MANIFEST, &[]), MANIFEST, now()), refused);
    let mut impostor = Envelope::sign(MANIFEST, &[&stranger]);
    impostor.signatures[0].key_id = keys[0].key_id();
    assert_eq!(verify_manifest(&trust, &impostor, MANIFEST, now()), refused);
    // The same key's signature over the same bytes, as a trust document and without any encoding.
    for message in [pae(crate::trust::TRUST_TYPE, MANIFEST), MANIFEST.to_vec()] {
        let envelope = Envelope { signatures: sign_with(&[&keys[0]], &message), ..Envelope::sign(MANIFEST, &[]) };
        assert_eq!(verify_manifest(&trust, &envelope, MANIFEST, now()), refused);
    }
    let other = Envelope { payload_type: "text/plain".into(), ..Envelope::sign(MANIFEST, &[&keys[0]]) };
    assert!(matches!(verify_manifest(&trust, &other, MANIFEST, now()), Err(ManifestRefused::PayloadType(_))));
}

#[test]
fn publishers_sign_only_the_names_that_the_document_gives_them_and_only_while_it_lasts() {
    let keys = keys::<1>();
    let verify = |prefixes: &[&str], manifest: &[u8], now| {
        verify_manifest(&trust(&keys, 1, prefixes), &Envelope::sign(manifest, &[&keys[0]]), manifest, now)
    };
    assert_eq!(verify(&["x", "clam"], MANIFEST, now()), Ok(()));
    assert_eq!(verify(&["clamav"], MANIFEST, now()), Ok(()));
    assert_eq!(verify(&["clamav2", "x", "lamav"], MANIFEST, now()), Err(ManifestRefused::Prefix("\"clamav\"".into())));
    for unreadable in [&b"{}"[..], b"", br#"{"name":"clamav","name":"clamav"}"#, br#"{"name":"../x"}"#, br#"{"name":7}"#] {
        assert!(matches!(verify(&[""], unreadable, now()), Err(ManifestRefused::Name(_))));
    }
    assert_eq!(verify(&[""], MANIFEST, expires()), Ok(()));
    let late = expires() + std::time::Duration::from_secs(1);
    assert_eq!(verify(&[""], MANIFEST, late), Err(ManifestRefused::TrustExpired(expires())));
}

#[test]
fn an_envelope_that_is_too_big_or_garbled_is_refused_by_name() {
    let keys = keys::<1>();
    let good = Envelope::sign(MANIFEST, &[&keys[0]]);
    assert!(matches!(Envelope::from_json(&vec![b' '; limits::ENVELOPE_MAX + 1]), Err(EnvelopeError::TooLong(_))));
    assert!(matches!(Envelope::from_json(b"[]"), Err(EnvelopeError::Malformed(_))));
    let huge = Envelope { length: limits::MANIFEST_MAX + 1, ..good.clone() };
    assert!(matches!(Envelope::from_json(&huge.to_json()), Err(EnvelopeError::ManifestTooLong(_))));
    let many = Envelope { signatures: vec![good.signatures[0].clone(); SIGNATURES_MAX + 1], ..good.clone() };
    assert!(matches!(Envelope::from_json(&many.to_json()), Err(EnvelopeError::TooManySignatures(65))));
    let other = Envelope { payload_type: "x".into(), ..good };
    assert!(matches!(Envelope::from_json(&other.to_json()), Err(EnvelopeError::PayloadType(_))));
}

#[test]
fn a_trust_document_opens_with_its_pin_and_its_own_signatures_alone() {
    let keys = keys::<3>();
    let document = trust(&keys, 2, &["clam", "sutler-"]);
    let signed = document.sign(&[&keys[0], &keys[1]]);
    let received = SignedTrustDocument::from_json(&signed.to_json()).unwrap();
    assert_eq!(received.open_pinned(&signed.digest()).unwrap(), document);
    let pin = Digest::of(b"another");
    assert_eq!(received.open_pinned(&pin), Err(TrustError::NotPinned { pin, actual: signed.digest() }));
    // The pin names the document, not who signed it.
    assert_eq!(document.sign(&[&keys[2], &keys[0]]).digest(), signed.digest());
    let [stranger] = self::keys();
    for signers in [&[&keys[0], &stranger][..], &[&keys[0], &keys[0]], &[]] {
        let signed = document.sign(signers);
        assert!(matches!(signed.open_pinned(&signed.digest()), Err(TrustError::Signatures { needed: 2, .. })));
    }
}

#[test]
fn a_trust_document_that_breaks_its_rules_is_refused_by_name() {
    let keys = keys::<1>();
    let public = [keys[0].public_key()];
    let new = |keys: &[PublisherPublicKey], threshold, prefixes: &[&str]| TrustDocument::new(1, 1, keys, threshold, prefixes, expires());
    for broken in [
        new(&[], 1, &[""]),
        new(&[public[0], public[0]], 1, &[""]),
        new(&public, 0, &[""]),
        new(&public, 2, &[""]),
        new(&public, 1, &[]),
        new(&public, 1, &["A"]),
        TrustDocument::new(1, 0, &public, 1, &[""], expires()),
    ] {
        assert!(matches!(broken, Err(TrustError::Rule(_))), "{broken:?}");
    }
    // What a later version writes, this one refuses by saying what it lacks.
    let json = String::from_utf8(document_of(&trust(&keys, 1, &[""]).sign(&[&keys[0]]))).unwrap();
    let open = |from: &str, to: &str| {
        assert!(json.contains(from), "{json}");
        let document = json.replace(from, to).into_bytes();
        let signatures = sign_with(&[&keys[0]], &pae(crate::trust::TRUST_TYPE, &document));
        signed_of(&document, &signatures).open()
    };
    assert_eq!(open("\"format\": 1", "\"format\": 2"), Err(TrustError::Format(2)));
    assert_eq!(open("\"critical\": []", "\"critical\": [\"quorum\"]"), Err(TrustError::Critical("\"quorum\"".into())));
    assert!(open("\"critical\": []", "\"critical\": [\"threshold\"]").is_ok());
    assert!(open("\"critical\": []", "\"critical\": [], \"note\": \"later\"").is_ok());
    assert!(matches!(open(keys[0].key_id().as_str(), &"0".repeat(32)), Err(TrustError::Rule(_))));
    assert!(matches!(open("\"threshold\": 1", "\"threshold\": 1, \"threshold\": 1"), Err(TrustError::Malformed(_))));
}

fn document_of(signed: &SignedTrustDocument) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let wire: serde_json::Value = serde_json::from_slice(&signed.to_json()).unwrap();
    STANDARD.decode(wire["payload"].as_str().unwrap()).unwrap()
}

fn signed_of(document: &[u8], signatures: &[KeySignature]) -> SignedTrustDocument {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let wire =
        serde_json::json!({ "payload_type": crate::trust::TRUST_TYPE, "payload": STANDARD.encode(document), "signatures": signatures });
    SignedTrustDocument::from_json(wire.to_string().as_bytes()).unwrap()
}
