//! Renews the operator's certificate while the command line is used: with a new key, so that nothing is lost half-way.
//!
//! A profile has its key and its certificate in two files, so that other tools can use them. Both must change together,
//! whatever happens in between. So a renewal first writes both into one file beside them (`operator.next.pem`, there
//! whole or not at all), then replaces the two files, then removes it. Whoever loads a profile finishes what was begun.

use super::{bundle::Bundle, connection::Connection, error::CliError, session::service};
use crate::profile::{self, Profile, ProfileError, ProfileName};
use rustix::fs::{FlockOperation, flock};
use rustls::pki_types::CertificateDer;
use std::path::Path;
use sutler_base::Timestamp;
use sutler_certs::{
    Passphrase, PeerCertificate, PrivateKey,
    durable::{self, Readers},
    pem,
};
use sutler_proto::v1;
use zeroize::Zeroizing;

/// Key and certificate of a renewal that is not finished.
const NEXT: &str = "operator.next.pem";
/// The longest such file (bytes).
const NEXT_MAX: u64 = 64 << 10;

/// When the certificate began and when it ends; nothing if it can't be read, which the handshake will say better.
fn validity(profile: &Profile) -> Option<(Timestamp, Timestamp)> {
    let leaf = PeerCertificate::parse(profile.certificate_chain.first()?, &profile.trust_domain).ok()?;
    Some((leaf.not_before, leaf.not_after))
}

/// Whether a third of the certificate's time is gone.
pub fn is_due(profile: &Profile, now: Timestamp) -> bool {
    validity(profile).is_some_and(|(begin, end)| third_gone(begin, end, now))
}

fn third_gone(begin: Timestamp, end: Timestamp, now: Timestamp) -> bool {
    now.as_second() - begin.as_second() >= (end.as_second() - begin.as_second()) / 3
}

/// Whether the certificate has ended, so that it opens nothing but the renewal.
pub fn is_over(profile: &Profile, now: Timestamp) -> bool {
    validity(profile).is_some_and(|(_, end)| now.as_second() > end.as_second())
}

/// A lock that ends with this value, or with the process.
pub struct Guard(#[allow(dead_code, reason = "the lock is the open file")] fs_err::File);

/// Locks a file of the profile; `None` if another command holds it and `operation` does not wait.
fn lock(folder: &Path, file: &str, operation: FlockOperation) -> Option<Guard> {
    let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(file)).ok()?;
    flock(&file, operation).ok()?;
    Some(Guard(file))
}

/// Begins a renewal, unless another command is at it: one is enough. With a certificate that has ended there is nothing
/// else to do: then it waits for the other one.
pub fn begin(config: &Path, name: &ProfileName, wait: bool) -> Option<Guard> {
    let operation = if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
    lock(&profile::folder_of(config, name), "renewal.lock", operation)
}

/// The profile, after a renewal that was interrupted is finished.
pub fn load(config: &Path, name: &ProfileName) -> Result<Profile, ProfileError> {
    let folder = profile::folder_of(config, name);
    // Without the lock (a read-only folder) files that don't fit together may be seen: the handshake would say so.
    let _guard = folder.is_dir().then(|| lock(&folder, "files.lock", FlockOperation::LockExclusive)).flatten();
    finish(&folder)?;
    Profile::load(config, name)
}

/// Makes the certificate in `operator.next.pem` the profile's, if there is one. The key is moved as it lies there, encrypted or
/// not: nobody needs to open it for that.
fn finish(folder: &Path) -> Result<(), ProfileError> {
    let next = folder.join(NEXT);
    if !next.exists() {
        return Ok(());
    }
    let text = durable::read_private(&next, NEXT_MAX)?;
    let chain = pem::parse_chain(&text).map_err(|source| ProfileError::Certificate { path: next.clone(), source })?;
    const FIRST: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let key = text.windows(FIRST.len()).position(|w| w == FIRST).unwrap_or_default();
    durable::write(&folder.join("operator.key"), &text[..key], Readers::Owner)?;
    durable::write(&folder.join("operator.pem"), pem::encode_chain(&chain).as_bytes(), Readers::Owner)?;
    fs_err::remove_file(&next).map_err(|source| ProfileError::Folder { path: next.clone(), source })
}

/// Asks for a new certificate for a new key, and puts both into the profile.
///
/// The key is encrypted with `passphrase`, if the one before it was.
pub async fn renew(connection: &Connection, config: &Path, name: &ProfileName, passphrase: Option<&Passphrase>) -> Result<(), CliError> {
    let tried = format!("renew the certificate of the profile {name}");
    let failed = |e: &dyn std::error::Error| CliError::local(tried.clone(), e);
    let key = PrivateKey::generate().map_err(|e| failed(&e))?;
    let request = v1::RenewOperatorCertificateRequest { csr: key.csr().map_err(|e| failed(&e))?.into() };
    let origin = connection.origin();
    let answer = connection
        .call(&tried, |channel| {
            let (request, origin) = (request.clone(), origin.clone());
            async move { service::operators(channel, origin).renew_operator_certificate(request).await }
        })
        .await?;
    let chain: Vec<_> = answer.certificates.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    if chain.is_empty() {
        return Err(CliError::Local { tried, why: "the manager sent no certificate".into(), hint: None });
    }
    let folder = profile::folder_of(config, name);
    // Before anything that works is replaced.
    if !key.public_key().is_of(&chain[0]) {
        return Err(CliError::Local { tried, why: "the manager sent a certificate for another key".into(), hint: None });
    }
    let key = match passphrase {
        Some(passphrase) => sutler_certs::passphrase::seal(&key.to_pkcs8(), passphrase).map_err(|e| failed(&e))?,
        None => key.to_pem(),
    };
    exchange(&folder, key.as_bytes(), &chain).map_err(|e| failed(&e))
}

