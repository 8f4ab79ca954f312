//! The ends of log files of what failed, and how many bytes they are together.

use super::unit::{Columns, Result, Unit};
use crate::{Logs, bind};
use async_trait::async_trait;
use sutler_base::AttemptId;
use sutler_core::model::LogPart;

fn part(row: &mut Columns<'_>) -> Result<LogPart> {
    Ok(LogPart {
        attempt: row.parse()?,
        item: row.number()?,
        path: row.text()?,
        part: row.number()?,
        cut: row.number()?,
        size: row.number()?,
    })
}

impl Unit<'_> {
    async fn count_log_bytes(&mut self, more: i64) -> Result<()> {
        let sql = "UPDATE attempt_log_total SET bytes = bytes + $1 WHERE self = 1";
        self.save("total of", "attempt_log", query!(sql, more)).await
    }
}

#[async_trait]
impl Logs for Unit<'_> {
    async fn log_bytes(&mut self) -> Result<u64> {
        let sql = self.lock("SELECT bytes FROM attempt_log_total WHERE self = 1");
        Ok(self.one("attempt_log_total", query!(sql), |row| row.number()).await?.unwrap_or_default())
    }

    async fn logs_of(&mut self, attempts: &[AttemptId]) -> Result<Vec<LogPart>> {
        let sql = concat!(
            "SELECT attempt, item, path, part, cut, size FROM attempt_log WHERE attempt",
            any!(1),
            " ORDER BY attempt, item, path, part"
        );
        self.list("attempt_log", query!(sql, bind::list(attempts)), part).await
    }

    async fn log_data(&mut self, part: &LogPart) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT data FROM attempt_log WHERE attempt = $1 AND item = $2 AND path = $3 AND part = $4";
        let (item, number) = (i64::from(part.item), i64::from(part.part));
        self.one("attempt_log", query!(sql, part.attempt.to_string(), item, bind::text(&part.path), number), |row| row.bytes()).await
    }

    async fn insert_log(&mut self, part: &LogPart, data: &[u8]) -> Result<()> {
        let sql = "INSERT INTO attempt_log (attempt, item, path, part, cut, size, data) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                   ON CONFLICT DO NOTHING";
        let size = bind::int(data.len() as u64)?;
        let key = (part.attempt.to_string(), i64::from(part.item), bind::text(&part.path), i64::from(part.part));
        if self.run(query!(sql, key.0, key.1, key.2, key.3, bind::int(part.cut)?, size, data.to_vec())).await? == 0 {
            return Ok(());
        }
        self.count_log_bytes(size).await
    }

    async fn drop_oldest_logs(&mut self) -> Result<Option<(AttemptId, u64)>> {
        let sql = "SELECT attempt FROM attempt_log ORDER BY attempt LIMIT 1";
        let Some(oldest) = self.one("attempt_log", query!(sql), |row| row.parse::<AttemptId>()).await? else { return Ok(None) };
        let sql = "DELETE FROM attempt_log WHERE attempt = $1 RETURNING size";
        let sizes: Vec<i64> = self.list("attempt_log", query!(sql, oldest.to_string()), |row| row.int()).await?;
        let bytes: i64 = sizes.iter().sum();
        self.count_log_bytes(-bytes).await?;
        Ok(Some((oldest, u64::try_from(bytes).unwrap_or_default())))
    }
}
