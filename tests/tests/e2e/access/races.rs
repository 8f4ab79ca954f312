//! Operators against time: revoked while their call is under way, revoking each other, from a database before there were roles.

use super::callers::{Bed, Caller};
use prost::Message as _;
use sqlx::{Connection as _, Row as _};
use std::sync::Arc;
use std::time::Duration;
use sutler_base::state::Role;
use sutler_certs::{Credential, PrivateKey};
use sutler_proto::v1;
use sutler_tests::fleet::Database;
use sutler_tests::harness::{Cli, Done, Manager, PATIENCE, Setup, wait_until};
use sutler_tests::postgres::Postgres;
use tokio::sync::{Barrier, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Makes an operator with a profile of its own, in a folder beside the manager's.
fn operator(manager: &Manager, by: &Cli, name: &str, role: &str) -> Cli {
    let place = manager.scratch().join(name);
    let own = Cli::new(&place).at(manager.addresses().operators.to_string());
    let (request, bundle) = (place.with_extension("request"), place.with_extension("bundle"));
    own.ok(&format!("profile request acme -o {}", request.display()));
    by.ok(&format!("operator create {name} --role {role} --request {} -o {}", request.display(), bundle.display()));
    own.ok(&format!("profile import {}", bundle.display()));
    own.ok("operator show");
    own
}

/// What an operator is told whose change waits for the database while somebody else changes what the operator is.
fn overtaken_by(manager: &Manager, url: &str, operator: &Cli, line: &str, change: &'static str) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connect = || runtime.block_on(sqlx::PgConnection::connect(url)).unwrap();
    let (mut first, mut watcher) = (connect(), connect());
    // Whatever changes something takes the next number. Who decides about operators has locked them before: of two that wait for
    // each other the manager's is ended by the database, and tried again.
    let begin = "SET deadlock_timeout = '1h'; BEGIN; SELECT value FROM sequence WHERE name = 'change' FOR UPDATE";
    runtime.block_on(sqlx::raw_sql(begin).execute(&mut first)).unwrap();
    let called = std::thread::scope(|scope| {
        let called = scope.spawn(|| operator.run(line));
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait_until("the change to wait, its caller having been let in", PATIENCE, || {
            let row = runtime.block_on(sqlx::query(waits).fetch_one(&mut watcher)).unwrap();
            row.get::<i64, _>(0) > 0
        });
        runtime.block_on(sqlx::raw_sql(change).execute(&mut first)).unwrap();
        runtime.block_on(sqlx::raw_sql("COMMIT").execute(&mut first)).unwrap();
        called.join().unwrap()
    });
    assert!(!manager.cli().ok("group list").contains("overtaken"), "{called:?}");
    called
}

#[test]
fn whoever_is_revoked_or_loses_a_role_between_being_let_in_and_the_commit_changes_nothing() {
    let Some(postgres) = Postgres::shared() else { return };
    let url = postgres.create_database();
    let manager = Manager::start_with(Setup { database: Some(url.clone()), ..Setup::default() });
    let anna = manager.cli();
    let [bea, cid, dan] = ["bea", "cid", "dan"].map(|name| operator(&manager, &anna, name, "admin"));
    let told = overtaken_by(
        &manager,
        &url,
        &bea,
        "group create overtaken",
        "UPDATE operator SET revoked_ms = 1 WHERE name = 'bea'; UPDATE certificate SET state = 'REVOKED' WHERE subject = 'bea'",
    );
    told.ends_with(1).says(&["this operator was revoked"]);
    let log = anna.json("audit list --object operators/bea");
    let noted = |e: &serde_json::Value| e["action"] == "certificate_refused" && e["detail"].as_str().unwrap().contains("CreateGroup");
    assert!(log.as_array().unwrap().iter().any(noted), "{log:#}");
    // A lost key: the operator is there, and the certificate is not.
    let told =
        overtaken_by(&manager, &url, &dan, "group create overtaken", "UPDATE certificate SET state = 'REVOKED' WHERE subject = 'dan'");
    told.ends_with(1).says(&["this certificate was revoked"]);
    let told = overtaken_by(
        &manager,
        &url,
        &cid,
        "group create overtaken",
        r#"UPDATE operator SET roles = '[["VIEWER",null]]' WHERE name = 'cid'"#,
    );
    told.ends_with(1).says(&["VIEWER"]);
    // Those who decide about operators are asked, too, and may still decide about themselves.
    let eve = operator(&manager, &anna, "eve", "admin");
    let first = anna.json("operator show")["name"].as_str().unwrap().trim_start_matches("operators/").to_owned();
    let revoke = format!("operator revoke {first} --yes");
    let told = overtaken_by(&manager, &url, &eve, &revoke, "UPDATE operator SET revoked_ms = 1 WHERE name = 'eve'");
    told.ends_with(1).says(&["this operator was revoked"]);
    let fay = operator(&manager, &anna, "fay", "admin");
    fay.ok("operator update fay --role admin --role viewer");
    fay.ok("operator revoke fay --yes");
    anna.ok("operator list");
}

/// Two administrators, the only ones, take each other's role away at the same moment, again and again.
fn duel(managers: &[&Manager]) {
    let first = managers[0];
    let mut stays = first.cli();
    let mut name = stays.json("operator show")["name"].as_str().unwrap().trim_start_matches("operators/").to_owned();
    for round in 0..6 {
        let other_name = format!("admin-{round}");
        let other = operator(first, &stays, &other_name, "admin");
        let there = other.at(managers[round % managers.len()].addresses().operators.to_string());
        let take = |by: &Cli, from: &str| match round % 2 {
            0 => by.run(&format!("operator revoke {from} --yes")),
            _ => by.run(&format!("operator update {from} --role viewer")),
        };
        let (mine, theirs) = std::thread::scope(|scope| {
            let mine = scope.spawn(|| take(&stays, &other_name));
            let theirs = scope.spawn(|| take(&there, &name));
            (mine.join().unwrap(), theirs.join().unwrap())
        });
        assert!((mine.code == 0) != (theirs.code == 0), "round {round}: one of them stays\n{mine:?}\n{theirs:?}");
        if theirs.code == 0 {
            (stays, name) = (other, other_name);
        }
        let all = stays.json("operator list");
        let is_admin =
            |o: &&serde_json::Value| o["revokeTime"].is_null() && o["roles"].as_array().unwrap().iter().any(|r| r["role"] == "ROLE_ADMIN");
        let admins: Vec<_> = all.as_array().unwrap().iter().filter(is_admin).map(|o| o["name"].clone()).collect();
        assert_eq!(admins, [format!("operators/{name}")], "{all:#}");
    }
}

#[test]
fn two_administrators_who_revoke_each_other_at_once_leave_one() {
    duel(&[&Manager::start()]);
}

#[test]
fn two_administrators_who_revoke_each_other_at_once_on_two_managers_leave_one() {
    let Some(postgres) = Postgres::shared() else { return };
    let first = Manager::start_with(Setup { database: Some(postgres.create_database()), ..Setup::default() });
    let second = Manager::joining(&first, Setup::default());
    duel(&[&first, &second]);
}

#[test]
fn machines_that_enrol_at_two_managers_with_one_token_at_the_same_moment_are_one_client() {
    let Some(server) = Postgres::shared() else { return };
    let mut bed = Bed::new(Database::Postgres(server));
    let second = bed.manager.second();
    let here = [bed.manager.agents(), second.agents()];
    for round in 0..6 {
        let token = bed.token(v1::CreateEnrollmentTokensRequest::default());
        // The same machine twice, or two that have got hold of the same token.
        let same = round % 2 == 0;
        let key = PrivateKey::generate().unwrap();
        let keys = if same {
            [key.csr().unwrap(), key.csr().unwrap()]
        } else {
            [key.csr().unwrap(), PrivateKey::generate().unwrap().csr().unwrap()]
        };
        let callers = here.each_ref().map(|address| bed.open(address, None).unwrap());
        let request = |csr: &[u8]| v1::EnrollRequest {
            token_id: token.id.to_string(),
            secret: token.secret.to_vec().into(),
            csr: csr.to_vec().into(),
            machine_id: format!("machine-{round}"),
            ..Default::default()
        };
        let calls = callers
            .iter()
            .zip(&keys)
            .map(|(caller, csr)| caller.call("/sutler.v1.EnrollmentService/Enroll", request(csr).encode_to_vec().into()));
        let answers: Vec<_> = bed.runtime.block_on(async {
            let mut calls: Vec<_> = calls.map(Box::pin).collect();
            let (two, one) = (calls.pop().unwrap(), calls.pop().unwrap());
            let (one, two) = tokio::join!(one, two);
            vec![one, two]
        });
        let ids: Vec<_> = answers.iter().flatten().map(|a| v1::EnrollResponse::decode(a.clone()).unwrap().client_id).collect();
        if same {
            assert!(ids.len() == 2 && ids[0] == ids[1], "{answers:?}");
        } else {
            assert_eq!(ids.len(), 1, "{answers:?}");
            let refused = answers.iter().find_map(|a| a.as_ref().err()).unwrap();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        }
        let request = v1::ListClientsRequest { page_size: 1000, ..Default::default() };
        let clients = bed.admin.clients(&bed.manager, |mut c| async move { c.list_clients(request).await }).unwrap().clients;
        assert_eq!(clients.len(), round + 1, "{clients:?}");
    }
}

#[test]
fn machines_that_leave_all_at_once_hear_so_before_they_are_cut_off() {
    // It is looked without a pause whether somebody has to be cut off, so that it comes between whatever it can.
    let mut bed = Bed::tuned(Database::Sqlite, |config| config.limits.recheck = Duration::from_millis(1));
    for _ in 0..5 {
        leave(&mut bed, 64);
    }
}

/// So many machines connect, leave at the same moment, and hear that they may.
fn leave(bed: &mut Bed, machines: usize) {
    use v1::{connect_request::Message as Says, connect_response::Message as Hears};
    let machines: Vec<_> = (0..machines).map(|_| bed.client().1).collect();
    let callers: Vec<_> = machines.iter().map(|credential| bed.at_agents(Some(credential)).unwrap()).collect();
    let connected = Arc::new(Barrier::new(callers.len()));
    let lives = callers.iter().enumerate().map(|(n, caller)| {
        let connected = connected.clone();
        async move {
            let (say, said) = mpsc::channel(2);
            let hello = v1::Hello {
                protocol_version: sutler_proto::PROTOCOL_VERSION,
                machine_id: format!("machine-{n}"),
                boot_id: "boot".into(),
                session_counter: 1,
                ..Default::default()
            };
            let says = |message| v1::ConnectRequest { message: Some(message) };
            say.send(says(Says::Hello(hello))).await.unwrap();
            let mut hears = caller.agent().connect(ReceiverStream::new(said)).await.unwrap().into_inner();
            assert!(matches!(hears.message().await.unwrap().unwrap().message, Some(Hears::Welcome(_))));
            connected.wait().await;
            say.send(says(Says::Unenroll(v1::Unenroll {}))).await.unwrap();
            loop {
                match hears.message().await {
                    Ok(Some(heard)) if matches!(heard.message, Some(Hears::Unenrolled(_))) => return Ok(()),
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(Status::ok("the stream ended")),
                    Err(status) => return Err(status),
                }
            }
        }
    });
    let heard = bed.runtime.block_on(futures_util::future::join_all(lives));
    assert!(heard.iter().all(Result::is_ok), "{heard:?}");
    let request = v1::ListClientsRequest { page_size: 1000, ..Default::default() };
    assert_eq!(bed.admin.clients(&bed.manager, |mut c| async move { c.list_clients(request).await }).unwrap().clients, []);
}

/// Asks for one more certificate; gives back the credential, or why there is none.
fn renew(bed: &Bed, caller: &Caller, method: &str) -> Result<Credential, Status> {
    let key = PrivateKey::generate().unwrap();
    // Both requests and both answers have the same fields with the same numbers.
    let request = v1::RenewCertificateRequest { csr: key.csr().unwrap().into() };
    let answer = bed.call(caller, &format!("/sutler.v1.{method}"), request.encode_to_vec().into())?;
    let chain = v1::RenewCertificateResponse::decode(answer).unwrap().certificates;
    Ok(Credential { chain: chain.into_iter().map(|der| der.to_vec().into()).collect(), key })
}

#[test]
fn a_stolen_key_gets_a_bounded_number_of_certificates_and_the_next_machine_is_not_held_up() {
    let mut bed = Bed::new(Database::Sqlite);
    let (id, stolen) = bed.client();
    let other = bed.client().1;
    let bea = bed.operator("bea", &[(Role::Viewer, &[])]);
    let agent = bed.at_agents(Some(&stolen)).unwrap();
    let operator = bed.at_operators(&bed.manager, Some(&bea)).unwrap();
    for (who, caller, method) in [
        (format!("clients/{id}"), &agent, "AgentService/RenewCertificate"),
        ("operators/bea".to_owned(), &operator, "OperatorService/RenewOperatorCertificate"),
    ] {
        let mut given = vec![];
        let refused = loop {
            match renew(&bed, caller, method) {
                Ok(credential) => given.push(credential),
                Err(refused) => break refused,
            }
            assert!(given.len() < 20, "there is no end to it");
        };
        // The first one counts.
        assert_eq!(given.len(), 9, "{who}");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("limits.renewals") && refused.message().contains(&who), "{refused:?}");
        assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{refused:?}");
        (0..40).for_each(|_| drop(renew(&bed, caller, method).expect_err("still no more")));
        let request = v1::ListAuditEntriesRequest { page_size: 1000, object: who.clone(), ..Default::default() };
        let log = bed.admin.audit(&bed.manager, |mut c| async move { c.list_audit_entries(request).await }).unwrap();
        let noted = log.entries.iter().filter(|e| e.action == "renewal_refused" && e.actor == who).count();
        assert!((1..=20).contains(&noted), "{who}: {noted} entries");
        if method.starts_with("Agent") {
            // One of them is used: every other one is over with that, however many there are.
            let used = bed.at_agents(given.last()).unwrap();
            assert_eq!(renew(&bed, &used, method).unwrap_err().code(), Code::ResourceExhausted);
            for before in given.iter().rev().skip(1).chain([&stolen]) {
                let caller = bed.at_agents(Some(before)).unwrap();
                assert_eq!(renew(&bed, &caller, method).unwrap_err().code(), Code::Unauthenticated);
            }
        }
    }
    // Nobody else is held up by that, and least of all the machine that comes in place of the one whose key was stolen.
    renew(&bed, &bed.at_agents(Some(&other)).unwrap(), "AgentService/RenewCertificate").unwrap();
    let replacement = bed.replacement(&id);
    let caller = bed.at_agents(Some(&replacement)).unwrap();
    renew(&bed, &caller, "AgentService/RenewCertificate").unwrap();
}

