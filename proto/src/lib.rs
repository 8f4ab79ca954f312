//! The wire: the generated code of `sutler.v1`, its descriptor set, and the ways between wire and types.

pub mod access;
pub mod codec;
pub mod convert;

/// The generated code. Documented in the .proto files.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("sutler.v1");
}

/// The compiled .proto files with everything that they import, as a `google.protobuf.FileDescriptorSet`: for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sutler.bin"));

/// The version of the protocol between agent and manager.
pub const PROTOCOL_VERSION: u32 = 1;

/// The capability of an agent that reports outcomes again to a manager that was restored from a backup.
pub const REPORT_AGAIN: &str = "report-again";

/// The word for a client that gets no bytes because the transfers of a group that it is in are suspended.
pub const TRANSFER_SUSPENDED: &str = "TRANSFER_SUSPENDED";

/// The capability of an agent that shows its users what operators ask, and sends their answers.
pub const QUESTIONS: &str = "questions";

/// The capability of an agent that begins nothing outside of the times that it is told.
pub const TIMES: &str = "times";
/// The capability of an agent that says whether what it installed is still there.
pub const CHECKS: &str = "checks";
/// The capability of an agent that fetches and keeps what is installed another time.
pub const PREFETCH: &str = "prefetch";
/// The capability of an agent that measures and reports its facts when it is asked to.
pub const INVENTORY: &str = "inventory";
/// The capability of an agent that announces to its users what a job announces, and takes in what they answer.
pub const ANNOUNCEMENTS: &str = "announcements";
/// The capability of an agent that begins at a start or the stop of the machine, and has it restarted, where a job says so.
pub const BOOTS: &str = "boots";
/// The capability of an agent that shows its users what they may choose to have installed.
pub const SHELF: &str = "shelf";
