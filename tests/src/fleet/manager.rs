//! A manager in this process, which can be stopped, killed and started again on the same ports.

use super::Network;
use crate::{
    harness::{PATIENCE, PackageFolder, wait_until},
    postgres::Postgres,
};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use sutler::{
    app::App,
    config::{Config, Overrides, TelemetryAt},
    folder::Folder,
    init::{InitOptions, init},
    live::workers::Pace,
    package::{self, SignedPackage},
    profile::Profile,
    serve,
    world::World,
};
use sutler_base::Timestamp;
use sutler_certs::PublisherKey;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long what is stopped may take.
const STOP: Duration = Duration::from_secs(30);

/// Where a manager keeps its data.
#[derive(Debug, Clone, Copy)]
pub enum Database {
    /// In its folder.
    Sqlite,
    /// In a database of its own on this server.
    Postgres(&'static Postgres),
}

/// A manager with its folder and its first operator's profile.
pub struct Manager {
    folder: TempDir,
    config: Config,
    profile: sutler::profile::ProfileName,
    /// How much more time has passed for it than on this machine (milliseconds).
    ahead: Arc<AtomicI64>,
    /// How far its clock was set ahead besides (milliseconds).
    set: Arc<AtomicI64>,
    running: Option<(serve::Manager, Runtime)>,
    /// After the manager itself, in this order.
    _own: Option<Arc<Own>>,
}

/// A database that goes with the last manager that has it: those of thousands of lists would fill any disk.
struct Own {
    server: &'static Postgres,
    url: String,
}

impl Drop for Own {
    fn drop(&mut self) {
        // Where something failed it is left to be looked at.
        if !std::thread::panicking() {
            self.server.drop_database(&self.url);
        }
    }
}

impl Manager {
    /// A new manager; it serves when this returns, and machines reach it through `network` if there is one.
    ///
    /// # Panics
    ///
    /// When it can't be made or started.
    pub fn start(database: Database, network: Option<&Network>) -> Manager {
        Manager::tuned(database, network, |_| {})
    }

    /// The same with a configuration that was changed.
    ///
    /// # Panics
    ///
    /// When it can't be made or started.
    pub fn tuned(database: Database, network: Option<&Network>, tune: impl FnOnce(&mut Config)) -> Manager {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (place, profiles) = (folder.path().join("manager"), folder.path().join("operator"));
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut options = InitOptions::new(
            place.clone(),
            "acme.example".parse().expect("it is a trust domain"),
            vec!["127.0.0.1".parse().expect("it is a host")],
            "anna".parse().expect("it is an operator"),
            profiles.clone(),
        );
        (options.agents, options.operators, options.telemetry) = (local(0), local(0), TelemetryAt::Off);
        let mut own = None;
        if let Database::Postgres(server) = database {
            options.database = server.create_store();
            own = Some(Arc::new(Own { server, url: options.database.clone() }));
        }
        runtime().block_on(init(&options, &World::system())).unwrap_or_else(|e| panic!("init: {e}"));
        let mut config = Config::load(Folder::new(place), &Overrides::default()).unwrap_or_else(|e| panic!("its configuration: {e}"));
        // Its first operator is alone, and orders for whole fleets; tests of second persons say otherwise.
        config.limits.second_person_clients = 1_000_000_000;
        config.limits.second_person_rest = Duration::ZERO;
        tune(&mut config);
        let mut manager =
            Manager { folder, config, profile: options.profile, ahead: Arc::default(), set: Arc::default(), running: None, _own: own };
        if let Some(network) = network {
            manager.config.advertise = vec![network.address().to_string()];
        }
        manager.start_again();
        // From now on it is where it is.
        let (agents, operators) = (manager.serving().agents_address(), manager.serving().operators_address());
        (manager.config.agents, manager.config.operators) = (agents, operators);
        if let Some(network) = network {
            network.lead_to(agents);
        }
        manager
    }

    /// Starts it where it was.
    ///
    /// # Panics
    ///
    /// When it doesn't start.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "it is running");
        let runtime = runtime();
        // Workers look so often that a test does not wait for them, and never only because they do: wake-ups come first.
        let pace = Pace {
            often: Duration::from_millis(100),
            seldom: Duration::from_millis(250),
            gather: Duration::from_millis(5),
            ..Pace::default()
        };
        let started = runtime.block_on(serve::Manager::start(&self.config, World::ahead(self.ahead.clone(), self.set.clone()), pace));
        self.running = Some((started.unwrap_or_else(|e| panic!("the manager does not start: {e}")), runtime));
    }

    /// So much time passes for it; or its clock is set back, for time does not.
    pub fn step_clock(&self, millis: i64) {
        if millis < 0 {
            self.set_clock(millis);
        } else {
            self.ahead.fetch_add(millis, Ordering::SeqCst);
        }
    }

    /// Sets its clock ahead: no time passes by that.
    pub fn set_clock(&self, millis: i64) {
        self.set.fetch_add(millis, Ordering::SeqCst);
    }

