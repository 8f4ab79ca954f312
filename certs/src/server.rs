//! The manager's own certificate: made at first, reused while it lasts, renewed in time.
//!
//! Key and chain are one file, `identity.pem` (0600), in a folder of their own, so that a renewal exchanges both or neither.

use crate::{
    ca::{Authority, CaBundle},
    durable::{self, FileError},
    identity::{self, Identity, PeerCertificate},
    issue::{Host, IssueError, SERVER_VALIDITY},
    keys::{Credential, KeyError, PrivateKey},
};
use std::{collections::BTreeSet, net::IpAddr, path::Path};
use sutler_base::Timestamp;
use x509_parser::extensions::GeneralName;

/// Why there is no certificate for this manager.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder could not be made, or is open to others.
    #[error("the manager's own certificate: {0}")]
    Folder(#[from] FileError),
    /// The key could not be made, read or written.
    #[error("the manager's own certificate: {0}")]
    Key(#[from] KeyError),
    /// The certificate could not be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// The manager's key and chain, from `folder` if what lies there is of these CAs, for exactly these hosts, and has more
/// than a third of its time left at `now`; else a new key with a new certificate, which is left there.
///
/// Call it at start and about once a day; give what it returns to [`ServerCertificate::replace`](crate::tls::ServerCertificate::replace).
pub fn load_or_renew(folder: &Path, ca: &CaBundle, hosts: &[Host], now: Timestamp) -> Result<Credential, ServerError> {
    durable::private_folder(folder)?;
    let path = folder.join("identity.pem");
    match Credential::load(&path) {
        Ok(credential) if is_good(&credential, ca, hosts, now) => return Ok(credential),
        Ok(_) => {}
        Err(KeyError::File(e)) if e.is_not_found() => {}
        // Open to others, or unreadable: a person must know, for the old certificate stays valid until it ends.
        Err(e @ KeyError::File(_)) => return Err(e.into()),
        // Damaged: a new one does no harm.
        Err(_) => {}
    }
    let key = PrivateKey::generate()?;
    let issued = ca.issue_server(hosts, key.public_key(), now, SERVER_VALIDITY)?;
    let credential = Credential { chain: issued.chain, key };
    credential.save(&path)?;
    Ok(credential)
}

fn is_good(credential: &Credential, ca: &CaBundle, hosts: &[Host], now: Timestamp) -> bool {
    let [leaf, rest @ ..] = credential.chain.as_slice() else { return false };
    let issuers = [ca.certificate(Authority::Servers), ca.certificate(Authority::Root)];
    let Ok(peer) = PeerCertificate::parse(leaf, ca.trust_domain()) else { return false };
    let whole = peer.not_after.duration_since(peer.not_before);
    let left = peer.not_after.duration_since(now);
    peer.identity == Identity::Manager
        && rest.iter().eq(issuers)
        && ca.servers.signed(leaf)
        && peer.not_before <= now
        && left > whole / 3
        && hosts_of(leaf) == hosts.iter().cloned().collect()
}

fn hosts_of(leaf: &[u8]) -> BTreeSet<Host> {
    let Ok(certificate) = identity::read(leaf) else { return BTreeSet::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let address = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    };
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(Host::Name((*name).to_owned())),
        GeneralName::IPAddress(bytes) => address(bytes).map(Host::Address),
        _ => None,
    };
    names.value.general_names.iter().filter_map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_managers_certificate_is_kept_while_a_third_is_left_and_then_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ca = CaBundle::create(&"acme.example".parse().unwrap(), now).unwrap();
        let hosts: Vec<Host> = ["manager.acme.example", "127.0.0.1", "::1"].map(|h| h.parse().unwrap()).into();
        let at = |days: u64| now + Duration::from_secs(days * 86_400);
        let get = |ca: &CaBundle, hosts: &[Host], days| load_or_renew(&path, ca, hosts, at(days)).unwrap().chain;
        let first = get(&ca, &hosts, 0);
        assert_eq!(first.len(), 3);
        assert_eq!(first[2], *ca.certificate(Authority::Root));
        assert_eq!(get(&ca, &hosts, 59), first);
        let mut turned = hosts.clone();
        turned.reverse();
        assert_eq!(get(&ca, &turned, 59), first);
        let second = get(&ca, &hosts, 61);
        assert_ne!(second, first);
        let third = get(&ca, &hosts[..1], 61);
        assert_ne!(third, second, "other hosts");
        let other = CaBundle::create(ca.trust_domain(), now).unwrap();
        assert_ne!(get(&other, &hosts[..1], 61), third, "other CAs");
        fs_err::write(path.join("identity.pem"), "garbage").unwrap();
        assert_eq!(get(&ca, &hosts, 61).len(), 3, "a damaged file is replaced");
    }
}
