//! `sutler init --join`: one more manager of an installation that is there already.
//!
//! It shares the database, the packages' bytes and the CAs with the others; it makes no operator and no profile.

use super::{InitError, InitOptions, Places, TRUST_DOMAIN, absolute, beside, is_empty, rename, stage, template};
use crate::{config, folder::Folder, world::World};
use std::path::PathBuf;
use sutler_certs::{
    CaBundle, RootPin,
    ca::Authority,
    durable::{self, Readers},
    server,
};
use sutler_store::{Store, StoreError, unit};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// What was made.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinReport {
    /// The new manager's folder.
    pub folder: PathBuf,
    /// The root that it shares with the others.
    pub root_pin: RootPin,
}

/// Makes the folder of one more manager: `bundle` are the CAs, as `sutler ca export` gives them, and the database is the one
/// that the others use. Of `options` the operator and the profile are not looked at. All of it or nothing.
pub async fn join(options: &InitOptions, bundle: &CaBundle, world: &World) -> Result<JoinReport, InitError> {
    let folder = absolute(&options.folder)?;
    if !is_empty(&folder)? {
        return Err(InitError::NotEmpty { path: folder });
    }
    let staged_folder = beside(&folder);
    // Nothing of a profile is made here.
    let places = Places {
        staged_profile: staged_folder.join("profile"),
        profile_folder: staged_folder.join("profile"),
        config: staged_folder.clone(),
        staged_folder,
        folder,
    };
    let (staged, _lock) = stage(&places)?;
    let made = make(options, bundle, &staged, world).await;
    let made = made.and_then(|()| rename(&places.staged_folder, &places.folder));
    if let Err(error) = made {
        // What can't be removed now is removed by the next run.
        let _ = fs_err::remove_dir_all(&places.staged_folder);
        return Err(error);
    }
    Ok(JoinReport { folder: places.folder.clone(), root_pin: bundle.root_pin() })
}

async fn make(options: &InitOptions, bundle: &CaBundle, staged: &Folder, world: &World) -> Result<(), InitError> {
    durable::write(&staged.config(), template::text(options).as_bytes(), Readers::Owner)?;
    let read = config::Config::load(staged.clone(), &config::Overrides::default());
    let config = read.map_err(|e| InitError::Setting(e.to_string()))?;
    if config::sqlite_path(&config.database).is_some() {
        return Err(InitError::OtherInstallation("several managers share a PostgreSQL; SQLite is for one alone".into()));
    }
    check_database(&config.database, bundle).await?;
    bundle.save(&staged.ca())?;
    server::load_or_renew(&staged.server(), bundle, &config.certificate_hosts(), world.now())?;
    if options.content.is_none() {
        durable::private_folder(&staged.content())?;
    }
    Ok(())
}

/// Whether the database belongs to the installation whose CAs these are: it names the trust domain and an issuing CA that the
/// same root has signed.
async fn check_database(url: &str, bundle: &CaBundle) -> Result<(), InitError> {
    let store = Store::open(url).await?;
    let read: Result<_, StoreError> =
        store.read("join", unit!([] | tx | { Ok((tx.setting(TRUST_DOMAIN).await?, tx.issuing_cas().await?)) })).await;
    store.close().await;
    let (domain, cas) = read?;
    if domain.as_deref() != Some(bundle.trust_domain().as_str().as_bytes()) {
        let found = domain.map_or("none".into(), |d| String::from_utf8_lossy(&d).into_owned());
        let text = format!("it is of the trust domain {found}, and the bundle of {}", bundle.trust_domain());
        return Err(InitError::OtherInstallation(text));
    }
    let ours = |authority, certificate: &Vec<u8>| bundle.review(authority, &CertificateDer::from(certificate.clone())).is_ok();
    if !cas.iter().any(|ca| ours(Authority::Agents, &ca.certificate)) {
        let text = "none of its issuing CAs is signed by the bundle's root; start the first manager once before others join".into();
        return Err(InitError::OtherInstallation(text));
    }
    Ok(())
}
