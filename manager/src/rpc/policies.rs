//! `PolicyService`.

use super::{Services, approvals::watched, caller, page, parsed, shown, status};
use crate::app::{AppError, Violations, policies};
use sutler_base::{
    PolicyName, limits,
    state::{AppliesTo, OnMismatch, Trigger},
};
use sutler_proto::{
    convert::{Word, group_name, policy_name},
    v1,
};
use tonic::{Request, Response, Status, async_trait};

/// What makes a policy.
pub(super) fn create(r: &v1::CreatePolicyRequest) -> Result<policies::Create, AppError> {
    let mut v = Violations::default();
    let name = v.take("policy_id", r.policy_id.parse());
    let group = v.take("group", group_name(&r.group));
    let trigger = v.take("trigger", Trigger::from_wire(r.trigger)).flatten().unwrap_or(Trigger::NewClient);
    let applies_to = v.take("applies_to", AppliesTo::from_wire(r.applies_to)).flatten().unwrap_or(AppliesTo::NewOnly);
    let on_mismatch = v.take("on_mismatch", OnMismatch::from_wire(r.on_mismatch)).flatten().unwrap_or(OnMismatch::Keep);
    v.text("description", &r.description, limits::DESCRIPTION_MAX);
    let (name, group) = v.whole(name.zip(group))?;
    let (condition, description) = (r.condition.clone(), r.description.clone());
    Ok(policies::Create { name, group, trigger, condition, applies_to, on_mismatch, description })
}

/// The policies that are to be applied.
pub(super) fn to_apply(r: &v1::ApplyPoliciesRequest) -> Result<Vec<PolicyName>, AppError> {
    let mut v = Violations::default();
    if r.names.is_empty() || r.names.len() > limits::APPLY_MAX {
        v.add("names", format!("{} policies are named; 1 to {} can be applied at once", r.names.len(), limits::APPLY_MAX));
    }
    let mut names = Vec::with_capacity(r.names.len().min(limits::APPLY_MAX));
    for (n, name) in r.names.iter().take(limits::APPLY_MAX).enumerate() {
        let field = format!("names[{n}]");
        match v.take(&field, policy_name(name)) {
            Some(name) if names.contains(&name) => v.add(&field, format!("policies/{name} is named twice")),
            name => names.extend(name),
        }
    }
    v.done()?;
    Ok(names)
}

/// What changes a policy.
pub(super) fn update(r: v1::UpdatePolicyRequest) -> Result<policies::Update, AppError> {
    let mut v = Violations::default();
    let name = v.take("name", policy_name(&r.name));
    let applies_to = r.applies_to.and_then(|w| v.take("applies_to", AppliesTo::from_wire(w)).flatten());
    let on_mismatch = r.on_mismatch.and_then(|w| v.take("on_mismatch", OnMismatch::from_wire(w)).flatten());
    if let Some(text) = &r.description {
        v.text("description", text, limits::DESCRIPTION_MAX);
    }
    let name = v.whole(name)?;
    Ok(policies::Update { name, condition: r.condition, applies_to, on_mismatch, description: r.description, etag: r.etag })
}

