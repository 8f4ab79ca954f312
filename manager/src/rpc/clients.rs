//! `ClientService`.

use super::{Operator, Services, approvals::watched, caller, page, shown, shown::Contact, status, tokens::labels};
use crate::app::{AppError, Violations, archive, clients, explain};
use sutler_base::{ClientId, limits};
use sutler_core::execution;
use sutler_proto::{
    convert::{Word, client_id, group_name, wire_time},
    v1,
};
use sutler_store::Besides;
use tonic::{Request, Response, Status, async_trait};

impl Services {
    pub(super) fn contact(&self) -> Contact<'_> {
        Contact { live: &self.app.live, now: self.app.world.now(), overdue: self.app.settings.limits.overdue }
    }

    /// The client as it is now: answers of changes show it after their commit.
    async fn shown(&self, operator: &Operator, id: ClientId) -> Result<Option<v1::Client>, Status> {
        let found = self.app.view(operator, "get_client", id, |tx, _env, id| Box::pin(clients::get(tx, id))).await.map_err(status)?;
        Ok(Some(shown::client(found, &self.contact())))
    }
}

fn id(name: &str) -> Result<ClientId, Status> {
    client_id(name).map_err(|e| status(AppError::invalid("name", e)))
}

/// Which labels are set.
pub(super) fn label_changes(r: &v1::SetLabelsRequest) -> Result<Vec<clients::LabelChange>, AppError> {
    let mut v = Violations::default();
    if r.changes.is_empty() || r.changes.len() > limits::IMPORT_ROWS_MAX {
        v.add("changes", format!("has 1 to {} entries, not {}", limits::IMPORT_ROWS_MAX, r.changes.len()));
    }
    let mut changes = Vec::new();
    for (n, change) in r.changes.iter().enumerate().take(limits::IMPORT_ROWS_MAX) {
        let field = format!("changes[{n}]");
        let client = v.take(&format!("{field}.client"), client_id(&change.client));
        let set = labels(&mut v, &format!("{field}.set"), &change.set);
        let unset = change.unset.iter().filter_map(|k| v.take(&format!("{field}.unset"), k.parse())).collect();
        if let Some(client) = client {
            changes.push(clients::LabelChange { client, set, unset });
        }
    }
    v.done()?;
    Ok(changes)
}

/// Who is let in.
pub(super) fn approve(r: v1::ApproveClientsRequest) -> Result<clients::Approve, AppError> {
    let mut v = Violations::default();
    let ids: Vec<ClientId> = r.names.iter().enumerate().filter_map(|(n, c)| v.take(&format!("names[{n}]"), client_id(c))).collect();
    v.word("machine_id", &r.machine_id, 255);
    match (r.names.len(), r.filter.is_empty(), r.machine_id.is_empty()) {
        (0, true, _) => v.add("names", "name clients, or give a filter (`true` means all that wait)"),
        (1.., false, _) => v.add("filter", "either clients are named, or a filter is given"),
        (n, _, false) if n != 1 => v.add("machine_id", "goes with the name of one client"),
        (n, ..) if n > limits::PAGE_MAX as usize => v.add("names", format!("has at most {} names, not {n}", limits::PAGE_MAX)),
        _ => {}
    }
    v.done()?;
    Ok(match (ids.first(), r.machine_id.is_empty()) {
        (Some(id), false) => clients::Approve::Machine(id.clone(), r.machine_id),
        (Some(_), true) => clients::Approve::Named(ids),
        (None, _) => clients::Approve::Filter { filter: r.filter, enrolled_by: None },
    })
}

