//! Who is in which group: by a policy, an operator, a token or the machine itself; and what follows when that changes.

use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, wait_for_value, wait_until};
use sutler_tests::tools;

/// The members of a group with where each membership came from, sorted.
fn members(cli: &Cli, group: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = cli.json(&format!("group members {group}"));
    let member = |m: &Value| {
        (text(&m["client"]).trim_start_matches("clients/").to_owned(), text(&m["source"]).trim_start_matches("SOURCE_").to_owned())
    };
    let mut members: Vec<_> = list.as_array().unwrap().iter().map(member).collect();
    members.sort();
    members
}

fn wait_for_members(cli: &Cli, group: &str, wanted: &[(&str, &str)]) {
    let mut wanted: Vec<_> = wanted.iter().map(|(client, source)| ((*client).to_owned(), (*source).to_owned())).collect();
    wanted.sort();
    wait_for_value(&format!("the members of {group}"), PATIENCE, || members(cli, group), |members| *members == wanted);
}

fn wait_for_contact(cli: &Cli, client: &str, online: bool) {
    wait_until("the contact", PATIENCE, || cli.json(&format!("client show {client}"))["online"] == online);
}

fn push(cli: &Cli, package: &PackageFolder) {
    cli.ok(&format!("package push {}", package.path().display()));
}

#[test]
fn a_machine_joins_and_leaves_by_itself_where_the_group_lets_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    let password = manager.scratch().join("password");
    fs_err::write(&password, "open sesame\n").unwrap();
    cli.ok("group create open --join open");
    cli.ok(&format!("group create secret --join password --join-password-file {}", password.display()));
    cli.ok("group create closed");
    // What a client does by itself can't place it in a restricted group: nobody can even ask for that.
    cli.fails(1, "group create kept --join open --restricted");
    cli.ok("group create kept --restricted");
    let agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    wait_for_contact(&cli, &id, true);

    agent.ok("join open");
    wait_for_members(&cli, "open", &[(&id, "CLIENT")]);
    agent.run("join closed").ends_with(1);
    agent.run("join kept").ends_with(1);
    agent.run("join nowhere").ends_with(1);
    let wrong = agent.scratch().join("wrong");
    fs_err::write(&wrong, "open barley\n").unwrap();
    agent.run(&format!("join secret --password-file {}", wrong.display())).ends_with(1);
    for group in ["secret", "closed", "kept"] {
        wait_for_members(&cli, group, &[]);
    }
    agent.ok(&format!("join secret --password-file {}", password.display()));
    wait_for_members(&cli, "secret", &[(&id, "CLIENT")]);
    let groups = agent.ok("groups");
    assert!(groups.contains("open") && groups.contains("secret") && !groups.contains("closed"), "{groups}");
    agent.ok("leave open");
    wait_for_members(&cli, "open", &[]);
}

#[test]
fn joining_while_offline_is_queued_until_the_next_contact() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    cli.ok("group create open --join open");
    let job = cli.id("job run --package hello --group open");
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    wait_for_contact(&cli, &id, true);
    manager.stop();
    let said = agent.run("join open").ends_with(0);
    assert!(format!("{}{}", said.stdout, said.stderr).to_lowercase().contains("queued"), "{said:?}");
    // Queued on disk: a crash loses nothing.
    agent.kill_and_start();
    manager.serve();
    wait_for_members(&cli, "open", &[(&id, "CLIENT")]);
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
}

#[test]
fn leaving_cancels_what_has_not_started_and_coming_back_queues_it_again() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    cli.ok("group create machines");
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    agent.stop();
    cli.ok(&format!("group add machines {id}"));
    let job = cli.id("job run --package hello --group machines");
    assert_eq!(JobView::wait_for_row(&cli, &job, &id, "QUEUED").state, "QUEUED");
    cli.ok(&format!("group remove machines {id}"));
    assert_eq!(JobView::wait_for_row(&cli, &job, &id, "CANCELED").reason, "LEFT_GROUP");
    cli.ok(&format!("group add machines {id}"));
    JobView::wait_for_row(&cli, &job, &id, "QUEUED");
    agent.start();
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    // What has finished is not run again for whoever leaves and comes back; the software stays.
    cli.ok(&format!("group remove machines {id}"));
    cli.ok(&format!("group add machines {id}"));
    let view = JobView::of(&cli, &job);
    assert_eq!(view.counters(), "total=1 finished=1");
    let after = cli.id(&format!("job run --package hello --client {id}"));
    JobView::wait_for_row(&cli, &after, &id, "ALREADY_INSTALLED");
    assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"));
}

