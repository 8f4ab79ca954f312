//! Circuit breakers.

use crate::rollouts::{Crew, counters, hello, status};
use sutler_base::state::ClientState;
use sutler_proto::v1::{self, EventKind, JobState};
use sutler_tests::fleet::Database;
use sutler_tests::harness::{Agent, JobView, Manager, PATIENCE, PackageFolder, Setup, wait_until};

fn breakers(crew: &mut Crew) -> Vec<v1::Breaker> {
    let listed = crew.operator.brakes(&crew.manager, |mut b| async move { b.list_breakers(v1::ListBreakersRequest {}).await });
    listed.unwrap().breakers
}

fn close(crew: &mut Crew, name: &str) {
    let request = v1::CloseBreakerRequest { name: name.into(), ..Default::default() };
    crew.operator.brakes(&crew.manager, |mut b| async move { b.close_breaker(request).await }).unwrap();
}

/// So many first, and whatever they come to, everybody else.
fn first(count: i32) -> Option<v1::Rollout> {
    let gate = v1::RolloutGate { max_failures: Some(1000), ..Default::default() };
    Some(v1::Rollout { stages: vec![v1::RolloutStage { count, ..Default::default() }], gate: Some(gate), ..Default::default() })
}

#[test]
fn a_package_that_only_fails_opens_its_breaker_and_a_person_closes_it() {
    let mut crew = Crew::tuned(Database::Sqlite, |config| config.limits.breaker_attempts = 4);
    (0..12).for_each(|_| crew.join(true));
    crew.breaks();
    let job = crew.run(first(5));
    let open =
        crew.until("the breaker to open", &job, |job| counters(job).error == 5 && status(job).stage == 2 && !job.held_back.is_empty());
    assert!(open.held_back[0].contains("packages/hello/versions/1.0 on groups/all is open since"), "{open:?}");
    assert!(open.held_back[0].contains("5 attempts failed within an hour and none succeeded, and 4 may"), "{open:?}");
    crew.settle(&[]);
    // Nobody else gets it, whoever comes and whatever is killed.
    crew.operator.hang_up();
    crew.manager.crash();
    crew.manager.start_again();
    crew.machines.iter().for_each(|machine| machine.connected());
    crew.join(true);
    crew.breaks();
    crew.until("all others to wait for it", &job, |job| counters(job).waiting == 8);
    crew.settle(&[]);
    assert_eq!((crew.hurt(), crew.job(&job).state()), (5, JobState::Active));
    let waiting: Vec<_> = crew.rows(&job).into_iter().filter(|row| row.attempt_count == 0).collect();
    assert!(waiting.len() == 8 && waiting.iter().all(|row| row.reason == "BREAKER"), "{waiting:?}");
    let why = crew.explained(waiting[0].client.clone());
    assert!(why.contains("breaker close"), "{why}");
    let open = breakers(&mut crew);
    assert_eq!((open.len(), open[0].scope.as_str(), open[0].failures, open[0].attempts), (1, "groups/all", 5, 5), "{open:?}");
    let request = v1::ListEventsRequest { kinds: vec![EventKind::BreakerOpened.into()], ..Default::default() };
    let events = crew.operator.events(&crew.manager, |mut e| async move { e.list_events(request).await }).unwrap().events;
    assert_eq!((events.len(), events[0].object.as_str()), (1, open[0].name.as_str()));

    // It is mended, and a person says so.
    crew.machines.iter().for_each(|machine| machine.simulated.machine.mend(&hello()));
    crew.settle(&[]);
    assert_eq!(crew.hurt(), 5);
    close(&mut crew, &open[0].name);
    crew.until("the others to have it", &job, |job| counters(job).finished == 8);
    assert_eq!(breakers(&mut crew), []);
}

#[test]
fn what_mostly_fails_over_many_jobs_is_ended_by_its_breaker() {
    let mut crew = Crew::tuned(Database::Sqlite, |config| config.limits.breaker_failures = 3);
    (0..2).for_each(|_| crew.join(true));
    crew.machines[0].simulated.machine.fail(&hello(), 1, None);
    // One of two fails in each of them: for the hour nothing is wrong.
    for n in 1..=4 {
        let job = crew.run(first(2));
        crew.until("it to end", &job, |job| counters(job).error == 1 && counters(job).finished == 1);
        assert_eq!(breakers(&mut crew).len(), usize::from(n == 4), "after {n} jobs");
        let cancel = v1::CancelJobRequest { name: job, ..Default::default() };
        crew.operator.jobs(&crew.manager, |mut j| async move { j.cancel_job(cancel).await }).unwrap();
    }
    let why = breakers(&mut crew)[0].why.clone();
    assert!(why.starts_with("4 of the newest"), "{why}");
    let job = crew.run(first(2));
    crew.until("both to wait", &job, |job| !job.held_back.is_empty() && counters(job).waiting == 2);
    crew.settle(&[]);
    assert!(crew.rows(&job).iter().all(|row| row.reason == "BREAKER" && row.attempt_count == 0));
    // A job on a client alone is another matter.
    let client = crew.machines[1].client().to_string();
    let alone = crew.order_on(vec![format!("clients/{client}")], v1::JobTerms::default());
    crew.until("it to have it", &alone, |job| counters(job).finished == 1);
    crew.machines[0].kill();
    crew.machines[0].start(ClientState::Active);
    crew.settle(&[]);
    assert!(crew.rows(&job).iter().all(|row| row.attempt_count == 0));
}

#[test]
fn what_is_fetched_in_vain_opens_a_breaker() {
    let config = "[limits]\nbreaker_bytes = \"100KiB\"\n".to_owned();
    let manager = Manager::start_with(Setup { config, ..Setup::default() });
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    let package = PackageFolder::counting("large", "1.0");
    package.noise("noise", 300 << 10, 1);
    package.file("bin/install", "#!/bin/sh\nexit 1\n");
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id(&format!("job run --package large --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    let listed = cli.ok("breaker list");
    assert!(listed.contains("large@1.0") && listed.contains(&format!("jobs/{job}")) && listed.contains("bytes were fetched"), "{listed}");
    assert!(cli.ok("events --since 1h").contains("the breaker of packages/large/versions/1.0"));
    cli.ok(&format!("job retry {job}"));
    wait_until("it to wait", PATIENCE, || JobView::of(&cli, &job).row(&agent.id()).unwrap().json["reason"] == "BREAKER");
    let said = cli.run(&format!("job status {job}")).ends_with(31).stdout;
    assert!(said.contains("breaker of packages/large/versions/1.0") && said.contains("sutler breaker close"), "{said}");
    let id = cli.json("breaker list")[0]["name"].as_str().unwrap().trim_start_matches("breakers/").to_owned();
    cli.ok(&format!("breaker close {id}"));
    JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    let log = cli.ok("audit list");
    assert!(log.contains("open_breaker") && log.contains("close_breaker"), "{log}");
    cli.fails(1, "breaker close 00000000000000000000000000").says(&["no breaker"]);
}
