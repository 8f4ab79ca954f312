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
//! package; and so is that of a row which uninstalls because its client left. If such a row is run again, it waits for a stage as if it were
//! new ([`Position::waits_anew`]). Only clients in contact are let go. Who goes out of contact before it accepted gives its place back,
//! whether it is the first attempt or not, and so does who could not be offered the job for [`OFFER_SECONDS`]: it goes to the end of the
//! order. So a client that was never online in a stage is not counted in it, and the next takes its place; a share that cannot be filled
//! because nobody else is in contact holds up nobody who is. A stage is not over before its share is full. One of groups is full when none
//! of their members in contact is left and any was let go, whatever became of it; and also if the job reaches no member at all, for the
//! groups are empty or gone: then the sentence about the rollout says so.
//!
//! **The gate** counts failures: rows that [`is_failure`] names, and *silence*. A client is silent that did not come to an end within the
//! gate's silence time since it was offered the job, or since it last left a wait for a window, its user, a local hold, a restart or suspended
//! transfers ([`may_wait`]). There it may wait as long as it likes while it is in contact; out of contact it is silent after that time.
//! Nobody is silent at a manager that could not have heard: there it counts from its start on, and not before [`RECONNECT_SECONDS`]
//! after it; and from the moment on at which a clock was set ahead, for by that no time has passed. More failures than the gate tolerates halt the job: its state is `PAUSED`, nothing is offered any more, what was offered and has not begun is called back. A stage
//! goes on being judged after it has passed. A row that was run again counts as what it is now.
//!
//! In the rest the gate slides over the newest [`WINDOW`] outcomes; that a client fell silent is one.
//!
//! **A revision with other packages** is another rollout: it begins at the first stage again ([`Position::afresh`]), for all that have not
//! begun; what the stages before let go says nothing of it.
//!
//! Everything here is a pure function of what the database says, of who is in contact and since when that can be known: two managers, or one
//! before and after a restart, have one opinion.

mod decide;
mod say;
#[cfg(test)]
mod tests;

pub use decide::{Decision, decide, promote};
pub use say::{Figures, figures, soak_end, stage_name, status};

use crate::model::Execution;
use serde::{Deserialize, Serialize};
use sutler_base::{
    Digest, GroupName, JobId, Timestamp, Uid,
    state::{ExecutionState, HoldReason, Purpose, WaitReason},
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
/// How long a row that was let go may not be offered although its client is in contact, before its place is another's (seconds): nobody
/// knows enough of the machine, its agent is too old, or it is busy with other jobs.
pub const OFFER_SECONDS: i64 = 10 * 60;
/// How long after its start a manager has heard of everybody who tries to reach it (seconds): the longest pause between two tries of an
/// agent.
pub const RECONNECT_SECONDS: i64 = 5 * 60;

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
    /// The stages of rows up to this number are those of another package that the job had before.
    pub base: u32,
    /// How many clients the stages before it let go.
    pub before: u64,
    /// How many places each of the stages before had.
    pub passed: Vec<u64>,
    /// Since when all that it let go has ended well enough (milliseconds since 1970).
    pub settled_ms: Option<i64>,
    /// Failures count that come later in the change sequence: no clock has a say in that.
    pub counted_after: i64,
    /// From when on silence counts, by the clock that all managers have in common (milliseconds since 1970).
    pub silence_from_ms: i64,
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
        self.base.saturating_add(self.stage).saturating_add(1)
    }

    /// Everybody may start: the rest of a job with so many stages.
    pub fn of_the_rest(stages: usize) -> Position {
        Position { stage: stages as u32, passed: vec![0; stages], ..Position::default() }
    }

    /// The first stage again, of a job with so many, for another package. What halts it still does.
    pub fn afresh(&self, stages: usize) -> Position {
        Position { base: self.base.saturating_add(stages as u32).saturating_add(1), halt: self.halt.clone(), ..Position::default() }
    }

    /// Which of so many stages, from 0, let go a row that has this number; as many as there are for the rest, none for one of another package.
    pub fn stage_of(&self, number: u32, stages: usize) -> Option<usize> {
        match number.checked_sub(self.base.saturating_add(1)) {
            // What no stage let go, the rest did.
            _ if number == 0 => Some(stages),
            Some(n) => Some((n as usize).min(stages)),
            None => None,
        }
    }

    /// Whether a row that is queued again has to wait for a stage first: it has no place, or its place was for another package.
    pub fn waits_anew(&self, state: ExecutionState, purpose: Purpose, number: u32) -> bool {
        !takes_place(state) || purpose == Purpose::Leave || number <= self.base
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
    /// Rows that the open stage let go, in whatever state.
    pub let_go: u64,
    /// Whether a member of the open stage's groups is in contact and was not let go yet.
    pub members_left: bool,
    /// Whether any member of them was not let go yet.
    pub members_held: bool,
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
    /// Since when it may have been silent: since it was offered the job, or since it left a wait that may last.
    pub quiet: Timestamp,
    /// Whether what it waits for may last: [`may_wait`].
    pub may_wait: bool,
    /// Until when the client was in contact: now, if it is.
    pub heard: Timestamp,
}

