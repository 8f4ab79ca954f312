//! Questions of a configuration.

use super::{super::questions, Env, Found, Object, Result};
use sutler_core::model::Question;
use sutler_store::Tx;

/// All questions.
pub(super) async fn all(tx: &mut dyn Tx) -> Result<Vec<Found>> {
    Ok(questions::all(tx).await?.into_iter().map(found).collect())
}

fn found(question: Question) -> Found {
    let Question { uid, name, prompt, rule, created: _, change } = question;
    Found { object: Object::Question(questions::Create { name, prompt, rule }), id: uid.to_string(), etag: change.to_string(), ended: None }
}

/// Makes a question as it is wanted. Another rule is refused where policies go by the answers, as without files.
pub(super) async fn change(tx: &mut dyn Tx, env: &Env, found: &Found, is: &questions::Create, wanted: &questions::Create) -> Result<()> {
    let questions::Create { name, prompt, rule } = wanted.clone();
    let update = questions::Update {
        name,
        prompt: (prompt != is.prompt).then_some(prompt),
        rule: (rule != is.rule).then_some(rule),
        force: false,
        etag: found.etag.clone(),
    };
    questions::update(tx, env, &update).await.map(drop)
}
