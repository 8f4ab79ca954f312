//! What the machine promises, by table and under random sequences of events, crashes included.

mod boots;
mod timing;
mod user;
mod ways;

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use sutler_base::{
    Digest,
    manifest::Phase,
    state::{Intent, Timing, WaitReason},
};

fn now(seconds: u64) -> Now {
    Now { wall: Timestamp::from_second(1_000_000 + seconds as i64).unwrap(), boot: Duration::from_secs(seconds), boot_id: "boot".into() }
}

fn id(n: u8) -> AttemptId {
    AttemptId::new(Timestamp::from_second(i64::from(n)).unwrap(), [n; 16])
}

fn client() -> ClientId {
    ClientId::from_random([1; 16])
}

fn offer(n: u8, items: usize) -> Offer {
    Offer {
        attempt: id(n),
        job: "jobs/1".into(),
        revision: 1,
        items: vec![OfferedItem::install(vec![n]); items],
        inventory: items == 0,
        expire: None,
        continue_on_failure: false,
        priority: 5,
        times: None,
        announcement: None,
        timing: Timing::Now,
        restart: false,
        purpose: String::new(),
    }
}

fn plan(phases: &[Phase], detected_before: bool) -> Plan {
    let step = |(n, phase): (usize, &Phase)| PlannedStep { name: format!("step {n}"), phase: *phase, continue_on_failure: false };
    Plan {
        before: None,
        intent: Intent::Install,
        package: "tool".parse().unwrap(),
        version: "1".parse().unwrap(),
        manifest: Digest::of(b"m"),
        release: 1,
        steps: phases.iter().enumerate().map(step).collect(),
        displaced: vec![],
        supersedes: vec![],
        directory: true,
        agent: false,
        logs: false,
        detection: true,
        detected_before,
        total_bytes: 10,
        fetched_bytes: 10,
        prepared_ms: 1,
    }
}

/// Fetching found that the package is there already.
fn there(package: &str) -> Prepared {
    Prepared::Ended(ItemResult {
        package: package.parse().unwrap(),
        version: "1".parse().unwrap(),
        manifest: Digest::of(b"m"),
        state: ExecutionState::AlreadyInstalled,
        failure: None,
        reboot: false,
        fetched_bytes: 0,
        total_bytes: 0,
        duration_ms: 0,
        before: None,
    })
}

fn failed() -> Failure {
    Failure {
        kind: ErrorKind::StepFailed,
        message: "no".into(),
        step: None,
        exit_code: Some(1),
        signal: None,
        output: String::new(),
        output_cut: 0,
        restored: None,
    }
}

/// How long what is announced counts down (seconds), and how often it may be put off.
const COUNTDOWN: u64 = 20;
const DEFERRALS: u32 = 2;

/// The same offer for the user, or for a start or the stop of the machine.
fn of_kind(offer: Offer, kind: u8) -> Offer {
    let announcement = Announcement {
        text: "soon".into(),
        countdown: Duration::from_secs(COUNTDOWN),
        deferrals: DEFERRALS,
        defer_for: Duration::from_secs(30),
        may_refuse: true,
        deadline: None,
    };
    Offer {
        job: format!("jobs/{}", offer.attempt),
        announcement: (kind % 6 == 3).then_some(announcement),
        timing: match kind % 6 {
            4 => Timing::AtBoot,
            5 => Timing::AtShutdown,
            _ => Timing::Now,
        },
        restart: kind > 128,
        ..offer
    }
}

/// What is going on for an attempt: fetching, or an op of a package.
type Work = (AttemptId, Option<(usize, Op, u32)>);

