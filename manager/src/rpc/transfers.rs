//! `TransferService`.

use super::{Services, caller, parsed, status};
use crate::{
    app::{
        Violations,
        transfers::{self, Of, Shown},
    },
    live,
};
use sutler_base::{GroupName, Invalid, Timestamp, Uid};
use sutler_core::transfer::{Hours, RATE_MAX, RATE_MIN, Scope, Suspension, Written};
use sutler_proto::{
    convert::{group_name, transfer_limit, wire_time},
    v1,
};
use tonic::{Request, Response, Status, async_trait};

fn shown(shown: Shown) -> v1::TransferLimit {
    let limit = shown.limit;
    let hours = Written::from(limit.hours);
    v1::TransferLimit {
        name: format!("transferLimits/{}", limit.uid),
        scope: match limit.scope {
            Scope::Manager => v1::TransferScope::Manager,
            Scope::Group(_) => v1::TransferScope::Group,
            Scope::EachClient => v1::TransferScope::EachClient,
        }
        .into(),
        group: shown.group.map(|name| format!("groups/{name}")).unwrap_or_default(),
        bytes_per_second: i64::try_from(limit.rate).unwrap_or(i64::MAX),
        from: hours.from,
        to: hours.to,
        days: hours.days,
        zone: hours.zone,
        creator: limit.creator,
        create_time: Some(wire_time(limit.created)),
        holds: None,
    }
}

/// The same with whether it holds now.
fn shown_at(all: Vec<Shown>, now: Timestamp) -> Vec<v1::TransferLimit> {
    let holds = |s: &Shown| (!s.limit.hours.by_client()).then(|| s.limit.hours.hold(now, &jiff::tz::TimeZone::UTC));
    all.into_iter().map(|s| v1::TransferLimit { holds: holds(&s), ..shown(s) }).collect()
}

fn suspension((suspension, group): (Suspension, GroupName)) -> v1::TransferSuspension {
    v1::TransferSuspension { group: format!("groups/{group}"), creator: suspension.creator, since: Some(wire_time(suspension.since)) }
}

/// What a limit is to be; everything that is wrong with it is noted.
fn read(v: &mut Violations, wire: &v1::TransferLimit) -> Option<transfers::Create> {
    let of = match v1::TransferScope::try_from(wire.scope) {
        Ok(v1::TransferScope::Group) => v.take("limit.group", group_name(&wire.group)).map(Of::Group),
        Ok(v1::TransferScope::Manager) => Some(Of::Manager),
        Ok(v1::TransferScope::EachClient) => Some(Of::EachClient),
        Ok(v1::TransferScope::Unspecified) | Err(_) => {
            v.add("limit.scope", format!("is MANAGER, GROUP or EACH_CLIENT, not {}", wire.scope));
            None
        }
    };
    if !wire.group.is_empty() && !matches!(of, Some(Of::Group(_)) | None) {
        v.add("limit.group", "is given with the scope GROUP alone");
    }
    let rate = u64::try_from(wire.bytes_per_second).ok().filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
    if rate.is_none() {
        v.add("limit.bytes_per_second", format!("is {RATE_MIN} to {RATE_MAX}, not {}", wire.bytes_per_second));
    }
    let zone = if wire.zone.is_empty() { "client".to_owned() } else { wire.zone.clone() };
    let written = |days: &str, from: &str, to: &str, zone: &str| -> Result<Hours, Invalid> {
        Written { days: days.into(), from: from.into(), to: to.into(), zone: zone.into() }.try_into()
    };
    // Each by itself, so that all that is wrong is said.
    v.take("limit.days", written(&wire.days, "", "", "client"));
    v.take("limit.from", written("", &wire.from, &wire.to, "client"));
    v.take("limit.zone", written("", "", "", &zone));
    let hours = written(&wire.days, &wire.from, &wire.to, &zone).ok()?;
    Some(transfers::Create { of: of?, rate: rate?, hours })
}

impl Services {
    /// What was changed is felt here at once; other managers, and this one if it fails, see it at their next look.
    async fn look_at_transfers(&self) {
        if let Err(error) = live::transfers::look(&self.app).await {
            tracing::warn!(%error, "what was changed of transfers is felt with the next look");
        }
    }
}

