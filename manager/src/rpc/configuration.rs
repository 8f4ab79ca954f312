//! `ConfigurationService`.

use super::{Services, approvals::watched, caller, groups, jobs, policies, questions, status, terms, windows};
use crate::{
    app::{
        self, AppError, Violations,
        configuration::{self, Applied, Apply, Change, NamedJob, Object},
    },
    documents,
};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{limits, state::JobState};
use sutler_proto::{
    convert::{VersionChoice, Word, wire_rule, wire_time},
    v1::{self, configuration_object::Object as Wire},
};
use tonic::{Request, Response, Status, async_trait};

/// The objects of a request; everything that is wrong with any of them is said at once.
fn objects(wire: &[v1::ConfigurationObject], prune: bool) -> Result<Vec<Object>, AppError> {
    let mut v = Violations::default();
    // A folder that was not there, most likely.
    if prune && wire.is_empty() {
        v.add("objects", "is empty, and with prune all that files put there would go; to have that, keep one object, such as a group");
    }
    if wire.len() > limits::CONFIGURATION_MAX {
        v.add("objects", format!("has at most {} entries, not {}", limits::CONFIGURATION_MAX, wire.len()));
    }
    let (mut objects, mut seen) = (Vec::new(), BTreeSet::new());
    for (n, one) in wire.iter().enumerate().take(limits::CONFIGURATION_MAX) {
        match object(one) {
            Ok(object) => {
                let name = format!("{}/{}", object.kind().collection(), object.name());
                if !seen.insert(name.clone()) {
                    v.add(&format!("objects[{n}].{}", object.kind().word()), format!("{name} is among the objects twice"));
                }
                objects.push(object);
            }
            Err(AppError::Invalid(all)) => {
                for violation in all {
                    v.add(&format!("objects[{n}].{}", violation.field), violation.description);
                }
            }
            Err(other) => return Err(other),
        }
    }
    v.done()?;
    Ok(objects)
}

/// What is applied.
pub(super) fn apply(r: &v1::ApplyConfigurationRequest) -> Result<Apply, AppError> {
    Ok(Apply { objects: objects(&r.objects, r.prune)?, prune: r.prune, etag: r.etag.clone() })
}

/// One object; a violation has its path in the object.
fn object(wire: &v1::ConfigurationObject) -> Result<Object, AppError> {
    let mut v = Violations::default();
    let state = v.take("state", JobState::from_wire(wire.state)).flatten();
    if !matches!(state, None | Some(JobState::Draft)) {
        v.add("state", "is DRAFT for a job that is not to be started, and not given for any other");
    }
    if state.is_some() && !matches!(wire.object, Some(Wire::Job(_))) {
        v.add("state", "is for jobs");
    }
    v.done()?;
    let within = |kind: &str, error: AppError| match error {
        AppError::Invalid(all) => {
            AppError::Invalid(all.into_iter().map(|v| app::Violation { field: format!("{kind}.{}", v.field), ..v }).collect())
        }
        other => other,
    };
    let not_here = |field: &str, value: &str| match value {
        "" => Ok(()),
        _ => Err(AppError::invalid(field, "can't stand in a configuration")),
    };
    match &wire.object {
        None => Err(AppError::invalid("object", "is not given, or of a kind that this manager does not know")),
        Some(Wire::Group(r)) => {
            let parsed = not_here("request_id", &r.request_id)
                .and_then(|()| match r.join_password.as_str() {
                    "" => Ok(()),
                    _ => Err(AppError::invalid("join_password", "is a secret; give it to the group with `group update`")),
                })
                .and_then(|()| groups::create(r));
            parsed.map(Object::Group).map_err(|e| within("group", e))
        }
        Some(Wire::Policy(r)) => {
            let confirm = if r.confirm == 0 { "" } else { "given" };
            let parsed =
                not_here("request_id", &r.request_id).and_then(|()| not_here("confirm", confirm)).and_then(|()| policies::create(r));
            parsed.map(Object::Policy).map_err(|e| within("policy", e))
        }
        Some(Wire::Window(r)) => {
            not_here("request_id", &r.request_id).and_then(|()| windows::create(r)).map(Object::Window).map_err(|e| within("window", e))
        }
        Some(Wire::Question(r)) => {
            let parsed = not_here("request_id", &r.request_id).and_then(|()| questions::create(r));
            parsed.map(Object::Question).map_err(|e| within("question", e))
        }
        Some(Wire::Job(r)) => {
            let parsed = not_here("request_id", &r.request_id).and_then(|()| not_here("replaces", &r.replaces)).and_then(|()| {
                let order = jobs::create(r)?;
                if order.alias.is_none() {
                    return Err(AppError::invalid("alias", "is needed, so that the job is known again"));
                }
                Ok(Object::Job(Box::new(NamedJob { order, draft: state == Some(JobState::Draft) })))
            });
            parsed.map_err(|e| within("job", e))
        }
    }
}