/// A loop whose disk is a map.
struct World {
    state: State,
    at: u64,
    /// How often the machine was restarted.
    restarts: u32,
    disk: HashMap<AttemptId, Record>,
    unwritten: Vec<(AttemptId, u64, Record)>,
    performing: BTreeSet<Work>,
    signing: Vec<Outcome>,
    performed: Vec<(AttemptId, usize, Op, u32)>,
    never: BTreeSet<AttemptId>,
    /// The package that was said to be the last one.
    last: HashMap<AttemptId, usize>,
    /// Called off between two packages, by an agent that was not restarted since.
    off: BTreeSet<AttemptId>,
    refused: BTreeSet<(AttemptId, usize)>,
    outcomes: HashMap<AttemptId, Vec<u8>>,
    /// The agent has just been started: what it picks up was begun before.
    recovering: bool,
    /// When the countdown of what was announced is over.
    announced: HashMap<AttemptId, u64>,
    /// In which start of the machine the first package of an attempt was there.
    staged: HashMap<AttemptId, u32>,
    /// Until when the machine goes down.
    down: u64,
    /// The machine was to be restarted.
    restarting: bool,
}

impl World {
    fn new() -> World {
        let (state, _) = State::recover(client(), vec![], Allowed { held: false, may_restart: true }, 1, &now(0));
        World {
            state,
            at: 0,
            restarts: 0,
            disk: HashMap::new(),
            unwritten: vec![],
            performing: BTreeSet::new(),
            signing: vec![],
            performed: vec![],
            never: BTreeSet::new(),
            last: HashMap::new(),
            off: BTreeSet::new(),
            refused: BTreeSet::new(),
            outcomes: HashMap::new(),
            recovering: false,
            announced: HashMap::new(),
            staged: HashMap::new(),
            down: 0,
            restarting: false,
        }
    }

    fn now(&self) -> Now {
        let boot_id = if self.restarts == 0 { "boot".into() } else { format!("boot {}", self.restarts) };
        Now { boot_id, ..now(self.at) }
    }

