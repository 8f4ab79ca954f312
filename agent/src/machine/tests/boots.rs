//! Starts and stops of the machine: what begins with them alone, and what has it restarted.

use super::*;

/// A world in which attempt 1 of this kind is fetched.
fn fetched(kind: u8, lease: u32) -> World {
    let mut world = World::new();
    world.event(Event::Offered(of_kind(offer(1, 1), kind), lease));
    world.write();
    assert!(world.performing.remove(&(id(1), None)), "it is fetched at once");
    prepared(&mut world, &[Phase::Before, Phase::Install]);
    world
}

fn prepared(world: &mut World, phases: &[Phase]) {
    world.staged.entry(id(1)).or_insert(world.restarts);
    world.event(Event::Prepared(id(1), Prepared::Ready(plan(phases, false))));
    settle(world);
}

fn settle(world: &mut World) {
    world.event(Event::Tick);
    while !world.unwritten.is_empty() {
        world.write();
    }
}

fn waits_for(world: &World) -> Option<WaitReason> {
    world.state.progress(&world.now())[0].1.wait
}

#[test]
fn what_is_ordered_for_a_start_begins_then_without_contact_and_before_anything_else() {
    let mut world = fetched(4, 86_400);
    world.at = 3_600;
    settle(&mut world);
    assert!(world.performed.is_empty() && waits_for(&world) == Some(WaitReason::Reboot));
    // The agent alone starts again.
    world.crash(0);
    settle(&mut world);
    assert!(world.performed.is_empty());
    // Another one came meanwhile, and is more urgent.
    world.event(Event::Offered(Offer { priority: 1, ..offer(2, 1) }, 86_400));
    world.write();
    world.reboot(0);
    world.event(Event::Leased(vec![id(2)], 600));
    settle(&mut world);
    world.event(Event::Prepared(id(2), Prepared::Ready(plan(&[Phase::Before], false))));
    settle(&mut world);
    assert!(world.performed.is_empty(), "the other one waits");
    assert!(world.performing.remove(&(id(1), None)), "it is looked at again");
    prepared(&mut world, &[Phase::Before]);
    assert_eq!(world.performed, [(id(1), 0, Op::Step(0), 0)], "its lease outlived the start");
}

#[test]
fn a_lease_that_ended_while_the_machine_was_off_or_that_the_clock_can_not_tell_of_waits_for_contact() {
    for (lease, wall) in [(600, now(700).wall), (86_400, now(0).wall.saturating_sub(jiff::SignedDuration::from_hours(1)).unwrap())] {
        let world = fetched(4, lease);
        let started = Now { wall, boot: Duration::from_secs(5), boot_id: "another".into() };
        let (state, _) = State::recover(client(), vec![world.disk[&id(1)].clone()], Allowed::default(), 1, &started);
        assert_eq!(state.progress(&started)[0].1.wait, Some(WaitReason::Lease));
    }
}

#[test]
fn what_is_ordered_for_the_stop_begins_when_the_machine_goes_down_and_nothing_else_does() {
    let mut world = fetched(5, 6_000);
    assert!(world.performed.is_empty() && waits_for(&world) == Some(WaitReason::Reboot));
    assert!(!world.state.may_go_down(&world.now()), "something could begin");
    world.event(Event::Offered(offer(2, 1), 6_000));
    world.goes_down(30);
    settle(&mut world);
    assert_eq!(world.performed, [(id(1), 0, Op::Step(0), 0)]);
    assert!(!world.state.may_go_down(&world.now()));
    for op in [Op::Step(0), Op::Exchange, Op::Step(1), Op::Verify, Op::Commit] {
        assert!(world.performing.remove(&(id(1), Some((0, op, 0)))), "{op:?}: {:?}", world.performing);
        world.event(Event::OpEnded(id(1), OpReport::Done));
        settle(&mut world);
    }
    world.sign();
    settle(&mut world);
    assert!(world.state.may_go_down(&world.now()));
    // The other one begins when the machine stays up after all.
    assert!(world.performing.remove(&(id(2), None)));
    world.event(Event::Prepared(id(2), Prepared::Ready(plan(&[Phase::Before], false))));
    settle(&mut world);
    assert!(world.performed.iter().all(|(other, ..)| *other == id(1)));
    world.at = 31;
    settle(&mut world);
    assert!(world.performing.remove(&(id(2), None)), "it is looked at again, for another was installed meanwhile");
    world.event(Event::Prepared(id(2), Prepared::Ready(plan(&[Phase::Before], false))));
    settle(&mut world);
    assert!(world.performed.iter().any(|(other, ..)| *other == id(2)));
}

#[test]
fn the_machine_goes_down_although_what_is_ordered_for_it_can_not_begin() {
    let mut world = fetched(5, 60);
    world.at = 61;
    settle(&mut world);
    assert!(world.state.may_go_down(&world.now()), "without a lease nothing begins");
}

/// Ends the step that runs with this, and what follows it well, up to the signature.
fn ends_with(world: &mut World, report: StepReport) {
    let mut report = Some(report);
    for _ in 0..8 {
        settle(world);
        let Some(work) = world.performing.pop_first() else { return };
        if let (_, Some((_, op, _))) = work {
            let how = if matches!(op, Op::Step(_)) { report.take().unwrap_or(StepReport::Done) } else { StepReport::Done };
            let how = if matches!(op, Op::Step(_)) { OpReport::Step(how) } else { OpReport::Done };
            world.event(Event::OpEnded(id(1), how));
        }
    }
}

