//! Sessions of agents: who connected, what it has, what it reports.

use super::{
    AppError, Env, Result, archive,
    brakes::{breakers, retries},
    clients, enrolment, events, executions, keeping, leaving,
    restored::{self, Unknown},
    rollouts,
};
use std::collections::BTreeMap;
use sutler_base::{
    AttemptId, ClientId, Digest, JobId, Timestamp,
    outcome::{Outcome, SIGNING_CONTEXT},
    state::{CancelReason, CancelStage, ClientState, ErrorKind, ExecutionState, Purpose},
};
use sutler_certs::keys::PublicKey;
use sutler_core::{
    execution,
    model::{Attempt, CancelRequest, CertificateState, Client, Machine, Subject},
    session::{self, Identified, Presented, identify},
};
use sutler_proto::REPORT_AGAIN;
use sutler_store::Tx;

/// What an agent says when it connects.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The client, from its certificate.
    pub client: ClientId,
    /// The serial number of the certificate that it showed.
    pub serial: String,
    /// The machine.
    pub machine_id: String,
    /// The start of the machine.
    pub boot_id: String,
    /// Greater with every connection.
    pub session_counter: u64,
    /// The agent's version.
    pub agent_version: String,
    /// The digest of its facts.
    pub facts_digest: Option<Digest>,
    /// The address that it called from.
    pub address: String,
    /// The attempts in its journal.
    pub open: BTreeMap<AttemptId, Open>,
    /// What it can do beyond the protocol's version.
    pub capabilities: Vec<String>,
    /// Whether the journal was lost since the last session.
    pub journal_lost: bool,
    /// What time it is there.
    pub agent_time: Option<Timestamp>,
}

/// An attempt in an agent's journal.
#[derive(Debug, Clone)]
pub struct Open {
    /// Where it is.
    pub state: ExecutionState,
    /// Of which job and revision it says to be; an older agent does not say.
    pub job: Option<(JobId, i64)>,
    /// What it says that the attempt is for; an older agent does not say.
    pub purpose: Option<Purpose>,
}

/// What the manager says to that.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// The client, as it is now.
    pub client: Client,
    /// Whether its facts are wanted.
    pub send_facts: bool,
    /// The digest of the facts that are here, if any are.
    pub facts: Option<Digest>,
    /// Attempts that the manager does not want any more.
    pub unknown: Vec<AttemptId>,
    /// The manager was restored, and wants to hear again of attempts from this one on before it offers anything.
    pub report_from: Option<AttemptId>,
    /// Whether it is to get a key of its own at once, for others have the one that it has.
    pub renew: bool,
    /// Its certificate was superseded: that opens no session, and says that there are two machines, or an old state of one.
    pub superseded: bool,
}

