//! The certificate authorities of a trust domain: a root, and one issuing CA each for agents, operators and servers.
//!
//! Each port of the manager trusts exactly its own issuing CA, never the root, so that no certificate stands in for
//! another. An issuing CA may sign leaves only (path length 0), for one use only (its own extended key usage says which;
//! verifiers hold the leaf to it). The root signs issuing CAs and nothing else: its key can go offline, and everything
//! works without it.
//!
//! There are no name constraints: constraints on URIs are refused by the verifiers that are used here (RUSTSEC-2026-0098).
//!
//! On disk it is one folder (0700) of PEM files: `root.pem`, `agents.pem`, `operators.pem`, `servers.pem` and their
//! `.key` files (0600). Another manager of the same installation gets a copy. It is never in the database.

use crate::{
    durable::{self, FileError, Readers},
    identity::{self, CertificateError, RootPin, Serial, TrustDomain},
    keys::{self, KeyError, PrivateKey, PublicKey},
    pem::{self, PemError},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};
use sutler_base::{Invalid, Timestamp, quoted};
use zeroize::Zeroizing;

/// How long the root is valid: 20 years.
pub const ROOT_VALIDITY: Duration = Duration::from_secs(20 * 365 * 86_400 + 5 * 86_400);
/// How long an issuing CA is valid: 5 years.
pub const ISSUING_VALIDITY: Duration = Duration::from_secs(5 * 365 * 86_400 + 86_400);
/// How far in the past every certificate starts, for machines whose clock is behind.
pub const BACKDATE: Duration = Duration::from_secs(300);

/// The first line of what is given to another manager.
const BUNDLE: &str = "# sutler CAs 1";

/// The longest file of a CA (bytes).
const FILE_MAX: u64 = 64 << 10;

/// Which of the CAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authority {
    /// The root, which signs the others.
    Root,
    /// Signs the certificates of agents.
    Agents,
    /// Signs the certificates of operators.
    Operators,
    /// Signs the certificates of managers.
    Servers,
}

impl Authority {
    fn word(self) -> &'static str {
        match self {
            Authority::Root => "root",
            Authority::Agents => "agents",
            Authority::Operators => "operators",
            Authority::Servers => "servers",
        }
    }

    fn usage(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Authority::Root => vec![],
            Authority::Agents | Authority::Operators => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Authority::Servers => vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CA", self.word())
    }
}

/// What went wrong with the CAs.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A key could not be made.
    #[error("cannot make the key of the {authority}: {source}")]
    MakeKey {
        /// Whose key.
        authority: Authority,
        /// Why.
        source: KeyError,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate of the {authority}: {reason}")]
    MakeCertificate {
        /// Whose certificate.
        authority: Authority,
        /// Why.
        reason: String,
    },
    /// A key that is not the root's.
    #[error("this is not the key of the root {pin}; give the `root.key` that `sutler init` made")]
    OtherRootKey {
        /// The root.
        pin: RootPin,
    },
    /// A text that holds no CAs.
    #[error("this is no bundle of `sutler ca export`: {reason}; make it again on the first manager")]
    NoBundle {
        /// Why not.
        reason: String,
    },
    /// There are CAs already.
    #[error("{path} exists already; CAs are never overwritten, since every agent would have to enrol again. Choose another folder")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder could not be written.
    #[error("cannot write the CAs to {path}: {source}")]
    Save {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("the CAs' files: {0}")]
    File(#[from] FileError),
    /// A key could not be read or written.
    #[error("the CAs' files: {0}")]
    Key(#[from] KeyError),
    /// A certificate's file holds something else.
    #[error("{path}: {source}; restore it from a backup")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
    /// A certificate is not what its file's name says.
    #[error("{path} is not the certificate of the {authority}: {reason}; restore it from a backup")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What it should be.
        authority: Authority,
        /// In what it is not.
        reason: String,
    },
}

/// One CA that signs leaves.
pub(crate) struct IssuingCa {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, PrivateKey>,
    pub(crate) not_after: Timestamp,
}

impl IssuingCa {
    /// Whether this CA signed the certificate.
    pub(crate) fn signed(&self, certificate: &CertificateDer<'_>) -> bool {
        identity::read(certificate).is_ok_and(|c| signed_by(&c, self.issuer.key().public_key()))
    }
}

fn signed_by(certificate: &x509_parser::certificate::X509Certificate<'_>, key: &PublicKey) -> bool {
    key.verify_raw(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).is_ok()
}

/// The CAs of a trust domain, with the issuing CAs' keys and perhaps the root's.
pub struct CaBundle {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    root_key: Option<PrivateKey>,
    pub(crate) agents: IssuingCa,
    pub(crate) operators: IssuingCa,
    pub(crate) servers: IssuingCa,
}

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaBundle({}, root {})", self.trust_domain, self.root_pin())
    }
}

