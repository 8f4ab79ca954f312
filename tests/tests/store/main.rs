//! The conformance suite of the store: every promise, on SQLite and on PostgreSQL.
//!
//! A case is an async function that gets an empty database. PostgreSQL's cases are skipped, with a message, where it isn't
//! installed.

mod audit;
mod brakes;
mod clients;
mod configuration;
mod deltas;
mod events;
mod executions;
mod kept;
mod migrate;
mod planned;
mod rollouts;
mod rows;
mod speed;
mod transfers;
mod units;
mod windows;

use std::{collections::BTreeMap, future::Future};
use sutler_base::{
    AttemptId, ClientId, Digest, JobId, Timestamp, TokenId, Uid,
    state::{AppliesTo, ClientKind, ClientState, ExecutionState, JobState, JoinMode, OnMismatch, Purpose, Role, Source, Trigger},
};
use sutler_core::model::*;
use sutler_store::{Kind, Options, Store, StoreError, Tx, Work};
use sutler_tests::postgres::Postgres;

/// An empty database, open.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) store: Store,
    folder: tempfile::TempDir,
}

impl Database {
    async fn sqlite() -> Database {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("manager.db").display());
        Database { store: Store::open(&url).await.unwrap(), url, folder }
    }

    async fn postgres() -> Option<Database> {
        // Starting a server waits for it.
        let url = tokio::task::block_in_place(|| Postgres::shared().map(Postgres::create_database))?;
        let options = Options { connections: 6, ..Options::default() };
        Some(Database { store: Store::open_with(&url, &options).await.unwrap(), url, folder: tempfile::tempdir().unwrap() })
    }

    /// A folder that is gone with the database.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Runs one statement past the store.
    pub(crate) async fn sql(&self, sql: &'static str) {
        self.try_sql(sql).await.unwrap();
    }

    /// The same, which may be refused.
    pub(crate) async fn try_sql(&self, sql: &'static str) -> Result<(), sqlx::Error> {
        use sqlx::Connection as _;
        match self.store.kind() {
            Kind::Sqlite => {
                let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
                let done = sqlx::raw_sql(sql).execute(&mut connection).await;
                connection.close().await.unwrap();
                done.map(drop)
            }
            Kind::Postgres => {
                let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
                let done = sqlx::raw_sql(sql).execute(&mut connection).await;
                connection.close().await.unwrap();
                done.map(drop)
            }
        }
    }
}

fn run<F: Future<Output = ()>>(database: impl AsyncFnOnce() -> Option<Database>, case: impl FnOnce(Database) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let task = async {
            let Some(database) = database().await else { return };
            let store = database.store.clone();
            case(database).await;
            store.close().await;
        };
        task.await;
    });
}

