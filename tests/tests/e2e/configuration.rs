//! A fleet as it stands in files: what is applied, what is shown before, and that a half-applied set never exists.

use crate::access::callers::Bed;
use std::path::Path;
use std::process::Stdio;
use sutler_proto::v1;
use sutler_tests::api_call;
use sutler_tests::fleet::{Database, Packages};
use sutler_tests::harness::{Agent, Api, Cli, JobView, Manager, PATIENCE, PackageFolder, Reader, Rows, wait_until};
use tonic::Code;

/// A group, a policy on it and a job for it, each referred to before it is made.
const WEB: &str = r#"
[[job]]
name = "web-everywhere"
packages = [{ package = "hello" }]
destinations = ["groups/web"]

[[policy]]
name = "all-web"
group = "web"
condition = 'labels.role == "web"'

[[group]]
name = "web"
description = "what serves"
"#;

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

fn with_hello(versions: &[&str]) -> (Manager, Cli) {
    let manager = Manager::start();
    let cli = manager.cli();
    for version in versions {
        let package = PackageFolder::counting("hello", version);
        cli.ok(&format!("package push {}", package.path().display()));
    }
    (manager, cli)
}

/// What is in the database, once the manager has noted by itself that it read all content after its start.
fn rows(manager: &Manager) -> Rows {
    wait_until("the stored content to have been read", PATIENCE, || manager.log().contains("all stored content was read"));
    Reader::open(manager).rows()
}

#[test]
fn an_exported_fleet_applied_again_changes_nothing_whichever_way_it_was_written() {
    let (manager, cli) = with_hello(&["1.0", "1.1"]);
    let package = PackageFolder::with("web", "1.0", "[parameters.port]\npattern = \"[0-9]{1,5}\"\ndefault = \"80\"\n");
    package.file("data", "web");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("question create use --prompt 'What is it for? \"Really\"' --choice office --choice lab");
    cli.ok("group create web --description 'a \\ b'");
    cli.ok("group create open --join open");
    cli.ok("group create strict --restricted");
    cli.ok("window create nights --group web --on mon,fri --from 22:00 --to 05:00 --zone Europe/Berlin --description late");
    cli.ok("policy create web --group web --trigger inventory --applies-to all --on-mismatch remove --when 'answers.use == \"lab\"'");
    cli.ok("policy create everybody --group open");
    cli.ok("job run --package web --set web:port=8080 --package hello@1.0 --group web --alias web-everywhere --priority 3 --when 'facts.os.family == \"linux\"'");
    cli.ok("job run --package hello@latest --group open --alias newest --expires 30d --continue-on-failure --rollout all-at-once");
    cli.ok("job create --package hello --group strict --alias later --description 'not yet'");
    cli.ok("job run --uninstall hello --group strict --alias gone");
    let unnamed = cli.id("job create --package hello --group strict");
    let (toml, yaml) = (manager.scratch().join("toml"), manager.scratch().join("yaml"));
    let said = cli.run(&format!("export -o {}", toml.display()));
    assert!(said.stderr.contains(&format!("jobs/{unnamed}")), "{}", said.stderr);
    cli.ok(&format!("export -o {} --format yaml", yaml.display()));
    let first = cli.run(&format!("apply -f {}", toml.display())).ends_with(0);
    assert_eq!(first.stdout, "", "nothing changes: {}", first.stderr);
    assert!(first.stderr.contains("11 objects that were there are kept by files from now on"), "{}", first.stderr);
    let before = rows(&manager);
    for folder in [&toml, &yaml] {
        let again = cli.run(&format!("apply -f {} --prune", folder.display())).ends_with(0);
        assert_eq!(again.stdout, "", "{}", again.stderr);
        assert!(again.stderr.contains("nothing to change: 11 objects"), "{}", again.stderr);
    }
    assert_eq!(before.difference(&rows(&manager)), None);
    // All of it in one, and the same on another manager: what it was made of says it all.
    let whole = cli.ok("export");
    let (_other, other) = with_hello(&["1.0", "1.1"]);
    other.ok(&format!("package push {}", package.path().display()));
    write(manager.scratch(), "whole.toml", &whole);
    other.ok(&format!("apply -f {} --yes", manager.scratch().join("whole.toml").display()));
    assert_eq!(other.ok("export"), whole);
    assert_eq!(other.ok("export --format yaml"), cli.ok("export --format yaml"));
}

