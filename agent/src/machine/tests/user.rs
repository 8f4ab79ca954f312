//! What is announced begins when the user lets it, by a countdown that no restart begins anew.

use super::*;

/// A world in which attempt 1, which is announced, is fetched and its countdown runs from second 10 on.
fn announced() -> World {
    let mut world = World::new();
    world.at = 10;
    world.event(Event::Offered(of_kind(offer(1, 1), 3), 6000));
    world.write();
    assert!(world.performing.remove(&(id(1), None)), "it is fetched at once");
    world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before, Phase::Install], false))));
    at(&mut world, 10);
    world
}

/// A moment, and everything that is to be written is.
fn at(world: &mut World, seconds: u64) {
    world.at = seconds;
    world.event(Event::Tick);
    while !world.unwritten.is_empty() {
        world.write();
    }
}

fn waits(world: &World) -> Option<(WaitReason, u64, bool)> {
    let progress = world.state.progress(&world.now()).remove(0).1;
    let user = progress.user?;
    Some((progress.wait?, user.until.as_secs(), user.put_off))
}

fn begins(world: &mut World) -> bool {
    // What is staged is looked at again after a crash.
    if world.performing.remove(&(id(1), None)) {
        world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before], false))));
        let now = world.at;
        at(world, now);
    }
    !world.performed.is_empty()
}

#[test]
fn what_is_announced_begins_when_the_countdown_is_over() {
    let mut world = announced();
    assert_eq!(waits(&world), Some((WaitReason::User, 30, false)));
    assert_eq!(world.state.wake_at(&world.now()), Some(Duration::from_secs(20)), "what is left is written down");
    at(&mut world, 20);
    assert_eq!(world.state.wake_at(&world.now()), Some(Duration::from_secs(30)));
    at(&mut world, 29);
    assert!(!begins(&mut world));
    at(&mut world, 30);
    assert!(begins(&mut world));
}

#[test]
fn no_restart_begins_a_countdown_anew_and_a_clock_that_was_set_back_does_not_make_it_longer() {
    let mut world = announced();
    world.at = 25;
    world.crash(0);
    assert_eq!(waits(&world), Some((WaitReason::User, 30, false)), "the agent alone");
    // The machine: its clock tells how long it was off.
    world.reboot(0);
    assert_eq!(waits(&world).map(|w| w.1), Some(30));
    world.event(Event::Leased(vec![id(1)], 600));
    at(&mut world, 31);
    assert!(begins(&mut world));

    let world = announced();
    let record = world.disk[&id(1)].clone();
    let back = Now { wall: now(0).wall.saturating_sub(jiff::SignedDuration::from_hours(9)).unwrap(), boot_id: "another".into(), ..now(7) };
    let (state, _) = State::recover(client(), vec![record], Allowed::default(), 1, &back);
    let until = state.progress(&back)[0].1.user.as_ref().map(|user| user.until);
    assert_eq!(until, Some(Duration::from_secs(27)), "never more than was left");
}

#[test]
fn a_countdown_goes_on_at_each_start_of_a_machine_whose_clock_comes_up_in_the_past() {
    let mut world = World::new();
    let mut offer = of_kind(offer(1, 1), 3);
    offer.announcement.as_mut().unwrap().countdown = Duration::from_secs(600);
    world.event(Event::Offered(offer, 6000));
    world.write();
    world.performing.clear();
    world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before], false))));
    at(&mut world, 0);
    let mut record = world.disk[&id(1)].clone();
    let mut before = 600;
    for start in 0..4 {
        let moment = |seconds: u64| Now {
            wall: now(seconds).wall.saturating_sub(jiff::SignedDuration::from_hours(9)).unwrap(),
            boot: Duration::from_secs(seconds),
            boot_id: format!("start {start}"),
        };
        let (mut state, mut effects) = State::recover(client(), vec![record.clone()], Allowed::default(), 1, &moment(0));
        let left = state.progress(&moment(0))[0].1.user.as_ref().unwrap().until.as_secs();
        assert!(left <= before, "{left} after {before}");
        // It runs for a hundred seconds, and what is on the disk then is what the next start knows.
        for second in 0..100 {
            while !effects.is_empty() {
                if let Effect::Journal(id, write) = effects.remove(0) {
                    record = state.record(&id).unwrap().clone();
                    effects.extend(state.handle(Event::Journaled(id, write), &moment(second)));
                }
            }
            effects = state.handle(Event::Tick, &moment(second));
        }
        before = left - 80;
    }
}

