//! Our side of what the scenarios measure: a manager, agents, and what they install.

use super::measure;
use crate::{
    api_call,
    harness::{Agent, Api, Cli, Manager, PATIENCE, PackageFolder, Setup, wait_until},
};
use ring::digest::{SHA256, digest};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use sutler_proto::v1;

/// What everybody deploys, ours and the peers': `install.sh PAYLOAD DESTINATION` copies the payload and leaves the time.
pub(super) const INSTALL: &str = r#"#!/bin/sh
set -e
mkdir -p "$2/app"
cp "$1" "$2/app/payload"
date +%s.%N > "$2/installed.tmp"
mv "$2/installed.tmp" "$2/installed"
"#;

/// How long a fleet may take for anything.
pub(super) const LONG: Duration = Duration::from_secs(1800);

/// How often a manager is asked how far it is: seldom enough that the answers cost it next to nothing.
pub(super) const ASKED: Duration = Duration::from_millis(25);

/// A manager as it is by default, but that a change for many clients needs no second person: there is one here.
pub(super) fn manager() -> Manager {
    Manager::start_with(setup())
}

pub(super) fn setup() -> Setup {
    Setup { config: "[limits]\nsecond_person_clients = 1000000000\n".into(), ..Setup::default() }
}

/// A package that brings a payload and the program that installs it.
pub(super) fn payload_package(name: &str, version: &str, payload: &[u8]) -> PackageFolder {
    let step = format!("[[step]]\nname = \"install\"\nargv = [\"install.sh\", \"payload\", \"../{name}.root\"]\n");
    let package = PackageFolder::with(name, version, &step);
    package.file("payload", payload);
    package.file("install.sh", INSTALL);
    package
}

/// Pushes a package as an administrator does.
pub(super) fn push(cli: &Cli, package: &PackageFolder) {
    cli.ok(&format!("package push {}", package.path().display()));
}

/// When the installer left its time; nothing before.
pub(super) fn ran(destination: &Path) -> Option<f64> {
    std::fs::read_to_string(destination.join("installed")).ok()?.trim().parse().ok()
}

/// The same, and that what it copied is what was deployed; nothing before.
///
/// # Panics
///
/// When it copied something else.
pub(super) fn installed(destination: &Path, payload: &[u8]) -> Option<f64> {
    let time = ran(destination)?;
    let copied = fs_err::read(destination.join("app/payload")).expect("the payload is there");
    assert_eq!(sha256(&copied), sha256(payload), "{} has another payload than was deployed", destination.display());
    Some(time)
}

/// Where an agent's machine has what the installer of `package` leaves.
pub(super) fn destination(agent: &Agent, package: &str) -> PathBuf {
    agent.root().join(format!("opt/{package}.root"))
}

/// A SHA-256 in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a file, in hex.
pub(super) fn sha256_of(file: &Path) -> String {
    sha256(&fs_err::read(file).unwrap_or_else(|e| panic!("{e}")))
}

/// Waits until the manager has welcomed the agent.
pub(super) fn connected(agent: &Agent) {
    wait_until("the agent to be connected", PATIENCE, || !agent.status()["connected"].is_null());
}

/// Waits until so many agents have a session; the moment at which they did.
pub(super) fn sessions(manager: &Manager, count: usize) -> Instant {
    measure::until_every(ASKED, "the agents to be connected", LONG, || manager.metric("sutler_sessions").is_some_and(|n| n >= count as f64))
}

/// A job as the manager counts it; nothing while it says that its database is busy.
fn counters(api: &Api, job: &str) -> Option<v1::Counters> {
    match api_call!(api, job_service_client::JobServiceClient, get_job(v1::GetJobRequest { name: job.to_owned() })) {
        Ok(answer) => Some(answer.job.expect("there is a job").counters.unwrap_or_default()),
        Err(status) if status.code() == tonic::Code::Unavailable => None,
        Err(status) => panic!("the manager does not count {job}: {status}"),
    }
}

/// Starts a job that installs a package, everybody at once; its name.
pub(super) fn run_job(api: &Api, package: &str, destinations: &[String]) -> String {
    let request = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: format!("packages/{package}"), ..Default::default() }],
        destinations: destinations.to_vec(),
        terms: Some(v1::JobTerms { rollout: Some(v1::Rollout { all_at_once: true, ..Default::default() }), ..Default::default() }),
        ..Default::default()
    };
    let answer = api_call!(api, job_service_client::JobServiceClient, run_job(request));
    answer.expect("the job can be started").job.expect("there is a job").name
}

/// Waits until every one of so many clients has finished a job; the moment at which they had.
///
/// # Panics
///
/// When one ends in another way.
pub(super) fn finished(api: &Api, job: &str, clients: usize) -> Instant {
    measure::until_every(ASKED, "every client to have finished the job", LONG, || {
        let Some(counters) = counters(api, job) else { return false };
        let astray = counters.error + counters.rejected + counters.canceled;
        assert_eq!(astray, 0, "{astray} of {} clients did not finish {job}", counters.total);
        counters.finished == clients as i64 && counters.total == clients as i64
    })
}
