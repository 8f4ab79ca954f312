//! The audit log, beside the entries that units append by themselves: refusals, of which no caller can have as many as it
//! likes, and sealing.

use super::{App, AppError, Env, Result};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use sutler_base::{Digest, Timestamp};
use sutler_core::{
    audit::{AuditRecord, AuditSegment, Seal},
    model::AuditEntry,
};
use sutler_store::{Page, StoreError, Tx};

/// Whom a refusal is counted for that was caused by a caller without an identity: they are sampled together.
pub const NOBODY: &str = "nobody";

/// How many entries one caller's refusals may have at once.
const BURST: u32 = 20;
/// After how long it may have one more.
const REFILL: Duration = Duration::from_secs(60);
/// How many callers are told apart; the rest share what one of them has.
const CALLERS_MAX: usize = 4096;
/// How many entries a segment has at the most; one that is full is sealed at once.
pub const SEGMENT_ENTRIES: u32 = 1000;
/// What sealing itself leaves in the log.
const SEAL: &str = "seal_audit_segment";

/// Which refusals get an entry of their own, and how many were left out.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<String, Caller>>);

#[derive(Debug)]
struct Caller {
    /// How many entries it may have now, as of `at`.
    free: u32,
    at: Timestamp,
    left_out: u64,
}

impl Caller {
    fn new(now: Timestamp) -> Caller {
        Caller { free: BURST, at: now, left_out: 0 }
    }

    fn refill(&mut self, now: Timestamp) {
        let passed = now.as_millisecond().saturating_sub(self.at.as_millisecond());
        // A clock that was set back starts the time anew.
        let more = passed / REFILL.as_millis() as i64;
        if more != 0 {
            self.free = u32::try_from(more).map_or(self.free, |more| self.free.saturating_add(more)).min(BURST);
            self.at = now;
        }
    }
}

impl Refusals {
    /// Whether a refusal of `caller` gets an entry: then with how many there were before it without one.
    pub fn admit(&self, caller: &str, now: Timestamp) -> Option<u64> {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if callers.contains_key(caller) || callers.len() < CALLERS_MAX { caller } else { NOBODY };
        let entry = callers.entry(key.to_owned()).or_insert_with(|| Caller::new(now));
        entry.refill(now);
        if entry.free == 0 {
            entry.left_out += 1;
            return None;
        }
        entry.free -= 1;
        Some(std::mem::take(&mut entry.left_out))
    }

    /// Callers of whom refusals were left out and who may have an entry again, with how many; and forgets who has been quiet.
    pub fn left_out(&self, now: Timestamp) -> Vec<(String, u64)> {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        callers.retain(|_, caller| {
            caller.refill(now);
            caller.free < BURST || caller.left_out > 0
        });
        let due = callers.iter_mut().filter(|(_, caller)| caller.left_out > 0 && caller.free > 0);
        due.map(|(name, caller)| {
            caller.free -= 1;
            (name.clone(), std::mem::take(&mut caller.left_out))
        })
        .collect()
    }
}

fn with_left_out(detail: String, left_out: u64) -> String {
    match left_out {
        0 => detail,
        n => format!("{detail} (and {n} refusals of this caller before it that have no entry)"),
    }
}

impl Env {
    /// Appends a refusal to the audit log, in one commit with whatever else the unit does, unless its actor had too many.
    pub async fn audit_refusal(&self, tx: &mut dyn Tx, action: &str, object: impl ToString, detail: impl ToString) -> Result<()> {
        self.audit_refusal_of(&self.actor, tx, action, object, detail).await
    }

    /// The same, counted for `caller`: [`NOBODY`] where the actor is only what the caller claims to be.
    pub async fn audit_refusal_of(
        &self,
        caller: &str,
        tx: &mut dyn Tx,
        action: &str,
        object: impl ToString,
        detail: impl ToString,
    ) -> Result<()> {
        match self.refusals.admit(caller, self.now) {
            Some(left_out) => self.audit(tx, action, object, with_left_out(detail.to_string(), left_out)).await,
            None => Ok(()),
        }
    }
}

impl App {
    /// Notes that `actor` was refused something, in a unit of its own: nothing else was changed. What can't be noted is
    /// logged; the caller is refused all the same.
    pub async fn refused(&self, actor: &str, action: &'static str, object: String, detail: String) {
        let Some(left_out) = self.refusals.admit(actor, self.world.now()) else { return };
        let input = (action, object, with_left_out(detail, left_out));
        let noted =
            self.change(actor, "refused", input, |tx, env, (action, object, detail)| Box::pin(env.audit(tx, action, object, detail))).await;
        if let Err(error) = noted {
            tracing::warn!(actor, action, %error, "a refusal could not be written to the audit log");
        }
    }
}

/// Writes down how many refusals were left out of callers that have stopped.
pub async fn note_left_out(tx: &mut dyn Tx, env: &Env, callers: &[(String, u64)]) -> Result<()> {
    for (caller, n) in callers {
        env.audit(tx, "refusals_left_out", caller, format!("{n} refusals have no entry of their own")).await?;
    }
    Ok(())
}

