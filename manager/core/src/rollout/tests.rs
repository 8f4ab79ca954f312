//! The promises of a rollout, over fleets that are plain lists: what the database would say is counted from them.

use super::*;
use proptest::prelude::*;
use sutler_base::state::ExecutionState::{
    self, AlreadyInstalled, Canceled, Downloading, Failed, Installing, Interrupted, Queued, Rejected, Restoring, Succeeded, Verifying,
    Waiting,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A client of the job.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    turn: i64,
    online: bool,
    /// In which stage it was let go, from 1.
    stage: Option<u32>,
    state: ExecutionState,
    entered: i64,
    /// Whether what it waits for may last.
    may_wait: bool,
    /// Since when it may have been silent.
    quiet: i64,
}

impl Row {
    fn moves(&mut self, state: ExecutionState, now: i64) {
        if self.state == Queued || self.state == Waiting && self.may_wait && state != Waiting {
            self.quiet = now;
        }
        (self.state, self.entered) = (state, now);
    }
}

/// A job with its rows, as the database has them.
#[derive(Debug, Clone, PartialEq)]
struct Fleet {
    rollout: Rollout,
    position: Position,
    rows: Vec<Row>,
    now: i64,
    halt: String,
}

impl Fleet {
    fn new(rollout: Rollout) -> Fleet {
        Fleet { rollout, position: Position::default(), rows: Vec::new(), now: 1, halt: String::new() }
    }

    fn with(rollout: Rollout, clients: usize) -> Fleet {
        let mut fleet = Fleet::new(rollout);
        (0..clients).for_each(|_| fleet.join(true));
        fleet
    }

    fn join(&mut self, online: bool) {
        let job = JobId::from_random([7; 16]);
        let turn = turn(&job, &format!("client-{}", self.rows.len()));
        let now = self.now;
        self.rows.push(Row { turn, online, stage: None, state: Queued, entered: now, may_wait: true, quiet: now });
    }

    fn seen(&self) -> Seen {
        let stages = self.rollout.stages().len();
        let open = self.position.stage as usize;
        let before = silent_before(at(0), self.rollout.gate.silence_seconds, at(self.now));
        let (mut outcomes, mut fell_silent) = (Vec::new(), Vec::new());
        let mut seen = Seen { total: self.rows.len() as u64, failed: vec![0; stages + 1], silence: vec![0; stages + 1], ..Seen::default() };
        for row in &self.rows {
            let Some(stage) = row.stage else { continue };
            let n = self.position.stage_of(stage, stages).unwrap();
            let heard = at(if row.online { self.now } else { row.entered });
            let client = Offered { state: row.state, entered: at(row.entered), quiet: at(row.quiet), may_wait: row.may_wait, heard };
            let silent = before.is_some_and(|before| is_silent(&client, before));
            if row.state == Succeeded || is_failure(row.state) {
                outcomes.push((at(row.entered), is_failure(row.state)));
            }
            if silent && n == stages {
                fell_silent.push(at(row.quiet + i64::from(self.rollout.gate.silence_seconds)));
            }
            seen.failed[n] += u64::from(is_failure(row.state));
            seen.silence[n] += u64::from(silent);
            if n == open && takes_place(row.state) {
                seen.taken += 1;
                seen.ended += u64::from(row.state.is_end());
                seen.silent += u64::from(silent);
                seen.waiting += u64::from(row.state == Waiting && !silent);
            }
        }
        if open == stages {
            (seen.failed[stages], seen.silence[stages]) = of_window(&outcomes, &fell_silent);
        }
        seen
    }

