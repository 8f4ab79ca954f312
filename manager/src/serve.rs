//! The manager as a program: what it opens, in which order, and how it ends.

use crate::{
    app::{App, Conditions, Crowd, Settings, restored},
    authorities::{Authorities, AuthoritiesError},
    config::{self, Config, ExpiredAgents},
    folder::{FolderError, FolderLock},
    hooks::Receiver,
    init::FIRST_OPERATOR,
    live::{Live, workers},
    local,
    net::{self, Budget, CertificateKeeper, Listener, NetError, Serving, Shared, Threads, raise_descriptor_limit},
    reserve::Reserve,
    rpc::{MessageLimits, Services},
    telemetry::{self, Metrics, TelemetryServer},
    world::World,
};
use arc_swap::ArcSwap;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use sutler_base::OperatorName;
use sutler_certs::{CaBundle, ca::CaError, tls};
use sutler_core::model::{Operator, Subject};
use sutler_store::{Store, StoreError, unit};
use tokio::task::JoinSet;

/// Why the manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The certificate authorities can't be read.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The database can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store of package bytes can't be opened.
    #[error(transparent)]
    Content(#[from] sutler_content::Error),
    /// The threads of the operators' port can't be started.
    #[error("the threads that answer operators can't be started: {0}; the host has too many threads, or too little memory")]
    Threads(io::Error),
    /// A port can't be bound.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The listener for metrics can't be bound.
    #[error("cannot listen on {0} for metrics and health: {1}; choose another address with --telemetry")]
    Telemetry(SocketAddr, io::Error),
    /// The issuing CAs can't be used.
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    /// The manager's own certificate or its TLS configuration.
    #[error("{0}")]
    Tls(String),
    /// What a hook names can't be used.
    #[error("the hook {0} in manager.toml: {1}")]
    Hook(String, String),
    /// The database belongs to no installation, or to another one.
    #[error("{0}")]
    NotInitialised(String),
}

/// A manager that serves. It ends when [`Manager::stop`] is called, or when this is dropped.
pub struct Manager {
    agents: Serving,
    operators: Serving,
    telemetry: Option<TelemetryServer>,
    app: Arc<App>,
    drain: Duration,
    /// Ends when the set is dropped.
    _workers: JoinSet<()>,
    _keeper: JoinSet<()>,
    /// What they opened, the database's connections among it, ends with them: after everything else.
    _threads: Threads,
    _lock: FolderLock,
}

impl Manager {
    /// Opens everything and serves.
    pub async fn start(config: &Config, world: World, pace: workers::Pace) -> Result<Manager, ServeError> {
        let lock = config.folder.lock()?;
        let receiver = |hook: &config::Hook| Receiver::open(hook).map_err(|why| ServeError::Hook(hook.name.clone(), why));
        let receivers = config.hooks.iter().map(receiver).collect::<Result<Vec<_>, _>>()?;
        config.folder.refuse_publisher_keys()?;
        let agents_listener = Listener::bind(config.agents)?;
        let threads = Threads::start("operators").map_err(ServeError::Threads)?;
        let operators_listener = threads.run(|| Listener::bind(config.operators))?;
        // Until it is known what they look like: CAs that are exchanged between the two would not be noticed.
        let cas = config.folder.lock_ca()?;
        let app = open(config, agents_listener.address(), world.clone()).await?;
        let (ca, metrics) = (app.ca.clone(), app.metrics.clone());
        let keeper = Arc::new(CertificateKeeper { folder: config.folder.server(), ca, hosts: config.certificate_hosts() });
        let tls_error = |e: &dyn std::fmt::Display| ServeError::Tls(format!("the manager's certificate can't be used: {e}"));
        let certificate = keeper.open(&world).map_err(|e| tls_error(&e))?;
        let clock_world = world.clone();
        let clock = tls::Clock::new(move || clock_world.now());
        let authorities = Authorities::open(config, app.clone(), clock, certificate.clone(), keeper.clone()).await?;
        drop(cas);
        let (agents_tls, operators_tls) = authorities.ports();
        let services = Services { app: app.clone() };
        let limits = MessageLimits {
            enroll: config.limits.enroll_message,
            agent: config.limits.agent_message,
            operator: config.limits.operator_message,
        };
        let operators_port = services.operators_port(limits).map_err(|e| ServeError::Tls(format!("reflection can't be set up: {e}")))?;
        let budget = Budget::of(raise_descriptor_limit());
        let shared = Shared {
            limits: Arc::new(config.net.clone()),
            trust_domain: config.trust_domain.clone(),
            metrics: metrics.clone(),
            world: world.clone(),
        };
        let agents = agents_listener.serve(agents_tls, services.agents_port(limits), budget.agents, shared.clone());
        let operators = operators_listener.serve(operators_tls, operators_port, budget.operators, shared);
        let telemetry = match config.telemetry {
            None => None,
            Some(address) => {
                let ready = ready_check(app.clone());
                let server = telemetry::serve(address, metrics.clone(), ready).await;
                Some(server.map_err(|e| ServeError::Telemetry(address, e))?)
            }
        };
        let workers = workers::start(app.clone(), pace, receivers);
        // Without it everything but local commands goes on.
        let mut keeping = local::listen(app.clone(), &config.folder).unwrap_or_else(|e| {
            tracing::warn!("there is no local socket, so commands on this host wait until the manager is stopped: {e}");
            JoinSet::new()
        });
        keeping.spawn(net::keep_certificate(keeper, certificate, world));
        keeping.spawn(authorities.follow());
        let drain = config.net.drain;
        Ok(Manager { agents, operators, telemetry, app, drain, _workers: workers, _keeper: keeping, _threads: threads, _lock: lock })
    }

