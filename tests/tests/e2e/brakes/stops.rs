//! The kill switch.

use crate::access::callers::Bed;
use crate::lines::{over_with, push};
use crate::rollouts::{Crew, counters, hello};
use prost::Message as _;
use rustix::fs::{CWD, FileType, Mode};
use sutler_base::state::{ClientState, Role};
use sutler_proto::v1::{self, ExecutionState as S};
use sutler_tests::fleet::{Database, Operator};
use sutler_tests::harness::{Agent, COUNTING, JobView, Line, Manager, PATIENCE, PackageFolder, Proxy, wait_until};
use sutler_tests::postgres::Postgres;
use tonic::Code;

#[test]
fn what_is_stopped_starts_nowhere_is_said_everywhere_and_goes_on_when_it_is_resumed() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let (one, two) = (Agent::enrolled("one", &manager), Agent::enrolled("two", &manager));
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create branch");
    cli.ok(&format!("group add branch {}", one.id()));
    // Who stops says what, and why.
    cli.fails(2, "stop everything");
    cli.fails(2, "stop --reason why");
    cli.fails(2, "stop everything --group branch --reason why");
    cli.fails(1, "stop --group nobody --reason why").says(&["nobody"]);
    cli.fails(1, "stop --package nothing --reason why").says(&["nothing"]);
    cli.ok("stop --group branch --reason 'exams until Friday'");
    let again = cli.ok("stop --group branch --reason other");
    assert!(again.contains("exams until Friday") && !again.contains("other"), "{again}");

    // The members of the group get nothing, and the others do.
    let job = cli.id(&format!("job run --package hello --client {} --client {}", one.id(), two.id()));
    JobView::wait_for_row(&cli, &job, &two.id(), "SUCCEEDED");
    let waits = |manager: &Manager| {
        let row = JobView::of(&manager.cli(), &job).row(&one.id()).cloned().unwrap();
        (row.state, row.json["reason"].as_str().unwrap_or_default().to_owned())
    };
    let stopped = ("QUEUED".to_owned(), "STOPPED".to_owned());
    assert_eq!(waits(&manager), stopped);
    // Whoever looks is told.
    for line in ["stop", "job list -o json", &format!("job show {job}"), &format!("client explain {}", one.id())] {
        let said = cli.ok(line);
        assert!(said.contains("exams until Friday"), "{line}: {said}");
    }
    let said = cli.run(&format!("job status {job}")).ends_with(31).stdout;
    assert!(said.contains("groups/branch is stopped") && said.contains("sutler resume --group branch"), "{said}");
    assert!(cli.ok("job list").contains("HELD BACK"));
    assert!(cli.ok("events --since 1h").contains("stopped groups/branch: exams until Friday"), "{}", cli.ok("events --since 1h"));
    assert!(cli.ok("audit list").contains("stop_work"));
    // It is not forgotten, and does not end because the group does.
    cli.fails(1, "group delete branch --force").says(&["is stopped"]);
    manager.kill_and_serve();
    wait_until("the machine to be back", PATIENCE, || cli.json(&format!("client show {}", one.id()))["online"] == true);
    let at_once = "--rollout all-at-once --replace always";
    let other = cli.id(&format!("job run --package hello {at_once} --client {} --client {}", one.id(), two.id()));
    JobView::wait_for_row(&cli, &other, &two.id(), "SUCCEEDED");
    assert_eq!(waits(&manager), stopped);
    assert_eq!(JobView::of(&cli, &other).row(&one.id()).unwrap().attempts, 0, "it is offered to nobody, also without stages");
    assert_eq!(one.read("opt/hello.runs"), None);
    cli.ok("resume --group branch");
    assert!(cli.ok("resume --group branch").contains("was not stopped"));
    // The other one may have installed it first.
    let ended = JobView::wait_for_end(&cli, &job, &one.id()).state;
    assert!(["SUCCEEDED", "ALREADY_INSTALLED"].contains(&ended.as_str()), "{ended}");
    JobView::wait_for_row(&cli, &other, &one.id(), "SUCCEEDED");
    assert!(!cli.ok("job list").contains("HELD BACK"));

    // A version that is stopped is not installed, and taken off.
    cli.ok("stop --package hello@1.0 --reason broken");
    let off = cli.id(&format!("job run --uninstall hello --client {}", one.id()));
    JobView::wait_for_row(&cli, &off, &one.id(), "SUCCEEDED");
    let on = cli.id(&format!("job run --package hello --client {}", one.id()));
    // Nothing of a package that is stopped as a whole is done, nor anything once everything is.
    cli.ok("stop --package hello --reason broken");
    let gone = cli.id(&format!("job run --uninstall hello --client {}", two.id()));
    cli.ok("resume --package hello@1.0");
    cli.ok("stop everything --reason fire");
    cli.ok("resume --package hello");
    push(&cli, "other", COUNTING, 0);
    let last = cli.id(&format!("job run --package other --client {}", one.id()));
    let all = [(&on, &one), (&gone, &two), (&last, &one)];
    wait_until("all of them to be held back", PATIENCE, || {
        all.iter().all(|(job, agent)| JobView::of(&cli, job).row(&agent.id()).unwrap().json["reason"] == "STOPPED")
    });
    cli.ok("resume everything");
    for (job, agent) in all {
        JobView::wait_for_row(&cli, job, &agent.id(), "SUCCEEDED");
    }
    assert_eq!(cli.json("stop"), serde_json::json!([]));
}

