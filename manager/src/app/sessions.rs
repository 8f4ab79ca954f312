//! Sessions of agents: who connected, what it has, how far that is.

use super::{
    AppError, Env, Result, archive,
    brakes::{breakers, retries},
    enrolment, events, executions,
    restored::{self, Unknown},
    rollouts,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};
use sutler_base::{
    AttemptId, ClientId, Digest, JobId, Timestamp,
    state::{CancelStage, ClientState, ErrorKind, ExecutionState, Purpose},
};
use sutler_core::{
    execution,
    model::{Attempt, CancelRequest, Certificate, CertificateState, Client, Execution, Machine, Subject},
    rights::Reach,
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

/// How many sessions are opened in one unit of work at the most.
pub const TOGETHER: usize = 256;

/// Opens sessions, and says of each what came of it, in their order: tells clients from copies of them, and settles what each side has
/// of their attempts. A refusal of one changes nothing for the others.
pub async fn open(tx: &mut dyn Tx, env: &Env, hellos: &[Arc<Hello>]) -> Result<Vec<Result<Welcome>>> {
    let mut said: BTreeMap<usize, Result<Welcome>> = BTreeMap::new();
    let mut rest: Vec<usize> = (0..hellos.len()).collect();
    while !rest.is_empty() {
        // Of a client that says hello twice the second one is looked at by what the first one left.
        let (mut clients, mut later) = (BTreeMap::new(), Vec::new());
        for n in rest {
            match clients.entry(hellos[n].client.clone()) {
                Entry::Vacant(first) => drop(first.insert(n)),
                Entry::Occupied(_) => later.push(n),
            }
        }
        let mut numbers: Vec<usize> = clients.into_values().collect();
        numbers.sort_unstable();
        let these: Vec<&Hello> = numbers.iter().map(|n| &*hellos[*n]).collect();
        said.extend(numbers.into_iter().zip(open_each(tx, env, &these).await?));
        rest = later;
    }
    Ok(said.into_values().collect())
}

/// The same of clients each of which says hello once.
async fn open_each(tx: &mut dyn Tx, env: &Env, hellos: &[&Hello]) -> Result<Vec<Result<Welcome>>> {
    let ids: Vec<ClientId> = hellos.iter().map(|hello| hello.client.clone()).collect();
    let mut clients: BTreeMap<ClientId, Client> = tx.lock_clients(&ids).await?.into_iter().map(|c| (c.id.clone(), c)).collect();
    let serials: Vec<String> = hellos.iter().map(|hello| hello.serial.clone()).collect();
    let certificates: BTreeMap<String, Certificate> = tx.certificates(&serials).await?.into_iter().map(|c| (c.serial.clone(), c)).collect();
    let mut machines: BTreeMap<ClientId, Vec<Machine>> = BTreeMap::new();
    for machine in tx.machines_of(&ids).await? {
        machines.entry(machine.client.clone()).or_default().push(machine);
    }
    let (mut said, mut come) = (BTreeMap::new(), Vec::new());
    for (n, hello) in hellos.iter().enumerate() {
        let env = env.on_behalf_of(&format!("clients/{}", hello.client), Reach::Everywhere);
        let machines = machines.remove(&hello.client).unwrap_or_default();
        let Some(client) = clients.remove(&hello.client) else {
            said.insert(n, Err(AppError::not_found("client", &hello.client)));
            continue;
        };
        match arrive(tx, &env, hello, client, certificates.get(&hello.serial), &machines).await? {
            Arrived::Itself(client) => come.push((n, env, *hello, *client, session::is_decided(&machines))),
            Arrived::Copy(welcome) => drop(said.insert(n, Ok(*welcome))),
            Arrived::Refused(why) => drop(said.insert(n, Err(why))),
        }
    }
    let now: Vec<Client> = come.iter().map(|(.., client, _)| client.clone()).collect();
    tx.greet_clients(&now).await?;
    tx.touch_clients(&now.iter().map(|client| (client.id.clone(), env.now)).collect::<Vec<_>>()).await?;
    let here: Vec<ClientId> = now.into_iter().map(|client| client.id).collect();
    let mut open: BTreeMap<ClientId, Vec<Execution>> = BTreeMap::new();
    for row in tx.open_executions_of_all(&here).await? {
        open.entry(row.client.clone()).or_default().push(row);
    }
    let mut reported = Vec::with_capacity(come.len());
    for (_, env, hello, client, _) in &come {
        let rows = open.remove(&client.id).unwrap_or_default();
        reported.push(settle_open(tx, env, hello, rows).await?);
    }
    let attempts: Vec<AttemptId> = come.iter().flat_map(|(_, _, hello, ..)| hello.open.keys().cloned()).collect();
    let known: BTreeMap<AttemptId, Attempt> =
        if attempts.is_empty() { BTreeMap::new() } else { tx.attempts(&attempts).await?.into_iter().map(|a| (a.id.clone(), a)).collect() };
    for ((n, _, hello, client, renew), report_from) in come.into_iter().zip(reported) {
        let mut unknown = unknown_here(&known, hello);
        if report_from.is_some() {
            // What has ended is about to be reported, with the job that it belongs to.
            unknown.retain(|id| hello.open.get(id).is_none_or(|open| !open.state.is_end()));
        }
        let send_facts = client.facts_digest.is_none() || client.facts_digest != hello.facts_digest;
        let facts = client.facts_digest;
        said.insert(n, Ok(Welcome { client, send_facts, facts, unknown, report_from, renew, superseded: false }));
    }
    Ok(said.into_values().collect())
}

/// Who it is that says hello.
enum Arrived {
    /// The client, with what it says of itself.
    Itself(Box<Client>),
    /// Perhaps another machine with its key; what that is told.
    Copy(Box<Welcome>),
    /// Nobody who is let in. Nothing was changed.
    Refused(AppError),
}

/// Tells a client from a copy of it, which is noted.
async fn arrive(
    tx: &mut dyn Tx,
    env: &Env,
    hello: &Hello,
    mut client: Client,
    certificate: Option<&Certificate>,
    machines: &[Machine],
) -> Result<Arrived> {
    if client.state == ClientState::Removed {
        return Ok(Arrived::Refused(AppError::Unauthenticated {
            reason: "CLIENT_REMOVED",
            message: "this client was removed; enrol again with a new token".into(),
        }));
    }
    // Once more, for the client's next certificate may have been used since the stream was opened: then what is here is a machine
    // that was sorted out, and not one more copy.
    let subject = Subject::Client(client.id.clone());
    let superseded = match enrolment::judge_certificate(certificate, &subject, &hello.serial, Some(client.state)) {
        Err(AppError::Unauthenticated { reason: enrolment::SUPERSEDED, .. }) => true,
        Ok(()) => false,
        Err(refused) => return Ok(Arrived::Refused(refused)),
    };
    let presented =
        Presented { machine_id: &hello.machine_id, boot_id: &hello.boot_id, session_counter: hello.session_counter, superseded };
    let identified = identify(&client, machines, presented);
    if let Identified::Other(message) = identified {
        return Ok(Arrived::Refused(AppError::Unauthenticated { reason: "OTHER_MACHINE", message }));
    }
    archive::take_back(tx, env, &mut client, "it connected again").await?;
    if let Identified::Copy(what) = identified {
        note_machines(tx, env, &client, machines, hello).await?;
        if client.state == ClientState::Active {
            client.state = ClientState::Quarantined;
            client.notice = what.clone();
            tx.save_client(&client).await?;
            env.audit(tx, "copy_noticed", format!("clients/{}", client.id), &what).await?;
            events::client_quarantined(tx, env, &client).await?;
            env.wakes().access.insert(client.id.clone());
        }
        let welcome = Welcome { client, send_facts: false, facts: None, unknown: vec![], report_from: None, renew: false, superseded };
        return Ok(Arrived::Copy(Box::new(welcome)));
    }
    if !machines.is_empty() && !session::is_decided(machines) {
        note_machines(tx, env, &client, machines, hello).await?;
    }
    client.machine_id = hello.machine_id.clone();
    client.boot_id = hello.boot_id.clone();
    client.session_counter = hello.session_counter;
    client.agent_version = hello.agent_version.clone();
    client.address = hello.address.clone();
    client.skew = hello.agent_time.map(|there| there.as_millisecond().saturating_sub(env.now.as_millisecond()));
    Ok(Arrived::Itself(Box::new(client)))
}

/// Settles what the manager has open of a client with what that has. Gives back from which attempt on the manager, which was restored,
/// wants to hear again.
async fn settle_open(tx: &mut dyn Tx, env: &Env, hello: &Hello, rows: Vec<Execution>) -> Result<Option<AttemptId>> {
    let report_from = match env.settings.restored.filter(|_| hello.capabilities.iter().any(|c| c == REPORT_AGAIN)) {
        Some(restored) if !tx.has_caught_up(&hello.client).await? => restored.first_attempt(),
        _ => {
            missing_at_agent(tx, env, hello, rows).await?;
            return Ok(None);
        }
    };
    for (attempt, open) in &hello.open {
        let Some((job, revision)) = open.job.clone().filter(|_| !open.state.is_end()) else { continue };
        let (client, attempt) = (hello.client.clone(), attempt.clone());
        let unknown = Unknown { client, attempt, job, revision, state: open.state, purpose: open.purpose };
        restored::adopt_attempt(tx, env, &unknown).await?;
    }
    Ok(Some(report_from))
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
pub(super) async fn missing_at_agent(tx: &mut dyn Tx, env: &Env, hello: &Hello, rows: Vec<Execution>) -> Result<()> {
    for row in rows {
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

/// Attempts that the agent has and the manager does not want: those that are not `known`, and those that it has ended.
fn unknown_here(known: &BTreeMap<AttemptId, Attempt>, hello: &Hello) -> Vec<AttemptId> {
    let is_unknown = |id: &&AttemptId| match known.get(*id).filter(|a| a.client == hello.client) {
        None => true,
        Some(attempt) => attempt.state.is_end() && attempt.outcome.is_empty(),
    };
    hello.open.keys().filter(is_unknown).cloned().collect()
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
mod tests;
