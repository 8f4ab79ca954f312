//! How a machine becomes a client, and how clients and operators get their next certificate.

use super::{AppError, Env, Result, archive, audit::NOBODY, clients, events, executions};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};
use sutler_base::{
    ClientId, OperatorName, Timestamp, TokenId, quoted,
    state::{ClientKind, ClientState},
};
use sutler_certs::{ca::CaBundle, keys::PublicKey, secret::secret_hash};
use sutler_core::{
    admission::{Admission, Applicant, admit},
    model::{Certificate, CertificateState, Client, Subject, Token},
    session,
};
use sutler_store::{FactsChange, Tx};

/// The longest time over which the certificates of one client or operator are counted.
const RENEWALS_WITHIN: Duration = Duration::from_secs(3600);

/// What a machine sends to be let in.
#[derive(Clone)]
pub struct Application {
    /// The token's id.
    pub token: TokenId,
    /// The token's secret.
    pub secret: Vec<u8>,
    /// The machine's public key, whose possession was proved.
    pub key: PublicKey,
    /// What the machine calls itself.
    pub hostname: String,
    /// Tells machines apart.
    pub machine_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// Where the call came from.
    pub address: IpAddr,
}

/// What a client sends for its next certificate.
#[derive(Clone)]
pub struct Renewal {
    /// The client, from its certificate.
    pub client: ClientId,
    /// The serial number of the certificate that it showed.
    pub serial: String,
    /// The new key, whose possession was proved.
    pub key: PublicKey,
    /// The certificate that it showed had ended.
    pub expired: bool,
}

/// A client that was let in, and its certificate.
#[derive(Clone)]
pub struct Enrolled {
    /// The client.
    pub client: Client,
    /// The certificate and the one above it (DER).
    pub certificates: Vec<Vec<u8>>,
}

/// What came of an application. A refusal is committed, too: it stands in the audit log.
#[derive(Clone)]
pub enum ApplicationResult {
    /// Let in.
    Enrolled(Box<Enrolled>),
    /// Refused; the caller learns no more than that.
    Refused,
}

/// Lets a machine in, or refuses it. The same token with the same key gives the same client again.
pub async fn enroll(tx: &mut dyn Tx, env: &Env, ca: &CaBundle, application: &Application) -> Result<ApplicationResult> {
    let object = format!("tokens/{}", application.token);
    let Some(mut token) = tx.token(&application.token).await? else {
        let detail = format!("there is no such token, from {}", application.address);
        env.audit_refusal_of(NOBODY, tx, "enroll_refused", &object, detail).await?;
        return Ok(ApplicationResult::Refused);
    };
    if !same(&secret_hash(&application.secret), &token.secret_hash) {
        let detail = format!("a wrong secret, from {}", application.address);
        env.audit_refusal_of(NOBODY, tx, "enroll_refused", &object, detail).await?;
        return Ok(ApplicationResult::Refused);
    }
    let key = application.key.sha256();
    if let Some(id) = tx.token_use(&token.id, &key).await? {
        let client = tx.client(&id).await?.filter(|c| c.state != ClientState::Removed && c.key == key);
        let Some(client) = client else {
            env.audit(tx, "enroll_refused", &object, format!("clients/{id} has another key by now, from {}", application.address)).await?;
            return Ok(ApplicationResult::Refused);
        };
        env.audit(tx, "enroll_again", &object, format!("clients/{id} from {}", application.address)).await?;
        let certificates = issue(tx, env, ca, &client.id, &application.key).await?;
        return Ok(ApplicationResult::Enrolled(Box::new(Enrolled { client, certificates })));
    }
    let applicant = Applicant { hostname: &application.hostname, machine_id: &application.machine_id, address: application.address };
    let admission = match admit(&token, applicant, env.now) {
        Ok(admission) => admission,
        Err(refused) => {
            env.audit_refusal(tx, "enroll_refused", &object, format!("{refused}, from {}", application.address)).await?;
            return Ok(ApplicationResult::Refused);
        }
    };
    if let Some(replaced) = token.replaces.clone() {
        return replace(tx, env, ca, &token, replaced, admission, application).await;
    }
    let id = env.world.client_id();
    let duplicate_of = if application.machine_id.is_empty() { None } else { tx.client_by_machine(&application.machine_id, &id).await? };
    let (state, notice) = match admission {
        Admission::Active => (ClientState::Active, String::new()),
        Admission::Pending(why) => (ClientState::Pending, why),
    };
    let client = Client {
        id: id.clone(),
        kind: ClientKind::Machine,
        site: env.settings.site.clone(),
        site_since: env.now,
        state,
        hostname: application.hostname.clone(),
        address: application.address.to_string(),
        machine_id: application.machine_id.clone(),
        boot_id: String::new(),
        session_counter: 0,
        agent_version: application.agent_version.clone(),
        facts: String::new(),
        facts_digest: None,
        facts_time: None,
        labels: std::mem::take(&mut token.labels),
        answers: Default::default(),
        token: Some(token.id.clone()),
        key,
        enrolled: env.now,
        activated: (state == ClientState::Active).then_some(env.now),
        last_seen: env.now,
        greeted: false,
        duplicate_of,
        notice,
        replaced: None,
        skew: None,
        archived: None,
        unarchived: None,
        change: 0,
    };
    // Before anything is saved: whoever gives a group work has its row and waits for the change sequence.
    tx.lock_groups(&token.groups).await?;
    tx.insert_client(&client).await?;
    tx.use_token(&token.id, &key, &id, env.now).await?;
    let certificates = issue(tx, env, ca, &id, &application.key).await?;
    let detail = format!("{} from {} as {}", quoted(&client.hostname), application.address, client.state);
    env.audit(tx, "enroll", format!("clients/{id}"), detail).await?;
    events::client_enrolled(tx, env, &client).await?;
    if client.state == ClientState::Pending {
        events::client_pending(tx, env, &client).await?;
    }
    if client.state == ClientState::Active {
        clients::admitted(tx, env, &client).await?;
    }
    Ok(ApplicationResult::Enrolled(Box::new(Enrolled { client, certificates })))
}