impl CaBundle {
    /// New CAs for a new trust domain, with keys from the system's randomness. In memory: see [`CaBundle::save`].
    pub fn create(trust_domain: &TrustDomain, now: Timestamp) -> Result<CaBundle, CaError> {
        let key = |authority| PrivateKey::generate().map_err(|source| CaError::MakeKey { authority, source });
        let root_key = key(Authority::Root)?;
        let root_params = params(Authority::Root, trust_domain, now)?;
        let root = root_params.self_signed(&root_key).map_err(|e| failed(Authority::Root, e))?.der().clone();
        let root_issuer = Issuer::from_params(&root_params, &root_key);
        let issuing = |authority| {
            let key = key(authority)?;
            let params = params(authority, trust_domain, now)?;
            let certificate = params.signed_by(&key, &root_issuer).map_err(|e| failed(authority, e))?.der().clone();
            issuing(certificate, key).map_err(|e| failed(authority, e))
        };
        let (agents, operators, servers) = (issuing(Authority::Agents)?, issuing(Authority::Operators)?, issuing(Authority::Servers)?);
        Ok(CaBundle { trust_domain: trust_domain.clone(), agents, operators, servers, root, root_key: Some(root_key) })
    }

    /// Writes the CAs to the folder `path`, which must not exist: all of it or nothing, durably.
    pub fn save(&self, path: &Path) -> Result<(), CaError> {
        if path.symlink_metadata().is_ok() {
            return Err(CaError::Exists { path: path.into() });
        }
        let failed = |source| CaError::Save { path: path.into(), source };
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let _ = fs_err::remove_dir_all(&temporary);
        let result = self.save_into(&temporary).and_then(|()| {
            // Fails if somebody else made it meanwhile: a folder is renamed over an empty one only.
            fs_err::rename(&temporary, path).map_err(failed)?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            durable::sync_folder(parent).map_err(failed)
        });
        if result.is_err() {
            let _ = fs_err::remove_dir_all(&temporary);
        }
        result
    }

