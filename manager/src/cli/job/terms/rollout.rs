//! In which stages a job goes to its clients, and what stops it.

use crate::cli::{names, when};
use clap::{Args, ValueEnum};
use std::time::Duration;
use sutler_base::quoted;
use sutler_proto::v1;

/// Whether a job goes in stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stages {
    /// In stages
    Default,
    /// Everybody at once, and nothing stops it
    AllAtOnce,
}

/// The stages and the gate.
#[derive(Debug, Args)]
pub(in crate::cli::job) struct RolloutArgs {
    /// In stages, or everybody at once. By default the first 20 clients start freely; then 5 more, or 1 % if that is more; then 10 %,
    /// then 50 %, each with a soak of 15 minutes; then the rest
    #[arg(long, value_enum, default_value = "default", hide_default_value = true)]
    rollout: Stages,
    /// A stage, in place of those by default; may be given several times, after the last one comes the rest. SHARE is a number of clients
    /// in all (20), a percentage of the job's clients (10%), whichever of both is more (5,1%), as many beyond those before (+5,1%), or
    /// the members of groups (group=pilots). SOAK is how long nothing else starts once it went well
    #[arg(long, value_name = "SHARE[:SOAK]", value_parser = stage)]
    stage: Vec<v1::RolloutStage>,
    /// How many failures in a stage are tolerated before the job halts: a number of clients, or percent [default: 10%]
    #[arg(long, value_name = "N|P%", value_parser = failures)]
    max_failures: Option<v1::RolloutGate>,
    /// How long a client may stay in one state before it counts as a failure: it fell silent [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = when::some_duration)]
    silence: Option<Duration>,
}

impl RolloutArgs {
    /// What the options give; none if all of them are left to their defaults.
    pub(super) fn wire(self) -> Option<v1::Rollout> {
        let mut gate = self.max_failures;
        if let Some(silence) = self.silence {
            gate.get_or_insert_default().silence = Some(wire(silence));
        }
        let rollout = v1::Rollout { all_at_once: self.rollout == Stages::AllAtOnce, stages: self.stage, gate };
        (rollout != v1::Rollout::default()).then_some(rollout)
    }
}

fn wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

fn number(text: &str, rule: impl Fn() -> String) -> Result<i32, String> {
    text.parse::<i32>().ok().filter(|n| *n >= 0).ok_or_else(rule)
}

/// `20`, `10%:15m`, `+5,1%:15m`, `group=pilots:1h`
fn stage(text: &str) -> Result<v1::RolloutStage, String> {
    let rule = || {
        format!(
            "a stage is a number of clients, a percentage, both or groups, and how long it soaks: 20, 10%:15m, +5,1%:15m, group=pilots:1h, and not {}",
            quoted(text)
        )
    };
    let (share, soak) = match text.split_once(':') {
        Some((share, soak)) => (share, when::duration(soak)?),
        None => (text, Duration::ZERO),
    };
    let mut stage = v1::RolloutStage { soak: Some(wire(soak)), ..Default::default() };
    if let Some(groups) = share.strip_prefix("group=") {
        stage.groups = groups.split(',').map(names::group).collect::<Result<_, _>>()?;
        return Ok(stage);
    }
    let (share, beyond) = share.strip_prefix('+').map_or((share, false), |share| (share, true));
    stage.beyond = beyond;
    for part in share.split(',') {
        match part.strip_suffix('%') {
            Some(percent) if stage.percent == 0 => stage.percent = number(percent, rule)?,
            None if stage.count == 0 => stage.count = number(part, rule)?,
            _ => return Err(rule()),
        }
    }
    if stage.count == 0 && stage.percent == 0 { Err(rule()) } else { Ok(stage) }
}

/// `3` or `10%`
fn failures(text: &str) -> Result<v1::RolloutGate, String> {
    let rule =
        || format!("how many failures are tolerated is a number of clients or a percentage, such as 3 or 10%, and not {}", quoted(text));
    Ok(match text.strip_suffix('%') {
        Some(percent) => v1::RolloutGate { max_failures_percent: Some(number(percent, rule)?), ..Default::default() },
        None => v1::RolloutGate { max_failures: Some(number(text, rule)?), ..Default::default() },
    })
}

