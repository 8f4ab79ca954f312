//! A rollout in figures and sentences.

use super::{Position, Rollout, Seen, Share, Stage, WINDOW, decide::size};
use sutler_base::Timestamp;

/// What a stage is called: its number and its share.
pub fn stage_name(stages: &[Stage], n: usize) -> String {
    match stages.get(n) {
        None => "the rest".into(),
        Some(stage) => format!("stage {} of {} ({})", n + 1, stages.len() + 1, share(&stage.share)),
    }
}

fn share(share: &Share) -> String {
    match share {
        Share::UpTo { count, percent: 0 } => format!("the first {count}"),
        Share::UpTo { count: 0, percent } => format!("{percent} % in all"),
        Share::UpTo { count, percent } => format!("the first {count}, or {percent} %"),
        Share::Beyond { count, percent: 0 } => format!("{count} more"),
        Share::Beyond { count: 0, percent } => format!("{percent} % more"),
        Share::Beyond { count, percent } => format!("{count} more, or {percent} %"),
        Share::Members(groups) => {
            let names: Vec<_> = groups.iter().map(|group| format!("groups/{}", group.name)).collect();
            format!("members of {}", names.join(", "))
        }
    }
}

fn counted(failed: u64, silent: u64) -> String {
    match (failed, silent) {
        (failed, 0) => format!("{failed} failed"),
        (0, silent) => format!("{silent} fell silent"),
        (failed, silent) => format!("{failed} failed and {silent} fell silent"),
    }
}

/// Why a gate halted the job.
pub(super) fn tripped(stages: &[Stage], n: usize, (failed, silent): (u64, u64), (tolerated, of): (u64, u64), example: &str) -> String {
    let place = if n < stages.len() { format!("of {of} clients in {}", stage_name(stages, n)) } else { format!("of the newest {of}") };
    let why = format!("{} {place}, and {tolerated} are tolerated", counted(failed, silent));
    if example.is_empty() { why } else { format!("{why}; the newest failure: {example}") }
}

/// The figures of the open stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// How many clients it lets go; none for all that there are.
    pub places: Option<u64>,
    /// How many of them failed, as the gate counts.
    pub failed: u64,
    /// How many of them are silent.
    pub silent: u64,
    /// How many of both are tolerated.
    pub tolerated: u64,
}

/// Until when the open stage soaks, if it does (milliseconds since 1970).
pub fn soak_end(rollout: &Rollout, position: &Position) -> Option<i64> {
    let stages = rollout.stages();
    let stage = stages.get(position.stage as usize)?;
    Some(position.settled_ms?.saturating_add(i64::from(stage.soak_seconds) * 1000))
}

/// The figures of the open stage.
pub fn figures(rollout: &Rollout, position: &Position, seen: &Seen) -> Figures {
    let stages = rollout.stages();
    let n = position.stage as usize;
    let (failed, silent) = seen.failures(n);
    let Some(stage) = stages.get(n) else {
        let tolerated = if rollout.all_at_once { 0 } else { rollout.gate.tolerated.of_window() };
        return Figures { places: None, failed, silent, tolerated };
    };
    let places = size(stage, n, position, seen);
    Figures { places: stage.share.groups().is_empty().then_some(places), failed, silent, tolerated: rollout.gate.tolerated.of(places) }
}

/// Where a rollout is, in one sentence; without figures where its rows were not looked at.
pub fn status(rollout: &Rollout, position: &Position, seen: Option<&Seen>) -> String {
    if rollout.all_at_once {
        return "all at once: no stages, and nothing stops it".into();
    }
    let stages = rollout.stages();
    let n = position.stage as usize;
    // A group of pilots that was empty, or is gone.
    let nobody: String = (stages.iter().zip(&position.passed).enumerate())
        .filter(|(_, (stage, places))| !stage.share.groups().is_empty() && **places == 0)
        .map(|(n, _)| format!("; nobody went first in {}", stage_name(&stages, n)))
        .collect();
    let rest = n >= stages.len();
    let mut text = if rest { "all stages have passed".to_owned() } else { stage_name(&stages, n) };
    if let Some(seen) = seen {
        let Figures { places, failed, silent, tolerated } = figures(rollout, position, seen);
        let gate = format!("{}, and {tolerated} are tolerated", counted(failed, silent));
        let of = places.map(|places| format!(" of {places}")).unwrap_or_default();
        let more = if rest {
            format!("; of the newest {WINDOW}: {gate}")
        } else {
            format!(": {}{of} let go, {} ended; {gate}", seen.taken, seen.ended)
        };
        text.push_str(&more);
    }
    if let Some(over) = soak_end(rollout, position).and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
        text.push_str(&format!("; soaks until {over}"));
    }
    text + &nobody
}
