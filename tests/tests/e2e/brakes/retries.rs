//! Retries by themselves.

use crate::lines::push;
use crate::rollouts::{Crew, counters, hello, status};
use sutler_base::state::ClientState;
use sutler_proto::v1::{self, ExecutionState as S, JobState};
use sutler_tests::fleet::Database;
use sutler_tests::harness::{Agent, JobView, Manager, PATIENCE, wait_until};
use sutler_tests::postgres::Postgres;

const MINUTE: i64 = 60_000;

fn terms(count: i32, minutes: i64) -> v1::JobTerms {
    let after = Some(prost_types::Duration { seconds: 60 * minutes, nanos: 0 });
    v1::JobTerms { retries: Some(v1::Retries { count, after, error_kinds: vec![] }), ..Default::default() }
}

#[test]
fn what_fails_is_run_again_by_itself_so_often_and_so_far_apart_as_its_job_says() {
    let mut crew = Crew::of(Database::Sqlite, 2);
    crew.machines[0].simulated.machine.fail(&hello(), 1, Some(2));
    crew.machines[1].simulated.machine.fail(&hello(), 1, None);
    let job = crew.order_on(vec!["groups/all".into()], terms(2, 10));
    let attempts = |crew: &Crew| crew.machines.iter().map(|m| m.simulated.machine.runs().len()).collect::<Vec<_>>();
    // Each comes after twice as long as the one before, and a fifth more at the most.
    for (n, minutes) in [(1, 10), (2, 20)] {
        let mut rows = vec![];
        wait_until("both to wait for a retry", 2 * PATIENCE, || {
            rows = crew.rows(&job);
            rows.iter().all(|row| row.reason == "RETRY" && row.attempt_count == n)
        });
        for row in &rows {
            let expected = format!("retry {n} of 2 comes at 2");
            assert_eq!((row.state(), row.reason.as_str(), row.attempt_count), (S::Queued, "RETRY", n), "{row:?}");
            assert!(row.detail.starts_with(&expected) && row.detail.contains("STEP_FAILED"), "{row:?}");
        }
        assert_eq!(crew.explained(rows[0].client.clone()), rows[0].detail);
        let before = attempts(&crew);
        crew.manager.step_clock((minutes - 1) * MINUTE);
        crew.settle(&[]);
        assert_eq!(attempts(&crew), before, "too early");
        if n == 1 {
            // What is waited for is not forgotten.
            crew.operator.hang_up();
            crew.manager.crash();
            crew.manager.start_again();
        }
        crew.manager.step_clock((minutes / 5 + 2) * MINUTE);
        let mut now = before.clone();
        wait_until("both to have run again", 2 * PATIENCE, || {
            now = attempts(&crew);
            now.iter().zip(&before).all(|(now, before)| *now == before + 1)
        });
    }
    let done = crew.until("both to be at an end", &job, |job| counters(job).finished == 1 && counters(job).error == 1);
    assert_eq!(done.state(), JobState::Active);
    crew.manager.step_clock(24 * 60 * MINUTE);
    crew.settle(&[]);
    assert_eq!(attempts(&crew), [3, 3], "no more than two retries");
}

#[test]
fn an_attempt_whose_journal_was_lost_is_run_again_where_the_job_names_that_it_was_interrupted() {
    let mut crew = Crew::of(Database::Sqlite, 2);
    crew.machines.iter().for_each(|machine| machine.simulated.machine.hold_steps(true));
    let client = |crew: &Crew, n: usize| vec![format!("clients/{}", crew.machines[n].client())];
    let named = |kinds: &[&str]| {
        let mut terms = terms(1, 10);
        terms.retries.as_mut().unwrap().error_kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        terms
    };
    let (one, other) = (client(&crew, 0), client(&crew, 1));
    let again = crew.order_on(one, named(&["INTERRUPTED"]));
    let never = crew.order_on(other, named(&["STEP_FAILED"]));
    crew.until_begun(2);
    for job in [&again, &never] {
        crew.until("the step to be reported", job, |job| counters(job).running == 1);
    }
    for machine in &mut crew.machines {
        machine.kill();
        machine.simulated.journal.lose();
        machine.simulated.machine.hold_steps(false);
        machine.start(ClientState::Active);
    }
    crew.until("the other one to be interrupted", &never, |job| counters(job).error == 1);
    crew.until("it to wait for its retry", &again, |job| counters(job).waiting == 1);
    let row = crew.rows(&again).remove(0);
    assert!((row.reason.as_str(), row.attempt_count) == ("RETRY", 1) && row.detail.contains("INTERRUPTED"), "{row:?}");
    crew.manager.step_clock(13 * MINUTE);
    crew.until("it to be run again", &again, |job| counters(job).finished == 1);
    assert_eq!((crew.rows(&again)[0].attempt_count, crew.rows(&never)[0].attempt_count), (2, 1));
}

