//! Which way an installation or an uninstallation goes: restored, put back, held up by a restart.

use super::*;

/// A world in which the attempt 1 has been prepared with this plan.
fn prepared(plan: Plan) -> World {
    let mut world = World::new();
    world.event(Event::Offered(offer(1, 1), 6000));
    world.write();
    world.performing.clear();
    world.event(Event::Prepared(id(1), Prepared::Ready(plan)));
    world
}

/// Ends the op that runs, which must be this one.
fn end(world: &mut World, expected: Op, report: OpReport) {
    while !world.unwritten.is_empty() {
        world.write();
    }
    let running: Vec<Op> = world.performing.iter().filter_map(|(_, op)| op.map(|(_, op, _)| op)).collect();
    assert_eq!(running, [expected]);
    world.performing.clear();
    world.event(Event::OpEnded(id(1), report));
}

/// The end that it came to, and whether what was there before is back.
fn ended(world: &mut World) -> (ExecutionState, Option<bool>) {
    for _ in 0..4 {
        world.write();
        world.sign();
    }
    let Stage::Finished { outcome, .. } = &world.disk[&id(1)].stage else { panic!("not finished: {:?}", world.disk[&id(1)].stage) };
    let outcome = Outcome::parse(outcome).unwrap();
    (outcome.state, outcome.items[0].failure.as_ref().and_then(|f| f.restored))
}

fn step(report: StepReport) -> OpReport {
    OpReport::Step(report)
}

#[test]
fn the_steps_that_restore_run_when_the_old_version_is_back_and_say_whether_it_is() {
    let phases = [Phase::Install, Phase::OnError, Phase::Restore, Phase::Restore];
    let failing = || {
        let mut world = prepared(plan(&phases, false));
        end(&mut world, Op::Exchange, OpReport::Done);
        end(&mut world, Op::Step(0), step(StepReport::Failed(failed())));
        end(&mut world, Op::Step(1), step(StepReport::Done));
        world
    };
    let mut world = failing();
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Old));
    end(&mut world, Op::Step(2), step(StepReport::Done));
    end(&mut world, Op::Step(3), step(StepReport::Done));
    assert_eq!(ended(&mut world), (ExecutionState::Failed, Some(true)));

    let mut world = failing();
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Old));
    end(&mut world, Op::Step(2), step(StepReport::Failed(failed())));
    end(&mut world, Op::Step(3), step(StepReport::Done));
    assert_eq!(ended(&mut world), (ExecutionState::Failed, Some(false)), "half of it is not back");

    // The first installation of a package has nothing to go back to.
    let mut world = failing();
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Empty));
    assert_eq!(ended(&mut world), (ExecutionState::Failed, Some(true)));
}

#[test]
fn what_installs_without_a_tree_is_restored_only_once_it_may_have_damaged_something() {
    let phases = [Phase::Before, Phase::Install, Phase::Restore];
    let without_a_tree = || Plan { directory: false, ..plan(&phases, false) };
    let touched = |world: &World| match &world.state.record(&id(1)).unwrap().stage {
        Stage::Installing(installing) => installing.touched,
        other => panic!("{other:?}"),
    };
    let mut world = prepared(without_a_tree());
    end(&mut world, Op::Step(0), step(StepReport::Failed(failed())));
    assert!(!touched(&world));
    let mut world = prepared(without_a_tree());
    end(&mut world, Op::Step(0), step(StepReport::Done));
    end(&mut world, Op::Step(1), step(StepReport::Failed(failed())));
    assert!(touched(&world));
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Old));
    end(&mut world, Op::Step(2), step(StepReport::Done));
    assert_eq!(ended(&mut world), (ExecutionState::Failed, Some(true)));
}

#[test]
fn after_a_hard_restart_was_asked_for_nothing_goes_on_in_this_start_of_the_machine() {
    let mut world = prepared(plan(&[Phase::Install, Phase::After], false));
    end(&mut world, Op::Exchange, OpReport::Done);
    end(&mut world, Op::Step(0), step(StepReport::RebootHard));
    while !world.unwritten.is_empty() {
        world.write();
    }
    world.event(Event::Tick);
    assert!(world.performing.is_empty(), "{:?}", world.performing);
    assert_eq!(world.state.progress(&world.now())[0].1.wait, Some(WaitReason::Reboot));
    // The agent alone starts again: the machine has not.
    world.crash(0);
    world.event(Event::Leased(vec![id(1)], 600));
    world.write();
    assert!(world.performing.is_empty(), "{:?}", world.performing);
    // Now it has.
    let rebooted = Now { boot_id: "another".into(), ..now(1) };
    let (mut state, _) = State::recover(client(), vec![world.disk[&id(1)].clone()], Allowed::default(), 1, &rebooted);
    let effects = state.handle(Event::Leased(vec![id(1)], 600), &rebooted);
    let Some(Effect::Journal(_, write)) = effects.iter().rev().find(|e| matches!(e, Effect::Journal(..))) else { panic!("{effects:?}") };
    let effects = state.handle(Event::Journaled(id(1), *write), &rebooted);
    let go_on = |effects: &[Effect]| effects.contains(&Effect::Perform(id(1), 0, Op::Step(1), 0));
    let again = effects.iter().find_map(|e| if let Effect::Journal(_, write) = e { Some(*write) } else { None });
    let goes_on = go_on(&effects) || again.is_some_and(|write| go_on(&state.handle(Event::Journaled(id(1), write), &rebooted)));
    assert!(goes_on, "{effects:?}");
}

