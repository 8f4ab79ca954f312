//! What the journal holds about one attempt: everything that a restarted agent must know to go on, and nothing else.

use super::{
    boot::{ByWall, Restart},
    displaced::{Displaced, Leaving},
    times::Times,
    user::{Announcement, Asked},
};
use serde::{Deserialize, Serialize};
use std::{ops::Range, time::Duration};
use sutler_base::{
    AttemptId, Digest, PackageName, Timestamp, Version,
    manifest::{Dependency, Phase, Requirement, relations::Values},
    outcome::{Failure, ItemResult, Was},
    state::{ErrorKind, ExecutionState, Intent, Timing},
};

/// What to do where the package is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Replace {
    /// Skip the installation.
    IfMissing,
    /// Install all the same.
    Always,
}

/// One package of an attempt, as it was offered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfferedItem {
    /// The signed envelope's exact bytes.
    #[serde(with = "hex_bytes")]
    pub envelope: Vec<u8>,
    /// What is done with it.
    #[serde(default = "install")]
    pub intent: Intent,
    /// What to do where it is there already.
    pub replace: Replace,
    /// The values of its parameters that the job gives.
    #[serde(default)]
    pub values: Values,
    /// An earlier attempt of the same execution installed it: it is not done again.
    #[serde(default)]
    pub succeeded: bool,
    /// It is there only because others of the job depend on it, in these versions: where all of that is met, it is left alone.
    #[serde(default)]
    pub needed: Vec<Dependency>,
    /// What the job requires of the machine besides what the package does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<Requirement>,
}

fn install() -> Intent {
    Intent::Install
}

impl OfferedItem {
    /// The package of this envelope, to be installed where it is not there.
    pub fn install(envelope: Vec<u8>) -> OfferedItem {
        OfferedItem {
            envelope,
            intent: Intent::Install,
            replace: Replace::IfMissing,
            values: Values::new(),
            succeeded: false,
            needed: Vec::new(),
            requirements: Vec::new(),
        }
    }
}

/// Permission to start steps, until a moment of the machine's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// On `CLOCK_BOOTTIME`: no step is started at or after it.
    pub until: Duration,
    /// The start of the machine that `until` counts from. In another one the lease is over.
    pub boot_id: String,
    /// The same by the time of day: for what begins at the next start of the machine, and for nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall: Option<ByWall>,
}

/// What the manager offered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The attempt's id.
    pub attempt: AttemptId,
    /// `jobs/ID`
    pub job: String,
    /// The revision of the job.
    pub revision: i64,
    /// The packages in the job's order; none of an inventory.
    pub items: Vec<OfferedItem>,
    /// In place of packages: the facts are measured, and reported where they changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inventory: bool,
    /// After this nothing may be started.
    pub expire: Option<Timestamp>,
    /// Go on with the next package although one failed.
    pub continue_on_failure: bool,
    /// 1 (first) to 9.
    pub priority: u8,
    /// When its packages may be begun; none: at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
    /// What the user is told before it begins; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcement: Option<Announcement>,
    /// Whether it begins at once, or with a start or the stop of the machine.
    #[serde(default)]
    pub timing: Timing,
    /// Have the machine restarted where a step says that it must be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
    /// The manager's word for what it is for; it is only repeated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
}

/// A step as the machine needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Its name.
    pub name: String,
    /// When it is run.
    pub phase: Phase,
    /// Go on although it failed.
    pub continue_on_failure: bool,
}

