//! What becomes of a job after it was made: cloned, changed while it runs, and whom it reaches then.

use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, wait_for_value};

/// Versions of a package that counts its installations, pushed.
fn pushed(cli: &Cli, name: &str, versions: &[&str]) {
    for version in versions {
        let package = PackageFolder::counting(name, version);
        package.file("version", version);
        cli.ok(&format!("package push {}", package.path().display()));
    }
}

/// What of a package is on the machine.
fn version(agent: &Agent, name: &str) -> Option<String> {
    agent.read(&format!("opt/{name}/version"))
}

/// An agent whose machine holds installations until the file is gone.
fn holding(name: &str, manager: &Manager) -> Agent {
    let mut agent = Agent::new(name);
    agent.configure("");
    fs_err::write(agent.scratch().join("policy.toml"), "hold = true\n").unwrap();
    agent.enroll(&manager.cli().ok("token create"));
    agent.start();
    agent
}

/// The details of what the audit says was done to a job.
fn audited(cli: &Cli, action: &str) -> Vec<String> {
    let list = cli.json("audit list");
    let entries = list.as_array().unwrap().iter().filter(|e| e["action"] == action);
    entries.map(|e| e["detail"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_job_that_is_cloned_is_a_draft_with_the_same_order_and_what_is_given_is_different() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool", &["1.0", "2.0"]);
    cli.ok("group create machines");
    cli.ok("group create kiosks");
    let first = cli.id("job run --package tool@1.0 --group machines --exclude-group kiosks --priority 2 --continue-on-failure \
         --when facts.hostname!=\"x\" --description first");
    let shown = |id: &str| cli.json(&format!("job show {id}"));
    let again = shown(&cli.id(&format!("job clone {first}")));
    let (mut a, mut b) = (shown(&first), again);
    assert_eq!(b["state"], "JOB_STATE_DRAFT");
    for job in [&mut a, &mut b] {
        for own in ["name", "state", "createTime", "startTime", "etag", "packages", "rollout"] {
            job.as_object_mut().unwrap().remove(own);
        }
    }
    assert_eq!(a, b);
    let other = shown(
        &cli.id(&format!("job clone {first} --package tool@2.0 --client nobody --priority 7").replace("--client nobody", "--group kiosks")),
    );
    assert_eq!(
        (&other["packages"][0]["package"], &other["destinations"][0]),
        (&"packages/tool/versions/2.0".into(), &"groups/kiosks".into())
    );
    assert_eq!((&other["priority"], &other["condition"]), (&7.into(), &a["condition"]));
    cli.fails(2, &format!("job clone {first} --priority 10"));
}

#[test]
fn who_has_not_started_gets_the_new_revision_of_a_job_and_who_has_keeps_the_one_that_it_was_offered() {
    let manager = Manager::start();
    let cli = manager.cli();
    let slow = PackageFolder::with("tool", "1.0", "");
    slow.file("version", "1.0");
    slow.file("bin/wait", "#!/bin/sh\nwhile test ! -e ../go; do sleep 0.05; done\n");
    slow.append("[[step]]\nname = \"wait\"\nargv = [\"bin/wait\"]\n");
    cli.ok(&format!("package push {}", slow.path().display()));
    pushed(&cli, "tool", &["2.0"]);
    cli.ok("group create machines");
    let started = Agent::enrolled("started", &manager);
    let mut waiting = holding("waiting", &manager);
    let mut offline = Agent::enrolled("offline", &manager);
    offline.stop();
    let ids = [started.id(), waiting.id(), offline.id()];
    cli.ok(&format!("group add machines {}", ids.join(" ")));
    let job = cli.id("job run --package tool@1.0 --group machines");
    JobView::wait_for_row(&cli, &job, &ids[0], "INSTALLING");
    JobView::wait_for_row(&cli, &job, &ids[1], "WAITING");

    cli.ok(&format!("job update {job} --package tool@2.0 --priority 3"));
    let changes = audited(&cli, "update_job").remove(0);
    for part in ["priority: 3 in place of 5", "packages: tool@2.0 in place of tool@1.0", "revision 2"] {
        assert!(changes.contains(part), "{changes}");
    }
    // What was offered and had not begun is offered anew: another attempt, of the new revision.
    let again = JobView::wait(&cli, &job, "another offer", PATIENCE, |v| {
        v.row(&ids[1]).is_some_and(|row| row.state == "WAITING" && row.attempts == 2)
    });
    assert_eq!(again.row(&ids[0]).unwrap().state, "INSTALLING", "what has begun is not touched");
    // The same once more changes nothing, and calls nothing back.
    cli.ok(&format!("job update {job} --package tool@2.0 --priority 3"));
    assert_eq!(audited(&cli, "update_job").into_iter().filter(|d| d == "nothing").count(), 1);
    assert_eq!(cli.json(&format!("job show {job}"))["revision"], "2");

    fs_err::write(started.root().join("opt/go"), "").unwrap();
    offline.start();
    waiting.stop();
    fs_err::write(waiting.scratch().join("policy.toml"), "").unwrap();
    waiting.start();
    for id in &ids {
        JobView::wait_for_row(&cli, &job, id, "SUCCEEDED");
    }
    let versions: Vec<_> = [&started, &waiting, &offline].map(|a| version(a, "tool").unwrap_or_default()).into();
    assert_eq!(versions, ["1.0", "2.0", "2.0"], "an attempt keeps the revision that it was offered");
    let attempts = cli.json(&format!("job executions {job} --client {}", ids[0]));
    assert_eq!(attempts["attempts"][0]["revision"], "1");
}

#[test]
fn destinations_come_and_go_while_a_job_stands() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool", &["1.0"]);
    cli.ok("group create first");
    cli.ok("group create second");
    let mut one = Agent::enrolled("one", &manager);
    let mut two = Agent::enrolled("two", &manager);
    one.stop();
    two.stop();
    cli.ok(&format!("group add first {}", one.id()));
    cli.ok(&format!("group add second {}", two.id()));
    let job = cli.id("job run --package tool --group first");
    JobView::wait_for_row(&cli, &job, &one.id(), "QUEUED");
    assert!(JobView::of(&cli, &job).row(&two.id()).is_none());
    cli.ok(&format!("job update {job} --add-group second --remove-group first"));
    JobView::wait_for_row(&cli, &job, &two.id(), "QUEUED");
    assert_eq!(JobView::wait_for_row(&cli, &job, &one.id(), "CANCELED").reason, "DESTINATION_DELETED");
    // Another way in, and it is queued again.
    cli.ok(&format!("job update {job} --add-client {}", one.id()));
    JobView::wait_for_row(&cli, &job, &one.id(), "QUEUED");
    // Not the last of them, and none that it does not have; then nothing of the request is done.
    cli.fails(1, &format!("job update {job} --remove-group second --remove-client {} --description never", one.id()))
        .says(&["a job has a destination at least"]);
    cli.fails(1, &format!("job update {job} --remove-group first")).says(&["is no destination of"]);
    assert_eq!(cli.json(&format!("job show {job}"))["description"], "");
    one.start();
    two.start();
    for agent in [&one, &two] {
        JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    }
}

#[test]
fn a_job_never_reaches_what_it_excludes_whatever_else_holds_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool", &["1.0"]);
    for group in ["machines", "kiosks"] {
        cli.ok(&format!("group create {group}"));
    }
    let (mut one, mut two, three) =
        (Agent::enrolled("one", &manager), Agent::enrolled("two", &manager), Agent::enrolled("three", &manager));
    one.stop();
    two.stop();
    let (a, b, c) = (one.id(), two.id(), three.id());
    cli.ok(&format!("group add machines {a} {b} {c}"));
    cli.ok(&format!("group add kiosks {b}"));
    let job = cli.id(&format!("job run --package tool --group machines --exclude-group kiosks --exclude-client {c}"));
    JobView::wait_for_row(&cli, &job, &a, "QUEUED");
    assert_eq!(JobView::of(&cli, &job).rows.len(), 1);
    // Whoever joins what is excluded before it started is canceled; whoever leaves it is reached.
    cli.ok(&format!("group add kiosks {a}"));
    assert_eq!(JobView::wait_for_row(&cli, &job, &a, "CANCELED").reason, "LEFT_GROUP");
    cli.ok(&format!("group remove kiosks {a}"));
    JobView::wait_for_row(&cli, &job, &a, "QUEUED");
    cli.ok(&format!("job update {job} --add-client {b}"));
    assert!(JobView::of(&cli, &job).row(&b).is_none(), "it is named, and in the excluded group");
    // Deleting the excluded group would reach its members: that is said.
    cli.fails(1, "group delete kiosks").says(&["never reaches the members of groups/kiosks"]);
    cli.ok(&format!("job update {job} --include-group kiosks"));
    one.start();
    two.start();
    for id in [&a, &b] {
        JobView::wait_for_row(&cli, &job, id, "SUCCEEDED");
    }
    assert!(JobView::of(&cli, &job).row(&c).is_none() && version(&three, "tool").is_none());
}