    /// Where agents connect.
    pub fn agents_address(&self) -> SocketAddr {
        self.agents.address()
    }

    /// Where operators connect.
    pub fn operators_address(&self) -> SocketAddr {
        self.operators.address()
    }

    /// Where metrics and health are.
    pub fn telemetry_address(&self) -> Option<SocketAddr> {
        self.telemetry.as_ref().map(TelemetryServer::address)
    }

    /// The manager's state, for a harness that runs it in its own process.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Takes no more calls, lets those that run finish for a moment, and closes the database.
    pub async fn stop(self) {
        let Manager { agents, operators, telemetry, app, drain, _workers: workers, _keeper: keeper, _threads: threads, _lock: lock } = self;
        // Streams of agents last for ever: they are ended, and come back to whoever serves next.
        for client in app.live.connected() {
            app.live.close(&client, tonic::Status::unavailable("the manager is shutting down"));
        }
        tokio::join!(agents.stop(drain), operators.stop(drain));
        if let Some(telemetry) = telemetry {
            telemetry.stop().await;
        }
        drop((workers, keeper));
        app.store.close().await;
        drop((threads, lock));
    }
}

/// Opens what the manager works with; the caller holds the folder's lock. `agents` is where agents connect.
pub(crate) async fn open(config: &Config, agents: SocketAddr, world: World) -> Result<Arc<App>, ServeError> {
    let ca = Arc::new(ArcSwap::from_pointee(CaBundle::load(&config.folder.ca())?));
    let store = Store::open(&config.database).await?;
    let site = identify(&store, config).await?;
    let restored: Option<restored::Restored> = store.read("restored", unit!([] | tx | { restored::load(tx).await })).await?;
    let reserve = Arc::new(Reserve::new(config.folder.path(), config.limits.disk_reserve));
    let content = config.content.open()?.with_reserve(reserve.margin());
    let settings = Settings {
        trust_domain: config.trust_domain.to_string(),
        site,
        addresses: config.advertised(agents),
        limits: config.limits.clone(),
        expired_agents_need_approval: config.expired_agents == ExpiredAgents::Approved,
        restored,
    };
    Ok(Arc::new(App {
        store,
        content,
        live: Arc::new(Live::new(world.now())),
        world,
        settings,
        ca,
        conditions: Arc::new(Conditions::default()),
        refusals: Arc::default(),
        crowd: Crowd::default(),
        reserve,
        scrub: Default::default(),
        server: config.folder.server(),
        metrics: Metrics::new(),
    }))
}

