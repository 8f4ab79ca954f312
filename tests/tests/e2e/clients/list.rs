//! The list of clients: the columns of one's choice, and who is in contact.

use super::facts::quick;
use serde_json::{Value, json};
use sutler_tests::harness::{Agent, Manager, PATIENCE, Setup, wait_for_value, wait_until};

/// The presence of a client, as the list has it.
fn presence(manager: &Manager, agent: &Agent) -> String {
    let rows = manager.cli().json("client list --columns id,presence");
    let row = rows.as_array().unwrap().iter().find(|row| row["id"] == agent.id()).cloned().unwrap_or_default();
    row["presence"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_list_has_the_columns_that_are_wanted_in_every_format_and_an_unknown_one_is_refused_with_those_there_are() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = quick("one", &manager, |agent| {
        fs_err::create_dir_all(agent.root().join("etc")).unwrap();
        fs_err::write(agent.root().join("etc/timezone"), "Europe/Berlin\n").unwrap();
    });
    let id = agent.id();
    cli.ok(&format!("client label set {id} site=berlin"));
    let columns = "--columns id,name,presence,facts.time_zone,facts.cpu.count,labels.site,labels.room";
    let wanted = |row: &Value| row["facts.time_zone"] == "Europe/Berlin";
    wait_for_value("the facts", PATIENCE, || cli.json(&format!("client list {columns}"))[0].clone(), wanted);
    let row = cli.json(&format!("client list {columns}"))[0].clone();
    assert!(row["facts.cpu.count"].as_u64().is_some_and(|n| n > 0), "a number stays one: {row}");
    assert_eq!((&row["id"], &row["labels.site"], &row["labels.room"]), (&json!(id), &json!("berlin"), &Value::Null));
    assert_eq!(row.as_object().unwrap().len(), 7, "nothing but these: {row}");
    assert_eq!(cli.ok("client list --columns facts.time_zone,labels.site -o csv"), "facts.time_zone,labels.site\nEurope/Berlin,berlin\n");
    let table = cli.ok("client list --columns labels.site,id --filter 'labels.site == \"berlin\"'");
    assert_eq!(table, format!("LABELS.SITE  ID\nberlin       {id}\n"));
    for (bad, word) in [("ids", "hostname"), ("facts.os.nam", "os.name"), ("id,facts.packages", "software list")] {
        cli.fails(2, &format!("client list --columns {bad}")).says(&[word]);
    }
}

#[test]
fn a_client_that_is_silent_for_too_long_is_overdue_and_its_manager_says_how_long_that_is() {
    let manager = Manager::start_with(Setup { config: "[limits]\noverdue = \"3s\"\n".into(), ..Setup::default() });
    let cli = manager.cli();
    let mut silent = Agent::enrolled("silent", &manager);
    let there = Agent::enrolled("there", &manager);
    for agent in [&silent, &there] {
        wait_until("both to be connected", PATIENCE, || presence(&manager, agent) == "ONLINE");
    }
    silent.stop();
    wait_until("it to be offline", PATIENCE, || presence(&manager, &silent) != "ONLINE");
    wait_until("it to be overdue", PATIENCE, || presence(&manager, &silent) == "OVERDUE");
    assert_eq!(presence(&manager, &there), "ONLINE", "who is connected is not silent");
    let found = |filter: &str| -> Vec<String> {
        let rows = cli.json(&format!("client list --filter '{filter}' --columns id"));
        rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found("client.presence == \"OVERDUE\""), [silent.id()]);
    assert_eq!(found("client.presence == \"ONLINE\" && client.last_seen > timestamp(\"2026-01-01T00:00:00Z\")"), [there.id()]);
    assert_eq!(cli.json(&format!("client show {}", silent.id()))["presence"], "PRESENCE_OVERDUE");
    assert!(cli.ok(&format!("client explain {}", silent.id())).contains("overdue, last seen"));
    // Nothing happens at the client when it becomes overdue: a policy would not notice.
    cli.ok("group create late");
    cli.fails(1, "policy create late --group late --when 'client.presence == \"OVERDUE\"'").says(&["only a filter"]);
    silent.start();
    wait_until("it to be back", PATIENCE, || presence(&manager, &silent) == "ONLINE");
}
