//! Events: whoever follows them hears of everything once, whatever happens to the manager and the way to it.

use crate::access::callers::{Bed, Caller};
use prost::Message as _;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::File,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};
use sutler::app::{self, occurrences};
use sutler_base::state::Role;
use sutler_core::event::Event;
use sutler_proto::v1;
use sutler_tests::{
    fleet::{Database, Packages},
    harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, Setup, wait_until},
    postgres::Postgres,
};
use tonic::Code;

/// `sutler events --follow`, which writes into a file.
struct Follower {
    child: Child,
    file: PathBuf,
}

impl Follower {
    fn new(manager: &Manager, arguments: &[&str]) -> Follower {
        let file = manager.scratch().join("followed");
        let mut all = vec!["events", "--follow", "-o", "json", "--retry-for", "60s"];
        all.extend(arguments);
        let out = File::create(&file).unwrap();
        let child = manager.cli().command(&all).stdin(Stdio::null()).stdout(out).spawn().unwrap();
        Follower { child, file }
    }

    /// The cursors of what it printed, in its order.
    fn cursors(&self) -> Vec<String> {
        let text = fs_err::read_to_string(&self.file).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["cursor"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn events(cli: &Cli, options: &str) -> Vec<Value> {
    cli.json(&format!("events {options}")).as_array().unwrap().clone()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["kind"].as_str().unwrap().trim_start_matches("EVENT_KIND_")).collect()
}

fn cursors(events: &[Value]) -> Vec<String> {
    events.iter().map(|e| e["cursor"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn whoever_follows_events_hears_of_each_once_and_in_order_while_the_manager_is_killed() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("one", &manager);
    let followers = [Follower::new(&manager, &["--since", "0"])];
    let mut jobs = Vec::new();
    for round in 0..4 {
        let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
        JobView::wait(&cli, &job, "the job to be over", PATIENCE, |view| view.state == "COMPLETED");
        jobs.push(job);
        match round % 2 {
            0 => manager.kill_and_serve(),
            _ => wait_until("it to be heard of", PATIENCE, || followers[0].cursors().len() >= 2 * round),
        }
    }
    let all = events(&cli, "--since 1d");
    assert_eq!(kinds(&all).iter().filter(|kind| **kind == "JOB_ENDED").count(), 4, "{all:#?}");
    wait_until("everything to be heard of", PATIENCE, || followers[0].cursors().len() >= all.len());
    assert_eq!(followers[0].cursors(), cursors(&all));
    // In the order in which it happened, and each with its place.
    let numbers: Vec<i64> = cursors(&all).iter().map(|c| c.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(kinds(&all)[0], "CLIENT_ENROLLED");
    // One job, from a cursor on, of one kind.
    let of_job = events(&cli, &format!("--object jobs/{}", jobs[1]));
    assert_eq!(kinds(&of_job), ["JOB_STARTED", "JOB_ENDED"]);
    assert_eq!(of_job[1]["attributes"]["result"], "WELL");
    let rest = events(&cli, &format!("--since {} --kind job-started", of_job[0]["cursor"].as_str().unwrap()));
    assert_eq!(
        rest.iter().map(|e| e["object"].as_str().unwrap()).collect::<Vec<_>>(),
        [format!("jobs/{}", jobs[2]), format!("jobs/{}", jobs[3])]
    );
    assert!(cli.ok("events").lines().last().unwrap().contains("has ended well"));
    cli.fails(1, "events --since 99999999999").says(&["no event has come as far as the cursor"]);
    cli.fails(2, "events --kind job").says(&["JOB_ENDED"]);
}

/// What a caller watches after this cursor, until it has so many events.
fn watch(bed: &Bed, caller: &Caller, cursor: &str, wanted: usize) -> (Vec<String>, String) {
    let request = v1::WatchEventsRequest { cursor: cursor.into(), ..Default::default() };
    bed.runtime.block_on(async {
        let mut stream = caller.stream("/sutler.v1.EventService/WatchEvents", request.encode_to_vec().into()).await.unwrap();
        let (mut seen, mut cursor) = (vec![], cursor.to_owned());
        while seen.len() < wanted {
            let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("an event comes").unwrap().expect("it goes on");
            let message = v1::WatchEventsResponse::decode(message).unwrap();
            seen.extend(message.events.into_iter().map(|e| e.cursor));
            cursor = message.cursor;
        }
        (seen, cursor)
    })
}

#[test]
fn a_watch_goes_on_at_its_cursor_at_another_manager() {
    let Some(server) = Postgres::shared() else { return };
    let mut bed = Bed::new(Database::Postgres(server));
    let second = bed.manager.second();
    let credential = bed.operator("bea", &[(Role::Viewer, &[])]);
    let callers = [bed.at_operators(&bed.manager, Some(&credential)).unwrap(), bed.at_operators(&second, Some(&credential)).unwrap()];
    // Both write at the same time, and whoever reads at the one goes on at the other.
    let mut at_second = sutler_tests::fleet::Operator::new(&second, bed.runtime.handle());
    let (mut seen, mut cursor) = (vec![], "0".to_owned());
    for round in 0..6 {
        let request = v1::CreateEnrollmentTokensRequest::default();
        let token =
            at_second.tokens(&second, |mut c| async move { c.create_enrollment_tokens(request).await }).unwrap().tokens[0].secret.clone();
        let token = sutler_base::token::TokenString::parse(&token).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| bed.enroll(&token, &sutler_certs::PrivateKey::generate().unwrap()).unwrap());
        });
        bed.client();
        let (more, next) = watch(&bed, &callers[round % 2], &cursor, 2);
        seen.extend(more);
        cursor = next;
    }
    let request = v1::ListEventsRequest { page_size: 1000, ..Default::default() };
    let all = bed.admin.events(&bed.manager, |mut c| async move { c.list_events(request).await }).unwrap().events;
    assert_eq!(all.len(), 12);
    assert_eq!(seen, all.iter().rev().map(|e| e.cursor.clone()).collect::<Vec<_>>());
}

/// The events of this kind, the newest first.
fn of_kind(bed: &mut Bed, kind: v1::EventKind) -> Vec<v1::Event> {
    let request = v1::ListEventsRequest { kinds: vec![kind.into()], ..Default::default() };
    bed.admin.events(&bed.manager, |mut c| async move { c.list_events(request).await }).unwrap().events
}

/// Waits until the worker has looked twice from the beginning to the end.
fn looked(bed: &Bed, second: Option<&sutler_tests::fleet::Manager>) {
    for manager in std::iter::once(&bed.manager).chain(second) {
        let before = manager.rounds("occurrences");
        wait_until("it to be looked at again", PATIENCE, || manager.rounds("occurrences") >= before + 2);
    }
}

fn overdue_once(database: Database) {
    // So short that it is looked for twice a second, and so long that no slow machine comes to it.
    let mut bed = Bed::tuned(database, |config| config.limits.overdue = Duration::from_secs(60));
    let ids: Vec<_> = (0..3).map(|_| format!("clients/{}", bed.client().0)).collect();
    let mut second = matches!(database, Database::Postgres(_)).then(|| bed.manager.second());
    looked(&bed, second.as_ref());
    assert_eq!(of_kind(&mut bed, v1::EventKind::ClientOverdue), []);
    bed.manager.step_clock(61_000);
    let told = |bed: &mut Bed| -> Vec<String> { of_kind(bed, v1::EventKind::ClientOverdue).into_iter().map(|e| e.object).collect() };
    wait_until("all to be told of", PATIENCE, || told(&mut bed).len() >= 3);
    looked(&bed, second.as_ref());
    bed.admin.hang_up();
    bed.manager.stop();
    bed.manager.start_again();
    looked(&bed, second.as_ref());
    assert_eq!(told(&mut bed).into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    assert_eq!(told(&mut bed).len(), 3, "each was told of once");
    // One is heard of again and is silent again: that is another silence.
    let id: sutler_base::ClientId = told(&mut bed)[0].trim_start_matches("clients/").parse().unwrap();
    let app = bed.manager.app().clone();
    let seen = (id, app.world.now());
    let touch = app.change("manager", "presence", seen, |tx, _env, seen| {
        Box::pin(async move { Ok(tx.touch_clients(std::slice::from_ref(seen)).await?) })
    });
    bed.runtime.block_on(touch).unwrap();
    bed.manager.step_clock(61_000);
    wait_until("the second silence to be told of", PATIENCE, || told(&mut bed).len() >= 4);
    looked(&bed, second.as_ref());
    assert_eq!(told(&mut bed).len(), 4);
    drop(second.take());
}

#[test]
fn a_client_that_is_overdue_is_told_of_once_per_silence() {
    overdue_once(Database::Sqlite);
}

#[test]
fn a_client_that_is_overdue_is_told_of_once_by_two_managers() {
    let Some(server) = Postgres::shared() else { return };
    overdue_once(Database::Postgres(server));
}

#[test]
fn what_happens_to_clients_and_what_nears_its_end_is_told_of_once() {
    let mut bed = Bed::tuned(Database::Sqlite, |config| config.limits.overdue = Duration::from_secs(10));
    let (id, _) = bed.client();
    let waiting = v1::CreateEnrollmentTokensRequest { networks: vec!["192.0.2.0/24".into()], uses: 1, ..Default::default() };
    let token = bed.token(waiting);
    bed.enroll(&token, &sutler_certs::PrivateKey::generate().unwrap()).unwrap();
    let quarantine = v1::QuarantineClientRequest { name: format!("clients/{id}"), reason: "lent".into(), ..Default::default() };
    bed.admin.clients(&bed.manager, |mut c| async move { c.quarantine_client(quarantine).await }).unwrap();
    assert_eq!(of_kind(&mut bed, v1::EventKind::ClientEnrolled).len(), 2);
    assert_eq!(of_kind(&mut bed, v1::EventKind::ClientPending).len(), 1);
    let quarantined = of_kind(&mut bed, v1::EventKind::ClientQuarantined);
    assert!(quarantined.len() == 1 && quarantined[0].sentence.contains("lent"), "{quarantined:?}");
    // A package that may not be installed any more in 20 days, and an operator who does not call for a month.
    let ends = bed.manager.app().world.now() + Duration::from_secs(20 * 86_400);
    for signed in Packages::that_end("hello", ends).sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    let group = v1::CreateGroupRequest { group_id: "machines".into(), ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(group).await }).unwrap();
    let run = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: vec!["groups/machines".into()],
        ..Default::default()
    };
    let job = bed.admin.jobs(&bed.manager, |mut c| async move { c.run_job(run).await }).unwrap().job.unwrap().name;
    looked(&bed, None);
    assert_eq!(of_kind(&mut bed, v1::EventKind::PackageEndsSoon), []);
    assert_eq!(of_kind(&mut bed, v1::EventKind::CertificateEndsSoon), []);
    bed.manager.step_clock(7 * 86_400 * 1000);
    // Whoever asks has a certificate of twelve hours: what was told is read from the store.
    let read = |bed: &Bed| {
        let app = bed.manager.app().clone();
        let all = app.view("manager", "events", (), |tx, _env, ()| {
            Box::pin(async move { Ok(tx.events_after(0, &Default::default(), 1000).await?) })
        });
        bed.runtime.block_on(all).unwrap()
    };
    let objects = |bed: &Bed, kind: sutler_base::state::EventKind| -> Vec<String> {
        read(bed).into_iter().filter(|e| e.kind == kind).map(|e| e.object).collect()
    };
    use sutler_base::state::EventKind::{CertificateEndsSoon, PackageEndsSoon};
    wait_until("the package's end to be told of", PATIENCE, || !objects(&bed, PackageEndsSoon).is_empty());
    looked(&bed, None);
    assert_eq!(objects(&bed, PackageEndsSoon), [job]);
    assert_eq!(objects(&bed, CertificateEndsSoon), <[String; 0]>::default());
    bed.manager.step_clock(12 * 86_400 * 1000);
    wait_until("the operator's certificate to be told of", PATIENCE, || !objects(&bed, CertificateEndsSoon).is_empty());
    looked(&bed, None);
    assert_eq!(objects(&bed, CertificateEndsSoon), ["operators/anna"]);
    assert_eq!(objects(&bed, PackageEndsSoon).len(), 1);
}

#[test]
fn whoever_reaches_none_of_many_events_is_told_where_to_look_on() {
    let mut bed = Bed::new(Database::Sqlite);
    let group = v1::CreateGroupRequest { group_id: "machines".into(), ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(group).await }).unwrap();
    let app = bed.manager.app().clone();
    for _ in 0..11 {
        let some = app.change("manager", "events", (), |tx, env, ()| {
            Box::pin(async move {
                for n in 0..1000 {
                    let event = Event::new(sutler_base::state::EventKind::JobEnded, format!("jobs/{n:010}"), "over");
                    app::events::emit(tx, env, event).await?;
                }
                Ok(())
            })
        });
        bed.runtime.block_on(some).unwrap();
    }
    let credential = bed.operator("bea", &[(Role::Viewer, &["machines"])]);
    let caller = bed.at_operators(&bed.manager, Some(&credential)).unwrap();
    let list = |page_token: String| {
        let request = v1::ListEventsRequest { page_size: 1, page_token, ..Default::default() };
        let answer = bed.call(&caller, "/sutler.v1.EventService/ListEvents", request.encode_to_vec().into()).unwrap();
        v1::ListEventsResponse::decode(answer).unwrap()
    };
    let first = list(String::new());
    assert!(first.events.is_empty() && !first.next_page_token.is_empty(), "it looks at some, and not at all of them: {first:?}");
    let last = list(first.next_page_token);
    assert!(last.events.is_empty() && last.next_page_token.is_empty(), "{last:?}");
}

