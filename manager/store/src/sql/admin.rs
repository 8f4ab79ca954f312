//! The site, settings, operators, idempotence, audit.

use super::unit::{Result, Unit};
use crate::{Admin, Page, StoreError, bind};
use async_trait::async_trait;
use sutler_base::{Digest, OperatorName, Timestamp};
use sutler_core::model::{AuditEntry, Operator, Site};

#[async_trait]
impl Admin for Unit<'_> {
    async fn site(&mut self) -> Result<Option<Site>> {
        let query = query!("SELECT id, addresses FROM site WHERE self");
        self.one("site", query, |row| Ok(Site { id: row.parse()?, addresses: row.json()? })).await
    }

    async fn put_site(&mut self, site: &Site) -> Result<()> {
        self.run(query!("UPDATE site SET self = FALSE WHERE self AND id <> $1", site.id.to_string())).await?;
        let sql = "INSERT INTO site (id, addresses, self) VALUES ($1, $2, TRUE) \
                   ON CONFLICT (id) DO UPDATE SET addresses = excluded.addresses, self = TRUE";
        self.run(query!(sql, site.id.to_string(), bind::json(&site.addresses))).await?;
        Ok(())
    }

    async fn setting(&mut self, key: &str) -> Result<Option<Vec<u8>>> {
        self.one("setting", query!("SELECT value FROM setting WHERE key = $1", bind::text(key)), |row| row.bytes()).await
    }

    async fn put_setting(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let sql = "INSERT INTO setting (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.run(query!(sql, bind::text(key), value.to_vec())).await?;
        Ok(())
    }

    async fn insert_operator(&mut self, operator: &Operator) -> Result<()> {
        let sql = "INSERT INTO operator (name, created_ms, revoked_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let query = query!(sql, operator.name.to_string(), bind::ms(operator.created), bind::opt_ms(operator.revoked));
        self.insert("operator", query).await
    }

    async fn operator(&mut self, name: &OperatorName) -> Result<Option<Operator>> {
        let query = query!("SELECT name, created_ms, revoked_ms FROM operator WHERE name = $1", name.to_string());
        self.one("operator", query, |row| Ok(Operator { name: row.parse()?, created: row.time()?, revoked: row.opt_time()? })).await
    }

    async fn request(&mut self, operator: &str, request_id: &str) -> Result<Option<(Digest, Vec<u8>)>> {
        let sql = "SELECT body, answer FROM request WHERE operator = $1 AND request_id = $2";
        self.one("request", query!(sql, bind::text(operator), bind::text(request_id)), |row| Ok((row.digest()?, row.bytes()?))).await
    }

    async fn put_request(&mut self, operator: &str, request_id: &str, body: &Digest, answer: &[u8], now: Timestamp) -> Result<()> {
        let sql = "INSERT INTO request (operator, request_id, body, answer, time_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let query = query!(sql, bind::text(operator), bind::text(request_id), body.0.to_vec(), answer.to_vec(), bind::ms(now));
        self.insert("request", query).await
    }

    async fn drop_requests(&mut self, before: Timestamp) -> Result<u64> {
        self.run(query!("DELETE FROM request WHERE time_ms < $1", bind::ms(before))).await
    }

    async fn audit(&mut self, entry: &AuditEntry) -> Result<()> {
        let sequence = self.audit_number().await?;
        self.run(query!(
            "INSERT INTO audit (sequence, time_ms, actor, action, object, detail) VALUES ($1, $2, $3, $4, $5, $6)",
            sequence,
            bind::ms(entry.time),
            bind::text(&entry.actor),
            bind::text(&entry.action),
            bind::text(&entry.object),
            bind::text(&entry.detail)
        ))
        .await?;
        Ok(())
    }

    async fn list_audit(&mut self, page: &Page, object: Option<&str>) -> Result<Vec<AuditEntry>> {
        let before = match &page.after {
            None => i64::MAX,
            Some(text) => text
                .parse()
                .map_err(|_| StoreError::Statement(format!("a page of the audit log can't start after {text:?}: it is no number")))?,
        };
        let limit = i64::from(page.limit);
        let query = match object {
            None => query!(
                "SELECT sequence, time_ms, actor, action, object, detail FROM audit WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2",
                before,
                limit
            ),
            Some(object) => query!(
                "SELECT sequence, time_ms, actor, action, object, detail FROM audit WHERE sequence < $1 AND object = $3 \
                 ORDER BY sequence DESC LIMIT $2",
                before,
                limit,
                bind::text(object)
            ),
        };
        self.list("audit", query, |row| {
            Ok(AuditEntry {
                sequence: row.int()?,
                time: row.time()?,
                actor: row.text()?,
                action: row.text()?,
                object: row.text()?,
                detail: row.text()?,
            })
        })
        .await
    }

    async fn last_change(&mut self) -> Result<i64> {
        Ok(self.one("sequence", query!("SELECT value FROM sequence WHERE name = 'change'"), |row| row.int()).await?.unwrap_or(0))
    }
}