#[test]
fn the_diff_says_exactly_what_changes_and_a_dry_run_leaves_no_trace() {
    let (manager, cli) = with_hello(&["1.0"]);
    let fleet = manager.scratch().join("fleet");
    write(&fleet, "sub/web.toml", WEB);
    write(&fleet, "notes.md", "not for us");
    let apply = format!("apply -f {}", fleet.display());
    let before = rows(&manager);
    let plan = cli.fails(31, &format!("{apply} --dry-run"));
    let made = r#"+ group web
    description = "what serves"
    join_mode = "closed"
+ policy all-web
    group = "web"
    trigger = "new-client"
    condition = 'labels.role == "web"'
    applies_to = "new-only"
    on_mismatch = "keep"
+ job web-everywhere
    packages = [{ package = "hello@1.0", replace = "if-missing", intent = "install" }]
    destinations = ["groups/web"]
    priority = 5
    terms = { rollout = { stages = [{ count = 20, soak = "0s" }, { count = 5, percent = 1, beyond = true, soak = "900s" }, { percent = 10, soak = "900s" }, { percent = 50, soak = "900s" }], gate = { max_failures_percent = 10, silence = "3600s" } }, on_leave = "keep" }
"#;
    assert_eq!(plan.stdout, made);
    assert_eq!(before.difference(&rows(&manager)), None);
    cli.fails(2, &apply).says(&["Make 3, change 0, delete 0?", "--yes"]);
    assert_eq!(before.difference(&rows(&manager)), None);
    assert_eq!(cli.ok(&format!("{apply} --yes")), made);
    assert_eq!(cli.ok(&format!("{apply} --yes")), "");
    // The version is whichever the job has: a newer one does not change what was ordered.
    let newer = PackageFolder::counting("hello", "2.0");
    cli.ok(&format!("package push {}", newer.path().display()));
    assert_eq!(cli.ok(&format!("{apply} --yes")), "");
    let web = WEB
        .replace("what serves", "fronts")
        .replace("== \"web\"", "== \"front\"")
        .replace("[\"groups/web\"]", "[\"groups/web\"]\npriority = 2");
    write(&fleet, "sub/web.toml", &web);
    let changed = r#"~ group web: description "what serves" → "fronts"
~ policy all-web: condition 'labels.role == "web"' → 'labels.role == "front"'
~ job web-everywhere: priority 5 → 2
"#;
    assert_eq!(cli.fails(31, &format!("{apply} --dry-run")).stdout, changed);
    assert_eq!(cli.ok(&format!("{apply} --yes")), changed);
    assert_eq!(cli.json("job show web-everywhere")["priority"], 2);
    assert_eq!(cli.json("policy show all-web")["condition"], "labels.role == \"front\"");
    assert_eq!(cli.ok(&format!("{apply} --dry-run")), "");
    // Another version, a destination, terms: the job gets another revision, and is the same job.
    cli.ok("group create more");
    let job = cli.json("job show web-everywhere")["name"].clone();
    let terms = "exclusions = [\"groups/more\"]\nterms = { keep = \"1d\", schedule = { deadline_time = \"2100-01-01T00:00:00Z\" } }\n";
    let web = web.replace("\"hello\" }", "\"hello@2.0\" }").replace("priority = 2\n", &format!("priority = 2\n{terms}"));
    write(&fleet, "sub/web.toml", &web);
    let diff = cli.ok(&format!("{apply} --yes"));
    for part in [
        "packages [{ package = \"hello@1.0\"",
        "→ [{ package = \"hello@2.0\"",
        "exclusions none → [\"groups/more\"]",
        "keep = \"86400s\"",
        "2100-01-01",
    ] {
        assert!(diff.contains(part), "{part} in {diff}");
    }
    assert!(diff.lines().all(|line| line.starts_with("~ job web-everywhere: ")), "{diff}");
    let shown = cli.json("job show web-everywhere");
    assert_eq!(shown["name"], job);
    assert_eq!((&shown["packages"][0]["version"], &shown["terms"]["keep"]), (&"2.0".into(), &"86400s".into()));
    assert_eq!(cli.ok(&format!("{apply} --yes")), "");
    write(&fleet, "sub/web.toml", &web.replace(terms, ""));
    assert_eq!(cli.ok(&format!("{apply} --yes")).lines().count(), 2, "terms and exclusions");
    assert_eq!(cli.ok(&format!("{apply} --yes")), "");
    let log = cli.ok("audit list");
    assert!(log.contains("apply_configuration") && log.contains("~ groups/web, ~ policies/all-web, ~ jobs/web-everywhere"), "{log}");
    assert!(log.contains("update_policy"), "each as its own call does: {log}");
}

