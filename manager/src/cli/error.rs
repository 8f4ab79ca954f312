//! Says what went wrong: `error:` what was tried, on what and why, then every detail, then a `hint:` what to do.

use super::output::printable;
use std::{io, path::PathBuf, time::Duration};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a command did not do what it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line makes no sense; nothing was tried.
    #[error("{sentence}")]
    Usage {
        /// What is wrong.
        sentence: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// The manager refused a call, or could not be reached for it.
    #[error("cannot {tried}: {}", status.message())]
    Call {
        /// What was tried, on what: `create the group new-clients`.
        tried: String,
        /// The manager's answer.
        status: Box<Status>,
    },
    /// The manager can't be reached.
    #[error("cannot reach the manager at {address}: {why}")]
    Connect {
        /// Where it should be.
        address: String,
        /// What happened, with every cause.
        why: String,
        /// What to do.
        hint: String,
    },
    /// The operator's profile can't be used.
    #[error("{sentence}")]
    Profile {
        /// What is wrong with it.
        sentence: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A file can't be read or written.
    #[error("cannot {tried} {path}: {source}")]
    File {
        /// `read`, `write`.
        tried: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file's rows are not what they should be. Nothing was changed.
    #[error("{path}: {} row{} can't be used, so nothing was changed", rows.len(), if rows.len() == 1 { "" } else { "s" })]
    Rows {
        /// The file.
        path: PathBuf,
        /// One sentence per bad row, with its line.
        rows: Vec<String>,
        /// What to do.
        hint: String,
    },
    /// Files can't be applied as they are. Nothing was changed.
    #[error("cannot apply the files: {} thing{} wrong, so nothing was changed", wrong.len(), if wrong.len() == 1 { " is" } else { "s are" })]
    Documents {
        /// One sentence for each, with file and line.
        wrong: Vec<String>,
    },
    /// Something on this machine did not work: a package folder, a key, a server that could not start.
    #[error("cannot {tried}: {why}")]
    Local {
        /// What was tried, on what.
        tried: String,
        /// Why it did not work.
        why: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The person said no.
    #[error("nothing was changed")]
    Declined,
    /// Nobody reads what is printed any more, or it can't be written.
    #[error("cannot write to the standard output: {0}")]
    Output(io::Error),
}

impl CliError {
    /// A usage error that says `sentence`.
    pub fn usage(sentence: impl Into<String>) -> CliError {
        CliError::Usage { sentence: sentence.into(), hint: None }
    }

    /// A usage error with a hint.
    pub fn usage_hint(sentence: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::Usage { sentence: sentence.into(), hint: Some(hint.into()) }
    }

    /// An error of this machine: what was tried and the error with all its causes.
    pub fn local(tried: impl Into<String>, source: &dyn std::error::Error) -> CliError {
        CliError::Local { tried: tried.into(), why: causes(source), hint: None }
    }

    /// The exit code: 2 for a usage error, 1 for anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage { .. } => 2,
            _ => 1,
        }
    }

    /// Whether the reader of the output went away, about which nobody needs to hear.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, CliError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            CliError::Usage { hint, .. } | CliError::Profile { hint, .. } | CliError::Local { hint, .. } => hint.clone(),
            CliError::Connect { hint, .. } | CliError::Rows { hint, .. } => Some(hint.clone()),
            CliError::Call { status, .. } => status_hint(status),
            CliError::File { .. } | CliError::Documents { .. } | CliError::Declined | CliError::Output(_) => None,
        }
    }

    /// The lines for people. Whatever the manager said is made harmless.
    pub fn report(&self) -> String {
        let mut text = match self {
            // The manager's sentence has every violation; here each gets a line.
            CliError::Call { tried, status } if details(status).len() > 1 => {
                format!("error: cannot {}: {} things are wrong\n", printable(tried), details(status).len())
            }
            _ => format!("error: {}\n", printable(&self.to_string())),
        };
        match self {
            CliError::Rows { rows, .. } | CliError::Documents { wrong: rows } => {
                for row in rows.iter().take(ROWS_SHOWN) {
                    text.push_str(&format!("  {}\n", printable(row)));
                }
                if rows.len() > ROWS_SHOWN {
                    text.push_str(&format!("  … and {} more\n", rows.len() - ROWS_SHOWN));
                }
            }
            CliError::Call { status, .. } => {
                for line in details(status) {
                    text.push_str(&format!("  {}\n", printable(&line)));
                }
            }
            _ => {}
        }
        if let Some(hint) = self.hint() {
            text.push_str(&format!("hint: {}\n", printable(&hint)));
        }
        text
    }
}

/// How many bad rows of a file are shown: enough to see the pattern, not so many that the first scrolls away.
const ROWS_SHOWN: usize = 50;

