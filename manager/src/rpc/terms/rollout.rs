//! The stages of a job and its gate, from the wire and back, and how far it is.

use crate::app::{Violations, rollouts};
use sutler_base::Timestamp;
use sutler_core::{
    model::Job,
    rollout::{self, GROUPS_MAX, Gate, Pilot, Rollout, SECONDS_MAX, STAGES_MAX, Share, Stage, Tolerance},
};
use sutler_proto::{
    convert::{group_name, wire_time},
    v1,
};

/// The stages and the gate that a request gives.
pub(super) fn read(v: &mut Violations, wire: &v1::Rollout) -> Rollout {
    if wire.all_at_once && !wire.stages.is_empty() {
        v.add("terms.rollout.all_at_once", "leaves no room for stages; give one of both");
    }
    if wire.all_at_once && wire.gate.is_some() {
        v.add("terms.rollout.all_at_once", "has no gate: nothing stops it; give one of both");
    }
    if wire.stages.len() > STAGES_MAX {
        v.add("terms.rollout.stages", format!("has at most {STAGES_MAX} entries, not {}", wire.stages.len()));
    }
    let stages = wire.stages.iter().take(STAGES_MAX).enumerate();
    Rollout {
        all_at_once: wire.all_at_once,
        stages: stages.map(|(n, stage)| read_stage(v, &format!("terms.rollout.stages[{n}]"), stage)).collect(),
        gate: wire.gate.as_ref().map(|gate| read_gate(v, gate)).unwrap_or_default(),
    }
}

fn read_stage(v: &mut Violations, field: &str, wire: &v1::RolloutStage) -> Stage {
    let count = u32::try_from(wire.count).unwrap_or_else(|_| {
        v.add(&format!("{field}.count"), format!("is a number of clients, not {}", wire.count));
        0
    });
    let percent = share(v, &format!("{field}.percent"), wire.percent);
    let soak_seconds = wire.soak.as_ref().map_or(0, |soak| seconds(v, &format!("{field}.soak"), soak, 0));
    if wire.groups.len() > GROUPS_MAX {
        v.add(&format!("{field}.groups"), format!("has at most {GROUPS_MAX} entries, not {}", wire.groups.len()));
    }
    let groups = wire.groups.iter().take(GROUPS_MAX).enumerate();
    let pilots: Vec<Pilot> = groups
        .filter_map(|(n, name)| v.take(&format!("{field}.groups[{n}]"), group_name(name)))
        .map(|name| Pilot { name, uid: None })
        .collect();
    let sized = wire.count != 0 || wire.percent != 0;
    match (sized, wire.groups.is_empty()) {
        (true, false) => v.add(field, "has a count or percent, or groups, not both"),
        (false, true) => v.add(field, "lets nobody go; give a count, percent or groups"),
        _ => {}
    }
    let share = match (wire.groups.is_empty(), wire.beyond) {
        (false, _) => Share::Members(pilots),
        (true, true) => Share::Beyond { count, percent },
        (true, false) => Share::UpTo { count, percent },
    };
    Stage { share, soak_seconds }
}

fn read_gate(v: &mut Violations, wire: &v1::RolloutGate) -> Gate {
    let unset = Gate::default();
    let tolerated = match (wire.max_failures, wire.max_failures_percent) {
        (Some(_), Some(_)) => {
            v.add("terms.rollout.gate.max_failures", "is given as a number or in percent, not both");
            unset.tolerated
        }
        (Some(n), None) => match u32::try_from(n) {
            Ok(n) => Tolerance::Count(n),
            Err(_) => {
                v.add("terms.rollout.gate.max_failures", format!("is a number of clients, not {n}"));
                unset.tolerated
            }
        },
        (None, Some(percent)) => Tolerance::Percent(share(v, "terms.rollout.gate.max_failures_percent", percent)),
        (None, None) => unset.tolerated,
    };
    let silence = |silence| seconds(v, "terms.rollout.gate.silence", silence, 1);
    Gate { tolerated, silence_seconds: wire.silence.as_ref().map_or(unset.silence_seconds, silence) }
}

fn share(v: &mut Violations, field: &str, percent: i32) -> u32 {
    match u32::try_from(percent) {
        Ok(n @ 0..=100) => n,
        _ => {
            v.add(field, format!("is 0 to 100, not {percent}"));
            0
        }
    }
}

/// Whole seconds.
fn seconds(v: &mut Violations, field: &str, wire: &prost_types::Duration, least: u32) -> u32 {
    match u32::try_from(wire.seconds) {
        Ok(n) if n >= least && n <= SECONDS_MAX && wire.nanos == 0 => n,
        _ => {
            v.add(field, format!("is {least} to {SECONDS_MAX} whole seconds"));
            least
        }
    }
}

/// The stages and the gate of a job, with those that it has by default.
pub(super) fn shown(rollout: &Rollout) -> v1::Rollout {
    let (max_failures, max_failures_percent) = match rollout.gate.tolerated {
        Tolerance::Count(n) => (Some(n as i32), None),
        Tolerance::Percent(p) => (None, Some(p as i32)),
    };
    let gate = v1::RolloutGate { max_failures, max_failures_percent, silence: Some(wire_seconds(rollout.gate.silence_seconds)) };
    v1::Rollout {
        all_at_once: rollout.all_at_once,
        stages: rollout.stages().into_iter().map(stage).collect(),
        gate: (!rollout.all_at_once).then_some(gate),
    }
}

fn stage(stage: Stage) -> v1::RolloutStage {
    let mut wire = v1::RolloutStage { soak: Some(wire_seconds(stage.soak_seconds)), ..Default::default() };
    match stage.share {
        Share::UpTo { count, percent } => (wire.count, wire.percent) = (count as i32, percent as i32),
        Share::Beyond { count, percent } => (wire.count, wire.percent, wire.beyond) = (count as i32, percent as i32, true),
        Share::Members(groups) => wire.groups = groups.iter().map(|group| format!("groups/{}", group.name)).collect(),
    }
    wire
}

fn wire_seconds(seconds: u32) -> prost_types::Duration {
    prost_types::Duration { seconds: seconds.into(), nanos: 0 }
}

/// How far the rollout of a job is.
pub(in crate::rpc) fn status(job: &Job, shown: &rollouts::Shown) -> v1::RolloutStatus {
    let rollouts::Shown { position, seen } = shown;
    let rollout = &job.terms.rollout;
    let figures = seen.as_ref().map(|seen| rollout::figures(rollout, position, seen));
    let taken = seen.as_ref().map_or((0, 0), |seen| (seen.taken as i64, seen.ended as i64));
    let counted = figures.map_or((0, 0, 0, 0), |f| (f.places.unwrap_or_default(), f.failed, f.silent, f.tolerated));
    let moment = |ms: i64| Timestamp::from_millisecond(ms).ok().map(wire_time);
    let halt = position.halt.as_ref();
    v1::RolloutStatus {
        sentence: rollout::status(rollout, position, seen.as_ref()),
        all_at_once: rollout.all_at_once,
        stage: position.stage.saturating_add(1) as i32,
        stage_count: rollout.stages().len() as i32 + 1,
        let_go: taken.0,
        share: counted.0 as i64,
        ended: taken.1,
        soak_end_time: rollout::soak_end(rollout, position).and_then(moment),
        failed: counted.1 as i64,
        silent: counted.2 as i64,
        tolerated: counted.3 as i64,
        halt: halt.map(|halt| halt.why.clone()).unwrap_or_default(),
        halt_by: halt.map(|halt| halt.by.clone()).unwrap_or_default(),
        halt_time: halt.and_then(|halt| moment(halt.at_ms)),
    }
}
