//! Clients that are offline when their turn comes.

use crate::rollouts::{Crew, counters, status};
use sutler_base::state::ClientState;
use sutler_core::rollout::turn;
use sutler_proto::v1::{self, ExecutionState as S, OfflineAction};
use sutler_tests::fleet::Database;
use sutler_tests::harness::{PATIENCE, wait_until};

const MINUTE: i64 = 60_000;

fn terms(action: OfflineAction, ttl: Option<i64>) -> v1::JobTerms {
    let ttl = ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
    v1::JobTerms { offline: Some(v1::OfflineClients { action: action.into(), ttl }), ..Default::default() }
}

/// Three that are there and three that are not, for long enough that nobody takes them for those who just come.
fn crew() -> Crew {
    let mut crew = Crew::new(Database::Sqlite);
    (0..6).for_each(|n| crew.join(n < 3));
    // Nobody is taken for absent by a manager that has just started.
    crew.manager.step_clock(7 * MINUTE);
    crew
}

fn rows(crew: &mut Crew, job: &str, state: S) -> Vec<v1::Execution> {
    crew.rows(job).into_iter().filter(|row| row.state() == state).collect()
}

#[test]
fn who_is_offline_when_its_turn_comes_is_passed_over_and_no_earlier() {
    let mut crew = crew();
    let rollout = Some(v1::Rollout {
        stages: vec![v1::RolloutStage { count: 2, soak: Some(prost_types::Duration { seconds: 600, nanos: 0 }), ..Default::default() }],
        ..Default::default()
    });
    let job = crew.order_on(vec!["groups/all".into()], v1::JobTerms { rollout, ..terms(OfflineAction::Skip, None) });
    crew.until("the first two to soak", &job, |job| status(job).soak_end_time.is_some());
    crew.settle(&[]);
    // Whose turn comes before that of the second of those who are there was passed over, and nobody else.
    let id = job.trim_start_matches("jobs/").parse().unwrap();
    let mut order: Vec<usize> = (0..6).collect();
    order.sort_by_key(|n| turn(&id, crew.machines[*n].client().as_str()));
    let second = order.iter().enumerate().filter(|(_, n)| **n < 3).nth(1).unwrap().0;
    let mut expected: Vec<String> =
        order[..second].iter().filter(|n| **n >= 3).map(|n| format!("clients/{}", crew.machines[*n].client())).collect();
    expected.sort();
    let passed = |crew: &mut Crew| {
        let mut passed: Vec<String> = rows(crew, &job, S::Rejected).into_iter().map(|row| row.client).collect();
        passed.sort();
        passed
    };
    assert_eq!(passed(&mut crew), expected);
    crew.manager.step_clock(11 * MINUTE);
    crew.until("all to be at an end", &job, |job| counters(job).finished == 3 && counters(job).rejected == 3);
    assert!(rows(&mut crew, &job, S::Rejected).iter().all(|row| row.reason == "OFFLINE" && row.detail.contains("passed over")));
    // Whoever wants them after all says so.
    (3..6).for_each(|n| crew.machines[n].start(ClientState::Active));
    crew.settle(&[]);
    assert_eq!(counters(&crew.job(&job)).rejected, 3);
    let again = v1::RetryJobRequest { name: job.clone(), kinds: vec![v1::RetryKind::Rejected.into()], ..Default::default() };
    crew.operator.jobs(&crew.manager, |mut j| async move { j.retry_job(again).await }).unwrap();
    crew.until("all to have it", &job, |job| counters(job).finished == 6);
}

#[test]
fn who_is_offline_when_its_turn_comes_fails_where_the_job_says_so_and_halts_nobody() {
    let mut crew = crew();
    let job = crew.order_on(vec!["groups/all".into()], terms(OfflineAction::Fail, None));
    let failed = crew.until("them to fail", &job, |job| counters(job).finished == 3 && counters(job).error == 3);
    crew.settle(&[]);
    assert_eq!((failed.state(), crew.job(&job).state()), (v1::JobState::Active, v1::JobState::Active));
    assert!(rows(&mut crew, &job, S::Failed).iter().all(|row| row.reason == "OFFLINE" && row.attempt_count == 0));
}

