//! What the programs say of themselves: every page of `--help`, and the list of their verbs in README.md.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use sutler_tests::harness::programs;

/// Where the list of verbs stands in README.md.
const LIST: [&str; 2] = ["<!-- The list is made by the test every_verb_stands_in_the_readmes_reference. -->", "<!-- End of the list. -->"];
/// What every page of a program has at its end, and is shown on the first alone.
const GLOBAL: &str = "\nGlobal options:\n";

struct Page {
    /// The program and the words behind it.
    words: Vec<String>,
    /// What the page begins with: what the verb does.
    sentence: String,
    text: String,
    /// The words that may come next.
    next: Vec<String>,
}

/// The page of these words and all below it.
fn pages(program: &Path, words: &[String], all: &mut Vec<Page>) {
    // As wide as in a file, whatever terminal the test runs in, and with nobody's settings in it.
    let output = Command::new(program).args(&words[1..]).arg("--help").env_clear().env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "`{} --help` fails: {output:?}", words.join(" "));
    let text = String::from_utf8(output.stdout).unwrap();
    let list = text.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or_default());
    // What goes on from the line before stands further to the right.
    let is_name = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let next: Vec<String> = list.lines().filter(is_name).filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect();
    let sentence = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    all.push(Page { words: words.to_vec(), sentence, text, next: next.clone() });
    for word in next.iter().filter(|word| *word != "help") {
        pages(program, &[words, std::slice::from_ref(word)].concat(), all);
    }
}

/// The part of a page with the options that every page has, if it has it: up to the next part, or to its end.
fn global(text: &str) -> Option<&str> {
    let from = text.find(GLOBAL)?;
    let next = text[from + GLOBAL.len()..].split_inclusive('\n').take_while(|line| line.starts_with(' ') || *line == "\n");
    Some(&text[from..from + GLOBAL.len() + next.map(str::len).sum::<usize>()])
}

/// The names of the options in a part, however wide it is written.
fn options(part: &str) -> Vec<&str> {
    part.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--"))).filter(|w| w.len() > 2).collect()
}

fn every_page() -> Vec<Page> {
    let mut all = Vec::new();
    pages(&programs::sutler(), &["sutler".to_owned()], &mut all);
    pages(&programs::sutler_agent(), &["sutler-agent".to_owned()], &mut all);
    all
}

fn is_updated() -> bool {
    std::env::var_os("UPDATE_SNAPSHOT").is_some()
}

#[test]
fn every_page_of_help_is_the_one_in_the_snapshot() {
    let pages = every_page();
    let mut now = String::new();
    for page in &pages {
        let first = pages.iter().find(|p| p.words[..] == page.words[..1]).unwrap();
        let mut text = page.text.clone();
        if page.words.len() > 1
            && let (Some(global), Some(first)) = (global(&page.text), global(&first.text))
        {
            assert_eq!(options(global), options(first), "`{} --help`", page.words.join(" "));
            text = text.replace(global, "\n");
        }
        let _ = writeln!(now, "$ {} --help\n{}\n", page.words.join(" "), text.trim_end());
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("help.snapshot");
    if is_updated() {
        fs_err::write(&file, &now).unwrap();
    }
    let then = fs_err::read_to_string(&file).unwrap();
    let only = |of: &str, not: &str| of.lines().filter(|line| !not.lines().any(|l| l == *line)).map(str::to_owned).collect::<Vec<_>>();
    assert!(
        now == then,
        "pages of help have changed. If that is meant: UPDATE_SNAPSHOT=1 cargo test -p sutler-tests --test e2e help\ngone: {:#?}\nnew: {:#?}",
        only(&then, &now),
        only(&now, &then)
    );
}

#[test]
fn every_verb_stands_in_the_readmes_reference() {
    let mut list = String::from("\n| command | what for |\n|---|---|\n");
    // A noun with its verbs is a line; the agent's verbs have no noun.
    let pages = every_page();
    for page in &pages {
        let is_noun = !page.next.is_empty();
        let above = &page.words[..page.words.len() - 1];
        let under_noun = above.len() > 1;
        match (page.words.len(), is_noun) {
            (1, _) => {}
            (_, true) => {
                let verbs: Vec<_> = page.next.iter().map(|verb| format!("`{verb}`")).collect();
                let _ = writeln!(list, "| `{}` {} | {} |", page.words.join(" "), verbs.join(" "), page.sentence);
            }
            _ if under_noun => {}
            _ => {
                let _ = writeln!(list, "| `{}` | {} |", page.words.join(" "), page.sentence);
            }
        }
    }
    let list = list.replace(" `help`", "") + "\n";
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs_err::read_to_string(&file).unwrap();
    let (before, rest) = readme.split_once(&format!("{}\n", LIST[0])).expect("README.md has the list's beginning");
    let (then, after) = rest.split_once(LIST[1]).expect("README.md has the list's end");
    if is_updated() {
        fs_err::write(&file, format!("{before}{}\n{list}{}{after}", LIST[0], LIST[1])).unwrap();
        return;
    }
    assert_eq!(then, list, "the verbs have changed. If that is meant: UPDATE_SNAPSHOT=1 cargo test -p sutler-tests --test e2e help");
}
