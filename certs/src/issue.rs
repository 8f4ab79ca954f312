//! Issues the certificates of agents, operators and managers.
//!
//! In goes a public key and what the *manager* knows about its holder. There is no way to hand a request's own wishes to
//! these functions: a request is read by [`public_key_of_csr`](crate::public_key_of_csr), which gives out the key alone.

use crate::{
    ca::{Authority, CaBundle, IssuingCa, base_params},
    identity::{Identity, Serial, dns_label},
    keys::PublicKey,
    pem,
};
use rcgen::{DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use std::{fmt, net::IpAddr, str::FromStr, time::Duration};
use sutler_base::{ClientId, Invalid, OperatorName, Timestamp, quoted};

/// How long an agent's certificate is valid: 30 days.
pub const AGENT_VALIDITY: Duration = Duration::from_secs(30 * 86_400);
/// How long an operator's certificate is valid: 12 hours.
pub const OPERATOR_VALIDITY: Duration = Duration::from_secs(12 * 3_600);
/// How long a manager's certificate is valid: 90 days.
pub const SERVER_VALIDITY: Duration = Duration::from_secs(90 * 86_400);

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The issuing CA ends before the certificate could start to be of use.
    #[error("cannot issue a certificate to {identity}: the {authority} ended at {ended}; make new CAs")]
    CaEnded {
        /// Who should have got it.
        identity: Identity,
        /// Which CA.
        authority: Authority,
        /// Since when.
        ended: Timestamp,
    },
    /// Signing or encoding failed.
    #[error("cannot issue a certificate to {identity}: {reason}")]
    Failed {
        /// Who should have got it.
        identity: Identity,
        /// Why.
        reason: String,
    },
}

/// A name or an address under which a manager is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name, in lower case; no wildcard.
    Name(String),
    /// An IP address.
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Host::Address(address));
        }
        let name = text.to_ascii_lowercase();
        let numeric = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
        if name.len() <= 253 && name.split('.').all(dns_label) && !numeric {
            Ok(Host::Name(name))
        } else {
            Err(Invalid::new(format!("a host is a DNS name or an IP address without a port, not {}", quoted(text))))
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A certificate that was just issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, then the CA that issued it; a manager's has the root as well.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its serial number, by which it can be revoked.
    pub serial: Serial,
    /// Whose it is.
    pub identity: Identity,
    /// The SHA-256 digest of its key's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// The last second at which it is valid.
    pub not_after: Timestamp,
}

impl Issued {
    /// The chain in PEM.
    pub fn chain_pem(&self) -> String {
        pem::encode_chain(&self.chain)
    }

    /// The chain as it travels: the DER of each certificate.
    pub fn chain_der(&self) -> Vec<Vec<u8>> {
        self.chain.iter().map(|c| c.to_vec()).collect()
    }
}

impl CaBundle {
    /// A certificate for the agent on `client`, for TLS clients, valid from five minutes before `now` for `validity` (by
    /// default [`AGENT_VALIDITY`]), but no longer than its CA.
    pub fn issue_agent(&self, client: &ClientId, key: &PublicKey, now: Timestamp, validity: Duration) -> Result<Issued, IssueError> {
        self.issue(Authority::Agents, Identity::Agent(client.clone()), &[], key, now, validity)
    }

    /// A certificate for an operator; as [`CaBundle::issue_agent`], by default [`OPERATOR_VALIDITY`].
    pub fn issue_operator(&self, name: &OperatorName, key: &PublicKey, now: Timestamp, validity: Duration) -> Result<Issued, IssueError> {
        self.issue(Authority::Operators, Identity::Operator(name.clone()), &[], key, now, validity)
    }

    /// A certificate for a manager that is reached under `hosts`, for TLS servers; by default [`SERVER_VALIDITY`].
    ///
    /// Agents and the command line check the identity and not the host; the hosts are for other tools, such as grpcurl.
    pub fn issue_server(&self, hosts: &[Host], key: &PublicKey, now: Timestamp, validity: Duration) -> Result<Issued, IssueError> {
        self.issue(Authority::Servers, Identity::Manager, hosts, key, now, validity)
    }

    fn issue(
        &self,
        authority: Authority,
        identity: Identity,
        hosts: &[Host],
        key: &PublicKey,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Issued, IssueError> {
        let ca = match authority {
            Authority::Agents => &self.agents,
            Authority::Operators => &self.operators,
            Authority::Servers | Authority::Root => &self.servers,
        };
        if ca.not_after <= now {
            return Err(IssueError::CaEnded { identity, authority, ended: ca.not_after });
        }
        // A leaf that outlives its CA would be refused by some verifiers and not by others.
        let left = Duration::try_from(ca.not_after.duration_since(now)).unwrap_or_default();
        match self.sign(ca, authority, &identity, hosts, key, now, validity.min(left)) {
            Ok(issued) => Ok(issued),
            Err(reason) => Err(IssueError::Failed { identity, reason }),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn sign(
        &self,
        ca: &IssuingCa,
        authority: Authority,
        identity: &Identity,
        hosts: &[Host],
        key: &PublicKey,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Issued, String> {
        let base = base_params(now, validity)?;
        let mut params = base.params;
        let common_name = match identity {
            Identity::Agent(id) => id.as_str(),
            Identity::Operator(name) => name.as_str(),
            Identity::Manager => "manager",
        };
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names.push(SanType::URI(identity.uri(&self.trust_domain().clone()).try_into().map_err(|e| format!("{e}"))?));
        for host in hosts {
            params.subject_alt_names.push(match host {
                Host::Name(name) => SanType::DnsName(name.as_str().try_into().map_err(|e| format!("{e}"))?),
                Host::Address(address) => SanType::IpAddress(*address),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match authority {
            Authority::Agents | Authority::Operators => ExtendedKeyUsagePurpose::ClientAuth,
            Authority::Servers | Authority::Root => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        let leaf = params.signed_by(key, &ca.issuer).map_err(|e| e.to_string())?.der().clone();
        let mut chain = vec![leaf, ca.certificate.clone()];
        if authority == Authority::Servers {
            // A newcomer knows the root by its digest alone, so it has to be shown.
            chain.push(self.certificate(Authority::Root).clone());
        }
        let (serial, not_after) = (base.serial, base.not_after);
        Ok(Issued { chain, serial, identity: identity.clone(), spki_sha256: key.sha256(), not_after })
    }
}

#[cfg(test)]
#[path = "issue_tests.rs"]
mod tests;