    fn event(&mut self, event: Event) {
        if let Event::CancelAsked(id) = &event
            && self.state.record(id).is_some_and(|r| r.started && !matches!(r.stage, Stage::Installing(_)))
        {
            self.off.insert(id.clone());
        }
        let effects = self.state.handle(event, &self.now());
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Journal(id, write) => {
                    let record = self.state.record(&id).expect("it is there").clone();
                    self.unwritten.push((id, write, record));
                }
                Effect::Prepare(id, _) | Effect::FetchAhead(id, _) | Effect::Measure(id) => {
                    self.performing.insert((id, None));
                }
                Effect::Perform(id, item, op, run) => {
                    assert!(!self.never.contains(&id), "performed after a cancel was acknowledged");
                    assert!(self.last.get(&id).is_none_or(|last| item <= *last), "something followed the last package");
                    let record = &self.disk[&id];
                    let Stage::Installing(installing) = &record.stage else { panic!("the disk does not say that it was begun") };
                    assert!(record.started && installing.begun && record.results.len() == item);
                    assert_eq!((installing.op(), installing.run), (Some(op), run), "the disk says something else");
                    let first = installing.at == 0 && installing.run == 0 && installing.course == Course::Forward;
                    if first && !self.recovering {
                        assert!(self.state.record(&id).unwrap().timely(&self.now()), "begun outside of its times");
                        assert!(!self.restarting, "begun while the machine is restarted");
                        self.begun(&id);
                        assert!(!self.off.contains(&id), "begun after it was called off between two packages");
                        assert!(!self.state.record(&id).unwrap().is_expired(&self.now()), "begun when its time was over");
                    }
                    if op.runs() {
                        assert!(!self.refused.contains(&(id.clone(), item)), "a step of what was refused is run");
                        assert!(self.state.record(&id).unwrap().leased(&self.now()), "started without a lease");
                        assert!(!self.performed.contains(&(id.clone(), item, op, run)), "a step was started twice");
                    }
                    self.performed.push((id.clone(), item, op, run));
                    assert!(self.performing.iter().all(|(_, op)| op.is_none()), "two installations at the same time");
                    self.performing.insert((id, Some((item, op, run))));
                }
                Effect::PickUp(id, item, step, run) => {
                    self.performing.insert((id, Some((item, Op::Step(step), run))));
                }
                Effect::Tried(id) => {
                    let item = self.state.record(&id).unwrap().results.len();
                    self.performing.insert((id, Some((item, Op::Trial, 0))));
                }
                Effect::Sign(outcome) => self.signing.push(outcome),
                Effect::AcknowledgeCancel(id, started) => {
                    if !started {
                        assert!(!self.performed.iter().any(|(other, ..)| *other == id) || self.outcomes.contains_key(&id));
                        self.never.insert(id);
                    }
                }
                Effect::NothingFollows(id) => {
                    assert!(self.disk[&id].ends, "said before it was on disk");
                    self.last.insert(id.clone(), self.disk[&id].results.len());
                }
                Effect::Report(id) => {
                    let Stage::Finished { outcome, .. } = &self.disk[&id].stage else { panic!("reported before it was on disk") };
                    let first = self.outcomes.entry(id).or_insert_with(|| outcome.clone());
                    assert_eq!(first, outcome, "two outcomes");
                }
                Effect::Retire(record) => {
                    self.disk.remove(record.id());
                }
                Effect::Abandon(id) => {
                    self.performing.remove(&(id, None));
                }
                Effect::Announce(id) => {
                    let before = self.disk[&id].asked.as_ref().map(|asked| &asked.talk);
                    assert!(!matches!(before, Some(Talk::Countdown(_) | Talk::Agreed)), "a countdown starts anew");
                    self.announced.insert(id.clone(), self.at + COUNTDOWN);
                }
                Effect::Restart(id) => {
                    let record = &self.disk[&id];
                    assert!(record.offer.restart && record.needs_restart(&self.now()), "restarted without a need");
                    let waits = |r: &Record| matches!(&r.stage, Stage::Installing(i) if !i.begun && i.waits_for_reboot(&self.now()));
                    let installs = |r: &&Record| matches!(r.stage, Stage::Installing(_)) && !waits(r);
                    assert!(self.state.records().find(installs).is_none(), "restarted in the middle of an installation");
                    self.restarting = true;
                }
                Effect::Accept(id) => assert!(self.disk.contains_key(&id), "accepted before it was on disk"),
            }
        }
    }

    /// Checks that the moment has come for an attempt whose first step begins.
    fn begun(&self, id: &AttemptId) {
        let record = self.state.record(id).unwrap();
        if self.performed.iter().any(|(other, ..)| other == id) {
            return;
        }
        if record.offer.announcement.is_some() {
            assert!(self.announced.get(id).is_some_and(|at| *at <= self.at), "begun before the countdown was over");
        }
        let goes_down = self.at < self.down;
        match record.offer.timing {
            Timing::Now => assert!(!goes_down, "begun while the machine goes down"),
            Timing::AtBoot => assert!(self.staged.get(id).is_some_and(|n| *n < self.restarts), "begun before a start of the machine"),
            Timing::AtShutdown => assert!(goes_down, "begun before the machine goes down"),
        }
    }

    /// What the user says, as it is said.
    fn answer(&mut self, n: u8, answer: UserAnswer) {
        let mut offered = self.state.record(&id(n)).cloned();
        let before = offered.as_mut().and_then(|r| r.asked.take());
        let job = offered.map(|r| r.offer.job).unwrap_or_default();
        match self.state.answered(&job, answer, &self.now()) {
            Ok(effects) => {
                match answer {
                    UserAnswer::Now => drop(self.announced.insert(id(n), self.at)),
                    UserAnswer::Defer => {
                        assert!(before.is_some_and(|asked| asked.deferred < DEFERRALS), "put off too often");
                        self.announced.remove(&id(n));
                    }
                    UserAnswer::Refuse => drop(self.announced.remove(&id(n))),
                }
                self.take(effects);
                // The user is told when it is on disk.
                while !self.unwritten.is_empty() {
                    self.write();
                }
            }
            Err(why) => assert!(!why.is_empty()),
        }
    }

    /// The machine is started again.
    fn reboot(&mut self, kept: u8) {
        self.restarts += 1;
        self.down = 0;
        self.restarting = false;
        self.crash(kept);
    }

    fn write(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let (id, write, record) = self.unwritten.remove(0);
        self.disk.insert(id.clone(), record);
        self.event(Event::Journaled(id, write));
    }

    fn sign(&mut self) {
        if let Some(outcome) = self.signing.pop() {
            self.event(Event::Signed(outcome.attempt.clone(), outcome.to_bytes(), vec![1]));
        }
    }

    fn end_work(&mut self, way: u8) {
        let Some(work) = self.performing.pop_first() else { return };
        match work {
            (id, None) if self.state.record(&id).is_some_and(|record| record.offer.inventory) => {
                self.event(Event::Measured(id, !way.is_multiple_of(5)));
            }
            (id, None) => {
                let prepared = match way % 5 {
                    0 => Prepared::Later("gone".into()),
                    1 => there("tool"),
                    2 => Prepared::Ready(Plan { agent: true, ..plan(&[Phase::Before, Phase::OnError], false) }),
                    _ => {
                        let plan = plan(&[Phase::Before, Phase::Install, Phase::OnError, Phase::Restore], false);
                        Prepared::Ready(Plan { logs: way > 128, ..plan })
                    }
                };
                let whole = self.state.record(&id).is_some_and(|record| record.next_ahead().is_none());
                if whole && matches!(prepared, Prepared::Ready(_)) {
                    self.staged.entry(id.clone()).or_insert(self.restarts);
                }
                self.event(Event::Prepared(id, prepared));
            }
            (id, Some((item, op, _))) => {
                let report = match (op, way % 6) {
                    // Only on the way there is asked whether anything may run.
                    (Op::Step(_) | Op::Trial | Op::Exchange, 4) if self.goes_forward(&id) => {
                        self.refused.insert((id.clone(), item));
                        OpReport::Refused(failed())
                    }
                    (Op::Step(_), 0) => OpReport::Step(StepReport::Failed(failed())),
                    (Op::Step(_), 1) => OpReport::Step(StepReport::Later(failed())),
                    (Op::Step(_), 2) => OpReport::Step(StepReport::Interrupted { detected: way > 128 }),
                    (Op::Step(_), 5) if way > 128 => OpReport::Step(StepReport::RebootHard),
                    (Op::Step(_), 5) => OpReport::Step(StepReport::RebootSoft),
                    (Op::Step(_), _) => OpReport::Step(StepReport::Done),
                    (Op::Restore, _) => OpReport::Restored(Restored::Old),
                    (Op::Verify | Op::Trial, 0) => OpReport::Failed(failed()),
                    (Op::Trial, 2) => OpReport::Step(StepReport::Interrupted { detected: false }),
                    _ => OpReport::Done,
                };
                self.event(Event::OpEnded(id, report));
            }
        }
    }

    fn goes_forward(&self, id: &AttemptId) -> bool {
        matches!(self.state.record(id).map(|r| &r.stage), Some(Stage::Installing(Installing { course: Course::Forward, .. })))
    }

    /// As SIGKILL, with so many of the writes that were under way on the disk.
    fn crash(&mut self, kept: u8) {
        let kept = usize::from(kept) % (self.unwritten.len() + 1);
        for (id, _, record) in self.unwritten.drain(..).take(kept) {
            self.disk.insert(id, record);
        }
        self.performing.clear();
        self.signing.clear();
        // The manager asks again.
        self.off.clear();
        // The refusal may not have reached the disk: then nothing knows of it.
        self.refused.clear();
        let disk = &self.disk;
        self.staged.retain(|id, _| disk.get(id).is_some_and(|r| r.staged_in.is_some()));
        self.announced.retain(|id, _| disk.get(id).is_some_and(|r| r.asked.is_some()));
        self.down = 0;
        let mut records: Vec<Record> = self.disk.values().cloned().collect();
        records.sort_by(|a, b| a.id().cmp(b.id()));
        let (state, effects) = State::recover(client(), records, Allowed { held: false, may_restart: true }, 1, &self.now());
        self.state = state;
        self.recovering = true;
        self.take(effects);
        self.recovering = false;
    }

    /// Times in this start of the machine: an opening from so many seconds from now on, of so many seconds, into which each package
    /// of so many has to fit.
    fn times(&self, from: u16, length: Option<u16>, takes: u16) -> Option<Times> {
        let start = Duration::from_secs(self.at + u64::from(from));
        let opening = Opening { start, end: length.map(|length| start + Duration::from_secs(length.into())) };
        Some(Times { boot_id: self.now().boot_id, openings: vec![opening], durations: vec![Duration::from_secs(takes.into()); 2] })
    }

    fn goes_down(&mut self, seconds: u64) {
        self.down = self.at + seconds;
        self.event(Event::GoesDown(Duration::from_secs(seconds)));
    }

    /// Lets everything go well from here on.
    fn settle(&mut self) {
        self.event(Event::Connected(vec![]));
        for n in 0..4000 {
            if n == 2000 {
                // What waits for a restart of the machine gets one.
                self.reboot(0);
                self.event(Event::Connected(vec![]));
            }
            if self.restarting {
                self.reboot(0);
                self.event(Event::Connected(vec![]));
            }
            // It goes down now and then, and stays up after all.
            if n % 100 == 0 {
                self.goes_down(20);
            }
            let ids: Vec<AttemptId> = self.state.records().map(|r| r.id().clone()).collect();
            self.at += 1;
            if self.at.is_multiple_of(7) {
                for id in &ids {
                    self.event(Event::Timed(id.clone(), self.times(3, None, 9)));
                }
                self.event(Event::Leased(ids, 600));
            }
            self.write();
            self.sign();
            self.end_work(3);
            self.event(Event::Tick);
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Offer(u8, u8, u16, Option<u16>, u8),
    Answer(u8, u8),
    Reboot(u8),
    GoesDown(u8),
    Lease(u8, u16),
    Times(u8, Option<(u16, Option<u16>, u16)>),
    Cancel(u8),
    Write,
    Sign,
    EndWork(u8),
    Wait(u16),
    Crash(u8),
    Connect(u8),
    Disconnect,
    Recorded(u8),
    RunNow,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let n = 1u8..5;
    let act = prop_oneof![
        3 => (n.clone(), 0u8..3, 0u16..100, proptest::option::weighted(0.3, 0u16..200), any::<u8>())
            .prop_map(|(n, items, lease, expire, kind)| Act::Offer(n, items, lease, expire, kind)),
        2 => (n.clone(), any::<u8>()).prop_map(|(n, way)| Act::Answer(n, way)),
        1 => any::<u8>().prop_map(Act::Reboot),
        1 => (0u8..60).prop_map(Act::GoesDown),
        2 => (n.clone(), 0u16..100).prop_map(|(n, s)| Act::Lease(n, s)),
        2 => (n.clone(), proptest::option::of((0u16..60, proptest::option::of(1u16..60), 0u16..30))).prop_map(|(n, t)| Act::Times(n, t)),
        1 => n.clone().prop_map(Act::Cancel),
        8 => Just(Act::Write),
        4 => Just(Act::Sign),
        8 => any::<u8>().prop_map(Act::EndWork),
        2 => (0u16..120).prop_map(Act::Wait),
        1 => any::<u8>().prop_map(Act::Crash),
        1 => (0u8..8).prop_map(Act::Connect),
        1 => Just(Act::Disconnect),
        1 => n.prop_map(Act::Recorded),
        1 => Just(Act::RunNow),
    ];
    proptest::collection::vec(act, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_step_starts_unjournaled_unleased_twice_or_after_a_cancel_and_everything_comes_to_an_end(acts in acts()) {
        let mut world = World::new();
        let mut offered = BTreeSet::new();
        for act in acts {
            match act {
                // An id that is over is answered from the journal, above the machine.
                Act::Offer(n, ..) if offered.contains(&n) && world.state.record(&id(n)).is_none() => {}
                Act::Offer(n, items, lease, expire, kind) => {
                    offered.insert(n);
                    let expire = expire.map(|seconds| now(world.at + u64::from(seconds)).wall);
                    world.event(Event::Offered(of_kind(Offer { expire, ..offer(n, items.into()) }, kind), lease.into()));
                }
                Act::Lease(n, seconds) => world.event(Event::Leased(vec![id(n)], seconds.into())),
                Act::Times(n, times) => {
                    let times = times.and_then(|(from, length, takes)| world.times(from, length, takes));
                    world.event(Event::Timed(id(n), times));
                }
                Act::Cancel(n) => {
                    offered.insert(n);
                    world.event(Event::CancelAsked(id(n)));
                }
                Act::Write => world.write(),
                Act::Sign => world.sign(),
                Act::EndWork(way) => world.end_work(way),
                Act::Wait(seconds) => {
                    world.at += u64::from(seconds);
                    world.event(Event::Tick);
                }
                Act::Crash(kept) => world.crash(kept),
                Act::Connect(n) => world.event(Event::Connected(if n < 5 { vec![id(n)] } else { vec![] })),
                Act::Disconnect => world.event(Event::Disconnected),
                // Only what was reported can be recorded.
                Act::Recorded(n) if !world.outcomes.contains_key(&id(n)) => {}
                Act::Recorded(n) => world.event(Event::Recorded(id(n))),
                Act::Answer(n, way) => {
                    let answer = [UserAnswer::Now, UserAnswer::Defer, UserAnswer::Defer, UserAnswer::Refuse][usize::from(way % 4)];
                    world.answer(n, answer);
                }
                Act::Reboot(kept) => world.reboot(kept),
                Act::GoesDown(seconds) => world.goes_down(seconds.into()),
                Act::RunNow => world.event(Event::RunNow(vec![])),
            }
        }
        world.settle();
        for record in world.state.records() {
            prop_assert!(matches!(record.stage, Stage::Finished { .. }), "{:?} is not at an end", record);
        }
    }
}

/// Drives the only attempt to the op that is performed.
fn performing(world: &mut World) -> Op {
    for _ in 0..20 {
        if let Some((_, Some((_, op, _)))) = world.performing.first() {
            return *op;
        }
        world.write();
        if matches!(world.performing.first(), Some((_, None))) {
            world.performing.clear();
            let plan = plan(&[Phase::Before, Phase::Install, Phase::After, Phase::OnError], false);
            world.event(Event::Prepared(id(1), Prepared::Ready(plan)));
        }
    }
    panic!("nothing is performed: {:?}", world.state.record(&id(1)));
}

fn succeed(world: &mut World) {
    world.performing.clear();
    world.event(Event::OpEnded(id(1), OpReport::Done));
}

#[test]
fn the_ops_come_in_the_order_of_their_phases() {
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 1), 600));
    for expected in [Op::Step(0), Op::Exchange, Op::Step(1), Op::Step(2), Op::Verify, Op::Commit] {
        assert_eq!(performing(&mut world), expected);
        succeed(&mut world);
    }
    world.write();
    world.sign();
    world.write();
    let Stage::Finished { outcome, .. } = &world.disk[&id(1)].stage else { panic!("not finished") };
    assert_eq!(Outcome::parse(outcome).unwrap().state, ExecutionState::Succeeded);
}