#[test]
fn a_certificate_near_its_end_is_told_of_once_per_manager() {
    let bed = Bed::new(Database::Sqlite);
    let app = bed.manager.app().clone();
    let ends = |days: u64| app.world.now() + Duration::from_secs(days * 86_400);
    // Two managers look in turn, each at its own.
    let (one, two) = (own("01", ends(3)), own("02", ends(5)));
    for own in [&one, &two, &one, &two, &one] {
        let looked = app
            .view("manager", "own_certificates", vec![own.clone()], |tx, env, own| Box::pin(occurrences::own_certificates(tx, env, own)));
        let looked = bed.runtime.block_on(looked).unwrap();
        let told = app.change("manager", "tell", looked, |tx, env, looked| Box::pin(occurrences::tell(tx, env, looked)));
        bed.runtime.block_on(told).unwrap();
    }
    let all =
        app.view("manager", "events", (), |tx, _env, ()| Box::pin(async move { Ok(tx.events_after(0, &Default::default(), 1000).await?) }));
    let all = bed.runtime.block_on(all).unwrap();
    assert_eq!(all.iter().filter(|e| e.kind == sutler_base::state::EventKind::CertificateEndsSoon).count(), 2, "{all:?}");
}

/// A manager's certificate.
fn own(serial: &str, ends: sutler_base::Timestamp) -> occurrences::Own {
    occurrences::Own { name: "manager", which: serial.into(), ends }
}

