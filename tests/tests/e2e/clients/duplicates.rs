//! Clients that are probably the same machine, set up anew.

use super::facts::quick;
use sutler_tests::harness::{Agent, Manager, PATIENCE, wait_until};

/// Gives the machine a network interface with this hardware address.
fn plugged(agent: &Agent, mac: &str) {
    let folder = agent.root().join("sys/class/net/eth7");
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("address"), format!("{mac}\n")).unwrap();
}

#[test]
fn clients_with_the_name_and_the_hardware_of_another_are_flagged_until_one_of_them_is_away() {
    let manager = Manager::start();
    let cli = manager.cli();
    let machine = |mac: &str| quick("one", &manager, |agent| plugged(agent, mac));
    // All of them have the host name of the machine under this test.
    let mut first = machine("02:00:00:00:00:07");
    let second = machine("02:00:00:00:00:07");
    let third = machine("02:00:00:00:00:09");
    let flagged = || -> Vec<String> {
        let rows = cli.json("client list --filter 'client.duplicate' --columns id");
        let mut ids: Vec<String> = rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let mut both = [first.id(), second.id()];
    both.sort();
    wait_until("both to be flagged", PATIENCE, || flagged() == both);
    let of = |agent: &Agent| cli.json(&format!("client show {}", agent.id()))["duplicates"].clone();
    assert_eq!(of(&first), serde_json::json!([format!("clients/{}", second.id())]));
    assert_eq!(of(&second), serde_json::json!([format!("clients/{}", first.id())]));
    assert_eq!(of(&third), serde_json::json!([]));
    let rows = cli.json(&format!("client list --columns id,duplicates --filter 'client.id == \"{}\"'", first.id()));
    assert_eq!(rows[0]["duplicates"], second.id());
    let explained = cli.ok(&format!("client explain {}", second.id()));
    assert!(explained.contains(&format!("sutler client remove {}", first.id())), "one command sorts it out: {explained}");

    // Another card: nothing in common but the name. And back.
    plugged(&second, "02:00:00:00:00:08");
    wait_until("nobody to be flagged", PATIENCE, || flagged().is_empty());
    plugged(&second, "02:00:00:00:00:07");
    wait_until("both to be flagged again", PATIENCE, || flagged() == both);
    // An archived one is nobody's duplicate, until it is back.
    first.stop();
    wait_until("it to be gone", PATIENCE, || cli.json(&format!("client show {}", first.id()))["online"] == false);
    cli.ok(&format!("client archive {}", first.id()));
    assert_eq!((flagged(), of(&second)), (vec![], serde_json::json!([])));
    cli.ok(&format!("client unarchive {}", first.id()));
    assert_eq!(flagged(), both);
    cli.ok(&format!("client remove {} --yes", first.id()));
    assert!(flagged().is_empty());
}