macro_rules! cases {
    (both { $($in:ident::$name:ident,)+ } sqlite { $($one_in:ident::$one_name:ident,)* } postgres { $($other_in:ident::$other_name:ident,)* }) => {
        mod sqlite {
            $(#[test] fn $name() { super::run(async || Some(super::Database::sqlite().await), super::$in::$name) })+
            $(#[test] fn $one_name() { super::run(async || Some(super::Database::sqlite().await), super::$one_in::$one_name) })*
        }
        mod postgres {
            $(#[test] fn $name() { super::run(super::Database::postgres, super::$in::$name) })+
            $(#[test] fn $other_name() { super::run(super::Database::postgres, super::$other_in::$other_name) })*
        }
    };
}

cases! {
    both {
        audit::whatever_is_changed_in_the_audit_log_is_found,
        audit::a_unit_that_is_not_kept_leaves_no_gap_in_its_chain,
        audit::entries_go_only_with_their_sealed_segment,
        units::a_unit_that_fails_leaves_no_trace,
        units::a_unit_that_passes_over_a_failed_statement_is_not_kept,
        units::units_that_are_committed_together_fail_alone,
        units::a_name_that_is_taken_does_not_end_the_unit,
        units::what_is_read_for_update_is_not_lost_to_a_neighbour,
        units::a_write_through_a_read_unit_is_refused,
        units::a_read_unit_sees_one_state,
        units::a_closed_store_says_so,
        kept::a_committed_unit_survives_the_death_of_the_process,
        kept::a_newer_database_is_refused,
        brakes::what_is_stopped_reads_back_and_what_is_held_is_offered_to_nobody,
        brakes::breakers_retries_and_budgets_read_back,
        rollouts::what_a_stage_holds_is_offered_to_nobody_and_let_go_in_its_order,
        rollouts::silence_counts_since_the_offer_or_the_last_wait_that_may_last,
        rollouts::what_may_last_is_known_to_the_statements,
        rows::every_row_reads_back_as_it_was_written,
        rows::titles_are_counted_by_what_changed_and_what_is_not_true_changes_nothing,
        rows::what_publishers_signed_reads_back_in_its_order_and_never_changes,
        rows::a_name_is_free_after_a_deletion_and_a_uid_never,
        rows::the_same_rule_twice_is_refused,
        rows::pages_are_complete_and_in_order_under_concurrent_inserts,
        rows::lists_are_in_the_order_that_they_say,
        rows::a_group_knows_how_many_members_it_has,
        rows::a_client_is_found_by_its_labels_of_now,
        rows::the_last_contact_never_goes_back,
        clients::questions_have_a_revision_and_know_who_answered_them,
        planned::an_approval_is_pending_until_it_is_decided_and_is_kept_for_a_while,
        planned::a_plan_is_read_as_it_was_written_and_goes_with_its_clients,
        windows::windows_have_a_revision_and_long_leases_are_kept_until_they_are_over,
        clients::archived_clients_are_in_no_list_and_get_no_executions,
        clients::clients_are_alike_by_the_keys_that_they_have_now,
        configuration::an_alias_is_one_jobs_and_goes_over_to_another_from_the_one_that_had_it,
        configuration::what_was_put_there_by_files_is_known_by_its_kind,
        deltas::a_delta_is_asked_for_once_taken_by_one_and_made_once,
        deltas::a_delta_lives_while_both_its_versions_do,
        transfers::limits_and_suspensions_read_back_and_go_with_their_group,
        rows::an_operators_name_is_never_free_again,
        rows::a_version_in_use_is_found,
        rows::versions_are_found_by_what_they_depend_on_and_take_the_place_of,
        executions::there_is_one_execution_per_job_and_client,
        executions::counters_add_up_after_any_changes,
        executions::an_outcome_is_never_overwritten,
        executions::the_oldest_logs_go_first_and_what_stays_is_counted,
        executions::the_change_feed_loses_nothing,
        executions::a_page_of_changes_never_ends_inside_a_number,
        executions::only_what_may_run_is_queued_in_its_order,
        executions::a_change_from_another_state_is_refused,
        executions::a_cancellation_waits_until_it_is_ended,
        executions::what_clients_have_of_jobs_is_looked_up_for_many_at_once,
        executions::members_get_executions_once,
        events::a_reader_of_events_misses_none_that_commits_late,
        events::events_are_found_by_kind_object_and_time_and_dropped_from_the_beginning,
        events::an_occurrence_is_told_once_and_a_hook_reads_back,
        clients::what_is_known_of_clients_in_brief_is_what_their_rows_say,
    }
    sqlite {
        units::the_queue_of_writers_is_bounded,
        kept::a_full_disk_refuses_writes_and_keeps_the_rest,
        kept::a_failed_disk_ends_the_process,
    }
    postgres {
        units::a_deadlock_is_run_again,
        units::units_that_wait_for_each_other_and_for_the_change_sequence_part_before_the_server_notices,
        units::a_unit_that_stands_still_is_undone_and_run_again_and_holds_nobody_up,
        units::what_is_said_to_all_is_heard_by_who_listens,
        executions::of_two_managers_that_offer_the_same_execution_one_makes_its_attempt,
        migrate::every_table_and_column_is_moved_and_reads_back,
        migrate::a_row_that_is_not_what_was_written_is_named_and_nothing_is_kept,
        migrate::what_postgresql_has_no_place_for_is_named,
        migrate::a_database_that_is_not_empty_or_in_use_is_left_alone,
        migrate::what_is_there_already_is_compared_and_kept,
        migrate::a_database_of_another_version_or_with_damage_is_not_moved,
    }
}

/// Writes with the store's own error.
pub(crate) async fn write<T, F>(store: &Store, unit: F) -> Result<T, StoreError>
where
    F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, StoreError> + Send + Sync + 'static,
    T: Send + 'static,
{
    store.write("test", unit).await
}

/// Reads with the store's own error.
pub(crate) async fn read<T, F>(store: &Store, unit: F) -> T
where
    F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, StoreError> + Send + Sync + 'static,
    T: Send + 'static,
{
    store.read("test", unit).await.unwrap()
}

pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

/// Random bits that are the same for the same number, and look like nothing.
fn bits(n: u64) -> [u8; 16] {
    Digest::of(&n.to_le_bytes()).0[..16].try_into().unwrap()
}

pub(crate) fn uid(n: u64) -> Uid {
    Uid::new(at(1_000 + n as i64), bits(n))
}

pub(crate) fn client_id(n: u64) -> ClientId {
    ClientId::from_random(bits(n))
}

pub(crate) fn client(n: u64) -> Client {
    Client {
        id: client_id(n),
        kind: ClientKind::Machine,
        site: uid(0),
        site_since: at(1),
        state: ClientState::Active,
        hostname: format!("host-{n}"),
        address: "127.0.0.1".into(),
        machine_id: format!("machine-{n}"),
        boot_id: "boot".into(),
        session_counter: 1,
        agent_version: "0.1.0".into(),
        facts: String::new(),
        facts_digest: None,
        facts_time: None,
        labels: BTreeMap::new(),
        answers: BTreeMap::new(),
        token: None,
        key: Digest::of(&n.to_be_bytes()).0,
        enrolled: at(10 + n as i64),
        activated: None,
        last_seen: at(10 + n as i64),
        greeted: false,
        duplicate_of: None,
        notice: String::new(),
        replaced: None,
        skew: None,
        archived: None,
        unarchived: None,
        change: 0,
    }
}

pub(crate) fn token(n: u64) -> Token {
    Token {
        id: TokenId::from_random(bits(n)),
        secret_hash: Digest::of(&n.to_le_bytes()).0,
        description: "for \"tests\"".into(),
        uses: 3,
        used: 0,
        expires: at(1_000_000),
        networks: vec!["10.0.0.0/8".into()],
        expected: vec!["host-1".into()],
        groups: vec![uid(5)],
        labels: BTreeMap::from([("room".parse().unwrap(), "é 1".to_owned())]),
        replaces: None,
        created: at(n as i64),
        creator: "operators/eve".into(),
        revoked: None,
    }
}

pub(crate) fn group(n: u64, name: &str) -> Group {
    Group {
        uid: uid(n),
        name: name.parse().unwrap(),
        description: "a group".into(),
        restricted: n % 2 == 1,
        join_mode: JoinMode::Open,
        join_hash: None,
        members: 0,
        created: at(7),
        change: 0,
    }
}

pub(crate) fn membership(group: &Uid, n: u64) -> Membership {
    Membership { group: group.clone(), client: client_id(n), source: Source::Operator, source_name: "eve".into(), since: at(8) }
}

pub(crate) fn policy(n: u64, name: &str, group: &Uid, condition: &str) -> Policy {
    Policy {
        uid: uid(n),
        name: name.parse().unwrap(),
        group: group.clone(),
        trigger: Trigger::NewClient,
        condition: condition.into(),
        applies_to: AppliesTo::NewOnly,
        on_mismatch: OnMismatch::Keep,
        description: String::new(),
        created: at(9),
        change: 0,
    }
}

pub(crate) fn package(n: u64, name: &str) -> Package {
    Package { uid: uid(n), name: name.parse().unwrap(), created: at(3) }
}

pub(crate) fn version(n: u64, package: &Package, version: &str, release: u64) -> PackageVersion {
    PackageVersion {
        uid: uid(n),
        package: package.uid.clone(),
        name: package.name.clone(),
        version: version.parse().unwrap(),
        release,
        description: String::new(),
        envelope: vec![0, 1, 255],
        manifest: Digest::of(&n.to_le_bytes()),
        manifest_length: 12,
        total_bytes: 1 << 40,
        files: 3,
        expires: Some(at(99)),
        terms: Terms::default(),
        withdrawn: None,
        created: at(4),
        creator: "eve".into(),
    }
}

pub(crate) fn job(n: u64) -> Job {
    Job {
        id: JobId::from_random(bits(n)),
        state: JobState::Active,
        description: format!("job {n}"),
        priority: 5,
        continue_on_failure: false,
        expires: None,
        creator: "eve".into(),
        created: at(100 + n as i64),
        started: Some(at(200)),
        ended: None,
        revision: 1,
        archived: false,
        replaces: None,
        condition: String::new(),
        requirements: vec![],
        terms: Default::default(),
        clients_where: String::new(),
        rolls_back: None,
        change: 0,
    }
}

pub(crate) fn attempt(n: u64, job: &JobId, client: &ClientId, number: u32) -> Attempt {
    Attempt {
        id: AttemptId::new(at(n as i64), bits(n)),
        job: job.clone(),
        client: client.clone(),
        number,
        revision: 1,
        state: ExecutionState::Offered,
        purpose: Purpose::Order,
        created: at(5),
        ended: None,
        outcome: Vec::new(),
        signature: Vec::new(),
    }
}

/// Adds clients with these numbers.
pub(crate) async fn add_clients(store: &Store, numbers: std::ops::Range<u64>) {
    let clients: Vec<Client> = numbers.map(client).collect();
    for some in clients.chunks(500) {
        write(
            store,
            sutler_store::unit!(
                [some] | tx | {
                    for client in &some {
                        tx.insert_client(client).await?;
                    }
                    Ok(())
                }
            ),
        )
        .await
        .unwrap();
    }
}

/// Adds a job with no packages and no destinations.
pub(crate) async fn add_job(store: &Store, n: u64) -> Job {
    let job = job(n);
    write(store, sutler_store::unit!([job] | tx | { tx.insert_job(&job, &[], &[]).await })).await.unwrap();
    job
}
