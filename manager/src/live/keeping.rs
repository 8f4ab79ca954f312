//! Asking connected agents whether what jobs installed is still there.

use crate::app::{App, AppError, keeping};
use std::sync::Arc;
use sutler_proto::v1::{self, connect_response::Message};

/// Asks those of the clients connected here whose turn has come and who can say it.
pub(super) async fn ask(app: Arc<App>) -> Result<(), AppError> {
    let waits = app.view("manager", "checks_wait", (), |tx, _env, ()| Box::pin(async move { Ok(tx.checks_wait().await?) })).await?;
    if !waits {
        return Ok(());
    }
    for clients in app.live.that_check().chunks(keeping::TOGETHER) {
        let input = clients.to_vec();
        let questions = app.change("manager", "checks_due", input, |tx, env, clients| Box::pin(keeping::due(tx, env, clients))).await?;
        for question in questions {
            let items = question.items.into_iter().map(|(package, envelope)| v1::OfferItem {
                envelope: envelope.into(),
                values: package.values.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
                needed: (package.needed.iter())
                    .map(|n| v1::Dependency { package: n.on.package.to_string(), versions: n.on.versions.to_string() })
                    .collect(),
                ..Default::default()
            });
            let check = v1::CheckInstalled { job: format!("jobs/{}", question.job), items: items.collect() };
            app.live.asks(&question.client, &question.job);
            app.live.send(&question.client, Message::Check(check));
        }
    }
    Ok(())
}