/// Whether the manager can do its work: the database answers.
fn ready_check(app: Arc<App>) -> telemetry::ReadyCheck {
    Arc::new(move || {
        let app = app.clone();
        Box::pin(async move {
            let asked = app.view("manager", "ready", (), |tx, _env, ()| Box::pin(async move { Ok(tx.last_change().await?) })).await;
            asked.map(drop).map_err(|_| "the database does not answer".to_owned())
        })
    })
}

/// Which installation the database belongs to. A database that is new gets what `init` put into the
/// folder's own: the site, the trust document and the first operator.
async fn identify(store: &Store, config: &Config) -> Result<sutler_base::Uid, ServeError> {
    if let Some(found) = read_identity(store).await? {
        return Ok(found);
    }
    let own = config.folder.database();
    let missing = || {
        let text = format!("the database holds no installation, and {} does not either; make one with `sutler init`", own.display());
        ServeError::NotInitialised(text)
    };
    if let Some(moved_from) = &config.moved_from {
        // What `init` wrote would be another installation under the same name: one that knows no client.
        let text = format!(
            "the database holds no installation, although this manager was moved to it from {moved_from}: put the database back from its \
             backup, or name the right one"
        );
        return Err(ServeError::NotInitialised(text));
    }
    if !own.exists() {
        return Err(missing());
    }
    let first = Store::open(&own.to_string_lossy()).await?;
    let copied: Option<FirstRecords> = first
        .read(
            "first_records",
            unit!(
                [] | tx | {
                    let trust = tx.trust_documents(0, 1).await?.pop();
                    let (Some(site), Some(trust), Some(name)) = (tx.site().await?, trust, tx.setting(FIRST_OPERATOR).await?) else {
                        return Ok::<_, StoreError>(None);
                    };
                    let Some(name) = String::from_utf8(name).ok().and_then(|n| n.parse::<OperatorName>().ok()) else { return Ok(None) };
                    let Some(operator) = tx.operator(&name).await? else { return Ok(None) };
                    let certificates = tx.certificates_of(&Subject::Operator(name)).await?;
                    Ok(Some(FirstRecords { site, trust, operator, certificates }))
                }
            ),
        )
        .await?;
    first.close().await;
    let copied = copied.ok_or_else(missing)?;
    let records = copied.clone();
    store
        .write(
            "seed",
            unit!(
                [records] | tx | {
                    tx.put_site(&records.site).await?;
                    tx.insert_trust_document(1, &records.trust, records.operator.created, "manager").await?;
                    tx.put_setting(FIRST_OPERATOR, records.operator.name.as_str().as_bytes()).await?;
                    tx.insert_operator(&records.operator).await?;
                    for certificate in &records.certificates {
                        tx.insert_certificate(certificate).await?;
                    }
                    Ok::<_, StoreError>(())
                }
            ),
        )
        .await?;
    Ok(copied.site.id)
}

#[derive(Clone)]
struct FirstRecords {
    site: sutler_core::model::Site,
    trust: Vec<u8>,
    operator: Operator,
    certificates: Vec<sutler_core::model::Certificate>,
}

async fn read_identity(store: &Store) -> Result<Option<sutler_base::Uid>, StoreError> {
    store
        .read(
            "identity",
            unit!(
                [] | tx | {
                    let site = tx.site().await?;
                    let trust = tx.newest_trust_document().await?;
                    Ok::<_, StoreError>(site.filter(|_| trust.is_some()).map(|site| site.id))
                }
            ),
        )
        .await
}

/// Runs the manager until it is asked to end, and prints where it can be reached.
pub async fn run(config: Config) -> Result<(), ServeError> {
    let manager = Manager::start(&config, World::system(), workers::Pace::default()).await?;
    println!("agents     {}", manager.agents_address());
    println!("operators  {}", manager.operators_address());
    if let Some(address) = manager.telemetry_address() {
        println!("telemetry  {address}");
    }
    tracing::info!(agents = %manager.agents_address(), operators = %manager.operators_address(), "the manager serves");
    asked_to_end().await;
    tracing::info!("the manager ends");
    manager.stop().await;
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
