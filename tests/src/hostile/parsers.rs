//! The parsers of what comes from outside, one function each: any bytes in, no panic, and what was accepted keeps its rules.
//!
//! Each says whether the bytes were accepted, so that whoever replays a corpus can see that it still reaches both ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use sutler_agent::journal;
use sutler_agent::machine::{Allowed, Event, Now, Stage, State};
use sutler_base::manifest::{EntryKind, Manifest};
use sutler_base::token::TokenString;
use sutler_base::{Digest, Timestamp};
use sutler_certs::revocations::{ENTRIES_MAX, REVOCATIONS_TYPE};
use sutler_certs::trust::TRUST_TYPE;
use sutler_certs::{Envelope, PublisherKey, SignedRevocations, SignedTrustDocument, TrustDocument, public_key_of_csr, verify_manifest};
use sutler_core::condition::{ClientFields, Condition, Input, Schema, limits};

/// A trust document whose keys signed nothing else.
static TRUST: LazyLock<TrustDocument> = LazyLock::new(|| {
    let key = PublisherKey::generate().expect("the system has randomness");
    TrustDocument::new(1, 1, &[key.public_key()], 1, &[""], Timestamp::MAX).expect("it keeps the rules")
});

/// The longest error that one bad document may cause (bytes).
const ERROR_MAX: usize = 8 << 10;

/// An error is shown to people: it is bounded, and nothing in it does anything to a terminal.
fn shown(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(text.len() <= ERROR_MAX, "an error of {} bytes: {:.300}", text.len(), text);
    assert!(!text.chars().any(|c| c != '\n' && sutler_base::is_harmful(c)), "an error that is not escaped: {text:?}");
}

/// A package's manifest, as an agent reads it after its signature was found good.
pub fn manifest(bytes: &[u8]) -> bool {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(e) => {
            shown(&e);
            return false;
        }
    };
    assert_eq!(Manifest::parse(&manifest.to_bytes()).as_ref(), Ok(&manifest), "it reads back as another one");
    for entry in &manifest.files {
        let path = Path::new(entry.path.as_str());
        assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))), "{path:?} leaves the package");
        if let EntryKind::Link { target } = &entry.kind {
            assert!(!target.starts_with('/'), "{path:?} points to {target}");
        }
    }
    assert!(manifest.directory.as_ref().is_none_or(|d| d.as_str().starts_with('/') && !d.as_str().contains("/..")));
    assert!(manifest.steps.iter().all(|s| !s.argv.is_empty() && s.argv.iter().all(|a| !a.contains('\0'))));
    manifest.total_bytes();
    manifest.chunk_lists().count();
    true
}

/// The envelope around a manifest, and the check of its signatures against a trust document whose keys did not sign it.
pub fn envelope(bytes: &[u8]) -> bool {
    match Envelope::from_json(bytes) {
        Ok(envelope) => {
            assert_eq!(Envelope::from_json(&envelope.to_json()).as_ref(), Ok(&envelope), "it reads back as another one");
            let refused = verify_manifest(&TRUST, &envelope, b"{}", Timestamp::UNIX_EPOCH).expect_err("nobody signed that");
            shown(&refused);
            true
        }
        Err(e) => {
            shown(&e);
            false
        }
    }
}

/// A trust document that a manager hands out, and any bytes as the document inside of one: accepted only if its own keys signed it.
pub fn trust(bytes: &[u8]) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let inside = serde_json::json!({"payload_type": TRUST_TYPE, "payload": STANDARD.encode(bytes), "signatures": []});
    assert!(!open_trust(inside.to_string().as_bytes()), "nobody signed that");
    open_trust(bytes)
}

fn open_trust(json: &[u8]) -> bool {
    let signed = match SignedTrustDocument::from_json(json) {
        Ok(signed) => signed,
        Err(e) => {
            shown(&e);
            return false;
        }
    };
    assert!(signed.open_pinned(&Digest::of(json)).is_err(), "the pin is of the document, not of what goes around it");
    match signed.open() {
        Ok(document) => {
            assert!(document.threshold() >= 1 && document.threshold() <= document.keys().len());
            assert_eq!(signed.open_pinned(&signed.digest()).as_ref(), Ok(&document));
            true
        }
        Err(e) => {
            shown(&e);
            false
        }
    }
}

/// A revocation list that a manager hands out, and any bytes as the list inside of one. No owner of the trust document signed
/// it, so an agent refuses it; the people who are asked to sign it read it first.
pub fn revocations(bytes: &[u8]) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let inside = serde_json::json!({"payload_type": REVOCATIONS_TYPE, "payload": STANDARD.encode(bytes), "signatures": []});
    let read = read_revocations(inside.to_string().as_bytes());
    read_revocations(bytes) || read
}

