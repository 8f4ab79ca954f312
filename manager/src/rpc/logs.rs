//! Log files of what failed: taken in from agents, handed out to operators.

use super::{Operator, Services, shown, status};
use crate::app::{AppError, Violations, jobs, logs};
use sutler_base::{
    ClientId, JobId,
    limits::{self, PATH_MAX},
    quoted,
};
use sutler_core::model::{Attempt, LogPart};
use sutler_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

/// A part as an agent sends it.
pub(super) fn part(client: &ClientId, wire: v1::AttemptLog) -> Result<logs::Part, Status> {
    let mut v = Violations::default();
    let attempt = v.take("log.attempt", wire.attempt.parse());
    if wire.item as usize >= limits::JOB_PACKAGES_MAX {
        v.add("log.item", format!("is below {}, not {}", limits::JOB_PACKAGES_MAX, wire.item));
    }
    if wire.path.is_empty() || wire.path.len() > PATH_MAX || wire.path.chars().any(char::is_control) {
        v.add("log.path", format!("has 1 to {PATH_MAX} bytes and no control characters; {} has not", quoted(&wire.path)));
    }
    if wire.data.is_empty() || wire.data.len() > limits::LOG_BYTES_MAX {
        v.add("log.data", format!("has 1 to {} bytes, not {}", limits::LOG_BYTES_MAX, wire.data.len()));
    }
    if i64::try_from(wire.cut_bytes).is_err() {
        v.add("log.cut_bytes", format!("is no number of bytes: {}", wire.cut_bytes));
    }
    v.done()?;
    let attempt = attempt.ok_or_else(|| status(AppError::invalid("log.attempt", "is an attempt's id")))?;
    let size = wire.data.len() as u64;
    let part = LogPart { attempt, item: wire.item, path: wire.path, part: wire.part, cut: wire.cut_bytes, size };
    Ok(logs::Part { client: client.clone(), part, data: wire.data.to_vec() })
}

/// A file, and the parts that are kept of it.
struct File {
    wire: v1::LogFile,
    parts: Vec<LogPart>,
}

/// The files of an attempt, by package and path; none before its outcome tells which packages those are.
fn files(attempt: &Attempt, parts: Vec<LogPart>) -> Vec<File> {
    let results = shown::items(Some(attempt));
    let mut files: Vec<File> = Vec::new();
    for part in parts {
        let Some(result) = results.get(part.item as usize) else { continue };
        let kept = i64::try_from(part.size).unwrap_or(i64::MAX);
        match files.last_mut().filter(|file| file.wire.path == part.path && file.parts.last().is_some_and(|p| p.item == part.item)) {
            Some(file) => {
                file.wire.kept_bytes = file.wire.kept_bytes.saturating_add(kept);
                file.parts.push(part);
            }
            None => {
                let cut_bytes = i64::try_from(part.cut).unwrap_or(i64::MAX);
                let wire = v1::LogFile { package: result.package.clone(), path: part.path.clone(), kept_bytes: kept, cut_bytes };
                files.push(File { wire, parts: vec![part] });
            }
        }
    }
    files
}

/// An attempt with the names of the log files that are kept of it.
pub(super) fn with_logs(attempt: Attempt, parts: Vec<LogPart>) -> v1::Attempt {
    let logs = files(&attempt, parts).into_iter().map(|file| file.wire).collect();
    v1::Attempt { logs, ..shown::attempt(attempt) }
}

impl Services {
    /// The parts that are kept of an attempt's log files: of the one with this number, or of the newest that has any.
    pub(super) async fn logs(
        &self,
        operator: &Operator,
        (job, client): (JobId, ClientId),
        number: u32,
    ) -> Result<(Attempt, Vec<LogPart>), Status> {
        let found = self.app.view(operator, "read_logs", (job, client, number), |tx, env, (job, client, number)| {
            Box::pin(async move {
                jobs::load(tx, env, job).await?;
                for attempt in tx.attempts_of(job, client).await? {
                    if *number != 0 && attempt.number != *number {
                        continue;
                    }
                    let parts = tx.logs_of(std::slice::from_ref(&attempt.id)).await?;
                    if *number != 0 || !parts.is_empty() {
                        return Ok((attempt, parts));
                    }
                }
                let which = if *number == 0 { String::new() } else { format!(", attempt {number}") };
                Err(AppError::not_found("log", format!("jobs/{job}/executions/{client}{which}")))
            })
        });
        found.await.map_err(status)
    }

    /// Sends the files one after the other; ends early when nobody listens any more.
    pub(super) async fn send_logs(
        &self,
        operator: &Operator,
        attempt: &Attempt,
        parts: Vec<LogPart>,
        sender: &mpsc::Sender<Result<v1::ReadLogsResponse, Status>>,
    ) -> Result<(), Status> {
        for file in files(attempt, parts) {
            let mut head = Some(file.wire);
            for part in file.parts {
                let read =
                    self.app.view(operator, "read_logs", part, |tx, _env, part| Box::pin(async move { Ok(tx.log_data(part).await?) }));
                // It may have gone meanwhile, for a newer one.
                let Some(data) = read.await.map_err(status)? else { continue };
                if sender.send(Ok(v1::ReadLogsResponse { file: head.take(), data: data.into() })).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
