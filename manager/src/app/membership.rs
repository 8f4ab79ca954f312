//! Joining and leaving groups, and what follows for the jobs that have the group as destination.

use super::{Env, Result, destinations, executions};
use sutler_base::{
    ClientId, Uid,
    state::{CancelReason, ClientState, JobState, Source},
};
use sutler_core::model::{Client, Group, Membership, Target};
use sutler_store::Tx;

/// Puts clients into a group; those who are in it already stay as they are. Gives back who is new.
///
/// Every job that has the group as destination and is active reaches them from this commit on, and none that excludes it.
pub async fn join(
    tx: &mut dyn Tx,
    env: &Env,
    group: &Group,
    clients: &[Client],
    source: Source,
    source_name: &str,
) -> Result<Vec<ClientId>> {
    let memberships: Vec<Membership> = clients
        .iter()
        .filter(|c| c.state != ClientState::Removed)
        .map(|c| Membership { group: group.uid.clone(), client: c.id.clone(), source, source_name: source_name.to_owned(), since: env.now })
        .collect();
    let added: Vec<ClientId> = tx.insert_memberships(&memberships).await?.into_iter().map(|m| m.client).collect();
    if added.is_empty() {
        return Ok(added);
    }
    // A client that waits for approval or is archived gets nothing; its jobs are looked up again when it is let in or is back.
    let gets = |c: &&Client| c.state != ClientState::Pending && c.archived.is_none() && added.contains(&c.id);
    let reached: Vec<ClientId> = clients.iter().filter(gets).map(|c| c.id.clone()).collect();
    let target = Target::Group(group.uid.clone());
    for job in tx.jobs_with_target(&target, &[JobState::Scheduled, JobState::Active, JobState::Paused]).await? {
        if job.state == JobState::Scheduled {
            let ahead = destinations::reached(tx, &job.id, &reached).await?;
            env.reached().note(&job.id, &ahead);
        } else {
            executions::reach(tx, env, &job.id, &reached).await?;
        }
    }
    destinations::excluded(tx, env, &target, &added).await?;
    told_anew(tx, env, &group.uid, &added).await?;
    Ok(added)
}

/// Has clients that have come into a group with maintenance windows, or have left it, told when what they wait with may begin.
async fn told_anew(tx: &mut dyn Tx, env: &Env, group: &Uid, clients: &[ClientId]) -> Result<()> {
    if tx.windows_revision().await? != 0 && !tx.windows_of(std::slice::from_ref(group)).await?.is_empty() {
        env.wakes().clients.extend(clients.iter().cloned());
    }
    Ok(())
}

/// Takes clients out of a group. Gives back who was in it.
///
/// What a job has not started there is canceled, unless another destination of the job holds the client. One that excludes the group
/// reaches them, where a destination holds them.
pub async fn leave(tx: &mut dyn Tx, env: &Env, group: &Uid, clients: &[ClientId]) -> Result<Vec<ClientId>> {
    let left = tx.delete_memberships(group, clients).await?;
    let target = Target::Group(group.clone());
    for job in tx.jobs_with_target(&target, &destinations::STANDING).await? {
        executions::no_longer_reached(tx, env, &job.id, &left, CancelReason::LeftGroup).await?;
    }
    let excluding = tx.jobs_excluding(&target, &destinations::STANDING).await?;
    destinations::not_excluded(tx, env, &excluding, &left).await?;
    told_anew(tx, env, group, &left).await?;
    Ok(left)
}

/// What a client that is let in, or is back from the archive, gets: the jobs that have it, or a group of it, as destination.
pub async fn reach_admitted(tx: &mut dyn Tx, env: &Env, client: &Client) -> Result<()> {
    if client.archived.is_some() {
        return Ok(());
    }
    for job in destinations::jobs_holding(tx, &client.id, &destinations::STANDING).await? {
        executions::reach(tx, env, &job, std::slice::from_ref(&client.id)).await?;
    }
    Ok(())
}