#[test]
fn what_fails_goes_back_through_its_error_steps() {
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 1), 600));
    for expected in [Op::Step(0), Op::Exchange] {
        assert_eq!(performing(&mut world), expected);
        succeed(&mut world);
    }
    assert_eq!(performing(&mut world), Op::Step(1));
    world.performing.clear();
    world.event(Event::OpEnded(id(1), OpReport::Step(StepReport::Failed(failed()))));
    assert_eq!(performing(&mut world), Op::Step(3));
    succeed(&mut world);
    assert_eq!(performing(&mut world), Op::Restore);
    world.performing.clear();
    world.event(Event::OpEnded(id(1), OpReport::Restored(Restored::Old)));
    world.write();
    let result = &world.state.record(&id(1)).unwrap().results[0];
    assert_eq!((result.state, result.failure.as_ref().unwrap().restored), (ExecutionState::Failed, Some(true)));
}

#[test]
fn an_interrupted_step_counts_as_done_only_if_detection_can_tell() {
    // (ops that are done, detected now, detected before the package was fetched, by the exchange alone) → goes on
    let cases = [
        (2, true, false, false, true),
        (2, false, false, false, false),
        (2, true, true, false, false),
        // The rules are about files of the package's own: they hold without the step.
        (2, true, false, true, false),
        // The step before may be what is detected.
        (3, true, false, false, false),
        (0, true, false, false, false),
    ];
    for case @ (ops_before, detected, before, by_exchange, goes_on) in cases {
        let mut world = World::new();
        world.event(Event::Offered(offer(1, 1), 600));
        world.write();
        world.performing.clear();
        world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before, Phase::Install, Phase::After], before))));
        for _ in 0..ops_before {
            let op = performing(&mut world);
            world.performing.clear();
            let report = if op == Op::Exchange { OpReport::Exchanged { detected: by_exchange } } else { OpReport::Done };
            world.event(Event::OpEnded(id(1), report));
        }
        assert!(matches!(performing(&mut world), Op::Step(_)));
        world.crash(0);
        assert!(matches!(performing(&mut world), Op::Step(_)), "picked up");
        world.performing.clear();
        world.event(Event::OpEnded(id(1), OpReport::Step(StepReport::Interrupted { detected })));
        let Stage::Installing(installing) = &world.state.record(&id(1)).unwrap().stage else { panic!("it goes on, or back") };
        assert_eq!(installing.course == Course::Forward, goes_on, "{case:?}");
    }
}

