//! What a job can ask for besides installing and uninstalling: bytes ahead of time, and facts.

use super::clients::facts::{installed, quick};
use serde_json::Value;
use std::path::PathBuf;
use sutler_proto::v1::connect_response::Message as Down;
use sutler_tests::harness::{Agent, JobView, Manager, PATIENCE, PackageFolder, Session, wait_until};

const LARGE: usize = 4 << 20;

/// A large package that counts its installations, pushed.
fn large(manager: &Manager, version: &str) {
    let package = PackageFolder::counting("large", version);
    package.noise("data", LARGE, version.len() as u64);
    manager.cli().ok(&format!("package push {}", package.path().display()));
}

fn fetched(row: &Value) -> u64 {
    let value = &row["items"][0]["fetchedBytes"];
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

/// What is kept below a folder for later, by the names of the agent's own.
fn kept(folder: PathBuf) -> Vec<String> {
    let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".sutler-kept-")).collect()
}

#[test]
fn what_is_fetched_ahead_is_installed_later_without_its_bytes_and_survives_a_killed_agent_and_a_job_that_is_called_off() {
    let manager = Manager::start();
    let cli = manager.cli();
    large(&manager, "1.0");
    let mut agent = Agent::enrolled("one", &manager);
    let (client, opt) = (agent.id(), agent.root().join("opt"));
    let job = cli.id(&format!("job run --fetch large --client {client}"));
    let row = JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    assert!(fetched(&row.json) >= LARGE as u64, "{:#}", row.json);
    assert_eq!((agent.read("opt/large/data"), agent.read("opt/large.runs")), (None, None), "nothing is installed");
    wait_until("it to be kept", PATIENCE, || kept(opt.clone()).len() == 1);
    let shown = cli.ok(&format!("job show {job}"));
    assert!(shown.contains("fetch:large@1.0"), "{shown}");
    assert!(cli.ok("audit list").contains("fetch large@1.0"));

    // Once more: all of it is verified, and none of it sent.
    let again = cli.id(&format!("job run --fetch large --client {client}"));
    let row = JobView::wait_for_row(&cli, &again, &client, "SUCCEEDED");
    assert_eq!(fetched(&row.json), 0, "{:#}", row.json);

    // A job that is called off before it begins gives it back.
    fs_err::write(agent.scratch().join("policy.toml"), "hold = true\n").unwrap();
    agent.configure("");
    agent.kill_and_start();
    let canceled = cli.id(&format!("job run --package large --client {client}"));
    JobView::wait_for_row(&cli, &canceled, &client, "WAITING");
    assert!(kept(opt.clone()).is_empty(), "it is staged");
    cli.ok(&format!("job cancel {canceled} --yes"));
    JobView::wait_for_row(&cli, &canceled, &client, "CANCELED");
    wait_until("it to be kept again", PATIENCE, || kept(opt.clone()).len() == 1);
    fs_err::remove_file(agent.scratch().join("policy.toml")).unwrap();

    let install = cli.id(&format!("job run --package large --client {client}"));
    let row = JobView::wait_for_row(&cli, &install, &client, "SUCCEEDED");
    assert_eq!(fetched(&row.json), 0, "{:#}", row.json);
    assert_eq!(agent.read("opt/large.runs").unwrap().lines().count(), 1);
    wait_until("nothing to be kept", PATIENCE, || kept(opt.clone()).is_empty());
    let row = cli.id(&format!("job run --fetch large --client {client}"));
    JobView::wait_for_row(&cli, &row, &client, "ALREADY_INSTALLED");
    // Of a job that changed nothing there is nothing to put back.
    assert!(cli.run(&format!("job rollback {job}")).stderr.contains("nothing"), "there is nothing to put back");
}

#[test]
fn what_was_fetched_ahead_and_damaged_since_is_fetched_again_where_it_is_damaged() {
    let manager = Manager::start();
    let cli = manager.cli();
    large(&manager, "1.0");
    let agent = Agent::enrolled("one", &manager);
    let (client, opt) = (agent.id(), agent.root().join("opt"));
    let job = cli.id(&format!("job run --fetch large --client {client}"));
    JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    wait_until("it to be kept", PATIENCE, || kept(opt.clone()).len() == 1);
    let file = opt.join(&kept(opt.clone())[0]).join("data");
    let mut bytes = fs_err::read(&file).unwrap();
    bytes[LARGE / 2] ^= 1;
    fs_err::write(&file, &bytes).unwrap();
    let install = cli.id(&format!("job run --package large --client {client}"));
    let row = JobView::wait_for_row(&cli, &install, &client, "SUCCEEDED");
    let came = fetched(&row.json);
    assert!(0 < came && came < LARGE as u64 / 2, "{came} bytes");
    bytes[LARGE / 2] ^= 1;
    assert!(fs_err::read(agent.root().join("opt/large/data")).unwrap() == bytes);
}

