//! The changes that may need a second person, as they are carried out once somebody has agreed.

use super::super::{AppError, Env, Result, clients, configuration, groups, jobs, policies, revise, rollback};
use std::{borrow::Cow, collections::BTreeSet};
use sutler_base::{ClientId, GroupName, JobId, PolicyName, Timestamp, quoted, state::Role};
use sutler_store::Tx;

/// What an operator ordered.
#[derive(Debug, Clone)]
pub enum Change {
    /// A draft is started.
    Start(JobId),
    /// A job is changed.
    Update(Box<revise::Update>),
    /// A job is run again.
    Retry(jobs::Retry),
    /// What a job did is put back.
    Rollback(rollback::Rollback),
    /// Clients are added to a group.
    AddMembers(groups::Add),
    /// Clients are taken out of a group, where jobs take back what they installed, or exclude its members.
    RemoveMembers(GroupName, Vec<ClientId>),
    /// A group is deleted, whose members jobs exclude.
    DeleteGroup(GroupName, bool),
    /// A policy is made.
    CreatePolicy(policies::Create),
    /// A policy is changed.
    UpdatePolicy(policies::Update),
    /// Policies are applied.
    ApplyPolicies(Vec<PolicyName>),
    /// Labels are set, by which policies and jobs go.
    SetLabels(Vec<clients::LabelChange>),
    /// Clients are let in.
    ApproveClients(clients::Approve),
    /// A configuration is applied.
    Apply(Box<configuration::Apply>),
}

impl Change {
    /// The job that it is about.
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Change::Start(id) => Some(id),
            Change::Update(update) => update.id.as_ref(),
            Change::Retry(retry) => Some(&retry.id),
            Change::Rollback(rollback) => Some(&rollback.id),
            _ => None,
        }
    }

    /// The roles by one of which it is ordered.
    pub fn orderers(&self) -> BTreeSet<Role> {
        match self {
            Change::ApproveClients(_) => BTreeSet::from([Role::Enroller, Role::Admin]),
            _ => BTreeSet::from([Role::Deployer, Role::Admin]),
        }
    }

    /// One sentence: what it does.
    pub fn sentence(&self) -> String {
        match self {
            Change::Start(id) => format!("start jobs/{id}"),
            Change::Update(update) => format!("change jobs/{}", update.id.as_ref().map(ToString::to_string).unwrap_or_default()),
            Change::Retry(retry) => format!("run jobs/{} again", retry.id),
            Change::Rollback(rollback) => format!("roll back jobs/{}", rollback.id),
            Change::AddMembers(add) => format!("add {} clients to groups/{}", add.rows.len(), add.name),
            Change::RemoveMembers(name, ids) => format!("take {} clients out of groups/{name}", ids.len()),
            Change::DeleteGroup(name, _) => format!("delete groups/{name}"),
            Change::CreatePolicy(create) => format!("make policies/{} on groups/{}", create.name, create.group),
            Change::UpdatePolicy(update) => format!("change policies/{}", update.name),
            Change::ApplyPolicies(names) => match &names[..] {
                [name] => format!("apply policies/{name}"),
                names => format!("apply {} policies, policies/{} the first of them", names.len(), names[0]),
            },
            Change::SetLabels(changes) => format!("set labels of {} clients", changes.len()),
            Change::ApproveClients(approve) => match approve {
                clients::Approve::Named(ids) => format!("let {} clients in", ids.len()),
                clients::Approve::Filter { filter, .. } => format!("let all clients in that wait and match {}", quoted(filter)),
                clients::Approve::Machine(id, machine) => format!("let clients/{id} in as the machine {}", quoted(machine)),
            },
            Change::Apply(apply) => format!("apply a configuration of {} objects", apply.objects.len()),
        }
    }

    /// What it is about, as that is now: whoever agrees to a change agrees to it on this.
    pub async fn subject(&self, tx: &mut dyn Tx) -> Result<String> {
        let of_group = async |tx: &mut dyn Tx, name: &GroupName| Ok::<_, AppError>(tx.group(name).await?.map(|g| g.uid.to_string()));
        let of_policy =
            async |tx: &mut dyn Tx, name: &PolicyName| Ok::<_, AppError>(tx.policy(name).await?.map(|p| format!("{}/{}", p.uid, p.change)));
        let found = match self {
            Change::AddMembers(add) => of_group(tx, &add.name).await?,
            Change::RemoveMembers(name, _) | Change::DeleteGroup(name, _) => of_group(tx, name).await?,
            Change::CreatePolicy(create) => of_group(tx, &create.group).await?,
            Change::UpdatePolicy(policies::Update { name, .. }) => of_policy(tx, name).await?,
            Change::ApplyPolicies(names) => {
                let mut all = Vec::with_capacity(names.len());
                for name in names {
                    all.push(of_policy(tx, name).await?.unwrap_or_default());
                }
                Some(all.join(" "))
            }
            Change::SetLabels(_) | Change::ApproveClients(_) | Change::Apply(_) => None,
            Change::Start(_) | Change::Update(_) | Change::Retry(_) | Change::Rollback(_) => match self.job() {
                Some(id) => tx.job(id).await?.map(|job| job.change.to_string()),
                None => None,
            },
        };
        Ok(found.unwrap_or_default())
    }

    /// The same, for who was there when it was ordered: who has come since nobody had seen.
    pub fn as_of(&self, ordered: Timestamp) -> Cow<'_, Change> {
        match self {
            Change::ApproveClients(clients::Approve::Filter { filter, .. }) => {
                let approve = clients::Approve::Filter { filter: filter.clone(), enrolled_by: Some(ordered) };
                Cow::Owned(Change::ApproveClients(approve))
            }
            other => Cow::Borrowed(other),
        }
    }

    /// Makes the change.
    pub async fn carry_out(&self, tx: &mut dyn Tx, env: &Env) -> Result<()> {
        match self {
            Change::Start(id) => drop(jobs::start(tx, env, id).await?),
            Change::Update(update) => drop(revise::update(tx, env, update).await?),
            Change::Retry(retry) => drop(jobs::retry(tx, env, retry).await?),
            Change::Rollback(rollback) => drop(rollback::rollback(tx, env, rollback).await?),
            Change::AddMembers(add) => drop(groups::add(tx, env, add).await?),
            Change::RemoveMembers(name, ids) => drop(groups::remove(tx, env, name, ids).await?),
            Change::DeleteGroup(name, force) => drop(groups::delete(tx, env, name, *force).await?),
            Change::CreatePolicy(create) => drop(policies::create(tx, env, create).await?),
            Change::UpdatePolicy(update) => drop(policies::update(tx, env, update).await?),
            Change::ApplyPolicies(names) => drop(policies::apply_within(tx, env, names).await?),
            Change::SetLabels(changes) => drop(clients::set_labels(tx, env, changes).await?),
            Change::ApproveClients(approve) => drop(clients::approve(tx, env, approve).await?),
            Change::Apply(apply) => drop(configuration::apply(tx, env, apply).await?),
        }
        Ok(())
    }
}
