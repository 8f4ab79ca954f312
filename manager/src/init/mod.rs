//! `sutler init`: makes a manager out of nothing, with its first operator.
//!
//! The manager's folder and, apart from it, the operator's profile: only a local command on the manager's host makes the
//! first operator, the network never does. Both are written beside their places and renamed when they are whole, the folder
//! first. What an interrupted run left is removed by the next one; a run that was interrupted between the two renames is
//! ended by the next one.

mod join;
mod template;

pub use join::{JoinReport, join};

use crate::{
    config::{self, TelemetryAt},
    folder::{Folder, FolderError, FolderLock},
    profile::{self, Profile, ProfileError, ProfileName},
    world::World,
};
use ipnet::IpNet;
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use sutler_base::{Invalid, OperatorName, state::Role};
use sutler_certs::{
    CaBundle, Host, KeyId, Passphrase, PrivateKey, PublisherKey, RootPin, SignedTrustDocument, TrustDocument, TrustDomain,
    ca::{Authority, CaError},
    durable::{self, FileError, Readers},
    issue::{IssueError, OPERATOR_VALIDITY},
    keys::KeyError,
    publisher::PublisherKeyError,
    server::{self, ServerError},
    trust::TrustError,
};
use sutler_core::{
    approval::Voice,
    model::{AuditEntry, Certificate, CertificateState, Grant, Operator, Site, Subject},
};
use sutler_store::{Store, StoreError, unit};

