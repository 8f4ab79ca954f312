//! What people ask at this machine, and what the manager answers to it.

use super::{AgentError, Answer, Asked, AttemptStatus, InstalledStatus, Request, Status, handle::Ask, run::Loop};
use crate::machine::{Event, Progress};
use sutler_base::{AttemptId, Timestamp};
use sutler_proto::v1::{self, connect_request::Message as Up, group_request::Action};
use tracing::info;

impl Loop {
    pub(super) fn group_answered(&mut self, result: v1::GroupResult) -> Result<(), AgentError> {
        if result.error.is_empty() {
            self.groups = Some(result.groups.clone());
        }
        self.answered(&result.request_id, result.error, result.groups)
    }

    /// The manager answered a request.
    pub(super) fn answered(&mut self, request_id: &str, error: String, groups: Vec<String>) -> Result<(), AgentError> {
        // One that stays is asked again; the manager does the same id once.
        let removed = self.requests.remove(request_id);
        let request = self.unless_full(removed)?.flatten();
        let answer = if error.is_empty() { Answer::Done { groups } } else { Answer::Refused { why: error } };
        if let Some(request) = request {
            info!(request = request.action.sentence(), ?answer, "answered by the manager");
        }
        if let Some(waiter) = self.waiters.remove(request_id) {
            let _ = waiter.send(answer);
        }
        Ok(())
    }

    pub(super) async fn asked(&mut self, ask: Ask) -> Result<(), AgentError> {
        match ask {
            Ask::Status(reply) => {
                // Shown as it is now.
                self.look_at_policy().await?;
                let _ = reply.send(self.status());
            }
            Ask::Facts(reply) => {
                let _ = reply.send(self.report.json().to_owned());
            }
            Ask::RunNow(reply) => {
                let _ = reply.send(());
                if self.up.is_none() {
                    self.reconnect();
                }
                self.happened(Event::RunNow(Vec::new())).await?;
            }
            Ask::Announcements(reply) => {
                let _ = reply.send(self.announcements());
            }
            Ask::User(job, answer, reply) => {
                let said = self.user_answers(&job, answer).await?;
                let _ = reply.send(said);
            }
            Ask::GoesDown(within, reply) => self.goes_down(within, reply).await?,
            Ask::Groups(reply) => {
                if self.up.is_some() {
                    let id = self.request_id();
                    self.waiters.retain(|_, waiter| !waiter.is_closed());
                    self.waiters.insert(id.clone(), reply);
                    self.send(Up::Group(v1::GroupRequest { request_id: id, action: Some(Action::List(true)) }));
                } else {
                    let _ = reply.send(match &self.groups {
                        Some(groups) => Answer::Done { groups: groups.clone() },
                        None => Answer::Refused { why: "the manager can't be reached, and has not said yet which groups these are".into() },
                    });
                }
            }
            Ask::Questions(reply) => {
                let mut questions = self.questions.all().to_vec();
                for request in self.requests.all() {
                    if let Asked::Answer { question, answer } = &request.action
                        && let Some(asked) = questions.iter_mut().find(|asked| asked.name == *question)
                    {
                        asked.queued = Some(answer.clone());
                    }
                }
                let _ = reply.send(questions);
            }
            Ask::Available(reply) => {
                let mut available = self.shelf.all().to_vec();
                for request in self.requests.all() {
                    if let Asked::Install { job, .. } = &request.action
                        && let Some(item) = available.iter_mut().find(|item| item.job == *job)
                    {
                        item.queued = true;
                    }
                }
                let _ = reply.send(available);
            }
            Ask::Request(mut action, reply) => {
                if let Asked::Install { job, package } = &mut action {
                    match self.shelf.find(package) {
                        Ok(found) => (*job, *package) = (found.job.clone(), found.package.clone()),
                        Err(why) => {
                            let _ = reply.send(Answer::Refused { why: why.0 });
                            return Ok(());
                        }
                    }
                }
                if let Asked::Answer { question, answer } = &mut action {
                    match self.questions.check(question, answer) {
                        Ok(checked) => *answer = checked,
                        Err(why) => {
                            let _ = reply.send(Answer::Refused { why: why.0 });
                            return Ok(());
                        }
                    }
                }
                let request = Request { id: self.request_id(), action };
                match self.requests.add(request.clone()) {
                    Ok(true) => {}
                    Ok(false) => {
                        let _ = reply.send(Answer::NotKept { why: "too many requests wait for the manager already".into() });
                        return Ok(());
                    }
                    Err(e) if e.is_full() => {
                        let _ = reply.send(Answer::NotKept { why: e.to_string() });
                        return Ok(());
                    }
                    Err(e) => return Err(e.into()),
                }
                self.waiters.retain(|_, waiter| !waiter.is_closed());
                if self.up.is_some() {
                    self.waiters.insert(request.id.clone(), reply);
                    if let Some(message) = request.to_wire().message {
                        self.send(message);
                    }
                } else {
                    let _ = reply.send(Answer::Queued);
                }
            }
            // Taken before.
            Ask::Stop => {}
        }
        Ok(())
    }

    fn request_id(&self) -> String {
        format!("{:016x}{:016x}", (self.random)(), (self.random)())
    }

    /// Whom this machine trusts, in sentences.
    fn trust_status(&self, now: Timestamp) -> Vec<String> {
        let Some(trust) = self.identity.publishers() else { return vec!["no publisher: packages are not signed here".into()] };
        let date = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M UTC").to_string();
        let over = |over: bool| if over { ", which is over: nothing is installed before there is a newer one" } else { "" };
        let mut out =
            vec![format!("publishers' trust document {} until {}{}", trust.version(), date(trust.expires()), over(trust.is_expired(now)))];
        if let Some(list) = self.identity.revocations() {
            out.push(format!("revocation list {} until {}{}", list.version(), date(list.expires()), over(list.is_expired(now))));
        }
        out.extend(self.trust_problem.clone());
        out
    }

    fn status(&self) -> Status {
        let now = self.clock.now();
        let attempt = |(id, p): (AttemptId, Progress)| {
            let offer = self.state.record(&id).map(|r| &r.offer);
            AttemptStatus {
                job: offer.map(|o| o.job.clone()).unwrap_or_default(),
                package: (p.item + 1, offer.map_or(0, |o| o.items.len())),
                attempt: id.to_string(),
                state: p.state,
                wait: p.wait,
                step: p.step,
                bytes: p.bytes,
            }
        };
        let installed = self.worker.installed().into_iter().map(|i| InstalledStatus {
            package: i.package.to_string(),
            version: i.version.to_string(),
            directory: i.directory.map(|d| d.to_string()),
        });
        Status {
            client: self.identity.client().clone(),
            trust_domain: self.identity.trust().trust_domain().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: self.client_state,
            connected: self.up.as_ref().map(|u| u.address.clone()),
            last_contact: self.heard.at(),
            silent_days: if self.up.is_some() { None } else { self.heard.silent_days(now.wall) },
            problem: self.problem.clone(),
            clock_skew_seconds: self.skew,
            certificate_ends: self.identity.certificate().ok().map(|c| c.not_after),
            hold: self.held.is_some(),
            hold_reason: self.held.clone().unwrap_or_default(),
            trust: self.trust_status(now.wall),
            attempts: self.state.progress(&now).into_iter().map(attempt).collect(),
            requests: self.requests.all().iter().map(|r| r.action.sentence()).collect(),
            installed: installed.collect(),
            announcements: self.announcements(),
        }
    }
}
