//! Whether a connection is the client itself, again, or a copy of it.
//!
//! A greater counter from the same machine is the client: a half-open session that is replaced, a reboot, a new name or
//! address. Everything else is two machines with one key, or one machine that was put back to an older state; nobody but
//! an operator can say which of them is the client. What was seen of each is kept until that was said *and* the one that
//! was chosen has a key of its own.

use crate::model::{Client, Machine};

/// How many machines are noted for one client; more add nothing that an operator could use.
pub const MACHINES_MAX: usize = 16;

/// What the hello of an agent says about its machine.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The machine.
    pub machine_id: &'a str,
    /// The machine's start.
    pub boot_id: &'a str,
    /// Made durable before each connection, and greater each time.
    pub session_counter: u64,
    /// The certificate that it showed was in use before the client's newest one.
    pub superseded: bool,
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

/// Whether an operator has said which of these machines is the client.
pub fn is_decided(machines: &[Machine]) -> bool {
    machines.iter().any(|m| m.kept)
}

/// Marks the machine that an operator says is the client, by its machine id or by the id of its start, and gives back the
/// one that was seen last under that name; none if no machine was seen under it.
pub fn keep<'a>(machines: &'a mut [Machine], name: &str) -> Option<&'a Machine> {
    machines.iter_mut().for_each(|m| m.kept = !name.is_empty() && (m.machine_id == name || m.boot_id == name));
    machines.iter().filter(|m| m.kept).max_by_key(|m| m.seen)
}

/// Whether this is the machine that an operator said is the client.
fn is_kept(machines: &[Machine], presented: Presented<'_>) -> bool {
    let same = |m: &&Machine| m.machine_id == presented.machine_id;
    // Where another start of the same machine was not chosen, two machines share the machine id, and the start tells them apart.
    let strict = machines.iter().filter(same).any(|m| !m.kept);
    machines.iter().filter(same).any(|m| m.kept && (!strict || m.boot_id == presented.boot_id))
}

/// Compares what an agent presents with what its client presented last, and with the `machines` that are noted for it.
pub fn identify(client: &Client, machines: &[Machine], presented: Presented<'_>) -> Identified {
    if is_decided(machines) && !is_kept(machines, presented) {
        return Identified::Other("an operator said that another machine is this client; enrol this one anew".into());
    }
    let Presented { machine_id, boot_id, session_counter, superseded } = presented;
    let Client { id, machine_id: known, boot_id: known_boot, session_counter: last, .. } = client;
    if !known.is_empty() && known != machine_id {
        return Identified::Copy(format!(
            "the same key was used by the machines {known} and {machine_id}; keep one with `sutler client approve {id} --machine {known}` \
             or `--machine {machine_id}`, and enrol the other anew"
        ));
    }
    if !superseded && session_counter > *last {
        return Identified::Same;
    }
    if !superseded && is_decided(machines) {
        // Nothing tells it from the one that came first. That one gets a key of its own now, and what this one has is revoked.
        let which = "let it in again with the same command once it is the only one that runs, or enrol it anew";
        return Identified::Other(format!("another machine that can't be told from this one was let in just now; {which}"));
    }
    let what = if superseded { "showed a certificate that it had replaced" } else { "came back with an older state" };
    let which = if known_boot == boot_id || known_boot.is_empty() {
        format!("let it in again with `sutler client approve {id} --machine {machine_id}`")
    } else {
        format!(
            "keep one with `sutler client approve {id} --machine {boot_id}` (the one of now) or `--machine {known_boot}` (the one of before)"
        )
    };
    Identified::Copy(format!(
        "the machine {machine_id} {what} (session {session_counter} after {last}): it was restored from a snapshot, or copied; {which}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::{
        ClientId, Timestamp,
        state::{ClientKind, ClientState},
    };

    fn client(machine_id: &str, boot_id: &str, session_counter: u64) -> Client {
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
            boot_id: boot_id.into(),
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
            notice: String::new(),
            replaced: None,
            skew: None,
            archived: None,
            unarchived: None,
            change: 0,
        }
    }

    fn seen<'a>(machine_id: &'a str, boot_id: &'a str, session_counter: u64) -> Presented<'a> {
        Presented { machine_id, boot_id, session_counter, superseded: false }
    }

    fn machine(machine_id: &str, boot_id: &str) -> Machine {
        Machine {
            client: ClientId::from_random([1; 16]),
            machine_id: machine_id.into(),
            boot_id: boot_id.into(),
            address: String::new(),
            session_counter: 1,
            serial: String::new(),
            seen: Timestamp::UNIX_EPOCH,
            kept: false,
        }
    }

    #[test]
    fn a_greater_counter_of_the_same_machine_is_the_client_and_nothing_else_is() {
        let known = client("one", "a", 7);
        assert_eq!(identify(&known, &[], seen("one", "a", 8)), Identified::Same, "a half-open session");
        assert_eq!(identify(&known, &[], seen("one", "b", 8)), Identified::Same, "a reboot");
        assert_eq!(identify(&client("", "", 0), &[], seen("one", "b", 1)), Identified::Same, "the first session");
        for counter in [0, 6, 7] {
            assert!(matches!(identify(&known, &[], seen("one", "a", counter)), Identified::Copy(_)), "{counter}");
        }
        assert!(matches!(identify(&known, &[], seen("two", "a", 8)), Identified::Copy(_)), "another machine");
        let old = Presented { superseded: true, ..seen("one", "a", 8) };
        assert!(matches!(identify(&known, &[], old), Identified::Copy(_)), "a key from before the last renewal");
    }

    #[test]
    fn between_two_machines_with_one_key_an_operator_decides_for_one_that_was_seen() {
        let mut machines = vec![machine("one", "a"), machine("two", "b"), machine("one", "c")];
        assert_eq!(keep(&mut machines, "three"), None);
        assert_eq!(keep(&mut machines, ""), None);
        assert!(!is_decided(&machines));
        assert_eq!(keep(&mut machines, "two").map(|m| m.boot_id.as_str()), Some("b"));
        // The other one is refused, and does not put the client into quarantine again; the chosen one may have been rebooted.
        let decided = client("two", "b", 0);
        assert_eq!(identify(&decided, &machines, seen("two", "d", 1)), Identified::Same);
        assert!(matches!(identify(&decided, &machines, seen("one", "c", 9)), Identified::Other(_)));
    }

    #[test]
    fn where_a_copy_has_the_same_machine_id_the_start_of_the_machine_tells_them_apart() {
        let mut machines = vec![machine("one", "a"), machine("one", "b")];
        keep(&mut machines, "b");
        let decided = client("one", "b", 0);
        assert_eq!(identify(&decided, &machines, seen("one", "b", 3)), Identified::Same);
        assert!(matches!(identify(&decided, &machines, seen("one", "a", 9)), Identified::Other(_)));
        // Named by what they share, the first that comes is the client.
        keep(&mut machines, "one");
        assert_eq!(identify(&decided, &machines, seen("one", "a", 9)), Identified::Same);
        // And the second one is refused until the first has a key of its own; the client is not put into quarantine again.
        let first = client("one", "a", 9);
        assert!(matches!(identify(&first, &machines, seen("one", "b", 9)), Identified::Other(_)));
        let old = Presented { superseded: true, ..seen("one", "b", 10) };
        assert!(matches!(identify(&first, &machines, old), Identified::Copy(_)), "what was replaced is noted all the same");
    }
}
