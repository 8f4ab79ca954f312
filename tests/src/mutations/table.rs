//! The table in README.md: each promise with the tests that keep it and the mutations that show it.

use super::{Mutation, Promise, Promises};
use std::fmt::Write as _;

const BEGIN: &str = "<!-- The table is made by: cargo run -p sutler-tests --bin mutations -- table --write -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// Both tables, in Markdown.
pub fn table(promises: &Promises, mutations: &[Mutation]) -> String {
    let mut text = String::new();
    for (title, lines) in [("Against people", &promises.against.people), ("Against the world", &promises.against.world)] {
        let _ = writeln!(text, "| {title} | What holds | Test, and what it misses when that is taken away |\n|---|---|---|");
        for promise in lines {
            let _ = writeln!(text, "| {} | {} | {} |", promise.line, promise.promise, kept(promise, mutations));
        }
        text.push('\n');
    }
    text
}

/// The tests of a promise, each with the mutation that shows it.
fn kept(promise: &Promise, mutations: &[Mutation]) -> String {
    let own: Vec<String> = mutations
        .iter()
        .filter(|m| m.promise == promise.id)
        .map(|m| {
            let tests: Vec<String> = m.tests().into_iter().map(|t| format!("`{t}`")).collect();
            format!("{}: [{}](tests/mutations/{}.patch)", tests.join(", "), plain(&m.removes), m.name)
        })
        .collect();
    if own.is_empty() { "not shown yet".into() } else { own.join("<br>") }
}

fn plain(sentence: &str) -> String {
    sentence.trim_end_matches('.').replace('|', "\\|")
}

/// The text of README.md with the table in the place that is marked for it; none if it has no such place.
pub fn in_readme(readme: &str, table: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}