#[test]
fn a_set_of_which_one_object_is_refused_leaves_nothing_and_all_that_is_wrong_is_said() {
    let (manager, cli) = with_hello(&["1.0"]);
    let fleet = manager.scratch().join("fleet");
    write(&fleet, "a.toml", WEB);
    write(
        &fleet,
        "b.yaml",
        "policy:\n  - name: bad\n    group: nowhere\n  - name: worse\n    group: web\n    condition: facts.os.famly == 'x'\njob:\n  - name: lost\n    packages: [{package: nothing}]\n    destinations: [groups/web]\n",
    );
    let apply = format!("apply -f {} --yes", fleet.display());
    let before = rows(&manager);
    let said = cli.fails(1, &apply).says(&[
        "3 things are wrong, so nothing was changed",
        "b.yaml:2: policy bad: there is no group nowhere",
        "b.yaml:6: policy worse: condition: ",
        "famly",
        "b.yaml:8: job lost: there is no package nothing",
    ]);
    assert_eq!(said.stdout, "");
    write(&fleet, "b.yaml", "group:\n  - name: UPPER\n    description: x\n  - name: web\n");
    cli.fails(1, &apply).says(&["b.yaml:2: group UPPER: group_id: ", "b.yaml:4: group web: groups/web is among the objects twice"]);
    write(&fleet, "b.yaml", "group:\n  - name: x\n    colour: red\n");
    cli.fails(1, &apply).says(&["b.yaml:3: \"colour\" is no member of a group"]);
    write(&fleet, "b.yaml", &format!("group:\n{}", (0..2001).map(|n| format!("  - name: g{n}\n")).collect::<String>()));
    cli.fails(1, &apply).says(&["2004 objects, and at most 2000"]);
    write(&fleet, "b.yaml", "job:\n  - name: web-too\n    packages: [{package: hello}]\n    destinations: [groups/web]\n");
    cli.fails(1, &apply).says(&["b.yaml:2: job web-too: ", "is active and installs hello on groups/web"]);
    assert_eq!(before.difference(&rows(&manager)), None);
}

