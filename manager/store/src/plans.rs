//! Every statement is a walk along an index: the plans that SQLite makes for all that a unit can ask.

use crate::*;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use std::{collections::BTreeSet, sync::Mutex};
use sutler_base::{
    AttemptId, ClientId, Digest, JobId, Timestamp, TokenId, Uid,
    state::{ClientState, EventKind, ExecutionState, HoldReason, JobState, Trigger},
};
use sutler_core::model::{Certificate, CertificateState, LogPart, Site, Subject, Target};
use sutler_core::{
    brake::{breaker::Scope, budget::Purse},
    event::{Event, EventFilter},
    hook::Hook,
};

static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Remembers a statement that is about to be run.
pub(crate) fn note(sql: &str) {
    SEEN.lock().unwrap().insert(sql.to_owned());
}

/// What may be read whole or sorted, and why that stays small.
const ALLOWED: &[(&str, &str)] = &[
    // The parameters themselves, and rows that a query made of a few.
    ("SCAN v VIRTUAL TABLE", ""),
    ("SCAN json_each VIRTUAL TABLE", ""),
    ("SCAN CONSTANT ROW", ""),
    ("SCAN site USING INDEX site_self", ""),
    // Rows with the same time or the same number.
    ("USE TEMP B-TREE FOR LAST TERM OF ORDER BY", ""),
    // A dozen counters of each job.
    ("USE TEMP B-TREE FOR GROUP BY", "job_counter"),
    // One row per policy: all of them are wanted.
    ("SCAN policy", "trigger"),
    ("USE TEMP B-TREE FOR ORDER BY", "FROM policy WHERE name > $1 AND group_uid = $3"),
    ("SCAN policy USING INDEX policy_name", ""),
    // A few CAs, and a few machines of clients that were copied.
    ("SCAN issuing_ca", ""),
    ("USE TEMP B-TREE FOR ORDER BY", "shared_key"),
    // One row per version: all of them are wanted.
    ("SCAN package_version", "SELECT DISTINCT manifest"),
    ("USE TEMP B-TREE FOR DISTINCT", "SELECT DISTINCT manifest"),
    // The first that is due, of the few that are not made.
    ("SCAN delta USING INDEX delta_unmade", "LIMIT 1"),
    // A hundred per package at the most: all of them are wanted.
    ("SCAN d USING INDEX delta_digest", "SELECT d.digest FROM delta d"),
    ("SCAN delta", "DELETE FROM delta WHERE NOT EXISTS"),
    // The versions that name a few packages.
    ("USE TEMP B-TREE FOR DISTINCT", "FROM package_relation r"),
    ("USE TEMP B-TREE FOR ORDER BY", "FROM package_relation r"),
    // Those that a person has to close: all of them are wanted.
    ("SCAN breaker USING INDEX breaker_open", ""),
    // A hundred at the most: all of them are wanted.
    ("SCAN stop", "FROM stop ORDER BY"),
    // The few limits and suspensions that operators make: all of them are wanted.
    ("SCAN transfer_limit USING INDEX", ""),
    ("SCAN transfer_suspension USING INDEX", ""),
    // Titles that no client has any more: all of them go.
    ("SCAN software USING COVERING INDEX software_unused", ""),
    // The few people who administer: one decides by all of them.
    ("SCAN operator USING INDEX", "revoked_ms IS NULL"),
    // What waits for a few clients, and the rows of one client.
    ("USE TEMP B-TREE FOR LAST 3 TERMS OF ORDER BY", "j.priority"),
    ("USE TEMP B-TREE FOR ORDER BY", "FROM execution e JOIN job j"),
    ("USE TEMP B-TREE FOR ORDER BY", "FROM execution e WHERE e.client = $1"),
    // Of those that wait for a retry the newest: they are few.
    ("USE TEMP B-TREE FOR ORDER BY", "e.hold = 'RETRY'"),
    // The first row of an index, and the one row of a total.
    ("SCAN attempt_log USING", "ORDER BY attempt LIMIT 1"),
    ("SCAN attempt_log_total", "WHERE self = 1"),
    ("SCAN event_dropped", "WHERE self = 1"),
    // The newest row at the end of its index.
    ("SCAN trust_document", "ORDER BY version DESC LIMIT 1"),
    ("SCAN revocation_list", "ORDER BY epoch DESC, version DESC LIMIT 1"),
    ("SCAN question USING COVERING INDEX question_change", "ORDER BY change DESC LIMIT 1"),
    // One row per alias, of which people make a few hundred: all of them are wanted.
    ("SCAN job_alias", "SELECT alias, job FROM job_alias ORDER BY alias"),
    ("SCAN maintenance_window USING COVERING INDEX maintenance_window_change", "ORDER BY change DESC LIMIT 1"),
    // The windows of a client's groups.
    ("USE TEMP B-TREE FOR ORDER BY", "FROM maintenance_window WHERE group_uid"),
    ("SCAN audit_segment", "ORDER BY number DESC LIMIT 1"),
    ("SCAN audit", "SELECT hash FROM audit ORDER BY sequence DESC LIMIT 1"),
    // The clients of one statement, in one order for all units.
    ("USE TEMP B-TREE FOR ORDER BY", "INSERT INTO execution"),
    // The few keys that were asked for.
    ("USE TEMP B-TREE FOR ORDER BY", "CROSS JOIN execution e"),
    // The jobs of one destination, of one package.
    ("USE TEMP B-TREE FOR ORDER BY", "job_target"),
    ("USE TEMP B-TREE FOR ORDER BY", "job_package"),
    ("USE TEMP B-TREE FOR ORDER BY", "job_exclusion"),
    ("USE TEMP B-TREE FOR ORDER BY", "job_matched"),
    ("USE TEMP B-TREE FOR ORDER BY", "clients_where"),
    // Of plans a hundred are kept.
    ("SCAN job_plan USING INDEX", "SELECT id, expires_ms, clients FROM job_plan"),
    // The few that are due.
    ("USE TEMP B-TREE FOR ORDER BY", "e.check_ms <= $2"),
    ("SCAN execution USING COVERING INDEX execution_check", "LIMIT 1"),
    // A number for each of a few stages, and the last of those that are silent.
    ("USE TEMP B-TREE FOR GROUP BY", "GROUP BY s.stage"),
    ("SCAN s", "GROUP BY s.stage"),
    ("USE TEMP B-TREE FOR ORDER BY", "ORDER BY s.quiet_ms DESC"),
    ("SCAN s", "ORDER BY s.quiet_ms DESC"),
];

