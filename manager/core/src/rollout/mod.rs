//! Rollouts: a job reaches its clients in stages, and stops by itself where it does harm.
//!
//! **A stage** has a share: so many clients in all, or so many beyond those that the stages before let go, or the members of
//! some groups. It lets go the next queued rows of the job, in the order of [`turn`], until its share is taken; when all that it let go
//! has ended well enough, and a soak time has passed, the next stage opens. After the last one comes *the rest*: everybody else, and
//! whoever the job reaches later, at once. Shares are counted over the job's *life*: a standing job on a group that is still empty goes
//! through the same stages, one client at a time. A share in percent is of all rows that the job has at that moment. Rows only
//! grow, and so do shares.
//!
//! **By default** ([`default_stages`]) the first 20 start freely: as soon as they are there, all at once, without a soak. Beyond them nobody
//! starts until these have ended: then comes a canary of 5 more clients, or 1 % where that is more, which soaks for 15 minutes; then 10 % of
//! the job's rows in all, then 50 %, each with the same soak; then the rest. So a package that breaks every machine, sent to 200 clients
//! at once, reaches the first 20 and stops there, for they have a gate as every stage has; one that breaks every fifth machine may get as
//! far as the canary. A job with fewer than 20 clients notices nothing of all this but the gate.
//!
//! **A place** in a stage is taken by a row that the stage let go. Where nothing was done to the machine it is free again and the next in order
//! gets it: a row that was rejected or called off, that expired, or whose package was there (or gone) already, says nothing about the
//! package. Only clients in contact are let go. Who goes out of contact before it accepted gives its place back. So a client that was never
//! online in a stage is not counted in it, and the next takes its place; a share that cannot be filled because nobody else is in contact holds
//! up nobody who is. A stage is not over before its share is full.
//!
//! **The gate** counts failures: rows that [`is_failure`] names, and *silence*. A client is silent that is, since it was offered the job, in
//! one state other than `WAITING` for longer than the gate's silence time, or out of contact for as long while it waits: for a window, its
//! user, a local hold or a restart it may wait as long as it likes while it is in contact. More failures than the gate tolerates halt
//! the job: its state is `PAUSED`, nothing is offered any more, what was offered and has not begun is called back. A stage goes on being judged
//! after it has passed. A row that was run again counts as what it is now.
//!
//! In the rest the gate slides over the newest [`WINDOW`] outcomes.
//!
//! Everything here is a pure function of what the database says: two managers, or one before and after a restart, have one opinion.

mod decide;
mod say;
#[cfg(test)]
mod tests;

pub use decide::{Decision, decide, promote};
pub use say::{Figures, figures, stage_name, status};

use crate::model::Execution;
use serde::{Deserialize, Serialize};
use sutler_base::{
    Digest, GroupName, JobId, Timestamp, Uid,
    state::{ExecutionState, HoldReason},
};

/// How many stages a job has at most.
pub const STAGES_MAX: usize = 20;
/// How many groups a stage names at most.
pub const GROUPS_MAX: usize = 20;
/// The longest soak and silence time (seconds): 90 days.
pub const SECONDS_MAX: u32 = 90 * 24 * 3600;
/// Over how many of the newest outcomes the gate of the rest slides. So many that one broken machine in twenty does not halt a job that
/// goes well, so few that a package that turns bad is noticed after a dozen.
pub const WINDOW: u32 = 50;
/// By how much the tolerance in percent of a stage is multiplied for the window: it is looked at after every outcome, so that by chance
/// alone some fifty neighbours have twice as many failures as all together.
const WINDOW_FACTOR: u32 = 2;
/// How long a client may be out of contact before its place in a stage is another's (seconds): a manager that was restarted knows
/// of nobody, and who reconnects is back sooner than that.
pub const CONTACT_SECONDS: i64 = 60;

