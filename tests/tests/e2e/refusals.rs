//! Bad input: a clear error with the right status code, and nothing lost or half-done.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sutler_base::token::TokenString;
use sutler_proto::v1;
use sutler_tests::api_call;
use sutler_tests::harness::{Agent, Api, Cli, JobView, Manager, PackageFolder, noise};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn push(cli: &Cli, package: &PackageFolder) {
    cli.ok(&format!("package push {}", package.path().display()));
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &[&str]) -> Status {
    let status = answer.expect_err("it has to be refused");
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let fields = details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|v| format!("{}: {}\n", v.field, v.description)).collect::<String>());
    let text = format!("{}\n{}", status.message(), fields.unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    status
}

fn policy(condition: &str) -> v1::CreatePolicyRequest {
    v1::CreatePolicyRequest { policy_id: "p".into(), group: "groups/machines".into(), condition: condition.into(), ..Default::default() }
}

#[test]
fn unknown_names_are_not_found_and_nothing_is_made() {
    let manager = Manager::start();
    let (cli, api) = (manager.cli(), Api::operator(&manager));
    cli.ok("group create machines");
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    let job = |package: &str, destination: &str| v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: package.into(), ..Default::default() }],
        destinations: vec![destination.into()],
        ..Default::default()
    };
    for (package, destination, word) in [
        ("packages/nothing", "groups/machines", "nothing"),
        ("packages/hello/versions/9", "groups/machines", "9"),
        ("packages/hello", "groups/nobody", "nobody"),
        ("packages/hello", "clients/ffffffffffffffff", "ffffffffffffffff"),
    ] {
        refused(api_call!(api, job_service_client::JobServiceClient, run_job(job(package, destination))), Code::NotFound, &[word]);
    }
    refused(
        api_call!(api, group_service_client::GroupServiceClient, get_group(v1::GetGroupRequest { name: "groups/nobody".into() })),
        Code::NotFound,
        &[],
    );
    let mut elsewhere = policy("");
    elsewhere.group = "groups/nobody".into();
    refused(api_call!(api, policy_service_client::PolicyServiceClient, create_policy(elsewhere)), Code::NotFound, &["nobody"]);
    cli.fails(1, "job run --package nothing --group machines").says(&["nothing"]);
    cli.fails(1, "job status ffffffffff");
    cli.fails(2, "group create Not_A_Name").says(&["a-z"]);
    cli.fails(1, "group create machines");
    assert_eq!(cli.json("job list"), serde_json::json!([]), "a job that was refused does not exist");
    assert_eq!(cli.json("policy list"), serde_json::json!([]));
}

#[test]
fn a_condition_that_does_not_compile_or_is_a_bomb_is_refused_with_its_place() {
    let manager = Manager::start();
    let (cli, api) = (manager.cli(), Api::operator(&manager));
    cli.ok("group create machines");
    let bomb = format!("1{} == 1", "+1".repeat(900));
    let long = format!("1{} == 1", "+1".repeat(20_000));
    let deep = format!("{}true{}", "(".repeat(900), ")".repeat(900));
    for (condition, word) in [
        ("facts.os.family ==", "condition"),
        ("facts.os.familly == \"linux\"", "familly"),
        ("nonsense == 1", "nonsense"),
        ("facts.os.family == 7", "condition"),
        ("facts.addresses.exists(a, facts.addresses.exists(b, a == b))", "condition"),
        (&bomb, "condition"),
        (&long, "condition"),
        (&deep, "condition"),
    ] {
        refused(
            api_call!(api, policy_service_client::PolicyServiceClient, create_policy(policy(condition))),
            Code::InvalidArgument,
            &[word],
        );
    }
    // The place in the expression, for people.
    cli.fails(1, "policy create p --group machines --when 'facts.os.familly == \"linux\"'").says(&["facts.os.familly", "condition"]);
    assert_eq!(cli.json("policy list"), serde_json::json!([]));
    // The manager is as well as before.
    cli.ok("policy create p --group machines --when 'facts.os.family == \"linux\"'");
}

