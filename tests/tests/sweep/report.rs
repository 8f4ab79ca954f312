//! What a sweep came to: a row for each program, kind of call and fault, in `tests/sweep.md` where one was asked for.

use std::collections::BTreeMap;
use std::fmt;
use sutler_base::Timestamp;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sweep.md");

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    what: [String; 3],
    calls: u64,
    points: u64,
    missed: u64,
    ends: BTreeMap<String, u64>,
    failures: Vec<(u64, String)>,
}

impl Row {
    pub(crate) fn new(program: &str, call: &str, fault: &str, calls: u64) -> Row {
        let what = [program, call, fault].map(str::to_owned);
        Row { what, calls, points: 0, missed: 0, ends: BTreeMap::new(), failures: Vec::new() }
    }

    /// A point was tried, and all promises held. Two runs don't make the very same calls: `hit` says whether there was an N-th.
    pub(crate) fn tried(&mut self, hit: bool, end: &str) {
        if hit {
            self.points += 1;
            *self.ends.entry(end.to_owned()).or_default() += 1;
        } else {
            self.missed += 1;
        }
    }

    /// A promise was broken.
    pub(crate) fn failed(&mut self, nth: u64, why: &str) {
        self.points += 1;
        self.failures.push((nth, why.to_owned()));
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        let [program, call, fault] = &self.what;
        self.failures.iter().map(|(nth, why)| format!("SUTLER_SWEEP='{program} {call} {fault} {nth}': {why}")).collect()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends: Vec<String> = self.ends.iter().map(|(end, n)| format!("{n} {end}")).collect();
        let [program, call, fault] = &self.what;
        write!(f, "| {program} | {call} | {fault} | {} | {} | {} | {} |", self.calls, self.points, ends.join(", "), self.failures.len())
    }
}

const HEAD: &str = "# The last sweeps

Made by `SUTLER_SWEEP=full cargo test -p sutler-tests --test sweep`, or with a number of points in place of `full`, or a part at a time; see
`tests/tests/sweep/main.rs` for what it does. *Calls* is how many a clean run made, *points* at how many of them the program was hurt (no two
runs make the very same calls, so a few of the last ones may not be reached), *ends* what the first attempt came to there (what did not end
well was retried once, and succeeded), *failures* at how many a promise was broken. *disk full* is a disk of 64 MiB that is filled up to so
many KiB (`DISKS` there, by their number); of the manager's those count where somebody had to make room.

| program | call | fault | calls | points | ends | failures | ended, and built from |
|---|---|---|---|---|---|---|---|
";

/// Replaces the row in the file, which says when it was made and of what. Several processes may do so at once.
pub(crate) fn write(row: &Row) {
    let lock = std::fs::File::create(std::env::temp_dir().join("sutler-sweep.lock")).expect("a lock can be made");
    lock.lock().expect("the lock can be taken");
    let old = fs_err::read_to_string(FILE).unwrap_or_default();
    let mut lines: Vec<String> = old.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| program |")).map(str::to_owned).collect();
    let mut git = std::process::Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
    let commit = sutler_tests::harness::run(git, b"").stdout;
    let line = format!("{row} {} UTC, {} |", Timestamp::now().strftime("%Y-%m-%d %H:%M"), commit.trim());
    let mine = format!("| {} |", row.what.join(" | "));
    match lines.iter_mut().find(|line| line.starts_with(&mine)) {
        Some(old) => *old = line,
        None => lines.push(line),
    }
    fs_err::write(FILE, format!("{HEAD}{}\n", lines.join("\n"))).expect("the report can be written");
}
