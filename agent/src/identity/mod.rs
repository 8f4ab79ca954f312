//! Who this machine is to its manager, and by what it knows the manager and the publishers.
//!
//! Files in the vault: `identity.json` (written last by an enrolment: without it the machine is not enrolled),
//! `credential.pem` (key and certificates), `credential.next.pem` (a renewed one, until it was used once),
//! `addresses.json` (of the higher system, in the order to try), `session` (the counter), `pins.json`.
//!
//! The pins (which trust document, what publishers took back, how far back a package may go) are a file of their own.
//! Everything else can be made again by the manager; the pins can't, so if they are lost the machine must enrol again.

mod enroll;
mod pins;
mod publishers;

pub use enroll::{EnrollError, Enrolled, enroll};
pub use pins::{Mark, Pins};
pub use publishers::TrustRefused;

use crate::vault::{Vault, VaultError};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sutler_base::{ClientId, Timestamp, limits};
use sutler_certs::{
    Credential, PeerCertificate, PrivateKey, RevocationList, SignedTrustDocument, TrustDocument, TrustDomain, ca::BACKDATE, pem,
    tls::ServerTrust,
};

const IDENTITY: &str = "identity.json";
const CREDENTIAL: &str = "credential.pem";
const NEXT: &str = "credential.next.pem";
const ADDRESSES: &str = "addresses.json";
const SESSION: &str = "session";
const PINS: &str = "pins.json";

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nobody has enrolled this machine.
    #[error("this machine is not enrolled: run `sutler-agent enroll TOKEN` with a token from `sutler token create`")]
    NotEnrolled,
    /// The pins are gone.
    #[error(
        "the file pins.json is lost or damaged: without it nobody can say which publishers to trust and how old a package may be; enrol again with `sutler-agent enroll --force TOKEN`"
    )]
    PinsLost,
    /// A file does not hold what it should.
    #[error("{file} can't be used: {why}; enrol again with `sutler-agent enroll --force TOKEN`")]
    Damaged {
        /// Which.
        file: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The file system failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    client_id: ClientId,
    trust_domain: String,
    /// PEM.
    root_certificate: String,
    /// The signed document as JSON; none where packages aren't signed.
    trust_document: Option<String>,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Addresses {
    addresses: Vec<String>,
    #[serde(default)]
    site: String,
}

#[derive(Debug)]
struct Changing {
    credential: Arc<Credential>,
    next: Option<Arc<Credential>>,
    addresses: Addresses,
    pins: Pins,
    publishers: Option<Arc<TrustDocument>>,
    revocations: Option<Arc<RevocationList>>,
}

/// An enrolled machine.
pub struct Identity {
    vault: Arc<dyn Vault>,
    client: ClientId,
    trust: ServerTrust,
    changing: Mutex<Changing>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} of {})", self.client, self.trust.trust_domain())
    }
}

/// Which of the two credentials was shown to the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The one that is known to work.
    Current,
    /// The renewed one.
    Renewed,
}

fn damaged(file: &'static str) -> impl FnOnce(String) -> IdentityError {
    move |why| IdentityError::Damaged { file, why }
}

impl Identity {
    /// Whether an enrolment was completed in this vault.
    pub fn exists(vault: &dyn Vault) -> Result<bool, VaultError> {
        Ok(vault.read(IDENTITY)?.is_some())
    }

