//! What one unit of work can ask of the store. The same for every database; the conformance suite goes over it.
//!
//! All methods run inside one transaction: what was read holds until the unit ends. A method never decides anything; it
//! says what is there, or writes what it was given.

use crate::{Approvals, Brakes, JobPlans, Rollouts, StoreError};
use async_trait::async_trait;
use std::collections::BTreeMap;
use sutler_base::{
    AttemptId, ClientId, Digest, GroupName, JobAlias, JobId, OperatorName, PackageName, PolicyName, QuestionName, Timestamp, TokenId, Uid,
    Version, WindowName,
    facts::Package as InstalledPackage,
    state::{ClientState, ExecutionState, JobState, Purpose, Trigger},
};
use sutler_core::{
    approval::Voice,
    audit::{AuditRecord, AuditSegment},
    event::{Event, EventFilter},
    hook::Hook,
    model::*,
    terms::JobTerms,
    transfer::{Limit, Suspension},
    window::Window,
};

type Result<T> = std::result::Result<T, StoreError>;

/// Everything that a unit of work can ask.
pub trait Tx:
    Clients
    + Inventory
    + Tokens
    + Groups
    + Policies
    + Questions
    + Configurations
    + Windows
    + Packages
    + Deltas
    + Jobs
    + Destinations
    + Executions
    + Rollouts
    + Brakes
    + Approvals
    + JobPlans
    + Logs
    + Events
    + Trust
    + Transfers
    + Operators
    + Admin
    + Audit
    + Send
{
}

/// After which row of `queued_for` a page begins.
#[derive(Debug, Clone)]
pub struct QueuedAfter {
    /// Its client.
    pub client: ClientId,
    /// The priority of its job.
    pub priority: u8,
    /// When its job was made.
    pub created: Timestamp,
    /// Its job.
    pub job: JobId,
}

impl QueuedAfter {
    /// After this row, of this job.
    pub fn of(row: &Execution, job: &Job) -> QueuedAfter {
        QueuedAfter { client: row.client.clone(), priority: job.priority, created: job.created, job: job.id.clone() }
    }
}

/// What orders a job.
#[derive(Debug, Clone)]
pub struct Ordered {
    /// The job.
    pub id: JobId,
    /// Its newest revision.
    pub revision: i64,
    /// Its terms.
    pub terms: JobTerms,
    /// It puts back what clients had: each of them has packages of its own.
    pub rolls_back: bool,
}

/// A page of a list: at most `limit` rows that come after `after` in the list's order.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The key of the last row of the page before, as the list's documentation says; none for the first page.
    pub after: Option<String>,
    /// At most this many rows.
    pub limit: u32,
}

/// How a version stands to another package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Related {
    /// It depends on it.
    DependsOn,
    /// It takes its place.
    Supersedes,
}

/// Which clients a list has besides those that are neither removed nor archived.
#[derive(Debug, Clone, Copy, Default)]
pub struct Besides {
    /// Those that were removed.
    pub removed: bool,
    /// Those that are archived.
    pub archived: bool,
}

/// Clients and certificates.
#[async_trait]
pub trait Clients {
    /// Adds a client; `change` is set by the store.
    async fn insert_client(&mut self, client: &Client) -> Result<()>;
    /// The client, also a removed one. For update on databases with row locks.
    async fn client(&mut self, id: &ClientId) -> Result<Option<Client>>;
    /// The clients of these ids, unknown ones left out, by id.
    async fn clients(&mut self, ids: &[ClientId]) -> Result<Vec<Client>>;
    /// The same, for update on databases with row locks.
    async fn lock_clients(&mut self, ids: &[ClientId]) -> Result<Vec<Client>>;
    /// The same in brief.
    async fn clients_in_brief(&mut self, ids: &[ClientId]) -> Result<Vec<ClientBrief>>;
    /// Writes every column of a client but `last_seen` and its facts; `change` is set by the store. A client that isn't there fails the unit,
    /// as do all `save_…`, `delete_…` and `revoke_token` of what isn't there.
    async fn save_client(&mut self, client: &Client) -> Result<()>;
    /// Writes what clients said of themselves when they connected: machine, start, session counter, agent, address and clock; `change` is
    /// set by the store. Many rows to a statement.
    async fn greet_clients(&mut self, clients: &[Client]) -> Result<()>;
    /// Notes when clients were heard of; a time that is earlier than what is there changes nothing.
    async fn touch_clients(&mut self, seen: &[(ClientId, Timestamp)]) -> Result<()>;
    /// Clients in order of id (`after` = id). `group`: only its members.
    async fn list_clients(&mut self, page: &Page, besides: Besides, group: Option<&Uid>) -> Result<Vec<Client>>;
    /// When clients that are neither removed nor archived were last heard of, or taken back from the archive by an operator if that
    /// came later, in order of id (`after` = id).
    async fn silent_since(&mut self, page: &Page) -> Result<Vec<(ClientId, Timestamp)>>;
    /// Writes by what clients are told from others, each one once, in place of what was there before.
    async fn save_likeness(&mut self, keys: &[(ClientId, Vec<String>)]) -> Result<()>;
    /// Of these clients those that share a key with another one, with the first other one of each key that they share; by client.
    async fn alike(&mut self, clients: &[ClientId]) -> Result<Vec<(ClientId, ClientId)>>;
    /// Clients in this state that are not archived, in order of id (`after` = id).
    async fn list_clients_in(&mut self, page: &Page, state: ClientState) -> Result<Vec<Client>>;
    /// Ids of clients that are neither removed nor archived and call themselves so (exact, at most 10).
    async fn clients_by_hostname(&mut self, hostname: &str) -> Result<Vec<ClientId>>;
    /// Ids of clients that are neither removed nor archived and have this label (at most 100,001).
    async fn clients_by_label(&mut self, key: &str, value: &str) -> Result<Vec<ClientId>>;
    /// The oldest client that is not removed and says to run on this machine, other than `except`.
    async fn client_by_machine(&mut self, machine_id: &str, except: &ClientId) -> Result<Option<ClientId>>;
    /// Ids and states of clients whose row changed after `change`, in order of change; at most `limit`, and then the rest of those
    /// with the last number (rows of one unit share numbers, at most 1000 a number).
    async fn clients_changed_since(&mut self, change: i64, limit: u32) -> Result<Vec<(ClientId, ClientState, i64)>>;
    /// Adds a certificate.
    async fn insert_certificate(&mut self, certificate: &Certificate) -> Result<()>;
    /// The certificate with this serial number.
    async fn certificate(&mut self, serial: &str) -> Result<Option<Certificate>>;
    /// The certificates with these serial numbers, unknown ones left out.
    async fn certificates(&mut self, serials: &[String]) -> Result<Vec<Certificate>>;
    /// The newest certificates of a subject first, at most 10.
    async fn certificates_of(&mut self, subject: &Subject) -> Result<Vec<Certificate>>;
    /// The public keys (SPKI, DER) of the newest certificates of these clients, at most 10 of each, by client.
    async fn client_keys(&mut self, clients: &[ClientId]) -> Result<Vec<(ClientId, Vec<u8>)>>;
    /// How many certificates that are not revoked were issued to this subject after `since`, and when the first of them was; counts
    /// to `limit` and no further.
    async fn certificates_since(&mut self, subject: &Subject, since: Timestamp, limit: u32) -> Result<Option<(u32, Timestamp)>>;
    /// Ends whatever certificates the subject of this one has besides it: those issued up to this one that are accepted become
    /// SUPERSEDED; or all of them, whenever issued, REVOKED.
    async fn end_others(&mut self, certificate: &Certificate, to: CertificateState) -> Result<()>;
    /// Changes the state of one certificate.
    async fn set_certificate_state(&mut self, serial: &str, state: CertificateState) -> Result<()>;
    /// Revokes every certificate of a subject.
    async fn revoke_certificates(&mut self, subject: &Subject) -> Result<()>;
    /// The machines that are noted for these clients, those seen last first.
    async fn machines_of(&mut self, clients: &[ClientId]) -> Result<Vec<Machine>>;
    /// Notes a machine, in place of what was noted of the same start of the same machine.
    async fn save_machine(&mut self, machine: &Machine) -> Result<()>;
    /// Forgets the machines that are noted for a client.
    async fn delete_machines(&mut self, client: &ClientId) -> Result<()>;
}

