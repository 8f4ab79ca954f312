//! The nouns as the manager keeps them: plain data, one type per row of the store.

use crate::{approval::Voice, relations::Need, terms::JobTerms};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    AttemptId, ClientId, Digest, GroupName, JobId, LabelKey, OperatorName, PackageName, ParameterName, PolicyName, QuestionName, Timestamp,
    TokenId, Uid, Version,
    facts::Package as InstalledPackage,
    manifest::{Dependency, Manifest, Parameter, Platform, Present, Requirement, Supersedes, relations::Values},
    question::AnswerRule,
    state::{
        AppliesTo, CancelReason, CancelStage, ClientKind, ClientState, ExecutionState, HoldReason, Intent, JobState, JoinMode, OnMismatch,
        Purpose, Role, Source, Trigger,
    },
    version::Ordering,
};

/// A managed machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// Chosen by the manager, for ever.
    pub id: ClientId,
    /// A machine or a relay.
    pub kind: ClientKind,
    /// The site that it belongs to: its higher system.
    pub site: Uid,
    /// Since when it belongs there.
    pub site_since: Timestamp,
    /// What it may do.
    pub state: ClientState,
    /// What the machine calls itself.
    pub hostname: String,
    /// The address of its last connection, without the port.
    pub address: String,
    /// The machine, as the agent says.
    pub machine_id: String,
    /// The machine's start, as the agent says.
    pub boot_id: String,
    /// The counter of its last session.
    pub session_counter: u64,
    /// The agent's version.
    pub agent_version: String,
    /// The facts as JSON, without the packages of the machine, which are in the inventory; empty until they came.
    pub facts: String,
    /// The digest of the facts as the agent has them, by which agent and manager compare them.
    pub facts_digest: Option<Digest>,
    /// When the facts came.
    pub facts_time: Option<Timestamp>,
    /// What operators and the token said.
    pub labels: BTreeMap<LabelKey, String>,
    /// What the user answered.
    pub answers: BTreeMap<String, String>,
    /// The token that it enrolled with.
    pub token: Option<TokenId>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub key: [u8; 32],
    /// When it enrolled.
    pub enrolled: Timestamp,
    /// When it was first let in.
    pub activated: Option<Timestamp>,
    /// When it was last heard of; written in batches.
    pub last_seen: Timestamp,
    /// Whether the policies for new clients have looked at it.
    pub greeted: bool,
    /// A client with the same machine id that enrolled earlier.
    pub duplicate_of: Option<ClientId>,
    /// What an operator should know: why it is quarantined.
    pub notice: String,
    /// When its machine was replaced with a token for that: what was installed before is gone.
    pub replaced: Option<Timestamp>,
    /// How far the machine's clock was ahead of the manager's when it last connected (milliseconds).
    pub skew: Option<i64>,
    /// When it was archived: it is in no list and no job reaches it, until it connects again or an operator takes it back.
    pub archived: Option<Timestamp>,
    /// When an operator took it back from the archive last: its silence counts from then.
    pub unarchived: Option<Timestamp>,
    /// Grows with every change of the row but `last_seen`; from the one sequence of the manager.
    pub change: i64,
}

/// What is shown of a client beside something of its: without its facts, which may be large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientBrief {
    /// Which.
    pub id: ClientId,
    /// What it may do.
    pub state: ClientState,
    /// What the machine calls itself.
    pub hostname: String,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// When it was archived.
    pub archived: Option<Timestamp>,
}

/// A lease that lasts longer than the usual one, since a maintenance window or a start time lies ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongLease {
    /// Whose.
    pub attempt: AttemptId,
    /// Until when, by the clock that all managers have in common.
    pub until: Timestamp,
    /// How long it was when it was given (seconds).
    pub seconds: u32,
}

/// A question that operators ask the users of machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// For ever; the name can be used again.
    pub uid: Uid,
    /// Its name, by which conditions know the answers.
    pub name: QuestionName,
    /// What the user is asked.
    pub prompt: String,
    /// What an answer may be.
    pub rule: AnswerRule,
    /// When it was made.
    pub created: Timestamp,
    /// Grows with every change of the row.
    pub change: i64,
}

/// A piece of software as it is installed somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title {
    /// Given by the database, for as long as somebody has it.
    pub id: i64,
    /// What, and who installed it.
    pub package: InstalledPackage,
    /// On how many clients.
    pub clients: u64,
}

