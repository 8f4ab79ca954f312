//! Trust documents and revocation lists, as publishers signed them.

use super::unit::{Result, Unit};
use crate::{Trust, bind};
use async_trait::async_trait;
use sutler_base::Timestamp;

#[async_trait]
impl Trust for Unit<'_> {
    async fn insert_trust_document(&mut self, version: u64, document: &[u8], now: Timestamp, creator: &str) -> Result<()> {
        let sql = "INSERT INTO trust_document (version, document, created_ms, creator) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        self.insert("trust document", query!(sql, bind::int(version)?, document.to_vec(), bind::ms(now), bind::text(creator))).await
    }

    async fn trust_documents(&mut self, after: u64, limit: u32) -> Result<Vec<Vec<u8>>> {
        let sql = "SELECT document FROM trust_document WHERE version > $1 ORDER BY version LIMIT $2";
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.list("trust_document", query!(sql, after, i64::from(limit)), |row| row.bytes()).await
    }

    async fn newest_trust_document(&mut self) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT document FROM trust_document ORDER BY version DESC LIMIT 1";
        self.one("trust_document", query!(sql), |row| row.bytes()).await
    }

    async fn insert_revocations(&mut self, epoch: u64, version: u64, list: &[u8], now: Timestamp, creator: &str) -> Result<()> {
        let sql = "INSERT INTO revocation_list (epoch, version, document, created_ms, creator) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let query = query!(sql, bind::int(epoch)?, bind::int(version)?, list.to_vec(), bind::ms(now), bind::text(creator));
        self.insert("revocation list", query).await
    }

    async fn newest_revocations(&mut self) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT document FROM revocation_list ORDER BY epoch DESC, version DESC LIMIT 1";
        self.one("revocation_list", query!(sql), |row| row.bytes()).await
    }
}