#[test]
fn a_link_that_leaves_the_package_is_refused_and_one_inside_arrives_as_a_link() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    for target in ["/etc/passwd", "../../../etc/passwd"] {
        let package = PackageFolder::counting("leaves", "1.0");
        std::os::unix::fs::symlink(target, package.files().join("link")).unwrap();
        cli.fails(1, &format!("package push {}", package.path().display())).says(&["link"]);
    }
    assert_eq!(cli.json("package list"), serde_json::json!([]));
    let package = PackageFolder::counting("stays", "1.0");
    fs_err::create_dir(package.files().join("deep")).unwrap();
    std::os::unix::fs::symlink("../bin/install", package.files().join("deep/link")).unwrap();
    push(&cli, &package);
    let job = cli.id(&format!("job run --package stays --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    let link = agent.root().join("opt/stays/deep/link");
    assert_eq!(fs_err::read_link(&link).unwrap().to_str(), Some("../bin/install"));
    assert!(link.exists());
}

#[test]
fn a_wrong_or_used_token_is_refused_with_one_text_for_all() {
    let manager = Manager::start();
    let cli = manager.cli();
    let text = cli.ok("token create");
    let token = TokenString::parse(&text).unwrap();
    Agent::new("damaged").try_enroll(&text.trim()[..60]).ends_with(1);
    let enroll = |token: &TokenString| v1::EnrollRequest {
        token_id: token.id.to_string(),
        secret: token.secret.to_vec().into(),
        csr: sutler_certs::PrivateKey::generate().unwrap().csr().unwrap().into(),
        hostname: "somebody".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        agent_version: "0".into(),
        trust_pin: Default::default(),
    };
    let api = Api::newcomer(&token);
    let mut wrong = token.clone();
    wrong.secret[0] ^= 1;
    let mut unknown = token.clone();
    unknown.id = "ffffffffff".parse().unwrap();
    let refusal = |token: &TokenString| {
        refused(api_call!(api, enrollment_service_client::EnrollmentServiceClient, enroll(enroll(token))), Code::Unauthenticated, &[])
            .message()
            .to_owned()
    };
    let texts = [refusal(&wrong), refusal(&unknown)];
    let first = Agent::new("first");
    first.enroll(&text);
    let used = refusal(&token);
    assert_eq!((used.as_str(), texts[0].as_str()), (texts[1].as_str(), texts[1].as_str()));
    Agent::new("second").try_enroll(&text).ends_with(1);
    let revoked = cli.ok("token create");
    let revoked = TokenString::parse(&revoked).unwrap();
    cli.ok(&format!("token revoke {}", revoked.id));
    assert_eq!(refusal(&revoked), used);
    assert_eq!(cli.json("client list").as_array().unwrap().len(), 1, "only the first came in");
}

#[test]
fn without_a_certificate_nothing_but_enrolment_answers() {
    let manager = Manager::start();
    let token = TokenString::parse(&manager.cli().ok("token create")).unwrap();
    let api = Api::newcomer(&token);
    let answer = api_call!(api, group_service_client::GroupServiceClient, list_groups(v1::ListGroupsRequest::default()));
    refused(answer, Code::Unimplemented, &[]);
    let answer = api_call!(api, agent_service_client::AgentServiceClient, renew_certificate(v1::RenewCertificateRequest::default()));
    refused(answer, Code::Unimplemented, &[]);
}

#[test]
fn a_group_that_is_in_use_is_deleted_only_by_force_and_its_policies_go_with_it() {
    let manager = Manager::start();
    let (cli, api) = (manager.cli(), Api::operator(&manager));
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    cli.ok("group create machines");
    cli.ok("policy create everybody --group machines");
    let job = cli.id("job run --package hello --group machines");
    let delete = v1::DeleteGroupRequest { name: "groups/machines".into(), ..Default::default() };
    refused(api_call!(api, group_service_client::GroupServiceClient, delete_group(delete)), Code::FailedPrecondition, &[]);
    cli.fails(1, "group delete machines").says(&["--force"]);
    cli.ok("group show machines");
    cli.ok("group delete machines --force");
    assert_eq!(cli.json("policy list"), serde_json::json!([]));
    assert_eq!(cli.json("group list"), serde_json::json!([]));
    assert_eq!(cli.json(&format!("job show {job}"))["destinations"], serde_json::json!([]));
    // The name may be used again; the new group is another one, which the old job does not reach.
    cli.ok("group create machines");
    let agent = Agent::enrolled("one", &manager);
    cli.ok(&format!("group add machines {}", agent.id()));
    cli.fails(34, &format!("job status {job}"));
    // A package that a job refers to stays.
    cli.fails(1, "package delete hello");
}

#[test]
fn what_was_changed_after_it_was_signed_is_refused_and_leaves_nothing() {
    let manager = Manager::start();
    let (cli, api) = (manager.cli(), Api::operator(&manager));
    let package = PackageFolder::counting("hello", "1.0");
    package.file("data", noise(300_000, 7));
    let bundle = manager.scratch().join("bundle.jsonl");
    cli.ok(&format!("publisher sign {} -o {}", package.path().display(), bundle.display()));
    let lines: Vec<Value> = fs_err::read_to_string(&bundle).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let message = |line: &Value| {
        let bytes = |v: &Value| STANDARD.decode(v.as_str().unwrap_or_default()).unwrap();
        let message = match line.get("envelope") {
            Some(envelope) => v1::push_package_request::Message::Envelope(bytes(envelope).into()),
            None => {
                let content = &line["content"];
                let number = |v: &Value| v.as_i64().or_else(|| v.as_str()?.parse().ok()).unwrap_or_default();
                v1::push_package_request::Message::Content(v1::Content {
                    digest: content["digest"].as_str().unwrap().into(),
                    encoding: v1::Encoding::from_str_name(content["encoding"].as_str().unwrap()).unwrap().into(),
                    data: bytes(&content["data"]).into(),
                    offset: number(&content["offset"]),
                    more: content["more"].as_bool().unwrap_or_default(),
                })
            }
        };
        v1::PushPackageRequest { message: Some(message) }
    };
    let good: Vec<_> = lines.iter().map(message).collect();
    let push_all = |messages: Vec<v1::PushPackageRequest>| {
        api_call!(api, package_service_client::PackageServiceClient, push_package(tokio_stream::iter(messages)))
    };
    // Every message in turn, damaged in its middle: the envelope, the manifest, lists and chunks.
    for n in 0..good.len() {
        let mut messages = good.clone();
        match messages[n].message.as_mut().unwrap() {
            v1::push_package_request::Message::Envelope(bytes) => *bytes = damaged(bytes).into(),
            v1::push_package_request::Message::Content(content) => content.data = damaged(&content.data).into(),
        }
        let status = push_all(messages).expect_err("it was damaged");
        assert_eq!(status.code(), Code::InvalidArgument, "message {n}: {status:?}");
        assert_eq!(cli.json("package list"), serde_json::json!([]), "message {n} left something");
    }
    // Left out is no better.
    let status = push_all(good[..good.len() - 1].to_vec()).expect_err("one is missing");
    assert!(matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition), "{status:?}");
    // Signed by somebody else.
    let stranger = Manager::start();
    let other = manager.scratch().join("stranger.jsonl");
    stranger.cli().ok(&format!("publisher sign {} -o {}", package.path().display(), other.display()));
    let foreign: Vec<_> =
        fs_err::read_to_string(&other).unwrap().lines().map(|line| message(&serde_json::from_str(line).unwrap())).collect();
    let status = push_all(foreign).expect_err("nobody trusts that key");
    assert!(matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied), "{status:?}");
    assert_eq!(cli.json("package list"), serde_json::json!([]));
    // Whole it is taken.
    push_all(good).unwrap();
    assert_eq!(cli.json("package list").as_array().unwrap().len(), 1);
}

