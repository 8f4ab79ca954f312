//! The site, settings, idempotence.

use super::{
    CLOCK,
    unit::{Result, Unit},
};
use crate::{Admin, Answer, bind};
use async_trait::async_trait;
use sutler_base::{ClientId, Digest, Timestamp};
use sutler_core::model::{IssuingCa, Site};

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

    async fn request(&mut self, operator: &str, request_id: &str) -> Result<Option<(Digest, Answer)>> {
        let sql = "SELECT body, answer, approval FROM request WHERE operator = $1 AND request_id = $2";
        self.one("request", query!(sql, bind::text(operator), bind::text(request_id)), |row| {
            let (body, answer) = (row.digest()?, row.bytes()?);
            Ok((body, row.opt_parse()?.map_or(Answer::Done(answer), Answer::Waits)))
        })
        .await
    }

    async fn put_request(&mut self, operator: &str, request_id: &str, body: &Digest, answer: &Answer, now: Timestamp) -> Result<()> {
        let sql = "INSERT INTO request (operator, request_id, body, answer, time_ms, approval) VALUES ($1, $2, $3, $4, $5, $6) \
                   ON CONFLICT DO NOTHING";
        let (bytes, approval) = match answer {
            Answer::Done(bytes) => (bytes.clone(), None),
            Answer::Waits(id) => (Vec::new(), Some(id.to_string())),
        };
        let query = query!(sql, bind::text(operator), bind::text(request_id), body.0.to_vec(), bytes, bind::ms(now), approval);
        self.insert("request", query).await
    }

    async fn drop_requests(&mut self, before: Timestamp) -> Result<u64> {
        let sql = "DELETE FROM request WHERE time_ms < $1 AND (approval IS NULL OR NOT EXISTS (SELECT 1 FROM approval a \
                   WHERE a.id = request.approval AND (a.decided_ms IS NULL OR a.decided_ms >= $1)))";
        self.run(query!(sql, bind::ms(before))).await
    }

    async fn skip_changes(&mut self, numbers: i64) -> Result<()> {
        self.run(query!("UPDATE sequence SET value = value + $1 WHERE name = 'change'", numbers)).await?;
        Ok(())
    }

    async fn has_caught_up(&mut self, client: &ClientId) -> Result<bool> {
        let query = query!("SELECT client FROM caught_up WHERE client = $1", client.to_string());
        Ok(self.row(query).await?.is_some())
    }

    async fn set_caught_up(&mut self, client: &ClientId) -> Result<()> {
        self.run(query!("INSERT INTO caught_up (client) VALUES ($1) ON CONFLICT DO NOTHING", client.to_string())).await?;
        Ok(())
    }

    async fn forget_caught_up(&mut self) -> Result<()> {
        self.run(query!("DELETE FROM caught_up")).await?;
        Ok(())
    }

    async fn issuing_cas(&mut self) -> Result<Vec<IssuingCa>> {
        // A few rows in all.
        let query = query!("SELECT certificate, authority, until_ms FROM issuing_ca ORDER BY certificate");
        self.list("issuing_ca", query, |row| Ok(IssuingCa { certificate: row.bytes()?, authority: row.text()?, until: row.opt_time()? }))
            .await
    }

    async fn put_issuing_ca(&mut self, ca: &IssuingCa) -> Result<()> {
        let sql = "INSERT INTO issuing_ca (certificate, authority, until_ms) VALUES ($1, $2, $3) \
                   ON CONFLICT (certificate) DO UPDATE SET until_ms = excluded.until_ms";
        self.run(query!(sql, ca.certificate.clone(), bind::text(&ca.authority), bind::opt_ms(ca.until))).await?;
        Ok(())
    }

    async fn last_change(&mut self) -> Result<i64> {
        Ok(self.one("sequence", query!("SELECT value FROM sequence WHERE name = 'change'"), |row| row.int()).await?.unwrap_or(0))
    }

    async fn clock(&mut self) -> Result<Option<Timestamp>> {
        let Some(sql) = CLOCK else { return Ok(None) };
        self.one("clock", query!(sql), |row| row.time()).await
    }
}