/// Questions, and who answered them.
#[async_trait]
pub trait Questions {
    /// Adds a question; `change` is set by the store.
    async fn insert_question(&mut self, question: &Question) -> Result<()>;
    /// The question of this name that exists now. For update on databases with row locks.
    async fn question(&mut self, name: &QuestionName) -> Result<Option<Question>>;
    /// Questions by name (`after` = name).
    async fn list_questions(&mut self, page: &Page) -> Result<Vec<Question>>;
    /// Greater with every change of any question, deletions included; 0 before the first.
    async fn questions_revision(&mut self) -> Result<i64>;
    /// Writes every column of a question; `change` is set by the store.
    async fn save_question(&mut self, question: &Question) -> Result<()>;
    /// Deletes a question; its uid never comes back.
    async fn delete_question(&mut self, uid: &Uid, now: Timestamp) -> Result<()>;
    /// Notes that a client has answered; the answer itself is saved with the client.
    async fn note_answer(&mut self, question: &Uid, client: &ClientId) -> Result<()>;
    /// Clients that answered, in order of id (`after` = id).
    async fn clients_that_answered(&mut self, question: &Uid, page: &Page) -> Result<Vec<ClientId>>;
    /// Takes back that these clients have answered this question: what is left of their answers. At most 1000 of them.
    async fn drop_answers(&mut self, question: &Uid, left: &[(ClientId, BTreeMap<String, String>)]) -> Result<()>;
}

/// Maintenance windows, and leases that reach into them.
#[async_trait]
pub trait Windows {
    /// Adds a window; `change` is set by the store. A name that exists is [`StoreError::Exists`].
    async fn insert_window(&mut self, window: &Window) -> Result<()>;
    /// The window of this name that exists now. For update on databases with row locks.
    async fn window(&mut self, name: &WindowName) -> Result<Option<Window>>;
    /// Windows by name (`after` = name).
    async fn list_windows(&mut self, page: &Page) -> Result<Vec<Window>>;
    /// The windows of these groups, by name.
    async fn windows_of(&mut self, groups: &[Uid]) -> Result<Vec<Window>>;
    /// Greater with every change of any window, deletions included; 0 before the first.
    async fn windows_revision(&mut self) -> Result<i64>;
    /// Writes every column of a window; `change` is set by the store.
    async fn save_window(&mut self, window: &Window) -> Result<()>;
    /// Deletes a window; its uid never comes back.
    async fn delete_window(&mut self, uid: &Uid, now: Timestamp) -> Result<()>;
    /// What orders these jobs, by id.
    async fn terms_of(&mut self, jobs: &[JobId]) -> Result<Vec<Ordered>>;
    /// The long leases of these attempts that were given, by attempt.
    async fn long_leases(&mut self, attempts: &[AttemptId]) -> Result<Vec<LongLease>>;
    /// Writes down long leases; of two for the same attempt the later end and the longer time stay.
    async fn put_long_leases(&mut self, leases: &[LongLease]) -> Result<()>;
    /// Forgets long leases that ended before; gives back how many.
    async fn drop_long_leases(&mut self, before: Timestamp) -> Result<u64>;
}

