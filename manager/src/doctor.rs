//! The manager's doctor: looks at everything that a manager needs, changes nothing, and says what is wrong in plain words.
//!
//! It works beside a manager that serves and without one. What depends on something that is wrong is not looked at, so that one
//! fault is named once.

use crate::{
    config::{Config, ConfigError, ContentAt},
    folder::{Folder, FolderError},
    hooks::Receiver,
    world::World,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};
use sutler_base::{Timestamp, checkup::Checkup};
use sutler_certs::{
    CaBundle, Credential, PeerCertificate,
    tls::{self, Clock, ServerTrust},
};
use sutler_store::{Inspection, StoreError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// How long a port may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long before their end the CAs are to be replaced: agents' certificates end with them.
const CA_NOTICE: Duration = Duration::from_secs(180 * 86_400);
/// How far this machine's clock may be from the database's (seconds).
const SKEW_MAX: i64 = 60;

/// Looks at everything. `config` is the configuration of `folder`, or why there is none.
pub async fn examine(folder: &Path, config: Result<Config, String>, world: &World) -> Checkup {
    let mut checkup = Checkup::default();
    let layout = Folder::new(folder);
    let config = match config {
        Ok(config) => {
            checkup.fine("configuration", layout.config().display(), "it can be used");
            config
        }
        Err(why) => {
            checkup.wrong("configuration", layout.config().display(), why, "mend the file, or make a manager with sutler init");
            for check in ["folder", "certificates", "database", "content", "disk", "service", "ports", "clock"] {
                checkup.not_seen(check, folder.display(), "nobody knows where it is without the configuration");
            }
            return checkup;
        }
    };
    let closed = keys(&mut checkup, &config.folder);
    let ca = if closed { certificates(&mut checkup, &config, world) } else { None };
    if !closed {
        checkup.not_seen("certificates", config.folder.ca().display(), "the folder is not as it should be");
    }
    let inspection = database(&mut checkup, &config).await;
    content(&mut checkup, &config).await;
    disk(&mut checkup, &config);
    if serves(&config.folder) {
        checkup.fine("service", config.folder.path().display(), "a manager serves from it");
        match &ca {
            Some(ca) => served_ports(&mut checkup, &config, ca).await,
            None => checkup.not_seen("ports", "the ports", "without the certificates nobody can tell whose they are"),
        }
    } else {
        let remedy = "start it: systemctl start sutler, or sutler serve --dir DIR";
        checkup.wrong("service", config.folder.path().display(), "no manager serves from it", remedy);
        free_ports(&mut checkup, &config).await;
    }
    hooks(&mut checkup, &config, inspection.as_ref(), world);
    clock(&mut checkup, &config, inspection, world);
    checkup
}

/// The configuration of the folder as the doctor takes it: an error is a sentence.
pub fn configuration(folder: &Path, load: impl FnOnce(Folder) -> Result<Config, ConfigError>) -> Result<Config, String> {
    if !folder.exists() {
        return Err(format!("there is no folder {}", folder.display()));
    }
    load(Folder::new(folder)).map_err(|e| e.to_string())
}

/// Whether the folder and the keys in it are the manager's alone.
fn keys(checkup: &mut Checkup, folder: &Folder) -> bool {
    let private = [
        (folder.path().to_path_buf(), "the folder"),
        (folder.ca(), "the folder of the CAs"),
        (folder.ca().join("root.key"), "a CA's key"),
        (folder.ca().join("agents.key"), "a CA's key"),
        (folder.ca().join("operators.key"), "a CA's key"),
        (folder.ca().join("servers.key"), "a CA's key"),
        (folder.server(), "the folder of the manager's own key"),
        (folder.server().join("identity.pem"), "the manager's own key"),
    ];
    let owner = std::fs::metadata(folder.path()).map(|m| m.uid()).ok();
    for (path, what) in private {
        // The root's key may be elsewhere, and what is missing else is said where it is needed.
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let remedy = format!("chmod go= {}; if others use this machine, replace the key", path.display());
            checkup.wrong("folder", path.display(), format!("{what} is open to other users (mode {mode:04o})"), remedy);
            return false;
        }
        if found.uid() != 0 && Some(found.uid()) != owner {
            let found = format!("{what} belongs to user {}, and the folder to another", found.uid());
            checkup.wrong("folder", path.display(), found, "chown it to the user that the manager runs as");
            return false;
        }
    }
    match folder.refuse_publisher_keys() {
        Ok(()) => checkup.fine("folder", folder.path().display(), "it and the keys in it are the manager's alone"),
        Err(e @ FolderError::PublisherKey { .. }) => {
            checkup.wrong("folder", folder.path().display(), &e, "move it to the profile of the person who publishes");
            return false;
        }
        Err(e) => {
            checkup.wrong("folder", folder.path().display(), &e, "run the doctor as root, or as the user that the manager runs as");
            return false;
        }
    }
    true
}

