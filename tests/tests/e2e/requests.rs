//! Every call of an operator that changes something may be sent twice: the same `request_id` with the same body does nothing new.

use prost::Message as _;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};
use std::collections::BTreeSet;
use sutler_certs::PrivateKey;
use sutler_proto::v1;
use sutler_tests::{
    api_call, fleet,
    harness::{Agent, Api, JobView, Manager, PATIENCE, PackageFolder, Setup, wait_until},
};
use tonic::Code;

/// Methods that change nothing, by how their names begin.
const READS: [&str; 9] = ["Get", "List", "Read", "Find", "Preview", "Plan", "Explain", "Watch", "Export"];
/// Methods that change something and need no id: the same push or the same signed document makes nothing new (its content is
/// its address), and a further certificate for a further key is what a repeated renewal is to give.
const BY_THEMSELVES: [&str; 4] = ["PushPackage", "PublishTrustDocument", "PublishRevocations", "RenewOperatorCertificate"];

/// The methods of the operators' port that change something, with their requests' messages.
fn mutations() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(sutler_proto::DESCRIPTORS).unwrap();
    let messages = set.file.iter().flat_map(|f| f.message_type.iter().map(|m| (format!(".{}.{}", f.package(), m.name()), m)));
    let messages: std::collections::BTreeMap<_, _> = messages.collect();
    let mut found = BTreeSet::new();
    for service in set.file.iter().flat_map(|f| &f.service) {
        if matches!(service.name(), "AgentService" | "EnrollmentService") {
            continue;
        }
        for method in &service.method {
            if READS.iter().any(|read| method.name().starts_with(read)) || BY_THEMSELVES.contains(&method.name()) {
                continue;
            }
            let id = messages[method.input_type()].field.iter().find(|field| field.name() == "request_id");
            assert!(id.is_some_and(|id| id.r#type() == Type::String), "{} changes something and takes no request_id", method.name());
            found.insert(method.name().to_owned());
        }
    }
    found
}

/// What was tried, so that a method that is missing here is noticed.
struct Tried {
    api: Api,
    methods: BTreeSet<String>,
    requests: u32,
}

/// Sends a request, the same again, and another one under the same id: the first answer, the first answer, a refusal. Gives
/// back the first answer.
macro_rules! twice {
    ($tried:expr, $module:ident :: $client:ident, $method:ident, $name:literal, $request:expr, |$r:ident| $other:expr) => {{
        $tried.methods.insert($name.to_owned());
        $tried.requests += 1;
        let mut request = $request;
        request.request_id = format!("request-{}", $tried.requests);
        let first = api_call!($tried.api, $module::$client, $method(request.clone())).unwrap_or_else(|e| panic!("{}: {e:?}", $name));
        let again = api_call!($tried.api, $module::$client, $method(request.clone())).unwrap_or_else(|e| panic!("{} again: {e:?}", $name));
        assert!(first == again, "{}: {first:?} first, then {again:?}", $name);
        let mut other = request.clone();
        {
            let $r = &mut other;
            $other;
        }
        assert!(other != request);
        let refused = api_call!($tried.api, $module::$client, $method(other)).expect_err($name);
        assert_eq!(refused.code(), Code::InvalidArgument, "{}: {refused:?}", $name);
        assert!(refused.message().contains("request_id"), "{}: {refused:?}", $name);
        (request, first)
    }};
}

#[test]
fn every_mutation_may_be_sent_twice_also_across_a_restart() {
    let config = "[limits]\nbreaker_attempts = 1\n".to_owned();
    let mut manager = Manager::start_with(Setup { config, ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::enrolled("one", &manager);
    let client = format!("clients/{}", agent.id());
    let mut t = Tried { api: Api::operator(&manager), methods: BTreeSet::new(), requests: 0 };
    let name = |text: &str| text.to_owned();

    // Groups.
    let group = v1::CreateGroupRequest { group_id: "one".into(), ..Default::default() };
    let (kept, answer) =
        twice!(t, group_service_client::GroupServiceClient, create_group, "CreateGroup", group, |r| r.description = "x".into());
    let update = v1::UpdateGroupRequest { name: name("groups/one"), description: Some("d".into()), ..Default::default() };
    twice!(t, group_service_client::GroupServiceClient, update_group, "UpdateGroup", update, |r| r.restricted = Some(true));
    let add = v1::AddMembersRequest { name: name("groups/one"), clients: vec![client.clone()], ..Default::default() };
    twice!(t, group_service_client::GroupServiceClient, add_members, "AddMembers", add, |r| r.skip_bad = true);
    let remove = v1::RemoveMembersRequest { name: name("groups/one"), clients: vec![client.clone()], ..Default::default() };
    twice!(t, group_service_client::GroupServiceClient, remove_members, "RemoveMembers", remove, |r| r.name = "groups/other".into());
    let release = v1::ReleaseMemberRequest { name: name("groups/one"), client: client.clone(), ..Default::default() };
    twice!(t, group_service_client::GroupServiceClient, release_member, "ReleaseMember", release, |r| r.name = "groups/other".into());
    // Policies.
    let policy = v1::CreatePolicyRequest {
        policy_id: "all".into(),
        group: name("groups/one"),
        trigger: v1::Trigger::NewClient.into(),
        ..Default::default()
    };
    twice!(t, policy_service_client::PolicyServiceClient, create_policy, "CreatePolicy", policy, |r| r.description = "x".into());
    let update = v1::UpdatePolicyRequest { name: name("policies/all"), description: Some("d".into()), ..Default::default() };
    twice!(t, policy_service_client::PolicyServiceClient, update_policy, "UpdatePolicy", update, |r| r.description = None);
    let apply = v1::ApplyPoliciesRequest { names: vec![name("policies/all")], ..Default::default() };
    twice!(t, policy_service_client::PolicyServiceClient, apply_policies, "ApplyPolicies", apply, |r| r.names = vec!["policies/b".into()]);
    let delete = v1::DeletePolicyRequest { name: name("policies/all"), ..Default::default() };
    twice!(t, policy_service_client::PolicyServiceClient, delete_policy, "DeletePolicy", delete, |r| r.name = "policies/b".into());
    // Questions.
    let question = v1::CreateQuestionRequest { question_id: name("room"), prompt: name("Which room?"), ..Default::default() };
    twice!(t, question_service_client::QuestionServiceClient, create_question, "CreateQuestion", question, |r| r.prompt = name("x"));
    let update = v1::UpdateQuestionRequest { name: name("questions/room"), prompt: Some(name("Where?")), ..Default::default() };
    twice!(t, question_service_client::QuestionServiceClient, update_question, "UpdateQuestion", update, |r| r.force = true);
    let delete = v1::DeleteQuestionRequest { name: name("questions/room"), ..Default::default() };
    twice!(t, question_service_client::QuestionServiceClient, delete_question, "DeleteQuestion", delete, |r| r.force = true);
    // All of them together.
    let object = v1::configuration_object::Object::Group(v1::CreateGroupRequest { group_id: name("two"), ..Default::default() });
    let objects = vec![v1::ConfigurationObject { object: Some(object), ..Default::default() }];
    let apply = v1::ApplyConfigurationRequest { objects, ..Default::default() };
    twice!(t, configuration_service_client::ConfigurationServiceClient, apply_configuration, "ApplyConfiguration", apply, |r| {
        r.prune = true;
    });
    // Windows.
    let hours = Some(v1::Hours { weekdays: vec![1], from: name("22:00"), to: name("23:00"), zone: name("UTC") });
    let window = v1::CreateWindowRequest { window_id: name("nights"), group: name("groups/one"), hours, ..Default::default() };
    twice!(t, window_service_client::WindowServiceClient, create_window, "CreateWindow", window, |r| r.description = name("x"));
    let update = v1::UpdateWindowRequest { name: name("windows/nights"), description: Some(name("d")), ..Default::default() };
    twice!(t, window_service_client::WindowServiceClient, update_window, "UpdateWindow", update, |r| r.description = None);
    let delete = v1::DeleteWindowRequest { name: name("windows/nights"), ..Default::default() };
    twice!(t, window_service_client::WindowServiceClient, delete_window, "DeleteWindow", delete, |r| r.name = name("windows/b"));
    // Brakes.
    let bad = PackageFolder::counting("bad", "1.0");
    bad.file("bin/install", "#!/bin/sh\nexit 1\n");
    cli.ok(&format!("package push {}", bad.path().display()));
    let job = cli.id(&format!("job run --package bad --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    cli.ok(&format!("job retry {job}"));
    wait_until("a breaker to open", PATIENCE, || cli.json("breaker list").as_array().is_some_and(|all| all.len() == 1));
    let breaker = cli.json("breaker list")[0]["name"].as_str().unwrap().to_owned();
    let close = v1::CloseBreakerRequest { name: breaker, ..Default::default() };
    twice!(t, brake_service_client::BrakeServiceClient, close_breaker, "CloseBreaker", close, |r| {
        r.name = format!("breakers/{}", "0".repeat(26));
    });
    let work = Some(v1::StoppedWork { group: name("groups/one"), ..Default::default() });
    let stop = v1::StopWorkRequest { work: work.clone(), reason: name("r"), ..Default::default() };
    twice!(t, brake_service_client::BrakeServiceClient, stop_work, "StopWork", stop, |r| r.reason = name("s"));
    let resume = v1::ResumeWorkRequest { work, ..Default::default() };
    twice!(t, brake_service_client::BrakeServiceClient, resume_work, "ResumeWork", resume, |r| {
        r.work.as_mut().unwrap().group = name("groups/two");
    });
    // Transfers.
    let limit = v1::TransferLimit { scope: v1::TransferScope::EachClient.into(), bytes_per_second: 1 << 30, ..Default::default() };
    let create = v1::CreateTransferLimitRequest { limit: Some(limit), ..Default::default() };
    let (_, made) = twice!(t, transfer_service_client::TransferServiceClient, create_transfer_limit, "CreateTransferLimit", create, |r| {
        r.limit.as_mut().unwrap().bytes_per_second += 1;
    });
    let delete = v1::DeleteTransferLimitRequest { name: made.limit.unwrap().name, ..Default::default() };
    twice!(t, transfer_service_client::TransferServiceClient, delete_transfer_limit, "DeleteTransferLimit", delete, |r| {
        r.name = format!("transferLimits/{}", "0".repeat(26));
    });
    let suspend = v1::SuspendTransfersRequest { group: name("groups/one"), ..Default::default() };
    twice!(t, transfer_service_client::TransferServiceClient, suspend_transfers, "SuspendTransfers", suspend, |r| r.group =
        name("groups/two"));
    let resume = v1::ResumeTransfersRequest { group: name("groups/one"), ..Default::default() };
    twice!(t, transfer_service_client::TransferServiceClient, resume_transfers, "ResumeTransfers", resume, |r| r.group =
        name("groups/two"));
    // Jobs.
    let packages = vec![v1::JobPackage { package: name("packages/hello"), ..Default::default() }];
    let job = v1::CreateJobRequest { packages: packages.clone(), destinations: vec![name("groups/one")], ..Default::default() };
    let (_, job) = twice!(t, job_service_client::JobServiceClient, create_job, "CreateJob", job, |r| r.priority = 9);
    let id = job.job.unwrap().name;
    let start = v1::StartJobRequest { name: id.clone(), ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, start_job, "StartJob", start, |r| r.name = "jobs/0123456789".into());
    let update = v1::UpdateJobRequest { name: id.clone(), description: Some("d".into()), ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, update_job, "UpdateJob", update, |r| r.priority = Some(1));
    let retry = v1::RetryJobRequest { name: id.clone(), ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, retry_job, "RetryJob", retry, |r| r.error_kind = "TRANSFER".into());
    let other = "jobs/0123456789";
    let pause = v1::PauseJobRequest { name: id.clone(), ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, pause_job, "PauseJob", pause, |r| r.name = other.into());
    let resume = v1::ResumeJobRequest { name: id.clone(), ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, resume_job, "ResumeJob", resume, |r| r.name = other.into());
    let promote = v1::PromoteJobRequest { name: id.clone(), ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, promote_job, "PromoteJob", promote, |r| r.all = true);
    let abort = v1::AbortJobRequest { name: id.clone(), ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, abort_job, "AbortJob", abort, |r| r.name = other.into());
    let cancel = v1::CancelJobRequest { name: id.clone(), ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, cancel_job, "CancelJob", cancel, |r| r.name = "jobs/0123456789".into());
    let archive = v1::ArchiveJobRequest { name: id, ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, archive_job, "ArchiveJob", archive, |r| r.name = "jobs/0123456789".into());
    let run = v1::RunJobRequest { packages, destinations: vec![client.clone()], ..Default::default() };
    let (_, run) = twice!(t, job_service_client::JobServiceClient, run_job, "RunJob", run, |r| r.priority = 9);
    let id = run.job.unwrap().name;
    let number = id.trim_start_matches("jobs/");
    JobView::wait(&cli, number, "the job to be over", PATIENCE, |view| view.state == "COMPLETED");
    let rollback = v1::RollbackJobRequest { name: id.clone(), dry_run: true, ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, rollback_job, "RollbackJob", rollback, |r| r.description = name("x"));
    let archive = v1::ArchiveJobRequest { name: id, ..Default::default() };
    twice!(t, job_service_client::JobServiceClient, archive_job, "ArchiveJob", archive, |r| r.name = "jobs/0123456789".into());
    // Changes that need a second person: in `second_person.rs`, where there is one.
    t.methods.extend(["ApproveChange".to_owned(), "RejectChange".to_owned()]);
    // Packages.
    let scrub = v1::ScrubContentRequest { request_id: "scrub".into() };
    t.methods.insert("ScrubContent".into());
    let first = api_call!(t.api, package_service_client::PackageServiceClient, scrub_content(scrub.clone())).unwrap();
    assert_eq!(first, api_call!(t.api, package_service_client::PackageServiceClient, scrub_content(scrub)).unwrap());
    let withdraw = v1::WithdrawPackageVersionRequest { name: name("packages/hello/versions/1.0"), ..Default::default() };
    twice!(t, package_service_client::PackageServiceClient, withdraw_package_version, "WithdrawPackageVersion", withdraw, |r| {
        r.cancel = true;
    });
    let reinstate = v1::ReinstatePackageVersionRequest { name: name("packages/hello/versions/1.0"), ..Default::default() };
    twice!(t, package_service_client::PackageServiceClient, reinstate_package_version, "ReinstatePackageVersion", reinstate, |r| {
        r.name = "packages/hello/versions/2.0".into();
    });
    let delete = v1::DeletePackageVersionRequest { name: name("packages/hello/versions/1.0"), ..Default::default() };
    twice!(t, package_service_client::PackageServiceClient, delete_package_version, "DeletePackageVersion", delete, |r| {
        r.name = "packages/hello/versions/2.0".into();
    });
    let delete = v1::DeletePackageRequest { name: name("packages/hello"), ..Default::default() };
    twice!(t, package_service_client::PackageServiceClient, delete_package, "DeletePackage", delete, |r| r.name = "packages/b".into());
    // Tokens. Their secrets are not kept, and so the first answer can't be given again.
    let tokens = v1::CreateEnrollmentTokensRequest { request_id: "tokens".into(), ..Default::default() };
    t.methods.insert("CreateEnrollmentTokens".into());
    let call = |request| api_call!(t.api, enrollment_token_service_client::EnrollmentTokenServiceClient, create_enrollment_tokens(request));
    let made = call(tokens.clone()).unwrap();
    assert_eq!(call(tokens.clone()).unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(call(v1::CreateEnrollmentTokensRequest { uses: 2, ..tokens }).unwrap_err().code(), Code::InvalidArgument);
    let token = made.tokens[0].token.clone().unwrap().name;
    let revoke = v1::RevokeEnrollmentTokenRequest { name: token, ..Default::default() };
    twice!(
        t,
        enrollment_token_service_client::EnrollmentTokenServiceClient,
        revoke_enrollment_token,
        "RevokeEnrollmentToken",
        revoke,
        |r| r.name = "tokens/0123456789".into()
    );
    // Clients. What an answer says of the contact is of its own moment: there is none from here on.
    agent.stop();
    wait_until("the contact to end", PATIENCE, || cli.json(&format!("client show {}", agent.id()))["online"] == false);
    let labels = v1::LabelChange { client: client.clone(), set: [("room".to_owned(), "1".to_owned())].into(), unset: vec![] };
    let labels = v1::SetLabelsRequest { changes: vec![labels], ..Default::default() };
    twice!(t, client_service_client::ClientServiceClient, set_labels, "SetLabels", labels, |r| r.changes[0].unset.push("a".into()));
    let archive = v1::ArchiveClientRequest { name: client.clone(), ..Default::default() };
    twice!(t, client_service_client::ClientServiceClient, archive_client, "ArchiveClient", archive, |r| {
        r.name = "clients/0123456789abcdef".into();
    });
    let unarchive = v1::UnarchiveClientRequest { name: client.clone(), ..Default::default() };
    twice!(t, client_service_client::ClientServiceClient, unarchive_client, "UnarchiveClient", unarchive, |r| {
        r.name = "clients/0123456789abcdef".into();
    });
    let quarantine = v1::QuarantineClientRequest { name: client.clone(), ..Default::default() };
    twice!(t, client_service_client::ClientServiceClient, quarantine_client, "QuarantineClient", quarantine, |r| r.reason = "x".into());
    let release = v1::ReleaseClientRequest { name: client.clone(), ..Default::default() };
    twice!(t, client_service_client::ClientServiceClient, release_client, "ReleaseClient", release, |r| {
        r.name = "clients/0123456789abcdef".into();
    });
    let approve = v1::ApproveClientsRequest { filter: "true".into(), ..Default::default() };
    twice!(t, client_service_client::ClientServiceClient, approve_clients, "ApproveClients", approve, |r| r.filter = "false".into());
    let remove = v1::RemoveClientRequest { name: client, ..Default::default() };
    twice!(t, client_service_client::ClientServiceClient, remove_client, "RemoveClient", remove, |r| {
        r.name = "clients/0123456789abcdef".into();
    });
    // Operators.
    let csr = || PrivateKey::generate().unwrap().csr().unwrap().into();
    let viewer = v1::RoleGrant { role: v1::Role::Viewer.into(), ..Default::default() };
    let create = v1::CreateOperatorRequest { operator_id: name("bob"), roles: vec![viewer], csr: csr(), ..Default::default() };
    twice!(t, operator_service_client::OperatorServiceClient, create_operator, "CreateOperator", create, |r| r.operator_id = name("eve"));
    let auditor = v1::RoleGrant { role: v1::Role::Auditor.into(), ..Default::default() };
    let update = v1::UpdateOperatorRequest { name: name("operators/bob"), roles: vec![auditor], ..Default::default() };
    twice!(t, operator_service_client::OperatorServiceClient, update_operator, "UpdateOperator", update, |r| r.etag = name("x"));
    let issue = v1::IssueOperatorCertificateRequest { name: name("operators/bob"), csr: csr(), ..Default::default() };
    twice!(t, operator_service_client::OperatorServiceClient, issue_operator_certificate, "IssueOperatorCertificate", issue, |r| {
        r.csr = csr();
    });
    let revoke = v1::RevokeOperatorRequest { name: name("operators/bob"), ..Default::default() };
    twice!(t, operator_service_client::OperatorServiceClient, revoke_operator, "RevokeOperator", revoke, |r| r.name =
        name("operators/eve"));
    // The group that is gone by now was made once, as far as its request is concerned, also by a manager that was killed since.
    let delete = v1::DeleteGroupRequest { name: name("groups/one"), force: true, ..Default::default() };
    twice!(t, group_service_client::GroupServiceClient, delete_group, "DeleteGroup", delete, |r| r.force = false);
    manager.kill_and_serve();
    let api = Api::operator(&manager);
    assert_eq!(api_call!(api, group_service_client::GroupServiceClient, create_group(kept.clone())).unwrap(), answer);
    assert!(!cli.ok("group list").contains("one"), "nothing was made again");
    // Somebody else's request of the same id is another request; that is told apart by the operator, in the store's own suite.
    let expected = mutations();
    let missing: Vec<_> = expected.difference(&t.methods).collect();
    assert!(missing.is_empty(), "methods that change something and are not in this test: {missing:?}");
    assert!(t.methods.is_subset(&expected));
}

#[test]
fn an_answer_is_kept_for_whoever_asks_again_as_long_as_is_said_and_not_longer() {
    let default = sutler::config::Limits::default().request_memory;
    assert_eq!(default, std::time::Duration::from_secs(24 * 3600), "what README.md and the proto say");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let manager = fleet::Manager::tuned(fleet::Database::Sqlite, None, |config| config.limits.request_memory = default / 24);
    let mut operator = fleet::Operator::new(&manager, runtime.handle());
    let mut ask = || {
        let request = v1::CreateGroupRequest { group_id: "one".into(), request_id: "the-same".into(), ..Default::default() };
        operator.groups(&manager, |mut groups| async move { groups.create_group(request).await })
    };
    let round = || {
        let before = manager.rounds("presence");
        // The first one may have begun before the clock was set.
        wait_until("the manager to have looked for what is old", PATIENCE, || manager.rounds("presence") >= before + 2);
    };
    let minutes = 60_000;
    let first = ask().unwrap();
    manager.step_clock(59 * minutes);
    round();
    assert_eq!(ask().unwrap(), first, "after 59 of 60 minutes");
    manager.step_clock(2 * minutes);
    round();
    assert_eq!(ask().unwrap_err().code, Code::AlreadyExists, "after 61 of 60 minutes it is another request");
}