/// One package that is fetched and staged: what is to be done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether it is to be there, or to be gone.
    #[serde(default = "install")]
    pub intent: Intent,
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: Version,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Its release.
    pub release: u64,
    /// Its steps, in the manifest's order: their index is the number that a step is known by. Those of what is displaced follow.
    pub steps: Vec<PlannedStep>,
    /// What is there of the packages whose place it takes and that are uninstalled before it is installed.
    #[serde(default)]
    pub displaced: Vec<Displaced>,
    /// What of it, and of those whose place it takes, was recorded as installed before; none in a plan of an older agent, and where it
    /// is uninstalled.
    #[serde(default)]
    pub before: Option<Vec<Was>>,
    /// All packages whose place it takes: while one of them is being installed, whether it is there is not known.
    #[serde(default)]
    pub supersedes: Vec<PackageName>,
    /// Whether it has a directory whose tree is exchanged.
    pub directory: bool,
    /// Whether it is a new agent.
    #[serde(default)]
    pub agent: bool,
    /// Whether it names log files.
    #[serde(default)]
    pub logs: bool,
    /// Whether it has detection rules.
    pub detection: bool,
    /// Whether those held before anything was done: then they can't tell whether an interrupted step had done its work.
    pub detected_before: bool,
    /// Bytes of its files together.
    pub total_bytes: u64,
    /// Bytes that came over the network.
    pub fetched_bytes: u64,
    /// How long the preparation took (milliseconds).
    pub prepared_ms: u64,
}

/// One thing that is done to install a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Op {
    /// The step with this number in the manifest.
    Step(usize),
    /// The staged program, a new agent, runs in the place of this one, and has to reach the manager.
    Trial,
    /// The new tree takes its place.
    Exchange,
    /// The detection rules are asked.
    Verify,
    /// It stays: the old tree goes, and the agent's record of installed software has it.
    Commit,
    /// The ends of its log files are kept for the manager, as they are before anything is undone.
    Logs,
    /// What was there before is put back, what was staged is removed.
    Restore,
    /// The package's tree goes.
    Remove,
    /// The detection rules are asked, and must not hold any more.
    VerifyGone,
    /// The agent's record of installed software has it no longer.
    Forget,
    /// The same three of the displaced package with this number.
    Displace(usize, Leaving),
}

impl Op {
    /// Whether a program of the package is started by it: that needs a lease.
    pub fn runs(self) -> bool {
        matches!(self, Op::Step(_) | Op::Trial)
    }
}

impl Plan {
    /// What is done, in this order, as long as nothing fails.
    pub fn forward(&self) -> Vec<Op> {
        match self.intent {
            Intent::Install => {
                let mut ops: Vec<Op> = (0..self.displaced.len()).flat_map(|n| self.displace(n)).collect();
                ops.extend(self.steps_of(Phase::Before));
                if self.agent {
                    ops.push(Op::Trial);
                }
                if self.directory {
                    ops.push(Op::Exchange);
                }
                ops.extend(self.steps_of(Phase::Install));
                ops.extend(self.steps_of(Phase::After));
                if self.detection {
                    ops.push(Op::Verify);
                }
                ops.push(Op::Commit);
                ops
            }
            Intent::Uninstall => {
                let mut ops = self.steps_of(Phase::Uninstall);
                if self.directory {
                    ops.push(Op::Remove);
                }
                if self.detection {
                    ops.push(Op::VerifyGone);
                }
                ops.push(Op::Forget);
                ops
            }
            // That ends when it is fetched.
            Intent::Prefetch => Vec::new(),
        }
    }

    /// Every package that is there in another way afterwards: itself, and those whose place it takes.
    pub fn touches(&self) -> impl Iterator<Item = &PackageName> {
        std::iter::once(&self.package).chain(&self.supersedes)
    }

    /// Which of what is done is the first step that runs where the package will be.
    pub fn first_after_exchange(&self) -> Option<usize> {
        let there =
            |op: &Op| matches!(op, Op::Step(n) if matches!(self.steps.get(*n).map(|s| s.phase), Some(Phase::Install | Phase::After)));
        self.forward().iter().position(there)
    }

    /// What is done, in this order, after something failed. The steps that restore come last: they work on what is back.
    pub fn backward(&self) -> Vec<Op> {
        let mut ops = if self.logs { vec![Op::Logs] } else { vec![] };
        ops.extend(self.steps_of(Phase::OnError));
        ops.push(Op::Restore);
        if self.intent == Intent::Install {
            ops.extend(self.steps_of(Phase::Restore));
        }
        ops
    }