fn damaged(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    bytes
}

#[test]
fn a_hostile_request_for_a_certificate_gets_an_agents_certificate_and_nothing_else() {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
    let manager = Manager::start();
    let cli = manager.cli();
    let token = TokenString::parse(&cli.ok("token create")).unwrap();
    let api = Api::newcomer(&token);
    let enroll = |csr: Vec<u8>| v1::EnrollRequest {
        token_id: token.id.to_string(),
        secret: token.secret.to_vec().into(),
        csr: csr.into(),
        hostname: "hostile".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        agent_version: "0".into(),
        trust_pin: Default::default(),
    };
    // What is no request uses up no token.
    for garbage in [vec![], vec![0x30, 0x80], b"certificate, please".to_vec(), vec![0x30; 9000]] {
        refused(api_call!(api, enrollment_service_client::EnrollmentServiceClient, enroll(enroll(garbage))), Code::InvalidArgument, &[]);
    }
    let too_large = api_call!(api, enrollment_service_client::EnrollmentServiceClient, enroll(enroll(vec![0x30; 64 << 10])));
    refused(too_large, Code::ResourceExhausted, &[]);

    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::URI("spiffe://acme.example/operator/admin".try_into().unwrap()),
        SanType::DnsName("manager.acme.example".try_into().unwrap()),
    ];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    // The library refuses to put all of it into a request; what it takes is hostile enough.
    let request = params.serialize_request(&key).or_else(|_| {
        params.is_ca = IsCa::NoCa;
        params.serialize_request(&key)
    });
    let answer = api_call!(api, enrollment_service_client::EnrollmentServiceClient, enroll(enroll(request.unwrap().der().to_vec())))
        .expect("its key is as good as any");
    let der = &answer.certificates[0];
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    assert!(!certificate.is_ca());
    let names: Vec<String> =
        certificate.subject_alternative_name().unwrap().unwrap().value.general_names.iter().map(|n| n.to_string()).collect();
    assert_eq!(names, [format!("URI(spiffe://acme.example/agent/{})", answer.client_id)]);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(!usage.key_cert_sign() && !usage.crl_sign());
    let days = (certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp()) / 86_400;
    assert!((29..=31).contains(&days), "{days} days");
}

#[test]
fn a_stored_chunk_that_was_changed_is_never_installed() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    package.noise("noise", 1 << 20, 3);
    push(&cli, &package);
    // Every object of the store that is as large as a chunk of noise.
    let mut changed = 0;
    walk(&manager.folder().join("content"), &mut |file| {
        let bytes = fs_err::read(file).unwrap();
        if bytes.len() >= 16 << 10 {
            fs_err::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            fs_err::write(file, damaged(&bytes)).unwrap();
            changed += 1;
        }
    });
    assert!(changed > 0);
    let agent = Agent::enrolled("one", &manager);
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    let view = JobView::wait(&cli, &job, "the manager to notice", sutler_tests::harness::PATIENCE, |view| {
        manager.log().contains("DATA_LOSS") || manager.log().to_lowercase().contains("damaged") || view.count("error") == 1
    });
    assert_eq!(view.count("finished"), 0);
    assert!(!agent.root().join("opt/hello").exists());
}

fn walk(folder: &std::path::Path, visit: &mut dyn FnMut(&std::path::Path)) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, visit) } else { visit(&path) }
    }
}
