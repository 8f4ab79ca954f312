//! What is installed across the fleet, as the machines say.

use super::facts::{installed, quick};
use sutler_tests::harness::{Agent, Manager, PATIENCE, wait_until};

/// `name version clients` of each row.
fn listed(manager: &Manager, arguments: &str) -> Vec<String> {
    let rows = manager.cli().json(&format!("software list {arguments}"));
    let text = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    rows.as_array().unwrap().iter().map(|row| format!("{} {} {}", text(row, "title"), text(row, "version"), text(row, "clients"))).collect()
}

#[test]
fn which_versions_are_where_is_known_across_the_fleet_and_follows_what_changes() {
    let manager = Manager::start();
    let cli = manager.cli();
    let machine = |packages: &[(&str, &str)]| quick("one", &manager, |agent: &Agent| installed(&agent.root(), packages));
    let first = machine(&[("bash", "5.2"), ("zsh", "5.9")]);
    let second = machine(&[("bash", "5.2"), ("bash-doc", "5.2")]);
    wait_until("both machines", PATIENCE, || listed(&manager, "") == ["bash 5.2 2", "bash-doc 5.2 1", "zsh 5.9 1"]);
    assert_eq!(listed(&manager, "bash"), ["bash 5.2 2"]);
    assert_eq!(listed(&manager, "'bash*' --manager dpkg"), ["bash 5.2 2", "bash-doc 5.2 1"]);
    assert_eq!(listed(&manager, "--manager rpm"), [""; 0]);
    cli.ok("group create some");
    cli.ok(&format!("group add some {}", first.id()));
    assert_eq!(listed(&manager, "--group some"), ["bash 5.2 1", "zsh 5.9 1"]);

    installed(&second.root(), &[("bash", "5.3")]);
    wait_until("the new version", PATIENCE, || listed(&manager, "") == ["bash 5.2 1", "bash 5.3 1", "zsh 5.9 1"]);
    let clients = cli.json("software list bash --clients");
    let rows: Vec<_> = clients.as_array().unwrap().iter().map(|row| (row["version"].clone(), row["client"].clone())).collect();
    assert_eq!(rows, [("5.2".into(), first.id().into()), ("5.3".into(), second.id().into())]);
    assert!(cli.ok("software list bash -o csv").starts_with("name,version,architecture,manager,clients,id\nbash,5.2,amd64,dpkg,1,"));
    // Whoever is gone has nothing.
    cli.ok(&format!("client remove {} --yes", second.id()));
    assert_eq!(listed(&manager, ""), ["bash 5.2 1", "zsh 5.9 1"]);
}
