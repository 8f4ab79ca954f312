//! What counts as the outcome of an attempt.

use super::{Recorded, Report, record};
use crate::{
    app::{
        App,
        enrolment::{Application, ApplicationResult, enroll},
        tokens,
    },
    config::{Config, Overrides, TelemetryAt},
    folder::Folder,
    init::{self, InitOptions},
    live::workers::Pace,
    serve::Manager,
    world::World,
};
use std::{path::Path, sync::Arc};
use sutler_base::{
    AttemptId, ClientId,
    outcome::{Outcome, SIGNING_CONTEXT},
    state::{ExecutionState, JobState, Purpose},
    token::TokenString,
};
use sutler_certs::PrivateKey;
use sutler_core::model::{Attempt, Job, Target};

/// A manager with its data below this folder.
pub(crate) async fn manager(folder: &Path) -> Manager {
    let data = folder.join("data");
    let hosts = vec!["127.0.0.1".parse().unwrap()];
    let config = folder.join("config");
    let options = InitOptions::new(data.clone(), "acme.example".parse().unwrap(), hosts, "ann".parse().unwrap(), config);
    init::init(&options, &World::system()).await.unwrap();
    let any = Some("127.0.0.1:0".parse().unwrap());
    let overrides = Overrides { agents: any, operators: any, telemetry: Some(TelemetryAt::Off), ..Overrides::default() };
    let config = Config::load(Folder::new(data), &overrides).unwrap();
    Manager::start(&config, World::system(), Pace::default()).await.unwrap()
}

/// A client that is enrolled with this key.
pub(crate) async fn client(app: &Arc<App>, key: &PrivateKey) -> ClientId {
    let create = tokens::Create {
        count: 1,
        uses: 1,
        ttl: jiff::SignedDuration::from_hours(1),
        networks: vec![],
        expected: vec![],
        groups: vec![],
        labels: Default::default(),
        replaces: None,
        description: String::new(),
        root_pin: app.ca().root_pin().0,
    };
    let made = app.change("operators/ann", "token", create, |tx, env, i| Box::pin(tokens::create(tx, env, i))).await.unwrap();
    let token = TokenString::parse(&made[0].1).unwrap();
    let application = Application {
        token: token.id,
        secret: token.secret.to_vec(),
        key: key.public_key().clone(),
        hostname: "pc1".into(),
        machine_id: key.public_key().sha256().map(|b| format!("{b:02x}")).concat(),
        agent_version: "1".into(),
        address: "127.0.0.1".parse().unwrap(),
    };
    let ca = app.ca();
    let enrolled = app.change("tokens/x", "enroll", (application, ca), |tx, env, (a, ca)| Box::pin(enroll(tx, env, ca, a))).await.unwrap();
    let ApplicationResult::Enrolled(enrolled) = enrolled else { panic!("a good token was refused") };
    enrolled.client.id
}

/// An active job with nothing in it.
pub(crate) fn job(app: &Arc<App>) -> Job {
    let now = app.world.now();
    Job {
        id: app.world.job_id(),
        state: JobState::Active,
        description: String::new(),
        priority: 5,
        continue_on_failure: false,
        expires: None,
        creator: "ann".into(),
        created: now,
        started: Some(now),
        ended: None,
        revision: 1,
        archived: false,
        replaces: None,
        condition: String::new(),
        requirements: vec![],
        clients_where: String::new(),
        rolls_back: None,
        terms: Default::default(),
        change: 0,
    }
}

/// An attempt of a job on `client` that its agent has accepted.
async fn attempt(app: &Arc<App>, client: &ClientId) -> AttemptId {
    let (id, now, job) = (app.world.attempt_id(), app.world.now(), job(app));
    let attempt = Attempt {
        id: id.clone(),
        job: job.id.clone(),
        client: client.clone(),
        number: 1,
        revision: 1,
        purpose: Purpose::Order,
        state: ExecutionState::Installing,
        created: now,
        ended: None,
        outcome: vec![],
        signature: vec![],
    };
    app.change("manager", "attempt", (job, attempt), |tx, env, (job, attempt)| {
        Box::pin(async move {
            tx.insert_job(job, &[], &[Target::Client(attempt.client.clone())]).await?;
            tx.insert_executions(&job.id, std::slice::from_ref(&attempt.client), env.now).await?;
            Ok(tx.insert_attempts(std::slice::from_ref(attempt)).await?)
        })
    })
    .await
    .unwrap();
    id
}