#[test]
fn a_machine_that_unenrols_is_removed_and_its_open_work_is_canceled() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    cli.ok("group create machines");
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    cli.ok(&format!("group add machines {id}"));
    wait_for_contact(&cli, &id, true);
    // Queued: the machine is away while a job for it starts, then it leaves.
    agent.stop();
    let job = cli.id("job run --package hello --group machines");
    cli.ok(&format!("client quarantine {id} --reason 'so that nothing starts'"));
    agent.start();
    wait_for_contact(&cli, &id, true);
    agent.ok("unenroll");
    let row = JobView::wait_for_row(&cli, &job, &id, "CANCELED");
    assert_eq!(row.reason, "CLIENT_REMOVED");
    assert_eq!(cli.json(&format!("client show {id}"))["state"], "CLIENT_STATE_REMOVED");
    wait_for_members(&cli, "machines", &[]);
    assert!(!cli.ok("client list").contains(&id));
    // Its identity is gone for ever; a token makes it a new client.
    wait_until("the agent to end", PATIENCE, || !agent.is_running());
    agent.enroll(cli.ok("token create").trim());
    assert_ne!(agent.id(), id);
}

#[test]
fn an_agent_that_was_killed_before_it_heard_that_it_may_leave_leaves_when_it_is_back() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    wait_for_contact(&cli, &id, true);
    manager.stop();
    wait_until("the agent to notice", PATIENCE, || agent.status()["connected"].is_null());
    agent.ok("unenroll");
    agent.kill();
    manager.serve();
    // What the manager does when it is asked to let a machine go; the answer finds nobody.
    cli.ok(&format!("client remove {id} --yes"));
    agent.start();
    wait_until("the agent to end", PATIENCE, || !agent.is_running());
    // No --force: it is nobody's client any more. And what the old one had asked for is not asked for by the new one.
    agent.kill();
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    assert_ne!(agent.id(), id);
    wait_for_contact(&cli, &agent.id(), true);
}

#[test]
fn a_removed_client_is_refused_and_ids_do_not_come_back() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create machines");
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    wait_for_contact(&cli, &id, true);
    cli.ok(&format!("group add machines {id}"));
    cli.ok(&format!("client remove {id} --yes"));
    wait_for_contact(&cli, &id, false);
    wait_for_members(&cli, "machines", &[]);
    agent.kill_and_start();
    wait_until("the agent to be refused", PATIENCE, || agent.log().contains("REMOVED") || agent.log().to_lowercase().contains("removed"));
    cli.fails(1, &format!("client approve {id}"));
    cli.fails(1, &format!("group add machines {id}"));
}

#[test]
fn a_quarantined_client_gets_no_work_until_it_is_released() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    let (quarantined, other) = (Agent::enrolled("quarantined", &manager), Agent::enrolled("other", &manager));
    cli.ok(&format!("client quarantine {} --reason 'it looks odd'", quarantined.id()));
    cli.ok("group create machines");
    cli.ok(&format!("group add machines {} {}", quarantined.id(), other.id()));
    let job = cli.id("job run --package hello --group machines");
    JobView::wait_for_row(&cli, &job, &other.id(), "SUCCEEDED");
    assert!(!quarantined.root().join("opt").exists());
    assert!(cli.ok(&format!("client explain {}", quarantined.id())).contains("it looks odd"));
    cli.ok(&format!("client release {}", quarantined.id()));
    JobView::wait_for_row(&cli, &job, &quarantined.id(), "SUCCEEDED");
}

#[test]
fn a_machine_that_is_renamed_or_moves_stays_the_same_client() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    cli.ok("group create machines");
    let job = cli.id("job run --package hello --group machines");
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    cli.ok(&format!("group add machines {id}"));
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    agent.stop();
    // The name is a fact about the machine; a namespace of its own gives it another one, where that is allowed.
    let renames =
        tools::tool("unshare").is_some_and(|unshare| Command::new(unshare).args(["--uts", "true"]).status().is_ok_and(|s| s.success()));
    if renames {
        agent.within(&["unshare", "--uts", "sh", "-c", "echo quite-another-name >/proc/sys/kernel/hostname; exec \"$0\" \"$@\""]);
    }
    agent.start();
    wait_for_contact(&cli, &id, true);
    if renames {
        wait_until("the new name", PATIENCE, || cli.json(&format!("client show {id}"))["hostname"] == "quite-another-name");
    } else {
        tools::skip("needs the right to rename a machine (unshare --uts)");
    }
    assert_eq!(cli.json("client list").as_array().unwrap().len(), 1);
    wait_for_members(&cli, "machines", &[(&id, "OPERATOR")]);
    assert_eq!(JobView::of(&cli, &job).counters(), "total=1 finished=1");
    assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"));
}

