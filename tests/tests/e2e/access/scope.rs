//! What lies outside a scope does not exist; and whom a change cuts off, on every manager.

use super::callers::{Bed, Caller};
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use sutler_base::state::Role;
use sutler_proto::access::{self, Scope};
use sutler_proto::v1;
use sutler_tests::fleet::{Database, Packages};
use sutler_tests::postgres::Postgres;
use tonic::{Code, Status};

/// What is promised: whom a change cuts off is cut off within this.
const CUT_OFF: Duration = Duration::from_secs(5);

fn add_group(bed: &mut Bed, name: &str) {
    let request = v1::CreateGroupRequest { group_id: name.into(), ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(request).await }).unwrap();
}

fn add_member(bed: &mut Bed, group: &str, client: &str) {
    let request = v1::AddMembersRequest { name: format!("groups/{group}"), clients: vec![client.into()], ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.add_members(request).await }).unwrap();
}

fn draft(destinations: &[&str]) -> v1::CreateJobRequest {
    v1::CreateJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: destinations.iter().map(|d| (*d).to_owned()).collect(),
        ..Default::default()
    }
}

fn add_job(bed: &mut Bed, destinations: &[&str]) -> String {
    let request = draft(destinations);
    bed.admin.jobs(&bed.manager, |mut c| async move { c.create_job(request).await }).unwrap().job.unwrap().name
}

fn call(bed: &Bed, caller: &Caller, method: &str, message: &impl prost::Message) -> Result<Bytes, Status> {
    bed.call(caller, &format!("/sutler.v1.{method}"), message.encode_to_vec().into())
}

/// A request about a job, for each method that reaches jobs within a scope.
type AboutJob = fn(&str) -> Vec<u8>;

