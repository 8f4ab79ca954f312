//! What a package says about the machine, about values and about the way back, and what an agent does with it.

use sutler_tests::harness::{Agent, Cli, JobView, Manager, PackageFolder};

/// A package that is pushed.
fn pushed(cli: &Cli, name: &str, version: &str, text: &str) -> PackageFolder {
    let package = PackageFolder::with(name, version, text);
    package.file("data", version);
    cli.ok(&format!("package push {}", package.path().display()));
    package
}

#[test]
fn a_client_that_lacks_what_a_package_requires_rejects_it_with_what_was_wanted_and_what_was_found() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "base", "1.5", "");
    let text = "[[requirement]]\nos = [\"debian\", \"ubuntu\"]\n[[requirement]]\nsoftware = \"base\"\nmanager = \"sutler\"\nversions = \">=1.2, <2\"\n";
    pushed(&cli, "tool", "1.0", text);
    pushed(&cli, "huge", "1.0", "[[requirement]]\nmemory = \"900000GiB\"\n");
    pushed(&cli, "redhat", "1.0", "[[requirement]]\npackage_manager = \"rpm\"\n");
    let agent = Agent::enrolled("one", &manager);
    let run = |words: &str| cli.id(&format!("job run {words} --client {}", agent.id()));
    let tool = run("--package tool");
    let row = JobView::wait_for_row(&cli, &tool, &agent.id(), "REJECTED");
    assert_eq!(row.reason, "REQUIREMENT_NOT_MET");
    assert!(row.detail.contains("requires base >=1.2, <2 of sutler; found: not installed"), "{}", row.detail);
    assert_eq!(row.json["items"][0]["totalBytes"], "3", "it was known, and nothing of it came: {:#}", row.json);
    assert!(!agent.root().join("opt/tool").exists());
    for (package, found) in [("huge", "requires 900000.0 GiB of memory; found: "), ("redhat", "requires rpm; found: no rpm")] {
        let row = JobView::wait_for_row(&cli, &run(&format!("--package {package}")), &agent.id(), "REJECTED");
        assert!(row.detail.contains(found), "{}", row.detail);
    }
    // What it depends on is installed before it, and that requires the same.
    pushed(&cli, "plugin", "1.0", "[[depends_on]]\npackage = \"tool\"\nversions = \">=1\"\n");
    let row = JobView::wait_for_row(&cli, &run("--package plugin"), &agent.id(), "REJECTED");
    assert!(row.detail.contains("requires base >=1.2, <2 of sutler; found: not installed"), "{}", row.detail);
    assert_eq!(row.json["items"].as_array().unwrap().len(), 1, "the plugin is not tried: {:#}", row.json);
    // What was rejected is tried again when somebody asks for it, and now it fits.
    JobView::wait_for_row(&cli, &run("--package base"), &agent.id(), "SUCCEEDED");
    cli.ok(&format!("job retry {tool} --kind rejected"));
    JobView::wait_for_row(&cli, &tool, &agent.id(), "SUCCEEDED");
    JobView::wait_for_row(&cli, &run("--package plugin"), &agent.id(), "SUCCEEDED");
}

