//! Conditions of time that somebody should hear of: clients that are overdue, certificates and packages near their end. Each
//! occurrence is told once, also after a restart and by several managers: what was told stands in the database.

use super::{App, Env, Result, events, jobs};
use jiff::SignedDuration;
use std::time::Duration;
use sutler_base::{
    ClientId, Timestamp,
    state::{ClientState, EventKind, JobState, Presence},
};
use sutler_certs::{Credential, PeerCertificate};
use sutler_core::{event::Event, model::Subject};
use sutler_store::{Page, Tx};

/// How many clients, jobs or operators are looked at in one unit of work.
const LOOKED_AT: u32 = 500;
/// How long before its end a certificate is told of that is not the CAs'.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
/// The same of the issuing CAs, as the doctor has it: agents' certificates end with them.
const CA_SOON: SignedDuration = SignedDuration::from_hours(180 * 24);

/// A condition that holds.
#[derive(Debug, Clone)]
pub struct Condition {
    /// What and whose, among all conditions.
    pub key: String,
    /// What tells this occurrence from the next.
    pub occurrence: String,
    /// What is told.
    pub event: Event,
}

impl Condition {
    fn new(occurrence: impl ToString, event: Event) -> Condition {
        Condition { key: format!("{}/{}", event.kind, event.object), occurrence: occurrence.to_string(), event }
    }
}

/// What one page of something came to.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// What holds and was not told.
    pub news: Vec<Condition>,
    /// Keys of what was told and holds no more.
    pub over: Vec<String>,
    /// The key of the next page.
    pub next: Option<String>,
}

/// Leaves out what was told already.
async fn untold(tx: &mut dyn Tx, conditions: Vec<Condition>) -> Result<Vec<Condition>> {
    let keys: Vec<String> = conditions.iter().map(|c| c.key.clone()).collect();
    let told = tx.event_marks(&keys).await?;
    Ok(conditions.into_iter().filter(|c| told.get(&c.key) != Some(&c.occurrence)).collect())
}

/// Tells what nobody has told meanwhile.
pub async fn tell(tx: &mut dyn Tx, env: &Env, looked: &Looked) -> Result<()> {
    for condition in &looked.news {
        if tx.mark_event(&condition.key, &condition.occurrence).await? {
            events::emit(tx, env, condition.event.clone()).await?;
        }
    }
    for key in &looked.over {
        tx.unmark_event(key).await?;
    }
    Ok(())
}

/// Clients of a page that have been silent for longer than they may be.
pub async fn overdue(tx: &mut dyn Tx, env: &Env, after: Option<&String>) -> Result<Looked> {
    let limit = env.settings.limits.overdue;
    let seen = tx.silent_since(&Page { after: after.cloned(), limit: LOOKED_AT }).await?;
    let next = (seen.len() as u32 == LOOKED_AT).then(|| seen.last().map(|(id, _)| id.to_string())).flatten();
    let is_over = |since: Timestamp| Duration::try_from(env.now.duration_since(since)).is_ok_and(|silent| silent > limit);
    let over: Vec<(ClientId, Timestamp)> = seen.into_iter().filter(|(_, since)| is_over(*since)).collect();
    let ids: Vec<ClientId> = over.iter().map(|(id, _)| id.clone()).collect();
    let mut news = Vec::new();
    for client in tx.clients(&ids).await? {
        // Nobody expects to hear of one that was never let in.
        if client.state == ClientState::Pending || env.presence(&client) != Presence::Overdue {
            continue;
        }
        let since = over.iter().find(|(id, _)| *id == client.id).map_or(client.last_seen, |(_, since)| *since);
        let sentence = format!(
            "clients/{} ({}) is overdue: it was last heard of at {}",
            client.id,
            sutler_base::quoted(&client.hostname),
            client.last_seen
        );
        let event = Event::new(EventKind::ClientOverdue, format!("clients/{}", client.id), sentence);
        let event = event.with("hostname", &client.hostname).with("last_seen", client.last_seen).with("address", &client.address);
        news.push(Condition::new(since.as_millisecond(), event));
    }
    Ok(Looked { news: untold(tx, news).await?, over: Vec::new(), next })
}

