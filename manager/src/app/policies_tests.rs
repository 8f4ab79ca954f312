//! Policies that are applied while something changes.

use super::*;
use crate::app::{
    clients::{self, LabelChange},
    outcomes::tests::{client, manager},
};
use sutler_certs::PrivateKey;

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_clients_were_read_is_seen_when_they_are_registered() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app();
    let who = Who::from("operators/ann");
    let [stays, goes] = [client(app, &PrivateKey::generate().unwrap()).await, client(app, &PrivateKey::generate().unwrap()).await];
    let label = async |id: &ClientId, site: &str| {
        let set = [("site".parse().unwrap(), site.to_owned())].into();
        let changes = vec![LabelChange { client: id.clone(), set, unset: vec![] }];
        app.change("operators/ann", "set_labels", changes, |tx, env, changes| Box::pin(clients::set_labels(tx, env, changes)))
            .await
            .unwrap()
    };
    label(&stays, "berlin").await;
    label(&goes, "berlin").await;
    let group = groups::Create {
        name: "berlin".parse().unwrap(),
        description: String::new(),
        restricted: false,
        join_mode: JoinMode::Closed,
        join_hash: None,
    };
    let policy = Create {
        name: "berlin".parse().unwrap(),
        group: group.name.clone(),
        trigger: Trigger::NewClient,
        condition: "labels.site == \"berlin\"".into(),
        applies_to: AppliesTo::NewOnly,
        on_mismatch: OnMismatch::Keep,
        description: String::new(),
    };
    let names = [policy.name.clone()];
    let made = app.change("operators/ann", "make", (group, policy), |tx, env, (group, policy)| {
        Box::pin(async move {
            groups::create(tx, env, group).await?;
            create(tx, env, policy).await
        })
    });
    made.await.unwrap();
    let register = async |found: Found| app.change("operators/ann", "apply", found, |tx, env, found| Box::pin(apply(tx, env, found))).await;

    let found = find(app, &who, &names).await.unwrap();
    assert_eq!(found.clients[0].len(), 2, "{stays} and {goes} match");
    label(&goes, "paris").await;
    let applied = register(found).await.unwrap();
    assert_eq!(applied, [Applied { policy: names[0].clone(), matched: 1, added: 1 }]);

    // What clients were shown to is not what is applied.
    let found = find(app, &who, &names).await.unwrap();
    let condition = Some("labels.site == \"paris\"".to_owned());
    let update = Update { name: names[0].clone(), condition, applies_to: None, on_mismatch: None, description: None, etag: String::new() };
    let updated = app.change("operators/ann", "update", update, |tx, env, input| Box::pin(super::update(tx, env, input)));
    updated.await.unwrap();
    assert!(matches!(register(found).await, Err(AppError::Stale(_))));
    manager.stop().await;
}
