//! `WindowService`.

use super::{Services, caller, page, parsed, status};
use crate::app::{
    AppError, Violations,
    windows::{self, Named},
};
use sutler_base::limits;
use sutler_core::window::{self, Day, Hours, Zone};
use sutler_proto::{
    convert::{group_name, window_name, wire_time},
    v1,
};
use tonic::{Request, Response, Status, async_trait};

/// When a window is open, as it is sent.
pub(super) fn wire_hours(hours: &Hours) -> v1::Hours {
    v1::Hours {
        weekdays: hours.days.iter().map(|day| *day as i32 + 1).collect(),
        from: window::clock(hours.from),
        to: window::clock(hours.to),
        zone: hours.zone.to_string(),
    }
}

fn shown((window, group): Named) -> v1::Window {
    v1::Window {
        name: format!("windows/{}", window.name),
        uid: window.uid.to_string(),
        group: format!("groups/{group}"),
        hours: Some(wire_hours(&window.hours)),
        description: window.description,
        create_time: Some(wire_time(window.created)),
        etag: window.change.to_string(),
    }
}

/// The days that are given; none if none are.
fn days(v: &mut Violations, wire: &[i32]) -> Option<Vec<Day>> {
    if wire.is_empty() {
        return None;
    }
    if wire.len() > Day::ALL.len() {
        v.add("hours.weekdays", format!("has at most {} entries, not {}", Day::ALL.len(), wire.len()));
        return None;
    }
    let mut all = Vec::new();
    for (n, number) in wire.iter().enumerate() {
        match usize::try_from(*number).ok().and_then(|n| Day::ALL.get(n.checked_sub(1)?)) {
            Some(day) => all.push(*day),
            None => v.add(&format!("hours.weekdays[{n}]"), format!("{number} is no day of the week")),
        }
    }
    match windows::days(&all) {
        Ok(days) => Some(days),
        Err(why) => {
            v.add("hours.weekdays", why);
            None
        }
    }
}

fn minutes(v: &mut Violations, field: &str, text: &str) -> Option<u16> {
    if text.is_empty() { None } else { v.take(field, window::minutes(text)) }
}

/// What makes a window.
pub(super) fn create(r: &v1::CreateWindowRequest) -> Result<windows::Create, AppError> {
    let mut v = Violations::default();
    let name = v.take("window_id", r.window_id.parse());
    let group = v.take("group", group_name(&r.group));
    let wire = r.hours.clone().unwrap_or_default();
    let days = days(&mut v, &wire.weekdays);
    if wire.weekdays.is_empty() {
        v.add("hours.weekdays", "has at least one day; without one the window would never open");
    }
    let from = v.take("hours.from", window::minutes(&wire.from));
    let to = v.take("hours.to", window::minutes(&wire.to));
    let zone = v.take("hours.zone", wire.zone.parse::<Zone>());
    v.text("description", &r.description, limits::DESCRIPTION_MAX);
    let hours = days.zip(from.zip(to)).zip(zone).map(|((days, (from, to)), zone)| Hours { days, from, to, zone });
    let ((name, group), hours) = v.whole(name.zip(group).zip(hours))?;
    Ok(windows::Create { name, group, hours, description: r.description.clone() })
}

#[async_trait]
impl v1::window_service_server::WindowService for Services {
    async fn create_window(&self, request: Request<v1::CreateWindowRequest>) -> Result<Response<v1::CreateWindowResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CreateWindow", &r)?;
        let input = create(&r)?;
        let answer = self.app.mutate(
            &caller,
            "create_window",
            body,
            input,
            |tx, env, i| Box::pin(windows::create(tx, env, i)),
            |w| v1::CreateWindowResponse { window: Some(shown(w)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn get_window(&self, request: Request<v1::GetWindowRequest>) -> Result<Response<v1::GetWindowResponse>, Status> {
        let operator = self.operator(&request)?;
        let mut v = Violations::default();
        let name = v.take("name", window_name(&request.get_ref().name));
        v.done()?;
        let name = parsed(name)?;
        let window = self.app.view(&operator, "get_window", name, |tx, _env, n| Box::pin(windows::get(tx, n))).await.map_err(status)?;
        Ok(Response::new(v1::GetWindowResponse { window: Some(shown(window)) }))
    }

    async fn list_windows(&self, request: Request<v1::ListWindowsRequest>) -> Result<Response<v1::ListWindowsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let (rows, next) =
            self.app.view(&operator, "list_windows", page, |tx, _env, page| Box::pin(windows::list(tx, page))).await.map_err(status)?;
        let windows = rows.into_iter().map(shown).collect();
        Ok(Response::new(v1::ListWindowsResponse { windows, next_page_token: next.unwrap_or_default() }))
    }

    async fn update_window(&self, request: Request<v1::UpdateWindowRequest>) -> Result<Response<v1::UpdateWindowResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "UpdateWindow", &r)?;
        let mut v = Violations::default();
        let name = v.take("name", window_name(&r.name));
        let wire = r.hours.unwrap_or_default();
        let days = days(&mut v, &wire.weekdays);
        let (from, to) = (minutes(&mut v, "hours.from", &wire.from), minutes(&mut v, "hours.to", &wire.to));
        let zone = if wire.zone.is_empty() { None } else { v.take("hours.zone", wire.zone.parse::<Zone>()) };
        if let Some(text) = &r.description {
            v.text("description", text, limits::DESCRIPTION_MAX);
        }
        v.done()?;
        let input = windows::Update { name: parsed(name)?, days, from, to, zone, description: r.description, etag: r.etag };
        let answer = self.app.mutate(
            &caller,
            "update_window",
            body,
            input,
            |tx, env, i| Box::pin(windows::update(tx, env, i)),
            |w| v1::UpdateWindowResponse { window: Some(shown(w)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn delete_window(&self, request: Request<v1::DeleteWindowRequest>) -> Result<Response<v1::DeleteWindowResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "DeleteWindow", &r)?;
        let mut v = Violations::default();
        let name = v.take("name", window_name(&r.name));
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "delete_window",
            body,
            parsed(name)?,
            |tx, env, name| Box::pin(windows::delete(tx, env, name)),
            |()| v1::DeleteWindowResponse {},
        );
        answer.await.map(Response::new).map_err(status)
    }
}
