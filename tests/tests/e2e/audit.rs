//! The audit log from the outside: what was done to it past the manager is found, and nobody can take anything out of it.

use prost::Message as _;
use prost_types::FileDescriptorSet;
use sqlx::Connection as _;
use sutler_tests::harness::{Manager, PATIENCE, Setup, wait_for_value, wait_until};

/// Runs statements on the manager's database, past the manager.
fn past_the_manager(manager: &Manager, sql: &'static str) {
    let url = format!("sqlite://{}", manager.folder().join("manager.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn what_was_changed_in_the_audit_log_past_the_manager_is_found() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    for n in 0..5 {
        cli.ok(&format!("group create group-{n}"));
    }
    manager.kill_and_serve();
    cli.ok("group create later");
    cli.ok("audit verify");
    let file = manager.scratch().join("export.jsonl");
    cli.ok(&format!("audit export {}", file.display()));
    cli.ok(&format!("audit verify {}", file.display()));
    cli.fails(1, &format!("audit export {}", file.display())).says(&["File exists"]);

    // An edited entry, with the rules of the database taken away first.
    past_the_manager(
        &manager,
        "DROP TRIGGER audit_is_never_changed; DROP TRIGGER audit_is_kept_until_dropped; CREATE TABLE kept AS SELECT * FROM audit;
         UPDATE audit SET actor = 'operators/somebody' WHERE object = 'groups/group-2'",
    );
    assert!(cli.fails(1, "audit verify").stdout.contains("edited"));
    // The end cut off: only what remembers it can tell, the running manager or an export.
    past_the_manager(&manager, "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept; DELETE FROM audit WHERE object = 'groups/later'");
    assert!(cli.fails(1, "audit verify").stdout.contains("cut off"));
    manager.kill_and_serve();
    cli.ok("audit verify");
    assert!(cli.fails(1, &format!("audit verify {}", file.display())).stdout.contains("cut off"));
    // The export itself was changed.
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, text.replace("group-3", "group-9")).unwrap();
    assert!(cli.fails(1, &format!("audit verify {} --offline", file.display())).stdout.contains("edited"));
    fs_err::write(&file, &text[..text.len() - 10]).unwrap();
    cli.fails(1, &format!("audit verify {} --offline", file.display()));
}

#[test]
fn entries_leave_the_log_only_when_they_are_sealed_and_somebody_holds_them() {
    let manager = Manager::start_with(Setup { config: "[limits]\naudit_seal = \"1s\"".into(), ..Setup::default() });
    let cli = manager.cli();
    let folder = manager.folder();
    let drop = |file: &std::path::Path| format!("audit drop {} --dir {}", file.display(), folder.display());
    cli.ok("group create one");
    let sealed = || cli.ok("audit list --limit 0").matches("seal_audit_segment").count();
    // Up to which entry the log is sealed, and the last one about this object.
    let covers = |object: &str| {
        let log = cli.json("audit list --limit 0");
        let number = |text: &serde_json::Value| text.as_str().and_then(|t| t.parse::<i64>().ok());
        let entries = log.as_array().unwrap();
        let wanted = entries.iter().find(|e| e["object"] == object).and_then(|e| number(&e["sequence"])).unwrap();
        let seals = entries.iter().filter(|e| e["action"] == "seal_audit_segment");
        let ends = seals.filter_map(|e| e["detail"].as_str()?.split([' ', ',']).nth(3)?.parse::<i64>().ok());
        ends.max().is_some_and(|end| end >= wanted)
    };
    wait_until("the entry to be sealed", PATIENCE, || covers("groups/one"));
    let file = manager.scratch().join("export.jsonl");
    cli.ok(&format!("audit export {}", file.display()));

    // Somebody else's file, or one that was changed, is no ground to drop anything.
    let text = fs_err::read_to_string(&file).unwrap();
    let forged = manager.scratch().join("forged.jsonl");
    fs_err::write(&forged, text.replace("create_group", "delete_group")).unwrap();
    cli.fails(1, &drop(&forged));
    assert!(cli.ok("audit list --limit 0").contains("create_group"));

    assert!(!cli.ok(&drop(&file)).contains(" 0 entries"));
    let left = cli.ok("audit list --limit 0");
    assert!(!left.contains("create_group") && left.contains("drop_audit_segments"), "{left}");
    cli.ok("audit verify");
    cli.ok(&format!("audit verify {}", file.display()));
    assert!(cli.ok(&drop(&file)).contains("0 entries dropped"), "what is gone is gone");
    // What came later is sealed, and can't go with the old export.
    cli.ok("group create two");
    let before = sealed();
    wait_for_value("the next segment", PATIENCE, sealed, |now| *now > before);
    assert!(cli.ok(&drop(&file)).contains("0 entries dropped"));
    assert!(cli.ok("audit list --limit 0").contains("groups/two"));
}

#[test]
fn no_method_changes_the_audit_log() {
    let set = FileDescriptorSet::decode(sutler_proto::DESCRIPTORS).unwrap();
    let mut seen = 0;
    for service in set.file.iter().flat_map(|file| &file.service) {
        for method in service.method.iter().filter(|m| service.name() == "AuditService" || m.name().contains("Audit")) {
            assert!(method.name().starts_with("List") || method.name().starts_with("Get"), "{}/{}", service.name(), method.name());
            seen += 1;
        }
    }
    assert!(seen >= 2);
    // Beside the API, the only way is a local command: no room above the store may drop entries but for it.
    let code = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manager/src");
    let mut users = Vec::new();
    walk(&code, &mut |file| {
        if fs_err::read_to_string(file).unwrap().contains("drop_segments(") {
            users.push(file.strip_prefix(&code).unwrap().display().to_string());
        }
    });
    users.sort();
    assert_eq!(users, ["app/audit.rs", "cli/audit/mod.rs"]);
}

fn walk(folder: &std::path::Path, visit: &mut dyn FnMut(&std::path::Path)) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, visit) } else { visit(&path) }
    }
}

#[test]
fn whoever_has_no_right_can_not_fill_the_log() {
    let manager = Manager::start();
    let cli = manager.cli();
    let token = sutler_base::token::TokenString::parse(cli.ok("token create").trim()).unwrap();
    let api = sutler_tests::harness::Api::newcomer(&token);
    let key = sutler_certs::PrivateKey::generate().unwrap();
    for _ in 0..30 {
        let request = sutler_proto::v1::EnrollRequest {
            token_id: token.id.to_string(),
            secret: vec![7; 32].into(),
            csr: key.csr().unwrap().into(),
            ..Default::default()
        };
        let refused = sutler_tests::api_call!(api, enrollment_service_client::EnrollmentServiceClient, enroll(request)).unwrap_err();
        assert!(matches!(refused.code(), tonic::Code::Unauthenticated | tonic::Code::ResourceExhausted), "{refused:?}");
    }
    let entries = cli.ok("audit list --limit 0").matches("enroll_refused").count();
    assert!((1..=20).contains(&entries), "{entries} entries for 30 refusals");
    cli.ok("audit verify");
}
