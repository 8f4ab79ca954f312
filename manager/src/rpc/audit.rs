//! `AuditService`: who did what, when.

use super::{Services, page, status};
use crate::app::Violations;
use sutler_proto::{convert::wire_time, v1};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl v1::audit_service_server::AuditService for Services {
    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let operator = self.operator(&request).await?;
        let r = request.into_inner();
        let mut violations = Violations::default();
        let page = page(&mut violations, r.page_size, &r.page_token);
        violations.text("object", &r.object, 512);
        violations.done()?;
        let (rows, next) = self
            .app
            .view(operator.as_str(), "list_audit", (page, r.object), |tx, _env, (page, object)| {
                Box::pin(async move {
                    let rows = tx.list_audit(page, (!object.is_empty()).then_some(object.as_str())).await?;
                    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|e| e.sequence.to_string())).flatten();
                    Ok((rows, next))
                })
            })
            .await
            .map_err(status)?;
        let entries = rows
            .into_iter()
            .map(|e| v1::AuditEntry {
                sequence: e.sequence,
                time: Some(wire_time(e.time)),
                actor: e.actor,
                action: e.action,
                object: e.object,
                detail: e.detail,
            })
            .collect();
        Ok(Response::new(v1::ListAuditEntriesResponse { entries, next_page_token: next.unwrap_or_default() }))
    }
}