fn read_revocations(json: &[u8]) -> bool {
    let signed = match SignedRevocations::from_json(json) {
        Ok(signed) => signed,
        Err(e) => {
            shown(&e);
            return false;
        }
    };
    shown(&signed.open(&TRUST, None).expect_err("nobody signed that"));
    match signed.read() {
        Ok(list) => {
            assert!(list.revoked().len() + list.minimums().len() <= ENTRIES_MAX);
            assert!(list.version() >= 1);
            true
        }
        Err(e) => {
            shown(&e);
            false
        }
    }
}

/// A certificate request: of it the public key alone is taken.
pub fn csr(bytes: &[u8]) -> bool {
    match public_key_of_csr(bytes) {
        Ok(key) => {
            assert!(key.spki().len() < 200, "no key that is supported is as long");
            true
        }
        Err(e) => {
            shown(&e);
            false
        }
    }
}

/// The string of an enrolment token: as it is, and with a good checksum around any content.
pub fn token(bytes: &[u8]) -> bool {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let read = |text: &str| match TokenString::parse(text) {
        Ok(token) => {
            assert_eq!(TokenString::parse(&token.encode()).as_ref(), Ok(&token), "it reads back as another one");
            true
        }
        Err(e) => {
            shown(&e);
            false
        }
    };
    let mut content = bytes.to_vec();
    content.extend_from_slice(&Digest::of(bytes).as_bytes()[..4]);
    let wrapped = read(&format!("sutler1.{}", URL_SAFE_NO_PAD.encode(content)));
    std::str::from_utf8(bytes).is_ok_and(read) || wrapped
}

/// A policy's condition: compiled, and decided for a client of which something is known.
pub fn condition(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let condition = match Condition::compile(text, &Schema::standard()) {
        Ok(condition) => condition,
        Err(e) => {
            shown(&e);
            return false;
        }
    };
    assert!(text.len() <= limits::TEXT_MAX);
    let facts = serde_json::json!({
        "os": {"family": "linux", "id": "debian", "name": "", "version": "12"}, "arch": "x86_64", "hostname": "pc-1",
        "memory": {"total_bytes": 8_589_934_592_u64}, "cpu": {"count": 4}, "addresses": ["10.0.0.7", "fd00::7"],
        "software": [{"name": "clamav", "version": "1.0"}, {"name": "vim", "version": "9"}],
    });
    let labels: BTreeMap<String, String> = [("site".into(), "berlin".into())].into();
    let answers = BTreeMap::new();
    let client = ClientFields {
        id: "0123456789abcdef",
        name: "pc-1",
        kind: "MACHINE",
        state: "ACTIVE",
        created: Timestamp::UNIX_EPOCH,
        contact: None,
        duplicate: None,
    };
    let input = Input { facts: &facts, labels: &labels, answers: &answers, client };
    let outcome = condition.evaluate(&input);
    assert_eq!(outcome, condition.evaluate(&input), "the same input, another outcome");
    condition.explain(&input);
    true
}

/// A record of the agent's journal, whole or cut or with a good checksum around any content; an agent goes on with what is read.
pub fn journal(bytes: &[u8]) -> bool {
    let mut checked = Digest::of(bytes).to_string().into_bytes();
    checked.push(b'\n');
    checked.extend_from_slice(bytes);
    let Some(record) = journal::decode(bytes).or_else(|| journal::decode(&checked)) else { return false };
    assert_eq!(journal::decode(&journal::encode(&record)).as_ref(), Some(&record), "it reads back as another one");
    let now = Now { wall: Timestamp::UNIX_EPOCH, boot: std::time::Duration::from_secs(60), boot_id: "boot".into() };
    let id = record.id().clone();
    let had_begun = matches!(&record.stage, Stage::Installing(i) if i.begun);
    let client = "0123456789abcdef".parse().expect("it is an id");
    let (mut state, effects) = State::recover(client, vec![record], Allowed::default(), 7, &now);
    let starts = |effects: &[sutler_agent::machine::Effect]| {
        effects.iter().any(|e| matches!(e, sutler_agent::machine::Effect::Perform(_, _, sutler_agent::machine::Op::Step(_), _)))
    };
    assert!(!starts(&effects), "a step was started although no record of it was written (begun: {had_begun})");
    state.progress(&now);
    state.wake_at(&now);
    for event in [Event::Connected(vec![]), Event::Leased(vec![id.clone()], 600), Event::Tick, Event::CancelAsked(id), Event::Disconnected]
    {
        state.handle(event, &now);
        state.progress(&now);
        state.wake_at(&now);
    }
    true
}
