//! The agent's doctor: looks at everything that an agent needs, changes nothing, and says what is wrong in plain words.
//!
//! It works beside a running agent and without one. What depends on something that is wrong is not looked at, so that one
//! fault is named once. To the manager it makes a connection of its own and asks for nothing: a session of this client would end
//! the one that the running agent has.

use crate::{
    clock::Clock,
    config::{Config, ConfigError},
    guard,
    identity::Identity,
    install::room,
    journal::FolderJournal,
    limits::Limits,
    link::{self, LinkError},
    service::{self, Call, Reply},
    vault::FolderVault,
};
use rustls::ClientConfig;
use std::{io, path::Path, sync::Arc, time::Duration};
use sutler_base::{Timestamp, checkup::Checkup};
use sutler_proto::v1::{self, agent_service_client::AgentServiceClient};

/// How far the machine's clock may be from the manager's (seconds).
const SKEW_MAX: i64 = 60;
/// How long the running agent may take to answer.
const SERVICE_PATIENCE: Duration = Duration::from_secs(5);
/// Free space below which the agent's own small files are in danger (bytes).
const STATE_ROOM: u64 = 8 << 20;

/// Looks at everything. `file` is the configuration's name, for what is said about it.
pub async fn examine(config: Result<Config, ConfigError>, file: &Path, clock: &Arc<dyn Clock>) -> Checkup {
    let mut checkup = Checkup::default();
    let config = match config {
        Ok(config) => config,
        Err(e) => {
            checkup.wrong("configuration", file.display(), &e, "mend the file, or remove it: the defaults are good");
            for check in ["policy", "folder", "enrolment", "certificate", "journal", "disk", "service", "manager", "clock"] {
                checkup.not_seen(check, file.display(), "nobody knows where it is without the configuration");
            }
            return checkup;
        }
    };
    configuration(&mut checkup, &config);
    let folder_is_well = folder(&mut checkup, &config);
    let identity = if folder_is_well { enrolment(&mut checkup, &config) } else { not_seen(&mut checkup, &config) };
    if let Some(identity) = &identity {
        certificate(&mut checkup, identity, clock.now().wall);
    }
    if folder_is_well {
        journal(&mut checkup, &config);
    }
    disk(&mut checkup, &config);
    let skew = service(&mut checkup, &config, identity.is_some()).await;
    match &identity {
        Some(identity) => manager(&mut checkup, identity, &config.limits, clock, skew).await,
        None => {
            checkup.not_seen("manager", "the manager", "without an enrolment there is none");
            checkup.not_seen("clock", "the manager's clock", "without an enrolment there is no manager");
        }
    }
    checkup
}

/// The configuration that was read, and the machine's own rules.
fn configuration(checkup: &mut Checkup, config: &Config) {
    let shown = config.file.display();
    let rules = config.policy.file().unwrap_or(&config.file);
    if let Some(exposed) = guard::changeable(&config.file) {
        checkup.wrong("configuration", exposed.path.display(), format!("it {}: the agent refuses to start", exposed.why), exposed.remedy);
        return checkup.not_seen("policy", rules.display(), "it lies beside the configuration, which others may change");
    }
    checkup.fine("configuration", shown, if config.file.exists() { "it can be used" } else { "there is none: the defaults are used" });
    if let Some(exposed) = guard::changeable(rules) {
        return checkup.wrong("policy", exposed.path.display(), format!("it {}: the agent refuses to start", exposed.why), exposed.remedy);
    }
    match config.policy.read() {
        Ok(_) if rules.exists() => checkup.fine("policy", rules.display(), "it can be used"),
        Ok(_) => checkup.fine("policy", rules.display(), "there is none: this machine has no rules of its own"),
        Err(e) => checkup.wrong("policy", rules.display(), e, "mend the file"),
    }
}

fn not_seen(checkup: &mut Checkup, config: &Config) -> Option<Identity> {
    for check in ["enrolment", "certificate", "journal"] {
        checkup.not_seen(check, config.dir.display(), "the folder is not as it should be");
    }
    None
}

fn folder(checkup: &mut Checkup, config: &Config) -> bool {
    let shown = config.dir.display();
    match std::fs::read_dir(&config.dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            checkup.wrong("folder", shown, "it is not there", "enrol this machine: sutler-agent enroll --token-file FILE");
            return false;
        }
        Err(e) => {
            checkup.wrong(
                "folder",
                shown,
                format!("it can't be read: {e}"),
                "run the doctor as root, or as the user that the agent runs as",
            );
            return false;
        }
        Ok(_) => {}
    }
    let exposed = guard::exposed(&config.dir);
    match exposed.as_slice() {
        [] => checkup.fine("folder", shown, "it and what is in it is the agent's alone"),
        [first, more @ ..] => {
            let others = if more.is_empty() { String::new() } else { format!(" (and {} more like that)", more.len()) };
            checkup.wrong("folder", first.path.display(), format!("it {}{others}", first.why), &first.remedy);
        }
    }
    exposed.is_empty()
}

