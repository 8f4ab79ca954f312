//! `PlanService`, and jobs that are run by a plan.

use super::{Operator, Services, jobs, page, parsed, shown, status};
use crate::app::{
    AppError, Caller, Violations,
    planned::{self, Fetch, Keep, Looked, Run},
};
use prost::Message;
use std::collections::BTreeMap;
use sutler_base::{
    Digest, Timestamp, Uid,
    state::{PlanVerdict, Presence},
};
use sutler_core::planned::{JobPlan, PlannedClient};
use sutler_proto::{
    convert::{Word, plan_id, wire_time},
    v1,
};
use tonic::{Request, Response, Status, async_trait};

/// A version that was pinned, as its name on the wire.
pub(super) fn shown_version(pinned: &str) -> String {
    match pinned.split_once('@') {
        Some((name, version)) => format!("packages/{name}/versions/{version}"),
        None => format!("packages/{pinned}"),
    }
}

fn shown_plan(plan: JobPlan) -> Result<v1::JobPlan, AppError> {
    let order = order_of(&plan)?;
    let s = plan.summary;
    let verdict =
        |(word, n): (String, u64)| v1::PlanCount { verdict: word.parse::<PlanVerdict>().map_or(0, Word::to_wire), clients: n as i64 };
    let presence =
        |(word, n): (String, u64)| v1::PresenceCount { presence: word.parse::<Presence>().map_or(0, Word::to_wire), clients: n as i64 };
    Ok(v1::JobPlan {
        name: format!("plans/{}", plan.id),
        creator: plan.creator,
        create_time: Some(wire_time(plan.created)),
        expire_time: Some(wire_time(plan.expires)),
        order: Some(order),
        packages: s.packages.iter().map(|p| shown_version(&p.name)).collect(),
        clients: s.clients as i64,
        fleet_clients: s.fleet as i64,
        verdicts: s.verdicts.into_iter().map(verdict).collect(),
        presences: s.presences.into_iter().map(presence).collect(),
        fetch_bytes: i64::try_from(s.bytes).unwrap_or(i64::MAX),
        stages: s.stages.into_iter().map(|(stage, n)| v1::PlanStage { stage, clients: n as i64 }).collect(),
        openings: s
            .openings
            .into_iter()
            .map(|(at, n)| v1::PlanOpening { time: Timestamp::from_millisecond(at).ok().map(wire_time), clients: n as i64 })
            .collect(),
        needs: s.needs,
    })
}

fn shown_client(c: PlannedClient) -> v1::PlannedClient {
    v1::PlannedClient {
        client: format!("clients/{}", c.client),
        verdict: c.verdict.to_wire(),
        presence: c.presence.to_wire(),
        stage: c.stage as i32,
        fetch_bytes: i64::try_from(c.bytes).unwrap_or(i64::MAX),
        open_time: c.opens.map(wire_time),
        why: c.why,
    }
}

/// The order that a plan is of.
fn order_of(plan: &JobPlan) -> Result<v1::CreateJobRequest, AppError> {
    v1::CreateJobRequest::decode(plan.order.as_slice()).map_err(|e| AppError::Bug(format!("a kept order can't be read: {e}")))
}

impl Services {
    async fn plan(&self, operator: &Operator, field: &str, name: &str) -> Result<JobPlan, Status> {
        let id = plan_id(name).map_err(|e| status(AppError::invalid(field, e)))?;
        self.app.view(operator, "get_plan", id, |tx, env, id| Box::pin(planned::get(tx, env, id))).await.map_err(status)
    }

    /// How many bytes each fetch takes: what is known to be lacking beside the version that is there, else all.
    async fn bytes(&self, looked: &Looked) -> BTreeMap<Fetch, u64> {
        let mut bytes = BTreeMap::new();
        for fetch in looked.clients.iter().flat_map(|(_, fetches)| fetches) {
            if bytes.contains_key(fetch) {
                continue;
            }
            let lacking = match fetch.there {
                // What can't be read any more is nothing that somebody has.
                Some(there) => self.app.content.bytes_beside(fetch.manifest, there).await.unwrap_or(fetch.total),
                None => fetch.total,
            };
            bytes.insert(fetch.clone(), lacking);
        }
        bytes
    }

