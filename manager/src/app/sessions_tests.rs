//! Who is let in, where many say hello in one moment.

use super::*;
use crate::app::outcomes::tests::{client, manager};
use sutler_certs::PrivateKey;

/// What the only machine of a client says the `counter`th time.
fn hello(client: &ClientId, serial: &str, counter: u64) -> Arc<Hello> {
    Arc::new(Hello {
        client: client.clone(),
        serial: serial.into(),
        machine_id: format!("machine-{client}"),
        boot_id: "boot".into(),
        session_counter: counter,
        agent_version: "1".into(),
        facts_digest: None,
        address: "127.0.0.1".into(),
        open: BTreeMap::new(),
        capabilities: vec![],
        journal_lost: false,
        agent_time: None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_that_come_together_are_each_what_they_are_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app().clone();
    let mut all = Vec::new();
    for _ in 0..3 {
        let id = client(&app, &PrivateKey::generate().unwrap()).await;
        // As an agent that has used its certificate, on a machine that nobody knows yet.
        let serial = app
            .change("manager", "use", id.clone(), |tx, env, id| {
                Box::pin(async move {
                    let subject = Subject::Client(id.clone());
                    let serial = tx.certificates_of(&subject).await?.remove(0).serial;
                    enrolment::first_use(tx, env, &subject, &serial).await?;
                    let mut client = tx.client(id).await?.expect("it has enrolled");
                    client.machine_id = format!("machine-{id}");
                    tx.save_client(&client).await?;
                    Ok(serial)
                })
            })
            .await
            .unwrap();
        all.push((id, serial));
    }
    let of = |n: usize, counter| hello(&all[n].0, &all[n].1, counter);
    let hellos = vec![
        of(0, 5),
        // With another one's certificate.
        hello(&all[1].0, &all[2].1, 1),
        // The same again is a copy: the counter was used a moment ago.
        of(0, 5),
        of(1, 1),
        of(2, 1),
        // And this is the machine itself, once more.
        of(2, 2),
    ];
    let said = app.change("manager", "open_session", hellos, |tx, env, hellos| Box::pin(open(tx, env, hellos))).await.unwrap();
    let states: Vec<_> = said.iter().map(|said| said.as_ref().ok().map(|welcome| welcome.client.state)).collect();
    let (active, quarantined) = (Some(ClientState::Active), Some(ClientState::Quarantined));
    assert_eq!(states, [active, None, quarantined, active, active, active], "{said:?}");
    let refused = said[1].as_ref().unwrap_err();
    assert!(matches!(refused, AppError::Unauthenticated { reason: enrolment::UNKNOWN_CERTIFICATE, .. }), "{refused:?}");

    let ids: Vec<ClientId> = all.iter().map(|(id, _)| id.clone()).collect();
    let read = app.view("manager", "clients", ids, |tx, _env, ids| Box::pin(async move { Ok(tx.clients(ids).await?) })).await.unwrap();
    let kept = |n: usize| read.iter().find(|client| client.id == all[n].0).map(|client| (client.state, client.session_counter)).unwrap();
    assert_eq!([kept(0), kept(1), kept(2)], [(ClientState::Quarantined, 5), (ClientState::Active, 1), (ClientState::Active, 2)]);
    manager.stop().await;
}