/// An error and everything that caused it, each once.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// What the manager said beyond its sentence, a line each.
fn details(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let mut lines = Vec::new();
    if let Some(bad) = details.bad_request() {
        lines.extend(
            bad.field_violations
                .iter()
                .map(|v| if v.field.is_empty() { v.description.clone() } else { format!("{}: {}", v.field, v.description) }),
        );
    }
    if let Some(failure) = details.precondition_failure() {
        lines.extend(failure.violations.iter().map(|v| match (v.subject.is_empty(), v.description.is_empty()) {
            (_, true) => format!("{} {}", v.r#type, v.subject),
            (true, false) => v.description.clone(),
            (false, false) => format!("{}: {}", v.subject, v.description),
        }));
    }
    if let Some(quota) = details.quota_failure() {
        lines.extend(quota.violations.iter().map(|v| format!("{}: {}", v.subject, v.description)));
    }
    // What the sentence says already isn't said twice.
    if let [line] = lines.as_slice()
        && (status.message().contains(line.as_str()) || line.contains(status.message()) && status.message().len() * 2 > line.len())
    {
        lines.clear();
    }
    lines
}

/// What to do, from what the manager said, else from the kind of the error.
fn status_hint(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let info = details.error_info();
    if let Some(hint) = info.and_then(|i| i.metadata.get("hint")) {
        return Some(hint.clone());
    }
    if let Some(delay) = details.retry_info().and_then(|r| r.retry_delay)
        && delay > Duration::ZERO
    {
        return Some(format!("try again in {} s", delay.as_secs().max(1)));
    }
    let reason = info.map(|i| i.reason.as_str()).filter(|r| !r.is_empty());
    let hint = match status.code() {
        Code::NotFound => return noun_of(status.message()).map(|noun| format!("`sutler {noun} list` shows what there is")),
        Code::Aborted => "somebody changed it meanwhile: look at it again, then repeat the command",
        Code::PermissionDenied => "`sutler operator show` says who you are; another operator may be allowed to do it",
        Code::Unauthenticated => {
            "`sutler profile list` shows your profiles: is the one in use of this manager, and was it used within the last 30 days? Another \
             administrator gives a new certificate with `sutler operator issue`; with `--dir D` that goes on the manager's host, too"
        }
        Code::Unavailable => "is the manager running? `--retry-for 60s` waits longer for it",
        Code::DeadlineExceeded => "the manager is busy: the change may or may not have been made; look before you repeat it",
        Code::Internal | Code::Unknown => "this is a fault of the manager: its log says more",
        _ => return reason.map(|r| format!("the manager calls it {r}")),
    };
    Some(hint.to_owned())
}

/// The noun that the manager did not find: `there is no group x`.
fn noun_of(message: &str) -> Option<&str> {
    let noun = message.strip_prefix("there is no ")?.split_whitespace().next()?;
    ["client", "group", "policy", "package", "job", "token"].contains(&noun).then_some(noun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn every_field_violation_has_a_line_and_the_hint_comes_last() {
        let mut details = ErrorDetails::with_bad_request_violation("group_id", "a group's name has 1 to 63 of a-z");
        details.add_bad_request_violation("description", "too long \u{1b}[31m");
        let status = Status::with_error_details(Code::InvalidArgument, "2 fields are wrong", details);
        let text = CliError::Call { tried: "create the group X".into(), status: Box::new(status) }.report();
        assert_eq!(
            text,
            "error: cannot create the group X: 2 things are wrong\n  group_id: a group's name has 1 to 63 of a-z\n  description: too long \\u{1b}[31m\n"
        );
    }

    #[test]
    fn a_hint_of_the_manager_goes_before_ours() {
        let details = ErrorDetails::with_error_info("GROUP_IN_USE", "sutler", [("hint".to_owned(), "cancel the job first".to_owned())]);
        let status = Status::with_error_details(Code::FailedPrecondition, "a job is active", details);
        let text = CliError::Call { tried: "delete the group x".into(), status: Box::new(status) }.report();
        assert!(text.ends_with("hint: cancel the job first\n"), "{text}");
        let text = CliError::Call { tried: "show the group x".into(), status: Box::new(Status::not_found("there is no group x")) }.report();
        assert!(text.ends_with("hint: `sutler group list` shows what there is\n"), "{text}");
    }

    #[test]
    fn only_a_usage_error_ends_with_two() {
        assert_eq!(CliError::usage("x").exit_code(), 2);
        assert_eq!(CliError::Declined.exit_code(), 1);
        assert_eq!(CliError::Call { tried: String::new(), status: Box::new(Status::invalid_argument("x")) }.exit_code(), 1);
    }
}
