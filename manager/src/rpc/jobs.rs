//! `JobService`.

use super::{Operator, Services, approvals::watched, caller, logs, page, parsed, shown, status, terms};
use crate::app::{AppError, Violations, approvals, jobs, packages, revise, rollback, rollouts};
use futures_util::Stream;
use std::{collections::HashMap, pin::Pin, time::Duration};
use sutler_base::{
    AttemptId, ClientId, Invalid, JobAlias, JobId, ParameterName, Timestamp, limits,
    manifest::{Requirement, relations::Values, requirement},
    state::{ErrorKind, ExecutionState, Intent, JobState, RetryKind},
};
use sutler_proto::{
    convert::{Word, client_id, execution_name, group_name, job_id, package_choice, time},
    v1,
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

/// How long a watcher waits before it looks without being told: another manager may have made the change.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long changes are gathered for one message.
const GATHER: Duration = Duration::from_millis(100);
/// How many rows a message of a watch has at the most.
const ROWS: u32 = 1000;

fn id(name: &str) -> Result<JobId, Status> {
    job_id(name).map_err(|e| status(AppError::invalid("name", e)))
}

/// A time as it is kept: to the millisecond.
fn moment(v: &mut Violations, field: &str, wire: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    wire.and_then(|w| v.take(field, time(w))).and_then(|t| Timestamp::from_millisecond(t.as_millisecond()).ok())
}

fn priority(v: &mut Violations, value: i32, unset: u8) -> u8 {
    match u8::try_from(value) {
        Ok(0) => unset,
        Ok(n @ 1..=9) => n,
        _ => {
            v.add("priority", format!("is 1 (first) to 9, not {value}"));
            unset
        }
    }
}

/// Values of parameters, as they are given: whether the package takes them is asked where its version is known.
fn values(v: &mut Violations, field: &str, wire: &HashMap<String, String>) -> Values {
    if wire.len() > limits::PARAMETERS_MAX {
        v.add(field, format!("has at most {} entries, not {}", limits::PARAMETERS_MAX, wire.len()));
        return Values::new();
    }
    let mut values = Values::new();
    for (name, value) in wire {
        let Some(name) = v.take(field, name.parse::<ParameterName>()) else { continue };
        if value.len() > limits::PARAMETER_VALUE_MAX || value.chars().any(char::is_control) {
            v.add(
                field,
                format!("a value has at most {} bytes and no control characters, that of {name} does not", limits::PARAMETER_VALUE_MAX),
            );
            continue;
        }
        values.insert(name, value.clone());
    }
    values
}

/// How many bytes of JSON the requirements of a job have at most. An offer has them with each of its packages.
const REQUIREMENTS_MAX: usize = 16 << 10;
// An offer that an agent doesn't take ends its connection, and comes again with the next one.
const _: () = assert!(REQUIREMENTS_MAX * limits::JOB_PACKAGES_MAX <= limits::AGENT_MESSAGE_MAX / 2);

/// The packages of an order.
fn packages_of(v: &mut Violations, wire: &[v1::JobPackage]) -> Vec<jobs::Wanted> {
    let mut packages: Vec<jobs::Wanted> = Vec::new();
    for (n, p) in wire.iter().enumerate().take(limits::JOB_PACKAGES_MAX) {
        let replace_always = match v1::Replace::try_from(p.replace) {
            Ok(v1::Replace::Always) => true,
            Ok(_) => false,
            Err(_) => {
                v.add(&format!("packages[{n}].replace"), format!("{} is no value of Replace", p.replace));
                false
            }
        };
        let intent = v.take(&format!("packages[{n}].intent"), Intent::from_wire(p.intent)).flatten().unwrap_or(Intent::Install);
        let values = values(v, &format!("packages[{n}].values"), &p.values);
        if let Some((package, version)) = v.take(&format!("packages[{n}].package"), package_choice(&p.package)) {
            if packages.iter().any(|w| w.package == package) {
                v.add(&format!("packages[{n}].package"), format!("{package} stands in the job twice"));
            }
            packages.push(jobs::Wanted { package, version, replace_always, intent, values });
        }
    }
    packages
}

/// Groups and clients.
fn destinations(v: &mut Violations, field: &str, wire: &[String]) -> Vec<jobs::Destination> {
    let mut all = Vec::new();
    for (n, d) in wire.iter().enumerate().take(limits::JOB_TARGETS_MAX) {
        let field = format!("{field}[{n}]");
        let destination = if d.starts_with("clients/") {
            v.take(&field, client_id(d)).map(jobs::Destination::Client)
        } else {
            v.take(&field, group_name(d)).map(jobs::Destination::Group)
        };
        all.extend(destination);
    }
    all
}

/// Groups and clients, as many as a job may have of them, or none.
fn destinations_at_most(v: &mut Violations, field: &str, wire: &[String]) -> Vec<jobs::Destination> {
    if wire.len() > limits::JOB_TARGETS_MAX {
        v.add(field, format!("has at most {} entries, not {}", limits::JOB_TARGETS_MAX, wire.len()));
    }
    destinations(v, field, wire)
}

/// What a job requires of a machine: a JSON array.
fn requirements(v: &mut Violations, wire: &str) -> Vec<Requirement> {
    let requirements = match wire {
        "" => Vec::new(),
        json => v.take("requirements", requirement::from_json(json.as_bytes())).unwrap_or_default(),
    };
    // As they are offered: they may be written in fewer bytes.
    let bytes = serde_json::to_vec(&requirements).map_or(usize::MAX, |json| json.len());
    if bytes > REQUIREMENTS_MAX {
        v.add("requirements", format!("a job's requirements have at most {REQUIREMENTS_MAX} bytes as JSON, not {bytes}"));
    }
    requirements
}

/// What `CreateJob` and `RunJob` have in common: they have the same fields.
pub(super) fn create(r: &v1::CreateJobRequest) -> Result<jobs::Create, AppError> {
    let mut v = Violations::default();
    let bounds = [
        ("packages", r.packages.len(), limits::JOB_PACKAGES_MAX, r.terms.as_ref().is_some_and(|terms| terms.inventory)),
        ("destinations", r.destinations.len(), limits::JOB_TARGETS_MAX, !r.clients_where.is_empty()),
    ];
    for (field, len, max, may_be_none) in bounds {
        if (len == 0 && !may_be_none) || len > max {
            v.add(field, format!("has 1 to {max} entries, not {len}"));
        }
    }
    let packages = packages_of(&mut v, &r.packages);
    let destinations = destinations(&mut v, "destinations", &r.destinations);
    let exclusions = destinations_at_most(&mut v, "exclusions", &r.exclusions);
    v.text("description", &r.description, limits::DESCRIPTION_MAX);
    let priority = priority(&mut v, r.priority, 5);
    let expires = moment(&mut v, "expire_time", r.expire_time.as_ref());
    let replaces = if r.replaces.is_empty() { None } else { v.take("replaces", job_id(&r.replaces)) };
    let requirements = requirements(&mut v, &r.requirements);
    let terms = terms::read(&mut v, r.terms.as_ref());
    let alias = if r.alias.is_empty() { None } else { v.take("alias", r.alias.parse()) };
    v.done()?;
    Ok(jobs::Create {
        packages,
        destinations,
        description: r.description.clone(),
        priority,
        continue_on_failure: r.continue_on_failure,
        expires,
        replaces,
        condition: r.condition.clone(),
        requirements,
        terms,
        alias,
        exclusions,
        clients_where: r.clients_where.clone(),
    })
}

/// What changes a job.
pub(super) fn update(r: v1::UpdateJobRequest) -> Result<revise::Update, AppError> {
    let mut v = Violations::default();
    if let Some(text) = &r.description {
        v.text("description", text, limits::DESCRIPTION_MAX);
    }
    let priority = r.priority.map(|p| priority(&mut v, p, 5));
    let expires = moment(&mut v, "expire_time", r.expire_time.as_ref()).map(Some).or(r.never_expires.then_some(None));
    if r.never_expires && r.expire_time.is_some() {
        v.add("never_expires", "and expire_time say opposite things");
    }
    if r.packages.len() > limits::JOB_PACKAGES_MAX {
        v.add("packages", format!("has at most {} entries, not {}", limits::JOB_PACKAGES_MAX, r.packages.len()));
    }
    // Of the times what is given changes; the other terms are given whole.
    let mut given = r.terms.unwrap_or_default();
    let schedule = given.schedule.take().map(|wire| terms::schedule(&mut v, "terms.schedule", &wire));
    let input = revise::Update {
        packages: packages_of(&mut v, &r.packages),
        requirements: r.requirements.as_ref().map(|json| requirements(&mut v, json)),
        terms: terms::read(&mut v, Some(&given)),
        schedule,
        add_destinations: destinations_at_most(&mut v, "add_destinations", &r.add_destinations),
        remove_destinations: destinations_at_most(&mut v, "remove_destinations", &r.remove_destinations),
        add_exclusions: destinations_at_most(&mut v, "add_exclusions", &r.add_exclusions),
        remove_exclusions: destinations_at_most(&mut v, "remove_exclusions", &r.remove_exclusions),
        id: v.take("name", job_id(&r.name)),
        description: r.description,
        expires,
        priority,
        condition: r.condition,
        continue_on_failure: r.continue_on_failure,
        reset_terms: r.reset_terms,
        alias: match r.alias.as_deref() {
            None => None,
            Some("") => Some(None),
            Some(alias) => v.take("alias", alias.parse()).map(Some),
        },
        etag: r.etag,
    };
    v.done()?;
    Ok(input)
}

/// What is run again.
pub(super) fn retry(r: &v1::RetryJobRequest) -> Result<jobs::Retry, AppError> {
    let mut v = Violations::default();
    let mut kinds: Vec<RetryKind> =
        r.kinds.iter().enumerate().filter_map(|(n, k)| v.take(&format!("kinds[{n}]"), RetryKind::from_wire(*k)).flatten()).collect();
    if kinds.is_empty() {
        kinds = vec![RetryKind::Error, RetryKind::Communication];
    }
    let clients = r.clients.iter().enumerate().filter_map(|(n, c)| v.take(&format!("clients[{n}]"), client_id(c))).collect();
    let groups = r.groups.iter().enumerate().filter_map(|(n, g)| v.take(&format!("groups[{n}]"), group_name(g))).collect();
    let error_kind = if r.error_kind.is_empty() { None } else { v.take("error_kind", r.error_kind.parse::<ErrorKind>()) };
    let expires = moment(&mut v, "expire_time", r.expire_time.as_ref());
    let id = v.take("name", job_id(&r.name));
    let id = v.whole(id)?;
    Ok(jobs::Retry { id, kinds, clients, groups, error_kind, expires })
}

/// What is put back.
pub(super) fn rollback(r: v1::RollbackJobRequest) -> Result<rollback::Rollback, AppError> {
    let mut v = Violations::default();
    let id = v.take("name", job_id(&r.name));
    v.text("description", &r.description, limits::DESCRIPTION_MAX);
    let id = v.whole(id)?;
    Ok(rollback::Rollback { id, dry_run: r.dry_run, description: r.description })
}

fn states(v: &mut Violations, wire: &[i32]) -> Vec<ExecutionState> {
    wire.iter().enumerate().filter_map(|(n, s)| v.take(&format!("states[{n}]"), ExecutionState::from_wire(*s)).flatten()).collect()
}

#[async_trait]
impl v1::job_service_server::JobService for Services {
    async fn create_job(&self, request: Request<v1::CreateJobRequest>) -> Result<Response<v1::CreateJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CreateJob", &r)?;
        let input = create(&r)?;
        let answer = self.app.mutate(
            &caller,
            "create_job",
            body,
            input,
            |tx, env, i| Box::pin(jobs::create(tx, env, i)),
            |j| v1::CreateJobResponse { job: Some(shown::job(j)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn start_job(&self, request: Request<v1::StartJobRequest>) -> Result<Response<v1::StartJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "StartJob", &r)?;
        let id = id(&r.name)?;
        let started = self.start_or_wait(
            &caller,
            ("start_job", body, r.confirm),
            id,
            |tx, env, id| Box::pin(jobs::start(tx, env, id)),
            |_, _, id| Box::pin(async move { Ok((id.clone(), None)) }),
            |j| v1::StartJobResponse { job: Some(shown::job(j)) },
        );
        started.await.map(Response::new).map_err(status)
    }

    async fn run_job(&self, request: Request<v1::RunJobRequest>) -> Result<Response<v1::RunJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "RunJob", &r)?;
        if !r.plan.is_empty() {
            let job = self.run_plan(&operator, caller, body, r).await?;
            return Ok(Response::new(job));
        }
        let confirm = r.confirm;
        let input = create(&v1::CreateJobRequest {
            packages: r.packages,
            destinations: r.destinations,
            description: r.description,
            priority: r.priority,
            continue_on_failure: r.continue_on_failure,
            expire_time: r.expire_time,
            request_id: r.request_id,
            replaces: r.replaces,
            condition: r.condition,
            requirements: r.requirements,
            terms: r.terms,
            alias: r.alias,
            exclusions: r.exclusions,
            clients_where: r.clients_where,
        })?;
        let run = self.start_or_wait(
            &caller,
            ("run_job", body, confirm),
            input,
            |tx, env, i| Box::pin(jobs::run(tx, env, i)),
            |tx, env, i| Box::pin(async move { Ok((jobs::create(tx, env, i).await?.job.id, None)) }),
            |j| v1::RunJobResponse { job: Some(shown::job(j)) },
        );
        run.await.map(Response::new).map_err(status)
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let name = &request.get_ref().name;
        let alias = name.strip_prefix("jobs/").and_then(|alias| alias.parse::<JobAlias>().ok());
        let job = match alias {
            Some(alias) => self.app.view(&operator, "get_job", alias, |tx, env, alias| Box::pin(jobs::get_by_alias(tx, env, alias))).await,
            None => self.app.view(&operator, "get_job", id(name)?, |tx, env, id| Box::pin(jobs::get(tx, env, id))).await,
        };
        let job = job.map_err(status)?;
        Ok(Response::new(v1::GetJobResponse { job: Some(self.with_damaged(job).await?) }))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let (rows, next) = self
            .app
            .view(&operator, "list_jobs", (page, r.show_archived, r.waiting_for_approval), |tx, env, (p, archived, waiting)| {
                Box::pin(async move {
                    if *waiting { approvals::jobs_waiting(tx, env, p).await } else { jobs::list(tx, env, p, *archived).await }
                })
            })
            .await
            .map_err(status)?;
        let jobs = rows.into_iter().map(shown::job).collect();
        Ok(Response::new(v1::ListJobsResponse { jobs, next_page_token: next.unwrap_or_default() }))
    }

    async fn update_job(&self, request: Request<v1::UpdateJobRequest>) -> Result<Response<v1::UpdateJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "UpdateJob", &r)?;
        let caller = watched(
            caller,
            r.confirm,
            "JobService/UpdateJob",
            &v1::UpdateJobRequest { request_id: String::new(), confirm: 0, ..r.clone() },
        )?;
        let input = update(r)?;
        let answer = self.app.mutate(
            &caller,
            "update_job",
            body,
            input,
            |tx, env, i| Box::pin(revise::update(tx, env, i)),
            |j| v1::UpdateJobResponse { job: Some(shown::job(j)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Result<Response<v1::CancelJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CancelJob", &r)?;
        let answer = self.app.mutate(
            &caller,
            "cancel_job",
            body,
            id(&r.name)?,
            |tx, env, id| Box::pin(jobs::cancel(tx, env, id)),
            |j| v1::CancelJobResponse { job: Some(shown::job(j)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn pause_job(&self, request: Request<v1::PauseJobRequest>) -> Result<Response<v1::PauseJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "PauseJob", &r)?;
        let answer = self.app.mutate(
            &caller,
            "pause_job",
            body,
            id(&r.name)?,
            |tx, env, id| Box::pin(rollouts::pause(tx, env, id)),
            |j| v1::PauseJobResponse { job: Some(shown::job(j)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn resume_job(&self, request: Request<v1::ResumeJobRequest>) -> Result<Response<v1::ResumeJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ResumeJob", &r)?;
        let answer = self.app.mutate(
            &caller,
            "resume_job",
            body,
            id(&r.name)?,
            |tx, env, id| Box::pin(rollouts::resume(tx, env, id)),
            |j| v1::ResumeJobResponse { job: Some(shown::job(j)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn promote_job(&self, request: Request<v1::PromoteJobRequest>) -> Result<Response<v1::PromoteJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "PromoteJob", &r)?;
        let answer = self.app.mutate(
            &caller,
            "promote_job",
            body,
            rollouts::Promote { id: id(&r.name)?, all: r.all },
            |tx, env, i| Box::pin(rollouts::promote(tx, env, i)),
            |j| v1::PromoteJobResponse { job: Some(shown::job(j)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn abort_job(&self, request: Request<v1::AbortJobRequest>) -> Result<Response<v1::AbortJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "AbortJob", &r)?;
        let answer = self.app.mutate(
            &caller,
            "abort_job",
            body,
            id(&r.name)?,
            |tx, env, id| Box::pin(jobs::abort(tx, env, id)),
            |j| v1::AbortJobResponse { job: Some(shown::job(j)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn archive_job(&self, request: Request<v1::ArchiveJobRequest>) -> Result<Response<v1::ArchiveJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ArchiveJob", &r)?;
        let answer = self.app.mutate(
            &caller,
            "archive_job",
            body,
            id(&r.name)?,
            |tx, env, id| Box::pin(jobs::archive(tx, env, id)),
            |j| v1::ArchiveJobResponse { job: Some(shown::job(j)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn rollback_job(&self, request: Request<v1::RollbackJobRequest>) -> Result<Response<v1::RollbackJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "RollbackJob", &r)?;
        let caller = watched(
            caller,
            r.confirm,
            "JobService/RollbackJob",
            &v1::RollbackJobRequest { request_id: String::new(), confirm: 0, ..r.clone() },
        )?;
        let input = rollback(r)?;
        let answer = self.app.mutate(
            &caller,
            "rollback_job",
            body,
            input,
            |tx, env, i| Box::pin(rollback::rollback(tx, env, i)),
            |r| v1::RollbackJobResponse {
                job: r.job.map(shown::job),
                steps: r.steps.into_iter().map(shown::rollback_step).collect(),
                left: r.left,
                had_none: r.had_none,
            },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn retry_job(&self, request: Request<v1::RetryJobRequest>) -> Result<Response<v1::RetryJobResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "RetryJob", &r)?;
        let caller =
            watched(caller, r.confirm, "JobService/RetryJob", &v1::RetryJobRequest { request_id: String::new(), confirm: 0, ..r.clone() })?;
        let input = retry(&r)?;
        let answer = self.app.mutate(
            &caller,
            "retry_job",
            body,
            input,
            |tx, env, i| Box::pin(jobs::retry(tx, env, i)),
            |r| v1::RetryJobResponse { job: Some(shown::job(r.job)), retried: r.retried, offered_again: r.offered_again },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn list_executions(&self, request: Request<v1::ListExecutionsRequest>) -> Result<Response<v1::ListExecutionsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        let job = v.take("parent", job_id(&r.parent));
        let states = states(&mut v, &r.states);
        v.done()?;
        let job = parsed(job)?;
        let (rows, next) = self
            .app
            .view(&operator, "list_executions", (job, page, states), |tx, env, (job, page, states)| {
                Box::pin(jobs::rows(tx, env, job, page, states))
            })
            .await
            .map_err(status)?;
        let contact = self.contact();
        let executions = rows.into_iter().map(|row| shown::execution(row, &contact)).collect();
        Ok(Response::new(v1::ListExecutionsResponse { executions, next_page_token: next.unwrap_or_default() }))
    }

    async fn get_execution(&self, request: Request<v1::GetExecutionRequest>) -> Result<Response<v1::GetExecutionResponse>, Status> {
        let operator = self.operator(&request)?;
        let key = execution_name(&request.get_ref().name).map_err(|e| status(AppError::invalid("name", e)))?;
        let (row, attempts) = self
            .app
            .view(&operator, "get_execution", key, |tx, env, (job, client): &(JobId, ClientId)| {
                Box::pin(async move {
                    jobs::load(tx, env, job).await?;
                    let row = tx.execution(job, client).await?;
                    let row = row.ok_or_else(|| AppError::not_found("execution", format!("jobs/{job}/executions/{client}")))?;
                    let attempts = tx.attempts_of(job, client).await?;
                    let ids: Vec<_> = attempts.iter().map(|a| a.id.clone()).collect();
                    let logs = tx.logs_of(&ids).await?;
                    let of = |id: &AttemptId| logs.iter().filter(|part| part.attempt == *id).cloned().collect::<Vec<_>>();
                    let attempts: Vec<_> = attempts.into_iter().map(|attempt| (of(&attempt.id), attempt)).collect();
                    Ok((jobs::with_clients(tx, env, vec![row]).await?.pop(), attempts))
                })
            })
            .await
            .map_err(status)?;
        let contact = self.contact();
        Ok(Response::new(v1::GetExecutionResponse {
            execution: row.map(|row| shown::execution(row, &contact)),
            attempts: attempts.into_iter().map(|(parts, attempt)| logs::with_logs(attempt, parts)).collect(),
        }))
    }

    type ReadLogsStream = Pin<Box<dyn Stream<Item = Result<v1::ReadLogsResponse, Status>> + Send>>;

    async fn read_logs(&self, request: Request<v1::ReadLogsRequest>) -> Result<Response<Self::ReadLogsStream>, Status> {
        let operator = self.operator(&request)?;
        let request = request.into_inner();
        let mut v = Violations::default();
        let key = v.take("name", execution_name(&request.name));
        let number = v.take(
            "attempt",
            u32::try_from(request.attempt).map_err(|_| Invalid("1 or more; the newest that has logs unless given".into())),
        );
        v.done()?;
        let (key, number) = key.zip(number).ok_or_else(|| status(AppError::invalid("name", "is jobs/ID/executions/CLIENT")))?;
        let (attempt, parts) = self.logs(&operator, key, number).await?;
        let (sender, receiver) = mpsc::channel(1);
        let services = self.clone();
        tokio::spawn(async move {
            if let Err(status) = services.send_logs(&operator, &attempt, parts, &sender).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<v1::WatchJobResponse, Status>> + Send>>;

    async fn watch_job(&self, request: Request<v1::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let operator = self.operator(&request)?;
        let job = id(&request.get_ref().name)?;
        self.app.view(&operator, "get_job", job.clone(), |tx, env, id| Box::pin(jobs::load(tx, env, id))).await.map_err(status)?;
        let (sender, receiver) = mpsc::channel(4);
        let services = self.clone();
        tokio::spawn(async move {
            if let Err(status) = services.watch(operator, job, &sender).await {
                // Whoever watched may have gone.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Services {
    /// The job, with what of it is damaged.
    async fn with_damaged(&self, job: jobs::Shown) -> Result<v1::Job, Status> {
        let damaged = self.app.damaged_of_job(&job).await.map_err(status)?;
        Ok(v1::Job { damaged_versions: damaged.iter().map(packages::name_of).collect(), ..shown::job(job) })
    }

    /// Sends the job and the rows that changed, until it has ended and nothing is open, or nobody listens any more.
    async fn watch(
        &self,
        operator: Operator,
        job: JobId,
        sender: &mpsc::Sender<Result<v1::WatchJobResponse, Status>>,
    ) -> Result<(), Status> {
        let mut changed = self.app.live.watch_jobs();
        let (mut since, mut last) = (-1, None);
        loop {
            let (shown, rows) = self
                .app
                .view(&operator, "watch_job", (job.clone(), since), |tx, env, (job, since)| {
                    Box::pin(async move {
                        let rows = tx.executions_changed_since(job, *since, ROWS).await?;
                        Ok((jobs::get(tx, env, job).await?, jobs::with_clients(tx, env, rows).await?))
                    })
                })
                .await
                .map_err(status)?;
            let more = rows.len() as u32 >= ROWS;
            since = rows.iter().map(|r| r.execution.change).max().unwrap_or(since).max(since);
            let ended = matches!(shown.job.state, JobState::Completed | JobState::Canceled | JobState::Expired)
                && sutler_core::execution::all_ended(&shown.counts);
            let contact = self.contact();
            let executions: Vec<_> = rows.into_iter().map(|row| shown::execution(row, &contact)).collect();
            let wire = self.with_damaged(shown).await?;
            if last.as_ref() != Some(&wire) || !executions.is_empty() {
                last = Some(wire.clone());
                if sender.send(Ok(v1::WatchJobResponse { job: Some(wire), executions })).await.is_err() {
                    return Ok(());
                }
            }
            if more {
                continue;
            }
            if ended {
                return Ok(());
            }
            tokio::select! {
                () = sender.closed() => return Ok(()),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = told(&mut changed, &job) => tokio::time::sleep(GATHER).await,
            }
        }
    }
}

/// Waits until this job changed, or so much did that it may have been among it.
async fn told(changed: &mut tokio::sync::broadcast::Receiver<JobId>, job: &JobId) {
    loop {
        match changed.recv().await {
            Ok(id) if id == *job => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            // The manager ends; the stream will be cut by it.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
