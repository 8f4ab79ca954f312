//! What became of attempts, as their agents report it: of each the first word stands.
//!
//! Those that come while others are being recorded are recorded together: a fleet that reports in one moment costs statements by
//! the hundred rows, and one that comes alone waits for nobody.

use super::{
    Env, Result,
    brakes::{breakers, retries},
    destinations, events, executions, keeping, leaving,
    restored::{self, Unknown},
    rollouts,
};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    AttemptId, ClientId, JobId,
    outcome::{Outcome, SIGNING_CONTEXT},
    state::{CancelReason, ExecutionState, Purpose},
};
use sutler_certs::keys::PublicKey;
use sutler_core::{
    execution,
    model::{Attempt, CancelRequest, Execution},
    rights::Reach,
};
use sutler_store::{ExecutionChange, Tx};

/// How many are recorded in one unit of work at the most.
pub const TOGETHER: usize = 256;

/// An outcome as it came.
#[derive(Debug, Clone)]
pub struct Report {
    /// The client, from its certificate.
    pub client: ClientId,
    /// The attempt that the message names.
    pub attempt: AttemptId,
    /// The bytes that were signed.
    pub outcome: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
    /// The job and its revision, as the agent says: for a manager that was restored and does not know the attempt.
    pub job: Option<(JobId, i64)>,
    /// What the attempt is for, likewise.
    pub purpose: Option<Purpose>,
}

/// What is said to a report: why it was refused, if it was; then the first one stands.
pub type Recorded = std::result::Result<(), String>;

/// An outcome that is good and the first of its attempt.
struct First {
    /// As the client that reports it.
    env: Env,
    /// As it was before.
    attempt: Attempt,
    outcome: Outcome,
    /// What was signed, and the signature.
    recorded: (Vec<u8>, Vec<u8>),
}

