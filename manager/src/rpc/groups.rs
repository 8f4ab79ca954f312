//! `GroupService`.

use super::{Services, approvals::watched, caller, page, parsed, shown, status};
use crate::{
    app::{AppError, Violations, groups},
    password,
};
use std::collections::BTreeMap;
use sutler_base::{ClientId, GroupName, limits, state::JoinMode};
use sutler_core::model::Group;
use sutler_proto::{
    convert::{Word, client_id, group_name},
    v1,
};
use tonic::{Request, Response, Status, async_trait};

/// What makes a group, without the hash of its password.
pub(super) fn create(r: &v1::CreateGroupRequest) -> Result<groups::Create, AppError> {
    let mut v = Violations::default();
    let name = v.take("group_id", r.group_id.parse());
    v.text("description", &r.description, limits::DESCRIPTION_MAX);
    v.text("join_password", &r.join_password, 256);
    let join_mode = v.take("join_mode", JoinMode::from_wire(r.join_mode)).flatten().unwrap_or(JoinMode::Closed);
    let name = v.whole(name)?;
    Ok(groups::Create { name, description: r.description.clone(), restricted: r.restricted, join_mode, join_hash: None })
}

/// The group of this name.
pub(super) fn named(name: &str) -> Result<GroupName, AppError> {
    group_name(name).map_err(|e| AppError::invalid("name", e))
}

/// Who is added.
pub(super) fn add(r: v1::AddMembersRequest) -> Result<groups::Add, AppError> {
    let mut v = Violations::default();
    let name = v.take("name", group_name(&r.name));
    rows(&mut v, &r.clients);
    let name = v.whole(name)?;
    Ok(groups::Add { name, rows: r.clients, skip_bad: r.skip_bad })
}

/// Who is taken out of which group.
pub(super) fn remove(r: &v1::RemoveMembersRequest) -> Result<(GroupName, Vec<ClientId>), AppError> {
    let mut v = Violations::default();
    let name = v.take("name", group_name(&r.name));
    rows(&mut v, &r.clients);
    let ids: Vec<_> = r.clients.iter().enumerate().filter_map(|(n, c)| v.take(&format!("clients[{n}]"), client_id(c))).collect();
    Ok((v.whole(name)?, ids))
}

