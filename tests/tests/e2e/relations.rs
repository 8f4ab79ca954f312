//! What packages depend on and take the place of: what a plan says, what a job does, and what is refused.

use serde_json::Value;
use std::collections::BTreeMap;
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, wait_for_value};

/// A package that is pushed, with a step that uninstalls it and says so beside its directory.
fn pushed(cli: &Cli, name: &str, version: &str, text: &str) {
    let text = format!(
        "{text}[[step]]\nname = \"leave\"\nphase = \"uninstall\"\nargv = [\"/bin/sh\", \"-c\", \"echo {version} >>../{name}.left\"]\n\
         [[detection]]\nfile = \"data\"\nversion = {{ pattern = \"(.+)\", versions = \"={version}\" }}\n"
    );
    let package = PackageFolder::with(name, version, &text);
    package.file("data", version);
    cli.ok(&format!("package push {}", package.path().display()));
}

fn depends(on: &str, versions: &str) -> String {
    format!("[[depends_on]]\npackage = \"{on}\"\nversions = \"{versions}\"\n")
}

/// `NAME@VERSION` of a resource's name.
fn short(name: &Value) -> String {
    name.as_str().unwrap_or_default().trim_start_matches("packages/").replace("/versions/", "@")
}

/// The lines of a plan: what is done, with what.
fn plan(cli: &Cli, package: &str, agent: &Agent) -> Vec<(String, String)> {
    let lines = cli.json(&format!("package plan {package} --client {}", agent.id()));
    let line = |line: &Value| (line["action"].as_str().unwrap().trim_start_matches("PLAN_ACTION_").to_owned(), short(&line["package"]));
    lines.as_array().unwrap().iter().map(line).collect()
}

fn pairs(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|(action, package)| ((*action).to_owned(), (*package).to_owned())).collect()
}

/// What the agent says that it has installed.
fn software(cli: &Cli, agent: &Agent) -> BTreeMap<String, String> {
    let client = cli.json(&format!("client show {}", agent.id()));
    let all = client["facts"]["software"].as_array().cloned().unwrap_or_default();
    all.iter().map(|s| (s["name"].as_str().unwrap().to_owned(), s["version"].as_str().unwrap().to_owned())).collect()
}

/// What the manager knows of it, once that is this.
fn wait_for_software(cli: &Cli, agent: &Agent, wanted: &[(&str, &str)]) {
    let wanted: BTreeMap<_, _> = wanted.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
    wait_for_value(&format!("{wanted:?} to be reported"), PATIENCE, || software(cli, agent), |found| *found == wanted);
}

/// The results of a row: the state of each package.
fn items(row: &sutler_tests::harness::Row) -> Vec<(String, String)> {
    let one = |item: &Value| (item["state"].as_str().unwrap().trim_start_matches("EXECUTION_STATE_").to_owned(), short(&item["package"]));
    row.json["items"].as_array().unwrap().iter().map(one).collect()
}

fn run(cli: &Cli, words: &str, agent: &Agent) -> String {
    cli.id(&format!("job run {words} --client {}", agent.id()))
}

