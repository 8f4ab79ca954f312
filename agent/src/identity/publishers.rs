//! Whom packages must be signed by, and what publishers took back: taken from whoever hands it on, checked, kept, never given up.
//!
//! The manager only carries these documents. Each trust document must follow from the one that is held; a revocation list
//! must be signed by its owners and be newer than the one that is held. Both are durable before they count.

use super::{Identity, PINS, Pins, json};
use crate::vault::VaultError;
use std::sync::Arc;
use sutler_certs::{
    RevocationList, SignedRevocations, SignedTrustDocument, TrustDocument, revocations::RevocationsError, trust::TrustError,
};

/// Why a document that the manager handed on is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TrustRefused {
    /// This machine enrolled without publishers: only a new enrolment can give it some.
    #[error("this machine trusts no publisher since its enrolment, and nobody can give it one over the network; enrol again")]
    NoPublisher,
    /// The trust document does not follow from the one that is held.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The revocation list is not taken.
    #[error(transparent)]
    Revocations(#[from] RevocationsError),
    /// It could not be kept.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// The list among the pins. It was checked when it was taken, by the document of that time.
pub(super) fn kept(pins: &Pins) -> Result<Option<Arc<RevocationList>>, RevocationsError> {
    let Some(json) = &pins.revocations else { return Ok(None) };
    Ok(Some(Arc::new(SignedRevocations::from_json(json.as_bytes())?.read()?)))
}

impl Identity {
    /// Whom packages must be signed by; none where they aren't signed.
    pub fn publishers(&self) -> Option<Arc<TrustDocument>> {
        self.lock().publishers.clone()
    }

    /// What the publishers took back, as far as this machine was told.
    pub fn revocations(&self) -> Option<Arc<RevocationList>> {
        self.lock().revocations.clone()
    }

    /// Takes the trust document (JSON) that follows the one that is held. Gives back whether it was new.
    pub fn take_trust(&self, document: &[u8]) -> Result<bool, TrustRefused> {
        let signed = SignedTrustDocument::from_json(document)?;
        let mut changing = self.lock();
        let Some(held) = changing.publishers.clone() else { return Err(TrustRefused::NoPublisher) };
        if changing.pins.trust == Some(signed.digest()) {
            return Ok(false);
        }
        let next = held.next(&signed)?;
        let mut pins = changing.pins.clone();
        pins.trust = Some(signed.digest());
        pins.document = Some(String::from_utf8_lossy(&signed.to_json()).into_owned());
        self.vault.write(PINS, &json(&pins))?;
        changing.pins = pins;
        changing.publishers = Some(Arc::new(next));
        Ok(true)
    }

    /// Takes a newer revocation list (JSON). Gives back whether it was new.
    pub fn take_revocations(&self, list: &[u8]) -> Result<bool, TrustRefused> {
        let signed = SignedRevocations::from_json(list)?;
        let mut changing = self.lock();
        let Some(trust) = changing.publishers.clone() else { return Err(TrustRefused::NoPublisher) };
        let text = String::from_utf8_lossy(&signed.to_json()).into_owned();
        if changing.pins.revocations.as_ref() == Some(&text) {
            return Ok(false);
        }
        let new = signed.open(&trust, changing.revocations.as_deref())?;
        let mut pins = changing.pins.clone();
        pins.revocations = Some(text);
        self.vault.write(PINS, &json(&pins))?;
        changing.pins = pins;
        changing.revocations = Some(Arc::new(new));
        Ok(true)
    }
}