/// Lets a machine in as a client that is there already, in place of the machine that it was: for one that was set up anew.
///
/// The old certificates are refused from this commit on. The record, groups, labels and history stay; the software is gone,
/// so that jobs that stand make new attempts.
async fn replace(
    tx: &mut dyn Tx,
    env: &Env,
    ca: &CaBundle,
    token: &Token,
    id: ClientId,
    admission: Admission,
    application: &Application,
) -> Result<ApplicationResult> {
    let object = format!("tokens/{}", token.id);
    let mut client = match (tx.client(&id).await?, admission) {
        (Some(client), Admission::Active) if client.state != ClientState::Removed => client,
        (_, Admission::Pending(why)) => {
            // Nobody may stop a client's machine who only may wait for approval.
            env.audit(tx, "enroll_refused", &object, format!("it replaces the machine of clients/{id}, and {why}")).await?;
            return Ok(ApplicationResult::Refused);
        }
        (_, Admission::Active) => {
            env.audit(tx, "enroll_refused", &object, format!("clients/{id}, whose machine it replaces, was removed")).await?;
            return Ok(ApplicationResult::Refused);
        }
    };
    let machines = tx.machines_of(std::slice::from_ref(&id)).await?;
    if !machines.is_empty() {
        // Of those that shared the old key none is the client any more.
        tx.delete_machines(&id).await?;
        client.notice = String::new();
        if client.state == ClientState::Quarantined {
            client.state = ClientState::Active;
        }
    }
    tx.revoke_certificates(&Subject::Client(id.clone())).await?;
    let before = std::mem::replace(&mut client.machine_id, application.machine_id.clone());
    client.hostname = application.hostname.clone();
    client.address = application.address.to_string();
    client.boot_id = String::new();
    client.session_counter = 0;
    client.agent_version = application.agent_version.clone();
    client.facts_digest = None;
    client.key = application.key.sha256();
    client.replaced = Some(env.now);
    client.skew = None;
    archive::take_back(tx, env, &mut client, "a machine was enrolled in its place").await?;
    tx.save_client(&client).await?;
    tx.save_facts(&[FactsChange { client: id.clone(), json: None, digest: None, time: client.facts_time }]).await?;
    tx.use_token(&token.id, &client.key, &id, env.now).await?;
    executions::start_over(tx, env, &client).await?;
    let certificates = issue(tx, env, ca, &id, &application.key).await?;
    let detail = format!("machine {} from {} in place of {}", quoted(&client.machine_id), application.address, quoted(&before));
    env.audit(tx, "replace_machine", format!("clients/{id}"), detail).await?;
    events::client_enrolled(tx, env, &client).await?;
    if client.state == ClientState::Pending {
        events::client_pending(tx, env, &client).await?;
    }
    let mut wakes = env.wakes();
    wakes.access.insert(id.clone());
    wakes.clients.insert(id);
    drop(wakes);
    Ok(ApplicationResult::Enrolled(Box::new(Enrolled { client, certificates })))
}