fn certificates(checkup: &mut Checkup, config: &Config, world: &World) -> Option<CaBundle> {
    let now = world.now();
    let ca = match CaBundle::load(&config.folder.ca()) {
        Ok(ca) => ca,
        Err(e) => {
            checkup.wrong(
                "certificates",
                config.folder.ca().display(),
                &e,
                "restore the folder ca from a backup: nobody can make these anew",
            );
            return None;
        }
    };
    let path = config.folder.server().join("identity.pem");
    let own = if path.exists() {
        let loaded = Credential::load(&path).map_err(|e| e.to_string());
        let parsed = loaded.and_then(|c| {
            let leaf = c.chain.first().ok_or("it holds no certificate")?;
            PeerCertificate::parse(leaf, ca.trust_domain()).map_err(|e| e.to_string())
        });
        match parsed {
            Ok(certificate) => Some(certificate),
            Err(e) => {
                checkup.wrong("certificates", path.display(), e, "remove the file and start the manager anew: it makes another");
                return Some(ca);
            }
        }
    } else {
        None
    };
    let days = |until: Timestamp| until.duration_since(now).as_secs().div_euclid(86_400);
    if ca.ends().duration_since(now) < jiff_span(CA_NOTICE) {
        let found = format!("the first of the CAs ends in {} days, at {}", days(ca.ends()), ca.ends());
        let remedy = "give the installation new issuing CAs with the root's key, before agents' certificates end with the old ones";
        checkup.wrong("certificates", config.folder.ca().display(), found, remedy);
        return Some(ca);
    }
    match own {
        Some(own) if own.not_after <= now => {
            let found = format!("the manager's own certificate ended at {}", own.not_after);
            checkup.wrong("certificates", path.display(), found, "start the manager anew: it makes another; and see the clock");
        }
        Some(own) if days(own.not_after) < (own.not_after.duration_since(own.not_before).as_secs() / 86_400) / 5 => {
            let found = format!("the manager's own certificate ends in {} days and was not renewed", days(own.not_after));
            checkup.wrong("certificates", path.display(), found, "see the manager's log, and start it anew");
        }
        Some(own) => {
            let found = format!("the CAs last {} days, the manager's own certificate {}", days(ca.ends()), days(own.not_after));
            checkup.fine("certificates", config.folder.ca().display(), found);
        }
        None => {
            let found = format!("the CAs last {} days; the manager makes its own certificate when it starts", days(ca.ends()));
            checkup.fine("certificates", config.folder.ca().display(), found);
        }
    }
    Some(ca)
}

fn jiff_span(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX)
}

async fn database(checkup: &mut Checkup, config: &Config) -> Option<Inspection> {
    // Never the address: it may hold a password.
    let shown = match crate::config::sqlite_path(&config.database) {
        Some(path) => path.display().to_string(),
        None => "the PostgreSQL of manager.toml".into(),
    };
    let seen = match sutler_store::inspect(&config.database).await {
        Ok(seen) => seen,
        Err(e @ StoreError::Corrupt(_)) => {
            checkup.wrong("database", shown, &e, "stop the manager and restore the database from a backup");
            return None;
        }
        Err(e) => {
            let remedy = "see that the database is there and lets this user in; sutler serve takes another with --database";
            checkup.wrong("database", shown, &e, remedy);
            return None;
        }
    };
    if let Some(first) = seen.damage.first() {
        let found = format!("it is damaged: {first}");
        checkup.wrong("database", shown, found, "stop the manager and restore the database from a backup");
    } else if seen.version.is_some_and(|version| version > seen.expected) {
        let found = format!("its tables are of version {}, this program knows {}", seen.version.unwrap_or(0), seen.expected);
        checkup.wrong("database", shown, found, "use the newer sutler that made them");
    } else if seen.version != Some(seen.expected) {
        let found = format!("its tables are of version {}; {} is made of them at the next start", seen.version.unwrap_or(0), seen.expected);
        checkup.fine("database", shown, found);
    } else {
        checkup.fine("database", shown, format!("it answers, its tables are of version {}, nothing is damaged", seen.expected));
    }
    Some(seen)
}

