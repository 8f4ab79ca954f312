//! Keeps the manager's own certificate fresh while connections live on.

use crate::world::World;
use arc_swap::ArcSwap;
use std::{path::PathBuf, sync::Arc, time::Duration};
use sutler_certs::{
    CaBundle, Host,
    server::{self, ServerError},
    tls::{ServerCertificate, TlsError},
};

/// How often the certificate is looked at: many times within the third of its life that is left when it is renewed.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Why there is no certificate for the manager.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It could not be read, made or issued.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// TLS can't use it.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What is needed to renew the manager's own certificate.
#[derive(Debug)]
pub struct CertificateKeeper {
    /// Where it lies.
    pub folder: PathBuf,
    /// Who issues it.
    pub ca: Arc<ArcSwap<CaBundle>>,
    /// Whom it names.
    pub hosts: Vec<Host>,
}

impl CertificateKeeper {
    /// The certificate as it lies in the folder, or a new one.
    pub fn open(&self, world: &World) -> Result<Arc<ServerCertificate>, KeepError> {
        let credential = server::load_or_renew(&self.folder, &self.ca.load(), &self.hosts, world.now())?;
        Ok(ServerCertificate::new(&credential)?)
    }

    /// Looks whether the certificate must be renewed, and shows what is in the folder from now on.
    pub fn look(&self, shown: &ServerCertificate, world: &World) -> Result<(), KeepError> {
        let credential = server::load_or_renew(&self.folder, &self.ca.load(), &self.hosts, world.now())?;
        Ok(shown.replace(&credential)?)
    }
}

/// Renews the manager's own certificate whenever a third of its time is left; never ends. Also takes up a certificate that
/// was put into the folder.
pub async fn keep_certificate(keeper: Arc<CertificateKeeper>, shown: Arc<ServerCertificate>, world: World) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (k, s, w) = (keeper.clone(), shown.clone(), world.clone());
        match tokio::task::spawn_blocking(move || k.look(&s, &w)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!("the manager's own certificate could not be renewed, next try in an hour: {e}"),
            Err(e) => tracing::error!("the manager's own certificate could not be renewed: {e}"),
        }
    }
}
