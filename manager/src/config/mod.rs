//! How this manager is set up: `manager.toml`, and what the command line says instead.

pub mod content;
pub mod hooks;
pub mod limits;
mod moved;

pub use content::ContentAt;
pub use hooks::Hook;
pub use limits::Limits;

use crate::{folder::Folder, net};
use ipnet::IpNet;
use serde::Deserialize;
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use sutler_base::{Invalid, limits::ADDRESSES_MAX, quoted};
use sutler_certs::{Host, TrustDomain};

/// The port for agents.
pub const AGENTS_PORT: u16 = 7443;
/// The port for operators.
pub const OPERATORS_PORT: u16 = 7444;
/// The port for metrics and health.
pub const TELEMETRY_PORT: u16 = 7480;

const FILE_MAX: u64 = 1 << 20;

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}; `sutler init --dir D` makes a manager's folder", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that is not understood or not allowed.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why, with the line where there is one.
        reason: String,
    },
}

/// What happens when an agent comes back whose certificate ended within the grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredAgents {
    /// It gets a new certificate.
    #[default]
    Automatic,
    /// It gets one, and is `PENDING` until an operator approves.
    Approved,
    /// It is turned away in the handshake, and must enrol again.
    Off,
}

/// An address of the telemetry listener, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TelemetryAt {
    /// No listener.
    Off,
    /// There.
    Address(SocketAddr),
}

impl FromStr for TelemetryAt {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "off" => Ok(TelemetryAt::Off),
            _ => parse_listen("telemetry", text).map(TelemetryAt::Address),
        }
    }
}

/// What is in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    trust_domain: String,
    hosts: Vec<String>,
    #[serde(default)]
    advertise: Vec<String>,
    agents: Option<String>,
    operators: Option<String>,
    telemetry: Option<String>,
    database: Option<String>,
    moved_from: Option<String>,
    content: Option<String>,
    s3: Option<content::WrittenS3>,
    #[serde(default)]
    expired_agents: ExpiredAgents,
    #[serde(default)]
    net: net::Limits,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    hook: Vec<hooks::Written>,
}

/// What the command line says instead of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// Where agents connect.
    pub agents: Option<SocketAddr>,
    /// Where operators connect.
    pub operators: Option<SocketAddr>,
    /// Where metrics and health are.
    pub telemetry: Option<TelemetryAt>,
    /// The database, as in the file.
    pub database: Option<String>,
    /// The addresses that agents are told, in place of the file's, if any.
    pub advertise: Vec<String>,
    /// The networks of balancers, in place of the file's, if any.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// How this manager is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The manager's folder.
    pub folder: Folder,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Names and addresses in the manager's certificate, besides `localhost`, `127.0.0.1` and `::1`.
    pub hosts: Vec<Host>,
    /// Where agents are told to connect, `host:port`, in the order to try; with port 0 until the listener is bound: see
    /// [`Config::advertised`].
    pub advertise: Vec<String>,
    /// Where agents connect.
    pub agents: SocketAddr,
    /// Where operators connect.
    pub operators: SocketAddr,
    /// Where metrics and health are, if anywhere.
    pub telemetry: Option<SocketAddr>,
    /// The database: `sqlite:///…` with an absolute path, or `postgres://…`. May hold a password: never log it.
    pub database: String,
    /// The database from which `sutler migrate` moved what is now in that one, as an URL: nobody serves it any more.
    pub moved_from: Option<String>,
    /// Where packages' bytes lie, which several managers share.
    pub content: ContentAt,
    /// What happens when an agent comes back whose certificate ended.
    pub expired_agents: ExpiredAgents,
    /// The bounds of the listeners.
    pub net: net::Limits,
    /// The other bounds.
    pub limits: Limits,
    /// Whom to tell of events.
    pub hooks: Vec<Hook>,
}

impl Config {
    /// The configuration in the manager's folder, with what the command line says instead.
    pub fn load(folder: Folder, overrides: &Overrides) -> Result<Config, ConfigError> {
        let path = folder.config();
        let read = |source| ConfigError::Read { path: path.clone(), source };
        let length = fs_err::metadata(&path).map_err(read)?.len();
        if length > FILE_MAX {
            return Err(ConfigError::Content { path, reason: format!("it is {length} bytes long; at most {FILE_MAX} are read") });
        }
        let text = fs_err::read_to_string(&path).map_err(read)?;
        Config::parse(folder, &text, overrides).map_err(|reason| ConfigError::Content { path, reason })
    }