#[async_trait]
impl v1::transfer_service_server::TransferService for Services {
    async fn create_transfer_limit(
        &self,
        request: Request<v1::CreateTransferLimitRequest>,
    ) -> Result<Response<v1::CreateTransferLimitResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CreateTransferLimit", &r)?;
        let mut v = Violations::default();
        let input = read(&mut v, &r.limit.unwrap_or_default());
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "create_transfer_limit",
            body,
            parsed(input)?,
            |tx, env, i| Box::pin(transfers::create(tx, env, i)),
            |limit| v1::CreateTransferLimitResponse { limit: Some(shown(limit)) },
        );
        let answer = answer.await.map_err(status)?;
        self.look_at_transfers().await;
        Ok(Response::new(answer))
    }

    async fn list_transfer_limits(
        &self,
        request: Request<v1::ListTransferLimitsRequest>,
    ) -> Result<Response<v1::ListTransferLimitsResponse>, Status> {
        let operator = self.operator(&request)?;
        let all =
            self.app.view(&operator, "list_transfer_limits", (), |tx, _env, ()| Box::pin(transfers::list(tx))).await.map_err(status)?;
        Ok(Response::new(v1::ListTransferLimitsResponse { limits: shown_at(all, self.app.world.now()) }))
    }

    async fn delete_transfer_limit(
        &self,
        request: Request<v1::DeleteTransferLimitRequest>,
    ) -> Result<Response<v1::DeleteTransferLimitResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "DeleteTransferLimit", &r)?;
        let mut v = Violations::default();
        let uid: Option<Uid> = v.take("name", transfer_limit(&r.name));
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "delete_transfer_limit",
            body,
            parsed(uid)?,
            |tx, env, uid| Box::pin(transfers::delete(tx, env, uid)),
            |()| v1::DeleteTransferLimitResponse {},
        );
        let answer = answer.await.map_err(status)?;
        self.look_at_transfers().await;
        Ok(Response::new(answer))
    }

    async fn suspend_transfers(
        &self,
        request: Request<v1::SuspendTransfersRequest>,
    ) -> Result<Response<v1::SuspendTransfersResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "SuspendTransfers", &r)?;
        let mut v = Violations::default();
        let group = v.take("group", group_name(&r.group));
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "suspend_transfers",
            body,
            parsed(group)?,
            |tx, env, group| Box::pin(transfers::suspend(tx, env, group)),
            |made| v1::SuspendTransfersResponse { suspension: Some(suspension(made)) },
        );
        let answer = answer.await.map_err(status)?;
        self.look_at_transfers().await;
        Ok(Response::new(answer))
    }

    async fn resume_transfers(
        &self,
        request: Request<v1::ResumeTransfersRequest>,
    ) -> Result<Response<v1::ResumeTransfersResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ResumeTransfers", &r)?;
        let mut v = Violations::default();
        let group = v.take("group", group_name(&r.group));
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "resume_transfers",
            body,
            parsed(group)?,
            |tx, env, group| Box::pin(transfers::resume(tx, env, group)),
            |()| v1::ResumeTransfersResponse {},
        );
        let answer = answer.await.map_err(status)?;
        self.look_at_transfers().await;
        Ok(Response::new(answer))
    }

    async fn get_transfer_status(
        &self,
        request: Request<v1::GetTransferStatusRequest>,
    ) -> Result<Response<v1::GetTransferStatusResponse>, Status> {
        let operator = self.operator(&request)?;
        let (suspended, limits) = self
            .app
            .view(&operator, "get_transfer_status", (), |tx, _env, ()| {
                Box::pin(async move { Ok((transfers::suspended(tx).await?, transfers::list(tx).await?)) })
            })
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetTransferStatusResponse {
            suspensions: suspended.into_iter().map(suspension).collect(),
            limits: shown_at(limits, self.app.world.now()),
            transferring: i32::try_from(self.app.live.transfers.reading()).unwrap_or(i32::MAX),
        }))
    }
}