/// An object as the request that makes it.
fn wire(object: &Object) -> v1::ConfigurationObject {
    let mut state = v1::JobState::Unspecified;
    let object = match object.clone() {
        Object::Group(g) => {
            let app::groups::Create { name, description, restricted, join_mode, join_hash: _ } = g;
            Wire::Group(v1::CreateGroupRequest {
                group_id: name.to_string(),
                description,
                restricted,
                join_mode: join_mode.to_wire(),
                ..Default::default()
            })
        }
        Object::Policy(p) => {
            let app::policies::Create { name, group, trigger, condition, applies_to, on_mismatch, description } = p;
            Wire::Policy(v1::CreatePolicyRequest {
                policy_id: name.to_string(),
                group: format!("groups/{group}"),
                trigger: trigger.to_wire(),
                condition,
                applies_to: applies_to.to_wire(),
                on_mismatch: on_mismatch.to_wire(),
                description,
                request_id: String::new(),
                confirm: 0,
            })
        }
        Object::Window(w) => {
            let app::windows::Create { name, group, hours, description } = w;
            Wire::Window(v1::CreateWindowRequest {
                window_id: name.to_string(),
                group: format!("groups/{group}"),
                hours: Some(windows::wire_hours(&hours)),
                description,
                request_id: String::new(),
            })
        }
        Object::Question(q) => {
            let app::questions::Create { name, prompt, rule } = q;
            Wire::Question(v1::CreateQuestionRequest {
                question_id: name.to_string(),
                prompt,
                rule: Some(wire_rule(&rule)),
                request_id: String::new(),
            })
        }
        Object::Job(j) => {
            if j.draft {
                state = v1::JobState::Draft;
            }
            Wire::Job(order(j.order))
        }
    };
    v1::ConfigurationObject { object: Some(object), state: state.into() }
}

fn order(order: app::jobs::Create) -> v1::CreateJobRequest {
    let app::jobs::Create {
        packages,
        destinations,
        description,
        priority,
        continue_on_failure,
        expires,
        replaces: _,
        condition,
        requirements,
        terms,
        alias,
        exclusions,
        clients_where,
    } = order;
    let package = |p: app::jobs::Wanted| {
        let app::jobs::Wanted { package, version, replace_always, intent, values } = p;
        v1::JobPackage {
            package: match version {
                VersionChoice::Newest => format!("packages/{package}"),
                VersionChoice::Latest => format!("packages/{package}/versions/latest"),
                VersionChoice::Exact(version) => format!("packages/{package}/versions/{version}"),
            },
            replace: if replace_always { v1::Replace::Always } else { v1::Replace::IfMissing }.into(),
            intent: intent.to_wire(),
            values: values.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
            ..Default::default()
        }
    };
    let destination = |d: app::jobs::Destination| match d {
        app::jobs::Destination::Group(name) => format!("groups/{name}"),
        app::jobs::Destination::Client(id) => format!("clients/{id}"),
    };
    v1::CreateJobRequest {
        packages: packages.into_iter().map(package).collect(),
        destinations: destinations.into_iter().map(destination).collect(),
        description,
        priority: priority.into(),
        continue_on_failure,
        expire_time: expires.map(wire_time),
        request_id: String::new(),
        replaces: String::new(),
        condition,
        requirements: if requirements.is_empty() { String::new() } else { serde_json::to_string(&requirements).unwrap_or_default() },
        terms: Some(terms::shown(&terms)),
        alias: alias.map(|alias| alias.to_string()).unwrap_or_default(),
        exclusions: exclusions.into_iter().map(destination).collect(),
        clients_where,
    }
}

fn applied(applied: Applied) -> v1::ApplyConfigurationResponse {
    let Applied { changes, adopted, etag } = applied;
    v1::ApplyConfigurationResponse { changes: changes.into_iter().map(change).collect(), adopted, etag }
}

