//! What a manager that was restored from a backup does not know, and learns from its agents.
//!
//! The database is as it was when the backup was made; agents, packages on machines and certificates are as they are now.
//! - **Certificates** that were issued since are in no table. They are signed by this installation's CA, whose key was never
//!   in the database: their subjects are taken at their word. A client that isn't known either had enrolled since: it is
//!   `PENDING`, for nobody knows any more what its token allowed; an operator approves it.
//! - **Outcomes** that were recorded since: each agent is asked to report again what it still has (its last 256), with the jobs
//!   that they belong to, and is offered nothing before it has. So nothing that ran since runs again.
//! - **Attempts** that were made since and have not ended are taken over from the agent's hello, as far as their jobs are known.
//!
//! What only the database knew is lost: jobs, groups, memberships, tokens, and *removals* that were made since. An export of
//! the audit log says what they were.

use super::{AppError, Env, Result, events, executions, sessions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use sutler_base::{
    AttemptId, ClientId, JobId, Timestamp,
    state::{ClientKind, ClientState, ExecutionState, Purpose},
};
use sutler_core::model::{Attempt, Certificate, CertificateState, Client, Subject};
use sutler_store::Tx;

/// The setting that says that the database was restored.
pub const SETTING: &str = "restored";
/// The setting with which a backup says when it was made.
pub const BACKUP: &str = "backup";
/// How many numbers of the change sequence are left out: more than any installation uses between two backups.
const SKIPPED: i64 = 1 << 40;
/// Clocks of managers may differ by so much, and certificates start some minutes in the past (milliseconds).
const MARGIN_MS: i64 = 3600 * 1000;

/// Between when this manager does not know what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When the backup was made (milliseconds).
    pub since_ms: i64,
    /// When it was restored (milliseconds).
    pub until_ms: i64,
}

impl Restored {
    /// The lowest id that an attempt can have that was made since.
    pub fn first_attempt(&self) -> AttemptId {
        AttemptId::new(Timestamp::from_millisecond(self.since_ms - MARGIN_MS).unwrap_or(Timestamp::UNIX_EPOCH), [0; 16])
    }

    /// Whether the attempt was made in that time.
    fn may_have_made(&self, attempt: &AttemptId) -> bool {
        let last = Timestamp::from_millisecond(self.until_ms + MARGIN_MS).unwrap_or(Timestamp::MAX);
        *attempt >= self.first_attempt() && *attempt <= AttemptId::new(last, [0xff; 16])
    }

    /// Whether a certificate that starts then can have been issued in that time.
    pub fn may_have_issued(&self, not_before: Timestamp) -> bool {
        (self.since_ms - MARGIN_MS..=self.until_ms + MARGIN_MS).contains(&not_before.as_millisecond())
    }
}