#[test]
fn what_was_stopped_at_a_machine_that_is_cut_off_never_starts_there_until_it_is_resumed() {
    let line = Proxy::new();
    let (manager, agent) = over_with(&line, "[limits]\nlease = \"5s\"\n");
    let cli = manager.cli();
    let pipe = agent.root().join("etc/go");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    push(&cli, "waits", crate::lines::WAITS, 0);
    push(&cli, "next", COUNTING, 0);
    let first = cli.id(&format!("job run --package waits --client {}", agent.id()));
    JobView::wait_for_row(&cli, &first, &agent.id(), "INSTALLING");
    let second = cli.id(&format!("job run --package next --client {}", agent.id()));
    JobView::wait_for_row(&cli, &second, &agent.id(), "WAITING");

    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !agent.status()["connected"].is_string());
    let said = cli.ok("stop everything --reason fire");
    assert!(said.contains("1 called back that had not begun"), "{said}");
    assert_eq!(JobView::of(&cli, &second).row(&agent.id()).unwrap().state, "WAITING", "the machine has not answered and holds a lease");
    let row = JobView::wait_for_row(&cli, &second, &agent.id(), "QUEUED");
    assert_eq!(row.json["reason"], "STOPPED");

    // It is the second one's turn, and it is still cut off.
    fs_err::write(&pipe, "go\n").unwrap();
    wait_until("the first step's end to be recorded", PATIENCE, || agent.log().matches("ended attempt=").count() == 1);
    line.now(Line::Open);
    JobView::wait_for_row(&cli, &first, &agent.id(), "SUCCEEDED");
    wait_until("the machine to have let go of both", PATIENCE, || {
        let attempts = fs_err::read_dir(agent.state().join("attempts")).unwrap();
        attempts.filter(|e| !e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count() == 0
    });
    let row = JobView::of(&cli, &second).row(&agent.id()).cloned().unwrap();
    assert_eq!((row.state.as_str(), agent.read("opt/next.runs")), ("QUEUED", None), "it was shown as stopped, and ran");
    cli.ok("resume everything");
    let row = JobView::wait_for_row(&cli, &second, &agent.id(), "SUCCEEDED");
    assert_eq!((row.attempts, agent.read("opt/next.runs").as_deref()), (2, Some("run\n")));
}

/// What is stopped, for a group, with a reason.
fn of_group(group: &str) -> v1::StopWorkRequest {
    let work = v1::StoppedWork { group: format!("groups/{group}"), ..Default::default() };
    v1::StopWorkRequest { work: Some(work), reason: "because".into(), ..Default::default() }
}