/// Whether events reach those who are to be told of them.
fn hooks(checkup: &mut Checkup, config: &Config, inspection: Option<&Inspection>, world: &World) {
    for hook in &config.hooks {
        let name = format!("the hook {}", hook.name);
        if let Err(why) = Receiver::open(hook) {
            checkup.wrong("hooks", name, why, "mend the table [[hook]] in manager.toml, and start the manager anew");
            continue;
        }
        match inspection.map(|seen| seen.failing_hooks.iter().find(|failing| failing.name == hook.name)) {
            None => checkup.not_seen("hooks", name, "the database does not say how far it is"),
            Some(None) => checkup.fine("hooks", name, "its last delivery arrived, or there was none yet"),
            Some(Some(failing)) => {
                let since = failing.since.map(|since| format!(", tried for {} minutes", world.now().duration_since(since).as_mins()));
                let found = format!("its last delivery failed{}: {}", since.unwrap_or_default(), failing.error);
                checkup.wrong("hooks", name, found, "see that the receiver works; events are kept for it and delivered in order");
            }
        }
    }
}

async fn content(checkup: &mut Checkup, config: &Config) {
    let Some(path) = config.content.folder().map(Path::to_path_buf) else { return bucket(checkup, &config.content).await };
    // Made when it is first used.
    let there = if path.exists() { path.clone() } else { config.folder.path().to_path_buf() };
    let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if !there.is_dir() {
        return checkup.wrong(
            "content",
            path.display(),
            "it is no folder",
            "move it away, and restore the packages from a backup or push them",
        );
    }
    match rustix::fs::access(&there, access) {
        Ok(()) => checkup.fine("content", path.display(), "packages can be read and written"),
        Err(e) => {
            let found = format!("packages can't be read and written: {e}");
            checkup.wrong("content", path.display(), found, "chown it to the user that the manager runs as");
        }
    }
}

/// Whether the store answers and lets this manager read and write.
async fn bucket(checkup: &mut Checkup, at: &ContentAt) {
    let reached = match at.open() {
        Ok(content) => tokio::time::timeout(PATIENCE, content.reach()).await,
        Err(e) => Ok(Err(e)),
    };
    let found = match reached {
        Ok(Ok(())) => return checkup.fine("content", at, "packages can be read and written"),
        Ok(Err(e)) => e.to_string(),
        Err(_) => format!("it does not answer within {} s", PATIENCE.as_secs()),
    };
    checkup.wrong(
        "content",
        at,
        found,
        "see that the store runs, and that content and [s3] in manager.toml name it, its bucket and its key",
    );
}

fn disk(checkup: &mut Checkup, config: &Config) {
    let database = crate::config::sqlite_path(&config.database).and_then(Path::parent).map(Path::to_path_buf);
    let places: Vec<PathBuf> = [Some(config.folder.path().to_path_buf()), database].into_iter().flatten().filter(|p| p.exists()).collect();
    let reserve = config.limits.disk_reserve;
    for place in &places {
        match rustix::fs::statvfs(place) {
            Err(e) => return checkup.wrong("disk", place.display(), e, "see whether its disk works"),
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                if free < reserve {
                    let found = format!("{free} bytes are free, fewer than the reserve of {reserve} (limits.disk_reserve)");
                    let remedy =
                        "make room: until then nothing is pushed, and what is left is kept for revocations, renewals and the audit log";
                    return checkup.wrong("disk", place.display(), found, remedy);
                }
            }
        }
    }
    checkup.fine("disk", config.folder.path().display(), "there is more room than the reserve");
}

/// Whether a process holds the folder's lock. The lock is not tried: a manager that starts in that moment would find it taken.
fn serves(folder: &Folder) -> bool {
    let Ok(lock) = std::fs::metadata(folder.path().join("lock")) else { return false };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = format!(":{}", lock.ino());
    locks.lines().any(|line| line.contains("FLOCK") && line.split_whitespace().any(|word| word.ends_with(&inode)))
}