/// Opens a session: tells the client from a copy of it, and settles what each side has of their attempts.
pub async fn open(tx: &mut dyn Tx, env: &Env, hello: &Hello) -> Result<Welcome> {
    let mut client = clients::load(tx, &hello.client).await?;
    if client.state == ClientState::Removed {
        return Err(AppError::Unauthenticated {
            reason: "CLIENT_REMOVED",
            message: "this client was removed; enrol again with a new token".into(),
        });
    }
    // Once more, for the client's next certificate may have been used since the stream was opened: then what is here is a machine
    // that was sorted out, and not one more copy.
    let superseded = match enrolment::check_certificate(tx, &Subject::Client(client.id.clone()), &hello.serial).await {
        Err(AppError::Unauthenticated { reason: enrolment::SUPERSEDED, .. }) => true,
        checked => checked.map(|()| false)?,
    };
    let machines = tx.machines_of(std::slice::from_ref(&client.id)).await?;
    let presented =
        Presented { machine_id: &hello.machine_id, boot_id: &hello.boot_id, session_counter: hello.session_counter, superseded };
    let identified = identify(&client, &machines, presented);
    if let Identified::Other(message) = identified {
        return Err(AppError::Unauthenticated { reason: "OTHER_MACHINE", message });
    }
    archive::take_back(tx, env, &mut client, "it connected again").await?;
    if let Identified::Copy(what) = identified {
        note_machines(tx, env, &client, &machines, hello).await?;
        if client.state == ClientState::Active {
            client.state = ClientState::Quarantined;
            client.notice = what.clone();
            tx.save_client(&client).await?;
            env.audit(tx, "copy_noticed", format!("clients/{}", client.id), &what).await?;
            events::client_quarantined(tx, env, &client).await?;
            env.wakes().access.insert(client.id.clone());
        }
        return Ok(Welcome { client, send_facts: false, facts: None, unknown: vec![], report_from: None, renew: false, superseded });
    }
    let decided = session::is_decided(&machines);
    if !machines.is_empty() && !decided {
        note_machines(tx, env, &client, &machines, hello).await?;
    }
    client.machine_id = hello.machine_id.clone();
    client.boot_id = hello.boot_id.clone();
    client.session_counter = hello.session_counter;
    client.agent_version = hello.agent_version.clone();
    client.address = hello.address.clone();
    client.skew = hello.agent_time.map(|there| there.as_millisecond().saturating_sub(env.now.as_millisecond()));
    tx.save_client(&client).await?;
    tx.touch_clients(&[(client.id.clone(), env.now)]).await?;
    let send_facts = client.facts_digest.is_none() || client.facts_digest != hello.facts_digest;
    let report_from = match env.settings.restored.filter(|_| hello.capabilities.iter().any(|c| c == REPORT_AGAIN)) {
        Some(restored) if !tx.has_caught_up(&client.id).await? => Some(restored.first_attempt()),
        _ => None,
    };
    match report_from {
        None => missing_at_agent(tx, env, hello).await?,
        Some(_) => {
            for (attempt, open) in &hello.open {
                let Some((job, revision)) = open.job.clone().filter(|_| !open.state.is_end()) else { continue };
                let (client, attempt) = (client.id.clone(), attempt.clone());
                let unknown = Unknown { client, attempt, job, revision, state: open.state, purpose: open.purpose };
                restored::adopt_attempt(tx, env, &unknown).await?;
            }
        }
    }
    // What has ended is about to be reported, with the job that it belongs to.
    let mut unknown = unknown_here(tx, hello).await?;
    if report_from.is_some() {
        unknown.retain(|id| hello.open.get(id).is_none_or(|open| !open.state.is_end()));
    }
    let facts = client.facts_digest;
    Ok(Welcome { client, send_facts, facts, unknown, report_from, renew: decided, superseded })
}

/// Notes the machine that says hello among those that have the client's key; with the first of them also the one that was
/// taken for the client until now.
async fn note_machines(tx: &mut dyn Tx, env: &Env, client: &Client, known: &[Machine], hello: &Hello) -> Result<()> {
    let now = Machine {
        client: client.id.clone(),
        machine_id: hello.machine_id.clone(),
        boot_id: hello.boot_id.clone(),
        address: hello.address.clone(),
        session_counter: hello.session_counter,
        serial: hello.serial.clone(),
        seen: env.now,
        kept: false,
    };
    if known.is_empty() && client.session_counter > 0 && (&client.machine_id, &client.boot_id) != (&now.machine_id, &now.boot_id) {
        let certificates = tx.certificates_of(&Subject::Client(client.id.clone())).await?;
        let serial = certificates.into_iter().find(|c| c.state == CertificateState::Active).map(|c| c.serial).unwrap_or_default();
        let before = Machine {
            machine_id: client.machine_id.clone(),
            boot_id: client.boot_id.clone(),
            address: client.address.clone(),
            session_counter: client.session_counter,
            serial,
            seen: client.last_seen,
            ..now.clone()
        };
        tx.save_machine(&before).await?;
    }
    let again = known.iter().any(|m| (&m.machine_id, &m.boot_id) == (&now.machine_id, &now.boot_id));
    if again || known.len() < session::MACHINES_MAX {
        tx.save_machine(&now).await?;
    }
    Ok(())
}