/// A machine that showed a client's key while nobody can say which machine is the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Whose key.
    pub client: ClientId,
    /// The machine, as the agent says.
    pub machine_id: String,
    /// The machine's start, as the agent says.
    pub boot_id: String,
    /// The address that it called from, without the port.
    pub address: String,
    /// The counter of its last session.
    pub session_counter: u64,
    /// The serial number of the certificate that it showed.
    pub serial: String,
    /// When it was last seen.
    pub seen: Timestamp,
    /// An operator said that this one is the client.
    pub kept: bool,
}

/// The certificate of an issuing CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuingCa {
    /// DER.
    pub certificate: Vec<u8>,
    /// For whom it issues: `agents`, `operators` or `servers`.
    pub authority: String,
    /// Until when what it issued is accepted; none: it issues.
    pub until: Option<Timestamp>,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// The serial number in hex.
    pub serial: String,
    /// Whose it is.
    pub subject: Subject,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
    /// The public key itself (SubjectPublicKeyInfo, DER): outcomes are checked against it.
    pub public_key: Vec<u8>,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Whether it is accepted.
    pub state: CertificateState,
}

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A client's agent.
    Client(ClientId),
    /// An operator.
    Operator(OperatorName),
}

/// Whether a certificate is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateState {
    /// Issued, and not used yet: the one before it is still good.
    Issued,
    /// In use.
    Active,
    /// A newer one was used.
    Superseded,
    /// Refused.
    Revoked,
}

impl CertificateState {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            CertificateState::Issued => "ISSUED",
            CertificateState::Active => "ACTIVE",
            CertificateState::Superseded => "SUPERSEDED",
            CertificateState::Revoked => "REVOKED",
        }
    }
}

/// An enrolment token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its public id.
    pub id: TokenId,
    /// The hash of its secret.
    pub secret_hash: [u8; 32],
    /// For people.
    pub description: String,
    /// How often it can be used.
    pub uses: u32,
    /// How often it was.
    pub used: u32,
    /// Until when.
    pub expires: Timestamp,
    /// Networks (CIDR) inside which clients are let in at once; none: everywhere.
    pub networks: Vec<String>,
    /// Host names or machine ids that are let in at once; none: all.
    pub expected: Vec<String>,
    /// Groups (uid) that its clients are put into.
    pub groups: Vec<Uid>,
    /// Labels that its clients get.
    pub labels: BTreeMap<LabelKey, String>,
    /// The client whose machine it replaces: whoever enrols with it becomes that client.
    pub replaces: Option<ClientId>,
    /// When it was made.
    pub created: Timestamp,
    /// Who made it.
    pub creator: String,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

/// A named destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// For ever.
    pub uid: Uid,
    /// Unique among those that exist.
    pub name: GroupName,
    /// For people.
    pub description: String,
    /// What a client says of itself can't place it here.
    pub restricted: bool,
    /// Who may join from a client.
    pub join_mode: JoinMode,
    /// The hash of the password, for `PASSWORD`.
    pub join_hash: Option<String>,
    /// How many members it has; kept by the store.
    pub members: i64,
    /// When it was made.
    pub created: Timestamp,
    /// Changes with every change.
    pub change: i64,
}

/// That a client belongs to a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Membership {
    /// The group.
    pub group: Uid,
    /// The client.
    pub client: ClientId,
    /// What put it there.
    pub source: Source,
    /// The policy's or token's id or the operator's name; empty for the client itself.
    pub source_name: String,
    /// Since when.
    pub since: Timestamp,
}

/// A rule that registers clients into a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// For ever.
    pub uid: Uid,
    /// Unique among those that exist.
    pub name: PolicyName,
    /// The group.
    pub group: Uid,
    /// What makes it look at a client.
    pub trigger: Trigger,
    /// The condition; empty matches every client.
    pub condition: String,
    /// Which clients it means.
    pub applies_to: AppliesTo,
    /// What happens to a member that no longer matches.
    pub on_mismatch: OnMismatch,
    /// For people.
    pub description: String,
    /// When it was made: a client activated earlier is no new one.
    pub created: Timestamp,
    /// Changes with every change.
    pub change: i64,
}

/// A named piece of software.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    /// For ever.
    pub uid: Uid,
    /// Unique among those that exist.
    pub name: PackageName,
    /// When it was first pushed.
    pub created: Timestamp,
}

