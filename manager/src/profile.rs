//! An operator's profile: where the manager is, by what it is known, and the keys that never leave the operator's machine.
//!
//! Profiles lie in the user's configuration folder, one folder each, mode 0700:
//!
//! ```text
//! ~/.config/sutler/
//!   current                  the name of the profile that is used when none is named
//!   profiles/NAME/
//!     profile.toml           address of the operators' port, trust domain
//!     operator.pem           the operator's certificate and its issuer; replaced by each renewal
//!     operator.key           the operator's private key
//!     root.pem               the root CA by which the manager is known
//!     request.key            the key of a certificate that was asked for and has not come yet, and
//!     request.pem            the request for it
//!     publisher.key          signs packages; only where this operator is a publisher
//!     trust.json             the publishers' trust document, signed
//! ```
//!
//! Nothing of it is ever in the manager's folder: whoever takes over the manager must not get what signs packages.

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};
use sutler_base::{Invalid, quoted};
use sutler_certs::{
    Credential, Passphrase, PrivateKey, TrustDomain,
    durable::{self, FileError, Readers},
    keys::KeyError,
    pem::{self, PemError},
    public_key_of_csr,
};

const FILE_MAX: u64 = 64 << 10;
/// The request for a certificate that has not come yet.
pub const REQUEST: &str = "request.pem";
/// The key that it is for.
pub const REQUEST_KEY: &str = "request.key";

/// Why a profile could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Neither `SUTLER_CONFIG_DIR` nor `XDG_CONFIG_HOME` nor `HOME` is set.
    #[error("cannot tell where your configuration folder is: set HOME, or name it with --config-dir or SUTLER_CONFIG_DIR")]
    NoHome,
    /// There is no profile of this name.
    #[error("there is no profile {name} in {}; `sutler init` makes the first one, `sutler profile request` asks for one", folder.display())]
    Missing {
        /// The name.
        name: ProfileName,
        /// The configuration folder.
        folder: PathBuf,
    },
    /// No profile is named and none is chosen as the current one.
    #[error("no profile is chosen in {}; name one with --profile, or choose one with `sutler profile use NAME`", folder.display())]
    NoneChosen {
        /// The configuration folder.
        folder: PathBuf,
    },
    /// A certificate that nobody asked for here.
    #[error("no profile in {} has asked for this certificate; import it where `sutler profile request` was run", folder.display())]
    NotAsked {
        /// The configuration folder.
        folder: PathBuf,
    },
    /// There is a profile of this name, and it is one of another manager.
    #[error("the profile {name} is one of another manager; request this one under another name")]
    OtherManager {
        /// The profile.
        name: ProfileName,
    },
    /// The key is encrypted.
    #[error("the key of the profile {name} is encrypted, and nobody opened it")]
    Locked {
        /// The profile.
        name: ProfileName,
    },
    /// A name that no profile can have.
    #[error(transparent)]
    Name(#[from] Invalid),
    /// A file or folder could not be read or written, or is open to others.
    #[error("profile: {0}")]
    File(#[from] FileError),
    /// A folder could not be made or listed.
    #[error("cannot use the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operator's key could not be read or written.
    #[error("profile: {0}")]
    Key(#[from] KeyError),
    /// A certificate file holds no certificate.
    #[error("{} holds no certificate: {source}; import the profile again", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PemError,
    },
    /// `profile.toml` does not say what it must.
    #[error("{} can't be understood: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The name of a profile: 1 to 63 of `a-z 0-9 . _ -`, starting with a letter or digit; it is also its folder's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileName(String);

impl ProfileName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProfileName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let starts = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if starts && text.len() <= 63 && text.bytes().all(good) {
            Ok(ProfileName(text.into()))
        } else {
            Err(Invalid::new(format!(
                "a profile's name has 1 to 63 of a-z 0-9 . _ and -, and starts with a letter or digit, not {}",
                quoted(text)
            )))
        }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What `profile.toml` says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Where operators connect, `host:port`.
    address: String,
    trust_domain: String,
}

/// Everything with which an operator works with one manager.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub name: ProfileName,
    /// The operators' port of the manager, `host:port`.
    pub address: String,
    /// The trust domain that the manager is in.
    pub trust_domain: TrustDomain,
    /// The operator's certificate, then its issuer; never empty.
    pub certificate_chain: Vec<CertificateDer<'static>>,
    /// The operator's private key; none while it is encrypted and was not opened.
    pub key: Option<PrivateKey>,
    /// With what the key is encrypted, and the next one will be; none: not at all, or not opened.
    pub passphrase: Option<Passphrase>,
    /// The root CA by which the manager is known.
    pub root: CertificateDer<'static>,
    /// Where this operator's publisher key is, if there is one.
    pub publisher_key_path: PathBuf,
    /// Where the publishers' trust document is.
    pub trust_document_path: PathBuf,
}

