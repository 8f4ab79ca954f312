//! A document's exact bytes and the signatures over them, as JSON: how trust documents and revocation lists are stored and sent.

use crate::{
    envelope::{KeySignature, SIGNATURES_MAX, pae, sign_with},
    publisher::PublisherKey,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sutler_base::{quoted, told};

/// A signed document of some type; what it says is not looked at here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) signatures: Vec<KeySignature>,
}

/// The JSON is no signed document of that type.
pub(crate) enum SignedError {
    /// So many bytes are too many.
    TooLong(usize),
    /// What is wrong.
    Malformed(String),
}

#[derive(Serialize, Deserialize)]
struct Wire {
    payload_type: String,
    payload: String,
    signatures: Vec<KeySignature>,
}

impl Signed {
    /// Signs a document of this type with each of these keys.
    pub(crate) fn new(payload_type: &str, bytes: Vec<u8>, keys: &[&PublisherKey]) -> Signed {
        let signatures = sign_with(keys, &pae(payload_type, &bytes));
        Signed { bytes, signatures }
    }

    pub(crate) fn to_json(&self, payload_type: &str) -> Vec<u8> {
        let wire = Wire { payload_type: payload_type.into(), payload: STANDARD.encode(&self.bytes), signatures: self.signatures.clone() };
        serde_json::to_vec(&wire).expect("texts are always JSON")
    }

    pub(crate) fn from_json(json: &[u8], payload_type: &str, longest: usize) -> Result<Signed, SignedError> {
        if json.len() > longest {
            return Err(SignedError::TooLong(json.len()));
        }
        let malformed = |e: &dyn std::fmt::Display| SignedError::Malformed(told(e));
        let wire: Wire = serde_json::from_slice(json).map_err(|e| malformed(&e))?;
        if wire.payload_type != payload_type {
            return Err(SignedError::Malformed(format!("it is {}, not {payload_type}", quoted(&wire.payload_type))));
        }
        if wire.signatures.len() > SIGNATURES_MAX {
            return Err(SignedError::Malformed(format!("it has more than {SIGNATURES_MAX} signatures")));
        }
        let bytes = STANDARD.decode(wire.payload).map_err(|e| malformed(&e))?;
        Ok(Signed { bytes, signatures: wire.signatures })
    }

    /// Adds a signature by this key, in place of one that names it.
    pub(crate) fn add_signature(&mut self, payload_type: &str, key: &PublisherKey) {
        let mut new = sign_with(&[key], &pae(payload_type, &self.bytes));
        self.signatures.retain(|s| s.key_id != key.key_id());
        self.signatures.append(&mut new);
    }
}