    fn steps_of(&self, phase: Phase) -> Vec<Op> {
        let own = self.displaced.first().map_or(self.steps.len(), |first| first.first_step);
        self.steps_among(0..own, phase)
    }

    pub(super) fn steps_among(&self, range: Range<usize>, phase: Phase) -> Vec<Op> {
        let among = self.steps.iter().enumerate().filter(|(n, s)| range.contains(n) && s.phase == phase);
        among.map(|(n, _)| Op::Step(n)).collect()
    }
}

/// Which way an installation goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Course {
    /// Towards the package being installed.
    Forward,
    /// Back, because of this.
    Back {
        /// What failed.
        failure: Failure,
        /// The end that it will come to: failed, rejected or interrupted.
        end: ExecutionState,
    },
}

/// How far the installation of one package is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Installing {
    /// What is done.
    pub plan: Plan,
    /// Which way.
    pub course: Course,
    /// Which of the plan's ops, in the order of that way, is next or running.
    pub at: usize,
    /// Which run of it, from 0: an exit code that means *later* makes another one.
    pub run: u32,
    /// Whether that run of that op has been started. On disk before it is.
    pub begun: bool,
    /// The start of the machine in which nothing of it may go on any more: a step asked for another one at once.
    #[serde(default)]
    pub until_reboot: Option<String>,
    /// It was put back without a step being run on the way.
    #[serde(default)]
    pub quiet: bool,
    /// A step that installs had been begun when it turned back: what was there before may be damaged.
    #[serde(default)]
    pub touched: bool,
    /// Something whose place it takes is gone, or half gone, and does not come back.
    #[serde(default)]
    pub bereft: bool,
    /// When it began.
    pub since: Timestamp,
}

impl Installing {
    /// One that begins now.
    pub fn new(plan: Plan, since: Timestamp) -> Installing {
        Installing {
            plan,
            course: Course::Forward,
            at: 0,
            run: 0,
            begun: false,
            until_reboot: None,
            quiet: false,
            touched: false,
            bereft: false,
            since,
        }
    }

    /// Called off while there was no contact, after it had begun: no further step is started, not on the way back either, but
    /// what was there before is put back, so that the machine is not left half-way and others get their turn.
    pub fn call_off(&mut self) {
        let failure = Failure {
            kind: ErrorKind::Interrupted,
            message: "it was called off between two steps, while this machine was out of contact".into(),
            step: None,
            exit_code: None,
            signal: None,
            output: String::new(),
            output_cut: 0,
            restored: None,
        };
        self.put_back(failure, ExecutionState::Interrupted);
    }

    /// What was there before is put back, and no step is run on the way.
    pub fn put_back(&mut self, failure: Failure, end: ExecutionState) {
        self.quiet = true;
        self.turn_back(failure, end);
    }

    /// The op that is next or running.
    pub fn op(&self) -> Option<Op> {
        let ops = match self.course {
            Course::Forward => self.plan.forward(),
            Course::Back { .. } if self.quiet => vec![Op::Restore],
            Course::Back { .. } => self.plan.backward(),
        };
        ops.get(self.at).copied()
    }

    /// Whether it waits for the machine to be restarted.
    pub fn waits_for_reboot(&self, now: &super::Now) -> bool {
        self.until_reboot.as_ref().is_some_and(|boot| *boot == now.boot_id)
    }
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// The next package (there are as many results as packages are done) has to be fetched.
    Offered,
    /// The next package is staged.
    Fetched(Plan),
    /// The next package is being installed.
    Installing(Installing),
    /// All is done; the manager has to be told.
    Finished {
        /// The outcome's exact bytes, that were signed.
        #[serde(with = "hex_bytes")]
        outcome: Vec<u8>,
        /// The signature over them.
        #[serde(with = "hex_bytes")]
        signature: Vec<u8>,
    },
    /// Called off before anything was started.
    Canceled,
}