/// The user's configuration folder: `explicit`, else `$SUTLER_CONFIG_DIR`, else `$XDG_CONFIG_HOME/sutler`, else
/// `~/.config/sutler`. `env` looks up a variable; an empty one counts as unset.
pub fn config_folder(explicit: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, ProfileError> {
    let var = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = explicit {
        return Ok(path.to_owned());
    }
    if let Some(path) = var("SUTLER_CONFIG_DIR") {
        return Ok(path);
    }
    let base = var("XDG_CONFIG_HOME").filter(|p| p.is_absolute()).or_else(|| var("HOME").map(|h| h.join(".config")));
    base.map(|b| b.join("sutler")).ok_or(ProfileError::NoHome)
}

/// The folder of the profile `name` in the configuration folder `config`.
pub fn folder_of(config: &Path, name: &ProfileName) -> PathBuf {
    config.join("profiles").join(name.as_str())
}

/// The names of all profiles in the configuration folder `config`, in order.
pub fn list(config: &Path) -> Result<Vec<ProfileName>, ProfileError> {
    let folder = config.join("profiles");
    let failed = |source| ProfileError::Folder { path: folder.clone(), source };
    let entries = match fs_err::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(failed(e)),
    };
    let mut names = vec![];
    for entry in entries {
        // A name that starts with a dot is a profile that is being written.
        let entry = entry.map_err(failed)?;
        names.extend(entry.file_name().to_str().and_then(|n| n.parse().ok()));
    }
    names.retain(|name| folder_of(config, name).join("profile.toml").exists());
    names.sort();
    Ok(names)
}

/// The request for a certificate for the profile `name` that was made before, in its armour, as long as nothing was imported
/// for it: a text that was lost can be had again.
pub fn requested(config: &Path, name: &ProfileName) -> Result<Option<String>, ProfileError> {
    match durable::read(&folder_of(config, name).join(REQUEST), FILE_MAX) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Makes a key, encrypted if there is a passphrase, and a request with it. The profile need not be there yet; one that is
/// stays as it is.
pub fn request(config: &Path, name: &ProfileName, passphrase: Option<&Passphrase>) -> Result<String, ProfileError> {
    make_folders(config)?;
    let folder = folder_of(config, name);
    durable::private_folder(&folder)?;
    let path = folder.join(REQUEST);
    let key = PrivateKey::generate()?;
    let text = pem::encode("CERTIFICATE REQUEST", &key.csr()?).to_string();
    save_key(&key, &folder.join(REQUEST_KEY), passphrase)?;
    // Last: a key without it was never shown to anybody.
    durable::write(&path, text.as_bytes(), Readers::Owner)?;
    Ok(text)
}

/// The profile that asked for this certificate.
pub fn asked(config: &Path, certificate: &CertificateDer<'_>) -> Result<ProfileName, ProfileError> {
    let folder = config.join("profiles");
    let failed = |source| ProfileError::Folder { path: folder.clone(), source };
    let none = || ProfileError::NotAsked { folder: config.into() };
    let entries = match fs_err::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(none()),
        Err(e) => return Err(failed(e)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().and_then(|n| n.parse::<ProfileName>().ok()) else { continue };
        let Ok(text) = durable::read(&entry.path().join(REQUEST), FILE_MAX) else { continue };
        let key = pem::parse_request(&text).ok().and_then(|der| public_key_of_csr(&der).ok());
        if key.is_some_and(|key| key.is_of(certificate)) {
            return Ok(name);
        }
    }
    Err(none())
}

/// The profile that is used when none is named.
pub fn current(config: &Path) -> Result<ProfileName, ProfileError> {
    let path = config.join("current");
    match durable::read(&path, FILE_MAX) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().parse()?),
        Err(e) if e.is_not_found() => Err(ProfileError::NoneChosen { folder: config.into() }),
        Err(e) => Err(e.into()),
    }
}

/// Makes `name` the profile that is used when none is named; there must be one of that name.
pub fn set_current(config: &Path, name: &ProfileName) -> Result<(), ProfileError> {
    if !folder_of(config, name).join("profile.toml").is_file() {
        return Err(ProfileError::Missing { name: name.clone(), folder: config.into() });
    }
    Ok(durable::write(&config.join("current"), format!("{name}\n").as_bytes(), Readers::Owner)?)
}

impl Profile {
    /// The profile `name` in the configuration folder `config`. Refused if others can enter its folder or read its key.
    pub fn load(config: &Path, name: &ProfileName) -> Result<Profile, ProfileError> {
        let folder = folder_of(config, name);
        if !folder.is_dir() {
            return Err(ProfileError::Missing { name: name.clone(), folder: config.into() });
        }
        Profile::load_from(&folder, name)
    }

