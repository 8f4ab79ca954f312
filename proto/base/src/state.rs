//! The states of clients, jobs and executions, and the words for the reasons that they carry.

use crate::{Invalid, quoted};
use serde::{Deserialize, Serialize};

/// An enum whose values have one word each, the same in the database, on the command line and, with its prefix, on the wire.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(Invalid::new(format!(concat!($what, " is one of ", $($word, " ",)+ "and not {}"), quoted(text)))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

words! {
    /// What a client may do.
    ClientState: "the state of a client" {
        /// Enrolled, but an operator has to approve it: may connect, gets no offers and no bytes.
        Pending = "PENDING",
        /// Gets work.
        Active = "ACTIVE",
        /// May connect, gets no offers and no bytes until it is released.
        Quarantined = "QUARANTINED",
        /// Gone for ever; its certificate is refused.
        Removed = "REMOVED",
    }
}

words! {
    /// Whether a client is in contact.
    Presence: "the presence of a client" {
        /// It is connected.
        Online = "ONLINE",
        /// It is not.
        Offline = "OFFLINE",
        /// It has been silent for longer than it may be: the limit `overdue` of the manager says for how long that is.
        Overdue = "OVERDUE",
    }
}

words! {
    /// What a client is.
    ClientKind: "the kind of a client" {
        /// A machine with an agent.
        Machine = "MACHINE",
        /// A manager that stands between clients and the one above it.
        Relay = "RELAY",
    }
}

words! {
    /// What an operator may do.
    Role: "a role" {
        /// Reads.
        Viewer = "VIEWER",
        /// Reads the audit log.
        Auditor = "AUDITOR",
        /// Lets machines in.
        Enroller = "ENROLLER",
        /// Pushes packages.
        Uploader = "UPLOADER",
        /// Orders jobs, and places clients in groups.
        Deployer = "DEPLOYER",
        /// Agrees to what needs a second person.
        Approver = "APPROVER",
        /// Everything.
        Admin = "ADMIN",
    }
}

words! {
    /// Where a membership came from.
    Source: "the source of a membership" {
        /// A policy registered it.
        Policy = "POLICY",
        /// An operator added it.
        Operator = "OPERATOR",
        /// Its enrolment token named the group.
        Token = "TOKEN",
        /// The client joined by itself.
        Client = "CLIENT",
    }
}

words! {
    /// Who may join a group from a client.
    JoinMode: "how clients join a group" {
        /// Any client.
        Open = "OPEN",
        /// Any client that gives the group's password.
        Password = "PASSWORD",
        /// None.
        Closed = "CLOSED",
    }
}

words! {
    /// What makes a policy look at a client.
    Trigger: "the trigger of a policy" {
        /// Once per client, when it is active and its first full facts and its token's labels are in.
        NewClient = "NEW_CLIENT",
        /// Whenever its facts or labels change.
        Inventory = "INVENTORY",
    }
}

words! {
    /// Which clients a policy means.
    AppliesTo: "the clients that a policy applies to" {
        /// Clients that became active after the policy was made.
        NewOnly = "NEW_ONLY",
        /// Those that were there already, too.
        All = "ALL",
    }
}

words! {
    /// What happens to a member that the policy no longer matches.
    OnMismatch: "what a policy does on a mismatch" {
        /// It stays.
        Keep = "KEEP",
        /// It leaves, if this policy had registered it.
        Remove = "REMOVE",
    }
}

words! {
    /// The state of a job.
    JobState: "the state of a job" {
        /// Can be changed; reaches nobody.
        Draft = "DRAFT",
        /// Starts by itself at its start time.
        Scheduled = "SCHEDULED",
        /// Reaches its destinations, later members included.
        Active = "ACTIVE",
        /// Starts nothing new.
        Paused = "PAUSED",
        /// Every execution is at an end, and no group can bring more.
        Completed = "COMPLETED",
        /// Ended by an operator.
        Canceled = "CANCELED",
        /// Ended by its expire time.
        Expired = "EXPIRED",
    }
}

