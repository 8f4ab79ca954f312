//! `ApprovalService`, and what goes for calls that may need a second person.

use super::{Services, caller, clients, configuration, groups, page, parsed, planned::shown_version, policies, status};
use crate::{
    app::{
        AppError, Caller, Env, Violations,
        approvals::{self, Change, Order, START, Watched},
        jobs,
    },
    rpc,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use std::sync::{Arc, LazyLock};
use sutler_base::{Digest, JobId, Uid, limits};
use sutler_core::approval::Approval;
use sutler_proto::{
    convert::{Word, approval_id, wire_time},
    v1,
};
use sutler_store::{Tx, Work};
use tonic::{Request, Response, Status, async_trait};

/// How many jobs of an approval are shown.
const JOBS_SHOWN: usize = 100;
/// How many versions of an approval are shown.
const PACKAGES_SHOWN: usize = 100;
/// How much is shown of what was sent (bytes of JSON).
const REQUEST_SHOWN: usize = 64 << 10;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(sutler_proto::DESCRIPTORS).expect("the descriptors were checked by the build"));

/// What makes the draft of a job that has to wait; gives its id, and the plan by which it is run.
type Draft<I> = for<'a> fn(&'a mut dyn Tx, &'a Env, &'a I) -> Work<'a, (JobId, Option<Uid>), AppError>;

impl Services {
    /// Starts a job; or, where that needs a second person, has it wait as a draft.
    pub(super) async fn start_or_wait<I, R, F>(
        &self,
        caller: &Caller,
        (name, body, confirm): (&'static str, Digest, i64),
        input: I,
        run: F,
        draft: Draft<I>,
        to_wire: fn(jobs::Shown) -> R,
    ) -> Result<R, AppError>
    where
        I: Clone + Send + Sync + 'static,
        R: Message + Default + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Env, &'a I) -> Work<'a, jobs::Shown, AppError> + Send + Sync + 'static,
    {
        let watched = Watched { confirm: u64::try_from(confirm).unwrap_or_default(), order: None };
        let asking = Caller { watched: Some(watched), ..caller.clone() };
        match self.app.mutate(&asking, name, body, input.clone(), run, to_wire).await {
            Err(AppError::ApprovalNeeded(needed)) => {
                let waits = self.app.mutate(
                    caller,
                    name,
                    body,
                    (input, draft, needed),
                    |tx, env, (input, draft, needed)| {
                        Box::pin(async move {
                            let (id, plan) = draft(tx, env, input).await?;
                            approvals::start_waits(tx, env, &id, plan.as_ref(), needed).await
                        })
                    },
                    to_wire,
                );
                waits.await
            }
            other => other,
        }
    }
}

/// The caller of a change that may need a second person, which then waits as it was sent: without what makes it idempotent, and what
/// was confirmed.
pub(super) fn watched<M: Message>(caller: Caller, confirm: i64, method: &str, request: &M) -> Result<Caller, AppError> {
    let request = request.encode_to_vec();
    let change = change(method, &request)?;
    let order = Arc::new(Order { method: method.into(), request, change, plan: None });
    Ok(Caller { watched: Some(Watched { confirm: u64::try_from(confirm).unwrap_or_default(), order: Some(order) }), ..caller })
}

/// A change as it was sent.
fn change(method: &str, request: &[u8]) -> Result<Change, AppError> {
    fn read<M: Message + Default>(request: &[u8]) -> Result<M, AppError> {
        M::decode(request).map_err(|e| AppError::Bug(format!("a kept request can't be read: {e}")))
    }
    Ok(match method {
        "JobService/UpdateJob" => Change::Update(Box::new(rpc::jobs::update(read(request)?)?)),
        "JobService/RetryJob" => Change::Retry(rpc::jobs::retry(&read(request)?)?),
        "JobService/RollbackJob" => Change::Rollback(rpc::jobs::rollback(read(request)?)?),
        "GroupService/AddMembers" => Change::AddMembers(groups::add(read(request)?)?),
        "GroupService/RemoveMembers" => {
            let (name, clients) = groups::remove(&read(request)?)?;
            Change::RemoveMembers(name, clients)
        }
        "GroupService/DeleteGroup" => {
            let r: v1::DeleteGroupRequest = read(request)?;
            Change::DeleteGroup(groups::named(&r.name)?, r.force)
        }
        "PolicyService/CreatePolicy" => Change::CreatePolicy(policies::create(&read(request)?)?),
        "PolicyService/UpdatePolicy" => Change::UpdatePolicy(policies::update(read(request)?)?),
        "PolicyService/ApplyPolicies" => Change::ApplyPolicies(policies::to_apply(&read(request)?)?),
        "ClientService/SetLabels" => Change::SetLabels(clients::label_changes(&read(request)?)?),
        "ClientService/ApproveClients" => Change::ApproveClients(clients::approve(read(request)?)?),
        "ConfigurationService/ApplyConfiguration" => Change::Apply(Box::new(configuration::apply(&read(request)?)?)),
        other => return Err(AppError::Bug(format!("{other} waits for nobody"))),
    })
}

/// The change that an approval is about.
fn change_of(approval: &Approval, request: &[u8]) -> Result<Change, AppError> {
    match (&approval.job, approval.method.as_str()) {
        (Some(job), START) => Ok(Change::Start(job.clone())),
        (_, method) => change(method, request),
    }
}

/// An approval without what was sent.
pub(super) fn shown(a: Approval) -> v1::Approval {
    v1::Approval {
        etag: a.etag(),
        name: format!("approvals/{}", a.id),
        state: a.state.to_wire(),
        requester: a.requester,
        method: a.method,
        sentence: a.what,
        job: a.job.map(|id| format!("jobs/{id}")).unwrap_or_default(),
        clients: a.clients as i64,
        fleet_clients: a.fleet as i64,
        reaches: a
            .jobs
            .into_iter()
            .take(JOBS_SHOWN)
            .map(|(job, clients)| v1::JobReach { job: format!("jobs/{job}"), clients: clients as i64 })
            .collect(),
        create_time: Some(wire_time(a.created)),
        expire_time: Some(wire_time(a.expires)),
        decide_time: a.decided.map(wire_time),
        decider: a.decider,
        reason: a.reason,
        request: String::new(),
        plan: a.plan.map(|id| format!("plans/{id}")).unwrap_or_default(),
        packages: a.packages.iter().take(PACKAGES_SHOWN).map(|p| shown_version(&p.name)).collect(),
    }
}

/// What was sent, as JSON.
fn request_of(a: &Approval, request: &[u8]) -> String {
    let message = a.method.split('/').nth(1).and_then(|method| POOL.get_message_by_name(&format!("sutler.v1.{method}Request")));
    let read = message.filter(|_| !request.is_empty()).and_then(|m| DynamicMessage::decode(m, request).ok());
    let mut json = read.and_then(|m| serde_json::to_string(&m).ok()).unwrap_or_default();
    if json.len() > REQUEST_SHOWN {
        let end = json.floor_char_boundary(REQUEST_SHOWN);
        json.truncate(end);
        json.push('…');
    }
    json
}

#[async_trait]
impl v1::approval_service_server::ApprovalService for Services {
    async fn list_approvals(&self, request: Request<v1::ListApprovalsRequest>) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let (rows, next) = self
            .app
            .view(&operator, "list_approvals", (page, r.show_decided), |tx, env, (page, all)| {
                Box::pin(approvals::list(tx, env, page, *all))
            })
            .await
            .map_err(status)?;
        let approvals = rows.into_iter().map(shown).collect();
        Ok(Response::new(v1::ListApprovalsResponse { approvals, next_page_token: next.unwrap_or_default() }))
    }

