//! When a package may be begun: in its times alone, by a clock that never jumps.

use super::*;

/// A world in which attempt 1 is fetched, with an opening from second 100 to 200, into which 30 seconds have to fit.
fn waiting(lease: u32) -> World {
    let mut world = World::new();
    let times = world.times(100, Some(100), 15);
    world.event(Event::Offered(Offer { times, ..offer(1, 1) }, lease));
    world.write();
    assert!(world.performing.remove(&(id(1), None)), "it is fetched at once");
    world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before, Phase::Install], false))));
    world.write();
    world
}

fn waits_for(world: &World) -> Option<WaitReason> {
    world.state.progress(&world.now())[0].1.wait
}

fn at(world: &mut World, seconds: u64) {
    world.at = seconds;
    world.event(Event::Tick);
    while !world.unwritten.is_empty() {
        world.write();
    }
}

/// What is staged is looked at again first: it is not known whether anything else was installed meanwhile.
fn staged_again(world: &mut World) {
    let now = world.at;
    at(world, now);
    assert!(world.performing.remove(&(id(1), None)));
    world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before], false))));
    at(world, now + 1);
}

#[test]
fn nothing_is_begun_before_the_window_opens_whatever_the_clock_on_the_wall_shows() {
    let mut world = waiting(6000);
    assert_eq!(waits_for(&world), Some(WaitReason::Window));
    assert_eq!(world.state.wake_at(&world.now()), Some(Duration::from_secs(100)));
    let ahead = Now { wall: now(1_000_000).wall, ..now(99) };
    assert!(world.state.handle(Event::Tick, &ahead).is_empty());
    at(&mut world, 99);
    assert!(world.performed.is_empty());
    at(&mut world, 100);
    assert_eq!(world.performed.len(), 1);
}

#[test]
fn what_does_not_fit_any_more_waits_and_what_has_begun_goes_on() {
    let mut late = waiting(6000);
    at(&mut late, 171);
    assert!(late.performed.is_empty() && waits_for(&late) == Some(WaitReason::Window));
    let mut world = waiting(6000);
    at(&mut world, 170);
    assert_eq!(world.performed.len(), 1);
    world.at = 300;
    for expected in [Op::Step(0), Op::Exchange, Op::Step(1)] {
        assert_eq!(performing(&mut world), expected);
        succeed(&mut world);
    }
}

#[test]
fn a_crash_changes_nothing_and_a_restart_of_the_machine_waits_to_be_told_anew() {
    let mut world = waiting(6000);
    world.at = 150;
    world.restarts += 1;
    world.crash(0);
    world.event(Event::Leased(vec![id(1)], 6000));
    at(&mut world, 151);
    assert!(world.performed.is_empty() && waits_for(&world) == Some(WaitReason::Window));
    world.event(Event::Timed(id(1), None));
    staged_again(&mut world);
    assert_eq!(world.performed.len(), 1);

    let mut world = waiting(6000);
    world.crash(0);
    at(&mut world, 99);
    assert!(world.performed.is_empty());
    at(&mut world, 101);
    staged_again(&mut world);
    assert_eq!(world.performed.len(), 1);
}

#[test]
fn a_window_that_opens_after_the_lease_has_run_out_waits_for_contact_and_a_shorter_lease_takes_nothing_away() {
    let mut world = waiting(90);
    at(&mut world, 100);
    assert!(world.performed.is_empty() && waits_for(&world) == Some(WaitReason::Lease));
    let mut world = waiting(110);
    world.event(Event::Leased(vec![id(1)], 10));
    at(&mut world, 105);
    assert_eq!(world.performed.len(), 1);
}

/// A world in which attempt 1 has done the first of two packages, and its second one waits for a window that is closed.
fn between(expire: Option<u64>) -> World {
    let mut world = World::new();
    let expire = expire.map(|at| now(at).wall);
    world.event(Event::Offered(Offer { expire, ..offer(1, 2) }, 6000));
    while world.state.record(&id(1)).unwrap().results.is_empty() {
        performing(&mut world);
        succeed(&mut world);
    }
    world.event(Event::Timed(id(1), world.times(10_000, None, 0)));
    while !world.unwritten.is_empty() {
        world.write();
    }
    if world.performing.remove(&(id(1), None)) {
        world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before], false))));
    }
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert_eq!(waits_for(&world), Some(WaitReason::Window));
    world
}

/// The end that attempt 1 has come to, and how many packages it says were done; nothing of it is performed any more.
fn ended_early(world: &mut World) -> (ExecutionState, usize) {
    let performed = world.performed.len();
    world.event(Event::Timed(id(1), None));
    world.sign();
    for _ in 0..3 {
        let later = world.at + 1;
        at(world, later);
    }
    assert_eq!(world.performed.len(), performed, "something was begun that was called off");
    let Stage::Finished { outcome, .. } = &world.disk[&id(1)].stage else { panic!("not at an end") };
    let outcome = Outcome::parse(outcome).unwrap();
    (outcome.state, outcome.items.iter().filter(|item| item.state == ExecutionState::Succeeded).count())
}