words! {
    /// The state of an execution: that of its newest attempt.
    ExecutionState: "the state of an execution" {
        /// Waits for the client, for its turn, or for a retry at a time.
        Queued = "QUEUED",
        /// An attempt was offered to the client's agent.
        Offered = "OFFERED",
        /// The agent fetches what it lacks.
        Downloading = "DOWNLOADING",
        /// The agent has everything and waits, for the reason given.
        Waiting = "WAITING",
        /// A step runs.
        Installing = "INSTALLING",
        /// The detection rules run.
        Verifying = "VERIFYING",
        /// What was there before is being put back.
        Restoring = "RESTORING",
        /// Installed by this job.
        Succeeded = "SUCCEEDED",
        /// Was there already.
        AlreadyInstalled = "ALREADY_INSTALLED",
        /// Was to be uninstalled, and was not there.
        AlreadyAbsent = "ALREADY_ABSENT",
        /// Did not work.
        Failed = "FAILED",
        /// A rule said no.
        Rejected = "REJECTED",
        /// Called off before it started.
        Canceled = "CANCELED",
        /// The job's time was over before it started.
        Expired = "EXPIRED",
        /// It can't be known what happened: the machine lost power, or the journal was lost.
        Interrupted = "INTERRUPTED",
    }
}

words! {
    /// What a job does with a package.
    Intent: "what is done with a package" {
        /// It is to be there.
        Install = "INSTALL",
        /// It is to be gone.
        Uninstall = "UNINSTALL",
        /// Its bytes are to be on the machine; nothing is installed.
        Prefetch = "PREFETCH",
    }
}

impl ExecutionState {
    /// Whether what was wanted is so: done, or so already.
    pub fn is_good(self) -> bool {
        matches!(self, ExecutionState::Succeeded | ExecutionState::AlreadyInstalled | ExecutionState::AlreadyAbsent)
    }

    /// Only a new attempt leaves it.
    pub fn is_end(self) -> bool {
        self >= ExecutionState::Succeeded
    }

    /// The counter that it belongs to.
    pub fn counter(self) -> Counter {
        use ExecutionState::*;
        match self {
            Succeeded | AlreadyInstalled | AlreadyAbsent => Counter::Finished,
            Failed | Interrupted | Expired => Counter::Error,
            Rejected => Counter::Rejected,
            Canceled => Counter::Canceled,
            Queued | Offered | Waiting => Counter::Waiting,
            Downloading | Installing | Verifying | Restoring => Counter::Running,
        }
    }
}

words! {
    /// The counters of a job; they add up to the number of its executions.
    Counter: "a counter" {
        /// Succeeded, or was so already.
        Finished = "FINISHED",
        /// Failed, interrupted or expired.
        Error = "ERROR",
        /// A rule said no.
        Rejected = "REJECTED",
        /// Called off.
        Canceled = "CANCELED",
        /// Queued, offered or waiting.
        Waiting = "WAITING",
        /// Downloading, installing, verifying or restoring.
        Running = "RUNNING",
    }
}

words! {
    /// What becomes of what a job installed where it does not reach the client any more.
    OnLeave: "what a job does on leaving" {
        /// It stays.
        Keep = "KEEP",
        /// It is uninstalled.
        Uninstall = "UNINSTALL",
    }
}

// Not derived: the macro makes no attributes for words.
#[allow(clippy::derivable_impls)]
impl Default for OnLeave {
    fn default() -> Self {
        OnLeave::Keep
    }
}

words! {
    /// At which moment of the machine's life something begins.
    Timing: "a timing" {
        /// As soon as it may.
        Now = "NOW",
        /// At the next start of the machine, before anything else.
        AtBoot = "AT_BOOT",
        /// When the machine goes down.
        AtShutdown = "AT_SHUTDOWN",
    }
}

// Not derived: the macro makes no attributes for words.
#[allow(clippy::derivable_impls)]
impl Default for Timing {
    fn default() -> Self {
        Timing::Now
    }
}

words! {
    /// What an attempt is for.
    Purpose: "the purpose of an attempt" {
        /// What the job orders.
        Order = "ORDER",
        /// The same, for it was found missing: what earlier attempts installed does not count any more.
        Drift = "DRIFT",
        /// The client has left the job's reach, and what the job installed is uninstalled.
        Leave = "LEAVE",
    }
}

words! {
    /// Why an execution was canceled.
    CancelReason: "the reason of a cancellation" {
        /// An operator canceled the job.
        JobCanceled = "JOB_CANCELED",
        /// The client left every group of the job before anything started.
        LeftGroup = "LEFT_GROUP",
        /// The client was removed.
        ClientRemoved = "CLIENT_REMOVED",
        /// The job lost the destination that held the client.
        DestinationDeleted = "DESTINATION_DELETED",
        /// Another job for the same package on the same group took its place.
        Replaced = "REPLACED",
        /// The version was withdrawn before anything started.
        Withdrawn = "WITHDRAWN",
        /// The client was archived before anything started.
        ClientArchived = "CLIENT_ARCHIVED",
        /// The job was paused, or halted; it is queued again.
        JobPaused = "JOB_PAUSED",
        /// An operator aborted the job's rollout.
        JobAborted = "JOB_ABORTED",
        /// The client went out of contact before it accepted: its place in the stage is another's, and it is queued again.
        PlaceGiven = "PLACE_GIVEN",
        /// The job has a new revision, which is offered in its place.
        Revised = "REVISED",
        /// What the job installed was to be uninstalled, and the client came back before that began.
        CameBack = "CAME_BACK",
        /// An operator stopped it, or everything like it; it is queued again.
        Stopped = "STOPPED",
    }
}

