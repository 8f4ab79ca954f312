//! A run of the benchmark: which scenario it is at, how large it is, and the lines that came of it.

use super::{
    line::{COLUMNS, Line, Reach, Samples},
    measure,
    options::Options,
    scenarios::Scenario,
};
use std::{io::Write as _, path::PathBuf};

pub(super) struct Run {
    /// `target/bench`.
    pub(super) folder: PathBuf,
    pub(super) small: bool,
    json: bool,
    rounds: Option<usize>,
    scenario: &'static str,
    lines: Vec<Line>,
}

impl Run {
    pub(super) fn new(folder: PathBuf, options: &Options) -> Run {
        Run { folder, small: options.small, json: options.json, rounds: options.rounds, scenario: "", lines: Vec::new() }
    }

    /// From now on it is at this scenario.
    pub(super) fn begin(&mut self, scenario: &'static Scenario) {
        self.scenario = scenario.name;
        self.say(&format!("{}: {} (load {})", scenario.name, scenario.what, measure::load()));
    }

    /// One or the other, as the run is small or not.
    pub(super) fn pick<T>(&self, small: T, full: T) -> T {
        if self.small { small } else { full }
    }

    /// How many rounds there are, unless the scenario costs so much that it has a number of its own.
    pub(super) fn rounds(&self) -> usize {
        self.rounds_or(5)
    }

    pub(super) fn rounds_or(&self, full: usize) -> usize {
        self.rounds.unwrap_or(self.pick(1, full))
    }

    /// Tells people what goes on.
    pub(super) fn say(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "bench: {text}");
    }

    /// A figure against what a peer, or a limit, took.
    pub(super) fn against(&mut self, metric: &str, unit: &'static str, ours: Samples, (peer, baseline): (&str, Samples), reach: Reach) {
        let line = Line {
            scenario: self.scenario,
            metric: metric.to_owned(),
            unit,
            ours,
            baseline,
            peer: peer.to_owned(),
            reach,
            counts: !self.small,
        };
        if self.json {
            println!("{}", line.json());
            let _ = std::io::stdout().flush();
        } else {
            self.say(&format!("  {}", line.columns()[1..].join(" | ")));
        }
        self.lines.push(line);
    }

    /// A figure that is there by itself.
    pub(super) fn alone(&mut self, metric: &str, unit: &'static str, ours: Samples, reach: Reach) {
        self.against(metric, unit, ours, ("", Samples::default()), reach);
    }

    /// A figure with what each of several peers took; what has to be reached is asked of the first.
    pub(super) fn among(&mut self, metric: &str, unit: &'static str, ours: &Samples, peers: &[(String, Samples)], reach: Reach) {
        if peers.is_empty() {
            self.alone(metric, unit, ours.clone(), reach);
        }
        for (n, (peer, baseline)) in peers.iter().enumerate() {
            let reach = if n == 0 { reach } else { Reach::Nothing };
            self.against(metric, unit, ours.clone(), (peer, baseline.clone()), reach);
        }
    }

    /// Everything so far.
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Prints the table, unless the lines were printed as they came.
    pub(super) fn end(&self) {
        if self.json {
            return;
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(COLUMNS);
        self.lines.iter().for_each(|line| {
            table.add_row(line.columns());
        });
        println!("{}\n\n{table}", describe(self.small));
    }
}

/// When and where.
pub(super) fn describe(small: bool) -> String {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let small = if small { "A small run, whose figures mean nothing. " } else { "" };
    format!("{small}{date}, {}, load {} at the end.", measure::machine(), measure::load())
}
