//! Short lives that were once found to break a rule, each told by itself.

use crate::{
    FOLDERS,
    plan::{GroupNumber, Op, Order, PackageNumber, Step},
    run::Case,
    the_rules_hold,
};
use std::sync::Arc;
use std::time::Duration;
use sutler_agent::{identity::Identity, installer::Installer as _, link};
use sutler_certs::tls;
use sutler_proto::{
    PROTOCOL_VERSION,
    v1::{self, agent_service_client::AgentServiceClient, connect_request::Message as Up, connect_response::Message as Down},
};
use sutler_tests::{
    fleet::{Database, Machine, Weather},
    harness::{PATIENCE, wait_until},
};

fn told(ops: Vec<Op>) {
    let steps: Vec<Step> = ops.into_iter().map(|op| Step { op, settle: true, twice: false }).collect();
    the_rules_hold(Database::Sqlite, &steps);
}

fn enrol(pending: bool, group: Option<GroupNumber>) -> Op {
    Op::Enrol { machine: 0, pending, even: true, group, online: true }
}

/// Connects as this machine's agent, takes the first offer without a word, and is gone. Gives back the attempt.
async fn take_an_offer(machine: &Machine, journal_lost: bool) -> String {
    let identity = Identity::load(Arc::new(machine.simulated.vault.clone())).unwrap();
    let (credential, _) = identity.credential();
    let tls = tls::agent_client(Some(&credential), identity.trust(), tls::Clock::system()).unwrap();
    let connection = link::connect(&identity.addresses()[0], tls).await.unwrap();
    let facts = machine.simulated.machine.facts(vec![]).await.expect("a simulated machine knows its facts");
    let hello = v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        machine_id: facts.machine_id,
        session_counter: identity.next_session().unwrap(),
        journal_lost,
        ..Default::default()
    };
    let (outbox, messages) = tokio::sync::mpsc::channel(1);
    outbox.send(v1::ConnectRequest { message: Some(Up::Hello(hello)) }).await.unwrap();
    let mut client = AgentServiceClient::with_origin(connection.clone(), connection.origin());
    let mut stream = client.connect(tokio_stream::wrappers::ReceiverStream::new(messages)).await.unwrap().into_inner();
    loop {
        let message = stream.message().await.unwrap().expect("the stream goes on until there is an offer");
        if let Some(Down::Offer(offer)) = message.message {
            return offer.attempt;
        }
    }
}

fn run(group: GroupNumber, package: PackageNumber) -> Op {
    Op::Run(Order { groups: vec![group], machine: None, packages: vec![package], always: false, draft: false })
}

fn run_on_machine(package: PackageNumber) -> Op {
    Op::Run(Order { groups: vec![], machine: Some(0), packages: vec![package], always: false, draft: false })
}

fn stand_again(job: usize) -> Op {
    Op::Retry { job, waiting: false, machine: None, revive: true }
}

#[test]
fn a_client_that_was_taken_out_while_it_waited_for_approval_stays_out() {
    told(vec![enrol(true, Some(0)), Op::TakeOut(0, 0), Op::Approve(0)]);
}

#[test]
fn who_left_and_came_back_while_it_was_offline_does_not_wait_for_a_job_that_is_canceled() {
    // The second job waits for its turn behind the first, whose step does not end: offered, and not started.
    let offered = vec![enrol(false, Some(0)), Op::Hold(0, true), run(0, 0), run(0, 1), Op::Kill(0)];
    told([offered, vec![Op::TakeOut(0, 0), Op::Add(0, 0), Op::CancelJob(1), Op::Start(0)]].concat());
}

#[test]
fn who_left_between_a_retry_and_its_start_is_queued_again_when_it_comes_back() {
    // It fails, is retried while it is offline, and leaves before it hears of that.
    let failed = vec![enrol(false, Some(0)), Op::Fail(0, 0, true), run(0, 0), Op::Kill(0), Op::Fail(0, 0, false)];
    let retry = Op::Retry { job: 0, waiting: false, machine: None, revive: false };
    told([failed, vec![retry, Op::TakeOut(0, 0), Op::Add(0, 0), Op::Start(0)]].concat());
}

#[test]
fn a_job_that_stands_again_reaches_who_came_and_who_came_back_meanwhile() {
    told(vec![enrol(false, None), run(0, 0), Op::CancelJob(0), Op::Add(0, 0), stand_again(0)]);
    let left = vec![enrol(false, Some(0)), Op::Kill(0), run(0, 0), Op::TakeOut(0, 0), Op::CancelJob(0)];
    told([left, vec![Op::Add(0, 0), stand_again(0)]].concat());
}