/// Which titles a list has.
#[derive(Debug, Clone, Default)]
pub struct Titles {
    /// Only of this name, or beginning with it.
    pub name: String,
    /// Whether the name is only the beginning.
    pub is_prefix: bool,
    /// Only of this manager; empty for all.
    pub manager: String,
}

/// What is written of a client's facts.
#[derive(Debug, Clone)]
pub struct FactsChange<'a> {
    /// Whose they are.
    pub client: ClientId,
    /// The facts; none where only the rest changes.
    pub json: Option<&'a str>,
    /// The digest of what the agent has.
    pub digest: Option<Digest>,
    /// When they were last reported.
    pub time: Option<Timestamp>,
}

/// What changed in what is installed on a client.
#[derive(Debug, Clone)]
pub struct SoftwareChange {
    /// Which client.
    pub client: ClientId,
    /// What is gone.
    pub gone: Vec<InstalledPackage>,
    /// What has come.
    pub come: Vec<InstalledPackage>,
}

/// What clients say of themselves: their facts, and what is installed on them.
#[async_trait]
pub trait Inventory {
    /// Writes the facts of clients, each one once. Many rows to a statement.
    async fn save_facts(&mut self, facts: &[FactsChange<'_>]) -> Result<()>;
    /// What is installed on these clients, by client.
    async fn software_of(&mut self, clients: &[ClientId]) -> Result<Vec<(ClientId, InstalledPackage)>>;
    /// How many titles each of these clients has, those left out that have none.
    async fn count_software(&mut self, clients: &[ClientId]) -> Result<Vec<(ClientId, u64)>>;
    /// Notes what is gone from clients and what has come, and keeps the titles' counts. What was not there does not go, and what is
    /// there does not come, so that a client that says anything else changes nothing. Many rows to a statement.
    async fn change_software(&mut self, changes: &[SoftwareChange]) -> Result<()>;
    /// Titles that some client has, by name, manager, version and architecture (`after` = id). After one that is
    /// gone there is no page.
    async fn list_titles(&mut self, page: &Page, titles: &Titles) -> Result<Vec<Title>>;
    /// How many members of the group have each of these: the titles that any has.
    async fn count_titles_in(&mut self, group: &Uid, titles: &[i64]) -> Result<Vec<Title>>;
    /// The title of this id.
    async fn title(&mut self, id: i64) -> Result<Option<Title>>;
    /// Clients that have this title, with their host names, by id (`after` = id); only members of the group, if one is given.
    async fn clients_with(&mut self, title: i64, page: &Page, group: Option<&Uid>) -> Result<Vec<(ClientId, String)>>;
    /// Forgets titles that no client has any more.
    async fn drop_titles(&mut self) -> Result<u64>;
}

/// Enrolment tokens.
#[async_trait]
pub trait Tokens {
    /// Adds tokens.
    async fn insert_tokens(&mut self, tokens: &[Token]) -> Result<()>;
    /// The token with this id. For update.
    async fn token(&mut self, id: &TokenId) -> Result<Option<Token>>;
    /// Tokens, the newest first (`after` = "created_ms/id").
    async fn list_tokens(&mut self, page: &Page) -> Result<Vec<Token>>;
    /// Marks a token as revoked.
    async fn revoke_token(&mut self, id: &TokenId, now: Timestamp) -> Result<()>;
    /// The client that enrolled with this token and this key.
    async fn token_use(&mut self, id: &TokenId, key: &[u8; 32]) -> Result<Option<ClientId>>;
    /// Notes that a client enrolled with this token and this key, and counts the use.
    async fn use_token(&mut self, id: &TokenId, key: &[u8; 32], client: &ClientId, now: Timestamp) -> Result<()>;
}

/// Groups and memberships.
#[async_trait]
pub trait Groups {
    /// Adds a group. The name of one that exists is [`StoreError::Exists`].
    async fn insert_group(&mut self, group: &Group) -> Result<()>;
    /// The group of this name. For update.
    async fn group(&mut self, name: &GroupName) -> Result<Option<Group>>;
    /// The groups of these uids that exist (deleted ones left out).
    async fn groups_by_uid(&mut self, uids: &[Uid]) -> Result<Vec<Group>>;
    /// The same for update, before anything is saved.
    async fn lock_groups(&mut self, uids: &[Uid]) -> Result<Vec<Group>>;
    /// Groups by name (`after` = name).
    async fn list_groups(&mut self, page: &Page) -> Result<Vec<Group>>;
    /// Writes a group's settings; `change` is set by the store, `members` is not written.
    async fn save_group(&mut self, group: &Group) -> Result<()>;
    /// Deletes a group with its memberships and holds; its uid stays as a tombstone.
    async fn delete_group(&mut self, uid: &Uid, now: Timestamp) -> Result<()>;
    /// Adds memberships that are not there yet, of groups that exist; gives back those that were added.
    async fn insert_memberships(&mut self, memberships: &[Membership]) -> Result<Vec<Membership>>;
    /// Ends memberships; gives back the clients whose membership was ended.
    async fn delete_memberships(&mut self, group: &Uid, clients: &[ClientId]) -> Result<Vec<ClientId>>;
    /// The memberships of a client, by group.
    async fn memberships_of(&mut self, client: &ClientId) -> Result<Vec<Membership>>;
    /// The memberships of several clients.
    async fn memberships_of_all(&mut self, clients: &[ClientId]) -> Result<Vec<Membership>>;
    /// The members of a group by client (`after` = client id).
    async fn list_members(&mut self, group: &Uid, page: &Page) -> Result<Vec<Membership>>;
    /// Of these clients, those that an operator took out of the group and nobody released.
    async fn held_out(&mut self, group: &Uid, clients: &[ClientId]) -> Result<Vec<ClientId>>;
    /// Keeps clients out of a group until released.
    async fn hold_out(&mut self, group: &Uid, clients: &[ClientId], by: &str, now: Timestamp) -> Result<()>;
    /// Ends that; gives back whether there was anything to end.
    async fn release_hold(&mut self, group: &Uid, clients: &[ClientId]) -> Result<u64>;
}

/// Policies.
#[async_trait]
pub trait Policies {
    /// Adds a policy. A name that exists, or the same group, trigger and condition, is [`StoreError::Exists`].
    async fn insert_policy(&mut self, policy: &Policy) -> Result<()>;
    /// The policy of this name. For update.
    async fn policy(&mut self, name: &PolicyName) -> Result<Option<Policy>>;
    /// Policies by name (`after` = name), of one group if given.
    async fn list_policies(&mut self, page: &Page, group: Option<&Uid>) -> Result<Vec<Policy>>;
    /// Every policy with this trigger, by name; all triggers if none is given.
    async fn policies_with_trigger(&mut self, trigger: Option<Trigger>) -> Result<Vec<Policy>>;
    /// Writes a policy's settings; `change` is set by the store.
    async fn save_policy(&mut self, policy: &Policy) -> Result<()>;
    /// Deletes a policy; its uid stays as a tombstone.
    async fn delete_policy(&mut self, uid: &Uid, now: Timestamp) -> Result<()>;
}

/// Packages and their versions.
#[async_trait]
pub trait Packages {
    /// Adds a package. A name that exists is [`StoreError::Exists`].
    async fn insert_package(&mut self, package: &Package) -> Result<()>;
    /// The package of this name. For update.
    async fn package(&mut self, name: &PackageName) -> Result<Option<Package>>;
    /// Packages by name (`after` = name).
    async fn list_packages(&mut self, page: &Page) -> Result<Vec<Package>>;
    /// Deletes a package and all its versions; uids stay as tombstones.
    async fn delete_package(&mut self, uid: &Uid, now: Timestamp) -> Result<()>;
    /// Adds a version. A version that exists is [`StoreError::Exists`].
    async fn insert_version(&mut self, version: &PackageVersion) -> Result<()>;
    /// One version by its text.
    async fn version(&mut self, package: &PackageName, version: &Version) -> Result<Option<PackageVersion>>;
    /// Versions by uid, deleted ones left out.
    async fn versions_by_uid(&mut self, uids: &[Uid]) -> Result<Vec<PackageVersion>>;
    /// The version with the highest release (of two, the one pushed later).
    async fn newest_version(&mut self, package: &PackageName) -> Result<Option<PackageVersion>>;
    /// Versions, the highest release first (`after` = "release/uid").
    async fn list_versions(&mut self, package: &Uid, page: &Page) -> Result<Vec<PackageVersion>>;
    /// The newest versions of the package of this name, the highest release first, withdrawn ones too; none if there is no such package.
    async fn versions_of(&mut self, package: &PackageName, limit: u32) -> Result<Vec<PackageVersion>>;
    /// The packages with a version that stands like this to a package of one of these names, by name.
    async fn packages_related(&mut self, how: Related, to: &[PackageName], limit: u32) -> Result<Vec<PackageName>>;
    /// The versions that stand like this to a package of one of these names, withdrawn ones too, by uid (`after` = uid).
    async fn versions_related(&mut self, how: Related, to: &[PackageName], page: &Page) -> Result<Vec<PackageVersion>>;
    /// How many versions a package has.
    async fn count_versions(&mut self, package: &Uid) -> Result<u32>;
    /// Deletes a version; its uid stays as a tombstone.
    async fn delete_version(&mut self, uid: &Uid, now: Timestamp) -> Result<()>;
    /// Withdraws a version, or takes that back.
    async fn set_withdrawn(&mut self, uid: &Uid, withdrawn: Option<&(Timestamp, String)>) -> Result<()>;
    /// A job (any that is not archived, or has open executions) that refers to one of these versions in any revision, or to the package by name.
    async fn job_referring_to(&mut self, versions: &[Uid], package: Option<&PackageName>) -> Result<Option<JobId>>;
    /// The version whose manifest this is; none if it was deleted.
    async fn version_of_manifest(&mut self, manifest: &Digest) -> Result<Option<PackageVersion>>;
    /// The manifests of all versions that exist: what garbage collection must keep.
    async fn live_manifests(&mut self) -> Result<Vec<Digest>>;
}

/// Deltas between versions.
#[async_trait]
pub trait Deltas {
    /// Asks for a delta, if nobody has; gives back whether nobody had.
    async fn ask_delta(&mut self, delta: &Delta) -> Result<bool>;
    /// The delta between the versions with these manifests, as far as it is.
    async fn delta(&mut self, old: &Digest, new: &Digest) -> Result<Option<Delta>>;
    /// The digests of the deltas to the versions with these manifests.
    async fn deltas_to(&mut self, manifests: &[Digest]) -> Result<Vec<Digest>>;
    /// How many deltas to versions of this package there are, those that were asked for and are of no use included.
    async fn count_deltas(&mut self, package: &Uid) -> Result<u32>;
    /// Forgets so many of the deltas to versions of this package, those first that were asked for first.
    async fn drop_oldest_deltas(&mut self, package: &Uid, count: u32) -> Result<u64>;
    /// The delta that was asked for first and that nobody has made, or has taken since `before`.
    async fn delta_due(&mut self, before: Timestamp) -> Result<Option<Delta>>;
    /// Takes this delta to make it, as it was read; whether nobody else took it, made it or forgot it meanwhile.
    async fn take_delta(&mut self, delta: &Delta, now: Timestamp) -> Result<bool>;
    /// Keeps what was taken at `taken` as one's own; whether it still was that.
    async fn keep_delta(&mut self, delta: &Delta, taken: Timestamp, now: Timestamp) -> Result<bool>;
    /// Notes that a delta was made, or is of no use; whether it still was wanted.
    async fn note_delta(&mut self, old: &Digest, new: &Digest, made: Option<&MadeDelta>, now: Timestamp) -> Result<bool>;
    /// Forgets the delta that has this digest: it can be asked for again.
    async fn forget_delta(&mut self, digest: &Digest) -> Result<()>;
    /// The digests of the deltas between versions that exist: what garbage collection must keep.
    async fn live_deltas(&mut self) -> Result<Vec<Digest>>;
    /// Forgets the deltas from and to versions that were deleted.
    async fn drop_deltas(&mut self) -> Result<u64>;
}

/// Jobs, their packages by revision, and their destinations.
#[async_trait]
pub trait Jobs {
    /// Adds a job with its first revision and its destinations.
    async fn insert_job(&mut self, job: &Job, packages: &[JobPackage], targets: &[Target]) -> Result<()>;
    /// The job of this id. For update.
    async fn job(&mut self, id: &JobId) -> Result<Option<Job>>;
    /// Jobs, the newest first (`after` = "created_ms/id", milliseconds since 1970); archived ones too, if asked.
    async fn list_jobs(&mut self, page: &Page, archived: bool) -> Result<Vec<Job>>;
    /// The terms of a job, which may be changed meanwhile: nothing is locked for them.
    async fn job_terms(&mut self, id: &JobId) -> Result<Option<JobTerms>>;
    /// Writes every column of a job; `change` is set by the store.
    async fn save_job(&mut self, job: &Job) -> Result<()>;
    /// The packages of one revision in their order.
    async fn job_packages(&mut self, job: &JobId, revision: i64) -> Result<Vec<JobPackage>>;
    /// Writes the packages of a revision, in place of what that revision had.
    async fn put_job_packages(&mut self, job: &JobId, revision: i64, packages: &[JobPackage]) -> Result<()>;
    /// The destinations of a job.
    async fn job_targets(&mut self, job: &JobId) -> Result<Vec<Target>>;
    /// Takes a destination away from every job, and an exclusion from every one that has not ended; gives back the jobs that had it as a
    /// destination.
    async fn drop_target(&mut self, target: &Target) -> Result<Vec<JobId>>;
    /// Jobs in these states that have this destination, by id.
    async fn jobs_with_target(&mut self, target: &Target, states: &[JobState]) -> Result<Vec<Job>>;
    /// ACTIVE and PAUSED jobs whose newest revision has this version, by id.
    async fn jobs_with_version(&mut self, version: &Uid) -> Result<Vec<Job>>;
    /// ACTIVE and PAUSED jobs whose newest revision follows the newest version of this package.
    async fn jobs_following(&mut self, package: &PackageName) -> Result<Vec<Job>>;
    /// Jobs in one of these states whose expire time is not after `now`.
    async fn jobs_expired(&mut self, now: Timestamp, states: &[JobState], limit: u32) -> Result<Vec<Job>>;
    /// Jobs in this state, by id (`after` = id).
    async fn jobs_in(&mut self, page: &Page, state: JobState) -> Result<Vec<Job>>;
    /// How many executions of a job are in each state: kept, not counted.
    async fn counts(&mut self, job: &JobId) -> Result<Counts>;
    /// How many executions of a job have a cancellation that is not final: not acknowledged, or what has begun goes on to its end.
    async fn canceling(&mut self, job: &JobId) -> Result<i64>;
}

/// What changes whom a job reaches after it was made.
#[async_trait]
pub trait Destinations {
    /// Adds destinations; those that it has stay.
    async fn add_targets(&mut self, job: &JobId, targets: &[Target]) -> Result<()>;
    /// Takes a destination away from one job; whether it had it.
    async fn remove_target(&mut self, job: &JobId, target: &Target) -> Result<bool>;
    /// What a job never reaches.
    async fn exclusions(&mut self, job: &JobId) -> Result<Vec<Target>>;
    /// Adds exclusions; those that it has stay.
    async fn add_exclusions(&mut self, job: &JobId, targets: &[Target]) -> Result<()>;
    /// Which jobs in these states hold which of these clients, by a destination or by their condition. An exclusion may take them out again.
    async fn jobs_holding(&mut self, clients: &[ClientId], states: &[JobState]) -> Result<Vec<(JobId, ClientId)>>;
    /// Takes an exclusion away; whether it had it.
    async fn remove_exclusion(&mut self, job: &JobId, target: &Target) -> Result<bool>;
    /// Jobs in these states that never reach this, by id.
    async fn jobs_excluding(&mut self, target: &Target, states: &[JobState]) -> Result<Vec<Job>>;
    /// ACTIVE and PAUSED jobs with a condition as destination, by id.
    async fn jobs_by_condition(&mut self) -> Result<Vec<Job>>;
    /// Notes clients that the job's condition reached; those that it has stay.
    async fn add_listed(&mut self, job: &JobId, clients: &[ClientId]) -> Result<()>;
    /// Notes which of the job's packages clients get, in this order, by their numbers: those of a job that puts back.
    async fn add_picks(&mut self, job: &JobId, picks: &[(ClientId, Vec<usize>)]) -> Result<()>;
    /// Which of the job's packages the client gets; none for all.
    async fn picks(&mut self, job: &JobId, client: &ClientId) -> Result<Option<Vec<usize>>>;
    /// Which of these clients the job's condition has reached, or it puts something back on.
    async fn listed(&mut self, job: &JobId, clients: &[ClientId]) -> Result<Vec<ClientId>>;
    /// Jobs in these states whose condition has reached this client, by id.
    async fn jobs_listing(&mut self, client: &ClientId, states: &[JobState]) -> Result<Vec<Job>>;
}

/// A new state of an execution. `None` leaves a column as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionChange {
    /// The job.
    pub job: JobId,
    /// The client.
    pub client: ClientId,
    /// The state that was read in this unit: the counters go by it.
    pub from: ExecutionState,
    /// The state from now on.
    pub to: ExecutionState,
    /// The word for why.
    pub reason: String,
    /// The sentence for people.
    pub detail: String,
    /// When it entered the state.
    pub entered: Timestamp,
    /// A new attempt: its id and number and the job's revision.
    pub attempt: Option<(AttemptId, u32, i64)>,
    /// Where the work is: package, bytes done, bytes in total, step.
    pub progress: Option<(u32, u64, u64, String)>,
    /// `Some(None)` ends a cancellation, `Some(Some(_))` asks for one.
    pub cancel: Option<Option<CancelRequest>>,
    /// What the newest attempt, or the next one, is for. `DRIFT` counts as one more.
    pub purpose: Option<Purpose>,
}

/// Executions and attempts.
#[async_trait]
pub trait Executions {
    /// Adds QUEUED executions of a job for those of these clients that exist, are not archived and have none yet; gives back those that were added.
    async fn insert_executions(&mut self, job: &JobId, clients: &[ClientId], now: Timestamp) -> Result<Vec<ClientId>>;
    /// Adds QUEUED executions for every ACTIVE or QUARANTINED member of the group that is not archived and has none yet; gives back how many.
    async fn insert_executions_for_group(&mut self, job: &JobId, group: &Uid, now: Timestamp) -> Result<u64>;
    /// One row. For update.
    async fn execution(&mut self, job: &JobId, client: &ClientId) -> Result<Option<Execution>>;
    /// The rows of these (job, client) pairs. For update.
    async fn executions(&mut self, keys: &[(JobId, ClientId)]) -> Result<Vec<Execution>>;
    /// The rows of a job by client (`after` = client id), only in these states unless that is empty.
    async fn list_executions(&mut self, job: &JobId, page: &Page, states: &[ExecutionState]) -> Result<Vec<Execution>>;
    /// The rows of a job that changed after `change`, in order of change; at most `limit`, and then the rest of those with the last
    /// number (see `clients_changed_since`).
    async fn executions_changed_since(&mut self, job: &JobId, change: i64, limit: u32) -> Result<Vec<Execution>>;
    /// Every row of a client, the newest job first; at most `limit`.
    async fn executions_of(&mut self, client: &ClientId, limit: u32) -> Result<Vec<Execution>>;
    /// The rows of a client that are not at an end.
    async fn open_executions_of(&mut self, client: &ClientId) -> Result<Vec<Execution>>;
    /// The same of several clients, by client.
    async fn open_executions_of_all(&mut self, clients: &[ClientId]) -> Result<Vec<Execution>>;
    /// QUEUED rows of these clients whose job is ACTIVE and whose client is ACTIVE, without a cancellation; by client, then priority, then age
    /// of the job; at most `limit` rows after `after`. With them the job's row.
    async fn queued_for(&mut self, clients: &[ClientId], after: Option<&QueuedAfter>, limit: u32) -> Result<Vec<(Execution, Job)>>;
    /// Of these clients, those that have a row of `queued_for`; with no list: of all clients, at most `limit`, by client id after `after`.
    async fn clients_with_queued(&mut self, after: Option<&ClientId>, limit: u32) -> Result<Vec<ClientId>>;
    /// Clients with QUEUED rows of this job, after `after`, by id: whom to wake.
    async fn queued_clients_of(&mut self, job: &JobId, after: Option<&ClientId>, limit: u32) -> Result<Vec<ClientId>>;
    /// Writes changes and keeps the counters; many rows to a statement. A row that isn't in the state that it is changed from
    /// fails the unit. Several changes of one row are made one after the other.
    async fn change_executions(&mut self, changes: &[ExecutionChange]) -> Result<()>;
    /// How often what a job installed was found missing, over all its executions.
    async fn drift_count(&mut self, job: &JobId) -> Result<i64>;
    /// Whether any execution is ever to be looked at again.
    async fn checks_wait(&mut self) -> Result<bool>;
    /// Executions of these clients that are to be looked at by now, with their jobs.
    async fn checks_due(&mut self, clients: &[ClientId], now: Timestamp, limit: u32) -> Result<Vec<(Execution, Job)>>;
    /// When executions are looked at next; none for never. Nobody is told: nothing of it is shown.
    async fn set_checks(&mut self, checks: &[(JobId, ClientId, Option<Timestamp>)]) -> Result<()>;
    /// Rows whose cancellation was not acknowledged by its deadline; those that go on to the end of what they have begun are none.
    async fn cancels_overdue(&mut self, now: Timestamp, limit: u32) -> Result<Vec<Execution>>;
    /// Adds attempts.
    async fn insert_attempts(&mut self, attempts: &[Attempt]) -> Result<()>;
    /// One attempt. For update.
    async fn attempt(&mut self, id: &AttemptId) -> Result<Option<Attempt>>;
    /// Several attempts. For update.
    async fn attempts(&mut self, ids: &[AttemptId]) -> Result<Vec<Attempt>>;
    /// The attempts of an execution, the newest first; at most 100.
    async fn attempts_of(&mut self, job: &JobId, client: &ClientId) -> Result<Vec<Attempt>>;
    /// The attempts of a job's executions on these clients, by client, of each the newest first; at most 100 of each.
    async fn attempts_of_all(&mut self, job: &JobId, clients: &[ClientId]) -> Result<Vec<Attempt>>;
    /// The rows of these clients in other jobs that are ACTIVE or PAUSED, which are at an end, had an attempt and uninstall nothing because
    /// the client left, by job.
    async fn ended_elsewhere(&mut self, job: &JobId, clients: &[ClientId]) -> Result<Vec<(JobId, ClientId)>>;
    /// Sets the state of attempts that have no outcome.
    async fn set_attempt_states(&mut self, states: &[(AttemptId, ExecutionState)]) -> Result<()>;
    /// Writes the ends of attempts: state, time, outcome, signature. An attempt that has an outcome already is left as it is.
    async fn finish_attempts(&mut self, attempts: &[Attempt]) -> Result<()>;
}

/// The ends of log files of what failed.
#[async_trait]
pub trait Logs {
    /// How many bytes all of them have. For update.
    async fn log_bytes(&mut self) -> Result<u64>;
    /// The parts of these attempts, by attempt, package, file and number.
    async fn logs_of(&mut self, attempts: &[AttemptId]) -> Result<Vec<LogPart>>;
    /// The bytes of a part.
    async fn log_data(&mut self, part: &LogPart) -> Result<Option<Vec<u8>>>;
    /// Adds a part; one that is there stays as it is.
    async fn insert_log(&mut self, part: &LogPart, data: &[u8]) -> Result<()>;
    /// Removes those of the oldest attempt that has any; gives it back with how many bytes that was.
    async fn drop_oldest_logs(&mut self) -> Result<Option<(AttemptId, u64)>>;
}

/// What publishers signed: whom to trust, and what they took back.
#[async_trait]
pub trait Trust {
    /// Adds the trust document with this version, as it was signed.
    async fn insert_trust_document(&mut self, version: u64, document: &[u8], now: Timestamp, creator: &str) -> Result<()>;
    /// At most `limit` trust documents with a version above `after`, in their order.
    async fn trust_documents(&mut self, after: u64, limit: u32) -> Result<Vec<Vec<u8>>>;
    /// The newest trust document.
    async fn newest_trust_document(&mut self) -> Result<Option<Vec<u8>>>;
    /// Adds a revocation list, as it was signed.
    async fn insert_revocations(&mut self, epoch: u64, version: u64, list: &[u8], now: Timestamp, creator: &str) -> Result<()>;
    /// The newest revocation list.
    async fn newest_revocations(&mut self) -> Result<Option<Vec<u8>>>;
}

/// How fast bytes may flow, and whose stand still.
#[async_trait]
pub trait Transfers {
    /// Adds a limit.
    async fn insert_transfer_limit(&mut self, limit: &Limit) -> Result<()>;
    /// All limits, the oldest first.
    async fn transfer_limits(&mut self) -> Result<Vec<Limit>>;
    /// Deletes a limit; gives back whether it was there.
    async fn delete_transfer_limit(&mut self, uid: &Uid) -> Result<bool>;
    /// Suspends the transfers of a group's members; gives back whether they were not suspended before.
    async fn insert_suspension(&mut self, suspension: &Suspension) -> Result<bool>;
    /// All groups whose transfers are suspended.
    async fn suspensions(&mut self) -> Result<Vec<Suspension>>;
    /// Ends that; gives back whether there was anything to end.
    async fn delete_suspension(&mut self, group: &Uid) -> Result<bool>;
}

/// Operators.
#[async_trait]
pub trait Operators {
    /// Adds an operator; `change` is set by the store. A name that exists, also of one that was revoked, is [`StoreError::Exists`].
    async fn insert_operator(&mut self, operator: &Operator) -> Result<()>;
    /// The operator of this name, also one that was revoked.
    async fn operator(&mut self, name: &OperatorName) -> Result<Option<Operator>>;
    /// Operators by name (`after` = name), also those that were revoked.
    async fn list_operators(&mut self, page: &Page) -> Result<Vec<Operator>>;
    /// Every operator that was not revoked, by name. For update: who decides by all of them decides alone.
    async fn lock_operators(&mut self) -> Result<Vec<Operator>>;
    /// Writes what an operator may do.
    async fn set_grants(&mut self, name: &OperatorName, grants: &[Grant]) -> Result<()>;
    /// Writes since when an operator can be a second person.
    async fn set_voice(&mut self, name: &OperatorName, voice: &Voice) -> Result<()>;
    /// Marks an operator as revoked.
    async fn revoke_operator(&mut self, name: &OperatorName, now: Timestamp) -> Result<()>;
}

/// The answer to a request, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What was answered.
    Done(Vec<u8>),
    /// What becomes of this approval.
    Waits(Uid),
}

