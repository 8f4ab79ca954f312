//! What operators say of clients.

use super::*;
use crate::app::outcomes::tests::{client, manager};
use sutler_certs::PrivateKey;

#[tokio::test(flavor = "multi_thread")]
async fn however_many_changes_of_labels_there_are_each_goes_by_the_one_before_and_one_that_is_no_good_undoes_all() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app();
    let [one, other] = [client(app, &PrivateKey::generate().unwrap()).await, client(app, &PrivateKey::generate().unwrap()).await];
    let set = |client: &ClientId, value: u32| LabelChange {
        client: client.clone(),
        set: [("n".parse().unwrap(), value.to_string())].into(),
        unset: vec![],
    };
    let label = async |changes: Vec<LabelChange>| {
        app.change("operators/ann", "set_labels", changes, |tx, env, changes| Box::pin(set_labels(tx, env, changes))).await
    };
    let shown = async |id: &ClientId| {
        let read = app.view("manager", "look", id.clone(), |tx, _env, id| Box::pin(load(tx, id))).await.unwrap();
        read.labels.into_values().collect::<Vec<_>>()
    };
    // More than are looked at together, and the same clients in each part.
    let most = 2 * inventory::TOGETHER + 1;
    let changes = (0..most).map(|n| set(if n % 2 == 0 { &one } else { &other }, n)).collect();
    assert_eq!(label(changes).await.unwrap(), most as i32);
    assert_eq!((shown(&one).await, shown(&other).await), (vec![(most - 1).to_string()], vec![(most - 2).to_string()]));

    let mut changes: Vec<_> = (0..most).map(|n| set(&one, n)).collect();
    changes.push(set(&ClientId::from_random([9; 16]), 0));
    let refused = label(changes).await.unwrap_err();
    assert!(matches!(&refused, AppError::Invalid(v) if v.len() == 1 && v[0].field == format!("changes[{most}].client")), "{refused:?}");
    assert_eq!(shown(&one).await, [(most - 1).to_string()]);
    manager.stop().await;
}