    fn save_into(&self, folder: &Path) -> Result<(), CaError> {
        durable::private_folder(folder)?;
        let certificate = |authority, der: &CertificateDer<'_>| {
            durable::write(&file(folder, authority, "pem"), pem::encode("CERTIFICATE", der).as_bytes(), Readers::Everybody)
        };
        certificate(Authority::Root, &self.root)?;
        if let Some(key) = &self.root_key {
            key.save(&file(folder, Authority::Root, "key"))?;
        }
        for (authority, ca) in self.issuing() {
            certificate(authority, &ca.certificate)?;
            ca.issuer.key().save(&file(folder, authority, "key"))?;
        }
        Ok(())
    }

    fn issuing(&self) -> [(Authority, &IssuingCa); 3] {
        [(Authority::Agents, &self.agents), (Authority::Operators, &self.operators), (Authority::Servers, &self.servers)]
    }

    /// New issuing CAs under the same root, whose key this is. What the ones before have issued stays valid for whoever
    /// accepts it. In memory: see [`CaBundle::save`].
    pub fn rotate(self, root_key: &PrivateKey, now: Timestamp) -> Result<CaBundle, CaError> {
        let root = identity::read(&self.root).map_err(|e| failed(Authority::Root, e))?;
        if root.public_key().raw != root_key.public_key().spki() {
            return Err(CaError::OtherRootKey { pin: self.root_pin() });
        }
        let root_issuer = Issuer::from_ca_cert_der(&self.root, root_key).map_err(|e| failed(Authority::Root, e))?;
        let make = |authority| {
            let key = PrivateKey::generate().map_err(|source| CaError::MakeKey { authority, source })?;
            let params = params(authority, &self.trust_domain, now)?;
            let certificate = params.signed_by(&key, &root_issuer).map_err(|e| failed(authority, e))?.der().clone();
            issuing(certificate, key).map_err(|e| failed(authority, e))
        };
        let (agents, operators, servers) = (make(Authority::Agents)?, make(Authority::Operators)?, make(Authority::Servers)?);
        Ok(CaBundle { agents, operators, servers, ..self })
    }

    /// When this issuing CA began, if it is one of this installation: signed by this root, for this use, of this trust domain.
    pub fn review(&self, authority: Authority, certificate: &CertificateDer<'_>) -> Result<Timestamp, String> {
        let root = identity::read(&self.root).map_err(|e| e.to_string())?;
        let root = PublicKey::from_spki(root.public_key().raw).map_err(|e| e.to_string())?;
        let parsed = identity::read(certificate).map_err(|e| e.to_string())?;
        if !signed_by(&parsed, &root) {
            return Err("it is not signed by the root".into());
        }
        if trust_domain_of_ca(certificate).map_err(|e| e.to_string())? != self.trust_domain {
            return Err(format!("it is not of the trust domain {}", self.trust_domain));
        }
        check_usage(certificate, authority)?;
        identity::validity(&parsed).map(|(start, _)| start).map_err(|e| e.to_string())
    }

    /// Everything that another manager of this installation needs, as one text: the CAs with the issuing CAs' keys, without
    /// the root's. Whoever has it can issue certificates.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!("{BUNDLE}\n# root.pem\n{}", *pem::encode("CERTIFICATE", &self.root)));
        for (authority, ca) in self.issuing() {
            text.push_str(&format!("# {}.pem\n", authority.word()));
            text.push_str(&pem::encode("CERTIFICATE", &ca.certificate));
            text.push_str(&format!("# {}.key\n", authority.word()));
            text.push_str(&ca.issuer.key().to_pem());
        }
        text
    }

    /// The CAs in such a text, checked as [`CaBundle::load`] does it.
    pub fn from_text(text: &str) -> Result<CaBundle, CaError> {
        let other = |reason: &str| CaError::NoBundle { reason: reason.into() };
        let rest = text.strip_prefix(BUNDLE).ok_or_else(|| other("its first line is another one"))?;
        let mut parts = std::collections::BTreeMap::new();
        for part in rest.split("\n# ").skip(1) {
            let (name, content) = part.split_once('\n').ok_or_else(|| other("a part is cut off"))?;
            parts.insert(name, content);
        }
        let part = |name: String| parts.get(name.as_str()).copied().ok_or_else(|| other(&format!("it has no part {name}")));
        let certificate = |authority: Authority| {
            let chain = pem::parse_chain(part(format!("{}.pem", authority.word()))?.as_bytes()).map_err(|e| other(&e.to_string()))?;
            <[_; 1]>::try_from(chain).map(|[one]| one).map_err(|_| other("a part holds another number of certificates than one"))
        };
        let root = certificate(Authority::Root)?;
        let trust_domain = trust_domain_of_ca(&root).map_err(|e| other(&e.to_string()))?;
        let load = |authority: Authority| {
            let key = pem::parse_key(part(format!("{}.key", authority.word()))?.as_bytes()).map_err(|e| other(&e.to_string()))?;
            let key = PrivateKey::from_pkcs8(key.secret_pkcs8_der())?;
            let certificate = certificate(authority)?;
            if !keys::belongs(&key, &certificate) {
                return Err(other(&format!("{}.key is another key", authority.word())));
            }
            issuing(certificate, key).map_err(|e| other(&e))
        };
        let (agents, operators, servers) = (load(Authority::Agents)?, load(Authority::Operators)?, load(Authority::Servers)?);
        let bundle = CaBundle { trust_domain, root, root_key: None, agents, operators, servers };
        for (authority, ca) in bundle.issuing() {
            bundle.review(authority, &ca.certificate).map_err(|e| other(&format!("{authority}: {e}")))?;
        }
        Ok(bundle)
    }

    /// The same with the root's key, if `other` has it and has the same root.
    pub fn with_root_key_of(mut self, other: CaBundle) -> CaBundle {
        if self.root == other.root {
            self.root_key = other.root_key;
        }
        self
    }

    /// The CAs in the folder `path`. `root.key` may be missing: it is needed only to make new issuing CAs.
    ///
    /// Refused if others may enter the folder or read a key, if a key is not its certificate's, if an issuing CA is not
    /// signed by the root or not in its trust domain.
    pub fn load(path: &Path) -> Result<CaBundle, CaError> {
        durable::check_private_folder(path)?;
        let root = load_certificate(path, Authority::Root)?;
        let wrong = |authority, reason: String| CaError::Wrong { path: file(path, authority, "pem"), authority, reason };
        let trust_domain = trust_domain_of_ca(&root).map_err(|e| wrong(Authority::Root, e.to_string()))?;
        let root_public = {
            let parsed = identity::read(&root).map_err(|e| wrong(Authority::Root, e.to_string()))?;
            PublicKey::from_spki(parsed.public_key().raw).map_err(|e| wrong(Authority::Root, e.to_string()))?
        };
        let root_key = match PrivateKey::load(&file(path, Authority::Root, "key")) {
            Ok(key) if *key.public_key() == root_public => Some(key),
            Ok(_) => return Err(wrong(Authority::Root, "root.key is another key".into())),
            Err(KeyError::File(e)) if e.is_not_found() => None,
            Err(e) => return Err(e.into()),
        };
        let load = |authority: Authority| {
            let certificate = load_certificate(path, authority)?;
            let key = PrivateKey::load(&file(path, authority, "key"))?;
            let reason = |e: CertificateError| wrong(authority, e.to_string());
            if trust_domain_of_ca(&certificate).map_err(reason)? != trust_domain {
                return Err(wrong(authority, format!("it is not of the trust domain {trust_domain}")));
            }
            if !signed_by(&identity::read(&certificate).map_err(reason)?, &root_public) {
                return Err(wrong(authority, "it is not signed by the root".into()));
            }
            check_usage(&certificate, authority).map_err(|r| wrong(authority, r))?;
            if !keys::belongs(&key, &certificate) {
                return Err(wrong(authority, format!("{}.key is another key", authority.word())));
            }
            issuing(certificate, key).map_err(|e| wrong(authority, e.to_string()))
        };
        let (agents, operators, servers) = (load(Authority::Agents)?, load(Authority::Operators)?, load(Authority::Servers)?);
        Ok(CaBundle { trust_domain: trust_domain.clone(), agents, operators, servers, root_key, root })
    }

    /// The trust domain that these CAs speak for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificate of one of the CAs.
    pub fn certificate(&self, authority: Authority) -> &CertificateDer<'static> {
        match authority {
            Authority::Root => &self.root,
            Authority::Agents => &self.agents.certificate,
            Authority::Operators => &self.operators.certificate,
            Authority::Servers => &self.servers.certificate,
        }
    }

    /// What an enrolment token carries to know this root by.
    pub fn root_pin(&self) -> RootPin {
        RootPin::of(&self.root)
    }

    /// Whether the root's key is here, or offline.
    pub fn has_root_key(&self) -> bool {
        self.root_key.is_some()
    }

    /// When the first of the issuing CAs ends: no certificate lasts longer.
    pub fn ends(&self) -> Timestamp {
        self.issuing().iter().map(|(_, ca)| ca.not_after).min().unwrap_or(self.agents.not_after)
    }
}

