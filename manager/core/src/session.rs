//! Whether a connection is the client itself, again, or a copy of it.

use crate::model::Client;

/// What the hello of an agent says about its machine.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The machine.
    pub machine_id: &'a str,
    /// Made durable before each connection, and greater each time.
    pub session_counter: u64,
}

/// Who it is that connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identified {
    /// The client. A greater counter from the same machine replaces the old session: a half-open one, or one from before
    /// a reboot.
    Same,
    /// Two machines have the same key, or one was put back to an older state: nobody can say which is the client. The
    /// sentence says what was seen.
    Copy(String),
}

/// Compares what an agent presents with what its client presented last.
pub fn identify(client: &Client, presented: Presented<'_>) -> Identified {
    if !client.machine_id.is_empty() && client.machine_id != presented.machine_id {
        return Identified::Copy(format!(
            "the same key was used by the machines {} and {}; keep one with `sutler client approve {} --machine ID` and enrol the other anew",
            client.machine_id, presented.machine_id, client.id
        ));
    }
    if presented.session_counter <= client.session_counter {
        return Identified::Copy(format!(
            "the machine {} came back with an older state (session {} after {}): it was restored from a snapshot, or copied; let it in again with `sutler client approve {} --machine {}`",
            presented.machine_id, presented.session_counter, client.session_counter, client.id, presented.machine_id
        ));
    }
    Identified::Same
}
