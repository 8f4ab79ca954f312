//! Who is a client: renewed, copied, restored, replaced, revoked.

mod certificates;
mod copies;
mod managers;

use rustls::pki_types::CertificateDer;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sutler_certs::CaBundle;
use sutler_certs::ca::Authority;
use sutler_certs::tls::{self, ServerTrust};
use sutler_proto::v1;
use sutler_tests::harness::{
    Agent, Api, Cli, JobView, Line, Manager, PATIENCE, PackageFolder, Port, Proxy, Row, Setup, wait_for, wait_for_value, wait_until,
};
use sutler_tests::postgres::Postgres;
use sutler_tests::tools;
use tonic::Status;

/// A revocation takes effect within this time on every manager.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// The table of limits in `manager.toml`.
fn table(limits: &str) -> String {
    if limits.is_empty() { String::new() } else { format!("[limits]\n{limits}") }
}

fn with_limits(limits: &str) -> Manager {
    Manager::start_with(Setup { config: table(limits), ..Setup::default() })
}

fn state(cli: &Cli, client: &str) -> String {
    cli.json(&format!("client show {client}"))["state"].as_str().unwrap_or_default().to_owned()
}

fn wait_for_state(cli: &Cli, client: &str, wanted: &str) {
    wait_for_value("the client's state", PATIENCE, || state(cli, client), |state| state == wanted);
}

/// Copies a machine's state to another one, as an image of its disk would.
fn copy(from: &Path, to: &Path) {
    let _ = fs_err::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

fn is_connected(agent: &Agent) -> bool {
    !agent.status()["connected"].is_null()
}

/// The key and certificates that the machine shows.
fn credential(agent: &Agent) -> Vec<u8> {
    fs_err::read(agent.state().join("credential.pem")).unwrap_or_default()
}

fn standing_job(cli: &Cli, group: &str) -> (PackageFolder, String) {
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok(&format!("group create {group}"));
    let job = cli.id(&format!("job run --package hello --group {group}"));
    (package, job)
}

/// Two managers on one database, which tell agents of both.
fn two_managers(postgres: &Postgres, limits: &str) -> (Manager, Manager) {
    let (first, second) = (Port::new(), Port::new());
    let (here, there) = (first.address(), second.address());
    let setup = |agents: std::net::SocketAddr, other: std::net::SocketAddr| Setup {
        agents: agents.to_string(),
        advertise: vec![agents.to_string(), other.to_string()],
        config: table(limits),
        ..Setup::default()
    };
    let first = Manager::start_with(Setup { database: Some(postgres.create_database()), ..setup(here, there) });
    let second = Manager::joining(&first, setup(there, here));
    (first, second)
}
