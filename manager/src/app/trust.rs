//! What publishers say about whom to trust and what they took back: checked, kept, handed on. Never made here.
//!
//! The manager checks as an agent does, so that nothing gets into the database that agents would refuse; an agent checks
//! again, since it need not believe the manager.

use super::{AppError, Env, Result};
use sutler_base::{Digest, Timestamp};
use sutler_certs::{Envelope, RevocationList, SignedRevocations, SignedTrustDocument, TrustDocument};
use sutler_core::model::PackageVersion;
use sutler_proto::v1::{TrustUpdate, trust_update::Update};
use sutler_store::{StoreError, Tx};

/// The most trust documents that one connection is told: an agent that is further behind gets the rest with the next one.
const DOCUMENTS_MAX: u32 = 100;

fn damaged(what: &str, why: impl std::fmt::Display) -> AppError {
    StoreError::Corrupt(format!("the {what} can't be used: {why}")).into()
}

/// The newest trust document as it is stored: what it says was not looked at.
async fn stored(tx: &mut dyn Tx) -> Result<SignedTrustDocument> {
    let json = tx.newest_trust_document().await?.ok_or_else(|| damaged("publishers' trust document", "there is none"))?;
    SignedTrustDocument::from_json(&json).map_err(|e| damaged("publishers' trust document", e))
}

/// The newest trust document.
pub async fn newest(tx: &mut dyn Tx) -> Result<(SignedTrustDocument, TrustDocument)> {
    let signed = stored(tx).await?;
    let document = signed.open().map_err(|e| damaged("publishers' trust document", e))?;
    Ok((signed, document))
}

/// The trust document (JSON) that a token pins, for an agent that enrols; the newest if the pin is none or not known here.
pub async fn pinned(tx: &mut dyn Tx, pin: Option<&Digest>) -> Result<Vec<u8>> {
    let (signed, document) = newest(tx).await?;
    if pin.is_none_or(|pin| *pin == signed.digest()) {
        return Ok(signed.to_json());
    }
    let older = tx.trust_documents(document.version().saturating_sub(1 + u64::from(DOCUMENTS_MAX)), DOCUMENTS_MAX + 1).await?;
    let fits = |json: &Vec<u8>| SignedTrustDocument::from_json(json).is_ok_and(|d| Some(&d.digest()) == pin);
    Ok(older.into_iter().find(fits).unwrap_or_else(|| signed.to_json()))
}

/// The newest revocation list, if there ever was one.
pub async fn revocations(tx: &mut dyn Tx) -> Result<Option<(SignedRevocations, RevocationList)>> {
    let Some(json) = tx.newest_revocations().await? else { return Ok(None) };
    let signed = SignedRevocations::from_json(&json).map_err(|e| damaged("revocation list", e))?;
    // It was checked when it was published, by the trust document of that time.
    let list = signed.read().map_err(|e| damaged("revocation list", e))?;
    Ok(Some((signed, list)))
}

/// What publishers say at the moment, as far as it decides what agents still take.
#[derive(Debug)]
pub struct Word {
    trust: TrustDocument,
    list: Option<RevocationList>,
}

/// What publishers say at the moment.
pub async fn word(tx: &mut dyn Tx) -> Result<Word> {
    // Like the list, it was checked when it was published.
    let trust = stored(tx).await?.read().map_err(|e| damaged("publishers' trust document", e))?;
    Ok(Word { trust, list: revocations(tx).await?.map(|(_, list)| list) })
}

/// Whether agents ask the trust document about it: they do not for what nobody signed. What can't be read they refuse anyway.
fn is_signed(version: &PackageVersion) -> bool {
    Envelope::from_json(&version.envelope).map_or(true, |envelope| !envelope.signatures.is_empty())
}