#[tokio::test]
async fn every_statement_walks_along_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = Store::open(path.to_str().unwrap()).await.unwrap();
    // Errors do not matter here: a statement that is refused was seen all the same.
    let asked: Result<(), StoreError> = store
        .read(
            "test",
            unit!(
                [] | tx | {
                    let now = Timestamp::from_millisecond(1).unwrap();
                    let (client, job, uid) = (ClientId::from_random([1; 16]), JobId::from_random([1; 16]), Uid::new(now, [1; 16]));
                    let (page, token, attempt) =
                        (Page { after: None, limit: 5 }, TokenId::from_random([1; 16]), AttemptId::new(now, [1; 16]));
                    let (package, target) = ("a".parse().unwrap(), Target::Group(uid.clone()));
                    let subject = Subject::Client(client.clone());
                    tx.client(&client).await?;
                    tx.clients(&[]).await?;
                    tx.clients_in_brief(&[]).await?;
                    tx.list_clients(&page, Besides::default(), None).await?;
                    tx.list_clients(&page, Besides::default(), Some(&uid)).await?;
                    tx.silent_since(&page).await?;
                    tx.alike(&[]).await?;
                    tx.list_clients_in(&page, ClientState::Active).await?;
                    tx.clients_by_hostname("a").await?;
                    tx.clients_by_label("a", "b").await?;
                    tx.client_by_machine("a", &client).await?;
                    tx.clients_changed_since(1, 5).await?;
                    tx.software_of(&[]).await?;
                    tx.count_software(&[]).await?;
                    tx.list_titles(&page, &Titles::default()).await?;
                    tx.count_titles_in(&uid, &[]).await?;
                    tx.clients_with(1, &page, None).await?;
                    tx.title(1).await?;
                    tx.certificate("a").await?;
                    tx.certificates_of(&subject).await?;
                    tx.certificates_since(&subject, now, 5).await?;
                    tx.certificates(&[]).await?;
                    tx.machines_of(&[]).await?;
                    tx.issuing_cas().await?;
                    tx.token(&token).await?;
                    tx.list_tokens(&page).await?;
                    tx.token_use(&token, &[1; 32]).await?;
                    tx.group(&"a".parse().unwrap()).await?;
                    tx.groups_by_uid(&[]).await?;
                    tx.lock_groups(&[]).await?;
                    tx.list_groups(&page).await?;
                    tx.memberships_of(&client).await?;
                    tx.memberships_of_all(&[]).await?;
                    tx.list_members(&uid, &page).await?;
                    tx.held_out(&uid, &[]).await?;
                    tx.policy(&"a".parse().unwrap()).await?;
                    tx.list_policies(&page, None).await?;
                    tx.list_policies(&page, Some(&uid)).await?;
                    tx.policies_with_trigger(None).await?;
                    tx.policies_with_trigger(Some(Trigger::NewClient)).await?;
                    tx.question(&"a".parse().unwrap()).await?;
                    tx.list_questions(&page).await?;
                    tx.questions_revision().await?;
                    tx.window(&"a".parse().unwrap()).await?;
                    tx.list_windows(&page).await?;
                    tx.windows_of(&[]).await?;
                    tx.windows_revision().await?;
                    tx.terms_of(&[]).await?;
                    tx.long_leases(&[]).await?;
                    tx.stops().await?;
                    tx.jobs_offered(None, 5).await?;
                    tx.is_open_in(&job, &uid).await?;
                    tx.held(HoldReason::Stopped, None, 5).await?;
                    tx.next_held_job(HoldReason::Budget, None).await?;
                    tx.held_of(&job, HoldReason::Budget, 5).await?;
                    tx.installs(&job, 1).await?;
                    tx.breaker(&uid).await?;
                    tx.open_breakers().await?;
                    tx.retries(&[(job.clone(), client.clone())]).await?;
                    tx.retries_due(now, 5).await?;
                    tx.awaited(&job, std::slice::from_ref(&client)).await?;
                    tx.operator_budget(&"a".parse().unwrap()).await?;
                    tx.spent(&Purse::Job(job.clone()), 1).await?;
                    tx.transfer_limits().await?;
                    tx.suspensions().await?;
                    tx.clients_that_answered(&uid, &page).await?;
                    tx.job_by_alias(&"a".parse().unwrap()).await?;
                    tx.alias(&job).await?;
                    tx.aliases().await?;
                    tx.configured("group").await?;
                    tx.package(&package).await?;
                    tx.list_packages(&page).await?;
                    tx.version(&package, &"1".parse().unwrap()).await?;
                    tx.versions_by_uid(&[]).await?;
                    tx.newest_version(&package).await?;
                    tx.list_versions(&uid, &page).await?;
                    tx.versions_of(&package, 5).await?;
                    tx.packages_related(Related::Supersedes, &[], 5).await?;
                    tx.versions_related(Related::DependsOn, &[], &page).await?;
                    tx.count_versions(&uid).await?;
                    tx.job_referring_to(&[], Some(&package)).await?;
                    tx.version_of_manifest(&Digest::of(b"a")).await?;
                    tx.live_manifests().await?;
                    tx.delta(&Digest::of(b"a"), &Digest::of(b"b")).await?;
                    tx.deltas_to(&[Digest::of(b"b")]).await?;
                    tx.count_deltas(&uid).await?;
                    tx.delta_due(now).await?;
                    tx.live_deltas().await?;
                    tx.job(&job).await?;
                    tx.list_jobs(&page, true).await?;
                    tx.list_jobs(&page, false).await?;
                    tx.job_packages(&job, 1).await?;
                    tx.job_targets(&job).await?;
                    tx.jobs_with_target(&target, &[JobState::Active]).await?;
                    tx.exclusions(&job).await?;
                    tx.jobs_excluding(&target, &[JobState::Active]).await?;
                    tx.jobs_by_condition().await?;
                    tx.listed(&job, std::slice::from_ref(&client)).await?;
                    tx.picks(&job, &client).await?;
                    tx.jobs_listing(&client, &[JobState::Active]).await?;
                    tx.jobs_following(&package).await?;
                    tx.jobs_with_version(&uid).await?;
                    tx.jobs_expired(now, &[JobState::Active], 5).await?;
                    tx.jobs_in(&page, JobState::Active).await?;
                    tx.counts(&job).await?;
                    tx.canceling(&job).await?;
                    tx.execution(&job, &client).await?;
                    tx.executions(&[(job.clone(), client.clone())]).await?;
                    tx.list_executions(&job, &page, &[]).await?;
                    tx.list_executions(&job, &page, &[ExecutionState::Failed]).await?;
                    tx.executions_changed_since(&job, 1, 5).await?;
                    tx.executions_of(&client, 5).await?;
                    tx.open_executions_of(&client).await?;
                    tx.queued_for(&[], None, 5).await?;
                    let after = QueuedAfter { client: client.clone(), priority: 5, created: now, job: job.clone() };
                    tx.queued_for(std::slice::from_ref(&client), Some(&after), 5).await?;
                    tx.clients_with_queued(None, 5).await?;
                    tx.queued_clients_of(&job, None, 5).await?;
                    tx.clients_held(&job, HoldReason::User, None, 5).await?;
                    tx.cancels_overdue(now, 5).await?;
                    tx.rollout(&job).await?;
                    tx.rollouts_active(None, 5).await?;
                    tx.stopped_among(std::slice::from_ref(&job)).await?;
                    tx.stage_counts(&job, 1).await?;
                    tx.stage_waiting(&job, 1, None, 5).await?;
                    tx.offered(&job, None, 5).await?;
                    tx.silent(&job, now).await?;
                    tx.silent_last(&job, 1, now, 5).await?;
                    tx.silent_waiting(&job, now, None, 5).await?;
                    tx.failed_after(&job, 1).await?;
                    tx.newest_outcomes(&job, 1, 5).await?;
                    tx.held_by_stage(&job, &[], None, 5).await?;
                    tx.held_by_stage(&job, std::slice::from_ref(&uid), None, 5).await?;
                    tx.job_terms(&job).await?;
                    tx.drift_count(&job).await?;
                    tx.checks_wait().await?;
                    tx.checks_due(std::slice::from_ref(&client), now, 5).await?;
                    tx.attempt(&attempt).await?;
                    tx.attempts(&[]).await?;
                    tx.attempts_of(&job, &client).await?;
                    tx.logs_of(&[]).await?;
                    let part = LogPart { attempt: attempt.clone(), item: 0, path: "log".into(), part: 0, cut: 0, size: 1 };
                    tx.log_data(&part).await?;
                    tx.log_bytes().await?;
                    let (jobs, clients) = (format!("jobs/{job}"), format!("clients/{client}"));
                    for object in ["", &jobs, &clients] {
                        let filter = EventFilter { kinds: vec![EventKind::JobEnded], object: object.to_owned() };
                        tx.list_events(1, 9, &filter, 5).await?;
                        tx.events_after(1, &filter, 5).await?;
                    }
                    tx.first_event_since(now).await?;
                    tx.oldest_events(5).await?;
                    tx.event_before_newest(5).await?;
                    tx.events_dropped().await?;
                    tx.event_marks(&[]).await?;
                    tx.count_fleet().await?;
                    tx.approval(&uid).await?;
                    tx.list_approvals(&page, true).await?;
                    tx.list_approvals(&page, false).await?;
                    tx.approval_of(&job).await?;
                    tx.approval_like("a", "b", &[], None).await?;
                    tx.approvals_pending("a").await?;
                    tx.approval_request(&uid).await?;
                    tx.approvals_overdue(now, 5).await?;
                    tx.plan(&uid).await?;
                    tx.plan_clients(&uid, &page).await?;
                    tx.planned_among(&uid, std::slice::from_ref(&client)).await?;
                    tx.plans_kept().await?;
                    tx.hook("a").await?;
                    tx.site().await?;
                    tx.setting("a").await?;
                    tx.trust_documents(1, 5).await?;
                    tx.newest_trust_document().await?;
                    tx.newest_revocations().await?;
                    tx.operator(&"a".parse().unwrap()).await?;
                    tx.list_operators(&page).await?;
                    tx.lock_operators().await?;
                    tx.request("a", "b").await?;
                    tx.list_audit(&page, None).await?;
                    tx.audit_after(&page).await?;
                    tx.has_caught_up(&client).await?;
                    tx.list_audit_segments(&page).await?;
                    tx.last_audit_segment().await?;
                    tx.list_audit(&page, Some("a")).await?;
                    tx.last_change().await?;
                    tx.clock().await?;
                    Ok(())
                }
            ),
        )
        .await;
    asked.unwrap();
    let written: Result<(), StoreError> = store
        .write(
            "test",
            unit!(
                [] | tx | {
                    let now = Timestamp::from_millisecond(1).unwrap();
                    let (client, job, uid) = (ClientId::from_random([1; 16]), JobId::from_random([1; 16]), Uid::new(now, [1; 16]));
                    let target = Target::Group(uid.clone());
                    tx.touch_clients(&[(client.clone(), now)]).await?;
                    tx.revoke_certificates(&Subject::Client(client.clone())).await?;
                    let certificate = Certificate {
                        serial: "a".into(),
                        subject: Subject::Client(client.clone()),
                        key: [1; 32],
                        public_key: vec![],
                        issued: now,
                        not_after: now,
                        state: CertificateState::Active,
                    };
                    tx.end_others(&certificate, CertificateState::Superseded).await?;
                    tx.delete_machines(&client).await?;
                    tx.save_likeness(&[(client.clone(), vec!["a".into()])]).await?;
                    tx.drop_answers(&uid, &[]).await?;
                    let change = SoftwareChange { client: client.clone(), gone: vec![Default::default()], come: vec![Default::default()] };
                    tx.change_software(&[change]).await?;
                    tx.drop_titles().await?;
                    tx.hold_out(&uid, &[], "a", now).await?;
                    tx.release_hold(&uid, &[]).await?;
                    tx.delete_memberships(&uid, &[]).await?;
                    tx.put_job_packages(&job, 1, &[]).await?;
                    tx.drop_target(&target).await?;
                    tx.remove_target(&job, &target).await?;
                    tx.remove_exclusion(&job, &target).await?;
                    tx.set_checks(&[(job.clone(), client.clone(), Some(now))]).await?;
                    tx.insert_executions(&job, std::slice::from_ref(&client), now).await?;
                    tx.insert_executions_for_group(&job, &uid, now).await?;
                    tx.set_attempt_states(&[(AttemptId::new(now, [1; 16]), ExecutionState::Waiting)]).await?;
                    tx.choose(&job, &client).await?;
                    tx.release_to_stage(&job, std::slice::from_ref(&client), 1, now).await?;
                    tx.hold_by_stage(&job, std::slice::from_ref(&client), ExecutionState::Queued).await?;
                    tx.put_last(&job, std::slice::from_ref(&client)).await?;
                    tx.hold_queued(&job).await?;
                    tx.hold(&[(job.clone(), client.clone())], HoldReason::Stopped).await?;
                    tx.release(&[(job.clone(), client.clone())], HoldReason::Stopped, now).await?;
                    let breaker = tx.breaker_of(&uid, &Scope::Job(job.clone()), &uid).await?;
                    tx.save_breaker(&breaker).await?;
                    let key = [(job.clone(), client.clone())];
                    tx.put_retries(&Retried { job: job.clone(), client: client.clone(), used: 1, due: None }).await?;
                    tx.retries_done(&key, now).await?;
                    tx.forget_retries(&key).await?;
                    tx.put_awaited(&job, std::slice::from_ref(&client), now).await?;
                    tx.hold_awaited(&job, std::slice::from_ref(&client), now).await?;
                    tx.hold_all_awaited(&job, now).await?;
                    tx.resume_awaited(&job, std::slice::from_ref(&client), now).await?;
                    tx.forget_awaited(&key).await?;
                    tx.set_operator_budget(&"a".parse().unwrap(), Some(1)).await?;
                    tx.set_operator_budget(&"a".parse().unwrap(), None).await?;
                    tx.lock_purse(&Purse::Job(job.clone())).await?;
                    tx.spend(&Purse::Job(job.clone()), 5, 1, 1).await?;
                    tx.put_request("a", "e", &Digest::of(b"c"), &Answer::Waits(uid.clone()), now).await?;
                    tx.drop_oldest_deltas(&uid, 1).await?;
                    let delta = sutler_core::model::Delta::asked(Digest::of(b"a"), Digest::of(b"b"), uid.clone(), now);
                    tx.take_delta(&delta, now).await?;
                    tx.keep_delta(&delta, now, now).await?;
                    tx.note_delta(&delta.old, &delta.new, None, now).await?;
                    tx.forget_delta(&delta.old).await?;
                    tx.drop_deltas().await?;
                    tx.drop_approvals(now).await?;
                    tx.delete_plan(&uid).await?;
                    tx.put_site(&Site { id: uid.clone(), addresses: Vec::new() }).await?;
                    tx.drop_oldest_logs().await?;
                    tx.insert_event(&Event::new(EventKind::JobEnded, "a", "b")).await?;
                    tx.drop_events(1).await?;
                    tx.mark_event("a", "b").await?;
                    tx.unmark_event("a").await?;
                    tx.insert_hook(&Hook::new("a", 1)).await?;
                    tx.save_hook(&Hook::new("a", 2)).await?;
                    tx.put_request("a", "b", &Digest::of(b"c"), &Answer::Done(b"d".to_vec()), now).await?;
                    tx.drop_requests(now).await?;
                    let change = ExecutionChange {
                        job,
                        client,
                        from: ExecutionState::Queued,
                        to: ExecutionState::Offered,
                        reason: String::new(),
                        detail: String::new(),
                        entered: now,
                        attempt: None,
                        progress: None,
                        cancel: None,
                        purpose: None,
                    };
                    assert!(tx.change_executions(&[change]).await.is_err());
                    assert!(tx.set_certificate_state("a", CertificateState::Active).await.is_err());
                    Ok(())
                }
            ),
        )
        .await;
    assert!(written.is_err());
    store.close().await;
    let mut connection = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    let seen = SEEN.lock().unwrap().clone();
    assert!(seen.len() > 80, "{}", seen.len());
    let mut wrong = Vec::new();
    for sql in seen {
        for row in sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(&mut connection).await.unwrap() {
            let step: String = row.get("detail");
            let costly = step.starts_with("SCAN") || step.contains("TEMP B-TREE");
            if costly && !ALLOWED.iter().any(|(start, part)| step.starts_with(start) && sql.contains(part)) {
                wrong.push(format!("{step}\n    {sql}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