words! {
    /// How far a cancellation is that an agent is asked for.
    CancelStage: "the stage of a cancellation" {
        /// The agent has not answered.
        Asked = "ASKED",
        /// The agent has: what it had begun goes on to its end, and it begins nothing after that.
        Acknowledged = "ACKNOWLEDGED",
        /// It has not, and its lease has run out: what it had begun goes on, and nothing of it can begin after that.
        LeaseOver = "LEASE_OVER",
    }
}

words! {
    /// What a cancellation that is not final waits for.
    CancelAwaits: "what a cancellation awaits" {
        /// The answer of an agent that is in contact.
        Acknowledgement = "ACKNOWLEDGEMENT",
        /// The end of the lease of one that is not.
        LeaseEnd = "LEASE_END",
        /// The end of a package that has begun.
        PackageEnd = "PACKAGE_END",
    }
}

words! {
    /// By what the manager itself holds a queued execution back. A stage comes first: whatever else holds rows leaves those alone
    /// that a stage holds.
    HoldReason: "what holds an execution" {
        /// Its stage of the job's rollout is not open yet, or full.
        Stage = "STAGE",
        /// An operator stopped everything, its client's group, or a package.
        Stopped = "STOPPED",
        /// The circuit breaker of a version that it installs is open.
        Breaker = "BREAKER",
        /// The budget that it is let go from is used up.
        Budget = "BUDGET",
        /// It failed, and its retry has its time.
        Retry = "RETRY",
        /// It is offered to the user of the machine, who has not chosen it.
        User = "USER",
    }
}

words! {
    /// What an execution waits for at the client.
    WaitReason: "the reason of a wait" {
        /// Another installation on the machine; they run one at a time.
        Turn = "TURN",
        /// A maintenance window or a time.
        Window = "WINDOW",
        /// The user.
        User = "USER",
        /// The machine's own administrator holds installations.
        LocalHold = "LOCAL_HOLD",
        /// A restart.
        Reboot = "REBOOT",
        /// The manager has to renew the permission to start.
        Lease = "LEASE",
        /// The next try, after one that may be repeated.
        Retry = "RETRY",
        /// The transfers of a group that the client is in are suspended.
        TransferSuspended = "TRANSFER_SUSPENDED",
        /// An agent that can do what the job asks.
        Agent = "AGENT",
    }
}

words! {
    /// What an execution that is not at an end waits for: at the client, at the manager, or from people. Every [`WaitReason`] and every
    /// [`HoldReason`] is one.
    Awaited: "what is awaited" {
        /// Its stage of the job's rollout.
        Stage = "STAGE",
        /// Somebody to let go on what was stopped.
        Stopped = "STOPPED",
        /// Somebody to close the circuit breaker of what it installs.
        Breaker = "BREAKER",
        /// Room in the budget that it is let go from.
        Budget = "BUDGET",
        /// The time of its retry, or of the next try at the client.
        Retry = "RETRY",
        /// The user of the machine: their choice, or their answer.
        User = "USER",
        /// Another installation on the machine.
        Turn = "TURN",
        /// A maintenance window.
        Window = "WINDOW",
        /// The start time of its job.
        StartTime = "START_TIME",
        /// The machine's own administrator.
        LocalHold = "LOCAL_HOLD",
        /// A restart of the machine.
        Reboot = "REBOOT",
        /// Permission to start.
        Lease = "LEASE",
        /// Transfers to be resumed.
        TransferSuspended = "TRANSFER_SUSPENDED",
        /// An agent that can do what the job asks.
        Agent = "AGENT",
        /// Its job to be resumed: somebody paused it, or its gate halted it.
        Paused = "PAUSED",
        /// A version that can be delivered.
        PackageUnavailable = "PACKAGE_UNAVAILABLE",
        /// Stored bytes that are whole.
        DataLoss = "DATA_LOSS",
        /// A second person.
        Approval = "APPROVAL",
        /// An operator to let the client in.
        ClientApproval = "CLIENT_APPROVAL",
        /// An operator to end the client's quarantine.
        ClientRelease = "CLIENT_RELEASE",
        /// The client to be in contact.
        Contact = "CONTACT",
        /// The client's facts, by which the job decides whether it is for it.
        Facts = "FACTS",
        /// The end of others that are under way at the client.
        Room = "ROOM",
        /// Word of what became of the attempt before.
        Settlement = "SETTLEMENT",
        /// The agent to accept the offer.
        Acceptance = "ACCEPTANCE",
        /// Bytes.
        Download = "DOWNLOAD",
        /// The end of a step.
        Step = "STEP",
        /// What the detection rules say.
        Detection = "DETECTION",
        /// What was there before to be back.
        Restoration = "RESTORATION",
        /// The end of a cancellation.
        Cancellation = "CANCELLATION",
    }
}

