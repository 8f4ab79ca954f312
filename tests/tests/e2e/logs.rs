//! The log files that a package names, of what failed: their ends come to whoever has to find out why.

use sutler_tests::harness::{Agent, Cli, JobView, Manager, PackageFolder, Setup};

/// A package that names these log files and fails after this script.
fn failing(cli: &Cli, name: &str, logs: &str, script: &str) -> PackageFolder {
    let package = PackageFolder::with(name, "1.0", "[[step]]\nname = \"install\"\nargv = [\"bin/install\"]\n");
    package.replace("directory =", &format!("logs = {logs}\ndirectory ="));
    package.file("bin/install", format!("#!/bin/sh\n{script}\nexit 3\n"));
    cli.ok(&format!("package push {}", package.path().display()));
    package
}

fn fail(cli: &Cli, package: &str, agent: &Agent) -> String {
    let job = cli.id(&format!("job run --package {package} --client {}", agent.id()));
    let row = JobView::wait_for_end(cli, &job, &agent.id());
    assert_eq!(row.state, "FAILED", "{}", row.detail);
    job
}

#[test]
fn the_ends_of_the_log_files_that_a_package_names_come_to_the_operator_when_it_fails() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    let logs = agent.root().join("var/log/tool");
    fs_err::create_dir_all(&logs).unwrap();
    fs_err::write(agent.root().join("etc/secret"), "the secret").unwrap();
    std::os::unix::fs::symlink("../../../etc/secret", logs.join("link.log")).unwrap();
    // The tree is put back when it fails: what is in it then is not what it wrote.
    let script = "echo why it failed >install.log\n\
                  { echo its begin; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo its end; } >../../var/log/tool/big.log";
    let named = "[\"install.log\", \"/var/log/tool/big.log\", \"/var/log/tool/link.log\", \"/var/log/tool/none.log\", \"/var/log/tool\"]";
    failing(&cli, "tool", named, script);
    let job = fail(&cli, "tool", &agent);
    let line = format!("job logs {job} --client {}", agent.id());
    let text = cli.ok(&line);
    let short = "tool@1.0, install.log:\nwhy it failed\n\n";
    assert!(text.contains(short), "{}", text.chars().take(300).collect::<String>());
    let (_, big) = text.split_once("tool@1.0, /var/log/tool/big.log (its end; ").unwrap();
    let (cut, end) = big.split_once(" bytes before it were not kept):\n").unwrap();
    let (end, _) = end.split_once("tool@1.0, install.log:").unwrap();
    assert!(end.starts_with('x') && end.ends_with("x\nits end\n\n"), "the end of it, and nothing after");
    let whole = 3_000_000 + "its begin\n\nits end\n".len();
    assert_eq!(cut.parse::<usize>().unwrap() + end.len() - 1, whole);
    assert_eq!(end.len() - 1 + "why it failed\n".len(), 1 << 20, "as much as may be, together");
    assert!(!text.contains("secret"), "a link is not followed");
    let shown = cli.json(&format!("job executions {job} --client {}", agent.id()));
    let of_attempt = &shown["attempts"][0]["logs"];
    assert_eq!(of_attempt.as_array().map(Vec::len), Some(2), "{of_attempt:#}");
    assert_eq!((&of_attempt[1]["path"], &of_attempt[1]["keptBytes"]), (&"install.log".into(), &"14".into()), "{of_attempt:#}");
    assert!(cli.ok(&format!("job executions {job} --client {}", agent.id())).contains("/var/log/tool/big.log, 1.0 MiB (sutler job logs)"));
    // Where nothing failed, there is nothing to see; and another try has logs of its own.
    let good = PackageFolder::counting("good", "1.0");
    cli.ok(&format!("package push {}", good.path().display()));
    let fine = cli.id(&format!("job run --package good --client {}", agent.id()));
    JobView::wait_for_row(&cli, &fine, &agent.id(), "SUCCEEDED");
    cli.fails(1, &format!("job logs {fine} --client {}", agent.id())).says(&["there is no log"]);
    cli.ok(&format!("job retry {job} --kind error"));
    JobView::wait(&cli, &job, "the second try", sutler_tests::harness::PATIENCE, |view| {
        view.row(&agent.id()).is_some_and(|row| row.attempts == 2 && row.state == "FAILED")
    });
    assert!(cli.ok(&format!("{line} --attempt 2")).contains(short) && cli.ok(&format!("{line} --attempt 1")).contains(short));
    cli.fails(1, &format!("{line} --attempt 3")).says(&["there is no log", "attempt 3"]);
}

#[test]
fn of_the_logs_of_what_failed_the_oldest_go_first() {
    let manager = Manager::start_with(Setup { config: "[limits]\nlogs = \"700KiB\"\n".into(), ..Setup::default() });
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    for (name, kib) in [("first", 300), ("second", 300), ("third", 300), ("huge", 900)] {
        failing(&cli, name, "[\"log\"]", &format!("head -c {} /dev/zero >log", kib << 10));
    }
    let jobs: Vec<_> = ["first", "second", "third"].map(|name| fail(&cli, name, &agent)).into();
    let kept = |job: &str| {
        let shown = cli.json(&format!("job executions {job} --client {}", agent.id()));
        shown["attempts"][0]["logs"][0]["keptBytes"].as_str().map(String::from)
    };
    let all = (300 << 10).to_string();
    assert_eq!([&jobs[0], &jobs[1], &jobs[2]].map(|job| kept(job)), [None, Some(all.clone()), Some(all)]);
    // One that is larger than all that is kept has an outcome all the same.
    let job = fail(&cli, "huge", &agent);
    assert_eq!(kept(&job), None);
    assert!(manager.log().contains("limits.logs keeps 716800 bytes of all logs"), "{}", manager.log());
}
