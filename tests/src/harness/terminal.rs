//! A program at a terminal, and a person who answers when they are asked.

use super::cleanup::Place;
use super::cli::Done;
use super::wait::{PATIENCE, wait_for, wait_until};
use crate::tools;
use std::fs::File;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A terminal in which a program runs; the program ends with it.
#[derive(Debug)]
pub struct Terminal {
    // Before the place: what is killed first is waited for.
    child: Child,
    keyboard: ChildStdin,
    place: Place,
    command: String,
    /// How much of what is shown was there when the last answer was typed (bytes).
    answered: usize,
}

impl Terminal {
    /// Runs this at a terminal that shows what is typed. None, with the reason said, where nothing can make one.
    ///
    /// # Panics
    ///
    /// When it can't be started.
    pub fn run(command: &Command) -> Option<Terminal> {
        if tools::skip_without("script") {
            return None;
        }
        let place = Place::new("terminal");
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")))
            .collect();
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--echo", "always", "--command", &words.join(" "), "/dev/null"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let screen = File::create(place.path().join("screen")).expect("a file can be written");
        script.stdin(Stdio::piped()).stdout(screen.try_clone().expect("a file has a second handle")).stderr(screen);
        let mut child = script.spawn().expect("a terminal can be made");
        let keyboard = child.stdin.take().expect("it is piped");
        Some(Terminal { child, keyboard, place, command: format!("{command:?}"), answered: 0 })
    }

    /// What is shown, from the first line on.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&fs_err::read(self.place.path().join("screen")).unwrap_or_default()).into_owned()
    }

    /// Waits until it asks this, after what was answered before, and types the answer and a line end.
    ///
    /// # Panics
    ///
    /// When it does not ask.
    pub fn answer(&mut self, question: &str, answer: &str) {
        wait_until(&format!("`{}` to ask {question:?}", self.command), PATIENCE, || {
            self.screen().get(self.answered..).is_some_and(|new| new.contains(question))
        });
        self.answered = self.screen().len();
        self.keyboard.write_all(format!("{answer}\n").as_bytes()).expect("it reads");
    }

    /// Waits for its end; what was shown is its standard output.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn ended(mut self) -> Done {
        let status = wait_for(&format!("`{}` to end", self.command), PATIENCE, || self.child.try_wait().expect("it is ours"));
        Done { command: self.command.clone(), code: status.code().unwrap_or(-1), stdout: self.screen(), stderr: String::new() }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