/// Waits until the manager has looked several times for clients that are out of contact.
fn looked(crew: &Crew) {
    let from = crew.manager.rounds("offline");
    wait_until("the manager to have looked", PATIENCE, || crew.manager.rounds("offline") > from + 3);
}

fn stop(crew: &mut Crew) {
    let work = Some(v1::StoppedWork { everything: true, ..Default::default() });
    let request = v1::StopWorkRequest { work, reason: "because".into(), ..Default::default() };
    crew.operator.brakes(&crew.manager, |mut b| async move { b.stop_work(request).await }).unwrap();
}

fn go_on(crew: &mut Crew) {
    let work = Some(v1::StoppedWork { everything: true, ..Default::default() });
    let request = v1::ResumeWorkRequest { work, ..Default::default() };
    crew.operator.brakes(&crew.manager, |mut b| async move { b.resume_work(request).await }).unwrap();
}

#[test]
fn while_work_is_stopped_it_is_nobodys_turn_and_the_time_of_who_is_waited_for_does_not_count() {
    let mut crew = crew();
    stop(&mut crew);
    // By name: two jobs that stand on one group for one package are refused.
    let all: Vec<String> = crew.machines.iter().map(|machine| format!("clients/{}", machine.client())).collect();
    let stages = Some(v1::Rollout { stages: vec![v1::RolloutStage { count: 6, ..Default::default() }], ..Default::default() });
    let skips = crew.order_on(all.clone(), v1::JobTerms { rollout: stages, ..terms(OfflineAction::Skip, None) });
    let at_once = Some(v1::Rollout { all_at_once: true, ..Default::default() });
    let fails = crew.order_on(all.clone(), v1::JobTerms { rollout: at_once.clone(), ..terms(OfflineAction::Fail, None) });
    looked(&crew);
    crew.settle(&[]);
    for job in [&skips, &fails] {
        assert_eq!(counters(&crew.job(job)).waiting, 6, "nothing is offered to anybody");
    }
    go_on(&mut crew);
    crew.until("those who are not there to be passed over", &skips, |job| counters(job).finished == 3 && counters(job).rejected == 3);
    crew.until("those who are not there to fail", &fails, |job| counters(job).finished == 3 && counters(job).error == 3);

    // Half of the time goes by before it is stopped, and the other half after that.
    let waits = crew.order_on(all, v1::JobTerms { rollout: at_once, ..terms(OfflineAction::Queue, Some(3600)) });
    crew.until("those who are there to have it", &waits, |job| counters(job).finished == 3);
    looked(&crew);
    crew.manager.step_clock(30 * MINUTE);
    looked(&crew);
    stop(&mut crew);
    looked(&crew);
    crew.manager.step_clock(300 * MINUTE);
    looked(&crew);
    go_on(&mut crew);
    looked(&crew);
    crew.manager.step_clock(25 * MINUTE);
    looked(&crew);
    assert_eq!(rows(&mut crew, &waits, S::Queued).len(), 3, "it was stopped for most of the time");
    crew.manager.step_clock(8 * MINUTE);
    crew.until("them to expire", &waits, |job| counters(job).error == 3);
}

#[test]
fn who_is_offline_is_not_passed_over_while_the_budget_is_used_up() {
    let mut crew = Crew::tuned(Database::Sqlite, |config| config.limits.budget = 3);
    (0..6).for_each(|n| crew.join(n < 3));
    crew.manager.step_clock(7 * MINUTE);
    let clients = |crew: &Crew, range: std::ops::Range<usize>| -> Vec<String> {
        range.map(|n| format!("clients/{}", crew.machines[n].client())).collect()
    };
    let at_once = Some(v1::Rollout { all_at_once: true, ..Default::default() });
    let there = clients(&crew, 0..3);
    let first = crew.order_on(there, v1::JobTerms { rollout: at_once.clone(), ..Default::default() });
    crew.until("the budget to be used up", &first, |job| counters(job).finished == 3);
    let away = clients(&crew, 3..6);
    let second = crew.order_on(away, v1::JobTerms { rollout: at_once, ..terms(OfflineAction::Skip, None) });
    looked(&crew);
    assert_eq!(counters(&crew.job(&second)).waiting, 3, "they would have been offered nothing");
    crew.manager.step_clock(61 * MINUTE);
    crew.until("them to be passed over", &second, |job| counters(job).rejected == 3);
}