/// The setting that holds the trust domain.
pub const TRUST_DOMAIN: &str = "trust_domain";
/// The setting that names the operator that `init` made: a new database gets it from the folder's own.
pub const FIRST_OPERATOR: &str = "first_operator";
/// How long the first trust document is good. Its end stops every installation, so it is far off; `publisher rotate` makes
/// one with another end.
const TRUST_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why there is no new manager.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something is in the folder.
    #[error("{} is not empty: name a new folder, or empty this one if nobody needs the manager in it", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// Another `init` is at it.
    #[error("another `sutler init` makes {} at this moment; wait for it", path.display())]
    InProgress {
        /// The folder.
        path: PathBuf,
    },
    /// A profile of that name is there.
    #[error("there is a profile {name} in {} already: name another with --profile", config.display())]
    ProfileExists {
        /// The profile.
        name: ProfileName,
        /// The configuration folder.
        config: PathBuf,
    },
    /// Neither the profile may be in the manager's folder nor the reverse: it holds the publisher's key.
    #[error("{} and {} lie in each other: the profile holds the publisher's key, which must be apart from the manager", folder.display(), config.display())]
    Together {
        /// The manager's folder.
        folder: PathBuf,
        /// The configuration folder.
        config: PathBuf,
    },
    /// The database is not that of the installation that is to be joined.
    #[error("the database can't be joined: {0}")]
    OtherInstallation(String),
    /// The database belongs to a manager.
    #[error("the database is that of a manager already: name an empty one, or join that manager")]
    DatabaseInUse,
    /// A setting is not allowed.
    #[error("{0}")]
    Setting(String),
    /// A file or folder could not be made.
    #[error("cannot make {}: {source}", path.display())]
    Make {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("making the manager: {0}")]
    File(#[from] FileError),
    /// The folder could not be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The CAs could not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The manager's certificate could not be made.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The operator's certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The operator's key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The publisher's key could not be made.
    #[error(transparent)]
    PublisherKey(#[from] PublisherKeyError),
    /// The trust document could not be made.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The profile could not be written.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The database could not be made.
    #[error("making the manager's database: {0}")]
    Store(#[from] StoreError),
}

/// What manager is to be made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The manager's folder: not there yet, or empty.
    pub folder: PathBuf,
    /// The name below which every identity is; for ever.
    pub trust_domain: TrustDomain,
    /// Names and addresses under which the manager is reached; the first goes into the profile. At least one.
    pub hosts: Vec<Host>,
    /// The first operator.
    pub operator: OperatorName,
    /// The user's configuration folder; see [`profile::config_folder`].
    pub config: PathBuf,
    /// The name of the operator's profile.
    pub profile: ProfileName,
    /// Where agents will connect.
    pub agents: SocketAddr,
    /// Where operators will connect.
    pub operators: SocketAddr,
    /// Where metrics and health will be.
    pub telemetry: TelemetryAt,
    /// The database: `sqlite:PATH`, relative to the folder, or `postgres://…`.
    pub database: String,
    /// Where packages' bytes lie, if not in the manager's folder: another one, or `s3://BUCKET/PREFIX`.
    pub content: Option<String>,
    /// Where agents are told to connect, `host:port`; none: the hosts with the port of `agents`.
    pub advertise: Vec<String>,
    /// The networks of balancers that say with the PROXY protocol who calls.
    pub proxy_protocol_from: Vec<IpNet>,
    /// With what the keys of the profile are encrypted; none: not at all.
    pub passphrase: Option<Passphrase>,
}

impl InitOptions {
    /// What `init` makes when nothing else is said: ports 7443 and 7444 on all addresses, metrics on the loopback, SQLite in
    /// the folder, a profile with the name of the trust domain.
    pub fn new(folder: PathBuf, trust_domain: TrustDomain, hosts: Vec<Host>, operator: OperatorName, config: PathBuf) -> InitOptions {
        let all = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let profile = trust_domain.as_str().parse().or_else(|_: Invalid| "default".parse());
        InitOptions {
            folder,
            profile: profile.expect("this is a profile's name"),
            trust_domain,
            hosts,
            operator,
            config,
            agents: all(config::AGENTS_PORT),
            operators: all(config::OPERATORS_PORT),
            telemetry: TelemetryAt::Address(SocketAddr::from(([127, 0, 0, 1], config::TELEMETRY_PORT))),
            database: "sqlite:manager.db".into(),
            content: None,
            advertise: vec![],
            proxy_protocol_from: vec![],
            passphrase: None,
        }
    }
}

/// The name for the first operator when none is given: the user's, if an operator can have it, else `admin`.
pub fn default_operator(user: Option<&str>) -> OperatorName {
    let user = user.map(str::to_ascii_lowercase).and_then(|u| u.parse().ok());
    user.unwrap_or_else(|| "admin".parse().expect("this is an operator's name"))
}

/// What was made.
#[derive(Debug, Clone, PartialEq)]
pub struct InitReport {
    /// The manager's folder.
    pub folder: PathBuf,
    /// The operator's profile.
    pub profile: ProfileName,
    /// The profile's folder.
    pub profile_folder: PathBuf,
    /// Whether the profile is the one that is used when none is named.
    pub is_current: bool,
    /// Where the operator will connect.
    pub address: String,
    /// The root, as tokens will name it.
    pub root_pin: RootPin,
    /// The publisher's key; none, if this run only ended an interrupted one.
    pub publisher: Option<KeyId>,
}

/// Makes the manager's folder with CAs, configuration and database, and the first operator's profile with the publisher's
/// key. All of it or nothing.
pub async fn init(options: &InitOptions, world: &World) -> Result<InitReport, InitError> {
    let folder = absolute(&options.folder)?;
    let config = absolute(&options.config)?;
    if folder.starts_with(&config) || config.starts_with(&folder) {
        return Err(InitError::Together { folder, config });
    }
    let address = match options.hosts.first() {
        Some(host) => config::address(host, options.operators.port()),
        None => return Err(InitError::Setting("name at least one host under which the manager is reached".into())),
    };
    let places = Places {
        staged_folder: beside(&folder),
        staged_profile: config.join("profiles").join(format!(".{}.init", options.profile)),
        profile_folder: profile::folder_of(&config, &options.profile),
        folder,
        config,
    };
    if !is_empty(&places.folder)? {
        return end_interrupted(options, &places, address);
    }
    if places.profile_folder.symlink_metadata().is_ok() {
        return Err(InitError::ProfileExists { name: options.profile.clone(), config: places.config });
    }
    let (staged, _lock) = stage(&places)?;
    profile::make_folders(&places.config)?;
    let result = make(options, &places, &staged, &address, world).await;
    if result.is_err() {
        // What can't be removed now is removed by the next run.
        let _ = fs_err::remove_dir_all(&places.staged_folder);
        let _ = fs_err::remove_dir_all(&places.staged_profile);
    }
    result
}

struct Places {
    folder: PathBuf,
    staged_folder: PathBuf,
    config: PathBuf,
    profile_folder: PathBuf,
    staged_profile: PathBuf,
}

async fn make(options: &InitOptions, places: &Places, staged: &Folder, address: &str, world: &World) -> Result<InitReport, InitError> {
    let now = world.now();
    // Read back before anything depends on it: a file that `serve` would refuse is refused here.
    durable::write(&staged.config(), template::text(options).as_bytes(), Readers::Owner)?;
    config::Config::load(staged.clone(), &config::Overrides::default()).map_err(|e| InitError::Setting(e.to_string()))?;
    let ca = CaBundle::create(&options.trust_domain, now)?;
    ca.save(&staged.ca())?;
    server::load_or_renew(&staged.server(), &ca, &config::certificate_hosts(&options.hosts), now)?;
    durable::private_folder(&staged.content())?;

    let key = PrivateKey::generate()?;
    let issued = ca.issue_operator(&options.operator, key.public_key(), now, OPERATOR_VALIDITY)?;
    let certificate = Certificate {
        serial: issued.serial.to_string(),
        subject: Subject::Operator(options.operator.clone()),
        key: issued.spki_sha256,
        public_key: key.public_key().spki().to_vec(),
        issued: now,
        not_after: issued.not_after,
        state: CertificateState::Active,
    };
    let publisher = PublisherKey::generate()?;
    let expires = now.checked_add(TRUST_VALIDITY).map_err(|e| InitError::Setting(format!("the clock is far off: {e}")))?;
    let trust = TrustDocument::new(1, 1, &[publisher.public_key()], 1, &[""], expires)?.sign(&[&publisher]);
    let mut profile = Profile {
        name: options.profile.clone(),
        address: address.to_owned(),
        trust_domain: options.trust_domain.clone(),
        certificate_chain: issued.chain,
        key: Some(key),
        passphrase: options.passphrase.clone(),
        root: ca.certificate(Authority::Root).clone(),
        publisher_key_path: PathBuf::new(),
        trust_document_path: PathBuf::new(),
    };
    profile.save_to(&places.staged_profile)?;
    match &options.passphrase {
        Some(passphrase) => publisher.save_with(&profile.publisher_key_path, passphrase)?,
        None => publisher.save(&profile.publisher_key_path)?,
    }
    durable::write(&profile.trust_document_path, &trust.to_json(), Readers::Owner)?;

    let url = config::database_url(staged, &options.database).map_err(InitError::Setting)?;
    let advertise =
        if options.advertise.is_empty() { config::addresses(&options.hosts, options.agents.port()) } else { options.advertise.clone() };
    let site = Site { id: world.uid(), addresses: advertise };
    fill_database(&url, options, &site, &certificate, &trust, world).await?;
    staged.refuse_publisher_keys()?;

    rename(&places.staged_folder, &places.folder)?;
    rename(&places.staged_profile, &places.profile_folder)?;
    Ok(InitReport {
        folder: places.folder.clone(),
        profile: options.profile.clone(),
        profile_folder: places.profile_folder.clone(),
        is_current: choose(places, &options.profile)?,
        address: address.to_owned(),
        root_pin: ca.root_pin(),
        publisher: Some(publisher.key_id()),
    })
}

async fn fill_database(
    url: &str,
    options: &InitOptions,
    site: &Site,
    certificate: &Certificate,
    trust: &SignedTrustDocument,
    world: &World,
) -> Result<(), InitError> {
    let store = Store::open(url).await?;
    let now = world.now();
    let operator = Operator {
        name: options.operator.clone(),
        created: now,
        creator: "manager".into(),
        revoked: None,
        grants: vec![Grant { role: Role::Admin, groups: None }],
        voice: Voice::default(),
        change: 0,
    };
    let audit = AuditEntry {
        sequence: 0,
        time: now,
        actor: "manager".into(),
        action: "init".into(),
        object: format!("operators/{}", options.operator),
        detail: format!("a new manager of {} with its first operator", options.trust_domain),
    };
    let (trust, domain) = (trust.to_json(), options.trust_domain.to_string());
    let filled = store
        .write(
            "init",
            unit!(
                [site, certificate, operator, audit, trust, domain] | tx | {
                    if tx.site().await?.is_some() {
                        return Err(InitError::DatabaseInUse);
                    }
                    tx.put_site(&site).await?;
                    tx.put_setting(TRUST_DOMAIN, domain.as_bytes()).await?;
                    tx.insert_trust_document(1, &trust, audit.time, &audit.actor).await?;
                    tx.put_setting(FIRST_OPERATOR, operator.name.as_str().as_bytes()).await?;
                    tx.insert_operator(&operator).await?;
                    tx.insert_certificate(&certificate).await?;
                    tx.audit(&audit).await?;
                    Ok(())
                }
            ),
        )
        .await;
    store.close().await;
    filled
}

/// Ends a run that was interrupted after it had made the folder and before the profile was in its place.
fn end_interrupted(options: &InitOptions, places: &Places, address: String) -> Result<InitReport, InitError> {
    let not_empty = || InitError::NotEmpty { path: places.folder.clone() };
    if places.profile_folder.symlink_metadata().is_ok() {
        return Err(not_empty());
    }
    let Ok(profile) = Profile::load_from(&places.staged_profile, &options.profile) else { return Err(not_empty()) };
    let Ok(ca) = CaBundle::load(&Folder::new(&places.folder).ca()) else { return Err(not_empty()) };
    if profile.root != *ca.certificate(Authority::Root) || profile.address != address {
        return Err(not_empty());
    }
    rename(&places.staged_profile, &places.profile_folder)?;
    Ok(InitReport {
        folder: places.folder.clone(),
        profile: options.profile.clone(),
        profile_folder: places.profile_folder.clone(),
        is_current: choose(places, &options.profile)?,
        address,
        root_pin: ca.root_pin(),
        publisher: PublisherKey::load(&places.profile_folder.join("publisher.key")).ok().map(|k| k.key_id()),
    })
}

/// The folder in which everything is made before it gets its name, locked.
fn stage(places: &Places) -> Result<(Folder, FolderLock), InitError> {
    if let Some(parent) = places.folder.parent() {
        fs_err::create_dir_all(parent).map_err(|source| InitError::Make { path: parent.into(), source })?;
    }
    remove_leftover(places)?;
    durable::private_folder(&places.staged_folder)?;
    let staged = Folder::new(&places.staged_folder);
    let lock = staged.lock()?;
    Ok((staged, lock))
}

/// Removes what an interrupted run left, unless it is still running.
fn remove_leftover(places: &Places) -> Result<(), InitError> {
    if places.staged_folder.symlink_metadata().is_ok() {
        match Folder::new(&places.staged_folder).lock() {
            Ok(_lock) => {}
            Err(FolderError::InUse { .. }) => return Err(InitError::InProgress { path: places.folder.clone() }),
            Err(e) => return Err(e.into()),
        }
    }
    for path in [&places.staged_folder, &places.staged_profile] {
        match fs_err::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(InitError::Make { path: path.clone(), source: e }),
            _ => {}
        }
    }
    Ok(())
}

