//! `EnrollmentTokenService`.

use super::{Services, caller, page, parsed, shown, status};
use crate::app::{AppError, Violations, tokens};
use std::collections::BTreeMap;
use sutler_base::{LabelKey, limits};
use sutler_core::{admission, rights::Reach};
use sutler_proto::{
    convert::{client_id, group_name, token_id},
    v1,
};
use sutler_store::Answer;
use tonic::{Request, Response, Status, async_trait};

/// The longest life of a token (seconds): a year.
const TTL_MAX: i64 = 366 * 24 * 3600;

/// Labels from the wire: keys by their rule, values bounded.
pub(super) fn labels<'a>(
    v: &mut Violations,
    field: &str,
    wire: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> BTreeMap<LabelKey, String> {
    let mut out = BTreeMap::new();
    for (key, value) in wire {
        v.text(&format!("{field}[{}]", sutler_base::quoted(key)), value, limits::LABEL_VALUE_MAX);
        if let Some(key) = v.take(field, key.parse()) {
            out.insert(key, value.clone());
        }
    }
    if out.len() > limits::LABELS_MAX {
        v.add(field, format!("has at most {} labels, not {}", limits::LABELS_MAX, out.len()));
    }
    out
}

#[async_trait]
impl v1::enrollment_token_service_server::EnrollmentTokenService for Services {
    async fn create_enrollment_tokens(
        &self,
        request: Request<v1::CreateEnrollmentTokensRequest>,
    ) -> Result<Response<v1::CreateEnrollmentTokensResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let bounded = |v: &mut Violations, field: &str, value: i32, max: u32| match u32::try_from(value) {
            Ok(0) => 1,
            Ok(n) if n <= max => n,
            _ => {
                v.add(field, format!("is 1 to {max}, not {value}"));
                1
            }
        };
        let count = bounded(&mut v, "count", r.count, limits::TOKENS_MAX);
        let uses = bounded(&mut v, "uses", r.uses, limits::TOKEN_USES_MAX);
        let seconds = r.ttl.as_ref().map_or(self.app.settings.limits.token.as_secs() as i64, |d| d.seconds);
        if !(1..=TTL_MAX).contains(&seconds) {
            v.add("ttl", format!("is 1 s to {TTL_MAX} s (a year), not {seconds} s"));
        }
        for (field, list, max) in [("networks", &r.networks, 64), ("expected_machines", &r.expected_machines, 100_000)] {
            if list.len() > max {
                v.add(field, format!("has at most {max} entries, not {}", list.len()));
            }
        }
        let networks = r.networks.iter().enumerate().filter_map(|(n, w)| v.take(&format!("networks[{n}]"), admission::network(w)));
        let networks = networks.map(|network| network.to_string()).collect();
        for (n, name) in r.expected_machines.iter().enumerate().take(100_000) {
            v.text(&format!("expected_machines[{n}]"), name, 255);
        }
        let groups = r.groups.iter().enumerate().filter_map(|(n, g)| v.take(&format!("groups[{n}]"), group_name(g))).collect();
        let labels = labels(&mut v, "labels", &r.labels);
        let replaces = if r.replaces.is_empty() { None } else { v.take("replaces", client_id(&r.replaces)) };
        if !r.replaces.is_empty() && (count > 1 || uses > 1 || !r.groups.is_empty() || !r.labels.is_empty()) {
            v.add("replaces", "goes with one token for one use; the client keeps the groups and labels that it has");
        }
        v.text("description", &r.description, limits::DESCRIPTION_MAX);
        let (caller, body) = caller(&operator, &r.request_id, "CreateEnrollmentTokens", &r)?;
        v.done()?;
        if operator.reach != Reach::Everywhere && !(r.groups.is_empty() && r.labels.is_empty()) {
            let message = "a token with groups or labels places clients in groups, which needs a role without a scope";
            return Err(status(AppError::Denied(message.into())));
        }
        let input = tokens::Create {
            count,
            uses,
            ttl: jiff::SignedDuration::from_secs(seconds),
            networks,
            expected: r.expected_machines,
            groups,
            labels,
            replaces,
            description: r.description,
            root_pin: self.app.ca().root_pin().0,
        };
        // Secrets are not kept, so a repeated request can't be answered again: it is refused.
        let key = caller.request_id.clone();
        let made = self
            .app
            .change(&operator, "create_tokens", (input, key, body), |tx, env, (input, key, body)| {
                Box::pin(async move {
                    if !key.is_empty() {
                        if let Some((earlier, _)) = tx.request(&env.actor, key).await? {
                            if earlier != *body {
                                return Err(AppError::reused_request_id());
                            }
                            let hint = "its secrets were shown once and are not kept; make new tokens with another request_id".to_owned();
                            return Err(AppError::Exists { what: "request", name: key.clone(), hint });
                        }
                        tx.put_request(&env.actor, key, body, &Answer::Done(vec![]), env.now).await?;
                    }
                    tokens::create(tx, env, input).await
                })
            })
            .await
            .map_err(status)?;
        let tokens = made.into_iter().map(|(t, secret)| v1::NewEnrollmentToken { token: Some(shown::token(t)), secret }).collect();
        Ok(Response::new(v1::CreateEnrollmentTokensResponse { tokens }))
    }

    async fn list_enrollment_tokens(
        &self,
        request: Request<v1::ListEnrollmentTokensRequest>,
    ) -> Result<Response<v1::ListEnrollmentTokensResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let (rows, next) =
            self.app.view(&operator, "list_tokens", page, |tx, _env, p| Box::pin(tokens::list(tx, p))).await.map_err(status)?;
        let tokens = rows.into_iter().map(shown::token).collect();
        Ok(Response::new(v1::ListEnrollmentTokensResponse { tokens, next_page_token: next.unwrap_or_default() }))
    }

    async fn get_enrollment_token(
        &self,
        request: Request<v1::GetEnrollmentTokenRequest>,
    ) -> Result<Response<v1::GetEnrollmentTokenResponse>, Status> {
        let operator = self.operator(&request)?;
        let mut v = Violations::default();
        let id = v.take("name", token_id(&request.get_ref().name));
        v.done()?;
        let id = parsed(id)?;
        let token = self.app.view(&operator, "get_token", id, |tx, _env, id| Box::pin(tokens::get(tx, id))).await.map_err(status)?;
        Ok(Response::new(v1::GetEnrollmentTokenResponse { token: Some(shown::token(token)) }))
    }

    async fn revoke_enrollment_token(
        &self,
        request: Request<v1::RevokeEnrollmentTokenRequest>,
    ) -> Result<Response<v1::RevokeEnrollmentTokenResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "RevokeEnrollmentToken", &r)?;
        let mut v = Violations::default();
        let id = v.take("name", token_id(&r.name));
        v.done()?;
        let id = parsed(id)?;
        let answer = self.app.mutate(
            &caller,
            "revoke_token",
            body,
            id,
            |tx, env, id| Box::pin(tokens::revoke(tx, env, id)),
            |t| v1::RevokeEnrollmentTokenResponse { token: Some(shown::token(t)) },
        );
        answer.await.map(Response::new).map_err(status)
    }
}
