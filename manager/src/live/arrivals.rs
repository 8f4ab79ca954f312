//! What clients are told that have just connected: many together, since a fleet that lost its manager comes back in one moment.

use super::{Live, asked, lock, orders};
use crate::app::{App, AppError, trust};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use sutler_base::{AttemptId, ClientId};
use sutler_proto::v1::connect_response::Message;
use sutler_store::StoreError;
use tokio::sync::oneshot;

/// How many are told in one go.
const CLIENTS: usize = 256;

/// What a client brought along.
#[derive(Debug)]
pub struct Fresh {
    /// The attempts that it has.
    pub known: BTreeSet<AttemptId>,
    /// What it holds of what publishers published.
    pub held: trust::Held,
    /// The digest of the questions that its agent was told last, if it is one that shows them.
    pub asks: Option<Bytes>,
    /// The manager was restored and the client has not told all that it knows: nothing is offered before.
    pub behind: bool,
    /// Dropped once it was told: what it says is heard after that.
    pub greeted: oneshot::Sender<()>,
}

impl Live {
    /// Has the client, whose session was entered, told all there is for it. Until then it is told nothing else.
    pub fn has_come(&self, client: &ClientId, fresh: Fresh) {
        lock(&self.fresh).insert(client.clone(), fresh);
        self.arrivals_due.notify_one();
    }

    fn take_fresh(&self) -> Vec<(ClientId, Fresh)> {
        let mut fresh = lock(&self.fresh);
        let mut out = Vec::new();
        while out.len() < CLIENTS
            && let Some(first) = fresh.pop_first()
        {
            out.push(first);
        }
        out
    }

    /// They could not be told: it is tried again, unless they have connected anew since.
    fn put_back(&self, all: Vec<(ClientId, Fresh)>) {
        let mut fresh = lock(&self.fresh);
        for (client, brought) in all {
            fresh.entry(client).or_insert(brought);
        }
    }
}

/// Tells whoever has connected what there is.
pub(super) async fn greet(app: Arc<App>) -> Result<(), AppError> {
    loop {
        let fresh = app.live.take_fresh();
        if fresh.is_empty() {
            return Ok(());
        }
        let Err(error) = tell(&app, &fresh).await else { continue };
        if !matches!(error, AppError::Store(StoreError::Unavailable(_))) && fresh.len() > 1 {
            // What is wrong with one is to hold up no other.
            for one in fresh {
                if let Err(error) = tell(&app, std::slice::from_ref(&one)).await {
                    tracing::warn!(client = %one.0, %error, "a new session could not be told what there is to do; it is tried again");
                    app.live.put_back(vec![one]);
                }
            }
        } else {
            app.live.put_back(fresh);
        }
        return Err(error);
    }
}

async fn tell(app: &App, fresh: &[(ClientId, Fresh)]) -> Result<(), AppError> {
    // They may have been removed, or their certificates revoked, between the welcome and the entry among the sessions.
    drop(orders::check_access(app, fresh.iter().map(|(client, _)| client.clone()).collect()).await?);
    // Before any offer: what is offered may be signed by keys that the agent learns of now.
    let mut holding: BTreeMap<trust::Held, Vec<&ClientId>> = BTreeMap::new();
    for (client, brought) in fresh {
        holding.entry(brought.held).or_default().push(client);
    }
    for (held, clients) in holding {
        let (updates, _) = app.view("manager", "trust_updates", held, |tx, _env, held| Box::pin(trust::updates(tx, *held))).await?;
        for client in clients {
            updates.iter().for_each(|update| app.live.send(client, Message::Trust(update.clone())));
        }
    }
    // What waits for them, and what they had not got.
    let known: BTreeMap<_, _> =
        fresh.iter().filter(|(_, brought)| !brought.behind).map(|(client, brought)| (client.clone(), brought.known.clone())).collect();
    orders::give(app, known.keys().cloned().collect(), known).await?;
    let asks: BTreeMap<_, _> = fresh.iter().filter_map(|(client, brought)| Some((client.clone(), brought.asks.clone()?))).collect();
    if asks.is_empty() { Ok(()) } else { asked::tell(app, asks.keys().cloned().collect(), &asks).await }
}
