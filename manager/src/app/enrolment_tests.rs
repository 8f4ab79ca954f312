//! Whose certificates are accepted, where many are looked up together.

use super::*;
use crate::app::outcomes::tests::{client, manager};
use sutler_certs::PrivateKey;

#[tokio::test(flavor = "multi_thread")]
async fn of_certificates_that_are_looked_up_together_each_is_judged_as_alone() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app();
    let mut all = Vec::new();
    for _ in 0..4 {
        let id = client(app, &PrivateKey::generate().unwrap()).await;
        let read = app.view("manager", "look", id.clone(), |tx, _, id| {
            Box::pin(async move { Ok(tx.certificates_of(&Subject::Client(id.clone())).await?.remove(0).serial) })
        });
        all.push((id, read.await.unwrap()));
    }
    let [good, fresh, revoked, removed] = all.try_into().unwrap_or_else(|_| unreachable!());
    let input = (good.clone(), revoked.clone(), removed.clone());
    let changed = app.change("operators/ann", "prepare", input, |tx, env, (good, revoked, removed)| {
        Box::pin(async move {
            tx.set_certificate_state(&good.1, CertificateState::Active).await?;
            tx.set_certificate_state(&revoked.1, CertificateState::Revoked).await?;
            tx.set_certificate_state(&removed.1, CertificateState::Active).await?;
            clients::remove(tx, env, &removed.0).await?;
            Ok(())
        })
    });
    changed.await.unwrap();
    let with_anothers = (good.0.clone(), fresh.1.clone());
    let unknown = (good.0.clone(), "00".to_owned());
    let shown = vec![good.clone(), with_anothers, fresh, good, removed, unknown, revoked];
    let together = app.view("manager", "check", shown.clone(), |tx, _, shown| Box::pin(check_certificates(tx, shown))).await.unwrap();
    let mut alone = Vec::new();
    for one in shown {
        let check = app.view("manager", "check", one, |tx, _, (id, serial)| {
            Box::pin(async move { Ok(check_certificate(tx, &Subject::Client(id.clone()), serial).await.map_err(|e| e.to_string())) })
        });
        alone.push(check.await.unwrap());
    }
    let together: Vec<_> = together.into_iter().map(|judged| judged.map_err(|e| e.to_string())).collect();
    assert_eq!(together, alone);
    assert_eq!(alone.iter().map(std::result::Result::is_ok).collect::<Vec<_>>(), [true, false, false, true, false, false, false]);
    manager.stop().await;
}
