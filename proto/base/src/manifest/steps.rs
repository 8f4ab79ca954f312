//! What is run to install, uninstall or restore a package: its steps, and what their exit codes mean.

use super::check_command;
use crate::{Invalid, limits, path::RelPath, quoted};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// When a step is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before the new tree takes its place; its files are in the step's working directory.
    Before,
    /// The installation itself.
    #[default]
    Install,
    /// After the installation, before detection.
    After,
    /// Only when something failed, before anything is put back.
    OnError,
    /// Takes the package off the machine, before its tree goes.
    Uninstall,
    /// Only when something failed and the version before is back in its place: puts back what that one had installed.
    Restore,
}

impl Phase {
    /// Every phase with its word.
    pub const ALL: [(&'static str, Phase); 6] = [
        ("before", Phase::Before),
        ("install", Phase::Install),
        ("after", Phase::After),
        ("onerror", Phase::OnError),
        ("uninstall", Phase::Uninstall),
        ("restore", Phase::Restore),
    ];
}

/// One program that is run for the package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What people call it, unique in the package.
    pub name: String,
    /// When it is run.
    #[serde(default)]
    pub phase: Phase,
    /// The program and its arguments, exactly as `execve` gets them once `${PARAMETER}` is filled in; a relative program is
    /// below the package's directory.
    pub argv: Vec<String>,
    /// Variables in addition to the few that every step gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// The user that it is run as; the agent's own unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory below the package's directory; that directory itself unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<RelPath>,
    /// How long it may run (seconds); then its process group is killed and it has failed.
    #[serde(default = "step_seconds")]
    pub time_limit: u32,
    /// What its exit codes mean; 0 is `SUCCESS` and any other `FAILURE` unless said otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exit_codes: BTreeMap<i32, ExitMeaning>,
    /// Go on with the next step although this one failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continue_on_failure: bool,
}

fn step_seconds() -> u32 {
    limits::STEP_SECONDS_DEFAULT
}

impl Step {
    /// A step that says nothing else.
    pub fn new(name: impl Into<String>, phase: Phase, argv: Vec<String>) -> Step {
        Step {
            name: name.into(),
            phase,
            argv,
            environment: BTreeMap::new(),
            user: None,
            directory: None,
            time_limit: limits::STEP_SECONDS_DEFAULT,
            exit_codes: BTreeMap::new(),
            continue_on_failure: false,
        }
    }

    /// What an exit code of this step means.
    pub fn meaning(&self, exit_code: i32) -> ExitMeaning {
        self.exit_codes.get(&exit_code).copied().unwrap_or(if exit_code == 0 { ExitMeaning::Success } else { ExitMeaning::Failure })
    }
}

/// What an exit code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ExitMeaning {
    /// It did what it should.
    Success,
    /// It did, and the machine must be restarted some time.
    RebootSoft,
    /// It did, and nothing of the package may go on before the machine was restarted.
    RebootHard,
    /// It could not now; to be tried again later.
    Retry,
    /// It failed.
    Failure,
}

impl ExitMeaning {
    /// Every meaning with its word.
    pub const ALL: [(&'static str, ExitMeaning); 5] = [
        ("success", ExitMeaning::Success),
        ("reboot_soft", ExitMeaning::RebootSoft),
        ("reboot_hard", ExitMeaning::RebootHard),
        ("retry", ExitMeaning::Retry),
        ("failure", ExitMeaning::Failure),
    ];
}

/// Every rule for the steps of a package; the sentence of the first one that is broken.
pub(super) fn check(steps: &[Step], has_directory: bool) -> Result<(), Invalid> {
    let fail = |sentence: String| Err(Invalid(sentence));
    if steps.len() > limits::STEPS_MAX {
        return fail(format!("a package has at most {} steps, not {}", limits::STEPS_MAX, steps.len()));
    }
    let mut names = BTreeSet::new();
    for step in steps {
        if step.name.is_empty() || step.name.len() > 63 || step.name.chars().any(char::is_control) {
            return fail(format!("a step's name has 1 to 63 printable characters, {} does not", quoted(&step.name)));
        }
        if !names.insert(&step.name) {
            return fail(format!("two steps are called {}", quoted(&step.name)));
        }
        let what = format!("step {}", quoted(&step.name));
        check_command(&what, &step.argv, &step.environment, step.time_limit)?;
        if let Some(user) = &step.user {
            // The portable names of POSIX 3.437, in lower case as Linux distributions make them.
            let first = |b: u8| b.is_ascii_lowercase() || b == b'_';
            let rest = |b: u8| first(b) || b.is_ascii_digit() || b == b'-';
            let named = user.bytes().next().is_some_and(first) && user.len() <= 32 && user.bytes().all(rest);
            // What is staged is nobody's but the agent's to read.
            if !has_directory || step.phase == Phase::Before {
                return fail(format!("{what} runs as another user, who can't read the files before they are in the package's directory"));
            }
            if !named {
                return fail(format!(
                    "the user of {what} has 1 to 32 of a-z 0-9 _ and -, and starts with no digit; {} is none",
                    quoted(user)
                ));
            }
        }
    }
    Ok(())
}