/// Whether this version is offered, and agents would take it still; else the sentence that says why not.
pub fn deliverable(version: &PackageVersion, word: &Word, now: Timestamp) -> std::result::Result<(), String> {
    if let Some((at, reason)) = &version.withdrawn {
        return Err(format!("it was withdrawn at {at}{}{reason}", if reason.is_empty() { "" } else { ": " }));
    }
    if let Some(expires) = version.expires.filter(|e| *e <= now) {
        return Err(format!("its publisher said that it may not be installed after {expires}"));
    }
    if word.trust.is_expired(now) && is_signed(version) {
        let ended = word.trust.expires();
        return Err(format!("the publishers' trust document holds until {ended} only; publish a newer one (`sutler publisher rotate`)"));
    }
    let Some(list) = &word.list else { return Ok(()) };
    list.allows(&version.name, &version.version, version.release, &version.manifest).map_err(|e| e.to_string())?;
    if list.is_expired(now) {
        return Err(format!("the publishers' revocation list ended at {}; publish a new one", list.expires()));
    }
    Ok(())
}

/// Makes this the newest trust document. Gives back its version and what tokens pin from now on.
pub async fn publish_document(tx: &mut dyn Tx, env: &Env, signed: &SignedTrustDocument) -> Result<(u64, Digest)> {
    let (held, newest) = newest(tx).await?;
    if held.digest() == signed.digest() {
        return Ok((newest.version(), held.digest()));
    }
    let next = newest.next(signed).map_err(|e| AppError::invalid("document", e))?;
    if next.is_expired(env.now) {
        return Err(AppError::invalid("document", "it has expired already: agents would install nothing with it"));
    }
    tx.insert_trust_document(next.version(), &signed.to_json(), env.now, env.actor_name()).await?;
    let detail = format!("epoch {}, {} of {} keys, until {}", next.epoch(), next.threshold(), next.keys().len(), next.expires());
    env.audit(tx, "publish_trust_document", format!("trustDocuments/{}", next.version()), detail).await?;
    Ok((next.version(), signed.digest()))
}

/// Makes this the newest revocation list. Gives back its epoch and version.
pub async fn publish_revocations(tx: &mut dyn Tx, env: &Env, signed: &SignedRevocations) -> Result<(u64, u64)> {
    let (_, trust) = newest(tx).await?;
    let held = revocations(tx).await?;
    if let Some((same, list)) = held.as_ref().filter(|(held, _)| held.digest() == signed.digest()) {
        tracing::debug!(digest = %same.digest(), "the same revocation list again");
        return Ok((list.epoch(), list.version()));
    }
    let list = signed.open(&trust, held.as_ref().map(|(_, list)| list)).map_err(|e| AppError::invalid("list", e))?;
    if list.is_expired(env.now) {
        return Err(AppError::invalid("list", "it has expired already: agents would install nothing with it"));
    }
    if i64::try_from(list.version()).is_err() {
        return Err(AppError::invalid("list", "its version is higher than any that is counted to"));
    }
    tx.insert_revocations(list.epoch(), list.version(), &signed.to_json(), env.now, env.actor_name()).await?;
    let detail = format!("{} revoked, {} minimum releases, until {}", list.revoked().len(), list.minimums().len(), list.expires());
    env.audit(tx, "publish_revocations", format!("revocationLists/{}-{}", list.epoch(), list.version()), detail).await?;
    Ok((list.epoch(), list.version()))
}

/// What an agent holds of the publishers' documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Held {
    /// The version of its trust document; 0 if it takes no updates.
    pub trust: u64,
    /// Epoch and version of its revocation list.
    pub revocations: (u64, u64),
}

/// What is newer than that, in the order in which it must be taken; and what an agent holds after it.
pub async fn updates(tx: &mut dyn Tx, held: Held) -> Result<(Vec<TrustUpdate>, Held)> {
    let (mut out, mut after) = (Vec::new(), held);
    if held.trust == 0 {
        return Ok((out, after));
    }
    for json in tx.trust_documents(held.trust, DOCUMENTS_MAX).await? {
        let document = SignedTrustDocument::from_json(&json).and_then(|d| d.read()).map_err(|e| damaged("trust document", e))?;
        after.trust = document.version();
        out.push(TrustUpdate { update: Some(Update::Document(json.into())) });
    }
    if let Some((signed, list)) = revocations(tx).await?
        && (list.epoch(), list.version()) > held.revocations
    {
        after.revocations = (list.epoch(), list.version());
        out.push(TrustUpdate { update: Some(Update::Revocations(signed.to_json().into())) });
    }
    Ok((out, after))
}
