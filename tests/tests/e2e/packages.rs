//! What packages do on their way and where they arrive.

use std::process::Command;
use sutler_tests::harness::{Agent, JobView, Manager, PATIENCE, PackageFolder};
use sutler_tests::tools;

#[test]
fn two_packages_of_a_job_are_installed_in_their_order() {
    let manager = Manager::start();
    let cli = manager.cli();
    // The second needs what the first has made.
    let base = PackageFolder::counting("base", "2.1");
    let tool =
        PackageFolder::with("tool", "1.0", "[[step]]\nname = \"needs base\"\nargv = [\"/usr/bin/test\", \"-e\", \"../base.runs\"]\n");
    tool.file("data", "x");
    cli.ok(&format!("package push {}", base.path().display()));
    cli.ok(&format!("package push {}", tool.path().display()));
    let (one, other) = (Agent::enrolled("one", &manager), Agent::enrolled("other", &manager));
    let good = cli.id(&format!("job run --package base --package tool --client {}", one.id()));
    let row = JobView::wait_for_row(&cli, &good, &one.id(), "SUCCEEDED");
    let items: Vec<_> = row.json["items"].as_array().unwrap().iter().map(|item| item["package"].as_str().unwrap().to_owned()).collect();
    assert_eq!(items, ["packages/base/versions/2.1", "packages/tool/versions/1.0"]);
    // The other way round the first fails, and ends it: the second is not tried.
    let bad = cli.id(&format!("job run --package tool --package base --client {}", other.id()));
    JobView::wait_for_row(&cli, &bad, &other.id(), "FAILED");
    assert!(!other.root().join("opt/base.runs").exists());
    // Unless the job says to go on.
    let on = cli.id(&format!("job run --package tool --package base --continue-on-failure --client {}", other.id()));
    JobView::wait_for_row(&cli, &on, &other.id(), "FAILED");
    assert_eq!(other.read("opt/base.runs").as_deref(), Some("run\n"));
    // The retry skips what succeeded.
    cli.ok(&format!("job retry {on}"));
    JobView::wait_for_row(&cli, &on, &other.id(), "SUCCEEDED");
    assert_eq!(other.read("opt/base.runs").as_deref(), Some("run\n"));
}

#[test]
fn what_is_there_already_is_not_installed_again_unless_the_job_says_so() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("one", &manager);
    let runs = |words: &str, state: &str| {
        let job = cli.id(&format!("job run --package hello --client {} {words}", agent.id()));
        JobView::wait_for_row(&cli, &job, &agent.id(), state);
        agent.read("opt/hello.runs").unwrap_or_default().lines().count()
    };
    assert_eq!(runs("", "SUCCEEDED"), 1);
    assert_eq!(runs("", "ALREADY_INSTALLED"), 1);
    assert_eq!(runs("--replace always", "SUCCEEDED"), 2);
}

#[test]
fn a_new_version_replaces_the_old_tree_and_fetches_only_what_is_new() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::with("data", "1.0", "");
    package.noise("large", 8 << 20, 1);
    package.file("old", "only in 1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create machines");
    let agent = Agent::enrolled("one", &manager);
    cli.ok(&format!("group add machines {}", agent.id()));
    let first = cli.id("job run --package data --group machines");
    let row = JobView::wait_for_row(&cli, &first, &agent.id(), "SUCCEEDED");
    assert!(bytes(&row.json["items"][0], "fetchedBytes") >= 8 << 20);

    package.replace("\"1.0\"", "\"1.1\"");
    package.append("release = 4102444800\n");
    let toml = fs_err::read_to_string(package.toml()).unwrap();
    let (head, _) = toml.split_once("\nrelease").unwrap();
    fs_err::write(package.toml(), format!("release = 4102444800\n{head}")).unwrap();
    fs_err::remove_file(package.files().join("old")).unwrap();
    package.file("new", "only in 1.1");
    cli.ok(&format!("package push {}", package.path().display()));
    // The old job stands for 1.0, which it had pinned; a second one for the same package and group has to replace it.
    cli.fails(1, "job run --package data --group machines");
    let second = cli.id(&format!("job run --package data --group machines --replaces {first}"));
    let row = JobView::wait_for_row(&cli, &second, &agent.id(), "SUCCEEDED");
    assert!(bytes(&row.json["items"][0], "fetchedBytes") < 1 << 20, "{:#}", row.json);
    assert_eq!(agent.read("opt/data/new").as_deref(), Some("only in 1.1"));
    assert_eq!(agent.read("opt/data/old"), None);
    assert_eq!(JobView::of(&cli, &first).state, "CANCELED");
}

fn bytes(item: &serde_json::Value, field: &str) -> u64 {
    let value = &item[field];
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

#[test]
fn a_job_pins_the_newest_version_of_the_time_of_its_run() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {} --release 1", package.path().display()));
    cli.ok("group create machines");
    let out = cli.ok("job run --package hello --group machines");
    assert!(out.contains("1.0"), "{out}");
    let job = out.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    package.replace("\"1.0\"", "\"2.0\"");
    cli.ok(&format!("package push {} --release 2", package.path().display()));
    let agent = Agent::enrolled("one", &manager);
    cli.ok(&format!("group add machines {}", agent.id()));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!(row.json["items"][0]["package"], "packages/hello/versions/1.0");
}

