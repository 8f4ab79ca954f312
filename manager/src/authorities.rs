//! The issuing CAs of this manager: what it issues with, and what it accepts, in step with its folder and the other managers.
//!
//! The keys are files in the manager's folder. The *certificates* of every issuing CA of the installation are in the database
//! as well, so that all managers accept what any of them issued, within a second or two: nobody is refused during a
//! roll-over, wherever he connects next. A manager accepts of those only what its own root has signed, for that use: a
//! database in other hands can't add one.
//!
//! A roll-over (`sutler ca rotate`) exchanges the folder. A manager that runs sees it, tells the database, gives the other
//! managers a moment to read that, and issues with the new ones from then on. The ones before are accepted until the last
//! certificate that they issued is out, with its grace.

use crate::{
    app::{App, AppError},
    config::Config,
    net::{CertificateKeeper, KeepError},
};
use arc_swap::ArcSwap;
use rustix::fs::{CWD, RenameFlags};
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use sutler_base::Timestamp;
use sutler_certs::{
    CaBundle,
    ca::{Authority, CaError},
    tls::{self, Clock, OnEnded, ServerCertificate, TlsError},
};
use sutler_core::model::IssuingCa;
use tokio_rustls::rustls::{ServerConfig, pki_types::CertificateDer};

/// How often the folder and the database are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the other managers have to read which CAs there are, before anything is issued with new ones.
const OTHERS: Duration = Duration::from_secs(3);

/// Why the CAs can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// They can't be read or made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// TLS can't use them.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The manager's own certificate can't be made with them.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The database can't be read or written.
    #[error(transparent)]
    App(#[from] AppError),
    /// The folder can't be exchanged.
    #[error("cannot exchange {}: {source}", path.display())]
    Exchange {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What TLS goes by on one port; exchanged while connections live on.
pub type PortTls = Arc<ArcSwap<ServerConfig>>;

/// Keeps a manager's CAs in step.
pub struct Authorities {
    folder: PathBuf,
    app: Arc<App>,
    clock: Clock,
    grace: (Duration, Duration),
    shown: Arc<ServerCertificate>,
    keeper: Arc<CertificateKeeper>,
    /// What the folder looked like when it was last read.
    stamp: Stamp,
    /// What is accepted besides the own ones.
    also: Vec<(Authority, CertificateDer<'static>)>,
    agents: PortTls,
    operators: PortTls,
}

/// By what a folder that was exchanged is told from the one before.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(folder: &Path) -> Stamp {
    let of = |path: &Path| fs_err::metadata(path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec()));
    let (inode, ..) = of(folder)?;
    let (file, seconds, nanos) = of(&folder.join("agents.pem"))?;
    Some((inode, file, seconds, nanos))
}

impl Authorities {
    /// Tells the database of this manager's CAs, and makes the configurations of both ports.
    pub async fn open(
        config: &Config,
        app: Arc<App>,
        clock: Clock,
        shown: Arc<ServerCertificate>,
        keeper: Arc<CertificateKeeper>,
    ) -> Result<Authorities, AuthoritiesError> {
        let ca = app.ca();
        let folder = config.folder.ca();
        let also = publish(&app, &ca).await?;
        let grace = (config.agent_grace(), config.limits.operator_grace);
        let make = |authority, grace| port(&app, &ca, &also, authority, &shown, grace, &clock);
        let agents = Arc::new(ArcSwap::new(make(Authority::Agents, grace.0)?));
        let operators = Arc::new(ArcSwap::new(make(Authority::Operators, grace.1)?));
        Ok(Authorities { stamp: stamp(&folder), folder, app, clock, grace, shown, keeper, also, agents, operators })
    }

    /// What TLS goes by on the agents' port and on the operators' port.
    pub fn ports(&self) -> (PortTls, PortTls) {
        (self.agents.clone(), self.operators.clone())
    }

    /// Follows the folder and the database; never ends.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "whether there are new issuing CAs can't be told; it is tried again");
            }
        }
    }

    async fn look(&mut self) -> Result<(), AuthoritiesError> {
        let now = stamp(&self.folder);
        if now == self.stamp {
            let also = accepted(&self.app, &self.app.ca()).await?;
            if also != self.also {
                self.accept(&self.app.ca(), also)?;
            }
            return Ok(());
        }
        let new = Arc::new(CaBundle::load(&self.folder)?);
        let also = publish(&self.app, &new).await?;
        self.accept(&new, also)?;
        if self.app.store.kind() == sutler_store::Kind::Postgres {
            tokio::time::sleep(OTHERS).await;
        }
        self.app.replace_ca(new);
        self.keeper.look(&self.shown, &self.app.world)?;
        self.stamp = now;
        tracing::info!("this manager issues with the issuing CAs that were put into its folder");
        Ok(())
    }

    fn accept(&mut self, ca: &CaBundle, also: Vec<(Authority, CertificateDer<'static>)>) -> Result<(), AuthoritiesError> {
        let make = |authority, grace| port(&self.app, ca, &also, authority, &self.shown, grace, &self.clock);
        let (agents, operators) = (make(Authority::Agents, self.grace.0)?, make(Authority::Operators, self.grace.1)?);
        self.agents.store(agents);
        self.operators.store(operators);
        self.also = also;
        Ok(())
    }
}