fn enrolment(checkup: &mut Checkup, config: &Config) -> Option<Identity> {
    let shown = config.dir.display();
    let loaded = FolderVault::open(&config.dir).map_err(|e| e.to_string());
    match loaded.and_then(|vault| Identity::load(Arc::new(vault)).map_err(|e| e.to_string())) {
        Ok(identity) => {
            checkup.fine("enrolment", shown, format!("client {} of {}", identity.client(), identity.trust().trust_domain()));
            Some(identity)
        }
        Err(e) => {
            checkup.wrong("enrolment", &shown, e, "enrol again with a new token: sutler-agent enroll --force --token-file FILE");
            checkup.not_seen("certificate", shown, "without an enrolment there is none");
            None
        }
    }
}

fn certificate(checkup: &mut Checkup, identity: &Identity, now: Timestamp) {
    let shown = "the machine's certificate";
    let certificate = match identity.certificate() {
        Ok(certificate) => certificate,
        Err(e) => {
            return checkup.wrong("certificate", shown, e, "enrol again with a new token: sutler-agent enroll --force --token-file FILE");
        }
    };
    let (begin, end) = (certificate.not_before, certificate.not_after);
    let (life, left) = (end.as_second() - begin.as_second(), end.as_second() - now.as_second());
    if left < 0 {
        let remedy =
            "start the agent: it renews by itself within the manager's grace (90 days unless set otherwise); after that, enrol again";
        checkup.wrong("certificate", shown, format!("it ended at {end}"), remedy);
    } else if now < begin {
        checkup.wrong("certificate", shown, format!("it begins at {begin}, and this machine says that it is {now}"), "set the clock");
    } else if left < life / 5 {
        let remedy = "it should have been renewed at two thirds of its life: see that the agent runs and reaches its manager";
        checkup.wrong("certificate", shown, format!("it ends at {end}, soon"), remedy);
    } else {
        checkup.fine("certificate", shown, format!("it is valid until {end}"));
    }
}

fn journal(checkup: &mut Checkup, config: &Config) {
    let shown = config.dir.join("attempts");
    let inspected = FolderJournal::inspect(&config.dir);
    if inspected.lost {
        let remedy = "start the agent: it tells the manager, which ends what had been accepted and offers the rest anew";
        checkup.wrong("journal", shown.display(), "it was lost: what had been accepted can't be known", remedy);
    } else if !inspected.damaged.is_empty() {
        let names: Vec<_> = inspected.damaged.iter().take(3).map(ToString::to_string).collect();
        let found = format!("{} of {} records can't be read ({})", inspected.damaged.len(), inspected.records, names.join(", "));
        let remedy = "start the agent anew: it reports those attempts as interrupted; job retry runs them again";
        checkup.wrong("journal", shown.display(), found, remedy);
    } else {
        checkup.fine("journal", shown.display(), format!("{} open attempts, all of them readable", inspected.records));
    }
}

fn disk(checkup: &mut Checkup, config: &Config) {
    let reserve = config.limits.disk_reserve;
    // The folder may not be there yet: then what it will be in.
    let there = |path: &Path| path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/")).to_path_buf();
    for (path, least) in [(there(&config.dir), STATE_ROOM), (there(&config.root), reserve)] {
        match room(&path) {
            Err(e) => return checkup.wrong("disk", path.display(), e, "see whether its disk works"),
            Ok(free) if free < least => {
                let found = format!("{free} bytes are free, {least} are needed");
                return checkup.wrong("disk", path.display(), found, "make room: nothing is fetched or installed before");
            }
            Ok(_) => {}
        }
    }
    checkup.fine("disk", config.root.display(), "there is room for the agent's files and the reserve");
}

/// Whether the agent runs; what it knows of the clock.
async fn service(checkup: &mut Checkup, config: &Config, enrolled: bool) -> Option<i64> {
    let shown = config.socket.display();
    match tokio::time::timeout(SERVICE_PATIENCE, service::call(&config.socket, &Call::Status)).await {
        Ok(Ok(Reply::Status { status })) => {
            let link = match (&status.connected, &status.problem) {
                (Some(address), _) => format!("connected to {address}"),
                (None, Some(problem)) => format!("not connected: {problem}"),
                (None, None) => "not connected yet".into(),
            };
            checkup.fine("service", shown, format!("the agent runs, {link}"));
            return status.clock_skew_seconds;
        }
        _ if !enrolled => checkup.not_seen("service", shown, "no agent runs before the machine is enrolled"),
        Ok(Err(e)) => {
            checkup.wrong("service", shown, format!("no agent runs: {e}"), "start it: systemctl start sutler-agent, or sutler-agent run");
        }
        Ok(Ok(_)) => checkup.wrong("service", shown, "something else than an agent of this version answers", "restart the agent"),
        Err(_) => checkup.wrong("service", shown, "the agent does not answer", "restart it: systemctl restart sutler-agent"),
    }
    None
}

