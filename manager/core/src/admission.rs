//! Who is let in with an enrolment token, and whether at once or only once an operator approves.

use crate::model::Token;
use ipnet::IpNet;
use std::net::IpAddr;
use sutler_base::{Invalid, Timestamp, quoted};

/// What becomes of a machine that came with a good secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is a client and gets work.
    Active,
    /// It is a client, but an operator has to approve it; the sentence says why.
    Pending(String),
}

/// Why a token lets nobody in. The caller learns none of this; the audit log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was used as often as it can be.
    #[error("the token is used up")]
    UsedUp,
    /// An operator revoked it.
    #[error("the token was revoked")]
    Revoked,
}

/// What a machine says of itself when it enrols, and where it calls from.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// Its host name. Untrusted.
    pub hostname: &'a str,
    /// Its machine id. Untrusted.
    pub machine_id: &'a str,
    /// The address of the connection.
    pub address: IpAddr,
}

/// Whether the token lets the applicant in.
///
/// A token for one use lets its machine in at once. A reusable one lets in at once whom its networks or its list of
/// expected machines name; with neither, nobody: a string that stands in an image is no proof of anything. What it has of
/// the two must both hold.
pub fn admit(token: &Token, applicant: Applicant<'_>, now: Timestamp) -> Result<Admission, Refused> {
    if token.revoked.is_some() {
        return Err(Refused::Revoked);
    }
    if now >= token.expires {
        return Err(Refused::Expired);
    }
    if token.used >= token.uses {
        return Err(Refused::UsedUp);
    }
    if token.uses > 1 && token.networks.is_empty() && token.expected.is_empty() {
        return Ok(Admission::Pending("its token can be used more than once and names neither networks nor machines".into()));
    }
    let inside = |network: &String| network.parse::<IpNet>().is_ok_and(|n| n.contains(&applicant.address.to_canonical()));
    if !token.networks.is_empty() && !token.networks.iter().any(inside) {
        return Ok(Admission::Pending(format!("it called from {}, outside its token's networks", applicant.address)));
    }
    let meant = |name: &String| (name == applicant.hostname || name == applicant.machine_id) && !name.is_empty();
    if !token.expected.is_empty() && !token.expected.iter().any(meant) {
        return Ok(Admission::Pending(format!("its token does not expect a machine called {}", quoted(applicant.hostname))));
    }
    Ok(Admission::Active)
}

/// A network in CIDR notation, as it is stored: an address alone is a network of one.
pub fn network(text: &str) -> Result<IpNet, Invalid> {
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    parsed
        .map(|n| n.trunc())
        .map_err(|_| Invalid::new(format!("a network is written like 10.0.0.0/8 or 2001:db8::/32, not {}", quoted(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(uses: u32, networks: &[&str], expected: &[&str]) -> Token {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        Token {
            id: sutler_base::TokenId::from_random([1; 16]),
            secret_hash: [0; 32],
            description: String::new(),
            uses,
            used: 0,
            expires: Timestamp::from_second(1000).unwrap(),
            networks: words(networks),
            expected: words(expected),
            groups: vec![],
            labels: Default::default(),
            replaces: None,
            created: Timestamp::UNIX_EPOCH,
            creator: "anna".into(),
            revoked: None,
        }
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn from(address: &str) -> Applicant<'static> {
        Applicant { hostname: "pc7", machine_id: "m7", address: address.parse().unwrap() }
    }

    #[test]
    fn a_reusable_token_lets_in_at_once_only_whom_it_names() {
        assert_eq!(admit(&token(1, &[], &[]), from("10.1.2.3"), NOW), Ok(Admission::Active));
        assert!(matches!(admit(&token(9, &[], &[]), from("10.1.2.3"), NOW), Ok(Admission::Pending(_))));
        assert_eq!(admit(&token(9, &["10.0.0.0/8"], &[]), from("10.1.2.3"), NOW), Ok(Admission::Active));
        assert_eq!(admit(&token(9, &["10.0.0.0/8"], &[]), from("::ffff:10.1.2.3"), NOW), Ok(Admission::Active));
        assert!(matches!(admit(&token(9, &["10.0.0.0/8"], &[]), from("11.1.2.3"), NOW), Ok(Admission::Pending(_))));
        assert_eq!(admit(&token(9, &[], &["pc7"]), from("11.1.2.3"), NOW), Ok(Admission::Active));
        assert!(matches!(admit(&token(9, &["10.0.0.0/8"], &["pc8"]), from("10.1.2.3"), NOW), Ok(Admission::Pending(_))));
    }

    #[test]
    fn a_token_that_is_over_lets_nobody_in() {
        let late = Timestamp::from_second(1000).unwrap();
        assert_eq!(admit(&token(1, &[], &[]), from("10.1.2.3"), late), Err(Refused::Expired));
        let mut used = token(2, &["10.0.0.0/8"], &[]);
        used.used = 2;
        assert_eq!(admit(&used, from("10.1.2.3"), NOW), Err(Refused::UsedUp));
        used.revoked = Some(NOW);
        assert_eq!(admit(&used, from("10.1.2.3"), NOW), Err(Refused::Revoked));
    }

    #[test]
    fn a_network_is_stored_in_one_form() {
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(network("ten").unwrap_err().0.contains("10.0.0.0/8"));
    }
}