fn file(folder: &Path, authority: Authority, extension: &str) -> PathBuf {
    folder.join(format!("{}.{extension}", authority.word()))
}

fn failed(authority: Authority, reason: impl fmt::Display) -> CaError {
    CaError::MakeCertificate { authority, reason: reason.to_string() }
}

fn issuing(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<IssuingCa, String> {
    let (_, not_after) = identity::read(&certificate).and_then(|c| identity::validity(&c)).map_err(|e| e.to_string())?;
    let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| e.to_string())?;
    Ok(IssuingCa { certificate, issuer, not_after })
}

fn load_certificate(folder: &Path, authority: Authority) -> Result<CertificateDer<'static>, CaError> {
    let path = file(folder, authority, "pem");
    let text = durable::read(&path, FILE_MAX)?;
    let chain = pem::parse_chain(&text).map_err(|source| CaError::Content { path: path.clone(), source })?;
    let [certificate] = <[_; 1]>::try_from(chain).map_err(|chain| CaError::Wrong {
        path,
        authority,
        reason: format!("the file holds {} certificates, not one", chain.len()),
    })?;
    Ok(certificate)
}

/// Whether the CA may sign what its name says and nothing else.
fn check_usage(certificate: &CertificateDer<'_>, authority: Authority) -> Result<(), String> {
    let certificate = identity::read(certificate).map_err(|e| e.to_string())?;
    let basic = certificate.basic_constraints().ok().flatten().map(|b| b.value);
    if !basic.is_some_and(|b| b.ca && b.path_len_constraint == Some(0)) {
        return Err("it is not a CA of leaves (path length 0)".into());
    }
    let usage = certificate.extended_key_usage().ok().flatten().map(|u| u.value);
    let (client, server) = usage.map(|u| (u.client_auth && !u.any, u.server_auth && !u.any)).unwrap_or_default();
    let right = match authority {
        Authority::Servers => server && !client,
        _ => client && !server,
    };
    if right { Ok(()) } else { Err("its extended key usage is another one".into()) }
}