#[test]
fn a_lease_ends_with_its_time_and_with_the_machines_start() {
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 1), 60));
    world.write();
    world.at = 60;
    world.performing.clear();
    world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Install], false))));
    world.write();
    let waits = |world: &World| world.state.progress(&world.now())[0].1.wait;
    assert_eq!(waits(&world), Some(WaitReason::Lease));
    assert!(world.performed.is_empty());
    world.event(Event::Leased(vec![id(1)], 600));
    world.write();
    world.write();
    assert!(!world.performed.is_empty());
    // Another start of the machine: the same number means nothing.
    let mut record = world.disk[&id(1)].clone();
    record.stage = Stage::Fetched(plan(&[Phase::Install], false));
    let rebooted = Now { boot_id: "another".into(), ..now(61) };
    let (state, effects) = State::recover(client(), vec![record], Allowed::default(), 1, &rebooted);
    assert!(effects.is_empty());
    assert_eq!(state.progress(&rebooted)[0].1.wait, Some(WaitReason::Lease));
}

#[test]
fn who_waits_holds_up_no_other_and_priority_goes_first() {
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 1), 0));
    world.event(Event::Offered(Offer { priority: 1, ..offer(2, 1) }, 600));
    world.event(Event::Offered(offer(3, 1), 600));
    for _ in 0..10 {
        world.write();
    }
    assert_eq!(world.performing.len(), FETCHES_MAX, "the third waits for its turn to fetch");
    let fetching: Vec<AttemptId> = world.performing.iter().map(|(id, _)| id.clone()).collect();
    world.performing.clear();
    for attempt in fetching {
        world.event(Event::Prepared(attempt, Prepared::Ready(plan(&[Phase::Install], false))));
    }
    for _ in 0..10 {
        world.write();
    }
    let begun: Vec<AttemptId> = world.performed.iter().map(|(id, ..)| id.clone()).collect();
    assert_eq!(begun, [id(2)], "the first has no lease and holds up nobody");
}

