//! Who waits for whom where a fleet asks at once.

use super::*;
use crate::app::outcomes::tests::manager;
use std::time::Duration;
use sutler_store::CONNECTIONS;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_in_a_crowd_keep_no_operator_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app().clone();
    // More of them than the database has connections, and none is done before it may be.
    let (begun, done) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let ask = |n: u32| {
        let (app, turns) = (app.clone(), (begun.clone(), done.clone()));
        tokio::spawn(async move {
            let client = format!("clients/{n}");
            let asked = app.view(client.as_str(), "ask", turns, |tx, _, (begun, done)| {
                Box::pin(async move {
                    tx.windows_revision().await?;
                    begun.add_permits(1);
                    done.acquire().await.expect("nobody closes it").forget();
                    Ok(())
                })
            });
            asked.await
        })
    };
    let asked: Vec<_> = (0..2 * CONNECTIONS).map(ask).collect();
    begun.acquire_many(CONNECTIONS - 2).await.unwrap().forget();
    let look = app.view("operators/ann", "look", (), |tx, _, ()| Box::pin(async move { Ok(tx.windows_revision().await?) }));
    let answered = tokio::time::timeout(Duration::from_secs(20), look).await;
    done.add_permits(asked.len());
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert!(matches!(answered, Ok(Ok(_))), "an operator was not answered while clients asked: {answered:?}");
    manager.stop().await;
}