#[test]
fn an_uninstallation_runs_its_own_steps_then_removes_and_asks_whether_it_is_gone() {
    let phases = [Phase::Install, Phase::Uninstall, Phase::OnError];
    let uninstall = || Plan { intent: Intent::Uninstall, ..plan(&phases, true) };
    let mut world = prepared(uninstall());
    for (op, report) in [
        (Op::Step(1), step(StepReport::RebootSoft)),
        (Op::Remove, OpReport::Done),
        (Op::VerifyGone, OpReport::Done),
        (Op::Forget, OpReport::Done),
    ] {
        end(&mut world, op, report);
    }
    assert_eq!(ended(&mut world).0, ExecutionState::Succeeded);

    let mut world = prepared(uninstall());
    end(&mut world, Op::Step(1), step(StepReport::Failed(failed())));
    end(&mut world, Op::Step(2), step(StepReport::Done));
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Untouched));
    assert_eq!(ended(&mut world), (ExecutionState::Failed, Some(false)));
}

/// A package whose place another takes, with one step to uninstall it, whose steps follow two of the other's.
fn displacing() -> Plan {
    let old = Displaced {
        package: "old".parse().unwrap(),
        version: "1.5".parse().unwrap(),
        manifest: Digest::of(b"old"),
        first_step: 2,
        directory: true,
        detection: true,
    };
    let phases = [Phase::Install, Phase::OnError, Phase::Install, Phase::Uninstall];
    Plan { displaced: vec![old], supersedes: vec!["old".parse().unwrap()], ..plan(&phases, false) }
}

#[test]
fn what_is_displaced_goes_by_its_own_steps_before_the_first_of_the_new_one() {
    let mut world = prepared(displacing());
    for (op, report) in [
        (Op::Step(3), step(StepReport::Done)),
        (Op::Displace(0, Leaving::Remove), OpReport::Done),
        (Op::Displace(0, Leaving::VerifyGone), OpReport::Done),
        (Op::Displace(0, Leaving::Forget), OpReport::Done),
        (Op::Exchange, OpReport::Exchanged { detected: false }),
        (Op::Step(0), step(StepReport::Done)),
        (Op::Verify, OpReport::Done),
        (Op::Commit, OpReport::Done),
    ] {
        end(&mut world, op, report);
    }
    assert_eq!(ended(&mut world).0, ExecutionState::Succeeded);
}

#[test]
fn a_failure_says_what_was_uninstalled_for_it_and_does_not_come_back() {
    let failure = |world: &mut World| {
        let end = ended(world);
        let Stage::Finished { outcome, .. } = &world.disk[&id(1)].stage else { panic!("not finished") };
        (end, Outcome::parse(outcome).unwrap().items[0].failure.clone().unwrap().message)
    };
    // Its own step fails: whether all of it is still there nobody knows.
    let mut world = prepared(displacing());
    end(&mut world, Op::Step(3), step(StepReport::Failed(failed())));
    end(&mut world, Op::Step(1), step(StepReport::Done));
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Untouched));
    let (ended, message) = failure(&mut world);
    assert_eq!(ended, (ExecutionState::Failed, Some(false)));
    assert_eq!(message, "old 1.5, whose place it takes, could not be uninstalled: no");

    // A step of the new one fails, when the old one is gone.
    let mut world = prepared(displacing());
    end(&mut world, Op::Step(3), step(StepReport::Done));
    for how in [Leaving::Remove, Leaving::VerifyGone, Leaving::Forget] {
        end(&mut world, Op::Displace(0, how), OpReport::Done);
    }
    end(&mut world, Op::Exchange, OpReport::Exchanged { detected: false });
    end(&mut world, Op::Step(0), step(StepReport::Failed(failed())));
    end(&mut world, Op::Step(1), step(StepReport::Done));
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Empty));
    let (ended, message) = failure(&mut world);
    assert_eq!(ended, (ExecutionState::Failed, Some(false)));
    assert_eq!(message, "no; old 1.5, whose place it takes, was uninstalled before");

    // Called off between two runs of its own step, of which the first may have taken away anything.
    let mut world = prepared(displacing());
    end(&mut world, Op::Step(3), step(StepReport::Later(failed())));
    while !world.unwritten.is_empty() {
        world.write();
    }
    world.at = 6001;
    world.event(Event::Connected(vec![id(1)]));
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Untouched));
    let (ended, message) = failure(&mut world);
    assert_eq!(ended, (ExecutionState::Interrupted, Some(false)));
    assert!(message.starts_with("old 1.5, whose place it takes, could not be uninstalled: "), "{message}");

    // Refused before anything had run: nothing is to be said of it.
    let mut world = prepared(displacing());
    end(&mut world, Op::Step(3), OpReport::Refused(failed()));
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Untouched));
    assert_eq!(failure(&mut world).1, "no");
}

#[test]
fn a_step_that_uninstalls_what_is_displaced_is_not_started_again_after_a_crash() {
    let mut world = prepared(displacing());
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert_eq!(world.performed.len(), 1);
    world.crash(0);
    world.event(Event::Leased(vec![id(1)], 600));
    while !world.unwritten.is_empty() {
        world.write();
    }
    assert_eq!(world.performed, [(id(1), 0, Op::Step(3), 0)], "it is picked up");
    // What holds of the new one says nothing about the old one's step.
    world.performing.clear();
    world.event(Event::OpEnded(id(1), step(StepReport::Interrupted { detected: true })));
    end(&mut world, Op::Step(1), step(StepReport::Done));
    end(&mut world, Op::Restore, OpReport::Restored(Restored::Untouched));
    assert_eq!(ended(&mut world), (ExecutionState::Interrupted, Some(false)));
}