impl From<HoldReason> for Awaited {
    fn from(hold: HoldReason) -> Awaited {
        match hold {
            HoldReason::Stage => Awaited::Stage,
            HoldReason::Stopped => Awaited::Stopped,
            HoldReason::Breaker => Awaited::Breaker,
            HoldReason::Budget => Awaited::Budget,
            HoldReason::Retry => Awaited::Retry,
            HoldReason::User => Awaited::User,
        }
    }
}

impl From<WaitReason> for Awaited {
    fn from(wait: WaitReason) -> Awaited {
        match wait {
            WaitReason::Turn => Awaited::Turn,
            WaitReason::Window => Awaited::Window,
            WaitReason::User => Awaited::User,
            WaitReason::LocalHold => Awaited::LocalHold,
            WaitReason::Reboot => Awaited::Reboot,
            WaitReason::Lease => Awaited::Lease,
            WaitReason::Retry => Awaited::Retry,
            WaitReason::TransferSuspended => Awaited::TransferSuspended,
            WaitReason::Agent => Awaited::Agent,
        }
    }
}

words! {
    /// What went wrong, or why a rule said no. The word is stable; the sentence beside it is for people.
    ErrorKind: "the kind of an error" {
        /// Bytes could not be fetched from the higher system.
        Transfer = "TRANSFER",
        /// The higher system says that stored bytes are damaged.
        DataLoss = "DATA_LOSS",
        /// Not enough room on the client's disk.
        NoSpace = "NO_SPACE",
        /// The client's file system failed.
        ClientIo = "CLIENT_IO",
        /// What came is not what the publisher signed.
        ContentMismatch = "CONTENT_MISMATCH",
        /// The publisher's signature does not hold, or by a key that the client does not trust.
        SignatureInvalid = "SIGNATURE_INVALID",
        /// The manifest breaks a rule of its format, or needs a newer agent.
        ManifestInvalid = "MANIFEST_INVALID",
        /// Older than what this client has had.
        ReleaseTooOld = "RELEASE_TOO_OLD",
        /// Its publisher said that it may no longer be installed.
        PackageExpired = "PACKAGE_EXPIRED",
        /// Its publishers revoked it.
        PackageRevoked = "PACKAGE_REVOKED",
        /// The publishers' trust document or revocation list has expired: what they want now can't be known.
        TrustExpired = "TRUST_EXPIRED",
        /// Made for other machines.
        PlatformMismatch = "PLATFORM_MISMATCH",
        /// The machine is not or has not what the package, or the job, requires.
        RequirementNotMet = "REQUIREMENT_NOT_MET",
        /// The machine's own policy forbids it.
        LocalPolicy = "LOCAL_POLICY",
        /// The user refused.
        User = "USER",
        /// A program of a step could not be started.
        StepNotStarted = "STEP_NOT_STARTED",
        /// A step ended with an exit code that means failure, or by a signal.
        StepFailed = "STEP_FAILED",
        /// A step ran longer than its limit.
        StepTimeout = "STEP_TIMEOUT",
        /// After the installation the detection rules do not find it.
        NotDetected = "NOT_DETECTED",
        /// After the uninstallation the detection rules still find it.
        StillDetected = "STILL_DETECTED",
        /// A new agent ended, or did not reach the manager in time, when it was tried. The old one stayed.
        AgentNotConnected = "AGENT_NOT_CONNECTED",
        /// A step had started, and nothing can tell how it ended.
        Interrupted = "INTERRUPTED",
        /// The agent's journal was lost after the attempt had been accepted.
        JournalLost = "JOURNAL_LOST",
        /// A value of a parameter is none that the publisher allows.
        ParameterInvalid = "PARAMETER_INVALID",
        /// The package's bytes can't be had any more.
        PackageUnavailable = "PACKAGE_UNAVAILABLE",
        /// The client was out of contact when its turn came, and the job does not wait for it.
        Offline = "OFFLINE",
    }
}

