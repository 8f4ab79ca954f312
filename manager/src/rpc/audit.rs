//! `AuditService`: who did what, when.

use super::{Services, page, status};
use crate::app::Violations;
use sutler_core::audit::{AuditRecord, AuditSegment, ChainEnd};
use sutler_proto::{convert::wire_time, v1};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl v1::audit_service_server::AuditService for Services {
    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut violations = Violations::default();
        let page = page(&mut violations, r.page_size, &r.page_token);
        if page.after.as_ref().is_some_and(|after| after.parse::<i64>().is_err()) {
            violations.add("page_token", "is not one that this manager gave");
        }
        violations.text("object", &r.object, 512);
        if r.oldest_first && !r.object.is_empty() {
            violations.add("oldest_first", "is for entries about all objects");
        }
        violations.done()?;
        let (rows, next) = self
            .app
            .view(&operator, "list_audit", (page, r.object, r.oldest_first), |tx, _env, (page, object, oldest_first)| {
                Box::pin(async move {
                    let rows = match oldest_first {
                        true => tx.audit_after(page).await?,
                        false => tx.list_audit(page, (!object.is_empty()).then_some(object.as_str())).await?,
                    };
                    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|r| r.entry.sequence.to_string())).flatten();
                    Ok((rows, next))
                })
            })
            .await
            .map_err(status)?;
        let entries = rows.into_iter().map(shown).collect();
        Ok(Response::new(v1::ListAuditEntriesResponse { entries, next_page_token: next.unwrap_or_default() }))
    }

    async fn list_audit_segments(
        &self,
        request: Request<v1::ListAuditSegmentsRequest>,
    ) -> Result<Response<v1::ListAuditSegmentsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut violations = Violations::default();
        let page = page(&mut violations, r.page_size, &r.page_token);
        if page.after.as_ref().is_some_and(|after| after.parse::<i64>().is_err()) {
            violations.add("page_token", "is not one that this manager gave");
        }
        violations.done()?;
        // Before the entries are listed: whoever reads them afterwards has to find this one.
        let end = self.app.store.audit_end().map(shown_end);
        let (rows, next) = self
            .app
            .view(&operator, "list_audit_segments", page, |tx, _env, page| {
                Box::pin(async move {
                    let rows = tx.list_audit_segments(page).await?;
                    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|s| s.number.to_string())).flatten();
                    Ok((rows, next))
                })
            })
            .await
            .map_err(status)?;
        let segments = rows.into_iter().map(shown_segment).collect();
        Ok(Response::new(v1::ListAuditSegmentsResponse { segments, next_page_token: next.unwrap_or_default(), end }))
    }
}

fn shown(record: AuditRecord) -> v1::AuditEntry {
    v1::AuditEntry {
        sequence: record.entry.sequence,
        time: Some(wire_time(record.entry.time)),
        actor: record.entry.actor,
        action: record.entry.action,
        object: record.entry.object,
        detail: record.entry.detail,
        chain: record.chain,
        number: record.number,
        previous_hash: record.previous.to_string(),
        hash: record.hash.to_string(),
    }
}

fn shown_end(end: ChainEnd) -> v1::AuditChainEnd {
    v1::AuditChainEnd { chain: end.chain, number: end.number, hash: end.hash.to_string() }
}

fn shown_segment(segment: AuditSegment) -> v1::AuditSegment {
    v1::AuditSegment {
        number: segment.number,
        first: segment.first,
        last: segment.last,
        entries: segment.entries,
        hash: segment.hash.to_string(),
        ends: segment.ends.into_iter().map(shown_end).collect(),
        seal_time: Some(wire_time(segment.sealed)),
        drop_time: segment.dropped.map(wire_time),
    }
}