#[test]
fn of_a_package_the_version_that_was_fetched_last_is_kept_and_dependencies_are_fetched_with_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    large(&manager, "1.0");
    large(&manager, "2.00");
    let app = PackageFolder::counting("app", "1.0");
    app.append("[[depends_on]]\npackage = \"large\"\nversions = \"any\"\n");
    cli.ok(&format!("package push {}", app.path().display()));
    let agent = Agent::enrolled("one", &manager);
    let (client, opt) = (agent.id(), agent.root().join("opt"));
    let first = cli.id(&format!("job run --fetch large@1.0 --client {client}"));
    JobView::wait_for_row(&cli, &first, &client, "SUCCEEDED");
    wait_until("the first", PATIENCE, || kept(opt.clone()).len() == 1);
    let old = kept(opt.clone());
    let both = cli.id(&format!("job run --fetch app --client {client}"));
    let row = JobView::wait_for_row(&cli, &both, &client, "SUCCEEDED");
    let names: Vec<&str> = row.json["items"].as_array().unwrap().iter().map(|item| item["package"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2, "{:#}", row.json);
    wait_until("both", PATIENCE, || kept(opt.clone()).len() == 2);
    assert!(!kept(opt).contains(&old[0]), "the first version made room");
    let install = cli.id(&format!("job run --package app --client {client}"));
    let row = JobView::wait_for_row(&cli, &install, &client, "SUCCEEDED");
    let bytes: u64 = row.json["items"].as_array().unwrap().iter().map(|item| fetched(&serde_json::json!({ "items": [item] }))).sum();
    assert_eq!(bytes, 0, "{:#}", row.json);
}

#[test]
fn an_inventory_has_machines_report_what_changed_now_and_is_done_when_the_manager_has_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create machines");
    let agent = Agent::enrolled("one", &manager);
    let client = agent.id();
    cli.ok(&format!("group add machines {client}"));
    let has = || {
        let found = cli.json("client list --filter 'facts.packages.exists(p, p.name == \"mawk\")'");
        found.as_array().unwrap().len()
    };
    wait_until("the facts", PATIENCE, || cli.json(&format!("client show {client}"))["facts"].is_object());
    // They would be measured again some hours from now.
    installed(&agent.root(), &[("mawk", "1.3.4")]);
    let job = cli.id("job run --inventory --group machines");
    JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    assert_eq!(has(), 1, "what changed came before the outcome");
    let shown = cli.ok(&format!("job show {job}"));
    assert!(shown.contains("facts"), "{shown}");
    assert_eq!(cli.json(&format!("job show {job}"))["terms"]["rollout"]["allAtOnce"], true);
    assert!(cli.ok("audit list").contains("report facts"));

    // Again, and with a new member.
    let other = Agent::enrolled("two", &manager);
    cli.ok(&format!("group add machines {}", other.id()));
    JobView::wait_for_row(&cli, &job, &other.id(), "SUCCEEDED");
    let again = cli.id(&format!("job clone {job}"));
    cli.ok(&format!("job start {again}"));
    JobView::wait_for_row(&cli, &again, &client, "SUCCEEDED");

    // What makes no sense is refused, and does nothing.
    cli.fails(2, "job run --inventory --package mawk --group machines");
    cli.fails(1, &format!("job update {job} --keep 1h")).says(&["terms.inventory", "installs nothing"]);
    large(&manager, "1.0");
    cli.fails(1, &format!("job update {job} --package large")).says(&["terms.inventory", "in place of packages"]);
}

#[test]
fn an_inventory_waits_for_a_machine_that_is_away_and_is_measured_after_it_was_asked() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let mut agent = quick("one", &manager, |_| {});
    let client = agent.id();
    wait_until("the facts", PATIENCE, || cli.json(&format!("client show {client}"))["facts"].is_object());
    agent.kill();
    let job = cli.id(&format!("job run --inventory --client {client}"));
    installed(&agent.root(), &[("mawk", "1.3.4")]);
    manager.kill_and_serve();
    agent.start();
    JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    assert_eq!(cli.json("client list --filter 'facts.packages.exists(p, p.name == \"mawk\")'").as_array().unwrap().len(), 1);
}

/// Whether an agent that can do nothing beyond the protocol is offered anything before `until` says that enough was done.
fn is_an_older_agent_offered_anything(agent: &Agent, until: impl Fn() -> bool) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut session = Session::open(agent, |_| {}).await.unwrap();
        while !until() {
            let wait = tokio::time::timeout(std::time::Duration::from_millis(100), session.next()).await;
            // What was offered never comes to say that it was not.
            if matches!(wait, Ok(Ok(Down::Offer(_)))) {
                return true;
            }
        }
        false
    })
}

#[test]
fn an_older_agent_is_not_offered_what_it_cannot_do_and_the_row_says_why() {
    let manager = Manager::start();
    let cli = manager.cli();
    large(&manager, "1.0");
    let mut agent = Agent::enrolled("one", &manager);
    let client = agent.id();
    wait_until("the facts", PATIENCE, || cli.json(&format!("client show {client}"))["facts"].is_object());
    agent.stop();
    let fetch = cli.id(&format!("job run --fetch large --client {client}"));
    let inventory = cli.id(&format!("job run --inventory --client {client}"));
    let says = |job: &str, words: &str| {
        let row = JobView::of(&cli, job).row(&client).cloned().unwrap();
        let is_so = row.state == "QUEUED" && row.json["reason"] == "AGENT" && row.json["detail"].as_str().unwrap().contains(words);
        is_so && cli.ok(&format!("client explain {client}")).contains(words)
    };
    let told = || says(&fetch, "can't fetch what is installed another time") && says(&inventory, "can't measure its facts");
    assert!(!is_an_older_agent_offered_anything(&agent, told));
    // The newer one that takes its place does both.
    agent.start();
    for job in [fetch, inventory] {
        JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    }
}
