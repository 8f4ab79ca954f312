//! `AgentService`: one stream per agent for the life of its connection, deltas, its next certificate. The bytes of its attempts are
//! sent by [`objects`](super::objects).

use super::{Services, enrollment::key_of, logs, parsed, peer, status};
use crate::{
    app::{
        AppError, Violations, clients,
        deltas::{self, Found, OLD_MAX, Wanted},
        enrolment::{self, Renewal, renew_client},
        groups, inventory, keeping, outcomes, questions, restored,
        sessions::{self, CancelAnswer},
        shelf, trust,
    },
    live::{Arrival, Can, Fresh, OUTBOX, ToAgent, asked, orders},
};
use bytes::Bytes;
use futures_util::Stream;
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use sutler_base::{
    AttemptId, ClientId, Digest, limits, quoted,
    state::{ErrorKind, ExecutionState, Purpose, WaitReason},
};
use sutler_core::user;
use sutler_proto::{
    convert::{Word, job_id, time, wire_time},
    v1::{self, connect_request::Message as FromAgent, connect_response::Message},
};
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming, async_trait};

/// How long a caller may take for its first message.
const HELLO: Duration = Duration::from_secs(10);
/// How often it is looked whether what could not be written can be.
const OWED: Duration = Duration::from_secs(2);
/// The most open attempts that a hello names.
const OPEN_MAX: usize = 4 * limits::OPEN_ATTEMPTS_MAX;

#[async_trait]
impl v1::agent_service_server::AgentService for Services {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ConnectResponse, Status>> + Send>>;