/// Settings, idempotence.
#[async_trait]
pub trait Admin {
    /// The site that this installation is.
    async fn site(&mut self) -> Result<Option<Site>>;
    /// Writes the site that this installation is.
    async fn put_site(&mut self, site: &Site) -> Result<()>;
    /// A setting.
    async fn setting(&mut self, key: &str) -> Result<Option<Vec<u8>>>;
    /// Writes a setting.
    async fn put_setting(&mut self, key: &str, value: &[u8]) -> Result<()>;
    /// What was answered to this operator's request of this id: the digest of method and body, and the answer.
    async fn request(&mut self, operator: &str, request_id: &str) -> Result<Option<(Digest, Answer)>>;
    /// Notes an answer.
    async fn put_request(&mut self, operator: &str, request_id: &str, body: &Digest, answer: &Answer, now: Timestamp) -> Result<()>;
    /// Forgets answers from before `before`, but for those about what waits for a second person or was decided since; gives back how
    /// many.
    async fn drop_requests(&mut self, before: Timestamp) -> Result<u64>;
    /// Leaves out so many numbers of the change sequence: after a restore nothing may get a number that something had before.
    async fn skip_changes(&mut self, numbers: i64) -> Result<()>;
    /// Whether the client has told what happened after the backup from which this database was restored.
    async fn has_caught_up(&mut self, client: &ClientId) -> Result<bool>;
    /// It has.
    async fn set_caught_up(&mut self, client: &ClientId) -> Result<()>;
    /// Nobody has, since the database was restored just now.
    async fn forget_caught_up(&mut self) -> Result<()>;
    /// The issuing CAs whose certificates are accepted, or were.
    async fn issuing_cas(&mut self) -> Result<Vec<IssuingCa>>;
    /// Notes an issuing CA, in place of what was noted of the same certificate.
    async fn put_issuing_ca(&mut self, ca: &IssuingCa) -> Result<()>;
    /// The newest number of the change sequence.
    async fn last_change(&mut self) -> Result<i64>;
    /// What the database's own machine says the time is, for what several managers have to agree on; none where the database is
    /// this process's file.
    async fn clock(&mut self) -> Result<Option<Timestamp>>;
}

