//! What the manager answers when it can't do what was asked; turned into status codes in one place, in `rpc`.

use sutler_base::{Invalid, quoted};
use sutler_content::Error as ContentError;
use sutler_store::StoreError;

/// A field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path in the request.
    pub field: String,
    /// One sentence: the rule and what came.
    pub description: String,
}

/// Why something was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Fields of the request break rules; all of them are listed.
    #[error("{}", .0.iter().map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Violation>),
    /// There is no such object, or the caller may not see it.
    #[error("there is no {what} {name}")]
    NotFound {
        /// What kind of object.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The name is taken.
    #[error("{what} {name} exists already; {hint}")]
    Exists {
        /// What kind of object.
        what: &'static str,
        /// Its name.
        name: String,
        /// What to do.
        hint: String,
    },
    /// The object is in a state in which this can't be done.
    #[error("{message}")]
    State {
        /// The object's name.
        subject: String,
        /// A stable word for what is in the way.
        kind: &'static str,
        /// What was tried, why not, what to do.
        message: String,
    },
    /// The change reaches so many clients that another operator has to agree first.
    #[error("this reaches {} of {} clients, and another operator has to agree first", .0.reached.clients, .0.fleet)]
    ApprovalNeeded(Box<super::approvals::Needed>),
    /// Somebody else changed the object meanwhile.
    #[error("{0} was changed by somebody else; read it again and repeat the change")]
    Stale(String),
    /// A limit was reached.
    #[error("{message}")]
    Exhausted {
        /// Which limit, on what, and what to do.
        message: String,
        /// After how many seconds it may be tried again.
        retry_seconds: u32,
    },
    /// The manager's disk is full; it has to wait until somebody made room.
    #[error("{0}")]
    DiskFull(String),
    /// The caller's credential is not accepted; the word says why.
    #[error("{message}")]
    Unauthenticated {
        /// A stable word.
        reason: &'static str,
        /// For the caller.
        message: String,
    },
    /// The caller's roles do not allow it.
    #[error("{0}")]
    Denied(String),
    /// The operator got other roles while the call was under way.
    #[error("the roles of operators/{0} have changed; call again")]
    Regranted(String),
    /// Stored bytes are damaged.
    #[error("{0}")]
    DataLoss(String),
    /// The database or the store of package bytes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store of package bytes.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A bug.
    #[error("{0}")]
    Bug(String),
}

impl AppError {
    /// One field breaks a rule.
    pub fn invalid(field: impl Into<String>, why: impl ToString) -> AppError {
        AppError::Invalid(vec![Violation { field: field.into(), description: why.to_string() }])
    }

    /// The `request_id` came with another request before.
    pub fn reused_request_id() -> AppError {
        AppError::invalid("request_id", "was used for another request not long ago (limits.request_memory says how long); use a new one")
    }

    /// There is no such object.
    pub fn not_found(what: &'static str, name: impl ToString) -> AppError {
        AppError::NotFound { what, name: name.to_string() }
    }

    /// The object is in the wrong state.
    pub fn state(subject: impl ToString, kind: &'static str, message: impl Into<String>) -> AppError {
        AppError::State { subject: subject.to_string(), kind, message: message.into() }
    }
}

/// Collects what is wrong with a request, so that all of it is said at once.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// The value, or a note that the field is wrong.
    pub fn take<T>(&mut self, field: &str, value: Result<T, Invalid>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(Invalid(description)) => {
                self.add(field, description);
                None
            }
        }
    }

    /// Notes that a field is wrong.
    pub fn add(&mut self, field: &str, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into() });
    }

    /// Notes a text that is too long or has control characters.
    pub fn text(&mut self, field: &str, value: &str, max: usize) {
        if value.len() > max {
            self.add(field, format!("has at most {max} bytes, not {}", value.len()));
        } else if value.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            self.add(field, "has no control characters");
        }
    }

    /// Notes a word that is too long or more than a word: it will stand in sentences and commands that people are told.
    pub fn word(&mut self, field: &str, value: &str, max: usize) {
        if value.len() > max {
            self.add(field, format!("has at most {max} bytes, not {}", value.len()));
        } else if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b)) {
            self.add(field, format!("has letters, digits, and . _ : -, which {} has not", quoted(value)));
        }
    }

    /// What was taken, if nothing was noted.
    pub fn whole<T>(self, value: Option<T>) -> Result<T, AppError> {
        self.done()?;
        value.ok_or_else(|| AppError::Bug("a field that is neither there nor refused".into()))
    }

    /// An error if anything was noted.
    pub fn done(self) -> Result<(), AppError> {
        if self.0.is_empty() { Ok(()) } else { Err(AppError::Invalid(self.0)) }
    }
}

/// Ends the process: the disk does not take what was to be durable. What was acknowledged is; nothing may be any more.
pub fn disk_failed(error: &ContentError) -> ! {
    tracing::error!(%error, "the disk does not take what was to be durable; the manager ends");
    std::process::abort()
}
