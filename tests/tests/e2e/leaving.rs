//! What leaving a job's reach means for what it installed, where several jobs, attempts and machines that are away come together.

use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, programs, wait_until};

/// A package of files alone, pushed.
fn pushed(cli: &Cli, name: &str) {
    let package = PackageFolder::with(name, "1.0", "[[detection]]\nfile = \"version\"\n");
    package.file("version", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
}

/// One whose only step fails.
fn pushed_bad(cli: &Cli, name: &str) {
    let package = PackageFolder::with(name, "1.0", "[[step]]\nname = \"install\"\nargv = [\"/bin/false\"]\n");
    package.file("version", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
}

fn there(agent: &Agent, name: &str) -> bool {
    agent.read(&format!("opt/{name}/version")).is_some()
}

fn hold(agent: &Agent, held: bool) {
    let policy = agent.scratch().join("policy.toml");
    if held {
        fs_err::write(policy, "hold = true\n").unwrap();
    } else {
        fs_err::remove_file(policy).unwrap();
    }
}

/// An agent whose machine has rules of its own, in these groups.
fn agent_in(manager: &Manager, name: &str, groups: &[&str]) -> Agent {
    let mut agent = Agent::new(name);
    agent.configure("");
    agent.enroll(manager.cli().ok("token create").trim());
    agent.start();
    for group in groups {
        manager.cli().ok(&format!("group add {group} {}", agent.id()));
    }
    agent
}

#[test]
fn what_another_job_has_come_to_install_meanwhile_is_not_uninstalled_and_the_row_ends() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    cli.ok("group create one");
    cli.ok("group create two");
    let mut agent = agent_in(&manager, "agent", &["one"]);
    let id = agent.id();
    let job = cli.id("job run --package tool --group one --on-leave uninstall");
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    agent.stop();
    cli.ok(&format!("group remove one {id}"));
    JobView::wait_for_row(&cli, &job, &id, "QUEUED");
    let other = cli.id("job run --package tool --group two");
    cli.ok(&format!("group add two {id}"));
    agent.start();
    JobView::wait_for_row(&cli, &other, &id, "ALREADY_INSTALLED");
    let left = JobView::wait_for_row(&cli, &job, &id, "CANCELED");
    assert_eq!((left.reason.as_str(), left.attempts), ("LEFT_GROUP", 1), "{left:?}");
    assert!(left.detail.contains("another job installs"), "{left:?}");
    assert!(there(&agent, "tool"));
}

#[test]
fn what_is_uninstalled_for_one_job_after_another_found_it_there_is_installed_again_for_that_one() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    cli.ok("group create one");
    cli.ok("group create two");
    let agent = agent_in(&manager, "agent", &["one"]);
    let id = agent.id();
    let job = cli.id("job run --package tool --group one --on-leave uninstall");
    let other = cli.id("job run --package tool --group two");
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    hold(&agent, true);
    cli.ok(&format!("group remove one {id}"));
    JobView::wait_for_row(&cli, &job, &id, "WAITING");
    cli.ok(&format!("group add two {id}"));
    JobView::wait_for_row(&cli, &other, &id, "ALREADY_INSTALLED");
    hold(&agent, false);
    JobView::wait_for_row(&cli, &job, &id, "CANCELED");
    let again = JobView::wait(&cli, &other, "it to be installed again", PATIENCE, |view| {
        view.row(&id).is_some_and(|row| row.state == "SUCCEEDED" && row.attempts == 2)
    });
    assert_eq!(again.row(&id).unwrap().json["driftCount"], 1);
    assert!(there(&agent, "tool"));
    assert!(cli.ok("audit list").contains(&format!("uninstalled for jobs/{job}")));
}

#[test]
fn of_two_jobs_that_take_back_what_they_installed_the_last_one_to_be_left_takes_it_in_either_order() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    cli.ok("group create one");
    cli.ok("group create two");
    for (name, order) in [("forth", ["one", "two"]), ("back", ["two", "one"])] {
        let agent = agent_in(&manager, name, &["one"]);
        let id = agent.id();
        let jobs = ["one", "two"].map(|group| {
            let all = cli.json("job list");
            let is_it = |job: &&serde_json::Value| job["destinations"][0] == format!("groups/{group}");
            match all.as_array().unwrap().iter().find(is_it) {
                Some(job) => job["name"].as_str().unwrap().trim_start_matches("jobs/").to_owned(),
                None => cli.id(&format!("job run --package tool --group {group} --on-leave uninstall")),
            }
        });
        JobView::wait_for_row(&cli, &jobs[0], &id, "SUCCEEDED");
        cli.ok(&format!("group add two {id}"));
        JobView::wait_for_row(&cli, &jobs[1], &id, "ALREADY_INSTALLED");
        cli.ok(&format!("group remove {} {id}", order[0]));
        assert!(there(&agent, "tool"), "{name}: the other job has it");
        cli.ok(&format!("group remove {} {id}", order[1]));
        let left = JobView::wait_for_row(&cli, &jobs[0], &id, "CANCELED");
        assert!(left.detail.contains("was uninstalled"), "{name}: {left:?}");
        assert!(!there(&agent, "tool"), "{name}");
    }
}

