//! What a job has installed is taken back, put back, or kept: on leaving its groups, by a rollback, and where it goes missing.

use crate::rollouts::{Crew, SOAK_MS, counters, hello, status};
use std::collections::BTreeMap;
use sutler_base::{Digest, PackageName};
use sutler_proto::v1::{self, JobState};
use sutler_tests::fleet::{Database, Packages};
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, programs, wait_for_value, wait_until};

/// A package of files alone, pushed.
fn pushed(cli: &Cli, name: &str, version: &str) {
    let package = PackageFolder::with(name, version, "[[detection]]\nfile = \"version\"\n");
    package.file("version", version);
    cli.ok(&format!("package push {}", package.path().display()));
}

/// What of a package is on the machine.
fn version(agent: &Agent, name: &str) -> Option<String> {
    agent.read(&format!("opt/{name}/version"))
}

fn installed(cli: &Cli, package: &str, agent: &Agent) {
    let job = cli.id(&format!("job run --package {package} --client {}", agent.id()));
    JobView::wait_for_row(cli, &job, &agent.id(), "SUCCEEDED");
}

#[test]
fn whoever_leaves_loses_what_the_job_installed_and_nothing_else() {
    let manager = Manager::start();
    let cli = manager.cli();
    for name in ["base", "tool", "other"] {
        pushed(&cli, name, "1.0");
    }
    cli.ok("group create machines");
    cli.ok("group create more");
    let mut agent = Agent::new("one");
    agent.configure("");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let id = agent.id();
    installed(&cli, "base", &agent);
    cli.ok(&format!("group add machines {id}"));
    cli.ok(&format!("group add more {id}"));
    let job = cli.id("job run --package base --package tool --package other --group machines --on-leave uninstall");
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    // Another job wants it there, too.
    let keeps = cli.id("job run --package other --group more");
    JobView::wait_for_row(&cli, &keeps, &id, "ALREADY_INSTALLED");

    cli.ok(&format!("group remove machines {id}"));
    let left = JobView::wait_for_row(&cli, &job, &id, "CANCELED");
    assert_eq!((left.reason.as_str(), left.attempts), ("LEFT_GROUP", 2));
    assert!(left.detail.contains("was uninstalled"), "{left:?}");
    let there = |name: &str| version(&agent, name).is_some();
    assert!(there("base"), "it was there before the job");
    assert!(!there("tool"), "the job had installed it");
    assert!(there("other"), "another job installs it there");
    let items = left.json["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["package"]), (1, &"packages/tool/versions/1.0".into()), "{items:#?}");

    // Who comes back gets it again, by another attempt.
    cli.ok(&format!("group add machines {id}"));
    let back = JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    assert_eq!((back.attempts, there("tool")), (3, true));

    // The machine's own rules come first; then it says so, and what is there stays.
    let policy = agent.scratch().join("policy.toml");
    fs_err::write(&policy, "allow_uninstall = false\n").unwrap();
    cli.ok(&format!("group remove machines {id}"));
    let refused = JobView::wait_for_row(&cli, &job, &id, "REJECTED");
    assert_eq!((refused.reason.as_str(), &refused.json["purpose"]), ("LOCAL_POLICY", &"LEAVE".into()));
    let explained = cli.ok(&format!("client explain {id}"));
    assert!(explained.contains("the client left the job's reach, and what the job installed is uninstalled"), "{explained}");
    assert!(there("tool"));
    fs_err::remove_file(&policy).unwrap();
    cli.ok(&format!("job retry {job} --kind rejected"));
    JobView::wait_for_row(&cli, &job, &id, "CANCELED");
    assert!(!there("tool") && there("base") && there("other"));
}

#[test]
fn whoever_comes_back_before_it_was_uninstalled_keeps_it_and_a_job_that_has_ended_takes_nothing_back() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool", "1.0");
    cli.ok("group create machines");
    let mut agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    cli.ok(&format!("group add machines {id}"));
    let job = cli.id("job run --package tool --group machines --on-leave uninstall");
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    agent.stop();
    cli.ok(&format!("group remove machines {id}"));
    let queued = JobView::wait_for_row(&cli, &job, &id, "QUEUED");
    assert_eq!((queued.reason.as_str(), &queued.json["purpose"]), ("LEFT_GROUP", &"LEAVE".into()));
    assert!(queued.detail.contains("tool 1.0"), "{queued:?}");
    cli.ok(&format!("group add machines {id}"));
    assert_eq!(JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED").attempts, 1);
    cli.ok(&format!("job cancel {job} --yes"));
    cli.ok(&format!("group remove machines {id}"));
    agent.start();
    wait_until("contact", PATIENCE, || cli.json(&format!("client show {id}"))["online"] == true);
    assert_eq!(JobView::of(&cli, &job).row(&id).unwrap().state, "SUCCEEDED");
    assert_eq!(version(&agent, "tool").as_deref(), Some("1.0"));
}

#[test]
fn what_is_to_be_kept_is_looked_at_again_and_installed_again_where_it_is_gone() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool", "1.0");
    let (whole, broken) = (Agent::enrolled("whole", &manager), Agent::enrolled("broken", &manager));
    cli.ok("group create machines");
    cli.ok(&format!("group add machines {} {}", whole.id(), broken.id()));
    let job = cli.id("job run --package tool --group machines --keep 1h");
    for agent in [&whole, &broken] {
        JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    }
    fs_err::remove_file(broken.root().join("opt/tool/version")).unwrap();
    manager.stop();
    manager.within(&programs::by_clock("+61m"));
    manager.serve();
    let view = JobView::wait(&cli, &job, "the drift to be mended", PATIENCE, |view| {
        // Rows and counters are read one after the other.
        let mended = view.row(&broken.id()).is_some_and(|row| row.state == "SUCCEEDED" && row.attempts == 2);
        mended && view.count("running") == 0
    });
    assert_eq!(version(&broken, "tool").as_deref(), Some("1.0"));
    assert_eq!(view.row(&broken.id()).unwrap().json["driftCount"], 1);
    let well = view.row(&whole.id()).unwrap();
    assert_eq!((well.state.as_str(), well.attempts), ("SUCCEEDED", 1), "where all is well nothing is seen of it");
    assert_eq!((view.counters().as_str(), &view.json["driftCount"]), ("total=2 finished=2", &"1".into()));
    assert!(cli.ok(&format!("job status {job}")).contains("found missing 1 times"));
}

#[test]
fn a_rollback_puts_back_what_each_client_had_and_takes_off_what_it_did_not_have() {
    let manager = Manager::start();
    let cli = manager.cli();
    pushed(&cli, "tool", "1.0");
    cli.ok("group create machines");
    let agents: Vec<Agent> = (0..4).map(|n| Agent::enrolled(&format!("agent{n}"), &manager)).collect();
    let ids: Vec<String> = agents.iter().map(Agent::id).collect();
    for agent in &agents[..2] {
        installed(&cli, "tool@1.0", agent);
    }
    pushed(&cli, "tool", "2.0");
    cli.ok(&format!("group add machines {}", ids.join(" ")));
    let bad = cli.id("job run --package tool@2.0 --group machines");
    for id in &ids {
        JobView::wait_for_row(&cli, &bad, id, "SUCCEEDED");
    }
    // One of them has something else by now, which is not touched.
    pushed(&cli, "tool", "3.0");
    installed(&cli, "tool@3.0", &agents[3]);
    let parts = ["put back tool@1.0: 2 clients", "take off tool@2.0, for it was not there: 1 client", "it has tool 3.0 by now"];
    // It goes by what the machines say that they have, which comes a moment later.
    wait_for_value(
        "the plan",
        PATIENCE,
        || cli.ok(&format!("job rollback {bad} --dry-run")),
        |plan| parts.iter().all(|p| plan.contains(p)),
    );
    assert_eq!(JobView::of(&cli, &bad).state, "ACTIVE", "a plan changes nothing");

    let back = cli.id(&format!("job rollback {bad} --yes"));
    assert_eq!(JobView::of(&cli, &bad).state, "CANCELED", "else it would install it again");
    for id in &ids[..3] {
        JobView::wait_for_row(&cli, &back, id, "SUCCEEDED");
    }
    let versions: Vec<_> = agents.iter().map(|agent| version(agent, "tool")).collect();
    assert_eq!(versions, [Some("1.0".to_owned()), Some("1.0".to_owned()), None, Some("3.0".to_owned())]);
    let view = JobView::wait(&cli, &back, "its end", PATIENCE, |view| view.state == "COMPLETED");
    assert_eq!((view.rows.len(), &view.json["rollsBack"]), (3, &format!("jobs/{bad}").into()));
    // A step back is one step: what was put back is as it was, and nothing is left to roll back.
    wait_until("the machines to say so", PATIENCE, || {
        cli.ok(&format!("job rollback {bad} --dry-run")).lines().filter(|line| line.starts_with("left alone")).count() == 4
    });
    cli.fails(1, &format!("job rollback {bad} --yes")).says(&["changed nothing that can be put back"]);
    cli.fails(1, &format!("job clone {back}")).says(&["it puts back what clients had"]);
}

/// What each machine of a crew has.
fn there(crew: &Crew) -> Vec<BTreeMap<PackageName, Digest>> {
    crew.machines.iter().map(|machine| machine.simulated.machine.installed()).collect()
}

/// Runs a job for this version on these machines of a crew, for everybody at once unless it goes in stages.
fn order(crew: &mut Crew, version: &str, on: &[usize], rollout: Option<v1::Rollout>) -> String {
    let at_once = v1::Rollout { all_at_once: true, ..Default::default() };
    let request = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: format!("packages/hello/versions/{version}"), ..Default::default() }],
        destinations: on.iter().map(|n| format!("clients/{}", crew.machines[*n].client())).collect(),
        terms: Some(v1::JobTerms { rollout: Some(rollout.unwrap_or(at_once)), ..Default::default() }),
        ..Default::default()
    };
    crew.operator.jobs(&crew.manager, |mut j| async move { j.run_job(request).await }).unwrap().job.unwrap().name
}

