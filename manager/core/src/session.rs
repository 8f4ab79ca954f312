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
    /// Another machine than the one that an operator said is the client. The sentence is for it.
    Other(String),
}

/// What stands in a client's notice once an operator said which machine it is, until that one has a key of its own.
pub fn kept(machine: &str) -> String {
    format!("an operator said that the machine {machine} is this client; others that have its key are refused and enrol anew")
}

/// Whether this machine is one of those between which an operator has to decide.
pub fn was_seen(client: &Client, machine: &str) -> bool {
    !machine.is_empty() && (client.machine_id == machine || client.notice.split(' ').any(|word| word.trim_end_matches(';') == machine))
}

/// Compares what an agent presents with what its client presented last.
pub fn identify(client: &Client, presented: Presented<'_>) -> Identified {
    if !client.machine_id.is_empty() && client.machine_id != presented.machine_id {
        if client.notice == kept(&client.machine_id) {
            return Identified::Other("an operator said that another machine is this client; enrol this one anew".into());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::{
        ClientId, Timestamp,
        state::{ClientKind, ClientState},
    };

    fn client(machine_id: &str, session_counter: u64, notice: &str) -> Client {
        let at = Timestamp::UNIX_EPOCH;
        Client {
            id: ClientId::from_random([1; 16]),
            kind: ClientKind::Machine,
            site: sutler_base::Uid::new(at, [1; 16]),
            site_since: at,
            state: ClientState::Quarantined,
            hostname: String::new(),
            address: String::new(),
            machine_id: machine_id.into(),
            boot_id: String::new(),
            session_counter,
            agent_version: String::new(),
            facts: String::new(),
            facts_digest: None,
            facts_time: None,
            labels: Default::default(),
            answers: Default::default(),
            token: None,
            key: [0; 32],
            enrolled: at,
            activated: None,
            last_seen: at,
            greeted: false,
            duplicate_of: None,
            notice: notice.into(),
            change: 0,
        }
    }

    #[test]
    fn between_two_machines_with_one_key_an_operator_decides_for_one_that_was_seen() {
        let seen = |machine_id, session_counter| Presented { machine_id, session_counter };
        let known = client("one", 7, "");
        assert_eq!(identify(&known, seen("one", 8)), Identified::Same);
        assert!(matches!(identify(&known, seen("one", 7)), Identified::Copy(_)));
        let Identified::Copy(notice) = identify(&known, seen("two", 8)) else { panic!("another machine") };
        let copied = client("one", 7, &notice);
        assert!(was_seen(&copied, "one") && was_seen(&copied, "two"), "{notice}");
        assert!(!was_seen(&copied, "three") && !was_seen(&copied, ""));
        // Decided: the other one is refused, and does not put the client into quarantine again.
        let decided = client("two", 0, &kept("two"));
        assert_eq!(identify(&decided, seen("two", 1)), Identified::Same);
        assert!(matches!(identify(&decided, seen("one", 9)), Identified::Other(_)));
    }
}
