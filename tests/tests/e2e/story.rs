//! The story, told with the anti-virus product of Debian: machines that were never seen before get it by themselves.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use sutler_tests::harness::{Agent, JobView, Manager, PATIENCE, PackageFolder, wait_until};
use sutler_tests::tools;

/// Real software, installed below `/opt/clamav`: it is detected by running it, and its last step has it find something.
const CLAMAV: &str = r#"
[[step]]
name = "the database is readable"
phase = "before"
argv = ["/usr/bin/test", "-r", "db/sutler.ndb"]

[[step]]
name = "write the configuration"
argv = ["/bin/sh", "-c", "mkdir -p etc && echo 'DatabaseDirectory db' > etc/freshclam.conf"]
time_limit = "30s"

[[step]]
name = "find the sample"
phase = "after"
argv = ["usr/bin/clamscan", "--no-summary", "--database=db/sutler.ndb", "db/sample"]
environment = { LD_LIBRARY_PATH = "usr/lib/x86_64-linux-gnu" }
time_limit = "2m"
exit_codes = { 0 = "failure", 1 = "success" }

[[detection]]
command = ["usr/bin/clamscan", "--version"]
environment = { LD_LIBRARY_PATH = "usr/lib/x86_64-linux-gnu" }
output = "ClamAV 1."
"#;

/// ClamAV with what it needs, unpacked from Debian's packages, and a signature of our own that finds a sample of our own.
fn clamav() -> PackageFolder {
    let package = PackageFolder::with("clamav", "1.4", CLAMAV);
    for deb in tools::debian_packages().expect("it was asked for") {
        let status = Command::new(tools::tool("dpkg-deb").unwrap()).arg("-x").arg(&deb).arg(package.files()).status().unwrap();
        assert!(status.success(), "{} can't be unpacked", deb.display());
    }
    let sample = "this is what the story's virus looks like";
    let hex: String = sample.bytes().map(|b| format!("{b:02x}")).collect();
    package.file("db/sample", sample);
    package.file("db/sutler.ndb", format!("Sutler.Story:0:*:{hex}\n"));
    package
}