    async fn connect(&self, request: Request<Streaming<v1::ConnectRequest>>) -> Result<Response<Self::ConnectStream>, Status> {
        let (client, serial) = self.client_of_stream(&request).await?;
        let address = peer(&request)?.address.ip().to_string();
        let mut stream = request.into_inner();
        let first = tokio::time::timeout(HELLO, stream.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the first message did not come"))??.and_then(|m| m.message);
        let Some(FromAgent::Hello(hello)) = first else { return Err(invalid("hello", "is the first message")) };
        if hello.protocol_version != sutler_proto::PROTOCOL_VERSION {
            let (ours, theirs) = (sutler_proto::PROTOCOL_VERSION, hello.protocol_version);
            let older = if theirs < ours { "the agent" } else { "the manager" };
            let text = format!(
                "this manager ({}) speaks version {ours} of the protocol, the agent ({}) version {theirs}; update {older}",
                env!("CARGO_PKG_VERSION"),
                quoted(&hello.agent_version)
            );
            return Err(status(AppError::state(format!("clients/{client}"), "PROTOCOL_VERSION", text)));
        }
        let asks = hello.capabilities.iter().any(|c| c == sutler_proto::QUESTIONS).then(|| hello.questions_digest.clone());
        let says = |capability: &str| hello.capabilities.iter().any(|c| c == capability);
        let can = Can {
            times: says(sutler_proto::TIMES),
            prefetch: says(sutler_proto::PREFETCH),
            inventory: says(sutler_proto::INVENTORY),
            user: user::Abilities {
                announcements: says(sutler_proto::ANNOUNCEMENTS),
                boots: says(sutler_proto::BOOTS),
                shelf: says(sutler_proto::SHELF),
            },
        };
        let checks = says(sutler_proto::CHECKS);
        let shelf = hello.shelf_digest.iter().copied().take(64).collect();
        let held = trust::Held { trust: hello.trust_version, revocations: (hello.revocations_epoch, hello.revocations_version) };
        let hello = Arc::new(sessions::Hello { serial: serial.clone(), ..parse_hello(&client, address, hello)? });
        let (reported, counter) = (hello.open.clone(), hello.session_counter);
        let welcome = self.app.live.hellos.add(&self.app, hello.clone()).await.map_err(status)?.map_err(status)?;
        if welcome.superseded {
            let message = "a newer certificate of this client is in use; who uses this one was noted, and an operator decides".to_owned();
            return Err(status(AppError::Unauthenticated { reason: enrolment::SUPERSEDED, message }));
        }
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let first = Message::Welcome(v1::Welcome {
            client_id: client.to_string(),
            state: welcome.client.state.to_wire(),
            addresses: self.app.settings.addresses.clone(),
            site: self.app.settings.site.to_string(),
            send_facts: welcome.send_facts,
            facts_digest: welcome.facts.map(|d| Bytes::copy_from_slice(d.as_bytes())).unwrap_or_default(),
            server_time: Some(wire_time(self.app.world.now())),
            unknown_attempts: welcome.unknown.iter().map(AttemptId::to_string).collect(),
            report_from: welcome.report_from.as_ref().map(AttemptId::to_string).unwrap_or_default(),
            renew_certificate: welcome.renew,
        });
        let _ = outbox.try_send(ToAgent::Message(Box::new(first)));
        let behind = welcome.report_from.is_some();
        self.app.live.set_behind(&client, behind);
        let known: BTreeSet<AttemptId> = reported.keys().cloned().collect();
        let (greeted, is_greeted) = oneshot::channel();
        let fresh = Fresh { known: known.clone(), held, asks, behind, greeted };
        let arrival = Arrival { serial, counter, state: welcome.client.state, can, shelf, unsettled: known };
        let (number, cut) = self.app.live.enter(&client, arrival, outbox.clone());
        self.app.live.set_checks(&client, checks);
        self.app.metrics.sessions.inc();
        self.app.live.has_come(&client, fresh);
        for (attempt, open) in reported {
            self.report(&client, attempt, open.state, None);
        }
        let behind = Mutex::new(behind.then_some(hello));
        let session = Session { services: self.clone(), client, number, outbox, cut, behind };
        tokio::spawn(session.run(stream, is_greeted));
        Ok(Response::new(Box::pin(Told { inbox, is_over: false })))
    }

    type ReadChunksStream = Pin<Box<dyn Stream<Item = Result<v1::ReadChunksResponse, Status>> + Send>>;

    async fn read_chunks(&self, request: Request<v1::ReadChunksRequest>) -> Result<Response<Self::ReadChunksStream>, Status> {
        Ok(Response::new(Box::pin(self.read_objects(request).await?)))
    }

    async fn find_delta(&self, request: Request<v1::FindDeltaRequest>) -> Result<Response<v1::FindDeltaResponse>, Status> {
        let client = self.client(&request).await?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let attempt = v.take("attempt", r.attempt.parse::<AttemptId>());
        if r.old_manifests.is_empty() || r.old_manifests.len() > OLD_MAX {
            v.add("old_manifests", format!("has 1 to {OLD_MAX} entries, not {}", r.old_manifests.len()));
        }
        let old: Vec<Digest> = r
            .old_manifests
            .iter()
            .enumerate()
            .take(OLD_MAX)
            .filter_map(|(n, d)| v.take(&format!("old_manifests[{n}]"), Digest::try_from(d.as_ref())))
            .collect();
        let new = v.take("new_manifest", Digest::try_from(r.new_manifest.as_ref()));
        v.done()?;
        let (actor, wanted) = (format!("clients/{client}"), Wanted { client, attempt: parsed(attempt)?, old, new: parsed(new)? });
        // Asked first: a unit that writes has everybody else's writes behind it.
        let looked = self.app.view(&actor, "find_delta", wanted.clone(), |tx, env, wanted| Box::pin(deltas::find(tx, env, wanted)));
        let mut found = looked.await.map_err(status)?;
        if matches!(found, Found::NotAsked(_)) {
            let asked = self.app.change(&actor, "ask_delta", wanted, |tx, env, wanted| Box::pin(deltas::find_or_ask(tx, env, wanted)));
            found = asked.await.map_err(status)?;
        }
        // The same answer for what is another client's, what belongs to something else, and what is not made yet.
        let Found::Made(old, made) = found else { return Err(Status::not_found("there is no such delta in this attempt")) };
        Ok(Response::new(v1::FindDeltaResponse {
            old_manifest: Bytes::copy_from_slice(old.as_bytes()),
            digest: Bytes::copy_from_slice(made.digest.as_bytes()),
            length: i64::try_from(made.length).unwrap_or(i64::MAX),
        }))
    }

    async fn ping(&self, request: Request<v1::PingRequest>) -> Result<Response<v1::PingResponse>, Status> {
        self.client(&request).await?;
        Ok(Response::new(v1::PingResponse {}))
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let client = self.client(&request).await?;
        let key = key_of(&request.get_ref().csr)?;
        let actor = format!("clients/{client}");
        let peer = peer(&request)?;
        let serial = peer.certificate.map(|c| c.serial.to_string()).unwrap_or_default();
        let input = (Renewal { client, serial, key, expired: peer.expired }, self.app.ca());
        let renewed =
            self.app.change(&actor, "renew_client", input, |tx, env, (renewal, ca)| Box::pin(renew_client(tx, env, ca, renewal))).await;
        let certificates = match renewed {
            Ok(certificates) => certificates,
            Err(error) => return Err(self.no_certificate(&actor, "renewal_refused", error).await),
        };
        self.app.metrics.renewals.inc();
        Ok(Response::new(v1::RenewCertificateResponse { certificates: certificates.into_iter().map(Into::into).collect() }))
    }
}

/// What a client is told, as its stream takes it.
struct Told {
    inbox: mpsc::Receiver<ToAgent>,
    is_over: bool,
}

impl Stream for Told {
    type Item = Result<v1::ConnectResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.inbox.poll_recv(context)) {
            Some(ToAgent::Message(message)) => Some(Ok(v1::ConnectResponse { message: Some(*message) })),
            Some(ToAgent::Close(status)) => {
                self.is_over = true;
                self.inbox.close();
                Some(Err(status))
            }
            None => None,
        })
    }
}