/// Attempts that the manager has open and the agent does not know. Those that it had accepted are interrupted: its journal
/// was lost, and nobody knows how far it was. Those that it had never accepted are offered again, by the orders that follow; but
/// after the loss of a journal as new attempts, for the word that it had accepted may have been lost, too, and no step of an
/// attempt may be started twice.
pub(super) async fn missing_at_agent(tx: &mut dyn Tx, env: &Env, hello: &Hello) -> Result<()> {
    for row in tx.open_executions_of(&hello.client).await? {
        let Some(id) = row.attempt.clone().filter(|_| row.state != ExecutionState::Queued) else { continue };
        if hello.open.contains_key(&id) {
            continue;
        }
        let attempt = tx.attempt(&id).await?.filter(|a| a.state != ExecutionState::Offered);
        if let Some(cancel) = row.cancel.as_ref().filter(|_| !execution::has_begun(row.state)) {
            // What the agent does not have it will not start.
            executions::finish_cancel(tx, env, &row, cancel.reason).await?;
        } else if let Some(attempt) = attempt {
            let mut text = "the agent had accepted this attempt and does not know it any more";
            let mut change = executions::moved(&row, ExecutionState::Interrupted, ErrorKind::JournalLost.as_str(), text, env);
            change.cancel = Some(None);
            match retries::again(tx, env, &row, retries::LOST, &change).await? {
                Some((waits, retried)) => {
                    tx.change_executions(&[waits]).await?;
                    retries::wait(tx, &retried).await?;
                }
                None => {
                    text = "the agent had accepted this attempt and does not know it any more; run it again with `job retry`";
                    change.detail = text.into();
                    tx.change_executions(&[change]).await?;
                }
            }
            breakers::count_lost(tx, env, &attempt).await?;
            let why = (ErrorKind::JournalLost.as_str(), text);
            events::execution_failed(tx, env, &row, &attempt, ExecutionState::Interrupted, why).await?;
            tx.set_attempt_states(&[(id, ExecutionState::Interrupted)]).await?;
            env.wakes().jobs.insert(row.job);
        } else if hello.journal_lost {
            rollouts::queued_again(tx, &row.job, &[&row]).await?;
            let change = executions::moved(&row, ExecutionState::Queued, "", "", env);
            tx.change_executions(&[change]).await?;
            tx.set_attempt_states(&[(id, ExecutionState::Canceled)]).await?;
            env.wakes().jobs.insert(row.job);
        }
    }
    Ok(())
}

/// Attempts that the agent has and the manager does not want: those it does not know, and those that it has ended.
async fn unknown_here(tx: &mut dyn Tx, hello: &Hello) -> Result<Vec<AttemptId>> {
    let ids: Vec<AttemptId> = hello.open.keys().cloned().collect();
    let known = tx.attempts(&ids).await?;
    Ok(ids
        .into_iter()
        .filter(|id| match known.iter().find(|a| a.id == *id && a.client == hello.client) {
            None => true,
            Some(attempt) => attempt.state.is_end() && attempt.outcome.is_empty(),
        })
        .collect())
}

/// Where an attempt is, as its agent says.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Which attempt.
    pub attempt: AttemptId,
    /// On which client: from its certificate.
    pub client: ClientId,
    /// Where it is; no end.
    pub state: ExecutionState,
    /// What it waits for, where it waits; none where the agent did not say, and it may be what it was.
    pub reason: Option<String>,
    /// The same in a sentence, where there is more to say.
    pub detail: String,
    /// The package that is worked on, from 0.
    pub item: u32,
    /// Bytes that are there.
    pub bytes_done: u64,
    /// Bytes that there will be.
    pub bytes_total: u64,
    /// The step that runs.
    pub step: String,
}

