//! Plans of jobs: they say what comes of them, and come to that or to nothing.

use std::collections::BTreeSet;
use sutler_base::{state::ClientState, token::TokenString};
use sutler_proto::v1::{self, PlanVerdict};
use sutler_tests::fleet::{self, Database, Machine, Operator, Packages};
use sutler_tests::harness::{Agent, Api, JobView, Manager, PATIENCE, PackageFolder, wait_until};

#[test]
fn a_plan_names_whom_a_job_hits_and_in_which_stage_and_what_is_run_by_it_is_exactly_that() {
    const ONLINE: usize = 26;
    const OFFLINE: usize = 4;
    let manager = fleet::Manager::start(Database::Sqlite, None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut operator = Operator::new(&manager, runtime.handle());
    let packages = Packages::new(&["hello"]);
    packages.sign(&manager.profile()).iter().for_each(|package| drop(operator.push(&manager, package).unwrap()));
    let group = v1::CreateGroupRequest { group_id: "all".into(), ..Default::default() };
    operator.groups(&manager, |mut g| async move { g.create_group(group).await }).unwrap();
    let request = v1::CreateEnrollmentTokensRequest {
        uses: 1000,
        networks: vec!["127.0.0.0/8".into()],
        groups: vec!["groups/all".into()],
        ..Default::default()
    };
    let made = operator.tokens(&manager, |mut t| async move { t.create_enrollment_tokens(request).await }).unwrap();
    let mut machines = Vec::new();
    for n in 0..ONLINE + OFFLINE {
        let mut machine = Machine::enroll(&format!("machine-{n}"), n as u64 + 1, &made.tokens[0].secret, runtime.handle());
        if n < ONLINE {
            machine.start(ClientState::Active);
        }
        machines.push(machine);
    }
    // Who is not connected was not here lately either.
    manager.step_clock(600_000);
    let not_this = machines[3].client().to_string();
    let order = v1::CreateJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: vec!["groups/all".into()],
        condition: format!("client.id != \"{not_this}\""),
        ..Default::default()
    };
    let ask = |operator: &mut Operator| {
        let request = v1::PlanJobRequest { order: Some(order.clone()) };
        operator.plans(&manager, |mut p| async move { p.plan_job(request).await }).unwrap().plan.unwrap()
    };
    // What nobody knows before the machines have said what they are is said to be so.
    let mut plan = v1::JobPlan::default();
    let count =
        |plan: &v1::JobPlan, verdict: PlanVerdict| plan.verdicts.iter().find(|c| c.verdict() == verdict).map_or(0, |c| c.clients as usize);
    wait_until("everybody who is there to have reported", PATIENCE, || {
        plan = ask(&mut operator);
        count(&plan, PlanVerdict::Runs) == ONLINE - 1
    });
    assert_eq!((plan.clients, plan.fleet_clients), (30, 30));
    assert_eq!((count(&plan, PlanVerdict::Rejected), count(&plan, PlanVerdict::Unknown)), (1, OFFLINE));
    assert_eq!(plan.packages, ["packages/hello/versions/1.0"]);
    let stages: Vec<i64> = plan.stages.iter().map(|s| s.clients).collect();
    assert_eq!(stages, [20, 5, 0, 0, 0], "{:?}", plan.stages);
    let none = v1::ListJobsRequest::default();
    assert_eq!(operator.jobs(&manager, |mut j| async move { j.list_jobs(none).await }).unwrap().jobs, [], "a plan is no job");

    let (mut listed, mut token) = (vec![], String::new());
    loop {
        let request = v1::ListPlanClientsRequest { parent: plan.name.clone(), page_size: 7, page_token: token };
        let page = operator.plans(&manager, |mut p| async move { p.list_plan_clients(request).await }).unwrap();
        listed.extend(page.clients);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed.len(), ONLINE + OFFLINE);
    assert_eq!(listed.iter().map(|c| c.fetch_bytes).sum::<i64>(), plan.fetch_bytes);
    assert!(plan.fetch_bytes > 0);
    let rejected = listed.iter().find(|c| c.verdict() == PlanVerdict::Rejected).unwrap();
    assert!(rejected.client.ends_with(&not_this) && rejected.fetch_bytes == 0 && rejected.why.contains("the job is for clients with"));
    for machine in &machines[ONLINE..] {
        let client = listed.iter().find(|c| c.client.ends_with(machine.client().as_str())).unwrap();
        assert_eq!((client.stage, client.presence()), (0, v1::Presence::Offline));
    }

    machines.iter().for_each(|machine| machine.simulated.machine.hold_steps(true));
    let run = v1::RunJobRequest { plan: plan.name.clone(), ..Default::default() };
    let again = run.clone();
    operator.jobs(&manager, |mut j| async move { j.run_job(run).await }).unwrap();
    let begun = || -> BTreeSet<String> {
        let begun = machines.iter().filter(|machine| !machine.simulated.machine.runs().is_empty());
        begun.map(|machine| format!("clients/{}", machine.client())).collect()
    };
    wait_until("the first stage to have begun", PATIENCE, || begun().len() == 20);
    let first: BTreeSet<String> = listed.iter().filter(|c| c.stage == 1).map(|c| c.client.clone()).collect();
    assert_eq!(begun(), first);
    let refused = operator.jobs(&manager, |mut j| async move { j.run_job(again).await }).unwrap_err();
    assert!(refused.message.contains("was run already"), "{}", refused.message);
    machines.iter().for_each(|machine| machine.simulated.machine.hold_steps(false));

    // A day later nobody knows what it would come to: it is forgotten.
    manager.step_clock(24 * 3_600_000 + 1000);
    let app = manager.app();
    let kept = || {
        let read = app.view("manager", "plans", (), |tx, _env, ()| Box::pin(async move { Ok(tx.plans_kept().await?.len()) }));
        runtime.block_on(read).unwrap()
    };
    wait_until("plans to be forgotten", PATIENCE, || kept() == 0);
}

