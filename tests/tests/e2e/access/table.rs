//! The table: what each method is declared to need, and what everybody gets who calls it.

use super::callers::{Bed, Caller, name};
use std::collections::BTreeMap;
use sutler_base::state::Role::{self, Approver, Auditor, Deployer, Enroller, Uploader, Viewer};
use sutler_core::model::Subject;
use sutler_proto::access::{self, Caller as Kind, Method, Scope};
use sutler_proto::v1;
use sutler_tests::fleet::Database;
use tonic::Code::{self, InvalidArgument as Invalid, Ok as Fine};

const READERS: &[Role] = &[Viewer, Deployer, Approver];
const LISTERS: &[Role] = &[Viewer, Enroller, Deployer, Approver];
const PACKAGES: &[Role] = &[Viewer, Uploader, Deployer, Approver];
const ALL: &[Role] = &[Viewer, Auditor, Enroller, Uploader, Deployer, Approver];

/// A method, who may call it (an ADMIN besides), what a scope means for it, and what those get for an empty message.
type Row = (&'static str, Kind, &'static [Role], Scope, Code);

/// Every method. One that is not here fails the test: decide who may call it before anybody can.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("EnrollmentService/Enroll", Kind::Nobody, &[], Scope::Any, Invalid),
    ("AgentService/Connect", Kind::Agent, &[], Scope::Any, Invalid),
    ("AgentService/ReadChunks", Kind::Agent, &[], Scope::Any, Invalid),
    ("AgentService/FindDelta", Kind::Agent, &[], Scope::Any, Invalid),
    ("AgentService/Ping", Kind::Agent, &[], Scope::Any, Fine),
    ("AgentService/RenewCertificate", Kind::Agent, &[], Scope::Any, Invalid),
    ("ClientService/ListClients", Kind::Operator, LISTERS, Scope::Any, Fine),
    ("ClientService/GetClient", Kind::Operator, LISTERS, Scope::Any, Invalid),
    ("ClientService/ApproveClients", Kind::Operator, &[Enroller], Scope::Unscoped, Invalid),
    ("ClientService/QuarantineClient", Kind::Operator, &[Enroller], Scope::Unscoped, Invalid),
    ("ClientService/ReleaseClient", Kind::Operator, &[Enroller], Scope::Unscoped, Invalid),
    ("ClientService/RemoveClient", Kind::Operator, &[], Scope::Unscoped, Invalid),
    ("ClientService/ArchiveClient", Kind::Operator, &[Enroller], Scope::Unscoped, Invalid),
    ("ClientService/UnarchiveClient", Kind::Operator, &[Enroller], Scope::Unscoped, Invalid),
    ("ClientService/SetLabels", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("ClientService/ExplainClient", Kind::Operator, READERS, Scope::Within, Invalid),
    ("SoftwareService/ListSoftware", Kind::Operator, LISTERS, Scope::Any, Fine),
    ("SoftwareService/ListInstallations", Kind::Operator, LISTERS, Scope::Any, Invalid),
    ("GroupService/CreateGroup", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("GroupService/GetGroup", Kind::Operator, LISTERS, Scope::Any, Invalid),
    ("GroupService/ListGroups", Kind::Operator, LISTERS, Scope::Any, Fine),
    ("GroupService/UpdateGroup", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("GroupService/DeleteGroup", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("GroupService/AddMembers", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("GroupService/RemoveMembers", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("GroupService/ReleaseMember", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("GroupService/ListMembers", Kind::Operator, LISTERS, Scope::Any, Invalid),
    ("PolicyService/CreatePolicy", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("PolicyService/GetPolicy", Kind::Operator, READERS, Scope::Any, Invalid),
    ("PolicyService/ListPolicies", Kind::Operator, READERS, Scope::Any, Fine),
    ("PolicyService/UpdatePolicy", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("PolicyService/DeletePolicy", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("PolicyService/PreviewPolicy", Kind::Operator, READERS, Scope::Any, Invalid),
    ("PolicyService/ApplyPolicies", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("QuestionService/CreateQuestion", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("QuestionService/GetQuestion", Kind::Operator, READERS, Scope::Any, Invalid),
    ("QuestionService/ListQuestions", Kind::Operator, READERS, Scope::Any, Fine),
    ("QuestionService/UpdateQuestion", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("QuestionService/DeleteQuestion", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("WindowService/CreateWindow", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("WindowService/GetWindow", Kind::Operator, READERS, Scope::Any, Invalid),
    ("WindowService/ListWindows", Kind::Operator, READERS, Scope::Any, Fine),
    ("WindowService/UpdateWindow", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("WindowService/DeleteWindow", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("BrakeService/StopWork", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("BrakeService/ResumeWork", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("BrakeService/ListBreakers", Kind::Operator, READERS, Scope::Within, Fine),
    ("BrakeService/CloseBreaker", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("BrakeService/ListStops", Kind::Operator, READERS, Scope::Within, Fine),
    ("TransferService/CreateTransferLimit", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("TransferService/ListTransferLimits", Kind::Operator, READERS, Scope::Any, Fine),
    ("TransferService/DeleteTransferLimit", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("TransferService/SuspendTransfers", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("TransferService/ResumeTransfers", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("TransferService/GetTransferStatus", Kind::Operator, READERS, Scope::Any, Fine),
    ("PackageService/FindMissingContent", Kind::Operator, &[Uploader], Scope::Any, Fine),
    ("PackageService/PushPackage", Kind::Operator, &[Uploader], Scope::Any, Invalid),
    ("PackageService/ListPackages", Kind::Operator, PACKAGES, Scope::Any, Fine),
    ("PackageService/GetPackage", Kind::Operator, PACKAGES, Scope::Any, Invalid),
    ("PackageService/ListPackageVersions", Kind::Operator, PACKAGES, Scope::Any, Invalid),
    ("PackageService/GetPackageVersion", Kind::Operator, PACKAGES, Scope::Any, Invalid),
    ("PackageService/WithdrawPackageVersion", Kind::Operator, &[Uploader], Scope::Unscoped, Invalid),
    ("PackageService/ReinstatePackageVersion", Kind::Operator, &[Uploader], Scope::Unscoped, Invalid),
    ("PackageService/PlanPackage", Kind::Operator, READERS, Scope::Any, Invalid),
    ("PackageService/DeletePackageVersion", Kind::Operator, &[Uploader], Scope::Any, Invalid),
    ("PackageService/DeletePackage", Kind::Operator, &[Uploader], Scope::Any, Invalid),
    ("PackageService/GetTrustDocument", Kind::Operator, PACKAGES, Scope::Any, Fine),
    ("PackageService/PublishTrustDocument", Kind::Operator, &[Uploader], Scope::Any, Invalid),
    ("PackageService/GetRevocations", Kind::Operator, PACKAGES, Scope::Any, Fine),
    ("PackageService/PublishRevocations", Kind::Operator, &[Uploader], Scope::Any, Invalid),
    ("PackageService/GetContentStatus", Kind::Operator, PACKAGES, Scope::Any, Fine),
    ("PackageService/ScrubContent", Kind::Operator, &[Uploader], Scope::Any, Fine),
    ("JobService/CreateJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/StartJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/RunJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/GetJob", Kind::Operator, READERS, Scope::Within, Invalid),
    ("JobService/ListJobs", Kind::Operator, READERS, Scope::Within, Fine),
    ("JobService/UpdateJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/PauseJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/ResumeJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/PromoteJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/AbortJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/CancelJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/ArchiveJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/RollbackJob", Kind::Operator, &[Deployer], Scope::Unscoped, Invalid),
    ("JobService/RetryJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("JobService/ListExecutions", Kind::Operator, READERS, Scope::Within, Invalid),
    ("JobService/GetExecution", Kind::Operator, READERS, Scope::Within, Invalid),
    ("JobService/ReadLogs", Kind::Operator, READERS, Scope::Within, Invalid),
    ("JobService/WatchJob", Kind::Operator, READERS, Scope::Within, Invalid),
    ("EnrollmentTokenService/CreateEnrollmentTokens", Kind::Operator, &[Enroller], Scope::Placing, Fine),
    ("EnrollmentTokenService/ListEnrollmentTokens", Kind::Operator, &[Viewer, Enroller], Scope::Any, Fine),
    ("EnrollmentTokenService/GetEnrollmentToken", Kind::Operator, &[Viewer, Enroller], Scope::Any, Invalid),
    ("EnrollmentTokenService/RevokeEnrollmentToken", Kind::Operator, &[Enroller], Scope::Any, Invalid),
    ("OperatorService/GetSelf", Kind::Operator, ALL, Scope::Any, Fine),
    ("OperatorService/RenewOperatorCertificate", Kind::Operator, ALL, Scope::Any, Invalid),
    ("OperatorService/CreateOperator", Kind::Operator, &[], Scope::Unscoped, Invalid),
    ("OperatorService/GetOperator", Kind::Operator, &[Auditor], Scope::Any, Invalid),
    ("OperatorService/ListOperators", Kind::Operator, &[Auditor], Scope::Any, Fine),
    ("OperatorService/UpdateOperator", Kind::Operator, &[], Scope::Unscoped, Invalid),
    ("OperatorService/RevokeOperator", Kind::Operator, &[], Scope::Unscoped, Invalid),
    ("OperatorService/IssueOperatorCertificate", Kind::Operator, &[], Scope::Unscoped, Invalid),
    ("ConfigurationService/ApplyConfiguration", Kind::Operator, &[Deployer], Scope::Placing, Fine),
    ("ConfigurationService/ExportConfiguration", Kind::Operator, READERS, Scope::Within, Fine),
    ("AuditService/ListAuditEntries", Kind::Operator, &[Auditor], Scope::Any, Fine),
    ("AuditService/ListAuditSegments", Kind::Operator, &[Auditor], Scope::Any, Fine),
    ("EventService/ListEvents", Kind::Operator, READERS, Scope::Within, Fine),
    ("EventService/WatchEvents", Kind::Operator, READERS, Scope::Within, Fine),
    ("ApprovalService/ListApprovals", Kind::Operator, READERS, Scope::Within, Fine),
    ("ApprovalService/GetApproval", Kind::Operator, READERS, Scope::Within, Invalid),
    ("ApprovalService/ApproveChange", Kind::Operator, &[Approver], Scope::Within, Invalid),
    ("ApprovalService/RejectChange", Kind::Operator, &[Approver], Scope::Within, Invalid),
    ("PlanService/PlanJob", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("PlanService/GetPlan", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("PlanService/ListPlanClients", Kind::Operator, &[Deployer], Scope::Within, Invalid),
    ("ReportService/ListReportRows", Kind::Operator, READERS, Scope::Within, Invalid),
];

/// What somebody is to this table.
enum Is {
    /// Reaches the methods of this kind of caller, those for ended certificates alone if so said; nothing else exists.
    Kind(Kind, bool),
    /// An operator with this role, and whether it has a scope.
    Operator(Role, bool),
    /// Whose certificate is fine, but who was cut off: of the methods of this kind.
    CutOff(Kind),
}

fn expected(is: &Is, method: &Method, given: Code) -> Code {
    let access = &method.access;
    match is {
        Is::Kind(kind, ended) if access.caller == *kind && (!ended || access.ended_certificate) => given,
        Is::CutOff(kind) if access.caller == *kind => Code::Unauthenticated,
        Is::Operator(role, scoped) if access.caller == Kind::Operator => match access.scope {
            _ if !access.roles.contains(role) => Code::PermissionDenied,
            Scope::Unscoped if *scoped => Code::PermissionDenied,
            _ => given,
        },
        _ => Code::Unimplemented,
    }
}

#[test]
fn every_method_is_in_the_table_as_the_api_declares_it() {
    let mut rows: BTreeMap<&str, &Row> = TABLE.iter().map(|row| (row.0, row)).collect();
    assert_eq!(rows.len(), TABLE.len(), "a method stands there twice");
    for method in access::methods() {
        let (_, caller, roles, scope, _) =
            rows.remove(method.label.as_str()).unwrap_or_else(|| panic!("{} is not in the table", method.label));
        let mut roles: std::collections::BTreeSet<Role> = roles.iter().copied().collect();
        if *caller == Kind::Operator {
            roles.insert(Role::Admin);
        }
        assert_eq!((method.access.caller, &method.access.roles, method.access.scope), (*caller, &roles, *scope), "{}", method.label);
    }
    assert!(rows.is_empty(), "no such methods any more: {:?}", rows.keys());
}

#[test]
fn every_method_gives_everybody_the_code_of_the_table() {
    let mut bed = Bed::new(Database::Sqlite);
    let group = v1::CreateGroupRequest { group_id: "inside".into(), ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(group).await }).unwrap();
    let mut everybody: Vec<(String, Caller, Is)> = vec![];
    for role in Role::ALL {
        for scoped in [false, true] {
            let name = format!("{}{}", role.as_str().to_lowercase(), if scoped { "-inside" } else { "" });
            let groups: &[&str] = if scoped { &["inside"] } else { &[] };
            let credential = bed.operator(&name, &[(*role, groups)]);
            everybody.push((name, bed.at_operators(&bed.manager, Some(&credential)).unwrap(), Is::Operator(*role, scoped)));
        }
    }
    let (_, agent) = bed.client();
    let (removed_id, removed) = bed.client();
    let (sleeper, _) = bed.client();
    let late_agent = bed.ended(Subject::Client(sleeper));
    bed.operator("late", &[(Role::Admin, &[])]);
    let late = bed.ended(Subject::Operator(name("late")));
    let revoked = bed.operator("gone", &[(Role::Admin, &[])]);
    let gone = bed.at_operators(&bed.manager, Some(&revoked)).unwrap();
    let unplugged = bed.at_agents(Some(&removed)).unwrap();
    let revoke = v1::RevokeOperatorRequest { name: "operators/gone".into(), ..Default::default() };
    bed.admin.operators(&bed.manager, |mut c| async move { c.revoke_operator(revoke).await }).unwrap();
    let remove = v1::RemoveClientRequest { name: format!("clients/{removed_id}"), ..Default::default() };
    bed.admin.clients(&bed.manager, |mut c| async move { c.remove_client(remove).await }).unwrap();
    for (who, caller, is) in [
        ("nobody", bed.at_agents(None), Is::Kind(Kind::Nobody, false)),
        ("agent", bed.at_agents(Some(&agent)), Is::Kind(Kind::Agent, false)),
        ("late agent", bed.at_agents(Some(&late_agent)), Is::Kind(Kind::Agent, true)),
        ("removed agent", Some(unplugged), Is::CutOff(Kind::Agent)),
        ("late operator", bed.at_operators(&bed.manager, Some(&late)), Is::Kind(Kind::Operator, true)),
        ("revoked operator", Some(gone), Is::CutOff(Kind::Operator)),
    ] {
        everybody.push((who.into(), caller.unwrap_or_else(|| panic!("no connection for {who}")), is));
    }

    let given: BTreeMap<&str, Code> = TABLE.iter().map(|row| (row.0, row.4)).collect();
    let mut wrong = vec![];
    for (who, caller, is) in &everybody {
        for method in access::methods() {
            let expected = expected(is, method, given[method.label.as_str()]);
            let code = bed.code(caller, method);
            if code != expected {
                wrong.push(format!("{who} calls {}: {code:?}, not {expected:?}", method.label));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // The operators' port makes no handshake, or breaks it off, with anybody else.
    for credential in [None, Some(&agent), Some(&late_agent), Some(&removed)] {
        let Some(caller) = bed.at_operators(&bed.manager, credential) else { continue };
        for method in access::methods() {
            let refused = bed.call(&caller, &method.path, bytes::Bytes::new()).unwrap_err();
            assert!([Code::Unavailable, Code::Unknown].contains(&refused.code()), "an answer of the manager: {refused:?}");
        }
    }
    // And the agents' port with an operator.
    let admin = bed.operator("stray", &[(Role::Admin, &[])]);
    if let Some(caller) = bed.at_agents(Some(&admin)) {
        assert!(bed.call(&caller, "/sutler.v1.AgentService/Connect", bytes::Bytes::new()).is_err());
    }
}

#[test]
fn what_an_operator_was_denied_stands_in_the_audit_log() {
    let mut bed = Bed::new(Database::Sqlite);
    let credential = bed.operator("bea", &[(Role::Viewer, &[])]);
    let bea = bed.at_operators(&bed.manager, Some(&credential)).unwrap();
    let create = access::methods().iter().find(|m| m.label == "OperatorService/CreateOperator").unwrap();
    assert_eq!(bed.code(&bea, create), Code::PermissionDenied);
    let request = v1::ListAuditEntriesRequest::default();
    let log = bed.admin.audit(&bed.manager, |mut c| async move { c.list_audit_entries(request).await }).unwrap();
    let denial = log.entries.iter().find(|e| e.actor == "operators/bea").expect("an entry of bea's");
    assert!(denial.object == create.label && denial.detail.contains("ADMIN"), "{denial:?}");
}
