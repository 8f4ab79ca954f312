//! Managers that are killed and stopped while work goes on.

use super::*;
use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Instant,
};
use sutler_tests::postgres::Postgres;

/// Repeats a run: the seed that it printed.
const SEED: &str = "SUTLER_MANAGERS_SEED";
/// For how many seconds faults are made.
const SECONDS: &str = "SUTLER_MANAGERS_SECONDS";

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % most as u64) as usize
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn whichever_managers_are_killed_and_stopped_each_step_runs_once_and_nothing_acknowledged_is_lost() {
    let Some(postgres) = Postgres::start() else { return };
    let seed = number(SEED).unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("{SEED}={seed} repeats the order of faults");
    let (mut dice, most) = (Dice(seed), Duration::from_secs(number(SECONDS).unwrap_or(20)));
    let database = postgres.create_database();
    let mut bed = Bed::new(&database, 3);
    bed.populate(20, 2);
    let orders = bed.orders();
    std::thread::scope(|scope| {
        // However this ends: else the scope would wait for the orders for ever.
        let end = Over(&orders);
        scope.spawn(|| orders.go_on());
        let begin = Instant::now();
        while begin.elapsed() < most {
            let (one, other) = (dice.below(3), 1 + dice.below(2));
            let other = (one + other) % 3;
            let left: Vec<usize> = (0..3).filter(|n| *n != one).collect();
            match dice.below(4) {
                0 => {
                    println!("{:?}: {one} is killed, and is back at once", begin.elapsed());
                    bed.managers[one].kill_and_serve();
                }
                1 => {
                    println!("{:?}: {one} is killed, and is back when nobody misses it", begin.elapsed());
                    bed.managers[one].kill();
                    bed.all_are_at(&left);
                    bed.managers[one].serve();
                }
                2 => {
                    println!("{:?}: {one} is stopped, and goes on when nobody misses it", begin.elapsed());
                    bed.managers[one].freeze();
                    bed.all_are_at(&left);
                    bed.managers[one].go_on();
                }
                _ => {
                    println!("{:?}: {one} is stopped while {other} is killed", begin.elapsed());
                    bed.managers[one].freeze();
                    bed.managers[other].kill_and_serve();
                    bed.all_are_at(&left);
                    bed.managers[one].go_on();
                }
            }
        }
        drop(end);
    });
    bed.settle(&orders, &database);
}

/// Says that it is over when it is dropped.
pub(super) struct Over<'a>(pub(super) &'a Orders);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}