/// How a job is rolled out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollout {
    /// Everybody at once, and nothing stops it.
    pub all_at_once: bool,
    /// The stages; none for those by default.
    pub stages: Vec<Stage>,
    /// What stops it.
    pub gate: Gate,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Whom it lets go.
    pub share: Share,
    /// How long nothing else starts once it went well.
    pub soak_seconds: u32,
}

/// Whom a stage lets go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Share {
    /// So many clients, or so many percent of the job's rows where that is more, with those of the stages before.
    UpTo {
        /// Clients.
        count: u32,
        /// Percent.
        percent: u32,
    },
    /// So many clients, or so many percent of the job's rows where that is more, besides those of the stages before.
    Beyond {
        /// Clients.
        count: u32,
        /// Percent.
        percent: u32,
    },
    /// The members of these groups that the job reaches.
    Members(Vec<Pilot>),
}

/// A group that goes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pilot {
    /// What it was called when the job was made.
    pub name: GroupName,
    /// The group; none until the job is made.
    pub uid: Option<Uid>,
}

/// What stops a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// How many failures are tolerated.
    pub tolerated: Tolerance,
    /// How long a client may stay in one state before it counts as silent (seconds).
    pub silence_seconds: u32,
}

/// How many failures are tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tolerance {
    /// So many in a stage, and among the newest outcomes of the rest.
    Count(u32),
    /// So many percent of a stage, rounded up.
    Percent(u32),
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { tolerated: Tolerance::Percent(10), silence_seconds: 3600 }
    }
}

impl Tolerance {
    /// How many failures are tolerated in a stage of so many clients.
    pub fn of(self, places: u64) -> u64 {
        match self {
            Tolerance::Count(n) => u64::from(n),
            Tolerance::Percent(p) => percent(places, p),
        }
    }

    /// How many failures are tolerated among the newest [`WINDOW`] outcomes.
    pub fn of_window(self) -> u64 {
        match self {
            Tolerance::Count(n) => u64::from(n),
            Tolerance::Percent(p) => percent(u64::from(WINDOW), p.saturating_mul(WINDOW_FACTOR)),
        }
    }
}

/// So many percent of a number, rounded up.
fn percent(of: u64, percent: u32) -> u64 {
    of.saturating_mul(u64::from(percent)).div_ceil(100)
}

/// The stages of a job that says nothing about them; see the module.
pub fn default_stages() -> Vec<Stage> {
    const SOAK: u32 = 15 * 60;
    vec![
        Stage { share: Share::UpTo { count: 20, percent: 0 }, soak_seconds: 0 },
        Stage { share: Share::Beyond { count: 5, percent: 1 }, soak_seconds: SOAK },
        Stage { share: Share::UpTo { count: 0, percent: 10 }, soak_seconds: SOAK },
        Stage { share: Share::UpTo { count: 0, percent: 50 }, soak_seconds: SOAK },
    ]
}

impl Rollout {
    /// The stages of this job; none where all start at once.
    pub fn stages(&self) -> Vec<Stage> {
        match (self.all_at_once, self.stages.is_empty()) {
            (true, _) => vec![],
            (false, true) => default_stages(),
            (false, false) => self.stages.clone(),
        }
    }
}

impl Share {
    /// How many places the stage has, if the stages before it let `before` clients go and the job has `total` rows; none for the members of
    /// groups, who are as many as they are.
    pub fn places(&self, before: u64, total: u64) -> Option<u64> {
        match self {
            Share::UpTo { count, percent: p } => Some(u64::from(*count).max(percent(total, *p)).saturating_sub(before)),
            Share::Beyond { count, percent: p } => Some(u64::from(*count).max(percent(total, *p))),
            Share::Members(_) => None,
        }
    }
}

/// How far a job is in its stages. It grows with what happens and is kept with the job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Position {
    /// The stage that is open, from 0; as many as there are stages in the rest.
    pub stage: u32,
    /// How many clients the stages before it let go.
    pub before: u64,
    /// How many places each of the stages before had.
    pub passed: Vec<u64>,
    /// Since when all that it let go has ended well enough (milliseconds since 1970).
    pub settled_ms: Option<i64>,
    /// From when on failures count (milliseconds since 1970).
    pub counted_from_ms: i64,
    /// Why nothing starts, while that is so.
    pub halt: Option<Halt>,
}

