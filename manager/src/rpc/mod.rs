//! The services: who calls and what they may; wire → types, with all violations at once; one call into `app`; types → wire.
//! No rule is decided here.

pub mod agent;
mod approvals;
mod audit;
mod brakes;
mod clients;
mod configuration;
mod enrollment;
pub(crate) mod events;
mod groups;
mod guard;
mod jobs;
mod logs;
mod objects;
mod operators;
mod packages;
mod planned;
mod policies;
mod questions;
mod reports;
mod shown;
mod software;
mod status;
mod terms;
mod tokens;
mod transfers;
mod windows;

pub use status::status;
pub(crate) use terms::announced;

use crate::{
    app::{
        App, AppError, Caller, Standing, Violations, Who,
        enrolment::{self, CLIENT_REMOVED, UNKNOWN_CERTIFICATE},
        restored::{Shown, adopt_certificate},
    },
    net::{AgentsPort, OperatorsPort, Peer, Routes},
};
use prost::Message;
use std::{net::SocketAddr, sync::Arc};
use sutler_base::{ClientId, Digest, OperatorName, limits};
use sutler_certs::{Identity, PeerCertificate};
use sutler_core::{model::Subject, rights::Reach};
use sutler_proto::v1;
use sutler_store::Page;
use tonic::{Request, Status};

/// What every service has.
#[derive(Clone)]
pub struct Services {
    /// The manager.
    pub app: Arc<App>,
}

/// The largest messages by caller (bytes).
#[derive(Debug, Clone, Copy)]
pub struct MessageLimits {
    /// A newcomer's.
    pub enroll: usize,
    /// An agent's.
    pub agent: usize,
    /// An operator's.
    pub operator: usize,
}

impl Services {
    /// What is reached on the agents' port.
    pub fn agents_port(&self, limits: MessageLimits) -> AgentsPort {
        let nobody = v1::enrollment_service_server::EnrollmentServiceServer::new(self.clone()).max_decoding_message_size(limits.enroll);
        let agent = v1::agent_service_server::AgentServiceServer::new(self.clone()).max_decoding_message_size(limits.agent);
        // Of these the port lets through what the API's description gives to each caller.
        AgentsPort::new(Routes::new(nobody), Routes::new(agent.clone()), Routes::new(agent))
    }

