//! Telling connected clients what there is to do.

use super::{shelf, times};
use crate::{
    app::{App, AppError, dispatch, trust},
    rpc::announced,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    AttemptId, ClientId, Digest, Timestamp, limits,
    state::{ClientState, Intent, Purpose},
};
use sutler_content::Kind;
use sutler_core::model::CertificateState;
use sutler_proto::{
    convert::{Word, wire_time},
    v1::{self, connect_response::Message},
};

/// Tells these clients what there is to do: makes attempts for what is queued, commits them, and sends offers,
/// cancellations and leases. `known` are the attempts that clients have which have just connected.
pub async fn give(app: &App, clients: Vec<ClientId>, known: BTreeMap<ClientId, BTreeSet<AttemptId>>) -> Result<(), AppError> {
    let sessions = clients.into_iter().filter_map(|c| app.live.counter(&c).map(|counter| (c, counter))).collect();
    let orders = app
        .change("manager", "orders", (sessions, known), |tx, env, (sessions, known)| Box::pin(dispatch::orders(tx, env, sessions, known)))
        .await?;
    // What is offered may be so because of what publishers have just published: agents hear of that first. The attempts are
    // committed, and offered in any case.
    if orders.values().any(|orders| !orders.offers.is_empty())
        && let Err(error) = hand_on_trust(app).await
    {
        tracing::warn!(%error, "cannot read what publishers published; agents are offered work by what they hold");
    }
    let mut manifests = Manifests::default();
    for (client, orders) in orders {
        let now = common_time(app, orders.ahead);
        let due = |offer: &dispatch::Offer| dispatch::Due { times: offer.times.clone(), deadline: offer.deadline };
        let offered: Vec<_> = orders.offers.iter().map(|offer| (offer.attempt.clone(), due(offer))).collect();
        for offer in orders.offers {
            app.metrics.offers.inc();
            let manifests = manifests.of(app, &offer).await;
            app.live.send(&client, Message::Offer(wire_offer(offer, manifests, app.settings.lease_seconds(), now)));
        }
        for (attempt, reason) in orders.cancels {
            app.live.send(&client, Message::Cancel(v1::CancelAttempt { attempt: attempt.to_string(), reason: reason.to_string() }));
        }
        if !orders.leases.is_empty() {
            app.live.send(&client, lease(app, &orders.leases));
        }
        times::tell(app, &client, orders.times, offered, orders.long_leases, now);
        if let Some(offered) = orders.shelf {
            shelf::tell(app, &client, offered);
        }
    }
    Ok(())
}

/// Hands on what publishers published since the last time, on whichever manager, to every agent that is connected here. Who
/// connects is told when it connects.
pub async fn hand_on_trust(app: &App) -> Result<(), AppError> {
    // Held to the end: whoever asks next goes on when the agents were told.
    let mut told = app.live.told.lock().await;
    let from = match *told {
        Some(told) => told,
        None => {
            let newest = app.view("manager", "newest_trust", (), |tx, _env, _| Box::pin(trust::newest(tx))).await?;
            trust::Held { trust: newest.1.version(), revocations: (0, 0) }
        }
    };
    let (updates, after) = app.view("manager", "trust_updates", from, |tx, _env, held| Box::pin(trust::updates(tx, *held))).await?;
    let first = told.replace(after).is_none();
    if updates.is_empty() || first {
        return Ok(());
    }
    let clients = app.live.connected();
    for client in &clients {
        for update in &updates {
            app.live.send(client, Message::Trust(update.clone()));
        }
    }
    // What could not be delivered may be again, and what could may not.
    app.live.wake(crate::app::Wakes { clients: clients.into_iter().collect(), ..Default::default() });
    Ok(())
}

/// Permission to start steps of these attempts.
pub fn lease(app: &App, attempts: &[AttemptId]) -> Message {
    Message::Lease(v1::Lease { attempts: attempts.iter().map(|a| a.to_string()).collect(), seconds: app.settings.lease_seconds() })
}

/// What time it is by the clock that all managers have in common, which is so far ahead of that of this one.
fn common_time(app: &App, ahead: jiff::SignedDuration) -> Timestamp {
    let now = app.world.now();
    now.checked_add(ahead).unwrap_or(now)
}

/// The manifests that travel with offers, each read once.
#[derive(Default)]
struct Manifests(BTreeMap<Digest, Bytes>);

impl Manifests {
    /// Those of an offer's packages; empty for one that does not travel with it. What can't be read is left out as well: the agent
    /// asks for it, and is told why.
    async fn of(&mut self, app: &App, offer: &dispatch::Offer) -> Vec<Bytes> {
        let (mut all, mut size) = (Vec::with_capacity(offer.items.len()), 0);
        for item in &offer.items {
            let mut bytes = match item.manifest {
                None => Bytes::new(),
                Some(digest) => match self.0.get(&digest) {
                    Some(known) => known.clone(),
                    None => {
                        let read = app.content.get(digest, Kind::Document).await.unwrap_or_default();
                        let bytes = if read.len() <= limits::OFFERED_MANIFEST_MAX { read } else { Bytes::new() };
                        self.0.insert(digest, bytes.clone());
                        bytes
                    }
                },
            };
            if size + bytes.len() > limits::OFFERED_MANIFESTS_MAX {
                bytes = Bytes::new();
            }
            size += bytes.len();
            all.push(bytes);
        }
        all
    }
}

