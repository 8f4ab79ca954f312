//! Deltas between versions: asked for, taken, made.

use super::unit::{Columns, Result, Unit};
use crate::{Deltas, bind};
use async_trait::async_trait;
use sutler_base::{Digest, Timestamp, Uid};
use sutler_core::model::{Delta, MadeDelta};

macro_rules! delta_columns {
    () => {
        "old_manifest, new_manifest, package, asked_ms, taken_ms, tries, made_ms, digest, length, bytes"
    };
}

fn bytes(digest: &Digest) -> Vec<u8> {
    digest.0.to_vec()
}

fn delta(row: &mut Columns<'_>) -> Result<Delta> {
    Ok(Delta {
        old: row.digest()?,
        new: row.digest()?,
        package: row.parse()?,
        asked: row.time()?,
        taken: row.opt_time()?,
        tries: row.number()?,
        made: row.opt_time()?,
        found: match (row.opt_digest()?, row.opt_int()?, row.opt_int()?) {
            (Some(digest), Some(length), Some(bytes)) => {
                Some(MadeDelta { digest, length: length.unsigned_abs(), bytes: bytes.unsigned_abs() })
            }
            _ => None,
        },
    })
}

#[async_trait]
impl Deltas for Unit<'_> {
    async fn ask_delta(&mut self, delta: &Delta) -> Result<bool> {
        let sql = "INSERT INTO delta (old_manifest, new_manifest, package, asked_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        let query = query!(sql, bytes(&delta.old), bytes(&delta.new), delta.package.to_string(), bind::ms(delta.asked));
        Ok(self.run(query).await? > 0)
    }

    async fn delta(&mut self, old: &Digest, new: &Digest) -> Result<Option<Delta>> {
        let sql = concat!("SELECT ", delta_columns!(), " FROM delta WHERE new_manifest = $1 AND old_manifest = $2");
        self.one("delta", query!(sql, bytes(new), bytes(old)), delta).await
    }

    async fn deltas_to(&mut self, manifests: &[Digest]) -> Result<Vec<Digest>> {
        let mut all = Vec::new();
        for manifest in manifests {
            let sql = "SELECT digest FROM delta WHERE new_manifest = $1 AND digest IS NOT NULL ORDER BY old_manifest";
            all.extend(self.list("delta", query!(sql, bytes(manifest)), |row| row.digest()).await?);
        }
        Ok(all)
    }

    async fn count_deltas(&mut self, package: &Uid) -> Result<u32> {
        let sql = "SELECT COUNT(*) FROM delta WHERE package = $1";
        Ok(self.one("delta", query!(sql, package.to_string()), |row| row.number()).await?.unwrap_or(0))
    }

    async fn drop_oldest_deltas(&mut self, package: &Uid, count: u32) -> Result<u64> {
        let sql = "DELETE FROM delta WHERE package = $1 AND (new_manifest, old_manifest) IN (SELECT d.new_manifest, d.old_manifest \
                   FROM delta d WHERE d.package = $1 ORDER BY d.asked_ms, d.new_manifest, d.old_manifest LIMIT $2)";
        self.run(query!(sql, package.to_string(), i64::from(count))).await
    }

    async fn delta_due(&mut self, before: Timestamp) -> Result<Option<Delta>> {
        let sql = concat!(
            "SELECT ",
            delta_columns!(),
            " FROM delta WHERE made_ms IS NULL AND (taken_ms IS NULL OR taken_ms < $1) ORDER BY asked_ms, new_manifest, old_manifest LIMIT 1"
        );
        self.one("delta", query!(sql, bind::ms(before)), delta).await
    }

    async fn take_delta(&mut self, delta: &Delta, now: Timestamp) -> Result<bool> {
        // The tries too: two managers may read the same row at the same moment.
        let sql = "UPDATE delta SET taken_ms = $3, tries = tries + 1 WHERE new_manifest = $1 AND old_manifest = $2 AND made_ms IS NULL \
                   AND tries = $4";
        let query = query!(sql, bytes(&delta.new), bytes(&delta.old), bind::ms(now), i64::from(delta.tries));
        Ok(self.run(query).await? > 0)
    }

    async fn keep_delta(&mut self, delta: &Delta, taken: Timestamp, now: Timestamp) -> Result<bool> {
        let sql = "UPDATE delta SET taken_ms = $4 WHERE new_manifest = $1 AND old_manifest = $2 AND made_ms IS NULL AND taken_ms = $3";
        let query = query!(sql, bytes(&delta.new), bytes(&delta.old), bind::ms(taken), bind::ms(now));
        Ok(self.run(query).await? > 0)
    }

    async fn note_delta(&mut self, old: &Digest, new: &Digest, made: Option<&MadeDelta>, now: Timestamp) -> Result<bool> {
        let (length, size) = match made {
            Some(made) => (Some(bind::int(made.length)?), Some(bind::int(made.bytes)?)),
            None => (None, None),
        };
        let sql = "UPDATE delta SET made_ms = $3, digest = $4, length = $5, bytes = $6 WHERE new_manifest = $1 AND old_manifest = $2 \
                   AND made_ms IS NULL";
        let query = query!(sql, bytes(new), bytes(old), bind::ms(now), made.map(|made| bytes(&made.digest)), length, size);
        Ok(self.run(query).await? > 0)
    }

    async fn forget_delta(&mut self, digest: &Digest) -> Result<()> {
        self.run(query!("DELETE FROM delta WHERE digest = $1", bytes(digest))).await?;
        Ok(())
    }

    async fn live_deltas(&mut self) -> Result<Vec<Digest>> {
        let sql = "SELECT d.digest FROM delta d WHERE d.digest IS NOT NULL \
                   AND EXISTS (SELECT 1 FROM package_version v WHERE v.manifest = d.old_manifest AND v.deleted_ms IS NULL) \
                   AND EXISTS (SELECT 1 FROM package_version v WHERE v.manifest = d.new_manifest AND v.deleted_ms IS NULL) \
                   ORDER BY d.digest";
        self.list("delta", query!(sql), |row| row.digest()).await
    }

    async fn drop_deltas(&mut self) -> Result<u64> {
        let sql = "DELETE FROM delta WHERE \
                   NOT EXISTS (SELECT 1 FROM package_version v WHERE v.manifest = delta.old_manifest AND v.deleted_ms IS NULL) \
                   OR NOT EXISTS (SELECT 1 FROM package_version v WHERE v.manifest = delta.new_manifest AND v.deleted_ms IS NULL)";
        self.run(query!(sql)).await
    }
}