#[async_trait]
impl v1::policy_service_server::PolicyService for Services {
    async fn create_policy(&self, request: Request<v1::CreatePolicyRequest>) -> Result<Response<v1::CreatePolicyResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CreatePolicy", &r)?;
        let kept = v1::CreatePolicyRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "PolicyService/CreatePolicy", &kept)?;
        let input = create(&r)?;
        let answer = self.app.mutate(
            &caller,
            "create_policy",
            body,
            input,
            |tx, env, i| Box::pin(policies::create(tx, env, i)),
            |p| v1::CreatePolicyResponse { policy: Some(shown::policy(p)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let operator = self.operator(&request)?;
        let mut v = Violations::default();
        let name = v.take("name", policy_name(&request.get_ref().name));
        v.done()?;
        let name = parsed(name)?;
        let policy = self.app.view(&operator, "get_policy", name, |tx, _env, n| Box::pin(policies::get(tx, n))).await.map_err(status)?;
        Ok(Response::new(v1::GetPolicyResponse { policy: Some(shown::policy(policy)) }))
    }

    async fn list_policies(&self, request: Request<v1::ListPoliciesRequest>) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        let group = if r.group.is_empty() { None } else { v.take("group", group_name(&r.group)) };
        v.done()?;
        let (rows, next) = self
            .app
            .view(&operator, "list_policies", (page, group), |tx, _env, (page, group)| Box::pin(policies::list(tx, page, group.as_ref())))
            .await
            .map_err(status)?;
        let policies = rows.into_iter().map(shown::policy).collect();
        Ok(Response::new(v1::ListPoliciesResponse { policies, next_page_token: next.unwrap_or_default() }))
    }

    async fn update_policy(&self, request: Request<v1::UpdatePolicyRequest>) -> Result<Response<v1::UpdatePolicyResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "UpdatePolicy", &r)?;
        let kept = v1::UpdatePolicyRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "PolicyService/UpdatePolicy", &kept)?;
        let input = update(r)?;
        let answer = self.app.mutate(
            &caller,
            "update_policy",
            body,
            input,
            |tx, env, i| Box::pin(policies::update(tx, env, i)),
            |p| v1::UpdatePolicyResponse { policy: Some(shown::policy(p)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn delete_policy(&self, request: Request<v1::DeletePolicyRequest>) -> Result<Response<v1::DeletePolicyResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "DeletePolicy", &r)?;
        let mut v = Violations::default();
        let name = v.take("name", policy_name(&r.name));
        v.done()?;
        let name = parsed(name)?;
        let answer = self.app.mutate(
            &caller,
            "delete_policy",
            body,
            name,
            |tx, env, n| Box::pin(policies::delete(tx, env, n)),
            |()| v1::DeletePolicyResponse {},
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn preview_policy(&self, request: Request<v1::PreviewPolicyRequest>) -> Result<Response<v1::PreviewPolicyResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        let what = if r.name.is_empty() {
            v.take("group", group_name(&r.group)).map(|g| policies::Preview::Condition(r.condition, g))
        } else {
            if !r.condition.is_empty() || !r.group.is_empty() {
                v.add("name", "either a policy is named, or a condition and a group");
            }
            v.take("name", policy_name(&r.name)).map(policies::Preview::Policy)
        };
        v.done()?;
        let what = parsed(what)?;
        let (rows, next) = self
            .app
            .view(&operator, "preview_policy", (what, page), |tx, env, (what, page)| Box::pin(policies::preview(tx, env, what, page)))
            .await
            .map_err(status)?;
        let clients = rows
            .into_iter()
            .map(|m| v1::PolicyMatch {
                client: format!("clients/{}", m.client),
                hostname: m.hostname,
                matches: m.matches,
                would_join: m.would_join,
                why: m.why,
            })
            .collect();
        Ok(Response::new(v1::PreviewPolicyResponse { clients, next_page_token: next.unwrap_or_default() }))
    }

    async fn apply_policies(&self, request: Request<v1::ApplyPoliciesRequest>) -> Result<Response<v1::ApplyPoliciesResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ApplyPolicies", &r)?;
        let kept = v1::ApplyPoliciesRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "PolicyService/ApplyPolicies", &kept)?;
        let names = to_apply(&r)?;
        let found = match policies::find(&self.app, &caller.who, &names).await {
            Ok(found) => Some(found),
            // Refused where it is seen whether this was asked, and answered, before.
            Err(AppError::NotFound { .. } | AppError::Invalid(_)) => None,
            Err(error) => return Err(status(error)),
        };
        let answer = self.app.mutate(
            &caller,
            "apply_policies",
            body,
            (names, found),
            |tx, env, (names, found)| match found {
                Some(found) => Box::pin(policies::apply(tx, env, found)),
                None => Box::pin(policies::apply_within(tx, env, names)),
            },
            |applied| v1::ApplyPoliciesResponse { policies: applied.into_iter().map(shown::applied_policy).collect() },
        );
        answer.await.map(Response::new).map_err(status)
    }
}