#[test]
fn a_token_asked_again_and_again_with_its_own_key_gets_a_bounded_number_of_certificates_and_the_log_says_so() {
    let mut bed = Bed::new(Database::Sqlite);
    let (token, key) = (bed.token(v1::CreateEnrollmentTokensRequest::default()), PrivateKey::generate().unwrap());
    let refused = (0..20).find_map(|_| bed.enroll(&token, &key).err()).expect("there is no end to it");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("limits.renewals"), "{refused:?}");
    let who = format!("tokens/{}", token.id);
    let request = v1::ListAuditEntriesRequest { page_size: 1000, object: who.clone(), ..Default::default() };
    let log = bed.admin.audit(&bed.manager, |mut c| async move { c.list_audit_entries(request).await }).unwrap();
    let noted: Vec<_> = log.entries.iter().filter(|e| e.action == "enroll_refused").collect();
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert!(noted[0].actor == who && noted[0].detail.contains("limits.renewals"), "{noted:?}");
}

#[test]
fn the_operator_of_a_database_from_before_there_were_roles_is_an_administrator() {
    let mut manager = Manager::init(Setup::default());
    let (now, before) = (manager.folder().join("manager.db"), manager.scratch().join("before.db"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // The database as the first version made it, with what `init` has written into the tables that it had.
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&before).create_if_missing(true);
        let mut db = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let sql = include_str!("../../../../manager/store/migrations/sqlite/0001_first.sql");
        let first = sqlx::migrate::Migration::new(
            1,
            "first".into(),
            sqlx::migrate::MigrationType::Simple,
            sqlx::SqlSafeStr::into_sql_str(sql),
            false,
        );
        sqlx::migrate::Migrator::with_migrations(vec![first]).run_direct(None, &mut db, false).await.unwrap();
        let run = async |db: &mut sqlx::SqliteConnection, sql: String| {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(db).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        };
        run(&mut db, format!("ATTACH '{}' AS now; PRAGMA foreign_keys = off", now.display())).await;
        let trust = "INSERT INTO main.setting (key, value) SELECT 'trust_document', document FROM now.trust_document WHERE version = 1";
        run(&mut db, trust.into()).await;
        for table in ["operator", "certificate", "site", "setting", "sequence"] {
            let columns = sqlx::query("SELECT group_concat(name, ', ') FROM pragma_table_info($1)").bind(table);
            let columns: String = columns.fetch_one(&mut db).await.unwrap().get(0);
            run(&mut db, format!("INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}")).await;
        }
        run(&mut db, "DETACH now".into()).await;
        db.close().await.unwrap();
    });
    for file in ["manager.db", "manager.db-wal", "manager.db-shm"] {
        let _ = fs_err::remove_file(manager.folder().join(file));
    }
    fs_err::copy(&before, &now).unwrap();
    fs_err::set_permissions(&now, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    manager.serve();
    let anna = manager.cli();
    let own = anna.json("operator show");
    let roles: Vec<_> = own["roles"].as_array().unwrap().iter().map(|r| &r["role"]).collect();
    assert_eq!(roles, ["ROLE_ADMIN"], "{own:#}");
    let bea = operator(&manager, &anna, "bea", "admin");
    let name = own["name"].as_str().unwrap().trim_start_matches("operators/").to_owned();
    anna.ok("group create machines");
    bea.ok(&format!("operator revoke {name} --yes"));
    anna.fails(1, "group list").says(&["revoked"]);
}
