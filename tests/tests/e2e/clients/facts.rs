//! Facts of real machines: sent whole once, then only what changed.

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use sutler_tests::harness::{Agent, Manager, PATIENCE, wait_for_value, wait_until};

/// A paragraph of dpkg's list.
pub(super) fn stanza(name: &str, version: &str) -> String {
    format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\nDescription: a test\n\n")
}

/// Writes dpkg's list below a root, as dpkg does it: a new file takes the place of the old one.
pub(crate) fn installed(root: &Path, packages: &[(&str, &str)]) {
    let folder = root.join("var/lib/dpkg");
    fs_err::create_dir_all(&folder).unwrap();
    let text: String = packages.iter().map(|(name, version)| stanza(name, version)).collect();
    fs_err::write(folder.join("status-new"), text).unwrap();
    fs_err::rename(folder.join("status-new"), folder.join("status")).unwrap();
}

/// Puts a file of own facts into the agent's folder.
fn own(agent: &Agent, name: &str, text: &str, mode: u32) {
    let folder = agent.state().join("facts.d");
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::set_permissions(agent.state(), PermissionsExt::from_mode(0o700)).unwrap();
    fs_err::write(folder.join(name), text).unwrap();
    fs_err::set_permissions(folder.join(name), PermissionsExt::from_mode(mode)).unwrap();
}

/// An agent that measures every second.
pub(crate) fn quick(name: &str, manager: &Manager, before: impl FnOnce(&Agent)) -> Agent {
    let mut agent = Agent::new(name);
    agent.configure("[limits]\nfacts_interval = \"1s\"\n");
    before(&agent);
    agent.enroll(manager.cli().ok("token create").trim());
    agent.start();
    agent
}

/// Reports of facts that the manager got, and their bytes.
fn reports(manager: &Manager) -> (u64, u64) {
    let number = |name| manager.metric(name).unwrap_or_default() as u64;
    (number("sutler_facts_reports_total"), number("sutler_facts_bytes_total"))
}

fn facts(manager: &Manager, agent: &Agent) -> Value {
    manager.cli().json(&format!("client show {}", agent.id()))["facts"].clone()
}

/// The clients for which a condition holds.
fn matching(manager: &Manager, condition: &str) -> usize {
    manager.cli().json(&format!("client list --filter '{condition}'")).as_array().unwrap().len()
}

/// Has the agent count its measurements: a fact that is always the same, from a program that notes each time it is run.
fn counted(agent: &Agent) {
    let notes = agent.scratch().join("measurements");
    own(agent, "counted", &format!("#!/bin/sh\necho x >> {}\necho '{{\"counted\": true}}'\n", notes.display()), 0o755);
}

/// Waits until the machine was measured twice more: once from beginning to end.
fn measured(agent: &Agent) {
    let count = || fs_err::read_to_string(agent.scratch().join("measurements")).map_or(0, |text| text.len() / 2);
    let before = count();
    wait_until("two measurements", PATIENCE, || count() >= before + 2);
}

#[test]
fn a_steady_machine_says_nothing_a_changed_package_little_and_a_manager_that_lost_the_facts_gets_all() {
    let mut manager = Manager::start();
    let packages: Vec<String> = (0..2000).map(|n| format!("package-{n}")).collect();
    let list = |version: &'static str| {
        let rest = packages.iter().map(|name| (name.as_str(), "1.0-1"));
        std::iter::once(("mawk", version)).chain(rest).collect::<Vec<_>>()
    };
    let has = |manager: &Manager, version: &str| matching(manager, &format!("facts.packages.exists(p, p.version == \"{version}\")"));
    let agent = quick("one", &manager, |agent| {
        counted(agent);
        installed(&agent.root(), &list("1.3.4-1"));
    });
    wait_until("all of the facts", PATIENCE, || has(&manager, "1.3.4-1") == 1);
    // The machine under the tests is a busy one: what really changes on it may be told meanwhile, and that is little.
    let (first, all) = reports(&manager);
    assert!(all > 60_000, "{first} reports, {all} bytes");
    installed(&agent.root(), &list("1.3.4-1"));
    measured(&agent);
    let (second, steady) = reports(&manager);
    assert!(steady - all <= 2_000 * (second - first) && second - first <= 1, "{} reports of {} bytes", second - first, steady - all);

    installed(&agent.root(), &list("1.3.4-2"));
    wait_until("the new version", PATIENCE, || has(&manager, "1.3.4-2") == 1);
    assert_eq!(has(&manager, "1.3.4-1"), 0);
    let (third, changed) = reports(&manager);
    assert!(changed - steady <= 2_000 * (third - second), "{} bytes for one package", changed - steady);

    let (backup, folder) = (manager.scratch().join("backup"), manager.folder());
    manager.cli().ok(&format!("backup --dir {} {}", folder.display(), backup.display()));
    installed(&agent.root(), &list("1.3.4-3"));
    wait_until("the third version", PATIENCE, || has(&manager, "1.3.4-3") == 1);

    // The same manager again: it has the facts.
    manager.kill_and_serve();
    wait_until("the agent is back", PATIENCE, || manager.cli().json(&format!("client show {}", agent.id()))["online"] == true);
    measured(&agent);
    assert!(reports(&manager).1 < 4_000, "it has the facts, and is told {:?}", reports(&manager));

    // One that was restored has others than the agent told it last.
    manager.kill();
    fs_err::rename(&folder, manager.scratch().join("lost")).unwrap();
    manager.cli().ok(&format!("restore {} --dir {}", backup.display(), folder.display()));
    manager.serve();
    wait_until("the third version again", PATIENCE, || has(&manager, "1.3.4-3") == 1);
    assert_eq!((has(&manager, "1.3.4-2"), has(&manager, "1.0-1")), (0, 1));
    assert!(reports(&manager).1 > 60_000, "everything is told: {:?}", reports(&manager));
}

