//! One manager, and everybody who may knock at its ports.

use bytes::{Buf as _, BufMut as _, Bytes};
use std::time::Duration;
use sutler::config::Config;
use sutler_agent::link::{self, Connection};
use sutler_base::{ClientId, OperatorName, state::Role, token::TokenString};
use sutler_certs::{
    Credential, PrivateKey,
    ca::Authority,
    tls::{self, Clock, ServerTrust},
};
use sutler_core::model::{Certificate, CertificateState, Subject};
use sutler_proto::{access::Method, convert::Word as _, v1};
use sutler_tests::fleet::{Database, Manager, Operator};
use tokio::runtime::Runtime;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

/// One manager with its first operator.
pub(crate) struct Bed {
    pub(crate) runtime: Runtime,
    pub(crate) manager: Manager,
    pub(crate) admin: Operator,
}

/// Somebody who calls, on a connection that is kept.
pub(crate) struct Caller {
    connection: Connection,
}

impl Bed {
    pub(crate) fn new(database: Database) -> Bed {
        Bed::tuned(database, |_| {})
    }

    /// The same with a configuration that was changed.
    pub(crate) fn tuned(database: Database, tune: impl FnOnce(&mut Config)) -> Bed {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Nobody here goes through it: callers connect to the ports themselves.
        let manager = Manager::tuned(database, None, tune);
        let admin = Operator::new(&manager, runtime.handle());
        Bed { runtime, manager, admin }
    }

    fn trust(&self) -> ServerTrust {
        ServerTrust::from_root(self.manager.app().ca.load().certificate(Authority::Root)).unwrap()
    }

    /// At this address with this certificate.
    pub(crate) fn open(&self, address: &str, credential: Option<&Credential>) -> Option<Caller> {
        let tls = tls::agent_client(credential, &self.trust(), Clock::system()).unwrap();
        let connection = self.runtime.block_on(link::connect(address, tls)).ok()?;
        Some(Caller { connection })
    }

    /// On the operators' port with this certificate; none if there is no handshake.
    pub(crate) fn at_operators(&self, manager: &Manager, credential: Option<&Credential>) -> Option<Caller> {
        self.open(&manager.operators(), credential)
    }

    /// On the agents' port.
    pub(crate) fn at_agents(&self, credential: Option<&Credential>) -> Option<Caller> {
        self.open(&self.manager.agents(), credential)
    }

    /// A new operator: its certificate.
    pub(crate) fn operator(&mut self, name: &str, roles: &[(Role, &[&str])]) -> Credential {
        let key = PrivateKey::generate().unwrap();
        let grant = |(role, groups): &(Role, &[&str])| v1::RoleGrant {
            role: role.to_wire(),
            groups: groups.iter().map(|g| format!("groups/{g}")).collect(),
            scoped: false,
        };
        let request = v1::CreateOperatorRequest {
            operator_id: name.into(),
            roles: roles.iter().map(grant).collect(),
            csr: key.csr().unwrap().into(),
            request_id: String::new(),
        };
        let made = self.admin.operators(&self.manager, |mut c| async move { c.create_operator(request).await }).unwrap();
        Credential { chain: made.certificates.into_iter().map(|der| der.to_vec().into()).collect(), key }
    }

    /// A new client: its id and its certificate.
    pub(crate) fn client(&mut self) -> (ClientId, Credential) {
        self.enrolled(v1::CreateEnrollmentTokensRequest::default())
    }

    /// A machine in place of that of a client: its certificate.
    pub(crate) fn replacement(&mut self, client: &ClientId) -> Credential {
        self.enrolled(v1::CreateEnrollmentTokensRequest { replaces: format!("clients/{client}"), ..Default::default() }).1
    }

    /// A new token.
    pub(crate) fn token(&mut self, token: v1::CreateEnrollmentTokensRequest) -> TokenString {
        let tokens = self.admin.tokens(&self.manager, |mut c| async move { c.create_enrollment_tokens(token).await }).unwrap();
        TokenString::parse(&tokens.tokens[0].secret).unwrap()
    }

