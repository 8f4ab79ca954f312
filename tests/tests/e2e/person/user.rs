//! What is announced, and what the user answers.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// Orders what is announced, and waits until it is.
fn order(cli: &Cli, agent: &Agent, package: &str, more: &str) -> String {
    let job = cli.id(&format!("job run --package {package} --client {} --announce 'Save your work' {more}", agent.id()));
    waits(cli, &job, agent, "USER");
    job
}

#[test]
fn the_user_is_told_and_it_begins_when_the_countdown_is_over_or_when_they_say_so() {
    let (_manager, cli, mut agent) = machine(&["hello", "other"]);
    // Whoever is logged in is told by a program of the machine.
    let (told, script) = (agent.scratch().join("told"), agent.scratch().join("tell"));
    fs_err::write(&script, format!("#!/bin/sh\ncat >>{}\n", told.display())).unwrap();
    fs_err::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    agent.stop();
    agent.configure(&format!("announce = [\"{}\"]\n", script.display()));
    agent.start();
    let job = order(&cli, &agent, "hello", "--countdown 10s");
    let row = JobView::of(&cli, &job).row(&agent.id()).cloned().unwrap();
    assert_eq!((row.state.as_str(), runs(&agent, "hello")), ("WAITING", 0));
    assert!(row.detail.starts_with("announced to the user; begins at 20"), "{row:#?}");
    let explained = cli.ok(&format!("client explain {}", agent.id()));
    assert!(explained.contains("announced to the user"), "{explained}");
    assert!(cli.ok(&format!("job show {job}")).contains("announced to the user for 10s: Save your work"));
    let shown = announcement(&agent);
    assert_eq!((shown["text"].as_str(), shown["package"].as_str()), (Some("Save your work"), Some("hello 1.0")));
    assert!(agent.ok("announcements").contains("you may: now\n") && agent.ok("status").contains("announced"));
    wait_until("the terminals to be told", PATIENCE, || {
        let text = fs_err::read_to_string(&told).unwrap_or_default();
        text.contains("Save your work") && text.contains("sutler-agent now")
    });
    agent.run(&format!("defer {job}")).ends_with(1).says(&["can't be put off"]);
    agent.run(&format!("refuse {job}")).ends_with(1).says(&["can't be refused"]);
    agent.run("now nothing").ends_with(1).says(&["sutler-agent announcements"]);
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!((runs(&agent, "hello"), announced(&agent).len()), (1, 0));

    let job = order(&cli, &agent, "other", "--countdown 10h");
    agent.ok(&format!("now {job}"));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!(runs(&agent, "other"), 1);
}

#[test]
fn what_the_user_puts_off_waits_as_often_as_the_job_allows_it_and_through_the_end_of_the_agent() {
    let (_manager, cli, mut agent) = machine(&["hello"]);
    let job = order(&cli, &agent, "hello", "--countdown 20s --deferrals 1 --defer-for 12s");
    let begins = announcement(&agent)["seconds"].as_u64().unwrap();
    // Killed between announcement and start: the countdown goes on where it was.
    agent.kill_and_start();
    assert!(announcement(&agent)["seconds"].as_u64().unwrap() <= begins);
    let said = agent.run(&format!("defer {job}"));
    assert!(said.stderr.contains("after that it goes on"), "{said:?}");
    agent.run(&format!("defer {job}")).ends_with(1).says(&["put off already"]);
    let row = waits(&cli, &job, &agent, "USER");
    JobView::wait(&cli, &job, "the row to say so", PATIENCE, |v| v.row(&agent.id()).unwrap().detail.contains("put it off until"));
    assert_eq!(row.attempts, 1);
    agent.kill_and_start();
    assert!(announcement(&agent)["put_off"].as_bool().unwrap());
    // It is announced anew, and then it goes on.
    wait_until("it to be announced anew", PATIENCE, || announced(&agent).first().is_some_and(|told| told["put_off"] == false));
    assert_eq!(runs(&agent, "hello"), 0);
    agent.run(&format!("defer {job}")).ends_with(1).says(&["1 of 1"]);
    agent.kill_and_start();
    let view = JobView::wait(&cli, &job, "it to be installed", LONG, |v| v.row(&agent.id()).unwrap().state == "SUCCEEDED");
    assert_eq!((view.row(&agent.id()).unwrap().attempts, runs(&agent, "hello")), (1, 1));
}