#[test]
fn what_another_job_installs_while_this_one_waits_for_its_turn_is_looked_for_again() {
    for restarted in [false, true] {
        let mut world = World::new();
        for n in 1..=2 {
            world.event(Event::Offered(offer(n, 1), 600));
            while !world.unwritten.is_empty() {
                world.write();
            }
            assert!(world.performing.remove(&(id(n), None)), "it fetches");
            world.event(Event::Prepared(id(n), Prepared::Ready(plan(&[Phase::Install], false))));
        }
        while !matches!(world.state.record(&id(1)).unwrap().stage, Stage::Finished { .. }) {
            if let Some(work) = world.performing.iter().find(|(attempt, op)| *attempt == id(1) && op.is_some()).cloned() {
                world.performing.remove(&work);
                let step = matches!(work.1, Some((_, Op::Step(_), _)));
                world.event(Event::OpEnded(id(1), if step { OpReport::Step(StepReport::Done) } else { OpReport::Done }));
            }
            world.write();
            world.sign();
        }
        while !world.unwritten.is_empty() {
            world.write();
        }
        if restarted {
            world.crash(0);
        }
        assert!(world.performing.contains(&(id(2), None)), "asked again, and not installed a second time");
        assert!(!world.performed.iter().any(|(attempt, ..)| *attempt == id(2)));
    }
}

