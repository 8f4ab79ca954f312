//! Compiled conditions, so that a policy is not compiled again for every client.

use super::{AppError, Result};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use sutler_core::condition::{Condition, Schema};

/// How many compiled conditions are kept: more policies than that compile again now and then.
const KEPT: usize = 4096;

/// Conditions by their text.
pub struct Conditions {
    schema: Schema,
    compiled: Mutex<HashMap<String, Arc<Condition>>>,
}

impl Default for Conditions {
    fn default() -> Self {
        Conditions { schema: Schema::standard(), compiled: Mutex::default() }
    }
}

impl Conditions {
    /// The condition of this text. The error names the field and the place in the expression.
    pub fn compile(&self, field: &str, text: &str) -> Result<Arc<Condition>> {
        let mut compiled = self.compiled.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(condition) = compiled.get(text) {
            return Ok(condition.clone());
        }
        let condition = Arc::new(Condition::compile(text, &self.schema).map_err(|e| AppError::invalid(field, e))?);
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(text.to_owned(), condition.clone());
        Ok(condition)
    }
}