#[test]
fn nobody_is_passed_over_by_a_manager_that_has_just_started() {
    let mut crew = crew();
    crew.operator.hang_up();
    crew.manager.crash();
    crew.manager.start_again();
    crew.machines.iter().take(3).for_each(|machine| machine.connected());
    // Longer than a contact lasts, and shorter than whoever tries to needs to come back.
    crew.manager.step_clock(3 * MINUTE);
    let job = crew.order_on(vec!["groups/all".into()], terms(OfflineAction::Skip, None));
    crew.until("those who are there to have it", &job, |job| counters(job).finished == 3);
    looked(&crew);
    assert_eq!(counters(&crew.job(&job)).rejected, 0);
    crew.manager.step_clock(3 * MINUTE);
    crew.until("the others to be passed over", &job, |job| counters(job).rejected == 3);
}

#[test]
fn what_is_owed_to_a_machine_that_had_its_turn_waits_for_it() {
    let mut crew = Crew::of(Database::Sqlite, 1);
    let job = v1::JobTerms { on_leave: v1::OnLeave::Uninstall.into(), ..terms(OfflineAction::Fail, None) };
    let job = crew.order_on(vec!["groups/all".into()], job);
    crew.until("it to have it", &job, |job| counters(job).finished == 1);
    crew.lose(0..1);
    crew.manager.step_clock(7 * MINUTE);
    let client = format!("clients/{}", crew.machines[0].client());
    let leaves = v1::RemoveMembersRequest { name: "groups/all".into(), clients: vec![client], ..Default::default() };
    crew.operator.groups(&crew.manager, |mut g| async move { g.remove_members(leaves).await }).unwrap();
    looked(&crew);
    assert_eq!(rows(&mut crew, &job, S::Queued).len(), 1, "what it has is taken off when it comes");
    crew.machines[0].start(ClientState::Active);
    wait_until("it to be taken off", 2 * PATIENCE, || crew.machines[0].simulated.machine.installed().is_empty());
}

#[test]
fn who_was_heard_of_meanwhile_is_waited_for_anew() {
    let mut crew = crew();
    let job = crew.order_on(vec!["groups/all".into()], terms(OfflineAction::Queue, Some(3600)));
    crew.until("those who are there to have it", &job, |job| counters(job).finished == 3);
    looked(&crew);
    crew.manager.step_clock(50 * MINUTE);
    looked(&crew);
    // They come while the job offers nothing, and go again.
    let pause = v1::PauseJobRequest { name: job.clone(), ..Default::default() };
    crew.operator.jobs(&crew.manager, |mut j| async move { j.pause_job(pause).await }).unwrap();
    for n in 3..6 {
        crew.machines[n].start(ClientState::Active);
        crew.lose(n..n + 1);
    }
    crew.resume(&job);
    crew.manager.step_clock(2 * MINUTE);
    looked(&crew);
    crew.manager.step_clock(50 * MINUTE);
    looked(&crew);
    assert_eq!(rows(&mut crew, &job, S::Queued).len(), 3, "an hour since they were heard of first is over");
    crew.manager.step_clock(12 * MINUTE);
    crew.until("them to expire", &job, |job| counters(job).error == 3);
}

#[test]
fn who_is_offline_is_waited_for_as_long_as_the_job_says() {
    let mut crew = crew();
    let job = crew.order_on(vec!["groups/all".into()], terms(OfflineAction::Queue, Some(3600)));
    crew.until("those who are there to have it", &job, |job| counters(job).finished == 3);
    crew.settle(&[]);
    crew.manager.step_clock(58 * MINUTE);
    crew.settle(&[]);
    assert_eq!(rows(&mut crew, &job, S::Queued).len(), 3);
    crew.machines[3].start(ClientState::Active);
    crew.until("one more to have it", &job, |job| counters(job).finished == 4);
    crew.manager.step_clock(3 * MINUTE);
    crew.until("the others to expire", &job, |job| counters(job).error == 2);
    let expired = rows(&mut crew, &job, S::Expired);
    assert!(
        expired.len() == 2 && expired.iter().all(|row| row.reason == "OFFLINE" && row.detail.contains("not back in time")),
        "{expired:?}"
    );
}
