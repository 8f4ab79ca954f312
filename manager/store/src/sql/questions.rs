//! Questions, and who answered them.

use super::unit::{Columns, Result, Unit};
use crate::{Page, Questions, bind};
use async_trait::async_trait;
use std::collections::BTreeMap;
use sutler_base::{ClientId, QuestionName, Timestamp, Uid};
use sutler_core::model::Question;

macro_rules! question_columns {
    () => {
        "uid, name, prompt, rule, created_ms, change"
    };
}

fn question(row: &mut Columns<'_>) -> Result<Question> {
    Ok(Question { uid: row.parse()?, name: row.parse()?, prompt: row.text()?, rule: row.json()?, created: row.time()?, change: row.int()? })
}

#[async_trait]
impl Questions for Unit<'_> {
    async fn insert_question(&mut self, question: &Question) -> Result<()> {
        let change = self.change(1).await?;
        self.insert(
            "question",
            query!(
                concat!("INSERT INTO question (", question_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"),
                question.uid.to_string(),
                question.name.to_string(),
                bind::text(&question.prompt),
                bind::json(&question.rule),
                bind::ms(question.created),
                change
            ),
        )
        .await
    }

    async fn question(&mut self, name: &QuestionName) -> Result<Option<Question>> {
        let sql = self.lock(concat!("SELECT ", question_columns!(), " FROM question WHERE name = $1 AND deleted_ms IS NULL"));
        self.one("question", query!(sql, name.to_string()), question).await
    }

    async fn list_questions(&mut self, page: &Page) -> Result<Vec<Question>> {
        let sql = concat!("SELECT ", question_columns!(), " FROM question WHERE name > $1 AND deleted_ms IS NULL ORDER BY name LIMIT $2");
        self.list("question", query!(sql, bind::after(page), i64::from(page.limit)), question).await
    }

    async fn questions_revision(&mut self) -> Result<i64> {
        let sql = "SELECT change FROM question ORDER BY change DESC LIMIT 1";
        Ok(self.one("question", query!(sql), |row| row.int()).await?.unwrap_or_default())
    }

    async fn save_question(&mut self, question: &Question) -> Result<()> {
        let change = self.change(1).await?;
        self.save(
            "question",
            question.uid.as_str(),
            query!(
                "UPDATE question SET name = $2, prompt = $3, rule = $4, created_ms = $5, change = $6 WHERE uid = $1 AND deleted_ms IS NULL",
                question.uid.to_string(),
                question.name.to_string(),
                bind::text(&question.prompt),
                bind::json(&question.rule),
                bind::ms(question.created),
                change
            ),
        )
        .await
    }

    async fn delete_question(&mut self, uid: &Uid, now: Timestamp) -> Result<()> {
        let change = self.change(1).await?;
        let sql = "UPDATE question SET deleted_ms = $2, change = $3 WHERE uid = $1 AND deleted_ms IS NULL";
        self.save("question", uid.as_str(), query!(sql, uid.to_string(), bind::ms(now), change)).await
    }

    async fn note_answer(&mut self, question: &Uid, client: &ClientId) -> Result<()> {
        let sql = "INSERT INTO client_answer (question, client) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.run(query!(sql, question.to_string(), client.to_string())).await?;
        Ok(())
    }

    async fn clients_that_answered(&mut self, question: &Uid, page: &Page) -> Result<Vec<ClientId>> {
        let sql = "SELECT client FROM client_answer WHERE question = $1 AND client > $2 ORDER BY client LIMIT $3";
        self.list("client_answer", query!(sql, question.to_string(), bind::after(page), i64::from(page.limit)), |row| row.parse()).await
    }

    async fn drop_answers(&mut self, question: &Uid, left: &[(ClientId, BTreeMap<String, String>)]) -> Result<()> {
        let change = self.change(left.len()).await?;
        let rows: Vec<_> = left.iter().map(|(client, answers)| (client.as_str(), bind::json(answers))).collect();
        let sql = concat!("UPDATE client SET answers = v.value->>1, change = $2 FROM", each!(1), "WHERE client.id = v.value->>0");
        self.run(query!(sql, bind::json(&rows), change)).await?;
        let clients: Vec<_> = left.iter().map(|(client, _)| client).collect();
        let sql = concat!("DELETE FROM client_answer WHERE question = $2 AND client", any!(1));
        self.run(query!(sql, bind::list(&clients), question.to_string())).await?;
        Ok(())
    }
}
