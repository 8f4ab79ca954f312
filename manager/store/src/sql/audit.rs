//! The audit log: entries in chains of hashes, and the segments in which they are sealed.

use super::unit::{Columns, Result, Unit};
use crate::{Audit, Page, StoreError, bind};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sutler_base::{Digest, Timestamp};
use sutler_core::{
    audit::{AuditRecord, AuditSegment, ChainEnd, NOTHING, entry_hash},
    model::AuditEntry,
};

/// The columns of an entry in the order of [`record`].
macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT sequence, time_ms, actor, action, object, detail, chain, number, previous, hash FROM audit ", $rest)
    };
}

fn record(row: &mut Columns<'_>) -> Result<AuditRecord> {
    Ok(AuditRecord {
        entry: AuditEntry {
            sequence: row.int()?,
            time: row.time()?,
            actor: row.text()?,
            action: row.text()?,
            object: row.text()?,
            detail: row.text()?,
        },
        chain: row.int()?,
        number: row.int()?,
        previous: hash(row)?,
        hash: hash(row)?,
    })
}

/// A hash as it is stored: nothing for an entry from before there were chains. What is no hash is none either: whoever checks
/// the log finds it, and everybody else can read on.
fn hash(row: &mut Columns<'_>) -> Result<Digest> {
    Ok(Digest::try_from(row.bytes()?.as_slice()).unwrap_or(NOTHING))
}

/// The end of a chain in a segment's record.
#[derive(Serialize, Deserialize)]
struct End {
    chain: i64,
    number: i64,
    hash: Digest,
}

fn segment(row: &mut Columns<'_>) -> Result<AuditSegment> {
    Ok(AuditSegment {
        number: row.int()?,
        first: row.int()?,
        last: row.int()?,
        entries: row.int()?,
        hash: hash(row)?,
        ends: row.json::<Vec<End>>()?.into_iter().map(|e| ChainEnd { chain: e.chain, number: e.number, hash: e.hash }).collect(),
        sealed: row.time()?,
        dropped: row.opt_time()?,
    })
}

#[async_trait]
impl Audit for Unit<'_> {
    async fn audit(&mut self, entry: &AuditEntry) -> Result<()> {
        let sequence = self.audit_number().await?;
        let entry = AuditEntry {
            sequence,
            time: entry.time,
            // What is hashed is what is stored.
            actor: bind::text(&entry.actor),
            action: bind::text(&entry.action),
            object: bind::text(&entry.object),
            detail: bind::text(&entry.detail),
        };
        let (chain, number, previous) = match self.chain_end().await {
            Some(end) => (end.chain, end.number + 1, end.hash),
            // This process begins a chain, with what stands before it.
            None => {
                let last = self.list("audit", query!("SELECT hash FROM audit ORDER BY sequence DESC LIMIT 1"), hash).await?;
                (sequence, 1, last.first().copied().unwrap_or(NOTHING))
            }
        };
        let hash = entry_hash(&previous, chain, number, &entry);
        self.run(query!(
            "INSERT INTO audit (sequence, time_ms, actor, action, object, detail, chain, number, previous, hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            sequence,
            bind::ms(entry.time),
            entry.actor,
            entry.action,
            entry.object,
            entry.detail,
            chain,
            number,
            previous.0.to_vec(),
            hash.0.to_vec(),
        ))
        .await?;
        self.set_chain_end(ChainEnd { chain, number, hash });
        Ok(())
    }

    async fn list_audit(&mut self, page: &Page, object: Option<&str>) -> Result<Vec<AuditRecord>> {
        let before = match &page.after {
            None => i64::MAX,
            Some(text) => number(text)?,
        };
        let limit = i64::from(page.limit);
        let query = match object {
            None => query!(select!("WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2"), before, limit),
            Some(object) => {
                query!(select!("WHERE sequence < $1 AND object = $3 ORDER BY sequence DESC LIMIT $2"), before, limit, bind::text(object))
            }
        };
        self.list("audit", query, record).await
    }

    async fn audit_after(&mut self, page: &Page) -> Result<Vec<AuditRecord>> {
        let after = page.after.as_deref().map_or(Ok(-1), number)?;
        let query = query!(select!("WHERE sequence > $1 ORDER BY sequence LIMIT $2"), after, i64::from(page.limit));
        self.list("audit", query, record).await
    }

    async fn list_audit_segments(&mut self, page: &Page) -> Result<Vec<AuditSegment>> {
        let after = page.after.as_deref().map_or(Ok(0), number)?;
        let sql = "SELECT number, first, last, entries, hash, ends, sealed_ms, dropped_ms FROM audit_segment \
                   WHERE number > $1 ORDER BY number LIMIT $2";
        self.list("audit_segment", query!(sql, after, i64::from(page.limit)), segment).await
    }

    async fn last_audit_segment(&mut self) -> Result<Option<AuditSegment>> {
        let sql = "SELECT number, first, last, entries, hash, ends, sealed_ms, dropped_ms FROM audit_segment \
                   ORDER BY number DESC LIMIT 1";
        self.one("audit_segment", query!(sql), segment).await
    }

    async fn insert_audit_segment(&mut self, segment: &AuditSegment) -> Result<()> {
        let ends: Vec<End> = segment.ends.iter().map(|e| End { chain: e.chain, number: e.number, hash: e.hash }).collect();
        let sql = "INSERT INTO audit_segment (number, first, last, entries, hash, ends, sealed_ms) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
        let query = query!(
            sql,
            segment.number,
            segment.first,
            segment.last,
            segment.entries,
            segment.hash.0.to_vec(),
            bind::json(&ends),
            bind::ms(segment.sealed)
        );
        self.insert("segment of the audit log", query).await
    }

    async fn drop_audit_segment(&mut self, segment: &AuditSegment, now: Timestamp) -> Result<u64> {
        let sql = "UPDATE audit_segment SET dropped_ms = $2 WHERE number = $1 AND dropped_ms IS NULL";
        self.save("sealed segment", &segment.number.to_string(), query!(sql, segment.number, bind::ms(now))).await?;
        self.run(query!("DELETE FROM audit WHERE sequence BETWEEN $1 AND $2", segment.first, segment.last)).await
    }
}

fn number(text: &str) -> Result<i64> {
    text.parse().map_err(|_| StoreError::NoPage)
}