fn port(
    app: &Arc<App>,
    ca: &CaBundle,
    also: &[(Authority, CertificateDer<'static>)],
    authority: Authority,
    shown: &Arc<ServerCertificate>,
    grace: Duration,
    clock: &Clock,
) -> Result<Arc<ServerConfig>, TlsError> {
    let also: Vec<_> = also.iter().filter(|(a, _)| *a == authority).map(|(_, certificate)| certificate.clone()).collect();
    let app = app.clone();
    let on_ended = OnEnded::new(move |caller| {
        let (app, actor) =
            (app.clone(), caller.identity.to_string().replacen("agent/", "clients/", 1).replacen("operator/", "operators/", 1));
        let detail =
            format!("the certificate {} ended at {}, and so did the time in which it could be renewed", caller.serial, caller.not_after);
        tokio::spawn(async move { app.refused(&actor, "certificate_refused", actor.clone(), detail).await });
    });
    tls::port_server(ca, &also, authority, shown.clone(), grace, clock.clone(), Some(on_ended))
}

const ISSUING: [(Authority, &str); 3] =
    [(Authority::Agents, "agents"), (Authority::Operators, "operators"), (Authority::Servers, "servers")];

/// Tells the database of these CAs, and that those before them issue no more; gives back what is accepted besides them.
async fn publish(app: &Arc<App>, ca: &Arc<CaBundle>) -> Result<Vec<(Authority, CertificateDer<'static>)>, AuthoritiesError> {
    let limits = &app.settings.limits;
    let agents = limits.agent_certificate + limits.agent_grace;
    let operators = limits.operator_certificate + limits.operator_grace;
    let input = (ca.clone(), agents.max(operators));
    app.change("manager", "publish_cas", input, |tx, env, (ca, life)| {
        Box::pin(async move {
            let noted = tx.issuing_cas().await?;
            for (authority, word) in ISSUING {
                let own = ca.certificate(authority);
                let began = ca.review(authority, own).map_err(AppError::Bug)?;
                if !noted.iter().any(|n| n.certificate == own.as_ref() && n.until.is_none()) {
                    let certificate = own.to_vec();
                    tx.put_issuing_ca(&IssuingCa { certificate, authority: word.into(), until: None }).await?;
                    let detail = format!("a manager issues with the one of {began} from now on");
                    env.audit(tx, "issuing_ca", format!("authorities/{word}"), detail).await?;
                }
                for older in noted.iter().filter(|n| n.authority == word && n.until.is_none() && n.certificate != own.as_ref()) {
                    let certificate = CertificateDer::from(older.certificate.clone());
                    if ca.review(authority, &certificate).is_ok_and(|other| other < began) {
                        let until = env.now.checked_add(*life).unwrap_or(Timestamp::MAX);
                        tx.put_issuing_ca(&IssuingCa { until: Some(until), ..older.clone() }).await?;
                    }
                }
            }
            Ok(())
        })
    })
    .await?;
    accepted(app, ca).await
}

/// What the database says is accepted besides the own CAs: of that, what this manager's root has signed.
async fn accepted(app: &Arc<App>, ca: &Arc<CaBundle>) -> Result<Vec<(Authority, CertificateDer<'static>)>, AuthoritiesError> {
    let noted = app.view("manager", "issuing_cas", (), |tx, _env, ()| Box::pin(async move { Ok(tx.issuing_cas().await?) })).await?;
    let now = app.world.now();
    let mut out = Vec::new();
    for noted in noted.into_iter().filter(|n| n.until.is_none_or(|until| until > now)) {
        let Some((authority, _)) = ISSUING.into_iter().find(|(_, word)| *word == noted.authority) else { continue };
        let certificate = CertificateDer::from(noted.certificate);
        if certificate == *ca.certificate(authority) {
            continue;
        }
        match ca.review(authority, &certificate) {
            Ok(_) => out.push((authority, certificate)),
            Err(why) => tracing::error!("the database names a CA for {authority} that is none of this installation: {why}"),
        }
    }
    Ok(out)
}

/// Puts these CAs in place of those in the folder `path`, durably: all of them at once.
pub fn exchange(new: &CaBundle, path: &Path) -> Result<(), AuthoritiesError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let failed = |source: io::Error| AuthoritiesError::Exchange { path: path.into(), source };
    match fs_err::remove_dir_all(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    new.save(&beside)?;
    rustix::fs::renameat_with(CWD, &beside, CWD, path, RenameFlags::EXCHANGE).map_err(|e| failed(e.into()))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::File::open(parent).and_then(|f| f.sync_all()).map_err(failed)?;
    // The keys of the ones before: nobody issues with them any more.
    fs_err::remove_dir_all(&beside).map_err(failed)
}
