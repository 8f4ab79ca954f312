//! Runs `sutler` as an administrator would, and reads what it says.

use super::programs;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a program that has ended did.
#[derive(Debug, Clone)]
pub struct Done {
    /// What was run, for messages.
    pub command: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Done {
    /// Its standard output, if it ended well.
    ///
    /// # Panics
    ///
    /// When it did not.
    pub fn ok(self) -> String {
        self.ends_with(0).stdout
    }

    /// Itself, if it ended with this code.
    ///
    /// # Panics
    ///
    /// When it ended with another.
    pub fn ends_with(self, code: i32) -> Done {
        assert_eq!(
            self.code, code,
            "`{}` ended with {}, not {code}\n--- stdout\n{}--- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        );
        self
    }

    /// Itself, if its standard error has all these words.
    ///
    /// # Panics
    ///
    /// When one is missing.
    pub fn says(self, words: &[&str]) -> Done {
        for word in words {
            assert!(self.stderr.contains(word), "`{}` did not say {word:?} but:\n{}", self.command, self.stderr);
        }
        self
    }
}

/// Splits a command line into words at spaces; `'…'` keeps a word together.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, begun) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    assert!(!quoted, "a quotation mark is missing in {line}");
    if begun {
        words.push(word);
    }
    words
}

/// Runs a program to its end, with `input` as its standard input.
///
/// # Panics
///
/// When it can't be started.
pub fn run(mut command: Command, input: &[u8]) -> Done {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("`{shown}` can't be started: {e}"));
    // Small inputs only: they fit into the pipe. Whoever doesn't read it has closed it.
    let mut stdin = child.stdin.take().expect("it is piped");
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().unwrap_or_else(|e| panic!("`{shown}` can't be waited for: {e}"));
    Done {
        command: shown,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// An administrator's command line: a configuration folder of its own, and the manager's address.
#[derive(Debug, Clone)]
pub struct Cli {
    config: PathBuf,
    address: Option<String>,
}

impl Cli {
    /// With the profiles in `config`.
    pub fn new(config: &Path) -> Cli {
        Cli { config: config.to_owned(), address: None }
    }

    /// The same, with the manager's operators' port at this address instead of the profile's.
    pub fn at(&self, address: String) -> Cli {
        Cli { config: self.config.clone(), address: Some(address) }
    }

    /// The configuration folder.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The folder of the first operator's profile.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn profile(&self) -> PathBuf {
        let name = fs_err::read_to_string(self.config.join("current")).expect("a profile is chosen");
        self.config.join("profiles").join(name.trim())
    }

    /// `sutler` with these arguments, to be run.
    pub fn command<S: AsRef<str>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(programs::sutler());
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .env("SUTLER_CONFIG_DIR", &self.config)
            .env_remove("SUTLER_PROFILE")
            .env_remove("SUTLER_PASSPHRASE_FILE");
        // As in the README, which knows the variable too.
        if let Some(address) = &self.address {
            command.args(["--address", address]);
        }
        command
    }

    /// Runs `sutler` with the words of `line` (split at spaces, `'…'` keeps words together).
    pub fn run(&self, line: &str) -> Done {
        run(self.command(&words(line)), b"")
    }

    /// The standard output of a command that ends well.
    pub fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// A command that ends with `code`.
    pub fn fails(&self, code: i32, line: &str) -> Done {
        self.run(line).ends_with(code)
    }

    /// The answer as JSON, whatever the exit code (that of `job status` says how the job is).
    pub fn json(&self, line: &str) -> Value {
        let done = self.run(&format!("{line} -o json"));
        serde_json::from_str(&done.stdout)
            .unwrap_or_else(|e| panic!("`{}` printed no JSON: {e}\n{}{}", done.command, done.stdout, done.stderr))
    }

    /// The first word of the output: the name or id of what was made, without its collection.
    pub fn id(&self, line: &str) -> String {
        let out = self.ok(line);
        let name = out.split_whitespace().next().unwrap_or_else(|| panic!("`sutler {line}` printed nothing"));
        name.rsplit('/').next().unwrap_or(name).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_like_a_shell_does_it() {
        assert_eq!(words("policy  create p --when 'a == \"b\"' ''"), ["policy", "create", "p", "--when", "a == \"b\"", ""]);
    }
}