    /// The identity in the vault.
    pub fn load(vault: Arc<dyn Vault>) -> Result<Identity, IdentityError> {
        let bytes = vault.read(IDENTITY)?.ok_or(IdentityError::NotEnrolled)?;
        let document: Document = serde_json::from_slice(&bytes).map_err(|e| damaged(IDENTITY)(e.to_string()))?;
        let chain = pem::parse_chain(document.root_certificate.as_bytes()).map_err(|e| damaged(IDENTITY)(e.to_string()))?;
        let root = chain.first().ok_or_else(|| damaged(IDENTITY)("it has no root certificate".into()))?;
        let trust = ServerTrust::from_root(root).map_err(|e| damaged(IDENTITY)(e.to_string()))?;
        let pins = vault.read(PINS)?.ok_or(IdentityError::PinsLost)?;
        let pins: Pins = serde_json::from_slice(&pins).map_err(|_| IdentityError::PinsLost)?;
        // The newest one that was taken stands beside its pin; the one of the enrolment is in the identity.
        let publishers = match (pins.document.as_ref().or(document.trust_document.as_ref()), &pins.trust) {
            (Some(json), Some(pin)) => {
                let opened = SignedTrustDocument::from_json(json.as_bytes()).and_then(|d| d.open_pinned(pin));
                Some(Arc::new(opened.map_err(|e| damaged(IDENTITY)(e.to_string()))?))
            }
            (None, None) => None,
            _ => return Err(damaged(IDENTITY)("the trust document and its pin don't belong together".into())),
        };
        let revocations = publishers::kept(&pins).map_err(|_| IdentityError::PinsLost)?;
        let current = vault.read(CREDENTIAL)?.ok_or_else(|| damaged(CREDENTIAL)("it is not there".into()))?;
        let credential = credential_in(&current).map_err(damaged(CREDENTIAL))?;
        // A renewed one that can't be read is none: the current one works.
        let next = vault.read(NEXT)?.and_then(|bytes| credential_in(&bytes).ok());
        let addresses = match vault.read(ADDRESSES)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| damaged(ADDRESSES)(e.to_string()))?,
            None => return Err(damaged(ADDRESSES)("it is not there".into())),
        };
        let changing = Changing { credential: Arc::new(credential), next: next.map(Arc::new), addresses, pins, publishers, revocations };
        Ok(Identity { vault, client: document.client_id, trust, changing: Mutex::new(changing) })
    }

    /// The client's id.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// By what the manager is known.
    pub fn trust(&self) -> &ServerTrust {
        &self.trust
    }

    /// The key and certificates to show: a renewed one first, since it is not in use before it was shown.
    pub fn credential(&self) -> (Arc<Credential>, Shown) {
        let changing = self.lock();
        match &changing.next {
            Some(next) => (next.clone(), Shown::Renewed),
            None => (changing.credential.clone(), Shown::Current),
        }
    }

    /// The credential that is known to work.
    pub fn current(&self) -> Arc<Credential> {
        self.lock().credential.clone()
    }

    /// Where the higher system is, in the order to try.
    pub fn addresses(&self) -> Vec<String> {
        self.lock().addresses.addresses.clone()
    }

    /// The site that the manager told; empty before.
    pub fn site(&self) -> String {
        self.lock().addresses.site.clone()
    }

    /// Keeps what the higher system says about where it is; an empty list changes nothing.
    pub fn set_addresses(&self, addresses: &[String], site: Option<&str>) -> Result<(), VaultError> {
        let mut changing = self.lock();
        let mut new = changing.addresses.clone();
        let good: Vec<String> = addresses.iter().filter(|a| plausible(a)).take(limits::ADDRESSES_MAX).cloned().collect();
        if !good.is_empty() {
            new.addresses = good;
        }
        if let Some(site) = site.filter(|s| s.len() <= 64) {
            new.site = site.into();
        }
        if new.addresses != changing.addresses.addresses || new.site != changing.addresses.site {
            self.vault.write(ADDRESSES, &json(&new))?;
            changing.addresses = new;
        }
        Ok(())
    }

    /// The number of the next session, durable before it is given.
    pub fn next_session(&self) -> Result<u64, VaultError> {
        let last = self.vault.read(SESSION)?.and_then(|b| String::from_utf8(b).ok()?.trim().parse().ok()).unwrap_or(0u64);
        let next = last.saturating_add(1);
        self.vault.write(SESSION, next.to_string().as_bytes())?;
        Ok(next)
    }

    /// Keeps a renewed credential beside the current one, to be shown from the next connection on.
    pub fn set_next(&self, chain: &[Vec<u8>], key: PrivateKey) -> Result<(), IdentityError> {
        let bytes = credential_bytes(chain, &key);
        let next = credential_in(&bytes).map_err(damaged("the renewed certificate"))?;
        self.check(&next).map_err(damaged("the renewed certificate"))?;
        self.vault.write(NEXT, &bytes)?;
        self.lock().next = Some(Arc::new(next));
        Ok(())
    }

    /// The renewed credential was used: the one before is not needed any more.
    pub fn promote(&self) -> Result<(), VaultError> {
        let mut changing = self.lock();
        let Some(next) = changing.next.clone() else { return Ok(()) };
        if let Some(bytes) = self.vault.read(NEXT)? {
            self.vault.write(CREDENTIAL, &bytes)?;
        }
        self.vault.remove(NEXT)?;
        changing.credential = next;
        changing.next = None;
        Ok(())
    }

    /// The manager does not know the renewed credential: the one before is shown again.
    pub fn drop_next(&self) -> Result<(), VaultError> {
        self.vault.remove(NEXT)?;
        self.lock().next = None;
        Ok(())
    }

    /// What the newest certificate says.
    pub fn certificate(&self) -> Result<PeerCertificate, IdentityError> {
        let (credential, _) = self.credential();
        self.check(&credential).map_err(damaged(CREDENTIAL))
    }

    fn check(&self, credential: &Credential) -> Result<PeerCertificate, String> {
        let leaf = credential.chain.first().ok_or("it has no certificate")?;
        let peer = PeerCertificate::parse(leaf, self.trust.trust_domain()).map_err(|e| e.to_string())?;
        match &peer.identity {
            sutler_certs::Identity::Agent(id) if *id == self.client => Ok(peer),
            other => Err(format!("it is of {other}, not of agent/{}", self.client)),
        }
    }

    /// When this machine renews its certificate: two thirds of its life after it was issued, ± 10 % of that so that machines
    /// that enrolled together don't renew together.
    pub fn renew_at(certificate: &PeerCertificate, random: u64) -> Timestamp {
        // It starts in the past, for machines whose clock is behind.
        let issued = certificate.not_before.as_millisecond() + BACKDATE.as_millis() as i64;
        let life = (certificate.not_after.as_millisecond() - issued).max(0);
        let share = 600 + (random % 134) as i64; // 60.0 % to 73.3 %
        Timestamp::from_millisecond(issued.saturating_add(life * share / 1000)).unwrap_or(certificate.not_after)
    }

    /// Signs an outcome with the machine's key.
    pub fn sign_outcome(&self, outcome: &[u8]) -> Result<Vec<u8>, sutler_certs::keys::KeyError> {
        self.current().key.sign(sutler_base::outcome::SIGNING_CONTEXT, outcome)
    }

    /// The mark of a package.
    pub fn mark(&self, package: &sutler_base::PackageName) -> Option<Mark> {
        self.lock().pins.marks.get(package).copied()
    }

    /// Moves the mark of a package that was installed, durably.
    pub fn installed(&self, package: &sutler_base::PackageName, release: u64) -> Result<(), VaultError> {
        let mut changing = self.lock();
        let mut pins = changing.pins.clone();
        pins.installed(package, release);
        if pins != changing.pins {
            self.vault.write(PINS, &json(&pins))?;
            changing.pins = pins;
        }
        Ok(())
    }

    /// Forgets the machine's identity: it has left. The marks stay.
    pub fn forget(vault: &dyn Vault) -> Result<(), VaultError> {
        for name in [IDENTITY, CREDENTIAL, NEXT, ADDRESSES] {
            vault.remove(name)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `host:port`, short and printable: it is only ever resolved.
fn plausible(address: &str) -> bool {
    address.len() <= 300
        && address.is_ascii()
        && !address.contains(char::is_whitespace)
        && address.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn credential_bytes(chain: &[Vec<u8>], key: &PrivateKey) -> Vec<u8> {
    let mut bytes = key.to_pem().as_bytes().to_vec();
    for certificate in chain {
        bytes.extend_from_slice(pem::encode("CERTIFICATE", certificate).as_bytes());
    }
    bytes
}

fn credential_in(bytes: &[u8]) -> Result<Credential, String> {
    let chain = pem::parse_chain(bytes).map_err(|e| e.to_string())?;
    let der = pem::parse_key(bytes).map_err(|e| e.to_string())?;
    let key = PrivateKey::from_pkcs8(der.secret_pkcs8_der()).map_err(|e| e.to_string())?;
    Ok(Credential { chain, key })
}

/// The trust domain as a type.
fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    text.parse().map_err(|e: sutler_base::Invalid| e.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use sutler_certs::CaBundle;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_plus_or_minus_a_tenth_of_that() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ca = CaBundle::create(&"acme.example".parse().unwrap(), now).unwrap();
        let key = PrivateKey::generate().unwrap();
        for life in [30 * 86_400, 30] {
            let issued = ca.issue_agent(&ClientId::from_random([1; 16]), key.public_key(), now, Duration::from_secs(life)).unwrap();
            let certificate = PeerCertificate::parse(&issued.chain[0], ca.trust_domain()).unwrap();
            let shares: Vec<f64> = (0..1000u64)
                .map(|random| Identity::renew_at(&certificate, random.wrapping_mul(0x9e37_79b9_7f4a_7c15)).duration_since(now))
                .map(|after| after.as_secs_f64() / life as f64)
                .collect();
            let (least, most) = shares.iter().fold((1.0f64, 0.0f64), |(least, most), s| (least.min(*s), most.max(*s)));
            assert!((0.599..0.605).contains(&least) && (0.73..0.734).contains(&most), "{life}: {least} to {most}");
        }
    }
}
