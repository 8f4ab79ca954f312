//! Compiled conditions, so that a policy is not compiled again for every client.

use super::{AppError, Env, Result, questions};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use sutler_base::Digest;
use sutler_core::{
    condition::{Condition, Schema},
    model::{Policy, Question},
};
use sutler_store::Tx;

/// How many compiled conditions are kept: more policies than that compile again now and then.
const KEPT: usize = 4096;

/// The text of a condition, and what is asked, if it names answers.
type Key = (String, Option<Digest>);

/// Conditions by what they were compiled from.
pub struct Conditions {
    schema: Schema,
    compiled: Mutex<HashMap<Key, Arc<Condition>>>,
}

impl Default for Conditions {
    fn default() -> Self {
        Conditions { schema: Schema::standard(), compiled: Mutex::default() }
    }
}

/// What is asked, as conditions see it. Read anew for each unit of work: what an earlier one read may not have been committed.
pub(super) struct Asked {
    schema: Schema,
    /// None where the conditions that are to be compiled name no answers.
    digest: Option<Digest>,
}

impl Asked {
    /// For conditions of these texts. Nothing is read where none of them names answers.
    pub(super) async fn by<'t>(tx: &mut dyn Tx, env: &Env, texts: impl IntoIterator<Item = &'t str>) -> Result<Asked> {
        let names = texts.into_iter().any(|text| text.contains("answers"));
        let all = if names { questions::all(tx).await? } else { vec![] };
        let schema = env.conditions.schema.clone().with_questions(all.iter().map(|q| (q.name.as_str(), &q.rule)));
        let digest = names.then(|| {
            let rules: Vec<_> = all.iter().map(|Question { name, rule, .. }| (name, rule)).collect();
            Digest::of(&serde_json::to_vec(&rules).unwrap_or_default())
        });
        Ok(Asked { schema, digest })
    }

    /// The condition of this text. The error names the field and the place in the expression.
    pub(super) fn compile(&self, env: &Env, field: &str, text: &str) -> Result<Arc<Condition>> {
        let mut compiled = env.conditions.compiled.lock().unwrap_or_else(|e| e.into_inner());
        let key = (text.to_owned(), self.digest);
        if let Some(condition) = compiled.get(&key) {
            return Ok(condition.clone());
        }
        let condition = Arc::new(Condition::compile(text, &self.schema).map_err(|e| AppError::invalid(field, e))?);
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(key, condition.clone());
        Ok(condition)
    }

    /// The condition of a policy that exists; none if it names a question that was deleted or has another type by now: until it
    /// is changed such a policy looks at nobody.
    pub(super) fn of(&self, env: &Env, policy: &Policy) -> Option<Arc<Condition>> {
        self.compile(env, "condition", &policy.condition).ok()
    }
}

/// The condition of this text.
pub(super) async fn compile(tx: &mut dyn Tx, env: &Env, field: &str, text: &str) -> Result<Arc<Condition>> {
    Asked::by(tx, env, [text]).await?.compile(env, field, text)
}