#[test]
fn what_was_put_off_is_announced_anew_and_as_often_as_the_job_allows_it() {
    let mut world = announced();
    let job = world.state.record(&id(1)).unwrap().offer.job.clone();
    world.at = 15;
    world.answer(1, UserAnswer::Defer);
    assert_eq!(waits(&world), Some((WaitReason::User, 45, true)));
    assert!(world.state.answered(&job, UserAnswer::Defer, &world.now()).unwrap_err().contains("already"));
    at(&mut world, 44);
    world.crash(0);
    assert_eq!(waits(&world), Some((WaitReason::User, 45, true)));
    at(&mut world, 45);
    assert_eq!(waits(&world), Some((WaitReason::User, 65, false)));
    world.answer(1, UserAnswer::Defer);
    at(&mut world, 75);
    let why = world.state.answered(&job, UserAnswer::Defer, &world.now()).unwrap_err();
    assert!(why.contains("2 of 2"), "{why}");
    assert!(!world.state.announced(&world.now())[0].may_defer);
    at(&mut world, 95);
    assert!(begins(&mut world));
}

#[test]
fn the_user_has_it_begin_at_once_or_refuses_it() {
    let mut world = announced();
    world.at = 12;
    world.answer(1, UserAnswer::Now);
    at(&mut world, 12);
    assert!(begins(&mut world));

    let mut world = announced();
    world.answer(1, UserAnswer::Refuse);
    at(&mut world, 12);
    world.sign();
    at(&mut world, 12);
    let Stage::Finished { outcome, .. } = &world.disk[&id(1)].stage else { panic!("not finished") };
    let outcome = Outcome::parse(outcome).unwrap();
    assert_eq!((outcome.state, outcome.failure().map(|f| f.kind)), (ExecutionState::Rejected, Some(ErrorKind::User)));
    assert!(world.performed.is_empty());
}

#[test]
fn from_the_deadline_on_nothing_is_put_off_and_what_was_goes_on_then() {
    let mut world = World::new();
    let mut offer = of_kind(offer(1, 1), 3);
    offer.announcement.as_mut().unwrap().deadline = Some(now(30).wall);
    world.event(Event::Offered(offer.clone(), 6000));
    world.write();
    world.performing.clear();
    world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before], false))));
    at(&mut world, 10);
    world.answer(1, UserAnswer::Defer);
    assert_eq!(waits(&world), Some((WaitReason::User, 30, true)), "not beyond the deadline");
    at(&mut world, 30);
    assert!(world.state.answered(&offer.job, UserAnswer::Defer, &world.now()).unwrap_err().contains("deadline"));
    at(&mut world, 50);
    assert!(begins(&mut world));
}

#[test]
fn a_deadline_that_is_told_anew_holds_for_what_is_announced_and_for_what_is_put_off() {
    let mut world = announced();
    let job = world.state.record(&id(1)).unwrap().offer.job.clone();
    world.answer(1, UserAnswer::Defer);
    assert_eq!(waits(&world), Some((WaitReason::User, 40, true)));
    world.event(Event::Deadline(id(1), Some(now(25).wall)));
    at(&mut world, 10);
    assert_eq!(waits(&world), Some((WaitReason::User, 25, true)), "it goes on then");
    world.crash(0);
    assert_eq!(waits(&world), Some((WaitReason::User, 25, true)), "it is kept");
    at(&mut world, 25);
    assert_eq!(waits(&world), Some((WaitReason::User, 45, false)));
    assert!(world.state.answered(&job, UserAnswer::Defer, &world.now()).unwrap_err().contains("deadline"));
    // Later, or not at all: it may be put off again. What is offered anew says the same.
    world.event(Event::Deadline(id(1), None));
    at(&mut world, 26);
    assert!(world.state.announced(&world.now())[0].may_defer);
    let mut offer = of_kind(offer(1, 1), 3);
    offer.announcement.as_mut().unwrap().deadline = Some(now(26).wall);
    world.event(Event::Offered(offer, 6000));
    assert!(!world.state.announced(&world.now())[0].may_defer);
}

#[test]
fn what_is_put_off_or_announced_is_called_off_like_anything_that_has_not_begun() {
    let mut world = announced();
    world.event(Event::CancelAsked(id(1)));
    at(&mut world, 100);
    assert!(world.performed.is_empty() && world.never.contains(&id(1)));
}
