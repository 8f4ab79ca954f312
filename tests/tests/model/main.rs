//! The product as a whole against a model of its rules: whatever happens in whatever order, on both databases.
//!
//! Everything is real but the machines: the manager with its ports and its database, the operator's calls over TLS, the
//! agents with their journal and their machine of states. What may happen is in [`plan`], what must hold in [`expect`] and
//! [`check`], and [`run`] does both side by side.
//!
//! `SUTLER_MODEL_CASES` says how many lists are tried for each property and database, `SUTLER_MODEL_SEED` (64 hex digits)
//! tries the same ones again, and `SUTLER_MODEL_TRACE=1` prints what happens. A list that failed is kept in
//! `lives.txt` or `orders.txt` beside this file, and tried first from then on.

mod check;
mod expect;
mod plan;
mod run;
mod stories;

use plan::{Step, TwoOrders};
use proptest::test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use run::Case;
use std::sync::LazyLock;
use sutler_tests::{
    fleet::{Database, Packages},
    postgres::Postgres,
};

static FOLDERS: LazyLock<Packages> = LazyLock::new(|| Packages::new(&plan::PACKAGES));

/// Where lists are kept that failed.
const LIVES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/lives.txt");
const ORDERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/orders.txt");

/// Tries a property on lists that a strategy makes.
fn property<S: proptest::strategy::Strategy>(name: &str, file: &'static str, cases: u32, strategy: S, holds: impl Fn(S::Value)) {
    let cases = std::env::var("SUTLER_MODEL_CASES").ok().map_or(cases, |n| n.parse().expect("SUTLER_MODEL_CASES is a number"));
    let seed: [u8; 32] = match std::env::var("SUTLER_MODEL_SEED") {
        Ok(text) => {
            let byte = |n: usize| text.get(2 * n..2 * n + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            std::array::from_fn(|n| byte(n).expect("SUTLER_MODEL_SEED is 64 hex digits"))
        }
        Err(_) => sutler::world::World::system().secret(),
    };
    let hex: String = seed.iter().map(|b| format!("{b:02x}")).collect();
    eprintln!("{name}: {cases} cases, SUTLER_MODEL_SEED={hex}");
    let config = Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        // Each try starts a manager and agents.
        max_shrink_iters: 80,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let result = runner.run(&strategy, |value| {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| holds(value)));
        done.map_err(|why| {
            let text = why.downcast_ref::<String>().cloned().or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            TestCaseError::fail(text.unwrap_or_else(|| "it panicked".into()))
        })
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, value)) => panic!("{name}, SUTLER_MODEL_SEED={hex}: {why}\nthe smallest list that was found:\n{value:#?}"),
        Err(TestError::Abort(why)) => panic!("{name}: {why}"),
    }
}

fn the_rules_hold(database: Database, steps: &[Step]) {
    let mut case = Case::new(database, &FOLDERS);
    case.play(steps);
    case.finish();
}

fn both_orders_end_alike(database: Database, story: &TwoOrders) {
    let step = |op: &plan::Op| Step { op: op.clone(), settle: true, twice: false };
    let mut policy = vec![step(&story.policy)];
    if let (true, plan::Op::CreatePolicy { policy: number, .. }) = (story.apply, &story.policy) {
        policy.push(step(&plan::Op::Apply(*number)));
    }
    let job = vec![step(&story.job)];
    let end_of = |middle: [&[Step]; 2]| {
        let mut case = Case::new(database, &FOLDERS);
        case.play(&story.before);
        middle.iter().for_each(|steps| case.play(steps));
        case.play(&story.after);
        case.finish();
        check::end_state(&mut case)
    };
    let job_first = end_of([&job, &policy]);
    let policy_first = end_of([&policy, &job]);
    assert_eq!(job_first, policy_first, "job first, and policy first");
}

/// The server of these tests. The machine does not lose its power, so it need not wait for the disk.
fn postgres() -> Option<Database> {
    static SERVER: LazyLock<Option<Postgres>> = LazyLock::new(|| Postgres::start_with(sutler_tests::postgres::Durability::Fast));
    SERVER.as_ref().map(Database::Postgres)
}

#[test]
fn whatever_happens_the_rules_hold_on_sqlite() {
    property("whatever happens, on SQLite", LIVES, 8, plan::life(), |steps| the_rules_hold(Database::Sqlite, &steps));
}

#[test]
fn whatever_happens_the_rules_hold_on_postgres() {
    let Some(database) = postgres() else { return };
    property("whatever happens, on PostgreSQL", LIVES, 8, plan::life(), |steps| the_rules_hold(database, &steps));
}

#[test]
fn job_and_policy_in_either_order_end_alike_on_sqlite() {
    property("either order, on SQLite", ORDERS, 3, plan::two_orders(), |story| both_orders_end_alike(Database::Sqlite, &story));
}

#[test]
fn job_and_policy_in_either_order_end_alike_on_postgres() {
    let Some(database) = postgres() else { return };
    property("either order, on PostgreSQL", ORDERS, 3, plan::two_orders(), |story| both_orders_end_alike(database, &story));
}