#[test]
fn a_package_that_is_stopped_is_not_taken_off_for_one_that_takes_its_place() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    push(&cli, "old", COUNTING, 0);
    let first = cli.id(&format!("job run --package old --client {}", agent.id()));
    JobView::wait_for_row(&cli, &first, &agent.id(), "SUCCEEDED");
    let new = PackageFolder::counting("new", "1.0");
    new.append("[[supersedes]]\npackage = \"old\"\nuninstall = true\n");
    cli.ok(&format!("package push {}", new.path().display()));
    cli.ok("stop --package old --reason 'it may stay'");
    let job = cli.id(&format!("job run --package new --client {}", agent.id()));
    let reason = || JobView::of(&cli, &job).row(&agent.id()).unwrap().json["reason"].clone();
    wait_until("it to be held back, or to have gone on", PATIENCE, || {
        reason() == "STOPPED" || JobView::of(&cli, &job).row(&agent.id()).unwrap().state != "QUEUED"
    });
    assert_eq!(reason(), "STOPPED");
    let said = cli.ok(&format!("job show {job}"));
    assert!(said.contains("packages/old is stopped") && said.contains("it may stay"), "{said}");
    assert!(agent.root().join("opt/old").exists());
    cli.ok("resume --package old");
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert!(!agent.root().join("opt/old").exists());
}

#[test]
fn clients_that_are_stopped_take_no_place_of_a_stage() {
    let mut crew = Crew::of(Database::Sqlite, 4);
    crew.breaks();
    let soak = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let gate = Some(v1::RolloutGate { max_failures: Some(1000), ..Default::default() });
    let stages = vec![v1::RolloutStage { count: 2, soak, ..Default::default() }];
    let job = crew.run(Some(v1::Rollout { stages, gate, ..Default::default() }));
    crew.until("the first two to fail", &job, |job| counters(job).error == 2);
    let first: Vec<String> = crew.rows(&job).into_iter().filter(|row| row.state() == S::Failed).map(|row| row.client).collect();
    // They are stopped, and are to be run again.
    let group = v1::CreateGroupRequest { group_id: "halted".into(), ..Default::default() };
    crew.operator.groups(&crew.manager, |mut g| async move { g.create_group(group).await }).unwrap();
    let add = v1::AddMembersRequest { name: "groups/halted".into(), clients: first.clone(), ..Default::default() };
    crew.operator.groups(&crew.manager, |mut g| async move { g.add_members(add).await }).unwrap();
    let stop = of_group("halted");
    crew.operator.brakes(&crew.manager, |mut b| async move { b.stop_work(stop).await }).unwrap();
    crew.machines.iter().for_each(|machine| machine.simulated.machine.mend(&hello()));
    let again = v1::RetryJobRequest { name: job.clone(), kinds: vec![v1::RetryKind::Error.into()], ..Default::default() };
    crew.operator.jobs(&crew.manager, |mut j| async move { j.retry_job(again).await }).unwrap();
    // Their places are those of the next in turn, who are not stopped.
    crew.until("the others to have it", &job, |job| counters(job).finished == 2);
    let rows = crew.rows(&job);
    let stopped: Vec<_> = rows.iter().filter(|row| row.state() == S::Queued).collect();
    assert!(stopped.len() == 2 && stopped.iter().all(|row| first.contains(&row.client) && row.reason == "STOPPED"), "{rows:?}");
    // Once they go on they wait for their stage.
    let resume = v1::ResumeWorkRequest { work: of_group("halted").work, ..Default::default() };
    crew.operator.brakes(&crew.manager, |mut b| async move { b.resume_work(resume).await }).unwrap();
    crew.settle(&[]);
    assert!(crew.rows(&job).iter().filter(|row| row.state() == S::Queued).all(|row| row.reason == "STAGE"));
    crew.manager.step_clock(3_601_000);
    crew.until("all to have it", &job, |job| counters(job).finished == 4);
}