/// What people call jobs, and what was put there by files.
#[async_trait]
pub trait Configurations {
    /// Gives a job an alias: a free one, or that of the job `before`. [`StoreError::Exists`] if another job has it.
    async fn put_alias(&mut self, alias: &JobAlias, job: &JobId, before: Option<&JobId>) -> Result<()>;
    /// Takes a job's alias away.
    async fn drop_alias(&mut self, job: &JobId) -> Result<()>;
    /// The job that got the alias last. For update on databases with row locks.
    async fn job_by_alias(&mut self, alias: &JobAlias) -> Result<Option<JobId>>;
    /// The alias of a job.
    async fn alias(&mut self, job: &JobId) -> Result<Option<JobAlias>>;
    /// All aliases, in their order.
    async fn aliases(&mut self) -> Result<Vec<(JobAlias, JobId)>>;
    /// The objects of a kind that were put there by files, perhaps some that are no more: the uid of a group, policy or question, the
    /// id of a job.
    async fn configured(&mut self, kind: &str) -> Result<Vec<String>>;
    /// Notes that an object was put there by files.
    async fn configure(&mut self, kind: &str, id: &str) -> Result<()>;
    /// It no longer counts as that.
    async fn forget_configured(&mut self, kind: &str, id: &str) -> Result<()>;
}