#[test]
fn a_manager_that_is_killed_while_it_applies_has_all_of_it_or_nothing() {
    const EACH: usize = 150;
    let mut manager = Manager::start();
    let log = manager.folder().join("manager.db-wal");
    let written = || fs_err::metadata(&log).map(|m| (m.len(), m.modified().ok())).ok();
    for round in 0..6 {
        let set = |n: usize| format!("[[group]]\nname = \"r{round}-{n}\"\n[[policy]]\nname = \"r{round}-{n}\"\ngroup = \"r{round}-{n}\"\n");
        let file = manager.scratch().join("fleet.toml");
        fs_err::write(&file, (0..EACH).map(set).collect::<String>()).unwrap();
        let before = written();
        let mut command = manager.cli().command(&["apply", "-f", &file.display().to_string(), "--yes", "--retry-for", "0s"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The plan writes nothing; from the first byte of the commit on, a little later each time.
        wait_until("the commit to begin", PATIENCE, || {
            let now = written();
            let grown = now.map_or(0, |n| n.0).saturating_sub(before.map_or(0, |b| b.0));
            child.try_wait().unwrap().is_some() || now != before && grown >= round * (32 << 10)
        });
        manager.kill_and_serve();
        let told = child.wait().unwrap().success();
        let cli = manager.cli();
        let count = |noun: &str| cli.ok(&format!("{noun} list -o csv")).lines().filter(|l| l.starts_with(&format!("r{round}-"))).count();
        let there = (count("group"), count("policy"));
        assert!(there == (0, 0) || there == (EACH, EACH), "{there:?}");
        assert!(!told || there == (EACH, EACH), "what was acknowledged is there");
        cli.ok(&format!("apply -f {} --yes", file.display()));
        assert_eq!((count("group"), count("policy")), (EACH, EACH));
    }
}

fn objects(groups: &[&str]) -> Vec<v1::ConfigurationObject> {
    let group = |name: &&str| v1::ConfigurationObject {
        object: Some(v1::configuration_object::Object::Group(v1::CreateGroupRequest { group_id: (*name).into(), ..Default::default() })),
        ..Default::default()
    };
    groups.iter().map(group).collect()
}

#[test]
fn what_was_changed_between_the_diff_and_the_order_is_not_overwritten() {
    let manager = Manager::start();
    let (cli, api) = (manager.cli(), Api::operator(&manager));
    let apply = |request: v1::ApplyConfigurationRequest| {
        api_call!(api, configuration_service_client::ConfigurationServiceClient, apply_configuration(request))
    };
    let request = v1::ApplyConfigurationRequest { objects: objects(&["one", "two"]), validate_only: true, ..Default::default() };
    let plan = apply(request.clone()).unwrap();
    assert_eq!(plan.changes.iter().map(|c| c.object.as_str()).collect::<Vec<_>>(), ["groups/one", "groups/two"]);
    cli.ok("group create one --description mine");
    let before = rows(&manager);
    let order = v1::ApplyConfigurationRequest { validate_only: false, etag: plan.etag, ..request.clone() };
    let refused = apply(order.clone()).unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
    assert_eq!(before.difference(&rows(&manager)), None);
    let plan = apply(request).unwrap();
    assert_eq!(plan.changes[0].fields[0].old_value, "\"mine\"");
    let done = apply(v1::ApplyConfigurationRequest { etag: plan.etag.clone(), ..order }).unwrap();
    assert_eq!((done.changes, done.etag), (plan.changes, plan.etag));
}

#[test]
fn prune_deletes_what_files_put_there_and_nothing_else() {
    let (manager, cli) = with_hello(&["1.0"]);
    let fleet = manager.scratch().join("fleet");
    cli.ok("group create by-hand");
    cli.ok("policy create by-hand --group by-hand");
    let other = cli.id("job run --package hello --group by-hand --alias other");
    write(&fleet, "web.toml", WEB);
    write(&fleet, "room.toml", "[[question]]\nname = \"room\"\nprompt = \"Which room?\"\n");
    let apply = format!("apply -f {} --yes", fleet.display());
    cli.ok(&apply);
    let job = cli.json("job show web-everywhere")["name"].as_str().unwrap().trim_start_matches("jobs/").to_owned();
    fs_err::remove_file(fleet.join("web.toml")).unwrap();
    assert_eq!(cli.ok(&apply), "", "without prune nothing goes");
    let gone = "- job web-everywhere\n- policy all-web\n- group web\n";
    assert_eq!(cli.fails(31, &format!("apply -f {} --prune --dry-run", fleet.display())).stdout, gone);
    // What somebody made by hand would go with the group: the whole is refused.
    cli.ok("policy create guest --group web");
    let before = rows(&manager);
    cli.fails(1, &format!("{apply} --prune")).says(&["prune.groups/web: policies/guest registers clients into groups/web"]);
    assert_eq!(before.difference(&rows(&manager)), None);
    cli.ok("policy delete guest");
    assert_eq!(cli.ok(&format!("{apply} --prune")), gone);
    assert_eq!(JobView::of(&cli, &job).state, "CANCELED");
    assert!(!cli.ok("group list").contains("web") && !cli.ok("policy list").contains("all-web"));
    assert_eq!(JobView::of(&cli, &other).state, "ACTIVE");
    assert!(cli.ok("policy list").contains("by-hand") && cli.ok("question list").contains("room"));
    // Back in the files it is made anew, under the same names.
    write(&fleet, "web.toml", WEB);
    assert!(cli.ok(&apply).contains("+ job web-everywhere"));
    assert_ne!(cli.json("job show web-everywhere")["name"], format!("jobs/{job}"));
    // One under another name takes the place of the one that goes, with its policy.
    write(&fleet, "web.toml", &WEB.replace("web-everywhere", "web-all").replace("all-web", "web"));
    let moved = cli.ok(&format!("{apply} --prune"));
    let lines: Vec<_> = moved.lines().filter(|l| !l.starts_with(' ')).collect();
    assert_eq!(lines, ["- job web-everywhere", "- policy all-web", "+ policy web", "+ job web-all"]);
}

#[test]
fn files_that_are_not_there_delete_nothing() {
    let (manager, cli) = with_hello(&["1.0"]);
    let fleet = manager.scratch().join("fleet");
    write(&fleet, "web.toml", WEB);
    cli.ok(&format!("apply -f {} --yes", fleet.display()));
    let before = rows(&manager);
    let empty = manager.scratch().join("empty");
    fs_err::create_dir(&empty).unwrap();
    cli.fails(2, &format!("apply -f {} --prune --yes", empty.display())).says(&["empty: there is no .toml, .yaml or .yml file in it"]);
    // Nor beside others: what was to be read from it would go.
    cli.fails(2, &format!("apply -f {} -f {} --prune --yes", fleet.display(), empty.display())).says(&["empty: there is no"]);
    write(&empty, "web.toml", "# moved\n");
    cli.fails(1, &format!("apply -f {} --prune --yes", empty.display())).says(&["objects: ", "all that files put there would go"]);
    assert_eq!(cli.ok(&format!("apply -f {} --yes", empty.display())), "");
    assert_eq!(before.difference(&rows(&manager)), None);
}

#[test]
fn what_is_the_same_in_other_words_is_applied_once() {
    let (manager, cli) = with_hello(&["1.0"]);
    let lib = PackageFolder::counting("lib", "1.0");
    cli.ok(&format!("package push {}", lib.path().display()));
    let app = PackageFolder::with("app", "1.0", "[[depends_on]]\npackage = \"lib\"\nversions = \">=1.0\"\n");
    app.file("data", "app");
    cli.ok(&format!("package push {}", app.path().display()));
    cli.ok("group create web");
    let file = manager.scratch().join("fleet.toml");
    let apply = format!("apply -f {} --yes", file.display());
    // What another one depends on is installed before it, wherever it is listed.
    let job = |packages: &str, more: &str| {
        let packages: Vec<_> = packages.split(' ').map(|package| format!("{{ package = \"{package}\" }}")).collect();
        fs_err::write(
            &file,
            format!("[[job]]\nname = \"all\"\npackages = [{}]\ndestinations = [\"groups/web\"]\n{more}", packages.join(", ")),
        )
        .unwrap();
    };
    let packages = || -> Vec<String> {
        let shown = cli.json("job show all");
        let names = shown["packages"].as_array().unwrap().iter().map(|p| p["package"].as_str().unwrap().split('/').nth(1).unwrap());
        names.map(str::to_owned).collect()
    };
    job("app lib hello", "state = \"draft\"\n");
    assert!(cli.ok(&apply).starts_with("+ job all\n"));
    job("app lib hello", "");
    assert!(cli.ok(&apply).starts_with("~ job all: "));
    assert_eq!(packages(), ["lib", "app", "hello"]);
    let before = rows(&manager);
    assert_eq!(cli.ok(&apply), "");
    assert_eq!(before.difference(&rows(&manager)), None);
    // An order that nothing asks for is whoever's who wrote it.
    job("hello app lib", "");
    assert!(cli.ok(&apply).starts_with("~ job all: packages "));
    assert_eq!(packages(), ["hello", "lib", "app"]);
    assert_eq!(cli.ok(&apply), "");
    // Times are kept to the millisecond.
    job("hello app lib", "expire_time = \"2100-01-01T00:00:00.123456Z\"\n");
    let diff = cli.ok(&apply);
    assert!(diff.contains("expire_time none → \"2100-01-01T00:00:00.123Z\""), "{diff}");
    assert_eq!(cli.ok(&apply), "");
    // A draft refers to a group that would go: that is said, and both stay.
    let group = "[[group]]\nname = \"rooms\"\n";
    let draft = "[[job]]\nname = \"draft\"\nstate = \"draft\"\npackages = [{ package = \"hello\" }]\ndestinations = [\"groups/rooms\"]\n";
    fs_err::write(&file, format!("{group}{draft}")).unwrap();
    cli.ok(&apply);
    fs_err::write(&file, draft).unwrap();
    cli.fails(1, &format!("{apply} --prune")).says(&["jobs/draft refers to what would be deleted"]);
}

/// A job as it stands in a file, with its times by this clock.
fn timed(alias: &str, state: v1::JobState, schedule: v1::Schedule) -> v1::ConfigurationObject {
    let job = v1::CreateJobRequest {
        alias: alias.into(),
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: vec![format!("groups/{alias}")],
        terms: Some(v1::JobTerms { schedule: Some(schedule), ..Default::default() }),
        ..Default::default()
    };
    v1::ConfigurationObject { object: Some(v1::configuration_object::Object::Job(job)), state: state.into() }
}

#[test]
fn times_of_a_job_that_are_in_the_files_no_more_are_gone_whether_it_has_started_or_not() {
    let mut bed = Bed::new(Database::Sqlite);
    for signed in Packages::new(&["hello"]).sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    for name in ["draft", "later"] {
        let group = v1::CreateGroupRequest { group_id: name.into(), ..Default::default() };
        bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(group).await }).unwrap();
    }
    let apply = |bed: &mut Bed, object: v1::ConfigurationObject| {
        let request = v1::ApplyConfigurationRequest { objects: vec![object], ..Default::default() };
        bed.admin.configuration(&bed.manager, |mut c| async move { c.apply_configuration(request).await })
    };
    let shown = |bed: &mut Bed, alias: &str| {
        let request = v1::GetJobRequest { name: format!("jobs/{alias}") };
        let job = bed.admin.jobs(&bed.manager, |mut c| async move { c.get_job(request).await }).unwrap().job.unwrap();
        (job.state(), job.terms.unwrap_or_default().schedule.unwrap_or_default())
    };
    let now = bed.manager.app().world.now().as_second();
    let at = |hours: i64| Some(prost_types::Timestamp { seconds: now + hours * 3600, nanos: 0 });
    let whole = v1::Schedule {
        start_time: at(1),
        deadline_time: at(5),
        prefetch: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ignore_windows: true,
        ..Default::default()
    };
    let without = [
        v1::Schedule { deadline_time: None, ..whole.clone() },
        v1::Schedule { ignore_windows: false, ..whole.clone() },
        v1::Schedule { prefetch: None, ..whole.clone() },
    ];
    let (draft, run) = (v1::JobState::Draft, v1::JobState::Unspecified);
    for (alias, state, is) in [("draft", draft, v1::JobState::Draft), ("later", run, v1::JobState::Scheduled)] {
        for less in &without {
            apply(&mut bed, timed(alias, state, whole.clone())).unwrap();
            apply(&mut bed, timed(alias, state, less.clone())).unwrap();
            assert_eq!(shown(&mut bed, alias), (is, less.clone()));
        }
        apply(&mut bed, timed(alias, state, whole.clone())).unwrap();
    }
    bed.manager.step_clock(2 * 3_600_000);
    wait_until("it to start", PATIENCE, || shown(&mut bed, "later").0 == v1::JobState::Active);
    for (alias, state) in [("draft", draft), ("later", run)] {
        let less = v1::Schedule { deadline_time: None, ignore_windows: false, ..whole.clone() };
        apply(&mut bed, timed(alias, state, less.clone())).unwrap();
        assert_eq!(shown(&mut bed, alias).1, less);
    }
    // Another start time is refused all the same.
    let refused = apply(&mut bed, timed("later", run, v1::Schedule { start_time: at(4), ..Default::default() })).unwrap_err();
    assert!(refused.message.contains("its start time can't be changed any more"), "{refused:?}");
    let refused = apply(&mut bed, timed("draft", draft, v1::Schedule { start_time: at(0), ..Default::default() })).unwrap_err();
    assert!(refused.message.contains("lies in the past"), "{refused:?}");
}