#[test]
fn a_job_does_not_stand_again_beside_another_for_the_same_package_and_group() {
    told(vec![enrol(false, Some(0)), run(0, 0), Op::CancelJob(0), run(0, 0), stand_again(0)]);
}

#[test]
fn a_job_for_a_client_that_is_never_let_in_is_complete_when_that_is_removed() {
    told(vec![enrol(true, None), run_on_machine(0), Op::Remove(0)]);
}

#[test]
fn a_cancellation_of_who_is_cut_off_is_not_final_because_the_managers_clock_was_set_ahead() {
    let mut case = Case::new(Database::Sqlite, &FOLDERS);
    // The second job waits for its turn behind the first, whose step does not end: offered, and not started.
    let offered = [enrol(false, Some(0)), Op::Hold(0, true), run(0, 0), run(0, 1)];
    case.play(&offered.map(|op| Step { op, settle: true, twice: false }));
    case.network.set(Weather::Cut);
    case.machines[&0].disconnected();
    case.play(&[Step { op: Op::CancelJob(1), settle: false, twice: false }]);
    case.manager.step_clock(3_600_000);
    // Its workers look at what is due with every round.
    let rounds = |case: &Case| case.manager.rounds("jobs");
    let before = rounds(&case);
    wait_until("the manager to look at what is due", PATIENCE, || rounds(&case) > before + 2);
    // The machine still holds its lease, and begins.
    case.machines[&0].simulated.machine.hold_steps(false);
    wait_until("the second step to run", PATIENCE, || case.machines[&0].simulated.machine.runs().len() == 2);
    let request = v1::ListExecutionsRequest { parent: case.jobs[1].clone(), ..Default::default() };
    let shown = case.operator.jobs(&case.manager, |mut jobs| async move { jobs.list_executions(request).await });
    let states: Vec<_> = shown.unwrap().executions.iter().map(|row| row.state()).collect();
    assert!(!states.contains(&v1::ExecutionState::Canceled), "it runs, and is shown as {states:?}");
}

#[test]
fn who_has_gone_is_shown_as_offline_at_once_however_much_time_passes_while_that_is_written_down() {
    let mut case = Case::new(Database::Sqlite, &FOLDERS);
    case.play(&[Step { op: enrol(false, Some(0)), settle: true, twice: false }]);
    let client = case.ids[0].clone();
    for _ in 0..5 {
        std::thread::scope(|scope| {
            // For twenty seconds of its clock it is later whenever the manager asks again what time it is.
            let manager = &case.manager;
            scope.spawn(|| {
                for _ in 0..20_000 {
                    manager.step_clock(1);
                    (0..100).for_each(|_| std::hint::spin_loop());
                }
            });
            case.machines.get_mut(&0).unwrap().kill();
            wait_until("the manager to notice", PATIENCE, || !manager.app().live.is_connected(&client));
        });
        // Well within the time for which another manager's word would count.
        wait_until("it to be shown as offline", Duration::from_secs(20), || {
            let request = v1::GetClientRequest { name: format!("clients/{client}") };
            let shown = case.operator.clients(&case.manager, |mut clients| async move { clients.get_client(request).await });
            shown.unwrap().client.is_some_and(|client| !client.online)
        });
        case.play(&[Step { op: Op::Start(0), settle: true, twice: false }]);
    }
}

#[test]
fn an_offer_is_repeated_to_who_never_had_it_and_not_to_who_forgot() {
    let mut case = Case::new(Database::Sqlite, &FOLDERS);
    let unseen = Op::Enrol { machine: 0, pending: false, even: true, group: Some(0), online: false };
    case.play(&[unseen, run(0, 0)].map(|op| Step { op, settle: false, twice: false }));
    let offered = |case: &Case, lost| case.wait_for(take_an_offer(&case.machines[&0], lost));
    let first = offered(&case, false);
    assert_eq!(offered(&case, false), first, "its journal says that it never had it");
    // The word that it had accepted, and had begun, was lost with the connection.
    let second = offered(&case, true);
    assert_ne!(second, first, "its journal was lost, so it may have begun");
    case.finish();
    assert_eq!(case.machines[&0].simulated.machine.runs().iter().map(|r| r.attempt.to_string()).collect::<Vec<_>>(), [second]);
}