#[async_trait]
impl v1::client_service_server::ClientService for Services {
    async fn list_clients(&self, request: Request<v1::ListClientsRequest>) -> Result<Response<v1::ListClientsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        let group = if r.group.is_empty() { None } else { v.take("group", group_name(&r.group)) };
        v.done()?;
        let besides = Besides { removed: r.show_removed, archived: r.show_archived };
        let list = clients::List { page, filter: r.filter, group, besides };
        let (rows, next) =
            self.app.view(&operator, "list_clients", list, |tx, env, list| Box::pin(clients::list(tx, env, list))).await.map_err(status)?;
        let contact = self.contact();
        let clients = rows.into_iter().map(|c| shown::client(c, &contact)).collect();
        Ok(Response::new(v1::ListClientsResponse { clients, next_page_token: next.unwrap_or_default() }))
    }

    async fn get_client(&self, request: Request<v1::GetClientRequest>) -> Result<Response<v1::GetClientResponse>, Status> {
        let operator = self.operator(&request)?;
        let client = self.shown(&operator, id(&request.get_ref().name)?).await?;
        Ok(Response::new(v1::GetClientResponse { client }))
    }

    async fn approve_clients(&self, request: Request<v1::ApproveClientsRequest>) -> Result<Response<v1::ApproveClientsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ApproveClients", &r)?;
        let kept = v1::ApproveClientsRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "ClientService/ApproveClients", &kept)?;
        let input = approve(r)?;
        let answer = self.app.mutate(
            &caller,
            "approve",
            body,
            input,
            |tx, env, i| Box::pin(clients::approve(tx, env, i)),
            |ids| v1::ApproveClientsResponse { names: ids.iter().map(|id| format!("clients/{id}")).collect() },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn quarantine_client(
        &self,
        request: Request<v1::QuarantineClientRequest>,
    ) -> Result<Response<v1::QuarantineClientResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "QuarantineClient", &r)?;
        let mut v = Violations::default();
        v.text("reason", &r.reason, limits::DESCRIPTION_MAX);
        v.done()?;
        let id = id(&r.name)?;
        self.app
            .mutate(
                &caller,
                "quarantine",
                body,
                (id.clone(), r.reason),
                |tx, env, (id, reason)| Box::pin(clients::quarantine(tx, env, id, reason)),
                |_| v1::QuarantineClientResponse { client: None },
            )
            .await
            .map_err(status)?;
        Ok(Response::new(v1::QuarantineClientResponse { client: self.shown(&operator, id).await? }))
    }

    async fn release_client(&self, request: Request<v1::ReleaseClientRequest>) -> Result<Response<v1::ReleaseClientResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ReleaseClient", &r)?;
        let id = id(&r.name)?;
        self.app
            .mutate(
                &caller,
                "release",
                body,
                id.clone(),
                |tx, env, id| Box::pin(clients::release(tx, env, id)),
                |_| v1::ReleaseClientResponse { client: None },
            )
            .await
            .map_err(status)?;
        Ok(Response::new(v1::ReleaseClientResponse { client: self.shown(&operator, id).await? }))
    }

    async fn remove_client(&self, request: Request<v1::RemoveClientRequest>) -> Result<Response<v1::RemoveClientResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "RemoveClient", &r)?;
        let id = id(&r.name)?;
        self.app
            .mutate(
                &caller,
                "remove",
                body,
                id.clone(),
                |tx, env, id| Box::pin(clients::remove(tx, env, id)),
                |_| v1::RemoveClientResponse { client: None },
            )
            .await
            .map_err(status)?;
        Ok(Response::new(v1::RemoveClientResponse { client: self.shown(&operator, id).await? }))
    }

    async fn archive_client(&self, request: Request<v1::ArchiveClientRequest>) -> Result<Response<v1::ArchiveClientResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ArchiveClient", &r)?;
        let id = id(&r.name)?;
        self.app
            .mutate(
                &caller,
                "archive",
                body,
                id.clone(),
                |tx, env, id| Box::pin(archive::archive(tx, env, id)),
                |_| v1::ArchiveClientResponse { client: None },
            )
            .await
            .map_err(status)?;
        Ok(Response::new(v1::ArchiveClientResponse { client: self.shown(&operator, id).await? }))
    }

    async fn unarchive_client(
        &self,
        request: Request<v1::UnarchiveClientRequest>,
    ) -> Result<Response<v1::UnarchiveClientResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "UnarchiveClient", &r)?;
        let id = id(&r.name)?;
        self.app
            .mutate(
                &caller,
                "unarchive",
                body,
                id.clone(),
                |tx, env, id| Box::pin(archive::unarchive(tx, env, id)),
                |_| v1::UnarchiveClientResponse { client: None },
            )
            .await
            .map_err(status)?;
        Ok(Response::new(v1::UnarchiveClientResponse { client: self.shown(&operator, id).await? }))
    }

    async fn set_labels(&self, request: Request<v1::SetLabelsRequest>) -> Result<Response<v1::SetLabelsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "SetLabels", &r)?;
        let kept = v1::SetLabelsRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "ClientService/SetLabels", &kept)?;
        let changes = label_changes(&r)?;
        let answer = self.app.mutate(
            &caller,
            "set_labels",
            body,
            changes,
            |tx, env, changes| Box::pin(clients::set_labels(tx, env, changes)),
            |changed| v1::SetLabelsResponse { changed },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn explain_client(&self, request: Request<v1::ExplainClientRequest>) -> Result<Response<v1::ExplainClientResponse>, Status> {
        let operator = self.operator(&request)?;
        let id = id(&request.get_ref().name)?;
        let online = self.shown(&operator, id.clone()).await?.is_some_and(|c| c.online);
        let e = self
            .app
            .view(&operator, "explain", (id, online), |tx, env, (id, online)| Box::pin(explain::explain(tx, env, id, *online)))
            .await
            .map_err(status)?;
        let groups = e.shown.groups.clone();
        let memberships =
            e.memberships.into_iter().map(|(m, name)| shown::membership(&m, shown::group_of(&groups, &m.group), name)).collect();
        let policies = e
            .policies
            .into_iter()
            .map(|p| v1::PolicyVerdict {
                policy: format!("policies/{}", p.policy),
                group: format!("groups/{}", p.group),
                matches: p.matches,
                sentence: p.sentence,
            })
            .collect();
        let jobs = e
            .jobs
            .into_iter()
            .map(|j| v1::JobVerdict {
                job: format!("jobs/{}", j.job.id),
                packages: j.packages,
                destination: j.destination,
                state: j.state.to_wire(),
                sentence: j.sentence,
                enter_time: Some(wire_time(j.entered)),
                awaits: j.awaits.map_or(0, Word::to_wire),
                cancel_awaits: j.cancel.as_ref().map_or(0, |cancel| execution::cancel_awaits(cancel, online).to_wire()),
                cancel_deadline: j.cancel.as_ref().and_then(execution::cancel_until).map(wire_time),
            })
            .collect();
        let client = Some(shown::client(e.shown, &self.contact()));
        Ok(Response::new(v1::ExplainClientResponse { client, memberships, policies, jobs }))
    }
}