#[test]
fn facts_tell_what_an_administrator_asks_for_and_what_the_machine_says_of_itself() {
    let manager = Manager::start();
    let plant = |agent: &Agent, path: &str, text: &str| {
        let path = agent.root().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    };
    let agent = quick("one", &manager, |agent| {
        installed(&agent.root(), &[("bash", "5.2.15-2+b7")]);
        plant(agent, "etc/timezone", "Europe/Berlin\n");
        plant(agent, "etc/init.d/cron", "");
        plant(agent, "run/cron.pid", &format!("{}\n", std::process::id()));
        plant(agent, "run/systemd/users/1000", "NAME=ada\nSTATE=active\n");
        plant(agent, "sys/class/net/eth7/address", "02:00:00:00:00:07\n");
        own(agent, "site.json", r#"{"rack": "B7", "slots": 4}"#, 0o644);
        own(agent, "program", "#!/bin/sh\necho '{\"leased\": true}'\n", 0o755);
        own(agent, "open.json", r#"{"evil": 1}"#, 0o666);
    });
    for condition in [
        "facts.os.family == \"linux\" && facts.os.kernel != \"\" && facts.os.pretty_name != \"\"",
        "facts.cpu.count > 0 && facts.cpu.model != \"\" && facts.memory.total_bytes > 0",
        "facts.mounts.exists(m, m.path == \"/\" && m.total_bytes > 0)",
        "facts.interfaces.exists(i, i.mac == \"02:00:00:00:00:07\" && !i.up)",
        "facts.virtualisation != \"\" && facts.machine_id != \"\" && facts.boot_id != \"\"",
        "timestamp(facts.boot_time) > timestamp(\"2020-01-01T00:00:00Z\") && facts.time_zone == \"Europe/Berlin\"",
        "facts.packages.exists(p, p.manager == \"dpkg\" && p.name == \"bash\" && p.version.startsWith(\"5.2\"))",
        "facts.services.exists(s, s.name == \"cron\" && s.running) && \"ada\" in facts.users",
        "facts.own.rack == \"B7\" && int(facts.own[\"slots\"]) > 3 && facts.own.leased == \"true\" && size(facts.own) == 3",
        "!has(facts.own.evil) && \"own\" in facts.truncated",
    ] {
        wait_until(condition, PATIENCE, || matching(&manager, condition) == 1);
    }
    let log = agent.log();
    assert!(log.contains("open.json") && log.contains("can be written by others"), "{log}");
    // A policy looks at packages, too, and at nothing but what changed.
    let cli = manager.cli();
    cli.ok("group create shells");
    let condition = "facts.packages.exists(p, p.name == \"zsh\") && facts.own.rack == \"B8\"";
    cli.ok(&format!("policy create zsh --group shells --trigger inventory --applies-to all --when '{condition}'"));
    installed(&agent.root(), &[("bash", "5.2.15-2+b7"), ("zsh", "5.9-4")]);
    own(&agent, "site.json", r#"{"rack": "B8", "slots": 4}"#, 0o644);
    wait_for_value(
        "the group",
        PATIENCE,
        || cli.json(&format!("client show {}", agent.id()))["groups"].clone(),
        |groups| groups.as_array().is_some_and(|groups| groups.len() == 1),
    );
    // What the packages are is asked of the inventory, and not shown with each client.
    assert!(facts(&manager, &agent)["packages"].is_null());
}