#[test]
fn a_chain_of_dependencies_one_of_them_superseded_meanwhile_ends_as_the_plan_said() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    // In no order: what is depended on need not be there before.
    pushed(&cli, "app", "1.0", &depends("tool", ">=2, <3"));
    cli.fails(1, &format!("job run --package app --client {id}"))
        .says(&["app@1.0 depends on tool >=2, <3", "no version of tool can be installed"]);
    pushed(&cli, "tool", "2.0", "");
    pushed(&cli, "tool", "2.1", &depends("lib", ">=2"));
    pushed(&cli, "tool", "3.0", "");
    pushed(&cli, "lib", "1.0", "");
    pushed(&cli, "lib", "2.0", "");
    JobView::wait_for_row(&cli, &run(&cli, "--package lib@1.0", &agent), &id, "SUCCEEDED");
    wait_for_software(&cli, &agent, &[("lib", "1.0")]);
    assert_eq!(plan(&cli, "app", &agent), pairs(&[("UPGRADE", "lib@2.0"), ("INSTALL", "tool@2.1"), ("INSTALL", "app@1.0")]));

    // One takes the place of the library meanwhile.
    pushed(&cli, "newlib", "7.0", "[[supersedes]]\npackage = \"lib\"\nversions = \"<3\"\nuninstall = true\n");
    let planned = plan(&cli, "app", &agent);
    let expected = [("UNINSTALL", "lib@1.0"), ("INSTALL", "newlib@7.0"), ("INSTALL", "tool@2.1"), ("INSTALL", "app@1.0")];
    assert_eq!(planned, pairs(&expected));
    let table = cli.ok(&format!("package plan app --client {id}"));
    for words in ["newlib takes its place", "tool needs it as lib >=2", "app needs it >=2, <3", "asked for"] {
        assert!(table.contains(words), "{words:?} is not in\n{table}");
    }
    let job = run(&cli, "--package app", &agent);
    assert!(cli.ok(&format!("job show {job}")).contains("newlib@7.0 (for tool) tool@2.1 (for app) app@1.0"));
    let row = JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    // What it did is what the plan said, in that order.
    let did = pairs(&[("SUCCEEDED", "newlib@7.0"), ("SUCCEEDED", "tool@2.1"), ("SUCCEEDED", "app@1.0")]);
    assert_eq!(items(&row), did);
    let left: Vec<_> =
        planned.iter().filter(|(action, _)| action != "UNINSTALL").map(|(_, package)| package.split_once('@').unwrap()).collect();
    wait_for_software(&cli, &agent, &left);
    assert_eq!(agent.read("opt/lib.left").as_deref(), Some("1.0\n"), "by its own step, once");
    assert!(!agent.root().join("opt/lib").exists());
    for (package, version) in left {
        assert_eq!(agent.read(&format!("opt/{package}/data")).as_deref(), Some(version));
    }
    // And now nothing is left to do.
    let keep: Vec<_> = expected[1..].iter().map(|(_, package)| ("KEEP", *package)).collect();
    assert_eq!(plan(&cli, "app", &agent), pairs(&keep));
}

#[test]
fn what_is_depended_on_is_not_exchanged_where_a_version_in_the_range_is_there() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    pushed(&cli, "lib", "1.0", "");
    JobView::wait_for_row(&cli, &run(&cli, "--package lib", &agent), &id, "SUCCEEDED");
    wait_for_software(&cli, &agent, &[("lib", "1.0")]);
    pushed(&cli, "lib", "1.1", "");
    pushed(&cli, "app", "1.0", &depends("lib", ">=1"));
    assert_eq!(plan(&cli, "app", &agent), pairs(&[("KEEP", "lib@1.0"), ("INSTALL", "app@1.0")]));
    let job = run(&cli, "--package app", &agent);
    let json = cli.json(&format!("job show {job}"));
    let need = &json["packages"][0]["needed"][0];
    assert_eq!(
        (need["by"].as_str(), need["package"].as_str(), need["versions"].as_str()),
        (Some("packages/app"), Some("packages/lib"), Some(">=1"))
    );
    let row = JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    assert_eq!(items(&row), pairs(&[("ALREADY_INSTALLED", "lib@1.0"), ("SUCCEEDED", "app@1.0")]));
    assert_eq!(agent.read("opt/lib/data").as_deref(), Some("1.0"));
    // Somebody removed it by hand: then it is needed.
    fs_err::remove_dir_all(agent.root().join("opt/lib")).unwrap();
    let row = JobView::wait_for_row(&cli, &run(&cli, "--package app --replace always", &agent), &id, "SUCCEEDED");
    assert_eq!(items(&row), pairs(&[("SUCCEEDED", "lib@1.1"), ("SUCCEEDED", "app@1.0")]));
    // What others need stays, until they are gone.
    let row = JobView::wait_for_row(&cli, &run(&cli, "--uninstall lib", &agent), &id, "REJECTED");
    assert!(row.detail.contains("app 1.0, which is installed here, depends on lib >=1"), "{}", row.detail);
    JobView::wait_for_row(&cli, &run(&cli, "--uninstall app --uninstall lib", &agent), &id, "SUCCEEDED");
    wait_for_software(&cli, &agent, &[]);
}