#[test]
fn a_job_narrows_what_its_packages_require_and_never_widens_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool", "1.0", "");
    pushed(&cli, "redhat", "1.0", "[[requirement]]\npackage_manager = \"rpm\"\n");
    let agent = Agent::enrolled("one", &manager);
    let file = agent.scratch().join("require.toml");
    let require = |text: &str| fs_err::write(&file, text).unwrap();
    let order = |words: &str| format!("job run {words} --client {} --replace always", agent.id());
    let rejected = |job: &str| {
        let row = JobView::wait_for_row(&cli, job, &agent.id(), "REJECTED");
        assert_eq!(row.reason, "REQUIREMENT_NOT_MET");
        (row.detail, row.attempts)
    };
    // Typed: the machine itself is asked.
    let typed = format!("--require {}", file.display());
    require("[[requirement]]\nany = [{ memory = \"900000GiB\" }, { fact = \"own.rack\", matches = \"r[0-9]+\" }]\n");
    let first = cli.id(&order(&format!("--package tool {typed}")));
    let (detail, attempts) = rejected(&first);
    assert!(detail.contains("requires 900000.0 GiB of memory or") && detail.contains("own.rack") && attempts == 1, "{detail}");
    assert!(cli.ok(&format!("job show {first}")).contains("900000.0 GiB of memory"));
    // It holds for what the package requires, whatever the job says.
    require("[[requirement]]\narch = [\"x86_64\", \"aarch64\"]\n");
    JobView::wait_for_row(&cli, &cli.id(&order(&format!("--package tool {typed}"))), &agent.id(), "SUCCEEDED");
    let (detail, _) = rejected(&cli.id(&order(&format!("--package redhat {typed}"))));
    assert!(detail.contains("requires rpm; found: no rpm"), "{detail}");
    // CEL: the manager goes by what it knows of the client, and nothing reaches the machine.
    let when = "client.name == \"another\"";
    let second = cli.id(&order(&format!("--package tool --when '{when}'")));
    let (detail, attempts) = rejected(&second);
    assert!(detail.contains("the job is for clients with") && detail.contains("another") && attempts == 0, "{detail}");
    assert!(cli.ok(&format!("job show {second}")).contains(when));
    JobView::wait_for_row(&cli, &cli.id(&order("--package tool --when 'facts.os.family == \"linux\"'")), &agent.id(), "SUCCEEDED");
    // What was rejected is decided again when somebody asks for it.
    let labeled = cli.id(&order("--package tool --when 'labels.stage == \"two\"'"));
    assert_eq!(rejected(&labeled).1, 0);
    cli.ok(&format!("client label set {} stage=two", agent.id()));
    cli.ok(&format!("job retry {labeled} --kind rejected"));
    JobView::wait_for_row(&cli, &labeled, &agent.id(), "SUCCEEDED");
    // A newcomer has no facts in the first moment: it is decided when they are there.
    cli.ok("group create new");
    let both = ["linux", "plan9"].map(|family| {
        cli.id(&format!(
            "job run --package {} --group new --when 'facts.os.family == \"{family}\"'",
            if family == "linux" { "tool" } else { "redhat" }
        ))
    });
    let mut newcomer = Agent::new("two");
    newcomer.enroll(cli.ok("token create --group new").trim());
    newcomer.start();
    JobView::wait_for_row(&cli, &both[0], &newcomer.id(), "SUCCEEDED");
    JobView::wait_for_row(&cli, &both[1], &newcomer.id(), "REJECTED");
    // Nonsense is refused before anything is ordered.
    cli.fails(1, &order("--package tool --when 'facts.os.famly == 1'")).says(&["condition", "famly"]);
    require("[[requirement]]\nmemroy = \"1GiB\"\n");
    cli.fails(1, &order(&format!("--package tool {typed}"))).says(&["require.toml: line 1", "memory"]);
    // All of an offer's packages have them: more would not reach an agent.
    require(&format!("[[requirement]]\nany = [{}]\n", "{ fact = \"own.rack\", matches = \"a\" }, ".repeat(511).trim_end_matches(", ")));
    cli.fails(1, &order(&format!("--package tool {typed}"))).says(&["at most 16384 bytes"]);
    require("name = \"tool\"\n");
    cli.fails(1, &order(&format!("--package tool {typed}"))).says(&["name"]);
}

#[test]
fn a_job_sets_what_the_publisher_lets_it_set_and_nothing_else() {
    let manager = Manager::start();
    let cli = manager.cli();
    let text = "[parameters.port]\npattern = \"[0-9]{1,5}\"\ndefault = \"80\"\n[parameters.site]\npattern = \"[a-z]+\"\n\
                [[step]]\nname = \"configure\"\nargv = [\"bin/configure\", \"--port=${port}\"]\nenvironment = { SITE = \"${site}\" }\n";
    let package = PackageFolder::with("web", "1.0", text);
    package.file("bin/configure", "#!/bin/sh\necho \"$SITE $*\" >>../web.conf\n");
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("one", &manager);
    let order = format!("job run --package web --client {} --replace always", agent.id());
    cli.fails(1, &order).says(&["packages[0].values", "parameter site needs a value"]);
    cli.fails(1, &format!("{order} --set site=berlin --set port=80x")).says(&["port", "does not match the publisher's pattern"]);
    cli.fails(1, &format!("{order} --set site=berlin --set user=root")).says(&["no parameter user", "it has port, site"]);
    cli.fails(2, &format!("{order} --set site")).says(&["NAME=VALUE"]);
    for (set, written) in [("--set site=berlin", "berlin --port=80"), ("--set site=paris --set web:port=8080", "paris --port=8080")] {
        let job = cli.id(&format!("{order} {set}"));
        JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
        assert_eq!(agent.read("opt/web.conf").unwrap().lines().last(), Some(written));
    }
}

