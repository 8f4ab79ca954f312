//! `mutations`: shows that every promise is kept by a test, by taking the protection away. See `tests/src/mutations`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;
use sutler_tests::mutations::{Mutation, Tried, Workshop, in_readme, mutations, promises, root, table};

const USAGE: &str = "usage: cargo run -p sutler-tests --bin mutations -- COMMAND

  list              the mutations, one a line
  check             whether all of them apply, name a test, and stand in README.md
  run [NAME…]       takes each protection away in turn and shows that its test fails; all of them, or those named
  run --turn N      N of them, others with each commit
  table [--write]   the table of README.md; with --write into it";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let promises = promises();
    let (all, mistakes) = mutations(&promises);
    for mistake in &mistakes {
        eprintln!("error: {mistake}");
    }
    let text = table(&promises, &all);
    let done = match &words[..] {
        ["list"] => {
            all.iter().for_each(|m| println!("{:<32} {}", m.name, m.test));
            true
        }
        ["check"] => check(&all, &text),
        ["run", "--turn", n] => match n.parse() {
            Ok(n) => run(&turn(&all, n)),
            Err(_) => return usage(),
        },
        ["run", names @ ..] => {
            let unknown: Vec<_> = names.iter().filter(|name| !all.iter().any(|m| m.name == **name)).collect();
            if !unknown.is_empty() {
                eprintln!("error: there is no mutation {unknown:?}; see `list`");
                return ExitCode::from(2);
            }
            run(&all.iter().filter(|m| names.is_empty() || names.contains(&m.name.as_str())).cloned().collect::<Vec<_>>())
        }
        ["table"] => {
            print!("{text}");
            true
        }
        ["table", "--write"] => write(&text),
        _ => return usage(),
    };
    if done && mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn check(all: &[Mutation], table: &str) -> bool {
    let mut good = true;
    for mutation in all {
        match mutation.applies() {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                eprintln!("error: {} does not apply to this source: {why}", mutation.name);
                good = false;
            }
            Err(e) => {
                eprintln!("error: git could not be asked whether {} applies: {e}", mutation.name);
                good = false;
            }
        }
    }
    let readme = fs_err::read_to_string(root().join("README.md")).unwrap_or_default();
    if in_readme(&readme, table).as_deref() != Some(&*readme) {
        eprintln!("error: the table in README.md is another; run: cargo run -p sutler-tests --bin mutations -- table --write");
        good = false;
    }
    if good {
        println!("{} mutations apply", all.len());
    }
    good
}

/// `n` of them, so that each has its turn when commits follow each other.
fn turn(all: &[Mutation], n: usize) -> Vec<Mutation> {
    let counted = std::process::Command::new("git").args(["rev-list", "--count", "HEAD"]).current_dir(root()).output();
    let commits: usize = counted.ok().and_then(|o| String::from_utf8(o.stdout).ok()?.trim().parse().ok()).unwrap_or(0);
    let n = n.min(all.len());
    all.iter().cycle().skip(commits % all.len().max(1)).take(n).cloned().collect()
}

fn run(chosen: &[Mutation]) -> bool {
    let workshop = match Workshop::open() {
        Ok(workshop) => workshop,
        Err(e) => {
            eprintln!("error: cannot make a copy of the source below target/mutations: {e}");
            return false;
        }
    };
    let mut bad = 0;
    for mutation in chosen {
        print!("{:<32} ", mutation.name);
        let _ = std::io::stdout().flush();
        let began = Instant::now();
        let (word, why) = match workshop.try_out(mutation) {
            Ok(Tried::Failed) => ("the test fails without it", String::new()),
            Ok(Tried::Passed) => ("NOT KEPT: the test passes without it", format!("removed: {}", mutation.removes)),
            Ok(Tried::DoesNotApply(why)) => ("does not apply", why),
            Ok(Tried::Broken(why)) => ("could not be tried", why),
            Err(e) => ("could not be tried", e.to_string()),
        };
        println!("{word} ({} s)", began.elapsed().as_secs());
        if !why.is_empty() {
            println!("{why}");
            bad += 1;
        }
    }
    println!("{} passed, {bad} failed", chosen.len() - bad);
    bad == 0
}

fn write(table: &str) -> bool {
    let path = root().join("README.md");
    let readme = fs_err::read_to_string(&path).unwrap_or_default();
    let Some(new) = in_readme(&readme, table) else {
        eprintln!("error: README.md has no place that is marked for the table");
        return false;
    };
    match fs_err::write(path, new) {
        Ok(()) => true,
        Err(e) => {
            eprintln!("error: {e}");
            false
        }
    }
}
