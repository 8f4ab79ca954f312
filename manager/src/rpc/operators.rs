//! `OperatorService`: who the caller is, and its next certificate.

use super::{Services, enrollment::key_of, peer, status};
use crate::app::enrolment::renew_operator;
use jiff::Timestamp;
use sutler_proto::{convert::wire_time, v1};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl v1::operator_service_server::OperatorService for Services {
    async fn get_self(&self, request: Request<v1::GetSelfRequest>) -> Result<Response<v1::GetSelfResponse>, Status> {
        let operator = self.operator(&request).await?;
        let not_after: Option<Timestamp> = peer(&request)?.certificate.map(|c| c.not_after);
        Ok(Response::new(v1::GetSelfResponse {
            name: format!("operators/{operator}"),
            certificate_expire_time: not_after.map(wire_time),
            trust_domain: self.app.settings.trust_domain.clone(),
            manager_version: env!("CARGO_PKG_VERSION").into(),
        }))
    }

    async fn renew_operator_certificate(
        &self,
        request: Request<v1::RenewOperatorCertificateRequest>,
    ) -> Result<Response<v1::RenewOperatorCertificateResponse>, Status> {
        let operator = self.operator(&request).await?;
        let key = key_of(&request.get_ref().csr)?;
        let actor = format!("operators/{operator}");
        let input = (operator, key, self.app.ca.clone());
        let certificates = self
            .app
            .change(&actor, "renew_operator", input, |tx, env, (operator, key, ca)| Box::pin(renew_operator(tx, env, ca, operator, key)))
            .await
            .map_err(status)?;
        self.app.metrics.renewals.inc();
        let certificates = certificates.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::RenewOperatorCertificateResponse { certificates }))
    }
}