#[test]
fn a_soft_restart_is_reported_or_seen_to_by_the_agent_in_the_times_of_the_job() {
    // Not for a job that does not say so.
    let mut world = fetched(0, 6_000);
    ends_with(&mut world, StepReport::RebootSoft);
    assert!(!world.restarting);
    assert!(world.signing[0].items[0].reboot && world.signing[0].state == ExecutionState::Succeeded);

    // Its window closes meanwhile, and the next one opens at second 100.
    let mut world = fetched(252, 6_000);
    world.event(Event::Timed(id(1), world.times(100, Some(50), 0)));
    ends_with(&mut world, StepReport::RebootSoft);
    assert!(!world.restarting && world.signing.is_empty() && waits_for(&world) == Some(WaitReason::Reboot));
    world.at = 100;
    settle(&mut world);
    assert!(world.restarting);
    // Once, as long as it may come.
    world.restarting = false;
    world.at = 140;
    settle(&mut world);
    assert!(!world.restarting);
    world.reboot(0);
    settle(&mut world);
    assert!(!world.signing[0].items[0].reboot || world.signing[0].state == ExecutionState::Succeeded);
    assert_eq!(world.signing.len(), 1);
}

#[test]
fn of_several_packages_those_that_asked_for_a_restart_say_so_and_no_other() {
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 3), 6_000));
    world.write();
    for (package, report) in [("first", StepReport::Done), ("driver", StepReport::RebootSoft), ("last", StepReport::Done)] {
        world.performing.clear();
        let package = package.parse().unwrap();
        world.event(Event::Prepared(id(1), Prepared::Ready(Plan { package, ..plan(&[Phase::Before], false) })));
        ends_with(&mut world, report);
    }
    let said: Vec<_> = world.signing[0].items.iter().map(|item| (item.package.as_str(), item.reboot)).collect();
    assert_eq!(said, [("first", false), ("driver", true), ("last", false)]);
}

#[test]
fn what_is_called_off_while_it_waits_for_a_restart_restarts_nothing_and_says_what_was_done() {
    let mut world = fetched(252, 6_000);
    world.event(Event::Timed(id(1), world.times(100, Some(50), 0)));
    ends_with(&mut world, StepReport::RebootSoft);
    world.at = 60;
    world.event(Event::CancelAsked(id(1)));
    settle(&mut world);
    assert_eq!(world.signing.len(), 1);
    assert!(world.signing[0].state == ExecutionState::Succeeded && world.signing[0].items[0].reboot);
    world.at = 100;
    settle(&mut world);
    assert!(!world.restarting);
}

#[test]
fn a_restart_that_never_comes_is_ordered_a_few_times_and_then_reported() {
    let mut world = fetched(252, 60_000);
    ends_with(&mut world, StepReport::RebootSoft);
    let mut orders = 0;
    while world.signing.is_empty() {
        settle(&mut world);
        orders += u32::from(std::mem::take(&mut world.restarting));
        world.at += 60;
        assert!(world.at < 6_000, "it is ordered for ever");
    }
    assert!(orders == 3 && world.signing[0].items[0].reboot, "{orders}");
}

#[test]
fn a_machine_that_lets_nobody_restart_it_says_that_it_must_be() {
    let mut world = fetched(252, 6_000);
    world.event(Event::MayRestart(false));
    ends_with(&mut world, StepReport::RebootSoft);
    assert!(!world.restarting && world.signing[0].items[0].reboot);
}

#[test]
fn a_hard_restart_is_ordered_where_the_job_says_so_and_what_follows_waits_for_it() {
    let mut world = fetched(252, 6_000);
    settle(&mut world);
    assert!(world.performing.remove(&(id(1), Some((0, Op::Step(0), 0)))));
    world.event(Event::OpEnded(id(1), OpReport::Step(StepReport::RebootHard)));
    settle(&mut world);
    assert!(world.restarting && world.performing.is_empty());
    world.reboot(0);
    world.event(Event::Leased(vec![id(1)], 600));
    settle(&mut world);
    assert_eq!(world.performing.first(), Some(&(id(1), Some((0, Op::Exchange, 0)))));
}

#[test]
fn of_several_packages_one_that_has_no_room_yet_is_not_taken_for_fetched() {
    let mut world = World::new();
    world.event(Event::Offered(of_kind(offer(1, 2), 4), 86_400));
    world.write();
    assert!(world.performing.remove(&(id(1), None)), "the second one is fetched first");
    let Prepared::Ended(result) = there("tool") else { unreachable!("it is an end") };
    let failure = Some(Failure { kind: ErrorKind::NoSpace, ..failed() });
    world.event(Event::Prepared(id(1), Prepared::Ended(ItemResult { state: ExecutionState::Failed, failure, ..result })));
    settle(&mut world);
    assert_eq!(world.state.record(&id(1)).unwrap().next_ahead(), Some(1));
    assert!(world.performing.is_empty(), "not at once");
    world.at += 3_600;
    settle(&mut world);
    assert!(world.performing.remove(&(id(1), None)), "it is tried again");
    world.event(Event::Prepared(id(1), Prepared::Ready(plan(&[Phase::Before], false))));
    settle(&mut world);
    assert_eq!(world.state.record(&id(1)).unwrap().next_ahead(), None);
    assert!(world.performing.contains(&(id(1), None)), "and then the first one");
}