fn report(app: &Arc<App>, client: &ClientId, attempt: &AttemptId, state: ExecutionState, key: &PrivateKey) -> Report {
    let outcome = Outcome { attempt: attempt.clone(), client: client.clone(), state, items: vec![], finished: app.world.now() };
    let bytes = outcome.to_bytes();
    let signature = key.sign(SIGNING_CONTEXT, &bytes).unwrap();
    Report { client: client.clone(), attempt: attempt.clone(), outcome: bytes, signature, job: None, purpose: None }
}

async fn send_all(app: &Arc<App>, reports: Vec<Report>) -> Vec<Recorded> {
    app.change("manager", "outcome", reports, |tx, env, reports| Box::pin(record(tx, env, reports))).await.unwrap()
}

async fn send(app: &Arc<App>, report: Report) -> Recorded {
    send_all(app, vec![report]).await.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_client_itself_signed_is_an_outcome_and_the_first_one_stands() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app().clone();

    let (key, other_key) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let (one, other) = (client(&app, &key).await, client(&app, &other_key).await);
    let id = attempt(&app, &one).await;
    let recorded = async || {
        let read = app.view("manager", "attempt", id.clone(), |tx, _env, id| Box::pin(async move { Ok(tx.attempt(id).await?) }));
        read.await.unwrap().unwrap()
    };

    let forged = report(&app, &one, &id, ExecutionState::Succeeded, &other_key);
    assert!(send(&app, forged).await.unwrap_err().contains("not signed"));
    let of_another = report(&app, &other, &id, ExecutionState::Succeeded, &other_key);
    assert!(send(&app, of_another).await.unwrap_err().contains("no such attempt"));
    let mut names_another = report(&app, &other, &id, ExecutionState::Succeeded, &key);
    names_another.client = one.clone();
    assert!(send(&app, names_another).await.unwrap_err().contains("another attempt or client"));
    assert!(recorded().await.outcome.is_empty(), "a refused outcome leaves nothing");

    let failed = report(&app, &one, &id, ExecutionState::Failed, &key);
    send(&app, failed.clone()).await.unwrap();
    send(&app, failed.clone()).await.expect("the same again: its answer was lost");
    let changed = report(&app, &one, &id, ExecutionState::Succeeded, &key);
    assert!(send(&app, changed).await.unwrap_err().contains("it stands"));
    assert_eq!(recorded().await.outcome, failed.outcome);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_come_together_are_each_what_they_are_alone() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app().clone();
    let keys: Vec<PrivateKey> = (0..4).map(|_| PrivateKey::generate().unwrap()).collect();
    let mut all = Vec::new();
    for key in &keys {
        let client = client(&app, key).await;
        all.push((client.clone(), attempt(&app, &client).await));
    }
    let of = |n: usize, state, key: usize| report(&app, &all[n].0, &all[n].1, state, &keys[key]);
    let first = of(0, ExecutionState::Succeeded, 0);
    let reports = vec![
        first.clone(),
        of(1, ExecutionState::Failed, 1),
        // Its key is another client's.
        of(2, ExecutionState::Succeeded, 3),
        // The first of an attempt stands, also of two that come in one go, and the same again is fine.
        of(0, ExecutionState::Failed, 0),
        first.clone(),
        of(3, ExecutionState::AlreadyInstalled, 3),
    ];
    let said = send_all(&app, reports).await;
    let refused: Vec<bool> = said.iter().map(Result::is_err).collect();
    assert_eq!(refused, [false, false, true, true, false, false], "{said:?}");

    let ids: Vec<AttemptId> = all.iter().map(|(_, id)| id.clone()).collect();
    let read = app.view("manager", "attempts", ids, |tx, _env, ids| Box::pin(async move { Ok(tx.attempts(ids).await?) })).await.unwrap();
    let state = |n: usize| read.iter().find(|a| a.id == all[n].1).map(|a| (a.state, a.outcome.is_empty())).unwrap();
    assert_eq!(state(0), (ExecutionState::Succeeded, false));
    assert_eq!(state(1), (ExecutionState::Failed, false));
    assert_eq!(state(2), (ExecutionState::Installing, true), "a refused outcome leaves nothing");
    assert_eq!(state(3), (ExecutionState::AlreadyInstalled, false));
    let recorded = read.iter().find(|a| a.id == all[0].1).unwrap();
    assert_eq!((&recorded.outcome, &recorded.signature), (&first.outcome, &first.signature), "what was signed is kept as it came");
    manager.stop().await;
}