#[test]
fn a_package_is_uninstalled_by_its_own_steps_once_and_only_where_the_machine_lets_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    let text = "[[step]]\nname = \"say goodbye\"\nphase = \"uninstall\"\nargv = [\"bin/leave\"]\n[[detection]]\nfile = \"data\"\n";
    let package = PackageFolder::with("tool", "1.0", text);
    package.file("data", "x");
    package.file("bin/leave", "#!/bin/sh\necho left >>../tool.left\n");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::new("one");
    // Its own rules lie beside its configuration.
    agent.configure("");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let id = agent.id();
    let run = |words: &str| cli.id(&format!("job run {words} --client {id}"));
    JobView::wait_for_row(&cli, &run("--package tool"), &id, "SUCCEEDED");
    assert!(agent.root().join("opt/tool/data").exists());

    let forbid = agent.scratch().join("policy.toml");
    fs_err::write(&forbid, "allow_uninstall = false\n").unwrap();
    let row = JobView::wait_for_row(&cli, &run("--uninstall tool"), &id, "REJECTED");
    assert!(row.reason == "LOCAL_POLICY" && row.detail.contains("allow_uninstall in policy.toml"), "{row:?}");
    assert!(agent.root().join("opt/tool/data").exists());

    fs_err::remove_file(&forbid).unwrap();
    let gone = run("--uninstall tool");
    JobView::wait_for_row(&cli, &gone, &id, "SUCCEEDED");
    assert!(!agent.root().join("opt/tool").exists());
    assert_eq!(agent.read("opt/tool.left").as_deref(), Some("left\n"));
    assert!(cli.ok(&format!("job show {gone}")).contains("-tool@1.0"));
    // Nothing is there any more: nothing is run.
    let again = run("--uninstall tool");
    JobView::wait_for_row(&cli, &again, &id, "ALREADY_ABSENT");
    assert_eq!(agent.read("opt/tool.left").as_deref(), Some("left\n"));
    let view = JobView::of(&cli, &again);
    assert_eq!((view.count("finished"), view.count("alreadyAbsent"), view.count("error")), (1, 1, 0));
    // And it can be put there again.
    JobView::wait_for_row(&cli, &run("--package tool"), &id, "SUCCEEDED");
    assert!(agent.root().join("opt/tool/data").exists());
}

#[test]
fn an_upgrade_that_fails_half_way_or_is_not_detected_is_restored_by_the_steps_that_restore() {
    let manager = Manager::start();
    let cli = manager.cli();
    // What is installed is a file beside the tree, as an installer would put it.
    let steps = |install: &str| {
        format!(
            "restore = true\n[[step]]\nname = \"install\"\nargv = [\"/bin/sh\", \"-c\", \"{install}\"]\n\
             [[step]]\nname = \"put back\"\nphase = \"restore\"\nargv = [\"/bin/sh\", \"-c\", \"cp data ../tool.installed; echo again >>../tool.restored\"]\n\
             [[detection]]\ncommand = [\"/bin/cat\", \"../tool.installed\"]\nversion = {{ pattern = \"(.+)\", versions = \">=2\" }}\n"
        )
    };
    let one = steps("cp data ../tool.installed").replace(">=2", ">=1");
    pushed(&cli, "tool", "1.0", &one);
    let agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    let run = |package: &str| cli.id(&format!("job run --package {package} --client {id}"));
    JobView::wait_for_row(&cli, &run("tool@1.0"), &id, "SUCCEEDED");
    assert_eq!(agent.read("opt/tool.installed").as_deref(), Some("1.0"));

    let failures =
        [("2.0", "echo broken >../tool.installed; exit 3", "STEP_FAILED"), ("2.1", "echo 1.9 >../tool.installed", "NOT_DETECTED")];
    for (n, (version, install, kind)) in failures.into_iter().enumerate() {
        pushed(&cli, "tool", version, &steps(install));
        let row = JobView::wait_for_row(&cli, &run(&format!("tool@{version}")), &id, "FAILED");
        let item = &row.json["items"][0];
        assert_eq!((row.reason.as_str(), item["restored"].as_bool()), (kind, Some(true)), "{item:#}");
        assert_eq!(agent.read("opt/tool/data").as_deref(), Some("1.0"), "the tree is the old one");
        assert_eq!(agent.read("opt/tool.installed").as_deref(), Some("1.0"), "and what it had installed");
        assert_eq!(agent.read("opt/tool.restored").unwrap().lines().count(), n + 1);
    }
}

#[test]
fn a_step_runs_as_the_user_that_the_package_names() {
    let manager = Manager::start();
    let cli = manager.cli();
    let text = "[[step]]\nname = \"who\"\nargv = [\"/bin/sh\", \"-c\", \"id -un; id -Gn; echo $HOME; exit 9\"]\nuser = \"daemon\"\n";
    pushed(&cli, "tool", "1.0", text);
    pushed(&cli, "other", "1.0", &text.replace("daemon", "nobody-here"));
    let agent = Agent::enrolled("one", &manager);
    fs_err::create_dir_all(agent.root().join("etc")).unwrap();
    fs_err::copy("/etc/passwd", agent.root().join("etc/passwd")).unwrap();
    let failed = |package: &str| {
        let job = cli.id(&format!("job run --package {package} --client {}", agent.id()));
        JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED").json["items"][0].clone()
    };
    let item = failed("other");
    assert!(item["message"].as_str().unwrap().contains("no user nobody-here on this machine"), "{item:#}");
    let item = failed("tool");
    if rustix::process::geteuid().is_root() {
        assert_eq!((item["exitCode"].as_i64(), item["output"].as_str()), (Some(9), Some("daemon\ndaemon\n/usr/sbin\n")), "{item:#}");
    } else {
        assert_eq!(item["errorKind"], "STEP_NOT_STARTED", "only root can: {item:#}");
    }
}