/// Takes in where attempts are: the newest of each. What is not the client's, not the newest attempt, or at an end already is
/// left alone.
pub async fn progress(tx: &mut dyn Tx, env: &Env, reports: &[Progress]) -> Result<()> {
    let ids: Vec<AttemptId> = reports.iter().map(|r| r.attempt.clone()).collect();
    let attempts = tx.attempts(&ids).await?;
    let keys: Vec<_> = attempts.iter().map(|a| (a.job.clone(), a.client.clone())).collect();
    let rows = tx.executions(&keys).await?;
    let (mut changes, mut states) = (Vec::new(), Vec::new());
    for report in reports {
        let Some(attempt) = attempts.iter().find(|a| a.id == report.attempt && a.client == report.client) else { continue };
        let Some(row) = rows.iter().find(|r| r.attempt.as_ref() == Some(&attempt.id)) else { continue };
        if row.state.is_end() || report.state.is_end() || attempt.state.is_end() {
            continue;
        }
        let same = row.state == report.state;
        let reason = report.reason.as_deref().unwrap_or(if same { &row.reason } else { "" });
        let detail = if same && report.reason.is_none() { &row.detail } else { &report.detail };
        let mut change = executions::moved(row, report.state, reason, detail, env);
        if same && row.reason == reason {
            change.entered = row.entered;
        }
        if !same || report.reason.is_some() {
            change.progress = Some((report.item, report.bytes_done, report.bytes_total, report.step.clone()));
        }
        changes.push(change);
        if attempt.state != report.state {
            states.push((attempt.id.clone(), report.state));
        }
    }
    tx.change_executions(&changes).await?;
    tx.set_attempt_states(&states).await?;
    env.wakes().jobs.extend(changes.into_iter().map(|c| c.job));
    Ok(())
}

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

/// Records the outcome of an attempt. Gives back why it was refused, if it was; then the first one stands.
///
/// The same outcome again is fine: its answer had been lost.
pub async fn outcome(tx: &mut dyn Tx, env: &Env, report: &Report) -> Result<std::result::Result<(), String>> {
    let object = format!("attempts/{}", report.attempt);
    let mut known = tx.attempt(&report.attempt).await?;
    if known.is_none()
        && let Some((job, revision)) = report.job.clone().filter(|_| env.settings.restored.is_some())
        && parse(report).is_ok()
        && signed(tx, report).await?
    {
        let (client, attempt) = (report.client.clone(), report.attempt.clone());
        // The end comes right after.
        let unknown = Unknown { client, attempt, job, revision, state: ExecutionState::Offered, purpose: report.purpose };
        if restored::adopt_attempt(tx, env, &unknown).await? {
            known = tx.attempt(&report.attempt).await?;
        }
    }
    let known = known.filter(|a| a.client == report.client);
    let Some(attempt) = known else { return Ok(Err("this client has no such attempt".into())) };
    if !attempt.outcome.is_empty() {
        if attempt.outcome == report.outcome {
            return Ok(Ok(()));
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
    if !signed(tx, report).await? {
        env.audit_refusal(tx, "outcome_refused", &object, format!("clients/{}: the signature is not good", report.client)).await?;
        return Ok(Err("the outcome is not signed with a key of this client".into()));
    }
    let row = tx.execution(&attempt.job, &attempt.client).await?;
    breakers::count(tx, env, &attempt, &outcome).await?;
    let done = Attempt {
        state: outcome.state,
        ended: Some(env.now),
        outcome: report.outcome.clone(),
        signature: report.signature.clone(),
        ..attempt.clone()
    };
    tx.finish_attempts(&[done]).await?;
    if let Some(row) = &row {
        let (reason, detail) = execution::says(&outcome);
        events::execution_failed(tx, env, row, &attempt, outcome.state, (&reason, &detail)).await?;
    }
    if let Some(row) = row.as_ref().filter(|r| r.attempt.as_ref() == Some(&attempt.id) && outcome.state != ExecutionState::Canceled) {
        rollouts::happened(tx, env, row).await?;
    }
    // What really happened wins over a cancellation that became final because a lease had run out, or over a loss that
    // turned out to be none; a newer attempt wins over both.
    if let Some(row) = row.filter(|r| {
        let called_off = r.state == ExecutionState::Queued && outcome.state == ExecutionState::Canceled;
        r.attempt.as_ref() == Some(&attempt.id) && !called_off
    }) {
        if let Some(cancel) = row.cancel.as_ref().filter(|c| outcome.state == ExecutionState::Canceled && execution::by_rollout(c.reason)) {
            let change = executions::canceled(tx, env, &row, cancel.reason, !outcome.items.is_empty()).await?;
            tx.change_executions(&[change]).await?;
            return Ok(Ok(()));
        }
        let (reason, detail) = execution::says(&outcome);
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
                executions::canceled(tx, env, &row, *why, false).await?
            }
            _ => executions::moved(&row, outcome.state, &reason, &detail, env),
        };
        if attempt.purpose == Purpose::Leave && outcome.state != ExecutionState::Canceled {
            change = leaving::ended(tx, env, &row, &outcome, &reason, &detail).await?;
        }
        change.cancel = Some(None);
        let kind = retries::kind(&outcome, change.to);
        if let Some((waits, retried)) = retries::again(tx, env, &row, &[kind], &change).await? {
            tx.change_executions(&[waits]).await?;
            retries::wait(tx, &retried).await?;
            env.wakes().jobs.insert(attempt.job);
            return Ok(Ok(()));
        }
        if change.to.is_good() && row.attempts > 1 {
            tx.forget_retries(&[(row.job.clone(), row.client.clone())]).await?;
        }
        let (ended, good) = (change.to.is_end() && attempt.purpose != Purpose::Leave, change.to.is_good());
        tx.change_executions(&[change]).await?;
        if ended && good {
            keeping::finished(tx, env, &attempt.job, &attempt.client).await?;
        }
        // It may have left while something ran.
        if ended && leaving::takes_back(tx, &attempt.job).await? && !executions::is_reached(tx, &attempt.job, &attempt.client).await? {
            leaving::leave(tx, env, &attempt.job, std::slice::from_ref(&attempt.client)).await?;
        }
    }
    env.wakes().jobs.insert(attempt.job);
    Ok(Ok(()))
}