/// A change, field by field, in the words of files.
fn change(change: Change) -> v1::ConfigurationChange {
    let fields = |object: &Option<Object>| object.as_ref().map(|o| documents::fields(&wire(o))).unwrap_or_default();
    let (old, new) = (fields(&change.before), fields(&change.after));
    let action = match (&change.before, &change.after) {
        (None, _) => v1::ChangeAction::Create,
        (_, None) => v1::ChangeAction::Delete,
        _ => v1::ChangeAction::Update,
    };
    let mut fields = Vec::new();
    if action != v1::ChangeAction::Delete {
        let (mut old, order): (BTreeMap<_, _>, Vec<_>) = (old.iter().cloned().collect(), old.into_iter().map(|(name, _)| name).collect());
        for (field, new_value) in new {
            let old_value = old.remove(&field).unwrap_or_default();
            if old_value != new_value {
                fields.push(v1::FieldChange { field, old_value, new_value });
            }
        }
        for field in order {
            if let Some(old_value) = old.remove(&field) {
                fields.push(v1::FieldChange { field, old_value, new_value: String::new() });
            }
        }
    }
    v1::ConfigurationChange { action: action.into(), object: change.name(), fields, note: change.note }
}

#[async_trait]
impl v1::configuration_service_server::ConfigurationService for Services {
    async fn apply_configuration(
        &self,
        request: Request<v1::ApplyConfigurationRequest>,
    ) -> Result<Response<v1::ApplyConfigurationResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ApplyConfiguration", &r)?;
        let input = apply(&r)?;
        let kept = v1::ApplyConfigurationRequest { request_id: String::new(), confirm: 0, ..r.clone() };
        let caller = watched(caller, r.confirm, "ConfigurationService/ApplyConfiguration", &kept)?;
        let answer = if r.validate_only {
            let input = Apply { etag: String::new(), ..input };
            let plan = self.app.rehearse(&operator, "plan_configuration", input, |tx, env, i| Box::pin(configuration::apply(tx, env, i)));
            plan.await.map(applied)
        } else {
            let run = self.app.mutate(
                &caller,
                "apply_configuration",
                body,
                input,
                |tx, env, i| Box::pin(configuration::apply(tx, env, i)),
                applied,
            );
            run.await
        };
        answer.map(Response::new).map_err(status)
    }

    async fn export_configuration(
        &self,
        request: Request<v1::ExportConfigurationRequest>,
    ) -> Result<Response<v1::ExportConfigurationResponse>, Status> {
        let operator = self.operator(&request)?;
        let read = self.app.view(&operator, "export_configuration", (), |tx, env, ()| Box::pin(configuration::export(tx, env)));
        let (objects, unnamed) = read.await.map_err(status)?;
        Ok(Response::new(v1::ExportConfigurationResponse {
            objects: objects.iter().map(wire).collect(),
            unnamed_jobs: unnamed.iter().map(|id| format!("jobs/{id}")).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::DescriptorPool;

    /// Fields of a job that say how it is, and are nobody's wish.
    const OUTPUT_ONLY: &[&str] = &[
        "name",
        "state",
        "counters",
        "creator",
        "create_time",
        "start_time",
        "end_time",
        "revision",
        "archived",
        "unavailable",
        "canceling",
        "etag",
        "unavailable_soon",
        "damaged_versions",
        "rollout",
        "rolls_back",
        "drift_count",
        "held_back",
        "approval",
    ];

    #[test]
    fn a_field_of_a_job_is_carried_by_files_or_only_says_how_it_is() {
        let pool = DescriptorPool::decode(sutler_proto::DESCRIPTORS).unwrap();
        let message = |name: &str| pool.get_message_by_name(&format!("sutler.v1.{name}")).unwrap();
        for (shown, made) in [
            ("Job", "CreateJobRequest"),
            ("Group", "CreateGroupRequest"),
            ("Policy", "CreatePolicyRequest"),
            ("Question", "CreateQuestionRequest"),
            ("Window", "CreateWindowRequest"),
        ] {
            for field in message(shown).fields() {
                let common = ["name", "uid", "member_count", "create_time", "etag"].contains(&field.name());
                let carried = message(made).get_field_by_name(field.name()).is_some_and(|f| documents::is_carried(&f));
                let only_output = OUTPUT_ONLY.contains(&field.name()) || common;
                assert!(carried != only_output, "{}: files carry it, or it only says how something is", field.full_name());
            }
        }
    }
}
