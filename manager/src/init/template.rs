//! The `manager.toml` that a new manager gets: what was chosen, and every other setting with its default, commented.

use super::InitOptions;
use crate::config::TelemetryAt;
use serde::Serialize;

/// The file for these options.
pub(super) fn text(options: &InitOptions) -> String {
    let telemetry = match options.telemetry {
        TelemetryAt::Off => "off".to_owned(),
        TelemetryAt::Address(address) => address.to_string(),
    };
    let advertise = match options.advertise.as_slice() {
        [] => format!("# advertise = {}", value(crate::config::addresses(&options.hosts, options.agents.port()))),
        given => format!("advertise = {}", value(given)),
    };
    let none = "# proxy_protocol_from = []";
    let limits = match options.proxy_protocol_from.as_slice() {
        [] => LIMITS.to_owned(),
        given => {
            LIMITS.replace(none, &format!("proxy_protocol_from = {}", value(given.iter().map(ToString::to_string).collect::<Vec<_>>())))
        }
    };
    let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    format!(
        "# The configuration of this manager. Settings with a # before them show their default.
# Spans of time are written as 500ms, 30s, 10m, 12h or 90d; sizes as 64KiB or 1MiB.

# The name below which every identity is. It is in every certificate and can't be changed.
trust_domain = {trust_domain}

# Names and addresses under which this manager is reached: they are in its certificate, besides localhost, 127.0.0.1 and ::1.
hosts = {hosts}

# Where agents are told to connect, host:port, in the order to try; at most 8. Tokens carry them, and agents learn of changes.
{advertise}

# Where this manager listens. [::]:7443 is every address, IPv6 included. Port 0 is any free port.
agents = {agents}
operators = {operators}

# Metrics and health over plain HTTP, without any credential: keep it on the loopback. Or \"off\".
telemetry = {telemetry}

# The database: sqlite:PATH (relative to this folder) or postgres://USER@HOST/DATABASE. What is in it is moved by `sutler migrate`,
# not by changing this line.
database = {database}

# Where packages' bytes lie: a folder, relative to this one, or \"s3://BUCKET/PREFIX\" of an S3-compatible store; see [s3].
# Several managers share a bucket, or a folder on a file system that all of them see.
{content}

# An agent that comes back after its certificate ended, within limits.agent_grace: \"automatic\" (it gets a new one),
# \"approved\" (an operator must approve) or \"off\" (it must enrol again).
# expired_agents = \"automatic\"

# The store, where content names a bucket. Without an endpoint it is Amazon's; without a key the environment says it
# (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), or the role of this machine. The key is a file, closed to others, with two lines:
#   access_key_id = \"…\"
#   secret_access_key = \"…\"
# ca is a file with the CAs (PEM) of the store, if its certificate is not from one that this machine trusts.
#   [s3]
#   endpoint = \"https://s3.acme.example:9000\"
#   region = \"us-east-1\"
#   key = \"s3.key\"
#   ca = \"s3-ca.pem\"

{limits}",
        trust_domain = value(options.trust_domain.to_string()),
        hosts = value(hosts),
        agents = value(options.agents.to_string()),
        operators = value(options.operators.to_string()),
        content = match &options.content {
            Some(path) => format!("content = {}", value(path)),
            None => "# content = \"content\"".to_owned(),
        },
        telemetry = value(telemetry),
        database = value(&options.database),
    )
}

/// As TOML writes it.
fn value(of: impl Serialize) -> String {
    toml::Value::try_from(of).map(|v| v.to_string()).unwrap_or_default()
}

const LIMITS: &str = r#"# The bounds of both ports.
[net]
# A TLS handshake and the first bytes of HTTP/2, and how many handshakes there are at a time.
# handshake = "5s"
# handshakes = 512
# When all those places are taken and somebody waits: who keeps the manager waiting this long loses its place.
# handshake_patience = "1s"
# Connections that have sent nothing yet: how many (the oldest are dropped first), and for how long.
# silent_sockets = 1024
# silence = "10s"
# Connections that have sent something and wait for their handshake, in the order in which they came, the addresses in turns.
# waiting_sockets = 16384
# Connections on a port; 0: what the limit of open files allows.
# connections = 0
# Connections of one agent (the oldest is closed), of one operator (a new one is refused), and without a certificate from
# one address (others wait for their turn).
# connections_per_agent = 8
# connections_per_operator = 64
# anonymous_per_address = 32
# Without a certificate: how long a connection lasts, what one call may send, and how long it lasts.
# anonymous_lifetime = "30s"
# anonymous_bytes = "24KiB"
# anonymous_call = "10s"
# How long a call lasts that is no stream.
# unary_call = "30s"
# A connection on which nothing comes is asked whether it is there, and closed when it does not say so.
# keep_alive = "30s"
# keep_alive_timeout = "15s"
# Open calls and headers of one connection; calls that were reset.
# streams = 64
# headers = "16KiB"
# reset_streams = 20
# error_resets = 128
# Frames that carry nothing (PING, SETTINGS, empty DATA …) in ten seconds.
# control_frames = 10000
# Frames, windows and buffers of HTTP/2.
# frame = "512KiB"
# stream_window = "1MiB"
# connection_window = "4MiB"
# send_buffer = "1MiB"
# Balancers (networks like 10.0.0.0/8) that say with the PROXY protocol, version 1 or 2, who calls: required from there,
# ignored from everywhere else.
# proxy_protocol_from = []
# How long calls may go on when the manager is asked to stop.
# drain = "10s"

