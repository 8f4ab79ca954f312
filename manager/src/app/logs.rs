//! The ends of log files that agents send of what failed.
//!
//! They help people and nothing is decided by them: so they are bounded in all, the oldest go first, and one that can't be kept
//! holds up nobody's outcome.

use super::{Env, Result};
use sutler_base::{ClientId, limits};
use sutler_core::model::LogPart;
use sutler_store::Tx;

/// The most parts of one package's log files.
const PARTS_MAX: usize = 64;

/// A part as an agent sent it.
#[derive(Debug, Clone)]
pub struct Part {
    /// Who sent it.
    pub client: ClientId,
    /// What it is.
    pub part: LogPart,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// Keeps a part of a log file of an attempt of this client that has no outcome yet. Says why not, if it is not kept.
pub async fn keep(tx: &mut dyn Tx, env: &Env, sent: &Part) -> Result<std::result::Result<(), String>> {
    let Part { client, part, data } = sent;
    let attempt = tx.attempt(&part.attempt).await?.filter(|a| a.client == *client && a.outcome.is_empty());
    let Some(attempt) = attempt else {
        return Ok(Err("this client has no such attempt that is under way".into()));
    };
    // Nobody takes the room of others for packages that there are not.
    let packages = tx.job_packages(&attempt.job, attempt.revision).await?.len();
    if part.item as usize >= packages {
        return Ok(Err(format!("the attempt has {packages} packages, and none with the number {}", part.item)));
    }
    let kept = tx.logs_of(std::slice::from_ref(&part.attempt)).await?;
    let has = |number: u32| kept.iter().any(|k| (k.item, &k.path, k.part) == (part.item, &part.path, number));
    if has(part.part) {
        return Ok(Ok(()));
    }
    if part.part.checked_sub(1).is_some_and(|before| !has(before)) {
        // What is shown of a file is never without a piece in its midst.
        return Ok(Err("the part before it is not kept".into()));
    }
    let of_package = kept.iter().filter(|k| k.item == part.item);
    let bytes: u64 = of_package.clone().map(|k| k.size).sum();
    if of_package.count() >= PARTS_MAX || bytes + data.len() as u64 > limits::LOG_BYTES_MAX as u64 {
        return Ok(Err(format!("of one package that failed at most {} bytes are kept", limits::LOG_BYTES_MAX)));
    }
    let most = env.settings.limits.logs;
    let mut all = tx.log_bytes().await?;
    while all + data.len() as u64 > most {
        match tx.drop_oldest_logs().await? {
            // What comes now is of a newer one: the older go for it, and it does not go for itself.
            Some((oldest, _)) if oldest == part.attempt => return Ok(Err(format!("limits.logs keeps {most} bytes of all logs"))),
            Some((_, bytes)) => all = all.saturating_sub(bytes),
            None => return Ok(Err(format!("limits.logs keeps {most} bytes of all logs"))),
        }
    }
    tx.insert_log(part, data).await?;
    Ok(Ok(()))
}