#[test]
fn what_the_user_refuses_is_rejected_and_can_be_ordered_again() {
    let (_manager, cli, agent) = machine(&["hello"]);
    let job = order(&cli, &agent, "hello", "--countdown 1h --may-refuse");
    agent.ok(&format!("refuse {job}"));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "REJECTED");
    assert_eq!((row.reason.as_str(), runs(&agent, "hello")), ("USER", 0), "{row:#?}");
    assert!(row.detail.contains("refused"), "{row:#?}");
    cli.ok(&format!("job retry {job} --kind rejected"));
    waits(&cli, &job, &agent, "USER");
    agent.ok(&format!("now {job}"));
    assert_eq!(JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED").attempts, 2);
}

#[test]
fn from_the_deadline_on_the_user_puts_nothing_off() {
    let (_manager, cli, agent) = machine(&["hello"]);
    let job = order(&cli, &agent, "hello", "--countdown 5s --deferrals 9 --defer-for 1d --deadline 15s");
    agent.ok(&format!("defer {job}"));
    assert!(announcement(&agent)["seconds"].as_u64().unwrap() <= 15, "no longer than until the deadline");
    let view = JobView::wait(&cli, &job, "it to be installed", LONG, |v| v.row(&agent.id()).unwrap().state == "SUCCEEDED");
    let row = view.row(&agent.id()).unwrap();
    let deadline: jiff::Timestamp =
        cli.json(&format!("job show {job}"))["terms"]["schedule"]["deadlineTime"].as_str().unwrap().parse().unwrap();
    let ended: jiff::Timestamp = row.json["enterTime"].as_str().unwrap().parse().unwrap();
    assert!(ended >= deadline && runs(&agent, "hello") == 1, "{row:#?}");
}

#[test]
fn a_deadline_that_a_job_gets_later_holds_for_what_a_machine_was_told_before() {
    let (_manager, cli, agent) = machine(&["hello"]);
    let job = order(&cli, &agent, "hello", "--countdown 5s --deferrals 9 --defer-for 1d");
    agent.ok(&format!("defer {job}"));
    assert!(announcement(&agent)["seconds"].as_u64().unwrap() > 3600);
    cli.ok(&format!("job update {job} --deadline 10s"));
    wait_until("the machine to be told", PATIENCE, || announced(&agent).first().is_none_or(|told| told["seconds"].as_u64().unwrap() <= 15));
    let view = JobView::wait(&cli, &job, "it to be installed", LONG, |v| v.row(&agent.id()).unwrap().state == "SUCCEEDED");
    assert_eq!((view.row(&agent.id()).unwrap().attempts, runs(&agent, "hello")), (1, 1), "nothing was called back for it");
}

#[test]
fn what_is_announced_can_be_called_off_and_what_contradicts_itself_is_refused() {
    let (_manager, cli, agent) = machine(&["hello"]);
    let job = order(&cli, &agent, "hello", "--countdown 1h --deferrals 3");
    agent.ok(&format!("defer {job}"));
    cli.ok(&format!("job cancel {job} --yes"));
    JobView::wait_for_row(&cli, &job, &agent.id(), "CANCELED");
    assert_eq!((announced(&agent).len(), runs(&agent, "hello")), (0, 0));
    let run = |more: &str| format!("job run --package hello --client {} {more}", agent.id());
    for (bad, word) in [
        ("--announce x --timing at-boot", "NOW"),
        ("--announce x --countdown 1s", "countdown"),
        ("--announce x --deferrals 101", "deferrals"),
        ("--announce x --deferrals 1 --defer-for 8d", "defer_for"),
        ("--announce ''", "what the user reads"),
    ] {
        cli.fails(1, &run(bad)).says(&[word]);
    }
    cli.fails(2, &run("--countdown 5m")).says(&["--announce"]);
    cli.fails(2, &run("--announce x --available")).says(&["--available"]);
}