#[test]
fn a_push_that_would_close_a_ring_is_refused_and_named() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "a", "1.0", &depends("b", "any"));
    pushed(&cli, "b", "1.0", &depends("c", ">=1"));
    let ring = PackageFolder::with("c", "1.0", &depends("a", ">=1"));
    ring.file("data", "x");
    cli.fails(1, &format!("package push {}", ring.path().display())).says(&["c@1.0 → a@1.0 → b@1.0 → c@1.0 would be a cycle"]);
    assert!(!cli.ok("package list").contains('c'), "nothing of it is there");
    // Where the range leaves it out it is none.
    pushed(&cli, "c", "1.0", &depends("a", ">=2"));
    let again = PackageFolder::with("a", "2.0", &depends("b", "any"));
    again.file("data", "x");
    cli.fails(1, &format!("package push {}", again.path().display())).says(&["a@2.0 → b@1.0 → c@1.0 → a@2.0"]);
}

#[test]
fn the_last_version_that_another_package_needs_is_not_deleted() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "lib", "1.0", "");
    pushed(&cli, "lib", "1.1", "");
    pushed(&cli, "lib", "2.0", "");
    pushed(&cli, "app", "1.0", &depends("lib", "<2"));
    cli.ok("package delete lib@1.0");
    let needs = "packages/app/versions/1.0 depends on lib <2, and nothing else is there that will do";
    cli.fails(1, "package delete lib@1.1").says(&[needs]);
    cli.fails(1, "package delete lib").says(&[needs]);
    cli.ok("package delete lib@2.0");
    // Something takes its place.
    pushed(&cli, "newlib", "1.0", "[[supersedes]]\npackage = \"lib\"\n");
    cli.ok("package delete lib");
    cli.fails(1, "package delete newlib").says(&[needs]);
    cli.ok("package delete app");
    cli.ok("package delete newlib");
}

#[test]
fn a_job_that_follows_the_newest_version_waits_for_what_that_depends_on() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "app", "1.0", "");
    cli.ok("group create machines");
    let job = cli.id("job run --package app@latest --group machines");
    pushed(&cli, "app", "2.0", &depends("lib", ">=1"));
    let shown =
        |words: &str| assert!(cli.ok(&format!("job show {job}")).contains(words), "{words}: {}", cli.ok(&format!("job show {job}")));
    shown("app@latest (1.0)");
    assert!(cli.ok("audit list").contains("it stays at revision 1: app@2.0 depends on lib >=1"));
    pushed(&cli, "lib", "1.0", "");
    shown("lib@1.0 (for app) app@latest (2.0)");
    // Only what makes a new revision chooses anew.
    pushed(&cli, "lib", "1.1", "");
    shown("lib@1.0 (for app)");
    cli.ok("package withdraw lib@1.0");
    shown("lib@1.1 (for app)");
    let agent = Agent::enrolled("one", &manager);
    cli.ok(&format!("group add machines {}", agent.id()));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!(items(&row), pairs(&[("SUCCEEDED", "lib@1.1"), ("SUCCEEDED", "app@2.0")]));
    // Another job may need the same: nobody asked for it.
    pushed(&cli, "other", "1.0", &depends("lib", "any"));
    cli.ok("job run --package other --group machines");
}