#[test]
fn what_waits_between_two_packages_can_be_called_off_and_says_what_was_done() {
    let mut world = between(None);
    world.event(Event::CancelAsked(id(1)));
    assert_eq!(ended_early(&mut world), (ExecutionState::Canceled, 1));
    // Also while the next one is fetched, and while the journal writes.
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 2), 6000));
    while world.state.record(&id(1)).unwrap().results.is_empty() {
        performing(&mut world);
        succeed(&mut world);
    }
    let mut writing = World { state: world.state.clone(), disk: world.disk.clone(), unwritten: world.unwritten.clone(), ..World::new() };
    writing.event(Event::CancelAsked(id(1)));
    while !writing.unwritten.is_empty() {
        writing.write();
    }
    assert!(writing.performing.is_empty(), "the next one is not fetched");
    assert_eq!(ended_early(&mut writing), (ExecutionState::Canceled, 1));
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert!(world.performing.contains(&(id(1), None)), "the next one is fetched");
    world.event(Event::CancelAsked(id(1)));
    assert!(world.performing.is_empty(), "fetching has stopped");
    assert_eq!(ended_early(&mut world), (ExecutionState::Canceled, 1));
}

#[test]
fn what_waits_between_two_packages_expires_with_its_time() {
    let mut world = between(Some(500));
    assert_eq!(world.state.wake_at(&world.now()), Some(Duration::from_secs(500)));
    at(&mut world, 499);
    assert!(world.signing.is_empty());
    at(&mut world, 500);
    assert_eq!(ended_early(&mut world), (ExecutionState::Expired, 1));
}

#[test]
fn a_cancel_that_comes_while_the_beginning_is_written_down_has_begun_nothing() {
    let mut world = waiting(6000);
    world.at = 150;
    world.event(Event::Tick);
    world.event(Event::CancelAsked(id(1)));
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert!(world.performed.is_empty() && world.never.contains(&id(1)), "it is acknowledged as not started");
    assert!(world.state.record(&id(1)).is_none());
    // And of the second package.
    let mut world = between(None);
    world.event(Event::Timed(id(1), None));
    world.write();
    let installing = |world: &World| matches!(world.state.record(&id(1)).unwrap().stage, Stage::Installing(_));
    if !installing(&world) {
        world.performing.clear();
        world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before], false))));
        world.write();
    }
    assert!(installing(&world), "{:?}", world.state.record(&id(1)));
    world.event(Event::CancelAsked(id(1)));
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert_eq!(ended_early(&mut world), (ExecutionState::Canceled, 1));
}

#[test]
fn a_window_that_closes_while_the_beginning_is_written_down_has_begun_nothing() {
    let mut world = waiting(6000);
    world.at = 170;
    world.event(Event::Tick);
    world.at = 180;
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert!(world.performed.is_empty() && waits_for(&world) == Some(WaitReason::Window));
    world.event(Event::CancelAsked(id(1)));
    assert_eq!(world.state.record(&id(1)).unwrap().stage, Stage::Canceled, "nothing of it was started");
}

#[test]
fn an_inventory_is_over_when_the_facts_were_measured_after_it_was_asked_and_installs_nothing() {
    let mut world = World::new();
    world.event(Event::Held(true));
    world.event(Event::Offered(offer(1, 0), 0));
    world.write();
    assert_eq!(world.performing.len(), 1, "measured at once, also on a machine that holds installations and without a lease");
    world.event(Event::Measured(id(1), false));
    assert!(world.unwritten.is_empty(), "they could not be measured: it is tried again");
    world.at += 10;
    world.event(Event::Tick);
    world.crash(0);
    assert_eq!(world.performing.len(), 1, "nobody knows whether it was, so it is measured again");
    world.event(Event::Measured(id(1), true));
    world.write();
    world.sign();
    world.write();
    world.event(Event::Connected(vec![]));
    assert_eq!(Outcome::parse(&world.outcomes[&id(1)]).unwrap().state, ExecutionState::Succeeded);
    assert!(world.performed.is_empty());
}

#[test]
fn what_is_called_off_while_its_first_package_is_under_way_goes_on_to_the_end_of_that_and_begins_no_other() {
    for restarted in [false, true] {
        let mut world = World::new();
        world.event(Event::Offered(offer(1, 2), 6000));
        let installing = |world: &World| matches!(world.state.record(&id(1)).unwrap().stage, Stage::Installing(_));
        while !installing(&world) || !world.unwritten.is_empty() {
            performing(&mut world);
            if !installing(&world) {
                succeed(&mut world);
            }
        }
        assert!(world.last.is_empty());
        world.event(Event::CancelAsked(id(1)));
        assert!(world.last.is_empty(), "it is on disk before it is said");
        while !world.unwritten.is_empty() {
            world.write();
        }
        assert_eq!(world.last.get(&id(1)), Some(&0), "the first one is the last");
        if restarted {
            let records = world.disk.values().cloned().collect();
            let allowed = Allowed { held: false, may_restart: true };
            let (state, effects) = State::recover(client(), records, allowed, 1, &world.now());
            (world.state, world.recovering) = (state, true);
            world.performing.clear();
            world.take(effects);
            world.recovering = false;
        }
        while world.state.record(&id(1)).unwrap().results.is_empty() {
            performing(&mut world);
            succeed(&mut world);
        }
        while !world.unwritten.is_empty() {
            world.write();
        }
        assert_eq!(ended_early(&mut world), (ExecutionState::Canceled, 1), "restarted: {restarted}");
    }
    // The last one of them had begun: there is nothing else to call off.
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 1), 6000));
    while !matches!(world.state.record(&id(1)).unwrap().stage, Stage::Installing(_)) || !world.unwritten.is_empty() {
        performing(&mut world);
        if !matches!(world.state.record(&id(1)).unwrap().stage, Stage::Installing(_)) {
            succeed(&mut world);
        }
    }
    world.event(Event::CancelAsked(id(1)));
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert!(world.last.is_empty());
}
