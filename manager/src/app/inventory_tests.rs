//! What comes of facts that come together.

use super::{Report, Said, Taken, entries, facts};
use crate::app::{
    App, AppError, groups,
    outcomes::tests::{client, manager},
    policies,
};
use std::sync::Arc;
use sutler_base::{
    ClientId, Digest,
    state::{AppliesTo, JoinMode, OnMismatch, Trigger},
};
use sutler_certs::PrivateKey;

async fn report(app: &Arc<App>, reports: Vec<Report>) -> Vec<Said> {
    let reports: Vec<Arc<Report>> = reports.into_iter().map(Arc::new).collect();
    app.change("manager", "facts", reports, |tx, env, reports| Box::pin(facts(tx, env, reports))).await.unwrap()
}

fn whole(client: &ClientId, json: &str) -> Report {
    Report { client: client.clone(), json: json.into(), base: None, digest: None }
}

/// What changes in these facts.
fn change(client: &ClientId, base: &str, json: &str, makes: &str) -> Report {
    let of = |text: &str| Some(Digest::of(text.as_bytes()));
    Report { client: client.clone(), json: json.into(), base: of(base), digest: of(makes) }
}

fn is_about(said: &Said, wanted: &str) -> bool {
    matches!(said, Err(AppError::Invalid(violations)) if violations.iter().all(|violation| violation.field == wanted))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_facts_that_come_together_each_report_is_taken_or_refused_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(client(app, &PrivateKey::generate().unwrap()).await);
    }
    app.change("operators/ann", "policy", (), |tx, env, ()| {
        Box::pin(async move {
            let group = |name: &str| groups::Create {
                name: name.parse().unwrap(),
                description: String::new(),
                restricted: false,
                join_mode: JoinMode::Closed,
                join_hash: None,
            };
            for name in ["debian", "with-bash"] {
                groups::create(tx, env, &group(name)).await?;
            }
            for (name, trigger, condition) in [
                ("debian", Trigger::NewClient, "facts.os.id == 'debian'"),
                ("with-bash", Trigger::Inventory, "facts.packages.exists(p, p.name == 'bash')"),
            ] {
                let create = policies::Create {
                    name: name.parse().unwrap(),
                    group: name.parse().unwrap(),
                    trigger,
                    condition: condition.into(),
                    applies_to: AppliesTo::All,
                    on_mismatch: OnMismatch::Remove,
                    description: String::new(),
                };
                policies::create(tx, env, &create).await?;
            }
            Ok(())
        })
    })
    .await
    .unwrap();
    let members = async || {
        let ids = clients.clone();
        app.view("manager", "look", ids, |tx, _env, ids| {
            Box::pin(async move {
                let mut all = Vec::new();
                for name in ["debian", "with-bash"] {
                    let group = groups::load(tx, &name.parse().unwrap()).await?.uid;
                    let members = tx.memberships_of_all(ids).await?;
                    let is_member = |id: &ClientId| members.iter().any(|m| m.group == group && m.client == *id);
                    all.push(ids.iter().map(is_member).collect::<Vec<bool>>());
                }
                Ok(all)
            })
        })
        .await
        .unwrap()
    };
    let titles = async || {
        app.view("manager", "look", (), |tx, _env, ()| {
            Box::pin(async move {
                let page = sutler_store::Page { after: None, limit: 9 };
                let titles = tx.list_titles(&page, &Default::default()).await?;
                Ok(titles.into_iter().map(|title| (title.package.name, title.clients)).collect::<Vec<_>>())
            })
        })
        .await
        .unwrap()
    };
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|n| clients[n].clone());

    let one = r#"{"os": {"id": "debian"}, "packages": {"dpkg bash 5.2 amd64": true, "dpkg zsh 5.9 amd64": true}}"#;
    let other = r#"{"os": {"id": "fedora"}, "packages": {"dpkg bash 5.2 amd64": true}}"#;
    let stranger = ClientId::from_random([9; 16]);
    let said = report(
        app,
        vec![
            whole(&first, one),
            whole(&second, "{nonsense"),
            whole(&third, other),
            change(&first, one, "{}", "{}"),
            whole(&stranger, one),
            change(&fourth, one, "{}", other),
        ],
    )
    .await;
    assert!(matches!(said[0], Ok(Taken::Noted)) && matches!(said[2], Ok(Taken::Noted)), "{said:?}");
    assert!(is_about(&said[1], "facts.json"), "{said:?}");
    // The one before has changed what it goes by; the last one's client has none that it could go by.
    assert!(matches!(said[3], Ok(Taken::AllWanted)) && matches!(said[5], Ok(Taken::AllWanted)), "{said:?}");
    assert!(matches!(said[4], Err(AppError::NotFound { .. })), "{said:?}");
    assert_eq!(members().await, [[true, false, false, false], [true, false, true, false]]);
    assert_eq!(titles().await, [("bash".to_owned(), 2), ("zsh".to_owned(), 1)]);

    // One has more than it can have: nothing of it is written, and all of the others'.
    let many: serde_json::Map<String, serde_json::Value> =
        (0..=entries::PACKAGES).map(|n| (format!("rpm p{n} 1 "), serde_json::Value::Bool(true))).collect();
    let many = serde_json::json!({ "packages": many }).to_string();
    let without = r#"{"packages": {"dpkg bash 5.2 amd64": null}}"#;
    let said =
        report(app, vec![change(&first, one, &many, "too many"), change(&third, other, without, "none"), whole(&fourth, other)]).await;
    assert!(is_about(&said[0], "facts.packages"), "{said:?}");
    assert!(said[1..].iter().all(|said| matches!(said, Ok(Taken::Noted))), "{said:?}");
    assert_eq!(members().await, [[true, false, false, false], [true, false, false, true]]);
    assert_eq!(titles().await, [("bash".to_owned(), 2), ("zsh".to_owned(), 1)]);
    manager.stop().await;
}