    async fn get_approval(&self, request: Request<v1::GetApprovalRequest>) -> Result<Response<v1::GetApprovalResponse>, Status> {
        let operator = self.operator(&request)?;
        let (approval, sent) = self.approval(&operator, &request.get_ref().name).await?;
        let json = request_of(&approval, &sent);
        Ok(Response::new(v1::GetApprovalResponse { approval: Some(v1::Approval { request: json, ..shown(approval) }) }))
    }

    async fn approve_change(&self, request: Request<v1::ApproveChangeRequest>) -> Result<Response<v1::ApproveChangeResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ApproveChange", &r)?;
        if r.etag.is_empty() {
            let why = "is that of the approval as you saw it: nobody agrees to what he has not seen";
            return Err(status(AppError::invalid("etag", why)));
        }
        let (approval, sent) = self.approval(&operator, &r.name).await?;
        let change = match change_of(&approval, &sent) {
            Ok(change) => change,
            // What was decided otherwise is not kept: there is nothing to be read of it.
            Err(unreadable) => {
                approvals::is_pending(&approval).map_err(status)?;
                return Err(status(unreadable));
            }
        };
        let input = approvals::Approve { id: approval.id.clone(), change, etag: r.etag };
        let answer = self.app.mutate(
            &caller,
            "approve_change",
            body,
            input,
            |tx, env, i| Box::pin(approvals::approve(tx, env, i)),
            |a| v1::ApproveChangeResponse { approval: Some(shown(a)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn reject_change(&self, request: Request<v1::RejectChangeRequest>) -> Result<Response<v1::RejectChangeResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "RejectChange", &r)?;
        let mut v = Violations::default();
        let id = v.take("name", approval_id(&r.name));
        v.text("reason", &r.reason, limits::DESCRIPTION_MAX);
        v.done()?;
        let input = approvals::Reject { id: parsed(id)?, reason: r.reason, etag: r.etag };
        let answer = self.app.mutate(
            &caller,
            "reject_change",
            body,
            input,
            |tx, env, i| Box::pin(approvals::reject(tx, env, i)),
            |a| v1::RejectChangeResponse { approval: Some(shown(a)) },
        );
        answer.await.map(Response::new).map_err(status)
    }
}

impl Services {
    async fn approval(&self, operator: &super::Operator, name: &str) -> Result<(Approval, Vec<u8>), Status> {
        let id: Uid = approval_id(name).map_err(|e| status(AppError::invalid("name", e)))?;
        self.app.view(operator, "get_approval", id, |tx, env, id| Box::pin(approvals::get_whole(tx, env, id))).await.map_err(status)
    }
}
