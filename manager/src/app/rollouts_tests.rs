//! Who is let go, and when.

use crate::{
    app::{
        jobs,
        outcomes::tests::{client, job, manager},
    },
    live::Arrival,
};
use std::collections::BTreeSet;
use sutler_base::state::{ClientState, HoldReason, JobState};
use sutler_certs::PrivateKey;
use sutler_core::model::{Job, Target};
use tokio::sync::mpsc;

/// An agent that can nothing but what all can.
fn arrival() -> Arrival {
    Arrival {
        serial: "1".into(),
        counter: 1,
        state: ClientState::Active,
        can: Default::default(),
        shelf: vec![],
        unsettled: BTreeSet::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_a_small_job_go_as_soon_as_it_is_ordered_and_only_where_they_are_in_contact() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app().clone();
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(client(&app, &PrivateKey::generate().unwrap()).await);
    }
    let (outbox, _inbox) = mpsc::channel(8);
    let numbers: Vec<u64> = clients.iter().map(|id| app.live.enter(id, arrival(), outbox.clone()).0).collect();
    // One is gone again.
    app.live.leave(&clients[0], numbers[0], app.world.now());
    let draft = Job { state: JobState::Draft, started: None, ..job(&app) };
    assert!(!draft.terms.rollout.stages().is_empty(), "it is rolled out in stages unless somebody says otherwise");
    // Seen in the unit that starts it: whatever is let go later is let go by another one.
    let rows = app.change("operators/ann", "start", (draft, clients.clone()), |tx, env, (draft, clients)| {
        Box::pin(async move {
            let targets: Vec<Target> = clients.iter().cloned().map(Target::Client).collect();
            tx.insert_job(draft, &[], &targets).await?;
            jobs::activate(tx, env, draft.clone()).await?;
            let woken = env.wakes().clients.clone();
            let mut rows = Vec::new();
            for client in clients {
                rows.extend(tx.executions(&[(draft.id.clone(), client.clone())]).await?);
            }
            Ok((rows, woken))
        })
    });
    let (rows, woken) = rows.await.unwrap();
    let holds: Vec<_> = rows.iter().map(|row| (row.hold, row.stage)).collect();
    assert_eq!(holds, [(Some(HoldReason::Stage), 0), (None, 1)]);
    assert_eq!(woken, BTreeSet::from([clients[1].clone()]));
    manager.stop().await;
}