fn wire_offer(offer: dispatch::Offer, manifests: Vec<Bytes>, lease_seconds: u32, now: Timestamp) -> v1::Offer {
    v1::Offer {
        attempt: offer.attempt.to_string(),
        job: format!("jobs/{}", offer.job),
        revision: offer.revision,
        items: offer
            .items
            .into_iter()
            .zip(manifests)
            .map(|(item, manifest)| v1::OfferItem {
                manifest,
                envelope: if item.intent == Intent::Install { item.envelope.clone().into() } else { Bytes::new() },
                prefetch: if item.intent == Intent::Prefetch { item.envelope.clone().into() } else { Bytes::new() },
                uninstall: if item.intent == Intent::Uninstall { item.envelope.into() } else { Bytes::new() },
                values: item.values.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
                replace: if item.replace_always { v1::Replace::Always } else { v1::Replace::IfMissing }.into(),
                succeeded: item.succeeded,
                requirements: if item.requirements.is_empty() {
                    Bytes::new()
                } else {
                    serde_json::to_vec(&item.requirements).unwrap_or_default().into()
                },
                needed: (item.needed.iter())
                    .map(|d| v1::Dependency { package: d.package.to_string(), versions: d.versions.to_string() })
                    .collect(),
            })
            .collect(),
        inventory: offer.inventory,
        lease_seconds,
        expire_time: offer.expires.map(wire_time),
        continue_on_failure: offer.continue_on_failure,
        priority: u32::from(offer.priority),
        times: offer.times.map(|told| times::wire_times(&told, now)),
        announcement: offer.user.announcement.as_ref().map(announced),
        deadline_time: offer.deadline.map(wire_time),
        timing: offer.timing.to_wire(),
        restart: offer.user.restart,
        purpose: if offer.purpose == Purpose::Order { String::new() } else { offer.purpose.to_string() },
    }
}

/// Looks at what connected clients may do now: ends the sessions of removed ones, of those whose certificate is not accepted any
/// more and of those that have connected to another manager since, and tells the others if it changed. Gives back for whom it changed.
pub async fn check_access(app: &App, clients: Vec<ClientId>) -> Result<Vec<ClientId>, AppError> {
    let serials: BTreeMap<ClientId, String> = clients.into_iter().filter_map(|c| app.live.serial(&c).map(|serial| (c, serial))).collect();
    if serials.is_empty() {
        return Ok(vec![]);
    }
    let (states, accepted) = app
        .view("manager", "access", serials.clone(), |tx, _env, serials| {
            Box::pin(async move {
                let ids: Vec<ClientId> = serials.keys().cloned().collect();
                let states: Vec<_> = tx.clients(&ids).await?.into_iter().map(|c| (c.id, c.state, c.session_counter)).collect();
                let certificates = tx.certificates(&serials.values().cloned().collect::<Vec<_>>()).await?;
                let accepted = certificates.into_iter().filter(|c| c.state == CertificateState::Active).map(|c| c.serial);
                Ok((states, accepted.collect::<BTreeSet<_>>()))
            })
        })
        .await?;
    let mut changed = Vec::new();
    for (client, state, newest) in states {
        // A session that was opened meanwhile, with another certificate, was looked at then.
        let serial = serials.get(&client).filter(|serial| app.live.serial(&client).as_ref() == Some(serial));
        let refused = serial.is_some_and(|serial| !accepted.contains(serial));
        if app.live.state(&client).is_some_and(|known| known != state) || refused {
            changed.push(client.clone());
        }
        match app.live.state(&client) {
            Some(_) if refused && state != ClientState::Removed => {
                app.live.close(&client, tonic::Status::unauthenticated("this certificate is not accepted any more"));
            }
            Some(_) if state == ClientState::Removed => {
                app.live.close(&client, tonic::Status::unauthenticated("this client was removed"));
            }
            // Nobody knows which machine it was that connected while the client was taken for a copy: it says so anew.
            Some(ClientState::Quarantined) if state == ClientState::Active => {
                app.live.close(&client, tonic::Status::unavailable("this client was let in again; connect anew"));
            }
            // Half-open here, most likely: what it were told here it would never hear.
            Some(_) if state == ClientState::Active && app.live.counter(&client).is_some_and(|counter| counter < newest) => {
                app.live.close(&client, super::connected_again());
            }
            Some(known) if known != state => {
                app.live.set_state(&client, state);
                app.live.send(&client, Message::StateChanged(v1::StateChanged { state: state.to_wire() }));
            }
            _ => {}
        }
    }
    Ok(changed)
}
