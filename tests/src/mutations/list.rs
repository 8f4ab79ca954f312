//! Reads the promises and the mutations, and refuses what does not fit together.

use super::root;
use serde::Deserialize;
use std::path::PathBuf;

/// All promises, in the order of their two tables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promises {
    /// The two tables.
    pub against: Against,
}

/// Against whom or what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Against {
    /// Those who mean harm, or make mistakes.
    pub people: Vec<Promise>,
    /// Faults.
    pub world: Vec<Promise>,
}

/// One line of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// By which mutations name it.
    pub id: String,
    /// Who, or which fault.
    pub line: String,
    /// What holds then, in short.
    pub promise: String,
}

impl Promises {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Promise> {
        self.against.people.iter().chain(&self.against.world)
    }
}

/// A patch that takes a protection away.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// The file's name without its ending.
    pub name: String,
    /// The promise that is broken then.
    pub promise: String,
    /// What is taken away: one sentence.
    pub removes: String,
    /// The command that fails then: `cargo test …`.
    pub test: String,
    /// The file.
    pub path: PathBuf,
}

impl Mutation {
    /// The words of the command after `cargo test`.
    fn words(&self) -> impl Iterator<Item = &str> {
        self.test.split_whitespace().skip(2)
    }

    /// The tests that it names: the last part of each path.
    pub fn tests(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut words = self.words();
        while let Some(word) = words.next() {
            match word {
                "-p" | "--package" | "--test" | "--bin" | "--features" => drop(words.next()),
                _ if word.starts_with('-') => {}
                name => names.push(name.rsplit("::").next().unwrap_or(name)),
            }
        }
        names
    }

    /// What Cargo is told. The tests' own package is always among those chosen: with others Cargo would unify features
    /// differently and build all dependencies anew.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["test".to_owned(), "--locked".to_owned()];
        if !self.test.contains("-p sutler-tests") {
            arguments.extend(["-p".to_owned(), "sutler-tests".to_owned()]);
        }
        arguments.extend(self.words().map(str::to_owned));
        arguments
    }

    fn parse(path: PathBuf, text: &str) -> Result<Mutation, String> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let head = text.split("\ndiff --git ").next().unwrap_or_default();
        let field = |key: &str| {
            let mut found = head.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            match (found.next(), found.next()) {
                (Some(value), None) => Ok(value.trim().to_owned()),
                _ => Err(format!("{name}: needs one line `{key}: …` before the first `diff --git`")),
            }
        };
        let mutation = Mutation { promise: field("Promise")?, removes: field("Removes")?, test: field("Test")?, path, name: name.clone() };
        if !mutation.test.starts_with("cargo test ") || mutation.tests().is_empty() {
            return Err(format!("{name}: `Test:` is a command `cargo test …` that names at least one test"));
        }
        if mutation.name != mutation.promise && !mutation.name.starts_with(&format!("{}-", mutation.promise)) {
            return Err(format!("{name}: the file is named after its promise, {}", mutation.promise));
        }
        Ok(mutation)
    }
}

/// The promises.
///
/// # Panics
///
/// When the file can't be read.
pub fn promises() -> Promises {
    let path = root().join("tests/promises.toml");
    let text = fs_err::read_to_string(path).expect("the promises are part of the source");
    toml::from_str(&text).expect("tests/promises.toml holds promises")
}

/// The mutations in the order of their promises, and every mistake in them: a line that is missing, a promise that does not
/// exist, a test that does not exist.
///
/// # Panics
///
/// When the folder can't be read.
pub fn mutations(promises: &Promises) -> (Vec<Mutation>, Vec<String>) {
    let (mut good, mut mistakes) = (Vec::new(), Vec::new());
    let folder = root().join("tests/mutations");
    let entries = fs_err::read_dir(folder).expect("the mutations are part of the source");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "patch"));
    paths.sort();
    let sources = sources();
    for path in paths {
        let text = fs_err::read_to_string(&path).expect("a mutation can be read");
        match Mutation::parse(path, &text) {
            Ok(mutation) => {
                if !promises.iter().any(|p| p.id == mutation.promise) {
                    mistakes.push(format!("{}: there is no promise {}", mutation.name, mutation.promise));
                }
                for test in mutation.tests().into_iter().filter(|test| !sources.contains(&format!("fn {test}("))) {
                    mistakes.push(format!("{}: there is no test {test}", mutation.name));
                }
                good.push(mutation);
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    let place = |mutation: &Mutation| promises.iter().position(|p| p.id == mutation.promise);
    good.sort_by_key(|mutation| (place(mutation), mutation.name.clone()));
    (good, mistakes)
}

/// Every line of Rust in the source.
/// All Rust sources of this repository, one after the other.
///
/// # Panics
///
/// When a file can't be read.
pub fn sources() -> String {
    let mut text = String::new();
    let mut folders: Vec<PathBuf> = ["proto", "certs", "manager", "agent", "tests"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).expect("the source can be read") {
            let path = entry.expect("the source can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                text.push_str(&fs_err::read_to_string(&path).expect("the source can be read"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Promise: agent-key\nRemoves: the check.\nTest: cargo test -p sutler-certs --test handshake a::b_c -- --exact\n\ndiff --git a/x b/x\n";

    #[test]
    fn a_mutation_says_which_promise_it_breaks_and_which_test_fails_then() {
        let mutation = Mutation::parse("agent-key-check.patch".into(), GOOD).unwrap();
        assert_eq!((mutation.promise.as_str(), mutation.tests()), ("agent-key", vec!["b_c"]));
        assert!(mutation.arguments().join(" ").starts_with("test --locked -p sutler-tests -p sutler-certs --test handshake a::b_c"));
    }

    #[test]
    fn a_mutation_that_does_not_say_what_it_is_is_refused() {
        for (path, from, to) in [
            ("token.patch", "the check", "the check"),
            ("agent-key.patch", "Removes: the check.\n", ""),
            ("agent-key.patch", "cargo test", "true"),
            ("agent-key.patch", "a::b_c -- --exact", ""),
        ] {
            assert!(Mutation::parse(path.into(), &GOOD.replace(from, to)).is_err(), "{path}: {from}");
        }
    }

    #[test]
    fn every_mutation_names_a_promise_and_a_test_that_there_are() {
        let (_, mistakes) = mutations(&promises());
        assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    }
}