/// What of a manifest the manager's decisions go by, as it was when the version was pushed. The agent goes by what is signed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// By whose rules its versions compare.
    pub ordering: Ordering,
    /// On which machines it runs.
    pub platform: Platform,
    /// What a client must be and have.
    pub requirements: Vec<Requirement>,
    /// What has to be installed before it.
    pub depends_on: Vec<Dependency>,
    /// Whose place it takes.
    pub supersedes: Vec<Supersedes>,
    /// What whoever orders it may set.
    pub parameters: BTreeMap<ParameterName, Parameter>,
    /// How long its installation takes (seconds), if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u32>,
}

impl Terms {
    /// The terms of this manifest.
    pub fn of(manifest: &Manifest) -> Terms {
        Terms {
            ordering: manifest.ordering,
            platform: manifest.platform.clone(),
            requirements: manifest.requirements.clone(),
            depends_on: manifest.depends_on.clone(),
            supersedes: manifest.supersedes.clone(),
            parameters: manifest.parameters.clone(),
            duration: manifest.duration,
        }
    }
}

/// A delta between two versions, from when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The manifest of the version that a client has.
    pub old: Digest,
    /// The manifest of the version that it makes.
    pub new: Digest,
    /// The package that the new one is a version of.
    pub package: Uid,
    /// When it was first asked for.
    pub asked: Timestamp,
    /// When a manager took it to make it, or last said that it still does.
    pub taken: Option<Timestamp>,
    /// How often one took it.
    pub tries: u32,
    /// When it was made, or found to be of no use.
    pub made: Option<Timestamp>,
    /// What was made, if it is of use.
    pub found: Option<MadeDelta>,
}

impl Delta {
    /// One that is asked for now.
    pub fn asked(old: Digest, new: Digest, package: Uid, now: Timestamp) -> Delta {
        Delta { old, new, package, asked: now, taken: None, tries: 0, made: None, found: None }
    }
}

/// A delta that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeDelta {
    /// Its address.
    pub digest: Digest,
    /// How many bytes it has, without its frames.
    pub length: u64,
    /// How many bytes are fetched for it, with its frames.
    pub bytes: u64,
}

/// One immutable version of a package.
#[derive(Debug, Clone, PartialEq)]
pub struct PackageVersion {
    /// For ever.
    pub uid: Uid,
    /// The package.
    pub package: Uid,
    /// The package's name.
    pub name: PackageName,
    /// As its publisher writes it.
    pub version: Version,
    /// Grows with every release.
    pub release: u64,
    /// For people.
    pub description: String,
    /// The signed envelope, as it came.
    pub envelope: Vec<u8>,
    /// The digest of the manifest, which is content.
    pub manifest: Digest,
    /// The length of the manifest (bytes).
    pub manifest_length: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// How many files, links and directories.
    pub files: u32,
    /// From when on it may no longer be installed.
    pub expires: Option<Timestamp>,
    /// What of its manifest the manager's own decisions go by.
    pub terms: Terms,
    /// When it was withdrawn, and why.
    pub withdrawn: Option<(Timestamp, String)>,
    /// When it was pushed.
    pub created: Timestamp,
    /// Who pushed it.
    pub creator: String,
}

impl PackageVersion {
    /// How it would stand to others on a machine.
    pub fn present(&self) -> Present {
        Present {
            package: self.name.clone(),
            version: self.version.clone(),
            ordering: self.terms.ordering,
            supersedes: self.terms.supersedes.clone(),
        }
    }
}

/// An order to install packages on groups and clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// For ever.
    pub id: JobId,
    /// Where it is.
    pub state: JobState,
    /// For people.
    pub description: String,
    /// 1 (first) to 9.
    pub priority: u8,
    /// Go on with the next package although one failed.
    pub continue_on_failure: bool,
    /// After this nothing is started.
    pub expires: Option<Timestamp>,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The newest revision of its packages.
    pub revision: i64,
    /// Taken out of the lists.
    pub archived: bool,
    /// The job that is canceled when this one starts.
    pub replaces: Option<JobId>,
    /// Only clients for which this holds when their turn comes get it; empty for all.
    pub condition: String,
    /// What it requires of a machine besides what its packages do.
    pub requirements: Vec<Requirement>,
    /// How it is carried out.
    pub terms: JobTerms,
    /// A condition as a destination: it reaches every client for which that held once since it was started; empty for none.
    pub clients_where: String,
    /// The job whose changes it puts back.
    pub rolls_back: Option<JobId>,
    /// Changes with every change.
    pub change: i64,
}

