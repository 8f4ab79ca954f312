//! Telling connected agents what operators ask their users.

use crate::{
    app::{App, AppError, questions},
    telemetry::Metrics,
};
use bytes::Bytes;
use prost::Message as _;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use sutler_base::{ClientId, Digest};
use sutler_core::model::Question;
use sutler_proto::{
    convert::wire_rule,
    v1::{self, connect_response::Message},
};

/// How many clients are told in one go.
const CLIENTS: usize = 256;

/// What an agent is told: all questions with its answers. Nothing is digested where nothing is asked, as by an agent that was told
/// nothing yet.
fn told(questions: &[Question], answers: &BTreeMap<String, String>) -> v1::Questions {
    let asked = |q: &Question| v1::AskedQuestion {
        question: Some(v1::Question {
            name: format!("questions/{}", q.name),
            prompt: q.prompt.clone(),
            rule: Some(wire_rule(&q.rule)),
            ..Default::default()
        }),
        answer: answers.get(q.name.as_str()).cloned(),
    };
    let mut told = v1::Questions { questions: questions.iter().map(asked).collect(), digest: Default::default() };
    if !told.questions.is_empty() {
        told.digest = Digest::of(&told.encode_to_vec()).as_bytes().to_vec().into();
    }
    told
}

/// Tells these clients what is asked; one that `held` what has this digest is told nothing.
pub async fn tell(app: &App, clients: Vec<ClientId>, held: &BTreeMap<ClientId, Bytes>) -> Result<(), AppError> {
    let asked = app.view("manager", "questions", clients, |tx, _env, ids| Box::pin(questions::asked_of(tx, ids))).await?;
    for (client, answers) in asked.clients {
        let told = told(&asked.questions, &answers);
        if held.get(&client).is_none_or(|held| *held != told.digest) {
            app.live.send(&client, Message::Questions(told));
        }
    }
    Ok(())
}

/// Tells agents that are connected here what is asked, once that has changed, on whichever manager. Who connects is told when it
/// connects.
pub(super) async fn follow(app: Arc<App>, metrics: Arc<Metrics>, pause: Duration) {
    let mut seen: Option<i64> = None;
    loop {
        let result = follow_once(&app, &mut seen).await;
        metrics.round("follow_questions", result.is_ok());
        if let Err(error) = result {
            tracing::warn!(%error, "cannot read what is asked; it is tried again");
        }
        tokio::time::sleep(pause).await;
    }
}

async fn follow_once(app: &App, seen: &mut Option<i64>) -> Result<(), AppError> {
    let revision =
        app.view("manager", "questions_revision", (), |tx, _env, ()| Box::pin(async move { Ok(tx.questions_revision().await?) })).await?;
    if seen.is_some_and(|seen| seen != revision) {
        for clients in app.live.connected().chunks(CLIENTS) {
            tell(app, clients.to_vec(), &BTreeMap::new()).await?;
        }
    }
    *seen = Some(revision);
    Ok(())
}