#[test]
fn events_go_when_they_are_too_old_and_a_cursor_before_them_is_refused() {
    let manager = Manager::start_with(Setup { config: "[limits]\nevents = \"2s\"\n".into(), ..Setup::default() });
    let cli = manager.cli();
    cli.ok("group create machines");
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id("job run --package hello --group machines");
    let first = cursors(&events(&cli, ""));
    assert_eq!(first.len(), 1);
    wait_until("it to be gone", PATIENCE, || events(&cli, "").is_empty());
    cli.ok(&format!("job cancel {job} --yes"));
    // After it nothing is missing, before it something is.
    assert_eq!(kinds(&events(&cli, &format!("--since {}", first[0]))), ["JOB_ENDED"]);
    cli.fails(1, "events --since 0").says(&["are not kept any more", "limits.events"]);
    assert_eq!(kinds(&events(&cli, "--since 1d")), ["JOB_ENDED"], "a time takes what there is");
}

#[test]
fn events_go_when_they_are_too_many_and_a_follower_never_takes_the_gap_for_silence() {
    let mut bed = Bed::tuned(Database::Sqlite, |config| config.limits.events_max = 10);
    for _ in 0..15 {
        bed.client();
    }
    let enrolled = |bed: &mut Bed| of_kind(bed, v1::EventKind::ClientEnrolled).len();
    wait_until("the oldest to go", PATIENCE, || enrolled(&mut bed) == 10);
    let request = v1::WatchEventsRequest { cursor: "0".into(), ..Default::default() };
    let credential = bed.operator("bea", &[(Role::Viewer, &[])]);
    let caller = bed.at_operators(&bed.manager, Some(&credential)).unwrap();
    let refused = bed.call(&caller, "/sutler.v1.EventService/WatchEvents", request.encode_to_vec().into()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("limits.events_max"), "{refused:?}");
}
