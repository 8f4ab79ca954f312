//! Publishers: their keys, whom the machines trust, and what was signed and is taken back.

use sutler_tests::harness::{Agent, JobView, Manager, PATIENCE, PackageFolder, Setup, Terminal, wait_until};

#[test]
fn a_publishers_key_is_encrypted_with_its_passphrase_and_signs_with_it_alone() {
    let manager = Manager::start();
    let cli = manager.cli();
    let key = cli.profile().join("publisher.key");
    let secret = manager.scratch().join("passphrase");
    let wrong = manager.scratch().join("wrong");
    fs_err::write(&secret, "correct horse battery\n").unwrap();
    fs_err::write(&wrong, "correct house battery\n").unwrap();
    let before = cli.json("publisher show");
    cli.ok(&format!("publisher passphrase --new-passphrase-file {}", secret.display()));
    assert!(fs_err::read_to_string(&key).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let package = PackageFolder::counting("hello", "1.0");
    let push = format!("package push {}", package.path().display());
    cli.fails(1, &push).says(&["encrypted", "no terminal", "--passphrase-file"]);
    cli.fails(1, &format!("{push} --passphrase-file {}", wrong.display())).says(&["the passphrase is wrong"]);
    assert_eq!(cli.json("package list"), serde_json::json!([]));
    cli.ok(&format!("{push} --passphrase-file {}", secret.display()));
    assert_eq!(cli.json(&format!("publisher show --passphrase-file {}", secret.display())), before, "it is the same key");
    // Without any again, and a new one beside it that is never overwritten.
    cli.ok(&format!("publisher passphrase --no-passphrase --passphrase-file {}", secret.display()));
    assert_eq!(cli.json("publisher show"), before);
    let second = manager.scratch().join("second.key");
    cli.ok(&format!("publisher new {} --passphrase-file {}", second.display(), secret.display()));
    cli.fails(1, &format!("publisher new {} --no-passphrase", second.display())).says(&["exists already", "never overwritten"]);
    fs_err::write(&wrong, "short\n").unwrap();
    let third = manager.scratch().join("third.key");
    cli.fails(2, &format!("publisher new {} --passphrase-file {}", third.display(), wrong.display())).says(&["too short"]);
    assert!(!third.exists());
    // Where nobody can be asked it is left open, and said so.
    let done = cli.run(&format!("publisher new {}", third.display()));
    assert!(third.exists() && !done.clone().ok().is_empty());
    done.says(&["is not encrypted", "no terminal"]);
}

#[test]
fn at_a_terminal_a_passphrase_is_asked_for_and_nothing_of_it_is_shown() {
    let manager = Manager::start();
    let cli = manager.cli();
    let file = manager.scratch().join("publisher.key").display().to_string();
    let (new, again) = (format!("Passphrase for the publisher's key {file}"), "The same again: ");
    let typed = ["seven77", "correct horse battery", "correct house battery"];
    // Too short, and mistyped; the third time it is one.
    let Some(mut terminal) = Terminal::run(&cli.command(&["publisher", "new", &file])) else { return };
    terminal.answer(&new, typed[0]);
    terminal.answer(&new, typed[1]);
    terminal.answer(again, typed[2]);
    terminal.answer(&new, typed[1]);
    terminal.answer(again, typed[1]);
    let mut shown = terminal.ended().ok();
    assert!(shown.contains("too short") && shown.contains("two different ones"), "{shown}");
    assert!(fs_err::read_to_string(&file).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    // Whoever uses the key is asked, and has to know.
    for (passphrase, code) in [(typed[1], 0), (typed[2], 1)] {
        let mut terminal = Terminal::run(&cli.command(&["publisher", "show", "--publisher-key", &file])).expect("there was one");
        terminal.answer(&format!("Passphrase of the publisher's key {file}: "), passphrase);
        let done = terminal.ended().ends_with(code);
        assert_eq!(done.stdout.contains("the passphrase is wrong"), code != 0, "{}", done.stdout);
        shown += &done.stdout;
    }
    // Three times is enough, and then there is no key.
    let other = format!("{file}.2");
    let mut terminal = Terminal::run(&cli.command(&["publisher", "new", &other])).expect("there was one");
    (0..3).for_each(|_| terminal.answer("Passphrase for", typed[0]));
    shown += &terminal.ended().ends_with(1).stdout;
    assert!(!std::path::Path::new(&other).exists());
    assert!(!typed.iter().any(|typed| shown.contains(typed)), "{shown}");
    // Who gives up with Ctrl-C makes no key, and can see again what is typed.
    let give_up = cli.command(&["publisher", "new", &other]);
    let words: Vec<_> = std::iter::once(give_up.get_program()).chain(give_up.get_args()).map(|w| w.to_string_lossy()).collect();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("{}; echo ended with $?; stty -a", words.join(" "))]);
    shell.envs(give_up.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut terminal = Terminal::run(&shell).expect("there was one");
    terminal.answer("Passphrase for", "\u{3}");
    let shown = terminal.ended().ok();
    let is_set = |mode: &str| shown.split_whitespace().any(|word| word == mode);
    assert!(shown.contains("ended with 1") && is_set("echo") && is_set("isig"), "{shown}");
    assert!(!std::path::Path::new(&other).exists());
}

#[test]
fn the_end_of_the_trust_document_is_said_two_weeks_ahead_and_whoever_waits_for_a_newer_one_goes_on_with_it() {
    // As long as can be until a manager looks for what was published elsewhere.
    let manager = Manager::start_with(Setup { config: "[limits]\nrecheck = \"5s\"".into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let next = PackageFolder::counting("next", "1.0");
    cli.ok(&format!("package push {}", next.path().display()));
    cli.ok("group create machines");
    let job = cli.id("job run --package hello --group machines");
    let agent = Agent::enrolled("one", &manager);
    let mut number = 1;
    let mut holds = |until: &str| {
        number += 1;
        let file = manager.scratch().join(format!("trust-{number}.json")).display().to_string();
        cli.ok(&format!("publisher rotate --expires {until} -o {file}"));
        cli.ok(&format!("publisher publish {file}"));
    };
    let said = || {
        let shown = JobView::of(&cli, &job).json;
        ["unavailable", "unavailableSoon"].map(|key| shown[key].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(said(), ["", ""], "it holds for long");
    holds("10d");
    let [now, soon] = said();
    assert!(now.is_empty() && soon.starts_with("hello@1.0: the publishers' trust document holds until "), "{now} {soon}");
    let told = cli.fails(34, &format!("job status {job}")).stdout;
    assert!(told.contains("in 14 days no client can start it any more") && told.contains("publisher rotate"), "{told}");
    holds("20d");
    assert_eq!(said(), ["", ""], "it holds for longer than that");

    // Long enough for a slow machine to publish it.
    holds("10s");
    wait_until("the document to have ended", PATIENCE, || !said()[0].is_empty());
    let [now, soon] = said();
    assert!(now.contains("trust document holds until ") && soon.is_empty(), "{now} {soon}");
    cli.ok(&format!("group add machines {}", agent.id()));
    let view = JobView::wait(&cli, &job, "the row to say that it waits", PATIENCE, |view| {
        view.row(&agent.id()).is_some_and(|row| row.state == "QUEUED" && row.reason == "PACKAGE_UNAVAILABLE")
    });
    assert_eq!(view.row(&agent.id()).unwrap().attempts, 0, "nothing was offered, and so nothing refused");

    // Nothing is offered because of a document that the agent was not handed on before, however soon somebody asks for it.
    holds("30d");
    let next = cli.id(&format!("job run --package next --client {}", agent.id()));
    JobView::wait_for_row(&cli, &next, &agent.id(), "SUCCEEDED");
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!((row.attempts, said()), (1, [String::new(), String::new()]));
}

#[test]
fn keys_are_rotated_and_versions_taken_back_on_machines_that_are_connected_and_on_those_that_come_later() {
    let manager = Manager::start();
    let cli = manager.cli();
    let file = |name: &str| manager.scratch().join(name).display().to_string();
    let (one, two) = (Agent::enrolled("one", &manager), cli.ok("token create"));
    let package = |name: &str| PackageFolder::counting(name, "1.0");
    let (old, new, bad) = (package("old"), package("new"), package("bad"));
    cli.ok(&format!("package push {}", old.path().display()));
    cli.ok(&format!("package push {}", bad.path().display()));
    // A second key, made elsewhere; both must sign from now on.
    cli.ok(&format!("publisher new {} --no-passphrase", file("second.key")));
    let key = cli.json(&format!("publisher show --publisher-key {}", file("second.key")));
    let public = key[0]["publicKey"].as_str().expect("the key is shown").to_owned();
    let trust = file("trust-2.json");
    let done = cli.ok(&format!("publisher rotate --add-key {public} --threshold 2 -o {trust}"));
    assert!(done.contains("1 of its own keys"), "{done}");
    cli.fails(1, &format!("publisher verify {trust}")).says(&["1 of its own keys", "2 are needed"]);
    cli.fails(1, &format!("publisher publish {trust}")).says(&["1 of its own keys"]);
    cli.ok(&format!("publisher sign {trust} --publisher-key {}", file("second.key")));
    cli.ok(&format!("publisher verify {trust}"));
    cli.ok(&format!("publisher publish {trust}"));
    wait_until("the agent to take the new document", PATIENCE, || one.ok("status").contains("trust document 2"));
    // One signature is not enough any more, neither for the manager nor for the agent.
    cli.fails(1, &format!("package push {}", new.path().display())).says(&["1 trusted publishers", "2 are needed"]);
    let bundle = file("new.jsonl");
    cli.ok(&format!("publisher sign {} -o {bundle}", new.path().display()));
    cli.fails(1, &format!("publisher verify {bundle}")).says(&["2 are needed"]);
    cli.ok(&format!("publisher sign {bundle} --publisher-key {}", file("second.key")));
    cli.ok(&format!("publisher verify {bundle}"));
    let job = cli.id(&format!("job run --package old --client {}", one.id()));
    let row = JobView::wait_for_row(&cli, &job, &one.id(), "FAILED");
    assert!(row.json.to_string().contains("SIGNATURE_INVALID"), "{}", row.json);
    // Back to one of two; then a version is taken back.
    let trust = file("trust-3.json");
    let keys = format!("--publisher-key {} --publisher-key {}", cli.profile().join("publisher.key").display(), file("second.key"));
    cli.ok(&format!("publisher rotate --threshold 1 {keys} -o {trust}"));
    cli.ok(&format!("publisher publish {trust}"));
    let list = file("revocations.json");
    cli.ok(&format!("publisher revoke --package bad@1.0 --reason 'CVE 1' -o {list}"));
    cli.ok(&format!("publisher publish {list}"));
    wait_until("the agent to take the list", PATIENCE, || one.ok("status").contains("revocation list 1"));
    let job = cli.id(&format!("job run --package bad --client {}", one.id()));
    wait_until("the job to say that it can't be delivered", PATIENCE, || cli.ok(&format!("job show {job}")).contains("CVE 1"));
    cli.fails(2, &format!("publisher publish {trust}x"));
    // Who enrols with a token from before gets there, too: from the document that its token pins, step by step.
    let mut later = Agent::new("two");
    later.enroll(two.trim());
    later.start();
    wait_until("the newcomer to be told all of it", PATIENCE, || {
        let status = later.ok("status");
        status.contains("trust document 3") && status.contains("revocation list 1")
    });
    let job = cli.id(&format!("job run --package old --client {}", later.id()));
    JobView::wait_for_row(&cli, &job, &later.id(), "SUCCEEDED");
    assert_eq!(one.read("opt/bad.runs"), None);
}