/// Chooses the profile for when none is named, unless another one is chosen; whether it is chosen now.
fn choose(places: &Places, name: &ProfileName) -> Result<bool, InitError> {
    match profile::current(&places.config) {
        Ok(current) if current != *name && profile::folder_of(&places.config, &current).is_dir() => Ok(false),
        _ => {
            profile::set_current(&places.config, name)?;
            Ok(true)
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, InitError> {
    let failed = |source| InitError::Make { path: path.into(), source };
    // Through links as far as there is something, so that one folder is not taken for two.
    let path = std::path::absolute(path).map_err(failed)?;
    let mut rest = Vec::new();
    let mut there = path.as_path();
    loop {
        match (there.canonicalize(), there.parent(), there.file_name()) {
            (Ok(real), _, _) => return Ok(rest.iter().rev().fold(real, |path, part| path.join(part))),
            (Err(e), Some(parent), Some(name)) if e.kind() == io::ErrorKind::NotFound => {
                rest.push(name.to_owned());
                there = parent;
            }
            (Err(e), _, _) => return Err(failed(e)),
        }
    }
}

/// Where the folder is made until it is whole: beside its place, so that a rename is all that is left.
fn beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.init"))
}

fn is_empty(folder: &Path) -> Result<bool, InitError> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(InitError::Make { path: folder.into(), source }),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), InitError> {
    let failed = |source| InitError::Make { path: to.into(), source };
    // Onto an empty folder it works, onto one with something in it it does not.
    fs_err::rename(from, to).map_err(failed)?;
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::File::open(parent).and_then(|f| f.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    fn options(at: &Path) -> InitOptions {
        let hosts = vec!["manager.acme.example".parse().unwrap(), "10.0.0.5".parse().unwrap()];
        let domain = "acme.example".parse().unwrap();
        InitOptions::new(at.join("srv/D"), domain, hosts, "ann".parse().unwrap(), at.join("home/.config/sutler"))
    }

    #[tokio::test]
    async fn a_new_manager_has_everything_that_it_needs_and_no_publishers_key() {
        let at = tempfile::tempdir().unwrap();
        let report = init(&options(at.path()), &World::system()).await.unwrap();
        assert_eq!((report.address.as_str(), report.is_current), ("manager.acme.example:7444", true));
        let folder = Folder::open(&report.folder).unwrap();
        folder.refuse_publisher_keys().unwrap();
        let config = Config::load(folder.clone(), &Overrides::default()).unwrap();
        assert_eq!(config.advertise, ["manager.acme.example:7443", "10.0.0.5:7443"]);
        let ca = CaBundle::load(&folder.ca()).unwrap();
        let profile = Profile::load(&at.path().join("home/.config/sutler"), &"acme.example".parse().unwrap()).unwrap();
        assert_eq!(profile.root, *ca.certificate(Authority::Root));
        let json = fs_err::read(&profile.trust_document_path).unwrap();
        let trust = SignedTrustDocument::from_json(&json).unwrap().open().unwrap();
        let key = PublisherKey::load(&profile.publisher_key_path).unwrap();
        assert_eq!((trust.keys()[0].key_id.clone(), report.publisher), (key.key_id(), Some(key.key_id())));
        assert_eq!(profile::current(&at.path().join("home/.config/sutler")).unwrap(), report.profile);

        let store = Store::open(&config.database).await.unwrap();
        let serial = sutler_certs::PeerCertificate::parse(&profile.certificate_chain[0], ca.trust_domain()).unwrap().serial;
        let serial = serial.to_string();
        let found: Result<_, StoreError> = store
            .read(
                "init",
                unit!(
                    [serial] | tx | {
                        let certificate = tx.certificate(&serial).await?;
                        Ok((tx.site().await?, tx.newest_trust_document().await?, tx.operator(&"ann".parse().unwrap()).await?, certificate))
                    }
                ),
            )
            .await;
        let (site, document, operator, certificate) = found.unwrap();
        assert_eq!(site.unwrap().addresses, config.advertise);
        assert_eq!(document.unwrap(), json);
        assert_eq!(operator.unwrap().revoked, None);
        assert_eq!(certificate.unwrap().state, CertificateState::Active);
        store.close().await;
    }

    #[tokio::test]
    async fn a_folder_with_something_in_it_is_left_as_it_is() {
        let at = tempfile::tempdir().unwrap();
        let options = options(at.path());
        init(&options, &World::system()).await.unwrap();
        let before = fs_err::read(options.folder.join("ca/root.pem")).unwrap();
        let again = InitOptions { profile: "other".parse().unwrap(), ..options.clone() };
        assert!(matches!(init(&again, &World::system()).await, Err(InitError::NotEmpty { .. })));
        let elsewhere = InitOptions { folder: at.path().join("srv/E"), ..options.clone() };
        assert!(matches!(init(&elsewhere, &World::system()).await, Err(InitError::ProfileExists { .. })));
        assert_eq!(fs_err::read(options.folder.join("ca/root.pem")).unwrap(), before);
        assert!(!at.path().join("srv/E").exists() && !at.path().join("srv/.E.init").exists());
        let second = InitOptions { profile: "second".parse().unwrap(), ..elsewhere };
        assert!(!init(&second, &World::system()).await.unwrap().is_current, "the chosen profile stays chosen");
    }

    #[tokio::test]
    async fn an_interrupted_init_is_cleaned_up_or_ended_by_the_next() {
        let at = tempfile::tempdir().unwrap();
        let options = options(at.path());
        // Interrupted while it wrote the folder.
        let staged = at.path().join("srv/.D.init");
        fs_err::create_dir_all(staged.join("ca")).unwrap();
        fs_err::write(staged.join("ca/root.key"), "half").unwrap();
        let lock = Folder::new(&staged).lock().unwrap();
        assert!(matches!(init(&options, &World::system()).await, Err(InitError::InProgress { .. })));
        drop(lock);
        let report = init(&options, &World::system()).await.unwrap();
        assert!(!staged.exists());
        // Interrupted between the two renames.
        let config = at.path().join("home/.config/sutler");
        fs_err::rename(&report.profile_folder, config.join("profiles/.acme.example.init")).unwrap();
        fs_err::remove_file(config.join("current")).unwrap();
        let ended = init(&options, &World::system()).await.unwrap();
        assert_eq!(ended, report);
        Profile::load(&config, &report.profile).unwrap();
    }

    #[tokio::test]
    async fn a_failed_init_leaves_nothing() {
        let at = tempfile::tempdir().unwrap();
        let good = options(at.path());
        for bad in [
            InitOptions { database: "sqlite:no/such/folder/manager.db".into(), ..good.clone() },
            InitOptions { database: "mysql://x".into(), ..good.clone() },
            InitOptions { advertise: vec!["nowhere".into()], ..good.clone() },
            InitOptions { hosts: vec![], ..good.clone() },
            InitOptions { config: good.folder.join("sutler"), ..good.clone() },
        ] {
            init(&bad, &World::system()).await.unwrap_err();
            assert!(!good.folder.exists() && !at.path().join("srv/.D.init").exists(), "{bad:?}");
            let profiles = good.config.join("profiles");
            assert!(!profiles.exists() || is_empty(&profiles).unwrap(), "{bad:?}");
        }
        init(&good, &World::system()).await.unwrap();
    }

    #[test]
    fn the_first_operator_is_called_as_the_user_if_that_is_possible() {
        assert_eq!(default_operator(Some("Ann")).as_str(), "ann");
        assert_eq!(default_operator(Some("ann b")).as_str(), "admin");
        assert_eq!(default_operator(None).as_str(), "admin");
    }
}
