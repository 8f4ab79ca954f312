//! Software that is offered to the user, who chooses it.

use super::*;

/// What the user may have installed: the packages.
fn shelf(agent: &Agent) -> Vec<String> {
    let items: Vec<Value> = serde_json::from_str(&agent.ok("available -o json")).unwrap();
    items.iter().map(|item| item["package"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_offered_is_installed_when_the_user_chooses_it_and_not_before() {
    let (_manager, cli, agent) = machine(&["editor", "game"]);
    cli.ok("group create desks");
    cli.ok(&format!("group add desks {}", agent.id()));
    let other = Agent::enrolled("two", &_manager);
    cli.ok(&format!("group add desks {}", other.id()));
    let job = cli.id("job run --package editor --group desks --available --description 'Writes letters'");
    assert!(cli.ok(&format!("job show {job}")).contains("offered to the user, who chooses it"));
    wait_until("the editor to be offered", PATIENCE, || shelf(&agent) == ["editor"] && shelf(&other) == ["editor"]);
    let text = agent.ok("available");
    assert!(text.contains("editor  1.0") && text.contains("Writes letters"), "{text}");
    let row = waits(&cli, &job, &agent, "USER");
    assert_eq!((row.state.as_str(), row.attempts), ("QUEUED", 0), "{row:#?}");
    let explained = cli.ok(&format!("client explain {}", agent.id()));
    assert!(explained.contains("has not chosen it"), "{explained}");
    assert_eq!(JobView::of(&cli, &job).counters(), "total=2 waiting=2");
    agent.run("install game").ends_with(1).says(&["sutler-agent available"]);
    agent.ok("install editor");
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!((runs(&agent, "editor"), runs(&other, "editor")), (1, 0));
    assert!(cli.ok("audit list").contains("choose"));
    wait_until("it to be offered no more", PATIENCE, || shelf(&agent).is_empty());
    // The other one still may; what is called off is offered no more.
    let row = JobView::of(&cli, &job).row(&other.id()).unwrap().clone();
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("QUEUED", "USER"));
    cli.ok(&format!("job cancel {job} --yes"));
    JobView::wait_for_row(&cli, &job, &other.id(), "CANCELED");
    wait_until("nothing to be offered", PATIENCE, || shelf(&other).is_empty());
    cli.fails(1, &format!("job run --uninstall editor --client {} --available", agent.id())).says(&["UNINSTALL of editor"]);
}

#[test]
fn what_is_chosen_without_a_manager_waits_for_it_and_goes_through_the_stages() {
    let (mut manager, cli, mut agent) = machine(&["editor"]);
    let job = cli.id(&format!("job run --package editor --client {} --available --stage 1 --stage 2", agent.id()));
    wait_until("the editor to be offered", PATIENCE, || shelf(&agent) == ["editor"]);
    manager.kill();
    wait_until("the machine to be without a manager", PATIENCE, || !agent.status()["connected"].is_string());
    let said = agent.run("install editor");
    assert!(said.stderr.contains("queued"), "{said:?}");
    assert!(agent.ok("available").contains("is asked for"));
    agent.kill_and_start();
    assert_eq!(shelf(&agent), ["editor"], "it is kept");
    manager.serve();
    let row = JobView::wait_for_row(&manager.cli(), &job, &agent.id(), "SUCCEEDED");
    assert_eq!((row.attempts, runs(&agent, "editor")), (1, 1));
}

#[test]
fn what_is_offered_to_everybody_at_once_is_let_go_when_it_is_chosen() {
    let (_manager, cli, agent) = machine(&["editor"]);
    let job = cli.id(&format!("job run --package editor --client {} --available --rollout all-at-once", agent.id()));
    wait_until("the editor to be offered", PATIENCE, || shelf(&agent) == ["editor"]);
    assert_eq!(runs(&agent, "editor"), 0);
    agent.ok(&format!("install {job}"));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
}

#[test]
fn what_is_offered_is_shown_as_the_job_is_now_to_machines_that_are_connected() {
    let (_manager, cli, agent) = machine(&["editor"]);
    let job = cli.id(&format!("job run --package editor --client {} --available --description 'Writes letters'", agent.id()));
    wait_until("the editor to be offered", PATIENCE, || agent.ok("available").contains("Writes letters"));
    cli.ok(&format!("job update {job} --description 'Writes novels'"));
    wait_until("it to be shown as it is now", PATIENCE, || agent.ok("available").contains("Writes novels"));
}

#[test]
fn what_nobody_chose_is_still_only_offered_to_who_comes_back_and_after_a_retry() {
    let (_manager, cli, agent) = machine(&["editor", "game"]);
    cli.ok("group create desks");
    cli.ok(&format!("group add desks {}", agent.id()));
    let job = cli.id("job run --package editor --group desks --available --expires 4s");
    waits(&cli, &job, &agent, "USER");
    let still_offered = || {
        let row = waits(&cli, &job, &agent, "USER");
        assert_eq!((row.state.as_str(), row.attempts), ("QUEUED", 0), "{row:#?}");
        // What is ordered after it is installed: by then it would be, too.
        let other = cli.id(&format!("job run --package game --client {} --replace always", agent.id()));
        JobView::wait_for_row(&cli, &other, &agent.id(), "SUCCEEDED");
        assert_eq!(runs(&agent, "editor"), 0);
    };
    JobView::wait_for_row(&cli, &job, &agent.id(), "EXPIRED");
    cli.ok(&format!("job retry {job} --kind error --expires 30d"));
    still_offered();
    cli.ok(&format!("group remove desks {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "CANCELED");
    cli.ok(&format!("group add desks {}", agent.id()));
    still_offered();
    wait_until("the editor to be offered", PATIENCE, || shelf(&agent) == ["editor"]);
    agent.ok("install editor");
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
}