fn parse(report: &Report) -> std::result::Result<Outcome, String> {
    let outcome = Outcome::parse(&report.outcome).map_err(|e| e.0)?;
    if outcome.attempt != report.attempt || outcome.client != report.client {
        return Err("the outcome names another attempt or client than the one that reports it".into());
    }
    Ok(outcome)
}

/// Whether a key that the client has or had made this signature.
async fn signed(tx: &mut dyn Tx, report: &Report) -> Result<bool> {
    for certificate in tx.certificates_of(&Subject::Client(report.client.clone())).await? {
        let good = PublicKey::from_spki(&certificate.public_key)
            .is_ok_and(|key| key.verify(SIGNING_CONTEXT, &report.outcome, &report.signature).is_ok());
        if good {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an agent says to a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAnswer {
    /// It will start nothing of it any more.
    NotStarted,
    /// It had started, and goes on to its end.
    Started,
    /// A package had started, which goes on to its end; those that would follow it never start.
    NothingFollows,
}

/// An agent has answered a cancellation.
pub async fn cancel_acknowledged(tx: &mut dyn Tx, env: &Env, client: &ClientId, id: &AttemptId, answer: CancelAnswer) -> Result<()> {
    let Some(attempt) = tx.attempt(id).await?.filter(|a| a.client == *client) else { return Ok(()) };
    let row = tx.execution(&attempt.job, client).await?.filter(|r| r.attempt.as_ref() == Some(id) && !r.state.is_end());
    let Some(row) = row else { return Ok(()) };
    let Some(cancel) = row.cancel.clone() else { return Ok(()) };
    env.wakes().jobs.insert(row.job.clone());
    let (detail, cancel) = match answer {
        CancelAnswer::NotStarted => return executions::finish_cancel(tx, env, &row, cancel.reason).await,
        CancelAnswer::Started => ("had started when the cancellation came; goes on to its end", None),
        CancelAnswer::NothingFollows => (row.detail.as_str(), Some(CancelRequest { stage: CancelStage::Acknowledged, ..cancel })),
    };
    // What has begun needs its permission for each of its steps.
    env.wakes().clients.extend(cancel.as_ref().map(|_| row.client.clone()));
    let mut change = executions::moved(&row, row.state, &row.reason, detail, env);
    change.entered = row.entered;
    change.cancel = Some(cancel);
    Ok(tx.change_executions(&[change]).await?)
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
pub(super) mod tests;
