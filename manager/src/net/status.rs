//! The one place through which every status leaves.
//!
//! The codes are part of the API. Where the library below says something else than the API, it is said right here; and what
//! is the manager's own fault leaves no more than a number, under which its log has the rest.

use crate::world::World;
use bytes::Bytes;
use http::HeaderMap;
use std::time::Duration;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

/// The word for a code, as the API's description writes it.
pub(crate) fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The domain of this program's own reasons.
const DOMAIN: &str = "sutler";

fn reason(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new())
}

/// The deadline of a call has passed.
pub(crate) fn deadline_exceeded(after: Duration) -> Status {
    let text = format!("the call took longer than {} ms", after.as_millis());
    Status::with_error_details(Code::DeadlineExceeded, text, reason("CALL_TOO_LONG"))
}

/// A message is larger than it may be.
pub(crate) fn message_too_large(text: impl Into<String>) -> Status {
    Status::with_error_details(Code::ResourceExhausted, text, reason("MESSAGE_TOO_LARGE"))
}

/// The certificate has ended since the connection was made.
pub(crate) fn certificate_ended() -> Status {
    let text = "your certificate has ended; connect again and renew it";
    Status::with_error_details(Code::Unauthenticated, text, reason("CERTIFICATE_EXPIRED"))
}

/// The caller has too many connections.
pub(crate) fn too_many_connections(limit: usize) -> Status {
    let mut details = reason("TOO_MANY_CONNECTIONS");
    details.set_retry_info(Some(Duration::from_secs(5)));
    let text = format!("you have {limit} connections to this manager, which is the most; close one");
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

/// What the library below says about messages that it could not read. The caller sent them, so it is the caller's mistake.
const UNREADABLE: [&str; 5] = [
    "failed to decode Protobuf message",
    "Missing request message",
    "Unexpected EOF decoding stream",
    "protocol error: received message",
    "Error decompressing",
];

/// The longest message of a status (bytes). It stands in a header, percent-encoded, and once more in the details.
const MESSAGE_MAX: usize = 2000;

/// A text for a caller: it has to fit into a header, and nothing in it does anything to a terminal, whatever it repeats of what
/// was sent.
pub(crate) fn cut(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let length = out.len();
        if sutler_base::is_harmful(c) && c != '\n' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        if out.len() > MESSAGE_MAX {
            out.truncate(length);
            out.push_str(" …");
            break;
        }
    }
    out
}

/// What leaves instead of `status`; none: the status itself.
fn instead_of(status: &Status, method: &str, world: &World) -> Option<Status> {
    let text = status.message();
    match status.code() {
        // A message that is too large.
        Code::OutOfRange => Some(message_too_large(text)),
        Code::Cancelled if text == "Timeout expired" => {
            Some(Status::with_error_details(Code::DeadlineExceeded, text, reason("CALL_TOO_LONG")))
        }
        Code::Internal if UNREADABLE.iter().any(|start| text.starts_with(start)) => Some(unreadable(text)),
        Code::Internal | Code::Unknown => {
            let number = world.bits().iter().take(6).fold(0_u64, |n, b| n << 8 | u64::from(*b));
            let incident = format!("{number:012x}");
            tracing::error!(incident, method, "a call failed for a reason of the manager's own: {text}");
            Some(Status::internal(format!("the manager made a mistake; its log has it as incident {incident}")))
        }
        _ if cut(text) != text => Some(Status::with_details(status.code(), cut(text), Bytes::copy_from_slice(status.details()))),
        _ => None,
    }
}

/// A message that is none: the library says in which field, `CreateGroupRequest.description: invalid string value: …`.
fn unreadable(text: &str) -> Status {
    let text = cut(text);
    let place = text.split(": ").find_map(|part| part.split_once('.')).map(|(_, field)| field).filter(|f| f.bytes().all(is_path_byte));
    let details = ErrorDetails::with_bad_request_violation(place.unwrap_or_default(), text.as_str());
    Status::with_error_details(Code::InvalidArgument, text, details)
}

fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"._[]".contains(&b)
}

/// Makes a status in these headers or trailers fit to leave, and says what it is; none, if there is no status.
pub(crate) fn leave(headers: &mut HeaderMap, method: &str, world: &World) -> Option<Code> {
    let status = Status::from_header_map(headers)?;
    let Some(other) = instead_of(&status, method, world) else { return Some(status.code()) };
    // Those of the status that does not leave.
    headers.remove(Status::GRPC_STATUS_DETAILS);
    headers.remove("grpc-message");
    write(&other, headers);
    Some(other.code())
}

/// The trailers that say `status`, and its code.
pub(crate) fn trailers(status: &Status, method: &str, world: &World) -> (HeaderMap, Code) {
    let other = instead_of(status, method, world);
    let status = other.as_ref().unwrap_or(status);
    let mut headers = MetadataMap::new().into_headers();
    write(status, &mut headers);
    (headers, status.code())
}

fn write(status: &Status, headers: &mut HeaderMap) {
    // Fails only for a text that is no header value, which percent-encoding prevents; the code alone is still an answer.
    if status.add_header(headers).is_err() {
        headers.insert(Status::GRPC_STATUS, (status.code() as i32).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(status: Status) -> Status {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let code = leave(&mut headers, "m", &World::system());
        let left = Status::from_header_map(&headers).unwrap();
        assert_eq!(code, Some(left.code()));
        let (headers, code) = trailers(&status, "m", &World::system());
        assert_eq!((Status::from_header_map(&headers).unwrap().code(), code), (left.code(), left.code()));
        left
    }

    #[test]
    fn what_the_library_says_leaves_as_the_api_says_it() {
        assert_eq!(left(Status::out_of_range("Error, decoded message length too large")).code(), Code::ResourceExhausted);
        assert_eq!(left(Status::cancelled("Timeout expired")).code(), Code::DeadlineExceeded);
        assert_eq!(left(Status::internal("failed to decode Protobuf message: buffer underflow")).code(), Code::InvalidArgument);
        assert_eq!(left(Status::internal("Missing request message.")).code(), Code::InvalidArgument);
    }

    #[test]
    fn what_can_not_be_read_names_its_field() {
        let text = "failed to decode Protobuf message: CreateGroupRequest.description: invalid string value: data is not UTF-8 encoded";
        let status = left(Status::internal(text));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "description");
        let status = left(Status::internal("failed to decode Protobuf message: buffer underflow"));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 1);
    }

    #[test]
    fn a_message_that_leaves_is_bounded_and_does_nothing_to_a_terminal() {
        let status = left(Status::not_found(format!("there is no \u{1b}[31m\u{202e}{}", "x".repeat(1 << 20))));
        assert!(status.message().len() < 2100 && !status.message().chars().any(sutler_base::is_harmful), "{}", status.message());
        let status = left(Status::not_found("é\n".repeat(1 << 20)));
        assert!(status.message().len() < 2100 && status.message().ends_with('…'));
    }

    #[test]
    fn a_mistake_of_the_managers_own_tells_nothing_but_its_number() {
        for status in [Status::internal("the database at /srv/secret"), Status::unknown("the database at /srv/secret")] {
            let left = left(status);
            assert_eq!(left.code(), Code::Internal);
            assert!(!left.message().contains("secret") && left.message().contains("incident"), "{}", left.message());
        }
    }

    #[test]
    fn what_a_handler_says_leaves_as_it_is() {
        let details = ErrorDetails::with_bad_request_violation("name", "must not be empty");
        let status = Status::with_error_details(Code::InvalidArgument, "no good: é\n", details);
        let left = left(status);
        assert_eq!(left.message(), "no good: é\n");
        assert_eq!(left.get_details_bad_request().unwrap().field_violations[0].field, "name");
        assert_eq!(leave(&mut HeaderMap::new(), "m", &World::system()), None);
    }
}