#[test]
fn what_is_stopped_at_one_manager_is_called_back_by_and_starts_at_none() {
    let Some(postgres) = Postgres::shared() else { return };
    let mut crew = Crew::of(Database::Postgres(postgres), 12);
    let second = crew.manager.second();
    let mut elsewhere = Operator::new(&second, crew.runtime.handle());
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(true);
    }
    let four = v1::Rollout { stages: vec![v1::RolloutStage { count: 4, ..Default::default() }], ..Default::default() };
    let job = crew.run(Some(four));
    crew.until_begun(4);
    let stop = of_group("all");
    elsewhere.brakes(&second, |mut b| async move { b.stop_work(stop).await }).unwrap();
    // What has begun goes to its end, and nothing follows it.
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(false);
    }
    crew.until("what had begun to end", &job, |job| counters(job).finished == 4 && counters(job).running == 0);
    crew.join(true);
    crew.settle(&[&second]);
    assert_eq!(crew.hurt(), 4);
    let job_now = crew.job(&job);
    assert!(job_now.held_back[0].contains("groups/all is stopped"), "{job_now:?}");
    assert!(crew.rows(&job).iter().filter(|row| row.state() == S::Queued).all(|row| row.reason == "STOPPED"));
    // Who goes and comes again, and who was not there at all, gets nothing either.
    crew.machines[5].kill();
    crew.machines[5].start(ClientState::Active);
    crew.settle(&[&second]);
    assert_eq!(crew.hurt(), 4);
    let resume = v1::ResumeWorkRequest { work: of_group("all").work, ..Default::default() };
    crew.operator.brakes(&crew.manager, |mut b| async move { b.resume_work(resume).await }).unwrap();
    crew.until("all to have it", &job, |job| counters(job).finished == 13);
}

#[test]
fn whoever_has_a_role_for_a_group_stops_that_group_and_nothing_else() {
    let mut bed = Bed::new(Database::Sqlite);
    for group in ["inside", "outside"] {
        let request = v1::CreateGroupRequest { group_id: group.into(), ..Default::default() };
        bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(request).await }).unwrap();
    }
    let credential = bed.operator("bea", &[(Role::Deployer, &["inside"])]);
    let bea = bed.at_operators(&bed.manager, Some(&credential)).unwrap();
    let call = |bed: &Bed, method: &str, message: Vec<u8>| bed.call(&bea, &format!("/sutler.v1.BrakeService/{method}"), message.into());
    call(&bed, "StopWork", of_group("inside").encode_to_vec()).unwrap();
    let refused = |group: &str| call(&bed, "StopWork", of_group(group).encode_to_vec()).unwrap_err();
    let (outside, nowhere) = (refused("outside"), refused("nowhere"));
    assert_eq!((outside.code(), outside.message().replace("outside", "nowhere").as_str()), (Code::NotFound, nowhere.message()));
    let everything = Some(v1::StoppedWork { everything: true, ..Default::default() });
    let stop = v1::StopWorkRequest { work: everything.clone(), reason: "because".into(), ..Default::default() };
    assert_eq!(call(&bed, "StopWork", stop.encode_to_vec()).unwrap_err().code(), Code::PermissionDenied);
    for stop in [stop, of_group("outside")] {
        bed.admin.brakes(&bed.manager, |mut b| async move { b.stop_work(stop).await }).unwrap();
    }
    let resume = |work| v1::ResumeWorkRequest { work, ..Default::default() }.encode_to_vec();
    assert_eq!(call(&bed, "ResumeWork", resume(everything)).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(call(&bed, "ResumeWork", resume(of_group("outside").work)).unwrap_err().code(), Code::NotFound);
    // What is stopped for everybody is said to everybody, and what is stopped elsewhere is not.
    let listed = v1::ListStopsResponse::decode(call(&bed, "ListStops", vec![]).unwrap()).unwrap();
    let works: Vec<_> = listed.stops.into_iter().filter_map(|stop| stop.work).map(|work| (work.everything, work.group)).collect();
    assert_eq!(works, [(true, String::new()), (false, "groups/inside".into())]);
    call(&bed, "ResumeWork", resume(of_group("inside").work)).unwrap();
    let close = v1::CloseBreakerRequest { name: format!("breakers/{}", "0".repeat(26)), ..Default::default() };
    assert_eq!(call(&bed, "CloseBreaker", close.encode_to_vec()).unwrap_err().code(), Code::NotFound);
    assert_eq!(v1::ListBreakersResponse::decode(call(&bed, "ListBreakers", vec![]).unwrap()).unwrap().breakers, []);
}