#[test]
fn a_manager_whose_clock_is_ahead_lets_no_retry_go_before_its_time() {
    let Some(postgres) = Postgres::shared() else { return };
    let mut crew = Crew::of(Database::Postgres(postgres), 1);
    crew.breaks();
    let at_once = Some(v1::Rollout { all_at_once: true, ..Default::default() });
    let job = crew.order_on(vec!["groups/all".into()], v1::JobTerms { rollout: at_once, ..terms(1, 10) });
    crew.until("it to wait for its retry", &job, |job| counters(job).waiting == 1);
    let second = crew.manager.second_ahead(60 * MINUTE);
    crew.settle(&[&second]);
    let row = crew.rows(&job).remove(0);
    assert_eq!((row.reason.as_str(), row.attempt_count), ("RETRY", 1), "{row:?}");
    assert_eq!(crew.machines[0].simulated.machine.runs().len(), 1);
}

#[test]
fn what_waits_for_its_retry_counts_for_the_gate_once() {
    let mut crew = Crew::of(Database::Sqlite, 30);
    crew.breaks();
    let job = crew.order_on(vec!["groups/all".into()], terms(3, 10));
    let halted = crew.until("the job to be halted", &job, |job| job.state() == JobState::Paused && counters(job).running == 0);
    assert!(status(&halted).halt.contains("of 20 clients in stage 1 of 5"), "{halted:?}");
    assert!(crew.hurt() <= 20);
    crew.manager.step_clock(15 * MINUTE);
    crew.settle(&[]);
    assert!(crew.machines.iter().all(|machine| machine.simulated.machine.runs().len() <= 1), "a halted job started something");
}

#[test]
fn only_the_errors_that_are_named_are_tried_again_and_whoever_does_not_want_to_wait_need_not() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    push(&cli, "bad", "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nexit 1\n", 0);
    cli.fails(2, &format!("job run --package bad --client {} --retry-after 1h", agent.id()));
    cli.fails(2, &format!("job run --package bad --client {} --retries 3 --retry-on NONSENSE", agent.id()));
    let other = cli.id(&format!("job run --package bad --client {} --retries 3 --retry-on TRANSFER,STEP_TIMEOUT", agent.id()));
    assert_eq!(JobView::wait_for_row(&cli, &other, &agent.id(), "FAILED").attempts, 1);
    let job = cli.id(&format!("job run --package bad --client {} --retries 1 --retry-after 1h --retry-on STEP_FAILED", agent.id()));
    let said = cli.ok(&format!("job show {job}"));
    assert!(said.contains("what fails is run again up to 1 times, after STEP_FAILED; the first time after 1h"), "{said}");
    let row = || JobView::of(&cli, &job).row(&agent.id()).cloned().unwrap();
    wait_until("it to wait for its retry", PATIENCE, || row().json["reason"] == "RETRY");
    assert!(cli.ok(&format!("client explain {}", agent.id())).contains("retry 1 of 1 comes at"));
    cli.ok(&format!("job retry {job} --kind waiting"));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    assert_eq!(row.attempts, 2);
    // Whoever asks for a new attempt gets the retries with it.
    cli.ok(&format!("job retry {job}"));
    wait_until("it to wait for its retry", PATIENCE, || {
        let row = JobView::of(&cli, &job).row(&agent.id()).cloned().unwrap();
        row.json["reason"] == "RETRY" && row.attempts == 3
    });
    cli.ok(&format!("job cancel {job} --yes"));
    assert_eq!(JobView::of(&cli, &job).row(&agent.id()).unwrap().state, "CANCELED");
}