/// The audit log. Nothing changes an entry, and the database refuses to.
#[async_trait]
pub trait Audit {
    /// Appends to the audit log; the entry's sequence and its place in this process' chain are given by the store.
    async fn audit(&mut self, entry: &AuditEntry) -> Result<()>;
    /// The audit log, the newest first (`after` = sequence), only about `object` if given.
    async fn list_audit(&mut self, page: &Page, object: Option<&str>) -> Result<Vec<AuditRecord>>;
    /// The audit log, the oldest first (`after` = sequence).
    async fn audit_after(&mut self, page: &Page) -> Result<Vec<AuditRecord>>;
    /// The sealed segments, the oldest first (`after` = number).
    async fn list_audit_segments(&mut self, page: &Page) -> Result<Vec<AuditSegment>>;
    /// The newest sealed segment.
    async fn last_audit_segment(&mut self) -> Result<Option<AuditSegment>>;
    /// Adds a sealed segment. One of that number is [`StoreError::Exists`]: another manager sealed it.
    async fn insert_audit_segment(&mut self, segment: &AuditSegment) -> Result<()>;
    /// Marks a segment as dropped and deletes its entries; gives back how many. One that isn't there, or is dropped already,
    /// fails the unit.
    async fn drop_audit_segment(&mut self, segment: &AuditSegment, now: Timestamp) -> Result<u64>;
}