fn roll_back(crew: &mut Crew, job: &str, dry_run: bool) -> v1::RollbackJobResponse {
    let request = v1::RollbackJobRequest { name: job.into(), dry_run, ..Default::default() };
    crew.operator.jobs(&crew.manager, |mut j| async move { j.rollback_job(request).await }).unwrap()
}

#[test]
fn one_command_puts_back_what_a_hundred_and_fifty_had_in_three_versions_once_a_bad_one_has_halted() {
    let mut crew = Crew::of(Database::Sqlite, 150);
    let push = |crew: &mut Crew, version: &str| {
        let packages = Packages::version("hello", version);
        let signed = packages.sign(&crew.manager.profile()).remove(0);
        crew.operator.push(&crew.manager, &signed).unwrap();
    };
    // Three versions, by turns; every tenth machine has none.
    let has = |n: usize| if n.is_multiple_of(10) { None } else { Some(["1.0", "1.1", "1.2"][n % 3]) };
    for version in ["1.0", "1.1", "1.2"] {
        if version != "1.0" {
            push(&mut crew, version);
        }
        let on: Vec<usize> = (0..150).filter(|n| has(*n) == Some(version)).collect();
        let job = order(&mut crew, version, &on, None);
        crew.until("them to have it", &job, |job| counters(job).finished == on.len() as i64);
    }
    let before = there(&crew);
    assert_eq!(before.iter().filter(|has| has.is_empty()).count(), 15);
    push(&mut crew, "2.0");

    // The first forty are a stage. On some of them it fails, once it has gone well on all others.
    let group = v1::CreateGroupRequest { group_id: "pilots".into(), ..Default::default() };
    crew.operator.groups(&crew.manager, |mut g| async move { g.create_group(group).await }).unwrap();
    let clients = crew.machines[..40].iter().map(|machine| format!("clients/{}", machine.client())).collect();
    let add = v1::AddMembersRequest { name: "groups/pilots".into(), clients, ..Default::default() };
    crew.operator.groups(&crew.manager, |mut g| async move { g.add_members(add).await }).unwrap();
    let fails = |n: usize| n % 4 == 1;
    for n in (0..40).filter(|n| fails(*n)) {
        let machine = &crew.machines[n].simulated.machine;
        machine.fail(&hello(), 1, None);
        machine.hold_steps(true);
    }
    let stage = v1::RolloutStage { groups: vec!["groups/pilots".into()], ..Default::default() };
    let gate = v1::RolloutGate { max_failures: Some(3), ..Default::default() };
    let rollout = v1::Rollout { stages: vec![stage], gate: Some(gate), ..Default::default() };
    let all: Vec<usize> = (0..150).collect();
    let bad = order(&mut crew, "2.0", &all, Some(rollout));
    crew.until("it to go well on thirty", &bad, |job| counters(job).finished == 30 && counters(job).running == 10);
    for n in (0..40).filter(|n| fails(*n)) {
        crew.machines[n].simulated.machine.hold_steps(false);
    }
    let halted =
        crew.until("the job to be halted", &bad, |job| job.state() == JobState::Paused && counters(job).running == 0 && job.canceling == 0);
    assert!(status(&halted).halt.contains("of 40 clients in stage 1 of 2"), "{halted:?}");
    assert_eq!((counters(&halted).finished, counters(&halted).error, counters(&halted).waiting), (30, 10, 110));
    assert_eq!(there(&crew).iter().zip(&before).filter(|(now, then)| now != then).count(), 30);

    // It goes by what the machines say that they have, which comes a moment later.
    let named = |answer: &v1::RollbackJobResponse| {
        let mut steps: Vec<_> = answer.steps.iter().map(|s| (s.package.clone(), s.intent(), s.clients)).collect();
        steps.sort();
        steps
    };
    let step = |version: &str, intent: v1::Intent, clients: i64| (format!("packages/hello/versions/{version}"), intent, clients);
    let of = |version: Option<&str>| (0..40).filter(|n| !fails(*n) && has(*n) == version).count() as i64;
    let expected = vec![
        step("1.0", v1::Intent::Install, of(Some("1.0"))),
        step("1.1", v1::Intent::Install, of(Some("1.1"))),
        step("1.2", v1::Intent::Install, of(Some("1.2"))),
        step("2.0", v1::Intent::Uninstall, of(None)),
    ];
    wait_until("the machines to say what they have", PATIENCE, || {
        let plan = roll_back(&mut crew, &bad, true);
        named(&plan) == expected && plan.left.is_empty()
    });
    let answer = roll_back(&mut crew, &bad, false);
    assert_eq!(named(&answer), expected);
    // Who had nothing before is named.
    let mut none: Vec<String> =
        (0..40).filter(|n| !fails(*n) && has(*n).is_none()).map(|n| format!("clients/{}: hello 2.0", crew.machines[n].client())).collect();
    none.sort();
    assert_eq!((answer.had_none, answer.left), (none, vec![]));
    let back = answer.job.unwrap().name;
    let total = crew.job(&back).counters.unwrap().total;
    assert_eq!(total, 30);
    // It goes in stages, as every job does.
    crew.until("the canary to soak", &back, |job| status(job).soak_end_time.is_some());
    for _ in 0..4 {
        crew.manager.step_clock(SOAK_MS);
        crew.settle(&[]);
    }
    crew.until("all to have it back", &back, |job| counters(job).finished == total);
    assert_eq!(there(&crew), before, "everybody has what it had");
    assert_eq!(crew.job(&bad).state(), JobState::Canceled);
    crew.machines.iter().for_each(|machine| assert_eq!(machine.simulated.machine.twice(), []));
}