    fn enrolled(&mut self, token: v1::CreateEnrollmentTokensRequest) -> (ClientId, Credential) {
        let key = PrivateKey::generate().unwrap();
        let token = self.token(token);
        let enrolled = self.enroll(&token, &key).unwrap();
        let chain = enrolled.certificates.into_iter().map(|der| der.to_vec().into()).collect();
        (enrolled.client_id.parse().unwrap(), Credential { chain, key })
    }

    /// What a machine hears that enrols with this token and key.
    pub(crate) fn enroll(&self, token: &TokenString, key: &PrivateKey) -> Result<v1::EnrollResponse, Status> {
        let request = v1::EnrollRequest {
            token_id: token.id.to_string(),
            secret: Bytes::copy_from_slice(&token.secret),
            csr: key.csr().unwrap().into(),
            hostname: "machine".into(),
            ..Default::default()
        };
        let connection = self.at_agents(None).unwrap().connection;
        let origin = connection.origin();
        let mut service = v1::enrollment_service_client::EnrollmentServiceClient::with_origin(connection, origin);
        Ok(self.runtime.block_on(service.enroll(request))?.into_inner())
    }

    /// A certificate of `subject` that ended an hour ago, and that the manager has issued.
    pub(crate) fn ended(&self, subject: Subject) -> Credential {
        let app = self.manager.app();
        let key = PrivateKey::generate().unwrap();
        let now = app.world.now() - Duration::from_secs(7200);
        let validity = Duration::from_secs(3600);
        let issued = match &subject {
            Subject::Client(id) => app.ca.load().issue_agent(id, key.public_key(), now, validity),
            Subject::Operator(name) => app.ca.load().issue_operator(name, key.public_key(), now, validity),
        }
        .unwrap();
        let row = Certificate {
            serial: issued.serial.to_string(),
            subject,
            key: key.public_key().sha256(),
            public_key: key.public_key().spki().to_vec(),
            issued: now,
            not_after: issued.not_after,
            state: CertificateState::Issued,
        };
        let app = app.clone();
        self.runtime
            .block_on(async move {
                app.change("manager", "ended", row, |tx, _env, row| Box::pin(async move { Ok(tx.insert_certificate(row).await?) })).await
            })
            .unwrap();
        Credential { chain: issued.chain, key }
    }

    /// What a call of this method with this message comes to.
    pub(crate) fn call(&self, caller: &Caller, path: &str, message: Bytes) -> Result<Bytes, Status> {
        self.runtime.block_on(caller.call(path, message))
    }

    /// The code of the answer to a call of this method with an empty message.
    pub(crate) fn code(&self, caller: &Caller, method: &Method) -> Code {
        self.call(caller, &method.path, Bytes::new()).err().map_or(Code::Ok, |status| status.code())
    }
}

/// An operator's name.
pub(crate) fn name(text: &str) -> OperatorName {
    text.parse().unwrap()
}

impl Caller {
    /// What an agent calls.
    pub(crate) fn agent(&self) -> v1::agent_service_client::AgentServiceClient<Connection> {
        v1::agent_service_client::AgentServiceClient::with_origin(self.connection.clone(), self.connection.origin())
    }

    /// The first message of the answer; what is a stream is left after that.
    pub(crate) async fn call(&self, path: &str, message: Bytes) -> Result<Bytes, Status> {
        let mut stream = self.stream(path, message).await?;
        Ok(stream.message().await?.unwrap_or_default())
    }

    /// The answer as a stream: on the wire every method is one.
    pub(crate) async fn stream(&self, path: &str, message: Bytes) -> Result<tonic::Streaming<Bytes>, Status> {
        let mut grpc = tonic::client::Grpc::with_origin(self.connection.clone(), self.connection.origin());
        grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
        let messages = Request::new(tokio_stream::once(message));
        let answer = grpc.streaming(messages, path.parse().unwrap(), Raw);
        // Whatever answers is quick; what waits for more than it was sent has let the call in.
        match tokio::time::timeout(Duration::from_secs(60), answer).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => panic!("no answer from {path}"),
        }
    }
}

/// Messages as bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