#[test]
fn an_export_leaves_nothing_of_an_earlier_one() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create web");
    cli.ok("window create nights --group web --on mon --from 22:00 --to 05:00 --zone Europe/Berlin");
    let fleet = manager.scratch().join("fleet");
    let export = format!("export -o {}", fleet.display());
    cli.ok(&format!("{export} --format yaml"));
    write(&fleet, "own.toml", "# not the export's\n");
    cli.ok(&export);
    let names = || {
        let mut names: Vec<_> = fs_err::read_dir(&fleet).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["group.toml", "own.toml", "window.toml"]);
    cli.ok("window delete nights");
    let said = cli.run(&export).ends_with(0).stderr;
    assert!(said.contains("removed ") && said.contains("window.toml"), "{said}");
    assert_eq!(names(), ["group.toml", "own.toml"]);
    let again = cli.run(&format!("apply -f {}", fleet.display())).ends_with(0);
    assert_eq!(again.stdout, "", "{}", again.stderr);
}

#[test]
fn an_export_leaves_and_overwrites_nothing_that_no_export_wrote() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create web");
    let fleet = manager.scratch().join("fleet");
    let export = format!("export -o {}", fleet.display());
    // Of the same name as one of the export's, in the other format and in this one.
    let own = "[[group]]\nname = \"web\"\n";
    write(&fleet, "group.toml", own);
    let refused = cli.fails(1, &export).says(&["group.toml", "no export wrote the file", "choose another folder"]);
    assert_eq!(
        (fs_err::read_to_string(fleet.join("group.toml")).unwrap(), fleet.join("group.yaml").exists()),
        (own.into(), false),
        "{refused:?}"
    );
    let said = cli.run(&format!("{export} --format yaml")).ends_with(0).stderr;
    assert!(said.contains("left ") && said.contains("group.toml, which no export wrote"), "{said}");
    assert_eq!(fs_err::read_to_string(fleet.join("group.toml")).unwrap(), own);
    assert!(fleet.join("group.yaml").exists());
    // What it wrote itself is its own until somebody takes that line away.
    fs_err::remove_file(fleet.join("group.toml")).unwrap();
    cli.ok(&export);
    assert!(!fleet.join("group.yaml").exists());
    let text = fs_err::read_to_string(fleet.join("group.toml")).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    assert!(first.starts_with("# Written by `sutler export`"), "{text}");
    fs_err::write(fleet.join("group.toml"), rest).unwrap();
    cli.fails(1, &export).says(&["no export wrote the file"]);
}