/// Why nothing of a job starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// A sentence.
    pub why: String,
    /// `gate`, or the operator who paused it.
    pub by: String,
    /// Since when (milliseconds since 1970).
    pub at_ms: i64,
}

/// The one that halts a job by itself, as it is called in [`Halt::by`].
pub const GATE: &str = "gate";

impl Position {
    /// The word of its number as rows have it: from 1.
    pub fn number(&self) -> u32 {
        self.stage.saturating_add(1)
    }
}

/// What the database says of a job's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many rows the job has.
    pub total: u64,
    /// Places that are taken in the open stage.
    pub taken: u64,
    /// Of these: at an end, whichever.
    pub ended: u64,
    /// Of these: waiting at the client, which is not silent.
    pub waiting: u64,
    /// Of these: silent.
    pub silent: u64,
    /// Whether a member of the open stage's groups is in contact and was not let go yet.
    pub members_left: bool,
    /// Failures in each stage since they count, the rest's last: of the newest outcomes alone.
    pub failed: Vec<u64>,
    /// Silent clients in each stage, the rest's last.
    pub silence: Vec<u64>,
    /// The newest failure, for people.
    pub example: String,
}

impl Seen {
    fn failures(&self, stage: usize) -> (u64, u64) {
        let of = |list: &[u64]| list.get(stage).copied().unwrap_or_default();
        (of(&self.failed), of(&self.silence))
    }
}

/// Whether an execution that ended so is a failure for the gate. A rule that said no and a cancellation are none.
pub fn is_failure(state: ExecutionState) -> bool {
    matches!(state, ExecutionState::Failed | ExecutionState::Interrupted)
}

/// Whether a row counts as a failure for the gate: it ended so, or it waits for its retry. One whose client was offline when its turn
/// came says nothing of the package; it is not asked for.
pub fn counts_as_failure(row: &Execution) -> bool {
    is_failure(row.state) || row.state == ExecutionState::Queued && row.hold == Some(HoldReason::Retry)
}

/// Whether a row that a stage let go takes a place in it.
pub fn takes_place(state: ExecutionState) -> bool {
    use ExecutionState::*;
    !matches!(state, Rejected | Canceled | Expired | AlreadyInstalled | AlreadyAbsent)
}

/// A client that a job was offered to.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Where its row is.
    pub state: ExecutionState,
    /// Since when.
    pub entered: Timestamp,
    /// Until when the client was in contact: now, if it is.
    pub heard: Timestamp,
}

/// Whether the client is silent, if failures count from `from` on and it may be so for so many seconds.
pub fn is_silent(client: &Offered, from: Timestamp, seconds: u32, now: Timestamp) -> bool {
    use ExecutionState::*;
    let since = match client.state {
        Offered | Downloading | Installing | Verifying | Restoring => client.entered,
        Waiting => client.entered.max(client.heard),
        _ => return false,
    };
    now.as_millisecond().saturating_sub(since.max(from).as_millisecond()) >= i64::from(seconds) * 1000
}

/// Whether the row gives its place back because its client has not been heard of since `heard`: it was let go, and begun nowhere.
pub fn gives_place_back(row: &Execution, heard: Timestamp, now: Timestamp) -> bool {
    let begun = !matches!(row.state, ExecutionState::Queued | ExecutionState::Offered);
    // What was run again counts as before.
    let again = row.state == ExecutionState::Queued && row.attempts > 0;
    !begun && !again && now.as_second().saturating_sub(heard.as_second()) >= CONTACT_SECONDS
}

/// A client's place in the order in which a job reaches its clients: each job has another, and it is the same for ever.
pub fn turn(job: &JobId, client: &str) -> i64 {
    let digest = Digest::of(format!("{job}/{client}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    // Databases count to 2^63 − 1.
    (u64::from_be_bytes(first) >> 1) as i64
}
