//! Telling agents what their users may have installed.

use super::{Live, lock};
use crate::app::{App, shelf::Offered};
use prost::Message as _;
use sutler_base::{ClientId, Digest};
use sutler_proto::v1::{self, connect_response::Message};

impl Live {
    /// Notes which shelf the client holds; whether it held another one before in this session.
    fn shelf_is_news(&self, client: &ClientId, digest: &[u8]) -> bool {
        let mut sessions = lock(&self.sessions);
        let Some(session) = sessions.get_mut(client).filter(|session| session.shelf != digest) else { return false };
        session.shelf = digest.to_vec();
        true
    }
}

/// Tells a client what its user may choose, unless it was told the same before.
pub(super) fn tell(app: &App, client: &ClientId, offered: Vec<Offered>) {
    let items = offered.into_iter().map(|offered| v1::ShelfItem {
        job: format!("jobs/{}", offered.job),
        package: offered.package,
        version: offered.version,
        description: offered.description,
        total_bytes: i64::try_from(offered.total_bytes).unwrap_or(i64::MAX),
    });
    let mut shelf = v1::Shelf { items: items.collect(), digest: Default::default() };
    if !shelf.items.is_empty() {
        shelf.digest = Digest::of(&shelf.encode_to_vec()).as_bytes().to_vec().into();
    }
    if app.live.shelf_is_news(client, &shelf.digest) {
        app.live.send(client, Message::Shelf(shelf));
    }
}
