//! Who of several managers does what is due, and how the others hear of it.

use super::*;
use sutler_tests::harness::JobView;
use sutler_tests::postgres::Postgres;

/// Backends that wait for a lock of a statement like this, as a manager's.
fn waiting(bed: &Bed, database: &str, statement: &str) -> i64 {
    let sql = format!(
        "SELECT 'waiting', count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sutler' \
         AND wait_event_type = 'Lock' AND query LIKE '{statement}%'"
    );
    bed.rows(database, &sql).remove("waiting").unwrap_or_default()
}

fn let_go(bed: &Bed, database: &str) -> BTreeMap<String, i64> {
    bed.rows(database, "SELECT 'stage ' || stage, count(*) FROM execution WHERE stage > 0 GROUP BY stage")
}

#[test]
fn a_manager_that_was_stopped_in_the_middle_of_a_gate_holds_nobody_up_and_opens_nothing_when_it_goes_on() {
    let Some(postgres) = Postgres::shared() else { return };
    let database = postgres.create_database();
    let mut bed = Bed::new(&database, 2);
    // The other one comes when the first is in the middle of it.
    bed.managers[1].kill();
    bed.populate(16, 0);
    bed.machines.iter().for_each(|machine| machine.simulated.machine.hold_steps(true));
    let hold = |bed: &Bed, held: bool| bed.machines.iter().for_each(|machine| machine.simulated.machine.hold_steps(held));
    let orders = bed.orders();
    let job = orders.order(true);
    let running = |n: i64| wait_until("machines to run the step", PATIENCE, || orders.job(&job).counters.unwrap_or_default().running == n);
    running(STAGES[0]);

    // The first stage is done, and the manager that opens the next one has locked the job, and waits for what is locked here.
    let mut lock = bed.runtime.block_on(sqlx::PgConnection::connect(&database)).unwrap();
    let lock_rollout = "BEGIN; SELECT position FROM rollout FOR UPDATE";
    bed.runtime.block_on(sqlx::raw_sql(lock_rollout).execute(&mut lock)).unwrap();
    hold(&bed, false);
    wait_until("the manager to be about to open the next stage", PATIENCE, || waiting(&bed, &database, "SELECT position FROM rollout") > 0);
    hold(&bed, true);
    bed.managers[0].freeze();
    bed.runtime.block_on(lock.close()).unwrap();
    // Now it has all that it needs, and does nothing with it.
    let stands_still = "SELECT 'still', count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sutler' \
                        AND state = 'idle in transaction'";
    wait_until("it to hold the job", PATIENCE, || bed.rows(&database, stands_still)["still"] > 0);

    bed.managers[1].serve();
    bed.front.leads_to([bed.managers[1].addresses().operators]);
    running(STAGES[1]);
    let open = BTreeMap::from([("stage 1".to_owned(), STAGES[0]), ("stage 2".to_owned(), STAGES[1])]);
    assert_eq!(let_go(&bed, &database), open);

    // It goes on where it was, and finds that it is not there any more.
    let rounds = || bed.managers[0].metric("sutler_rounds_total{worker=\"rollouts\"}").unwrap_or_default();
    bed.managers[0].go_on();
    let before = rounds();
    wait_until("it to have looked at what is due", PATIENCE, || rounds() > before + 3.0);
    assert_eq!(let_go(&bed, &database), open);
    let opened = "SELECT detail, count(*) FROM audit WHERE action = 'open_stage' GROUP BY detail";
    assert_eq!(bed.rows(&database, opened).into_values().collect::<Vec<_>>(), [1], "one stage was opened, and once");

    hold(&bed, false);
    bed.all_serve();
    bed.settle(&orders, &database);
    assert!(bed.rows(&database, opened).into_values().all(|times| times == 1));
}

#[test]
fn work_that_is_ordered_at_one_manager_reaches_a_machine_at_another_before_that_looks_by_itself() {
    let Some(postgres) = Postgres::shared() else { return };
    let mut bed = Bed::new(&postgres.create_database(), 2);
    bed.balancer.leads_to([bed.managers[1].addresses().agents]);
    bed.populate(0, 1);
    let cli = bed.managers[0].cli();
    let client = bed.agents[0].id();
    let looks = || bed.managers[1].metric("sutler_rounds_total{worker=\"queued\"}").unwrap_or_default();
    // It may look in that very moment: not each time.
    let reached = (0..5).any(|_| {
        let before = looks();
        let job = cli.id(&format!("job run --package hello --replace always --client {client}"));
        JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
        looks() == before
    });
    assert!(reached, "each of five orders was found only when the other manager looked by itself");
}
