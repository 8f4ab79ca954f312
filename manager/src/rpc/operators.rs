//! `OperatorService`: who administers, who the caller is, and certificates.

use super::{Services, caller, enrollment::key_of, page, parsed, peer, shown, status};
use crate::app::{AppError, Violations, enrolment::renew_operator, operators};
use jiff::Timestamp;
use std::collections::BTreeSet;
use sutler_base::{GroupName, OperatorName, limits, state::Role};
use sutler_proto::{
    convert::{Word, group_name, operator_name, wire_time},
    v1,
};
use tonic::{Request, Response, Status, async_trait};

fn name(text: &str) -> Result<OperatorName, Status> {
    operator_name(text).map_err(|e| status(AppError::invalid("name", e)))
}

/// Roles from the wire: one at least, each once.
fn roles(v: &mut Violations, wire: &[v1::RoleGrant]) -> Vec<operators::Wanted> {
    let mut wanted: Vec<operators::Wanted> = Vec::new();
    if wire.is_empty() || wire.len() > Role::ALL.len() {
        v.add("roles", format!("has 1 to {} entries, not {}", Role::ALL.len(), wire.len()));
    }
    for (n, grant) in wire.iter().enumerate().take(Role::ALL.len()) {
        let field = format!("roles[{n}]");
        if grant.groups.len() > limits::SCOPE_GROUPS_MAX {
            v.add(&format!("{field}.groups"), format!("has at most {} entries, not {}", limits::SCOPE_GROUPS_MAX, grant.groups.len()));
            continue;
        }
        let groups: BTreeSet<GroupName> =
            grant.groups.iter().enumerate().filter_map(|(i, g)| v.take(&format!("{field}.groups[{i}]"), group_name(g))).collect();
        match v.take(&format!("{field}.role"), Role::from_wire(grant.role)) {
            Some(Some(role)) if wanted.iter().any(|w| w.role == role) => v.add(&field, format!("{role} stands there twice")),
            Some(Some(role)) => wanted.push(operators::Wanted { role, groups: (grant.scoped || !groups.is_empty()).then_some(groups) }),
            Some(None) => v.add(&format!("{field}.role"), "names a role"),
            None => {}
        }
    }
    wanted
}

/// An operator and its certificates on the wire.
type Made = (operators::Shown, Vec<Vec<u8>>);

#[async_trait]
impl v1::operator_service_server::OperatorService for Services {
    async fn get_self(&self, request: Request<v1::GetSelfRequest>) -> Result<Response<v1::GetSelfResponse>, Status> {
        let operator = self.operator(&request)?;
        let not_after: Option<Timestamp> = peer(&request)?.certificate.map(|c| c.not_after);
        let own = self
            .app
            .view(&operator, "get_operator", operator.name.clone(), |tx, _env, name| Box::pin(operators::get(tx, name)))
            .await
            .map_err(status)?;
        let own = shown::operator(own);
        Ok(Response::new(v1::GetSelfResponse {
            name: own.name,
            certificate_expire_time: not_after.map(wire_time),
            trust_domain: self.app.settings.trust_domain.clone(),
            manager_version: env!("CARGO_PKG_VERSION").into(),
            roles: own.roles,
        }))
    }