#[test]
fn files_give_a_policy_another_group_and_trigger_and_know_a_job_once_it_has_an_alias() {
    let (manager, cli) = with_hello(&["1.0"]);
    for group in ["here", "there"] {
        cli.ok(&format!("group create {group}"));
    }
    let file = manager.scratch().join("fleet.toml");
    let apply = format!("apply -f {} --yes", file.display());
    let policy = |group: &str, trigger: &str| {
        let text = format!("[[policy]]\nname = \"all\"\ngroup = \"{group}\"\ntrigger = \"{trigger}\"\napplies_to = \"all\"\n");
        fs_err::write(&file, text).unwrap();
    };
    policy("here", "new-client");
    cli.ok(&apply);
    let agent = Agent::enrolled("one", &manager);
    let members = |group: &str| cli.ok(&format!("group members {group}"));
    wait_until("it to be registered", PATIENCE, || members("here").contains(&agent.id()));
    policy("there", "inventory");
    let diff = cli.ok(&apply);
    assert!(diff.contains("~ policy all: group \"here\" → \"there\"") && diff.contains("whom it registered stays"), "{diff}");
    let shown = cli.json("policy show all");
    assert_eq!((&shown["group"], &shown["trigger"]), (&"groups/there".into(), &"TRIGGER_INVENTORY".into()));
    cli.ok("policy apply all");
    wait_until("it to be registered there", PATIENCE, || members("there").contains(&agent.id()));
    assert!(members("here").contains(&agent.id()));
    assert_eq!(cli.ok(&apply), "", "applied once more it changes nothing");
    // It is still one of the files'.
    fs_err::write(&file, "[[group]]\nname = \"here\"\n").unwrap();
    assert!(cli.ok(&format!("{apply} --prune")).contains("- policy all"));

    // A job that was ordered without an alias gets one, and files know it by that.
    let job = cli.id("job run --package hello --group here");
    let said = cli.run("export").ends_with(0).stderr;
    assert!(said.contains(&format!("jobs/{job}")) && said.contains("job update JOB --alias NAME"), "{said}");
    cli.ok(&format!("job update {job} --alias web-everywhere"));
    assert_eq!(cli.json("job show web-everywhere")["name"], format!("jobs/{job}"));
    assert!(cli.ok("export").contains("web-everywhere"));
    fs_err::write(&file, "[[job]]\nname = \"web-everywhere\"\npackages = [{ package = \"hello\" }]\ndestinations = [\"groups/here\"]\n")
        .unwrap();
    assert_eq!(cli.ok(&apply), "", "it is as the file says");
    // One that another job has is refused, and says what to do.
    let other = cli.id("job run --package hello --group there");
    cli.fails(1, &format!("job update {other} --alias web-everywhere")).says(&["web-everywhere exists already", "choose another alias"]);
    cli.fails(1, &format!("job update {other} --alias 0123456789")).says(&["alias"]);
    cli.ok(&format!("job update {job} --alias anywhere"));
    cli.ok(&format!("job update {other} --alias web-everywhere"));
    assert!(cli.ok("audit list").contains("alias: anywhere in place of web-everywhere"));
    cli.ok(&format!("job update {other} --alias ''"));
    cli.fails(1, "job show web-everywhere").says(&["there is no job web-everywhere"]);
}