/// Jobs of a page that stand and that nobody will be able to start in a while.
pub async fn packages(tx: &mut dyn Tx, env: &Env, after: Option<&String>) -> Result<Looked> {
    let page = Page { after: after.cloned(), limit: LOOKED_AT };
    let jobs = tx.jobs_in(&page, JobState::Active).await?;
    let next = (jobs.len() as u32 == LOOKED_AT).then(|| jobs.last().map(|job| job.id.to_string())).flatten();
    let (mut news, mut fine) = (Vec::new(), Vec::new());
    for job in jobs {
        let object = format!("jobs/{}", job.id);
        let packages = tx.job_packages(&job.id, job.revision).await?;
        let (now, soon) = jobs::unavailable_now_and_soon(tx, env, &job, &packages).await?;
        if now.is_empty() && soon.is_empty() {
            fine.push(format!("{}/{object}", EventKind::PackageEndsSoon));
        } else if !soon.is_empty() {
            let sentence = format!("in 14 days no client can start {object} any more: {soon}");
            news.push(Condition::new(&soon, Event::new(EventKind::PackageEndsSoon, object, sentence).with("cause", &soon)));
        }
    }
    let over = tx.event_marks(&fine).await?.into_keys().collect();
    Ok(Looked { news: untold(tx, news).await?, over, next })
}

/// A certificate of the manager's.
#[derive(Debug, Clone)]
pub struct Own {
    /// `issuing-cas` or `manager`
    pub name: &'static str,
    /// What tells it from those of other managers: its serial number, or when the first of the CAs ends.
    pub which: String,
    /// When it ends.
    pub ends: Timestamp,
}

impl App {
    /// The certificates that the manager goes by: the issuing CAs', and its own as it lies in its folder.
    pub fn own_certificates(&self) -> Vec<Own> {
        let ca = self.ca();
        let mut own = vec![Own { name: "issuing-cas", which: ca.ends().as_millisecond().to_string(), ends: ca.ends() }];
        let leaf = Credential::load(&self.server.join("identity.pem")).ok().and_then(|c| c.chain.first().cloned());
        let leaf = leaf.and_then(|leaf| PeerCertificate::parse(&leaf, ca.trust_domain()).ok());
        own.extend(leaf.map(|leaf| Own { name: "manager", which: leaf.serial.to_string(), ends: leaf.not_after }));
        own
    }
}

/// The manager's own certificates that are near their end: the issuing CAs', and its own where that was not renewed.
pub async fn own_certificates(tx: &mut dyn Tx, env: &Env, own: &[Own]) -> Result<Looked> {
    let mut news = Vec::new();
    for certificate in own {
        let (notice, words, remedy) = match certificate.name {
            "manager" => (SOON, "the manager's own certificate", "it is renewed by itself, so see the manager's log"),
            _ => (CA_SOON, "the first of the issuing CAs", "give the installation new ones with `sutler ca rotate`"),
        };
        if certificate.ends.duration_since(env.now) < notice {
            let sentence = format!("{words} ends at {}; {remedy}", certificate.ends);
            let event = Event::new(EventKind::CertificateEndsSoon, format!("certificates/{}", certificate.name), sentence);
            let mut condition = Condition::new(certificate.ends.as_millisecond(), event.with("end", certificate.ends));
            // Each manager has one of its own, and by a key that they had in common each would tell of it again after the other.
            condition.key = format!("{}/{}", condition.key, certificate.which);
            news.push(condition);
        }
    }
    Ok(Looked { news: untold(tx, news).await?, ..Looked::default() })
}

/// Operators of a page who soon can't renew their certificate any more: it renews itself when it is used.
pub async fn operators(tx: &mut dyn Tx, env: &Env, after: Option<&String>) -> Result<Looked> {
    let page = Page { after: after.cloned(), limit: LOOKED_AT };
    let operators = tx.list_operators(&page).await?;
    let next = (operators.len() as u32 == LOOKED_AT).then(|| operators.last().map(|o| o.name.to_string())).flatten();
    let mut news = Vec::new();
    for operator in operators.into_iter().filter(|o| o.revoked.is_none()) {
        let newest = tx.certificates_of(&Subject::Operator(operator.name.clone())).await?.into_iter().next();
        let Some(newest) = newest else { continue };
        let last = newest.not_after.checked_add(env.settings.limits.operator_grace).unwrap_or(Timestamp::MAX);
        if last.duration_since(env.now) < SOON {
            let object = format!("operators/{}", operator.name);
            let sentence = format!(
                "{object} has not called for long: the certificate ended at {} and can be renewed until {last}; after that an administrator \
                 gives another",
                newest.not_after
            );
            let event = Event::new(EventKind::CertificateEndsSoon, object, sentence).with("end", newest.not_after);
            news.push(Condition::new(&newest.serial, event.with("renewable_until", last)));
        }
    }
    Ok(Looked { news: untold(tx, news).await?, over: Vec::new(), next })
}