#[test]
fn what_is_installed_over_another_takes_its_place_for_everybody_who_asks() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    pushed(&cli, "old", "1.0", "");
    pushed(&cli, "app", "1.0", &depends("old", ">=1"));
    JobView::wait_for_row(&cli, &run(&cli, "--package app", &agent), &id, "SUCCEEDED");
    wait_for_software(&cli, &agent, &[("app", "1.0"), ("old", "1.0")]);
    // In the same directory: the tree is exchanged, and nothing of the old one is uninstalled.
    let new = PackageFolder::with("new", "5.0", "[[supersedes]]\npackage = \"old\"\n");
    new.replace("/opt/new", "/opt/old");
    new.file("data", "5.0");
    cli.ok(&format!("package push {}", new.path().display()));
    assert_eq!(plan(&cli, "new", &agent), pairs(&[("SUPERSEDE", "old@1.0"), ("INSTALL", "new@5.0")]));
    JobView::wait_for_row(&cli, &run(&cli, "--package new", &agent), &id, "SUCCEEDED");
    wait_for_software(&cli, &agent, &[("app", "1.0"), ("new", "5.0")]);
    assert_eq!((agent.read("opt/old/data").as_deref(), agent.read("opt/old.left")), (Some("5.0"), None));
    // It does where the old one is depended on, required or ordered.
    pushed(&cli, "plugin", "1.0", "[[requirement]]\nsoftware = \"old\"\nmanager = \"sutler\"\nversions = \">=1\"\n");
    JobView::wait_for_row(&cli, &run(&cli, "--package plugin", &agent), &id, "SUCCEEDED");
    assert_eq!(plan(&cli, "old", &agent), pairs(&[("KEEP", "new@5.0")]));
    let row = JobView::wait_for_row(&cli, &run(&cli, "--package old", &agent), &id, "ALREADY_INSTALLED");
    assert_eq!(items(&row), pairs(&[("ALREADY_INSTALLED", "new@5.0")]));
    let row = JobView::wait_for_row(&cli, &run(&cli, "--uninstall new", &agent), &id, "REJECTED");
    assert!(row.detail.contains("app 1.0, which is installed here, depends on old >=1"), "{}", row.detail);
}

#[test]
fn what_takes_the_place_of_another_says_what_became_of_that_one() {
    let manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::new("one");
    agent.configure("");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let id = agent.id();
    pushed(&cli, "old", "1.0", "");
    JobView::wait_for_row(&cli, &run(&cli, "--package old", &agent), &id, "SUCCEEDED");
    let supersedes = "[[supersedes]]\npackage = \"old\"\nuninstall = true\n";
    let step = |text: &str| format!("[[step]]\nname = \"install\"\nargv = [\"/bin/sh\", \"-c\", \"{text}\"]\n");
    // The machine lets nothing be uninstalled: the old one stays, and nothing of the new one is begun.
    pushed(&cli, "new", "1.0", &format!("{supersedes}{}", step("echo begun >../new.runs")));
    let forbid = agent.scratch().join("policy.toml");
    fs_err::write(&forbid, "allow_uninstall = false\n").unwrap();
    let row = JobView::wait_for_row(&cli, &run(&cli, "--package new", &agent), &id, "REJECTED");
    assert!(row.reason == "LOCAL_POLICY" && row.detail.contains("uninstall old"), "{row:?}");
    assert_eq!((agent.read("opt/old/data").as_deref(), agent.read("opt/new.runs")), (Some("1.0"), None));
    fs_err::remove_file(&forbid).unwrap();
    // Nor where it requires what is not there.
    pushed(&cli, "new", "1.1", &format!("{supersedes}[[requirement]]\nmemory = \"900000GiB\"\n"));
    JobView::wait_for_row(&cli, &run(&cli, "--package new", &agent), &id, "REJECTED");
    assert_eq!(agent.read("opt/old/data").as_deref(), Some("1.0"));
    // The new one fails when the old one is gone: nothing is back, and that is said.
    pushed(&cli, "new", "1.2", &format!("{supersedes}{}", step("exit 3")));
    let row = JobView::wait_for_row(&cli, &run(&cli, "--package new", &agent), &id, "FAILED");
    let item = &row.json["items"][0];
    assert_eq!((item["restored"].as_bool(), item["exitCode"].as_i64()), (Some(false), Some(3)), "{item:#}");
    assert!(item["message"].as_str().unwrap().ends_with("old 1.0, whose place it takes, was uninstalled before"), "{item:#}");
    assert_eq!(agent.read("opt/old.left").as_deref(), Some("1.0\n"));
    assert!(!agent.root().join("opt/old").exists() && !agent.root().join("opt/new").exists());
    wait_for_software(&cli, &agent, &[]);
}