/// Whether two hashes are the same, in a time that does not depend on where they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// Refuses one more certificate to whom `limits.renewals` have been given lately: whoever has a stolen key could else fill the
/// database with them. Nobody is locked out by that: it is asked again, and a replaced machine begins anew.
async fn may_have_another(tx: &mut dyn Tx, env: &Env, subject: &Subject, life: Duration) -> Result<()> {
    let window = (life / 3).min(RENEWALS_WITHIN);
    let limit = env.settings.limits.renewals;
    let since = env.now.checked_sub(window).unwrap_or(Timestamp::MIN);
    let Some((_, first)) = tx.certificates_since(subject, since, limit).await?.filter(|(given, _)| *given >= limit) else { return Ok(()) };
    let wait = window.as_secs().saturating_sub(u64::try_from(env.now.duration_since(first).as_secs()).unwrap_or_default());
    let who = match subject {
        Subject::Client(id) => format!("clients/{id}"),
        Subject::Operator(name) => format!("operators/{name}"),
    };
    Err(AppError::Exhausted {
        message: format!("{who} was given {limit} certificates within {} s, and no more are given (limits.renewals)", window.as_secs()),
        retry_seconds: u32::try_from(wait).unwrap_or(u32::MAX).max(1),
    })
}

/// Issues a client's certificate for `key` and notes it: good beside the one before it until it is first used.
async fn issue(tx: &mut dyn Tx, env: &Env, ca: &CaBundle, client: &ClientId, key: &PublicKey) -> Result<Vec<Vec<u8>>> {
    may_have_another(tx, env, &Subject::Client(client.clone()), env.settings.limits.agent_certificate).await?;
    let issued = ca
        .issue_agent(client, key, env.now, env.settings.limits.agent_certificate)
        .map_err(|e| AppError::Bug(format!("the certificate of clients/{client} can't be issued: {e}")))?;
    let certificate = Certificate {
        serial: issued.serial.to_string(),
        subject: Subject::Client(client.clone()),
        key: key.sha256(),
        public_key: key.spki().to_vec(),
        issued: env.now,
        not_after: issued.not_after,
        state: CertificateState::Issued,
    };
    tx.insert_certificate(&certificate).await?;
    Ok(issued.chain_der())
}

/// A new certificate of a client, for a new key. The one before it is good until this one is first used, so that a lost
/// answer locks nobody out. The one that it showed is asked for again, in the commit: whoever is cut off meanwhile gets none.
///
/// A client whose certificate had ended while it slept is `PENDING` first, where this installation wants that.
pub async fn renew_client(tx: &mut dyn Tx, env: &Env, ca: &CaBundle, renewal: &Renewal) -> Result<Vec<Vec<u8>>> {
    check_certificate(tx, &Subject::Client(renewal.client.clone()), &renewal.serial).await?;
    if renewal.expired {
        let mut client = clients::load(tx, &renewal.client).await?;
        if env.settings.expired_agents_need_approval && client.state == ClientState::Active {
            client.state = ClientState::Pending;
            client.notice = "came back after its certificate had ended".into();
            tx.save_client(&client).await?;
            events::client_pending(tx, env, &client).await?;
            env.wakes().access.insert(client.id.clone());
        }
        env.audit(tx, "renew_expired_certificate", format!("clients/{}", renewal.client), client.state).await?;
    }
    issue(tx, env, ca, &renewal.client, &renewal.key).await
}

/// A new certificate of an operator, for a new key. The one before it is good until this one is first used.
pub async fn renew_operator(tx: &mut dyn Tx, env: &Env, ca: &CaBundle, operator: &OperatorName, key: &PublicKey) -> Result<Vec<Vec<u8>>> {
    may_have_another(tx, env, &Subject::Operator(operator.clone()), env.settings.limits.operator_certificate).await?;
    let certificates = issue_operator(tx, env, ca, operator, key).await?;
    env.audit(tx, "renew_certificate", format!("operators/{operator}"), "").await?;
    Ok(certificates)
}

/// Issues an operator's certificate for `key` and notes it.
pub async fn issue_operator(tx: &mut dyn Tx, env: &Env, ca: &CaBundle, operator: &OperatorName, key: &PublicKey) -> Result<Vec<Vec<u8>>> {
    let issued = ca
        .issue_operator(operator, key, env.now, env.settings.limits.operator_certificate)
        .map_err(|e| AppError::Bug(format!("the certificate of operators/{operator} can't be issued: {e}")))?;
    let certificate = Certificate {
        serial: issued.serial.to_string(),
        subject: Subject::Operator(operator.clone()),
        key: key.sha256(),
        public_key: key.spki().to_vec(),
        issued: env.now,
        not_after: issued.not_after,
        state: CertificateState::Issued,
    };
    tx.insert_certificate(&certificate).await?;
    Ok(issued.chain_der())
}

