//! Enrolment tokens.

use super::unit::{Columns, Result, Unit};
use crate::{Page, StoreError, Tokens, bind};
use async_trait::async_trait;
use sutler_base::{ClientId, Timestamp, TokenId};
use sutler_core::model::Token;

macro_rules! token_columns {
    () => {
        "id, secret_hash, description, uses, used, expires_ms, networks, expected, groups, labels, replaces, created_ms, creator, revoked_ms"
    };
}

fn token(row: &mut Columns<'_>) -> Result<Token> {
    Ok(Token {
        id: row.parse()?,
        secret_hash: row.key()?,
        description: row.text()?,
        uses: row.number()?,
        used: row.number()?,
        expires: row.time()?,
        networks: row.json()?,
        expected: row.json()?,
        groups: row.json()?,
        labels: row.json()?,
        replaces: row.opt_parse()?,
        created: row.time()?,
        creator: row.text()?,
        revoked: row.opt_time()?,
    })
}

#[async_trait]
impl Tokens for Unit<'_> {
    async fn insert_tokens(&mut self, tokens: &[Token]) -> Result<()> {
        let rows: Vec<_> = tokens
            .iter()
            .map(|t| {
                (
                    (t.id.as_str(), bind::hex(&t.secret_hash), bind::text(&t.description), t.uses, t.used, bind::ms(t.expires)),
                    (bind::json(&t.networks), bind::json(&t.expected), bind::json(&t.groups), bind::json(&t.labels), t.replaces.as_ref()),
                    (bind::ms(t.created), bind::text(&t.creator), bind::opt_ms(t.revoked)),
                )
            })
            .collect();
        for rows in rows.chunks(500) {
            let added = self
                .run(query!(
                    concat!(
                        "INSERT INTO token (",
                        token_columns!(),
                        ") SELECT v.value->0->>0, ",
                        unhex!("v.value->0->>1"),
                        ", v.value->0->>2, CAST(v.value->0->>3 AS BIGINT), CAST(v.value->0->>4 AS BIGINT), CAST(v.value->0->>5 AS BIGINT), \
                         v.value->1->>0, v.value->1->>1, v.value->1->>2, v.value->1->>3, v.value->1->>4, \
                         CAST(v.value->2->>0 AS BIGINT), v.value->2->>1, CAST(v.value->2->>2 AS BIGINT) FROM",
                        each!(1),
                        "WHERE TRUE ON CONFLICT DO NOTHING"
                    ),
                    bind::json(rows)
                ))
                .await?;
            if added != rows.len() as u64 {
                return Err(StoreError::Exists("token"));
            }
        }
        Ok(())
    }

    async fn token(&mut self, id: &TokenId) -> Result<Option<Token>> {
        let sql = self.lock(concat!("SELECT ", token_columns!(), " FROM token WHERE id = $1"));
        self.one("token", query!(sql, id.to_string()), token).await
    }

    async fn list_tokens(&mut self, page: &Page) -> Result<Vec<Token>> {
        let (created, id) = bind::before(page)?;
        let sql = concat!(
            "SELECT ",
            token_columns!(),
            " FROM token WHERE (created_ms, id) < ($1, $2) ORDER BY created_ms DESC, id DESC LIMIT $3"
        );
        self.list("token", query!(sql, created, id, i64::from(page.limit)), token).await
    }

    async fn revoke_token(&mut self, id: &TokenId, now: Timestamp) -> Result<()> {
        let sql = "UPDATE token SET revoked_ms = COALESCE(revoked_ms, $2) WHERE id = $1";
        self.save("token", id.as_str(), query!(sql, id.to_string(), bind::ms(now))).await
    }

    async fn token_use(&mut self, id: &TokenId, key: &[u8; 32]) -> Result<Option<ClientId>> {
        let sql = "SELECT client FROM token_use WHERE token = $1 AND key = $2";
        self.one("token_use", query!(sql, id.to_string(), key.to_vec()), |row| row.parse()).await
    }

    async fn use_token(&mut self, id: &TokenId, key: &[u8; 32], client: &ClientId, now: Timestamp) -> Result<()> {
        let sql = "INSERT INTO token_use (token, key, client, time_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        let query = query!(sql, id.to_string(), key.to_vec(), client.to_string(), bind::ms(now));
        self.insert("use of the token", query).await?;
        self.save("token", id.as_str(), query!("UPDATE token SET used = used + 1 WHERE id = $1", id.to_string())).await
    }
}