    /// Runs a job by a plan.
    pub(super) async fn run_plan(
        &self,
        operator: &Operator,
        caller: Caller,
        body: Digest,
        r: v1::RunJobRequest,
    ) -> Result<v1::RunJobResponse, Status> {
        let bare = v1::RunJobRequest { plan: r.plan.clone(), request_id: r.request_id.clone(), confirm: r.confirm, ..Default::default() };
        if r != bare {
            return Err(status(AppError::invalid("plan", "has an order of its own; give one or the other")));
        }
        let plan = self.plan(operator, "plan", &r.plan).await?;
        let input = Run { order: jobs::create(&order_of(&plan)?)?, plan: plan.id };
        let run = self.start_or_wait(
            &caller,
            ("run_job", body, r.confirm),
            input,
            |tx, env, i| Box::pin(planned::run(tx, env, i)),
            |tx, env, i| {
                Box::pin(async move {
                    let (plan, made) = planned::create(tx, env, i).await?;
                    Ok((made.job.id, Some(plan.id)))
                })
            },
            |j| v1::RunJobResponse { job: Some(shown::job(j)) },
        );
        run.await.map_err(status)
    }
}

#[async_trait]
impl v1::plan_service_server::PlanService for Services {
    async fn plan_job(&self, request: Request<v1::PlanJobRequest>) -> Result<Response<v1::PlanJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let order = request.into_inner().order.unwrap_or_default();
        let within = |error: AppError| match error {
            AppError::Invalid(all) => {
                let put = |v: crate::app::Violation| crate::app::Violation { field: format!("order.{}", v.field), ..v };
                AppError::Invalid(all.into_iter().map(put).collect())
            }
            other => other,
        };
        if !order.request_id.is_empty() {
            return Err(status(AppError::invalid("order.request_id", "is for orders that are carried out; a plan is made anew each time")));
        }
        let input = jobs::create(&order).map_err(within)?;
        let ordered = self.app.rehearse(&operator, "plan_job", input, |tx, env, i| Box::pin(planned::order(tx, env, i)));
        let ordered = ordered.await.map_err(within)?;
        let looked = self.app.view(&operator, "look_at_plan", ordered, |tx, env, i| Box::pin(planned::look(tx, env, i)));
        let looked = looked.await.map_err(status)?;
        let bytes = self.bytes(&looked).await;
        let Looked { mut summary, clients } = looked;
        let clients: Vec<PlannedClient> = clients
            .into_iter()
            .map(|(client, fetches)| {
                let of: u64 = fetches.iter().filter_map(|f| bytes.get(f)).sum();
                PlannedClient { bytes: of, ..client }
            })
            .collect();
        summary.bytes = clients.iter().map(|c| c.bytes).sum();
        let keep = Keep { order: order.encode_to_vec(), summary, clients };
        let kept = self.app.change(&operator, "keep_plan", keep, |tx, env, i| Box::pin(planned::keep(tx, env, i))).await.map_err(status)?;
        Ok(Response::new(v1::PlanJobResponse { plan: Some(shown_plan(kept)?) }))
    }

    async fn get_plan(&self, request: Request<v1::GetPlanRequest>) -> Result<Response<v1::GetPlanResponse>, Status> {
        let operator = self.operator(&request)?;
        let plan = self.plan(&operator, "name", &request.get_ref().name).await?;
        Ok(Response::new(v1::GetPlanResponse { plan: Some(shown_plan(plan)?) }))
    }

    async fn list_plan_clients(
        &self,
        request: Request<v1::ListPlanClientsRequest>,
    ) -> Result<Response<v1::ListPlanClientsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        let id: Option<Uid> = v.take("parent", plan_id(&r.parent));
        v.done()?;
        let id = parsed(id)?;
        let (rows, next) = self
            .app
            .view(&operator, "list_plan_clients", (id, page), |tx, env, (id, page)| Box::pin(planned::clients(tx, env, id, page)))
            .await
            .map_err(status)?;
        let clients = rows.into_iter().map(shown_client).collect();
        Ok(Response::new(v1::ListPlanClientsResponse { clients, next_page_token: next.unwrap_or_default() }))
    }
}
