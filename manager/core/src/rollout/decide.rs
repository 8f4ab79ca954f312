//! What is due in a rollout: how many more may go, whether the next stage opens, whether it halts.

use super::{Gate, Position, Rollout, Seen, Share, Stage, WINDOW, say};
use sutler_base::Timestamp;

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How far the job is now.
    pub position: Position,
    /// Not empty if the job is to be halted: why.
    pub halt: String,
    /// How many more rows the open stage lets go; all that there are in the rest.
    pub release: u64,
    /// When there may be something due although nothing happens (milliseconds since 1970).
    pub due_ms: Option<i64>,
}

/// How many of the places of a stage may wait at their clients while the next stage opens: one in ten, for one user who is on holiday
/// holds up no fleet.
const WAITING_PERCENT: u32 = 10;

/// What is due in a job that is `ACTIVE`.
pub fn decide(rollout: &Rollout, position: &Position, seen: &Seen, now: Timestamp) -> Decision {
    let stages = rollout.stages();
    let mut decision = Decision { position: position.clone(), halt: String::new(), release: 0, due_ms: None };
    if let Some(why) = tripped(&stages, &rollout.gate, position, seen) {
        decision.halt = why;
        return decision;
    }
    let mut seen = seen.clone();
    let now_ms = now.as_millisecond();
    loop {
        let position = &mut decision.position;
        let Some(stage) = stages.get(position.stage as usize) else {
            decision.release = u64::MAX;
            return decision;
        };
        let places = stage.share.places(position.before, seen.total);
        // More rows, or others that say something: it is not over yet.
        let missing = places.map(|places| places.saturating_sub(seen.taken));
        decision.release = missing.unwrap_or(u64::MAX);
        let full = match missing {
            Some(missing) => missing == 0,
            // With nobody to go first it is nobody's turn; while the job reaches nobody at all that is not known.
            None => !seen.members_left && (seen.let_go > 0 || !seen.members_held && seen.total > 0),
        };
        if !full || !has_settled(&seen, places.unwrap_or(seen.taken)) {
            position.settled_ms = None;
            return decision;
        }
        // A stage whose share was taken before it opened has nothing to soak.
        if seen.taken > 0 {
            let settled = *position.settled_ms.get_or_insert(now_ms);
            let over = settled.saturating_add(i64::from(stage.soak_seconds) * 1000);
            if now_ms < over {
                decision.due_ms = Some(over);
                return decision;
            }
        }
        open_next(position, seen.taken, seen.taken);
        seen = Seen { total: seen.total, members_left: true, members_held: true, ..Seen::default() };
    }
}

/// Whether what the stage let go has ended well enough: only some wait at their clients.
fn has_settled(seen: &Seen, places: u64) -> bool {
    let open = seen.taken.saturating_sub(seen.ended).saturating_sub(seen.silent);
    open == 0 || (open <= seen.waiting && open < seen.taken && open <= super::percent(places, WAITING_PERCENT))
}

fn open_next(position: &mut Position, places: u64, taken: u64) {
    position.passed.push(places);
    position.before = position.before.saturating_add(taken);
    position.stage += 1;
    position.settled_ms = None;
}

/// Why the job is to be halted, if it is.
fn tripped(stages: &[Stage], gate: &Gate, position: &Position, seen: &Seen) -> Option<String> {
    if stages.is_empty() {
        return None;
    }
    for n in 0..=position.stage as usize {
        let (failed, silent) = seen.failures(n);
        let (tolerated, of) = match stages.get(n) {
            None => (gate.tolerated.of_window(), u64::from(WINDOW)),
            Some(stage) => {
                let places = size(stage, n, position, seen);
                (gate.tolerated.of(places), places)
            }
        };
        if failed.saturating_add(silent) > tolerated {
            return Some(say::tripped(stages, n, (failed, silent), (tolerated, of), &seen.example));
        }
    }
    None
}

/// How many places the stage of this number has, or had when it passed.
pub(super) fn size(stage: &Stage, n: usize, position: &Position, seen: &Seen) -> u64 {
    let planned = |before| stage.share.places(before, seen.total);
    match position.passed.get(n) {
        Some(places) => *places,
        None => planned(position.before).unwrap_or(seen.taken).max(seen.taken),
    }
}

/// The position after an operator opened the next stage, or all of them at once; none where there is no further one.
pub fn promote(rollout: &Rollout, position: &Position, seen: &Seen, all: bool) -> Option<Position> {
    let stages = rollout.stages();
    let n = position.stage as usize;
    let places = size(stages.get(n)?, n, position, seen);
    let mut position = position.clone();
    open_next(&mut position, places, seen.taken);
    while all && (position.stage as usize) < stages.len() {
        open_next(&mut position, 0, 0);
    }
    Some(position)
}

impl Share {
    /// Whether only members of groups are let go.
    pub fn groups(&self) -> &[super::Pilot] {
        if let Share::Members(groups) = self { groups } else { &[] }
    }
}