    /// The profile in `folder`, which is called `name`.
    pub fn load_from(folder: &Path, name: &ProfileName) -> Result<Profile, ProfileError> {
        durable::check_private_folder(folder)?;
        let path = folder.join("profile.toml");
        let content = |reason: String| ProfileError::Content { path: path.clone(), reason };
        let text = String::from_utf8(durable::read(&path, FILE_MAX)?).map_err(|_| content("it is not UTF-8".into()))?;
        let settings: Settings = toml::from_str(&text).map_err(|e| content(e.message().to_owned()))?;
        let chain = |file: &str| {
            let path = folder.join(file);
            pem::parse_chain(&durable::read(&path, FILE_MAX)?).map_err(|source| ProfileError::Certificate { path, source })
        };
        Ok(Profile {
            name: name.clone(),
            trust_domain: settings.trust_domain.parse().map_err(|e: Invalid| content(e.to_string()))?,
            address: settings.address,
            certificate_chain: chain("operator.pem")?,
            key: match PrivateKey::load(&folder.join("operator.key")) {
                Err(e) if e.is_encrypted() => None,
                other => Some(other?),
            },
            passphrase: None,
            root: chain("root.pem")?.swap_remove(0),
            publisher_key_path: folder.join("publisher.key"),
            trust_document_path: folder.join("trust.json"),
        })
    }

    /// Writes the profile into the configuration folder `config`, which is made if it is not there: settings, certificates
    /// and the operator's key. Publisher key and trust document stay as they are, and the paths in `self` are set to where
    /// they belong.
    pub fn save(&mut self, config: &Path) -> Result<(), ProfileError> {
        make_folders(config)?;
        let folder = folder_of(config, &self.name);
        self.save_to(&folder)
    }

    /// As [`Profile::save`], into exactly this folder, whose parent must be there.
    pub fn save_to(&mut self, folder: &Path) -> Result<(), ProfileError> {
        durable::private_folder(folder)?;
        if let Some(key) = &self.key {
            save_key(key, &folder.join("operator.key"), self.passphrase.as_ref())?;
        }
        durable::write(&folder.join("operator.pem"), pem::encode_chain(&self.certificate_chain).as_bytes(), Readers::Owner)?;
        write_settings(folder, &self.address, self.trust_domain.as_str(), &self.root)?;
        self.publisher_key_path = folder.join("publisher.key");
        self.trust_document_path = folder.join("trust.json");
        Ok(())
    }

    /// Writes a renewed certificate for the same key, whole and durably.
    pub fn renew(&mut self, config: &Path, chain: Vec<CertificateDer<'static>>) -> Result<(), ProfileError> {
        let path = folder_of(config, &self.name).join("operator.pem");
        durable::write(&path, pem::encode_chain(&chain).as_bytes(), Readers::Owner)?;
        self.certificate_chain = chain;
        Ok(())
    }

    /// Writes what is known of the manager into the folder of a profile that has key and certificate, and reads it all back.
    pub fn settle(
        folder: &Path,
        name: &ProfileName,
        address: &str,
        trust_domain: &str,
        root: &CertificateDer<'_>,
    ) -> Result<Profile, ProfileError> {
        write_settings(folder, address, trust_domain, root)?;
        Profile::load_from(folder, name)
    }

    /// Opens the key, which lies encrypted in the folder of the profile.
    pub fn unlock(&mut self, config: &Path, passphrase: Passphrase) -> Result<(), ProfileError> {
        self.key = Some(PrivateKey::load_with(&folder_of(config, &self.name).join("operator.key"), &passphrase)?);
        self.passphrase = Some(passphrase);
        Ok(())
    }

    /// Key and chain together, as TLS takes them.
    pub fn credential(self) -> Result<Credential, ProfileError> {
        let key = self.key.ok_or(ProfileError::Locked { name: self.name })?;
        Ok(Credential { chain: self.certificate_chain, key })
    }
}

fn save_key(key: &PrivateKey, path: &Path, passphrase: Option<&Passphrase>) -> Result<(), KeyError> {
    match passphrase {
        Some(passphrase) => key.save_with(path, passphrase),
        None => key.save(path),
    }
}

fn write_settings(folder: &Path, address: &str, trust_domain: &str, root: &CertificateDer<'_>) -> Result<(), ProfileError> {
    durable::write(&folder.join("root.pem"), pem::encode_chain(std::slice::from_ref(root)).as_bytes(), Readers::Owner)?;
    let settings = Settings { address: address.to_owned(), trust_domain: trust_domain.to_owned() };
    let path = folder.join("profile.toml");
    let text = toml::to_string(&settings).map_err(|e| ProfileError::Content { path: path.clone(), reason: e.to_string() })?;
    let text = format!("# Where the manager's operators' port is, host:port, and the trust domain that it is in.\n{text}");
    // Last: a folder without it is no profile.
    Ok(durable::write(&path, text.as_bytes(), Readers::Owner)?)
}