    /// What a manager does; gives back how many it let go.
    fn reconcile(&mut self) -> usize {
        if !self.halt.is_empty() {
            return 0;
        }
        let decision = decide(&self.rollout, &self.position, &self.seen(), at(self.now));
        if !decision.halt.is_empty() {
            self.halt = decision.halt;
            return 0;
        }
        self.position = decision.position;
        let rest = self.position.stage as usize >= self.rollout.stages().len();
        let mut held: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.stage.is_none() && (row.online || rest)).collect();
        held.sort_by_key(|row| row.turn);
        let let_go = held.len().min(usize::try_from(decision.release).unwrap_or(usize::MAX));
        held.truncate(let_go);
        held.into_iter().for_each(|row| (row.stage, row.quiet) = (Some(self.position.number()), self.now));
        let_go
    }

    fn share(&self) -> Option<u64> {
        let stages = self.rollout.stages();
        stages.get(self.position.stage as usize)?.share.places(self.position.before, self.rows.len() as u64)
    }

    fn started(&self) -> usize {
        self.rows.iter().filter(|row| row.stage.is_some()).count()
    }

    /// Ends what was let go and is online.
    fn end(&mut self, state: ExecutionState) {
        for row in self.rows.iter_mut().filter(|row| row.online && row.stage.is_some() && !row.state.is_end() && row.state != state) {
            row.moves(state, self.now);
        }
    }

    /// Runs again what was rejected, called off or had nothing to do.
    fn again(&mut self) {
        for row in self.rows.iter_mut().filter(|row| !takes_place(row.state)) {
            if self.position.waits_anew(row.state, Purpose::Order, row.stage.unwrap_or_default()) {
                row.stage = None;
            }
            row.moves(Queued, self.now);
        }
    }

    /// Lets everything end so, for as long as it takes.
    fn live(&mut self, state: ExecutionState) {
        for _ in 0..200 {
            self.reconcile();
            self.end(state);
            self.now += 300;
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Join(bool),
    Contact(usize),
    Moves(usize, ExecutionState),
    Wait(i64),
    Again,
    Look(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        6 => Just(Succeeded), 1 => Just(Failed), 1 => Just(Interrupted), 1 => Just(Rejected), 1 => Just(AlreadyInstalled),
        1 => Just(Canceled), 2 => Just(Waiting), 2 => Just(Installing), 1 => Just(ExecutionState::Offered),
    ];
    prop_oneof![
        4 => any::<bool>().prop_map(Event::Join),
        1 => any::<usize>().prop_map(Event::Contact),
        8 => (any::<usize>(), state).prop_map(|(n, state)| Event::Moves(n, state)),
        1 => (1..5000i64).prop_map(Event::Wait),
        1 => Just(Event::Again),
        6 => (1..4u8).prop_map(Event::Look),
    ]
}

fn stage() -> impl Strategy<Value = Stage> {
    let share = (0..8u32, 0..60u32, any::<bool>()).prop_map(|(count, percent, beyond)| match (beyond, count.max(1)) {
        (true, count) => Share::Beyond { count, percent },
        (false, count) => Share::UpTo { count, percent },
    });
    (share, 0..900u32).prop_map(|(share, soak_seconds)| Stage { share, soak_seconds })
}

fn rollout() -> impl Strategy<Value = Rollout> {
    let tolerated = prop_oneof![(0..4u32).prop_map(Tolerance::Count), (0..100u32).prop_map(Tolerance::Percent)];
    (proptest::collection::vec(stage(), 0..5), tolerated, 60..4000u32).prop_map(|(stages, tolerated, silence_seconds)| Rollout {
        all_at_once: false,
        stages,
        gate: Gate { tolerated, silence_seconds },
    })
}

proptest! {
    // Each case is a whole rollout.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, in whatever order, and however often managers look.
    #[test]
    fn a_stage_never_lets_go_more_than_its_share_and_looking_again_changes_nothing(
        rollout in rollout(),
        events in proptest::collection::vec(event(), 1..150),
    ) {
        let mut fleet = Fleet::new(rollout);
        for event in events {
            match event {
                Event::Join(online) => fleet.join(online),
                Event::Contact(n) => {
                    let len = fleet.rows.len().max(1);
                    if let Some(row) = fleet.rows.get_mut(n % len) { row.online = !row.online; }
                }
                Event::Moves(n, state) => {
                    let now = fleet.now;
                    let mut going: Vec<_> = fleet.rows.iter_mut().filter(|r| r.online && r.stage.is_some() && !r.state.is_end()).collect();
                    let len = going.len().max(1);
                    if let Some(row) = going.get_mut(n % len) { row.moves(state, now); }
                }
                Event::Wait(seconds) => fleet.now += seconds,
                Event::Again => fleet.again(),
                Event::Look(times) => {
                    let before = fleet.clone();
                    let let_go = fleet.reconcile();
                    if let (Some(share), true) = (fleet.share(), fleet.halt.is_empty()) {
                        prop_assert!(fleet.seen().taken <= share, "{fleet:?}");
                    }
                    // Another manager, or the same after a restart, sees the same and is of the same opinion.
                    let mut other = before.clone();
                    other.reconcile();
                    prop_assert_eq!(&other, &fleet);
                    // Nothing starts once it is halted, and a halt stays.
                    if !before.halt.is_empty() {
                        prop_assert_eq!(let_go, 0);
                    }
                    let after = fleet.clone();
                    for _ in 1..times { fleet.reconcile(); }
                    if fleet.position.stage == after.position.stage {
                        prop_assert_eq!(fleet.started(), after.started());
                    }
                }
            }
            let (position, stages) = (&fleet.position, fleet.rollout.stages().len() as u32);
            prop_assert!(position.stage <= stages && position.passed.len() as u32 == position.stage);
        }
    }

    #[test]
    fn when_all_goes_well_everybody_gets_it(rollout in rollout(), clients in 1..120usize) {
        let mut fleet = Fleet::with(rollout, clients);
        fleet.live(Succeeded);
        prop_assert_eq!(&fleet.halt, "");
        prop_assert_eq!(fleet.started(), clients);
        prop_assert!(fleet.rows.iter().all(|row| row.state == Succeeded));
    }

    #[test]
    fn who_goes_first_does_not_depend_on_the_order_of_events(
        clients in 21..80usize, order in proptest::collection::vec(any::<u16>(), 100),
    ) {
        let mut fleet = Fleet::with(Rollout::default(), clients);
        let mut other = fleet.clone();
        fleet.live(Succeeded);
        // One after the other, in any order, with a look after each.
        for n in order.iter().cycle().take(4000) {
            let mut going: Vec<_> = other.rows.iter_mut().filter(|r| r.stage.is_some() && !r.state.is_end()).collect();
            let len = going.len().max(1);
            if let Some(row) = going.get_mut(usize::from(*n) % len) { row.state = Succeeded; }
            other.now += 30;
            other.reconcile();
        }
        let stages = |fleet: &Fleet| fleet.rows.iter().map(|row| row.stage).collect::<Vec<_>>();
        prop_assert_eq!(stages(&fleet), stages(&other));
    }

    #[test]
    fn a_package_that_breaks_all_hurts_the_first_stage_alone(rollout in rollout(), clients in 1..200usize, ends in any::<bool>()) {
        let first = rollout.stages().remove(0).share.places(0, clients as u64).unwrap();
        prop_assume!(rollout.gate.tolerated.of(first) < first);
        let mut fleet = Fleet::with(rollout, clients);
        // They fail, or they die without a word.
        fleet.live(if ends { Failed } else { Installing });
        prop_assert!(fleet.started() as u64 <= first, "{} of {first} were hurt", fleet.started());
        let tolerated = fleet.rollout.gate.tolerated.of(first);
        prop_assert_eq!(fleet.halt.is_empty(), fleet.started() as u64 <= tolerated);
    }
}

#[test]
fn by_default_two_hundred_clients_go_in_five_waves() {
    let mut fleet = Fleet::with(Rollout::default(), 200);
    let mut waves = Vec::new();
    for _ in 0..100 {
        let n = fleet.reconcile();
        if n > 0 {
            waves.push((fleet.now, n));
        }
        fleet.end(Succeeded);
        fleet.now += 60;
    }
    // 10 % of 200 have started before: that stage has nothing to wait for.
    assert_eq!(waves, [(1, 20), (61, 5), (1021, 75), (1981, 100)]);
}

#[test]
fn a_standing_job_on_an_empty_group_goes_through_the_same_stages_one_client_at_a_time() {
    let mut fleet = Fleet::new(Rollout::default());
    let mut started = Vec::new();
    for n in 1..=40 {
        fleet.join(true);
        fleet.reconcile();
        fleet.end(Succeeded);
        fleet.reconcile();
        started.push(fleet.started());
        fleet.now += 1;
        assert_eq!(started[n - 1], n.min(25), "of {n}");
    }
    fleet.now += 15 * 60;
    fleet.live(Succeeded);
    assert_eq!(fleet.started(), 40);
    // From now on who comes starts at once, and the gate slides: a package that turns bad is noticed.
    for n in 1..100 {
        fleet.join(true);
        fleet.reconcile();
        fleet.end(Failed);
        fleet.reconcile();
        if !fleet.halt.is_empty() {
            assert_eq!(n as u64, fleet.rollout.gate.tolerated.of_window() + 1);
            assert!(fleet.halt.contains("of the newest 50"), "{}", fleet.halt);
            return;
        }
    }
    panic!("nothing halted it");
}

#[test]
fn whose_machine_was_left_as_it_is_takes_no_place() {
    for state in [Rejected, AlreadyInstalled, Canceled] {
        let mut fleet = Fleet::with(Rollout::default(), 100);
        fleet.reconcile();
        fleet.end(state);
        assert_eq!((fleet.reconcile(), fleet.started()), (20, 40), "{state}");
    }
}

#[test]
fn a_third_of_the_fleet_is_offline_and_holds_up_nobody() {
    let mut fleet = Fleet::with(Rollout::default(), 200);
    fleet.rows.iter_mut().step_by(3).for_each(|row| row.online = false);
    fleet.live(Succeeded);
    assert!(fleet.rows.iter().filter(|row| row.online).all(|row| row.state == Succeeded));
    assert_eq!(fleet.halt, "");
    // They come back, one after the other.
    for n in 0..200 {
        fleet.rows[n].online = true;
        fleet.live(Succeeded);
    }
    assert!(fleet.rows.iter().all(|row| row.state == Succeeded));
}

#[test]
fn silence_is_what_the_module_says() {
    let client = |state, entered, heard| Offered { state, entered: at(entered), quiet: at(100), may_wait: true, heard: at(heard) };
    let silent = |state, entered, heard, now| is_silent(&client(state, entered, heard), silent_before(at(0), 3600, at(now)).unwrap());
    for state in [ExecutionState::Offered, Downloading, Installing, Verifying, Restoring] {
        assert!(!silent(state, 100, 3699, 3699), "{state}");
        // Also one that is in contact and says nothing new.
        assert!(silent(state, 100, 3700, 3700), "{state}");
    }
    // Who waits may do so for as long as it is in contact.
    assert!(!silent(Waiting, 100, 999_999, 1_000_000));
    assert!(!silent(Waiting, 100, 5000, 5000 + 3599));
    assert!(silent(Waiting, 100, 5000, 5000 + 3600));
    for state in [Queued, Succeeded, Failed, Rejected, Canceled] {
        assert!(!silent(state, 0, 0, 1_000_000), "{state}");
    }
    // It counts from when it can have been heard.
    assert_eq!((silent_before(at(10_000), 3600, at(13_599)), silent_before(at(10_000), 3600, at(13_600))), (None, Some(at(10_000))));
}

#[test]
fn who_says_something_new_all_the_time_and_gets_nowhere_is_silent() {
    let mut fleet = Fleet::with(Rollout::default(), 100);
    fleet.reconcile();
    for flip in 0..24 {
        for row in fleet.rows.iter_mut().filter(|row| row.stage.is_some()) {
            row.may_wait = false;
            row.moves(if flip % 2 == 0 { Downloading } else { Waiting }, fleet.now);
        }
        fleet.now += 300;
        fleet.reconcile();
        assert_eq!(!fleet.halt.is_empty(), flip >= 11, "after {flip} flips");
    }
    assert!(fleet.halt.starts_with("20 fell silent of 20 clients"), "{}", fleet.halt);
}

#[test]
fn in_the_rest_who_fell_silent_long_ago_does_not_count_for_ever() {
    let mut fleet =
        Fleet::new(Rollout { stages: vec![Stage { share: Share::UpTo { count: 1, percent: 0 }, soak_seconds: 0 }], ..Default::default() });
    // One in fifty goes away in the middle of it, all through a long rollout that goes well.
    for n in 0..1000 {
        fleet.join(true);
        fleet.reconcile();
        if n % 50 == 49 {
            fleet.rows[n].moves(Downloading, fleet.now);
            fleet.rows[n].online = false;
        }
        fleet.end(Succeeded);
        fleet.now += 100;
        fleet.reconcile();
        assert_eq!(fleet.halt, "", "after {n}");
    }
    assert_eq!(fleet.rows.iter().filter(|row| row.state == Downloading).count(), 20);
    // If they all go at the same time, it is noticed.
    for n in 1000..1020 {
        fleet.join(true);
        fleet.reconcile();
        fleet.rows[n].moves(Downloading, fleet.now);
        fleet.rows[n].online = false;
    }
    fleet.now += 3600;
    fleet.reconcile();
    assert!(fleet.halt.contains("fell silent of the newest 50"), "{}", fleet.halt);
}

#[test]
fn a_group_that_goes_first_is_through_once_none_of_it_is_left_and_if_there_is_nobody() {
    let pilots = Pilot { name: "pilots".parse().unwrap(), uid: None };
    let stage = Stage { share: Share::Members(vec![pilots]), soak_seconds: 60 };
    let rollout = Rollout { stages: vec![stage], ..Default::default() };
    let none = Seen { total: 10, failed: vec![0; 2], silence: vec![0; 2], ..Seen::default() };
    let opens = |seen: &Seen| decide(&rollout, &Position::default(), seen, at(1)).position;
    // Nobody is in the groups, or they are gone: it says so. While the job reaches nobody at all, that is not known.
    let passed = opens(&none);
    assert_eq!((passed.stage, &passed.passed), (1, &vec![0]));
    assert!(status(&rollout, &passed, Some(&none)).contains("nobody went first in stage 1 of 2 (members of groups/pilots)"));
    assert_eq!(opens(&Seen { total: 0, ..none.clone() }).stage, 0);
    // Its members are away, or there are more; what was let go was rejected everywhere.
    assert_eq!(opens(&Seen { members_held: true, ..none.clone() }).stage, 0);
    assert_eq!(opens(&Seen { members_held: true, members_left: true, let_go: 3, ..none.clone() }).stage, 0);
    assert_eq!(opens(&Seen { let_go: 3, ..none.clone() }).stage, 1);
    // Who did it is waited for.
    let done = Seen { let_go: 3, taken: 2, ended: 2, ..none.clone() };
    assert_eq!((opens(&done).stage, opens(&done).settled_ms), (0, Some(1000)));
}

#[test]
fn another_package_goes_through_the_stages_again_and_what_was_let_go_before_says_nothing_of_it() {
    let halt = Halt { why: "a sentence".into(), by: GATE.into(), at_ms: 1 };
    let before = Position { stage: 4, before: 200, passed: vec![20, 5, 75, 100], halt: Some(halt.clone()), ..Position::default() };
    let position = before.afresh(4);
    assert_eq!((position.stage, position.before, position.number(), &position.halt), (0, 0, 6, &Some(halt)));
    assert_eq!([1, 5, 6, 9, 10, 0].map(|n| position.stage_of(n, 4)), [None, None, Some(0), Some(3), Some(4), Some(4)]);
    assert!(position.waits_anew(Failed, Purpose::Order, 5) && !position.waits_anew(Failed, Purpose::Order, 6));
    assert_eq!(Position::default().stage_of(1, 4), Some(0));
    // A job from before there were stages has reached everybody.
    assert_eq!((Position::of_the_rest(4).stage, Position::of_the_rest(4).stage_of(0, 4)), (4, Some(4)));
}

#[test]
fn silence_halts_a_stage_as_failures_do() {
    let mut fleet = Fleet::with(Rollout::default(), 100);
    fleet.reconcile();
    for row in fleet.rows.iter_mut().filter(|row| row.stage.is_some()).take(3) {
        row.moves(Downloading, 1);
        row.online = false;
    }
    fleet.end(Succeeded);
    fleet.now += 3599;
    fleet.reconcile();
    assert_eq!((fleet.halt.as_str(), fleet.started()), ("", 20));
    fleet.now += 1;
    fleet.reconcile();
    assert!(fleet.halt.starts_with("3 fell silent of 20 clients in stage 1 of 5"), "{}", fleet.halt);
}

#[test]
fn one_machine_that_waits_for_its_user_holds_up_no_fleet_but_one_that_works_does() {
    for (state, goes_on) in [(Waiting, true), (Installing, false)] {
        let mut fleet = Fleet::with(Rollout::default(), 100);
        fleet.reconcile();
        let slow = fleet.rows.iter().position(|row| row.stage.is_some()).unwrap();
        fleet.rows[slow].moves(state, 1);
        for n in 0..100 {
            if n != slow && fleet.rows[n].stage.is_some() {
                fleet.rows[n].state = Succeeded;
            }
        }
        fleet.reconcile();
        assert_eq!(fleet.started() > 20, goes_on, "{state}");
    }
}

#[test]
fn an_operator_may_open_the_next_stage_or_all() {
    let mut fleet = Fleet::with(Rollout::default(), 200);
    fleet.reconcile();
    fleet.position = promote(&fleet.rollout, &fleet.position, &fleet.seen(), false).unwrap();
    assert_eq!((fleet.reconcile(), fleet.started()), (5, 25));
    fleet.position = promote(&fleet.rollout, &fleet.position, &fleet.seen(), true).unwrap();
    assert_eq!(promote(&fleet.rollout, &fleet.position, &fleet.seen(), false), None);
    fleet.reconcile();
    assert_eq!(fleet.started(), 200);
    // What the stages let go goes on being judged by its own gate.
    for row in fleet.rows.iter_mut().filter(|row| row.stage == Some(1)).take(3) {
        row.state = Failed;
    }
    fleet.reconcile();
    assert!(fleet.halt.contains("stage 1 of 5"), "{}", fleet.halt);
}

#[test]
fn a_row_gives_its_place_back_until_it_was_begun() {
    for state in [Queued, ExecutionState::Offered] {
        assert!(!gives_place_back(state, at(100), at(159)) && gives_place_back(state, at(100), at(160)), "{state}");
    }
    assert!(!gives_place_back(Downloading, at(100), at(9999)));
    // Whether it is the first attempt or not: a machine that is off would hold up everybody.
    assert!(cannot_be_offered(Queued, at(100), at(700)) && !cannot_be_offered(Queued, at(100), at(699)));
    assert!(!cannot_be_offered(ExecutionState::Offered, at(100), at(9999)));
}