#[test]
fn labels_of_a_file_are_taken_whole_or_not_at_all() {
    let manager = Manager::start();
    let cli = manager.cli();
    let (one, two) = (Agent::enrolled("one", &manager), Agent::enrolled("two", &manager));
    let file = manager.scratch().join("labels.csv");
    fs_err::write(&file, format!("# client,label\n{},site=berlin\nffffffffffffffff,site=berlin\n", one.id())).unwrap();
    cli.fails(1, &format!("client label import {}", file.display())).says(&["3"]);
    assert_eq!(cli.json(&format!("client show {}", one.id()))["labels"], serde_json::json!({}));
    fs_err::write(&file, format!("{},site=berlin\n{},site,paris\n", one.id(), two.id())).unwrap();
    cli.ok(&format!("client label import {}", file.display()));
    assert_eq!(cli.json(&format!("client show {}", two.id()))["labels"]["site"], "paris");
    // Members by label, and from a file.
    cli.ok("group create berlin");
    cli.ok("group add berlin label:site=berlin");
    wait_for_members(&cli, "berlin", &[(&one.id(), "OPERATOR")]);
    fs_err::write(&file, format!("{}\nnobody-is-called-so\n", two.id())).unwrap();
    cli.fails(1, &format!("group add berlin --file {}", file.display())).says(&["nobody-is-called-so"]);
    wait_for_members(&cli, "berlin", &[(&one.id(), "OPERATOR")]);
    cli.ok(&format!("group add berlin --file {} --skip-bad", file.display()));
    wait_for_members(&cli, "berlin", &[(&one.id(), "OPERATOR"), (&two.id(), "OPERATOR")]);
    cli.ok(&format!("client label unset {} site", one.id()));
    assert_eq!(cli.json(&format!("client show {}", one.id()))["labels"], serde_json::json!({}));
}

#[test]
fn a_policy_can_be_previewed_and_applied_to_clients_that_exist_already() {
    let manager = Manager::start();
    let cli = manager.cli();
    let (one, two) = (Agent::enrolled("one", &manager), Agent::enrolled("two", &manager));
    for agent in [&one, &two] {
        wait_until("the facts", PATIENCE, || cli.json(&format!("client show {}", agent.id()))["facts"]["os"]["family"] == "linux");
    }
    cli.ok(&format!("client label set {} site=berlin", one.id()));
    cli.ok("group create berlin");
    cli.ok("policy create berlin --group berlin --trigger new-client --when 'labels.site == \"berlin\" && facts.os.family == \"linux\"'");
    let preview = cli.json("policy preview berlin --all");
    let of = |id: &str| preview.as_array().unwrap().iter().find(|m| m["client"] == format!("clients/{id}")).cloned().unwrap_or_default();
    assert_eq!((of(&one.id())["matches"].as_bool(), of(&two.id())["matches"].as_bool()), (Some(true), Some(false)), "{preview:#}");
    assert!(!of(&one.id())["why"].as_array().unwrap().is_empty(), "{preview:#}");
    // Neither a policy nor its preview touches clients that were there before.
    wait_for_members(&cli, "berlin", &[]);
    cli.ok("policy apply berlin");
    wait_for_members(&cli, "berlin", &[(&one.id(), "POLICY")]);
    // Taken out by an operator, a client stays out until it is released.
    cli.ok(&format!("group remove berlin {}", one.id()));
    cli.ok("policy apply berlin");
    wait_for_members(&cli, "berlin", &[]);
    cli.ok(&format!("group release berlin {}", one.id()));
    cli.ok("policy apply berlin");
    wait_for_members(&cli, "berlin", &[(&one.id(), "POLICY")]);
    // The same policy twice is refused; deleted, its members stay.
    cli.fails(
        1,
        "policy create again --group berlin --trigger new-client --when 'labels.site == \"berlin\" && facts.os.family == \"linux\"'",
    );
    cli.ok("policy delete berlin");
    wait_for_members(&cli, "berlin", &[(&one.id(), "POLICY")]);
}

