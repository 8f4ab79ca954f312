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
        self.rows.push(Row { turn, online, stage: None, state: Queued, entered: self.now });
    }

    fn seen(&self) -> Seen {
        let stages = self.rollout.stages().len();
        let open = self.position.stage as usize;
        let (from, silence) = (at(self.position.counted_from_ms / 1000), self.rollout.gate.silence_seconds);
        let mut seen = Seen { total: self.rows.len() as u64, failed: vec![0; stages + 1], silence: vec![0; stages + 1], ..Seen::default() };
        for row in &self.rows {
            let Some(stage) = row.stage else { continue };
            let n = (stage as usize - 1).min(stages);
            let heard = at(if row.online { self.now } else { row.entered });
            let silent = is_silent(&Offered { state: row.state, entered: at(row.entered), heard }, from, silence, at(self.now));
            seen.failed[n] += u64::from(is_failure(row.state));
            seen.silence[n] += u64::from(silent);
            if n == open && takes_place(row.state) {
                seen.taken += 1;
                seen.ended += u64::from(row.state.is_end());
                seen.silent += u64::from(silent);
                seen.waiting += u64::from(row.state == Waiting && !silent);
            }
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
        held.into_iter().for_each(|row| row.stage = Some(self.position.number()));
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
            (row.state, row.entered) = (state, self.now);
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
                    if let Some(row) = going.get_mut(n % len) { (row.state, row.entered) = (state, now); }
                }
                Event::Wait(seconds) => fleet.now += seconds,
                Event::Look(times) => {
                    let before = fleet.clone();
                    let let_go = fleet.reconcile();
                    if let (Some(share), true) = (fleet.share(), fleet.halt.is_empty()) {
                        // Only a row that was run again may have taken a place that is not there.
                        let same = before.position.stage == fleet.position.stage;
                        prop_assert!(fleet.seen().taken <= share.max(if same { before.seen().taken } else { 0 }), "{fleet:?}");
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
    let silent = |state, entered, heard, now| is_silent(&Offered { state, entered: at(entered), heard: at(heard) }, at(0), 3600, at(now));
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
    // It counts from when failures count.
    let offered = Offered { state: Installing, entered: at(100), heard: at(100) };
    assert!(!is_silent(&offered, at(10_000), 3600, at(13_599)) && is_silent(&offered, at(10_000), 3600, at(13_600)));
}

#[test]
fn silence_halts_a_stage_as_failures_do() {
    let mut fleet = Fleet::with(Rollout::default(), 100);
    fleet.reconcile();
    for row in fleet.rows.iter_mut().filter(|row| row.stage.is_some()).take(3) {
        (row.state, row.online) = (Downloading, false);
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
        fleet.rows[slow].state = state;
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
    let row = |state, attempts| Execution {
        job: JobId::from_random([1; 16]),
        client: sutler_base::ClientId::from_random([1; 16]),
        state,
        reason: String::new(),
        detail: String::new(),
        entered: at(0),
        attempt: None,
        attempts,
        revision: 1,
        item: 0,
        bytes_done: 0,
        bytes_total: 0,
        step: String::new(),
        cancel: None,
        hold: None,
        stage: 1,
        purpose: sutler_base::state::Purpose::Order,
        drifts: 0,
        change: 0,
    };
    assert!(gives_place_back(&row(Queued, 0), at(100), at(160)) && gives_place_back(&row(ExecutionState::Offered, 1), at(100), at(160)));
    assert!(!gives_place_back(&row(Queued, 0), at(100), at(159)));
    // What was begun, or has run before, counts.
    assert!(!gives_place_back(&row(Downloading, 1), at(100), at(9999)) && !gives_place_back(&row(Queued, 1), at(100), at(9999)));
}