    /// The configuration in this text; an error is a sentence.
    fn parse(folder: Folder, text: &str, overrides: &Overrides) -> Result<Config, String> {
        let mut written: Written = toml::from_str(text).map_err(|e| e.to_string())?;
        if let Some(rule) = written.net.broken_rule().or_else(|| written.limits.broken_rule()) {
            return Err(rule);
        }
        if written.net.anonymous_bytes < written.limits.enroll_message + 1024 {
            return Err("net.anonymous_bytes is less than limits.enroll_message and 1 KiB around it; nobody could enrol".into());
        }
        if !overrides.proxy_protocol_from.is_empty() {
            written.net.proxy_protocol_from.clone_from(&overrides.proxy_protocol_from);
        }
        let text = |e: Invalid| e.to_string();
        let hosts = written.hosts.iter().map(|h| h.parse().map_err(text)).collect::<Result<Vec<Host>, String>>()?;
        if hosts.is_empty() {
            return Err("hosts is empty; name at least one host under which this manager is reached".into());
        }
        let listen = |given: Option<SocketAddr>, key: &str, written: &Option<String>, port: u16| match (given, written) {
            (Some(address), _) => Ok(address),
            (None, Some(address)) => parse_listen(key, address).map_err(text),
            (None, None) => Ok(SocketAddr::from(([0, 0, 0, 0], port))),
        };
        let agents = listen(overrides.agents, "agents", &written.agents, AGENTS_PORT)?;
        let operators = listen(overrides.operators, "operators", &written.operators, OPERATORS_PORT)?;
        let telemetry = match (overrides.telemetry, &written.telemetry) {
            (Some(at), _) => at,
            (None, Some(at)) => at.parse().map_err(text)?,
            (None, None) => TelemetryAt::Address(SocketAddr::from(([127, 0, 0, 1], TELEMETRY_PORT))),
        };
        let advertise = if overrides.advertise.is_empty() { written.advertise } else { overrides.advertise.clone() };
        let advertise = if advertise.is_empty() { addresses(&hosts, agents.port()) } else { advertise };
        if advertise.len() > ADDRESSES_MAX {
            return Err(format!("advertise has {} addresses; agents keep at most {ADDRESSES_MAX}", advertise.len()));
        }
        advertise.iter().try_for_each(|a| parse_address(a).map(drop)).map_err(text)?;
        let hooks = hooks::read(written.hook, &folder)?;
        let database = overrides.database.clone().or(written.database).unwrap_or_else(|| "sqlite:manager.db".into());
        let database = database_url(&folder, &database)?;
        let moved_from = written.moved_from.map(|moved| database_url(&folder, &moved)).transpose()?;
        moved::refuse_moved(&database, moved_from.as_deref())?;
        Ok(Config {
            trust_domain: written.trust_domain.parse().map_err(text)?,
            database,
            moved_from,
            content: ContentAt::read(&folder, written.content, written.s3)?,
            folder,
            hosts,
            advertise,
            agents,
            operators,
            telemetry: match telemetry {
                TelemetryAt::Off => None,
                TelemetryAt::Address(address) => Some(address),
            },
            expired_agents: written.expired_agents,
            net: written.net,
            limits: written.limits,
            hooks,
        })
    }

    /// The addresses that agents are told once the agents' port is `bound`: port 0 becomes the real one.
    pub fn advertised(&self, bound: SocketAddr) -> Vec<String> {
        let real = |address: &String| match address.strip_suffix(":0") {
            Some(host) => format!("{host}:{}", bound.port()),
            None => address.clone(),
        };
        self.advertise.iter().map(real).collect()
    }

    /// Every name and address for the manager's own certificate.
    pub fn certificate_hosts(&self) -> Vec<Host> {
        certificate_hosts(&self.hosts)
    }

    /// How long after its end an agent's certificate gets through the handshake: the grace, or nothing where it is off.
    pub fn agent_grace(&self) -> Duration {
        if self.expired_agents == ExpiredAgents::Off { Duration::ZERO } else { self.limits.agent_grace }
    }
}

/// These hosts, and those by which a machine reaches itself.
pub(crate) fn certificate_hosts(hosts: &[Host]) -> Vec<Host> {
    let own = ["localhost", "127.0.0.1", "::1"].map(|h| h.parse().expect("these are hosts"));
    let mut all: Vec<Host> = hosts.iter().cloned().chain(own).collect();
    all.sort();
    all.dedup();
    all
}