/// Why a certificate is refused that stands in no table.
pub const UNKNOWN_CERTIFICATE: &str = "UNKNOWN_CERTIFICATE";
/// Why a certificate is refused whose client is not there.
pub const CLIENT_REMOVED: &str = "CLIENT_REMOVED";
/// Why a certificate is refused after a newer one of the same client was used.
pub const SUPERSEDED: &str = "CERTIFICATE_SUPERSEDED";

/// Whether the certificate with this serial number may be used by `subject`; on its first use the ones before it are
/// superseded.
pub async fn check_certificate(tx: &mut dyn Tx, subject: &Subject, serial: &str) -> Result<()> {
    let state = match subject {
        Subject::Client(id) => tx.client(id).await?.map(|c| c.state),
        Subject::Operator(name) => {
            if tx.operator(name).await?.is_none_or(|o| o.revoked.is_some()) {
                return refused("OPERATOR_REVOKED", "this operator was revoked; ask another administrator");
            }
            None
        }
    };
    // After the client's row is this unit's: what the first use of another one ends is seen here.
    let certificate = tx.certificate(serial).await?;
    judge_certificate(certificate.as_ref(), subject, serial, state)
}

/// How many certificates of clients are looked up in one unit of work at the most.
pub const TOGETHER: usize = 256;

/// The same of certificates that clients show, in their order.
pub async fn check_certificates(tx: &mut dyn Tx, shown: &[(ClientId, String)]) -> Result<Vec<Result<()>>> {
    let (ids, serials): (Vec<ClientId>, Vec<String>) = shown.iter().cloned().unzip();
    let states: BTreeMap<ClientId, ClientState> = tx.clients_in_brief(&ids).await?.into_iter().map(|c| (c.id, c.state)).collect();
    // After the clients' rows, as above.
    let certificates: BTreeMap<String, Certificate> = tx.certificates(&serials).await?.into_iter().map(|c| (c.serial.clone(), c)).collect();
    let judge = |(id, serial): &(ClientId, String)| {
        judge_certificate(certificates.get(serial), &Subject::Client(id.clone()), serial, states.get(id).copied())
    };
    Ok(shown.iter().map(judge).collect())
}

/// The same of a certificate that was read, none if it is not known, and the state of its client.
pub fn judge_certificate(certificate: Option<&Certificate>, subject: &Subject, serial: &str, client: Option<ClientState>) -> Result<()> {
    let Some(certificate) = certificate.filter(|c| c.subject == *subject) else {
        return refused(UNKNOWN_CERTIFICATE, "this certificate was not issued by this installation; enrol again");
    };
    if matches!((subject, client), (Subject::Client(_), Some(ClientState::Removed) | None)) {
        return refused(CLIENT_REMOVED, "this client was removed; enrol again with a new token");
    }
    match certificate.state {
        CertificateState::Active => Ok(()),
        CertificateState::Revoked => refused("CERTIFICATE_REVOKED", "this certificate was revoked"),
        CertificateState::Superseded => refused(SUPERSEDED, "a newer certificate is in use; connect with that one"),
        CertificateState::Issued => Err(AppError::state(serial, "FIRST_USE", "the certificate is used for the first time")),
    }
}

fn refused(reason: &'static str, message: &str) -> Result<()> {
    Err(AppError::Unauthenticated { reason, message: message.to_owned() })
}

/// Puts a certificate into use: those issued before it are superseded. Where several machines had the client's key and an
/// operator chose one of them, this is that one's own key, and what the others have is revoked.
pub async fn first_use(tx: &mut dyn Tx, env: &Env, subject: &Subject, serial: &str) -> Result<()> {
    let client = match subject {
        Subject::Client(id) => tx.client(id).await?,
        Subject::Operator(_) => None,
    };
    let Some(certificate) = tx.certificate(serial).await?.filter(|c| c.state == CertificateState::Issued) else { return Ok(()) };
    let machines = match &client {
        Some(client) => tx.machines_of(std::slice::from_ref(&client.id)).await?,
        None => vec![],
    };
    let decided = session::is_decided(&machines);
    tx.end_others(&certificate, if decided { CertificateState::Revoked } else { CertificateState::Superseded }).await?;
    tx.set_certificate_state(serial, CertificateState::Active).await?;
    if let Some(mut client) = client {
        if decided {
            tx.delete_machines(&client.id).await?;
            client.notice = String::new();
        }
        // Also tells every manager to look at the client's open streams.
        tx.save_client(&client).await?;
        env.wakes().access.insert(client.id);
    }
    Ok(())
}

#[cfg(test)]
#[path = "enrolment_tests.rs"]
mod tests;
