//! What connected agents can do for the user of their machine: nothing is offered to one that it can't do.

use super::{Live, lock};
use sutler_base::ClientId;
use sutler_core::user::Abilities;
use sutler_proto::{ANNOUNCEMENTS, BOOTS, SHELF, TIMES, v1};

/// What an agent said in its hello that it can do.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// It begins nothing outside of the times that it is told.
    pub(super) timed: bool,
    /// What it does for its user.
    pub(super) user: Abilities,
    /// The digest of the shelf that it holds.
    pub(super) shelf: Vec<u8>,
}

impl Said {
    /// From its hello.
    pub fn of(hello: &v1::Hello) -> Said {
        let has = |which: &str| hello.capabilities.iter().any(|c| c == which);
        let user = Abilities { announcements: has(ANNOUNCEMENTS), boots: has(BOOTS), shelf: has(SHELF) };
        Said { timed: has(TIMES), user, shelf: hello.shelf_digest.iter().copied().take(64).collect() }
    }
}

impl Live {
    /// What the client's agent can do for its user; nothing where it is not connected.
    pub fn abilities(&self, client: &ClientId) -> Abilities {
        lock(&self.sessions).get(client).map(|s| s.user).unwrap_or_default()
    }
}