#[test]
fn whoever_leaves_while_a_retry_waits_loses_what_the_attempt_before_installed() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    pushed_bad(&cli, "bad");
    cli.ok("group create one");
    let agent = agent_in(&manager, "agent", &["one"]);
    let id = agent.id();
    let job = cli.id("job run --package tool --package bad --group one --on-leave uninstall");
    JobView::wait_for_row(&cli, &job, &id, "FAILED");
    assert!(there(&agent, "tool"));
    hold(&agent, true);
    cli.ok(&format!("job retry {job}"));
    JobView::wait_for_row(&cli, &job, &id, "WAITING");
    cli.ok(&format!("group remove one {id}"));
    JobView::wait(&cli, &job, "the uninstallation", PATIENCE, |view| {
        view.row(&id).is_some_and(|row| row.json["purpose"] == "LEAVE" && row.state == "WAITING")
    });
    hold(&agent, false);
    let left = JobView::wait_for_row(&cli, &job, &id, "CANCELED");
    assert!(left.detail.contains("was uninstalled") && !there(&agent, "tool"), "{left:?}");
}

#[test]
fn whoever_comes_back_and_leaves_again_while_the_machine_is_away_loses_it_all_the_same() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    cli.ok("group create one");
    let mut agent = agent_in(&manager, "agent", &["one"]);
    let id = agent.id();
    let job = cli.id("job run --package tool --group one --on-leave uninstall");
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    hold(&agent, true);
    cli.ok(&format!("group remove one {id}"));
    JobView::wait_for_row(&cli, &job, &id, "WAITING");
    agent.kill();
    cli.ok(&format!("group add one {id}"));
    cli.ok(&format!("group remove one {id}"));
    hold(&agent, false);
    agent.start();
    let left = JobView::wait_for_row(&cli, &job, &id, "CANCELED");
    assert!(left.detail.contains("was uninstalled") && !there(&agent, "tool"), "{left:?}");
}

#[test]
fn what_was_there_before_is_kept_too_and_is_not_found_missing_while_it_is_there() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    let mut agent = agent_in(&manager, "agent", &[]);
    let id = agent.id();
    let by_hand = agent.root().join("opt/tool");
    fs_err::create_dir_all(&by_hand).unwrap();
    fs_err::write(by_hand.join("version"), "by hand").unwrap();
    let job = cli.id(&format!("job run --package tool --client {id} --keep 1h"));
    JobView::wait_for_row(&cli, &job, &id, "ALREADY_INSTALLED");
    // What it was told with the attempt is gone with that, and with the process.
    wait_until("the attempt to be over", PATIENCE, || agent.status()["attempts"].as_array().unwrap().is_empty());
    agent.kill_and_start();
    wait_until("it to stand", PATIENCE, || JobView::of(&cli, &job).state == "ACTIVE");
    let asked = |manager: &Manager| manager.metric("sutler_checks_total").unwrap_or_default();
    let at = |manager: &mut Manager, clock: &str| {
        manager.kill();
        manager.within(&programs::by_clock(clock));
        manager.serve();
    };
    at(&mut manager, "+61m");
    wait_until("the machine to be asked", PATIENCE, || asked(&manager) > 0.0);
    at(&mut manager, "+122m");
    wait_until("the machine to be asked again", PATIENCE, || asked(&manager) > 0.0);
    let row = JobView::of(&cli, &job).row(&id).cloned().unwrap();
    assert_eq!((row.state.as_str(), row.attempts), ("ALREADY_INSTALLED", 1), "all is well");
    fs_err::remove_dir_all(&by_hand).unwrap();
    at(&mut manager, "+190m");
    let view = JobView::wait(&cli, &job, "the drift to be mended", PATIENCE, |view| {
        view.row(&id).is_some_and(|row| row.state == "SUCCEEDED" && row.attempts == 2)
    });
    assert_eq!(view.row(&id).unwrap().json["driftCount"], 1);
    assert_eq!(agent.read("opt/tool/version").as_deref(), Some("1.0"));
}