/// A stage as it is given to `--stage`.
fn words(stage: &v1::RolloutStage) -> String {
    let mut parts = Vec::new();
    parts.extend((stage.count > 0).then(|| stage.count.to_string()));
    parts.extend((stage.percent > 0).then(|| format!("{}%", stage.percent)));
    let share = match stage.groups.as_slice() {
        [] => format!("{}{}", if stage.beyond { "+" } else { "" }, parts.join(",")),
        groups => format!("group={}", groups.iter().map(|group| names::short(group)).collect::<Vec<_>>().join(",")),
    };
    match stage.soak.as_ref().map_or(0, |soak| soak.seconds) {
        0 => share,
        seconds => format!("{share}:{}", span(seconds)),
    }
}

/// Seconds as a duration is written.
fn span(seconds: i64) -> String {
    match seconds {
        s if s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// The stages that a job has that says nothing about them, as they are given to `--stage`.
const DEFAULT_STAGES: &str = "20 +5,1%:15m 10%:15m 50%:15m";

/// What of it is not as it is by default: a line each.
pub(super) fn lines(rollout: &v1::Rollout) -> Vec<String> {
    // What is all at once is said with its status.
    if rollout.all_at_once {
        return vec![];
    }
    let mut lines = Vec::new();
    let stages = rollout.stages.iter().map(words).collect::<Vec<_>>().join(" ");
    lines.extend((stages != DEFAULT_STAGES).then(|| format!("stages: {stages}, then the rest")));
    if let Some(gate) = &rollout.gate {
        let silence = gate.silence.as_ref().map_or(0, |silence| silence.seconds);
        let tolerated = match (gate.max_failures, gate.max_failures_percent) {
            (Some(n), _) => n.to_string(),
            (None, percent) => format!("{}%", percent.unwrap_or_default()),
        };
        if (tolerated.as_str(), silence) != ("10%", 3600) {
            lines.push(format!("halts at more than {tolerated} failures in a stage; who is silent for {} is one", span(silence)));
        }
    }
    lines
}

/// How far the rollout of a job is: a line or two; none where everything is as it is by default and all may start.
pub(in crate::cli::job) fn status(job: &v1::Job) -> Vec<String> {
    let Some(rollout) = &job.rollout else { return vec![] };
    let mut lines = Vec::new();
    if !rollout.halt.is_empty() {
        let by = if rollout.halt_by == "gate" { "halted by its gate" } else { "paused" };
        lines.push(format!("{by} since {}: {}", when::moment(&rollout.halt_time), rollout.halt));
        if job.canceling > 0 {
            lines.push(format!("{} that had not begun did not say yet that they stopped", job.canceling));
        }
        lines.push(format!("`sutler job resume {0}` goes on, `sutler job abort {0}` ends it", names::short(&job.name)));
    }
    lines.push(format!("rollout: {}", rollout.sentence));
    lines
}

/// The word for how far the rollout of a job is.
pub(in crate::cli::job) fn word(job: &v1::Job) -> String {
    match &job.rollout {
        _ if !job.held_back.is_empty() => "HELD BACK".into(),
        None => String::new(),
        Some(rollout) if rollout.all_at_once => "ALL AT ONCE".into(),
        Some(rollout) if !rollout.halt.is_empty() && rollout.halt_by == "gate" => "HALTED".into(),
        Some(rollout) => format!("{}/{}", rollout.stage, rollout.stage_count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_read_as_it_is_shown() {
        for text in ["20", "10%:15m", "5,1%", "+5,1%:15m", "+3", "group=pilots:1h", "group=a,b", "1:90s"] {
            assert_eq!(words(&stage(text).unwrap()), text);
        }
        for text in ["", "0", "+", "x", "-1", "1,2", "1%,2%", "5:", "5:7", "group=", "group=A b", "%", "5,"] {
            assert!(stage(text).is_err(), "{text}");
        }
        for text in ["", "x", "-1", "%", "1.5%"] {
            assert!(failures(text).is_err(), "{text}");
        }
    }
}