/// One package of a job, in one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPackage {
    /// The package's name.
    pub package: PackageName,
    /// The version that was pinned; none in a draft that did not name one.
    pub version: Option<Uid>,
    /// The pinned version's text, for people.
    pub version_text: String,
    /// Follows the newest version.
    pub follow: bool,
    /// Install also where it is there already.
    pub replace_always: bool,
    /// What is done with it.
    pub intent: Intent,
    /// The values of its parameters that the job gives.
    pub values: Values,
    /// For whom it is there; none if it was asked for.
    pub needed: Vec<Need>,
}

/// A destination of a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The members of a group, now and later.
    Group(Uid),
    /// One client.
    Client(ClientId),
}

/// One job on one client: the row behind the status of each client.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    /// The job.
    pub job: JobId,
    /// The client.
    pub client: ClientId,
    /// Where it is: the state of its newest attempt.
    pub state: ExecutionState,
    /// The word for why; empty where there is nothing to say.
    pub reason: String,
    /// A sentence for people; empty where there is nothing to say.
    pub detail: String,
    /// When it entered the state.
    pub entered: Timestamp,
    /// Its newest attempt.
    pub attempt: Option<AttemptId>,
    /// How many attempts there have been.
    pub attempts: u32,
    /// The revision of the job that the newest attempt was offered.
    pub revision: i64,
    /// The package that is worked on, from 0.
    pub item: u32,
    /// Bytes that are there.
    pub bytes_done: u64,
    /// Bytes that there will be.
    pub bytes_total: u64,
    /// The step that runs.
    pub step: String,
    /// A cancellation that the client has not acknowledged.
    pub cancel: Option<CancelRequest>,
    /// By what the manager holds it back while it is QUEUED.
    pub hold: Option<HoldReason>,
    /// In which stage of the job's rollout it was let go, from 1; 0 if in none.
    pub stage: u32,
    /// What its newest attempt is for; the next one where it is queued.
    pub purpose: Purpose,
    /// How often what was installed was found missing.
    pub drifts: u32,
    /// Grows with every change; from the one sequence of the manager.
    pub change: i64,
}

/// A cancellation that waits for its client.
#[derive(Debug, Clone, PartialEq)]
pub struct CancelRequest {
    /// Why.
    pub reason: CancelReason,
    /// When the last lease that the client can hold has run out: then it is final without an answer.
    pub deadline: Timestamp,
    /// How far it is.
    pub stage: CancelStage,
}

impl CancelRequest {
    /// One that nobody has answered.
    pub fn asked(reason: CancelReason, deadline: Timestamp) -> CancelRequest {
        CancelRequest { reason, deadline, stage: CancelStage::Asked }
    }
}

/// One try of an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Committed before it is offered.
    pub id: AttemptId,
    /// The job.
    pub job: JobId,
    /// The client.
    pub client: ClientId,
    /// Which try, from 1.
    pub number: u32,
    /// The job's revision.
    pub revision: i64,
    /// Where it is.
    pub state: ExecutionState,
    /// What it is for.
    pub purpose: Purpose,
    /// When it was made.
    pub created: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The outcome as the agent signed it; empty until there is one.
    pub outcome: Vec<u8>,
    /// The agent's signature.
    pub signature: Vec<u8>,
}

/// A part of the end of a log file of what failed in an attempt, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The attempt.
    pub attempt: AttemptId,
    /// Which of its packages, from 0.
    pub item: u32,
    /// The file, as the package names it.
    pub path: String,
    /// Which part, from 0.
    pub part: u32,
    /// Bytes of the file before the first part.
    pub cut: u64,
    /// Bytes of this part.
    pub size: u64,
}

/// How many executions of a job are in each state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<ExecutionState, i64>);

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Grows with every entry; given by the store.
    pub sequence: i64,
    /// When.
    pub time: Timestamp,
    /// `operators/NAME`, `clients/ID`, `tokens/ID` or `manager`.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// On what.
    pub object: String,
    /// A sentence.
    pub detail: String,
}

/// An operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Operator {
    /// For ever: an operator's name is its identity.
    pub name: OperatorName,
    /// When it was made.
    pub created: Timestamp,
    /// Who made it: `operators/NAME` or `manager`.
    pub creator: String,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// Since when it can be a second person.
    pub voice: Voice,
    /// Changes with every change.
    pub change: i64,
}

/// A role of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Which.
    pub role: Role,
    /// The groups (uid) that it holds for; none: everywhere.
    pub groups: Option<BTreeSet<Uid>>,
}

/// Where the site's agents and operators are met.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// For ever.
    pub id: Uid,
    /// Where agents connect, `host:port`, in the order to try.
    pub addresses: Vec<String>,
}