#[test]
fn a_condition_as_a_destination_reaches_who_matches_now_and_who_does_later() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool", &["1.0"]);
    let (one, two) = (Agent::enrolled("one", &manager), Agent::enrolled("two", &manager));
    let label = |agent: &Agent, label: &str| drop(cli.ok(&format!("client label set {} {label}", agent.id())));
    label(&one, "ring=test");
    let job = cli.id("job run --package tool --where labels.ring==\"test\"");
    JobView::wait_for_row(&cli, &job, &one.id(), "SUCCEEDED");
    assert_eq!(JobView::of(&cli, &job).state, "ACTIVE", "others may come");
    assert!(JobView::of(&cli, &job).row(&two.id()).is_none());
    label(&two, "ring=test");
    JobView::wait_for_row(&cli, &job, &two.id(), "SUCCEEDED");
    let explained = wait_for_value(
        "the explanation",
        PATIENCE,
        || cli.ok(&format!("client explain {}", two.id())),
        |text| text.contains("where labels.ring"),
    );
    assert!(!explained.contains("no longer in a destination"), "{explained}");
    // Who was reached stays so, as with a policy.
    label(&two, "ring=prod");
    assert_eq!(JobView::of(&cli, &job).row(&two.id()).unwrap().json["mark"], "");
}