# The other bounds.
[limits]
# The largest message of a newcomer, an agent, an operator, and the largest report of facts.
# enroll_message = "16KiB"
# agent_message = "1MiB"
# operator_message = "4MiB"
# facts = "512KiB"
# How long an agent may start steps without hearing from the manager.
# lease = "10m"
# Work that is offered to one client and not at an end.
# open_attempts = 64
# How often open streams are asked whether their caller is still welcome.
# recheck = "2s"
# For how long bytes are served without having read who may still get them.
# revocations = "5s"
# How long certificates last, and how long after their end they can be renewed.
# agent_certificate = "30d"
# agent_grace = "90d"
# operator_certificate = "12h"
# operator_grace = "30d"
# How many certificates one client, or one operator, may be given within a third of the time that they last, an hour at most.
# renewals = 10
# How long an enrolment token lasts unless its maker says otherwise.
# token = "1h"
# How long the answer to a request_id is kept.
# request_memory = "24h"
# For how long a client may be silent before it is OVERDUE, and before it is archived by itself; "0s": none is.
# overdue = "14d"
# archive_after = "0s"
# How old an entry of the audit log becomes before it is sealed with those after it.
# audit_seal = "24h"
# How long events are kept, and how many of them; the oldest go first.
# events = "30d"
# events_max = 200000
# How much is kept of the log files of packages that failed, all together; the oldest go first.
# logs = "256MiB"
# When the circuit breaker of a version opens on a group (or for a job without one): how many of the newest 50 attempts may fail; and
# within an hour in which none succeeds, how many may fail, and how much those may fetch. 0: any number.
# breaker_failures = 25
# breaker_attempts = 20
# breaker_bytes = "10GiB"
# How many clients all jobs of an operator, and each job on a group, let go within an hour; 0: any number.
# budget = 0
# How much the scrub of stored content reads in a second, and how long after a whole one the next one begins.
# scrub_rate = "8MiB"
# scrub_every = "7d"
# From how many clients on, and of how many percent of the fleet, a change needs a second person: both have to be reached.
# second_person_clients = 50
# second_person_percent = 10
# How long nobody agrees whom another operator has just made, or given roles or a certificate; and how long whoever could agree still
# counts as somebody who could.
# second_person_rest = "24h"
# How many changes of one operator wait for a second person at the most.
# pending_approvals = 100
# Space on the disk that is kept for revocation, renewal and audit; with less than a quarter of it left besides, the disk
# counts as full.
# disk_reserve = "64MiB"

# Whom to tell of events: a program, which gets an event as JSON on its standard input and runs as the manager's user with
# a clean environment, or an address to which it is posted. Each hook gets its events in order and one at a time, at least
# once (name and cursor of an event never come twice); what fails is tried again for retry_for, and nothing else waits for it.
#   [[hook]]
#   name = "chat"
#   events = ["JOB_ENDED", "EXECUTION_FAILED", "JOB_HALTED", "BREAKER_OPENED", "CLIENT_OVERDUE"]
#   argv = ["/usr/local/bin/tell-chat", "--channel", "rollouts"]
#   time_limit = "30s"
#   retry_for = "24h"
#   [[hook]]
#   name = "tickets"
#   events = ["CERTIFICATE_ENDS_SOON", "PACKAGE_ENDS_SOON"]
#   url = "https://tickets.acme.example/sutler"
#   secret_file = "tickets.secret"  # header Sutler-Signature: sha256=HMAC of the body, in hex
#   ca = "tickets-ca.pem"           # instead of the CAs that this machine trusts
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, Limits, Overrides},
        folder::Folder,
        net,
    };
    use sutler_certs::durable;

    #[test]
    fn the_file_shows_every_setting_with_its_default() {
        let at = tempfile::tempdir().unwrap();
        let folder = at.path().join("D");
        let options = InitOptions::new(
            folder.clone(),
            "acme.example".parse().unwrap(),
            vec!["manager.acme.example".parse().unwrap()],
            "ann".parse().unwrap(),
            at.path().join("config"),
        );
        durable::private_folder(&folder).unwrap();
        let folder = Folder::open(&folder).unwrap();
        let load = |text: &str| {
            fs_err::write(folder.config(), text).unwrap();
            Config::load(folder.clone(), &Overrides::default()).unwrap()
        };
        let written = text(&options);
        let as_written = load(&written);
        // Every commented setting is one that is understood, and changes nothing.
        let settings = written.lines().map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', ':'])) => setting,
            _ => line,
        });
        let all = settings.collect::<Vec<_>>().join("\n");
        assert_eq!(load(&all), as_written);
        assert_eq!((&as_written.net, &as_written.limits), (&net::Limits::default(), &Limits::default()));
        // Every setting that there is stands in the file.
        let debug = format!("{:?} {:?}", as_written.net, as_written.limits);
        for word in debug.split([' ', '{', ',']).filter_map(|w| w.strip_suffix(':')) {
            assert!(all.lines().any(|l| l.starts_with(&format!("{word} = "))), "{word} is not in the file");
        }
    }
}
