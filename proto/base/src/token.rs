//! The string of an enrolment token: everything that a machine needs to trust the right manager before it has ever talked to it.
//!
//! `sutler1.` and base64url of: the trust domain, the manager's addresses, the pin of its root CA, the pin of the
//! publishers' trust document, the token's id and secret, and a checksum that tells a token that was cut off in copying
//! from one that is wrong.

use crate::{Digest, Invalid, TokenId, digest::unhex, limits};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::fmt;

const PREFIX: &str = "sutler1.";

/// What an enrolment token's string holds.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenString {
    /// The trust domain that the manager's certificate must name.
    pub trust_domain: String,
    /// Where the manager listens for agents, `host:port`, in the order to try: 1 to [`limits::ADDRESSES_MAX`].
    pub addresses: Vec<String>,
    /// The SHA-256 digest of the root CA's certificate (DER).
    pub root_pin: [u8; 32],
    /// The digest of the publishers' trust document; none where packages aren't signed.
    pub trust_pin: Option<Digest>,
    /// The token's public id.
    pub id: TokenId,
    /// The secret: 32 random bytes.
    pub secret: [u8; 32],
}

/// Shows everything but the secret.
impl fmt::Debug for TokenString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenString({} {:?} {})", self.trust_domain, self.addresses, self.id)
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    Digest(*bytes).to_string()
}

impl TokenString {
    /// The string that is given to the machine.
    pub fn encode(&self) -> String {
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n{}",
            self.trust_domain,
            self.addresses.join(","),
            hex(&self.root_pin),
            self.trust_pin.map(|p| p.to_string()).unwrap_or_default(),
            self.id,
            hex(&self.secret)
        );
        let mut bytes = text.into_bytes();
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The token in `text`; white space around it is ignored. The error never quotes the text: it holds a secret.
    pub fn parse(text: &str) -> Result<TokenString, Invalid> {
        let text = text.trim();
        if text.len() > 4096 {
            return Err(Invalid::new("an enrolment token has at most 4096 characters; this is longer"));
        }
        let body =
            text.strip_prefix(PREFIX).ok_or_else(|| Invalid::new(format!("an enrolment token starts with {PREFIX}; this does not")))?;
        let broken =
            || Invalid::new("the enrolment token is incomplete or damaged; copy all of it, or read it from a file with --token-file");
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| broken())?;
        let at = bytes.len().checked_sub(4).ok_or_else(broken)?;
        let (text, check) = bytes.split_at(at);
        if Digest::of(text).as_bytes()[..4] != *check {
            return Err(broken());
        }
        let text = std::str::from_utf8(text).map_err(|_| broken())?;
        let fields: Vec<&str> = text.split('\n').collect();
        let [trust_domain, addresses, root, trust, id, secret] = fields[..] else { return Err(broken()) };
        let addresses: Vec<String> = addresses.split(',').map(str::to_owned).collect();
        if addresses.len() > limits::ADDRESSES_MAX || addresses.iter().any(|a| a.is_empty()) {
            return Err(broken());
        }
        Ok(TokenString {
            trust_domain: trust_domain.into(),
            addresses,
            root_pin: unhex(root).ok_or_else(broken)?,
            trust_pin: if trust.is_empty() { None } else { Some(trust.parse()?) },
            id: id.parse()?,
            secret: unhex(secret).ok_or_else(broken)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_itself_and_a_cut_one_is_told_from_a_wrong_one() {
        let token = TokenString {
            trust_domain: "acme.example".into(),
            addresses: vec!["manager.acme.example:7443".into(), "10.0.0.1:7443".into()],
            root_pin: [1; 32],
            trust_pin: Some(Digest::of(b"trust")),
            id: TokenId::from_random([3; 16]),
            secret: [4; 32],
        };
        let text = token.encode();
        assert_eq!(TokenString::parse(&format!(" {text}\n")).unwrap(), token);
        for cut in PREFIX.len()..text.len() {
            assert!(TokenString::parse(&text[..cut]).unwrap_err().0.contains("incomplete"), "{cut}");
        }
        assert!(TokenString::parse("hello").unwrap_err().0.contains("starts with"));
        assert!(!format!("{token:?}").contains(&hex(&[4; 32])));
    }
}