    fn serving(&self) -> &serve::Manager {
        &self.running.as_ref().expect("it is running").0
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        if let Some((manager, runtime)) = self.running.take() {
            runtime.block_on(manager.stop());
            runtime.shutdown_timeout(STOP);
        }
    }

    /// Ends it without asking: whatever it does ends where it waits next.
    pub fn crash(&mut self) {
        if let Some((manager, runtime)) = self.running.take() {
            runtime.shutdown_timeout(STOP);
            drop(manager);
        }
    }

    /// What runs in it, for what no caller can do.
    pub fn app(&self) -> &Arc<App> {
        self.serving().app()
    }

    /// A further manager, with the same CAs and the same database, which is no file.
    ///
    /// # Panics
    ///
    /// When it can't be made or started.
    pub fn second(&self) -> Manager {
        self.second_tuned(|_| {})
    }

    /// The same with a configuration that was changed.
    pub fn second_tuned(&self, tune: impl FnOnce(&mut Config)) -> Manager {
        self.further(self.ahead.clone(), tune)
    }

    /// A further manager whose clock is so far ahead of that of the others.
    ///
    /// # Panics
    ///
    /// When it can't be made or started.
    pub fn second_ahead(&self, millis: i64) -> Manager {
        self.further(Arc::new(AtomicI64::new(millis)), |_| {})
    }

    fn further(&self, ahead: Arc<AtomicI64>, tune: impl FnOnce(&mut Config)) -> Manager {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        copy(&self.folder.path().join("manager"), &folder.path().join("manager"));
        copy(&self.folder.path().join("operator"), &folder.path().join("operator"));
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let place = Folder::new(folder.path().join("manager"));
        let mut config = Config { folder: place, agents: local, operators: local, ..self.config.clone() };
        tune(&mut config);
        let mut manager =
            Manager { folder, config, profile: self.profile.clone(), ahead, set: self.set.clone(), running: None, _own: self._own.clone() };
        manager.start_again();
        (manager.config.agents, manager.config.operators) = (manager.serving().agents_address(), manager.serving().operators_address());
        manager
    }

    /// Where agents connect.
    pub fn agents(&self) -> String {
        self.config.agents.to_string()
    }

    /// How often a worker has looked at what is due.
    pub fn rounds(&self, worker: &'static str) -> u64 {
        self.app().metrics.rounds.get_or_create(&sutler::telemetry::metrics::Worker { worker }).get()
    }

    /// How many panics there were in its handlers.
    pub fn panics(&self) -> u64 {
        self.serving().app().metrics.panics.get()
    }

    /// Where operators connect.
    pub fn operators(&self) -> String {
        self.config.operators.to_string()
    }

    /// The first operator's profile.
    ///
    /// # Panics
    ///
    /// When it can't be read.
    pub fn profile(&self) -> Profile {
        Profile::load(&self.folder.path().join("operator"), &self.profile).unwrap_or_else(|e| panic!("the profile: {e}"))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.crash();
    }
}

/// A folder with everything in it, and the permissions. Its manager may be at work: where a file of the moment was gone before it was
/// copied, all is copied once more.
fn copy(from: &Path, to: &Path) {
    wait_until(&format!("{} to be copied", from.display()), PATIENCE, || {
        let _ = std::fs::remove_dir_all(to);
        std::process::Command::new("cp").arg("-a").args([from, to]).status().expect("cp can be started").success()
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made")
}

/// Packages in folders, which each manager's own publisher signs.
pub struct Packages(Vec<PackageFolder>);

impl Packages {
    /// One package of each name, with one step, one file and a detection rule.
    pub fn new(names: &[&str]) -> Packages {
        Packages(names.iter().map(|name| PackageFolder::counting(name, "1.0")).collect())
    }

    /// Such a package in this version.
    pub fn version(name: &str, version: &str) -> Packages {
        Packages(vec![PackageFolder::counting(name, version)])
    }

    /// One such package that may not be installed any more from this moment on.
    pub fn that_end(name: &str, at: Timestamp) -> Packages {
        let package = PackageFolder::counting(name, "1.0");
        package.replace("version =", &format!("expires = \"{at}\"\nversion ="));
        Packages(vec![package])
    }

    /// Signs them with the publisher's key of this profile.
    ///
    /// # Panics
    ///
    /// When a folder is no package or the key can't be read.
    pub fn sign(&self, profile: &Profile) -> Vec<SignedPackage> {
        static RELEASE: AtomicU64 = AtomicU64::new(1);
        let key = PublisherKey::load(&profile.publisher_key_path).expect("the publisher's key can be read");
        let release = RELEASE.fetch_add(1, Ordering::Relaxed) as i64;
        let now = Timestamp::from_second(1_700_000_000 + release).expect("it is a time");
        let build = |folder: &PackageFolder| package::build(folder.path(), now, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
        self.0.iter().map(|folder| package::sign(build(folder), &key)).collect()
    }
}
