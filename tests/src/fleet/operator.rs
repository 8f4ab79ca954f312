//! An operator who calls the manager's services with the certificate of a profile.

use super::Manager;
use std::{future::Future, sync::Arc};
use sutler::package::{SignedPackage, bundle};
use sutler_agent::link::{self, Connection};
use sutler_certs::tls::{self, Clock, ServerTrust};
use sutler_content::Encoding;
use sutler_proto::v1::{self, push_package_request::Message};
use tokio::runtime::Handle;
use tonic::{Code, Response, Status};

/// A call that the manager refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The status.
    pub code: Code,
    /// The sentence.
    pub message: String,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Refused {
        Refused { code: status.code(), message: status.message().to_owned() }
    }
}

/// An operator with one connection, which is made again after the manager was.
pub struct Operator {
    runtime: Handle,
    tls: Arc<rustls::ClientConfig>,
    connection: Option<Connection>,
}

macro_rules! services {
    ($($name:ident: $module:ident :: $client:ident,)+) => {
        $(
            /// A call of this service.
            pub fn $name<T, F: Future<Output = Result<Response<T>, Status>>>(
                &mut self,
                manager: &Manager,
                call: impl FnOnce(v1::$module::$client<Connection>) -> F,
            ) -> Result<T, Refused> {
                let connection = self.connection(manager);
                let client = v1::$module::$client::with_origin(connection.clone(), connection.origin());
                Ok(self.runtime.block_on(call(client))?.into_inner())
            }
        )+
    };
}

impl Operator {
    /// The manager's first operator.
    ///
    /// # Panics
    ///
    /// When the profile is of no use.
    pub fn new(manager: &Manager, runtime: &Handle) -> Operator {
        let profile = manager.profile();
        let trust = ServerTrust::from_root(&profile.root).expect("it is a root");
        let tls = tls::operator_client(&profile.credential().expect("its key is not encrypted"), &trust, Clock::system())
            .expect("it can be used");
        Operator { runtime: runtime.clone(), tls, connection: None }
    }

    /// Forgets the connection: the manager is about to end.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    fn connection(&mut self, manager: &Manager) -> Connection {
        let (runtime, tls) = (&self.runtime, &self.tls);
        let connect =
            || runtime.block_on(link::connect(&manager.operators(), tls.clone())).unwrap_or_else(|e| panic!("no connection: {e}"));
        self.connection.get_or_insert_with(connect).clone()
    }

    services! {
        clients: client_service_client::ClientServiceClient,
        groups: group_service_client::GroupServiceClient,
        policies: policy_service_client::PolicyServiceClient,
        questions: question_service_client::QuestionServiceClient,
        windows: window_service_client::WindowServiceClient,
        brakes: brake_service_client::BrakeServiceClient,
        packages: package_service_client::PackageServiceClient,
        jobs: job_service_client::JobServiceClient,
        plans: plan_service_client::PlanServiceClient,
        approvals: approval_service_client::ApprovalServiceClient,
        tokens: enrollment_token_service_client::EnrollmentTokenServiceClient,
        software: software_service_client::SoftwareServiceClient,
        operators: operator_service_client::OperatorServiceClient,
        configuration: configuration_service_client::ConfigurationServiceClient,
        audit: audit_service_client::AuditServiceClient,
        events: event_service_client::EventServiceClient,
    }

    /// Pushes a package with all its content.
    pub fn push(&mut self, manager: &Manager, package: &SignedPackage) -> Result<v1::PushPackageResponse, Refused> {
        let messages = push(package);
        self.packages(manager, |mut packages| async move { packages.push_package(tokio_stream::iter(messages)).await })
    }
}

/// What a push of a package with all its content says.
///
/// # Panics
///
/// When the package's files are not there.
pub fn push(package: &SignedPackage) -> Vec<v1::PushPackageRequest> {
    let mut messages = vec![Message::Envelope(package.envelope_bytes.clone().into())];
    for object in bundle::objects(package, None) {
        let object = object.expect("the package's files are there");
        messages.extend(object.parts().map(|part| {
            Message::Content(v1::Content {
                digest: object.digest.to_string(),
                encoding: match object.encoding {
                    Encoding::Identity => v1::Encoding::Identity,
                    Encoding::Zstd => v1::Encoding::Zstd,
                }
                .into(),
                data: part.data,
                offset: part.offset as i64,
                more: part.more,
            })
        }));
    }
    messages.into_iter().map(|m| v1::PushPackageRequest { message: Some(m) }).collect()
}