#[test]
fn what_is_seen_in_the_middle_of_another_installation_is_not_taken_for_installed() {
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 1), 600));
    performing(&mut world);
    world.event(Event::Offered(offer(2, 1), 600));
    world.write();
    assert!(world.performing.remove(&(id(2), None)), "it is looked for while the first is installed");
    world.event(Event::Prepared(id(2), there("tool")));
    assert!(world.state.record(&id(2)).unwrap().results.is_empty(), "the first may yet put back what was there before");
    let waits = world.state.progress(&world.now()).into_iter().find(|(attempt, _)| *attempt == id(2)).unwrap().1.wait;
    assert_eq!(waits, Some(WaitReason::Turn));
    assert!(!world.performing.contains(&(id(2), None)), "it waits for the other's end");
    // The first fails and goes back; then the second is asked again, and believed.
    while !matches!(world.state.record(&id(1)).unwrap().stage, Stage::Finished { .. }) {
        if let Some(work) = world.performing.iter().find(|(attempt, op)| *attempt == id(1) && op.is_some()).cloned() {
            world.performing.remove(&work);
            let restored = matches!(work.1, Some((_, Op::Restore, _)));
            let report = if restored { OpReport::Restored(Restored::Old) } else { OpReport::Step(StepReport::Failed(failed())) };
            world.event(Event::OpEnded(id(1), report));
        }
        world.write();
        world.sign();
    }
    assert!(world.performing.remove(&(id(2), None)), "it is looked for again");
    world.event(Event::Prepared(id(2), there("tool")));
    assert_eq!(world.state.record(&id(2)).unwrap().results.len(), 1);
}