async fn manager(checkup: &mut Checkup, identity: &Identity, limits: &Limits, clock: &Arc<dyn Clock>, known_skew: Option<i64>) {
    let addresses = identity.addresses();
    let shown = addresses.join(", ");
    let clock_at = "the manager's clock";
    let tls = link::tls_clock(&link::ManagerTime::new(clock.clone()));
    let config = match sutler_certs::tls::agent_client(Some(&identity.current()), identity.trust(), tls) {
        Ok(config) => config,
        Err(e) => {
            checkup.wrong("manager", shown, e, "enrol again with a new token: sutler-agent enroll --force --token-file FILE");
            return checkup.not_seen("clock", clock_at, "the manager can't be asked");
        }
    };
    let mut failures = Vec::new();
    let mut answered = None;
    for address in &addresses {
        match knock(address, config.clone(), limits).await {
            Ok(time) => {
                answered = Some((address, time));
                break;
            }
            Err(failed) => failures.push(failed),
        }
    }
    let Some((address, time)) = answered else {
        let (found, what_to_do) = match failures.as_slice() {
            [] => ("no address of a manager is known".to_owned(), "enrol again with a new token"),
            [.., last] => (failures.iter().map(|f| f.found.as_str()).collect::<Vec<_>>().join("; "), last.what_to_do),
        };
        checkup.wrong("manager", shown, found, what_to_do);
        return skew(checkup, known_skew);
    };
    let before: String = failures.iter().map(|f| format!(" (before: {})", f.found)).collect();
    checkup.fine("manager", address, format!("it is the manager, and it knows this client{before}"));
    skew(checkup, time.map(|t| clock.now().wall.as_second() - t.as_second()).or(known_skew));
}

fn skew(checkup: &mut Checkup, skew: Option<i64>) {
    let shown = "the manager's clock";
    match skew {
        None => checkup.not_seen("clock", shown, "the manager can't be asked"),
        Some(skew) if skew.abs() > SKEW_MAX => {
            let direction = if skew > 0 { "ahead of" } else { "behind" };
            let remedy = "set the clock, and keep it set (systemd-timesyncd, chrony): certificates count by it";
            checkup.wrong("clock", shown, format!("this machine is {} s {direction} the manager", skew.abs()), remedy);
        }
        Some(skew) => checkup.fine("clock", shown, format!("this machine is within {} s of the manager", skew.abs().max(1))),
    }
}

/// Why an address is of no use.
struct Failed {
    found: String,
    what_to_do: &'static str,
}

/// Connects and makes a call that does nothing; gives back the manager's time, if it said it.
async fn knock(address: &str, config: Arc<ClientConfig>, limits: &Limits) -> Result<Option<Timestamp>, Failed> {
    const NETWORK: &str = "see that the manager runs, that the name leads to it, and that no firewall is in between";
    const TRUST: &str = "see that the address is the manager's and the clock is right; if the manager was made anew, enrol again";
    const CERTIFICATE: &str =
        "the manager does not take this machine's certificate: see its end above, and `sutler client show`; enrol again if it was removed";
    let connection = match link::connect_within(address, config, limits).await {
        Ok(connection) => connection,
        Err(e @ LinkError::Tls { .. }) => return Err(Failed { found: e.to_string(), what_to_do: TRUST }),
        Err(e) => return Err(Failed { found: e.to_string(), what_to_do: NETWORK }),
    };
    let mut client = AgentServiceClient::with_origin(connection.clone(), connection.origin());
    // It names no attempt and no digest, so all that can come of it is what the manager thinks of the caller.
    let asked = tokio::time::timeout(limits.unary_call, client.read_chunks(v1::ReadChunksRequest::default())).await;
    let status = match asked {
        Err(_) => return Err(Failed { found: format!("{address} did not answer in time"), what_to_do: NETWORK }),
        Ok(Ok(_)) => return Ok(None),
        Ok(Err(status)) => status,
    };
    match status.code() {
        // Whose certificate has ended may renew it and reaches nothing else; that it ended is said elsewhere.
        tonic::Code::InvalidArgument | tonic::Code::Unimplemented => {
            let date = status.metadata().get("date").and_then(|d| d.to_str().ok());
            Ok(date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()).map(|d| d.timestamp()))
        }
        tonic::Code::Unavailable | tonic::Code::ResourceExhausted => Err(Failed {
            found: format!("{address}: {}", status.message()),
            what_to_do: "see the manager: sutler doctor --dir DIR on its host",
        }),
        _ => Err(Failed { found: format!("{address}: {}", link::said(&status)), what_to_do: CERTIFICATE }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::checkup::Verdict;

    #[test]
    fn a_clock_that_is_far_from_the_managers_is_named_with_its_direction() {
        let verdict = |seconds| {
            let mut checkup = Checkup::default();
            skew(&mut checkup, seconds);
            checkup.0.remove(0)
        };
        for fine in [0, 60, -60] {
            assert_eq!(verdict(Some(fine)).verdict, Verdict::Fine, "{fine}");
        }
        assert!(verdict(Some(3600)).found.contains("3600 s ahead"));
        assert!(verdict(Some(-86_400)).found.contains("86400 s behind"));
        assert_eq!(verdict(None).verdict, Verdict::NotSeen);
    }
}
