//! The machine's vocabulary: what happens to the agent, and what the loop has to do.

use super::{
    record::{Offer, Op, Plan, Record},
    times::Times,
};
use std::time::Duration;
use sutler_base::{
    AttemptId, Timestamp,
    outcome::{Failure, ItemResult, Outcome},
};

/// A moment, as the clocks of the machine show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// The time of day; may jump.
    pub wall: Timestamp,
    /// `CLOCK_BOOTTIME`: since the start of the machine, sleep included; never jumps.
    pub boot: Duration,
    /// Which start of the machine that is.
    pub boot_id: String,
}

/// How a step ended, in the words of its exit-code map.
#[derive(Debug, Clone, PartialEq)]
pub enum StepReport {
    /// It did what it should.
    Done,
    /// It did, and the machine must be restarted some time.
    RebootSoft,
    /// It did, and nothing of the package may go on before the machine was restarted.
    RebootHard,
    /// Not now; why is in the failure that it becomes after too many runs.
    Later(Failure),
    /// It failed.
    Failed(Failure),
    /// It had been started, and nothing can tell how it ended.
    Interrupted {
        /// Whether the detection rules hold now.
        detected: bool,
    },
}

/// What came of an op.
#[derive(Debug, Clone, PartialEq)]
pub enum OpReport {
    /// A step has ended.
    Step(StepReport),
    /// It is done.
    Done,
    /// The tree is in its place.
    Exchanged {
        /// Whether the detection rules hold by that alone, before any step ran there: then they say nothing about the steps.
        detected: bool,
    },
    /// It could not be done.
    Failed(Failure),
    /// Before anything of the package ran it was found that nothing of it may: on the way back nothing of it runs either.
    Refused(Failure),
    /// What was there before is back.
    Restored(Restored),
}

/// What putting back came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// Nothing had taken the place of what was there before.
    Untouched,
    /// What had taken a place is gone, and nothing was there before.
    Empty,
    /// The version that was there before is back.
    Old,
}

/// What came of fetching a package.
#[derive(Debug, Clone, PartialEq)]
pub enum Prepared {
    /// It is staged.
    Ready(Plan),
    /// Nothing is to be installed: it is there already, a rule said no, or it can't work.
    Ended(ItemResult),
    /// It may work later.
    Later(String),
    /// The manager gives no bytes until transfers are resumed.
    Suspended,
}

/// What happens to the agent.
#[derive(Debug, Clone)]
pub enum Event {
    /// The manager offers work, with a lease of so many seconds.
    Offered(Offer, u32),
    /// The record of this attempt is on disk, as it was at this [`Effect::Journal`].
    Journaled(AttemptId, u64),
    /// The manager says anew when an attempt may be begun.
    Timed(AttemptId, Option<Times>),
    /// The manager says anew from when on the user can't put an attempt off, by this machine's clock; none: never.
    Deadline(AttemptId, Option<Timestamp>),
    /// The manager renews permission to start steps.
    Leased(Vec<AttemptId>, u32),
    /// The manager calls an attempt off.
    CancelAsked(AttemptId),
    /// Connected; the manager does not want these attempts any more.
    Connected(Vec<AttemptId>),
    /// Not connected any more.
    Disconnected,
    /// Bytes of the package that is being fetched: those that are there, and all.
    Fetched(AttemptId, u64, u64),
    /// The facts were measured for an attempt, after it asked for that, and the manager told; false if they could not be.
    Measured(AttemptId, bool),
    /// Fetching has come to an end.
    Prepared(AttemptId, Prepared),
    /// An op has come to an end.
    OpEnded(AttemptId, OpReport),
    /// The outcome is signed.
    Signed(AttemptId, Vec<u8>, Vec<u8>),
    /// The manager has committed the outcome.
    Recorded(AttemptId),
    /// Whatever waits for a retry may go at once; none means all.
    RunNow(Vec<AttemptId>),
    /// The machine's own administrator holds installations, or not any more.
    Held(bool),
    /// The machine may be restarted where a job says so, or not any more.
    MayRestart(bool),
    /// The machine goes down, within so long: what is ordered for that begins, and nothing else.
    GoesDown(Duration),
    /// Time has passed.
    Tick,
}

/// What the loop has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Put the attempt's record on disk, then say [`Event::Journaled`] with the same number.
    Journal(AttemptId, u64),
    /// Tell the manager that the attempt is in the journal.
    Accept(AttemptId),
    /// Tell the manager that it is called off, and whether something had been started.
    AcknowledgeCancel(AttemptId, bool),
    /// Tell the manager that the package goes on to its end that had been started, and that nothing follows it.
    NothingFollows(AttemptId),
    /// Measure the facts anew and tell the manager what changed, then say [`Event::Measured`].
    Measure(AttemptId),
    /// Fetch the package with this number.
    Prepare(AttemptId, usize),
    /// Fetch the bytes of the package with this number before it is its turn, then say [`Event::Prepared`]: whether it may be
    /// installed is asked when it is.
    FetchAhead(AttemptId, usize),
    /// Do the op of the package with this number.
    Perform(AttemptId, usize, Op, u32),
    /// Find out how the step ended that was started before the agent was: it is not started again.
    PickUp(AttemptId, usize, usize, u32),
    /// Say how the trial of a new agent stands that was begun before this agent was: it is not begun again.
    Tried(AttemptId),
    /// Sign the outcome, then say [`Event::Signed`].
    Sign(Outcome),
    /// Tell the manager the outcome.
    Report(AttemptId),
    /// Tell the users of the machine what is about to begin.
    Announce(AttemptId),
    /// Have the machine restarted.
    Restart(AttemptId),
    /// Stop fetching, remove what was staged.
    Abandon(AttemptId),
    /// Keep the record only as an answer to the same offer.
    Retire(Box<Record>),
}
