//! Who is offered what, where much is queued.

use super::{BATCH, orders};
use crate::app::outcomes::tests::{client, job, manager};
use jiff::SignedDuration;
use std::collections::BTreeMap;
use sutler_base::{ClientId, state::ExecutionState};
use sutler_certs::PrivateKey;
use sutler_core::model::{Job, Target};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_offered_yet_keeps_nothing_from_others_however_much_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app().clone();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(client(&app, &PrivateKey::generate().unwrap()).await);
    }
    // More than is looked at together is for agents that know no times, and waits for its own; one, the last in turn, does not.
    let mut jobs = Vec::new();
    for _ in 0..=BATCH / 2 {
        let mut later = job(&app);
        later.terms.schedule.start = later.created.checked_add(SignedDuration::from_hours(1)).ok();
        jobs.push(later);
    }
    let now = Job { priority: 9, ..job(&app) };
    jobs.push(now.clone());
    app.change("manager", "jobs", (jobs, clients.clone()), |tx, env, (jobs, clients)| {
        Box::pin(async move {
            for job in jobs {
                let targets: Vec<Target> = clients.iter().cloned().map(Target::Client).collect();
                tx.insert_job(job, &[], &targets).await?;
                tx.insert_executions(&job.id, clients, env.now).await?;
            }
            Ok(())
        })
    })
    .await
    .unwrap();
    let sessions: BTreeMap<ClientId, u64> = clients.iter().map(|c| (c.clone(), 0)).collect();
    let told = app
        .change("manager", "orders", (sessions, BTreeMap::new()), |tx, env, (sessions, known)| Box::pin(orders(tx, env, sessions, known)))
        .await
        .unwrap();
    for client in &clients {
        let offers: Vec<_> = told[client].offers.iter().map(|offer| offer.job.clone()).collect();
        assert_eq!(offers, std::slice::from_ref(&now.id), "of {client}");
    }
    let rows = app.view("manager", "rows", (now.id, clients), |tx, _env, (job, clients)| {
        let keys: Vec<_> = clients.iter().map(|c| (job.clone(), c.clone())).collect();
        Box::pin(async move { Ok(tx.executions(&keys).await?) })
    });
    assert!(rows.await.unwrap().iter().all(|row| row.state == ExecutionState::Offered));
    manager.stop().await;
}
