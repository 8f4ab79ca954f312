//! `EnrollmentService`: the only one for callers without a certificate.

use super::{Services, parsed, peer, status};
use crate::{
    app::{
        AppError, Violations,
        enrolment::{Application, ApplicationResult, enroll},
        trust,
    },
    telemetry::Enrolled as Counted,
};
use sutler_base::{Digest, quoted, state::ClientState};
use sutler_certs::{ca::Authority, public_key_of_csr};
use sutler_proto::{convert::Word, v1};
use tonic::{Request, Response, Status, async_trait};

/// The one answer to every token that is not good: it tells nothing.
fn refused() -> Status {
    Status::unauthenticated("the enrolment token is not valid; ask an administrator for a new one")
}

#[async_trait]
impl v1::enrollment_service_server::EnrollmentService for Services {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let address = peer(&request)?.address.ip();
        let request = request.into_inner();
        let mut violations = Violations::default();
        violations.text("hostname", &request.hostname, 255);
        violations.word("machine_id", &request.machine_id, 255);
        violations.text("agent_version", &request.agent_version, 64);
        let key = match public_key_of_csr(&request.csr) {
            Ok(key) => Some(key),
            Err(e) => {
                violations.add("csr", e.to_string());
                None
            }
        };
        violations.done()?;
        let pin = Digest::try_from(request.trust_pin.as_ref()).ok();
        let key = parsed(key)?;
        // A token id that is none gets the same answer as one that does not exist.
        let Ok(token) = request.token_id.parse() else {
            tracing::info!(token = %quoted(&request.token_id), "a malformed token id");
            return Err(refused());
        };
        let application = Application {
            token,
            secret: request.secret.to_vec(),
            key,
            hostname: request.hostname,
            machine_id: request.machine_id,
            agent_version: request.agent_version,
            address,
        };
        let actor = format!("tokens/{}", application.token);
        let ca = self.app.ca();
        let result = self
            .app
            .change(&actor, "enroll", (application, ca), |tx, env, (application, ca)| Box::pin(enroll(tx, env, ca, application)))
            .await;
        let result = match result {
            Ok(result) => result,
            Err(error) => return Err(self.no_certificate(&actor, "enroll_refused", error).await),
        };
        let ApplicationResult::Enrolled(enrolled) = result else {
            self.app.metrics.enrolled(Counted::Refused);
            return Err(refused());
        };
        let trust_document =
            self.app.view(&actor, "pinned_trust", pin, |tx, _env, pin| Box::pin(trust::pinned(tx, pin.as_ref()))).await.map_err(status)?;
        self.app.metrics.enrolled(if enrolled.client.state == ClientState::Active { Counted::Active } else { Counted::Pending });
        Ok(Response::new(v1::EnrollResponse {
            client_id: enrolled.client.id.to_string(),
            state: enrolled.client.state.to_wire(),
            certificates: enrolled.certificates.into_iter().map(Into::into).collect(),
            root_certificate: self.app.ca().certificate(Authority::Root).to_vec().into(),
            addresses: self.app.settings.addresses.clone(),
            trust_document: trust_document.into(),
            trust_domain: self.app.settings.trust_domain.clone(),
        }))
    }
}

/// A key that was sent for a certificate, or what is wrong with it.
pub(super) fn key_of(csr: &[u8]) -> Result<sutler_certs::PublicKey, Status> {
    public_key_of_csr(csr).map_err(|e| status(AppError::invalid("csr", e)))
}
