//! `BrakeService`.

use super::{Services, caller, parsed, status};
use crate::app::{
    Violations,
    brakes::{
        breakers,
        stops::{self, Asked, Order, Shown},
    },
};
use sutler_core::brake::{REASON_MAX, Stopped};
use sutler_proto::{
    convert::{VersionChoice, breaker_uid, group_name, package_choice, wire_time},
    v1,
};
use tonic::{Request, Response, Status, async_trait};

fn shown(shown: Shown) -> v1::Stop {
    let work = match (&shown.stop.what, shown.group) {
        (Stopped::Everything, _) => v1::StoppedWork { everything: true, ..Default::default() },
        (Stopped::Group(_), group) => {
            v1::StoppedWork { group: group.map(|name| format!("groups/{name}")).unwrap_or_default(), ..Default::default() }
        }
        (Stopped::Package(name), _) => v1::StoppedWork { package: format!("packages/{name}"), ..Default::default() },
        (Stopped::Version(name, version), _) => {
            v1::StoppedWork { package: format!("packages/{name}/versions/{version}"), ..Default::default() }
        }
    };
    v1::Stop { work: Some(work), reason: shown.stop.reason, creator: shown.stop.creator, stop_time: Some(wire_time(shown.stop.since)) }
}

fn breaker(shown: breakers::Shown) -> v1::Breaker {
    let breaker = shown.breaker;
    let counted = &breaker.counted;
    v1::Breaker {
        name: format!("breakers/{}", breaker.uid),
        package: shown.package,
        scope: shown.of,
        failures: counted.failures() as i32,
        attempts: counted.newest.len() as i32,
        open_time: breaker.opened.as_ref().map(|(at, _)| wire_time(*at)),
        why: breaker.opened.map(|(_, why)| why).unwrap_or_default(),
    }
}

/// What is meant; everything that is wrong with it is noted.
fn read(v: &mut Violations, wire: &v1::StoppedWork) -> Option<Asked> {
    let given = [wire.everything, !wire.group.is_empty(), !wire.package.is_empty()].into_iter().filter(|given| *given).count();
    if given != 1 {
        v.add("work", "is everything, a group or a package: exactly one of them");
        return None;
    }
    if wire.everything {
        return Some(Asked::Everything);
    }
    if !wire.group.is_empty() {
        return v.take("work.group", group_name(&wire.group)).map(Asked::Group);
    }
    match v.take("work.package", package_choice(&wire.package))? {
        (name, VersionChoice::Newest) => Some(Asked::Package(name)),
        (name, VersionChoice::Exact(version)) => Some(Asked::Version(name, version)),
        (_, VersionChoice::Latest) => {
            v.add("work.package", "is packages/NAME or packages/NAME/versions/VERSION; which version is the latest changes");
            None
        }
    }
}

#[async_trait]
impl v1::brake_service_server::BrakeService for Services {
    async fn stop_work(&self, request: Request<v1::StopWorkRequest>) -> Result<Response<v1::StopWorkResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "StopWork", &r)?;
        let mut v = Violations::default();
        let asked = read(&mut v, &r.work.unwrap_or_default());
        if r.reason.trim().is_empty() || r.reason.len() > REASON_MAX {
            v.add("reason", format!("says why, for whoever finds it stopped: 1 to {REASON_MAX} bytes, not {}", r.reason.len()));
        }
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "stop_work",
            body,
            Order { asked: parsed(asked)?, reason: r.reason },
            |tx, env, order| Box::pin(stops::stop(tx, env, order)),
            |(stop, called_back)| v1::StopWorkResponse {
                stop: Some(shown(stop)),
                called_back: i64::try_from(called_back).unwrap_or(i64::MAX),
            },
        );
        Ok(Response::new(answer.await.map_err(status)?))
    }

    async fn resume_work(&self, request: Request<v1::ResumeWorkRequest>) -> Result<Response<v1::ResumeWorkResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ResumeWork", &r)?;
        let mut v = Violations::default();
        let asked = read(&mut v, &r.work.unwrap_or_default());
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "resume_work",
            body,
            parsed(asked)?,
            |tx, env, asked| Box::pin(stops::resume(tx, env, asked)),
            |was_stopped| v1::ResumeWorkResponse { was_stopped },
        );
        Ok(Response::new(answer.await.map_err(status)?))
    }

    async fn list_stops(&self, request: Request<v1::ListStopsRequest>) -> Result<Response<v1::ListStopsResponse>, Status> {
        let operator = self.operator(&request)?;
        let all = self.app.view(&operator, "list_stops", (), |tx, env, ()| Box::pin(stops::list(tx, env))).await.map_err(status)?;
        Ok(Response::new(v1::ListStopsResponse { stops: all.into_iter().map(shown).collect() }))
    }

    async fn list_breakers(&self, request: Request<v1::ListBreakersRequest>) -> Result<Response<v1::ListBreakersResponse>, Status> {
        let operator = self.operator(&request)?;
        let all = self.app.view(&operator, "list_breakers", (), |tx, env, ()| Box::pin(breakers::list(tx, env))).await.map_err(status)?;
        Ok(Response::new(v1::ListBreakersResponse { breakers: all.into_iter().map(breaker).collect() }))
    }

    async fn close_breaker(&self, request: Request<v1::CloseBreakerRequest>) -> Result<Response<v1::CloseBreakerResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CloseBreaker", &r)?;
        let mut v = Violations::default();
        let uid = v.take("name", breaker_uid(&r.name));
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "close_breaker",
            body,
            parsed(uid)?,
            |tx, env, uid| Box::pin(breakers::close(tx, env, uid)),
            |closed| v1::CloseBreakerResponse { breaker: Some(breaker(closed)) },
        );
        Ok(Response::new(answer.await.map_err(status)?))
    }
}