/// Puts a new key (in its armour) with its certificate into the profile in `folder`: both or neither.
fn exchange(folder: &Path, key: &[u8], chain: &[CertificateDer<'static>]) -> Result<(), ProfileError> {
    let _guard = lock(folder, "files.lock", FlockOperation::LockExclusive);
    let both = Zeroizing::new([key, pem::encode_chain(chain).as_bytes()].concat());
    durable::write(&folder.join(NEXT), &both, Readers::Owner)?;
    finish(folder)
}

/// Makes a profile of what an administrator gave for its request, or gives it its new certificate. Whatever interrupts it,
/// the same command ends it.
pub fn import(config: &Path, bundle: &Bundle) -> Result<Profile, ProfileError> {
    let name = profile::asked(config, &bundle.chain[0])?;
    let folder = profile::folder_of(config, &name);
    if folder.join("profile.toml").exists() {
        let there = load(config, &name)?;
        if there.root != bundle.root {
            return Err(ProfileError::OtherManager { name });
        }
    }
    let key = durable::read_private(&folder.join(profile::REQUEST_KEY), NEXT_MAX)?;
    exchange(&folder, &key, &bundle.chain)?;
    let imported = Profile::settle(&folder, &name, &bundle.address, &bundle.trust_domain, &bundle.root)?;
    for file in [profile::REQUEST, profile::REQUEST_KEY] {
        let path = folder.join(file);
        fs_err::remove_file(&path).map_err(|source| ProfileError::Folder { path, source })?;
    }
    Ok(imported)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use sutler_certs::{CaBundle, Credential, ca::Authority};

    #[test]
    fn a_renewal_that_was_interrupted_anywhere_is_finished_by_the_next_command() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ca = CaBundle::create(&"acme.example".parse().unwrap(), now).unwrap();
        let issue =
            |key: &PrivateKey| ca.issue_operator(&"ann".parse().unwrap(), key.public_key(), now, Duration::from_secs(43_200)).unwrap();
        let config = tempfile::tempdir().unwrap();
        let name: ProfileName = "ann".parse().unwrap();
        let key = PrivateKey::generate().unwrap();
        let mut profile = Profile {
            name: name.clone(),
            address: "localhost:7444".into(),
            trust_domain: ca.trust_domain().clone(),
            certificate_chain: issue(&key).chain,
            key: Some(key),
            passphrase: None,
            root: ca.certificate(Authority::Root).clone(),
            publisher_key_path: Default::default(),
            trust_document_path: Default::default(),
        };
        profile.save(config.path()).unwrap();
        let folder = profile::folder_of(config.path(), &name);
        for written in 0..3 {
            let key = PrivateKey::generate().unwrap();
            let credential = Credential { chain: issue(&key).chain, key };
            credential.save(&folder.join(NEXT)).unwrap();
            if written > 0 {
                credential.key.save(&folder.join("operator.key")).unwrap();
            }
            if written > 1 {
                durable::write(&folder.join("operator.pem"), pem::encode_chain(&credential.chain).as_bytes(), Readers::Owner).unwrap();
            }
            let loaded = load(config.path(), &name).unwrap();
            assert_eq!(loaded.certificate_chain, credential.chain);
            assert_eq!(loaded.key.unwrap().public_key(), credential.key.public_key());
            assert!(!folder.join(NEXT).exists());
        }
        let loaded = load(config.path(), &name).unwrap();
        assert!(!is_due(&loaded, now));
        assert!(is_due(&loaded, "2026-01-01T04:00:00Z".parse().unwrap()));
        assert!(!is_over(&loaded, "2026-01-01T11:00:00Z".parse().unwrap()));
        assert!(is_over(&loaded, "2026-01-01T12:00:01Z".parse().unwrap()));
    }

    #[test]
    fn two_commands_do_not_renew_at_once() {
        let config = tempfile::tempdir().unwrap();
        let name: ProfileName = "ann".parse().unwrap();
        fs_err::create_dir_all(profile::folder_of(config.path(), &name)).unwrap();
        let first = begin(config.path(), &name, false);
        assert!(first.is_some());
        assert!(begin(config.path(), &name, false).is_none());
        drop(first);
        assert!(begin(config.path(), &name, false).is_some());
    }
}