/// The trust domain that a CA's certificate names: `spiffe://<trust domain>`, without a path.
pub fn trust_domain_of_ca(certificate: &CertificateDer<'_>) -> Result<TrustDomain, CertificateError> {
    let certificate = identity::read(certificate)?;
    if !certificate.is_ca() {
        return Err(CertificateError::Malformed);
    }
    let uri = identity::only_uri(&certificate)?;
    let domain = uri.strip_prefix("spiffe://").ok_or_else(|| Invalid::new("no spiffe")).and_then(str::parse);
    domain.map_err(|_| CertificateError::NoTrustDomain { uri: quoted(uri) })
}

fn params(authority: Authority, trust_domain: &TrustDomain, now: Timestamp) -> Result<CertificateParams, CaError> {
    let validity = if authority == Authority::Root { ROOT_VALIDITY } else { ISSUING_VALIDITY };
    let mut params = base_params(now, validity).map_err(|r| failed(authority, r))?.params;
    params.distinguished_name.push(DnType::CommonName, format!("Sutler {authority}"));
    // An organisation's name has at most 64 characters; the whole trust domain is in the URI.
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str().chars().take(64).collect::<String>());
    let uri = format!("spiffe://{trust_domain}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(|e| failed(authority, e))?)];
    params.is_ca = IsCa::Ca(if authority == Authority::Root { BasicConstraints::Unconstrained } else { BasicConstraints::Constrained(0) });
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = authority.usage();
    Ok(params)
}

/// What every certificate starts from.
pub(crate) struct BaseParams {
    pub(crate) params: CertificateParams,
    pub(crate) serial: Serial,
    pub(crate) not_after: Timestamp,
}