fn clamscan_says(root: &Path) -> String {
    let home = root.join("opt/clamav");
    let output = Command::new(home.join("usr/bin/clamscan"))
        .arg("--version")
        .env("LD_LIBRARY_PATH", home.join("usr/lib/x86_64-linux-gnu"))
        .output()
        .expect("it was installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn machines_never_seen_before_get_clamav_without_anybody_doing_anything() {
    if tools::skip_without("clamav") {
        return;
    }
    let package = clamav();
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create new-clients");
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id("job create --package clamav --group new-clients");
    assert_eq!(JobView::of(&cli, &job).state, "DRAFT");
    cli.ok(&format!("job start {job}"));
    // Nobody is there yet: that has an exit code of its own.
    cli.fails(34, &format!("job status {job}"));
    cli.ok("policy create all-linux --group new-clients --trigger new-client --when 'facts.os.family == \"linux\"'");

    let agents: Vec<Agent> = ["alpha", "beta", "gamma"].iter().map(|name| Agent::enrolled(name, &manager)).collect();

    let view =
        JobView::wait(&cli, &job, "three installations", 3 * PATIENCE, |view| view.count("finished") == 3 || view.count("error") > 0);
    assert_eq!(view.counters(), "total=3 finished=3", "{:#?}", view.rows);
    assert_eq!(view.state, "ACTIVE", "a job on a group stands for those who come later");
    cli.ok(&format!("job status {job}"));
    cli.ok(&format!("job status {job} --wait --timeout 10s"));
    for agent in &agents {
        let row = view.row(&agent.id()).unwrap();
        assert_eq!((row.state.as_str(), row.attempts, row.json["progressPercent"].as_i64()), ("SUCCEEDED", 1, Some(100)), "{row:#?}");
        assert!(clamscan_says(&agent.root()).starts_with("ClamAV 1."));
        assert_eq!(agent.read("opt/clamav/etc/freshclam.conf").as_deref(), Some("DatabaseDirectory db\n"));
        let link =
            fs_err::read_link(agent.root().join("opt/clamav/usr/lib/x86_64-linux-gnu/libclamav.so.12")).expect("a link arrives as a link");
        assert!(link.is_relative());
    }
    // Everything that was asked of this client and why, in one answer.
    let id = agents[0].id();
    let explained = cli.json(&format!("client explain {id}"));
    let membership = &explained["memberships"][0];
    assert_eq!(
        (membership["group"].as_str(), membership["source"].as_str(), membership["sourceName"].as_str()),
        (Some("groups/new-clients"), Some("SOURCE_POLICY"), Some("policies/all-linux")),
        "{explained:#}"
    );
    assert_eq!(explained["jobs"][0]["state"], "EXECUTION_STATE_SUCCEEDED", "{explained:#}");
    assert!(explained["jobs"][0]["sentence"].as_str().is_some_and(|s| !s.is_empty()), "{explained:#}");
    let text = cli.ok(&format!("client explain {id}"));
    assert!(text.contains("new-clients: by policy all-linux"), "{text}");
}

/// What a person can see of a group and a job, without ids and times.
fn outline(manager: &Manager, group: &str, job: &str, agent: &Agent) -> (String, String, String, String) {
    let cli = manager.cli();
    let view = JobView::of(&cli, job);
    let members = cli.json(&format!("group members {group}"));
    let source = members[0]["source"].as_str().unwrap_or_default().to_owned();
    (view.state.clone(), view.counters(), view.row(&agent.id()).map(|row| row.state.clone()).unwrap_or_default(), source)
}

#[test]
fn job_and_policy_and_client_may_come_in_any_order() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut outlines = Vec::new();
    for order in ["job policy client", "policy job client", "policy client job"] {
        let name = order.replace(' ', "-");
        let package = PackageFolder::counting(&name, "1.0");
        cli.ok(&format!("package push {}", package.path().display()));
        cli.ok(&format!("group create {name}"));
        let (mut job, mut agent) = (String::new(), None);
        for what in order.split(' ') {
            match what {
                "job" => job = cli.id(&format!("job run --package {name} --group {name}")),
                "policy" => {
                    cli.ok(&format!("policy create {name} --group {name} --trigger new-client --when 'labels.order == \"{name}\"'"));
                }
                _ => {
                    let token = cli.ok(&format!("token create --label order={name}"));
                    let mut machine = Agent::new(&name);
                    machine.enroll(token.trim());
                    machine.start();
                    if order.ends_with("job") {
                        let id = machine.id();
                        wait_until("the client to join", PATIENCE, || cli.ok(&format!("group members {name}")).contains(&id));
                    }
                    agent = Some(machine);
                }
            }
        }
        let agent = agent.unwrap();
        JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
        assert_eq!(agent.read(&format!("opt/{name}.runs")).as_deref(), Some("run\n"));
        outlines.push(outline(&manager, &name, &job, &agent));
    }
    assert_eq!(outlines[0], ("ACTIVE".into(), "total=1 finished=1".into(), "SUCCEEDED".into(), "SOURCE_POLICY".into()));
    assert!(outlines.iter().all(|outline| *outline == outlines[0]), "{outlines:#?}");
}

#[test]
fn one_machine_can_be_tried_first_and_the_job_on_it_completes() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let (one, other) = (Agent::enrolled("one", &manager), Agent::enrolled("other", &manager));
    let out = cli.ok(&format!("job run --package hello --client {}", one.id()));
    assert!(out.contains("1.0"), "the version that was pinned is named: {out}");
    let job = out.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    cli.run(&format!("job status {job} --wait --timeout 120s")).ok();
    let view = JobView::wait(&cli, &job, "the job to complete", Duration::from_secs(30), |view| view.state == "COMPLETED");
    assert_eq!(view.counters(), "total=1 finished=1");
    assert!(one.root().join("opt/hello/bin/install").exists());
    assert!(!other.root().join("opt/hello").exists());
}

#[test]
fn a_watched_job_shows_each_row_until_it_ends() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("one", &manager);
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    // Ends by itself, since the job does: its only client comes to an end.
    let watched = cli.ok(&format!("job watch {job}"));
    assert!(watched.contains(&agent.id()) && watched.contains("SUCCEEDED"), "{watched}");
}