impl ErrorKind {
    /// What `--kind communication` means: the way between client and manager failed, not the software.
    pub fn is_communication(self) -> bool {
        matches!(self, ErrorKind::Transfer | ErrorKind::DataLoss)
    }

    /// Whether a rule said no, rather than something failing.
    pub fn is_rejection(self) -> bool {
        matches!(self, ErrorKind::PlatformMismatch | ErrorKind::RequirementNotMet | ErrorKind::LocalPolicy | ErrorKind::User)
    }
}

words! {
    /// Which executions a re-execution means.
    RetryKind: "a kind of executions" {
        /// Those at an error, communication errors left out.
        Error = "ERROR",
        /// Those that wait: offered again at once, without a new attempt.
        Waiting = "WAITING",
        /// Those whose error was the way between client and manager.
        Communication = "COMMUNICATION",
        /// Those that a rule said no to.
        Rejected = "REJECTED",
    }
}

words! {
    /// What happened that somebody may want to hear of.
    EventKind: "the kind of an event" {
        /// A job was started, or stands again after it had ended.
        JobStarted = "JOB_STARTED",
        /// A job has ended, well or otherwise.
        JobEnded = "JOB_ENDED",
        /// An attempt failed, was rejected or interrupted.
        ExecutionFailed = "EXECUTION_FAILED",
        /// A rollout stopped by itself.
        JobHalted = "JOB_HALTED",
        /// A circuit breaker opened.
        BreakerOpened = "BREAKER_OPENED",
        /// A client has been silent for longer than it may be.
        ClientOverdue = "CLIENT_OVERDUE",
        /// A machine enrolled: as a new client, or in place of another machine.
        ClientEnrolled = "CLIENT_ENROLLED",
        /// A client waits for an operator's approval.
        ClientPending = "CLIENT_PENDING",
        /// A client was quarantined.
        ClientQuarantined = "CLIENT_QUARANTINED",
        /// A certificate is near its end and will not be renewed by itself.
        CertificateEndsSoon = "CERTIFICATE_ENDS_SOON",
        /// No client will be able to start a job that stands in a while.
        PackageEndsSoon = "PACKAGE_ENDS_SOON",
        /// An operator stopped everything, a group or a package.
        Stopped = "STOPPED",
        /// An operator let what was stopped go on.
        Resumed = "RESUMED",
        /// A change waits until a second person agrees.
        ApprovalNeeded = "APPROVAL_NEEDED",
        /// A second person has agreed to a change, or has not.
        ApprovalDecided = "APPROVAL_DECIDED",
    }
}

words! {
    /// Where a change is that needs a second person.
    ApprovalState: "the state of an approval" {
        /// Somebody has to decide.
        Pending = "PENDING",
        /// Somebody agreed, and it was done.
        Approved = "APPROVED",
        /// Somebody did not agree.
        Rejected = "REJECTED",
        /// Nobody decided in time.
        Expired = "EXPIRED",
    }
}

words! {
    /// What a plan says of a client.
    PlanVerdict: "the verdict of a plan" {
        /// It would be done there.
        Runs = "RUNS",
        /// It would be tried there: only the machine knows whether it can be done.
        Unknown = "UNKNOWN",
        /// Nothing would change: what is ordered is there already.
        AlreadyThere = "ALREADY_THERE",
        /// A rule says no.
        Rejected = "REJECTED",
    }
}

words! {
    /// How much an event matters.
    Severity: "the severity of an event" {
        /// What was expected.
        Info = "INFO",
        /// Somebody should look.
        Warning = "WARNING",
        /// Something stands still until somebody has looked.
        Error = "ERROR",
    }
}

impl EventKind {
    /// How much an event of this kind matters, unless it says otherwise.
    pub fn severity(self) -> Severity {
        match self {
            EventKind::JobStarted | EventKind::JobEnded | EventKind::ClientEnrolled | EventKind::Resumed | EventKind::ApprovalDecided => {
                Severity::Info
            }
            EventKind::JobHalted | EventKind::BreakerOpened | EventKind::Stopped => Severity::Error,
            _ => Severity::Warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_counter_and_every_end_an_end_counter() {
        for state in ExecutionState::ALL {
            let open = matches!(state.counter(), Counter::Waiting | Counter::Running);
            assert_eq!(state.is_end(), !open, "{state}");
            assert_eq!(state.as_str().parse::<ExecutionState>().unwrap(), *state);
        }
        assert!("queued".parse::<ExecutionState>().unwrap_err().0.contains("QUEUED OFFERED"));
    }
}
