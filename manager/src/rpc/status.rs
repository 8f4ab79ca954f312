//! What the manager could not do, as status codes: the one place where that is decided.

use crate::{
    app::{AppError, Violation},
    net::cut,
};
use std::collections::HashMap;
use sutler_content::Error as ContentError;
use sutler_store::StoreError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

const DOMAIN: &str = "sutler";
/// After how long somebody may have made room on a disk that is full.
const DISK_FULL_RETRY_SECONDS: u32 = 30;
/// What is wrong with a page token of somebody else's making.
pub(super) const NOT_A_TOKEN: &str = "is not one that this manager gave";

/// The status of an error.
pub fn status(error: AppError) -> Status {
    match error {
        AppError::Invalid(violations) => {
            let text = AppError::Invalid(violations.clone()).to_string();
            Status::with_error_details(Code::InvalidArgument, cut(&text), ErrorDetails::with_bad_request(fields(violations)))
        }
        // The same bytes whether it is not there, somebody else's, or out of the caller's scope.
        AppError::NotFound { .. } => Status::not_found(error.to_string()),
        AppError::Exists { .. } => Status::already_exists(error.to_string()),
        AppError::State { subject, kind, message } => {
            let message = cut(&message);
            let details = ErrorDetails::with_precondition_failure(vec![PreconditionViolation::new(kind, cut(&subject), message.clone())]);
            Status::with_error_details(Code::FailedPrecondition, message, details)
        }
        AppError::ApprovalNeeded(_) => {
            let message = error.to_string();
            let details =
                ErrorDetails::with_precondition_failure(vec![PreconditionViolation::new("APPROVAL_NEEDED", "fleet", message.clone())]);
            Status::with_error_details(Code::FailedPrecondition, message, details)
        }
        AppError::Stale(_) => Status::aborted(error.to_string()),
        AppError::Exhausted { message, retry_seconds } => exhausted("LIMIT_REACHED", message, Some(retry_seconds)),
        AppError::DiskFull(message) => exhausted("DISK_FULL", message, Some(DISK_FULL_RETRY_SECONDS)),
        AppError::Unauthenticated { reason, message } => {
            Status::with_error_details(Code::Unauthenticated, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
        }
        AppError::Denied(message) => Status::permission_denied(message),
        AppError::Regranted(_) => unavailable(error.to_string()),
        AppError::DataLoss(message) => Status::data_loss(message),
        AppError::Store(error) => store(error),
        AppError::Content(error) => content(error),
        AppError::Bug(message) => bug(message),
    }
}

fn exhausted(reason: &str, message: String, retry_seconds: Option<u32>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if let Some(seconds) = retry_seconds {
        details.set_retry_info(Some(std::time::Duration::from_secs(u64::from(seconds))));
    }
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// What may go better soon.
pub(crate) fn unavailable(message: String) -> Status {
    let after = Some(std::time::Duration::from_secs(1));
    Status::with_error_details(Code::Unavailable, message, ErrorDetails::with_retry_info(after))
}

fn store(error: StoreError) -> Status {
    match error {
        StoreError::Unavailable(_) => unavailable(error.to_string()),
        StoreError::NoPage => status(AppError::invalid("page_token", NOT_A_TOKEN)),
        StoreError::Full(_) => exhausted("DISK_FULL", "the manager's disk is full; make room there".into(), Some(DISK_FULL_RETRY_SECONDS)),
        other => bug(other.to_string()),
    }
}

fn content(error: ContentError) -> Status {
    match error {
        ContentError::Missing(_) => Status::not_found("there is no such content"),
        ContentError::Damaged { .. } => {
            tracing::error!(%error, "stored content is damaged");
            Status::data_loss(error.to_string())
        }
        ContentError::Mismatch { .. }
        | ContentError::TooLong { .. }
        | ContentError::Undecodable { .. }
        | ContentError::NotAManifest { .. }
        | ContentError::NotAChunkList { .. } => {
            let text = error.to_string();
            let fields = vec![FieldViolation::new("content", text.clone())];
            Status::with_error_details(Code::InvalidArgument, text, ErrorDetails::with_bad_request(fields))
        }
        ContentError::NoSpace { .. } => exhausted("DISK_RESERVE", error.to_string(), None),
        error @ ContentError::NotDurable { .. } => crate::app::disk_failed(&error),
        // The store is away, or the disk under it has trouble: no mistake of the caller's, and it may pass.
        ContentError::Folder { .. } | ContentError::Store { .. } => {
            tracing::error!(%error, "the store of package bytes fails");
            unavailable("the manager's store of package bytes fails; its log says how".into())
        }
        other => bug(other.to_string()),
    }
}

/// A bug. The port logs what it is under a number, and the caller learns the number alone.
pub(crate) fn bug(message: String) -> Status {
    Status::internal(message)
}

/// How many bytes of violations go into one answer: with the message, as base64, they have to fit into 16 KiB of headers.
const VIOLATIONS_MAX: usize = 4 << 10;

/// The violations for the wire: as many as fit, and how many more there are.
fn fields(violations: Vec<Violation>) -> Vec<FieldViolation> {
    let (mut fields, mut room, all) = (Vec::new(), VIOLATIONS_MAX, violations.len());
    for v in violations {
        let (field, description) = (cut(&v.field), cut(&v.description));
        match room.checked_sub(field.len() + description.len()) {
            Some(left) => room = left,
            None if fields.is_empty() => {}
            None => break,
        }
        fields.push(FieldViolation::new(field, description));
    }
    if fields.len() < all {
        fields.push(FieldViolation::new("", format!("and {} more", all - fields.len())));
    }
    fields
}

impl From<AppError> for Status {
    fn from(error: AppError) -> Status {
        status(error)
    }
}