/// One attempt in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was offered.
    pub offer: Offer,
    /// When the agent took it, by its clock: the older of two goes first.
    pub accepted: Timestamp,
    /// The permission to start steps; none if it has run out with certainty.
    pub lease: Option<Lease>,
    /// What became of the packages that are done.
    pub results: Vec<ItemResult>,
    /// The facts were measured for it, and the manager told what changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub measured: bool,
    /// Whether anything was ever started: what is called off from then on has an outcome that says what was done.
    pub started: bool,
    /// It was called off while a package was under way: none of those that would follow it is begun any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
    /// How it stands with the user, once it was announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// The user refused it: nothing more of it is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// The bytes of all packages before this number are there, although it was not their turn.
    #[serde(default, skip_serializing_if = "is_none")]
    pub ahead: usize,
    /// The start of the machine in which its first package was there, and with it all of them where it waits for a start or the
    /// stop of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_in: Option<String>,
    /// A restart of the machine that a step has asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How far it is.
    pub stage: Stage,
}

impl Record {
    /// What was offered and taken on at this moment; nothing was done yet.
    pub fn new(offer: Offer, accepted: Timestamp) -> Record {
        Record {
            offer,
            accepted,
            lease: None,
            results: Vec::new(),
            measured: false,
            started: false,
            ends: false,
            asked: None,
            refused: false,
            ahead: 0,
            staged_in: None,
            restart: None,
            stage: Stage::Offered,
        }
    }

    /// The attempt's id.
    pub fn id(&self) -> &AttemptId {
        &self.offer.attempt
    }

    /// Whether a step may be started at this moment.
    pub fn leased(&self, now: &super::Now) -> bool {
        self.lease.as_ref().is_some_and(|l| l.boot_id == now.boot_id && now.boot < l.until)
    }

    /// Takes a lease. It never makes the one that is there shorter: the manager goes by the longest that it gave.
    pub fn extend(&mut self, lease: Lease) {
        if self.lease.as_ref().is_none_or(|old| old.boot_id != lease.boot_id || old.until < lease.until) {
            self.lease = Some(lease);
        }
    }

    /// Whether its time is over: nothing may be started any more.
    pub fn is_expired(&self, now: &super::Now) -> bool {
        self.offer.expire.is_some_and(|at| now.wall >= at)
    }

    /// Whether the next package may be begun at this moment, by the times that the manager gave.
    pub fn timely(&self, now: &super::Now) -> bool {
        self.offer.times.as_ref().is_none_or(|times| times.allow(self.results.len(), now))
    }

    /// The end that the attempt has come to; none while a package is left to do.
    pub fn verdict(&self) -> Option<ExecutionState> {
        use ExecutionState::*;
        if self.offer.inventory {
            return self.measured.then_some(Succeeded);
        }
        let bad = |r: &&ItemResult| !r.state.is_good();
        let over = self.results.len() >= self.offer.items.len();
        let stopped = self.refused || !self.offer.continue_on_failure && self.results.iter().any(|r| bad(&r));
        if !over && !stopped {
            return None;
        }
        if let Some(worst) =
            self.results.iter().filter(bad).map(|r| r.state).min_by_key(|s| [Failed, Interrupted, Rejected].iter().position(|x| x == s))
        {
            return Some(worst);
        }
        let all = |state| self.results.iter().all(|r| r.state == state);
        Some(if self.results.iter().any(|r| r.state == Succeeded) {
            Succeeded
        } else if all(AlreadyAbsent) {
            AlreadyAbsent
        } else {
            AlreadyInstalled
        })
    }
}

fn is_none(ahead: &usize) -> bool {
    *ahead == 0
}

/// Bytes as hex digits in JSON.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write;
        s.serialize_str(&bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
            let _ = write!(out, "{b:02x}");
            out
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        if text.len() % 2 != 0 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(D::Error::custom("not hex digits"));
        }
        (0..text.len()).step_by(2).map(|n| u8::from_str_radix(&text[n..n + 2], 16).map_err(D::Error::custom)).collect()
    }
}