/// Makes the configuration folder and the one for profiles in it; a configuration folder that is there is left as it is.
pub(crate) fn make_folders(config: &Path) -> Result<(), ProfileError> {
    if !config.is_dir() {
        if let Some(parent) = config.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs_err::create_dir_all(parent).map_err(|source| ProfileError::Folder { path: parent.into(), source })?;
        }
        durable::private_folder(config)?;
    }
    Ok(durable::private_folder(&config.join("profiles"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use sutler_base::Timestamp;
    use sutler_certs::{CaBundle, ca::Authority};

    pub(crate) fn profile(name: &str) -> Profile {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ca = CaBundle::create(&"acme.example".parse().unwrap(), now).unwrap();
        let key = PrivateKey::generate().unwrap();
        let issued = ca.issue_operator(&"ann".parse().unwrap(), key.public_key(), now, Duration::from_secs(3600)).unwrap();
        Profile {
            name: name.parse().unwrap(),
            address: "manager.acme.example:7444".into(),
            trust_domain: ca.trust_domain().clone(),
            certificate_chain: issued.chain,
            key: Some(key),
            passphrase: None,
            root: ca.certificate(Authority::Root).clone(),
            publisher_key_path: PathBuf::new(),
            trust_document_path: PathBuf::new(),
        }
    }

    #[test]
    fn a_profile_reads_back_as_itself() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("deep/config/sutler");
        let mut one = profile("one");
        one.save(&config).unwrap();
        let name: ProfileName = "one".parse().unwrap();
        let loaded = Profile::load(&config, &name).unwrap();
        assert_eq!((loaded.address, loaded.root, loaded.trust_domain), (one.address, one.root, one.trust_domain));
        assert_eq!(loaded.certificate_chain, one.certificate_chain);
        assert_eq!(loaded.key.unwrap().public_key(), one.key.unwrap().public_key());
        assert_eq!(loaded.publisher_key_path, config.join("profiles/one/publisher.key"));
        profile("two").save(&config).unwrap();
        assert_eq!(list(&config).unwrap().iter().map(ProfileName::as_str).collect::<Vec<_>>(), ["one", "two"]);
        assert!(matches!(current(&config), Err(ProfileError::NoneChosen { .. })));
        set_current(&config, &name).unwrap();
        assert_eq!(current(&config).unwrap(), name);
        assert!(matches!(set_current(&config, &"three".parse().unwrap()), Err(ProfileError::Missing { .. })));
    }

    #[test]
    fn a_key_with_a_passphrase_is_opened_by_it_alone_and_the_rest_of_the_profile_without() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = profile("one");
        one.passphrase = Some(Passphrase::new("correct horse").unwrap());
        one.save(folder.path()).unwrap();
        let text = fs_err::read_to_string(folder_of(folder.path(), &one.name).join("operator.key")).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{text}");
        let mut loaded = Profile::load(folder.path(), &one.name).unwrap();
        assert_eq!(loaded.address, one.address);
        assert!(loaded.unlock(folder.path(), Passphrase::new("another").unwrap()).is_err());
        assert!(loaded.key.is_none());
        loaded.unlock(folder.path(), one.passphrase.clone().unwrap()).unwrap();
        assert_eq!(loaded.credential().unwrap().key.public_key(), one.key.unwrap().public_key());
    }

    #[test]
    fn a_profile_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        profile("one").save(folder.path()).unwrap();
        let name: ProfileName = "one".parse().unwrap();
        fs_err::set_permissions(folder_of(folder.path(), &name), PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(Profile::load(folder.path(), &name), Err(ProfileError::File(_))));
    }

    #[test]
    fn a_profiles_name_is_never_a_path() {
        for bad in ["", ".", "..", ".x", "a/b", "A", "-x", "a b", "é"] {
            assert!(bad.parse::<ProfileName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_configuration_folder_is_the_first_that_is_named() {
        let env = |pairs: &'static [(&'static str, &'static str)]| {
            move |name: &str| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v))
        };
        let all = env(&[("SUTLER_CONFIG_DIR", "/s"), ("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]);
        assert_eq!(config_folder(Some(Path::new("/e")), all).unwrap(), Path::new("/e"));
        assert_eq!(config_folder(None, all).unwrap(), Path::new("/s"));
        assert_eq!(config_folder(None, env(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")])).unwrap(), Path::new("/x/sutler"));
        assert_eq!(config_folder(None, env(&[("XDG_CONFIG_HOME", ""), ("HOME", "/h")])).unwrap(), Path::new("/h/.config/sutler"));
        assert!(matches!(config_folder(None, env(&[])), Err(ProfileError::NoHome)));
    }
}
