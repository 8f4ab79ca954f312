//! `SoftwareService`.

use super::{Services, page, parsed, status};
use crate::app::{Violations, inventory};
use sutler_base::{Invalid, quoted};
use sutler_proto::{convert::group_name, v1};
use sutler_store::Titles;
use tonic::{Request, Response, Status, async_trait};

/// The id in `software/ID`.
fn id(name: &str) -> Result<i64, Invalid> {
    let id = name.strip_prefix("software/").and_then(|id| id.parse().ok()).filter(|id| *id > 0);
    id.ok_or_else(|| Invalid::new(format!("{} is no software: write software/ID, as a list has it", quoted(name))))
}

#[async_trait]
impl v1::software_service_server::SoftwareService for Services {
    async fn list_software(&self, request: Request<v1::ListSoftwareRequest>) -> Result<Response<v1::ListSoftwareResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.text("title", &r.title, 255);
        if !["", "dpkg", "rpm", inventory::SUTLER].contains(&r.manager.as_str()) {
            v.add("manager", "is dpkg, rpm or sutler; empty for all of them");
        }
        let group = if r.group.is_empty() { None } else { v.take("group", group_name(&r.group)) };
        v.done()?;
        let (name, is_prefix) = r.title.strip_suffix('*').map_or((r.title.clone(), false), |begin| (begin.to_owned(), true));
        let list = inventory::List { page, titles: Titles { name, is_prefix, manager: r.manager }, group };
        let (titles, next) =
            self.app.view(&operator, "list_software", list, |tx, _env, list| Box::pin(inventory::list(tx, list))).await.map_err(status)?;
        let software = |t: sutler_core::model::Title| v1::Software {
            name: format!("software/{}", t.id),
            title: t.package.name,
            manager: t.package.manager,
            version: t.package.version,
            architecture: t.package.architecture,
            clients: t.clients.min(i64::MAX as u64) as i64,
        };
        let software = titles.into_iter().map(software).collect();
        Ok(Response::new(v1::ListSoftwareResponse { software, next_page_token: next.unwrap_or_default() }))
    }

    async fn list_installations(
        &self,
        request: Request<v1::ListInstallationsRequest>,
    ) -> Result<Response<v1::ListInstallationsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let title = v.take("parent", id(&r.parent));
        let page = page(&mut v, r.page_size, &r.page_token);
        let group = if r.group.is_empty() { None } else { v.take("group", group_name(&r.group)) };
        v.done()?;
        let input = (parsed(title)?, page, group);
        let (clients, next) = self
            .app
            .view(&operator, "list_installations", input, |tx, _env, (title, page, group)| {
                Box::pin(inventory::installations(tx, *title, page, group.as_ref()))
            })
            .await
            .map_err(status)?;
        let installations =
            clients.into_iter().map(|(id, hostname)| v1::Installation { client: format!("clients/{id}"), hostname }).collect();
        Ok(Response::new(v1::ListInstallationsResponse { installations, next_page_token: next.unwrap_or_default() }))
    }
}
