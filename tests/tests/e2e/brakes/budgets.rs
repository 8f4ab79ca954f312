//! Budgets of clients per hour.

use crate::rollouts::{Crew, counters};
use sutler_base::state::ClientState;
use sutler_proto::v1;
use sutler_tests::fleet::{Database, Machine, Operator};
use sutler_tests::postgres::Postgres;

const MINUTE: i64 = 60_000;

/// Everybody at once.
fn at_once(budget: i32) -> v1::JobTerms {
    v1::JobTerms { rollout: Some(v1::Rollout { all_at_once: true, ..Default::default() }), budget, ..Default::default() }
}

#[test]
fn no_more_clients_go_within_an_hour_than_the_budget_has() {
    let mut crew = Crew::tuned(Database::Sqlite, |config| config.limits.budget = 5);
    (0..12).for_each(|_| crew.join(true));
    let job = crew.order_on(vec!["groups/all".into()], at_once(0));
    let waits = crew.until("five to have it and the others to wait", &job, |job| counters(job).finished == 5 && !job.held_back.is_empty());
    let said = &waits.held_back[0];
    assert!(said.contains(&format!("the budget of {job}, 5 clients an hour, is used up; the next ones go at 2")), "{said}");
    let rows = crew.rows(&job);
    let waiting: Vec<_> = rows.iter().filter(|row| row.attempt_count == 0).collect();
    assert!(waiting.len() == 7 && waiting.iter().all(|row| row.reason == "BUDGET" && row.detail == *said), "{waiting:?}");
    assert_eq!(crew.explained(waiting[0].client.clone()), *said);
    // Neither a restart nor whoever comes changes that, nor a clock that has not reached the hour.
    crew.operator.hang_up();
    crew.manager.crash();
    crew.manager.start_again();
    crew.machines.iter().for_each(Machine::connected);
    crew.join(true);
    crew.manager.step_clock(58 * MINUTE);
    crew.settle(&[]);
    assert_eq!(crew.hurt(), 5);
    crew.manager.step_clock(3 * MINUTE);
    crew.until("five more to have it", &job, |job| counters(job).finished == 10);
    crew.settle(&[]);
    assert_eq!(crew.hurt(), 10);
    crew.manager.step_clock(61 * MINUTE);
    let done = crew.until("all to have it", &job, |job| counters(job).finished == 13);
    assert_eq!(done.held_back, Vec::<String>::new());
}

#[test]
fn all_jobs_of_an_operator_spend_from_one_budget_and_a_job_that_stands_from_its_own() {
    let mut crew = Crew::of(Database::Sqlite, 9);
    let client = |n: usize, crew: &Crew| format!("clients/{}", crew.machines[n].client());
    let update = |budget| v1::UpdateOperatorRequest { name: "operators/anna".into(), budget: Some(budget), ..Default::default() };
    let three = update(3);
    let anna = crew.operator.operators(&crew.manager, |mut o| async move { o.update_operator(three).await }).unwrap().operator.unwrap();
    assert_eq!((anna.budget, anna.roles.len()), (Some(3), 1), "its roles stay: {anna:?}");
    let some = |range: std::ops::Range<usize>, crew: &Crew| range.map(|n| client(n, crew)).collect::<Vec<_>>();
    let one = some(0..2, &crew);
    let one = crew.order_on(one, at_once(0));
    crew.until("both to have it", &one, |job| counters(job).finished == 2);
    let two = some(2..5, &crew);
    let two = crew.order_on(two, at_once(0));
    let waits = crew.until("one more to have it", &two, |job| counters(job).finished == 1 && !job.held_back.is_empty());
    assert!(waits.held_back[0].contains("the budget of operators/anna, 3 clients an hour"), "{waits:?}");
    crew.settle(&[]);
    assert_eq!(crew.hurt(), 3);
    // What stands has as many of its own, or as it says.
    let standing = crew.order_on(vec!["groups/all".into()], at_once(2));
    crew.until("two to have it", &standing, |job| counters(job).finished == 2 && !job.held_back.is_empty());
    crew.settle(&[]);
    assert_eq!(counters(&crew.job(&standing)).finished, 2);
    // More room is felt at once.
    let any = update(0);
    crew.operator.operators(&crew.manager, |mut o| async move { o.update_operator(any).await }).unwrap();
    crew.until("the others of the second to have it", &two, |job| counters(job).finished == 3);
    crew.settle(&[]);
    assert_eq!(counters(&crew.job(&standing)).finished, 2);
}

#[test]
fn two_managers_spend_from_one_budget() {
    let Some(postgres) = Postgres::shared() else { return };
    let mut crew = Crew::tuned(Database::Postgres(postgres), |config| config.limits.budget = 6);
    let second = crew.manager.second();
    let mut elsewhere = Operator::new(&second, crew.runtime.handle());
    let request = v1::CreateEnrollmentTokensRequest {
        uses: 100,
        networks: vec!["127.0.0.0/8".into()],
        groups: vec!["groups/all".into()],
        ..Default::default()
    };
    let made = elsewhere.tokens(&second, |mut t| async move { t.create_enrollment_tokens(request).await }).unwrap();
    let other = made.tokens[0].secret.clone();
    for n in 0..16 {
        if n % 2 == 0 {
            crew.join(true);
            continue;
        }
        let mut machine = Machine::enroll(&format!("other-{n}"), 1000 + n, &other, crew.runtime.handle());
        machine.start(ClientState::Active);
        crew.machines.push(machine);
    }
    let job = crew.order_on(vec!["groups/all".into()], at_once(0));
    crew.until("six to have it", &job, |job| counters(job).finished == 6 && !job.held_back.is_empty());
    crew.settle(&[&second]);
    assert_eq!(crew.hurt(), 6);
}