#[test]
fn a_package_is_not_installed_before_its_publisher_allows_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    for (name, from, state) in [("begun", "2020-01-01T00:00:00Z", "SUCCEEDED"), ("to-come", "2100-01-01T00:00:00Z", "FAILED")] {
        let package = PackageFolder::counting(name, "1.0");
        package.replace("version =", &format!("not_before = {from}\nversion ="));
        cli.ok(&format!("package push {}", package.path().display()));
        let job = cli.id(&format!("job run --package {name} --client {}", agent.id()));
        let row = JobView::wait_for_end(&cli, &job, &agent.id());
        assert_eq!(row.state, state, "{row:#?}");
        if state == "FAILED" {
            assert_eq!(row.reason, "PACKAGE_EXPIRED", "{row:#?}");
            assert!(row.json.to_string().contains(from), "{row:#?}");
        }
    }
    assert_eq!((agent.read("opt/begun.runs").as_deref(), agent.read("opt/to-come.runs")), (Some("run\n"), None));
}

#[test]
fn a_package_for_other_machines_is_rejected_and_not_counted_as_an_error() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::with("foreign", "1.0", "[platform]\nos = \"linux\"\narch = \"riscv128\"\n");
    package.file("data", "x");
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("one", &manager);
    let job = cli.id(&format!("job run --package foreign --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "REJECTED");
    let view = JobView::wait(&cli, &job, "the counters", PATIENCE, |view| view.count("rejected") == 1);
    assert_eq!(view.counters(), "total=1 rejected=1");
    cli.fails(0, &format!("job status {job}"));
    assert!(!agent.root().join("opt/foreign").exists());
}

#[test]
fn a_withdrawn_version_is_offered_to_nobody_until_it_is_reinstated_and_a_job_says_so() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {} --release 1", package.path().display()));
    package.replace("\"1.0\"", "\"2.0\"");
    cli.ok(&format!("package push {} --release 2", package.path().display()));
    cli.ok("group create pinned");
    cli.ok("group create following");
    let pinned = cli.id("job run --package hello@2.0 --group pinned");
    let following = cli.id("job run --package hello@latest --group following");
    let [one, other, third] = ["one", "other", "third"].map(|name| Agent::enrolled(name, &manager));
    cli.ok("package withdraw hello@2.0 --reason 'crashes on start'");
    cli.ok(&format!("group add pinned {}", one.id()));
    cli.ok(&format!("group add following {}", other.id()));
    // Who follows the newest version gets the newest that is left.
    let row = JobView::wait_for_row(&cli, &following, &other.id(), "SUCCEEDED");
    assert_eq!(row.json["items"][0]["package"], "packages/hello/versions/1.0");
    let view = JobView::wait(&cli, &pinned, "the job to say why it waits", PATIENCE, |view| {
        view.row(&one.id()).is_some_and(|row| row.state == "QUEUED" && row.reason == "PACKAGE_UNAVAILABLE")
    });
    assert!(view.json["unavailable"].as_str().unwrap().contains("crashes on start"), "{:#}", view.json);
    cli.fails(1, &format!("job run --package hello@2.0 --client {}", third.id())).says(&["was withdrawn (crashes on start)"]);
    let newest = cli.id(&format!("job run --package hello --client {}", third.id()));
    let row = JobView::wait_for_row(&cli, &newest, &third.id(), "SUCCEEDED");
    assert_eq!(row.json["items"][0]["package"], "packages/hello/versions/1.0");

    cli.ok("package reinstate hello@2.0");
    let row = JobView::wait_for_row(&cli, &pinned, &one.id(), "SUCCEEDED");
    assert_eq!(row.json["items"][0]["package"], "packages/hello/versions/2.0");
    // Where that is asked for, what has not started is canceled.
    let off = Agent::new("off");
    off.enroll(cli.ok("token create").trim());
    cli.ok(&format!("group add pinned {}", off.id()));
    cli.ok("package withdraw hello@2.0 --cancel");
    let row = JobView::wait_for_row(&cli, &pinned, &off.id(), "CANCELED");
    assert_eq!(row.reason, "WITHDRAWN");
}

#[test]
fn that_a_version_can_soon_not_be_delivered_any_more_is_said_two_weeks_ahead() {
    let manager = Manager::start();
    let cli = manager.cli();
    let now = jiff::Timestamp::now();
    let in_days = |days: i64| now.checked_add(jiff::SignedDuration::from_hours(24 * days)).unwrap();
    let job = |name: &str, expires: jiff::Timestamp| {
        let package = PackageFolder::with(name, "1.0", &format!("expires = \"{expires}\"\n"));
        package.file("data", "x");
        // A key after the head of the file would belong to a table.
        cli.ok(&format!("package push {}", package.path().display()));
        cli.ok(&format!("group create {name}s"));
        JobView::of(&cli, &cli.id(&format!("job run --package {name} --group {name}s"))).json
    };
    let soon = job("short", in_days(10));
    assert!(soon["unavailableSoon"].as_str().unwrap().contains("may not be installed after"), "{soon:#}");
    assert!(soon["unavailable"].as_str().unwrap_or_default().is_empty());
    assert!(job("long", in_days(20))["unavailableSoon"].as_str().unwrap_or_default().is_empty());
}