/// Events, which of them were told already, and how far the hooks are.
#[async_trait]
pub trait Events {
    /// Adds an event; its cursor is set by the store: a number of the change sequence that no other event has, so that the order of
    /// cursors is the order of commits.
    async fn insert_event(&mut self, event: &Event) -> Result<()>;
    /// Events between two cursors, both left out, the newest first.
    async fn list_events(&mut self, after: i64, before: i64, filter: &EventFilter, limit: u32) -> Result<Vec<Event>>;
    /// Events after a cursor, the oldest first.
    async fn events_after(&mut self, after: i64, filter: &EventFilter, limit: u32) -> Result<Vec<Event>>;
    /// The cursor of the first event from this time on.
    async fn first_event_since(&mut self, time: Timestamp) -> Result<Option<i64>>;
    /// Cursors and times of the oldest events.
    async fn oldest_events(&mut self, limit: u32) -> Result<Vec<(i64, Timestamp)>>;
    /// The cursor of the newest event but `keep`: the first that is too many where so many are kept.
    async fn event_before_newest(&mut self, keep: u32) -> Result<Option<i64>>;
    /// Drops every event up to this cursor, and remembers that; gives back how many.
    async fn drop_events(&mut self, up_to: i64) -> Result<u64>;
    /// Up to which cursor events were dropped.
    async fn events_dropped(&mut self) -> Result<i64>;
    /// What was told of these conditions last: the occurrences by key.
    async fn event_marks(&mut self, keys: &[String]) -> Result<BTreeMap<String, String>>;
    /// Notes that this occurrence of a condition was told. False if it had been, by whichever manager.
    async fn mark_event(&mut self, key: &str, occurrence: &str) -> Result<bool>;
    /// The condition holds no more: the next occurrence is a new one, whatever it is.
    async fn unmark_event(&mut self, key: &str) -> Result<()>;
    /// How far a hook is. For update on databases with row locks.
    async fn hook(&mut self, name: &str) -> Result<Option<Hook>>;
    /// Adds a hook that begins after its cursor. One of that name is [`StoreError::Exists`].
    async fn insert_hook(&mut self, hook: &Hook) -> Result<()>;
    /// Writes every column of a hook.
    async fn save_hook(&mut self, hook: &Hook) -> Result<()>;
}