#[test]
fn whoever_applies_needs_the_rights_of_each_call_that_it_stands_for() {
    let (manager, cli) = with_hello(&["1.0"]);
    for group in ["inside", "outside"] {
        cli.ok(&format!("group create {group}"));
    }
    cli.ok("job create --package hello --group outside --alias far");
    let new = |name: &str, role: &str| {
        let other = Cli::new(&manager.scratch().join(name)).at(manager.addresses().operators.to_string());
        let (request, bundle) = (manager.scratch().join(format!("{name}.request")), manager.scratch().join(format!("{name}.bundle")));
        other.ok(&format!("profile request acme -o {}", request.display()));
        cli.ok(&format!("operator create {name} --role {role} --request {} -o {}", request.display(), bundle.display()));
        other.ok(&format!("profile import {}", bundle.display()));
        other
    };
    let (bea, cid) = (new("bea", "deployer:inside"), new("cid", "viewer"));
    let file = manager.scratch().join("fleet.toml");
    let apply = format!("apply -f {} --yes", file.display());
    let job = |name: &str, group: &str| {
        format!("[[job]]\nname = \"{name}\"\npackages = [{{ package = \"hello\" }}]\ndestinations = [\"groups/{group}\"]\n")
    };
    // Jobs within the scope; what is there already and stays as it is does not matter.
    fs_err::write(&file, format!("{}[[group]]\nname = \"inside\"\n", job("near", "inside"))).unwrap();
    cid.fails(1, &apply).says(&["DEPLOYER"]);
    assert!(bea.ok(&apply).starts_with("+ job near\n"));
    fs_err::write(&file, "[[group]]\nname = \"inside\"\ndescription = \"mine\"\n").unwrap();
    bea.fails(1, &apply).says(&["groups/inside would change", "a role without a scope"]);
    fs_err::write(&file, "[[policy]]\nname = \"all\"\ngroup = \"inside\"\n").unwrap();
    bea.fails(1, &apply).says(&["a role without a scope"]);
    fs_err::write(&file, job("there", "outside")).unwrap();
    bea.fails(1, &apply).says(&["there is no group outside"]);
    fs_err::write(&file, job("far", "inside")).unwrap();
    bea.fails(1, &apply).says(&["far exists already"]);
    let seen = bea.ok("export");
    assert!(seen.contains("near") && !seen.contains("\"far\""), "{seen}");
    bea.fails(1, "job show far").says(&["there is no job far"]);
    // What it prunes lies within its scope, too.
    fs_err::write(&file, job("far", "outside")).unwrap();
    cli.ok(&format!("{apply} --prune"));
    assert!(cid.ok("export").contains("\"far\""));
    fs_err::write(&file, "[[group]]\nname = \"inside\"\n").unwrap();
    assert_eq!(bea.ok(&format!("{apply} --prune")), "");
    // Nor does she get the alias of one that has ended: whoever applies next would make her job as the file has it.
    let far = cli.json("job show far")["name"].as_str().unwrap().to_owned();
    cli.ok("job cancel far --yes");
    fs_err::write(&file, job("far", "inside")).unwrap();
    bea.fails(1, &apply).says(&["far exists already"]);
    bea.fails(1, "job create --package hello --group inside --alias far").says(&["far exists already"]);
    cli.ok("job create --package hello --group inside --alias far");
    let log = cli.ok("audit list");
    assert!(log.contains(&format!("under the alias far, which {far} had")), "{log}");
}