/// Runs what is appended to it in a mount namespace of its own, in which the file that is `$0` says which boot it is.
const IN_A_BOOT: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";

#[test]
fn a_step_that_asks_for_a_hard_reboot_holds_its_package_up_until_the_machine_was_booted() {
    let manager = Manager::start();
    let boot = manager.scratch().join("boot");
    let boot_is = |id: &str| fs_err::write(&boot, format!("{id}\n")).unwrap();
    boot_is("5b1f0a52-0000-4000-8000-000000000001");
    let path = boot.display().to_string();
    let within = ["unshare", "--mount", "--propagation", "private", "sh", "-c", IN_A_BOOT, &path];
    if !Command::new(within[0]).args(&within[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        tools::skip("needs the right to give a machine another boot id (unshare --mount)");
        return;
    }
    let cli = manager.cli();
    let package = PackageFolder::with("driver", "1.0", "");
    package.file("bin/load", "#!/bin/sh\necho run >>\"$(pwd -P).loaded\"\nexit 101\n");
    package.file("bin/use", "#!/bin/sh\necho run >>\"$(pwd -P).used\"\n");
    package.append(
        "[[step]]\nname = \"load\"\nargv = [\"bin/load\"]\nexit_codes = { 0 = \"success\", 101 = \"reboot_hard\" }\n\n\
         [[step]]\nname = \"use\"\nargv = [\"bin/use\"]\n",
    );
    let other = PackageFolder::counting("other", "1.0");
    for package in [&package, &other] {
        cli.ok(&format!("package push {}", package.path().display()));
    }
    let mut agent = Agent::new("one");
    agent.enroll(cli.ok("token create").trim());
    agent.within(&within);
    agent.start();
    let id = agent.id();
    let ran = |agent: &Agent| ["loaded", "used"].map(|step| agent.read(&format!("opt/driver.{step}")));
    let once = || Some("run\n".to_owned());
    let job = cli.id(&format!("job run --package driver --client {id}"));
    let row = JobView::wait_for_row(&cli, &job, &id, "WAITING");
    assert_eq!((row.reason.as_str(), ran(&agent)), ("REBOOT", [once(), None]), "{row:#?}");

    // An agent that is started again is no machine that was booted. What has begun keeps its turn meanwhile.
    agent.kill_and_start();
    let next = cli.id(&format!("job run --package other --client {id}"));
    let row = JobView::wait_for_row(&cli, &next, &id, "WAITING");
    assert_eq!(row.reason, "TURN", "{row:#?}");
    let row = JobView::of(&cli, &job).row(&id).cloned().expect("it is there");
    assert_eq!((row.state.as_str(), row.reason.as_str(), ran(&agent)), ("WAITING", "REBOOT", [once(), None]), "{row:#?}");

    agent.kill();
    boot_is("5b1f0a52-0000-4000-8000-000000000002");
    agent.start();
    let row = JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    assert_eq!((row.attempts, ran(&agent)), (1, [once(), once()]), "{row:#?}");
    JobView::wait_for_row(&cli, &next, &id, "SUCCEEDED");
}

#[test]
fn packages_without_files_are_installed_without_a_question_for_bytes_as_long_as_their_manifests_are_small() {
    let manager = Manager::start();
    let cli = manager.cli();
    // Manifests of a bit more than `argument` bytes.
    let push = |name: &str, argument: usize| {
        let package = PackageFolder::empty(name);
        let text = fs_err::read_to_string(package.toml()).unwrap();
        let argv = format!("argv = [\"/bin/true\", \"{}\"]", "x".repeat(argument));
        fs_err::write(package.toml(), text.replace("argv = [\"/bin/true\"]", &argv)).unwrap();
        cli.ok(&format!("package push {}", package.path().display()));
        format!(" --package {name}")
    };
    let agent = Agent::enrolled("machine", &manager);
    let asked = |packages: String| {
        let before = manager.metric("sutler_chunks_bytes_total").unwrap();
        let job = cli.id(&format!("job run{packages} --client {}", agent.id()));
        JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
        manager.metric("sutler_chunks_bytes_total").unwrap() > before
    };
    assert!(!asked((0..8).map(|n| push(&format!("small-{n}"), 15 << 10)).collect()), "they came with the offer");
    assert!(asked(push("large", 16 << 10)), "one of more than 16 KiB does not");
    assert!(asked((0..9).map(|n| push(&format!("many-{n}"), 15 << 10)).collect()), "nor do all of more than 128 KiB");
}