/// Records the outcomes of attempts, and says of each what came of it, in their order.
///
/// The same outcome again is fine: its answer had been lost.
pub async fn record(tx: &mut dyn Tx, env: &Env, reports: &[Report]) -> Result<Vec<Recorded>> {
    let ids: Vec<AttemptId> = reports.iter().map(|report| report.attempt.clone()).collect();
    let mut known: BTreeMap<AttemptId, Attempt> = tx.attempts(&ids).await?.into_iter().map(|a| (a.id.clone(), a)).collect();
    let clients: BTreeSet<ClientId> = reports.iter().map(|report| report.client.clone()).collect();
    let mut keys: BTreeMap<ClientId, Vec<PublicKey>> = BTreeMap::new();
    for (client, key) in tx.client_keys(&clients.into_iter().collect::<Vec<_>>()).await? {
        keys.entry(client).or_default().extend(PublicKey::from_spki(&key));
    }
    let (mut said, mut first) = (Vec::with_capacity(reports.len()), Vec::new());
    for report in reports {
        let env = env.on_behalf_of(&format!("clients/{}", report.client), Reach::Everywhere);
        let keys = keys.get(&report.client).map_or(&[][..], Vec::as_slice);
        said.push(match look(tx, &env, report, keys, &mut known).await? {
            Ok(Some(found)) => {
                first.push(found);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        });
    }
    settle(tx, env, first).await?;
    Ok(said)
}

/// Looks at one report: the first of its attempt, or the same again, or why it is refused. What is found to be the first is it from
/// then on.
async fn look(
    tx: &mut dyn Tx,
    env: &Env,
    report: &Report,
    keys: &[PublicKey],
    known: &mut BTreeMap<AttemptId, Attempt>,
) -> Result<std::result::Result<Option<First>, String>> {
    let object = format!("attempts/{}", report.attempt);
    // A key that the client has or had.
    let signed = || keys.iter().any(|key| key.verify(SIGNING_CONTEXT, &report.outcome, &report.signature).is_ok());
    if !known.contains_key(&report.attempt)
        && let Some((job, revision)) = report.job.clone().filter(|_| env.settings.restored.is_some())
        && parse(report).is_ok()
        && signed()
    {
        let (client, attempt) = (report.client.clone(), report.attempt.clone());
        // The end comes right after.
        let unknown = Unknown { client, attempt, job, revision, state: ExecutionState::Offered, purpose: report.purpose };
        if restored::adopt_attempt(tx, env, &unknown).await?
            && let Some(adopted) = tx.attempt(&report.attempt).await?
        {
            known.insert(adopted.id.clone(), adopted);
        }
    }
    let Some(attempt) = known.get_mut(&report.attempt).filter(|a| a.client == report.client) else {
        return Ok(Err("this client has no such attempt".into()));
    };
    if !attempt.outcome.is_empty() {
        if attempt.outcome == report.outcome {
            return Ok(Ok(None));
        }
        env.audit_refusal(tx, "outcome_refused", &object, format!("clients/{} reported another outcome than before", report.client))
            .await?;
        return Ok(Err("another outcome was recorded for this attempt before; it stands".into()));
    }
    let outcome = match parse(report) {
        Ok(outcome) => outcome,
        Err(why) => {
            env.audit_refusal(tx, "outcome_refused", &object, format!("clients/{}: {why}", report.client)).await?;
            return Ok(Err(why));
        }
    };
    if !signed() {
        env.audit_refusal(tx, "outcome_refused", &object, format!("clients/{}: the signature is not good", report.client)).await?;
        return Ok(Err("the outcome is not signed with a key of this client".into()));
    }
    let before = attempt.clone();
    attempt.outcome = report.outcome.clone();
    let recorded = (report.outcome.clone(), report.signature.clone());
    Ok(Ok(Some(First { env: env.clone(), attempt: before, outcome, recorded })))
}

/// What ended of a job.
#[derive(Default)]
struct Ended {
    clients: Vec<ClientId>,
    /// Those of them on which all is well.
    well: Vec<ClientId>,
}

/// Writes down first outcomes, and what becomes of the executions that they end.
async fn settle(tx: &mut dyn Tx, env: &Env, first: Vec<First>) -> Result<()> {
    if first.is_empty() {
        return Ok(());
    }
    let key = |attempt: &Attempt| (attempt.job.clone(), attempt.client.clone());
    let keys: Vec<_> = first.iter().map(|first| key(&first.attempt)).collect();
    let rows: BTreeMap<_, Execution> =
        tx.executions(&keys).await?.into_iter().map(|row| ((row.job.clone(), row.client.clone()), row)).collect();
    breakers::count(tx, env, &first.iter().map(|first| (&first.attempt, &first.outcome)).collect::<Vec<_>>()).await?;
    let done = |First { attempt, outcome, recorded, .. }: &First| Attempt {
        state: outcome.state,
        ended: Some(env.now),
        outcome: recorded.0.clone(),
        signature: recorded.1.clone(),
        ..attempt.clone()
    };
    tx.finish_attempts(&first.iter().map(done).collect::<Vec<_>>()).await?;
    let (mut changes, mut waiting, mut tried) = (Vec::new(), Vec::new(), Vec::new());
    let mut ended: BTreeMap<JobId, Ended> = BTreeMap::new();
    for First { env, attempt, outcome, .. } in &first {
        env.wakes().jobs.insert(attempt.job.clone());
        let Some(row) = rows.get(&key(attempt)) else { continue };
        let (reason, detail) = execution::says(outcome);
        events::execution_failed(tx, env, row, attempt, outcome.state, (&reason, &detail)).await?;
        // A newer attempt wins over whatever became of this one.
        if row.attempt.as_ref() != Some(&attempt.id) {
            continue;
        }
        if outcome.state != ExecutionState::Canceled {
            rollouts::happened(tx, env, row).await?;
        }
        let called_off = row.state == ExecutionState::Queued && outcome.state == ExecutionState::Canceled;
        if called_off {
            continue;
        }
        if let Some(cancel) = row.cancel.as_ref().filter(|c| outcome.state == ExecutionState::Canceled && execution::by_rollout(c.reason)) {
            changes.push(executions::canceled(tx, env, row, cancel.reason, !outcome.items.is_empty()).await?);
            continue;
        }
        let change = becomes(tx, env, row, attempt, outcome).await?;
        if let Some((waits, retried)) = retries::again(tx, env, row, &[retries::kind(outcome, change.to)], &change).await? {
            changes.push(waits);
            waiting.push(retried);
            continue;
        }
        let is_well = change.to.is_good();
        if is_well && row.attempts > 1 {
            tried.push(key(attempt));
        }
        if change.to.is_end() && attempt.purpose != Purpose::Leave {
            let of_job = ended.entry(attempt.job.clone()).or_default();
            of_job.clients.push(attempt.client.clone());
            of_job.well.extend(is_well.then(|| attempt.client.clone()));
        }
        changes.push(change);
    }
    tx.change_executions(&changes).await?;
    for retried in &waiting {
        retries::wait(tx, retried).await?;
    }
    if !tried.is_empty() {
        tx.forget_retries(&tried).await?;
    }
    for (job, Ended { clients, well }) in ended {
        keeping::finished(tx, env, &job, &well).await?;
        if leaving::takes_back(tx, &job).await? {
            // They may have left while something ran.
            let reached = destinations::reached(tx, &job, &clients).await?;
            for client in clients.iter().filter(|client| !reached.contains(client)) {
                let env = env.on_behalf_of(&format!("clients/{client}"), Reach::Everywhere);
                leaving::leave(tx, &env, &job, std::slice::from_ref(client)).await?;
            }
        }
    }
    Ok(())
}

/// What the newest attempt's outcome makes of its execution. What really happened wins over a cancellation that became final because a
/// lease had run out, or over a loss that turned out to be none.
async fn becomes(tx: &mut dyn Tx, env: &Env, row: &Execution, attempt: &Attempt, outcome: &Outcome) -> Result<ExecutionChange> {
    let (reason, detail) = execution::says(outcome);
    let reason = match (&row.cancel, outcome.state) {
        (Some(cancel), ExecutionState::Canceled) => cancel.reason.as_str().to_owned(),
        // It was final without an answer, and stands.
        (None, ExecutionState::Canceled) if row.state == ExecutionState::Canceled => row.reason.clone(),
        _ => reason,
    };
    let mut change = match &row.cancel {
        // It is offered the newest revision.
        Some(CancelRequest { reason: why @ (CancelReason::Revised | CancelReason::CameBack), .. })
            if outcome.state == ExecutionState::Canceled =>
        {
            executions::canceled(tx, env, row, *why, false).await?
        }
        _ => executions::moved(row, outcome.state, &reason, &detail, env),
    };
    if attempt.purpose == Purpose::Leave && outcome.state != ExecutionState::Canceled {
        change = leaving::ended(tx, env, row, outcome, &reason, &detail).await?;
    }
    change.cancel = Some(None);
    Ok(change)
}

fn parse(report: &Report) -> std::result::Result<Outcome, String> {
    let outcome = Outcome::parse(&report.outcome).map_err(|e| e.0)?;
    if outcome.attempt != report.attempt || outcome.client != report.client {
        return Err("the outcome names another attempt or client than the one that reports it".into());
    }
    Ok(outcome)
}

#[cfg(test)]
#[path = "outcomes_tests.rs"]
pub(crate) mod tests;