    /// What is reached on the operators' port; reflection and health are here only.
    pub fn operators_port(&self, limits: MessageLimits) -> Result<OperatorsPort, Box<dyn std::error::Error + Send + Sync>> {
        let max = limits.operator;
        let (_, health) = tonic_health::server::health_reporter();
        let v1_reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sutler_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        // grpcurl 1.8 speaks only this one.
        let v1alpha_reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sutler_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1alpha()?;
        let routes = Routes::new(v1::client_service_server::ClientServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::group_service_server::GroupServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::policy_service_server::PolicyServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::question_service_server::QuestionServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::window_service_server::WindowServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::package_service_server::PackageServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::job_service_server::JobServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(
                v1::enrollment_token_service_server::EnrollmentTokenServiceServer::new(self.clone()).max_decoding_message_size(max),
            )
            .add_service(v1::brake_service_server::BrakeServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::transfer_service_server::TransferServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::software_service_server::SoftwareServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::operator_service_server::OperatorServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::configuration_service_server::ConfigurationServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::audit_service_server::AuditServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::event_service_server::EventServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::plan_service_server::PlanServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::approval_service_server::ApprovalServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(v1::report_service_server::ReportServiceServer::new(self.clone()).max_decoding_message_size(max))
            .add_service(health)
            .add_service(v1_reflection)
            .add_service(v1alpha_reflection);
        let expired = Routes::new(v1::operator_service_server::OperatorServiceServer::new(self.clone()).max_decoding_message_size(max));
        let guards = guard::Guards(self.clone());
        Ok(OperatorsPort::new(routes.behind(&guards), expired.behind(&guards)))
    }

    /// The client that calls, if its certificate is still accepted.
    async fn client<T>(&self, request: &Request<T>) -> Result<ClientId, Status> {
        let (id, certificate, address) = agent(request)?;
        self.accept(Subject::Client(id.clone()), &certificate, address).await.map_err(status)?;
        Ok(id)
    }

    /// The client that opens a stream, and the serial number of its certificate. With one that was superseded there will be no
    /// session, but what it says of its machine has to be noted.
    async fn client_of_stream<T>(&self, request: &Request<T>) -> Result<(ClientId, String), Status> {
        let (id, certificate, address) = agent(request)?;
        let serial = certificate.serial.to_string();
        match self.accept(Subject::Client(id.clone()), &certificate, address).await {
            Ok(()) | Err(AppError::Unauthenticated { reason: enrolment::SUPERSEDED, .. }) => Ok((id, serial)),
            Err(error) => Err(status(error)),
        }
    }

    /// The operator that calls, whom the [`guard`] let in.
    fn operator<T>(&self, request: &Request<T>) -> Result<Operator, Status> {
        request.extensions().get::<Operator>().cloned().ok_or_else(|| status::bug("a method that nobody guards".into()))
    }

    /// What the database says of a certificate.
    async fn known_certificate(&self, key: &(Subject, String)) -> crate::app::Result<()> {
        if let (Subject::Client(id), serial) = key {
            return self.app.live.certificates.add(&self.app, (id.clone(), serial.clone())).await?;
        }
        let actor = actor_of(&key.0);
        let check = self.app.view(&actor, "check_certificate", key.clone(), |tx, _env, (subject, serial)| {
            Box::pin(enrolment::check_certificate(tx, subject, serial))
        });
        check.await
    }

    /// Why there is no other certificate; that somebody asked for too many stands in the audit log.
    async fn no_certificate(&self, actor: &str, refusal: &'static str, error: AppError) -> Status {
        if let AppError::Exhausted { message, .. } = &error {
            self.app.metrics.limit("renewals");
            self.app.refused(actor, refusal, actor.to_owned(), message.clone()).await;
        }
        status(error)
    }

    /// Asks the database whether this certificate is still accepted, on every call.
    async fn accept(&self, subject: Subject, certificate: &PeerCertificate, address: SocketAddr) -> crate::app::Result<()> {
        let actor = actor_of(&subject);
        let key = (subject, certificate.serial.to_string());
        let mut checked = self.known_certificate(&key).await;
        if let Err(AppError::Unauthenticated { reason: UNKNOWN_CERTIFICATE | CLIENT_REMOVED, .. }) = &checked
            && self.app.settings.restored.is_some_and(|r| r.may_have_issued(certificate.not_before))
        {
            let shown = Shown {
                subject: key.0.clone(),
                serial: key.1.clone(),
                key: certificate.spki_sha256,
                public_key: certificate.public_key.spki().to_vec(),
                not_before: certificate.not_before,
                not_after: certificate.not_after,
                address: address.ip().to_string(),
            };
            let adopted = self
                .app
                .change("manager", "adopt_certificate", shown, |tx, env, shown| Box::pin(adopt_certificate(tx, env, shown)))
                .await?;
            if adopted {
                checked = self.known_certificate(&key).await;
            }
        }
        match checked {
            Err(AppError::State { kind: "FIRST_USE", .. }) => {
                self.app
                    .change("manager", "first_use", key, |tx, env, (subject, serial)| {
                        Box::pin(enrolment::first_use(tx, env, subject, serial))
                    })
                    .await
            }
            Err(AppError::Unauthenticated { reason, message }) => {
                let detail = format!("the certificate {} is not accepted: {reason}", key.1);
                self.app.refused(&actor, "certificate_refused", actor.clone(), detail).await;
                Err(AppError::Unauthenticated { reason, message })
            }
            other => other,
        }
    }
}

/// As what a certificate's subject stands in the audit log.
fn actor_of(subject: &Subject) -> String {
    match subject {
        Subject::Client(id) => format!("clients/{id}"),
        Subject::Operator(name) => format!("operators/{name}"),
    }
}

/// The agent at the other end, its certificate, and from where it calls.
fn agent<T>(request: &Request<T>) -> Result<(ClientId, Arc<PeerCertificate>, SocketAddr), Status> {
    let peer = peer(request)?;
    match (peer.identity, peer.certificate) {
        (Some(Identity::Agent(id)), Some(certificate)) => Ok((id, certificate, peer.address)),
        _ => Err(Status::unauthenticated("an agent's certificate is needed")),
    }
}

/// The operator that calls, and how far it reaches with the method that it calls.
#[derive(Debug, Clone)]
struct Operator {
    name: OperatorName,
    reach: Reach,
    standing: Standing,
}

impl From<&Operator> for Who {
    fn from(operator: &Operator) -> Who {
        Who { actor: format!("operators/{}", operator.name), reach: operator.reach.clone(), standing: Some(operator.standing.clone()) }
    }
}

/// Who is at the other end.
fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    request.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("a call without a peer"))
}

/// Who asks for a change, and the digest of what is asked, by which a repeated `request_id` is told from a reused one.
fn caller<M: Message>(operator: &Operator, request_id: &str, method: &str, message: &M) -> Result<(Caller, Digest), Status> {
    let mut violations = Violations::default();
    violations.text("request_id", request_id, 128);
    violations.done()?;
    let mut body = method.as_bytes().to_vec();
    body.push(0);
    body.extend(message.encode_to_vec());
    Ok((Caller { who: operator.into(), request_id: request_id.to_owned(), watched: None }, Digest::of(&body)))
}

/// The page that is asked for. The token is the key of the last row before it; it is opaque to callers, and checked like any input.
fn page(violations: &mut Violations, size: i32, token: &str) -> Page {
    if size < 0 {
        violations.add("page_size", format!("is 0 (for {}) to {}, not {size}", limits::PAGE_DEFAULT, limits::PAGE_MAX));
    }
    if token.len() > 256 || !token.bytes().all(|b| b.is_ascii_graphic()) {
        violations.add("page_token", status::NOT_A_TOKEN);
    }
    let limit = match u32::try_from(size) {
        Ok(0) | Err(_) => limits::PAGE_DEFAULT,
        Ok(size) => size.min(limits::PAGE_MAX),
    };
    Page { after: (!token.is_empty()).then(|| token.to_owned()), limit }
}

/// What was parsed; every value that was not is among the violations, which were answered before.
fn parsed<T>(value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| status::bug("a field that is neither there nor refused".into()))
}