/// Whether a client in contact may wait for this as long as it likes: whoever waits for anything else only says so.
pub fn may_wait(reason: WaitReason) -> bool {
    use WaitReason::*;
    matches!(reason, Window | User | LocalHold | Reboot | TransferSuspended)
}

/// Who said nothing new since this moment is silent, if silence counts from `from` on and may last so many seconds; none while nobody can
/// be.
pub fn silent_before(from: Timestamp, seconds: u32, now: Timestamp) -> Option<Timestamp> {
    let before = now.saturating_sub(jiff::SignedDuration::from_secs(seconds.into())).ok()?;
    (from <= before).then_some(before)
}

/// Whether the client is silent: it said nothing new since `before`.
pub fn is_silent(client: &Offered, before: Timestamp) -> bool {
    use ExecutionState::*;
    match client.state {
        Waiting if client.may_wait => client.entered.max(client.heard) <= before,
        Offered | Downloading | Waiting | Installing | Verifying | Restoring => client.quiet <= before,
        _ => false,
    }
}

/// How many failures and silent clients are among the newest [`WINDOW`] outcomes: each with whether it is a failure, and the moments at
/// which clients fell silent.
pub fn of_window(outcomes: &[(Timestamp, bool)], silent: &[Timestamp]) -> (u64, u64) {
    let mut all: Vec<(Timestamp, bool, bool)> = outcomes.iter().map(|(at, failed)| (*at, *failed, false)).collect();
    all.extend(silent.iter().map(|at| (*at, false, true)));
    all.sort_by(|a, b| b.cmp(a));
    let newest = &all[..all.len().min(WINDOW as usize)];
    let count = |of: fn(&(Timestamp, bool, bool)) -> bool| newest.iter().filter(|row| of(row)).count() as u64;
    (count(|row| row.1), count(|row| row.2))
}

/// Whether the row gives its place back because its client has not been heard of since `heard`: it was let go, and begun nowhere.
pub fn gives_place_back(state: ExecutionState, heard: Timestamp, now: Timestamp) -> bool {
    let begun = !matches!(state, ExecutionState::Queued | ExecutionState::Offered);
    !begun && now.as_second().saturating_sub(heard.as_second()) >= CONTACT_SECONDS
}

/// Whether the row gives its place back because its client could not be offered the job since `quiet`, when it was let go.
pub fn cannot_be_offered(state: ExecutionState, quiet: Timestamp, now: Timestamp) -> bool {
    state == ExecutionState::Queued && now.as_second().saturating_sub(quiet.as_second()) >= OFFER_SECONDS
}

/// A client's place in the order in which a job reaches its clients: each job has another, and it is the same for ever.
pub fn turn(job: &JobId, client: &str) -> i64 {
    let digest = Digest::of(format!("{job}/{client}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    // Databases count to 2^63 − 1.
    (u64::from_be_bytes(first) >> 1) as i64
}