/// The last sealed segment and the entries of the next one, if that is to be sealed: it is full, or its first entry is old.
async fn due(tx: &mut dyn Tx, env: &Env) -> Result<Option<(Option<AuditSegment>, Vec<AuditRecord>)>> {
    let last = tx.last_audit_segment().await?;
    let page = Page { after: last.as_ref().map(|s| s.last.to_string()), limit: SEGMENT_ENTRIES };
    let entries = tx.audit_after(&page).await?;
    let Some(first) = entries.first() else { return Ok(None) };
    let old = env.now.checked_sub(env.settings.limits.audit_seal).is_ok_and(|before| first.entry.time <= before);
    let full = entries.len() as u32 == SEGMENT_ENTRIES;
    // A log in which nothing happens but sealing needs no more of it.
    let quiet = entries.iter().all(|r| r.entry.action == SEAL);
    Ok(((full || old) && !quiet).then_some((last, entries)))
}

/// Whether a segment is to be sealed.
pub async fn is_due(tx: &mut dyn Tx, env: &Env) -> Result<bool> {
    Ok(due(tx, env).await?.is_some())
}

/// Seals the next segment, if it is due. Gives back whether it did.
pub async fn seal(tx: &mut dyn Tx, env: &Env) -> Result<bool> {
    let Some((last, entries)) = due(tx, env).await? else { return Ok(false) };
    let mut seal = Seal::after(last.as_ref());
    entries.iter().for_each(|record| seal.add(record));
    let Some(segment) = seal.close(env.now) else { return Ok(false) };
    match tx.insert_audit_segment(&segment).await {
        // Another manager was faster.
        Err(StoreError::Exists(_)) => return Ok(false),
        inserted => inserted?,
    }
    let detail = format!("entries {} to {}, hash {}", segment.first, segment.last, segment.hash);
    env.audit(tx, SEAL, format!("audit/segments/{}", segment.number), &detail).await?;
    // Beside the database, too: whoever changes that does not change the system's log.
    tracing::info!(segment = segment.number, "a segment of the audit log was sealed: {detail}");
    Ok(true)
}

/// Drops the entries of these sealed segments, which the caller holds in an export: (number, hash). Gives back how many
/// entries went.
///
/// For the local command alone: no method of the API leads here.
pub async fn drop_segments(tx: &mut dyn Tx, now: Timestamp, held: &[(i64, Digest)]) -> Result<u64> {
    let (mut dropped, mut page) = (0, Page { after: None, limit: 1000 });
    let mut up_to = None;
    loop {
        let segments = tx.list_audit_segments(&page).await?;
        for segment in segments.iter().filter(|s| s.dropped.is_none()) {
            let Some((_, hash)) = held.iter().find(|(number, _)| *number == segment.number) else {
                // What is left must be an end of the log, without a gap.
                return finish(tx, now, up_to, dropped).await;
            };
            if *hash != segment.hash {
                return Err(AppError::state(
                    format!("audit/segments/{}", segment.number),
                    "NOT_WHAT_WAS_EXPORTED",
                    format!(
                        "segment {} of the audit log in the database is not the one in the export (hash {} there, {hash} here): nothing was \
                         dropped; `sutler audit verify FILE` says what differs",
                        segment.number, segment.hash
                    ),
                ));
            }
            dropped += tx.drop_audit_segment(segment, now).await?;
            up_to = Some(segment.clone());
        }
        match segments.last().filter(|_| segments.len() == page.limit as usize) {
            Some(last) => page.after = Some(last.number.to_string()),
            None => return finish(tx, now, up_to, dropped).await,
        }
    }
}

async fn finish(tx: &mut dyn Tx, now: Timestamp, up_to: Option<AuditSegment>, dropped: u64) -> Result<u64> {
    if let Some(last) = up_to {
        let entry = AuditEntry {
            sequence: 0,
            time: now,
            actor: "manager".into(),
            action: "drop_audit_segments".into(),
            object: format!("audit/segments/{}", last.number),
            detail: format!("{dropped} entries up to {}, sealed with the hash {}", last.last, last.hash),
        };
        tx.audit(&entry).await?;
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn one_caller_can_not_fill_the_log_and_what_is_left_out_is_counted() {
        let refusals = Refusals::default();
        let admitted = (0..1000).filter(|_| refusals.admit("clients/a", at(0)).is_some()).count();
        assert_eq!(admitted, BURST as usize);
        assert_eq!(refusals.admit("clients/b", at(0)), Some(0), "another caller has its own");
        // Later the next one says how many there were, and one that does not come is said by itself.
        assert_eq!(refusals.admit("clients/a", at(60)), Some(1000 - u64::from(BURST)));
        assert_eq!(refusals.admit("clients/a", at(61)), None);
        assert_eq!(refusals.left_out(at(62)), []);
        assert_eq!(refusals.left_out(at(120)), [("clients/a".to_owned(), 1)]);
        assert_eq!(refusals.left_out(at(180)), []);
        // Who is quiet is forgotten, and so memory is bounded; so it is with callers without end.
        refusals.left_out(at(10_000));
        assert_eq!(refusals.0.lock().unwrap().len(), 0);
        for n in 0..3 * CALLERS_MAX {
            refusals.admit(&format!("clients/{n}"), at(10_000));
        }
        assert!(refusals.0.lock().unwrap().len() <= CALLERS_MAX + 1);
    }
}
