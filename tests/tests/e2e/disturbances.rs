//! Rollouts while clocks step, clients come and go, rows are run again and orders change: a stage lets go no more than its share,
//! and nobody holds it up for ever.

use crate::rollouts::{Crew, counters, status};
use sutler_base::state::ClientState;
use sutler_proto::v1::{self, JobState};
use sutler_tests::fleet::{Database, Packages};
use sutler_tests::harness::{self, Agent, JobView, PATIENCE, PackageFolder, wait_until};

/// Longer than a client may be out of contact before its place is another's.
const AWAY_MS: i64 = 61 * 1000;

fn hold_steps(crew: &Crew, held: bool) {
    crew.machines.iter().for_each(|machine| machine.simulated.machine.hold_steps(held));
}

fn update(crew: &mut Crew, request: v1::UpdateJobRequest) {
    crew.operator.jobs(&crew.manager, |mut j| async move { j.update_job(request).await }).unwrap();
}

fn retry(crew: &mut Crew, job: &str, kind: v1::RetryKind) -> i32 {
    let request = v1::RetryJobRequest { name: job.into(), kinds: vec![kind.into()], ..Default::default() };
    crew.operator.jobs(&crew.manager, |mut j| async move { j.retry_job(request).await }).unwrap().retried
}

/// A rollout with one stage of so many clients that is not left while the test runs.
fn one_stage(count: i32, max_failures: i32) -> v1::Rollout {
    let soak = Some(prost_types::Duration { seconds: 86_400, nanos: 0 });
    let gate = v1::RolloutGate { max_failures: Some(max_failures), ..Default::default() };
    v1::Rollout { stages: vec![v1::RolloutStage { count, soak, ..Default::default() }], gate: Some(gate), ..Default::default() }
}

#[test]
fn a_clock_that_is_set_back_hides_no_failure_from_the_gate() {
    let mut crew = Crew::of(Database::Sqlite, 40);
    crew.breaks();
    hold_steps(&crew, true);
    let job = crew.run(None);
    crew.until("twenty to begin", &job, |job| counters(job).running == 20);
    crew.until_begun(20);
    crew.manager.step_clock(-3_600_000);
    hold_steps(&crew, false);
    let halted = crew.until("the job to be halted", &job, |job| job.state() == JobState::Paused);
    assert!(status(&halted).halt.contains("of 20 clients in stage 1 of 5"), "{halted:?}");
    crew.settle(&[]);
    assert_eq!(crew.hurt(), 20);
}

#[test]
fn what_was_rejected_and_is_run_again_goes_through_the_stages() {
    let mut crew = Crew::of(Database::Sqlite, 60);
    hold_steps(&crew, true);
    let job = crew.order(v1::RunJobRequest { condition: "labels.ring == \"none\"".into(), ..Default::default() });
    crew.until("all to be rejected", &job, |job| counters(job).rejected == 60);
    update(&mut crew, v1::UpdateJobRequest { name: job.clone(), condition: Some(String::new()), ..Default::default() });
    assert_eq!(retry(&mut crew, &job, v1::RetryKind::Rejected), 60);
    crew.until("twenty to begin", &job, |job| counters(job).running >= 20);
    crew.settle(&[]);
    assert_eq!((crew.hurt(), status(&crew.job(&job)).let_go), (20, 20));
}

#[test]
fn who_is_run_again_and_is_away_gives_its_place_back() {
    let mut crew = Crew::of(Database::Sqlite, 4);
    crew.breaks();
    let job = crew.run(Some(one_stage(2, 4)));
    crew.until("two to have failed", &job, |job| counters(job).error == 2);
    for machine in &mut crew.machines {
        if !machine.simulated.machine.runs().is_empty() {
            machine.kill();
        }
    }
    assert_eq!(retry(&mut crew, &job, v1::RetryKind::Error), 2);
    crew.settle(&[]);
    assert_eq!(crew.hurt(), 2);
    crew.manager.step_clock(AWAY_MS);
    crew.until("the others to have their places", &job, |job| counters(job).error == 2 && counters(job).waiting == 2);
    assert_eq!(crew.hurt(), 4);
}

#[test]
fn an_empty_group_of_pilots_holds_up_nobody_and_one_that_a_job_waits_for_is_not_deleted_unseen() {
    let manager = harness::Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create all");
    cli.ok("group create pilots");
    let mut agent = Agent::new("one");
    agent.enroll(cli.ok("token create --group all").trim());
    agent.start();
    wait_until("the machine to be connected", PATIENCE, || agent.status()["connected"].is_string());
    let job = cli.id("job run --package hello --group all --stage group=pilots:1d");
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert!(cli.ok(&format!("job show {job}")).contains("nobody went first in stage 1 of 2 (members of groups/pilots)"));
    // A stage that is still to come is another matter.
    let later = cli.id(&format!("job run --package hello --client {} --at 2h --stage group=pilots", agent.id()));
    cli.fails(1, "group delete pilots").says(&["go first in a stage of jobs/", &later]);
    cli.ok("group delete pilots --force");
}

#[test]
fn another_package_in_a_job_that_has_reached_everybody_goes_through_its_stages_again() {
    let mut crew = Crew::of(Database::Sqlite, 26);
    let job = crew.run(Some(one_stage(20, 2)));
    let all = v1::PromoteJobRequest { name: job.clone(), all: true, ..Default::default() };
    crew.operator.jobs(&crew.manager, |mut j| async move { j.promote_job(all).await }).unwrap();
    crew.until("all to have it", &job, |job| counters(job).finished == 26);
    (0..30).for_each(|_| crew.join(false));
    crew.until("all to be in reach", &job, |job| counters(job).total == 56);
    // The next package is bad, and reaches who was away.
    let folder = Packages::new(&["other"]);
    let other = folder.sign(&crew.manager.profile()).remove(0);
    crew.operator.push(&crew.manager, &other).unwrap();
    let packages = vec![v1::JobPackage { package: "packages/other".into(), ..Default::default() }];
    update(&mut crew, v1::UpdateJobRequest { name: job.clone(), packages, ..Default::default() });
    assert_eq!(status(&crew.job(&job)).stage, 1);
    let bad = "other".parse().unwrap();
    for machine in &mut crew.machines[26..] {
        machine.simulated.machine.fail(&bad, 1, None);
        machine.start(ClientState::Active);
    }
    let halted = crew.until("the job to be halted", &job, |job| job.state() == JobState::Paused && counters(job).running == 0);
    crew.settle(&[]);
    let hurt = crew.machines[26..].iter().filter(|machine| !machine.simulated.machine.runs().is_empty()).count();
    assert!((3..=20).contains(&hurt), "{hurt} were hurt: {halted:?}");
    assert!(status(&halted).halt.contains("of 20 clients in stage 1 of 2"), "{halted:?}");
}