#[test]
fn a_rollback_puts_back_what_a_failed_attempt_installed_and_names_who_is_in_the_middle_of_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    pushed_bad(&cli, "bad");
    let slow = PackageFolder::with("slow", "1.0", "[[step]]\nname = \"install\"\nargv = [\"bin/wait\"]\n");
    slow.file("bin/wait", "#!/bin/sh\nwhile [ ! -e \"$PWD/../go\" ]; do sleep 0.1; done\n");
    cli.ok(&format!("package push {}", slow.path().display()));
    cli.ok("group create one");
    let failed = agent_in(&manager, "failed", &["one"]);
    let job = cli.id("job run --package tool --package bad --group one");
    JobView::wait_for_row(&cli, &job, &failed.id(), "FAILED");
    assert!(there(&failed, "tool"));
    let said = || cli.ok(&format!("job rollback {job} --dry-run"));
    wait_until("the machine to say what it has", PATIENCE, || said().contains("take off tool@1.0, for it was not there: 1 client"));
    let back = cli.id(&format!("job rollback {job} --yes"));
    JobView::wait_for_row(&cli, &back, &failed.id(), "SUCCEEDED");
    assert!(!there(&failed, "tool"));

    let busy = agent_in(&manager, "busy", &[]);
    let long = cli.id(&format!("job run --package slow --client {}", busy.id()));
    JobView::wait_for_row(&cli, &long, &busy.id(), "INSTALLING");
    let said = cli.ok(&format!("job rollback {long} --dry-run"));
    assert!(said.contains("it is INSTALLING now; roll the job back once more"), "{said}");
    fs_err::write(busy.root().join("opt/go"), "").unwrap();
    JobView::wait_for_row(&cli, &long, &busy.id(), "SUCCEEDED");
}

#[test]
fn a_group_that_a_draft_excludes_is_not_deleted_by_the_way() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    cli.ok("group create all");
    cli.ok("group create servers");
    let draft = cli.id("job create --package tool --group all --exclude-group servers");
    cli.fails(1, "group delete servers").says(&[&draft, "DRAFT", "--force"]);
    assert_eq!(cli.json(&format!("job show {draft}"))["exclusions"][0], "groups/servers");
}

#[test]
fn what_was_uninstalled_after_a_backup_is_known_as_that_by_the_restored_manager() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    cli.ok("group create one");
    let agent = agent_in(&manager, "agent", &["one"]);
    let id = agent.id();
    let job = cli.id("job run --package tool --group one --on-leave uninstall");
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    let backup = manager.scratch().join("backup");
    cli.ok(&format!("backup --dir {} {}", manager.folder().display(), backup.display()));
    // After the backup it leaves, and what the job installed is uninstalled.
    cli.ok(&format!("group remove one {id}"));
    JobView::wait_for_row(&cli, &job, &id, "CANCELED");
    assert!(!there(&agent, "tool"));
    manager.kill();
    fs_err::rename(manager.folder(), manager.scratch().join("lost")).unwrap();
    cli.ok(&format!("restore {} --dir {}", backup.display(), manager.folder().display()));
    manager.serve();
    // By what the manager knows the client is in the group: what was uninstalled is installed again.
    let view = JobView::wait(&cli, &job, "it to be installed again", PATIENCE, |view| {
        view.row(&id).is_some_and(|row| row.state == "SUCCEEDED" && row.attempts == 3)
    });
    assert!(there(&agent, "tool"), "{view:#?}");
}

#[test]
fn a_job_that_excluded_a_group_which_is_no_more_is_not_run_again() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool");
    cli.ok("group create all");
    cli.ok("group create servers");
    let (desk, server) = (agent_in(&manager, "desk", &["all"]), agent_in(&manager, "server", &["all", "servers"]));
    let job = cli.id("job run --package tool --group all --exclude-group servers");
    JobView::wait_for_row(&cli, &job, &desk.id(), "SUCCEEDED");
    cli.ok(&format!("job cancel {job} --yes"));
    // Nobody is in its way: the job has ended.
    cli.ok("group delete servers");
    cli.fails(1, &format!("job retry {job} --expires 1h")).says(&["a group that was deleted", "job clone"]);
    assert_eq!(JobView::of(&cli, &job).state, "CANCELED");
    assert!(!there(&server, "tool"));
    // Another group of that name is not that group.
    cli.ok("group create servers");
    cli.fails(1, &format!("job retry {job} --expires 1h")).says(&["a group that was deleted"]);
    // One whose exclusions are there is.
    cli.ok(&format!("group add servers {}", server.id()));
    let other = cli.id("job run --package tool --group all --exclude-group servers");
    JobView::wait_for_row(&cli, &other, &desk.id(), "ALREADY_INSTALLED");
    cli.ok(&format!("job cancel {other} --yes"));
    cli.ok(&format!("job retry {other} --expires 1h"));
    assert_eq!(JobView::of(&cli, &other).state, "ACTIVE");
    assert!(JobView::of(&cli, &other).row(&server.id()).is_none() && !there(&server, "tool"));
}