/// Whether this database was restored, and when.
pub async fn load(tx: &mut dyn Tx) -> std::result::Result<Option<Restored>, sutler_store::StoreError> {
    Ok(tx.setting(SETTING).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Notes in a database that was just put back that it was, and when the backup was made.
pub async fn mark(tx: &mut dyn Tx, restored: &Restored, now: Timestamp) -> Result<()> {
    tx.skip_changes(SKIPPED).await?;
    tx.forget_caught_up().await?;
    let bytes = serde_json::to_vec(restored).map_err(|e| AppError::Bug(format!("the note of the restore can't be written: {e}")))?;
    tx.put_setting(SETTING, &bytes).await?;
    let since = Timestamp::from_millisecond(restored.since_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let entry = sutler_core::model::AuditEntry {
        sequence: 0,
        time: now,
        actor: "manager".into(),
        action: "restore".into(),
        object: "manager".into(),
        detail: format!("from the backup of {since}; what was changed since then is not known, but for what agents report"),
    };
    Ok(tx.audit(&entry).await?)
}

/// A certificate of this installation that stands in no table.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Whose it is.
    pub subject: Subject,
    /// Its serial number.
    pub serial: String,
    /// The digest of its public key.
    pub key: [u8; 32],
    /// Its public key.
    pub public_key: Vec<u8>,
    /// When it starts.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Where the caller is.
    pub address: String,
}

/// Takes in a certificate that was issued after the backup, and its client, if that had enrolled after it. Gives back
/// whether it did.
pub async fn adopt_certificate(tx: &mut dyn Tx, env: &Env, shown: &Shown) -> Result<bool> {
    let Some(restored) = env.settings.restored.filter(|r| r.may_have_issued(shown.not_before)) else { return Ok(false) };
    if tx.certificate(&shown.serial).await?.is_some() {
        return Ok(true);
    }
    let object = match &shown.subject {
        Subject::Client(id) => {
            match tx.client(id).await? {
                Some(client) if client.state == ClientState::Removed => return Ok(false),
                Some(_) => {}
                None => insert_client(tx, env, id, shown, &restored).await?,
            }
            format!("clients/{id}")
        }
        // An operator that isn't known was made since, and somebody who may do so makes it again.
        Subject::Operator(name) => {
            if tx.operator(name).await?.is_none() {
                return Ok(false);
            }
            format!("operators/{name}")
        }
    };
    tx.insert_certificate(&Certificate {
        serial: shown.serial.clone(),
        subject: shown.subject.clone(),
        key: shown.key,
        public_key: shown.public_key.clone(),
        issued: env.now,
        not_after: shown.not_after,
        state: CertificateState::Issued,
    })
    .await?;
    env.audit(tx, "adopt_certificate", object, format!("{} was issued after the backup", shown.serial)).await?;
    Ok(true)
}

async fn insert_client(tx: &mut dyn Tx, env: &Env, id: &ClientId, shown: &Shown, restored: &Restored) -> Result<()> {
    let since = Timestamp::from_millisecond(restored.since_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let client = Client {
        id: id.clone(),
        kind: ClientKind::Machine,
        site: env.settings.site.clone(),
        site_since: env.now,
        state: ClientState::Pending,
        hostname: String::new(),
        address: shown.address.clone(),
        machine_id: String::new(),
        boot_id: String::new(),
        session_counter: 0,
        agent_version: String::new(),
        facts: String::new(),
        facts_digest: None,
        facts_time: None,
        labels: BTreeMap::new(),
        answers: BTreeMap::new(),
        token: None,
        key: shown.key,
        enrolled: env.now,
        activated: None,
        last_seen: env.now,
        greeted: false,
        duplicate_of: None,
        notice: format!("enrolled after the backup of {since} from which this manager was restored; approve it if it belongs here"),
        replaced: None,
        skew: None,
        archived: None,
        unarchived: None,
        change: 0,
    };
    tx.insert_client(&client).await?;
    events::client_pending(tx, env, &client).await?;
    env.audit(tx, "adopt_client", format!("clients/{id}"), format!("enrolled after the backup, from {}", shown.address)).await
}

/// An attempt that an agent has and this manager does not.
#[derive(Debug, Clone)]
pub struct Unknown {
    /// Whose.
    pub client: ClientId,
    /// Which.
    pub attempt: AttemptId,
    /// Of which job.
    pub job: JobId,
    /// Of which revision of the job.
    pub revision: i64,
    /// Where it is.
    pub state: ExecutionState,
    /// What it is for, as its offer said; none of an older agent, which does not repeat that.
    pub purpose: Option<Purpose>,
}

/// Takes over an attempt that was made after the backup. Gives back whether it did: its job has to be known.
pub async fn adopt_attempt(tx: &mut dyn Tx, env: &Env, unknown: &Unknown) -> Result<bool> {
    if !env.settings.restored.is_some_and(|r| r.may_have_made(&unknown.attempt)) || tx.attempt(&unknown.attempt).await?.is_some() {
        return Ok(false);
    }
    let Some(job) = tx.job(&unknown.job).await? else { return Ok(false) };
    tx.insert_executions(&job.id, std::slice::from_ref(&unknown.client), env.now).await?;
    let Some(row) = tx.execution(&job.id, &unknown.client).await? else { return Ok(false) };
    let purpose = unknown.purpose.unwrap_or(row.purpose);
    let attempt = Attempt {
        id: unknown.attempt.clone(),
        job: job.id.clone(),
        client: unknown.client.clone(),
        number: row.attempts + 1,
        revision: unknown.revision,
        purpose,
        state: unknown.state,
        created: env.now,
        ended: None,
        outcome: vec![],
        signature: vec![],
    };
    tx.insert_attempts(std::slice::from_ref(&attempt)).await?;
    // Newer than any that this database knows: it is the one that the execution is about.
    let mut change = executions::moved(&row, unknown.state, "", "", env);
    change.attempt = Some((attempt.id.clone(), attempt.number, attempt.revision));
    change.cancel = Some(None);
    change.purpose = (purpose != row.purpose).then_some(purpose);
    tx.change_executions(&[change]).await?;
    env.wakes().jobs.insert(job.id);
    Ok(true)
}

/// The agent has told all that it knows: from now on what it does not know never reached it.
pub async fn caught_up(tx: &mut dyn Tx, env: &Env, hello: &sessions::Hello) -> Result<()> {
    let open = tx.open_executions_of(&hello.client).await?;
    sessions::missing_at_agent(tx, env, hello, open).await?;
    tx.set_caught_up(&hello.client).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn only_what_can_have_been_made_between_backup_and_restore_is_taken_at_its_word() {
        let (since_ms, until_ms) = (1_700_000_000_000, 1_700_086_400_000);
        let restored = Restored { since_ms, until_ms };
        let made = |ms: i64| restored.may_have_made(&AttemptId::new(at(ms), [7; 16]));
        assert!(made(since_ms) && made(since_ms + 5) && made(until_ms));
        assert!(!made(since_ms - 2 * MARGIN_MS) && !made(until_ms + 2 * MARGIN_MS));
        assert!(restored.may_have_issued(at(since_ms - 60_000)) && restored.may_have_issued(at(until_ms)));
        assert!(!restored.may_have_issued(at(since_ms - 2 * MARGIN_MS)) && !restored.may_have_issued(at(until_ms + 2 * MARGIN_MS)));
    }
}
