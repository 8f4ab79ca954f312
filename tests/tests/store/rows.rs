//! What the tables promise: rows read back, names, pages, kept numbers.

use crate::*;
use std::collections::BTreeSet;
use sutler_base::{
    PackageName,
    manifest::{Dependency, Supersedes},
    state::Intent,
    version::Range,
};
use sutler_core::{approval::Voice, relations::Need};
use sutler_store::{Answer, Besides, Page, Related, SoftwareChange, unit};

fn page(after: Option<String>, limit: u32) -> Page {
    Page { after, limit }
}

pub(crate) async fn every_row_reads_back_as_it_was_written(db: Database) {
    let mut one = client(1);
    one.kind = ClientKind::Relay;
    one.hostname = "höst \"1\"".into();
    one.facts = "{\"os\":{}}".repeat(10_000);
    one.facts_digest = Some(Digest::of(b"f"));
    one.facts_time = Some(at(77));
    one.labels = BTreeMap::from([("room".parse().unwrap(), "1'2".to_owned()), ("a/b".parse().unwrap(), String::new())]);
    one.answers = BTreeMap::from([("who".to_owned(), "me".to_owned())]);
    one.token = Some(token(1).id);
    one.activated = Some(at(88));
    one.greeted = true;
    one.duplicate_of = Some(client_id(9));
    one.archived = Some(at(99));
    one.notice = "look".into();
    one.session_counter = u64::from(u32::MAX) + 1;
    one.replaced = Some(at(66));
    one.skew = Some(-3_600_000);
    let machine = Machine {
        client: one.id.clone(),
        machine_id: "m".into(),
        boot_id: "b".into(),
        address: "::1".into(),
        session_counter: 7,
        serial: "0aff".into(),
        seen: at(5),
        kept: false,
    };
    let ca = IssuingCa { certificate: vec![48, 0, 255], authority: "agents".into(), until: None };
    let certificate = Certificate {
        serial: "0aff".into(),
        subject: Subject::Client(one.id.clone()),
        key: [3; 32],
        public_key: vec![0, 255],
        issued: at(1),
        not_after: at(2),
        state: CertificateState::Issued,
    };
    let operators = Certificate { serial: "0b".into(), subject: Subject::Operator("eve".parse().unwrap()), ..certificate.clone() };
    let tokens = [token(1), Token { revoked: Some(at(3)), replaces: Some(client_id(1)), ..token(2) }];
    let (in_group, rule) = (group(1, "one"), policy(2, "rule", &uid(1), "facts.os.family == \"linux\""));
    let clam = package(3, "clamav");
    let (old, new) = (version(4, &clam, "1.0", 10), version(5, &clam, "1.0+2", 10));
    let mut order = job(6);
    order.expires = Some(at(999));
    order.continue_on_failure = true;
    let packages = [
        JobPackage {
            package: clam.name.clone(),
            version: Some(new.uid.clone()),
            version_text: "1.0+2".into(),
            follow: true,
            replace_always: false,
            intent: Intent::Install,
            values: [("port".parse().unwrap(), "80 \"x\" ü".to_owned())].into(),
            needed: vec![],
        },
        JobPackage {
            package: "other".parse().unwrap(),
            version: None,
            version_text: String::new(),
            follow: false,
            replace_always: true,
            intent: Intent::Uninstall,
            values: Default::default(),
            needed: vec![Need { by: clam.name.clone(), on: dependency("other", ">=1, <2") }],
        },
    ];
    let targets = [Target::Group(uid(1)), Target::Client(one.id.clone())];
    let grants = vec![Grant { role: Role::Deployer, groups: Some([uid(7)].into()) }, Grant { role: Role::Viewer, groups: None }];
    let operator = Operator {
        name: "eve".parse().unwrap(),
        created: at(1),
        creator: "manager".into(),
        revoked: None,
        grants,
        voice: Voice { given: Some(at(2)), since: Some(at(3)), until: Some(at(4)) },
        change: 0,
    };
    let site = Site { id: uid(0), addresses: vec!["a:1".into(), "b:2".into()] };
    let entry = AuditEntry {
        sequence: 0,
        time: at(5),
        actor: "manager".into(),
        action: "a".into(),
        object: "groups/one".into(),
        detail: "d".into(),
    };
    write(
        &db.store,
        unit!(
            [
                one,
                certificate,
                operators,
                tokens,
                in_group,
                rule,
                clam,
                old,
                new,
                order,
                packages,
                targets,
                operator,
                site,
                entry,
                machine,
                ca
            ] | tx
                | {
                    tx.put_site(&site).await?;
                    tx.put_site(&Site { addresses: vec!["c:3".into()], ..site.clone() }).await?;
                    tx.insert_operator(&operator).await?;
                    tx.insert_client(&one).await?;
                    tx.insert_certificate(&certificate).await?;
                    tx.insert_certificate(&operators).await?;
                    tx.save_machine(&Machine { seen: at(4), boot_id: "a".into(), kept: true, ..machine.clone() }).await?;
                    tx.save_machine(&Machine { address: "gone".into(), ..machine.clone() }).await?;
                    tx.save_machine(&machine).await?;
                    tx.put_issuing_ca(&IssuingCa { until: Some(at(9)), ..ca.clone() }).await?;
                    tx.put_issuing_ca(&ca).await?;
                    tx.insert_tokens(&tokens).await?;
                    tx.use_token(&tokens[0].id, &[5; 32], &one.id, at(6)).await?;
                    assert!(tx.use_token(&tokens[0].id, &[5; 32], &one.id, at(6)).await.is_err());
                    tx.insert_group(&in_group).await?;
                    tx.insert_memberships(&[membership(&in_group.uid, 1)]).await?;
                    tx.insert_policy(&rule).await?;
                    tx.insert_package(&clam).await?;
                    tx.insert_version(&old).await?;
                    tx.insert_version(&new).await?;
                    tx.insert_job(&order, &packages, &targets).await?;
                    tx.put_job_packages(&order.id, 2, &packages[1..]).await?;
                    tx.put_request("eve", "r1", &Digest::of(b"body"), &Answer::Done(b"answer".to_vec()), at(4)).await?;
                    tx.audit(&entry).await?;
                    tx.audit(&AuditEntry { object: "groups/two".into(), ..entry.clone() }).await?;
                    tx.put_setting("k", &[0, 1]).await
                }
        ),
    )
    .await
    .unwrap();
    // The suite's own eyes: everything in one read unit.
    read(
        &db.store,
        unit!(
            [one, certificate, tokens, in_group, rule, clam, old, new, order, packages, targets, operator, machine, ca] | tx | {
                let mut found = tx.client(&one.id).await?.unwrap();
                assert!(std::mem::take(&mut found.change) > 0);
                assert_eq!(found, one);
                assert_eq!(tx.certificate("0aff").await?.unwrap(), certificate);
                assert_eq!(tx.certificates(&["0aff".into(), "77".into()]).await?, std::slice::from_ref(&certificate));
                let machines = tx.machines_of(&[client_id(5), one.id.clone()]).await?;
                assert_eq!((&machines[0], machines[1].kept, machines.len()), (&machine, true, 2));
                assert_eq!(tx.issuing_cas().await?, std::slice::from_ref(&ca));
                assert_eq!(tx.certificates_of(&Subject::Operator("eve".parse().unwrap())).await?[0].serial, "0b");
                assert_eq!(tx.list_tokens(&page(None, 9)).await?, [tokens[1].clone(), Token { used: 1, ..tokens[0].clone() }]);
                assert_eq!(tx.list_tokens(&page(Some(format!("2/{}", tokens[1].id)), 9)).await?.len(), 1);
                assert_eq!(tx.token(&tokens[1].id).await?.unwrap(), tokens[1]);
                assert_eq!(tx.token_use(&tokens[0].id, &[5; 32]).await?, Some(one.id.clone()));
                assert_eq!(tx.token_use(&tokens[0].id, &[6; 32]).await?, None);
                let group = tx.group(&in_group.name).await?.unwrap();
                assert_eq!(group, Group { members: 1, change: group.change, ..in_group.clone() });
                assert_eq!(tx.groups_by_uid(std::slice::from_ref(&in_group.uid)).await?, std::slice::from_ref(&group));
                assert_eq!(tx.memberships_of(&one.id).await?, [membership(&in_group.uid, 1)]);
                assert_eq!(tx.memberships_of_all(std::slice::from_ref(&one.id)).await?, [membership(&in_group.uid, 1)]);
                let policy = tx.policy(&rule.name).await?.unwrap();
                assert_eq!(policy, Policy { change: policy.change, ..rule.clone() });
                assert_eq!(tx.policies_with_trigger(Some(Trigger::NewClient)).await?.len(), 1);
                assert_eq!(tx.policies_with_trigger(Some(Trigger::Inventory)).await?.len(), 0);
                assert_eq!(tx.policies_with_trigger(None).await?.len(), 1);
                assert_eq!(tx.package(&clam.name).await?.unwrap(), clam);
                assert_eq!(tx.version(&clam.name, &old.version).await?.unwrap(), old);
                assert_eq!(tx.newest_version(&clam.name).await?.unwrap(), new);
                assert_eq!(tx.versions_by_uid(&[old.uid.clone(), uid(77)]).await?, std::slice::from_ref(&old));
                assert_eq!(tx.list_versions(&clam.uid, &page(None, 9)).await?, [new.clone(), old.clone()]);
                assert_eq!(tx.list_versions(&clam.uid, &page(Some(format!("10/{}", new.uid)), 9)).await?, std::slice::from_ref(&old));
                assert_eq!(tx.count_versions(&clam.uid).await?, 2);
                assert_eq!(tx.live_manifests().await?.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([old.manifest, new.manifest]));
                let job = tx.job(&order.id).await?.unwrap();
                assert_eq!(job, Job { change: job.change, ..order.clone() });
                assert_eq!(tx.job_packages(&order.id, 1).await?, packages);
                assert_eq!(tx.job_packages(&order.id, 2).await?, packages[1..]);
                assert_eq!(tx.job_targets(&order.id).await?.into_iter().collect::<BTreeSet<_>>(), targets.iter().cloned().collect());
                assert_eq!(tx.jobs_with_target(&targets[0], &[JobState::Active, JobState::Paused]).await?, std::slice::from_ref(&job));
                assert_eq!(tx.jobs_with_target(&targets[0], &[JobState::Paused]).await?, []);
                assert_eq!(tx.jobs_following(&clam.name).await?, std::slice::from_ref(&job));
                assert_eq!(tx.jobs_following(&"other".parse().unwrap()).await?, []);
                assert_eq!(tx.jobs_expired(at(998), &[JobState::Active], 9).await?, []);
                assert_eq!(tx.jobs_expired(at(999), &[JobState::Active, JobState::Draft], 9).await?, std::slice::from_ref(&job));
                assert_eq!(tx.jobs_in(&page(None, 9), JobState::Active).await?, [job]);
                assert_eq!(tx.site().await?.unwrap(), Site { id: uid(0), addresses: vec!["c:3".into()] });
                let read = tx.operator(&operator.name).await?.unwrap();
                assert!(read.change > 0);
                assert_eq!(Operator { change: 0, ..read }, operator);
                assert_eq!(tx.request("eve", "r1").await?.unwrap(), (Digest::of(b"body"), Answer::Done(b"answer".to_vec())));
                assert_eq!(tx.request("eve", "r2").await?, None);
                assert_eq!(tx.setting("k").await?.unwrap(), [0, 1]);
                let audit = tx.list_audit(&page(None, 9), None).await?;
                assert_eq!(audit.iter().map(|a| a.entry.object.as_str()).collect::<Vec<_>>(), ["groups/two", "groups/one"]);
                assert!(audit[0].entry.sequence > audit[1].entry.sequence);
                assert_eq!(tx.list_audit(&page(None, 9), Some("groups/one")).await?, audit[1..]);
                assert_eq!(tx.list_audit(&page(Some(audit[0].entry.sequence.to_string()), 9), None).await?, audit[1..]);
                Ok(())
            }
        ),
    )
    .await;
    write(
        &db.store,
        unit!(
            [one, order, targets, tokens] | tx | {
                assert_eq!(tx.drop_requests(at(4)).await?, 0);
                assert_eq!(tx.drop_requests(at(5)).await?, 1);
                tx.set_certificate_state("0aff", CertificateState::Superseded).await?;
                assert_eq!(tx.certificate("0aff").await?.unwrap().state, CertificateState::Superseded);
                // Whatever else the subject has ends with one that comes into use; what was issued after that one does not.
                let subject = Subject::Client(one.id.clone());
                let issued = |serial: &str, second: i64| Certificate {
                    serial: serial.into(),
                    subject: subject.clone(),
                    key: [3; 32],
                    public_key: vec![3],
                    issued: at(second),
                    not_after: at(1000),
                    state: CertificateState::Issued,
                };
                for (serial, second) in [("c1", 101), ("c2", 102), ("c3", 103)] {
                    tx.insert_certificate(&issued(serial, second)).await?;
                }
                assert_eq!(tx.certificates_since(&subject, at(100), 9).await?, Some((3, at(101))));
                assert_eq!(tx.certificates_since(&subject, at(101), 9).await?, Some((2, at(102))));
                assert_eq!(tx.certificates_since(&subject, at(100), 2).await?, Some((2, at(101))));
                assert_eq!(tx.certificates_since(&subject, at(103), 9).await?, None);
                tx.end_others(&issued("c2", 102), CertificateState::Superseded).await?;
                for (serial, state) in [
                    ("c1", CertificateState::Superseded),
                    ("c2", CertificateState::Issued),
                    ("c3", CertificateState::Issued),
                    ("0b", CertificateState::Issued),
                ] {
                    assert_eq!(tx.certificate(serial).await?.unwrap().state, state, "{serial}");
                }
                tx.end_others(&issued("c2", 102), CertificateState::Revoked).await?;
                for (serial, state) in
                    [("c1", CertificateState::Revoked), ("c2", CertificateState::Issued), ("c3", CertificateState::Revoked)]
                {
                    assert_eq!(tx.certificate(serial).await?.unwrap().state, state, "{serial}");
                }
                assert_eq!(tx.certificates_since(&subject, at(100), 9).await?, Some((1, at(102))));
                tx.revoke_certificates(&subject).await?;
                assert_eq!(tx.certificate("0aff").await?.unwrap().state, CertificateState::Revoked);
                assert_eq!(tx.certificate("0b").await?.unwrap().state, CertificateState::Issued);
                tx.revoke_token(&tokens[0].id, at(9)).await?;
                tx.revoke_token(&tokens[0].id, at(10)).await?;
                assert_eq!(tx.token(&tokens[0].id).await?.unwrap().revoked, Some(at(9)));
                assert_eq!(tx.drop_target(&targets[0]).await?, std::slice::from_ref(&order.id));
                assert_eq!(tx.job_targets(&order.id).await?, targets[1..]);
                tx.save_job(&Job { archived: true, ended: Some(at(5)), state: JobState::Completed, ..order.clone() }).await?;
                assert!(tx.list_jobs(&page(None, 9), false).await?.is_empty());
                assert_eq!(tx.list_jobs(&page(None, 9), true).await?[0].ended, Some(at(5)));
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
}

pub(crate) async fn a_name_is_free_after_a_deletion_and_a_uid_never(db: Database) {
    let clam = package(1, "clamav");
    write(
        &db.store,
        unit!(
            [clam] | tx | {
                tx.insert_group(&group(10, "one")).await?;
                tx.insert_policy(&policy(20, "rule", &uid(10), "")).await?;
                tx.insert_package(&clam).await?;
                tx.insert_version(&version(2, &clam, "1", 1)).await?;
                for taken in [tx.insert_group(&group(11, "one")).await, tx.insert_package(&package(3, "clamav")).await] {
                    assert!(matches!(taken, Err(StoreError::Exists(_))), "{taken:?}");
                }
                assert!(matches!(tx.insert_version(&version(4, &clam, "1", 5)).await, Err(StoreError::Exists("version"))));
                tx.delete_policy(&uid(20), at(50)).await?;
                tx.delete_group(&uid(10), at(50)).await?;
                tx.delete_version(&uid(2), at(50)).await?;
                assert!(tx.newest_version(&clam.name).await?.is_none() && tx.count_versions(&clam.uid).await? == 0);
                // The names are free …
                tx.insert_version(&version(5, &clam, "1", 1)).await?;
                tx.delete_package(&clam.uid, at(50)).await?;
                tx.insert_package(&package(6, "clamav")).await?;
                tx.insert_group(&group(12, "one")).await?;
                tx.insert_policy(&policy(21, "rule", &uid(12), "")).await?;
                assert!(tx.versions_by_uid(&[uid(5)]).await?.is_empty() && tx.live_manifests().await?.is_empty());
                assert!(tx.groups_by_uid(&[uid(10)]).await?.is_empty());
                // … and the uids are not.
                assert!(matches!(tx.insert_group(&group(10, "two")).await, Err(StoreError::Exists(_))));
                assert!(matches!(tx.insert_policy(&policy(20, "two", &uid(12), "x")).await, Err(StoreError::Exists(_))));
                assert!(matches!(tx.insert_package(&package(1, "two")).await, Err(StoreError::Exists(_))));
                assert!(matches!(tx.insert_version(&version(2, &package(6, "clamav"), "2", 2)).await, Err(StoreError::Exists(_))));
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
    // A version of a package that was deleted has nowhere to go.
    let refused = write(&db.store, unit!([clam] | tx | { tx.insert_version(&version(30, &clam, "3", 3)).await })).await;
    assert!(matches!(refused, Err(StoreError::Statement(_))), "{refused:?}");
}

pub(crate) async fn the_same_rule_twice_is_refused(db: Database) {
    write(
        &db.store,
        unit!(
            [] | tx | {
                tx.insert_group(&group(1, "one")).await?;
                tx.insert_policy(&policy(2, "a", &uid(1), "x")).await?;
                assert!(matches!(tx.insert_policy(&policy(3, "b", &uid(1), "x")).await, Err(StoreError::Exists(_))));
                tx.insert_policy(&Policy { trigger: Trigger::Inventory, ..policy(4, "b", &uid(1), "x") }).await?;
                tx.delete_policy(&uid(2), at(5)).await?;
                tx.insert_policy(&policy(5, "c", &uid(1), "x")).await
            }
        ),
    )
    .await
    .unwrap();
}

pub(crate) async fn pages_are_complete_and_in_order_under_concurrent_inserts(db: Database) {
    add_clients(&db.store, 0..60).await;
    write(
        &db.store,
        unit!(
            [] | tx | {
                tx.insert_group(&group(1, "one")).await?;
                let all: Vec<_> = (0..60).map(|n| membership(&uid(1), n)).collect();
                tx.insert_memberships(&all).await
            }
        ),
    )
    .await
    .unwrap();
    let store = db.store.clone();
    let busy = tokio::spawn(async move { add_clients(&store, 1000..1300).await });
    for round in 0..3 {
        let (mut seen, mut members) = (Vec::new(), Vec::new());
        let mut after = None;
        loop {
            let clients = read(&db.store, unit!([after] | tx | { tx.list_clients(&page(after, 7), Besides::default(), None).await })).await;
            let Some(last) = clients.last() else { break };
            after = Some(last.id.to_string());
            seen.extend(clients.into_iter().map(|c| c.id));
        }
        let mut after = None;
        loop {
            let clients =
                read(&db.store, unit!([after] | tx | { tx.list_clients(&page(after, 7), Besides::default(), Some(&uid(1))).await })).await;
            let again = read(&db.store, unit!([after] | tx | { tx.list_members(&uid(1), &page(after, 7)).await })).await;
            assert!(clients.iter().map(|c| &c.id).eq(again.iter().map(|m| &m.client)));
            let Some(last) = clients.last() else { break };
            after = Some(last.id.to_string());
            members.extend(clients.into_iter().map(|c| c.id));
        }
        assert!(seen.is_sorted_by(|a, b| a < b), "round {round}");
        let expected: BTreeSet<_> = (0..60).map(client_id).collect();
        assert!(expected.iter().all(|id| seen.contains(id)), "round {round}");
        assert!(members.iter().eq(&expected), "round {round}");
    }
    busy.await.unwrap();
}

pub(crate) async fn lists_are_in_the_order_that_they_say(db: Database) {
    // A dictionary sorts these differently.
    let names = ["0", "a", "a-b", "a-c", "a0", "ab", "b", "b-a"];
    write(
        &db.store,
        unit!(
            [names] | tx | {
                for (n, name) in names.iter().rev().enumerate() {
                    tx.insert_group(&group(n as u64, name)).await?;
                    tx.insert_package(&package(50 + n as u64, name)).await?;
                }
                for (n, name) in ["a.b", "a+b"].into_iter().enumerate() {
                    tx.insert_package(&package(70 + n as u64, name)).await?;
                }
                for n in 0..5 {
                    tx.insert_job(&Job { created: at(1000), ..job(n) }, &[], &[]).await?;
                    tx.insert_job(&Job { created: at(2000 - n as i64), ..job(10 + n) }, &[], &[]).await?;
                }
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
    let groups = read(&db.store, unit!([] | tx | { tx.list_groups(&page(Some("a".into()), 3)).await })).await;
    assert_eq!(groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["a-b", "a-c", "a0"]);
    let packages = read(&db.store, unit!([] | tx | { tx.list_packages(&page(None, 99)).await })).await;
    let expected = ["0", "a", "a+b", "a-b", "a-c", "a.b", "a0", "ab", "b", "b-a"];
    assert_eq!(packages.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), expected);
    let (mut after, mut jobs) = (None, Vec::new());
    loop {
        let some = read(&db.store, unit!([after] | tx | { tx.list_jobs(&page(after, 3), false).await })).await;
        let Some(last) = some.last() else { break };
        after = Some(format!("{}/{}", last.created.as_millisecond(), last.id));
        jobs.extend(some);
    }
    assert_eq!(jobs.len(), 10);
    assert!(jobs.is_sorted_by(|a, b| (a.created, &a.id) > (b.created, &b.id)));
    let bad = db.store.read("test", unit!([] | tx | { tx.list_jobs(&page(Some("nonsense".into()), 3), false).await })).await;
    assert!(matches!(bad, Err(StoreError::NoPage)), "{bad:?}");
}

pub(crate) async fn a_group_knows_how_many_members_it_has(db: Database) {
    add_clients(&db.store, 0..20).await;
    write(&db.store, unit!([] | tx | { tx.insert_group(&group(1, "one")).await })).await.unwrap();
    let mut tasks = Vec::new();
    for task in 0..8u64 {
        let store = db.store.clone();
        tasks.push(tokio::spawn(async move {
            let add = unit!(
                [] | tx | {
                    let some: Vec<_> = (task..task + 10).chain(task..task + 3).map(|n| membership(&uid(1), n)).collect();
                    tx.insert_memberships(&some).await
                }
            );
            let added = write(&store, add).await.unwrap();
            let remove = unit!([] | tx | { tx.delete_memberships(&uid(1), &[client_id(task), client_id(task + 1), client_id(99)]).await });
            let removed = write(&store, remove).await.unwrap();
            added.len() as i64 - removed.len() as i64
        }));
    }
    let mut expected = 0;
    for task in tasks {
        expected += task.await.unwrap();
    }
    let (group_now, members) = read(
        &db.store,
        unit!([] | tx | { Ok((tx.group(&"one".parse().unwrap()).await?.unwrap(), tx.list_members(&uid(1), &page(None, 99)).await?)) }),
    )
    .await;
    assert_eq!((group_now.members, members.len() as i64), (expected, expected));
    write(
        &db.store,
        unit!(
            [] | tx | {
                tx.hold_out(&uid(1), &[client_id(1), client_id(2), client_id(2)], "eve", at(1)).await?;
                tx.hold_out(&uid(1), &[client_id(1)], "eve", at(1)).await?;
                let mut held = [client_id(1), client_id(2)];
                held.sort();
                assert_eq!(tx.held_out(&uid(1), &[client_id(1), client_id(2), client_id(3)]).await?, held);
                assert_eq!(tx.release_hold(&uid(1), &[client_id(1), client_id(3)]).await?, 1);
                tx.delete_group(&uid(1), at(9)).await?;
                assert_eq!(tx.held_out(&uid(1), &[client_id(2)]).await?, []);
                assert_eq!(tx.list_members(&uid(1), &page(None, 99)).await?, []);
                // A group that is gone gets no members.
                assert_eq!(tx.insert_memberships(&[membership(&uid(1), 5)]).await?, []);
                assert_eq!(tx.memberships_of(&client_id(5)).await?, []);
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
}

pub(crate) async fn a_client_is_found_by_its_labels_of_now(db: Database) {
    let mut one = client(1);
    one.labels = BTreeMap::from([("room".parse().unwrap(), "1".to_owned()), ("kind".parse().unwrap(), "pc".to_owned())]);
    write(&db.store, unit!([one] | tx | { tx.insert_client(&one).await })).await.unwrap();
    let by = async |key: &str, value: &str| read(&db.store, unit!([key, value] | tx | { tx.clients_by_label(&key, &value).await })).await;
    assert_eq!(by("room", "1").await, std::slice::from_ref(&one.id));
    one.labels.insert("room".parse().unwrap(), "2".into());
    write(&db.store, unit!([one] | tx | { tx.save_client(&one).await })).await.unwrap();
    assert_eq!(by("room", "1").await, []);
    assert_eq!(by("room", "2").await, std::slice::from_ref(&one.id));
    assert_eq!(by("kind", "pc").await, std::slice::from_ref(&one.id));
    let machine = |n: u64| {
        let store = db.store.clone();
        async move { read(&store, unit!([] | tx | { tx.client_by_machine("machine-1", &client_id(n)).await })).await }
    };
    assert_eq!((machine(2).await, machine(1).await), (Some(one.id.clone()), None));
    assert_eq!(read(&db.store, unit!([] | tx | { tx.clients_by_hostname("host-1").await })).await, std::slice::from_ref(&one.id));
    one.state = ClientState::Removed;
    write(&db.store, unit!([one] | tx | { tx.save_client(&one).await })).await.unwrap();
    assert_eq!(by("room", "2").await, []);
    assert_eq!(machine(2).await, None);
    let (listed, removed, changed) = read(
        &db.store,
        unit!(
            [] | tx | {
                let listed = tx.list_clients(&page(None, 9), Besides::default(), None).await?.len();
                let removed = tx.list_clients_in(&page(None, 9), ClientState::Removed).await?.len();
                let changed = tx.clients_changed_since(2, 9).await?;
                Ok((listed, removed, changed))
            }
        ),
    )
    .await;
    assert_eq!((listed, removed), (0, 1));
    assert_eq!(changed, [(one.id, ClientState::Removed, 3)]);
}

pub(crate) async fn the_last_contact_never_goes_back(db: Database) {
    add_clients(&db.store, 0..2).await;
    write(
        &db.store,
        unit!(
            [] | tx | {
                let seen = [(client_id(0), at(500)), (client_id(0), at(400)), (client_id(77), at(5)), (client_id(1), at(1))];
                tx.touch_clients(&seen).await?;
                tx.touch_clients(&[(client_id(0), at(450))]).await
            }
        ),
    )
    .await
    .unwrap();
    let clients = read(&db.store, unit!([] | tx | { Ok([tx.client(&client_id(0)).await?, tx.client(&client_id(1)).await?]) })).await;
    assert_eq!(clients.map(|c| c.unwrap().last_seen), [at(500), at(11)]);
}

fn dependency(package: &str, versions: &str) -> Dependency {
    Dependency { package: package.parse().unwrap(), versions: versions.parse().unwrap() }
}

pub(crate) async fn versions_are_found_by_what_they_depend_on_and_take_the_place_of(db: Database) {
    let (lib, app) = (package(1, "lib"), package(2, "app"));
    let on = |version: PackageVersion, packages: &[&str]| {
        let depends_on = packages.iter().map(|package| dependency(package, "any")).collect();
        PackageVersion { terms: Terms { depends_on, ..Terms::default() }, ..version }
    };
    let versions = [
        version(3, &lib, "1", 1),
        version(4, &lib, "2", 2),
        on(version(5, &app, "1", 1), &["lib", "other"]),
        on(version(6, &app, "2", 2), &["other", "lib"]),
        PackageVersion {
            terms: Terms {
                supersedes: vec![Supersedes { package: "lib".parse().unwrap(), versions: Range::any(), uninstall: true }],
                ..Terms::default()
            },
            ..version(7, &app, "3", 3)
        },
    ];
    write(
        &db.store,
        unit!(
            [lib, app, versions] | tx | {
                tx.insert_package(&lib).await?;
                tx.insert_package(&app).await?;
                for version in &versions {
                    tx.insert_version(version).await?;
                }
                tx.set_withdrawn(&uid(4), Some(&(at(1), String::new()))).await
            }
        ),
    )
    .await
    .unwrap();
    let names = |versions: &[PackageVersion]| versions.iter().map(|v| format!("{}@{}", v.name, v.version)).collect::<Vec<_>>();
    let found = |how: Related, to: &'static [&'static str], page: Page| {
        let to: Vec<PackageName> = to.iter().map(|name| name.parse().unwrap()).collect();
        read(&db.store, unit!([to, page] | tx | { tx.versions_related(how, &to, &page).await }))
    };
    assert_eq!(names(&found(Related::DependsOn, &["lib", "other"], page(None, 9)).await), ["app@1", "app@2"], "each once");
    assert_eq!(names(&found(Related::DependsOn, &["lib"], page(Some(uid(5).to_string()), 9)).await), ["app@2"]);
    assert_eq!(names(&found(Related::DependsOn, &["app"], page(None, 9)).await), Vec::<String>::new());
    assert_eq!(names(&found(Related::Supersedes, &["lib"], page(None, 9)).await), ["app@3"]);
    let packages = read(&db.store, unit!([] | tx | { tx.packages_related(Related::DependsOn, &["lib".parse().unwrap()], 9).await })).await;
    assert_eq!(packages, ["app".parse().unwrap()], "each once");
    let of = |limit: u32| {
        let lib = lib.name.clone();
        read(&db.store, unit!([lib] | tx | { tx.versions_of(&lib, limit).await }))
    };
    assert_eq!(names(&of(9).await), ["lib@2", "lib@1"], "a withdrawn one, too");
    assert_eq!(names(&of(1).await), ["lib@2"]);
    write(&db.store, unit!([] | tx | { tx.delete_version(&uid(5), at(9)).await })).await.unwrap();
    assert_eq!(names(&found(Related::DependsOn, &["lib"], page(None, 9)).await), ["app@2"], "one that is gone depends on nothing");
}

pub(crate) async fn a_version_in_use_is_found(db: Database) {
    let clam = package(1, "clamav");
    let used = JobPackage {
        package: clam.name.clone(),
        version: Some(uid(2)),
        version_text: "1".into(),
        follow: false,
        replace_always: false,
        intent: Intent::Install,
        values: Default::default(),
        needed: vec![],
    };
    add_clients(&db.store, 0..1).await;
    write(
        &db.store,
        unit!(
            [clam, used] | tx | {
                tx.insert_package(&clam).await?;
                tx.insert_version(&version(2, &clam, "1", 1)).await?;
                tx.insert_version(&version(3, &clam, "2", 2)).await?;
                let one = Job { state: JobState::Completed, archived: true, ..job(1) };
                tx.insert_job(&one, &[used], &[]).await?;
                let by_name = Some(&clam.name);
                assert_eq!(tx.job_referring_to(&[uid(2), uid(3)], by_name).await?, None, "it is archived and nothing is open");
                tx.insert_executions(&one.id, &[client_id(0)], at(1)).await?;
                assert_eq!(tx.job_referring_to(&[uid(2)], None).await?, Some(one.id.clone()), "an execution is open");
                assert_eq!(tx.job_referring_to(&[uid(3)], None).await?, None);
                assert_eq!(tx.job_referring_to(&[uid(3)], by_name).await?, Some(one.id));
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
}

pub(crate) async fn an_operators_name_is_never_free_again(db: Database) {
    let operator = |name: &str| Operator {
        name: name.parse().unwrap(),
        created: at(1),
        creator: "operators/ann".into(),
        revoked: None,
        grants: vec![],
        voice: Voice::default(),
        change: 0,
    };
    let (ann, bea) = (operator("ann"), operator("bea"));
    write(
        &db.store,
        unit!(
            [ann, bea] | tx | {
                tx.insert_operator(&bea).await?;
                tx.insert_operator(&ann).await?;
                // A scope whose groups are gone is still one.
                let emptied = vec![Grant { role: Role::Admin, groups: Some([].into()) }];
                tx.set_grants(&bea.name, &emptied).await?;
                let voice = Voice { given: Some(at(5)), since: Some(at(6)), until: None };
                tx.set_voice(&bea.name, &voice).await?;
                assert_eq!(tx.operator(&bea.name).await?.unwrap().voice, voice);
                let first = tx.operator(&bea.name).await?.unwrap();
                assert_eq!(first.grants, emptied);
                let names = |rows: Vec<Operator>| rows.into_iter().map(|o| o.name.to_string()).collect::<Vec<_>>();
                assert_eq!(names(tx.lock_operators().await?), ["ann", "bea"]);
                tx.revoke_operator(&bea.name, at(9)).await?;
                assert_eq!(tx.operator(&bea.name).await?.unwrap().revoked, Some(at(9)));
                assert_eq!(names(tx.lock_operators().await?), ["ann"]);
                assert_eq!(names(tx.list_operators(&page(None, 1)).await?), ["ann"]);
                assert_eq!(names(tx.list_operators(&page(Some("ann".into()), 9)).await?), ["bea"]);
                assert!(matches!(tx.insert_operator(&bea).await, Err(StoreError::Exists(_))));
                Ok::<_, StoreError>(())
            }
        ),
    )
    .await
    .unwrap();
}

pub(crate) async fn what_publishers_signed_reads_back_in_its_order_and_never_changes(db: Database) {
    let read_all = unit!(
        [] | tx | {
            let documents = (tx.trust_documents(0, 9).await?, tx.trust_documents(1, 1).await?, tx.trust_documents(3, 9).await?);
            Ok::<_, StoreError>((documents, tx.newest_trust_document().await?, tx.newest_revocations().await?))
        }
    );
    let nothing = read(&db.store, read_all).await;
    assert_eq!(nothing, ((vec![], vec![], vec![]), None, None));
    write(
        &db.store,
        unit!(
            [] | tx | {
                for version in [2u64, 1, 3] {
                    tx.insert_trust_document(version, &[version as u8], at(1), "eve").await?;
                }
                for (epoch, version) in [(2u64, 1u64), (1, 9), (1, 10)] {
                    tx.insert_revocations(epoch, version, &[epoch as u8, version as u8], at(1), "eve").await?;
                }
                Ok::<_, StoreError>(())
            }
        ),
    )
    .await
    .unwrap();
    // Another document of the same version is refused, and the first one stays.
    let again = write(&db.store, unit!([] | tx | { tx.insert_trust_document(3, b"x", at(2), "eve").await })).await;
    assert!(matches!(again, Err(StoreError::Exists(_))), "{again:?}");
    let again = write(&db.store, unit!([] | tx | { tx.insert_revocations(2, 1, b"x", at(2), "eve").await })).await;
    assert!(matches!(again, Err(StoreError::Exists(_))), "{again:?}");
    let (documents, newest, list) = read(&db.store, read_all).await;
    assert_eq!(documents, (vec![vec![1], vec![2], vec![3]], vec![vec![2]], vec![]));
    assert_eq!((newest, list), (Some(vec![3]), Some(vec![2, 1])));
}

pub(crate) async fn titles_are_counted_by_what_changed_and_what_is_not_true_changes_nothing(db: Database) {
    use sutler_base::facts::Package;
    use sutler_store::Titles;
    let package = |key: &str| Package::parse(key).unwrap();
    let (bash, zsh, old) = (package("dpkg bash 5.2 amd64"), package("rpm zsh 5.9 x86_64"), package("dpkg bash 5.1 amd64"));
    let installed = {
        let [bash, zsh, old] = [bash.clone(), zsh.clone(), old.clone()];
        unit!(
            [bash, zsh, old] | tx | {
                let (first, second) = (client(1), client(2));
                tx.insert_client(&first).await?;
                tx.insert_client(&second).await?;
                let change = |client: &Client, gone: &[&Package], come: &[&Package]| {
                    let [gone, come] = [gone, come].map(|packages| packages.iter().map(|package| (*package).clone()).collect());
                    SoftwareChange { client: client.id.clone(), gone, come }
                };
                tx.change_software(&[change(&first, &[], &[&old, &zsh]), change(&second, &[&zsh], &[&old, &old])]).await?;
                // Once more the same, and something that is not there.
                tx.change_software(&[change(&first, &[&bash], &[&zsh])]).await?;
                tx.change_software(&[change(&first, &[&old], &[&bash])]).await
            }
        )
    };
    write(&db.store, installed).await.unwrap();
    let titles = |name: &str, is_prefix: bool, manager: &str| Titles { name: name.into(), is_prefix, manager: manager.into() };
    let all = read(&db.store, unit!([] | tx | { tx.list_titles(&page(None, 9), &Titles::default()).await })).await;
    let (first, id_of_first) = (all[0].id.to_string(), all[0].id);
    for (wanted, after, expected) in [
        (titles("", false, ""), Some(first.as_str()), vec![(&bash, 1), (&zsh, 1)]),
        (titles("", false, ""), None, vec![(&old, 1), (&bash, 1), (&zsh, 1)]),
        (titles("ba", true, ""), None, vec![(&old, 1), (&bash, 1)]),
        (titles("ba", false, ""), None, vec![]),
        (titles("bash", false, "dpkg"), None, vec![(&old, 1), (&bash, 1)]),
        (titles("", false, "rpm"), None, vec![(&zsh, 1)]),
    ] {
        let page = page(after.map(str::to_owned), 9);
        let found = read(&db.store, unit!([page, wanted] | tx | { tx.list_titles(&page, &wanted).await })).await;
        let found: Vec<_> = found.iter().map(|t| (&t.package, t.clients)).collect();
        assert_eq!(found, expected, "{wanted:?}");
    }
    let having = read(&db.store, unit!([id_of_first] | tx | { tx.clients_with(id_of_first, &page(None, 9), None).await })).await;
    assert_eq!(having, [(client_id(2), "host-2".to_owned())]);
    let of_one = read(&db.store, unit!([] | tx | { tx.software_of(&[client_id(1)]).await })).await;
    let of_one: BTreeSet<_> = of_one.into_iter().map(|(_, package)| package).collect();
    assert_eq!(of_one, [bash, zsh].into());
    let (all, gone) = (of_one.into_iter().collect::<Vec<_>>(), old);
    let left = unit!(
        [all, gone] | tx | {
            let of_first = SoftwareChange { client: client_id(1), gone: all, come: vec![] };
            tx.change_software(&[of_first, SoftwareChange { client: client_id(2), gone: vec![gone], come: vec![] }]).await?;
            let listed = tx.list_titles(&page(None, 9), &Titles::default()).await?.len();
            Ok((listed, tx.drop_titles().await?))
        }
    );
    assert_eq!(write(&db.store, left).await.unwrap(), (0, 3));
}