fn parse_hello(client: &ClientId, address: String, hello: v1::Hello) -> Result<sessions::Hello, Status> {
    let mut v = Violations::default();
    v.word("hello.machine_id", &hello.machine_id, 255);
    v.word("hello.boot_id", &hello.boot_id, 255);
    v.text("hello.agent_version", &hello.agent_version, 64);
    if hello.open_attempts.len() > OPEN_MAX {
        v.add("hello.open_attempts", format!("has at most {OPEN_MAX} entries, not {}", hello.open_attempts.len()));
    }
    let facts_digest =
        if hello.facts_digest.is_empty() { None } else { v.take("hello.facts_digest", Digest::try_from(hello.facts_digest.as_ref())) };
    let mut open = BTreeMap::new();
    for (n, attempt) in hello.open_attempts.iter().enumerate().take(OPEN_MAX) {
        let field = format!("hello.open_attempts[{n}]");
        let id = v.take(&field, attempt.attempt.parse());
        let state = v.take(&field, ExecutionState::from_wire(attempt.state)).flatten();
        if let (Some(id), Some(state)) = (id, state) {
            // What is no name of a job says no more than an older agent does.
            let job = job_id(&attempt.job).ok().map(|job| (job, attempt.revision));
            open.insert(id, sessions::Open { state, job, purpose: purpose(&attempt.purpose) });
        }
    }
    let agent_time = hello.agent_time.as_ref().and_then(|t| v.take("hello.agent_time", time(t)));
    v.done()?;
    Ok(sessions::Hello {
        client: client.clone(),
        serial: String::new(),
        machine_id: hello.machine_id,
        boot_id: hello.boot_id,
        session_counter: hello.session_counter,
        agent_version: hello.agent_version,
        facts_digest,
        address,
        open,
        journal_lost: hello.journal_lost,
        capabilities: hello.capabilities.into_iter().filter(|c| c.len() <= 64).take(64).collect(),
        agent_time,
    })
}

/// What an attempt is for, as its agent repeats it; none of what nobody of ours says. Where it says nothing it may be an older agent.
fn purpose(text: &str) -> Option<Purpose> {
    text.parse().ok()
}

impl Services {
    /// Notes where an attempt is, as its agent says, which may say no more than that. An end is not progress: it comes as an outcome.
    fn report(&self, client: &ClientId, attempt: AttemptId, state: ExecutionState, more: Option<v1::AttemptProgress>) {
        if state.is_end() || matches!(state, ExecutionState::Queued | ExecutionState::Offered) {
            return;
        }
        let says_why = more.is_some();
        let wire = more.unwrap_or_default();
        let mut reason: String = wire.wait_reason.chars().filter(|c| c.is_ascii_uppercase() || *c == '_').take(32).collect();
        // The agent only knows that it is to try again.
        if reason == WaitReason::Retry.as_str() && self.app.live.is_lacking(&attempt) {
            reason = ErrorKind::DataLoss.as_str().into();
        }
        if reason == WaitReason::Retry.as_str() && self.app.live.transfers.is_refused(&attempt) {
            reason = WaitReason::TransferSuspended.as_str().into();
        }
        self.app.live.report(sessions::Progress {
            attempt,
            client: client.clone(),
            state,
            item: wire.item,
            bytes_done: wire.bytes_done.min(i64::MAX as u64),
            bytes_total: wire.bytes_total.min(i64::MAX as u64),
            detail: if reason == WaitReason::User.as_str() && state == ExecutionState::Waiting {
                user::waits(wire.user_seconds, wire.deferred, wire.put_off, self.app.world.now())
            } else {
                String::new()
            },
            reason: says_why.then_some(reason),
            step: wire.step.chars().filter(|c| !c.is_control()).take(63).collect(),
        });
    }
}

