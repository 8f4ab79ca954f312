//! `ReportService`.

use super::{Services, page, parsed, shown, status};
use crate::app::{Violations, jobs};
use sutler_proto::{
    convert::{job_id, wire_time},
    v1,
};
use sutler_store::Page;
use tonic::{Request, Response, Status, async_trait};

/// How many rows a page has at the most: with each comes its outcome, which may be half a megabyte.
const ROWS: u32 = 100;

#[async_trait]
impl v1::report_service_server::ReportService for Services {
    async fn list_report_rows(&self, request: Request<v1::ListReportRowsRequest>) -> Result<Response<v1::ListReportRowsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let asked = page(&mut v, r.page_size, &r.page_token);
        let page = Page { limit: asked.limit.min(ROWS), ..asked };
        let job = v.take("parent", job_id(&r.parent));
        v.done()?;
        let (rows, next) = self
            .app
            .view(&operator, "list_report_rows", (parsed(job)?, page), |tx, env, (job, page)| Box::pin(jobs::rows(tx, env, job, page, &[])))
            .await
            .map_err(status)?;
        let contact = self.contact();
        let row = |row: jobs::Row| {
            let (attempt_time, end_time) =
                row.attempt.as_ref().map_or((None, None), |a| (Some(wire_time(a.created)), a.ended.map(wire_time)));
            let mut execution = shown::execution(row, &contact);
            for item in &mut execution.items {
                // Of a hundred rows it would be more than a message holds.
                item.output = String::new();
            }
            v1::ReportRow { execution: Some(execution), attempt_time, end_time }
        };
        Ok(Response::new(v1::ListReportRowsResponse {
            rows: rows.into_iter().map(row).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }
}