/// A certificate without names or uses, with a random serial number, from five minutes ago for `validity` from now.
pub(crate) fn base_params(now: Timestamp, validity: Duration) -> Result<BaseParams, String> {
    let mut serial = [0u8; 16];
    getrandom::fill(&mut serial).map_err(|e| format!("the system's source of randomness failed: {e}"))?;
    // 128 bits with a first byte that is neither zero nor negative: one spelling, always 32 digits.
    serial[0] = serial[0] & 0x7f | 0x40;
    let out_of_range = |_| format!("{now} is too late a moment");
    let not_before = now.checked_sub(BACKDATE).map_err(out_of_range)?;
    let not_after = now.checked_add(validity).map_err(out_of_range)?;
    // Certificates have whole seconds.
    let not_after = Timestamp::from_second(not_after.as_second()).map_err(out_of_range)?;
    let moment = |t: Timestamp| time::OffsetDateTime::from_unix_timestamp(t.as_second()).map_err(|e| e.to_string());
    let mut params = CertificateParams::default();
    params.not_before = moment(not_before)?;
    params.not_after = moment(not_after)?;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(BaseParams { params, serial: Serial::of(&serial), not_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;
    use std::os::unix::fs::PermissionsExt;

    fn bundle() -> CaBundle {
        CaBundle::create(&"acme.example".parse().unwrap(), "2026-01-01T00:00:00Z".parse().unwrap()).unwrap()
    }

    #[test]
    fn the_cas_read_back_as_themselves_also_without_the_roots_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca");
        let made = bundle();
        made.save(&path).unwrap();
        let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(
            names,
            ["agents.key", "agents.pem", "operators.key", "operators.pem", "root.key", "root.pem", "servers.key", "servers.pem"]
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        for name in names.iter().filter(|n| n.ends_with(".key")) {
            assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        let loaded = CaBundle::load(&path).unwrap();
        assert_eq!((loaded.root_pin(), loaded.trust_domain()), (made.root_pin(), made.trust_domain()));
        assert!(loaded.has_root_key());
        fs::remove_file(path.join("root.key")).unwrap();
        assert!(!CaBundle::load(&path).unwrap().has_root_key());
        assert!(matches!(made.save(&path), Err(CaError::Exists { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary folder stays");
    }

    #[test]
    fn keys_that_others_can_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca");
        bundle().save(&path).unwrap();
        for name in ["root.key", "agents.key", "operators.key", "servers.key"] {
            fs::set_permissions(path.join(name), PermissionsExt::from_mode(0o640)).unwrap();
            assert!(matches!(CaBundle::load(&path), Err(CaError::Key(KeyError::File(FileError::Exposed { .. })))), "{name}");
            fs::set_permissions(path.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(CaBundle::load(&path), Err(CaError::File(FileError::Exposed { .. }))));
    }

    #[test]
    fn files_that_were_mixed_up_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("ca"), folder.path().join("other"));
        bundle().save(&path).unwrap();
        bundle().save(&other).unwrap();
        let swap = |from: PathBuf, names: &[&str], to: &str| {
            let keep: Vec<_> = ["pem", "key"].map(|e| fs::read(path.join(format!("{to}.{e}"))).unwrap()).into();
            for name in names {
                fs::copy(from.join(name), path.join(format!("{to}.{}", name.rsplit('.').next().unwrap()))).unwrap();
            }
            let result = CaBundle::load(&path);
            for (bytes, e) in keep.iter().zip(["pem", "key"]) {
                fs::write(path.join(format!("{to}.{e}")), bytes).unwrap();
            }
            assert!(matches!(result, Err(CaError::Wrong { .. })), "{names:?} as {to}: {result:?}");
        };
        swap(other.clone(), &["agents.pem", "agents.key"], "agents");
        swap(other.clone(), &["agents.key"], "agents");
        swap(other, &["root.key"], "root");
        swap(path.clone(), &["servers.pem", "servers.key"], "agents");
        swap(path.clone(), &["root.pem", "root.key"], "operators");
        CaBundle::load(&path).unwrap();
    }

    #[test]
    fn new_issuing_cas_are_made_by_the_roots_key_alone_and_are_known_by_the_root() {
        let (old, other) = (bundle(), bundle());
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let key = old.root_key.as_ref().map(|k| PrivateKey::from_pkcs8(pem::parse_key(k.to_pem().as_bytes()).unwrap().secret_pkcs8_der()));
        let key = key.unwrap().unwrap();
        let before: Vec<_> = old.issuing().iter().map(|(a, ca)| (*a, ca.certificate.clone())).collect();
        assert!(matches!(bundle().rotate(&key, now), Err(CaError::OtherRootKey { .. })), "another installation's root");
        let new = old.rotate(&key, now).unwrap();
        for (authority, certificate) in before {
            assert_ne!(*new.certificate(authority), certificate);
            let (began, begins) =
                (new.review(authority, &certificate).unwrap(), new.review(authority, new.certificate(authority)).unwrap());
            assert!(began < begins);
            assert!(other.review(authority, &certificate).is_err(), "signed by another root");
            let another_use = if authority == Authority::Servers { Authority::Agents } else { Authority::Servers };
            assert!(new.review(another_use, &certificate).is_err());
        }
    }

    #[test]
    fn what_is_given_to_another_manager_has_the_issuing_keys_and_not_the_roots() {
        let bundle = bundle();
        let text = bundle.to_text();
        let given = CaBundle::from_text(&text).unwrap();
        assert!(bundle.has_root_key() && !given.has_root_key());
        for authority in [Authority::Root, Authority::Agents, Authority::Operators, Authority::Servers] {
            assert_eq!(given.certificate(authority), bundle.certificate(authority));
        }
        assert!(!text.contains(&*bundle.root_key.as_ref().unwrap().to_pem()));
        for damaged in [&text[..text.len() / 2], "", &text.replace("agents", "operators"), &text.replacen("# agents.key", "# x.key", 1)] {
            assert!(matches!(CaBundle::from_text(damaged), Err(CaError::NoBundle { .. } | CaError::Key(_))));
        }
    }

    #[test]
    fn an_issuing_ca_signs_leaves_only_for_one_use_only_and_starts_in_the_past() {
        let bundle = bundle();
        for authority in [Authority::Agents, Authority::Operators, Authority::Servers] {
            check_usage(bundle.certificate(authority), authority).unwrap();
            let certificate = identity::read(bundle.certificate(authority)).unwrap();
            assert!(certificate.name_constraints().unwrap().is_none());
            assert_eq!(identity::validity(&certificate).unwrap().0, "2025-12-31T23:55:00Z".parse().unwrap());
            assert_eq!(identity::validity(&certificate).unwrap().1, "2031-01-01T00:00:00Z".parse().unwrap());
        }
        let root = identity::read(bundle.certificate(Authority::Root)).unwrap();
        assert_eq!(identity::validity(&root).unwrap().1, "2046-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(trust_domain_of_ca(bundle.certificate(Authority::Root)).unwrap(), *bundle.trust_domain());
    }
}