#[async_trait]
impl v1::group_service_server::GroupService for Services {
    async fn create_group(&self, request: Request<v1::CreateGroupRequest>) -> Result<Response<v1::CreateGroupResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CreateGroup", &r)?;
        let mut input = create(&r)?;
        input.join_hash = self.hash(r.join_password).await;
        let answer = self.app.mutate(
            &caller,
            "create_group",
            body,
            input,
            |tx, env, i| Box::pin(groups::create(tx, env, i)),
            |g| v1::CreateGroupResponse { group: Some(shown::group(g)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn get_group(&self, request: Request<v1::GetGroupRequest>) -> Result<Response<v1::GetGroupResponse>, Status> {
        let operator = self.operator(&request)?;
        let mut v = Violations::default();
        let name = v.take("name", group_name(&request.get_ref().name));
        v.done()?;
        let group: Option<Group> = match name {
            Some(name) => {
                Some(self.app.view(&operator, "get_group", name, |tx, _env, n| Box::pin(groups::load(tx, n))).await.map_err(status)?)
            }
            None => None,
        };
        Ok(Response::new(v1::GetGroupResponse { group: group.map(shown::group) }))
    }

    async fn list_groups(&self, request: Request<v1::ListGroupsRequest>) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let (rows, next) =
            self.app.view(&operator, "list_groups", page, |tx, _env, p| Box::pin(groups::list(tx, p))).await.map_err(status)?;
        let groups = rows.into_iter().map(shown::group).collect();
        Ok(Response::new(v1::ListGroupsResponse { groups, next_page_token: next.unwrap_or_default() }))
    }

    async fn update_group(&self, request: Request<v1::UpdateGroupRequest>) -> Result<Response<v1::UpdateGroupResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "UpdateGroup", &r)?;
        let mut v = Violations::default();
        let name = v.take("name", group_name(&r.name));
        if let Some(text) = &r.description {
            v.text("description", text, limits::DESCRIPTION_MAX);
        }
        if let Some(text) = &r.join_password {
            v.text("join_password", text, 256);
        }
        let mode = r.join_mode.and_then(|m| v.take("join_mode", JoinMode::from_wire(m)).flatten());
        v.done()?;
        let name = parsed(name)?;
        let join_hash = self.hash(r.join_password.unwrap_or_default()).await;
        let input = groups::Update { name, description: r.description, restricted: r.restricted, join_mode: mode, join_hash, etag: r.etag };
        let answer = self.app.mutate(
            &caller,
            "update_group",
            body,
            input,
            |tx, env, i| Box::pin(groups::update(tx, env, i)),
            |g| v1::UpdateGroupResponse { group: Some(shown::group(g)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn delete_group(&self, request: Request<v1::DeleteGroupRequest>) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "DeleteGroup", &r)?;
        let kept = v1::DeleteGroupRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "GroupService/DeleteGroup", &kept)?;
        let input = (named(&r.name)?, r.force);
        let answer = self.app.mutate(
            &caller,
            "delete_group",
            body,
            input,
            |tx, env, (name, force)| Box::pin(groups::delete(tx, env, name, *force)),
            |deleted| v1::DeleteGroupResponse { deleted_policies: deleted.into_iter().map(|p| format!("policies/{p}")).collect() },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn add_members(&self, request: Request<v1::AddMembersRequest>) -> Result<Response<v1::AddMembersResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "AddMembers", &r)?;
        let kept = v1::AddMembersRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "GroupService/AddMembers", &kept)?;
        let input = add(r)?;
        let answer = self.app.mutate(
            &caller,
            "add_members",
            body,
            input,
            |tx, env, i| Box::pin(groups::add(tx, env, i)),
            |(added, bad)| {
                let row = |b: groups::BadRow| v1::BadRow { row: b.row as i32, value: b.value, reason: b.reason };
                v1::AddMembersResponse { added: added as i32, skipped: bad.into_iter().map(row).collect() }
            },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn remove_members(&self, request: Request<v1::RemoveMembersRequest>) -> Result<Response<v1::RemoveMembersResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "RemoveMembers", &r)?;
        let kept = v1::RemoveMembersRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "GroupService/RemoveMembers", &kept)?;
        let answer = self.app.mutate(
            &caller,
            "remove_members",
            body,
            remove(&r)?,
            |tx, env, (name, ids)| Box::pin(groups::remove(tx, env, name, ids)),
            |removed| v1::RemoveMembersResponse { removed: removed as i32 },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn release_member(&self, request: Request<v1::ReleaseMemberRequest>) -> Result<Response<v1::ReleaseMemberResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ReleaseMember", &r)?;
        let mut v = Violations::default();
        let name = v.take("name", group_name(&r.name));
        let client = v.take("client", client_id(&r.client));
        v.done()?;
        let (name, client) = (parsed(name)?, parsed(client)?);
        let answer = self.app.mutate(
            &caller,
            "release_member",
            body,
            (name, client),
            |tx, env, (name, client)| Box::pin(groups::release(tx, env, name, client)),
            |()| v1::ReleaseMemberResponse {},
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn list_members(&self, request: Request<v1::ListMembersRequest>) -> Result<Response<v1::ListMembersResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let name = v.take("name", group_name(&r.name));
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let name = parsed(name)?;
        let group = format!("groups/{name}");
        let (rows, names, next) = self
            .app
            .view(&operator, "list_members", (name, page), |tx, _env, (name, page)| {
                Box::pin(async move {
                    let (rows, next) = groups::members(tx, name, page).await?;
                    let policies = tx.policies_with_trigger(None).await?;
                    let names: BTreeMap<String, String> = policies.into_iter().map(|p| (p.uid.to_string(), p.name.to_string())).collect();
                    Ok((rows, names, next))
                })
            })
            .await
            .map_err(status)?;
        let members = rows
            .into_iter()
            .map(|m| shown::membership(&m, group.clone(), shown::source_name(&m, names.get(&m.source_name).map(String::as_str))))
            .collect();
        Ok(Response::new(v1::ListMembersResponse { members, next_page_token: next.unwrap_or_default() }))
    }
}

fn rows(v: &mut Violations, rows: &[String]) {
    if rows.is_empty() {
        v.add("clients", "name at least one client");
    }
    if rows.len() > limits::IMPORT_ROWS_MAX {
        v.add("clients", format!("has at most {} rows, not {}", limits::IMPORT_ROWS_MAX, rows.len()));
    }
    for (n, row) in rows.iter().enumerate().take(limits::IMPORT_ROWS_MAX) {
        v.text(&format!("clients[{n}]"), row, 512);
    }
}

impl Services {
    /// The hash of a password, made beside the calls of others: it is slow on purpose.
    async fn hash(&self, text: String) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        let salt = self.app.world.bits();
        tokio::task::spawn_blocking(move || password::hash(&text, salt)).await.ok()
    }
}