#[test]
fn what_was_called_off_between_two_steps_starts_no_other_and_holds_nobody_up() {
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 1), 60));
    assert_eq!(performing(&mut world), Op::Step(0));
    world.at = 61;
    world.event(Event::Offered(offer(2, 1), 600));
    for expected in [Op::Step(0), Op::Exchange] {
        assert_eq!(performing(&mut world), expected);
        world.performing.retain(|(attempt, _)| *attempt != id(1));
        world.event(Event::OpEnded(id(1), OpReport::Done));
    }
    world.write();
    let waits = |world: &World| world.state.progress(&world.now()).into_iter().find(|(a, _)| *a == id(1)).unwrap().1.wait;
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert_eq!(waits(&world), Some(WaitReason::Lease), "the lease is over, and there may be another");
    // The manager had made the cancellation final meanwhile.
    world.event(Event::Connected(vec![id(1)]));
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert!(world.performing.remove(&(id(1), Some((0, Op::Restore, 0)))), "{:?}", world.performing);
    world.event(Event::OpEnded(id(1), OpReport::Restored(Restored::Old)));
    for _ in 0..4 {
        world.write();
        world.sign();
    }
    let Stage::Finished { outcome, .. } = &world.disk[&id(1)].stage else { panic!("not finished") };
    assert_eq!(Outcome::parse(outcome).unwrap().state, ExecutionState::Interrupted);
    assert!(!world.performed.iter().any(|(a, _, op, _)| *a == id(1) && matches!(op, Op::Step(n) if *n > 0)), "{:?}", world.performed);
}

#[test]
fn what_expired_before_it_started_ends_and_what_started_goes_on() {
    let mut world = World::new();
    let expire = Some(now(50).wall);
    world.event(Event::Offered(Offer { expire, ..offer(1, 1) }, 600));
    performing(&mut world);
    world.event(Event::Offered(Offer { expire, ..offer(2, 1) }, 600));
    world.write();
    world.at = 50;
    world.event(Event::Tick);
    assert_eq!(world.signing.iter().map(|o| (o.attempt.clone(), o.state)).collect::<Vec<_>>(), [(id(2), ExecutionState::Expired)]);
    assert!(matches!(world.state.record(&id(1)).unwrap().stage, Stage::Installing(_)));
}
