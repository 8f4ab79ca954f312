//! Archived clients: those that nobody expects to be heard of soon. They keep their groups, labels and answers, are in no list and
//! in the reach of no job, and come back when they connect.

use super::{AppError, Env, Result, clients, executions, membership};
use std::time::Duration;
use sutler_base::{
    ClientId, Timestamp,
    facts::Facts,
    state::{CancelReason, ClientState, Presence},
};
use sutler_core::{likeness, model::Client};
use sutler_store::{Page, Tx};

/// How many clients are looked at in one round's read.
const LOOKED_AT: u32 = 1000;

/// Archives a client that is not connected.
pub async fn archive(tx: &mut dyn Tx, env: &Env, id: &ClientId) -> Result<clients::Shown> {
    let client = clients::load(tx, id).await?;
    if client.state == ClientState::Removed {
        return Err(clients::removed(id));
    }
    if client.archived.is_none() {
        if env.presence(&client) == Presence::Online {
            let message =
                format!("clients/{id} is connected, and would come back at once; quarantine or remove it, or stop its agent first");
            return Err(AppError::state(format!("clients/{id}"), "CONNECTED", message));
        }
        put_away(tx, env, client, "").await?;
    }
    clients::get(tx, id).await
}

async fn put_away(tx: &mut dyn Tx, env: &Env, mut client: Client, why: &str) -> Result<()> {
    let open = tx.open_executions_of(&client.id).await?;
    client.archived = Some(env.now);
    tx.save_client(&client).await?;
    tx.save_likeness(&[(client.id.clone(), vec![])]).await?;
    executions::cancel(tx, env, &open, CancelReason::ClientArchived).await?;
    env.audit(tx, "archive", format!("clients/{}", client.id), why).await
}

/// Takes a client back that was archived. Its silence counts from now on.
pub async fn unarchive(tx: &mut dyn Tx, env: &Env, id: &ClientId) -> Result<clients::Shown> {
    let mut client = clients::load(tx, id).await?;
    if client.state == ClientState::Removed {
        return Err(clients::removed(id));
    }
    if client.archived.is_some() {
        // Else it would be archived again at once, for it is silent still.
        client.unarchived = Some(env.now);
    }
    take_back(tx, env, &mut client, "").await?;
    clients::get(tx, id).await
}

/// Takes a client back, if it is archived: what its jobs did not start is queued again, and what came meanwhile reaches it.
pub async fn take_back(tx: &mut dyn Tx, env: &Env, client: &mut Client, why: &str) -> Result<()> {
    if client.archived.take().is_none() {
        return Ok(());
    }
    tx.save_client(client).await?;
    let keys = Facts::parse(&client.facts).map(|facts| likeness::keys(&facts)).unwrap_or_default();
    tx.save_likeness(&[(client.id.clone(), keys)]).await?;
    env.audit(tx, "unarchive", format!("clients/{}", client.id), why).await?;
    if client.state != ClientState::Pending {
        membership::reach_admitted(tx, env, client).await?;
    }
    env.wakes().clients.insert(client.id.clone());
    Ok(())
}

/// Clients of a page that have been silent for so long that they are to be archived, and the key of the next page.
pub async fn due(tx: &mut dyn Tx, env: &Env, after: Option<&String>, silence: Duration) -> Result<(Vec<ClientId>, Option<String>)> {
    let seen = tx.silent_since(&Page { after: after.cloned(), limit: LOOKED_AT }).await?;
    let next = (seen.len() as u32 == LOOKED_AT).then(|| seen.last().map(|(id, _)| id.to_string())).flatten();
    let due = seen.into_iter().filter(|(_, since)| is_over(*since, env.now, silence)).map(|(id, _)| id).collect();
    Ok((due, next))
}

fn is_over(since: Timestamp, now: Timestamp, silence: Duration) -> bool {
    Duration::try_from(now.duration_since(since)).is_ok_and(|silent| silent > silence)
}

/// Archives those of these clients that are silent still.
pub async fn put_away_silent(tx: &mut dyn Tx, env: &Env, ids: &[ClientId], silence: Duration) -> Result<()> {
    for id in ids {
        let client = clients::load(tx, id).await?;
        let is_there = client.state == ClientState::Removed || client.archived.is_some() || env.presence(&client) == Presence::Online;
        let since = client.unarchived.map_or(client.last_seen, |back| back.max(client.last_seen));
        if !is_there && is_over(since, env.now, silence) {
            let why = format!("it was last heard of at {}", client.last_seen);
            put_away(tx, env, client, &why).await?;
        }
    }
    Ok(())
}