#[test]
fn several_policies_are_applied_in_one_change_and_none_of_them_if_one_can_not_be() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agents = [Agent::enrolled("one", &manager), Agent::enrolled("two", &manager)];
    for (agent, site) in agents.iter().zip(["berlin", "paris"]) {
        cli.ok(&format!("client label set {} site={site}", agent.id()));
    }
    let [one, two] = agents.each_ref().map(Agent::id);
    for site in ["berlin", "paris", "rome"] {
        cli.ok(&format!("group create {site}"));
        cli.ok(&format!("policy create {site} --group {site} --trigger new-client --when 'labels.site == \"{site}\"'"));
    }
    cli.fails(1, "policy apply berlin nowhere paris").says(&["nowhere"]);
    wait_for_members(&cli, "berlin", &[]);
    let said = cli.ok("policy apply rome paris berlin");
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), 3, "{said:?}");
    for (line, (name, did)) in
        said.iter().zip([("rome", "0 clients match, 0"), ("paris", "1 clients match, 1"), ("berlin", "1 clients match, 1")])
    {
        assert!(line.contains(&format!("policies/{name}")) && line.contains(did), "{line}");
    }
    wait_for_members(&cli, "berlin", &[(&one, "POLICY")]);
    wait_for_members(&cli, "paris", &[(&two, "POLICY")]);
    wait_for_members(&cli, "rome", &[]);
}

#[test]
fn an_inventory_policy_follows_labels_and_removes_who_no_longer_matches_if_it_says_so() {
    let manager = Manager::start();
    let cli = manager.cli();
    for (group, mismatch) in [("follows", "remove"), ("keeps", "keep")] {
        cli.ok(&format!("group create {group}"));
        cli.ok(&format!(
            "policy create {group} --group {group} --trigger inventory --applies-to all --on-mismatch {mismatch} --when 'labels.site == \"berlin\"'"
        ));
    }
    let agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    wait_for_contact(&cli, &id, true);
    wait_for_members(&cli, "follows", &[]);
    cli.ok(&format!("client label set {id} site=berlin"));
    wait_for_members(&cli, "follows", &[(&id, "POLICY")]);
    wait_for_members(&cli, "keeps", &[(&id, "POLICY")]);
    cli.ok(&format!("client label set {id} site=paris"));
    wait_for_members(&cli, "follows", &[]);
    wait_for_members(&cli, "keeps", &[(&id, "POLICY")]);
}

#[test]
fn a_token_puts_its_clients_into_groups_and_gives_them_labels() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create kiosks --restricted");
    // A client can't talk itself into a restricted group: not through facts in a condition.
    cli.fails(1, "policy create p --group kiosks --when 'facts.os.family == \"linux\"'");
    let token = cli.ok("token create --group kiosks --label site=berlin");
    let agent = Agent::new("kiosk");
    agent.enroll(token.trim());
    wait_for_members(&cli, "kiosks", &[(&agent.id(), "TOKEN")]);
    assert_eq!(cli.json(&format!("client show {}", agent.id()))["labels"]["site"], "berlin");
}

#[test]
fn who_did_what_is_written_down() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create machines");
    let agent = Agent::enrolled("one", &manager);
    cli.ok(&format!("group add machines {}", agent.id()));
    cli.ok("group delete machines");
    let entries = cli.json("audit list --object groups/machines");
    let actions: Vec<_> = entries.as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap().to_owned()).collect();
    assert!(actions.len() >= 3, "{entries:#}");
    assert!(entries.as_array().unwrap().iter().all(|e| e["actor"].as_str().unwrap().starts_with("operators/")), "{entries:#}");
}

#[test]
fn the_agent_tells_any_user_how_it_is_doing() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    let agent = Agent::enrolled("one", &manager);
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    let status = agent.ok("status");
    assert!(status.contains(&agent.id()), "{status}");
    let facts = agent.ok("facts");
    assert!(facts.contains("linux") && facts.contains(agent.machine_id()), "{facts}");
    agent.ok("run-now");
    wait_until("the installed software to be a fact", Duration::from_secs(60), || {
        cli.json(&format!("client show {}", agent.id()))["facts"]["software"]
            .as_array()
            .is_some_and(|list| list.iter().any(|s| s["name"] == "hello"))
    });
}