#[test]
fn a_policy_and_a_job_that_were_applied_act_and_a_job_is_known_by_its_alias() {
    let (manager, cli) = with_hello(&["1.0"]);
    let file = manager.scratch().join("fleet.toml");
    fs_err::write(&file, WEB.replace("labels.role == \"web\"", "facts.os.family == \"linux\"")).unwrap();
    let apply = format!("apply -f {} --yes", file.display());
    cli.ok(&apply);
    let agent = Agent::enrolled("one", &manager);
    JobView::wait_for_row(&cli, "web-everywhere", &agent.id(), "SUCCEEDED");
    assert!(cli.ok("job list").contains("web-everywhere"));
    // An alias is one job's, until that has ended.
    let run = |alias: &str| format!("job run --package hello --client {} --replace always --alias {alias}", agent.id());
    cli.fails(1, &run("web-everywhere")).says(&["web-everywhere exists already"]);
    cli.fails(2, &run("0123456789")).says(&["does not read like an id"]);
    cli.fails(1, "job status nothing-like-it").says(&["there is no job nothing-like-it"]);
    let first = cli.id(&run("once"));
    JobView::wait(&cli, "once", "it to be over", PATIENCE, |job| job.state == "COMPLETED");
    let second = cli.id(&run("once"));
    assert_eq!(cli.json("job show once")["name"], format!("jobs/{second}"));
    assert_eq!(cli.json(&format!("job show {first}"))["alias"], "");
    // One that has ended is there all the same: canceled by hand it stays so, until somebody wants something else.
    cli.ok("job cancel web-everywhere --yes");
    assert_eq!(cli.ok(&apply), "");
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, text.replace("\"hello\" }", "\"hello@1.0\", replace = \"always\" }")).unwrap();
    let diff = cli.ok(&apply);
    assert!(diff.starts_with("+ job web-everywhere  (jobs/") && diff.contains("which is CANCELED)"), "{diff}");
    JobView::wait_for_row(&cli, "web-everywhere", &agent.id(), "SUCCEEDED");
    // A draft is started once the file says nothing of it any more.
    fs_err::write(
        &file,
        "[[job]]\nname = \"later\"\nstate = \"draft\"\npackages = [{ package = \"hello\" }]\ndestinations = [\"groups/web\"]\n",
    )
    .unwrap();
    assert!(cli.ok(&apply).contains("state = \"draft\""));
    assert_eq!(JobView::of(&cli, "later").state, "DRAFT");
    cli.ok("job cancel web-everywhere --yes");
    fs_err::write(&file, "[[job]]\nname = \"later\"\npackages = [{ package = \"hello\" }]\ndestinations = [\"groups/web\"]\n").unwrap();
    assert_eq!(
        cli.ok(&apply),
        "~ job later: packages [{ package = \"hello\", replace = \"if-missing\", intent = \"install\" }] → [{ package = \"hello@1.0\", replace = \"if-missing\", intent = \"install\" }]\n~ job later: state \"draft\" → none\n"
    );
    assert_eq!(JobView::of(&cli, "later").state, "ACTIVE");
}