/// `host:port` for each host, the first eight.
pub(crate) fn addresses(hosts: &[Host], port: u16) -> Vec<String> {
    hosts.iter().take(ADDRESSES_MAX).map(|host| address(host, port)).collect()
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn address(host: &Host, port: u16) -> String {
    match host {
        Host::Address(ip) => SocketAddr::new(*ip, port).to_string(),
        Host::Name(name) => format!("{name}:{port}"),
    }
}

/// The host and the port in `host:port`.
pub fn parse_address(text: &str) -> Result<(Host, u16), Invalid> {
    let invalid = || Invalid::new(format!("an address is host:port, like manager.acme.example:7443, not {}", quoted(text)));
    let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    if host.contains(':') && !host.starts_with('[') {
        return Err(invalid());
    }
    Ok((host.parse()?, port.parse().map_err(|_| invalid())?))
}

fn parse_listen(key: &str, text: &str) -> Result<SocketAddr, Invalid> {
    let rule = "is an IP address and a port, like 0.0.0.0:7443 or [::]:7443";
    text.parse().map_err(|_| Invalid::new(format!("{key} {rule}, not {}", quoted(text))))
}

/// The URL with an absolute path; a path in the file is relative to the manager's folder.
pub(crate) fn database_url(folder: &Folder, written: &str) -> Result<String, String> {
    if written.starts_with("postgres://") || written.starts_with("postgresql://") {
        return Ok(written.into());
    }
    let Some(path) = written.strip_prefix("sqlite:") else {
        // Without the text: it may hold a password.
        return Err("database starts with sqlite: (and a path) or postgres://".into());
    };
    let path = folder.path().join(path.strip_prefix("//").unwrap_or(path));
    let path = std::path::absolute(&path).map_err(|e| format!("cannot tell the absolute path of the database: {e}"))?;
    let path = path.to_str().ok_or_else(|| format!("the database's path {} is not UTF-8; choose another folder", path.display()))?;
    Ok(format!("sqlite://{path}"))
}

/// Where the embedded database of this URL lies.
pub fn sqlite_path(url: &str) -> Option<&Path> {
    url.strip_prefix("sqlite://").map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Folder::new("/srv/sutler"), text, &Overrides::default())
    }

    const SMALL: &str = "trust_domain = \"acme.example\"\nhosts = [\"manager.acme.example\", \"2001:db8::1\"]\n";

    #[test]
    fn a_small_file_is_enough() {
        let config = parse(SMALL).unwrap();
        assert_eq!(config.agents, "0.0.0.0:7443".parse().unwrap());
        assert_eq!(config.telemetry, Some("127.0.0.1:7480".parse().unwrap()));
        assert_eq!(config.database, "sqlite:///srv/sutler/manager.db");
        assert_eq!(config.advertise, ["manager.acme.example:7443", "[2001:db8::1]:7443"]);
        assert_eq!(config.certificate_hosts().len(), 5);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.net, net::Limits::default());
    }

    #[test]
    fn every_limit_can_be_set_and_a_nonsense_one_is_refused() {
        let config =
            parse(&format!("{SMALL}[net]\nhandshake = \"2s\"\nframe = \"1MiB\"\n[limits]\nlease = \"20s\"\nfacts = 65536\n")).unwrap();
        assert_eq!((config.net.handshake, config.net.frame), (Duration::from_secs(2), 1 << 20));
        assert_eq!((config.limits.lease, config.limits.facts), (Duration::from_secs(20), 65536));
        for (bad, word) in [
            ("[net]\nhandshakes = 0", "net.handshakes"),
            ("[net]\nframe = \"1GiB\"", "net.frame"),
            ("[net]\nhandshake = \"soon\"", "a span of time"),
            ("[net]\nproxy_protocol_from = [\"ten\"]", "a network"),
            ("[limits]\nenroll_message = \"64KiB\"", "net.anonymous_bytes"),
            ("[limits]\nrecheck = \"1h\"", "limits.recheck"),
            ("[limits]\nopen_attempts = 65", "limits.open_attempts"),
            ("[limits]\nno_such_limit = 1", "no_such_limit"),
        ] {
            let error = parse(&format!("{SMALL}{bad}\n")).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let overrides = Overrides {
            agents: Some("127.0.0.1:0".parse().unwrap()),
            telemetry: Some(TelemetryAt::Off),
            database: Some("postgres://u:secret@h/d".into()),
            proxy_protocol_from: vec!["10.0.0.0/8".parse().unwrap()],
            ..Overrides::default()
        };
        let file = format!("{SMALL}[net]\nproxy_protocol_from = [\"192.0.2.1\"]\n");
        assert_eq!(parse(&file).unwrap().net.proxy_protocol_from, ["192.0.2.1/32".parse().unwrap()]);
        let config = Config::parse(Folder::new("/d"), &file, &overrides).unwrap();
        assert_eq!(config.net.proxy_protocol_from, overrides.proxy_protocol_from);
        assert_eq!((config.agents.port(), config.telemetry, config.database.as_str()), (0, None, "postgres://u:secret@h/d"));
        let bound = "127.0.0.1:4711".parse().unwrap();
        assert_eq!(config.advertised(bound), ["manager.acme.example:4711", "[2001:db8::1]:4711"]);
    }

    #[test]
    fn a_mistake_in_the_file_is_named() {
        for (text, word) in [
            ("trust_domain = \"acme.example\"\nhosts = []", "hosts is empty"),
            ("trust_domain = \"acme.example\"\nhosts = [\"a b\"]", "a b"),
            ("hosts = [\"a\"]", "trust_domain"),
            (&format!("{SMALL}agents = \"localhost\""), "agents is an IP address"),
            (&format!("{SMALL}advertise = [\"manager\"]"), "host:port"),
            (&format!("{SMALL}color = \"red\""), "color"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let error = parse(&format!("{SMALL}database = \"mysql://u:secret@h\"")).unwrap_err();
        assert!(error.contains("postgres://") && !error.contains("secret"), "{error}");
    }
}