/// The id that `job plan` printed.
fn plan_id(manager: &Manager, line: &str) -> String {
    let plan = manager.cli().json(line);
    plan["name"].as_str().unwrap_or_else(|| panic!("{plan}")).trim_start_matches("plans/").to_owned()
}

#[test]
fn a_plan_is_refused_when_the_fleet_its_versions_or_its_rules_are_others_than_it_says() {
    let manager = Manager::start();
    let cli = manager.cli();
    let push = |version: &str| {
        let package = PackageFolder::counting("hello", version);
        cli.ok(&format!("package push {}", package.path().display()));
    };
    push("1.0");
    cli.ok("group create all");
    let token = cli.ok("token create --uses 100 --ttl 1h --network 127.0.0.0/8 --group all");
    let token = TokenString::parse(token.trim()).unwrap();
    let mut machines = 0;
    let mut enroll = |count: usize| {
        for _ in 0..count {
            machines += 1;
            Api::client(&token, &format!("machine-{machines}"));
        }
    };
    enroll(5);
    let outdated = |plan: &str, words: &[&str]| {
        let refused = cli.fails(1, &format!("job run --plan {plan}")).says(words);
        assert!(refused.stderr.contains("plan it again"), "{}", refused.stderr);
        assert_eq!(cli.json("job list"), serde_json::json!([]), "a job that was refused is not there");
    };
    let line = "job plan --package hello --group all";
    for line in [line, "job plan --package hello --group all --at 2099-01-31T22:00:00Z"] {
        let plan = plan_id(&manager, line);
        enroll(2);
        outdated(&plan, &["2 clients would be reached that it does not name"]);
    }
    let plan = plan_id(&manager, line);
    push("2.0");
    outdated(&plan, &["hello@2.0 would be installed", "hello@1.0 would not"]);
    let plan = plan_id(&manager, line);
    cli.ok("policy create everybody --group all");
    outdated(&plan, &["policies/everybody is new"]);
    let plan = plan_id(&manager, line);
    cli.ok("policy update everybody --when 'client.name == \"x\"'");
    outdated(&plan, &["policies/everybody was changed"]);
    let plan = plan_id(&manager, line);
    cli.ok("window create nights --group all --on daily --from 22:00 --to 05:00 --zone UTC");
    outdated(&plan, &["windows/nights is new"]);
    cli.ok("window delete nights");

    // A fleet is never still: one more is no other fleet.
    let plan = plan_id(&manager, line);
    enroll(1);
    cli.ok(&format!("job run --plan {plan}"));
    cli.fails(1, &format!("job run --plan {plan}")).says(&["was run already"]);
    cli.fails(2, &format!("job run --plan {plan} --package hello"));
    cli.fails(2, &format!("job run --plan {plan} --at 2099-01-31T22:00:00Z"));
    cli.fails(1, "job plan --package hello --group all").says(&["is active and installs"]);
}

#[test]
fn a_plan_knows_what_is_there_and_which_bytes_are_lacking_and_when_a_window_opens() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create all");
    let push = |version: &str| {
        let package = PackageFolder::counting("hello", version);
        package.noise("large", 2 << 20, 7);
        package.noise("small", 20 << 10, version.len() as u64);
        cli.ok(&format!("package push {}", package.path().display()));
    };
    push("1.0");
    let agent = Agent::enrolled("one", &manager);
    cli.ok(&format!("group add all {}", agent.id()));
    let line = "job plan --package hello --group all --clients";
    let client = |line: &str| cli.json(line)[0].clone();
    let bytes = |client: &serde_json::Value| client["fetchBytes"].as_str().unwrap().parse::<u64>().unwrap();
    wait_until("its facts", PATIENCE, || client(line)["verdict"] == "PLAN_VERDICT_RUNS");
    assert!(bytes(&client(line)) > 2 << 20);

    let job = cli.id("job run --package hello --group all");
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    cli.ok(&format!("job cancel {job} --yes"));
    wait_until("it to have said what it has", PATIENCE, || client(line)["verdict"] == "PLAN_VERDICT_ALREADY_THERE");
    assert_eq!(bytes(&client(line)), 0);
    push("1.0.1");
    let upgrade = client(line);
    assert!(upgrade["why"].as_str().unwrap().contains("upgrade hello 1.0 to 1.0.1"), "{upgrade}");
    let lacking = bytes(&upgrade);
    assert!((20 << 10..200 << 10).contains(&lacking), "{lacking} bytes, and only a small file is another one");

    // What a rule says no to, and when.
    let other = client("job plan --package hello --group all --clients --when 'facts.os.family == \"plan9\"'");
    assert_eq!((&other["verdict"], bytes(&other)), (&"PLAN_VERDICT_REJECTED".into(), 0));
    cli.ok("window create nights --group all --on daily --from 22:00 --to 22:30 --zone UTC");
    cli.ok("window create early --group all --on daily --from 02:00 --to 02:30 --zone UTC");
    let table = cli.ok("job plan --package hello --group all");
    assert!(table.contains("hello@1.0.1") && table.contains("1 of 1"), "{table}");
    let opens = client(line)["openTime"].as_str().map(str::to_owned);
    let open_now = |at: &str| at.contains("T22:00:00") || at.contains("T02:00:00");
    // It may be open at this very moment: then there is nothing to wait for.
    assert!(opens.as_deref().is_none_or(open_now), "{opens:?}");
}