/// The methods that are about one job by its name.
#[rustfmt::skip]
const ABOUT_A_JOB: &[(&str, AboutJob)] = &[
    ("JobService/GetJob", |job| v1::GetJobRequest { name: job.into() }.encode_to_vec()),
    ("JobService/WatchJob", |job| v1::WatchJobRequest { name: job.into() }.encode_to_vec()),
    ("JobService/ListExecutions", |job| v1::ListExecutionsRequest { parent: job.into(), ..Default::default() }.encode_to_vec()),
    ("ReportService/ListReportRows", |job| v1::ListReportRowsRequest { parent: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/UpdateJob", |job| v1::UpdateJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/StartJob", |job| v1::StartJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/RetryJob", |job| v1::RetryJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/PauseJob", |job| v1::PauseJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/ResumeJob", |job| v1::ResumeJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/PromoteJob", |job| v1::PromoteJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/AbortJob", |job| v1::AbortJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/CancelJob", |job| v1::CancelJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
    ("JobService/ArchiveJob", |job| v1::ArchiveJobRequest { name: job.into(), ..Default::default() }.encode_to_vec()),
];

/// The others, which the test goes over one by one.
const OTHERS: &[&str] = &[
    "JobService/CreateJob",
    "JobService/RunJob",
    "JobService/ListJobs",
    "JobService/GetExecution",
    "JobService/ReadLogs",
    "ClientService/ExplainClient",
    // In `configuration.rs`.
    "ConfigurationService/ExportConfiguration",
    "EventService/ListEvents",
    "EventService/WatchEvents",
    // In `brakes/stops.rs`.
    "BrakeService/StopWork",
    "BrakeService/ResumeWork",
    "BrakeService/ListStops",
    "BrakeService/ListBreakers",
    "BrakeService/CloseBreaker",
    // In `second_person.rs`.
    "ApprovalService/ListApprovals",
    "ApprovalService/GetApproval",
    "ApprovalService/ApproveChange",
    "ApprovalService/RejectChange",
    "PlanService/PlanJob",
    "PlanService/GetPlan",
    "PlanService/ListPlanClients",
];

#[test]
fn a_job_outside_a_scope_is_answered_for_with_the_bytes_of_one_that_does_not_exist() {
    let within: BTreeSet<&str> = access::methods().iter().filter(|m| m.access.scope == Scope::Within).map(|m| m.label.as_str()).collect();
    let tested: BTreeSet<&str> = ABOUT_A_JOB.iter().map(|(method, _)| *method).chain(OTHERS.iter().copied()).collect();
    assert_eq!(within, tested, "a method with a scope is not tried out of it");

    let mut bed = Bed::new(Database::Sqlite);
    let package = Packages::new(&["hello"]);
    for signed in package.sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    for group in ["inside", "outside"] {
        add_group(&mut bed, group);
    }
    let (near, far) = (bed.client().0.to_string(), bed.client().0.to_string());
    add_member(&mut bed, "inside", &near);
    add_member(&mut bed, "outside", &far);
    let (near, far) = (format!("clients/{near}"), format!("clients/{far}"));
    let credential = bed.operator("bea", &[(Role::Deployer, &["inside"])]);
    let bea = bed.at_operators(&bed.manager, Some(&credential)).unwrap();

    // Where jobs may be made: with all of their destinations inside, or not at all.
    for (destinations, inside) in [
        (vec!["groups/inside"], true),
        (vec![near.as_str()], true),
        (vec!["groups/inside", near.as_str()], true),
        (vec!["groups/outside"], false),
        (vec![far.as_str()], false),
        (vec!["groups/inside", far.as_str()], false),
        (vec!["groups/inside", "groups/outside"], false),
    ] {
        for method in ["JobService/CreateJob", "JobService/RunJob"] {
            // Both requests have the same fields with the same numbers.
            let answer = call(&bed, &bea, method, &draft(&destinations));
            match (inside, &answer) {
                (true, Ok(_)) => {}
                // The second job of the same package on the same group.
                (true, Err(e)) if e.code() == Code::FailedPrecondition => {}
                (false, Err(e)) if e.code() == Code::NotFound => {}
                _ => panic!("{method} on {destinations:?}: {answer:?}"),
            }
        }
    }
    let missing = call(&bed, &bea, "JobService/CreateJob", &draft(&["groups/nowhere"])).unwrap_err();
    let outside = call(&bed, &bea, "JobService/CreateJob", &draft(&["groups/outside"])).unwrap_err();
    assert_eq!(outside.message().replace("outside", "nowhere"), missing.message());

    // What is there already.
    let none = "jobs/0000000000";
    let outside = add_job(&mut bed, &["groups/outside"]);
    let both = add_job(&mut bed, &["groups/inside", "groups/outside"]);
    for (method, request) in ABOUT_A_JOB {
        let inside = add_job(&mut bed, &["groups/inside"]);
        let answer = bed.call(&bea, &format!("/sutler.v1.{method}"), request(&inside).into());
        assert!(!matches!(&answer, Err(e) if [Code::NotFound, Code::PermissionDenied].contains(&e.code())), "{method}: {answer:?}");
        let refusal = |job: &str| {
            let status = bed.call(&bea, &format!("/sutler.v1.{method}"), request(job).into()).expect_err(method);
            (status.code(), status.message().replace(job.trim_start_matches("jobs/"), "JOB"), status.details().to_vec())
        };
        let absent = refusal(none);
        assert_eq!(absent.0, Code::NotFound, "{method}");
        assert_eq!((&refusal(&outside), &refusal(&both)), (&absent, &absent), "{method}");
    }
    let name = |job: &str| format!("{job}/executions/{}", far.trim_start_matches("clients/"));
    let execution = |job: &str| call(&bed, &bea, "JobService/GetExecution", &v1::GetExecutionRequest { name: name(job) });
    let logs = |job: &str| call(&bed, &bea, "JobService/ReadLogs", &v1::ReadLogsRequest { name: name(job), attempt: 0 });
    for ask in [&execution as &dyn Fn(&str) -> Result<_, _>, &logs] {
        let refusal = |job: &str| {
            let status = ask(job).unwrap_err();
            (status.code(), status.message().replace(job.trim_start_matches("jobs/"), "JOB"))
        };
        assert_eq!(refusal(none).0, Code::NotFound);
        assert_eq!((refusal(&outside), refusal(&both)), (refusal(none), refusal(none)));
    }

    // What is listed, also page by page, and what an explanation says.
    let all = {
        let request = v1::ListJobsRequest::default();
        bed.admin.jobs(&bed.manager, |mut c| async move { c.list_jobs(request).await }).unwrap().jobs
    };
    let reached: Vec<&str> = all
        .iter()
        .filter(|job| job.destinations.iter().all(|d| *d == "groups/inside" || *d == near))
        .map(|job| job.name.as_str())
        .collect();
    let (mut listed, mut token) = (vec![], String::new());
    loop {
        let request = v1::ListJobsRequest { page_size: 3, page_token: token, ..Default::default() };
        let page = v1::ListJobsResponse::decode(call(&bed, &bea, "JobService/ListJobs", &request).unwrap()).unwrap();
        listed.extend(page.jobs.into_iter().map(|job| job.name));
        for hidden in [&outside, &both] {
            assert!(!page.next_page_token.contains(hidden.trim_start_matches("jobs/")), "a page token tells of {hidden}");
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, reached);
    add_member(&mut bed, "outside", near.trim_start_matches("clients/"));
    let start = v1::StartJobRequest { name: outside.clone(), ..Default::default() };
    bed.admin.jobs(&bed.manager, |mut c| async move { c.start_job(start).await }).unwrap();
    let request = v1::ExplainClientRequest { name: near.clone() };
    let told = v1::ExplainClientResponse::decode(call(&bed, &bea, "ClientService/ExplainClient", &request).unwrap()).unwrap();
    assert!(told.jobs.iter().all(|job| job.job != outside) && !told.jobs.is_empty(), "{:?}", told.jobs);

    // What is told of: jobs inside, and nothing that is about no job.
    let all = {
        let request = v1::ListEventsRequest::default();
        bed.admin.events(&bed.manager, |mut c| async move { c.list_events(request).await }).unwrap().events
    };
    let kinds: BTreeSet<_> = all.iter().map(v1::Event::kind).collect();
    assert!(kinds.contains(&v1::EventKind::ClientEnrolled) && all.iter().any(|e| e.object == outside), "{all:?}");
    let is_inside = |e: &&v1::Event| reached.contains(&e.object.as_str());
    let inside: Vec<_> = all.iter().filter(is_inside).map(|e| e.cursor.clone()).collect();
    assert!(!inside.is_empty());
    let (mut listed, mut token) = (vec![], String::new());
    loop {
        let request = v1::ListEventsRequest { page_size: 1, page_token: token, ..Default::default() };
        let page = v1::ListEventsResponse::decode(call(&bed, &bea, "EventService/ListEvents", &request).unwrap()).unwrap();
        listed.extend(page.events.into_iter().map(|e| e.cursor));
        token = page.next_page_token;
        assert!(token.is_empty() || inside.contains(&token), "a page token tells of an event outside");
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, inside);
    let request = v1::ListEventsRequest { object: outside.clone(), ..Default::default() };
    assert!(call(&bed, &bea, "EventService/ListEvents", &request).unwrap().is_empty());
    let request = v1::WatchEventsRequest { cursor: "0".into(), ..Default::default() };
    let first = v1::WatchEventsResponse::decode(call(&bed, &bea, "EventService/WatchEvents", &request).unwrap()).unwrap();
    assert_eq!(first.events.into_iter().map(|e| e.cursor).rev().collect::<Vec<_>>(), inside);

    // A client that leaves the group takes the jobs that name it along.
    let direct = add_job(&mut bed, &[&near]);
    let get = v1::GetJobRequest { name: direct };
    call(&bed, &bea, "JobService/GetJob", &get).unwrap();
    let leave = v1::RemoveMembersRequest { name: "groups/inside".into(), clients: vec![near], ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.remove_members(leave).await }).unwrap();
    assert_eq!(call(&bed, &bea, "JobService/GetJob", &get).unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_scoped_enroller_makes_no_token_that_places_clients_in_groups() {
    let mut bed = Bed::new(Database::Sqlite);
    add_group(&mut bed, "inside");
    let credential = bed.operator("eve", &[(Role::Enroller, &["inside"])]);
    let eve = bed.at_operators(&bed.manager, Some(&credential)).unwrap();
    let create = |request: v1::CreateEnrollmentTokensRequest| {
        call(&bed, &eve, "EnrollmentTokenService/CreateEnrollmentTokens", &request).err().map(|e| e.code())
    };
    assert_eq!(create(v1::CreateEnrollmentTokensRequest::default()), None);
    let groups = v1::CreateEnrollmentTokensRequest { groups: vec!["groups/inside".into()], ..Default::default() };
    assert_eq!(create(groups), Some(Code::PermissionDenied));
    let labels = [("site".to_owned(), "berlin".to_owned())].into();
    assert_eq!(create(v1::CreateEnrollmentTokensRequest { labels, ..Default::default() }), Some(Code::PermissionDenied));
}

#[test]
fn the_last_administrator_stays_one() {
    let mut bed = Bed::new(Database::Sqlite);
    add_group(&mut bed, "inside");
    bed.operator("small", &[(Role::Admin, &["inside"])]);
    let revoke = |bed: &mut Bed, name: &str| {
        let request = v1::RevokeOperatorRequest { name: format!("operators/{name}"), ..Default::default() };
        bed.admin.operators(&bed.manager, |mut c| async move { c.revoke_operator(request).await }).map(drop)
    };
    let demote = |bed: &mut Bed, name: &str| {
        let roles = vec![v1::RoleGrant { role: v1::Role::Viewer.into(), ..Default::default() }];
        let request = v1::UpdateOperatorRequest { name: format!("operators/{name}"), roles, ..Default::default() };
        bed.admin.operators(&bed.manager, |mut c| async move { c.update_operator(request).await }).map(drop)
    };
    // One with a scope does not count, nor does one that was revoked.
    bed.operator("second", &[(Role::Admin, &[])]);
    revoke(&mut bed, "second").unwrap();
    assert_eq!(revoke(&mut bed, "anna").unwrap_err().code, Code::FailedPrecondition);
    assert_eq!(demote(&mut bed, "anna").unwrap_err().code, Code::FailedPrecondition);
    bed.operator("third", &[(Role::Admin, &[])]);
    demote(&mut bed, "anna").unwrap();
    assert_eq!(revoke(&mut bed, "third").unwrap_err().code, Code::PermissionDenied, "anna reads from now on");
}

/// A stream that stays open, and the one who opened it.
struct Watch {
    ends: tokio::task::JoinHandle<Status>,
}

fn watch(bed: &Bed, caller: Caller, job: &str) -> Watch {
    let request = v1::WatchJobRequest { name: job.into() }.encode_to_vec();
    let (opened, is_open) = std::sync::mpsc::channel();
    let ends = bed.runtime.spawn(async move {
        let mut stream = caller.stream("/sutler.v1.JobService/WatchJob", request.into()).await.unwrap();
        stream.message().await.unwrap();
        opened.send(()).unwrap();
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("ended in order"),
                Err(status) => return status,
            }
        }
    });
    is_open.recv_timeout(Duration::from_secs(60)).expect("the stream opens");
    Watch { ends }
}

/// How each watch ends, all within the time that is promised.
fn ends(bed: &Bed, since: Instant, watches: Vec<Watch>) -> BTreeMap<usize, Code> {
    let codes = watches.into_iter().enumerate().map(|(n, watch)| {
        let ended = bed.runtime.block_on(async { tokio::time::timeout(CUT_OFF.saturating_sub(since.elapsed()), watch.ends).await });
        (n, ended.unwrap_or_else(|_| panic!("stream {n} is open after {CUT_OFF:?}")).unwrap().code())
    });
    codes.collect()
}

fn cut_off(database: Database) {
    let mut bed = Bed::new(database);
    let second = matches!(database, Database::Postgres(_)).then(|| bed.manager.second());
    for signed in Packages::new(&["hello"]).sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    add_group(&mut bed, "inside");
    let job = add_job(&mut bed, &["groups/inside"]);
    let managers: Vec<_> = std::iter::once(&bed.manager).chain(&second).map(sutler_tests::fleet::Manager::operators).collect();
    let everywhere = |bed: &Bed, credential: &sutler_certs::Credential| -> Vec<Caller> {
        managers.iter().map(|address| bed.open(address, Some(credential)).unwrap()).collect()
    };
    let bea = bed.operator("bea", &[(Role::Viewer, &[])]);
    let cid = bed.operator("cid", &[(Role::Viewer, &[])]);
    let (watched, demoted) = (everywhere(&bed, &bea), everywhere(&bed, &cid));
    let again = everywhere(&bed, &bea);
    let watches: Vec<_> = watched.into_iter().map(|caller| watch(&bed, caller, &job)).collect();
    let others: Vec<_> = demoted.into_iter().map(|caller| watch(&bed, caller, &job)).collect();

    let revoke = v1::RevokeOperatorRequest { name: "operators/bea".into(), ..Default::default() };
    bed.admin.operators(&bed.manager, |mut c| async move { c.revoke_operator(revoke).await }).unwrap();
    let since = Instant::now();
    for caller in &again {
        let request = v1::ListJobsRequest::default();
        assert_eq!(call(&bed, caller, "JobService/ListJobs", &request).unwrap_err().code(), Code::Unauthenticated);
    }
    assert!(ends(&bed, since, watches).values().all(|code| *code == Code::Unauthenticated));

    let roles = vec![v1::RoleGrant { role: v1::Role::Uploader.into(), ..Default::default() }];
    let update = v1::UpdateOperatorRequest { name: "operators/cid".into(), roles, ..Default::default() };
    bed.admin.operators(&bed.manager, |mut c| async move { c.update_operator(update).await }).unwrap();
    assert!(ends(&bed, Instant::now(), others).values().all(|code| *code == Code::PermissionDenied));
}

#[test]
fn a_revoked_operator_is_cut_off_within_five_seconds_on_its_open_streams_too() {
    cut_off(Database::Sqlite);
}

#[test]
fn a_revoked_operator_is_cut_off_on_every_manager() {
    let Some(server) = Postgres::shared() else { return };
    cut_off(Database::Postgres(server));
}