/// One agent's session.
struct Session {
    services: Services,
    client: ClientId,
    number: u64,
    outbox: mpsc::Sender<ToAgent>,
    cut: Arc<Notify>,
    /// The manager was restored and the agent has not told all that it knows: nothing is offered before. What it said first.
    behind: Mutex<Option<Arc<sessions::Hello>>>,
}

impl Session {
    async fn run(self, mut stream: Streaming<v1::ConnectRequest>, greeted: oneshot::Receiver<()>) {
        let app = self.services.app.clone();
        // What it says may be about what it is told.
        let mut here = tokio::select! {
            _ = greeted => true,
            () = self.outbox.closed() => false,
            () = self.cut.notified() => false,
        };
        // Something of the agent's could not be written because the disk is full: it reports it again when it connects anew.
        let mut owed = false;
        while here {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(v1::ConnectRequest { message: Some(message) })) => {
                        // In a place of its own: a session does nothing but wait nearly all of its life.
                        if let Err(status) = Box::pin(self.handle(message)).await {
                            // Everybody would come back at once, over and over, and be refused again.
                            if status.code() == tonic::Code::ResourceExhausted && app.reserve.is_full().is_some() {
                                owed = true;
                                continue;
                            }
                            let _ = self.outbox.try_send(ToAgent::Close(status));
                            break;
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                },
                () = tokio::time::sleep(OWED), if owed => {
                    if app.reserve.is_full().is_none() {
                        let _ = self.outbox.try_send(ToAgent::Close(Status::unavailable("the disk has room again; connect anew")));
                        break;
                    }
                }
                () = self.outbox.closed() => break,
                () = self.cut.notified() => break,
            }
            here = app.live.is_current(&self.client, self.number);
        }
        self.services.app.metrics.sessions.dec();
        // In a place of its own, as above: all that waits would have the room that its end takes.
        Box::pin(self.ended()).await;
    }

    /// Notes when the client was last seen.
    async fn ended(&self) {
        let app = &self.services.app;
        let now = app.world.now();
        if !app.live.leave(&self.client, self.number, now) {
            return;
        }
        // Not later than it left: what is written later than that, another manager heard, so the client would count as connected.
        let seen = [(self.client.clone(), now)];
        let noted =
            app.change("manager", "session_ended", seen, |tx, _env, seen| Box::pin(async move { Ok(tx.touch_clients(seen).await?) })).await;
        if let Err(error) = noted {
            tracing::debug!(client = %self.client, %error, "when the client was last seen could not be noted");
        }
    }

    /// Takes in one message. An error ends the session: what comes is wrong, or can't be made durable.
    async fn handle(&self, message: FromAgent) -> Result<(), Status> {
        let (app, actor) = (&self.services.app, format!("clients/{}", self.client));
        match message {
            FromAgent::Hello(_) => Err(invalid("hello", "is the first message, and no other is one")),
            FromAgent::Facts(facts) => {
                let mut v = Violations::default();
                let mut digest = |field: &str, bytes: &Bytes| {
                    if bytes.is_empty() { None } else { v.take(field, Digest::try_from(bytes.as_ref())) }
                };
                let (base, digest) = (digest("facts.base", &facts.base), digest("facts.digest", &facts.digest));
                v.done()?;
                let bytes = facts.json.len() as u64;
                let report = inventory::Report { client: self.client.clone(), json: facts.json, base, digest };
                let taken = app.live.facts.add(app, Arc::new(report)).await.map_err(status)?.map_err(status)?;
                app.metrics.facts_reports.inc();
                app.metrics.facts_bytes.inc_by(bytes);
                if taken == inventory::Taken::AllWanted {
                    app.live.send(&self.client, Message::SendFacts(v1::SendFacts {}));
                }
                Ok(())
            }
            FromAgent::Accepted(m) => {
                let attempt = attempt(&m.attempt)?;
                self.services.report(&self.client, attempt, ExecutionState::Downloading, None);
                Ok(())
            }
            FromAgent::Progress(m) => {
                let attempt = attempt(&m.attempt)?;
                let state = ExecutionState::from_wire(m.state).map_err(|e| status(AppError::invalid("progress.state", e)))?;
                if let Some(state) = state {
                    self.services.report(&self.client, attempt, state, Some(m));
                }
                Ok(())
            }
            FromAgent::Outcome(m) => self.outcome(m).await,
            FromAgent::CancelAcknowledged(m) => {
                let id = attempt(&m.attempt)?;
                if !m.started {
                    app.live.drop_report(&self.client, &id);
                }
                let answer = match (m.started, m.nothing_follows) {
                    (false, _) => CancelAnswer::NotStarted,
                    (true, false) => CancelAnswer::Started,
                    (true, true) => CancelAnswer::NothingFollows,
                };
                let input = (self.client.clone(), id.clone(), answer);
                app.change(&actor, "cancel_acknowledged", input, |tx, env, (client, id, answer)| {
                    Box::pin(sessions::cancel_acknowledged(tx, env, client, id, *answer))
                })
                .await
                .map_err(status)?;
                // What had started comes to an end of its own.
                if !m.started {
                    app.live.settle(&self.client, &id);
                }
                Ok(())
            }
            FromAgent::Group(m) => self.group(&actor, m).await,
            FromAgent::Log(m) => self.log(&actor, m).await,
            FromAgent::Answer(m) => self.answer(&actor, m).await,
            FromAgent::Checked(m) => {
                app.metrics.checks.inc();
                self.checked(&actor, m).await
            }
            FromAgent::Choice(m) => self.chosen(&actor, m).await,
            FromAgent::CaughtUp(_) => self.caught_up(&actor).await,
            FromAgent::Unenroll(_) => {
                // No session any more from here on: the commit has others cut off whatever the client has open, and the answer is
                // to come before that. If it can't be committed, the stream ends, and the agent asks again on the next one.
                app.live.leave(&self.client, self.number, app.world.now());
                app.change(&actor, "unenroll", self.client.clone(), |tx, env, id| Box::pin(clients::remove(tx, env, id)))
                    .await
                    .map_err(status)?;
                let _ = self.outbox.try_send(ToAgent::Message(Box::new(Message::Unenrolled(v1::Unenrolled {}))));
                Ok(())
            }
        }
    }

    /// The agent has told all that a restored manager did not know: from now on it gets work.
    async fn caught_up(&self, actor: &str) -> Result<(), Status> {
        let app = &self.services.app;
        let Some(hello) = self.behind.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let known = hello.open.keys().cloned().collect();
        app.change(actor, "caught_up", hello, |tx, env, hello| Box::pin(restored::caught_up(tx, env, hello))).await.map_err(status)?;
        app.live.set_behind(&self.client, false);
        orders::give(app, vec![self.client.clone()], [(self.client.clone(), known)].into()).await.map_err(status)
    }

    /// Keeps a part of a log. One that can't be kept is no reason to end a session, or to keep an outcome waiting.
    async fn log(&self, actor: &str, m: v1::AttemptLog) -> Result<(), Status> {
        let part = logs::part(&self.client, m)?;
        let attempt = part.part.attempt.clone();
        let kept = self.services.app.change(actor, "log", part, |tx, env, part| Box::pin(crate::app::logs::keep(tx, env, part))).await;
        let why = match kept {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        tracing::warn!(client = %self.client, %attempt, "a part of a log is not kept: {why}");
        Ok(())
    }

    async fn outcome(&self, m: v1::AttemptOutcome) -> Result<(), Status> {
        let app = &self.services.app;
        let id = attempt(&m.attempt)?;
        app.live.drop_report(&self.client, &id);
        let report = outcomes::Report {
            client: self.client.clone(),
            attempt: id.clone(),
            outcome: m.outcome.to_vec(),
            signature: m.signature.to_vec(),
            job: job_id(&m.job).ok().map(|job| (job, m.revision)),
            purpose: purpose(&m.purpose),
        };
        let recorded = app.live.outcomes.add(app, report).await.map_err(status)?;
        if recorded.is_ok()
            && let Ok(outcome) = sutler_base::outcome::Outcome::parse(&m.outcome)
        {
            self.services.app.metrics.outcome(outcome.state);
        }
        let refused = recorded.err().unwrap_or_default();
        if !refused.is_empty() {
            tracing::warn!(client = %self.client, attempt = %id, %refused, "an outcome was refused");
        }
        app.live.settle(&self.client, &id);
        app.live.transfers.forget_served(&id);
        // The agent may have been busy with this one: there may be room for the next.
        app.live.wake(crate::app::Wakes { clients: [self.client.clone()].into(), ..Default::default() });
        app.live.send(&self.client, Message::OutcomeRecorded(v1::OutcomeRecorded { attempt: id.to_string(), refused }));
        Ok(())
    }

    /// What an agent says of what a job installed. An agent says of its own machine alone, and of jobs that are there; whatever else it
    /// says changes nothing.
    async fn checked(&self, actor: &str, m: v1::CheckResult) -> Result<(), Status> {
        let Ok(job) = job_id(&m.job) else { return Err(invalid("checked.job", "is jobs/ID")) };
        // What nobody asked changes nothing.
        if !self.services.app.live.was_asked(&self.client, &job) || m.missing.is_empty() {
            return Ok(());
        }
        let words = m.missing.iter().take(limits::JOB_PACKAGES_MAX).map(|what| {
            let what: String = what.chars().filter(|c| !c.is_control()).take(200).collect();
            what
        });
        let input = (self.client.clone(), job, words.collect::<Vec<_>>().join("; "));
        self.services
            .app
            .change(actor, "checked", input, |tx, env, (client, job, what)| Box::pin(keeping::missing(tx, env, client, job, what)))
            .await
            .map_err(status)
    }

    async fn answer(&self, actor: &str, m: v1::AnswerRequest) -> Result<(), Status> {
        let app = &self.services.app;
        let input = (self.client.clone(), m.question, m.answer);
        let answered = app
            .change(actor, "answer", input, |tx, env, (id, question, answer)| Box::pin(questions::answer(tx, env, id, question, answer)))
            .await
            .map_err(status)?;
        // First: whoever waits for the answer looks at what it has become.
        asked::tell(app, vec![self.client.clone()], &BTreeMap::new()).await.map_err(status)?;
        let request_id = m.request_id.chars().take(128).collect();
        app.live.send(&self.client, Message::Answered(v1::AnswerResult { request_id, error: answered.err().unwrap_or_default() }));
        Ok(())
    }

    /// The user of the machine wants something that is offered to them.
    async fn chosen(&self, actor: &str, m: v1::Choice) -> Result<(), Status> {
        let app = &self.services.app;
        let input = (self.client.clone(), m.job);
        let chosen =
            app.change(actor, "choose", input, |tx, env, (id, job)| Box::pin(shelf::choose(tx, env, id, job))).await.map_err(status)?;
        let request_id = m.request_id.chars().take(128).collect();
        app.live.send(&self.client, Message::Chosen(v1::ChoiceResult { request_id, error: chosen.err().unwrap_or_default() }));
        Ok(())
    }

    async fn group(&self, actor: &str, m: v1::GroupRequest) -> Result<(), Status> {
        use v1::group_request::Action;
        let app = &self.services.app;
        let wish = match m.action {
            Some(Action::Join(join)) => groups::Wish::Join(join.group, join.password.chars().take(256).collect()),
            Some(Action::Leave(group)) => groups::Wish::Leave(group),
            Some(Action::List(_)) | None => groups::Wish::List,
        };
        let input = (self.client.clone(), wish);
        let result = app
            .change(actor, "group_request", input, |tx, env, (id, wish)| Box::pin(groups::wish(tx, env, id, wish)))
            .await
            .map_err(status)?;
        let (groups, error) = match result {
            Ok(groups) => (groups, String::new()),
            Err(why) => (vec![], why),
        };
        let request_id = m.request_id.chars().take(128).collect();
        app.live.send(&self.client, Message::Group(v1::GroupResult { request_id, error, groups }));
        Ok(())
    }
}

fn attempt(text: &str) -> Result<AttemptId, Status> {
    text.parse().map_err(|_| invalid("attempt", &format!("{} is no id of an attempt", quoted(text))))
}

fn invalid(field: &str, why: &str) -> Status {
    status(AppError::invalid(field, why))
}