    async fn renew_operator_certificate(
        &self,
        request: Request<v1::RenewOperatorCertificateRequest>,
    ) -> Result<Response<v1::RenewOperatorCertificateResponse>, Status> {
        let operator = self.operator(&request)?;
        let key = key_of(&request.get_ref().csr)?;
        let input = (operator.name.clone(), key, self.app.ca());
        let renewed = self
            .app
            .change(&operator, "renew_operator", input, |tx, env, (operator, key, ca)| Box::pin(renew_operator(tx, env, ca, operator, key)))
            .await;
        let certificates = match renewed {
            Ok(certificates) => certificates,
            Err(error) => return Err(self.no_certificate(&format!("operators/{}", operator.name), "renewal_refused", error).await),
        };
        self.app.metrics.renewals.inc();
        let certificates = certificates.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::RenewOperatorCertificateResponse { certificates }))
    }

    async fn create_operator(&self, request: Request<v1::CreateOperatorRequest>) -> Result<Response<v1::CreateOperatorResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CreateOperator", &r)?;
        let mut v = Violations::default();
        let name = v.take("operator_id", r.operator_id.parse::<OperatorName>());
        let roles = roles(&mut v, &r.roles);
        v.done()?;
        let input = (operators::Create { name: parsed(name)?, roles, key: key_of(&r.csr)? }, self.app.ca());
        let answer = self.app.mutate(
            &caller,
            "create_operator",
            body,
            input,
            |tx, env, (input, ca)| Box::pin(operators::create(tx, env, ca, input)),
            |(made, chain): Made| v1::CreateOperatorResponse {
                operator: Some(shown::operator(made)),
                certificates: chain.into_iter().map(Into::into).collect(),
            },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn get_operator(&self, request: Request<v1::GetOperatorRequest>) -> Result<Response<v1::GetOperatorResponse>, Status> {
        let operator = self.operator(&request)?;
        let name = name(&request.get_ref().name)?;
        let found =
            self.app.view(&operator, "get_operator", name, |tx, _env, name| Box::pin(operators::get(tx, name))).await.map_err(status)?;
        Ok(Response::new(v1::GetOperatorResponse { operator: Some(shown::operator(found)) }))
    }

    async fn list_operators(&self, request: Request<v1::ListOperatorsRequest>) -> Result<Response<v1::ListOperatorsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let (rows, next) =
            self.app.view(&operator, "list_operators", page, |tx, _env, p| Box::pin(operators::list(tx, p))).await.map_err(status)?;
        let operators = rows.into_iter().map(shown::operator).collect();
        Ok(Response::new(v1::ListOperatorsResponse { operators, next_page_token: next.unwrap_or_default() }))
    }

    async fn update_operator(&self, request: Request<v1::UpdateOperatorRequest>) -> Result<Response<v1::UpdateOperatorResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "UpdateOperator", &r)?;
        let mut v = Violations::default();
        // Either of them may stay as it is, not both.
        let roles = if r.roles.is_empty() && r.budget.is_some() { vec![] } else { roles(&mut v, &r.roles) };
        let budget = r.budget.and_then(|budget| super::terms::budget(&mut v, "budget", budget));
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "update_operator",
            body,
            operators::Update { name: name(&r.name)?, roles, budget, etag: r.etag },
            |tx, env, input| Box::pin(operators::update(tx, env, input)),
            |o| v1::UpdateOperatorResponse { operator: Some(shown::operator(o)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn revoke_operator(&self, request: Request<v1::RevokeOperatorRequest>) -> Result<Response<v1::RevokeOperatorResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "RevokeOperator", &r)?;
        let answer = self.app.mutate(
            &caller,
            "revoke_operator",
            body,
            name(&r.name)?,
            |tx, env, name| Box::pin(operators::revoke(tx, env, name)),
            |o| v1::RevokeOperatorResponse { operator: Some(shown::operator(o)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn issue_operator_certificate(
        &self,
        request: Request<v1::IssueOperatorCertificateRequest>,
    ) -> Result<Response<v1::IssueOperatorCertificateResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "IssueOperatorCertificate", &r)?;
        let input = (name(&r.name)?, key_of(&r.csr)?, self.app.ca());
        let answer = self.app.mutate(
            &caller,
            "issue_operator",
            body,
            input,
            |tx, env, (name, key, ca)| Box::pin(operators::issue(tx, env, ca, name, key)),
            |(made, chain): Made| v1::IssueOperatorCertificateResponse {
                operator: Some(shown::operator(made)),
                certificates: chain.into_iter().map(Into::into).collect(),
            },
        );
        answer.await.map(Response::new).map_err(status)
    }
}