/// Where a listener at `bound` is reached from this machine.
fn reach(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

async fn served_ports(checkup: &mut Checkup, config: &Config, ca: &CaBundle) {
    for (port, address) in [("agents", config.agents), ("operators", config.operators)] {
        if let Err(why) = shake_hands(reach(address), config, ca).await {
            let remedy =
                "see the manager's log; if it was started with other addresses, give them to the doctor, too (--agents, --operators)";
            return checkup.wrong("ports", format!("{port} at {address}"), why, remedy);
        }
    }
    if let Some(address) = config.telemetry {
        match ready(reach(address)).await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => {}
            Ok(answer) => {
                let found = answer.lines().last().unwrap_or_default().to_owned();
                return checkup.wrong("ports", format!("telemetry at {address}"), found, "see the manager's log");
            }
            Err(why) => {
                let remedy = "see the manager's log; if it was started with another address, give it to the doctor, too (--telemetry)";
                return checkup.wrong("ports", format!("telemetry at {address}"), why, remedy);
            }
        }
    }
    let shown = format!("agents at {}, operators at {}", config.agents, config.operators);
    checkup.fine("ports", shown, "both answer, with this manager's certificate");
}

async fn shake_hands(address: SocketAddr, config: &Config, ca: &CaBundle) -> Result<(), String> {
    // Who connects to an address of this machine comes from the same one.
    let as_balancer = config.net.is_balancer(address.ip());
    let tls = tls::agent_client(None, &ServerTrust::of_bundle(ca), Clock::system()).map_err(|e| e.to_string())?;
    let connecting = async {
        let mut socket = TcpStream::connect(address).await.map_err(|e| format!("nobody answers: {e}"))?;
        if as_balancer {
            // It calls for itself, to see whether the manager is there.
            socket.write_all(b"PROXY UNKNOWN\r\n").await.map_err(|e| format!("nobody answers: {e}"))?;
        }
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(tls).connect(name, socket).await;
        stream.map(drop).map_err(|e| format!("whoever answers is not this manager: {e}"))
    };
    timeout(PATIENCE, connecting).await.unwrap_or_else(|_| Err("no answer in time".into()))
}

async fn ready(address: SocketAddr) -> Result<String, String> {
    let asking = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        socket.take(16 << 10).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    match timeout(PATIENCE, asking).await {
        Ok(answer) => answer.map_err(|e| format!("nobody answers: {e}")),
        Err(_) => Err("no answer in time".into()),
    }
}

async fn free_ports(checkup: &mut Checkup, config: &Config) {
    let ports = [("agents", Some(config.agents)), ("operators", Some(config.operators)), ("telemetry", config.telemetry)];
    for (port, address) in ports {
        let Some(address) = address else { continue };
        if let Err(e) = TcpListener::bind(address).await {
            let found = format!("it can't be bound: {e}");
            let remedy = format!("see who has it (ss -ltnp), or choose another in manager.toml or with --{port}");
            return checkup.wrong("ports", format!("{port} at {address}"), found, remedy);
        }
    }
    checkup.fine("ports", format!("agents at {}, operators at {}", config.agents, config.operators), "they are free for a manager");
}

fn clock(checkup: &mut Checkup, config: &Config, inspection: Option<Inspection>, world: &World) {
    let now = world.now();
    if let Some(theirs) = inspection.and_then(|i| i.clock) {
        let skew = now.as_second() - theirs.as_second();
        if skew.abs() > SKEW_MAX {
            let direction = if skew > 0 { "ahead of" } else { "behind" };
            let found = format!("this machine is {} s {direction} the database's", skew.abs());
            return checkup.wrong("clock", "the database's clock", found, "set both clocks, and keep them set");
        }
        return checkup.fine("clock", "the database's clock", format!("this machine is within {} s of it", skew.abs().max(1)));
    }
    let written = std::fs::metadata(config.folder.server().join("identity.pem")).and_then(|m| m.modified()).ok();
    let written = written.and_then(|t| Timestamp::try_from(t).ok());
    match written.filter(|t| t.as_second() > now.as_second() + SKEW_MAX) {
        Some(t) => {
            let found = format!("the manager's own certificate was written at {t}, and this machine says that it is {now}");
            checkup.wrong("clock", "this machine's clock", found, "set the clock, and keep it set");
        }
        None => checkup.fine("clock", "this machine's clock", format!("it says {now}; nothing here is from the future")),
    }
}
